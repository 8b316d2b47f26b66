use std::{collections::BTreeMap, net::IpAddr};

use http::HeaderMap;
use proptest::prelude::*;
use serde_json::{Value, json};
use weft_wire::id::{Namespace, TrustDomain};

use super::{reference, *};
use crate::api::testing::documents;

/// A request to the workload of [`labels`] in namespace `foo`.
#[derive(Clone, Debug)]
struct Sent {
    peer: Option<String>,
    source_ip: IpAddr,
    remote_ip: IpAddr,
    destination_ip: Option<IpAddr>,
    port: u16,
    sni: Option<String>,
    is_http: bool,
    method: String,
    host: String,
    path: String,
    headers: Vec<(&'static str, String)>,
    claims: Option<Value>,
}

/// `GET http://a.com/x` from `foo/a` with mutual TLS.
fn sent() -> Sent {
    Sent {
        peer: Some("cluster.local/ns/foo/sa/a".into()),
        source_ip: [10, 0, 0, 1].into(),
        remote_ip: [192, 0, 2, 1].into(),
        destination_ip: Some([10, 0, 0, 2].into()),
        port: 8080,
        sni: None,
        is_http: true,
        method: "GET".into(),
        host: "a.com".into(),
        path: "/x?q=1".into(),
        headers: Vec::new(),
        claims: None,
    }
}

fn tcp() -> Sent {
    Sent { is_http: false, ..sent() }
}

fn from(peer: &str) -> Sent {
    Sent { peer: Some(peer.into()), ..sent() }
}

fn plain_text() -> Sent {
    Sent { peer: None, ..sent() }
}

fn with_claims(claims: Value) -> Sent {
    Sent { claims: Some(claims), ..sent() }
}

impl Sent {
    fn ask<R>(&self, question: impl FnOnce(&AccessRequest<'_>) -> R) -> R {
        let headers: HeaderMap =
            self.headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        let claims = self.claims.as_ref().map(|claims| {
            let Value::Object(claims) = claims.clone() else { panic!("claims are an object") };
            Claims::new(claims, std::iter::empty())
        });
        let http = HttpAccess {
            method: &self.method,
            host: &self.host,
            path: &self.path,
            headers: &headers,
            claims: claims.as_ref(),
        };
        question(&AccessRequest {
            peer: self.peer.as_deref().map(Peer::new),
            source_ip: self.source_ip,
            remote_ip: self.remote_ip,
            destination_ip: self.destination_ip,
            destination_port: self.port,
            sni: self.sni.as_deref(),
            http: self.is_http.then_some(http),
        })
    }
}

fn labels() -> BTreeMap<String, String> {
    [("app".to_owned(), "httpbin".to_owned())].into()
}

fn trust(names: &[&str]) -> Vec<TrustDomain> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

/// The workload is in namespace `foo` and has [`labels`]; there are the providers `http` and `grpc`.
fn compile_in(documents: &[Document], trust_domains: &[TrustDomain]) -> Authorizer {
    let namespace: Namespace = "foo".parse().unwrap();
    let labels = labels();
    let workload = Workload { namespace: &namespace, labels: &labels, attached: &[("Service", "httpbin")] };
    let providers = [("http".to_owned(), ProviderKind::Http), ("grpc".to_owned(), ProviderKind::Grpc)].into();
    Authorizer::compile(documents, &workload, &AuthorizerSettings { trust_domains, providers: &providers })
}

/// Policies, each `{metadata fields; spec}`, in namespace `foo` unless they say otherwise.
fn compile(policies: &[Value]) -> Authorizer {
    compile_in(&policy_documents(policies), &trust(&["cluster.local"]))
}

fn policy_documents(policies: &[Value]) -> Vec<Document> {
    let texts = policies.iter().enumerate().map(|(index, policy)| {
        let mut policy = policy.clone();
        let named = policy["metadata"].get("name").is_some();
        if !named {
            policy["metadata"]["name"] = json!(format!("p{index}"));
        }
        if policy["metadata"].get("namespace").is_none() {
            policy["metadata"]["namespace"] = json!("foo");
        }
        policy["apiVersion"] = json!("security.istio.io/v1");
        policy["kind"] = json!("AuthorizationPolicy");
        format!("---\n{policy}\n")
    });
    documents(&texts.collect::<String>())
}

/// What comes of it, in short: `allow`, `deny`, or `ask PROVIDER`.
fn outcome(authorizer: &Authorizer, sent: &Sent) -> String {
    sent.ask(|request| match authorizer.decide(request).verdict {
        Verdict::Allow(_) => "allow".into(),
        Verdict::Deny(_) => "deny".into(),
        Verdict::Ask { provider, .. } => format!("ask {provider}"),
    })
}

fn allow(rule: Value) -> Value {
    json!({ "spec": { "rules": [rule] } })
}

fn deny(rule: Value) -> Value {
    json!({ "spec": { "action": "DENY", "rules": [rule] } })
}

fn custom(provider: &str) -> Value {
    json!({ "spec": { "action": "CUSTOM", "provider": { "name": provider }, "rules": [{}] } })
}

fn source(source: Value) -> Value {
    json!({ "from": [{ "source": source }] })
}

fn operation(operation: Value) -> Value {
    json!({ "to": [{ "operation": operation }] })
}

fn condition(key: &str, value: &str) -> Value {
    json!({ "when": [{ "key": key, "values": [value] }] })
}

/// Whether a rule matches, asked of a policy that allows by it alone.
fn matches(rule: &Value, sent: &Sent) -> bool {
    outcome(&compile(&[allow(rule.clone())]), sent) == "allow"
}

#[track_caller]
fn check(rule: Value, matching: &[Sent], others: &[Sent]) {
    for sent in matching {
        assert!(matches(&rule, sent), "{rule} must match {sent:?}");
    }
    for sent in others {
        assert!(!matches(&rule, sent), "{rule} must not match {sent:?}");
    }
}

#[test]
fn d_authz_without_policies_all_is_allowed() {
    let authorizer = compile(&[]);
    assert_eq!(outcome(&authorizer, &sent()), "allow");
    sent().ask(|request| {
        assert_eq!(authorizer.decide(request).verdict, Verdict::Allow(Allowed::ByDefault));
    });
}

#[test]
fn d_authz_custom_comes_first_then_deny_then_allow() {
    let get = operation(json!({ "methods": ["GET"] }));
    assert_eq!(outcome(&compile(&[allow(get.clone())]), &sent()), "allow");
    assert_eq!(outcome(&compile(&[allow(get.clone()), deny(get.clone())]), &sent()), "deny");
    let all = compile(&[allow(get.clone()), deny(get.clone()), custom("http")]);
    assert_eq!(outcome(&all, &sent()), "ask http");
    let after =
        |authorizer: &Authorizer| sent().ask(|request| authorizer.decide_after_provider(request).verdict.is_allowed());
    assert!(!after(&all), "a provider's yes does not outweigh a denial");
    assert!(after(&compile(&[allow(get), custom("http")])));
    assert!(after(&compile(&[custom("http")])));
}

#[test]
fn d_authz_with_allow_policies_what_none_allows_is_denied() {
    let authorizer =
        compile(&[allow(operation(json!({ "methods": ["POST"] }))), allow(operation(json!({ "methods": ["PUT"] })))]);
    assert_eq!(outcome(&authorizer, &sent()), "deny");
    assert_eq!(outcome(&authorizer, &Sent { method: "PUT".into(), ..sent() }), "allow");
}

#[test]
fn d_authz_an_empty_spec_denies_all_and_an_empty_rule_matches_all() {
    assert_eq!(outcome(&compile(&[json!({ "spec": {} })]), &sent()), "deny");
    assert_eq!(outcome(&compile(&[json!({})]), &sent()), "deny");
    assert_eq!(outcome(&compile(&[json!({ "spec": { "rules": [] } })]), &sent()), "deny");
    assert_eq!(outcome(&compile(&[allow(json!({}))]), &sent()), "allow");
    assert_eq!(outcome(&compile(&[allow(json!({}))]), &tcp()), "allow");
    assert_eq!(outcome(&compile(&[deny(json!({}))]), &sent()), "deny");
}

#[test]
fn d_authz_audit_decides_nothing_and_is_told() {
    let authorizer = compile(&[json!({ "metadata": { "name": "log" }, "spec": { "action": "AUDIT", "rules": [{}] } })]);
    assert_eq!(outcome(&authorizer, &sent()), "allow");
    sent().ask(|request| {
        let audit = authorizer.decide(request).audit.unwrap();
        assert_eq!((audit.policy.name.as_str(), audit.rule), ("log", 0));
    });
}

#[test]
fn d_authz_a_dry_run_is_evaluated_and_never_enforced() {
    let dry = |value: &str, spec: Value| json!({ "metadata": { "annotations": { "istio.io/dry-run": value } }, "spec": spec });
    let all = json!({ "action": "DENY", "rules": [{}] });
    let authorizer = compile(&[dry("true", all.clone())]);
    assert_eq!(outcome(&authorizer, &sent()), "allow");
    sent().ask(|request| {
        let decision = authorizer.decide(request);
        assert!(matches!(decision.dry_run, Some(Verdict::Deny(Denied::ByRule(_)))), "{decision:?}");
    });
    // A policy that allows nothing would deny all.
    let authorizer = compile(&[dry("true", json!({}))]);
    assert_eq!(outcome(&authorizer, &sent()), "allow");
    sent().ask(|request| {
        assert_eq!(authorizer.decide(request).dry_run, Some(Verdict::Deny(Denied::ByDefault)));
    });
    assert_eq!(outcome(&compile(&[dry("false", all.clone())]), &sent()), "deny");
    assert_eq!(outcome(&compile(&[dry("maybe", all)]), &sent()), "deny");
    sent().ask(|request| assert_eq!(compile(&[]).decide(request).dry_run, None));
    let custom = json!({ "action": "CUSTOM", "provider": { "name": "nobody" }, "rules": [{}] });
    assert_eq!(outcome(&compile(&[dry("true", custom)]), &sent()), "allow");
}

#[test]
fn d_authz_an_invalid_provider_or_several_deny_what_their_rules_match() {
    assert_eq!(outcome(&compile(&[custom("nobody")]), &sent()), "deny");
    assert_eq!(outcome(&compile(&[custom("http"), custom("grpc")]), &sent()), "deny");
    assert_eq!(outcome(&compile(&[custom("http"), custom("http")]), &sent()), "ask http");
    let mut narrow = custom("nobody");
    narrow["spec"]["rules"] = json!([operation(json!({ "paths": ["/admin*"] }))]);
    assert_eq!(outcome(&compile(&[narrow]), &sent()), "allow");
}

#[test]
fn d_authz_an_http_provider_is_not_asked_about_connections() {
    assert_eq!(outcome(&compile(&[custom("http")]), &tcp()), "allow");
    assert_eq!(outcome(&compile(&[custom("grpc")]), &tcp()), "ask grpc");
    assert_eq!(outcome(&compile(&[custom("nobody")]), &tcp()), "deny");
}

#[test]
fn d_authz_policies_add_across_root_namespace_namespace_and_selector() {
    let of = |namespace: &str, app: Option<&str>| {
        let mut policy = deny(json!({}));
        policy["metadata"] = json!({ "namespace": namespace });
        if let Some(app) = app {
            policy["spec"]["selector"] = json!({ "matchLabels": { "app": app } });
        }
        policy
    };
    for (namespace, app, expected) in [
        ("foo", None, "deny"),
        ("foo", Some("httpbin"), "deny"),
        ("foo", Some("other"), "allow"),
        ("bar", None, "allow"),
        ("bar", Some("httpbin"), "allow"),
        ("istio-system", None, "deny"),
        ("istio-system", Some("httpbin"), "deny"),
        ("istio-system", Some("other"), "allow"),
    ] {
        assert_eq!(outcome(&compile(&[of(namespace, app)]), &sent()), expected, "{namespace} {app:?}");
    }
}

#[test]
fn d_authz_a_policy_may_be_attached_to_what_the_workload_serves() {
    let to = |kind: &str, name: &str, namespace: &str| {
        let group = if kind == "Service" { "" } else { "gateway.networking.k8s.io" };
        json!({
            "metadata": { "namespace": namespace },
            "spec": { "targetRefs": [{ "group": group, "kind": kind, "name": name }], "action": "DENY", "rules": [{}] }
        })
    };
    for (policy, expected) in [
        (to("Service", "httpbin", "foo"), "deny"),
        (to("Service", "other", "foo"), "allow"),
        (to("Gateway", "httpbin", "foo"), "allow"),
        (to("Service", "httpbin", "istio-system"), "allow"),
    ] {
        assert_eq!(outcome(&compile(std::slice::from_ref(&policy)), &sent()), expected, "{policy}");
    }
}

#[test]
fn d_authz_fields_are_anded_values_ored_from_to_ored_when_anded() {
    let rule = json!({
        "from": [
            { "source": { "namespaces": ["foo", "bar"], "ipBlocks": ["10.0.0.0/8"] } },
            { "source": { "principals": ["cluster.local/ns/ops/sa/admin"] } },
        ],
        "to": [{ "operation": { "methods": ["GET", "HEAD"], "paths": ["/x"] } }, { "operation": { "methods": ["PUT"] } }],
        "when": [
            { "key": "request.headers[x-a]", "values": ["1", "2"] },
            { "key": "request.headers[x-b]", "values": ["3"] },
        ],
    });
    let good = Sent { headers: vec![("x-a", "2".into()), ("x-b", "3".into())], ..sent() };
    check(
        rule,
        &[
            good.clone(),
            Sent { method: "PUT".into(), path: "/y".into(), ..good.clone() },
            Sent { peer: Some("cluster.local/ns/ops/sa/admin".into()), source_ip: [1, 1, 1, 1].into(), ..good.clone() },
        ],
        &[
            Sent { source_ip: [1, 1, 1, 1].into(), ..good.clone() },
            Sent { path: "/y".into(), ..good.clone() },
            Sent { method: "POST".into(), ..good.clone() },
            Sent { headers: vec![("x-a", "2".into())], ..good.clone() },
            Sent { headers: vec![("x-a", "9".into()), ("x-b", "3".into())], ..good },
        ],
    );
}

#[test]
fn d_authz_not_fields_are_anded_with_the_others() {
    check(
        source(json!({ "namespaces": ["foo"], "notPrincipals": ["*/sa/b"] })),
        &[sent()],
        &[from("cluster.local/ns/foo/sa/b"), from("cluster.local/ns/bar/sa/a")],
    );
    check(
        json!({ "when": [{ "key": "request.headers[x-a]", "values": ["a*"], "notValues": ["ab"] }] }),
        &[Sent { headers: vec![("x-a", "ac".into())], ..sent() }],
        &[Sent { headers: vec![("x-a", "ab".into())], ..sent() }, sent()],
    );
    // What is not there is not what it must not be.
    check(json!({ "when": [{ "key": "request.headers[x-a]", "notValues": ["ab"] }] }), &[sent()], &[]);
}

#[test]
fn d_authz_values_are_exact_prefix_suffix_or_present() {
    let path = |path: &str| Sent { path: path.into(), ..sent() };
    let paths = |value: &str| operation(json!({ "paths": [value] }));
    check(paths("/a"), &[path("/a"), path("/a?b")], &[path("/a/"), path("/ab"), path("/A")]);
    check(paths("/a*"), &[path("/a"), path("/ab"), path("/a/b")], &[path("/b")]);
    check(paths("*a"), &[path("/a"), path("/b/a"), path("/a?b")], &[path("/ab")]);
    check(paths("*"), &[path("/")], &[path("")]);
    // A star in the middle, or at both ends, is no wildcard there.
    check(paths("/a*b"), &[path("/a*b")], &[path("/aab")]);
    check(paths("*a*"), &[path("/a*")], &[path("/ab")]);
}

#[test]
fn d_authz_hosts_compare_without_case_and_with_the_port_that_was_sent() {
    let host = |host: &str| Sent { host: host.into(), ..sent() };
    let hosts = |value: &str| operation(json!({ "hosts": [value] }));
    check(hosts("a.com"), &[host("a.com"), host("A.Com")], &[host("a.com:8080"), host("b.com")]);
    check(hosts("a.com:*"), &[host("a.com:8080"), host("a.COM:80")], &[host("a.com")]);
    check(hosts("*.A.com"), &[host("x.a.com")], &[host("a.com"), host("x.a.com:80")]);
    check(hosts("*"), &[host("a")], &[host("")]);
}

#[test]
fn d_authz_methods_compare_with_case() {
    let method = |method: &str| Sent { method: method.into(), ..sent() };
    check(operation(json!({ "methods": ["GET", "P*"] })), &[method("GET"), method("PUT")], &[method("get")]);
}

#[test]
fn d_authz_paths_may_be_templates() {
    let path = |path: &str| Sent { path: path.into(), ..sent() };
    check(
        operation(json!({ "paths": ["/a/{*}/c", "/t/{**}/z"] })),
        &[path("/a/b/c?d"), path("/t/x/y/z")],
        &[path("/a/b/b/c"), path("/a//c"), path("/t/z")],
    );
}

#[test]
fn d_authz_principals_are_without_scheme_and_need_mutual_tls() {
    check(
        source(json!({ "principals": ["cluster.local/ns/foo/sa/a"] })),
        &[sent(), from("spiffe://cluster.local/ns/foo/sa/a")],
        &[from("cluster.local/ns/foo/sa/b"), plain_text()],
    );
    check(source(json!({ "principals": ["*/sa/a"] })), &[sent()], &[plain_text()]);
    check(source(json!({ "principals": ["*"] })), &[sent()], &[plain_text()]);
    check(source(json!({ "notPrincipals": ["*"] })), &[plain_text()], &[sent()]);
    check(source(json!({ "principals": ["spiffe://cluster.local/ns/foo/sa/a"] })), &[], &[sent()]);
}

#[test]
fn d_authz_namespaces_have_wildcards_within_the_name() {
    let in_namespace = |namespace: &str| from(&format!("cluster.local/ns/{namespace}/sa/foo"));
    check(source(json!({ "namespaces": ["foo"] })), &[in_namespace("foo")], &[in_namespace("foobar"), plain_text()]);
    check(
        source(json!({ "namespaces": ["foo*"] })),
        &[in_namespace("foo"), in_namespace("foobar")],
        &[in_namespace("afoo")],
    );
    check(
        source(json!({ "namespaces": ["*foo"] })),
        &[in_namespace("foo"), in_namespace("afoo")],
        &[in_namespace("foob")],
    );
    check(
        source(json!({ "namespaces": ["a*c*e"] })),
        &[in_namespace("abcde"), in_namespace("ace")],
        &[in_namespace("ae")],
    );
    check(source(json!({ "notNamespaces": ["foo"] })), &[in_namespace("bar"), plain_text()], &[in_namespace("foo")]);
    check(source(json!({ "namespaces": ["node"] })), &[], &[from("cluster.local/node/ns/x")]);
}

#[test]
fn d_authz_service_accounts_are_of_the_policys_namespace_or_of_the_one_they_name() {
    check(
        source(json!({ "serviceAccounts": ["a"] })),
        &[sent()],
        &[from("cluster.local/ns/bar/sa/a"), from("cluster.local/ns/foo/sa/aa"), plain_text()],
    );
    check(source(json!({ "serviceAccounts": ["bar/a"] })), &[from("other.td/ns/bar/sa/a")], &[sent()]);
    check(source(json!({ "notServiceAccounts": ["a"] })), &[plain_text(), from("td/ns/foo/sa/b")], &[sent()]);
}

#[test]
fn d_authz_trust_domains_are_exact_prefix_or_suffix() {
    let of = |domain: &str| from(&format!("{domain}/ns/foo/sa/a"));
    check(source(json!({ "trustDomains": ["td.a"] })), &[of("td.a")], &[of("td.ab"), plain_text()]);
    check(source(json!({ "trustDomains": ["td.*"] })), &[of("td.a")], &[of("a.td")]);
    check(source(json!({ "trustDomains": ["*.td"] })), &[of("a.td")], &[of("td.a")]);
    check(source(json!({ "notTrustDomains": ["td.a"] })), &[of("td.b"), plain_text()], &[of("td.a")]);
}

#[test]
fn d_authz_trust_domain_aliases_expand_principals() {
    let decides = |principal: &str, peer: &str| {
        let documents = policy_documents(&[allow(source(json!({ "principals": [principal] })))]);
        outcome(&compile_in(&documents, &trust(&["td1", "td2"])), &from(peer)) == "allow"
    };
    for (principal, peer, expected) in [
        ("td1/ns/foo/sa/a", "td2/ns/foo/sa/a", true),
        ("td2/ns/foo/sa/a", "td1/ns/foo/sa/a", true),
        ("cluster.local/ns/foo/sa/a", "td1/ns/foo/sa/a", true),
        ("cluster.local/ns/foo/sa/a", "cluster.local/ns/foo/sa/a", false),
        ("td1/ns/foo/sa/*", "td2/ns/foo/sa/x", true),
        ("td3/ns/foo/sa/a", "td1/ns/foo/sa/a", false),
        ("td3/ns/foo/sa/a", "td3/ns/foo/sa/a", true),
        ("*/ns/foo/sa/a", "td9/ns/foo/sa/a", true),
        ("*d1/ns/foo/sa/a", "td2/ns/foo/sa/a", true),
        ("cluster.local/*", "td1/ns/foo/sa/a", false),
    ] {
        assert_eq!(decides(principal, peer), expected, "{principal} for {peer}");
    }
}

#[test]
fn d_authz_ip_blocks_are_the_direct_peers_and_remote_ip_blocks_the_clients() {
    let rule = source(json!({ "ipBlocks": ["10.0.0.0/8"], "remoteIpBlocks": ["192.0.2.1"] }));
    check(
        rule,
        &[sent(), Sent { source_ip: "::ffff:10.9.9.9".parse().unwrap(), ..sent() }],
        &[Sent { remote_ip: [192, 0, 2, 2].into(), ..sent() }, Sent { source_ip: [11, 0, 0, 1].into(), ..sent() }],
    );
    check(condition("source.ip", "10.0.0.1"), &[sent()], &[Sent { source_ip: [10, 0, 0, 2].into(), ..sent() }]);
    check(condition("remote.ip", "192.0.2.0/24"), &[sent()], &[Sent { remote_ip: [10, 0, 0, 2].into(), ..sent() }]);
    check(
        source(json!({ "ipBlocks": ["2001:db8::/32"] })),
        &[Sent { source_ip: "2001:db8::1".parse().unwrap(), ..sent() }],
        &[sent()],
    );
}

#[test]
fn d_authz_ports_are_the_workloads() {
    check(operation(json!({ "ports": ["8080"] })), &[sent(), tcp()], &[Sent { port: 80, ..sent() }]);
    check(operation(json!({ "notPorts": ["8080"] })), &[Sent { port: 80, ..sent() }], &[sent(), tcp()]);
    check(condition("destination.port", "8080"), &[sent(), tcp()], &[Sent { port: 80, ..sent() }]);
}

#[test]
fn d_authz_conditions_read_each_attribute() {
    let header = |value: &str| Sent { headers: vec![("x-a", value.into())], ..sent() };
    check(condition("request.headers[X-A]", "b*"), &[header("bc")], &[header("cb"), sent()]);
    check(condition("request.headers[x-a]", "*"), &[header("b"), header("")], &[sent()]);
    let twice = Sent { headers: vec![("x-a", "b".into()), ("x-a", "c".into())], ..sent() };
    check(condition("request.headers[x-a]", "b,c"), std::slice::from_ref(&twice), &[header("b")]);
    check(condition("request.experimental.inline.headers[x-a]", "b"), &[twice.clone(), header("a,b")], &[header("bb")]);
    check(condition("request.headers[:method]", "GET"), &[sent()], &[Sent { method: "PUT".into(), ..sent() }]);
    check(condition("request.headers[host]", "a.com"), &[sent()], &[Sent { host: "b".into(), ..sent() }]);
    check(condition("destination.ip", "10.0.0.2/31"), &[sent()], &[Sent { destination_ip: None, ..sent() }]);
    check(condition("source.namespace", "fo*"), &[sent()], &[plain_text()]);
    check(condition("source.principal", "*"), &[sent()], &[plain_text()]);
    check(condition("source.serviceAccount", "foo/a"), &[sent()], &[plain_text()]);
    check(condition("connection.sni", "*.com"), &[Sent { sni: Some("a.com".into()), ..sent() }], &[sent()]);
    // weft has none of Envoy's filters: they say nothing.
    check(condition("experimental.envoy.filters.a[b]", "*"), &[], &[sent()]);
}

#[test]
fn d_jwt_request_principals_are_divided_at_the_last_slash() {
    let token = |issuer: &str, subject: &str| with_claims(json!({ "iss": issuer, "sub": subject }));
    let rule = |value: &str| source(json!({ "requestPrincipals": [value] }));
    check(rule("https://a/b/me"), &[token("https://a/b", "me")], &[token("https://a", "b/me"), sent()]);
    check(rule("*"), &[token("i", "s")], &[sent(), with_claims(json!({ "iss": "i" })), token("", "s")]);
    check(rule("i/*"), &[token("i", "s")], &[token("j", "s")]);
    check(rule("i/s*"), &[token("i", "st")], &[token("i", "t")]);
    check(rule("*/s"), &[token("i", "s"), token("j", "s")], &[token("i", "t")]);
    check(rule("*.com/s"), &[token("a.com", "s")], &[token("a.org", "s")]);
    check(rule("*s"), &[token("i", "us")], &[token("s", "i")]);
    check(rule("i*"), &[token("ij", "s")], &[token("ji", "s")]);
    check(condition("request.auth.principal", "i/s"), &[token("i", "s")], &[token("i", "t")]);
    check(source(json!({ "notRequestPrincipals": ["*"] })), &[sent()], &[token("i", "s")]);
}

#[test]
fn d_jwt_claims_are_a_text_or_a_list_and_may_be_nested() {
    let rule = condition("request.auth.claims[groups]", "dev*");
    check(
        rule,
        &[with_claims(json!({ "groups": ["ops", "devel"] })), with_claims(json!({ "groups": "dev" }))],
        &[with_claims(json!({ "groups": ["ops"] })), with_claims(json!({ "groups": 1 })), sent()],
    );
    check(
        condition("request.auth.claims[a][b]", "c"),
        &[with_claims(json!({ "a": { "b": "c" } }))],
        &[with_claims(json!({ "a": "c" })), with_claims(json!({ "a": { "c": "c" } }))],
    );
    check(condition("request.auth.claims[scope]", "b"), &[with_claims(json!({ "scope": "a b" }))], &[]);
    check(condition("request.auth.audiences", "x"), &[with_claims(json!({ "aud": ["x", "y"] }))], &[sent()]);
    check(condition("request.auth.presenter", "x"), &[with_claims(json!({ "azp": "x" }))], &[sent()]);
}

/// Rules that have something of HTTP in them, and whether what is left without it matches [`tcp`].
fn half_http() -> Vec<(Value, bool)> {
    let both = |port: &str| operation(json!({ "methods": ["POST"], "ports": [port] }));
    vec![
        (operation(json!({ "paths": ["/other"] })), true),
        (operation(json!({ "hosts": ["b"] })), true),
        (operation(json!({ "notMethods": ["GET"] })), true),
        (source(json!({ "requestPrincipals": ["*"] })), true),
        (condition("request.headers[x]", "y"), true),
        (condition("request.auth.claims[x]", "y"), true),
        (both("8080"), true),
        (both("80"), false),
        (
            json!({ "from": [{ "source": { "requestPrincipals": ["*"] } }, { "source": { "namespaces": ["bar"] } }] }),
            true,
        ),
        (json!({ "from": [{ "source": { "namespaces": ["bar"], "requestPrincipals": ["*"] } }] }), false),
    ]
}

#[test]
fn d_authz_on_tcp_an_allow_rule_with_an_http_field_never_matches() {
    for (rule, _) in half_http() {
        assert_eq!(outcome(&compile(&[allow(rule.clone())]), &tcp()), "deny", "{rule}");
    }
    let either =
        json!({ "from": [{ "source": { "namespaces": ["foo"] } }, { "source": { "requestPrincipals": ["*"] } }] });
    assert_eq!(outcome(&compile(&[allow(either)]), &tcp()), "deny", "one source with an HTTP field spoils the rule");
}

#[test]
fn d_authz_on_tcp_a_deny_rule_drops_its_http_fields() {
    for (rule, rest_matches) in half_http() {
        let expected = if rest_matches { "deny" } else { "allow" };
        assert_eq!(outcome(&compile(&[deny(rule.clone())]), &tcp()), expected, "{rule}");
    }
}

#[test]
fn an_open_connection_may_go_on_as_long_as_some_request_may_come_by_it() {
    let a = json!({"source": {"principals": ["cluster.local/ns/foo/sa/a"]}});
    let b = json!({"source": {"principals": ["cluster.local/ns/foo/sa/b"]}});
    let get = json!([{"operation": {"methods": ["GET"]}}]);
    let claim = json!([{"key": "request.auth.claims[x]", "values": ["y"]}]);
    let remote = json!([{"key": "remote.ip", "values": ["1.2.3.4"]}]);
    // Policies, and what they say of a connection of `a` that is HTTP and of one that is not.
    for (policies, http, tcp) in [
        (vec![], true, true),
        (vec![allow(json!({"from": [a]}))], true, true),
        (vec![allow(json!({"from": [b]}))], false, false),
        (vec![allow(json!({"from": [b], "to": get}))], false, false),
        (vec![allow(json!({"from": [a], "to": get}))], true, false),
        (vec![allow(json!({"from": [a], "when": claim}))], true, false),
        (vec![allow(json!({"from": [a], "when": remote}))], true, false),
        (vec![deny(json!({"from": [a]}))], false, false),
        (vec![deny(json!({"from": [b]}))], true, true),
        (vec![deny(json!({"from": [a], "to": get}))], true, false),
        (vec![deny(json!({"from": [a], "when": remote}))], true, true),
        (vec![deny(json!({"from": [a], "when": claim})), allow(json!({"from": [b]}))], false, false),
        (vec![custom("http")], true, true),
        (vec![custom("nobody")], false, false),
    ] {
        let authorizer = compile(&policies);
        let found = |is_http| self::tcp().ask(|connection| authorizer.may_go_on(connection, is_http).is_ok());
        assert_eq!((found(true), found(false)), (http, tcp), "{policies:?}");
    }
}

#[test]
fn a_decision_names_the_rule() {
    let named = |name: &str, policy: Value| {
        let mut policy = policy;
        policy["metadata"] = json!({ "name": name });
        policy
    };
    let allows = json!({ "spec": { "rules": [operation(json!({ "methods": ["PUT"] })), operation(json!({ "methods": ["GET"] }))] } });
    let authorizer = compile(&[named("b", allows.clone()), named("a", allows)]);
    sent().ask(|request| {
        let Verdict::Allow(Allowed::ByRule(rule)) = authorizer.decide(request).verdict else { panic!() };
        assert_eq!((rule.policy.to_string().as_str(), rule.rule), ("AuthorizationPolicy foo/a", 1));
    });
    Sent { method: "POST".into(), ..sent() }.ask(|request| {
        assert_eq!(authorizer.decide(request).verdict, Verdict::Deny(Denied::ByDefault));
    });
    let authorizer = compile(&[named("x", deny(json!({})))]);
    sent().ask(|request| {
        let Verdict::Deny(Denied::ByRule(rule)) = authorizer.decide(request).verdict else { panic!() };
        assert_eq!((rule.policy.name.as_str(), rule.rule), ("x", 0));
    });
}

#[test]
fn an_explanation_has_every_policy_in_the_order_in_which_they_are_asked() {
    let named = |name: &str, mut policy: Value| {
        policy["metadata"]["name"] = json!(name);
        policy
    };
    let dry = |mut policy: Value| {
        policy["metadata"]["annotations"] = json!({ "istio.io/dry-run": "true" });
        policy
    };
    let put = operation(json!({ "methods": ["PUT"] }));
    let authorizer = compile(&[
        named("audit", json!({ "spec": { "action": "AUDIT", "rules": [{}] } })),
        named("allow", json!({ "spec": { "rules": [put.clone(), {}] } })),
        named("deny", deny(put)),
        named("tried", dry(deny(json!({})))),
        named("ask", custom("http")),
    ]);
    sent().ask(|request| {
        let steps: Vec<(&str, Action, bool, Option<usize>)> = authorizer
            .explain(request)
            .into_iter()
            .map(|step| (step.policy.name.as_str(), step.action, step.is_dry_run, step.rule))
            .collect();
        let expected = [
            ("ask", Action::Custom, false, Some(0)),
            ("deny", Action::Deny, false, None),
            ("allow", Action::Allow, false, Some(1)),
            ("tried", Action::Deny, true, Some(0)),
            ("audit", Action::Audit, false, Some(0)),
        ];
        assert_eq!(steps, expected);
    });
}

mod properties {
    use super::*;

    fn some(values: &'static [&'static str]) -> impl Strategy<Value = Vec<&'static str>> {
        prop_oneof![3 => Just(Vec::new()), 2 => prop::collection::vec(prop::sample::select(values), 1..3)]
    }

    const PRINCIPALS: &[&str] =
        &["*", "td1/ns/foo/sa/a", "cluster.local/ns/foo/sa/b", "td2/ns/bar/sa/a", "td*", "*sa/a"];
    const NAMESPACES: &[&str] = &["foo", "ba*", "*o", "*", "f*o"];
    const ACCOUNTS: &[&str] = &["a", "foo/b", "bar/a"];
    const DOMAINS: &[&str] = &["td1", "td*", "*2", "cluster.local"];
    const BLOCKS: &[&str] = &["10.0.0.0/8", "10.0.0.1", "192.0.2.0/25", "::/0", "2001:db8::/33"];
    const REQUEST_PRINCIPALS: &[&str] = &["*", "i/s", "i/*", "*/s", "i/s*", "i*", "*s", "http://i/s"];
    const HOSTS: &[&str] = &["a.com", "A.com:*", "*.com", "*", "a*"];
    const METHODS: &[&str] = &["GET", "P*", "*T", "*"];
    const PATHS: &[&str] = &["/", "/a", "/a*", "*b", "*", "/a/{*}", "/{**}/b", "/{*}/b/{**}"];
    const PORTS: &[&str] = &["80", "8080"];
    const TEXTS: &[&str] = &["x", "x*", "*y", "*", "x,y"];

    fn source_value() -> impl Strategy<Value = Value> {
        let by_name = (some(PRINCIPALS), some(PRINCIPALS), some(NAMESPACES), some(NAMESPACES));
        let by_account = (some(ACCOUNTS), some(ACCOUNTS));
        let rest = (
            some(REQUEST_PRINCIPALS),
            some(REQUEST_PRINCIPALS),
            some(DOMAINS),
            some(BLOCKS),
            some(BLOCKS),
            some(BLOCKS),
        );
        (any::<bool>(), by_name, by_account, rest).prop_map(|(named, by_name, by_account, rest)| {
            let mut source = json!({
                "requestPrincipals": rest.0, "notRequestPrincipals": rest.1, "trustDomains": rest.2, "ipBlocks": rest.3,
                "notIpBlocks": rest.4, "remoteIpBlocks": rest.5, "notTrustDomains": ["never"],
            });
            if named {
                source["principals"] = json!(by_name.0);
                source["notPrincipals"] = json!(by_name.1);
                source["namespaces"] = json!(by_name.2);
                source["notNamespaces"] = json!(by_name.3);
            } else {
                source["serviceAccounts"] = json!(by_account.0);
                source["notServiceAccounts"] = json!(by_account.1);
            }
            json!({ "source": source })
        })
    }

    fn operation_value() -> impl Strategy<Value = Value> {
        let fields = (some(HOSTS), some(HOSTS), some(METHODS), some(METHODS), some(PATHS), some(PATHS), some(PORTS));
        fields.prop_map(|(hosts, not_hosts, methods, not_methods, paths, not_paths, ports)| {
            json!({ "operation": {
                "hosts": hosts, "notHosts": not_hosts, "methods": methods, "notMethods": not_methods, "paths": paths,
                "notPaths": not_paths, "ports": ports, "notPorts": ["1"],
            } })
        })
    }

    fn condition_value() -> impl Strategy<Value = Value> {
        let of = |key: &'static str, values: &'static [&'static str]| {
            (some(values), prop::sample::select(values), any::<bool>()).prop_map(move |(some, one, negates)| {
                let (values, not_values) = if negates { (some, vec![one]) } else { (vec![one], some) };
                json!({ "key": key, "values": values, "notValues": not_values })
            })
        };
        prop_oneof![
            of("source.principal", PRINCIPALS),
            of("source.namespace", NAMESPACES),
            of("source.serviceAccount", ACCOUNTS),
            of("source.ip", BLOCKS),
            of("remote.ip", BLOCKS),
            of("destination.ip", BLOCKS),
            of("destination.port", PORTS),
            of("connection.sni", HOSTS),
            of("request.headers[x-a]", TEXTS),
            of("request.experimental.inline.headers[x-a]", &["x", "x*", "*y", "*"]),
            of("request.headers[:method]", METHODS),
            of("request.auth.principal", REQUEST_PRINCIPALS),
            of("request.auth.claims[l]", TEXTS),
            of("request.auth.claims[n][m]", TEXTS),
            of("request.auth.audiences", TEXTS),
        ]
    }

    fn rule_value() -> impl Strategy<Value = Value> {
        let from = prop::option::weighted(0.5, prop::collection::vec(source_value(), 1..3));
        let to = prop::option::weighted(0.5, prop::collection::vec(operation_value(), 1..3));
        (from, to, prop::collection::vec(condition_value(), 0..2)).prop_map(|(from, to, when)| {
            let mut rule = json!({ "when": when });
            rule.as_object_mut().unwrap().extend(from.map(|from| ("from".to_owned(), json!(from))));
            rule.as_object_mut().unwrap().extend(to.map(|to| ("to".to_owned(), json!(to))));
            rule
        })
    }

    fn policy_value() -> impl Strategy<Value = Value> {
        let action = prop::sample::select(vec!["ALLOW", "ALLOW", "DENY", "DENY", "AUDIT", "CUSTOM"]);
        let rules = prop::collection::vec(rule_value(), 1..3);
        (action, rules, any::<bool>(), 0..10_u8).prop_map(|(action, rules, in_root, dry)| {
            let namespace = if in_root { "istio-system" } else { "foo" };
            let annotations = if dry == 0 { json!({ "istio.io/dry-run": "true" }) } else { json!({}) };
            let mut spec = json!({ "action": action, "rules": rules });
            if action == "CUSTOM" {
                // What a provider can be asked about.
                spec["provider"] = json!({ "name": "grpc" });
                spec["rules"] = json!([{ "to": [{ "operation": { "methods": ["PUT"] } }] }]);
            }
            json!({ "metadata": { "namespace": namespace, "annotations": annotations }, "spec": spec })
        })
    }

    fn request() -> impl Strategy<Value = Sent> {
        let pick = |values: &'static [&'static str]| prop::sample::select(values).prop_map(str::to_owned);
        let peers =
            pick(&["td1/ns/foo/sa/a", "td2/ns/foo/sa/b", "td2/ns/bar/sa/a", "cluster.local/ns/foo/sa/b", "td1/node/n"]);
        let ip = pick(&["10.0.0.1", "10.9.0.1", "192.0.2.1", "192.0.2.200", "2001:db8::1", "2001:db8:8000::1"])
            .prop_map(|ip| ip.parse::<IpAddr>().unwrap());
        let claims = prop::sample::select(vec![
            json!({ "iss": "i", "sub": "s", "l": ["x", "z"], "aud": "x" }),
            json!({ "iss": "http://i", "sub": "s", "n": { "m": "xy" } }),
            json!({ "iss": "i", "aud": ["y"], "l": 5 }),
        ]);
        let connection = (
            prop::option::of(peers),
            ip.clone(),
            ip.clone(),
            prop::option::of(ip),
            prop::sample::select(vec![80, 8080]),
        );
        let http = (
            prop::bool::weighted(0.8),
            pick(&["GET", "PUT", "PATCH", "get"]),
            pick(&["a.com", "A.COM", "a.com:80", "b", ""]),
            pick(&["/", "/a", "/a/b?x", "/x/b", "/a//b", "/x/b/c/d", "/b"]),
            prop::option::of(claims),
        );
        let header = prop::collection::vec(pick(&["x", "xy", "y", ""]), 0..3);
        (connection, http, header, prop::option::of(pick(&["a.com", "b"]))).prop_map(
            |(connection, http, header, sni)| Sent {
                peer: connection.0,
                source_ip: connection.1,
                remote_ip: connection.2,
                destination_ip: connection.3,
                port: connection.4,
                sni,
                is_http: http.0,
                method: http.1,
                host: http.2,
                path: http.3,
                claims: http.4,
                headers: header.into_iter().map(|value| ("x-a", value)).collect(),
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

        #[test]
        fn what_is_compiled_says_what_the_policies_say_in_any_order(
            (policies, shuffled) in prop::collection::vec(policy_value(), 0..4)
                .prop_flat_map(|policies| {
                    let indexed: Vec<usize> = (0..policies.len()).collect();
                    (Just(policies), Just(indexed).prop_shuffle())
                }),
            sent in request(),
        ) {
            let documents = policy_documents(&policies);
            let trust = trust(&["td1", "td2"]);
            let authorizer = compile_in(&documents, &trust);
            let compiled = outcome(&authorizer, &sent);
            prop_assert_eq!(&compiled, &sent.ask(|request| reference::decide(&documents, &trust, request)));
            sent.ask(|request| {
                let is_allowed = match authorizer.decide(request).verdict {
                    Verdict::Ask { .. } => authorizer.decide_after_provider(request).verdict.is_allowed(),
                    verdict => verdict.is_allowed(),
                };
                let connection = AccessRequest { http: None, ..*request };
                let may_go_on = authorizer.may_go_on(&connection, sent.is_http).is_ok();
                prop_assert!(may_go_on || !is_allowed, "what brings an allowed request may go on");
                prop_assert!(sent.is_http || may_go_on == is_allowed);
                Ok(())
            })?;
            let mut documents: Vec<Option<Document>> = documents.into_iter().map(Some).collect();
            let shuffled: Vec<Document> = shuffled.into_iter().map(|index| documents[index].take().unwrap()).collect();
            let again = compile_in(&shuffled, &trust);
            sent.ask(|request| {
                prop_assert_eq!(again.decide(request), authorizer.decide(request));
                Ok(())
            })?;
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn no_value_makes_compiling_or_deciding_panic(
            value in ".{0,12}", other in "[a-z*{}/\\[\\].]{0,12}", path in ".{0,12}", peer in ".{0,12}",
        ) {
            let rules: Vec<Value> = [&value, &other]
                .into_iter()
                .flat_map(|value| {
                    let values = json!([value]);
                    [
                        source(json!({ "principals": values })),
                        source(json!({ "namespaces": values })),
                        source(json!({ "serviceAccounts": values })),
                        source(json!({ "ipBlocks": values })),
                        source(json!({ "requestPrincipals": values })),
                        operation(json!({ "paths": values })),
                        operation(json!({ "ports": values })),
                        condition(&format!("request.auth.claims{value}"), "a"),
                        condition(&format!("request.headers[{value}]"), "a"),
                        condition(value, value),
                    ]
                })
                .collect();
            for rule in rules {
                let text = crate::api::testing::of_kind("AuthorizationPolicy", &json!({ "rules": [rule] }).to_string());
                let namespace = Namespace::default_namespace();
                let Ok(file) = crate::document::parse_yaml(&text, &namespace) else { continue };
                for parsed in &file.documents {
                    let stamp = weft_wire::document::Stamp::default();
                    let document = crate::document::parse_stored(&parsed.key, &parsed.json, stamp).unwrap();
                    let authorizer = compile_in(&[document], &trust(&["td1"]));
                    let sent = Sent { path: path.clone(), peer: Some(peer.clone()), claims: Some(json!({ "a": "b" })), ..sent() };
                    outcome(&authorizer, &sent);
                }
            }
        }
    }
}
