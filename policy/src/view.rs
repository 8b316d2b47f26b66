//! The immutable snapshot that a request reads, loaded once and kept to the request's end.

use std::{collections::HashMap, sync::Arc};

use weft_wire::{
    fact::Protocol,
    id::{Namespace, ServiceAccount, ServiceName, TrustDomain, WorkloadName},
};

use crate::{
    balance::Cluster,
    endpoint::{EndpointKey, EndpointLoad, LocalWorkload, Workload},
    hosts,
    route::{PortRoutes, RequestHead, Routing},
};

/// All that one node's requests need to know of the mesh.
#[derive(Debug)]
pub struct MeshView {
    /// Counts the views of this process.
    pub epoch: u64,
    pub trust_domain: TrustDomain,
    /// Sorted by namespace, then name.
    pub(crate) services: Vec<Arc<Service>>,
    /// By `name.namespace`.
    pub(crate) by_host: HashMap<Box<str>, Arc<Service>>,
    /// By server name.
    pub(crate) local: HashMap<Box<str>, Arc<LocalWorkload>>,
    /// By `namespace/workload`: each account that announces a workload of this name.
    pub(crate) callers: HashMap<Box<str>, Vec<Arc<Workload>>>,
    /// `None` for an account that several workloads share.
    pub(crate) by_account: HashMap<ServiceAccount, Option<Arc<Workload>>>,
    pub(crate) loads: HashMap<EndpointKey, Arc<EndpointLoad>>,
}

impl MeshView {
    /// A view of a mesh without services.
    pub fn empty(trust_domain: TrustDomain) -> Self {
        Self {
            epoch: 0,
            trust_domain,
            services: Vec::new(),
            by_host: HashMap::new(),
            local: HashMap::new(),
            callers: HashMap::new(),
            by_account: HashMap::new(),
            loads: HashMap::new(),
        }
    }

    /// The service that a client in `client_namespace` means by `host` (without a port): `reviews`, `reviews.ns`,
    /// `reviews.ns.svc` or `reviews.ns.svc.cluster.local`, in any case, with one trailing dot allowed. Allocates
    /// nothing.
    pub fn service(&self, host: &str, client_namespace: &Namespace) -> Option<&Arc<Service>> {
        hosts::with_lookup_name(host, client_namespace, |name| self.by_host.get(name)).flatten()
    }

    /// All services, sorted by namespace, then name.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.iter()
    }

    /// The workload of this node that a data connection with this server name is for. See [`sni`].
    pub fn local_workload(&self, sni: &str) -> Option<&Arc<LocalWorkload>> {
        self.local.get(sni)
    }

    /// The workload that a caller with a proven `account` says it is (`namespace/workload`), if some node announces
    /// that workload under that account. So a caller cannot invent names, and metrics' labels stay bounded.
    pub fn caller(&self, claimed: &str, account: &ServiceAccount) -> Option<&Arc<Workload>> {
        self.callers.get(claimed)?.iter().find(|workload| workload.account == *account)
    }

    /// The workload that runs as `account`, if only one name is known for it. For callers that say nothing: raw TCP.
    pub fn only_workload_of(&self, account: &ServiceAccount) -> Option<&Arc<Workload>> {
        self.by_account.get(account)?.as_ref()
    }
}

/// The server name of a data connection to a workload: `p9080.reviews-v1.default.workload.cluster.local`.
///
/// With a trust domain of more than 100 characters it may be longer than DNS allows (253).
pub fn sni(workload: &WorkloadName, namespace: &Namespace, port: u16, trust_domain: &TrustDomain) -> String {
    format!("p{port}.{workload}.{namespace}.workload.{trust_domain}")
}

/// A service as clients see it.
#[derive(Debug)]
pub struct Service {
    pub name: ServiceName,
    /// Such as `reviews.default.svc.cluster.local`.
    pub fqdn: Arc<str>,
    pub ports: Vec<ServicePort>,
    /// One for each of `ports`, in that order.
    pub(crate) routes: Vec<PortRoutes>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    pub port: u16,
    pub name: String,
    pub protocol: Protocol,
}

impl Service {
    /// The port that a client dialled: that of the authority or of the listener. `None` means the only port.
    pub fn port(&self, dialled: Option<u16>) -> Option<&ServicePort> {
        match (dialled, self.ports.as_slice()) {
            (Some(port), ports) => ports.iter().find(|known| known.port == port),
            (None, [only]) => Some(only),
            (None, _) => None,
        }
    }

    /// Where one request goes. `random` is a fresh, uniform number that chooses among weights.
    pub fn route(&self, port: u16, head: &RequestHead<'_>, random: u64) -> Routing<'_> {
        self.routes_of(port).map_or(Routing::NoRoute, |routes| routes.route(head, random))
    }

    /// The endpoints of one port, all subsets together: where TCP goes.
    pub fn cluster(&self, port: u16) -> Option<&Arc<Cluster>> {
        self.routes_of(port).map(|routes| &routes.default)
    }

    fn routes_of(&self, port: u16) -> Option<&PortRoutes> {
        let at = self.ports.iter().position(|known| known.port == port)?;
        self.routes.get(at)
    }
}
