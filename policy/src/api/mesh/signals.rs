//! Where signals go, as Istio's mesh configuration has it under `extensionProviders`: access logs and traces.

use std::collections::BTreeMap;

use http::{HeaderName, HeaderValue};
use schemars::JsonSchema;
use serde::Deserialize;

use super::provider::check_place;
use crate::{
    access_log::LogFormat,
    api::values::{Int, List, Port, Timeout},
    document::Checker,
};

/// Longest format of a log, in characters.
pub(super) const MAX_FORMAT: usize = 4096;
/// Longest path of a file.
const MAX_PATH: usize = 4096;

/// A file that access logs are appended to.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct FileAccessLogProvider {
    /// Such as `/var/log/weft/access.log`; `/dev/stdout` is where the node itself logs.
    #[schemars(length(max = 4096))]
    pub path: String,
    pub log_format: Option<FileLogFormat>,
}

/// One of the fields; Istio's default text if absent.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct FileLogFormat {
    /// A line with operators such as `%RESPONSE_CODE%`, as Envoy has them.
    #[schemars(length(max = 4096))]
    pub text: Option<String>,
    /// A JSON object with such texts in it; Istio's default fields if it is empty.
    pub labels: Option<serde_json::Map<String, serde_json::Value>>,
}

/// A collector of OpenTelemetry that access logs are sent to, by OTLP over gRPC.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct OtelAccessLogProvider {
    /// The host of the service, with `NAMESPACE/` before it if that is needed to tell which one.
    pub service: String,
    pub port: Option<Port>,
    /// The name of the log: attribute `log_name` of the resource; `otel_envoy_accesslog` if absent.
    pub log_name: String,
    pub log_format: Option<OtelLogFormat>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct OtelLogFormat {
    /// The body of a record; Istio's default text if absent.
    #[schemars(length(max = 4096))]
    pub text: Option<String>,
    /// Attributes of a record.
    pub labels: Option<serde_json::Map<String, serde_json::Value>>,
}

/// A collector of OpenTelemetry that spans are sent to, by OTLP: over gRPC, or over HTTP if `http` is given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct OpenTelemetryProvider {
    /// The host of the service, with `NAMESPACE/` before it if that is needed to tell which one.
    pub service: String,
    pub port: Option<Port>,
    /// Longest path in tags, in characters; 256 if absent.
    pub max_tag_length: Option<Int<1, 65_535>>,
    pub http: Option<OtlpHttp>,
    pub grpc: Option<OtlpGrpc>,
}

/// Another name of the provider `prometheus`: each node's page of metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PrometheusProvider {}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct OtlpHttp {
    /// Such as `/v1/traces`.
    pub path: String,
    /// How long the collector may take; 10s if absent.
    pub timeout: Option<Timeout>,
    /// What the collector is told besides, such as a key.
    pub headers: List<OtlpHeader, 0, 16>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct OtlpGrpc {
    /// How long the collector may take; 10s if absent.
    pub timeout: Option<Timeout>,
    /// What the collector is told besides, such as a key.
    pub initial_metadata: List<OtlpHeader, 0, 16>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct OtlpHeader {
    pub name: String,
    pub value: String,
}

impl FileAccessLogProvider {
    pub(super) fn check(&self, checker: &mut Checker<'_>) {
        let is_path = self.path.starts_with('/')
            && !self.path.ends_with('/')
            && self.path.len() <= MAX_PATH
            && !self.path.contains('\0')
            && self.path.split('/').all(|step| step != "..");
        if !is_path {
            checker.error_in("path", "must be the absolute path of a file, without .., such as /dev/stdout");
        }
        checker.given("logFormat", &self.log_format, |checker, format| {
            checker.at_most_one(&[("text", format.text.is_some()), ("labels", format.labels.is_some())]);
            check_format(checker, &format.text, &format.labels);
        });
    }
}

impl OtelAccessLogProvider {
    pub(super) fn check(&self, checker: &mut Checker<'_>) {
        check_place(checker, &self.service, self.port);
        checker.given("logFormat", &self.log_format, |checker, format| {
            check_format(checker, &format.text, &format.labels);
        });
    }
}

impl OpenTelemetryProvider {
    pub(super) fn check(&self, checker: &mut Checker<'_>) {
        check_place(checker, &self.service, self.port);
        checker.at_most_one(&[("http", self.http.is_some()), ("grpc", self.grpc.is_some())]);
        checker.given("http", &self.http, |checker, http| {
            if !http.path.starts_with('/') || http.path.parse::<http::uri::PathAndQuery>().is_err() {
                checker.error_in("path", "must be a path that begins with /, such as /v1/traces");
            }
            checker.each("headers", &http.headers, |checker, header| header.check(checker));
        });
        checker.given("grpc", &self.grpc, |checker, grpc| {
            checker.each("initialMetadata", &grpc.initial_metadata, |checker, header| header.check(checker));
        });
    }
}

impl OtlpHeader {
    fn check(&self, checker: &mut Checker<'_>) {
        if self.name.parse::<HeaderName>().is_err() {
            checker.error_in("name", format!("{:?} is no header's name", self.name));
        }
        if HeaderValue::from_str(&self.value).is_err() {
            checker.error_in("value", "must be visible ASCII");
        }
    }
}

/// The format of a text, or of a JSON object.
pub(super) fn check_format(
    checker: &mut Checker<'_>,
    text: &Option<String>,
    labels: &Option<serde_json::Map<String, serde_json::Value>>,
) {
    checker.given("text", text, |checker, text| check_text(checker, text));
    checker.given("labels", labels, |checker, labels| {
        if let Err(what) = LogFormat::json(labels) {
            checker.error(what);
        }
    });
}

pub(super) fn check_text(checker: &mut Checker<'_>, text: &str) {
    let chars = text.chars().count();
    if !(1..=MAX_FORMAT).contains(&chars) {
        checker.error(format!("has {chars} characters; it must have 1 to {MAX_FORMAT}"));
    }
    if let Err(what) = LogFormat::text(text) {
        checker.error(what);
    }
}

/// The headers of a collector's requests.
pub(crate) fn headers_of(headers: &[OtlpHeader]) -> BTreeMap<String, String> {
    headers.iter().map(|header| (header.name.to_ascii_lowercase(), header.value.clone())).collect()
}
