use weft_wire::{
    document::{DocumentKey, Stamp},
    id::Revoked,
};

use super::*;
use crate::document::{ParsedFile, Spec, assert_fits_its_schema, parse_stored, parse_yaml};

fn read_named(kind: &str, namespace: &str, name: &str, spec: &str) -> ParsedFile {
    let text = format!(
        "apiVersion: weft.mesh/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n"
    );
    parse_yaml(&text, &"default".parse().unwrap()).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

fn read(kind: &str, spec: &str) -> ParsedFile {
    if kind == "Revocation" {
        let text = format!("apiVersion: weft.mesh/v1alpha1\nkind: {kind}\nmetadata: {{name: a}}\nspec: {spec}\n");
        return parse_yaml(&text, &"default".parse().unwrap()).unwrap();
    }
    let (namespace, name) = if kind == "MeshConfig" { (ROOT_NAMESPACE, MESH_CONFIG_NAME) } else { ("default", "a") };
    read_named(kind, namespace, name, spec)
}

fn accepted(kind: &str, spec: &str) -> Spec {
    let file = read(kind, spec);
    assert!(file.errors.is_empty(), "{kind} {spec}\n{:?}", file.errors);
    let document = &file.documents[0];
    assert_fits_its_schema(document);
    parse_stored(&document.key, &document.json, Default::default()).unwrap().spec
}

/// Asserts that a document is refused for one reason, by path and words.
fn refused(kind: &str, spec: &str, path: &str, words: &str) {
    let file = read(kind, spec);
    let errors: Vec<String> = file.errors.iter().map(|error| format!("{}: {}", error.path, error.problem)).collect();
    let is_right = errors.len() == 1 && errors[0].starts_with(&format!("{path}: ")) && errors[0].contains(words);
    assert!(is_right, "wanted {path}: …{words}…, got {errors:?}\n{spec}");
}

const SERVICE_TARGET: &str = "targetRefs: [{group: '', kind: Service, name: reviews}]";

#[test]
fn a_mesh_config_is_default_in_the_root_namespace() {
    assert!(read("MeshConfig", "{}").errors.is_empty());
    for (namespace, name) in [("default", "default"), ("istio-system", "mesh")] {
        let errors = read_named("MeshConfig", namespace, name, "{}").errors;
        assert!(errors[0].to_string().contains("there is one MeshConfig: default in the namespace istio-system"));
    }
}

#[test]
fn an_empty_mesh_config_means_what_istio_does_without_configuration() {
    let Spec::MeshConfig(config) = accepted("MeshConfig", "{}") else { panic!() };
    assert_eq!(config.outbound_traffic_policy.mode, None);
    assert_eq!(config.access_log, None);
    assert_eq!(config.path_normalization.normalization, PathNormalizationType::Default);
    assert!((config.sampling_percent() - 1.0).abs() < f64::EPSILON);
    assert!(!config.appends_shadow_suffix());
    let Spec::MeshConfig(config) = accepted("MeshConfig", "{disableShadowHostSuffix: false}") else { panic!() };
    assert!(config.appends_shadow_suffix());
}

#[test]
fn fields_of_a_mesh_config_are_checked() {
    for (spec, path, words) in [
        ("{trustDomainAliases: [a.b, a.b]}", "spec.trustDomainAliases[1]", "a.b is given twice"),
        ("{trustDomainAliases: [A]}", "spec.trustDomainAliases[0]", "a DNS name"),
        ("{outboundTrafficPolicy: {mode: DENY}}", "spec.outboundTrafficPolicy.mode", "one of ALLOW_ANY, REGISTRY_ONLY"),
        (
            "{defaultHttpRetryPolicy: {attempts: 1, retryOn: foo}}",
            "spec.defaultHttpRetryPolicy.retryOn",
            "neither a status code",
        ),
        ("{tracing: {sampling: 101}}", "spec.tracing.sampling", "from 0.0001 to 100"),
        ("{accessLog: {encoding: XML}}", "spec.accessLog.encoding", "one of OFF, TEXT, JSON"),
        ("{accessLog: {format: a}}", "spec.accessLog.format", "has no effect with the encoding OFF"),
        ("{accessLog: {encoding: TEXT, format: ''}}", "spec.accessLog.format", "has 0 characters"),
        ("{accessLog: {encoding: JSON, format: a}}", "spec.accessLog.format", "must be a JSON object"),
        ("{accessLog: {encoding: JSON, format: '[1]'}}", "spec.accessLog.format", "must be a JSON object"),
        ("{accessLog: {encoding: TEXT, format: '%NO%'}}", "spec.accessLog.format", "%NO% is not a variable of Envoy's"),
        ("{accessLog: {encoding: JSON, format: '{\"a\": \"%NO%\"}'}}", "spec.accessLog.format", "a: %NO% is not"),
        (
            "{extensionProviders: [{name: a, envoyFileAccessLog: {path: a}}]}",
            "spec.extensionProviders[0].envoyFileAccessLog.path",
            "absolute path",
        ),
        (
            "{extensionProviders: [{name: a, envoyFileAccessLog: {path: /a/../b}}]}",
            "spec.extensionProviders[0].envoyFileAccessLog.path",
            "without ..",
        ),
        (
            "{extensionProviders: [{name: a, envoyFileAccessLog: {path: /a, logFormat: {text: '%METADATA(ROUTE:a)%'}}}]}",
            "spec.extensionProviders[0].envoyFileAccessLog.logFormat.text",
            "%METADATA(ROUTE:a)% is of Envoy's and nothing that weft knows",
        ),
        (
            "{extensionProviders: [{name: a, envoyFileAccessLog: {path: /a, logFormat: {labels: {a: {b: '%NO%'}}}}}]}",
            "spec.extensionProviders[0].envoyFileAccessLog.logFormat.labels",
            "b: %NO% is not",
        ),
        (
            "{extensionProviders: [{name: a, envoyOtelAls: {service: otel}}]}",
            "spec.extensionProviders[0].envoyOtelAls.port",
            "missing",
        ),
        (
            "{extensionProviders: [{name: a, opentelemetry: {service: otel, port: 1, http: {path: x}}}]}",
            "spec.extensionProviders[0].opentelemetry.http.path",
            "begins with /",
        ),
        ("{pathNormalization: {normalization: ALL}}", "spec.pathNormalization.normalization", "one of DEFAULT, NONE"),
        ("{meshMTLS: {}}", "spec.meshMTLS", "is not a field"),
    ] {
        refused("MeshConfig", spec, path, words);
    }
    accepted(
        "MeshConfig",
        "{trustDomainAliases: [old.example.com], outboundTrafficPolicy: {mode: REGISTRY_ONLY}, tracing: {sampling: 100}, \
         defaultHttpRetryPolicy: {attempts: 1, retryOn: 'connect-failure,503'}, \
         accessLog: {encoding: JSON, format: '{\"code\": \"%RESPONSE_CODE%\"}'}, \
         pathNormalization: {normalization: MERGE_SLASHES}}",
    );
}

#[test]
fn claims_tell_requests_apart_where_tokens_are_verified() {
    let pending = |target: &str| {
        let limit = "limits: [{requests: 1, unit: Second, keys: [{claim: sub}]}]";
        let file = read("RateLimit", &format!("{{targetRefs: [{target}], {limit}}}"));
        assert!(file.errors.is_empty(), "{:?}", file.errors);
        let document = &file.documents[0];
        let stored = parse_stored(&document.key, &document.json, Default::default()).unwrap();
        stored.pending.iter().map(|pending| pending.path.clone()).collect::<Vec<_>>()
    };
    assert_eq!(pending("{group: '', kind: Service, name: a}"), [""; 0]);
    let rule = "{group: networking.istio.io, kind: VirtualService, name: a}";
    assert_eq!(pending(rule), ["spec.limits[0].keys[0].claim"]);
}

#[test]
fn extension_providers_are_checked() {
    let http = |fields: &str| format!("{{extensionProviders: [{{name: a, envoyExtAuthzHttp: {{{fields}}}}}]}}");
    let good = "service: a.b.svc.cluster.local, port: 80";
    for (spec, path, words) in [
        ("{extensionProviders: [{envoyExtAuthzGrpc: {service: a, port: 1}}]}".into(), "[0].name", "is missing"),
        ("{extensionProviders: [{name: a}]}".into(), "[0]", "envoyExtAuthzHttp"),
        ("{extensionProviders: [{name: a, zipkin: {}}]}".into(), "[0].zipkin", "is not a field"),
        (
            "{extensionProviders: [{name: a, envoyExtAuthzGrpc: {service: a, port: 1}}, \
             {name: a, envoyExtAuthzGrpc: {service: a, port: 1}}]}"
                .into(),
            "[1]",
            "a is given twice",
        ),
        (http("port: 80"), "[0].envoyExtAuthzHttp.service", "must be a host"),
        (http("service: A_b/c.d, port: 80"), "[0].envoyExtAuthzHttp.service", "NAMESPACE/HOST"),
        (http("service: a.b"), "[0].envoyExtAuthzHttp.port", "is missing"),
        (http(&format!("{good}, statusOnError: '999'")), "[0].envoyExtAuthzHttp.statusOnError", "200 to 599"),
        (http(&format!("{good}, pathPrefix: check")), "[0].envoyExtAuthzHttp.pathPrefix", "begins with /"),
        (http(&format!("{good}, timeout: 0s")), "[0].envoyExtAuthzHttp.timeout", "below 1ms"),
        (
            http(&format!("{good}, headersToUpstreamOnAllow: [x, '*']")),
            "[0].envoyExtAuthzHttp.headersToUpstreamOnAllow[1]",
            "no header's name",
        ),
        (
            http(&format!("{good}, includeAdditionalHeadersInCheck: {{host: a}}")),
            "[0].envoyExtAuthzHttp.includeAdditionalHeadersInCheck.host",
            "set by the proxy alone",
        ),
        (
            http(&format!("{good}, includeRequestBodyInCheck: {{}}")),
            "[0].envoyExtAuthzHttp.includeRequestBodyInCheck.maxRequestBytes",
            "is missing",
        ),
    ] {
        refused("MeshConfig", &spec, &format!("spec.extensionProviders{path}"), words);
    }
    accepted(
        "MeshConfig",
        "{extensionProviders: [\
         {name: a, envoyExtAuthzHttp: {service: ns/a.example.com, port: 80, timeout: 1s, pathPrefix: /check, failOpen: true, \
          statusOnError: '503', includeRequestHeadersInCheck: [x-a, 'x-*', '*-b'], includeAdditionalHeadersInCheck: \
          {x-c: d}, includeRequestBodyInCheck: {maxRequestBytes: 1024, allowPartialMessage: true}, \
          headersToUpstreamOnAllow: [x], headersToDownstreamOnAllow: [y], headersToDownstreamOnDeny: [z]}}, \
         {name: b, envoyExtAuthzGrpc: {service: b.example.com, port: 81, timeout: 1s, failOpen: true, statusOnError: '503', \
          includeRequestBodyInCheck: {maxRequestBytes: 1024, packAsBytes: true}}}]}",
    );
}

#[test]
fn policies_target_what_they_can_act_on_each_once() {
    let limit = "limits: [{requests: 1, unit: Second}]";
    for (targets, path, words) in [
        ("[]", "spec.targetRefs", "1 are the least"),
        ("[{group: '', kind: ConfigMap, name: a}]", "spec.targetRefs[0]", "ConfigMap (group \"\") cannot be a target"),
        ("[{group: a.b, kind: Service, name: a}]", "spec.targetRefs[0]", "cannot be a target"),
        (
            "[{group: '', kind: Service, name: a}, {group: '', kind: Service, name: a}]",
            "spec.targetRefs[1]",
            "Service a is given twice",
        ),
        ("[{kind: Service, name: a}]", "spec.targetRefs[0].group", "is missing"),
    ] {
        refused("RateLimit", &format!("{{targetRefs: {targets}, {limit}}}"), path, words);
    }
    let route = "[{group: gateway.networking.k8s.io, kind: HTTPRoute, name: a}]";
    accepted("RateLimit", &format!("{{targetRefs: {route}, {limit}}}"));
    refused("CircuitPolicy", &format!("{{targetRefs: {route}}}"), "spec.targetRefs[0]", "cannot be a target");
    let ports =
        "[{group: '', kind: Service, name: a, sectionName: x}, {group: '', kind: Service, name: a, sectionName: y}]";
    accepted("RateLimit", &format!("{{targetRefs: {ports}, {limit}}}"));
}

#[test]
fn rate_limits_say_how_many_by_what() {
    for (limit, path, words) in [
        ("{unit: Second}", ".requests", "is missing"),
        ("{requests: 1}", ".unit", "is missing"),
        ("{requests: 0, unit: Second}", ".requests", "from 1"),
        ("{requests: 1, unit: Week}", ".unit", "one of Second, Minute, Hour, Day"),
        ("{requests: 1, unit: Second, burst: 0}", ".burst", "from 1"),
        ("{requests: 1, unit: Second, keys: [{}]}", ".keys[0]", "one of caller, header, claim, pathSegments"),
        (
            "{requests: 1, unit: Second, keys: [{caller: Identity, header: a}]}",
            ".keys[0]",
            "only one of caller, header",
        ),
        ("{requests: 1, unit: Second, keys: [{header: 'a b'}]}", ".keys[0].header", "a header's name"),
        ("{requests: 1, unit: Second, match: [{}]}", ".match[0]", "must give path, method"),
        ("{requests: 1, unit: Second, match: [{path: {regex: '('}}]}", ".match[0].path.regex", ""),
        (
            "{requests: 1, unit: Second, match: [{headers: {'a b': {exact: a}}}]}",
            ".match[0].headers[\"a b\"]",
            "is not a header",
        ),
        (
            "{requests: 1, unit: Second, match: [{principals: ['spiffe://a/ns/b/sa/c']}]}",
            ".match[0].principals[0]",
            "must not start with spiffe://",
        ),
        ("{requests: 1, unit: Second, match: [{principals: ['a*b']}]}", ".match[0].principals[0]", "has a *"),
    ] {
        refused(
            "RateLimit",
            &format!("{{{SERVICE_TARGET}, limits: [{limit}]}}"),
            &format!("spec.limits[0]{path}"),
            words,
        );
    }
    let limit = "limits: [{requests: 1, unit: Second}]";
    refused("RateLimit", &format!("{{{SERVICE_TARGET}, limits: []}}"), "spec.limits", "1 are the least");
    refused("RateLimit", &format!("{{{limit}}}"), "spec.targetRefs", "is missing");
    let partition = format!("{{{SERVICE_TARGET}, {limit}, onPartition: Deny}}");
    refused("RateLimit", &partition, "spec.onPartition", "is for the scope Mesh");
    accepted("RateLimit", &partition.replace("onPartition", "scope: Mesh, onPartition"));
    let twice = format!(
        "{{{SERVICE_TARGET}, limits: [{{name: a, requests: 1, unit: Day}}, {{name: a, requests: 1, unit: Second}}]}}"
    );
    refused("RateLimit", &twice, "spec.limits[1]", "a is given twice");
}

#[test]
fn a_revocation_is_of_a_node_or_an_account_and_from_its_creation_on() {
    for (spec, path, words) in [
        ("{}", "spec", "one of node, serviceAccount must be given"),
        ("{node: a, serviceAccount: b/c}", "spec", "only one of"),
        ("{node: A_b}", "spec.node", "A_b"),
        ("{serviceAccount: web}", "spec.serviceAccount", "web"),
    ] {
        refused("Revocation", spec, path, words);
    }
    refused("Revocation", &format!("{{node: a, reason: {}}}", "x".repeat(257)), "spec.reason", "256 are the most");
    let stored = |name: &str, spec: &str, millis: u64| {
        let key =
            DocumentKey { group: "weft.mesh".into(), kind: "Revocation".into(), namespace: None, name: name.into() };
        let json = format!(
            r#"{{"apiVersion":"weft.mesh/v1alpha1","kind":"Revocation","metadata":{{"name":"{name}"}},"spec":{spec}}}"#
        );
        parse_stored(&key, &json, Stamp { millis, counter: 0 }).unwrap()
    };
    let documents = [stored("a", r#"{"node":"web-1"}"#, 1_999), stored("b", r#"{"serviceAccount":"prod/web"}"#, 3_000)];
    let all: Vec<_> = revocations(&documents).collect();
    let expected = [(Revoked::Node("web-1".parse().unwrap()), 1), (Revoked::Account("prod/web".parse().unwrap()), 3)];
    assert_eq!(all, expected);
}

#[test]
fn circuit_policies_have_bounds_and_defaults() {
    for (spec, path, words) in [
        ("quorum: {observers: 0}", ".quorum.observers", "from 1"),
        ("quorum: {share: 101}", ".quorum.share", "from 0.0001 to 100"),
        ("lease: 500ms", ".lease", "below 1000ms"),
        ("lease: 2h", ".lease", "at most 1h"),
        ("panicThreshold: -1", ".panicThreshold", "from 0.0001 to 100"),
        ("hearsay: Believe", ".hearsay", "one of Ignore, Demote, Exclude"),
    ] {
        refused("CircuitPolicy", &format!("{{{SERVICE_TARGET}, {spec}}}"), &format!("spec{path}"), words);
    }
    refused("CircuitPolicy", "{}", "spec.targetRefs", "may be absent in the policy default only");
    assert!(read_named("CircuitPolicy", "prod", "default", "{}").errors.is_empty());
    let Spec::CircuitPolicy(policy) = accepted("CircuitPolicy", &format!("{{{SERVICE_TARGET}}}")) else { panic!() };
    assert_eq!((policy.observers(), policy.share(), policy.panic_threshold()), (2, 50.0, 50.0));
    assert_eq!((policy.lease().as_secs(), policy.hearsay), (10, Hearsay::Exclude));
    let file = read("CircuitPolicy", &format!("{{{SERVICE_TARGET}, hearsay: Demote, quorum: {{observers: 3}}}}"));
    assert!(file.notices[0].text.contains("spec.quorum has no effect"), "{:?}", file.notices);
}

#[test]
fn a_backend_traffic_policy_says_something_for_services() {
    let with = |rest: &str| format!("{{{SERVICE_TARGET}{rest}}}");
    for (spec, path, words) in [
        (with(""), "spec", "must have loadBalancer or hedging"),
        (with(", loadBalancer: {}"), "spec.loadBalancer.peakEwma", "is missing"),
        (with(", loadBalancer: {peakEwma: {decay: 0s}}"), "spec.loadBalancer.peakEwma.decay", "1ms"),
        ("{loadBalancer: {peakEwma: {}}}".into(), "spec.targetRefs", "may be absent in the policy default only"),
    ] {
        refused("BackendTrafficPolicy", &spec, path, words);
    }
    refused("BackendTrafficPolicy", &with(", hedging: {}"), "spec.hedging.delay", "is missing");
    refused("BackendTrafficPolicy", &with(", hedging: {delay: 0s}"), "spec.hedging.delay", "1ms");
    accepted("BackendTrafficPolicy", &with(", hedging: {delay: 20ms, includeNonIdempotent: true}"));
    let spec = accepted("BackendTrafficPolicy", &with(", loadBalancer: {peakEwma: {}}"));
    let Spec::BackendTrafficPolicy(policy) = spec else { panic!() };
    assert_eq!(policy.load_balancer.unwrap().peak_ewma.unwrap().decay().as_secs(), 10);
}

#[test]
fn a_fault_experiment_ends_and_does_something() {
    let with = |rest: &str| format!("{{{SERVICE_TARGET}, {rest}}}");
    let (share, end) = ("percentage: {value: 10}", "end: '2026-02-01T00:00:00Z'");
    let delay = "fault: {delay: {fixedDelay: 1s}}";
    for (rest, path, words) in [
        (format!("{delay}, {share}"), ".end", "is missing"),
        (format!("{delay}, {end}"), ".percentage", "is missing"),
        (format!("{share}, {end}"), ".fault", "is missing"),
        (format!("fault: {{}}, {share}, {end}"), ".fault", "must give delay, abort, reset"),
        (format!("fault: {{abort: {{}}}}, {share}, {end}"), ".fault.abort", "one of httpStatus, grpcStatus"),
        (
            format!("fault: {{abort: {{httpStatus: 500}}, reset: {{}}}}, {share}, {end}"),
            ".fault",
            "only one of abort, reset",
        ),
        (format!("fault: {{slow: {{bytesPerSecond: 0}}}}, {share}, {end}"), ".fault.slow.bytesPerSecond", "from 1"),
        (
            format!("fault: {{blackHole: {{}}, truncate: {{afterBytes: 1}}}}, {share}, {end}"),
            ".fault",
            "only one of blackHole, truncate",
        ),
        (format!("fault: {{abort: {{httpStatus: 100}}}}, {share}, {end}"), ".fault.abort.httpStatus", "from 200"),
        (
            format!("fault: {{abort: {{grpcStatus: BAD}}}}, {share}, {end}"),
            ".fault.abort.grpcStatus",
            "it must be one of",
        ),
        (format!("fault: {{delay: {{}}}}, {share}, {end}"), ".fault.delay.fixedDelay", "is missing"),
        (format!("{delay}, percentage: {{}}, {end}"), ".percentage", "must be above 0"),
        (format!("{delay}, {share}, end: tomorrow"), ".end", "is not a point in time"),
        (format!("{delay}, {share}, {end}, start: '2026-02-01T00:00:00Z'"), ".end", "must be after start"),
        (format!("{delay}, {share}, {end}, stopWhen: {{}}"), ".stopWhen", "must give errorPercentage or latency"),
        (
            format!("{delay}, {share}, {end}, stopWhen: {{errorPercentage: {{}}}}"),
            ".stopWhen.errorPercentage",
            "above 0",
        ),
        (
            format!("{delay}, {share}, {end}, stopWhen: {{latency: {{percentile: 100, above: 1s}}}}"),
            ".stopWhen.latency.percentile",
            "below 100",
        ),
        (
            format!("{delay}, {share}, {end}, stopWhen: {{errorPercentage: {{value: 5}}, window: 1h}}"),
            ".stopWhen.window",
            "at most 10m",
        ),
        (format!("{delay}, {share}, {end}, match: [{{}}]"), ".match[0]", "must give path"),
    ] {
        refused("FaultExperiment", &with(&rest), &format!("spec{path}"), words);
    }
    let rest = format!(
        "{delay}, {share}, {end}, start: '2026-01-01T00:00:00+01:00', match: [{{path: {{prefix: /ratings}}}}], \
         stopWhen: {{errorPercentage: {{value: 5}}, latency: {{percentile: 99, above: 2s}}}}"
    );
    let Spec::FaultExperiment(experiment) = accepted("FaultExperiment", &with(&rest)) else { panic!() };
    let stop = experiment.stop_when.unwrap();
    assert_eq!((stop.window().as_secs(), stop.min_requests()), (10, 20));
}
