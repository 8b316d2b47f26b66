use weft_wire::{
    document::Stamp,
    fact::{EndpointHealth, EndpointRow, NodeState, Protocol},
};

use super::*;
use crate::document::{parse_stored, parse_yaml};

fn documents(yaml: &str) -> Vec<Arc<Document>> {
    let file = parse_yaml(yaml, &Namespace::default_namespace()).unwrap();
    assert_eq!(file.errors, []);
    let read = |one: &crate::document::ParsedDocument| parse_stored(&one.key, &one.json, Stamp::default()).unwrap();
    file.documents.iter().map(|one| Arc::new(read(one))).collect()
}

/// A node with labels that hosts `app: client` in the namespace `default`.
fn node(labels: &[(&str, &str)]) -> NodeRecord {
    let labels: BTreeMap<String, String> = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    NodeRecord {
        advertise: [127, 0, 0, 1].into(),
        state: NodeState::Up,
        locality: Default::default(),
        labels,
        build: String::new(),
        endpoints: vec![EndpointRow {
            service: "client.default".parse().unwrap(),
            workload: "client-1".parse().unwrap(),
            service_account: "client".parse().unwrap(),
            version: String::new(),
            labels: BTreeMap::new(),
            port: 80,
            target_port: 80,
            protocol: Protocol::Http,
            health: EndpointHealth::Healthy,
        }],
    }
}

fn needed(labels: &[(&str, &str)], yaml: &str) -> Vec<String> {
    needed_by(&node(labels), &documents(yaml)).iter().map(ToString::to_string).collect()
}

const EDGE: [(&str, &str); 1] = [("istio", "ingressgateway")];

fn istio_gateway(tls: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: g}}\nspec: {{selector: {{istio: \
         ingressgateway}}, servers: [{{port: {{number: 443, name: a, protocol: HTTPS}}, hosts: ['*'], tls: {tls}}}]}}\n"
    )
}

#[test]
fn an_istio_gateways_credentials_are_needed_by_the_nodes_that_it_selects() {
    let tls = "{mode: MUTUAL, credentialName: a, caCertCredentialName: b}";
    let found = ["istio-system/a", "istio-system/a-cacert", "istio-system/b", "istio-system/b-cacert"];
    assert_eq!(needed(&EDGE, &istio_gateway(tls)), found);
    assert_eq!(needed(&[("istio", "egressgateway")], &istio_gateway(tls)), [""; 0]);
    let both = needed(&EDGE, &istio_gateway("{mode: SIMPLE, credentialNames: [a, prod/b]}"));
    assert_eq!(both, ["istio-system/a", "istio-system/a-cacert", "prod/b", "prod/b-cacert"]);
    let empty = istio_gateway("{mode: SIMPLE, credentialName: a}").replace("{istio: ingressgateway}", "{}");
    assert_eq!(needed(&EDGE, &empty), [""; 0], "a Gateway for everybody makes nobody a gateway");
}

#[test]
fn a_gateways_certificates_are_needed_by_the_nodes_of_its_name() {
    let gateway = "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: g, namespace: web}\nspec:\n  \
                   gatewayClassName: istio\n  tls: {backend: {clientCertificateRef: {name: client}}}\n  listeners:\n  - \
                   {name: a, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: own}, {name: other, namespace: \
                   certs}]}}\n";
    let at = [(GATEWAY_NAME_LABEL, "g")];
    assert_eq!(needed(&at, gateway), ["web/client", "web/own"]);
    assert_eq!(needed(&[(GATEWAY_NAME_LABEL, "h")], gateway), [""; 0]);
    let grant = "---\napiVersion: gateway.networking.k8s.io/v1beta1\nkind: ReferenceGrant\nmetadata: {name: r, namespace: \
                 certs}\nspec: {from: [{group: gateway.networking.k8s.io, kind: Gateway, namespace: web}], to: [{group: \
                 '', kind: Secret}]}\n";
    assert_eq!(needed(&at, &format!("{gateway}{grant}")), ["certs/other", "web/client", "web/own"]);
    let set = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: ListenerSet\nmetadata: {name: s, namespace: web}\nspec:\n  \
               parentRef: {name: g}\n  listeners: [{name: b, port: 444, protocol: HTTPS, tls: {certificateRefs: [{name: \
               added}]}}]\n";
    assert_eq!(needed(&at, &format!("{gateway}{set}")), ["web/added", "web/client", "web/own"]);
}

fn rule(selector: &str, policy: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: d}}\nspec: {{host: out.example.com, \
         {selector}{policy}}}\n"
    )
}

#[test]
fn a_rules_credentials_are_needed_by_the_workloads_that_it_selects() {
    let policies = [
        "trafficPolicy: {tls: {mode: MUTUAL, credentialName: c}}",
        "trafficPolicy: {portLevelSettings: [{port: {number: 443}, tls: {mode: SIMPLE, credentialName: c}}]}",
        "subsets: [{name: s, trafficPolicy: {tls: {mode: SIMPLE, credentialName: c}}}]",
    ];
    for policy in policies {
        let selected = rule("workloadSelector: {matchLabels: {app: client}}, ", policy);
        assert_eq!(needed(&[], &selected), ["default/c", "default/c-cacert"], "{policy}");
        assert_eq!(needed(&[], &selected.replace("app: client", "app: other")), [""; 0]);
        let elsewhere = selected.replace("{name: d}", "{name: d, namespace: prod}");
        assert_eq!(needed(&[], &elsewhere), [""; 0], "workloads of its namespace only");
    }
}

#[test]
fn a_rule_without_selector_names_credentials_for_gateways_alone() {
    let rule = rule("", "trafficPolicy: {tls: {mode: SIMPLE, credentialName: c}}");
    assert_eq!(needed(&[], &rule), [""; 0]);
    let gateway = istio_gateway("{mode: PASSTHROUGH}").replace("HTTPS", "TLS");
    assert_eq!(needed(&EDGE, &format!("{gateway}---\n{rule}")), ["istio-system/c", "istio-system/c-cacert"]);
}

fn content(values: &[(&str, &str)]) -> Arc<SecretPayload> {
    let data = values.iter().map(|(key, value)| ((*key).to_owned(), SecretBytes::new((*value).into()))).collect();
    Arc::new(SecretPayload { salt: SecretBytes::default(), data })
}

#[test]
fn keys_and_authorities_are_found_under_the_names_that_istio_gives_them() {
    let at = |name: &str| Reference::new(&Namespace::default_namespace(), name);
    let contents: Contents = [
        (at("tls"), content(&[("tls.crt", "C1"), ("tls.key", "K1"), ("ca.crt", "A1")])),
        (at("generic"), content(&[("cert", "C2"), ("key", "K2")])),
        (at("generic-cacert"), content(&[("cacert", "A2")])),
        (at("password"), content(&[("password", "hunter2")])),
    ]
    .into();
    let maps = documents("{apiVersion: v1, kind: ConfigMap, metadata: {name: bundle}, data: {ca.crt: A3}}");
    let credentials = Credentials::of(&Arc::new(contents), &maps, None);
    let pair = |name: &str| {
        credentials.key_pair(&at(name)).map(|pair| (pair.certificates.expose().to_vec(), pair.key.expose().to_vec()))
    };
    assert_eq!(pair("tls"), Some((b"C1".to_vec(), b"K1".to_vec())));
    assert_eq!(pair("generic"), Some((b"C2".to_vec(), b"K2".to_vec())));
    assert_eq!((pair("password"), pair("nobody")), (None, None));
    assert_eq!(credentials.authorities_of(&at("tls")), Some(&b"A1"[..]));
    assert_eq!(credentials.authorities_of(&at("generic")), Some(&b"A2"[..]));
    assert_eq!(credentials.authorities_of(&at("bundle")), None);
    assert_eq!((credentials.bundle(&at("bundle")), credentials.bundle(&at("tls"))), (Some(&b"A3"[..]), None));
    assert_eq!(credentials.authorities(&at("bundle")), Some(&b"A3"[..]));
    assert_eq!(credentials.value(&at("password"), "password").map(SecretBytes::expose), Some(&b"hunter2"[..]));
    assert!(!format!("{credentials:?}").contains("hunter2"));
}

#[test]
fn credentials_are_the_same_until_a_secret_or_config_map_changes() {
    let maps = documents("{apiVersion: v1, kind: ConfigMap, metadata: {name: bundle}, data: {ca.crt: A3}}");
    let secrets = Arc::default();
    let first = Credentials::of(&secrets, &maps, None);
    assert!(Arc::ptr_eq(&first, &Credentials::of(&secrets, &maps, Some(&first))));
    assert!(!Arc::ptr_eq(&first, &Credentials::of(&Arc::default(), &maps, Some(&first))));
    assert!(!Arc::ptr_eq(&first, &Credentials::of(&secrets, &[], Some(&first))));
}
