//! Which exchanges a log takes: an expression in CEL over Envoy's attributes
//! (<https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/advanced/attributes>).

use std::{collections::HashMap, sync::Arc, thread};

use cel::{Context, Program, Value};
use http::{HeaderMap, HeaderName, header};

use super::{Entry, operator::FLAGS, protocol_name};

/// Longest expression, in bytes.
const MAX_LEN: usize = 4096;
/// What reading and asking the longest expression takes of a stack, and more, in bytes.
pub const FILTER_STACK: usize = 16 << 20;
/// Deepest nesting of brackets, and most of what stands between values but `&&` and `||`: reading and asking go as deep.
const MAX_DEPTH: usize = 16;
const MAX_OPERATORS: usize = 80;
/// What attributes begin with.
const ROOTS: [&str; 7] = ["request", "response", "connection", "upstream", "source", "destination", "xds"];
/// What introduces names of an expression's own.
const MACROS: [&str; 6] = [".all(", ".exists(", ".exists_one(", ".map(", ".filter(", "cel.bind("];

/// A compiled expression.
#[derive(Debug)]
pub struct LogFilter {
    expression: String,
    program: Program,
    /// Those of [`ROOTS`] that it speaks of.
    roots: Vec<&'static str>,
    needs_heads: bool,
}

impl PartialEq for LogFilter {
    fn eq(&self, other: &Self) -> bool {
        self.expression == other.expression
    }
}

/// What all expressions have in common: CEL's functions. Made once for each thread that asks filters.
#[derive(Default)]
pub struct FilterContext(Context<'static, 'static>);

/// # Errors
/// Why a text is no expression that a log can be filtered by, in words.
pub(crate) fn check_filter(expression: &str) -> Result<(), String> {
    LogFilter::read(expression).map(drop)
}

impl LogFilter {
    pub(crate) fn read(expression: &str) -> Result<Self, String> {
        if expression.len() > MAX_LEN {
            return Err(format!("it has {} bytes; {MAX_LEN} are the most", expression.len()));
        }
        if depth(expression) > MAX_DEPTH {
            return Err(format!("it is nested deeper than {MAX_DEPTH}"));
        }
        let operators = expression.replace("==", "=").bytes().filter(|byte| b"+-*/%?!.<=>[(".contains(byte)).count();
        if operators > MAX_OPERATORS {
            return Err(format!("it has {operators} operators, dots and brackets; {MAX_OPERATORS} are the most"));
        }
        let (program, variables) = compile(expression)?;
        let has_own_names = MACROS.iter().any(|one| expression.contains(one));
        let unknown = variables.iter().find(|name| !ROOTS.contains(&name.as_str()));
        if let Some(unknown) = unknown.filter(|_| !has_own_names) {
            return Err(format!("{unknown} is no attribute: they begin with {}", ROOTS.join(", ")));
        }
        let roots = ROOTS.into_iter().filter(|root| variables.iter().any(|name| name == root)).collect();
        let needs_heads = ["headers", "trailers", "referer"].iter().any(|name| expression.contains(name));
        Ok(Self { expression: expression.to_owned(), program, roots, needs_heads })
    }

    /// Whether it reads headers or trailers that are not kept unless asked for.
    pub fn needs_heads(&self) -> bool {
        self.needs_heads
    }

    /// Whether an exchange is logged. Where the expression has no value, such as of a header that there is not, it is
    /// not, as by Envoy. Asked on a thread with a stack of [`FILTER_STACK`].
    pub fn takes(&self, entry: &Entry, context: &FilterContext) -> bool {
        let mut context = context.0.new_inner_scope();
        for root in &self.roots {
            let value = match *root {
                "request" => request(entry),
                "response" => response(entry),
                "connection" => connection(entry),
                "upstream" => upstream(entry),
                "source" => address(entry.downstream_remote),
                "destination" => address(entry.downstream_local),
                _ => Attributes::default()
                    .text("cluster_name", entry.upstream.cluster.as_deref())
                    .text("route_name", entry.route_name.as_deref()),
            };
            context.add_variable_from_value(*root, value.map());
        }
        matches!(self.program.execute(&context), Ok(Value::Bool(true)))
    }
}

/// Reads an expression, and gives the names that it speaks of.
fn compile(expression: &str) -> Result<(Program, Vec<String>), String> {
    let read = || {
        let program = Program::compile(expression).map_err(|errors| one_line(&errors.to_string()))?;
        let variables = program.references().variables().into_iter().map(str::to_owned).collect();
        Ok((program, variables))
    };
    // A thread of its own has the stack for it, and keeps the parser's panics, should it have any.
    thread::scope(|scope| {
        let reader = thread::Builder::new().stack_size(FILTER_STACK).spawn_scoped(scope, read);
        let read = reader.map_err(|error| format!("it cannot be read now: {error}"))?.join();
        read.unwrap_or_else(|_| Err("it cannot be read".to_owned()))
    })
}

/// How deep brackets are nested, those in texts counted too.
fn depth(expression: &str) -> usize {
    let (mut depth, mut deepest) = (0usize, 0);
    for byte in expression.bytes() {
        match byte {
            b'(' | b'[' | b'{' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

fn one_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().trim().trim_start_matches("ERROR: ").to_owned()
}

/// Attributes by name. One that has no value is not there, so that `has()` tells.
#[derive(Default)]
struct Attributes(HashMap<String, Value>);

impl Attributes {
    fn with(mut self, name: &str, value: Option<Value>) -> Self {
        if let Some(value) = value {
            self.0.insert(name.to_owned(), value);
        }
        self
    }

    fn text(self, name: &str, text: Option<&str>) -> Self {
        self.with(name, text.map(|text| Value::String(Arc::new(text.to_owned()))))
    }

    fn number(self, name: &str, number: Option<u64>) -> Self {
        self.with(name, number.and_then(|number| i64::try_from(number).ok()).map(Value::Int))
    }

    fn map(self) -> Value {
        Value::Map(self.0.into())
    }
}

fn request(entry: &Entry) -> Attributes {
    let Some(request) = &entry.request else { return Attributes::default() };
    let header = |name: &HeaderName| request.header(name).and_then(|value| value.to_str().ok());
    Attributes::default()
        .text("path", Some(request.path()))
        .text("url_path", Some(request.uri.path()))
        .text("query", Some(request.uri.query().unwrap_or_default()))
        .text("host", request.authority())
        .text("scheme", Some("http"))
        .text("method", Some(request.method.as_str()))
        .text("protocol", Some(protocol_name(request.version)))
        .text("id", request.request_id.as_ref().and_then(|id| id.to_str().ok()))
        .text("useragent", header(&header::USER_AGENT))
        .text("referer", header(&header::REFERER))
        .number("size", Some(entry.bytes_received))
        .number("total_size", Some(entry.bytes_received))
        .with("headers", request.headers().map(heads))
}

fn response(entry: &Entry) -> Attributes {
    let flag = FLAGS.iter().find(|(short, ..)| *short == entry.flag).map_or(0, |(_, _, bit)| 1 << bit);
    Attributes::default()
        .number("code", (entry.status > 0).then(|| entry.status.into()))
        .text("code_details", entry.code_details())
        .number("flags", Some(flag))
        .number("grpc_status", entry.grpc_status.map(Into::into))
        .number("size", Some(entry.bytes_sent))
        .number("total_size", Some(entry.bytes_sent))
        .with("headers", entry.response.as_deref().map(heads))
        .with("trailers", entry.trailers.as_deref().map(heads))
}

fn connection(entry: &Entry) -> Attributes {
    Attributes::default()
        .with("mtls", Some(Value::Bool(entry.peer.is_some())))
        .text("requested_server_name", entry.requested_server_name.as_deref())
        .text("tls_version", entry.peer.as_ref().map(|_| "TLSv1.3"))
        .text("uri_san_peer_certificate", entry.peer.as_deref())
        .text("uri_san_local_certificate", entry.own_identity())
        .text("termination_details", entry.code_details.as_deref().filter(|_| entry.request.is_none()))
}

fn upstream(entry: &Entry) -> Attributes {
    let upstream = &entry.upstream;
    Attributes::default()
        .text("address", upstream.host.map(|host| host.to_string()).as_deref())
        .number("port", upstream.host.map(|host| host.port().into()))
        .text("local_address", upstream.local.map(|local| local.to_string()).as_deref())
        .text("tls_version", upstream.is_tls.then_some("TLSv1.3"))
        .text("uri_san_peer_certificate", entry.upstream_identity())
        .text("transport_failure_reason", entry.failure.as_deref())
        .number("request_attempt_count", Some(upstream.attempts.into()))
}

fn address(address: std::net::SocketAddr) -> Attributes {
    Attributes::default()
        .text("address", Some(address.to_string().as_str()))
        .number("port", Some(address.port().into()))
}

/// Of several values of one name, all, with commas between.
fn heads(headers: &HeaderMap) -> Value {
    let mut texts: HashMap<String, String> = HashMap::with_capacity(headers.keys_len());
    for (name, value) in headers {
        let value = String::from_utf8_lossy(value.as_bytes());
        texts
            .entry(name.as_str().to_owned())
            .and_modify(|known| {
                known.push(',');
                known.push_str(&value);
            })
            .or_insert_with(|| value.into_owned());
    }
    let texts: HashMap<String, Value> =
        texts.into_iter().map(|(name, text)| (name, Value::String(Arc::new(text)))).collect();
    Value::Map(texts.into())
}
