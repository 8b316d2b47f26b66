//! What routes of the Gateway API say at the listeners of Gateways.

use super::{
    gateways::{explained, fate, mesh},
    *,
};
use crate::gateway::{Conflict, Gateway};

fn of_kind(kind: &str, name: &str, spec: &str) -> String {
    let (namespace, name) = name.split_once('/').unwrap_or(("default", name));
    format!(
        "{{apiVersion: gateway.networking.k8s.io/v1, kind: {kind}, metadata: {{name: {name}, namespace: {namespace}}}, \
         spec: {{{spec}}}}}"
    )
}

pub(super) fn gateway(listeners: &str) -> String {
    of_kind("Gateway", "gw", &format!("gatewayClassName: weft, listeners: [{listeners}]"))
}

fn http(name: &str, port: u16, more: &str) -> String {
    format!("{{name: {name}, port: {port}, protocol: HTTP{more}}}")
}

/// A route with a rule of these matches that sends to a service.
pub(super) fn route(name: &str, parents: &str, hostnames: &str, matches: &str, service: &str) -> String {
    let rule = format!("matches: [{matches}], backendRefs: [{{name: {service}, namespace: default, port: 9080}}]");
    of_kind("HTTPRoute", name, &format!("parentRefs: [{parents}], hostnames: [{hostnames}], rules: [{{{rule}}}]"))
}

fn only(view: &MeshView) -> &Gateway {
    view.gateways.named("default", "gw").next().unwrap()
}

#[test]
fn a_route_holds_for_the_hosts_that_it_and_the_listener_mean() {
    for (listener, hostnames, asked, expected) in [
        ("", "", "anything", "a"),
        ("", "a.example.com", "a.example.com", "a"),
        ("", "a.example.com", "b.example.com", "404"),
        (", hostname: a.example.com", "", "a.example.com", "a"),
        (", hostname: a.example.com", "'*.example.com'", "a.example.com", "a"),
        (", hostname: '*.example.com'", "a.example.com, b.example.org", "a.example.com", "a"),
        (", hostname: '*.example.com'", "a.example.com, b.example.org", "b.example.org", "closed"),
        (", hostname: '*.example.com'", "a.example.com", "b.example.com", "404"),
        (", hostname: '*.example.com'", "'*.com'", "x.y.example.com:80", "a"),
        (", hostname: '*.example.com'", "'*.com'", "example.com", "closed"),
    ] {
        let view = mesh()
            .apply(&gateway(&http("l", 80, listener)))
            .apply(&route("r", "{name: gw}", hostnames, "", "a"))
            .view();
        assert_eq!(fate(&view, "gw", asked, "/"), expected, "{listener} {hostnames} {asked}");
    }
}

#[test]
fn the_most_specific_listener_takes_a_request_and_no_other_is_asked() {
    let listeners = [
        http("all", 80, ""),
        http("wild", 80, ", hostname: '*.example.com'"),
        http("one", 80, ", hostname: a.example.com"),
    ];
    let view = mesh()
        .apply(&gateway(&listeners.join(", ")))
        .apply(&route("r", "{name: gw, sectionName: all}", "", "", "a"))
        .apply(&route("s", "{name: gw, sectionName: wild}", "", "{path: {value: /w}}", "b"))
        .apply(&route("t", "{name: gw, sectionName: one}", "", "{path: {value: /t}}", "c"))
        .view();
    for (host, path, expected) in [
        ("a.example.com", "/t", "c"),
        ("a.example.com", "/w", "404"),
        ("b.example.com", "/w", "b"),
        ("b.example.com", "/t", "404"),
        ("example.com", "/t", "a"),
    ] {
        assert_eq!(fate(&view, "gw", host, path), expected, "{host}{path}");
    }
}

#[test]
fn sections_and_ports_of_parents_choose_listeners() {
    let listeners = [http("a", 80, ""), http("b", 81, "")].join(", ");
    for (parent, on_80, on_81) in [
        ("{name: gw}", "a", "a"),
        ("{name: gw, sectionName: a}", "a", "404"),
        ("{name: gw, port: 81}", "404", "a"),
        ("{name: gw, sectionName: a, port: 81}", "404", "404"),
        ("{name: other}", "404", "404"),
        ("{name: gw, namespace: prod}", "404", "404"),
    ] {
        let view = mesh().apply(&gateway(&listeners)).apply(&route("r", parent, "", "", "a")).view();
        let found = ["x:80", "x:81"].map(|host| fate(&view, "gw", host, "/"));
        assert_eq!(found, [on_80, on_81], "{parent}");
    }
}

#[test]
fn listeners_choose_the_namespaces_and_kinds_of_their_routes() {
    let prod = "{apiVersion: v1, kind: Namespace, metadata: {name: prod, labels: {team: x}}}";
    let grant = "{apiVersion: gateway.networking.k8s.io/v1beta1, kind: ReferenceGrant, metadata: {name: g}, spec: {from: \
                 [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: prod}], to: [{group: '', kind: Service}]}}";
    for (allowed, own, other) in [
        ("{}", "a", "404"),
        ("{namespaces: {from: Same}}", "a", "404"),
        ("{namespaces: {from: All}}", "a", "a"),
        ("{namespaces: {from: Selector, selector: {matchLabels: {team: x}}}}", "404", "a"),
        ("{namespaces: {from: All}, kinds: [{kind: GRPCRoute}]}", "404", "404"),
    ] {
        for (namespace, expected) in [("default", own), ("prod", other)] {
            let name = format!("{namespace}/r");
            let view = mesh()
                .apply(prod)
                .apply(grant)
                .apply(&gateway(&http("l", 80, &format!(", allowedRoutes: {allowed}"))))
                .apply(&route(&name, "{name: gw, namespace: default}", "", "", "a"))
                .view();
            assert_eq!(fate(&view, "gw", "x", "/"), expected, "{allowed} from {namespace}");
        }
    }
}

#[test]
fn a_gateways_backend_of_another_namespace_needs_its_grant() {
    let rule = "{backendRefs: [{name: ratings, namespace: prod, port: 9080}]}";
    let grant = |to: &str| {
        let from = "{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: default}";
        of_kind("ReferenceGrant", "prod/g", &format!("from: [{from}], to: [{to}]"))
    };
    let route = of_kind("HTTPRoute", "r", &format!("parentRefs: [{{name: gw}}], rules: [{rule}]"));
    let mesh = mesh().node("other", vec![row("ratings.prod", "ratings-v9")]);
    let mesh = mesh.apply(&gateway(&http("l", 80, ""))).apply(&route);
    let without = mesh.view();
    assert_eq!(fate(&without, "gw", "x", "/"), "500");
    let mut mesh = mesh.apply(&grant("{group: '', kind: Service, name: ratings}"));
    let with = mesh.view_after(Some(&without));
    assert_eq!(fate(&with, "gw", "x", "/"), "ratings", "a grant that comes later counts");
    mesh.documents.pop();
    assert_eq!(fate(&mesh.view_after(Some(&with)), "gw", "x", "/"), "500", "and one that goes");
    let mesh = mesh.apply(&grant("{group: '', kind: Service, name: other}"));
    assert_eq!(fate(&mesh.view(), "gw", "x", "/"), "500");
}

#[test]
fn the_most_precise_match_of_all_routes_for_a_host_wins_then_the_oldest() {
    let view = mesh()
        .apply(&gateway(&http("l", 80, "")))
        .apply(&route("z", "{name: gw}", "a.example.com", "{path: {value: /x}}, {path: {value: /same}}", "a"))
        .apply(&route("y", "{name: gw}", "a.example.com", "{path: {value: /x/y}}, {path: {value: /same}}", "b"))
        .apply(&route("x", "{name: gw}", "a.example.com", "{path: {type: Exact, value: /x}}", "c"))
        .apply(&route("w", "{name: gw}", "", "{path: {value: /}}", "d"))
        .view();
    for (host, path, expected) in [
        ("a.example.com", "/x/y/z", "b"),
        ("a.example.com", "/x", "c"),
        ("a.example.com", "/x/a", "a"),
        ("a.example.com", "/same", "a"),
        ("a.example.com", "/xy", "404"),
        ("b.example.com", "/x", "d"),
    ] {
        assert_eq!(fate(&view, "gw", host, path), expected, "{host}{path}");
    }
}

#[test]
fn a_redirect_names_the_listeners_port_where_none_is_given() {
    let redirect = |fields: &str| {
        let rule = format!("filters: [{{type: RequestRedirect, requestRedirect: {{{fields}}}}}]");
        of_kind("HTTPRoute", "r", &format!("parentRefs: [{{name: gw}}], rules: [{{{rule}}}]"))
    };
    for (fields, host, expected) in [
        ("hostname: b.example.com, statusCode: 301", "a.example.com:8080", "http://b.example.com:8080/x"),
        ("hostname: b.example.com, statusCode: 301", "a.example.com:80", "http://b.example.com/x"),
        ("scheme: https, statusCode: 301", "a.example.com:8080", "https://a.example.com/x"),
        ("port: 8443, scheme: https, statusCode: 301", "a.example.com:80", "https://a.example.com:8443/x"),
    ] {
        let listeners = [http("a", 80, ""), http("b", 8080, "")].join(", ");
        let view = mesh().apply(&gateway(&listeners)).apply(&redirect(fields)).view();
        assert_eq!(fate(&view, "gw", host, "/x"), expected, "{fields} {host}");
    }
}

#[test]
fn backends_that_may_not_be_named_are_answered_with_500() {
    let view = mesh()
        .apply(&gateway(&http("l", 80, ", allowedRoutes: {namespaces: {from: All}}")))
        .apply(&route("prod/r", "{name: gw, namespace: default}", "", "", "a"))
        .view();
    assert_eq!(fate(&view, "gw", "x", "/"), "500");
}

#[test]
fn a_gateway_sees_services_as_a_client_of_its_namespace() {
    let subsets = destination_rule("d", "default", "{host: a, exportTo: ['.'], subsets: [{name: v}]}");
    let view =
        mesh().apply(&subsets).apply(&gateway(&http("l", 80, ""))).apply(&route("r", "{name: gw}", "", "", "a")).view();
    let told = explained(&view, "gw", "x", &get("/"));
    assert!(told.steps.iter().any(|step| step.document == "DestinationRule default/d"), "{told}");
    assert_eq!(only(&view).client_namespace.as_str(), "default");
}

#[test]
fn listeners_of_one_port_are_of_one_transport_and_differ_in_host() {
    let listeners = [
        http("a", 80, ""),
        http("same", 80, ""),
        "{name: tcp, port: 80, protocol: TCP}".to_owned(),
        http("b", 80, ", hostname: b.example.com"),
    ];
    // Refused as such in one document; those of ListenerSets come together later.
    let set = |name: &str, listener: &str| {
        of_kind("ListenerSet", name, &format!("parentRef: {{name: gw}}, listeners: [{listener}]"))
    };
    let open = gateway(&listeners[0]).replace("listeners:", "allowedListeners: {namespaces: {from: Same}}, listeners:");
    let mut mesh = mesh().apply(&open);
    for (name, listener) in ["s", "t", "u"].iter().zip(&listeners[1..]) {
        mesh = mesh.apply(&set(name, listener));
    }
    let parent = "{group: gateway.networking.k8s.io, kind: ListenerSet, name: u}";
    let view = mesh.apply(&route("r", parent, "", "", "a")).view();
    let found: Vec<_> =
        only(&view).listeners.iter().map(|one| (one.owner.name.as_str(), one.name.as_str(), one.conflict)).collect();
    let expected = [
        ("gw", "a", None),
        ("s", "same", Some(Conflict::Hostname)),
        ("t", "tcp", Some(Conflict::Protocol)),
        ("u", "b", None),
    ];
    assert_eq!(found, expected);
    assert_eq!(fate(&view, "gw", "b.example.com", "/"), "a");
    assert_eq!(fate(&view, "gw", "c.example.com", "/"), "404");
}

#[test]
fn connections_follow_tls_routes_by_server_name_and_tcp_routes() {
    let listeners = "{name: pass, port: 443, protocol: TLS, hostname: '*.example.com', tls: {mode: Passthrough}}, \
                     {name: tcp, port: 5432, protocol: TCP}";
    let connection = |kind: &str, name: &str, more: &str, service: &str| {
        let rules = format!("rules: [{{backendRefs: [{{name: {service}, port: 9080}}]}}]");
        let version = if kind == "TCPRoute" { "v1alpha2" } else { "v1" };
        of_kind(kind, name, &format!("parentRefs: [{{name: gw}}], {more}{rules}"))
            .replace("/v1,", &format!("/{version},"))
    };
    let view = mesh()
        .apply(&gateway(listeners))
        .apply(&connection("TLSRoute", "wide", "hostnames: ['*.example.com'], ", "a"))
        .apply(&connection("TLSRoute", "narrow", "hostnames: [b.example.com], ", "b"))
        .apply(&connection("TCPRoute", "old", "", "c"))
        .apply(&connection("TCPRoute", "new", "", "d"))
        .view();
    for (host, expected) in
        [("a.example.com:443", "a"), ("b.example.com:443", "b"), ("example.com:443", "closed"), ("db:5432", "c")]
    {
        assert_eq!(fate(&view, "gw", host, "/"), expected, "{host}");
    }
}

#[test]
fn rules_of_grpc_routes_stand_before_those_of_http_routes() {
    let grpc = of_kind(
        "GRPCRoute",
        "g",
        "parentRefs: [{name: gw}], rules: [{matches: [{method: {service: s}}], backendRefs: [{name: b, port: 9080}]}]",
    );
    let view = mesh()
        .apply(&gateway(&http("l", 80, "")))
        .apply(&route("r", "{name: gw}", "", "{path: {type: Exact, value: /s/m}}, {path: {value: /}}", "a"))
        .apply(&grpc)
        .view();
    for (path, expected) in [("/s/m", "b"), ("/t/m", "a")] {
        assert_eq!(fate(&view, "gw", "x", path), expected, "{path}");
    }
}

#[test]
fn gateways_are_for_the_nodes_with_their_name_and_of_classes_that_are_served() {
    let mut mesh = mesh().node("edge", vec![]);
    let labels = [("gateway.networking.k8s.io/gateway-name".to_owned(), "gw".to_owned())];
    Arc::make_mut(&mut mesh.nodes.last_mut().unwrap().record).labels = labels.into();
    let view = mesh.apply(&gateway(&http("l", 80, ""))).view();
    assert_eq!(only(&view).nodes.iter().map(ToString::to_string).collect::<Vec<_>>(), ["edge"]);
    let other = gateway(&http("l", 80, "")).replace("Name: weft", "Name: other");
    assert_eq!(self::mesh().apply(&other).view().gateways().count(), 0);
}

#[test]
fn hosts_of_listeners_whose_routes_are_the_same_are_taken_over() {
    let mesh = mesh().apply(&gateway(&http("l", 80, ""))).apply(&route("r", "{name: gw}", "a.example.com", "", "a"));
    let view = mesh.view();
    let next = mesh.apply(&route("s", "{name: gw}", "b.example.com", "", "b")).view_after(Some(&view));
    let host = |view: &MeshView| only(view).ports()[0].chain(Some("x")).unwrap().host("a.example.com").unwrap().clone();
    assert!(Arc::ptr_eq(&host(&view), &host(&next)));
    assert_eq!(fate(&next, "gw", "b.example.com", "/"), "b");
}
