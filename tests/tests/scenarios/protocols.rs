//! What else than HTTP requests goes through, over the listeners of `node.yaml`.

use weft_tests::lab::{Lab, PATIENCE, origin, wait_for};

const LISTENERS: &str = "
listeners:
- { listen: 127.0.0.1:7001, service: bytes, port: 7001, protocol: tcp }
- { listen: 127.0.0.1:7002, service: rpc, port: 7002 }
- { listen: 127.0.0.1:7003, service: chat, port: 7003 }
";

/// A service of each protocol on the first host; the second one calls them.
fn lab() -> Lab {
    let mut lab = Lab::new(2);
    lab.found_mesh();
    let token = lab.token(&["--allow", "default/*"]);
    lab.join(1, &token).ok();
    lab.host(1).configure(LISTENERS);
    lab.host_mut(1).start();
    let origin = origin();
    let services =
        [("bytes", "7001", "tcp", &["--tcp"][..]), ("rpc", "7002", "grpc", &[]), ("chat", "7003", "http", &[])];
    for (name, port, protocol, options) in services {
        let listen = format!("127.0.0.1:{port}");
        let command = [&[&*origin, "--listen", &listen, "--name", name], options].concat();
        lab.host_mut(0).host_command(&["--service", name, "--port", port, "--protocol", protocol], &command);
    }
    lab.host_mut(1).host_client();
    // The client counts as healthy once it has a certificate to call with.
    for name in ["bytes", "rpc", "chat", "client"] {
        lab.wait_healthy(1, name, 1);
    }
    lab
}

/// Talks to a listener of the second host by a bash script, in which the connection is open as 3.
fn talk(lab: &Lab, port: u16, script: &str) -> String {
    let script = format!("set -eo pipefail; TMOUT=10; exec 3<>/dev/tcp/127.0.0.1/{port}; {script}");
    let output = lab.host(1).command("bash").args(["-c", &script]).output().expect("bash is there");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{script}: {said}{}", String::from_utf8_lossy(&output.stderr));
    said
}

/// Says two things, the second only after the first came back.
const ECHO: &str = "for word in ping pong; do echo $word >&3; read -r back <&3; echo $back; done";

#[test]
fn tcp_grpc_and_websockets_go_from_node_to_node() {
    let lab = lab();

    assert_eq!(talk(&lab, 7001, ECHO), "ping\npong\n");
    let opened = ["reporter=\"destination\"", "destination_service_name=\"bytes\""];
    wait_for("the called node counts the connection", PATIENCE, || {
        (lab.host(0).metric("istio_tcp_connections_opened_total", &opened) == 1.0).then_some(())
    });

    let message = lab.file("message", "\0\0\0\0\x05hello");
    let options = ["--http2-prior-knowledge", "-H", "content-type: application/grpc", "-H", "te: trailers"];
    let body = format!("@{}", message.display());
    let options = [&options[..], &["--data-binary", &body]].concat();
    let answer = lab.host(1).curl(&options, "http://127.0.0.1:7002/echo.Echo/Say");
    assert_eq!((answer.status, answer.header("x-served-by")), (200, Some("rpc")), "{answer:?}");
    assert!(answer.body.contains("hello") && answer.body.contains("grpc-status: 0"), "{answer:?}");

    let upgrade = "printf 'GET / HTTP/1.1\\r\\nHost: chat\\r\\nConnection: Upgrade\\r\\nUpgrade: websocket\\r\\n\\r\\n' >&3; \
                   while read -r line <&3 && [ \"$line\" != $'\\r' ]; do echo \"${line%$'\\r'}\"; done";
    let said = talk(&lab, 7003, &format!("{upgrade}; {ECHO}"));
    assert!(said.starts_with("HTTP/1.1 101 ") && said.ends_with("ping\npong\n"), "{said}");
    assert!(said.contains("x-served-by: chat"), "{said}");
}
