//! What DestinationRules do to the choice of endpoints, on real sockets.

mod support;

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use http::{Request, Response, StatusCode};
use tokio::{net::TcpStream, sync::Semaphore};
use weft_proxy::config::ListenerProtocol;
use weft_wire::fact::Protocol;

use support::*;

fn rule(policy: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: reviews}}\n\
         spec: {{host: reviews, trafficPolicy: {{{policy}}}}}\n"
    )
}

/// A mesh where each of `workloads` serves `reviews` on a node of its own, and answers its name with this status.
async fn answering(policy: &str, workloads: &[(&'static str, u16)]) -> Mesh {
    let mut plans = vec![caller().await];
    for (workload, code) in workloads.iter().copied() {
        let app = serve(false, move |_| async move { Response::builder().status(code).body(text(workload)).unwrap() });
        let hosted = vec![hosted("reviews", workload, Protocol::Http, app.await)];
        plans.push(Plan { hosted, ..Plan::default() });
    }
    Mesh::start_with(&rule(policy), plans)
}

fn with_header(name: &str, value: &str) -> Request<Body> {
    Request::builder().uri("/").header("host", "reviews").header(name, value).body(text("")).unwrap()
}

const BOTH: [(&str, u16); 2] = [("reviews-v1", 200), ("reviews-v2", 200)];

#[tokio::test]
async fn requests_with_one_header_value_go_to_one_endpoint() {
    let mesh = answering("loadBalancer: {consistentHash: {httpHeaderName: x-user}}", &BOTH).await;
    let mut serving = BTreeSet::new();
    for user in 0..16 {
        let user = format!("user-{user}");
        let first = read(send(mesh.client().outbound, with_header("x-user", &user)).await).await;
        for _ in 0..3 {
            assert_eq!(read(send(mesh.client().outbound, with_header("x-user", &user)).await).await, first);
        }
        serving.insert(first);
    }
    assert_eq!(serving.len(), 2, "all users at one endpoint");
}

#[tokio::test]
async fn a_cookie_is_made_and_keeps_its_client_with_an_endpoint() {
    let policy =
        "loadBalancer: {consistentHash: {httpCookie: {name: session, path: /, ttl: 60s}, maglev: {tableSize: 251}}}";
    let mesh = answering(policy, &BOTH).await;
    for _ in 0..8 {
        let first = send(mesh.client().outbound, get("reviews", "/")).await;
        let made = first.headers()["set-cookie"].to_str().unwrap().to_owned();
        assert!(made.starts_with("session=\"") && made.ends_with("; Max-Age=60; Path=/; HttpOnly"), "{made}");
        let cookie = made.split(';').next().unwrap();
        let endpoint = read(first).await;
        let again = send(mesh.client().outbound, with_header("cookie", cookie)).await;
        assert!(!again.headers().contains_key("set-cookie"));
        assert_eq!(read(again).await, endpoint);
    }
}

const DETECT: &str = "outlierDetection: {consecutive5xxErrors: 2, baseEjectionTime: 1h, maxEjectionPercent: 100}";

#[tokio::test]
async fn an_endpoint_that_fails_twice_in_a_row_gets_nothing_more() {
    let mesh = answering(DETECT, &[("reviews-v1", 500), ("reviews-v2", 200)]).await;
    let mut failed = 0;
    for _ in 0..100 {
        let response = send(mesh.client().outbound, get("reviews", "/")).await;
        failed += u32::from(response.status() == StatusCode::INTERNAL_SERVER_ERROR);
    }
    assert_eq!(failed, 2);
    assert_eq!(mesh.client().circuits.told(), ["n1/default/reviews-v1 tripped by consecutive_5xx"]);
}

#[tokio::test]
async fn an_endpoint_that_is_back_is_told_once() {
    let policy =
        "outlierDetection: {consecutive5xxErrors: 1, interval: 1ms, baseEjectionTime: 1ms, maxEjectionPercent: 100}";
    let codes = Arc::new(AtomicUsize::new(500));
    let code = codes.clone();
    let app = serve(false, move |_| {
        let code = code.load(Ordering::Relaxed) as u16;
        async move { Response::builder().status(code).body(text("")).unwrap() }
    });
    let reviews = Plan { hosted: vec![hosted("reviews", "reviews-v1", Protocol::Http, app.await)], ..Plan::default() };
    let mesh = Mesh::start_with(&rule(policy), vec![caller().await, reviews]);
    let status = || async { send(mesh.client().outbound, get("reviews", "/")).await.status() };
    assert_eq!(status().await, 500);
    codes.store(200, Ordering::Relaxed);
    let deadline = Instant::now() + PATIENCE;
    while status().await != 200 {
        assert!(Instant::now() < deadline, "it is not back");
    }
    assert_eq!(status().await, 200);
    let told = ["n1/default/reviews-v1 tripped by consecutive_5xx", "n1/default/reviews-v1 passing"];
    assert_eq!(mesh.client().circuits.told(), told);
}

#[tokio::test]
async fn with_all_endpoints_ejected_nobody_serves() {
    let mesh = answering(DETECT, &[("reviews-v1", 500)]).await;
    for expected in [500, 500, 503] {
        assert_eq!(send(mesh.client().outbound, get("reviews", "/")).await.status(), expected);
    }
    let labels = ["response_flags=\"UH\""];
    eventually("it is counted", || mesh.client().metric("istio_requests_total", &labels) == 1.0).await;
}

/// A mesh where `reviews` answers when it is let, and how many requests have come to it.
async fn waiting(policy: &str) -> (Mesh, Arc<Semaphore>, Arc<AtomicUsize>) {
    let (gate, hits) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
    let (opened, counter) = (gate.clone(), hits.clone());
    let app = serve(false, move |_| {
        let (gate, counter) = (opened.clone(), counter.clone());
        async move {
            counter.fetch_add(1, Ordering::Relaxed);
            gate.acquire().await.unwrap().forget();
            Response::new(text("served"))
        }
    });
    let reviews = Plan { hosted: vec![hosted("reviews", "reviews-v1", Protocol::Http, app.await)], ..Plan::default() };
    (Mesh::start_with(&rule(policy), vec![caller().await, reviews]), gate, hits)
}

async fn assert_overflow(response: Response<hyper::body::Incoming>) {
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(response.headers()["x-envoy-overloaded"], "true");
    let body = read(response).await;
    assert_eq!(body, "upstream connect error or disconnect/reset before headers. reset reason: overflow");
}

#[tokio::test]
async fn above_the_limit_of_requests_a_caller_is_turned_away_at_once() {
    let (mesh, gate, hits) = waiting("connectionPool: {http: {http2MaxRequests: 1}}").await;
    let to = mesh.client().outbound;
    let first = tokio::spawn(async move { send(to, get("reviews", "/")).await.status() });
    eventually("the first has arrived", || hits.load(Ordering::Relaxed) == 1).await;
    assert_overflow(send(to, get("reviews", "/")).await).await;
    gate.add_permits(2);
    assert_eq!(within(first).await.unwrap(), StatusCode::OK);
    let free = || async { send(to, get("reviews", "/")).await.status() == StatusCode::OK };
    assert!(within(free()).await, "the place is free again");
    let labels = ["response_flags=\"UO\""];
    eventually("it is counted", || mesh.client().metric("istio_requests_total", &labels) == 1.0).await;
}

#[tokio::test]
async fn above_the_limit_of_connections_some_wait_and_the_others_are_turned_away() {
    let (mesh, gate, hits) =
        waiting("connectionPool: {tcp: {maxConnections: 1}, http: {http1MaxPendingRequests: 1}}").await;
    let to = mesh.client().outbound;
    let first = tokio::spawn(async move { send(to, get("reviews", "/")).await.status() });
    eventually("the first has arrived", || hits.load(Ordering::Relaxed) == 1).await;
    let mut second = tokio::spawn(send(to, get("reviews", "/")));
    let mut third = tokio::spawn(send(to, get("reviews", "/")));
    // One of them has the only place to wait.
    let (turned_away, waits) = within(async {
        tokio::select! {
            response = &mut second => (response.unwrap(), third),
            response = &mut third => (response.unwrap(), second),
        }
    })
    .await;
    assert_overflow(turned_away).await;
    assert_eq!(hits.load(Ordering::Relaxed), 1, "nobody else got through");
    gate.add_permits(2);
    assert_eq!(within(first).await.unwrap(), StatusCode::OK);
    assert_eq!(within(waits).await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn a_tcp_connection_above_the_limit_is_closed() {
    let app = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = app.local_addr().unwrap();
    tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((mut stream, _)) = app.accept().await {
            tokio::io::AsyncWriteExt::write_all(&mut stream, b"hello").await.unwrap();
            open.push(stream);
        }
    });
    let reviews = Plan { hosted: vec![hosted("reviews", "reviews-v1", Protocol::Tcp, address)], ..Plan::default() };
    let client = Plan { listeners: vec![("reviews.default", ListenerProtocol::Tcp)], ..caller().await };
    let mesh = Mesh::start_with(&rule("connectionPool: {tcp: {maxConnections: 1}}"), vec![client, reviews]);
    let mut answer = [0; 5];
    let to = mesh.client().listeners[0];
    let mut first = TcpStream::connect(to).await.unwrap();
    within(tokio::io::AsyncReadExt::read_exact(&mut first, &mut answer)).await.unwrap();
    let mut second = TcpStream::connect(to).await.unwrap();
    let end = within(tokio::io::AsyncReadExt::read_exact(&mut second, &mut answer)).await;
    assert!(end.is_err(), "closed without a byte");
    let labels = ["response_flags=\"UO\""];
    assert_eq!(mesh.client().metric("istio_tcp_connections_opened_total", &labels), 1.0);
}

#[tokio::test]
async fn peak_ewma_avoids_who_answers_late() {
    const LATE: Duration = Duration::from_secs(1);
    let policy = "{apiVersion: weft.mesh/v1alpha1, kind: BackendTrafficPolicy, metadata: {name: a}, spec: {targetRefs: \
                  [{group: '', kind: Service, name: reviews}], loadBalancer: {peakEwma: {decay: 1h}}}}";
    let app = |wait: Duration, name: &'static str| {
        serve(false, move |_| async move {
            tokio::time::sleep(wait).await;
            Response::new(text(name))
        })
    };
    let (late, soon) = (app(LATE, "late").await, app(Duration::ZERO, "soon").await);
    let reviews = [("reviews-v1", late), ("reviews-v2", soon)];
    let hosting = reviews.into_iter().map(|(name, app)| hosted("reviews", name, Protocol::Http, app)).collect();
    let mesh = Mesh::start_with(policy, vec![caller().await, Plan { hosted: hosting, ..Plan::default() }]);
    let mut late = 0;
    for _ in 0..40 {
        late += u32::from(read(send(mesh.client().outbound, get("reviews", "/")).await).await == "late");
    }
    assert!(late <= 1, "{late}: what took 1 s once fades to what counts as 30 ms in many hours");
}
