//! Looks up names outside of the mesh.

use std::{io, net::IpAddr, sync::Arc};

use futures_util::future::BoxFuture;
use weft_policy::address::may_be_outside;

/// Addresses of one name that are used.
const MAX_ADDRESSES: usize = 64;

/// Asks for a name's addresses.
pub type Resolve = Arc<dyn Fn(String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> + Send + Sync>;

/// Asks as this host does for everybody: its hosts file, then its name servers.
pub fn host_resolver() -> Resolve {
    Arc::new(|name| {
        Box::pin(async move {
            // With the dot, no search domain is tried.
            let found = tokio::net::lookup_host((format!("{name}."), 0)).await?;
            Ok(found.map(|address| address.ip()).collect())
        })
    })
}

/// Those that may be outside of the mesh, each once: whoever answers for a name must not lead callers to this host.
///
/// # Errors
/// There is none.
pub fn usable(addresses: &[IpAddr]) -> io::Result<Vec<IpAddr>> {
    let mut usable: Vec<IpAddr> = Vec::new();
    for address in addresses.iter().map(IpAddr::to_canonical).filter(|address| may_be_outside(*address)) {
        if usable.len() < MAX_ADDRESSES && !usable.contains(&address) {
            usable.push(address);
        }
    }
    match usable.is_empty() {
        true => Err(io::Error::other("no address outside of this host")),
        false => Ok(usable),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_never_leads_to_this_host() {
        let own: Vec<IpAddr> = ["127.0.0.1", "::1", "::ffff:127.0.0.1", "169.254.169.254", "fe80::1", "0.0.0.0"]
            .map(|text| text.parse().unwrap())
            .into();
        assert!(usable(&own).is_err());
        let outside: IpAddr = "10.9.0.1".parse().unwrap();
        assert_eq!(usable(&[own[0], outside, outside]).unwrap(), [outside]);
    }
}
