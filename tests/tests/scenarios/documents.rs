//! Documents reach every node, whatever happened on the way.

use std::time::Instant;

use weft_tests::lab::{Lab, PATIENCE, wait_for};

/// Requests for `/` go to a subset that does not exist: 503. Others are served.
pub(crate) const ECHO_TO_NOWHERE: &str = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: { name: echo }
spec:
  hosts: [echo]
  http:
  - match: [{ uri: { exact: / } }]
    route: [{ destination: { host: echo, subset: nowhere } }]
  - route: [{ destination: { host: echo } }]
";

fn timeout(name: &str, seconds: u32) -> String {
    format!(
        "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{ name: {name} }}
spec:
  hosts: [{name}]
  http: [{{ timeout: {seconds}s, route: [{{ destination: {{ host: {name} }} }}] }}]
"
    )
}

pub(crate) fn apply(lab: &Lab, i: usize, name: &str, seconds: u32) {
    let file = lab.file(&format!("{name}-{i}.yaml"), &timeout(name, seconds));
    lab.host(i).weft(&["apply", "-f", &file.to_string_lossy()]).ok();
}

pub(crate) fn timeout_seen(lab: &Lab, i: usize, name: &str) -> Option<String> {
    let document = lab.host(i).try_json(&["get", "virtualservice", name])?;
    Some(document["spec"]["http"][0]["timeout"].as_str()?.to_owned())
}

pub(crate) fn wait_same_documents(lab: &Lab, hosts: usize) {
    wait_for("all nodes hold the same documents", PATIENCE, || {
        let digest = |i: usize| Some(lab.host(i).try_json(&["status"])?["documents_digest"].as_str()?.to_owned());
        let first = digest(0)?;
        (1..hosts).all(|i| digest(i).as_ref() == Some(&first)).then_some(())
    });
}

#[test]
fn documents_applied_on_both_sides_of_a_partition_are_the_same_everywhere_after_it() {
    let mut lab = Lab::new(4);
    let member = ["--allow", "default/*"].as_slice();
    lab.form_mesh_of(&[member, &["--allow", "default/*", "--role", "admin"], member]);
    for i in [1, 3] {
        lab.host_mut(i).host_service("echo", "v1", 8080, 0);
    }
    for i in [0, 2] {
        lab.host_mut(i).host_client();
        lab.wait_healthy(i, "echo", 2);
    }

    lab.partition(&[0, 1], &[2, 3]);
    (0..4).for_each(|i| lab.wait_members(i, "failed", 2));
    apply(&lab, 0, "here", 1);
    apply(&lab, 2, "there", 2);
    apply(&lab, 0, "both", 3);
    apply(&lab, 2, "both", 4);
    for (side, name) in [([0, 1], "here"), ([2, 3], "there")] {
        for i in side {
            wait_for("the document reaches this side", PATIENCE, || timeout_seen(&lab, i, name));
        }
    }
    assert_eq!(timeout_seen(&lab, 1, "there"), None, "the other side cannot know yet");
    for i in [0, 2] {
        let answer = lab.host(i).call("echo", "/", &[]);
        assert_eq!(answer.status, 200, "each side serves itself: {answer:?}");
    }

    lab.heal();
    (0..4).for_each(|i| lab.wait_members(i, "alive", 4));
    wait_same_documents(&lab, 4);
    for i in 0..4 {
        assert_eq!(timeout_seen(&lab, i, "here").as_deref(), Some("1s"));
        assert_eq!(timeout_seen(&lab, i, "there").as_deref(), Some("2s"));
        assert_eq!(timeout_seen(&lab, i, "both").as_deref(), Some("4s"), "the later one holds");
    }
}

#[test]
fn what_both_sides_of_a_partition_write_and_delete_ends_as_the_later_word() {
    let mut lab = Lab::new(5);
    lab.form_mesh_of(&[&[], &[], &["--role", "admin"], &[]]);
    let (one, other) = ([0, 1, 2], [3, 4]);
    for name in ["deleted", "revived", "deleted-last", "rewritten-last"] {
        apply(&lab, 0, name, 1);
    }
    wait_same_documents(&lab, 5);
    lab.partition(&one, &other);
    one.iter().for_each(|i| lab.wait_members(*i, "failed", 2));
    other.iter().for_each(|i| lab.wait_members(*i, "failed", 3));
    let delete = |i: usize, name: &str| lab.host(i).weft(&["delete", "vs", name]).ok();
    delete(0, "deleted");
    delete(0, "revived");
    apply(&lab, 3, "revived", 2);
    apply(&lab, 0, "deleted-last", 3);
    delete(3, "deleted-last");
    delete(3, "rewritten-last");
    apply(&lab, 0, "rewritten-last", 4);
    apply(&lab, 3, "new", 5);
    wait_for("each side has its own word", PATIENCE, || {
        let here = one.iter().all(|i| timeout_seen(&lab, *i, "rewritten-last").as_deref() == Some("4s"));
        let there = other.iter().all(|i| timeout_seen(&lab, *i, "new").is_some());
        (here && there).then_some(())
    });
    assert_eq!(timeout_seen(&lab, 4, "deleted").as_deref(), Some("1s"), "nobody could tell it");

    lab.heal();
    let healed = Instant::now();
    wait_same_documents(&lab, 5);
    println!("the same documents {:?} after the partition", healed.elapsed());
    for i in 0..5 {
        let seen =
            ["deleted", "revived", "deleted-last", "rewritten-last", "new"].map(|name| timeout_seen(&lab, i, name));
        assert_eq!(seen.each_ref().map(Option::as_deref), [None, Some("2s"), None, Some("4s"), Some("5s")], "host {i}");
    }
}

#[test]
fn a_node_that_was_away_gets_what_it_missed() {
    let mut lab = Lab::new(2);
    lab.form_mesh();
    apply(&lab, 0, "old", 1);
    wait_for("the document arrives", PATIENCE, || timeout_seen(&lab, 1, "old"));

    lab.host_mut(1).stop();
    apply(&lab, 0, "new", 2);
    lab.host(0).weft(&["delete", "virtualservice", "old"]).ok();
    lab.host_mut(1).start();
    wait_for("the new document arrives", PATIENCE, || timeout_seen(&lab, 1, "new"));
    wait_same_documents(&lab, 2);
    lab.host(1).weft(&["get", "virtualservice", "old"]).refused(&["old", "not found"]);
}

#[test]
fn what_weft_does_not_know_is_refused_by_name() {
    let mut lab = Lab::new(1);
    lab.found_mesh();
    let refused = |name: &str, text: &str, words: &[&str]| {
        let file = lab.file(name, text);
        let words = [&[name], words].concat();
        lab.host(0).weft(&["apply", "-f", &file.to_string_lossy()]).refused(&words);
    };
    refused("kind.yaml", &timeout("a", 1).replace("VirtualService", "EnvoyFilter"), &["EnvoyFilter"]);
    refused(
        "field.yaml",
        &timeout("a", 1).replace("timeout:", "timeuot:"),
        &["7:12: VirtualService a: spec.http[0].timeuot"],
    );
    // Good documents in the same file are not applied either.
    refused(
        "half.yaml",
        &format!("{}---{}", timeout("good", 1), timeout("bad", 1).replace("hosts:", "host:")),
        &["host"],
    );
    lab.host(0).weft(&["get", "virtualservice", "good"]).refused(&["not found"]);
    lab.host(0).weft(&["delete", "virtualservice", "good"]).refused(&["good does not exist", "weft get"]);
}

/// Asks for what the data path does not do.
const AT_A_GATEWAY: &str = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: { name: at-a-gateway, labels: { app: echo } }
spec:
  hosts: [echo]
  gateways: [edge]
  http: [{ route: [{ destination: { host: echo } }] }]
";

#[test]
fn changes_can_be_looked_at_before_and_taken_back_by_file() {
    let mut lab = Lab::new(1);
    lab.found_mesh();
    let host = lab.host(0);
    let one = lab.file("one.yaml", &timeout("one", 1)).to_string_lossy().into_owned();
    let changed = lab.file("changed.yaml", &timeout("one", 2)).to_string_lossy().into_owned();

    assert_eq!(host.weft(&["apply", "-f", &one, "--dry-run"]).ok(), "virtualservice/one created (dry run)\n");
    host.weft(&["get", "vs", "one"]).refused(&["not found"]);
    let diff = host.weft(&["diff", "-f", &one]);
    assert_eq!(diff.code, Some(1), "{diff:?}");
    assert!(diff.stdout.contains("+kind: VirtualService\n"), "{diff:?}");
    host.weft(&["apply", "-f", &one]).ok();
    assert_eq!(host.weft(&["diff", "-f", &one]).ok(), "");
    let diff = host.weft(&["diff", "-f", &changed]);
    assert!(diff.stdout.contains("\n-    timeout: 1s\n+    timeout: 2s\n"), "{diff:?}");
    assert_eq!(host.weft(&["diff", "-f", "/nowhere"]).code, Some(2));
    let outcome = host.weft(&["apply", "-f", &changed, "--dry-run=server"]).ok();
    assert_eq!(outcome, "virtualservice/one configured (dry run)\n");
    assert_eq!(timeout_seen(&lab, 0, "one").as_deref(), Some("1s"));

    // Half of the file is applied only on request.
    let bad = timeout("bad", 1).replace("hosts:", "host:");
    let half = lab.file("half.yaml", &format!("{}---{bad}", timeout("good", 1))).to_string_lossy().into_owned();
    host.weft(&["apply", "-f", &half]).refused(&["spec.host"]);
    let partial = host.weft(&["apply", "-f", &half, "--partial"]);
    assert_eq!((partial.code, partial.stdout.as_str()), (Some(1), "virtualservice/good created\n"), "{partial:?}");
    assert!(partial.stderr.contains("half.yaml:") && partial.stderr.contains("1 mistake refused"), "{partial:?}");

    let said = host.weft(&["delete", "-f", &one, "--dry-run"]).ok();
    assert_eq!(said, "virtualservice/one deleted (dry run)\n");
    assert_eq!(host.weft(&["delete", "-f", &one]).ok(), "virtualservice/one deleted\n");
    host.weft(&["delete", "-f", &one]).refused(&["VirtualService default/one does not exist"]);
    assert_eq!(host.weft(&["delete", "-f", &one, "--ignore-not-found"]).ok(), "");
    host.weft(&["delete", "vs"]).refused(&["--all"]);
    assert_eq!(host.weft(&["delete", "vs", "--all"]).ok(), "virtualservice/good deleted\n");
}

#[test]
fn the_status_of_a_document_says_what_is_not_enforced_and_who_has_it() {
    let mut lab = Lab::new(2);
    lab.form_mesh();
    let at_a_gateway = lab.file("at-a-gateway.yaml", AT_A_GATEWAY).to_string_lossy().into_owned();
    let applied = lab.host(0).weft(&["apply", "-f", &at_a_gateway]);
    assert!(applied.stderr.contains("VirtualService at-a-gateway: not enforced yet: spec.gateways"), "{applied:?}");

    let status = |lab: &Lab| Some(lab.host(0).try_json(&["get", "vs", "at-a-gateway"])?["status"].clone());
    let status_now = wait_for("both nodes have the document", PATIENCE, || {
        status(&lab).filter(|status| status["nodes"]["current"] == 2)
    });
    assert_eq!(status_now["nodes"]["lagging"], serde_json::json!([]));
    let condition = |kind: &str| {
        let conditions = status_now["conditions"].as_array().expect("a list").iter();
        let found = conditions.into_iter().find(|condition| condition["type"] == kind).expect("the condition");
        ["status", "reason", "message"].map(|field| found[field].as_str().expect("a text").to_owned())
    };
    assert_eq!(condition("Accepted")[..2], ["True", "Accepted"]);
    assert_eq!(condition("Programmed"), ["False", "NotImplemented", "not enforced yet: spec.gateways"]);
    assert_eq!(condition("ResolvedRefs")[..2], ["False", "BackendNotFound"]);
    let table = lab.host(0).weft(&["get", "vs", "-l", "app in (echo),!gone", "-o", "wide"]).ok();
    assert!(table.contains("NotProgrammed") && table.contains("2/2"), "{table}");
    let names = lab.host(1).weft(&["get", "all", "-A", "-o", "name"]).ok();
    assert_eq!(names, "virtualservice.networking.istio.io/at-a-gateway\n");

    // What was read back changes nothing.
    let read_back = lab.host(0).weft(&["get", "vs/at-a-gateway", "-o", "yaml"]).ok();
    assert!(read_back.contains("creationTimestamp") && read_back.contains("generation"), "{read_back}");
    let file = lab.file("read-back.yaml", &read_back).to_string_lossy().into_owned();
    assert_eq!(lab.host(0).weft(&["apply", "-f", &file]).ok(), "virtualservice/at-a-gateway unchanged\n");

    lab.host_mut(1).kill();
    lab.wait_members(0, "failed", 1);
    apply(&lab, 0, "newer", 1);
    let nodes = &status(&lab).expect("it is there")["nodes"];
    let name = &lab.host(1).name;
    assert_eq!(*nodes, serde_json::json!({ "current": 1, "total": 2, "lagging": [name] }));
}

#[test]
fn a_change_of_what_has_changed_meanwhile_is_refused() {
    let mut lab = Lab::new(1);
    lab.found_mesh();
    let host = lab.host(0);
    apply(&lab, 0, "one", 1);
    let read_back = |name: &str| {
        let yaml = host.weft(&["get", "vs", "one", "-o", "yaml"]).ok();
        let version =
            host.json(&["get", "vs", "one"])["metadata"]["resourceVersion"].as_str().expect("it is there").to_owned();
        (lab.file(name, &yaml.replace("timeout: 1s", "timeout: 9s")).to_string_lossy().into_owned(), version)
    };
    let (first, seen) = read_back("first.yaml");
    apply(&lab, 0, "one", 2);
    let (_, now) = read_back("now.yaml");
    let words: &[&str] =
        &["VirtualService default/one has changed", &seen, &now, "weft get virtualservice one -n default -o yaml"];
    // Signed by the operator here, and by the node below.
    host.weft(&["apply", "-f", &first]).refused(words);
    host.weft(&["apply", "-f", &first, "--dry-run"]).refused(words);
    host.weft(&["delete", "-f", &first]).refused(words);
    host.weft(&["delete", "vs", "one", "--resource-version", &seen]).refused(words);
    std::fs::rename(host.dir.join("operator"), host.dir.join("elsewhere")).expect("the operator's credential");
    host.weft(&["apply", "-f", &first]).refused(words);
    assert_eq!(host.weft(&["delete", "vs", "--all", "--resource-version", &now]).code, Some(2));
    assert_eq!(timeout_seen(&lab, 0, "one").as_deref(), Some("2s"));
    host.weft(&["delete", "vs", "one", "--resource-version", &now]).ok();
    host.weft(&["apply", "-f", &first]).refused(&["does not exist any more", &seen]);
}

fn versions_of_one(lab: &Lab, i: usize) -> Vec<serde_json::Value> {
    lab.host(i).json(&["history", "vs", "one"])["versions"].as_array().expect("a list").clone()
}

#[test]
fn what_became_of_a_document_is_known_everywhere_and_can_be_taken_back() {
    let mut lab = Lab::new(3);
    lab.form_mesh_of(&[&["--allow", "default/*", "--role", "admin"]]);
    lab.host(0).weft(&["history", "vs", "one"]).refused(&["no version of virtualservice", "weft get"]);
    for seconds in 1..=3 {
        apply(&lab, 0, "one", seconds);
    }
    wait_for("the other node has it", PATIENCE, || (timeout_seen(&lab, 1, "one")? == "3s").then_some(()));
    apply(&lab, 1, "one", 4);
    wait_same_documents(&lab, 2);
    let versions = versions_of_one(&lab, 0);
    let told: Vec<_> = versions
        .iter()
        .map(|version| {
            let timeout = version["body"]["spec"]["http"][0]["timeout"].as_str().expect("a timeout");
            (timeout, version["event"].as_str().expect("an event"), version["node"].as_str().expect("a node"))
        })
        .collect();
    let expected = [
        ("4s", "configured", "host-2"),
        ("3s", "configured", "host-1"),
        ("2s", "configured", "host-1"),
        ("1s", "created", "host-1"),
    ];
    assert_eq!(told, expected);
    assert_eq!(versions_of_one(&lab, 1), versions);
    assert_eq!(versions[0]["author"], "spiffe://cluster.local/node/host-2");
    assert_eq!(versions[3]["author"], "spiffe://cluster.local/operator/admin");
    let id = |place: usize| versions[place]["version"].as_str().expect("a version").to_owned();
    let second = lab.host(1).weft(&["history", "vs", "one", "--revision", &id(2)]).ok();
    assert!(second.contains("timeout: 2s"), "{second}");

    let back = lab.host(0).weft(&["rollback", "vs", "one", "--dry-run"]).ok();
    assert_eq!(back, "virtualservice/one rolled back (dry run)\n");
    assert_eq!(timeout_seen(&lab, 0, "one").as_deref(), Some("4s"));
    assert_eq!(lab.host(0).weft(&["rollback", "vs", "one"]).ok(), "virtualservice/one rolled back\n");
    assert_eq!(timeout_seen(&lab, 0, "one").as_deref(), Some("3s"));
    assert_eq!(versions_of_one(&lab, 0)[0]["sameAs"], id(1).as_str());
    wait_same_documents(&lab, 2);
    lab.host(1).weft(&["delete", "vs/one"]).ok();
    assert_eq!(versions_of_one(&lab, 1)[0]["event"], "deleted");
    lab.host(1).weft(&["rollback", "vs/one", "--to-revision", &id(3)]).ok();
    assert_eq!(timeout_seen(&lab, 1, "one").as_deref(), Some("1s"));
    lab.host(1).weft(&["rollback", "vs/one", "--to-revision", "1"]).refused(&["several versions"]);

    // Ten are kept. A node that joins later is told by the others, and one that was off has kept its own.
    for seconds in 5..=12 {
        apply(&lab, 0, "one", seconds);
    }
    wait_same_documents(&lab, 2);
    let versions = versions_of_one(&lab, 0);
    assert_eq!(versions.len(), 10);
    let token = lab.token(&["--allow", "default/*"]);
    lab.join(2, &token).ok();
    lab.host_mut(2).start();
    (0..3).for_each(|i| lab.wait_members(i, "alive", 3));
    assert_eq!(versions_of_one(&lab, 2), versions);
    lab.host_mut(0).kill();
    lab.host_mut(0).start();
    (0..3).for_each(|i| lab.wait_members(i, "alive", 3));
    assert_eq!(versions_of_one(&lab, 0), versions);
}

/// Answers requests to `fault` with this status. With a fault, compiling it fails so, in nodes that are under test.
fn answering(status: u16, fault: &str) -> String {
    let annotation = if fault.is_empty() { String::new() } else { format!("testing.weft.mesh/fault: {fault}") };
    format!(
        "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{ name: fault, annotations: {{ {annotation} }} }}
spec:
  hosts: [fault]
  http: [{{ directResponse: {{ status: {status} }} }}]
"
    )
}

fn apply_answering(lab: &Lab, status: u16, fault: &str) {
    let file = lab.file("fault.yaml", &answering(status, fault));
    lab.host(0).weft(&["apply", "-f", &file.to_string_lossy()]).ok();
}

fn wait_answered(lab: &Lab, i: usize, host: &str, status: u16) {
    let what = format!("requests to {host} are answered with {status} on {}", lab.host(i).name);
    wait_for(&what, PATIENCE, || (lab.host(i).call(host, "/", &[]).status == status).then_some(()));
}

/// Waits until a node says why the document is not in force.
fn wait_quarantined(lab: &Lab, i: usize, why: &str) {
    wait_for("the document is quarantined", PATIENCE, || {
        let document = lab.host(i).try_json(&["get", "vs", "fault"])?;
        let conditions = document["status"]["conditions"].as_array()?;
        let programmed = conditions.iter().find(|condition| condition["type"] == "Programmed")?;
        let message = programmed["message"].as_str()?;
        let is_said = programmed["status"] == "False" && programmed["reason"] == "Quarantined";
        (is_said && message.contains(why) && message.contains("its last good version holds")).then_some(())
    });
    assert_eq!(lab.host(i).metric("weft_documents_quarantined", &[]), 1.0);
}

#[test]
fn a_document_that_crashes_the_compiler_is_quarantined_alone_until_it_changes() {
    let mut lab = Lab::new(2);
    lab.form_mesh();
    (0..2).for_each(|i| lab.host_mut(i).host_client());
    apply_answering(&lab, 418, "");
    (0..2).for_each(|i| wait_answered(&lab, i, "fault", 418));
    apply_answering(&lab, 451, "panic");
    (0..2).for_each(|i| wait_quarantined(&lab, i, "panics: a test made this document panic"));
    let compared = lab.host(1).weft(&["diff", "--nodes"]);
    assert_eq!((compared.code, compared.stdout.matches("not in force").count()), (Some(1), 2), "{compared:?}");

    // All else goes on, also after a restart, and no actor had to be restarted for it.
    let file = lab.file("other.yaml", &answering(410, "").replace("fault", "other"));
    lab.host(0).weft(&["apply", "-f", &file.to_string_lossy()]).ok();
    (0..2).for_each(|i| wait_answered(&lab, i, "other", 410));
    for actor in lab.host(1).json(&["status"])["actors"].as_array().expect("a list") {
        assert_eq!(actor["restarts"], 0, "{actor}");
    }
    lab.host_mut(1).kill();
    lab.host_mut(1).start();
    lab.host_mut(1).host_client();
    for (host, status) in [("fault", 418), ("other", 410)] {
        wait_answered(&lab, 1, host, status);
    }
    wait_quarantined(&lab, 1, "panics");
    lab.host(1).admin("POST", "/debug/actors/view/panic").ok();
    lab.host(1).admin("POST", "/debug/actors/documents/panic").ok();
    wait_for("both actors are restarted", PATIENCE, || {
        let actors = lab.host(1).json(&["status"])["actors"].clone();
        let restarted = actors.as_array()?.iter().filter(|actor| actor["restarts"] == 1 && actor["state"] == "running");
        (restarted.count() == 2).then_some(())
    });
    wait_quarantined(&lab, 1, "panics");
    wait_answered(&lab, 1, "fault", 418);

    apply_answering(&lab, 451, "");
    for i in [0, 1] {
        wait_answered(&lab, i, "fault", 451);
        assert_eq!(lab.host(i).metric("weft_documents_quarantined", &[]), 0.0);
    }
    wait_same_documents(&lab, 2);
    assert_eq!(lab.host(0).weft(&["diff", "--nodes"]).code, Some(0));
}

#[test]
fn a_document_that_hangs_the_compiler_is_quarantined_alone() {
    let mut lab = Lab::new(1);
    lab.found_mesh();
    lab.host_mut(0).host_client();
    apply_answering(&lab, 418, "");
    wait_answered(&lab, 0, "fault", 418);
    apply_answering(&lab, 451, "hang");
    wait_quarantined(&lab, 0, "has not ended after 10 s");
    wait_answered(&lab, 0, "fault", 418);
    lab.host(0).weft(&["delete", "vs", "fault"]).ok();
    wait_answered(&lab, 0, "fault", 502);
    lab.host_mut(0).stop();
}

#[test]
fn nodes_that_lack_documents_are_told() {
    let mut lab = Lab::new(3);
    lab.form_mesh();
    apply(&lab, 0, "one", 1);
    wait_same_documents(&lab, 3);
    let same = lab.host(1).weft(&["diff", "--nodes"]);
    assert_eq!((same.code, same.stdout.matches(" current ").count()), (Some(0), 3), "{same:?}");
    let name = lab.host(2).name.clone();
    lab.host_mut(2).kill();
    (0..2).for_each(|i| lab.wait_members(i, "failed", 1));
    let silent = lab.host(0).weft(&["diff", "--nodes"]);
    assert!(silent.code == Some(2) && silent.stderr.contains(&name), "{silent:?}");

    assert_eq!(lab.host(0).weft(&["diff", "-f", "x", "--nodes"]).code, Some(2));
    apply(&lab, 0, "two", 1);
    lab.host_mut(2).start();
    wait_for("all answer and have the same", PATIENCE, || {
        (lab.host(0).weft(&["diff", "--nodes"]).code == Some(0)).then_some(())
    });
}

#[test]
fn a_member_may_not_write_documents() {
    let mut lab = Lab::new(2);
    lab.form_mesh();
    let file = lab.file("a.yaml", &timeout("a", 1)).to_string_lossy().into_owned();
    for options in [&[][..], &["--dry-run"]] {
        let command = [&["apply", "-f", &file], options].concat();
        lab.host(1).weft(&command).refused(&["member", "admin"]);
    }
    assert_eq!(timeout_seen(&lab, 1, "a"), None);
}
