//! What nodes call each other for, and what comes of it.

use std::collections::BTreeMap;

use rand::{Rng, seq::IndexedRandom};
use weft_policy::balance::{Cluster, Outcome};
use weft_wire::{
    circuit::{Circuit, CircuitCause, CircuitRecord, CircuitState},
    fact::{FactBody, FactKind},
    id::NodeName,
};

use super::{Event, World};
use crate::callers::{GOOD, ILL};

/// Requests of one node to the endpoint of another.
#[derive(Clone, Copy, Debug, Default)]
pub struct Calls {
    pub good: u64,
    pub failed: u64,
}

impl World {
    /// A node's callers send a request.
    pub(super) fn call(&mut self, n: usize, life: u32) {
        let Some(every) = self.plan.calls.filter(|_| self.nodes[n].life == life) else { return };
        let wait = every.mul_f64(self.rng.random_range(0.5..1.5));
        self.queue.add(self.now + wait, Event::Call(n, life));
        let Some(callers) = self.nodes[n].process.as_ref().and_then(|process| process.callers.as_ref()) else { return };
        if self.network.paused[n] > 0 {
            return;
        }
        let picked = match callers.pick(self.rng.random(), self.begun + self.now) {
            Ok(picked) => picked,
            Err(what) => return self.note(n, Err(what)),
        };
        let Some(endpoint) = picked else { return };
        let Some(to) = endpoint.key.node.as_ref().and_then(|node| self.place_of(node)) else { return };
        let outcome = self.outcome(n, to);
        let calls = self.calls.entry((n, to)).or_default();
        match outcome == GOOD {
            true => calls.good += 1,
            false => calls.failed += 1,
        }
        self.act(n, |process, _, cx| process.on_outcome(&endpoint, outcome, cx));
    }

    fn outcome(&self, from: usize, to: usize) -> Outcome {
        match () {
            () if !self.network.reaches(from, to) || (self.bad_cables[from] > 0 && from != to) => Outcome::Broke,
            () if self.ill[to] > 0 => ILL,
            () => GOOD,
        }
    }

    fn place_of(&self, node: &NodeName) -> Option<usize> {
        self.nodes.iter().position(|other| other.identity.name == *node)
    }

    /// Right after a node has looked at what is said of endpoints.
    pub(super) fn check_callers(&mut self, n: usize) {
        if self.is_honest(n)
            && let Some(process) = &self.nodes[n].process
        {
            let checked = process.check_callers(self.begun + self.now);
            self.note(n, checked);
        }
    }

    /// The hostile node says of endpoints what is not so.
    pub(super) fn lie(&mut self) {
        let n = self.plan.nodes - 1;
        let process = self.nodes[n].process.as_ref();
        let Some(cluster) = process.and_then(|process| process.callers.as_ref()?.cluster()) else { return };
        let record = lie(cluster, &mut self.rng);
        self.act(n, |process, _, cx| match record.encode() {
            Ok(body) => process.publish_fact(FactKind::CIRCUITS, body, cx),
            Err(_) => process.count("record_not_said"),
        });
    }

    /// All requests so far, by caller and endpoint.
    pub fn calls(&self) -> &BTreeMap<(usize, usize), Calls> {
        &self.calls
    }

    /// What keeps the callers of live nodes from using all endpoints of live nodes alike. What one node alone says of them,
    /// which lies, may have them be a last choice where nobody has called them for a while.
    pub fn circuits_differ(world: &Self) -> Option<String> {
        let now = world.begun + world.now;
        let live: Vec<_> = world.honest().map(|(_, node, _)| &node.identity.name).collect();
        let liar = world.hostile.as_ref().map(|_| &world.nodes[world.plan.nodes - 1].identity.name);
        for (n, _, process) in world.honest() {
            let Some(callers) = &process.callers else { continue };
            for node in &live {
                let is_lie = callers.observers(node, now).iter().eq(liar);
                if let Some(what) = callers.differs(node, now).filter(|_| liar.is_none() || !is_lie) {
                    return Some(format!("n{n} {what}"));
                }
            }
        }
        None
    }
}

fn lie(cluster: &Cluster, rng: &mut impl Rng) -> CircuitRecord {
    let percent = *[0, 10, 50, 100].choose(rng).unwrap_or(&100);
    let mut circuits = BTreeMap::new();
    for endpoint in &cluster.endpoints {
        if !rng.random_ratio(percent, 100) {
            continue;
        }
        let state = *[CircuitState::Failing, CircuitState::Tripped, CircuitState::Probing].choose(rng).expect("three");
        let circuit = Circuit {
            state,
            cause: CircuitCause::ConsecutiveErrors,
            failures: rng.random(),
            since_ms: rng.random(),
            left_ms: rng.random(),
            lease_ms: rng.random_range(0..=3_600_000),
        };
        circuits.insert(endpoint.key.clone(), circuit);
    }
    CircuitRecord { watched: [cluster.fqdn.to_string(), "nobody.example".into()].into(), circuits }
}
