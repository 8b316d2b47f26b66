//! EndpointSlices: places outside of the mesh that serve a service.

use super::*;
use crate::{
    endpoint::Endpoint,
    origination::{Authorities, Origination, Protection},
    secrets::Reference,
};

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

/// A slice for all ports of the service.
fn open_slice(kind: &str, ports: &str, endpoints: &str) -> String {
    format!(
        "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: o, labels: \
         {{kubernetes.io/service-name: legacy}}}}, addressType: {kind}, ports: [{ports}], endpoints: [{endpoints}]}}"
    )
}

#[test]
fn a_port_without_number_is_the_services_target_port() {
    let service = SERVICE.replace("port: 3306", "port: 3306, targetPort: 3307");
    let with = |ports: &str| {
        let slice = open_slice("IPv4", ports, "{addresses: [10.9.0.1]}");
        let view = Mesh::new().apply(&service).apply(&slice).view();
        (addresses(&view, 80), addresses(&view, 3306))
    };
    let place = |port: u16| vec![format!("10.9.0.1:{port}")];
    assert_eq!(with("{}"), (place(80), place(3307)), "without a name all ports");
    assert_eq!(with("{name: tcp-db}"), (Vec::new(), place(3307)), "with a name that one");
    assert_eq!(with("{name: tcp-db, port: 1}"), (Vec::new(), place(1)));
    assert_eq!(with("{port: 1}"), (Vec::new(), Vec::new()), "a number without a name is of the port without a name");
}

#[test]
fn places_that_are_names_are_looked_up() {
    let slice = open_slice("FQDN", "{name: http, port: 8080}", "{addresses: [old.example.com]}");
    let mut mesh = Mesh::new().apply(SERVICE).apply(&slice);
    let first = mesh.view();
    assert_eq!(first.names_to_resolve().into_iter().collect::<Vec<_>>(), ["old.example.com"]);
    assert!(addresses(&first, 80).is_empty());
    Arc::make_mut(&mut mesh.names)
        .insert("old.example.com".into(), [[10, 9, 0, 1].into(), [10, 9, 0, 2].into()].into());
    let second = mesh.view_after(Some(&first));
    assert_eq!(addresses(&second, 80), ["10.9.0.1:8080", "10.9.0.2:8080"]);
    let third = mesh.view_after(Some(&second));
    assert!(Arc::ptr_eq(service(&second, "legacy"), service(&third, "legacy")), "nothing has changed");
}

/// This node in zone `z1` of region `r1`, and others in `z2` and in another region.
fn in_zones() -> Mesh {
    ["here", "there", "elsewhere"].into_iter().zip([("r1", "z1"), ("r1", "z2"), ("r2", "z3")]).fold(
        Mesh::new().apply(SERVICE),
        |mesh, (name, (region, zone))| {
            let mut mesh = mesh.node(name, Vec::new());
            let node = mesh.nodes.last_mut().unwrap();
            let locality = Locality { region: region.into(), zone: zone.into(), subzone: String::new() };
            Arc::make_mut(&mut node.record).locality = locality;
            mesh
        },
    )
}

#[test]
fn a_place_is_in_its_zone_in_the_region_that_nodes_of_the_zone_say() {
    let endpoints = "{addresses: [10.9.0.1], zone: z1, nodeName: here}, {addresses: [10.9.0.2], zone: z2}, \
                     {addresses: [10.9.0.3], zone: z9}, {addresses: [10.9.0.4]}";
    let mesh = in_zones().apply(&slice("a", &format!("endpoints: [{endpoints}]")));
    let places = |view: &MeshView| -> Vec<(String, String)> {
        let endpoints = &service(view, "legacy").cluster(80).unwrap().endpoints;
        let locality = |endpoint: &Arc<Endpoint>| endpoint.place.locality.clone();
        endpoints.iter().map(locality).map(|locality| (locality.region, locality.zone)).collect()
    };
    let text = |of: [(&str, &str); 4]| of.map(|(region, zone)| (region.to_owned(), zone.to_owned()));
    let view = mesh.view();
    assert_eq!(places(&view), text([("r1", "z1"), ("r1", "z2"), ("", "z9"), ("", "")]));
    let node = |view: &MeshView| service(view, "legacy").cluster(80).unwrap().endpoints[0].place.node.clone();
    assert_eq!(node(&view), Some("here".parse().unwrap()));
    // A second node of z1 that says another region: nobody knows.
    let mut mesh = mesh.node("liar", Vec::new());
    let locality = Locality { region: "r2".into(), zone: "z1".into(), subzone: String::new() };
    Arc::make_mut(&mut mesh.nodes.last_mut().unwrap().record).locality = locality;
    let after = mesh.view_after(Some(&view));
    assert_eq!(places(&after), text([("", "z1"), ("r1", "z2"), ("", "z9"), ("", "")]));
}

#[test]
fn the_nearest_places_are_preferred_by_zone() {
    let endpoints = "endpoints: [{addresses: [10.9.0.1], zone: z3}, {addresses: [10.9.0.2], zone: z2}, \
                     {addresses: [10.9.0.3], zone: z1}]";
    let near = SERVICE.replace("spec: {", "spec: {trafficDistribution: PreferSameZone, ");
    let mut mesh = in_zones().apply(&slice("a", endpoints));
    mesh.documents.remove(0);
    let view = mesh.apply(&near).view();
    assert_eq!(addresses(&view, 80), ["10.9.0.3:8080", "10.9.0.2:8080", "10.9.0.1:8080"]);
    for random in [0, u64::MAX / 2, u64::MAX] {
        let attempt = Attempt { random, ..Attempt::default() };
        let chosen = service(&view, "legacy").cluster(80).unwrap().pick(&attempt).unwrap();
        assert_eq!(chosen.address.socket().to_string(), "10.9.0.3:8080");
    }
}

#[test]
fn hints_count_if_all_that_serve_have_one_and_one_is_for_the_client() {
    let with = |hints: [&str; 2], rest: &str| {
        let [first, second] = hints;
        let endpoints = format!(
            "endpoints: [{{addresses: [10.9.0.1], hints: {first}}}, {{addresses: [10.9.0.2], hints: {second}}}{rest}]"
        );
        let view = in_zones().apply(&slice("a", &endpoints)).view();
        addresses(&view, 80)
    };
    let (first, both) =
        (vec!["10.9.0.1:8080".to_owned()], vec!["10.9.0.1:8080".to_owned(), "10.9.0.2:8080".to_owned()]);
    let (z1, z2) = ("{forZones: [{name: z1}]}", "{forZones: [{name: z2}]}");
    assert_eq!(with([z1, z2], ""), first);
    assert_eq!(with([z2, z2], ""), both, "none is for this zone");
    assert_eq!(with([z1, "{}"], ""), both, "one has none");
    let not_ready = ", {addresses: [10.9.0.3], conditions: {ready: false}}";
    assert_eq!(with([z1, z2], not_ready), first, "one without hint that does not serve");
    let nodes =
        ["{forNodes: [{name: here}], forZones: [{name: z2}]}", "{forNodes: [{name: n}], forZones: [{name: z1}]}"];
    assert_eq!(with(nodes, ""), first, "nodes before zones");
    assert_eq!(
        with(["{forNodes: [{name: n}], forZones: [{name: z1}]}", z2], ""),
        first,
        "zones where nodes do not count"
    );
}

#[test]
fn hints_do_not_count_beside_workloads_of_the_mesh() {
    let hinted = "endpoints: [{addresses: [10.9.0.1], hints: {forZones: [{name: z1}]}}, {addresses: [10.9.0.2], hints: \
                  {forZones: [{name: z2}]}}]";
    let announced = on_ports(80, 8080, row("legacy", "legacy-1"));
    let view = in_zones().node("other", vec![announced]).apply(&slice("a", hinted)).view();
    assert_eq!(addresses(&view, 80).len(), 3);
}

#[test]
fn places_of_a_service_that_stays_on_a_node_are_those_of_that_node() {
    let endpoints = "endpoints: [{addresses: [10.9.0.1], nodeName: here}, {addresses: [10.9.0.2], nodeName: n}, \
                     {addresses: [10.9.0.3]}]";
    let local = SERVICE.replace("spec: {", "spec: {internalTrafficPolicy: Local, ");
    assert_eq!(addresses(&Mesh::new().apply(&local).apply(&slice("a", endpoints)).view(), 80), ["10.9.0.1:8080"]);
}

#[test]
fn a_service_that_publishes_not_ready_addresses_has_places_that_are_not_ready() {
    let endpoints = "endpoints: [{addresses: [10.9.0.1], conditions: {ready: false}}, {addresses: [10.9.0.2], \
                     conditions: {ready: false, serving: false, terminating: true}}]";
    let publishing = SERVICE.replace("spec: {", "spec: {publishNotReadyAddresses: true, ");
    assert_eq!(addresses(&Mesh::new().apply(&publishing).apply(&slice("a", endpoints)).view(), 80), ["10.9.0.1:8080"]);
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

fn policy(name: &str, targets: &str, validation: &str) -> String {
    format!(
        "{{apiVersion: gateway.networking.k8s.io/v1, kind: BackendTLSPolicy, metadata: {{name: {name}}}, spec: \
         {{targetRefs: [{targets}], validation: {{{validation}}}}}}}"
    )
}

fn target(name: &str, rest: &str) -> String {
    format!("{{group: '', kind: Service, name: {name}{rest}}}")
}

/// How the ports of `legacy`, 80 and 3306, are called by clients of its namespace.
fn protections(documents: &[&str]) -> [Option<Protection>; 2] {
    let mesh = Mesh::new().apply(SERVICE).apply(&slice("a", "endpoints: [{addresses: [10.9.0.1]}]"));
    let view = documents.iter().fold(mesh, |mesh, document| mesh.apply(document)).view();
    [80, 3306].map(|port| {
        let cluster = service(&view, "legacy").cluster_of(anybody(&Namespace::default_namespace()), port, "").unwrap();
        assert_eq!(cluster.endpoints.len(), 1);
        cluster.connection().and_then(|settings| settings.protection.clone())
    })
}

const SYSTEM: &str = "hostname: legacy.example, wellKnownCACertificates: System";

#[test]
fn a_backend_tls_policy_says_how_places_are_called_and_whom_they_must_be() {
    let plain = Origination {
        authorities: Authorities::System,
        revoked: None,
        identity: None,
        server_name: Some("legacy.example".into()),
        names: Vec::new(),
    };
    let tls = |origination: Origination| Some(Protection::Tls(Arc::new(origination)));
    let of_all = |validation: &str| protections(&[&policy("p", &target("legacy", ""), validation)]);
    assert_eq!(of_all(SYSTEM), [tls(plain.clone()), tls(plain.clone())]);
    let maps = "hostname: legacy.example, caCertificateRefs: [{group: '', kind: ConfigMap, name: a}, \
                {group: '', kind: Secret, name: b}, {group: '', kind: ConfigMap, name: c}], subjectAltNames: \
                [{type: Hostname, hostname: '*.example'}, {type: URI, uri: 'spiffe://x/y'}]";
    let maps_of = |names: [&str; 2]| names.map(|name| Reference::new(&Namespace::default_namespace(), name)).into();
    let expected = Origination {
        authorities: Authorities::ConfigMaps(maps_of(["a", "c"])),
        names: vec!["*.example".into(), "spiffe://x/y".into()],
        ..plain
    };
    assert_eq!(of_all(maps)[0], tls(expected));
    let no_map = "hostname: legacy.example, caCertificateRefs: [{group: a.b, kind: ConfigMap, name: a}]";
    assert!(matches!(of_all(no_map), [Some(Protection::Refused(_)), Some(Protection::Refused(_))]));
}

/// The server name that each port is called by.
fn called_by(documents: &[&str]) -> [Option<String>; 2] {
    let name = |protection: Protection| protection.origination().unwrap().server_name.as_ref().map(ToString::to_string);
    protections(documents).map(|protection| protection.map(|protection| name(protection).unwrap_or_default()))
}

#[test]
fn of_backend_tls_policies_that_of_the_port_holds_and_of_equals_the_oldest() {
    let named = |name: &str, targets: &str| {
        policy(name, targets, &format!("hostname: {name}.example, wellKnownCACertificates: System"))
    };
    let is = |name: &str| Some(format!("{name}.example"));
    let (whole, port) = (target("legacy", ""), target("legacy", ", sectionName: http"));
    assert_eq!(called_by(&[&named("p", &port)]), [is("p"), None]);
    assert_eq!(called_by(&[&named("p", &target("other", ""))]), [None, None]);
    assert_eq!(called_by(&[&named("p", "{group: a.b, kind: Service, name: legacy}")]), [None, None]);
    assert_eq!(called_by(&[&named("a", &whole), &named("b", &port)]), [is("b"), is("a")]);
    assert_eq!(called_by(&[&named("b", &whole), &named("a", &whole)]), [is("b"), is("b")], "by age, not by name");
    let both = format!("{port}, {}", target("other", ""));
    assert_eq!(called_by(&[&named("a", &both)]), [is("a"), None], "each target is for its own service");
}

#[test]
fn no_destination_rule_takes_a_backend_tls_policy_back() {
    let backend = policy("p", &target("legacy", ", sectionName: http"), SYSTEM);
    let rule = |tls: &str| {
        format!(
            "{{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {{name: legacy}}, spec: {{host: \
             legacy, trafficPolicy: {{tls: {{{tls}}}}}}}}}"
        )
    };
    let legacy = Some("legacy.example".to_owned());
    assert_eq!(called_by(&[&backend, &rule("mode: DISABLE")]), [legacy.clone(), None]);
    assert_eq!(called_by(&[&rule("mode: SIMPLE, sni: a.b"), &backend]), [legacy, Some("a.b".into())]);
}
