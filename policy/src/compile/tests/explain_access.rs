//! What is told of who may call.

use std::net::IpAddr;

use serde_json::{Map, Value};

use super::{properties::authorization, *};
use crate::{
    authenticate::KnownKeys,
    explain::access::{AccessExplanation, AccessOutcome::*, AccessQuestion, explain_access},
};

/// A question of `GET /` by reviews-v1 to ratings.prod, which is on another node.
struct Question<'q> {
    from: &'q str,
    to: &'q str,
    path: &'q str,
    headers: HeaderMap,
    claims: Option<&'q str>,
    source_ip: Option<IpAddr>,
}

impl Default for Question<'_> {
    fn default() -> Self {
        let (headers, claims, source_ip) = (HeaderMap::new(), None, None);
        Self { from: "reviews-v1", to: "ratings.prod:9080", path: "/", headers, claims, source_ip }
    }
}

impl Question<'_> {
    fn ask(&self, mesh: &Mesh) -> Result<AccessExplanation, String> {
        let claims: Option<Map<String, Value>> = self.claims.map(|claims| serde_json::from_str(claims).unwrap());
        let question = AccessQuestion {
            from: self.from,
            to: self.to,
            namespace: &Namespace::default_namespace(),
            method: &Method::GET,
            path_and_query: self.path,
            headers: &self.headers,
            claims: claims.as_ref(),
            source_ip: self.source_ip,
            keys: &|_| KnownKeys::NotFetched,
            now: 1_000,
        };
        explain_access(&mesh.view(), &question)
    }

    /// What becomes of it, and the steps of the only group of workloads, as `ABOUT DOCUMENT FIELD: TEXT`.
    fn told(&self, mesh: &Mesh) -> (crate::explain::access::AccessOutcome, Vec<String>) {
        let told = self.ask(mesh).unwrap();
        let [one] = told.workloads.as_slice() else { panic!("{told}") };
        let steps = one.steps.iter();
        let words = steps.map(|step| format!("{} {} {}: {}", step.about, step.document, step.field, step.says));
        (one.outcome, words.collect())
    }
}

const PEER: &str = "{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: strict, namespace: prod}, \
                    spec: {mtls: {mode: STRICT}}}";

fn tokens(issuer: &str) -> String {
    format!(
        "{{apiVersion: security.istio.io/v1, kind: RequestAuthentication, metadata: {{name: tokens, namespace: prod}}, \
         spec: {{jwtRules: [{{issuer: {issuer}, jwksUri: 'https://keys.example/'}}]}}}}"
    )
}

#[test]
fn each_policy_of_a_workload_of_another_node_is_told_with_the_rule_that_matches() {
    let mesh = bookinfo()
        .apply(PEER)
        .apply(&authorization("deny", "prod", "{action: DENY, rules: [{to: [{operation: {paths: [/admin]}}]}]}"))
        .apply(&authorization(
            "allow",
            "prod",
            "{rules: [{from: [{source: {namespaces: [x]}}]}, {from: [{source: {serviceAccounts: [default/reviews]}}]}]}",
        ))
        .apply(&authorization("elsewhere", "default", "{}"));
    let told = Question { path: "/x/../y?z", ..Question::default() }.ask(&mesh).unwrap();
    assert!(told.is_allowed());
    let steps: Vec<String> = told.steps.iter().map(|step| format!("{}: {}", step.about, step.says)).collect();
    assert_eq!(
        steps[1..],
        [
            "principal: cluster.local/ns/default/sa/reviews",
            "service: ratings.prod.svc.cluster.local, port 9080 (http)",
            "path: policies and the workload see /y?z",
        ]
    );
    assert_eq!(told.workloads[0].workloads, ["ratings-v9 on there, port 9080"]);
    let of = |question: Question<'_>| question.told(&mesh);
    let (outcome, steps) = of(Question::default());
    assert_eq!(outcome, Allowed);
    assert_eq!(
        steps,
        [
            "mtls PeerAuthentication prod/strict spec.mtls: says STRICT",
            "mtls  : STRICT: the caller shows its certificate",
            "token  : no RequestAuthentication is for this workload: tokens are not read, and claims have no value",
            "policy AuthorizationPolicy prod/deny : DENY: no rule matches",
            "policy AuthorizationPolicy prod/allow spec.rules[1]: ALLOW: matches",
            "verdict AuthorizationPolicy prod/allow spec.rules[1]: allowed",
        ]
    );
    let (outcome, steps) = of(Question { path: "/x/%2e%2E/admin", ..Question::default() });
    assert_eq!(outcome, Denied);
    assert_eq!(steps[3], "policy AuthorizationPolicy prod/deny spec.rules[0]: DENY: matches");
    assert_eq!(steps.last().unwrap(), "verdict AuthorizationPolicy prod/deny spec.rules[0]: denied");
    let (outcome, steps) = of(Question { from: "ratings-v1", ..Question::default() });
    assert_eq!(outcome, Denied);
    assert_eq!(steps.last().unwrap(), "verdict  : denied: no policy of action ALLOW allows it");
}

#[test]
fn workloads_that_decide_differently_are_told_apart_and_all_must_allow() {
    let of_v3 = "{selector: {matchLabels: {version: v3}}, action: DENY, rules: [{}]}";
    let mesh = bookinfo().apply(&authorization("v3", "default", of_v3));
    let told = Question { from: "ratings-v9.prod", to: "reviews", ..Question::default() }.ask(&mesh).unwrap();
    let told: Vec<_> = told.workloads.iter().map(|one| (one.workloads.join("; "), one.outcome)).collect();
    let alike = |one: &str| (one.to_owned(), Allowed);
    // The caller's own node knows who calls; the other one is shown a certificate.
    assert_eq!(
        told,
        [
            alike("reviews-v1 on here, port 9080"),
            alike("reviews-v2 on there, port 9080"),
            ("reviews-v3 on there, port 9080".to_owned(), Denied),
        ]
    );
}

#[test]
fn who_calls_is_a_workload_a_service_an_account_or_a_principal() {
    let allow = "{rules: [{from: [{source: {principals: [cluster.local/ns/default/sa/reviews]}}]}]}";
    let mesh = bookinfo().apply(&authorization("p", "prod", allow));
    for (from, outcome) in [
        ("reviews-v2", Allowed),
        ("reviews", Allowed),
        ("default/reviews", Allowed),
        ("cluster.local/ns/default/sa/reviews", Allowed),
        ("spiffe://cluster.local/ns/default/sa/reviews", Allowed),
        ("other.example/ns/default/sa/reviews", Denied),
        ("prod/reviews", Denied),
        ("spiffe://cluster.local/node/here", Denied),
    ] {
        assert_eq!(Question { from, ..Question::default() }.told(&mesh).0, outcome, "{from}");
    }
    for (from, to, says) in [
        ("nobody", "ratings.prod", "no workload or service nobody in namespace default"),
        ("a/b/c", "ratings.prod", "is no principal"),
        ("reviews-v1", "nobody", "nobody is no service of the mesh"),
        ("reviews-v1", "ratings.prod:1", "name a port of service ratings.prod: it has 9080"),
        ("reviews-v1", "ratings.prod:x", "\"x\" is no port"),
    ] {
        let error = Question { from, to, ..Question::default() }.ask(&mesh).unwrap_err();
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn tokens_are_verified_or_their_claims_are_taken_as_given() {
    let allow = "{rules: [{from: [{source: {requestPrincipals: [i/*]}}], when: [{key: 'request.auth.claims[groups]', values: \
                 [admin]}]}]}";
    let mesh = bookinfo().apply(&tokens("i")).apply(&authorization("p", "prod", allow));
    let claims = |claims| Question { claims: Some(claims), ..Question::default() }.told(&mesh);
    let (outcome, steps) = claims(r#"{"iss": "i", "sub": "s", "groups": ["x", "admin"]}"#);
    assert_eq!(outcome, Allowed);
    let takes = "token RequestAuthentication prod/tokens spec.jwtRules[0]: takes a token with these claims";
    assert_eq!(steps[1], takes);
    assert_eq!(claims(r#"{"iss": "i", "sub": "s"}"#).0, Denied);
    let (outcome, steps) = claims(r#"{"iss": "j", "sub": "s"}"#);
    assert_eq!((outcome, &*steps[1]), (Denied, "token  : refused with 401: no rule takes tokens of j"));

    let token = |token: &str| {
        let mut headers = HeaderMap::new();
        headers.insert("authorization", format!("Bearer {token}").parse().unwrap());
        Question { headers, ..Question::default() }.told(&mesh)
    };
    let (outcome, steps) = token("nonsense");
    assert_eq!(outcome, Denied);
    assert!(steps[1].starts_with("token  : refused with 401: "), "{steps:?}");
    // {"alg":"ES256"}.{"iss":"i","sub":"s","exp":9999999999}
    let (outcome, steps) = token("eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJpIiwic3ViIjoicyIsImV4cCI6OTk5OTk5OTk5OX0.AAAA");
    assert_eq!(outcome, Unknown);
    assert!(steps[1].contains("this node has no keys of https://keys.example/"), "{steps:?}");
    // Nobody reads tokens where there is no RequestAuthentication.
    let mesh = bookinfo().apply(&authorization("p", "prod", allow));
    let claims = Some(r#"{"iss": "i", "sub": "s", "groups": "admin"}"#);
    assert_eq!(Question { claims, ..Question::default() }.told(&mesh).0, Denied);
}

#[test]
fn addresses_hosts_and_headers_are_those_of_the_request() {
    let when = |key: &str, value: &str| {
        let policy = format!("{{rules: [{{when: [{{key: '{key}', values: ['{value}']}}]}}]}}");
        bookinfo().apply(&authorization("p", "prod", &policy))
    };
    let outcome = |mesh: &Mesh, question: Question<'_>| question.told(mesh).0;
    // Node `here` is at 10.0.0.4, `there` at 10.0.0.5.
    assert_eq!(outcome(&when("source.ip", "10.0.0.4"), Question::default()), Allowed);
    assert_eq!(outcome(&when("destination.ip", "10.0.0.5"), Question::default()), Allowed);
    let source_ip = Some([1, 2, 3, 4].into());
    assert_eq!(outcome(&when("source.ip", "1.2.3.4"), Question { source_ip, ..Question::default() }), Allowed);
    let with = |name: &'static str, value: &str| {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().unwrap());
        Question { headers, ..Question::default() }
    };
    assert_eq!(outcome(&when("remote.ip", "5.6.7.8"), with("x-forwarded-for", "9.9.9.9, 5.6.7.8")), Allowed);
    assert_eq!(outcome(&when("request.headers[x-a]", "b"), with("x-a", "b")), Allowed);
    let hosts = "{rules: [{to: [{operation: {hosts: [shop.example]}}]}]}";
    let mesh = bookinfo().apply(&authorization("p", "prod", hosts));
    assert_eq!(outcome(&mesh, with("host", "shop.example")), Allowed);
    assert_eq!(outcome(&mesh, Question::default()), Denied);
    let within = Question { from: "ratings-v9.prod", ..Question::default() };
    assert_eq!(outcome(&when("source.ip", "127.0.0.1"), within), Allowed);
}

#[test]
fn policies_in_dry_run_are_told_and_decide_nothing() {
    let policy =
        authorization("p", "prod", "{}").replace("name: p", "name: p, annotations: {istio.io/dry-run: 'true'}");
    let (outcome, steps) = Question::default().told(&bookinfo().apply(&policy));
    assert_eq!(outcome, Allowed);
    assert_eq!(
        steps[2..4],
        [
            "policy AuthorizationPolicy prod/p : ALLOW: no rule matches, in dry run, which decides nothing",
            "dry run  : the policies in dry run would deny it",
        ]
    );
}

const PROVIDERS: &str = "{apiVersion: weft.mesh/v1alpha1, kind: MeshConfig, metadata: {name: default, namespace: istio-system}, \
     spec: {extensionProviders: [{name: by-http, envoyExtAuthzHttp: {service: authz.foo.svc.cluster.local, port: 8000, \
     pathPrefix: /check, includeRequestHeadersInCheck: [x-a, authorization], includeAdditionalHeadersInCheck: {x-own: v}, \
     timeout: 2s}}, {name: by-grpc, envoyExtAuthzGrpc: {service: authz.foo.svc.cluster.local, port: 9000, \
     failOpen: true}}]}}";

fn asks(provider: &str) -> String {
    let rules = "[{to: [{operation: {paths: [/ask*]}}]}]";
    authorization("ask", "prod", &format!("{{action: CUSTOM, provider: {{name: {provider}}}, rules: {rules}}}"))
}

#[test]
fn what_a_provider_is_asked_is_told_and_it_decides_only_what_the_other_policies_allow() {
    let mesh = bookinfo().apply(PROVIDERS).apply(&asks("by-http")).apply(&authorization(
        "deny",
        "prod",
        "{action: DENY, rules: [{to: [{operation: {paths: [/ask/admin]}}]}]}",
    ));
    let ask = |mesh: &Mesh, path| {
        let mut headers = HeaderMap::new();
        headers.insert("x-a", "secret".parse().unwrap());
        headers.insert("x-b", "c".parse().unwrap());
        Question { path, headers, ..Question::default() }.told(mesh)
    };
    let (outcome, steps) = ask(&mesh, "/ask?q");
    assert_eq!(outcome, Unknown);
    assert_eq!(steps[1], "policy AuthorizationPolicy prod/ask spec.rules[0]: CUSTOM: matches");
    assert_eq!(
        steps[2],
        "provider AuthorizationPolicy prod/ask spec.rules[0]: by-http is asked: GET http://ratings.prod:9080/check/ask?q, \
         with headers x-a, x-own, of authz.foo.svc.cluster.local:8000; what gets no answer within 2s is answered with 403"
    );
    assert_eq!(
        steps.last().unwrap(),
        "verdict  : allowed, if the provider by-http allows it: no policy of action ALLOW is for this workload"
    );
    let (outcome, steps) = ask(&mesh, "/ask/admin");
    assert_eq!((outcome, steps[2].starts_with("provider ")), (Denied, true), "{steps:?}");
    let (outcome, steps) = ask(&mesh, "/");
    assert_eq!((outcome, steps.iter().any(|step| step.starts_with("provider "))), (Allowed, false), "{steps:?}");

    let (outcome, steps) = ask(&bookinfo().apply(PROVIDERS).apply(&asks("by-grpc")), "/ask");
    assert_eq!(outcome, Unknown);
    assert!(
        steps[2].ends_with(
            "by-grpc is asked: a Check of GET /ask, with headers x-a, x-b, by gRPC of authz.foo.svc.cluster.local:9000; \
             what gets no answer within 600s is let pass"
        ),
        "{steps:?}"
    );
    let (outcome, steps) = ask(&bookinfo().apply(&asks("nobody")), "/ask");
    assert_eq!(outcome, Denied);
    assert_eq!(
        steps.last().unwrap(),
        "verdict AuthorizationPolicy prod/ask spec.rules[0]: denied: its provider cannot be asked"
    );
}

#[test]
fn providers_are_asked_before_tokens_are_read() {
    // A header that is a claim's is taken off where tokens are read.
    let tokens = tokens("i").replace("issuer: i", "issuer: i, outputClaimToHeaders: [{header: x-group, claim: group}]");
    let of_group = "{action: CUSTOM, provider: {name: by-http}, \
                    rules: [{when: [{key: 'request.headers[x-group]', values: [admin]}]}]}";
    let mesh = bookinfo().apply(PROVIDERS).apply(&tokens).apply(&authorization("ask", "prod", of_group));
    let ask = |claims| {
        let mut headers = HeaderMap::new();
        headers.insert("x-group", "admin".parse().unwrap());
        Question { headers, claims: Some(claims), ..Question::default() }.told(&mesh)
    };
    let (outcome, steps) = ask(r#"{"iss": "i", "sub": "s"}"#);
    assert_eq!(outcome, Unknown);
    let about: Vec<&str> = steps.iter().map(|step| step.split(' ').next().unwrap()).collect();
    assert_eq!(about, ["mtls", "policy", "provider", "token", "verdict"], "{steps:?}");
    let (outcome, steps) = ask(r#"{"iss": "j"}"#);
    let refused = "token  : refused with 401: no rule takes tokens of j";
    assert_eq!((outcome, steps.last().unwrap().as_str()), (Denied, refused));
}

#[test]
fn a_connection_that_is_not_http_is_asked_about_by_grpc_alone_and_closed_without_an_answer() {
    let providers = PROVIDERS.replace(", failOpen: true", "");
    let of_all = |provider| {
        let callers = vec![row("reviews", "reviews-v1")];
        let called = vec![EndpointRow { protocol: Protocol::Tcp, ..row("ratings.prod", "ratings-v9") }];
        let spec = format!("{{action: CUSTOM, provider: {{name: {provider}}}, rules: [{{}}]}}");
        let mesh = Mesh::new().node("here", callers).node("there", called);
        Question::default().told(&mesh.apply(&providers).apply(&authorization("ask", "prod", &spec)))
    };
    let (outcome, steps) = of_all("by-grpc");
    assert_eq!(outcome, Unknown);
    assert!(
        steps.iter().any(|step| step.ends_with(
            "by-grpc is asked: a Check of the connection, by gRPC of authz.foo.svc.cluster.local:9000; what gets no answer \
             within 600s is closed"
        )),
        "{steps:?}"
    );
    assert_eq!(of_all("by-http").0, Allowed);
}
