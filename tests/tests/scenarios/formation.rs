//! Meshes come to be, and nodes come back and go.

use std::{
    collections::BTreeSet,
    os::unix::net::UnixDatagram,
    time::{Duration, Instant},
};

use weft_tests::lab::{Lab, PATIENCE, wait_for};

#[test]
fn three_nodes_form_a_mesh_and_serve_through_mtls() {
    let mut lab = Lab::new(3);
    lab.form_mesh();
    lab.host_mut(0).host_client();
    lab.host_mut(1).host_service("reviews", "v1", 9080, 0);
    lab.wait_healthy(0, "reviews", 1);

    let answer = lab.host(0).call("reviews:9080", "/reviews/0", &[]).json();
    assert_eq!(answer["served_by"], "reviews-v1@host-2");
    assert_eq!(answer["target"], "/reviews/0");
    let caller = answer["headers"]["x-forwarded-client-cert"][0].as_str().expect("the caller's identity is passed on");
    assert!(caller.contains("URI=spiffe://cluster.local/ns/default/sa/default"), "{caller}");

    let mtls = ["reporter=\"destination\"", "connection_security_policy=\"mutual_tls\"", "response_code=\"200\""];
    assert_eq!(lab.host(1).metric("istio_requests_total", &mtls), 1.0);
    // A host that hosts nothing sees the same mesh.
    lab.wait_healthy(2, "reviews", 1);
}

#[test]
fn five_nodes_form_a_mesh_and_share_the_load() {
    let mut lab = Lab::new(5);
    lab.form_mesh();
    (0..5).for_each(|i| lab.host_mut(i).host_service("echo", "v1", 8080, 0));
    (0..5).for_each(|i| lab.wait_healthy(i, "echo", 5));

    let mut served_by = BTreeSet::new();
    wait_for("all five endpoints are called", PATIENCE, || {
        let answer = lab.host(3).call("echo.default.svc.cluster.local", "/", &[]);
        served_by.insert(answer.header("x-served-by").expect("an origin answers").to_owned());
        (served_by.len() == 5).then_some(())
    });
}

#[test]
fn a_larger_mesh_links_each_node_with_few_and_news_reaches_all() {
    const HOSTS: usize = 12;
    let mut lab = Lab::new(HOSTS);
    lab.form_mesh();
    // Each dials four of the eleven others; links that came about while the mesh was small, or by gossip, are ended.
    wait_for("only links that are needed are left", Duration::from_secs(90), || {
        let links: f64 = (0..HOSTS).map(|i| lab.host(i).metric("weft_links", &[])).sum();
        (links <= (2 * 4 * HOSTS) as f64).then_some(())
    });
    lab.host_mut(HOSTS - 1).host_service("echo", "v1", 8080, 0);
    (0..HOSTS).for_each(|i| lab.wait_healthy(i, "echo", 1));
    (0..HOSTS).for_each(|i| lab.wait_members(i, "alive", HOSTS));
}

#[test]
fn a_seed_that_restarts_is_found_again() {
    let mut lab = Lab::new(3);
    lab.form_mesh();
    let incarnation = |lab: &Lab| lab.host(0).json(&["status"])["incarnation"].as_u64().expect("a number");
    let before = incarnation(&lab);

    lab.host_mut(0).stop();
    lab.host_mut(0).start();
    (0..3).for_each(|i| lab.wait_members(i, "alive", 3));
    assert!(incarnation(&lab) > before, "peers tell the new start from the old one by its incarnation");

    // It is still the CA.
    let token = lab.token(&["--ttl", "10m"]);
    assert!(token.starts_with("weft1."), "{token}");
}

#[test]
fn a_node_restarts_from_its_disk_with_no_peer_up() {
    let mut lab = Lab::new(2);
    lab.form_mesh();
    lab.host_mut(1).host_service("echo", "v1", 8080, 0);
    lab.wait_healthy(1, "echo", 1);
    let document = lab.file("service.yaml", crate::documents::ECHO_TO_NOWHERE);
    lab.host(0).weft(&["apply", "-f", &document.to_string_lossy()]).ok();
    wait_for("the document arrives", PATIENCE, || (lab.host(1).call("echo", "/", &[]).status == 503).then_some(()));

    lab.host_mut(1).kill();
    lab.host_mut(0).kill();
    lab.host_mut(1).start();
    lab.wait_healthy(1, "echo", 1);
    // The document that decides is still there, and so is the identity.
    assert_eq!(lab.host(1).call("echo", "/", &[]).status, 503);
    assert_eq!(lab.host(1).call("echo", "/direct", &[]).json()["served_by"], "echo-v1@host-2");
    assert!(lab.host(1).json(&["status"])["certificate_seconds_left"].as_i64().expect("a number") > 3600);
}

#[test]
fn systemd_need_not_wait_for_certificates() {
    let mut lab = Lab::new(2);
    lab.form_mesh();
    lab.host_mut(1).stop();
    // The only CA is away, and there is an account that has no certificate yet.
    lab.host_mut(0).stop();
    lab.host(1).configure("\nservices:\n- { name: late, serviceAccount: late, port: 9080 }\n");
    let path = lab.host(1).dir.join("notify.sock");
    let systemd = UnixDatagram::bind(&path).expect("the lab's directory is writable");
    systemd.set_read_timeout(Some(PATIENCE)).expect("a valid time");
    let path: &'static str = path.to_str().expect("UTF-8").to_owned().leak();
    lab.host_mut(1).environment.push(("NOTIFY_SOCKET", path));
    lab.host_mut(1).start_unready();
    let mut said = [0; 64];
    let len = systemd.recv(&mut said).expect("systemd is told in time");
    assert_eq!(said[..len].trim_ascii(), b"READY=1");
    let status = wait_for("the node answers", PATIENCE, || lab.host(1).try_json(&["status"]));
    assert_eq!(status["ready"], false, "{status}");
}

#[test]
fn a_leaving_node_is_seen_at_once() {
    let mut lab = Lab::new(3);
    lab.form_mesh();
    lab.host_mut(2).host_service("echo", "v1", 8080, 0);
    lab.wait_healthy(0, "echo", 1);

    lab.host(2).weft(&["leave"]).ok();
    let left = Instant::now();
    for i in [0, 1] {
        wait_for("the leaving node is seen", Duration::from_secs(1), || {
            (lab.state_seen(i, 2)? == "left").then_some(())
        });
    }
    println!("seen by both after {:?}", left.elapsed());
    assert_eq!(lab.host_mut(2).node().wait(PATIENCE), Some(0), "the node has stopped");
    assert!(!lab.host(2).dir.join("node/key.pem").exists(), "its identity is gone");
    lab.wait_healthy(0, "echo", 0);
}
