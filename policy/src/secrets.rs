//! Secrets and ConfigMaps by reference: which Secrets a node needs for what documents ask of it, and what it takes out
//! of them, certificates and keys in PEM.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use weft_wire::{
    document::DocumentKey,
    fact::NodeRecord,
    id::Namespace,
    secret::{SecretBytes, SecretPayload},
};

use crate::{
    api::{
        core::{ConfigMap, credential},
        gateway::{self, GROUP, ReferenceGrant, SecretObjectReference},
        networking::{self, ClientTlsSettings, DestinationRule, TrafficPolicy},
        target::ROOT_NAMESPACE,
    },
    compile::gateway_api::attach::{Referent, may_refer},
    document::{Document, Spec},
    gateway::selects_node,
};

/// A node with this label serves the Gateway API's Gateways of this name, as the Pods do that serve them elsewhere.
pub const GATEWAY_NAME_LABEL: &str = "gateway.networking.k8s.io/gateway-name";
/// What Istio appends to a Secret's name for one that has the certificates of authorities alone.
const AUTHORITIES_SUFFIX: &str = "-cacert";

/// Namespace and name of a Secret or ConfigMap.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    pub namespace: Namespace,
    pub name: String,
}

impl Reference {
    pub fn new(namespace: &Namespace, name: &str) -> Self {
        Self { namespace: namespace.clone(), name: name.to_owned() }
    }

    /// What a `credentialName` means, `NAME` or `NAMESPACE/NAME`, to whoever reads it in `namespace`. `None` for a
    /// namespace that cannot be.
    pub fn of_credential(name: &str, namespace: &Namespace) -> Option<Self> {
        match name.split_once('/') {
            Some((namespace, name)) => Some(Self::new(&namespace.parse().ok()?, name)),
            None => Some(Self::new(namespace, name)),
        }
    }

    fn authorities(&self) -> Self {
        Self { name: format!("{}{AUTHORITIES_SUFFIX}", self.name), ..self.clone() }
    }

    /// If the key is a Secret's.
    pub fn of_secret(key: &DocumentKey) -> Option<Self> {
        let is_secret = key.group.is_empty() && key.kind == "Secret";
        is_secret.then(|| key.namespace.as_ref().map(|namespace| Self::new(namespace, &key.name)))?
    }
}

/// Prints as `namespace/name`.
impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// The Secrets that a node needs, whether they exist or not:
///
/// - those that an Istio Gateway names whose selector has the node's labels, read in the root namespace as Istio's own
///   gateways do;
/// - those that the Gateway API's Gateway of its label [`GATEWAY_NAME_LABEL`] names, and the ListenerSets of that one,
///   of another namespace with a ReferenceGrant;
/// - those that a DestinationRule names whose `workloadSelector` selects a workload of the node; one without selector
///   names them for gateways alone, as in Istio.
pub fn needed_by(record: &NodeRecord, documents: &[Arc<Document>]) -> BTreeSet<Reference> {
    let mut needed = Needed { names: BTreeSet::new(), grants: Vec::new() };
    needed.grants.extend(documents.iter().filter_map(|document| match &document.spec {
        Spec::ReferenceGrant(grant) => Some((document.namespace(), &**grant)),
        _ => None,
    }));
    let root = ROOT_NAMESPACE.parse::<Namespace>().ok();
    let mut gateway_namespaces = BTreeSet::new();
    for document in documents {
        match &document.spec {
            Spec::IstioGateway(gateway) if selects_node(&gateway.selector, &record.labels) => {
                gateway_namespaces.extend(root.clone());
                needed.of_istio_gateway(gateway, root.as_ref());
            }
            Spec::K8sGateway(gateway) if record.labels.get(GATEWAY_NAME_LABEL) == Some(&document.key.name) => {
                gateway_namespaces.insert(document.namespace());
                needed.of_gateway(gateway, &document.namespace());
            }
            Spec::ListenerSet(set) | Spec::XListenerSet(set)
                if record.labels.get(GATEWAY_NAME_LABEL).is_some_and(|name| *name == *set.parent_ref.name) =>
            {
                let tls = set.listeners.iter().filter_map(|listener| listener.tls.as_ref());
                needed.of_listeners(tls, "ListenerSet", &document.namespace());
            }
            _ => {}
        }
    }
    for document in documents {
        let Spec::DestinationRule(rule) = &document.spec else { continue };
        match &rule.workload_selector {
            Some(selector) if hosts(record, &document.namespace(), &selector.match_labels) => {
                needed.of_rule(rule, &document.namespace());
            }
            Some(_) => {}
            None => gateway_namespaces.iter().for_each(|namespace| needed.of_rule(rule, namespace)),
        }
    }
    needed.names
}

/// Whether a node hosts a workload of a namespace with these labels.
fn hosts(record: &NodeRecord, namespace: &Namespace, selector: &BTreeMap<String, String>) -> bool {
    record.endpoints.iter().filter(|row| row.service.namespace == *namespace).any(|row| {
        let labels = row.selector_labels();
        selector.iter().all(|(key, value)| labels.get(key.as_str()) == Some(&value.as_str()))
    })
}

struct Needed<'d> {
    names: BTreeSet<Reference>,
    grants: Vec<(Namespace, &'d ReferenceGrant)>,
}

impl Needed<'_> {
    /// A Secret, and the one that Istio looks for beside it.
    fn credential(&mut self, name: &str, namespace: &Namespace) {
        if let Some(reference) =
            Some(name).filter(|n| !n.is_empty()).and_then(|n| Reference::of_credential(n, namespace))
        {
            self.names.insert(reference.authorities());
            self.names.insert(reference);
        }
    }

    fn of_istio_gateway(&mut self, gateway: &networking::Gateway, namespace: Option<&Namespace>) {
        let Some(namespace) = namespace else { return };
        for tls in gateway.servers.iter().filter_map(|server| server.tls.as_ref()) {
            for name in tls.credential_names.iter().chain([&tls.credential_name, &tls.ca_cert_credential_name]) {
                self.credential(name, namespace);
            }
        }
    }

    fn of_gateway(&mut self, gateway: &gateway::Gateway, namespace: &Namespace) {
        self.of_listeners(gateway.listeners.iter().filter_map(|listener| listener.tls.as_ref()), "Gateway", namespace);
        let backend = gateway.tls.as_ref().and_then(|tls| tls.backend.as_ref());
        if let Some(reference) = backend.and_then(|backend| backend.client_certificate_ref.as_ref()) {
            self.referred(reference, "Gateway", namespace);
        }
    }

    fn of_listeners<'l>(
        &mut self,
        listeners: impl Iterator<Item = &'l gateway::ListenerTlsConfig>,
        kind: &str,
        namespace: &Namespace,
    ) {
        for reference in listeners.flat_map(|tls| tls.certificate_refs.iter()) {
            self.referred(reference, kind, namespace);
        }
    }

    fn referred(&mut self, reference: &SecretObjectReference, from: &str, namespace: &Namespace) {
        let target = reference.namespace.as_ref().unwrap_or(namespace);
        let (group, kind, name) = (&*reference.group, &*reference.kind, &*reference.name);
        let from = Referent { group: GROUP, kind: from, namespace, name: "" };
        let to = Referent { group, kind, namespace: target, name };
        let grants = self.grants.iter().map(|(namespace, grant)| (namespace, *grant));
        if group.is_empty() && kind == "Secret" && may_refer(from, to, grants) {
            self.names.insert(Reference::new(target, name));
        }
    }

    fn of_rule(&mut self, rule: &DestinationRule, namespace: &Namespace) {
        let policies = rule.traffic_policy.iter().chain(rule.subsets.iter().filter_map(|s| s.traffic_policy.as_ref()));
        for tls in policies.flat_map(tls_of) {
            self.credential(&tls.credential_name, namespace);
            self.credential(&tls.ca_cert_credential_name, namespace);
        }
    }
}

fn tls_of(policy: &TrafficPolicy) -> impl Iterator<Item = &ClientTlsSettings> {
    policy.tls.iter().chain(policy.port_level_settings.iter().filter_map(|port| port.tls.as_ref()))
}

/// The contents of the Secrets that this node has.
pub type Contents = BTreeMap<Reference, Arc<SecretPayload>>;

/// A certificate with its issuers, and its key, all in PEM.
#[derive(Clone, Copy, Debug)]
pub struct KeyPair<'c> {
    pub certificates: &'c SecretBytes,
    pub key: &'c SecretBytes,
}

/// What documents refer to by name, as far as this node has it.
#[derive(Debug, Default)]
pub struct Credentials {
    secrets: Arc<Contents>,
    /// The documents of ConfigMaps.
    config_maps: BTreeMap<Reference, Arc<Document>>,
}

impl Credentials {
    /// The previous ones, if nothing has changed.
    pub(crate) fn of(secrets: &Arc<Contents>, documents: &[Arc<Document>], previous: Option<&Arc<Self>>) -> Arc<Self> {
        let config_maps: BTreeMap<Reference, Arc<Document>> = documents
            .iter()
            .filter(|document| matches!(document.spec, Spec::ConfigMap(_)))
            .map(|document| (Reference::new(&document.namespace(), &document.key.name), document.clone()))
            .collect();
        let is_same = |previous: &Self| {
            let (known, now) = (previous.config_maps.values(), config_maps.values());
            Arc::ptr_eq(&previous.secrets, secrets)
                && known.len() == now.len()
                && known.zip(now).all(|(known, now)| Arc::ptr_eq(known, now))
        };
        match previous {
            Some(previous) if is_same(previous) => previous.clone(),
            _ => Arc::new(Self { secrets: secrets.clone(), config_maps }),
        }
    }

    /// Certificate and key of a Secret: `tls.crt` and `tls.key`, or `cert` and `key`.
    pub fn key_pair(&self, secret: &Reference) -> Option<KeyPair<'_>> {
        let data = &self.secrets.get(secret)?.data;
        credential::PAIRS.iter().find_map(|(certificate, key)| {
            Some(KeyPair { certificates: data.get(*certificate)?, key: data.get(*key)? })
        })
    }

    /// The authorities that go with a Secret, in PEM: `ca.crt` or `cacert` of `NAME-cacert`, or else of the Secret.
    pub fn authorities_of(&self, secret: &Reference) -> Option<&[u8]> {
        [secret.authorities(), secret.clone()].iter().find_map(|name| {
            let data = &self.secrets.get(name)?.data;
            credential::AUTHORITIES.iter().find_map(|key| data.get(*key)).map(SecretBytes::expose)
        })
    }

    /// The authorities that a ConfigMap holds, in PEM: `ca.crt` or `cacert`.
    pub fn bundle(&self, config_map: &Reference) -> Option<&[u8]> {
        bundle_of(self.config_map(config_map)?)
    }

    /// As [`Self::bundle`], where it can be used.
    ///
    /// # Errors
    /// Why it cannot.
    pub fn usable_bundle(&self, config_map: &Reference) -> Result<&[u8], String> {
        check_bundle(config_map, self.config_map(config_map))
    }

    /// What a `caCertCredentialName` means: a Secret, or else a ConfigMap.
    pub fn authorities(&self, name: &Reference) -> Option<&[u8]> {
        self.authorities_of(name).or_else(|| self.bundle(name))
    }

    /// The value of a key of a Secret, for what is no certificate.
    pub fn value(&self, secret: &Reference, key: &str) -> Option<&SecretBytes> {
        self.secrets.get(secret)?.data.get(key)
    }

    fn config_map(&self, name: &Reference) -> Option<&ConfigMap> {
        match &self.config_maps.get(name)?.spec {
            Spec::ConfigMap(map) => Some(map),
            _ => None,
        }
    }
}

fn bundle_of(map: &ConfigMap) -> Option<&[u8]> {
    credential::AUTHORITIES.iter().find_map(|key| map.get(key))
}

/// The certificates of authorities that a ConfigMap holds.
///
/// # Errors
/// Why it cannot be used.
pub(crate) fn check_bundle<'m>(name: &Reference, map: Option<&'m ConfigMap>) -> Result<&'m [u8], String> {
    let map = map.ok_or_else(|| format!("there is no ConfigMap {name}"))?;
    let bundle = bundle_of(map).ok_or_else(|| format!("ConfigMap {name} has no ca.crt"))?;
    credential::check_authorities(bundle).map_err(|why| format!("ca.crt of ConfigMap {name} {why}"))?;
    Ok(bundle)
}

#[cfg(test)]
mod tests;
