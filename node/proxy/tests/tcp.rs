//! Raw TCP through two proxies and mutual TLS.

mod support;

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use weft_proxy::config::ListenerProtocol;
use weft_wire::fact::Protocol;

use support::*;

/// An application that reads to the end, and answers with its name and what it read.
async fn named(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut bytes = name.as_bytes().to_vec();
            stream.read_to_end(&mut bytes).await.unwrap();
            stream.write_all(&bytes).await.unwrap();
        }
    });
    address
}

/// What a TLS client says first to a server.
fn client_hello(server_name: &'static str) -> Vec<u8> {
    let config = std::sync::Arc::new(data_client(None, b"h2"));
    let mut client = rustls::ClientConnection::new(config, server_name.try_into().unwrap()).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

async fn mesh(protocol: Protocol) -> Mesh {
    let db = Plan { hosted: vec![hosted("db", "db-v1", protocol, reverser().await)], ..Plan::default() };
    let client = Plan { listeners: vec![("db", ListenerProtocol::Tcp)], ..caller().await };
    Mesh::start(vec![client, db])
}

/// A tunnel through an HTTP proxy.
async fn tunnel(proxy: SocketAddr, to: &str) -> TcpStream {
    let mut stream = TcpStream::connect(proxy).await.unwrap();
    stream.write_all(format!("CONNECT {to} HTTP/1.1\r\nhost: {to}\r\n\r\n").as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(within(stream.read_u8()).await.unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&head));
    stream
}

async fn reversed(mut stream: TcpStream, bytes: &[u8]) -> Vec<u8> {
    stream.write_all(bytes).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    within(stream.read_to_end(&mut answer)).await.unwrap();
    answer
}

#[tokio::test]
async fn a_listener_carries_bytes_and_half_closes_each_way() {
    let mesh = mesh(Protocol::Tcp).await;
    let bytes: Vec<u8> = (0..1_000_000_u32).map(|i| i as u8).collect();
    let answer = reversed(TcpStream::connect(mesh.client().listeners[0]).await.unwrap(), &bytes).await;
    assert!(answer.iter().rev().eq(bytes.iter()));
    for (node, reporter) in mesh.nodes.iter().zip(["reporter=\"source\"", "reporter=\"destination\""]) {
        let labels = [reporter, "request_protocol=\"tcp\"", "source_workload=\"productpage-v1\""];
        eventually("it is closed", || node.metric("istio_tcp_connections_closed_total", &labels) == 1.0).await;
        assert_eq!(node.metric("istio_tcp_connections_opened_total", &labels), 1.0);
        assert_eq!(node.metric("istio_tcp_received_bytes_total", &labels), 1_000_000.0);
        assert_eq!(node.metric("istio_tcp_sent_bytes_total", &labels), 1_000_000.0);
    }
}

#[tokio::test]
async fn connect_tunnels_to_a_service_as_an_http_proxy_does() {
    for protocol in [Protocol::Tcp, Protocol::Http] {
        let mesh = mesh(protocol).await;
        assert_eq!(reversed(tunnel(mesh.client().outbound, "db.default:9080").await, b"abc").await, b"cba");
    }
}

#[tokio::test]
async fn connect_to_an_unknown_host_is_refused_with_a_reason() {
    let mesh = mesh(Protocol::Tcp).await;
    let mut stream = TcpStream::connect(mesh.client().outbound).await.unwrap();
    stream.write_all(b"CONNECT example.com:443 HTTP/1.1\r\nhost: example.com:443\r\n\r\n").await.unwrap();
    let mut status = [0; 12];
    within(stream.read_exact(&mut status)).await.unwrap();
    assert_eq!(&status, b"HTTP/1.1 502");
}

#[tokio::test]
async fn an_http_request_to_a_tcp_service_is_refused_with_a_reason() {
    let mesh = mesh(Protocol::Tcp).await;
    let response = send(mesh.client().outbound, get("db", "/")).await;
    assert_eq!(response.headers()["x-weft-reason"], "not_http");
}

#[tokio::test]
async fn a_connection_to_a_dead_endpoint_goes_to_its_twin() {
    let mut mesh = mesh(Protocol::Tcp).await;
    let twin = hosted("db", "db-v2", Protocol::Tcp, nowhere().await);
    let mut dead = Mesh::start(vec![Plan { hosted: vec![twin], ..Plan::default() }]).nodes.remove(0);
    dead.proxy.take();
    dead.name = "dead".parse().unwrap();
    mesh.nodes.push(dead);
    let port = mesh.nodes[2].data_port();
    let closed = async { while TcpStream::connect(port).await.is_ok() {} };
    within(closed).await;
    mesh.publish();
    for _ in 0..20 {
        assert_eq!(reversed(TcpStream::connect(mesh.client().listeners[0]).await.unwrap(), b"xy").await, b"yx");
    }
}

#[tokio::test]
async fn tls_goes_by_the_server_that_its_client_names_and_is_not_ended() {
    const RULES: &str = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: db}
spec:
  hosts: [db, '*.example.com']
  tls:
  - {match: [{sniHosts: [a.example.com]}], route: [{destination: {host: a}}]}
  - {match: [{sniHosts: ['*.example.com']}], route: [{destination: {host: b}}]}
";
    let host = |service, address| hosted(service, service, Protocol::Tcp, address);
    let hosted = vec![host("db", named("db").await), host("a", named("a").await), host("b", named("b").await)];
    let client = Plan { listeners: vec![("db", ListenerProtocol::Tcp)], ..caller().await };
    let mesh = Mesh::start_with(RULES, vec![client, Plan { hosted, ..Plan::default() }]);
    for tunnelled in [false, true] {
        for (server_name, expected) in [("a.example.com", "a"), ("c.example.com", "b"), ("other.org", "")] {
            let stream = match tunnelled {
                false => TcpStream::connect(mesh.client().listeners[0]).await.unwrap(),
                true => tunnel(mesh.client().outbound, "db:9080").await,
            };
            let hello = client_hello(server_name);
            let answer = reversed(stream, &hello).await;
            let whole = if expected.is_empty() { Vec::new() } else { [expected.as_bytes(), &hello].concat() };
            assert_eq!(answer, whole, "{server_name}, {tunnelled}");
        }
    }
    let refused = ["reporter=\"source\"", "response_flags=\"NR\""];
    assert_eq!(mesh.client().metric("istio_tcp_connections_opened_total", &refused), 2.0);
}

#[tokio::test]
async fn rules_for_subnets_go_by_the_address_that_a_client_connects_to() {
    let [inside, outside] = [named("inside ").await, named("outside ").await];
    let endpoint =
        |at: SocketAddr, v: &str| format!("{{address: {}, ports: {{a: {}}}, labels: {{v: {v}}}}}", at.ip(), at.port());
    let documents = format!(
        "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: db}}
spec:
  hosts: [db.example.com]
  addresses: [10.0.0.0/8, 'fd00::/8']
  ports: [{{number: 5432, name: a, protocol: TCP}}]
  resolution: STATIC
  endpoints: [{}, {}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: db}}
spec: {{host: db.example.com, subsets: [{{name: a, labels: {{v: a}}}}, {{name: b, labels: {{v: b}}}}]}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: db}}
spec:
  hosts: [db.example.com]
  tcp:
  - match: [{{destinationSubnets: [10.1.0.0/16, 'fd01::/16']}}]
    route: [{{destination: {{host: db.example.com, subset: a}}}}]
  - route: [{{destination: {{host: db.example.com, subset: b}}}}]
",
        endpoint(inside, "a"),
        endpoint(outside, "b")
    );
    let mesh = Mesh::start_with(&documents, vec![caller().await]);
    for (to, answer) in [
        ("10.1.2.3:5432", "inside x"),
        ("10.2.0.1:5432", "outside x"),
        ("[fd01::1]:5432", "inside x"),
        ("[fd02::1]:5432", "outside x"),
        ("db.example.com:5432", "outside x"),
    ] {
        let got = reversed(tunnel(mesh.client().outbound, to).await, b"x").await;
        assert_eq!(String::from_utf8_lossy(&got), answer, "{to}");
    }
}
