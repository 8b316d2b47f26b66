//! Labels of metrics that Telemetry documents ask of requests, on real sockets.

mod support;

use http::{Request, Response};
use http_body_util::BodyExt;
use weft_wire::fact::Protocol;

use support::*;

fn telemetry(overrides: &str) -> String {
    format!(
        "{{apiVersion: telemetry.istio.io/v1, kind: Telemetry, metadata: {{name: mesh, namespace: istio-system}}, spec: \
         {{metrics: [{{overrides: [{overrides}]}}]}}}}\n"
    )
}

/// A mesh where `reviews` answers all with 200.
async fn mesh(overrides: &str) -> Mesh {
    let app = serve(false, |_| async { Response::new(text("ok")) }).await;
    let reviews = Plan { hosted: vec![hosted("reviews", "reviews-v1", Protocol::Http, app)], ..Plan::default() };
    Mesh::start_with(&telemetry(overrides), vec![caller().await, reviews])
}

async fn call(mesh: &Mesh, path: &str, tenant: &str) {
    let mut request: Request<Body> = get("reviews", path);
    request.headers_mut().insert("x-tenant", tenant.parse().unwrap());
    read(within(send(mesh.client().outbound, request)).await).await;
}

#[tokio::test]
async fn requests_are_counted_by_what_expressions_are_worth() {
    let overrides = "{match: {metric: REQUEST_COUNT}, tagOverrides: {tenant: {value: \"request.headers['x-tenant']\"}, \
                     place: {value: \"request.url_path.startsWith('/a') ? 'a' : 'elsewhere'\"}, peer: {value: \
                     \"upstream_peer.workload\"}, response_code: {value: \"string(response.code / 100) + 'xx'\"}}}, \
                     {match: {metric: REQUEST_SIZE, mode: SERVER}, tagOverrides: {method: {value: request.method}}}";
    let mesh = mesh(overrides).await;
    for (path, tenant) in [("/a/1", "one"), ("/a/2", "one"), ("/b", "one"), ("/b", "two")] {
        call(&mesh, path, tenant).await;
    }
    for (i, peer) in [(0, "reviews-v1"), (1, "unknown")] {
        let node = &mesh.nodes[i];
        let peer = format!("peer=\"{peer}\"");
        let count = |tenant: &str, place: &str| {
            let labels =
                [&*format!("tenant=\"{tenant}\""), &*format!("place=\"{place}\""), &peer, "response_code=\"2xx\""];
            node.metric("istio_requests_total", &labels)
        };
        let all = || [count("one", "a"), count("one", "elsewhere"), count("two", "elsewhere")];
        eventually("all are counted", || all() == [2.0, 1.0, 1.0]).await;
        assert_eq!(node.metric("istio_requests_total", &[]), 4.0);
        // Other metrics do not fall apart.
        let durations = node.metrics_text();
        let durations = durations.lines().filter(|line| line.starts_with("istio_request_duration_milliseconds_count{"));
        assert_eq!(durations.map(|line| line.rsplit(' ').next().unwrap().to_owned()).collect::<Vec<_>>(), ["4"]);
    }
    assert_eq!(mesh.nodes[1].metric("istio_request_bytes_count", &["method=\"GET\""]), 4.0);
    assert_eq!(mesh.nodes[0].metric("istio_request_bytes_count", &["method="]), 0.0);
}

#[tokio::test]
async fn callers_cannot_make_series_without_end() {
    let mesh = mesh("{match: {metric: REQUEST_COUNT}, tagOverrides: {path: {value: request.url_path}}}").await;
    for n in 0..110 {
        call(&mesh, &format!("/{n}"), "one").await;
    }
    let node = &mesh.nodes[1];
    eventually("all are counted", || node.metric("istio_requests_total", &[]) == 110.0).await;
    assert_eq!(node.metric("istio_requests_total", &["path=\"/99\""]), 1.0);
    assert_eq!(node.metric("istio_requests_total", &["path=\"other\""]), 10.0);
    assert_eq!(node.metric("weft_metric_values_cut_total", &[]), 10.0);
}

#[tokio::test]
async fn messages_of_grpc_have_the_labels_of_their_call() {
    let app = serve(true, |request| async {
        request.into_body().collect().await.unwrap();
        let response = Response::builder().header("content-type", "application/grpc").header("grpc-status", "0");
        response.body(text(vec![0, 0, 0, 0, 1, b'a', 0, 0, 0, 0, 0])).unwrap()
    })
    .await;
    let ratings = Plan { hosted: vec![hosted("ratings", "ratings-v1", Protocol::Grpc, app)], ..Plan::default() };
    let overrides = "{match: {metric: GRPC_RESPONSE_MESSAGES}, tagOverrides: {method: {value: request.url_path}}}";
    let mesh = Mesh::start_with(&telemetry(overrides), vec![caller().await, ratings]);
    let request = Request::post("http://ratings:9080/Ratings/Get").header("content-type", "application/grpc");
    let body = text(vec![0, 0, 0, 0, 2, b'a', b'b']);
    read(within(send_http2(mesh.client().outbound, request.body(body).unwrap())).await).await;
    for node in &mesh.nodes {
        eventually("both are counted", || {
            node.metric("istio_response_messages_total", &["method=\"/Ratings/Get\""]) == 2.0
        })
        .await;
        assert_eq!(node.metric("istio_request_messages_total", &[]), 1.0);
        assert_eq!(node.metric("istio_request_messages_total", &["method="]), 0.0);
    }
}
