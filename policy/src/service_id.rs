//! What a service is called across views.

use std::{fmt, sync::Arc};

use weft_wire::id::{Namespace, ServiceName};

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ServiceId {
    /// A service of the mesh.
    Mesh(ServiceName),
    /// A host that ServiceEntries of a namespace describe; it may be a wildcard.
    Host { namespace: Namespace, host: Arc<str> },
}

impl ServiceId {
    /// The service's namespace, or that of the ServiceEntries.
    pub fn namespace(&self) -> &Namespace {
        match self {
            Self::Mesh(service) => &service.namespace,
            Self::Host { namespace, .. } => namespace,
        }
    }

    /// The name within its namespace: of a host, the whole host, as in Istio.
    pub fn name(&self) -> &str {
        match self {
            Self::Mesh(service) => service.name.as_str(),
            Self::Host { host, .. } => host,
        }
    }

    /// Such as `reviews.default.svc.cluster.local`.
    pub fn fqdn(&self) -> String {
        match self {
            Self::Mesh(service) => service.fqdn(),
            Self::Host { host, .. } => host.to_string(),
        }
    }

    /// `None` for a host outside of the mesh.
    pub fn mesh(&self) -> Option<&ServiceName> {
        match self {
            Self::Mesh(service) => Some(service),
            Self::Host { .. } => None,
        }
    }
}

impl fmt::Display for ServiceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mesh(service) => service.fmt(f),
            Self::Host { host, .. } => f.write_str(host),
        }
    }
}
