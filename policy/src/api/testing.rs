//! Reads documents for tests of single kinds.

use weft_wire::{document::Stamp, id::Namespace};

use crate::document::{Document, ParsedFile, parse_stored, parse_yaml};

pub(crate) fn parse(text: &str) -> ParsedFile {
    parse_yaml(text, &Namespace::default_namespace()).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// All documents of a text that must be right, each older than the next.
pub(crate) fn documents(text: &str) -> Vec<Document> {
    let file = parse(text);
    assert!(file.errors.is_empty(), "{}\n{text}", file.errors[0]);
    let stamped = file.documents.iter().zip(1..);
    stamped
        .map(|(parsed, millis)| parse_stored(&parsed.key, &parsed.json, Stamp { millis, counter: 0 }).unwrap())
        .collect()
}

/// Checks that each spec is taken.
pub(crate) fn check_taken(kind: &str, specs: &[&str]) {
    for spec in specs {
        documents(&of_kind(kind, spec));
    }
}

/// Checks that each spec is refused with an error that has these words.
pub(crate) fn check_refused(kind: &str, specs: &[(&str, &str)]) {
    for (spec, words) in specs {
        let file = parse(&of_kind(kind, spec));
        let errors: Vec<String> = file.errors.iter().map(ToString::to_string).collect();
        assert!(errors.iter().any(|error| error.contains(words)), "{spec}: wanted {words:?}, got {errors:?}");
    }
}

/// The warnings for a spec that is taken.
pub(crate) fn warnings(kind: &str, spec: &str) -> Vec<String> {
    let text = of_kind(kind, spec);
    documents(&text);
    parse(&text).notices.into_iter().map(|notice| notice.text).collect()
}

/// A document of a kind of `security.istio.io` or `telemetry.istio.io`.
pub(crate) fn of_kind(kind: &str, spec: &str) -> String {
    let group = if kind == "Telemetry" { "telemetry" } else { "security" };
    format!("apiVersion: {group}.istio.io/v1\nkind: {kind}\nmetadata: {{name: a, namespace: foo}}\nspec: {spec}\n")
}
