use super::*;

fn namespace(name: &str) -> Namespace {
    name.parse().unwrap()
}

fn parse(text: &str) -> Result<ParsedFile, DocumentError> {
    let file = parse_yaml(text, &namespace("default"))?;
    match file.errors.first() {
        Some(error) => Err(error.clone()),
        None => Ok(file),
    }
}

/// Parses what must be right, as the nodes will.
fn document(text: &str) -> Document {
    let file = parse(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let [parsed] = file.documents.as_slice() else { panic!("one document") };
    parse_stored(&parsed.key, &parsed.json, Stamp::default()).unwrap()
}

fn refusal(text: &str) -> String {
    match parse(text) {
        Ok(_) => panic!("not refused:\n{text}"),
        Err(error) => error.in_file("f.yaml").to_string(),
    }
}

/// A VirtualService with this text under `spec.http[0]`, each line indented by 4.
fn virtual_service(rule: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata:\n  name: reviews\nspec:\n  \
         hosts: [reviews]\n  http:\n  - {}\n",
        rule.trim().replace('\n', "\n    ")
    )
}

const ROUTE: &str = "route:\n- destination:\n    host: reviews\n";

fn with_route(rest: &str) -> String {
    virtual_service(&format!("{ROUTE}{rest}"))
}

fn spec_of(kind: &str, spec: &str) -> String {
    let api = if kind == "Service" { "v1" } else { "networking.istio.io/v1" };
    format!("apiVersion: {api}\nkind: {kind}\nmetadata: {{name: reviews}}\nspec: {spec}\n")
}

const BOOKINFO_RULE: &str = r#"
apiVersion: networking.istio.io/v1alpha3
kind: VirtualService
metadata:
  name: reviews
  creationTimestamp: "2024-01-01T00:00:00Z"
  resourceVersion: "12"
  uid: x
  generation: 3
  managedFields: [{manager: kubectl}]
  labels: {team: a}
  annotations: {kubectl.kubernetes.io/last-applied-configuration: "{}"}
spec:
  hosts:
    - reviews
  gateways: [mesh]
  http:
  - name: jason
    match:
    - headers:
        end-user:
          exact: jason
      uri: {prefix: /reviews}
      method: {regex: "GET|POST"}
    route:
    - destination: {host: reviews, subset: v2, port: {number: 9080}}
    timeout: 1.5s
    rewrite: {uri: /v2, authority: reviews-v2}
  - route:
    - destination: {host: reviews, subset: v1}
      weight: 80
    - destination: {host: reviews, subset: v2}
      weight: 20
status: {observedGeneration: 1}
"#;

#[test]
fn a_bookinfo_rule_is_read() {
    let document = document(BOOKINFO_RULE);
    assert_eq!(document.key.to_string(), "VirtualService default/reviews");
    assert_eq!(document.labels["team"], "a");
    let Spec::VirtualService(service) = document.spec else { panic!("a VirtualService") };
    assert_eq!(service.hosts[0], "reviews");
    assert_eq!(service.http[0].timeout.map(|timeout| timeout.get().as_millis()), Some(1_500));
    assert_eq!(service.http[0].route[0].destination.port.map(|port| port.number.number()), Some(9080));
    let weights: Vec<i64> = service.http[1].route.iter().filter_map(|share| Some(share.weight?.get())).collect();
    assert_eq!(weights, [80, 20]);
}

#[test]
fn what_is_stored_is_canonical_and_reads_the_same() {
    let first = parse(BOOKINFO_RULE).unwrap().documents.remove(0);
    for gone in ["creationTimestamp", "resourceVersion", "uid", "generation", "managedFields", "status"] {
        assert!(!first.json.contains(gone), "{gone} in {}", first.json);
    }
    assert!(first.json.contains(r#""namespace":"default""#));
    let again = parse(&first.json).unwrap().documents.remove(0);
    assert_eq!(first, again, "JSON is YAML, and parsing it changes nothing");
    let stored = parse_stored(&first.key, &first.json, Stamp::default()).unwrap();
    assert_eq!(stored, document(&first.json));
}

#[test]
fn a_version_of_this_mesh_is_read_a_kubernetes_servers_is_dropped_and_others_are_refused() {
    let with = |version: &str| BOOKINFO_RULE.replace(r#""12""#, version);
    let version = "1700000000123.2-0001abcd";
    let read = parse(&with(version)).unwrap().documents.remove(0);
    assert_eq!(read.version, Some(version.parse().unwrap()));
    assert_eq!(parse(BOOKINFO_RULE).unwrap().documents[0].version, None);
    let refused = refusal(&with("1700000000123.2"));
    assert!(refused.starts_with("f.yaml:7:20: VirtualService reviews: metadata.resourceVersion: "), "{refused}");
}

#[test]
fn an_unknown_field_is_refused_by_its_path_place_and_what_is_known() {
    assert_eq!(
        refusal(&virtual_service("route:\n- destination: {host: a, hos: b}\n")),
        "f.yaml:9:30: VirtualService reviews: spec.http[0].route[0].destination.hos is not a field that weft knows \
         here; did you mean host? it knows host, subset, port"
    );
}

#[test]
fn all_that_is_wrong_is_said_at_once() {
    let text = with_route("timeout: 0s\n")
        + "---\n"
        + &with_route("rewrite: {}\nfault: {}\n").replace("name: reviews", "name: ratings");
    let file = parse_yaml(&text, &namespace("default")).unwrap();
    let paths: Vec<&str> = file.errors.iter().map(|error| error.path.as_str()).collect();
    assert_eq!(paths, ["spec.http[0].timeout", "spec.http[0].rewrite", "spec.http[0].fault"]);
}

#[test]
fn only_so_many_errors_and_warnings_of_one_document_are_told() {
    let rules = |rule: &str| format!("{{hosts: [a], http: [{}]}}", vec![rule; 200].join(", "));
    let file = parse_yaml(&spec_of("VirtualService", &rules("{rewrite: {}}")), &namespace("default")).unwrap();
    assert_eq!(file.errors.len(), 100);
    let rule = "{route: [{destination: {host: a}}], mirror: {host: a}, mirrorPercent: 1}";
    assert_eq!(parse(&spec_of("VirtualService", &rules(rule))).unwrap().notices.len(), 100);
}

#[test]
fn a_misspelt_field_or_kind_is_told_the_nearest() {
    assert!(refusal(&with_route("timeuot: 1s\n")).contains("spec.http[0].timeuot"));
    assert!(refusal(&with_route("timeuot: 1s\n")).contains("did you mean timeout?"));
    let text = "apiVersion: networking.istio.io/v1\nkind: VirtualServise\nmetadata: {name: a}\n";
    assert!(refusal(text).contains("did you mean VirtualService?"), "{}", refusal(text));
}

#[test]
fn unknown_kinds_and_versions_are_refused_by_name() {
    let text = "apiVersion: example.com/v1\nkind: Policy\nmetadata: {name: a}\nspec: {}\n";
    assert!(refusal(text).starts_with("f.yaml:1:1: Policy (example.com/v1) is not a kind that weft knows"));
    refusal("apiVersion: networking.istio.io/v2\nkind: VirtualService\nmetadata: {name: a}\nspec: {}\n");
    refusal("apiVersion: v1\nkind: VirtualService\nmetadata: {name: a}\nspec: {}\n");
}

#[test]
fn kinds_that_configure_envoy_are_refused_with_what_to_use_instead() {
    let text = "apiVersion: networking.istio.io/v1alpha3\nkind: EnvoyFilter\nmetadata: {name: a}\nspec: {}\n";
    assert!(refusal(text).contains("EnvoyFilter is not supported: weft has no Envoy"), "{}", refusal(text));
}

#[test]
fn kinds_of_other_meshes_and_of_clusters_are_refused_with_what_to_use_instead() {
    for (kind, instead) in [
        ("networking.k8s.io/v1\nkind: Ingress", "HTTPRoutes (gateway.networking.k8s.io)"),
        ("linkerd.io/v1alpha2\nkind: ServiceProfile", "HTTPRoute"),
        ("split.smi-spec.io/v1alpha2\nkind: TrafficSplit", "weights"),
        ("consul.hashicorp.com/v1alpha1\nkind: ServiceIntentions", "AuthorizationPolicy"),
    ] {
        let text = format!("apiVersion: {kind}\nmetadata: {{name: a}}\nspec: {{}}\n");
        let refusal = refusal(&text);
        assert!(refusal.contains("is not supported: ") && refusal.contains(instead), "{refusal}");
    }
}

#[test]
fn all_fields_of_a_wrong_type_are_told_and_nothing_that_follows_from_them() {
    let text = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: a}\nspec:\n  host: [a]\n  \
                subsets:\n  - name: v1\n    labels: x\n  exportTo: 5\n  trafficPolicy: {no: 1}\n";
    let file = parse_yaml(text, &Namespace::default_namespace()).unwrap();
    let mut paths: Vec<_> = file.errors.iter().map(|error| (error.path.as_str(), error.at.line)).collect();
    paths.sort_unstable();
    let wanted = [("spec.exportTo", 9), ("spec.host", 5), ("spec.subsets[0].labels", 8), ("spec.trafficPolicy.no", 10)];
    assert_eq!(paths, wanted);
}

#[test]
fn unknown_fields_are_refused_everywhere() {
    for (text, path) in [
        (with_route("match:\n- uri: {ends: /}\n"), "spec.http[0].match[0].uri.ends"),
        (virtual_service("route:\n- destination: {host: a}\n  header: {}\n"), "spec.http[0].route[0].header"),
        (spec_of("VirtualService", "{hosts: [a], udp: []}"), "spec.udp"),
        (spec_of("VirtualService", "{hosts: [a]}\nspecs: {}"), "specs"),
        (spec_of("DestinationRule", "{host: a, trafficPolicy: {x: {}}}"), "spec.trafficPolicy.x"),
        (spec_of("DestinationRule", "{host: a, subsets: [{name: a, x: 1}]}"), "spec.subsets[0].x"),
        (spec_of("Service", "{ports: [{port: 1}], x: []}"), "spec.x"),
        (spec_of("Service", "{ports: [{port: 1, x: 2}]}"), "spec.ports[0].x"),
        ("apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: a}\nx: []\n".into(), "x"),
        ("apiVersion: v1\nkind: Namespace\nmetadata: {name: a, x: []}\n".into(), "metadata.x"),
        ("apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\nspec: {x: 1}\n".into(), "spec.x"),
    ] {
        assert!(refusal(&text).contains(&format!("{path} is not a field")), "{}", refusal(&text));
    }
}

#[test]
fn what_is_accepted_and_not_done_yet_is_listed() {
    let text = with_route("match:\n- uri: {prefix: /a}\n  gateways: [mesh, g]\n");
    let paths: Vec<String> = document(&text).pending.into_iter().map(|pending| pending.path).collect();
    assert_eq!(paths, ["spec.http[0].match[0].gateways"]);
    let text = with_route("fault: {abort: {httpStatus: 500, percentage: {value: 10}}}\nretries: {attempts: 1}\n");
    assert!(document(&text).pending.is_empty());
}

#[test]
fn rules_of_a_virtual_service_are_checked() {
    let destination = "destination: {host: reviews}";
    for (text, what) in [
        (spec_of("VirtualService", "{hosts: [a]}"), "spec: http, tcp or tls must be given"),
        (spec_of("VirtualService", "{hosts: [a], http: []}"), "spec: http, tcp or tls must be given"),
        (spec_of("VirtualService", "{gateways: [mesh], http: [{}]}"), "spec.gateways: must be empty"),
        (spec_of("VirtualService", "{hosts: ['*'], http: []}"), "* is not allowed"),
        (spec_of("VirtualService", "{hosts: ['a*b'], http: []}"), "is not a host"),
        (spec_of("VirtualService", "{hosts: [a, a], http: []}"), "overlaps"),
        (spec_of("VirtualService", "{hosts: [a, a.default.svc.cluster.local], http: []}"), "overlaps"),
        (spec_of("VirtualService", "{hosts: ['*.foo.com', '*.com'], http: []}"), "overlaps"),
        (spec_of("VirtualService", "{hosts: [a.foo.com, '*.foo.com'], http: []}"), "overlaps"),
        (spec_of("VirtualService", "{hosts: [a], gateways: [a/b/c]}"), "is not NAME, NAMESPACE/NAME or mesh"),
        (virtual_service("name: x\n"), "spec.http[0]: one of route, redirect, directResponse, delegate must be given"),
        (virtual_service("route: []\n"), "one of route, redirect"),
        (virtual_service("route:\n- weight: 1\n"), "destination is missing"),
        (virtual_service("route:\n- destination: {subset: v1}\n"), "host is missing"),
        (virtual_service("route:\n- destination: {host: '*'}\n"), "must be a host, not *"),
        (
            virtual_service("route:\n- destination: {host: a, port: {number: 0}}\n"),
            "is the number 0; it must be a whole number from 1 to 65535",
        ),
        (
            virtual_service(&format!("route:\n- {destination}\n  weight: -1\n")),
            "is the number -1; it must be a whole number from 0",
        ),
        (
            virtual_service(&format!("route:\n- {destination}\n  weight: '1'\n")),
            "is the text \"1\"; it must be a whole number",
        ),
        (virtual_service(&format!("route:\n- {destination}\n- {destination}\n  weight: 0\n")), "must not all be 0"),
        (with_route("match:\n- uri: {prefix: ''}\n"), "prefix: must not be empty"),
        (with_route("match:\n- uri: {regex: '('}\n"), "spec.http[0].match[0].uri.regex:"),
        (with_route("match:\n- uri: {regex: ''}\n"), "must not be empty"),
        (with_route("match:\n- uri: {exact: /a, prefix: /b}\n"), "only one of exact, prefix, suffix"),
        (with_route("match:\n- uri: {exact: 1}\n"), "is the number 1; it must be a string"),
        (with_route("match:\n- headers: {':path': {exact: /}}\n"), "is not one of :method, :authority, :scheme"),
        (with_route("match:\n- headers: {'a b': {exact: x}}\n"), "is not a header's name"),
        (with_route("match:\n- ignoreUriCase: 'yes'\n"), "is the text \"yes\"; it must be a boolean"),
        (with_route("timeout: 0s\n"), "is below 1ms"),
        (with_route("timeout: 5\n"), "is the number 5; it must be text"),
        (with_route("timeout: 5\"\n"), "not a duration"),
        (with_route("rewrite: {}\n"), "must give uri, uriRegexRewrite or authority"),
        (
            with_route("rewrite: {uri: /a, uriRegexRewrite: {match: a, rewrite: b}}\n"),
            "only one of uri, uriRegexRewrite may be given",
        ),
        (with_route("rewrite: {uri: '/a b'}\n"), "must be a path"),
        (with_route("rewrite: {authority: 'a b'}\n"), "must be HOST or HOST:PORT"),
        (with_route("rewrite: {authority: 'u@a'}\n"), "must be HOST or HOST:PORT"),
        (with_route("rewrite: {uriRegexRewrite: {match: 'a', rewrite: '\\1'}}\n"), "names group \\1"),
        (with_route("rewrite: {uriRegexRewrite: {match: '(', rewrite: 'a'}}\n"), "uriRegexRewrite: "),
        (with_route("rewrite: {uriRegexRewrite: {match: a}}\n"), "rewrite is missing"),
    ] {
        assert!(refusal(&text).contains(what), "wanted {what:?}, got: {}", refusal(&text));
    }
}

#[test]
fn weights_need_no_particular_sum_and_one_destination_needs_none() {
    document(&virtual_service("route:\n- destination: {host: a}\n  weight: 0\n"));
    document(&virtual_service("route:\n- destination: {host: a}\n  weight: 7\n- destination: {host: b}\n"));
}

#[test]
fn a_host_that_cannot_be_a_service_is_noticed() {
    let file = parse(&virtual_service("route:\n- destination: {host: reviews.prod}\n")).unwrap();
    assert_eq!(file.notices.len(), 1);
    assert!(file.notices[0].text.contains("spec.http[0].route[0].destination.host reviews.prod is taken as it stands"));
}

#[test]
fn workload_kinds_are_skipped_with_a_notice() {
    let text = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: reviews-v1}\nspec: {replicas: 1.5}\n---\n\
                apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n";
    let file = parse(text).unwrap();
    assert!(file.documents.is_empty());
    let expected = "Deployment reviews-v1 skipped: workloads are declared in node.yaml or by weft run";
    assert_eq!(file.notices[0], Notice { at: Position { line: 1, column: 1 }, text: expected.into() });
    assert_eq!(file.notices[1].at.line, 6);
    refusal("apiVersion: example.com/v1\nkind: Deployment\nmetadata: {name: a}\n");
    for (version, kind) in [
        ("extensions/v1beta1", "Deployment"),
        ("autoscaling/v2", "HorizontalPodAutoscaler"),
        ("policy/v1", "PodDisruptionBudget"),
    ] {
        let file = parse(&format!("{{apiVersion: {version}, kind: {kind}, metadata: {{name: a}}}}")).unwrap();
        assert!(file.documents.is_empty() && file.notices.len() == 1, "{kind}");
    }
}

#[test]
fn files_hold_many_documents_lists_and_empty_ones() {
    let account = |name: &str| format!("{{apiVersion: v1, kind: ServiceAccount, metadata: {{name: {name}}}}}");
    let list = format!("apiVersion: v1\nkind: List\nitems:\n- {}\n- {}\n", account("a"), account("b"));
    let file = parse(&format!("---\n---\n# nothing\n---\n{list}---\n{}\n---\n", account("c"))).unwrap();
    let names: Vec<&str> = file.documents.iter().map(|document| document.key.name.as_str()).collect();
    assert_eq!(names, ["a", "b", "c"]);
    assert!(parse("").unwrap().documents.is_empty());
}

#[test]
fn lists_of_one_kind_are_read_as_servers_answer_with_them() {
    let names = |text: &str| -> Vec<String> {
        let file = parse(text).unwrap();
        file.documents.iter().map(|document| format!("{}/{}", document.key.kind, document.key.name)).collect()
    };
    let services = "apiVersion: v1\nkind: ServiceList\nmetadata: {resourceVersion: '1'}\nitems:\n\
                    - metadata: {name: a}\n  spec: {ports: [{port: 80}]}\n\
                    - {apiVersion: v1, kind: Service, metadata: {name: b}, spec: {ports: [{port: 80}]}}\n";
    assert_eq!(names(services), ["Service/a", "Service/b"]);
    let inner = "{apiVersion: networking.istio.io/v1, kind: DestinationRuleList, items: \
                 [{metadata: {name: a}, spec: {host: a}}]}";
    let outer =
        format!("{{apiVersion: v1, kind: List, items: [{inner}, {{apiVersion: v1, kind: List, items: null}}]}}");
    assert_eq!(names(&outer), ["DestinationRule/a"]);
    let file = parse("{apiVersion: apps/v1, kind: DeploymentList, items: [{metadata: {name: a}}]}").unwrap();
    assert_eq!(file.notices.len(), 1);
    assert!(refusal("{apiVersion: example.com/v1, kind: FooList, items: []}").contains("FooList"));
    let refused = refusal(&services.replace("name: a", "nam: a"));
    assert!(refused.starts_with("f.yaml:5:") && refused.contains("metadata.nam is not a field"), "{refused}");
    assert!(refusal("{apiVersion: v1, kind: List, items: [[]]}").contains("is a list; it must be a map"));
}

#[test]
fn versions_that_are_not_served_are_refused_with_those_that_are() {
    let refused = refusal("{apiVersion: networking.istio.io/v2, kind: Sidecar, metadata: {name: a}}");
    let expected = "f.yaml:1:1: Sidecar (networking.istio.io/v2) is no version that weft knows; it must be one of v1, \
                    v1beta1, v1alpha3";
    assert_eq!(refused, expected);
}

#[test]
fn namespaces_are_the_documents_own_or_the_default() {
    let file = parse_yaml("{apiVersion: v1, kind: ServiceAccount, metadata: {name: a}}", &namespace("prod")).unwrap();
    assert_eq!(file.documents[0].key.namespace, Some(namespace("prod")));
    let file = parse("{apiVersion: v1, kind: ServiceAccount, metadata: {name: a, namespace: x}}").unwrap();
    assert_eq!(file.documents[0].key.namespace, Some(namespace("x")));
    let file = parse("{apiVersion: v1, kind: Namespace, metadata: {name: a, labels: {x: y}}}").unwrap();
    assert_eq!(file.documents[0].key.namespace, None);
    refusal("{apiVersion: v1, kind: Namespace, metadata: {name: a, namespace: x}}");
}

#[test]
fn headers_are_checked() {
    for (text, what) in [
        ("[]", "is a list; it must be a map"),
        ("a: b", "kind is missing"),
        ("kind: Service", "apiVersion is missing"),
        ("{apiVersion: v1, kind: Service}", "metadata is missing"),
        ("{apiVersion: v1, kind: Service, metadata: {}}", "metadata.name is missing"),
        ("{apiVersion: v1, kind: Service, metadata: {name: A}}", "service name"),
        ("{apiVersion: v1, kind: Service, metadata: {name: a, namespace: A}}", "namespace"),
        ("{apiVersion: v1, kind: ServiceAccount, metadata: {name: a_b}}", "must be a DNS name"),
        ("{apiVersion: v1, kind: ServiceAccount, metadata: {name: a, labels: {'a b': c}}}", "not a label's name"),
        ("{apiVersion: v1, kind: ServiceAccount, metadata: {name: a, generateName: b}}", "metadata.generateName"),
    ] {
        assert!(refusal(text).contains(what), "wanted {what:?}, got: {}", refusal(text));
    }
    let twice = "{apiVersion: v1, kind: ServiceAccount, metadata: {name: a}}\n";
    assert!(refusal(&format!("{twice}---\n{twice}")).contains("stands twice"));
}

#[test]
fn a_syntax_error_names_its_line() {
    assert!(refusal("a: b\nc: [\n").starts_with("f.yaml:"), "{}", refusal("a: b\nc: [\n"));
    assert!(refusal("a: 1\na: 2\n").starts_with("f.yaml:2:1: "), "{}", refusal("a: 1\na: 2\n"));
}

#[test]
fn size_is_limited() {
    assert!(refusal(&" ".repeat(MAX_FILE_LEN + 1)).contains("the file is larger"));
    let one = |i: usize| format!("---\n{{apiVersion: v1, kind: ServiceAccount, metadata: {{name: a{i}}}}}\n");
    let many: String = (0..MAX_DOCUMENTS).map(one).collect();
    assert_eq!(parse(&many).unwrap().documents.len(), MAX_DOCUMENTS);
    assert!(refusal(&format!("{many}{}", one(MAX_DOCUMENTS))).contains("number of documents"));
    let items: String = (0..=MAX_DOCUMENTS).map(|i| one(i).replace("---\n", "- ")).collect();
    assert!(refusal(&format!("apiVersion: v1\nkind: List\nitems:\n{items}")).contains("number of documents"));
    let large = format!(
        "{{apiVersion: v1, kind: ServiceAccount, metadata: {{name: a, annotations: {{x: {}}}}}}}",
        "y".repeat(MAX_DOCUMENT_LEN)
    );
    assert!(refusal(&large).contains("bytes of JSON"));
    let key = parse(&one(1)).unwrap().documents.remove(0).key;
    assert!(parse_stored(&key, &" ".repeat(MAX_DOCUMENT_LEN + 1), Stamp::default()).is_err());
}

#[test]
fn an_alias_bomb_is_refused() {
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for i in 1..9 {
        let refs = vec![format!("*a{}", i - 1); 10].join(", ");
        bomb.push_str(&format!("a{i}: &a{i} [{refs}]\n"));
    }
    assert!(parse(&bomb).is_err());
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    assert!(parse(&deep).is_err());
}

#[test]
fn a_stored_body_must_be_what_its_key_says() {
    let parsed = parse(BOOKINFO_RULE).unwrap().documents.remove(0);
    for other in [
        DocumentKey { name: "ratings".into(), ..parsed.key.clone() },
        DocumentKey { namespace: Some(namespace("prod")), ..parsed.key.clone() },
        DocumentKey { namespace: None, ..parsed.key.clone() },
        DocumentKey { kind: "DestinationRule".into(), ..parsed.key.clone() },
        DocumentKey { group: "weft.mesh".into(), ..parsed.key.clone() },
    ] {
        assert!(parse_stored(&other, &parsed.json, Stamp::default()).is_err(), "{other}");
    }
    assert!(parse_stored(&parsed.key, "{", Stamp::default()).is_err());
    let deep = "[".repeat(MAX_DOCUMENT_LEN);
    assert!(parse_stored(&parsed.key, &deep, Stamp::default()).is_err());
}

#[test]
fn what_is_right_and_not_enforced_is_told_and_counted_where_it_is_much() {
    let gateway = "match: [{gateways: [front]}]\nroute: [{destination: {host: reviews}}]";
    let parsed = parse(&virtual_service(gateway)).unwrap().documents.remove(0);
    assert_eq!(not_enforced(&parsed.pending).unwrap(), "not enforced yet: spec.http[0].match[0].gateways");
    let many: Vec<Pending> = (0..10).map(|i| Pending { path: format!("p{i}") }).collect();
    assert_eq!(not_enforced(&many).unwrap(), "not enforced yet: p0, p1, p2, p3, p4, p5, p6, p7 and 2 more");
    assert_eq!(not_enforced(&[]), None);
}

mod properties {
    use proptest::prelude::*;

    use super::*;

    /// Text that is close enough to YAML to reach the readers.
    fn yaml_like() -> impl Strategy<Value = String> {
        let word = prop_oneof![
            Just("apiVersion: v1\n"),
            Just("apiVersion: networking.istio.io/v1\n"),
            Just("kind: Service\n"),
            Just("kind: VirtualService\n"),
            Just("metadata: {name: a}\n"),
            Just("spec:\n"),
            Just("  hosts: [a, '*.b']\n"),
            Just("  http:\n"),
            Just("  - route:\n"),
            Just("    - destination: {host: a}\n"),
            Just("  - match: [{uri: {regex: '"),
            Just("'}}]\n"),
            Just("---\n"),
            Just("&a "),
            Just("*a "),
            Just("<<: "),
            Just("{"),
            Just("]"),
            Just("\t"),
            Just("? "),
            Just("\u{feff}"),
        ];
        prop::collection::vec(prop_oneof![3 => word.prop_map(str::to_owned), 1 => ".{0,8}"], 0..24)
            .prop_map(|words| words.concat())
    }

    proptest! {
        #[test]
        fn no_text_makes_parsing_panic(text in prop_oneof![yaml_like(), ".*"]) {
            let _ = parse(&text);
            let key = DocumentKey { group: String::new(), kind: "Service".into(), namespace: None, name: "a".into() };
            let _ = parse_stored(&key, &text, Stamp::default());
        }

        #[test]
        fn no_expression_makes_compiling_panic(text in ".*", value in ".*") {
            if let Ok(pattern) = crate::pattern::Pattern::new(&text) {
                pattern.is_whole(value.as_bytes());
            }
        }

        #[test]
        fn what_parses_reads_the_same_when_stored(
            host in "[a-z]{1,5}", prefix in "/[a-z]{0,5}", header in "[ -~]{0,12}",
            weights in prop::collection::vec(1_u32..100, 1..4), millis in 1_u32..100_000,
        ) {
            let quoted = serde_json::to_string(&header).unwrap();
            let route: String = weights
                .iter()
                .enumerate()
                .map(|(i, weight)| format!("- destination: {{host: {host}, subset: v{i}}}\n  weight: {weight}\n"))
                .collect();
            let text = virtual_service(&format!(
                "match:\n- uri: {{prefix: {prefix}}}\n  headers: {{x-test: {{exact: {quoted}}}}}\n\
                 timeout: {millis}ms\nroute:\n{route}"
            ));
            let parsed = parse(&text).unwrap().documents.remove(0);
            let stored = parse_stored(&parsed.key, &parsed.json, Stamp::default()).unwrap();
            prop_assert_eq!(&parse(&parsed.json).unwrap().documents[0], &parsed);
            let Spec::VirtualService(service) = &stored.spec else { panic!() };
            let read: Vec<i64> = service.http[0].route.iter().filter_map(|share| Some(share.weight?.get())).collect();
            prop_assert_eq!(read, weights.iter().map(|weight| i64::from(*weight)).collect::<Vec<_>>());
        }
    }
}
