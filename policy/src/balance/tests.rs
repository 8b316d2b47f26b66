//! How endpoints are chosen.

mod panic;
mod peak_ewma;

use std::collections::BTreeMap;

use weft_wire::{
    fact::Protocol,
    id::{Locality, SpiffeId},
};

use super::*;
use crate::endpoint::{EndpointAddress, EndpointKey, EndpointLoad, Place, Workload};

pub(crate) fn endpoint(name: &str, health: EndpointHealth, standing: Standing) -> Arc<Endpoint> {
    let service: weft_wire::id::ServiceName = "reviews.default".parse().unwrap();
    let workload = Arc::new(Workload {
        namespace: service.namespace.clone(),
        name: name.parse().unwrap(),
        account: "default/reviews".parse().unwrap(),
        principal: String::new(),
        app: String::new(),
        version: String::new(),
        canonical_service: String::new(),
        canonical_revision: String::new(),
        service,
        node: "a".parse().unwrap(),
        labels: BTreeMap::new(),
    });
    Arc::new(Endpoint {
        key: EndpointKey {
            node: Some(workload.node.clone()),
            namespace: workload.namespace.clone(),
            workload: workload.name.clone(),
            target_port: 9080,
        },
        workload: Some(workload),
        address: EndpointAddress::Local(([127, 0, 0, 1], 9080).into()),
        identities: Arc::<[SpiffeId]>::from([]),
        protocol: Protocol::Http,
        health,
        standing,
        place: Arc::new(Place { node: "a".parse().ok(), locality: Locality::default(), labels: BTreeMap::new() }),
        load: Arc::new(EndpointLoad::default()),
        weight: 1,
        monitor: None,
    })
}

fn cluster(balancer: Balancer, endpoints: Vec<Arc<Endpoint>>) -> Cluster {
    let fqdn: Arc<str> = "reviews.default.svc.cluster.local".into();
    let name = ClusterName { fqdn: &fqdn, port: 9080, subset: "v1" };
    Cluster::new(&name, Settings { balancer, ..Settings::default() }, endpoints, None)
}

fn healthy(names: &[&str]) -> Vec<Arc<Endpoint>> {
    names.iter().map(|name| endpoint(name, EndpointHealth::Healthy, Standing::Preferred)).collect()
}

pub(crate) fn at(random: u64, now_ms: u64) -> Attempt<'static> {
    Attempt { random, now_ms, ..Attempt::default() }
}

/// Evenly spread numbers, as a random source gives them.
fn spread(count: u64) -> impl Iterator<Item = u64> {
    (0..count).map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17).wrapping_mul(0xbf58_476d_1ce4_e5b9))
}

fn name(endpoint: Option<&Arc<Endpoint>>) -> &str {
    endpoint.map_or("none", |endpoint| endpoint.key.workload.as_str())
}

#[test]
fn a_cluster_has_envoys_name() {
    let cluster = cluster(Balancer::default(), vec![]);
    assert_eq!(&*cluster.name, "outbound|9080|v1|reviews.default.svc.cluster.local");
}

#[test]
fn the_best_tier_that_has_an_endpoint_serves() {
    use EndpointHealth::{Draining, Healthy, Unhealthy};
    let mut endpoints = vec![
        endpoint("draining", Draining, Standing::Preferred),
        endpoint("unhealthy", Unhealthy, Standing::Preferred),
        endpoint("excluded", Healthy, Standing::Excluded),
        endpoint("demoted", Healthy, Standing::Demoted),
        endpoint("preferred", Healthy, Standing::Preferred),
    ];
    for balancer in [Balancer::LeastRequest, Balancer::RoundRobin, Balancer::Random] {
        let mut endpoints = endpoints.clone();
        for expected in ["preferred", "demoted", "excluded", "unhealthy", "none"] {
            let cluster = cluster(balancer.clone(), endpoints.clone());
            for random in spread(50) {
                assert_eq!(name(cluster.pick(&at(random, 0))), expected, "{balancer:?}");
            }
            endpoints.pop();
        }
    }
    endpoints.clear();
    assert!(cluster(Balancer::RoundRobin, endpoints).pick(&at(0, 0)).is_none());
}

#[test]
fn overloaded_endpoints_are_spared_while_half_of_all_are_healthy() {
    use EndpointHealth::{Healthy, Overloaded, Unhealthy};
    let served = |panic_percent, healths: &[EndpointHealth]| {
        let endpoints = healths.iter().enumerate();
        let endpoints = endpoints.map(|(i, health)| endpoint(&format!("e{i}"), *health, Standing::Preferred)).collect();
        let fqdn: Arc<str> = "reviews.default.svc.cluster.local".into();
        let name = ClusterName { fqdn: &fqdn, port: 9080, subset: "" };
        let cluster = Cluster::new(&name, Settings { panic_percent, ..Settings::default() }, endpoints, None);
        let picked: Vec<String> =
            spread(200).map(|random| super::tests::name(cluster.pick(&at(random, 0))).to_owned()).collect();
        (0..healths.len()).filter(|i| picked.contains(&format!("e{i}"))).collect::<Vec<_>>()
    };
    assert_eq!(served(0.0, &[Healthy, Overloaded]), [0]);
    assert_eq!(served(0.0, &[Overloaded, Healthy, Overloaded]), [0, 1, 2], "one alone could not take over");
    assert_eq!(served(30.0, &[Overloaded, Healthy, Overloaded]), [1], "a document says what is enough");
    assert_eq!(served(60.0, &[Healthy, Overloaded]), [0, 1]);
    assert_eq!(served(0.0, &[Overloaded, Overloaded, Unhealthy]), [0, 1]);
    assert_eq!(served(0.0, &[Healthy, Healthy, Unhealthy]), [0, 1]);
}

#[test]
fn round_robin_gives_each_its_turn() {
    let cluster = cluster(Balancer::RoundRobin, healthy(&["a", "b", "c"]));
    let turns: Vec<&str> = (0..6).map(|_| name(cluster.pick(&at(7, 0)))).collect();
    assert_eq!(turns, ["a", "b", "c", "a", "b", "c"]);
}

#[test]
fn random_spreads_evenly() {
    let cluster = cluster(Balancer::Random, healthy(&["a", "b", "c", "d"]));
    let mut counts = [0_u32; 4];
    for random in spread(8_000) {
        let chosen = cluster.pick(&at(random, 0)).unwrap();
        counts[cluster.endpoints.iter().position(|other| Arc::ptr_eq(other, chosen)).unwrap()] += 1;
    }
    assert!(counts.iter().all(|count| (1_800..2_200).contains(count)), "{counts:?}");
}

#[test]
fn least_request_prefers_the_less_busy_of_two() {
    let endpoints = healthy(&["busy", "idle"]);
    let _active = endpoints[0].load.begin();
    let cluster = cluster(Balancer::LeastRequest, endpoints);
    assert!(spread(100).all(|random| name(cluster.pick(&at(random, 0))) == "idle"));
}

#[test]
fn least_request_never_compares_an_endpoint_with_itself() {
    for n in 2..9 {
        for random in spread(200) {
            let (first, second) = two_of(n, random);
            assert!(first != second && first < n && second < n);
        }
    }
}

#[test]
fn an_endpoint_that_was_tried_is_avoided_if_another_exists() {
    for balancer in [Balancer::LeastRequest, Balancer::RoundRobin, Balancer::Random] {
        let cluster = cluster(balancer, healthy(&["a", "b", "c"]));
        let tried = [cluster.endpoints[0].clone(), cluster.endpoints[2].clone()];
        assert!(
            spread(50)
                .all(|random| name(cluster.pick(&Attempt { tried: &tried, random, ..Attempt::default() })) == "b")
        );
        assert!(
            cluster.pick(&Attempt { tried: &cluster.endpoints, ..at(1, 0) }).is_some(),
            "better the same again than none"
        );
    }
}

#[test]
fn a_failed_connect_ranks_an_endpoint_with_the_demoted_until_its_hold_ends() {
    use EndpointHealth::{Healthy, Unhealthy};
    let failing = endpoint("failing", Healthy, Standing::Preferred);
    failing.load.connect_failed(100);
    let with = |name: &str, health, standing| {
        cluster(Balancer::Random, vec![failing.clone(), endpoint(name, health, standing)])
    };
    let demoted = with("demoted", Healthy, Standing::Demoted);
    assert!(spread(20).all(|random| name(demoted.pick(&at(random, 200))) == "demoted"));
    let unhealthy = with("unhealthy", Unhealthy, Standing::Preferred);
    assert!(spread(20).all(|random| name(unhealthy.pick(&at(random, 200))) == "failing"));
    assert!(spread(20).all(|random| name(demoted.pick(&at(random, 1_100))) == "failing"), "the hold has ended");
}

#[test]
fn the_share_of_a_failing_endpoint_is_spread_evenly() {
    let cluster = cluster(Balancer::Random, healthy(&["a", "b", "c", "d"]));
    cluster.endpoints[0].load.connect_failed(0);
    let mut counts = [0_u32; 4];
    for random in spread(9_000) {
        let chosen = cluster.pick(&at(random, 1)).unwrap();
        counts[cluster.endpoints.iter().position(|other| Arc::ptr_eq(other, chosen)).unwrap()] += 1;
    }
    assert_eq!(counts[0], 0);
    assert!(counts[1..].iter().all(|count| (2_700..3_300).contains(count)), "{counts:?}");
}

fn hashing(names: &[&str]) -> Cluster {
    let table = TableKind::Ring { min_size: 1_024 };
    let policy = HashPolicy { key: HashKey::SourceIp, table };
    cluster(Balancer::Hash(Arc::new(policy)), healthy(names))
}

fn by_key(cluster: &Cluster, key: u64) -> &str {
    name(cluster.pick(&Attempt { hash: Some(key), random: key.rotate_left(9), ..Attempt::default() }))
}

#[test]
fn a_key_stays_with_its_endpoint_and_without_a_key_any_will_do() {
    let cluster = hashing(&["a", "b", "c"]);
    for key in spread(200) {
        let owner = by_key(&cluster, key);
        let later = cluster.pick(&Attempt { hash: Some(key), random: !key, ..Attempt::default() });
        assert_eq!(name(later), owner);
    }
    let chosen: std::collections::BTreeSet<&str> =
        spread(50).map(|random| name(cluster.pick(&at(random, 0)))).collect();
    assert_eq!(chosen.len(), 3);
}

#[test]
fn the_keys_of_an_endpoint_that_fails_are_spread_and_all_others_stay() {
    let cluster = hashing(&["a", "b", "c", "d"]);
    let before: Vec<&str> = spread(2_000).map(|key| by_key(&cluster, key)).collect();
    cluster.endpoints[0].load.connect_failed(0);
    let mut moved_to = BTreeMap::new();
    for (key, before) in spread(2_000).zip(before) {
        let now = by_key(&cluster, key);
        if before == "a" {
            *moved_to.entry(now).or_insert(0) += 1;
        } else {
            assert_eq!(now, before);
        }
    }
    assert!(moved_to.len() == 3 && moved_to.values().all(|keys| *keys > 50), "{moved_to:?}");
}

#[test]
fn a_key_never_leads_to_a_draining_endpoint() {
    let mut endpoints = healthy(&["a", "b"]);
    endpoints.push(endpoint("draining", EndpointHealth::Draining, Standing::Preferred));
    let policy = HashPolicy { key: HashKey::SourceIp, table: TableKind::Maglev { size: 251 } };
    let cluster = cluster(Balancer::Hash(Arc::new(policy)), endpoints);
    assert!(spread(500).all(|key| by_key(&cluster, key) != "draining"));
}

#[test]
fn a_table_is_built_anew_only_when_endpoints_come_or_go() {
    let before = hashing(&["a", "b"]);
    let again = |names: &[&str]| {
        let mut endpoints = healthy(names);
        Arc::make_mut(&mut endpoints[0]).standing = Standing::Demoted;
        let name = ClusterName { fqdn: &before.fqdn, port: before.port, subset: &before.subset };
        Cluster::new(&name, before.settings.clone(), endpoints, Some(&before))
    };
    let is_same = |after: &Cluster| Arc::ptr_eq(after.table.as_ref().unwrap(), before.table.as_ref().unwrap());
    assert!(is_same(&again(&["a", "b"])));
    assert!(!is_same(&again(&["a", "c"])));
    assert!(Arc::ptr_eq(&again(&["a", "c"]).state, &before.state));
}

fn two_errors(max_ejection_percent: u64) -> OutlierSettings {
    OutlierSettings {
        error_codes: Box::default(),
        failure_percent: None,
        errors: 2,
        gateway_errors: 0,
        local_failures: 0,
        splits_local: false,
        interval_ms: 1_000,
        base_ejection_ms: 10_000,
        max_ejection_percent,
    }
}

pub(crate) fn detecting(errors: u32, max_ejection_percent: u64, min_health_percent: u64, names: &[&str]) -> Cluster {
    let fqdn: Arc<str> = "reviews.default.svc.cluster.local".into();
    let name = ClusterName { fqdn: &fqdn, port: 9080, subset: "" };
    let outlier = Some(OutlierSettings { errors, ..two_errors(max_ejection_percent) });
    let settings = Settings { outlier, panic_percent: min_health_percent as f64, ..Settings::default() };
    Cluster::new(&name, settings, healthy(names), None)
}

fn fail(cluster: &Cluster, place: usize, now_ms: u64) -> Option<Verdict> {
    let endpoint = &cluster.endpoints[place];
    assert!(cluster.record(endpoint, Outcome::Status(500), now_ms).is_none());
    cluster.record(endpoint, Outcome::Status(500), now_ms)
}

#[test]
fn an_ejected_endpoint_gets_nothing_until_it_is_back_and_others_keep_serving() {
    let cluster = detecting(2, 100, 0, &["a", "b"]);
    let Some(Verdict::Ejected(trip)) = fail(&cluster, 0, 100) else { panic!("not ejected") };
    assert_eq!((name(Some(&trip.endpoint)), trip.until_ms), ("a", 11_000));
    assert!(spread(50).all(|random| name(cluster.pick(&at(random, 10_999))) == "b"));
    assert!(spread(50).any(|random| name(cluster.pick(&at(random, 11_000))) == "a"));
}

#[test]
fn the_first_try_after_an_ejection_tells_that_the_endpoint_is_back() {
    let cluster = detecting(2, 100, 0, &["a", "b"]);
    assert!(fail(&cluster, 0, 100).is_some());
    let record = |status, now_ms| cluster.record(&cluster.endpoints[0], Outcome::Status(status), now_ms);
    assert!(record(200, 10_999).is_none(), "it is out still");
    assert!(matches!(record(500, 11_000), Some(Verdict::Returned)), "whatever came of it");
    assert!(record(200, 11_001).is_none(), "one hears it");
}

#[test]
fn what_holds_an_endpoint_back_is_told_with_how_long_it_does() {
    let cluster = detecting(2, 100, 0, &["a", "b"]);
    let [a, b] = [&cluster.endpoints[0], &cluster.endpoints[1]];
    assert!(fail(&cluster, 0, 0).is_some());
    b.load.connect_failed(0);
    assert_eq!((a.held_back(1), b.held_back(1)), (Some(("consecutive_5xx", 9_999)), Some(("connect_failure", 999))));
    assert_eq!((a.held_back(10_000), b.held_back(1_000)), (None, None));
}

#[test]
fn when_all_are_ejected_nobody_serves() {
    let cluster = detecting(2, 100, 0, &["a", "b"]);
    assert!(matches!(
        (fail(&cluster, 0, 0), fail(&cluster, 1, 0)),
        (Some(Verdict::Ejected(_)), Some(Verdict::Ejected(_)))
    ));
    assert!(cluster.pick(&at(7, 1)).is_none());
}

#[test]
fn no_more_are_ejected_than_the_limit_allows_and_by_envoys_count_10_percent_of_9_is_none() {
    let names = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];
    assert!(matches!(fail(&detecting(2, 10, 0, &names[..9]), 0, 0), Some(Verdict::Overflow)));
    let ten = detecting(2, 10, 0, &names);
    assert!(matches!(fail(&ten, 0, 0), Some(Verdict::Ejected(_))));
    assert!(matches!(fail(&ten, 1, 0), Some(Verdict::Overflow)));
    assert!(matches!(fail(&ten, 1, 10_000), Some(Verdict::Ejected(_))), "the first is back");
}

#[test]
fn who_fails_too_large_a_share_of_an_interval_is_ejected_where_enough_can_be_compared() {
    let ejected = |endpoints: &[&str], asked: usize| {
        let fqdn: Arc<str> = "reviews.default.svc.cluster.local".into();
        let name = ClusterName { fqdn: &fqdn, port: 9080, subset: "" };
        let outlier = Some(OutlierSettings { errors: 0, failure_percent: Some(50), ..two_errors(100) });
        let cluster = Cluster::new(&name, Settings { outlier, ..Settings::default() }, healthy(endpoints), None);
        let record =
            |place: usize, status, now_ms| cluster.record(&cluster.endpoints[place], Outcome::Status(status), now_ms);
        for number in 0..50 {
            // Never two in a row.
            assert!(record(0, if number % 2 == 0 { 503 } else { 200 }, 1_500).is_none());
            assert!((1..asked).all(|place| record(place, 200, 1_500).is_none()));
        }
        let found = record(0, 200, 2_100);
        matches!(found, Some(Verdict::Ejected(trip)) if trip.failures.cause == CircuitCause::FailurePercentage && trip.until_ms == 13_000)
    };
    let five = ["a", "b", "c", "d", "e"];
    assert!(ejected(&five, 5));
    assert!(!ejected(&five, 4), "one has had no requests");
    assert!(!ejected(&five[..4], 4));
}

#[test]
fn what_was_seen_of_an_endpoint_outlives_the_view() {
    let before = detecting(2, 100, 0, &["a", "b"]);
    assert!(fail(&before, 0, 0).is_some());
    let name_of = ClusterName { fqdn: &before.fqdn, port: before.port, subset: &before.subset };
    let after = Cluster::new(&name_of, before.settings.clone(), healthy(&["a", "b", "c"]), Some(&before));
    assert!(spread(50).all(|random| name(after.pick(&at(random, 1))) != "a"));
}

/// Endpoints in localities, as a client in `eu/z1` sees them.
fn located(preference: Preference, localities: &[(&str, &str)]) -> Cluster {
    located_with(preference, localities, 0.0)
}

fn located_with(preference: Preference, localities: &[(&str, &str)], panic_percent: f64) -> Cluster {
    let fqdn: Arc<str> = "reviews.default.svc.cluster.local".into();
    let name = ClusterName { fqdn: &fqdn, port: 9080, subset: "" };
    let endpoints = localities.iter().map(|(name, locality)| {
        let mut endpoint = endpoint(name, EndpointHealth::Healthy, Standing::Preferred);
        Arc::make_mut(&mut endpoint).place = place(locality);
        endpoint
    });
    let settings = Settings { preference, outlier: Some(two_errors(100)), panic_percent, ..Settings::default() };
    Cluster::new(&name, settings, endpoints.collect(), None)
}

fn place(locality: &str) -> Arc<Place> {
    let (region, zone) = locality.split_once('/').unwrap();
    let locality = Locality { region: region.into(), zone: zone.into(), subzone: String::new() };
    Arc::new(Place { node: "n".parse().ok(), locality, labels: BTreeMap::new() })
}

const AROUND: [(&str, &str); 4] = [("near", "eu/z1"), ("zone", "eu/z2"), ("far", "us/z1"), ("far-2", "us/z2")];

fn nearest(labels: Option<Vec<(String, Option<String>)>>) -> Preference {
    Preference::Nearest { place: place("eu/z1"), labels, failover: Vec::new(), zones: None }
}

#[test]
fn the_nearest_serve_as_long_as_they_can() {
    let cluster = located(nearest(None), &AROUND);
    assert!(spread(50).all(|random| name(cluster.pick(&at(random, 0))) == "near"));
    cluster.endpoints[0].load.connect_failed(0);
    assert!(spread(50).all(|random| name(cluster.pick(&at(random, 1))) == "zone"), "the next nearest");
}

#[test]
fn labels_rank_endpoints_by_how_many_match_in_order() {
    let labels = |names: &[(&str, Option<&str>)]| {
        let owned = names.iter().map(|(name, value)| ((*name).to_owned(), value.map(str::to_owned)));
        nearest(Some(owned.collect()))
    };
    let region = "topology.kubernetes.io/region";
    let by_region = located(labels(&[(region, None)]), &AROUND);
    let chosen: std::collections::BTreeSet<&str> =
        spread(50).map(|random| name(by_region.pick(&at(random, 0)))).collect();
    assert_eq!(chosen, ["near", "zone"].into());
    let to_us = located(labels(&[(region, Some("us")), ("topology.kubernetes.io/zone", None)]), &AROUND);
    assert!(spread(50).all(|random| name(to_us.pick(&at(random, 0))) == "far"));
}

#[test]
fn localities_get_their_shares_and_those_without_one_nothing() {
    let shares = [("eu/z1", 80), ("us/*", 20)].map(|(to, share)| (LocalityPattern::read(to), share));
    let cluster = located(Preference::Shares(shares.into()), &AROUND);
    let mut counts = BTreeMap::new();
    for random in spread(5_000) {
        *counts.entry(name(cluster.pick(&at(random, 0)))).or_insert(0_u32) += 1;
    }
    assert!(counts["near"].abs_diff(4_000) < 150 && counts["far"].abs_diff(500) < 100, "{counts:?}");
    assert!(!counts.contains_key("zone"));
}

#[test]
fn a_retry_may_leave_the_level_where_the_request_has_been() {
    let cluster = located(nearest(None), &[AROUND[0], ("near-2", "eu/z1"), AROUND[1], AROUND[2]]);
    let place = |name: &str| cluster.endpoints.iter().find(|one| one.key.workload.as_str() == name).unwrap().clone();
    let after = |tried: &[&str], leaves_level| {
        let tried: Vec<Arc<Endpoint>> = tried.iter().map(|name| place(name)).collect();
        let pick = |random| name(cluster.pick(&Attempt { tried: &tried, leaves_level, ..at(random, 0) })).to_owned();
        spread(50).map(pick).collect::<std::collections::BTreeSet<_>>()
    };
    let only = |name: &str| [name.to_owned()].into();
    assert_eq!(after(&["near"], false), only("near-2"));
    assert_eq!(after(&["near"], true), only("zone"));
    assert_eq!(after(&["near", "zone"], true), only("far"));
    assert_eq!(after(&["near", "zone", "far"], true), only("near-2"), "the only one that is left");
}

fn weighing(
    balancer: Balancer,
    weights: &[(&str, u32)],
    warmup: Option<Warmup>,
    previous: Option<&Cluster>,
) -> Cluster {
    let fqdn: Arc<str> = "reviews.default.svc.cluster.local".into();
    let name = ClusterName { fqdn: &fqdn, port: 9080, subset: "" };
    let endpoints = weights.iter().map(|(name, weight)| {
        let mut endpoint = endpoint(name, EndpointHealth::Healthy, Standing::Preferred);
        Arc::make_mut(&mut endpoint).weight = *weight;
        endpoint
    });
    Cluster::new(&name, Settings { balancer, warmup, ..Settings::default() }, endpoints.collect(), previous)
}

/// How many of 1,000 requests each endpoint gets.
fn counts(cluster: &Cluster, now_ms: u64) -> BTreeMap<&str, u32> {
    let mut counts = BTreeMap::new();
    for random in spread(1_000) {
        *counts.entry(name(cluster.pick(&at(random, now_ms)))).or_insert(0) += 1;
    }
    counts
}

fn about(count: u32, expected: u32) -> bool {
    count.abs_diff(expected) <= 50
}

#[test]
fn endpoints_get_shares_by_their_weights_except_by_chance_alone() {
    for (balancer, heavy) in [(Balancer::LeastRequest, 750), (Balancer::RoundRobin, 750), (Balancer::Random, 500)] {
        let cluster = weighing(balancer.clone(), &[("heavy", 3), ("light", 1)], None, None);
        let counts = counts(&cluster, 0);
        assert!(about(counts["heavy"], heavy), "{balancer:?} {counts:?}");
    }
}

#[test]
fn a_weight_counts_less_the_more_requests_its_endpoint_has() {
    let cluster = weighing(Balancer::LeastRequest, &[("heavy", 3), ("light", 1)], None, None);
    let _active = [cluster.endpoints[0].load.begin(), cluster.endpoints[0].load.begin()];
    assert!(about(counts(&cluster, 0)["heavy"], 500), "3/3 to 1/1");
}

#[test]
fn weights_hold_among_those_that_serve() {
    let cluster = weighing(Balancer::RoundRobin, &[("a", 8), ("b", 3), ("c", 1)], None, None);
    cluster.endpoints[0].load.connect_failed(0);
    let counts = counts(&cluster, 1);
    assert!(!counts.contains_key("a") && about(counts["b"], 750), "{counts:?}");
}

#[test]
fn a_new_endpoint_comes_to_its_share_while_it_warms_up() {
    let warmup = || Some(Warmup { duration_ms: 10_000, least: 0.1, aggression: 1.0 });
    for balancer in [Balancer::LeastRequest, Balancer::RoundRobin] {
        let before = weighing(balancer.clone(), &[("a", 1), ("b", 1)], warmup(), None);
        assert!(about(counts(&before, 0)["a"], 500), "all are new");
        let after = weighing(balancer.clone(), &[("a", 1), ("b", 1), ("c", 1)], warmup(), Some(&before));
        for (now_ms, share) in [(50_000, 48), (55_000, 200), (60_000, 333)] {
            let counts = counts(&after, now_ms);
            assert!(about(counts["c"], share), "{balancer:?} at {now_ms}: {counts:?}");
        }
        let again = weighing(balancer, &[("a", 1), ("c", 1)], warmup(), Some(&after));
        assert!(about(counts(&again, 60_001)["c"], 500), "a change of others does not cool it");
    }
}

#[test]
fn an_endpoint_that_is_healthy_again_warms_up_anew() {
    let warmup = Some(Warmup { duration_ms: 10_000, least: 0.1, aggression: 1.0 });
    let before = weighing(Balancer::RoundRobin, &[("a", 1), ("b", 1)], warmup, None);
    assert!(counts(&before, 0).len() == 2);
    let with = |health, previous: &Cluster| {
        let mut endpoints = healthy(&["a", "b"]);
        Arc::make_mut(&mut endpoints[1]).health = health;
        let name = ClusterName { fqdn: &previous.fqdn, port: previous.port, subset: &previous.subset };
        Cluster::new(&name, previous.settings.clone(), endpoints, Some(previous))
    };
    let sick = with(EndpointHealth::Unhealthy, &before);
    assert_eq!(counts(&sick, 20_000), [("a", 1_000)].into());
    let well = with(EndpointHealth::Healthy, &sick);
    assert!(about(counts(&well, 30_000)["b"], 91), "0.1 to 1");
}
