use super::*;
use crate::api::tests::refusals;

const KIND: &str = "Gateway";

fn with_server(server: &str) -> String {
    format!("{{selector: {{istio: ingressgateway}}, servers: [{server}]}}")
}

/// A server for `*` with this port, and more fields.
fn of(port: &str, more: &str) -> String {
    with_server(&format!("{{port: {{number: 80, name: a, {port}}}, hosts: ['*']{more}}}"))
}

fn assert_tls_refused(protocol: &str, cases: &[(&str, &str)]) {
    for (tls, wanted) in cases {
        assert_refused(KIND, &[(&of(&format!("protocol: {protocol}"), &format!(", tls: {tls}")), wanted)]);
    }
}

fn assert_tls_accepted(protocol: &str, cases: &[&str]) {
    for tls in cases {
        assert_accepted(KIND, &[&of(&format!("protocol: {protocol}"), &format!(", tls: {tls}"))]);
    }
}

#[test]
fn a_gateway_has_servers_with_hosts_and_ports() {
    assert_refused(
        KIND,
        &[
            ("{}", "spec.servers: needs at least one server"),
            (&with_server("{hosts: ['*']}"), "servers[0].port is missing"),
            (&with_server("{port: {number: 80, name: a, protocol: HTTP}}"), "hosts is missing"),
            (&with_server("{port: {number: 80, name: a, protocol: HTTP}, hosts: []}"), "needs at least one host"),
            (&with_server("{port: {number: 80, name: '', protocol: HTTP}, hosts: ['*']}"), "port.name is missing"),
            (&with_server("{port: {number: 80, name: a}, hosts: ['*']}"), "port.protocol is missing"),
            (&of("protocol: ''", ""), "port.protocol is missing"),
            (&of("protocol: SMTP", ""), "is \"SMTP\"; it must be one of HTTP"),
            (&of("protocol: HTTP, targetPort: 81", ""), "targetPort: has no meaning at a gateway"),
        ],
    );
    assert_accepted(KIND, &[&of("protocol: http", ""), &of("protocol: MONGO", ""), &of("protocol: GRPC-WEB", "")]);
    let dotted = text(KIND, &of("protocol: HTTP", "")).replace("name: reviews", "name: a.b");
    assert!(refusals(&dotted)[0].contains("must be a DNS label"));
}

#[test]
fn port_names_are_unique() {
    let server = "{port: {number: 80, name: a, protocol: HTTP}, hosts: ['*']}";
    assert_refused(
        KIND,
        &[(&with_server(&format!("{server}, {server}")), "servers[1].port.name: the name a is given twice")],
    );
}

#[test]
fn ports_are_in_range_and_0_only_for_unix_sockets() {
    let of = |number: &str, bind: &str| {
        with_server(&format!("{{port: {{number: {number}, name: a, protocol: HTTP}}, bind: '{bind}', hosts: ['*']}}"))
    };
    assert_refused(
        KIND,
        &[
            (&of("0", ""), "port.number: is 0"),
            (&of("65536", ""), "from 0 to 65535"),
            (&of("80", "unix:///a"), "must be 0 where bind is a unix address"),
            (&of("0", "unix://a"), "needs an absolute path"),
            (&of("0", "unix:///a/"), "must not be a directory"),
            (&of("80", "a.b"), "is neither an IP address nor unix://PATH"),
        ],
    );
    assert_accepted(KIND, &[&of("0", "unix:///a/b"), &of("0", "unix://@a"), &of("80", "127.0.0.1"), &of("80", "::")]);
}

#[test]
fn hosts_may_name_a_namespace_and_are_full_names() {
    for (host, wanted) in [
        ("short", "is not a full host name"),
        ("'*foo.com'", "stands for a part of a label"),
        ("'*-a.foo.com'", "stands for a part of a label"),
        ("'a.*.com'", "is not a host"),
        ("'/foo.com'", "is not a namespace"),
        ("ns/", "is not a full host name"),
        ("'~/foo.com'", "is not a namespace, nor one of *, ."),
        ("a.b/foo.com", "is not a namespace"),
        ("ns/a/b.com", "is not a host"),
    ] {
        let spec = with_server(&format!("{{port: {{number: 80, name: a, protocol: HTTP}}, hosts: [{host}]}}"));
        assert_refused(KIND, &[(&spec, wanted)]);
    }
    let right = ["'*'", "foo.com", "'*.foo.com'", "ns/foo.com", "'./*.foo.com'", "'*/foo.com'", "ns/*", "1.2.3.4"];
    for host in right {
        let spec = with_server(&format!("{{port: {{number: 80, name: a, protocol: HTTP}}, hosts: [{host}, '*']}}"));
        assert_accepted(KIND, &[&spec]);
    }
}

#[test]
fn https_and_tls_need_tls_settings() {
    for protocol in ["HTTPS", "TLS"] {
        assert_refused(KIND, &[(&of(&format!("protocol: {protocol}"), ""), "servers[0].tls is missing")]);
        assert_tls_accepted(protocol, &["{}", "{mode: PASSTHROUGH}", "{mode: SIMPLE, credentialName: a}"]);
    }
}

#[test]
fn plain_http_may_only_redirect() {
    assert_tls_refused(
        "HTTP",
        &[
            ("{mode: SIMPLE, credentialName: a}", "may have only httpsRedirect"),
            ("{mode: SIMPLE, serverCertificate: a, privateKey: b}", "may have only httpsRedirect"),
        ],
    );
    assert_tls_refused("TCP", &[("{}", "is only for the protocols HTTPS and TLS")]);
    assert_tls_accepted("HTTP", &["{httpsRedirect: true}"]);
    let spec = of("protocol: HTTPS", ", tls: {httpsRedirect: true, mode: SIMPLE, credentialName: a}");
    assert_noticed(KIND, &[(&spec, "only plain HTTP can be redirected")]);
}

#[test]
fn tls_has_what_its_mode_needs() {
    assert_tls_refused(
        "HTTPS",
        &[
            ("{mode: SIMPLE, privateKey: b}", "tls.serverCertificate is missing"),
            ("{mode: SIMPLE, serverCertificate: b}", "tls.privateKey is missing"),
            ("{mode: MUTUAL, serverCertificate: a, privateKey: b}", "tls.caCertificates is missing"),
            ("{mode: OPTIONAL_MUTUAL, serverCertificate: a, privateKey: b}", "tls.caCertificates is missing"),
            ("{mode: ISTIO_MUTUAL, credentialName: a}", "tls.credentialName: must not be given with ISTIO_MUTUAL"),
            ("{mode: ISTIO_MUTUAL, serverCertificate: a}", "tls.serverCertificate: must not be given"),
            (
                "{mode: SIMPLE, credentialName: a, credentialNames: [a, b]}",
                "only one of credentialName, credentialNames",
            ),
            ("{mode: SIMPLE, serverCertificate: a, privateKey: b, caCrl: c}", "tls.caCrl: has no meaning with SIMPLE"),
            ("{mode: MUTUAL, credentialName: a, caCrl: c}", "tls.caCrl: must stand in the credential"),
            ("{minProtocolVersion: TLSV1_3, maxProtocolVersion: TLSV1_2}", "is below minProtocolVersion"),
            ("{minProtocolVersion: '1.3'}", "it must be one of TLS_AUTO"),
        ],
    );
    assert_tls_accepted(
        "HTTPS",
        &[
            "{mode: SIMPLE, serverCertificate: a, privateKey: b}",
            "{mode: MUTUAL, serverCertificate: a, privateKey: b, caCertificates: c, caCrl: d, subjectAltNames: [x]}",
            "{mode: MUTUAL, credentialName: a}",
            "{mode: MUTUAL, credentialName: a, caCertCredentialName: b}",
            "{mode: ISTIO_MUTUAL}",
            "{mode: SIMPLE, credentialNames: [a, b], minProtocolVersion: TLSV1_2, maxProtocolVersion: TLSV1_3}",
            "{mode: AUTO_PASSTHROUGH}",
        ],
    );
}

#[test]
fn at_most_two_certificates_serve_one_port() {
    let certificate = "{serverCertificate: a, privateKey: b}";
    assert_tls_refused(
        "HTTPS",
        &[
            ("{mode: SIMPLE, credentialNames: [a, b, c]}", "tls.credentialNames: has a length of 3; 2 is the most"),
            (
                &format!("{{mode: SIMPLE, tlsCertificates: [{certificate}, {certificate}, {certificate}]}}"),
                "tls.tlsCertificates: has a length of 3",
            ),
            ("{mode: SIMPLE, tlsCertificates: [{serverCertificate: a}]}", "tlsCertificates[0].privateKey is missing"),
            (
                &format!("{{mode: SIMPLE, serverCertificate: a, privateKey: b, tlsCertificates: [{certificate}]}}"),
                "only one of serverCertificate, tlsCertificates",
            ),
        ],
    );
    assert_tls_accepted("HTTPS", &[&format!("{{mode: SIMPLE, tlsCertificates: [{certificate}, {certificate}]}}")]);
}

#[test]
fn what_has_no_effect_is_told() {
    for (tls, wanted) in [
        ("{mode: PASSTHROUGH, credentialName: a}", "TLS passes through"),
        ("{mode: SIMPLE, credentialName: a, minProtocolVersion: TLSV1_1}", "is below TLS 1.2"),
        ("{mode: SIMPLE, credentialName: a, cipherSuites: [A, A]}", "is given twice"),
    ] {
        assert_noticed(KIND, &[(&of("protocol: HTTPS", &format!(", tls: {tls}")), wanted)]);
    }
}
