//! Which workloads a policy is for.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;
use weft_wire::id::{Namespace, is_dns_name};

use crate::{
    api::values::{Labels, List, NonEmpty},
    document::Checker,
};

/// The namespace whose policies hold in the whole mesh.
pub const ROOT_NAMESPACE: &str = "istio-system";

/// Workloads that have all of some labels.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct WorkloadSelector {
    pub match_labels: Labels,
}

impl WorkloadSelector {
    pub(crate) fn check(&self, checker: &mut Checker<'_>) {
        if self.match_labels.is_empty() {
            checker.warn("has no labels, so that it selects all workloads");
        }
    }

    pub(crate) fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        self.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value))
    }
}

/// What a policy is attached to: a Service, ServiceEntry, Gateway or GatewayClass of its own namespace.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PolicyTargetReference {
    /// API group of the kind; empty for the core group.
    #[serde(default)]
    pub group: String,
    pub kind: NonEmpty,
    pub name: NonEmpty,
    /// That of the policy; another is not allowed.
    #[serde(default)]
    pub namespace: String,
}

/// Kinds that a policy may be attached to, with their API groups.
const TARGET_KINDS: [(&str, &str); 4] = [
    ("", "Service"),
    ("networking.istio.io", "ServiceEntry"),
    ("gateway.networking.k8s.io", "Gateway"),
    ("gateway.networking.k8s.io", "GatewayClass"),
];

impl PolicyTargetReference {
    fn check(&self, checker: &mut Checker<'_>) {
        let group = if self.group == "core" { "" } else { &self.group };
        if !TARGET_KINDS.iter().any(|(known, kind)| *known == group && **kind == *self.kind) {
            checker.error(format!(
                "{} of group {:?} is not a kind to attach a policy to: Service (group \"\"), ServiceEntry \
                 (networking.istio.io), Gateway and GatewayClass (gateway.networking.k8s.io) are",
                &*self.kind, self.group
            ));
        }
        if !is_dns_name(&self.name) {
            checker.error_in("name", "must be a DNS name: a-z, 0-9 and '-' in labels joined by dots");
        }
        if !self.namespace.is_empty() {
            checker.error_in("namespace", "must be left out: a policy is attached within its own namespace");
        }
    }
}

/// The fields by which a policy says whom it is for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target<'p> {
    pub(crate) selector: &'p Option<WorkloadSelector>,
    pub(crate) target_ref: &'p Option<PolicyTargetReference>,
    pub(crate) target_refs: &'p List<PolicyTargetReference, 0, 16>,
}

/// The workload that policies are asked for.
#[derive(Clone, Copy, Debug)]
pub struct Workload<'w> {
    pub namespace: &'w Namespace,
    pub labels: &'w BTreeMap<String, String>,
    /// What `targetRefs` may name to mean it, each by kind and name: the services it belongs to, or the gateway that
    /// it is, with its class.
    pub attached: &'w [(&'w str, &'w str)],
}

impl Target<'_> {
    pub(crate) fn check(&self, checker: &mut Checker<'_>) {
        checker.at_most_one(&[
            ("selector", self.selector.is_some()),
            ("targetRef", self.target_ref.is_some()),
            ("targetRefs", !self.target_refs.is_empty()),
        ]);
        checker.given("selector", self.selector, |checker, selector| selector.check(checker));
        checker.given("targetRef", self.target_ref, |checker, target| target.check(checker));
        checker.each("targetRefs", self.target_refs, |checker, target| target.check(checker));
    }

    /// Whether a policy of this namespace is for the workload. Those of the root namespace are for all namespaces.
    pub(crate) fn includes(&self, namespace: &Namespace, workload: &Workload<'_>) -> bool {
        let in_root = namespace.as_str() == ROOT_NAMESPACE;
        if !in_root && namespace != workload.namespace {
            return false;
        }
        let mut references = self.target_ref.iter().chain(self.target_refs.iter()).peekable();
        if references.peek().is_some() {
            return references.any(|reference| {
                // A class has no namespace: the mesh's own policies may name it, and nobody else's.
                let may_be_named =
                    if &*reference.kind == "GatewayClass" { in_root } else { namespace == workload.namespace };
                may_be_named
                    && workload
                        .attached
                        .iter()
                        .any(|(kind, name)| *kind == &*reference.kind && *name == &*reference.name)
            });
        }
        self.selector.as_ref().is_none_or(|selector| selector.selects(workload.labels))
    }
}
