//! `consistentHash`: which of a request's properties decides its endpoint. As Envoy hashes them (`hash_policy.cc`).

use std::{
    fmt::Write as _,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use http::{HeaderMap, HeaderName, HeaderValue, header};
use twox_hash::XxHash64;

use super::table::TableKind;
use crate::route::RequestHead;

/// What requests are told apart by, and the table that finds their endpoint.
#[derive(Debug, PartialEq)]
pub struct HashPolicy {
    pub(crate) key: HashKey,
    pub(crate) table: TableKind,
}

#[derive(Debug, PartialEq)]
pub(crate) enum HashKey {
    Header(HeaderName),
    /// Of HTTP/2, and what HTTP/1.1 has in their place.
    Pseudo(PseudoHeader),
    Cookie(CookieKey),
    /// The client's address, without its port.
    SourceIp,
    Query(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PseudoHeader {
    Method,
    Authority,
    Scheme,
    /// With the query.
    Path,
}

impl PseudoHeader {
    pub(crate) fn named(name: &str) -> Option<Self> {
        Some(match name {
            ":method" => Self::Method,
            ":authority" => Self::Authority,
            ":scheme" => Self::Scheme,
            ":path" => Self::Path,
            _ => return None,
        })
    }
}

/// A cookie that is a key.
#[derive(Debug, PartialEq)]
pub(crate) struct CookieKey {
    pub(crate) name: String,
    /// What follows the value of a cookie that is made, such as `; Max-Age=60; Path=/; HttpOnly`; `None` makes none.
    pub(crate) made_with: Option<String>,
}

/// What is hashed of a request.
#[derive(Clone, Copy, Debug)]
pub struct Keyed<'a> {
    pub head: RequestHead<'a>,
    /// The client's address as the mesh knows it.
    pub client: IpAddr,
    /// Both ends of the client's connection. What is made for one connection is the same for all its requests.
    pub connection: [SocketAddr; 2],
}

/// A request's key.
#[derive(Debug, Default)]
pub struct Hashed {
    /// `None` for a request that lacks it: any endpoint will do.
    pub hash: Option<u64>,
    /// For the response: a cookie that keeps the client's next requests with the same endpoint.
    pub set_cookie: Option<HeaderValue>,
}

impl HashPolicy {
    pub fn hash(&self, request: &Keyed<'_>) -> Hashed {
        let found = |hash| Hashed { hash, set_cookie: None };
        match &self.key {
            HashKey::Header(name) => found(hash_of_values(request.head.headers, name)),
            HashKey::Pseudo(name) => found(Some(hash(
                match name {
                    PseudoHeader::Method => request.head.method.as_str(),
                    PseudoHeader::Authority => request.head.authority,
                    PseudoHeader::Scheme => request.head.scheme,
                    PseudoHeader::Path => request.head.path_and_query,
                }
                .as_bytes(),
            ))),
            HashKey::SourceIp => found(Some(hash_of_address(request.client))),
            HashKey::Query(name) => {
                found(query_value(request.head.path_and_query, name).map(|value| hash(value.as_bytes())))
            }
            HashKey::Cookie(cookie) => match cookie.value(request.head.headers) {
                Some(value) => found(Some(hash(value.as_bytes()))),
                None if cookie.made_with.is_none() => Hashed::default(),
                None => {
                    let [remote, local] = request.connection;
                    let value = format!("{:016x}", hash(format!("{remote}{local}").as_bytes()));
                    Hashed { hash: Some(hash(value.as_bytes())), set_cookie: cookie.made(&value) }
                }
            },
        }
    }

    /// The key of a connection that is not read as HTTP: only the client's address can be one.
    pub fn hash_of_connection(&self, client: IpAddr) -> Option<u64> {
        (self.key == HashKey::SourceIp).then(|| hash_of_address(client))
    }
}

impl CookieKey {
    /// `ttl` makes the cookie for clients that have none: zero one that lasts for the client's session.
    pub(crate) fn new<'a>(
        name: &str,
        path: &str,
        ttl: Option<Duration>,
        attributes: impl Iterator<Item = (&'a str, &'a str)>,
    ) -> Self {
        let made_with = ttl.map(|ttl| {
            let mut text = String::new();
            if ttl.as_secs() > 0 {
                text = format!("; Max-Age={}", ttl.as_secs());
            }
            if !path.is_empty() {
                text = format!("{text}; Path={path}");
            }
            for (name, value) in attributes {
                let separator = if value.is_empty() { "" } else { "=" };
                text = format!("{text}; {name}{separator}{value}");
            }
            text + "; HttpOnly"
        });
        Self { name: name.to_owned(), made_with }
    }

    /// What a request has in it.
    pub(crate) fn value<'h>(&self, headers: &'h HeaderMap) -> Option<&'h str> {
        cookie_value(headers, &self.name)
    }

    /// A cookie for a response; `None` if none is made.
    pub(crate) fn made(&self, value: &str) -> Option<HeaderValue> {
        format!("{}=\"{value}\"{}", self.name, self.made_with.as_deref()?).parse().ok()
    }
}

fn hash(bytes: &[u8]) -> u64 {
    XxHash64::oneshot(0, bytes)
}

/// Several values count in any order.
fn hash_of_values(headers: &HeaderMap, name: &HeaderName) -> Option<u64> {
    let mut values = headers.get_all(name).iter().map(HeaderValue::as_bytes);
    match (values.next()?, values.next()) {
        (only, None) => Some(hash(only)),
        (first, Some(second)) => {
            let mut all: Vec<&[u8]> = [first, second].into_iter().chain(values).collect();
            all.sort_unstable();
            Some(all.into_iter().fold(0, XxHash64::oneshot))
        }
    }
}

/// Of an address as text, which is made on the stack.
fn hash_of_address(address: IpAddr) -> u64 {
    struct Text([u8; 48], usize);
    impl std::fmt::Write for Text {
        fn write_str(&mut self, part: &str) -> std::fmt::Result {
            let place = self.0.get_mut(self.1..self.1 + part.len()).ok_or(std::fmt::Error)?;
            place.copy_from_slice(part.as_bytes());
            self.1 += part.len();
            Ok(())
        }
    }
    let mut text = Text([0; 48], 0);
    // The longest address, IPv6 with IPv4 at its end, has 45 characters.
    let _ = write!(text, "{}", address.to_canonical());
    hash(text.0.get(..text.1).unwrap_or_default())
}

fn cookie_value<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
    let value = lines.flat_map(|line| line.split(';')).find_map(|cookie| {
        let (known, value) = cookie.trim().split_once('=')?;
        (known == name).then_some(value)
    })?;
    Some(value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value))
}

fn query_value<'q>(path_and_query: &'q str, name: &str) -> Option<&'q str> {
    let (_, query) = path_and_query.split_once('?')?;
    query.split('&').find_map(|one| {
        let (known, value) = one.split_once('=').unwrap_or((one, ""));
        (known == name).then_some(value)
    })
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    fn policy(key: HashKey) -> HashPolicy {
        HashPolicy { key, table: TableKind::Ring { min_size: 1_024 } }
    }

    fn hashed(key: HashKey, path_and_query: &str, headers: &[(&'static str, &'static str)]) -> Hashed {
        let headers: HeaderMap = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect();
        let connection = [([10, 0, 0, 9], 4_000).into(), ([127, 0, 0, 1], 80).into()];
        let (method, authority, scheme) = (&Method::GET, "shop", "http");
        let head = RequestHead { method, path_and_query, authority, scheme, headers: &headers };
        policy(key).hash(&Keyed { head, client: [10, 0, 0, 9].into(), connection })
    }

    fn cookie(ttl: Option<Duration>) -> HashKey {
        let attributes = [("SameSite", "Strict"), ("Secure", "")];
        HashKey::Cookie(CookieKey::new("session", "/shop", ttl, attributes.into_iter()))
    }

    #[test]
    fn a_header_is_the_key_and_one_that_is_missing_leaves_the_choice_open() {
        let by_user = || HashKey::Header(HeaderName::from_static("x-user"));
        assert_eq!(hashed(by_user(), "/", &[("x-user", "foo")]).hash, Some(0x33bf_00a8_59c4_ba3f));
        assert_eq!(hashed(by_user(), "/", &[]).hash, None);
    }

    #[test]
    fn a_pseudo_header_is_the_key() {
        for (name, value) in [(":path", "/a?b"), (":authority", "shop"), (":method", "GET"), (":scheme", "http")] {
            let key = HashKey::Pseudo(PseudoHeader::named(name).unwrap());
            assert_eq!(hashed(key, "/a?b", &[]).hash, Some(hash(value.as_bytes())), "{name}");
        }
        assert_eq!(PseudoHeader::named(":status"), None);
    }

    #[test]
    fn several_lines_of_the_header_count_in_any_order() {
        let by_user = || HashKey::Header(HeaderName::from_static("x-user"));
        let one = hashed(by_user(), "/", &[("x-user", "a"), ("x-user", "b")]).hash;
        assert_eq!(one, hashed(by_user(), "/", &[("x-user", "b"), ("x-user", "a")]).hash);
        assert_ne!(one, hashed(by_user(), "/", &[("x-user", "a")]).hash);
    }

    #[test]
    fn a_query_parameter_is_the_key() {
        let by_query = || HashKey::Query("q".into());
        assert_eq!(hashed(by_query(), "/a?x=1&q=foo", &[]).hash, Some(0x33bf_00a8_59c4_ba3f));
        assert_eq!(hashed(by_query(), "/a?x=q", &[]).hash, None);
    }

    #[test]
    fn the_clients_address_is_the_key_without_its_port() {
        assert_eq!(hashed(HashKey::SourceIp, "/", &[]).hash, Some(hash(b"10.0.0.9")));
        let mapped: IpAddr = "::ffff:10.0.0.9".parse().unwrap();
        assert_eq!(hash_of_address(mapped), hash(b"10.0.0.9"));
        let longest: IpAddr = "1111:2222:3333:4444:5555:6666:7777:8888".parse().unwrap();
        assert_eq!(hash_of_address(longest), hash(longest.to_string().as_bytes()));
    }

    #[test]
    fn a_cookie_is_the_key_with_or_without_quotes() {
        let plain = hashed(cookie(None), "/", &[("cookie", "a=b; session=foo")]).hash;
        assert_eq!(plain, Some(0x33bf_00a8_59c4_ba3f));
        assert_eq!(hashed(cookie(None), "/", &[("cookie", "session=\"foo\"")]).hash, plain);
    }

    #[test]
    fn a_missing_cookie_is_made_only_with_a_ttl_and_leads_to_the_same_endpoint() {
        let none = hashed(cookie(None), "/", &[]);
        assert!(none.hash.is_none() && none.set_cookie.is_none());
        let made = hashed(cookie(Some(Duration::from_secs(60))), "/", &[]);
        let text = made.set_cookie.unwrap().to_str().unwrap().to_owned();
        assert!(text.ends_with("\"; Max-Age=60; Path=/shop; SameSite=Strict; Secure; HttpOnly"), "{text}");
        let sent: &'static str = text.split(';').next().unwrap().to_owned().leak();
        assert_eq!(hashed(cookie(None), "/", &[("cookie", sent)]).hash, made.hash);
        let session = hashed(cookie(Some(Duration::ZERO)), "/", &[]).set_cookie.unwrap();
        assert!(!session.to_str().unwrap().contains("Max-Age"));
    }
}
