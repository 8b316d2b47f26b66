//! How much time a request has, and how the workload hears of it.

mod support;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use http::{Request, Response, StatusCode};
use parking_lot::Mutex;
use weft_wire::fact::Protocol;

use support::*;

/// A mesh where `reviews` echoes, with this more said of its rule.
async fn echoing(fields: &str) -> Mesh {
    mesh(fields, echo().await).await
}

async fn mesh(fields: &str, app: std::net::SocketAddr) -> Mesh {
    let reviews = Plan { hosted: vec![hosted("reviews", "reviews-v1", Protocol::Http, app)], ..Plan::default() };
    let documents = format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: reviews}}\n\
         spec: {{hosts: [reviews], http: [{{{fields} route: [{{destination: {{host: reviews}}}}]}}]}}\n"
    );
    Mesh::start_with(&documents, vec![caller().await, reviews])
}

fn grpc(timeout: &str) -> Request<Body> {
    let request = Request::post("/a.B/C").header("host", "reviews").header("content-type", "application/grpc");
    request.header("grpc-timeout", timeout).body(text("")).unwrap()
}

/// What the workload was told.
async fn told(mesh: &Mesh, request: Request<Body>) -> Vec<String> {
    let seen = read(send(mesh.client().outbound, request).await).await;
    let is_told =
        |line: &&str| line.starts_with("grpc-timeout:") || line.starts_with("x-envoy-expected-rq-timeout-ms:");
    let mut told: Vec<String> = seen.lines().filter(is_told).map(str::to_owned).collect();
    told.sort_unstable();
    told
}

#[tokio::test]
async fn a_workload_is_told_how_much_time_there_is_for_it() {
    let mesh = echoing("timeout: 20s,").await;
    assert_eq!(told(&mesh, get("reviews", "/")).await, ["x-envoy-expected-rq-timeout-ms: 20000"]);
    let both = |ms: &str| [format!("grpc-timeout: {ms}m"), format!("x-envoy-expected-rq-timeout-ms: {ms}")];
    assert_eq!(told(&mesh, grpc("5S")).await, both("5000"), "the caller's shorter one");
    assert_eq!(told(&mesh, grpc("1H")).await, both("20000"), "the rule's shorter one");
    let per_try = echoing("timeout: 20s, retries: {attempts: 1, perTryTimeout: 3s},").await;
    assert_eq!(told(&per_try, get("reviews", "/")).await, ["x-envoy-expected-rq-timeout-ms: 3000"]);
    let none = echoing("").await;
    assert!(told(&none, get("reviews", "/")).await.is_empty());
    assert_eq!(told(&none, grpc("5S")).await, both("5000"));
}

#[tokio::test]
async fn a_grpc_callers_time_ends_its_call_without_any_rule() {
    let app = serve(false, |_| std::future::pending()).await;
    let mesh = mesh("", app).await;
    let answer = send(mesh.client().outbound, grpc("200m")).await;
    assert_eq!((answer.status(), &answer.headers()["x-weft-reason"]), (StatusCode::OK, &"timeout".parse().unwrap()));
    let labels = ["reporter=\"source\"", "response_flags=\"UT\""];
    eventually("it is counted", || mesh.client().metric("istio_requests_total", &labels) == 1.0).await;
}

#[tokio::test]
async fn a_retry_is_told_what_is_left() {
    let (seen, hits) = (Arc::new(Mutex::new(Vec::new())), AtomicUsize::new(0));
    let (noted, hits) = (seen.clone(), Arc::new(hits));
    let app = serve(false, move |request| {
        let expected = request.headers()["x-envoy-expected-rq-timeout-ms"].to_str().unwrap().parse::<u64>().unwrap();
        noted.lock().push(expected);
        let first = hits.fetch_add(1, Ordering::Relaxed) == 0;
        async move {
            // Time has to pass for this test, however much.
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            Response::builder().status(if first { 503 } else { 200 }).body(text("")).unwrap()
        }
    });
    let mesh = mesh("timeout: 20s, retries: {attempts: 1, retryOn: 5xx},", app.await).await;
    assert_eq!(send(mesh.client().outbound, get("reviews", "/")).await.status(), StatusCode::OK);
    let seen = seen.lock().clone();
    let [first, second] = seen[..] else { panic!("{seen:?}") };
    assert!(first == 20_000 && second <= 19_980, "{seen:?}");
}

/// Counts itself among those that are gone.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn a_caller_who_does_not_read_keeps_nobody_longer_than_its_time() {
    let gone = Arc::new(AtomicUsize::new(0));
    let counter = gone.clone();
    // A body without end, of a server that is told when nobody wants more of it.
    let app = serve(false, move |_| {
        let counted = Counted(counter.clone());
        let endless = futures_util::stream::repeat_with(move || {
            let _ = &counted;
            Ok::<_, std::convert::Infallible>(http_body::Frame::data(bytes::Bytes::from(vec![b'x'; 16 << 10])))
        });
        async move { Response::new(http_body_util::BodyExt::boxed(http_body_util::StreamBody::new(endless))) }
    })
    .await;
    for http2 in [false, true] {
        let mesh = mesh("timeout: 500ms,", app).await;
        let before = gone.load(Ordering::Relaxed);
        let response = match http2 {
            false => send(mesh.client().outbound, get("reviews", "/")).await,
            true => send_http2(mesh.client().outbound, get("reviews", "/")).await,
        };
        assert_eq!(response.status(), StatusCode::OK);
        eventually("the server is left alone", || gone.load(Ordering::Relaxed) > before).await;
        drop(response);
        let labels = ["reporter=\"source\"", "response_flags=\"UT\""];
        eventually("it is counted", || mesh.client().metric("istio_requests_total", &labels) == 1.0).await;
    }
}
