//! One request to each proxy, and what was different.

use std::{collections::BTreeMap, fmt, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, header};
use http_body_util::{BodyExt, Empty};
use hyper::{body::Incoming, client::conn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::{net::TcpStream, time};

use crate::generator::{Form, Probe};

/// Longer than any timeout of a case.
const PATIENCE: Duration = Duration::from_secs(20);

/// Headers that one of the proxies adds to requests, and the other does not. `docs/differences.md` has the reasons.
const ADDED_TO_REQUESTS: &[&str] = &["x-forwarded-proto", "x-envoy-expected-rq-timeout-ms", "traceparent"];
/// Likewise of responses; and `date`, which each origin sets by the clock.
const ADDED_TO_RESPONSES: &[&str] =
    &["server", "x-envoy-upstream-service-time", "x-weft-reason", "date", "content-length"];

/// Each proxy makes one where the caller sent none.
const REQUEST_ID: &str = "x-request-id";

/// Tells origins one request from another, so that they can count its tries.
const PROBE: &str = "x-probe";

/// What Envoy writes when it cannot do what it is asked to; weft has words of its own.
const REFUSALS: &[&str] = &["no healthy upstream", "upstream request timeout", "fault filter abort"];

/// What came back.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    headers: Headers,
    /// Of the proxy itself, if a document told it what to say.
    body: String,
    /// `None` if the proxy answered itself.
    served: Option<Served>,
}

/// What the backend saw.
#[derive(Debug, PartialEq, Eq)]
struct Served {
    backend: String,
    method: String,
    target: String,
    headers: Headers,
    tries: u64,
}

/// Several lines of one name are one value: proxies may join them (RFC 9110, section 5.3).
type Headers = BTreeMap<String, String>;

impl Answer {
    /// The backend's name; `None` if the proxy answered itself.
    pub(crate) fn backend(&self) -> Option<&str> {
        self.served.as_ref().map(|served| served.backend.as_str())
    }
}

impl Served {
    /// Leaves out what no two proxies would do alike for this request.
    fn forget(&mut self, probe: &Probe) {
        if !probe.headers.iter().any(|(name, _)| name == REQUEST_ID)
            && let Some(made) = self.headers.get_mut(REQUEST_ID)
        {
            "made by the proxy".clone_into(made);
        }
        if !["POST", "PUT", "PATCH"].contains(&&*probe.method) {
            self.headers.remove("content-length");
        }
        self.headers.remove(PROBE);
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { status, headers, body, served } = self;
        match served {
            None => write!(f, "{status} by the proxy, {body:?}, headers {headers:?}"),
            Some(Served { backend, method, target, headers: seen, tries }) => write!(
                f,
                "{status} by {backend}, headers {headers:?}\n    it got {method} {target}, {tries} times, headers {seen:?}"
            ),
        }
    }
}

/// Sends a request to the proxy on this port of the loopback.
///
/// # Errors
/// Says what went wrong before there was a whole answer.
pub(crate) async fn ask(port: u16, probe: &Probe) -> Result<Answer, String> {
    match time::timeout(PATIENCE, exchange(port, probe)).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("no answer in time".into()),
    }
}

async fn exchange(port: u16, probe: &Probe) -> Result<Answer, Box<dyn std::error::Error + Send + Sync>> {
    let stream = TokioIo::new(TcpStream::connect(("127.0.0.1", port)).await?);
    let absolute = format!("http://{}{}", probe.host, probe.target);
    let target = if probe.form == Form::Origin { &probe.target } else { &absolute };
    let mut request = Request::builder().method(probe.method.as_str()).uri(target);
    if probe.form != Form::Http2 {
        request = request.header(header::HOST, &probe.host);
    }
    for (name, value) in &probe.headers {
        request = request.header(name, value);
    }
    let request = request.header(PROBE, format!("{} on {port}", probe.id)).body(Empty::<Bytes>::new())?;
    let response = if probe.form == Form::Http2 {
        let (mut sender, connection) = conn::http2::handshake(TokioExecutor::new(), stream).await?;
        tokio::spawn(connection);
        sender.send_request(request).await?
    } else {
        let (mut sender, connection) = conn::http1::handshake(stream).await?;
        tokio::spawn(connection);
        sender.send_request(request).await?
    };
    let mut answer = read(response).await?;
    if let Some(served) = &mut answer.served {
        served.forget(probe);
    }
    Ok(answer)
}

async fn read(response: Response<Incoming>) -> hyper::Result<Answer> {
    let (head, body) = response.into_parts();
    let body = body.collect().await?.to_bytes();
    let mut headers = all(&head.headers);
    let is_served = headers.contains_key("x-served-by");
    let is_refusal = headers.contains_key("x-weft-reason");
    headers.retain(|name, _| !ADDED_TO_RESPONSES.contains(&name.as_str()));
    let mut answer = Answer { status: head.status.as_u16(), headers, body: String::new(), served: None };
    if is_served {
        let report: Value = serde_json::from_slice(&body).unwrap_or_default();
        let text = |field: &str| report[field].as_str().unwrap_or_default().to_owned();
        let seen: BTreeMap<String, Vec<String>> = serde_json::from_value(report["headers"].clone()).unwrap_or_default();
        let mut headers: Headers = seen.into_iter().map(|(name, lines)| (name, lines.join(","))).collect();
        headers.retain(|name, _| !ADDED_TO_REQUESTS.contains(&name.as_str()));
        let tries = report["tries"].as_u64().unwrap_or_default();
        answer.served =
            Some(Served { backend: text("served_by"), method: text("method"), target: text("target"), headers, tries });
    } else {
        let body = String::from_utf8_lossy(&body);
        if !is_refusal && !REFUSALS.contains(&&*body) {
            answer.body = body.into_owned();
        }
        answer.headers.remove("content-type");
    }
    Ok(answer)
}

fn all(headers: &HeaderMap) -> Headers {
    let joined = |name| {
        let lines = headers.get_all(name).iter().map(|line| String::from_utf8_lossy(line.as_bytes()));
        lines.collect::<Vec<_>>().join(",")
    };
    headers.keys().map(|name| (name.to_string(), joined(name))).collect()
}
