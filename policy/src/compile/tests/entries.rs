//! ServiceEntries: hosts outside of the mesh.

use super::*;
use crate::{
    origination::{Authorities, ClientIdentity, Origination, Protection},
    secrets::Reference,
};

pub(super) const API: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: api}
spec:
  hosts: [api.example.com]
  location: MESH_EXTERNAL
  resolution: STATIC
  ports: [{name: http, number: 80, protocol: HTTP, targetPort: 8080}, {name: tls, number: 443, protocol: TLS}]
  endpoints:
  - {address: 10.9.0.1, labels: {version: v1}, locality: eu/z1}
  - {address: 10.9.0.2, labels: {version: v2}, ports: {http: 9000}}
";

fn entry(name: &str, host: &str, rest: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{{name}}}\n\
         spec: {{hosts: ['{host}'], {rest}}}\n"
    )
}

pub(super) fn static_entry(name: &str, host: &str, address: &str) -> String {
    let ports = "ports: [{name: http, number: 80, protocol: HTTP}]";
    entry(name, host, &format!("resolution: STATIC, {ports}, endpoints: [{{address: {address}}}]"))
}

fn seen<'v>(view: &'v MeshView, host: &str, namespace: &str) -> Option<&'v Arc<Service>> {
    match view.host(host, None, Client { namespace: &namespace.parse().unwrap(), workload: None })? {
        Host::Service(service) => Some(service),
        Host::Virtual(_) | Host::Passthrough(_) => None,
    }
}

fn addresses(view: &MeshView, host: &str, port: u16, subset: &str) -> Vec<String> {
    let service = seen(view, host, "default").unwrap();
    let cluster = service.cluster_of(anybody(&Namespace::default_namespace()), port, subset).unwrap();
    cluster.endpoints.iter().map(|endpoint| endpoint.address.socket().to_string()).collect()
}

#[test]
fn the_endpoints_of_an_entry_serve_its_ports_each_on_its_own() {
    let view = Mesh::new().apply(API).view();
    assert_eq!(addresses(&view, "API.example.com.", 80, ""), ["10.9.0.1:8080", "10.9.0.2:9000"]);
    assert_eq!(addresses(&view, "api.example.com", 443, ""), ["10.9.0.1:443", "10.9.0.2:443"]);
    let service = seen(&view, "api.example.com", "default").unwrap();
    assert_eq!(service.id.name(), "api.example.com", "metrics name it by its host");
    assert_eq!(&*service.cluster(443).unwrap().name, "outbound|443||api.example.com");
    let endpoint = &service.cluster(443).unwrap().endpoints[0];
    assert!(endpoint.workload.is_none() && endpoint.identities.is_empty());
    assert_eq!(endpoint.protocol, Protocol::Tcp, "TLS is carried as it comes");
    assert!(seen(&view, "example.com", "default").is_none());
    assert!(view.services().next().is_none(), "it is no service of the mesh");
}

/// What holds for calls of a port, where a rule says `policy` of the host.
fn protection(entry: &str, policy: &str, subset: &str) -> [Option<Protection>; 2] {
    let rule = format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: api}}\nspec: {{host: \
         api.example.com, {policy}}}\n"
    );
    let view = Mesh::new().apply(entry).apply(&rule).view();
    let service = seen(&view, "api.example.com", "default").unwrap();
    [80, 443].map(|port| {
        let clusters =
            service.clusters.elsewhere().others.ports.iter().find(|clusters| clusters.all.port == port).unwrap();
        let of_subset = clusters.subsets.iter().find(|cluster| cluster.subset == subset);
        of_subset.unwrap_or(&clusters.all).connection().and_then(|settings| settings.protection.clone())
    })
}

fn origination(protection: &Option<Protection>) -> Origination {
    Origination::clone(protection.as_ref().unwrap().origination().unwrap())
}

#[test]
fn tls_holds_for_the_host_its_port_its_subset_and_the_subsets_port() {
    let none = [None, None];
    assert_eq!(protection(API, "trafficPolicy: {tls: {mode: DISABLE}}", ""), none);
    let by = |policy: &str, subset| protection(API, policy, subset).map(|one| one.is_some());
    assert_eq!(by("trafficPolicy: {tls: {mode: SIMPLE}}", ""), [true, true]);
    let port = "portLevelSettings: [{port: {number: 80}, tls: {mode: SIMPLE}}]";
    assert_eq!(by(&format!("trafficPolicy: {{{port}}}"), ""), [true, false]);
    let subset =
        |policy: &str| format!("subsets: [{{name: v2, labels: {{version: v2}}, trafficPolicy: {{{policy}}}}}]");
    assert_eq!(by(&subset("tls: {mode: SIMPLE}"), "v2"), [true, true]);
    assert_eq!(by(&subset("tls: {mode: SIMPLE}"), ""), [false, false]);
    assert_eq!(by(&subset(port), "v2"), [true, false]);
    let off = "portLevelSettings: [{port: {number: 80}, tls: {mode: DISABLE}}]";
    assert_eq!(by(&format!("trafficPolicy: {{tls: {{mode: SIMPLE}}}}, {}", subset(off)), "v2"), [false, true]);
}

#[test]
fn tls_verifies_by_the_host_where_nothing_else_is_said() {
    let [simple, _] = protection(API, "trafficPolicy: {tls: {mode: SIMPLE}}", "");
    let plain = Origination {
        authorities: Authorities::System,
        revoked: None,
        identity: None,
        server_name: None,
        names: Vec::new(),
    };
    assert_eq!(origination(&simple), plain);
    let all = "trafficPolicy: {tls: {mode: MUTUAL, caCertificates: /ca, caCrl: /crl, clientCertificate: /c, privateKey: /k, \
               sni: other.example.com, subjectAltNames: [a.example.com, 'spiffe://x/y']}}";
    let files = ClientIdentity::Files { certificates: "/c".into(), key: "/k".into() };
    let expected = Origination {
        authorities: Authorities::File("/ca".into()),
        revoked: Some("/crl".into()),
        identity: Some(files),
        server_name: Some("other.example.com".into()),
        names: vec!["a.example.com".into(), "spiffe://x/y".into()],
    };
    assert_eq!(origination(&protection(API, all, "")[0]), expected);
    let [anybody, _] = protection(API, "trafficPolicy: {tls: {mode: SIMPLE, insecureSkipVerify: true}}", "");
    assert_eq!(origination(&anybody), Origination { authorities: Authorities::Anybody, ..plain });
}

#[test]
fn names_of_the_rule_come_before_those_of_the_entry() {
    let entry = API.replace("resolution:", "subjectAltNames: [entry.example.com]\n  resolution:");
    let names = |tls: &str| {
        origination(&protection(&entry, &format!("trafficPolicy: {{tls: {{mode: SIMPLE{tls}}}}}"), "")[0]).names
    };
    assert_eq!(names(""), ["entry.example.com"]);
    assert_eq!(names(", subjectAltNames: [rule.example.com]"), ["rule.example.com"]);
}

#[test]
fn secrets_are_named_by_rules_with_a_selector_in_the_namespace_of_these() {
    let namespace = Namespace::default_namespace();
    let of = |tls: &str| {
        let rule = format!(
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: api}}\nspec: {{host: \
             api.example.com, workloadSelector: {{matchLabels: {{app: client}}}}, trafficPolicy: {{tls: {{{tls}}}}}}}\n"
        );
        let mesh = |hosted: &str| Mesh::new().node("here", vec![row(hosted, "w")]).apply(API).apply(&rule);
        assert!(mesh("other").view().originations().is_empty(), "what no client here needs is not asked for");
        let view = mesh("client").view();
        assert_eq!(view.originations().len(), 1);
        let client = Client { workload: Some(only_workload(&view, "client")), ..anybody(&namespace) };
        let service = seen(&view, "api.example.com", "default").unwrap();
        let protection = |client| {
            let connection = service.cluster_of(client, 80, "").unwrap().connection();
            connection.and_then(|settings| settings.protection.clone())
        };
        assert_eq!(protection(anybody(&namespace)), None);
        origination(&protection(client))
    };
    let named = |name: &str| Reference::of_credential(name, &namespace).unwrap();
    let simple = of("mode: SIMPLE, credentialName: a");
    assert_eq!((simple.authorities, simple.identity), (Authorities::Named(named("a")), None));
    let mutual = of("mode: MUTUAL, credentialName: a");
    let identity = Some(ClientIdentity::Secret(named("a")));
    assert_eq!((mutual.authorities, mutual.identity), (Authorities::Named(named("a")), identity.clone()));
    let both = of("mode: MUTUAL, credentialName: a, caCertCredentialName: prod/b");
    assert_eq!((both.authorities, both.identity), (Authorities::Named(named("prod/b")), identity.clone()));
    let anybody = of("mode: MUTUAL, credentialName: a, insecureSkipVerify: true");
    assert_eq!((anybody.authorities, anybody.identity), (Authorities::Anybody, identity));
}

#[test]
fn tls_that_cannot_be_given_is_refused_and_never_left_out() {
    for tls in [
        "{mode: ISTIO_MUTUAL}",
        "{mode: SIMPLE, credentialName: ca}",
        "{mode: MUTUAL, credentialName: client}",
        "{mode: SIMPLE, caCertCredentialName: ca}",
    ] {
        let [of_port, _] = protection(API, &format!("trafficPolicy: {{tls: {tls}}}"), "");
        assert!(matches!(of_port, Some(Protection::Refused(_))), "{tls}: {of_port:?}");
    }
}

#[test]
fn a_view_names_the_ways_of_tls_that_places_outside_need() {
    let rule = |host: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: tls}}\n\
             spec: {{host: {host}, trafficPolicy: {{tls: {{mode: SIMPLE}}}}}}\n"
        )
    };
    let of = |host: &str| Mesh::new().apply(API).apply(&rule(host)).view().originations().len();
    assert_eq!(of("api.example.com"), 1);
    assert_eq!(of("other.example.com"), 0);
}

#[test]
fn an_endpoint_has_the_weight_that_it_is_given_and_else_one() {
    let view = Mesh::new().apply(&API.replace("locality: eu/z1", "weight: 3")).view();
    let service = seen(&view, "api.example.com", "default").unwrap();
    let weights: Vec<u32> = service.cluster(80).unwrap().endpoints.iter().map(|endpoint| endpoint.weight).collect();
    assert_eq!(weights, [3, 1]);
}

#[test]
fn destination_rules_and_virtual_services_are_for_such_hosts_too() {
    let rules = "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: api}
spec: {host: api.example.com, subsets: [{name: v2, labels: {version: v2}}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: api}
spec:
  hosts: ['*.example.com']
  http: [{timeout: 3s, route: [{destination: {host: api.example.com, subset: v2, port: {number: 80}}}]}]
";
    let view = Mesh::new().apply(API).apply(rules).view();
    assert_eq!(addresses(&view, "api.example.com", 80, "v2"), ["10.9.0.2:9000"]);
    let namespace = Namespace::default_namespace();
    let client = Client { namespace: &namespace, workload: None };
    let (method, headers) = (http::Method::GET, http::HeaderMap::new());
    let head = RequestHead {
        method: &method,
        path_and_query: "/",
        authority: "api.example.com",
        scheme: "http",
        headers: &headers,
    };
    let host = view.host("api.example.com", None, client).unwrap();
    let Some(Matched { action: Action::Forward(Forward { cluster, timeout, .. }), .. }) =
        view.route(host, 80, &head, client, 0)
    else {
        panic!("not forwarded");
    };
    assert_eq!((&*cluster.subset, timeout), ("v2", Some(std::time::Duration::from_secs(3))));
    assert!(crate::references::missing_backends(&view.documents()[2], &view).unwrap().is_empty());
}

#[test]
fn entries_of_one_host_and_namespace_add_up() {
    let view = Mesh::new()
        .apply(&static_entry("name: a", "api.example.com", "10.9.0.1"))
        .apply(&static_entry("name: b", "api.example.com", "10.9.0.2"))
        .view();
    assert_eq!(addresses(&view, "api.example.com", 80, ""), ["10.9.0.1:80", "10.9.0.2:80"]);
}

#[test]
fn a_client_sees_its_own_namespaces_entries_else_those_of_the_namespace_with_the_oldest() {
    let view = Mesh::new()
        .apply(&static_entry("name: a, namespace: one", "api.example.com", "10.9.0.1"))
        .apply(&static_entry("name: a, namespace: two", "api.example.com", "10.9.0.2"))
        .view();
    let address_in = |namespace: &str| {
        let service = seen(&view, "api.example.com", namespace).unwrap();
        service.cluster_of(anybody(&namespace.parse().unwrap()), 80, "").unwrap().endpoints[0]
            .address
            .socket()
            .to_string()
    };
    assert_eq!(["one", "two", "three"].map(address_in), ["10.9.0.1:80", "10.9.0.2:80", "10.9.0.1:80"]);
}

#[test]
fn export_to_says_who_sees_an_entry() {
    let of = |export_to: &str| {
        let ports = "ports: [{name: http, number: 80, protocol: HTTP}]";
        let rest =
            format!("resolution: STATIC, {ports}, endpoints: [{{address: 10.9.0.1}}], exportTo: ['{export_to}']");
        let view = Mesh::new().apply(&entry("name: a, namespace: own", "api.example.com", &rest)).view();
        ["own", "other"].map(|namespace| seen(&view, "api.example.com", namespace).is_some())
    };
    assert_eq!(of("*"), [true, true]);
    assert_eq!(of("."), [true, false]);
    assert_eq!(of("other"), [false, true]);
    assert_eq!(of("~"), [false, false]);
}

#[test]
fn a_wildcard_is_for_hosts_that_no_closer_entry_has() {
    let view = Mesh::new()
        .apply(&static_entry("name: all", "*.example.com", "10.9.0.1"))
        .apply(&static_entry("name: closer", "*.eu.example.com", "10.9.0.2"))
        .apply(&static_entry("name: one", "api.eu.example.com", "10.9.0.3"))
        .view();
    for (host, address) in
        [("api.eu.example.com", "10.9.0.3:80"), ("b.eu.example.com", "10.9.0.2:80"), ("a.b.example.com", "10.9.0.1:80")]
    {
        assert_eq!(addresses(&view, host, 80, ""), [address], "{host}");
    }
    assert!(seen(&view, "example.com", "default").is_none());
}

#[test]
fn a_selector_selects_workload_entries_and_workloads_of_the_entrys_namespace() {
    let workload = |name: &str, namespace: &str, address: &str, app: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {{name: {name}, namespace: \
             {namespace}}}\nspec: {{address: {address}, labels: {{app: {app}}}, ports: {{http: 9090}}}}\n"
        )
    };
    let rest = "resolution: STATIC, location: MESH_INTERNAL, ports: [{name: http, number: 80, protocol: HTTP, \
                targetPort: 9080}], workloadSelector: {labels: {app: db}}";
    let mut of_mesh = row("reviews", "db-v1");
    of_mesh.labels = BTreeMap::from([("app".into(), "db".into())]);
    let view = Mesh::new()
        .node("there", vec![of_mesh, row("ratings", "ratings-v1")])
        .apply(&workload("a", "default", "10.9.0.1", "db"))
        .apply(&workload("b", "default", "10.9.0.2", "web"))
        .apply(&workload("c", "other", "10.9.0.3", "db"))
        .apply(&entry("name: db", "db.example.com", rest))
        .view();
    let service = seen(&view, "db.example.com", "default").unwrap();
    let endpoints = &service.cluster(80).unwrap().endpoints;
    let keys: Vec<String> = endpoints.iter().map(|endpoint| endpoint.key.to_string()).collect();
    assert_eq!(keys, ["outside/default/10-9-0-1:9090", "there/default/db-v1:9080"]);
    assert!(matches!(endpoints[1].address, EndpointAddress::Remote { .. }), "the mesh's own keep their mutual TLS");
}

#[test]
fn a_service_of_the_mesh_keeps_its_host() {
    let host = "reviews.default.svc.cluster.local";
    let view = bookinfo().apply(&static_entry("name: a", host, "10.9.0.1")).view();
    assert!(seen(&view, host, "default").unwrap().id.mesh().is_some());
    let view = Mesh::new().apply(&static_entry("name: a", host, "10.9.0.1")).view();
    assert_eq!(addresses(&view, "reviews", 80, ""), ["10.9.0.1:80"], "found by its short names too");
}

#[test]
fn hosts_whose_documents_are_the_same_are_taken_over_and_counters_outlive_a_new_version() {
    let mut mesh = Mesh::new().apply(API).apply(&static_entry("name: b", "b.example.com", "10.9.0.3"));
    let first = mesh.view();
    mesh.documents.pop();
    let mesh = mesh.apply(&static_entry("name: b", "b.example.com", "10.9.0.3"));
    let second = mesh.view_after(Some(&first));
    let of = |view: &'_ MeshView, host: &str| seen(view, host, "default").unwrap().clone();
    assert!(Arc::ptr_eq(&of(&first, "api.example.com"), &of(&second, "api.example.com")));
    let load = |view: &MeshView| of(view, "b.example.com").cluster(80).unwrap().endpoints[0].load.clone();
    assert!(Arc::ptr_eq(&load(&first), &load(&second)));
}

#[test]
fn names_are_asked_for_and_their_addresses_serve() {
    let ports = "ports: [{name: http, number: 80, protocol: HTTP}]";
    let mut mesh = Mesh::new()
        .apply(&entry("name: a", "api.example.com", &format!("resolution: DNS, {ports}")))
        .apply(&entry(
            "name: b",
            "b.example.com",
            &format!("resolution: DNS, {ports}, endpoints: [{{address: B1.example.net.}}, {{address: 10.9.9.9}}]"),
        ))
        .apply(&entry("name: c", "c.example.com", &format!("resolution: DNS_ROUND_ROBIN, {ports}")));
    let first = mesh.view();
    let wanted = ["api.example.com", "b1.example.net", "c.example.com"];
    assert_eq!(first.names_to_resolve().into_iter().collect::<Vec<_>>(), wanted);
    assert!(addresses(&first, "api.example.com", 80, "").is_empty(), "not known yet");
    let both: Arc<[IpAddr]> = [[10, 9, 0, 2].into(), [10, 9, 0, 1].into()].into();
    mesh.names = Arc::new(wanted.map(|name| (name.into(), both.clone())).into());
    let second = mesh.view_after(Some(&first));
    assert_eq!(addresses(&second, "api.example.com", 80, ""), ["10.9.0.1:80", "10.9.0.2:80"]);
    assert_eq!(addresses(&second, "b.example.com", 80, ""), ["10.9.0.1:80", "10.9.0.2:80", "10.9.9.9:80"]);
    assert_eq!(addresses(&second, "c.example.com", 80, ""), ["10.9.0.2:80"], "the first of each answer");
    Arc::make_mut(&mut mesh.names).remove("api.example.com");
    let third = mesh.view_after(Some(&second));
    assert!(addresses(&third, "api.example.com", 80, "").is_empty());
    let of = |view: &MeshView| seen(view, "b.example.com", "default").unwrap().clone();
    assert!(Arc::ptr_eq(&of(&second), &of(&third)), "others are taken over");
}

/// Where a request for `host` at port 80 goes that asks for `asked`.
fn original(view: &MeshView, host: &str, asked: &str) -> (String, Option<u16>) {
    let cluster = seen(view, host, "default").unwrap().cluster(80).unwrap();
    let port = cluster.original_destination().unwrap().port;
    (cluster.destination_host(asked).to_owned(), port)
}

#[test]
fn without_resolution_a_request_goes_to_the_address_that_it_asks_for() {
    let ports = "ports: [{name: http, number: 80, protocol: HTTP, targetPort: 8080}]";
    let view = Mesh::new()
        .apply(&entry("name: whole", "api.example.com", ports))
        .apply(&entry("name: wild", "*.example.org", &format!("resolution: DYNAMIC_DNS, {ports}")))
        .view();
    assert_eq!(original(&view, "api.example.com", "other.com"), ("api.example.com".into(), Some(80)));
    assert_eq!(original(&view, "api.example.com", "10.9.0.1"), ("10.9.0.1".into(), Some(80)), "an address is one");
    assert_eq!(original(&view, "a.example.org", "a.example.org"), ("a.example.org".into(), Some(8080)));
    let cluster = seen(&view, "a.example.org", "default").unwrap().cluster(80).unwrap();
    assert!(cluster.endpoints.is_empty() && cluster.pick(&Attempt::default()).is_none());
    let places = ["10.9.0.1:8080", "10.9.0.2:8080"].map(|address| address.parse().unwrap());
    let at = cluster.at(&places, None).unwrap();
    assert!(at.is_one_host() && !cluster.is_one_host());
    assert_eq!(at.name, cluster.name);
    assert_eq!(at.endpoints.len(), 2);
    let endpoint = &at.endpoints[0];
    assert_eq!((endpoint.address.socket().to_string().as_str(), endpoint.protocol), ("10.9.0.1:8080", Protocol::Http));
    endpoint.load.connect_failed(0);
    let other = at.pick(&Attempt { now_ms: 1, ..Attempt::default() }).unwrap();
    assert_eq!(other.address.socket(), places[1], "one that cannot be reached is held back");
    let next = cluster.at(&places[..1], Some(&at)).unwrap();
    assert!(next.endpoints[0].load.is_failing(1), "what is known of a place outlasts a view");
    assert!(Mesh::new().apply(API).view().externals()[0].cluster(80).unwrap().original_destination().is_none());
}

#[test]
fn the_oldest_entry_of_a_port_says_how_its_endpoints_are_found() {
    let none = entry("name: none", "api.example.com", "ports: [{name: http, number: 80, protocol: HTTP}]");
    let fixed = static_entry("name: fixed", "api.example.com", "10.9.0.1");
    let is_original = |first: &str, second: &str| {
        let view = Mesh::new().apply(first).apply(second).view();
        view.externals()[0].cluster(80).unwrap().original_destination().is_some()
    };
    assert!(is_original(&none, &fixed));
    assert!(!is_original(&fixed, &none));
}

#[test]
fn the_network_of_an_endpoint_is_a_label_for_subsets_and_it_is_called_directly() {
    let api = API.replace("locality: eu/z1", "locality: eu/z1, network: far");
    let subsets = "{host: api.example.com, subsets: [{name: far, labels: {topology.istio.io/network: far}}]}";
    let view = Mesh::new().apply(&api).apply(&destination_rule("n", "default", subsets)).view();
    assert_eq!(addresses(&view, "api.example.com", 80, "far"), ["10.9.0.1:8080"]);
    assert_eq!(addresses(&view, "api.example.com", 80, "").len(), 2);
}
