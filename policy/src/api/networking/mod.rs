//! `networking.istio.io`.

mod destination_rule;
mod gateway;
pub(crate) mod names;
mod service_entry;
mod sidecar;
#[cfg(test)]
mod tests;
mod virtual_service;
mod workload_entry;
mod workload_group;

pub use self::{
    destination_rule::*,
    gateway::*,
    names::{PortProtocol, WorkloadSelector},
    service_entry::*,
    sidecar::*,
    virtual_service::*,
    workload_entry::*,
    workload_group::*,
};
