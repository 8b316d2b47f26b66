//! What of facts concerns other cells: to whom they go, what this node tells of its cell, and what it wants of others.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;
use weft_discovery::wants::Wants;
use weft_proxy::metrics::Reporter;
use weft_wire::{
    cell::{self, CellSummary},
    fact::{FactBody, FactKind, SignedFact},
    frame::Push,
    id::{CellName, NodeId, ServiceName},
};

use super::{FactsActor, Published};

/// How often it is looked which services of other cells are still called. Metrics know for a quarter of an hour.
const REVIEW_WANTS: Duration = Duration::from_secs(60);

/// What this node has told of cells.
pub(super) struct Cells {
    /// Of its own, if it is a relay.
    told: Option<CellSummary>,
    wants: Wants,
    /// What it has told of these.
    told_wants: BTreeSet<ServiceName>,
    reviewed_wants: Instant,
}

impl Cells {
    pub(super) fn new(wants: BTreeSet<ServiceName>) -> Self {
        Self { told: None, wants: Wants::new(wants), told_wants: BTreeSet::new(), reviewed_wants: Instant::now() }
    }
}

impl FactsActor {
    /// Sends news to the linked peers: to those of other cells what these have a reason to know, and whom they have a new
    /// one to know.
    pub(super) fn spread(&mut self, news: &[Arc<SignedFact>], except: Option<NodeId>) {
        let send = |facts: &[&Arc<SignedFact>], to: &dyn Fn(NodeId) -> bool| {
            if !facts.is_empty() {
                let facts = facts.iter().map(|fact| (***fact).clone()).collect();
                self.setup.links.push_to(&Push::Facts(facts), to);
            }
        };
        let mut abroad: BTreeMap<CellName, BTreeSet<NodeId>> = BTreeMap::new();
        for peer in self.setup.links.peers() {
            if let Some(cell) = self.table.cell_of(peer).filter(|cell| cell != self.table.home()) {
                abroad.entry(cell).or_default().insert(peer);
            }
        }
        let is_abroad = |peer: NodeId| abroad.values().any(|peers| peers.contains(&peer));
        send(&news.iter().collect::<Vec<_>>(), &|peer| Some(peer) != except && !is_abroad(peer));
        let introductions = self.table.take_introductions();
        for (cell, peers) in &abroad {
            let Some(one) = peers.first() else { continue };
            let new_there = introductions.get(cell).into_iter().flatten();
            let passing: Vec<_> = news.iter().filter(|fact| self.table.passes(fact, *one)).chain(new_there).collect();
            send(&passing, &|peer| Some(peer) != except && peers.contains(&peer));
        }
    }

    /// As a relay, tells other cells of this one, if that has changed.
    pub(super) fn say_summary(&mut self) -> anyhow::Result<()> {
        if !self.setup.about.is_relay() {
            return Ok(());
        }
        let summary = self.table.summary();
        if self.cells.told.as_ref() != Some(&summary) {
            self.publish(FactKind::CELL, summary.encode()?)?;
            self.cells.told = Some(summary);
        }
        Ok(())
    }

    /// Tells this node's cell what it wants of others, if that has changed.
    pub(super) fn say_wants(&mut self) -> anyhow::Result<()> {
        let services = self.cells.wants.services();
        if services != self.cells.told_wants {
            self.publish(FactKind::WANTS, cell::Wants { services: services.clone() }.encode()?)?;
            self.cells.told_wants = services;
        }
        Ok(())
    }

    pub(super) fn call(&mut self, service: &str) -> anyhow::Result<()> {
        let Ok(service) = service.parse::<ServiceName>() else { return Ok(()) };
        if !self.cells.told_wants.contains(&service) {
            tracing::info!(%service, "called, and only other cells have endpoints of it: they are asked for them");
        }
        self.cells.wants.call(service, Instant::now().into_std());
        self.say_wants()
    }

    /// What is called goes on being wanted, also after a restart.
    pub(super) fn review_wants(&mut self) -> anyhow::Result<()> {
        if self.cells.reviewed_wants.elapsed() < REVIEW_WANTS {
            return Ok(());
        }
        self.cells.reviewed_wants = Instant::now();
        let now = self.cells.reviewed_wants.into_std();
        let published = self.setup.published.borrow().clone();
        let mut called = BTreeSet::new();
        if !published.summaries.is_empty() {
            self.setup.telemetry.proxy.read(|_, edge, _| {
                if edge.reporter == Reporter::Source && !edge.is_outside {
                    called.extend(format!("{}.{}", edge.service, edge.service_namespace).parse::<ServiceName>());
                }
            });
        }
        called.retain(|service| self.elsewhere(&published).any(|summary| summary.services.contains_key(service)));
        called.into_iter().for_each(|service| self.cells.wants.call(service, now));
        self.cells.wants.forget(now);
        self.say_wants()
    }

    /// Tells the data path what other cells have, if that has changed.
    pub(super) fn publish_elsewhere(&self, before: &Published, now: &Published) {
        let mut pairs = before.summaries.iter().zip(&now.summaries);
        let are_same = before.summaries.len() == now.summaries.len()
            && pairs.all(|((a, (_, one)), (b, (_, other)))| a == b && Arc::ptr_eq(one, other));
        if !are_same {
            let services = self.elsewhere(now).flat_map(|summary| summary.services.keys().map(ToString::to_string));
            self.setup.elsewhere.publish(services.collect());
        }
    }

    /// What relays of other cells tell.
    fn elsewhere<'p>(&self, published: &'p Published) -> impl Iterator<Item = &'p CellSummary> {
        let home = self.table.home().clone();
        published.summaries.values().filter(move |(cell, _)| *cell != home).map(|(_, summary)| &**summary)
    }
}
