use std::{
    path::Path,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use rustls::pki_types::UnixTime;
use weft_ca::{csr, init::NewMesh, key::PrivateKey, revocation::Revocations};
use weft_wire::id::{Grant, Revoked};

use super::*;
use crate::{
    identity::tests::founder,
    peer::quic::Quic,
    store::tests::on_disk_that_fills,
    supervisor::{Limits, Supervisor},
};

struct Bench {
    setup: Setup,
    full: Arc<AtomicBool>,
    mesh: NewMesh,
    _changes: Arc<watch::Sender<u64>>,
}

impl Bench {
    fn new(dir: &Path) -> Self {
        let (identity, mesh) = founder();
        let supervisor = Supervisor::new(Limits::default()).unwrap();
        let telemetry = Telemetry::default();
        let quic = Quic::bind("127.0.0.1:0".parse().unwrap(), identity.clone()).unwrap();
        let links = links::Handle::new(quic, Arc::default(), Arc::default(), telemetry.clone());
        let (store, full) = on_disk_that_fills(dir);
        let (myself, _) = supervisor.open("documents", 1);
        let contents = watch::channel(Arc::default()).1;
        let changes = Arc::new(watch::channel(0).0);
        let setup = Setup {
            identity,
            identity_changes: changes.subscribe(),
            published: Published::default(),
            store,
            links,
            standings: watch::channel(Standings::default()).1,
            rumours: watch::channel(Arc::default()).1,
            abroad: watch::channel(Arc::default()).1,
            contents,
            myself,
            telemetry,
        };
        Self { setup, full, mesh, _changes: changes }
    }

    /// What an operator signed elsewhere, `age_ms` ago.
    fn document(&self, name: &str, timeout: &str, age_ms: u64) -> SignedDocument {
        let stamp = Stamp { millis: wall_ms() - age_ms, counter: 0 };
        let mut document = SignedDocument {
            key: key(name),
            stamp,
            created: stamp,
            author: "spiffe://cluster.local/operator/admin".parse().unwrap(),
            body: Some(body(name, timeout)),
            chain: der_chain(&self.mesh.operator.chain),
            signature: Vec::new(),
        };
        document.signature = self.mesh.operator.key.sign(&document.signed_bytes());
        document
    }

    fn handle(&self) -> Handle {
        Handle::new(self.setup.myself.clone(), &self.setup.published, self.setup.store.clone())
    }

    fn listed(&self) -> Vec<String> {
        self.handle().held().policy().map(|(document, _)| document.key.name.clone()).collect()
    }

    fn on_disk(&self) -> Vec<String> {
        self.setup.store.load_documents().unwrap().rows.into_iter().map(|document| document.key.name).collect()
    }
}

fn key(name: &str) -> DocumentKey {
    DocumentKey {
        group: "networking.istio.io".into(),
        kind: "VirtualService".into(),
        namespace: Some("default".parse().unwrap()),
        name: name.into(),
    }
}

fn body(name: &str, timeout: &str) -> String {
    let route = serde_json::json!({ "timeout": timeout, "route": [{ "destination": { "host": name } }] });
    serde_json::json!({
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": { "name": name, "namespace": "default" },
        "spec": { "hosts": [name], "http": [route] },
    })
    .to_string()
}

fn drafts(names: &[&str]) -> Write {
    Write::Drafts(names.iter().map(|name| draft(name, Some(body(name, "1s")), None)).collect())
}

fn signed(documents: Vec<SignedDocument>) -> Write {
    Write::Signed { documents, contents: Vec::new(), if_versions: Vec::new() }
}

fn draft(name: &str, body: Option<String>, if_version: Option<VersionId>) -> Draft {
    Draft { key: key(name), body, content: None, if_version }
}

#[tokio::test]
async fn on_a_full_disk_only_local_writes_fail_and_the_rest_is_saved_when_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::new(dir.path());
    let mut actor = DocumentsActor::new(bench.setup.clone());
    bench.full.store(true, Relaxed);
    let error = actor.write(drafts(&["ours"])).await.unwrap_err();
    assert!(format!("{error:#}").starts_with("nothing was written: make room"), "{error:#}");
    actor.merge(vec![bench.document("theirs", "1s", 0)], None).await;
    assert_eq!(bench.listed(), ["theirs"], "what was not written is not in force");

    bench.full.store(false, Relaxed);
    actor.save_waiting().await;
    assert_eq!(bench.on_disk(), ["theirs"]);
    actor.write(drafts(&["ours"])).await.unwrap();
    assert_eq!(bench.on_disk(), ["ours", "theirs"]);
    assert_eq!(bench.listed(), ["ours", "theirs"]);
}

#[tokio::test]
async fn a_crash_loses_nothing_that_was_merged() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::new(dir.path());
    let mut actor = DocumentsActor::new(bench.setup.clone());
    bench.full.store(true, Relaxed);
    actor.merge(vec![bench.document("reviews", "1s", 10)], None).await;
    // Of a newer build: kept, while the last good version holds.
    actor.merge(vec![bench.document("reviews", "soon", 5)], None).await;
    let root = bench.handle().root();
    let in_force = bench.setup.published.policy.borrow().clone();
    assert_eq!(in_force.len(), 1);
    drop(actor);

    let mut actor = DocumentsActor::new(bench.setup.clone());
    actor.publish();
    assert_eq!(bench.handle().root(), root);
    assert_eq!(*bench.setup.published.policy.borrow(), in_force);
    let held = bench.handle().held();
    let (newest, reading) = held.policy().next().unwrap();
    assert!(newest.body.as_ref().unwrap().contains("soon") && reading.error.is_some(), "said to be unreadable");
    assert_eq!(reading.in_force.as_ref(), in_force.first(), "and the last good version holds");
    bench.full.store(false, Relaxed);
    actor.save_waiting().await;
    assert_eq!(bench.on_disk(), ["reviews"]);
}

#[tokio::test]
async fn what_a_revoked_node_wrote_before_that_was_heard_of_gives_way_to_what_held_before() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::new(dir.path());
    let mut actor = DocumentsActor::new(bench.setup.clone());
    let thief = PrivateKey::generate().unwrap();
    let ago = |secs: u64| UnixTime::since_unix_epoch(Duration::from_secs(wall_ms() / 1_000 - secs));
    let grant = Grant { role: Role::Admin, accounts: Vec::new() };
    let chain =
        bench.mesh.issuer.sign_node(&"b".parse().unwrap(), &grant, &csr::create(&thief).unwrap(), ago(60)).unwrap();
    let by_thief = |name: &str, age_ms: u64| {
        let mut document = bench.document(name, "9s", age_ms);
        document.author = "spiffe://cluster.local/node/b".parse().unwrap();
        document.chain = der_chain(&chain);
        document.signature = thief.sign(&document.signed_bytes());
        document
    };
    let (first, before) = (bench.document("reviews", "1s", 20_000), by_thief("before", 15_000));
    actor.merge(vec![first.clone(), before.clone()], None).await;
    let root = bench.handle().root();
    actor.merge(vec![by_thief("reviews", 5_000), by_thief("new", 5_000)], None).await;
    assert_eq!(bench.listed(), ["before", "new", "reviews"]);

    let mut revocations = Revocations::default();
    revocations.add(Revoked::Node("b".parse().unwrap()), ago(10));
    let strict = bench.setup.identity.load().with_revocations(Arc::new(revocations));
    bench.setup.identity.store(Arc::new(strict));
    actor.take_out_revoked().await;
    assert_eq!(bench.listed(), ["before", "reviews"]);
    assert_eq!(bench.handle().root(), root);
    let mut on_disk = bench.setup.store.load_documents().unwrap().rows;
    on_disk.sort_by_key(|document| document.key.clone());
    assert_eq!(on_disk, [before, first]);
    assert!(!actor.merge(vec![by_thief("new", 4_000)], None).await, "it is refused now");
}

#[tokio::test]
async fn a_token_does_not_wake_the_readers_of_policy() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::new(dir.path());
    let mut actor = DocumentsActor::new(bench.setup.clone());
    actor.write(drafts(&["reviews"])).await.unwrap();
    let (mut policy, mut tokens) = (bench.setup.published.policy.subscribe(), bench.setup.published.tokens.subscribe());
    let record = TokenRecord {
        id: "00".into(),
        issuer: "a".parse().unwrap(),
        role: Role::Member,
        allow: Vec::new(),
        uses: 1,
        expires: 1,
        revoked: false,
    };
    let body = Some(serde_json::to_string(&record).unwrap());
    actor.write(Write::Drafts(vec![Draft { key: TokenRecord::key("00"), ..draft("", body, None) }])).await.unwrap();
    assert!(tokens.has_changed().unwrap());
    assert!(!policy.has_changed().unwrap());
    assert_eq!((bench.handle().count(), tokens.borrow_and_update().len()), (1, 1));
    actor.write(drafts(&["ratings"])).await.unwrap();
    assert!(!tokens.has_changed().unwrap());
    assert_eq!(policy.borrow_and_update().len(), 2);
}

#[tokio::test]
async fn preparing_says_what_would_become_of_each_and_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::new(dir.path());
    let mut actor = DocumentsActor::new(bench.setup.clone());
    actor.write(drafts(&["same", "other", "gone"])).await.unwrap();
    let root = bench.handle().root();
    let wanted = [
        draft("new", Some(body("new", "1s")), None),
        draft("other", Some(body("other", "2s")), None),
        draft("same", Some(body("same", "1s")), None),
        draft("gone", None, None),
    ];
    let outcomes: Vec<_> = actor.prepare(None, &wanted).unwrap().iter().map(|prepared| prepared.outcome).collect();
    assert_eq!(outcomes, [Outcome::Created, Outcome::Configured, Outcome::Unchanged, Outcome::Deleted]);
    assert_eq!(bench.handle().root(), root);
    assert!(actor.prepare(None, &[draft("never", None, None)]).is_err());
}

#[tokio::test]
async fn a_change_of_another_version_than_the_present_one_is_refused_and_names_both() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::new(dir.path());
    let mut actor = DocumentsActor::new(bench.setup.clone());
    let version = |actor: &DocumentsActor| actor.table.get(&key("reviews")).unwrap().version().id();
    actor.write(drafts(&["reviews"])).await.unwrap();
    let first = version(&actor);
    let change =
        |timeout: &str, seen| Write::Drafts(vec![draft("reviews", Some(body("reviews", timeout)), Some(seen))]);
    actor.write(change("2s", first)).await.unwrap();
    let second = version(&actor);
    for late in [change("3s", first), Write::Drafts(vec![draft("reviews", None, Some(first))])] {
        let error = actor.write(late).await.unwrap_err().to_string();
        for word in [first.to_string(), second.to_string(), "weft get virtualservice reviews -n default".into()] {
            assert!(error.contains(&word), "{word}: {error}");
        }
    }
    let same = actor.write(change("2s", first)).await.unwrap();
    assert_eq!(same[0].outcome, Outcome::Unchanged, "what the mesh says already needs no version");

    // Between the preparation and the operator's signature another one comes.
    let signed = bench.document("reviews", "4s", 0);
    let if_versions = vec![(key("reviews"), first)];
    let late = Write::Signed { documents: vec![signed], contents: Vec::new(), if_versions };
    assert!(actor.write(late).await.unwrap_err().to_string().contains("has changed"));

    actor.write(Write::Drafts(vec![draft("reviews", None, Some(second))])).await.unwrap();
    let error = actor.write(change("5s", second)).await.unwrap_err().to_string();
    assert!(error.contains("does not exist any more") && error.contains(&second.to_string()), "{error}");
    assert_eq!(bench.listed(), Vec::<String>::new());
}

#[tokio::test]
async fn signed_documents_are_written_all_or_none() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::new(dir.path());
    let mut actor = DocumentsActor::new(bench.setup.clone());
    let (first, second) = (bench.document("first", "1s", 10), bench.document("second", "1s", 10));
    actor.merge(vec![bench.document("second", "2s", 5)], None).await;
    let error = actor.write(signed(vec![first.clone(), second])).await.unwrap_err();
    assert!(error.to_string().contains("second was changed meanwhile"), "{error}");
    let mut forged = bench.document("third", "1s", 0);
    forged.signature = vec![1];
    actor.write(signed(vec![first.clone(), forged])).await.unwrap_err();
    let error = actor.write(signed(vec![first.clone(), first.clone()])).await.unwrap_err();
    assert!(error.to_string().contains("first is given twice"), "{error}");
    assert_eq!(bench.listed(), ["second"]);
    actor.write(signed(vec![first])).await.unwrap();
    assert_eq!(bench.listed(), ["first", "second"]);
}
