//! The HTTP/1.1 server that the four services share.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    Request, Response, StatusCode,
    header::{CONTENT_TYPE, HeaderValue},
};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How long requests in flight may take to finish after the signal to stop.
const DRAIN: Duration = Duration::from_secs(5);

pub(super) type Body = BoxBody<Bytes, Infallible>;

/// One of the services.
pub(super) trait App: Send + Sync + 'static {
    fn answer(&self, request: Request<Incoming>) -> impl Future<Output = Response<Body>> + Send;
}

/// Serves `app` until `stop`, then lets requests in flight finish for up to 5 s.
pub(super) async fn serve(listener: TcpListener, app: impl App, stop: CancellationToken) {
    let app = Arc::new(app);
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let _ = stream.set_nodelay(true);
                connections.spawn(connection(TokioIo::new(stream), app.clone(), stop.clone()));
            }
            Err(error) => {
                // Out of file descriptors, mostly: the pause leaves time for some to come free.
                tracing::warn!(%error, "could not accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    drop(listener);
    connections.close();
    let _ = tokio::time::timeout(DRAIN, connections.wait()).await;
}

async fn connection<A: App>(io: TokioIo<tokio::net::TcpStream>, app: Arc<A>, stop: CancellationToken) {
    let service = service_fn(|request: Request<Incoming>| {
        let app = app.clone();
        async move {
            let line = format!("{} {}", request.method(), request.uri());
            let response = app.answer(request).await;
            tracing::info!(request = line, status = response.status().as_u16(), "answered");
            Ok::<_, Infallible>(response)
        }
    });
    let connection = http1::Builder::new().timer(TokioTimer::new()).serve_connection(io, service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended early");
    }
}

/// A response with `body` of the given content type.
pub(super) fn reply(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Full::new(body.into()).boxed());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

pub(super) fn json(status: StatusCode, body: &serde_json::Value) -> Response<Body> {
    reply(status, "application/json", body.to_string())
}

pub(super) fn not_found() -> Response<Body> {
    reply(StatusCode::NOT_FOUND, "text/plain", "not found")
}
