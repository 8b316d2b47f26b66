//! Each code, where it is told and where it is not.

mod destination_rule;
mod gateway;
mod metadata;
mod properties;
mod reachability;
mod selector;
mod service;
mod virtual_service;

use std::collections::BTreeMap;

use weft_wire::{fact::Protocol, id::Namespace};

use super::{Input, Message, Severity};

/// January 2027, in seconds since 1970.
const NOW: i64 = 1_800_000_000;

fn messages(text: &str) -> Vec<Message> {
    let mut input = Input::default();
    input.add_file("f.yaml", text, &Namespace::default_namespace());
    input.analyze(NOW)
}

/// Whom a code is told about: each once, in order.
fn told(code: &str, documents: &[String]) -> Vec<String> {
    let found = messages(&documents.concat());
    let found = found.into_iter().filter(|message| message.code.id() == code);
    let mut origins: Vec<String> = found.map(|message| message.origin()).collect();
    origins.dedup();
    origins
}

/// A document of any kind; `spec` is a YAML map.
fn document(api_version: &str, kind: &str, namespace: &str, name: &str, spec: &str) -> String {
    format!(
        "apiVersion: {api_version}\nkind: {kind}\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n---\n"
    )
}

fn networking(kind: &str, name: &str, spec: &str) -> String {
    document("networking.istio.io/v1", kind, "default", name, spec)
}

fn security(kind: &str, name: &str, spec: &str) -> String {
    document("security.istio.io/v1", kind, "default", name, spec)
}

fn telemetry(name: &str, spec: &str) -> String {
    document("telemetry.istio.io/v1", "Telemetry", "default", name, spec)
}

/// Serves 9080 by the workloads with `app: NAME`.
fn service(name: &str) -> String {
    document(
        "v1",
        "Service",
        "default",
        name,
        &format!("{{selector: {{app: {name}}}, ports: [{{name: http, port: 9080}}]}}"),
    )
}

fn pod(name: &str, labels: &str) -> String {
    format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: default, labels: {labels}}}\n---\n")
}

fn route(host: &str) -> String {
    format!("{{hosts: [reviews], http: [{{route: [{{destination: {{host: {host}}}}}]}}]}}")
}

#[test]
fn what_would_be_refused_is_told_with_its_place() {
    let text = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata:\n  name: a\nspec:\n  hosts: [a.com]\n  \
                htp: []\n";
    let found = messages(text);
    let first = found.first().unwrap();
    assert!(
        first.to_string().starts_with("Error [IST0106] (VirtualService default/a f.yaml:7:3) spec.htp: "),
        "{first}"
    );
}

#[test]
fn a_warning_of_a_document_is_told() {
    assert_eq!(
        told("IST0133", &[security("AuthorizationPolicy", "a", "{selector: {matchLabels: {}}}")]),
        ["AuthorizationPolicy default/a"]
    );
    assert!(told("IST0133", &[security("AuthorizationPolicy", "a", "{}")]).is_empty());
}

#[test]
fn a_file_that_is_no_yaml_is_told() {
    let found = messages("a: [");
    assert_eq!((found[0].code.id(), found[0].origin().as_str()), ("IST0106", ""));
}

#[test]
fn what_is_wrong_with_one_field_does_not_hide_the_rest() {
    let reviews = document("v1", "Service", "default", "reviews", "{ports: [{name: http, port: 80, protocol: HTTP}]}");
    let documents = [reviews, networking("VirtualService", "a", &route("reviews"))];
    assert_eq!(told("IST0106", &documents), ["Service default/reviews"]);
    assert!(told("IST0101", &documents).is_empty());
}

#[test]
fn a_kind_that_is_not_known_is_told_by_name() {
    let plugin = document("extensions.istio.io/v1alpha1", "WasmPlugin", "default", "w", "{}");
    assert_eq!(told("IST0106", &[plugin]), ["WasmPlugin default/w"]);
}

#[test]
fn a_document_that_stands_twice_is_told() {
    assert_eq!(told("IST0106", &[service("a"), service("a")]), ["Service default/a"]);
}

#[test]
fn an_author_may_suppress_codes() {
    let suppressed = |codes: &str| {
        let text = format!(
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: a, annotations: \
             {{galley.istio.io/analyze-suppress: '{codes}'}}}}\nspec: {{host: nobody}}\n"
        );
        told("IST0174", &[text]).is_empty()
    };
    assert!(suppressed("IST0101, IST0174"));
    assert!(suppressed("*"));
    assert!(!suppressed("IST0101"));
}

#[test]
fn files_replace_what_the_mesh_holds() {
    let stored = r#"{"apiVersion":"networking.istio.io/v1","kind":"DestinationRule",
        "metadata":{"name":"a","namespace":"default"},"spec":{"host":"nobody"}}"#;
    let mut input = Input::default();
    input.add_stored(stored);
    input.add_announced("n1", "reviews".parse().unwrap(), (9080, Protocol::Http), BTreeMap::new());
    let found = input.analyze(NOW);
    assert_eq!((found.len(), found[0].code.id(), &found[0].file), (1, "IST0174", &None));

    input.add_file("f.yaml", &networking("DestinationRule", "a", "{host: reviews}"), &Namespace::default_namespace());
    assert_eq!(input.analyze(NOW), []);
}

#[test]
fn messages_come_the_worst_first() {
    let found = messages(
        &[
            service("a"),
            networking("DestinationRule", "a", "{host: b}"),
            networking("VirtualService", "a", &route("b")),
        ]
        .concat(),
    );
    let severities: Vec<Severity> = found.iter().map(|message| message.code.severity()).collect();
    assert!(severities.is_sorted_by(|a, b| a >= b) && severities.len() == 2, "{found:?}");
}
