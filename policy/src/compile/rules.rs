//! VirtualServices: what each says to clients inside the mesh, with the documents that it delegates to.

use std::{collections::HashMap, sync::Arc};

use weft_wire::{document::DocumentKey, id::Namespace};

use super::lower;
use crate::{
    api::{
        networking::{Destination, HttpMatchRequest, HttpMirrorPolicy, HttpRoute, MESH_GATEWAY, VirtualService},
        values::StringMatch,
    },
    document::{Document, Spec},
    fault::FaultInjection,
    hosts::HostPattern,
    matcher::{Fields, RequestMatch},
    namespaces::Visibility,
    route::{HttpRule, NamedMatch, RuleSet},
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

/// `delegates` is what [`delegates_of`] found.
pub(super) fn compile(
    document: &Arc<Document>,
    service: &VirtualService,
    delegates: &[Option<Arc<Document>>],
) -> RuleSet {
    let namespace = document.namespace();
    let mut fields = Fields::default();
    let mut http = Vec::new();
    for (place, rule) in service.http.iter().enumerate() {
        if rule.delegate.is_none() {
            http.extend(http_rule(document, place, rule, &namespace, &mut fields));
        } else if let Some(delegate) = delegates.get(place).and_then(Option::as_ref)
            && let Spec::VirtualService(rules) = &delegate.spec
        {
            for (place, delegated) in rules.http.iter().enumerate() {
                let merged = merge(rule, &namespace, delegated);
                http.extend(
                    merged.and_then(|rule| http_rule(delegate, place, &rule, &delegate.namespace(), &mut fields)),
                );
            }
        }
    }
    RuleSet {
        created: document.created,
        hosts: service.hosts.iter().filter_map(|host| HostPattern::read(host, &namespace).ok()).collect(),
        visible: Visibility::read(&service.export_to, &namespace),
        http,
        fields,
        tls: service.tls.iter().filter_map(|rule| lower::tls_rule(rule, &namespace)).collect(),
        tcp: service.tcp.iter().filter_map(|rule| lower::tcp_rule(rule, &namespace)).collect(),
    }
}

/// Whether a condition is for clients inside the mesh, by the gateways that it names.
pub(super) fn is_for_mesh(gateways: &[String]) -> bool {
    gateways.is_empty() || gateways.iter().any(|gateway| gateway == MESH_GATEWAY)
}

/// `None` if no client inside the mesh could match it.
fn http_rule(
    document: &Arc<Document>,
    place: usize,
    rule: &HttpRoute,
    namespace: &Namespace,
    fields: &mut Fields,
) -> Option<HttpRule> {
    let mut matches: Vec<NamedMatch> = Vec::new();
    if rule.matches.is_empty() {
        let request = RequestMatch::default();
        matches.push(NamedMatch { route_name: rule.name.clone(), condition: None, request });
    }
    for (condition, one) in rule.matches.iter().enumerate().filter(|(_, one)| is_for_mesh(&one.gateways)) {
        let route_name = match one.name.as_str() {
            "" => rule.name.clone(),
            name => format!("{}.{name}", rule.name),
        };
        matches.push(NamedMatch { route_name, condition: Some(condition), request: lower::request_match(one, fields) });
    }
    if matches.is_empty() {
        return None;
    }
    let is_forwarded = !rule.route.is_empty();
    Some(HttpRule {
        document: document.clone(),
        place,
        matches,
        // As in Envoy, it is nothing to an answer of the proxy's own.
        cors: rule.cors_policy.as_ref().filter(|_| is_forwarded).map(lower::cors),
        fault: rule.fault.as_ref().and_then(FaultInjection::new),
        headers: rule.headers.as_ref().map(lower::headers),
        action: lower::action(rule, namespace)?,
    })
}

/// A delegate's rule with what the delegating one says where it is silent; `None` if they ask for different things, so
/// that the rule falls out. `namespace` is the delegating document's.
fn merge(root: &HttpRoute, namespace: &Namespace, delegated: &HttpRoute) -> Option<HttpRoute> {
    let mut merged = delegated.clone();
    merged.matches = merge_matches(&root.matches, &delegated.matches)?;
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

/// Each condition of the delegate with each of the root's that it narrows; it must narrow at least one.
fn merge_matches(root: &[HttpMatchRequest], delegated: &[HttpMatchRequest]) -> Option<Vec<HttpMatchRequest>> {
    if root.is_empty() || delegated.is_empty() {
        return Some(if root.is_empty() { delegated.to_vec() } else { root.to_vec() });
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
