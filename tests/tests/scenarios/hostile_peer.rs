//! A host that was let in, has a good certificate, and speaks QUIC as nodes do; but it lies, floods and breaks rules.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use quinn::{Connection, Endpoint, VarInt, crypto::rustls::QuicClientConfig};
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
};
use weft_ca::{csr, key::PrivateKey, keyfile};
use weft_tests::lab::{DATA_PORT, Host, Lab, PATIENCE, wait_for};
use weft_wire::{
    codec,
    document::{DocumentKey, SignedDocument, Stamp},
    fact::{EndpointHealth, EndpointRow, FactBody, FactKind, NodeRecord, NodeState, Protocol, SignedFact},
    frame::{ALPN_MEMBER, MAX_FRAME_LEN, MAX_GOSSIP_LEN, MAX_PUSH_LEN, Push, Request, Response, UniKind},
    id::{Locality, NodeName, SpiffeId},
};

/// Later than that of any node: nodes count theirs from the time of their first start, in seconds since 1970.
const INCARNATION: u64 = 1 << 40;

/// What the host has got by joining.
struct Intruder {
    name: NodeName,
    address: std::net::Ipv4Addr,
    key: PrivateKey,
    chain: Vec<CertificateDer<'static>>,
    config: quinn::ClientConfig,
}

impl Intruder {
    fn new(host: &Host) -> Self {
        let (cert, key) = (host.dir.join("node/cert.pem"), host.dir.join("node/key.pem"));
        let chain = keyfile::read_chain(&cert).expect("it has joined");
        let mut tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("a version")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody))
            .with_client_auth_cert(chain.clone(), PrivateKeyDer::from_pem_file(&key).expect("a key"))
            .expect("they fit");
        tls.alpn_protocols = vec![ALPN_MEMBER.to_vec()];
        let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).expect("TLS 1.3")));
        Self {
            name: host.name.parse().expect("valid"),
            address: host.address,
            key: keyfile::read_key(&key).expect("it has joined"),
            chain,
            config,
        }
    }

    fn der_chain(&self) -> Vec<Vec<u8>> {
        self.chain.iter().map(|certificate| certificate.to_vec()).collect()
    }

    fn fact(&self, owner: &NodeName, seq: u64, body: Vec<u8>) -> SignedFact {
        let (owner, chain) = (owner.clone(), self.der_chain());
        let mut fact = SignedFact {
            owner,
            incarnation: INCARNATION,
            seq,
            kind: FactKind::NODE,
            body,
            chain,
            signature: Vec::new(),
        };
        fact.signature = self.key.sign(&fact.signed_bytes());
        fact
    }

    /// That it hosts a workload, as an account.
    fn record(&self, account: &str) -> Vec<u8> {
        let endpoint = EndpointRow {
            service: "api.default".parse().expect("valid"),
            workload: "api-evil".parse().expect("valid"),
            service_account: account.parse().expect("valid"),
            version: String::new(),
            labels: Default::default(),
            port: 9080,
            target_port: 9080,
            protocol: Protocol::Http,
            health: EndpointHealth::Healthy,
        };
        let record = NodeRecord {
            advertise: self.address.into(),
            state: NodeState::Up,
            locality: Locality::default(),
            labels: Default::default(),
            build: "0.1.0".into(),
            endpoints: vec![endpoint],
        };
        record.encode().expect("it is small")
    }

    fn document(&self, author: &str, ahead: Duration) -> SignedDocument {
        let now = UnixTime::now().as_secs() * 1_000;
        let stamp = Stamp { millis: now + ahead.as_millis() as u64, counter: 0 };
        let mut document = SignedDocument {
            key: DocumentKey {
                group: "security.istio.io".into(),
                kind: "AuthorizationPolicy".into(),
                namespace: Some("default".parse().expect("valid")),
                name: "nobody".into(),
            },
            stamp,
            created: stamp,
            author: author.parse::<SpiffeId>().expect("valid"),
            body: Some(
                r#"{"apiVersion":"security.istio.io/v1","kind":"AuthorizationPolicy","metadata":{"name":"nobody"},"spec":{}}"#
                    .into(),
            ),
            chain: self.der_chain(),
            signature: Vec::new(),
        };
        document.signature = self.key.sign(&document.signed_bytes());
        document
    }
}

#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

/// Sends what may be refused at any point: an error is the node's good right.
async fn send(connection: &Connection, bytes: &[u8]) {
    let sent = async {
        let mut stream = connection.open_uni().await.ok()?;
        stream.write_all(bytes).await.ok()?;
        stream.finish().ok()
    };
    let _ = tokio::time::timeout(Duration::from_secs(5), sent).await;
}

async fn push(connection: &Connection, push: &Push) {
    let mut bytes = vec![UniKind::Push as u8];
    bytes.extend(codec::encode(push, MAX_FRAME_LEN).expect("it is small enough"));
    send(connection, &bytes).await;
}

/// The answer to these bytes, if there is one.
async fn ask(connection: &Connection, question: &[u8]) -> Option<Response> {
    let answer = async {
        let (mut send, mut receive) = connection.open_bi().await.ok()?;
        send.write_all(question).await.ok()?;
        send.finish().ok()?;
        codec::decode(&receive.read_to_end(MAX_FRAME_LEN).await.ok()?, MAX_FRAME_LEN).ok()
    };
    tokio::time::timeout(Duration::from_secs(10), answer).await.ok()?
}

fn encoded(request: &Request) -> Vec<u8> {
    codec::encode(request, 2 * MAX_FRAME_LEN).expect("it is small enough")
}

/// `first` is the number of its first fact: what one victim was told, the other has heard.
async fn attack(intruder: &Intruder, endpoint: &Endpoint, to: SocketAddr, other: &NodeName, first: u64) {
    let connect = || async { endpoint.connect(to, "weft").expect("a name").await };
    let connection = connect().await.expect("it is a member");

    // Bytes that mean nothing, under each kind, and too many of them.
    for kind in 0..=u8::MAX {
        let mut bytes = vec![kind];
        bytes.extend((0..u16::from(kind) * 7).map(|_| rand::random::<u8>()));
        send(&connection, &bytes).await;
        ask(&connection, &bytes).await;
    }
    send(&connection, &[]).await;
    send(&connection, &vec![UniKind::Push as u8; MAX_PUSH_LEN + 2]).await;
    send(&connection, &vec![UniKind::Gossip as u8; MAX_GOSSIP_LEN + 2]).await;
    for _ in 0..200 {
        let mut gossip = vec![UniKind::Gossip as u8];
        gossip.extend((0..900).map(|_| rand::random::<u8>()));
        send(&connection, &gossip).await;
    }

    // What it may neither write nor ask for.
    let own = format!("spiffe://cluster.local/node/{}", intruder.name);
    for author in [own.as_str(), "spiffe://cluster.local/operator/admin"] {
        for ahead in [0, 3_600] {
            let document = intruder.document(author, Duration::from_secs(ahead));
            push(&connection, &Push::Documents(vec![document])).await;
        }
    }

    let csr = csr::create(&intruder.key).expect("a key");
    let questions = [
        Request::RenewIssuer { csr: csr.clone() },
        Request::CertifyWorkload {
            namespace: "default".parse().expect("valid"),
            account: "secret".parse().expect("valid"),
            csr,
        },
        Request::PullFacts { have: vec![(other.id(), FactKind::NODE, Default::default()); 70_000] },
        Request::FindSpans { query: "x".repeat(100_000) },
    ];
    for question in questions {
        let answer = ask(&connection, &encoded(&question)).await;
        assert!(matches!(answer, None | Some(Response::Refused { .. })), "{answer:?}");
    }

    // The node, or a busy machine, may have ended the connection by now, and what follows is to be judged.
    drop(connection);
    let connection = connect().await.expect("it is a member");

    // In others' names, for accounts that it may not host, unsigned.
    let lies = [
        intruder.fact(other, u64::MAX / 2, intruder.record("default")),
        intruder.fact(&intruder.name, first + 5_000, intruder.record("secret")),
        SignedFact {
            signature: vec![1; 70],
            ..intruder.fact(&intruder.name, first + 5_001, intruder.record("default"))
        },
    ];
    push(&connection, &Push::Facts(lies.to_vec())).await;
    // True, and far too often.
    for batch in 0..10 {
        let facts =
            (0..200).map(|i| intruder.fact(&intruder.name, first + batch * 200 + i, intruder.record("default")));
        push(&connection, &Push::Facts(facts.collect())).await;
    }
    // Of nodes that there are not. The node reads on only as fast as it judges, so that not all of this arrives.
    for batch in 0..20 {
        let name = |i: u64| format!("nobody-{batch}-{i}").parse().expect("valid");
        let facts = (0..200).map(|i| intruder.fact(&name(i), i, intruder.record("default"))).collect();
        push(&connection, &Push::Facts(facts)).await;
    }
    // What others have said, over and over.
    if let Some(Response::Facts(facts)) = ask(&connection, &encoded(&Request::PullFacts { have: Vec::new() })).await {
        for _ in 0..100 {
            push(&connection, &Push::Facts(facts.clone())).await;
        }
    }

    // Streams that begin and never end, more than are allowed.
    let mut held = Vec::new();
    while let Ok(Ok(mut stream)) = tokio::time::timeout(Duration::from_millis(200), connection.open_uni()).await {
        if stream.write_all(&[UniKind::Push as u8]).await.is_err() || held.len() > 5_000 {
            break;
        }
        held.push(stream);
    }
    // Come, and go at once.
    for _ in 0..100 {
        if let Ok(connection) = connect().await {
            connection.close(VarInt::from_u32(7), b"and away");
        }
    }
    drop(held);
    connection.close(VarInt::from_u32(0), b"done");
}

fn resident_kib(lab: &mut Lab, i: usize) -> u64 {
    let pid = lab.host_mut(i).node().pid();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("Linux 4.5");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[test]
fn a_member_that_lies_and_floods_harms_nobody() {
    let mut lab = Lab::new(3);
    lab.found_mesh();
    for i in [1, 2] {
        let token = lab.token(&["--allow", "default/default"]);
        lab.join(i, &token).ok();
    }
    lab.host_mut(1).start();
    lab.host_mut(1).host_service("api", "v1", 9080, 0);
    lab.host_mut(0).host_client();
    lab.wait_healthy(0, "api", 1);
    let before = [0, 1].map(|i| resident_kib(&mut lab, i));
    let load = lab.host(0).load("api", 100);

    let intruder = Intruder::new(lab.host(2));
    let name = |i: usize| lab.host(i).name.parse().expect("valid");
    // Each is told lies about the other.
    let victims = [(0, 1), (1, 0)].map(|(to, about)| ((lab.host(to).address, DATA_PORT).into(), name(about)));
    std::thread::scope(|scope| {
        let attacks = || {
            lab.host(2).enter();
            // On a thread of its own the connection lives while this one signs for seconds.
            let mut runtime = tokio::runtime::Builder::new_multi_thread();
            let runtime = runtime.worker_threads(1).enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let mut endpoint = Endpoint::client((intruder.address, 0).into()).expect("a socket");
                endpoint.set_default_client_config(intruder.config.clone());
                for ((to, other), first) in victims.iter().zip([10, 10_000]) {
                    attack(&intruder, &endpoint, *to, other, first).await;
                }
            });
        };
        scope.spawn(attacks).join().expect("the attacks end");
    });

    load.finish(500).assert_all_succeeded();
    for i in [0, 1] {
        let refused = |metric: &str, reason: &str| lab.host(i).metric(metric, &[&format!("reason=\"{reason}\"")]);
        for reason in ["foreign_signer", "account_not_allowed", "not_trusted", "rate_limited"] {
            let what = format!("{} counts facts for the reason {reason}", lab.host(i).name);
            wait_for(&what, PATIENCE, || (refused("weft_facts_refused_total", reason) > 0.0).then_some(()));
        }
        for reason in ["role_too_low", "foreign_signer"] {
            assert!(refused("weft_documents_refused_total", reason) > 0.0, "{i} {reason}");
        }
        assert!(refused("weft_peers_refused_total", "malformed") > 100.0, "{i}");
        assert_eq!(lab.host(i).metric("weft_actor_restarts_total", &[]), 0.0, "no actor has failed");
        for actor in ["actor=\"facts\"", "actor=\"documents\""] {
            assert_eq!(
                lab.host(i).metric("weft_actor_messages_dropped_total", &[actor]),
                0.0,
                "others' news was taken in"
            );
        }
        assert_eq!(
            lab.host(i).json(&["get", "authorizationpolicies", "-A"])["items"].as_array().map(Vec::len),
            Some(0)
        );
        let names = lab.host(i).json(&["members"]);
        let names: Vec<&str> = names.as_array().expect("a list").iter().filter_map(|m| m["name"].as_str()).collect();
        assert!(names.iter().all(|name| name.starts_with("host-")), "{names:?}");
    }
    wait_for("the nodes have let go of what they were sent", PATIENCE, || {
        let now = [0, 1].map(|i| resident_kib(&mut lab, i));
        now.iter().zip(before).all(|(now, before)| *now < before + 32 * 1_024).then_some(())
    });
    // And they still hear it, as any member.
    assert_eq!(lab.host(0).call("api", "/", &[]).status, 200);
}
