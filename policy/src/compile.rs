//! Compiles documents and node records into a view.
//!
//! `nodes` reads what nodes announce, `documents` what steers traffic (with `policies` for DestinationRules and `rules`
//! for VirtualServices), each once: a view keeps these parts, and the next one takes over those whose inputs are the
//! same. `services` puts a service together from them; one whose parts are all the same is taken over whole.
//! `gateways` puts together what clients outside of the mesh find.

mod access;
mod aliases;
mod attached;
mod audience;
mod clusters;
mod documents;
mod entries;
mod externals;
pub(crate) mod gateway_api;
mod gateways;
mod localities;
mod lower;
mod nodes;
mod outside;
mod policies;
mod rows;
mod rules;
mod service_policies;
mod services;
mod slices;
mod telemetry;
mod virtual_hosts;

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use foldhash::{HashMap, HashMapExt};
use ipnet::IpNet;
use weft_wire::{
    document::DocumentKey,
    fact::NodeRecord,
    id::{Namespace, NodeName, ServiceName, TrustDomain, WorkloadName},
};

pub use self::entries::ResolvedNames;
pub(crate) use self::{
    access::AccessIndex,
    entries::Entry,
    gateways::{Bound, GatewayIngredients, refusal},
    lower::target,
    policies::destination_rules,
    telemetry::TelemetryIndex,
};
use self::{
    documents::DocumentIndex,
    entries::Selected,
    gateway_api::route::Route,
    localities::Localities,
    nodes::{NodeRows, Row},
    policies::Policy,
    rows::{RowIndex, Rows},
    services::Declared,
    slices::Slices,
};
use crate::{
    api::gateway::PolicyTargetReference,
    document::Document,
    endpoint::{LocalWorkload, Place, Standing},
    experiment::Experiment,
    limit::RateLimiter,
    namespaces::{PerNamespace, same},
    route::{Client, RuleSet},
    secrets::{Contents, Credentials},
    service_id::ServiceId,
    settings::MeshSettings,
    sidecar::Scope,
    view::{Callers, MeshView, Service},
};

/// All that a view is made of. The result depends on what is in it, never on its order.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    pub trust_domain: &'a TrustDomain,
    pub this_node: &'a NodeName,
    /// Every member's record, this node's own with them.
    pub nodes: &'a [NodeInput],
    pub documents: &'a [Arc<Document>],
    /// Where the workloads that this node hosts listen. One that is missing here is not offered to local clients.
    pub local: &'a BTreeMap<(Namespace, WorkloadName), IpAddr>,
    /// The contents of the Secrets that this node has.
    pub secrets: &'a Arc<Contents>,
    /// What names outside of the mesh resolve to; see [`MeshView::names_to_resolve`].
    pub names: &'a Arc<ResolvedNames>,
}

/// One node's record, already verified against its certificate and grant.
#[derive(Clone, Debug)]
pub struct NodeInput {
    pub name: NodeName,
    pub record: Arc<NodeRecord>,
    pub standing: Standing,
}

/// What a view was made of, in the form that the next one can use. All are told apart by their place in memory:
/// whoever compiles passes the same `Arc` for what has not changed.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    nodes: BTreeMap<NodeName, Arc<NodeRows>>,
    local: BTreeMap<(Namespace, WorkloadName), IpAddr>,
    rows: Arc<RowIndex>,
    localities: Arc<Localities>,
    documents: Arc<DocumentIndex>,
    names: Arc<ResolvedNames>,
    /// All of the mesh, sorted; aliases are none of them.
    services: Arc<[ServiceName]>,
}

impl Parts {
    pub(crate) fn documents(&self) -> &[Arc<Document>] {
        self.documents.all()
    }

    /// Where other nodes reach a node.
    pub(crate) fn address_of(&self, node: &NodeName) -> Option<IpAddr> {
        self.nodes.get(node).map(|node| node.record.advertise)
    }

    /// Where all nodes are, for a service with these policies; nothing if none of them asks for it.
    fn localities_for(&self, policies: &[Arc<Policy>]) -> Option<Arc<Localities>> {
        policies.iter().any(|policy| policy.is_zone_aware).then(|| self.localities.clone())
    }

    /// Whether a service is of type `ExternalName`.
    pub(crate) fn is_external_name(&self, service: &ServiceName) -> bool {
        self.documents.declared.get(service).is_some_and(|declared| declared.external_name().is_some())
    }

    /// The Sidecar that holds for a client.
    pub(crate) fn scope(&self, client: Client<'_>) -> Option<&Scope> {
        self.documents.scopes.of(client).map(|scope| &**scope)
    }

    /// All RateLimits, the oldest first.
    pub(crate) fn rate_limits(&self) -> impl Iterator<Item = &RateLimiter> {
        self.documents.limits.iter().map(|policy| &*policy.limiter)
    }

    /// All FaultExperiments, the oldest first.
    pub(crate) fn experiments(&self) -> impl Iterator<Item = &Experiment> {
        self.documents.experiments.iter().map(|policy| &*policy.experiment)
    }

    /// The older BackendTLSPolicy that has a target of one.
    pub(crate) fn conflicting(&self, policy: &DocumentKey, target: &PolicyTargetReference) -> Option<Arc<Document>> {
        let namespace = policy.namespace.clone()?;
        let service = ServiceName { name: target.name.parse().ok()?, namespace: namespace.clone() };
        let policies = self.documents.backend_tls.of(&namespace, Some(&service));
        let mut older = policies.into_iter().take_while(|other| other.key != *policy);
        older.find(|other| service_policies::targets(other).contains(target))
    }

    /// Whether the mesh has what a policy attaches to.
    pub(crate) fn is_target(
        &self,
        policy: &DocumentKey,
        target: &PolicyTargetReference,
        services: &[Arc<Service>],
    ) -> bool {
        attached::is_target(policy, target, &self.documents, services)
    }
}

/// What one service was made of.
#[derive(Debug, Default)]
pub(crate) struct Ingredients {
    declared: Option<Arc<Declared>>,
    /// This node's, from where its endpoints are near or far; `None` until its record is known.
    here: Option<Arc<Place>>,
    /// Where all nodes are; only where zones are asked for.
    localities: Option<Arc<Localities>>,
    /// Rows announced under the service's name, and those that its selector selects, with those it selects among.
    own: Option<Rows>,
    selected: Vec<Arc<Row>>,
    selected_among: Option<Rows>,
    /// Of a service that selects no workloads.
    slices: Slices,
    /// BackendTLSPolicies for it, the oldest first.
    backend_tls: Vec<Arc<Document>>,
    /// What describes a host outside of the mesh, the oldest first.
    entries: Vec<Selected>,
    /// Those whose host matches: the most specific first, of these the oldest.
    policies: Vec<Arc<Policy>>,
    /// CircuitPolicies and BackendTrafficPolicies that may hold for it, the nearest first.
    circuits: Vec<Arc<Document>>,
    traffic: Vec<Arc<Document>>,
    rules: Vec<Arc<RuleSet>>,
    routes: Vec<Arc<Route>>,
}

impl Ingredients {
    pub(crate) fn ranges(&self) -> impl Iterator<Item = &IpNet> {
        self.entries.iter().flat_map(Selected::ranges)
    }

    /// The VirtualServices whose host matches, in the order in which they are asked.
    pub(crate) fn rules(&self) -> &[Arc<RuleSet>] {
        &self.rules
    }

    /// Whether it is of type `ExternalName`.
    pub(crate) fn is_alias(&self) -> bool {
        self.declared.as_ref().is_some_and(|declared| declared.external_name().is_some())
    }

    pub(crate) fn policies(&self) -> &[Arc<Policy>] {
        &self.policies
    }

    fn of(name: &ServiceName, fqdn: &str, here: Option<&Arc<Place>>, inputs: &Inputs<'_>, parts: &Parts) -> Self {
        let Parts { rows, documents, localities, .. } = parts;
        let declared = documents.declared.get(name).cloned();
        if let Some(place) = declared.as_ref().and_then(|declared| declared.place()) {
            return Self {
                slices: Slices::new(vec![place.clone()], inputs.names),
                declared: declared.clone(),
                ..Self::steered(name, fqdn, here, parts)
            };
        }
        let selects_none = declared.as_ref().is_some_and(|declared| declared.selector().is_empty());
        let slices = documents.slices.get(name).filter(|_| selects_none).cloned();
        let steered = Self::steered(name, fqdn, here, parts);
        let selector = declared.as_ref().map(|declared| declared.selector());
        let selected = selector.map(|selector| rows.selected(&name.namespace, selector));
        Self {
            own: rows.announced.get(name).cloned(),
            selected: selected.unwrap_or_default(),
            selected_among: selector.and_then(|selector| rows.with_first(&name.namespace, selector)).cloned(),
            localities: steered.localities.clone().or_else(|| slices.is_some().then(|| localities.clone())),
            slices: slices.map(|slices| Slices::new(slices, inputs.names)).unwrap_or_default(),
            declared,
            ..steered
        }
    }

    /// What steers requests for a service, whoever serves it.
    fn steered(name: &ServiceName, fqdn: &str, here: Option<&Arc<Place>>, parts: &Parts) -> Self {
        let documents = &parts.documents;
        let policies: Vec<Arc<Policy>> = documents.policies.matching(fqdn).cloned().collect();
        Self {
            localities: parts.localities_for(&policies),
            backend_tls: documents.backend_tls.of(&name.namespace, Some(name)),
            policies,
            circuits: documents.circuits.of(&name.namespace, Some(name)),
            traffic: documents.traffic.of(&name.namespace, Some(name)),
            rules: documents.rules.matching(fqdn).cloned().collect(),
            routes: documents.routes_of_services.get(name).cloned().unwrap_or_default(),
            here: here.cloned(),
            ..Self::default()
        }
    }

    fn own(&self) -> &[Arc<Row>] {
        self.own.as_deref().unwrap_or_default()
    }

    /// Whether the rows of a service of the mesh are still these, where the documents are.
    fn has_same_rows(&self, name: &ServiceName, rows: &RowIndex) -> bool {
        let selector = self.declared.as_ref().map(|declared| declared.selector());
        let among = selector.and_then(|selector| rows.with_first(&name.namespace, selector));
        rows::are_same(self.own.as_ref(), rows.announced.get(name))
            && rows::are_same(self.selected_among.as_ref(), among)
    }

    fn are_same(&self, other: &Self) -> bool {
        self.declared.as_ref().map(Arc::as_ptr) == other.declared.as_ref().map(Arc::as_ptr)
            && self.here.as_ref().map(Arc::as_ptr) == other.here.as_ref().map(Arc::as_ptr)
            && self.localities.as_ref().map(Arc::as_ptr) == other.localities.as_ref().map(Arc::as_ptr)
            && same(self.own(), other.own())
            && same(&self.selected, &other.selected)
            && self.slices.are_same(&other.slices)
            && same(&self.backend_tls, &other.backend_tls)
            && Selected::are_same(&self.entries, &other.entries)
            && same(&self.policies, &other.policies)
            && same(&self.circuits, &other.circuits)
            && same(&self.traffic, &other.traffic)
            && same(&self.rules, &other.rules)
            && same(&self.routes, &other.routes)
    }
}

/// Compiles a view; its epoch is the previous one's plus 1, and endpoints keep their live counters.
pub fn compile(inputs: &Inputs<'_>, previous: Option<&MeshView>) -> MeshView {
    let same_mesh = previous.filter(|previous| previous.trust_domain == *inputs.trust_domain);
    let parts = Parts::read(inputs, same_mesh);
    let aliases = aliases::compile(&parts.documents);
    let parts = Parts { services: service_names(&parts, &aliases, same_mesh), ..parts };
    let known = same_mesh.filter(|known| parts.steer_as(&known.parts, inputs.this_node));

    let services = services(inputs, &parts, same_mesh, known.is_some());
    let externals = match known.filter(|known| externals::have_same_rows(&parts, &known.parts)) {
        Some(known) => known.externals.clone(),
        None => Arc::new(externals::compile(inputs, &parts, same_mesh.map(|previous| &*previous.externals))),
    };
    let same_names = same_mesh.filter(|known| Arc::ptr_eq(&known.parts.services, &parts.services));
    let by_name = same_names.map_or_else(|| by_name(&parts.services), |known| known.by_name.clone());
    let same_hosts = same_names.filter(|known| Arc::ptr_eq(&known.parts.documents, &parts.documents));
    let virtual_hosts = same_hosts.map(|known| known.virtual_hosts.clone());
    let virtual_hosts = virtual_hosts
        .unwrap_or_else(|| Arc::new(virtual_hosts::compile(&parts, &services, |name| by_name.contains_key(name))));
    let settings = MeshSettings::read(
        inputs.trust_domain,
        parts.documents.mesh_config.as_ref(),
        same_mesh.map(|previous| &previous.settings),
    );
    let access =
        access::compile(&parts.documents.security, &settings, &services, same_mesh.map(|previous| &previous.access));
    let attached = attached::compile(&parts.documents, &services);
    let telemetry = telemetry::compile(
        &parts.documents.telemetry,
        &settings,
        parts.nodes.get(inputs.this_node),
        same_mesh.map(|previous| &previous.telemetry),
    );
    let gateways = gateways::compile(&parts.documents, &parts.nodes, same_mesh.map(|previous| &previous.gateways));
    MeshView {
        epoch: previous.map_or(0, |previous| previous.epoch) + 1,
        trust_domain: inputs.trust_domain.clone(),
        own_name: inputs.this_node.as_str().into(),
        own_address: inputs.nodes.iter().find(|node| node.name == *inputs.this_node).map(|node| node.record.advertise),
        by_name,
        virtual_hosts,
        aliases,
        externals,
        unserved: same_mesh.map(|previous| previous.unserved.clone()).unwrap_or_default(),
        gateways,
        local: local_workloads(&services),
        access,
        callers: callers(&parts, same_mesh),
        attached,
        telemetry,
        credentials: Credentials::of(inputs.secrets, inputs.documents, same_mesh.map(|previous| &previous.credentials)),
        settings,
        services,
        parts,
    }
}

impl Parts {
    /// All but the services' names.
    fn read(inputs: &Inputs<'_>, previous: Option<&MeshView>) -> Self {
        let no_parts = Self::default();
        let known = previous.map_or(&no_parts, |previous| &previous.parts);
        let nodes = nodes::read(inputs, known);
        let documents = documents::read(inputs.documents, &known.documents);
        Self {
            rows: rows::index(&nodes, &documents.first_labels, known),
            localities: Localities::of(&nodes, &known.localities),
            local: inputs.local.clone(),
            names: inputs.names.clone(),
            services: Arc::default(),
            nodes,
            documents,
        }
    }

    /// Whether a service is steered as by other parts: all that it is made of is the same, but for rows.
    fn steer_as(&self, other: &Self, this_node: &NodeName) -> bool {
        let here = |parts: &Self| parts.nodes.get(this_node).map(|node| Arc::as_ptr(&node.place));
        Arc::ptr_eq(&self.documents, &other.documents)
            && Arc::ptr_eq(&self.localities, &other.localities)
            && Arc::ptr_eq(&self.names, &other.names)
            && here(self) == here(other)
    }
}

/// The names of all services but aliases, sorted; the known list if they are the same.
fn service_names(
    parts: &Parts,
    aliases: &HashMap<Box<str>, Box<str>>,
    previous: Option<&MeshView>,
) -> Arc<[ServiceName]> {
    let Parts { rows, documents, .. } = parts;
    let has_same = |known: &&Parts| Arc::ptr_eq(documents, &known.documents) && rows.has_same_services(&known.rows);
    let known = previous.map(|previous| &previous.parts);
    if let Some(known) = known.filter(has_same) {
        return known.services.clone();
    }
    let announced = rows.announced.keys().filter(|name| !documents.declared.contains_key(*name));
    let is_alias = |name: &ServiceName| !aliases.is_empty() && aliases.contains_key(name.to_string().as_str());
    let mut names: Vec<&ServiceName> =
        documents.declared.keys().chain(announced).filter(|name| !is_alias(name)).collect();
    names.sort_unstable();
    match known.filter(|known| known.services.iter().eq(names.iter().copied())) {
        Some(known) => known.services.clone(),
        None => names.into_iter().cloned().collect(),
    }
}

/// The places of services by `name.namespace`.
fn by_name(services: &[ServiceName]) -> Arc<HashMap<Box<str>, u32>> {
    Arc::new(services.iter().map(|name| name.to_string().into()).zip(0..).collect())
}

/// All services, sorted. `are_steered_alike`: all parts but rows are those of the previous view.
fn services(
    inputs: &Inputs<'_>,
    parts: &Parts,
    previous: Option<&MeshView>,
    are_steered_alike: bool,
) -> Vec<Arc<Service>> {
    let mut known = previous.map_or(&[][..], |previous| &previous.services).iter().peekable();
    let here = parts.nodes.get(inputs.this_node).map(|node| &node.place);
    let service = |name: &ServiceName| {
        while known.peek().is_some_and(|service| service.id.mesh() < Some(name)) {
            known.next();
        }
        let known = known.peek().filter(|service| service.id.mesh() == Some(name));
        if let Some(known) = known
            && are_steered_alike
            && known.ingredients.has_same_rows(name, &parts.rows)
        {
            return Arc::clone(known);
        }
        let fqdn = known.map_or_else(|| name.fqdn().into(), |known| known.fqdn.clone());
        let ingredients = Ingredients::of(name, &fqdn, here, inputs, parts);
        match known {
            Some(known) if known.ingredients.are_same(&ingredients) => Arc::clone(known),
            known => {
                let id = ServiceId::Mesh(name.clone());
                Arc::new(services::service(inputs, id, fqdn, ingredients, known.map(|known| known.as_ref())))
            }
        }
    };
    parts.services.iter().map(service).collect()
}

/// The names outside of the mesh that a service needs the addresses of.
pub(crate) fn names_to_resolve(service: &Service) -> impl Iterator<Item = String> {
    entries::names_to_resolve(service).chain(service.ingredients.slices.names().cloned())
}

/// Of these VirtualServices the ones that a client sees, in the same order.
fn visible_rules(rules: &[Arc<RuleSet>]) -> PerNamespace<Vec<Arc<RuleSet>>> {
    PerNamespace::new(rules.iter().flat_map(|rules| rules.visible.names()), |namespace| {
        rules.iter().filter(|rules| rules.visible.includes(namespace)).cloned().collect()
    })
}

/// The workloads of this node, by server name.
fn local_workloads(services: &[Arc<Service>]) -> HashMap<Box<str>, Arc<LocalWorkload>> {
    let mut local: HashMap<Box<str>, Arc<LocalWorkload>> = HashMap::new();
    for (name, here) in services.iter().flat_map(|service| &service.local) {
        // Where several services have the workload, the one that it was announced for names it.
        if here.workload.service == here.service || !local.contains_key(name) {
            local.insert(name.clone(), here.clone());
        }
    }
    local
}

/// The workloads, by what may be known of a caller; the previous ones if they are the same.
fn callers(parts: &Parts, previous: Option<&MeshView>) -> Arc<Callers> {
    let are_same = |a: &Arc<NodeRows>, b: &Arc<NodeRows>| {
        let workload = |row: &Arc<Row>| Arc::as_ptr(&row.workload);
        Arc::ptr_eq(a, b) || a.rows.iter().map(workload).eq(b.rows.iter().map(workload))
    };
    if let Some(previous) = previous
        && previous.parts.nodes.len() == parts.nodes.len()
        && previous.parts.nodes.values().zip(parts.nodes.values()).all(|(a, b)| are_same(a, b))
    {
        return previous.callers.clone();
    }
    let mut callers = Callers::default();
    for Row { workload, .. } in parts.nodes.values().flat_map(|node| &node.rows).map(|row| &**row) {
        let name = format!("{}/{}", workload.namespace, workload.name);
        let known = callers.by_name.entry(name.into()).or_default();
        if !known.iter().any(|other| other.account == workload.account) {
            known.push(workload.clone());
        }
        callers
            .by_account
            .entry(workload.account.clone())
            .and_modify(|known| {
                if known.as_ref().is_some_and(|known| known.name != workload.name) {
                    *known = None;
                }
            })
            .or_insert_with(|| Some(workload.clone()));
    }
    Arc::new(callers)
}

#[cfg(test)]
mod tests;
