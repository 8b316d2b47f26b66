//! Ports whose protocol nobody declared: what the two sides say first tells, and neither waits for the other.

mod support;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use http::{Request, Response, StatusCode};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use weft_proxy::config::ListenerProtocol;
use weft_wire::fact::Protocol;

use support::*;

/// An application that greets, and then says what it is told. Counts its connections.
async fn greeter() -> (SocketAddr, Arc<AtomicUsize>) {
    bytes(b"hello ").await
}

/// An application that says something first, if anything, and then what it is told.
async fn bytes(greeting: &'static [u8]) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = connections.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(async move {
                let _ = stream.write_all(greeting).await;
                let (mut from, mut to) = stream.split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
            });
        }
    });
    (address, connections)
}

/// A node with a listener, and one that hosts `app` behind a port of which nothing is said.
async fn mesh(app: SocketAddr, documents: &str) -> Mesh {
    let hosting = Plan { hosted: vec![hosted("app", "app-v1", Protocol::Auto, app)], ..Plan::default() };
    let client = Plan { listeners: vec![("app", ListenerProtocol::Auto)], ..caller().await };
    Mesh::start_with(documents, vec![client, hosting])
}

/// Connections to the service: by the listener, and by CONNECT.
async fn both_ways(mesh: &Mesh) -> [TcpStream; 2] {
    let listener = TcpStream::connect(mesh.client().listeners[0]).await.unwrap();
    let mut tunnel = TcpStream::connect(mesh.client().outbound).await.unwrap();
    tunnel.write_all(b"CONNECT app:9080 HTTP/1.1\r\nhost: app:9080\r\n\r\n").await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(within(tunnel.read_u8()).await.unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&head));
    [listener, tunnel]
}

async fn ask(stream: &mut TcpStream, request: &str) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    within(stream.read_to_end(&mut answer)).await.unwrap();
    String::from_utf8(answer).unwrap()
}

const GET: &str = "GET /x HTTP/1.1\r\nhost: whatever\r\nconnection: close\r\n\r\n";
const REPORTED: [&str; 2] = ["reporter=\"source\"", "destination_service_name=\"app\""];

#[tokio::test]
async fn a_server_that_speaks_first_is_heard_at_once_and_remembered() {
    let (app, _) = greeter().await;
    let mesh = mesh(app, "").await;
    for round in 0..2 {
        for mut stream in both_ways(&mesh).await {
            let mut said = [0; 6];
            within(stream.read_exact(&mut said)).await.unwrap();
            assert_eq!(&said, b"hello ", "before the client has said anything");
            stream.write_all(b"world").await.unwrap();
            stream.shutdown().await.unwrap();
            let mut answer = String::new();
            within(stream.read_to_string(&mut answer)).await.unwrap();
            assert_eq!(answer, "world", "{round}");
        }
    }
    // It is no server of HTTP: what looks like a request is carried as it comes.
    let [mut stream, _] = both_ways(&mesh).await;
    stream.write_all(GET.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(ask(&mut stream, "").await, format!("hello {GET}"));
    assert_eq!(mesh.client().metric("istio_requests_total", &REPORTED), 0.0);
}

#[tokio::test]
async fn a_client_that_speaks_first_is_carried_unless_it_is_http() {
    let (app, _) = bytes(b"").await;
    let mesh = mesh(app, "").await;
    for said in ["GET key\r\n", "*1\r\n$4\r\nPING\r\n", "G", "\u{16}\u{3}\u{1} no TLS"] {
        for mut stream in both_ways(&mesh).await {
            stream.write_all(said.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
            assert_eq!(ask(&mut stream, "").await, said);
        }
    }
    // In pieces, and only when it is asked for.
    let [mut stream, _] = both_ways(&mesh).await;
    for piece in ["SET a ", "b\r\n"] {
        stream.write_all(piece.as_bytes()).await.unwrap();
    }
    let mut back = [0; 9];
    within(stream.read_exact(&mut back)).await.unwrap();
    assert_eq!(&back, b"SET a b\r\n");
}

#[tokio::test]
async fn http_is_routed_judged_and_counted_as_requests_and_remembered() {
    const RULES: &str = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: app}
spec:
  hosts: [app]
  http: [{match: [{uri: {prefix: /}}], headers: {request: {set: {x-routed: 'yes'}}}, route: [{destination: {host: app}}]}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: app}
spec: {selector: {matchLabels: {app: app}}, rules: [{to: [{operation: {paths: [/x]}}]}]}
";
    let mesh = mesh(echo().await, RULES).await;
    for round in 1..=3 {
        for mut stream in both_ways(&mesh).await {
            let answer = ask(&mut stream, GET).await;
            assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("x-routed: yes"), "{round}: {answer}");
        }
        let counted = || mesh.client().metric("istio_requests_total", &REPORTED) == 2.0 * f64::from(round);
        eventually("requests are counted", counted).await;
    }
    let [mut stream, _] = both_ways(&mesh).await;
    assert!(ask(&mut stream, &GET.replace("/x", "/y")).await.starts_with("HTTP/1.1 403 "));
}

#[tokio::test]
async fn a_workload_of_the_same_node_lets_requests_in_where_it_lets_no_connection_in() {
    const RULES: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: app}
spec: {selector: {matchLabels: {app: app}}, rules: [{to: [{operation: {paths: [/x]}}]}]}
";
    let mut plan = caller().await;
    plan.hosted.push(hosted("app", "app-v1", Protocol::Auto, echo().await));
    plan.listeners = vec![("app", ListenerProtocol::Auto)];
    let mesh = Mesh::start_with(RULES, vec![plan]);
    for mut stream in both_ways(&mesh).await {
        assert!(ask(&mut stream, GET).await.starts_with("HTTP/1.1 200 "));
    }
    let [mut stream, _] = both_ways(&mesh).await;
    stream.write_all(b"bytes").await.unwrap();
    assert_eq!(within(stream.read(&mut [0; 8])).await.unwrap(), 0, "bytes are not let in");
}

#[tokio::test]
async fn grpc_gets_http2_from_an_undeclared_workload_and_the_rest_http1() {
    let version = |request: Request<_>| {
        let version = format!("{:?}", request.version());
        async move { Response::new(text(version)) }
    };
    for (http2, grpc, expected) in [(true, true, "HTTP/2.0"), (false, false, "HTTP/1.1")] {
        let mesh = mesh(serve(http2, version).await, "").await;
        for to in [mesh.client().listeners[0], mesh.client().outbound] {
            let mut request = get("app", "/");
            request.headers_mut().remove("host");
            *request.uri_mut() = "http://app:9080/a.B/C".parse().unwrap();
            if grpc {
                request.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
            }
            let response = send_http2(to, request).await;
            assert_eq!(response.status(), StatusCode::OK);
            assert_eq!(read(response).await, expected);
        }
    }
}

#[tokio::test]
async fn who_sends_a_request_to_nobody_is_told_and_others_are_closed() {
    let mesh = mesh(nowhere().await, "").await;
    let mut stream = TcpStream::connect(mesh.client().listeners[0]).await.unwrap();
    assert!(ask(&mut stream, GET).await.starts_with("HTTP/1.1 503 "));
    let mut stream = TcpStream::connect(mesh.client().listeners[0]).await.unwrap();
    assert_eq!(within(stream.read(&mut [0; 8])).await.unwrap(), 0);
}

#[tokio::test]
async fn a_declared_port_is_dialled_for_nobody() {
    let (app, connections) = bytes(b"").await;
    let hosting = Plan { hosted: vec![hosted("app", "app-v1", Protocol::Http, app)], ..Plan::default() };
    let client = Plan { listeners: vec![("app", ListenerProtocol::Auto)], ..caller().await };
    let mesh = Mesh::start(vec![client, hosting]);
    let mut stream = TcpStream::connect(mesh.client().listeners[0]).await.unwrap();
    let answer = ask(&mut stream, "GET key\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert_eq!(connections.load(Ordering::Relaxed), 0);
}
