//! `redirect`: where a client is sent. Envoy's rules, as Istio configures them.

use http::StatusCode;

use crate::{matcher::MatchedPath, route::RequestHead};

#[derive(Debug, PartialEq)]
pub(crate) struct Redirect {
    pub(crate) status: StatusCode,
    /// Each `None` keeps what the request has.
    pub(crate) scheme: Option<String>,
    pub(crate) authority: Option<String>,
    pub(crate) port: RedirectPort,
    /// A port that the request's host names stays where no other one is given. Istio's rule, not the Gateway API's.
    pub(crate) keeps_port: bool,
    pub(crate) path: RedirectPath,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RedirectPort {
    /// The scheme's own.
    Default,
    /// The one that the client dialled.
    Dialled,
    Fixed(u16),
}

#[derive(Debug, PartialEq)]
pub(crate) enum RedirectPath {
    Keep,
    /// The whole path; the request's query stays unless this has one.
    Whole(String),
    /// Replaces the prefix that the rule's condition matched.
    Prefix(String),
}

impl Redirect {
    /// The `location` of the answer.
    pub(crate) fn location(&self, head: &RequestHead<'_>, matched: MatchedPath, dialled: u16) -> String {
        let scheme = self.scheme.as_deref().unwrap_or(head.scheme);
        let port = match self.port {
            RedirectPort::Default => None,
            RedirectPort::Dialled => Some(dialled),
            RedirectPort::Fixed(port) => Some(port),
        };
        let port = port.filter(|port| default_port(scheme) != Some(*port));
        let host = match &self.authority {
            Some(authority) => authority,
            None if !self.keeps_port => without_port(head.authority),
            None => kept_host(head, scheme, port.is_some()),
        };
        let port = port.map(|port| format!(":{port}")).unwrap_or_default();
        format!("{scheme}://{host}{port}{}", self.path_and_query(head, matched))
    }

    fn path_and_query(&self, head: &RequestHead<'_>, matched: MatchedPath) -> String {
        let mut new = match &self.path {
            RedirectPath::Keep => return head.path_and_query.to_owned(),
            RedirectPath::Whole(path) => path.clone(),
            RedirectPath::Prefix(prefix) => format!("{prefix}{}", head.path().get(matched.0..).unwrap_or_default()),
        };
        if !new.starts_with('/') {
            new.insert(0, '/');
        }
        if let Some(query) = head.query().filter(|_| !new.contains('?')) {
            new.push('?');
            new.push_str(query);
        }
        new
    }
}

fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}

fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    }
}

/// The request's host, without its port if that is replaced, or was the default of another scheme.
fn kept_host<'r>(head: &RequestHead<'r>, scheme: &str, port_is_given: bool) -> &'r str {
    let is_v6_end = |host: &str| host.starts_with('[') && !host.ends_with(']');
    match head.authority.rsplit_once(':') {
        Some((host, _)) if is_v6_end(host) => head.authority,
        Some((host, port)) => {
            let was_default = scheme != head.scheme && port.parse().ok() == default_port(head.scheme);
            if port_is_given || was_default { host } else { head.authority }
        }
        None => head.authority,
    }
}
