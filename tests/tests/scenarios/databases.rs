//! Servers that speak first, and others, behind ports of which nothing is said: with their own clients, from node to
//! node.

use std::{os::unix::fs::chown, path::Path, process::Command};

use nix::unistd::User;
use weft_tests::lab::{Host, Lab, PATIENCE, origin, wait_for};

const LISTENERS: &str = "
listeners:
- { listen: 127.0.0.1:13306, service: mariadb, port: 3306 }
- { listen: 127.0.0.1:15432, service: postgres, port: 5432 }
- { listen: 127.0.0.1:16379, service: redis, port: 6379 }
- { listen: 127.0.0.1:12525, service: mail, port: 2525 }
- { listen: 127.0.0.1:14222, service: nats, port: 4222 }
- { listen: 127.0.0.1:18080, service: web, port: 8080 }
";

/// What a program says that has to succeed.
fn said(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{command:?}: {said}{}", String::from_utf8_lossy(&output.stderr));
    said
}

fn serve_mariadb(lab: &mut Lab, data: &Path) {
    let data = format!("--datadir={}", data.join("mariadb").display());
    let options = ["--no-defaults", &data, "--user=root"];
    said(lab.host(0).command("mariadb-install-db").args(options).arg("--skip-test-db"));
    let socket = format!("--socket={}/mariadb.sock", lab.host(0).dir.display());
    let listen = ["--bind-address=127.0.0.1", "--port=3306", "--skip-grant-tables", "--skip-name-resolve", &socket];
    let command = [&["mariadbd"], &options[..], &listen].concat();
    lab.host_mut(0).host_command(&["--service", "mariadb", "--port", "3306"], &command);
}

/// PostgreSQL refuses to be root.
fn serve_postgres(lab: &mut Lab, data: &Path) {
    let versions = std::fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL is installed");
    let programs = versions.map(|version| version.unwrap().path().join("bin")).next().expect("a version of it");
    let user = User::from_name("postgres").unwrap().expect("its package makes its user");
    let data = data.join("postgres");
    std::fs::create_dir(&data).unwrap();
    chown(&data, Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap();
    let (initdb, postgres) = (programs.join("initdb"), programs.join("postgres"));
    let (data, initdb, postgres) = (data.to_string_lossy(), initdb.to_string_lossy(), postgres.to_string_lossy());
    let as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "--pdeathsig=KILL"];
    let prepare = [&*initdb, "--no-sync", "--auth=trust", "-D", &data];
    said(lab.host(0).command(as_user[0]).args(&as_user[1..]).args(prepare));
    let options = ["-D", &data, "-c", "listen_addresses=127.0.0.1", "-c", "port=5432", "-k", &data, "-F"];
    let command = [&as_user[..], &[&*postgres], &options].concat();
    lab.host_mut(0).host_command(&["--service", "postgres", "--port", "5432"], &command);
}

/// Does something twice: the first time nothing is known of the port, then what was learned is.
fn twice(host: &Host, program: &str, arguments: &[&str], expected: &str) {
    for _ in 0..2 {
        let said = said(host.command("timeout").args([&["20", program], arguments].concat()));
        assert!(said.contains(expected), "{program}: {said}");
    }
}

#[test]
fn databases_mail_and_messages_go_from_node_to_node_though_nobody_declares_them() {
    let mut lab = Lab::new(2);
    lab.found_mesh();
    let token = lab.token(&["--allow", "default/*"]);
    lab.join(1, &token).ok();
    lab.host(1).configure(LISTENERS);
    lab.host_mut(1).start();
    // Not in the lab's directory, which is root's alone.
    let data = tempfile::Builder::new().prefix("weft-databases-").tempdir().unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(data.path(), mode).unwrap();

    serve_mariadb(&mut lab, data.path());
    serve_postgres(&mut lab, data.path());
    let dir = data.path().to_string_lossy();
    let origin = origin();
    let servers: [(&str, &str, &[&str]); 4] = [
        ("redis", "6379", &["redis-server", "--port", "6379", "--bind", "127.0.0.1", "--save", "", "--dir", &dir]),
        // Debian's own Python: its package is for that one alone.
        ("mail", "2525", &["/usr/bin/python3", "-m", "aiosmtpd", "-n", "-l", "127.0.0.1:2525"]),
        ("nats", "4222", &["nats-server", "-a", "127.0.0.1", "-p", "4222"]),
        ("web", "8080", &[&origin, "--listen", "127.0.0.1:8080", "--name", "web"]),
    ];
    for (name, port, command) in servers {
        lab.host_mut(0).host_command(&["--service", name, "--port", port], command);
    }
    lab.host_mut(1).host_client();
    let services = ["mariadb", "postgres", "redis", "mail", "nats"];
    for name in services.into_iter().chain(["web", "client"]) {
        lab.wait_healthy(1, name, 1);
    }

    let host = lab.host(1);
    let query = "SELECT CONCAT('it is ', 6 * 7)";
    twice(host, "mariadb", &["--no-defaults", "-h127.0.0.1", "-P13306", "-uroot", "-e", query], "it is 42");
    let query = "SELECT 'it is ' || 6 * 7";
    twice(
        host,
        "psql",
        &["-h", "127.0.0.1", "-p", "15432", "-U", "postgres", "-d", "postgres", "-c", query],
        "it is 42",
    );
    twice(host, "redis-cli", &["-h", "127.0.0.1", "-p", "16379", "ECHO", "it is 42"], "it is 42");
    // In the words that people type, the first of which is one of HTTP's methods.
    let inline = "exec 3<>/dev/tcp/127.0.0.1/16379; printf 'GET key\\r\\n' >&3; read -r line <&3; echo \"$line\"";
    twice(host, "bash", &["-c", inline], "$-1");
    let mail = ["--server", "127.0.0.1:12525", "--from", "a@example.com", "--to", "b@example.com", "--timeout", "15"];
    twice(host, "swaks", &mail, "250 OK");
    let nats = "exec 3<>/dev/tcp/127.0.0.1/14222; read -r info <&3; echo \"$info\"; \
                printf 'CONNECT {\"verbose\":true}\\r\\nPING\\r\\n' >&3; read -r ok <&3; read -r pong <&3; echo \"$ok $pong\"";
    twice(host, "bash", &["-c", nats], "PONG");

    let answer = host.curl(&[], "http://127.0.0.1:18080/");
    assert_eq!((answer.status, answer.header("x-served-by")), (200, Some("web")));
    let of = |service: &str| format!("destination_service_name=\"{service}\"");
    wait_for("a request is counted as one", PATIENCE, || {
        (lab.host(0).metric("istio_requests_total", &[&of("web"), "reporter=\"destination\""]) == 1.0).then_some(())
    });
    for service in services {
        wait_for(&format!("the connections to {service} are counted"), PATIENCE, || {
            let opened = host.metric("istio_tcp_connections_opened_total", &[&of(service), "reporter=\"source\""]);
            (opened >= 2.0).then_some(())
        });
        assert_eq!(host.metric("istio_requests_total", &[&of(service)]), 0.0, "{service} is not read as HTTP");
    }
}
