//! Why a request from outside of the mesh goes where it goes, once a gateway has it.

use std::sync::Arc;

use http::{HeaderMap, Method};
use weft_wire::id::Namespace;

use super::{Notes, Outcome, RouteExplanation, Steps, conclude, host_and_port};
use crate::{
    gateway::{Chain, Gateway, ListenerProtocol, NOT_SERVED, Port},
    route::{Callee, Client, Query, RequestHead, Ruling, Target, Weighted},
    view::MeshView,
};

/// What one wants to know of.
#[derive(Clone, Copy, Debug)]
pub struct GatewayQuestion<'q> {
    /// `NAME`, `NAMESPACE/NAME`, or `GROUP/NAMESPACE/NAME` where Gateways of both projects have the name.
    pub gateway: &'q str,
    /// Where a gateway without namespace is at home.
    pub namespace: &'q Namespace,
    /// Host, and port if it is not the one of the scheme.
    pub to: &'q str,
    pub method: &'q Method,
    pub path_and_query: &'q str,
    /// Says the port where none is given.
    pub scheme: &'q str,
    pub headers: &'q HeaderMap,
    /// Milliseconds on the clock of endpoints' load counters.
    pub now_ms: u64,
}

/// Routes a request that nobody sends to a gateway.
///
/// # Errors
/// There is no such gateway, or several.
pub fn explain_gateway(view: &MeshView, question: &GatewayQuestion<'_>) -> Result<RouteExplanation, String> {
    let mut steps = Steps::default();
    let gateway = gateway_named(view, question)?;
    steps.of_gateway(gateway);
    let (host, port) = host_and_port(question.to)?;
    let ports = gateway.ports();
    let Some(port) = port_of(ports, port, question.scheme) else {
        let known: Vec<String> = ports.iter().map(|port| port.number.to_string()).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        return Ok(steps.closed(format!("the gateway opens no such port; it opens {known}")));
    };
    let Some(chain) = port.chain(Some(host)) else {
        return Ok(steps.closed(format!("no listener of port {} is for {host}", port.number)));
    };
    steps.of_chain(chain, port);
    let client = Client { namespace: &gateway.client_namespace, workload: None };
    let query = Query { view, port: port.number, client, scope: None, random: 0, resumes: true };
    let scheme = match chain.protocol {
        ListenerProtocol::Http => "http",
        ListenerProtocol::Https => "https",
        protocol => {
            let rules = match protocol {
                ListenerProtocol::Passthrough => query.by_server_name(&chain.connections, Callee::default(), host),
                _ => query.by_tcp_rules(&chain.connections, Callee::default()),
            };
            return Ok(steps.connection(&query, rules, question.now_ms));
        }
    };
    let Some(of_host) = chain.host(host) else {
        steps.add("host", format!("{host} is none of the hosts that have rules here"));
        return Ok(steps.answered(404, "no_route".into()));
    };
    steps.add("host", format!("{host} is for the rules of {}", of_host.name));
    let Some(path_and_query) = steps.path(view, question.path_and_query) else {
        return Ok(steps.answered(400, "bad_request".into()));
    };
    let head = RequestHead {
        method: question.method,
        path_and_query: &path_and_query,
        authority: question.to,
        scheme,
        headers: question.headers,
    };
    let mut notes = Notes { steps, query, head: &head, matched: None };
    let ruling = query.at_gateway(of_host, &head, &mut notes);
    let Notes { mut steps, matched: rule, .. } = notes;
    let matched = match ruling {
        Ruling::Matched(matched) => Some(matched),
        Ruling::NoMatch | Ruling::None => None,
    };
    if matched.is_some() && rule.is_none() {
        steps.add("rule", "a server of this port redirects to HTTPS: no rule is asked".into());
    }
    Ok(conclude(&query, matched, rule, steps, question.now_ms))
}

fn gateway_named<'v>(view: &'v MeshView, question: &GatewayQuestion<'_>) -> Result<&'v Gateway, String> {
    let mut parts = question.gateway.rsplitn(3, '/');
    let name = parts.next().unwrap_or_default();
    let namespace = parts.next().unwrap_or(question.namespace.as_str());
    let group = parts.next();
    let mut found = view.gateways.named(namespace, name).filter(|one| group.is_none_or(|group| one.key.group == group));
    match (found.next(), found.next()) {
        (Some(one), None) => Ok(one),
        (None, _) => Err(format!(
            "no Gateway {name} in namespace {namespace} that weft is to serve: `weft get gateways -A` lists all"
        )),
        (Some(one), Some(other)) => Err(format!(
            "there are two Gateways {namespace}/{name}: write {}/{namespace}/{name} or {}/{namespace}/{name}",
            one.key.group, other.key.group
        )),
    }
}

/// The port that a client dials: the given one, the scheme's, or the only one.
fn port_of<'g>(ports: &'g [Port], dialled: Option<u16>, scheme: &str) -> Option<&'g Port> {
    let with = |number: u16| ports.iter().find(|port| port.number == number);
    match (dialled, ports) {
        (Some(port), _) => with(port),
        (None, [only]) => Some(only),
        (None, _) => with(if scheme == "https" { 443 } else { 80 }),
    }
}

impl Steps {
    fn of_gateway(&mut self, gateway: &Gateway) {
        let names: Vec<&str> = gateway.nodes.iter().map(|node| node.as_str()).collect();
        let field = if gateway.is_of_gateway_api() { "" } else { "spec.selector" };
        let nodes = gateway.without_nodes().map_or_else(|| format!("is for {}", names.join(", ")), str::to_owned);
        self.add_key("gateway", &gateway.key, field.to_owned(), nodes);
        self.add("gateway", NOT_SERVED.into());
    }

    fn of_chain(&mut self, chain: &Arc<Chain>, port: &Port) {
        let tls = match chain.tls.as_ref().map(|tls| &tls.credentials[..]) {
            None => String::new(),
            Some([]) => ", which ends TLS".to_owned(),
            Some(credentials) => {
                let names: Vec<String> = credentials.iter().map(ToString::to_string).collect();
                format!(", which ends TLS with {}", names.join(" and "))
            }
        };
        for (document, name) in &chain.listeners {
            let says = format!("port {} is {name} ({}){tls}", port.number, chain.protocol);
            self.add_key("listener", document, String::new(), says);
        }
    }

    /// Of what is not read as HTTP.
    fn connection(mut self, query: &Query<'_, '_>, rules: Option<&Weighted<Target>>, now_ms: u64) -> RouteExplanation {
        let Some(destinations) = rules else {
            return self.closed("no rule for connections is for it".into());
        };
        let shares = self.shares(query, destinations.shares().into_iter(), now_ms);
        RouteExplanation { steps: self.0, outcome: Outcome::Forward, shares }
    }

    fn closed(self, reason: String) -> RouteExplanation {
        RouteExplanation { steps: self.0, outcome: Outcome::Closed { reason }, shares: Vec::new() }
    }
}
