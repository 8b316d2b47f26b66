//! Who is let in: AuthorizationPolicies on a workload each, and the same as filters of Envoy, in the form that Istio's
//! control plane gives them. What is compared is whether a request passes.
//!
//! Envoy's listener has no TLS here. So the caller's principal, which a node knows, is told to Envoy in a header, and
//! what Istio would match on the certificate is matched on it.

use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use serde_json::{Map, Value, json};
use weft_tests::lab::{Lab, PATIENCE, origin, wait_for};

use crate::{
    SHOWN, apply, ask_both, compare,
    envoy::{self, LISTEN_PORT, list, run, text, typed},
    generator::{Form, PORT, Probe},
    seed, words,
};

/// Each is a workload, of which a node may have 300.
const CASES: usize = 200;
/// Where the one process listens that is all workloads.
const TARGET_PORT: u16 = 9_101;
const SERVED_BY: &str = "access";
/// As whom the node calls.
const PRINCIPAL: &str = "cluster.local/ns/default/sa/default";
const X_PEER: &str = "x-peer";
/// Denies all, and is applied last.
const LAST: &str = "access-last";

#[test]
fn weft_lets_in_whom_envoy_lets_in() {
    let seed = seed();
    println!("seed {seed}, {CASES} cases (WEFT_DIFF_SEED={seed} repeats them)");
    let cases: Vec<Case> = (0..CASES).map(|number| Case::new(seed, number)).collect();
    let mut lab = Lab::new(1);
    start_weft(&mut lab, &cases);
    run(&mut lab, &bootstrap(&cases));
    let probes =
        cases.iter().enumerate().flat_map(|(case, it)| it.probes.iter().map(move |probe| (case, probe.clone())));
    let outcomes = ask_both(&lab, probes.collect());

    let status = |answer: &Result<compare::Answer, String>| answer.as_ref().map(|answer| answer.status).ok();
    let of = |wanted: u16| outcomes.iter().filter(|outcome| status(&outcome.envoy) == Some(wanted)).count();
    println!("{} requests, {} allowed, {} denied", outcomes.len(), of(200), of(403));
    let is_same =
        |outcome: &&crate::Outcome| status(&outcome.envoy).is_some() && status(&outcome.envoy) == status(&outcome.weft);
    let different: Vec<_> = outcomes.iter().filter(|outcome| !is_same(outcome)).collect();
    for outcome in different.iter().take(SHOWN) {
        let case = &cases[outcome.case];
        let yaml: Vec<String> =
            case.policies.iter().map(|policy| serde_saphyr::to_string(policy).expect("plain values")).collect();
        println!("--- seed {seed}, {}\n{}{outcome}", case.name, yaml.join("---\n"));
    }
    assert!(different.is_empty(), "{} of {} requests were treated differently", different.len(), outcomes.len());
    // Else the cases do not ask what they are meant to ask.
    let enough = outcomes.len() / 10;
    assert!(of(200) > enough && of(403) > enough, "one verdict is rare");
}

struct Case {
    name: String,
    policies: Vec<Value>,
    probes: Vec<Probe>,
}

const PRINCIPALS: &[&str] = &[
    PRINCIPAL,
    "*",
    "cluster.local/*",
    "*/sa/default",
    "other.example/ns/default/sa/default",
    "*/sa/web",
    "cluster.*",
];
const NAMESPACES: &[&str] = &["default", "def*", "*ult", "prod", "*", "d*t"];
const ACCOUNTS: &[&str] = &["default", "default/default", "prod/default", "web"];
const BLOCKS: &[&str] =
    &["127.0.0.0/8", "127.0.0.1", "10.0.0.0/8", "192.0.2.0/25", "192.0.2.200", "0.0.0.0/0", "2001:db8::/32"];
const METHODS: &[&str] = &["GET", "P*", "*T", "*", "get", "DELETE"];
const PATHS: &[&str] =
    &["/", "/a", "/a*", "*b", "*", "/a/{*}", "/{**}/b", "/{*}/users/{**}", "/A*", "/a/b", "*.png", "/a%20b"];
const TEXTS: &[&str] = &["x", "x*", "*y", "*", "x,y", "X"];
const VALUES: &[&str] = &["x", "xy", "zy", "y", "X", "x,y"];
const X_FORWARDED_FOR: &[&str] = &["192.0.2.1", "10.0.0.1, 192.0.2.200", "2001:db8::1", "10.1.2.3"];

/// What a case's choices are drawn from.
struct Source {
    random: StdRng,
    name: String,
}

impl Source {
    fn pick<T: Clone>(&mut self, all: &[T]) -> T {
        all.choose(&mut self.random).expect("never empty").clone()
    }

    fn chance(&mut self, probability: f64) -> bool {
        self.random.random_bool(probability)
    }

    fn some(&mut self, values: &[&str]) -> Vec<String> {
        (0..self.pick(&[1, 1, 2])).map(|_| self.pick(values).to_owned()).collect()
    }

    /// Puts fields into an object, each of them or its negation or both with this probability.
    fn add(&mut self, into: &mut Map<String, Value>, field: &str, not_field: &str, values: &[&str], probability: f64) {
        if self.chance(probability) {
            into.insert(field.to_owned(), self.some(values).into());
        }
        if self.chance(probability / 2.0) {
            into.insert(not_field.to_owned(), self.some(values).into());
        }
    }

    fn source(&mut self) -> Value {
        let mut source = Map::new();
        if self.chance(0.7) {
            self.add(&mut source, "principals", "notPrincipals", PRINCIPALS, 0.4);
            self.add(&mut source, "namespaces", "notNamespaces", NAMESPACES, 0.4);
        } else {
            self.add(&mut source, "serviceAccounts", "notServiceAccounts", ACCOUNTS, 0.7);
        }
        self.add(&mut source, "ipBlocks", "notIpBlocks", BLOCKS, 0.3);
        self.add(&mut source, "remoteIpBlocks", "notRemoteIpBlocks", BLOCKS, 0.3);
        if source.is_empty() {
            source.insert("ipBlocks".into(), json!(["127.0.0.1"]));
        }
        json!({ "source": source })
    }

    fn operation(&mut self) -> Value {
        let name = self.name.clone();
        let upper = name.to_uppercase();
        let hosts = [&*name, &format!("{name}:*"), "*", "access*", "*.default", &upper, &format!("{name}:{PORT}")]
            .map(str::to_owned);
        let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
        let target = TARGET_PORT.to_string();
        let mut operation = Map::new();
        self.add(&mut operation, "hosts", "notHosts", &hosts, 0.3);
        self.add(&mut operation, "methods", "notMethods", METHODS, 0.4);
        self.add(&mut operation, "paths", "notPaths", PATHS, 0.5);
        self.add(&mut operation, "ports", "notPorts", &[&target, "80", "1"], 0.15);
        if operation.is_empty() {
            operation.insert("methods".into(), json!(["GET"]));
        }
        json!({ "operation": operation })
    }

    fn condition(&mut self) -> Value {
        let target = TARGET_PORT.to_string();
        let ports = [&*target, "80"];
        let (key, values): (&str, &[&str]) = self.pick(&[
            ("source.ip", BLOCKS),
            ("remote.ip", BLOCKS),
            ("destination.ip", BLOCKS),
            ("destination.port", &ports),
            ("source.principal", PRINCIPALS),
            ("source.namespace", NAMESPACES),
            ("request.headers[x-a]", TEXTS),
            ("request.headers[x-b]", TEXTS),
            ("request.headers[:method]", METHODS),
        ]);
        let mut condition = Map::new();
        self.add(&mut condition, "values", "notValues", values, 0.6);
        if condition.is_empty() {
            condition.insert("values".into(), self.some(values).into());
        }
        condition.insert("key".into(), key.into());
        condition.into()
    }

    fn rule(&mut self) -> Value {
        let mut rule = Map::new();
        if self.chance(0.5) {
            rule.insert("from".into(), (0..self.pick(&[1, 1, 2])).map(|_| self.source()).collect());
        }
        if self.chance(0.6) {
            rule.insert("to".into(), (0..self.pick(&[1, 1, 2])).map(|_| self.operation()).collect());
        }
        if self.chance(0.4) {
            rule.insert("when".into(), (0..self.pick(&[1, 1, 2])).map(|_| self.condition()).collect());
        }
        rule.into()
    }

    fn policy(&mut self, number: usize) -> Value {
        let action = self.pick(&["ALLOW", "ALLOW", "DENY"]);
        let rules: Vec<Value> = match self.chance(0.05) && action == "ALLOW" {
            true => Vec::new(),
            false => (0..self.pick(&[1, 1, 2, 3])).map(|_| self.rule()).collect(),
        };
        policy(&format!("{}-{number}", self.name), &self.name, json!({ "action": action, "rules": rules }))
    }

    fn probe(&mut self) -> Probe {
        let name = self.name.clone();
        let hosts =
            [name.clone(), name.clone(), format!("{name}:{PORT}"), name.to_uppercase(), format!("{name}.default")];
        let paths = if self.chance(0.2) { words::UNCLEAN_PATHS } else { words::PATHS };
        let mut headers = vec![(X_PEER.to_owned(), PRINCIPAL.to_owned())];
        for (name, values, probability) in
            [("x-a", VALUES, 0.6), ("x-b", VALUES, 0.3), ("x-forwarded-for", X_FORWARDED_FOR, 0.4)]
        {
            if self.chance(probability) {
                headers.push((name.to_owned(), self.pick(values).to_owned()));
            }
        }
        Probe {
            id: String::new(),
            form: self.pick(&[Form::Origin, Form::Origin, Form::Http2]),
            method: self.pick(words::METHODS).to_owned(),
            host: self.pick(&hosts),
            target: format!("{}{}", self.pick(paths), self.pick(words::QUERIES)),
            headers,
        }
    }
}

fn policy(name: &str, app: &str, mut spec: Value) -> Value {
    spec["selector"] = json!({ "matchLabels": { "app": app } });
    json!({
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": { "name": name },
        "spec": spec,
    })
}

impl Case {
    fn new(seed: u64, number: usize) -> Self {
        // Far apart, so that neighbouring seeds have no case in common; and other ones than those of routes.
        let random = StdRng::seed_from_u64(!seed ^ (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let name = format!("access-{number}");
        let mut source = Source { random, name: name.clone() };
        let policies = (0..source.pick(&[1, 1, 2, 3])).map(|policy| source.policy(policy)).collect();
        let mut probes: Vec<Probe> = (0..8).map(|_| source.probe()).collect();
        for (index, probe) in probes.iter_mut().enumerate() {
            probe.id = format!("{name}.{index}");
        }
        Self { name, policies, probes }
    }
}

/// A node whose workloads are all one process.
fn start_weft(lab: &mut Lab, cases: &[Case]) {
    lab.host(0).init().ok();
    let names = cases.iter().map(|case| case.name.as_str()).chain([LAST]);
    let service = |name: &str| json!({ "name": name, "port": PORT, "targetPort": TARGET_PORT, "protocol": "http" });
    let services: Vec<Value> = names.map(service).collect();
    let listen = format!("127.0.0.1:{TARGET_PORT}");
    lab.host_mut(0).run_beside(origin().as_ref(), &["--listen", &listen, "--name", SERVED_BY]);
    lab.host(0).configure(&format!("\nservices: {}\n", json!(services)));
    lab.host_mut(0).start();
    wait_for("all workloads are healthy", PATIENCE, || {
        let seen = lab.host(0).try_json(&["services"])?;
        let healthy = list(&seen).iter().filter(|service| service["healthy"] == 1).count();
        (healthy == services.len()).then_some(())
    });
    let policies: Vec<Value> = cases.iter().flat_map(|case| case.policies.clone()).collect();
    apply(lab, "policies.yaml", &policies);
    apply(lab, "last.yaml", &[policy("last", LAST, json!({}))]);
    wait_for("all policies are in force", PATIENCE, || (lab.host(0).call(LAST, "/", &[]).status == 403).then_some(()));
}

const DENY_FILTER: &str = "deny";
const ALLOW_FILTER: &str = "allow";
const RBAC: &str = "extensions.filters.http.rbac.v3.RBAC";

/// A virtual host for each case, with its policies in two filters, as Istio has them.
fn bootstrap(cases: &[Case]) -> Value {
    let rbac = |name: &str| json!({ "name": name, "typed_config": typed(RBAC, json!({})) });
    let manager = typed(
        "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        json!({
            "stat_prefix": "access",
            "normalize_path": true,
            "use_remote_address": false,
            "http_filters": [
                rbac(DENY_FILTER),
                rbac(ALLOW_FILTER),
                { "name": "router", "typed_config": typed("extensions.filters.http.router.v3.Router", json!({})) },
            ],
            "route_config": {
                "name": "access",
                "ignore_port_in_host_matching": true,
                "virtual_hosts": cases.iter().map(virtual_host).collect::<Vec<_>>(),
            },
        }),
    );
    envoy::with_listener(&manager, vec![envoy::cluster_at(SERVED_BY, TARGET_PORT)])
}

fn virtual_host(case: &Case) -> Value {
    let of = |action: &str| {
        let policies = case.policies.iter().filter(|policy| policy["spec"]["action"] == action);
        policies.collect::<Vec<_>>()
    };
    let mut filters = Map::new();
    for (filter, action) in [(DENY_FILTER, "DENY"), (ALLOW_FILTER, "ALLOW")] {
        let policies = of(action);
        if policies.is_empty() {
            continue;
        }
        let rules = policies.iter().flat_map(|policy| {
            let rules = list(&policy["spec"]["rules"]).iter().enumerate();
            rules.map(|(place, rule)| (format!("{}-{place}", text(&policy["metadata"]["name"])), rbac_policy(rule)))
        });
        let rules = json!({ "action": action, "policies": rules.collect::<Map<String, Value>>() });
        let config = json!({ "rbac": { "rules": rules } });
        filters.insert(filter.into(), typed("extensions.filters.http.rbac.v3.RBACPerRoute", config));
    }
    json!({
        "name": case.name,
        "domains": [case.name, format!("{}.default", case.name)],
        "routes": [{
            "match": { "prefix": "/" },
            "route": { "cluster": SERVED_BY },
            "typed_per_filter_config": filters,
        }],
    })
}

/// A rule is a policy of Envoy's: one of its permissions and one of its principals.
fn rbac_policy(rule: &Value) -> Value {
    let when = list(&rule["when"]);
    let is_of_destination = |condition: &&Value| text(&condition["key"]).starts_with("destination.");
    let conditions = |of_destination: bool| -> Vec<Value> {
        let conditions = when.iter().filter(|condition| is_of_destination(condition) == of_destination);
        conditions
            .flat_map(|one| both(&one["values"], &one["notValues"], |value| test(text(&one["key"]), value)))
            .collect()
    };
    let permission = |operation: &Value| {
        let mut all: Vec<Value> = Vec::new();
        for (field, not_field, key) in [
            ("hosts", "notHosts", "host"),
            ("methods", "notMethods", "request.headers[:method]"),
            ("paths", "notPaths", "path"),
            ("ports", "notPorts", "destination.port"),
        ] {
            all.extend(both(&operation[field], &operation[not_field], |value| test(key, value)));
        }
        rules("and_rules", "rules", [all, conditions(true)].concat())
    };
    let principal = |source: &Value| {
        let mut all: Vec<Value> = Vec::new();
        for (field, not_field, key) in [
            ("principals", "notPrincipals", "source.principal"),
            ("namespaces", "notNamespaces", "source.namespace"),
            ("serviceAccounts", "notServiceAccounts", "account"),
            ("ipBlocks", "notIpBlocks", "source.ip"),
            ("remoteIpBlocks", "notRemoteIpBlocks", "remote.ip"),
        ] {
            all.extend(both(&source[field], &source[not_field], |value| test(key, value)));
        }
        rules("and_ids", "ids", ids([all, conditions(false)].concat()))
    };
    let each = |list: &[Value], field: &str, of: &dyn Fn(&Value) -> Value| match list {
        [] => vec![of(&Value::Null)],
        several => several.iter().map(|one| of(&one[field])).collect(),
    };
    json!({
        "permissions": each(list(&rule["to"]), "operation", &permission),
        "principals": each(list(&rule["from"]), "source", &principal),
    })
}

/// One of some values, and none of others: in the words of permissions.
fn both(values: &Value, not_values: &Value, test: impl Fn(&str) -> Value) -> Vec<Value> {
    let any = |values: &[Value]| rules("or_rules", "rules", values.iter().map(|value| test(text(value))).collect());
    let mut all = Vec::new();
    if let some @ [_, ..] = list(values) {
        all.push(any(some));
    }
    if let some @ [_, ..] = list(not_values) {
        all.push(json!({ "not_rule": any(some) }));
    }
    all
}

fn rules(kind: &str, inside: &str, all: Vec<Value>) -> Value {
    if all.is_empty() { json!({ "any": true }) } else { json!({ kind: { inside: all } }) }
}

/// The same in the words of principals.
fn ids(rules: Vec<Value>) -> Vec<Value> {
    let mut text = Value::from(rules).to_string();
    for (rule, id) in [("\"or_rules\":{\"rules\"", "\"or_ids\":{\"ids\""), ("\"not_rule\"", "\"not_id\"")] {
        text = text.replace(rule, id);
    }
    serde_json::from_str(&text).expect("still JSON")
}

fn test(key: &str, value: &str) -> Value {
    let cidr = || {
        let whole = if value.contains(':') { 128 } else { 32 };
        let (address, len) = value.split_once('/').unwrap_or((value, ""));
        json!({ "address_prefix": address, "prefix_len": len.parse().unwrap_or(whole) })
    };
    let header = |name: &str, string_match: Value| json!({ "header": { "name": name, "string_match": string_match } });
    match key {
        "source.ip" => json!({ "direct_remote_ip": cidr() }),
        "remote.ip" => json!({ "remote_ip": cidr() }),
        "destination.ip" => json!({ "destination_ip": cidr() }),
        "destination.port" => {
            let port: u16 = value.parse().expect("a port");
            json!({ "destination_port": if port == TARGET_PORT { LISTEN_PORT } else { port } })
        }
        "source.principal" => header(X_PEER, string_match(value)),
        "source.namespace" => {
            header(X_PEER, json!({ "safe_regex": { "regex": format!(".*/ns/{}/.*", value.replace('*', ".*")) } }))
        }
        "account" => {
            let (namespace, account) = value.split_once('/').unwrap_or(("default", value));
            header(X_PEER, json!({ "suffix": format!("/ns/{namespace}/sa/{account}") }))
        }
        "host" => {
            let mut host = string_match(value);
            if host.get("safe_regex").is_none() {
                host["ignore_case"] = true.into();
            }
            header(":authority", host)
        }
        "path" if value.contains('{') => {
            let template = value.replace("{**}", "**").replace("{*}", "*");
            let config = typed(
                "extensions.path.match.uri_template.v3.UriTemplateMatchConfig",
                json!({ "path_template": template }),
            );
            json!({ "uri_template": { "name": "uri-template", "typed_config": config } })
        }
        "path" => json!({ "url_path": { "path": string_match(value) } }),
        key => {
            let name = key.strip_prefix("request.headers[").and_then(|rest| rest.strip_suffix(']'));
            let name = name.expect("a key that cases have");
            match value {
                "*" => json!({ "header": { "name": name, "present_match": true } }),
                value => header(name, string_match(value)),
            }
        }
    }
}

fn string_match(value: &str) -> Value {
    if value == "*" {
        json!({ "safe_regex": { "regex": ".+" } })
    } else if let Some(suffix) = value.strip_prefix('*') {
        json!({ "suffix": suffix })
    } else if let Some(prefix) = value.strip_suffix('*') {
        json!({ "prefix": prefix })
    } else {
        json!({ "exact": value })
    }
}
