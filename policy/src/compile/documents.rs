//! The documents that steer traffic: each read once, and found by what it is for.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use foldhash::{HashMap, HashMapExt};
use weft_wire::{
    document::DocumentKey,
    id::{Namespace, ServiceName},
};

use super::{
    access::{SecurityDocuments, is_about_security},
    attached::{ExperimentPolicy, LimitPolicy, is_route},
    entries::Entry,
    gateway_api::{
        attach::service_parents,
        route::{Grant, Route},
    },
    gateways::Bound,
    policies::Policy,
    rows::FirstLabels,
    rules,
    service_policies::ByService,
    services::Declared,
    slices::Slice,
};
use crate::{
    api::networking::VirtualService,
    document::{Document, Spec},
    hosts::{HostIndex, HostPattern},
    namespaces::same,
    route::RuleSet,
    settings,
    sidecar::{Scope, Scopes},
};

#[derive(Debug, Default)]
pub(super) struct DocumentIndex {
    /// What it was made of. Keeps the documents in memory, so that no address below can mean another one.
    documents: Vec<Arc<Document>>,
    /// By the address of its document.
    parts: HashMap<usize, Part>,
    pub(super) declared: HashMap<ServiceName, Arc<Declared>>,
    pub(super) first_labels: FirstLabels,
    /// The oldest first, of those for one host.
    pub(super) policies: HostIndex<Arc<Policy>>,
    pub(super) rules: HostIndex<Arc<RuleSet>>,
    /// All of them, the oldest first.
    pub(super) rules_by_age: Vec<Arc<RuleSet>>,
    pub(super) security: SecurityDocuments,
    /// The routes of the Gateway API that have a service as a parent, the oldest first.
    pub(super) routes_of_services: HashMap<ServiceName, Vec<Arc<Route>>>,
    /// Those that have a gateway as a parent, the oldest first.
    pub(super) routes_of_gateways: Vec<Arc<Route>>,
    /// Istio's Gateways, the oldest first.
    pub(super) gateways: Vec<Arc<Document>>,
    /// The VirtualServices that name gateways, the oldest first.
    pub(super) bound: Vec<Arc<Bound>>,
    /// What Gateways of the Gateway API are made of, and whether there are any.
    pub(super) gateway_documents: Vec<Arc<Document>>,
    pub(super) has_gateways: bool,
    pub(super) mesh_config: Option<Arc<Document>>,
    pub(super) scopes: Scopes,
    /// The oldest first.
    pub(super) telemetry: Vec<Arc<Document>>,
    /// The oldest first.
    pub(super) limits: Vec<Arc<LimitPolicy>>,
    /// The oldest first.
    pub(super) experiments: Vec<Arc<ExperimentPolicy>>,
    /// The oldest first.
    pub(super) slices: HashMap<ServiceName, Vec<Arc<Slice>>>,
    pub(super) backend_tls: ByService,
    /// ServiceEntries by each of their hosts, the oldest first.
    pub(super) entries: BTreeMap<HostPattern, Vec<Arc<Entry>>>,
    /// The oldest first.
    pub(super) workload_entries: HashMap<Namespace, Vec<Arc<Document>>>,
    /// CircuitPolicies and BackendTrafficPolicies.
    pub(super) circuits: ByService,
    pub(super) traffic: ByService,
    /// What policies may attach to; empty while there are no such policies.
    pub(super) routes: HashMap<DocumentKey, Arc<Document>>,
}

/// A document, read as far as it can be without the others.
#[derive(Clone, Debug)]
enum Part {
    Service(Arc<Declared>),
    Policy(Arc<Policy>),
    Rules(Rules),
    /// For workloads of this node, to be compiled with the others that are for the same ones.
    Security(Arc<Document>),
    Route(Arc<Route>),
    MeshConfig(Arc<Document>),
    Limit(Arc<LimitPolicy>),
    Experiment(Arc<ExperimentPolicy>),
    Slice(Arc<Slice>),
    Entry(Arc<Entry>),
    Workload(Arc<Document>),
    BackendTls(Arc<Document>),
    IstioGateway(Arc<Document>),
    /// A Gateway of the Gateway API, or what one asks for.
    OfGateways(Arc<Document>),
    Circuit(Arc<Document>),
    Traffic(Arc<Document>),
    Sidecar(Arc<Scope>),
    Telemetry(Arc<Document>),
}

/// A VirtualService, for clients inside the mesh and for those of gateways.
#[derive(Clone, Debug)]
struct Rules {
    mesh: Option<Arc<RuleSet>>,
    bound: Option<Arc<Bound>>,
    /// The documents that it delegates to.
    delegates: Vec<Option<Arc<Document>>>,
}

/// Reads the documents; takes over what is known of them.
pub(super) fn read(documents: &[Arc<Document>], known: &Arc<DocumentIndex>) -> Arc<DocumentIndex> {
    if same(documents, &known.documents) {
        return known.clone();
    }
    let delegates: HashMap<&DocumentKey, &Arc<Document>> = documents
        .iter()
        .filter(|document| matches!(&document.spec, Spec::VirtualService(rules) if rules.is_delegate()))
        .map(|document| (&document.key, document))
        .collect();
    let grants: Vec<Grant<'_>> = documents.iter().filter_map(|document| Grant::of(document)).collect();
    let mut sorted: Vec<&Arc<Document>> = documents.iter().collect();
    // Equal stamps are possible, of two authors; the key makes all nodes choose alike.
    sorted.sort_unstable_by(|a, b| a.created.cmp(&b.created).then_with(|| a.key.cmp(&b.key)));

    let parts = HashMap::with_capacity(documents.len());
    let mut index = DocumentIndex { documents: documents.to_vec(), parts, ..DocumentIndex::default() };
    for document in sorted {
        let address = Arc::as_ptr(document) as usize;
        if let Some(part) = Part::read(document, known, &delegates, &grants) {
            index.add(&part);
            index.parts.insert(address, part);
        }
    }
    if !index.limits.is_empty() || !index.experiments.is_empty() {
        let routes = documents.iter().filter(|document| is_route(document));
        index.routes = routes.map(|document| (document.key.clone(), document.clone())).collect();
    }
    for documents in index.security.values_mut() {
        documents.sort_unstable_by(|a, b| a.key.cmp(&b.key));
    }
    Arc::new(index)
}

impl Part {
    fn read(
        document: &Arc<Document>,
        index: &DocumentIndex,
        delegates: &HashMap<&DocumentKey, &Arc<Document>>,
        grants: &[Grant<'_>],
    ) -> Option<Self> {
        let known = index.parts.get(&(Arc::as_ptr(document) as usize));
        match (&document.spec, known) {
            (Spec::VirtualService(service), known) => {
                if service.is_delegate() {
                    return None;
                }
                let delegates = rules::delegates_of(document, service, delegates);
                match known {
                    Some(part @ Self::Rules(held)) if are_same(&held.delegates, &delegates) => Some(part.clone()),
                    _ => Some(Self::Rules(Rules::compile(document, service, delegates))),
                }
            }
            (
                Spec::HttpRoute(_) | Spec::GrpcRoute(_) | Spec::TcpRoute(_) | Spec::TlsRoute(_) | Spec::UdpRoute(_),
                known,
            ) => {
                let known = known.and_then(|part| match part {
                    Self::Route(route) => Some(route),
                    _ => None,
                });
                Route::read(document, grants, known).map(Self::Route)
            }
            (_, Some(part)) => Some(part.clone()),
            (Spec::DestinationRule(_), None) => Policy::read(document).map(|policy| Self::Policy(Arc::new(policy))),
            (Spec::Service(_), None) => Declared::read(document).map(|declared| Self::Service(Arc::new(declared))),
            (Spec::EndpointSlice(slice), None) => {
                Slice::read(document, slice).map(|slice| Self::Slice(Arc::new(slice)))
            }
            (Spec::ServiceEntry(_), None) => Entry::read(document).map(|entry| Self::Entry(Arc::new(entry))),
            (Spec::WorkloadEntry(_), None) => Some(Self::Workload(document.clone())),
            (Spec::IstioGateway(_), None) => Some(Self::IstioGateway(document.clone())),
            (
                Spec::K8sGateway(_)
                | Spec::GatewayClass(_)
                | Spec::ListenerSet(_)
                | Spec::XListenerSet(_)
                | Spec::ReferenceGrant(_)
                | Spec::Namespace(_),
                None,
            ) => Some(Self::OfGateways(document.clone())),
            (Spec::BackendTlsPolicy(_), None) => Some(Self::BackendTls(document.clone())),
            (Spec::CircuitPolicy(_), None) => Some(Self::Circuit(document.clone())),
            (Spec::BackendTrafficPolicy(_), None) => Some(Self::Traffic(document.clone())),
            (Spec::Telemetry(_), None) => Some(Self::Telemetry(document.clone())),
            (Spec::Sidecar(_), None) => Scope::read(document).map(|scope| Self::Sidecar(Arc::new(scope))),
            (Spec::MeshConfig(_), None) => {
                settings::config_of(document).is_some().then(|| Self::MeshConfig(document.clone()))
            }
            (Spec::FaultExperiment(policy), None) => {
                let before = index.experiments.iter().find(|known| *known.key() == document.key);
                let made = ExperimentPolicy::new(document, policy, before.map(|known| &**known));
                Some(Self::Experiment(Arc::new(made)))
            }
            (Spec::RateLimit(policy), None) => {
                let before = index.limits.iter().find(|known| *known.key() == document.key);
                Some(Self::Limit(Arc::new(LimitPolicy::new(document, policy, before.map(|known| &**known)))))
            }
            (_, None) => is_about_security(document).then(|| Self::Security(document.clone())),
        }
    }
}

impl Rules {
    fn compile(document: &Arc<Document>, service: &VirtualService, delegates: Vec<Option<Arc<Document>>>) -> Self {
        Self {
            mesh: service.is_for_mesh().then(|| Arc::new(rules::compile(document, service, &delegates))),
            bound: Bound::read(document, service, &delegates).map(Arc::new),
            delegates,
        }
    }
}

fn are_same(a: &[Option<Arc<Document>>], b: &[Option<Arc<Document>>]) -> bool {
    let address = |document: &Option<Arc<Document>>| document.as_ref().map(Arc::as_ptr);
    a.iter().map(address).eq(b.iter().map(address))
}

impl DocumentIndex {
    /// What it was made of.
    pub(super) fn all(&self) -> &[Arc<Document>] {
        &self.documents
    }

    fn add(&mut self, part: &Part) {
        match part {
            Part::Service(declared) => {
                self.add_first_label(&declared.name.namespace, declared.selector());
                self.declared.insert(declared.name.clone(), declared.clone());
            }
            Part::Policy(policy) => self.policies.insert(&policy.host, policy.clone()),
            Part::Rules(Rules { mesh, bound, .. }) => {
                if let Some(rules) = mesh {
                    for host in &rules.hosts {
                        self.rules.insert(host, rules.clone());
                    }
                    self.rules_by_age.push(rules.clone());
                }
                self.bound.extend(bound.clone());
            }
            Part::IstioGateway(document) => self.gateways.push(document.clone()),
            Part::OfGateways(document) => {
                self.has_gateways |= matches!(document.spec, Spec::K8sGateway(_));
                self.gateway_documents.push(document.clone());
            }
            Part::Experiment(policy) => self.experiments.push(policy.clone()),
            Part::Limit(policy) => self.limits.push(policy.clone()),
            Part::Security(document) => {
                let namespace = document.namespace().as_str().into();
                self.security.entry(namespace).or_default().push(document.clone());
            }
            Part::Route(route) => {
                let services: BTreeSet<ServiceName> =
                    service_parents(&route.namespace, route.parents()).map(|parent| parent.service).collect();
                for service in services {
                    self.routes_of_services.entry(service).or_default().push(route.clone());
                }
                if route.parents().iter().any(|parent| !parent.is_service()) {
                    self.routes_of_gateways.push(route.clone());
                }
            }
            Part::Entry(entry) => {
                if let Some(selector) = entry.selector() {
                    self.add_first_label(&entry.namespace, selector);
                }
                for host in &entry.hosts {
                    self.entries.entry(host.clone()).or_default().push(entry.clone());
                }
            }
            Part::Workload(document) => {
                self.workload_entries.entry(document.namespace()).or_default().push(document.clone());
            }
            Part::BackendTls(document) => self.backend_tls.insert(document),
            Part::Circuit(document) => self.circuits.insert(document),
            Part::Traffic(document) => self.traffic.insert(document),
            Part::Slice(slice) => self.slices.entry(slice.service.clone()).or_default().push(slice.clone()),
            Part::Telemetry(document) => self.telemetry.push(document.clone()),
            Part::Sidecar(scope) => self.scopes.add(scope),
            Part::MeshConfig(document) => self.mesh_config = Some(document.clone()),
        }
    }

    fn add_first_label(&mut self, namespace: &Namespace, selector: &BTreeMap<String, String>) {
        if let Some((label, _)) = selector.first_key_value() {
            let labels = self.first_labels.entry(namespace.clone()).or_default();
            if !labels.contains(label) {
                labels.insert(label.clone());
            }
        }
    }
}
