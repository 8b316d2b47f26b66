//! The `circuits` actor: tells the mesh which endpoints fail here, and has this node's callers act on what others say.
//! The rules are `weft_policy::circuit`.

use std::{collections::BTreeMap, convert::Infallible, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use weft_discovery::liveness::Status;
use weft_policy::circuit::{Change, CircuitTable, Telling};
use weft_proxy::ports::{VerdictSink, Views};
use weft_wire::{circuit::CircuitRecord, fact::FactVersion, id::NodeName};

use crate::{
    actors::{facts, membership::Standings},
    circuits::Circuits,
    identity::wall_ms,
    supervisor::{Actor, Inbox},
};

/// What each node says of endpoints.
pub type Heard = Arc<BTreeMap<NodeName, (FactVersion, Arc<CircuitRecord>)>>;

/// How often it is looked whether the time has come for something, while an endpoint fails anywhere; and else.
const TICK: Duration = Duration::from_millis(100);
const QUIET_TICK: Duration = Duration::from_secs(1);

#[derive(Clone)]
pub struct Setup {
    pub views: Views,
    pub heard: watch::Receiver<Heard>,
    pub standings: watch::Receiver<Standings>,
    /// Outlives the actor; the admin API reads it.
    pub table: Arc<Mutex<CircuitTable>>,
    pub circuits: Circuits,
    pub facts: facts::Handle,
}

pub struct CircuitsActor {
    setup: Setup,
    telling: Telling,
}

impl CircuitsActor {
    pub fn new(setup: Setup) -> Self {
        Self { setup, telling: Telling::default() }
    }

    /// Brings the clusters of the view and the table together. Returns when to look again at the latest.
    fn sweep(&mut self) -> Duration {
        let Setup { views, heard, standings, table, circuits, .. } = &mut self.setup;
        let (heard, standings) = (heard.borrow_and_update().clone(), standings.borrow_and_update().clone());
        let (view, now_ms) = (views.load(), views.now_ms());
        let is_member = |node: &NodeName| {
            let status = standings.get(&node.id()).map(|standing| standing.status);
            matches!(status, Some(Status::Alive | Status::Suspect))
        };
        let mut table = table.lock();
        let members = heard.iter().filter(|(node, _)| is_member(node));
        table.hear(members.map(|(node, (version, record))| (node, *version, &**record)), now_ms);
        let clusters = view.watched_clusters();
        for change in table.sweep(clusters.iter().copied(), now_ms) {
            match change {
                Change::Tripped(cluster, trip) => {
                    circuits.tripped(cluster, &trip, trip.until_ms.saturating_sub(now_ms));
                }
                Change::Heard(cluster, endpoint, standing) => circuits.heard(cluster, endpoint, standing),
            }
        }
        if table.is_quiet() { QUIET_TICK } else { TICK }
    }

    /// Says what has changed, or has to be said again. Returns when to say it, if that is later.
    fn say(&mut self) -> Option<Instant> {
        let (table, now_ms) = (self.setup.table.lock(), self.setup.views.now_ms());
        let wait_ms = self.telling.due_ms(&table)?.saturating_sub(now_ms);
        if wait_ms > 0 {
            return Some(Instant::now() + Duration::from_millis(wait_ms));
        }
        let record = table.record(wall_ms(), now_ms);
        self.telling.told(&table, now_ms);
        drop(table);
        self.setup.facts.say_circuits(record);
        None
    }
}

impl Actor for CircuitsActor {
    type Msg = Infallible;

    async fn run(mut self, inbox: &mut Inbox<Infallible>) -> anyhow::Result<()> {
        loop {
            let tick = Instant::now() + self.sweep();
            let due = self.say().map_or(tick, |say_at| say_at.min(tick));
            let Setup { heard, standings, circuits, .. } = &mut self.setup;
            tokio::select! {
                biased;
                message = inbox.recv() => match message {
                    Some(never) => match never {},
                    None => return Ok(()),
                },
                changed = heard.changed() => changed?,
                changed = standings.changed() => changed?,
                () = circuits.changed() => {}
                () = sleep_until(due) => {}
            }
        }
    }
}
