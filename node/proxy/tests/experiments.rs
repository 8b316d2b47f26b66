//! FaultExperiments, on real sockets.

mod support;

use std::time::Duration;

use http::{Request, StatusCode};
use http_body_util::BodyExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use weft_proxy::config::ListenerProtocol;
use weft_wire::fact::Protocol;

use support::*;

/// An experiment with `reviews` that runs, with all requests.
fn experiment(fields: &str) -> String {
    format!(
        "apiVersion: weft.mesh/v1alpha1\nkind: FaultExperiment\nmetadata: {{name: e}}\n\
         spec: {{targetRefs: [{{group: '', kind: Service, name: reviews}}], percentage: {{value: 100}}, \
         end: '2100-01-01T00:00:00Z', {fields}}}\n"
    )
}

async fn mesh(documents: &str) -> Mesh {
    let app = serve(false, |request: Request<hyper::body::Incoming>| async move {
        let failed = request.uri().path() == "/fails";
        http::Response::builder().status(if failed { 500 } else { 200 }).body(text("")).unwrap()
    })
    .await;
    let reviews = Plan { hosted: vec![hosted("reviews", "reviews-v1", Protocol::Http, app)], ..Plan::default() };
    Mesh::start_with(documents, vec![caller().await, reviews])
}

#[tokio::test]
async fn an_experiment_delays_and_aborts_what_it_is_about() {
    let fault = "fault: {delay: {fixedDelay: 50ms}, abort: {httpStatus: 555}}, match: [{path: {prefix: /a}}]";
    let mesh = mesh(&experiment(fault)).await;
    let start = std::time::Instant::now();
    let answer = send(mesh.client().outbound, get("reviews", "/a")).await;
    assert_eq!(answer.status().as_u16(), 555);
    assert!(start.elapsed() >= Duration::from_millis(50));
    assert_eq!(read(answer).await, "fault filter abort");
    assert_eq!(send(mesh.client().outbound, get("reviews", "/b")).await.status(), StatusCode::OK);
    let labels = ["response_code=\"555\"", "response_flags=\"FI\""];
    eventually("it is counted", || mesh.client().metric("istio_requests_total", &labels) == 1.0).await;
}

#[tokio::test]
async fn a_grpc_caller_gets_a_grpc_status() {
    let mesh = mesh(&experiment("fault: {abort: {grpcStatus: UNAVAILABLE}}")).await;
    let request = Request::post("/a.B/C").header("host", "reviews").header("content-type", "application/grpc");
    let answer = send(mesh.client().outbound, request.body(text("")).unwrap()).await;
    assert_eq!((answer.status(), &answer.headers()["grpc-status"]), (StatusCode::OK, &"14".parse().unwrap()));
}

#[tokio::test]
async fn a_reset_cuts_the_connection_without_a_byte() {
    let mesh = mesh(&experiment("fault: {reset: {}}")).await;
    let mut stream = TcpStream::connect(mesh.client().outbound).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: reviews\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    // An end or a reset: either is no answer.
    let _ = within(stream.read_to_end(&mut answer)).await;
    assert_eq!(String::from_utf8_lossy(&answer), "");
    eventually("it is counted", || mesh.client().metric("istio_requests_total", &["response_flags=\"FI\""]) == 1.0)
        .await;
}

#[tokio::test]
async fn an_experiment_that_does_harm_stops() {
    let stop = "stopWhen: {errorPercentage: {value: 50}, minRequests: 2, window: 600s}";
    let fault = "fault: {abort: {httpStatus: 555}}, match: [{path: {prefix: /a}}]";
    let mesh = mesh(&experiment(&format!("{fault}, {stop}"))).await;
    let status = async |path| send(mesh.client().outbound, get("reviews", path)).await.status().as_u16();
    assert_eq!(status("/a").await, 555);
    assert_eq!(status("/fails").await, 500);
    assert_eq!(status("/a").await, 555, "one request says nothing");
    assert_eq!(status("/fails").await, 500);
    let labels = ["reporter=\"source\"", "response_code=\"500\""];
    eventually("both are observed", || mesh.client().metric("istio_requests_total", &labels) == 2.0).await;
    assert_eq!(status("/a").await, 200);
}

/// A mesh where `reviews` answers with this many bytes.
async fn talking(documents: &str, bytes: usize) -> Mesh {
    let app = serve(false, move |_| async move { http::Response::new(text("x".repeat(bytes))) }).await;
    let reviews = Plan { hosted: vec![hosted("reviews", "reviews-v1", Protocol::Http, app)], ..Plan::default() };
    Mesh::start_with(documents, vec![caller().await, reviews])
}

#[tokio::test]
async fn a_body_is_cut_after_so_many_bytes_and_a_shorter_one_is_not() {
    let mesh = talking(&experiment("fault: {truncate: {afterBytes: 1000}}"), 100_000).await;
    let mut stream = TcpStream::connect(mesh.client().outbound).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: reviews\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = within(stream.read_to_end(&mut answer)).await;
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 ") && head.contains("content-length: 100000"), "{head}");
    assert_eq!(body.len(), 1_000);
    let labels = ["response_flags=\"FI\"", "response_code=\"200\""];
    eventually("it is counted", || mesh.client().metric("istio_requests_total", &labels) == 1.0).await;
    let http2 = Request::get("http://reviews/").body(text("")).unwrap();
    let broken = within(send_http2(mesh.client().outbound, http2).await.into_body().collect()).await;
    assert!(broken.is_err(), "the stream is reset");
    let short = talking(&experiment("fault: {truncate: {afterBytes: 1000}}"), 1_000).await;
    assert_eq!(read(send(short.client().outbound, get("reviews", "/")).await).await.len(), 1_000);
}

#[tokio::test]
async fn a_slow_body_comes_whole_and_no_faster_than_its_rate() {
    let mesh = talking(&experiment("fault: {slow: {bytesPerSecond: 10000}}"), 5_000).await;
    let start = std::time::Instant::now();
    assert_eq!(read(send(mesh.client().outbound, get("reviews", "/")).await).await.len(), 5_000);
    // Five pieces, and four pauses of 100 ms.
    assert!(start.elapsed() >= Duration::from_millis(400), "{:?}", start.elapsed());
    let labels = ["response_flags=\"DI\""];
    eventually("it is counted", || mesh.client().metric("istio_requests_total", &labels) == 1.0).await;
}

#[tokio::test]
async fn a_black_hole_answers_nothing_until_the_caller_gives_up() {
    let mesh = mesh(&experiment("fault: {blackHole: {}}, match: [{path: {prefix: /a}}]")).await;
    let mut stream = TcpStream::connect(mesh.client().outbound).await.unwrap();
    stream.write_all(b"GET /a HTTP/1.1\r\nhost: reviews\r\n\r\n").await.unwrap();
    // Others are answered meanwhile.
    for _ in 0..20 {
        assert_eq!(send(mesh.client().outbound, get("reviews", "/b")).await.status(), StatusCode::OK);
    }
    let mut answer = [0; 1];
    let nothing = tokio::time::timeout(Duration::from_millis(100), stream.read(&mut answer)).await;
    assert!(nothing.is_err(), "{nothing:?}");
    drop(stream);
    let labels = ["reporter=\"source\"", "response_code=\"0\""];
    eventually("its end is counted", || mesh.client().metric("istio_requests_total", &labels) == 1.0).await;
}

/// A mesh whose first node has a TCP listener for `db`, which greets.
async fn greeting(documents: &str) -> Mesh {
    let app = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = app.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = app.accept().await {
            stream.write_all(b"hello").await.unwrap();
        }
    });
    let db = Plan { hosted: vec![hosted("db", "db-v1", Protocol::Tcp, address)], ..Plan::default() };
    let client = Plan { listeners: vec![("db.default", ListenerProtocol::Tcp)], ..caller().await };
    Mesh::start_with(&documents.replace("name: reviews", "name: db"), vec![client, db])
}

#[tokio::test]
async fn a_connection_of_bytes_is_delayed_reset_or_swallowed() {
    let said = async |mesh: &Mesh| {
        let mut stream = TcpStream::connect(mesh.client().listeners[0]).await.unwrap();
        let mut answer = Vec::new();
        let _ = within(stream.read_to_end(&mut answer)).await;
        String::from_utf8(answer).unwrap()
    };
    let start = std::time::Instant::now();
    assert_eq!(said(&greeting(&experiment("fault: {delay: {fixedDelay: 50ms}}")).await).await, "hello");
    assert!(start.elapsed() >= Duration::from_millis(50));
    assert_eq!(said(&greeting(&experiment("fault: {reset: {}}")).await).await, "");
    assert_eq!(said(&greeting(&experiment("fault: {abort: {httpStatus: 500}}")).await).await, "hello");

    let hole = greeting(&experiment("fault: {blackHole: {}}")).await;
    let mut stream = TcpStream::connect(hole.client().listeners[0]).await.unwrap();
    stream.write_all(b"anybody there?").await.unwrap();
    let nothing = tokio::time::timeout(Duration::from_millis(100), stream.read(&mut [0; 1])).await;
    assert!(nothing.is_err(), "{nothing:?}");
    stream.shutdown().await.unwrap();
    let mut rest = Vec::new();
    let _ = within(stream.read_to_end(&mut rest)).await;
    assert!(rest.is_empty());
    let labels = ["response_flags=\"FI\""];
    eventually("it is counted", || hole.client().metric("istio_tcp_connections_opened_total", &labels) == 1.0).await;
}
