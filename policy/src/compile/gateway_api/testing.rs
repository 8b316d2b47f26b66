//! What the tests of this module share.

use weft_wire::{document::Stamp, id::Namespace};

use crate::document::{Spec, parse_stored, parse_yaml};

pub(super) fn namespace(name: &str) -> Namespace {
    name.parse().unwrap()
}

pub(super) fn spec(kind: &str, spec: &str) -> Spec {
    let text =
        format!("{{apiVersion: gateway.networking.k8s.io/v1, kind: {kind}, metadata: {{name: a}}, spec: {spec}}}");
    let file = parse_yaml(&text, &namespace("default")).unwrap();
    assert!(file.errors.is_empty(), "{:?}", file.errors);
    parse_stored(&file.documents[0].key, &file.documents[0].json, Stamp::default()).unwrap().spec
}
