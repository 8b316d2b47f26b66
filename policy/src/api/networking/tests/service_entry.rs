use super::*;

const KIND: &str = "ServiceEntry";

#[test]
fn a_service_entry_has_hosts_of_which_none_is_everything() {
    assert_refused(
        KIND,
        &[
            ("{}", "spec.hosts is missing"),
            ("{hosts: []}", "needs at least one host"),
            ("{hosts: ['*']}", "* must not be a host"),
            ("{hosts: ['foo*']}", "is not a host"),
            ("{hosts: [1.2.3.4]}", "must be a host name, no address"),
        ],
    );
    assert_accepted(KIND, &["{hosts: [example.com]}", "{hosts: ['*.example.com']}"]);
    assert_noticed(KIND, &[("{hosts: ['*x']}", "stands for a part of a label")]);
}

#[test]
fn everything_is_read() {
    assert_accepted(
        KIND,
        &["{hosts: [example.com], workloadSelector: {labels: {foo: bar}}, addresses: [1.2.3.4, '001:db8::'], \
           exportTo: [foo, .], location: MESH_EXTERNAL, subjectAltNames: [sa], resolution: DNS, \
           ports: [{name: foo, protocol: HTTP, number: 1234, targetPort: 2345}]}"],
    );
}

#[test]
fn without_resolution_there_are_no_endpoints() {
    assert_refused(
        KIND,
        &[
            ("{hosts: [a.com], endpoints: [{address: 1.2.3.4}]}", "must not be given with resolution NONE"),
            ("{hosts: [a.com], resolution: NONE, endpoints: []}", "must not be given with resolution NONE"),
        ],
    );
}

#[test]
fn endpoints_and_a_workload_selector_exclude_each_other() {
    assert_refused(
        KIND,
        &[(
            "{hosts: [a.com], resolution: STATIC, workloadSelector: {labels: {a: b}}, endpoints: [{address: 1.2.3.4}]}",
            "only one of workloadSelector, endpoints",
        )],
    );
    assert_refused(KIND, &[("{hosts: [a.com], workloadSelector: {labels: {val: '*'}}}", "is not a label's value")]);
    assert_noticed(KIND, &[("{hosts: [a.com], resolution: STATIC, workloadSelector: {}}", "has no labels")]);
    let spec = "{hosts: [a.com], resolution: DNS, workloadSelector: {labels: {a: b}}}";
    assert_noticed(KIND, &[(spec, "has a meaning only with resolution STATIC")]);
}

#[test]
fn by_dns_hosts_or_endpoints_are_names_and_addresses_no_ranges() {
    for resolution in ["DNS", "DNS_ROUND_ROBIN"] {
        for (rest, wanted) in [
            ("hosts: ['*.a.com']", "must be a full host name"),
            (
                "hosts: [a.com], endpoints: [{address: 'unix:///a'}], ports: [{name: a, number: 1}]",
                "must be an IP address or",
            ),
            ("hosts: [a.com], endpoints: [{address: 'a b'}]", "is not an IP address"),
            ("hosts: [a.com], endpoints: [{network: a}]", "address is missing"),
            ("hosts: [a.com], addresses: [1.2.3.4/16]", "only with resolution NONE or STATIC"),
        ] {
            assert_refused(KIND, &[(&format!("{{{rest}, resolution: {resolution}}}"), wanted)]);
        }
        let specs =
            ["hosts: ['*.a.com'], endpoints: [{address: b.com}]", "hosts: [a.com], endpoints: [{address: 1.2.3.4}]"];
        for spec in specs {
            assert_accepted(KIND, &[&format!("{{{spec}, resolution: {resolution}}}")]);
        }
    }
    assert_accepted(
        KIND,
        &["{hosts: [a.com], addresses: [1.1.1.1/32]}", "{hosts: [a.com], addresses: [1.1.0.0/16], resolution: STATIC}"],
    );
}

#[test]
fn dns_round_robin_has_one_endpoint() {
    let spec = "{hosts: [a.com], resolution: DNS_ROUND_ROBIN, endpoints: [{address: a.b}, {address: c.d}]}";
    assert_refused(KIND, &[(spec, "may have only one endpoint")]);
}

#[test]
fn static_endpoints_are_addresses() {
    let spec = "{hosts: [a.com], resolution: STATIC, endpoints: [{address: b.com}]}";
    assert_refused(KIND, &[(spec, "must be an IP address or unix://PATH")]);
    let two_ports = "{hosts: [a.com], resolution: STATIC, endpoints: [{address: 'unix:///a'}]}";
    assert_refused(KIND, &[(two_ports, "must have exactly one port")]);
    assert_accepted(
        KIND,
        &[
            "{hosts: [a.com], resolution: STATIC, endpoints: [{address: 1.2.3.4}, {address: '::1'}]}",
            "{hosts: [a.com], resolution: STATIC, ports: [{name: a, number: 1}], endpoints: [{address: 'unix:///a'}]}",
        ],
    );
}

#[test]
fn dynamic_dns_is_for_wildcards_outside_the_mesh() {
    assert_refused(
        KIND,
        &[
            ("{hosts: [a.com], resolution: DYNAMIC_DNS}", "must be a wildcard"),
            ("{hosts: ['*.a.com'], resolution: DYNAMIC_DNS, location: MESH_INTERNAL}", "must be MESH_EXTERNAL"),
        ],
    );
    assert_accepted(KIND, &["{hosts: ['*.a.com'], resolution: DYNAMIC_DNS}"]);
    let spec = "{hosts: ['*.a.com'], resolution: DYNAMIC_DNS, endpoints: [{address: a.b}]}";
    assert_noticed(KIND, &[(spec, "endpoints has no effect")]);
}

#[test]
fn ports_are_unique_by_name_and_number() {
    let of = |ports: &str| format!("{{hosts: [a.com], resolution: STATIC, ports: [{ports}]}}");
    assert_refused(
        KIND,
        &[
            (&of("{name: a, number: 1}, {name: a, number: 12}"), "ports[1].name: the name a is given twice"),
            (&of("{name: a, number: 1}, {name: b, number: 1}"), "ports[1].number: port 1 is given twice"),
            (&of("{name: a, number: 99999}"), "from 1 to 65535"),
            (&of("{name: a, number: 1, targetPort: 99999}"), "from 1 to 65535"),
            (&of("{number: 1}"), "name is missing"),
            (&of("{name: a.b, number: 1}"), "must be 1 to 63 letters"),
            (&of("{name: a, number: 1, protocol: XYZ}"), "it must be one of HTTP"),
        ],
    );
    assert_accepted(KIND, &[&of("{name: HTTPS-a, number: 1, protocol: https}, {name: b, number: 2, protocol: ''}")]);
    let spec = "{hosts: [a.com], ports: [{name: a, number: 1, targetPort: 2}]}";
    assert_noticed(KIND, &[(spec, "targetPort has no effect with resolution NONE")]);
}

#[test]
fn endpoints_use_declared_ports() {
    let of = |ports: &str| {
        format!(
            "{{hosts: [a.com], resolution: STATIC, ports: [{{name: http, number: 80}}], \
             endpoints: [{{address: 1.2.3.4, ports: {{{ports}}}}}]}}"
        )
    };
    assert_refused(
        KIND,
        &[(&of("https: 81"), "endpoints[0].ports.https: is not a port"), (&of("http: 0"), "from 1 to 65535")],
    );
    assert_accepted(KIND, &[&of("http: 8080")]);
}

#[test]
fn several_hosts_need_a_protocol_that_tells_them_apart() {
    let of = |protocol: &str, resolution: &str| {
        format!(
            "{{hosts: [a.com, b.com], resolution: {resolution}, ports: [{{name: a, number: 1, protocol: {protocol}}}]}}"
        )
    };
    assert_refused(KIND, &[(&of("TCP", "STATIC"), "does not tell them apart"), (&of("''", "DNS"), "does not tell")]);
    assert_accepted(KIND, &[&of("HTTP", "STATIC"), &of("TLS", "DNS"), &of("TCP", "NONE")]);
}

#[test]
fn it_may_be_exported_to_nobody_and_that_alone() {
    assert_accepted(KIND, &["{hosts: [a.com], exportTo: ['~']}"]);
    assert_refused(KIND, &[("{hosts: [a.com], exportTo: ['~', a]}", "~ must stand alone")]);
}
