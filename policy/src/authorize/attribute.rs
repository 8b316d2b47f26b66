//! What a policy can ask about a request: attributes, and tests of their values.

use std::{str::FromStr, sync::Arc};

use http::HeaderName;
use ipnet::IpNet;
use weft_wire::id::{AccountName, Namespace as NamespaceName};

use super::{AccessRequest, HttpAccess, template::PathTemplate};
use crate::{authenticate::Claims, ranges};

/// Longest `serviceAccounts` entry, in bytes, as in Istio.
const MAX_ACCOUNT_LEN: usize = 320;

/// Something of a request that has a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Attribute {
    Principal,
    RequestPrincipal,
    Namespace,
    ServiceAccount,
    TrustDomain,
    SourceIp,
    RemoteIp,
    DestinationIp,
    DestinationPort,
    Sni,
    Host,
    Method,
    Path,
    Header(HeaderField),
    /// One of a header's values, which have commas between them.
    HeaderItem(HeaderField),
    /// A claim of the token, by the names that lead to it.
    Claim(Arc<[String]>),
    /// What one of Envoy's filters found; weft has none of them, so that it has no value.
    EnvoyMetadata,
}

/// A header, or what HTTP/2 has among its headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum HeaderField {
    Method,
    Authority,
    Path,
    Named(HeaderName),
}

/// The part of `PREFIX[NAME]` in brackets.
fn in_brackets<'k>(key: &'k str, prefix: &str) -> Option<&'k str> {
    key.strip_prefix(prefix)?.strip_prefix('[')?.strip_suffix(']').filter(|name| !name.is_empty())
}

impl Attribute {
    /// The attribute that a condition's key names.
    pub(crate) fn of_key(key: &str) -> Result<Self, String> {
        let claim = |name: &str| Ok(Self::Claim([name.to_owned()].into()));
        match key {
            "source.ip" => return Ok(Self::SourceIp),
            "remote.ip" => return Ok(Self::RemoteIp),
            "source.namespace" => return Ok(Self::Namespace),
            "source.serviceAccount" => return Ok(Self::ServiceAccount),
            "source.principal" => return Ok(Self::Principal),
            "request.auth.principal" => return Ok(Self::RequestPrincipal),
            "request.auth.audiences" => return claim("aud"),
            "request.auth.presenter" => return claim("azp"),
            "destination.ip" => return Ok(Self::DestinationIp),
            "destination.port" => return Ok(Self::DestinationPort),
            "connection.sni" => return Ok(Self::Sni),
            _ => {}
        }
        if let Some(name) = in_brackets(key, "request.headers") {
            return HeaderField::read(name).map(Self::Header);
        }
        if let Some(name) = in_brackets(key, "request.experimental.inline.headers") {
            return HeaderField::read(name).map(Self::HeaderItem);
        }
        if let Some(names) = in_brackets(key, "request.auth.claims") {
            let names: Vec<String> = names.split("][").map(str::to_owned).collect();
            let is_good = names.iter().all(|name| !name.is_empty() && !name.contains(['[', ']']));
            return match is_good {
                true => Ok(Self::Claim(names.into())),
                false => Err(format!("{key:?} must look like request.auth.claims[NAME][NAME]")),
            };
        }
        if key.starts_with("experimental.envoy.filters.") && key.ends_with(']') && key.contains('[') {
            return Ok(Self::EnvoyMetadata);
        }
        Err(format!(
            "{key:?} is not an attribute; request.headers[NAME], source.ip, remote.ip, source.namespace, \
             source.serviceAccount, source.principal, request.auth.principal, request.auth.audiences, \
             request.auth.presenter, request.auth.claims[NAME], destination.ip, destination.port and connection.sni are"
        ))
    }

    /// Whether only HTTP requests have it.
    pub(crate) fn is_http_only(&self) -> bool {
        use Attribute::*;
        matches!(self, RequestPrincipal | Host | Method | Path | Header(_) | HeaderItem(_) | Claim(_))
    }

    /// Whether it is found out after external authorizers were asked.
    pub(crate) fn is_unknown_to_providers(&self) -> bool {
        use Attribute::*;
        matches!(self, Principal | RequestPrincipal | Namespace | ServiceAccount | Claim(_))
    }

    /// Whether a request can have it at all.
    pub(crate) fn is_known_to_requests(&self) -> bool {
        *self != Self::EnvoyMetadata
    }

    /// The test for one value in a policy of this namespace.
    pub(crate) fn test(&self, value: &str, namespace: &NamespaceName) -> Result<Test, String> {
        if value.is_empty() {
            return Err("must not be empty".into());
        }
        Ok(match self {
            Self::Principal => Test::Principal(TextMatch::read(value)),
            Self::RequestPrincipal => Test::request_principal(value),
            Self::Namespace => Test::Namespace(Glob(value.into())),
            Self::ServiceAccount => account(value, namespace)?,
            Self::TrustDomain => Test::TrustDomain(TextMatch::read(value)),
            Self::SourceIp => Test::SourceIp(ip_block(value)?),
            Self::RemoteIp => Test::RemoteIp(ip_block(value)?),
            Self::DestinationIp => Test::DestinationIp(ip_block(value)?),
            Self::DestinationPort => {
                let is_number = value.bytes().all(|b| b.is_ascii_digit());
                let port = value.parse().ok().filter(|_| is_number);
                Test::DestinationPort(port.ok_or_else(|| format!("{value:?} is not a port: 0 to 65535"))?)
            }
            Self::Sni => Test::Sni(TextMatch::read(value)),
            Self::Host => Test::Host(TextMatch::read(value)),
            Self::Method => Test::Method(TextMatch::read(value)),
            Self::Path if PathTemplate::is_template(value) => Test::PathTemplate(PathTemplate::read(value)?),
            Self::Path => Test::Path(TextMatch::read(value)),
            Self::Header(field) => Test::Header(field.clone(), TextMatch::read(value)),
            Self::HeaderItem(field) => Test::HeaderItem(field.clone(), TextMatch::read(value)),
            Self::Claim(names) => Test::Claim(names.clone(), TextMatch::read(value)),
            Self::EnvoyMetadata => Test::Never,
        })
    }
}

impl HeaderField {
    fn read(name: &str) -> Result<Self, String> {
        match name {
            ":method" => Ok(Self::Method),
            ":authority" => Ok(Self::Authority),
            ":path" => Ok(Self::Path),
            name => match HeaderName::from_str(name) {
                // HTTP/2 calls it :authority, and so does Envoy for all versions.
                Ok(http::header::HOST) => Ok(Self::Authority),
                Ok(name) => Ok(Self::Named(name)),
                Err(_) => Err(format!("{name:?} is not a header's name")),
            },
        }
    }

    /// Whether the request has it, with a value that does.
    fn does(&self, http: &HttpAccess<'_>, test: impl Fn(&[u8]) -> bool) -> bool {
        match self {
            Self::Method => test(http.method.as_bytes()),
            Self::Authority => !http.host.is_empty() && test(http.host.as_bytes()),
            Self::Path => test(http.path.as_bytes()),
            Self::Named(name) => {
                let mut values = http.headers.get_all(name).iter();
                let Some(first) = values.next() else { return false };
                if values.next().is_none() {
                    return test(first.as_bytes());
                }
                // As Envoy: several lines of one header are one value, joined by commas.
                let all: Vec<&[u8]> = http.headers.get_all(name).iter().map(|value| value.as_bytes()).collect();
                test(&all.join(&b","[..]))
            }
        }
    }
}

/// `ACCOUNT` of this namespace, or `NAMESPACE/ACCOUNT`.
fn account(value: &str, namespace: &NamespaceName) -> Result<Test, String> {
    let what = || format!("{value:?} is not ACCOUNT or NAMESPACE/ACCOUNT, without *");
    if value.len() > MAX_ACCOUNT_LEN {
        return Err(format!("has {} characters; {MAX_ACCOUNT_LEN} are the most", value.len()));
    }
    let (namespace, name) = match value.split_once('/') {
        Some((namespace, name)) => (namespace.parse().map_err(|_| what())?, name),
        None => (namespace.clone(), value),
    };
    Ok(Test::Account { namespace, name: name.parse().map_err(|_| what())? })
}

/// An address or a range such as `10.0.0.0/8`.
fn ip_block(value: &str) -> Result<IpNet, String> {
    ranges::read(value).ok_or_else(|| format!("{value:?} is not an address or a range of addresses such as 10.0.0.0/8"))
}

/// A test of one attribute against one value.
#[derive(Debug)]
pub(crate) enum Test {
    Principal(TextMatch),
    /// By the token's issuer and subject.
    RequestPrincipal(TextMatch, TextMatch),
    Namespace(Glob),
    Account {
        namespace: NamespaceName,
        name: AccountName,
    },
    TrustDomain(TextMatch),
    SourceIp(IpNet),
    RemoteIp(IpNet),
    DestinationIp(IpNet),
    DestinationPort(u16),
    Sni(TextMatch),
    Host(TextMatch),
    Method(TextMatch),
    Path(TextMatch),
    PathTemplate(PathTemplate),
    Header(HeaderField, TextMatch),
    HeaderItem(HeaderField, TextMatch),
    Claim(Arc<[String]>, TextMatch),
    Never,
}

impl Test {
    /// Reads `ISSUER/SUBJECT`, either with `*`. An issuer may be a URL, so that the last `/` divides.
    fn request_principal(value: &str) -> Self {
        let divided = value.rsplit_once('/');
        let (issuer, subject) = match (value, divided) {
            ("*", _) => (TextMatch::Any, TextMatch::Any),
            (_, Some((issuer, subject))) if value.starts_with('*') => {
                (TextMatch::read(issuer), TextMatch::Exact(subject.into()))
            }
            (_, Some((issuer, subject))) if value.ends_with('*') => {
                (TextMatch::Exact(issuer.into()), TextMatch::read(subject))
            }
            (_, Some((issuer, subject))) => (TextMatch::Exact(issuer.into()), TextMatch::Exact(subject.into())),
            (_, None) if value.starts_with('*') => (TextMatch::Any, TextMatch::read(value)),
            (_, None) if value.ends_with('*') => (TextMatch::read(value), TextMatch::Any),
            (_, None) => (TextMatch::Exact(value.into()), TextMatch::Exact(String::new())),
        };
        Self::RequestPrincipal(issuer, subject)
    }

    pub(crate) fn matches(&self, request: &AccessRequest<'_>) -> bool {
        let http = |test: &dyn Fn(&HttpAccess<'_>) -> bool| request.http.as_ref().is_some_and(test);
        let claims = |test: &dyn Fn(&Claims) -> bool| http(&|http| http.claims.is_some_and(test));
        match self {
            Self::Principal(wanted) => request.peer.is_some_and(|peer| wanted.matches(peer.principal().as_bytes())),
            Self::Namespace(wanted) => {
                request.peer.and_then(|peer| peer.namespace()).is_some_and(|it| wanted.matches(it))
            }
            Self::Account { namespace, name } => request.peer.is_some_and(|peer| {
                peer.namespace() == Some(namespace.as_str()) && peer.account() == Some(name.as_str())
            }),
            Self::TrustDomain(wanted) => {
                request.peer.is_some_and(|peer| wanted.matches(peer.trust_domain().as_bytes()))
            }
            Self::SourceIp(block) => block.contains(&request.source_ip.to_canonical()),
            Self::RemoteIp(block) => block.contains(&request.remote_ip.to_canonical()),
            Self::DestinationIp(block) => request.destination_ip.is_some_and(|ip| block.contains(&ip.to_canonical())),
            Self::DestinationPort(port) => request.destination_port == *port,
            Self::Sni(wanted) => request.sni.is_some_and(|sni| wanted.matches(sni.as_bytes())),
            Self::Host(wanted) => http(&|http| wanted.matches_in_any_case(http.host.as_bytes())),
            Self::Method(wanted) => http(&|http| wanted.matches(http.method.as_bytes())),
            Self::Path(wanted) => http(&|http| wanted.matches(http.path_alone().as_bytes())),
            Self::PathTemplate(template) => http(&|http| template.matches(http.path_alone())),
            // A header that is there has a value, even an empty one.
            Self::Header(field, wanted) => {
                http(&|http| field.does(http, |value| *wanted == TextMatch::Any || wanted.matches(value)))
            }
            Self::HeaderItem(field, wanted) => http(&|http| {
                let one = |item: &[u8]| *wanted == TextMatch::Any || wanted.matches(item);
                field.does(http, |value| value.split(|b| *b == b',').any(one))
            }),
            Self::RequestPrincipal(issuer, subject) => claims(&|claims| {
                let holds =
                    |name, wanted: &TextMatch| claims.text(name).is_some_and(|it| wanted.matches(it.as_bytes()));
                holds("iss", issuer) && holds("sub", subject)
            }),
            Self::Claim(names, wanted) => {
                claims(&|claims| claims.texts(names).any(|value| wanted.matches(value.as_bytes())))
            }
            Self::Never => false,
        }
    }
}

/// What a text must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TextMatch {
    /// Not empty.
    Any,
    Exact(String),
    Prefix(String),
    Suffix(String),
}

impl TextMatch {
    pub(crate) fn read(value: &str) -> Self {
        if value == "*" {
            Self::Any
        } else if let Some(suffix) = value.strip_prefix('*') {
            Self::Suffix(suffix.into())
        } else if let Some(prefix) = value.strip_suffix('*') {
            Self::Prefix(prefix.into())
        } else {
            Self::Exact(value.into())
        }
    }

    pub(crate) fn matches(&self, value: &[u8]) -> bool {
        self.matches_by(value, <[u8]>::eq)
    }

    fn matches_in_any_case(&self, value: &[u8]) -> bool {
        self.matches_by(value, <[u8]>::eq_ignore_ascii_case)
    }

    fn matches_by(&self, value: &[u8], equal: impl Fn(&[u8], &[u8]) -> bool) -> bool {
        match self {
            Self::Any => !value.is_empty(),
            Self::Exact(wanted) => equal(value, wanted.as_bytes()),
            Self::Prefix(wanted) => value.get(..wanted.len()).is_some_and(|start| equal(start, wanted.as_bytes())),
            Self::Suffix(wanted) => {
                let start = value.len().checked_sub(wanted.len());
                start.is_some_and(|start| equal(&value[start..], wanted.as_bytes()))
            }
        }
    }
}

/// A text in which each `*` stands for any characters, or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Glob(String);

impl Glob {
    pub(crate) fn matches(&self, value: &str) -> bool {
        let Some((start, rest)) = self.0.split_once('*') else { return value == self.0 };
        let Some(mut value) = value.strip_prefix(start) else { return false };
        let mut parts = rest.split('*').peekable();
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                return value.ends_with(part);
            }
            // The first place is the best: it leaves the most for what follows.
            let Some(at) = value.find(part) else { return false };
            value = &value[at + part.len()..];
        }
        true
    }
}
