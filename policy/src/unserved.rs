//! Hosts that no node and no document serves, and what becomes of requests for them: the `outboundTrafficPolicy`.

use std::sync::Arc;

use weft_wire::id::Namespace;

use crate::{
    api::mesh::OutboundTrafficMode,
    balance::Cluster,
    compile::Ingredients,
    namespaces::PerNamespace,
    retry::RetryPolicy,
    service_id::ServiceId,
    view::{Clusters, PortClusters, SeenClusters, Service},
};

/// As Istio's metrics name them. No host of a document has capitals.
const PASSTHROUGH: &str = "PassthroughCluster";
const BLACK_HOLE: &str = "BlackHoleCluster";
/// The namespace of what is in none, in Istio's metrics.
const UNKNOWN: &str = "unknown";
/// Istio's name of the route that lets requests pass.
pub(crate) const PASSTHROUGH_ROUTE: &str = "allow_any";

/// What becomes of requests and connections to hosts that nobody serves.
#[derive(Clone, Copy, Debug)]
pub enum Unserved<'v> {
    /// They go to the address that they ask for, or to a proxy of the mesh's own.
    Passed(Passthrough<'v>),
    /// They are refused because a document says so, and count for this service.
    BlackHoled(&'v Arc<Service>),
    /// They are refused: no document says anything. Whoever listens for local applications must not become a way to
    /// everywhere by accident.
    Refused,
}

/// Where requests go that pass.
#[derive(Clone, Copy, Debug)]
pub struct Passthrough<'v> {
    pub service: &'v Arc<Service>,
    pub cluster: &'v Arc<Cluster>,
    pub(crate) retry: &'v RetryPolicy,
}

/// What all hosts that nobody serves have in common: the same in all views.
#[derive(Debug)]
pub(crate) struct UnservedHosts {
    service: Arc<Service>,
    cluster: Arc<Cluster>,
    /// As Istio's route.
    retry: RetryPolicy,
    black_hole: Arc<Service>,
}

impl UnservedHosts {
    pub(crate) fn by(&self, mode: Option<OutboundTrafficMode>) -> Unserved<'_> {
        match mode {
            None => Unserved::Refused,
            Some(OutboundTrafficMode::AllowAny) => self.to(&self.service, &self.cluster),
            Some(OutboundTrafficMode::RegistryOnly) => Unserved::BlackHoled(&self.black_hole),
        }
    }

    pub(crate) fn to<'v>(&'v self, service: &'v Arc<Service>, cluster: &'v Arc<Cluster>) -> Unserved<'v> {
        Unserved::Passed(Passthrough { service, cluster, retry: &self.retry })
    }
}

impl Default for UnservedHosts {
    fn default() -> Self {
        let fqdn = Arc::from(PASSTHROUGH);
        let cluster = Arc::new(Cluster::passthrough(&fqdn));
        let clusters = vec![PortClusters { all: cluster.clone(), subsets: Vec::new() }];
        Self {
            service: service(fqdn, clusters),
            cluster,
            retry: RetryPolicy::never(),
            black_hole: service(BLACK_HOLE.into(), Vec::new()),
        }
    }
}

fn service(host: Arc<str>, ports: Vec<PortClusters>) -> Arc<Service> {
    // A label of RFC 1123.
    let namespace = UNKNOWN.parse().unwrap_or_else(|_| Namespace::default_namespace());
    Arc::new(Service {
        id: ServiceId::Host { namespace, host: host.clone() },
        fqdn: host,
        ports: Vec::new(),
        clusters: PerNamespace::everywhere(SeenClusters {
            selected: Box::default(),
            others: Arc::new(Clusters { ports }),
        }),
        rules: PerNamespace::everywhere(Vec::new()),
        of_routes: Vec::new(),
        local: Vec::new(),
        ingredients: Ingredients::default(),
    })
}
