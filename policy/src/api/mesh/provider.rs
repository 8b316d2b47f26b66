//! What Istio's mesh configuration has under `extensionProviders`; here the external authorizers. Signals go where
//! `signals.rs` has it.

use std::collections::BTreeMap;

use http::{HeaderName, HeaderValue, StatusCode, header};
use schemars::JsonSchema;
use serde::Deserialize;
use weft_wire::id::{Namespace, is_dns_name};

use super::signals::{FileAccessLogProvider, OpenTelemetryProvider, OtelAccessLogProvider, PrometheusProvider};
use crate::{
    api::values::{Int, List, Port, Timeout},
    document::Checker,
};

/// Names of headers, exact, or with `*` at their beginning or end.
pub type HeaderPatterns = List<String, 0, 64>;

/// Somebody whom policies of action `CUSTOM` ask, or where signals go. One of the fields beside the name
/// must be given.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Provider {
    /// What `spec.provider.name` of an AuthorizationPolicy says, or a provider of a Telemetry.
    pub name: String,
    pub envoy_ext_authz_http: Option<HttpProvider>,
    pub envoy_ext_authz_grpc: Option<GrpcProvider>,
    pub envoy_file_access_log: Option<FileAccessLogProvider>,
    pub envoy_otel_als: Option<OtelAccessLogProvider>,
    pub opentelemetry: Option<OpenTelemetryProvider>,
    pub prometheus: Option<PrometheusProvider>,
}

/// An authorizer that is asked by a request like the one that it judges: any answer but 200 refuses it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct HttpProvider {
    /// The host of the service, with `NAMESPACE/` before it if that is needed to tell which one.
    pub service: String,
    pub port: Option<Port>,
    /// How long the answer may take; 600s if absent.
    pub timeout: Option<Timeout>,
    /// Goes before the path.
    pub path_prefix: String,
    /// Whether requests pass for which there is no answer, or one of 5xx.
    pub fail_open: bool,
    /// What callers get where there is no answer, or one of 5xx; 403 if absent.
    pub status_on_error: Option<String>,
    /// The former name of `includeRequestHeadersInCheck`, which holds over it.
    pub include_headers_in_check: HeaderPatterns,
    /// Headers of the request that the authorizer is told.
    pub include_request_headers_in_check: HeaderPatterns,
    /// Headers that it is told besides, whatever the request has.
    pub include_additional_headers_in_check: BTreeMap<String, String>,
    pub include_request_body_in_check: Option<BodyInCheck>,
    /// Headers of its answer that the workload gets, in place of the request's.
    pub headers_to_upstream_on_allow: HeaderPatterns,
    /// Headers of its answer that the caller gets with a refusal; all if absent.
    pub headers_to_downstream_on_deny: HeaderPatterns,
    /// Headers of its answer that the caller gets with the workload's response.
    pub headers_to_downstream_on_allow: HeaderPatterns,
}

/// An authorizer that speaks `envoy.service.auth.v3.Authorization`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct GrpcProvider {
    /// The host of the service, with `NAMESPACE/` before it if that is needed to tell which one.
    pub service: String,
    pub port: Option<Port>,
    /// How long the answer may take; 600s if absent.
    pub timeout: Option<Timeout>,
    /// Whether requests and connections pass for which there is no answer.
    pub fail_open: bool,
    /// What callers get where there is no answer; 403 if absent.
    pub status_on_error: Option<String>,
    pub include_request_body_in_check: Option<BodyInCheck>,
}

/// The most of a request's body that an authorizer is told, in bytes: it is held in memory.
pub(crate) const MAX_TOLD_BODY: i64 = 1024 * 1024;

/// How much of a request's body an authorizer is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct BodyInCheck {
    /// Bytes at most.
    pub max_request_bytes: Option<Int<1, MAX_TOLD_BODY>>,
    /// Whether it is told the beginning of a longer one; otherwise a request with such a body gets 413.
    pub allow_partial_message: bool,
    /// Whether it is told bytes, not text; of gRPC alone.
    pub pack_as_bytes: bool,
}

impl Provider {
    pub(super) fn check(&self, checker: &mut Checker<'_>) {
        checker.require("name", !self.name.is_empty());
        checker.exactly_one(&[
            ("envoyExtAuthzHttp", self.envoy_ext_authz_http.is_some()),
            ("envoyExtAuthzGrpc", self.envoy_ext_authz_grpc.is_some()),
            ("envoyFileAccessLog", self.envoy_file_access_log.is_some()),
            ("envoyOtelAls", self.envoy_otel_als.is_some()),
            ("opentelemetry", self.opentelemetry.is_some()),
            ("prometheus", self.prometheus.is_some()),
        ]);
        checker.given("envoyFileAccessLog", &self.envoy_file_access_log, |checker, file| file.check(checker));
        checker.given("envoyOtelAls", &self.envoy_otel_als, |checker, otel| otel.check(checker));
        checker.given("opentelemetry", &self.opentelemetry, |checker, otel| otel.check(checker));
        checker.given("envoyExtAuthzHttp", &self.envoy_ext_authz_http, |checker, http| http.check(checker));
        checker.given("envoyExtAuthzGrpc", &self.envoy_ext_authz_grpc, |checker, grpc| {
            check_place(checker, &grpc.service, grpc.port);
            check_common(checker, grpc.status_on_error.as_deref(), grpc.include_request_body_in_check);
        });
    }
}

impl HttpProvider {
    fn check(&self, checker: &mut Checker<'_>) {
        check_place(checker, &self.service, self.port);
        check_common(checker, self.status_on_error.as_deref(), self.include_request_body_in_check);
        if !self.path_prefix.is_empty() && !is_path(&self.path_prefix) {
            checker.error_in("pathPrefix", "must be a path that begins with / and has no query");
        }
        for (field, patterns) in [
            ("includeHeadersInCheck", &self.include_headers_in_check),
            ("includeRequestHeadersInCheck", &self.include_request_headers_in_check),
            ("headersToUpstreamOnAllow", &self.headers_to_upstream_on_allow),
            ("headersToDownstreamOnDeny", &self.headers_to_downstream_on_deny),
            ("headersToDownstreamOnAllow", &self.headers_to_downstream_on_allow),
        ] {
            checker.each(field, patterns, |checker, pattern| {
                let name = pattern.strip_suffix('*').or_else(|| pattern.strip_prefix('*')).unwrap_or(pattern);
                if name.parse::<HeaderName>().is_err() {
                    checker.error(format!("{pattern:?} is no header's name, nor the beginning or end of one with *"));
                }
            });
        }
        if !self.include_headers_in_check.is_empty() {
            checker.warn_in("includeHeadersInCheck", "is deprecated: write includeRequestHeadersInCheck");
        }
        checker.limit("includeAdditionalHeadersInCheck", self.include_additional_headers_in_check.len(), 64);
        checker.field("includeAdditionalHeadersInCheck", |checker| {
            for (name, value) in &self.include_additional_headers_in_check {
                checker.field(name, |checker| match name.parse::<HeaderName>() {
                    Err(_) => checker.error("is no header's name"),
                    Ok(header::HOST | header::CONTENT_LENGTH) => checker.error("is set by the proxy alone"),
                    Ok(_) if HeaderValue::from_str(value).is_err() => checker.error("must be visible ASCII"),
                    Ok(_) => {}
                });
            }
        });
    }
}

pub(super) fn check_place(checker: &mut Checker<'_>, service: &str, port: Option<Port>) {
    let (namespace, host) =
        service.split_once('/').map_or((None, service), |(namespace, host)| (Some(namespace), host));
    if namespace.is_some_and(|namespace| namespace.parse::<Namespace>().is_err()) || !is_dns_name(host) {
        checker.error_in("service", "must be a host such as authz.default.svc.cluster.local, or NAMESPACE/HOST");
    }
    checker.require("port", port.is_some());
}

fn check_common(checker: &mut Checker<'_>, status_on_error: Option<&str>, body: Option<BodyInCheck>) {
    if status_on_error.is_some_and(|status| read_status(status).is_none()) {
        checker.error_in("statusOnError", "must be an HTTP status from 200 to 599, as text");
    }
    checker.given("includeRequestBodyInCheck", &body, |checker, body| {
        checker.require("maxRequestBytes", body.max_request_bytes.is_some());
    });
}

fn is_path(text: &str) -> bool {
    text.starts_with('/') && text.parse::<http::uri::PathAndQuery>().is_ok_and(|path| path.query().is_none())
}

/// The status that callers get where an authorizer did not answer.
pub(crate) fn read_status(text: &str) -> Option<StatusCode> {
    text.parse().ok().filter(|status: &StatusCode| (200..600).contains(&status.as_u16()))
}
