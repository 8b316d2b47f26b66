//! The `signals` actor: once a second it looks at what others have counted and found, makes rates of it, and tells what
//! has happened. The data path knows nothing of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use parking_lot::Mutex;
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior},
};
use weft_proxy::decisions::Found;
use weft_wire::{
    fact::{EndpointHealth, NodeState},
    id::NodeName,
};

use super::facts;
use crate::{
    admin::decision::{Decision, OwnDecisions},
    events::{Events, Kind},
    supervisor::{Actor, Inbox, Supervisor},
    tap::OwnTaps,
    telemetry::Telemetry,
    traffic::windows::Windows,
};

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Of these looks, each so manyth forgets series that are over.
const EXPIRE_EVERY: u32 = 60;

#[derive(Clone)]
pub struct Setup {
    /// Outlives the actor; the admin API reads it.
    pub windows: Arc<Mutex<Windows>>,
    pub taps: OwnTaps,
    pub telemetry: Telemetry,
    pub decisions: OwnDecisions,
    pub facts: watch::Receiver<Arc<facts::Published>>,
    pub supervisor: Supervisor,
}

pub struct SignalsActor {
    setup: Setup,
    began: Instant,
    /// The latest finding that was told of.
    decided: SystemTime,
    /// Restarts of each actor that were told of.
    restarts: BTreeMap<String, u64>,
    /// What nodes and their workloads were, as far as it matters here.
    known: Known,
}

type Known = BTreeMap<NodeName, Said>;

/// What a node says of itself.
struct Said {
    state: NodeState,
    /// Workloads that drain.
    draining: BTreeSet<String>,
    is_overloaded: bool,
}

impl SignalsActor {
    pub fn new(setup: Setup) -> Self {
        let known = known(&setup.facts.borrow());
        Self { setup, began: Instant::now(), decided: SystemTime::now(), restarts: BTreeMap::new(), known }
    }

    fn look(&mut self) {
        let Setup { windows, telemetry, .. } = &self.setup;
        let unix = UNIX_EPOCH.elapsed().unwrap_or_default();
        windows.lock().tick((self.began.elapsed(), unix), |see| telemetry.proxy.read(see));
        self.setup.taps.expire(Instant::now());
        self.tell_denials();
        self.tell_restarts();
    }

    fn tell_changes(&mut self) {
        let now = known(&self.setup.facts.borrow_and_update());
        tell_changes(&self.setup.telemetry.events, &self.known, &now);
        self.known = now;
    }

    fn tell_denials(&mut self) {
        let OwnDecisions { kept, node } = &self.setup.decisions;
        for finding in kept.after(self.decided) {
            self.decided = finding.at;
            if !matches!(finding.found, Found::Denied(_) | Found::DeniedByProvider(..) | Found::RefusedToken(_)) {
                continue;
            }
            let at = finding.at.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
            let decision = Decision::of(node, finding);
            let subject = if decision.workload.is_empty() { decision.service.to_string() } else { decision.workload };
            let caller = decision.principal.unwrap_or_else(|| decision.source_ip.to_string());
            let by = decision.document.map_or_else(String::new, |document| format!(" by {document}"));
            let what = format!("{caller} {}{by}: weft why {}", decision.outcome, decision.id);
            self.setup.telemetry.events.deny(at, subject, what, Instant::now().into_std());
        }
    }

    fn tell_restarts(&mut self) {
        for actor in self.setup.supervisor.status() {
            let told = self.restarts.entry(actor.name.clone()).or_default();
            if actor.restarts > *told {
                let why = actor.last_error.unwrap_or_else(|| "it ended".to_owned());
                let subject = format!("{}/{}", self.setup.decisions.node, actor.name);
                self.setup.telemetry.events.say(Kind::Actor, subject, format!("restarted: {why}"));
            }
            *told = actor.restarts;
        }
    }
}

fn known(facts: &facts::Published) -> Known {
    let nodes = facts.nodes.iter().map(|(name, node)| {
        let rows = &node.record.endpoints;
        let draining = rows.iter().filter(|row| row.health == EndpointHealth::Draining);
        let draining = draining.map(|row| format!("{}/{}", row.service.namespace, row.workload));
        let said = Said {
            state: node.record.state,
            draining: draining.collect(),
            is_overloaded: rows.iter().any(|row| row.health == EndpointHealth::Overloaded),
        };
        (name.clone(), said)
    });
    nodes.collect()
}

fn tell_changes(events: &Events, before: &Known, now: &Known) {
    for (name, said) in now {
        let was = before.get(name);
        match said.state {
            state if was.is_none_or(|was| was.state == state) => {}
            NodeState::Draining => events.say(Kind::Drain, name, "node drains"),
            NodeState::Stopped => events.say(Kind::Member, name, "stopped"),
            NodeState::Up => events.say(Kind::Member, name, "started"),
            NodeState::Left => events.say(Kind::Member, name, "left"),
        }
        // All of a node that drains or is gone drain with it.
        if said.state == NodeState::Up {
            let is_new = |workload: &&String| was.is_none_or(|was| !was.draining.contains(*workload));
            for workload in said.draining.iter().filter(is_new) {
                events.say(Kind::Drain, format!("{name}/{workload}"), "workload drains");
            }
            match (was.is_some_and(|was| was.is_overloaded), said.is_overloaded) {
                (false, true) => events.say(Kind::Drain, name, "overloaded: callers prefer others"),
                (true, false) => events.say(Kind::Drain, name, "no longer overloaded"),
                _ => {}
            }
        }
    }
}

impl Actor for SignalsActor {
    type Msg = Infallible;

    async fn run(mut self, inbox: &mut Inbox<Infallible>) -> anyhow::Result<()> {
        let mut tick = tokio::time::interval(LOOK_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut looks = 0_u32;
        loop {
            tokio::select! {
                biased;
                message = inbox.recv() => match message {
                    Some(never) => match never {},
                    None => return Ok(()),
                },
                _ = tick.tick() => {
                    self.look();
                    looks = looks.wrapping_add(1);
                    if looks.is_multiple_of(EXPIRE_EVERY) {
                        self.setup.telemetry.proxy.expire(Instant::now());
                    }
                }
                // At once: a node that stops drains for less than a second.
                changed = self.setup.facts.changed() => {
                    changed?;
                    self.tell_changes();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_of_nodes_and_workloads_are_told_once() {
        let said = |state, draining: &[&str], is_overloaded| {
            let draining = draining.iter().map(|workload| (*workload).to_owned()).collect();
            Known::from([("host-1".parse().unwrap(), Said { state, draining, is_overloaded })])
        };
        let state = |state, draining: &[&str]| said(state, draining, false);
        let steps = [
            state(NodeState::Up, &[]),
            state(NodeState::Up, &["default/web"]),
            state(NodeState::Up, &["default/web"]),
            state(NodeState::Draining, &["default/web", "default/db"]),
            state(NodeState::Stopped, &[]),
            state(NodeState::Up, &[]),
            said(NodeState::Up, &[], true),
            said(NodeState::Up, &[], true),
            state(NodeState::Up, &[]),
        ];
        let events = Events::default();
        tell_changes(&events, &Known::new(), &steps[0]);
        steps.windows(2).for_each(|pair| tell_changes(&events, &pair[0], &pair[1]));
        let told: Vec<String> =
            events.since(0).iter().map(|event| format!("{} {}", event.subject, event.what)).collect();
        let expected = [
            "host-1/default/web workload drains",
            "host-1 node drains",
            "host-1 stopped",
            "host-1 started",
            "host-1 overloaded: callers prefer others",
            "host-1 no longer overloaded",
        ];
        assert_eq!(told, expected);
    }
}
