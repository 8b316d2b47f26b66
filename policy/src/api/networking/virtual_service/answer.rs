//! What the proxy answers itself: redirects and direct responses.

use schemars::JsonSchema;
use serde::Deserialize;

use super::HttpMatchRequest;
use crate::{
    api::{
        core::Base64,
        values::{Int, Port},
    },
    document::Checker,
};

/// Largest body of a direct response, in bytes.
const MAX_BODY_LEN: usize = 1024 * 1024;

/// Sends the client elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct HttpRedirect {
    pub uri: String,
    /// Replaces the prefix that matched, and keeps the rest of the path.
    pub prefix_rewrite: String,
    pub authority: String,
    pub port: Option<Port>,
    pub derive_port: Option<RedirectPortSelection>,
    pub scheme: String,
    /// 301 if absent.
    pub redirect_code: Option<Int<300, 399>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum RedirectPortSelection {
    FromProtocolDefault,
    FromRequestPort,
}

/// An answer that the proxy gives itself.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpDirectResponse {
    pub status: Int<200, 599>,
    #[serde(default)]
    pub body: Option<HttpBody>,
}

/// One of `string` and `bytes` (base64).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct HttpBody {
    pub string: Option<String>,
    pub bytes: Option<Base64>,
}

impl HttpRedirect {
    pub(super) fn check(&self, matches: &[HttpMatchRequest], checker: &mut Checker<'_>) {
        let (by_uri, by_prefix) = (!self.uri.is_empty(), !self.prefix_rewrite.is_empty());
        let sets_port = self.port.is_some() || self.derive_port.is_some();
        if !by_uri && !by_prefix && self.authority.is_empty() && !sets_port && self.scheme.is_empty() {
            checker.error("must set uri, prefixRewrite, authority, port or scheme");
        }
        checker.at_most_one(&[("uri", by_uri), ("prefixRewrite", by_prefix)]);
        checker.at_most_one(&[("port", self.port.is_some()), ("derivePort", self.derive_port.is_some())]);
        if !self.scheme.is_empty() && !["http", "https"].contains(&self.scheme.as_str()) {
            checker.error_in("scheme", "must be http or https");
        }
        let all_by_prefix = !matches.is_empty() && matches.iter().all(HttpMatchRequest::is_by_prefix);
        for (key, given) in [("uri", self.uri.contains("%PREFIX()%")), ("prefixRewrite", by_prefix)] {
            if given && !all_by_prefix {
                checker.error_in(key, "replaces a prefix: every match must have a prefix of uri");
            }
        }
    }
}

impl HttpDirectResponse {
    pub(super) fn check(&self, checker: &mut Checker<'_>) {
        checker.given("body", &self.body, |checker, body| {
            checker.exactly_one(&[("string", body.string.is_some()), ("bytes", body.bytes.is_some())]);
            let len =
                body.string.as_ref().map_or(0, String::len) + body.bytes.as_ref().map_or(0, |bytes| bytes.0.len());
            if len > MAX_BODY_LEN {
                checker.error(format!("has {len} bytes; {MAX_BODY_LEN} are the most"));
            } else if len > 100 * 1024 {
                checker.warn("is large: every node keeps it in memory");
            }
        });
    }
}

impl HttpBody {
    /// What is sent; `None` for neither.
    pub(crate) fn content(&self) -> Option<Vec<u8>> {
        match (&self.string, &self.bytes) {
            (Some(text), _) => Some(text.clone().into_bytes()),
            (None, bytes) => bytes.as_ref().map(|bytes| bytes.0.clone()),
        }
    }
}
