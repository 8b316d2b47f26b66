//! A fleet of nodes that call the same service, each with its table and its own look at the endpoints; what one says,
//! the others hear a little later.

use std::collections::VecDeque;

use weft_wire::fact::EndpointHealth;

use super::*;
use crate::balance::{
    Outcome,
    tests::{at, detecting, endpoint},
};

/// How often each node sweeps, and how long it takes until others have heard what it says.
const TICK_MS: u64 = 10;
const DELAY_MS: u64 = 30;

struct Node {
    name: NodeName,
    table: CircuitTable,
    cluster: Arc<Cluster>,
    said: u64,
    seq: u64,
    said_ms: u64,
    failed: usize,
}

struct Fleet {
    nodes: Vec<Node>,
    /// When it arrives, whose it is, and what it says.
    under_way: VecDeque<(u64, usize, FactVersion, CircuitRecord)>,
    heard: BTreeMap<usize, (FactVersion, CircuitRecord)>,
    now_ms: u64,
    random: u64,
    /// Whether what is said is heard.
    shares: bool,
    /// Nodes whose words are lost from now on.
    silent: BTreeSet<usize>,
}

impl Fleet {
    fn new(nodes: usize, endpoints: usize, shares: bool) -> Self {
        let names: Vec<String> = (0..endpoints).map(|i| format!("e{i}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let node = |i: usize| {
            let name: NodeName = format!("node-{i}").parse().unwrap();
            let cluster = Arc::new(detecting(5, 50, 0, &names));
            Node { table: CircuitTable::new(name.clone()), name, cluster, said: 0, seq: 0, said_ms: 0, failed: 0 }
        };
        let nodes = (0..nodes).map(node).collect();
        let (under_way, heard, silent) = (VecDeque::new(), BTreeMap::new(), BTreeSet::new());
        Self { nodes, under_way, heard, now_ms: 1_000, random: 7, shares, silent }
    }

    fn draw(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        crate::balance::mixed(self.random)
    }

    /// One request of a node; `fails` says what its endpoint does.
    fn request(&mut self, node: usize, fails: impl Fn(&EndpointKey) -> bool) {
        let (random, now_ms) = (self.draw(), self.now_ms);
        let node = &mut self.nodes[node];
        let chosen = node.cluster.pick(&at(random, now_ms)).unwrap().clone();
        let failed = fails(&chosen.key);
        node.failed += usize::from(failed);
        node.cluster.record(&chosen, Outcome::Status(if failed { 500 } else { 200 }), now_ms);
    }

    /// Each node sends `rate` requests a second, at random moments.
    fn run(&mut self, for_ms: u64, rate: u64, callers: std::ops::Range<usize>, fails: impl Fn(&EndpointKey) -> bool) {
        let until = self.now_ms + for_ms;
        while self.now_ms < until {
            for node in callers.clone() {
                if self.draw() % 1_000 < rate * TICK_MS {
                    self.request(node, &fails);
                }
            }
            self.tick();
        }
    }

    fn tick(&mut self) {
        while self.under_way.front().is_some_and(|(arrives_ms, ..)| *arrives_ms <= self.now_ms) {
            let (_, node, version, record) = self.under_way.pop_front().unwrap();
            self.heard.insert(node, (version, record));
        }
        let names: Vec<NodeName> = self.nodes.iter().map(|node| node.name.clone()).collect();
        for (i, node) in self.nodes.iter_mut().enumerate() {
            let heard = self.heard.iter().filter(|(other, _)| self.shares && **other != i);
            node.table.hear(heard.map(|(other, (version, record))| (&names[*other], *version, record)), self.now_ms);
            node.table.sweep([&node.cluster].into_iter(), self.now_ms);
            let renew_ms = node.table.shortest_lease_ms().map_or(u64::MAX, |lease_ms| lease_ms / 3);
            if node.table.revision() == node.said && self.now_ms - node.said_ms < renew_ms {
                continue;
            }
            (node.said, node.said_ms, node.seq) = (node.table.revision(), self.now_ms, node.seq + 1);
            let version = FactVersion { incarnation: 1, seq: node.seq };
            if !self.silent.contains(&i) {
                let record = node.table.record(0, self.now_ms);
                self.under_way.push_back((self.now_ms + DELAY_MS, i, version, record));
            }
        }
        self.now_ms += TICK_MS;
    }

    fn failed(&self) -> usize {
        self.nodes.iter().map(|node| node.failed).sum()
    }

    /// What a node makes of an endpoint.
    fn standing(&self, node: usize, name: &str) -> Standing {
        self.endpoint(node, name).standing_here(self.now_ms)
    }

    fn endpoint(&self, node: usize, name: &str) -> &Endpoint {
        let mut endpoints = self.nodes[node].cluster.endpoints.iter();
        endpoints.find(|endpoint| endpoint.key.workload.as_str() == name).unwrap()
    }

    /// Has a node say what is not so: that these endpoints have tripped.
    fn lie(&mut self, node: usize, endpoints: &[&str]) {
        let circuit = Circuit {
            state: CircuitState::Tripped,
            cause: weft_wire::circuit::CircuitCause::ConsecutiveErrors,
            failures: 99,
            since_ms: 0,
            left_ms: 300_000,
            lease_ms: 3_600_000,
        };
        let circuits = endpoints.iter().map(|name| (self.endpoint(node, name).key.clone(), circuit.clone())).collect();
        let watched = [self.nodes[node].cluster.fqdn.to_string()].into();
        self.silent.insert(node);
        let version = FactVersion { incarnation: 1, seq: 1_000_000 };
        self.under_way.push_front((self.now_ms, node, version, CircuitRecord { watched, circuits }));
    }
}

fn is(name: &str) -> impl Fn(&EndpointKey) -> bool {
    move |key| key.workload.as_str() == name
}

const NONE: fn(&EndpointKey) -> bool = |_| false;

#[test]
fn a_fleet_that_shares_loses_a_fifth_of_what_private_breakers_lose() {
    let lost = |shares| {
        let mut fleet = Fleet::new(20, 10, shares);
        fleet.run(5_000, 50, 0..20, NONE);
        fleet.run(15_000, 50, 0..20, is("e3"));
        fleet.failed()
    };
    let (shared, private) = (lost(true), lost(false));
    println!("failed requests: {shared} where circuits are shared, {private} where they are private");
    assert!(shared * 5 <= private, "{shared} of {private}");
}

#[test]
fn callers_that_never_touched_it_avoid_it_within_a_quarter_of_a_second() {
    let mut fleet = Fleet::new(20, 10, true);
    fleet.run(5_000, 50, 0..10, NONE);
    fleet.run(1_000, 50, 0..10, is("e3"));
    assert_eq!(fleet.standing(15, "e3"), Standing::Excluded);
    let mut fleet = Fleet::new(20, 10, true);
    fleet.run(5_000, 50, 0..1, NONE);
    let begun = fleet.now_ms;
    while fleet.standing(0, "e3") == Standing::Preferred {
        fleet.run(TICK_MS, 50, 0..1, is("e3"));
    }
    let tripped = fleet.now_ms;
    while fleet.standing(15, "e3") == Standing::Preferred {
        fleet.run(TICK_MS, 50, 0..1, is("e3"));
    }
    assert_eq!(fleet.standing(15, "e3"), Standing::Demoted, "one observer does no more");
    assert!(fleet.now_ms - tripped <= 250, "{} after {}", fleet.now_ms - tripped, tripped - begun);
}

#[test]
fn one_observer_demotes_and_a_quorum_excludes() {
    let mut fleet = Fleet::new(5, 4, true);
    fleet.lie(0, &["e1"]);
    fleet.run(50, 0, 0..0, NONE);
    assert_eq!(fleet.standing(4, "e1"), Standing::Demoted);
    fleet.lie(1, &["e1"]);
    fleet.run(50, 0, 0..0, NONE);
    assert_eq!(fleet.standing(4, "e1"), Standing::Excluded);
    assert_eq!(fleet.standing(4, "e2"), Standing::Preferred);
}

#[test]
fn what_most_callers_see_well_no_minority_takes_from_anybody() {
    let mut fleet = Fleet::new(20, 10, true);
    fleet.run(5_000, 50, 0..20, NONE);
    // Nine of twenty.
    (0..9).for_each(|node| fleet.lie(node, &["e1"]));
    for _ in 0..100 {
        fleet.run(100, 50, 9..20, NONE);
        assert!((9..20).all(|node| fleet.standing(node, "e1") == Standing::Preferred));
    }
}

#[test]
fn a_majority_takes_an_endpoint_from_those_who_have_not_seen_it_well_since() {
    let mut fleet = Fleet::new(20, 10, true);
    fleet.run(5_000, 50, 0..20, NONE);
    fleet.lie(0, &["e1"]);
    // It has answered since the first complaint: own evidence outranks hearsay.
    fleet.run(3_000, 50, 1..20, NONE);
    (1..15).for_each(|node| fleet.lie(node, &["e1"]));
    fleet.run(3_000, 50, 15..19, NONE);
    assert!((15..19).all(|node| fleet.standing(node, "e1") == Standing::Preferred));
    // This one has not called it since, so that its own word is old.
    fleet.run(10_000, 50, 15..19, NONE);
    assert!(fleet.standing(19, "e1") > Standing::Preferred);
}

#[test]
fn a_node_that_complains_of_most_endpoints_is_ill_itself() {
    let mut fleet = Fleet::new(5, 4, true);
    fleet.lie(0, &["e0", "e1", "e2"]);
    fleet.run(50, 0, 0..0, NONE);
    assert!(["e0", "e1", "e2", "e3"].iter().all(|name| fleet.standing(4, name) == Standing::Preferred));
}

#[test]
fn a_node_that_does_not_call_the_service_has_no_word() {
    let mut fleet = Fleet::new(3, 4, true);
    fleet.lie(0, &["e1"]);
    fleet.under_way[0].3.watched.clear();
    fleet.run(50, 0, 0..0, NONE);
    assert_eq!(fleet.standing(2, "e1"), Standing::Preferred);
}

#[test]
fn a_complaint_that_is_neither_renewed_nor_taken_back_lapses() {
    let mut fleet = Fleet::new(3, 4, true);
    fleet.lie(0, &["e1"]);
    fleet.under_way[0].3.circuits.values_mut().for_each(|circuit| circuit.lease_ms = 1_000);
    fleet.run(500, 0, 0..0, NONE);
    assert_eq!(fleet.standing(2, "e1"), Standing::Demoted);
    fleet.run(700, 0, 0..0, NONE);
    assert_eq!(fleet.standing(2, "e1"), Standing::Preferred);
    assert!(fleet.nodes[2].table.is_quiet(), "and is forgotten, though its node says nothing else");
}

#[test]
fn one_node_tries_for_all_when_the_ejections_are_over() {
    let mut fleet = Fleet::new(10, 10, true);
    fleet.run(5_000, 50, 0..10, NONE);
    fleet.run(5_000, 50, 0..10, is("e3"));
    let before = fleet.failed();
    // Past the end of all ejections, of 10 s each: one request at most has been lost.
    fleet.run(9_000, 50, 0..10, is("e3"));
    assert!(fleet.failed() - before <= 2, "{}", fleet.failed() - before);
    // It is well again: all use it soon after one has tried.
    fleet.run(25_000, 50, 0..10, NONE);
    assert!((0..10).all(|node| fleet.standing(node, "e3") == Standing::Preferred));
    assert!(fleet.nodes.iter().all(|node| node.table.is_quiet()), "and nobody complains");
}

#[test]
fn a_prober_that_is_lost_is_replaced() {
    let mut fleet = Fleet::new(5, 10, true);
    fleet.run(5_000, 50, 0..5, NONE);
    fleet.run(5_000, 50, 0..5, is("e3"));
    // Who would be first says nothing any more, and its last word holds until it lapses.
    let key = fleet.endpoint(0, "e3").key.clone();
    let first = (0..5).max_by_key(|i| draw(&key, &fleet.nodes[*i].name)).unwrap();
    fleet.silent.insert(first);
    fleet.run(60_000, 50, 0..5, NONE);
    assert!((0..5).all(|node| fleet.standing(node, "e3") == Standing::Preferred));
}

#[test]
fn alone_it_is_envoys_outlier_detection() {
    let mut fleet = Fleet::new(1, 4, true);
    fleet.run(2_000, 50, 0..1, NONE);
    fleet.run(2_000, 50, 0..1, is("e1"));
    let monitor = fleet.endpoint(0, "e1").monitor.clone().unwrap();
    let (_, until_ms) = monitor.ejection(fleet.now_ms).expect("ejected");
    while fleet.now_ms < until_ms {
        assert_eq!(fleet.standing(0, "e1"), Standing::Excluded);
        fleet.run(TICK_MS, 50, 0..1, is("e1"));
    }
    assert_eq!(fleet.standing(0, "e1"), Standing::Preferred);
    assert_eq!(monitor.heard(fleet.now_ms), MeshVerdict::default(), "as patient as before");
}

#[test]
fn no_more_are_out_than_max_ejection_percent_lets_be() {
    let mut fleet = Fleet::new(3, 4, true);
    // Half of four may be out.
    fleet.lie(0, &["e0", "e1"]);
    fleet.lie(1, &["e1", "e2"]);
    fleet.lie(2, &["e0", "e2"]);
    let table = Fleet::new(4, 4, true).nodes.pop().unwrap();
    fleet.nodes.push(table);
    fleet.run(100, 0, 0..0, NONE);
    let standings = ["e0", "e1", "e2", "e3"].map(|name| fleet.standing(3, name));
    assert_eq!(standings.iter().filter(|standing| **standing == Standing::Excluded).count(), 2, "{standings:?}");
    assert_eq!(standings.iter().filter(|standing| **standing == Standing::Demoted).count(), 1, "{standings:?}");
}

#[test]
fn what_ignores_hearsay_is_private() {
    let sharing = Sharing { hearsay: Hearsay::Ignore, ..Sharing::default() };
    let mut fleet = Fleet::new(3, 4, true);
    fleet.lie(0, &["e1"]);
    fleet.lie(1, &["e1"]);
    fleet.run(50, 0, 0..0, NONE);
    let Node { table, cluster, .. } = &fleet.nodes[2];
    let verdict = |sharing| Judge::of(table, cluster, sharing, fleet.now_ms).verdict(fleet.endpoint(2, "e1"));
    assert_eq!(verdict(&sharing), MeshVerdict::default());
    let demotes = Sharing { hearsay: Hearsay::Demote, ..Sharing::default() };
    assert_eq!(verdict(&demotes).standing, Standing::Demoted);
    assert_eq!(verdict(&Sharing::default()).standing, Standing::Excluded);
}

#[test]
fn a_record_never_has_more_than_it_may() {
    let mut table = CircuitTable::new("a".parse().unwrap());
    let failures = Failures { cause: weft_wire::circuit::CircuitCause::ConsecutiveErrors, count: 2 };
    for i in 0..2 * MAX_CIRCUITS {
        let key = endpoint(&format!("e{i}"), EndpointHealth::Healthy, Standing::Preferred).key.clone();
        match i % 2 {
            0 => table.failing(&key, failures, 1_000, 0),
            _ => table.tripped(&key, failures, 10_000, 1_000, 0),
        }
    }
    let record = table.record(0, 1);
    assert_eq!(record.circuits.len(), MAX_CIRCUITS);
    assert!(record.circuits.values().all(|circuit| circuit.state == CircuitState::Tripped), "the worse first");
}

#[test]
fn a_few_failures_are_told_for_a_while_and_not_for_ever() {
    let mut fleet = Fleet::new(3, 4, true);
    fleet.run(1_000, 50, 0..1, NONE);
    while fleet.endpoint(0, "e1").monitor.as_ref().unwrap().heard(fleet.now_ms) == MeshVerdict::default()
        && fleet.nodes[0].table.own.is_empty()
    {
        fleet.run(TICK_MS, 50, 0..1, is("e1"));
    }
    fleet.run(100, 0, 0..0, NONE);
    assert_eq!(fleet.standing(1, "e1"), Standing::Preferred, "it makes others less patient, no more");
    assert_eq!(fleet.endpoint(1, "e1").monitor.as_ref().unwrap().heard(fleet.now_ms).patience, 2);
    fleet.run(4_000, 0, 0..0, NONE);
    assert!(fleet.nodes.iter().all(|node| node.table.is_quiet()));
    let said = fleet.nodes[0].seq;
    fleet.run(10_000, 0, 0..0, NONE);
    assert_eq!(fleet.nodes[0].seq, said, "nothing more is said");
}

/// Whatever some say, in whatever order: what a node has seen well all along, fewer than half never take from it, and
/// words that are not renewed are forgotten.
#[test]
fn no_words_of_a_minority_take_what_is_seen_well() {
    for seed in 0..20 {
        let mut fleet = Fleet::new(9, 6, true);
        fleet.random = seed;
        fleet.run(3_000, 100, 0..9, NONE);
        for _ in 0..30 {
            let (liar, first) = (fleet.draw() as usize % 4, fleet.draw() as usize % 6);
            let named: Vec<String> = (first..6).take(1 + fleet.draw() as usize % 3).map(|i| format!("e{i}")).collect();
            let named: Vec<&str> = named.iter().map(String::as_str).collect();
            fleet.lie(liar, &named);
            fleet.under_way[0].2.seq = 1_000_000 + fleet.now_ms;
            fleet.run(200, 100, 4..9, NONE);
            for node in 4..9 {
                for name in ["e0", "e1", "e2", "e3", "e4", "e5"] {
                    assert_eq!(fleet.standing(node, name), Standing::Preferred, "seed {seed}, node {node}, {name}");
                }
            }
        }
    }
}
