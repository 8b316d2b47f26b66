//! Expressions in CEL over Envoy's attributes of an exchange
//! (<https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/advanced/attributes>) and Istio's of who is at its
//! other end: which exchanges a log takes, and what a label of a metric is worth.

use std::{collections::HashMap, fmt, sync::Arc, thread};

use cel::{Context, Program, Value};
use http::{HeaderMap, HeaderName, header};

use super::{Entry, operator::FLAGS, protocol_name};
use crate::endpoint::Workload;

/// Longest expression, in bytes.
const MAX_LEN: usize = 4096;
/// What reading and asking the longest expression takes of a stack, and more, in bytes.
pub const EXPRESSION_STACK: usize = 16 << 20;
/// Deepest nesting of brackets, and most of what stands between values but `&&` and `||`: reading and asking go as deep.
const MAX_DEPTH: usize = 16;
const MAX_OPERATORS: usize = 80;
/// What attributes begin with: those of an exchange, of which the first two are of requests alone, and those of who is at
/// the other end of it.
const ROOTS: [&str; 10] = [
    "request",
    "response",
    "connection",
    "upstream",
    "source",
    "destination",
    "xds",
    UPSTREAM_PEER,
    DOWNSTREAM_PEER,
    "filter_state",
];
const OF_REQUESTS: usize = 2;
const OF_EXCHANGES: usize = 7;
const UPSTREAM_PEER: &str = "upstream_peer";
const DOWNSTREAM_PEER: &str = "downstream_peer";
/// The one cluster that a mesh is.
const CLUSTER: &str = "weft";
/// What introduces names of an expression's own.
const MACROS: [&str; 6] = [".all(", ".exists(", ".exists_one(", ".map(", ".filter(", "cel.bind("];

/// A compiled expression.
#[derive(Debug)]
pub struct Expression {
    text: Arc<str>,
    program: Program,
    /// Those of [`ROOTS`] that it speaks of, by their places.
    roots: Vec<usize>,
    /// What it is worth whatever happens.
    constant: Option<Option<String>>,
    needs_heads: bool,
}

impl PartialEq for Expression {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

/// What is known when an expression is asked.
#[derive(Clone, Copy, Debug)]
pub struct Known<'k> {
    /// Only when an exchange ends.
    pub entry: Option<&'k Entry>,
    /// Who is at the other end, if that is known.
    pub peer: Option<&'k Workload>,
    /// Whether the called workload's side asks.
    pub is_server: bool,
}

impl<'k> Known<'k> {
    pub fn of(entry: &'k Entry) -> Self {
        let peer = if entry.is_server { &entry.source } else { &entry.destination };
        Self { entry: Some(entry), peer: peer.as_deref(), is_server: entry.is_server }
    }
}

/// Why a text is no expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ExpressionError {
    Malformed(String),
    /// It speaks of what is no attribute.
    Unknown(String),
}

impl fmt::Display for ExpressionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(what) => f.write_str(what),
            Self::Unknown(name) => write!(f, "{name} is no attribute: they begin with {}", ROOTS.join(", ")),
        }
    }
}

/// What all expressions have in common: CEL's functions. Made once for each thread that asks filters.
#[derive(Default)]
pub struct ExpressionContext(Context<'static, 'static>);

impl Expression {
    /// # Errors
    /// What is wrong with the text, in words.
    pub(crate) fn read(text: &str) -> Result<Self, ExpressionError> {
        let malformed = ExpressionError::Malformed;
        if text.len() > MAX_LEN {
            return Err(malformed(format!("it has {} bytes; {MAX_LEN} are the most", text.len())));
        }
        if depth(text) > MAX_DEPTH {
            return Err(malformed(format!("it is nested deeper than {MAX_DEPTH}")));
        }
        let operators = text.replace("==", "=").bytes().filter(|byte| b"+-*/%?!.<=>[(".contains(byte)).count();
        if operators > MAX_OPERATORS {
            let what = format!("it has {operators} operators, dots and brackets; {MAX_OPERATORS} are the most");
            return Err(malformed(what));
        }
        let Compiled { program, variables, constant } = compile(text).map_err(malformed)?;
        let has_own_names = MACROS.iter().any(|one| text.contains(one));
        let unknown = variables.iter().find(|name| !ROOTS.contains(&name.as_str()));
        if let Some(unknown) = unknown.filter(|_| !has_own_names) {
            return Err(ExpressionError::Unknown(unknown.clone()));
        }
        let is_named = |root: &usize| variables.iter().any(|name| name == ROOTS[*root]);
        let roots = (0..ROOTS.len()).filter(is_named).collect();
        let needs_heads = ["headers", "trailers", "referer"].iter().any(|name| text.contains(name));
        Ok(Self { text: text.into(), program, roots, constant, needs_heads })
    }

    /// As it is written.
    pub fn as_text(&self) -> &Arc<str> {
        &self.text
    }

    /// What it is worth, if that never changes; `None` in it where it has no value.
    pub(crate) fn constant(&self) -> Option<Option<&str>> {
        self.constant.as_ref().map(Option::as_deref)
    }

    /// Whether it asks for more than who is at the other end.
    pub(crate) fn is_of_exchanges(&self) -> bool {
        self.roots.iter().any(|root| *root < OF_EXCHANGES)
    }

    /// Whether it asks for what connections of bytes have too.
    pub(crate) fn is_of_connections(&self) -> bool {
        self.roots.iter().any(|root| (OF_REQUESTS..OF_EXCHANGES).contains(root))
    }

    /// Whether it reads headers or trailers that are not kept unless asked for.
    pub fn needs_heads(&self) -> bool {
        self.needs_heads
    }

    /// Whether an exchange is logged. Where the expression has no value, such as of a header that there is not, it is
    /// not, as by Envoy. Asked on a thread with a stack of [`EXPRESSION_STACK`].
    pub fn holds(&self, entry: &Entry, context: &ExpressionContext) -> bool {
        self.value(&Known::of(entry), context) == Some(Value::Bool(true))
    }

    /// Its value as a text; `None` where it has none, or one that is no text, number or truth. Asked likewise.
    pub fn text(&self, known: &Known<'_>, context: &ExpressionContext) -> Option<String> {
        shown(&self.value(known, context)?)
    }

    fn value(&self, known: &Known<'_>, context: &ExpressionContext) -> Option<Value> {
        let mut context = context.0.new_inner_scope();
        for root in &self.roots {
            let root = ROOTS[*root];
            let value = match (root, known.entry) {
                ("filter_state", _) => {
                    let peers = [UPSTREAM_PEER, DOWNSTREAM_PEER].into_iter();
                    peers.fold(Attributes::default(), |all, name| all.with(name, peer(name, known)))
                }
                (UPSTREAM_PEER | DOWNSTREAM_PEER, _) => match peer(root, known) {
                    Some(peer) => {
                        context.add_variable_from_value(root, peer);
                        continue;
                    }
                    None => Attributes::default(),
                },
                (_, None) => Attributes::default(),
                ("request", Some(entry)) => request(entry),
                ("response", Some(entry)) => response(entry),
                ("connection", Some(entry)) => connection(entry),
                ("upstream", Some(entry)) => upstream(entry),
                ("source", Some(entry)) => address(entry.downstream_remote),
                ("destination", Some(entry)) => address(entry.downstream_local),
                (_, Some(entry)) => Attributes::default()
                    .text("cluster_name", entry.upstream.cluster.as_deref())
                    .text("route_name", entry.route_name.as_deref()),
            };
            context.add_variable_from_value(root, value.map());
        }
        self.program.execute(&context).ok()
    }
}

fn shown(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.to_string()),
        Value::Int(number) => Some(number.to_string()),
        Value::UInt(number) => Some(number.to_string()),
        Value::Float(number) => Some(number.to_string()),
        Value::Bool(truth) => Some(truth.to_string()),
        _ => None,
    }
}

struct Compiled {
    program: Program,
    /// The names that it speaks of.
    variables: Vec<String>,
    /// What it is worth, if it speaks of none.
    constant: Option<Option<String>>,
}

fn compile(text: &str) -> Result<Compiled, String> {
    let read = || {
        let program = Program::compile(text).map_err(|errors| one_line(&errors.to_string()))?;
        let variables: Vec<String> = program.references().variables().into_iter().map(str::to_owned).collect();
        let value = || program.execute(&Context::default()).ok().as_ref().and_then(shown);
        let constant = variables.is_empty().then(value);
        Ok(Compiled { program, variables, constant })
    };
    // A thread of its own has the stack for it, and keeps the parser's panics, should it have any.
    thread::scope(|scope| {
        let reader = thread::Builder::new().stack_size(EXPRESSION_STACK).spawn_scoped(scope, read);
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

/// The workload at the other end, as Istio's proxies know each other: the server's at the client, the client's at the
/// server.
fn peer(name: &str, known: &Known<'_>) -> Option<Value> {
    let peer = known.peer.filter(|_| (name == DOWNSTREAM_PEER) == known.is_server)?;
    let labels: HashMap<String, Value> =
        peer.labels.iter().map(|(name, value)| (name.clone(), Value::String(Arc::new(value.clone())))).collect();
    let attributes = Attributes::default()
        .text("name", Some(peer.name.as_str()))
        .text("workload", Some(peer.name.as_str()))
        .text("namespace", Some(peer.namespace.as_str()))
        .text("cluster", Some(CLUSTER))
        .text("service", Some(&peer.canonical_service))
        .text("revision", Some(&peer.canonical_revision))
        .text("app", Some(&peer.app))
        .text("version", Some(&peer.version))
        .text("identity", Some(&peer.principal))
        .with("labels", Some(Value::Map(labels.into())));
    Some(attributes.map())
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
