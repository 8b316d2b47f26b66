//! The Gateway API's Gateways: listeners with the routes that attach to them.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use weft_wire::document::DocumentKey;

use super::{HostKey, nodes_with};
use crate::{
    api::{
        gateway::{Gateway as GatewaySpec, ParentReference, TlsMode},
        networking::ServerTlsMode,
    },
    compile::gateway_api::{
        attach::{Referent, may_refer},
        listeners::{Documents, Listener as ReadListener},
        mesh::{by_age, tcp_rules},
        route::{Attached, ParentKind, Route},
        rules::{grpc_rules, http_rules},
    },
    document::{Document, Spec},
    endpoint::Place,
    gateway::{Chain, Gateway, GatewayHost, Listener, ListenerProtocol, ListenerTls, Port},
    hosts::{HostIndex, HostPattern},
    matcher::Fields,
    route::{ConnectionMatch, HttpRules, RuleSet, TlsMatch, TlsRule},
    secrets::{GATEWAY_NAME_LABEL, Reference},
};

/// Hosts with the routes that they are made of.
type Hosts = HashMap<HostKey, (Vec<Arc<Route>>, Arc<GatewayHost>)>;

/// Compiles the gateways of the classes that are served here. `known` are the hosts of the view before.
pub(super) fn compile(
    documents: &[Arc<Document>],
    routes: &[Arc<Route>],
    places: &[Arc<Place>],
    known: &Hosts,
) -> (Vec<Gateway>, Hosts) {
    let documents = Documents::new(documents);
    let mut by_gateway: HashMap<&DocumentKey, Vec<(&Arc<Route>, &ParentReference)>> = HashMap::new();
    for route in routes {
        for parent in route.parents() {
            if let Some((gateway, _)) = documents.gateway(&route.document, parent) {
                by_gateway.entry(&gateway.key).or_default().push((route, parent));
            }
        }
    }
    let mut hosts = Hosts::new();
    let mut gateways = Vec::new();
    for document in documents.all() {
        let Spec::K8sGateway(spec) = &document.spec else { continue };
        if documents.serves_class(&spec.gateway_class_name) {
            let routes = by_gateway.get(&document.key).map_or(&[][..], Vec::as_slice);
            gateways.push(gateway(document, spec, routes, places, &documents, known, &mut hosts));
        }
    }
    (gateways, hosts)
}

fn gateway(
    document: &Arc<Document>,
    spec: &GatewaySpec,
    routes: &[(&Arc<Route>, &ParentReference)],
    places: &[Arc<Place>],
    documents: &Documents<'_>,
    known: &Hosts,
    made: &mut Hosts,
) -> Gateway {
    let read = documents.listeners(document, spec);
    let mut by_host: Vec<BTreeMap<HostPattern, Vec<Arc<Route>>>> = read.iter().map(|_| BTreeMap::new()).collect();
    for (route, parent) in routes {
        for (place, names) in documents.attach(&route.document, parent, &read).unwrap_or_default() {
            let Some(by_host) = by_host.get_mut(place) else { continue };
            let names = if names.is_empty() { vec!["*".to_owned()] } else { names };
            for name in names {
                let of_host = by_host.entry(HostPattern::verbatim(&name)).or_default();
                if !of_host.iter().any(|known| Arc::ptr_eq(known, route)) {
                    of_host.push(Arc::clone(route));
                }
            }
        }
    }
    let mut ports: BTreeMap<u16, HostIndex<Arc<Chain>>> = BTreeMap::new();
    let mut listeners = Vec::new();
    for (listener, by_host) in read.iter().zip(by_host) {
        let mut attached: Vec<DocumentKey> =
            by_host.values().flatten().map(|route| route.document.key.clone()).collect();
        attached.sort_unstable();
        attached.dedup();
        let compiled = Listener {
            owner: listener.owner.key.clone(),
            name: listener.spec.name().to_string(),
            port: listener.spec.port().and_then(|port| u16::try_from(port).ok()).unwrap_or_default(),
            protocol: protocol(listener),
            conflict: listener.conflict,
            attached,
        };
        if compiled.conflict.is_none() && compiled.protocol != ListenerProtocol::Unsupported && compiled.port > 0 {
            let name = listener.spec.hostname().map_or("*", |name| name);
            let chain = chain(listener, &compiled, by_host, documents, known, made);
            ports.entry(compiled.port).or_default().insert(&HostPattern::verbatim(name), Arc::new(chain));
        }
        listeners.push(compiled);
    }
    let ports = ports.into_iter().map(|(number, chains)| Port { number, bind: String::new(), chains });
    Gateway {
        key: document.key.clone(),
        client_namespace: document.namespace(),
        nodes: nodes_with(places, |labels| labels.get(GATEWAY_NAME_LABEL) == Some(&document.key.name)),
        listeners,
        ports: ports.collect(),
    }
}

fn protocol(listener: &ReadListener<'_>) -> ListenerProtocol {
    let passes = listener.spec.tls().is_some_and(|tls| tls.mode == TlsMode::Passthrough);
    match (listener.protocol.as_str(), passes) {
        ("HTTP", _) => ListenerProtocol::Http,
        ("HTTPS", false) => ListenerProtocol::Https,
        ("TLS", true) => ListenerProtocol::Passthrough,
        ("TLS", false) => ListenerProtocol::Tls,
        ("TCP", _) => ListenerProtocol::Tcp,
        _ => ListenerProtocol::Unsupported,
    }
}

fn chain(
    listener: &ReadListener<'_>,
    compiled: &Listener,
    by_host: BTreeMap<HostPattern, Vec<Arc<Route>>>,
    documents: &Documents<'_>,
    known: &Hosts,
    made: &mut Hosts,
) -> Chain {
    let mut chain = Chain {
        listeners: vec![(compiled.owner.clone(), compiled.name.clone())],
        protocol: compiled.protocol,
        tls: tls(listener, compiled.protocol, documents).map(Arc::new),
        hosts: HostIndex::default(),
        connections: Vec::new(),
    };
    if !matches!(compiled.protocol, ListenerProtocol::Http | ListenerProtocol::Https) {
        chain.connections.extend(connections(by_host));
        return chain;
    }
    for (name, routes) in by_host {
        let key = (compiled.owner.clone(), compiled.name.clone(), name.clone());
        let same = known.get(&key).filter(|(known, _)| crate::namespaces::same(known, &routes));
        let host = match same {
            Some((_, host)) => host.clone(),
            None => Arc::new(host(name.clone(), &routes)),
        };
        chain.hosts.insert(&name, host.clone());
        made.insert(key, (routes, host));
    }
    chain
}

fn at_any_port(routes: &[Arc<Route>]) -> Vec<Attached<'_>> {
    routes.iter().map(|route| Attached { route, ports: vec![None], parent: ParentKind::Gateway }).collect()
}

/// All routes of a kind are one list, in which the most precise match decides; those of GRPCRoutes come first.
fn host(name: HostPattern, routes: &[Arc<Route>]) -> GatewayHost {
    let attached = at_any_port(routes);
    let (mut of_grpc, mut of_http) = (Fields::default(), Fields::default());
    let (grpc, http) = (grpc_rules(&attached, &mut of_grpc), http_rules(&attached, &mut of_http));
    let sets = [(grpc, of_grpc), (http, of_http)].into_iter().filter(|(http, _)| !http.is_empty());
    let rules =
        sets.map(|(http, fields)| Arc::new(RuleSet { http: HttpRules::new(http, fields), ..RuleSet::default() }));
    GatewayHost { name, rules: rules.collect(), redirects_to_https: false }
}

/// The rules of TLSRoutes and TCPRoutes.
fn connections(by_host: BTreeMap<HostPattern, Vec<Arc<Route>>>) -> Option<Arc<RuleSet>> {
    let mut rules = RuleSet::default();
    for (name, routes) in by_host {
        let attached = at_any_port(&routes);
        rules.tcp.extend(tcp_rules(&attached));
        for one in by_age(&attached) {
            let Spec::TlsRoute(route) = &one.route.document.spec else { continue };
            rules.tls.extend(route.rules.iter().map(|rule| TlsRule {
                matches: vec![TlsMatch { connection: ConnectionMatch::default(), server_names: vec![name.clone()] }],
                destinations: one.connection_targets(rule),
            }));
        }
    }
    (!rules.tcp.is_empty() || !rules.tls.is_empty()).then(|| Arc::new(rules))
}

/// How TLS ends here, if it does: with the certificates that the listener may name.
fn tls(listener: &ReadListener<'_>, protocol: ListenerProtocol, documents: &Documents<'_>) -> Option<ListenerTls> {
    let ends = matches!(protocol, ListenerProtocol::Https | ListenerProtocol::Tls);
    let tls = listener.spec.tls().filter(|_| ends)?;
    let own = listener.owner.namespace();
    let key = &listener.owner.key;
    let from = Referent { group: &key.group, kind: &key.kind, namespace: &own, name: &key.name };
    let credentials = tls.certificate_refs.iter().filter_map(|reference| {
        let namespace = reference.namespace.as_ref().unwrap_or(&own);
        let to = Referent { group: &reference.group, kind: &reference.kind, namespace, name: &reference.name };
        let grants = documents.grants().iter().map(|one| (&one.namespace, one.grant));
        may_refer(from, to, grants).then(|| Reference::new(namespace, &reference.name))
    });
    Some(ListenerTls {
        mode: ServerTlsMode::Simple,
        credentials: credentials.collect(),
        authorities: Vec::new(),
        files: Vec::new(),
        min_version: None,
        max_version: None,
        cipher_suites: Vec::new(),
        subject_alt_names: Vec::new(),
    })
}
