//! What must hold for any input. The fuzz targets look for one that breaks it; tests/seeds.rs replays the seeds.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, LazyLock},
    time::Duration,
};

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use serde_json::json;
use weft_policy::{
    api::target::Workload,
    authenticate::{Authenticator, Jwks, KnownKeys, TokenRequest},
    authorize::{AccessRequest, Authorizer, AuthorizerSettings, HttpAccess, Peer, forwarded_for},
    balance::Keyed,
    compile::{Inputs, compile},
    deadline,
    document::{Document, parse_stored, parse_yaml},
    normalise::{PathNormalization, normalise},
    route::{Action, Client, RequestHead},
    view::MeshView,
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

/// An expression, the first line, is refused or compiled, and then matches a path, the second, or does not; and what
/// `rewrite` makes of that path is one.
pub fn regexes(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (expression, path) = text.split_once('\n').unwrap_or((text, "/"));
    let spec = json!({"hosts": ["h.example"], "http": [
        {"match": [{"uri": {"regex": expression}}],
         "rewrite": {"uriRegexRewrite": {"match": expression, "rewrite": "/\\0"}},
         "route": [{"destination": {"host": "h.example"}}]},
        {"match": [{"headers": {"x": {"regex": expression}}}], "directResponse": {"status": 200}}]});
    let Some(view) = view_of("VirtualService", "networking.istio.io/v1", spec) else { return };
    let mut headers = HeaderMap::new();
    if let Ok(value) = HeaderValue::from_str(path) {
        headers.insert("x", value);
    }
    route(&view, "h.example", path, &headers);
}

/// A range of addresses, the first line, is refused, or an address, the second, is in it or not: never both.
pub fn cidrs(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (range, address) = text.split_once('\n').unwrap_or((text, "10.0.0.1"));
    let Ok(address) = address.parse() else { return };
    let is_allowed = |field: &str| {
        let spec = json!({"rules": [{"from": [{"source": {field: [range]}}]}]});
        let documents = [document_of("AuthorizationPolicy", "security.istio.io/v1", spec)?];
        let namespace = Namespace::default_namespace();
        let workload = Workload { namespace: &namespace, labels: &BTreeMap::new(), attached: &[] };
        let settings = AuthorizerSettings { trust_domains: &[], providers: &BTreeMap::new() };
        let authorizer = Authorizer::compile(&documents, &workload, &settings);
        let request = AccessRequest {
            peer: None,
            source_ip: address,
            remote_ip: address,
            destination_ip: None,
            destination_port: 1,
            sni: None,
            http: None,
        };
        Some(authorizer.decide(&request).verdict.is_allowed())
    };
    let (within, without) = (is_allowed("ipBlocks"), is_allowed("notIpBlocks"));
    assert_eq!(within, without.map(|without| !without), "{range} and {address}");
}

/// A host of a document, the first line, is refused or found under its own name; the host of a request, the second, is
/// found or not.
pub fn hosts(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (host, asked) = text.split_once('\n').unwrap_or((text, text));
    let spec = json!({"hosts": [host], "http": [{"directResponse": {"status": 200}}]});
    let Some(view) = view_of("VirtualService", "networking.istio.io/v1", spec) else { return };
    for name in [host, asked] {
        route(&view, name, "/", &HeaderMap::new());
    }
    let client = Client { namespace: &Namespace::default_namespace(), workload: None };
    let is_found = view.host(host, None, client).is_some();
    assert!(is_found || host.contains('*') || !host.contains('.'), "{host} is served");
}

/// What [`headers`] asks.
const RULES: &str = r#"
{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: a},
 spec: {hosts: [a.example], resolution: STATIC, ports: [{number: 80, name: http, protocol: HTTP}],
  endpoints: [{address: 10.0.0.1}, {address: 10.0.0.2}]}}
---
{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: a},
 spec: {host: a.example, trafficPolicy: {loadBalancer: {consistentHash: {httpCookie: {name: c, ttl: 1s}}}}}}
---
{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: a}, spec: {hosts: [a.example], http: [
 {match: [{queryParams: {q: {exact: h}}}], route: [{destination: {host: a.example}}],
  sessionPersistence: {type: HEADER, header: {name: s}, absoluteTimeout: 1h}},
 {route: [{destination: {host: a.example}}], sessionPersistence: {cookie: {name: s}, absoluteTimeout: 1h},
  corsPolicy: {allowOrigins: [{regex: ".*a"}], allowMethods: [GET], allowHeaders: [x], maxAge: 1h},
  retries: {attempts: 1, retryOn: "5xx,retriable-headers"}}]}}
"#;

static RULED: LazyLock<MeshView> = LazyLock::new(|| {
    let file = parse_yaml(RULES, &Namespace::default_namespace()).expect("the rules are right");
    let stored = file.documents.iter().map(|parsed| parse_stored(&parsed.key, &parsed.json, Stamp::default()));
    view_of_all(&stored.map(|stored| Arc::new(stored.expect("readable"))).collect::<Vec<_>>())
});

/// No header that a caller may send makes anything panic that is decided by it. Lines: cookie, session, origin, asked
/// method and headers, `grpc-timeout`, `x-forwarded-for`.
pub fn headers(bytes: &[u8]) {
    const NAMES: [&str; 7] = [
        "cookie",
        "s",
        "origin",
        "access-control-request-method",
        "access-control-request-headers",
        "grpc-timeout",
        "x-forwarded-for",
    ];
    let values = bytes.split(|byte| *byte == b'\n').map(HeaderValue::from_bytes);
    let mut headers = HeaderMap::new();
    for (name, value) in NAMES.into_iter().zip(values) {
        headers.extend(value.ok().map(|value| (HeaderName::from_static(name), value)));
    }
    forwarded_for(&headers);
    let limit = deadline::limit(Some(Duration::from_secs(9)), true, &headers);
    assert!(limit.is_some_and(|limit| limit <= Duration::from_secs(9)), "a caller only shortens it");
    deadline::pass_on(limit, None, true, &mut headers.clone());
    let client = Client { namespace: &Namespace::default_namespace(), workload: None };
    let found = RULED.host("a.example", None, client).expect("it is served");
    for (path_and_query, method) in [("/", Method::GET), ("/", Method::OPTIONS), ("/?q=h", Method::GET)] {
        let head =
            RequestHead { method: &method, path_and_query, authority: "a.example", scheme: "http", headers: &headers };
        let matched = RULED.route(found, 80, &head, client, 0).expect("a rule matches");
        if let Some(cors) = matched.cors {
            cors.decide(&method, &headers);
        }
        let Action::Forward(forward) = matched.action else { panic!("it is sent on") };
        let session = forward.session.expect("the rule has one");
        session.has_ended(1_000);
        forward.retry.is_on_response(StatusCode::OK, &headers);
        let connection = [SocketAddr::from(([127, 0, 0, 1], 1)); 2];
        let hash = forward.cluster.hash_policy().expect("the rule has one");
        hash.hash(&Keyed { head, client: connection[0].ip(), connection });
        for endpoint in forward.cluster.endpoints.iter() {
            session.tell(endpoint, 1_000, &mut HeaderMap::new());
        }
    }
}

fn document_of(kind: &str, version: &str, spec: serde_json::Value) -> Option<Document> {
    let document = json!({"apiVersion": version, "kind": kind, "metadata": {"name": "a"}, "spec": spec});
    let file = parse_yaml(&document.to_string(), &Namespace::default_namespace()).ok()?;
    let parsed = file.documents.first()?;
    let stored = parse_stored(&parsed.key, &parsed.json, Stamp::default());
    Some(stored.expect("what was accepted is readable"))
}

fn view_of(kind: &str, version: &str, spec: serde_json::Value) -> Option<MeshView> {
    Some(view_of_all(&[Arc::new(document_of(kind, version, spec)?)]))
}

fn view_of_all(documents: &[Arc<Document>]) -> MeshView {
    let inputs = Inputs {
        trust_domain: &"cluster.local".parse().expect("a trust domain"),
        this_node: &"a".parse().expect("a node's name"),
        nodes: &[],
        documents,
        local: &BTreeMap::new(),
        secrets: &Arc::default(),
        names: &Arc::default(),
    };
    compile(&inputs, None)
}

fn route(view: &MeshView, host: &str, path: &str, headers: &HeaderMap) {
    let namespace = Namespace::default_namespace();
    let client = Client { namespace: &namespace, workload: None };
    let Some(found) = view.host(host, None, client) else { return };
    let head = RequestHead { method: &Method::GET, path_and_query: path, authority: host, scheme: "http", headers };
    let _ = view.route(found, 80, &head, client, 0);
}
