//! Requests that are sent to a second endpoint while the first takes its time, on real sockets.

mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use weft_wire::fact::Protocol;

use support::*;

fn hedging(fields: &str) -> String {
    format!(
        "apiVersion: weft.mesh/v1alpha1\nkind: BackendTrafficPolicy\nmetadata: {{name: a}}\n\
         spec: {{targetRefs: [{{group: '', kind: Service, name: reviews}}], hedging: {{{fields}}}}}\n"
    )
}

/// Longer than any of these tests needs to see a second request, and short enough to wait for it in vain.
const LATE: Duration = Duration::from_millis(300);

/// Two workloads on a node of their own, which do the same with each request.
async fn two<F, A>(documents: String, app: F) -> Mesh
where
    F: Fn(Request<Incoming>) -> A + Clone + Send + Sync + 'static,
    A: Future<Output = Response<Body>> + Send + 'static,
{
    let mut hosting = Vec::new();
    for workload in ["reviews-v1", "reviews-v2"] {
        hosting.push(hosted("reviews", workload, Protocol::Http, serve(false, app.clone()).await));
    }
    Mesh::start_with(&documents, vec![caller().await, Plan { hosted: hosting, ..Plan::default() }])
}

fn request(method: Method, path: &str, body: impl Into<bytes::Bytes>) -> Request<Body> {
    Request::builder().method(method).uri(path).header("host", "reviews").body(text(body)).unwrap()
}

struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_add(1, Relaxed);
    }
}

#[tokio::test]
async fn a_second_endpoint_answers_for_one_that_does_not_and_the_late_request_is_cancelled() {
    let (hits, gone) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (hit, end) = (hits.clone(), gone.clone());
    let silent = serve(false, move |_| {
        hit.fetch_add(1, Relaxed);
        let _dropped = Counted(end.clone());
        async move {
            let _dropped = _dropped;
            std::future::pending::<Response<Body>>().await
        }
    });
    let soon = serve(false, |_| async { Response::new(text("soon")) });
    let hosting = vec![
        hosted("reviews", "reviews-v1", Protocol::Http, silent.await),
        hosted("reviews", "reviews-v2", Protocol::Http, soon.await),
    ];
    let plans = vec![caller().await, Plan { hosted: hosting, ..Plan::default() }];
    let mesh = Mesh::start_with(&hedging("delay: 20ms"), plans);
    for _ in 0..32 {
        assert_eq!(read(send(mesh.client().outbound, get("reviews", "/")).await).await, "soon");
    }
    let (seen, hedges) = (hits.load(Relaxed), mesh.client().metric("weft_hedges_total", &[]));
    assert!(seen > 0, "by chance, nobody went there first");
    // One that is cancelled soon may never get there.
    assert!(hedges >= seen as f64 && hedges <= 32.0, "{hedges} for {seen}");
    eventually("the late ones are cancelled", || gone.load(Relaxed) == hits.load(Relaxed)).await;
}

#[tokio::test]
async fn only_what_may_be_done_twice_is_sent_twice() {
    let hits = Arc::new(AtomicUsize::new(0));
    for (fields, method, body, expected) in [
        ("delay: 1ms", Method::POST, String::new(), 1),
        ("delay: 1ms", Method::PUT, "x".repeat(100_000), 1),
        ("delay: 1ms", Method::PUT, "short".into(), 2),
        ("delay: 1ms, includeNonIdempotent: true", Method::POST, "short".into(), 2),
    ] {
        hits.store(0, Relaxed);
        let (hit, bodies) = (hits.clone(), Arc::new(Mutex::new(Vec::new())));
        let seen = bodies.clone();
        let mesh = two(hedging(fields), move |request: Request<Incoming>| {
            let (hit, seen) = (hit.clone(), seen.clone());
            async move {
                let body = request.into_body().collect().await.unwrap().to_bytes();
                seen.lock().push(body.len());
                hit.fetch_add(1, Relaxed);
                let both = async {
                    while hit.load(Relaxed) < 2 {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                };
                // Those that are sent once are waited for in vain, and answered then.
                let limit = if expected == 2 { PATIENCE } else { LATE };
                let _ = tokio::time::timeout(limit, both).await;
                Response::new(text("served"))
            }
        });
        let mesh = mesh.await;
        let len = body.len();
        let answer = within(send(mesh.client().outbound, request(method.clone(), "/", body))).await;
        assert_eq!(answer.status(), StatusCode::OK, "{method} {fields}");
        assert_eq!((hits.load(Relaxed), bodies.lock().clone()), (expected, vec![len; expected]), "{method} {fields}");
    }
}

#[tokio::test]
async fn a_failure_while_another_try_is_under_way_is_not_the_answer() {
    let (hits, failed) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
    let retries = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: reviews}\n\
                   spec: {hosts: [reviews], http: [{retries: {attempts: 1, retryOn: 5xx}, \
                   route: [{destination: {host: reviews}}]}]}\n";
    let hit = hits.clone();
    let mesh = two(format!("{retries}---\n{}", hedging("delay: 1ms")), move |_| {
        let (hit, failed) = (hit.clone(), failed.clone());
        async move {
            if hit.fetch_add(1, Relaxed) > 0 {
                failed.acquire().await.unwrap().forget();
                tokio::time::sleep(Duration::from_millis(50)).await;
                return Response::new(text("second"));
            }
            while hit.load(Relaxed) < 2 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            failed.add_permits(1);
            Response::builder().status(503).body(text("first")).unwrap()
        }
    });
    let mesh = mesh.await;
    assert_eq!(read(within(send(mesh.client().outbound, get("reviews", "/"))).await).await, "second");
    assert_eq!(hits.load(Relaxed), 2);
}

#[tokio::test]
async fn hedges_are_within_the_retry_budget() {
    let (held, late) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let one_retry = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: reviews}\n\
                     spec: {host: reviews, trafficPolicy: {connectionPool: {http: {maxRetries: 1}}}}\n";
    let (hold, delay) = (held.clone(), late.clone());
    let mesh = two(format!("{one_retry}---\n{}", hedging("delay: 1ms")), move |request: Request<Incoming>| {
        let (hold, delay) = (hold.clone(), delay.clone());
        async move {
            if request.uri().path() == "/held" {
                hold.fetch_add(1, Relaxed);
                return std::future::pending().await;
            }
            delay.fetch_add(1, Relaxed);
            tokio::time::sleep(LATE).await;
            Response::new(text("late"))
        }
    });
    let mesh = mesh.await;
    let to = mesh.client().outbound;
    let first = tokio::spawn(send(to, get("reviews", "/held")));
    eventually("it is hedged", || held.load(Relaxed) == 2).await;
    assert_eq!(read(send(to, get("reviews", "/late")).await).await, "late");
    assert_eq!(late.load(Relaxed), 1, "the only place is taken");
    assert!(mesh.client().metric("weft_retries_overflow_total", &[]) >= 1.0);
    first.abort();
}
