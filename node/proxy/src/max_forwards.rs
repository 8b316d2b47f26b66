//! How often TRACE and OPTIONS may be passed on (RFC 9110 section 7.6.2): each proxy counts, and the one that may pass a
//! request on no more answers it as the workload would.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, header};

use crate::exchange::{Outgoing, X_FORWARDED_CLIENT_CERT};

/// Counts that a request is passed on. The answer, if it may not be.
pub(crate) fn count(outgoing: &mut Outgoing) -> Option<Response<Bytes>> {
    if !matches!(outgoing.method, Method::TRACE | Method::OPTIONS) {
        return None;
    }
    let Some(left) = left(&outgoing.headers)?.checked_sub(1) else { return Some(answer(outgoing)) };
    outgoing.headers.insert(header::MAX_FORWARDS, left.into());
    None
}

/// What is no number says nothing. More than can be counted is as much as can be.
fn left(headers: &HeaderMap) -> Option<u64> {
    let text = headers.get(header::MAX_FORWARDS)?.to_str().ok()?;
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().unwrap_or(u64::MAX))
}

/// Of TRACE what has come, of OPTIONS that it has.
fn answer(outgoing: &Outgoing) -> Response<Bytes> {
    if outgoing.method != Method::TRACE {
        return Response::new(Bytes::new());
    }
    let (target, host) = (&outgoing.path_and_query, &outgoing.authority);
    let mut text = format!("TRACE {target} HTTP/1.1\r\nhost: {host}\r\n").into_bytes();
    for (name, value) in outgoing.headers.iter().filter(|(name, _)| !is_secret(name)) {
        text.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    text.extend(b"\r\n");
    let mut response = Response::new(Bytes::from(text));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("message/http"));
    response
}

/// What is not told again to whoever made the caller send it (RFC 9110 section 9.3.8), and what no caller has sent.
fn is_secret(name: &HeaderName) -> bool {
    [header::AUTHORIZATION, header::COOKIE, X_FORWARDED_CLIENT_CERT].contains(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_a_number_or_nothing_is_said() {
        for (text, expected) in [
            ("0", Some(0)),
            ("010", Some(10)),
            ("99999999999999999999", Some(u64::MAX)),
            ("", None),
            ("+1", None),
            ("-1", None),
            ("1, 2", None),
        ] {
            let headers = HeaderMap::from_iter([(header::MAX_FORWARDS, HeaderValue::from_static(text))]);
            assert_eq!(left(&headers), expected, "{text:?}");
        }
        assert_eq!(left(&HeaderMap::new()), None);
    }
}
