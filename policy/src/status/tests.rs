use std::{collections::BTreeMap, sync::Arc};

use weft_wire::{
    document::Stamp,
    fact::{EndpointHealth, EndpointRow, NodeRecord, NodeState, Protocol},
    id::Namespace,
};

use super::*;
use crate::{
    compile::{Inputs, NodeInput, compile},
    document::{parse_stored, parse_yaml},
};

const SERVICES: &str = "
{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {ports: [{name: http, port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: db, namespace: prod}, spec: {ports: [{port: 80}]}}
";

fn documents(yaml: &str) -> Vec<Arc<Document>> {
    let file = parse_yaml(yaml, &Namespace::default_namespace()).unwrap();
    assert!(file.errors.is_empty(), "{:?}", file.errors);
    let stamped = file.documents.iter().zip(1..);
    stamped
        .map(|(one, millis)| Arc::new(parse_stored(&one.key, &one.json, Stamp { millis, counter: 0 }).unwrap()))
        .collect()
}

fn of_kind(kind: &str, name: &str, spec: &str) -> String {
    format!(
        "---\n{{apiVersion: gateway.networking.k8s.io/v1, kind: {kind}, metadata: {{name: {name}}}, spec: {spec}}}\n"
    )
}

/// The status of the document of this name.
fn status(yaml: &str, name: &str) -> GatewayStatus {
    status_among(&[], yaml, name)
}

fn status_among(nodes: &[NodeInput], yaml: &str, name: &str) -> GatewayStatus {
    let documents = documents(&format!("{SERVICES}{yaml}"));
    let view = compile(
        &Inputs {
            trust_domain: &"cluster.local".parse().unwrap(),
            this_node: &"here".parse().unwrap(),
            nodes,
            documents: &documents,
            local: &BTreeMap::new(),
            secrets: &Default::default(),
            names: &Default::default(),
        },
        None,
    );
    let document = documents.iter().find(|document| document.key.name == name).unwrap();
    Judge::new(&view).status_of(document).unwrap()
}

/// Each condition as `TYPE`, or `TYPE!` where it does not hold, and its reason where that is another word.
fn said(conditions: &[Condition]) -> String {
    let one = |condition: &Condition| match (condition.holds, condition.kind == condition.reason) {
        (true, true) => condition.kind.to_owned(),
        (holds, _) => format!("{}{} {}", condition.kind, if holds { "" } else { "!" }, condition.reason),
    };
    conditions.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn route_with(parent: &str, rules: &str) -> String {
    of_kind("HTTPRoute", "r", &format!("{{parentRefs: [{parent}], hostnames: [a.example.com], rules: [{rules}]}}"))
}

#[test]
fn a_route_is_accepted_by_a_service_that_has_the_port() {
    for (fields, expected) in [
        ("name: web", "Accepted"),
        ("name: web, port: 80", "Accepted"),
        ("name: web, sectionName: http", "Accepted"),
        ("name: web, port: 81", "Accepted! NoMatchingParent"),
        ("name: missing", "Accepted! NoMatchingParent"),
        ("name: web, namespace: prod", "Accepted! NoMatchingParent"),
        ("name: db, namespace: prod", "Accepted"),
    ] {
        let status = status(&route_with(&format!("{{group: '', kind: Service, {fields}}}"), "{}"), "r");
        assert_eq!(said(&status.parents[0].conditions), format!("{expected}, ResolvedRefs"), "{fields}");
    }
}

#[test]
fn backends_are_resolved_if_they_are_services_that_exist_and_may_be_named() {
    let grant = "---\n{apiVersion: gateway.networking.k8s.io/v1beta1, kind: ReferenceGrant, metadata: {name: g, namespace: prod}, \
                 spec: {from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: default}], to: [{group: '', kind: Service}]}}\n";
    let alias = "---\n{apiVersion: v1, kind: Service, metadata: {name: alias}, spec: {type: ExternalName, externalName: \
                 web.default.svc.cluster.local}}\n";
    for (backend, more, expected) in [
        ("{name: web, port: 80}", "", "ResolvedRefs"),
        ("{name: web, port: 81}", "", "ResolvedRefs! BackendNotFound"),
        ("{name: missing, port: 80}", "", "ResolvedRefs! BackendNotFound"),
        ("{group: example.com, kind: Thing, name: web}", "", "ResolvedRefs! InvalidKind"),
        ("{name: alias, port: 80}", alias, "ResolvedRefs! InvalidKind"),
        ("{name: db, namespace: prod, port: 80}", "", "ResolvedRefs"),
    ] {
        let route = route_with("{group: '', kind: Service, name: web}", &format!("{{backendRefs: [{backend}]}}"));
        let status = status(&format!("{route}{more}"), "r");
        assert_eq!(said(&status.parents[0].conditions), format!("Accepted, {expected}"), "{backend}");
    }
    // What a gateway opens to others must be granted, by a route of a Service too that has both parents.
    for (more, expected) in [("", "ResolvedRefs! RefNotPermitted"), (grant, "ResolvedRefs")] {
        let parents = "{group: '', kind: Service, name: web}, {name: missing}";
        let route = route_with(parents, "{backendRefs: [{name: db, namespace: prod, port: 80}]}");
        let status = status(&format!("{route}{more}"), "r");
        let said = [&status.parents[0], &status.parents[1]].map(|parent| said(&parent.conditions));
        assert_eq!(said, ["Accepted, ResolvedRefs".to_owned(), format!("Accepted! NoMatchingParent, {expected}")]);
    }
}

#[test]
fn an_authorizer_of_a_filter_is_a_backend_like_others() {
    let of = |port: u16| {
        let auth = format!(
            "{{type: ExternalAuth, externalAuth: {{protocol: HTTP, http: {{}}, backendRef: {{name: web, port: {port}}}}}}}"
        );
        let route = route_with("{group: '', kind: Service, name: web}", &format!("{{filters: [{auth}]}}"));
        said(&status(&route, "r").parents[0].conditions)
    };
    assert_eq!(of(80), "Accepted, ResolvedRefs");
    assert_eq!(of(81), "Accepted, ResolvedRefs! BackendNotFound");
}

#[test]
fn a_backend_tls_policy_is_accepted_by_services_unless_an_older_one_is_or_nobody_is_trusted() {
    let pem = include_str!("../../tests/pem/p256.crt");
    let maps = [("good", "ca.crt", pem), ("bad", "ca.crt", "text"), ("other", "tls.crt", pem)];
    let maps = maps.map(|(name, key, text)| {
        format!("---\n{{apiVersion: v1, kind: ConfigMap, metadata: {{name: {name}}}, data: {{{key}: {text:?}}}}}\n")
    });
    let policy = |name: &str, target: &str, trust: &str| {
        let spec =
            format!("{{targetRefs: [{{group: '', kind: Service, {target}}}], validation: {{hostname: a.b, {trust}}}}}");
        of_kind("BackendTLSPolicy", name, &spec)
    };
    let of = |yaml: &str| {
        let status = status(&format!("{}{yaml}", maps.concat()), "p");
        assert!(status.conditions.is_empty() && status.ancestors[0].parent.kind == "Service");
        said(&status.ancestors[0].conditions)
    };
    let system = "wellKnownCACertificates: System";
    for (target, expected) in [
        ("name: web", "Accepted, ResolvedRefs"),
        ("name: web, sectionName: http", "Accepted, ResolvedRefs"),
        ("name: web, sectionName: other", "Accepted! TargetNotFound, ResolvedRefs"),
        ("name: missing", "Accepted! TargetNotFound, ResolvedRefs"),
        ("name: db", "Accepted! TargetNotFound, ResolvedRefs"),
    ] {
        assert_eq!(of(&policy("p", target, system)), expected, "{target}");
    }
    let map = |name: &str| format!("{{group: '', kind: ConfigMap, name: {name}}}");
    for (references, expected) in [
        (map("good"), "Accepted, ResolvedRefs"),
        (map("bad"), "Accepted! NoValidCACertificate, ResolvedRefs! InvalidCACertificateRef"),
        (map("other"), "Accepted! NoValidCACertificate, ResolvedRefs! InvalidCACertificateRef"),
        (map("none"), "Accepted! NoValidCACertificate, ResolvedRefs! InvalidCACertificateRef"),
        (format!("{}, {}", map("none"), map("good")), "Accepted, ResolvedRefs! InvalidCACertificateRef"),
        (map("good").replace("ConfigMap", "Secret"), "Accepted! NoValidCACertificate, ResolvedRefs! InvalidKind"),
    ] {
        let trust = format!("caCertificateRefs: [{references}]");
        assert_eq!(of(&policy("p", "name: web", &trust)), expected, "{references}");
    }
    for (older, expected) in [
        ("name: web", "Accepted! Conflicted, ResolvedRefs"),
        ("name: web, sectionName: http", "Accepted, ResolvedRefs"),
        ("name: missing", "Accepted, ResolvedRefs"),
    ] {
        let both = [policy("older", older, system), policy("p", "name: web", system)];
        assert_eq!(of(&both.concat()), expected, "{older}");
        let younger = [policy("p", "name: web", system), policy("younger", older, system)];
        assert_eq!(of(&younger.concat()), "Accepted, ResolvedRefs");
    }
}

#[test]
fn a_backend_tls_policy_says_that_workloads_of_the_mesh_are_not_called_by_it() {
    let record = NodeRecord {
        advertise: [127, 0, 0, 1].into(),
        state: NodeState::Up,
        locality: Default::default(),
        labels: BTreeMap::new(),
        build: String::new(),
        endpoints: vec![EndpointRow {
            service: "web.default".parse().unwrap(),
            workload: "web-1".parse().unwrap(),
            service_account: "web".parse().unwrap(),
            version: String::new(),
            labels: BTreeMap::new(),
            port: 80,
            target_port: 80,
            protocol: Protocol::Http,
            health: EndpointHealth::Healthy,
        }],
    };
    let nodes = [NodeInput { name: "n".parse().unwrap(), record: Arc::new(record), standing: Default::default() }];
    let spec = "{targetRefs: [{group: '', kind: Service, name: web}], validation: {hostname: a.b, \
                wellKnownCACertificates: System}}";
    let status = status_among(&nodes, &of_kind("BackendTLSPolicy", "p", spec), "p");
    assert_eq!(said(&status.conditions), "Programmed! NotImplemented");
    assert_eq!(said(&status.ancestors[0].conditions), "Accepted, ResolvedRefs");
}

fn gateway(class: &str, listeners: &str) -> String {
    of_kind("Gateway", "gw", &format!("{{gatewayClassName: {class}, listeners: [{listeners}]}}"))
}

#[test]
fn a_route_attaches_to_listeners_by_name_kind_namespace_and_host() {
    for (listener, parent, expected) in [
        ("name: a, port: 80, protocol: HTTP", "{name: gw}", "Accepted"),
        ("name: a, port: 80, protocol: HTTP, hostname: '*.example.com'", "{name: gw, sectionName: a}", "Accepted"),
        (
            "name: a, port: 80, protocol: HTTP, hostname: b.example.com",
            "{name: gw}",
            "Accepted! NoMatchingListenerHostname",
        ),
        ("name: a, port: 80, protocol: HTTP", "{name: gw, sectionName: b}", "Accepted! NoMatchingParent"),
        ("name: a, port: 80, protocol: HTTP", "{name: gw, port: 81}", "Accepted! NoMatchingParent"),
        ("name: a, port: 80, protocol: HTTP", "{name: other}", "Accepted! NoMatchingParent"),
        ("name: a, port: 80, protocol: TCP", "{name: gw}", "Accepted! NotAllowedByListeners"),
        (
            "name: a, port: 80, protocol: HTTP, allowedRoutes: {kinds: [{kind: GRPCRoute}]}",
            "{name: gw}",
            "Accepted! NotAllowedByListeners",
        ),
        (
            "name: a, port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: Selector, selector: {matchLabels: {a: b}}}}",
            "{name: gw}",
            "Accepted! NotAllowedByListeners",
        ),
    ] {
        let yaml = format!("{}{}", gateway("istio", &format!("{{{listener}}}")), route_with(parent, "{}"));
        assert_eq!(said(&status(&yaml, "r").parents[0].conditions), format!("{expected}, ResolvedRefs"), "{listener}");
        let attached = status(&yaml, "gw").listeners[0].attached_routes;
        assert_eq!(attached, usize::from(expected == "Accepted"), "{listener}");
    }
}

#[test]
fn routes_of_every_kind_count_at_the_listeners_that_take_them() {
    for (protocol, kind) in [
        ("protocol: HTTP", "HTTPRoute"),
        ("protocol: HTTP", "GRPCRoute"),
        ("protocol: TCP", "TCPRoute"),
        ("protocol: UDP", "UDPRoute"),
        ("protocol: TLS, tls: {mode: Passthrough}", "TLSRoute"),
    ] {
        let rules =
            if ["HTTPRoute", "GRPCRoute"].contains(&kind) { "{}" } else { "{backendRefs: [{name: web, port: 80}]}" };
        let hosts = if kind == "TLSRoute" { "hostnames: [a.example.com], " } else { "" };
        let route = of_kind(kind, "r", &format!("{{parentRefs: [{{name: gw}}], {hosts}rules: [{rules}]}}"));
        let route = if ["TCPRoute", "UDPRoute"].contains(&kind) { route.replace("/v1,", "/v1alpha2,") } else { route };
        let yaml = format!("{}{route}", gateway("istio", &format!("{{name: a, port: 80, {protocol}}}")));
        assert_eq!(status(&yaml, "gw").listeners[0].attached_routes, 1, "{kind}");
    }
}

#[test]
fn a_listener_says_what_it_takes_and_what_is_wrong_with_it() {
    for (listener, kinds, expected) in [
        (
            "name: a, port: 80, protocol: HTTP",
            &["HTTPRoute", "GRPCRoute"][..],
            "Accepted, Conflicted! NoConflicts, ResolvedRefs",
        ),
        (
            "name: a, port: 80, protocol: example.com/x",
            &[],
            "Accepted! UnsupportedProtocol, Conflicted! NoConflicts, ResolvedRefs",
        ),
        (
            "name: a, port: 80, protocol: HTTP, allowedRoutes: {kinds: [{kind: HTTPRoute}, {kind: TCPRoute}]}",
            &["HTTPRoute"],
            "Accepted, Conflicted! NoConflicts, ResolvedRefs! InvalidRouteKinds",
        ),
        (
            "name: a, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: missing}]}",
            &["HTTPRoute", "GRPCRoute"],
            "Accepted, Conflicted! NoConflicts, ResolvedRefs! InvalidCertificateRef",
        ),
        (
            "name: a, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: missing, namespace: prod}]}",
            &["HTTPRoute", "GRPCRoute"],
            "Accepted, Conflicted! NoConflicts, ResolvedRefs! RefNotPermitted",
        ),
    ] {
        let status = status(&gateway("weft", &format!("{{{listener}}}")), "gw");
        let [only] = &status.listeners[..] else { panic!("{status:?}") };
        assert_eq!(only.supported_kinds, kinds, "{listener}");
        assert_eq!(said(&only.conditions), format!("{expected}, Programmed! NotImplemented"), "{listener}");
    }
    let two = "{name: a, port: 80, protocol: HTTP}, {name: b, port: 80, protocol: TCP}";
    let status = status(&gateway("weft", two), "gw");
    for listener in &status.listeners {
        assert!(
            said(&listener.conditions).starts_with("Accepted! Invalid, Conflicted ProtocolConflict"),
            "{listener:?}"
        );
    }
    assert_eq!(said(&status.conditions), "Accepted! ListenersNotValid, Programmed! NotImplemented");
}

#[test]
fn of_listeners_of_one_document_that_exclude_each_other_none_wins() {
    let ends = "tls: {certificateRefs: [{name: c}]}";
    for (other, expected) in [
        ("port: 443, protocol: TLS, tls: {mode: Passthrough}", "Conflicted ProtocolConflict"),
        ("port: 443, protocol: TLS, hostname: b.test, tls: {mode: Passthrough}", "Conflicted! NoConflicts"),
        ("port: 444, protocol: TLS, tls: {mode: Passthrough}", "Conflicted! NoConflicts"),
    ] {
        let listeners = format!("{{name: a, port: 443, protocol: HTTPS, {ends}}}, {{name: b, {other}}}");
        let status = status(&gateway("weft", &listeners), "gw");
        assert!(status.listeners.iter().all(|one| said(&one.conditions).contains(expected)), "{other}: {status:?}");
    }
}

#[test]
fn a_gateway_says_of_which_certificates_and_authorities_of_its_tls_there_are_none() {
    let pem = include_str!("../../tests/pem/p256.crt");
    let map = |name: &str| {
        format!("---\n{{apiVersion: v1, kind: ConfigMap, metadata: {{{name}}}, data: {{ca.crt: {pem:?}}}}}\n")
    };
    let maps = map("name: good") + &map("name: far, namespace: prod");
    let of = |tls: &str| {
        let listener = "{name: a, port: 443, protocol: HTTPS, tls: {options: {x: y}}}";
        let spec = format!("{{gatewayClassName: weft, listeners: [{listener}], tls: {{{tls}}}}}");
        status(&(of_kind("Gateway", "gw", &spec) + &maps), "gw")
    };
    for (reference, expected) in [
        ("name: missing", "ResolvedRefs! InvalidClientCertificateRef"),
        ("kind: Other, name: missing", "ResolvedRefs! InvalidClientCertificateRef"),
        ("name: missing, namespace: prod", "ResolvedRefs! RefNotPermitted"),
    ] {
        let status = of(&format!("backend: {{clientCertificateRef: {{{reference}}}}}"));
        assert_eq!(
            said(&status.conditions),
            format!("Accepted, Programmed! NotImplemented, {expected}"),
            "{reference}"
        );
    }
    let reference = |kind: &str, name: &str| format!("{{group: '', kind: {kind}, name: {name}}}");
    for (references, accepted, resolved) in [
        (reference("ConfigMap", "good"), "Accepted", "ResolvedRefs"),
        (reference("ConfigMap", "missing"), "Accepted! NoValidCACertificate", "ResolvedRefs! InvalidCACertificateRef"),
        (reference("Service", "web"), "Accepted! NoValidCACertificate", "ResolvedRefs! InvalidCACertificateKind"),
        (
            reference("ConfigMap", "far, namespace: prod"),
            "Accepted! NoValidCACertificate",
            "ResolvedRefs! RefNotPermitted",
        ),
        (
            [reference("ConfigMap", "missing"), reference("ConfigMap", "good")].join(", "),
            "Accepted",
            "ResolvedRefs! InvalidCACertificateRef",
        ),
    ] {
        let validation = format!("validation: {{caCertificateRefs: [{references}]}}");
        let status = of(&format!("frontend: {{default: {{{validation}}}}}"));
        let expected = format!("{accepted}, Conflicted! NoConflicts, {resolved}, Programmed! NotImplemented");
        assert_eq!(said(&status.listeners[0].conditions), expected, "{references}");
        let per_port = format!("{{port: 80, tls: {{{validation}}}}}");
        let status = of(&format!("frontend: {{default: {{}}, perPort: [{per_port}]}}"));
        assert!(said(&status.listeners[0].conditions).contains(", ResolvedRefs, "), "of another port");
    }
    let good = reference("ConfigMap", "good");
    let open = format!("validation: {{caCertificateRefs: [{good}], mode: AllowInsecureFallback}}");
    let said = said(&of(&format!("frontend: {{default: {{{open}}}}}")).conditions);
    assert!(said.ends_with("InsecureFrontendValidationMode ConfigurationChanged"), "{said}");
}

#[test]
fn gateways_of_classes_that_are_served_elsewhere_are_left_alone() {
    let class = |controller: &str| of_kind("GatewayClass", "c", &format!("{{controllerName: {controller}}}"));
    for (controller, of_class, of_gateway) in [
        (CONTROLLER_NAME, "Accepted, SupportedVersion", "Accepted, Programmed! NotImplemented"),
        ("istio.io/gateway-controller", "Accepted, SupportedVersion", "Accepted, Programmed! NotImplemented"),
        ("example.com/other", "Accepted! Pending", "Accepted! Pending"),
    ] {
        let yaml = format!("{}{}", class(controller), gateway("c", "{name: a, port: 80, protocol: HTTP}"));
        assert_eq!(said(&status(&yaml, "c").conditions), of_class, "{controller}");
        assert_eq!(said(&status(&yaml, "gw").conditions), of_gateway, "{controller}");
        let routes = format!("{yaml}{}", route_with("{name: gw}", "{}"));
        assert_eq!(status(&routes, "r").parents.is_empty(), controller == "example.com/other");
    }
}

#[test]
fn a_listener_set_adds_listeners_where_it_may() {
    let set = of_kind(
        "ListenerSet",
        "s",
        "{parentRef: {name: gw}, listeners: [{name: b, port: 81, protocol: HTTP}, {name: c, port: 80, protocol: HTTP}]}",
    );
    let closed = gateway("weft", "{name: a, port: 80, protocol: HTTP}");
    assert_eq!(said(&status(&format!("{closed}{set}"), "s").conditions), "Accepted! NotAllowed");
    let open = closed.replace("listeners:", "allowedListeners: {namespaces: {from: Same}}, listeners:");
    let status = status(&format!("{open}{set}"), "s");
    assert_eq!(said(&status.conditions), "Accepted ListenersNotValid, Programmed! NotImplemented");
    assert!(
        said(&status.listeners[1].conditions).starts_with("Accepted! Conflicted, Conflicted HostnameConflict"),
        "the Gateway's own goes first"
    );
}

#[test]
fn a_gateway_that_asks_for_what_cannot_be_had_says_so() {
    let listener = "{name: a, port: 80, protocol: HTTP}";
    for (asks, expected) in [
        ("addresses: []", "Accepted, Programmed! NotImplemented"),
        ("addresses: [{value: 10.9.9.9}]", "Accepted, Programmed! AddressNotUsable"),
        ("addresses: [{type: example.com/pool, value: a}]", "Accepted! UnsupportedAddress, Programmed! NotImplemented"),
        (
            "infrastructure: {parametersRef: {group: '', kind: ConfigMap, name: a}}",
            "Accepted! InvalidParameters, Programmed! NotImplemented",
        ),
    ] {
        let yaml = of_kind("Gateway", "gw", &format!("{{gatewayClassName: istio, listeners: [{listener}], {asks}}}"));
        assert_eq!(said(&status(&yaml, "gw").conditions), expected, "{asks}");
    }
    let waypoint = gateway("istio-waypoint", "{name: mesh, port: 15008, protocol: HBONE}");
    assert_eq!(status(&waypoint, "gw").listeners[0].conditions[0], Condition::good("Accepted"));
}

fn of_istio(kind: &str, name: &str, spec: &str) -> String {
    format!("---\n{{apiVersion: networking.istio.io/v1, kind: {kind}, metadata: {{name: {name}}}, spec: {spec}}}\n")
}

#[test]
fn a_virtual_service_says_what_each_of_its_gateways_makes_of_it() {
    let server = "{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*.example.com', 'prod/b.test']}";
    let gateway = of_istio("Gateway", "gw", &format!("{{selector: {{istio: ingressgateway}}, servers: [{server}]}}"));
    for (fields, expected) in [
        ("gateways: [gw], hosts: [a.example.com]", "Accepted"),
        ("gateways: [gw, mesh], hosts: [a.example.com]", "Accepted"),
        ("gateways: [other], hosts: [a.example.com]", "Accepted! NoMatchingParent"),
        ("gateways: [gw], hosts: [a.test]", "Accepted! NoMatchingListenerHostname"),
        ("gateways: [gw], hosts: [b.test]", "Accepted! NotAllowedByListeners"),
        ("gateways: [gw], hosts: [a.example.com], exportTo: ['.']", "Accepted! NotAllowedByListeners"),
    ] {
        let route = "http: [{route: [{destination: {host: web}}]}]";
        let yaml = format!("{gateway}{}", of_istio("VirtualService", "vs", &format!("{{{fields}, {route}}}")));
        let parents = status(&yaml, "vs").parents;
        assert_eq!(parents.iter().map(|parent| said(&parent.conditions)).collect::<Vec<_>>(), [expected], "{fields}");
        let attached = status(&yaml, "gw").listeners[0].attached_routes;
        assert_eq!(attached, usize::from(expected == "Accepted"), "{fields}");
    }
}
