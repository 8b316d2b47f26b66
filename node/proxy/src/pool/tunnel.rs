//! Tunnels through an endpoint that is a proxy: it is asked by HTTP to carry bytes on to another place (RFC 9110 section
//! 9.3.6, RFC 9113 section 8.5). Each has a connection of its own: what one does not read holds up none beside it.

use std::{
    convert::Infallible,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderValue, Method, Request, Response, Uri, header,
    uri::{self, PathAndQuery, Scheme},
};
use http_body::{Body, Frame};
use hyper::{body::Incoming, client::conn::http1, upgrade::Upgraded};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::mpsc,
    time::timeout,
};
use tokio_util::{either::Either, sync::PollSender};
use weft_policy::connection::{ConnectionSettings, Tunnel};

use super::dial::{self, Stream};
use crate::{error::ConnectError, http2::MAX_HEADER_LIST};

/// How long a proxy may take to answer: it has to reach the place first.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Writes that wait for the connection to take them.
const MAX_WAITING: usize = 4;

/// The bytes of a tunnel: what CONNECT makes of a connection or stream, or the bodies of a POST.
pub(crate) type Tunnelled = Either<TokioIo<Upgraded>, Bodies>;

/// Has the proxy at the other end of a fresh connection open a tunnel. `to` is the proxy.
pub(super) async fn open(
    stream: Stream,
    to: &Arc<str>,
    tunnel: &Tunnel,
    http2: bool,
    settings: Option<&ConnectionSettings>,
) -> Result<Tunnelled, ConnectError> {
    let scheme = if matches!(stream, Either::Right(_)) { Scheme::HTTPS } else { Scheme::HTTP };
    let (request, upload) = request(tunnel, http2, scheme);
    let answer = async {
        let response = match stream {
            Either::Left(stream) => ask(stream, to, request, http2, settings).await?,
            Either::Right(stream) => ask(stream, to, request, http2, settings).await?,
        };
        let (status, failed) = (response.status(), |source| http_error(to, source));
        if !status.is_success() {
            return Err(ConnectError::Tunnel { to: to.clone(), target: tunnel.target.clone(), status });
        }
        match upload {
            None => Ok(Either::Left(TokioIo::new(hyper::upgrade::on(response).await.map_err(failed)?))),
            Some(upload) => Ok(Either::Right(Bodies { upload, body: response.into_body(), rest: Bytes::new() })),
        }
    };
    let late = |_| Err(ConnectError::Timeout { to: to.clone(), after: ANSWER_TIMEOUT });
    timeout(ANSWER_TIMEOUT, answer).await.unwrap_or_else(late)
}

/// What asks for it; with where the bytes go that a POST carries.
fn request(tunnel: &Tunnel, http2: bool, scheme: Scheme) -> (Request<Upload>, Option<PollSender<Bytes>>) {
    let target = &tunnel.target;
    let (mut request, upload) = if tunnel.by_post {
        let (sender, receiver) = mpsc::channel(MAX_WAITING);
        let mut request = Request::new(Upload(Some(receiver)));
        *request.method_mut() = Method::POST;
        let mut uri = uri::Parts::default();
        uri.path_and_query = Some(PathAndQuery::from_static("/"));
        if http2 {
            (uri.scheme, uri.authority) = (Some(scheme), Some(target.clone()));
        }
        *request.uri_mut() = Uri::from_parts(uri).expect("a path, and both scheme and authority or neither");
        (request, Some(PollSender::new(sender)))
    } else {
        let mut request = Request::new(Upload(None));
        (*request.method_mut(), *request.uri_mut()) = (Method::CONNECT, target.clone().into());
        (request, None)
    };
    if !http2 {
        let host = HeaderValue::from_str(target.as_str()).expect("an authority is visible ASCII");
        request.headers_mut().insert(header::HOST, host);
    }
    (request, upload)
}

async fn ask<IO>(
    io: IO,
    to: &str,
    request: Request<Upload>,
    http2: bool,
    settings: Option<&ConnectionSettings>,
) -> Result<Response<Incoming>, ConnectError>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    if http2 {
        let mut sender = dial::http2(to, io, settings).await?;
        return sender.send_request(request).await.map_err(|source| http_error(to, source));
    }
    // Not read strictly, as other HTTP/1.1 is: nothing but this one answer and its bytes is on the connection.
    let (mut sender, connection) = http1::Builder::new()
        .max_header_size(MAX_HEADER_LIST as usize)
        .handshake(TokioIo::new(io))
        .await
        .map_err(|source| http_error(to, source))?;
    tokio::task::spawn_local(connection.with_upgrades());
    sender.send_request(request).await.map_err(|source| http_error(to, source))
}

fn http_error(to: &str, source: hyper::Error) -> ConnectError {
    ConnectError::Http { to: to.into(), source: Arc::new(source) }
}

/// The body of the request: none of a CONNECT.
struct Upload(Option<mpsc::Receiver<Bytes>>);

impl Body for Upload {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut self.get_mut().0 {
            None => Poll::Ready(None),
            Some(written) => written.poll_recv(cx).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }
}

/// Bytes in the bodies of a request and its response. The end of either is the end of that side.
pub(crate) struct Bodies {
    upload: PollSender<Bytes>,
    body: Incoming,
    /// Of the frame that came last.
    rest: Bytes,
}

impl AsyncRead for Bodies {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.rest.is_empty() {
            match ready!(Pin::new(&mut this.body).poll_frame(cx)) {
                Some(Ok(frame)) => this.rest = frame.into_data().unwrap_or_default(),
                Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
                None => return Poll::Ready(Ok(())),
            }
        }
        let now = this.rest.len().min(buf.remaining());
        buf.put_slice(&this.rest.split_to(now));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Bodies {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let upload = &mut self.get_mut().upload;
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        ready!(upload.poll_reserve(cx)).map_err(gone)?;
        upload.send_item(Bytes::copy_from_slice(buf)).map_err(gone)?;
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().upload.close();
        Poll::Ready(Ok(()))
    }
}
