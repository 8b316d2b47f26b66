//! What a rule asks of a request.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{MESH_GATEWAY, check_gateway_name, headers::is_header_name};
use crate::{
    api::{
        networking::names::is_name,
        values::{Labels, Port, StringMatch},
    },
    document::Checker,
};

/// What a request must be: all conditions hold together.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct HttpMatchRequest {
    pub name: String,
    /// The path, without query.
    pub uri: Option<StringMatch>,
    pub scheme: Option<StringMatch>,
    pub method: Option<StringMatch>,
    pub authority: Option<StringMatch>,
    pub headers: BTreeMap<String, StringMatch>,
    /// The port that the client dialled.
    pub port: Option<Port>,
    /// Labels of the client.
    pub source_labels: Labels,
    pub gateways: Vec<String>,
    pub query_params: BTreeMap<String, StringMatch>,
    /// For exact and prefix matches of the path.
    pub ignore_uri_case: bool,
    /// Conditions that must not hold.
    pub without_headers: BTreeMap<String, StringMatch>,
    pub source_namespace: String,
    pub stat_prefix: String,
}

impl HttpMatchRequest {
    pub(super) fn check(&self, for_mesh: bool, checker: &mut Checker<'_>) {
        for (key, conditions) in [("headers", &self.headers), ("withoutHeaders", &self.without_headers)] {
            checker.field(key, |checker| {
                for name in conditions.keys() {
                    check_matched_header(name, for_mesh, checker);
                    checker.pending(name, name.starts_with('@'));
                }
            });
        }
        checker.field("queryParams", |checker| {
            if self.query_params.contains_key("") {
                checker.error("the name of a parameter must not be empty");
            }
        });
        checker.each("gateways", &self.gateways, |checker, gateway| check_gateway_name(gateway, checker));
        if !self.source_namespace.is_empty() && !is_name(&self.source_namespace) {
            checker.error_in("sourceNamespace", "must be a namespace");
        }
        let of_gateway = |gateway: &String| gateway != MESH_GATEWAY;
        checker.pending("gateways", self.gateways.iter().any(of_gateway));
    }

    /// Whether it asks for the path alone, by a prefix.
    pub(super) fn is_by_prefix(&self) -> bool {
        matches!(self.uri, Some(StringMatch::Prefix(_)))
    }
}

fn check_matched_header(name: &str, for_mesh: bool, checker: &mut Checker<'_>) {
    if name.starts_with('@') {
        // `@request.auth.claims.NAME`: a claim of the caller's token.
        let claim = name.strip_prefix("@request.auth.claims.").or_else(|| name.strip_prefix("@request.auth.claims["));
        if claim.is_none_or(str::is_empty) {
            checker.error_in(name, "must be @request.auth.claims.NAME or @request.auth.claims[NAME]");
        } else if for_mesh {
            checker.error_in(name, "is a claim: it can be matched at gateways only, so gateways must name some");
        }
    } else if name.starts_with(':') {
        if ![":method", ":authority", ":scheme"].contains(&name) {
            checker.error_in(name, "is not one of :method, :authority, :scheme; match the path by uri");
        }
    } else if !is_header_name(name) {
        checker.error_in(name, "is not a header's name");
    }
}
