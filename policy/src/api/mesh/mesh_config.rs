//! MeshConfig: what holds in the whole mesh.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Provider, signals};
use crate::{
    access_log::LogFormat,
    api::{
        gateway::PreciseHostname,
        networking::HttpRetry,
        values::{List, NonEmpty, Share},
    },
    document::Checker,
    kinds::Resource,
};

/// The namespace whose documents hold for all namespaces.
pub const ROOT_NAMESPACE: &str = "istio-system";
/// The name of the only MeshConfig.
pub const MESH_CONFIG_NAME: &str = "default";

/// What holds in the whole mesh. There is one: `default` in the namespace `istio-system`. Where a field is absent, what
/// Istio does without configuration holds.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct MeshConfig {
    /// Other trust domains that mean this mesh's: those that it had, or those of meshes that it joined with.
    pub trust_domain_aliases: List<PreciseHostname, 0, 64>,
    /// What becomes of requests for hosts that the mesh does not know. They are refused if absent.
    pub outbound_traffic_policy: OutboundTrafficPolicy,
    /// Retries of VirtualService rules that give none.
    pub default_http_retry_policy: Option<HttpRetry>,
    pub tracing: Tracing,
    /// The log of requests, where no Telemetry says it; as each node's configuration says if absent.
    pub access_log: Option<AccessLog>,
    /// Where signals go that no Telemetry says it of.
    pub default_providers: DefaultProviders,
    pub path_normalization: PathNormalization,
    /// Whether mirrored requests keep the host that they had; without it `-shadow` is appended. True if absent.
    pub disable_shadow_host_suffix: Option<bool>,
    /// Whom policies of action `CUSTOM` may ask, and where access logs and traces may go.
    pub extension_providers: List<Provider, 0, 64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct OutboundTrafficPolicy {
    pub mode: Option<OutboundTrafficMode>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum OutboundTrafficMode {
    /// They pass, to the address that they ask for.
    AllowAny,
    /// They are refused: 502 for HTTP and CONNECT; other connections are closed.
    RegistryOnly,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Tracing {
    /// Share of requests that start a trace, in percent, where no Telemetry says it; 1 if absent.
    pub sampling: Option<Share>,
    /// The headers by which traces begin that are handed on, by OpenTelemetry's names; `tracecontext` if empty. What
    /// comes with a request goes on as it came.
    pub propagators: List<Propagator, 0, 3>,
}

/// Headers that carry a trace from one to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Propagator {
    /// W3C's `traceparent` and `tracestate`.
    TraceContext,
    /// Zipkin's single header, `b3`.
    B3,
    /// Zipkin's several headers, `x-b3-traceid` and so on.
    B3Multi,
}

/// Names of `extensionProviders`, or `envoy`, the log of each node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct DefaultProviders {
    pub access_logging: List<NonEmpty, 0, 16>,
    /// At most one is used.
    pub tracing: List<NonEmpty, 0, 16>,
    /// Of metrics it is `prometheus`, if absent too.
    pub metrics: List<NonEmpty, 0, 16>,
}

/// The log of requests, where no Telemetry says it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct AccessLog {
    pub encoding: AccessLogEncoding,
    /// A line with operators such as `%RESPONSE_CODE%`, as Envoy has them; Istio's default if absent. With the encoding
    /// JSON, a JSON object of such texts.
    #[schemars(length(max = 4096))]
    pub format: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum AccessLogEncoding {
    /// No log.
    #[default]
    Off,
    Text,
    Json,
}

/// How paths are made comparable before anything reads them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct PathNormalization {
    pub normalization: PathNormalizationType,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum PathNormalizationType {
    /// `BASE`.
    #[default]
    Default,
    None,
    /// As RFC 3986 says: dot segments, `\` and needless escapes.
    Base,
    /// And `//` becomes `/`.
    MergeSlashes,
    /// And `%2F` and `%5C` are decoded first.
    DecodeAndMergeSlashes,
}

impl MeshConfig {
    /// Whether mirrored requests get `-shadow` after their host.
    pub fn appends_shadow_suffix(&self) -> bool {
        self.disable_shadow_host_suffix == Some(false)
    }

    /// Share of requests that start a trace.
    pub fn sampling_percent(&self) -> f64 {
        self.tracing.sampling.map_or(1.0, Share::percent)
    }
}

impl Resource for MeshConfig {
    fn check(&self, checker: &mut Checker<'_>) {
        if checker.namespace().as_str() != ROOT_NAMESPACE || checker.header.key.name != MESH_CONFIG_NAME {
            checker.error(format!(
                "there is one MeshConfig: {MESH_CONFIG_NAME} in the namespace {ROOT_NAMESPACE}; this is {} in {}",
                checker.header.key.name,
                checker.namespace()
            ));
        }
        checker.unique("trustDomainAliases", &self.trust_domain_aliases, Some);
        checker.given("defaultHttpRetryPolicy", &self.default_http_retry_policy, |checker, retry| retry.check(checker));
        checker.given("accessLog", &self.access_log, |checker, log| log.check(checker));
        if self.default_providers.tracing.len() > 1 {
            checker.warn_in("defaultProviders", "has several of tracing; only the first is used");
        }
        checker.each("extensionProviders", &self.extension_providers, |checker, provider| provider.check(checker));
        checker.unique("extensionProviders", &self.extension_providers, |provider| Some(&provider.name));
    }
}

impl AccessLog {
    fn check(&self, checker: &mut Checker<'_>) {
        checker.given("format", &self.format, |checker, format| match self.encoding {
            AccessLogEncoding::Off => checker.error("has no effect with the encoding OFF: leave it out"),
            AccessLogEncoding::Text => signals::check_text(checker, format),
            AccessLogEncoding::Json => {
                let chars = format.chars().count();
                if chars > signals::MAX_FORMAT {
                    checker.error(format!("has {chars} characters; {} are the most", signals::MAX_FORMAT));
                }
                match serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(format) {
                    Err(_) => checker.error("must be a JSON object of texts with the encoding JSON"),
                    Ok(fields) => {
                        if let Err(what) = LogFormat::json(&fields) {
                            checker.error(what);
                        }
                    }
                }
            }
        });
    }
}
