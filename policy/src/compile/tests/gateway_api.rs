//! What routes of the Gateway API say to clients inside the mesh.

use super::{
    explain::{explain, steps},
    *,
};
use crate::explain::Outcome;

/// A route of a kind in a namespace, for a service of the default namespace.
pub(super) fn of_kind(kind: &str, name: &str, namespace: &str, fields: &str, rules: &str) -> String {
    format!(
        "{{apiVersion: gateway.networking.k8s.io/v1, kind: {kind}, metadata: {{name: {name}, namespace: {namespace}}}, \
         spec: {{parentRefs: [{{group: '', kind: Service, name: reviews, namespace: default{fields}}}], rules: [{rules}]}}}}"
    )
}

fn http_route(rules: &str) -> String {
    of_kind("HTTPRoute", "r", "default", "", rules)
}

/// Services that requests are told apart by.
const SERVICES: [&str; 4] = ["a", "b", "c", "d"];

/// reviews, and a service for each way that a request may go.
fn mesh() -> Mesh {
    bookinfo().node("other", SERVICES.iter().map(|name| row(name, &format!("{name}-1"))).collect())
}

fn to(service: &str) -> String {
    format!("backendRefs: [{{name: {service}, port: 9080}}]")
}

/// Where a request goes, or what becomes of it.
fn fate_of(matched: Option<Matched<'_>>) -> String {
    match matched.map(|matched| matched.action) {
        Some(Action::Forward(forward)) => forward.service.id.name().to_owned(),
        Some(Action::Redirect { location, .. }) => location,
        Some(Action::Respond(_)) => "answered".into(),
        Some(Action::UnknownCluster) => "503".into(),
        Some(Action::InvalidBackend) => "500".into(),
        None => "404".into(),
    }
}

fn fate(view: &MeshView, request: &Request) -> String {
    fate_of(route(view, request))
}

/// Of a request that a client of a namespace sends to a port of reviews.
fn fate_for(view: &MeshView, namespace: &str, port: u16) -> String {
    let namespace = namespace.parse().unwrap();
    let client = Client { namespace: &namespace, workload: None };
    fate_of(view.route(Host::Service(service(view, "reviews")), port, &get("/").head(), client, 0))
}

#[test]
fn the_most_precise_match_of_all_routes_wins() {
    let view = mesh()
        .apply(&of_kind(
            "HTTPRoute",
            "one",
            "default",
            "",
            &format!(
                "{{{}}}, {{matches: [{{path: {{value: /x}}}}, {{headers: [{{name: v, value: '2'}}]}}], {}}}",
                to("a"),
                to("b")
            ),
        ))
        .apply(&of_kind(
            "HTTPRoute",
            "two",
            "default",
            "",
            &format!("{{matches: [{{path: {{value: /x/y}}}}, {{path: {{type: Exact, value: /x}}}}], {}}}", to("c")),
        ))
        .view();
    for (path, expected) in [("/", "a"), ("/x/z", "b"), ("/x", "c"), ("/x/y/z", "c"), ("/xy", "a")] {
        assert_eq!(fate(&view, &get(path)), expected, "{path}");
    }
    assert_eq!(fate(&view, &get("/").header("v", "2")), "b");
}

#[test]
fn paths_match_exactly_by_segments_or_by_expression() {
    for (path, request, expected) in [
        ("{type: Exact, value: /a}", "/a?q", true),
        ("{type: Exact, value: /a}", "/a/", false),
        ("{type: PathPrefix, value: /a}", "/a", true),
        ("{type: PathPrefix, value: /a}", "/a/", true),
        ("{type: PathPrefix, value: /a}", "/a/b", true),
        ("{type: PathPrefix, value: /a}", "/ab", false),
        ("{type: PathPrefix, value: /a/}", "/a", true),
        ("{type: PathPrefix, value: /a/}", "/ab", false),
        ("{type: PathPrefix, value: /a}", "/A", false),
        ("{type: PathPrefix, value: /}", "/anything", true),
        ("{type: RegularExpression, value: '/a[0-9]'}", "/a1", true),
        ("{type: RegularExpression, value: '/a[0-9]'}", "/a1/", false),
    ] {
        let view = mesh().apply(&http_route(&format!("{{matches: [{{path: {path}}}], {}}}", to("a")))).view();
        assert_eq!(fate(&view, &get(request)), if expected { "a" } else { "404" }, "{path} on {request}");
    }
}

#[test]
fn headers_query_parameters_and_methods_match_together() {
    let matching = |condition: &str, request: &Request| {
        let view = mesh().apply(&http_route(&format!("{{matches: [{condition}], {}}}", to("a")))).view();
        fate(&view, request) == "a"
    };
    let both = "{method: GET, headers: [{name: X-A, value: b}], queryParams: [{name: q, value: '1'}]}";
    assert!(matching(both, &get("/?q=1").header("x-a", "b")));
    assert!(!matching(both, &get("/?q=1")) && !matching(both, &get("/?q=2").header("x-a", "b")));
    assert!(!matching(both, &Request { method: Method::POST, ..get("/?q=1").header("x-a", "b") }));
    let expression = "{headers: [{type: RegularExpression, name: x-a, value: 'b+'}]}";
    assert!(
        matching(expression, &get("/").header("x-a", "bb")) && !matching(expression, &get("/").header("x-a", "bc"))
    );
    let twice = "{headers: [{name: X-A, value: b}, {name: x-a, value: c}]}";
    assert!(matching(twice, &get("/").header("x-a", "b")), "of two entries for a header the first holds");
}

#[test]
fn grpc_methods_match_by_service_method_and_expression() {
    for (method, path, expected) in [
        ("{service: a.S, method: M}", "/a.S/M", true),
        ("{service: a.S, method: M}", "/a.S/N", false),
        ("{service: a.S}", "/a.S/N", true),
        ("{service: a.S}", "/a.S2/N", false),
        ("{method: M}", "/any.S/M", true),
        ("{method: M}", "/any.S/MM", false),
        ("{type: RegularExpression, service: 'a\\..*', method: 'M|N'}", "/a.S/N", true),
        ("{type: RegularExpression, service: 'a\\..*'}", "/b.S/N", false),
    ] {
        let rules = format!("{{matches: [{{method: {method}}}], {}}}", to("a"));
        let view = mesh().apply(&of_kind("GRPCRoute", "r", "default", "", &rules)).view();
        assert_eq!(fate(&view, &get(path)), if expected { "a" } else { "404" }, "{method} on {path}");
    }
}

#[test]
fn a_grpc_route_beats_the_http_routes_of_its_namespace() {
    let view = mesh()
        .apply(&http_route(&format!("{{matches: [{{path: {{type: Exact, value: /}}}}], {}}}", to("a"))))
        .apply(&of_kind("GRPCRoute", "g", "default", "", &format!("{{{}}}", to("b"))))
        .view();
    assert_eq!(fate(&view, &get("/")), "b");
}

#[test]
fn a_parent_may_be_one_port_of_a_service() {
    let on_two_ports = || {
        mesh().apply(
            "{apiVersion: v1, kind: Service, metadata: {name: reviews}, spec: {ports: \
             [{name: http, port: 9080}, {name: alt, port: 80, targetPort: 9080}]}}",
        )
    };
    for (fields, expected) in [
        ("", ["a", "a"]),
        (", port: 80", ["reviews", "a"]),
        (", sectionName: http", ["a", "reviews"]),
        (", port: 81", ["reviews", "reviews"]),
        (", port: 80, sectionName: http", ["reviews", "reviews"]),
    ] {
        let route = of_kind("HTTPRoute", "r", "default", fields, &format!("{{{}}}", to("a")));
        let view = on_two_ports().apply(&route).view();
        assert_eq!([9080, 80].map(|port| fate_for(&view, "default", port)), expected, "{fields}");
    }
}

#[test]
fn a_consumers_routes_beat_the_producers_and_a_third_namespaces_are_ignored() {
    let consumer =
        of_kind("HTTPRoute", "c", "client", "", "{backendRefs: [{name: b, namespace: default, port: 9080}]}");
    let mesh = mesh().apply(&consumer);
    let view = mesh.view();
    assert_eq!(["client", "default", "third"].map(|client| fate_for(&view, client, 9080)), ["b", "reviews", "reviews"]);
    let view = mesh.apply(&http_route(&format!("{{{}}}", to("a")))).view();
    assert_eq!(["client", "default", "third"].map(|client| fate_for(&view, client, 9080)), ["b", "a", "a"]);
}

#[test]
fn a_services_route_may_name_backends_of_any_namespace() {
    for rule in [
        "{backendRefs: [{name: ratings, namespace: prod, port: 9080}]}",
        "{filters: [{type: RequestMirror, requestMirror: {backendRef: {name: ratings, namespace: prod, port: 9080}}}], \
          backendRefs: [{name: ratings, namespace: prod, port: 9080}]}",
    ] {
        assert_eq!(fate(&mesh().apply(&http_route(rule)).view(), &get("/")), "ratings", "{rule}");
    }
}

#[test]
fn what_goes_to_no_valid_backend_is_answered_with_500() {
    for rule in [
        "{}",
        "{backendRefs: [{name: a, port: 9080, weight: 0}]}",
        "{backendRefs: [{name: a, port: 9080, weight: 0}, {name: b, port: 9080, weight: 0}]}",
        "{backendRefs: [{name: missing, port: 9080}]}",
        "{backendRefs: [{name: a, port: 1}]}",
        "{backendRefs: [{group: example.com, kind: Thing, name: a, port: 9080}]}",
    ] {
        assert_eq!(fate(&mesh().apply(&http_route(rule)).view(), &get("/")), "500", "{rule}");
    }
    let service = "{apiVersion: v1, kind: Service, metadata: {name: empty}, spec: {ports: [{port: 80}]}}";
    let view = mesh().apply(service).apply(&http_route("{backendRefs: [{name: empty, port: 80}]}")).view();
    assert!(forward(&view, &get("/")).cluster.endpoints.is_empty(), "one without endpoints is valid");
}

#[test]
fn an_invalid_backend_keeps_its_share() {
    let route = http_route("{backendRefs: [{name: a, port: 9080, weight: 3}, {name: missing, port: 9080, weight: 1}]}");
    let view = mesh().apply(&route).view();
    let client = Client { namespace: &Namespace::default_namespace(), workload: None };
    let reviews = Host::Service(service(&view, "reviews"));
    for (random, expected) in [(0, "a"), (u64::MAX / 4 * 3 - 9, "a"), (u64::MAX / 4 * 3 + 9, "500"), (u64::MAX, "500")]
    {
        assert_eq!(fate_of(view.route(reviews, 9080, &get("/").head(), client, random)), expected, "{random}");
    }
}

/// The path and host that a backend sees.
fn rewritten(condition: &str, rewrite: &str, path: &'static str) -> (Option<String>, Option<String>) {
    let rule =
        format!("{{matches: [{condition}], filters: [{{type: URLRewrite, urlRewrite: {rewrite}}}], {}}}", to("a"));
    let view = mesh().apply(&http_route(&rule)).view();
    let rewrite = forward(&view, &get(path)).rewrite.unwrap();
    (rewrite.path_and_query, rewrite.authority.map(str::to_owned))
}

#[test]
fn a_matched_prefix_is_replaced_by_whole_segments() {
    for (prefix, new, path, expected) in [
        ("/foo", "/xyz", "/foo/bar", "/xyz/bar"),
        ("/foo", "/xyz/", "/foo/bar", "/xyz/bar"),
        ("/foo/", "/xyz", "/foo/bar", "/xyz/bar"),
        ("/foo/", "/xyz/", "/foo/bar?q=1", "/xyz/bar?q=1"),
        ("/foo", "/xyz", "/foo", "/xyz"),
        ("/foo", "/xyz", "/foo/", "/xyz/"),
        ("/foo", "", "/foo/bar", "/bar"),
        ("/foo", "", "/foo/", "/"),
        ("/foo", "", "/foo", "/"),
        ("/foo", "/", "/foo/", "/"),
        ("/foo", "/", "/foo", "/"),
        ("/foo", "/", "/foo/bar", "/bar"),
        ("/", "/xyz", "/bar", "/xyz/bar"),
    ] {
        let rewrite = format!("{{path: {{type: ReplacePrefixMatch, replacePrefixMatch: '{new}'}}}}");
        let (path_and_query, _) = rewritten(&format!("{{path: {{value: {prefix}}}}}"), &rewrite, path);
        assert_eq!(path_and_query.as_deref(), Some(expected), "{prefix} by {new} on {path}");
    }
}

#[test]
fn a_whole_path_and_the_host_are_replaced() {
    let rewrite = "{hostname: example.org, path: {type: ReplaceFullPath, replaceFullPath: /new}}";
    let expected = (Some("/new?q".to_owned()), Some("example.org".to_owned()));
    assert_eq!(rewritten("{path: {value: /a}}", rewrite, "/a/b?q"), expected);
    assert_eq!(rewritten("{}", "{hostname: example.org}", "/a"), (None, Some("example.org".to_owned())));
}

#[test]
fn a_redirect_names_the_port_that_is_given_else_the_schemes_else_the_dialled_one() {
    // The request is for http://reviews:9080.
    for (redirect, expected) in [
        ("{}", "http://reviews:9080/a/b?q"),
        ("{hostname: example.org}", "http://example.org:9080/a/b?q"),
        ("{scheme: https}", "https://reviews/a/b?q"),
        ("{scheme: http}", "http://reviews/a/b?q"),
        ("{port: 8080}", "http://reviews:8080/a/b?q"),
        ("{port: 80}", "http://reviews/a/b?q"),
        ("{scheme: https, port: 443}", "https://reviews/a/b?q"),
        ("{scheme: https, port: 80}", "https://reviews:80/a/b?q"),
        ("{path: {type: ReplaceFullPath, replaceFullPath: /n}}", "http://reviews:9080/n?q"),
        ("{path: {type: ReplacePrefixMatch, replacePrefixMatch: /n/}}", "http://reviews:9080/n/b?q"),
        ("{path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}", "http://reviews:9080/b?q"),
    ] {
        let filters = format!("[{{type: RequestRedirect, requestRedirect: {redirect}}}]");
        let rule = format!("{{matches: [{{path: {{value: /a}}}}], filters: {filters}}}");
        let view = mesh().apply(&http_route(&rule)).view();
        assert_eq!(fate(&view, &get("/a/b?q")), expected, "{redirect}");
        let Some(Action::Redirect { status, .. }) = route(&view, &get("/a/b?q")).map(|one| one.action) else {
            panic!()
        };
        assert_eq!(status.as_u16(), 302);
    }
}

#[test]
fn a_direct_response_answers_by_itself_with_the_rules_headers() {
    let response = "{type: DirectResponse, directResponse: {statusCode: 410, body: {string: gone}}}";
    let header = "{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-a, value: b}]}}";
    let view = mesh().apply(&http_route(&format!("{{filters: [{response}, {header}]}}"))).view();
    let found = route(&view, &get("/")).unwrap();
    let Action::Respond(answer) = found.action else { panic!("{:?}", found.action) };
    assert_eq!((answer.status.as_u16(), &*answer.body), (410, &b"gone"[..]));
    assert_eq!(found.headers.iter().flatten().count(), 1);
}

#[test]
fn a_backend_may_have_filters_of_its_own() {
    let backends = |filter: &str| {
        let rule = format!(
            "{{matches: [{{path: {{value: /a}}}}], backendRefs: [{{name: a, port: 9080, filters: [{filter}]}}]}}"
        );
        mesh().apply(&http_route(&rule)).view()
    };
    let view = backends("{type: RequestRedirect, requestRedirect: {scheme: https}}");
    assert_eq!(fate(&view, &get("/a")), "https://reviews/a");
    let view = backends(
        "{type: URLRewrite, urlRewrite: {hostname: x.org, path: {type: ReplacePrefixMatch, replacePrefixMatch: /b}}}",
    );
    let rewrite = forward(&view, &get("/a/c")).rewrite.unwrap();
    assert_eq!((rewrite.path_and_query.as_deref(), rewrite.authority), (Some("/b/c"), Some("x.org")));
    let view = backends("{type: RequestMirror, requestMirror: {backendRef: {name: b, port: 9080}}}");
    assert_eq!(forward(&view, &get("/a")).mirrors.len(), 1);
    let view = backends("{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x, value: 'a %b'}]}}");
    let headers = route(&view, &get("/a")).unwrap().headers[0].unwrap();
    assert!(!headers.request.has_variables(), "no variables: {headers:?}");
}

#[test]
fn an_authorizer_is_asked_for_a_rule_and_for_a_backend_and_one_that_is_missing_lets_nothing_pass() {
    let auth = |service: &str| {
        format!(
            "{{type: ExternalAuth, externalAuth: {{protocol: HTTP, http: {{}}, backendRef: {{name: {service}, port: 9080}}}}}}"
        )
    };
    let of_rule = |service: &str| http_route(&format!("{{filters: [{}], {}}}", auth(service), to("a")));
    let of_backend = |service: &str| {
        http_route(&format!("{{backendRefs: [{{name: a, port: 9080, filters: [{}]}}]}}", auth(service)))
    };
    let namespace = Namespace::default_namespace();
    for (document, places) in [(of_rule("b"), [1, 0]), (of_backend("b"), [0, 1])] {
        let view = mesh().apply(&document).view();
        assert_eq!(fate(&view, &get("/")), "a");
        let authorizers = *route(&view, &get("/")).unwrap().authorizers.unwrap();
        assert_eq!(authorizers.map(<[_]>::len), places);
        let provider = authorizers.into_iter().flatten().next().unwrap();
        assert_eq!((provider.host.as_str(), provider.port, provider.fail_open), ("b.default", 9080, false));
        let cluster = provider.cluster(&view, Client { namespace: &namespace, workload: None }).unwrap();
        assert_eq!(&*cluster.fqdn, "b.default.svc.cluster.local");
        let told = explain(&view, "reviews:9080", &get("/"));
        let field = if places[0] == 1 { "filters" } else { "backendRefs" };
        assert_eq!(
            steps(&told, "authorizer"),
            [format!("HTTPRoute default/r spec.rules[0].{field}: b.default:9080 is asked first")]
        );
    }
    let redirect =
        format!("{{filters: [{}, {{type: RequestRedirect, requestRedirect: {{hostname: x.org}}}}]}}", auth("b"));
    assert_eq!(
        route(&mesh().apply(&http_route(&redirect)).view(), &get("/")).unwrap().authorizers.unwrap()[0].len(),
        1
    );
    for document in
        [of_rule("missing"), of_backend("missing"), http_route(&redirect.replace("name: b", "name: missing"))]
    {
        let view = mesh().apply(&document).view();
        assert_eq!(fate(&view, &get("/")), "500", "{document}");
        let told = explain(&view, "reviews:9080", &get("/"));
        assert_eq!(told.outcome, Outcome::Answer { status: 500, reason: "invalid_backend".into() });
    }
}

#[test]
fn a_share_of_the_requests_is_mirrored() {
    for (share, expected) in
        [("", 100.0), (", percent: 20", 20.0), (", fraction: {numerator: 1, denominator: 4}", 25.0)]
    {
        let filters =
            format!("[{{type: RequestMirror, requestMirror: {{backendRef: {{name: b, port: 9080}}{share}}}}}]");
        let view = mesh().apply(&http_route(&format!("{{filters: {filters}, {}}}", to("a")))).view();
        let [mirror] = forward(&view, &get("/")).mirrors else { panic!() };
        assert_eq!(mirror.share.percent(), expected, "{share}");
        let client = Client { namespace: &Namespace::default_namespace(), workload: None };
        assert_eq!(view.mirrored(mirror, 9080, client, 0).unwrap().fqdn.to_string(), "b.default.svc.cluster.local");
    }
}

#[test]
fn timeouts_and_retries_are_the_routes() {
    let limits = |fields: &str| {
        let view = mesh().apply(&http_route(&format!("{{{fields}, {}}}", to("a")))).view();
        let forward = forward(&view, &get("/"));
        (forward.timeout.map(|limit| limit.as_millis()), forward.retry.clone())
    };
    let (timeout, retry) = limits("timeouts: {request: 2s, backendRequest: 500ms}");
    assert_eq!((timeout, retry.per_try_timeout.map(|limit| limit.as_millis())), (Some(2000), Some(500)));
    assert_eq!(limits("timeouts: {request: 0s}").0, None, "zero is no limit");
    let (_, retry) = limits("retry: {attempts: 4, codes: [503, 599], backoff: 10ms}");
    assert_eq!(retry.attempts, 4);
    for (code, expected) in [(503, true), (599, true), (500, false)] {
        let status = http::StatusCode::from_u16(code).unwrap();
        assert_eq!(retry.is_on_response(status, &HeaderMap::new()), expected, "{code}");
    }
    use crate::retry::Failure;
    for failure in [Failure::Connect, Failure::Refused, Failure::Reset, Failure::TryTimeout] {
        assert!(retry.is_on_failure(failure), "{failure:?}");
    }
}

#[test]
fn origins_may_have_wildcards_and_stars_are_answered_with_what_is_asked_for() {
    let cors = "{allowOrigins: ['https://www.foo.com', 'https://*.bar.com', 'http://*.baz.com:*'], allowMethods: ['*'], \
                allowHeaders: ['*'], allowCredentials: true}";
    let rule = format!("{{filters: [{{type: CORS, cors: {cors}}}], {}}}", to("a"));
    let view = mesh().apply(&http_route(&rule)).view();
    let answer = |origin: &str| {
        let request = Request { method: Method::OPTIONS, ..get("/") }
            .header("origin", origin)
            .header("access-control-request-method", "PUT")
            .header("access-control-request-headers", "x-a, x-b");
        match route(&view, &request).unwrap().cors.unwrap().decide(&request.method, &request.headers) {
            crate::cors::CorsOutcome::Answer(headers) => headers,
            other => panic!("{other:?}"),
        }
    };
    for origin in ["https://www.foo.com", "https://a.bar.com", "https://a.b.bar.com", "http://a.baz.com:81"] {
        let headers = answer(origin);
        assert_eq!(headers["access-control-allow-origin"], origin);
        assert_eq!(headers["access-control-allow-methods"], "PUT");
        assert_eq!(headers["access-control-allow-headers"], "x-a, x-b");
        assert_eq!(headers["access-control-max-age"], "5");
    }
    for origin in
        ["https://foo.com", "https://bar.com", "http://a.bar.com", "https://a.bar.com.evil", "http://a.baz.com"]
    {
        assert!(!answer(origin).contains_key("access-control-allow-origin"), "{origin}");
    }
}

#[test]
fn cors_of_a_backend_comes_before_that_of_the_rule_and_is_for_its_requests_alone() {
    let cors = |origin: &str| format!("filters: [{{type: CORS, cors: {{allowOrigins: ['https://{origin}']}}}}]");
    let rule = format!(
        "{{{}, backendRefs: [{{name: a, port: 9080, {}}}, {{name: b, port: 9080}}]}}",
        cors("rule"),
        cors("backend")
    );
    let view = mesh().apply(&http_route(&rule)).view();
    let request = get("/").header("origin", "https://backend");
    let namespace = Namespace::default_namespace();
    let client = Client { namespace: &namespace, workload: None };
    let mut seen = std::collections::BTreeSet::new();
    for random in (0..8).map(|eighth| eighth << 61) {
        let reviews = Host::Service(service(&view, "reviews"));
        let matched = view.route(reviews, 9080, &request.head(), client, random).unwrap();
        let Action::Forward(forward) = &matched.action else { panic!("{matched:?}") };
        let outcome = matched.cors.unwrap().decide(&request.method, &request.headers);
        let is_allowed = matches!(outcome, crate::cors::CorsOutcome::Allow(_));
        seen.insert((forward.cluster.fqdn.to_string(), is_allowed));
    }
    let host = |name: &str| format!("{name}.default.svc.cluster.local");
    assert_eq!(seen, [(host("a"), true), (host("b"), false)].into());
}

#[test]
fn of_a_route_and_a_virtual_service_the_older_holds() {
    let service = rule("v", "[reviews]", "[{route: [{destination: {host: b}}]}]");
    let wildcard = rule("w", "['*.default.svc.cluster.local']", "[{route: [{destination: {host: c}}]}]");
    let route = http_route(&format!("{{{}}}", to("a")));
    assert_eq!(fate(&mesh().apply(&service).apply(&route).view(), &get("/")), "b");
    assert_eq!(fate(&mesh().apply(&route).apply(&service).view(), &get("/")), "a");
    assert_eq!(fate(&mesh().apply(&wildcard).apply(&route).view(), &get("/")), "a", "a wildcard is less specific");
}

#[test]
fn a_tcp_route_splits_connections() {
    let route = of_kind(
        "TCPRoute",
        "t",
        "default",
        "",
        "{backendRefs: [{name: a, port: 9080, weight: 1}, {name: missing, port: 9080, weight: 1}, {name: b, port: 9080, weight: 0}]}",
    );
    let view = mesh().apply(&route).view();
    let client = Client { namespace: &Namespace::default_namespace(), workload: None };
    let destination =
        |random| match view.route_tcp(service(&view, "reviews"), 9080, client, Destination::default(), random) {
            TcpRouting::Forward(service, _) => service.id.to_string(),
            TcpRouting::NoRoute | TcpRouting::UnknownCluster => "none".into(),
        };
    assert_eq!([destination(0), destination(u64::MAX)], ["a.default", "none"]);
    assert_eq!(fate(&view, &get("/")), "reviews", "HTTP requests do not ask it");
}

#[test]
fn a_tls_route_goes_by_the_server_that_the_client_names() {
    let tls_route = |name: &str, fields: &str, hostnames: &str, to: &str| {
        let route =
            of_kind("TLSRoute", name, "default", fields, &format!("{{backendRefs: [{{name: {to}, port: 9080}}]}}"));
        route.replace("spec: {", &format!("spec: {{hostnames: [{hostnames}], ")).replace("/v1,", "/v1alpha2,")
    };
    let client = Client { namespace: &Namespace::default_namespace(), workload: None };
    let destination = |view: &MeshView, name: Option<&str>| match view.route_tcp(
        service(view, "reviews"),
        9080,
        client,
        Destination { address: None, server_name: name },
        0,
    ) {
        TcpRouting::Forward(service, _) => service.id.name().to_owned(),
        other => format!("{other:?}"),
    };
    let routes = mesh()
        .apply(&tls_route("wide", "", "'*.example.com'", "a"))
        .apply(&tls_route("close", "", "a.example.com", "b"))
        .apply(&tls_route("missing", "", "c.example.com", "nobody"));
    let view = routes.view();
    assert!(view.reads_server_name(service(&view, "reviews"), 9080, client, None));
    for (name, expected) in [
        (Some("a.example.com"), "b"),
        (Some("A.EXAMPLE.com"), "b"),
        (Some("b.example.com"), "a"),
        (Some("c.example.com"), "UnknownCluster"),
        (Some("example.com"), "NoRoute"),
        (None, "NoRoute"),
    ] {
        assert_eq!(destination(&view, name), expected, "{name:?}");
    }
    let rest = of_kind("TCPRoute", "rest", "default", "", "{backendRefs: [{name: c, port: 9080}]}");
    let view = routes.apply(&rest).view();
    assert_eq!(destination(&view, Some("other.org")), "c", "what no TLSRoute takes is for TCPRoutes");
    let any = mesh().apply(&tls_route("any", "", "", "d")).view();
    assert_eq!(destination(&any, Some("other.org")), "d", "without hostnames any name will do");
    let of_port = mesh().apply(&tls_route("other-port", ", port: 1", "a.example.com", "b")).view();
    assert!(!of_port.reads_server_name(service(&of_port, "reviews"), 9080, client, None));
}

#[test]
fn rules_of_routes_are_kept_while_only_endpoints_change() {
    let mut mesh = mesh().apply(&http_route(&format!("{{{}}}", to("a"))));
    let before = mesh.view();
    Arc::make_mut(&mut mesh.nodes[0].record).endpoints[0].health = EndpointHealth::Unhealthy;
    let after = mesh.view_after(Some(&before));
    let rules = |view: &MeshView| service(view, "reviews").of_routes[0].clone();
    assert!(!Arc::ptr_eq(service(&before, "reviews"), service(&after, "reviews")));
    assert!(Arc::ptr_eq(&rules(&before), &rules(&after)));
}

#[test]
fn a_rule_is_named_by_its_name_else_by_its_place() {
    let rules = format!("{{name: first, matches: [{{path: {{value: /a}}}}], {}}}, {{{}}}", to("a"), to("b"));
    let view = mesh().apply(&http_route(&rules)).view();
    let named = route(&view, &get("/a")).unwrap();
    let origin = named.origin.unwrap();
    assert_eq!((named.route_name, origin.rule, origin.condition), ("first", 0, Some(0)));
    assert_eq!(route(&view, &get("/")).unwrap().route_name, "default.r.1");
}

#[test]
fn a_session_stays_with_its_endpoint_and_so_with_its_destination() {
    let rules = "{sessionPersistence: {type: Header, sessionName: x-session, absoluteTimeout: 1h}, \
                 backendRefs: [{name: a, port: 9080, weight: 1}, {name: b, port: 9080, weight: 99}]}";
    let view = mesh().apply(&http_route(rules)).view();
    let [a, b] = ["a", "b"].map(|name| service(&view, name).cluster(9080).unwrap().endpoints[0].clone());
    let home = |matched: &Matched<'_>| matched.session().unwrap().endpoint().map(|home| home.key.clone());
    let start = get("/");
    let new = route(&view, &start).unwrap();
    assert_eq!(home(&new), None);
    let mut told = HeaderMap::new();
    for (endpoint, name) in [(&a, "a"), (&b, "b")] {
        new.session().unwrap().tell(endpoint, 1_000, &mut told);
        let request = Request { headers: told.clone(), ..get("/") };
        let matched = route(&view, &request).unwrap();
        assert_eq!(home(&matched), Some(endpoint.key.clone()));
        let session = matched.session().unwrap();
        assert!(session.has_ended(3_601_000) && !session.has_ended(3_600_999));
        assert_eq!(fate(&view, &request), name, "whatever the weights");
    }
    let gone = mesh().apply(&http_route(&rules.replace("name: b,", "name: c,"))).view();
    let request = Request { headers: told, ..get("/") };
    assert_eq!(home(&route(&gone, &request).unwrap()), None, "b is no destination any more");
}

#[test]
fn a_sessions_cookie_is_for_the_path_of_its_rule() {
    for (matches, path) in [
        ("", "/"),
        ("matches: [{path: {value: /shop}}], ", "/shop"),
        ("matches: [{path: {value: /shop}}, {path: {type: Exact, value: /shop}, method: GET}], ", "/shop"),
        ("matches: [{path: {value: /shop}}, {path: {value: /cart}}], ", "/"),
        ("matches: [{path: {type: RegularExpression, value: '/s.*'}}], ", "/"),
    ] {
        let session =
            "sessionPersistence: {sessionName: s, absoluteTimeout: 1h, cookieConfig: {lifetimeType: Permanent}}";
        let view = mesh().apply(&http_route(&format!("{{{matches}{session}, {}}}", to("a")))).view();
        let request = get("/shop");
        let matched = route(&view, &request).unwrap();
        let mut headers = HeaderMap::new();
        let endpoint = &service(&view, "a").cluster(9080).unwrap().endpoints[0];
        matched.session().unwrap().tell(endpoint, 0, &mut headers);
        let cookie = headers["set-cookie"].to_str().unwrap();
        assert!(cookie.ends_with(&format!("; Max-Age=3600; Path={path}; HttpOnly")), "{matches}: {cookie}");
    }
}
