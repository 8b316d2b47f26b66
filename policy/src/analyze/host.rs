//! The hosts that documents may send requests to, and who sees them.

use std::collections::BTreeMap;

use weft_wire::id::Namespace;

use crate::{api::values::Labels, hosts::HostPattern};

/// Who sees something.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Scope {
    All,
    /// The namespace of this name.
    In(String),
}

impl Scope {
    /// The scopes of an `exportTo` in a document of `namespace`; an empty one is for all.
    pub(super) fn of_export_to<'t>(export_to: impl Iterator<Item = &'t str>, namespace: &Namespace) -> Vec<Self> {
        let scopes: Vec<Self> = export_to
            .filter(|text| *text != "~")
            .map(|text| match text {
                "*" => Self::All,
                "." => Self::In(namespace.to_string()),
                other => Self::In(other.to_owned()),
            })
            .collect();
        if scopes.contains(&Self::All) { vec![Self::All] } else { scopes }
    }

    /// As [`Scope::of_export_to`], where nothing given means all.
    pub(super) fn of_field(export_to: &[String], namespace: &Namespace) -> Vec<Self> {
        match export_to {
            [] => vec![Self::All],
            given => Self::of_export_to(given.iter().map(String::as_str), namespace),
        }
    }
}

/// A service, whoever describes it.
#[derive(Clone, Debug, Default)]
pub(super) struct Host<'m> {
    pub(super) ports: Vec<u16>,
    /// Labels of the workloads that serve it; `None` if it selects none.
    pub(super) selector: Option<&'m Labels>,
    /// The namespace of those workloads, where it has to be one.
    pub(super) namespace: Option<Namespace>,
    /// Labels of endpoints that are named themselves.
    pub(super) endpoints: Vec<&'m BTreeMap<String, String>>,
}

/// All services by the host that means them.
#[derive(Debug, Default)]
pub(super) struct Hosts<'m> {
    exact: BTreeMap<(Scope, HostPattern), Host<'m>>,
    wildcards: Vec<(Scope, HostPattern, Host<'m>)>,
}

impl<'m> Hosts<'m> {
    pub(super) fn add(&mut self, scopes: &[Scope], pattern: &HostPattern, host: &Host<'m>) {
        for scope in scopes {
            if matches!(pattern, HostPattern::Wildcard(_)) {
                self.wildcards.push((scope.clone(), pattern.clone(), host.clone()));
            }
            self.exact.insert((scope.clone(), pattern.clone()), host.clone());
        }
    }

    /// What a document of `namespace` that is exported to `export_to` means by a host: it must be seen where the
    /// document is.
    pub(super) fn find(&self, text: &str, namespace: &Namespace, export_to: &[String]) -> Option<&Host<'m>> {
        let pattern = HostPattern::read(text, namespace).ok()?;
        let scopes = match export_to {
            [] => vec![Scope::In(namespace.to_string())],
            given => Scope::of_field(given, namespace),
        };
        let exact = |scope: Scope| self.exact.get(&(scope, pattern.clone()));
        exact(Scope::All).or_else(|| scopes.into_iter().find_map(exact)).or_else(|| {
            let own = Scope::In(namespace.to_string());
            let visible = |scope: &Scope| *scope == Scope::All || *scope == own;
            let found = self.wildcards.iter().find(|(scope, wildcard, _)| visible(scope) && wildcard.covers(&pattern));
            found.map(|(_, _, host)| host)
        })
    }
}

/// A host as a Gateway writes it, and as VirtualServices are compared with it: names are taken as they stand.
pub(super) fn literal(text: &str) -> HostPattern {
    let text = text.to_ascii_lowercase();
    match text.strip_prefix('*') {
        Some(end) => HostPattern::Wildcard(end.to_owned()),
        None => HostPattern::Exact(text),
    }
}
