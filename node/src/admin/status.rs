//! The status of a document: standard conditions, with the reasons of the Gateway API where it has one.

use weft_policy::{
    document::not_enforced,
    references::{missing_backends, missing_targets},
    view::MeshView,
};

use super::api::{Condition, DocumentStatus, Nodes, rfc3339};
use crate::actors::documents::Reading;

/// Judges a document by how it was read and by what there is in the view. `generation` is the stamp of its newest
/// version, in milliseconds since 1970.
pub fn status_of(reading: &Reading, view: &MeshView, nodes: Nodes, generation: u64) -> DocumentStatus {
    let condition = |kind: &str, good: bool, reason: &str, message: String| Condition {
        kind: kind.into(),
        status: if good { "True" } else { "False" }.into(),
        reason: reason.into(),
        message,
        observed_generation: generation,
        last_transition_time: Some(rfc3339(generation)),
    };
    let mut conditions = match (&reading.error, &reading.in_force) {
        (Some(error), in_force) => {
            let holds = if in_force.is_some() { "its last good version holds" } else { "nothing of it holds" };
            vec![
                condition("Accepted", false, "Invalid", error.to_string()),
                condition("Programmed", false, "Invalid", format!("this node cannot read it: {holds}")),
            ]
        }
        (None, in_force) => {
            let pending = in_force.as_ref().and_then(|document| not_enforced(&document.pending));
            vec![
                condition("Accepted", true, "Accepted", String::new()),
                match pending {
                    Some(pending) => condition("Programmed", false, "NotImplemented", pending),
                    None => condition("Programmed", true, "Programmed", String::new()),
                },
            ]
        }
    };
    if let Some(missing) = reading.in_force.as_ref().and_then(|document| missing_backends(document, view)) {
        let refs = match missing.is_empty() {
            true => condition("ResolvedRefs", true, "ResolvedRefs", String::new()),
            false => {
                let hosts = missing.into_iter().collect::<Vec<_>>().join(", ");
                condition("ResolvedRefs", false, "BackendNotFound", format!("the mesh has no service {hosts}"))
            }
        };
        // Services come and go without the document.
        conditions.push(Condition { last_transition_time: None, ..refs });
    }
    if let Some(missing) = reading.in_force.as_ref().and_then(|document| missing_targets(document, view)) {
        let refs = match missing.is_empty() {
            true => condition("ResolvedRefs", true, "ResolvedRefs", String::new()),
            false => {
                let targets = missing.into_iter().collect::<Vec<_>>().join(", ");
                condition("ResolvedRefs", false, "TargetNotFound", format!("the namespace has no {targets}"))
            }
        };
        conditions.push(Condition { last_transition_time: None, ..refs });
    }
    DocumentStatus { observed_generation: generation, conditions, nodes }
}

/// The status of a Secret whose content this node needs and has not got.
pub fn without_content(mut status: DocumentStatus) -> DocumentStatus {
    for condition in status.conditions.iter_mut().filter(|condition| condition.kind == "Programmed") {
        condition.status = "False".into();
        condition.reason = "Pending".into();
        condition.message = "this node has not fetched its content yet; a version that it has holds until then".into();
        // It is fetched whenever a node that keeps it is reached.
        condition.last_transition_time = None;
    }
    status
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use weft_policy::document::{Document, parse_stored, parse_yaml};
    use weft_wire::{document::Stamp, id::Namespace};

    use super::*;

    const GENERATION: u64 = 1_709_210_096_007;

    fn document(spec: &str) -> Arc<Document> {
        let head = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: reviews}\n";
        let parsed = parse_yaml(&format!("{head}spec: {spec}\n"), &Namespace::default_namespace()).unwrap();
        let parsed = &parsed.documents[0];
        Arc::new(parse_stored(&parsed.key, &parsed.json, Stamp::default()).unwrap())
    }

    /// Each condition as `TYPE STATUS REASON: MESSAGE`.
    fn said(reading: &Reading) -> Vec<String> {
        let nodes = Nodes { current: 1, total: 2, lagging: vec!["b".into()] };
        let view = MeshView::empty("cluster.local".parse().unwrap());
        let status = status_of(reading, &view, nodes.clone(), GENERATION);
        assert_eq!((status.observed_generation, &status.nodes), (GENERATION, &nodes));
        let line = |condition: &Condition| {
            assert_eq!(condition.observed_generation, GENERATION);
            let time = (condition.kind != "ResolvedRefs").then_some("2024-02-29T12:34:56.007Z");
            assert_eq!(condition.last_transition_time.as_deref(), time, "{}", condition.kind);
            format!("{} {} {}: {}", condition.kind, condition.status, condition.reason, condition.message)
        };
        status.conditions.iter().map(line).collect()
    }

    #[test]
    fn what_is_read_is_accepted_and_programmed_unless_some_of_it_is_not_enforced() {
        let of_gateway = document("{hosts: [reviews], gateways: [a, mesh], http: [{redirect: {uri: /}}]}");
        let plain = document("{hosts: [reviews], http: [{route: [{destination: {host: ratings}}]}]}");
        let missing = "ResolvedRefs False BackendNotFound: the mesh has no service ratings.default.svc.cluster.local";
        assert_eq!(said(&Reading::of(plain)), ["Accepted True Accepted: ", "Programmed True Programmed: ", missing]);
        let pending = of_gateway.pending.iter().map(|pending| pending.path.clone()).collect::<Vec<_>>().join(", ");
        assert_eq!(
            said(&Reading::of(of_gateway)),
            [
                "Accepted True Accepted: ",
                &format!("Programmed False NotImplemented: not enforced yet: {pending}"),
                "ResolvedRefs True ResolvedRefs: "
            ]
        );
    }

    #[test]
    fn what_cannot_be_read_is_not_accepted_and_its_last_good_version_is_named() {
        let good = document("{hosts: [reviews], http: [{route: [{destination: {host: ratings}}]}]}");
        let error = parse_stored(&good.key, "{}", Stamp::default()).unwrap_err();
        let accepted = format!("Accepted False Invalid: {error}");
        let last_good = Reading::of(good).unreadable(error.clone());
        assert_eq!(
            said(&last_good)[..2],
            [accepted.as_str(), "Programmed False Invalid: this node cannot read it: its last good version holds"]
        );
        assert_eq!(
            said(&Reading::default().unreadable(error)),
            [accepted.as_str(), "Programmed False Invalid: this node cannot read it: nothing of it holds"]
        );
    }
}
