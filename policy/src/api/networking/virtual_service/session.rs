//! Sessions that stay with an endpoint.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::{api::values::Timeout, document::Checker, session};

/// A client's requests go to the endpoint that its first one went to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct SessionPersistence {
    /// `COOKIE` if absent.
    #[serde(rename = "type")]
    pub kind: Option<SessionPersistenceType>,
    pub absolute_timeout: Option<Timeout>,
    pub cookie: Option<SessionCookie>,
    pub header: Option<SessionHeader>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum SessionPersistenceType {
    #[default]
    Cookie,
    Header,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct SessionCookie {
    pub name: String,
    pub path: String,
    /// `SESSION` if absent.
    pub lifetime_type: Option<CookieLifetime>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum CookieLifetime {
    Session,
    /// Ends with `absoluteTimeout`.
    Permanent,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SessionHeader {
    pub name: String,
}

impl SessionPersistence {
    pub(super) fn check(&self, checker: &mut Checker<'_>) {
        let fits = match self.kind.unwrap_or_default() {
            SessionPersistenceType::Cookie => self.header.is_none(),
            SessionPersistenceType::Header => self.header.is_some() && self.cookie.is_none(),
        };
        if !fits {
            checker.error("type must match what is given: cookie for COOKIE, header for HEADER");
        }
        let lifetime = self.cookie.as_ref().and_then(|cookie| cookie.lifetime_type);
        if lifetime == Some(CookieLifetime::Permanent) && self.absolute_timeout.is_none() {
            checker.error("a cookie with lifetimeType PERMANENT needs absoluteTimeout");
        }
        checker.given("header", &self.header, |checker, header| {
            if !session::is_header_name(&header.name) {
                checker.error_in("name", format!("{:?} cannot be the name of a header of its own", header.name));
            }
        });
        checker.given("cookie", &self.cookie, |checker, cookie| {
            if !cookie.name.is_empty() && !session::is_cookie_name(&cookie.name) {
                checker.error_in("name", format!("{:?} is not a cookie's name", cookie.name));
            }
            if !cookie.path.is_empty() && !session::is_cookie_path(&cookie.path) {
                checker.error_in("path", format!("{:?} is not a cookie's path; write one such as /shop", cookie.path));
            }
        });
    }
}
