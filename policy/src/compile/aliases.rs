//! Services of type `ExternalName`: names of other hosts. As in Istio, whoever calls one calls the host that it stands
//! for, if the mesh knows that. One that it does not know is looked up by its name.

use foldhash::HashMap;

use super::documents::DocumentIndex;
use crate::hosts::{self, HostPattern};

/// Most names that stand for one another; more are a circle.
const MAX_ALIASES: usize = 8;

/// What aliases stand for, by their `name.namespace`: that of a service, or a host that ServiceEntries describe. Each is
/// no alias itself.
pub(super) fn compile(documents: &DocumentIndex) -> HashMap<Box<str>, Box<str>> {
    let aliases = documents.declared.values().filter(|declared| declared.external_name().is_some());
    let known = aliases.filter_map(|alias| {
        let host = target(alias.external_name()?, documents)?;
        Some((alias.name.to_string().into(), host.into()))
    });
    known.collect()
}

/// What a host is looked up by that an alias stands for; `None` if nothing in the mesh describes it.
pub(super) fn target(name: &str, documents: &DocumentIndex) -> Option<String> {
    let mut host = name.strip_suffix('.').unwrap_or(name);
    for _ in 0..MAX_ALIASES {
        // Only the mesh knows such names, even one that it does not have.
        let Some(service) = hosts::service_of(host) else { return is_described(host, documents).then(|| host.into()) };
        match documents.declared.get(&service).and_then(|declared| declared.external_name()) {
            Some(next) => host = next.strip_suffix('.').unwrap_or(next),
            None => return Some(service.to_string()),
        }
    }
    Some(String::new())
}

fn is_described(host: &str, documents: &DocumentIndex) -> bool {
    let is_wildcard_of = |pattern: &HostPattern| pattern.matches(host);
    documents.entries.contains_key(&HostPattern::verbatim(host)) || documents.entries.keys().any(is_wildcard_of)
}
