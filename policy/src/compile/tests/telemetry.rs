use super::*;
use crate::telemetry::{LogPlace, Logs, Signals, Tracing};

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
     {name: otel, envoyOtelAls: {service: otel.default.svc.cluster.local, port: 4317}}, \
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
fn providers_that_the_mesh_does_not_have_are_named() {
    let mesh = bookinfo().apply(MESH_CONFIG);
    let judged = |spec: &str| {
        let mesh = Mesh { documents: mesh.documents.clone(), ..Mesh::new() }.apply(&telemetry("default", "t", spec));
        crate::references::provider(mesh.documents.last().unwrap(), &mesh.view())
    };
    assert_eq!(judged("{accessLogging: [{disabled: true}]}"), None);
    assert_eq!(
        judged(
            "{accessLogging: [{providers: [{name: envoy}, {name: file}]}], tracing: [{providers: [{name: traces}]}]}"
        ),
        Some(Ok(()))
    );
    assert_eq!(
        judged(
            "{accessLogging: [{providers: [{name: gone}, {name: traces}]}], tracing: [{providers: [{name: file}]}]}"
        ),
        Some(Err("the MeshConfig has no extensionProviders for access logs: gone, traces; the MeshConfig has no \
                  extensionProviders for traces: file"
            .into()))
    );
}
