//! What VirtualServices say at Istio's Gateways. Section "D-ROUTE" of Istio's rules, 15.

use super::*;
use crate::{
    explain::{
        Outcome, RouteExplanation,
        gateway::{GatewayQuestion, explain_gateway},
    },
    gateway::{Conflict, ListenerProtocol},
};

/// Services that requests are told apart by.
const SERVICES: [&str; 4] = ["a", "b", "c", "d"];

pub(super) fn mesh() -> Mesh {
    Mesh::new().node("here", SERVICES.iter().map(|name| row(name, &format!("{name}-1"))).collect())
}

fn istio(kind: &str, name: &str, spec: &str) -> String {
    let (namespace, name) = name.split_once('/').unwrap_or(("default", name));
    format!(
        "{{apiVersion: networking.istio.io/v1, kind: {kind}, metadata: {{name: {name}, namespace: {namespace}}}, spec: \
         {{{spec}}}}}"
    )
}

/// A Gateway for nodes with the label `istio: ingress`.
pub(super) fn gateway(name: &str, servers: &str) -> String {
    istio("Gateway", name, &format!("selector: {{istio: ingress}}, servers: [{servers}]"))
}

/// A server of plain HTTP.
pub(super) fn http(port: u16, hosts: &str) -> String {
    format!("{{port: {{number: {port}, name: http, protocol: HTTP}}, hosts: {hosts}}}")
}

/// A VirtualService with all of its rules given.
pub(super) fn bound(name: &str, gateways: &str, hosts: &str, http: &str) -> String {
    istio("VirtualService", name, &format!("hosts: {hosts}, gateways: {gateways}, http: [{http}]"))
}

/// A rule that sends to a service of the namespace `default`.
pub(super) fn to(service: &str) -> String {
    format!("route: [{{destination: {{host: {service}.default.svc.cluster.local}}}}]")
}

fn at(path: &str, service: &str) -> String {
    format!("{{match: [{{uri: {{prefix: {path}}}}}], {}}}", to(service))
}

pub(super) fn explained(view: &MeshView, gateway: &str, host: &str, request: &Request) -> RouteExplanation {
    let question = GatewayQuestion {
        gateway,
        namespace: &Namespace::default_namespace(),
        to: host,
        method: &request.method,
        path_and_query: request.path,
        scheme: "http",
        headers: &request.headers,
        now_ms: 0,
    };
    explain_gateway(view, &question).unwrap()
}

/// The service that a request for a path goes to, or what becomes of it.
pub(super) fn fate(view: &MeshView, gateway: &str, host: &str, path: &'static str) -> String {
    let told = explained(view, gateway, host, &get(path));
    match (told.outcome, told.shares.first()) {
        (Outcome::Forward, Some(share)) => {
            let name = share.cluster.rsplit('|').next().unwrap_or_default();
            name.split('.').next().unwrap_or_default().to_owned()
        }
        (Outcome::Forward, None) => "nowhere".into(),
        (Outcome::Answer { status: 301, reason }, _) => reason.replace("redirect to ", ""),
        (Outcome::Answer { status, .. }, _) => status.to_string(),
        (Outcome::Closed { .. }, _) => "closed".into(),
    }
}

fn compiled<'v>(view: &'v MeshView, name: &str) -> &'v crate::gateway::Gateway {
    view.gateways.named("default", name).next().unwrap()
}

#[test]
fn a_virtual_service_holds_at_a_gateway_for_the_hosts_that_both_name() {
    for (server, service, asked, expected) in [
        ("['*.example.com']", "[a.example.com]", "a.example.com", "a"),
        ("['*.example.com']", "[a.example.com]", "b.example.com", "404"),
        ("[a.example.com]", "['*.example.com']", "a.example.com", "a"),
        ("[a.example.com]", "['*.example.com']", "b.example.com", "404"),
        ("['*']", "['*']", "anything", "a"),
        ("['*.example.com']", "['*.example.com']", "example.com", "404"),
        ("['*.example.com']", "[example.com]", "example.com", "404"),
        ("['*']", "[A.Example.com]", "a.exAMPLE.com:80", "a"),
        ("['*']", "[10.0.0.1]", "10.0.0.1", "a"),
        ("['*']", "['2001:db8::1']", "[2001:db8::1]:80", "a"),
        // A short name is the service's full one.
        ("['*']", "[a]", "a.default.svc.cluster.local", "a"),
        ("['*']", "[a]", "a", "404"),
    ] {
        let view = mesh()
            .apply(&gateway("gw", &http(80, server)))
            .apply(&bound("v", "[gw]", service, &format!("{{{}}}", to("a"))))
            .view();
        assert_eq!(fate(&view, "gw", asked, "/"), expected, "{server} {service} {asked}");
    }
}

#[test]
fn a_server_says_whose_virtual_services_may_bind() {
    for (hosts, own, other) in [
        ("['*/a.example.com']", "a", "a"),
        ("[a.example.com]", "a", "a"),
        ("[./a.example.com]", "a", "404"),
        ("[prod/a.example.com]", "404", "a"),
        ("[none/a.example.com]", "404", "404"),
    ] {
        for (namespace, expected) in [("default", own), ("prod", other)] {
            let rules = format!("{{{}}}", to("a"));
            let view = mesh()
                .apply(&gateway("gw", &http(80, hosts)))
                .apply(&bound(&format!("{namespace}/v"), "[default/gw]", "[a.example.com]", &rules))
                .view();
            assert_eq!(fate(&view, "gw", "a.example.com", "/"), expected, "{hosts} from {namespace}");
        }
    }
}

#[test]
fn gateways_are_named_from_where_the_virtual_service_stands() {
    for (named, namespace, expected) in [
        ("gw", "default", "a"),
        ("gw", "prod", "404"),
        ("default/gw", "prod", "a"),
        ("gw.default", "prod", "a"),
        ("gw.default.svc.cluster.local", "prod", "a"),
        ("mesh", "default", "404"),
    ] {
        let rules = format!("{{{}}}", to("a"));
        let view = mesh()
            .apply(&gateway("gw", &http(80, "['*']")))
            .apply(&bound(&format!("{namespace}/v"), &format!("[{named}]"), "[a.example.com]", &rules))
            .view();
        assert_eq!(fate(&view, "gw", "a.example.com", "/"), expected, "{named} from {namespace}");
    }
}

#[test]
fn rules_for_one_host_are_one_list_the_oldest_first_with_catch_alls_last() {
    let rest = |service: &str| format!("{{{}}}", to(service));
    let view = mesh()
        .apply(&gateway("gw", &http(80, "['*']")))
        .apply(&bound("old", "[gw]", "[a.example.com]", &format!("{}, {}", at("/x", "a"), rest("b"))))
        .apply(&bound(
            "new",
            "[gw]",
            "[a.example.com]",
            &format!("{}, {}, {}", at("/x", "c"), at("/y", "c"), rest("d")),
        ))
        .view();
    for (path, expected) in [("/x", "a"), ("/y", "c"), ("/", "b")] {
        assert_eq!(fate(&view, "gw", "a.example.com", path), expected, "{path}");
    }
}

#[test]
fn what_is_written_after_a_catch_all_is_never_asked() {
    for catch_all in [
        to("a"),
        format!("match: [{{uri: {{prefix: /}}}}], {}", to("a")),
        format!("match: [{{uri: {{regex: '.*'}}}}, {{uri: {{prefix: /x}}}}], {}", to("a")),
    ] {
        let view = mesh()
            .apply(&gateway("gw", &http(80, "['*']")))
            .apply(&bound("v", "[gw]", "[a.example.com]", &format!("{{{catch_all}}}, {}", at("/x", "b"))))
            .apply(&bound("w", "[gw]", "[a.example.com]", &at("/y", "c")))
            .view();
        for (path, expected) in [("/x", "a"), ("/y", "c"), ("/", "a")] {
            assert_eq!(fate(&view, "gw", "a.example.com", path), expected, "{catch_all} {path}");
        }
    }
}

#[test]
fn a_condition_among_several_that_matches_all_is_tried_last() {
    let view = mesh()
        .apply(&gateway("gw", &http(80, "['*']")))
        .apply(&bound(
            "v",
            "[gw]",
            "[a.example.com]",
            &format!("{{match: [{{uri: {{prefix: /x}}}}, {{uri: {{prefix: /}}}}], {}}}", to("a")),
        ))
        .apply(&bound("w", "[gw]", "[a.example.com]", &format!("{}, {}", at("/x", "b"), at("/y", "b"))))
        .view();
    for (path, expected) in [("/x", "a"), ("/y", "b"), ("/z", "a")] {
        assert_eq!(fate(&view, "gw", "a.example.com", path), expected, "{path}");
    }
}

#[test]
fn the_most_specific_host_decides_and_no_other_is_asked() {
    let view = mesh()
        .apply(&gateway("gw", &http(80, "['*']")))
        .apply(&bound("v", "[gw]", "['*.example.com']", &format!("{{{}}}", to("a"))))
        .apply(&bound("w", "[gw]", "[x.example.com]", &at("/w", "b")))
        .view();
    for (host, path, expected) in
        [("x.example.com", "/w", "b"), ("x.example.com", "/", "404"), ("y.example.com", "/w", "a")]
    {
        assert_eq!(fate(&view, "gw", host, path), expected, "{host}{path}");
    }
}

#[test]
fn conditions_may_name_gateways_and_then_say_nothing_of_the_client() {
    let condition = |fields: &str, service: &str| format!("{{match: [{{{fields}}}], {}}}", to(service));
    let rules = [
        condition("gateways: [mesh]", "a"),
        condition("gateways: [other], uri: {prefix: /x}", "b"),
        condition("gateways: [gw], sourceLabels: {app: never}, sourceNamespace: never, uri: {prefix: /x}", "c"),
        condition("sourceLabels: {app: never}, uri: {prefix: /y}", "d"),
        condition("sourceNamespace: default, uri: {prefix: /y}", "d"),
        condition("sourceLabels: {istio: ingress}, sourceNamespace: istio-system, uri: {prefix: /z}", "d"),
    ];
    let view = mesh()
        .apply(&gateway("gw", &http(80, "['*']")))
        .apply(&gateway("other", &http(81, "['*']")))
        .apply(&bound("v", "[gw, other, mesh]", "[a.example.com]", &rules.join(", ")))
        .view();
    for (gateway, host, path, expected) in [
        ("gw", "a.example.com", "/", "404"),
        ("gw", "a.example.com", "/x", "c"),
        ("gw", "a.example.com", "/y", "404"),
        ("gw", "a.example.com", "/z", "d"),
        ("other", "a.example.com:81", "/x", "b"),
        ("other", "a.example.com:81", "/z", "d"),
    ] {
        assert_eq!(fate(&view, gateway, host, path), expected, "{gateway} {path}");
    }
}

#[test]
fn mesh_beside_gateways_holds_for_clients_inside_as_ever() {
    for (gateways, inside, outside) in [("[gw]", "a", "b"), ("[gw, mesh]", "b", "b"), ("[mesh]", "b", "404")] {
        let view = mesh()
            .apply(&gateway("gw", &http(80, "['*']")))
            .apply(&bound("v", gateways, "[a]", &format!("{{{}}}", to("b"))))
            .view();
        let client = Client { namespace: &Namespace::default_namespace(), workload: None };
        let matched = view.route(Host::Service(service(&view, "a")), 9080, &get("/").head(), client, 0).unwrap();
        let Action::Forward(forward) = matched.action else { panic!() };
        assert_eq!(forward.service.id.name(), inside, "{gateways}");
        assert_eq!(fate(&view, "gw", "a.default.svc.cluster.local", "/"), outside, "{gateways}");
    }
}

#[test]
fn the_port_is_the_gateways() {
    let two = "{apiVersion: v1, kind: Service, metadata: {name: two}, spec: {ports: [{name: http, port: 80}, {name: http-b, port: 81}]}}";
    let rules = format!("{{match: [{{port: 81}}], {}}}, {{route: [{{destination: {{host: two}}}}]}}", to("a"));
    let view = mesh()
        .apply(two)
        .apply(&gateway("gw", &[http(80, "['*']"), http(81, "['*']").replace("name: http", "name: b")].join(", ")))
        .apply(&bound("v", "[gw]", "[a.example.com]", &rules))
        .view();
    assert_eq!(fate(&view, "gw", "a.example.com:81", "/"), "a");
    // A destination without port: the only one of the service, else the one that the client dialled.
    let told = explained(&view, "gw", "a.example.com:80", &get("/"));
    assert_eq!(told.shares[0].cluster, "outbound|80||two.default.svc.cluster.local");
    assert_eq!(fate(&view, "gw", "a.example.com:82", "/"), "closed");
}

#[test]
fn https_redirect_sends_to_the_same_place_before_any_rule() {
    let server =
        http(80, "['*.example.com', prod/only.example.org]").replace("hosts:", "tls: {httpsRedirect: true}, hosts:");
    let view = mesh()
        .apply(&gateway("gw", &server))
        .apply(&bound("v", "[gw]", "[a.example.com]", &format!("{{{}}}", to("a"))))
        .view();
    for (host, expected) in [
        ("a.example.com", "https://a.example.com/x?y"),
        ("a.example.com:80", "https://a.example.com:80/x?y"),
        ("b.example.com", "https://b.example.com/x?y"),
        ("only.example.org", "https://only.example.org/x?y"),
        ("example.org", "404"),
    ] {
        assert_eq!(fate(&view, "gw", host, "/x?y"), expected, "{host}");
    }
}

fn tls(port: u16, name: &str, protocol: &str, hosts: &str, tls: &str) -> String {
    format!("{{port: {{number: {port}, name: {name}, protocol: {protocol}}}, hosts: {hosts}, tls: {{{tls}}}}}")
}

#[test]
fn servers_of_tls_share_a_port_by_server_name_and_keep_what_they_ask_for() {
    let servers = [
        tls(443, "one", "HTTPS", "[a.example.com]", "mode: SIMPLE, credentialName: one, minProtocolVersion: TLSV1_3"),
        tls(443, "two", "HTTPS", "[b.example.com]", "mode: MUTUAL, credentialName: default/two"),
        tls(443, "pass", "TLS", "[c.example.com]", "mode: PASSTHROUGH"),
        tls(443, "again", "HTTPS", "[x.example.com, a.example.com]", "mode: SIMPLE, credentialName: three"),
        tls(443, "ended", "TLS", "[e.example.com]", "mode: SIMPLE, credentialName: four"),
    ];
    let view = mesh()
        .apply(&gateway("gw", &servers.join(", ")))
        .apply(&bound("v", "[gw]", "['*.example.com']", &format!("{{{}}}", to("a"))))
        .apply(&istio(
            "VirtualService",
            "t",
            "gateways: [gw], hosts: [c.example.com, e.example.com], tls: [{match: [{sniHosts: [c.example.com]}], route: \
             [{destination: {host: c}}]}], tcp: [{route: [{destination: {host: d}}]}]",
        ))
        .view();
    for (host, expected) in [
        ("a.example.com", "a"),
        ("b.example.com", "a"),
        ("c.example.com", "c"),
        ("e.example.com", "d"),
        ("x.example.com", "closed"),
    ] {
        assert_eq!(fate(&view, "gw", host, "/"), expected, "{host}");
    }
    let gateway = compiled(&view, "gw");
    let conflicts: Vec<_> = gateway.listeners.iter().map(|listener| listener.conflict).collect();
    assert_eq!(conflicts, [None, None, None, Some(Conflict::Hostname), None]);
    let settings = |host: &str| gateway.ports()[0].chain(Some(host)).unwrap().tls.clone();
    let one = settings("a.example.com").unwrap();
    assert_eq!(one.credentials[0].to_string(), "istio-system/one");
    assert_eq!(one.min_version, Some(crate::api::networking::TlsProtocol::Tls13));
    assert_eq!(settings("b.example.com").unwrap().credentials[0].to_string(), "default/two");
    assert_eq!(settings("c.example.com"), None);
}

#[test]
fn gateways_of_one_selector_share_ports_and_the_oldest_stands() {
    let tcp = "{port: {number: 80, name: tcp, protocol: TCP}, hosts: ['*']}";
    let elsewhere = gateway("elsewhere", tcp).replace("ingress", "egress");
    let view = mesh()
        .apply(&gateway("old", &http(80, "['*.example.com']")))
        .apply(&gateway("tcp", tcp))
        .apply(&elsewhere)
        .apply(&gateway("new", &http(80, "['*.example.com', b.example.org]")))
        .apply(&bound("v", "[new]", "[a.example.com]", &format!("{}, {{{}}}", at("/x", "b"), to("b"))))
        .apply(&bound("w", "[old]", "[a.example.com]", &at("/x", "a")))
        .view();
    for gateway in ["old", "new", "tcp"] {
        // Of several gateways the oldest's rules come first, however old they are.
        assert_eq!(fate(&view, gateway, "a.example.com", "/x"), "a", "{gateway}");
        assert_eq!(fate(&view, gateway, "a.example.com", "/"), "b", "{gateway}");
    }
    assert_eq!(compiled(&view, "tcp").listeners[0].conflict, Some(Conflict::Protocol));
    assert_eq!(compiled(&view, "elsewhere").listeners[0].conflict, None);
    assert_eq!(compiled(&view, "new").listeners[0].attached.len(), 1);
}

#[test]
fn gateways_are_for_the_nodes_that_have_all_labels_of_their_selector() {
    let labels = |mesh: Mesh, labels: &[(&str, &str)]| {
        let mut mesh = mesh;
        let node = mesh.nodes.last_mut().unwrap();
        Arc::make_mut(&mut node.record).labels =
            labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        mesh
    };
    let mesh = labels(mesh().node("b", vec![]), &[("istio", "ingress"), ("zone", "x")]);
    let mesh = labels(mesh.node("a", vec![]), &[("istio", "ingress")]);
    let zone = gateway("zone", &http(80, "[b.example.com]")).replace("ingress}", "ingress, zone: x}");
    let nobody = gateway("nobody", &http(80, "['*']")).replace("istio: ingress", "istio: egress");
    let open = gateway("open", &http(80, "['*']")).replace("istio: ingress", "");
    let view = mesh
        .apply(&gateway("all", &http(80, "[a.example.com]")))
        .apply(&zone)
        .apply(&nobody)
        .apply(&open)
        .apply(&bound("v", "[all, zone]", "['*.example.com']", &format!("{{{}}}", to("a"))))
        .view();
    let nodes = |name: &str| compiled(&view, name).nodes.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(nodes("all"), ["a", "b"]);
    assert_eq!(nodes("zone"), ["b"]);
    assert!(nodes("nobody").is_empty() && nodes("open").is_empty());
    assert!(compiled(&view, "nobody").not_programmed().contains("some that no node has"));
    // Where `zone` is served, `all` is served too; on its first node it is alone.
    assert_eq!(fate(&view, "zone", "a.example.com", "/"), "a");
    assert_eq!(fate(&view, "all", "b.example.com", "/"), "404");
}

#[test]
fn export_to_counts_as_seen_from_the_namespace_of_gateways() {
    for (export_to, expected) in [("'*'", "a"), (".", "404"), ("istio-system", "a"), ("prod", "404")] {
        let service = bound("v", "[gw]", "[a.example.com]", &format!("{{{}}}", to("a")));
        let service = service.replace("hosts:", &format!("exportTo: [{export_to}], hosts:"));
        let view = mesh().apply(&gateway("gw", &http(80, "['*']"))).apply(&service).view();
        assert_eq!(fate(&view, "gw", "a.example.com", "/"), expected, "{export_to}");
    }
}

#[test]
fn delegates_hold_at_gateways_and_conditions_name_gateways_from_their_own_namespace() {
    let leaf = istio("VirtualService", "prod/leaf", &format!("http: [{}, {{{}}}]", at("/x/y", "a"), to("b")));
    let root = bound(
        "root",
        "[gw]",
        "[a.example.com]",
        "{match: [{uri: {prefix: /x}, gateways: [gw]}], delegate: {name: leaf, namespace: prod}}",
    );
    let view = mesh().apply(&gateway("gw", &http(80, "['*']"))).apply(&leaf).apply(&root).view();
    for (path, expected) in [("/x/y", "a"), ("/x", "b"), ("/", "404")] {
        assert_eq!(fate(&view, "gw", "a.example.com", path), expected, "{path}");
    }
}

#[test]
fn connections_follow_the_rules_for_tcp_of_the_gateways_port() {
    let rules = "gateways: [gw], hosts: ['*'], tcp: [{match: [{port: 31400}], route: [{destination: {host: a, port: {number: 9080}}}]}, \
                 {match: [{port: 31401, gateways: [other]}], route: [{destination: {host: b, port: {number: 9080}}}]}]";
    let server =
        |port: u16, name: &str| format!("{{port: {{number: {port}, name: {name}, protocol: TCP}}, hosts: ['*']}}");
    let view = mesh()
        .apply(&gateway("gw", &format!("{}, {}", server(31400, "tcp"), server(31401, "tcp-b"))))
        .apply(&istio("VirtualService", "v", rules))
        .view();
    assert_eq!(fate(&view, "gw", "anything:31400", "/"), "a");
    assert_eq!(fate(&view, "gw", "anything:31401", "/"), "closed");
    assert_eq!(compiled(&view, "gw").listeners[0].protocol, ListenerProtocol::Tcp);
}

#[test]
fn an_explanation_says_which_documents_decide_and_that_no_listener_serves_it() {
    let view = mesh()
        .apply(&gateway("gw", &tls(443, "https", "HTTPS", "['*']", "mode: SIMPLE, credentialName: cert")))
        .apply(&bound("v", "[gw]", "['*.example.com']", &format!("{}, {{{}}}", at("/x", "a"), to("b"))))
        .view();
    let told = explained(&view, "gw", "a.example.com", &get("/"));
    let text = told.to_string();
    for words in [
        "its selector has no labels, or some that no node has  [Gateway default/gw spec.selector]",
        "no gateway listeners yet",
        "port 443 is https (HTTPS), which ends TLS with istio-system/cert  [Gateway default/gw]",
        "a.example.com is for the rules of *.example.com",
        "passed over: the path is /, not prefix /x  [VirtualService default/v spec.http[0].match[0]]",
        "matches  [VirtualService default/v spec.http[1]]",
        "100% to outbound|9080||b.default.svc.cluster.local",
    ] {
        assert!(text.contains(words), "{words} in {text}");
    }
    let question = GatewayQuestion {
        gateway: "prod/gw",
        namespace: &Namespace::default_namespace(),
        to: "a",
        method: &Method::GET,
        path_and_query: "/",
        scheme: "http",
        headers: &HeaderMap::new(),
        now_ms: 0,
    };
    assert!(explain_gateway(&view, &question).unwrap_err().contains("no Gateway gw in namespace prod"));
}

#[test]
fn gateways_that_have_not_changed_are_taken_over() {
    let mesh = mesh().apply(&gateway("gw", &http(80, "['*']"))).apply(&bound(
        "v",
        "[gw]",
        "[a.example.com]",
        &format!("{{{}}}", to("a")),
    ));
    let view = mesh.view();
    let more = mesh.apply(SUBSETS);
    let next = more.view_after(Some(&view));
    assert!(Arc::ptr_eq(&view.gateways, &next.gateways));
    let changed =
        more.apply(&bound("w", "[gw]", "[b.example.com]", &format!("{{{}}}", to("b")))).view_after(Some(&next));
    assert!(!Arc::ptr_eq(&next.gateways, &changed.gateways));
    assert_eq!(fate(&changed, "gw", "b.example.com", "/"), "b");
}
