//! DestinationRule: a service's subsets, and how its endpoints are treated. Rules: Istio's
//! `pkg/config/validation/validation.go`.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    LoadBalancerSettings, PortSelector,
    names::{Export, check_export_to, is_fqdn, is_ip, is_name, read_name, warn_of_no_service},
};
use crate::{
    api::values::{Count, Int, Labels, Limit, Port, Share, Span, Timeout},
    document::Checker,
    kinds::Resource,
};

/// How requests to a host are treated once it is known that they go there.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DestinationRule {
    /// A name without a dot is a service of the document's namespace.
    pub host: String,
    #[serde(default)]
    pub traffic_policy: Option<TrafficPolicy>,
    #[serde(default)]
    pub subsets: Vec<Subset>,
    /// The namespaces that see it: `.` for its own, `*` for all, which is the default.
    #[serde(default)]
    pub export_to: Vec<String>,
    /// It holds only for clients of its namespace that have these labels.
    #[serde(default)]
    pub workload_selector: Option<MatchLabels>,
}

/// Selects the workloads that have all of the labels.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct MatchLabels {
    pub match_labels: Labels,
}

/// How connections and requests to endpoints are treated.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct TrafficPolicy {
    pub load_balancer: Option<LoadBalancerSettings>,
    pub connection_pool: Option<ConnectionPoolSettings>,
    pub outlier_detection: Option<OutlierDetection>,
    pub tls: Option<ClientTlsSettings>,
    /// Policies of single ports; each replaces this one whole.
    pub port_level_settings: Vec<PortTrafficPolicy>,
    pub tunnel: Option<TunnelSettings>,
    pub proxy_protocol: Option<ProxyProtocol>,
    pub retry_budget: Option<RetryBudget>,
    pub compression: Option<ClientCompressionSettings>,
}

/// The policy of one port.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct PortTrafficPolicy {
    /// Needed.
    pub port: Option<PortSelector>,
    pub load_balancer: Option<LoadBalancerSettings>,
    pub connection_pool: Option<ConnectionPoolSettings>,
    pub outlier_detection: Option<OutlierDetection>,
    pub tls: Option<ClientTlsSettings>,
    pub compression: Option<ClientCompressionSettings>,
}

/// Limits on connections and requests.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ConnectionPoolSettings {
    pub tcp: Option<TcpSettings>,
    pub http: Option<HttpSettings>,
}

/// Limits on connections, whatever they carry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct TcpSettings {
    pub max_connections: Option<Limit>,
    /// 10 s if absent.
    pub connect_timeout: Option<Timeout>,
    pub tcp_keepalive: Option<TcpKeepalive>,
    pub max_connection_duration: Option<Timeout>,
    /// 1 h if absent; zero is none.
    pub idle_timeout: Option<Span<0>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct TcpKeepalive {
    pub probes: Option<Count>,
    pub time: Option<Timeout>,
    pub interval: Option<Timeout>,
}

/// Limits on HTTP.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct HttpSettings {
    /// Requests that wait for a connection.
    pub http1_max_pending_requests: Option<Limit>,
    /// Requests under way.
    pub http2_max_requests: Option<Limit>,
    pub max_requests_per_connection: Option<Limit>,
    /// Retries under way.
    pub max_retries: Option<Limit>,
    pub idle_timeout: Option<Timeout>,
    pub h2_upgrade_policy: Option<H2UpgradePolicy>,
    pub use_client_protocol: bool,
    pub max_concurrent_streams: Option<Limit>,
    pub http2_keep_alive: Option<ConnectionKeepalive>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum H2UpgradePolicy {
    Default,
    DoNotUpgrade,
    Upgrade,
}

/// HTTP/2's PING.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ConnectionKeepalive {
    pub interval: Timeout,
    pub timeout: Timeout,
}

/// When an endpoint that fails is left out, and for how long.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct OutlierDetection {
    /// Old form of `consecutiveGatewayErrors`.
    pub consecutive_errors: Option<Int<{ i32::MIN as i64 }, { i32::MAX as i64 }>>,
    /// Failures to connect are counted for themselves.
    pub split_external_local_origin_errors: bool,
    /// 5 if absent.
    pub consecutive_local_origin_failures: Option<Count>,
    /// 502, 503 and 504 in a row; off if absent or 0.
    pub consecutive_gateway_errors: Option<Count>,
    /// 5 if absent; 0 is off.
    #[serde(rename = "consecutive5xxErrors")]
    pub consecutive_5xx_errors: Option<Count>,
    /// Time between looks; 10 s if absent.
    pub interval: Option<Timeout>,
    /// Times the number of ejections; 30 s if absent.
    pub base_ejection_time: Option<Timeout>,
    /// 10 if absent.
    pub max_ejection_percent: Option<Int<0, 100>>,
    pub min_health_percent: Option<Int<0, 100>>,
    /// The statuses that are errors; all 5xx if there are none.
    pub outlier_detection_http_error_codes: Vec<Int<100, 599>>,
    /// The share of errors in an interval that is too much; none is if absent or 0.
    pub failure_percentage_threshold: Option<Int<0, 100>>,
}

/// TLS to the endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ClientTlsSettings {
    /// `DISABLE` if absent.
    pub mode: Option<ClientTlsMode>,
    /// Paths of files on the client's host.
    pub client_certificate: String,
    pub private_key: String,
    pub ca_certificates: String,
    /// A Secret that has key and certificates.
    pub credential_name: String,
    /// A Secret or ConfigMap that has the authorities.
    pub ca_cert_credential_name: String,
    /// What the server's certificate must name.
    pub subject_alt_names: Vec<String>,
    pub sni: String,
    pub insecure_skip_verify: Option<bool>,
    pub ca_crl: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ClientTlsMode {
    Disable,
    Simple,
    Mutual,
    /// With the mesh's own certificates: what weft does unless told otherwise.
    IstioMutual,
}

/// Carries TCP inside HTTP.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TunnelSettings {
    /// `CONNECT`, which is the default, or `POST`.
    #[serde(default)]
    pub protocol: String,
    /// A full host name, or an address.
    pub target_host: String,
    pub target_port: Port,
}

/// Tells the endpoint the client's address (<https://www.haproxy.org/download/2.1/doc/proxy-protocol.txt>).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ProxyProtocol {
    pub version: Option<ProxyProtocolVersion>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ProxyProtocolVersion {
    V1,
    V2,
}

/// How many retries may be under way, as a share of all requests that are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RetryBudget {
    /// 20 if absent.
    pub percent: Option<Share>,
    /// So many are allowed always; 3 if absent.
    pub min_retry_concurrency: Option<Count>,
    pub budget_interval: Option<Span<0>>,
}

/// Decompression of responses by the client's proxy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ClientCompressionSettings {
    pub response: Option<ResponseCompression>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ResponseCompression {
    pub decompress: Option<Decompression>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Decompression {
    pub enabled: Option<bool>,
}

/// The endpoints of a host that have certain labels.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Subset {
    pub name: String,
    #[serde(default)]
    pub labels: Labels,
    #[serde(default)]
    pub traffic_policy: Option<TrafficPolicy>,
}

impl Resource for DestinationRule {
    fn check(&self, checker: &mut Checker<'_>) {
        match read_name(&self.host, &checker.namespace()) {
            Ok(host) => checker.field("host", |checker| warn_of_no_service(&host, checker)),
            Err(what) => checker.error_in("host", what),
        }
        let selects = self.workload_selector.is_some();
        checker.given("trafficPolicy", &self.traffic_policy, |checker, policy| policy.check(selects, checker));
        let mut names = BTreeSet::new();
        checker.each("subsets", &self.subsets, |checker, subset| {
            if !is_name(&subset.name) {
                checker.error_in("name", "must be 1 to 63 letters, digits and '-', and neither start nor end with '-'");
            }
            if !names.insert(subset.name.clone()) {
                checker.error(format!("the name {} is given twice", subset.name));
            }
            checker.given("trafficPolicy", &subset.traffic_policy, |checker, policy| policy.check(selects, checker));
        });
        check_export_to(&self.export_to, Export::Namespaces, checker);
        checker.given("workloadSelector", &self.workload_selector, |checker, selector| {
            if selector.match_labels.is_empty() {
                checker.warn("has no labels: it selects all workloads of the namespace");
            }
        });
        let own = checker.namespace();
        let is_private = |namespace: &String| namespace == "." || namespace == own.as_str();
        if self.workload_selector.is_some() && !self.export_to.iter().all(is_private) {
            checker.error_in("exportTo", "may only be '.' beside workloadSelector, which selects in its own namespace");
        }
    }
}

impl TrafficPolicy {
    /// `selects`: the rule has a selector.
    fn check(&self, selects: bool, checker: &mut Checker<'_>) {
        let block = Block {
            load_balancer: &self.load_balancer,
            connection_pool: &self.connection_pool,
            outlier_detection: &self.outlier_detection,
            tls: &self.tls,
            compression: &self.compression,
        };
        let has_more = !self.port_level_settings.is_empty()
            || self.tunnel.is_some()
            || self.proxy_protocol.is_some()
            || self.retry_budget.is_some();
        if block.is_empty() && !has_more {
            checker.error("must have at least one field");
        }
        block.check(selects, checker);
        checker.at_most_one(&[("tunnel", self.tunnel.is_some()), ("proxyProtocol", self.proxy_protocol.is_some())]);
        checker.limit("portLevelSettings", self.port_level_settings.len(), 4096);
        checker.each("portLevelSettings", &self.port_level_settings, |checker, policy| policy.check(selects, checker));
        checker.given("tunnel", &self.tunnel, |checker, tunnel| tunnel.check(checker));
        checker.pending("proxyProtocol", self.proxy_protocol.is_some());
    }
}

impl PortTrafficPolicy {
    fn check(&self, selects: bool, checker: &mut Checker<'_>) {
        checker.require("port", self.port.is_some());
        let block = Block {
            load_balancer: &self.load_balancer,
            connection_pool: &self.connection_pool,
            outlier_detection: &self.outlier_detection,
            tls: &self.tls,
            compression: &self.compression,
        };
        if block.is_empty() {
            checker.error("must have at least one field beside port");
        }
        block.check(selects, checker);
    }
}

/// What the policies of all ports and of one have in common.
struct Block<'p> {
    load_balancer: &'p Option<LoadBalancerSettings>,
    connection_pool: &'p Option<ConnectionPoolSettings>,
    outlier_detection: &'p Option<OutlierDetection>,
    tls: &'p Option<ClientTlsSettings>,
    compression: &'p Option<ClientCompressionSettings>,
}

impl Block<'_> {
    fn is_empty(&self) -> bool {
        self.load_balancer.is_none()
            && self.connection_pool.is_none()
            && self.outlier_detection.is_none()
            && self.tls.is_none()
            && self.compression.is_none()
    }

    fn check(&self, selects: bool, checker: &mut Checker<'_>) {
        let detects = self.outlier_detection.is_some();
        checker.given("loadBalancer", self.load_balancer, |checker, balancer| balancer.check(detects, checker));
        checker.given("connectionPool", self.connection_pool, |checker, pool| pool.check(checker));
        checker.given("outlierDetection", self.outlier_detection, |checker, detection| detection.check(checker));
        checker.given("tls", self.tls, |checker, tls| tls.check(selects, checker));
        checker.pending("compression", self.compression.is_some_and(|compression| compression.decompresses()));
    }
}

impl ClientCompressionSettings {
    fn decompresses(self) -> bool {
        self.response.and_then(|response| response.decompress?.enabled).unwrap_or_default()
    }
}

impl ConnectionPoolSettings {
    pub(crate) fn check(&self, checker: &mut Checker<'_>) {
        if self.tcp.is_none() && self.http.is_none() {
            checker.error("must have tcp or http");
        }
        checker.given("http", &self.http, |checker, http| {
            if http.h2_upgrade_policy == Some(H2UpgradePolicy::Upgrade) && http.use_client_protocol {
                checker.error_in("useClientProtocol", "contradicts h2UpgradePolicy: UPGRADE");
            }
        });
    }
}

impl OutlierDetection {
    fn check(&self, checker: &mut Checker<'_>) {
        if self.consecutive_errors.is_some_and(|errors| errors.get() != 0) {
            checker.warn_in("consecutiveErrors", "is deprecated: use consecutiveGatewayErrors or consecutive5xxErrors");
        }
        let local = self.consecutive_local_origin_failures.is_some_and(|failures| failures.get() > 0);
        if local && !self.split_external_local_origin_errors {
            checker.error_in("consecutiveLocalOriginFailures", "needs splitExternalLocalOriginErrors: true");
        }
    }
}

impl ClientTlsSettings {
    fn check(&self, selects: bool, checker: &mut Checker<'_>) {
        let mode = self.mode.unwrap_or(ClientTlsMode::Disable);
        let refuse = |checker: &mut Checker<'_>, fields: &[(&str, bool)], why: &str| {
            for (key, _) in fields.iter().filter(|(_, given)| *given) {
                checker.error_in(key, why);
            }
        };
        let client = [("clientCertificate", &self.client_certificate), ("privateKey", &self.private_key)];
        let client = client.map(|(key, path)| (key, !path.is_empty()));
        let authorities = ("caCertificates", !self.ca_certificates.is_empty());
        let revoked = ("caCrl", !self.ca_crl.is_empty());
        let credential = ("credentialName", !self.credential_name.is_empty());
        let authorities_credential = ("caCertCredentialName", !self.ca_cert_credential_name.is_empty());
        let names = ("subjectAltNames", !self.subject_alt_names.is_empty());
        checker.at_most_one(&[authorities, authorities_credential]);
        if self.insecure_skip_verify == Some(true) {
            let why = "must not be given beside insecureSkipVerify: true, which verifies nothing";
            match mode {
                ClientTlsMode::Simple => refuse(checker, &[authorities, credential, names], why),
                ClientTlsMode::Mutual => refuse(checker, &[authorities, names], why),
                ClientTlsMode::Disable | ClientTlsMode::IstioMutual => {}
            }
        }
        let [certificate, key] = client;
        match mode {
            ClientTlsMode::Simple | ClientTlsMode::Mutual if credential.1 => {
                let why = "must not be given beside credentialName, which has it";
                refuse(checker, &[certificate, key, authorities, revoked], why);
            }
            ClientTlsMode::Mutual => {
                for (field, given) in client {
                    checker.require(field, given);
                }
            }
            ClientTlsMode::IstioMutual => {
                let why = "must not be given with ISTIO_MUTUAL, which uses the mesh's own certificates";
                let all = [certificate, key, authorities, revoked, credential, authorities_credential];
                refuse(checker, &all, why);
            }
            ClientTlsMode::Simple | ClientTlsMode::Disable => {}
        }
        let of_mesh = mode == ClientTlsMode::IstioMutual;
        let originates = matches!(mode, ClientTlsMode::Simple | ClientTlsMode::Mutual);
        for (key, given) in [
            ("sni", of_mesh && !self.sni.is_empty()),
            // Without a selector these are for gateways alone.
            ("credentialName", originates && credential.1 && !selects),
            ("caCertCredentialName", originates && authorities_credential.1 && !selects),
        ] {
            checker.pending(key, given);
        }
    }
}

impl TunnelSettings {
    fn check(&self, checker: &mut Checker<'_>) {
        if !["", "CONNECT", "POST"].contains(&self.protocol.as_str()) {
            checker.error_in("protocol", format!("is {:?}; it must be CONNECT or POST", self.protocol));
        }
        if !is_fqdn(&self.target_host) && !is_ip(&self.target_host) {
            checker.error_in("targetHost", format!("{:?} is neither a host name nor an address", self.target_host));
        }
    }
}
