//! VirtualServices: what each says to clients inside the mesh, and to those of gateways, with the documents that it
//! delegates to.

use std::{borrow::Cow, sync::Arc};

use foldhash::HashMap;
use weft_wire::{document::DocumentKey, id::Namespace};

use super::{audience::Audience, lower};
use crate::{
    api::{
        networking::{
            Destination, HttpMatchRequest, HttpMirrorPolicy, HttpRoute, MESH_GATEWAY, VirtualService, gateway_name,
        },
        values::StringMatch,
    },
    document::{Document, Spec},
    fault::FaultInjection,
    hosts::HostPattern,
    matcher::{Fields, RequestMatch},
    namespaces::Visibility,
    route::{HttpRule, HttpRules, NamedMatch, RuleSet},
};

/// For each of its rules the document that it delegates to, if that is there and lets itself be used.
pub(super) fn delegates_of(
    document: &Document,
    service: &VirtualService,
    known: &HashMap<&DocumentKey, &Arc<Document>>,
) -> Vec<Option<Arc<Document>>> {
    let namespace = document.namespace();
    let find = |rule: &HttpRoute| {
        let delegate = rule.delegate.as_ref()?;
        let in_namespace =
            if delegate.namespace.is_empty() { namespace.clone() } else { delegate.namespace.parse().ok()? };
        let key = DocumentKey { name: delegate.name.clone(), namespace: Some(in_namespace), ..document.key.clone() };
        let found = *known.get(&key)?;
        let Spec::VirtualService(rules) = &found.spec else { return None };
        Visibility::read(&rules.export_to, &found.namespace()).includes(Some(&namespace)).then(|| found.clone())
    };
    match service.http.iter().any(|rule| rule.delegate.is_some()) {
        true => service.http.iter().map(find).collect(),
        false => Vec::new(),
    }
}

/// What it says to clients inside the mesh. `delegates` is what [`delegates_of`] found.
pub(super) fn compile(
    document: &Arc<Document>,
    service: &VirtualService,
    delegates: &[Option<Arc<Document>>],
) -> RuleSet {
    let mut fields = Fields::default();
    let mut http = Vec::new();
    for rule in written_rules(document, service, delegates) {
        let conditions = rule.conditions(Audience::Mesh, &mut fields);
        if !conditions.is_empty() {
            http.extend(rule.compile(conditions));
        }
    }
    rule_set(document, service, http, fields, Audience::Mesh)
}

/// A set of these rules, with those of connections for an audience.
pub(super) fn rule_set(
    document: &Document,
    service: &VirtualService,
    http: Vec<HttpRule>,
    fields: Fields,
    audience: Audience<'_>,
) -> RuleSet {
    let namespace = document.namespace();
    RuleSet {
        created: document.created,
        namespace: Some(namespace.clone()),
        hosts: service.hosts.iter().filter_map(|host| HostPattern::read(host, &namespace).ok()).collect(),
        visible: Visibility::read(&service.export_to, &namespace),
        http: HttpRules::new(http, fields),
        tls: service.tls.iter().filter_map(|rule| lower::tls_rule(rule, &namespace, audience)).collect(),
        tcp: service.tcp.iter().filter_map(|rule| lower::tcp_rule(rule, &namespace, audience)).collect(),
    }
}

/// A rule of `http` as it stands in a document.
pub(super) struct WrittenRule<'d> {
    document: &'d Arc<Document>,
    place: usize,
    rule: Cow<'d, HttpRoute>,
}

/// All rules in their order, those that are delegated to in place of those that delegate.
pub(super) fn written_rules<'d>(
    document: &'d Arc<Document>,
    service: &'d VirtualService,
    delegates: &'d [Option<Arc<Document>>],
) -> Vec<WrittenRule<'d>> {
    let namespace = document.namespace();
    let mut all = Vec::new();
    for (place, rule) in service.http.iter().enumerate() {
        if rule.delegate.is_none() {
            all.push(WrittenRule { document, place, rule: Cow::Borrowed(rule) });
        } else if let Some(delegate) = delegates.get(place).and_then(Option::as_ref)
            && let Spec::VirtualService(rules) = &delegate.spec
        {
            let merged = rules.http.iter().map(|delegated| merge(rule, &namespace, delegated));
            all.extend(merged.enumerate().filter_map(|(place, merged)| {
                Some(WrittenRule { document: delegate, place, rule: Cow::Owned(merged?) })
            }));
        }
    }
    all
}

impl WrittenRule<'_> {
    /// What is asked of requests, as it is written.
    pub(super) fn matches(&self) -> &[HttpMatchRequest] {
        &self.rule.matches
    }

    /// Its conditions that an audience could fulfil; one that always holds if it has none.
    pub(super) fn conditions(&self, audience: Audience<'_>, fields: &mut Fields) -> Vec<NamedMatch> {
        let rule = &self.rule;
        if rule.matches.is_empty() {
            let request = RequestMatch::default();
            return vec![NamedMatch { route_name: rule.name.clone(), condition: None, request }];
        }
        let own = self.document.namespace();
        let conditions = rule.matches.iter().enumerate();
        let conditions = conditions.filter(|(_, one)| audience.takes_request(one, &own));
        conditions
            .map(|(condition, one)| {
                let route_name = match one.name.as_str() {
                    "" => rule.name.clone(),
                    name => format!("{}.{name}", rule.name),
                };
                let request = lower::request_match(one, audience, fields);
                NamedMatch { route_name, condition: Some(condition), request }
            })
            .collect()
    }

    /// `None` if it says nothing, which its document's check has refused.
    pub(super) fn compile(&self, matches: Vec<NamedMatch>) -> Option<HttpRule> {
        let Self { document, place, rule } = self;
        let is_forwarded = !rule.route.is_empty();
        Some(HttpRule {
            document: (*document).clone(),
            place: *place,
            matches,
            // As in Envoy, it is nothing to an answer of the proxy's own.
            cors: rule.cors_policy.as_ref().filter(|_| is_forwarded).map(lower::cors),
            authorizers: Vec::new(),
            fault: rule.fault.as_ref().and_then(FaultInjection::new),
            headers: rule.headers.as_ref().map(lower::headers),
            action: lower::action(rule, &document.namespace())?,
        })
    }
}

/// A delegate's rule with what the delegating one says where it is silent; `None` if they ask for different things, so
/// that the rule falls out. `namespace` is the delegating document's.
fn merge(root: &HttpRoute, namespace: &Namespace, delegated: &HttpRoute) -> Option<HttpRoute> {
    let mut merged = delegated.clone();
    merged.matches = merge_matches(&root.matches, &delegated.matches, namespace)?;
    merged.name = join(&root.name, &delegated.name);
    merged.rewrite = merged.rewrite.or_else(|| root.rewrite.clone());
    merged.timeout = merged.timeout.or(root.timeout);
    merged.retries = merged.retries.or_else(|| root.retries.clone());
    merged.fault = merged.fault.or_else(|| root.fault.clone());
    merged.cors_policy = merged.cors_policy.or_else(|| root.cors_policy.clone());
    merged.headers = merged.headers.or_else(|| root.headers.clone());
    // Short names in the root's mirrors are of the root's namespace.
    let in_root = |mirror: &Destination| Destination { host: mirror.fqdn(namespace), ..mirror.clone() };
    merged.mirror = merged.mirror.or_else(|| root.mirror.as_ref().map(in_root));
    merged.mirror_percent = merged.mirror_percent.or(root.mirror_percent);
    merged.mirror_percentage = merged.mirror_percentage.or(root.mirror_percentage);
    if merged.mirrors.is_empty() {
        let mirrors = root.mirrors.iter();
        merged.mirrors = mirrors
            .map(|mirror| HttpMirrorPolicy { destination: in_root(&mirror.destination), ..mirror.clone() })
            .collect();
    }
    Some(merged)
}

fn join(root: &str, delegated: &str) -> String {
    match (root, delegated) {
        ("", name) | (name, "") => name.to_owned(),
        (root, delegated) => format!("{root}-{delegated}"),
    }
}

/// Each condition of the delegate with each of the root's that it narrows; it must narrow at least one. `namespace` is
/// the root's.
fn merge_matches(
    root: &[HttpMatchRequest],
    delegated: &[HttpMatchRequest],
    namespace: &Namespace,
) -> Option<Vec<HttpMatchRequest>> {
    if root.is_empty() {
        return Some(delegated.to_vec());
    }
    // Short names of gateways in the root are of the root's namespace.
    let mut root = root.to_vec();
    for gateway in root.iter_mut().flat_map(|one| &mut one.gateways).filter(|gateway| *gateway != MESH_GATEWAY) {
        let (namespace, name) = gateway_name(gateway, namespace.as_str());
        *gateway = format!("{namespace}/{name}");
    }
    if delegated.is_empty() {
        return Some(root);
    }
    let mut merged = Vec::new();
    for one in delegated {
        let before = merged.len();
        merged.extend(root.iter().filter(|root| narrows(root, one)).map(|root| merge_match(root, one)));
        if merged.len() == before {
            return None;
        }
    }
    Some(merged)
}

fn merge_match(root: &HttpMatchRequest, delegated: &HttpMatchRequest) -> HttpMatchRequest {
    let mut merged = delegated.clone();
    merged.name = join(&root.name, &delegated.name);
    merged.uri = merged.uri.or_else(|| root.uri.clone());
    merged.scheme = merged.scheme.or_else(|| root.scheme.clone());
    merged.method = merged.method.or_else(|| root.method.clone());
    merged.authority = merged.authority.or_else(|| root.authority.clone());
    merged.port = merged.port.or(root.port);
    for (into, from) in [
        (&mut merged.headers, &root.headers),
        (&mut merged.without_headers, &root.without_headers),
        (&mut merged.query_params, &root.query_params),
    ] {
        for (name, wanted) in from {
            into.entry(name.clone()).or_insert_with(|| wanted.clone());
        }
    }
    for (name, value) in &*root.source_labels {
        merged.source_labels.0.entry(name.clone()).or_insert_with(|| value.clone());
    }
    if merged.source_namespace.is_empty() {
        merged.source_namespace.clone_from(&root.source_namespace);
    }
    if merged.gateways.is_empty() {
        merged.gateways.clone_from(&root.gateways);
    }
    merged
}

/// Whether all that the delegate asks for is within what the root asks for.
fn narrows(root: &HttpMatchRequest, delegated: &HttpMatchRequest) -> bool {
    let within = |root: Option<&StringMatch>, leaf: Option<&StringMatch>| match (root, leaf) {
        (Some(root), Some(leaf)) => is_within(root, leaf),
        _ => true,
    };
    let all_within = |root: &std::collections::BTreeMap<String, StringMatch>,
                      leaf: &std::collections::BTreeMap<String, StringMatch>| {
        leaf.iter().all(|(name, leaf)| within(root.get(name), Some(leaf)))
    };
    within(root.uri.as_ref(), delegated.uri.as_ref())
        && within(root.scheme.as_ref(), delegated.scheme.as_ref())
        && within(root.method.as_ref(), delegated.method.as_ref())
        && within(root.authority.as_ref(), delegated.authority.as_ref())
        && all_within(&root.headers, &delegated.headers)
        && all_within(&root.headers, &delegated.without_headers)
        && all_within(&root.query_params, &delegated.query_params)
        && root.ignore_uri_case == delegated.ignore_uri_case
        && (root.port.is_none() || delegated.port.is_none() || root.port == delegated.port)
        && (root.source_namespace.is_empty()
            || delegated.source_namespace.is_empty()
            || root.source_namespace == delegated.source_namespace)
}

/// Istio's rule: regular expressions are never compared.
fn is_within(root: &StringMatch, leaf: &StringMatch) -> bool {
    match (root, leaf) {
        (StringMatch::Exact(root), StringMatch::Exact(leaf)) => root == leaf,
        (StringMatch::Prefix(root), StringMatch::Exact(leaf) | StringMatch::Prefix(leaf)) => leaf.starts_with(root),
        _ => false,
    }
}
