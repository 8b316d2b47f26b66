//! Who is signed in to the console. Whoever may open the unix socket owns the node; `weft console` has it make a code
//! there, good once and for some minutes, and prints it as part of the console's address. The page trades it for a
//! session.
//!
//! A session is proven by two secrets at once: a cookie, which no script can read, and a header, which the page keeps
//! where only pages of its own origin find it. Browsers send cookies to every port of a host, so the cookie alone would
//! be known to whatever else listens there; and no page of another origin can send the header without being asked for
//! first, which is refused, so that nobody can have an operator's browser write.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use aws_lc_rs::digest::{SHA256, digest};
use http::{HeaderMap, header};
use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How long a code is good, and how long a session.
const CODE_LIFE: Duration = Duration::from_secs(10 * 60);
const SESSION_LIFE: Duration = Duration::from_secs(8 * 3_600);
/// Codes and sessions that are kept; a new one ends the oldest.
const KEPT: usize = 64;
pub(super) const COOKIE: &str = "weft_session";
pub(super) const HEADER: &str = "x-weft-session";

/// Answer to `POST /api/v1/console`
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct ConsoleCode {
    /// Where the console is, with the code that signs in.
    pub url: String,
    pub valid_seconds: u64,
}

/// Body of `POST /api/v1/session`
#[derive(Debug, Deserialize, JsonSchema)]
pub struct SignIn {
    pub code: String,
}

/// Answer to `GET` and `POST /api/v1/session`
#[derive(Debug, Serialize, JsonSchema)]
pub struct SessionState {
    pub signed_in: bool,
    /// What the page sends in `x-weft-session`: told once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

/// What is told of a new session.
pub struct NewSession {
    pub cookie: String,
    pub token: String,
}

type Hash = [u8; 32];

/// Only hashes are kept and looked up, so that the time of a look-up tells nothing.
#[derive(Default)]
struct State {
    codes: HashMap<Hash, Instant>,
    /// By the cookie's hash: the header's, and when it ends.
    sessions: HashMap<Hash, (Hash, Instant)>,
}

/// Codes and sessions of this node, in memory. Cheap to clone; all clones are one.
#[derive(Clone, Default)]
pub struct Sessions(Arc<Mutex<State>>);

impl Sessions {
    /// A code that signs in once.
    pub fn new_code(&self, now: Instant) -> String {
        let code = secret();
        let mut state = self.0.lock();
        make_room(&mut state.codes, |ends| *ends, now);
        state.codes.insert(hash(&code), now + CODE_LIFE);
        code
    }

    pub const fn code_life() -> Duration {
        CODE_LIFE
    }

    /// Trades a code for a session; `None` if it is wrong, used or too old.
    pub fn sign_in(&self, code: &str, now: Instant) -> Option<NewSession> {
        let mut state = self.0.lock();
        state.codes.remove(&hash(code)).filter(|ends| *ends > now)?;
        let (cookie, token) = (secret(), secret());
        make_room(&mut state.sessions, |(_, ends)| *ends, now);
        state.sessions.insert(hash(&cookie), (hash(&token), now + SESSION_LIFE));
        Some(NewSession { cookie, token })
    }

    /// Whether a request is of somebody who is signed in.
    pub fn is_signed_in(&self, headers: &HeaderMap, now: Instant) -> bool {
        let Some(token) = headers.get(HEADER).and_then(|value| value.to_str().ok()).map(hash) else { return false };
        let state = self.0.lock();
        cookies(headers).any(|cookie| {
            state.sessions.get(&hash(cookie)).is_some_and(|(expected, ends)| *expected == token && *ends > now)
        })
    }

    pub fn sign_out(&self, headers: &HeaderMap) {
        let mut state = self.0.lock();
        for cookie in cookies(headers) {
            state.sessions.remove(&hash(cookie));
        }
    }
}

impl NewSession {
    /// The value of `Set-Cookie`.
    pub fn set_cookie(&self) -> String {
        let seconds = SESSION_LIFE.as_secs();
        format!("{COOKIE}={}; Path=/api/; HttpOnly; SameSite=Strict; Max-Age={seconds}", self.cookie)
    }
}

/// Whether a page may have sent this that is not the console: browsers say where a page is from.
pub fn is_cross_origin(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).and_then(|value: &http::HeaderValue| value.to_str().ok());
    let is_other = |origin: &str| origin.strip_prefix("http://") != text(header::HOST);
    text(header::ORIGIN).is_some_and(is_other)
        || text(header::HeaderName::from_static("sec-fetch-site"))
            .is_some_and(|site| !matches!(site, "same-origin" | "none"))
}

fn cookies(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers.get_all(header::COOKIE).into_iter().filter_map(|value| value.to_str().ok());
    let pairs = values.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.filter(|(name, _)| *name == COOKIE).map(|(_, value)| value)
}

fn make_room<V>(kept: &mut HashMap<Hash, V>, ends: impl Fn(&V) -> Instant, now: Instant) {
    kept.retain(|_, value| ends(value) > now);
    if kept.len() >= KEPT
        && let Some(oldest) = kept.iter().min_by_key(|(_, value)| ends(value)).map(|(key, _)| *key)
    {
        kept.remove(&oldest);
    }
}

/// 256 random bits.
fn secret() -> String {
    rand::random::<[u8; 32]>().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn hash(text: &str) -> Hash {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, text.as_bytes()).as_ref());
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (header::HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    #[test]
    fn a_code_signs_in_once_and_not_for_ever() {
        let (sessions, now) = (Sessions::default(), Instant::now());
        let code = sessions.new_code(now);
        assert!(sessions.sign_in("guess", now).is_none());
        assert!(sessions.sign_in(&code, now).is_some());
        assert!(sessions.sign_in(&code, now).is_none(), "used");
        let late = sessions.new_code(now);
        assert!(sessions.sign_in(&late, now + CODE_LIFE).is_none(), "too old");
    }

    #[test]
    fn a_session_needs_cookie_and_header_and_ends() {
        let (sessions, now) = (Sessions::default(), Instant::now());
        let sign_in = || sessions.sign_in(&sessions.new_code(now), now).unwrap();
        let (NewSession { cookie, token }, other) = (sign_in(), sign_in());
        let cookie = format!("theme=dark; {COOKIE}={cookie}");
        let both = headers(&[("cookie", &cookie), (HEADER, &token)]);
        assert!(sessions.is_signed_in(&both, now));
        assert!(!sessions.is_signed_in(&both, now + SESSION_LIFE));
        assert!(!sessions.is_signed_in(&headers(&[("cookie", &cookie)]), now));
        assert!(!sessions.is_signed_in(&headers(&[(HEADER, &token)]), now));
        assert!(!sessions.is_signed_in(&headers(&[("cookie", &cookie), (HEADER, &other.token)]), now));
        sessions.sign_out(&both);
        assert!(!sessions.is_signed_in(&both, now));
    }

    #[test]
    fn the_oldest_makes_room() {
        let (sessions, now) = (Sessions::default(), Instant::now());
        let first = sessions.new_code(now);
        for second in 1..=KEPT as u64 {
            sessions.new_code(now + Duration::from_secs(second));
        }
        assert_eq!(sessions.0.lock().codes.len(), KEPT);
        assert!(sessions.sign_in(&first, now).is_none());
    }

    #[test]
    fn pages_of_other_origins_are_told_apart() {
        let host = ("host", "127.0.0.2:15000");
        let is_cross = |more: &[(&'static str, &str)]| is_cross_origin(&headers(&[&[host], more].concat()));
        assert!(!is_cross(&[]));
        assert!(!is_cross(&[("origin", "http://127.0.0.2:15000"), ("sec-fetch-site", "same-origin")]));
        assert!(is_cross(&[("origin", "http://127.0.0.2:8080")]));
        assert!(is_cross(&[("origin", "null")]));
        assert!(is_cross(&[("sec-fetch-site", "same-site")]));
    }
}
