//! VirtualServices as gateways read them.

use std::sync::Arc;

use weft_wire::id::Namespace;

use crate::{
    api::{
        networking::{MESH_GATEWAY, VirtualService, gateway_name},
        target::ROOT_NAMESPACE,
        values::StringMatch,
    },
    compile::{
        audience::Audience,
        rules::{WrittenRule, rule_set, written_rules},
    },
    document::{Document, Spec},
    hosts::HostPattern,
    matcher::{ClientMatch, Fields, RequestMatch},
    namespaces::Visibility,
    route::{HttpRule, HttpRules, NamedMatch, RuleSet},
};

/// A VirtualService that names gateways.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(crate) document: Arc<Document>,
    pub(crate) namespace: Namespace,
    pub(crate) hosts: Vec<HostPattern>,
    /// Namespace and name of each.
    pub(crate) gateways: Vec<(String, String)>,
    /// Gateways of Istio are of the root namespace: whether these see it.
    pub(crate) is_visible: bool,
    /// The documents that it delegates to.
    delegates: Vec<Option<Arc<Document>>>,
    /// What it says at each of its gateways, if no condition asks at which.
    shared: Option<BoundRules>,
}

/// What a VirtualService says at a gateway.
#[derive(Clone, Debug)]
pub(super) struct BoundRules {
    pub(super) rules: Arc<RuleSet>,
    /// Those that match every request: they are tried after the rules of all other VirtualServices.
    pub(super) last: Option<Arc<RuleSet>>,
}

impl Bound {
    /// `None` for one that names no gateways. `delegates` are the documents that it delegates to.
    pub(in crate::compile) fn read(
        document: &Arc<Document>,
        service: &VirtualService,
        delegates: &[Option<Arc<Document>>],
    ) -> Option<Self> {
        let namespace = document.namespace();
        let named = service.gateways.iter().filter(|name| *name != MESH_GATEWAY);
        let gateways: Vec<(String, String)> = named
            .map(|name| gateway_name(name, namespace.as_str()))
            .map(|(namespace, name)| (namespace.to_owned(), name.to_owned()))
            .collect();
        if gateways.is_empty() || service.is_delegate() {
            return None;
        }
        let mut bound = Self {
            hosts: service.hosts.iter().filter_map(|host| host_of(host, &namespace)).collect(),
            is_visible: Visibility::read(&service.export_to, &namespace).includes(ROOT_NAMESPACE.parse().ok().as_ref()),
            document: document.clone(),
            namespace,
            gateways,
            delegates: delegates.to_vec(),
            shared: None,
        };
        if !bound.asks_for_gateway(service) {
            let no_labels = Default::default();
            bound.shared = bound.compile(Audience::Gateway { namespace: "", name: "", selector: &no_labels });
        }
        Some(bound)
    }

    /// What it says at one of its gateways.
    pub(super) fn rules(&self, at: Audience<'_>) -> Option<BoundRules> {
        self.shared.clone().or_else(|| self.compile(at))
    }

    fn asks_for_gateway(&self, service: &VirtualService) -> bool {
        let http = written_rules(&self.document, service, &self.delegates);
        let tls = service.tls.iter().flat_map(|rule| &rule.matches).map(|one| &one.gateways);
        let tcp = service.tcp.iter().flat_map(|rule| &rule.matches).map(|one| &one.gateways);
        http.iter()
            .flat_map(WrittenRule::matches)
            .any(|one| !one.gateways.is_empty() || !one.source_labels.is_empty() || !one.source_namespace.is_empty())
            || tls.chain(tcp).any(|gateways| !gateways.is_empty())
    }

    fn compile(&self, at: Audience<'_>) -> Option<BoundRules> {
        let Spec::VirtualService(service) = &self.document.spec else { return None };
        let (mut http, mut last, mut fields) = (Vec::new(), Vec::new(), Fields::default());
        for rule in written_rules(&self.document, service, &self.delegates) {
            let mut conditions = rule.conditions(at, &mut fields);
            // What is written after a condition that always holds is never asked.
            let always = |one: &NamedMatch| matches_all(&one.request) && one.request.client == ClientMatch::default();
            let end = conditions.iter().position(always);
            conditions.truncate(end.map_or(conditions.len(), |end| end + 1));
            let (of_all, of_some) = conditions.into_iter().partition(|one| matches_all(&one.request));
            http.extend(compiled(&rule, of_some));
            last.extend(compiled(&rule, of_all));
            if end.is_some() {
                break;
            }
        }
        let rules = rule_set(&self.document, service, http, fields, at);
        // Their conditions read no field.
        let (hosts, visible) = (rules.hosts.clone(), rules.visible.clone());
        let last = RuleSet {
            hosts,
            visible,
            http: HttpRules::new(last, Fields::default()),
            created: rules.created,
            ..RuleSet::default()
        };
        Some(BoundRules { rules: Arc::new(rules), last: (!last.http.is_empty()).then(|| Arc::new(last)) })
    }
}

fn compiled(rule: &WrittenRule<'_>, conditions: Vec<NamedMatch>) -> Option<HttpRule> {
    if conditions.is_empty() { None } else { rule.compile(conditions) }
}

/// Whether every request of the right port is matched.
fn matches_all(request: &RequestMatch) -> bool {
    let by_path = match request.uri.as_ref().map(|uri| &uri.value) {
        None | Some(StringMatch::Any) => true,
        Some(StringMatch::Prefix(prefix)) => prefix == "/",
        Some(StringMatch::Regex(pattern)) => pattern.0.source() == ".*",
        Some(StringMatch::Exact(_) | StringMatch::Suffix(_)) => false,
    };
    by_path && request.values.is_empty()
}

/// A host of a VirtualService. At a gateway clients may ask for an address, as requests write it.
fn host_of(text: &str, namespace: &Namespace) -> Option<HostPattern> {
    match text.parse::<std::net::Ipv6Addr>() {
        Ok(address) => Some(HostPattern::Exact(format!("[{address}]"))),
        Err(_) => HostPattern::read(text, namespace).ok(),
    }
}
