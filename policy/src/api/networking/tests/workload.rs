use super::*;

#[test]
fn a_workload_entry_has_an_address_or_a_network() {
    let kind = "WorkloadEntry";
    assert_refused(kind, &[("{}", "spec.address is missing")]);
    crate::api::tests::assert_refused(API, kind, &[("", "spec.address is missing")]);
    assert_noticed(kind, &[("{network: net}", "has a network, but no address")]);
    assert_accepted(
        kind,
        &[
            "{address: 1.2.3.4, serviceAccount: sa, network: net, labels: {app: app}, ports: {http: 1}, weight: 2, \
             locality: foo/bar/baz}",
            "{address: example.com}",
            "{address: '::1'}",
        ],
    );
}

#[test]
fn a_unix_address_is_absolute_or_abstract_and_has_no_ports() {
    assert_refused(
        "WorkloadEntry",
        &[
            ("{address: 'unix:///dir/'}", "must not be a directory"),
            ("{address: 'unix://relative'}", "needs an absolute path"),
            ("{address: 'unix://@foo', ports: {http: 80}}", "must not be given with a unix address"),
        ],
    );
    assert_accepted("WorkloadEntry", &["{address: 'unix://@foo'}", "{address: 'unix:///foo/bar'}"]);
}

#[test]
fn workload_ports_have_names_and_are_in_range() {
    let long = format!("{{address: 1.1.1.1, ports: {{{}: 80}}}}", "a".repeat(64));
    assert_refused(
        "WorkloadEntry",
        &[
            ("{address: 1.1.1.1, ports: {http: 99999}}", "from 1 to 65535"),
            ("{address: 1.1.1.1, ports: {'@': 80}}", "is not a port's name"),
            (&long, "is not a port's name"),
            ("{address: 1.1.1.1, weight: -1}", "from 0 to"),
            ("{address: 1.1.1.1, labels: {a: 'b c'}}", "is not a label's value"),
            ("{address: 'a_b'}", "is not an IP address"),
        ],
    );
    assert_accepted("WorkloadEntry", &[&format!("{{address: 1.1.1.1, ports: {{{}: 80}}}}", "a".repeat(63))]);
}

#[test]
fn texts_and_lists_are_bounded() {
    let labels: Vec<String> = (0..257).map(|i| format!("l{i}: x")).collect();
    for (spec, wanted) in [
        (format!("{{address: 1.1.1.1, locality: {}}}", "a".repeat(2049)), "locality: has a length of 2049"),
        (format!("{{address: 1.1.1.1, serviceAccount: {}}}", "a".repeat(254)), "serviceAccount: has a length of 254"),
        (format!("{{address: 1.1.1.1, labels: {{{}}}}}", labels.join(", ")), "labels: has a length of 257"),
    ] {
        assert_refused("WorkloadEntry", &[(&spec, wanted)]);
    }
}

#[test]
fn a_workload_group_has_a_template() {
    let kind = "WorkloadGroup";
    assert_refused(kind, &[("{}", "spec.template is missing")]);
    assert_refused(kind, &[("{template: {ports: {a: 99999}}}", "from 1 to 65535")]);
    assert_accepted(
        kind,
        &[
            "{template: {}}",
            "{metadata: {labels: {foo: bar}, annotations: {foo: bar}}, template: {serviceAccount: sa, network: net, \
             labels: {app: app}, ports: {http: 1}, weight: 2, locality: foo/bar/baz}, \
             probe: {failureThreshold: 2, initialDelaySeconds: 1, periodSeconds: 1, successThreshold: 1, \
             timeoutSeconds: 1, httpGet: {port: 8080, host: bar, scheme: HTTPS, path: /bar, \
             httpHeaders: [{name: foo, value: bar}]}}}",
        ],
    );
}

#[test]
fn a_probe_has_one_way_to_ask() {
    let of = |probe: &str| format!("{{template: {{}}, probe: {probe}}}");
    assert_refused(
        "WorkloadGroup",
        &[
            (&of("{}"), "one of httpGet, tcpSocket, exec, grpc must be given"),
            (&of("{tcpSocket: {port: 1}, exec: {command: [a]}}"), "only one of tcpSocket, exec"),
            (&of("{tcpSocket: {port: 65536}}"), "from 1 to 65535"),
            (&of("{tcpSocket: {}}"), "port is missing"),
            (&of("{httpGet: {port: 80, scheme: http}}"), "it must be HTTP or HTTPS"),
            (
                &of("{httpGet: {port: 80, httpHeaders: [{name: '**'}]}}"),
                "httpHeaders[0].name: \"**\" is not a header's name",
            ),
            (&of("{exec: {command: []}}"), "needs at least one word"),
            (&of("{exec: {command: [a], }, periodSeconds: -1}"), "from 0 to"),
        ],
    );
    for probe in ["{tcpSocket: {port: 8080}}", "{exec: {command: [a, b]}}", "{grpc: {port: 1, service: a}}"] {
        assert_accepted("WorkloadGroup", &[&of(probe)]);
    }
}
