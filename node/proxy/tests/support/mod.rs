//! Two or more whole proxies in one process, joined by views made of hand-written node records, with real sockets and
//! real certificates.
#![allow(dead_code, unreachable_pub, reason = "a module of several test programs; each uses its own part of it")]

pub mod frames;

use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    future::Future,
    io::{self, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};
use rustls::{
    ClientConfig, RootCertStore,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use weft_ca::revocation::Revocations;
use weft_policy::{
    balance::{Cluster, Trip},
    compile::{Inputs, NodeInput, compile},
    document::{parse_stored, parse_yaml},
    endpoint::{Endpoint, Standing},
    origination::{Authorities, ClientIdentity, Origination},
    telemetry::Collector,
    view::MeshView,
};
use weft_proxy::{
    access_log::{AccessLog, AccessLogFormat, NodeLog, NodeLogTo},
    config::{Limits, ListenerConfig, ListenerProtocol, ProxyConfig},
    decisions::Decisions,
    elsewhere::Elsewhere,
    metrics::{
        Metrics,
        text::{Format, Page},
    },
    origination::{Material, Originator, Trust},
    ports::{
        self, Caller, IdentityPublisher, IdentitySnapshot, KeyPublisher, LogRecord, OriginationPublisher, SignalSink,
        Span, VerdictSink, ViewPublisher, Views, WorkloadIdentities, WorkloadIdentity,
    },
    server::{BoundProxy, RunningProxy},
};
use weft_wire::{
    document::Stamp,
    fact::{EndpointHealth, EndpointRow, NodeRecord, NodeState, Protocol},
    frame::MESH_PORT,
    id::{Locality, Namespace, NodeName, Revoked, ServiceAccount, SpiffeId, TrustDomain, WorkloadName},
};

/// No test waits longer than this for anything.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub type Body = BoxBody<Bytes, Infallible>;

pub fn trust_domain() -> TrustDomain {
    "cluster.local".parse().unwrap()
}

/// A loopback address that no other test process uses: data ports are always 15008.
fn own_address() -> IpAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [.., high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, high.max(1), low, NEXT.fetch_add(1, Ordering::Relaxed)).into()
}

/// A certificate authority with one root.
pub struct Ca {
    root: rcgen::Certificate,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        let root = params.self_signed(&key).unwrap();
        Self { root, issuer: Issuer::new(params, key) }
    }

    pub fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(self.root.der().clone()).unwrap();
        Arc::new(roots)
    }

    pub fn issue(&self, id: &SpiffeId) -> Arc<CertifiedKey> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(id.to_string().try_into().unwrap())];
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let signer = provider.key_provider.load_private_key(key).unwrap();
        Arc::new(CertifiedKey::new(vec![leaf.der().clone()], signer))
    }
}

/// What a node's proxy has told of its circuits.
#[derive(Default)]
pub struct Circuits(Mutex<Vec<String>>);

impl Circuits {
    pub fn told(&self) -> Vec<String> {
        self.0.lock().clone()
    }

    fn note(&self, endpoint: &Endpoint, what: &str) {
        let name = endpoint.key.to_string();
        let (name, _port) = name.rsplit_once(':').unwrap();
        self.0.lock().push(format!("{name} {what}"));
    }
}

impl VerdictSink for Circuits {
    fn failing(&self, _: &Cluster, _: &Endpoint) {}

    fn tripped(&self, _: &Cluster, trip: &Trip, for_ms: u64) {
        assert!(for_ms <= 2 * 3_600_000, "{for_ms}");
        self.note(&trip.endpoint, &format!("tripped by {}", trip.failures.cause.as_str()));
    }

    fn returned(&self, _: &Cluster, endpoint: &Endpoint) {
        self.note(endpoint, "passing");
    }
}

/// A workload to be hosted: `SERVICE`, `WORKLOAD` and the account of the same name as the service.
#[derive(Clone)]
pub struct Hosted {
    pub row: EndpointRow,
    pub address: SocketAddr,
}

pub fn hosted(service: &str, workload: &str, protocol: Protocol, address: SocketAddr) -> Hosted {
    let row = EndpointRow {
        service: service.parse().unwrap(),
        workload: workload.parse().unwrap(),
        service_account: service.parse().unwrap(),
        version: "v1".into(),
        labels: BTreeMap::new(),
        port: 9080,
        target_port: address.port(),
        protocol,
        health: EndpointHealth::Healthy,
    };
    Hosted { row, address }
}

/// An application that reads to the end, and only then answers with what it read, reversed.
pub async fn reverser() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut bytes = Vec::new();
                stream.read_to_end(&mut bytes).await.unwrap();
                bytes.reverse();
                stream.write_all(&bytes).await.unwrap();
            });
        }
    });
    address
}

/// An address where nothing listens.
pub async fn nowhere() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

pub struct Node {
    pub name: NodeName,
    pub address: IpAddr,
    pub hosted: Vec<Hosted>,
    pub outbound: SocketAddr,
    pub listeners: Vec<SocketAddr>,
    pub metrics: Metrics,
    pub circuits: Arc<Circuits>,
    pub log: Log,
    pub spans: Spans,
    pub proxy: Option<RunningProxy>,
    pub keys: KeyPublisher,
    pub originations: OriginationPublisher,
    pub decisions: Decisions,
    pub view: Views,
    views: ViewPublisher,
    identities: IdentityPublisher,
    /// The identities with which it began.
    snapshot: IdentitySnapshot,
}

/// The spans that a node has made. There are no collectors.
#[derive(Clone, Default)]
pub struct Spans(pub Arc<Mutex<Vec<Span>>>);

impl SignalSink for Spans {
    fn log(&self, _: &Arc<Collector>, _: LogRecord) -> bool {
        false
    }

    fn span(&self, span: Span) -> bool {
        self.0.lock().push(span);
        true
    }
}

/// What a node has written to its access log.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    pub fn text(&self) -> String {
        String::from_utf8(self.0.lock().clone()).unwrap()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What one node is to be.
#[derive(Default)]
pub struct Plan {
    pub hosted: Vec<Hosted>,
    /// Listeners: service and protocol.
    pub listeners: Vec<(&'static str, ListenerProtocol)>,
    /// The node's certificates come from here instead of from the mesh's CA.
    pub foreign: Option<Ca>,
    pub limits: Limits,
    /// The account whose certificate is shown for every account.
    pub impostor: Option<&'static str>,
}

pub struct Mesh {
    pub ca: Ca,
    pub nodes: Vec<Node>,
    pub documents: String,
    /// The files that documents name, in PEM.
    pub files: HashMap<String, Vec<u8>>,
}

impl Mesh {
    /// Starts a proxy for each plan; the nodes are called `n0`, `n1`, … in that order.
    pub fn start(plans: Vec<Plan>) -> Self {
        Self::start_with("", plans)
    }

    /// The same, with documents in YAML.
    pub fn start_with(documents: &str, plans: Vec<Plan>) -> Self {
        let ca = Ca::new();
        let nodes = plans.into_iter().enumerate().map(|(i, plan)| Node::start(&ca, i, plan)).collect();
        let mut mesh = Self { ca, nodes, documents: documents.into(), files: HashMap::new() };
        mesh.publish();
        mesh
    }

    /// Gives every node the view of the mesh as it is described now.
    pub fn publish(&mut self) {
        (0..self.nodes.len()).for_each(|i| self.publish_to(i));
    }

    /// Gives one node that view; what the others know stays as it was.
    pub fn publish_to(&mut self, i: usize) {
        let records: Vec<NodeInput> = self.nodes.iter().map(Node::record).collect();
        let parsed = parse_yaml(&self.documents, &Namespace::default_namespace()).unwrap().documents;
        let documents: Vec<_> = parsed
            .iter()
            .map(|document| Arc::new(parse_stored(&document.key, &document.json, Stamp::default()).unwrap()))
            .collect();
        let node = &mut self.nodes[i];
        let local = node
            .hosted
            .iter()
            .map(|hosted| ((hosted.row.service.namespace.clone(), hosted.row.workload.clone()), hosted.address.ip()));
        let inputs = Inputs {
            trust_domain: &trust_domain(),
            this_node: &node.name.clone(),
            nodes: &records,
            documents: &documents,
            local: &local.collect::<BTreeMap<(Namespace, WorkloadName), IpAddr>>(),
            secrets: &Arc::default(),
            names: &Default::default(),
        };
        let view = compile(&inputs, None);
        let originations = view.originations().into_iter();
        node.originations.publish(
            originations.map(|wanted| (wanted.clone(), originator(&self.files, &wanted).map(Arc::new))).collect(),
        );
        node.views.publish(view);
    }

    pub fn client(&self) -> &Node {
        &self.nodes[0]
    }
}

fn originator(files: &HashMap<String, Vec<u8>>, wanted: &Origination) -> Result<Originator, Arc<str>> {
    let file = |path: &str| files.get(path).map(Vec::as_slice).ok_or_else(|| Arc::from(format!("no file {path}")));
    let identity = match &wanted.identity {
        Some(ClientIdentity::Files { certificates, key }) => Some((file(certificates)?, file(key)?)),
        Some(ClientIdentity::Secret(_)) => return Err("no Secrets in tests".into()),
        None => None,
    };
    let material = Material {
        authorities: match &wanted.authorities {
            Authorities::File(path) => Trust::Pem(vec![file(path)?]),
            Authorities::Anybody => Trust::Anybody,
            Authorities::System | Authorities::ConfigMaps(_) | Authorities::Named(_) => {
                return Err("no such authorities in tests".into());
            }
        },
        revoked: wanted.revoked.as_deref().map(file).transpose()?,
        identity,
    };
    Originator::new(wanted, &material).map_err(Into::into)
}

impl Node {
    fn start(ca: &Ca, number: usize, plan: Plan) -> Self {
        let (views, view) = ports::views(MeshView::empty(trust_domain()));
        let snapshot = snapshot(ca, &plan);
        let (identities, identity_reader) = ports::identities(snapshot.clone());
        let (keys, key_reader) = ports::key_sets();
        let (originations, origination_reader) = ports::originations();
        let (metrics, address, log) = (Metrics::default(), own_address(), Log::default());
        metrics.shaped_by(view.clone());
        let spans = Spans::default();
        let own_log = NodeLog {
            format: Some(AccessLogFormat::Text),
            to: NodeLogTo::Stream(Box::new(log.clone())),
            node: format!("n{number}"),
        };
        let config = ProxyConfig {
            workers: NonZeroUsize::MIN,
            inbound: (address, MESH_PORT).into(),
            outbound: "127.0.0.1:0".parse().unwrap(),
            listeners: plan
                .listeners
                .iter()
                .map(|(service, protocol)| ListenerConfig {
                    listen: "127.0.0.1:0".parse().unwrap(),
                    service: service.parse().unwrap(),
                    port: None,
                    protocol: *protocol,
                    source: None,
                })
                .collect(),
            access_log: AccessLog::start(own_log, metrics.clone(), Arc::new(spans.clone())).unwrap(),
            signals: Arc::new(spans.clone()),
            taps: Arc::default(),
            elsewhere: Arc::new(Elsewhere::new(|_| {})),
            limits: plan.limits,
        };
        let circuits = Arc::new(Circuits::default());
        let bound = BoundProxy::bind(
            config,
            view.clone(),
            identity_reader,
            key_reader,
            origination_reader,
            metrics.clone(),
            circuits.clone(),
        );
        let bound = bound.unwrap();
        let (outbound, decisions) = (bound.outbound(), bound.decisions());
        let listeners = bound.listeners().iter().map(|listener| listener.listen).collect();
        let proxy = Some(bound.run().unwrap());
        let name = format!("n{number}").parse().unwrap();
        Self {
            name,
            address,
            hosted: plan.hosted,
            outbound,
            listeners,
            metrics,
            circuits,
            log,
            spans,
            proxy,
            keys,
            originations,
            decisions,
            view,
            views,
            identities,
            snapshot,
        }
    }

    fn record(&self) -> NodeInput {
        let record = NodeRecord {
            advertise: self.address,
            state: NodeState::Up,
            locality: Locality::default(),
            labels: BTreeMap::new(),
            build: "test".into(),
            endpoints: self.hosted.iter().map(|hosted| hosted.row.clone()).collect(),
        };
        NodeInput { name: self.name.clone(), record: Arc::new(record), standing: Standing::Preferred }
    }

    pub fn data_port(&self) -> SocketAddr {
        (self.address, MESH_PORT).into()
    }

    /// The server name of the first workload that the node hosts.
    pub fn server_name(&self) -> String {
        let row = &self.hosted[0].row;
        weft_policy::view::sni(&row.workload, &row.service.namespace, row.target_port, &trust_domain())
    }

    /// A connection to the first workload that the node hosts, by somebody with this certificate.
    pub async fn connect_as(&self, certificate: Arc<CertifiedKey>) -> io::Result<TlsStream<TcpStream>> {
        let config = Arc::new(data_client(Some(certificate), b"http/1.1"));
        let tcp = TcpStream::connect(self.data_port()).await?;
        let name = ServerName::try_from(self.server_name()).unwrap();
        within(TlsConnector::from(config).connect(name, tcp)).await
    }

    /// Asks the first workload that the node hosts by its data port, over HTTP/1.1, and gives the whole answer; an
    /// empty one if the connection fails.
    pub async fn ask(&self, certificate: Arc<CertifiedKey>, path: &str) -> String {
        let Ok(mut stream) = self.connect_as(certificate).await else { return String::new() };
        let request = format!("GET {path} HTTP/1.1\r\nhost: reviews\r\nconnection: close\r\n\r\n");
        let mut answer = Vec::new();
        let _ = stream.write_all(request.as_bytes()).await;
        let _ = within(stream.read_to_end(&mut answer)).await;
        String::from_utf8_lossy(&answer).into_owned()
    }

    pub fn publish_identities(&mut self, snapshot: IdentitySnapshot) {
        self.identities.publish(snapshot);
    }

    /// Has it believe no certificate of these accounts that was issued until now.
    pub fn revoke(&mut self, accounts: &[&str]) {
        let mut revocations = Revocations::default();
        accounts
            .iter()
            .for_each(|account| revocations.add(Revoked::Account(account.parse().unwrap()), UnixTime::now()));
        self.publish_identities(IdentitySnapshot { revocations: Arc::new(revocations), ..self.snapshot.clone() });
    }

    pub fn metrics_text(&self) -> String {
        let mut page = Page::new(Format::OpenMetrics);
        self.metrics.write(&mut page);
        page.finish()
    }

    /// The value of the one series of `name` that has all of `labels`; 0 if there is none.
    pub fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let text = self.metrics_text();
        let lines =
            text.lines().filter(|line| line.starts_with(&format!("{name}{{")) || line.starts_with(&format!("{name} ")));
        let values = lines.filter(|line| labels.iter().all(|label| line.contains(label)));
        values.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }
}

fn snapshot(ca: &Ca, plan: &Plan) -> IdentitySnapshot {
    let issuing = plan.foreign.as_ref().unwrap_or(ca);
    let accounts: Vec<ServiceAccount> = plan.hosted.iter().map(|hosted| hosted.row.account()).collect();
    let workloads: WorkloadIdentities = accounts
        .iter()
        .map(|account| {
            let shown = plan.impostor.map_or_else(|| account.clone(), |other| other.parse().unwrap());
            (account.clone(), identity(issuing, &shown, SystemTime::now() + Duration::from_secs(3_600)))
        })
        .collect();
    let first = plan.hosted.first();
    let default_caller = first.map(|hosted| Arc::new(Caller::new(hosted.row.account(), Some(&hosted.row.workload))));
    let (roots, revocations) = (issuing.roots(), Arc::default());
    IdentitySnapshot { trust_domain: trust_domain(), roots, revocations, workloads, default_caller }
}

pub fn identity(ca: &Ca, account: &ServiceAccount, not_after: SystemTime) -> Arc<WorkloadIdentity> {
    let id = SpiffeId::workload(trust_domain(), account.clone());
    Arc::new(WorkloadIdentity::new(id.clone(), ca.issue(&id), not_after))
}

/// How a peer connects to a data port that trusts any server: with or without a certificate of its own.
pub fn data_client(certificate: Option<Arc<CertifiedKey>>, alpn: &[u8]) -> ClientConfig {
    #[derive(Debug)]
    struct Anybody(Arc<rustls::crypto::CryptoProvider>);
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
            _: &rustls::DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            Ok(HandshakeSignatureValid::assertion())
        }
        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &rustls::DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            Ok(HandshakeSignatureValid::assertion())
        }
        fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
            self.0.signature_verification_algorithms.supported_schemes()
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider)));
    let mut config = match certificate {
        Some(certificate) => {
            builder.with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certificate)))
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![alpn.to_vec()];
    config
}

pub fn text(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).boxed()
}

/// An application that serves HTTP, one or the other version.
pub async fn serve<F>(
    http2: bool,
    handler: impl Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
) -> SocketAddr
where
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let handler = handler.clone();
            let service = service_fn(move |request| {
                let response = handler(request);
                async move { Ok::<_, Infallible>(response.await) }
            });
            tokio::spawn(async move {
                let io = TokioIo::new(stream);
                if http2 {
                    let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    let _ = server.serve_connection(io, service).await;
                } else {
                    let server = hyper::server::conn::http1::Builder::new();
                    let _ = server.serve_connection(io, service).with_upgrades().await;
                }
            });
        }
    });
    address
}

/// An application that answers with the request's line, headers and body.
pub async fn echo() -> SocketAddr {
    serve(false, |request| async move {
        let (head, body) = request.into_parts();
        let mut answer = format!("{} {}\n", head.method, head.uri);
        for (name, value) in &head.headers {
            answer += &format!("{name}: {}\n", value.to_str().unwrap());
        }
        answer += "\n";
        answer += std::str::from_utf8(&body.collect().await.unwrap().to_bytes()).unwrap();
        Response::new(text(answer))
    })
    .await
}

/// A workload that only calls.
pub async fn caller() -> Plan {
    Plan { hosted: vec![hosted("productpage", "productpage-v1", Protocol::Http, nowhere().await)], ..Plan::default() }
}

pub fn get(host: &str, path: &str) -> Request<Body> {
    Request::get(path).header("host", host).body(text("")).unwrap()
}

/// Sends one request over a connection of its own, HTTP/1.1.
pub async fn send(to: SocketAddr, request: Request<Body>) -> Response<Incoming> {
    let io = TokioIo::new(TcpStream::connect(to).await.unwrap());
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::spawn(connection.with_upgrades());
    within(sender.send_request(request)).await.unwrap()
}

/// Sends one request over a connection of its own, HTTP/2 with prior knowledge.
pub async fn send_http2(to: SocketAddr, request: Request<Body>) -> Response<Incoming> {
    let io = TokioIo::new(TcpStream::connect(to).await.unwrap());
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    within(sender.send_request(request)).await.unwrap()
}

pub async fn read(response: Response<Incoming>) -> String {
    String::from_utf8(within(response.into_body().collect()).await.unwrap().to_bytes().to_vec()).unwrap()
}

pub async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("took too long")
}

/// Waits until something is so.
pub async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !is_so() {
        assert!(tokio::time::Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// What a node has refused for a reason.
pub fn refused(node: &Node, reason: &str) -> f64 {
    node.metric("weft_http_refused_total", &[&format!("reason=\"{reason}\"")])
}

/// A caller's node and one that hosts `app` as `reviews`.
pub async fn mesh_with(app: SocketAddr) -> Mesh {
    let reviews = Plan { hosted: vec![hosted("reviews", "reviews-v1", Protocol::Http, app)], ..Plan::default() };
    Mesh::start(vec![caller().await, reviews])
}

/// Does something to a node, and has another caller be served all the while.
pub async fn beside_another<T>(mesh: &Mesh, attack: impl Future<Output = T>) -> T {
    let another = async {
        loop {
            is_served(mesh).await;
        }
    };
    tokio::select! {
        biased;
        done = attack => done,
        () = another => unreachable!("it asks again and again"),
    }
}

/// Another caller gets its answer.
pub async fn is_served(mesh: &Mesh) {
    let response = send(mesh.client().outbound, get("reviews", "/")).await;
    assert_eq!(response.status(), http::StatusCode::OK, "others are served");
}
