//! What became of Gateways and ListenerSets.

use std::{collections::BTreeSet, net::IpAddr};

use super::{Condition, GatewayStatus, ListenerStatus};
use crate::{
    api::gateway::{FrontendValidationMode, GROUP, Gateway, ListenerSet, ObjectReference, SecretObjectReference},
    compile::gateway_api::{
        attach::{Referent, kinds_of_protocol, may_refer},
        listeners::{Documents, Listener},
    },
    document::{Document, Spec},
    gateway::{Gateway as Compiled, NOT_SERVED},
    secrets::{Reference, check_bundle},
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
    let tls = Tls { document, gateway, documents };
    let mut status = of_owner(document, &all, &tls, compiled);
    status.conditions.extend(tls.client_certificate());
    status.conditions.extend(tls.lets_anybody_in());
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
    let tls = Tls { document: gateway, gateway: spec, documents };
    of_owner(document, &documents.listeners(gateway, spec), &tls, compiled)
}

/// Of the Gateway or ListenerSet that has some of a Gateway's listeners.
fn of_owner(document: &Document, all: &[Listener<'_>], tls: &Tls<'_>, compiled: Option<&Compiled>) -> GatewayStatus {
    // In the same order.
    let attached_routes =
        |place: usize| compiled.and_then(|compiled| Some(compiled.listeners.get(place)?.attached.len()));
    let own = all.iter().enumerate().filter(|(_, listener)| listener.owner.key == document.key);
    let listeners: Vec<ListenerStatus> =
        own.map(|(place, listener)| of_listener(listener, attached_routes(place).unwrap_or_default(), tls)).collect();
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

fn of_listener(listener: &Listener<'_>, attached_routes: usize, tls: &Tls<'_>) -> ListenerStatus {
    let served = kinds_of_protocol(&listener.protocol);
    let asked = &listener.spec.allowed_routes().kinds;
    let is_served = |group: &str, kind: &str| group == GROUP && served.contains(&kind);
    let supported_kinds = served
        .iter()
        .copied()
        .filter(|kind| asked.is_empty() || asked.iter().any(|one| &*one.group == GROUP && &*one.kind == *kind));
    let has_unknown = asked.iter().any(|one| !is_served(&one.group, &one.kind));

    let authorities = tls.client_authorities(listener);
    let accepted = match (served.is_empty(), listener.conflict) {
        // Waypoints have no routes of their own: theirs are those of the services behind them.
        (true, None) if listener.protocol == "HBONE" => Condition::good("Accepted"),
        (true, _) => {
            Condition::bad("Accepted", "UnsupportedProtocol", format!("weft has no protocol {}", listener.protocol))
        }
        (false, Some(_)) => {
            let reason = if listener.owner.key == tls.document.key { "Invalid" } else { "Conflicted" };
            Condition::bad("Accepted", reason, "another listener has its port, with another protocol or the same host")
        }
        (false, None) => match &authorities {
            Some(Authorities { are_any: false, wrong: Some((_, why)) }) => {
                Condition::bad("Accepted", "NoValidCACertificate", why.clone())
            }
            _ => Condition::good("Accepted"),
        },
    };
    let resolved = if has_unknown {
        Condition::bad("ResolvedRefs", "InvalidRouteKinds", "a listener of this protocol takes no routes of that kind")
    } else {
        let wrong = wrong_certificate(listener, tls.documents).or(authorities.and_then(|found| found.wrong));
        resolved_unless(wrong)
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

/// What is wrong with a reference, as a condition's reason, and in words.
type Wrong = (&'static str, String);

fn resolved_unless(wrong: Option<Wrong>) -> Condition {
    match wrong {
        Some((reason, message)) => Condition::bad("ResolvedRefs", reason, message),
        None => Condition::good("ResolvedRefs"),
    }
}

/// The first certificate that is wrong.
fn wrong_certificate(listener: &Listener<'_>, documents: &Documents<'_>) -> Option<Wrong> {
    let mut references = listener.spec.tls().into_iter().flat_map(|tls| tls.certificate_refs.iter());
    references.find_map(|reference| {
        wrong_credential(listener.owner, reference, documents).map(|wrong| wrong.named("InvalidCertificateRef"))
    })
}

/// What is wrong with a Secret that a document names for a certificate and its key.
enum WrongCredential {
    NotPermitted(String),
    Invalid(String),
}

impl WrongCredential {
    fn named(self, invalid: &'static str) -> Wrong {
        match self {
            Self::NotPermitted(why) => ("RefNotPermitted", why),
            Self::Invalid(why) => (invalid, why),
        }
    }
}

fn wrong_credential(
    owner: &Document,
    reference: &SecretObjectReference,
    documents: &Documents<'_>,
) -> Option<WrongCredential> {
    let namespace = reference.namespace.clone().unwrap_or_else(|| owner.namespace());
    let to = Referent { group: &reference.group, kind: &reference.kind, namespace: &namespace, name: &reference.name };
    if let Some(why) = not_permitted(owner, to, documents) {
        return Some(WrongCredential::NotPermitted(why));
    }
    let is_secret = reference.group.is_empty() && &*reference.kind == "Secret";
    let found = documents.document("", "Secret", &namespace, &reference.name).filter(|_| is_secret);
    let Some(secret) = found else {
        return Some(WrongCredential::Invalid(format!("there is no Secret {} in {namespace}", reference.name)));
    };
    let problem = match &secret.spec {
        Spec::SecretHead(head) => head.content.credential_problem(),
        _ => None,
    };
    problem.map(|why| WrongCredential::Invalid(format!("Secret {} in {namespace}: {why}", reference.name)))
}

fn not_permitted(owner: &Document, to: Referent<'_>, documents: &Documents<'_>) -> Option<String> {
    let own = owner.namespace();
    let from = Referent { group: &owner.key.group, kind: &owner.key.kind, namespace: &own, name: &owner.key.name };
    let grants = documents.grants().iter().map(|one| (&one.namespace, one.grant));
    let may = may_refer(from, to, grants);
    (!may).then(|| format!("no ReferenceGrant in {} lets it name {}", to.namespace, to.name))
}

/// What a Gateway says of TLS for all of its listeners.
struct Tls<'a> {
    document: &'a Document,
    gateway: &'a Gateway,
    documents: &'a Documents<'a>,
}

/// The authorities by which clients' certificates are verified.
struct Authorities {
    are_any: bool,
    /// The first reference that is wrong.
    wrong: Option<Wrong>,
}

impl Tls<'_> {
    /// Whether the certificate is there that services are to be shown, if there is to be one.
    fn client_certificate(&self) -> Option<Condition> {
        let reference = self.gateway.tls.as_ref()?.backend.as_ref()?.client_certificate_ref.as_ref()?;
        let wrong = wrong_credential(self.document, reference, self.documents);
        Some(resolved_unless(wrong.map(|wrong| wrong.named("InvalidClientCertificateRef"))))
    }

    /// Said where clients without a valid certificate are let in, as the Gateway API would have users warned.
    fn lets_anybody_in(&self) -> Option<Condition> {
        let frontend = self.gateway.tls.as_ref()?.frontend.as_ref()?;
        let all = [&frontend.all_ports].into_iter().chain(frontend.per_port.iter().map(|one| &one.tls));
        let is_open = all
            .filter_map(|tls| tls.validation.as_ref())
            .any(|validation| validation.mode == FrontendValidationMode::AllowInsecureFallback);
        is_open.then(|| Condition {
            reason: "ConfigurationChanged",
            message: "clients without a valid certificate are let in".to_owned(),
            ..Condition::good("InsecureFrontendValidationMode")
        })
    }

    /// Of a listener of HTTPS, if its port asks clients for certificates.
    fn client_authorities(&self, listener: &Listener<'_>) -> Option<Authorities> {
        let frontend = self.gateway.tls.as_ref()?.frontend.as_ref().filter(|_| listener.protocol == "HTTPS")?;
        let of_port = frontend.per_port.iter().find(|one| Some(one.port.get()) == listener.spec.port());
        let validation = of_port.map_or(&frontend.all_ports, |one| &one.tls).validation.as_ref()?;
        let references = &validation.ca_certificate_refs;
        let wrong: Vec<Wrong> = references.iter().filter_map(|reference| self.wrong_authority(reference)).collect();
        Some(Authorities { are_any: wrong.len() < references.len(), wrong: wrong.into_iter().next() })
    }

    fn wrong_authority(&self, reference: &ObjectReference) -> Option<Wrong> {
        let ObjectReference { group, kind, name, namespace } = reference;
        let namespace = namespace.clone().unwrap_or_else(|| self.document.namespace());
        if !group.is_empty() || &**kind != "ConfigMap" {
            let why = format!("{kind} {name} is no ConfigMap, which alone may hold authorities");
            return Some(("InvalidCACertificateKind", why));
        }
        let to = Referent { group, kind, namespace: &namespace, name };
        if let Some(why) = not_permitted(self.document, to, self.documents) {
            return Some(("RefNotPermitted", why));
        }
        let found = self.documents.document("", "ConfigMap", &namespace, name);
        let map = found.and_then(|found| match &found.spec {
            Spec::ConfigMap(map) => Some(&**map),
            _ => None,
        });
        check_bundle(&Reference::new(&namespace, name), map).err().map(|why| ("InvalidCACertificateRef", why))
    }
}
