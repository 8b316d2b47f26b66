//! Where requests go, and who may send them.

use std::path::Path;

use weft_tests::lab::{DATA_PORT, Lab, PATIENCE, origin, wait_for};

/// Istio's documents for a canary of reviews, and for what the user jason sees.
const CANARY: &str = "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: { name: reviews }
spec:
  host: reviews
  subsets:
  - { name: v1, labels: { version: v1 } }
  - { name: v2, labels: { version: v2 } }
  - { name: v3, labels: { version: v3 } }
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: { name: reviews }
spec:
  hosts: [reviews]
  http:
  - match: [{ headers: { end-user: { exact: jason } } }]
    route: [{ destination: { host: reviews, subset: v2 } }]
  - route:
    - { destination: { host: reviews, subset: v1 }, weight: 80 }
    - { destination: { host: reviews, subset: v3 }, weight: 20 }
";

#[test]
fn a_canary_gets_its_share_and_jason_gets_his_version() {
    let mut lab = Lab::new(3);
    lab.form_mesh();
    lab.host_mut(0).host_client();
    for (i, version, port) in [(1, "v1", 9081), (2, "v2", 9082), (2, "v3", 9083)] {
        let (origin, listen, target) = (origin(), format!("127.0.0.1:{port}"), port.to_string());
        let options = ["--service", "reviews", "--version", version, "--port", "9080", "--target-port", &target];
        lab.host_mut(i).host_command(&options, &[&origin, "--listen", &listen, "--name", version]);
    }
    lab.wait_healthy(0, "reviews", 3);
    let file = lab.file("canary.yaml", CANARY);
    lab.host(0).weft(&["apply", "-f", &file.to_string_lossy()]).ok();
    let jason = ["-H", "end-user: jason"];
    wait_for("jason sees v2", PATIENCE, || {
        (lab.host(0).call("reviews:9080", "/", &jason).header("x-served-by") == Some("v2")).then_some(())
    });

    for _ in 0..20 {
        assert_eq!(lab.host(0).call("reviews:9080", "/", &jason).header("x-served-by"), Some("v2"));
    }
    let load = lab.host(0).load("reviews:9080", 250);
    wait_for("a thousand requests", PATIENCE, || {
        let others = lab.host(0).metric("istio_requests_total", &["reporter=\"source\"", "response_code=\"200\""]);
        (others >= 1_000.0).then_some(())
    });
    let report = load.finish(900);
    report.assert_all_succeeded();
    let served_by = report.served_by();
    assert_eq!(served_by.get("v2"), None, "v2 is jason's alone");
    // Of 900 and more, 20 % is within these bounds but for a chance of less than one in a million.
    let share = served_by["v3"] as f64 / report.exchanges.len() as f64;
    assert!((0.13..0.27).contains(&share), "{share} of the requests went to the canary");
}

#[test]
fn the_data_port_takes_nothing_but_mutual_tls() {
    let mut lab = Lab::new(2);
    lab.form_mesh();
    lab.host_mut(1).host_service("echo", "v1", 8080, 0);
    lab.wait_healthy(1, "echo", 1);
    let address = lab.host(1).address;

    let plain = lab.host(0).curl(&["-H", "Host: echo:8080"], &format!("http://{address}:{DATA_PORT}/"));
    assert_eq!(plain.status, 0, "{plain:?}");
    let name = "p8080.echo-v1.default.workload.cluster.local";
    let resolve = format!("{name}:{DATA_PORT}:{address}");
    let anonymous = lab.host(0).curl(&["--insecure", "--resolve", &resolve], &format!("https://{name}:{DATA_PORT}/"));
    assert_eq!(anonymous.status, 0, "a client without a certificate got through: {anonymous:?}");
    // A certificate that somebody made up.
    let (key, cert) = (lab.file("key.pem", ""), lab.file("cert.pem", ""));
    let made = lab
        .host(0)
        .command("openssl")
        .args("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=x".split(' '))
        .args(["-addext", "subjectAltName=URI:spiffe://cluster.local/ns/default/sa/default"])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&cert)
        .output()
        .expect("openssl is there");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let (key, cert) = (key.to_string_lossy(), cert.to_string_lossy());
    let options = ["--insecure", "--resolve", &resolve, "--cert", &cert, "--key", &key];
    let forged = lab.host(0).curl(&options, &format!("https://{name}:{DATA_PORT}/"));
    assert_eq!(forged.status, 0, "a self-made certificate got through: {forged:?}");
    assert_eq!(lab.host(1).metric("istio_requests_total", &["reporter=\"destination\""]), 0.0);
}

#[test]
fn a_caller_cannot_say_who_it_is() {
    let mut lab = Lab::new(2);
    lab.form_mesh();
    lab.host_mut(0).host_client();
    lab.host_mut(1).host_service("echo", "v1", 8080, 0);
    lab.wait_healthy(0, "echo", 1);
    let forged = "x-forwarded-client-cert: By=spiffe://cluster.local/x;URI=spiffe://cluster.local/ns/default/sa/admin";
    let answer = lab.host(0).call("echo", "/", &["-H", forged]).json();
    let seen = answer["headers"]["x-forwarded-client-cert"].as_array().expect("the proxy's own");
    assert_eq!(seen.len(), 1, "{seen:?}");
    let seen = seen[0].as_str().expect("text");
    assert!(seen.contains("sa/default") && !seen.contains("sa/admin"), "{seen}");
}

#[test]
fn names_resolve_as_in_kubernetes_and_as_an_http_proxy() {
    let mut lab = Lab::new(2);
    lab.form_mesh();
    lab.host_mut(0).host_client();
    lab.host_mut(1).host_service("echo", "v1", 8080, 0);
    lab.wait_healthy(0, "echo", 1);
    for name in ["echo", "echo:8080", "echo.default", "ECHO.default.svc", "echo.default.svc.cluster.local:8080"] {
        lab.host(0).call(name, "/", &[]).ok();
    }
    lab.host(0).curl(&["--proxy", "http://127.0.0.1:15001"], "http://echo:8080/").ok();
    lab.host(0).curl(&["--http2-prior-knowledge", "-H", "Host: echo:8080"], "http://127.0.0.1:15001/").ok();

    let unknown = lab.host(0).call("nobody", "/", &[]);
    assert!(unknown.status >= 400, "{unknown:?}");
    assert!(unknown.body.contains("nobody"), "the error names what is wrong: {unknown:?}");
}

#[test]
fn a_service_without_a_selector_is_served_by_the_places_of_its_slices() {
    let mut lab = Lab::new(2);
    lab.form_mesh();
    lab.host_mut(0).host_client();
    // No node announces it.
    let address = lab.host(1).address;
    let listen = format!("{address}:8080");
    lab.host_mut(1).run_beside(Path::new(&origin()), &["--listen", &listen, "--name", "old"]);
    let documents = format!(
        "apiVersion: v1
kind: Service
metadata: {{ name: legacy }}
spec: {{ ports: [{{ name: http, port: 80 }}] }}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{ name: legacy-1, labels: {{ kubernetes.io/service-name: legacy }} }}
addressType: IPv4
ports: [{{ name: http, port: 8080 }}]
endpoints: [{{ addresses: [{address}] }}]
"
    );
    let file = lab.file("legacy.yaml", &documents);
    lab.host(0).weft(&["apply", "-f", &file.to_string_lossy()]).ok();
    wait_for("the place outside answers", PATIENCE, || {
        let answer = lab.host(0).call("legacy:80", "/", &[]);
        (answer.status == 200 && answer.header("x-served-by") == Some("old")).then_some(())
    });
    let of_service =
        ["destination_service_name=\"legacy\"", "destination_workload=\"unknown\"", "response_code=\"200\""];
    wait_for("a request counts for the service, and for no workload", PATIENCE, || {
        (lab.host(0).metric("istio_requests_total", &of_service) >= 1.0).then_some(())
    });
    let endpoints = lab.host(0).json(&["endpoints", "legacy"]);
    assert_eq!(endpoints[0]["address"], listen);
}

const DETECTION: &str = "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: { name: echo }
spec:
  host: echo
  trafficPolicy:
    outlierDetection: { consecutive5xxErrors: 2, baseEjectionTime: 1h, maxEjectionPercent: 100 }
";

#[test]
fn a_tripped_circuit_is_told_with_the_reason() {
    let mut lab = Lab::new(2);
    lab.form_mesh();
    lab.host_mut(0).host_client();
    lab.host_mut(1).host_service("echo", "v1", 8080, 0);
    lab.wait_healthy(0, "echo", 1);
    let file = lab.file("detection.yaml", DETECTION);
    lab.host(0).weft(&["apply", "-f", &file.to_string_lossy()]).ok();
    assert_eq!(lab.host(0).json(&["endpoints", "echo"])[0]["held_back"], "");
    wait_for("the endpoint is ejected", PATIENCE, || {
        let answer = lab.host(0).call("echo", "/", &["-H", "x-status: 500"]);
        (answer.header("x-weft-reason") == Some("no_healthy_upstream")).then_some(())
    });
    let held = lab.host(0).json(&["endpoints", "echo"])[0]["held_back"].clone();
    let seconds = held.as_str().and_then(|held| held.strip_prefix("consecutive_5xx ")?.strip_suffix('s')?.parse().ok());
    assert!(seconds.is_some_and(|left: u64| (3_000..=3_610).contains(&left)), "{held}");
    let tripped = ["to=\"tripped\"", "cause=\"consecutive_5xx\""];
    assert_eq!(lab.host(0).metric("weft_circuit_transitions_total", &tripped), 1.0);
    assert_eq!(lab.host(1).json(&["endpoints", "echo"])[0]["held_back"], "", "each node finds out for itself");
}

const STICKY: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: echo }
spec:
  parentRefs: [{ group: '', kind: Service, name: echo }]
  rules:
  - sessionPersistence: { sessionName: s, absoluteTimeout: 1h }
    backendRefs: [{ name: echo, port: 8080 }]
---
apiVersion: weft.mesh/v1alpha1
kind: BackendTrafficPolicy
metadata: { name: slow }
spec:
  targetRefs: [{ group: '', kind: Service, name: slow }]
  hedging: { delay: 20ms }
";

#[test]
fn a_cookie_keeps_its_client_and_a_slow_endpoint_is_helped_out() {
    let mut lab = Lab::new(3);
    lab.form_mesh();
    lab.host_mut(0).host_client();
    for (i, version) in [(1, "v1"), (2, "v2")] {
        lab.host_mut(i).host_service("echo", version, 8080, 0);
        let delay = if i == 1 { "60000" } else { "0" };
        let command = [&*origin(), "--listen", "127.0.0.1:9090", "--name", version, "--delay-ms", delay];
        lab.host_mut(i).host_command(&["--service", "slow", "--version", version, "--port", "9090"], &command);
    }
    lab.wait_healthy(0, "echo", 2);
    lab.wait_healthy(0, "slow", 2);
    let file = lab.file("sticky.yaml", STICKY);
    let applied = lab.host(0).weft(&["apply", "-f", &file.to_string_lossy()]).ok();
    assert!(!applied.contains("not enforced"), "{applied}");
    let cookie = wait_for("a session begins", PATIENCE, || {
        let answer = lab.host(0).call("echo", "/", &[]);
        answer.header("set-cookie").map(|cookie| cookie.split(';').next().unwrap_or_default().to_owned())
    });
    let sent = format!("cookie: {cookie}");
    let served = || lab.host(0).call("echo", "/", &["-H", &sent]).header("x-served-by").map(str::to_owned);
    let home = served();
    assert!((0..12).all(|_| served() == home), "always {home:?}");

    wait_for("the policy holds", PATIENCE, || {
        let text = lab.host(0).weft(&["explain", "route", "--from", "echo", "--to", "slow:9090"]).ok();
        text.contains("sent to a second endpoint").then_some(())
    });
    for _ in 0..8 {
        assert_eq!(lab.host(0).call("slow:9090", "/", &[]).header("x-served-by"), Some("v2"));
    }
}
