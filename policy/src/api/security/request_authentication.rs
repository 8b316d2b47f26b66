//! RequestAuthentication: which tokens workloads take. Rules: Istio's `pkg/config/validation/validation.go`.

use std::str::FromStr;

use http::{HeaderName, Uri, uri::Scheme};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::{
    api::{
        target::{PolicyTargetReference, Target, WorkloadSelector},
        values::{List, NonEmpty, Timeout},
    },
    authenticate::Jwks,
    document::Checker,
    kinds::Resource,
};

/// Longest URL of a key set, in bytes.
const MAX_URL_LEN: usize = 2048;

/// Which tokens workloads take. A request with a bad token is refused; one without any passes, and has no identity.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RequestAuthentication {
    /// Without it, all workloads of the namespace; in the root namespace, all of the mesh.
    pub selector: Option<WorkloadSelector>,
    /// Old form of `targetRefs`.
    pub target_ref: Option<PolicyTargetReference>,
    pub target_refs: List<PolicyTargetReference, 0, 16>,
    pub jwt_rules: List<JwtRule, 0, 4096>,
}

/// The tokens (RFC 7519) of one issuer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct JwtRule {
    /// What the claim `iss` must be.
    pub issuer: Option<NonEmpty>,
    /// One of them must be in the claim `aud`; without them, any may.
    pub audiences: Vec<NonEmpty>,
    /// Where the issuer's keys are. Without it they are found by OpenID Connect Discovery, from the issuer.
    #[serde(alias = "jwks_uri")]
    pub jwks_uri: Option<NonEmpty>,
    /// The issuer's keys themselves (RFC 7517).
    pub jwks: Option<String>,
    /// Where a token may be. Without any place, `authorization: Bearer` and the parameter `access_token`.
    pub from_headers: Vec<JwtHeader>,
    pub from_params: Vec<NonEmpty>,
    pub from_cookies: Vec<NonEmpty>,
    /// The workload gets the token's payload in this header, as base64url.
    pub output_payload_to_header: Option<String>,
    /// The workload gets claims in headers.
    pub output_claim_to_headers: Vec<ClaimToHeader>,
    /// Whether the workload gets the token too.
    pub forward_original_token: bool,
    /// How long fetching the keys may take; 5 s if absent.
    pub timeout: Option<Timeout>,
    /// Claims that are lists of words in one text, as `scope` and `permission` always are.
    pub space_delimited_claims: List<NonEmpty, 0, 64>,
    pub presence: Presence,
}

/// Whether a request must have a token of this rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum Presence {
    #[default]
    Optional,
    Required,
}

/// A header that may hold a token.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct JwtHeader {
    pub name: NonEmpty,
    /// What stands before the token, such as `Bearer ` with its space.
    #[serde(default)]
    pub prefix: String,
}

/// A claim that the workload gets in a header.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClaimToHeader {
    pub header: NonEmpty,
    /// Of type text, whole number or boolean; `a.b` is a claim inside of another.
    pub claim: NonEmpty,
}

impl RequestAuthentication {
    pub(crate) fn target(&self) -> Target<'_> {
        Target { selector: &self.selector, target_ref: &self.target_ref, target_refs: &self.target_refs }
    }
}

impl Resource for RequestAuthentication {
    fn check(&self, checker: &mut Checker<'_>) {
        self.target().check(checker);
        checker.each("jwtRules", &self.jwt_rules, |checker, rule| rule.check(checker));
    }
}

impl JwtRule {
    fn check(&self, checker: &mut Checker<'_>) {
        if self.issuer.is_none() && self.jwks_uri.is_none() {
            checker.error("issuer or jwksUri must be given");
        }
        checker.at_most_one(&[("jwksUri", self.jwks_uri.is_some()), ("jwks", self.jwks.is_some())]);
        checker.given("jwksUri", &self.jwks_uri, |checker, url| {
            if let Err(what) = check_url(url) {
                checker.error(what);
            }
        });
        checker.given("jwks", &self.jwks, |checker, text| check_keys(text, checker));
        checker.each("fromHeaders", &self.from_headers, |checker, header| check_header("name", &header.name, checker));
        if let Some(header) = self.output_payload_to_header.as_deref().filter(|header| !header.is_empty()) {
            check_header("outputPayloadToHeader", header, checker);
        }
        checker.each("outputClaimToHeaders", &self.output_claim_to_headers, |checker, output| {
            check_output_header(&output.header, checker);
        });
    }
}

fn check_header(key: &str, name: &str, checker: &mut Checker<'_>) {
    if HeaderName::from_str(name).is_err() {
        checker.error_in(key, format!("{name:?} is not a header's name"));
    }
}

fn check_output_header(name: &str, checker: &mut Checker<'_>) {
    if !name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_')) {
        checker.error_in("header", format!("{name:?} must be letters, digits, '-' and '_'"));
    }
}

fn check_url(url: &str) -> Result<(), String> {
    if url.len() > MAX_URL_LEN {
        return Err(format!("has {} characters; {MAX_URL_LEN} are the most", url.len()));
    }
    let parsed = url.parse::<Uri>().ok().filter(|uri| {
        let has_scheme = uri.scheme().is_some_and(|scheme| *scheme == Scheme::HTTP || *scheme == Scheme::HTTPS);
        // A port that is no number reads as none.
        let port = uri.authority().and_then(|authority| authority.as_str().rsplit_once(':'));
        let has_port = port.is_none_or(|(_, port)| port.ends_with(']') || uri.port_u16().is_some());
        has_scheme && has_port && uri.host().is_some_and(|host| !host.is_empty())
    });
    match parsed {
        Some(_) => Ok(()),
        None => Err(format!("{url:?} is not a URL that starts with http:// or https://")),
    }
}

fn check_keys(text: &str, checker: &mut Checker<'_>) {
    let keys = match Jwks::read(text) {
        Ok(keys) => keys,
        Err(what) => return checker.error(what),
    };
    if let Some(problem) = keys.problems.first() {
        return checker.error(problem);
    }
    if keys.is_empty() {
        checker.warn("has no key, so that no token is taken");
    }
    if keys.has_secrets {
        checker.warn("has a private key: give public keys alone, and replace this one, which many can read now");
    }
}
