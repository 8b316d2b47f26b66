//! VirtualService: how requests to a host are routed. Rules: Istio's `pkg/config/validation/virtualservice.go`.

mod answer;
mod connection;
mod cors;
mod headers;
mod matching;
mod resilience;
mod rewrite;
mod route;
mod session;

use schemars::JsonSchema;
use serde::Deserialize;

pub use self::{
    answer::*, connection::*, cors::*, headers::*, matching::*, resilience::*, rewrite::*, route::*, session::*,
};
use super::names::{Export, check_export_to, is_fqdn, is_ip, is_name, read_name, warn_of_no_service};
use crate::{document::Checker, hosts::HostPattern, kinds::Resource};

/// The gateway that stands for all clients inside the mesh.
pub(crate) const MESH_GATEWAY: &str = "mesh";

/// How requests to some hosts are routed: the first rule that matches decides.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct VirtualService {
    /// Which hosts it is for. A name without a dot is a service of the document's namespace.
    pub hosts: Vec<String>,
    /// Where it holds: gateways, or `mesh` for clients inside the mesh, which is the default.
    pub gateways: Vec<String>,
    pub http: Vec<HttpRoute>,
    pub tls: Vec<TlsRoute>,
    pub tcp: Vec<TcpRoute>,
    /// The namespaces that see it: `.` for its own, `*` for all, which is the default.
    pub export_to: Vec<String>,
}

impl VirtualService {
    /// Whether it holds rules for others to delegate to, and no hosts of its own.
    pub(crate) fn is_delegate(&self) -> bool {
        self.hosts.is_empty()
    }

    /// Whether it holds for clients inside the mesh.
    pub(crate) fn is_for_mesh(&self) -> bool {
        self.gateways.is_empty() || self.gateways.iter().any(|gateway| gateway == MESH_GATEWAY)
    }
}

impl Resource for VirtualService {
    fn check(&self, checker: &mut Checker<'_>) {
        if self.is_delegate() {
            self.check_delegate(checker);
        } else {
            self.check_hosts(checker);
        }
        self.check_gateways(checker);
        if self.http.is_empty() && self.tls.is_empty() && self.tcp.is_empty() {
            checker.error("http, tcp or tls must be given");
        }
        checker.each("http", &self.http, |checker, rule| rule.check(self, checker));
        checker.each("tls", &self.tls, |checker, rule| rule.check(self, checker));
        checker.each("tcp", &self.tcp, |checker, rule| rule.check(checker));
        check_export_to(&self.export_to, Export::Namespaces, checker);
        let names = self.gateways.iter().any(|gateway| gateway != MESH_GATEWAY);
        checker.pending("gateways", names);
    }
}

impl VirtualService {
    fn check_delegate(&self, checker: &mut Checker<'_>) {
        if !self.gateways.is_empty() {
            checker.error_in("gateways", "must be empty in a VirtualService without hosts, which others delegate to");
        }
        for (key, given) in [("tls", !self.tls.is_empty()), ("tcp", !self.tcp.is_empty())] {
            if given {
                checker.error_in(key, "a VirtualService without hosts, which others delegate to, has only http");
            }
        }
        checker.each("http", &self.http, |checker, rule| {
            if rule.delegate.is_some() {
                checker.error_in("delegate", "a rule that is delegated to must not delegate further");
            }
        });
    }

    /// No two hosts may overlap: which of them holds would depend on their order.
    fn check_hosts(&self, checker: &mut Checker<'_>) {
        let mut seen: Vec<HostPattern> = Vec::new();
        let (namespace, for_mesh) = (checker.namespace(), self.is_for_mesh());
        checker.each("hosts", &self.hosts, |checker, text| {
            let host = match read_name(text, &namespace) {
                Ok(host) => host,
                // At a gateway clients may ask for an address.
                Err(_) if is_ip(text) => return,
                Err(what) => return checker.error(what),
            };
            if host.is_everything() && for_mesh {
                checker.error("* is not allowed on the gateway mesh: name the services");
            }
            if let Some(other) = seen.iter().find(|other| other.overlaps(&host)) {
                checker.error(format!("{host} overlaps with {other} of the same document"));
            }
            if for_mesh {
                warn_of_no_service(&host, checker);
            }
            seen.push(host);
        });
    }

    fn check_gateways(&self, checker: &mut Checker<'_>) {
        checker.each("gateways", &self.gateways, |checker, gateway| check_gateway_name(gateway, checker));
    }
}

/// `gateway`, `namespace/gateway` or `mesh`. Without a namespace it may also be an old full name.
fn check_gateway_name(gateway: &str, checker: &mut Checker<'_>) {
    let is_right = match gateway.split_once('/') {
        Some((namespace, name)) => is_name(namespace) && is_name(name),
        None => is_fqdn(gateway),
    };
    if !is_right {
        checker.error(format!("{gateway:?} is not NAME, NAMESPACE/NAME or mesh"));
    } else if gateway.contains('.') {
        checker.warn("is an old form: write NAMESPACE/NAME");
    }
}
