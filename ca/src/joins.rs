//! Whom a CA node has let in lately.
//!
//! Whose a name is, a node's first fact says; until that has come, this does. It also lets a host that lost the answer
//! ask again without a second use of its token.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use weft_wire::id::NodeName;

use crate::{key::PublicKey, token::TokenId};

/// How long a join is remembered.
const REMEMBERED: Duration = Duration::from_secs(600);
/// Most joins that are remembered; one more pushes out the oldest.
const MAX_JOINS: usize = 4096;

/// Joins of the last 10 min, the latest of each name.
#[derive(Debug, Default)]
pub struct RecentJoins(BTreeMap<NodeName, Join>);

#[derive(Debug)]
struct Join {
    token: TokenId,
    key: PublicKey,
    at: Instant,
}

/// What the newest fact of a name's owner says.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    pub key: &'a PublicKey,
    /// Whether the owner has left the mesh for good, so that its name is free.
    pub left: bool,
}

impl RecentJoins {
    /// The key that a name belongs to, if it belongs to anybody.
    pub fn holder<'a>(&'a self, name: &NodeName, known: Option<Known<'a>>, now: Instant) -> Option<&'a PublicKey> {
        let joined = self.recent(name, now).map(|join| &join.key);
        match known {
            // The latest to join has spoken for itself: what it says holds.
            Some(known) if joined.is_none_or(|key| key == known.key) => (!known.left).then_some(known.key),
            _ => joined,
        }
    }

    /// Whether this host was let in with this token already.
    pub fn has(&self, token: TokenId, name: &NodeName, key: &PublicKey, now: Instant) -> bool {
        self.recent(name, now).is_some_and(|join| join.token == token && join.key == *key)
    }

    pub fn remember(&mut self, token: TokenId, name: NodeName, key: PublicKey, now: Instant) {
        self.0.retain(|_, join| is_recent(join, now));
        if self.0.len() >= MAX_JOINS
            && let Some(oldest) = self.0.iter().min_by_key(|(_, join)| join.at).map(|(name, _)| name.clone())
        {
            self.0.remove(&oldest);
        }
        self.0.insert(name, Join { token, key, at: now });
    }

    /// Frees the name of a node that is revoked.
    pub fn forget(&mut self, name: &NodeName) {
        self.0.remove(name);
    }

    fn recent(&self, name: &NodeName, now: Instant) -> Option<&Join> {
        self.0.get(name).filter(|join| is_recent(join, now))
    }
}

fn is_recent(join: &Join, now: Instant) -> bool {
    now.saturating_duration_since(join.at) < REMEMBERED
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::PrivateKey;

    const TOKEN: TokenId = TokenId([1; 8]);

    fn key() -> PublicKey {
        PrivateKey::generate().unwrap().public_key()
    }

    fn name(name: &str) -> NodeName {
        name.parse().unwrap()
    }

    #[test]
    fn the_name_of_a_revoked_node_is_free_and_its_token_is_not_good_for_a_second_time() {
        let (mut joins, now, key) = (RecentJoins::default(), Instant::now(), key());
        joins.remember(TOKEN, name("n"), key.clone(), now);
        joins.forget(&name("n"));
        assert_eq!(joins.holder(&name("n"), None, now), None);
        assert!(!joins.has(TOKEN, &name("n"), &key, now));
    }

    #[test]
    fn a_name_belongs_to_who_joined_before_its_first_fact_comes() {
        let (now, own) = (Instant::now(), key());
        let mut joins = RecentJoins::default();
        assert_eq!(joins.holder(&name("a"), None, now), None);
        joins.remember(TOKEN, name("a"), own.clone(), now);
        assert_eq!(joins.holder(&name("a"), None, now), Some(&own));
        assert_eq!(joins.holder(&name("b"), None, now), None);
        assert_eq!(joins.holder(&name("a"), None, now + REMEMBERED), None);
    }

    #[test]
    fn a_nodes_own_word_counts_more_than_its_join() {
        let (now, own) = (Instant::now(), key());
        let mut joins = RecentJoins::default();
        joins.remember(TOKEN, name("a"), own.clone(), now);
        let known = |left| Some(Known { key: &own, left });
        assert_eq!(joins.holder(&name("a"), known(false), now), Some(&own));
        // It joined and left again: whoever comes next may have the name.
        assert_eq!(joins.holder(&name("a"), known(true), now), None);
    }

    #[test]
    fn the_word_of_who_had_the_name_before_does_not_free_it() {
        let (now, before, own) = (Instant::now(), key(), key());
        let mut joins = RecentJoins::default();
        let left = Some(Known { key: &before, left: true });
        assert_eq!(joins.holder(&name("a"), left, now), None);
        joins.remember(TOKEN, name("a"), own.clone(), now);
        assert_eq!(joins.holder(&name("a"), left, now), Some(&own));
    }

    #[test]
    fn a_host_that_asks_again_is_known_by_token_name_and_key() {
        let (now, own) = (Instant::now(), key());
        let mut joins = RecentJoins::default();
        joins.remember(TOKEN, name("a"), own.clone(), now);
        assert!(joins.has(TOKEN, &name("a"), &own, now));
        assert!(!joins.has(TokenId([2; 8]), &name("a"), &own, now));
        assert!(!joins.has(TOKEN, &name("b"), &own, now));
        assert!(!joins.has(TOKEN, &name("a"), &key(), now));
        assert!(!joins.has(TOKEN, &name("a"), &own, now + REMEMBERED));
    }

    #[test]
    fn no_more_is_remembered_than_fits() {
        let (now, own) = (Instant::now(), key());
        let mut joins = RecentJoins::default();
        for i in 0..=MAX_JOINS {
            let at = now + Duration::from_millis(i as u64);
            joins.remember(TOKEN, name(&format!("a{i}")), own.clone(), at);
        }
        assert_eq!(joins.0.len(), MAX_JOINS);
        assert!(!joins.has(TOKEN, &name("a0"), &own, now));
        assert!(joins.has(TOKEN, &name("a1"), &own, now));
    }
}
