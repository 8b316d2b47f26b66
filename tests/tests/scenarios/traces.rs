//! Traces of bookinfo on four hosts, at a collector and in the nodes' own memory.

use std::{collections::BTreeMap, fs, path::Path};

use serde_json::Value;
use weft_tests::lab::{Lab, PATIENCE, wait_for, weft};

use crate::clients::{python, script};

const DOCUMENTS: &str = "
apiVersion: weft.mesh/v1alpha1
kind: MeshConfig
metadata: { name: default, namespace: istio-system }
spec:
  extensionProviders:
  - { name: grpc, opentelemetry: { service: otel.default.svc.cluster.local, port: 4317 } }
  - { name: http, opentelemetry: { service: otel-http, port: 4318, http: { path: /v1/traces } } }
---
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: { name: mesh, namespace: istio-system }
spec:
  tracing:
  - providers: [{ name: PROVIDER }]
    randomSamplingPercentage: SAMPLING
    customTags:
      team: { literal: { value: books } }
      user: { header: { name: end-user, defaultValue: nobody } }
";

fn lines(file: &Path) -> Vec<Value> {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// The services of bookinfo, each on a host of its own; the second has the collector too, and a service that fails when it
/// is asked to.
fn bookinfo(collected: &Path) -> Lab {
    let mut lab = Lab::new(4);
    lab.form_mesh();
    let weft = weft();
    for (i, service, version) in
        [(0, "productpage", "v1"), (1, "details", "v1"), (2, "reviews", "v2"), (3, "ratings", "v1")]
    {
        let proxy = "http_proxy=http://127.0.0.1:15001";
        let command = ["env", proxy, &weft, "bookinfo", service, "--listen", "127.0.0.1:9080", "--version", version];
        lab.host_mut(i).host_command(&["--service", service, "--version", version, "--port", "9080"], &command);
    }
    lab.host_mut(1).host_service("echo", "v1", 8080, 0);
    let collector = [&*python(), &*script("collector.py"), &*collected.to_string_lossy()];
    lab.host_mut(1).host_command(&["--service", "otel", "--port", "4317", "--protocol", "grpc"], &collector);
    lab.host_mut(1).host_command(&["--service", "otel-http", "--port", "4318"], &["sleep", "1000"]);
    for service in ["productpage", "details", "reviews", "ratings", "echo", "otel", "otel-http"] {
        for i in 0..4 {
            lab.wait_healthy(i, service, 1);
        }
    }
    for i in 0..4 {
        wait_for("all have certificates", PATIENCE, || (lab.host(i).json(&["status"])["ready"] == true).then_some(()));
    }
    lab
}

fn apply(lab: &Lab, provider: &str, sampling: &str) {
    let documents = DOCUMENTS.replace("PROVIDER", provider).replace("SAMPLING", sampling);
    let file = lab.file("tracing.yaml", &documents);
    let applied = lab.host(0).weft(&["apply", "-f", &file.to_string_lossy()]).ok();
    assert!(!applied.contains("not enforced"), "{applied}");
    for i in 0..4 {
        wait_for("all nodes have it", PATIENCE, || {
            let status = lab.host(i).try_json(&["get", "telemetry", "mesh", "-n", "istio-system"])?;
            let nodes = &status["status"]["nodes"];
            (nodes["current"] == 4 && nodes["total"] == 4).then_some(())
        });
    }
}

#[test]
fn whole_traces_reach_a_collector_and_are_found_from_any_node() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let collected = dir.path().join("collected");
    let lab = bookinfo(&collected);
    apply(&lab, "grpc", "100");
    let page = |id: &str, options: &[&str]| {
        let id = format!("x-request-id: {id}");
        lab.host(1).call("productpage:9080", "/productpage", &[options, &["-H", &id]].concat())
    };
    wait_for("the page has stars", PATIENCE, || page("first", &[]).body.contains("glyphicon-star").then_some(()));
    assert_eq!(page("whole-trace", &[]).status, 200);

    let of_page = |spans: Vec<Value>| -> Vec<Value> {
        spans.into_iter().filter(|span| span["tags"]["guid:x-request-id"] == "whole-trace").collect()
    };
    let spans = wait_for("the collector has the whole trace", PATIENCE, || {
        let spans = of_page(lines(&collected));
        (spans.len() >= 8).then_some(spans)
    });
    assert_eq!(spans.len(), 8, "{spans:#?}");
    assert!(spans.iter().all(|span| span["trace"] == spans[0]["trace"] && span["via"] == "grpc"), "{spans:#?}");
    // By kind (3 is a client) and name: each server's parent is the client of the same call, whose parent is the server of
    // the caller.
    let by_call: BTreeMap<(u64, String), &Value> = spans
        .iter()
        .map(|span| {
            ((span["kind"].as_u64().expect("a number"), span["name"].as_str().expect("a text").to_owned()), span)
        })
        .collect();
    let span = |kind: u64, service: &str| {
        let name = format!("{service}.default.svc.cluster.local:9080/*");
        *by_call.get(&(kind, name)).unwrap_or_else(|| panic!("no span of {service}: {spans:#?}"))
    };
    assert_eq!(span(3, "productpage")["parent"], "");
    for (caller, service) in [("productpage", "details"), ("productpage", "reviews"), ("reviews", "ratings")] {
        assert_eq!(span(3, service)["parent"], span(2, caller)["span"], "{spans:#?}");
    }
    for service in ["productpage", "details", "reviews", "ratings"] {
        let (client, server) = (span(3, service), span(2, service));
        assert_eq!(server["parent"], client["span"], "{spans:#?}");
        assert_eq!(server["resource"]["service.name"], format!("{service}.default"));
        let tags = &server["tags"];
        let expected = [
            ("component", "proxy"),
            ("http.method", "GET"),
            ("http.status_code", "200"),
            ("response_flags", "-"),
            ("upstream_cluster", "inbound|9080||"),
            ("istio.canonical_service", service),
            ("istio.mesh_id", "cluster.local"),
            ("istio.namespace", "default"),
            ("istio.cluster_id", "weft"),
            ("team", "books"),
            ("user", "nobody"),
        ];
        for (tag, value) in expected {
            assert_eq!(tags[tag], value, "{tag} of {service}: {tags:#}");
        }
    }

    // From any node, by the request's id as by the trace's.
    let trace = spans[0]["trace"].as_str().expect("a text");
    for id in ["whole-trace", trace] {
        let found = lab.host(3).json(&["trace", id]);
        assert_eq!(found["spans"].as_array().map(Vec::len), Some(8), "{found:#}");
        assert_eq!(found["silent"].as_array().map(Vec::len), Some(0), "{found:#}");
    }
    let printed = lab.host(2).weft(&["trace", trace]).ok();
    assert!(printed.starts_with(&format!("trace {trace}: 8 spans of ")), "{printed}");
    assert!(
        printed.contains("\n          reviews.default client -> ratings.default.svc.cluster.local:9080/*"),
        "{printed}"
    );

    // A caller's decision holds: an unsampled one is told nobody, and handed on as it is.
    let unsampled = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
    assert_eq!(page("unsampled", &["-H", unsampled]).status, 200);

    // Over HTTP, nothing sampled but what a caller forces; failures are kept all the same.
    apply(&lab, "http", "0");
    let forced = "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    wait_for("a forced trace has come over HTTP", PATIENCE, || {
        assert_eq!(page("forced", &["-H", forced]).status, 200);
        let of_trace = |span: &Value| span["trace"] == "4bf92f3577b34da6a3ce929d0e0e4736" && span["via"] == "http";
        (lines(&collected).into_iter().filter(of_trace).count() >= 8).then_some(())
    });
    assert!(!lines(&collected).iter().any(|span| span["trace"] == "0af7651916cd43dd8448eb211c80319c"));
    let failed = lab.host(3).call("echo:8080", "/failed", &["-H", "x-status: 503", "-H", "x-request-id: failed"]);
    assert_eq!(failed.status, 503);
    let kept = wait_for("the failure is found", PATIENCE, || {
        let found = lab.host(0).try_json(&["traces", "--service", "echo", "--error", "--since", "10m"])?;
        found.as_array()?.iter().find(|trace| trace["path"] == "/failed").cloned()
    });
    assert_eq!((&kept["status"], &kept["spans"]), (&503.into(), &2.into()), "{kept:#}");
    assert!(lab.host(0).json(&["traces", "--service", "echo", "--min", "1h"]).as_array().is_some_and(Vec::is_empty));

    // What runs on the fourth host as ratings has called without the headers that ratings gets.
    let doctor = lab.host(1).json(&["trace", "doctor", "--since", "10m"]);
    let verdict = |workload: &str| {
        let rows = doctor.as_array().expect("a list");
        rows.iter().find(|row| row["workload"] == workload).map(|row| row["forwards"].clone())
    };
    assert_eq!(verdict("default/reviews-v2"), Some(true.into()), "{doctor:#}");
    assert_eq!(verdict("default/ratings-v1"), Some(false.into()), "{doctor:#}");
}

#[test]
fn nodes_that_do_not_answer_are_named() {
    let mut lab = Lab::new(2);
    lab.form_mesh();
    lab.host_mut(1).kill();
    let found = wait_for("the other node is missed", PATIENCE, || {
        let ran = lab.host(0).weft(&["traces"]);
        ran.stderr.contains("did not answer").then_some(ran.stderr)
    });
    assert!(found.contains("host-2"), "{found}");
}
