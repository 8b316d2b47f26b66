//! The status of a document: standard conditions, with the reasons of the Gateway API where it has one.

use std::{
    net::IpAddr,
    time::{SystemTime, UNIX_EPOCH},
};

use weft_policy::{
    api::gateway::GROUP,
    document::{Spec, not_enforced},
    experiment::{Observed, Phase},
    references::{self, missing_backends, missing_targets},
    status::{self as judged, GatewayStatus, Judge},
    view::MeshView,
};

use super::api::{
    AncestorStatus, Condition, DocumentStatus, GatewayAddress, ListenerStatus, Nodes, ParentStatus, RouteKind, rfc3339,
};
use crate::actors::documents::Reading;

/// Judges a document by how it was read and by what there is in the view. `generation` is the stamp of its newest
/// version, in milliseconds since 1970.
pub fn status_of(
    reading: &Reading,
    view: &MeshView,
    judge: &Judge<'_>,
    nodes: Nodes,
    generation: u64,
) -> DocumentStatus {
    let condition = |kind: &str, good: bool, reason: &str, message: String| Condition {
        kind: kind.into(),
        status: if good { "True" } else { "False" }.into(),
        reason: reason.into(),
        message,
        observed_generation: generation,
        last_transition_time: Some(rfc3339(generation)),
    };
    let mut conditions = match (&reading.error, &reading.held_back, &reading.in_force) {
        (Some(error), _, in_force) => {
            let holds = if in_force.is_some() { "its last good version holds" } else { "nothing of it holds" };
            vec![
                condition("Accepted", false, "Invalid", error.to_string()),
                condition("Programmed", false, "Invalid", format!("this node cannot read it: {holds}")),
            ]
        }
        (None, Some(why), in_force) => {
            let holds = if in_force.is_some() { "its last good version holds" } else { "nothing of it holds" };
            let message = format!("on this node compiling it {why}: until it changes, {holds}");
            // Found by each node for itself.
            let held_back = condition("Programmed", false, "Quarantined", message);
            vec![
                condition("Accepted", true, "Accepted", String::new()),
                Condition { last_transition_time: None, ..held_back },
            ]
        }
        (None, None, in_force) => {
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
    if let Some(provider) = reading.in_force.as_ref().and_then(|document| references::provider(document, view)) {
        let refs = match provider {
            Ok(()) => condition("ResolvedRefs", true, "ResolvedRefs", String::new()),
            Err(missing) => condition("ResolvedRefs", false, missing.reason, missing.message),
        };
        conditions.push(Condition { last_transition_time: None, ..refs });
    }
    if let Some(Spec::FaultExperiment(_)) = reading.in_force.as_ref().map(|document| &document.spec)
        && let Some(phase) = phase_of(reading, view)
    {
        let (is_active, reason, message) = match phase {
            Phase::Scheduled => (false, "Scheduled", String::new()),
            Phase::Running => (true, "Running", String::new()),
            Phase::Ended => (false, "Ended", String::new()),
            Phase::Stopped { at_unix_ms, seen: Observed { requests, failed, slow } } => (
                false,
                "Stopped",
                format!(
                    "this node stopped it at {}: of {requests} requests without the fault {failed} failed and {slow} \
                     were slow",
                    rfc3339(at_unix_ms)
                ),
            ),
        };
        let active = condition("Active", is_active, reason, message);
        conditions.push(Condition { last_transition_time: None, ..active });
    }
    let mut status = DocumentStatus {
        observed_generation: generation,
        conditions,
        parents: vec![],
        ancestors: vec![],
        listeners: vec![],
        addresses: vec![],
        nodes,
    };
    if let Some(found) = reading.in_force.as_ref().and_then(|document| judge.status_of(document)) {
        add(&mut status, found);
    }
    status
}

/// Adds what the Gateway API's own status has. Of a route, the document's conditions sum up its parents', and of a policy
/// its targets'. A VirtualService is accepted whatever its gateways make of it, as in Istio.
fn add(status: &mut DocumentStatus, found: GatewayStatus) {
    let generation = status.observed_generation;
    // All of it depends on other documents too.
    let condition = |one: &judged::Condition| Condition {
        kind: one.kind.into(),
        status: if one.holds { "True" } else { "False" }.into(),
        reason: one.reason.into(),
        message: one.message.clone(),
        observed_generation: generation,
        last_transition_time: None,
    };
    let all = |conditions: &[judged::Condition]| conditions.iter().map(condition).collect::<Vec<_>>();
    let parents = || found.parents.iter().chain(&found.ancestors);
    let of_parents = || parents().filter(|parent| !parent.parent.is_istio()).flat_map(|parent| &parent.conditions);
    let refused = || of_parents().filter(|one| one.kind == "Accepted" && !one.holds);
    let mut summary = all(&found.conditions);
    if refused().count() == parents().count() {
        summary.extend(refused().next().map(condition));
    }
    let refs = || of_parents().filter(|one| one.kind == "ResolvedRefs");
    summary.extend(refs().find(|one| !one.holds).or_else(|| refs().next()).map(condition));
    for one in summary {
        match status.conditions.iter_mut().find(|known| known.kind == one.kind) {
            Some(known) => *known = one,
            None => status.conditions.push(one),
        }
    }
    let parents = found.parents.iter().map(|parent| ParentStatus {
        parent_ref: parent.parent.clone(),
        controller_name: judged::CONTROLLER_NAME.into(),
        conditions: all(&parent.conditions),
    });
    status.parents = parents.collect();
    let ancestors = found.ancestors.iter().map(|ancestor| AncestorStatus {
        ancestor_ref: ancestor.parent.clone(),
        controller_name: judged::CONTROLLER_NAME.into(),
        conditions: all(&ancestor.conditions),
    });
    status.ancestors = ancestors.collect();
    let kind = |kind: &&'static str| RouteKind { group: GROUP.into(), kind: (*kind).into() };
    let listeners = found.listeners.iter().map(|listener| ListenerStatus {
        name: listener.name.clone(),
        supported_kinds: listener.supported_kinds.iter().map(kind).collect(),
        attached_routes: listener.attached_routes,
        conditions: all(&listener.conditions),
    });
    status.listeners = listeners.collect();
    let address = |value: &IpAddr| GatewayAddress { kind: "IPAddress".into(), value: *value };
    status.addresses = found.addresses.iter().map(address).collect();
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

fn phase_of(reading: &Reading, view: &MeshView) -> Option<Phase> {
    let now_unix_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
    let key = &reading.in_force.as_ref()?.key;
    view.all_experiments().find(|experiment| experiment.key == *key).map(|experiment| experiment.phase(now_unix_ms))
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
        let status = status_of(reading, &view, &Judge::new(&view), nodes.clone(), GENERATION);
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
    fn what_is_held_back_says_so() {
        let good = document("{hosts: [reviews], http: [{redirect: {uri: /}}]}");
        let view = MeshView::empty("cluster.local".parse().unwrap());
        for (instead, holds) in [(Some(good), "its last good version holds"), (None, "nothing of it holds")] {
            let reading = Reading::held_back("panics: x", instead);
            let nodes = Nodes { current: 1, total: 1, lagging: vec![] };
            let status = status_of(&reading, &view, &Judge::new(&view), nodes, GENERATION);
            assert!(!status.lacks("Accepted") && status.lacks("Programmed"));
            let programmed = &status.conditions[1];
            assert_eq!(programmed.reason, "Quarantined");
            assert_eq!(programmed.message, format!("on this node compiling it panics: x: until it changes, {holds}"));
        }
    }

    #[test]
    fn a_route_says_what_each_parent_makes_of_it_and_sums_that_up() {
        let text = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r}\nspec: {parentRefs: \
                    [{group: '', kind: Service, name: web, port: 80}], rules: [{backendRefs: [{name: web, port: 80}]}]}\n";
        let parsed = parse_yaml(text, &Namespace::default_namespace()).unwrap().documents.remove(0);
        let route = parse_stored(&parsed.key, &parsed.json, Stamp::default()).unwrap();
        let view = MeshView::empty("cluster.local".parse().unwrap());
        let nodes = Nodes { current: 1, total: 1, lagging: vec![] };
        let status = status_of(&Reading::of(Arc::new(route)), &view, &Judge::new(&view), nodes, GENERATION);
        let json = serde_json::to_value(&status).unwrap();
        let parent = &json["parents"][0];
        assert_eq!(
            parent["parentRef"],
            serde_json::json!({ "group": "", "kind": "Service", "name": "web", "port": 80 })
        );
        assert_eq!(parent["controllerName"], "weft.mesh/gateway-controller");
        assert_eq!(parent["conditions"][0]["reason"], "NoMatchingParent");
        assert_eq!(parent["conditions"][0]["observedGeneration"], GENERATION);
        assert_eq!(parent["conditions"][1]["reason"], "BackendNotFound");
        let summary: Vec<(&str, &str)> =
            status.conditions.iter().map(|one| (one.kind.as_str(), one.reason.as_str())).collect();
        assert_eq!(
            summary,
            [("Accepted", "NoMatchingParent"), ("Programmed", "Programmed"), ("ResolvedRefs", "BackendNotFound")]
        );
        assert!(json.get("listeners").is_none());
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
