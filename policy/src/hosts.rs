//! Host names: what a client or a document means by one.

use std::fmt;

use foldhash::{HashMap, HashMapExt};
use weft_wire::id::{Namespace, ServiceName, is_dns_name, is_label};

/// What follows name and namespace in a service's fully qualified name. See [`ServiceName::fqdn`].
const SERVICE_SUFFIX: &str = ".svc.cluster.local";

/// Longest `name.namespace`: two DNS labels and a dot.
const MAX_LOOKUP_LEN: usize = 2 * weft_wire::id::MAX_LABEL_LEN + 1;

/// Calls `found` with the host as `name.namespace`, made on the stack. `None`: no service can have this name.
pub(crate) fn with_lookup_name<T>(
    host: &str,
    client_namespace: &Namespace,
    found: impl FnOnce(&str) -> T,
) -> Option<T> {
    let host = host.strip_suffix('.').unwrap_or(host);
    let (name, namespace) = split_service_host(host)?;
    let namespace = namespace.unwrap_or(client_namespace.as_str());

    let mut buffer = [0; MAX_LOOKUP_LEN];
    let len = name.len() + 1 + namespace.len();
    let lookup = buffer.get_mut(..len)?;
    lookup[..name.len()].copy_from_slice(name.as_bytes());
    lookup[name.len()] = b'.';
    lookup[name.len() + 1..].copy_from_slice(namespace.as_bytes());
    lookup.make_ascii_lowercase();
    std::str::from_utf8(lookup).ok().map(found)
}

/// The service that a client means by a host, as `name.namespace`; `None` if no service can have this name.
pub fn service_name(host: &str, client_namespace: &Namespace) -> Option<String> {
    with_lookup_name(host, client_namespace, str::to_owned)
}

/// Longest name of a host, in characters.
const MAX_HOST_LEN: usize = 253;

/// Calls `found` with the host in lower case and without a trailing dot, made on the stack. `None`: it is too long.
pub(crate) fn with_lower_case<T>(host: &str, found: impl FnOnce(&str) -> T) -> Option<T> {
    let host = host.strip_suffix('.').unwrap_or(host);
    let mut buffer = [0; MAX_HOST_LEN];
    let lower = buffer.get_mut(..host.len())?;
    lower.copy_from_slice(host.as_bytes());
    lower.make_ascii_lowercase();
    std::str::from_utf8(lower).ok().map(found)
}

/// Splits `name`, `name.ns`, `name.ns.svc` or `name.ns.svc.cluster.local` into name and namespace.
fn split_service_host(host: &str) -> Option<(&str, Option<&str>)> {
    let mut parts = host.splitn(3, '.');
    let name = parts.next().filter(|name| !name.is_empty())?;
    let namespace = parts.next();
    match parts.next() {
        None => Some((name, namespace)),
        Some(rest) if rest.eq_ignore_ascii_case("svc") || rest.eq_ignore_ascii_case("svc.cluster.local") => {
            Some((name, namespace))
        }
        Some(_) => None,
    }
}

/// A host as a document writes it, fully qualified.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum HostPattern {
    Exact(String),
    /// All hosts with this end: `.example.com` for `*.example.com`, and empty for `*`.
    Wildcard(String),
}

impl HostPattern {
    /// Reads a host of a document in `namespace`. A name without a dot is a service of that namespace, never of the
    /// client's; any name with a dot stands for itself, as in Istio.
    pub(crate) fn read(text: &str, namespace: &Namespace) -> Result<Self, String> {
        let host = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        if let Some(end) = host.strip_prefix('*') {
            let name = end.strip_prefix(['.', '-']).unwrap_or(end);
            if host == "*" || is_dns_name(name) {
                return Ok(Self::Wildcard(end.to_owned()));
            }
        } else if is_dns_name(&host) {
            let is_short = !host.contains('.');
            return Ok(Self::Exact(if is_short { format!("{host}.{namespace}{SERVICE_SUFFIX}") } else { host }));
        }
        Err(format!("{text:?} is not a host: a DNS name, with * at most as its start"))
    }

    /// A name as it is written, without a namespace to complete it: a server name of TLS.
    pub(crate) fn verbatim(text: &str) -> Self {
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        match name.strip_prefix('*') {
            Some(end) => Self::Wildcard(end.to_owned()),
            None => Self::Exact(name),
        }
    }

    /// The host that both mean, the narrower of the two; `None` if neither covers the other.
    pub(crate) fn common<'h>(&'h self, other: &'h Self) -> Option<&'h Self> {
        if self.covers(other) { Some(other) } else { other.covers(self).then_some(self) }
    }

    pub(crate) fn is_everything(&self) -> bool {
        matches!(self, Self::Wildcard(end) if end.is_empty())
    }

    pub(crate) fn matches(&self, fqdn: &str) -> bool {
        match self {
            Self::Exact(host) => host == fqdn,
            Self::Wildcard(end) => fqdn.len() > end.len() && fqdn.ends_with(end.as_str()),
        }
    }

    /// Whether every host that the other matches is matched by this one.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(a), Self::Exact(b)) => a == b,
            (Self::Exact(_), Self::Wildcard(_)) => false,
            (Self::Wildcard(_), Self::Exact(host)) => self.matches(host),
            (Self::Wildcard(a), Self::Wildcard(b)) => b.ends_with(a.as_str()),
        }
    }

    /// Whether a host could match both.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(a), Self::Exact(b)) => a == b,
            (Self::Exact(host), wildcard) | (wildcard, Self::Exact(host)) => wildcard.matches(host),
            (Self::Wildcard(a), Self::Wildcard(b)) => a.ends_with(b.as_str()) || b.ends_with(a.as_str()),
        }
    }
}

/// Things by host, found in a time that does not depend on how many there are.
#[derive(Debug)]
pub(crate) struct HostIndex<T> {
    exact: HashMap<String, Vec<T>>,
    wildcard: HashMap<String, Vec<T>>,
    /// Of the wildcards' ends, the longest first, each once.
    end_lengths: Vec<usize>,
}

impl<T> Default for HostIndex<T> {
    fn default() -> Self {
        Self { exact: HashMap::new(), wildcard: HashMap::new(), end_lengths: Vec::new() }
    }
}

impl<T> HostIndex<T> {
    pub(crate) fn insert(&mut self, host: &HostPattern, value: T) {
        match host {
            HostPattern::Exact(host) => self.exact.entry(host.clone()).or_default().push(value),
            HostPattern::Wildcard(end) => {
                self.wildcard.entry(end.clone()).or_default().push(value);
                if let Err(place) = self.end_lengths.binary_search_by(|length| end.len().cmp(length)) {
                    self.end_lengths.insert(place, end.len());
                }
            }
        }
    }

    /// Everything with its host, sorted by that.
    #[cfg(test)]
    pub(crate) fn all(&self) -> Vec<(HostPattern, &T)> {
        let exact = self.exact.iter().map(|(host, values)| (HostPattern::Exact(host.clone()), values));
        let wildcard = self.wildcard.iter().map(|(end, values)| (HostPattern::Wildcard(end.clone()), values));
        let mut all: Vec<_> = exact.chain(wildcard).collect();
        all.sort_by(|(a, _), (b, _)| a.cmp(b));
        all.into_iter().flat_map(|(host, values)| values.iter().map(move |value| (host.clone(), value))).collect()
    }

    /// What was inserted for all hosts, `*`.
    pub(crate) fn for_all(&self) -> impl Iterator<Item = &T> {
        self.wildcard.get("").into_iter().flatten()
    }

    /// What was inserted for hosts that match this one: the most specific host first, for each in the order of
    /// insertion.
    pub(crate) fn matching(&self, host: &str) -> impl Iterator<Item = &T> {
        let ends = self.end_lengths.iter().filter(|length| **length < host.len());
        let by_end = ends.filter_map(|length| self.wildcard.get(host.get(host.len() - length..)?));
        self.exact.get(host).into_iter().chain(by_end).flatten()
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(host) => f.write_str(host),
            Self::Wildcard(end) => write!(f, "*{end}"),
        }
    }
}

/// Whether it has the form of a service's name that is not fully qualified: `name.namespace` or `name.namespace.svc`.
pub(crate) fn looks_like_service(host: &str) -> bool {
    split_service_host(host).is_some_and(|(_, namespace)| namespace.is_some())
}

/// The service that has this fully qualified name.
pub(crate) fn service_of(fqdn: &str) -> Option<ServiceName> {
    let (name, namespace) = fqdn.strip_suffix(SERVICE_SUFFIX)?.split_once('.')?;
    Some(ServiceName { name: name.parse().ok()?, namespace: namespace.parse().ok()? })
}

/// What a host is looked up by: `name.namespace` of one with a service's fully qualified name, else its own name.
pub(crate) fn lookup_name(host: &str) -> &str {
    let short = host.strip_suffix(SERVICE_SUFFIX);
    let is_service =
        |short: &str| short.split_once('.').is_some_and(|(name, namespace)| is_label(name) && is_label(namespace));
    short.filter(|short| is_service(short)).unwrap_or(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(text: &str) -> HostPattern {
        HostPattern::read(text, &"prod".parse().unwrap()).unwrap()
    }

    #[test]
    fn a_short_name_is_of_the_documents_namespace_and_a_dotted_one_stands_for_itself() {
        for (text, expected) in [
            ("reviews", "reviews.prod.svc.cluster.local"),
            ("Reviews", "reviews.prod.svc.cluster.local"),
            ("reviews.default", "reviews.default"),
            ("example.com.", "example.com"),
            ("*.example.com", "*.example.com"),
            ("*-a.example.com", "*-a.example.com"),
            ("*", "*"),
        ] {
            assert_eq!(host(text).to_string(), expected);
        }
        for text in ["", ".", "a*", "*.*", "a..b", "a b", "-a"] {
            assert!(HostPattern::read(text, &Namespace::default_namespace()).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_wildcard_matches_by_its_end_and_not_what_it_is_itself() {
        assert!(host("*.example.com").matches("a.example.com"));
        assert!(host("*.example.com").matches("a.b.example.com"));
        assert!(!host("*.example.com").matches("example.com"));
        assert!(!host("*.example.com").matches(".example.com"));
        assert!(host("a.example.com").matches("a.example.com"));
    }

    #[test]
    fn hosts_overlap_where_one_name_could_match_both() {
        for (a, b, expected) in [
            ("*.foo.com", "*.com", true),
            ("a.foo.com", "*.foo.com", true),
            ("a.foo.com", "a.foo.com", true),
            ("a.foo.com", "b.foo.com", false),
            ("*.foo.com", "*.bar.com", false),
            ("foo.com", "*.foo.com", false),
        ] {
            assert_eq!(host(a).overlaps(&host(b)), expected, "{a} and {b}");
            assert_eq!(host(b).overlaps(&host(a)), expected, "{b} and {a}");
        }
    }

    #[test]
    fn an_index_finds_the_most_specific_host_first() {
        let mut index = HostIndex::default();
        for text in ["*", "*.com", "a.example.com", "*.example.com", "*-a.example.com", "*.org"] {
            index.insert(&host(text), text);
        }
        index.insert(&host("*.com"), "*.com again");
        let found = |host: &str| index.matching(host).copied().collect::<Vec<_>>();
        assert_eq!(found("a.example.com"), ["a.example.com", "*.example.com", "*.com", "*.com again", "*"]);
        assert_eq!(found("b-a.example.com"), ["*-a.example.com", "*.example.com", "*.com", "*.com again", "*"]);
        assert_eq!(found(".com"), ["*"]);
        assert_eq!(found("é.com"), ["*.com", "*.com again", "*"]);
        assert!(found("").is_empty());
    }

    #[test]
    fn only_the_full_form_names_a_service() {
        assert_eq!(service_of("a.b.svc.cluster.local").unwrap().to_string(), "a.b");
        for other in ["a.b", "a.b.svc", "a.b.c.svc.cluster.local", "a.svc.cluster.local", ""] {
            assert!(service_of(other).is_none(), "{other}");
        }
    }

    #[test]
    fn what_a_host_is_looked_up_by_is_what_its_service_is_called() {
        for host in [
            "a.b.svc.cluster.local",
            "a.b",
            "a.b.c.svc.cluster.local",
            "a.svc.cluster.local",
            "a-.b.svc.cluster.local",
            ".svc.cluster.local",
            "A.b.svc.cluster.local",
            "example.com",
        ] {
            let expected = service_of(host).map_or_else(|| host.to_owned(), |service| service.to_string());
            assert_eq!(lookup_name(host), expected, "{host}");
        }
    }

    #[test]
    fn every_service_is_found_by_its_full_name() {
        let service: ServiceName = "a.b".parse().unwrap();
        assert_eq!(service_of(&service.fqdn()), Some(service));
    }
}
