//! TLS to places outside of the mesh, with real handshakes: whom weft believes there, what it shows, and what callers are
//! told where that fails.

mod support;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use futures_util::FutureExt;
use http::{Request, Response, StatusCode, Version};
use http_body_util::BodyExt;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer, KeyIdMethod, KeyPair,
    KeyUsagePurpose, RevokedCertParams, SerialNumber, date_time_ymd,
};
use rustls::{
    RootCertStore, ServerConfig, SupportedProtocolVersion,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
    version::{TLS12, TLS13},
};
use support::*;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;

/// Somebody whom servers or clients outside of the mesh believe.
struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, in PEM.
struct Pair {
    certificate: String,
    key: String,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        // A name of its own, as authorities have.
        params.distinguished_name.push(DnType::CommonName, format!("{:x?}", &key.public_key_raw()[..16]));
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    fn issue(&self, names: &[&str]) -> Pair {
        self.issue_with(names, |_| {})
    }

    fn issue_with(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Pair {
        let mut params = CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        Pair { certificate: params.signed_by(&key, &self.issuer).unwrap().pem(), key: key.serialize_pem() }
    }

    /// A list that revokes the certificate with this number.
    fn revoking(&self, number: u64) -> String {
        let now = std::time::SystemTime::now();
        let revoked = RevokedCertParams {
            serial_number: SerialNumber::from(number),
            revocation_time: now.into(),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: now.into(),
            next_update: (now + Duration::from_secs(3_600)).into(),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: vec![revoked],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().pem().unwrap()
    }

    fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem.as_bytes()).unwrap()).unwrap();
        Arc::new(roots)
    }
}

/// What a server outside is like.
struct Server {
    pair: Pair,
    version: &'static SupportedProtocolVersion,
    /// Whose certificates it wants of clients.
    clients: Option<Arc<RootCertStore>>,
    alpn: &'static [&'static [u8]],
}

impl Server {
    fn with(pair: Pair) -> Self {
        Self { pair, version: &TLS13, clients: None, alpn: &[b"h2", b"http/1.1"] }
    }

    fn config(&self) -> Arc<ServerConfig> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder =
            ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(&[self.version]).unwrap();
        let builder = match &self.clients {
            Some(roots) => builder.with_client_cert_verifier(
                WebPkiClientVerifier::builder_with_provider(roots.clone(), provider).build().unwrap(),
            ),
            None => builder.with_no_client_auth(),
        };
        let chain = vec![CertificateDer::from_pem_slice(self.pair.certificate.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(self.pair.key.as_bytes()).unwrap();
        let mut config = builder.with_single_cert(chain, key).unwrap();
        config.alpn_protocols = self.alpn.iter().map(|name| name.to_vec()).collect();
        Arc::new(config)
    }

    /// Answers requests with the server name that was asked for, the version of TLS and that of HTTP; a connection
    /// without ALPN gets its own bytes back.
    async fn start(self) -> SocketAddr {
        let (listener, config) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), self.config());
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = TlsAcceptor::from(config.clone());
                tokio::spawn(async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else { return };
                    let session = stream.get_ref().1;
                    let name = session.server_name().unwrap_or("none").to_owned();
                    let version = session.protocol_version().unwrap();
                    if session.alpn_protocol().is_none() {
                        let mut bytes = [0; 5];
                        let _ = stream.read_exact(&mut bytes).await;
                        let _ =
                            stream.write_all(format!("{name} {}", String::from_utf8_lossy(&bytes)).as_bytes()).await;
                        let _ = stream.shutdown().await;
                        return;
                    }
                    let service = service_fn(move |request: Request<Incoming>| {
                        let name = name.clone();
                        async move {
                            let http = if request.version() == Version::HTTP_2 { "h2" } else { "http/1.1" };
                            Ok::<_, std::convert::Infallible>(Response::new(text(format!("{name} {version:?} {http}"))))
                        }
                    });
                    let _ =
                        auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        address
    }
}

/// Documents for `api.example.com` at an address, called by TLS.
fn documents(address: SocketAddr, protocol: &str, tls: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{ name: api }}
spec:
  hosts: [api.example.com]
  resolution: STATIC
  ports: [{{ name: main, number: 80, protocol: {protocol}, targetPort: {} }}]
  endpoints: [{{ address: {} }}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{ name: api }}
spec: {{ host: api.example.com, trafficPolicy: {{ tls: {{ {tls} }} }} }}
",
        address.port(),
        address.ip()
    )
}

/// A node that knows such a place, and these files.
async fn mesh(address: SocketAddr, protocol: &str, tls: &str, files: &[(&str, &str)]) -> Mesh {
    let mut mesh = Mesh::start_with("", vec![caller().await]);
    mesh.documents = documents(address, protocol, tls);
    mesh.files = files.iter().map(|(path, text)| ((*path).to_owned(), text.as_bytes().to_vec())).collect();
    mesh.publish();
    mesh
}

/// What a call gets: the answer, or the reason why there is none.
async fn ask(mesh: &Mesh) -> String {
    let response = send(mesh.client().outbound, get("api.example.com", "/")).await;
    if response.status() == StatusCode::OK {
        return read(response).await;
    }
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    response.headers()["x-weft-reason"].to_str().unwrap().to_owned()
}

const SIMPLE: &str = "mode: SIMPLE, caCertificates: /ca";

#[tokio::test]
async fn a_place_is_called_by_tls_of_either_version_and_what_its_port_speaks_is_offered() {
    let ca = Authority::new();
    for (version, protocol, expected) in [
        (&TLS13, "HTTP", "api.example.com TLSv1_3 http/1.1"),
        (&TLS12, "HTTP", "api.example.com TLSv1_2 http/1.1"),
        (&TLS13, "HTTP2", "api.example.com TLSv1_3 h2"),
        (&TLS12, "GRPC", "api.example.com TLSv1_2 h2"),
    ] {
        let server = Server { version, ..Server::with(ca.issue(&["api.example.com"])) }.start().await;
        let mesh = mesh(server, protocol, SIMPLE, &[("/ca", &ca.pem)]).await;
        assert_eq!(ask(&mesh).await, expected);
        assert_eq!(ask(&mesh).await, expected, "once more, on the same connection");
    }
}

#[tokio::test]
async fn a_server_that_is_not_who_it_must_be_gets_nothing_and_the_reason_says_why() {
    let (ca, other) = (Authority::new(), Authority::new());
    let files = [("/ca", &*ca.pem)];
    let past = |params: &mut CertificateParams| params.not_after = date_time_ymd(2020, 1, 1);
    let future = |params: &mut CertificateParams| params.not_before = date_time_ymd(4000, 1, 1);
    for (pair, expected) in [
        (other.issue(&["api.example.com"]), "certificate_of_unknown_authority"),
        (ca.issue(&["other.example.com"]), "certificate_of_another_name"),
        (ca.issue_with(&["api.example.com"], past), "certificate_expired"),
        (ca.issue_with(&["api.example.com"], future), "certificate_not_yet_valid"),
    ] {
        let server = Server::with(pair).start().await;
        assert_eq!(ask(&mesh(server, "HTTP", SIMPLE, &files).await).await, expected);
    }
}

#[tokio::test]
async fn sni_and_names_are_those_of_the_rule_where_it_has_them() {
    let ca = Authority::new();
    let files = [("/ca", &*ca.pem)];
    let server = Server::with(ca.issue(&["real.example.com"])).start().await;
    let of = async |rest: &str| ask(&mesh(server, "HTTP", &format!("{SIMPLE}{rest}"), &files).await).await;
    assert_eq!(of(", sni: real.example.com").await, "real.example.com TLSv1_3 http/1.1");
    assert_eq!(of(", subjectAltNames: [a.example.com, real.example.com]").await, "api.example.com TLSv1_3 http/1.1");
    assert_eq!(of(", sni: real.example.com, subjectAltNames: [a.example.com]").await, "certificate_of_another_name");
    let anybody = "mode: SIMPLE, insecureSkipVerify: true";
    assert_eq!(ask(&mesh(server, "HTTP", anybody, &[]).await).await, "api.example.com TLSv1_3 http/1.1");
}

#[tokio::test]
async fn a_revoked_certificate_is_refused() {
    let ca = Authority::new();
    let numbered = |number: u64| {
        ca.issue_with(&["api.example.com"], |params| params.serial_number = Some(SerialNumber::from(number)))
    };
    let list = ca.revoking(7);
    let files = [("/ca", &*ca.pem), ("/crl", &*list)];
    let tls = format!("{SIMPLE}, caCrl: /crl");
    let revoked = Server::with(numbered(7)).start().await;
    assert_eq!(ask(&mesh(revoked, "HTTP", &tls, &files).await).await, "certificate_revoked");
    let good = Server::with(numbered(8)).start().await;
    assert_eq!(ask(&mesh(good, "HTTP", &tls, &files).await).await, "api.example.com TLSv1_3 http/1.1");
}

#[tokio::test]
async fn a_server_that_wants_a_certificate_gets_the_one_of_the_rule() {
    let (ca, clients) = (Authority::new(), Authority::new());
    let client = clients.issue(&["client"]);
    let files = [("/ca", &*ca.pem), ("/cert", &client.certificate), ("/key", &client.key)];
    for version in [&TLS12, &TLS13] {
        let server = Server { version, clients: Some(clients.roots()), ..Server::with(ca.issue(&["api.example.com"])) };
        let server = server.start().await;
        assert_eq!(ask(&mesh(server, "HTTP", SIMPLE, &files).await).await.split('_').next(), Some("client"));
        let mutual = "mode: MUTUAL, caCertificates: /ca, clientCertificate: /cert, privateKey: /key";
        let answer = ask(&mesh(server, "HTTP", mutual, &files).await).await;
        assert!(answer.starts_with("api.example.com TLS"), "{answer}");
        let (stranger, key) = (ca.issue(&["client"]), "/key");
        let files = [("/ca", &*ca.pem), ("/cert", &stranger.certificate), (key, &stranger.key)];
        assert_eq!(ask(&mesh(server, "HTTP", mutual, &files).await).await, "client_certificate_refused");
    }
}

#[tokio::test]
async fn without_what_tls_needs_a_place_is_not_called() {
    let (listener, ca) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), Authority::new());
    let place = listener.local_addr().unwrap();
    let pair = ca.issue(&["client"]);
    let mutual = "mode: MUTUAL, caCertificates: /ca, clientCertificate: /cert, privateKey: /key";
    let other_key = KeyPair::generate().unwrap().serialize_pem();
    let (certificate, key) = (&*pair.certificate, &*pair.key);
    for (tls, files) in [
        (SIMPLE, vec![]),
        (SIMPLE, vec![("/ca", "no certificate")]),
        (SIMPLE, vec![("/ca", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")]),
        (mutual, vec![("/ca", &*ca.pem), ("/cert", certificate), ("/key", &*other_key)]),
        (mutual, vec![("/ca", &*ca.pem), ("/cert", certificate), ("/key", certificate)]),
        ("mode: SIMPLE, caCertificates: /ca, caCrl: /crl", vec![("/ca", &*ca.pem), ("/crl", key)]),
        ("mode: ISTIO_MUTUAL", vec![]),
        ("mode: SIMPLE, credentialName: ca", vec![]),
    ] {
        assert_eq!(ask(&mesh(place, "HTTP", tls, &files).await).await, "tls_unavailable", "{tls}");
    }
    assert!(listener.accept().now_or_never().is_none(), "not even a connection was made");
}

#[tokio::test]
async fn bytes_are_carried_by_tls_too() {
    let ca = Authority::new();
    let server = Server::with(ca.issue(&["api.example.com"])).start().await;
    let mesh = mesh(server, "TCP", SIMPLE, &[("/ca", &ca.pem)]).await;
    let mut tunnel = TcpStream::connect(mesh.client().outbound).await.unwrap();
    tunnel.write_all(b"CONNECT api.example.com:80 HTTP/1.1\r\nhost: api.example.com:80\r\n\r\n").await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(within(tunnel.read_u8()).await.unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&head));
    tunnel.write_all(b"hello").await.unwrap();
    let mut answer = String::new();
    within(tunnel.read_to_string(&mut answer)).await.unwrap();
    assert_eq!(answer, "api.example.com hello");
}

#[tokio::test]
async fn a_proxy_is_asked_for_a_tunnel_within_tls() {
    let ca = Authority::new();
    let server = Server::with(ca.issue(&["api.example.com"])).start().await;
    let mut mesh = mesh(server, "HTTP2", SIMPLE, &[("/ca", &ca.pem)]).await;
    let to = "tunnel: { protocol: POST, targetHost: db.example.com, targetPort: 5432 }, tls:";
    mesh.documents = mesh.documents.replace("tls:", to);
    mesh.publish();
    let mut tunnel = TcpStream::connect(mesh.client().outbound).await.unwrap();
    tunnel.write_all(b"CONNECT api.example.com:80 HTTP/1.1\r\nhost: api.example.com:80\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    within(tunnel.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("api.example.com TLSv1_3 h2"), "{answer}");
}

#[tokio::test]
async fn a_connection_does_not_outlast_the_certificates_that_it_was_made_with() {
    let (ca, other) = (Authority::new(), Authority::new());
    let server = Server::with(ca.issue(&["api.example.com"])).start().await;
    for protocol in ["HTTP", "HTTP2"] {
        let mut mesh = mesh(server, protocol, SIMPLE, &[("/ca", &ca.pem)]).await;
        assert!(ask(&mesh).await.starts_with("api.example.com"));
        mesh.files.insert("/ca".into(), other.pem.clone().into_bytes());
        mesh.publish();
        let gave_up = tokio::time::Instant::now() + PATIENCE;
        while ask(&mesh).await != "certificate_of_unknown_authority" {
            assert!(tokio::time::Instant::now() < gave_up, "{protocol}: the old connection still serves");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test]
async fn a_host_by_wildcard_is_verified_by_the_host_of_each_request() {
    let ca = Authority::new();
    let server = Server::with(ca.issue(&["a.example.com", "b.example.com"])).start().await;
    let mut mesh = mesh(server, "HTTP", SIMPLE, &[("/ca", &ca.pem)]).await;
    mesh.documents = mesh.documents.replace("hosts: [api.example.com]", "hosts: ['*.example.com']");
    mesh.documents = mesh.documents.replace("host: api.example.com", "host: '*.example.com'");
    mesh.publish();
    for (host, expected) in [
        ("a.example.com", "a.example.com TLSv1_3 http/1.1"),
        ("b.example.com", "b.example.com TLSv1_3 http/1.1"),
        ("a.example.com", "a.example.com TLSv1_3 http/1.1"),
    ] {
        assert_eq!(read(send(mesh.client().outbound, get(host, "/")).await).await, expected);
    }
    let refused = send(mesh.client().outbound, get("c.example.com", "/")).await;
    assert_eq!(refused.headers()["x-weft-reason"], "certificate_of_another_name");
    assert!(refused.into_body().collect().await.unwrap().to_bytes().len() > 10);
}
