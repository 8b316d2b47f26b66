//! What became of Gateways and ListenerSets.

use std::{collections::BTreeSet, net::IpAddr};

use super::{Condition, GatewayStatus, ListenerStatus};
use crate::{
    api::gateway::{GROUP, Gateway, ListenerSet, SecretObjectReference},
    compile::gateway_api::{
        attach::{Referent, kinds_of_protocol, may_refer},
        listeners::{Documents, Listener},
    },
    document::{Document, Spec},
    gateway::{Gateway as Compiled, NOT_SERVED},
    view::MeshView,
};

pub(super) fn of_gateway(
    document: &Document,
    gateway: &Gateway,
    documents: &Documents<'_>,
    view: &MeshView,
) -> GatewayStatus {
    if !documents.serves_class(&gateway.gateway_class_name) {
        let message = format!("there is no GatewayClass {} that weft serves", gateway.gateway_class_name);
        return GatewayStatus {
            conditions: vec![Condition::bad("Accepted", "Pending", message)],
            ..GatewayStatus::default()
        };
    }
    let Some(document) = documents.all().iter().find(|known| known.key == document.key) else {
        return GatewayStatus::default();
    };
    let all = documents.listeners(document, gateway);
    let compiled = view.gateways.all.get(&document.key).map(|compiled| &**compiled);
    let addresses = compiled.map_or_else(Vec::new, |compiled| addresses(compiled, view));
    let mut status = of_owner(document, &all, documents, compiled);
    if let Some(unsupported) = unsupported(gateway) {
        status.conditions.retain(|condition| condition.kind != "Accepted");
        status.conditions.insert(0, unsupported);
    }
    if let Some(unusable) = unusable_address(gateway, &addresses) {
        status.conditions.retain(|condition| condition.kind != "Programmed");
        status.conditions.push(unusable);
    }
    GatewayStatus { addresses, ..status }
}

/// Those of its nodes.
fn addresses(gateway: &Compiled, view: &MeshView) -> Vec<IpAddr> {
    let addresses: BTreeSet<IpAddr> = gateway.nodes.iter().filter_map(|node| view.parts.address_of(node)).collect();
    addresses.into_iter().collect()
}

/// What a Gateway asks for that cannot be done at all.
fn unsupported(gateway: &Gateway) -> Option<Condition> {
    let parameters = gateway.infrastructure.as_ref().and_then(|infrastructure| infrastructure.parameters_ref.as_ref());
    if let Some(parameters) = parameters {
        let message = format!("weft has no parameters of the kind {}", parameters.kind);
        return Some(Condition::bad("Accepted", "InvalidParameters", message));
    }
    let other = gateway.addresses.iter().find(|address| !["IPAddress", "Hostname"].contains(&&*address.kind))?;
    let message = format!("addresses of the type {} are not supported", other.kind);
    Some(Condition::bad("Accepted", "UnsupportedAddress", message))
}

/// An address that is asked for and that no node of the gateway has.
fn unusable_address(gateway: &Gateway, addresses: &[IpAddr]) -> Option<Condition> {
    let asked = gateway.addresses.iter().filter(|address| &*address.kind == "IPAddress" && !address.value.is_empty());
    let has_it = |value: &str| value.parse().is_ok_and(|address| addresses.contains(&address));
    let missing = asked.into_iter().find(|address| !has_it(&address.value))?;
    let message = format!("{NOT_SERVED}; no node of the gateway has the address {}", missing.value);
    Some(Condition::bad("Programmed", "AddressNotUsable", message))
}

pub(super) fn of_listener_set(
    document: &Document,
    set: &ListenerSet,
    documents: &Documents<'_>,
    view: &MeshView,
) -> GatewayStatus {
    let Some((gateway, spec)) = documents.gateway_of(document, set) else {
        let message = format!("Gateway {} is not there, or takes no listeners from here", set.parent_ref.name);
        return GatewayStatus {
            conditions: vec![Condition::bad("Accepted", "NotAllowed", message)],
            ..GatewayStatus::default()
        };
    };
    let compiled = view.gateways.all.get(&gateway.key).map(|compiled| &**compiled);
    of_owner(document, &documents.listeners(gateway, spec), documents, compiled)
}

/// Of the Gateway or ListenerSet that has some of a Gateway's listeners.
fn of_owner(
    document: &Document,
    all: &[Listener<'_>],
    documents: &Documents<'_>,
    compiled: Option<&Compiled>,
) -> GatewayStatus {
    // In the same order.
    let attached_routes =
        |place: usize| compiled.and_then(|compiled| Some(compiled.listeners.get(place)?.attached.len()));
    let own = all.iter().enumerate().filter(|(_, listener)| listener.owner.key == document.key);
    let listeners: Vec<ListenerStatus> = own
        .map(|(place, listener)| of_listener(listener, attached_routes(place).unwrap_or_default(), documents))
        .collect();
    let is_good = |status: &&ListenerStatus| {
        let conditions = status.conditions.iter();
        conditions.clone().all(|condition| condition.holds || !["Accepted", "ResolvedRefs"].contains(&condition.kind))
    };
    let accepted = match listeners.iter().filter(is_good).count() {
        0 => Condition::bad("Accepted", "ListenersNotValid", "none of its listeners is valid"),
        good if good < listeners.len() => Condition {
            reason: "ListenersNotValid",
            message: "some of its listeners are not valid".to_owned(),
            ..Condition::good("Accepted")
        },
        _ => Condition::good("Accepted"),
    };
    let programmed = Condition::bad(
        "Programmed",
        "NotImplemented",
        compiled.map_or_else(|| NOT_SERVED.to_owned(), Compiled::not_programmed),
    );
    GatewayStatus { conditions: vec![accepted, programmed], listeners, ..GatewayStatus::default() }
}

fn of_listener(listener: &Listener<'_>, attached_routes: usize, documents: &Documents<'_>) -> ListenerStatus {
    let served = kinds_of_protocol(&listener.protocol);
    let asked = &listener.spec.allowed_routes().kinds;
    let is_served = |group: &str, kind: &str| group == GROUP && served.contains(&kind);
    let supported_kinds = served
        .iter()
        .copied()
        .filter(|kind| asked.is_empty() || asked.iter().any(|one| &*one.group == GROUP && &*one.kind == *kind));
    let has_unknown = asked.iter().any(|one| !is_served(&one.group, &one.kind));

    let accepted = match (served.is_empty(), listener.conflict) {
        // Waypoints have no routes of their own: theirs are those of the services behind them.
        (true, None) if listener.protocol == "HBONE" => Condition::good("Accepted"),
        (true, _) => {
            Condition::bad("Accepted", "UnsupportedProtocol", format!("weft has no protocol {}", listener.protocol))
        }
        (false, Some(conflict)) => Condition::bad("Accepted", conflict.reason(), "another listener stands before it"),
        (false, None) => Condition::good("Accepted"),
    };
    let resolved = if has_unknown {
        Condition::bad("ResolvedRefs", "InvalidRouteKinds", "a listener of this protocol takes no routes of that kind")
    } else {
        certificates(listener, documents)
    };
    ListenerStatus {
        name: listener.spec.name().to_string(),
        supported_kinds: supported_kinds.collect(),
        attached_routes,
        conditions: vec![
            accepted,
            Condition::conflicted(listener.conflict),
            resolved,
            Condition::bad("Programmed", "NotImplemented", NOT_SERVED),
        ],
    }
}

/// By the first certificate that is wrong.
fn certificates(listener: &Listener<'_>, documents: &Documents<'_>) -> Condition {
    let own = listener.owner.namespace();
    let from = Referent {
        group: &listener.owner.key.group,
        kind: &listener.owner.key.kind,
        namespace: &own,
        name: &listener.owner.key.name,
    };
    let references = listener.spec.tls().into_iter().flat_map(|tls| tls.certificate_refs.iter());
    let wrong = references.into_iter().find_map(|reference: &SecretObjectReference| {
        let namespace = reference.namespace.as_ref().unwrap_or(&own);
        let to = Referent { group: &reference.group, kind: &reference.kind, namespace, name: &reference.name };
        if !may_refer(from, to, documents.grants().iter().map(|one| (&one.namespace, one.grant))) {
            return Some((
                "RefNotPermitted",
                format!("no ReferenceGrant in {namespace} lets it name {}", reference.name),
            ));
        }
        let is_secret = reference.group.is_empty() && &*reference.kind == "Secret";
        let found = documents.document("", "Secret", namespace, &reference.name).filter(|_| is_secret);
        let Some(secret) = found else {
            return Some(("InvalidCertificateRef", format!("there is no Secret {} in {namespace}", reference.name)));
        };
        let problem = match &secret.spec {
            Spec::SecretHead(head) => head.content.credential_problem(),
            _ => None,
        };
        problem.map(|why| ("InvalidCertificateRef", format!("Secret {} in {namespace}: {why}", reference.name)))
    });
    match wrong {
        Some((reason, message)) => Condition::bad("ResolvedRefs", reason, message),
        None => Condition::good("ResolvedRefs"),
    }
}
