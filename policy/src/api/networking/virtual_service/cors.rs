//! Cross-origin requests.

use schemars::JsonSchema;
use serde::Deserialize;

use super::headers::is_header_name;
use crate::{
    api::values::{Span, StringMatch},
    document::Checker,
};

/// Cross-origin requests (<https://fetch.spec.whatwg.org/#http-cors-protocol>).
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct CorsPolicy {
    /// Old form of `allowOrigins`: exact names.
    pub allow_origin: Vec<String>,
    pub allow_origins: Vec<StringMatch>,
    pub allow_methods: Vec<String>,
    pub allow_headers: Vec<String>,
    pub expose_headers: Vec<String>,
    pub max_age: Option<Span<0>>,
    pub allow_credentials: Option<bool>,
    pub unmatched_preflights: Option<UnmatchedPreflights>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum UnmatchedPreflights {
    Unspecified,
    /// To the service: the default.
    Forward,
    /// Answered by the proxy, without the headers that would allow the request.
    Ignore,
}

/// The methods that a CORS policy may name.
const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "CONNECT", "OPTIONS", "TRACE"];

impl CorsPolicy {
    pub(super) fn check(&self, checker: &mut Checker<'_>) {
        checker.each("allowMethods", &self.allow_methods, |checker, method| {
            if method != "*" && !METHODS.contains(&method.as_str()) {
                checker.error(format!("{method:?} is not one of {}", METHODS.join(", ")));
            }
        });
        for (key, names) in [("allowHeaders", &self.allow_headers), ("exposeHeaders", &self.expose_headers)] {
            checker.each(key, names, |checker, name| {
                if name != "*" && !is_header_name(name) {
                    checker.error(format!("{name:?} is not a header's name"));
                }
            });
        }
        checker.each("allowOrigins", &self.allow_origins, |checker, origin| {
            if *origin == StringMatch::Any || *origin == StringMatch::Exact(String::new()) {
                checker.error("must give one of exact, prefix, suffix and regex");
            }
        });
        checker.given("maxAge", &self.max_age, |checker, age| {
            if age.get().subsec_nanos() != 0 {
                checker.error("must be whole seconds");
            }
        });
    }
}
