use std::collections::BTreeMap;

use weft_wire::{fact::Protocol, id::Namespace};

use super::{NOW, document, networking, told};
use crate::analyze::Input;

fn service(name: &str, ports: &str) -> String {
    document("v1", "Service", "default", name, &format!("{{selector: {{app: a}}, ports: [{ports}]}}"))
}

fn deployment(annotations: &str) -> String {
    let template = format!("{{metadata: {{labels: {{app: a}}, annotations: {annotations}}}}}");
    document("apps/v1", "Deployment", "default", "d", &format!("{{template: {template}}}"))
}

#[test]
fn a_ports_name_must_say_its_protocol() {
    let cases = [
        ("{port: 80, name: http}", false),
        ("{port: 80, name: http2-web}", false),
        ("{port: 80, name: web}", true),
        ("{port: 80, name: web, appProtocol: http}", false),
        ("{port: 80, name: web, protocol: UDP}", false),
        ("{port: 3306, name: db}", false),
        ("{port: 80}", true),
    ];
    for (port, is_told) in cases {
        assert_eq!(!told("IST0118", &[service("a", port)]).is_empty(), is_told, "{port}");
    }
    let system = document("v1", "Service", "kube-system", "a", "{selector: {app: a}, ports: [{port: 80}]}");
    assert!(told("IST0118", &[system]).is_empty());
}

#[test]
fn services_of_a_workload_must_agree_on_the_protocol_of_a_port() {
    let with =
        |port: &str| told("IST0116", &[deployment("{}"), service("x", "{port: 80, name: http}"), service("y", port)]);
    assert_eq!(with("{port: 80, name: tcp}"), ["Deployment default/d"]);
    assert!(with("{port: 80, name: http-y}").is_empty());
    assert!(with("{port: 81, name: tcp}").is_empty());
}

#[test]
fn services_of_a_workload_must_agree_on_who_reaches_a_port() {
    let with = |port: &str, annotations: &str| {
        let first = service("x", "{port: 80, name: http, targetPort: 9080}");
        told("IST0137", &[deployment(annotations), first, service("y", port)])
    };
    assert_eq!(with("{port: 90, name: http, targetPort: 9080}", "{}"), ["Deployment default/d"]);
    assert!(with("{port: 90, name: http, targetPort: 9090}", "{}").is_empty());
    let outside = "{sidecar.istio.io/inject: 'false'}";
    assert!(with("{port: 90, name: http, targetPort: 9080}", outside).is_empty());
}

fn entry(name: &str, rest: &str) -> String {
    networking("ServiceEntry", name, &format!("{{hosts: [ext.org], resolution: DNS, {rest}}}"))
}

#[test]
fn a_service_entry_for_tcp_needs_addresses() {
    let cases = [
        ("ports: [{number: 443, name: p, protocol: TCP}]", true),
        ("ports: [{number: 443, name: p, protocol: tcp}]", true),
        ("ports: [{number: 443, name: p}]", true),
        ("ports: [{number: 443, name: p, protocol: HTTPS}]", false),
        ("addresses: [10.0.0.1], ports: [{number: 443, name: p, protocol: TCP}]", false),
    ];
    for (rest, is_told) in cases {
        assert_eq!(!told("IST0134", &[entry("a", rest)]).is_empty(), is_told, "{rest}");
    }
}

#[test]
fn service_entries_must_agree_on_the_protocol_of_a_port() {
    let http = "ports: [{number: 80, name: p, protocol: HTTP}]";
    let with = |rest: &str| told("IST0177", &[entry("a", http), entry("b", rest)]).len();
    assert_eq!(with("ports: [{number: 80, name: p, protocol: TLS}]"), 2);
    assert_eq!(with("exportTo: ['.'], ports: [{number: 80, name: p, protocol: TLS}]"), 2);
    assert_eq!(with("ports: [{number: 80, name: p, protocol: http}]"), 0);
    assert_eq!(with("ports: [{number: 81, name: p, protocol: TLS}]"), 0);
    let apart = |name: &str, protocol: &str| {
        entry(name, &format!("exportTo: [{name}], ports: [{{number: 80, name: p, protocol: {protocol}}}]"))
    };
    assert!(told("IST0177", &[apart("a", "HTTP"), apart("b", "TLS")]).is_empty());
}

#[test]
fn ist0170_nodes_must_agree_on_what_a_port_speaks_unless_a_service_says_it() {
    let told = |announced: &[(&str, Protocol)], documents: &str| -> Vec<String> {
        let mut input = Input::default();
        for (node, protocol) in announced {
            input.add_announced(node, "reviews".parse().unwrap(), (9080, *protocol), BTreeMap::new());
        }
        input.add_file("f.yaml", documents, &Namespace::default_namespace());
        let found = input.analyze(NOW).into_iter().filter(|message| message.code.id() == "IST0170");
        found.map(|message| message.to_string()).collect()
    };
    use Protocol::*;
    let differ = [("n1", Http), ("n2", Tcp), ("n3", Http)];
    let said = told(&differ, "");
    let [said] = said.as_slice() else { panic!("{said:?}") };
    assert!(said.starts_with("Warning [IST0170] (Service default/reviews) port 9080"), "{said}");
    assert!(said.contains("http on n1, n3, tcp on n2"), "{said}");
    assert!(told(&[("n1", Http), ("n2", Auto)], "").is_empty(), "what nobody declared contradicts nothing");
    assert!(told(&differ, &service("reviews", "{port: 9080, name: http}")).is_empty());
    let undeclared = told(&differ, &service("reviews", "{port: 9080, name: web}"));
    assert!(undeclared[0].contains("f.yaml:"), "{undeclared:?}");
}
