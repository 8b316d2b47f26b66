//! `weft.mesh/v1alpha1`: weft's own kinds, for what the documents of other projects do not say.

mod backend_traffic_policy;
mod circuit_policy;
mod fault_experiment;
mod mesh_config;
mod provider;
mod rate_limit;
mod request;
mod revocation;
mod signals;
mod targets;
mod timestamp;

#[cfg(test)]
mod tests;

pub use self::{
    backend_traffic_policy::*,
    circuit_policy::*,
    fault_experiment::*,
    mesh_config::*,
    provider::*,
    rate_limit::*,
    request::*,
    revocation::*,
    signals::{
        FileAccessLogProvider, FileLogFormat, OpenTelemetryProvider, OtelAccessLogProvider, OtelLogFormat, OtlpGrpc,
        OtlpHeader, OtlpHttp, PrometheusProvider,
    },
    targets::*,
    timestamp::*,
};
pub(crate) use self::{
    provider::{MAX_TOLD_BODY, read_status},
    signals::headers_of,
};
