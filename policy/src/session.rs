//! `sessionPersistence`: a client stays with the endpoint that answered it first, which a cookie or a header of that
//! answer names. What Envoy calls a stateful session.

use std::{
    fmt::{self, Write as _},
    sync::Arc,
    time::Duration,
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use twox_hash::XxHash64;

use crate::{
    balance::CookieKey,
    endpoint::{Endpoint, EndpointKey},
    headers::is_of_connection,
    route::{Target, TargetHost},
};

/// Longest text of a client that is read as a token, in bytes: the names in it have 63 characters at most.
const MAX_TOKEN: usize = 512;

/// What a rule says of its clients' sessions.
#[derive(Debug)]
pub struct Session {
    carrier: Carrier,
    absolute_timeout: Option<Duration>,
    idle_timeout: Option<Duration>,
}

/// What the client sends back.
#[derive(Debug)]
enum Carrier {
    Cookie(CookieKey),
    Header(HeaderName),
}

/// How long a session may last.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Lifetime {
    /// From its beginning.
    pub(crate) absolute: Option<Duration>,
    /// From its last response.
    pub(crate) idle: Option<Duration>,
}

/// Whether a cookie may be called so. Its name is a token, as a header's is.
pub(crate) fn is_cookie_name(name: &str) -> bool {
    HeaderName::from_bytes(name.as_bytes()).is_ok()
}

/// Whether a header may be called so that has no other meaning in HTTP.
pub(crate) fn is_header_name(name: &str) -> bool {
    let is_free = |name: HeaderName| name != header::HOST && name != header::SET_COOKIE && !is_of_connection(&name);
    HeaderName::from_bytes(name.as_bytes()).is_ok_and(is_free)
}

/// Whether a cookie may be for this path.
pub(crate) fn is_cookie_path(path: &str) -> bool {
    path.starts_with('/') && !path.contains(|c: char| c == ';' || c.is_control())
}

/// A name for sessions that are given none: the same on all nodes, and for rules with the same destinations.
pub(crate) fn default_name<'t>(destinations: impl Iterator<Item = &'t Target>) -> String {
    let text: String = destinations
        .map(|Target { host, port, subset }| {
            format!("{}:{}:{subset};", host.as_ref().map_or("", TargetHost::name), port.unwrap_or_default())
        })
        .collect();
    format!("weft-session-{:016x}", XxHash64::oneshot(0, text.as_bytes()))
}

impl Session {
    /// Of a cookie with this path. `is_permanent` has the client keep it until the session's end, beyond its own.
    pub(crate) fn of_cookie(name: &str, path: &str, is_permanent: bool, lifetime: Lifetime) -> Self {
        let kept_for = lifetime.absolute.filter(|_| is_permanent).unwrap_or_default();
        let cookie = CookieKey::new(name, path, Some(kept_for), std::iter::empty());
        Self::new(Carrier::Cookie(cookie), lifetime)
    }

    /// `None` if the name is no header's, which its document's check has refused.
    pub(crate) fn of_header(name: &str, lifetime: Lifetime) -> Option<Self> {
        let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
        Some(Self::new(Carrier::Header(name), lifetime))
    }

    fn new(carrier: Carrier, Lifetime { absolute, idle }: Lifetime) -> Self {
        Self { carrier, absolute_timeout: absolute, idle_timeout: idle }
    }

    /// What a request says of its session.
    pub(crate) fn token(&self, headers: &HeaderMap) -> Option<Token> {
        Token::read(match &self.carrier {
            Carrier::Cookie(cookie) => cookie.value(headers)?,
            Carrier::Header(name) => headers.get(name)?.to_str().ok()?,
        })
    }
}

impl fmt::Display for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.carrier {
            Carrier::Cookie(cookie) => write!(f, "cookie {}", cookie.name),
            Carrier::Header(name) => write!(f, "header {name}"),
        }
    }
}

/// What a client keeps of its session. It is no secret, and nobody signs it: who makes one up gets to an endpoint where
/// its requests may go anyway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    endpoint: String,
    /// In milliseconds of Unix time, as the other one.
    ends_ms: Option<u64>,
    idle_until_ms: Option<u64>,
}

impl Token {
    fn read(text: &str) -> Option<Self> {
        let text = Some(text).filter(|text| text.len() <= MAX_TOKEN)?;
        let text = String::from_utf8(URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
        let mut parts = text.split(';');
        let endpoint = parts.next()?.to_owned();
        let mut time = || match parts.next()? {
            "" => Some(None),
            time => time.parse().ok().map(Some),
        };
        let (ends_ms, idle_until_ms) = (time()?, time()?);
        parts.next().is_none().then_some(Self { endpoint, ends_ms, idle_until_ms })
    }

    fn text(&self) -> String {
        let time = |time: Option<u64>| time.map(|time| time.to_string()).unwrap_or_default();
        URL_SAFE_NO_PAD.encode(format!("{};{};{}", self.endpoint, time(self.ends_ms), time(self.idle_until_ms)))
    }

    /// Whether the session is at this endpoint.
    pub(crate) fn names(&self, key: &EndpointKey) -> bool {
        let mut rest = Rest(&self.endpoint);
        write!(rest, "{key}").is_ok() && rest.0.is_empty()
    }
}

/// What is left of a text when what is written has been taken off its beginning.
struct Rest<'t>(&'t str);

impl fmt::Write for Rest<'_> {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        self.0 = self.0.strip_prefix(part).ok_or(fmt::Error)?;
        Ok(())
    }
}

/// The session that a request is of.
#[derive(Debug)]
pub struct Sticky<'v> {
    pub(crate) session: &'v Session,
    /// Where it is at home; `None` for a new one, and for one whose endpoint is gone.
    pub(crate) home: Option<(Token, &'v Arc<Endpoint>)>,
}

impl<'v> Sticky<'v> {
    /// Where the request goes as long as it is served there.
    pub fn endpoint(&self) -> Option<&'v Arc<Endpoint>> {
        self.home.as_ref().map(|(_, endpoint)| *endpoint)
    }

    /// Whether its time is up, or it would have more than a session may have. `now_ms` is Unix time, in milliseconds.
    pub fn has_ended(&self, now_ms: u64) -> bool {
        let Some((token, _)) = &self.home else { return false };
        let is_over = |end: Option<u64>, limit: Option<Duration>| match limit {
            None => false,
            Some(limit) => !end.is_some_and(|end| end > now_ms && end <= after(now_ms, limit)),
        };
        is_over(token.ends_ms, self.session.absolute_timeout) || is_over(token.idle_until_ms, self.session.idle_timeout)
    }

    /// What the response of an endpoint tells the client: where its session is, if it does not know, or for how much
    /// longer.
    pub fn tell(&self, endpoint: &Endpoint, now_ms: u64, headers: &mut HeaderMap) {
        let home = self.home.as_ref().filter(|(_, home)| home.key == endpoint.key);
        if home.is_some() && self.session.idle_timeout.is_none() {
            return;
        }
        let ends_ms = match home {
            Some((token, _)) => token.ends_ms,
            None => self.session.absolute_timeout.map(|limit| after(now_ms, limit)),
        };
        let idle_until_ms = self.session.idle_timeout.map(|limit| after(now_ms, limit));
        let token = Token { endpoint: endpoint.key.to_string(), ends_ms, idle_until_ms }.text();
        match &self.session.carrier {
            Carrier::Cookie(cookie) => {
                if let Some(made) = cookie.made(&token) {
                    headers.append(header::SET_COOKIE, made);
                }
            }
            Carrier::Header(name) => {
                if let Ok(value) = HeaderValue::try_from(token) {
                    headers.insert(name.clone(), value);
                }
            }
        }
    }
}

fn after(now_ms: u64, limit: Duration) -> u64 {
    now_ms.saturating_add(u64::try_from(limit.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use weft_wire::fact::{EndpointHealth, Protocol};

    use super::*;
    use crate::endpoint::{EndpointAddress, Standing};

    fn key(text: &str) -> EndpointKey {
        let [node, namespace, workload] = text.split('/').collect::<Vec<_>>()[..] else { panic!("{text}") };
        EndpointKey {
            node: Some(node.parse().unwrap()),
            namespace: namespace.parse().unwrap(),
            workload: workload.parse().unwrap(),
            target_port: 9080,
        }
    }

    fn endpoint() -> Arc<Endpoint> {
        Arc::new(Endpoint {
            key: key("n1/default/reviews-v1"),
            workload: None,
            address: EndpointAddress::Outside(([127, 0, 0, 1], 1).into()),
            identities: Arc::default(),
            protocol: Protocol::Http,
            health: EndpointHealth::Healthy,
            standing: Standing::Preferred,
            weight: 1,
            place: Arc::default(),
            load: Arc::default(),
            monitor: None,
        })
    }

    fn token(endpoint: &EndpointKey) -> Token {
        Token { endpoint: endpoint.to_string(), ends_ms: Some(5), idle_until_ms: None }
    }

    #[test]
    fn a_token_comes_back_as_it_went_and_names_one_endpoint() {
        let one = key("n1/default/reviews-v1");
        let read = Token::read(&token(&one).text()).unwrap();
        assert_eq!(read, token(&one));
        assert!(read.names(&one));
        for other in ["n1/default/reviews-v", "n1/default/reviews-v10", "n2/default/reviews-v1", "n1/prod/reviews-v1"] {
            assert!(!read.names(&key(other)), "{other}");
        }
        assert!(!read.names(&EndpointKey { target_port: 908, ..one.clone() }));
        assert!(!read.names(&EndpointKey { target_port: 9_081, ..one }));
    }

    #[test]
    fn what_is_no_token_is_none() {
        let encoded = |text: &str| URL_SAFE_NO_PAD.encode(text);
        let wrong = ["", "%%", &encoded("a"), &encoded("a;;x"), &encoded("a;-1;"), &encoded("a;;;"), &"A".repeat(516)];
        for text in wrong {
            assert_eq!(Token::read(text), None, "{text}");
        }
    }

    #[test]
    fn names_are_tokens_and_headers_none_that_mean_something() {
        assert!(is_cookie_name("JSESSIONID") && is_header_name("x-session") && is_cookie_name("host"));
        for wrong in ["", "a b", "a;b", "a=b", "ü"] {
            assert!(!is_cookie_name(wrong) && !is_header_name(wrong), "{wrong}");
        }
        for wrong in ["Set-Cookie", "host", "Content-Length"] {
            assert!(!is_header_name(wrong), "{wrong}");
        }
    }

    #[test]
    fn a_session_ends_with_either_of_its_times_and_nobody_gives_himself_more() {
        let lifetime = Lifetime { absolute: Some(Duration::from_millis(100)), idle: Some(Duration::from_millis(10)) };
        let (session, endpoint) = (Session::of_header("x", lifetime).unwrap(), endpoint());
        let at = |ends_ms, idle_until_ms| {
            let token = Token { endpoint: endpoint.key.to_string(), ends_ms, idle_until_ms };
            Sticky { session: &session, home: Some((token, &endpoint)) }
        };
        assert!(!at(Some(150), Some(105)).has_ended(100));
        for (ends_ms, idle_until_ms) in [
            (Some(100), Some(105)),
            (Some(150), Some(100)),
            (None, Some(105)),
            (Some(150), None),
            (Some(201), Some(105)),
        ] {
            assert!(at(ends_ms, idle_until_ms).has_ended(100), "{ends_ms:?} {idle_until_ms:?}");
        }
        let mut headers = HeaderMap::new();
        at(Some(150), Some(105)).tell(&endpoint, 100, &mut headers);
        let told = session.token(&headers).unwrap();
        assert_eq!((told.ends_ms, told.idle_until_ms), (Some(150), Some(110)), "used again, and no longer in all");
    }

    #[test]
    fn a_client_is_told_what_it_does_not_know() {
        let lifetime = Lifetime { absolute: Some(Duration::from_secs(9)), idle: None };
        let (session, endpoint) = (Session::of_cookie("s", "/a", true, lifetime), endpoint());
        let told = |sticky: &Sticky<'_>, endpoint: &Endpoint| {
            let mut headers = HeaderMap::new();
            sticky.tell(endpoint, 1_000, &mut headers);
            headers.remove(header::SET_COOKIE).map(|cookie| cookie.to_str().unwrap().to_owned())
        };
        let new = told(&Sticky { session: &session, home: None }, &endpoint).unwrap();
        assert!(new.starts_with("s=\"") && new.ends_with("\"; Max-Age=9; Path=/a; HttpOnly"), "{new}");
        let sent = HeaderMap::from_iter([(header::COOKIE, new.split(';').next().unwrap().parse().unwrap())]);
        let token = session.token(&sent).unwrap();
        assert!(token.names(&endpoint.key) && token.ends_ms == Some(10_000));
        let known = Sticky { session: &session, home: Some((token, &endpoint)) };
        assert_eq!(told(&known, &endpoint), None);
        let other = Endpoint { key: key("n2/default/reviews-v1"), ..(*endpoint).clone() };
        assert_eq!(told(&known, &other).map(|cookie| cookie == new), Some(false), "it has moved");
    }

    proptest! {
        #[test]
        fn no_text_harms(text in "\\PC{0,80}") {
            let _ = Token::read(&text);
            let _ = Token::read(&URL_SAFE_NO_PAD.encode(&text)).map(|token| token.names(&key("n1/default/a")));
        }
    }
}
