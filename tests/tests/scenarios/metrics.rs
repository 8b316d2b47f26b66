//! Metrics as Prometheus, Kiali and Istio's dashboards read them: a real Prometheus scrapes bookinfo on four hosts.

use std::{
    io::Write,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use serde_json::Value;
use weft_tests::lab::{Host, Lab, PATIENCE, bookinfo, origin, wait_for};

use crate::clients::{python, script};

/// Where each node lets Prometheus in, and where Prometheus answers on the first host.
const METRICS_PORT: u16 = 15020;
const PROMETHEUS: &str = "127.0.0.1:9090";
/// What queries look back over.
const WINDOW: &str = "15s";

/// The labels by which Kiali groups.
const KIALI: &str = "source_cluster,source_workload_namespace,source_workload,source_canonical_service,\
    source_canonical_revision,destination_cluster,destination_service_namespace,destination_service,\
    destination_service_name,destination_workload_namespace,destination_workload,destination_canonical_service,\
    destination_canonical_revision";

/// Kiali's queries for a graph of the namespace `default`.
fn kiali() -> Vec<String> {
    let by_response = format!("{KIALI},request_protocol,response_code,grpc_response_status,response_flags");
    let selectors = [
        "reporter=\"destination\",destination_workload_namespace=\"default\"",
        "reporter=\"source\",source_workload_namespace=\"default\"",
    ];
    let mut queries = Vec::new();
    for selector in selectors {
        queries.push(format!("sum(rate(istio_requests_total{{{selector}}}[{WINDOW}])) by ({by_response}) > 0"));
        queries.push(format!(
            "sum(rate(istio_tcp_sent_bytes_total{{app!=\"ztunnel\",{selector}}}[{WINDOW}])) by (app,{KIALI},response_flags) > 0"
        ));
        for metric in ["istio_request_bytes_sum", "istio_response_bytes_sum"] {
            queries.push(format!("sum(rate({metric}{{{selector}}}[{WINDOW}])) by ({KIALI}) > 0"));
        }
    }
    // Calls to a service that found no workload.
    queries.push(format!(
        "sum(rate(istio_requests_total{{reporter=\"source\",source_workload_namespace!=\"other\",\
         destination_workload_namespace=\"unknown\",destination_workload=\"unknown\",\
         destination_service=~\"^.+\\\\.default\\\\..+$\"}}[{WINDOW}])) by ({by_response}) > 0"
    ));
    // The padlock.
    queries.push(format!(
        "sum(rate(istio_requests_total{{reporter=\"destination\",destination_service_namespace=\"default\",\
         connection_security_policy=\"mutual_tls\"}}[{WINDOW}])) \
         by ({KIALI},source_principal,destination_principal,connection_security_policy) > 0"
    ));
    for reporter in ["source", "destination"] {
        queries.push(format!(
            "histogram_quantile(0.95,sum(rate(istio_request_duration_milliseconds_bucket{{reporter=\"{reporter}\",\
             destination_service_namespace=\"default\"}}[{WINDOW}])) by (le,{KIALI},request_protocol)) > 0"
        ));
    }
    queries
}

/// What Istio's dashboards show of the whole mesh: the figures at the top, and the tables of workloads.
fn grafana_mesh() -> Vec<String> {
    let reporter = "reporter=~\"source|waypoint\"";
    let by = "destination_workload, destination_workload_namespace";
    let joined = |query: &str| {
        format!(
            "label_join({query}, \"destination_workload_var\", \".\", \"destination_workload\", \
             \"destination_workload_namespace\")"
        )
    };
    let requests = |more: &str| format!("rate(istio_requests_total{{{reporter}{more}}}[{WINDOW}])");
    let mut queries = vec![
        format!("round(sum({}), 0.01)", requests("")),
        format!("round(sum({}), 0.01) or vector(0)", requests(",response_code=~\"4..\"")),
        // These have no default: one of the workloads fails.
        format!("sum({})", requests(",response_code=~\"5..\"")),
        joined(&format!("sum({}) by ({by}, destination_service)", requests(""))),
        joined(&format!("sum({}) by ({by}) / sum({}) by ({by})", requests(",response_code!~\"5..\""), requests(""))),
    ];
    for quantile in ["0.5", "0.9", "0.99"] {
        let buckets = format!("rate(istio_request_duration_milliseconds_bucket{{{reporter}}}[{WINDOW}])");
        queries.push(joined(&format!("histogram_quantile({quantile}, sum({buckets}) by (le, {by}))")));
    }
    for metric in ["istio_tcp_received_bytes_total", "istio_tcp_sent_bytes_total"] {
        queries.push(joined(&format!("sum(rate({metric}{{{reporter}}}[{WINDOW}])) by ({by}, destination_service)")));
    }
    queries
}

/// What they show of one service and of one workload, at both ends, with mutual TLS and without, of callers and called.
fn grafana_ends() -> Vec<String> {
    let called = [
        "destination_service=~\"reviews.default.svc.cluster.local\",reporter=\"destination\"",
        "destination_service=~\"reviews.default.svc.cluster.local\",reporter=~\"source|waypoint\"",
        "destination_workload_namespace=~\"default\",destination_workload=~\"reviews-.*\",reporter=\"destination\"",
        "destination_workload_namespace=~\"default\",destination_workload=~\"reviews-.*\",reporter=~\"source|waypoint\"",
        "source_workload_namespace=~\"default\",source_workload=~\"productpage-.*\",reporter=~\"source|waypoint\"",
    ];
    let mut queries = Vec::new();
    for selector in called {
        // Only the called side tells how it is called.
        let is_secure = selector.contains("reporter=\"destination\"");
        let policy = if is_secure {
            "connection_security_policy=\"mutual_tls\""
        } else {
            "connection_security_policy!=\"mutual_tls\""
        };
        let by = "source_workload, source_workload_namespace, destination_workload, destination_service";
        let all = format!("{policy},{selector}");
        queries.push(format!(
            "round(sum(irate(istio_requests_total{{{all}}}[{WINDOW}])) by ({by}, response_code), 0.001)"
        ));
        queries.push(format!(
            "sum(irate(istio_requests_total{{{all},response_code!~\"5.*\"}}[{WINDOW}])) by ({by}) / \
             sum(irate(istio_requests_total{{{all}}}[{WINDOW}])) by ({by})"
        ));
        for metric in ["istio_request_duration_milliseconds", "istio_request_bytes", "istio_response_bytes"] {
            queries.push(format!(
                "histogram_quantile(0.90, sum(irate({metric}_bucket{{{all}}}[{WINDOW}])) by ({by}, le))"
            ));
        }
    }
    // Connections of bytes, by both ends.
    for (reporter, policy) in [("destination", "=\"mutual_tls\""), ("source", "!=\"mutual_tls\"")] {
        for metric in ["istio_tcp_received_bytes_total", "istio_tcp_sent_bytes_total"] {
            queries.push(format!(
                "round(sum(irate({metric}{{connection_security_policy{policy},reporter=\"{reporter}\",\
                 destination_service=~\"bytes.default.svc.cluster.local\"}}[{WINDOW}])) by \
                 (source_workload, source_workload_namespace), 0.001)"
            ));
        }
    }
    // What their lists of choices are made of.
    for label in ["destination_service", "source_workload_namespace", "source_workload", "destination_workload"] {
        queries.push(format!("sum(istio_requests_total) by ({label}) or sum(istio_tcp_sent_bytes_total) by ({label})"));
    }
    queries
}

/// What a node costs: the dashboard of performance asks the platform for most of it, and Prometheus' standard names for
/// the rest.
fn grafana_performance() -> Vec<String> {
    let names =
        ["process_resident_memory_bytes", "process_virtual_memory_bytes", "process_open_fds", "process_max_fds"];
    let mut queries: Vec<String> =
        names.iter().map(|name| format!("sum({name}{{app=\"weft\"}}) by (instance)")).collect();
    queries.push(format!("sum(irate(process_cpu_seconds_total{{app=\"weft\"}}[{WINDOW}])) by (instance) > 0"));
    // The CPU time of a thousand requests a second.
    queries.push(format!(
        "sum(irate(process_cpu_seconds_total{{app=\"weft\"}}[{WINDOW}])) / \
         (round(sum(irate(istio_requests_total{{reporter=\"source\"}}[{WINDOW}])), 0.001) / 1000)"
    ));
    queries.push("time() - process_start_time_seconds{app=\"weft\"} > 0".to_owned());
    queries
}

/// The kinds of queries of Istio's dashboards: of the mesh, of a service, of a workload.
fn grafana() -> Vec<String> {
    let reporter = "reporter=~\"source|waypoint\"";
    let service = "destination_service=~\"reviews.default.svc.cluster.local\"";
    let workload = "destination_workload=~\"reviews-.*\",destination_workload_namespace=~\"default\"";
    let mut queries = vec![
        "sum(istio_build) by (component,tag)".to_owned(),
        format!("round(sum(irate(istio_requests_total{{{reporter}}}[{WINDOW}])), 0.01)"),
        format!(
            "sum(rate(istio_requests_total{{{reporter},response_code!~\"5.*\"}}[{WINDOW}])) / \
                 sum(rate(istio_requests_total{{{reporter}}}[{WINDOW}]))"
        ),
        format!(
            "label_join(sum(rate(istio_requests_total{{{reporter}}}[{WINDOW}])) by \
                 (destination_workload, destination_workload_namespace, destination_service), \
                 \"destination_workload_var\", \".\", \"destination_workload\", \"destination_workload_namespace\")"
        ),
        format!(
            "sum(irate(istio_requests_total{{connection_security_policy=\"mutual_tls\",\
                 destination_principal=~\"spiffe.*\",{service},reporter=\"destination\"}}[{WINDOW}])) \
                 by (source_workload,source_workload_namespace,response_code)"
        ),
        format!(
            "sum(irate(istio_requests_total{{{workload},{reporter},source_cluster=~\".*\",\
                 destination_cluster=~\".*\"}}[{WINDOW}])) by (source_workload,source_workload_namespace,response_code)"
        ),
    ];
    let of_tcp = "destination_service=~\"bytes.default.svc.cluster.local\"";
    for metric in ["istio_tcp_sent_bytes_total", "istio_tcp_received_bytes_total"] {
        queries.push(format!(
            "sum(rate({metric}{{{reporter},{of_tcp}}}[{WINDOW}])) by \
                              (destination_workload,destination_workload_namespace,destination_service)"
        ));
    }
    for metric in ["istio_tcp_connections_opened_total", "istio_tcp_connections_closed_total"] {
        queries.push(format!("sum(rate({metric}{{{reporter}}}[{WINDOW}]))"));
    }
    for quantile in ["0.50", "0.90", "0.95", "0.99"] {
        for bucket in ["istio_request_duration_milliseconds", "istio_request_bytes", "istio_response_bytes"] {
            for selector in [service, workload] {
                queries.push(format!(
                    "histogram_quantile({quantile}, sum(irate({bucket}_bucket\
                     {{{reporter},connection_security_policy!=\"mutual_tls\",{selector}}}[{WINDOW}])) \
                     by (source_workload, source_workload_namespace, le))"
                ));
            }
        }
    }
    queries
}

/// The result of an instant query; empty while there is none.
fn query(host: &Host, query: &str) -> Vec<Value> {
    let parameter = format!("query={query}");
    let url = format!("http://{PROMETHEUS}/api/v1/query");
    let answer = host.curl(&["--get", "--data-urlencode", &parameter], &url);
    assert_eq!(answer.status, 200, "{query}: {}", answer.body);
    let result = answer.json()["data"]["result"].as_array().cloned().expect("a vector");
    // A quotient or quantile of nothing is NaN.
    result.into_iter().filter(|sample| sample["value"][1] != "NaN").collect()
}

fn number(host: &Host, text: &str) -> f64 {
    let sample = query(host, text);
    sample.first().and_then(|sample| sample["value"][1].as_str()?.parse().ok()).unwrap_or(0.0)
}

fn prometheus_config(lab: &Lab) -> String {
    let targets: Vec<String> = (0..4).map(|i| format!("'{}:{METRICS_PORT}'", lab.host(i).address)).collect();
    format!(
        "global: {{ scrape_interval: 1s, scrape_timeout: 1s }}\nscrape_configs:\n- job_name: weft\n  static_configs:\n  \
         - {{ targets: [{}], labels: {{ app: weft }} }}\n",
        targets.join(", ")
    )
}

/// Four nodes that let Prometheus in; the last one has a port of bytes.
fn lab() -> Lab {
    let mut lab = Lab::new(4);
    for i in 0..4 {
        match i {
            0 => drop(lab.host(0).init().ok()),
            i => drop(lab.join(i, &lab.token(&["--allow", "default/*"])).ok()),
        }
        let address = lab.host(i).address;
        lab.host(i).configure(&format!("metrics: {address}:{METRICS_PORT}\n"));
        if i == 3 {
            lab.host(i)
                .configure("listeners: [{ listen: 127.0.0.1:7001, service: bytes, port: 7001, protocol: tcp }]\n");
        }
        lab.host_mut(i).start();
    }
    (0..4).for_each(|i| lab.wait_members(i, "alive", 4));
    lab
}

/// Says something to the port of bytes, and hears it.
fn talk(host: &Host) {
    let script = "exec 3<>/dev/tcp/127.0.0.1/7001; echo word >&3; read -r -t 5 back <&3; [ $back = word ]";
    let status = host.command("bash").args(["-c", script]).status().expect("bash is there");
    assert!(status.success(), "the port of bytes does not answer");
}

#[test]
fn prometheus_kiali_and_grafana_see_the_mesh_as_the_load_generator_does() {
    let mut lab = lab();
    bookinfo(&mut lab, [0, 1, 2, 3]);
    let (origin, listen) = (origin(), "127.0.0.1:7001");
    let bytes = [&*origin, "--listen", listen, "--name", "bytes", "--tcp"];
    lab.host_mut(1).host_command(&["--service", "bytes", "--port", "7001", "--protocol", "tcp"], &bytes);
    // Nothing serves this one: calls to it find no workload.
    let nobody = lab.file(
        "nobody.yaml",
        "apiVersion: v1\nkind: Service\nmetadata: { name: nobody }\nspec: { selector: { app: nobody }, ports: [{ name: http, port: 80 }] }\n",
    );
    lab.host(0).weft(&["apply", "-f", &nobody.to_string_lossy()]).ok();
    lab.wait_healthy(3, "productpage", 1);
    lab.wait_healthy(3, "bytes", 1);
    wait_for("the page is whole", PATIENCE, || {
        let page = lab.host(3).call("productpage:9080", "/productpage", &[]);
        (page.status == 200 && page.body.contains("glyphicon-star")).then_some(())
    });

    let config = lab.file("prometheus.yaml", &prometheus_config(&lab));
    let data = config.with_file_name("prometheus");
    let arguments = [
        format!("--config.file={}", config.display()),
        format!("--storage.tsdb.path={}", data.display()),
        format!("--web.listen-address={PROMETHEUS}"),
    ];
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    lab.host_mut(0).run_beside(Path::new("prometheus"), &arguments);
    let (watcher, caller) = (lab.host(0), lab.host(3));
    // It listens before it answers queries.
    let is_ready = || watcher.curl(&[], &format!("http://{PROMETHEUS}/-/ready")).status == 200;
    wait_for("Prometheus is ready", PATIENCE, || is_ready().then_some(()));
    wait_for("Prometheus scrapes all nodes", PATIENCE, || (query(watcher, "up == 1").len() == 4).then_some(()));
    // Pages that were asked for, that arrived, and what each of them asked.
    let counted = || {
        [
            "reporter=\"source\",destination_service_name=\"productpage\"",
            "reporter=\"destination\",destination_app=\"productpage\"",
            "reporter=\"source\",destination_service_name=\"details\",response_code=\"200\"",
        ]
        .map(|selector| number(watcher, &format!("sum(istio_requests_total{{{selector}}})")))
    };
    let before = wait_for("the first pages are counted", PATIENCE, || {
        Some(counted()).filter(|counts| counts.iter().all(|count| *count >= 1.0) && counts[0] == counts[1])
    });

    let load = caller.load_path("productpage:9080", "/productpage", 10);
    let dashboards = [kiali(), grafana(), grafana_mesh(), grafana_ends(), grafana_performance()];
    let mut missing = dashboards.concat();
    let start = Instant::now();
    while !missing.is_empty() {
        assert!(start.elapsed() < Duration::from_secs(90), "these queries return no data: {missing:#?}");
        talk(caller);
        // 503: nobody serves it.
        caller.call("nobody", "/", &[]);
        // Pages are asked for without a body.
        watcher.call("ratings:9080", "/ratings/1", &["-d", "{\"Reviewer1\": 4}"]);
        missing.retain(|text| query(watcher, text).is_empty());
    }
    let report = load.finish(10);
    report.assert_all_succeeded();

    let sent = report.exchanges.len() as f64;
    let seen = || {
        let now = counted();
        [0, 1, 2].map(|i| now[i] - before[i])
    };
    // Each node is scraped at its own time.
    let seen = wait_for("the last page was scraped on all nodes", PATIENCE, || {
        Some(seen()).filter(|seen| seen.iter().all(|seen| *seen >= sent * 0.99))
    });
    assert!(seen.iter().all(|seen| (seen - sent).abs() <= sent * 0.01), "{seen:?} of {sent} pages were counted");
}

#[test]
fn both_formats_are_what_their_readers_take() {
    let mut lab = Lab::new(1);
    lab.form_mesh();
    lab.host_mut(0).host_client();
    lab.wait_healthy(0, "client", 1);
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let traced = format!("traceparent: 00-{trace}-b7ad6b7169203331-01");
    lab.host(0).call("client", "/", &["-H", &traced]).ok();
    let host = lab.host(0);
    let url = "http://127.0.0.1:15000/metrics";

    let page = host.curl(&[], url);
    assert!(page.headers.contains("content-type: text/plain; version=0.0.4"), "{}", page.headers);
    // Istio's own name has milliseconds, which promtool would have as seconds. It finds nothing else.
    let mut promtool = host.command("promtool");
    promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut promtool = promtool.spawn().expect("promtool is installed");
    promtool.stdin.take().expect("piped").write_all(page.body.as_bytes()).expect("it reads");
    let output = promtool.wait_with_output().expect("it ends");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert_eq!(
        said.trim(),
        "istio_request_duration_milliseconds use base unit \"seconds\" instead of \"milliseconds\"",
    );

    let accept = "Accept: application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
    let page = host.curl(&["-H", accept], url);
    assert!(page.headers.contains("content-type: application/openmetrics-text; version=1.0.0"), "{}", page.headers);
    assert!(page.body.ends_with("\n# EOF\n"), "{}", page.body);
    let exemplar = format!(" # {{trace_id=\"{trace}\"}} ");
    let with_trace = page.body.lines().find(|line| line.contains(&exemplar)).expect("a traced request is an exemplar");
    assert!(with_trace.starts_with("istio_request_duration_milliseconds_bucket{"), "{with_trace}");
}

#[test]
fn metrics_reach_collectors_by_grpc_through_the_mesh_and_by_http_beside_it() {
    let mut lab = Lab::new(2);
    let collected = lab.file("collected", "");
    lab.host(0).init().ok();
    lab.host(0).configure("metricsPush: { endpoint: \"otel:4317\", interval: 1s }\n");
    lab.host_mut(0).start();
    let token = lab.token(&["--allow", "default/*"]);
    lab.join(1, &token).ok();
    lab.host(1).configure("metricsPush: { endpoint: \"127.0.0.1:4318\", protocol: http, interval: 1s }\n");
    lab.host_mut(1).start();
    (0..2).for_each(|i| lab.wait_members(i, "alive", 2));
    lab.host_mut(0).host_client();
    lab.host_mut(1).host_service("web", "v1", 8080, 0);
    let collector = [&*python(), &*script("collector.py"), &*collected.to_string_lossy()];
    lab.host_mut(1).host_command(&["--service", "otel", "--port", "4317", "--protocol", "grpc"], &collector);
    lab.wait_healthy(0, "web", 1);
    lab.wait_healthy(0, "otel", 1);
    wait_for("the caller has a certificate", PATIENCE, || {
        (lab.host(0).json(&["status"])["ready"] == true).then_some(())
    });
    for _ in 0..3 {
        assert_eq!(lab.host(0).call("web", "/", &[]).status, 200);
    }
    let points = || -> Vec<Value> {
        let text = std::fs::read_to_string(&collected).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    };
    for (node, via, reporter) in [("host-1", "grpc", "source"), ("host-2", "http", "destination")] {
        let of_web = |point: &Value, metric: &str| {
            let labels = &point["labels"];
            point["resource"]["service.instance.id"] == node
                && (&point["via"], &point["metric"]) == (&via.into(), &metric.into())
                && (&labels["reporter"], &labels["destination_service_name"]) == (&reporter.into(), &"web".into())
        };
        let what = format!("{node} has told of three requests by {via}");
        wait_for(&what, PATIENCE, || {
            let points = points();
            let is_counted = |point: &Value| {
                of_web(point, "istio_requests_total") && point["kind"] == "sum" && point["value"] == 3.0
            };
            let is_timed = |point: &Value| {
                of_web(point, "istio_request_duration_milliseconds")
                    && point["count"] == 3
                    && point["buckets"].as_array().is_some_and(|buckets| buckets.len() == 20)
            };
            let is_own = |point: &Value| point["metric"] == "weft_members" && point["kind"] == "gauge";
            let has = |is: &dyn Fn(&Value) -> bool| points.iter().any(is);
            (has(&is_counted) && has(&is_timed) && has(&is_own)).then_some(())
        });
    }
    assert!(lab.host(0).metric("weft_otlp_sent_total", &["signal=\"metrics\""]) > 0.0);
}

#[test]
fn telemetry_says_which_metrics_there_are_and_with_which_labels() {
    let mut lab = Lab::new(2);
    lab.form_mesh();
    lab.host_mut(0).host_client();
    lab.host_mut(1).host_service("echo", "v1", 8080, 0);
    lab.wait_healthy(0, "echo", 1);
    let codes = ["200", "200", "404"];
    for code in codes {
        lab.host(0).call("echo:8080", "/first", &["-H", &format!("x-status: {code}")]);
    }
    let documents = lab.file(
        "metrics.yaml",
        "
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: { name: mesh, namespace: istio-system }
spec:
  metrics:
  - providers: [{ name: prometheus }]
    overrides:
    - { match: { metric: RESPONSE_SIZE }, disabled: true }
    - { match: { metric: REQUEST_COUNT }, tagOverrides: { response_code: { operation: REMOVE } } }
---
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: { name: echo }
spec:
  selector: { matchLabels: { app: echo } }
  metrics:
  - overrides:
    - match: { metric: REQUEST_COUNT, mode: SERVER }
      tagOverrides:
        request_host: { value: request.host }
        tenant: { value: \"request.headers['x-tenant']\" }
        peer: { value: \"downstream_peer.namespace + '/' + downstream_peer.workload\" }
        site: { value: \"'north'\" }
",
    );
    let applied = lab.host(0).weft(&["apply", "-f", &documents.to_string_lossy()]).ok();
    assert!(!applied.contains("not enforced"), "{applied}");
    let lines = |i: usize, name: &str| {
        let page = lab.host(i).curl(&[], "http://127.0.0.1:15000/metrics").body;
        let of_name = |line: &&str| line.starts_with(&format!("{name}{{"));
        page.lines().filter(of_name).map(str::to_owned).collect::<Vec<_>>()
    };
    let count = |line: &str| line.rsplit(' ').next().expect("a value").parse::<f64>().expect("a number");
    // What was counted before has what is left of its labels, added up.
    let called = wait_for("the caller's node tells less", PATIENCE, || {
        let all = lines(0, "istio_requests_total");
        all.iter().all(|line| !line.contains("response_code=")).then_some(all)
    });
    assert_eq!(called.iter().map(|line| count(line)).collect::<Vec<_>>(), [codes.len() as f64]);
    assert!(lines(0, "istio_response_bytes_count").is_empty(), "{called:?}");
    assert_eq!(lines(0, "istio_request_bytes_count").len(), 2, "by response code, as ever");

    wait_for("the workload's node knows both documents", PATIENCE, || {
        lines(1, "istio_requests_total").iter().any(|line| line.contains("site=\"north\"")).then_some(())
    });
    for tenant in ["one", "one", "two"] {
        lab.host(0).call("echo:8080", "/second", &["-H", &format!("x-tenant: {tenant}")]);
    }
    let served = wait_for("requests are told by tenant", PATIENCE, || {
        let all = lines(1, "istio_requests_total");
        (all.iter().map(|line| count(line)).sum::<f64>() == 6.0).then_some(all)
    });
    for (labels, expected) in [
        ("request_host=\"unknown\",site=\"north\",tenant=\"unknown\"", 3.0),
        ("request_host=\"echo:8080\",site=\"north\",tenant=\"one\"", 2.0),
        ("request_host=\"echo:8080\",site=\"north\",tenant=\"two\"", 1.0),
    ] {
        let of_labels: Vec<_> = served.iter().filter(|line| line.contains(labels)).collect();
        let [line] = of_labels.as_slice() else { panic!("{labels}: {served:?}") };
        assert!(count(line) == expected && line.contains("peer=\"default/client-v1\""), "{line}");
        assert!(!line.contains("response_code="), "the mesh's document holds too: {line}");
    }
    let status = lab.host(0).json(&["get", "telemetry", "echo"]);
    let conditions = status["status"]["conditions"].as_array().expect("a list");
    assert!(conditions.iter().all(|one| one["status"] == "True"), "{conditions:?}");
    wait_for("what the node itself makes of its metrics stays", PATIENCE, || {
        lab.host(1).json(&["edges"]).to_string().contains("echo").then_some(())
    });

    // Gone with the documents.
    lab.host(0).weft(&["delete", "-f", &documents.to_string_lossy()]).ok();
    let again = wait_for("all labels are back", PATIENCE, || {
        let all = lines(1, "istio_requests_total");
        all.iter().all(|line| line.contains("response_code=") && !line.contains("tenant=")).then_some(all)
    });
    assert_eq!(again.iter().map(|line| count(line)).sum::<f64>(), 6.0);
    let mut names: Vec<_> = again.iter().filter_map(|line| line.rsplit_once(' ')).map(|(labels, _)| labels).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), again.len(), "each set of labels is there once: {again:?}");
}
