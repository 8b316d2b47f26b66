//! Compiles documents and node records into a view.
//!
//! `nodes` reads what nodes announce, `policies` and `rules` the documents that steer traffic, each once: a view keeps
//! these parts, and the next one takes over those whose inputs are the same. `services` puts a service together from
//! them, and takes over the whole service if all of its parts are the same.

mod clusters;
pub mod gateway_api;
mod lower;
mod nodes;
mod policies;
mod rules;
mod services;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use weft_wire::{
    document::DocumentKey,
    fact::NodeRecord,
    id::{Namespace, NodeName, ServiceName, TrustDomain, WorkloadName},
};

use self::{
    nodes::{NodeRows, Row},
    policies::Policy,
    services::Declared,
};
use crate::{
    document::{Document, Spec},
    endpoint::{EndpointAddress, LocalWorkload, Standing, Workload},
    hosts::{self, HostIndex, HostPattern},
    namespaces::{PerNamespace, same},
    retry::RetryPolicy,
    route::RuleSet,
    view::{Callers, HostEntry, MeshView, Service, VirtualHost, sni},
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
    /// By the address of the document, which the part keeps alive.
    documents: HashMap<usize, DocumentPart>,
}

/// A document, read as far as it can be without the others.
#[derive(Clone, Debug)]
enum DocumentPart {
    Service(Arc<Declared>),
    Policy(Arc<Policy>),
    /// With the documents that it delegates to, which it holds too.
    Rules(Arc<RuleSet>, Vec<Option<Arc<Document>>>),
}

/// What one service was made of.
#[derive(Debug, Default)]
pub(crate) struct Ingredients {
    declared: Option<Arc<Declared>>,
    /// Rows announced under the service's name, and those that its selector selects.
    own: Vec<Arc<Row>>,
    selected: Vec<Arc<Row>>,
    /// Those whose host matches: the most specific first, of these the oldest.
    policies: Vec<Arc<Policy>>,
    rules: Vec<Arc<RuleSet>>,
}

impl Ingredients {
    fn are_same(&self, other: &Self) -> bool {
        self.declared.as_ref().map(Arc::as_ptr) == other.declared.as_ref().map(Arc::as_ptr)
            && same(&self.own, &other.own)
            && same(&self.selected, &other.selected)
            && same(&self.policies, &other.policies)
            && same(&self.rules, &other.rules)
    }
}

/// Compiles a view; its epoch is the previous one's plus 1, and endpoints keep their live counters.
pub fn compile(inputs: &Inputs<'_>, previous: Option<&MeshView>) -> MeshView {
    let same_mesh = previous.filter(|previous| previous.trust_domain == *inputs.trust_domain);
    let no_parts = Parts::default();
    let known = same_mesh.map_or(&no_parts, |previous| &previous.parts);
    let parts = Parts {
        nodes: nodes::read(inputs, known),
        local: inputs.local.clone(),
        documents: read_documents(inputs.documents, known),
    };
    let sources = Sources::new(inputs.documents, &parts);
    let (services, ends_of_services) = sources.services(same_mesh.map_or(&[], |previous| &previous.services));
    let by_host = services.iter().map(|service| (service.name.to_string().into(), HostEntry::Service(service.clone())));
    let mut by_host = by_host.collect();
    let by_end = sources.virtual_hosts(&ends_of_services, &mut by_host);
    MeshView {
        epoch: previous.map_or(0, |previous| previous.epoch) + 1,
        trust_domain: inputs.trust_domain.clone(),
        by_host,
        by_end,
        local: local_workloads(inputs, &services),
        callers: callers(&parts, same_mesh),
        default_retry: RetryPolicy::default(),
        services,
        parts,
    }
}

/// Reads each document on its own, those that are not known yet.
fn read_documents(documents: &[Arc<Document>], known: &Parts) -> HashMap<usize, DocumentPart> {
    let delegates: HashMap<&DocumentKey, &Arc<Document>> = documents
        .iter()
        .filter(|document| matches!(&document.spec, Spec::VirtualService(rules) if rules.is_delegate()))
        .map(|document| (&document.key, document))
        .collect();
    let mut parts = HashMap::with_capacity(documents.len());
    for document in documents {
        let address = Arc::as_ptr(document) as usize;
        let part = match (known.documents.get(&address), &document.spec) {
            (_, Spec::VirtualService(service)) if service.is_for_mesh() && !service.is_delegate() => {
                let wanted = rules::delegates_of(document, service, &delegates);
                match known.documents.get(&address) {
                    Some(part @ DocumentPart::Rules(_, held)) if are_same_documents(held, &wanted) => part.clone(),
                    _ => DocumentPart::Rules(Arc::new(rules::compile(document, service, &wanted)), wanted),
                }
            }
            (Some(part), _) => part.clone(),
            (None, Spec::DestinationRule(_)) => match Policy::read(document) {
                Some(policy) => DocumentPart::Policy(Arc::new(policy)),
                None => continue,
            },
            (None, Spec::Service(_)) => match Declared::read(document) {
                Some(declared) => DocumentPart::Service(Arc::new(declared)),
                None => continue,
            },
            _ => continue,
        };
        parts.insert(address, part);
    }
    parts
}

fn are_same_documents(a: &[Option<Arc<Document>>], b: &[Option<Arc<Document>>]) -> bool {
    let address = |document: &Option<Arc<Document>>| document.as_ref().map(Arc::as_ptr);
    a.iter().map(address).eq(b.iter().map(address))
}

/// What services are put together from.
struct Sources<'a> {
    announced: BTreeMap<&'a ServiceName, Vec<Arc<Row>>>,
    declared: BTreeMap<&'a ServiceName, &'a Arc<Declared>>,
    /// Rows by their namespace and one label, for the labels that selectors begin with.
    by_label: HashMap<(&'a Namespace, &'a str, &'a str), Vec<Arc<Row>>>,
    policies: HostIndex<&'a Arc<Policy>>,
    rules: HostIndex<&'a Arc<RuleSet>>,
    /// The same by age.
    rules_by_age: Vec<&'a Arc<RuleSet>>,
}

impl<'a> Sources<'a> {
    fn new(documents: &'a [Arc<Document>], parts: &'a Parts) -> Self {
        let mut sorted: Vec<&Arc<Document>> = documents.iter().collect();
        // Equal stamps are possible, of two authors; the key makes all nodes choose alike.
        sorted.sort_unstable_by(|a, b| a.created.cmp(&b.created).then_with(|| a.key.cmp(&b.key)));
        let mut sources = Self {
            announced: BTreeMap::new(),
            declared: BTreeMap::new(),
            by_label: HashMap::new(),
            policies: HostIndex::default(),
            rules: HostIndex::default(),
            rules_by_age: Vec::new(),
        };
        for document in sorted {
            match parts.documents.get(&(Arc::as_ptr(document) as usize)) {
                Some(DocumentPart::Service(declared)) => {
                    sources.declared.insert(&declared.name, declared);
                }
                Some(DocumentPart::Policy(policy)) => sources.policies.insert(&policy.host, policy),
                Some(DocumentPart::Rules(rules, _)) => {
                    for host in &rules.hosts {
                        sources.rules.insert(host, rules);
                    }
                    sources.rules_by_age.push(rules);
                }
                None => {}
            }
        }
        let first_labels: HashSet<(&Namespace, &str)> = sources
            .declared
            .values()
            .filter_map(|declared| Some((&declared.name.namespace, declared.first_label()?.0)))
            .collect();
        for row in parts.nodes.values().flat_map(|node| &node.rows) {
            sources.announced.entry(&row.announced.service).or_default().push(row.clone());
            let namespace = &row.announced.service.namespace;
            for (name, value) in &row.workload.labels {
                if first_labels.contains(&(namespace, name.as_str())) {
                    sources.by_label.entry((namespace, name, value)).or_default().push(row.clone());
                }
            }
        }
        sources
    }

    /// All services, sorted; and the ends of wildcards that rule one of them.
    fn services(&self, known: &[Arc<Service>]) -> (Vec<Arc<Service>>, HashSet<&'a str>) {
        let names: BTreeSet<&ServiceName> = self.declared.keys().chain(self.announced.keys()).copied().collect();
        let mut known = known.iter().peekable();
        let mut ends = HashSet::new();
        let services = names.into_iter().map(|name| {
            while known.peek().is_some_and(|service| service.name < *name) {
                known.next();
            }
            let known = known.peek().filter(|service| service.name == *name);
            let fqdn = known.map_or_else(|| name.fqdn().into(), |known| known.fqdn.clone());
            let ingredients = self.ingredients(name, &fqdn);
            for rules in &self.rules.matching(&fqdn).copied().collect::<Vec<_>>() {
                ends.extend(rules.hosts.iter().filter_map(|host| match host {
                    HostPattern::Wildcard(end) if host.matches(&fqdn) => Some(end.as_str()),
                    _ => None,
                }));
            }
            match known {
                Some(known) if known.ingredients.are_same(&ingredients) => Arc::clone(known),
                _ => Arc::new(services::service(name, fqdn, ingredients)),
            }
        });
        let services = services.collect();
        (services, ends)
    }

    fn ingredients(&self, name: &ServiceName, fqdn: &str) -> Ingredients {
        let declared = self.declared.get(name).copied().cloned();
        let selected = declared.as_ref().and_then(|declared| {
            let (label, value) = declared.first_label()?;
            let rows = self.by_label.get(&(&name.namespace, label, value))?.iter();
            Some(rows.filter(|row| row.workload.has_labels(declared.selector())).cloned().collect())
        });
        Ingredients {
            declared,
            own: self.announced.get(name).cloned().unwrap_or_default(),
            selected: selected.unwrap_or_default(),
            policies: self.policies.matching(fqdn).copied().cloned().collect(),
            rules: self.rules.matching(fqdn).copied().cloned().collect(),
        }
    }

    /// The hosts that VirtualServices name and that are no service: adds those that are named whole to `by_host`, and
    /// returns those that are named by their end. An end that rules a service is for services, as in Istio.
    fn virtual_hosts(
        &self,
        ends_of_services: &HashSet<&str>,
        by_host: &mut HashMap<Box<str>, HostEntry>,
    ) -> HostIndex<Arc<VirtualHost>> {
        let mut rules_of: BTreeMap<&HostPattern, Vec<Arc<RuleSet>>> = BTreeMap::new();
        for rules in &self.rules_by_age {
            for host in &rules.hosts {
                rules_of.entry(host).or_default().push(Arc::clone(rules));
            }
        }
        let mut by_end = HostIndex::default();
        for (host, rules) in rules_of {
            let entry = || Arc::new(VirtualHost { rules: visible_rules(&rules) });
            match host {
                HostPattern::Exact(name) => {
                    let looked_up = hosts::service_of(name).map_or_else(|| name.clone(), |service| service.to_string());
                    by_host.entry(looked_up.into()).or_insert_with(|| HostEntry::Virtual(entry()));
                }
                HostPattern::Wildcard(end) if ends_of_services.contains(end.as_str()) => {}
                wildcard => by_end.insert(wildcard, entry()),
            }
        }
        by_end
    }
}

/// Of these VirtualServices the ones that a client sees, in the same order.
fn visible_rules(rules: &[Arc<RuleSet>]) -> PerNamespace<Vec<Arc<RuleSet>>> {
    PerNamespace::new(rules.iter().flat_map(|rules| rules.visible.names()), |namespace| {
        rules.iter().filter(|rules| rules.visible.includes(namespace)).cloned().collect()
    })
}

/// The workloads of this node, by server name.
fn local_workloads(inputs: &Inputs<'_>, services: &[Arc<Service>]) -> HashMap<Box<str>, Arc<LocalWorkload>> {
    let mut local: HashMap<Box<str>, Arc<LocalWorkload>> = HashMap::new();
    for service in services {
        for endpoint in service.clusters.elsewhere().ports.iter().flat_map(|port| &port.all.endpoints) {
            let EndpointAddress::Local(address) = endpoint.address else { continue };
            let workload = &endpoint.workload;
            let name = sni(&workload.name, &workload.namespace, endpoint.key.target_port, inputs.trust_domain);
            let here = LocalWorkload {
                workload: workload.clone(),
                address,
                protocol: endpoint.protocol,
                service: service.name.clone(),
                health: endpoint.health,
            };
            // Where several services have the workload, the one that it was announced for names it.
            if workload.service == service.name || !local.contains_key(name.as_str()) {
                local.insert(name.into(), Arc::new(here));
            }
        }
    }
    local
}

/// The workloads, by what may be known of a caller; the previous ones if they are the same.
fn callers(parts: &Parts, previous: Option<&MeshView>) -> Arc<Callers> {
    let workloads = |parts: &'_ Parts| -> Vec<*const Workload> {
        parts.nodes.values().flat_map(|node| &node.rows).map(|row| Arc::as_ptr(&row.workload)).collect()
    };
    if let Some(previous) = previous
        && workloads(&previous.parts) == workloads(parts)
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
