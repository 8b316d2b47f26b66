//! `weft run` hosts one process as a service.

use std::time::Duration;

use nix::sys::signal::Signal;
use weft_tests::lab::{Lab, PATIENCE, origin, wait_for};

#[test]
fn signals_and_the_exit_code_pass_through() {
    let mut lab = Lab::new(1);
    lab.found_mesh();
    let host = lab.host(0);
    let run = ["run", "--service", "job", "--port", "9999", "--", "sh", "-c"];
    assert_eq!(host.weft(&[&run[..], &["exit 42"]].concat()).code, Some(42));
    assert_eq!(host.weft(&[&run[..], &["kill -KILL $$"]].concat()).code, Some(128 + 9));
    host.weft(&["run", "--service", "job", "--port", "9999", "--", "/no/such/program"]).refused(&["/no/such/program"]);

    let mut process = host.start_run(
        &["--service", "job", "--port", "9999"],
        &["sh", "-c", "trap 'exit 7' TERM; while :; do sleep 0.05; done"],
    );
    wait_for("the service is registered", PATIENCE, || {
        (lab.host(0).try_json(&["endpoints", "job"])?.as_array()?.len() == 1).then_some(())
    });
    process.signal(Signal::SIGTERM);
    assert_eq!(process.wait(PATIENCE), Some(7));
    wait_for("the service is gone", PATIENCE, || {
        let left = lab.host(0).try_json(&["endpoints", "job"]);
        left.is_none_or(|left| left.as_array().is_some_and(Vec::is_empty)).then_some(())
    });
}

#[test]
fn a_service_that_ends_loses_no_request() {
    let mut lab = Lab::new(3);
    lab.form_mesh();
    lab.host_mut(0).host_client();
    lab.host_mut(2).host_service("echo", "v2", 8080, 30);
    let origin = origin();
    let command = [&*origin, "--listen", "127.0.0.1:8080", "--name", "leaving", "--delay-ms", "30"];
    let mut leaving = lab.host(1).start_run(&["--service", "echo", "--version", "v1", "--port", "8080"], &command);
    lab.wait_healthy(0, "echo", 2);
    let load = lab.host(0).load("echo", 200);
    let answers = |lab: &Lab| lab.host(0).metric("istio_requests_total", &["reporter=\"source\""]);
    wait_for("both serve", PATIENCE, || (answers(&lab) > 100.0).then_some(()));

    leaving.signal(Signal::SIGTERM);
    assert_eq!(leaving.wait(PATIENCE), Some(128 + 15), "the origin has no handler");
    let so_far = answers(&lab);
    wait_for("the twin serves alone", PATIENCE, || (answers(&lab) > so_far + 100.0).then_some(()));
    let report = load.finish(200);
    report.assert_all_succeeded();
    assert!(report.served_by()["leaving"] > 20, "{:?}", report.served_by());
}

#[test]
fn a_service_comes_back_when_its_node_does() {
    let mut lab = Lab::new(1);
    lab.found_mesh();
    lab.host_mut(0).host_client();
    lab.host_mut(0).kill();
    lab.host_mut(0).start();
    lab.wait_healthy(0, "client", 1);
}

#[test]
fn a_service_ends_in_time_though_its_node_hangs() {
    let mut lab = Lab::new(1);
    lab.found_mesh();
    let mut process = lab.host(0).start_run(&["--service", "job", "--port", "9999"], &["sleep", "1000"]);
    wait_for("the service is registered", PATIENCE, || lab.host(0).try_json(&["endpoints", "job"]).map(drop));
    lab.host_mut(0).node().signal(Signal::SIGSTOP);
    process.signal(Signal::SIGTERM);
    assert_eq!(process.wait(Duration::from_secs(10)), Some(128 + 15));
    assert!(lab.host(0).log_tail(5).contains("the node does not answer"), "{}", lab.host(0).log_tail(5));
}

#[test]
fn a_service_that_its_node_does_not_take_back_says_why() {
    let mut lab = Lab::new(1);
    lab.found_mesh();
    let _process = lab.host(0).start_run(&["--service", "job", "--port", "9999"], &["sleep", "1000"]);
    wait_for("the service is registered", PATIENCE, || lab.host(0).try_json(&["endpoints", "job"]).map(drop));
    lab.host_mut(0).stop();
    lab.host(0).configure("\nservices: [{name: job, port: 9999}]\n");
    lab.host_mut(0).start();
    wait_for("the refusal is told", PATIENCE, || {
        lab.host(0).log_tail(20).contains("does not take job back, and is asked again: workload").then_some(())
    });
}
