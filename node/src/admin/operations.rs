//! What the admin API offers: each operation once, with who may ask for it. Requests are looked up here, and
//! [`openapi`](super::openapi) describes the same.

use http::Method;
use schemars::{JsonSchema, Schema, SchemaGenerator};

use super::{
    api::{
        AccessQuestion, Document, Endpoint, Explanation, Member, Prepare, Prepared, RouteQuestion, Service, Status,
        Token, TokenCreated, TokenRequest, Workload, Write, Written,
    },
    certificates::Certificates,
    circuits::Circuit,
    compare::Comparison,
    decision::{Decision, WhyQuestion},
    doctor::Examination,
    edit::{Edit, Edited},
    events::Timeline,
    history::History,
    log::{Lines, LogQuery},
    plaintext::Plaintext,
    schemas::KindEntry,
    sessions::{ConsoleCode, SessionState, SignIn},
    tap::{TapEvent, TapRequest},
    traces::{TraceAnswer, TraceQuery},
    traffic::{Traffic, TrafficHistory},
};
use crate::{config::ServiceSpec, events::Told};

/// What can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Operation {
    Healthz,
    Readyz,
    Metrics,
    OpenApi,
    Status,
    Members,
    Services,
    Workloads,
    Endpoints,
    Circuits,
    Certificates,
    Traffic,
    TrafficHistory,
    Events,
    Schemas,
    Schema,
    Documents,
    Tokens,
    ExplainRoute,
    ExplainAccess,
    Session,
    SignIn,
    SignOut,
    Console,
    Doctor,
    PrepareDocuments,
    CompareDocuments,
    DocumentHistory,
    EditDocuments,
    WriteDocuments,
    Why,
    Traces,
    Log,
    Plaintext,
    Tap,
    TapByQuery,
    CreateToken,
    RevokeToken,
    Register,
    DrainWorkload,
    Leave,
}

/// Who may ask for an operation. Each may what the ones before may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Asker {
    /// Also whoever reaches the address of `metrics`.
    Scraper,
    /// Every process of the host, on the loopback address.
    Process,
    /// Likewise, of somebody who is signed in to the console: what the console has a page for, and no more.
    Console,
    /// Whoever may open the unix socket: they own the node.
    Owner,
}

/// A JSON type's schema.
pub(super) type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

/// What a successful answer holds.
#[derive(Clone, Copy)]
pub(super) enum Answer {
    Nothing,
    Text,
    Json(SchemaOf),
    /// Any JSON object.
    Object,
    /// JSON, or with `Accept: text/event-stream` server-sent events, of which each holds the second.
    JsonOrEvents(SchemaOf, SchemaOf),
    Events(SchemaOf),
    /// A line of JSON each.
    Lines,
}

pub(super) struct Parameter {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
}

/// All there is to say about an operation.
pub(super) struct Description {
    pub(super) operation: Operation,
    pub(super) method: Method,
    /// With `{NAME}` for each segment that is any.
    pub(super) path: &'static str,
    pub(super) asker: Asker,
    pub(super) about: &'static str,
    pub(super) query: &'static [Parameter],
    pub(super) body: Option<SchemaOf>,
    pub(super) answer: Answer,
}

/// An operation that a request asks for.
pub(super) struct Asked<'p> {
    pub(super) description: &'static Description,
    segments: Vec<&'p str>,
}

impl<'p> Asked<'p> {
    /// The operation of a method and a path; HEAD asks for what GET does.
    pub(super) fn find(method: &Method, path: &'p str) -> Option<Self> {
        let method = if method == Method::HEAD { &Method::GET } else { method };
        let segments: Vec<&str> = path.split('/').collect();
        let is_this = |description: &&Description| {
            description.method == *method
                && description.path.split('/').count() == segments.len()
                && description
                    .path
                    .split('/')
                    .zip(&segments)
                    .all(|(ours, theirs)| name(ours).is_some() || ours == *theirs)
        };
        OPERATIONS.iter().find(is_this).map(|description| Self { description, segments })
    }

    /// The path's segment of that name; empty if there is none.
    pub(super) fn segment(&self, of: &str) -> &'p str {
        let place = self.description.path.split('/').position(|ours| name(ours) == Some(of));
        place.and_then(|place| self.segments.get(place)).copied().unwrap_or_default()
    }
}

/// The names of the segments that may be any.
pub(super) fn names(path: &'static str) -> impl Iterator<Item = &'static str> {
    path.split('/').filter_map(name)
}

fn name(segment: &str) -> Option<&str> {
    segment.strip_prefix('{')?.strip_suffix('}')
}

const fn get(operation: Operation, path: &'static str, about: &'static str, answer: Answer) -> Description {
    let (method, asker) = (Method::GET, Asker::Process);
    Description { operation, method, path, asker, about, query: &[], body: None, answer }
}

const fn post(
    operation: Operation,
    asker: Asker,
    path: &'static str,
    about: &'static str,
    body: Option<SchemaOf>,
    answer: Answer,
) -> Description {
    Description { operation, method: Method::POST, path, asker, about, query: &[], body, answer }
}

impl Description {
    const fn by(mut self, asker: Asker) -> Self {
        self.asker = asker;
        self
    }

    const fn with(mut self, query: &'static [Parameter]) -> Self {
        self.query = query;
        self
    }
}

const fn json<T: JsonSchema>() -> Answer {
    Answer::Json(schema::<T>)
}

fn schema<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

const fn body<T: JsonSchema>() -> Option<SchemaOf> {
    Some(schema::<T>)
}

const WINDOW: &[Parameter] =
    &[Parameter { name: "window", about: "of the latest traffic, `1s` to `1m`; `10s` if absent" }];
const HISTORY: &[Parameter] = &[
    Parameter { name: "since", about: "how far back, `10s` to `30m`; `30m` if absent" },
    Parameter { name: "step", about: "the length of a point, a multiple of 10 s; if absent, for some 60 points" },
];
const SINCE: &[Parameter] = &[Parameter { name: "since", about: "how far back, such as `10m`, which it is if absent" }];
const ENDPOINTS: &[Parameter] = &[
    Parameter { name: "service", about: "`NAME.NAMESPACE`, or a host outside of the mesh; this or `node`" },
    Parameter { name: "node", about: "a node's name" },
];
const FORCE: &[Parameter] = &[Parameter { name: "force", about: "`true`: also if the mesh's root key is here" }];
/// As [`super::tap::query`] reads them.
pub(super) const TAP: &[Parameter] = &[
    Parameter { name: "to", about: "what is called, as in `weft edges`" },
    Parameter { name: "from", about: "who calls" },
    Parameter { name: "namespace", about: "of which either side is" },
    Parameter { name: "node", about: "which node tells it" },
    Parameter { name: "method", about: "of requests" },
    Parameter { name: "path", about: "a beginning; with `*` in it, the whole of it" },
    Parameter { name: "status", about: "`503`, `5xx`, `400-499`, or several with commas; 0 is no response" },
    Parameter { name: "header", about: "`NAME`, or `NAME:VALUE`, of requests; may be there several times" },
    Parameter { name: "body", about: "how much of each body, `16KiB` at most; nothing if absent" },
    Parameter { name: "max_rps", about: "requests per second of each node, 1,000 at most; 100 if absent" },
    Parameter { name: "side", about: "`source` or `destination`: whose word it is" },
    Parameter { name: "for", about: "how long, `30m` at most; `5m` if absent" },
];

/// In the order in which they are described.
pub(super) static OPERATIONS: &[Description] = &[
    get(Operation::Healthz, "/healthz", "200 while the process answers", Answer::Text).by(Asker::Scraper),
    get(Operation::Readyz, "/readyz", "200 when the node is ready, else 503 with the reasons", Answer::Text)
        .by(Asker::Scraper),
    get(
        Operation::Metrics,
        "/metrics",
        "All metrics: OpenMetrics if `Accept` asks for it, with the latest trace of each bucket of durations as an \
             exemplar, else Prometheus' text format",
        Answer::Text,
    )
    .by(Asker::Scraper),
    get(Operation::OpenApi, "/api/v1/openapi.json", "This description (OpenAPI 3.1)", Answer::Object),
    get(Operation::Status, "/api/v1/status", "What `weft status` tells", json::<Status>()),
    get(Operation::Members, "/api/v1/members", "What `weft members` tells", json::<Vec<Member>>()),
    get(Operation::Services, "/api/v1/services", "What `weft services` tells", json::<Vec<Service>>()),
    get(Operation::Workloads, "/api/v1/workloads", "Each port of each workload", json::<Vec<Workload>>()),
    get(Operation::Endpoints, "/api/v1/endpoints", "The endpoints of a service, or on a node", json::<Vec<Endpoint>>())
        .with(ENDPOINTS),
    get(Operation::Circuits, "/api/v1/circuits", "What `weft circuits` tells", json::<Vec<Circuit>>()),
    get(
        Operation::Certificates,
        "/api/v1/certificates",
        "How long the certificate of each service account is good, on each node that hosts it",
        json::<Certificates>(),
    ),
    get(
        Operation::Traffic,
        "/api/v1/traffic",
        "What `weft edges` tells, of the whole mesh: once, or each second",
        Answer::JsonOrEvents(schema::<Traffic>, schema::<Traffic>),
    )
    .with(WINDOW),
    get(
        Operation::TrafficHistory,
        "/api/v1/traffic/history",
        "What went over each edge in the last half hour",
        json::<TrafficHistory>(),
    )
    .with(HISTORY),
    get(
        Operation::Events,
        "/api/v1/events",
        "What `weft events` tells: once, or also what happens from then on",
        Answer::JsonOrEvents(schema::<Timeline>, schema::<Told>),
    )
    .with(SINCE),
    get(Operation::Schemas, "/api/v1/schemas", "The kinds of documents", json::<Vec<KindEntry>>()),
    get(Operation::Schema, "/api/v1/schemas/{kind}", "The JSON Schema of a kind, by any of its names", Answer::Object),
    get(Operation::Documents, "/api/v1/documents", "All documents, and what became of them", json::<Vec<Document>>()),
    get(Operation::Tokens, "/api/v1/tokens", "What `weft token list` tells", json::<Vec<Token>>()),
    post(
        Operation::ExplainRoute,
        Asker::Process,
        "/api/v1/explain/route",
        "What `weft explain route` tells",
        body::<RouteQuestion>(),
        json::<Explanation>(),
    ),
    post(
        Operation::ExplainAccess,
        Asker::Process,
        "/api/v1/explain/access",
        "What `weft explain access` tells",
        body::<AccessQuestion>(),
        json::<Explanation>(),
    ),
    get(Operation::Session, "/api/v1/session", "Whether one is signed in", json::<SessionState>()),
    post(
        Operation::SignIn,
        Asker::Process,
        "/api/v1/session",
        "Trades a code of `weft console` for a cookie, and a `token` for the header `x-weft-session`",
        body::<SignIn>(),
        json::<SessionState>(),
    ),
    post(Operation::SignOut, Asker::Console, "/api/v1/session/end", "Signs out", None, json::<SessionState>()),
    post(
        Operation::Console,
        Asker::Owner,
        "/api/v1/console",
        "A code that signs in once, in the console's address",
        None,
        json::<ConsoleCode>(),
    ),
    // It has other nodes dial this one.
    post(Operation::Doctor, Asker::Console, "/api/v1/doctor", "What `weft doctor` tells", None, json::<Examination>()),
    post(
        Operation::PrepareDocuments,
        Asker::Console,
        "/api/v1/documents/prepare",
        "Checks and stamps drafts for an author to sign; also for `--dry-run`",
        body::<Prepare>(),
        json::<Vec<Prepared>>(),
    ),
    post(
        Operation::CompareDocuments,
        Asker::Console,
        "/api/v1/documents/compare",
        "What `weft diff --nodes` tells",
        None,
        json::<Comparison>(),
    ),
    post(
        Operation::DocumentHistory,
        Asker::Console,
        "/api/v1/documents/history",
        "What `weft history` tells",
        body::<weft_wire::document::DocumentKey>(),
        json::<History>(),
    ),
    post(
        Operation::EditDocuments,
        Asker::Console,
        "/api/v1/documents/text",
        "What `weft apply` and `weft diff` of a text would do; writes it with `\"dry_run\": false`",
        body::<Edit>(),
        json::<Edited>(),
    ),
    post(
        Operation::WriteDocuments,
        Asker::Console,
        "/api/v1/documents",
        "Writes signed documents, or drafts that the node signs",
        body::<Write>(),
        json::<Vec<Written>>(),
    ),
    // Not for each process of the host: it tells what others have asked for. So do the next three, and taps.
    post(
        Operation::Why,
        Asker::Console,
        "/api/v1/why",
        "What `weft why` tells",
        body::<WhyQuestion>(),
        json::<Vec<Decision>>(),
    ),
    post(
        Operation::Traces,
        Asker::Console,
        "/api/v1/traces",
        "What `weft trace` and `weft traces` tell",
        body::<TraceQuery>(),
        json::<TraceAnswer>(),
    ),
    post(
        Operation::Log,
        Asker::Console,
        "/api/v1/log",
        "The latest lines of access logs about a service or a workload, or of a node",
        body::<LogQuery>(),
        json::<Lines>(),
    ),
    post(
        Operation::Plaintext,
        Asker::Console,
        "/api/v1/plaintext",
        "What `weft plaintext` tells",
        None,
        json::<Plaintext>(),
    ),
    post(
        Operation::Tap,
        Asker::Console,
        "/api/v1/tap",
        "What `weft tap` shows",
        body::<TapRequest>(),
        Answer::Events(schema::<TapEvent>),
    ),
    get(Operation::TapByQuery, "/api/v1/tap", "What `weft tap` shows", Answer::Events(schema::<TapEvent>))
        .by(Asker::Owner)
        .with(TAP),
    post(
        Operation::CreateToken,
        Asker::Owner,
        "/api/v1/tokens",
        "Creates a token",
        body::<TokenRequest>(),
        json::<TokenCreated>(),
    ),
    post(Operation::RevokeToken, Asker::Owner, "/api/v1/tokens/{id}/revoke", "Revokes a token", None, Answer::Nothing),
    post(
        Operation::Register,
        Asker::Owner,
        "/api/v1/workloads",
        "Registers a workload for as long as the answer is being read: a line for each change of its health",
        body::<ServiceSpec>(),
        Answer::Lines,
    ),
    post(
        Operation::DrainWorkload,
        Asker::Owner,
        "/api/v1/workloads/{namespace}/{workload}/drain",
        "Has callers send nothing new; answers when they have confirmed it, or after 0.5 s to 2 s if some do not",
        None,
        Answer::Nothing,
    ),
    post(Operation::Leave, Asker::Owner, "/api/v1/leave", "Leaves the mesh", None, Answer::Nothing).with(FORCE),
];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn each_operation_is_found_by_its_path_and_by_no_other() {
        let mut seen = HashSet::new();
        for description in OPERATIONS {
            assert!(seen.insert(description.operation), "{:?} stands twice", description.operation);
            let path = description.path.replace(['{', '}'], "");
            let asked = Asked::find(&description.method, &path).expect("it is there");
            assert_eq!(asked.description.operation, description.operation, "{path}");
            for name in names(description.path) {
                assert_eq!(asked.segment(name), name);
            }
            assert!(Asked::find(&Method::PUT, &path).is_none());
            assert!(Asked::find(&description.method, &format!("{path}/x/y/z")).is_none());
        }
        assert!(Asked::find(&Method::HEAD, "/healthz").is_some());
        assert!(Asked::find(&Method::GET, "/api/v1").is_none());
        assert_eq!(Asked::find(&Method::GET, "/api/v1/schemas/vs").unwrap().segment("other"), "");
    }

    #[test]
    fn what_tells_of_others_or_changes_anything_is_not_for_each_process() {
        let open = OPERATIONS.iter().filter(|one| one.asker <= Asker::Process && one.method == Method::POST);
        let open: Vec<_> = open.map(|one| one.operation).collect();
        assert_eq!(open, [Operation::ExplainRoute, Operation::ExplainAccess, Operation::SignIn]);
        let scraped = OPERATIONS.iter().filter(|one| one.asker == Asker::Scraper);
        let scraped: Vec<_> = scraped.map(|one| one.path).collect();
        assert_eq!(scraped, ["/healthz", "/readyz", "/metrics"]);
    }

    #[test]
    fn each_operation_stands_in_the_reference() {
        let reference = include_str!("../../../docs/reference.md");
        for description in OPERATIONS {
            let path = description.path.replace("{kind}", "KIND").replace("{id}", "ID");
            let path = path.replace("{namespace}", "NAMESPACE").replace("{workload}", "WORKLOAD");
            let stands = [path.as_str(), path.strip_prefix("/api/v1").unwrap_or(&path)].iter().any(|path| {
                reference.contains(&format!("`{path}`"))
                    || reference.contains(&format!("`{path}?"))
                    || reference.contains(&format!(" {path}`"))
            });
            assert!(stands, "docs/reference.md lacks {path}");
        }
    }
}
