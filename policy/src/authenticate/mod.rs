//! Which tokens a workload takes: the RequestAuthentications that are for it, compiled. Rules of section "D-JWT".
//!
//! Pure: keys come from the caller, who fetches them where [`Outcome::NeedsKeys`] says and asks again.

mod claims;
mod keys;
mod place;
#[cfg(test)]
mod tests;
mod token;

use std::{borrow::Cow, collections::BTreeSet, str::FromStr, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use weft_wire::document::DocumentKey;

pub use self::{
    claims::Claims,
    keys::{Jwks, MAX_JWKS_LEN, MAX_KEYS},
    token::Refusal,
};
use self::{
    keys::KeyError,
    place::{Places, without_parameters},
    token::Token,
};
use crate::{
    api::{
        security::{JwtRule, Presence, RequestAuthentication},
        target::Workload,
    },
    document::{Document, Spec},
};

/// How long fetching keys may take where the rule does not say it.
const DEFAULT_FETCH_TIMEOUT: Duration = Duration::from_secs(5);

/// The parts of a request where tokens may be.
#[derive(Clone, Copy, Debug)]
pub struct TokenRequest<'a> {
    pub method: &'a Method,
    /// With the query.
    pub path: &'a str,
    pub headers: &'a HeaderMap,
}

/// Where an issuer's keys are.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeysAt {
    /// A URL of a key set.
    Url(String),
    /// An issuer, whose `/.well-known/openid-configuration` has the URL as `jwks_uri`.
    Issuer(String),
}

/// What the caller knows of keys.
#[derive(Clone, Debug)]
pub enum KnownKeys {
    Known(Arc<Jwks>),
    NotFetched,
    /// They could not be fetched, and need not be tried again yet.
    Failed,
}

/// What comes of a request's tokens.
#[derive(Debug)]
pub enum Outcome<'a> {
    /// It has none, and needs none.
    Anonymous,
    Authenticated(Authenticated<'a>),
    Refused(Refusal),
    /// Keys must be fetched first, within the timeout.
    NeedsKeys {
        at: &'a KeysAt,
        timeout: Duration,
    },
}

/// What verified tokens say, and what becomes of the request that had them.
#[derive(Debug)]
pub struct Authenticated<'a> {
    pub claims: Claims,
    /// The rule that took the token.
    pub policy: &'a DocumentKey,
    pub rule: usize,
    /// Headers that held tokens, to be taken off.
    pub remove: Vec<HeaderName>,
    /// Headers to be set for the workload.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// The path with the query, where tokens were taken off it.
    pub path: Option<String>,
}

/// The token rules that are for one workload.
#[derive(Debug, Default)]
pub struct Authenticator {
    rules: Vec<TokenRule>,
    claimed_headers: Vec<HeaderName>,
    some_required: bool,
}

#[derive(Debug)]
struct TokenRule {
    policy: DocumentKey,
    /// Its place in `spec.jwtRules`.
    index: usize,
    issuer: Option<String>,
    audiences: Vec<String>,
    keys: RuleKeys,
    fetch_timeout: Duration,
    places: Places,
    forward: bool,
    payload_header: Option<HeaderName>,
    claim_headers: Vec<(HeaderName, String)>,
    word_lists: Vec<String>,
    required: bool,
}

#[derive(Debug)]
enum RuleKeys {
    Given(Jwks),
    At(KeysAt),
}

/// Why a rule does not take a request.
enum Failure<'a> {
    Refused(Refusal),
    NeedsKeys(&'a KeysAt, Duration),
}

impl From<Refusal> for Failure<'_> {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl Authenticator {
    /// Compiles the rules of the documents that are for the workload.
    pub fn compile<'d>(documents: impl IntoIterator<Item = &'d Document>, workload: &Workload<'_>) -> Self {
        let policies = documents.into_iter().filter_map(|document| match &document.spec {
            Spec::RequestAuthentication(policy) => Some((document, &**policy)),
            _ => None,
        });
        let mut rules: Vec<TokenRule> = policies
            .filter(|(document, policy)| policy.target().includes(&document.namespace(), workload))
            .flat_map(|(document, policy)| rules_of(document, policy))
            .collect();
        // By issuer, as Istio; then so that the order of the documents does not matter.
        rules.sort_by(|a, b| (&a.issuer, &a.policy, a.index).cmp(&(&b.issuer, &b.policy, b.index)));
        let claimed: BTreeSet<&str> =
            rules.iter().flat_map(TokenRule::output_headers).map(HeaderName::as_str).collect();
        let claimed_headers = claimed.into_iter().filter_map(|name| HeaderName::from_str(name).ok()).collect();
        let some_required = rules.iter().any(|rule| rule.required);
        Self { rules, claimed_headers, some_required }
    }

    /// Whether there is nothing to do for any request.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Headers that only this authenticator may set: what clients send in them must be taken off every request.
    pub fn claimed_headers(&self) -> &[HeaderName] {
        &self.claimed_headers
    }

    /// The rules, each by its document and its place in `spec.jwtRules`, with the issuer whose tokens it takes; `None`
    /// is any.
    pub fn rules(&self) -> impl Iterator<Item = (&DocumentKey, usize, Option<&str>)> {
        self.rules.iter().map(|rule| (&rule.policy, rule.index, rule.issuer.as_deref()))
    }

    /// The key sets that must be fetched, each with the time that this may take.
    pub fn key_sets(&self) -> impl Iterator<Item = (&KeysAt, Duration)> {
        self.rules.iter().filter_map(|rule| match &rule.keys {
            RuleKeys::At(at) => Some((at, rule.fetch_timeout)),
            RuleKeys::Given(_) => None,
        })
    }

    /// What comes of a request's tokens. `now` is in seconds since 1970.
    ///
    /// Where one rule or several say that a token is required, each of these must take one, and the others must not
    /// be given a bad one. Otherwise one rule that takes the request is enough, and no token at all is fine.
    pub fn authenticate(
        &self,
        request: &TokenRequest<'_>,
        keys: &dyn Fn(&KeysAt) -> KnownKeys,
        now: u64,
    ) -> Outcome<'_> {
        if self.rules.is_empty() || is_preflight(request) {
            return Outcome::Anonymous;
        }
        let mut taken: Option<Authenticated<'_>> = None;
        let mut refusal: Option<Refusal> = None;
        for rule in &self.rules {
            match rule.take(request, keys, now) {
                Ok(Some(authenticated)) if !self.some_required => return Outcome::Authenticated(authenticated),
                Ok(Some(authenticated)) => match &mut taken {
                    Some(first) => first.add(authenticated),
                    None => taken = Some(authenticated),
                },
                Ok(None) if rule.required => return Outcome::Refused(Refusal::Missing),
                Ok(None) => {}
                Err(Failure::NeedsKeys(at, timeout)) => return Outcome::NeedsKeys { at, timeout },
                Err(Failure::Refused(found)) if self.some_required => return Outcome::Refused(found),
                // Rules of other issuers at the same place refuse each token: that says the least.
                Err(Failure::Refused(found)) => {
                    if refusal.is_none_or(|refusal| refusal == Refusal::UnknownIssuer) {
                        refusal = Some(found);
                    }
                }
            }
        }
        match (refusal, taken) {
            (Some(refusal), _) => Outcome::Refused(refusal),
            (None, Some(authenticated)) => Outcome::Authenticated(authenticated),
            (None, None) => Outcome::Anonymous,
        }
    }
}

/// A browser asks before it sends a token (<https://fetch.spec.whatwg.org/#cors-preflight-request>).
fn is_preflight(request: &TokenRequest<'_>) -> bool {
    request.method == Method::OPTIONS
        && request.headers.contains_key(header::ORIGIN)
        && request.headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

fn rules_of<'d>(document: &'d Document, policy: &'d RequestAuthentication) -> impl Iterator<Item = TokenRule> + 'd {
    let rules = policy.jwt_rules.iter().enumerate();
    rules.filter_map(|(index, rule)| TokenRule::compile(document, index, rule))
}

impl TokenRule {
    /// `None` for a rule that could not have been stored: keys that cannot be read, no issuer.
    fn compile(document: &Document, index: usize, rule: &JwtRule) -> Option<Self> {
        let issuer = rule.issuer.as_ref().map(|issuer| issuer.to_string());
        let keys = match (&rule.jwks, &rule.jwks_uri) {
            (Some(text), _) => RuleKeys::Given(Jwks::read(text).ok()?),
            (None, Some(url)) => RuleKeys::At(KeysAt::Url(url.to_string())),
            (None, None) => RuleKeys::At(KeysAt::Issuer(issuer.clone()?)),
        };
        let header = |name: &str| HeaderName::from_str(name).ok();
        let outputs = rule.output_claim_to_headers.iter();
        Some(Self {
            policy: document.key.clone(),
            index,
            issuer,
            audiences: rule.audiences.iter().map(|audience| audience.to_string()).collect(),
            keys,
            fetch_timeout: rule.timeout.map_or(DEFAULT_FETCH_TIMEOUT, |timeout| timeout.get()),
            places: Places::of(rule),
            forward: rule.forward_original_token,
            payload_header: rule.output_payload_to_header.as_deref().and_then(header),
            claim_headers: outputs.filter_map(|to| Some((header(&to.header)?, to.claim.to_string()))).collect(),
            word_lists: rule.space_delimited_claims.iter().map(|claim| claim.to_string()).collect(),
            required: rule.presence == Presence::Required,
        })
    }

    fn output_headers(&self) -> impl Iterator<Item = &HeaderName> {
        self.payload_header.iter().chain(self.claim_headers.iter().map(|(name, _)| name))
    }

    /// Takes the request if all tokens where this rule looks are good: one bad among them could be what the workload
    /// believes. `None` if there is no token.
    fn take<'a>(
        &'a self,
        request: &TokenRequest<'_>,
        keys: &dyn Fn(&KeysAt) -> KnownKeys,
        now: u64,
    ) -> Result<Option<Authenticated<'a>>, Failure<'a>> {
        let tokens = self.places.tokens(request);
        let mut taken: Option<Authenticated<'a>> = None;
        let mut parameters = Vec::new();
        for found in &tokens {
            let token = self.verify(&found.text, keys, now)?;
            let authenticated = taken.get_or_insert_with(|| self.authenticated(&token));
            if !self.forward {
                authenticated.remove.extend(found.header.cloned());
                parameters.extend(found.parameter);
            }
        }
        if let Some(authenticated) = taken.as_mut().filter(|_| !parameters.is_empty()) {
            authenticated.path = Some(without_parameters(request.path, &parameters));
        }
        Ok(taken)
    }

    fn verify<'a, 't>(
        &'a self,
        text: &'t str,
        keys: &dyn Fn(&KeysAt) -> KnownKeys,
        now: u64,
    ) -> Result<Token<'t>, Failure<'a>> {
        let token = Token::read(text)?;
        if self.issuer.as_ref().is_some_and(|issuer| issuer != token.issuer()) {
            return Err(Refusal::UnknownIssuer.into());
        }
        token.check_time(now)?;
        if !token.is_for_any(&self.audiences) {
            return Err(Refusal::WrongAudience.into());
        }
        let fetched;
        let keys = match &self.keys {
            RuleKeys::Given(keys) => keys,
            RuleKeys::At(at) => match keys(at) {
                KnownKeys::Known(known) => {
                    fetched = known;
                    &*fetched
                }
                KnownKeys::NotFetched => return Err(Failure::NeedsKeys(at, self.fetch_timeout)),
                KnownKeys::Failed => return Err(Refusal::KeysNotFetched.into()),
            },
        };
        if keys.is_empty() {
            return Err(Refusal::NoKeys.into());
        }
        let algorithm = (token.algorithm.0.as_str(), token.algorithm.1);
        match keys.verify(token.key_id.as_deref(), algorithm, token.signed, token.signature) {
            Ok(()) => Ok(token),
            Err(KeyError::NoSuchKey) => Err(Refusal::NoSuchKey.into()),
            Err(KeyError::WrongSignature) => Err(Refusal::WrongSignature.into()),
        }
    }

    fn authenticated(&self, token: &Token<'_>) -> Authenticated<'_> {
        let claims = Claims::new(token.claims.clone(), self.word_lists.iter().map(String::as_str));
        let mut set = Vec::new();
        let mut give = |name: &HeaderName, value: Option<String>| {
            // A value that no header can have, such as one with a line break, is left out.
            let value = value.and_then(|value| HeaderValue::try_from(value).ok());
            set.extend(value.map(|value| (name.clone(), value)));
        };
        if let Some(name) = &self.payload_header {
            give(name, Some(token.payload.to_owned()));
        }
        for (name, claim) in &self.claim_headers {
            give(name, claims::scalar(&token.claims, claim).map(Cow::into_owned));
        }
        Authenticated { claims, policy: &self.policy, rule: self.index, remove: Vec::new(), set, path: None }
    }
}

impl Authenticated<'_> {
    /// Adds what a further rule says; the first one's claims are the request's.
    fn add(&mut self, other: Self) {
        self.remove.extend(other.remove);
        self.set.extend(other.set);
        self.path = self.path.take().or(other.path);
    }
}
