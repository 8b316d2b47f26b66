//! The latest spans of this node, in memory: those that were sampled, and those that were kept for being slow or failed,
//! each kind within its own bound.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, UNIX_EPOCH},
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use weft_policy::access_log::Entry;
use weft_proxy::ports::Span;
use weft_wire::{
    codec::{decode, encode},
    id::NodeName,
};

/// Spans of each kind that are kept.
const KEPT: usize = 2_048;
/// Longest text of a span, in characters.
const MAX_TEXT: usize = 256;
/// The most that a span takes encoded, in bytes: each of its texts is bounded.
const MAX_ENCODED: usize = 16 * 1024;
/// Envoy's flag of a caller who went away.
const CALLER_GONE: &str = "DC";

/// Which spans are looked for.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Search {
    /// A service: its name, or `NAME.NAMESPACE`. It calls or is called.
    pub service: Option<String>,
    /// Only failures.
    pub error: bool,
    /// Those that took as long at least, in microseconds.
    pub min_us: u64,
    /// Those that began since then, in microseconds since 1970.
    pub since_us: u64,
}

/// One side of one hop.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct TraceSpan {
    /// 32 hexadecimal digits, and 16.
    pub trace: String,
    pub span: String,
    pub parent: Option<String>,
    /// The node that tells it.
    pub node: String,
    /// `client` or `server`.
    pub kind: String,
    /// Such as `reviews.default.svc.cluster.local:9080/*`.
    pub name: String,
    /// `SERVICE.NAMESPACE` of whose side it is; and `NAMESPACE/WORKLOAD`.
    pub service: Option<String>,
    pub workload: Option<String>,
    /// `SERVICE.NAMESPACE` of the other side.
    pub peer: Option<String>,
    /// Microseconds since 1970.
    pub start_us: u64,
    pub duration_us: u64,
    pub method: String,
    pub path: String,
    /// 0 if there was no response.
    pub status: u16,
    pub grpc_status: Option<u8>,
    pub flags: String,
    pub error: bool,
    pub sampled: bool,
    pub request_id: Option<String>,
}

/// How a workload deals with the context of traces.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Forwarding {
    /// `NAMESPACE/WORKLOAD`, and its service.
    pub workload: String,
    pub service: String,
    pub node: String,
    /// Spans of requests to it.
    pub inbound: u64,
    /// Spans of its own requests that came with a context, and those without.
    pub forwarded: u64,
    pub lost: u64,
}

impl TraceSpan {
    pub fn of(span: &Span, node: &NodeName) -> Self {
        let entry = &*span.entry;
        let request = entry.request.as_ref();
        let other = if entry.is_server { &entry.source } else { &entry.destination };
        let own = entry.own_workload();
        let since = entry.start.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            trace: format!("{:032x}", span.ids.trace),
            span: format!("{:016x}", span.ids.span),
            parent: span.parent.map(|parent| format!("{parent:016x}")),
            node: node.to_string(),
            kind: if entry.is_server { "server" } else { "client" }.to_owned(),
            name: short(&operation(entry)),
            service: service_of(entry),
            workload: own.map(|workload| format!("{}/{}", workload.namespace, workload.name)),
            peer: other.as_ref().map(|other| format!("{}.{}", other.canonical_service, other.namespace)),
            start_us: micros(since),
            duration_us: micros(entry.duration),
            method: request.map_or_else(String::new, |request| short(request.method.as_str())),
            path: request.map_or_else(String::new, |request| short(request.path())),
            status: entry.status,
            grpc_status: entry.grpc_status,
            flags: entry.flag.to_owned(),
            error: is_failure(entry),
            sampled: span.is_sampled,
            request_id: request.and_then(|request| Some(short(request.request_id.as_ref()?.to_str().ok()?))),
        }
    }

    fn is_of(&self, service: &str) -> bool {
        let is_it = |name: &Option<String>| {
            let name = name.as_deref().unwrap_or_default();
            name == service || name.split_once('.').is_some_and(|(short, _)| short == service)
        };
        is_it(&self.service) || is_it(&self.peer)
    }
}

fn short(text: &str) -> String {
    text.chars().take(MAX_TEXT).collect()
}

/// Encoded, as they are sent to who asks: a third of what they take else.
#[derive(Debug, Default)]
pub struct SpanStore {
    sampled: VecDeque<Box<[u8]>>,
    kept: VecDeque<Box<[u8]>>,
}

impl SpanStore {
    pub fn add(&mut self, span: &TraceSpan) {
        let ring = if span.sampled { &mut self.sampled } else { &mut self.kept };
        // Its texts are bounded, and so is what it takes.
        let Ok(encoded) = encode(span, MAX_ENCODED) else { return };
        if ring.len() >= KEPT {
            ring.pop_front();
        }
        ring.push_back(encoded.into());
    }

    fn all(&self) -> impl Iterator<Item = TraceSpan> {
        self.sampled.iter().chain(&self.kept).filter_map(|encoded| decode(encoded, MAX_ENCODED).ok())
    }

    /// The latest, the earliest of these first.
    fn latest(&self, most: usize, wanted: impl Fn(&TraceSpan) -> bool) -> Vec<TraceSpan> {
        let mut found: Vec<TraceSpan> = self.all().filter(wanted).collect();
        found.sort_by_key(|span| span.start_us);
        found.split_off(found.len().saturating_sub(most))
    }

    pub fn trace(&self, id: &str, most: usize) -> Vec<TraceSpan> {
        self.latest(most, |span| span.trace.eq_ignore_ascii_case(id) || span.request_id.as_deref() == Some(id))
    }

    pub fn search(&self, search: &Search, most: usize) -> Vec<TraceSpan> {
        let Search { service, error, min_us, since_us } = search;
        self.latest(most, |span| {
            (!error || span.error)
                && span.duration_us >= *min_us
                && span.start_us >= *since_us
                && service.as_ref().is_none_or(|service| span.is_of(service))
        })
    }

    /// Of each workload that was called and has called others since then.
    pub fn forwarding(&self, since_us: u64) -> Vec<Forwarding> {
        let mut by_workload: BTreeMap<String, Forwarding> = BTreeMap::new();
        for span in self.all().filter(|span| span.start_us >= since_us) {
            let TraceSpan { workload: Some(workload), service, node, kind, parent, .. } = span else { continue };
            let of = by_workload.entry(workload.clone()).or_insert_with(|| Forwarding {
                workload,
                service: service.unwrap_or_default(),
                node,
                ..Forwarding::default()
            });
            match (kind.as_str(), &parent) {
                ("server", _) => of.inbound += 1,
                (_, Some(_)) => of.forwarded += 1,
                (_, None) => of.lost += 1,
            }
        }
        by_workload.into_values().filter(|of| of.inbound > 0 && of.forwarded + of.lost > 0).collect()
    }
}

/// What a span is called, as Istio names the routes of sidecars: `reviews.default.svc.cluster.local:9080/*`.
pub(crate) fn operation(entry: &Entry) -> String {
    let asked = || entry.request.as_ref().and_then(|request| request.authority()).unwrap_or("-");
    let cluster = entry.upstream.cluster.as_deref().unwrap_or_default();
    let mut parts = cluster.split('|');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some("outbound"), Some(port), _, Some(host)) => format!("{host}:{port}/*"),
        (Some("inbound"), Some(target), _, _) if entry.destination.is_some() => {
            let service = entry.destination.as_deref().map(|workload| workload.service.fqdn()).unwrap_or_default();
            let port = asked().rsplit_once(':').map_or(target, |(_, port)| port);
            format!("{service}:{port}/*")
        }
        _ => format!("{}/*", asked()),
    }
}

/// `SERVICE.NAMESPACE` of the workload whose side made a span.
pub(crate) fn service_of(entry: &Entry) -> Option<String> {
    let own = entry.own_workload()?;
    Some(format!("{}.{}", own.canonical_service, own.namespace))
}

/// Whether an exchange failed, by a server's fault.
pub(crate) fn is_failure(entry: &Entry) -> bool {
    let failed = entry.grpc_status.is_some_and(|code| matches!(code, 2 | 4 | 12..=15));
    entry.status >= 500 || failed || (entry.status == 0 && entry.flag != CALLER_GONE)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(trace: &str, start_us: u64) -> TraceSpan {
        let service = Some("reviews.default".to_owned());
        TraceSpan { trace: trace.into(), start_us, service, sampled: true, duration_us: 10, ..TraceSpan::default() }
    }

    #[test]
    fn the_latest_of_each_kind_are_kept() {
        let mut store = SpanStore::default();
        store.add(&TraceSpan { sampled: false, error: true, ..span("bad", 1) });
        for i in 0..=KEPT as u64 {
            store.add(&span(&format!("t{i}"), 10 + i));
        }
        assert!(store.trace("t0", 10).is_empty(), "the oldest gave way");
        assert_eq!((store.trace("t1", 10).len(), store.trace("bad", 10).len()), (1, 1));
    }

    #[test]
    fn spans_are_found_by_trace_request_service_failure_and_time() {
        let mut store = SpanStore::default();
        store.add(&TraceSpan { request_id: Some("r".into()), ..span("a", 1) });
        store.add(&TraceSpan { error: true, duration_us: 500, ..span("b", 2) });
        store.add(&TraceSpan { service: None, peer: Some("ratings.prod".into()), ..span("c", 3) });
        let traces = |spans: Vec<TraceSpan>| spans.into_iter().map(|span| span.trace).collect::<Vec<_>>();
        assert_eq!(traces(store.trace("r", 10)), ["a"]);
        let search = |search: Search| traces(store.search(&search, 2));
        assert_eq!(search(Search::default()), ["b", "c"], "the latest two");
        assert_eq!(search(Search { error: true, ..Search::default() }), ["b"]);
        assert_eq!(search(Search { min_us: 100, ..Search::default() }), ["b"]);
        assert_eq!(search(Search { since_us: 3, ..Search::default() }), ["c"]);
        for (service, expected) in [("reviews", vec!["a", "b"]), ("ratings.prod", vec!["c"]), ("rat", vec![])] {
            assert_eq!(search(Search { service: Some(service.into()), ..Search::default() }), expected, "{service}");
        }
    }

    #[test]
    fn who_loses_contexts_is_told_from_who_hands_them_on() {
        let mut store = SpanStore::default();
        let of = |workload: &str, kind: &str, parent: Option<&str>| TraceSpan {
            workload: Some(workload.into()),
            kind: kind.into(),
            parent: parent.map(str::to_owned),
            ..span("t", 5)
        };
        for one in [
            of("default/good", "server", Some("1")),
            of("default/good", "client", Some("2")),
            of("default/bad", "server", Some("1")),
            of("default/bad", "client", None),
            of("default/leaf", "server", Some("1")),
            of("default/edge", "client", None),
        ] {
            store.add(&one);
        }
        let told: Vec<_> =
            store.forwarding(0).into_iter().map(|of| (of.workload, of.inbound, of.forwarded, of.lost)).collect();
        assert_eq!(told, [("default/bad".to_owned(), 1, 0, 1), ("default/good".into(), 1, 1, 0)]);
        assert!(store.forwarding(6).is_empty());
    }
}
