use super::*;
use crate::api::tests::pending;

const KIND: &str = "VirtualService";

/// A spec whose only rule has a route, and this.
fn with(rule: &str) -> String {
    format!("{{hosts: [a], http: [{{route: [{{destination: {{host: a}}}}], {rule}}}]}}")
}

/// One whose only rule has this and no more.
fn of(rule: &str) -> String {
    format!("{{hosts: [a], http: [{{{rule}}}]}}")
}

fn assert_rules_refused(cases: &[(&str, &str)]) {
    for (rule, wanted) in cases {
        assert_refused(KIND, &[(&with(rule), wanted)]);
    }
}

fn assert_rules_accepted(rules: &[&str]) {
    for rule in rules {
        assert_accepted(KIND, &[&with(rule)]);
    }
}

#[test]
fn a_rule_does_one_thing() {
    for (rule, wanted) in [
        ("redirect: {uri: /}, directResponse: {status: 200}", "only one of redirect, directResponse"),
        ("redirect: {uri: /}, fault: {abort: {httpStatus: 500}}", "only one of redirect, fault"),
        ("redirect: {uri: /}, rewrite: {uri: /}", "only one of redirect, rewrite"),
        ("directResponse: {status: 200}, rewrite: {uri: /}", "only one of directResponse, rewrite"),
        ("directResponse: {status: 200}, fault: {abort: {httpStatus: 500}}", "only one of directResponse, fault"),
        ("route: [{destination: {host: a}}], redirect: {uri: /}", "only one of route, redirect"),
        ("route: [{destination: {host: a}}], directResponse: {status: 200}", "only one of route, directResponse"),
        ("route: [{destination: {host: a}}], delegate: {name: a}", "only one of route, delegate"),
        ("redirect: {uri: /}, delegate: {name: a}", "only one of redirect, delegate"),
        ("timeout: 1s", "one of route, redirect, directResponse, delegate must be given"),
    ] {
        assert_refused(KIND, &[(&of(rule), wanted)]);
    }
    assert_rules_refused(&[("mirror: {host: a}, mirrors: [{destination: {host: b}}]", "only one of mirror, mirrors")]);
    let right = ["redirect: {uri: /}", "directResponse: {status: 200}", "delegate: {name: a, namespace: b}"];
    for rule in right {
        assert_accepted(KIND, &[&of(rule)]);
    }
}

#[test]
fn a_redirect_sets_something_and_answers_3xx() {
    for (rule, wanted) in [
        ("redirect: {}", "must set uri, prefixRewrite, authority, port or scheme"),
        ("redirect: {redirectCode: 301}", "must set uri"),
        ("redirect: {uri: /, redirectCode: 200}", "from 300 to 399"),
        ("redirect: {scheme: ftp}", "must be http or https"),
        ("redirect: {port: 0}", "from 1 to 65535"),
        ("redirect: {port: 80, derivePort: FROM_REQUEST_PORT}", "only one of port, derivePort"),
        ("match: [{uri: {prefix: /a}}], redirect: {uri: /, prefixRewrite: /b}", "only one of uri, prefixRewrite"),
        ("redirect: {prefixRewrite: /b}", "every match must have a prefix of uri"),
        ("match: [{uri: {prefix: /a}}, {uri: {exact: /b}}], redirect: {prefixRewrite: /b}", "every match must have"),
    ] {
        assert_refused(KIND, &[(&of(rule), wanted)]);
    }
    for rule in
        ["match: [{uri: {prefix: /a}}], redirect: {prefixRewrite: /b}", "redirect: {scheme: https, redirectCode: 308}"]
    {
        assert_accepted(KIND, &[&of(rule)]);
    }
}

#[test]
fn a_direct_response_has_a_status_and_at_most_1_mib() {
    for (rule, wanted) in [
        ("directResponse: {}", "status is missing"),
        ("directResponse: {status: 199}", "from 200 to 599"),
        ("directResponse: {status: 600}", "from 200 to 599"),
        ("directResponse: {status: 200, body: {}}", "one of string, bytes must be given"),
        ("directResponse: {status: 200, body: {string: a, bytes: YQ==}}", "only one of string, bytes"),
        ("directResponse: {status: 200, body: {bytes: '%'}}", "is not base64"),
    ] {
        assert_refused(KIND, &[(&of(rule), wanted)]);
    }
    assert_accepted(KIND, &[&of("directResponse: {status: 503, body: {bytes: YQ==}}")]);
}

#[test]
fn a_fault_is_an_abort_or_a_delay() {
    assert_rules_refused(&[
        ("fault: {}", "must give delay or abort"),
        ("fault: {abort: {httpStatus: 199}}", "from 200 to 599"),
        ("fault: {abort: {grpcStatus: NOPE}}", "it must be one of OK, CANCELLED"),
        ("fault: {abort: {http2Error: x}}", "http2Error: is not supported"),
        ("fault: {abort: {httpStatus: 500, grpcStatus: UNAVAILABLE}}", "only one of httpStatus, grpcStatus"),
        ("fault: {abort: {httpStatus: 500, percentage: {value: 101}}}", "from 0.0001 to 100"),
        ("fault: {abort: {httpStatus: 500, percentage: {value: 0.00001}}}", "from 0.0001 to 100"),
        ("fault: {delay: {fixedDelay: 0s}}", "is below 1ms"),
        ("fault: {delay: {exponentialDelay: 1s}}", "exponentialDelay: is not implemented"),
        ("fault: {delay: {fixedDelay: 1s, percent: 101}}", "from 0 to 100"),
    ]);
    assert_rules_accepted(&[
        "fault: {delay: {fixedDelay: 7s, percentage: {value: 100}}, abort: {grpcStatus: UNAVAILABLE}}",
    ]);
    assert_noticed(KIND, &[(&with("fault: {abort: {percentage: {value: 1}}}"), "has no effect without httpStatus")]);
    assert_noticed(KIND, &[(&with("fault: {delay: {percentage: {value: 1}}}"), "has no effect without fixedDelay")]);
}

#[test]
fn header_operations_leave_pseudo_headers_alone_but_for_the_authority() {
    assert_rules_refused(&[
        ("headers: {request: {set: {':path': /}}}", "is a pseudo-header"),
        ("headers: {request: {add: {':method': GET}}}", "is a pseudo-header"),
        ("headers: {request: {remove: [':path']}}", "is a pseudo-header"),
        ("headers: {request: {remove: [host]}}", "cannot be removed"),
        ("headers: {response: {set: {host: a}}}", "may be set in requests only"),
        ("headers: {response: {set: {':authority': a}}}", "may be set in requests only"),
        ("headers: {request: {set: {'': a}}}", "is not a header's name"),
    ]);
    assert_rules_accepted(&["headers: {request: {set: {':authority': a}}}", "headers: {request: {set: {Host: a}}}"]);
}

#[test]
fn the_authority_is_set_once() {
    assert_rules_refused(&[
        ("rewrite: {authority: a}, headers: {request: {set: {':authority': b}}}", "sets the authority twice"),
        ("rewrite: {authority: a}, headers: {request: {add: {host: b}}}", "sets the authority twice"),
        ("headers: {request: {set: {host: a}, add: {':authority': b}}}", "sets the authority twice"),
    ]);
    // A rule's own authority has precedence over a destination's.
    let spec = of("rewrite: {authority: a}, route: [{destination: {host: a}, headers: {request: {set: {host: b}}}}]");
    assert_accepted(KIND, &[&spec]);
}

#[test]
fn retries_have_conditions_that_envoy_knows() {
    assert_rules_refused(&[
        ("retries: {attempts: -1}", "from 0 to"),
        ("retries: {attempts: 0, retryOn: 5xx}", "attempts is 0 or absent"),
        ("retries: {perTryTimeout: 2s}", "attempts is 0 or absent"),
        ("retries: {attempts: 1, retryOn: nope}", "is neither a status code nor one of 5xx"),
        ("retries: {attempts: 1, retryOn: '299'}", "is neither a status code"),
        ("retries: {attempts: 1, backoff: 0s}", "is below 1ms"),
    ]);
    assert_rules_accepted(&[
        "retries: {attempts: 3, perTryTimeout: 2s, retryOn: '5xx,reset,503'}",
        "retries: {attempts: 0}",
    ]);
}

#[test]
fn regexes_are_re2s_and_bounded() {
    let long = format!("match: [{{uri: {{regex: '{}'}}}}]", "a".repeat(1025));
    assert_rules_refused(&[
        (&long, "1024 characters at most"),
        ("match: [{headers: {a: {regex: '(?=a)'}}}]", "is not a form of RE2"),
        ("match: [{queryParams: {a: {regex: ''}}}]", "must not be empty"),
        ("match: [{withoutHeaders: {a: {prefix: ''}}}]", "must not be empty"),
        ("match: [{authority: {suffix: ''}}]", "must not be empty"),
        ("match: [{authority: {suffix: a, exact: b}}]", "only one of exact, prefix, suffix and regex"),
    ]);
    assert_rules_accepted(&[
        "match: [{authority: {suffix: .a.com}, headers: {a: {suffix: b}}, withoutHeaders: {c: {regex: '*'}}}]",
    ]);
}

#[test]
fn conditions_name_ports_labels_and_namespaces() {
    assert_rules_refused(&[
        ("match: [{port: 70000}]", "from 1 to 65535"),
        ("match: [{sourceLabels: {a: 'b c'}}]", "is not a label's value"),
        ("match: [{sourceNamespace: a.b}]", "must be a namespace"),
        ("match: [{gateways: [a/b/c]}]", "is not NAME, NAMESPACE/NAME or mesh"),
        ("match: [{gateways: [./a]}]", "is not NAME, NAMESPACE/NAME or mesh"),
        ("match: [{headers: {a.b: {exact: c}}}]", "is not a header's name"),
    ]);
    assert_noticed(KIND, &[(&with("match: [{gateways: [gw.ns.svc.cluster.local]}]"), "is an old form")]);
}

#[test]
fn claims_are_matched_at_gateways_only() {
    let of = |gateways: &str| {
        format!(
            "{{hosts: [a.com], gateways: {gateways}, http: [{{match: [{{headers: {{'@request.auth.claims.sub': \
             {{exact: x}}}}}}], route: [{{destination: {{host: a}}}}]}}]}}"
        )
    };
    assert_refused(KIND, &[(&of("[]"), "is a claim"), (&of("[mesh, gw]"), "is a claim")]);
    assert_accepted(KIND, &[&of("[gw]")]);
}

#[test]
fn destinations_are_hosts_with_subsets_and_ports() {
    for (destination, wanted) in [
        ("{host: '*'}", "must be a host, not *"),
        ("{host: a, subset: 'a b'}", "must be the name of a subset"),
        ("{host: a, port: {number: 0}}", "from 1 to 65535"),
        ("{host: a, port: {}}", "number is missing"),
    ] {
        assert_refused(KIND, &[(&of(&format!("route: [{{destination: {destination}}}]")), wanted)]);
        assert_rules_refused(&[(&format!("mirror: {destination}"), wanted)]);
    }
    assert_rules_refused(&[("mirrors: [{percentage: {value: 1}}]", "destination is missing")]);
    assert_rules_refused(&[("mirror: {host: a}, mirrorPercent: 101", "from 0 to 100")]);
    assert_noticed(KIND, &[(&with("mirror: {host: a}, mirrorPercent: 5"), "mirrorPercent is deprecated")]);
}

#[test]
fn tls_rules_match_names_of_the_documents_hosts() {
    let of = |hosts: &str, rule: &str| format!("{{hosts: {hosts}, tls: [{{{rule}}}]}}");
    let route = "route: [{destination: {host: a}}]";
    for (rule, wanted) in [
        (route.to_owned(), "needs at least one match"),
        (format!("match: [{{port: 443}}], {route}"), "sniHosts: needs at least one name"),
        (format!("match: [{{sniHosts: [b.org]}}], {route}"), "is not one of the document's hosts"),
        (format!("match: [{{sniHosts: ['*.com']}}], {route}"), "is not one of the document's hosts"),
        (
            format!("match: [{{sniHosts: [a.foo.com], destinationSubnets: [x]}}], {route}"),
            "is not an address or a CIDR",
        ),
        ("match: [{sniHosts: [a.foo.com]}]".to_owned(), "needs at least one destination"),
    ] {
        assert_refused(KIND, &[(&of("['*.foo.com']", &rule), wanted)]);
    }
    assert_accepted(KIND, &[&of("['*.foo.com']", &format!("match: [{{sniHosts: ['*.a.foo.com']}}], {route}"))]);
    let address = of("['*.foo.com']", &format!("match: [{{sniHosts: [1.2.3.4]}}], {route}"));
    assert_noticed(KIND, &[(&address, "clients send none as a server name")]);
}

#[test]
fn tcp_rules_have_destinations() {
    for (rule, wanted) in [
        ("match: [{port: 1}]", "needs at least one destination"),
        ("match: [{destinationSubnets: [a]}], route: [{destination: {host: a}}]", "is not an address"),
        ("match: [{sourceSubnet: a}], route: [{destination: {host: a}}]", "sourceSubnet: is not an address"),
        (
            "route: [{destination: {host: a}, weight: 0}, {destination: {host: b}}]",
            "the weights of several destinations must not all be 0",
        ),
    ] {
        assert_refused(KIND, &[(&format!("{{hosts: [a], tcp: [{{{rule}}}]}}"), wanted)]);
    }
    let subnet = "{hosts: [a], tcp: [{match: [{sourceSubnet: 10.0.0.0/8}], route: [{destination: {host: a}}]}]}";
    assert_noticed(KIND, &[(subnet, "has no effect, as in Istio")]);
}

#[test]
fn a_delegate_has_no_hosts_gateways_tls_tcp_nor_a_delegate() {
    let route = "route: [{destination: {host: a}}]";
    assert_refused(
        KIND,
        &[
            (&format!("{{gateways: [g], http: [{{{route}}}]}}"), "spec.gateways: must be empty"),
            (&format!("{{tcp: [{{{route}}}]}}"), "spec.tcp: a VirtualService without hosts"),
            (
                &format!("{{tls: [{{match: [{{sniHosts: [1.2.3.4]}}], {route}}}]}}"),
                "spec.tls: a VirtualService without",
            ),
        ],
    );
    assert_accepted(KIND, &[&format!("{{http: [{{{route}}}]}}")]);
    let further = crate::api::tests::refusals(&text(KIND, "{http: [{delegate: {name: a}}]}"));
    assert!(further.iter().any(|error| error.contains("must not delegate further")), "{further:?}");
}

#[test]
fn everything_is_a_host_at_gateways_only() {
    let of = |gateways: &str| format!("{{hosts: ['*'], gateways: {gateways}, http: [{{redirect: {{uri: /}}}}]}}");
    assert_refused(KIND, &[(&of("[]"), "* is not allowed"), (&of("[gw, mesh]"), "* is not allowed")]);
    assert_accepted(KIND, &[&of("[gw, ns/other]")]);
}

#[test]
fn hosts_are_names_or_addresses() {
    let of = |host: &str| format!("{{hosts: [{host}], gateways: [gw], http: [{{redirect: {{uri: /}}}}]}}");
    assert_refused(KIND, &[(&of("a.123"), "ends with a number"), (&of("'a:b'"), "is not a host")]);
    assert_accepted(KIND, &[&of("1.2.3.4"), &of("'2001:db8::1'"), &of("a.com."), &of("'123'")]);
    assert_rules_refused(&[
        ("mirror: {host: 1.2.3.4}", "must be a host name, no address"),
        ("rewrite: {uriRegexRewrite: {match: a, rewrite: ''}}", "must not be empty"),
    ]);
}

#[test]
fn cors_policies_name_methods_headers_and_origins() {
    assert_rules_refused(&[
        ("corsPolicy: {allowMethods: [FETCH]}", "is not one of GET"),
        ("corsPolicy: {allowHeaders: ['a b']}", "is not a header's name"),
        ("corsPolicy: {exposeHeaders: ['']}", "is not a header's name"),
        ("corsPolicy: {allowOrigins: [{}]}", "must give one of exact"),
        ("corsPolicy: {allowOrigins: [{exact: ''}]}", "must give one of exact"),
        ("corsPolicy: {maxAge: 1500ms}", "must be whole seconds"),
        ("corsPolicy: {unmatchedPreflights: DROP}", "it must be one of"),
    ]);
    assert_rules_accepted(&[
        "corsPolicy: {allowOrigins: [{exact: 'https://a'}, {suffix: .b.com}], allowMethods: [GET, '*'], allowHeaders: ['*'], \
         maxAge: 24h, allowCredentials: true, unmatchedPreflights: IGNORE}",
    ]);
}

#[test]
fn sessions_persist_by_what_their_type_says() {
    assert_rules_refused(&[
        ("sessionPersistence: {type: HEADER}", "type must match what is given"),
        ("sessionPersistence: {header: {name: x}}", "type must match what is given"),
        ("sessionPersistence: {cookie: {name: a, lifetimeType: PERMANENT}}", "needs absoluteTimeout"),
        ("sessionPersistence: {cookie: {name: a b}}", "is not a cookie's name"),
        ("sessionPersistence: {cookie: {path: /a;b}}", "is not a cookie's path"),
        ("sessionPersistence: {type: HEADER, header: {name: Content-Length}}", "cannot be the name of a header"),
    ]);
    let right = "sessionPersistence: {absoluteTimeout: 5m, cookie: {name: a, path: /r, lifetimeType: PERMANENT}}";
    assert_rules_accepted(&[right, "sessionPersistence: {type: HEADER, header: {name: x-session}}"]);
    assert!(pending(&text(KIND, &with(right))).is_empty());
}
