//! Nodes with more to do than they can, which say so themselves.

use std::path::Path;

use weft_tests::lab::{DATA_PORT, Lab, PATIENCE, wait_for};

/// Of which other hosts may have 20, and each of them 10.
const FEW_CONNECTIONS: &str = "limits: { connections: 20 }\n";
/// Keeps so many connections open, and opens them again when they are closed.
const HOLDER: &str = "
import socket, sys, time

address, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])

def is_open(connection):
    try:
        return connection.recv(1) != b''
    except BlockingIOError:
        return True
    except OSError:
        return False

held = []
while True:
    held = [connection for connection in held if is_open(connection)]
    try:
        while len(held) < count:
            connection = socket.create_connection((address, port), 1)
            connection.setblocking(False)
            held.append(connection)
    except OSError:
        pass
    time.sleep(0.05)
";

const CALLER: usize = 0;
const SERVERS: [usize; 2] = [1, 2];
const STRANGERS: [(usize, usize); 2] = [(3, 10), (4, 8)];

/// Takes nearly all connections that a node may have.
fn crowd(lab: &mut Lab, server: usize) {
    let (holder, address) = (lab.file("holder.py", HOLDER), lab.host(server).address.to_string());
    for (stranger, count) in STRANGERS {
        let arguments = [&*holder.to_string_lossy(), &address, &DATA_PORT.to_string(), &count.to_string()];
        lab.host_mut(stranger).run_beside(Path::new("python3"), &arguments);
    }
}

/// The health of each server's endpoint, as the caller knows it.
fn health(lab: &Lab) -> Option<[String; 2]> {
    let endpoints = lab.host(CALLER).try_json(&["endpoints", "echo"])?;
    let of = |server: usize| {
        let mut all = endpoints.as_array()?.iter();
        let endpoint = all.find(|endpoint| endpoint["node"] == *lab.host(server).name)?;
        Some(endpoint["health"].as_str()?.to_owned())
    };
    Some([of(SERVERS[0])?, of(SERVERS[1])?])
}

fn wait_health(lab: &Lab, expected: [&str; 2]) {
    wait_for(&format!("the servers are {expected:?}"), PATIENCE * 2, || {
        (health(lab)? == expected.map(String::from)).then_some(())
    });
}

/// How many of so many requests each server answers.
fn answered(lab: &Lab, requests: usize) -> [usize; 2] {
    let mut answered = [0; 2];
    for _ in 0..requests {
        let answer = lab.host(CALLER).call("echo", "/", &[]);
        assert_eq!(answer.status, 200, "{answer:?}");
        let by = SERVERS.map(|server| answer.body.contains(&format!("@{}", lab.host(server).name)));
        (0..2).for_each(|server| answered[server] += usize::from(by[server]));
    }
    answered
}

#[test]
fn callers_prefer_others_to_a_node_that_says_it_is_overloaded_as_long_as_there_are_enough() {
    let mut lab = Lab::new(5);
    lab.found_mesh();
    for server in SERVERS {
        let token = lab.token(&["--allow", "default/*"]);
        lab.join(server, &token).ok();
        lab.host(server).configure(FEW_CONNECTIONS);
        lab.host_mut(server).start();
        lab.host_mut(server).host_service("echo", "v1", 8080, 0);
    }
    lab.host_mut(CALLER).host_client();
    lab.wait_healthy(CALLER, "echo", 2);
    let both = answered(&lab, 40);
    assert!(both.iter().all(|count| *count > 5), "{both:?}");

    crowd(&mut lab, SERVERS[0]);
    wait_health(&lab, ["overloaded", "healthy"]);
    assert_eq!(answered(&lab, 40), [0, 40], "it is spared");
    let events = lab.host(CALLER).weft(&["events"]).ok();
    assert!(events.contains("overloaded: callers prefer others"), "{events}");

    // Nobody is left who could take over.
    crowd(&mut lab, SERVERS[1]);
    wait_health(&lab, ["overloaded", "overloaded"]);
    let both = answered(&lab, 40);
    assert!(both.iter().all(|count| *count > 5), "{both:?}");

    for (stranger, _) in STRANGERS {
        (0..2).for_each(|_| lab.host_mut(stranger).kill_beside());
    }
    wait_health(&lab, ["healthy", "healthy"]);
    let both = answered(&lab, 40);
    assert!(both.iter().all(|count| *count > 5), "{both:?}");
}
