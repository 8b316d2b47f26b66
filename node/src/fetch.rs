//! Getting small files over HTTP: the keys of token issuers. HTTP/1.1, no redirects, bounded in size; how long it may
//! take is the caller's to say.

use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock},
};

use anyhow::{Context, bail};
use bytes::Bytes;
use http::{Request, StatusCode, Uri, header, uri::Scheme};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;
use weft_proxy::{crypto, ports::Views};
use weft_wire::id::Namespace;

use crate::originations::system_roots;

/// Fetches as this node. A service of the mesh is asked through the node's own proxy, so that it knows who asks.
#[derive(Clone)]
pub struct Fetcher {
    views: Views,
    /// Where the node's proxy takes the calls of local applications.
    outbound: SocketAddr,
    /// Made when it is first needed: most meshes fetch nothing over TLS.
    tls: Arc<OnceLock<Arc<ClientConfig>>>,
}

impl Fetcher {
    pub fn new(views: Views, outbound: SocketAddr) -> Self {
        Self { views, outbound, tls: Arc::default() }
    }

    /// Gets what a URL of scheme `http` or `https` has, up to `limit` bytes.
    ///
    /// # Errors
    /// Whatever keeps it from being got; any status but 200.
    pub async fn get(&self, url: &str, limit: usize) -> anyhow::Result<Bytes> {
        let uri: Uri = url.parse().context("is no URL")?;
        let is_tls = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTP => false,
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            _ => bail!("is neither http:// nor https://"),
        };
        let authority = uri.authority().filter(|authority| !authority.as_str().contains('@')).context("has no host")?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        let port = authority.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let request = Request::get(uri.path_and_query().map_or("/", |path| path.as_str()))
            .header(header::HOST, authority.as_str())
            .header(header::ACCEPT, "application/json")
            .header(header::USER_AGENT, concat!("weft/", env!("CARGO_PKG_VERSION")))
            .body(Empty::new())?;

        let in_mesh = !is_tls && self.views.load().service(host, &Namespace::default_namespace()).is_some();
        let stream = match in_mesh {
            true => TcpStream::connect(self.outbound).await,
            false => TcpStream::connect((host, port)).await,
        };
        let stream = stream.with_context(|| format!("cannot connect to {host}:{port}"))?;
        if !is_tls {
            return exchange(stream, request, limit).await;
        }
        let name = ServerName::try_from(host.to_owned()).context("has no host that a certificate could have")?;
        let stream = TlsConnector::from(self.tls()?).connect(name, stream).await?;
        exchange(stream, request, limit).await
    }

    /// Believes what this host believes: issuers outside of the mesh have certificates of public authorities.
    fn tls(&self) -> anyhow::Result<Arc<ClientConfig>> {
        if let Some(tls) = self.tls.get() {
            return Ok(tls.clone());
        }
        let config = ClientConfig::builder_with_provider(crypto::provider())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(system_roots()?)
            .with_no_client_auth();
        Ok(self.tls.get_or_init(|| Arc::new(config)).clone())
    }
}

async fn exchange<S>(stream: S, request: Request<Empty<Bytes>>, limit: usize) -> anyhow::Result<Bytes>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let got = async {
        let response = sender.send_request(request).await?;
        if response.status() != StatusCode::OK {
            bail!("answered with status {}", response.status());
        }
        let body = Limited::new(response.into_body(), limit).collect().await;
        Ok(body.map_err(|error| anyhow::anyhow!("its body: {error}"))?.to_bytes())
    };
    // The connection lives as long as its one exchange, and ends with it.
    let mut got = std::pin::pin!(got);
    tokio::select! {
        biased;
        got = got.as_mut() => got,
        ended = connection => {
            ended?;
            got.await
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncReadExt as _, io::AsyncWriteExt as _, net::TcpListener};
    use weft_policy::view::MeshView;
    use weft_proxy::ports::views;

    use super::*;

    /// A server that gives one answer to each connection.
    async fn server(answer: &'static str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = [0; 1024];
                let _ = stream.read(&mut head).await;
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        address
    }

    async fn get(url: &str) -> Result<String, String> {
        let (_publisher, views) = views(MeshView::empty("cluster.local".parse().unwrap()));
        let fetcher = Fetcher::new(views, "127.0.0.1:1".parse().unwrap());
        let got = fetcher.get(url, 10).await;
        got.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).map_err(|error| format!("{error:#}"))
    }

    #[tokio::test]
    async fn a_file_is_got_whole_or_not_at_all() {
        let good = server("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await;
        assert_eq!(get(&format!("http://{good}/keys?x=y")).await.unwrap(), "{}");
        let until_close = server("HTTP/1.1 200 OK\r\n\r\n[]").await;
        assert_eq!(get(&format!("http://{until_close}")).await.unwrap(), "[]");
        for (answer, expected) in [
            ("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", "answered with status 404"),
            (
                "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1/\r\ncontent-length: 0\r\n\r\n",
                "answered with status 302",
            ),
            ("HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\n12345678901", "its body: length limit exceeded"),
            ("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n1", "its body"),
            ("nonsense\r\n\r\n", "invalid HTTP version parsed"),
        ] {
            let error = get(&format!("http://{}/", server(answer).await)).await.unwrap_err();
            assert!(error.contains(expected), "{answer}: {error}");
        }
    }

    #[tokio::test]
    async fn what_is_no_url_of_a_file_is_refused() {
        for (url, expected) in [
            ("ftp://a/b", "is neither http:// nor https://"),
            ("/keys", "is neither http:// nor https://"),
            ("http://me:secret@127.0.0.1/", "has no host"),
            ("http://127.0.0.1:1/", "cannot connect to 127.0.0.1:1"),
        ] {
            let error = get(url).await.unwrap_err();
            assert!(error.contains(expected), "{url}: {error}");
        }
    }
}
