//! What every request asks of policies costs no allocation: of those of the workload that is called, and of those by
//! which it is sent there. Alone in its binary, because it counts what the whole process allocates.

use std::{alloc::System, collections::BTreeMap, net::SocketAddr, sync::Arc};

use http::{HeaderMap, Method};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use weft_policy::{
    api::target::Workload,
    authenticate::{Authenticator, KnownKeys, Outcome, TokenRequest},
    authorize::{AccessRequest, Authorizer, AuthorizerSettings, HttpAccess, Peer},
    balance::{Attempt, Hashed, Keyed},
    compile::{Inputs, NodeInput, compile},
    condition,
    document::{Document, parse_stored, parse_yaml},
    endpoint::Standing,
    normalise::{PathNormalization, normalise},
    route::{Action, Client, RequestHead},
    view::MeshView,
};
use weft_wire::{
    document::Stamp,
    fact::{EndpointHealth, EndpointRow, NodeRecord, NodeState, Protocol},
    id::{Locality, Namespace},
};

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

fn documents<'a>(yaml: &str, namespace: &'a Namespace) -> impl Iterator<Item = Document> + use<'a> {
    let file = parse_yaml(yaml, namespace).unwrap();
    file.documents.into_iter().map(|parsed| parse_stored(&parsed.key, &parsed.json, Stamp::default()).unwrap())
}

#[test]
fn a_requests_way_costs_no_allocation() {
    // One after the other: another test's thread would be counted with it.
    a_request_is_normalised_authenticated_and_authorized();
    a_request_is_routed_limited_and_balanced();
}

fn a_request_is_normalised_authenticated_and_authorized() {
    let namespace = Namespace::default_namespace();
    let documents: Vec<Document> = documents(POLICIES, &namespace).collect();
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

/// A way to balance, and what asks for it.
const BALANCERS: [(&str, &str); 10] = [
    ("least", "loadBalancer: {simple: LEAST_REQUEST}"),
    ("turns", "loadBalancer: {simple: ROUND_ROBIN}"),
    ("random", "loadBalancer: {simple: RANDOM}"),
    ("warm", "loadBalancer: {simple: ROUND_ROBIN, warmup: {duration: 60s}}"),
    ("ring", "loadBalancer: {consistentHash: {httpHeaderName: end-user}}"),
    ("maglev", "loadBalancer: {consistentHash: {maglev: {}, useSourceIp: true}}"),
    ("query", "loadBalancer: {consistentHash: {httpQueryParameterName: page}}"),
    ("near", "outlierDetection: {consecutive5xxErrors: 5}"),
    ("shares", "loadBalancer: {localityLbSetting: {distribute: [{from: 'a/*', to: {'a/*': 80, 'b/*': 20}}]}}"),
    ("ewma", ""),
];

fn node(number: u8) -> NodeInput {
    let rows = BALANCERS.iter().map(|(service, _)| EndpointRow {
        service: format!("{service}.default").parse().unwrap(),
        workload: format!("{service}-{number}").parse().unwrap(),
        service_account: "default".parse().unwrap(),
        version: "v1".into(),
        labels: BTreeMap::new(),
        port: 9080,
        target_port: 9080,
        protocol: Protocol::Http,
        health: EndpointHealth::Healthy,
    });
    let record = NodeRecord {
        advertise: [10, 0, 0, number].into(),
        state: NodeState::Up,
        locality: Locality { region: if number < 3 { "a" } else { "b" }.into(), ..Locality::default() },
        labels: BTreeMap::new(),
        build: "test".into(),
        endpoints: rows.collect(),
    };
    NodeInput { name: format!("n{number}").parse().unwrap(), record: Arc::new(record), standing: Standing::Preferred }
}

/// Each service has a rule of its own that looks at the request, fails a few, mirrors and is limited.
fn mesh() -> MeshView {
    let namespace = Namespace::default_namespace();
    let of = |kind: &str, api: &str, name: &str, spec: &str| {
        format!("{{apiVersion: {api}, kind: {kind}, metadata: {{name: {name}}}, spec: {{{spec}}}}}\n---\n")
    };
    let mut yaml = String::new();
    for (service, policy) in BALANCERS {
        let http = format!(
            "[{{name: first, match: [{{uri: {{regex: '/none/.*'}}}}, {{headers: {{end-user: {{exact: nobody}}}}}}], \
              directResponse: {{status: 200}}}}, \
              {{name: second, match: [{{uri: {{prefix: /reviews}}, queryParams: {{page: {{regex: '[0-9]+'}}}}}}], \
              fault: {{abort: {{httpStatus: 500, percentage: {{value: 0.1}}}}}}, timeout: 3s, \
              headers: {{request: {{set: {{x: '1'}}}}}}, \
              mirror: {{host: least}}, mirrorPercentage: {{value: 50}}, \
              route: [{{destination: {{host: {service}}}, weight: 9}}, {{destination: {{host: {service}}}, weight: 1}}]}}]"
        );
        let networking = "networking.istio.io/v1";
        yaml += &of("VirtualService", networking, service, &format!("hosts: [{service}], http: {http}"));
        yaml += &of("DestinationRule", networking, service, &format!("host: {service}, trafficPolicy: {{{policy}}}"));
    }
    let weft = "weft.mesh/v1alpha1";
    let ewma = "targetRefs: [{group: '', kind: Service, name: ewma}], loadBalancer: {peakEwma: {}}";
    yaml += &of("BackendTrafficPolicy", weft, "ewma", ewma);
    let target = "targetRefs: [{group: networking.istio.io, kind: VirtualService, name: least, sectionName: second}]";
    let limit = "{requests: 1000, unit: Second, keys: [{header: end-user}, {caller: Identity}]}";
    yaml += &of("RateLimit", weft, "least", &format!("{target}, limits: [{limit}]"));
    let inputs = Inputs {
        trust_domain: &"cluster.local".parse().unwrap(),
        this_node: &"n1".parse().unwrap(),
        nodes: &[node(1), node(2), node(3), node(4)],
        documents: &documents(&yaml, &namespace).map(Arc::new).collect::<Vec<_>>(),
        local: &BTreeMap::new(),
        secrets: &Arc::default(),
        names: &Arc::default(),
    };
    compile(&inputs, None)
}

fn a_request_is_routed_limited_and_balanced() {
    let view = mesh();
    let namespace = Namespace::default_namespace();
    let client = Client { namespace: &namespace, workload: None };
    let mut headers = HeaderMap::new();
    headers.insert("end-user", "jason".parse().unwrap());
    let (remote, local): (SocketAddr, SocketAddr) = (([10, 0, 0, 1], 4711).into(), ([127, 0, 0, 1], 15001).into());
    let path_and_query = "/reviews/7?page=2";
    for (service, _) in BALANCERS {
        let head =
            RequestHead { method: &Method::GET, path_and_query, authority: service, scheme: "http", headers: &headers };
        let (mut limited, mut mirrored, mut failed) = (0, 0, 0);
        let mut one = |number: u64| {
            let random = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let host = view.host(service, None, client).unwrap();
            let matched = view.route(host, 9080, &head, client, random).unwrap();
            let Action::Forward(forward) = &matched.action else { panic!("{service}: {matched:?}") };
            failed += u64::from(matched.fault.and_then(|fault| fault.decide(random)).is_some());
            if let Some(limits) = matched.origin.and_then(|origin| view.limits_of_rule(origin)) {
                let asked = condition::Request { head: &head, principal: Some("cluster.local/ns/default/sa/web") };
                limited += u64::from(limits.check(&asked, None, number * 1_000_000).is_some());
            }
            let copies = forward.mirrors.iter().filter_map(|mirror| view.mirrored(mirror, 9080, client, random));
            mirrored += copies.count() as u64;
            let keyed = Keyed { head, client: remote.ip(), connection: [remote, local] };
            let Hashed { hash, .. } =
                forward.cluster.hash_policy().map_or_else(Hashed::default, |policy| policy.hash(&keyed));
            let attempt = Attempt { hash, random, now_ms: number, ..Attempt::default() };
            assert!(forward.cluster.pick(&attempt).is_some(), "{service}");
        };
        one(0); // what is made once, such as caches of expressions
        let region = Region::new(ALLOCATOR);
        (1..1_000).for_each(&mut one);
        let allocations = region.change().allocations;
        assert_eq!(allocations, 0, "{service}");
        assert!(mirrored > 100 && failed < 100, "{service}: {mirrored} mirrored, {failed} failed");
        assert_eq!(limited > 0, service == "least", "{service}");
    }
}
