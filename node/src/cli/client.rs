//! The command line's side of the admin API: HTTP over the node's unix socket.

use std::path::Path;

use anyhow::{Context, anyhow, bail};
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{body::Incoming, client::conn::http1::SendRequest};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::net::UnixStream;

use crate::{
    admin::api::{MAX_REQUEST_LEN, Refusal},
    dir::Dir,
};

/// Largest answer that is read.
const MAX_ANSWER: usize = 64 * 1024 * 1024;

/// The node answered, and will not do it: why, and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Refused(String);

/// A connection to the node that runs on a data directory.
pub(super) struct Client {
    sender: SendRequest<Full<Bytes>>,
}

impl Client {
    /// Connects to the node of `dir`.
    ///
    /// # Errors
    /// Says how to start the node if none is running.
    pub(super) async fn connect(dir: &Path) -> anyhow::Result<Self> {
        let socket = Dir::new(dir).socket();
        let stream = UnixStream::connect(&socket).await.map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused => anyhow!(
                "no node is running on {}: start it with `weft up --dir {}`, or name its directory with --dir",
                dir.display(),
                dir.display()
            ),
            std::io::ErrorKind::PermissionDenied => {
                anyhow!("no permission to talk to the node at {}: run as its user (root)", socket.display())
            }
            _ => anyhow!("cannot talk to the node at {}: {error}", socket.display()),
        })?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self { sender })
    }

    pub(super) async fn get<T: DeserializeOwned>(&mut self, path: &str) -> anyhow::Result<T> {
        self.call(Method::GET, path, None::<&()>).await
    }

    pub(super) async fn post<T: DeserializeOwned>(&mut self, path: &str, body: &impl Serialize) -> anyhow::Result<T> {
        self.call(Method::POST, path, Some(body)).await
    }

    async fn call<T: DeserializeOwned>(
        &mut self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> anyhow::Result<T> {
        let response = self.send(method, path, body).await?;
        let bytes = Limited::new(response.into_body(), MAX_ANSWER)
            .collect()
            .await
            .map_err(|error| anyhow!("the node's answer broke off: {error}"))?
            .to_bytes();
        serde_json::from_slice(&bytes).context("the node's answer is not what this version of weft expects")
    }

    /// Sends a request and returns the response with its body still to come, for answers that last.
    pub(super) async fn send(
        &mut self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> anyhow::Result<http::Response<Incoming>> {
        let body = body.map(serde_json::to_vec).transpose()?.unwrap_or_default();
        if body.len() > MAX_REQUEST_LEN {
            bail!("more than {} MiB cannot be handed to the node at once: do it in parts", MAX_REQUEST_LEN >> 20);
        }
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(http::header::HOST, "localhost")
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))?;
        // The connection takes a moment after an answer before it takes the next request.
        let sent = async {
            self.sender.ready().await?;
            self.sender.send_request(request).await
        };
        let response = sent.await.context("the node closed the connection; see its log")?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let bytes = Limited::new(response.into_body(), MAX_ANSWER).collect().await.map(|body| body.to_bytes());
        match bytes.ok().and_then(|bytes| serde_json::from_slice::<Refusal>(&bytes).ok()) {
            Some(Refusal { error }) => Err(Refused(error).into()),
            None if status == StatusCode::NOT_FOUND => bail!("the node does not know {path}: is it an older version?"),
            None => bail!("the node answered {status}"),
        }
    }

    /// Waits until the node closes the connection.
    pub(super) async fn closed(&mut self) {
        while self.sender.ready().await.is_ok() {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }
}
