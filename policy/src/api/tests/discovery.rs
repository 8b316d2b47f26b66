use crate::api::tests::{assert_noticed, assert_refused, pending, text};

const API: &str = "discovery.k8s.io/v1";

fn endpoint(kind: &str, endpoint: &str) -> String {
    format!("addressType: {kind}\nendpoints: [{endpoint}]")
}

#[test]
fn a_slice_is_read() {
    let body = "addressType: IPv4\n\
                ports: [{name: http, port: 80, protocol: TCP, appProtocol: kubernetes.io/h2c}, {name: '', port: 81}]\n\
                endpoints: [{addresses: [10.0.0.1], conditions: {ready: true, serving: null}, hostname: a, nodeName: n.b, \
                targetRef: {kind: Pod, name: a}, zone: z1, hints: {forZones: [{name: z1}], forNodes: [{name: n}]}}]";
    assert!(pending(&text(API, "EndpointSlice", body)).is_empty());
    let ports = "addressType: FQDN\nports: [{name: a}, {name: b, port: 53, protocol: UDP}]";
    assert_eq!(pending(&text(API, "EndpointSlice", ports)), ["ports[1].protocol"]);
}

#[test]
fn addresses_are_of_the_slices_type_and_of_other_hosts() {
    for (kind, address, wanted) in [
        ("IPv4", "'::1'", "is not an IPv4 address"),
        ("IPv4", "a.b", "is not an IPv4 address"),
        ("IPv6", "10.0.0.1", "is not an IPv6 address"),
        ("FQDN", "a_b", "is not a DNS name"),
        ("IPv4", "127.0.0.1", "is not the address of one host"),
        ("IPv4", "0.0.0.0", "is not the address of one host"),
        ("IPv4", "169.254.1.1", "is not the address of one host"),
        ("IPv6", "'fe80::1'", "is not the address of one host"),
        ("IPv4", "224.0.0.1", "is not the address of one host"),
    ] {
        let body = endpoint(kind, &format!("{{addresses: [{address}]}}"));
        assert_refused(API, "EndpointSlice", &[(&body, wanted)]);
    }
}

#[test]
fn endpoints_and_ports_are_checked() {
    let name = |index: usize| format!("{{name: z{index}}}");
    let zones: Vec<String> = (0..9).map(name).collect();
    let too_many = endpoint("FQDN", &format!("{{addresses: [a.b], hints: {{forZones: [{}]}}}}", zones.join(", ")));
    assert_refused(
        API,
        "EndpointSlice",
        &[
            ("endpoints: []", "addressType is missing"),
            ("addressType: IPv5", "it must be one of IPv4, IPv6, FQDN"),
            (&endpoint("IPv4", "{addresses: []}"), "needs at least one address"),
            (&endpoint("IPv4", "{}"), "addresses is missing"),
            (&endpoint("FQDN", "{addresses: [a.b], hostname: a.b}"), "must be a DNS label"),
            (&endpoint("FQDN", "{addresses: [a.b], hints: {forZones: [{name: a}, {name: a}]}}"), "a is given twice"),
            (&too_many, "has a length of 9; 8 is the most"),
            ("addressType: IPv4\nports: [{port: 1}, {port: 2}]", "the name \"\" is given twice"),
            ("addressType: IPv4\nports: [{name: A, port: 1}]", "must be a DNS label"),
            ("addressType: IPv4\nports: [{port: 0}]", "is the number 0"),
            ("addressType: IPv4\nports: [{port: 1, protocol: HTTP}]", "must be TCP, UDP or SCTP"),
        ],
    );
    let old = endpoint("FQDN", "{addresses: [a.b], deprecatedTopology: {kubernetes.io/hostname: n}}");
    assert_noticed(API, "EndpointSlice", &[(&old, "deprecatedTopology has no effect")]);
}
