//! EndpointSlices: places outside of the mesh that serve a service.

use super::*;

pub(super) const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: legacy}
spec: {ports: [{name: http, port: 80}, {name: tcp-db, port: 3306}]}
";

pub(super) fn slice(name: &str, body: &str) -> String {
    format!(
        "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: {name}, labels: \
         {{kubernetes.io/service-name: legacy}}}}, addressType: IPv4, ports: [{{name: http, port: 8080}}, \
         {{name: tcp-db, port: 3306}}], {body}}}"
    )
}

fn addresses(view: &MeshView, port: u16) -> Vec<String> {
    let endpoints = &service(view, "legacy").cluster(port).unwrap().endpoints;
    endpoints.iter().map(|endpoint| endpoint.address.socket().to_string()).collect()
}

#[test]
fn the_places_of_a_slice_serve_the_ports_of_its_names_and_show_no_identity() {
    let view = Mesh::new().apply(SERVICE).apply(&slice("a", "endpoints: [{addresses: [10.9.0.1, 10.9.0.2]}]")).view();
    assert_eq!(addresses(&view, 80), ["10.9.0.1:8080"], "of several addresses of an endpoint the first");
    assert_eq!(addresses(&view, 3306), ["10.9.0.1:3306"]);
    let cluster = service(&view, "legacy").cluster(80).unwrap();
    let chosen = cluster.pick(&Attempt::default()).unwrap();
    assert_eq!(chosen.address, EndpointAddress::Outside("10.9.0.1:8080".parse().unwrap()));
    assert!(chosen.identities.is_empty() && chosen.workload.is_none());
    assert_eq!(chosen.protocol, Protocol::Http, "the service says what is spoken");
    assert_eq!(service(&view, "legacy").cluster(3306).unwrap().endpoints[0].protocol, Protocol::Tcp);
}

#[test]
fn conditions_say_who_serves() {
    let of = |conditions: &str| {
        let body = format!("endpoints: [{{addresses: [10.9.0.1], conditions: {conditions}}}]");
        let view = Mesh::new().apply(SERVICE).apply(&slice("a", &body)).view();
        let endpoints = &service(&view, "legacy").cluster(80).unwrap().endpoints;
        endpoints.first().map(|endpoint| endpoint.health)
    };
    assert_eq!(of("{}"), Some(EndpointHealth::Healthy));
    assert_eq!(of("{ready: true}"), Some(EndpointHealth::Healthy));
    assert_eq!(of("{ready: false}"), None);
    assert_eq!(of("{ready: false, serving: true, terminating: true}"), Some(EndpointHealth::Draining));
    assert_eq!(of("{ready: false, serving: false, terminating: true}"), None);
}

#[test]
fn slices_of_a_service_add_up_and_a_place_counts_once() {
    let (a, b) =
        ("endpoints: [{addresses: [10.9.0.1]}]", "endpoints: [{addresses: [10.9.0.1]}, {addresses: [10.9.0.2]}]");
    let view = Mesh::new().apply(SERVICE).apply(&slice("a", a)).apply(&slice("b", b)).view();
    assert_eq!(addresses(&view, 80), ["10.9.0.1:8080", "10.9.0.2:8080"]);
}

#[test]
fn a_service_that_selects_workloads_or_names_accounts_has_no_places_outside() {
    let body = "endpoints: [{addresses: [10.9.0.1]}]";
    let selecting = SERVICE.replace("spec: {", "spec: {selector: {app: legacy}, ");
    assert!(addresses(&Mesh::new().apply(&selecting).apply(&slice("a", body)).view(), 80).is_empty());
    let guarded =
        SERVICE.replace("{name: legacy}", "{name: legacy, annotations: {weft.mesh/service-accounts: legacy}}");
    assert!(addresses(&Mesh::new().apply(&guarded).apply(&slice("a", body)).view(), 80).is_empty());
}

#[test]
fn a_slice_needs_a_service_document() {
    let view = Mesh::new().apply(&slice("a", "endpoints: [{addresses: [10.9.0.1]}]")).view();
    assert!(view.service("legacy", &Namespace::default_namespace()).is_none());
}

#[test]
fn a_new_version_of_a_slice_forgets_no_counters() {
    let mut mesh = Mesh::new().apply(SERVICE).apply(&slice("a", "endpoints: [{addresses: [10.9.0.1]}]"));
    let first = mesh.view();
    mesh.documents.pop();
    let mesh = mesh.apply(&slice("a", "endpoints: [{addresses: [10.9.0.1]}, {addresses: [10.9.0.2]}]"));
    let second = mesh.view_after(Some(&first));
    let load = |view: &MeshView| service(view, "legacy").cluster(80).unwrap().endpoints[0].load.clone();
    assert!(Arc::ptr_eq(&load(&first), &load(&second)));
}

#[test]
fn a_port_of_a_backend_tls_policy_is_not_called_in_the_clear() {
    let mesh = || Mesh::new().apply(SERVICE).apply(&slice("a", "endpoints: [{addresses: [10.9.0.1]}]"));
    let with = |targets: &str| {
        let policy = format!(
            "{{apiVersion: gateway.networking.k8s.io/v1, kind: BackendTLSPolicy, metadata: {{name: p}}, spec: \
             {{targetRefs: [{targets}], validation: {{hostname: legacy.example, wellKnownCACertificates: System}}}}}}"
        );
        let view = mesh().apply(&policy).view();
        (addresses(&view, 80).len(), addresses(&view, 3306).len())
    };
    let target = |name: &str, rest: &str| format!("{{group: '', kind: Service, name: {name}{rest}}}");
    assert_eq!(with(&target("legacy", "")), (0, 0));
    assert_eq!(with(&target("legacy", ", sectionName: http")), (0, 1));
    assert_eq!(with(&target("other", "")), (1, 1));
    let both = format!("{}, {}", target("legacy", ", sectionName: http"), target("other", ""));
    assert_eq!(with(&both), (0, 1), "each target is for its own service");
}
