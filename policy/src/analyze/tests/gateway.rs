use super::{document, networking, pod, told};

/// Good from 25 November 2026 for a year.
const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----
MIIBbTCCAROgAwIBAgIUIMNa8pmN360ZAxxJNgmXXikj7y4wCgYIKoZIzj0EAwIw
DDEKMAgGA1UEAwwBdDAeFw0yNjExMjUwMzMzMzZaFw0yNzExMjUwMzMzMzZaMAwx
CjAIBgNVBAMMAXQwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAASh9udEl93Mugkd
CFVOMQQKJfRMwEHJldxg/z9RGrK6g3Myd1HYprUPHcMLqpyEhzCb5WAawPJM7M42
W85fDlW/o1MwUTAdBgNVHQ4EFgQUjJrwcUFIiy1PQa2OmWedxJhkE1owHwYDVR0j
BBgwFoAUjJrwcUFIiy1PQa2OmWedxJhkE1owDwYDVR0TAQH/BAUwAwEB/zAKBggq
hkjOPQQDAgNIADBFAiAdkNt5WVhOD2WPDU4S73ut43YsZQYeSThbZyIP5cWnngIh
ANNHpQB9w8veCaIKXs/vlC4SIlYK+B4mZTW6oKzA06jd
-----END CERTIFICATE-----";
const KEY: &str = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----";

const DEFAULT: &str = "{istio: ingressgateway}";

fn gateway(name: &str, selector: &str, port: u16, rest: &str) -> String {
    let server = format!("{{port: {{number: {port}, name: p, protocol: HTTP}}, {rest}}}");
    networking("Gateway", name, &format!("{{selector: {selector}, servers: [{server}]}}"))
}

#[test]
fn a_gateway_needs_workloads() {
    assert_eq!(told("IST0101", &[gateway("a", "{istio: typo}", 80, "hosts: ['*']")]), ["Gateway default/a"]);
    assert!(told("IST0101", &[gateway("a", DEFAULT, 80, "hosts: ['*']")]).is_empty());
    let own = [gateway("a", "{app: gw}", 80, "hosts: ['*']"), pod("gw-1", "{app: gw}")];
    assert!(told("IST0101", &own).is_empty());
}

#[test]
fn a_gateways_port_must_be_on_a_service() {
    let service = |port: u16| {
        let spec = format!("{{selector: {{app: gw}}, ports: [{{name: http, port: {port}, targetPort: 80}}]}}");
        document("v1", "Service", "default", "gw", &spec)
    };
    let at = |port: u16| [gateway("a", "{app: gw}", 80, "hosts: ['*']"), pod("gw-1", "{app: gw}"), service(port)];
    assert!(told("IST0162", &at(80)).is_empty());
    assert_eq!(told("IST0162", &at(8003)), ["Gateway default/a"]);
    assert_eq!(told("IST0162", &[gateway("a", DEFAULT, 8004, "hosts: ['*']")]), ["Gateway default/a"]);
    assert!(told("IST0162", &[gateway("a", DEFAULT, 443, "hosts: ['*']")]).is_empty());
}

#[test]
fn a_node_listens_on_the_ports_of_the_gateways_that_select_it() {
    let mut input = super::Input::default();
    input.add_node("edge-1".into(), [("istio".to_owned(), "ingressgateway".to_owned())].into());
    let namespace = weft_wire::id::Namespace::default_namespace();
    input.add_file("f.yaml", &gateway("a", DEFAULT, 8004, "hosts: ['*']"), &namespace);
    assert_eq!(input.analyze(super::NOW), []);
    input.add_file("f.yaml", &gateway("b", "{istio: egressgateway}", 80, "hosts: ['*']"), &namespace);
    assert_eq!(input.analyze(super::NOW).len(), 1);
}

fn secret(namespace: &str, data: &[(&str, &str)]) -> String {
    let data: String =
        data.iter().map(|(key, text)| format!("  {key}: |\n    {}\n", text.replace('\n', "\n    "))).collect();
    format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: s, namespace: {namespace}}}\nstringData:\n{data}---\n")
}

#[test]
fn a_credential_must_be_where_the_workloads_are() {
    let tls = gateway("a", DEFAULT, 443, "hosts: ['*'], tls: {mode: SIMPLE, credentialName: s}");
    let good = [("tls.crt", CERTIFICATE), ("tls.key", KEY)];
    assert_eq!(told("IST0101", std::slice::from_ref(&tls)), ["Gateway default/a"]);
    assert_eq!(told("IST0101", &[tls.clone(), secret("default", &good)]), ["Gateway default/a"]);
    assert!(told("IST0101", &[tls, secret("istio-system", &good)]).is_empty());
}

#[test]
fn a_credential_must_be_a_certificate_that_holds_with_its_key() {
    let tls = gateway("a", DEFAULT, 443, "hosts: ['*'], tls: {mode: SIMPLE, credentialName: s}");
    let with = |data: &[(&str, &str)]| told("IST0161", &[tls.clone(), secret("istio-system", data)]);
    assert!(with(&[("tls.crt", CERTIFICATE), ("tls.key", KEY)]).is_empty());
    assert!(with(&[("cert", CERTIFICATE), ("key", KEY)]).is_empty());
    for data in [
        &[("tls.crt", CERTIFICATE)][..],
        &[("certificate", CERTIFICATE), ("key", KEY)],
        &[("tls.crt", "hush"), ("tls.key", KEY)],
        &[("tls.crt", CERTIFICATE), ("tls.key", "hush")],
        &[("tls.crt", CERTIFICATE), ("tls.key", CERTIFICATE)],
        &[("tls.crt", KEY), ("tls.key", KEY)],
    ] {
        assert_eq!(with(data), ["Gateway default/a"], "{data:?}");
    }
    let mut input = super::Input::default();
    let text = [tls, secret("istio-system", &[("tls.crt", CERTIFICATE), ("tls.key", KEY)])].concat();
    input.add_file("f.yaml", &text, &weft_wire::id::Namespace::default_namespace());
    let in_2030 = 1_900_000_000;
    let found = input.analyze(in_2030);
    assert!(
        found.iter().any(|message| message.code.id() == "IST0161" && message.text.contains("ended on")),
        "{found:?}"
    );
}

#[test]
fn gateways_must_not_share_a_certificate() {
    let tls = |name: &str, selector: &str, credential: &str| {
        gateway(
            name,
            selector,
            443,
            &format!("hosts: [{name}.com], tls: {{mode: SIMPLE, credentialName: {credential}}}"),
        )
    };
    let both = |a: &str, b: &str| told("IST0138", &[tls("a", DEFAULT, a), tls("b", DEFAULT, b)]).len();
    assert_eq!(both("c", "c"), 2);
    assert_eq!(both("c", "d"), 0);
    let wider = [tls("a", DEFAULT, "c"), tls("b", "{istio: ingressgateway, app: x}", "c")];
    assert_eq!(told("IST0138", &wider), ["Gateway default/a"]);
}

#[test]
fn gateways_of_the_same_workloads_must_not_claim_one_host_and_port() {
    let both = |selector: &str, port: u16, rest: &str| {
        told("IST0145", &[gateway("a", DEFAULT, 80, "hosts: [foo.bar]"), gateway("b", selector, port, rest)]).len()
    };
    assert_eq!(both(DEFAULT, 80, "hosts: [foo.bar]"), 2);
    assert_eq!(both(DEFAULT, 80, "hosts: [ns/foo.bar]"), 2);
    assert_eq!(both(DEFAULT, 80, "hosts: ['*.bar']"), 2);
    assert_eq!(both("{istio: ingressgateway, app: x}", 80, "hosts: [foo.bar]"), 2);
    assert_eq!(both(DEFAULT, 81, "hosts: [foo.bar]"), 0);
    assert_eq!(both(DEFAULT, 80, "hosts: [other.bar]"), 0);
    assert_eq!(both("{istio: egressgateway}", 80, "hosts: [foo.bar]"), 0);
}
