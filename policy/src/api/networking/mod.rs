//! `networking.istio.io`.

mod destination_rule;
mod gateway;
mod load_balancer;
pub(crate) mod names;
mod service_entry;
mod sidecar;
#[cfg(test)]
mod tests;
mod virtual_service;
mod workload_entry;
mod workload_group;

/// Istio's API group for these kinds.
pub const GROUP: &str = "networking.istio.io";

pub(crate) use self::names::gateway_name;
pub use self::{
    destination_rule::*,
    gateway::*,
    load_balancer::*,
    names::{PortProtocol, WorkloadSelector},
    service_entry::*,
    sidecar::*,
    virtual_service::*,
    workload_entry::*,
    workload_group::*,
};
