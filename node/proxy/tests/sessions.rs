//! Clients that stay with the endpoint that answered them first, on real sockets.

mod support;

use std::{collections::BTreeSet, time::Duration};

use http::{Request, Response};
use weft_wire::fact::Protocol;

use support::*;

/// Two workloads of reviews, each on a node of its own, which answer their names.
async fn mesh(documents: &str) -> Mesh {
    let mut plans = vec![caller().await];
    for workload in ["reviews-v1", "reviews-v2"] {
        let app = serve(false, move |_| async move { Response::new(text(workload)) });
        let hosted = vec![hosted("reviews", workload, Protocol::Http, app.await)];
        plans.push(Plan { hosted, ..Plan::default() });
    }
    Mesh::start_with(documents, plans)
}

fn route(session: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: reviews}}\nspec: \
         {{parentRefs: [{{group: '', kind: Service, name: reviews}}], rules: [{{sessionPersistence: {{{session}}}, \
         backendRefs: [{{name: reviews, port: 9080}}]}}]}}\n"
    )
}

fn with(name: &str, value: &str) -> Request<Body> {
    Request::builder().uri("/").header("host", "reviews").header(name, value).body(text("")).unwrap()
}

#[tokio::test]
async fn a_cookie_keeps_its_client_until_the_endpoint_is_gone() {
    let mut mesh = mesh(&route("sessionName: s")).await;
    let to = mesh.client().outbound;
    let mut homes = BTreeSet::new();
    let mut cookie = String::new();
    while homes.len() < 2 {
        let first = send(to, get("reviews", "/")).await;
        let made = first.headers()["set-cookie"].to_str().unwrap().to_owned();
        assert!(made.starts_with("s=\"") && made.ends_with("\"; Path=/; HttpOnly"), "{made}");
        cookie = made.split(';').next().unwrap().to_owned();
        let home = read(first).await;
        for _ in 0..6 {
            let again = send(to, with("cookie", &cookie)).await;
            assert!(!again.headers().contains_key("set-cookie"), "it knows");
            assert_eq!(read(again).await, home);
        }
        homes.insert(home);
    }
    // The last one's home goes: it moves, and is told so.
    let home = read(send(to, with("cookie", &cookie)).await).await;
    let node = if home == "reviews-v1" { 1 } else { 2 };
    mesh.nodes[node].hosted.clear();
    mesh.publish();
    let moved = send(to, with("cookie", &cookie)).await;
    assert!(moved.headers().contains_key("set-cookie"));
    assert_ne!(read(moved).await, home);
}

#[tokio::test]
async fn a_header_keeps_its_client_and_what_is_no_token_begins_a_session() {
    let mesh = mesh(&route("type: Header, sessionName: x-session, absoluteTimeout: 1h")).await;
    let to = mesh.client().outbound;
    let first = send(to, with("x-session", "made up")).await;
    let token = first.headers()["x-session"].to_str().unwrap().to_owned();
    let home = read(first).await;
    for _ in 0..12 {
        let again = send(to, with("x-session", &token)).await;
        assert!(!again.headers().contains_key("x-session"));
        assert_eq!(read(again).await, home);
    }
}

#[tokio::test]
async fn a_session_that_has_ended_begins_anew() {
    let service = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: reviews}\nspec: {hosts: \
                   [reviews], http: [{sessionPersistence: {type: HEADER, header: {name: x-session}, absoluteTimeout: 1ms}, \
                   route: [{destination: {host: reviews}}]}]}\n";
    let mesh = mesh(service).await;
    let to = mesh.client().outbound;
    let mut seen = BTreeSet::new();
    let mut token = "none".to_owned();
    // In one session, the second answer would bring no token, and all were of one endpoint.
    while seen.len() < 2 {
        tokio::time::sleep(Duration::from_millis(2)).await;
        let response = send(to, with("x-session", &token)).await;
        token = response.headers()["x-session"].to_str().unwrap().to_owned();
        seen.insert(read(response).await);
    }
}
