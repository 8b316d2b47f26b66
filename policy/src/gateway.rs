//! Gateways: what documents say to clients outside of the mesh, compiled. The proxy has no listeners for them yet.
//!
//! A gateway opens [`Port`]s. On each a [`Chain`] is chosen by the name that the client's TLS asks for, or by the host
//! of its request; in a chain of HTTP a [`GatewayHost`] by the host of the request, and there its rules are tried as
//! those of services are.

use std::{collections::BTreeMap, fmt, sync::Arc};

use weft_wire::{
    document::DocumentKey,
    id::{Namespace, NodeName},
};

use crate::{
    api::{
        gateway::GROUP,
        networking::{ServerTlsMode, TlsProtocol},
    },
    compile::GatewayIngredients,
    hosts::{self, HostIndex, HostPattern},
    route::{Query, Recorder, RequestHead, RuleSet, Ruling},
    secrets::Reference,
};

/// Why nothing of a gateway is in force, and of routes nothing that is for gateways.
pub const NOT_SERVED: &str =
    "no gateway listeners yet: weft reads, judges and compiles gateways, and does not serve them";

/// All gateways of a mesh.
#[derive(Debug, Default)]
pub(crate) struct Gateways {
    pub(crate) all: BTreeMap<DocumentKey, Arc<Gateway>>,
    /// What they were made of.
    pub(crate) ingredients: GatewayIngredients,
}

/// A Gateway, of Istio or of the Gateway API.
#[derive(Debug)]
pub struct Gateway {
    pub key: DocumentKey,
    /// As a client of this namespace it sees services: that of the Gateway, or the root's for those of Istio.
    pub client_namespace: Namespace,
    /// The nodes that are to serve it, sorted.
    pub nodes: Vec<NodeName>,
    /// Its servers or listeners in their order; in the Gateway API then those of its ListenerSets.
    pub listeners: Vec<Listener>,
    /// All that its nodes open, with the ports of other gateways that are served there too.
    pub(crate) ports: Arc<[Port]>,
}

/// One of the servers or listeners of a gateway.
#[derive(Debug)]
pub struct Listener {
    /// The document that it stands in: the Gateway, or a ListenerSet.
    pub owner: DocumentKey,
    pub name: String,
    /// 0 for a Unix socket, and for one that has none yet.
    pub port: u16,
    pub protocol: ListenerProtocol,
    /// Why it is left out.
    pub conflict: Option<Conflict>,
    /// The VirtualServices or routes that it takes, sorted.
    pub attached: Vec<DocumentKey>,
}

/// What becomes of the connections of a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenerProtocol {
    Http,
    /// HTTP in TLS, which ends here.
    Https,
    /// TLS that ends here, with bytes in it.
    Tls,
    /// TLS that goes on as it came, by its server name.
    Passthrough,
    Tcp,
    /// Nothing can be done with it.
    Unsupported,
}

/// Why a listener cannot be beside another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conflict {
    Protocol,
    Hostname,
}

impl fmt::Display for ListenerProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http => "HTTP",
            Self::Https => "HTTPS",
            Self::Tls => "TLS",
            Self::Passthrough => "TLS that passes through",
            Self::Tcp => "TCP",
            Self::Unsupported => "a protocol that is not supported",
        })
    }
}

impl Conflict {
    /// As the Gateway API's conditions name it.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Protocol => "ProtocolConflict",
            Self::Hostname => "HostnameConflict",
        }
    }
}

/// How a listener ends TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerTls {
    pub mode: ServerTlsMode,
    /// Secrets with certificate and key.
    pub credentials: Vec<Reference>,
    /// A Secret or ConfigMaps with the authorities of clients, where these do not stand in the credentials.
    pub authorities: Vec<Reference>,
    /// Files on the gateway's host: certificate and key.
    pub files: Vec<(String, String)>,
    /// `None` is the oldest, or the newest, that is spoken.
    pub min_version: Option<TlsProtocol>,
    pub max_version: Option<TlsProtocol>,
    pub cipher_suites: Vec<String>,
    /// What a client's certificate must name.
    pub subject_alt_names: Vec<String>,
}

/// A port that gateways open.
#[derive(Debug)]
pub struct Port {
    pub number: u16,
    /// The address, or `unix://PATH`; all addresses if empty.
    pub bind: String,
    /// By the name that the client's TLS asks for, or by the host of the request where it sends no TLS.
    pub(crate) chains: HostIndex<Arc<Chain>>,
}

/// What becomes of the connections of a port that ask for some names.
#[derive(Debug)]
pub(crate) struct Chain {
    /// `KIND NAMESPACE/NAME` and the listener, of each that is part of it.
    pub(crate) listeners: Vec<(DocumentKey, String)>,
    pub(crate) protocol: ListenerProtocol,
    pub(crate) tls: Option<Arc<ListenerTls>>,
    /// Of requests.
    pub(crate) hosts: HostIndex<Arc<GatewayHost>>,
    /// Of connections that are not read as HTTP.
    pub(crate) connections: Vec<Arc<RuleSet>>,
}

/// What is done with the requests for a host.
#[derive(Debug)]
pub(crate) struct GatewayHost {
    pub(crate) name: HostPattern,
    /// All rules of all these are one list.
    pub(crate) rules: Vec<Arc<RuleSet>>,
    /// What does not come in TLS is sent there before any rule is asked.
    pub(crate) redirects_to_https: bool,
}

impl Gateways {
    /// The gateways of this name, one at most of each kind.
    pub(crate) fn named<'g>(&'g self, namespace: &str, name: &str) -> impl Iterator<Item = &'g Arc<Gateway>> {
        let is_it = move |gateway: &&Arc<Gateway>| {
            gateway.key.name == name && gateway.key.namespace.as_ref().is_some_and(|own| own.as_str() == namespace)
        };
        self.all.values().filter(is_it)
    }
}

impl Gateway {
    /// Whether it is one of the Gateway API.
    pub fn is_of_gateway_api(&self) -> bool {
        self.key.group == GROUP
    }

    /// Why no node is to serve it, where none is.
    pub fn without_nodes(&self) -> Option<&'static str> {
        self.nodes.is_empty().then_some(match self.is_of_gateway_api() {
            true => "no node has the label gateway.networking.k8s.io/gateway-name with its name",
            false => "its selector has no labels, or some that no node has",
        })
    }

    /// Why it is not in force.
    pub fn not_programmed(&self) -> String {
        match self.without_nodes() {
            Some(why) => format!("{NOT_SERVED}; {why}"),
            None => NOT_SERVED.to_owned(),
        }
    }

    /// The ports that its nodes open.
    pub fn ports(&self) -> &[Port] {
        &self.ports
    }
}

impl Port {
    /// What becomes of a connection that asks for a name, or a request for a host.
    pub(crate) fn chain(&self, name: Option<&str>) -> Option<&Arc<Chain>> {
        match name {
            Some(name) => most_specific(&self.chains, name),
            None => self.chains.for_all().next(),
        }
    }
}

impl Chain {
    /// What is done with the requests for a host.
    pub(crate) fn host(&self, host: &str) -> Option<&Arc<GatewayHost>> {
        most_specific(&self.hosts, host)
    }
}

fn most_specific<'i, T>(index: &'i HostIndex<T>, host: &str) -> Option<&'i T> {
    hosts::with_lower_case(host, |host| index.matching(host).next()).flatten()
}

impl<'v> Query<'v, '_> {
    /// By the rules for a host of a gateway, in which the port is the gateway's.
    pub(crate) fn at_gateway(
        &self,
        host: &'v GatewayHost,
        head: &RequestHead<'_>,
        recorder: &mut impl Recorder<'v>,
    ) -> Ruling<'v> {
        match host.redirects_to_https && head.scheme == "http" {
            true => Ruling::Matched(self.over_https(head)),
            false => self.by_all_rules(&host.rules, head, recorder),
        }
    }
}

/// Whether a node with these labels serves the gateways of an Istio Gateway's selector. An empty one means no node in
/// particular.
pub(crate) fn selects_node(selector: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> bool {
    !selector.is_empty() && selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}
