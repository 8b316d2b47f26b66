use crate::{
    api::{
        core::{Secret, ServicePort},
        tests::{assert_noticed, assert_refused, notices, parsed, pending, refusals, text},
    },
    document::{Spec, parse_stored},
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
    assert_eq!(pending(&service(named)), ["spec.ports[0].targetPort"]);
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
    assert_eq!(pending(&service("{type: ExternalName, externalName: a.b.}")), ["spec.externalName"]);
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
    let spec = "{ports: [{port: 1, name: a, protocol: UDP}], sessionAffinity: ClientIP, internalTrafficPolicy: Local, \
                publishNotReadyAddresses: true, trafficDistribution: PreferSameZone}";
    let expected = [
        "spec.ports[0].protocol",
        "spec.sessionAffinity",
        "spec.internalTrafficPolicy",
        "spec.publishNotReadyAddresses",
        "spec.trafficDistribution",
    ];
    assert_eq!(pending(&service(spec)), expected);
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

const UNSTORED: &str = "Secrets are not stored yet: put key files on the gateway hosts";

#[test]
fn a_secret_is_refused_even_if_it_is_right() {
    for body in ["{}", "data: {a: YQ==}", "type: kubernetes.io/tls\ndata: {tls.crt: YQ==, tls.key: YQ==}"] {
        let body = if body == "{}" { "" } else { body };
        assert_refused("v1", "Secret", &[(body, UNSTORED)]);
    }
}

#[test]
fn a_stored_secret_is_refused_too() {
    use weft_wire::document::{DocumentKey, Stamp};
    let namespace = Some("default".parse().unwrap());
    let key = DocumentKey { group: String::new(), kind: "Secret".into(), namespace, name: "a".into() };
    let json = r#"{"apiVersion":"v1","kind":"Secret","metadata":{"name":"a","namespace":"default"}}"#;
    assert!(parse_stored(&key, json, Stamp::default()).unwrap_err().to_string().contains(UNSTORED));
}

#[test]
fn a_secret_has_the_keys_of_its_type() {
    for (body, wanted) in [
        ("type: kubernetes.io/tls\ndata: {tls.crt: YQ==}", "must have tls.key in a Secret of type kubernetes.io/tls"),
        ("type: kubernetes.io/ssh-auth", "must have ssh-privatekey"),
        ("type: kubernetes.io/basic-auth\ndata: {a: YQ==}", "must have username or password"),
        ("data: {'a b': YQ==}", "must be 1 to 253 letters"),
        ("data: {..a: YQ==}", "not start with '..'"),
    ] {
        let errors = refusals(&text("v1", "Secret", body));
        assert!(errors.len() == 2 && errors[0].contains(wanted) && errors[1].contains(UNSTORED), "{errors:#?}");
    }
    let with_text = "type: kubernetes.io/tls\ndata: {tls.crt: YQ==}\nstringData: {tls.key: a}";
    assert_refused("v1", "Secret", &[(with_text, UNSTORED)]);
}

#[test]
fn nothing_that_a_secret_holds_is_printed() {
    for body in [
        "data: {a: hunter-2}",
        "data: {a: 271828}",
        "data: {a: 2.71828}",
        "stringData: {a: 271828}",
        "data: {a: [hunter]}",
    ] {
        let errors = refusals(&text("v1", "Secret", body)).concat();
        for secret in ["hunter", "271828", "2.71828"] {
            assert!(!errors.contains(secret), "{errors}");
        }
        assert!(errors.contains("data.a: ") || errors.contains("stringData.a: "), "{errors}");
    }
    let secret: Secret = serde_json::from_str(r#"{"data": {"a": "aHVudGVy"}, "stringData": {"b": "hunter"}}"#).unwrap();
    assert_eq!((secret.get("a"), secret.get("b"), secret.get("c")), (Some(&b"hunter"[..]), Some(&b"hunter"[..]), None));
    let printed = format!("{secret:?}");
    assert!(!printed.contains("hunter") && printed.contains("6 secret bytes"), "{printed}");
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
    assert_eq!(pending(&map), ["data"]);
    assert_eq!(parsed(&map).documents.len(), 1);
}
