//! What goes upstream instead of what came.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::{api::values::NonEmpty, document::Checker, rewrite::RegexRewrite as CompiledRewrite};

/// What goes upstream instead of what came.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct HttpRewrite {
    /// Replaces what the rule's condition on the path matched.
    pub uri: String,
    pub authority: String,
    pub uri_regex_rewrite: Option<RegexRewrite>,
}

#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RegexRewrite {
    #[serde(rename = "match")]
    pub pattern: String,
    /// May name groups as `\1`.
    pub rewrite: NonEmpty,
}

impl HttpRewrite {
    pub(super) fn check(&self, checker: &mut Checker<'_>) {
        let by_regex = self.uri_regex_rewrite.is_some();
        if self.uri.is_empty() && self.authority.is_empty() && !by_regex {
            checker.error("must give uri, uriRegexRewrite or authority");
        }
        checker.at_most_one(&[("uri", !self.uri.is_empty()), ("uriRegexRewrite", by_regex)]);
        if !self.uri.bytes().all(|b| b.is_ascii_graphic() && b != b'#') {
            checker.error_in("uri", "must be a path: visible ASCII without '#'");
        }
        if !self.authority.is_empty() && !is_authority_value(&self.authority) {
            checker.error_in("authority", format!("{:?} must be HOST or HOST:PORT", self.authority));
        }
        checker.given("uriRegexRewrite", &self.uri_regex_rewrite, |checker, rewrite| {
            if let Err(what) = CompiledRewrite::new(&rewrite.pattern, &rewrite.rewrite) {
                checker.error(what);
            }
        });
    }
}

/// User information has no place in a Host header.
fn is_authority_value(text: &str) -> bool {
    text.parse::<http::uri::Authority>().is_ok() && !text.contains('@')
}
