//! Host names: what a client or a document means by one.

use std::fmt;

use weft_wire::id::{Namespace, ServiceName, is_dns_name};

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

    pub(crate) fn is_everything(&self) -> bool {
        matches!(self, Self::Wildcard(end) if end.is_empty())
    }

    pub(crate) fn matches(&self, fqdn: &str) -> bool {
        match self {
            Self::Exact(host) => host == fqdn,
            Self::Wildcard(end) => fqdn.len() > end.len() && fqdn.ends_with(end.as_str()),
        }
    }

    /// How closely it says which host it means: an exact one most, then the longer wildcard.
    pub(crate) fn specificity(&self) -> (bool, usize) {
        match self {
            Self::Exact(host) => (true, host.len()),
            Self::Wildcard(end) => (false, end.len()),
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
    fn only_the_full_form_names_a_service() {
        assert_eq!(service_of("a.b.svc.cluster.local").unwrap().to_string(), "a.b");
        for other in ["a.b", "a.b.svc", "a.b.c.svc.cluster.local", "a.svc.cluster.local", ""] {
            assert!(service_of(other).is_none(), "{other}");
        }
    }

    #[test]
    fn every_service_is_found_by_its_full_name() {
        let service: ServiceName = "a.b".parse().unwrap();
        assert_eq!(service_of(&service.fqdn()), Some(service));
    }
}
