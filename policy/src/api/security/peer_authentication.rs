//! PeerAuthentication: whether workloads ask their clients for mutual TLS. Rules: Istio's
//! `pkg/config/validation/validation.go`.

use std::{borrow::Cow, collections::BTreeMap};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, de};

use crate::{api::target::WorkloadSelector, document::Checker, kinds::Resource};

/// Whether workloads ask their clients for mutual TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct PeerAuthentication {
    /// Without it, all workloads of the namespace; in the root namespace, all of the mesh.
    pub selector: Option<WorkloadSelector>,
    pub mtls: Option<MutualTls>,
    /// By the workloads' own ports. Only with a selector.
    pub port_level_mtls: Option<BTreeMap<PortKey, MutualTls>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct MutualTls {
    pub mode: MutualTlsMode,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum MutualTlsMode {
    /// As the namespace, the mesh, or `PERMISSIVE` if none says it.
    #[default]
    Unset,
    /// Plain text only.
    Disable,
    /// Mutual TLS and plain text.
    Permissive,
    /// Mutual TLS only.
    Strict,
}

/// A port number as a map's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortKey(pub u16);

impl<'de> Deserialize<'de> for PortKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let number = text.parse::<u16>().ok().filter(|number| *number != 0);
        number.map(Self).ok_or_else(|| de::Error::custom(format!("{text:?} is not a port: 1 to 65535")))
    }
}

impl JsonSchema for PortKey {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "PortKey".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^[1-9][0-9]{0,4}$" })
    }
}

impl PeerAuthentication {
    /// Whether it is for all workloads of its namespace, or of the mesh.
    pub(crate) fn is_for_all(&self) -> bool {
        self.selector.as_ref().is_none_or(|selector| selector.match_labels.is_empty())
    }
}

impl Resource for PeerAuthentication {
    fn check(&self, checker: &mut Checker<'_>) {
        checker.given("selector", &self.selector, |checker, selector| selector.check(checker));
        if let Some(ports) = &self.port_level_mtls {
            if ports.is_empty() {
                checker.error_in("portLevelMtls", "must have at least one port, or be left out");
            }
            if self.is_for_all() {
                checker.error_in("portLevelMtls", "needs a selector with labels: ports are those of workloads");
            }
        }
        // The data port takes mutual TLS and nothing else, whatever the mode; a workload's own port is not weft's.
        let is_disabled = |mtls: &MutualTls| mtls.mode == MutualTlsMode::Disable;
        let what = "has DISABLE, which has workloads called as PERMISSIVE does: between nodes there is always mutual TLS, \
                    which they see nothing of";
        for (key, given) in [
            ("mtls", self.mtls.as_ref().is_some_and(is_disabled)),
            ("portLevelMtls", self.port_level_mtls.iter().flat_map(BTreeMap::values).any(is_disabled)),
        ] {
            if given {
                checker.warn_in(key, what);
            }
        }
    }
}
