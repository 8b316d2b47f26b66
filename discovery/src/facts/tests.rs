use proptest::prelude::*;
use weft_wire::{
    fact::{EndpointHealth, EndpointRow, FactBody, NodeState, Protocol},
    id::{Locality, ServiceName},
};

use super::*;
use crate::authority::fake::{FakeAuthority, chain, sign};

pub(super) fn row(workload: &str, namespace: &str, account: &str) -> EndpointRow {
    EndpointRow {
        service: ServiceName { namespace: namespace.parse().unwrap(), name: "reviews".parse().unwrap() },
        workload: workload.parse().unwrap(),
        service_account: account.parse().unwrap(),
        version: "v1".into(),
        labels: BTreeMap::new(),
        port: 9080,
        target_port: 9080,
        protocol: Protocol::Http,
        health: EndpointHealth::Healthy,
    }
}

pub(super) fn record(endpoints: Vec<EndpointRow>) -> NodeRecord {
    NodeRecord {
        advertise: "127.0.0.2".parse().unwrap(),
        state: NodeState::Up,
        locality: Locality::default(),
        labels: BTreeMap::new(),
        build: "0.1.0".into(),
        endpoints,
    }
}

fn signed(mut fact: SignedFact) -> SignedFact {
    fact.chain = chain(&format!("spiffe://cluster.local/node/{}", fact.owner), "ca", "*/*");
    fact.signature = sign(&fact.chain, &fact.signed_bytes());
    fact
}

fn fact(owner: &str, incarnation: u64, seq: u64, kind: FactKind, body: Vec<u8>) -> SignedFact {
    let owner = owner.parse().unwrap();
    signed(SignedFact { owner, incarnation, seq, kind, body, chain: vec![], signature: vec![] })
}

fn node_fact(owner: &str, incarnation: u64, seq: u64) -> SignedFact {
    fact(owner, incarnation, seq, FactKind::NODE, record(vec![]).encode().unwrap())
}

fn table() -> FactTable {
    FactTable::new("me".parse().unwrap(), 5, [])
}

fn merge(table: &mut FactTable, fact: SignedFact) -> Effect {
    table.merge(fact, &FakeAuthority, Instant::now(), 0)
}

fn id(name: &str) -> NodeId {
    name.parse::<NodeName>().unwrap().id()
}

fn latest(table: &FactTable, owner: &str) -> Option<FactVersion> {
    let versions = table.have().into_iter().filter(|(node, ..)| *node == id(owner));
    versions.map(|(_, _, version)| version).max()
}

#[test]
fn a_version_is_new_once_and_old_after() {
    let mut table = table();
    assert!(matches!(merge(&mut table, node_fact("a", 1, 2)), Effect::New(_)));
    assert_eq!(merge(&mut table, node_fact("a", 1, 2)), Effect::Old);
    assert_eq!(merge(&mut table, node_fact("a", 1, 1)), Effect::Old);
    assert!(matches!(merge(&mut table, node_fact("a", 1, 3)), Effect::New(_)));
    assert_eq!(latest(&table, "a"), Some(FactVersion { incarnation: 1, seq: 3 }));
}

#[test]
fn a_later_incarnation_replaces_all_that_earlier_ones_said() {
    let mut table = table();
    merge(&mut table, fact("a", 1, 8, FactKind(9), vec![1]));
    merge(&mut table, node_fact("a", 1, 9));
    assert!(matches!(merge(&mut table, node_fact("a", 2, 1)), Effect::New(_)));
    assert_eq!(table.snapshot().len(), 1);
    assert_eq!(merge(&mut table, fact("a", 1, 10, FactKind(9), vec![1])), Effect::Old);
}

#[test]
fn the_record_holds_until_a_later_incarnation_says_one_in_whatever_order_they_arrive() {
    let (first, other, second) = (node_fact("a", 1, 9), fact("a", 2, 2, FactKind(9), vec![1]), node_fact("a", 2, 1));
    for order in [[&first, &other], [&other, &first]] {
        let mut table = table();
        for fact in order {
            assert!(matches!(merge(&mut table, fact.clone()), Effect::New(_)));
        }
        assert_eq!(table.get(&first.owner, FactKind::NODE).map(|fact| fact.version()), Some(first.version()));
        assert_eq!(table.progress()[&id("a")], other.version());
        let mut behind = self::table();
        merge(&mut behind, other.clone());
        assert_eq!(table.missing_for(&behind.have(), NodeId([0; 8]), usize::MAX), [Arc::new(first.clone())]);
        assert!(matches!(merge(&mut table, second.clone()), Effect::New(_)));
        assert_eq!(merge(&mut table, first.clone()), Effect::Old);
        assert_eq!(table.snapshot().len(), 2);
    }
    assert_eq!(merge(&mut table(), node_fact("me", 4, 1)), Effect::Old, "of an earlier life");
}

#[test]
fn news_of_an_owner_that_seemed_gone_is_kept_until_it_may_be_known_to_be_back() {
    let (mut table, start) = (table(), Instant::now());
    let merge = |table: &mut FactTable, seq| table.merge(node_fact("a", 1, seq), &FakeAuthority, start, 0);
    merge(&mut table, 1);
    table.expire(start, |_| false);
    let later = start + KEEP_GONE;
    assert_eq!(table.expire(later, |_| false).len(), 1);
    assert_eq!(merge(&mut table, 1), Effect::Old, "a peer that drops it later");
    assert!(!table.missing_for(&[], NodeId([0; 8]), usize::MAX).iter().any(|fact| fact.owner.as_str() == "a"));
    table.expire(later, |_| true);
    assert_eq!(merge(&mut table, 0), Effect::Old, "older than what was dropped");
    assert!(table.have().iter().all(|(node, ..)| *node != id("a")), "so that peers send it again");
    table.expire(later, |_| false);
    assert!(matches!(merge(&mut table, 2), Effect::New(_)));
    assert_eq!(table.expire(later, |_| false), [], "heard of before its link is up");
    assert_eq!(table.expire(later + KEEP_GONE, |_| false).len(), 1, "but not for ever");
}

#[test]
fn a_forged_fact_changes_nothing_and_uses_up_nobodys_allowance() {
    let mut table = table();
    merge(&mut table, node_fact("a", 1, 1));
    for seq in 2..200 {
        let mut forged = node_fact("a", 1, seq);
        forged.signature[0] ^= 1;
        assert!(matches!(merge(&mut table, forged), Effect::Refused(Refusal::NotTrusted(_))));
    }
    assert_eq!(latest(&table, "a"), Some(FactVersion { incarnation: 1, seq: 1 }));
    assert!(matches!(merge(&mut table, node_fact("a", 1, 2)), Effect::New(_)));
}

#[test]
fn two_bodies_with_one_version_are_noticed_and_the_smaller_holds_everywhere() {
    let (low, high) = (fact("a", 1, 1, FactKind(9), vec![1]), fact("a", 1, 1, FactKind(9), vec![2]));
    let mut one = table();
    merge(&mut one, low.clone());
    assert_eq!(merge(&mut one, high.clone()), Effect::Equivocation(None));
    let mut other = table();
    merge(&mut other, high);
    assert_eq!(merge(&mut other, low.clone()), Effect::Equivocation(Some(Arc::new(low))));
    assert_eq!(one.snapshot(), other.snapshot());
}

#[test]
fn an_owner_that_changes_too_fast_is_slowed_down() {
    let mut table = table();
    let now = Instant::now();
    let mut merge = |seq, at| table.merge(node_fact("a", 1, seq), &FakeAuthority, at, 0);
    let limited = (1..=100).filter(|&seq| merge(seq, now) == Effect::RateLimited).count();
    assert_eq!(limited, 60);
    assert!(matches!(merge(101, now + Duration::from_secs(1)), Effect::New(_)));
}

#[test]
fn an_owner_fills_no_more_than_its_share() {
    let mut table = table();
    let now = Instant::now();
    for kind in (100..200).rev() {
        table.merge(
            fact("a", 1, 1, FactKind(kind), vec![]),
            &FakeAuthority,
            now + Duration::from_secs(1000 - u64::from(kind)),
            0,
        );
    }
    let kinds: Vec<u16> = table.snapshot().iter().map(|fact| fact.kind.0).collect();
    assert_eq!(kinds, (100..116).collect::<Vec<_>>());
}

#[test]
fn own_facts_count_up_and_echoes_of_them_are_old() {
    let mut table = table();
    for seq in 1..=2 {
        let draft = table.draft(FactKind::NODE, record(vec![]).encode().unwrap());
        assert_eq!(draft.version(), FactVersion { incarnation: 5, seq });
        let fact = table.publish(signed(draft)).unwrap();
        assert_eq!(merge(&mut table, fact.as_ref().clone()), Effect::Old);
    }
    assert_eq!(merge(&mut table, node_fact("me", 4, 99)), Effect::Old, "of an earlier life");
    assert_eq!(table.nodes().count(), 1);
}

#[test]
fn a_later_fact_of_ones_own_means_to_start_anew() {
    let mut table = table();
    let version = FactVersion { incarnation: 7, seq: 1 };
    assert_eq!(merge(&mut table, node_fact("me", 7, 1)), Effect::OutVersioned(version));
    assert_eq!(latest(&table, "me"), None, "and is not taken over");
}

#[test]
fn a_bad_draft_is_refused_before_anyone_sees_it() {
    let mut table = table();
    let mut bad = record(vec![]);
    bad.advertise = "0.0.0.0".parse().unwrap();
    let draft = table.draft(FactKind::NODE, bad.encode().unwrap());
    assert!(table.publish(signed(draft)).is_err());
    assert_eq!(table.snapshot(), []);
}

#[test]
fn a_peer_is_sent_what_it_lacks_and_nothing_else() {
    let (mut full, mut behind) = (table(), FactTable::new("other".parse().unwrap(), 1, []));
    for owner in ["a", "b", "c", "d"] {
        merge(&mut full, node_fact(owner, 1, 2));
    }
    merge(&mut behind, node_fact("a", 1, 1));
    merge(&mut behind, node_fact("b", 1, 2));
    merge(&mut behind, node_fact("c", 2, 1));
    let missing = full.missing_for(&behind.have(), NodeId([0; 8]), usize::MAX);
    let owners: Vec<&str> = missing.iter().map(|fact| fact.owner.as_str()).collect();
    assert_eq!(owners.len(), 2, "{owners:?}");
    assert!(owners.contains(&"a") && owners.contains(&"d"));
    assert_eq!(full.missing_for(&full.have(), NodeId([0; 8]), usize::MAX), []);
}

#[test]
fn who_asks_is_asked_in_turn_for_what_it_has_newer() {
    let (mut table, mut asking) = (table(), FactTable::new("other".parse().unwrap(), 1, []));
    merge(&mut table, node_fact("a", 1, 2));
    merge(&mut asking, node_fact("a", 1, 1));
    assert!(!table.is_behind(id("other"), &asking.have()));
    merge(&mut asking, fact("a", 1, 3, FactKind(9), vec![1]));
    assert!(table.is_behind(id("other"), &asking.have()), "another fact");
    merge(&mut table, fact("a", 1, 3, FactKind(9), vec![1]));
    merge(&mut asking, node_fact("b", 1, 1));
    assert!(table.is_behind(id("other"), &asking.have()), "another owner");
    merge(&mut table, node_fact("b", 2, 1));
    assert!(!table.is_behind(id("other"), &asking.have()), "of an earlier incarnation");
}

#[test]
fn who_missed_one_of_two_facts_has_made_less_progress_though_it_has_the_newest() {
    let (mut full, mut behind) = (table(), table());
    let facts = [node_fact("a", 1, 1), fact("a", 1, 2, FactKind(9), vec![1]), node_fact("a", 1, 3)];
    facts.iter().for_each(|fact| drop(merge(&mut full, fact.clone())));
    merge(&mut behind, facts[2].clone());
    assert_eq!(latest(&full, "a"), latest(&behind, "a"));
    assert!(behind.progress()[&id("a")] < full.progress()[&id("a")]);
    merge(&mut behind, facts[1].clone());
    assert_eq!(behind.progress(), full.progress());
    merge(&mut behind, node_fact("a", 2, 1));
    assert!(behind.progress()[&id("a")] > full.progress()[&id("a")], "a later incarnation is more");
}

#[test]
fn a_small_answer_has_one_fact_and_the_start_decides_which() {
    let mut table = table();
    for owner in ["a", "b", "c"] {
        merge(&mut table, node_fact(owner, 1, 1));
    }
    for owner in ["a", "b", "c"] {
        let missing = table.missing_for(&[], id(owner), 1);
        assert_eq!(missing.iter().map(|fact| fact.owner.as_str()).collect::<Vec<_>>(), [owner]);
    }
}

#[test]
fn facts_of_the_gone_are_dropped_and_not_taken_back_until_they_are_members() {
    let mut table = table();
    merge(&mut table, node_fact("a", 1, 1));
    let start = Instant::now();
    assert!(table.expire(start, |_| false).is_empty());
    assert!(table.expire(start + KEEP_GONE - Duration::from_millis(1), |_| false).is_empty());
    assert_eq!(table.expire(start + KEEP_GONE, |_| false), ["a".parse().unwrap()]);
    assert_eq!(table.nodes().count(), 0);
    assert_eq!(merge(&mut table, node_fact("a", 1, 1)), Effect::Old, "a peer still had it");
    assert_eq!(table.have().len(), 1, "so peers do not send it again and again");
    table.expire(start + KEEP_GONE, |_| true);
    assert!(matches!(merge(&mut table, node_fact("a", 1, 1)), Effect::New(_)), "it was only cut off");
}

#[test]
fn a_member_seen_in_between_starts_its_grace_anew() {
    let mut table = table();
    merge(&mut table, node_fact("a", 1, 1));
    let start = Instant::now();
    table.expire(start, |_| false);
    table.expire(start + KEEP_GONE / 2, |_| true);
    assert!(table.expire(start + KEEP_GONE, |_| false).is_empty());
}

#[test]
fn spent_tokens_outlive_the_node_that_counted_them() {
    let mut table = table();
    let spent = SpentTokens { uses: [([1; 8], 3)].into() };
    merge(&mut table, fact("a", 1, 1, FactKind::SPENT_TOKENS, spent.encode().unwrap()));
    merge(&mut table, node_fact("a", 1, 2));
    let start = Instant::now();
    table.expire(start, |_| false);
    table.expire(start + REMEMBER_EXPIRED, |_| false);
    assert_eq!(table.nodes().count(), 0);
    assert_eq!(table.spent_tokens().map(|(_, spent)| spent.uses[&[1; 8]]).collect::<Vec<_>>(), [3]);
}

#[test]
fn a_restored_table_has_what_others_said_but_not_what_it_said_itself() {
    let mut before = table();
    merge(&mut before, node_fact("a", 1, 1));
    let draft = before.draft(FactKind::NODE, record(vec![]).encode().unwrap());
    before.publish(signed(draft)).unwrap();
    let stored = before.snapshot().iter().map(|fact| fact.as_ref().clone()).collect::<Vec<_>>();
    let after = FactTable::new("me".parse().unwrap(), 6, stored);
    assert_eq!(after.nodes().map(|(name, ..)| name.as_str()).collect::<Vec<_>>(), ["a"]);
}

#[test]
fn who_has_the_name_of_a_forgotten_node_is_heard_whatever_that_one_said() {
    let mut table = table();
    merge(&mut table, node_fact("a", u64::MAX, u64::MAX));
    assert!(table.forget(&"a".parse().unwrap()));
    assert!(!table.forget(&"a".parse().unwrap()), "nothing is left");
    assert!(!table.forget(&"me".parse().unwrap()), "nobody forgets itself");
    assert_eq!(table.nodes().count(), 0);
    assert!(matches!(merge(&mut table, node_fact("a", 3, 1)), Effect::New(_)));
}

fn facts() -> impl Strategy<Value = Vec<SignedFact>> {
    let one = ("[abc]", 0..3u64, 0..4u64, 8..11u16, prop::collection::vec(0..3u8, 0..2));
    let one =
        one.prop_map(|(owner, incarnation, seq, kind, body)| fact(&owner, incarnation, seq, FactKind(kind), body));
    prop::collection::vec(one, 0..40)
}

fn merged(facts: impl IntoIterator<Item = SignedFact>) -> FactTable {
    let mut table = table();
    let mut now = Instant::now();
    for fact in facts {
        now += Duration::from_secs(1); // slow enough for the rate limit
        table.merge(fact, &FakeAuthority, now, 0);
    }
    table
}

fn held(table: &FactTable) -> Vec<SignedFact> {
    table.snapshot().iter().map(|fact| fact.as_ref().clone()).collect()
}

proptest! {
    #[test]
    fn merging_is_commutative(facts in facts().prop_shuffle(), seed in any::<prop::sample::Index>()) {
        let mut reordered = facts.clone();
        reordered.reverse();
        if !facts.is_empty() {
            reordered.rotate_left(seed.index(facts.len()));
        }
        prop_assert_eq!(held(&merged(facts)), held(&merged(reordered)));
    }

    #[test]
    fn merging_is_idempotent(facts in facts()) {
        let once = merged(facts.clone());
        let twice = merged(facts.iter().cloned().chain(facts.clone()));
        prop_assert_eq!(held(&once), held(&twice));
        prop_assert_eq!(held(&merged(held(&once))), held(&once));
    }

    #[test]
    fn merging_is_associative(a in facts(), b in facts(), c in facts()) {
        let join = |one: &[SignedFact], other: &[SignedFact]| held(&merged(one.iter().chain(other).cloned()));
        let (a, b, c) = (held(&merged(a)), held(&merged(b)), held(&merged(c)));
        prop_assert_eq!(join(&join(&a, &b), &c), join(&a, &join(&b, &c)));
    }

    #[test]
    fn only_its_owner_changes_a_register(facts in facts(), forger in "[abc]") {
        let forged = facts.iter().filter(|fact| fact.owner.as_str() != forger).cloned().map(|mut fact| {
            fact.chain = chain(&format!("spiffe://cluster.local/node/{forger}"), "ca", "*/*");
            fact.signature = sign(&fact.chain, &fact.signed_bytes());
            fact
        });
        prop_assert_eq!(held(&merged(forged)), vec![]);
    }

    #[test]
    fn what_is_new_is_forwarded_at_most_once_per_version(facts in facts()) {
        let mut table = table();
        let mut forwarded = Vec::new();
        let mut now = Instant::now();
        for fact in facts.iter().chain(&facts).cloned() {
            now += Duration::from_secs(1);
            if let Effect::New(fact) = table.merge(fact, &FakeAuthority, now, 0) {
                let key = (fact.owner.clone(), fact.kind, fact.version());
                prop_assert!(!forwarded.contains(&key), "{:?}", key);
                forwarded.push(key);
            }
        }
    }
}
