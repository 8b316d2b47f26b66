use super::{document, networking, pod, security, telemetry, told};

#[test]
fn sidecars_and_telemetries_must_not_share_a_workload() {
    let by_app = |kind: &str, name: &str, labels: &str| match kind {
        "Sidecar" => networking(kind, name, &format!("{{workloadSelector: {{labels: {labels}}}}}")),
        _ => telemetry(name, &format!("{{selector: {{matchLabels: {labels}}}}}")),
    };
    for (kind, code) in [("Sidecar", "IST0110"), ("Telemetry", "IST0159")] {
        let pods = pod("p", "{app: a, version: v1}");
        let both = |b: &str| told(code, &[pods.clone(), by_app(kind, "a", "{app: a}"), by_app(kind, "b", b)]);
        assert_eq!(both("{version: v1}").len(), 2, "{kind}");
        assert_eq!(both("{version: v2}").len(), 0, "{kind}");
        let missing = told("IST0101", &[pods, by_app(kind, "a", "{app: nobody}")]);
        assert_eq!(missing, [format!("{kind} default/a")]);
    }
}

#[test]
fn one_sidecar_or_telemetry_may_be_for_a_whole_namespace() {
    let sidecar = |name: &str| networking("Sidecar", name, "{egress: [{hosts: ['./*']}]}");
    assert_eq!(told("IST0111", &[sidecar("a"), sidecar("b")]).len(), 2);
    let other = document("networking.istio.io/v1", "Sidecar", "other", "b", "{egress: [{hosts: ['./*']}]}");
    assert!(told("IST0111", &[sidecar("a"), other]).is_empty());

    assert_eq!(told("IST0160", &[telemetry("a", "{}"), telemetry("b", "{}")]).len(), 2);
    assert!(told("IST0160", &[telemetry("a", "{}")]).is_empty());
}

#[test]
fn a_sidecar_has_no_effect_where_there_are_no_proxies() {
    let namespace =
        |labels: &str| format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: default, labels: {labels}}}\n---\n");
    let sidecar = networking("Sidecar", "a", "{}");
    let with = |labels: &str| told("IST0167", &[namespace(labels), sidecar.clone()]);
    assert_eq!(with("{istio.io/dataplane-mode: ambient}"), ["Sidecar default/a"]);
    assert!(with("{istio.io/dataplane-mode: ambient, istio-injection: enabled}").is_empty());
    assert!(with("{}").is_empty());
}

#[test]
fn an_authorization_policy_must_be_for_a_workload() {
    let policy =
        |namespace: &str, spec: &str| document("security.istio.io/v1", "AuthorizationPolicy", namespace, "a", spec);
    let told_of =
        |namespace: &str, spec: &str| !told("IST0127", &[pod("p", "{app: a}"), policy(namespace, spec)]).is_empty();
    assert!(!told_of("default", "{}"));
    assert!(told_of("empty", "{}"));
    assert!(!told_of("istio-system", "{}"));
    assert!(!told_of("default", "{selector: {matchLabels: {app: a}}}"));
    assert!(told_of("default", "{selector: {matchLabels: {app: b}}}"));
    assert!(!told_of("istio-system", "{selector: {matchLabels: {app: a}}}"));
    assert!(told_of("istio-system", "{selector: {matchLabels: {app: b}}}"));
}

#[test]
fn namespaces_that_a_policy_names_must_be_there() {
    let told_of = |field: &str, name: &str| {
        let spec = format!("{{rules: [{{from: [{{source: {{{field}: ['{name}']}}}}]}}]}}");
        let there = "apiVersion: v1\nkind: Namespace\nmetadata: {name: prod-web}\n---\n".to_owned();
        !told("IST0101", &[there, pod("p", "{}"), security("AuthorizationPolicy", "a", &spec)]).is_empty()
    };
    for field in ["namespaces", "notNamespaces"] {
        for (name, is_there) in [
            ("prod-web", true),
            ("prod-*", true),
            ("*-web", true),
            ("*", true),
            ("default", true),
            ("bogus", false),
            ("*-bogus", false),
            ("bogus-*", false),
        ] {
            assert_eq!(!told_of(field, name), is_there, "{field} {name}");
        }
    }
}

#[test]
fn a_selector_does_not_reach_a_gateway_of_the_gateway_api() {
    let selector = "selector: {matchLabels: {gateway.networking.k8s.io/gateway-name: g}}";
    let pods = pod("g-istio-1", "{gateway.networking.k8s.io/gateway-name: g}");
    for kind in ["AuthorizationPolicy", "RequestAuthentication"] {
        assert_eq!(
            told("IST0166", &[pods.clone(), security(kind, "a", &format!("{{{selector}}}"))]).len(),
            1,
            "{kind}"
        );
    }
    assert_eq!(told("IST0166", &[pods.clone(), telemetry("a", &format!("{{{selector}}}"))]).len(), 1);
    let targeted = "{targetRef: {group: gateway.networking.k8s.io, kind: Gateway, name: g}}";
    assert!(told("IST0166", &[pods, telemetry("a", targeted)]).is_empty());
    assert!(told("IST0166", &[pod("p", "{}"), telemetry("a", &format!("{{{selector}}}"))]).is_empty());
}
