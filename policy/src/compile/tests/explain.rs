//! What is told of a request's way.

use super::*;
use crate::explain::{Outcome, RouteExplanation, RouteQuestion, explain_route};

pub(super) fn explain(view: &MeshView, to: &str, request: &Request) -> RouteExplanation {
    let question = RouteQuestion {
        from: "ratings",
        to,
        namespace: &Namespace::default_namespace(),
        method: &request.method,
        path_and_query: request.path,
        scheme: "http",
        headers: &request.headers,
        now_ms: 0,
    };
    explain_route(view, &question).unwrap()
}

/// The steps about one thing, as `DOCUMENT FIELD: TEXT`.
pub(super) fn steps(explanation: &RouteExplanation, about: &str) -> Vec<String> {
    let steps = explanation.steps.iter().filter(|step| step.about == about);
    steps.map(|step| format!("{} {}: {}", step.document, step.field, step.says)).collect()
}

#[test]
fn each_rule_says_why_it_was_passed_over_until_one_matches() {
    let http = "[{name: jason, match: [{headers: {end-user: {exact: jason}}}, {uri: {prefix: /x}, port: 80}], \
                  route: [{destination: {host: reviews, subset: v2}}]}, \
                 {match: [{sourceLabels: {app: web}}], route: [{destination: {host: reviews}}]}, \
                 {name: split, timeout: 2s, retries: {attempts: 1, retryOn: '5xx'}, \
                  fault: {delay: {fixedDelay: 7s, percentage: {value: 10}}}, rewrite: {uri: /new}, mirror: {host: ratings}, \
                  route: [{destination: {host: reviews, subset: v1}, weight: 75}, \
                          {destination: {host: reviews, subset: v9}, weight: 25}]}]";
    let view = bookinfo().apply(SUBSETS).apply(&rule("r", "[reviews]", http)).view();
    let told = explain(&view, "reviews:9080", &get("/x?y"));
    assert_eq!(
        steps(&told, "rule"),
        [
            "VirtualService default/r spec.http[0].match[0]: passed over: header end-user is missing; wanted: exactly jason",
            "VirtualService default/r spec.http[0].match[1]: passed over: port is 9080, not 80",
            "VirtualService default/r spec.http[1].match[0]: passed over: the caller's label app is ratings, not web",
            "VirtualService default/r spec.http[2]: matches (route split)",
        ]
    );
    assert_eq!(steps(&told, "fault"), ["VirtualService default/r spec.http[2].fault: 10% wait 7s"]);
    assert_eq!(steps(&told, "timeout"), ["VirtualService default/r spec.http[2].timeout: 2s for the whole exchange"]);
    assert_eq!(steps(&told, "retries"), ["VirtualService default/r spec.http[2].retries: 1 more on 5xx"]);
    assert_eq!(steps(&told, "rewrite"), [" : path /newx?y"]);
    assert_eq!(steps(&told, "mirror"), [" : 100% to ratings.default"]);
    assert_eq!(steps(&told, "destination").len(), 1);
    assert_eq!(told.outcome, Outcome::Forward);
    let shares: Vec<_> =
        told.shares.iter().map(|share| (share.cluster.as_str(), share.percent, share.exists)).collect();
    let v1 = "outbound|9080|v1|reviews.default.svc.cluster.local";
    assert_eq!(shares, [(v1, 75.0, true), ("reviews.default subset v9", 25.0, false)]);
    let endpoint = &told.shares[0].endpoints[0];
    assert_eq!((endpoint.workload.as_str(), endpoint.address.as_str()), ("reviews-v1", "127.0.0.9:9080, directly"));
    let text = told.to_string();
    assert!(text.contains("25% to reviews.default subset v9, which does not exist: refused"), "{text}");
}

#[test]
fn endpoints_come_in_the_order_in_which_they_are_picked() {
    let mesh = bookinfo().node("drains", vec![row("reviews", "reviews-v4")]).in_state(NodeState::Draining);
    let view = mesh.view();
    let told = explain(&view, "reviews", &get("/"));
    assert_eq!(steps(&told, "rule"), [" : no VirtualService has a rule for this caller: the service itself is called"]);
    assert!(steps(&told, "retries")[0].contains("the mesh's default: 2 more on connect-failure,refused-stream"));
    let endpoints = &told.shares[0].endpoints;
    assert_eq!(endpoints.len(), 4);
    assert!(endpoints[..3].iter().all(|endpoint| endpoint.picked), "{endpoints:?}");
    assert_eq!((endpoints[3].workload.as_str(), endpoints[3].picked), ("reviews-v4", false));
    endpoint_of(&view, "reviews-v2").load.connect_failed(0);
    let told = explain(&view, "reviews", &get("/"));
    let last = &told.shares[0].endpoints[2];
    assert_eq!((last.workload.as_str(), last.failing), ("reviews-v2", true));
}

fn endpoint_of<'v>(view: &'v MeshView, workload: &str) -> &'v Arc<crate::endpoint::Endpoint> {
    let cluster = service(view, "reviews").cluster(9080).unwrap();
    cluster.endpoints.iter().find(|endpoint| endpoint.key.workload.as_str() == workload).unwrap()
}

#[test]
fn what_the_proxy_answers_itself_is_told_with_its_reason() {
    let http = "[{match: [{uri: {prefix: /old}}], redirect: {uri: /new}}, \
                 {match: [{uri: {prefix: /tea}}], directResponse: {status: 418}}, \
                 {match: [{uri: {prefix: /gone}}], route: [{destination: {host: nobody}}]}]";
    let hidden = rule("hidden", "[reviews]", "[{redirect: {uri: /}}]").replace("hosts:", "exportTo: [other], hosts:");
    let view = bookinfo().apply(&hidden).apply(&rule("r", "[reviews]", http)).view();
    for (to, path, status, reason) in [
        ("reviews", "/old", 301, "redirect to http://reviews:9080/new"),
        ("reviews", "/tea", 418, "direct response"),
        ("reviews", "/gone", 503, "unknown_cluster"),
        ("reviews", "/other", 404, "no_route"),
        ("reviews:1", "/", 502, "unknown_port"),
        ("nobody", "/", 502, "unknown_host"),
        ("reviews", "/%00", 400, "bad_request"),
        ("reviews", "/x/../%6Fld", 301, "redirect to http://reviews:9080/new"),
    ] {
        let told = explain(&view, to, &get(path));
        let reason = reason.replace(":9080", "");
        assert_eq!(told.outcome, Outcome::Answer { status, reason }, "{to}{path}");
    }
    let told = explain(&view, "reviews", &get("/other"));
    assert_eq!(
        steps(&told, "rule")[0],
        "VirtualService default/hidden spec.exportTo: passed over: it is not exported to the caller's namespace"
    );
}

#[test]
fn who_calls_is_a_workload_or_the_first_of_a_service() {
    let view = bookinfo().view();
    let namespace = Namespace::default_namespace();
    let headers = HeaderMap::new();
    let caller = |from: &str| {
        let question = RouteQuestion {
            from,
            to: "reviews",
            namespace: &namespace,
            method: &Method::GET,
            path_and_query: "/",
            scheme: "http",
            headers: &headers,
            now_ms: 0,
        };
        explain_route(&view, &question).map(|told| told.steps[0].says.clone())
    };
    assert!(
        caller("reviews-v2").unwrap().starts_with("reviews-v2 of namespace default, as default/reviews, labels app=")
    );
    assert!(caller("reviews").unwrap().starts_with("reviews-v1 "));
    assert!(caller("ratings-v9.prod").unwrap().starts_with("ratings-v9 of namespace prod"));
    assert!(caller("nobody").unwrap_err().contains("no workload or service nobody in namespace default"));
}

#[test]
fn a_host_that_nobody_serves_is_told_with_what_lets_it_pass() {
    let config = |mode: &str| {
        format!(
            "{{apiVersion: weft.mesh/v1alpha1, kind: MeshConfig, metadata: {{name: default, namespace: istio-system}}, \
             spec: {{outboundTrafficPolicy: {{mode: {mode}}}}}}}"
        )
    };
    let refused = Outcome::Answer { status: 502, reason: "unknown_host".into() };
    let told = explain(&bookinfo().view(), "example.com:8080", &get("/"));
    assert_eq!(told.outcome, refused);
    let told = explain(&bookinfo().apply(&config("REGISTRY_ONLY")).view(), "example.com:8080", &get("/"));
    assert_eq!(told.outcome, refused);
    assert!(told.to_string().contains("REGISTRY_ONLY"), "{told}");
    let told = explain(&bookinfo().apply(&config("ALLOW_ANY")).view(), "example.com:8080", &get("/"));
    assert_eq!(told.outcome, Outcome::Forward);
    assert_eq!(told.shares[0].cluster, "PassthroughCluster");
    assert!(told.to_string().contains("100% to PassthroughCluster, at the address that it asks for"), "{told}");
    assert!(steps(&told, "host")[1].contains("lets it pass"), "{:?}", told.steps);
    assert_eq!(steps(&told, "destination").len(), 1, "that the request says where it goes");
}
