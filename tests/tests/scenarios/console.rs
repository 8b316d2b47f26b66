//! The console: how it is served, who may do what, and its pages in a real browser.

use std::{collections::BTreeSet, env, fs, path::Path, process::Command};

use serde_json::{Value, json};
use weft_tests::lab::{Http, Lab, PATIENCE, wait_for, weft};

const CONSOLE: &str = "http://127.0.0.1:15000";

#[test]
fn the_page_is_served_with_strict_headers_and_compressed() {
    let mut lab = Lab::new(1);
    lab.found_mesh();
    let host = lab.host(0);
    let page = host.curl(&["--compressed"], &format!("{CONSOLE}/"));
    assert_eq!(page.status, 200);
    assert!(page.body.contains("<title>weft</title>"), "the page: {}", page.body);
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    for (name, value) in [
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("cross-origin-resource-policy", "same-origin"),
    ] {
        assert_eq!(page.header(name), Some(value));
    }
    // What the page names is there, and stays good; the page itself is asked for again, and not sent again.
    let script = page.body.split('"').find(|word| word.ends_with(".js")).expect("built by `make build`, with Node.js");
    let script = host.curl(&["--compressed"], &format!("{CONSOLE}{script}"));
    assert_eq!((script.status, script.header("content-encoding")), (200, Some("gzip")));
    assert!(script.header("cache-control").unwrap().contains("immutable"));
    let known = format!("If-None-Match: {}", page.header("etag").unwrap());
    assert_eq!(host.curl(&["-H", &known], &format!("{CONSOLE}/")).status, 304);
    assert_eq!(host.curl(&["-H", "Accept-Encoding: identity"], &format!("{CONSOLE}/")).status, 406);
    assert_eq!(host.curl(&["-H", "Host: rebound.example.com"], &format!("{CONSOLE}/")).status, 403);
    assert!(host.curl(&["--compressed"], &format!("{CONSOLE}/licenses.txt")).body.contains("uplot"));
}

/// What a browser that has signed in sends.
struct Browser<'l> {
    lab: &'l Lab,
    cookie: String,
    token: String,
}

impl Browser<'_> {
    fn post(&self, path: &str, body: &Value, more: &[&str]) -> Http {
        let (cookie, token) = (format!("Cookie: {}", self.cookie), format!("X-Weft-Session: {}", self.token));
        post(self.lab, path, body, &[&["-H", &cookie, "-H", &token], more].concat())
    }
}

fn post(lab: &Lab, path: &str, body: &Value, more: &[&str]) -> Http {
    let body = body.to_string();
    lab.host(0)
        .curl(&[&["-H", "Content-Type: application/json", "-d", &body], more].concat(), &format!("{CONSOLE}{path}"))
}

fn sign_in(lab: &Lab) -> Browser<'_> {
    let url = lab.host(0).weft(&["console"]).ok();
    let (origin, code) = url.trim().split_once("/#/sign-in/").expect("an address with a code");
    assert_eq!(origin, CONSOLE);
    let answer = post(lab, "/api/v1/session", &json!({ "code": code }), &[]);
    let cookie = answer.header("set-cookie").expect("a cookie").to_owned();
    for attribute in ["HttpOnly", "SameSite=Strict", "Path=/api/"] {
        assert!(cookie.contains(attribute), "{cookie}");
    }
    let token = answer.json()["token"].as_str().unwrap().to_owned();
    assert_eq!(post(lab, "/api/v1/session", &json!({ "code": code }), &[]).status, 401, "a code is good once");
    Browser { lab, cookie: cookie.split(';').next().unwrap().to_owned(), token }
}

#[test]
fn whoever_is_signed_in_may_write_documents_and_nobody_can_make_their_browser_do_it() {
    let mut lab = Lab::new(1);
    lab.found_mesh();
    let text = "apiVersion: v1\nkind: ServiceAccount\nmetadata:\n  name: by-console\n";
    let edit = |dry_run: bool, text: &str| json!({ "text": text, "namespace": "default", "dry_run": dry_run });
    let path = "/api/v1/documents/text";

    // Without a session: what is read by everybody may be asked, the rest is refused with what to do.
    assert_eq!(lab.host(0).curl(&[], &format!("{CONSOLE}/api/v1/status")).status, 200);
    let refused = post(&lab, path, &edit(true, text), &[]);
    assert_eq!(refused.status, 401);
    assert!(refused.body.contains("weft console"), "{}", refused.body);
    assert_eq!(post(&lab, "/api/v1/traces", &json!({ "ask": "search" }), &[]).status, 401);
    let guess = post(&lab, "/api/v1/session", &json!({ "code": "0".repeat(64) }), &[]);
    assert_eq!(guess.status, 401);

    let browser = sign_in(&lab);
    let checked = browser.post(path, &edit(true, text), &[]).json();
    assert_eq!((&checked["written"], &checked["documents"][0]["outcome"]), (&json!(false), &json!("created")));
    let wrong = browser.post(path, &edit(false, &text.replace("metadata", "metadaat")), &[]).json();
    assert_eq!((&wrong["written"], &wrong["problems"][0]["severity"]), (&json!(false), &json!("error")), "{wrong}");

    // The cookie alone, the header alone, or another page: no.
    let cookie = format!("Cookie: {}", browser.cookie);
    assert_eq!(post(&lab, path, &edit(false, text), &["-H", &cookie]).status, 401);
    let token = format!("X-Weft-Session: {}", browser.token);
    assert_eq!(post(&lab, path, &edit(false, text), &["-H", &token]).status, 401);
    for elsewhere in ["Origin: http://127.0.0.1:8080", "Origin: http://example.com", "Sec-Fetch-Site: same-site"] {
        assert_eq!(browser.post(path, &edit(false, text), &["-H", elsewhere]).status, 403, "{elsewhere}");
    }
    let documents = lab.host(0).weft(&["get", "serviceaccounts", "-o", "name"]).ok();
    assert!(!documents.contains("by-console"), "{documents}");

    let origin = format!("Origin: {CONSOLE}");
    let written = browser.post(path, &edit(false, text), &["-H", &origin]).json();
    assert_eq!((&written["written"], &written["documents"][0]["outcome"]), (&json!(true), &json!("created")));
    assert!(lab.host(0).weft(&["get", "serviceaccounts", "-o", "name"]).ok().contains("by-console"));

    // Not all that the unix socket may.
    for path in ["/api/v1/tokens", "/api/v1/leave", "/api/v1/workloads", "/api/v1/console"] {
        assert_eq!(browser.post(path, &json!({}), &[]).status, 403, "{path}");
    }
    assert_eq!(browser.post("/api/v1/session/end", &json!(null), &[]).status, 200);
    assert_eq!(browser.post(path, &edit(true, text), &[]).status, 401);
}

#[test]
fn operators_tap_and_read_access_logs_in_a_browser_and_nobody_else_does() {
    let lab = crate::signals::lab();
    let query = json!({ "query": { "to": "svc/web", "status": "503" }, "for_ms": 2_000, "signed": null });
    let of_web = json!({ "namespace": "default", "service": "web" });
    for (path, body) in [("/api/v1/tap", &query), ("/api/v1/log", &of_web)] {
        let refused = post(&lab, path, body, &[]);
        assert_eq!(refused.status, 401, "{path}");
        assert!(refused.body.contains("weft console"), "{}", refused.body);
    }
    let browser = sign_in(&lab);
    assert_eq!(browser.post("/api/v1/tap", &query, &["-H", "Origin: http://127.0.0.1:8080"]).status, 403);
    let wrong = browser.post("/api/v1/tap", &json!({ "query": { "status": "7xx" }, "for_ms": 2_000 }), &[]);
    assert!(wrong.status == 422 && wrong.body.contains("status"), "{}", wrong.body);

    let seen = std::thread::scope(|scope| {
        let tap = scope.spawn(|| browser.post("/api/v1/tap", &query, &["-N"]).body);
        wait_for("all nodes watch", PATIENCE, || {
            let watching: f64 = (0..3).map(|i| lab.host(i).metric("weft_taps", &[])).sum();
            (watching == 3.0).then_some(())
        });
        for status in ["200", "503"] {
            let (path, status) = (format!("/{status}?token=s3cret"), format!("x-status: {status}"));
            lab.host(0).call("web", &path, &["-H", &status]);
        }
        tap.join().unwrap()
    });
    assert!(seen.contains("/503?token=[hidden]") && !seen.contains("/200"), "{seen}");
    assert!(!seen.contains("s3cret") && seen.contains("\"ended\":true"), "{seen}");
    let told = lab.host(0).json(&["events", "--kind", "tap"]);
    assert_eq!(told["events"][0]["subject"], "svc/web", "{told}");

    // Lines of both sides, from the nodes that wrote them.
    let lines = wait_for("nodes tell their lines", PATIENCE, || {
        let told = browser.post("/api/v1/log", &of_web, &[]).json();
        let of = |side: &str| {
            let lines = told["lines"].as_array().unwrap().iter().filter(|line| line["side"] == side);
            lines.filter(|line| line["text"].as_str().is_some_and(|text| text.contains("GET /503"))).count()
        };
        (of("source") == 1 && of("destination") == 1).then_some(told)
    });
    assert_eq!((&lines["silent"], &lines["refused"]), (&json!([]), &json!({})), "{lines}");
    let nodes_of = |query: Value| -> BTreeSet<String> {
        let told = browser.post("/api/v1/log", &query, &[]).json();
        told["lines"].as_array().unwrap().iter().map(|line| line["node"].as_str().unwrap().to_owned()).collect()
    };
    assert!(nodes_of(json!({ "namespace": "default", "service": "nobody" })).is_empty());
    assert_eq!(nodes_of(json!({ "node": "host-1" })), BTreeSet::from(["host-1".to_owned()]));

    // Certificates, which everybody may know of: of each workload's account on its node, and of each node.
    let told = lab.host(0).curl(&[], &format!("{CONSOLE}/api/v1/certificates")).json();
    let nodes: Vec<_> = told["certificates"].as_array().unwrap().iter().map(|one| &one["node"]).collect();
    assert!(["host-1", "host-2", "host-3"].iter().all(|node| nodes.contains(&&json!(node))), "{told}");
    let members = lab.host(0).curl(&[], &format!("{CONSOLE}/api/v1/members")).json();
    for left in members.as_array().unwrap().iter().map(|member| &member["certificate_seconds_left"]) {
        assert!((1..=86_400).contains(&left.as_i64().unwrap()), "{members}");
    }
    let endpoints = lab.host(0).curl(&[], &format!("{CONSOLE}/api/v1/endpoints?service=web.default")).json();
    assert!(endpoints[0]["weight"] == 1 && endpoints[0]["locality"].is_string(), "{endpoints}");
    let on_node = lab.host(0).curl(&[], &format!("{CONSOLE}/api/v1/endpoints?node=host-2")).json();
    assert!(on_node.as_array().unwrap().iter().any(|endpoint| endpoint["workload"] == "web-v1"), "{on_node}");
    assert!(on_node.as_array().unwrap().iter().all(|endpoint| endpoint["node"] == "host-2"), "{on_node}");
}

#[test]
fn a_node_that_may_write_no_documents_is_told_no_access_logs() {
    let lab = crate::signals::lab();
    lab.host(0).call("web", "/", &[]);
    let url = lab.host(1).weft(&["console"]).ok();
    let (origin, code) = url.trim().split_once("/#/sign-in/").expect("an address with a code");
    let ask = |path: &str, body: Value, more: &[&str]| {
        let body = body.to_string();
        lab.host(1).curl(&[&["-d", &body], more].concat(), &format!("{origin}{path}"))
    };
    let answer = ask("/api/v1/session", json!({ "code": code }), &[]);
    let cookie = format!("Cookie: {}", answer.header("set-cookie").unwrap().split(';').next().unwrap());
    let token = format!("X-Weft-Session: {}", answer.json()["token"].as_str().unwrap());
    let told = ask("/api/v1/log", json!({ "namespace": "default" }), &["-H", &cookie, "-H", &token]).json();
    assert!(told["refused"]["host-1"].as_str().is_some_and(|why| why.contains("member")), "{told}");
    assert!(told["lines"].as_array().unwrap().iter().all(|line| line["node"] == "host-2"), "its own it has: {told}");
}

/// Runs one of the browser's scripts on a host, to its end. What it waits for has deadlines there.
pub fn in_browser(lab: &Lab, script: &str, environment: &[(&str, &str)]) {
    let console = Path::new(env!("CARGO_MANIFEST_DIR")).join("../console");
    let mut command: Command = lab.host(0).command("node");
    command.arg(console.join("test").join(script)).envs(environment.iter().copied());
    let output = command.output().expect("Node.js is there: make test gets it");
    let told = String::from_utf8_lossy(&output.stdout);
    println!("{told}");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}:\n{told}\n{errors}");
}

#[test]
fn every_page_works_in_a_browser_on_the_running_demo() {
    let mut lab = Lab::new(1);
    let dir = lab.file("place", "").with_file_name("demo");
    lab.host_mut(0).weft_beside(&["demo", "--keep", &dir.to_string_lossy()]);
    let first = dir.join("host-1");
    let first = first.to_str().unwrap();
    wait_for("the demo has traffic", PATIENCE * 4, || {
        let log = lab.host(0).log_tail(200);
        log.contains("/#/sign-in/").then_some(())
    });
    let url = lab.host(0).weft(&["console", "--dir", first]).ok();
    let shots = env::var("CONSOLE_SHOTS").unwrap_or_default();
    let environment = [
        ("CONSOLE_URL", url.trim()),
        ("WEFT", &weft()),
        ("DEMO_DIR", &dir.to_string_lossy()),
        ("CONSOLE_SHOTS", &shots),
    ];
    in_browser(&lab, "browser.mjs", &environment);
    assert!(fs::metadata(dir.join("host-1/weft.sock")).is_ok(), "the demo is still there");
}

#[test]
fn the_graph_of_a_large_mesh_moves() {
    let lab = Lab::new(1);
    in_browser(&lab, "large.mjs", &[]);
}
