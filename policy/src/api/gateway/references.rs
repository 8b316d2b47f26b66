//! References from one document to another.

use schemars::JsonSchema;
use serde::Deserialize;
use weft_wire::id::Namespace;

use super::{Group, KindName, ObjectName, SectionName};
use crate::{
    api::values::{Int, List, Port},
    document::Checker,
};

/// The API group of this module.
pub const GROUP: &str = "gateway.networking.k8s.io";

macro_rules! defaults {
    ($( $name:ident: $type:ident = $value:expr; )*) => {
        $( pub(super) fn $name() -> $type { $type::try_from($value.to_owned()).unwrap_or_default() } )*
    };
}

defaults! {
    gateway_group: Group = GROUP;
    gateway_kind: KindName = "Gateway";
    service_kind: KindName = "Service";
    secret_kind: KindName = "Secret";
}

/// What a route attaches to: a Gateway, a ListenerSet, or a Service, for the clients inside the mesh.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ParentReference {
    /// `""` for a Service.
    #[serde(default = "gateway_group")]
    pub group: Group,
    #[serde(default = "gateway_kind")]
    pub kind: KindName,
    /// That of the route if absent. A route for a Service of another namespace holds for its own namespace's clients.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub namespace: Option<Namespace>,
    pub name: ObjectName,
    /// A listener, or a port of a Service, by name.
    #[serde(default)]
    pub section_name: Option<SectionName>,
    /// Listeners of this port, or this port of a Service.
    #[serde(default)]
    pub port: Option<Port>,
}

/// The parents of a route.
pub type ParentReferences = List<ParentReference, 0, 32>;

/// Which gateways that call themselves default a route attaches to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum GatewayDefaultScope {
    All,
    None,
}

impl ParentReference {
    pub(crate) fn is_service(&self) -> bool {
        self.group.is_empty() && &*self.kind == "Service"
    }

    fn is_same_parent(&self, other: &Self) -> bool {
        (&self.group, &self.kind, &self.namespace, &self.name)
            == (&other.group, &other.kind, &other.namespace, &other.name)
    }
}

/// Parents must be distinct: references to one parent differ in section or port, and all give the same of these.
pub(super) fn check_parents(parents: &[ParentReference], checker: &mut Checker<'_>) {
    let mut before = 0;
    checker.each("parentRefs", parents, |checker, parent| {
        for other in parents[..before].iter().filter(|other| other.is_same_parent(parent)) {
            let gives = |parent: &ParentReference| (parent.section_name.is_some(), parent.port.is_some());
            if gives(other) != gives(parent) {
                checker.error(format!(
                    "{} {} is a parent several times: all must give sectionName, or all port, or all both",
                    parent.kind, parent.name
                ));
            } else if (&other.section_name, other.port) == (&parent.section_name, parent.port) {
                checker.error(format!(
                    "{} {} is a parent twice with the same sectionName and port",
                    parent.kind, parent.name
                ));
            } else {
                continue;
            }
            break;
        }
        before += 1;
    });
    // Gateways have no listeners yet.
    checker.pending("parentRefs", parents.iter().any(|parent| !parent.is_service()));
}

/// Makes a struct of a reference to a backend, with more fields.
macro_rules! backend_ref {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, serde::Deserialize, schemars::JsonSchema)]
        #[serde(rename_all = "camelCase", deny_unknown_fields)]
        pub struct $name {
            #[serde(default)]
            pub group: $crate::api::gateway::Group,
            #[serde(default = "crate::api::gateway::references::service_kind")]
            pub kind: $crate::api::gateway::KindName,
            pub name: $crate::api::gateway::ObjectName,
            /// That of this document if absent; another one needs a ReferenceGrant there, but for routes of Services.
            #[serde(default)]
            #[schemars(with = "Option<String>")]
            pub namespace: Option<weft_wire::id::Namespace>,
            /// The service's port.
            #[serde(default)]
            pub port: Option<$crate::api::values::Port>,
            $($(#[$field_doc])* pub $field: $type,)*
        }

        impl $name {
            /// The backend alone.
            pub fn object(&self) -> $crate::api::gateway::Backend<'_> {
                $crate::api::gateway::Backend {
                    group: &self.group,
                    kind: &self.kind,
                    name: &self.name,
                    namespace: self.namespace.as_ref(),
                    port: self.port,
                }
            }
        }
    };
}
pub(super) use backend_ref;

/// A backend, whichever field it stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backend<'a> {
    pub group: &'a str,
    pub kind: &'a str,
    pub name: &'a str,
    pub namespace: Option<&'a Namespace>,
    pub port: Option<Port>,
}

impl Backend<'_> {
    pub(crate) fn is_service(self) -> bool {
        self.group.is_empty() && self.kind == "Service"
    }

    pub(super) fn check(self, checker: &mut Checker<'_>) {
        if self.is_service() {
            checker.require("port", self.port.is_some());
        }
    }
}

/// A part of the sum of all weights.
pub type Weight = Int<0, 1_000_000>;

pub(super) fn weight_one() -> Weight {
    Weight::constant::<1>()
}

backend_ref! {
    /// Where something goes.
    BackendObjectReference {}
}

backend_ref! {
    /// Where a share of the connections goes.
    BackendRef {
        /// Its part of the sum of all weights; 1 if absent.
        #[serde(default = "weight_one")]
        weight: Weight,
    }
}

/// A document of the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LocalObjectReference {
    #[serde(default)]
    pub group: Group,
    pub kind: KindName,
    pub name: ObjectName,
}

impl LocalObjectReference {
    pub(crate) fn is_config_map(&self) -> bool {
        self.group.is_empty() && &*self.kind == "ConfigMap"
    }
}

/// A document of any namespace.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ObjectReference {
    pub group: Group,
    pub kind: KindName,
    pub name: ObjectName,
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub namespace: Option<Namespace>,
}

/// A Secret with a certificate and its key.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecretObjectReference {
    #[serde(default)]
    pub group: Group,
    #[serde(default = "secret_kind")]
    pub kind: KindName,
    pub name: ObjectName,
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub namespace: Option<Namespace>,
}
