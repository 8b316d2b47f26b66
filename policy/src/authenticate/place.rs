//! Where tokens are in a request.

use std::{borrow::Cow, str::FromStr};

use http::{HeaderName, header};

use super::TokenRequest;
use crate::{api::security::JwtRule, normalise::decoded};

/// The places where a rule looks for tokens.
#[derive(Debug)]
pub(super) struct Places {
    headers: Vec<(HeaderName, String)>,
    parameters: Vec<String>,
    cookies: Vec<String>,
}

/// A token, and what it must be taken off of. Cookies keep theirs, as with Envoy.
#[derive(Debug)]
pub(super) struct Found<'a> {
    pub(super) text: Cow<'a, str>,
    pub(super) header: Option<&'a HeaderName>,
    pub(super) parameter: Option<&'a str>,
}

fn is_token_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')
}

impl Places {
    pub(super) fn of(rule: &JwtRule) -> Self {
        if rule.from_headers.is_empty() && rule.from_params.is_empty() && rule.from_cookies.is_empty() {
            let headers = vec![(header::AUTHORIZATION, "Bearer ".to_owned())];
            return Self { headers, parameters: vec!["access_token".to_owned()], cookies: Vec::new() };
        }
        let headers = rule.from_headers.iter();
        Self {
            headers: headers.filter_map(|it| Some((HeaderName::from_str(&it.name).ok()?, it.prefix.clone()))).collect(),
            parameters: rule.from_params.iter().map(|name| name.to_string()).collect(),
            cookies: rule.from_cookies.iter().map(|name| name.to_string()).collect(),
        }
    }

    pub(super) fn tokens<'a>(&'a self, request: &TokenRequest<'a>) -> Vec<Found<'a>> {
        let mut found = Vec::new();
        for (name, prefix) in &self.headers {
            for value in request.headers.get_all(name) {
                let text = String::from_utf8_lossy(value.as_bytes());
                if let Some(text) = after_prefix(text, prefix) {
                    found.push(Found { text, header: Some(name), parameter: None });
                }
            }
        }
        for name in &self.parameters {
            let mut parameters = parameters(request.path).map(|pair| pair.split_once('=').unwrap_or((pair, "")));
            if let Some((_, value)) = parameters.find(|(key, _)| decoded(key) == *name) {
                found.push(Found { text: decoded(value), header: None, parameter: Some(name) });
            }
        }
        for name in &self.cookies {
            let lines = request.headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
            let mut cookies = lines.flat_map(|line| line.split(';')).filter_map(|cookie| cookie.trim().split_once('='));
            if let Some((_, value)) = cookies.find(|(key, _)| key == name) {
                let text = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value);
                found.push(Found { text: text.into(), header: None, parameter: None });
            }
        }
        found
    }
}

/// What follows a prefix, from the first character on that a token may have. The prefix may stand anywhere.
fn after_prefix<'a>(value: Cow<'a, str>, prefix: &str) -> Option<Cow<'a, str>> {
    if prefix.is_empty() {
        return Some(value);
    }
    let after = value.find(prefix)? + prefix.len();
    let Some(start) = value[after..].bytes().position(is_token_byte) else { return Some(value) };
    let start = after + start;
    Some(match value {
        Cow::Borrowed(value) => value[start..].into(),
        Cow::Owned(value) => value[start..].to_owned().into(),
    })
}

/// The pairs of a path's query.
fn parameters(path: &str) -> impl Iterator<Item = &str> {
    let query = path.split_once('?').map_or("", |(_, query)| query);
    query.split('#').next().unwrap_or_default().split('&').filter(|pair| !pair.is_empty())
}

/// The path with the query, without some of its parameters.
pub(super) fn without_parameters(path: &str, names: &[&str]) -> String {
    let bare = path.split_once('?').map_or(path, |(bare, _)| bare);
    let kept = |pair: &&str| {
        let key = decoded(pair.split('=').next().unwrap_or_default());
        !names.iter().any(|name| key == *name)
    };
    let kept: Vec<&str> = parameters(path).filter(kept).collect();
    if kept.is_empty() { bare.to_owned() } else { format!("{bare}?{}", kept.join("&")) }
}
