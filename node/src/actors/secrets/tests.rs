use std::time::Duration;

use rustls::pki_types::UnixTime;
use weft_ca::init::NewMesh;
use weft_policy::document::parse_yaml;
use weft_wire::{
    document::Stamp,
    id::{Grant, Namespace},
    secret::SecretBytes,
};

use super::*;
use crate::{
    identity::{der_chain, tests::founder, wall_ms},
    peer::quic::Quic,
    supervisor::{Limits, Supervisor},
};

const YAML: &str = "{apiVersion: v1, kind: Secret, metadata: {name: s}, stringData: {password: hunter2}}";

struct Bench {
    handle: Handle,
    mesh: NewMesh,
    supervisor: Supervisor,
    // The actor ends when nobody publishes what it reads.
    _published: (documents::Published, watch::Sender<Arc<facts::Published>>, watch::Sender<Standings>),
    _dir: tempfile::TempDir,
}

impl Bench {
    /// A node of role ca, with its actor.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (identity, mesh) = founder();
        let supervisor = Supervisor::new(Limits::default()).unwrap();
        let telemetry = Telemetry::default();
        let quic = Quic::bind("127.0.0.1:0".parse().unwrap(), identity.clone()).unwrap();
        let links = links::Handle::new(quic, Arc::default(), Arc::default(), telemetry.clone());
        let (myself, opened) = supervisor.open("secrets", 8);
        let documents = documents::Published::default();
        let (facts, of_facts) = watch::channel(Arc::default());
        let (standings, of_standings) = watch::channel(Standings::default());
        let setup = Setup {
            name: "a".parse().unwrap(),
            vault: Vault::open(dir.path()).unwrap(),
            identity,
            documents: documents.held.subscribe(),
            policy: documents.policy.subscribe(),
            facts: of_facts,
            standings: of_standings,
            published: Published::default(),
            links,
            myself,
            telemetry,
        };
        let of_actor = setup.clone();
        supervisor.start(opened, move || Ok(SecretsActor::new(of_actor.clone())));
        let _published = (documents, facts, standings);
        Self { handle: Handle::new(setup), mesh, supervisor, _published, _dir: dir }
    }

    /// The document of [`YAML`], signed by the operator, and its content.
    fn secret(&self) -> (SignedDocument, SecretPayload) {
        let parsed = parse_yaml(YAML, &Namespace::default_namespace()).unwrap().documents.remove(0);
        let (body, content) = parsed.seal(SecretBytes::new(vec![7; SecretPayload::SALT_LEN])).unwrap();
        let stamp = Stamp { millis: wall_ms(), counter: 0 };
        let mut document = SignedDocument {
            key: parsed.key,
            stamp,
            created: stamp,
            author: "spiffe://cluster.local/operator/admin".parse().unwrap(),
            body: Some(body),
            chain: der_chain(&self.mesh.operator.chain),
            signature: Vec::new(),
        };
        document.signature = self.mesh.operator.key.sign(&document.signed_bytes());
        (document, content.unwrap())
    }

    /// Has the node hold a content, as if its document had come.
    fn hold(&self, key: &DocumentKey, content: &SecretPayload) {
        let contents = [(Reference::of_secret(key).unwrap(), Arc::new(content.clone()))].into();
        self.handle.0.published.held.send_replace(Arc::new(Held { contents, missing: Vec::new() }));
    }

    fn refused(&self, reason: &'static str) -> u64 {
        self.handle.0.telemetry.secrets_refused.get_or_create(&Reason { reason }).get()
    }

    fn on_disk(&self) -> usize {
        self.handle.0.vault.load().len()
    }
}

fn peer(bench: &Bench, role: Role) -> PeerIdentity {
    let own = bench.handle.0.identity.load();
    let grant = Some(Grant { role, accounts: Vec::new() });
    let id = "spiffe://cluster.local/node/b".parse().unwrap();
    PeerIdentity { id, grant, not_after: UnixTime::now(), ..own.certificate.clone() }
}

#[tokio::test]
async fn a_content_is_given_to_keepers_and_to_nobody_without_need() {
    let bench = Bench::new();
    let (document, content) = bench.secret();
    bench.hold(&document.key, &content);
    let ask = |role, digest| bench.handle.answer(&peer(&bench, role), &document.key, digest);
    for role in [Role::Admin, Role::Ca] {
        assert_eq!(ask(role, content.digest()).unwrap(), content);
    }
    let error = ask(Role::Member, content.digest()).unwrap_err().to_string();
    assert!(error.contains("no document says that you need it"), "{error}");
    assert_eq!(bench.refused("not_needed"), 1);
    let error = ask(Role::Admin, SecretDigest([0; 32])).unwrap_err().to_string();
    assert!(error.contains("another version") && bench.refused("other_version") == 1, "{error}");
    let key = DocumentKey { name: "other".into(), ..document.key.clone() };
    assert!(bench.handle.answer(&peer(&bench, Role::Admin), &key, content.digest()).is_err());
    let key = DocumentKey { kind: "ConfigMap".into(), ..document.key.clone() };
    assert!(bench.handle.answer(&peer(&bench, Role::Admin), &key, content.digest()).is_err());
    assert_eq!((bench.refused("not_held"), bench.refused("no_secret")), (1, 1));
}

#[tokio::test]
async fn a_member_gets_what_a_document_says_that_it_needs() {
    let bench = Bench::new();
    let (document, content) = bench.secret();
    bench.hold(&document.key, &content);
    let yaml = "{apiVersion: networking.istio.io/v1, kind: Gateway, metadata: {name: g}, spec: {selector: {edge: 'yes'}, \
                servers: [{port: {number: 443, name: a, protocol: HTTPS}, hosts: ['*'], tls: {mode: SIMPLE, \
                credentialName: default/s}}]}}";
    let parsed = parse_yaml(yaml, &Namespace::default_namespace()).unwrap().documents.remove(0);
    let gateway = weft_policy::document::parse_stored(&parsed.key, &parsed.json, Stamp::default()).unwrap();
    let record = weft_wire::fact::NodeRecord {
        advertise: [127, 0, 0, 1].into(),
        state: weft_wire::fact::NodeState::Up,
        locality: Default::default(),
        labels: [("edge".to_owned(), "yes".to_owned())].into(),
        build: String::new(),
        endpoints: Vec::new(),
    };
    let node = facts::Node { record: Arc::new(record), version: Default::default(), certificate: None };
    let mut published = facts::Published::default();
    Arc::make_mut(&mut published.nodes).insert("b".parse().unwrap(), node);
    let mut setup = bench.handle.0.clone();
    setup.facts = watch::channel(Arc::new(published)).1;
    let ask = |setup: &Setup| {
        Handle::new(setup.clone()).answer(&peer(&bench, Role::Member), &document.key, content.digest()).ok()
    };
    assert_eq!(ask(&setup), None);
    setup.policy = watch::channel(Arc::new(vec![Arc::new(gateway)])).1;
    assert_eq!(ask(&setup), Some(content.clone()));
}

#[tokio::test]
async fn only_what_an_operator_signed_and_meant_is_kept() {
    let bench = Bench::new();
    let (document, content) = bench.secret();
    let keep = |document: &SignedDocument, contents: Vec<SecretPayload>| {
        let (handle, documents) = (bench.handle.clone(), vec![document.clone()]);
        async move { handle.keep(documents, contents).await.map_err(|error| format!("{error:#}")) }
    };
    let mut forged = document.clone();
    forged.stamp.millis += 1;
    let error = keep(&forged, vec![content.clone()]).await.unwrap_err();
    assert!(error.contains("not signed by a trusted key"), "{error}");
    let mut other = content.clone();
    other.data.insert("password".into(), SecretBytes::new(b"hunter3".to_vec()));
    let large = SecretPayload { data: [("a".into(), SecretBytes::new(vec![0; 300 * 1024]))].into(), ..content.clone() };
    for contents in [vec![other.clone()], vec![large], vec![], vec![content.clone(), other]] {
        let error = keep(&document, contents).await.unwrap_err();
        assert!(!error.contains("hunter"), "{error}");
    }
    assert_eq!(bench.on_disk(), 0, "nothing of a stranger reaches the disk");
    keep(&document, vec![content]).await.unwrap();
    assert_eq!(bench.on_disk(), 1);
    bench.supervisor.shutdown(Duration::from_secs(5)).await;
}
