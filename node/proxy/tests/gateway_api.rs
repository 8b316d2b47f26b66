//! What routes of the Gateway API do to requests, on real sockets: as its mesh conformance tests ask for it.

mod support;

use http::{Response, StatusCode};
use weft_wire::fact::Protocol;

use support::*;

/// A service that says its name, and the path and a header that it sees.
async fn named(name: &'static str) -> Plan {
    let app = serve(false, move |request| async move {
        let header =
            |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or("-").to_owned();
        let seen = format!("{name} {} {} {}", request.uri(), header("x-set"), header("x-gone"));
        Response::new(text(seen))
    })
    .await;
    Plan { hosted: vec![hosted(name, &format!("{name}-1"), Protocol::Http, app)], ..Plan::default() }
}

/// A caller, and the services echo, one and two.
async fn mesh(routes: &str) -> Mesh {
    Mesh::start_with(routes, vec![caller().await, named("echo").await, named("one").await, named("two").await])
}

fn route(kind: &str, rules: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{name: echo}}\nspec: \
         {{parentRefs: [{{group: '', kind: Service, name: echo}}], rules: [{rules}]}}\n"
    )
}

fn to(service: &str) -> String {
    format!("backendRefs: [{{name: {service}, port: 9080}}]")
}

#[tokio::test]
async fn rules_match_rewrite_and_change_headers() {
    let headers =
        "{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-set, value: '%new'}], remove: [x-gone]}}";
    let rewrite = "{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}";
    let response = "{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-down, value: set}]}}";
    let rules = format!(
        "{{matches: [{{path: {{value: /strip}}}}], filters: [{headers}, {rewrite}], {}}}, \
         {{matches: [{{headers: [{{name: version, value: two}}]}}], filters: [{response}], {}}}, \
         {{matches: [{{path: {{type: Exact, value: /away}}}}], filters: [{{type: RequestRedirect, requestRedirect: \
           {{hostname: example.org, port: 8083, statusCode: 301}}}}]}}",
        to("one"),
        to("two"),
    );
    let mesh = mesh(&route("HTTPRoute", &rules)).await;
    let outbound = mesh.client().outbound;

    let mut request = get("echo", "/strip/a?q");
    request.headers_mut().insert("x-gone", "1".parse().unwrap());
    assert_eq!(read(send(outbound, request).await).await, "one /a?q %new -");
    assert_eq!(read(send(outbound, get("echo", "/strip")).await).await, "one / %new -");

    let mut request = get("echo", "/other");
    request.headers_mut().insert("version", "two".parse().unwrap());
    let response = send(outbound, request).await;
    assert_eq!(response.headers()["x-down"], "set");
    assert_eq!(read(response).await, "two /other - -");

    let response = send(outbound, get("echo", "/away")).await;
    assert_eq!(response.status(), StatusCode::MOVED_PERMANENTLY);
    assert_eq!(response.headers()["location"], "http://example.org:8083/away");

    assert_eq!(send(outbound, get("echo", "/stripped")).await.status(), StatusCode::NOT_FOUND);
    assert_eq!(read(send(outbound, get("one", "/")).await).await, "one / - -", "other services are as they were");
}

#[tokio::test]
async fn requests_split_by_weight_and_nothing_goes_to_a_weight_of_zero() {
    let rules = "{backendRefs: [{name: one, port: 9080, weight: 70}, {name: two, port: 9080, weight: 30}, \
                 {name: echo, port: 9080, weight: 0}]}";
    for kind in ["HTTPRoute", "GRPCRoute"] {
        let mesh = mesh(&route(kind, rules)).await;
        let mut counts = [0, 0];
        for _ in 0..200 {
            match read(send(mesh.client().outbound, get("echo", "/a.S/M")).await).await.split(' ').next() {
                Some("one") => counts[0] += 1,
                Some("two") => counts[1] += 1,
                other => panic!("{other:?}"),
            }
        }
        // Farther from 140 and 60 than by a chance of one in a million it cannot be.
        assert!((100..180).contains(&counts[0]), "{kind} {counts:?}");
    }
}
