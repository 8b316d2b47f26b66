//! Access logs, as Telemetry documents and the MeshConfig have them.

use std::{fs, path::Path};

use nix::sys::signal::Signal;
use serde_json::Value;
use weft_tests::lab::{Lab, PATIENCE, wait_for};

use crate::clients::{python, script};

const MESH_CONFIG: &str = "
apiVersion: weft.mesh/v1alpha1
kind: MeshConfig
metadata: { name: default, namespace: istio-system }
spec:
  extensionProviders:
  - name: failures
    envoyFileAccessLog:
      path: FILE
      logFormat:
        labels: { code: '%RESPONSE_CODE%', who: '%DOWNSTREAM_PEER_URI_SAN%', kind: '%REQ(X-KIND)%', took: '%DURATION%' }
  - name: otel
    envoyOtelAls:
      service: otel.default.svc.cluster.local
      port: 4317
      logName: calls
      logFormat: { text: '%REQ(:METHOD)% %REQ(:PATH)%', labels: { code: '%RESPONSE_CODE%' } }
---
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: { name: echo }
spec:
  selector: { matchLabels: { app: echo } }
  accessLogging:
  - match: { mode: SERVER }
    providers: [{ name: failures }]
    filter: { expression: \"response.code >= 400 && request.headers['x-kind'] != 'expected'\" }
---
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: { name: client }
spec:
  selector: { matchLabels: { app: client } }
  accessLogging:
  - providers: [{ name: otel }, { name: nowhere }]
";

fn lines(file: &Path) -> Vec<Value> {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn call(lab: &Lab, status: &str, kind: &str) {
    let (status, kind) = (format!("x-status: {status}"), format!("x-kind: {kind}"));
    lab.host(0).call("echo:8080", "/second", &["-H", &status, "-H", &kind]);
}

#[test]
fn telemetry_says_what_is_logged_where_and_in_which_form() {
    let mut lab = Lab::new(2);
    let (file, collected, own) = (lab.file("failures.log", ""), lab.file("collected", ""), lab.file("own.log", ""));
    lab.form_mesh();
    lab.host_mut(0).stop();
    lab.host(0).configure(&format!("\naccessLogTo: {}\n", own.display()));
    lab.host_mut(0).start();
    lab.host_mut(0).host_client();
    lab.host_mut(1).host_service("echo", "v1", 8080, 0);
    let collector = [&*python(), &*script("collector.py"), &*collected.to_string_lossy()];
    lab.host_mut(1).host_command(&["--service", "otel", "--port", "4317", "--protocol", "grpc"], &collector);
    lab.wait_healthy(0, "echo", 1);
    lab.wait_healthy(0, "otel", 1);
    wait_for("the caller has a certificate", PATIENCE, || {
        (lab.host(0).json(&["status"])["ready"] == true).then_some(())
    });
    // Until a document says something, the node's own configuration does.
    assert_eq!(lab.host(0).call("echo:8080", "/first", &[]).status, 200);
    wait_for("the node's own log", PATIENCE, || fs::read_to_string(&own).ok()?.contains("\"GET /first ").then_some(()));

    let documents = lab.file("logs.yaml", &MESH_CONFIG.replace("FILE", &file.to_string_lossy()));
    let applied = lab.host(0).weft(&["apply", "-f", &documents.to_string_lossy()]).ok();
    assert!(!applied.contains("not enforced"), "{applied}");
    let missing = wait_for("the status names what is not there", PATIENCE, || {
        let status = lab.host(0).try_json(&["get", "telemetry", "client"])?;
        let condition =
            status["status"]["conditions"].as_array()?.iter().find(|one| one["reason"] == "ProviderNotFound")?;
        Some(condition["message"].as_str()?.to_owned())
    });
    assert!(missing.contains("access logs: nowhere"), "{missing}");
    let failures = wait_for("a failure is in the file", PATIENCE, || {
        call(&lab, "503", "odd");
        call(&lab, "503", "expected");
        call(&lab, "200", "fine");
        Some(lines(&file)).filter(|lines| !lines.is_empty())
    });
    assert!(failures.iter().all(|line| line["code"] == 503 && line["kind"] == "odd"), "{failures:?}");
    let client = "spiffe://cluster.local/ns/default/sa/default";
    assert!(failures[0]["who"] == client && failures[0]["took"].is_number(), "{failures:?}");

    let records = wait_for("the collector has records of the caller", PATIENCE, || {
        let records = lines(&collected);
        (records.len() >= 3).then_some(records)
    });
    assert!(
        records.iter().all(|record| record["body"] == "GET /second"),
        "none of what went to the collector: {records:?}"
    );
    assert_eq!(records[0]["resource"]["log_name"], "calls");
    assert_eq!(records[0]["resource"]["service.name"], "client.default");
    assert!(records.iter().any(|record| record["attributes"]["code"] == 503), "{records:?}");

    // A file that was moved away is opened again at SIGHUP.
    let moved = file.with_extension("1");
    fs::rename(&file, &moved).expect("the file is there");
    lab.host_mut(1).node().signal(Signal::SIGHUP);
    wait_for("a failure is in the new file", PATIENCE, || {
        call(&lab, "500", "odd");
        (!lines(&file).is_empty()).then_some(())
    });
}
