//! One JSON Web Token (RFC 7519, RFC 7515): read, and checked against a rule.

use std::{fmt, str::FromStr};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use http::StatusCode;
use jsonwebtoken::Algorithm;
use serde_json::{Map, Value};

/// How far the clocks of issuer and node may differ, in seconds; Envoy's default.
const CLOCK_SKEW_SECS: u64 = 60;

/// A token that was read and not verified yet.
#[derive(Debug)]
pub(crate) struct Token<'t> {
    /// Header and payload, as they were signed.
    pub(crate) signed: &'t str,
    /// In base64url, as the next one.
    pub(crate) signature: &'t str,
    pub(crate) payload: &'t str,
    pub(crate) algorithm: (String, Algorithm),
    pub(crate) key_id: Option<String>,
    pub(crate) claims: Map<String, Value>,
    /// In seconds since 1970, as the next one.
    expires: Option<u64>,
    not_before: Option<u64>,
}

/// Why a request's tokens do not do. The words are Envoy's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    Missing,
    BadForm,
    HeaderNotBase64,
    HeaderNotJson,
    AlgorithmMissing,
    AlgorithmNotSupported,
    KeyIdNotText,
    PayloadNotBase64,
    PayloadNotJson,
    IssuerNotText,
    SubjectNotText,
    IssuedAtNotNumber,
    NotBeforeNotNumber,
    ExpiryNotNumber,
    AudienceNotText,
    SignatureNotBase64,
    UnknownIssuer,
    Expired,
    NotYetValid,
    WrongAudience,
    NoKeys,
    NoSuchKey,
    WrongSignature,
    KeysNotFetched,
}

impl Refusal {
    /// 403 where the token is good and for somebody else; 401 otherwise.
    pub fn status(self) -> StatusCode {
        match self {
            Self::WrongAudience => StatusCode::FORBIDDEN,
            _ => StatusCode::UNAUTHORIZED,
        }
    }

    /// The answer's header `www-authenticate` (RFC 6750, section 3) for a request of this URL without query.
    pub fn challenge(self, url: &str) -> String {
        match self {
            Self::Missing => format!("Bearer realm=\"{url}\""),
            _ => format!("Bearer realm=\"{url}\", error=\"invalid_token\""),
        }
    }
}

/// The answer's body.
impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "Jwt is missing",
            Self::BadForm => "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections",
            Self::HeaderNotBase64 => "Jwt header is an invalid Base64url encoded",
            Self::HeaderNotJson => "Jwt header is an invalid JSON",
            Self::AlgorithmMissing => "Jwt header [alg] field is required and must be a string",
            Self::AlgorithmNotSupported => "Jwt header [alg] is not supported",
            Self::KeyIdNotText => "Jwt header [kid] field is not a string",
            Self::PayloadNotBase64 => "Jwt payload is an invalid Base64url encoded",
            Self::PayloadNotJson => "Jwt payload is an invalid JSON",
            Self::IssuerNotText => "Jwt payload [iss] field is not a string",
            Self::SubjectNotText => "Jwt payload [sub] field is not a string",
            Self::IssuedAtNotNumber => "Jwt payload [iat] field is not an integer",
            Self::NotBeforeNotNumber => "Jwt payload [nbf] field is not an integer",
            Self::ExpiryNotNumber => "Jwt payload [exp] field is not an integer",
            Self::AudienceNotText => "Jwt payload [aud] field is not a string or string list",
            Self::SignatureNotBase64 => "Jwt signature is an invalid Base64url encoded",
            Self::UnknownIssuer => "Jwt issuer is not configured",
            Self::Expired => "Jwt is expired",
            Self::NotYetValid => "Jwt not yet valid",
            Self::WrongAudience => "Audiences in Jwt are not allowed",
            Self::NoKeys => "Jwks doesn't have any valid public key",
            Self::NoSuchKey => "Jwks doesn't have key to match kid or alg from Jwt",
            Self::WrongSignature => "Jwt verification fails",
            Self::KeysNotFetched => "Jwks remote fetch is failed",
        })
    }
}

impl std::error::Error for Refusal {}

impl<'t> Token<'t> {
    pub(crate) fn read(text: &'t str) -> Result<Self, Refusal> {
        let (signed, signature) = text.rsplit_once('.').ok_or(Refusal::BadForm)?;
        let (header, payload) = signed.split_once('.').ok_or(Refusal::BadForm)?;
        if payload.contains('.') {
            return Err(Refusal::BadForm);
        }
        let header = object(header, Refusal::HeaderNotBase64, Refusal::HeaderNotJson)?;
        let name = header.get("alg").and_then(Value::as_str).ok_or(Refusal::AlgorithmMissing)?;
        let algorithm = Algorithm::from_str(name).map_err(|_| Refusal::AlgorithmNotSupported)?;
        let key_id = optional_text(&header, "kid", Refusal::KeyIdNotText)?.map(str::to_owned);
        let claims = object(payload, Refusal::PayloadNotBase64, Refusal::PayloadNotJson)?;
        optional_text(&claims, "iss", Refusal::IssuerNotText)?;
        optional_text(&claims, "sub", Refusal::SubjectNotText)?;
        seconds(&claims, "iat", Refusal::IssuedAtNotNumber)?;
        let not_before = seconds(&claims, "nbf", Refusal::NotBeforeNotNumber)?;
        let expires = seconds(&claims, "exp", Refusal::ExpiryNotNumber)?;
        let audience_is_good = match claims.get("aud") {
            None | Some(Value::Null | Value::String(_)) => true,
            Some(Value::Array(items)) => items.iter().all(Value::is_string),
            Some(_) => false,
        };
        if !audience_is_good {
            return Err(Refusal::AudienceNotText);
        }
        if BASE64_URL_SAFE_NO_PAD.decode(signature).is_err() {
            return Err(Refusal::SignatureNotBase64);
        }
        let algorithm = (name.to_owned(), algorithm);
        Ok(Self { signed, signature, payload, algorithm, key_id, claims, expires, not_before })
    }

    pub(crate) fn issuer(&self) -> &str {
        self.claims.get("iss").and_then(Value::as_str).unwrap_or_default()
    }

    /// `now` is in seconds since 1970.
    pub(crate) fn check_time(&self, now: u64) -> Result<(), Refusal> {
        if self.not_before.is_some_and(|from| now.saturating_add(CLOCK_SKEW_SECS) < from) {
            return Err(Refusal::NotYetValid);
        }
        let has_ended = |end: u64| end > 0 && now > end.saturating_add(CLOCK_SKEW_SECS);
        if self.expires.is_some_and(has_ended) { Err(Refusal::Expired) } else { Ok(()) }
    }

    /// Whether it is for one of some audiences; they are compared without scheme and last slash.
    pub(crate) fn is_for_any(&self, audiences: &[String]) -> bool {
        let mine = match self.claims.get("aud") {
            Some(Value::Array(items)) => items.as_slice(),
            Some(one) => std::slice::from_ref(one),
            None => &[],
        };
        let mut mine = mine.iter().filter_map(Value::as_str).map(bare_audience);
        audiences.is_empty() || mine.any(|one| audiences.iter().any(|wanted| bare_audience(wanted) == one))
    }
}

fn bare_audience(audience: &str) -> &str {
    let bare = audience.strip_prefix("https://").or_else(|| audience.strip_prefix("http://")).unwrap_or(audience);
    bare.strip_suffix('/').unwrap_or(bare)
}

fn object(part: &str, not_base64: Refusal, not_json: Refusal) -> Result<Map<String, Value>, Refusal> {
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(part).map_err(|_| not_base64)?;
    serde_json::from_slice(&bytes).map_err(|_| not_json)
}

fn optional_text<'v>(map: &'v Map<String, Value>, name: &str, wrong: Refusal) -> Result<Option<&'v str>, Refusal> {
    match map.get(name) {
        None => Ok(None),
        Some(value) => value.as_str().map(Some).ok_or(wrong),
    }
}

/// A time in seconds since 1970.
fn seconds(claims: &Map<String, Value>, name: &str, wrong: Refusal) -> Result<Option<u64>, Refusal> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    // Whole seconds are enough: a fraction is cut off.
    let of_float = || value.as_f64().filter(|seconds| (0.0..9e15).contains(seconds)).map(|seconds| seconds as u64);
    value.as_u64().or_else(of_float).map(Some).ok_or(wrong)
}
