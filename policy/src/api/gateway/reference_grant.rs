//! ReferenceGrant: which documents of other namespaces may refer to those of its own.

use schemars::JsonSchema;
use serde::Deserialize;
use weft_wire::id::Namespace;

use super::{Group, KindName, ObjectName};
use crate::{api::values::List, document::Checker, kinds::Resource};

/// Lets documents of other namespaces refer to documents of this one.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReferenceGrant {
    /// Who may refer: any of these.
    pub from: List<ReferenceGrantFrom, 1, 16>,
    /// To what: any of these.
    pub to: List<ReferenceGrantTo, 1, 16>,
}

/// Documents of a kind in a namespace.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReferenceGrantFrom {
    pub group: Group,
    pub kind: KindName,
    #[schemars(with = "String")]
    pub namespace: Namespace,
}

/// Documents of a kind in the grant's namespace.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReferenceGrantTo {
    pub group: Group,
    pub kind: KindName,
    /// One document; all of the kind if absent.
    #[serde(default)]
    pub name: Option<ObjectName>,
}

impl Resource for ReferenceGrant {
    fn check(&self, _: &mut Checker<'_>) {}
}
