//! Programs that people use, as callers and as workloads: curl, h2load, openssl, and Python's grpcio and websockets.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use weft_tests::lab::{Lab, PATIENCE, origin, wait_for};

/// A Python that has grpcio, websockets, opentelemetry-proto and openapi-spec-validator.
///
/// # Panics
/// If there is none: a test that cannot run has failed.
pub(crate) fn python() -> String {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.tools/clients/bin/python");
    let candidates = [env::var_os("CLIENTS_PYTHON").map(PathBuf::from), Some(tools), Some("python3".into())];
    let has_all = |python: &PathBuf| {
        let ran = Command::new(python)
            .args(["-c", "import grpc, websockets, opentelemetry.proto, openapi_spec_validator"])
            .output();
        ran.is_ok_and(|ran| ran.status.success())
    };
    let found = candidates.into_iter().flatten().find(has_all);
    let found = found.expect("no Python with what tests want: run make tools-clients, or set CLIENTS_PYTHON");
    found.to_str().expect("a path in UTF-8").to_owned()
}

pub(crate) fn script(name: &str) -> String {
    format!("{}/tests/scenarios/clients/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// Two hosts: the first has the services, the second calls them.
fn lab(services: &[(&str, &str, &str, Vec<String>)]) -> Lab {
    let mut lab = Lab::new(2);
    lab.found_mesh();
    let token = lab.token(&["--allow", "default/*"]);
    lab.join(1, &token).ok();
    lab.host(1).configure("\nlisteners: [{ listen: 127.0.0.1:7104, service: web, port: 7004 }]\n");
    lab.host_mut(1).start();
    for (name, port, protocol, command) in services {
        let command: Vec<&str> = command.iter().map(String::as_str).collect();
        lab.host_mut(0).host_command(&["--service", name, "--port", port, "--protocol", protocol], &command);
    }
    lab.host_mut(1).host_client();
    for name in services.iter().map(|(name, ..)| *name).chain(["client"]) {
        lab.wait_healthy(1, name, 1);
    }
    lab
}

fn web() -> (&'static str, &'static str, &'static str, Vec<String>) {
    let command = [&origin(), "--listen", "127.0.0.1:7004", "--name", "web"].map(str::to_owned);
    ("web", "7004", "http", command.to_vec())
}

/// Runs a program on the second host; what it prints.
fn run(lab: &Lab, program: &str, arguments: &[&str]) -> String {
    let output = lab.host(1).command(program).args(arguments).output().expect("the program is there");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{program}: {said}{}", String::from_utf8_lossy(&output.stderr));
    said
}

#[test]
fn grpcio_and_websockets_work_as_callers_and_as_workloads() {
    let python = python();
    let server = |kind: &str| vec![python.clone(), script("servers.py"), kind.to_owned()];
    let lab = lab(&[("rpc", "7002", "grpc", server("grpc")), ("chat", "7003", "http", server("websocket"))]);
    assert_eq!(run(&lab, &python, &[&script("clients.py")]), "grpc ok\nwebsocket ok\n");
    // Both sides have counted the messages: of 303 plain calls, one of 1,000 answers, one of 1,000 questions, a chat of
    // three, and two that are refused, perhaps before their message has come.
    wait_for("all messages are counted", PATIENCE, || {
        let count = |host: usize, what: &str| {
            lab.host(host).metric(&format!("istio_{what}_messages_total"), &["request_protocol=\"grpc\"", "rpc"])
        };
        let is_right =
            |host| (1_307.0..=1_309.0).contains(&count(host, "request")) && count(host, "response") == 1_307.0;
        (is_right(0) && is_right(1)).then_some(())
    });
}

#[test]
fn a_grpcio_server_is_healthy_while_it_says_so() {
    let python = python();
    let mut lab = lab(&[web()]);
    let options = ["--service", "rpc", "--port", "7002", "--protocol", "grpc", "--health-grpc"];
    let server = [python.as_str(), &script("servers.py"), "grpc"];
    lab.host_mut(0).host_command(&[&options[..], &["shop"]].concat(), &server);
    lab.wait_healthy(1, "rpc", 1);
    // The same server does not know this service.
    let other = [&options[..], &["other", "--workload", "other"]].concat();
    lab.host_mut(0).host_command(&other, &["sleep", "1000"]);
    wait_for("the other is announced", PATIENCE, || {
        let endpoints = lab.host(1).json(&["endpoints", "rpc"]);
        (endpoints.as_array().expect("a list").len() == 2).then_some(())
    });
    let set_health = |status: &str| {
        let call = "import grpc,sys; c=grpc.insecure_channel('127.0.0.1:15001', options=[\
                    ('grpc.default_authority','rpc:7002'),('grpc.enable_http_proxy',0)]); \
                    c.unary_unary('/Echo/SetHealth')(sys.argv[1].encode(), wait_for_ready=True, timeout=20)";
        run(&lab, &python, &["-c", call, status]);
    };
    set_health("2");
    lab.wait_healthy(1, "rpc", 0);
    // It is the last choice, and still one.
    set_health("1");
    lab.wait_healthy(1, "rpc", 1);
    let endpoints = lab.host(1).json(&["endpoints", "rpc"]);
    let of = |workload: &str| endpoints.as_array()?.iter().find(|one| one["workload"] == workload).cloned();
    assert_eq!(of("other").map(|one| one["health"].clone()), Some("unhealthy".into()), "{endpoints}");
}

#[test]
fn an_authorizer_made_with_grpcio_decides() {
    let python = python();
    let lab = lab(&[web(), ("authz", "7005", "grpc", vec![python, script("authorizer.py")])]);
    let documents = "
apiVersion: weft.mesh/v1alpha1
kind: MeshConfig
metadata: { name: default, namespace: istio-system }
spec:
  extensionProviders:
  - name: ours
    envoyExtAuthzGrpc: { service: authz.default.svc.cluster.local, port: 7005, timeout: 10s }
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: ask }
spec:
  selector: { matchLabels: { app: web } }
  action: CUSTOM
  provider: { name: ours }
  rules: [{ to: [{ operation: { paths: [/asked] } }] }]
";
    let file = lab.file("authorizer.yaml", documents);
    lab.host(0).weft(&["apply", "-f", &file.to_string_lossy()]).ok();
    let refused = wait_for("the policy is in force", PATIENCE, || {
        let answer = lab.host(1).call("web:7004", "/asked", &[]);
        (answer.status != 200).then_some(answer)
    });
    assert_eq!(refused.status, 401, "{refused:?}");
    assert_eq!(refused.body, "no spiffe://cluster.local/ns/default/sa/default", "{refused:?}");
    let allowed = lab.host(1).call("web:7004", "/asked", &["-H", "x-answer: yes"]);
    assert_eq!(allowed.status, 200, "{allowed:?}");
    assert_eq!(allowed.json()["headers"]["x-user"][0], "ann");
    assert_eq!(lab.host(1).call("web:7004", "/", &[]).status, 200, "nobody is asked about it");
    let status = lab.host(1).json(&["get", "authorizationpolicy", "ask"])["status"].clone();
    let conditions = status["conditions"].as_array().expect("conditions");
    let holds = |kind: &str| conditions.iter().any(|one| one["type"] == kind && one["status"] == "True");
    assert!(holds("Programmed") && holds("ResolvedRefs"), "{status}");
    let id = refused.header("x-weft-decision").expect("an id");
    let why = lab.host(1).json(&["why", id]);
    assert_eq!(
        (&why["document"], &why["why"]),
        (&"AuthorizationPolicy default/ask".into(), &"the provider ours was asked: it says no".into(),)
    );
    let asked = ["explain", "access", "--from", "client", "--to", "web", "--path", "/asked"];
    let told = lab.host(1).weft(&asked);
    assert_eq!(told.code, Some(1), "{told:?}");
    for words in ["ours is asked: a Check of GET /asked", "allowed, if the provider ours allows it"] {
        assert!(told.stdout.contains(words), "{told:?}");
    }
}

#[test]
fn curl_and_h2load_fail_no_request() {
    let lab = lab(&[web()]);
    let caller = lab.host(1);
    for options in [&["--http1.1"][..], &["--http1.0"], &["--http2-prior-knowledge"], &["--http2"], &["--head"]] {
        let answer = caller.call("web:7004", "/a", options);
        assert_eq!((answer.status, answer.header("x-served-by")), (200, Some("web")), "{options:?}: {answer:?}");
    }
    // As an HTTP proxy, and through CONNECT.
    for options in [&["--proxy", "http://127.0.0.1:15001"][..], &["--proxy", "http://127.0.0.1:15001", "--proxytunnel"]]
    {
        let answer = caller.curl(options, "http://web.default:7004/b");
        // The head that curl shows first may be that of the answer to CONNECT.
        assert!(answer.status == 200 && answer.body.contains("\"served_by\":\"web\""), "{options:?}: {answer:?}");
    }
    // Long enough for curl to wait for 100 Continue; of no known length; and all of it back again, since curl 7.88
    // fails where HTTP/2 answers before it has the body.
    let grpc = ["--http2-prior-knowledge", "--header", "content-type: application/grpc", "--header", "te: trailers"];
    let body = format!("@{}", lab.file("body", &"x".repeat(5 << 20)).display());
    for options in [&[][..], &["--header", "transfer-encoding: chunked"], &grpc] {
        let options = [options, &["--data-binary", &body]].concat();
        let answer = caller.call("web:7004", "/upload", &options);
        let status = answer.headers.lines().rfind(|line| line.starts_with("HTTP/")).map(str::to_owned);
        assert_eq!(answer.status, 200, "{options:?}: {status:?}");
    }
    for options in [&["-m", "20"][..], &["--h1"]] {
        let said = run(&lab, "h2load", &[options, &["-n", "3000", "-c", "5", "http://127.0.0.1:7104/"]].concat());
        assert!(said.contains("3000 succeeded, 0 failed, 0 errored, 0 timeout"), "{said}");
    }
}

/// Writes bytes to a port of the second host and reads to the end, on a connection of its own.
fn attack(lab: &Lab, port: u16, bytes: &str) -> String {
    let address = lab.host(1).address;
    let script = format!("exec 3<>/dev/tcp/{address}/{port}; printf '{bytes}' >&3 || true; timeout 20 cat <&3 || true");
    let output = lab.host(1).command("bash").args(["-c", &script]).output().expect("bash is there");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_node_under_attack_serves_on() {
    let lab = lab(&[web()]);
    let caller = lab.host(1);
    let count = |name: &str, words: &[&str]| caller.metric(name, words);
    // Whoever has no certificate gets nowhere at the data port.
    let data_port = format!("{}:15008", caller.address);
    for options in
        [&["-tls1_3", "-alpn", "h2"][..], &["-tls1_2"], &["-tls1_3", "-servername", "p1.x.y.workload.cluster.local"]]
    {
        let options = [&["s_client", "-connect", &data_port, "-quiet", "-no_ign_eof"], options].concat();
        let _ = lab.host(0).command("openssl").args(options).output().expect("openssl is there");
    }
    attack(&lab, 15_008, "GET / HTTP/1.1\\r\\nhost: web\\r\\n\\r\\n");
    wait_for("four handshakes are refused", PATIENCE, || {
        (count("weft_inbound_handshakes_refused_total", &[]) >= 4.0).then_some(())
    });
    // Smuggling, and bytes without sense, at the port for local applications.
    let script = "exec 3<>/dev/tcp/127.0.0.1/15001; printf \"$1\" >&3; timeout 20 cat <&3";
    for (bytes, status) in [
        (
            "POST / HTTP/1.1\\r\\nhost: web\\r\\ncontent-length: 5\\r\\ntransfer-encoding: chunked\\r\\n\\r\\n0\\r\\n\\r\\n",
            "400",
        ),
        ("GET / HTTP/1.1\\nhost: web\\n\\n", "400"),
        ("\\x00\\x01\\x02\\r\\n\\r\\n", "400"),
    ] {
        let output = caller.command("bash").args(["-c", script, "bash", bytes]).output().expect("bash is there");
        let answer = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{bytes}: {answer}");
    }
    wait_for("three heads are refused", PATIENCE, || {
        (count("weft_http_refused_total", &["reason=\"malformed_head\""]) == 3.0).then_some(())
    });
    assert_eq!(caller.call("web:7004", "/", &[]).status, 200);
}
