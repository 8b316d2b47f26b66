//! HTTP through two proxies and mutual TLS.

mod support;

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::join_all;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{Notify, mpsc},
};
use weft_proxy::{config::ListenerProtocol, server::Drained};
use weft_wire::fact::{EndpointHealth, Protocol};

use support::*;

fn streaming(frames: mpsc::Receiver<Frame<Bytes>>) -> Body {
    let stream = futures_util::stream::unfold(frames, |mut frames| async move {
        frames.recv().await.map(|frame| (Ok::<_, Infallible>(frame), frames))
    });
    BodyExt::boxed(StreamBody::new(SyncStream(Box::pin(stream))))
}

/// `BoxBody` wants `Sync`; the stream is only ever polled by one task.
struct SyncStream<S>(S);
impl<S: futures_util::Stream + Unpin> futures_util::Stream for SyncStream<S> {
    type Item = S::Item;
    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<S::Item>> {
        std::pin::Pin::new(&mut self.0).poll_next(cx)
    }
}

/// An application that never answers, and says when it is asked.
async fn silent() -> (std::net::SocketAddr, Arc<Notify>) {
    let arrived = Arc::new(Notify::new());
    let arrives = arrived.clone();
    let app = serve(false, move |_| {
        arrives.notify_one();
        std::future::pending()
    });
    (app.await, arrived)
}

async fn mesh_with_echo() -> Mesh {
    let reviews =
        Plan { hosted: vec![hosted("reviews", "reviews-v1", Protocol::Http, echo().await)], ..Plan::default() };
    Mesh::start(vec![caller().await, reviews])
}

#[tokio::test]
async fn a_request_reaches_a_service_of_another_node_by_its_short_name() {
    let mesh = mesh_with_echo().await;
    let request = Request::post("/reviews/0?a=b").header("host", "reviews:9080").body(text("hello")).unwrap();
    let response = send(mesh.client().outbound, request).await;
    assert_eq!(response.status(), StatusCode::OK);
    let seen = read(response).await;
    assert!(seen.starts_with("POST /reviews/0?a=b\n"), "{seen}");
    assert!(seen.contains("host: reviews:9080\n"), "{seen}");
    assert!(seen.contains("x-envoy-attempt-count: 1\n"), "{seen}");
    assert!(seen.contains("x-request-id: "), "{seen}");
    assert!(seen.ends_with("\nhello"), "{seen}");
}

#[tokio::test]
async fn http2_with_prior_knowledge_reaches_an_http1_workload() {
    let mesh = mesh_with_echo().await;
    let request = Request::get("http://reviews.default:9080/x").body(text("")).unwrap();
    let seen = read(send_http2(mesh.client().outbound, request).await).await;
    assert!(seen.starts_with("GET /x\n"), "{seen}");
    assert!(seen.contains("host: reviews.default:9080\n"), "{seen}");
}

#[tokio::test]
async fn a_burst_on_a_new_connection_waits_for_how_many_streams_the_workload_takes() {
    const STREAMS: usize = 100;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async {
                // What was sent before the workload has said anything lies there by now.
                tokio::time::sleep(Duration::from_millis(200)).await;
                let answer = service_fn(|_| async { Ok::<_, Infallible>(Response::new(text("done"))) });
                let mut server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                // More are refused, and a POST is lost where nobody sends it again.
                server.max_concurrent_streams(4).serve_connection(TokioIo::new(stream), answer).await
            });
        }
    });
    let hosted = vec![hosted("reviews", "reviews-v1", Protocol::Http2, address)];
    let no_retries = "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews}
spec: {hosts: [reviews], http: [{retries: {attempts: 0}, route: [{destination: {host: reviews}}]}]}
";
    let mesh = Mesh::start_with(no_retries, vec![Plan { hosted, ..Plan::default() }]);
    let io = TokioIo::new(TcpStream::connect(mesh.client().outbound).await.unwrap());
    let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let post = || {
        let mut sender = sender.clone();
        let request = Request::post("http://reviews.default:9080/").body(text("hello")).unwrap();
        async move { sender.send_request(request).await.unwrap().status() }
    };
    let statuses = within(join_all((0..STREAMS).map(|_| post()))).await;
    assert_eq!(statuses, [StatusCode::OK; STREAMS]);
}

#[tokio::test]
async fn a_post_without_body_has_a_length_where_http1_needs_one() {
    // On the caller's own node, where no HTTP/2 is between.
    let hosted = vec![hosted("reviews", "reviews-v1", Protocol::Http, echo().await)];
    let mesh = Mesh::start(vec![Plan { hosted, ..Plan::default() }]);
    for (method, has_length) in [("POST", true), ("PUT", true), ("PATCH", true), ("GET", false), ("DELETE", false)] {
        let request = Request::builder().method(method).uri("/").header("host", "reviews").body(text("")).unwrap();
        let seen = read(send(mesh.client().outbound, request).await).await;
        assert_eq!(seen.contains("content-length: 0\n"), has_length, "{seen}");
    }
}

#[tokio::test]
async fn a_workload_is_told_what_a_route_has_rewritten() {
    let route = "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews}
spec:
  hosts: [reviews]
  http:
  - rewrite: {uri: /v2/, authority: other.example}
    route: [{destination: {host: reviews}}]
";
    let reviews =
        Plan { hosted: vec![hosted("reviews", "reviews-v1", Protocol::Http, echo().await)], ..Plan::default() };
    let mesh = Mesh::start_with(route, vec![caller().await, reviews]);
    let seen = read(send(mesh.client().outbound, get("reviews:9080", "/a?b")).await).await;
    assert!(seen.starts_with("GET /v2/a?b\n"), "{seen}");
    for line in ["host: other.example", "x-envoy-original-host: reviews:9080", "x-envoy-original-path: /a?b"] {
        assert!(seen.contains(&format!("{line}\n")), "{line} in {seen}");
    }
}

#[tokio::test]
async fn the_absolute_form_of_an_http_proxy_names_the_service() {
    let mesh = mesh_with_echo().await;
    let request = Request::get("http://reviews:9080/reviews/0").header("host", "other").body(text("")).unwrap();
    let seen = read(send(mesh.client().outbound, request).await).await;
    assert!(seen.starts_with("GET /reviews/0\n") && seen.contains("host: reviews:9080\n"), "{seen}");
}

#[tokio::test]
async fn a_listener_leads_to_its_service_whatever_the_host() {
    let reviews =
        Plan { hosted: vec![hosted("reviews", "reviews-v1", Protocol::Http, echo().await)], ..Plan::default() };
    let client = Plan { listeners: vec![("reviews", ListenerProtocol::Http)], ..caller().await };
    let mesh = Mesh::start(vec![client, reviews]);
    let seen = read(send(mesh.client().listeners[0], get("localhost:1", "/")).await).await;
    assert!(seen.contains("host: localhost:1\n"), "{seen}");
}

#[tokio::test]
async fn a_service_of_the_same_node_is_called_directly_and_told_nothing_of_the_mesh() {
    let plan = Plan { hosted: vec![hosted("reviews", "reviews-v1", Protocol::Http, echo().await)], ..Plan::default() };
    let mesh = Mesh::start(vec![plan]);
    let mut request = get("reviews", "/");
    request.headers_mut().insert("x-envoy-attempt-count", "7".parse().unwrap());
    request.headers_mut().insert("x-forwarded-client-cert", "URI=spiffe://forged".parse().unwrap());
    let seen = read(send(mesh.client().outbound, request).await).await;
    assert!(!seen.contains("attempt-count") && !seen.contains("forged") && !seen.contains("x-weft"), "{seen}");
}

#[tokio::test]
async fn a_workload_is_told_who_calls_and_a_forged_identity_is_replaced() {
    let mesh = mesh_with_echo().await;
    let mut request = get("reviews", "/");
    request.headers_mut().insert("x-forwarded-client-cert", "URI=spiffe://forged".parse().unwrap());
    request.headers_mut().insert("x-weft-source", "default/forged".parse().unwrap());
    let seen = read(send(mesh.client().outbound, request).await).await;
    let line = seen.lines().find(|line| line.starts_with("x-forwarded-client-cert: ")).unwrap();
    assert!(
        line.starts_with("x-forwarded-client-cert: By=spiffe://cluster.local/ns/default/sa/reviews;Hash="),
        "{line}"
    );
    assert!(line.ends_with(";URI=spiffe://cluster.local/ns/default/sa/productpage"), "{line}");
    assert!(!seen.contains("forged") && !seen.contains("x-weft-source"), "{seen}");
}

#[tokio::test]
async fn hop_by_hop_headers_stay_on_their_hop() {
    let mesh = mesh_with_echo().await;
    let mut request = get("reviews", "/");
    for (name, value) in [
        ("connection", "keep-alive, x-secret"),
        ("x-secret", "1"),
        ("keep-alive", "timeout=5"),
        ("proxy-authorization", "Basic eDp5"),
        ("te", "gzip"),
    ] {
        request.headers_mut().append(name, value.parse().unwrap());
    }
    let seen = read(send(mesh.client().outbound, request).await).await;
    for name in ["x-secret", "keep-alive", "proxy-authorization", "te:"] {
        assert!(!seen.contains(name), "{name} in {seen}");
    }
}

#[tokio::test]
async fn a_request_id_is_kept_or_made() {
    let mesh = mesh_with_echo().await;
    let mut request = get("reviews", "/");
    request.headers_mut().insert("x-request-id", "mine".parse().unwrap());
    assert!(read(send(mesh.client().outbound, request).await).await.contains("x-request-id: mine\n"));
    let seen = read(send(mesh.client().outbound, get("reviews", "/")).await).await;
    let id = seen.lines().find_map(|line| line.strip_prefix("x-request-id: ")).unwrap();
    let lengths: Vec<usize> = id.split('-').map(str::len).collect();
    assert_eq!(lengths, [8, 4, 4, 4, 12], "{id}");
    assert_eq!(&id[14..15], "4", "{id}");
}

#[tokio::test]
async fn grpc_passes_both_ways_with_trailers() {
    let app = serve(true, |request| async move {
        assert_eq!(request.headers()["te"], "trailers");
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let (frames, receiver) = mpsc::channel(2);
        frames.send(Frame::data(body)).await.unwrap();
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "5".parse().unwrap());
        frames.send(Frame::trailers(trailers)).await.unwrap();
        Response::builder().header("content-type", "application/grpc").body(streaming(receiver)).unwrap()
    })
    .await;
    let ratings = Plan { hosted: vec![hosted("ratings", "ratings-v1", Protocol::Grpc, app)], ..Plan::default() };
    let mesh = Mesh::start(vec![caller().await, ratings]);
    let request = Request::post("http://ratings:9080/Ratings/Get")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(text("message"))
        .unwrap();
    let collected = within(send_http2(mesh.client().outbound, request).await.into_body().collect()).await.unwrap();
    assert_eq!(collected.trailers().unwrap()["grpc-status"], "5");
    assert_eq!(collected.to_bytes(), "message");
    let labels = ["request_protocol=\"grpc\"", "grpc_response_status=\"5\"", "response_code=\"200\""];
    for node in &mesh.nodes {
        eventually("the call is counted", || node.metric("istio_requests_total", &labels) == 1.0).await;
    }
}

#[tokio::test]
async fn a_grpc_caller_gets_a_grpc_status_for_what_the_proxy_refuses() {
    let mesh = Mesh::start(vec![caller().await]);
    let request = Request::post("http://nobody:9080/A/B")
        .header("content-type", "application/grpc")
        .body(text("message"))
        .unwrap();
    let response = send_http2(mesh.client().outbound, request).await;
    assert_eq!((response.status(), &response.headers()["grpc-status"]), (StatusCode::OK, &"14".parse().unwrap()));
}

#[tokio::test]
async fn a_websocket_upgrade_becomes_a_tunnel_through_the_mesh() {
    let app = serve(false, |mut request: Request<hyper::body::Incoming>| async move {
        assert_eq!(request.headers()["upgrade"], "websocket");
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut stream = TokioIo::new(upgrade.await.unwrap());
            let mut bytes = [0; 4];
            stream.read_exact(&mut bytes).await.unwrap();
            stream.write_all(&bytes.map(|byte| byte.to_ascii_uppercase())).await.unwrap();
        });
        Response::builder()
            .status(StatusCode::SWITCHING_PROTOCOLS)
            .header("connection", "upgrade")
            .header("upgrade", "websocket")
            .body(text(""))
            .unwrap()
    })
    .await;
    let chat = Plan { hosted: vec![hosted("chat", "chat-v1", Protocol::Http, app)], ..Plan::default() };
    let mesh = Mesh::start(vec![caller().await, chat]);
    let mut request = get("chat", "/ws");
    request.headers_mut().insert("connection", "Upgrade".parse().unwrap());
    request.headers_mut().insert("upgrade", "websocket".parse().unwrap());
    let mut response = send(mesh.client().outbound, request).await;
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    let mut stream = TokioIo::new(within(hyper::upgrade::on(&mut response)).await.unwrap());
    stream.write_all(b"ping").await.unwrap();
    let mut answer = Vec::new();
    within(stream.read_to_end(&mut answer)).await.unwrap();
    assert_eq!(answer, b"PING");
    drop(stream);
    let labels = ["response_code=\"101\"", "response_flags=\"-\""];
    for node in &mesh.nodes {
        eventually("the tunnel is counted", || node.metric("istio_requests_total", &labels) == 1.0).await;
    }
}

#[tokio::test]
async fn bodies_stream_both_ways_without_being_collected() {
    let app = serve(false, |request| async move {
        let (frames, receiver) = mpsc::channel(1);
        let mut body = request.into_body();
        tokio::spawn(async move {
            while let Some(Ok(frame)) = body.frame().await {
                frames.send(frame).await.unwrap();
            }
        });
        Response::new(streaming(receiver))
    })
    .await;
    let echo = Plan { hosted: vec![hosted("echo", "echo-v1", Protocol::Http, app)], ..Plan::default() };
    let mesh = Mesh::start(vec![caller().await, echo]);
    let (frames, receiver) = mpsc::channel(1);
    let request = Request::post("/").header("host", "echo").body(streaming(receiver)).unwrap();
    let mut response = send(mesh.client().outbound, request).await.into_body();
    for chunk in ["one", "two", "three"] {
        frames.send(Frame::data(chunk.into())).await.unwrap();
        // It comes back while the request is still open: nobody waits for its end.
        assert_eq!(within(response.frame()).await.unwrap().unwrap().into_data().unwrap(), chunk);
    }
    drop(frames);
    assert!(within(response.frame()).await.is_none());
    let received = ["reporter=\"destination\""];
    let node = &mesh.nodes[1];
    eventually("bytes are counted", || node.metric("istio_request_bytes_sum", &received) == 11.0).await;
    assert_eq!(node.metric("istio_response_bytes_sum", &received), 11.0);
}

#[tokio::test]
async fn an_unknown_host_is_refused_with_a_reason() {
    let mesh = mesh_with_echo().await;
    let response = send(mesh.client().outbound, get("example.com", "/")).await;
    assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
    assert_eq!(response.headers()["x-weft-reason"], "unknown_host");
    assert!(read(response).await.contains("unknown host \"example.com\""));
}

#[tokio::test]
async fn a_host_that_is_missing_doubled_or_malformed_is_a_bad_request() {
    let mesh = mesh_with_echo().await;
    for head in ["", "host: reviews\r\nhost: ratings\r\n", "host: me@reviews\r\n", "host: a b\r\n"] {
        let mut stream = tokio::net::TcpStream::connect(mesh.client().outbound).await.unwrap();
        stream.write_all(format!("GET / HTTP/1.1\r\n{head}\r\n").as_bytes()).await.unwrap();
        let mut status = [0; 12];
        within(stream.read_exact(&mut status)).await.unwrap();
        assert_eq!(&status, b"HTTP/1.1 400", "{head:?}");
    }
}

#[tokio::test]
async fn a_node_that_hosts_nothing_says_what_is_missing() {
    let reviews =
        Plan { hosted: vec![hosted("reviews", "reviews-v1", Protocol::Http, echo().await)], ..Plan::default() };
    let mesh = Mesh::start(vec![Plan::default(), reviews]);
    let response = send(mesh.client().outbound, get("reviews", "/")).await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(response.headers()["x-weft-reason"], "no_caller");
    assert!(read(response).await.contains("node.yaml"));
}

#[tokio::test]
async fn a_dead_endpoint_costs_no_request_while_its_twin_lives() {
    let mut mesh = mesh_with_echo().await;
    // A node that announces a workload but whose data port is closed.
    let twin = hosted("reviews", "reviews-v2", Protocol::Http, nowhere().await);
    let mut dead = Mesh::start(vec![Plan { hosted: vec![twin], ..Plan::default() }]).nodes.remove(0);
    assert_eq!(dead.proxy.take().unwrap().drain(PATIENCE).await, Drained::Complete);
    dead.name = "dead".parse().unwrap();
    mesh.nodes.push(dead);
    mesh.publish();
    for _ in 0..40 {
        let response = send(mesh.client().outbound, get("reviews", "/")).await;
        assert_eq!(response.status(), StatusCode::OK, "{}", read(response).await);
    }
}

#[tokio::test]
async fn a_workload_that_is_down_is_a_503_with_the_other_sides_reason() {
    let reviews =
        Plan { hosted: vec![hosted("reviews", "reviews-v1", Protocol::Http, nowhere().await)], ..Plan::default() };
    let mesh = Mesh::start(vec![caller().await, reviews]);
    let response = send(mesh.client().outbound, get("reviews", "/")).await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(response.headers()["x-weft-reason"], "connect_failure");
    assert!(read(response).await.contains("could not connect to 127.0.0.1:"));
}

#[tokio::test]
async fn a_service_without_endpoints_has_no_healthy_upstream() {
    let mut mesh = mesh_with_echo().await;
    mesh.nodes[1].hosted[0].row.health = EndpointHealth::Draining;
    mesh.publish();
    let response = send(mesh.client().outbound, get("reviews", "/")).await;
    assert_eq!(response.headers()["x-weft-reason"], "no_healthy_upstream");
    assert!(read(response).await.starts_with("no healthy upstream"));
    let labels = ["response_code=\"503\"", "response_flags=\"UH\"", "destination_service_name=\"reviews\""];
    eventually("it is counted", || mesh.client().metric("istio_requests_total", &labels) == 1.0).await;
}

#[tokio::test]
async fn an_upstreams_own_503_is_passed_on_and_not_retried() {
    let hits = Arc::new(AtomicUsize::new(0));
    let counter = hits.clone();
    let app = serve(false, move |_| {
        counter.fetch_add(1, Ordering::Relaxed);
        async { Response::builder().status(503).header("x-weft-reason", "forged").body(text("mine")).unwrap() }
    })
    .await;
    let reviews = Plan { hosted: vec![hosted("reviews", "reviews-v1", Protocol::Http, app)], ..Plan::default() };
    let mesh = Mesh::start(vec![caller().await, reviews]);
    let response = send(mesh.client().outbound, get("reviews", "/")).await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(!response.headers().contains_key("x-weft-reason"));
    assert_eq!(read(response).await, "mine");
    assert_eq!(hits.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_workload_that_closes_kept_alive_connections_costs_no_request() {
    // Answers one request on each connection, and closes it without a word.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let app = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await?);
                }
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await
            });
        }
    });
    let reviews = Plan { hosted: vec![hosted("reviews", "reviews-v1", Protocol::Http, app)], ..Plan::default() };
    let mesh = Mesh::start(vec![caller().await, reviews]);
    let io = TokioIo::new(tokio::net::TcpStream::connect(mesh.client().outbound).await.unwrap());
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::spawn(connection);
    for i in 0..300 {
        within(sender.ready()).await.unwrap();
        let response = within(sender.send_request(get("reviews", "/"))).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "request {i}");
        assert_eq!(read(response).await, "ok");
    }
}

const TIMEOUT_OF_HALF_A_SECOND: &str = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: slow}
spec:
  hosts: [slow]
  http:
  - route: [{destination: {host: slow}}]
    timeout: 0.5s
";

#[tokio::test]
async fn a_route_that_takes_too_long_is_a_504() {
    let app = serve(false, |_| std::future::pending()).await;
    let slow = Plan { hosted: vec![hosted("slow", "slow-v1", Protocol::Http, app)], ..Plan::default() };
    let mesh = Mesh::start_with(TIMEOUT_OF_HALF_A_SECOND, vec![caller().await, slow]);
    let response = send(mesh.client().outbound, get("slow", "/")).await;
    assert_eq!(response.status(), StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(read(response).await, "upstream request timeout\n");
    let source = ["reporter=\"source\"", "response_code=\"504\"", "response_flags=\"UT\""];
    eventually("it is counted", || mesh.client().metric("istio_requests_total", &source) == 1.0).await;
    // The other side sees that its caller has gone.
    let destination = ["reporter=\"destination\"", "response_code=\"0\"", "response_flags=\"DC\""];
    eventually("it is cancelled", || mesh.nodes[1].metric("istio_requests_total", &destination) == 1.0).await;
}

#[tokio::test]
async fn a_routes_timeout_covers_the_body_too() {
    let app = serve(false, |_| async {
        let (frames, receiver) = mpsc::channel(1);
        frames.send(Frame::data("begun".into())).await.unwrap();
        tokio::spawn(async move { frames.closed().await });
        Response::new(streaming(receiver))
    })
    .await;
    let slow = Plan { hosted: vec![hosted("slow", "slow-v1", Protocol::Http, app)], ..Plan::default() };
    let mesh = Mesh::start_with(TIMEOUT_OF_HALF_A_SECOND, vec![caller().await, slow]);
    let response = send(mesh.client().outbound, get("slow", "/")).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert!(within(response.into_body().collect()).await.is_err());
    let labels = ["response_code=\"200\"", "response_flags=\"UT\""];
    eventually("it is counted", || mesh.client().metric("istio_requests_total", &labels) == 1.0).await;
}

#[tokio::test]
async fn a_caller_who_hangs_up_is_counted() {
    let (app, arrived) = silent().await;
    let slow = Plan { hosted: vec![hosted("slow", "slow-v1", Protocol::Http, app)], ..Plan::default() };
    let mesh = Mesh::start(vec![caller().await, slow]);
    let mut stream = tokio::net::TcpStream::connect(mesh.client().outbound).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: slow\r\n\r\n").await.unwrap();
    within(arrived.notified()).await;
    drop(stream);
    let labels = ["response_code=\"0\"", "response_flags=\"DC\""];
    eventually("it is counted", || mesh.client().metric("istio_requests_total", &labels) == 1.0).await;
}

#[tokio::test]
async fn both_sides_report_a_request_with_istios_labels_and_a_log_line() {
    let mesh = mesh_with_echo().await;
    read(send(mesh.client().outbound, get("reviews:9080", "/reviews/0")).await).await;
    let both = [
        "source_workload=\"productpage-v1\"",
        "source_principal=\"spiffe://cluster.local/ns/default/sa/productpage\"",
        "source_cluster=\"weft\"",
        "destination_workload=\"reviews-v1\"",
        "destination_version=\"v1\"",
        "destination_service=\"reviews.default.svc.cluster.local\"",
        "destination_service_namespace=\"default\"",
        "request_protocol=\"http\"",
        "response_code=\"200\"",
        "grpc_response_status=\"\"",
        "response_flags=\"-\"",
    ];
    for (node, own) in [
        (&mesh.nodes[0], ["reporter=\"source\"", "connection_security_policy=\"unknown\""]),
        (&mesh.nodes[1], ["reporter=\"destination\"", "connection_security_policy=\"mutual_tls\""]),
    ] {
        let labels: Vec<&str> = both.iter().chain(&own).copied().collect();
        eventually("it is counted", || node.metric("istio_requests_total", &labels) == 1.0).await;
        assert_eq!(node.metric("istio_request_duration_milliseconds_count", &labels), 1.0);
        eventually("it is logged", || node.log.text().contains("\"GET /reviews/0 HTTP/")).await;
    }
    let line = mesh.client().log.text();
    assert!(line.contains("outbound|9080||reviews.default.svc.cluster.local"), "{line}");
}

#[tokio::test]
async fn a_drain_finishes_what_is_open_and_takes_nothing_new() {
    let (release, released) = tokio::sync::watch::channel(false);
    let arrived = Arc::new(Notify::new());
    let arrives = arrived.clone();
    let app = serve(false, move |_| {
        let mut released = released.clone();
        arrives.notify_one();
        async move {
            released.wait_for(|released| *released).await.unwrap();
            Response::new(text("done"))
        }
    })
    .await;
    let slow = Plan { hosted: vec![hosted("slow", "slow-v1", Protocol::Http, app)], ..Plan::default() };
    let mut mesh = Mesh::start(vec![caller().await, slow]);
    let outbound = mesh.client().outbound;
    let open = tokio::spawn(async move { read(send(outbound, get("slow", "/")).await).await });
    within(arrived.notified()).await;
    let proxies: Vec<_> = mesh.nodes.iter_mut().map(|node| node.proxy.take().unwrap()).collect();
    let drains: Vec<_> = proxies.into_iter().map(|proxy| tokio::spawn(proxy.drain(PATIENCE))).collect();
    let refused = async { while tokio::net::TcpStream::connect(outbound).await.is_ok() {} };
    within(refused).await;
    release.send(true).unwrap();
    assert_eq!(within(open).await.unwrap(), "done");
    for drain in drains {
        assert_eq!(within(drain).await.unwrap(), Drained::Complete);
    }
}

#[tokio::test]
async fn what_outlasts_a_drains_deadline_is_cut() {
    let (app, arrived) = silent().await;
    let slow = Plan { hosted: vec![hosted("slow", "slow-v1", Protocol::Http, app)], ..Plan::default() };
    let mut mesh = Mesh::start(vec![caller().await, slow]);
    let mut stream = tokio::net::TcpStream::connect(mesh.client().outbound).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: slow\r\n\r\n").await.unwrap();
    within(arrived.notified()).await;
    let proxy = mesh.nodes[0].proxy.take().unwrap();
    assert_eq!(within(proxy.drain(Duration::from_millis(100))).await, Drained::Cut);
}
