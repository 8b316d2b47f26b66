//! A service for scenarios. Over HTTP it answers with what it was asked, as JSON, and with its name in `x-served-by`.
//! What is sent by gRPC, over a WebSocket or over TCP comes back as it is.
//!
//! A request may ask with headers: for a delay (`x-delay-ms`), for a status (`x-status`), and for how often it was
//! tried (`x-probe`, of a value that no other request has).
#![forbid(unsafe_code)]

use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    net::SocketAddr,
    path::PathBuf,
    str::FromStr,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use clap::Parser;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, BodyStream, Empty, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use tokio::io::{AsyncRead, AsyncWrite};

#[derive(Parser)]
struct Args {
    #[arg(long)]
    listen: SocketAddr,
    /// Goes into `x-served-by`.
    #[arg(long)]
    name: HeaderValue,
    /// How long each answer takes at least.
    #[arg(long, default_value_t = 0)]
    delay_ms: u64,
    /// The status of answers to requests that ask for none.
    #[arg(long, default_value = "200")]
    status: StatusCode,
    /// While this file is there, each answer is 500.
    #[arg(long)]
    fails_while: Option<PathBuf>,
    /// Speak no HTTP.
    #[arg(long)]
    tcp: bool,
}

struct Origin {
    name: HeaderValue,
    delay: Duration,
    status: StatusCode,
    fails_while: Option<PathBuf>,
    /// By the value of `x-probe`.
    tries: Mutex<HashMap<HeaderValue, u64>>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let args = Args::parse();
    let delay = Duration::from_millis(args.delay_ms);
    let origin = Arc::new(Origin {
        name: args.name,
        delay,
        status: args.status,
        fails_while: args.fails_while,
        tries: Mutex::default(),
    });
    let listener = tokio::net::TcpListener::bind(args.listen).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        let origin = origin.clone();
        if args.tcp {
            tokio::spawn(echo(stream));
            continue;
        }
        tokio::spawn(async move {
            let service = service_fn(|request| answer(origin.clone(), request));
            // A connection that breaks off is the client's business; the next one is served all the same.
            let _ = auto::Builder::new(TokioExecutor::new())
                .serve_connection_with_upgrades(TokioIo::new(stream), service)
                .await;
        });
    }
}

/// Sends back what comes, until the other side ends.
async fn echo(stream: impl AsyncRead + AsyncWrite) {
    let (mut from, mut to) = tokio::io::split(stream);
    // As above.
    let _ = tokio::io::copy(&mut from, &mut to).await;
}

type Body = UnsyncBoxBody<Bytes, hyper::Error>;

async fn answer(origin: Arc<Origin>, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let delay = Duration::from_millis(asked(&request, "x-delay-ms").unwrap_or(0));
    tokio::time::sleep(delay.max(origin.delay)).await;
    let is = |header, value: &str| request.headers().get(header).is_some_and(|found| found == value);
    let mut response = if is(header::UPGRADE, "websocket") {
        upgrade(request)
    } else if is(header::CONTENT_TYPE, "application/grpc") {
        grpc(request)
    } else {
        describe(&request, &origin)
    };
    response.headers_mut().insert("x-served-by", origin.name.clone());
    Ok(response)
}

fn upgrade(request: Request<Incoming>) -> Response<Body> {
    tokio::spawn(async move {
        if let Ok(stream) = hyper::upgrade::on(request).await {
            echo(TokioIo::new(stream)).await;
        }
    });
    let mut response = Response::new(Empty::new().map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    response
}

fn grpc(request: Request<Incoming>) -> Response<Body> {
    let trailers =
        HeaderMap::from_iter([(header::HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"))]);
    // As a stream: no gRPC server tells a length.
    let body =
        StreamBody::new(BodyStream::new(request.into_body())).with_trailers(std::future::ready(Some(Ok(trailers))));
    let mut response = Response::new(body.boxed_unsync());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

fn describe(request: &Request<Incoming>, origin: &Origin) -> Response<Body> {
    let tries = request.headers().get("x-probe").map_or(1, |probe| {
        let mut tries = origin.tries.lock().expect("no holder panics");
        let count = tries.entry(probe.clone()).or_default();
        *count += 1;
        *count
    });
    let mut headers = BTreeMap::<&str, Vec<String>>::new();
    for (key, value) in request.headers() {
        headers.entry(key.as_str()).or_default().push(String::from_utf8_lossy(value.as_bytes()).into_owned());
    }
    let body = serde_json::json!({
        "served_by": String::from_utf8_lossy(origin.name.as_bytes()),
        "method": request.method().as_str(),
        "target": request.uri().to_string(),
        "headers": headers,
        "tries": tries,
    });
    let body = Full::new(Bytes::from(body.to_string())).map_err(|never| match never {}).boxed_unsync();
    let mut response = Response::new(body);
    let fails = origin.fails_while.as_ref().is_some_and(|file| file.exists());
    let status = if fails { StatusCode::INTERNAL_SERVER_ERROR } else { origin.status };
    *response.status_mut() = asked(request, "x-status").unwrap_or(status);
    response.headers_mut().insert("x-origin", HeaderValue::from_static("yes"));
    response
}

/// What a request asks for with a header.
fn asked<T: FromStr>(request: &Request<Incoming>, header: &str) -> Option<T> {
    request.headers().get(header)?.to_str().ok()?.parse().ok()
}
