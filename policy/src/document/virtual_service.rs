//! `networking.istio.io` VirtualService: how requests to a host are routed.

use std::{sync::Arc, time::Duration};

use http::HeaderName;
use weft_wire::id::is_label;

use super::{
    DocumentError,
    header::{Context, ROOT_FIELDS_WITH_SPEC},
    read::{Field, Map},
    validate,
};
use crate::{
    hosts::HostPattern,
    matcher::{HeaderField, HeaderMatch, RequestMatch, StringMatch, UriMatch},
    pattern::Pattern,
    rewrite::{PathRewrite, RegexRewrite},
};

#[derive(Debug, PartialEq)]
pub struct VirtualService {
    pub(crate) hosts: Vec<HostPattern>,
    pub(crate) http: Vec<HttpRule>,
}

/// One entry of `http`.
#[derive(Debug, PartialEq)]
pub(crate) struct HttpRule {
    pub(crate) name: Arc<str>,
    /// Any of these; none at all matches everything.
    pub(crate) matches: Arc<[RequestMatch]>,
    /// At least one; of several, the weights' sum is more than 0.
    pub(crate) route: Vec<Destination>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) path_rewrite: Option<Arc<PathRewrite>>,
    pub(crate) authority_rewrite: Option<Arc<str>>,
}

#[derive(Debug, PartialEq)]
pub(crate) struct Destination {
    /// Fully qualified if it is a service.
    pub(crate) host: String,
    /// Empty for the whole service.
    pub(crate) subset: String,
    /// `None`: the service's only port, else the one that the client dialled.
    pub(crate) port: Option<u16>,
    pub(crate) weight: u64,
}

impl VirtualService {
    pub(super) fn read(root: &Field<'_>, context: &mut Context<'_>) -> Result<Self, DocumentError> {
        let spec = root.map(ROOT_FIELDS_WITH_SPEC)?.required("spec")?.map(&["hosts", "gateways", "http"])?;
        for gateway in spec.list("gateways")? {
            if gateway.text()? != "mesh" {
                let found = gateway.text()?;
                return Err(
                    gateway.error(format!("{found} is not supported by this version of weft; supported here: mesh"))
                );
            }
        }
        let hosts = read_hosts(&spec, context)?;

        let rules = spec.required("http")?;
        let http = rules.list()?.iter().map(|rule| HttpRule::read(rule, context)).collect::<Result<Vec<_>, _>>()?;
        if http.is_empty() {
            return Err(rules.error("needs at least one rule"));
        }
        Ok(Self { hosts, http })
    }
}

/// Reads `hosts`. No two may overlap: which of them holds would depend on their order.
fn read_hosts(spec: &Map<'_>, context: &mut Context<'_>) -> Result<Vec<HostPattern>, DocumentError> {
    let field = spec.required("hosts")?;
    let mut hosts: Vec<HostPattern> = Vec::new();
    for item in field.list()? {
        let host = context.host(&item)?;
        if host.is_everything() {
            return Err(item.error("* is not allowed on the gateway mesh: name the services"));
        }
        if let Some(other) = hosts.iter().find(|other| other.overlaps(&host)) {
            return Err(item.error(format!("{host} overlaps with {other} of the same document")));
        }
        hosts.push(host);
    }
    if hosts.is_empty() { Err(field.error("needs at least one host")) } else { Ok(hosts) }
}

impl HttpRule {
    fn read(rule: &Field<'_>, context: &mut Context<'_>) -> Result<Self, DocumentError> {
        let map = rule.map(&["name", "match", "route", "rewrite", "timeout"])?;
        let matches = map.list("match")?.iter().map(read_match).collect::<Result<_, _>>()?;
        let route_field = map.required("route")?;
        let route: Vec<Destination> =
            route_field.list()?.iter().map(|item| Destination::read(item, context)).collect::<Result<_, _>>()?;
        match route.as_slice() {
            [] => return Err(route_field.error("needs at least one destination")),
            [_] => {}
            several if several.iter().all(|destination| destination.weight == 0) => {
                return Err(route_field.error("the weights of several destinations must not all be 0"));
            }
            _ => {}
        }
        let (path_rewrite, authority_rewrite) = match map.get("rewrite") {
            Some(field) => read_rewrite(&field)?,
            None => (None, None),
        };
        Ok(Self {
            name: map.get("name").map_or(Ok(""), |name| name.text())?.into(),
            matches,
            route,
            timeout: map.get("timeout").map(|field| validate::duration(&field)).transpose()?,
            path_rewrite: path_rewrite.map(Arc::new),
            authority_rewrite,
        })
    }
}

impl Destination {
    fn read(item: &Field<'_>, context: &mut Context<'_>) -> Result<Self, DocumentError> {
        let map = item.map(&["destination", "weight"])?;
        let destination = map.required("destination")?.map(&["host", "subset", "port"])?;
        let host_field = destination.required("host")?;
        let host = match context.host(&host_field)? {
            HostPattern::Exact(host) => host,
            HostPattern::Wildcard(_) => return Err(host_field.error("must be one host, without *")),
        };
        let subset = match destination.get("subset") {
            Some(field) if field.text()?.is_empty() || is_label(field.text()?) => field.text()?,
            Some(field) => return Err(field.error("must be the name of a subset: a-z, 0-9 and '-'")),
            None => "",
        };
        let port = match destination.get("port") {
            Some(field) => Some(field.map(&["number"])?.required("number")?.port()?),
            None => None,
        };
        // Not negative, so the cast keeps the value.
        let weight = map.get("weight").map_or(Ok(0), |field| field.integer(0..=i64::from(i32::MAX)))? as u64;
        Ok(Self { host, subset: subset.to_owned(), port, weight })
    }
}

fn read_match(item: &Field<'_>) -> Result<RequestMatch, DocumentError> {
    let map = item.map(&["uri", "ignoreUriCase", "headers", "method"])?;
    let ignore_case = map.get("ignoreUriCase").map_or(Ok(false), |field| field.boolean())?;
    let uri = match map.get("uri") {
        Some(field) => read_string_match(&field)?.map(|value| UriMatch { value, ignore_case }),
        None => None,
    };
    let method = match map.get("method") {
        Some(field) => read_string_match(&field)?,
        None => None,
    };
    let mut headers = Vec::new();
    if let Some(field) = map.get("headers") {
        for entry in field.entries()? {
            let condition = field.entry(entry);
            headers.push((read_header_name(&condition, &entry.key)?, read_header_match(&condition)?));
        }
    }
    Ok(RequestMatch { uri, method, headers })
}

/// One of exact, prefix and regex; `None` for an empty map.
fn read_string_match(field: &Field<'_>) -> Result<Option<StringMatch>, DocumentError> {
    let Some(given) = field.map(&["exact", "prefix", "regex"])?.only_one()? else { return Ok(None) };
    let text = given.text()?;
    let value = match given.path.rsplit('.').next() {
        Some("exact") => StringMatch::Exact(text.to_owned()),
        Some("prefix") if text.is_empty() => return Err(given.error("must not be empty")),
        Some("prefix") => StringMatch::Prefix(text.to_owned()),
        _ => StringMatch::Regex(Pattern::new(text).map_err(|what| given.error(what))?),
    };
    Ok(Some(value))
}

/// An empty map asks that the header be present, and so does the regex `*`.
fn read_header_match(field: &Field<'_>) -> Result<HeaderMatch, DocumentError> {
    let map = field.map(&["exact", "prefix", "regex"])?;
    if map.present().eq(["regex"]) && map.required("regex")?.text()? == "*" {
        return Ok(HeaderMatch::Present);
    }
    Ok(read_string_match(field)?.map_or(HeaderMatch::Present, HeaderMatch::Value))
}

fn read_header_name(condition: &Field<'_>, name: &str) -> Result<HeaderField, DocumentError> {
    match name {
        ":method" => Ok(HeaderField::Method),
        ":authority" => Ok(HeaderField::Authority),
        ":scheme" => Ok(HeaderField::Scheme),
        _ if name.starts_with(':') => {
            Err(condition.error(format!("{name} is not one of :method, :authority, :scheme; match the path by uri")))
        }
        _ if name.eq_ignore_ascii_case("host") => Ok(HeaderField::Authority),
        _ => HeaderName::from_bytes(name.as_bytes())
            .map(HeaderField::Header)
            .map_err(|_| condition.error(format!("{name:?} is not a header's name"))),
    }
}

type Rewrites = (Option<PathRewrite>, Option<Arc<str>>);

fn read_rewrite(field: &Field<'_>) -> Result<Rewrites, DocumentError> {
    let map = field.map(&["uri", "authority", "uriRegexRewrite"])?;
    let text = |key| map.get(key).map_or(Ok(""), |field| field.text());
    let (uri, authority) = (text("uri")?, text("authority")?);
    let path_rewrite = match (map.get("uri"), map.get("uriRegexRewrite")) {
        (Some(_), Some(_)) => return Err(map.error("only one of uri and uriRegexRewrite may be given")),
        (Some(field), None) if !uri.is_empty() => {
            if !uri.bytes().all(|b| b.is_ascii_graphic() && b != b'#') {
                return Err(field.error("must be a path: visible ASCII without '#'"));
            }
            Some(PathRewrite::Matched(uri.to_owned()))
        }
        (_, Some(field)) => Some(PathRewrite::Regex(read_regex_rewrite(&field)?)),
        _ => None,
    };
    let authority: Option<Arc<str>> = if authority.is_empty() {
        None
    } else {
        let parsed = authority.parse::<http::uri::Authority>();
        // User information has no place in a Host header.
        if parsed.is_err() || authority.contains('@') {
            return Err(map.error(format!("authority {authority:?} must be HOST or HOST:PORT")));
        }
        Some(authority.into())
    };
    if path_rewrite.is_none() && authority.is_none() {
        return Err(map.error("must give uri, uriRegexRewrite or authority"));
    }
    Ok((path_rewrite, authority))
}

fn read_regex_rewrite(field: &Field<'_>) -> Result<RegexRewrite, DocumentError> {
    let map = field.map(&["match", "rewrite"])?;
    let (pattern, substitution) = (map.required("match")?, map.required("rewrite")?);
    RegexRewrite::new(pattern.text()?, substitution.text()?).map_err(|what| field.error(what))
}
