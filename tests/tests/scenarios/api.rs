//! The admin API, as programs are told of it.

use weft_tests::lab::{Lab, PATIENCE, wait_for};

use crate::clients::{python, script};

#[test]
fn the_admin_api_is_as_its_openapi_description_says() {
    let mut lab = Lab::new(2);
    lab.form_mesh();
    lab.host_mut(0).host_service("web", "v1", 80, 0);
    lab.host_mut(1).host_client();
    lab.wait_healthy(1, "web", 1);
    let documents = lab.file(
        "documents.yaml",
        "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: { name: web }
spec: { hosts: [web], http: [{ timeout: 5s, route: [{ destination: { host: web } }] }] }
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: not-this }
spec: { action: DENY, rules: [{ to: [{ operation: { paths: [/secret] } }] }] }
---
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: { name: all }
spec: { tracing: [{ randomSamplingPercentage: 100 }], accessLogging: [{ providers: [{ name: envoy }] }] }
",
    );
    lab.host(0).weft(&["apply", "-f", &documents.to_string_lossy()]).ok();
    // Something of each kind is there to be told: traffic, spans, lines, a refusal.
    wait_for("a refusal", PATIENCE, || {
        let statuses = [("/", 200), ("/secret", 403)].map(|(path, _)| lab.host(1).call("web", path, &[]).status);
        (statuses == [200, 403]).then_some(())
    });
    wait_for("an edge", PATIENCE, || {
        let traffic = lab.host(0).admin("GET", "/api/v1/traffic?window=1m").json();
        traffic["rows"].as_array().is_some_and(|rows| !rows.is_empty()).then_some(())
    });
    let socket = lab.host(0).dir.join("weft.sock");
    let socket = socket.to_string_lossy();
    let mut command = lab.host(0).command(python());
    let output = command.args([&*script("openapi.py"), &socket]).output().expect("Python runs");
    let (said, complaint) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}{complaint}");
    assert_eq!(said, "36 operations are as described\n");

    // What is for owners is not answered on the loopback address, whatever the path says.
    for (method, path) in [("POST", "/api/v1/leave"), ("POST", "/api/v1/tokens"), ("GET", "/api/v1/tap")] {
        let refused = lab.host(0).curl(&["-X", method], &format!("http://127.0.0.1:15000{path}"));
        assert_eq!(refused.status, 403, "{path}: {}", refused.body);
    }
}
