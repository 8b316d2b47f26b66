//! What must hold for any input. The fuzz targets look for one that breaks it; tests/seeds.rs replays the seeds.

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
};

use http::{HeaderMap, HeaderValue, Method};
use weft_policy::{
    api::target::Workload,
    authenticate::{Authenticator, Jwks, KnownKeys, TokenRequest},
    authorize::{AccessRequest, Authorizer, AuthorizerSettings, HttpAccess, Peer},
    document::{Document, parse_stored, parse_yaml},
    normalise::{PathNormalization, normalise},
};
use weft_wire::{document::Stamp, id::Namespace};

/// Any text parses or is refused; what parses is readable when stored.
pub fn yaml(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(file) = parse_yaml(text, &Namespace::default_namespace()) else { return };
    for document in file.documents {
        let stored = parse_stored(&document.key, &document.json, Stamp::default());
        assert_eq!(stored.expect("what was accepted is readable").key, document.key);
    }
}

/// What [`access`] asks.
const POLICIES: &str = r#"
{apiVersion: security.istio.io/v1, kind: RequestAuthentication, metadata: {name: a},
 spec: {jwtRules: [{issuer: a, fromHeaders: [{name: x, prefix: "p "}], fromParams: [t], fromCookies: [t]}, {jwksUri: "http://a"}]}}
---
{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: a},
 spec: {rules: [{from: [{source: {principals: ["*a"], namespaces: ["a*b*c"], serviceAccounts: [a]}}]},
  {to: [{operation: {hosts: ["a*"], paths: ["/{*}/a/{**}/b", "*a"]}}]}]}}
"#;

static COMPILED: LazyLock<(Authenticator, Authorizer)> = LazyLock::new(|| {
    let namespace = Namespace::default_namespace();
    let file = parse_yaml(POLICIES, &namespace).expect("the policies are right");
    let stored = file.documents.iter().map(|parsed| parse_stored(&parsed.key, &parsed.json, Stamp::default()));
    let documents: Vec<Document> = stored.collect::<Result<_, _>>().expect("what was accepted is readable");
    let workload = Workload { namespace: &namespace, labels: &BTreeMap::new(), attached: &[] };
    let settings = AuthorizerSettings { trust_domains: &[], providers: &BTreeMap::new() };
    (Authenticator::compile(&documents, &workload), Authorizer::compile(&documents, &workload, &settings))
});

/// No path, token, key set or peer panics: each a line of the input, in this order.
pub fn access(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let mut lines = text.split('\n');
    let mut line = || lines.next().unwrap_or_default();
    let (path, token, keys, peer) = (line(), line(), line(), line());
    let Ok(path) = normalise(path, PathNormalization::DecodeAndMergeSlashes) else { return };
    let mut headers = HeaderMap::new();
    if let Ok(value) = HeaderValue::from_str(token) {
        headers.insert("x", value.clone());
        headers.insert("cookie", value.clone());
        headers.insert("authorization", value);
    }
    let known = Jwks::read(keys).map(Arc::new);
    let known = |_: &_| known.clone().map_or(KnownKeys::NotFetched, KnownKeys::Known);
    let (authenticator, authorizer) = &*COMPILED;
    let tokens = TokenRequest { method: &Method::GET, path: &path, headers: &headers };
    let _ = authenticator.authenticate(&tokens, &known, 0);
    let http = HttpAccess { method: "GET", host: token, path: &path, headers: &headers, claims: None };
    let local = [127, 0, 0, 1].into();
    authorizer.decide(&AccessRequest {
        peer: Some(Peer::new(peer)),
        source_ip: local,
        remote_ip: local,
        destination_ip: None,
        destination_port: 1,
        sni: Some(token),
        http: Some(http),
    });
}
