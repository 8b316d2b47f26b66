use crate::document::{ParsedFile, Spec, assert_fits_its_schema, parse_stored, parse_yaml};

/// One document of the group, whose `spec` is YAML in flow or block style.
fn text_of(kind: &str, version: &str, spec: &str) -> String {
    let group = if kind == "XListenerSet" { "gateway.networking.x-k8s.io" } else { "gateway.networking.k8s.io" };
    let spec = spec.trim().replace('\n', "\n  ");
    format!("apiVersion: {group}/{version}\nkind: {kind}\nmetadata: {{name: a}}\nspec:\n  {spec}\n")
}

fn read(kind: &str, version: &str, spec: &str) -> ParsedFile {
    let text = text_of(kind, version, spec);
    parse_yaml(&text, &"default".parse().unwrap()).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// What is wrong, each with its path.
fn errors(kind: &str, version: &str, spec: &str) -> Vec<String> {
    read(kind, version, spec).errors.into_iter().map(|error| format!("{}: {}", error.path, error.problem)).collect()
}

fn accepted(kind: &str, version: &str, spec: &str) -> Spec {
    let file = read(kind, version, spec);
    assert!(file.errors.is_empty(), "{kind} {version} {spec}\n{:?}", file.errors);
    let document = &file.documents[0];
    assert_fits_its_schema(document);
    parse_stored(&document.key, &document.json, Default::default()).unwrap().spec
}

/// Asserts that a document is refused for one reason, by path and words.
fn refused(kind: &str, version: &str, spec: &str, path: &str, words: &str) {
    let errors = errors(kind, version, spec);
    let is_right = errors.len() == 1 && errors[0].starts_with(&format!("{path}: ")) && errors[0].contains(words);
    assert!(is_right, "wanted {path}: …{words}…, got {errors:?}\n{spec}");
}

fn rule(rule: &str) -> String {
    format!("{{rules: [{rule}]}}")
}

#[test]
fn every_served_version_of_each_kind_is_read() {
    let backend = "{backendRefs: [{name: web, port: 80}]}";
    for (kind, versions, spec) in [
        ("GatewayClass", &["v1", "v1beta1", "v1alpha2"][..], "{controllerName: istio.io/gateway-controller}".into()),
        (
            "Gateway",
            &["v1", "v1beta1", "v1alpha2"],
            "{gatewayClassName: istio, listeners: [{name: http, port: 80, protocol: HTTP}]}".into(),
        ),
        ("HTTPRoute", &["v1", "v1beta1", "v1alpha2"], rule(backend)),
        ("GRPCRoute", &["v1", "v1alpha2"], rule(backend)),
        ("TCPRoute", &["v1", "v1alpha2"], rule(backend)),
        ("TLSRoute", &["v1", "v1alpha2", "v1alpha3"], format!("{{hostnames: [a.example.com], rules: [{backend}]}}")),
        ("UDPRoute", &["v1", "v1alpha2"], rule(backend)),
        (
            "ReferenceGrant",
            &["v1", "v1beta1", "v1alpha2"],
            "{from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: b}], to: [{group: '', kind: Service}]}"
                .into(),
        ),
        (
            "BackendTLSPolicy",
            &["v1", "v1alpha3"],
            "{targetRefs: [{group: '', kind: Service, name: web}], validation: {wellKnownCACertificates: System, \
             hostname: a.b}}"
                .into(),
        ),
        (
            "ListenerSet",
            &["v1"],
            "{parentRef: {name: gw}, listeners: [{name: http, port: 80, protocol: HTTP}]}".into(),
        ),
        ("XListenerSet", &["v1alpha1"], "{parentRef: {name: gw}, listeners: [{name: http, protocol: HTTP}]}".into()),
    ] {
        for version in versions {
            accepted(kind, version, &spec);
        }
    }
}

#[test]
fn defaults_are_those_of_the_crds() {
    let Spec::HttpRoute(route) = accepted("HTTPRoute", "v1", "{parentRefs: [{name: gw}]}") else { panic!() };
    let parent = &route.parent_refs[0];
    assert_eq!((&*parent.group, &*parent.kind), ("gateway.networking.k8s.io", "Gateway"));
    assert_eq!(route.rules.len(), 1, "an absent list of rules is one rule for every request");
    assert!(route.rules[0].matches.is_empty() && route.rules[0].backend_refs.is_empty());

    let spec = rule("{matches: [{headers: [{name: a, value: b}]}], backendRefs: [{name: web, port: 80}]}");
    let Spec::HttpRoute(route) = accepted("HTTPRoute", "v1", &spec) else { panic!() };
    let one = &route.rules[0].matches[0];
    assert_eq!((one.path.kind, one.path.value.as_str()), (super::PathMatchType::PathPrefix, "/"));
    assert_eq!(one.headers[0].kind, super::ValueMatchType::Exact);
    let backend = &route.rules[0].backend_refs[0];
    assert_eq!((&*backend.group, &*backend.kind, backend.weight.get()), ("", "Service", 1));

    let spec = rule("{filters: [{type: RequestRedirect, requestRedirect: {scheme: https}}]}");
    let Spec::HttpRoute(route) = accepted("HTTPRoute", "v1", &spec) else { panic!() };
    assert_eq!(route.rules[0].filters[0].request_redirect.as_ref().unwrap().status_code.code(), 302);

    let spec = rule("{filters: [{type: CORS, cors: {allowOrigins: ['*']}}]}");
    let Spec::HttpRoute(route) = accepted("HTTPRoute", "v1", &spec) else { panic!() };
    assert_eq!(route.rules[0].filters[0].cors.as_ref().unwrap().max_age.get(), 5);

    let spec = "{gatewayClassName: c, addresses: [{value: 10.0.0.1}], listeners: [{name: a, port: 443, protocol: \
                HTTPS, tls: {certificateRefs: [{name: cert}]}}]}";
    let Spec::K8sGateway(gateway) = accepted("Gateway", "v1", spec) else { panic!() };
    let listener = &gateway.listeners[0];
    let tls = listener.tls.as_ref().unwrap();
    assert_eq!((tls.mode, &*tls.certificate_refs[0].kind), (super::TlsMode::Terminate, "Secret"));
    assert_eq!(listener.allowed_routes.namespaces.from, super::RoutesFrom::Same);
    assert_eq!(&*gateway.addresses[0].kind, "IPAddress");
}

#[test]
fn parents_are_distinct() {
    for (parents, words) in [
        ("[{name: a}, {name: a}]", "is a parent twice"),
        ("[{name: a, sectionName: x}, {name: a}]", "all must give sectionName"),
        ("[{name: a, sectionName: x}, {name: a, sectionName: x}]", "is a parent twice"),
        ("[{name: a, port: 1}, {name: a, port: 1}]", "is a parent twice"),
        ("[{name: a, port: 1}, {name: a, sectionName: x}]", "all must give sectionName"),
        ("[{name: a, port: 1, sectionName: x}, {name: a, sectionName: y}]", "all must give sectionName"),
        ("[{name: a, group: '', kind: Service}, {name: a, group: '', kind: Service}]", "is a parent twice"),
    ] {
        let path = "spec.parentRefs[1]";
        refused("HTTPRoute", "v1", &format!("{{parentRefs: {parents}}}"), path, words);
        refused("GRPCRoute", "v1", &format!("{{parentRefs: {parents}}}"), path, words);
        let spec = format!("{{parentRefs: {parents}, rules: [{{backendRefs: [{{name: a, port: 1}}]}}]}}");
        refused("TCPRoute", "v1alpha2", &spec, path, words);
    }
    for parents in [
        "[{name: a}, {name: b}]",
        "[{name: a}, {name: a, namespace: b}]",
        "[{name: a}, {name: a, group: '', kind: Service}]",
        "[{name: a, sectionName: x}, {name: a, sectionName: y}]",
        "[{name: a, port: 1}, {name: a, port: 2}]",
        "[{name: a, sectionName: x, port: 1}, {name: a, sectionName: x, port: 2}]",
    ] {
        accepted("HTTPRoute", "v1", &format!("{{parentRefs: {parents}}}"));
    }
}

#[test]
fn names_hosts_and_references_have_their_form() {
    for (spec, path, words) in [
        ("{parentRefs: [{name: ''}]}", "spec.parentRefs[0].name", "the name of a document"),
        ("{parentRefs: [{}]}", "spec.parentRefs[0].name", "is missing"),
        ("{parentRefs: [{name: a, group: 'a/b'}]}", "spec.parentRefs[0].group", "an API group"),
        ("{parentRefs: [{name: a, kind: 'a/b'}]}", "spec.parentRefs[0].kind", "a kind"),
        ("{parentRefs: [{name: a, namespace: a.b}]}", "spec.parentRefs[0].namespace", ""),
        ("{parentRefs: [{name: a, sectionName: A}]}", "spec.parentRefs[0].sectionName", "a name of"),
        ("{parentRefs: [{name: a, port: 0}]}", "spec.parentRefs[0].port", "from 1 to 65535"),
        ("{hostnames: ['a.*']}", "spec.hostnames[0]", "a DNS name"),
        ("{hostnames: ['*']}", "spec.hostnames[0]", "a DNS name"),
        ("{hostnames: [A.example.com]}", "spec.hostnames[0]", "a DNS name"),
        ("{hostnames: ['a.example.com.']}", "spec.hostnames[0]", "a DNS name"),
        ("{hostnames: ['a.example.com:80']}", "spec.hostnames[0]", "a DNS name"),
        ("{hostnames: [10.0.0.1]}", "spec.hostnames[0]", "is an address"),
        ("{rules: [{backendRefs: [{name: a}]}]}", "spec.rules[0].backendRefs[0].port", "is missing"),
        ("{rules: [{backendRefs: [{name: a, port: 1, weight: -1}]}]}", "spec.rules[0].backendRefs[0].weight", "from 0"),
        (
            "{rules: [{backendRefs: [{name: a, port: 1, weight: 1000001}]}]}",
            "spec.rules[0].backendRefs[0].weight",
            "to 1000000",
        ),
        (
            "{rules: [{backendRefs: [{name: a, port: 1, group: 'a_b'}]}]}",
            "spec.rules[0].backendRefs[0].group",
            "an API group",
        ),
        ("{rules: [{name: A}]}", "spec.rules[0].name", "a name of"),
        ("{rules: [{name: a}, {name: a}]}", "spec.rules[1]", "a is given twice"),
    ] {
        refused("HTTPRoute", "v1", spec, path, words);
    }
    accepted("HTTPRoute", "v1", "{hostnames: ['*.example.com', a, a.b.c]}");
    accepted(
        "HTTPRoute",
        "v1",
        "{rules: [{backendRefs: [{name: a, kind: ServiceImport, group: multicluster.x-k8s.io}]}]}",
    );
}

#[test]
fn lists_are_bounded() {
    let many = |one: &str, count: usize| vec![one; count].join(", ");
    for (spec, path, words) in [
        (format!("{{parentRefs: [{}]}}", many("{name: a}", 33)), "spec.parentRefs", "32 are the most"),
        (format!("{{hostnames: [{}]}}", many("a", 17)), "spec.hostnames", "16 are the most"),
        (format!("{{rules: [{}]}}", many("{}", 17)), "spec.rules", "16 are the most"),
        ("{rules: []}".into(), "spec.rules", "1 are the least"),
        (rule(&format!("{{matches: [{}]}}", many("{}", 65))), "spec.rules[0].matches", "64 are the most"),
        (
            rule(&format!("{{matches: [{{headers: [{}]}}]}}", many("{name: a, value: b}", 17))),
            "spec.rules[0].matches[0].headers",
            "16 are the most",
        ),
        (
            rule(&format!("{{backendRefs: [{}]}}", many("{name: a, port: 1}", 17))),
            "spec.rules[0].backendRefs",
            "16 are the most",
        ),
        (
            rule(&many(&format!("{{matches: [{}]}}", many("{}", 43)), 3)),
            "spec.rules",
            "has 129 matches in all; 128 are the most",
        ),
    ] {
        refused("HTTPRoute", "v1", &spec, path, words);
    }
    accepted("HTTPRoute", "v1", &rule(&many(&format!("{{matches: [{}]}}", many("{}", 64)), 2)));
    let four = many(&format!("{{matches: [{}]}}", many("{}", 43)), 3);
    refused("GRPCRoute", "v1", &rule(&four), "spec.rules", "128 are the most");
}

#[test]
fn a_path_must_be_one_that_a_request_can_have() {
    for (path, words) in [
        ("foo", "must start with /"),
        ("/a//b", "must not contain //"),
        ("/a/./b", "must not contain /./"),
        ("/a/../b", "must not contain /../"),
        ("/a%2fb", "must not contain %2f"),
        ("/a%2Fb", "must not contain %2F"),
        ("/a#b", "must not contain #"),
        ("/a/..", "must not end with /.."),
        ("/a/.", "must not end with /."),
        ("/a b", "must be a path of"),
        ("/a[0]", "must be a path of"),
        ("/a%zz", "must be a path of"),
        ("/a%2", "must be a path of"),
        ("/a?b=c", "must be a path of"),
    ] {
        for kind in ["Exact", "PathPrefix"] {
            let spec = rule(&format!("{{matches: [{{path: {{type: {kind}, value: '{path}'}}}}]}}"));
            refused("HTTPRoute", "v1", &spec, "spec.rules[0].matches[0].path.value", words);
        }
    }
    for value in ["/", "/a/", "/a-b._~!$&()*+,;=:@/%20", "/v1/.well-known"] {
        accepted("HTTPRoute", "v1", &rule(&format!("{{matches: [{{path: {{value: '{value}'}}}}]}}")));
    }
    accepted("HTTPRoute", "v1", &rule("{matches: [{path: {type: RegularExpression, value: 'a//[bc]#.*'}}]}"));
    let at = "spec.rules[0].matches[0].path.value";
    refused("HTTPRoute", "v1", &rule("{matches: [{path: {type: RegularExpression, value: '('}}]}"), at, "");
    refused(
        "HTTPRoute",
        "v1",
        &rule(&format!("{{matches: [{{path: {{value: /{}}}}}]}}", "a".repeat(1024))),
        at,
        "1024",
    );
    refused("HTTPRoute", "v1", &rule("{matches: [{path: {type: Prefix}}]}"), "spec.rules[0].matches[0].path.type", "");
}

#[test]
fn matches_of_a_request_are_checked() {
    for (one, path, words) in [
        ("headers: [{name: a, value: b}, {name: a, value: c}]", "headers[1]", "a is given twice"),
        ("headers: [{name: ':method', value: b}]", "headers[0].name", "a header's name"),
        ("headers: [{name: a, value: ''}]", "headers[0].value", "a header's value"),
        ("headers: [{name: a, value: ' b'}]", "headers[0].value", "a header's value"),
        ("headers: [{name: a, value: 'b  c'}]", "headers[0].value", "a header's value"),
        ("headers: [{name: a}]", "headers[0].value", "is missing"),
        ("headers: [{name: a, type: RegularExpression, value: '('}]", "headers[0].value", ""),
        ("headers: [{name: a, type: Prefix, value: b}]", "headers[0].type", "it must be one of"),
        ("queryParams: [{name: a, value: b}, {name: a, value: c}]", "queryParams[1]", "a is given twice"),
        ("queryParams: [{name: a, value: ''}]", "queryParams[0].value", "must not be empty"),
        ("queryParams: [{name: a}]", "queryParams[0].value", "is missing"),
        ("queryParams: [{name: a, type: RegularExpression, value: '['}]", "queryParams[0].value", ""),
        ("method: get", "method", "it must be one of"),
        ("method: NO", "method", "it must be one of"),
        ("scheme: http", "scheme", "is not a field"),
    ] {
        let path = format!("spec.rules[0].matches[0].{path}");
        refused("HTTPRoute", "v1", &rule(&format!("{{matches: [{{{one}}}]}}")), &path, words);
    }
    accepted("HTTPRoute", "v1", &rule("{matches: [{method: PATCH, headers: [{name: X-A, value: a b}]}]}"));
}

#[test]
fn a_filter_gives_the_field_of_its_type_and_no_other() {
    let header = "{set: [{name: a, value: b}]}";
    for (filter, path, words) in [
        ("type: RequestHeaderModifier".to_owned(), "requestHeaderModifier", "is missing"),
        ("type: ResponseHeaderModifier".into(), "responseHeaderModifier", "is missing"),
        ("type: RequestMirror".into(), "requestMirror", "is missing"),
        ("type: RequestRedirect".into(), "requestRedirect", "is missing"),
        ("type: URLRewrite".into(), "urlRewrite", "is missing"),
        ("type: CORS".into(), "cors", "is missing"),
        ("type: ExternalAuth".into(), "externalAuth", "is missing"),
        ("type: ExtensionRef".into(), "extensionRef", "is missing"),
        (
            format!("type: URLRewrite, urlRewrite: {{hostname: a}}, requestHeaderModifier: {header}"),
            "requestHeaderModifier",
            "is only for the type RequestHeaderModifier",
        ),
        ("type: Foo".into(), "type", "it must be one of"),
        ("urlRewrite: {}".into(), "type", "is missing"),
    ] {
        let spec = rule(&format!("{{filters: [{{{filter}}}]}}"));
        refused("HTTPRoute", "v1", &spec, &format!("spec.rules[0].filters[0].{path}"), words);
        let spec = rule(&format!("{{backendRefs: [{{name: a, port: 1, filters: [{{{filter}}}]}}]}}"));
        refused("HTTPRoute", "v1", &spec, &format!("spec.rules[0].backendRefs[0].filters[0].{path}"), words);
    }
    let spec = rule(&format!("{{filters: [{{type: RequestMirror, responseHeaderModifier: {header}}}]}}"));
    assert_eq!(errors("GRPCRoute", "v1", &spec).len(), 2);
    refused("GRPCRoute", "v1", &rule("{filters: [{type: URLRewrite}]}"), "spec.rules[0].filters[0].type", "one of");
}

#[test]
fn filters_that_decide_alone_stand_once() {
    let header = "{set: [{name: a, value: b}]}";
    for filter in [
        format!("{{type: RequestHeaderModifier, requestHeaderModifier: {header}}}"),
        format!("{{type: ResponseHeaderModifier, responseHeaderModifier: {header}}}"),
        "{type: RequestRedirect, requestRedirect: {scheme: https}}".into(),
        "{type: URLRewrite, urlRewrite: {hostname: a.b}}".into(),
        "{type: CORS, cors: {allowOrigins: ['*']}}".into(),
    ] {
        let spec = rule(&format!("{{filters: [{filter}, {filter}]}}"));
        refused("HTTPRoute", "v1", &spec, "spec.rules[0].filters[1]", "is given twice");
    }
    let mirror = "{type: RequestMirror, requestMirror: {backendRef: {name: a, port: 1}}}";
    accepted("HTTPRoute", "v1", &rule(&format!("{{filters: [{mirror}, {mirror}]}}")));
    let spec = rule(
        "{filters: [{type: RequestRedirect, requestRedirect: {scheme: https}}, {type: URLRewrite, urlRewrite: {hostname: a}}]}",
    );
    refused("HTTPRoute", "v1", &spec, "spec.rules[0].filters", "only one of RequestRedirect and URLRewrite");
    let spec = rule(&format!(
        "{{filters: [{0}, {0}]}}",
        format_args!("{{type: RequestHeaderModifier, requestHeaderModifier: {header}}}")
    ));
    refused("GRPCRoute", "v1", &spec, "spec.rules[0].filters[1]", "is given twice");
}

#[test]
fn a_redirect_stands_without_backends() {
    let spec = rule(
        "{backendRefs: [{name: a, port: 1}], filters: [{type: RequestRedirect, requestRedirect: {scheme: https}}]}",
    );
    refused("HTTPRoute", "v1", &spec, "spec.rules[0].backendRefs", "must be empty");
}

/// GEP-2826.
#[test]
fn a_direct_response_stands_without_backends_and_is_short() {
    let filter = |response: &str| format!("{{type: DirectResponse, directResponse: {response}}}");
    let of_rule = |response: &str| rule(&format!("{{filters: [{}]}}", filter(response)));
    accepted("HTTPRoute", "v1", &of_rule("{statusCode: 204}"));
    let of_length = |length: usize| of_rule(&format!("{{statusCode: 200, body: {{string: {}}}}}", "é".repeat(length)));
    accepted("HTTPRoute", "v1", &of_length(4096));
    for (spec, path, words) in [
        (of_length(4097), "filters[0].directResponse.body.string", "4096 are the most"),
        (of_rule("{statusCode: 199}"), "filters[0].directResponse.statusCode", "from 200 to 599"),
        (of_rule("{}"), "filters[0].directResponse.statusCode", "is missing"),
        (
            rule(&format!("{{backendRefs: [{{name: a, port: 1}}], filters: [{}]}}", filter("{statusCode: 200}"))),
            "backendRefs",
            "must be empty in a rule with a DirectResponse filter",
        ),
        (
            rule(&format!("{{backendRefs: [{{name: a, port: 1, filters: [{}]}}]}}", filter("{statusCode: 200}"))),
            "backendRefs[0].filters",
            "for rules, not for backends",
        ),
        (
            rule(&format!(
                "{{filters: [{}, {{type: RequestRedirect, requestRedirect: {{}}}}]}}",
                filter("{statusCode: 200}")
            )),
            "filters",
            "only one of",
        ),
    ] {
        refused("HTTPRoute", "v1", &spec, &format!("spec.rules[0].{path}"), words);
    }
}

#[test]
fn replacing_the_matched_prefix_needs_exactly_one_prefix_match() {
    let prefix = "{type: ReplacePrefixMatch, replacePrefixMatch: /x}";
    let rewrite = format!("[{{type: URLRewrite, urlRewrite: {{path: {prefix}}}}}]");
    let redirect = format!("[{{type: RequestRedirect, requestRedirect: {{path: {prefix}}}}}]");
    for filters in [
        format!("filters: {rewrite}"),
        format!("filters: {redirect}"),
        format!("backendRefs: [{{name: a, port: 1, filters: {rewrite}}}]"),
    ] {
        for matches in
            ["[{path: {type: Exact, value: /a}}]", "[{}, {}]", "[{path: {type: RegularExpression, value: /a}}]"]
        {
            let spec = rule(&format!("{{matches: {matches}, {filters}}}"));
            refused("HTTPRoute", "v1", &spec, "spec.rules[0].matches", "must be exactly one, of type PathPrefix");
        }
        accepted("HTTPRoute", "v1", &rule(&format!("{{{filters}}}")));
        accepted("HTTPRoute", "v1", &rule(&format!("{{matches: [{{path: {{value: /a}}}}], {filters}}}")));
    }
}

#[test]
fn rewrites_and_redirects_are_checked() {
    for (filter, path, words) in [
        ("urlRewrite: {path: {type: ReplaceFullPath}}", "urlRewrite.path.replaceFullPath", "is missing"),
        ("urlRewrite: {path: {type: ReplacePrefixMatch}}", "urlRewrite.path.replacePrefixMatch", "is missing"),
        (
            "urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: /, replacePrefixMatch: /}}",
            "urlRewrite.path.replacePrefixMatch",
            "is only for the type ReplacePrefixMatch",
        ),
        ("urlRewrite: {path: {type: Replace}}", "urlRewrite.path.type", "it must be one of"),
        ("urlRewrite: {hostname: '*.a'}", "urlRewrite.hostname", "a DNS name"),
        ("urlRewrite: {hostname: 'a:80'}", "urlRewrite.hostname", "a DNS name"),
        ("requestRedirect: {hostname: '*.a'}", "requestRedirect.hostname", "a DNS name"),
        ("requestRedirect: {scheme: ftp}", "requestRedirect.scheme", "it must be one of"),
        ("requestRedirect: {statusCode: 200}", "requestRedirect.statusCode", "from 300 to 399"),
        ("requestRedirect: {statusCode: 304}", "requestRedirect.statusCode", "one of 301, 302"),
        ("requestRedirect: {port: 0}", "requestRedirect.port", "from 1"),
    ] {
        let kind = if filter.starts_with("url") { "URLRewrite" } else { "RequestRedirect" };
        let spec = rule(&format!("{{filters: [{{type: {kind}, {filter}}}]}}"));
        refused("HTTPRoute", "v1", &spec, &format!("spec.rules[0].filters[0].{path}"), words);
    }
    for code in [301, 302, 303, 307, 308] {
        let spec = format!("{{filters: [{{type: RequestRedirect, requestRedirect: {{statusCode: {code}}}}}]}}");
        accepted("HTTPRoute", "v1", &rule(&spec));
    }
}

#[test]
fn header_filters_name_each_header_once() {
    for (filter, path, words) in [
        ("{set: [{name: a, value: b}, {name: a, value: c}]}", ".set[1]", "a is given twice"),
        ("{add: [{name: a, value: b}, {name: a, value: c}]}", ".add[1]", "a is given twice"),
        ("{remove: [a, a]}", ".remove[1]", "a is given twice"),
        ("{set: [{name: 'a b', value: b}]}", ".set[0].name", "a header's name"),
        ("{set: [{name: a, value: \"b\\n\"}]}", ".set[0].value", "a header's value"),
    ] {
        let spec = rule(&format!("{{filters: [{{type: RequestHeaderModifier, requestHeaderModifier: {filter}}}]}}"));
        let path = format!("spec.rules[0].filters[0].requestHeaderModifier{path}");
        refused("HTTPRoute", "v1", &spec, &path, words);
        refused("GRPCRoute", "v1", &spec, &path, words);
    }
    let filter = "{set: [{name: a, value: b}], remove: [A]}";
    let spec = rule(&format!("{{filters: [{{type: RequestHeaderModifier, requestHeaderModifier: {filter}}}]}}"));
    let file = read("HTTPRoute", "v1", &spec);
    assert!(file.errors.is_empty());
    assert!(file.notices[0].text.contains("changes the header A more than once"), "{:?}", file.notices);
}

#[test]
fn a_mirrors_share_is_a_percentage_or_a_fraction() {
    for (share, path, words) in [
        ("percent: 10, fraction: {numerator: 1}", "", "only one of percent, fraction"),
        ("percent: 101", ".percent", "from 0 to 100"),
        ("fraction: {numerator: 101}", ".fraction.numerator", "at most the denominator, 100"),
        ("fraction: {numerator: 1, denominator: 0}", ".fraction.denominator", "from 1"),
        ("fraction: {numerator: -1}", ".fraction.numerator", "from 0"),
    ] {
        let spec = format!(
            "{{filters: [{{type: RequestMirror, requestMirror: {{backendRef: {{name: a, port: 1}}, {share}}}}}]}}"
        );
        refused("HTTPRoute", "v1", &rule(&spec), &format!("spec.rules[0].filters[0].requestMirror{path}"), words);
    }
    let spec = rule("{filters: [{type: RequestMirror, requestMirror: {backendRef: {name: a}}}]}");
    refused("HTTPRoute", "v1", &spec, "spec.rules[0].filters[0].requestMirror.backendRef.port", "is missing");
    for (share, expected) in
        [("", (1, 1)), ("percent: 42", (42, 100)), ("fraction: {numerator: 1, denominator: 3}", (1, 3))]
    {
        let spec = format!(
            "{{filters: [{{type: RequestMirror, requestMirror: {{backendRef: {{name: a, port: 1}}, {share}}}}}]}}"
        );
        let Spec::HttpRoute(route) = accepted("HTTPRoute", "v1", &rule(&spec)) else { panic!() };
        assert_eq!(route.rules[0].filters[0].request_mirror.as_ref().unwrap().share(), expected);
    }
}

#[test]
fn cross_origin_lists_hold_an_asterisk_alone_and_nothing_twice() {
    for (cors, path, words) in [
        ("allowOrigins: ['*', 'https://a.b']", "allowOrigins", "* must stand alone"),
        ("allowMethods: ['*', GET]", "allowMethods", "* must stand alone"),
        ("allowHeaders: ['*', a]", "allowHeaders", "* must stand alone"),
        ("allowMethods: [GET, GET]", "allowMethods[1]", "is given twice"),
        ("allowOrigins: ['https://a.b', 'https://a.b']", "allowOrigins[1]", "is given twice"),
        ("allowOrigins: [a.b]", "allowOrigins[0]", "an origin"),
        ("allowOrigins: ['https://a.*.b']", "allowOrigins[0]", "an origin"),
        ("allowOrigins: ['https://a.b/c']", "allowOrigins[0]", "an origin"),
        ("allowMethods: [get]", "allowMethods[0]", "it must be one of"),
        ("maxAge: 0", "maxAge", "from 1"),
        ("allowHeaders: ['a b']", "allowHeaders[0]", "a header's name"),
    ] {
        let spec = rule(&format!("{{filters: [{{type: CORS, cors: {{{cors}}}}}]}}"));
        refused("HTTPRoute", "v1", &spec, &format!("spec.rules[0].filters[0].cors.{path}"), words);
    }
    let cors = "allowOrigins: ['https://*.a.b', 'http://c:8080', 'https://*'], allowCredentials: true, maxAge: 3600, \
                allowMethods: ['*'], exposeHeaders: ['*', a]";
    accepted("HTTPRoute", "v1", &rule(&format!("{{filters: [{{type: CORS, cors: {{{cors}}}}}]}}")));
}

#[test]
fn external_authorization_gives_the_field_of_its_protocol() {
    let with = |rest: &str| rule(&format!("{{filters: [{{type: ExternalAuth, externalAuth: {{{rest}}}}}]}}"));
    let at = "spec.rules[0].filters[0].externalAuth";
    let backend = "backendRef: {name: a, port: 1}";
    for (rest, path, words) in [
        (format!("protocol: HTTP, {backend}"), ".http", "is missing"),
        (format!("protocol: GRPC, {backend}"), ".grpc", "is missing"),
        (format!("protocol: GRPC, {backend}, grpc: {{}}, http: {{}}"), ".http", "is only for the type HTTP"),
        (format!("{backend}, http: {{}}"), ".protocol", "is missing"),
        ("protocol: HTTP, http: {}".into(), ".backendRef", "is missing"),
        (format!("protocol: HTTP, {backend}, http: {{path: '/a?b'}}"), ".http.path", "must be a path"),
        (
            format!("protocol: HTTP, {backend}, http: {{}}, forwardBody: {{maxSize: -1}}"),
            ".forwardBody.maxSize",
            "from 0",
        ),
    ] {
        refused("HTTPRoute", "v1", &with(&rest), &format!("{at}{path}"), words);
    }
    accepted("HTTPRoute", "v1", &with(&format!("protocol: HTTP, {backend}, http: {{path: /a, allowedHeaders: [b]}}")));
}

#[test]
fn timeouts_are_durations_in_order() {
    for (timeouts, path, words) in [
        ("request: 1s, backendRequest: 2s", ".backendRequest", "must not be longer than request"),
        ("request: 500ms, backendRequest: 1m", ".backendRequest", "must not be longer than request"),
        ("request: 1.5s", ".request", "is not a duration"),
        ("request: 100000s", ".request", "is not a duration"),
        ("backendRequest: 5", ".backendRequest", "it must be text"),
    ] {
        let spec = rule(&format!("{{timeouts: {{{timeouts}}}}}"));
        refused("HTTPRoute", "v1", &spec, &format!("spec.rules[0].timeouts{path}"), words);
    }
    for timeouts in ["request: 0s, backendRequest: 2s", "request: 2s, backendRequest: 2s", "backendRequest: 1h"] {
        accepted("HTTPRoute", "v1", &rule(&format!("{{timeouts: {{{timeouts}}}}}")));
    }
}

#[test]
fn retries_and_sessions_are_checked() {
    for (rest, path, words) in [
        ("retry: {codes: [399]}", "retry.codes[0]", "from 400 to 599"),
        ("retry: {codes: [500, 500]}", "retry.codes[1]", "500 is given twice"),
        ("retry: {attempts: -1}", "retry.attempts", "from 0"),
        ("retry: {backoff: 1us}", "retry.backoff", "is not a duration"),
        (
            "sessionPersistence: {cookieConfig: {lifetimeType: Permanent}}",
            "sessionPersistence.absoluteTimeout",
            "is missing",
        ),
        ("sessionPersistence: {type: Query}", "sessionPersistence.type", "it must be one of"),
        ("sessionPersistence: {sessionName: a b}", "sessionPersistence.sessionName", "cannot be the name"),
        (
            "sessionPersistence: {type: Header, sessionName: Host}",
            "sessionPersistence.sessionName",
            "cannot be the name",
        ),
    ] {
        refused("HTTPRoute", "v1", &rule(&format!("{{{rest}}}")), &format!("spec.rules[0].{path}"), words);
    }
    let name = format!("{{sessionPersistence: {{sessionName: {}}}}}", "a".repeat(129));
    refused("GRPCRoute", "v1", &rule(&name), "spec.rules[0].sessionPersistence.sessionName", "128 are the most");
    accepted("HTTPRoute", "v1", &rule("{retry: {codes: [500, 503], attempts: 0, backoff: 100ms}}"));
}

#[test]
fn a_grpc_method_match_names_a_service_or_a_method() {
    for (method, path, words) in [
        ("{}", "", "one of service, method must be given"),
        ("{type: RegularExpression}", "", "one of service, method must be given"),
        ("{service: 'a/b'}", ".service", "must be a name"),
        ("{service: 1a}", ".service", "must be a name"),
        ("{service: a..b}", ".service", "must be a name"),
        ("{method: 'a.b'}", ".method", "must be a name"),
        ("{method: 'foo!'}", ".method", "must be a name"),
        ("{type: RegularExpression, method: '('}", ".method", ""),
        ("{type: Prefix, method: a}", ".type", "it must be one of"),
    ] {
        let spec = rule(&format!("{{matches: [{{method: {method}}}]}}"));
        refused("GRPCRoute", "v1", &spec, &format!("spec.rules[0].matches[0].method{path}"), words);
    }
    for method in
        ["{service: .a.B_1}", "{method: _a}", "{service: a, method: b}", "{type: RegularExpression, method: '[a-z]+'}"]
    {
        accepted("GRPCRoute", "v1", &rule(&format!("{{matches: [{{method: {method}}}]}}")));
    }
    accepted("GRPCRoute", "v1", "{parentRefs: [{name: a}]}");
}

#[test]
fn connection_routes_have_one_rule_from_v1_on_and_backends() {
    let backend = "{backendRefs: [{name: a, port: 1}]}";
    let two = format!("{{hostnames: [a.b], rules: [{backend}, {backend}]}}");
    refused("TLSRoute", "v1", &two, "spec.rules", "1 is the most");
    accepted("TLSRoute", "v1alpha2", &two);
    for kind in ["TCPRoute", "UDPRoute"] {
        refused(kind, "v1", &rule(&format!("{backend}, {backend}")), "spec.rules", "1 is the most");
        accepted(kind, "v1alpha2", &rule(&format!("{backend}, {backend}")));
        refused(kind, "v1alpha2", "{rules: []}", "spec.rules", "1 are the least");
        refused(kind, "v1alpha2", "{}", "spec.rules", "is missing");
        refused(kind, "v1alpha2", "{rules: [{}]}", "spec.rules[0].backendRefs", "is missing");
        refused(
            kind,
            "v1alpha2",
            "{rules: [{backendRefs: [{name: a}]}]}",
            "spec.rules[0].backendRefs[0].port",
            "is missing",
        );
        let named = "{name: x, backendRefs: [{name: a, port: 1}]}";
        refused(kind, "v1alpha2", &rule(&format!("{named}, {named}")), "spec.rules[1]", "x is given twice");
    }
}

#[test]
fn a_tls_route_names_its_hosts_from_v1alpha3_on() {
    let backend = "rules: [{backendRefs: [{name: a, port: 1}]}]";
    for version in ["v1", "v1alpha3"] {
        refused("TLSRoute", version, &format!("{{{backend}}}"), "spec.hostnames", "at least one name");
    }
    accepted("TLSRoute", "v1alpha2", &format!("{{{backend}}}"));
    refused("TLSRoute", "v1", &format!("{{hostnames: [1.2.3.4], {backend}}}"), "spec.hostnames[0]", "is an address");
    refused("TLSRoute", "v1", &format!("{{hostnames: ['a.*.b'], {backend}}}"), "spec.hostnames[0]", "a DNS name");
}

fn listeners(listeners: &str) -> String {
    format!("{{gatewayClassName: istio, listeners: [{listeners}]}}")
}

#[test]
fn listeners_are_distinct() {
    for (second, path, words) in [
        ("{name: a, port: 81, protocol: HTTP}", "spec.listeners[1]", "a is given twice"),
        ("{name: b, port: 80, protocol: HTTP}", "spec.listeners[1]", "has the same port 80"),
        ("{name: b, port: 80, protocol: http}", "spec.listeners[1]", "has the same port 80"),
    ] {
        let spec = listeners(&format!("{{name: a, port: 80, protocol: HTTP}}, {second}"));
        refused("Gateway", "v1", &spec, path, words);
        let set = spec.replace("gatewayClassName: istio", "parentRef: {name: gw}");
        refused("ListenerSet", "v1", &set, path, words);
    }
    for second in [
        "{name: b, port: 81, protocol: HTTP}",
        "{name: b, port: 80, protocol: HTTP, hostname: a.b}",
        "{name: b, port: 80, protocol: TCP}",
    ] {
        accepted("Gateway", "v1", &listeners(&format!("{{name: a, port: 80, protocol: HTTP}}, {second}")));
    }
}

#[test]
fn a_listeners_fields_fit_its_protocol() {
    let tls = "tls: {certificateRefs: [{name: a}]}";
    for (listener, path, words) in [
        (format!("port: 80, protocol: HTTP, {tls}"), ".tls", "is not for the protocol HTTP"),
        (format!("port: 80, protocol: tcp, {tls}"), ".tls", "is not for the protocol TCP"),
        (format!("port: 80, protocol: UDP, {tls}"), ".tls", "is not for the protocol UDP"),
        ("port: 80, protocol: TCP, hostname: a.b".into(), ".hostname", "is not for the protocol TCP"),
        ("port: 80, protocol: UDP, hostname: a.b".into(), ".hostname", "is not for the protocol UDP"),
        ("port: 443, protocol: HTTPS, tls: {mode: Passthrough}".into(), ".tls.mode", "must be Terminate"),
        ("port: 443, protocol: HTTPS, tls: {}".into(), ".tls", "certificateRefs or options must be given"),
        ("port: 443, protocol: TLS, tls: {mode: Terminate}".into(), ".tls", "certificateRefs or options must be given"),
        ("port: 443, protocol: TLS".into(), ".tls", "is missing"),
        ("port: 443, protocol: TLS, tls: {mode: Foo}".into(), ".tls.mode", "it must be one of"),
        ("port: 0, protocol: HTTP".into(), ".port", "from 1"),
        ("port: 70000, protocol: HTTP".into(), ".port", "to 65535"),
        ("port: 80, protocol: example.com".into(), ".protocol", "a protocol"),
        ("port: 80".into(), ".protocol", "is missing"),
        ("port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: None}}".into(), ".allowedRoutes.namespaces.from", ""),
        (
            "port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: Selector}}".into(),
            ".allowedRoutes.namespaces.selector",
            "is missing",
        ),
        (
            "port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: Selector, selector: {matchExpressions: [{key: a, operator: In}]}}}".into(),
            ".allowedRoutes.namespaces.selector.matchExpressions[0].values",
            "at least one value",
        ),
    ] {
        let spec = listeners(&format!("{{name: a, {listener}}}"));
        refused("Gateway", "v1", &spec, &format!("spec.listeners[0]{path}"), words);
        if !words.starts_with("from 1") {
            let set = spec.replace("gatewayClassName: istio", "parentRef: {name: gw}");
            refused("ListenerSet", "v1", &set, &format!("spec.listeners[0]{path}"), words);
        }
    }
    for listener in [
        format!("port: 443, protocol: HTTPS, {tls}"),
        "port: 443, protocol: HTTPS, tls: {options: {gateway.istio.io/tls-terminate-mode: ISTIO_MUTUAL}}".into(),
        "port: 443, protocol: TLS, tls: {mode: Passthrough}".into(),
        "port: 15008, protocol: HBONE".into(),
        "port: 80, protocol: example.com/bar".into(),
        "port: 80, protocol: HTTP, allowedRoutes: {kinds: [{kind: HTTPRoute}], namespaces: {from: All}}".into(),
    ] {
        accepted("Gateway", "v1", &listeners(&format!("{{name: a, {listener}}}")));
    }
    refused(
        "Gateway",
        "v1",
        &listeners("{name: 'bad>', port: 80, protocol: HTTP}"),
        "spec.listeners[0].name",
        "a name of",
    );
    refused("Gateway", "v1", "{gatewayClassName: a, listeners: []}", "spec.listeners", "1 are the least");
    refused(
        "Gateway",
        "v1",
        "{listeners: [{name: a, port: 80, protocol: HTTP}]}",
        "spec.gatewayClassName",
        "is missing",
    );
    let file = read("Gateway", "v1", &listeners("{name: a, port: 443, protocol: HTTPS}"));
    assert!(file.errors.is_empty() && file.notices.len() == 1);
}

#[test]
fn a_gateways_addresses_are_of_their_type_and_distinct() {
    let with = |addresses: &str| {
        format!("{{gatewayClassName: a, listeners: [{{name: a, port: 80, protocol: HTTP}}], addresses: [{addresses}]}}")
    };
    for (addresses, path, words) in [
        ("{value: 256.1.1.1}", "[0].value", "is not an IP address"),
        ("{type: IPAddress, value: a.b}", "[0].value", "is not an IP address"),
        ("{type: Hostname, value: A_b}", "[0].value", "is not a host name"),
        ("{type: Foo, value: a}", "[0].type", "NamedAddress"),
        ("{value: 1.1.1.1}, {value: 1.1.1.1}", "[1]", "1.1.1.1 is given twice"),
        ("{type: Hostname, value: a.b}, {type: Hostname, value: a.b}", "[1]", "a.b is given twice"),
    ] {
        refused("Gateway", "v1", &with(addresses), &format!("spec.addresses{path}"), words);
    }
    for addresses in
        ["{value: '2001:db8::1'}", "{type: Hostname, value: '*.a.b'}", "{type: example.com/a, value: B}", "{}"]
    {
        accepted("Gateway", "v1", &with(addresses));
    }
}

#[test]
fn other_fields_of_a_gateway_are_checked() {
    let with =
        |rest: &str| format!("{{gatewayClassName: a, listeners: [{{name: a, port: 80, protocol: HTTP}}], {rest}}}");
    let labels: Vec<String> = (0..9).map(|i| format!("a{i}: b")).collect();
    let options: Vec<String> = (0..17).map(|i| format!("a.b/c{i}: d")).collect();
    for (rest, path, words) in [
        (format!("infrastructure: {{labels: {{{}}}}}", labels.join(", ")), "infrastructure.labels", "8 are the most"),
        (
            format!("infrastructure: {{annotations: {{{}}}}}", options.join(", ")),
            "infrastructure.annotations",
            "16 are the most",
        ),
        (
            "infrastructure: {parametersRef: {group: '', kind: ConfigMap}}".into(),
            "infrastructure.parametersRef.name",
            "is missing",
        ),
        (
            "allowedListeners: {namespaces: {from: Selector}}".into(),
            "allowedListeners.namespaces.selector",
            "is missing",
        ),
        (
            "tls: {frontend: {default: {}, perPort: [{port: 1, tls: {}}, {port: 1, tls: {}}]}}".into(),
            "tls.frontend.perPort[1]",
            "1 is given twice",
        ),
        (
            "tls: {frontend: {default: {validation: {caCertificateRefs: []}}}}".into(),
            "tls.frontend.default.validation.caCertificateRefs",
            "1 are the least",
        ),
        ("tls: {frontend: {}}".into(), "tls.frontend.default", "is missing"),
        ("defaultScope: Some".into(), "defaultScope", "it must be one of"),
    ] {
        refused("Gateway", "v1", &with(&rest), &format!("spec.{path}"), words);
    }
    accepted("Gateway", "v1", &with("tls: {backend: {clientCertificateRef: {name: a}}}, defaultScope: All"));
}

#[test]
fn a_listener_set_gives_ports_from_v1_on() {
    let spec = "{parentRef: {name: gw}, listeners: [{name: a, protocol: HTTP}]}";
    refused("ListenerSet", "v1", spec, "spec.listeners[0].port", "must be given");
    refused(
        "ListenerSet",
        "v1",
        &spec.replace("name: a", "port: 0, name: a"),
        "spec.listeners[0].port",
        "must be given",
    );
    accepted("XListenerSet", "v1alpha1", spec);
    refused("ListenerSet", "v1", "{listeners: [{name: a, port: 1, protocol: HTTP}]}", "spec.parentRef", "is missing");
}

#[test]
fn a_class_names_its_controller() {
    for (spec, path, words) in [
        ("{controllerName: example.com}".to_owned(), "controllerName", "a DNS name, '/' and a path"),
        ("{controllerName: ''}".into(), "controllerName", "a DNS name, '/' and a path"),
        ("{}".into(), "controllerName", "is missing"),
        (format!("{{controllerName: a.b/c, description: {}}}", "a".repeat(65)), "description", "64 are the most"),
        ("{controllerName: a.b/c, parametersRef: {kind: A, name: b}}".into(), "parametersRef.group", "is missing"),
    ] {
        refused("GatewayClass", "v1", &spec, &format!("spec.{path}"), words);
    }
}

#[test]
fn a_reference_grant_says_from_whom_and_to_what() {
    let (from, to) = ("from: [{group: a.b, kind: A, namespace: b}]", "to: [{group: '', kind: Secret, name: c}]");
    accepted("ReferenceGrant", "v1beta1", &format!("{{{from}, {to}}}"));
    for (spec, path, words) in [
        (format!("{{{from}}}"), "to", "is missing"),
        (format!("{{{to}}}"), "from", "is missing"),
        (format!("{{{from}, to: []}}"), "to", "1 are the least"),
        (format!("{{{to}, from: [{{group: a.b, kind: A}}]}}"), "from[0].namespace", "is missing"),
        (format!("{{{to}, from: [{{kind: A, namespace: b}}]}}"), "from[0].group", "is missing"),
        (format!("{{{from}, to: [{{kind: A}}]}}"), "to[0].group", "is missing"),
    ] {
        refused("ReferenceGrant", "v1", &spec, &format!("spec.{path}"), words);
    }
}

#[test]
fn a_backend_tls_policy_says_whose_certificates_it_trusts() {
    let target = "targetRefs: [{group: '', kind: Service, name: a}]";
    let ca = "caCertificateRefs: [{group: '', kind: ConfigMap, name: ca}]";
    for (spec, path, words) in [
        (
            format!("{{{target}, validation: {{hostname: a.b}}}}"),
            "validation",
            "one of caCertificateRefs, wellKnownCACertificates must be given",
        ),
        (
            format!("{{{target}, validation: {{hostname: a.b, {ca}, wellKnownCACertificates: System}}}}"),
            "validation",
            "only one of caCertificateRefs, wellKnownCACertificates",
        ),
        (format!("{{{target}, validation: {{{ca}}}}}"), "validation.hostname", "is missing"),
        (format!("{{{target}, validation: {{{ca}, hostname: '*.a'}}}}"), "validation.hostname", "a DNS name"),
        (format!("{{{target}, validation: {{{ca}, hostname: 'a:1'}}}}"), "validation.hostname", "a DNS name"),
        (format!("{{{target}}}"), "validation", "is missing"),
        (format!("{{targetRefs: [], validation: {{hostname: a.b, {ca}}}}}"), "targetRefs", "1 are the least"),
        (
            format!(
                "{{targetRefs: [{0}, {0}], validation: {{hostname: a.b, {ca}}}}}",
                "{group: '', kind: Service, name: a}"
            ),
            "targetRefs[1]",
            "is a target twice",
        ),
        (
            format!(
                "{{targetRefs: [{{group: '', kind: Service, name: a, sectionName: x}}, {{group: '', kind: Service, name: a}}], \
                 validation: {{hostname: a.b, {ca}}}}}"
            ),
            "targetRefs[1]",
            "all must give sectionName",
        ),
        (
            format!("{{{target}, validation: {{hostname: a.b, {ca}, subjectAltNames: [{{type: Hostname}}]}}}}"),
            "validation.subjectAltNames[0].hostname",
            "is missing",
        ),
        (
            format!("{{{target}, validation: {{hostname: a.b, {ca}, subjectAltNames: [{{type: URI}}]}}}}"),
            "validation.subjectAltNames[0].uri",
            "is missing",
        ),
        (
            format!(
                "{{{target}, validation: {{hostname: a.b, {ca}, subjectAltNames: [{{type: URI, uri: 'spiffe://a/b', hostname: c}}]}}}}"
            ),
            "validation.subjectAltNames[0].hostname",
            "is only for the type Hostname",
        ),
        (
            format!("{{{target}, validation: {{hostname: a.b, {ca}, subjectAltNames: [{{type: URI, uri: a/b}}]}}}}"),
            "validation.subjectAltNames[0].uri",
            "a URI with its scheme",
        ),
    ] {
        refused("BackendTLSPolicy", "v1", &spec, &format!("spec.{path}"), words);
    }
    accepted(
        "BackendTLSPolicy",
        "v1alpha3",
        &format!(
            "{{{target}, validation: {{hostname: a.b, {ca}, subjectAltNames: [{{type: URI, uri: 'spiffe://a/b'}}]}}}}"
        ),
    );
}

#[test]
fn a_label_selector_selects_by_all_its_conditions() {
    let labels = std::collections::BTreeMap::from([("a".to_owned(), "b".to_owned())]);
    for (selector, expected) in [
        ("{}", true),
        ("{matchLabels: {a: b}}", true),
        ("{matchLabels: {a: c}}", false),
        ("{matchLabels: {a: b, c: d}}", false),
        ("{matchExpressions: [{key: a, operator: In, values: [b, c]}]}", true),
        ("{matchExpressions: [{key: a, operator: NotIn, values: [b]}]}", false),
        ("{matchExpressions: [{key: c, operator: NotIn, values: [b]}]}", true),
        ("{matchExpressions: [{key: a, operator: Exists}]}", true),
        ("{matchLabels: {a: b}, matchExpressions: [{key: a, operator: DoesNotExist}]}", false),
    ] {
        let spec = listeners(&format!(
            "{{name: a, port: 80, protocol: HTTP, allowedRoutes: {{namespaces: {{from: Selector, selector: {selector}}}}}}}"
        ));
        let Spec::K8sGateway(gateway) = accepted("Gateway", "v1", &spec) else { panic!() };
        let selector = gateway.listeners[0].allowed_routes.namespaces.selector.as_ref().unwrap();
        assert_eq!(selector.selects(&labels), expected, "{selector:?}");
    }
}

#[test]
fn a_file_of_many_kinds_is_read_and_fits_their_schemas() {
    let text = include_str!("../../../fuzz/seeds/yaml/gateway.yaml");
    let file = parse_yaml(text, &"default".parse().unwrap()).unwrap();
    assert!(file.errors.is_empty() && file.notices.is_empty(), "{:?} {:?}", file.errors, file.notices);
    for document in &file.documents {
        assert_fits_its_schema(document);
        let again = parse_yaml(&document.json, &"default".parse().unwrap()).unwrap();
        assert_eq!(again.documents, std::slice::from_ref(document), "JSON is YAML, and parsing it changes nothing");
        assert!(parse_stored(&document.key, &document.json, Default::default()).is_ok());
    }
    assert_eq!(file.documents.len(), 4);
}

proptest::proptest! {
    #[test]
    fn no_value_makes_reading_panic(text in ".{0,40}", number: i64, place in 0_usize..12) {
        let quoted = serde_json::to_string(&text).unwrap();
        let matches = |one: &str| rule(&format!("{{matches: [{{{one}}}]}}"));
        let spec = match place {
            0 => format!("{{hostnames: [{quoted}]}}"),
            1 => matches(&format!("path: {{value: {quoted}}}")),
            2 => matches(&format!("path: {{type: RegularExpression, value: {quoted}}}")),
            3 => matches(&format!("headers: [{{name: a, value: {quoted}}}]")),
            4 => matches(&format!("headers: [{{name: {quoted}, value: a}}]")),
            5 => matches(&format!("queryParams: [{{name: a, type: RegularExpression, value: {quoted}}}]")),
            6 => rule(&format!("{{timeouts: {{request: {quoted}, backendRequest: 1s}}}}")),
            7 => rule(&format!("{{backendRefs: [{{name: {quoted}, port: {number}, weight: {number}}}]}}")),
            8 => rule(&format!("{{filters: [{{type: {quoted}}}]}}")),
            9 => rule(&format!("{{filters: [{{type: CORS, cors: {{allowOrigins: [{quoted}], maxAge: {number}}}}}]}}")),
            10 => format!("{{parentRefs: [{{name: {quoted}, group: {quoted}, kind: {quoted}, namespace: {quoted}}}]}}"),
            _ => rule(&format!("{{retry: {{codes: [{number}], attempts: {number}, backoff: {quoted}}}}}")),
        };
        let parse = |kind: &str, spec: &str| drop(parse_yaml(&text_of(kind, "v1", spec), &"default".parse().unwrap()));
        for kind in ["HTTPRoute", "GRPCRoute", "TLSRoute"] {
            parse(kind, &spec);
        }
        let listener = format!("{{name: {quoted}, port: {number}, protocol: {quoted}, hostname: {quoted}}}");
        parse("Gateway", &format!("{{gatewayClassName: {quoted}, listeners: [{listener}], addresses: [{{value: {quoted}}}]}}"));
    }
}

#[test]
fn a_filter_of_somebody_elses_is_refused() {
    let filter = "{type: ExtensionRef, extensionRef: {group: example.com, kind: Thing, name: a}}";
    for kind in ["HTTPRoute", "GRPCRoute"] {
        let path = "spec.rules[0].filters[0].extensionRef";
        refused(kind, "v1", &rule(&format!("{{filters: [{filter}]}}")), path, "is not a filter that weft has");
    }
}

#[test]
fn what_gateways_ask_for_is_pending_and_what_services_do_is_not() {
    for (fields, expected) in [
        ("parentRefs: [{group: '', kind: Service, name: a}], rules: [{backendRefs: [{name: a, port: 1}]}]", vec![]),
        ("parentRefs: [{name: gw}], rules: [{}]", vec!["spec.parentRefs"]),
        ("rules: [{sessionPersistence: {}}]", vec![]),
    ] {
        for kind in ["HTTPRoute", "GRPCRoute"] {
            let file = read(kind, "v1", &format!("{{{fields}}}"));
            let [document] = &file.documents[..] else { panic!("{:?}", file.errors) };
            let pending = parse_stored(&document.key, &document.json, Default::default()).unwrap().pending;
            assert_eq!(pending.iter().map(|one| one.path.as_str()).collect::<Vec<_>>(), expected, "{kind} {fields}");
        }
    }
}
