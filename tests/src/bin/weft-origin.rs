//! An HTTP service for scenarios. It answers with what it was asked, as JSON, and with its name in `x-served-by`.
#![forbid(unsafe_code)]

use std::{collections::BTreeMap, convert::Infallible, net::SocketAddr, time::Duration};

use bytes::Bytes;
use clap::Parser;
use http::{HeaderValue, Request, Response};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};

#[derive(Parser)]
struct Args {
    #[arg(long)]
    listen: SocketAddr,
    /// Goes into `x-served-by`.
    #[arg(long)]
    name: HeaderValue,
    /// How long each answer takes.
    #[arg(long, default_value_t = 0)]
    delay_ms: u64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let args = Args::parse();
    let delay = Duration::from_millis(args.delay_ms);
    let listener = tokio::net::TcpListener::bind(args.listen).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        let name = args.name.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| answer(request, name.clone(), delay));
            // A connection that breaks off is the client's business; the next one is served all the same.
            let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    name: HeaderValue,
    delay: Duration,
) -> Result<Response<Full<Bytes>>, Infallible> {
    tokio::time::sleep(delay).await;
    let mut headers = BTreeMap::<&str, Vec<String>>::new();
    for (key, value) in request.headers() {
        headers.entry(key.as_str()).or_default().push(String::from_utf8_lossy(value.as_bytes()).into_owned());
    }
    let body = serde_json::json!({
        "served_by": String::from_utf8_lossy(name.as_bytes()),
        "method": request.method().as_str(),
        "target": request.uri().to_string(),
        "headers": headers,
    });
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
    response.headers_mut().insert("x-served-by", name);
    Ok(response)
}
