//! WorkloadGroup: what workloads outside Kubernetes have in common. Rules: Istio's
//! `pkg/config/validation/validation.go` and those of its schema.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::WorkloadEntry;
use crate::{
    api::values::{Labels, Limit, Port},
    document::Checker,
    kinds::Resource,
};

/// A template for workloads.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WorkloadGroup {
    /// Labels and annotations of the workloads.
    #[serde(default)]
    pub metadata: Option<WorkloadMetadata>,
    pub template: WorkloadEntry,
    #[serde(default)]
    pub probe: Option<ReadinessProbe>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct WorkloadMetadata {
    pub labels: Labels,
    pub annotations: BTreeMap<String, String>,
}

/// How it is found out whether a workload is ready. Times are in seconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ReadinessProbe {
    pub initial_delay_seconds: Option<Limit>,
    pub timeout_seconds: Option<Limit>,
    pub period_seconds: Option<Limit>,
    pub success_threshold: Option<Limit>,
    pub failure_threshold: Option<Limit>,
    pub http_get: Option<HttpHealthCheck>,
    pub tcp_socket: Option<TcpHealthCheck>,
    pub exec: Option<ExecHealthCheck>,
    pub grpc: Option<GrpcHealthCheck>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpHealthCheck {
    #[serde(default)]
    pub path: String,
    pub port: Port,
    #[serde(default)]
    pub host: String,
    /// `HTTP`, which is the default, or `HTTPS`.
    #[serde(default)]
    pub scheme: String,
    #[serde(default)]
    pub http_headers: Vec<ProbeHeader>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ProbeHeader {
    pub name: String,
    pub value: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TcpHealthCheck {
    #[serde(default)]
    pub host: String,
    pub port: Port,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExecHealthCheck {
    pub command: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct GrpcHealthCheck {
    pub port: Option<Port>,
    pub service: String,
}

impl Resource for WorkloadGroup {
    fn check(&self, checker: &mut Checker<'_>) {
        checker.given("metadata", &self.metadata, |checker, metadata| {
            checker.limit("labels", metadata.labels.len(), 256);
            checker.limit("annotations", metadata.annotations.len(), 256);
        });
        checker.field("template", |checker| self.template.check_fields(checker));
        checker.given("probe", &self.probe, |checker, probe| probe.check(checker));
        checker.pending("template", true);
    }
}

impl ReadinessProbe {
    fn check(&self, checker: &mut Checker<'_>) {
        checker.exactly_one(&[
            ("httpGet", self.http_get.is_some()),
            ("tcpSocket", self.tcp_socket.is_some()),
            ("exec", self.exec.is_some()),
            ("grpc", self.grpc.is_some()),
        ]);
        checker.given("httpGet", &self.http_get, |checker, get| {
            if !["", "HTTP", "HTTPS"].contains(&get.scheme.as_str()) {
                checker.error_in("scheme", format!("is {:?}; it must be HTTP or HTTPS", get.scheme));
            }
            checker.each("httpHeaders", &get.http_headers, |checker, header| {
                let is_name = !header.name.is_empty()
                    && header.name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
                if !is_name {
                    checker.error_in("name", format!("{:?} is not a header's name", header.name));
                }
            });
        });
        checker.given("exec", &self.exec, |checker, exec| {
            if exec.command.is_empty() || exec.command.iter().any(String::is_empty) {
                checker.error_in("command", "needs at least one word, and no empty ones");
            }
        });
    }
}
