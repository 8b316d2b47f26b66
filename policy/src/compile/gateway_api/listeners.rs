//! Gateways of the Gateway API: their listeners, with those of ListenerSets, and which routes attach to which.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use weft_wire::{document::DocumentKey, id::Namespace};

use super::{
    attach::{allows_kind, allows_listener_sets, allows_namespace, common_host},
    rank::Seniority,
    route::Grant,
};
use crate::{
    api::gateway::{AnyListener, GROUP, Gateway, Hostname, ListenerSet, ParentReference},
    document::{Document, Spec},
    gateway::Conflict,
};

/// Who serves these gateways, as `controllerName` and `status` say.
pub const CONTROLLER_NAME: &str = "weft.mesh/gateway-controller";
/// Names of classes that need no GatewayClass.
const CLASSES: [&str; 3] = ["istio", "istio-waypoint", "weft"];
/// Controllers whose classes are served here: documents made for Istio work.
const CONTROLLERS: [&str; 3] = [CONTROLLER_NAME, "istio.io/gateway-controller", "istio.io/mesh-controller"];
/// The label that Kubernetes gives each namespace.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// The documents that gateways and routes ask for.
pub(crate) struct Documents<'d> {
    all: &'d [Arc<Document>],
    by_key: HashMap<&'d DocumentKey, &'d Arc<Document>>,
    grants: Vec<Grant<'d>>,
}

/// A listener of a Gateway, or of a ListenerSet of it.
pub(crate) struct Listener<'d> {
    /// The Gateway or the ListenerSet.
    pub(crate) owner: &'d Arc<Document>,
    pub(crate) spec: &'d dyn AnyListener,
    /// In upper case.
    pub(crate) protocol: String,
    pub(crate) conflict: Option<Conflict>,
}

/// Why a route does not attach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    NoMatchingParent,
    NotAllowedByListeners,
    NoMatchingListenerHostname,
}

impl<'d> Documents<'d> {
    pub(crate) fn new(all: &'d [Arc<Document>]) -> Self {
        Self {
            all,
            by_key: all.iter().map(|document| (&document.key, document)).collect(),
            grants: all.iter().filter_map(|document| Grant::of(document)).collect(),
        }
    }

    pub(crate) fn grants(&self) -> &[Grant<'d>] {
        &self.grants
    }

    pub(crate) fn all(&self) -> &'d [Arc<Document>] {
        self.all
    }

    fn find(&self, group: &str, kind: &str, namespace: Option<Namespace>, name: &str) -> Option<&'d Arc<Document>> {
        let key = DocumentKey { group: group.to_owned(), kind: kind.to_owned(), namespace, name: name.to_owned() };
        self.by_key.get(&key).copied()
    }

    pub(crate) fn document(
        &self,
        group: &str,
        kind: &str,
        namespace: &Namespace,
        name: &str,
    ) -> Option<&'d Arc<Document>> {
        self.find(group, kind, Some(namespace.clone()), name)
    }

    fn labels_of(&self, namespace: &Namespace) -> BTreeMap<String, String> {
        let document = self.find("", "Namespace", None, namespace.as_str());
        let mut labels = document.map(|document| document.labels.clone()).unwrap_or_default();
        labels.insert(NAME_LABEL.to_owned(), namespace.to_string());
        labels
    }

    /// Whether gateways of a class are served here.
    pub(crate) fn serves_class(&self, name: &str) -> bool {
        match self.find(GROUP, "GatewayClass", None, name).map(|document| &document.spec) {
            Some(Spec::GatewayClass(class)) => serves_controller(&class.controller_name),
            _ => CLASSES.contains(&name),
        }
    }

    /// The Gateway to which a ListenerSet adds its listeners, if there is one that is served here and lets it.
    pub(crate) fn gateway_of(
        &self,
        document: &Document,
        set: &ListenerSet,
    ) -> Option<(&'d Arc<Document>, &'d Gateway)> {
        let own = document.namespace();
        let namespace = set.parent_ref.namespace.clone().unwrap_or_else(|| own.clone());
        let found =
            self.find(&set.parent_ref.group, &set.parent_ref.kind, Some(namespace.clone()), &set.parent_ref.name)?;
        let Spec::K8sGateway(gateway) = &found.spec else { return None };
        let allowed = gateway.allowed_listeners.as_ref()?;
        let is_allowed = allows_listener_sets(&allowed.namespaces, &namespace, &own, &self.labels_of(&own));
        (is_allowed && self.serves_class(&gateway.gateway_class_name)).then_some((found, gateway))
    }

    /// The listeners of a Gateway: its own, then those of its ListenerSets, the oldest first. Of two that exclude each
    /// other that of the first document counts; of one document neither does, as none is older (`GatewaySpec.listeners`,
    /// "Handling indistinct Listeners"; GEP-1713, "Listener Precedence").
    pub(crate) fn listeners(&self, document: &'d Arc<Document>, gateway: &'d Gateway) -> Vec<Listener<'d>> {
        let mut owners: Vec<(&'d Arc<Document>, &'d ListenerSet)> =
            self.all.iter().filter_map(|document| Some((document, listener_set(&document.spec)?))).collect();
        owners.retain(|(set, spec)| self.gateway_of(set, spec).is_some_and(|(found, _)| found.key == document.key));
        owners.sort_by_cached_key(|(set, _)| Seniority::new(set.created, &set.namespace(), &set.key.name));

        let read =
            |owner, spec: &'d dyn AnyListener| Listener { owner, spec, protocol: spec.protocol(), conflict: None };
        let mut listeners: Vec<Listener<'d>> = gateway.listeners.iter().map(|one| read(document, one)).collect();
        exclude(&mut listeners, &[]);
        for (owner, set) in owners {
            let mut added: Vec<Listener<'d>> = set.listeners.iter().map(|one| read(owner, one)).collect();
            exclude(&mut added, &listeners);
            listeners.extend(added);
        }
        listeners
    }

    /// The Gateway that a route's parent is, or to which the ListenerSet adds that it is. `None` for another parent, or
    /// one that is not there or not served here.
    pub(crate) fn gateway(
        &self,
        route: &Document,
        parent: &ParentReference,
    ) -> Option<(&'d Arc<Document>, &'d Gateway)> {
        let found = self.owner(route, parent)?;
        match &found.spec {
            Spec::K8sGateway(gateway) => self.serves_class(&gateway.gateway_class_name).then_some((found, &**gateway)),
            spec => self.gateway_of(found, listener_set(spec)?),
        }
    }

    fn owner(&self, route: &Document, parent: &ParentReference) -> Option<&'d Arc<Document>> {
        let namespace = parent.namespace.clone().unwrap_or_else(|| route.namespace());
        self.find(&parent.group, &parent.kind, Some(namespace), &parent.name)
    }

    /// The listeners that a route attaches to by a parent, by their places, each with the hosts that they have in
    /// common; no host is all.
    pub(crate) fn attach(
        &self,
        route: &Document,
        parent: &ParentReference,
        listeners: &[Listener<'_>],
    ) -> Result<Vec<(usize, Vec<String>)>, Refusal> {
        let owner = self.owner(route, parent).ok_or(Refusal::NoMatchingParent)?;
        let is_meant = |listener: &Listener<'_>| {
            listener.owner.key == owner.key
                && parent.section_name.as_ref().is_none_or(|section| section == listener.spec.name())
                && parent.port.is_none_or(|port| Some(port.get()) == listener.spec.port())
        };
        let mut meant: Vec<usize> = (0..listeners.len()).filter(|place| is_meant(&listeners[*place])).collect();
        if meant.is_empty() {
            return Err(Refusal::NoMatchingParent);
        }
        let (namespace, hostnames) = (route.namespace(), hostnames(&route.spec));
        let labels = self.labels_of(&namespace);
        meant.retain(|place| {
            let listener = &listeners[*place];
            let allowed = listener.spec.allowed_routes();
            listener.conflict.is_none()
                && allows_kind(allowed, &listener.protocol, &route.key.kind)
                && allows_namespace(allowed, &listener.owner.namespace(), &namespace, &labels)
        });
        if meant.is_empty() {
            return Err(Refusal::NotAllowedByListeners);
        }
        let attached: Vec<(usize, Vec<String>)> = meant
            .into_iter()
            .filter_map(|place| Some((place, common_hosts(listeners[place].spec.hostname(), hostnames)?)))
            .collect();
        if attached.is_empty() { Err(Refusal::NoMatchingListenerHostname) } else { Ok(attached) }
    }
}

pub(crate) fn serves_controller(name: &str) -> bool {
    CONTROLLERS.contains(&name)
}

pub(crate) fn listener_set(spec: &Spec) -> Option<&ListenerSet> {
    match spec {
        Spec::ListenerSet(set) | Spec::XListenerSet(set) => Some(set),
        _ => None,
    }
}

/// The hosts that a route names; none is all.
fn hostnames(spec: &Spec) -> &[Hostname] {
    match spec {
        Spec::HttpRoute(route) => &route.hostnames,
        Spec::GrpcRoute(route) => &route.hostnames,
        Spec::TlsRoute(route) => &route.hostnames,
        _ => &[],
    }
}

/// `None` if they have no host in common; empty if both mean all.
fn common_hosts(listener: Option<&Hostname>, route: &[Hostname]) -> Option<Vec<String>> {
    match (listener, route) {
        (None, hosts) => Some(hosts.iter().map(ToString::to_string).collect()),
        (Some(host), []) => Some(vec![host.to_string()]),
        (Some(listener), hosts) => {
            let common = hosts.iter().filter_map(|host| common_host(listener, host)).map(str::to_owned);
            let common: Vec<String> = common.collect();
            (!common.is_empty()).then_some(common)
        }
    }
}

/// Says of one document's listeners which cannot be: each other, or beside those of the documents before it.
fn exclude(listeners: &mut [Listener<'_>], before: &[Listener<'_>]) {
    let conflict_at = |place: usize| {
        let others = listeners.iter().enumerate().filter(|(other, _)| *other != place).map(|(_, other)| other);
        let accepted = before.iter().filter(|other| other.conflict.is_none());
        let one = &listeners[place];
        accepted.chain(others).find_map(|other| {
            conflict(
                (one.spec.port(), &one.protocol, one.spec.hostname()),
                (other.spec.port(), &other.protocol, other.spec.hostname()),
            )
        })
    };
    let conflicts: Vec<Option<Conflict>> = (0..listeners.len()).map(conflict_at).collect();
    for (listener, conflict) in listeners.iter_mut().zip(conflicts) {
        listener.conflict = conflict;
    }
}

/// Whether a listener cannot be beside another one. Those of HTTP are told apart by their hosts, and so are those of
/// HTTPS and TLS, which can be on one port.
fn conflict(
    (port, protocol, hostname): (Option<i64>, &str, Option<&Hostname>),
    (other_port, other_protocol, other_hostname): (Option<i64>, &str, Option<&Hostname>),
) -> Option<Conflict> {
    let transport = |protocol: &str| match protocol {
        "UDP" => "UDP",
        "HTTPS" | "TLS" => "TLS",
        "HTTP" => "HTTP",
        _ => "TCP",
    };
    let (kind, other) = (transport(protocol), transport(other_protocol));
    if port.is_none() || port != other_port || (kind == "UDP") != (other == "UDP") {
        None
    } else if kind != other {
        Some(Conflict::Protocol)
    } else if hostname != other_hostname {
        None
    } else {
        Some(if protocol == other_protocol { Conflict::Hostname } else { Conflict::Protocol })
    }
}
