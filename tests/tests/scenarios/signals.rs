//! What operators see of a whole mesh from any node: traffic, the live screen, events, and what is wrong.

use std::{
    collections::BTreeSet,
    fs,
    process::{Command, Output, Stdio},
    time::Duration,
};

use serde_json::Value;
use weft_tests::lab::{Host, Lab, PATIENCE, wait_for, weft};

/// Two hosts serve `web`, the first one calls it, and has the operator's credential.
pub(crate) fn lab() -> Lab {
    let mut lab = Lab::new(3);
    lab.form_mesh();
    lab.host_mut(0).host_client();
    lab.host_mut(1).host_service("web", "v1", 8080, 0);
    lab.host_mut(2).host_service("web", "v2", 8080, 0);
    (0..3).for_each(|i| lab.wait_healthy(i, "web", 2));
    wait_for("the caller has a certificate", PATIENCE, || {
        (lab.host(0).json(&["status"])["ready"] == true).then_some(())
    });
    lab
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

#[test]
fn any_node_tells_the_traffic_of_all() {
    let lab = lab();
    let load = lab.host(0).load("web", 50);
    let rate = |i: usize| {
        let stats = lab.host(i).json(&["stat", "svc", "web", "--window", "10s"]);
        list(&stats).first().map_or(0.0, |stat| stat["requests"].as_f64().expect("a number"))
    };
    for i in 0..3 {
        let what = format!("{} tells 50 requests a second", lab.host(i).name);
        wait_for(&what, PATIENCE, || ((rate(i) - 50.0).abs() <= 2.5).then_some(()));
    }
    let stats = lab.host(2).json(&["stat", "svc", "web"]);
    assert_eq!((&stats[0]["success"], &stats[0]["namespace"]), (&Value::from(1.0), &Value::from("default")));
    assert!(stats[0]["p95"].as_f64().expect("a latency") > 0.0, "{stats}");

    // Who calls, and whom.
    let edges = lab.host(1).json(&["edges"]);
    let ends = |edge: &Value| format!("{} {}", edge["source_workload"], edge["destination_workload"]).replace('"', "");
    let mut seen: Vec<String> = list(&edges).iter().map(ends).collect();
    seen.sort();
    assert_eq!(seen, ["client-v1 web-v1", "client-v1 web-v2"]);
    assert!(list(&edges).iter().all(|edge| edge["reporter"] == "source"), "each call counts once: {edges}");
    // Both are on other hosts than their caller.
    let is_locked = |edge: &Value| edge["mutual_tls"] == edge["requests"] && edge["in_the_clear"] == 0.0;
    assert!(list(&edges).iter().all(is_locked), "{edges}");
    let callers = lab.host(2).json(&["stat", "workload", "--to", "svc/web"]);
    assert_eq!(callers[0]["name"], "client-v1");
    assert_eq!(lab.host(2).json(&["stat", "workload", "--from", "web-v1"]), Value::Array(Vec::new()));
    lab.host(2).weft(&["stat", "svc", "--to", "web"]).refused(&["workload", "--to"]);
    let table = lab.host(1).weft(&["stat", "-A", "-o", "wide"]).ok();
    assert!(table.starts_with("NAMESPACE  NAME") && table.contains("100.00%"), "{table}");
    let mermaid = lab.host(1).weft(&["graph", "-o", "mermaid"]).ok();
    assert!(mermaid.contains("default/client-v1") && mermaid.contains("-->|\"http "), "{mermaid}");
    let dot = lab.host(1).weft(&["graph", "-o", "dot"]).ok();
    assert!(dot.contains("\"default/client-v1\" -> \"default/web-v2\""), "{dot}");

    // A page follows it.
    let accept = ["-N", "--max-time", "4", "-H", "Accept: text/event-stream"];
    let stream = lab.host(2).curl(&accept, "http://127.0.0.1:15000/api/v1/traffic?window=5s");
    assert!(stream.headers.contains("content-type: text/event-stream"), "{stream:?}");
    let shown: Vec<Value> =
        stream.body.lines().filter_map(|line| serde_json::from_str(line.strip_prefix("data: ")?).ok()).collect();
    assert!(shown.len() >= 2 && shown.iter().any(|one| one["nodes"] == 3), "{}", stream.body);
    let report = load.finish(100);
    report.assert_all_succeeded();

    // What is over, as any node tells it afterwards.
    let sent = report.exchanges.len() as u64;
    let sum = |track: &Value, name: &str| list(&track["series"]["counts"][name]).iter().filter_map(Value::as_u64).sum();
    let history = wait_for("the last step is over", PATIENCE, || {
        let url = "http://127.0.0.1:15000/api/v1/traffic/history?since=5m&step=10s";
        let history = lab.host(1).curl(&[], url).json();
        let told: u64 = list(&history["tracks"]).iter().map(|track| sum(track, "requests")).sum();
        assert!(told <= sent, "{told} of {sent}: {history}");
        (told == sent).then_some(history)
    });
    assert_eq!((&history["nodes"], &history["points"], &history["step_ms"]), (&3.into(), &30.into(), &10_000.into()));
    let tracks = list(&history["tracks"]);
    let versions: BTreeSet<_> = tracks.iter().filter_map(|track| track["destination_version"].as_str()).collect();
    assert_eq!((tracks.len(), versions), (2, BTreeSet::from(["v1", "v2"])), "{history}");
    for track in tracks {
        assert_eq!(track["source_app"], "client");
        let requests: u64 = sum(track, "requests");
        let durations = track["series"]["durations"].as_object().expect("buckets").values();
        let timed: u64 = durations.flat_map(list).filter_map(Value::as_u64).sum();
        assert_eq!((sum(track, "mutual_tls"), timed), (requests, requests), "{track}");
    }
    let wrong = lab.host(1).curl(&[], "http://127.0.0.1:15000/api/v1/traffic/history?since=2h");
    assert!(wrong.status == 422 && wrong.body.contains("30m"), "{wrong:?}");
}

#[test]
fn who_does_not_answer_is_named() {
    let mut lab = lab();
    let load = lab.host(0).load("web", 20);
    lab.host_mut(2).kill();
    let said = wait_for("the silent node is named", PATIENCE, || {
        let ran = lab.host(1).weft(&["stat"]);
        ran.stderr.contains("host-3").then_some(ran)
    });
    assert_eq!(said.code, Some(0), "what the others know is told all the same: {said:?}");
    drop(load);
}

/// A terminal with a session of its own, and what is on it.
struct Terminal<'h> {
    host: &'h Host,
    socket: String,
}

impl Terminal<'_> {
    fn tmux(&self, arguments: &[&str]) -> Output {
        let mut tmux = self.host.command("tmux");
        tmux.env("TERM", "xterm-256color").args(["-S", &self.socket]).args(arguments);
        tmux.output().expect("tmux is installed")
    }

    fn screen(&self) -> String {
        String::from_utf8_lossy(&self.tmux(&["capture-pane", "-p", "-t", "top"]).stdout).into_owned()
    }

    fn wait(&self, what: &str, is_so: impl Fn(&str) -> bool) {
        let start = std::time::Instant::now();
        loop {
            let screen = self.screen();
            if is_so(&screen) {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "not in time: {what}. The screen:\n{screen}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn press(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys", "-t", "top"], keys].concat());
    }
}

impl Drop for Terminal<'_> {
    fn drop(&mut self) {
        self.tmux(&["kill-server"]);
    }
}

#[test]
fn the_live_screen_sorts_filters_resizes_and_quits() {
    let lab = lab();
    let load = lab.host(0).load("web", 20);
    let host = lab.host(1);
    let terminal = Terminal { host, socket: host.dir.with_extension("tmux").display().to_string() };
    terminal.tmux(&["new-session", "-d", "-s", "top", "-x", "120", "-y", "12", &format!("{} top", weft())]);
    terminal.wait("services with their traffic", |screen| {
        screen.starts_with("weft top: 3 nodes, ") && screen.contains("web") && screen.contains("100.00%")
    });
    terminal.press(&["Tab"]);
    terminal.wait("workloads", |screen| screen.contains("web-v1") && screen.contains("web-v2"));
    terminal.press(&["s", "r"]);
    terminal.wait("another order", |screen| screen.contains("workloads, by success reversed"));
    terminal.press(&["/", "v", "2", "Enter"]);
    terminal.wait("only what the filter lets through", |screen| {
        screen.contains("filter \"v2\"") && screen.contains("web-v2") && !screen.contains("web-v1")
    });
    terminal.tmux(&["resize-window", "-t", "top", "-x", "60", "-y", "6"]);
    terminal.wait("a smaller screen", |screen| {
        screen.lines().count() == 6 && screen.starts_with("weft top") && screen.contains("web-v2")
    });
    terminal.press(&["?"]);
    terminal.wait("the help", |screen| screen.contains("help") && screen.contains("Tab"));
    terminal.press(&["x", "q"]);
    wait_for("the screen is given back", PATIENCE, || {
        (!terminal.tmux(&["has-session", "-t", "top"]).status.success()).then_some(())
    });
    drop(terminal);

    // Elsewhere it prints lines, for as long as somebody reads.
    let piped = |command: &str| {
        let output = host.command("bash").args(["-c", command]).output().expect("bash is there");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let lines = piped(&format!("{} top | head -n 2", weft()));
    assert!(lines.starts_with("NAME") && lines.contains("web"), "{lines}");
    let json: Value = serde_json::from_str(&piped(&format!("{} top -o json | head -n 1", weft()))).expect("JSON");
    assert_eq!(json["nodes"], 3);
    drop(load);
}

/// Nobody may call `web`.
const DENY: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: nobody }
spec:
  selector: { matchLabels: { app: web } }
  action: ALLOW
";

/// The events that a host tells, of a kind and with these words.
fn events(host: &Host, kind: &str, words: &[&str]) -> Vec<Value> {
    let timeline = host.json(&["events", "--since", "10m", "--kind", kind]);
    let has_words = |event: &&Value| words.iter().all(|word| event.to_string().contains(word));
    list(&timeline["events"]).iter().filter(has_words).cloned().collect()
}

#[test]
fn what_has_happened_is_one_timeline_on_every_node() {
    let mut lab = lab();
    let joined = events(lab.host(2), "member", &["joined", "host-2"]);
    assert!(!joined.is_empty(), "host-2 has joined");

    // A watcher on another node hears of a document while it watches, once.
    let mut watch = lab.host(2).command("timeout");
    watch.args(["12", &weft(), "events", "--watch", "--since", "1s", "-o", "json"]);
    let watch = watch.stdout(Stdio::piped()).spawn().expect("timeout is there");
    let file = lab.file("deny.yaml", DENY);
    lab.host(0).weft(&["apply", "-f", &file.to_string_lossy()]).ok();
    let applied = wait_for("all have seen the document", PATIENCE, || {
        let applied = events(lab.host(1), "document", &["AuthorizationPolicy default/nobody", "applied by"]);
        (applied.first()?["nodes"].as_array()?.len() == 3).then_some(applied)
    });
    assert_eq!(applied.len(), 1, "it is one event: {applied:?}");
    let denied = wait_for("a denial is told, with what explains it", PATIENCE, || {
        (lab.host(0).call("web", "/", &[]).status == 403).then_some(())?;
        events(lab.host(0), "denial", &["default/web", "weft why "]).first().cloned()
    });
    let what = denied["what"].as_str().expect("text");
    let id = what.rsplit(' ').next().expect("an id");
    assert!(lab.host(0).weft(&["why", id]).ok().contains("denied"), "{what}");
    let watched = watch.wait_with_output().expect("it ends by itself").stdout;
    let watched = String::from_utf8_lossy(&watched).into_owned();
    assert_eq!(watched.lines().filter(|line| line.contains("default/nobody\"")).count(), 1, "{watched}");

    // A page is told what was, and goes on to follow it.
    let accept = ["-N", "--max-time", "3", "-H", "Accept: text/event-stream"];
    let stream = lab.host(0).curl(&accept, "http://127.0.0.1:15000/api/v1/events?since=10m");
    assert!(stream.headers.contains("content-type: text/event-stream"), "{stream:?}");
    let told = stream.body.lines().filter(|line| line.starts_with("data: {") && line.contains("default/nobody\""));
    assert_eq!(told.count(), 1, "{}", stream.body);

    lab.host_mut(2).kill();
    let failed = wait_for("both who are left tell of the death", PATIENCE, || {
        let failed = events(lab.host(0), "member", &["\"failed\"", "\"host-3\""]);
        (failed.first()?["nodes"].as_array()?.len() == 2).then_some(failed)
    });
    assert_eq!(failed.len(), 1, "{failed:?}");
    lab.host_mut(1).stop();
    wait_for("a node that is stopped drains first", PATIENCE, || {
        let drained = events(lab.host(0), "drain", &["host-2", "node drains"]);
        let stopped = events(lab.host(0), "member", &["host-2", "stopped"]);
        (!drained.is_empty() && !stopped.is_empty()).then_some(())
    });
    let table = lab.host(0).weft(&["events"]).ok();
    assert!(table.starts_with("TIME ") && table.contains("host-3"), "{table}");
    lab.host(0).weft(&["events", "--since", "soon"]).code.filter(|code| *code == 2).expect("a usage error");
}

/// What `weft doctor` says that is wrong, and its exit code.
fn errors(host: &Host) -> (Option<i32>, Vec<Value>) {
    let ran = host.weft(&["doctor", "-o", "json"]);
    let code = ran.code;
    let told: Value = serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran:?}"));
    let errors = list(&told["checks"]).iter().filter(|check| check["verdict"] == "error").cloned().collect();
    (code, errors)
}

#[test]
fn the_doctor_names_what_is_wrong_why_and_what_to_do() {
    let mut lab = lab();
    let host = lab.host(0);
    wait_for("all is well", PATIENCE, || (errors(host) == (Some(0), Vec::new())).then_some(()));
    let words = host.weft(&["doctor"]).ok();
    assert!(words.contains("peer host-2") && words.contains("reached by TCP and UDP"), "{words}");

    // A document that leads nowhere.
    let text = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: { name: nowhere }\n\
        spec: { hosts: [web], http: [{ route: [{ destination: { host: nowhere } }] }] }\n";
    let file = lab.file("nowhere.yaml", text);
    host.weft(&["apply", "-f", &file.to_string_lossy()]).ok();
    let (code, found) = wait_for("the document is named", PATIENCE, || {
        let found = errors(lab.host(1));
        (!found.1.is_empty()).then_some(found)
    });
    assert_eq!((code, found.len()), (Some(1), 1), "{found:?}");
    assert_eq!(found[0]["about"], "document VirtualService default/nowhere");
    host.weft(&["delete", "vs", "nowhere"]).ok();

    // UDP from the first host to the second is dropped: TCP alone does not hide it.
    let address = host.address;
    let rules = format!(
        "table inet lab {{ chain drops {{ type filter hook input priority 0; ip saddr {address} udp dport 15008 drop; }}; }}"
    );
    let dropped = lab.host(1).command("nft").arg(&rules).status().expect("nft is there");
    assert!(dropped.success());
    let found = wait_for("the way that is shut is named", PATIENCE, || {
        let (code, found) = errors(lab.host(0));
        let of_peer = found.into_iter().find(|check| check["about"] == "peer host-2")?;
        (code == Some(1)).then_some(of_peer)
    });
    let what = found["what"].as_str().expect("text");
    assert!(what.contains("from here by UDP") && !what.contains("from here by TCP"), "{found}");
    assert!(found["why"].is_string() && found["fix"].as_str().expect("text").contains("15008/udp"), "{found}");
    lab.host(1).command("nft").args(["delete", "table", "inet", "lab"]).status().expect("nft is there");

    // With the node down, and then with a configuration that is wrong as well.
    lab.host_mut(0).kill();
    let host = lab.host(0);
    let (code, found) = wait_for("the others are reached from a host whose node is down", PATIENCE, || {
        let found = errors(host);
        (found.1.len() == 1).then_some(found)
    });
    assert_eq!((code, &found[0]["about"]), (Some(1), &Value::from("node")), "{found:?}");
    assert!(found[0]["fix"].as_str().expect("text").contains("weft up"), "{found:?}");
    let config = fs::read_to_string(host.dir.join("node.yaml")).expect("weft init writes it");
    let wrong = config.replace(&format!("advertise: {address}"), "advertise: 10.255.255.1");
    fs::write(host.dir.join("node.yaml"), wrong + "workers: 0\n").expect("writable");
    let (_, found) = errors(host);
    let yaml = found.iter().find(|check| check["about"] == "node.yaml").expect("what is wrong is named");
    assert!(yaml["what"].as_str().expect("text").contains("workers"), "{yaml}");
    let mut elsewhere: Command = host.command(weft());
    let nowhere = elsewhere.args(["doctor", "--dir", "/nonexistent"]).output().expect("weft is built");
    assert_eq!(nowhere.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&nowhere.stdout).contains("weft join"), "{nowhere:?}");
}
