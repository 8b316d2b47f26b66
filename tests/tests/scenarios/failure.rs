//! Things break, and traffic goes on.

use std::time::{Duration, Instant};

use serde_json::Value;
use weft_tests::{
    lab::{Lab, PATIENCE, now_us, wait_for},
    load::Exchange,
};

/// A killed node is seen this soon on a local network.
const FAILED_WITHIN: Duration = Duration::from_secs(3);
/// How exactly the moments are known between which a killed process ends, in microseconds: the way of the last packets.
const SLACK_US: u64 = 20_000;

#[test]
fn a_killed_node_costs_only_the_requests_in_flight_on_it() {
    let mut lab = Lab::new(3);
    lab.form_mesh();
    lab.host_mut(0).host_client();
    lab.host_mut(1).host_service("echo", "v1", 8080, 30);
    lab.host_mut(2).host_service("echo", "v2", 8080, 30);
    lab.wait_healthy(0, "echo", 2);
    let load = lab.host(0).load("echo", 200);
    wait_for("both twins have served", PATIENCE, || served(&lab, 0, 200));

    let killed_us = now_us();
    let killed = Instant::now();
    lab.host_mut(1).kill();
    // A busy machine may take its time to end a process, and close its sockets, after the signal.
    let gone_us = now_us();
    wait_for("both others see the killed node as failed", PATIENCE, || {
        [0, 2].iter().all(|&i| lab.state_seen(i, 1).as_deref() == Some("failed")).then_some(())
    });
    let seen_after = killed.elapsed();

    let report = load.finish(0);
    let was_in_flight = |exchange: &&Exchange| exchange.in_flight_within(killed_us, gone_us, SLACK_US);
    let in_flight = report.exchanges.iter().filter(was_in_flight).count();
    let (sent, failed) = (report.exchanges.len(), report.failures().len());
    println!("{sent} sent, {in_flight} in flight at the kill, {failed} failed; seen after {seen_after:?}");
    assert!(report.served_by().len() == 2, "both twins had a part of the load: {:?}", report.served_by());
    for failure in report.failures() {
        assert!(was_in_flight(&failure), "not in flight between {killed_us} and {gone_us}, and failed: {failure:?}");
    }
    assert!(seen_after <= FAILED_WITHIN, "seen only after {seen_after:?}");
}

#[test]
fn a_host_that_vanishes_is_routed_around() {
    let mut lab = Lab::new(3);
    lab.form_mesh();
    lab.host_mut(0).host_client();
    lab.host_mut(1).host_service("echo", "v1", 8080, 0);
    lab.host_mut(2).host_service("echo", "v2", 8080, 0);
    lab.wait_healthy(0, "echo", 2);

    // No packet says that it is gone.
    lab.partition(&[1], &[0, 2]);
    wait_for("the host is seen as failed", PATIENCE, || (lab.state_seen(0, 1)? == "failed").then_some(()));
    let load = lab.host(0).load("echo", 100);
    wait_for("the twin serves", PATIENCE, || served(&lab, 0, 200));
    let report = load.finish(200);
    report.assert_all_succeeded();
    assert_eq!(report.served_by().keys().copied().collect::<Vec<_>>(), ["echo-v2@host-3"]);

    lab.heal();
    (0..3).for_each(|i| lab.wait_members(i, "alive", 3));
    lab.wait_healthy(0, "echo", 2);
}

#[test]
fn every_actor_may_panic_under_load_and_nothing_is_lost() {
    let mut lab = Lab::new(2);
    lab.form_mesh();
    lab.host_mut(0).host_client();
    lab.host_mut(1).host_service("echo", "v1", 8080, 0);
    lab.wait_healthy(0, "echo", 1);
    let load = lab.host(0).load("echo", 100);
    let mut struck = Vec::new();
    for i in [0, 1] {
        for name in actors(&lab, i).iter().map(|actor| actor["name"].as_str().expect("a name").to_owned()) {
            struck.push((now_us(), format!("{name} of {}", lab.host(i).name)));
            lab.host(i).admin("POST", &format!("/debug/actors/{name}/panic")).ok();
            let what = format!("actor {name} of {} is restarted", lab.host(i).name);
            wait_for(&what, PATIENCE, || {
                let actors = actors(&lab, i);
                let actor = actors.iter().find(|actor| actor["name"] == *name)?;
                (actor["restarts"] == 1 && actor["state"] == "running").then(|| {
                    let error = actor["last_error"].as_str().expect("the panic is shown");
                    assert!(error.contains("panic"), "{error}");
                })
            });
        }
    }
    let report = load.finish(100);
    for failure in report.failures() {
        let last = struck.iter().rfind(|(struck_us, _)| *struck_us <= failure.end_us);
        println!("after the panic of {last:?}: {failure:?}");
    }
    report.assert_all_succeeded();

    // What the actors held is still so, and what they do is still done.
    (0..2).for_each(|i| lab.wait_members(i, "alive", 2));
    lab.wait_healthy(0, "echo", 1);
    lab.host_mut(0).host_service("late", "v1", 8081, 0);
    lab.wait_healthy(1, "late", 1);
    assert_eq!(lab.host(0).json(&["status"])["ready"], true);
}

#[test]
fn every_actor_may_freeze_and_nothing_is_lost() {
    let mut lab = Lab::new(2);
    lab.form_mesh();
    lab.host_mut(0).host_client();
    lab.host_mut(1).host_service("echo", "v1", 8080, 0);
    lab.wait_healthy(0, "echo", 1);
    let load = lab.host(0).load("echo", 50);
    for i in [0, 1] {
        // The last started comes last: it is the one that takes these requests.
        for actor in actors(&lab, i) {
            lab.host(i)
                .admin("POST", &format!("/debug/actors/{}/freeze", actor["name"].as_str().expect("a name")))
                .ok();
        }
    }
    for i in [0, 1] {
        wait_for("the frozen actors are restarted", PATIENCE, || {
            let thawed = |actor: &Value| actor["restarts"] == 1 && actor["state"] == "running";
            actors(&lab, i).iter().all(thawed).then_some(())
        });
        for actor in actors(&lab, i) {
            assert!(actor["last_error"].as_str().is_some_and(|error| error.contains("frozen")), "{actor}");
        }
    }
    load.finish(500).assert_all_succeeded();
    (0..2).for_each(|i| lab.wait_members(i, "alive", 2));
    lab.host_mut(0).host_service("late", "v1", 8081, 0);
    lab.wait_healthy(1, "late", 1);
}

fn actors(lab: &Lab, i: usize) -> Vec<Value> {
    lab.host(i).json(&["status"])["actors"].as_array().expect("a list").clone()
}

/// Whether the proxy of a host has had this many answers for its callers.
fn served(lab: &Lab, i: usize, count: u32) -> Option<()> {
    let answers = lab.host(i).metric("istio_requests_total", &["reporter=\"source\"", "response_code=\"200\""]);
    (answers >= f64::from(count)).then_some(())
}
