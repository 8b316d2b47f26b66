use weft_wire::{
    document::Stamp,
    id::Namespace,
    secret::{SecretBytes, SecretPayload},
};

use crate::{
    api::{
        core::ServicePort,
        tests::{assert_noticed, assert_refused, notices, parsed, pending, refusals, text},
    },
    document::{Spec, parse_stored, parse_yaml},
};

fn service(spec: &str) -> String {
    text("v1", "Service", &format!("spec: {spec}"))
}

fn assert_services_refused(cases: &[(&str, &str)]) {
    for (spec, wanted) in cases {
        assert_refused("v1", "Service", &[(&format!("spec: {spec}"), wanted)]);
    }
}

fn ports_of(spec: &str) -> Vec<ServicePort> {
    let Spec::Service(service) = crate::api::tests::accepted(&service(spec)).spec else { panic!("a Service") };
    service.ports
}

#[test]
fn ports_are_needed_but_by_headless_services_and_external_names() {
    assert_services_refused(&[
        ("{}", "spec.ports: needs at least one port"),
        ("{ports: []}", "needs at least one port"),
        ("{ports: [{name: http}]}", "port is missing"),
    ]);
    assert!(ports_of("{clusterIP: None}").is_empty());
    assert!(ports_of("{type: ExternalName, externalName: a.b}").is_empty());
}

#[test]
fn ports_are_unique_by_number_with_transport_and_by_name() {
    assert_services_refused(&[
        ("{ports: [{port: 70000}]}", "is the number 70000; it must be a whole number from 1 to 65535"),
        ("{ports: [{port: 1, name: a}, {port: 1, name: b}]}", "port 1 is given twice"),
        ("{ports: [{port: 1, name: a}, {port: 2, name: a}]}", "the name a is given twice"),
        ("{ports: [{port: 1, name: a}, {port: 2}]}", "needs a name"),
        ("{ports: [{port: 1, name: a.b}]}", "must be a DNS label"),
        ("{ports: [{port: 1, name: A}]}", "must be a DNS label"),
        ("{ports: [{port: 1, protocol: tcp}]}", "protocol: must be TCP, UDP or SCTP"),
        ("{ports: [{port: 1, appProtocol: 'a b'}]}", "must be [DNS name/]letters"),
    ]);
    assert_eq!(ports_of("{ports: [{port: 53, name: dns, protocol: UDP}, {port: 53, name: dns-tcp}]}").len(), 2);
}

#[test]
fn a_target_port_is_a_number_or_a_name() {
    for target in ["0", "65536", "'8080'", "''", "Http", "a--b", "a-name-too-long-1", "-a", "1.5"] {
        let spec = format!("{{ports: [{{port: 1, targetPort: {target}}}]}}");
        assert_services_refused(&[(&spec, "it must be a whole number from 1 to 65535, or the name of a port")]);
    }
    let named = "{ports: [{port: 1, targetPort: http}]}";
    assert_eq!(ports_of(named)[0].target_number(), None);
    assert!(pending(&service(named)).is_empty());
    assert_noticed("v1", "Service", &[(&format!("spec: {named}"), "spec.ports[0].targetPort http is not looked up")]);
    assert_eq!(ports_of("{ports: [{port: 1, targetPort: 8080}]}")[0].target_number(), Some(8080));
}

#[test]
fn the_protocol_comes_from_app_protocol_or_the_ports_name() {
    use weft_wire::fact::Protocol::{Grpc, Http, Http2, Tcp};
    for (port, expected) in [
        ("{port: 1, name: http}", Some(Http)),
        ("{port: 1, name: http-web}", Some(Http)),
        ("{port: 1, name: http2-x}", Some(Http2)),
        ("{port: 1, name: grpc}", Some(Grpc)),
        ("{port: 1, name: grpc-web}", Some(Http)),
        ("{port: 1, name: tcp-db}", Some(Tcp)),
        ("{port: 1, name: https}", Some(Tcp)),
        ("{port: 1, name: httpx}", None),
        ("{port: 1}", None),
        ("{port: 1, name: tcp, appProtocol: kubernetes.io/h2c}", Some(Http2)),
        ("{port: 1, name: http, appProtocol: example.com/mine}", None),
    ] {
        assert_eq!(ports_of(&format!("{{ports: [{port}]}}"))[0].spoken(), expected, "{port}");
    }
    let unknown = "spec: {ports: [{port: 1, appProtocol: smtp}]}";
    assert_noticed("v1", "Service", &[(unknown, "smtp is not known: each workload says what it speaks")]);
}

#[test]
fn an_external_name_is_a_dns_name_without_addresses() {
    assert_services_refused(&[
        ("{type: ExternalName}", "spec.externalName is missing"),
        ("{type: ExternalName, externalName: 'a b'}", "is not a DNS name"),
        ("{type: ExternalName, externalName: a.b, clusterIP: 1.2.3.4}", "must not be given with type ExternalName"),
    ]);
    let right = "{type: ExternalName, externalName: a.b., ports: [{port: 1}]}";
    assert!(pending(&service(right)).is_empty() && notices(&service(right)).is_empty());
    let portless = "spec: {type: ExternalName, externalName: a.b}";
    let selecting = "spec: {type: ExternalName, externalName: a.b, ports: [{port: 1}], selector: {a: b}}";
    let wanted = [(portless, "spec.ports are none"), (selecting, "spec.selector has no effect")];
    assert_noticed("v1", "Service", &wanted);
}

#[test]
fn cluster_addresses_are_addresses_or_none() {
    assert_services_refused(&[
        ("{ports: [{port: 1}], clusterIP: x}", "must be an IP address, None or empty"),
        ("{ports: [{port: 1}], clusterIPs: [x]}", "must be an IP address or None"),
        ("{ports: [{port: 1}], clusterIP: None, type: NodePort}", "must not be None with the types"),
        ("{ports: [{port: 1}], clusterIP: 1.2.3.4, clusterIPs: ['::1']}", "must start with clusterIP"),
        ("{ports: [{port: 1}], clusterIPs: [1.2.3.4, '::1', '::2']}", "has a length of 3; 2 is the most"),
        ("{ports: [{port: 1}], ipFamilies: [IPv4, IPv4]}", "has a family twice"),
        ("{ports: [{port: 1}], ipFamilies: [IPv5]}", "it must be one of IPv4, IPv6"),
        ("{ports: [{port: 1}], ipFamilyPolicy: Dual}", "it must be one of SingleStack"),
    ]);
}

#[test]
fn what_lets_clients_in_from_outside_needs_a_type_that_does() {
    assert_services_refused(&[
        ("{ports: [{port: 1, nodePort: 30000}]}", "is only for the types NodePort and LoadBalancer"),
        (
            "{type: NodePort, ports: [{port: 1, name: a, nodePort: 3}, {port: 2, name: b, nodePort: 3}]}",
            "nodePort: 3 is given twice",
        ),
        ("{ports: [{port: 1}], externalTrafficPolicy: Local}", "is only for services that are reached from outside"),
        ("{ports: [{port: 1}], healthCheckNodePort: 3}", "is only for type LoadBalancer with externalTrafficPolicy"),
        ("{ports: [{port: 1}], loadBalancerClass: a/b}", "is only for type LoadBalancer"),
        ("{ports: [{port: 1}], loadBalancerSourceRanges: [1.2.3.0/24]}", "is only for type LoadBalancer"),
        ("{ports: [{port: 1}], allocateLoadBalancerNodePorts: false}", "is only for type LoadBalancer"),
        ("{type: LoadBalancer, ports: [{port: 1}], loadBalancerSourceRanges: [1.2.3.4]}", "is not a CIDR range"),
        ("{ports: [{port: 1}], externalIPs: [127.0.0.1]}", "is not the IP address of a host"),
        ("{ports: [{port: 1}], externalIPs: [x]}", "is not the IP address of a host"),
    ]);
}

#[test]
fn session_affinity_is_by_the_clients_address() {
    assert_services_refused(&[
        ("{ports: [{port: 1}], sessionAffinity: Cookie}", "it must be one of None, ClientIP"),
        ("{ports: [{port: 1}], sessionAffinityConfig: {clientIP: {timeoutSeconds: 1}}}", "is only for sessionAffinity"),
        (
            "{ports: [{port: 1}], sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 0}}}",
            "from 1 to 86400",
        ),
    ]);
}

#[test]
fn fields_without_effect_are_accepted_with_a_notice() {
    for (spec, count) in [
        ("{type: NodePort, sessionAffinity: None, ports: [{port: 1, nodePort: 30000}]}", 2),
        (
            "{clusterIP: None, clusterIPs: [None], ipFamilies: [IPv4], ipFamilyPolicy: SingleStack, ports: [{port: 1}]}",
            4,
        ),
        (
            "{type: LoadBalancer, loadBalancerClass: a.b/c, loadBalancerIP: 1.2.3.4, loadBalancerSourceRanges: [1.2.3.0/24], \
             allocateLoadBalancerNodePorts: true, externalIPs: [1.2.3.4], externalTrafficPolicy: Local, \
             healthCheckNodePort: 30001, ports: [{port: 1, nodePort: 0}]}",
            8,
        ),
    ] {
        let notices = notices(&service(spec));
        assert_eq!(notices.len(), count, "{notices:#?}");
        assert!(
            notices.iter().all(|notice| notice.starts_with("Service reviews: spec.") && notice.contains("no effect"))
        );
        assert!(pending(&service(spec)).is_empty());
    }
}

#[test]
fn what_should_have_an_effect_and_has_none_yet_is_pending() {
    assert_eq!(pending(&service("{ports: [{port: 1, name: a, protocol: UDP}]}")), ["spec.ports[0].protocol"]);
    let enforced = "{ports: [{port: 1}], sessionAffinity: ClientIP, trafficDistribution: PreferSameZone, \
                    internalTrafficPolicy: Local, publishNotReadyAddresses: true}";
    assert!(pending(&service(enforced)).is_empty());
}

#[test]
fn the_accounts_annotation_is_checked() {
    let text = service("{ports: [{port: 1}]}")
        .replace("name: reviews", "name: reviews, annotations: {weft.mesh/service-accounts: 'a,B'}");
    assert!(refusals(&text)[0].contains("service-accounts"));
}

#[test]
fn service_accounts_may_name_secrets() {
    let body =
        "secrets: [{name: a, namespace: b, kind: Secret, apiVersion: v1, uid: x}]\nimagePullSecrets: [{name: b}]";
    assert_eq!(notices(&text("v1", "ServiceAccount", body)).len(), 2);
    assert_refused("v1", "ServiceAccount", &[("secrets: [{nam: a}]", "secrets[0].nam is not a field")]);
}

/// A certificate or key of `policy/tests/pem`.
macro_rules! pem {
    ($name:literal) => {
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/pem/", $name))
    };
}

fn tls_secret(certificate: &str, key: &str) -> String {
    let block = |text: &str| text.trim_end().replace('\n', "\n    ");
    let data = format!("stringData:\n  tls.crt: |\n    {}\n  tls.key: |\n    {}\n", block(certificate), block(key));
    text("v1", "Secret", &format!("type: kubernetes.io/tls\n{data}"))
}

#[test]
fn what_is_stored_of_a_secret_is_its_head() {
    let body = "metadata: {name: a, labels: {l: v}, annotations: {kubectl.kubernetes.io/last-applied-configuration: \
                hunter2, other: o}}\nstringData: {password: hunter2}\ndata: {user: YWRtaW4=, password: b2xk}\n\
                immutable: true";
    let document = parsed(&format!("apiVersion: v1\nkind: Secret\n{body}\n")).documents.remove(0);
    let json: serde_json::Value = serde_json::from_str(&document.json).unwrap();
    let expected = serde_json::json!({
        "apiVersion": "v1", "kind": "Secret", "type": "Opaque", "immutable": true,
        "metadata": { "name": "a", "namespace": "default", "labels": { "l": "v" }, "annotations": { "other": "o" } },
        "content": { "keys": { "password": 7, "user": 5 } },
    });
    assert_eq!(json, expected);
    let salt = SecretBytes::new(vec![7; SecretPayload::SALT_LEN]);
    let (sealed, content) = document.seal(salt).unwrap();
    let content = content.unwrap();
    assert_eq!(content.data["password"].expose(), b"hunter2", "stringData goes over data");
    assert!(!sealed.contains("hunter2") && !sealed.contains("aHVudGVyMg") && !sealed.contains("YWRtaW4"), "{sealed}");
    let stored = parse_stored(&document.key, &sealed, Stamp::default()).unwrap();
    let Spec::SecretHead(head) = &stored.spec else { panic!("{stored:?}") };
    assert_eq!(head.content.digest, Some(content.digest()));
    assert!(head.content.describes(&content));
    let mut other = content.clone();
    other.data.remove("user");
    assert!(!head.content.describes(&other));
    let all = format!("{document:?} {stored:?} {content:?} {head:?}");
    assert!(!all.contains("hunter2") && !all.contains("104, 117, 110"), "{all}");
}

#[test]
fn a_secret_is_stored_sealed_only_and_written_open_only() {
    let document = parsed(&text("v1", "Secret", "data: {a: YQ==}")).documents.remove(0);
    let refused = |json: &str| parse_stored(&document.key, json, Stamp::default()).unwrap_err().to_string();
    let open =
        r#"{"apiVersion":"v1","kind":"Secret","metadata":{"name":"a","namespace":"default"},"data":{"a":"YQ=="}}"#;
    assert!(refused(open).contains("never stored in the clear"), "{}", refused(open));
    let both = document.json.replace("\"content\"", "\"data\":{\"a\":\"YQ==\"},\"content\"");
    assert!(refused(&both).contains("data is not a field"), "{}", refused(&both));
    assert!(refused(&document.json).contains("content.digest is missing"), "{}", refused(&document.json));
    let (sealed, _) = document.seal(SecretBytes::new(vec![7; SecretPayload::SALT_LEN])).unwrap();
    let errors = refusals(&sealed).concat();
    assert!(errors.contains("is a Secret without its content"), "{errors}");
}

#[test]
fn a_secret_has_the_keys_of_its_type() {
    assert_refused(
        "v1",
        "Secret",
        &[
            (
                "type: kubernetes.io/tls\ndata: {tls.crt: YQ==}",
                "must have tls.key in a Secret of type kubernetes.io/tls",
            ),
            ("type: kubernetes.io/ssh-auth", "must have ssh-privatekey"),
            ("type: kubernetes.io/basic-auth\ndata: {a: YQ==}", "must have username or password"),
            ("data: {'a b': YQ==}", "must be 1 to 253 letters"),
            ("data: {..a: YQ==}", "not start with '..'"),
            (&format!("stringData: {{a: {}}}", "x".repeat(256 * 1024)), "holds 262145 bytes; 262144 are the most"),
        ],
    );
}

#[test]
fn the_key_of_a_tls_secret_is_its_certificates() {
    for (certificate, key) in [
        (pem!("p256.crt"), pem!("p256.key")),
        (pem!("p256.crt"), pem!("p256.sec1.pem")),
        (pem!("p384.crt"), pem!("p384.key")),
        (pem!("rsa.crt"), pem!("rsa.key")),
        (pem!("rsa.crt"), pem!("rsa.pkcs1.pem")),
        (pem!("ed25519.crt"), pem!("ed25519.key")),
    ] {
        assert_eq!(refusals(&tls_secret(certificate, key)), [""; 0], "{certificate}");
    }
    for (certificate, key, wanted) in [
        (pem!("p256.crt"), pem!("p384.key"), "stringData[\"tls.key\"]: is not the key of the certificate in tls.crt"),
        (pem!("rsa.crt"), pem!("p256.key"), "is not the key of the certificate"),
        (pem!("p256.key"), pem!("p256.key"), "stringData[\"tls.crt\"]: its certificate is PEM of something else"),
        ("hush", pem!("p256.key"), "its certificate is no PEM"),
        (pem!("p256.crt"), "hush", "its key is no PEM"),
        (pem!("p256.crt"), pem!("p256.crt"), "its key is PEM of something else"),
        (pem!("p256.crt"), "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----", "its key cannot be read"),
    ] {
        let errors = refusals(&tls_secret(certificate, key));
        assert!(errors.len() == 1 && errors[0].contains(wanted) && !errors[0].contains("hush"), "{errors:#?}");
    }
}

#[test]
fn nothing_that_a_secret_holds_is_printed() {
    for (body, path) in [
        ("data: {a: hunter-2}", "data.a: "),
        ("data: {a: 271828}", "data.a: "),
        ("data: {a: 2.71828}", "data.a: "),
        ("stringData: {a: 271828}", "stringData.a: "),
        ("data: {a: [hunter]}", "data.a: "),
        ("data: hunter", "data: "),
        ("stringData: 271828", "stringData: "),
        ("stringData: [hunter]", "stringData: "),
        ("stringData: {a: hunter: b}", ""),
        ("stringData: {a: 'hunter", ""),
        ("stringData: {a: hunter, a: hunter}", ""),
    ] {
        let text = text("v1", "Secret", body);
        let errors = match parse_yaml(&text, &Namespace::default_namespace()) {
            Ok(file) => file.errors.iter().map(ToString::to_string).collect::<Vec<_>>().concat(),
            Err(error) => error.to_string(),
        };
        for secret in ["hunter", "271828", "2.71828"] {
            assert!(!errors.contains(secret), "{errors}");
        }
        assert!(!errors.is_empty() && errors.contains(path), "{errors}");
    }
}

#[test]
fn a_config_map_has_text_and_bytes_under_different_keys() {
    assert_refused(
        "v1",
        "ConfigMap",
        &[
            ("data: {a: b}\nbinaryData: {a: YQ==}", "binaryData.a: stands in data too"),
            ("binaryData: {a: '%'}", "is not base64"),
            ("data: {a: 1}", "is the number 1; it must be a string"),
            ("data: {'': b}", "must be 1 to 253"),
        ],
    );
    let map = text("v1", "ConfigMap", "data: {root-cert.pem: x}\nbinaryData: {b: YQ==}\nimmutable: true");
    assert_eq!(pending(&map), [""; 0]);
    assert_eq!(parsed(&map).documents.len(), 1);
}
