//! `weft plaintext`: who still sends plaintext, seen from any node.

use std::{net::TcpStream, thread};

use serde_json::Value;
use weft_tests::lab::{Lab, PATIENCE, origin, wait_for};

#[test]
fn who_sends_plaintext_is_told_by_any_node() {
    let mut lab = Lab::new(3);
    lab.form_mesh_of(&[&["--allow", "default/*"], &["--allow", "default/*"]]);
    let nobody = lab.host(2).weft(&["plaintext"]).ok();
    assert_eq!(nobody.trim(), "nobody is known to send plaintext");

    // A workload that others reach without weft, and a caller that does not go.
    let workload = ["--service", "open", "--port", "80", "--target-port", "8080"];
    lab.host_mut(0).host_command(&workload, &[&*origin(), "--listen", "0.0.0.0:8080", "--name", "open"]);
    lab.wait_healthy(2, "open", 1);
    let (address, caller) = (lab.host(0).address, lab.host(1).address);
    let connected = thread::scope(|scope| {
        let connect = scope.spawn(|| {
            lab.host(1).enter();
            TcpStream::connect((address, 8080)).expect("the workload listens for everybody")
        });
        connect.join().expect("it connects")
    });
    // A call through weft is none.
    lab.host_mut(1).host_client();
    wait_for("the caller has its certificate", PATIENCE, || {
        (lab.host(1).try_json(&["status"])?["ready"] == true).then_some(())
    });
    assert_eq!(lab.host(1).call("open", "/", &[]).status, 200);
    // A host outside that nobody said to call by TLS.
    lab.host_mut(0).run_beside(origin().as_ref(), &["--listen", &format!("{address}:8081"), "--name", "outside"]);
    let entry = lab.file(
        "entry.yaml",
        &format!(
            "{{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {{name: outside}}, spec: {{hosts: \
             [outside.example], resolution: STATIC, ports: [{{number: 80, name: http, protocol: HTTP, targetPort: \
             8081}}], endpoints: [{{address: {address}}}]}}}}"
        ),
    );
    lab.host(0).weft(&["apply", "-f", &entry.to_string_lossy()]).ok();
    wait_for("the host outside is called", PATIENCE, || {
        (lab.host(1).call("outside.example", "/", &[]).status == 200).then_some(())
    });

    let of = |how: &str| {
        let seen = lab.host(2).json(&["plaintext"]);
        let senders: Vec<Value> = seen["senders"].as_array().expect("a list").to_vec();
        assert_eq!(seen["silent"], Value::Array(Vec::new()), "{seen}");
        senders.into_iter().filter(|sender| sender["how"] == how).collect::<Vec<_>>()
    };
    let past_weft = wait_for("the caller is seen", PATIENCE, || {
        let past_weft = of("past-weft");
        (!past_weft.is_empty()).then_some(past_weft)
    });
    let [sender] = &*past_weft else { panic!("one caller, not {past_weft:?}") };
    assert_eq!(sender["from"], caller.to_string());
    assert_eq!((&sender["from_node"], &sender["to_node"]), (&"host-2".into(), &"host-1".into()));
    assert_eq!((&sender["port"], &sender["count"], &sender["last_seconds_ago"]), (&8080.into(), &1.into(), &0.into()));
    let in_the_clear = of("in-the-clear");
    let [sender] = &*in_the_clear else { panic!("one sender, not {in_the_clear:?}") };
    assert_eq!((&sender["to"], &sender["from_node"]), (&"outside.example".into(), &"host-2".into()));
    assert!(sender["count"].as_u64() >= Some(1), "{sender}");

    drop(connected);
    wait_for("the caller is gone, and is remembered", PATIENCE, || {
        of("past-weft").iter().any(|sender| sender["count"] == 0).then_some(())
    });
    lab.host_mut(0).kill();
    wait_for("the node that is down is named", PATIENCE, || {
        let told = lab.host(2).weft(&["plaintext"]);
        told.stderr.contains("host-1").then_some(())
    });
}
