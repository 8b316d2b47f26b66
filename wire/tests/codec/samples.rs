//! One value of every wire type, each field different from its default, and where the bytes of each are kept.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use weft_wire::{
    cell::{CellSummary, IndexedPort, RelayWord, Wants},
    circuit::{Circuit, CircuitCause, CircuitRecord, CircuitState, EndpointKey},
    codec,
    document::{DocumentKey, KeptVersion, SignedDocument, Stamp},
    fact::{
        EndpointHealth, EndpointRow, FactBody, FactKind, FactVersion, NodeRecord, NodeState, Protocol, SignedFact,
        SpentTokens,
    },
    frame::{Holdings, JoinQuestion, JoinRequest, JoinResponse, MAX_FRAME_LEN, Push, Request, Response, Welcome},
    id::{Locality, NodeId, SpiffeId},
    secret::{SecretBytes, SecretPayload},
    tap::SignedTap,
};

/// The folder of the golden bytes. Each of its subfolders is one decoder's, and seeds the fuzz target of that name.
pub(crate) fn golden_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// Every golden file: its path and its bytes.
pub(crate) fn golden_files() -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    for decoder in fs::read_dir(golden_dir()).expect("the golden folder is there") {
        for file in fs::read_dir(decoder.expect("readable").path()).expect("a folder for each decoder") {
            let path = file.expect("readable").path();
            let bytes = fs::read(&path).expect("readable");
            files.push((path, bytes));
        }
    }
    assert!(!files.is_empty(), "no golden files in {}", golden_dir().display());
    files
}

/// Each golden file's name and the bytes that today's code makes for it.
pub(crate) fn encoded() -> Vec<(&'static str, Vec<u8>)> {
    let mut all = Vec::new();
    for (name, push) in pushes() {
        all.push((name, codec::encode(&push, MAX_FRAME_LEN).expect("fits")));
    }
    for (name, request) in requests() {
        all.push((name, codec::encode(&request, MAX_FRAME_LEN).expect("fits")));
    }
    for (name, response) in responses() {
        all.push((name, codec::encode(&response, MAX_FRAME_LEN).expect("fits")));
    }
    for (name, question) in join_questions() {
        all.push((name, codec::encode(&question, MAX_FRAME_LEN).expect("fits")));
    }
    for (name, response) in join_responses() {
        all.push((name, codec::encode(&response, MAX_FRAME_LEN).expect("fits")));
    }
    all.push(("fact_body/node.bin", node_record().encode().expect("fits")));
    all.push(("fact_body/stopped_node.bin", stopped_node_record().encode().expect("fits")));
    all.push(("fact_body/undeclared_node.bin", undeclared_node_record().encode().expect("fits")));
    all.push(("fact_body/spent_tokens.bin", spent_tokens().encode().expect("fits")));
    all.push(("fact_body/circuits.bin", circuits().encode().expect("fits")));
    all.push(("fact_body/wants.bin", wants().encode().expect("fits")));
    all.push(("fact_body/cell.bin", cell_summary().encode().expect("fits")));
    all.push(("fact_body/relay.bin", relay_word().encode().expect("fits")));
    all.push(("signed/fact.bin", fact().signed_bytes()));
    all.push(("signed/document.bin", document(Some(BODY)).signed_bytes()));
    all.push(("signed/deletion.bin", document(None).signed_bytes()));
    all.push(("signed/secret.bin", secret().digest().0.to_vec()));
    all
}

const BODY: &str = r#"{"apiVersion":"networking.istio.io/v1","kind":"VirtualService"}"#;

pub(crate) fn pushes() -> Vec<(&'static str, Push)> {
    vec![
        ("push/facts.bin", Push::Facts(vec![fact()])),
        ("push/documents.bin", Push::Documents(vec![document(Some(BODY)), document(None)])),
    ]
}

pub(crate) fn requests() -> Vec<(&'static str, Request)> {
    let version = FactVersion { incarnation: 3, seq: 70_000 };
    vec![
        ("request/pull_facts.bin", Request::PullFacts { have: vec![(fact().owner.id(), FactKind::NODE, version)] }),
        (
            "request/pull_documents.bin",
            Request::PullDocuments { have: vec![(document(None).key, document(None).version())] },
        ),
        ("request/renew_node.bin", Request::RenewNode { csr: vec![0x30, 0x82, 1] }),
        (
            "request/certify_workload.bin",
            Request::CertifyWorkload {
                namespace: "prod".parse().expect("valid"),
                account: "bookinfo-reviews".parse().expect("valid"),
                csr: vec![0x30, 0x82, 2],
            },
        ),
        ("request/renew_issuer.bin", Request::RenewIssuer { csr: vec![0x30, 0x82, 5] }),
        ("request/pull_secret.bin", Request::PullSecret { key: document(None).key, digest: secret().digest() }),
        (
            "request/keep_secrets.bin",
            Request::KeepSecrets { documents: vec![document(Some(BODY))], contents: vec![secret()] },
        ),
        ("request/await_following.bin", Request::AwaitFollowing { version }),
        ("request/find_decision.bin", Request::FindDecision { id: 0x0123_4567_89ab_cdef }),
        ("request/list_plaintext.bin", Request::ListPlaintext),
        ("request/list_versions.bin", Request::ListVersions { key: document(None).key }),
        ("request/compare_documents.bin", Request::CompareDocuments { root: [0xd; 16] }),
        ("request/list_traffic.bin", Request::ListTraffic { window_ms: 10_000 }),
        ("request/list_events.bin", Request::ListEvents { seconds: 600 }),
        ("request/reach_me.bin", Request::ReachMe),
        ("request/find_spans.bin", Request::FindSpans { query: "{}".into() }),
        (
            "request/list_traffic_history.bin",
            Request::ListTrafficHistory { first: 180_000_000, steps_per_point: 3, points: 60 },
        ),
        ("request/read_tap.bin", Request::ReadTap(Box::new(tap("{}")))),
        ("request/list_certificates.bin", Request::ListCertificates),
        ("request/list_log.bin", Request::ListLog { query: "{}".into() }),
    ]
}

pub(crate) fn responses() -> Vec<(&'static str, Response)> {
    vec![
        ("response/facts.bin", Response::Facts(vec![fact()])),
        ("response/documents.bin", Response::Documents(vec![document(Some(BODY))])),
        ("response/certificate.bin", Response::Certificate { chain: chain(), roots: vec![vec![0x30, 9]] }),
        ("response/refused.bin", Response::Refused { why: "not within your grant".into() }),
        ("response/secret.bin", Response::Secret(secret())),
        ("response/kept.bin", Response::Kept),
        ("response/following.bin", Response::Following),
        ("response/decision.bin", Response::Decision { json: Some("{}".into()) }),
        ("response/plaintext.bin", Response::Plaintext { json: "[]".into() }),
        (
            "response/versions.bin",
            Response::Versions(vec![KeptVersion { document: document(Some(BODY)), written_here: true }]),
        ),
        (
            "response/holdings.bin",
            Response::Holdings(Holdings {
                root: [0xd; 16],
                versions: vec![(document(None).key, document(None).version())],
                unreadable: vec![document(None).key],
            }),
        ),
        ("response/told.bin", Response::Told { json: "[]".into() }),
    ]
}

pub(crate) fn join_questions() -> Vec<(&'static str, JoinQuestion)> {
    vec![
        ("join_question/who_issues.bin", JoinQuestion::WhoIssues),
        ("join_question/join.bin", JoinQuestion::Join(Box::new(join_request()))),
    ]
}

pub(crate) fn join_request() -> JoinRequest {
    JoinRequest {
        token: "weft1.cGF5bG9hZA.c2lnbmF0dXJl".into(),
        name: "host-2".into(),
        csr: vec![0x30, 0x82, 3],
        issuer_csr: Some(vec![0x30, 0x82, 4]),
    }
}

pub(crate) fn join_responses() -> Vec<(&'static str, JoinResponse)> {
    let peers = vec!["10.1.0.1:15008".parse().expect("valid"), "[fd00::1]:15008".parse().expect("valid")];
    let welcome = Welcome {
        chain: chain(),
        issuer_chain: Some(vec![vec![0x30, 7]]),
        roots: vec![vec![0x30, 9]],
        peers: peers.clone(),
    };
    vec![
        ("join_response/welcome.bin", JoinResponse::Welcome(Box::new(welcome))),
        ("join_response/issuers.bin", JoinResponse::Issuers(peers)),
        ("join_response/refused.bin", JoinResponse::Refused { why: "the token has expired".into() }),
    ]
}

pub(crate) fn fact() -> SignedFact {
    SignedFact {
        owner: "host-1".parse().expect("valid"),
        incarnation: 3,
        seq: 70_000,
        kind: FactKind::NODE,
        body: node_record().encode().expect("fits"),
        chain: chain(),
        signature: vec![0x30, 0x44, 5],
    }
}

pub(crate) fn node_record() -> NodeRecord {
    let row = |workload: &str, protocol, health| EndpointRow {
        service: "reviews.prod".parse().expect("valid"),
        workload: workload.parse().expect("valid"),
        service_account: "bookinfo-reviews".parse().expect("valid"),
        version: "v2".into(),
        labels: BTreeMap::from([("app".into(), "reviews".into())]),
        port: 9080,
        target_port: 19080,
        protocol,
        health,
    };
    NodeRecord {
        advertise: "10.1.0.1".parse().expect("valid"),
        state: NodeState::Draining,
        locality: Locality { region: "eu".into(), zone: "a".into(), subzone: "r7".into() },
        labels: BTreeMap::from([("disk".into(), "ssd".into())]),
        build: "0.1.0".into(),
        endpoints: vec![
            row("reviews-v2", Protocol::Http, EndpointHealth::Healthy),
            row("reviews-v2-h2", Protocol::Http2, EndpointHealth::Unhealthy),
            row("reviews-v2-grpc", Protocol::Grpc, EndpointHealth::Draining),
            row("reviews-v2-tcp", Protocol::Tcp, EndpointHealth::Healthy),
        ],
    }
}

pub(crate) fn stopped_node_record() -> NodeRecord {
    NodeRecord { state: NodeState::Stopped, endpoints: vec![], ..node_record() }
}

/// Of a workload of which nobody said what it speaks.
pub(crate) fn undeclared_node_record() -> NodeRecord {
    let mut record = node_record();
    record.endpoints.truncate(1);
    record.endpoints[0].protocol = Protocol::Auto;
    record
}

pub(crate) fn circuits() -> CircuitRecord {
    let endpoint = |node: Option<&str>, workload: &str| EndpointKey {
        node: node.map(|node| node.parse().expect("valid")),
        namespace: "prod".parse().expect("valid"),
        workload: workload.parse().expect("valid"),
        target_port: 9_080,
    };
    let circuit = |state, cause| Circuit {
        state,
        cause,
        failures: 5,
        since_ms: 1_795_910_400_123,
        left_ms: 29_870,
        lease_ms: 10_000,
    };
    CircuitRecord {
        watched: ["reviews.prod.svc.cluster.local".into(), "api.example.com".into()].into(),
        circuits: BTreeMap::from([
            (endpoint(Some("host-2"), "reviews-1"), circuit(CircuitState::Tripped, CircuitCause::ConsecutiveErrors)),
            (
                endpoint(Some("host-3"), "reviews-2"),
                circuit(CircuitState::Failing, CircuitCause::ConsecutiveGatewayErrors),
            ),
            (endpoint(None, "10-0-0-5"), circuit(CircuitState::Probing, CircuitCause::ConsecutiveLocalFailures)),
        ]),
    }
}

pub(crate) fn wants() -> Wants {
    Wants { services: ["reviews.prod".parse().expect("valid")].into() }
}

pub(crate) fn cell_summary() -> CellSummary {
    let port = |port, protocol, endpoints| IndexedPort { port, protocol, endpoints };
    let ports = vec![port(9_080, Protocol::Http, 300), port(9_090, Protocol::Grpc, 2)];
    CellSummary {
        nodes: 400,
        services: BTreeMap::from([("ratings.prod".parse().expect("valid"), ports)]),
        wants: ["reviews.prod".parse().expect("valid")].into(),
    }
}

pub(crate) fn relay_word() -> RelayWord {
    RelayWord {
        linked: [fact().owner.id()].into(),
        alive: [fact().owner.id(), NodeId([7; 8])].into(),
        documents: [0xd; 16],
        agreed: true,
    }
}

pub(crate) fn spent_tokens() -> SpentTokens {
    SpentTokens { uses: BTreeMap::from([([1, 2, 3, 4, 5, 6, 7, 8], 300)]) }
}

pub(crate) fn secret() -> SecretPayload {
    let value = |text: &str| SecretBytes::new(text.into());
    let data = BTreeMap::from([("tls.crt".into(), value("certificate")), ("tls.key".into(), value("key"))]);
    SecretPayload { salt: SecretBytes::new((0..32).collect()), data }
}

pub(crate) fn document(body: Option<&str>) -> SignedDocument {
    SignedDocument {
        key: DocumentKey {
            group: "networking.istio.io".into(),
            kind: "VirtualService".into(),
            namespace: Some("prod".parse().expect("valid")),
            name: "reviews".into(),
        },
        stamp: Stamp { millis: 1_700_000_000_123, counter: 2 },
        created: Stamp { millis: 1_600_000_000_000, counter: 0 },
        author: "spiffe://cluster.local/operator/admin".parse::<SpiffeId>().expect("valid"),
        body: body.map(Into::into),
        chain: chain(),
        signature: vec![0x30, 0x45, 6],
    }
}

fn chain() -> Vec<Vec<u8>> {
    vec![vec![0x30, 0x82, 1, 2], vec![0x30, 0x81, 3]]
}

fn tap(query: &str) -> SignedTap {
    SignedTap {
        id: 7,
        reader: "host-1".parse().expect("a name"),
        author: "spiffe://cluster.local/operator/admin".parse().expect("an id"),
        at_ms: 1_800_000_000_000,
        for_ms: 60_000,
        query: query.into(),
        chain: vec![vec![1, 2], vec![3]],
        signature: vec![4, 5],
    }
}
