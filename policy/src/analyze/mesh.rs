//! What there is, by kind, as the rules ask for it.

use std::{borrow::Cow, collections::BTreeMap};

use weft_wire::id::Namespace;

use super::{
    host::{Host, Hosts, Scope},
    input::{Content, Input, Subject, inside, texts},
};
use crate::{
    api::{
        core::{ContentHead, Service},
        mesh::MeshConfig,
        networking::{DestinationRule, Gateway, ServiceEntry, Sidecar, VirtualService},
        security::{AuthorizationPolicy, RequestAuthentication},
        target::ROOT_NAMESPACE,
        telemetry::Telemetry,
    },
    document::{Spec, tree::Node},
    hosts::HostPattern,
};

/// Names the namespaces that see a Service.
const EXPORT_TO_ANNOTATION: &str = "networking.istio.io/exportTo";
/// Whether a workload has a proxy; a label or an annotation.
const INJECT: &str = "sidecar.istio.io/inject";
/// The ports of the gateway that is supposed where files do not tell of one.
const DEFAULT_GATEWAY_PORTS: [u16; 5] = [80, 443, 15021, 15443, 31400];

/// Those of an endpoint that nobody describes.
static NO_LABELS: BTreeMap<String, String> = BTreeMap::new();

/// A document with what it says.
pub(super) type Item<'m, T> = (&'m Subject, &'m T);

/// Everything by kind, in order of namespace and name.
#[derive(Debug, Default)]
pub(super) struct Mesh<'m> {
    pub(super) virtual_services: Vec<Item<'m, VirtualService>>,
    pub(super) destination_rules: Vec<Item<'m, DestinationRule>>,
    pub(super) gateways: Vec<Item<'m, Gateway>>,
    pub(super) service_entries: Vec<Item<'m, ServiceEntry>>,
    pub(super) services: Vec<Item<'m, Service>>,
    pub(super) secrets: Vec<(&'m Subject, Cow<'m, ContentHead>)>,
    pub(super) sidecars: Vec<Item<'m, Sidecar>>,
    pub(super) telemetries: Vec<Item<'m, Telemetry>>,
    pub(super) authorization_policies: Vec<Item<'m, AuthorizationPolicy>>,
    pub(super) request_authentications: Vec<Item<'m, RequestAuthentication>>,
    pub(super) mesh_configs: Vec<Item<'m, MeshConfig>>,
    /// Labels of each namespace that is known.
    pub(super) namespaces: BTreeMap<Namespace, Cow<'m, BTreeMap<String, String>>>,
    pub(super) workloads: Vec<Workload<'m>>,
    pub(super) hosts: Hosts<'m>,
}

/// Processes that are alike.
#[derive(Debug)]
pub(super) struct Workload<'m> {
    /// What describes them; nothing if nodes announce them, or they are supposed.
    pub(super) subject: Option<&'m Subject>,
    pub(super) name: String,
    pub(super) namespace: Namespace,
    pub(super) labels: BTreeMap<String, String>,
    /// Whether they take part in the mesh.
    pub(super) in_mesh: bool,
    /// Whether the mesh reaches them without a proxy of their own.
    pub(super) is_ambient: bool,
    pub(super) open: OpenPorts,
}

/// Ports on which workloads are reached though no Service says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OpenPorts {
    These(&'static [u16]),
    /// Those that Gateways ask for.
    All,
}

impl Workload<'_> {
    pub(super) fn is_selected(&self, selector: &BTreeMap<String, String>) -> bool {
        selector.iter().all(|(key, value)| self.labels.get(key) == Some(value))
    }
}

impl<'m> Mesh<'m> {
    pub(super) fn of(input: &'m Input) -> Self {
        let mut mesh = Self::default();
        for subject in input.subjects.values() {
            let Content::Spec(spec) = &subject.content else { continue };
            match spec {
                Spec::VirtualService(spec) => mesh.virtual_services.push((subject, spec)),
                Spec::DestinationRule(spec) => mesh.destination_rules.push((subject, spec)),
                Spec::IstioGateway(spec) => mesh.gateways.push((subject, spec)),
                Spec::ServiceEntry(spec) => mesh.service_entries.push((subject, spec)),
                Spec::Service(spec) => mesh.services.push((subject, spec)),
                Spec::Secret(spec) => mesh.secrets.push((subject, Cow::Owned(ContentHead::of(spec)))),
                Spec::SecretHead(spec) => mesh.secrets.push((subject, Cow::Borrowed(&spec.content))),
                Spec::Sidecar(spec) => mesh.sidecars.push((subject, spec)),
                Spec::Telemetry(spec) => mesh.telemetries.push((subject, spec)),
                Spec::AuthorizationPolicy(spec) => mesh.authorization_policies.push((subject, spec)),
                Spec::RequestAuthentication(spec) => mesh.request_authentications.push((subject, spec)),
                Spec::MeshConfig(spec) => mesh.mesh_configs.push((subject, spec)),
                Spec::Namespace(_) => {
                    if let Ok(name) = subject.key.name.parse() {
                        mesh.namespaces.insert(name, Cow::Borrowed(&subject.labels));
                    }
                }
                _ => {}
            }
        }
        mesh.add_workloads(input);
        mesh.add_namespaces(input);
        mesh.add_hosts(input);
        mesh
    }

    fn add_workloads(&mut self, input: &'m Input) {
        for subject in input.subjects.values().filter(|subject| matches!(subject.content, Content::Workload)) {
            self.workloads.push(self.workload_of(subject, input));
        }
        for subject in input.subjects.values() {
            let Content::Spec(Spec::WorkloadEntry(entry)) = &subject.content else { continue };
            self.workloads.push(Workload {
                subject: None,
                name: subject.key.name.clone(),
                namespace: subject.namespace(),
                labels: subject.labels.iter().chain(entry.labels.iter()).map(owned).collect(),
                in_mesh: true,
                is_ambient: false,
                open: OpenPorts::These(&[]),
            });
        }
        for (name, service) in &input.announced {
            self.workloads.extend(service.endpoints.iter().map(|labels| Workload {
                subject: None,
                name: name.name.to_string(),
                namespace: name.namespace.clone(),
                labels: labels.clone(),
                in_mesh: true,
                is_ambient: false,
                open: OpenPorts::These(&[]),
            }));
        }
        let Ok(root) = ROOT_NAMESPACE.parse::<Namespace>() else { return };
        self.workloads.extend(input.nodes.iter().map(|(name, labels)| Workload {
            subject: None,
            name: name.clone(),
            namespace: root.clone(),
            labels: labels.clone(),
            in_mesh: true,
            is_ambient: false,
            open: OpenPorts::All,
        }));
        if !input.is_mesh {
            // As istioctl does: files rarely tell of the gateway that they are written for.
            let label = |key: &str, value: &str| (key.to_owned(), value.to_owned());
            self.workloads.push(Workload {
                subject: None,
                name: "istio-ingressgateway".into(),
                namespace: root,
                labels: [label("app", "istio-ingressgateway"), label("istio", "ingressgateway")].into(),
                in_mesh: true,
                is_ambient: false,
                open: OpenPorts::These(&DEFAULT_GATEWAY_PORTS),
            });
        }
    }

    fn workload_of(&self, subject: &'m Subject, input: &Input) -> Workload<'m> {
        let template = match subject.key.kind.as_str() {
            "Pod" => Some(&subject.tree),
            "CronJob" => inside(&subject.tree, &["spec", "jobTemplate", "spec", "template"]),
            _ => inside(&subject.tree, &["spec", "template"]),
        };
        let metadata = |key: &str| template.map(|tree| texts(tree, &["metadata", key])).unwrap_or_default();
        let (mut labels, annotations) = (metadata("labels"), metadata("annotations"));
        let is_refused = |texts: &BTreeMap<String, String>| texts.get(INJECT).is_some_and(|value| value == "false");
        let in_mesh = !is_refused(&labels) && !is_refused(&annotations);
        let host = template.and_then(|tree| inside(tree, &["spec", "nodeName"])).and_then(Node::text);
        if let Some(host) = host {
            labels.extend(host_labels(host, input));
        }
        Workload {
            subject: Some(subject),
            name: subject.key.name.clone(),
            namespace: subject.namespace(),
            labels,
            in_mesh,
            is_ambient: annotations.get("ambient.istio.io/redirection").is_some_and(|value| value == "enabled"),
            open: OpenPorts::These(&[]),
        }
    }

    /// Namespaces need not be declared: those of services and workloads are there.
    fn add_namespaces(&mut self, input: &Input) {
        let services = self.services.iter().map(|(subject, _)| subject.namespace());
        let workloads = self.workloads.iter().map(|workload| workload.namespace.clone());
        let announced = input.announced.keys().map(|name| name.namespace.clone());
        let known: Vec<Namespace> = services.chain(workloads).chain(announced).collect();
        for namespace in known {
            self.namespaces.entry(namespace).or_default();
        }
    }

    fn add_hosts(&mut self, input: &'m Input) {
        for (name, service) in &input.announced {
            let (ports, endpoints) = (service.ports.iter().copied().collect(), service.endpoints.iter().collect());
            let host = Host { ports, endpoints, ..Host::default() };
            self.hosts.add(&[Scope::All], &HostPattern::Exact(name.fqdn()), &host);
        }
        for (subject, entry) in &self.service_entries {
            let endpoints = match (entry.endpoints(), &entry.workload_selector) {
                ([], None) => vec![&NO_LABELS],
                (given, _) => given.iter().map(|endpoint| &endpoint.labels.0).collect(),
            };
            let host = Host {
                ports: entry.ports.iter().map(|port| port.number.number()).collect(),
                selector: entry.workload_selector.as_ref().map(|selector| &selector.labels),
                namespace: Some(subject.namespace()),
                endpoints,
            };
            let scopes = Scope::of_field(&entry.export_to, &subject.namespace());
            for pattern in entry.hosts.iter().filter_map(|text| HostPattern::read(text, &subject.namespace()).ok()) {
                self.hosts.add(&scopes, &pattern, &host);
            }
        }
        for (subject, service) in &self.services {
            let announced = input
                .announced
                .iter()
                .filter(|(name, _)| name.name.as_str() == subject.key.name && name.namespace == subject.namespace());
            let host = Host {
                ports: service.ports.iter().map(|port| port.port.number()).collect(),
                selector: Some(&service.selector),
                namespace: Some(subject.namespace()),
                endpoints: announced.flat_map(|(_, announced)| &announced.endpoints).collect(),
            };
            let scopes = match subject.annotations.get(EXPORT_TO_ANNOTATION).filter(|text| !text.is_empty()) {
                Some(text) => Scope::of_export_to(text.split(',').map(str::trim), &subject.namespace()),
                None => vec![Scope::All],
            };
            if let Ok(pattern) = HostPattern::read(&subject.key.name, &subject.namespace()) {
                self.hosts.add(&scopes, &pattern, &host);
            }
        }
    }

    /// The Gateway that a document of `namespace` means by `NAME` or `NAMESPACE/NAME`.
    pub(super) fn gateway(&self, text: &str, namespace: &Namespace) -> Option<&Item<'m, Gateway>> {
        let (namespace, name) = text.split_once('/').unwrap_or((namespace.as_str(), text));
        self.gateways.iter().find(|(subject, _)| subject.key.name == name && subject.namespace().as_str() == namespace)
    }

    /// Whether workloads of a namespace are reached without a proxy of their own, by its labels.
    pub(super) fn is_ambient(&self, namespace: &Namespace) -> bool {
        self.namespaces.get(namespace).is_some_and(|labels| {
            labels.get("istio.io/dataplane-mode").is_some_and(|mode| mode == "ambient")
                && labels.get("istio-injection").is_none_or(|injection| injection != "enabled")
                && !labels.contains_key("istio.io/rev")
        })
    }
}

fn owned((key, value): (&String, &String)) -> (String, String) {
    (key.clone(), value.clone())
}

/// What the labels of a host add to those of its workloads.
fn host_labels(host: &str, input: &Input) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::from([("kubernetes.io/hostname".to_owned(), host.to_owned())]);
    let found =
        input.subjects.values().find(|subject| matches!(subject.content, Content::Host) && subject.key.name == host);
    let topology = ["topology.kubernetes.io/region", "topology.kubernetes.io/zone", "topology.istio.io/subzone"];
    for (key, value) in found.iter().flat_map(|subject| &subject.labels) {
        if topology.contains(&key.as_str()) {
            labels.insert(key.clone(), value.clone());
        }
    }
    labels
}
