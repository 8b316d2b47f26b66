//! Istio's Gateways that are served on the same nodes: their servers share ports. Istio's rules, `MergeGateways` and
//! `buildGatewayHTTPRouteConfig`.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use weft_wire::id::{Namespace, NodeName};

use super::{
    Bound, nodes_with,
    servers::{ReadServer, gateway_of, read},
};
use crate::{
    api::target::ROOT_NAMESPACE,
    document::Document,
    endpoint::Place,
    gateway::{Chain, Conflict, Gateway, GatewayHost, Listener, ListenerProtocol, Port, selects_node},
    hosts::{HostIndex, HostPattern},
    route::RuleSet,
};

/// Compiles all gateways. Those that one node serves are put together; those that no node serves with the others of the
/// same selector.
pub(super) fn compile(documents: &[Arc<Document>], bound: &[Arc<Bound>], places: &[Arc<Place>]) -> Vec<Gateway> {
    let Ok(client_namespace) = ROOT_NAMESPACE.parse::<Namespace>() else { return Vec::new() };
    let nodes: Vec<Vec<NodeName>> = documents.iter().map(|document| nodes_of(document, places)).collect();
    let mut by_gateway = ByGateway::new();
    for one in bound.iter().filter(|one| one.is_visible) {
        for name in &one.gateways {
            by_gateway.entry(name).or_default().push(one);
        }
    }
    // By the places of the gateways that stand together.
    let mut merged: BTreeMap<Vec<usize>, Merged> = BTreeMap::new();
    let mut gateways = Vec::new();
    for (place, document) in documents.iter().enumerate() {
        let together = |other: &usize| match nodes[place].first() {
            Some(node) => nodes[*other].contains(node),
            None => selector_of(&documents[*other]) == selector_of(document),
        };
        let group: Vec<usize> = (0..documents.len()).filter(together).collect();
        let merged = merged
            .entry(group)
            .or_insert_with_key(|group| Merged::new(group.iter().map(|other| &documents[*other]), &by_gateway));
        gateways.push(Gateway {
            key: document.key.clone(),
            client_namespace: client_namespace.clone(),
            nodes: nodes[place].clone(),
            listeners: listeners(document, merged, &by_gateway),
            ports: merged.ports.clone(),
        });
    }
    gateways
}

fn selector_of(document: &Document) -> Option<&BTreeMap<String, String>> {
    gateway_of(document).map(|gateway| &*gateway.selector)
}

fn nodes_of(document: &Document, places: &[Arc<Place>]) -> Vec<NodeName> {
    match selector_of(document) {
        Some(selector) => nodes_with(places, |labels| selects_node(selector, labels)),
        None => Vec::new(),
    }
}

/// VirtualServices by the namespace and name of a gateway, the oldest first.
type ByGateway<'b> = HashMap<&'b (String, String), Vec<&'b Bound>>;

fn bound_to<'m, 'b>(document: &Document, by_gateway: &'m ByGateway<'b>) -> &'m [&'b Bound] {
    let name = (document.namespace().to_string(), document.key.name.clone());
    by_gateway.get(&name).map_or(&[], Vec::as_slice)
}

/// What the servers of some gateways make together.
struct Merged {
    ports: Arc<[Port]>,
    /// By the address of the server.
    conflicts: HashMap<usize, Conflict>,
}

fn listeners(document: &Arc<Document>, merged: &Merged, by_gateway: &ByGateway<'_>) -> Vec<Listener> {
    let bound = bound_to(document, by_gateway);
    let listener = |server: ReadServer<'_>| {
        let attached = bound.iter().filter(|bound| !server.common_hosts(bound).is_empty());
        let mut attached: Vec<_> = attached.map(|bound| bound.document.key.clone()).collect();
        attached.sort_unstable();
        Listener {
            owner: document.key.clone(),
            name: server.name().to_owned(),
            port: server.port(),
            protocol: server.protocol,
            conflict: merged.conflicts.get(&address(&server)).copied(),
            attached,
        }
    };
    read(document).into_iter().map(listener).collect()
}

fn address(server: &ReadServer<'_>) -> usize {
    std::ptr::from_ref(server.spec).addr()
}

/// A port while servers are added to it.
struct OpenPort<'d> {
    number: u16,
    bind: &'d str,
    servers: Vec<ReadServer<'d>>,
}

impl OpenPort<'_> {
    /// Why a server cannot be here too: only HTTP shares a port with HTTP, and TLS with TLS for other names.
    fn conflict(&self, server: &ReadServer<'_>) -> Option<Conflict> {
        let first = self.servers.first()?;
        let (is_tls, others_tls) = (is_tls(server.protocol), is_tls(first.protocol));
        if is_tls && others_tls {
            let names =
                |server: &'_ ReadServer<'_>, name: &HostPattern| server.hosts.iter().any(|one| one.name == *name);
            let is_taken = |name: &HostPattern| self.servers.iter().any(|other| names(other, name));
            return server.hosts.iter().any(|host| is_taken(&host.name)).then_some(Conflict::Hostname);
        }
        let both_http = server.protocol == ListenerProtocol::Http && first.protocol == ListenerProtocol::Http;
        (!both_http).then_some(Conflict::Protocol)
    }
}

fn is_tls(protocol: ListenerProtocol) -> bool {
    matches!(protocol, ListenerProtocol::Https | ListenerProtocol::Tls | ListenerProtocol::Passthrough)
}

impl Merged {
    /// Of gateways, the oldest first: of servers that exclude each other the first stands.
    fn new<'d>(documents: impl Iterator<Item = &'d Arc<Document>>, by_gateway: &ByGateway<'_>) -> Self {
        let mut open: Vec<OpenPort<'d>> = Vec::new();
        let mut conflicts = HashMap::new();
        for server in documents.flat_map(read) {
            if server.protocol == ListenerProtocol::Unsupported {
                continue;
            }
            let (number, bind) = (server.port(), server.spec.bind.as_str());
            match open.iter_mut().find(|port| port.number == number && port.bind == bind) {
                None => open.push(OpenPort { number, bind, servers: vec![server] }),
                Some(port) => match port.conflict(&server) {
                    Some(conflict) => {
                        conflicts.insert(address(&server), conflict);
                    }
                    None => port.servers.push(server),
                },
            }
        }
        open.sort_by_key(|port| (port.number, port.bind));
        let ports = open.iter().map(|port| Port {
            number: port.number,
            bind: port.bind.to_owned(),
            chains: chains(&port.servers, by_gateway),
        });
        Self { ports: ports.collect(), conflicts }
    }
}

fn chains(servers: &[ReadServer<'_>], by_gateway: &ByGateway<'_>) -> HostIndex<Arc<Chain>> {
    let mut chains = HostIndex::default();
    match servers.first() {
        Some(first) if is_tls(first.protocol) => {
            for server in servers {
                let chain = Arc::new(chain(std::slice::from_ref(server), by_gateway));
                for host in &server.hosts {
                    chains.insert(&host.name, chain.clone());
                }
            }
        }
        // Without TLS nobody knows for whom a connection is: the port is one place.
        Some(_) => chains.insert(&HostPattern::Wildcard(String::new()), Arc::new(chain(servers, by_gateway))),
        None => {}
    }
    chains
}

/// What some servers do together.
fn chain(servers: &[ReadServer<'_>], by_gateway: &ByGateway<'_>) -> Chain {
    let first = servers.first();
    let protocol = first.map_or(ListenerProtocol::Unsupported, |server| server.protocol);
    let is_http = matches!(protocol, ListenerProtocol::Http | ListenerProtocol::Https);
    Chain {
        listeners: servers.iter().map(|server| (server.gateway.key.clone(), server.name().to_owned())).collect(),
        protocol,
        tls: first.and_then(ReadServer::tls),
        hosts: if is_http { hosts(servers, by_gateway) } else { HostIndex::default() },
        connections: if is_http { Vec::new() } else { connections(servers, protocol, by_gateway) },
    }
}

/// A host while rules are added to it.
#[derive(Default)]
struct OpenHost {
    rules: Vec<Arc<RuleSet>>,
    last: Vec<Arc<RuleSet>>,
    redirects_to_https: bool,
}

fn hosts(servers: &[ReadServer<'_>], by_gateway: &ByGateway<'_>) -> HostIndex<Arc<GatewayHost>> {
    let mut open: BTreeMap<&HostPattern, OpenHost> = BTreeMap::new();
    for server in servers {
        let namespace = server.gateway.namespace();
        for bound in bound_to(server.gateway, by_gateway) {
            let common = server.common_hosts(bound);
            let Some(rules) = (!common.is_empty()).then(|| bound.rules(server.audience(&namespace))).flatten() else {
                continue;
            };
            for name in common {
                let host = open.entry(name).or_default();
                host.redirects_to_https |= server.redirects_to_https();
                // Through two servers it comes twice.
                if !host.rules.iter().any(|known| Arc::ptr_eq(known, &rules.rules)) {
                    host.rules.push(rules.rules.clone());
                    host.last.extend(rules.last.clone());
                }
            }
        }
        for host in server.hosts.iter().filter(|_| server.redirects_to_https()) {
            open.entry(&host.name).or_default().redirects_to_https = true;
        }
    }
    let mut hosts = HostIndex::default();
    for (name, OpenHost { mut rules, last, redirects_to_https }) in open {
        rules.extend(last);
        hosts.insert(name, Arc::new(GatewayHost { name: name.clone(), rules, redirects_to_https }));
    }
    hosts
}

/// The rules for connections: of TLS that passes through those by server name, else those for TCP.
fn connections(
    servers: &[ReadServer<'_>],
    protocol: ListenerProtocol,
    by_gateway: &ByGateway<'_>,
) -> Vec<Arc<RuleSet>> {
    let mut all = Vec::new();
    for server in servers {
        let namespace = server.gateway.namespace();
        let bound = bound_to(server.gateway, by_gateway).iter();
        let bound = bound.filter(|bound| !server.common_hosts(bound).is_empty());
        all.extend(bound.filter_map(|bound| bound.rules(server.audience(&namespace))).map(|rules| rules.rules));
    }
    all.retain(|rules| match protocol {
        ListenerProtocol::Passthrough => !rules.tls.is_empty(),
        _ => !rules.tcp.is_empty(),
    });
    all
}
