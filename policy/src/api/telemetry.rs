//! `telemetry.istio.io`: Telemetry, what workloads tell about their traffic. Rules: Istio's
//! `pkg/config/validation/validation.go`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::{
    access_log::{Expression, ExpressionError, LogFormat},
    api::{
        target::{PolicyTargetReference, ROOT_NAMESPACE, Target, WorkloadSelector},
        values::{List, NonEmpty, Timeout},
    },
    document::Checker,
    kinds::Resource,
    telemetry::{Selected, UNKNOWN, selected},
};

/// Most labels that one override changes.
const MAX_TAGS: usize = 64;

/// What workloads tell about their traffic: traces, metrics and access logs. What is not given is as in the
/// namespace's policy without selector, then as in the mesh's.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Telemetry {
    /// Without it, all workloads of the namespace; in the root namespace, all of the mesh.
    pub selector: Option<WorkloadSelector>,
    /// Old form of `targetRefs`.
    pub target_ref: Option<PolicyTargetReference>,
    pub target_refs: List<PolicyTargetReference, 0, 16>,
    pub tracing: Vec<Tracing>,
    pub metrics: Vec<Metrics>,
    pub access_logging: Vec<AccessLogging>,
}

/// Which requests are traced, and with what.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Tracing {
    #[serde(rename = "match")]
    pub matches: Option<ModeSelector>,
    /// At most one is used.
    pub providers: Vec<ProviderRef>,
    /// Share of the requests, in percent, of those that come without a decision of their client's.
    pub random_sampling_percentage: Option<f64>,
    /// Whether no span is reported. Headers are passed on all the same.
    pub disable_span_reporting: Option<bool>,
    /// Tags of each span, by name.
    pub custom_tags: BTreeMap<String, CustomTag>,
    pub use_request_id_for_trace_sampling: Option<bool>,
    pub enable_istio_tags: Option<bool>,
    pub disable_context_propagation: Option<bool>,
}

/// Traffic by its direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ModeSelector {
    pub mode: WorkloadMode,
}

/// The part of the workload in the traffic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum WorkloadMode {
    #[default]
    ClientAndServer,
    Client,
    Server,
}

/// A provider that the mesh's configuration names.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ProviderRef {
    pub name: NonEmpty,
}

/// Where a tag's value comes from: one of these.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct CustomTag {
    pub literal: Option<Literal>,
    /// A variable of the proxy's environment.
    pub environment: Option<NamedValue>,
    /// A header of the request.
    pub header: Option<NamedValue>,
    /// An expression that formats what the access log knows.
    pub formatter: Option<Literal>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Literal {
    pub value: NonEmpty,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NamedValue {
    pub name: NonEmpty,
    #[serde(default)]
    pub default_value: String,
}

/// Which metrics are reported, and with which labels.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Metrics {
    pub providers: Vec<ProviderRef>,
    /// In order: the last that matches a metric decides.
    pub overrides: Vec<MetricsOverrides>,
    /// How often metrics of long TCP connections are brought up to date; 5 s if absent.
    pub reporting_interval: Option<Timeout>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct MetricsOverrides {
    /// Without it, all metrics of both directions.
    #[serde(rename = "match")]
    pub matches: Option<MetricSelector>,
    pub disabled: Option<bool>,
    /// By the label's name.
    pub tag_overrides: BTreeMap<String, TagOverride>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct MetricSelector {
    pub metric: Option<IstioMetric>,
    pub custom_metric: Option<NonEmpty>,
    pub mode: WorkloadMode,
}

/// Istio's standard metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum IstioMetric {
    AllMetrics,
    RequestCount,
    RequestDuration,
    RequestSize,
    ResponseSize,
    TcpOpenedConnections,
    TcpClosedConnections,
    TcpSentBytes,
    TcpReceivedBytes,
    GrpcRequestMessages,
    GrpcResponseMessages,
}

/// What becomes of a label.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct TagOverride {
    pub operation: TagOperation,
    /// An expression (CEL) for the value, with `UPSERT`.
    pub value: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum TagOperation {
    #[default]
    Upsert,
    Remove,
}

/// Which requests and connections are logged.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct AccessLogging {
    #[serde(rename = "match")]
    pub matches: Option<ModeSelector>,
    pub providers: Vec<ProviderRef>,
    pub disabled: Option<bool>,
    pub filter: Option<Filter>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Filter {
    /// What must be true (CEL), such as `response.code >= 400`.
    pub expression: String,
}

impl Resource for Telemetry {
    fn check(&self, checker: &mut Checker<'_>) {
        let target = Target { selector: &self.selector, target_ref: &self.target_ref, target_refs: &self.target_refs };
        target.check(checker);
        if self.selector.is_some() && checker.namespace().as_str() == ROOT_NAMESPACE {
            checker.warn_in("selector", "selects workloads of the root namespace alone");
        }
        checker.each("tracing", &self.tracing, |checker, tracing| tracing.check(checker));
        checker.each("metrics", &self.metrics, |checker, metrics| metrics.check(checker));
        checker.each("accessLogging", &self.access_logging, |checker, logging| {
            checker.given("filter", &logging.filter, |checker, filter| {
                if let Err(what) = Expression::read(&filter.expression) {
                    checker.error_in("expression", format!("is not an expression in CEL: {what}"));
                }
            });
        });
        if self.tracing.len() > 1 {
            checker.warn_in("tracing", "has several entries; only one is used for each direction");
        }
    }
}

impl Tracing {
    fn check(&self, checker: &mut Checker<'_>) {
        if self.providers.len() > 1 {
            checker.warn_in("providers", "has several entries; only the first is used");
        }
        if let Some(percent) = self.random_sampling_percentage
            && !(0.0..=100.0).contains(&percent)
        {
            checker.error_in("randomSamplingPercentage", format!("is {percent}; it must be from 0 to 100"));
        }
        checker.field("customTags", |checker| {
            for (name, tag) in &self.custom_tags {
                if name.is_empty() {
                    checker.error("the name of a tag must not be empty");
                }
                checker.field(name, |checker| {
                    let sources = [
                        ("literal", tag.literal.is_some()),
                        ("environment", tag.environment.is_some()),
                        ("header", tag.header.is_some()),
                        ("formatter", tag.formatter.is_some()),
                    ];
                    checker.at_most_one(&sources);
                    checker.given("formatter", &tag.formatter, |checker, formatter| {
                        if let Err(what) = LogFormat::text(&formatter.value) {
                            checker.error_in("value", what);
                        }
                    });
                    if !sources.iter().any(|(_, given)| *given) {
                        checker.warn("has no value: give literal, environment, header or formatter");
                    }
                });
            }
        });
    }
}

impl Metrics {
    fn check(&self, checker: &mut Checker<'_>) {
        checker.each("overrides", &self.overrides, |checker, one| {
            checker.given("match", &one.matches, |checker, selector| {
                checker.at_most_one(&[
                    ("metric", selector.metric.is_some()),
                    ("customMetric", selector.custom_metric.is_some()),
                ]);
            });
            let is_of_connections = match selected(one.matches.as_ref()) {
                Selected::One(metric) => metric.is_of_connections(),
                Selected::All | Selected::Custom(_) => false,
            };
            checker.limit("tagOverrides", one.tag_overrides.len(), MAX_TAGS);
            checker.field("tagOverrides", |checker| {
                for (name, tag) in &one.tag_overrides {
                    match name.as_str() {
                        "" => checker.error("the name of a label must not be empty"),
                        "le" => checker.error("the label le is that of the buckets of histograms: choose another name"),
                        _ => {}
                    }
                    checker.field(name, |checker| tag.check(checker, is_of_connections));
                }
            });
        });
    }
}

impl TagOverride {
    /// `is_of_connections`: whether it is for a metric of connections of bytes alone.
    fn check(&self, checker: &mut Checker<'_>, is_of_connections: bool) {
        match (self.operation, self.value.is_empty()) {
            (TagOperation::Upsert, true) => checker.error_in("value", "must be given with operation UPSERT"),
            (TagOperation::Remove, false) => checker.error_in("value", "must be left out with operation REMOVE"),
            (TagOperation::Remove, true) => {}
            (TagOperation::Upsert, false) => match Expression::read(&self.value) {
                Ok(expression) => checker.pending("value", is_of_connections && expression.is_of_connections()),
                Err(ExpressionError::Malformed(what)) => {
                    checker.error_in("value", format!("is not an expression in CEL: {what}"));
                }
                // Istio's proxies take it, and find no value.
                Err(error @ ExpressionError::Unknown(_)) => checker.warn_in(
                    "value",
                    &format!("makes the label {UNKNOWN}: {error}. A text is written in quotes: \"'text'\""),
                ),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::api::{
        testing::{check_refused, check_taken, documents, of_kind, warnings},
        tests::pending,
    };

    const KIND: &str = "Telemetry";

    #[test]
    fn all_served_versions_are_read_and_the_spec_may_be_absent() {
        for version in ["v1", "v1alpha1"] {
            documents(&format!("{{apiVersion: telemetry.istio.io/{version}, kind: {KIND}, metadata: {{name: a}}}}"));
        }
        check_taken(KIND, &["{}", "{tracing: [{}], metrics: [{}], accessLogging: [{}]}"]);
    }

    #[test]
    fn every_field_is_read() {
        check_taken(
            KIND,
            &[r#"{selector: {matchLabels: {a: b}},
                tracing: [{match: {mode: CLIENT_AND_SERVER}, providers: [{name: otlp}], randomSamplingPercentage: 54.54,
                    disableSpanReporting: false, useRequestIdForTraceSampling: true, enableIstioTags: true, customTags: {
                    env: {environment: {name: N, defaultValue: d}}, h: {header: {name: x}}, l: {literal: {value: v}}}}],
                metrics: [{providers: [{name: prometheus}], reportingInterval: 5s, overrides: [
                    {match: {metric: GRPC_REQUEST_MESSAGES, mode: CLIENT}, disabled: true},
                    {match: {customMetric: foo}, tagOverrides: {a: {value: request.method}, b: {operation: REMOVE},
                        c: {operation: UPSERT, value: add}}}]}],
                accessLogging: [{match: {mode: SERVER}, providers: [{name: envoy}], disabled: false,
                    filter: {expression: "response.code >= 400"}}]}"#],
        );
    }

    #[test]
    fn d_valid_providers_tags_and_metrics() {
        check_refused(
            KIND,
            &[
                ("{metrics: [{providers: [{name: ''}]}]}", "providers[0].name: must not be empty"),
                ("{tracing: [{providers: [{}]}]}", "providers[0].name is missing"),
                ("{accessLogging: [{providers: [{name: ''}]}]}", "name: must not be empty"),
                ("{tracing: [{randomSamplingPercentage: 101}]}", "is 101; it must be from 0 to 100"),
                ("{tracing: [{randomSamplingPercentage: -1}]}", "is -1; it must be from 0 to 100"),
                ("{tracing: [{match: {mode: BOTH}}]}", "it must be one of CLIENT_AND_SERVER, CLIENT, SERVER"),
                (
                    "{tracing: [{customTags: {a: {literal: {value: b}, header: {name: c}}}}]}",
                    "only one of literal, header may be given",
                ),
                ("{tracing: [{customTags: {a: {literal: {value: ''}}}}]}", "value: must not be empty"),
                ("{tracing: [{customTags: {a: {environment: {name: ''}}}}]}", "name: must not be empty"),
                ("{tracing: [{customTags: {a: {header: {}}}}]}", "header.name is missing"),
                ("{tracing: [{customTags: {'': {literal: {value: a}}}}]}", "name of a tag must not be empty"),
                ("{metrics: [{overrides: [{match: {customMetric: ''}}]}]}", "customMetric: must not be empty"),
                ("{metrics: [{overrides: [{match: {metric: X}}]}]}", "it must be one of ALL_METRICS"),
                (
                    "{metrics: [{overrides: [{match: {metric: ALL_METRICS, customMetric: a}}]}]}",
                    "only one of metric, customMetric",
                ),
                (
                    "{metrics: [{overrides: [{tagOverrides: {a: {operation: UPSERT}}}]}]}",
                    "must be given with operation UPSERT",
                ),
                ("{metrics: [{overrides: [{tagOverrides: {a: {}}}]}]}", "must be given with operation UPSERT"),
                (
                    "{metrics: [{overrides: [{tagOverrides: {a: {operation: REMOVE, value: b}}}]}]}",
                    "must be left out with operation REMOVE",
                ),
                (
                    "{metrics: [{overrides: [{tagOverrides: {a: {value: 'b ='}}}]}]}",
                    "spec.metrics[0].overrides[0].tagOverrides.a.value: is not an expression in CEL",
                ),
                ("{metrics: [{overrides: [{tagOverrides: {le: {operation: REMOVE}}}]}]}", "choose another name"),
                ("{tracing: [{customTags: {a: {formatter: {value: '%NOPE%'}}}}]}", "formatter.value: %NOPE"),
                ("{metrics: [{reportingInterval: 0s}]}", "is below 1ms"),
                ("{metrics: [null]}", "is nothing"),
                ("{accessLogging: [{filter: {expression: 'a &&'}}]}", "is not an expression in CEL"),
                ("{accessLogging: [{filter: {}}]}", "is not an expression in CEL"),
                ("{selector: {}, targetRef: {kind: Service, name: a}}", "only one of selector, targetRef"),
            ],
        );
    }

    #[test]
    fn what_has_no_effect_is_warned_of() {
        assert!(
            warnings(KIND, "{tracing: [{providers: [{name: a}, {name: b}]}]}")[0].contains("only the first is used")
        );
        assert!(warnings(KIND, "{tracing: [{}, {}]}")[0].contains("several entries"));
        assert!(warnings(KIND, "{tracing: [{customTags: {a: {}}}]}")[0].contains("customTags.a has no value"));
        let unknown = warnings(KIND, "{metrics: [{overrides: [{tagOverrides: {a: {value: add}}}]}]}");
        assert!(unknown[0].contains("makes the label unknown: add is no attribute"), "{unknown:?}");
    }

    #[test]
    fn of_metrics_of_connections_alone_what_asks_for_the_connection_is_pending() {
        let of = |metric: &str, value: &str| {
            let spec = format!(
                "{{metrics: [{{overrides: [{{match: {{{metric}}}, tagOverrides: {{a: {{value: {value}}}}}}}]}}]}}"
            );
            pending(&of_kind(KIND, &spec))
        };
        let expected = ["spec.metrics[0].overrides[0].tagOverrides.a.value"];
        assert_eq!(of("metric: TCP_SENT_BYTES", "string(destination.port)"), expected);
        assert_eq!(of("customMetric: tcp_sent_bytes_total", "connection.mtls"), expected);
        for (metric, value) in [
            ("metric: REQUEST_COUNT", "string(destination.port)"),
            ("metric: ALL_METRICS", "connection.mtls"),
            ("metric: TCP_SENT_BYTES", "request.host"),
            ("metric: TCP_SENT_BYTES", "upstream_peer.app"),
        ] {
            assert_eq!(of(metric, value), [""; 0], "{metric} {value}");
        }
    }
}
