//! WorkloadEntry: a workload outside the mesh's own, or a part of a ServiceEntry. Rules: Istio's
//! `pkg/config/validation/validation.go` and those of its schema.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::names::{check_unix_path, is_fqdn, is_ip, is_name, unix_path};
use crate::{
    api::values::{Count, Labels, Port},
    document::Checker,
    kinds::Resource,
};

/// A workload that is reached by its address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct WorkloadEntry {
    /// An IP address, a full host name where the service resolves by DNS, or `unix://PATH`. Needed unless `network` is
    /// given.
    pub address: String,
    /// The workload's own ports, by the names of the service's ports.
    pub ports: BTreeMap<String, Port>,
    pub labels: Labels,
    /// Workloads of one network reach each other directly.
    pub network: String,
    /// `REGION/ZONE/SUBZONE`.
    pub locality: String,
    pub weight: Option<Count>,
    pub service_account: String,
}

impl Resource for WorkloadEntry {
    fn check(&self, checker: &mut Checker<'_>) {
        match (self.address.is_empty(), self.network.is_empty()) {
            (true, true) => checker.require("address", false),
            (true, false) => checker.warn("has a network, but no address"),
            (false, _) => {}
        }
        self.check_fields(checker);
    }
}

impl WorkloadEntry {
    /// All rules but that there must be an address.
    pub(crate) fn check_fields(&self, checker: &mut Checker<'_>) {
        checker.field("address", |checker| match unix_path(&self.address) {
            Some(path) => check_unix_path(path, checker),
            None if !self.address.is_empty() && !is_ip(&self.address) && !is_fqdn(&self.address) => {
                checker.error(format!("{:?} is not an IP address, a full host name or unix://PATH", self.address));
            }
            None => {}
        });
        if unix_path(&self.address).is_some() && !self.ports.is_empty() {
            checker.error_in("ports", "must not be given with a unix address");
        }
        checker.field("ports", |checker| {
            for name in self.ports.keys().filter(|name| !is_name(name)) {
                checker.error(format!("{name:?} is not a port's name: 1 to 63 letters, digits and '-'"));
            }
        });
        checker.pending("address", unix_path(&self.address).is_some());
        if !self.service_account.is_empty() {
            checker
                .warn_in("serviceAccount", "has no effect: such a workload is not called with the mesh's mutual TLS");
        }
        for (key, len, max) in [
            ("address", self.address.len(), 256),
            ("ports", self.ports.len(), 128),
            ("labels", self.labels.len(), 256),
            ("network", self.network.len(), 2048),
            ("locality", self.locality.len(), 2048),
            ("serviceAccount", self.service_account.len(), 253),
        ] {
            checker.limit(key, len, max);
        }
    }
}
