//! A route as the compilation reads it: its parents, and the services that it may name.

use std::{collections::BTreeSet, sync::Arc};

use weft_wire::id::{Namespace, ServiceName};

use super::{
    attach::{Referent, may_refer},
    rank::Seniority,
};
use crate::{
    api::gateway::{Backend, ConnectionRule, GROUP, ParentReference, ReferenceGrant},
    document::{Document, Spec},
    route::{Target, TargetHost, Weighted},
};

/// A route of any kind, with what other documents let it name.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) document: Arc<Document>,
    pub(crate) namespace: Namespace,
    pub(super) seniority: Seniority,
    /// The services of other namespaces that ReferenceGrants let it name.
    granted: BTreeSet<ServiceName>,
}

/// A route where it holds: at these ports that clients dial, `None` being any.
pub(in crate::compile) struct Attached<'r> {
    pub(in crate::compile) route: &'r Route,
    pub(in crate::compile) ports: Vec<Option<u16>>,
    pub(in crate::compile) parent: ParentKind,
}

/// What a route is attached to, which decides what it may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ParentKind {
    /// It rules clients that may call any service anyhow, and so names those of any namespace (GEP-1426, "Namespace
    /// boundaries"); policies of the services decide who may.
    Service,
    /// It opens services to whoever reaches the gateway: those of other namespaces by a ReferenceGrant alone.
    Gateway,
}

/// A ReferenceGrant and its namespace.
pub(crate) struct Grant<'a> {
    pub(crate) namespace: Namespace,
    pub(crate) grant: &'a ReferenceGrant,
}

impl<'a> Grant<'a> {
    /// `None` for another kind of document.
    pub(crate) fn of(document: &'a Document) -> Option<Self> {
        match &document.spec {
            Spec::ReferenceGrant(grant) => Some(Self { namespace: document.namespace(), grant }),
            _ => None,
        }
    }
}

impl Route {
    /// Reads a route, and takes over the known one if other documents still let it name the same. `None` for another
    /// kind of document.
    pub(crate) fn read(document: &Arc<Document>, grants: &[Grant<'_>], known: Option<&Arc<Self>>) -> Option<Arc<Self>> {
        let backends = backends(&document.spec)?;
        let namespace = document.namespace();
        let granted = backends.into_iter().filter_map(|backend| {
            let service = service_of(backend, &namespace)?;
            (service.namespace != namespace && is_granted(document, &namespace, backend, grants)).then_some(service)
        });
        let granted: BTreeSet<ServiceName> = granted.collect();
        Some(match known {
            Some(known) if known.granted == granted => known.clone(),
            _ => Arc::new(Self {
                seniority: Seniority::new(document.created, &namespace, &document.key.name),
                document: document.clone(),
                namespace,
                granted,
            }),
        })
    }

    pub(crate) fn parents(&self) -> &[ParentReference] {
        parents(&self.document.spec).unwrap_or_default()
    }
}

impl Attached<'_> {
    /// What requests for a backend are sent to: nothing if it is no service, or one that the route may not name.
    pub(super) fn target(&self, backend: Backend<'_>) -> Target {
        let Route { namespace, granted, .. } = self.route;
        let may_name = |service: &ServiceName| {
            self.parent == ParentKind::Service || service.namespace == *namespace || granted.contains(service)
        };
        let service = service_of(backend, namespace).filter(may_name);
        Target {
            host: service.map(|service| TargetHost::Backend(service.to_string())),
            port: backend.port.map(|port| port.number()),
            subset: String::new(),
        }
    }

    /// What connections are sent to by a rule.
    pub(in crate::compile) fn connection_targets(&self, rule: &ConnectionRule) -> Weighted<Target> {
        // Those without weight get nothing, even one alone.
        let backends = rule.backend_refs.iter().filter(|backend| backend.weight.get() > 0);
        let targets = backends.map(|backend| (backend.weight.get().unsigned_abs(), self.target(backend.object())));
        Weighted::new(targets.collect::<Vec<_>>().into_iter())
    }
}

/// Whether a ReferenceGrant lets a document name a backend of another namespace.
pub(crate) fn is_granted(
    document: &Document,
    namespace: &Namespace,
    backend: Backend<'_>,
    grants: &[Grant<'_>],
) -> bool {
    let from = Referent { group: GROUP, kind: &document.key.kind, namespace, name: &document.key.name };
    let to = Referent {
        group: backend.group,
        kind: backend.kind,
        namespace: backend.namespace.unwrap_or(namespace),
        name: backend.name,
    };
    may_refer(from, to, grants.iter().map(|one| (&one.namespace, one.grant)))
}

/// The service that a backend is; `None` for another kind, or a name that no service can have.
pub(crate) fn service_of(backend: Backend<'_>, namespace: &Namespace) -> Option<ServiceName> {
    let name = Some(backend.name).filter(|_| backend.is_service())?.parse().ok()?;
    Some(ServiceName { name, namespace: backend.namespace.unwrap_or(namespace).clone() })
}

/// The parents that a route names; `None` for a document that is no route.
pub(crate) fn parents(spec: &Spec) -> Option<&[ParentReference]> {
    Some(match spec {
        Spec::HttpRoute(route) => &route.parent_refs,
        Spec::GrpcRoute(route) => &route.parent_refs,
        Spec::TcpRoute(route) => &route.parent_refs,
        Spec::TlsRoute(route) => &route.parent_refs,
        Spec::UdpRoute(route) => &route.parent_refs,
        _ => return None,
    })
}

/// All that a route sends anything to, copies too; `None` for a document that is no route.
pub(crate) fn backends(spec: &Spec) -> Option<Vec<Backend<'_>>> {
    fn of_connections(rules: &[ConnectionRule]) -> Vec<Backend<'_>> {
        rules.iter().flat_map(|rule| rule.backend_refs.iter()).map(|backend| backend.object()).collect()
    }
    Some(match spec {
        Spec::HttpRoute(route) => route.rules.iter().flat_map(|rule| rule.backends()).collect(),
        Spec::GrpcRoute(route) => route.rules.iter().flat_map(|rule| rule.backends()).collect(),
        Spec::TcpRoute(route) => of_connections(&route.rules),
        Spec::TlsRoute(route) => of_connections(&route.rules),
        Spec::UdpRoute(route) => of_connections(&route.rules),
        _ => return None,
    })
}
