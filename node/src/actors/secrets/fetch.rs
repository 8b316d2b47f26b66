//! Fetching the contents that this node lacks: from nodes that keep all, and if need be from others that may have them.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use rand::seq::SliceRandom;
use tokio::time::Instant;
use weft_policy::secrets::{Reference, needed_by};
use weft_wire::{
    document::SignedDocument,
    frame::{MESH_PORT, Request, Response},
    id::{NodeName, Role},
    secret::{SecretDigest, SecretPayload},
};

use super::{Msg, Setup};
use crate::actors::{documents, facts};

/// Pause after the first failure; doubled with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Contents that are fetched at once.
const MAX_UNDER_WAY: usize = 4;
/// Nodes other than keepers that are asked.
const MAX_OTHERS: usize = 8;

/// Whom to ask.
pub(super) struct Holder {
    pub(super) name: NodeName,
    pub(super) address: SocketAddr,
}

impl Holder {
    fn of(name: &NodeName, node: &facts::Node) -> Self {
        Self { name: name.clone(), address: SocketAddr::new(node.record.advertise, MESH_PORT) }
    }
}

fn is_keeper(node: &facts::Node) -> bool {
    let grant = node.certificate.as_ref().and_then(|certificate| certificate.grant.as_ref());
    grant.is_some_and(|grant| grant.role >= Role::Admin)
}

/// The other nodes that are there, in no order.
fn others(setup: &Setup) -> Vec<(NodeName, facts::Node)> {
    let facts = setup.facts.borrow().clone();
    let there = facts.nodes.iter().filter(|(name, node)| **name != setup.name && !node.record.state.is_gone());
    let mut others: Vec<_> = there.map(|(name, node)| (name.clone(), node.clone())).collect();
    others.shuffle(&mut rand::rng());
    others
}

/// The other nodes that keep all Secrets, in no order.
pub(super) fn keepers(setup: &Setup) -> Vec<Holder> {
    others(setup).iter().filter(|(_, node)| is_keeper(node)).map(|(name, node)| Holder::of(name, node)).collect()
}

/// Those who may have a Secret: keepers first.
fn holders(setup: &Setup, reference: &Reference) -> Vec<Holder> {
    let policy = setup.policy.borrow().clone();
    let (keepers, others): (Vec<_>, Vec<_>) = others(setup).into_iter().partition(|(_, node)| is_keeper(node));
    let others = others.into_iter().filter(|(_, node)| needed_by(&node.record, &policy).contains(reference));
    keepers.into_iter().chain(others.take(MAX_OTHERS)).map(|(name, node)| Holder::of(&name, &node)).collect()
}

/// Asks one after the other, and tells the actor what came of it.
pub(super) async fn fetch(setup: Setup, reference: Reference, digest: SecretDigest, head: Arc<SignedDocument>) {
    let request = Request::PullSecret { key: head.key.clone(), digest };
    let mut fetched = None;
    for holder in holders(&setup, &reference) {
        match setup.links.request_at(holder.name.id(), holder.address, &request).await {
            Ok(Response::Secret(content)) if is_meant(&head, &content) => {
                fetched = Some(Box::new((head.key.clone(), content)));
                break;
            }
            Ok(_) => tracing::warn!(%reference, from = %holder.name, "a peer answered something else than the Secret"),
            Err(error) => tracing::debug!(%reference, from = %holder.name, %error, "a Secret could not be fetched"),
        }
    }
    // Fails when the node goes down.
    let _ = setup.myself.send(Msg::Fetched(reference, digest, fetched)).await;
}

/// Whether this is what the signed document commits to.
fn is_meant(head: &SignedDocument, content: &SecretPayload) -> bool {
    let head = documents::secret_head(&head.key, head.body.as_deref());
    head.is_ok_and(|head| head.is_some_and(|head| head.content.describes(content)))
}

/// What is wanted, and when each is tried again.
#[derive(Default)]
pub(super) struct Fetches(BTreeMap<Reference, Fetch>);

struct Fetch {
    digest: SecretDigest,
    failures: u32,
    last: Option<Instant>,
    due: Instant,
    under_way: bool,
}

impl Fetches {
    /// These, and no others.
    pub(super) fn want(&mut self, wanted: impl Iterator<Item = (Reference, SecretDigest)>, now: Instant) {
        let mut before = std::mem::take(&mut self.0);
        self.0.extend(wanted.map(|(reference, digest)| {
            let known = before.remove(&reference).filter(|fetch| fetch.digest == digest);
            let new = || Fetch { digest, failures: 0, last: None, due: now, under_way: false };
            (reference, known.unwrap_or_else(new))
        }));
    }

    /// Those to begin with now.
    pub(super) fn due(&mut self, now: Instant) -> Vec<(Reference, SecretDigest)> {
        let room = self.room();
        let due = self.0.iter_mut().filter(|(_, fetch)| !fetch.under_way && fetch.due <= now);
        let begun = due.take(room).map(|(reference, fetch)| {
            (fetch.under_way, fetch.last) = (true, Some(now));
            (reference.clone(), fetch.digest)
        });
        begun.collect()
    }

    /// When [`Fetches::due`] has something to begin with, if nothing else happens.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let waiting = self.0.values().filter(|fetch| !fetch.under_way);
        waiting.map(|fetch| fetch.due).min().filter(|_| self.room() > 0)
    }

    /// How many more may be under way.
    fn room(&self) -> usize {
        MAX_UNDER_WAY.saturating_sub(self.0.values().filter(|fetch| fetch.under_way).count())
    }

    pub(super) fn done(&mut self, reference: &Reference) {
        self.0.remove(reference);
    }

    pub(super) fn failed(&mut self, reference: &Reference, digest: SecretDigest, now: Instant) {
        let Some(fetch) = self.0.get_mut(reference).filter(|fetch| fetch.digest == digest) else { return };
        let pause = FIRST_PAUSE.saturating_mul(1 << fetch.failures.min(10)).min(LONGEST_PAUSE);
        fetch.failures += 1;
        fetch.under_way = false;
        fetch.due = now + pause.mul_f64(rand::random_range(0.5..=1.0));
    }

    /// Tries all again soon, as there may be somebody new to ask: but none more often than after the first failure.
    pub(super) fn retry(&mut self, now: Instant) {
        for fetch in self.0.values_mut() {
            let soonest = fetch.last.map_or(now, |last| last + FIRST_PAUSE);
            fetch.failures = 0;
            fetch.due = fetch.due.min(soonest.max(now));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reference(name: &str) -> Reference {
        Reference::new(&"default".parse().unwrap(), name)
    }

    const DIGEST: SecretDigest = SecretDigest([1; 32]);

    #[tokio::test(start_paused = true)]
    async fn a_fetch_that_fails_is_tried_again_ever_more_seldom_until_somebody_comes() {
        let mut fetches = Fetches::default();
        let start = Instant::now();
        fetches.want([(reference("a"), DIGEST)].into_iter(), start);
        let mut now = start;
        let mut tries = 0;
        while now < start + Duration::from_secs(600) {
            assert_eq!(fetches.due(now), [(reference("a"), DIGEST)]);
            tries += 1;
            fetches.failed(&reference("a"), DIGEST, now);
            now = fetches.next_due().expect("it is tried again");
        }
        assert!((25..60).contains(&tries), "{tries}");
        fetches.retry(now);
        assert_eq!(fetches.due(now), [(reference("a"), DIGEST)]);
        fetches.want(std::iter::empty(), now);
        fetches.retry(now);
        assert_eq!(fetches.due(now), [], "what is wanted no longer is not fetched");
    }

    #[tokio::test(start_paused = true)]
    async fn few_are_fetched_at_once_and_a_new_version_at_once() {
        let mut fetches = Fetches::default();
        let now = Instant::now();
        let names: Vec<String> = (0..6).map(|number| number.to_string()).collect();
        fetches.want(names.iter().map(|name| (reference(name), DIGEST)), now);
        assert_eq!(fetches.next_due(), Some(now));
        assert_eq!(fetches.due(now).len(), MAX_UNDER_WAY);
        assert_eq!((fetches.due(now).len(), fetches.next_due()), (0, None));
        fetches.done(&reference("0"));
        assert_eq!(fetches.next_due(), Some(now));
        assert_eq!(fetches.due(now).len(), 1);
        let newer = SecretDigest([2; 32]);
        let mut fetches = Fetches::default();
        fetches.want([(reference("a"), DIGEST)].into_iter(), now);
        fetches.due(now);
        fetches.failed(&reference("a"), DIGEST, now);
        assert_eq!(fetches.due(now), []);
        fetches.want([(reference("a"), newer)].into_iter(), now);
        assert_eq!(fetches.due(now), [(reference("a"), newer)]);
    }
}
