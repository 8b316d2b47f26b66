//! The choice by how long endpoints take.

use super::*;

#[test]
fn peak_ewma_prefers_who_answers_sooner_by_how_busy_it_is() {
    let endpoints = healthy(&["fast", "slow"]);
    let cluster = cluster(Balancer::PeakEwma { decay_ms: 10_000 }, endpoints);
    let [fast, slow] = [&cluster.endpoints[0], &cluster.endpoints[1]];
    cluster.took(fast, Duration::from_millis(10), 0);
    cluster.took(slow, Duration::from_millis(35), 0);
    let all_go_to = |name_of: &str| spread(50).all(|random| name(cluster.pick(&at(random, 0))) == name_of);
    assert!(all_go_to("fast"));
    let busy = [fast.load.begin(), fast.load.begin()];
    assert!(all_go_to("fast"), "10 ms times 3 are below 35 ms");
    let busier = fast.load.begin();
    assert!(all_go_to("slow"), "10 ms times 4 are not");
    drop((busy, busier));
    cluster.took(fast, Duration::from_millis(200), 0);
    assert!(all_go_to("slow"), "one slow answer is enough");
}

#[test]
fn peak_ewma_tries_who_is_new_or_was_slow_again_after_a_while() {
    let cluster = cluster(Balancer::PeakEwma { decay_ms: 1_000 }, healthy(&["a", "b"]));
    let b_gets_some = |now_ms| spread(50).any(|random| name(cluster.pick(&at(random, now_ms))) == "b");
    cluster.took(&cluster.endpoints[0], Duration::from_millis(5), 0);
    assert!(!b_gets_some(0), "an unknown one counts as 30 ms");
    cluster.took(&cluster.endpoints[0], Duration::from_millis(5), 3_000);
    assert!(b_gets_some(3_000), "and fades");
    cluster.took(&cluster.endpoints[1], Duration::from_secs(1), 3_000);
    assert!(!b_gets_some(3_000));
    cluster.took(&cluster.endpoints[0], Duration::from_millis(5), 9_000);
    assert!(b_gets_some(9_000));
}

#[test]
fn peak_ewma_counts_weights() {
    let cluster = weighing(Balancer::PeakEwma { decay_ms: 10_000 }, &[("heavy", 3), ("light", 1)], None, None);
    for endpoint in &cluster.endpoints {
        cluster.took(endpoint, Duration::from_millis(5), 0);
    }
    assert!(about(counts(&cluster, 0)["heavy"], 750));
}
