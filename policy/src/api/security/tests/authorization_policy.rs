use crate::api::testing::{check_refused, check_taken, documents, of_kind, parse, warnings};

const KIND: &str = "AuthorizationPolicy";

/// A policy with one source, operation or condition.
fn with_source(source: &str) -> String {
    format!("{{rules: [{{from: [{{source: {source}}}]}}]}}")
}

fn with_operation(operation: &str) -> String {
    format!("{{rules: [{{to: [{{operation: {operation}}}]}}]}}")
}

fn with_condition(condition: &str) -> String {
    format!("{{rules: [{{when: [{condition}]}}]}}")
}

fn check_all(wrap: fn(&str) -> String, taken: &[&str], refused: &[(&str, &str)]) {
    let taken: Vec<String> = taken.iter().map(|inner| wrap(inner)).collect();
    check_taken(KIND, &taken.iter().map(String::as_str).collect::<Vec<_>>());
    let refused: Vec<(String, &str)> = refused.iter().map(|(inner, words)| (wrap(inner), *words)).collect();
    check_refused(KIND, &refused.iter().map(|(spec, words)| (spec.as_str(), *words)).collect::<Vec<_>>());
}

#[test]
fn all_served_versions_are_read_and_the_spec_may_be_absent() {
    for version in ["v1", "v1beta1"] {
        documents(&format!("{{apiVersion: security.istio.io/{version}, kind: {KIND}, metadata: {{name: a}}}}"));
    }
    check_taken(
        KIND,
        &["{}", "null", "{rules: []}", "{rules: [{}]}", "{action: DENY, rules: [{}]}", "{action: AUDIT}"],
    );
}

#[test]
fn every_field_is_read() {
    check_taken(
        KIND,
        &[r#"{selector: {matchLabels: {app: a}}, action: ALLOW, rules: [{
            from: [{source: {principals: [p, "p*", "*p", "*"], requestPrincipals: ["i/s", "*"], namespaces: [ns, "ns*", "*ns", "*"],
                ipBlocks: ["1.2.3.4", "5.6.0.0/16", "2001:db8::/32", "::1"], remoteIpBlocks: ["1.2.3.4"], trustDomains: ["td", "td*"],
                notPrincipals: [p], notRequestPrincipals: ["*"], notNamespaces: [ns], notIpBlocks: ["9.0.0.1"],
                notRemoteIpBlocks: ["9.2.0.0/16"], notTrustDomains: [td]}},
              {source: {serviceAccounts: [sa, ns/sa], notServiceAccounts: [other]}}],
            to: [{operation: {methods: [GET, "P*"], hosts: [exact.com, "*.suffix.com", "prefix.*", "*", "h:*"], ports: ["80", "0", "65535"],
                paths: [/exact, "/prefix/*", "*/suffix", "*", "/path/{*}", "/{**}/path"], notMethods: [PUT], notHosts: [a.com],
                notPorts: ["9000"], notPaths: ["/not/{*}"]}}],
            when: [{key: "request.headers[X-header]", values: [a], notValues: ["b*"]}]}]}"#],
    );
}

#[test]
fn d_valid_actions_custom_needs_provider_and_rules() {
    check_taken(KIND, &["{action: CUSTOM, provider: {name: p}, rules: [{}]}"]);
    check_refused(
        KIND,
        &[
            ("{action: CUSTOM, rules: [{}]}", "spec.provider: must name a provider"),
            ("{action: CUSTOM, provider: {name: ''}, rules: [{}]}", "spec.provider: must name a provider"),
            ("{action: CUSTOM, provider: {name: p}}", "spec.rules: must be given with action CUSTOM"),
            ("{action: CUSTOM, provider: {name: p}, rules: []}", "spec.rules: must be given"),
            ("{action: DENY, provider: {name: p}, rules: [{}]}", "with action CUSTOM only"),
            ("{provider: {name: p}}", "with action CUSTOM only"),
            ("{action: LOG}", "it must be one of ALLOW, DENY, AUDIT, CUSTOM"),
            ("{action: allow}", "it must be one of"),
        ],
    );
}

#[test]
fn d_valid_custom_knows_no_peer_and_no_token() {
    let custom = |inner: &str| format!("{{action: CUSTOM, provider: {{name: p}}, rules: [{inner}]}}");
    for field in [
        "principals",
        "notPrincipals",
        "requestPrincipals",
        "notRequestPrincipals",
        "namespaces",
        "notNamespaces",
        "serviceAccounts",
        "notServiceAccounts",
    ] {
        let spec = custom(&format!("{{from: [{{source: {{{field}: [a]}}}}]}}"));
        check_refused(KIND, &[(&spec, "cannot be used with action CUSTOM")]);
    }
    for key in [
        "source.namespace",
        "source.principal",
        "source.serviceAccount",
        "request.auth.principal",
        "request.auth.audiences",
        "request.auth.presenter",
        "request.auth.claims[a]",
    ] {
        let spec = custom(&format!("{{when: [{{key: '{key}', values: [a]}}]}}"));
        check_refused(KIND, &[(&spec, "cannot be used with action CUSTOM")]);
    }
    check_taken(
        KIND,
        &[&custom("{from: [{source: {ipBlocks: [1.1.1.1]}}], when: [{key: source.ip, values: [1.1.1.1]}]}")],
    );
}

#[test]
fn d_valid_deny_without_rules_is_refused() {
    check_refused(
        KIND,
        &[
            ("{action: DENY}", "spec.rules: must be given with action DENY"),
            ("{action: DENY, rules: []}", "spec.rules: must be given with action DENY"),
        ],
    );
}

#[test]
fn d_valid_empty_from_to_source_and_operation_are_refused() {
    check_refused(
        KIND,
        &[
            ("{rules: [{from: []}]}", "spec.rules[0].from: has 0 items; 1 are the least"),
            ("{rules: [{to: []}]}", "spec.rules[0].to: has 0 items; 1 are the least"),
            ("{rules: [{from: [{}]}]}", "spec.rules[0].from[0].source is missing"),
            ("{rules: [{to: [{}]}]}", "spec.rules[0].to[0].operation is missing"),
            ("{rules: [{from: [{source: {}}]}]}", "spec.rules[0].from[0].source: must not be empty"),
            ("{rules: [{from: [{source: {principals: []}}]}]}", "source: must not be empty"),
            ("{rules: [{to: [{operation: {}}]}]}", "spec.rules[0].to[0].operation: must not be empty"),
            ("{rules: [null]}", "spec.rules[0]: is nothing"),
            ("{rules: [{from: [null]}]}", "spec.rules[0].from[0]: is nothing"),
            ("{rules: [{when: [null]}]}", "spec.rules[0].when[0]: is nothing"),
        ],
    );
}

#[test]
fn d_valid_values_of_sources() {
    check_all(
        with_source,
        &["{ipBlocks: [10.0.0.1/8]}", "{serviceAccounts: [a.b, ns/a.b]}"],
        &[
            ("{principals: ['']}", "source.principals[0]: must not be empty"),
            ("{requestPrincipals: [a, '']}", "source.requestPrincipals[1]: must not be empty"),
            ("{namespaces: ['']}", "must not be empty"),
            ("{notNamespaces: ['']}", "source.notNamespaces[0]: must not be empty"),
            ("{trustDomains: ['']}", "must not be empty"),
            ("{ipBlocks: ['']}", "must not be empty"),
            ("{ipBlocks: [1.2.3]}", "is not an address or a range"),
            ("{ipBlocks: [1.2.3.4/33]}", "is not an address or a range"),
            ("{notIpBlocks: [host]}", "notIpBlocks[0]: \"host\" is not an address"),
            ("{remoteIpBlocks: [a/8]}", "is not an address or a range"),
            ("{notRemoteIpBlocks: [1.2.3.4.5]}", "is not an address or a range"),
            ("{serviceAccounts: ['*']}", "is not ACCOUNT or NAMESPACE/ACCOUNT"),
            ("{serviceAccounts: [a/b/c]}", "is not ACCOUNT or NAMESPACE/ACCOUNT"),
            ("{notServiceAccounts: [/a]}", "is not ACCOUNT or NAMESPACE/ACCOUNT"),
            ("{serviceAccounts: [a], namespaces: [b]}", "cannot be used beside principals or namespaces"),
            ("{serviceAccounts: [a], principals: [b]}", "cannot be used beside"),
            ("{serviceAccounts: [a], notPrincipals: [b]}", "cannot be used beside"),
            ("{notServiceAccounts: [a], notNamespaces: [b]}", "cannot be used beside"),
            ("{serviceAccounts: [a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a]}", "has 17 items; 16 are the most"),
            ("{users: [a]}", "is not a field that weft knows"),
            ("{principals: a}", "is the text \"a\"; it must be"),
            ("{principals: [1]}", "is the number 1; it must be"),
        ],
    );
    check_refused(KIND, &[(&with_source(&format!("{{serviceAccounts: [{}]}}", "a".repeat(321))), "320 are the most")]);
}

#[test]
fn d_valid_values_of_operations() {
    check_all(
        with_operation,
        &["{paths: ['/a/{*}/b', '/{**}', '/a/{*}/{**}', '/plain*', '*', '/a/*/b']}"],
        &[
            ("{ports: ['']}", "operation.ports[0]: must not be empty"),
            ("{ports: [http]}", "is not a port: 0 to 65535"),
            ("{ports: ['65536']}", "is not a port"),
            ("{ports: ['+1']}", "is not a port"),
            ("{notPorts: ['-1']}", "operation.notPorts[0]: \"-1\" is not a port"),
            ("{ports: [80]}", "is the number 80; it must be"),
            ("{methods: ['']}", "must not be empty"),
            ("{hosts: ['']}", "must not be empty"),
            ("{notHosts: ['']}", "must not be empty"),
            ("{paths: ['']}", "must not be empty"),
            ("{paths: ['/{**}/a/{*}']}", "has a placeholder after {**}"),
            ("{paths: ['/{name}']}", "is neither {*}, {**} nor plain text"),
            ("{paths: ['/a{*}']}", "is neither {*}, {**} nor plain text"),
            ("{paths: ['/{name}/{*}']}", "is neither {*}, {**} nor plain text"),
            ("{notPaths: ['/*/{*}']}", "is neither {*}, {**} nor plain text"),
        ],
    );
}

#[test]
fn d_valid_conditions_have_a_known_key_and_a_value() {
    let one = |key: &str, value: &str| format!("{{key: '{key}', values: ['{value}']}}");
    let known = [
        one("source.ip", "10.0.0.0/8"),
        one("remote.ip", "::1"),
        one("source.namespace", "a*"),
        one("source.principal", "*"),
        one("source.serviceAccount", "ns/a"),
        one("request.auth.principal", "a/b"),
        one("request.auth.audiences", "a"),
        one("request.auth.presenter", "a"),
        one("request.auth.claims[iss]", "a"),
        one("request.auth.claims[a.b][c/d]", "a"),
        one("destination.ip", "10.0.0.1"),
        one("destination.port", "80"),
        one("connection.sni", "*.a.com"),
        one("experimental.envoy.filters.a.b[c]", "a"),
        one("request.headers[:authority]", "a"),
        one("request.experimental.inline.headers[:authority]", "a"),
        "{key: source.ip, notValues: [1.1.1.1]}".to_owned(),
    ];
    let known: Vec<&str> = known.iter().map(String::as_str).collect();
    check_all(
        with_condition,
        &known,
        &[
            ("{values: [a]}", "when[0].key is missing"),
            ("{key: '', values: [a]}", "is not an attribute"),
            ("{key: source.ip}", "needs at least one of values and notValues"),
            ("{key: source.ip, values: [], notValues: []}", "needs at least one of"),
            ("{key: source.name, values: [a]}", "\"source.name\" is not an attribute"),
            ("{key: destination.namespace, values: [a]}", "is not an attribute"),
            ("{key: 'destination.labels[a]', values: [a]}", "is not an attribute"),
            ("{key: destination.user, values: [a]}", "is not an attribute"),
            ("{key: request.headers, values: [a]}", "is not an attribute"),
            ("{key: 'request.headers[]', values: [a]}", "is not an attribute"),
            ("{key: 'request.experimental.inline.headers[]', values: [a]}", "is not an attribute"),
            ("{key: 'request.headers[a', values: [a]}", "is not an attribute"),
            ("{key: 'request.headers[a b]', values: [a]}", "is not a header's name"),
            ("{key: 'request.auth.claims', values: [a]}", "is not an attribute"),
            ("{key: 'request.auth.claims[a][]', values: [a]}", "must look like request.auth.claims[NAME][NAME]"),
            ("{key: 'experimental.envoy.filters.a', values: [a]}", "is not an attribute"),
            ("{key: source.ip, values: [a]}", "values[0]: \"a\" is not an address"),
            ("{key: destination.port, notValues: ['70000']}", "notValues[0]: \"70000\" is not a port"),
            ("{key: source.principal, values: ['']}", "must not be empty"),
        ],
    );
}

#[test]
fn d_valid_only_one_of_selector_target_ref_and_target_refs() {
    let target = "{kind: Service, name: b}";
    check_taken(
        KIND,
        &[
            "{targetRef: {kind: Service, name: b}}",
            "{targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: b}]}",
            "{targetRefs: [{group: gateway.networking.k8s.io, kind: GatewayClass, name: istio-waypoint}]}",
            "{targetRefs: [{group: networking.istio.io, kind: ServiceEntry, name: b}]}",
        ],
    );
    for (spec, words) in [
        (format!("{{selector: {{}}, targetRef: {target}}}"), "only one of selector, targetRef may be given"),
        (format!("{{selector: {{}}, targetRefs: [{target}]}}"), "only one of selector, targetRefs may be given"),
        (format!("{{targetRef: {target}, targetRefs: [{target}]}}"), "only one of targetRef, targetRefs may be given"),
    ] {
        check_refused(KIND, &[(&spec, words)]);
    }
    check_refused(
        KIND,
        &[
            ("{targetRef: {kind: Service}}", "spec.targetRef.name is missing"),
            ("{targetRef: {kind: Service, name: ''}}", "name: must not be empty"),
            ("{targetRef: {name: a}}", "spec.targetRef.kind is missing"),
            ("{targetRef: {kind: Service, name: a, namespace: b}}", "namespace: must be left out"),
            ("{targetRef: {group: x, kind: Service, name: a}}", "is not a kind to attach a policy to"),
            ("{targetRef: {group: __, kind: Service, name: a}}", "is not a kind to attach a policy to"),
            ("{targetRef: {kind: Serv_ice, name: a}}", "is not a kind to attach a policy to"),
            ("{targetRef: {kind: Gateway, name: a}}", "is not a kind to attach a policy to"),
            ("{selector: {matchLabels: {'*': a}}}", "is not a label's name"),
            ("{selector: {matchLabels: {a: 'b*'}}}", "is not a label's value"),
            ("{selector: {matchLabels: {'': b}}}", "is not a label's name"),
            ("{selector: {app: a}}", "is not a field that weft knows"),
        ],
    );
}

#[test]
fn d_valid_deny_by_http_alone_is_warned_of() {
    const WORDS: &str = "will deny all traffic to TCP ports";
    let warned = |spec: &str| warnings(KIND, spec).iter().any(|text| text.contains(WORDS));
    for rule in [
        "{to: [{operation: {methods: [GET]}}]}",
        "{to: [{operation: {paths: [/a], hosts: [b]}}]}",
        "{from: [{source: {requestPrincipals: ['*']}}]}",
        "{from: [{source: {namespaces: [a]}}], to: [{operation: {paths: [/a]}}]}",
    ] {
        assert!(warned(&format!("{{action: DENY, rules: [{rule}]}}")), "{rule}");
        assert!(!warned(&format!("{{action: ALLOW, rules: [{rule}]}}")), "{rule}");
    }
    for rule in [
        "{to: [{operation: {methods: [GET], ports: ['80']}}]}",
        "{to: [{operation: {paths: [/a], notPorts: ['80']}}]}",
        "{from: [{source: {requestPrincipals: ['*'], namespaces: [a]}}]}",
        "{from: [{source: {requestPrincipals: ['*']}}], to: [{operation: {ports: ['80']}}]}",
        "{}",
    ] {
        assert!(!warned(&format!("{{action: DENY, rules: [{rule}]}}")), "{rule}");
    }
}

#[test]
fn a_selector_without_labels_and_an_unclear_dry_run_are_warned_of() {
    assert!(warnings(KIND, "{selector: {}}")[0].contains("has no labels"));
    let text = of_kind(KIND, "{}").replace("namespace: foo", "annotations: {istio.io/dry-run: 'maybe'}");
    assert!(parse(&text).notices.iter().any(|notice| notice.text.contains("is neither true nor false")));
    assert!(parse(&text.replace("maybe", "true")).notices.is_empty());
}

#[test]
fn list_lengths_are_bounded() {
    let rules = vec!["{}"; 513].join(",");
    check_refused(KIND, &[(&format!("{{rules: [{rules}]}}"), "has 513 items; 512 are the most")]);
    let targets = vec!["{kind: Service, name: a}"; 17].join(",");
    check_refused(KIND, &[(&format!("{{targetRefs: [{targets}]}}"), "has 17 items; 16 are the most")]);
}
