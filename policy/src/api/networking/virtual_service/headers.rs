//! Headers that a rule removes, sets and adds.

use std::collections::BTreeMap;

use http::HeaderName;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::{
    document::Checker,
    headers::{Template, TemplateError, is_of_connection},
};

#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Headers {
    pub request: Option<HeaderOperations>,
    pub response: Option<HeaderOperations>,
}

/// Headers to remove, then to set (replacing), then to add (beside what there is).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct HeaderOperations {
    pub set: BTreeMap<String, String>,
    pub add: BTreeMap<String, String>,
    pub remove: Vec<String>,
}

/// Whether a header operation means the request's host.
pub(crate) fn is_authority(name: &str) -> bool {
    name == ":authority" || name.eq_ignore_ascii_case("host")
}

/// The names of headers that conditions may ask for: Istio lets them have letters, digits, `-` and `_`.
pub(crate) fn is_header_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}

impl Headers {
    pub(crate) fn check(&self, checker: &mut Checker<'_>) {
        checker.given("request", &self.request, |checker, operations| operations.check(true, checker));
        checker.given("response", &self.response, |checker, operations| operations.check(false, checker));
    }
}

impl HeaderOperations {
    pub(super) fn check(&self, of_request: bool, checker: &mut Checker<'_>) {
        for (key, values) in [("set", &self.set), ("add", &self.add)] {
            checker.field(key, |checker| {
                for (name, value) in values {
                    check_operated_header(name, of_request, checker);
                    match Template::read(value) {
                        Ok(_) => {}
                        Err(TemplateError::NotHere) => checker.pending(name, true),
                        Err(TemplateError::Malformed(what)) => checker.error_in(name, what),
                    }
                }
            });
        }
        checker.each("remove", &self.remove, |checker, name| {
            if is_authority(name) {
                checker.error("a request needs its host: it cannot be removed");
            } else {
                check_operated_header(name, false, checker);
            }
        });
    }
}

fn check_operated_header(name: &str, authority: bool, checker: &mut Checker<'_>) {
    if is_authority(name) {
        if !authority {
            checker.error_in(name, "may be set in requests only");
        }
    } else if name.starts_with(':') {
        checker.error_in(name, "is a pseudo-header: only :authority may be set");
    } else {
        match HeaderName::from_bytes(name.as_bytes()) {
            Err(_) => checker.error_in(name, "is not a header's name"),
            Ok(known) if is_of_connection(&known) => {
                checker.warn_in(name, "has no effect: the header belongs to one connection, not to the request");
            }
            Ok(_) => {}
        }
    }
}
