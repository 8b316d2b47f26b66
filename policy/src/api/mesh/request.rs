//! Which requests a policy is about.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::{
    api::values::{List, NonEmpty, StringMatch},
    document::Checker,
};

/// What a request must be: all conditions hold together.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RequestCondition {
    /// The path, without query.
    pub path: Option<StringMatch>,
    pub method: Option<StringMatch>,
    pub headers: BTreeMap<String, StringMatch>,
    /// Callers, as in AuthorizationPolicy: `cluster.local/ns/default/sa/web`, with one `*` at most, at its start or
    /// its end.
    pub principals: List<NonEmpty, 0, 64>,
}

impl RequestCondition {
    pub(super) fn check(&self, checker: &mut Checker<'_>) {
        if *self == Self::default() {
            checker.error("must give path, method, headers or principals; leave match out for all requests");
        }
        checker.field("headers", |checker| {
            for name in self.headers.keys() {
                check_header_name(name, checker);
            }
        });
        checker.each("principals", &self.principals, |checker, principal| {
            if principal.starts_with("spiffe://") {
                checker.error("must not start with spiffe://, as in AuthorizationPolicy");
            }
            let inner = principal.strip_prefix('*').unwrap_or_else(|| principal.strip_suffix('*').unwrap_or(principal));
            if inner.contains('*') {
                checker.error(format!("{:?} has a * elsewhere than at its start or its end", &**principal));
            }
        });
    }
}

fn check_header_name(name: &str, checker: &mut Checker<'_>) {
    if http::HeaderName::from_bytes(name.as_bytes()).is_err() {
        checker.error_in(name, "is not a header's name");
    }
}
