//! One HTTP/1.1 call on a connection of its own, directly or through an HTTP proxy.
//!
//! bookinfo's apps keep no connection pool, so neither do their stand-ins; the demo's load driver makes so few calls
//! that it needs none either.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use http::{
    Request, Response, Uri,
    header::{HOST, HeaderValue},
    uri::{Authority, Scheme},
};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;

/// Largest response body that is read, in bytes.
const MAX_BODY: usize = 1 << 20;

/// The proxy that the standard variable `http_proxy` names: `http://HOST:PORT`.
///
/// # Errors
/// The value is no `http` URL with a host and a port.
pub(crate) fn proxy_from_env(value: &str) -> anyhow::Result<Authority> {
    let uri: Uri = value.parse().with_context(|| format!("http_proxy={value} is not a URL"))?;
    ensure!(uri.scheme() == Some(&Scheme::HTTP), "http_proxy={value} must start with http://");
    let authority = uri.authority().with_context(|| format!("http_proxy={value} names no host"))?;
    ensure!(authority.port().is_some(), "http_proxy={value} names no port");
    Ok(authority.clone())
}

/// Sends `request`, whose URI is absolute (`http://host:port/path`), and reads the whole response.
///
/// With a `proxy` the connection goes there and the request line is in absolute form, as RFC 9112 section 3.2.2 asks
/// of clients. `Host` is set from the URI unless the request has one. `timeout` covers connecting, sending and reading.
///
/// # Errors
/// The address does not resolve, the connection fails or breaks, the body is larger than 1 MiB, or time is up.
pub(crate) async fn call(
    proxy: Option<&Authority>,
    request: Request<Full<Bytes>>,
    timeout: Duration,
) -> anyhow::Result<Response<Bytes>> {
    match tokio::time::timeout(timeout, exchange(proxy, request)).await {
        Ok(result) => result,
        Err(_) => bail!("no complete answer within {} ms", timeout.as_millis()),
    }
}

async fn exchange(proxy: Option<&Authority>, mut request: Request<Full<Bytes>>) -> anyhow::Result<Response<Bytes>> {
    let target = request.uri().authority().context("the request's URI names no host")?.clone();
    if !request.headers().contains_key(HOST) {
        request.headers_mut().insert(HOST, HeaderValue::from_str(target.as_str())?);
    }
    if proxy.is_none() {
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str()).parse()?;
        *request.uri_mut() = path;
    }

    let peer = proxy.unwrap_or(&target);
    let host = peer.host().trim_start_matches('[').trim_end_matches(']');
    let stream = TcpStream::connect((host, peer.port_u16().unwrap_or(80)))
        .await
        .with_context(|| format!("could not connect to {peer}"))?;
    stream.set_nodelay(true)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let _connection = AbortOnDropHandle::new(tokio::spawn(connection));

    let (head, body) = sender.send_request(request).await?.into_parts();
    let body = Limited::new(body, MAX_BODY).collect().await.map_err(anyhow::Error::from_boxed)?.to_bytes();
    Ok(Response::from_parts(head, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_an_http_url_with_host_and_port() {
        assert_eq!(proxy_from_env("http://127.0.0.2:15001").unwrap(), "127.0.0.2:15001");
        assert_eq!(proxy_from_env("http://127.0.0.2:15001/").unwrap(), "127.0.0.2:15001");
        for wrong in ["", "127.0.0.2:15001", "https://127.0.0.2:15001", "http://127.0.0.2", "http://"] {
            assert!(proxy_from_env(wrong).is_err(), "{wrong:?} was accepted");
        }
    }
}
