//! FaultExperiments, on real sockets.

mod support;

use std::time::Duration;

use http::{Request, StatusCode};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
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
