//! Where requests go.

use super::*;

#[test]
fn without_a_virtual_service_requests_go_to_the_service_itself() {
    let view = bookinfo().view();
    assert_eq!(route(&view, &get("/")).unwrap().route_name, "default");
    let forward = forward(&view, &get("/"));
    assert_eq!(&*forward.cluster.name, "outbound|9080||reviews.default.svc.cluster.local");
    assert_eq!(forward.timeout, None, "no timeout unless a document says so");
    assert!(forward.rewrite.is_none());
    let client = Client { namespace: &Namespace::default_namespace(), workload: None };
    assert!(view.route(Host::Service(service(&view, "reviews")), 80, &get("/").head(), client, 0).is_none());
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
    let request = get("/x").header("end-user", "jason");
    assert_eq!(route(&view, &request).unwrap().route_name, "jason");
    let jason = forward(&view, &request);
    assert_eq!(jason.cluster.subset, "v2");
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
        // Each line of a header is looked at by itself.
        ("{headers: {x-a: {exact: c}}}", get("/").header("x-a", "b").header("x-a", "c"), true),
        ("{headers: {x-a: {exact: 'b,c'}}}", get("/").header("x-a", "b").header("x-a", "c"), false),
        ("{withoutHeaders: {x-a: {exact: c}}}", get("/").header("x-a", "b").header("x-a", "c"), false),
        ("{withoutHeaders: {x-a: {exact: d}}}", get("/").header("x-a", "b").header("x-a", "c"), true),
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
    assert_eq!(forward(&view, &get("/")).cluster.fqdn.to_string(), "ratings.prod.svc.cluster.local");
}

#[test]
fn a_destination_without_a_port_means_the_only_port_else_the_dialled_one() {
    let http = "[{route: [{destination: {host: web}}]}]";
    let to_port = |rows: Vec<EndpointRow>| {
        let view = bookinfo().node("other", rows).apply(&rule("r", "[reviews]", http)).view();
        match route(&view, &get("/")).unwrap().action {
            Action::Forward(forward) => Some(forward.cluster.port),
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
    assert_eq!(service(&view, "reviews").cluster(9080).unwrap().balancer(), &Balancer::Random);
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
    let balancer = |mesh: &Mesh| service(&mesh.view(), "reviews").cluster(9080).unwrap().balancer().clone();
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
    assert_eq!(forward(&view, &get("/1")).cluster.balancer(), &Balancer::Random);
    assert_eq!(forward(&view, &get("/2")).cluster.balancer(), &Balancer::RoundRobin);
}

#[test]
fn a_destination_rule_for_some_clients_only_is_not_for_all() {
    let balancer = |selector: &str| {
        let rule = format!(
            "{{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {{name: r}}, spec: {{host: reviews, \
             {selector}trafficPolicy: {{loadBalancer: {{simple: RANDOM}}}}}}}}"
        );
        service(&bookinfo().apply(&rule).view(), "reviews").cluster(9080).unwrap().balancer().clone()
    };
    assert_eq!(balancer(""), Balancer::Random);
    assert_eq!(balancer("workloadSelector: {matchLabels: {app: x}}, "), Balancer::LeastRequest);
}

/// A client in a namespace, with labels.
fn workload(view: &MeshView, name: &str, account: &str) -> Arc<Workload> {
    view.caller(name, &account.parse().unwrap()).unwrap().clone()
}

/// The subset that a client's request goes to.
fn subset_for(view: &MeshView, namespace: &str, workload: Option<&Workload>, port: u16) -> String {
    let namespace = namespace.parse().unwrap();
    let client = Client { namespace: &namespace, workload };
    match view.route(Host::Service(service(view, "reviews")), port, &get("/").head(), client, 0).map(|m| m.action) {
        Some(Action::Forward(forward)) => forward.cluster.subset.clone(),
        Some(other) => panic!("{other:?}"),
        None => "404".into(),
    }
}

#[test]
fn a_rule_may_ask_for_the_clients_labels_namespace_and_port() {
    for (condition, in_default, in_prod) in [
        ("sourceLabels: {app: reviews}", "v1", "404"),
        ("sourceLabels: {app: reviews, version: v9}", "404", "404"),
        ("sourceNamespace: prod", "404", "v1"),
        ("sourceNamespace: prod, sourceLabels: {version: v9}", "404", "v1"),
        ("port: 9080", "v1", "v1"),
        ("port: 80", "404", "404"),
    ] {
        let http = format!(
            "[{{match: [{{{condition}}}], route: [{{destination: {{host: reviews, subset: v1}}}}]}}, \
               {{match: [{{uri: {{exact: /other}}}}], route: [{{destination: {{host: reviews}}}}]}}]"
        );
        let view = bookinfo().apply(SUBSETS).apply(&rule("r", "[reviews]", &http)).view();
        let reviews = workload(&view, "default/reviews-v1", "default/reviews");
        let ratings = workload(&view, "prod/ratings-v9", "prod/ratings");
        assert_eq!(subset_for(&view, "default", Some(&reviews), 9080), in_default, "{condition}");
        assert_eq!(subset_for(&view, "prod", Some(&ratings), 9080), in_prod, "{condition}");
    }
}

#[test]
fn a_client_for_whom_there_is_no_rule_goes_to_the_service_itself() {
    let http = "[{match: [{sourceNamespace: prod}], route: [{destination: {host: reviews, subset: v1}}]}]";
    let view = bookinfo().apply(SUBSETS).apply(&rule("r", "[reviews]", http)).view();
    assert_eq!(subset_for(&view, "default", None, 9080), "");
    assert_eq!(subset_for(&view, "prod", None, 9080), "v1");
    let younger = rule("s", "[reviews]", "[{route: [{destination: {host: reviews, subset: v2}}]}]");
    let view = bookinfo().apply(SUBSETS).apply(&rule("r", "[reviews]", http)).apply(&younger).view();
    assert_eq!(subset_for(&view, "default", None, 9080), "v2", "a younger document may have rules for it");
}

#[test]
fn where_a_condition_names_gateways_the_client_is_not_looked_at() {
    for (gateways, expected) in [("[mesh]", "v1"), ("[mesh, other]", "v1"), ("[other]", "")] {
        let http = format!(
            "[{{match: [{{gateways: {gateways}, sourceNamespace: nowhere, sourceLabels: {{a: b}}}}], \
               route: [{{destination: {{host: reviews, subset: v1}}}}]}}]"
        );
        let view = bookinfo().apply(SUBSETS).apply(&rule("r", "[reviews]", &http)).view();
        assert_eq!(outcome(&view, &get("/")), expected, "{gateways}");
    }
}

#[test]
fn a_virtual_service_of_other_gateways_is_not_for_the_mesh() {
    let text = rule("r", "[reviews]", "[{route: [{destination: {host: reviews, subset: v1}}]}]");
    let view = bookinfo().apply(SUBSETS).apply(&text.replace("{hosts:", "{gateways: [g], hosts:")).view();
    assert_eq!(outcome(&view, &get("/")), "");
    let view = bookinfo().apply(SUBSETS).apply(&text.replace("{hosts:", "{gateways: [g, mesh], hosts:")).view();
    assert_eq!(outcome(&view, &get("/")), "v1");
}

#[test]
fn without_headers_a_missing_header_counts_as_empty_unless_presence_is_asked_for() {
    for (wanted, missing, empty, jason) in [
        ("{exact: jason}", true, true, false),
        ("{prefix: ja}", true, true, false),
        ("{regex: '*'}", true, false, false),
        ("{}", true, false, false),
        ("{regex: '.*'}", false, false, false),
        ("{regex: '.+'}", true, true, false),
    ] {
        let condition = format!("{{withoutHeaders: {{end-user: {wanted}}}}}");
        let fires = |request: &Request| matches(&condition, request);
        let found =
            [fires(&get("/")), fires(&get("/").header("end-user", "")), fires(&get("/").header("end-user", "jason"))];
        assert_eq!(found, [missing, empty, jason], "{wanted}");
    }
}

#[test]
fn query_parameters_match_as_in_istio() {
    for (condition, path, expected) in [
        ("{queryParams: {q: {exact: a}}}", "/?q=a", true),
        ("{queryParams: {q: {exact: a}}}", "/?x=1&q=a", true),
        ("{queryParams: {q: {exact: a}}}", "/?q=b&q=a", false),
        ("{queryParams: {q: {exact: a}}}", "/?Q=a", false),
        ("{queryParams: {q: {exact: a}}}", "/q=a", false),
        ("{queryParams: {q: {exact: a}}}", "/#?q=a", false),
        ("{queryParams: {q: {prefix: a}}}", "/?q=ab", true),
        ("{queryParams: {q: {regex: 'a+'}}}", "/?q=aa", true),
        ("{queryParams: {q: {regex: 'a+'}}}", "/?q=ab", false),
        ("{queryParams: {q: {regex: '*'}}}", "/?q", true),
        ("{queryParams: {q: {exact: ''}}}", "/?q", true),
        ("{queryParams: {q: {}}}", "/?p", false),
        ("{queryParams: {q: {exact: 'a%20b'}}}", "/?q=a%20b", true),
        ("{queryParams: {a: {exact: '1'}, b: {exact: '2'}}}", "/?a=1&b=2", true),
        ("{queryParams: {a: {exact: '1'}, b: {exact: '2'}}}", "/?a=1", false),
    ] {
        assert_eq!(matches(condition, &get(path)), expected, "{condition} on {path}");
    }
}

#[test]
fn scheme_and_authority_match_as_headers_do() {
    for (condition, expected) in [
        ("{scheme: {exact: http}}", true),
        ("{scheme: {exact: https}}", false),
        ("{authority: {exact: 'reviews:9080'}}", true),
        ("{authority: {exact: reviews}}", false),
        ("{authority: {prefix: reviews}}", true),
        ("{authority: {regex: '.*:9080'}}", true),
    ] {
        assert_eq!(matches(condition, &get("/")), expected, "{condition}");
    }
}

#[test]
fn many_different_headers_are_each_compared() {
    let names: Vec<String> = (0..40).map(|i| format!("x-{i}: {{exact: '{i}'}}")).collect();
    let condition = format!("{{headers: {{{}}}}}", names.join(", "));
    let mut request = get("/");
    for i in 0..40 {
        assert!(!matches(&condition, &request));
        request.headers.append(format!("x-{i}").parse::<http::HeaderName>().unwrap(), i.to_string().parse().unwrap());
    }
    assert!(matches(&condition, &request));
}

/// The location of a redirect of a request for `reviews:9080`, or of another authority.
fn location(redirect: &str, authority: &str, path: &str) -> String {
    let http = format!("[{{match: [{{uri: {{prefix: /old}}}}], redirect: {redirect}}}]");
    let view = bookinfo().apply(&rule("r", "[reviews]", &http)).view();
    let headers = HeaderMap::new();
    let head = RequestHead { method: &Method::GET, path_and_query: path, authority, scheme: "http", headers: &headers };
    let client = Client { namespace: &Namespace::default_namespace(), workload: None };
    match view.route(Host::Service(service(&view, "reviews")), 9080, &head, client, 0).unwrap().action {
        Action::Redirect { location, .. } => location,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_redirect_keeps_what_it_does_not_name() {
    for (redirect, authority, path, expected) in [
        ("{uri: /new}", "h", "/old/x", "http://h/new"),
        ("{uri: /new}", "h", "/old?a=b", "http://h/new?a=b"),
        ("{uri: '/new?c=d'}", "h", "/old?a=b", "http://h/new?c=d"),
        ("{uri: '%PREFIX()%/new'}", "h", "/old/x?a=b", "http://h/new/x?a=b"),
        ("{authority: other}", "h:8080", "/old?a=b", "http://other/old?a=b"),
        ("{authority: other, port: 8080}", "h", "/old", "http://other:8080/old"),
        ("{scheme: https}", "h", "/old", "https://h/old"),
        ("{scheme: https}", "h:80", "/old", "https://h/old"),
        ("{scheme: https}", "h:8080", "/old", "https://h:8080/old"),
        ("{uri: /new}", "h:80", "/old", "http://h:80/new"),
        ("{scheme: https, port: 443}", "h:80", "/old", "https://h/old"),
        ("{scheme: https, port: 80}", "h", "/old", "https://h:80/old"),
        ("{port: 80}", "h:9080", "/old", "http://h:9080/old"),
        ("{port: 8080}", "h:9080", "/old", "http://h:8080/old"),
        ("{scheme: https, derivePort: FROM_REQUEST_PORT}", "h", "/old", "https://h:9080/old"),
        ("{scheme: https, derivePort: FROM_PROTOCOL_DEFAULT}", "h:80", "/old", "https://h/old"),
        ("{scheme: https}", "[::1]:80", "/old", "https://[::1]/old"),
        ("{scheme: https}", "[::1]", "/old", "https://[::1]/old"),
    ] {
        assert_eq!(location(redirect, authority, path), expected, "{redirect} of {authority}{path}");
    }
}

#[test]
fn a_redirect_is_a_301_unless_it_says_otherwise() {
    let status = |redirect: &str| {
        let view = bookinfo().apply(&rule("r", "[reviews]", &format!("[{{redirect: {redirect}}}]"))).view();
        match route(&view, &get("/")).unwrap().action {
            Action::Redirect { status, .. } => status.as_u16(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(status("{uri: /}"), 301);
    assert_eq!(status("{uri: /, redirectCode: 308}"), 308);
}

#[test]
fn a_direct_response_has_its_own_body() {
    for (body, expected) in [("{string: hello}", "hello"), ("{bytes: aGVsbG8=}", "hello")] {
        let http = format!("[{{directResponse: {{status: 418, body: {body}}}}}]");
        assert_eq!(outcome(&bookinfo().apply(&rule("r", "[reviews]", &http)).view(), &get("/")), expected);
    }
    assert_eq!(
        outcome(&bookinfo().apply(&rule("r", "[reviews]", "[{directResponse: {status: 503}}]")).view(), &get("/")),
        ""
    );
}

/// What header operations make of a request with `x: old`.
fn request_headers(http: &str) -> Vec<String> {
    let view = bookinfo().apply(SUBSETS).apply(&rule("r", "[reviews]", http)).view();
    let rules = route(&view, &get("/")).unwrap().headers;
    let mut headers: HeaderMap = [("x".parse().unwrap(), "old".parse().unwrap())].into_iter().collect();
    for rules in rules.into_iter().flatten() {
        rules.request.apply(&mut headers, crate::headers::tests::context);
    }
    headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect()
}

#[test]
fn header_operations_of_an_only_destination_are_one_with_the_rules_and_those_of_several_come_first() {
    let request = |operations: &str| format!("headers: {{request: {{{operations}}}}}");
    let of_one = |rule: &str, destination: &str| {
        let to = "destination: {host: reviews, subset: v1}";
        request_headers(&format!("[{{{}, route: [{{{to}, {}}}]}}]", request(rule), request(destination)))
    };
    let of_two = |rule: &str, destination: &str| {
        let to = |subset: &str| {
            format!("{{destination: {{host: reviews, subset: {subset}}}, weight: 50, {}}}", request(destination))
        };
        request_headers(&format!("[{{{}, route: [{}, {}]}}]", request(rule), to("v1"), to("v2")))
    };
    let (none, r, d): (&[&str], _, _) = (&[], "x: r", "x: d");
    for (rule, destination, one, two) in [
        ("set: {x: r}", "set: {x: d}", &[d][..], &[r][..]),
        ("set: {x: r}", "remove: [x]", &[r], &[r]),
        ("remove: [x]", "set: {x: d}", &[d], none),
        ("add: {x: r}", "set: {x: d}", &[d, r], &[d, r]),
        ("set: {x: r}", "add: {x: d}", &[r, d], &[r]),
    ] {
        assert_eq!(of_one(rule, destination), one, "{rule} and {destination}");
        assert_eq!(of_two(rule, destination), two, "{rule} and {destination} of two");
    }
}

#[test]
fn the_rules_authority_beats_the_destinations() {
    let authority = |http: &str| {
        let view = bookinfo().apply(&rule("r", "[reviews]", http)).view();
        forward(&view, &get("/")).rewrite.and_then(|rewrite| rewrite.authority.map(ToOwned::to_owned))
    };
    let of_destination = "route: [{destination: {host: reviews}, headers: {request: {set: {':authority': d}}}}]";
    assert_eq!(authority(&format!("[{{{of_destination}}}]")).as_deref(), Some("d"));
    let of_rule = "headers: {request: {set: {Host: r}}}";
    assert_eq!(authority(&format!("[{{{of_rule}, {of_destination}}}]")).as_deref(), Some("r"));
}

#[test]
fn a_fault_without_a_share_never_fires_and_a_delay_may_have_the_old_one() {
    for (fault, delays, aborts) in [
        ("{delay: {fixedDelay: 1s}, abort: {httpStatus: 500}}", false, false),
        ("{delay: {fixedDelay: 1s, percent: 100}}", true, false),
        ("{delay: {fixedDelay: 1s, percentage: {value: 0}, percent: 100}}", false, false),
        (
            "{delay: {fixedDelay: 1s, percentage: {value: 100}}, abort: {grpcStatus: UNAVAILABLE, percentage: {value: 100}}}",
            true,
            true,
        ),
    ] {
        let http = format!("[{{fault: {fault}, route: [{{destination: {{host: reviews}}}}]}}]");
        let view = bookinfo().apply(&rule("r", "[reviews]", &http)).view();
        let done = route(&view, &get("/")).unwrap().fault.and_then(|fault| fault.decide(0)).unwrap_or_default();
        assert_eq!((done.delay.is_some(), done.end.is_some()), (delays, aborts), "{fault}");
        if aborts {
            assert_eq!(
                done.end,
                Some(crate::fault::FaultEnd::GrpcStatus(crate::api::networking::GrpcStatus::Unavailable))
            );
        }
    }
}

#[test]
fn a_cors_policy_is_for_requests_that_are_forwarded() {
    let cors = "corsPolicy: {allowOrigins: [{exact: 'https://a.example'}]}";
    for (action, expected) in [
        ("route: [{destination: {host: reviews}}]", true),
        ("redirect: {uri: /}", false),
        ("directResponse: {status: 200}", false),
    ] {
        let view = bookinfo().apply(&rule("r", "[reviews]", &format!("[{{{cors}, {action}}}]"))).view();
        assert_eq!(route(&view, &get("/")).unwrap().cors.is_some(), expected, "{action}");
    }
}

#[test]
fn retries_that_are_given_override_the_default_field_by_field() {
    let policy = |retries: &str| {
        let http = format!("[{{{retries} route: [{{destination: {{host: reviews}}}}]}}]");
        forward(&bookinfo().apply(&rule("r", "[reviews]", &http)).view(), &get("/")).retry.clone()
    };
    assert_eq!(policy(""), crate::retry::RetryPolicy::default());
    assert_eq!(policy("retries: {attempts: 0},").attempts, 0);
    assert_eq!(policy("retries: {},").attempts, 0, "no attempts are none");
    let given = policy(
        "retries: {attempts: 3, perTryTimeout: 2s, retryOn: '5xx,418', backoff: 1s, retryIgnorePreviousHosts: false},",
    );
    assert_eq!((given.attempts, given.per_try_timeout), (3, Some(std::time::Duration::from_secs(2))));
    assert!(given.is_on_response(http::StatusCode::IM_A_TEAPOT, &HeaderMap::new()) && !given.avoids_tried(false));
    assert_eq!(given.pause(1, u64::MAX), std::time::Duration::from_secs(1));
    assert!(policy("retries: {attempts: 3},").is_on_failure(crate::retry::Failure::Connect));
}

const DELEGATE: &str = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: d, namespace: prod}
spec:
  http:
  - name: exact
    match: [{uri: {exact: /a/b}, name: m}]
    route: [{destination: {host: ratings}}]
  - name: wider
    match: [{uri: {prefix: /}}]
    route: [{destination: {host: ratings}}]
  - match: [{headers: {x: {exact: y}}}]
    timeout: 1s
    route: [{destination: {host: reviews.default.svc.cluster.local}}]
";

#[test]
fn a_delegate_s_rules_stand_in_the_place_of_the_rule_that_delegates() {
    let root = rule(
        "r",
        "[reviews]",
        "[{name: root, match: [{uri: {prefix: /a}, name: n}], timeout: 3s, delegate: {name: d, namespace: prod}}, \
          {directResponse: {status: 200, body: {string: rest}}}]",
    );
    let view = bookinfo().apply(&root).apply(DELEGATE).view();
    assert_eq!(route(&view, &get("/a/b")).unwrap().route_name, "root-exact.n-m");
    let exact = forward(&view, &get("/a/b"));
    assert_eq!(
        exact.cluster.fqdn.to_string(),
        "ratings.prod.svc.cluster.local",
        "a short name is of the delegate's namespace"
    );
    assert_eq!(exact.timeout, Some(std::time::Duration::from_secs(3)), "what it leaves open comes from the root");
    let request = get("/a/c").header("x", "y");
    assert_eq!(route(&view, &request).unwrap().route_name, "root.n");
    assert_eq!(forward(&view, &request).timeout, Some(std::time::Duration::from_secs(1)));
    assert_eq!(outcome(&view, &get("/a/c")), "rest", "a rule that asks for more than the root falls out");
    let origin = route(&view, &request).unwrap().origin.unwrap();
    assert_eq!((origin.document.key.name.as_str(), origin.rule, origin.condition), ("d", 2, Some(0)));
}

#[test]
fn a_delegate_that_is_not_there_or_not_exported_takes_its_rule_out() {
    let root = rule(
        "r",
        "[reviews]",
        "[{delegate: {name: d, namespace: prod}}, {directResponse: {status: 200, body: {string: rest}}}]",
    );
    assert_eq!(outcome(&bookinfo().apply(&root).view(), &get("/a/b")), "rest");
    let hidden = DELEGATE.replace("spec:", "spec:\n  exportTo: ['.']");
    assert_eq!(outcome(&bookinfo().apply(&root).apply(&hidden).view(), &get("/a/b")), "rest");
    assert_eq!(outcome(&bookinfo().apply(&root).apply(DELEGATE).view(), &get("/a/b")), "");
}

#[test]
fn a_delegate_s_change_changes_the_rules_that_use_it() {
    let root = rule("r", "[reviews]", "[{delegate: {name: d}}]");
    let delegate = |text: &str| {
        format!(
            "{{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {{name: d}}, \
               spec: {{http: [{{directResponse: {{status: 200, body: {{string: {text}}}}}}}]}}}}"
        )
    };
    let mut mesh = bookinfo().apply(&root).apply(&delegate("one"));
    let first = mesh.view();
    assert_eq!(outcome(&first, &get("/")), "one");
    mesh.documents.pop();
    let mesh = mesh.apply(&delegate("two"));
    assert_eq!(outcome(&mesh.view_after(Some(&first)), &get("/")), "two");
}

#[test]
fn a_virtual_service_holds_for_the_namespaces_that_it_is_exported_to() {
    let text = rule("r", "[reviews]", "[{route: [{destination: {host: reviews, subset: v1}}]}]");
    for (export_to, in_default, in_prod) in
        [("['*']", "v1", "v1"), ("['.']", "v1", ""), ("[prod]", "", "v1"), ("['.', prod]", "v1", "v1")]
    {
        let text = text.replace("{hosts:", &format!("{{exportTo: {export_to}, hosts:"));
        let view = bookinfo().apply(SUBSETS).apply(&text).view();
        assert_eq!(subset_for(&view, "default", None, 9080), in_default, "{export_to}");
        assert_eq!(subset_for(&view, "prod", None, 9080), in_prod, "{export_to}");
    }
}

#[test]
fn the_oldest_virtual_service_holds_across_namespaces_of_those_that_the_client_sees() {
    let to = |name: &str, namespace: &str, spec: &str, subset: &str| {
        rule(
            name,
            &format!("[{REVIEWS}]"),
            &format!("[{{route: [{{destination: {{host: {REVIEWS}, subset: {subset}}}}}]}}]"),
        )
        .replace(&format!("{{name: {name}}}"), &format!("{{name: {name}, namespace: {namespace}}}"))
        .replace("{hosts:", &format!("{{{spec} hosts:"))
    };
    let mesh = bookinfo().apply(SUBSETS);
    let view = mesh.apply(&to("a", "prod", "", "v1")).apply(&to("b", "default", "", "v2")).view();
    assert_eq!(subset_for(&view, "default", None, 9080), "v1");
    let mesh = bookinfo().apply(SUBSETS);
    let view = mesh.apply(&to("a", "prod", "exportTo: ['.'],", "v1")).apply(&to("b", "default", "", "v2")).view();
    assert_eq!(subset_for(&view, "default", None, 9080), "v2");
    assert_eq!(subset_for(&view, "prod", None, 9080), "v1");
}

#[test]
fn the_clients_own_destination_rule_beats_the_services() {
    let subsets = |name: &str, namespace: &str, export_to: &str, subset: &str, version: &str| {
        destination_rule(
            name,
            namespace,
            &format!(
                "{{host: {REVIEWS}, exportTo: {export_to}, subsets: [{{name: {subset}, labels: {{version: {version}}}}}]}}"
            ),
        )
    };
    let to_s = rule("r", "[reviews]", "[{route: [{destination: {host: reviews, subset: s}}]}]");
    let chosen = |documents: &[String]| {
        let mesh = documents.iter().fold(bookinfo().apply(&to_s), |mesh, text| mesh.apply(text));
        let view = mesh.view();
        ["default", "prod", "else", "istio-system"].map(|namespace| {
            let namespace = namespace.parse().unwrap();
            let client = Client { namespace: &namespace, workload: None };
            match view
                .route(Host::Service(service(&view, "reviews")), 9080, &get("/").head(), client, 0)
                .unwrap()
                .action
            {
                Action::Forward(forward) => workloads(forward.cluster).join(" "),
                Action::UnknownCluster => "NC".into(),
                other => panic!("{other:?}"),
            }
        })
    };
    let of = |namespace: &str, export_to: &str, version: &str| subsets("d", namespace, export_to, "s", version);
    let (v1, v2, v3, none) = ("reviews-v1", "reviews-v2", "reviews-v3", "NC");
    for (documents, expected) in [
        (vec![of("default", "['*']", "v1")], [v1, v1, v1, v1]),
        (vec![of("default", "['.']", "v1")], [v1, none, none, none]),
        (vec![of("default", "['.', prod]", "v1")], [v1, v1, none, none]),
        (vec![of("prod", "['*']", "v2")], [none, v2, none, none]),
        (vec![of("default", "['*']", "v1"), of("prod", "['.']", "v2")], [v1, v2, v1, v1]),
        (vec![of("istio-system", "['*']", "v3")], [v3, v3, v3, v3]),
        (vec![of("istio-system", "['.']", "v3")], [none, none, none, v3]),
        (vec![of("istio-system", "['*']", "v3"), of("default", "['.']", "v1")], [v1, v3, v3, v3]),
        (vec![of("istio-system", "['*']", "v3"), of("default", "['*']", "v1")], [v1, v1, v1, v1]),
    ] {
        assert_eq!(chosen(&documents), expected, "{documents:?}");
    }
}

#[test]
fn settings_of_a_port_replace_and_those_of_a_subset_override() {
    let view = bookinfo()
        .apply(&destination_rule(
            "a",
            "default",
            "{host: reviews, trafficPolicy: {loadBalancer: {simple: RANDOM}, \
               portLevelSettings: [{port: {number: 9080}, loadBalancer: {simple: ROUND_ROBIN}}]}, subsets: [\
               {name: v1}, {name: v2, trafficPolicy: {loadBalancer: {simple: RANDOM}}}, \
               {name: v3, trafficPolicy: {loadBalancer: {simple: RANDOM}, portLevelSettings: [{port: {number: 9080}, \
               connectionPool: {tcp: {maxConnections: 1}}}]}}]}",
        ))
        .view();
    let namespace = Namespace::default_namespace();
    let balancer = |subset: &str| {
        service(&view, "reviews").cluster_of(anybody(&namespace), 9080, subset).unwrap().balancer().clone()
    };
    assert_eq!(balancer(""), Balancer::RoundRobin, "the port's, not the service's");
    assert_eq!(balancer("v1"), Balancer::RoundRobin, "a subset without its own");
    assert_eq!(balancer("v2"), Balancer::Random, "the subset's beats the port's");
    assert_eq!(balancer("v3"), Balancer::LeastRequest, "the subset's port has nothing: the default, not what is above");
}

fn host_outcome(view: &MeshView, host: &str, namespace: &str) -> String {
    let namespace = namespace.parse().unwrap();
    let client = Client { namespace: &namespace, workload: None };
    let Some(found) = view.host(host, None, client) else { return "unknown".into() };
    match view.route(found, 80, &get("/").head(), client, 0).map(|matched| matched.action) {
        Some(Action::Forward(forward)) => forward.cluster.name.to_string(),
        Some(Action::Respond(response)) => String::from_utf8(response.body.to_vec()).unwrap(),
        other => format!("{other:?}"),
    }
}

#[test]
fn a_host_that_is_no_service_goes_where_its_virtual_service_says() {
    let answer = |name: &str, hosts: &str| {
        rule(name, hosts, &format!("[{{directResponse: {{status: 200, body: {{string: {name}}}}}}}]"))
    };
    let view = bookinfo()
        .apply(&answer("exact", "[www.Example.com]"))
        .apply(&answer("short", "[away]"))
        .apply(&answer("long", "['*.a.example.com']"))
        .apply(&answer("wild", "['*.example.com', '*.local']"))
        .apply(&answer("private", "[private.org]").replace("{hosts:", "{exportTo: [prod], hosts:"))
        .apply(&rule("to", "[to.org]", "[{route: [{destination: {host: reviews}}]}]"))
        .view();
    for (host, expected) in [
        ("www.example.com", "exact"),
        ("WWW.EXAMPLE.com.", "exact"),
        ("x.example.com", "wild"),
        ("x.a.example.com", "long"),
        ("example.com", "unknown"),
        ("away", "short"),
        ("away.default.svc", "short"),
        ("away.prod", "unknown"),
        ("private.org", "unknown"),
        ("to.org", "outbound|9080||reviews.default.svc.cluster.local"),
        ("unknown.default.svc.cluster.local", "unknown"),
    ] {
        assert_eq!(host_outcome(&view, host, "default"), expected, "{host}");
    }
    assert_eq!(host_outcome(&view, "private.org", "prod"), "private");
    assert_eq!(outcome(&view, &get("/")), "wild", "an end that rules services is for services");
}
