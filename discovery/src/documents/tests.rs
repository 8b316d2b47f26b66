use proptest::prelude::*;
use weft_wire::document::MAX_DOCUMENT_LEN;

use super::*;
use crate::authority::fake::{FakeAuthority, chain, sign};

const OPERATOR: &str = "spiffe://cluster.local/operator/ada";
const NODE: &str = "spiffe://cluster.local/node/a";
const WALL_MS: u64 = 1_000_000;

fn key(kind: &str, name: &str) -> DocumentKey {
    let group = if [JOIN_TOKEN_KIND, REVOCATION_KIND].contains(&kind) { WEFT_GROUP } else { "networking.istio.io" };
    DocumentKey {
        group: group.into(),
        kind: kind.into(),
        namespace: Some("default".parse().unwrap()),
        name: name.into(),
    }
}

fn reviews() -> DocumentKey {
    key("VirtualService", "reviews")
}

fn signed_as(mut document: SignedDocument, signer: &str, role: &str) -> SignedDocument {
    document.chain = chain(signer, role, "");
    document.signature = sign(&document.chain, &document.signed_bytes());
    document
}

/// A version by `author`, who signs with the role admin.
fn version(key: DocumentKey, millis: u64, author: &str, body: Option<&str>) -> SignedDocument {
    let document = SignedDocument {
        key,
        stamp: Stamp { millis, counter: 0 },
        created: Stamp::default(),
        author: author.parse().unwrap(),
        body: body.map(str::to_owned),
        chain: vec![],
        signature: vec![],
    };
    signed_as(document, author, "admin")
}

fn merge(table: &mut DocumentTable, document: SignedDocument) -> Result<Arc<SignedDocument>, NotTaken> {
    table.merge(document, &FakeAuthority, WALL_MS)
}

fn write(table: &mut DocumentTable, body: Option<&str>) -> Result<SignedDocument, DraftError> {
    let draft = table.draft(reviews(), body.map(str::to_owned), OPERATOR.parse().unwrap(), WALL_MS)?;
    let document = signed_as(draft, OPERATOR, "admin");
    assert_eq!(merge(table, document.clone()).as_deref(), Ok(&document));
    Ok(document)
}

#[test]
fn the_latest_stamp_wins_and_older_ones_are_old() {
    let mut table = DocumentTable::default();
    let (first, second) = (version(reviews(), 1, OPERATOR, Some("1")), version(reviews(), 2, OPERATOR, Some("2")));
    assert_eq!(merge(&mut table, first.clone()).as_deref(), Ok(&first));
    assert_eq!(merge(&mut table, second.clone()).as_deref(), Ok(&second));
    assert_eq!(merge(&mut table, first), Err(NotTaken::Old));
    assert_eq!(table.get(&reviews()).unwrap().body.as_deref(), Some("2"));
}

#[test]
fn a_deletion_is_kept_so_that_nobody_brings_the_document_back() {
    let mut table = DocumentTable::default();
    let first = write(&mut table, Some("1")).unwrap();
    write(&mut table, None).unwrap();
    assert_eq!(table.get(&reviews()), None);
    assert_eq!(table.iter().count(), 0);
    assert_eq!(table.have().len(), 1);
    assert_eq!(merge(&mut table, first), Err(NotTaken::Old));
}

#[test]
fn an_update_keeps_when_the_document_was_created_and_a_new_life_does_not() {
    let mut table = DocumentTable::default();
    let first = write(&mut table, Some("1")).unwrap();
    assert_eq!(first.created, first.stamp);
    let second = write(&mut table, Some("2")).unwrap();
    assert!(second.stamp > first.stamp);
    assert_eq!(second.created, first.stamp);
    write(&mut table, None).unwrap();
    let third = write(&mut table, Some("3")).unwrap();
    assert_eq!(third.created, third.stamp);
}

#[test]
fn what_does_not_exist_cannot_be_deleted() {
    let mut table = DocumentTable::default();
    assert_eq!(write(&mut table, None), Err(DraftError::NotFound(reviews())));
    write(&mut table, Some("1")).unwrap();
    write(&mut table, None).unwrap();
    assert_eq!(write(&mut table, None), Err(DraftError::NotFound(reviews())));
}

#[test]
fn of_two_that_were_checked_the_later_one_holds_in_whatever_order_they_are_stored() {
    let mut table = DocumentTable::default();
    let check = |millis| table.check(version(reviews(), millis, OPERATOR, Some("1")), &FakeAuthority, WALL_MS).unwrap();
    let (first, second) = (check(1), check(2));
    assert_eq!(table.have(), [], "a check changes nothing");
    table.store(second.clone());
    table.store(first);
    assert_eq!(table.get(&reviews()).unwrap().as_ref(), second.document());
}

#[test]
fn operators_and_nodes_of_role_admin_write_documents() {
    for (author, role, allowed) in [
        (OPERATOR, "admin", true),
        (NODE, "admin", true),
        (NODE, "ca", true),
        (NODE, "member", false),
        ("spiffe://cluster.local/ns/default/sa/reviews", "admin", false),
    ] {
        let document = signed_as(version(reviews(), 1, author, Some("1")), author, role);
        let effect = merge(&mut DocumentTable::default(), document);
        assert_eq!(effect.is_ok(), allowed, "{author} {role}: {effect:?}");
        assert_eq!(matches!(effect, Err(NotTaken::Refused(Refusal::RoleTooLow { .. }))), !allowed, "{author} {role}");
    }
}

#[test]
fn revocations_are_written_by_operators_and_ca_nodes() {
    for (author, role, allowed) in [(OPERATOR, "admin", true), (NODE, "admin", false), (NODE, "ca", true)] {
        for body in [Some("1"), None] {
            let document = signed_as(version(key(REVOCATION_KIND, "r"), 1, author, body), author, role);
            let effect = merge(&mut DocumentTable::default(), document);
            assert_eq!(effect.is_ok(), allowed, "{author} {role}: {effect:?}");
        }
    }
}

#[test]
fn what_was_taken_out_is_as_if_it_had_never_come() {
    let mut table = DocumentTable::default();
    merge(&mut table, version(key("VirtualService", "other"), 1, OPERATOR, Some("1"))).unwrap();
    let root = table.root();
    let document = version(reviews(), 2, OPERATOR, Some("1"));
    merge(&mut table, document.clone()).unwrap();
    table.take_out(&reviews());
    table.take_out(&reviews());
    assert_eq!((table.root(), table.get(&reviews())), (root, None));
    assert!(merge(&mut table, version(reviews(), 1, OPERATOR, Some("0"))).is_ok(), "an older one may hold again");
    assert!(merge(&mut table, document).is_ok());
}

#[test]
fn join_tokens_are_written_and_revoked_by_ca_nodes_alone() {
    for (author, role, allowed) in [(OPERATOR, "admin", false), (NODE, "admin", false), (NODE, "ca", true)] {
        for body in [Some("1"), None] {
            let document = signed_as(version(key(JOIN_TOKEN_KIND, "t"), 1, author, body), author, role);
            let effect = merge(&mut DocumentTable::default(), document);
            assert_eq!(effect.is_ok(), allowed, "{author} {role}: {effect:?}");
        }
    }
}

#[test]
fn a_document_is_signed_by_its_author_and_as_it_is() {
    let mut table = DocumentTable::default();
    let foreign = signed_as(version(reviews(), 1, OPERATOR, Some("1")), NODE, "ca");
    assert!(matches!(merge(&mut table, foreign), Err(NotTaken::Refused(Refusal::ForeignSigner { .. }))));
    let changes: [fn(&mut SignedDocument); 5] = [
        |document| document.body = None,
        |document| document.body = Some("2".into()),
        |document| document.key.name = "ratings".into(),
        |document| document.stamp.counter = 1,
        |document| document.created.counter = 1,
    ];
    for change in changes {
        let mut document = version(reviews(), 1, OPERATOR, Some("1"));
        change(&mut document);
        assert!(matches!(merge(&mut table, document), Err(NotTaken::Refused(Refusal::NotTrusted(_)))));
    }
    assert_eq!(table.have(), []);
    assert_eq!(table.high_water(), Stamp::default(), "and an untrusted stamp does not move the clock");
}

#[test]
fn a_stamp_from_the_future_is_quarantined_until_it_is_time() {
    let mut table = DocumentTable::default();
    let early = version(reviews(), WALL_MS + 2_001, OPERATOR, Some("1"));
    assert!(matches!(
        merge(&mut table, early.clone()),
        Err(NotTaken::Quarantined(TooFarAhead { ahead_ms: 2_001, .. }))
    ));
    assert_eq!(table.have(), []);
    assert_eq!(table.high_water(), Stamp::default());
    assert!(table.merge(early, &FakeAuthority, WALL_MS + 1).is_ok());
}

#[test]
fn a_write_after_a_stamp_from_ahead_still_wins() {
    let mut table = DocumentTable::default();
    let ahead = version(reviews(), WALL_MS + 1_500, OPERATOR, Some("theirs"));
    merge(&mut table, ahead.clone()).unwrap();
    let ours = write(&mut table, Some("ours")).unwrap();
    assert!(ours.stamp > ahead.stamp);
}

#[test]
fn documents_of_bad_form_are_refused() {
    let changes: [fn(&mut SignedDocument); 7] = [
        |document| document.body = Some("x".repeat(MAX_DOCUMENT_LEN + 1)),
        |document| document.key.kind = String::new(),
        |document| document.key.name = String::new(),
        |document| document.key.name = "n".repeat(254),
        |document| document.key.group = "a\nb".into(),
        |document| document.created.millis = 2,
        |document| document.chain = vec![Vec::new(); 5],
    ];
    for change in changes {
        let mut document = version(reviews(), 1, OPERATOR, Some("1"));
        change(&mut document);
        let effect = merge(&mut DocumentTable::default(), document);
        assert!(
            matches!(effect, Err(NotTaken::Refused(Refusal::Malformed(_) | Refusal::TooLarge { .. }))),
            "{effect:?}"
        );
    }
}

#[test]
fn a_restored_table_is_the_same_and_its_clock_does_not_go_back() {
    let mut before = DocumentTable::default();
    write(&mut before, Some("1")).unwrap();
    let written = write(&mut before, Some("2")).unwrap();
    let stored =
        before.missing_for(&[], usize::MAX).iter().map(|document| document.as_ref().clone()).collect::<Vec<_>>();
    let mut after = DocumentTable::restore(stored, before.high_water());
    assert_eq!(after.root(), before.root());
    let slow = after.draft(reviews(), None, OPERATOR.parse().unwrap(), WALL_MS - 1_000).unwrap();
    assert!(slow.stamp > written.stamp);
}

#[test]
fn a_peer_is_sent_what_it_lacks_within_the_bound() {
    let (mut full, mut behind) = (DocumentTable::default(), DocumentTable::default());
    for name in ["a", "b", "c"] {
        merge(&mut full, version(key("VirtualService", name), 2, OPERATOR, Some("2"))).unwrap();
    }
    merge(&mut behind, version(key("VirtualService", "a"), 1, OPERATOR, Some("1"))).unwrap();
    merge(&mut behind, version(key("VirtualService", "b"), 2, OPERATOR, Some("2"))).unwrap();
    let names = |missing: Vec<Arc<SignedDocument>>| missing.iter().map(|d| d.key.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(full.missing_for(&behind.have(), usize::MAX)), ["a", "c"]);
    assert_eq!(names(full.missing_for(&behind.have(), 1)), ["a"]);
    assert_eq!(names(full.missing_for(&full.have(), usize::MAX)), [""; 0]);
}

#[test]
fn who_asks_is_asked_in_turn_for_what_it_has_newer() {
    let (mut table, mut asking) = (DocumentTable::default(), DocumentTable::default());
    merge(&mut table, version(reviews(), 2, OPERATOR, Some("2"))).unwrap();
    merge(&mut asking, version(reviews(), 1, OPERATOR, Some("1"))).unwrap();
    assert!(!table.is_behind(&asking.have()) && asking.is_behind(&table.have()));
    let another = version(key("VirtualService", "ratings"), 1, OPERATOR, Some("1"));
    merge(&mut asking, another.clone()).unwrap();
    assert!(table.is_behind(&asking.have()));
    let archived =
        [(another.key.clone(), DocumentVersion { stamp: Stamp { millis: 5, counter: 0 }, ..another.version() })];
    assert!(!table.with_archive(archived, KEEP_DELETED).is_behind(&asking.have()), "deleted since");
}

/// What `table` lets go of a day after its documents were written, when these members have its digest.
fn forgotten(table: &mut DocumentTable, all: &[u8], agree: &[u8]) -> Vec<String> {
    let node = |n: &u8| NodeId([*n; 8]);
    table.age(WALL_MS + KEEP_DELETED.as_millis() as u64);
    table.acknowledged_by(agree.iter().map(node));
    let forgotten = table.forget_deleted(&all.iter().map(node).collect());
    forgotten.archived.iter().map(|document| document.key.name.clone()).collect()
}

#[test]
fn a_deletion_is_forgotten_when_its_time_is_over_and_all_members_have_it() {
    let mut table = DocumentTable::default();
    write(&mut table, Some("1")).unwrap();
    let deletion = write(&mut table, None).unwrap();
    table.acknowledged_by([NodeId([1; 8])]);
    table.age(WALL_MS + KEEP_DELETED.as_millis() as u64 - 1);
    assert_eq!(table.forget_deleted(&[NodeId([1; 8])].into()), Forgotten::default(), "its time is not over");
    assert_eq!(forgotten(&mut table, &[1, 2], &[]), [""; 0], "2 may not have it");
    assert_eq!((table.have().len(), table.root()), (0, DocumentTable::default().root()), "though it is past");
    assert_eq!(table.missing_for(&[], usize::MAX), []);
    let old = version(reviews(), 1, OPERATOR, Some("1"));
    let have = [(reviews(), old.version())];
    assert_eq!(table.missing_for(&have, usize::MAX).len(), 1, "but who has something older hears of it");
    assert_eq!(merge(&mut table, old.clone()), Err(NotTaken::Old));
    assert_eq!(forgotten(&mut table, &[1, 2], &[2]), ["reviews"]);

    assert_eq!(table.snapshot().len(), 0);
    assert_eq!(merge(&mut table, old), Err(NotTaken::Deleted));
    assert_eq!(merge(&mut table, deletion.clone()), Err(NotTaken::Old));
    assert_eq!(table.unheard_deletions(&have), [reviews()]);
    assert_eq!(table.unheard_deletions(&[(reviews(), deletion.version())]), []);
    assert_eq!(table.recall(deletion.clone()).as_deref(), Some(&deletion));
    assert_eq!(table.recall(deletion.clone()), None);
    assert_eq!(table.missing_for(&have, usize::MAX).len(), 1);
    assert_eq!(table.root(), DocumentTable::default().root());
    assert_eq!(forgotten(&mut table, &[1, 2], &[1]), [""; 0], "2 is asked anew");
    assert_eq!(forgotten(&mut table, &[1], &[]), ["reviews"], "2 is a member no more");
    write(&mut table, Some("anew")).unwrap();
    assert_eq!(table.iter().count(), 1);
}

#[test]
fn who_had_the_same_digest_before_a_deletion_came_has_not_acknowledged_it() {
    let mut table = DocumentTable::default();
    write(&mut table, Some("1")).unwrap();
    table.acknowledged_by([NodeId([1; 8])]);
    write(&mut table, None).unwrap();
    assert_eq!(forgotten(&mut table, &[1], &[]), [""; 0]);
    let on_disk: Vec<_> = table.snapshot().iter().map(|document| document.as_ref().clone()).collect();
    let mut restarted = DocumentTable::restore(on_disk, Stamp::default());
    assert_eq!(forgotten(&mut restarted, &[1], &[]), [""; 0], "nor is it known after a restart who has");
    assert_eq!(forgotten(&mut restarted, &[1], &[1]), ["reviews"]);
}

#[test]
fn the_archive_is_known_after_a_restart_and_has_a_bound() {
    let deletion = |n: usize| version(key("VirtualService", &format!("s{n}")), 1 + n as u64, OPERATOR, None);
    let archive = (0..MAX_ARCHIVED).map(|n| (deletion(n).key, deletion(n).version()));
    let last = deletion(MAX_ARCHIVED);
    let mut table = DocumentTable::restore([last.clone()], Stamp::default()).with_archive(archive, KEEP_DELETED);
    let before = version(deletion(5).key, 1, OPERATOR, Some("1"));
    assert_eq!(merge(&mut table, before), Err(NotTaken::Deleted));
    table.age(WALL_MS + KEEP_DELETED.as_millis() as u64);
    let expected = Forgotten { archived: vec![Arc::new(last)], dropped: vec![deletion(0).key] };
    assert_eq!(table.forget_deleted(&BTreeSet::new()), expected);
}

fn versions() -> impl Strategy<Value = Vec<SignedDocument>> {
    let author = prop_oneof![Just(OPERATOR), Just(NODE)];
    let one = ("[abc]", 0..4u64, author, prop::option::of("[xy]"));
    let one = one.prop_map(|(name, millis, author, body)| {
        version(key("VirtualService", &name), millis, author, body.as_deref())
    });
    prop::collection::vec(one, 0..30)
}

fn merged<'a>(documents: impl IntoIterator<Item = &'a SignedDocument>) -> DocumentTable {
    let mut table = DocumentTable::default();
    for document in documents {
        // What is old changes nothing.
        let _ = merge(&mut table, document.clone());
    }
    table
}

fn held(table: &DocumentTable) -> Vec<SignedDocument> {
    table.missing_for(&[], usize::MAX).iter().map(|document| document.as_ref().clone()).collect()
}

proptest! {
    #[test]
    fn merging_is_commutative(documents in versions(), seed in any::<prop::sample::Index>()) {
        let mut reordered = documents.clone();
        reordered.reverse();
        if !documents.is_empty() {
            reordered.rotate_left(seed.index(documents.len()));
        }
        let (one, other) = (merged(&documents), merged(&reordered));
        prop_assert_eq!(held(&one), held(&other));
        prop_assert_eq!(one.root(), other.root());
    }

    #[test]
    fn merging_is_idempotent(documents in versions()) {
        let once = merged(&documents);
        let twice = merged(documents.iter().chain(&documents));
        prop_assert_eq!(held(&once), held(&twice));
        prop_assert_eq!(once.root(), twice.root());
    }

    #[test]
    fn merging_is_associative(a in versions(), b in versions(), c in versions()) {
        let join = |one: &[SignedDocument], other: &[SignedDocument]| held(&merged(one.iter().chain(other)));
        prop_assert_eq!(join(&join(&a, &b), &c), join(&a, &join(&b, &c)));
    }

    #[test]
    fn roots_are_equal_exactly_when_the_documents_are(a in versions(), b in versions()) {
        let (a, b) = (merged(&a), merged(&b));
        prop_assert_eq!(a.root() == b.root(), held(&a) == held(&b));
    }
}
