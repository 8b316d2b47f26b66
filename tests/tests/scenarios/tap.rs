//! Live requests of the whole mesh, for operators alone.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;
use weft_tests::lab::{Lab, PATIENCE, Process, wait_for, weft};

use crate::signals::lab;

/// `weft tap` on a host, and where it writes.
fn tap(lab: &Lab, i: usize, name: &str, options: &[&str]) -> (Process, PathBuf) {
    let file = lab.file(name, "");
    let process = Process::start(lab.host(i).command(weft()).arg("tap").args(options), &file);
    (process, file)
}

fn seen(file: &Path) -> Vec<Value> {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn watching(lab: &Lab) -> f64 {
    (0..3).map(|i| lab.host(i).metric("weft_taps", &[])).sum()
}

#[test]
fn operators_see_requests_of_all_nodes_without_credentials_and_it_is_told() {
    let lab = lab();
    let (mut live, file) = tap(&lab, 0, "live", &["web", "--header", "x-seen: yes", "--body", "1KiB", "-o", "json"]);
    wait_for("all nodes watch", PATIENCE, || (watching(&lab) == 3.0).then_some(()));
    let call = |mark: &str, path: &str, options: &[&str]| {
        let mark = format!("x-seen: {mark}");
        let own = [
            "-H",
            &mark,
            "-H",
            "authorization: Bearer s3cret",
            "-H",
            "cookie: id=s3cret",
            "-H",
            "content-type: application/json",
        ];
        lab.host(0).call("web", path, &[&own[..], options].concat())
    };
    assert_eq!(call("no", "/unwanted", &[]).status, 200);
    let body = "{\"user\": \"jason\", \"password\": \"s3cret\"}";
    assert_eq!(call("yes", "/items?page=2&token=s3cret", &["-d", body]).status, 200);
    assert_eq!(call("yes", "/items/2", &["-H", "x-status: 503"]).status, 503);
    let requests = wait_for("both are seen", PATIENCE, || Some(seen(&file)).filter(|seen| seen.len() >= 2));
    assert_eq!(requests.len(), 2, "each once, and no other: {requests:#?}");
    let first = &requests[0];
    let expected = [
        ("node", "host-1"),
        ("reporter", "source"),
        ("source_workload", "client-v1"),
        ("service", "web"),
        ("method", "POST"),
        ("path", "/items?page=2&token=[hidden]"),
        ("protocol", "http"),
    ];
    for (field, value) in expected {
        assert_eq!(first[field], value, "{field} of {first:#}");
    }
    assert_eq!((&first["status"], &first["mutual_tls"]), (&200.into(), &true.into()));
    assert_eq!(first["request_body"], "{\"user\": \"jason\", \"password\": \"[hidden]\"}");
    assert_eq!(requests[1]["status"], 503);
    let text = fs::read_to_string(&file).expect("it is there");
    assert!(!text.contains("s3cret") && text.contains("Bearer [hidden]"), "{text}");

    // Whoever looks sees that somebody has looked.
    let told = wait_for("all nodes have told it", PATIENCE, || {
        let events = lab.host(2).json(&["events", "--kind", "tap"]);
        let event = events["events"].as_array()?.first()?.clone();
        (event["nodes"].as_array()?.len() == 3).then_some(event)
    });
    let what = told["what"].as_str().expect("a text");
    assert!(what.contains("/operator/") && what.contains("header x-seen") && !what.contains("yes"), "{told}");
    assert_eq!(told["subject"], "svc/web");

    live.kill();
    wait_for("nobody watches once the first is gone", PATIENCE, || (watching(&lab) == 0.0).then_some(()));

    // Of one node alone, by its own word.
    let (mut one, file) = tap(&lab, 0, "one", &["--node", "host-2", "--side", "destination", "-o", "json"]);
    wait_for("it watches", PATIENCE, || (lab.host(1).metric("weft_taps", &[]) == 1.0).then_some(()));
    let mark = ["-H", "authorization: Bearer s3cret"];
    wait_for("a request has reached it", PATIENCE, || {
        lab.host(0).call("web", "/of-one", &mark);
        (!seen(&file).is_empty()).then_some(())
    });
    assert_eq!(watching(&lab), 1.0, "no other does");
    let requests = seen(&file);
    assert!(requests.iter().all(|seen| seen["node"] == "host-2" && seen["path"] == "/of-one"), "{requests:#?}");
    one.kill();
    wait_for("nobody watches once the reader is gone", PATIENCE, || (watching(&lab) == 0.0).then_some(()));
}

#[test]
fn who_may_write_no_documents_may_not_tap_and_a_tap_ends_with_its_time() {
    let lab = lab();
    // The second host is a member, and has no operator's credential.
    lab.host(1).weft(&["tap", "web"]).refused(&["role is member", "--credential"]);
    let url = "http://127.0.0.1:15000/api/v1/tap";
    assert_eq!(lab.host(0).curl(&["--max-time", "5"], url).status, 403, "every process of the host reaches this");
    lab.host(0).weft(&["tap", "--status", "7xx"]).refused(&["status"]);

    // From there with the credential it may, and is told of what it does not see.
    let credential = lab.host(0).dir.join("operator").to_string_lossy().into_owned();
    let options = ["web", "--credential", &credential, "--max-rps", "1", "--for", "12s"];
    let (mut short, file) = tap(&lab, 1, "short", &options);
    wait_for("all nodes watch", PATIENCE, || (watching(&lab) == 3.0).then_some(()));
    let load = lab.host(0).load("web", 50);
    assert_eq!(short.wait(PATIENCE), Some(0));
    let _ = load.finish(100);
    let said = fs::read_to_string(&file).expect("it is there");
    assert!(said.contains("default/client-v1 -> default/web (default/web-v"), "{said}");
    assert!(said.contains("were more than --max-rps") && said.contains("the tap's time is up"), "{said}");
    let lines = said.lines().filter(|line| line.contains(" GET / 200 ")).count();
    assert!((1..=14).contains(&lines), "one a second of the caller's node: {said}");
    wait_for("nobody watches", PATIENCE, || (watching(&lab) == 0.0).then_some(()));
}
