//! Who lives where: five hosts on loopback addresses, and the files that describe them.

use std::{fmt::Write, net::Ipv4Addr};

pub(super) const SEED_PORT: u16 = 15008;
pub(super) const OUTBOUND_PORT: u16 = 15001;
pub(super) const ADMIN_PORT: u16 = 15000;
/// Of the listener on the first host that leads to the productpage through the mesh.
pub(super) const PAGE_PORT: u16 = 9081;
/// Of each bookinfo service, as callers know it.
pub(super) const SERVICE_PORT: u16 = 9080;

/// A host of the demo: one node, and the applications beside it.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) name: &'static str,
    pub(super) address: Ipv4Addr,
    /// Service, and by it the service account `bookinfo-SERVICE`; a host plays versions of one service only.
    pub(super) service: &'static str,
    pub(super) apps: &'static [App],
}

#[derive(Debug)]
pub(super) struct App {
    pub(super) version: &'static str,
    /// Where the application listens; it need not be the service's port.
    pub(super) port: u16,
}

pub(super) const HOSTS: [Host; 5] = [
    Host { name: "host-1", address: Ipv4Addr::new(127, 0, 0, 2), service: "productpage", apps: &[V1] },
    Host { name: "host-2", address: Ipv4Addr::new(127, 0, 0, 3), service: "details", apps: &[V1] },
    Host {
        name: "host-3",
        address: Ipv4Addr::new(127, 0, 0, 4),
        service: "reviews",
        apps: &[V1, App { version: "v2", port: 9082 }],
    },
    Host {
        name: "host-4",
        address: Ipv4Addr::new(127, 0, 0, 5),
        service: "reviews",
        apps: &[App { version: "v3", port: SERVICE_PORT }],
    },
    Host { name: "host-5", address: Ipv4Addr::new(127, 0, 0, 6), service: "ratings", apps: &[V1] },
];
const V1: App = App { version: "v1", port: SERVICE_PORT };

/// The host that creates the mesh, lets the others in and has the productpage.
pub(super) const FIRST: &Host = &HOSTS[0];

/// The documents that the demo applies, by file name.
pub(super) const DOCUMENTS: [(&str, &str); 3] = [
    ("bookinfo.yaml", include_str!("../../../deploy/demo/bookinfo.yaml")),
    ("destination-rules.yaml", include_str!("../../../deploy/demo/destination-rules.yaml")),
    ("virtual-service-reviews.yaml", include_str!("../../../deploy/demo/virtual-service-reviews.yaml")),
];

impl Host {
    /// What this host's applications may be, as `weft token create --allow` takes it.
    pub(super) fn account(&self) -> String {
        format!("default/bookinfo-{}", self.service)
    }

    /// `IP:PORT` of the node's proxy for the applications of this host.
    pub(super) fn outbound(&self) -> String {
        format!("{}:{OUTBOUND_PORT}", self.address)
    }

    /// Every TCP port that the node and the applications listen on.
    pub(super) fn ports(&self) -> Vec<u16> {
        let mut ports = vec![SEED_PORT, OUTBOUND_PORT, ADMIN_PORT];
        ports.extend(self.apps.iter().map(|app| app.port));
        if self.name == FIRST.name {
            ports.push(PAGE_PORT);
        }
        ports
    }

    /// What the node hosts and where it listens, in the format of `node.yaml`.
    pub(super) fn node_yaml(&self) -> String {
        let Self { address, service, .. } = self;
        let mut yaml = String::from("services:\n");
        for App { version, port } in self.apps {
            // Writing to a String does not fail.
            let _ = write!(
                yaml,
                "  - name: {service}\n    namespace: default\n    serviceAccount: bookinfo-{service}\n    \
                 version: {version}\n    address: {address}\n    port: {SERVICE_PORT}\n    targetPort: {port}\n    \
                 protocol: http\n    healthCheck:\n      http: {{path: /health}}\n      interval: 1s\n"
            );
        }
        let _ = write!(yaml, "outbound:\n  as: {}\n", self.account());
        if self.name == FIRST.name {
            let listen = format!("{address}:{PAGE_PORT}");
            let _ = write!(
                yaml,
                "listeners:\n  - {{listen: \"{listen}\", service: productpage.default, port: {SERVICE_PORT}}}\n"
            );
        }
        yaml.push_str("accessLog: text\nlogs: {level: info}\n");
        yaml
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_applications_want_the_same_address_and_port() {
        for host in &HOSTS {
            let mut ports = host.ports();
            let wanted = ports.len();
            ports.sort_unstable();
            ports.dedup();
            assert_eq!(ports.len(), wanted, "{}", host.name);
        }
    }

    #[test]
    fn a_host_with_two_versions_describes_both() {
        let expected = "\
services:
  - name: reviews
    namespace: default
    serviceAccount: bookinfo-reviews
    version: v1
    address: 127.0.0.4
    port: 9080
    targetPort: 9080
    protocol: http
    healthCheck:
      http: {path: /health}
      interval: 1s
  - name: reviews
    namespace: default
    serviceAccount: bookinfo-reviews
    version: v2
    address: 127.0.0.4
    port: 9080
    targetPort: 9082
    protocol: http
    healthCheck:
      http: {path: /health}
      interval: 1s
outbound:
  as: default/bookinfo-reviews
accessLog: text
logs: {level: info}
";
        assert_eq!(HOSTS[2].node_yaml(), expected);
    }

    #[test]
    fn every_host_has_a_configuration_that_a_node_takes() {
        for host in &HOSTS {
            let dir = tempfile::tempdir().unwrap();
            let origin = format!("name: {}\nadvertise: {}\n", host.name, host.address);
            std::fs::write(dir.path().join("node.yaml"), origin).unwrap();
            let file = dir.path().join("services.yaml");
            std::fs::write(&file, host.node_yaml()).unwrap();
            let config = crate::config::Config::load(Some(&file), dir.path()).unwrap();
            assert_eq!(config.services.len(), host.apps.len(), "{}", host.name);
        }
    }

    #[test]
    fn only_the_first_host_has_a_listener_for_the_page() {
        let line = "listeners:\n  - {listen: \"127.0.0.2:9081\", service: productpage.default, port: 9080}\n";
        assert!(FIRST.node_yaml().contains(line));
        assert!(HOSTS[1..].iter().all(|host| !host.node_yaml().contains("listeners")));
    }
}
