//! Whom a request names, read in one way: a request that names two hosts, or none, or has a target that no server
//! may be asked for, is refused (RFC 9112 section 3.2, RFC 9113 section 8.3.1).

use std::borrow::Cow;

use http::{
    HeaderMap, Method, Request, Uri, Version, header,
    uri::{Authority, PathAndQuery},
};
use memchr::{memchr, memrchr2};
use weft_policy::normalise::{PathNormalization, normalise};

use crate::error::ProxyError;

/// Whom a request names: `:authority`, an absolute form's authority, or the Host header.
pub(crate) fn authority<B>(request: &Request<B>) -> Result<Authority, ProxyError> {
    let (uri, headers) = (request.uri(), request.headers());
    let is_http1 = request.version() < Version::HTTP_2;
    check_form(request.method(), uri)?;
    if is_http1 {
        check_transfer_coding(headers)?;
    }
    let host = host(headers)?;
    let authority = match (uri.authority(), host) {
        // RFC 9112 section 3.2.2: what the absolute form says replaces the Host header, which has to be there though.
        (Some(authority), Some(host)) if is_http1 || is_same(authority, &host) => authority.clone(),
        (Some(_), Some(_)) => return Err(ProxyError::BadRequest("Host differs from :authority")),
        (Some(authority), None) if request.version() != Version::HTTP_11 => authority.clone(),
        (None, Some(host)) => host,
        (_, None) => return Err(ProxyError::BadRequest("no Host header")),
    };
    check_authority(&authority)?;
    Ok(authority)
}

/// Whom a request names, if it is one host: for the fuzz target.
pub fn named_host<B>(request: &Request<B>) -> Option<Authority> {
    if request.method() == Method::CONNECT {
        return tunnel(request).ok().map(|(authority, _)| authority);
    }
    authority(request).ok()
}

/// Makes the request's path uniform, as far as that goes, if it has one that may be: for the fuzz target.
pub fn is_made_uniform<B>(request: &mut Request<B>) -> bool {
    normalise_path(request, PathNormalization::DecodeAndMergeSlashes).is_ok()
}

/// Makes the request's path uniform, so that routes, policies and the workload see one and the same.
pub(crate) fn normalise_path<B>(request: &mut Request<B>, level: PathNormalization) -> Result<(), ProxyError> {
    let Some(path_and_query) = request.uri().path_and_query() else { return Ok(()) };
    let normal = normalise(path_and_query.as_str(), level)
        .map_err(|_| ProxyError::BadRequest("the path has an escaped NUL (%00)"))?;
    let Cow::Owned(normal) = normal else { return Ok(()) };
    let malformed = || ProxyError::BadRequest("malformed path");
    let mut parts = request.uri().clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(normal).map_err(|_| malformed())?);
    *request.uri_mut() = Uri::from_parts(parts).map_err(|_| malformed())?;
    Ok(())
}

/// Where a CONNECT leads to (RFC 9110 section 9.3.6).
pub(crate) fn tunnel<B>(request: &Request<B>) -> Result<(Authority, u16), ProxyError> {
    let uri = request.uri();
    let authority = uri.authority().filter(|_| uri.scheme().is_none()).ok_or(NO_PORT)?;
    check_authority(authority)?;
    let port = authority.port_u16().filter(|port| *port != 0).ok_or(NO_PORT)?;
    if let Some(host) = host(request.headers())?
        && !is_same(authority, &host)
    {
        return Err(ProxyError::BadRequest("Host differs from where CONNECT leads to"));
    }
    Ok((authority.clone(), port))
}

const NO_PORT: ProxyError = ProxyError::BadRequest("CONNECT without host and port");

/// The forms of RFC 9112 section 3.2 for all methods but CONNECT.
fn check_form(method: &Method, uri: &Uri) -> Result<(), ProxyError> {
    let is_http = uri.scheme_str().is_none_or(|scheme| scheme == "http" || scheme == "https");
    // Without a scheme an authority is CONNECT's.
    let is_authority_alone = uri.scheme().is_none() && uri.authority().is_some();
    let is_path = match uri.path() {
        "*" => method == Method::OPTIONS && uri.query().is_none(),
        path => path.starts_with('/'),
    };
    let target = uri.path_and_query().map_or("", |target| target.as_str());
    if !is_http || is_authority_alone || !is_path || target.bytes().any(|byte| !byte.is_ascii_graphic()) {
        return Err(ProxyError::BadRequest("malformed request target"));
    }
    Ok(())
}

fn check_transfer_coding(headers: &HeaderMap) -> Result<(), ProxyError> {
    match headers.get(header::TRANSFER_ENCODING) {
        Some(coding) if !coding.as_bytes().eq_ignore_ascii_case(b"chunked") => {
            Err(ProxyError::NotImplemented("no transfer coding but chunked is understood"))
        }
        _ => Ok(()),
    }
}

fn host(headers: &HeaderMap) -> Result<Option<Authority>, ProxyError> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(ProxyError::BadRequest("more than one Host header"));
    }
    host.map(|host| Authority::try_from(host.as_bytes()).map_err(|_| ProxyError::BadRequest("malformed Host header")))
        .transpose()
}

/// The host of an authority that names no user, and its port. `Authority` would look for either anew, and for a user.
pub(crate) fn host_and_port(authority: &Authority) -> (&str, Option<u16>) {
    let (host, port) = split(authority.as_str());
    (host, port.and_then(|port| port.parse().ok()))
}

fn split(authority: &str) -> (&str, Option<&str>) {
    match memrchr2(b':', b']', authority.as_bytes()) {
        Some(colon) if authority.as_bytes()[colon] == b':' => (&authority[..colon], Some(&authority[colon + 1..])),
        _ => (authority, None),
    }
}

fn check_authority(authority: &Authority) -> Result<(), ProxyError> {
    let text = authority.as_str();
    if memchr(b'@', text.as_bytes()).is_some() {
        return Err(ProxyError::BadRequest("user information in the host"));
    }
    let (host, port) = split(text);
    let is_port = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok();
    if host.is_empty() || port.is_some_and(|port| !port.is_empty() && !is_port(port)) {
        return Err(ProxyError::BadRequest("malformed host or port"));
    }
    Ok(())
}

fn is_same(one: &Authority, other: &Authority) -> bool {
    one.as_str().eq_ignore_ascii_case(other.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(version: Version, method: &str, uri: &str, hosts: &[&str]) -> Result<String, String> {
        let mut request = Request::builder().version(version).method(method).uri(uri);
        for host in hosts {
            request = request.header(header::HOST, *host);
        }
        let request = request.body(()).unwrap();
        let named = if request.method() == Method::CONNECT {
            tunnel(&request).map(|(authority, port)| format!("{}|{port}", authority.host()))
        } else {
            authority(&request).map(|authority| authority.to_string())
        };
        named.map_err(|error| error.to_string())
    }

    #[test]
    fn a_request_names_one_host() {
        use Version as V;
        for (version, method, uri, hosts, expected) in [
            (V::HTTP_11, "GET", "/", &["a:1"][..], "a:1"),
            (V::HTTP_11, "GET", "http://b/", &["a"], "b"),
            (V::HTTP_11, "OPTIONS", "*", &["a"], "a"),
            (V::HTTP_11, "GET", "/", &["[::1]:80"], "[::1]:80"),
            (V::HTTP_11, "GET", "/", &["a:"], "a:"),
            (V::HTTP_2, "GET", "http://b/", &[], "b"),
            (V::HTTP_2, "GET", "http://b/", &["B"], "b"),
            (V::HTTP_2, "GET", "/", &["a"], "a"),
            (V::HTTP_10, "GET", "http://b/", &[], "b"),
            (V::HTTP_11, "CONNECT", "a:1", &["a:1"], "a|1"),
            (V::HTTP_10, "CONNECT", "a:1", &[], "a|1"),
        ] {
            assert_eq!(named(version, method, uri, hosts), Ok(expected.to_owned()), "{method} {uri} {hosts:?}");
        }
    }

    #[test]
    fn an_authority_is_split_as_its_crate_would() {
        for text in ["a", "a:1", "a:", "a.b:65535", "[::1]", "[::1]:80", "[::1]:", "127.0.0.1:8080"] {
            let authority: Authority = text.parse().unwrap();
            assert_eq!(host_and_port(&authority), (authority.host(), authority.port_u16()), "{text}");
        }
    }

    #[test]
    fn a_target_or_host_that_may_mean_two_things_is_refused() {
        use Version as V;
        for (version, method, uri, hosts) in [
            (V::HTTP_11, "GET", "/", &[][..]),
            (V::HTTP_11, "GET", "http://b/", &[]),
            (V::HTTP_11, "GET", "/", &["a", "a"]),
            (V::HTTP_11, "GET", "/", &["u@a"]),
            (V::HTTP_11, "GET", "/", &["a b"]),
            (V::HTTP_11, "GET", "/", &["a:b"]),
            (V::HTTP_11, "GET", "/", &["a:99999"]),
            (V::HTTP_11, "GET", "/", &[":80"]),
            (V::HTTP_11, "GET", "a:80", &["a"]),
            (V::HTTP_11, "GET", "*", &["a"]),
            (V::HTTP_11, "GET", "ftp://a/", &["a"]),
            (V::HTTP_11, "GET", "/\u{e4}", &["a"]),
            (V::HTTP_2, "GET", "http://b/", &["c"]),
            (V::HTTP_11, "CONNECT", "a", &["a"]),
            (V::HTTP_11, "CONNECT", "/", &["a"]),
            (V::HTTP_11, "CONNECT", "a:0", &["a:0"]),
            (V::HTTP_11, "CONNECT", "a:1", &["b:1"]),
        ] {
            let named = named(version, method, uri, hosts);
            assert!(named.is_err(), "{method} {uri} {hosts:?}: {named:?}");
        }
    }
}
