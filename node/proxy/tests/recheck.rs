//! Connections that are open when a workload's policies change, or when one of the two certificates is revoked.

mod support;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Notify,
};
use weft_proxy::config::ListenerProtocol;
use weft_wire::fact::Protocol;

use support::*;

fn policy(spec: &str) -> String {
    format!("{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {{name: p}}, spec: {spec}}}\n")
}

const DENY_CALLER: &str = "{action: DENY, rules: [{from: [{source: {principals: ['*/sa/productpage']}}]}]}";
const DENY_OTHERS: &str = "{action: DENY, rules: [{from: [{source: {principals: ['*/sa/other']}}]}]}";
/// What only a request can tell, and not a connection.
const DENY_A_PATH: &str = "{action: DENY, rules: [{to: [{operation: {paths: [/denied]}}]}]}";

/// The caller and a workload: on a node each, then on one node.
async fn both_ways(service: &'static str, protocol: Protocol, address: SocketAddr) -> [Mesh; 2] {
    let workload = hosted(service, &format!("{service}-v1"), protocol, address);
    let listener = if protocol.is_http() { ListenerProtocol::Http } else { ListenerProtocol::Tcp };
    let plan = || async { Plan { listeners: vec![(service, listener)], ..caller().await } };
    let apart = vec![plan().await, Plan { hosted: vec![workload.clone()], ..Plan::default() }];
    let mut together = plan().await;
    together.hosted.push(workload);
    [Mesh::start(apart), Mesh::start(vec![together])]
}

/// Has each connection answered by these bytes, and then by each byte that comes.
async fn says(greeting: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                if !greeting.is_empty() {
                    let _ = stream.read(&mut [0; 2048]).await;
                }
                let _ = stream.write_all(greeting).await;
                let (mut read, mut write) = stream.into_split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    address
}

async fn echoes(stream: &mut TcpStream) -> bool {
    let sent = stream.write_all(b"x").await;
    sent.is_ok() && within(stream.read_exact(&mut [0])).await.is_ok()
}

async fn ends(stream: &mut (impl AsyncRead + Unpin)) {
    let ended = within(stream.read(&mut [0])).await;
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
}

fn publish(mesh: &mut Mesh, spec: &str) {
    mesh.documents = if spec.is_empty() { String::new() } else { policy(spec) };
    mesh.publish();
}

fn cut(mesh: &Mesh) -> f64 {
    mesh.nodes.last().unwrap().metric("weft_access_connections_cut_total", &[])
}

/// A call that was switched to the WebSocket's bytes.
async fn websocket(mesh: &Mesh) -> TcpStream {
    let mut stream = TcpStream::connect(mesh.client().outbound).await.unwrap();
    let head = "GET / HTTP/1.1\r\nhost: reviews\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(within(stream.read_u8()).await.unwrap());
    }
    assert!(answer.starts_with(b"HTTP/1.1 101"));
    stream
}

#[tokio::test]
async fn a_tcp_connection_ends_when_its_caller_is_let_in_no_more_and_only_then() {
    for mut mesh in both_ways("db", Protocol::Tcp, says(b"").await).await {
        let mut stream = TcpStream::connect(mesh.client().listeners[0]).await.unwrap();
        assert!(echoes(&mut stream).await);
        for spec in [DENY_OTHERS, "", "{rules: [{from: [{source: {namespaces: [default]}}]}]}"] {
            publish(&mut mesh, spec);
            assert!(echoes(&mut stream).await, "{spec}");
        }
        // Where new connections go is no matter of open ones.
        mesh.documents = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: db}\n\
                          spec: {hosts: [db], tcp: [{route: [{destination: {host: nobody.example}}]}]}\n"
            .into();
        mesh.publish();
        assert!(echoes(&mut stream).await);
        publish(&mut mesh, DENY_CALLER);
        ends(&mut stream).await;
        assert_eq!(cut(&mesh), 1.0);
    }
}

#[tokio::test]
async fn a_websocket_ends_when_its_caller_is_let_in_no_more_and_only_then() {
    let switching = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    for mut mesh in both_ways("reviews", Protocol::Http, says(switching).await).await {
        let mut stream = websocket(&mesh).await;
        publish(&mut mesh, DENY_OTHERS);
        assert!(echoes(&mut stream).await);
        publish(&mut mesh, DENY_CALLER);
        ends(&mut stream).await;
        assert_eq!(cut(&mesh), 1.0);
    }
}

#[tokio::test]
async fn an_answer_under_way_breaks_off_when_no_request_could_come_by_its_connection_any_more() {
    let endless = says(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n").await;
    for mut mesh in both_ways("reviews", Protocol::Http, endless).await {
        let mut response = send(mesh.client().outbound, get("reviews", "/")).await;
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(within(response.body_mut().frame()).await.unwrap().unwrap().into_data().unwrap(), "x");
        for spec in [DENY_OTHERS, DENY_A_PATH] {
            publish(&mut mesh, spec);
        }
        // A second caller's request shows that the view is in force.
        assert_eq!(send(mesh.client().outbound, get("reviews", "/denied")).await.status(), StatusCode::FORBIDDEN);
        assert_eq!(cut(&mesh), 0.0);
        publish(&mut mesh, DENY_CALLER);
        assert!(within(response.into_body().collect()).await.is_err(), "the answer breaks off");
        assert!(cut(&mesh) >= 1.0);
        // Who comes anew is told why, and not just cut.
        assert_eq!(send(mesh.client().outbound, get("reviews", "/")).await.status(), StatusCode::FORBIDDEN);
    }
}

#[tokio::test]
async fn who_waits_for_an_answer_waits_no_longer_than_it_is_let_in() {
    let arrived = Arc::new(Notify::new());
    let arrives = arrived.clone();
    let silent = serve(false, move |_| {
        let arrives = arrives.clone();
        async move {
            arrives.notify_one();
            std::future::pending::<Response<Body>>().await
        }
    });
    for mut mesh in both_ways("reviews", Protocol::Http, silent.await).await {
        let is_local = mesh.nodes.len() == 1;
        let outbound = mesh.client().outbound;
        let waits = tokio::spawn(async move { send(outbound, get("reviews", "/")).await });
        within(arrived.notified()).await;
        publish(&mut mesh, DENY_OTHERS);
        publish(&mut mesh, DENY_CALLER);
        let response = within(waits).await.unwrap();
        if is_local {
            assert_eq!(response.status(), StatusCode::FORBIDDEN);
            let id = response.headers()["x-weft-decision"].to_str().unwrap().parse().unwrap();
            assert!(mesh.client().decisions.find(id).is_some(), "weft why tells it");
        } else {
            // Its connection was cut.
            assert!(matches!(response.status(), StatusCode::FORBIDDEN | StatusCode::SERVICE_UNAVAILABLE));
        }
    }
}

#[tokio::test]
async fn within_a_node_only_the_requests_end_that_are_let_in_no_more() {
    let endless = says(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n").await;
    let hosted = ["reviews", "ratings"].map(|name| hosted(name, &format!("{name}-v1"), Protocol::Http, endless));
    let mut plan = caller().await;
    plan.hosted.extend(hosted);
    let mut mesh = Mesh::start(vec![plan]);
    // Both go by one connection.
    let io = TokioIo::new(TcpStream::connect(mesh.client().outbound).await.unwrap());
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let mut bodies = Vec::new();
    for host in ["reviews", "ratings"] {
        let request = Request::get(format!("http://{host}/")).body(text("")).unwrap();
        let mut body = within(sender.send_request(request)).await.unwrap().into_body();
        assert_eq!(within(body.frame()).await.unwrap().unwrap().into_data().unwrap(), "x");
        bodies.push(body);
    }
    let [mut refused, mut goes_on] = <[_; 2]>::try_from(bodies).unwrap();
    let policy = policy("{selector: {matchLabels: {app: reviews}}, action: DENY, rules: [{}]}");
    mesh.documents = policy;
    mesh.publish();
    assert!(within(refused.frame()).await.unwrap().is_err());
    assert_eq!(cut(&mesh), 1.0);
    let request = Request::get("http://ratings/").body(text("")).unwrap();
    assert_eq!(within(sender.send_request(request)).await.unwrap().status(), StatusCode::OK);
    assert!(tokio::time::timeout(Duration::ZERO, goes_on.frame()).await.is_err(), "it is not over");
}

#[tokio::test]
async fn d_mtls_connections_of_a_trust_domain_that_is_no_alias_any_more_end() {
    let alias = "{apiVersion: weft.mesh/v1alpha1, kind: MeshConfig, metadata: {name: default, namespace: istio-system}, \
                 spec: {trustDomainAliases: [old.example]}}\n";
    let reviews = Plan { hosted: vec![hosted("reviews", "r-1", Protocol::Http, echo().await)], ..Plan::default() };
    let mut mesh = Mesh::start_with(alias, vec![reviews]);
    let certificate = mesh.ca.issue(&"spiffe://old.example/ns/default/sa/x".parse().unwrap());
    let mut stream = mesh.client().connect_as(certificate).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: reviews\r\n\r\n").await.unwrap();
    let mut head = [0; 12];
    within(stream.read_exact(&mut head)).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 200");
    publish(&mut mesh, DENY_OTHERS);
    let _ = within(stream.read_to_end(&mut Vec::new())).await;
    assert_eq!(cut(&mesh), 1.0);
}

/// Both sides of a call, by the account that is revoked on the other one.
const EACH_SIDE: [(&str, usize); 2] = [("default/productpage", 1), ("default/reviews", 0)];

#[tokio::test]
async fn connections_of_bytes_end_when_a_certificate_is_revoked_and_only_then() {
    for (account, judge) in EACH_SIDE {
        let account = account.replace("reviews", "db");
        let [mut mesh, _] = both_ways("db", Protocol::Tcp, says(b"").await).await;
        let mut stream = TcpStream::connect(mesh.client().listeners[0]).await.unwrap();
        assert!(echoes(&mut stream).await);
        mesh.nodes[judge].revoke(&["default/other"]);
        assert!(echoes(&mut stream).await);
        mesh.nodes[judge].revoke(&["default/other", &account]);
        ends(&mut stream).await;
        assert_eq!(mesh.nodes[judge].metric("weft_access_connections_cut_total", &[]), 1.0);
        let mut stream = TcpStream::connect(mesh.client().listeners[0]).await.unwrap();
        assert!(!echoes(&mut stream).await, "{account} gets no new connection");
        mesh.nodes[judge].revoke(&[]);
        let mut stream = TcpStream::connect(mesh.client().listeners[0]).await.unwrap();
        assert!(echoes(&mut stream).await);
    }
}

#[tokio::test]
async fn a_websocket_ends_when_a_certificate_is_revoked() {
    let switching = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    for (account, judge) in EACH_SIDE {
        let [mut mesh, _] = both_ways("reviews", Protocol::Http, says(switching).await).await;
        let mut stream = websocket(&mesh).await;
        mesh.nodes[judge].revoke(&["default/other"]);
        assert!(echoes(&mut stream).await);
        mesh.nodes[judge].revoke(&[account]);
        ends(&mut stream).await;
    }
}

#[tokio::test]
async fn an_answer_under_way_breaks_off_when_a_certificate_is_revoked() {
    let endless = says(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n").await;
    for (account, judge) in EACH_SIDE {
        let [mut mesh, _] = both_ways("reviews", Protocol::Http, endless).await;
        let mut response = send(mesh.client().outbound, get("reviews", "/")).await;
        assert_eq!(within(response.body_mut().frame()).await.unwrap().unwrap().into_data().unwrap(), "x");
        mesh.nodes[judge].revoke(&[account]);
        assert!(within(response.into_body().collect()).await.is_err(), "{account}: the answer breaks off");
        let response = send(mesh.client().outbound, get("reviews", "/")).await;
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE, "{account}");
        // In TLS 1.3 a caller is done before the server has looked at its certificate.
        let reasons: &[&str] =
            if judge == 0 { &["certificate_revoked"] } else { &["client_certificate_refused", "upstream_reset"] };
        let reason = response.headers()["x-weft-reason"].to_str().unwrap();
        assert!(reasons.contains(&reason), "{account}: {reason}");
        mesh.nodes[judge].revoke(&[]);
        assert_eq!(send(mesh.client().outbound, get("reviews", "/")).await.status(), StatusCode::OK);
    }
}
