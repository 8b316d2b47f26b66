//! Sends requests at a fixed rate, whatever becomes of the earlier ones, until its standard input ends and as many were
//! sent as the input says; then prints a [`Report`] as JSON. Connections are kept and used again, as applications do.
#![forbid(unsafe_code)]

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use clap::Parser;
use http::{HeaderName, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper::{body::Incoming, client::conn::http1::SendRequest};
use hyper_util::rt::TokioIo;
use tokio::{io::AsyncReadExt, net::TcpStream, task::JoinSet, time};
use weft_tests::load::{Exchange, Report};

#[derive(Parser, Clone)]
struct Args {
    /// Where to connect.
    #[arg(long)]
    to: SocketAddr,
    /// The Host header.
    #[arg(long)]
    host: HeaderValue,
    #[arg(long, default_value = "/")]
    path: String,
    /// `name:value`. Repeatable.
    #[arg(long = "header", value_parser = parse_header)]
    headers: Vec<(HeaderName, HeaderValue)>,
    /// Requests per second.
    #[arg(long)]
    rate: u32,
    /// When a request that has no answer counts as failed.
    #[arg(long, default_value_t = 5_000)]
    timeout_ms: u64,
}

fn parse_header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("not name:value")?;
    let name = name.parse().map_err(|error| format!("{name}: {error}"))?;
    Ok((name, value.trim().parse().map_err(|error| format!("{value}: {error}"))?))
}

/// Connections with no request on them.
type Idle = Arc<Mutex<Vec<SendRequest<Empty<Bytes>>>>>;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let args = Arc::new(Args::parse());
    let idle = Idle::default();
    let mut tick = time::interval(Duration::from_secs(1) / args.rate);
    let mut requests = JoinSet::new();
    let input = least();
    tokio::pin!(input);
    let mut least = usize::MAX;
    while requests.len() < least {
        tokio::select! {
            read = &mut input, if least == usize::MAX => least = read,
            _ = tick.tick() => drop(requests.spawn(exchange(args.clone(), idle.clone()))),
        }
    }
    let mut exchanges = requests.join_all().await;
    exchanges.sort_by_key(|exchange| exchange.start_us);
    println!("{}", serde_json::to_string(&Report { exchanges }).expect("plain values"));
}

/// What the input said, when it ends.
async fn least() -> usize {
    let mut input = String::new();
    tokio::io::stdin().read_to_string(&mut input).await.expect("text");
    input.trim().parse().expect("how many requests at least")
}

async fn exchange(args: Arc<Args>, idle: Idle) -> Exchange {
    let start_us = now_us();
    let result = match time::timeout(Duration::from_millis(args.timeout_ms), send(&args, &idle)).await {
        Ok(result) => result,
        Err(_) => Err("no answer in time".into()),
    };
    let header = |name: &str| {
        let value = result.as_ref().ok()?.headers().get(name)?;
        Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    Exchange {
        start_us,
        end_us: now_us(),
        served_by: header("x-served-by"),
        reason: header("x-weft-reason"),
        outcome: result.map(|response| response.status().as_u16()),
    }
}

/// The whole exchange: the answer's body was read to its end.
async fn send(args: &Args, idle: &Idle) -> Result<Response<()>, String> {
    let mut sender = loop {
        let kept = idle.lock().expect("no holder panics").pop();
        match kept {
            Some(sender) if sender.is_closed() => {}
            Some(sender) => break sender,
            None => break connect(args.to).await.map_err(|error| format!("connecting: {error}"))?,
        }
    };
    let mut request = Request::get(&args.path).header(http::header::HOST, &args.host);
    for (name, value) in &args.headers {
        request = request.header(name, value);
    }
    let request = request.body(Empty::new()).map_err(|error| error.to_string())?;
    sender.ready().await.map_err(|error| error.to_string())?;
    let (head, body) = sender.send_request(request).await.map_err(|error| error.to_string())?.into_parts();
    drain(body).await.map_err(|error| format!("after status {}: {error}", head.status))?;
    idle.lock().expect("no holder panics").push(sender);
    Ok(Response::from_parts(head, ()))
}

async fn drain(mut body: Incoming) -> hyper::Result<()> {
    while let Some(frame) = body.frame().await {
        frame?;
    }
    Ok(())
}

async fn connect(to: SocketAddr) -> Result<SendRequest<Empty<Bytes>>, Box<dyn std::error::Error + Send + Sync>> {
    let stream = TcpStream::connect(to).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

fn now_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970").as_micros() as u64
}
