//! Requests that want to become tunnels of another protocol: by the Upgrade header of HTTP/1.1 (RFC 9110 section 7.8),
//! or by HTTP/2's extended CONNECT (RFC 8441), which is the former by other means and is made one here. Workloads see
//! HTTP/1.1 only.

use base64::{Engine, prelude::BASE64_STANDARD};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version, header, request};
use hyper::{ext::Protocol, upgrade::OnUpgrade};

use crate::{
    error::ProxyError,
    exchange::{connection_options, is},
};

const WEBSOCKET: &str = "websocket";
const SEC_WEBSOCKET_KEY: HeaderName = HeaderName::from_static("sec-websocket-key");
const SEC_WEBSOCKET_ACCEPT: HeaderName = HeaderName::from_static("sec-websocket-accept");

/// What a caller asked for.
pub(crate) struct Upgrade {
    /// For the next hop's Upgrade header.
    pub(crate) protocol: HeaderValue,
    pub(crate) client: Client,
}

/// The caller's end of what may become a tunnel.
pub(crate) struct Client {
    pub(crate) stream: OnUpgrade,
    over_http2: bool,
}

/// Makes an extended CONNECT the GET that would ask for the same in HTTP/1.1. True if the request is a CONNECT still:
/// a tunnel to a host and port.
pub(crate) fn is_plain_connect<B>(request: &mut Request<B>) -> Result<bool, ProxyError> {
    if request.method() != Method::CONNECT {
        return Ok(false);
    }
    let Some(protocol) = request.extensions().get::<Protocol>() else { return Ok(true) };
    if !is(protocol.as_str(), WEBSOCKET) {
        return Err(ProxyError::NotImplemented("extended CONNECT is for websocket only"));
    }
    *request.method_mut() = Method::GET;
    let key = HeaderValue::try_from(BASE64_STANDARD.encode(rand::random::<[u8; 16]>()));
    let key = key.map_err(|_| ProxyError::BadRequest("no WebSocket key"))?;
    request.headers_mut().insert(SEC_WEBSOCKET_KEY, key);
    Ok(false)
}

/// Takes from a request's head what it asks for.
pub(crate) fn wanted(head: &mut request::Parts) -> Option<Upgrade> {
    let over_http2 = head.extensions.remove::<Protocol>().is_some();
    let protocol = if over_http2 { HeaderValue::from_static(WEBSOCKET) } else { by_header(head)? };
    let stream = head.extensions.remove::<OnUpgrade>()?;
    Some(Upgrade { protocol, client: Client { stream, over_http2 } })
}

/// Not h2c, not even as one choice of several: what is upgraded becomes a tunnel, and HTTP/2 in it would pass by all
/// that is decided per request.
fn by_header(head: &request::Parts) -> Option<HeaderValue> {
    let protocol = head.headers.get(header::UPGRADE)?;
    let asks = head.version == Version::HTTP_11 && connection_options(&head.headers).any(|o| is(o, "upgrade"));
    let offers_h2c = protocol.to_str().map_or(true, |offered| offered.split(',').any(|p| is(p.trim(), "h2c")));
    let is_single = head.headers.get_all(header::UPGRADE).iter().nth(1).is_none();
    (asks && is_single && !offers_h2c).then(|| protocol.clone())
}

impl Client {
    /// Whether a response that does not switch would be taken for one that does: any success answers a CONNECT.
    pub(crate) fn is_misled_by<B>(&self, response: &Response<B>) -> bool {
        self.over_http2 && response.status().is_success()
    }

    /// Has the head of a response that switches say so in the caller's protocol.
    pub(crate) fn grant(&self, status: &mut StatusCode, headers: &mut HeaderMap, protocol: HeaderValue) {
        if self.over_http2 {
            *status = StatusCode::OK;
            headers.remove(SEC_WEBSOCKET_ACCEPT); // of a key that the caller does not know
        } else {
            headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            headers.insert(header::UPGRADE, protocol);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(version: Version, headers: &[(&'static str, &'static str)]) -> request::Parts {
        let mut request = Request::get("/").version(version);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn only_an_http1_request_that_asks_for_it_upgrades_and_never_to_h2c() {
        let asks = [("connection", "keep-alive, Upgrade"), ("upgrade", WEBSOCKET)];
        assert!(by_header(&head(Version::HTTP_11, &asks)).is_some());
        assert!(by_header(&head(Version::HTTP_2, &asks)).is_none());
        assert!(by_header(&head(Version::HTTP_11, &asks[1..])).is_none());
        for offered in ["h2c", "H2C", "websocket, h2c"] {
            assert!(by_header(&head(Version::HTTP_11, &[("connection", "Upgrade"), ("upgrade", offered)])).is_none());
        }
    }

    #[test]
    fn a_connect_is_plain_or_becomes_a_get_for_websocket() {
        let mut plain = Request::connect("a:1").body(()).unwrap();
        assert!(is_plain_connect(&mut plain).unwrap());
        let mut extended = Request::connect("http://a/").body(()).unwrap();
        extended.extensions_mut().insert(Protocol::from_static("websocket"));
        assert!(!is_plain_connect(&mut extended).unwrap());
        assert_eq!(extended.method(), Method::GET);
        assert_eq!(extended.headers()[SEC_WEBSOCKET_KEY].len(), 24);
        extended.extensions_mut().insert(Protocol::from_static("connect-udp"));
        *extended.method_mut() = Method::CONNECT;
        assert!(is_plain_connect(&mut extended).is_err());
    }
}
