//! How connections to endpoints are made and kept: DestinationRule `connectionPool`, on real sockets.

mod support;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use http::StatusCode;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy},
    net::{TcpListener, TcpSocket, TcpStream},
};
use weft_proxy::config::ListenerProtocol;
use weft_wire::fact::Protocol;

use support::*;

fn rule(host: &str, pool: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: pool}}\n\
         spec: {{host: {host}, trafficPolicy: {{connectionPool: {{{pool}}}}}}}\n"
    )
}

/// Connections that an application has seen begin, and end.
#[derive(Clone, Default)]
struct Seen(Arc<[AtomicUsize; 2]>);

impl Seen {
    fn counts(&self) -> [usize; 2] {
        [0, 1].map(|i| self.0[i].load(Ordering::Relaxed))
    }
}

/// An application of HTTP/1.1 that answers every request with "ok" and never closes a connection.
async fn counting() -> (SocketAddr, Seen) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, seen) = (listener.local_addr().unwrap(), Seen::default());
    let counts = seen.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let counts = counts.clone();
            counts.0[0].fetch_add(1, Ordering::Relaxed);
            tokio::spawn(async move {
                let mut head = Vec::new();
                while let Ok(byte) = stream.read_u8().await {
                    head.push(byte);
                    if head.ends_with(b"\r\n\r\n") {
                        head.clear();
                        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
                    }
                }
                counts.0[1].fetch_add(1, Ordering::Relaxed);
            });
        }
    });
    (address, seen)
}

/// A node that hosts a caller and `app` as `reviews`.
async fn node_with(app: SocketAddr, pool: &str) -> Mesh {
    let mut plan = caller().await;
    plan.hosted.push(hosted("reviews", "reviews-v1", Protocol::Http, app));
    Mesh::start_with(&rule("reviews", pool), vec![plan])
}

async fn ask(mesh: &Mesh) {
    assert_eq!(read(send(mesh.client().outbound, get("reviews", "/")).await).await, "ok");
}

#[tokio::test]
async fn a_connection_is_closed_when_it_has_served_its_requests() {
    let (app, seen) = counting().await;
    let mesh = node_with(app, "http: {maxRequestsPerConnection: 2}").await;
    for _ in 0..6 {
        ask(&mesh).await;
    }
    eventually("each is closed after its second request", || seen.counts() == [3, 3]).await;
}

#[tokio::test]
async fn connections_are_kept_for_more_requests_without_a_limit() {
    let (app, seen) = counting().await;
    let mesh = node_with(app, "http: {maxRequestsPerConnection: 0}").await;
    for _ in 0..6 {
        ask(&mesh).await;
    }
    assert_eq!(seen.counts(), [1, 0]);
}

#[tokio::test]
async fn an_idle_connection_is_closed_after_the_time_of_http_or_else_of_tcp() {
    for pool in ["http: {idleTimeout: 50ms}", "tcp: {idleTimeout: 50ms}", "tcp: {maxConnectionDuration: 50ms}"] {
        let (app, seen) = counting().await;
        let mesh = node_with(app, pool).await;
        ask(&mesh).await;
        eventually(pool, || seen.counts() == [1, 1]).await;
        ask(&mesh).await;
        assert_eq!(seen.counts()[0], 2, "{pool}");
    }
}

/// An application that says nothing, and tells when its connection ends.
async fn silent() -> (SocketAddr, Seen) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, seen) = (listener.local_addr().unwrap(), Seen::default());
    let counts = seen.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let counts = counts.clone();
            tokio::spawn(async move {
                counts.0[0].fetch_add(1, Ordering::Relaxed);
                let _ = copy(&mut stream, &mut tokio::io::sink()).await;
                counts.0[1].fetch_add(1, Ordering::Relaxed);
            });
        }
    });
    (address, seen)
}

#[tokio::test]
async fn a_connection_of_bytes_is_cut_after_its_time_or_when_idle() {
    for pool in ["tcp: {maxConnectionDuration: 100ms}", "tcp: {idleTimeout: 100ms}"] {
        let (app, seen) = silent().await;
        let db = Plan { hosted: vec![hosted("db", "db-v1", Protocol::Tcp, app)], ..Plan::default() };
        let client = Plan { listeners: vec![("db", ListenerProtocol::Tcp)], ..caller().await };
        let mesh = Mesh::start_with(&rule("db", pool), vec![client, db]);
        let mut stream = TcpStream::connect(mesh.client().listeners[0]).await.unwrap();
        stream.write_all(b"hello").await.unwrap();
        let end = within(stream.read(&mut [0; 1])).await;
        assert!(matches!(end, Ok(0) | Err(_)), "{pool}: {end:?}");
        eventually(pool, || seen.counts() == [1, 1]).await;
    }
}

/// An address that takes no more connections, and refuses none: what is dialled there waits. With what keeps it so.
async fn full() -> (SocketAddr, TcpListener, Vec<TcpStream>) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut queued = Vec::new();
    let brief = std::time::Duration::from_millis(200);
    while let Ok(Ok(stream)) = tokio::time::timeout(brief, TcpStream::connect(address)).await {
        queued.push(stream);
    }
    (address, listener, queued)
}

#[tokio::test]
async fn connecting_may_take_as_long_as_the_rule_says() {
    let (app, _listener, _queued) = full().await;
    let mesh = node_with(app, "tcp: {connectTimeout: 120ms}").await;
    let answer = send(mesh.client().outbound, get("reviews", "/")).await;
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    let said = read(answer).await;
    assert!(said.contains("within 120ms"), "{said}");
}

#[tokio::test]
async fn an_upstream_that_does_not_answer_pings_is_given_up() {
    let (app, seen) = silent().await;
    let mut plan = caller().await;
    plan.hosted.push(hosted("reviews", "reviews-v1", Protocol::Http2, app));
    let ping = "http: {http2KeepAlive: {interval: 20ms, timeout: 20ms}}, tcp: {idleTimeout: 0s}";
    let mesh = Mesh::start_with(&rule("reviews", ping), vec![plan]);
    let answer = send(mesh.client().outbound, get("reviews", "/")).await;
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    eventually("its connections end", || seen.counts()[0] == seen.counts()[1]).await;
}

#[tokio::test]
async fn a_place_outside_is_spoken_to_as_the_port_declares_the_rule_or_the_client() {
    let version = |request: http::Request<_>| {
        let version = format!("{:?}", request.version());
        async move { http::Response::new(text(version)) }
    };
    let (http1, http2) = (serve(false, version).await, serve(true, version).await);
    for (pool, place, client_http2, spoken) in [
        ("h2UpgradePolicy: DO_NOT_UPGRADE", http1, true, "HTTP/1.1"),
        ("h2UpgradePolicy: UPGRADE", http2, false, "HTTP/2.0"),
        ("useClientProtocol: true", http2, true, "HTTP/2.0"),
        ("useClientProtocol: true", http1, false, "HTTP/1.1"),
    ] {
        let documents = format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: old}}\nspec: {{hosts: \
             [old.example.com], resolution: STATIC, ports: [{{name: http, number: 80, protocol: HTTP, targetPort: {}}}], \
             endpoints: [{{address: {}}}]}}\n---\n{}",
            place.port(),
            place.ip(),
            rule("old.example.com", &format!("http: {{{pool}}}"))
        );
        let mesh = Mesh::start_with(&documents, vec![caller().await]);
        let to = mesh.client().outbound;
        let request = get("old.example.com", "/");
        let answer = if client_http2 { send_http2(to, request).await } else { send(to, request).await };
        assert_eq!((answer.status(), read(answer).await.as_str()), (StatusCode::OK, spoken), "{pool}, {client_http2}");
    }
}

#[tokio::test]
async fn a_workload_of_the_mesh_gets_the_version_that_it_declares() {
    let mut mesh = mesh_with(counting().await.0).await;
    for pool in ["h2UpgradePolicy: UPGRADE", "useClientProtocol: true"] {
        mesh.documents = rule("reviews", &format!("http: {{{pool}}}"));
        mesh.publish();
        let answer = send_http2(mesh.client().outbound, get("reviews", "/")).await;
        assert_eq!((answer.status(), read(answer).await.as_str()), (StatusCode::OK, "ok"), "{pool}");
    }
}

#[tokio::test]
async fn between_nodes_too_a_connection_serves_so_many_requests() {
    let addresses_with = async |pool: &str| {
        let (app, _) = counting().await;
        let mut mesh = mesh_with(app).await;
        mesh.documents = rule("reviews", pool);
        mesh.publish();
        for _ in 0..3 {
            ask(&mesh).await;
        }
        let log = &mesh.nodes[1].log;
        eventually("all are in the log", || log.text().lines().count() == 3).await;
        let text = log.text();
        let addresses = text.split_whitespace().filter(|word| word.starts_with("127.0.0.1:"));
        addresses.collect::<std::collections::BTreeSet<_>>().len()
    };
    let (many, one) = (
        addresses_with("http: {maxRequestsPerConnection: 3}").await,
        addresses_with("http: {maxRequestsPerConnection: 1}").await,
    );
    assert_eq!(one - many, 2, "two more connections are seen by the other node");
}
