//! What lasts: nodes that are killed while they write, seeds that are gone for good, clocks that are wrong, disks from
//! before.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use weft_tests::lab::{Host, Lab, PATIENCE, wait_for, weft};

use crate::documents::{apply, timeout_seen, wait_same_documents};

/// So long the node below is killed again and again.
const KILLED_FOR: Duration = Duration::from_secs(10);
/// Two documents in one file, which must never be seen apart.
const PAIR: &str = "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: NAME}
spec: {hosts: [NAME], http: [{timeout: SECONDSs, route: [{destination: {host: NAME}}]}]}
---
";

/// Writes the pair, in version after version, and notes each that the node has acknowledged; until the node is gone.
fn write_on(host: &mut Host, acknowledged: &Path, from: u64) {
    let document = PAIR.replace("NAME", "${name}").replace("SECONDS", "${i}");
    let script = format!(
        "i={from}; while for name in a b; do cat <<.\n{document}.\ndone | {} apply -f - >/dev/null; do echo $i >>{}; \
         i=$((i + 1)); done 2>/dev/null",
        weft(),
        acknowledged.display(),
    );
    host.run_beside(Path::new("sh"), &["-c", &script]);
}

fn acknowledged(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.lines().last()?.parse().ok()
}

/// The node is killed at any moment of its life and of its writes. `WEFT_KILLS=100` does it so often, however long that
/// takes.
#[test]
fn a_node_that_is_killed_while_it_writes_has_all_that_it_acknowledged() {
    let kills: Option<u32> = std::env::var("WEFT_KILLS").ok().map(|kills| kills.parse().expect("a number"));
    let mut lab = Lab::new(1);
    lab.found_mesh();
    let file = lab.file("acknowledged", "");
    let (began, mut killed, mut writes) = (Instant::now(), 0, 0);
    while kills.map_or(began.elapsed() < KILLED_FOR || killed < 3, |kills| killed < kills) {
        let before = acknowledged(&file).unwrap_or(0);
        write_on(lab.host_mut(0), &file, before + 1);
        wait_for("a write is acknowledged", PATIENCE, || acknowledged(&file).filter(|now| *now > before));
        thread::sleep(Duration::from_micros(rand::random_range(0..300_000)));
        lab.host_mut(0).kill();
        // The writer ends with the write that fails.
        lab.host_mut(0).wait_beside(PATIENCE);
        let last = acknowledged(&file).expect("there is one");
        writes += last - before;
        if killed % 3 == 0 {
            lab.host_mut(0).start_unready();
            thread::sleep(Duration::from_micros(rand::random_range(0..300_000)));
            lab.host_mut(0).kill();
        }
        lab.host_mut(0).start();
        let seen = ["a", "b"].map(|name| timeout_seen(&lab, 0, name).expect("it is there"));
        assert_eq!(seen[0], seen[1], "both or none");
        // The next one may have been written, and its answer lost.
        assert!([last, last + 1].iter().any(|i| seen[0] == format!("{i}s")), "{seen:?} after {last} was acknowledged");
        let history = lab.host(0).json(&["history", "vs", "a"]);
        let versions = history["versions"].as_array().expect("a list");
        assert_eq!(versions[0]["body"]["spec"]["http"][0]["timeout"], seen[0].as_str());
        assert_eq!(versions.len() as u64, 10.min(seen[0].trim_end_matches('s').parse::<u64>().expect("a number")));
        fs::write(&file, format!("{}\n", seen[0].trim_end_matches('s'))).expect("writable");
        killed += 1;
    }
    println!("killed {killed} times, {writes} writes acknowledged");
}

#[test]
fn a_mesh_goes_on_without_its_seed_and_its_first_ca() {
    let mut lab = Lab::new(5);
    let member = ["--allow", "default/*"].as_slice();
    lab.form_mesh_of(&[&["--allow", "default/*", "--role", "ca"], member, member]);
    lab.host_mut(1).host_service("echo", "v1", 8080, 0);
    lab.host_mut(2).host_client();
    lab.wait_healthy(2, "echo", 1);
    apply(&lab, 0, "before", 1);
    wait_for("the others have it", PATIENCE, || {
        (1..4).all(|i| timeout_seen(&lab, i, "before").is_some()).then_some(())
    });

    lab.host_mut(0).kill();
    for i in 1..4 {
        lab.wait_members(i, "failed", 1);
    }
    apply(&lab, 1, "after", 2);
    // All that ever named it as their seed start from their disks.
    for i in 1..4 {
        lab.host_mut(i).kill();
    }
    for i in [3, 2, 1] {
        lab.host_mut(i).start_unready();
    }
    for i in 1..4 {
        lab.wait_members(i, "alive", 3);
        let seen = |name| wait_for("both documents are there", PATIENCE, || timeout_seen(&lab, i, name));
        assert_eq!([seen("before"), seen("after")], ["1s", "2s"]);
    }
    lab.wait_healthy(2, "echo", 1);
    assert_eq!(lab.host(2).call("echo", "/", &[]).status, 200);
    let token = lab.host(1).weft(&["token", "create", "--allow", "default/*"]).ok();
    let seed = lab.host(3).address.to_string();
    lab.host(4).join(&seed, token.trim()).ok();
    lab.host_mut(4).start();
    assert_eq!(wait_for("the new one has them", PATIENCE, || timeout_seen(&lab, 4, "after")), "2s");
}

#[test]
fn a_node_whose_disk_is_full_serves_from_memory_refuses_to_promise_and_is_whole_again() {
    let mut lab = Lab::new(3);
    lab.found_mesh();
    lab.host_mut(1).give_disk(24);
    for (i, role) in [(1, "admin"), (2, "member")] {
        let token = lab.token(&["--allow", "default/*", "--role", role]);
        lab.join(i, &token).ok();
        lab.host_mut(i).start();
    }
    lab.host_mut(1).host_client();
    lab.host_mut(2).host_service("echo", "v1", 8080, 0);
    lab.wait_healthy(1, "echo", 1);
    let load = lab.host(1).load("echo", 50);

    let filler = lab.host(1).dir.join("filler");
    let mut file = fs::File::create(&filler).expect("there is room yet");
    let mut block = vec![0; 1 << 20];
    // To the last byte.
    while !block.is_empty() {
        if file.write_all(&block).is_err() {
            block.truncate(block.len() / 2);
        }
    }
    drop(file);
    apply(&lab, 0, "elsewhere", 1);
    wait_for("news is taken in", PATIENCE, || timeout_seen(&lab, 1, "elsewhere"));
    let here = lab.file(
        "here.yaml",
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: { name: here }\n\
        spec: { hosts: [here], http: [{ timeout: 2s, route: [{ destination: { host: here } }] }] }\n",
    );
    let apply_here = || lab.host(1).weft(&["apply", "-f", &here.to_string_lossy()]);
    apply_here().refused(&["nothing was written", "make room on this node's disk"]);
    assert_eq!(timeout_seen(&lab, 0, "here"), None);
    wait_for("it says so, once", PATIENCE, || {
        lab.host(1).log_tail(10_000).contains("documents cannot be written to disk; going on from memory").then_some(())
    });

    fs::remove_file(&filler).expect("it is there");
    wait_for("it promises again", PATIENCE, || (apply_here().code == Some(0)).then_some(()));
    assert!(lab.host(1).log_tail(10_000).contains("documents are written to disk again"));
    load.finish(200).assert_all_succeeded();
    lab.host_mut(0).stop();
    lab.host_mut(2).stop();
    lab.host_mut(1).kill();
    lab.host_mut(1).start_unready();
    for (name, expected) in [("elsewhere", "1s"), ("here", "2s")] {
        let seen = wait_for("it is on the disk", PATIENCE, || timeout_seen(&lab, 1, name));
        assert_eq!(seen, expected, "{name}");
    }
}

#[test]
fn a_disk_from_before_a_deletion_does_not_bring_the_document_back() {
    let mut lab = Lab::new(2);
    lab.form_mesh();
    let digest = |lab: &Lab, i: usize| lab.host(i).json(&["status"])["documents_digest"].as_str().map(str::to_owned);
    let without = digest(&lab, 0);
    apply(&lab, 0, "gone", 1);
    wait_for("the other has it", PATIENCE, || timeout_seen(&lab, 1, "gone"));
    lab.host_mut(1).stop();
    let store = |lab: &Lab| lab.host(1).dir.join("store.redb");
    let copy = lab.file("store-before", "");
    fs::copy(store(&lab), &copy).expect("a copy");
    lab.host_mut(1).start();
    lab.host(0).weft(&["delete", "vs", "gone"]).ok();
    // In these tests it is kept for 5 s, and until all have it.
    wait_for("the deletion is forgotten", PATIENCE, || (0..2).all(|i| digest(&lab, i) == without).then_some(()));
    lab.host_mut(1).stop();
    fs::copy(&copy, store(&lab)).expect("the old disk");
    lab.host_mut(1).start();
    lab.wait_members(1, "alive", 2);
    wait_for("it is deleted there too", PATIENCE, || timeout_seen(&lab, 1, "gone").is_none().then_some(()));
    wait_same_documents(&lab, 2);
    assert_eq!(timeout_seen(&lab, 0, "gone"), None);
    assert_eq!(lab.host(0).json(&["history", "vs", "gone"])["versions"][0]["event"], "deleted");
}

/// A wall clock of its own for all that is started on a host from now on, off by what the file says.
fn give_clock(lab: &mut Lab, i: usize) -> PathBuf {
    let file = lab.file("clock", "+0");
    let library = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";
    assert!(Path::new(library).exists(), "libfaketime is missing: install faketime (make test says what is needed)");
    let settings = [
        ("LD_PRELOAD", library.to_owned()),
        ("FAKETIME_TIMESTAMP_FILE", file.display().to_string()),
        ("FAKETIME_NO_CACHE", "1".to_owned()),
        // Time spans are measured by another clock, which is right.
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
    ];
    lab.host_mut(i).environment.extend(settings.map(|(name, value)| (name, &*value.leak())));
    file
}

#[test]
fn a_clock_that_is_an_hour_off_harms_nobody_else_and_is_made_good() {
    let mut lab = Lab::new(3);
    let clock = give_clock(&mut lab, 2);
    let set = |offset: &str| fs::write(&clock, offset).expect("writable");
    lab.form_mesh_of(&[&["--allow", "default/*"], &["--allow", "default/*", "--role", "admin"]]);
    lab.host_mut(1).host_service("echo", "v1", 8080, 0);
    lab.host_mut(0).host_client();
    lab.wait_healthy(0, "echo", 1);
    let load = lab.host(0).load("echo", 50);
    apply(&lab, 0, "one", 1);
    wait_for("all have it", PATIENCE, || (1..3).all(|i| timeout_seen(&lab, i, "one").is_some()).then_some(()));
    let quarantined = |lab: &Lab, i: usize| lab.host(i).metric("weft_documents_refused_total", &["quarantined"]);

    // What others write seems to be of the future there, and what it would write itself to be older than what it has.
    set("-3600");
    apply(&lab, 0, "one", 2);
    wait_for("it does not believe the stamp", PATIENCE, || (quarantined(&lab, 2) > 0.0).then_some(()));
    let late = lab.file("late.yaml", &PAIR.replace("NAME", "late").replace("SECONDS", "1"));
    lab.host(2).weft(&["apply", "-f", &late.to_string_lossy()]).refused(&["clock", "ahead"]);
    assert_eq!(timeout_seen(&lab, 2, "one").as_deref(), Some("1s"));
    set("+0");
    wait_for("it catches up", PATIENCE, || (timeout_seen(&lab, 2, "one")? == "2s").then_some(()));
    wait_same_documents(&lab, 3);

    // What it writes is of the future to the others, who do not take it; and they go on writing.
    set("+3600");
    apply(&lab, 2, "two", 1);
    wait_for("others do not believe the stamp", PATIENCE, || (0..2).all(|i| quarantined(&lab, i) > 0.0).then_some(()));
    apply(&lab, 0, "one", 3);
    wait_for("it takes what is newer", PATIENCE, || (timeout_seen(&lab, 2, "one")? == "3s").then_some(()));
    assert_eq!([0, 1].map(|i| timeout_seen(&lab, i, "two")), [None, None]);
    let differing = lab.host(0).weft(&["diff", "--nodes"]);
    assert_eq!(differing.code, Some(1), "{differing:?}");
    assert!(differing.stdout.contains("VirtualService default/two"), "{differing:?}");
    set("+0");
    load.finish(100).assert_all_succeeded();
    (0..3).for_each(|i| lab.wait_members(i, "alive", 3));
}
