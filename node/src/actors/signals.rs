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

type Known = BTreeMap<NodeName, (NodeState, BTreeSet<String>)>;

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
        let draining = node.record.endpoints.iter().filter(|row| row.health == EndpointHealth::Draining);
        let draining = draining.map(|row| format!("{}/{}", row.service.namespace, row.workload));
        (name.clone(), (node.record.state, draining.collect()))
    });
    nodes.collect()
}

fn tell_changes(events: &Events, before: &Known, now: &Known) {
    for (name, (state, draining)) in now {
        let (was, was_draining) = match before.get(name) {
            Some((was, draining)) => (Some(*was), draining.clone()),
            None => (None, BTreeSet::new()),
        };
        match state {
            _ if was == Some(*state) || was.is_none() => {}
            NodeState::Draining => events.say(Kind::Drain, name, "node drains"),
            NodeState::Stopped => events.say(Kind::Member, name, "stopped"),
            NodeState::Up => events.say(Kind::Member, name, "started"),
            NodeState::Left => events.say(Kind::Member, name, "left"),
        }
        // All of a node that drains or is gone drain with it.
        if *state == NodeState::Up {
            for workload in draining.difference(&was_draining) {
                events.say(Kind::Drain, format!("{name}/{workload}"), "workload drains");
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
        let state = |state, draining: &[&str]| {
            let draining = draining.iter().map(|workload| (*workload).to_owned()).collect();
            Known::from([("host-1".parse().unwrap(), (state, draining))])
        };
        let steps = [
            state(NodeState::Up, &[]),
            state(NodeState::Up, &["default/web"]),
            state(NodeState::Up, &["default/web"]),
            state(NodeState::Draining, &["default/web", "default/db"]),
            state(NodeState::Stopped, &[]),
            state(NodeState::Up, &[]),
        ];
        let events = Events::default();
        tell_changes(&events, &Known::new(), &steps[0]);
        steps.windows(2).for_each(|pair| tell_changes(&events, &pair[0], &pair[1]));
        let told: Vec<String> =
            events.since(0).iter().map(|event| format!("{} {}", event.subject, event.what)).collect();
        let expected = ["host-1/default/web workload drains", "host-1 node drains", "host-1 stopped", "host-1 started"];
        assert_eq!(told, expected);
    }
}
