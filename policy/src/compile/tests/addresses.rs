//! Addresses of ServiceEntries: what clients may ask for instead of a host's name.

use super::{
    explain::{explain, steps},
    *,
};

fn entry(name: &str, host: &str, rest: &str) -> String {
    format!(
        "{{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {{{name}}}, spec: {{hosts: [{host}], \
         ports: [{{name: http, number: 80, protocol: HTTP}}, {{name: tls, number: 443, protocol: TLS}}], {rest}}}}}"
    )
}

/// The host that a client in a namespace means by an address.
fn host_of(view: &MeshView, namespace: &str, address: &str, port: Option<u16>) -> String {
    let client = Client { namespace: &namespace.parse().unwrap(), workload: None };
    match view.host(address, port, client) {
        Some(Host::Service(service)) => service.id.name().to_owned(),
        Some(Host::Virtual(_) | Host::Passthrough(_)) | None => "none".into(),
    }
}

fn means(view: &MeshView, address: &str, port: u16) -> String {
    host_of(view, "default", address, Some(port))
}

#[test]
fn an_address_means_the_host_of_its_entry_at_the_ports_of_that_entry() {
    let view = Mesh::new()
        .apply(&entry("name: a", "a.example.com", "addresses: [10.9.0.1, '2001:db8::1', 10.8.0.0/16]"))
        .apply(&entry("name: b", "a.example.com", "addresses: [10.7.0.1]").replace("443", "8443"))
        .view();
    for (address, port, host) in [
        ("10.9.0.1", 80, "a.example.com"),
        ("10.9.0.1", 443, "a.example.com"),
        ("10.9.0.1", 81, "none"),
        ("::ffff:10.9.0.1", 80, "a.example.com"),
        ("[2001:db8::1]", 80, "a.example.com"),
        ("10.8.3.4", 443, "a.example.com"),
        ("10.9.0.2", 80, "none"),
        ("10.9.0.1.", 80, "none"),
        ("10.7.0.1", 8443, "a.example.com"),
        ("10.7.0.1", 443, "none"),
        ("10.9.0.1", 8443, "none"),
    ] {
        assert_eq!(means(&view, address, port), host, "{address}:{port}");
    }
    assert_eq!(host_of(&view, "default", "10.9.0.1", None), "a.example.com", "without a port it is HTTP's");
}

#[test]
fn the_narrowest_range_comes_before_others_and_each_before_an_entry_for_all_hosts() {
    let view = Mesh::new()
        .apply(&entry("name: wide", "wide.example.com", "addresses: [10.0.0.0/8]"))
        .apply(&entry("name: narrow", "narrow.example.com", "addresses: [10.9.0.0/24]"))
        .apply(&entry("name: one", "one.example.com", "addresses: [10.9.0.1/32]"))
        .apply(&entry("name: all", "'*'", "resolution: DYNAMIC_DNS"))
        .view();
    for (address, host) in [
        ("10.9.0.1", "one.example.com"),
        ("10.9.0.2", "narrow.example.com"),
        ("10.1.0.1", "wide.example.com"),
        ("11.0.0.1", "*"),
    ] {
        assert_eq!(means(&view, address, 80), host, "{address}");
    }
}

#[test]
fn of_one_address_the_oldest_entry_holds_that_the_client_sees_and_its_first_host() {
    let hidden = entry("name: hidden, namespace: other", "hidden.example.com", "addresses: [10.9.0.1], exportTo: [.]");
    let view = Mesh::new()
        .apply(&hidden)
        .apply(&entry("name: z", "z.example.com, b.example.com", "addresses: [10.9.0.1]"))
        .apply(&entry("name: a", "a.example.com", "addresses: [10.9.0.1]"))
        .view();
    assert_eq!(host_of(&view, "default", "10.9.0.1", Some(80)), "z.example.com");
    assert_eq!(host_of(&view, "other", "10.9.0.1", Some(80)), "hidden.example.com");
}

#[test]
fn an_address_of_an_entry_that_another_namespaces_hides_means_nothing() {
    let own = entry("name: a", "a.example.com", "addresses: [10.9.0.1]");
    let view = Mesh::new()
        .apply(&own)
        .apply(&entry("name: a, namespace: other", "a.example.com", "addresses: [10.9.0.2]"))
        .view();
    let seen = |namespace| ["10.9.0.1", "10.9.0.2"].map(|address| host_of(&view, namespace, address, Some(80)));
    assert_eq!(seen("default"), ["a.example.com", "none"]);
    assert_eq!(seen("other"), ["none", "a.example.com"]);
    assert_eq!(seen("third"), ["a.example.com", "none"], "the oldest");
    let hidden = entry("name: b", "a.example.com", "addresses: [10.9.0.3], exportTo: [.]");
    let view = Mesh::new().apply(&own).apply(&hidden).view();
    assert_eq!(host_of(&view, "other", "10.9.0.1", Some(80)), "a.example.com");
    assert_eq!(host_of(&view, "other", "10.9.0.3", Some(80)), "none", "it is not exported");
}

#[test]
fn a_sidecar_hides_addresses_with_their_host() {
    let sidecar = "{apiVersion: networking.istio.io/v1, kind: Sidecar, metadata: {name: s}, spec: {egress: [{hosts: \
                   ['./b.example.com']}]}}";
    let view = Mesh::new()
        .apply(&entry("name: a", "a.example.com", "addresses: [10.9.0.1]"))
        .apply(&entry("name: b", "b.example.com", "addresses: [10.9.0.2]"))
        .apply(sidecar)
        .view();
    assert_eq!(["10.9.0.1", "10.9.0.2"].map(|address| means(&view, address, 80)), ["none", "b.example.com"]);
}

#[test]
fn without_resolution_the_very_address_is_called_and_otherwise_the_entrys_places() {
    let fixed = "addresses: [10.7.0.1], resolution: STATIC, endpoints: [{address: 10.6.0.1}]";
    let view = bookinfo()
        .apply(&entry("name: wild", "'*.example.com'", "addresses: [10.9.0.0/16]"))
        .apply(&entry("name: fixed", "fixed.example.com", fixed))
        .view();
    let client = Client { namespace: &Namespace::default_namespace(), workload: None };
    let cluster = |address| match view.host(address, Some(443), client) {
        Some(Host::Service(service)) => service.cluster(443).unwrap(),
        other => panic!("{other:?}"),
    };
    assert_eq!(cluster("10.9.1.2").destination_host("10.9.1.2"), "10.9.1.2");
    assert_eq!(cluster("10.9.1.2").original_destination().unwrap().port, Some(443));
    let places: Vec<String> =
        cluster("10.7.0.1").endpoints.iter().map(|endpoint| endpoint.address.socket().to_string()).collect();
    assert_eq!(places, ["10.6.0.1:443"]);

    let told = explain(&view, "10.7.0.1:80", &get("/"));
    assert_eq!(
        steps(&told, "host")[0],
        "ServiceEntry default/fixed spec.addresses: 10.7.0.1 is one of fixed.example.com"
    );
    assert_eq!(told.shares[0].cluster, "outbound|80||fixed.example.com");
}
