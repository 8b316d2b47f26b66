//! What DestinationRules and Services say of the choice among endpoints.

use std::time::Duration;

use super::*;
use crate::{
    balance::{Balancer, Outcome, Verdict},
    connection::{Keepalive, Ping, VersionChoice},
};

/// `reviews` in four localities, as a client in `eu/z1` sees it.
fn around() -> Mesh {
    let mut mesh = Mesh::new().node("here", vec![row("ratings", "ratings-v1")]).located("eu/z1");
    for (node, locality) in [("near", "eu/z1"), ("zone", "eu/z2"), ("far", "us/z1")] {
        mesh = mesh.node(node, vec![row("reviews", &format!("reviews-{node}"))]).located(locality);
    }
    mesh
}

impl Mesh {
    fn located(mut self, locality: &str) -> Self {
        let (region, zone) = locality.split_once('/').unwrap();
        let node = self.nodes.last_mut().unwrap();
        Arc::make_mut(&mut node.record).locality =
            Locality { region: region.into(), zone: zone.into(), subzone: String::new() };
        self
    }
}

fn destination_rule(policy: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: reviews}}\n\
         spec: {{host: reviews, trafficPolicy: {{{policy}}}, subsets: [{{name: us, labels: \
         {{topology.kubernetes.io/region: us}}}}]}}\n"
    )
}

/// The nodes that a hundred requests go to.
fn nodes_of(view: &MeshView) -> BTreeSet<&str> {
    let cluster = service(view, "reviews").cluster(9080).unwrap();
    let picked = (0..100_u64).map(|i| {
        let random = i.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        cluster.pick(&Attempt { random, ..Attempt::default() }).unwrap().key.node.as_ref().unwrap().as_str()
    });
    picked.collect()
}

#[test]
fn the_nearest_are_preferred_only_where_outlier_detection_says_when_they_fail() {
    assert_eq!(nodes_of(&around().view()), ["far", "near", "zone"].into());
    let detecting = around().apply(&destination_rule("outlierDetection: {}"));
    assert_eq!(nodes_of(&detecting.view()), ["near"].into());
    let off = "outlierDetection: {}, loadBalancer: {localityLbSetting: {enabled: false}}";
    assert_eq!(nodes_of(&around().apply(&destination_rule(off)).view()), ["far", "near", "zone"].into());
}

#[test]
fn shares_hold_without_outlier_detection_for_clients_of_their_locality() {
    let shares = |from: &str| {
        let policy = format!(
            "loadBalancer: {{localityLbSetting: {{distribute: [{{from: {from}, to: {{us/*: 50, eu/z2: 50}}}}]}}}}"
        );
        around().apply(&destination_rule(&policy)).view()
    };
    assert_eq!(nodes_of(&shares("eu/z1/*")), ["far", "zone"].into());
    assert_eq!(nodes_of(&shares("us/*")), ["far", "near", "zone"].into());
}

#[test]
fn a_services_traffic_distribution_prefers_the_nearest_without_outlier_detection() {
    let declared = "apiVersion: v1\nkind: Service\nmetadata: {name: reviews}\n\
                    spec: {trafficDistribution: PreferClose, ports: [{port: 9080}]}\n";
    assert_eq!(nodes_of(&around().apply(declared).view()), ["near"].into());
}

#[test]
fn a_subset_may_be_a_locality() {
    let view = around().apply(&destination_rule("loadBalancer: {simple: RANDOM}")).view();
    let subset = service(&view, "reviews").cluster_of(anybody(&Namespace::default_namespace()), 9080, "us").unwrap();
    let nodes: Vec<&str> =
        subset.endpoints.iter().map(|endpoint| endpoint.key.node.as_ref().unwrap().as_str()).collect();
    assert_eq!(nodes, ["far"]);
}

#[test]
fn a_services_client_affinity_holds_unless_a_destination_rule_says_otherwise() {
    let declared = "apiVersion: v1\nkind: Service\nmetadata: {name: reviews}\n\
                    spec: {sessionAffinity: ClientIP, ports: [{port: 9080}]}\n";
    let cluster = |mesh: Mesh| service(&mesh.view(), "reviews").cluster(9080).unwrap().clone();
    let sticky = cluster(bookinfo().apply(declared));
    let [one, other] = [[10, 0, 0, 1].into(), [10, 0, 0, 2].into()];
    let policy = sticky.hash_policy().unwrap();
    assert!(policy.hash_of_connection(one).is_some());
    assert_ne!(policy.hash_of_connection(one), policy.hash_of_connection(other));
    let ruled = bookinfo().apply(declared).apply(&destination_rule("loadBalancer: {simple: ROUND_ROBIN}"));
    assert_eq!(*cluster(ruled).balancer(), Balancer::RoundRobin);
}

#[test]
fn a_pseudo_header_may_be_the_key_and_what_no_header_is_called_is_none() {
    let balancer = |name: &str| {
        let rule = destination_rule(&format!("loadBalancer: {{consistentHash: {{httpHeaderName: '{name}'}}}}"));
        service(&bookinfo().apply(&rule).view(), "reviews").cluster(9080).unwrap().balancer().clone()
    };
    assert!(matches!(balancer(":path"), Balancer::Hash(_)) && matches!(balancer("x-user"), Balancer::Hash(_)));
    assert_eq!(balancer("a b"), Balancer::LeastRequest);
}

#[test]
fn a_client_on_this_host_is_known_by_this_hosts_address() {
    let view = bookinfo().view();
    let own: IpAddr = [10, 0, 0, 4].into();
    assert_eq!(view.own_address, Some(own));
    assert_eq!(view.address_of_client([127, 0, 0, 1].into()), own);
    assert_eq!(view.address_of_client([10, 9, 9, 9].into()), IpAddr::from([10, 9, 9, 9]));
}

#[test]
fn what_a_cluster_has_seen_outlives_a_change_of_its_endpoints() {
    let policy = "outlierDetection: {consecutive5xxErrors: 1, maxEjectionPercent: 100}";
    let mesh = bookinfo().apply(&destination_rule(policy));
    let before = mesh.view();
    let cluster = service(&before, "reviews").cluster(9080).unwrap();
    let bad = cluster.endpoints.iter().find(|endpoint| endpoint.key.workload.as_str() == "reviews-v2").unwrap();
    assert!(matches!(cluster.record(bad, Outcome::Status(500), 0), Some(Verdict::Ejected(_))));
    let after = mesh.node("third", vec![row("reviews", "reviews-v4")]).view_after(Some(&before));
    let cluster = service(&after, "reviews").cluster(9080).unwrap();
    let ejected = cluster.endpoints.iter().filter(|endpoint| endpoint.is_ejected(1));
    let ejected: Vec<&str> = ejected.map(|endpoint| endpoint.key.workload.as_str()).collect();
    assert_eq!((cluster.endpoints.len(), ejected), (4, vec!["reviews-v2"]));
}

#[test]
fn a_limit_of_0_is_none_and_retries_have_a_budget_unless_they_have_a_number() {
    let cluster = |policy: &str| {
        let view = bookinfo().apply(&destination_rule(policy)).view();
        service(&view, "reviews").cluster(9080).unwrap().clone()
    };
    let none = cluster("connectionPool: {tcp: {maxConnections: 0}, http: {http2MaxRequests: 0}}");
    assert!(none.hold_request().unwrap().is_none() && none.hold_connection().unwrap().is_none());
    let retries = |policy: &str| {
        let (cluster, mut held) = (cluster(policy), Vec::new());
        while let Ok(retry) = cluster.hold_retry() {
            held.push(retry);
        }
        held.len()
    };
    assert_eq!(retries("loadBalancer: {simple: RANDOM}"), 3);
    assert_eq!(retries("connectionPool: {http: {maxRetries: 7}}"), 7);
    assert_eq!(retries("retryBudget: {percent: 5, minRetryConcurrency: 2}"), 2);
    assert_eq!(
        retries("retryBudget: {percent: 5, minRetryConcurrency: 2}, connectionPool: {http: {maxRetries: 7}}"),
        2
    );
}

#[test]
fn connection_settings_are_those_of_the_nearest_block_and_absent_where_nothing_is_said() {
    let settings = |policy: &str| {
        let view = bookinfo().apply(&destination_rule(policy)).view();
        service(&view, "reviews").cluster(9080).unwrap().connection().map(|settings| (**settings).clone())
    };
    let seconds = |seconds| Some(Duration::from_secs(seconds));
    assert_eq!(settings("loadBalancer: {simple: RANDOM}"), None);
    assert_eq!(settings("connectionPool: {tcp: {maxConnections: 3}, http: {maxRequestsPerConnection: 0}}"), None);
    let said =
        "tcp: {connectTimeout: 3s, idleTimeout: 5s, maxConnectionDuration: 9s, tcpKeepalive: {probes: 2, time: 7s}}";
    let of_tcp = settings(&format!("connectionPool: {{{said}}}")).unwrap();
    assert_eq!(
        (of_tcp.connect_timeout, of_tcp.idle_timeout, of_tcp.max_duration),
        (seconds(3), seconds(5), seconds(9))
    );
    assert_eq!(of_tcp.keepalive, Some(Keepalive { probes: Some(2), time: seconds(7), interval: None }));
    assert_eq!(of_tcp.http_idle_timeout, seconds(5), "holds for HTTP where http says nothing");
    let of_both = "connectionPool: {tcp: {idleTimeout: 0s}, http: {idleTimeout: 4s, maxRequestsPerConnection: 8, \
                   maxConcurrentStreams: 6, http2KeepAlive: {interval: 2s, timeout: 1s}}}";
    let of_both = settings(of_both).unwrap();
    assert_eq!((of_both.idle_timeout, of_both.http_idle_timeout), (seconds(0), seconds(4)));
    assert_eq!((of_both.max_requests, of_both.max_streams), (Some(8), Some(6)));
    let ping = Ping { interval: Duration::from_secs(2), timeout: Duration::from_secs(1) };
    assert_eq!(of_both.ping, Some(ping));
    for (said, version) in [
        ("h2UpgradePolicy: UPGRADE", Some(VersionChoice::Http2)),
        ("useClientProtocol: true", Some(VersionChoice::Client)),
        ("h2UpgradePolicy: DO_NOT_UPGRADE", None),
    ] {
        let said = settings(&format!("connectionPool: {{http: {{{said}}}}}"));
        assert_eq!(said.map(|settings| settings.version), version);
    }
    let of_port = "connectionPool: {tcp: {connectTimeout: 3s}}, portLevelSettings: [{port: {number: 9080}, \
                   connectionPool: {http: {maxRequestsPerConnection: 1}}}]";
    let of_port = settings(of_port).unwrap();
    assert_eq!((of_port.connect_timeout, of_port.max_requests), (None, Some(1)), "a port's block replaces all");
}

#[test]
fn a_tunnel_is_that_of_the_whole_host_or_of_the_subset_and_is_not_inherited() {
    let rule = |top: &str, subset: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: reviews}}\nspec: {{host: \
             reviews, trafficPolicy: {{{top}}}, subsets: [{{name: all, trafficPolicy: {{{subset}}}}}]}}\n"
        )
    };
    let tunnels = |top: &str, subset: &str| {
        let view = bookinfo().apply(&rule(top, subset)).view();
        ["", "all"].map(|subset| {
            let cluster =
                service(&view, "reviews").cluster_of(anybody(&Namespace::default_namespace()), 9080, subset).unwrap();
            let tunnel = cluster.connection().and_then(|settings| settings.tunnel.as_ref())?;
            Some((tunnel.target.to_string(), tunnel.by_post))
        })
    };
    let is = |target: &str, by_post| Some((target.to_owned(), by_post));
    let (random, one) = ("loadBalancer: {simple: RANDOM}", "tunnel: {targetHost: a.b, targetPort: 80}");
    let other = "tunnel: {targetHost: '2001:db8::1', targetPort: 443, protocol: POST}";
    assert_eq!(tunnels(one, random), [is("a.b:80", false), None]);
    assert_eq!(tunnels(random, other), [None, is("[2001:db8::1]:443", true)]);
    assert_eq!(tunnels(one, other), [is("a.b:80", false), is("[2001:db8::1]:443", true)]);
    let of_port = format!("{one}, portLevelSettings: [{{port: {{number: 9080}}, {random}}}]");
    assert_eq!(tunnels(&of_port, random), [is("a.b:80", false), None], "a port says nothing of it");
}

#[test]
fn a_rule_with_a_selector_holds_for_its_namespaces_clients_with_the_labels_and_merges_with_its_like_alone() {
    let rule = |name: &str, namespace: &str, selector: &str, seconds: u32, subset: &str| {
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: {name}, namespace: \
             {namespace}}}\nspec: {{host: reviews.default.svc.cluster.local, {selector}trafficPolicy: {{connectionPool: \
             {{tcp: {{connectTimeout: {seconds}s}}}}}}, subsets: [{{name: {subset}}}]}}\n"
        )
    };
    let of = |labels: &str| format!("workloadSelector: {{matchLabels: {{{labels}}}}}, ");
    let documents = [
        rule("a", "default", "", 1, "all"),
        rule("b", "default", &of("app: ratings"), 2, "two"),
        rule("c", "default", &of("app: ratings, version: v2"), 3, "three"),
        rule("d", "default", &of("version: v2"), 4, "four"),
        rule("e", "default", &of("app: ratings"), 5, "five"),
        rule("f", "prod", &of("app: ratings"), 6, "six"),
    ];
    let mesh = Mesh::new().node("here", vec![row("reviews", "reviews-v1"), row("ratings", "ratings-v1")]);
    let view = mesh.apply(&documents.concat()).view();
    let reviews = service(&view, "reviews");
    let (default, prod) = (Namespace::default_namespace(), "prod".parse().unwrap());
    let ratings = only_workload(&view, "ratings");
    let versioned = |app: &str| Workload {
        labels: [("app", app), ("version", "v2")].map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
        ..ratings.clone()
    };
    let (ratings_v2, other_v2) = (versioned("ratings"), versioned("other"));
    let seen = |namespace: &Namespace, workload: Option<&Workload>| {
        let client = Client { namespace, workload };
        let subsets = ["all", "two", "three", "four", "five", "six"];
        let subsets = subsets.iter().filter(|subset| reviews.cluster_of(client, 9080, subset).is_some());
        let connection = reviews.cluster_of(client, 9080, "").unwrap().connection();
        let timeout = connection.and_then(|settings| settings.connect_timeout).map_or(0, |timeout| timeout.as_secs());
        (timeout, subsets.copied().collect::<Vec<_>>().join(" "))
    };
    let is = |seconds, subsets: &str| (seconds, subsets.to_owned());
    assert_eq!(seen(&default, None), is(1, "all"));
    assert_eq!(seen(&default, Some(ratings)), is(2, "two five"), "of one selector all together, the oldest first");
    assert_eq!(seen(&default, Some(&ratings_v2)), is(2, "two five"), "of several the oldest");
    assert_eq!(seen(&default, Some(&other_v2)), is(4, "four"));
    assert_eq!(seen(&prod, Some(ratings)), is(6, "six"));
    assert_eq!(seen(&prod, None), is(0, ""), "the client's namespace has rules, if none for it");
    assert_eq!(seen(&"third".parse().unwrap(), Some(ratings)), is(1, "all"));
}

#[test]
fn connection_settings_that_stay_the_same_stay_in_their_place() {
    let policy = "connectionPool: {tcp: {connectTimeout: 3s}}";
    let mesh = bookinfo().apply(&destination_rule(policy));
    let before = mesh.view();
    let after = mesh.node("third", vec![row("reviews", "reviews-v4")]).view_after(Some(&before));
    let of = |view: &MeshView| service(view, "reviews").cluster(9080).unwrap().connection().unwrap().clone();
    assert!(Arc::ptr_eq(&of(&before), &of(&after)));
}

#[test]
fn new_endpoints_warm_up_as_the_document_says() {
    let policy = "loadBalancer: {simple: ROUND_ROBIN, warmup: {duration: 100s, minimumPercent: 20, aggression: 1}}";
    let old = "loadBalancer: {warmupDurationSecs: 100s}";
    for (policy, least) in [(policy, 20), (old, 10)] {
        let mesh = around().apply(&destination_rule(policy));
        let before = mesh.view();
        let served = |view: &MeshView, now_ms| {
            let cluster = service(view, "reviews").cluster(9080).unwrap();
            let picks = (0..1_000_u64).filter(|i| {
                let random = i.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                let endpoint = cluster.pick(&Attempt { random, now_ms, ..Attempt::default() }).unwrap();
                endpoint.key.node.as_ref().unwrap().as_str() == "late"
            });
            picks.count()
        };
        assert_eq!(served(&before, 0), 0);
        let mesh = mesh.node("late", vec![row("reviews", "reviews-late")]).located("eu/z1");
        let after = mesh.view_after(Some(&before));
        let expected = 1_000 * least / (300 + least);
        assert!(served(&after, 200_000).abs_diff(expected) < 20, "{policy}");
        assert!(served(&after, 300_000).abs_diff(250) < 60, "{policy}");
    }
}

fn of_mesh(kind: &str, metadata: &str, spec: &str) -> String {
    format!("{{apiVersion: weft.mesh/v1alpha1, kind: {kind}, metadata: {{{metadata}}}, spec: {{{spec}}}}}")
}

const REVIEWS: &str = "targetRefs: [{group: '', kind: Service, name: reviews}]";

#[test]
fn a_backend_traffic_policy_asks_for_peak_ewma_where_no_destination_rule_asks_for_more_than_least_request() {
    let policy =
        of_mesh("BackendTrafficPolicy", "name: a", &format!("{REVIEWS}, loadBalancer: {{peakEwma: {{decay: 2s}}}}"));
    let balancer = |mesh: Mesh, name: &str| service(&mesh.view(), name).cluster(9080).unwrap().balancer().clone();
    assert_eq!(balancer(bookinfo().apply(&policy), "reviews"), Balancer::PeakEwma { decay_ms: 2_000 });
    assert_eq!(balancer(bookinfo().apply(&policy), "ratings"), Balancer::LeastRequest);
    let with =
        |balancer: &str| bookinfo().apply(&policy).apply(&destination_rule(&format!("loadBalancer: {{{balancer}}}")));
    assert_eq!(balancer(with("simple: LEAST_REQUEST"), "reviews"), Balancer::PeakEwma { decay_ms: 2_000 });
    assert_eq!(balancer(with("simple: ROUND_ROBIN"), "reviews"), Balancer::RoundRobin);
    assert!(matches!(balancer(with("consistentHash: {useSourceIp: true}"), "reviews"), Balancer::Hash(_)));
}

#[test]
fn the_policy_of_a_port_holds_before_the_services_the_namespaces_and_the_meshs() {
    let policy = |metadata: &str, targets: &str, decay: u32| {
        let targets = if targets.is_empty() {
            String::new()
        } else {
            format!("targetRefs: [{{group: '', kind: Service, {targets}}}], ")
        };
        of_mesh("BackendTrafficPolicy", metadata, &format!("{targets}loadBalancer: {{peakEwma: {{decay: {decay}s}}}}"))
    };
    let wider = [
        policy("name: default, namespace: istio-system", "", 1),
        policy("name: default", "", 2),
        policy("name: of-service", "name: reviews", 3),
        policy("name: younger", "name: reviews", 9),
        policy("name: of-port", "name: reviews, sectionName: '9080'", 4),
    ];
    let mut mesh = bookinfo();
    for (applied, expected) in wider.iter().zip([1, 2, 3, 3, 4]) {
        mesh = mesh.apply(applied);
        let view = mesh.view();
        let decay_ms = expected * 1_000;
        assert_eq!(*service(&view, "reviews").cluster(9080).unwrap().balancer(), Balancer::PeakEwma { decay_ms });
    }
    let other = policy("name: other", "name: reviews, sectionName: '81'", 5);
    let view = bookinfo().apply(&other).view();
    assert_eq!(*service(&view, "reviews").cluster(9080).unwrap().balancer(), Balancer::LeastRequest);
}

#[test]
fn a_circuit_policy_has_a_service_panic_unless_a_destination_rule_says_when() {
    let circuit = |spec: &str| of_mesh("CircuitPolicy", "name: a", &format!("{REVIEWS}{spec}"));
    let panic = |mesh: Mesh| service(&mesh.view(), "reviews").cluster(9080).unwrap().panic_percent();
    let detection = |fields: &str| destination_rule(&format!("outlierDetection: {{{fields}}}"));
    assert_eq!(panic(bookinfo()), 0.0);
    assert_eq!(panic(bookinfo().apply(&circuit(", panicThreshold: 30"))), 30.0);
    assert_eq!(panic(bookinfo().apply(&circuit(""))), 50.0);
    assert_eq!(panic(bookinfo().apply(&circuit("")).apply(&detection("interval: 1s"))), 50.0);
    assert_eq!(panic(bookinfo().apply(&circuit("")).apply(&detection("minHealthPercent: 10"))), 10.0);
    assert_eq!(panic(bookinfo().apply(&circuit("")).apply(&detection("minHealthPercent: 0"))), 0.0);
}

#[test]
fn a_change_of_a_policy_makes_its_services_anew_and_no_others() {
    let mesh = bookinfo();
    let before = mesh.view();
    let after = mesh.apply(&of_mesh("CircuitPolicy", "name: a", REVIEWS)).view_after(Some(&before));
    assert!(!Arc::ptr_eq(service(&before, "reviews"), service(&after, "reviews")));
    assert!(Arc::ptr_eq(service(&before, "ratings"), service(&after, "ratings")));
}

#[test]
fn hedging_is_for_what_may_be_done_twice() {
    let with = |hedging: &str| {
        let policy = of_mesh("BackendTrafficPolicy", "name: a", &format!("{REVIEWS}, hedging: {{{hedging}}}"));
        *service(&bookinfo().apply(&policy).view(), "reviews").cluster(9080).unwrap().hedging().unwrap()
    };
    let safe = with("delay: 20ms");
    assert_eq!(safe.delay, Duration::from_millis(20));
    assert!(safe.is_for(&Method::GET) && safe.is_for(&Method::PUT) && safe.is_for(&Method::DELETE));
    assert!(!safe.is_for(&Method::POST) && !safe.is_for(&Method::PATCH));
    assert!(with("delay: 20ms, includeNonIdempotent: true").is_for(&Method::POST));
    assert!(service(&bookinfo().view(), "reviews").cluster(9080).unwrap().hedging().is_none());
}

/// `reviews` with one endpoint in the client's zone, three in the next one, and one in another region. The client's zone
/// has two nodes of three in the region.
fn in_zones() -> Mesh {
    let reviews = |names: &[&str]| names.iter().map(|name| row("reviews", &format!("reviews-{name}"))).collect();
    Mesh::new()
        .node("here", vec![row("ratings", "ratings-v1")])
        .located("eu/z1")
        .node("near", reviews(&["a"]))
        .located("eu/z1")
        .node("zone", reviews(&["b", "c", "d"]))
        .located("eu/z2")
        .node("far", reviews(&["e"]))
        .located("us/z1")
}

fn zone_aware(setting: &str) -> String {
    destination_rule(&format!("loadBalancer: {{zoneAwareLbSetting: {{{setting}}}}}"))
}

/// How many of 1,000 requests a node gets.
fn share_of(view: &MeshView, node: &str) -> u64 {
    let cluster = service(view, "reviews").cluster(9080).unwrap();
    let is_there = |i: &u64| {
        let attempt = Attempt { random: i.wrapping_mul(0x9e37_79b9_7f4a_7c15), ..Attempt::default() };
        cluster.pick(&attempt).unwrap().key.node.as_ref().unwrap().as_str() == node
    };
    (0..1_000).filter(is_there).count() as u64
}

#[test]
fn a_zone_keeps_what_its_endpoints_can_take_and_gives_the_rest_to_others() {
    let view = in_zones().apply(&zone_aware("enabled: true, minClusterSize: 4")).view();
    // A quarter of the endpoints for two thirds of the clients: 3 of 8.
    let near = share_of(&view, "near");
    assert!(near.abs_diff(375) < 60, "{near}");
    assert_eq!(share_of(&view, "zone"), 1_000 - near, "never in another region");
    let more = in_zones().node("more", vec![row("reviews", "reviews-f"), row("reviews", "reviews-g")]).located("eu/z1");
    let more = more.apply(&zone_aware("enabled: true, minClusterSize: 4")).view();
    let near = share_of(&more, "near") + share_of(&more, "more");
    assert!(near.abs_diff(667) < 60, "half of the endpoints for three quarters of the clients: {near}");
}

#[test]
fn zones_do_not_count_in_small_clusters_regions_do() {
    let view = in_zones().apply(&zone_aware("enabled: true")).view();
    let near = share_of(&view, "near");
    assert!(near.abs_diff(250) < 60, "each of the four endpoints alike: {near}");
    assert_eq!(share_of(&view, "far"), 0);
    let off = in_zones().apply(&zone_aware("enabled: false")).view();
    assert!(share_of(&off, "far") > 100);
}

#[test]
fn another_region_takes_over_when_the_clients_does_not_serve() {
    let mut mesh = in_zones()
        .node("next", vec![row("reviews", "reviews-n")])
        .located("asia/z1")
        .apply(&zone_aware("minClusterSize: 1, failover: [{from: eu, to: asia}]"));
    for name in ["near", "zone"] {
        let node = mesh.nodes.iter_mut().find(|node| node.name.as_str() == name).unwrap();
        node.standing = Standing::Demoted;
    }
    assert_eq!(nodes_of(&mesh.view()), ["next"].into());
}

#[test]
fn a_node_that_comes_changes_how_many_clients_a_zone_has() {
    let mesh = in_zones().apply(&zone_aware("minClusterSize: 4"));
    let first = mesh.view();
    let mesh = mesh.node("client", Vec::new()).located("eu/z2").node("client-2", Vec::new()).located("eu/z2");
    let second = mesh.view_after(Some(&first));
    // A quarter of the endpoints for two fifths of the clients: 5 of 8.
    let near = share_of(&second, "near");
    assert!(near.abs_diff(625) < 60, "{near}");
}
