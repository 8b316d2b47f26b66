//! Addresses outside of the mesh.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use weft_wire::id::WorkloadName;

/// Where clouds tell a host its own secrets, besides link-local addresses: Oracle's, Alibaba's, Azure's, Amazon's and
/// Google's.
const METADATA: [IpAddr; 5] = [
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
];

/// Whether callers may be led to an address that no document gives, but a name server or the caller itself: never to
/// this host or its links, where its own ports and the metadata of clouds are, nor to many at once.
pub fn may_be_outside(address: IpAddr) -> bool {
    let address = address.to_canonical();
    let is_near = match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast() || v4.octets()[0] == 0,
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !(is_near
        || METADATA.contains(&address)
        || address.is_loopback()
        || address.is_unspecified()
        || address.is_multicast())
}

/// An address as a name: `10-0-0-5`, or all 8 groups of IPv6.
pub(crate) fn name_of(address: IpAddr) -> Option<WorkloadName> {
    let name = match address {
        IpAddr::V4(address) => address.to_string().replace('.', "-"),
        IpAddr::V6(address) => address.segments().map(|group| format!("{group:x}")).join("-"),
    };
    name.parse().ok()
}

/// The address that a host is, an IPv6 one with or without brackets; `None` for a name.
pub fn of_host(host: &str) -> Option<IpAddr> {
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    bare.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_host_its_links_and_groups_are_not_outside() {
        for inside in [
            "127.0.0.1",
            "127.9.9.9",
            "0.0.0.0",
            "0.1.2.3",
            "169.254.169.254",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fe80::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "fd00:ec2::254",
            "fd20:ce::254",
            "100.100.100.200",
            "::ffff:168.63.129.16",
        ] {
            assert!(!may_be_outside(inside.parse().unwrap()), "{inside}");
        }
        for outside in ["10.0.0.1", "192.168.1.1", "1.1.1.1", "2001:db8::1", "fd00::1", "::ffff:10.0.0.1"] {
            assert!(may_be_outside(outside.parse().unwrap()), "{outside}");
        }
    }
}
