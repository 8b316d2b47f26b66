//! Certificates that are revoked: of a node, of a CA node, of a service account.

use std::{
    fs,
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    path::Path,
    process::Command,
};

use weft_tests::lab::{DATA_PORT, Host, Lab, PATIENCE, origin, wait_for};

/// A connection of bytes to an echoing service.
fn connect(host: &Host, service: &str) -> TcpStream {
    let connected = std::thread::scope(|scope| {
        let in_namespace = || {
            host.enter();
            TcpStream::connect("127.0.0.1:15001").expect("the node listens")
        };
        scope.spawn(in_namespace).join().expect("the node listens")
    });
    let mut stream = connected;
    stream.set_read_timeout(Some(PATIENCE)).expect("not zero");
    write!(stream, "CONNECT {service}:9090 HTTP/1.1\r\nHost: {service}:9090\r\n\r\n").expect("it reads");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("an answer");
        head.extend(byte);
    }
    assert!(head.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&head));
    stream.write_all(b"x").expect("it reads");
    stream.read_exact(&mut [0]).expect("it echoes");
    stream
}

fn wait_cut(mut stream: TcpStream) {
    let ended = stream.read(&mut [0]);
    let timed_out = ended.as_ref().is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
    assert!(!timed_out && !matches!(ended, Ok(1)), "{ended:?}");
}

fn is_served(lab: &Lab, by: usize, service: &str) -> bool {
    lab.host(by).call(service, "/", &[]).status == 200
}

fn wait_served(lab: &Lab, by: usize, service: &str) {
    wait_for(&format!("{service} is served for host {by}"), PATIENCE, || is_served(lab, by, service).then_some(()));
}

#[test]
fn a_revoked_node_is_cut_off_at_once_and_may_join_again() {
    let mut lab = Lab::new(3);
    lab.form_mesh_of(&[&["--allow", "default/*"], &["--allow", "default/*"]]);
    lab.host_mut(1).host_service("api", "v1", 9080, 0);
    lab.host_mut(1).host_client();
    lab.host_mut(2).host_service("web", "v1", 9080, 0);
    wait_served(&lab, 2, "api");
    wait_served(&lab, 1, "web");
    for (i, service) in [(1, "db"), (2, "cache")] {
        lab.host_mut(i).host_command(
            &["--service", service, "--port", "9090", "--protocol", "tcp"],
            &[&origin(), "--listen", "127.0.0.1:9090", "--name", service, "--tcp"],
        );
    }
    lab.wait_healthy(2, "db", 1);
    lab.wait_healthy(1, "cache", 1);
    let (to_it, from_it) = (connect(lab.host(2), "db"), connect(lab.host(1), "cache"));

    lab.host(1).weft(&["revoke", "node", "host-3"]).refused(&["operator", "ca"]);
    lab.host(0).weft(&["revoke", "node", "host-1"]).refused(&["host-1 is the only CA node", "--role ca"]);
    let last = "{apiVersion: weft.mesh/v1alpha1, kind: Revocation, metadata: {name: last}, spec: {node: host-1}}";
    let last = lab.file("last.yaml", last);
    lab.host(0).weft(&["apply", "-f", &last.to_string_lossy()]).refused(&["host-1 is the only CA node"]);
    let said = lab.host(0).weft(&["revoke", "node", "host-2", "--reason", "stolen"]).ok();
    assert!(said.contains("revocation/node-host-2-") && said.contains("created"), "{said}");
    wait_cut(to_it);
    wait_cut(from_it);
    wait_for("nobody calls its workloads", PATIENCE, || {
        lab.host(2).weft(&["endpoints", "api"]).stderr.contains("no service or host api").then_some(())
    });
    assert!(!is_served(&lab, 1, "web"), "it calls nobody");
    wait_for("the node says why", PATIENCE, || {
        lab.host(1).log_tail(10_000).contains("this node's certificate is revoked").then_some(())
    });
    assert_eq!(lab.host(0).metric("weft_documents", &[]), lab.host(2).metric("weft_documents", &[]));

    // With its old disk it stays outside, also where the others have just started.
    lab.host_mut(1).stop();
    lab.host_mut(2).stop();
    lab.host_mut(2).start();
    lab.host_mut(1).start_unready();
    lab.wait_members(2, "alive", 2);
    wait_for("it is refused", PATIENCE, || (lab.host(2).metric("weft_peers_refused_total", &[]) > 0.0).then_some(()));
    lab.host_mut(1).kill();

    fs::remove_dir_all(&lab.host(1).dir).expect("the lab's directory is writable");
    let token = lab.token(&["--allow", "default/*"]);
    lab.join(1, &token).ok();
    lab.host_mut(1).start();
    lab.host_mut(1).host_service("api", "v2", 9081, 0);
    lab.host_mut(1).host_service("again", "v1", 9082, 0);
    wait_served(&lab, 2, "again");
    wait_served(&lab, 1, "web");
}

/// The CA node that signed a certificate.
fn issuer(certificate: &Path) -> String {
    let output = Command::new("openssl")
        .args(["x509", "-noout", "-issuer", "-nameopt", "multiline", "-in"])
        .arg(certificate)
        .output()
        .expect("openssl is installed");
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().find_map(|line| line.trim().strip_prefix("commonName")?.split("= ").nth(1)).expect("a name").to_owned()
}

#[test]
fn what_a_revoked_ca_node_signed_is_signed_anew_by_another() {
    let mut lab = Lab::new(4);
    lab.found_mesh();
    let token = lab.token(&["--role", "ca"]);
    lab.join(1, &token).ok();
    lab.host_mut(1).start();
    lab.wait_members(0, "alive", 2);
    let seed = format!("{}:{DATA_PORT}", lab.host(1).address);
    for i in [2, 3] {
        let token = lab.host(1).weft(&["token", "create", "--allow", "default/*"]).ok();
        lab.host(i).join(&seed, token.trim()).ok();
        lab.host_mut(i).start();
    }
    (0..4).for_each(|i| lab.wait_members(i, "alive", 4));
    let node = |lab: &Lab, i: usize| issuer(&lab.host(i).dir.join("node/cert.pem"));
    assert_eq!([node(&lab, 2), node(&lab, 3)], ["host-2", "host-2"]);
    lab.host_mut(2).host_client();
    lab.host_mut(3).host_service("api", "v1", 9080, 0);
    wait_served(&lab, 2, "api");

    lab.host(0).weft(&["revoke", "node", "host-2"]).ok();
    wait_for("others' certificates are of the other CA node", PATIENCE, || {
        let workloads = |i: usize| issuer(&lab.host(i).dir.join("workloads/default/default/cert.pem"));
        let all = [node(&lab, 2), node(&lab, 3), workloads(2), workloads(3)];
        all.iter().all(|issuer| issuer == "host-1").then_some(())
    });
    wait_served(&lab, 2, "api");
    wait_for("they are members", PATIENCE, || {
        let alive = |by: usize, of: usize| lab.state_seen(by, of).as_deref() == Some("alive");
        [(0, 2), (0, 3), (2, 3), (3, 2)].iter().all(|(by, of)| alive(*by, *of)).then_some(())
    });
    let load = lab.host(2).load("api", 50);
    load.finish(100).assert_all_succeeded();
}

#[test]
fn a_stolen_workload_key_is_worth_nothing_once_its_account_is_revoked() {
    let mut lab = Lab::new(3);
    lab.form_mesh_of(&[&["--allow", "default/*"], &["--allow", "default/*"]]);
    lab.host_mut(1).host_client();
    lab.host_mut(2).host_service("api", "v1", 9080, 0);
    wait_served(&lab, 1, "api");
    let (stolen, current) = (lab.host(1).dir.join("stolen"), lab.host(1).dir.join("workloads/default/default"));
    fs::create_dir(&stolen).expect("writable");
    for file in ["cert.pem", "key.pem"] {
        fs::copy(current.join(file), stolen.join(file)).expect("readable");
    }
    let calls_as = |lab: &Lab, credential: &Path| {
        let sni = "p9080.api-v1.default.workload.cluster.local";
        let file = |name: &str| credential.join(name).to_str().expect("text").to_owned();
        let (cert, key) = (file("cert.pem"), file("key.pem"));
        let to = format!("{sni}:{DATA_PORT}:{}", lab.host(2).address);
        let options = ["--cert", &cert, "--key", &key, "-k", "--http2-prior-knowledge", "--resolve", &to];
        let ran = lab
            .host(0)
            .command("curl")
            .args(["-sS", "-o", "/dev/null", "-w", "%{http_code}"])
            .args(options)
            .arg(format!("https://{sni}:{DATA_PORT}/"))
            .output();
        String::from_utf8_lossy(&ran.expect("curl is installed").stdout).into_owned()
    };
    assert_eq!(calls_as(&lab, &stolen), "200");
    lab.host(0).weft(&["revoke", "account", "default/default", "--reason", "in a backup"]).ok();
    wait_for("the stolen key is refused", PATIENCE, || (calls_as(&lab, &stolen) == "000").then_some(()));
    // The workloads themselves have new certificates.
    wait_served(&lab, 1, "api");
    wait_for("a new certificate calls", PATIENCE, || (calls_as(&lab, &current) == "200").then_some(()));
    assert_eq!(calls_as(&lab, &stolen), "000");
}
