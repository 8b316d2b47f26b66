//! Connections that are not read as HTTP.

use super::*;

#[test]
fn tcp_rules_split_connections_and_are_not_asked_for_http() {
    let tcp = |rules: &str| {
        format!(
            "{{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {{name: t}}, \
               spec: {{hosts: [reviews], tcp: {rules}}}}}"
        )
    };
    let subset = |rules: &str, random: u64| {
        let view = bookinfo().apply(SUBSETS).apply(&tcp(rules)).view();
        assert_eq!(outcome(&view, &get("/")), "", "HTTP");
        let client = Client { namespace: &Namespace::default_namespace(), workload: None };
        match view.route_tcp(service(&view, "reviews"), 9080, client, Destination::default(), random) {
            TcpRouting::Forward(_, cluster) => cluster.subset.clone(),
            other => format!("{other:?}"),
        }
    };
    let to = |subset: &str| format!("route: [{{destination: {{host: reviews, subset: {subset}}}}}]");
    assert_eq!(subset(&format!("[{{{}}}]", to("v1")), 0), "v1");
    assert_eq!(subset(&format!("[{{{}}}]", to("v9")), 0), "UnknownCluster");
    assert_eq!(subset(&format!("[{{match: [{{port: 1}}], {}}}, {{{}}}]", to("v1"), to("v2")), 0), "v2");
    assert_eq!(subset(&format!("[{{match: [{{port: 1}}], {}}}]", to("v1")), 0), "", "no rule holds");
    let split = "[{route: [{destination: {host: reviews, subset: v1}, weight: 1}, \
                   {destination: {host: reviews, subset: v2}, weight: 1}]}]";
    assert_eq!((subset(split, 0), subset(split, u64::MAX)), ("v1".into(), "v2".into()));
}

#[test]
fn rules_for_subnets_go_by_the_address_that_the_client_asks_for_or_those_of_the_host() {
    let entry = |addresses: &str| {
        format!(
            "{{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {{name: db}}, spec: {{hosts: [db.org], \
               addresses: [{addresses}], ports: [{{number: 443, name: tls, protocol: TLS}}], resolution: STATIC, \
               endpoints: [{{address: 10.9.0.1, labels: {{v: '1'}}}}]}}}}"
        )
    };
    let rule = "{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: db}, \
                 spec: {host: db.org, subsets: [{name: a, labels: {v: '1'}}, {name: b, labels: {v: '1'}}]}}";
    let with = |addresses: &str| {
        let (subnets, to) =
            ("destinationSubnets: [10.1.0.0/16, 'fd00::/8']", "route: [{destination: {host: db.org, subset");
        let service = format!(
            "{{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {{name: t}}, spec: {{hosts: [db.org], \
               tls: [{{match: [{{sniHosts: [db.org], {subnets}}}], {to}: a}}}}]}}], \
               tcp: [{{match: [{{{subnets}}}], {to}: b}}}}]}}]}}}}"
        );
        Mesh::new().apply(&entry(addresses)).apply(rule).apply(&service).view()
    };
    let subset = |view: &MeshView, host: &str, server_name: Option<&str>| {
        let client = Client { namespace: &Namespace::default_namespace(), workload: None };
        let Some(Host::Service(service)) = view.host(host, Some(443), client) else { panic!("{host}") };
        let address = host.parse().ok();
        let reads = view.reads_server_name(service, 443, client, address);
        match view.route_tcp(service, 443, client, Destination { address, server_name }, 0) {
            TcpRouting::Forward(_, cluster) => (reads, cluster.subset.clone()),
            other => panic!("{other:?}"),
        }
    };
    let no_rule = || (false, String::new());
    let ranges = with("10.0.0.0/8, 'fd00::1'");
    assert_eq!(subset(&ranges, "10.1.2.3", Some("db.org")), (true, "a".into()));
    assert_eq!(subset(&ranges, "10.1.2.3", None), (true, "b".into()));
    assert_eq!(subset(&ranges, "10.2.0.1", Some("db.org")), no_rule(), "of another subnet");
    assert_eq!(subset(&ranges, "fd00::1", None), (true, "b".into()));
    assert_eq!(subset(&ranges, "db.org", Some("db.org")), (true, "a".into()), "one of its addresses is there");
    assert_eq!(subset(&with("10.0.0.0/8"), "db.org", Some("db.org")), no_rule(), "it may be anywhere in the range");
    assert_eq!(subset(&with("10.2.0.1"), "db.org", None), no_rule());
}

#[test]
fn tls_rules_go_by_the_server_that_the_client_names() {
    let with = |rules: &str| {
        let text = format!(
            "{{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {{name: t}}, \
               spec: {{hosts: [reviews, '*.example.com'], {rules}}}}}"
        );
        bookinfo().apply(SUBSETS).apply(&text).view()
    };
    let subset = |view: &MeshView, server_name: Option<&str>| {
        let client = Client { namespace: &Namespace::default_namespace(), workload: None };
        let service = service(view, "reviews");
        assert!(view.reads_server_name(service, 9080, client, None));
        match view.route_tcp(service, 9080, client, Destination { address: None, server_name }, 0) {
            TcpRouting::Forward(_, cluster) => cluster.subset.clone(),
            other => format!("{other:?}"),
        }
    };
    // The wildcard stands first, and the closer names win.
    let tls = "tls: [\
        {match: [{sniHosts: ['*.example.com']}], route: [{destination: {host: reviews, subset: v2}}]}, \
        {match: [{sniHosts: [A.example.com], port: 1}], route: [{destination: {host: reviews}}]}, \
        {match: [{sniHosts: [reviews]}, {sniHosts: [a.example.com]}], route: [{destination: {host: reviews, subset: v1}}]}]";
    let only_tls = with(tls);
    for (server_name, expected) in [
        (Some("a.example.com"), "v1"),
        (Some("A.Example.com"), "v1"),
        (Some("reviews"), "v1"),
        (Some("b.example.com"), "v2"),
        (Some("example.com"), "NoRoute"),
        (Some("other.org"), "NoRoute"),
        (None, "NoRoute"),
    ] {
        assert_eq!(subset(&only_tls, server_name), expected, "{server_name:?}");
    }
    let with_tcp = with(&format!("{tls}, tcp: [{{route: [{{destination: {{host: reviews, subset: v1}}}}]}}]"));
    assert_eq!(subset(&with_tcp, Some("b.example.com")), "v2");
    assert_eq!(subset(&with_tcp, Some("other.org")), "v1", "what no rule for TLS takes is for those for TCP");
    assert_eq!(subset(&with_tcp, None), "v1");
    let client = Client { namespace: &Namespace::default_namespace(), workload: None };
    let without = bookinfo().view();
    assert!(!without.reads_server_name(service(&without, "reviews"), 9080, client, None));
}
