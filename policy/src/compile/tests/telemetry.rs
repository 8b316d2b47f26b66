use super::*;
use crate::telemetry::{LogPlace, Logs, Metric, MetricShape, Signals, Tag, Tracing};

fn telemetry(namespace: &str, name: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: telemetry.istio.io/v1, kind: Telemetry, metadata: {{name: {name}, namespace: {namespace}}}, spec: \
         {spec}}}"
    )
}

const MESH_CONFIG: &str = "{apiVersion: weft.mesh/v1alpha1, kind: MeshConfig, metadata: {name: default, namespace: \
     istio-system}, spec: {tracing: {sampling: 5}, extensionProviders: [\
     {name: file, envoyFileAccessLog: {path: /var/log/a.log, logFormat: {text: '%REQ(X-A)%'}}}, \
     {name: stdout, envoyFileAccessLog: {path: /dev/stdout, logFormat: {labels: {}}}}, \
     {name: page, prometheus: {}}, {name: otel, envoyOtelAls: {service: otel.default.svc.cluster.local, port: 4317}}, \
     {name: traces, opentelemetry: {service: otel, port: 4318, http: {path: /v1/traces, headers: [{name: X-Key, value: \
     k}]}}}]}}";

/// Where a workload's exchanges are logged, in one of its parts.
fn logged(signals: &Signals) -> Vec<String> {
    match &signals.logs {
        Logs::OfNode => vec!["of node".into()],
        Logs::To(all) => all
            .iter()
            .map(|to| {
                let place = match &to.output.place {
                    LogPlace::Node => "node".to_owned(),
                    LogPlace::File(path) => path.to_string(),
                    LogPlace::Otlp { collector, .. } => format!("{}:{}", collector.host, collector.port),
                };
                if to.filter.is_some() { format!("{place} if") } else { place }
            })
            .collect(),
    }
}

fn of<'v>(view: &'v MeshView, workload: &str, is_server: bool) -> &'v Signals {
    let namespace = Namespace::default_namespace();
    let found = view.callers.by_name.get(format!("default/{workload}").as_str()).unwrap();
    let signals = view.signals(Some(&*found[0]), &namespace);
    if is_server { &signals.server } else { &signals.client }
}

fn both(view: &MeshView, workload: &str) -> [Vec<String>; 2] {
    [false, true].map(|is_server| logged(of(view, workload, is_server)))
}

#[test]
fn without_documents_each_node_says_what_is_logged() {
    assert_eq!(both(&bookinfo().view(), "reviews-v1"), [["of node"], ["of node"]]);
    let of_mesh = |log: &str| {
        let config = MESH_CONFIG.replace("tracing:", &format!("accessLog: {{encoding: {log}}}, tracing:"));
        both(&bookinfo().apply(&config).view(), "reviews-v1")
    };
    assert_eq!(of_mesh("TEXT"), [["node"], ["node"]]);
    assert_eq!(of_mesh("'OFF'"), [vec![] as Vec<String>, vec![]]);
    let config = MESH_CONFIG.replace("tracing:", "defaultProviders: {accessLogging: [file, gone]}, tracing:");
    assert_eq!(both(&bookinfo().apply(&config).view(), "reviews-v1"), [["/var/log/a.log"], ["/var/log/a.log"]]);
}

#[test]
fn the_mesh_the_namespace_and_the_workload_say_it_one_after_another() {
    let mesh = bookinfo().apply(MESH_CONFIG);
    let mesh = mesh.apply(&telemetry("istio-system", "m", "{accessLogging: [{providers: [{name: envoy}]}]}"));
    assert_eq!(both(&mesh.view(), "reviews-v1"), [["node"], ["node"]]);
    let of_namespace = telemetry(
        "default",
        "n",
        "{accessLogging: [{match: {mode: SERVER}, providers: [{name: file}, {name: otel}]}]}",
    );
    let mesh = mesh.apply(&of_namespace);
    let view = mesh.view();
    // What a level names for a part replaces what those before have named for it.
    let server = vec!["/var/log/a.log".to_owned(), "otel.default.svc.cluster.local:4317".into()];
    assert_eq!(both(&view, "reviews-v1"), [vec!["node".to_owned()], server.clone()]);
    assert!(of(&view, "reviews-v1", true).needs_heads && !of(&view, "reviews-v1", false).needs_heads);
    let own = telemetry(
        "default",
        "w",
        "{selector: {matchLabels: {app: reviews}}, accessLogging: [{match: {mode: CLIENT}, disabled: true}, {match: {mode: \
         SERVER}, providers: [{name: otel}], filter: {expression: 'response.code >= 500'}}]}",
    );
    let view = mesh.apply(&own).view();
    // Without providers an entry is for those of the entry before it.
    assert_eq!(
        both(&view, "reviews-v1"),
        [vec!["node".to_owned()], vec!["otel.default.svc.cluster.local:4317 if".into()]]
    );
    assert_eq!(both(&view, "ratings-v1"), [vec!["node".to_owned()], server]);
}

#[test]
fn what_is_disabled_for_a_workload_is_off_there_alone() {
    let off = "{selector: {matchLabels: {app: ratings}}, accessLogging: [{disabled: true}]}";
    let view = bookinfo().apply(&telemetry("default", "off", off)).view();
    assert_eq!(both(&view, "ratings-v1"), [vec![] as Vec<String>, vec![]]);
    assert_eq!(both(&view, "reviews-v1"), [["of node"], ["of node"]]);
    let attached = "{targetRefs: [{kind: Service, name: ratings}], accessLogging: [{disabled: true}]}";
    let view = bookinfo().apply(&telemetry("default", "off", attached)).view();
    assert_eq!(both(&view, "ratings-v1"), [vec![] as Vec<String>, vec![]]);
    // Of two for the same, the older holds; those of other namespaces do not.
    let on = "{selector: {matchLabels: {app: ratings}}, accessLogging: [{providers: [{name: envoy}]}]}";
    let view = bookinfo()
        .apply(&telemetry("prod", "other", off))
        .apply(&telemetry("default", "on", on))
        .apply(&telemetry("default", "off", off))
        .view();
    assert_eq!(both(&view, "ratings-v1"), [["node"], ["node"]]);
}

#[test]
fn tracing_is_merged_field_by_field() {
    let plain = Tracing::default();
    assert_eq!((plain.sampling.percent(), plain.reports, plain.collector.is_none()), (1.0, true, true));
    let mesh = bookinfo().apply(MESH_CONFIG);
    assert_eq!(of(&mesh.view(), "reviews-v1", false).tracing.sampling.percent(), 5.0);
    let of_mesh = "{tracing: [{providers: [{name: traces}], randomSamplingPercentage: 100, customTags: {a: {literal: {value: \
                   b}}}}]}";
    let own = "{selector: {matchLabels: {app: reviews}}, tracing: [{match: {mode: CLIENT}, disableSpanReporting: true, \
               customTags: {h: {header: {name: X-User, defaultValue: nobody}}}}, {match: {mode: SERVER}, \
               randomSamplingPercentage: 0, enableIstioTags: false, disableContextPropagation: true}]}";
    let view = mesh.apply(&telemetry("istio-system", "m", of_mesh)).apply(&telemetry("default", "w", own)).view();
    let (client, server) = (of(&view, "reviews-v1", false), of(&view, "reviews-v1", true));
    let shown = |signals: &Signals| {
        let Tracing { sampling, reports, propagates, has_istio_tags, tags, .. } = &signals.tracing;
        (
            sampling.percent(),
            *reports,
            *propagates,
            *has_istio_tags,
            tags.iter().map(|(name, _)| name.clone()).collect(),
        )
    };
    assert_eq!(shown(client), (100.0, false, true, true, vec!["h".to_owned()]));
    assert_eq!(shown(server), (0.0, true, false, false, vec!["a".to_owned()]));
    assert!(client.needs_heads && !server.needs_heads);
    let collector = server.tracing.collector.as_deref().unwrap();
    assert_eq!(
        (collector.host.as_str(), collector.port, collector.http_path.as_deref()),
        ("otel", 4318, Some("/v1/traces"))
    );
    assert_eq!(collector.headers.get("x-key").map(String::as_str), Some("k"));
}

#[test]
fn signals_are_taken_over_while_their_documents_are_the_same() {
    let mesh = bookinfo().apply(MESH_CONFIG);
    let mesh = mesh.apply(&telemetry("default", "n", "{accessLogging: [{providers: [{name: file}]}]}"));
    let first = mesh.view();
    let mesh = mesh.apply("{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {ports: [{port: 80}]}}");
    let second = mesh.view_after(Some(&first));
    assert!(std::ptr::eq(of(&first, "reviews-v1", true), of(&second, "reviews-v1", true)));
    let third =
        mesh.apply(&telemetry("default", "w", "{selector: {matchLabels: {app: reviews}}}")).view_after(Some(&second));
    assert_eq!(both(&third, "reviews-v1"), [["/var/log/a.log"], ["/var/log/a.log"]]);
}

#[test]
fn providers_and_metrics_that_the_mesh_does_not_have_are_named() {
    let mesh = bookinfo().apply(MESH_CONFIG);
    let judged = |spec: &str| {
        let mesh = Mesh { documents: mesh.documents.clone(), ..Mesh::new() }.apply(&telemetry("default", "t", spec));
        let judged = crate::references::provider(mesh.documents.last().unwrap(), &mesh.view())?;
        Some(judged.map_err(|missing| format!("{}: {}", missing.reason, missing.message)))
    };
    let missing = |what: &str| Some(Err(what.to_owned()));
    assert_eq!(judged("{accessLogging: [{disabled: true}], metrics: [{overrides: [{disabled: true}]}]}"), None);
    assert_eq!(
        judged(
            "{accessLogging: [{providers: [{name: envoy}, {name: file}]}], tracing: [{providers: [{name: traces}]}], \
             metrics: [{providers: [{name: prometheus}, {name: page}]}]}"
        ),
        Some(Ok(()))
    );
    assert_eq!(
        judged(
            "{accessLogging: [{providers: [{name: gone}, {name: traces}]}], tracing: [{providers: [{name: file}]}], \
             metrics: [{providers: [{name: file}]}]}"
        ),
        missing(
            "ProviderNotFound: the MeshConfig has no extensionProviders for access logs: gone, traces; the MeshConfig has \
             no extensionProviders for traces: file; the MeshConfig has no extensionProviders for metrics: file"
        )
    );
    let custom = |name: &str| judged(&format!("{{metrics: [{{overrides: [{{match: {{customMetric: {name}}}}}]}}]}}"));
    assert_eq!(custom("mine"), missing("MetricNotFound: there is no metric istio_mine"));
    assert_eq!(custom("requests_total"), None);
}

/// What becomes of each metric of a workload that something becomes of, in one of its parts.
fn shaped(view: &MeshView, workload: &str, is_server: bool) -> Vec<String> {
    let Some(shape) = &of(view, workload, is_server).metrics else { return vec![] };
    let changed = Metric::ALL.into_iter().filter_map(|metric| match shape.of(metric) {
        MetricShape::AsIs => None,
        MetricShape::Off => Some(format!("{metric:?} off")),
        MetricShape::Tags(tags) => {
            let tags = tags.iter().map(|(name, tag)| match tag {
                Tag::Removed => format!("-{name}"),
                Tag::Text(text) => format!("{name}={text:?}"),
                Tag::OfPeer(expression) => format!("{name}<{}", expression.as_text()),
                Tag::OfRequest(expression) => format!("{name}<<{}", expression.as_text()),
            });
            Some(format!("{metric:?} {}", tags.collect::<Vec<_>>().join(" ")))
        }
    });
    changed.collect()
}

/// Applies what each level says of metrics, the mesh's first, and shows what becomes of those of `reviews-v1` as a client
/// and as a server.
fn merged(levels: &[(&str, &str)]) -> [Vec<String>; 2] {
    let mesh = levels.iter().enumerate().fold(bookinfo().apply(MESH_CONFIG), |mesh, (n, (namespace, spec))| {
        mesh.apply(&telemetry(namespace, &format!("t{n}"), spec))
    });
    let view = mesh.view();
    [false, true].map(|is_server| shaped(&view, "reviews-v1", is_server))
}

const MESH: &str = "istio-system";
const NAMESPACE: &str = "default";

#[test]
fn metrics_without_documents_are_as_they_are() {
    assert_eq!(merged(&[]), [const { vec![] as Vec<String> }; 2]);
    assert_eq!(merged(&[(MESH, "{metrics: [{}]}")]), [const { vec![] as Vec<String> }; 2]);
    assert!(!bookinfo().view().shapes_metrics());
}

#[test]
fn overrides_are_applied_one_after_another_and_level_by_level() {
    let of_mesh = "{metrics: [{overrides: [{match: {metric: REQUEST_COUNT}, tagOverrides: {a: {value: \"'mesh'\"}, \
                   response_code: {operation: REMOVE}}}, {match: {metric: REQUEST_SIZE, mode: CLIENT}, disabled: true}]}]}";
    let of_namespace = "{metrics: [{overrides: [{match: {customMetric: requests_total, mode: SERVER}, tagOverrides: {a: \
                        {value: request.host}, b: {value: \"upstream_peer.labels['tier']\"}}}, {match: {metric: \
                        REQUEST_SIZE}, disabled: false}]}]}";
    let count = "RequestCount a=\"mesh\" -response_code".to_owned();
    assert_eq!(merged(&[(MESH, of_mesh)]), [vec![count.clone(), "RequestSize off".into()], vec![count.clone()]]);
    let both = merged(&[(MESH, of_mesh), (NAMESPACE, of_namespace)]);
    let server = "RequestCount a<<request.host b<upstream_peer.labels['tier'] -response_code".to_owned();
    assert_eq!(both, [vec![count], vec![server]]);
    // Of what has no attribute there is no value, as by Istio's proxies.
    let unknown = "{metrics: [{overrides: [{match: {metric: TCP_SENT_BYTES}, tagOverrides: {a: {value: add}}}]}]}";
    assert_eq!(merged(&[(NAMESPACE, unknown)])[0], ["TcpSentBytes a=\"unknown\""]);
}

#[test]
fn all_metrics_are_off_until_one_is_mentioned_again() {
    let all = |shape: &[String]| shape.len() == 10 && shape.iter().all(|one| one.ends_with(" off"));
    for off in ["{disabled: true}", "{match: {metric: ALL_METRICS}, disabled: true}"] {
        let off = format!("{{metrics: [{{overrides: [{off}]}}]}}");
        assert!(merged(&[(MESH, &off)]).iter().all(|shape| all(shape)), "{off}");
        let on = "{metrics: [{overrides: [{match: {metric: REQUEST_COUNT, mode: CLIENT}, disabled: false}]}]}";
        let [client, server] = merged(&[(MESH, &off), (NAMESPACE, on)]);
        assert!(client.is_empty() && all(&server), "{client:?} {server:?}");
    }
    // Without a name to match, an override that does not switch off is for each.
    let tags = "{metrics: [{overrides: [{match: {mode: SERVER}, tagOverrides: {source_app: {operation: REMOVE}}}]}]}";
    let [client, server] = merged(&[(MESH, tags)]);
    assert!(client.is_empty() && server.len() == 10 && server.iter().all(|one| one.ends_with(" -source_app")));
}

#[test]
fn the_last_providers_that_are_named_decide_who_is_told() {
    let off = |provider: &str| {
        format!(
            "{{metrics: [{{providers: [{{name: {provider}}}], overrides: [{{match: {{metric: REQUEST_COUNT}}, disabled: true}}]}}]}}"
        )
    };
    assert_eq!(merged(&[(MESH, &off("prometheus"))])[0], ["RequestCount off"]);
    // The provider by another name; what was said of the one that is not told any more does not count.
    let renamed = merged(&[(MESH, &off("prometheus")), (NAMESPACE, "{metrics: [{providers: [{name: page}]}]}")]);
    assert_eq!(renamed, [const { vec![] as Vec<String> }; 2]);
    // Somebody who takes no metrics: nobody is told.
    let [client, server] = merged(&[(MESH, "{metrics: [{providers: [{name: traces}]}]}")]);
    assert!(client.len() == 10 && client == server, "{client:?}");
    // Without a name an entry is for whoever the entry before it is for.
    let inherited = "{metrics: [{overrides: [{match: {metric: REQUEST_SIZE}, disabled: true}]}]}";
    assert_eq!(merged(&[(MESH, &off("page")), (NAMESPACE, inherited)])[1], ["RequestCount off", "RequestSize off"]);
    let config = MESH_CONFIG.replace("tracing:", "defaultProviders: {metrics: [traces]}, tracing:");
    assert_eq!(shaped(&bookinfo().apply(&config).view(), "reviews-v1", true).len(), 10);
}

#[test]
fn what_is_to_be_worked_out_of_requests_is_known_once_and_only_if_it_is_told() {
    let spec = "{metrics: [{overrides: [{tagOverrides: {a: {value: request.host}, b: {value: request.host}, c: {value: \
                \"request.headers['x']\"}}}, {match: {metric: REQUEST_COUNT}, tagOverrides: {d: {value: request.method}}}, \
                {match: {metric: REQUEST_COUNT}, disabled: true}, {match: {metric: TCP_SENT_BYTES}, tagOverrides: {e: \
                {value: connection.mtls}}}]}]}";
    let view = bookinfo().apply(&telemetry(NAMESPACE, "t", spec)).view();
    let signals = of(&view, "reviews-v1", true);
    let recorded = signals.recorded().unwrap().recorded().iter().map(|one| one.as_text().to_string());
    assert_eq!(recorded.collect::<Vec<_>>(), ["request.host", "request.headers['x']"]);
    assert!(signals.needs_heads && view.shapes_metrics());
}
