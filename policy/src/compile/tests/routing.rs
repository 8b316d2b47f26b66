//! Where requests go.

use super::*;

#[test]
fn without_a_virtual_service_requests_go_to_the_service_itself() {
    let view = bookinfo().view();
    let forward = forward(&view, &get("/"));
    assert_eq!(forward.cluster.name, "outbound|9080||reviews.default.svc.cluster.local");
    assert_eq!(forward.route_name, "default");
    assert_eq!(forward.timeout, None, "no timeout unless a document says so");
    assert!(forward.rewrite.is_none());
    assert!(matches!(service(&view, "reviews").route(80, &get("/").head(), 0), Routing::NoRoute));
}

#[test]
fn the_first_rule_that_matches_in_written_order_wins() {
    let view = bookinfo()
        .apply(SUBSETS)
        .apply(&rule(
            "r",
            "[reviews]",
            "[{name: jason, match: [{headers: {end-user: {exact: jason}}}], timeout: 2s, \
               route: [{destination: {host: reviews, subset: v2}}]}, \
              {route: [{destination: {host: reviews, subset: v1}}]}, \
              {match: [{uri: {exact: /x}}], route: [{destination: {host: reviews}}]}]",
        ))
        .view();
    let jason = forward(&view, &get("/x").header("end-user", "jason"));
    assert_eq!((jason.cluster.subset.as_str(), jason.route_name), ("v2", "jason"));
    assert_eq!(jason.timeout, Some(std::time::Duration::from_secs(2)));
    assert_eq!(workloads(jason.cluster), ["reviews-v2"]);
    assert_eq!(outcome(&view, &get("/x")), "v1");
}

#[test]
fn a_request_that_no_rule_matches_has_no_route() {
    let http = "[{match: [{uri: {prefix: /reviews}}], route: [{destination: {host: reviews}}]}]";
    let view = bookinfo().apply(&rule("r", "[reviews]", http)).view();
    assert_eq!(outcome(&view, &get("/other")), "404");
    assert_eq!(outcome(&view, &get("/reviews/0")), "");
    assert!(service(&view, "reviews").cluster(9080).is_some(), "TCP does not ask HTTP rules");
}

/// Whether a request matches one condition.
fn matches(condition: &str, request: &Request) -> bool {
    let http = format!("[{{match: [{condition}], route: [{{destination: {{host: reviews}}}}]}}]");
    outcome(&bookinfo().apply(&rule("r", "[reviews]", &http)).view(), request) != "404"
}

#[test]
fn uris_match_as_in_istio() {
    for (condition, path, expected) in [
        ("{uri: {exact: /a}}", "/a", true),
        ("{uri: {exact: /a}}", "/a?x=/b", true),
        ("{uri: {exact: /a}}", "/a/", false),
        ("{uri: {exact: /a}}", "/A", false),
        ("{uri: {exact: /a}, ignoreUriCase: true}", "/A", true),
        ("{uri: {prefix: /static}}", "/staticfoo", true),
        ("{uri: {prefix: /static}}", "/stati", false),
        ("{uri: {prefix: /static}}", "/x?/static", false),
        ("{uri: {prefix: /static}, ignoreUriCase: true}", "/STATIC/x", true),
        ("{uri: {regex: '/v[0-9]+'}}", "/v12", true),
        ("{uri: {regex: '/v[0-9]+'}}", "/v12/x", false),
        ("{uri: {regex: '/v'}, ignoreUriCase: true}", "/V", false),
        ("{uri: {regex: '/v.*'}}", "/v1?q", true),
    ] {
        assert_eq!(matches(condition, &get(path)), expected, "{condition} on {path}");
    }
}

#[test]
fn headers_match_as_in_istio() {
    for (condition, request, expected) in [
        ("{headers: {x-a: {exact: b}}}", get("/").header("x-a", "b"), true),
        ("{headers: {X-A: {exact: b}}}", get("/").header("x-a", "b"), true),
        ("{headers: {x-a: {exact: b}}}", get("/").header("x-a", "B"), false),
        ("{headers: {x-a: {exact: b}}}", get("/"), false),
        ("{headers: {x-a: {exact: 'b,c'}}}", get("/").header("x-a", "b").header("x-a", "c"), true),
        ("{headers: {x-a: {exact: b}}}", get("/").header("x-a", "b").header("x-a", "c"), false),
        ("{headers: {x-a: {prefix: b}}}", get("/").header("x-a", "bc"), true),
        ("{headers: {x-a: {regex: 'b+'}}}", get("/").header("x-a", "bb"), true),
        ("{headers: {x-a: {regex: 'b+'}}}", get("/").header("x-a", "bbc"), false),
        ("{headers: {x-a: {}}}", get("/").header("x-a", ""), true),
        ("{headers: {x-a: {}}}", get("/"), false),
        ("{headers: {x-a: {regex: '*'}}}", get("/").header("x-a", "y"), true),
        ("{headers: {x-a: {regex: '*'}}}", get("/"), false),
        ("{headers: {':method': {exact: GET}}}", get("/"), true),
        ("{headers: {':authority': {prefix: 'reviews:'}}}", get("/"), true),
        ("{headers: {host: {exact: other}}}", get("/"), false),
        ("{headers: {':scheme': {exact: https}}}", get("/"), false),
        ("{headers: {':scheme': {}}}", get("/"), true),
        ("{method: {exact: GET}}", get("/"), true),
        ("{method: {regex: 'GET|PUT'}}", Request { method: Method::POST, ..get("/") }, false),
        ("{method: {prefix: P}}", Request { method: Method::POST, ..get("/") }, true),
    ] {
        assert_eq!(matches(condition, &request), expected, "{condition} on {:?}", request.headers);
    }
}

#[test]
fn conditions_of_one_match_must_all_hold_and_of_several_matches_any() {
    let both = "{uri: {prefix: /a}, headers: {x: {exact: y}}}";
    assert!(matches(both, &get("/a").header("x", "y")));
    assert!(!matches(both, &get("/a")));
    assert!(!matches(both, &get("/b").header("x", "y")));
    let either = "{uri: {exact: /a}}, {uri: {exact: /b}}";
    assert!(matches(either, &get("/a")) && matches(either, &get("/b")) && !matches(either, &get("/c")));
    assert!(matches("{}", &get("/")), "an empty match matches everything");
}

#[test]
fn the_matched_part_of_a_path_is_rewritten_and_the_query_kept() {
    for (condition, rewrite, path, expected) in [
        ("{uri: {prefix: /api/}}", "uri: /", "/api/x?q=1", "/x?q=1"),
        ("{uri: {prefix: /api}}", "uri: /v2", "/api/x", "/v2/x"),
        ("{uri: {prefix: /API}, ignoreUriCase: true}", "uri: /v2", "/api/x", "/v2/x"),
        ("{uri: {exact: /a}}", "uri: /b", "/a?x", "/b?x"),
        ("{uri: {exact: /a}}", "uri: /b", "/a#f", "/b"),
        ("{uri: {regex: '/a.*'}}", "uri: /b", "/abc?x=1", "/b?x=1"),
        ("{}", "uri: /b/", "/a", "/b/a"),
        ("{uri: {prefix: /api}}", "uri: v2", "/api", "/v2"),
        (
            "{}",
            r"uriRegexRewrite: {match: '^/u/([^/]+)/(.*)$', rewrite: '/\2/by/\1'}",
            "/u/jo/posts?p=1",
            "/posts/by/jo?p=1",
        ),
        ("{}", r"uriRegexRewrite: {match: 'o', rewrite: '\0\0'}", "/foo?o", "/foooo?o"),
        ("{}", r"uriRegexRewrite: {match: '/x', rewrite: 'y'}", "/x", "/y"),
        ("{}", r"uriRegexRewrite: {match: 'none', rewrite: '\\'}", "/x", "/x"),
    ] {
        let http =
            format!("[{{match: [{condition}], rewrite: {{{rewrite}}}, route: [{{destination: {{host: reviews}}}}]}}]");
        let view = bookinfo().apply(&rule("r", "[reviews]", &http)).view();
        let forward = forward(&view, &get(path));
        let rewritten = forward.rewrite.and_then(|rewrite| rewrite.path_and_query);
        assert_eq!(rewritten.as_deref(), Some(expected), "{condition} {rewrite} on {path}");
    }
}

#[test]
fn an_authority_is_rewritten_without_touching_the_path() {
    let http = "[{rewrite: {authority: 'other:80'}, route: [{destination: {host: reviews}}]}]";
    let view = bookinfo().apply(&rule("r", "[reviews]", http)).view();
    let rewrite = forward(&view, &get("/a")).rewrite.unwrap();
    assert_eq!((rewrite.path_and_query, rewrite.authority), (None, Some("other:80")));
}

#[test]
fn a_destination_that_does_not_exist_is_an_unknown_cluster() {
    for destination in [
        "{host: reviews, subset: v9}",
        "{host: nowhere}",
        "{host: reviews, port: {number: 80}}",
        "{host: ratings.prod}",
    ] {
        let http = format!("[{{route: [{{destination: {destination}}}]}}]");
        let view = bookinfo().apply(SUBSETS).apply(&rule("r", "[reviews]", &http)).view();
        assert_eq!(outcome(&view, &get("/")), "NC", "{destination}");
    }
}

#[test]
fn short_names_are_of_the_documents_namespace() {
    let http = "[{route: [{destination: {host: ratings}}]}]";
    let text =
        rule("r", "[reviews.default.svc.cluster.local]", http).replace("{name: r}", "{name: r, namespace: prod}");
    let view = bookinfo().apply(&text).view();
    assert_eq!(forward(&view, &get("/")).cluster.service.to_string(), "ratings.prod");
}

#[test]
fn a_destination_without_a_port_means_the_only_port_else_the_dialled_one() {
    let http = "[{route: [{destination: {host: web}}]}]";
    let to_port = |rows: Vec<EndpointRow>| {
        let view = bookinfo().node("other", rows).apply(&rule("r", "[reviews]", http)).view();
        match service(&view, "reviews").route(9080, &get("/").head(), 0) {
            Routing::Forward(forward) => Some(forward.cluster.port),
            _ => None,
        }
    };
    let web = |port| on_ports(port, port, row("web", "web-1"));
    assert_eq!(to_port(vec![web(80)]), Some(80));
    assert_eq!(to_port(vec![web(80), web(9080)]), Some(9080));
    assert_eq!(to_port(vec![web(80), web(81)]), None);
}

#[test]
fn of_several_virtual_services_for_a_host_the_oldest_holds() {
    let to = |name: &str, hosts: &str, subset: &str| {
        rule(name, hosts, &format!("[{{route: [{{destination: {{host: reviews, subset: {subset}}}}}]}}]"))
    };
    let view = bookinfo().apply(SUBSETS).apply(&to("b", "[reviews]", "v1")).apply(&to("a", "[reviews]", "v2")).view();
    assert_eq!(outcome(&view, &get("/")), "v1", "the name does not decide");
    let wildcard = "['*.default.svc.cluster.local']";
    let mesh = bookinfo().apply(SUBSETS).apply(&to("a", wildcard, "v1"));
    assert_eq!(outcome(&mesh.view(), &get("/")), "v1", "a wildcard holds for each service it matches");
    let view = mesh.apply(&to("b", "[reviews]", "v2")).view();
    assert_eq!(outcome(&view, &get("/")), "v2", "an exact host beats an older wildcard");
    let view = bookinfo().apply(SUBSETS).apply(&to("a", "['*.local']", "v1")).apply(&to("b", wildcard, "v2")).view();
    assert_eq!(outcome(&view, &get("/")), "v2", "the longer wildcard beats an older one");
}

const REVIEWS: &str = "reviews.default.svc.cluster.local";

#[test]
fn destination_rules_of_one_host_are_merged() {
    let view = bookinfo()
        .apply(&destination_rule(
            "b",
            "default",
            &format!("{{host: {REVIEWS}, subsets: [{{name: v1, labels: {{version: v1}}}}]}}"),
        ))
        .apply(&destination_rule(
            "a",
            "default",
            "{host: reviews, trafficPolicy: {loadBalancer: {simple: RANDOM}}, \
             subsets: [{name: v1, labels: {version: v3}}, {name: v2, labels: {version: v2}}]}",
        ))
        .apply(&rule(
            "r",
            "[reviews]",
            "[{match: [{uri: {exact: /1}}], route: [{destination: {host: reviews, subset: v1}}]}, \
              {route: [{destination: {host: reviews, subset: v2}}]}]",
        ))
        .view();
    assert_eq!(workloads(forward(&view, &get("/1")).cluster), ["reviews-v1"], "the oldest subset of a name holds");
    assert_eq!(workloads(forward(&view, &get("/2")).cluster), ["reviews-v2"]);
    assert_eq!(service(&view, "reviews").cluster(9080).unwrap().balancer, Balancer::Random);
}

#[test]
fn a_destination_rule_of_the_services_namespace_beats_the_roots() {
    let balanced = |name: &str, namespace: &str, host: &str, simple: &str| {
        destination_rule(
            name,
            namespace,
            &format!("{{host: '{host}', trafficPolicy: {{loadBalancer: {{simple: {simple}}}}}}}"),
        )
    };
    let balancer = |mesh: &Mesh| service(&mesh.view(), "reviews").cluster(9080).unwrap().balancer;
    let mesh = bookinfo().apply(&balanced("d", "elsewhere", REVIEWS, "RANDOM"));
    assert_eq!(balancer(&mesh), Balancer::LeastRequest, "a third namespace's rule is not the service's");
    let mesh = mesh.apply(&balanced("a", "istio-system", REVIEWS, "RANDOM"));
    assert_eq!(balancer(&mesh), Balancer::Random);
    let mesh = mesh.apply(&balanced("b", "default", "*.local", "ROUND_ROBIN"));
    assert_eq!(balancer(&mesh), Balancer::RoundRobin);
    let mesh = mesh.apply(&balanced("c", "default", "reviews", "LEAST_REQUEST"));
    assert_eq!(balancer(&mesh), Balancer::LeastRequest, "the exact host beats the wildcard");
}

#[test]
fn a_subsets_balancer_overrides_the_services() {
    let view = bookinfo()
        .apply(&destination_rule(
            "a",
            "default",
            "{host: reviews, trafficPolicy: {loadBalancer: {simple: RANDOM}}, subsets: [{name: v1}, \
             {name: v2, trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}}]}",
        ))
        .apply(&rule(
            "r",
            "[reviews]",
            "[{match: [{uri: {exact: /1}}], route: [{destination: {host: reviews, subset: v1}}]}, \
              {route: [{destination: {host: reviews, subset: v2}}]}]",
        ))
        .view();
    assert_eq!(forward(&view, &get("/1")).cluster.balancer, Balancer::Random);
    assert_eq!(forward(&view, &get("/2")).cluster.balancer, Balancer::RoundRobin);
}

#[test]
fn a_destination_rule_for_some_clients_only_is_not_for_all() {
    let balancer = |selector: &str| {
        let rule = format!(
            "{{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {{name: r}}, spec: {{host: reviews, \
             {selector}trafficPolicy: {{loadBalancer: {{simple: RANDOM}}}}}}}}"
        );
        service(&bookinfo().apply(&rule).view(), "reviews").cluster(9080).unwrap().balancer
    };
    assert_eq!(balancer(""), Balancer::Random);
    assert_eq!(balancer("workloadSelector: {matchLabels: {app: x}}, "), Balancer::LeastRequest);
}
