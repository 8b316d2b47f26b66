//! The callers of a node, and what they make of endpoints: the cluster of a compiled view and the table of circuits, put
//! together as the actors `view` and `circuits` do it. Every node hosts an endpoint of one service, and calls it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, LazyLock},
    time::Instant,
};

use weft_discovery::facts::FactTable;
use weft_policy::{
    balance::{Attempt, Cluster, Outcome},
    circuit::{CircuitTable, Telling},
    compile::{Inputs, NodeInput, compile},
    document::{Document, ParsedDocument, parse_stored, parse_yaml},
    endpoint::{Endpoint, EndpointKey, Standing},
    view::MeshView,
};
use weft_wire::{
    circuit::{CircuitRecord, CircuitState},
    document::Stamp,
    fact::EndpointHealth,
    id::{Namespace, NodeName, TrustDomain, WorkloadName},
};

use crate::record;

/// For so many milliseconds a good answer of a node's own outweighs what one other node has seen, as
/// `weft_policy::circuit` has it.
const OWN_WORD_MS: u64 = 10_000;
/// At the beginning of a process, so that no moment is 0.
const FIRST_MS: u64 = 1_000;
const PORT: u16 = 9080;

/// All may be ejected, so that nothing but panic keeps callers from having nowhere to go.
static DOCUMENTS: LazyLock<Vec<Arc<Document>>> = LazyLock::new(|| {
    let rule = "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: { name: reviews }
spec:
  host: reviews
  trafficPolicy:
    outlierDetection: { consecutive5xxErrors: 3, interval: 1s, baseEjectionTime: 2s, maxEjectionPercent: 100 }
---
apiVersion: weft.mesh/v1alpha1
kind: CircuitPolicy
metadata: { name: default }
spec: { lease: 5s }
";
    let parsed = parse_yaml(rule, &Namespace::default_namespace()).expect("documents");
    assert!(parsed.errors.is_empty(), "{:?}", parsed.errors);
    let stored = |parsed: &ParsedDocument| {
        Arc::new(parse_stored(&parsed.key, &parsed.json, Stamp::default()).expect("a document"))
    };
    parsed.documents.iter().map(stored).collect()
});

pub struct Callers {
    me: NodeName,
    begun: Instant,
    view: MeshView,
    made_of: Vec<NodeInput>,
    /// Where this node's own workload listens.
    local: BTreeMap<(Namespace, WorkloadName), IpAddr>,
    table: CircuitTable,
    telling: Telling,
    /// It says nothing of circuits any more.
    pub is_mute: bool,
    /// Endpoints that have failed for these callers.
    failed: BTreeSet<EndpointKey>,
}

impl Callers {
    pub fn new(me: NodeName, is_mute: bool, now: Instant) -> Self {
        Self {
            view: MeshView::empty(trust_domain()),
            made_of: Vec::new(),
            local: BTreeMap::from([(record::workload(), Ipv4Addr::LOCALHOST.into())]),
            table: CircuitTable::new(me.clone()),
            telling: Telling::default(),
            begun: now,
            is_mute,
            failed: BTreeSet::new(),
            me,
        }
    }

    fn now_ms(&self, now: Instant) -> u64 {
        FIRST_MS + now.duration_since(self.begun).as_millis() as u64
    }

    /// Brings the view in line with what nodes say, and clusters with what is said of endpoints.
    pub fn look(&mut self, facts: &FactTable, is_member: impl Fn(&NodeName) -> bool, now: Instant) {
        let standing = |node: &NodeName| match *node == self.me || is_member(node) {
            true => Standing::Preferred,
            false => Standing::Demoted,
        };
        let nodes = facts.nodes().map(|(name, _, record)| NodeInput {
            name: name.clone(),
            record: record.clone(),
            standing: standing(name),
        });
        let nodes: Vec<_> = nodes.collect();
        let is_same = |(a, b): (&NodeInput, &NodeInput)| Arc::ptr_eq(&a.record, &b.record) && a.standing == b.standing;
        if nodes.len() != self.made_of.len() || !nodes.iter().zip(&self.made_of).all(is_same) {
            self.view = compile(
                &Inputs {
                    trust_domain: &trust_domain(),
                    this_node: &self.me,
                    nodes: &nodes,
                    documents: &DOCUMENTS,
                    local: &self.local,
                    secrets: &Arc::default(),
                    names: &Arc::default(),
                },
                Some(&self.view),
            );
            self.made_of = nodes;
        }
        let now_ms = self.now_ms(now);
        let said = facts.circuits().filter(|(name, ..)| is_member(name));
        self.table.hear(said.map(|(name, version, record)| (name, version, &**record)), now_ms);
        let clusters = self.view.watched_clusters();
        self.table.sweep(clusters.iter().copied(), now_ms);
    }

    /// What to tell the mesh now, if anything.
    pub fn say(&mut self, wall_ms: u64, now: Instant) -> Option<CircuitRecord> {
        let now_ms = self.now_ms(now);
        if self.is_mute || self.telling.due_ms(&self.table)? > now_ms {
            return None;
        }
        self.telling.told(&self.table, now_ms);
        Some(self.table.record(wall_ms, now_ms))
    }

    pub fn cluster(&self) -> Option<&Arc<Cluster>> {
        self.view.services().next()?.cluster(PORT)
    }

    /// Where the next request goes.
    ///
    /// # Errors
    /// If it has nowhere to go, though there are endpoints.
    pub fn pick(&self, random: u64, now: Instant) -> Result<Option<Arc<Endpoint>>, String> {
        let Some(cluster) = self.cluster() else { return Ok(None) };
        let picked = cluster.pick(&Attempt { random, now_ms: self.now_ms(now), ..Attempt::default() });
        match picked {
            None if cluster.endpoints.iter().any(|endpoint| endpoint.health != EndpointHealth::Draining) => {
                Err(format!("sends nowhere, of {} endpoints", cluster.endpoints.len()))
            }
            picked => Ok(picked.cloned()),
        }
    }

    /// What came of it. True if that is to be told.
    pub fn came(&mut self, endpoint: &Arc<Endpoint>, outcome: Outcome, now: Instant) -> bool {
        if outcome != GOOD {
            self.failed.insert(endpoint.key.clone());
        }
        let now_ms = self.now_ms(now);
        self.cluster().and_then(|cluster| cluster.record(endpoint, outcome, now_ms)).is_some()
    }

    /// The rules for what these callers make of endpoints, right after [`Self::look`].
    ///
    /// # Errors
    /// Which one is broken.
    pub fn check(&self, facts: &FactTable, is_member: impl Fn(&NodeName) -> bool, now: Instant) -> Result<(), String> {
        let (now_ms, Some(cluster)) = (self.now_ms(now), self.cluster()) else { return Ok(()) };
        let own = self.table.record(0, now_ms);
        if let Some(key) = own.circuits.keys().find(|key| !self.failed.contains(key)) {
            return Err(format!("complains of {key}, which never failed for it"));
        }
        let others = || facts.circuits().filter(|(name, ..)| **name != self.me && is_member(name));
        let watches = |record: &CircuitRecord| record.watched.contains(&*cluster.fqdn);
        let callers = others().filter(|(.., record)| watches(record)).count() + usize::from(watches(&own));
        let quorum = callers.div_ceil(2).max(2);
        for endpoint in cluster.endpoints.iter().filter(|endpoint| !own.circuits.contains_key(&endpoint.key)) {
            let key = &endpoint.key;
            let Some(monitor) = &endpoint.monitor else { return Err(format!("{key} is not looked at")) };
            let has_tripped =
                |record: &CircuitRecord| record.circuits.get(key).is_some_and(|one| one.state > CircuitState::Failing);
            let observers = others().filter(|(.., record)| has_tripped(record)).count();
            let (heard, answered_ms) = (monitor.heard(now_ms).standing, monitor.answered_ms());
            let is_known_good = answered_ms > 0 && now_ms - answered_ms < OWN_WORD_MS;
            let most = match observers {
                0 => Standing::Preferred,
                _ if observers >= quorum => Standing::Excluded,
                _ if is_known_good => Standing::Preferred,
                _ => Standing::Demoted,
            };
            if heard > most {
                return Err(format!(
                    "{key} is {heard:?} by the word of {observers}; {quorum} of {callers} are a quorum"
                ));
            }
        }
        Ok(())
    }

    /// What these callers still hold against an endpoint, by their own word or another's.
    pub fn differs(&self, node: &NodeName, now: Instant) -> Option<String> {
        let now_ms = self.now_ms(now);
        let of_node = |key: &EndpointKey| key.node.as_ref() == Some(node);
        if let Some(key) = self.table.record(0, now_ms).circuits.keys().find(|key| of_node(key)) {
            return Some(format!("complains of {key}"));
        }
        let Some(endpoint) = self.cluster()?.endpoints.iter().find(|endpoint| of_node(&endpoint.key)) else {
            return Some(format!("has no endpoint of {node}"));
        };
        let standing = endpoint.standing_here(now_ms);
        (standing != Standing::Preferred).then(|| format!("has {} {standing:?}", endpoint.key))
    }

    /// How they stand to the endpoint of a node.
    pub fn standing(&self, node: &NodeName, now: Instant) -> Option<Standing> {
        let mut endpoints = self.cluster()?.endpoints.iter();
        let endpoint = endpoints.find(|endpoint| endpoint.key.node.as_ref() == Some(node))?;
        Some(endpoint.standing_here(self.now_ms(now)))
    }

    /// Whose complaints hold here, of the endpoint of a node.
    pub fn observers(&self, node: &NodeName, now: Instant) -> BTreeSet<NodeName> {
        let seen = self.table.seen(0, self.now_ms(now)).into_iter();
        let seen = seen.filter(|(key, _)| key.node.as_ref() == Some(node)).flat_map(|(_, seen)| seen);
        seen.map(|seen| seen.observer).collect()
    }
}

/// What an endpoint answers that is well, and one that is not.
pub const GOOD: Outcome = Outcome::Status(200);
pub const ILL: Outcome = Outcome::Status(500);

fn trust_domain() -> TrustDomain {
    "cluster.local".parse().expect("a trust domain")
}
