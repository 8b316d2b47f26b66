//! What every request asks of a policy costs no allocation. Alone in its binary, because it counts what the whole
//! process allocates.

use std::{alloc::System, collections::BTreeMap};

use http::{HeaderMap, Method};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use weft_policy::{
    api::target::Workload,
    authenticate::{Authenticator, KnownKeys, Outcome, TokenRequest},
    authorize::{AccessRequest, Authorizer, AuthorizerSettings, HttpAccess, Peer},
    document::{Document, parse_stored, parse_yaml},
    normalise::{PathNormalization, normalise},
};
use weft_wire::{document::Stamp, id::Namespace};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const POLICIES: &str = r#"
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: deny}
spec:
  action: DENY
  rules:
  - from: [{source: {namespaces: ["bad*"], notIpBlocks: [10.0.0.0/8]}}]
    to: [{operation: {paths: ["/admin/{**}", "*.php"], hosts: ["*.internal"]}}]
  - when: [{key: "request.auth.claims[groups]", values: [banned]}, {key: "request.headers[x-a]", values: ["b*"]}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: allow}
spec:
  rules:
  - from: [{source: {principals: ["cluster.local/ns/default/sa/web"], requestPrincipals: ["*"]}}]
  - from: [{source: {serviceAccounts: [web]}}]
    to: [{operation: {methods: [GET], paths: ["/reviews/{*}"]}}]
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: jwt}
spec:
  jwtRules: [{issuer: a, jwksUri: "https://a/keys"}, {issuer: b, fromCookies: [t], fromParams: [t]}]
"#;

fn documents(namespace: &Namespace) -> Vec<Document> {
    let file = parse_yaml(POLICIES, namespace).unwrap();
    let stored = |parsed: &weft_policy::document::ParsedDocument| {
        parse_stored(&parsed.key, &parsed.json, Stamp::default()).unwrap()
    };
    file.documents.iter().map(stored).collect()
}

#[test]
fn a_request_is_normalised_authenticated_and_authorized_without_allocation() {
    let namespace = Namespace::default_namespace();
    let documents = documents(&namespace);
    let workload = Workload { namespace: &namespace, labels: &BTreeMap::new(), attached: &[] };
    let providers = BTreeMap::new();
    let settings = AuthorizerSettings { trust_domains: &["cluster.local".parse().unwrap()], providers: &providers };
    let authorizer = Authorizer::compile(&documents, &workload, &settings);
    let authenticator = Authenticator::compile(&documents, &workload);
    let mut headers = HeaderMap::new();
    headers.insert("x-a", "c".parse().unwrap());
    headers.insert("cookie", "session=1; user=jason".parse().unwrap());

    let region = Region::new(ALLOCATOR);
    let path = normalise("/reviews/7?page=2", PathNormalization::DecodeAndMergeSlashes).unwrap();
    let tokens = TokenRequest { method: &Method::GET, path: &path, headers: &headers };
    let outcome = authenticator.authenticate(&tokens, &|_| KnownKeys::NotFetched, 0);
    let request = AccessRequest {
        peer: Some(Peer::new("spiffe://cluster.local/ns/default/sa/web")),
        source_ip: [10, 0, 0, 1].into(),
        remote_ip: [10, 0, 0, 1].into(),
        destination_ip: None,
        destination_port: 9080,
        sni: None,
        http: Some(HttpAccess { method: "GET", host: "reviews:9080", path: &path, headers: &headers, claims: None }),
    };
    let decision = authorizer.decide(&request);
    let allocations = region.change().allocations;

    assert!(matches!(outcome, Outcome::Anonymous), "{outcome:?}");
    assert!(decision.verdict.is_allowed(), "{decision:?}");
    assert_eq!(allocations, 0);
}
