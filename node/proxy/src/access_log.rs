//! One line per exchange, in Istio's default text format or as JSON with its keys. Lines are formatted and written
//! by a thread of their own; workers hand entries over without ever waiting, and what does not fit is counted.

use std::{
    io::{self, BufWriter, Write},
    net::SocketAddr,
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread,
    time::{Duration, SystemTime},
};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, Version, header};
use serde_json::{Map, Value, json};
use weft_policy::date::Date;

use crate::exchange::X_REQUEST_ID;

/// Entries that may wait for the writer.
const QUEUE: usize = 8_192;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessLogFormat {
    /// Istio's default: `[time] "GET /path HTTP/1.1" 200 - …`
    Text,
    /// One JSON object a line, with Istio's keys.
    Json,
}

/// Where exchanges are written. Cheap to clone; the writer ends with the last clone.
#[derive(Clone)]
pub struct AccessLog(SyncSender<Entry>);

impl AccessLog {
    /// Starts the writer thread. It flushes whenever it has caught up.
    pub fn start(format: AccessLogFormat, out: impl Write + Send + 'static) -> io::Result<Self> {
        let (sender, entries) = sync_channel(QUEUE);
        thread::Builder::new().name("weft-access-log".into()).spawn(move || write_all(format, out, &entries))?;
        Ok(Self(sender))
    }

    /// Hands an entry to the writer; false if it is too far behind.
    pub(crate) fn write(&self, entry: Entry) -> bool {
        self.0.try_send(entry).is_ok()
    }
}

fn write_all(format: AccessLogFormat, out: impl Write, entries: &Receiver<Entry>) {
    let mut out = BufWriter::with_capacity(64 * 1024, out);
    while let Ok(first) = entries.recv() {
        for entry in std::iter::once(first).chain(entries.try_iter()) {
            let written = match format {
                AccessLogFormat::Text => writeln!(out, "{}", entry.text()),
                AccessLogFormat::Json => writeln!(out, "{}", entry.json()),
            };
            if written.is_err() {
                return; // The reader is gone (a closed pipe, a full disk): traffic goes on without a log.
            }
        }
        if out.flush().is_err() {
            return;
        }
    }
}

/// What is known of one exchange when it ends.
pub(crate) struct Entry {
    pub(crate) start: SystemTime,
    pub(crate) request: Option<RequestLine>,
    pub(crate) status: u16,
    pub(crate) flag: &'static str,
    /// Why the proxy answered itself, or failed.
    pub(crate) detail: Option<String>,
    /// Envoy's response code details, where it is not "via_upstream".
    pub(crate) code_details: Option<String>,
    pub(crate) bytes_received: u64,
    pub(crate) bytes_sent: u64,
    pub(crate) duration: Duration,
    pub(crate) upstream_time: Option<Duration>,
    pub(crate) upstream_host: Option<SocketAddr>,
    pub(crate) upstream_cluster: Option<String>,
    pub(crate) downstream_local: SocketAddr,
    pub(crate) downstream_remote: SocketAddr,
    pub(crate) requested_server_name: Option<String>,
    pub(crate) route_name: Option<String>,
}

/// What the log shows of a request's head; an exchange of raw TCP has none.
pub(crate) struct RequestLine {
    method: Method,
    uri: Uri,
    version: Version,
    authority: Option<HeaderValue>,
    forwarded_for: Option<HeaderValue>,
    user_agent: Option<HeaderValue>,
    pub(crate) request_id: Option<HeaderValue>,
}

impl RequestLine {
    pub(crate) fn of(method: &Method, uri: &Uri, version: Version, headers: &HeaderMap) -> Self {
        const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
        Self {
            method: method.clone(),
            uri: uri.clone(),
            version,
            authority: headers.get(header::HOST).cloned(),
            forwarded_for: headers.get(X_FORWARDED_FOR).cloned(),
            user_agent: headers.get(header::USER_AGENT).cloned(),
            request_id: headers.get(X_REQUEST_ID).cloned(),
        }
    }

    fn authority(&self) -> Option<String> {
        self.uri.authority().map(|authority| authority.to_string()).or_else(|| text_of(self.authority.as_ref()))
    }

    fn path(&self) -> &str {
        self.uri.path_and_query().map_or("-", |path| path.as_str())
    }
}

/// A header as text that cannot break out of its place in a line.
fn text_of(value: Option<&HeaderValue>) -> Option<String> {
    value.map(|value| String::from_utf8_lossy(value.as_bytes()).replace(['"', '\\'], "_"))
}

fn or_dash(value: &Option<impl ToString>) -> String {
    value.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string)
}

impl Entry {
    fn protocol(&self) -> Option<String> {
        self.request.as_ref().map(|request| format!("{:?}", request.version))
    }

    fn code_details(&self) -> Option<&str> {
        self.code_details.as_deref().or_else(|| self.upstream_time.is_some().then_some("via_upstream"))
    }

    /// Istio's default text format: <https://istio.io/latest/docs/tasks/observability/logs/access-log/>.
    fn text(&self) -> String {
        let request = self.request.as_ref();
        let header = |value: fn(&RequestLine) -> Option<&HeaderValue>| {
            request.and_then(|request| text_of(value(request))).unwrap_or_else(|| "-".to_owned())
        };
        let detail = self.detail.as_ref().map(|detail| detail.replace(['"', '\n'], "'"));
        format!(
            "[{}] \"{} {} {}\" {} {} {} - \"{}\" {} {} {} {} \"{}\" \"{}\" \"{}\" \"{}\" \"{}\" {} - {} {} {} {}",
            Date::of(self.start).rfc3339(),
            request.map_or("-", |request| request.method.as_str()),
            request.map_or("-", RequestLine::path),
            or_dash(&self.protocol()),
            self.status,
            self.flag,
            self.code_details().unwrap_or("-"),
            or_dash(&detail),
            self.bytes_received,
            self.bytes_sent,
            self.duration.as_millis(),
            or_dash(&self.upstream_time.map(|time| time.as_millis())),
            header(|request| request.forwarded_for.as_ref()),
            header(|request| request.user_agent.as_ref()),
            header(|request| request.request_id.as_ref()),
            or_dash(&request.and_then(RequestLine::authority)),
            or_dash(&self.upstream_host),
            or_dash(&self.upstream_cluster),
            self.downstream_local,
            self.downstream_remote,
            or_dash(&self.requested_server_name),
            or_dash(&self.route_name),
        )
    }

    fn json(&self) -> Value {
        let request = self.request.as_ref();
        let optional = |value: Option<String>| value.map_or(Value::Null, Value::String);
        let mut line = Map::new();
        line.extend([
            ("start_time".to_owned(), json!(Date::of(self.start).rfc3339())),
            ("method".to_owned(), optional(request.map(|request| request.method.to_string()))),
            ("path".to_owned(), optional(request.map(|request| request.path().to_owned()))),
            ("protocol".to_owned(), optional(self.protocol())),
            ("response_code".to_owned(), json!(self.status)),
            ("response_flags".to_owned(), json!(self.flag)),
            ("response_code_details".to_owned(), optional(self.code_details().map(str::to_owned))),
            ("upstream_transport_failure_reason".to_owned(), optional(self.detail.clone())),
            ("bytes_received".to_owned(), json!(self.bytes_received)),
            ("bytes_sent".to_owned(), json!(self.bytes_sent)),
            ("duration".to_owned(), json!(self.duration.as_millis() as u64)),
            ("upstream_service_time".to_owned(), json!(self.upstream_time.map(|time| time.as_millis() as u64))),
            ("x_forwarded_for".to_owned(), optional(request.and_then(|r| text_of(r.forwarded_for.as_ref())))),
            ("user_agent".to_owned(), optional(request.and_then(|r| text_of(r.user_agent.as_ref())))),
            ("request_id".to_owned(), optional(request.and_then(|r| text_of(r.request_id.as_ref())))),
            ("authority".to_owned(), optional(request.and_then(RequestLine::authority))),
            ("upstream_host".to_owned(), optional(self.upstream_host.map(|host| host.to_string()))),
            ("upstream_cluster".to_owned(), optional(self.upstream_cluster.clone())),
            ("downstream_local_address".to_owned(), json!(self.downstream_local.to_string())),
            ("downstream_remote_address".to_owned(), json!(self.downstream_remote.to_string())),
            ("requested_server_name".to_owned(), optional(self.requested_server_name.clone())),
            ("route_name".to_owned(), optional(self.route_name.clone())),
        ]);
        Value::Object(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_static("reviews:9080"));
        headers.insert(header::USER_AGENT, HeaderValue::from_static("a\"b"));
        Entry {
            start: SystemTime::UNIX_EPOCH + Duration::from_millis(1_709_210_096_007),
            request: Some(RequestLine::of(&Method::GET, &Uri::from_static("/reviews/0"), Version::HTTP_11, &headers)),
            status: 200,
            flag: "-",
            detail: None,
            code_details: None,
            bytes_received: 1,
            bytes_sent: 2,
            duration: Duration::from_millis(3),
            upstream_time: Some(Duration::from_millis(2)),
            upstream_host: None,
            upstream_cluster: Some("outbound|9080||reviews.default.svc.cluster.local".into()),
            downstream_local: ([127, 0, 0, 1], 15001).into(),
            downstream_remote: ([127, 0, 0, 1], 40000).into(),
            requested_server_name: None,
            route_name: Some("default".into()),
        }
    }

    #[test]
    fn a_line_has_istios_default_format() {
        assert_eq!(
            entry().text(),
            "[2024-02-29T12:34:56.007Z] \"GET /reviews/0 HTTP/1.1\" 200 - via_upstream - \"-\" 1 2 3 2 \"-\" \"a_b\" \
             \"-\" \"reviews:9080\" \"-\" outbound|9080||reviews.default.svc.cluster.local - 127.0.0.1:15001 \
             127.0.0.1:40000 - default"
        );
    }

    #[test]
    fn a_json_line_has_istios_keys() {
        let line = entry().json();
        assert_eq!(line["path"], "/reviews/0");
        assert_eq!(line["authority"], "reviews:9080");
        assert_eq!(line["duration"], 3);
        assert_eq!(line["upstream_host"], Value::Null);
    }
}
