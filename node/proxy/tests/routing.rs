//! What VirtualServices do to requests, on real sockets.

mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use weft_proxy::config::ListenerProtocol;
use weft_wire::fact::Protocol;

use support::*;

/// A VirtualService for `reviews` with one rule, which ends by routing there unless it says what else it does.
fn rule(fields: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: reviews}}\n\
         spec: {{hosts: [reviews], http: [{{{fields}}}]}}\n"
    )
}

const TO_REVIEWS: &str = "route: [{destination: {host: reviews}}]";

/// A mesh where `reviews` echoes.
async fn echoing(documents: &str) -> Mesh {
    let reviews =
        Plan { hosted: vec![hosted("reviews", "reviews-v1", Protocol::Http, echo().await)], ..Plan::default() };
    Mesh::start_with(documents, vec![caller().await, reviews])
}

/// A mesh where `reviews` answers each request with what `answer` makes of its number, counted from 0.
async fn answering(
    documents: &str,
    answer: impl Fn(usize) -> Response<Body> + Clone + Send + Sync + 'static,
) -> (Mesh, Arc<AtomicUsize>) {
    let hits = Arc::new(AtomicUsize::new(0));
    let counter = hits.clone();
    let app = serve(false, move |request| {
        let (counter, answer) = (counter.clone(), answer.clone());
        async move {
            let _ = request.into_body().collect().await;
            answer(counter.fetch_add(1, Ordering::Relaxed))
        }
    })
    .await;
    let reviews = Plan { hosted: vec![hosted("reviews", "reviews-v1", Protocol::Http, app)], ..Plan::default() };
    (Mesh::start_with(documents, vec![caller().await, reviews]), hits)
}

fn status(code: u16) -> Response<Body> {
    Response::builder().status(code).body(text(code.to_string())).unwrap()
}

/// `GET reviews/` with headers.
fn with_headers(method: Method, headers: &[(&str, &str)]) -> Request<Body> {
    let mut request = Request::builder().method(method).uri("/").header("host", "reviews");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(text("")).unwrap()
}

#[tokio::test]
async fn a_redirect_sends_the_caller_elsewhere() {
    let mesh = echoing(&rule("redirect: {uri: /new, authority: other.org, redirectCode: 302}")).await;
    let response = send(mesh.client().outbound, get("reviews", "/old?a=b")).await;
    assert_eq!(response.status(), StatusCode::FOUND);
    assert_eq!(response.headers()["location"], "http://other.org/new?a=b");
    let labels = ["response_code=\"302\"", "response_flags=\"-\"", "destination_service_name=\"reviews\""];
    eventually("it is counted", || mesh.client().metric("istio_requests_total", &labels) == 1.0).await;
}

#[tokio::test]
async fn a_direct_response_is_the_documents_own() {
    let fields = "directResponse: {status: 418, body: {string: short and stout}}, headers: {response: {set: {x: y}}}";
    let mesh = echoing(&rule(fields)).await;
    let response = send(mesh.client().outbound, get("reviews", "/")).await;
    assert_eq!(response.status(), StatusCode::IM_A_TEAPOT);
    assert_eq!(response.headers()["x"], "y");
    assert_eq!(response.headers()["content-type"], "text/plain");
    assert_eq!(read(response).await, "short and stout");
}

#[tokio::test]
async fn headers_are_changed_on_their_way_up_and_down() {
    let fields = "headers: {request: {set: {x-set: 'from %DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%', Host: other}, \
                  add: {x-add: 'two', x-copy: '%REQ(x-add)%'}, remove: [x-gone]}, \
                  response: {set: {x-down: here}, remove: [date]}}";
    let mesh = echoing(&rule(&format!("{fields}, {TO_REVIEWS}"))).await;
    let request = with_headers(Method::GET, &[("x-set", "old"), ("x-add", "one"), ("x-gone", "1")]);
    let response = send(mesh.client().outbound, request).await;
    assert_eq!(response.headers()["x-down"], "here");
    let seen = read(response).await;
    for line in ["x-set: from 127.0.0.1\n", "x-add: one\nx-add: two\n", "x-copy: one\n", "host: other\n"] {
        assert!(seen.contains(line), "{line} in {seen}");
    }
    assert!(!seen.contains("x-gone") && !seen.contains("x-set: old"), "{seen}");
}

#[tokio::test]
async fn response_headers_may_tell_what_was_sent_and_what_came_of_it() {
    let set = "x-sent: '%REQ(:method)% %REQ(:path)% %REQ(x-set)% %REQ(X-ENVOY-ORIGINAL-PATH)%', \
               x-answer: '%RESPONSE_CODE% %RESPONSE_CODE_DETAILS% %UPSTREAM_REQUEST_ATTEMPT_COUNT% %RESPONSE_FLAGS%', \
               x-way: '%HOSTNAME% %ROUTE_NAME% %UPSTREAM_CLUSTER%', x-type: '%RESP(x-number)%'";
    let fields = format!("headers: {{request: {{set: {{x-set: '1'}}}}, response: {{set: {{{set}}}}}}}");
    let forward =
        format!("name: one, {fields}, rewrite: {{uri: /new}}, retries: {{attempts: 2, retryOn: 5xx}}, {TO_REVIEWS}");
    let (mesh, _) = answering(&rule(&forward), |number| {
        let mut response = status(if number == 0 { 500 } else { 200 });
        response.headers_mut().insert("x-number", number.into());
        response
    })
    .await;
    let response = send(mesh.client().outbound, get("reviews", "/old?a=b")).await;
    let told = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
    assert_eq!(told("x-sent"), "GET /newold?a=b 1 /old?a=b");
    assert_eq!(told("x-answer"), "200 via_upstream 2 -");
    let node = &mesh.client().name;
    assert_eq!(told("x-way"), format!("{node} one outbound|9080||reviews.default.svc.cluster.local"));
    assert_eq!(told("x-type"), "1");

    let nobody = format!("{fields}, route: [{{destination: {{host: nobody}}}}]");
    let mesh = echoing(&rule(&nobody)).await;
    let response = send(mesh.client().outbound, get("reviews", "/")).await;
    assert_eq!(response.headers()["x-answer"], "503 unknown_cluster 0 NC");
    assert!(!response.headers().contains_key("x-type"), "{response:?}");
}

#[tokio::test]
async fn a_fault_aborts_with_envoys_words() {
    let fault = |abort: &str| rule(&format!("fault: {{abort: {{{abort}, percentage: {{value: 100}}}}}}, {TO_REVIEWS}"));
    let mesh = echoing(&fault("httpStatus: 555")).await;
    let response = send(mesh.client().outbound, get("reviews", "/")).await;
    assert_eq!(response.status().as_u16(), 555);
    assert_eq!(read(response).await, "fault filter abort");
    let labels = ["response_code=\"555\"", "response_flags=\"FI\""];
    eventually("it is counted", || mesh.client().metric("istio_requests_total", &labels) == 1.0).await;

    let mesh = echoing(&fault("grpcStatus: UNAVAILABLE")).await;
    let mut request = get("reviews", "/");
    request.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
    let response = send(mesh.client().outbound, request).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["grpc-status"], "14");
    assert_eq!(response.headers()["grpc-message"], "fault filter abort");
    let response = send(mesh.client().outbound, get("reviews", "/")).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert!(!response.headers().contains_key("grpc-status"));
    assert_eq!(read(response).await, "fault filter abort");
}

#[tokio::test]
async fn response_headers_of_a_rule_are_set_in_refusals_too() {
    let headers = "headers: {response: {set: {x-down: here}}}";
    let abort = "fault: {abort: {httpStatus: 500, percentage: {value: 100}}}";
    for fields in [
        format!("{headers}, {abort}, {TO_REVIEWS}"),
        format!("{headers}, timeout: 0.2s, route: [{{destination: {{host: slow}}}}]"),
        format!("{headers}, route: [{{destination: {{host: nobody}}}}]"),
    ] {
        let slow = serve(false, |_| std::future::pending()).await;
        let slow = Plan { hosted: vec![hosted("slow", "slow-v1", Protocol::Http, slow)], ..Plan::default() };
        let reviews =
            Plan { hosted: vec![hosted("reviews", "reviews-v1", Protocol::Http, echo().await)], ..Plan::default() };
        let mesh = Mesh::start_with(&rule(&fields), vec![caller().await, reviews, slow]);
        let response = send(mesh.client().outbound, get("reviews", "/")).await;
        assert!(response.status().is_server_error(), "{fields}");
        assert_eq!(response.headers()["x-down"], "here", "{fields}");
    }
}

#[tokio::test]
async fn a_delay_comes_before_the_abort_and_is_not_of_the_timeout() {
    let delay = "delay: {fixedDelay: 0.3s, percentage: {value: 100}}";
    let mesh = echoing(&rule(&format!(
        "fault: {{{delay}, abort: {{httpStatus: 500, percentage: {{value: 100}}}}}}, {TO_REVIEWS}"
    )))
    .await;
    let begun = std::time::Instant::now();
    assert_eq!(send(mesh.client().outbound, get("reviews", "/")).await.status().as_u16(), 500);
    assert!(begun.elapsed() >= Duration::from_millis(300));

    let mesh = echoing(&rule(&format!("fault: {{{delay}}}, timeout: 0.25s, {TO_REVIEWS}"))).await;
    assert_eq!(send(mesh.client().outbound, get("reviews", "/")).await.status(), StatusCode::OK);
    let labels = ["reporter=\"source\"", "response_code=\"200\"", "response_flags=\"DI\""];
    eventually("it is counted", || mesh.client().metric("istio_requests_total", &labels) == 1.0).await;
}

#[tokio::test]
async fn a_preflight_is_answered_and_a_cross_origin_request_marked() {
    let cors = "corsPolicy: {allowOrigins: [{exact: 'https://a.example'}], allowMethods: [POST, GET], maxAge: 24h}";
    let mesh = echoing(&rule(&format!("{cors}, {TO_REVIEWS}"))).await;
    let asks = [("origin", "https://a.example"), ("access-control-request-method", "DELETE")];
    let response = send(mesh.client().outbound, with_headers(Method::OPTIONS, &asks)).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["access-control-allow-methods"], "POST,GET");
    assert_eq!(response.headers()["access-control-max-age"], "86400");
    assert_eq!(read(response).await, "");

    let response = send(mesh.client().outbound, with_headers(Method::GET, &asks[..1])).await;
    assert_eq!(response.headers()["access-control-allow-origin"], "https://a.example");
    assert!(read(response).await.starts_with("GET /\n"));
    let other = [("origin", "https://b.example"), asks[1]];
    let response = send(mesh.client().outbound, with_headers(Method::OPTIONS, &other)).await;
    assert!(!response.headers().contains_key("access-control-allow-origin"));
    assert!(read(response).await.starts_with("OPTIONS /\n"), "forwarded");
}

#[tokio::test]
async fn a_status_that_is_worth_it_is_tried_again_until_the_attempts_are_spent() {
    let retries = rule(&format!("retries: {{attempts: 2, retryOn: 5xx, backoff: 1ms}}, {TO_REVIEWS}"));
    let (mesh, hits) = answering(&retries, |hit| status(if hit < 2 { 503 } else { 200 })).await;
    assert_eq!(send(mesh.client().outbound, get("reviews", "/")).await.status(), StatusCode::OK);
    assert_eq!(hits.load(Ordering::Relaxed), 3);

    let (mesh, hits) = answering(&retries, |_| status(503)).await;
    let response = send(mesh.client().outbound, get("reviews", "/")).await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(read(response).await, "503", "the last answer is passed on");
    assert_eq!(hits.load(Ordering::Relaxed), 3);
    let labels = ["reporter=\"source\"", "response_code=\"503\"", "response_flags=\"URX\""];
    eventually("it is counted", || mesh.client().metric("istio_requests_total", &labels) == 1.0).await;
}

#[tokio::test]
async fn no_attempts_mean_one_hit() {
    let (mesh, hits) = answering(&rule(&format!("retries: {{attempts: 0}}, {TO_REVIEWS}")), |_| status(503)).await;
    assert_eq!(send(mesh.client().outbound, get("reviews", "/")).await.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(hits.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_body_is_sent_again_with_its_request_unless_it_is_long() {
    let bodies = Arc::new(Mutex::new(Vec::new()));
    let seen = bodies.clone();
    let app = serve(false, move |request| {
        let seen = seen.clone();
        async move {
            let body = request.into_body().collect().await.unwrap().to_bytes();
            let mut seen = seen.lock();
            seen.push(body.len());
            status(if seen.len() % 2 == 1 { 500 } else { 200 })
        }
    })
    .await;
    let reviews = Plan { hosted: vec![hosted("reviews", "reviews-v1", Protocol::Http, app)], ..Plan::default() };
    let retries = rule(&format!("retries: {{attempts: 1, retryOn: 5xx, backoff: 1ms}}, {TO_REVIEWS}"));
    let mesh = Mesh::start_with(&retries, vec![caller().await, reviews]);
    let post = |len: usize| Request::post("/").header("host", "reviews").body(text(vec![b'x'; len])).unwrap();
    assert_eq!(send(mesh.client().outbound, post(10_000)).await.status(), StatusCode::OK);
    assert_eq!(*bodies.lock(), [10_000, 10_000]);
    bodies.lock().clear();
    assert_eq!(send(mesh.client().outbound, post(1_000_000)).await.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(*bodies.lock(), [1_000_000]);
}

#[tokio::test]
async fn each_try_has_its_own_limit() {
    let hits = Arc::new(AtomicUsize::new(0));
    let counter = hits.clone();
    let app = serve(false, move |_| {
        let first = counter.fetch_add(1, Ordering::Relaxed) == 0;
        async move {
            if first {
                std::future::pending::<()>().await;
            }
            status(200)
        }
    })
    .await;
    let reviews = Plan { hosted: vec![hosted("reviews", "reviews-v1", Protocol::Http, app)], ..Plan::default() };
    let retries = rule(&format!("retries: {{attempts: 1, retryOn: 5xx, perTryTimeout: 0.3s}}, {TO_REVIEWS}"));
    let mesh = Mesh::start_with(&retries, vec![caller().await, reviews]);
    assert_eq!(send(mesh.client().outbound, get("reviews", "/")).await.status(), StatusCode::OK);
    assert_eq!(hits.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn a_mirror_gets_a_copy_and_its_answer_is_for_nobody() {
    let (copies, mut copied) = tokio::sync::mpsc::channel(8);
    let shadow = serve(false, move |request| {
        let copies = copies.clone();
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            copies.try_send((head.method, head.uri.to_string(), head.headers["host"].clone(), body)).unwrap();
            status(500)
        }
    })
    .await;
    let plan = |service: &'static str, app| Plan {
        hosted: vec![hosted(service, &format!("{service}-v1"), Protocol::Http, app)],
        ..Plan::default()
    };
    let documents = rule(&format!("mirrors: [{{destination: {{host: shadow}}}}], {TO_REVIEWS}"));
    let plans = vec![caller().await, plan("reviews", echo().await), plan("shadow", shadow)];
    let mut mesh = Mesh::start_with(&documents, plans);
    for (body, wanted_host) in [("", "reviews"), ("hello", "reviews"), ("hello", "reviews-shadow")] {
        if wanted_host == "reviews-shadow" {
            mesh.documents.push_str(
                "---\napiVersion: weft.mesh/v1alpha1\nkind: MeshConfig\n\
                 metadata: {name: default, namespace: istio-system}\nspec: {disableShadowHostSuffix: false}\n",
            );
            mesh.publish();
        }
        let request = Request::post("/x?y").header("host", "reviews").body(text(body)).unwrap();
        let response = send(mesh.client().outbound, request).await;
        assert_eq!(response.status(), StatusCode::OK);
        assert!(read(response).await.ends_with(body));
        let (method, uri, host, copy) = within(copied.recv()).await.unwrap();
        assert_eq!((method, uri.as_str(), host.to_str().unwrap()), (Method::POST, "/x?y", wanted_host));
        assert_eq!(copy, body);
    }
}

#[tokio::test]
async fn a_mirror_that_is_down_costs_the_caller_nothing() {
    let documents = rule(&format!("mirror: {{host: shadow}}, {TO_REVIEWS}"));
    let shadow =
        Plan { hosted: vec![hosted("shadow", "shadow-v1", Protocol::Http, nowhere().await)], ..Plan::default() };
    let reviews =
        Plan { hosted: vec![hosted("reviews", "reviews-v1", Protocol::Http, echo().await)], ..Plan::default() };
    let mesh = Mesh::start_with(&documents, vec![caller().await, reviews, shadow]);
    let body = "x".repeat(2_000_000);
    let request = Request::post("/").header("host", "reviews").body(text(body.clone())).unwrap();
    assert!(read(send(mesh.client().outbound, request).await).await.ends_with(&body));
}

#[tokio::test]
async fn a_mirror_that_never_answers_gets_no_more_than_its_bound_and_slows_nobody() {
    const BOUND: usize = 256;
    let (asked, counter) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let arrives = asked.clone();
    let shadow = serve(true, move |_| {
        arrives.fetch_add(1, Ordering::Relaxed);
        std::future::pending()
    });
    let hits = counter.clone();
    let app = serve(true, move |_| {
        let hits = hits.clone();
        async move {
            hits.fetch_add(1, Ordering::Relaxed);
            status(200)
        }
    });
    let plan = |service: &'static str, app| Plan {
        hosted: vec![hosted(service, &format!("{service}-v1"), Protocol::Http2, app)],
        ..Plan::default()
    };
    let documents = rule(&format!("mirror: {{host: shadow}}, {TO_REVIEWS}"));
    let plans = vec![caller().await, plan("reviews", app.await), plan("shadow", shadow.await)];
    let mesh = Mesh::start_with(&documents, plans);
    for _ in 0..BOUND + 10 {
        assert_eq!(send(mesh.client().outbound, get("reviews", "/")).await.status(), StatusCode::OK);
    }
    assert_eq!(counter.load(Ordering::Relaxed), BOUND + 10);
    assert_eq!(mesh.client().metric("weft_mirrors_overflow_total", &[]), 10.0);
    assert!(asked.load(Ordering::Relaxed) <= BOUND);
}

#[tokio::test]
async fn a_host_that_only_a_virtual_service_knows_leads_where_it_says() {
    let documents = rule(TO_REVIEWS).replace("hosts: [reviews]", "hosts: [www.example.com, '*.example.org']");
    let mesh = echoing(&documents).await;
    for host in ["www.example.com", "a.example.org"] {
        let response = send(mesh.client().outbound, get(host, "/")).await;
        assert_eq!(response.status(), StatusCode::OK);
        assert!(read(response).await.contains(&format!("host: {host}\n")));
    }
    let labels = ["reporter=\"source\"", "destination_service_name=\"reviews\""];
    eventually("it is counted", || mesh.client().metric("istio_requests_total", &labels) == 2.0).await;
    let response = send(mesh.client().outbound, get("example.org", "/")).await;
    assert_eq!(response.headers()["x-weft-reason"], "unknown_host");
}

#[tokio::test]
async fn rules_may_ask_who_calls() {
    let fields = |label: &str| format!("match: [{{sourceLabels: {{app: {label}}}}}], directResponse: {{status: 299}}");
    let documents = rule(&format!("{}}}, {{{TO_REVIEWS}", fields("productpage")));
    let mesh = echoing(&documents).await;
    assert_eq!(send(mesh.client().outbound, get("reviews", "/")).await.status().as_u16(), 299);
    let mesh = echoing(&rule(&format!("{}}}, {{{TO_REVIEWS}", fields("other")))).await;
    assert_eq!(send(mesh.client().outbound, get("reviews", "/")).await.status().as_u16(), 200);
}

#[tokio::test]
async fn a_tcp_rule_leads_connections_to_another_service() {
    let documents = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: db}\n\
                     spec: {hosts: [db], tcp: [{route: [{destination: {host: reviews}}]}]}\n";
    let db = Plan { hosted: vec![hosted("db", "db-v1", Protocol::Tcp, nowhere().await)], ..Plan::default() };
    let reviews =
        Plan { hosted: vec![hosted("reviews", "reviews-v1", Protocol::Http, echo().await)], ..Plan::default() };
    let client = Plan { listeners: vec![("db", ListenerProtocol::Tcp)], ..caller().await };
    let mesh = Mesh::start_with(documents, vec![client, db, reviews]);
    let seen = read(send(mesh.client().listeners[0], get("any", "/through/tcp")).await).await;
    assert!(seen.starts_with("GET /through/tcp\n"), "{seen}");
}

#[tokio::test]
async fn a_route_without_a_valid_backend_is_an_error_of_the_servers() {
    let route = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: reviews}\n\
                 spec: {parentRefs: [{group: '', kind: Service, name: reviews}], rules: [{}]}\n";
    let mesh = echoing(route).await;
    let response = send(mesh.client().outbound, get("reviews", "/")).await;
    assert_eq!(
        (response.status().as_u16(), &response.headers()["x-weft-reason"]),
        (500, &"invalid_backend".parse().unwrap())
    );
    let response =
        send(mesh.client().outbound, with_headers(Method::POST, &[("content-type", "application/grpc")])).await;
    assert_eq!((response.status().as_u16(), &response.headers()["grpc-status"]), (200, &"14".parse().unwrap()));
}

#[tokio::test]
async fn a_request_for_a_workload_that_has_gone_is_sent_to_another_whatever_the_policy() {
    let documents = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: reviews}\nspec: {hosts: \
                     [reviews], http: [{retries: {attempts: 0}, route: [{destination: {host: reviews}}]}]}\n";
    let twin = async |name: &str| Plan {
        hosted: vec![hosted("reviews", name, Protocol::Http, echo().await)],
        ..Plan::default()
    };
    let plans = vec![caller().await, twin("reviews-v1").await, twin("reviews-v2").await];
    let mut mesh = Mesh::start_with(documents, plans);
    // The caller has links with both nodes, and does not hear that one hosts nothing any more.
    for _ in 0..30 {
        assert_eq!(send(mesh.client().outbound, get("reviews", "/")).await.status(), StatusCode::OK);
    }
    mesh.nodes[1].hosted.clear();
    mesh.publish_to(1);
    for method in [Method::GET, Method::POST, Method::GET, Method::POST, Method::GET, Method::GET] {
        let request = Request::builder().method(method).uri("/").header("host", "reviews");
        let response = send(mesh.client().outbound, request.body(text("")).unwrap()).await;
        assert_eq!(response.status(), StatusCode::OK);
    }
    mesh.nodes[2].hosted.clear();
    mesh.publish_to(2);
    let response = send(mesh.client().outbound, get("reviews", "/")).await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE, "nobody has it");
    assert_eq!(response.headers()["x-weft-reason"], "not_hosted");
}

#[tokio::test]
async fn services_of_a_view_that_is_gone_are_let_go_of() {
    let mut mesh = mesh_with(echo().await).await;
    is_served(&mesh).await;
    let old: Vec<_> = mesh.client().view.load().services().map(Arc::downgrade).collect();
    assert!(!old.is_empty());
    mesh.documents = "{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: all}, \
                      spec: {host: '*.cluster.local', trafficPolicy: {loadBalancer: {simple: RANDOM}}}}\n"
        .into();
    mesh.publish();
    eventually("no old service is kept", || old.iter().all(|service| service.strong_count() == 0)).await;
}
