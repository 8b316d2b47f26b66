//! What callers see of the mesh: Sidecars. Rules: Istio's `pilot/pkg/model/sidecar.go` and `virtualservice.go`.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use weft_wire::id::Namespace;

use crate::{
    api::{
        mesh::{OutboundTrafficMode, ROOT_NAMESPACE},
        networking::{EgressListener, OutboundTrafficPolicyMode, PortProtocol, Sidecar},
    },
    compile,
    document::{Document, Spec},
    hosts::{HostIndex, HostPattern},
    route::{Client, RuleSet, Target},
    view::{HTTP_PORT, Service},
};

/// All Sidecars, found by whom they are for.
#[derive(Debug, Default)]
pub(crate) struct Scopes {
    by_namespace: HashMap<Namespace, OfNamespace>,
    /// For clients of namespaces that have none.
    of_mesh: Option<Arc<Scope>>,
}

#[derive(Debug, Default)]
struct OfNamespace {
    /// Those with a selector, the oldest first.
    selecting: Vec<Arc<Scope>>,
    /// The oldest of those without.
    default: Option<Arc<Scope>>,
}

/// One Sidecar.
#[derive(Debug)]
pub(crate) struct Scope {
    pub(crate) document: Arc<Document>,
    /// What is seen at these ports.
    by_port: BTreeMap<u16, Imports>,
    /// At all others; `None` is everything.
    elsewhere: Option<Imports>,
    /// What becomes of requests for other hosts; `None` is what the MeshConfig says.
    pub(crate) outbound: Option<OutboundTrafficMode>,
    /// Where they go instead of to the address that they ask for.
    pub(crate) proxy: Option<Target>,
}

/// `hosts` of an egress listener.
#[derive(Debug, Default)]
struct Imports {
    /// Of the client's own namespace.
    own: Hosts,
    by_namespace: HashMap<Namespace, Hosts>,
    anywhere: Hosts,
}

#[derive(Debug, Default)]
struct Hosts {
    all: Vec<HostPattern>,
    index: HostIndex<()>,
}

impl Scopes {
    /// Those of a namespace are added in the order of their age.
    pub(crate) fn add(&mut self, scope: &Arc<Scope>) {
        let namespace = scope.document.namespace();
        let is_root = namespace.as_str() == ROOT_NAMESPACE;
        let of_namespace = self.by_namespace.entry(namespace).or_default();
        match scope.labels() {
            Some(_) => of_namespace.selecting.push(scope.clone()),
            None => {
                let default = of_namespace.default.get_or_insert_with(|| scope.clone());
                if is_root {
                    self.of_mesh = Some(default.clone());
                }
            }
        }
    }

    /// The one that holds for a client.
    pub(crate) fn of(&self, client: Client<'_>) -> Option<&Arc<Scope>> {
        if self.by_namespace.is_empty() {
            return None;
        }
        let own = self.by_namespace.get(client.namespace);
        let selecting = own.and_then(|own| own.selecting.iter().find(|scope| scope.selects(client)));
        selecting.or_else(|| own?.default.as_ref()).or(self.of_mesh.as_ref())
    }
}

impl Scope {
    /// `None` for another kind of document.
    pub(crate) fn read(document: &Arc<Document>) -> Option<Self> {
        let Spec::Sidecar(sidecar) = &document.spec else { return None };
        let policy = sidecar.outbound_traffic_policy.as_ref();
        let proxy = policy.and_then(|policy| policy.egress_proxy.as_ref());
        let mut scope = Self {
            document: document.clone(),
            by_port: BTreeMap::new(),
            elsewhere: (!sidecar.egress.is_empty()).then(Imports::default),
            outbound: policy.map(|policy| match policy.mode {
                Some(OutboundTrafficPolicyMode::AllowAny) => OutboundTrafficMode::AllowAny,
                Some(OutboundTrafficPolicyMode::RegistryOnly) | None => OutboundTrafficMode::RegistryOnly,
            }),
            proxy: proxy.map(|proxy| compile::target(proxy, &document.namespace())),
        };
        for listener in &sidecar.egress {
            if let Some(imports) = scope.imports_of(listener) {
                imports.add(&listener.hosts);
            }
        }
        Some(scope)
    }

    /// What a listener adds to. One for a proxy is for all ports, as weft's own is: nothing is captured here.
    fn imports_of(&mut self, listener: &EgressListener) -> Option<&mut Imports> {
        let number = match &listener.port {
            Some(port) if port.protocol != PortProtocol::HttpProxy => Some(port.number()),
            Some(_) | None => None,
        };
        match number {
            None => self.elsewhere.as_mut(),
            // A Unix socket, which is not served.
            Some(0) => None,
            Some(number) => Some(self.by_port.entry(u16::try_from(number).ok()?).or_default()),
        }
    }

    fn sidecar(&self) -> Option<&Sidecar> {
        match &self.document.spec {
            Spec::Sidecar(sidecar) => Some(sidecar),
            _ => None,
        }
    }

    fn labels(&self) -> Option<&BTreeMap<String, String>> {
        self.sidecar()?.workload_selector.as_ref().map(|selector| &*selector.labels)
    }

    fn selects(&self, client: Client<'_>) -> bool {
        self.labels().is_some_and(|labels| labels.iter().all(|(name, value)| client.label(name) == Some(value)))
    }

    /// What is seen at a port that a client dials; `None` is everything.
    fn imports(&self, port: u16) -> Option<&Imports> {
        self.by_port.get(&port).or(self.elsewhere.as_ref())
    }
}

impl Imports {
    fn add(&mut self, hosts: &[String]) {
        for (namespace, host) in hosts.iter().filter_map(|text| text.split_once('/')) {
            let pattern = HostPattern::verbatim(host);
            match namespace {
                "~" => {}
                "*" => self.anywhere.add(pattern),
                "." => self.own.add(pattern),
                name => {
                    if let Ok(name) = name.parse::<Namespace>() {
                        self.by_namespace.entry(name).or_default().add(pattern);
                    }
                }
            }
        }
    }

    /// Whether one of the lists that are for a namespace takes what is asked.
    fn any(&self, namespace: &Namespace, client: &Namespace, takes: impl Fn(&Hosts) -> bool) -> bool {
        takes(&self.anywhere)
            || (namespace == client && takes(&self.own))
            || self.by_namespace.get(namespace).is_some_and(takes)
    }
}

impl Hosts {
    fn add(&mut self, pattern: HostPattern) {
        self.index.insert(&pattern, ());
        self.all.push(pattern);
    }

    /// Whether all that a host means is meant here; it may be a wildcard as it is written.
    fn cover(&self, host: &str) -> bool {
        self.index.matching(host).next().is_some()
    }

    /// Whether a VirtualService's host and one of these mean the same in part, as in Istio.
    fn overlap(&self, host: &HostPattern) -> bool {
        match host {
            HostPattern::Exact(name) => self.cover(name),
            wildcard => self.all.iter().any(|own| own.overlaps(wildcard)),
        }
    }
}

/// What one client sees.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sight<'a> {
    pub(crate) namespace: &'a Namespace,
    /// `None` sees everything.
    pub(crate) scope: Option<&'a Scope>,
    /// The port that the client dials, if it names one.
    pub(crate) port: Option<u16>,
}

impl<'a> Sight<'a> {
    /// Of one who sees everything: the proxy itself.
    pub(crate) fn of_all(namespace: &'a Namespace) -> Self {
        Self { namespace, scope: None, port: None }
    }

    pub(crate) fn includes(&self, service: &Service) -> bool {
        let Some(scope) = self.scope else { return true };
        let port = self.port.or_else(|| service.port(None).map(|only| only.port)).unwrap_or(HTTP_PORT);
        let Some(imports) = scope.imports(port) else { return true };
        imports.any(service.id.namespace(), self.namespace, |hosts| hosts.cover(&service.fqdn))
    }

    pub(crate) fn includes_rules(&self, rules: &RuleSet) -> bool {
        let Some(scope) = self.scope else { return true };
        let Some(imports) = scope.imports(self.port.unwrap_or(HTTP_PORT)) else { return true };
        let of_namespace =
            |home| imports.any(home, self.namespace, |hosts| rules.hosts.iter().any(|host| hosts.overlap(host)));
        rules.namespace.as_ref().is_none_or(of_namespace)
    }
}
