//! Sidecar: what workloads see of the mesh. Rules: Istio's `pkg/config/validation/validation.go`.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    ConnectionPoolSettings, Destination, ServerTlsMode, ServerTlsSettings,
    names::{
        PortProtocol, WorkloadSelector, check_host_part, check_namespace_part, check_unix_path, is_fqdn, is_ip,
        is_name, unix_path,
    },
};
use crate::{api::values::PortOrZero, document::Checker, kinds::Resource};

/// What workloads of a namespace may call, and how they are called. One without a selector is for all of its
/// namespace, and in the root namespace for the whole mesh.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Sidecar {
    pub workload_selector: Option<WorkloadSelector>,
    pub ingress: Vec<IngressListener>,
    pub egress: Vec<EgressListener>,
    pub inbound_connection_pool: Option<ConnectionPoolSettings>,
    pub outbound_traffic_policy: Option<OutboundTrafficPolicy>,
}

/// A port on which workloads are called.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IngressListener {
    pub port: SidecarPort,
    #[serde(default)]
    pub bind: String,
    #[serde(default)]
    pub capture_mode: Option<CaptureMode>,
    /// Where the workload listens: `127.0.0.1:PORT`, `0.0.0.0:PORT`, `[::1]:PORT`, `[::]:PORT`, `:PORT` or
    /// `unix://PATH`.
    #[serde(default)]
    pub default_endpoint: String,
    #[serde(default)]
    pub tls: Option<ServerTlsSettings>,
    #[serde(default)]
    pub connection_pool: Option<ConnectionPoolSettings>,
}

/// A port on which workloads call others, or all ports.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EgressListener {
    /// The last one may have none: it is for all other ports.
    #[serde(default)]
    pub port: Option<SidecarPort>,
    #[serde(default)]
    pub bind: String,
    #[serde(default)]
    pub capture_mode: Option<CaptureMode>,
    /// Which hosts can be called, as `NAMESPACE/HOST`: the namespace may be `*`, `.` (its own) or `~` (none), the host
    /// `*` or begin with `*.`.
    pub hosts: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct SidecarPort {
    /// 0 if absent: for a Unix socket.
    pub number: Option<PortOrZero>,
    pub protocol: PortProtocol,
    pub name: String,
    /// Has no meaning here.
    pub target_port: Option<PortOrZero>,
}

impl SidecarPort {
    pub(crate) fn number(&self) -> i64 {
        self.number.map_or(0, PortOrZero::get)
    }
}

/// How connections come to a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum CaptureMode {
    Default,
    Iptables,
    None,
}

/// What becomes of calls to hosts that the mesh does not know.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct OutboundTrafficPolicy {
    /// `REGISTRY_ONLY` if absent.
    pub mode: Option<OutboundTrafficPolicyMode>,
    /// Where such calls are sent, with `ALLOW_ANY`.
    pub egress_proxy: Option<Destination>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum OutboundTrafficPolicyMode {
    RegistryOnly,
    AllowAny,
}

impl Resource for Sidecar {
    fn check(&self, checker: &mut Checker<'_>) {
        checker.given("workloadSelector", &self.workload_selector, |checker, selector| selector.check(checker));
        let given = [
            ("ingress", !self.ingress.is_empty()),
            ("egress", !self.egress.is_empty()),
            ("inboundConnectionPool", self.inbound_connection_pool.is_some()),
            ("outboundTrafficPolicy", self.outbound_traffic_policy.is_some()),
        ];
        if !given.iter().any(|(_, given)| *given) {
            checker.error("needs ingress, egress, inboundConnectionPool or outboundTrafficPolicy");
        }
        let mut ports = BTreeSet::new();
        checker.each("ingress", &self.ingress, |checker, listener| {
            listener.check(checker);
            check_unique_port(listener.port.number(), &mut ports, checker);
        });
        self.check_egress(checker);
        checker.given("inboundConnectionPool", &self.inbound_connection_pool, |checker, pool| pool.check(checker));
        checker.given("outboundTrafficPolicy", &self.outbound_traffic_policy, |checker, policy| policy.check(checker));
        checker.pending("ingress", !self.ingress.is_empty());
        checker.pending("inboundConnectionPool", self.inbound_connection_pool.is_some());
    }
}

fn check_unique_port(number: i64, ports: &mut BTreeSet<i64>, checker: &mut Checker<'_>) {
    if !ports.insert(number) {
        checker.error_in("port", format!("port {number} is given twice"));
    }
}

impl Sidecar {
    fn check_egress(&self, checker: &mut Checker<'_>) {
        let (mut ports, mut sockets) = (BTreeSet::new(), BTreeSet::new());
        let mut left = self.egress.len();
        checker.each("egress", &self.egress, |checker, listener| {
            left -= 1;
            match &listener.port {
                None if left > 0 => checker.error("has no port, which is for all others: only the last may have none"),
                None => {}
                Some(port) => {
                    listener.check_port(port, checker);
                    if port.number() != 0 {
                        check_unique_port(port.number(), &mut ports, checker);
                    } else if !sockets.insert(listener.bind.clone()) {
                        checker.error_in("bind", format!("{} is given twice", listener.bind));
                    }
                }
            }
            listener.check_hosts(checker);
            checker.pending("bind", !listener.bind.is_empty());
        });
    }
}

impl SidecarPort {
    fn check(&self, checker: &mut Checker<'_>) {
        if !self.name.is_empty() && !is_name(&self.name) {
            checker.error_in("name", "must be 1 to 63 letters, digits and '-', and neither start nor end with '-'");
        }
        if self.target_port.is_some_and(|port| port.get() > 0) {
            checker.error_in("targetPort", "has no meaning here: leave it out");
        }
    }
}

fn check_bind_address(bind: &str, checker: &mut Checker<'_>) {
    if !bind.is_empty() && !is_ip(bind) {
        checker.error_in("bind", format!("{bind:?} is not an IP address"));
    }
}

impl IngressListener {
    fn check(&self, checker: &mut Checker<'_>) {
        checker.field("port", |checker| {
            self.port.check(checker);
            if self.port.number() == 0 {
                checker.error_in("number", "must be from 1 to 65535");
            }
        });
        check_bind_address(&self.bind, checker);
        checker.field("defaultEndpoint", |checker| check_default_endpoint(&self.default_endpoint, checker));
        checker.given("tls", &self.tls, |checker, tls| {
            for (key, given) in [
                ("subjectAltNames", !tls.subject_alt_names.is_empty()),
                ("httpsRedirect", tls.https_redirect),
                ("credentialName", !tls.credential_name.is_empty()),
                ("credentialNames", !tls.credential_names.is_empty()),
            ] {
                if given {
                    checker.error_in(key, "is not supported at a sidecar's ingress");
                }
            }
            if matches!(tls.mode, Some(ServerTlsMode::IstioMutual | ServerTlsMode::AutoPassthrough)) {
                checker
                    .error_in("mode", "must be PASSTHROUGH, SIMPLE, MUTUAL or OPTIONAL_MUTUAL at a sidecar's ingress");
            }
            tls.check(checker);
        });
        checker.given("connectionPool", &self.connection_pool, |checker, pool| {
            pool.check(checker);
            if pool.http.is_some() && !self.port.protocol.is_http() {
                checker.warn_in("http", "has no effect: the port's protocol is not HTTP");
            }
        });
    }
}

fn check_default_endpoint(endpoint: &str, checker: &mut Checker<'_>) {
    if endpoint.is_empty() {
        return;
    }
    if let Some(path) = unix_path(endpoint) {
        return check_unix_path(path, checker);
    }
    let is_right = endpoint.rsplit_once(':').is_some_and(|(host, port)| {
        ["", "127.0.0.1", "0.0.0.0", "[::1]", "[::]"].contains(&host) && port.parse::<u16>().is_ok_and(|port| port > 0)
    });
    if !is_right {
        checker.error(format!(
            "{endpoint:?} must be 127.0.0.1:PORT, 0.0.0.0:PORT, [::1]:PORT, [::]:PORT, :PORT or unix://PATH"
        ));
    }
}

impl EgressListener {
    fn check_port(&self, port: &SidecarPort, checker: &mut Checker<'_>) {
        checker.field("port", |checker| port.check(checker));
        if port.number() != 0 {
            return check_bind_address(&self.bind, checker);
        }
        match unix_path(&self.bind) {
            Some(path) => checker.field("bind", |checker| check_unix_path(path, checker)),
            None => checker.error_in("bind", "must be unix://PATH where the port's number is 0"),
        }
        if self.capture_mode == Some(CaptureMode::Iptables) {
            checker.error_in("captureMode", "must be DEFAULT or NONE for a unix address");
        }
    }

    fn check_hosts(&self, checker: &mut Checker<'_>) {
        if self.hosts.is_empty() {
            checker.error_in("hosts", "needs at least one host");
        }
        let own = checker.namespace();
        let mut seen: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
        checker.each("hosts", &self.hosts, |checker, text| {
            let Some((namespace, host)) = text.split_once('/') else {
                return checker.error(format!("{text:?} must be NAMESPACE/HOST"));
            };
            check_namespace_part(namespace, &["*", ".", "~"], checker);
            check_host_part(host, checker);
            let namespace = if namespace == "." { own.as_str() } else { namespace };
            let known = seen.entry(namespace.to_owned()).or_default();
            if known.contains(host) || known.contains("*") || (host == "*" && !known.is_empty()) {
                checker.warn(&format!("{text} is given twice, or * of its namespace with it"));
            }
            known.insert(host);
        });
        if seen.len() > 1 && seen.get("*").is_some_and(|hosts| hosts.contains("*")) {
            checker.warn_in("hosts", "has */*, which selects all: the others have no effect");
        }
    }
}

impl OutboundTrafficPolicy {
    fn check(&self, checker: &mut Checker<'_>) {
        checker.given("egressProxy", &self.egress_proxy, |checker, proxy| {
            if self.mode != Some(OutboundTrafficPolicyMode::AllowAny) {
                checker.error("needs mode ALLOW_ANY");
            }
            if !is_fqdn(&proxy.host) {
                checker.error_in("host", format!("{:?} is not a full host name", proxy.host));
            }
            checker.require("port", proxy.port.is_some());
            proxy.check(checker);
        });
    }
}
