use super::*;
use crate::api::tests::pending;

const KIND: &str = "Sidecar";

fn egress(listener: &str) -> String {
    format!("{{egress: [{listener}]}}")
}

fn ingress(listener: &str) -> String {
    format!("{{ingress: [{listener}]}}")
}

#[test]
fn an_empty_one_says_nothing() {
    assert_refused(
        KIND,
        &[("{}", "needs ingress, egress"), ("{workloadSelector: {labels: {a: b}}}", "needs ingress, egress")],
    );
    assert_accepted(KIND, &["{outboundTrafficPolicy: {}}", "{inboundConnectionPool: {tcp: {maxConnections: 1}}}"]);
    let spec = "{workloadSelector: {}, egress: [{hosts: ['./*']}]}";
    assert_noticed(KIND, &[(spec, "has no labels: it selects all workloads")]);
}

#[test]
fn egress_hosts_have_a_namespace() {
    for (host, wanted) in [
        ("a.com", "must be NAMESPACE/HOST"),
        ("'/a.com'", "is not a namespace"),
        ("'a/'", "is not a full host name"),
        ("a/short", "is not a full host name"),
        ("'a/*foo.com'", "stands for a part of a label"),
        ("'a.b/c.com'", "is not a namespace, nor one of *, ., ~"),
    ] {
        assert_refused(KIND, &[(&egress(&format!("{{hosts: [{host}]}}")), wanted)]);
    }
    for host in ["./*", "*/*", "~/*", "ns/a.com", "*/*.a.com", "istio-system/*"] {
        assert_accepted(KIND, &[&egress(&format!("{{hosts: ['{host}']}}"))]);
    }
    assert_refused(KIND, &[(&egress("{hosts: []}"), "needs at least one host"), (&egress("{}"), "hosts is missing")]);
}

#[test]
fn egress_hosts_that_are_covered_are_told() {
    for (hosts, wanted) in [
        ("[a/b.com, a/b.com]", "a/b.com is given twice"),
        ("['a/*', a/b.com]", "a/b.com is given twice"),
        ("[a/b.com, 'a/*']", "a/* is given twice"),
        ("['default/*', './*']", "./* is given twice"),
        ("['*/*', a/b.com]", "which selects all"),
    ] {
        assert_noticed(KIND, &[(&egress(&format!("{{hosts: {hosts}}}")), wanted)]);
    }
}

#[test]
fn the_egress_listener_for_all_other_ports_comes_last() {
    let (any, http) = ("{hosts: ['./*']}", "{port: {number: 80, protocol: HTTP, name: a}, hosts: ['./*']}");
    assert_refused(KIND, &[(&egress(&format!("{any}, {http}")), "egress[0]: has no port")]);
    assert_refused(KIND, &[(&egress(&format!("{any}, {any}")), "egress[0]: has no port")]);
    assert_accepted(KIND, &[&egress(&format!("{http}, {any}"))]);
}

#[test]
fn egress_ports_are_unique_and_bound_to_addresses() {
    let of = |port: &str, more: &str| format!("{{port: {{{port}}}, hosts: ['./*']{more}}}");
    let http = of("number: 80", "");
    assert_refused(
        KIND,
        &[
            (&egress(&format!("{http}, {http}")), "egress[1].port: port 80 is given twice"),
            (&egress(&of("number: 80, targetPort: 1", "")), "targetPort: has no meaning"),
            (&egress(&of("number: 80", ", bind: a.b")), "is not an IP address"),
            (&egress(&of("number: 80, protocol: X", "")), "it must be one of HTTP"),
            (&egress(&of("number: 80, name: 'a b'", "")), "must be 1 to 63"),
            (&egress(&of("number: 0", "")), "bind: must be unix://PATH"),
            (&egress(&of("number: 0", ", bind: 'unix://a'")), "needs an absolute path"),
            (
                &egress(&of("number: 0", ", bind: 'unix:///a', captureMode: IPTABLES")),
                "captureMode: must be DEFAULT or NONE",
            ),
        ],
    );
    let socket = of("protocol: HTTP", ", bind: 'unix:///a'");
    assert_refused(KIND, &[(&egress(&format!("{socket}, {socket}")), "egress[1].bind: unix:///a is given twice")]);
    assert_accepted(
        KIND,
        &[&egress(&socket), &egress(&of("number: 80, protocol: ''", ", bind: 127.0.0.1, captureMode: NONE"))],
    );
}

#[test]
fn ingress_ports_are_unique_and_forward_to_the_own_host() {
    let of = |more: &str| format!("{{port: {{number: 80, protocol: HTTP, name: a}}{more}}}");
    let one = of("");
    assert_refused(
        KIND,
        &[
            (&ingress(&format!("{one}, {one}")), "ingress[1].port: port 80 is given twice"),
            (&ingress("{defaultEndpoint: ':80'}"), "port is missing"),
            (&ingress("{port: {protocol: HTTP}}"), "port.number: must be from 1 to 65535"),
            (&ingress(&of(", bind: 'unix:///a'")), "is not an IP address"),
            (&ingress(&of(", defaultEndpoint: '10.0.0.1:80'")), "must be 127.0.0.1:PORT"),
            (&ingress(&of(", defaultEndpoint: '127.0.0.1'")), "must be 127.0.0.1:PORT"),
            (&ingress(&of(", defaultEndpoint: '127.0.0.1:0'")), "must be 127.0.0.1:PORT"),
            (&ingress(&of(", defaultEndpoint: 'unix:///a/'")), "must not be a directory"),
            (&ingress(&of(", connectionPool: {}")), "connectionPool: must have tcp or http"),
        ],
    );
    for endpoint in ["127.0.0.1:80", "0.0.0.0:80", "[::1]:80", "[::]:80", ":80", "unix:///a", "unix://@a"] {
        assert_accepted(KIND, &[&ingress(&of(&format!(", defaultEndpoint: '{endpoint}'")))]);
    }
    let tcp = "{port: {number: 80, protocol: TCP}, connectionPool: {http: {}}}";
    assert_noticed(KIND, &[(&ingress(tcp), "the port's protocol is not HTTP")]);
}

#[test]
fn ingress_tls_has_files_and_no_mesh_certificates() {
    for (tls, wanted) in [
        ("{mode: SIMPLE, credentialName: a}", "credentialName: is not supported"),
        ("{subjectAltNames: [a]}", "subjectAltNames: is not supported"),
        ("{httpsRedirect: true}", "httpsRedirect: is not supported"),
        ("{mode: ISTIO_MUTUAL}", "mode: must be PASSTHROUGH"),
        ("{mode: AUTO_PASSTHROUGH}", "mode: must be PASSTHROUGH"),
        ("{mode: SIMPLE, serverCertificate: a}", "privateKey is missing"),
    ] {
        let spec = ingress(&format!("{{port: {{number: 80, protocol: HTTPS}}, tls: {tls}}}"));
        assert_refused(KIND, &[(&spec, wanted)]);
    }
    let spec = "{port: {number: 80, protocol: HTTPS}, tls: {mode: SIMPLE, serverCertificate: a, privateKey: b}}";
    assert_accepted(KIND, &[&ingress(spec)]);
}

#[test]
fn an_egress_proxy_needs_allow_any() {
    let of = |policy: &str| format!("{{outboundTrafficPolicy: {policy}}}");
    assert_refused(
        KIND,
        &[
            (&of("{egressProxy: {host: a.b, port: {number: 1}}}"), "needs mode ALLOW_ANY"),
            (&of("{mode: REGISTRY_ONLY, egressProxy: {host: a.b, port: {number: 1}}}"), "needs mode ALLOW_ANY"),
            (&of("{mode: ALLOW_ANY, egressProxy: {host: a.b}}"), "egressProxy.port is missing"),
            (&of("{mode: ALLOW_ANY, egressProxy: {host: '*.b', port: {number: 1}}}"), "is not a full host name"),
            (&of("{mode: ALLOW_ALL}"), "it must be one of REGISTRY_ONLY, ALLOW_ANY"),
        ],
    );
    assert_accepted(
        KIND,
        &[&of("{mode: ALLOW_ANY, egressProxy: {host: a.example.com, port: {number: 1}, subset: v1}}")],
    );
}

#[test]
fn what_a_document_cannot_open_is_pending() {
    let spec = "{egress: [{hosts: ['./*']}], outboundTrafficPolicy: {mode: REGISTRY_ONLY}}";
    assert!(pending(&text(KIND, spec)).is_empty());
    let spec = "{egress: [{port: {number: 80}, bind: 127.0.0.1, hosts: ['./*']}], ingress: [{port: {number: 80}}], \
                inboundConnectionPool: {tcp: {maxConnections: 1}}}";
    assert_eq!(pending(&text(KIND, spec)), ["spec.egress[0].bind", "spec.ingress", "spec.inboundConnectionPool"]);
}
