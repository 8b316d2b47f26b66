//! When all endpoints are used because too few serve.

use std::collections::BTreeSet;

use super::*;

/// Who gets requests of a client in `eu/z1`, once some endpoints are ejected.
fn picked_of(localities: &[(&str, &str)], panic_percent: f64, ejected: &[&str]) -> Vec<String> {
    let cluster = located_with(nearest(None), localities, panic_percent);
    for (place, endpoint) in cluster.endpoints.iter().enumerate() {
        if ejected.contains(&name(Some(endpoint))) {
            assert!(matches!(fail(&cluster, place, 0), Some(Verdict::Ejected(_))));
        }
    }
    let picked: BTreeSet<String> = spread(300).map(|random| name(cluster.pick(&at(random, 1))).to_owned()).collect();
    picked.into_iter().collect()
}

#[test]
fn below_the_least_health_all_serve() {
    let cluster = detecting(2, 100, 60, &["a", "b"]);
    assert!(fail(&cluster, 0, 0).is_some());
    assert!(spread(50).any(|random| name(cluster.pick(&at(random, 1))) == "a"), "50 % are below 60 %");
}

#[test]
fn as_long_as_those_left_can_take_all_there_is_no_panic() {
    let cluster = detecting(2, 100, 90, &["a", "b", "c", "d"]);
    assert!(fail(&cluster, 0, 0).is_some());
    assert!(spread(50).all(|random| name(cluster.pick(&at(random, 1))) != "a"), "3 of 4 take 105 %");
    assert!(fail(&cluster, 1, 0).is_some());
    assert!(spread(50).any(|random| name(cluster.pick(&at(random, 1))) == "a"), "2 of 4 take 70 %");
}

#[test]
fn unhealthy_endpoints_panic_without_outlier_detection_and_draining_ones_stay_out() {
    use EndpointHealth::{Draining, Healthy, Unhealthy};
    let fqdn: Arc<str> = "reviews.default.svc.cluster.local".into();
    let name_of = ClusterName { fqdn: &fqdn, port: 9080, subset: "" };
    let endpoints = [("a", Healthy), ("b", Unhealthy), ("c", Unhealthy), ("d", Draining)];
    let endpoints = endpoints.map(|(name, health)| endpoint(name, health, Standing::Preferred));
    let picked = |panic_percent| {
        let settings = Settings { panic_percent, ..Settings::default() };
        let cluster = Cluster::new(&name_of, settings, endpoints.to_vec(), None);
        let picked: BTreeSet<String> = spread(50).map(|random| name(cluster.pick(&at(random, 0))).to_owned()).collect();
        picked.into_iter().collect::<Vec<_>>()
    };
    assert_eq!(picked(0.0), ["a"]);
    assert_eq!(picked(30.0), ["a"], "a third serves");
    assert_eq!(picked(50.0), ["a", "b", "c"]);
}

#[test]
fn a_level_panics_alone_and_all_together_whoever_is_near() {
    let localities = [("a1", "eu/z1"), ("a2", "eu/z1"), ("b1", "us/z1"), ("b2", "us/z1")];
    let picked = |ejected: &[&str]| picked_of(&localities, 60.0, ejected);
    assert_eq!(picked(&[]), ["a1", "a2"]);
    assert_eq!(picked(&["a1"]), ["a2", "b1", "b2"], "70 % here and the rest there are enough: nobody panics");
    assert_eq!(picked(&["a1", "b1"]), ["a2", "b2"], "70 % and 70 % are enough");
    assert_eq!(picked(&["a1", "a2", "b1"]), ["a1", "a2", "b1", "b2"], "both levels panic");
}

#[test]
fn of_two_levels_that_are_not_enough_the_one_below_the_threshold_panics() {
    let localities = ["a1", "a2", "a3", "a4"].map(|name| (name, "eu/z1"));
    let localities = [&localities[..], &["b1", "b2", "b3"].map(|name| (name, "us/z1"))].concat();
    assert_eq!(
        picked_of(&localities, 30.0, &["a1", "a2", "a3", "b1", "b2"]),
        ["a1", "a2", "a3", "a4", "b3"],
        "a quarter of the one serves, and a third of the other"
    );
}
