//! What has happened: joins and deaths, documents, circuits, certificates, denials, drains, as one timeline.
//!
//! Each node keeps its latest events in memory. Whoever wants to know asks all nodes, and [`merge`] makes one timeline of
//! what they say: what several nodes have seen is told once, with their names.

use std::{
    collections::{BTreeSet, VecDeque},
    fmt,
    str::FromStr,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{identity::wall_ms, telemetry::LogLimit};

/// Events that a node keeps; older ones go.
const KEPT: usize = 2_000;
/// Longest text of an event, in characters: names are short, reasons may not be.
const MAX_TEXT: usize = 300;
/// What several nodes tell alike within this time is one event. Membership takes them a second or two to notice.
const SAME_WITHIN_MS: u64 = 10_000;

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Nodes that join, leave, fail, come back, start and stop.
    Member,
    Document,
    Circuit,
    Certificate,
    Denial,
    /// Nodes and workloads that take nothing new, or would rather not.
    Drain,
    /// Parts of a node that were restarted.
    Actor,
    /// Operators who watch requests.
    Tap,
    /// A kind that only newer versions know.
    #[serde(other)]
    Other,
}

impl Kind {
    const ALL: [Self; 8] = [
        Self::Member,
        Self::Document,
        Self::Circuit,
        Self::Certificate,
        Self::Denial,
        Self::Drain,
        Self::Actor,
        Self::Tap,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Member => "member",
            Self::Document => "document",
            Self::Circuit => "circuit",
            Self::Certificate => "certificate",
            Self::Denial => "denial",
            Self::Drain => "drain",
            Self::Actor => "actor",
            Self::Tap => "tap",
            Self::Other => "other",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text).ok_or_else(|| {
            let all = Self::ALL.map(Self::as_str).join(", ");
            format!("there are no events of kind {text:?}: there are {all}")
        })
    }
}

/// What one node has seen. A field that this version does not know is left out: the event may come from another node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Event {
    /// Milliseconds since 1970: by the clock of the node that tells it, or of a document's author.
    pub at: u64,
    pub kind: Kind,
    /// Such as a node's name, a document's, `NODE/NAMESPACE/WORKLOAD:PORT` of an endpoint.
    pub subject: String,
    pub what: String,
}

/// What has happened, as the mesh tells it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Told {
    #[serde(flatten)]
    pub event: Event,
    /// Who has seen it, by name.
    pub nodes: Vec<String>,
}

/// A node's own events. Cheap to clone; all clones are one.
#[derive(Clone, Default)]
pub struct Events(Arc<Mutex<Log>>);

#[derive(Default)]
struct Log {
    kept: VecDeque<Event>,
    /// Strangers can cause denials as often as they like.
    denials: LogLimit,
}

impl Events {
    /// Something has happened now.
    pub fn say(&self, kind: Kind, subject: impl fmt::Display, what: impl fmt::Display) {
        self.say_at(wall_ms(), kind, subject, what);
    }

    /// Something has happened at that time, milliseconds since 1970.
    pub fn say_at(&self, at: u64, kind: Kind, subject: impl fmt::Display, what: impl fmt::Display) {
        let event = Event { at, kind, subject: short(&subject.to_string()), what: short(&what.to_string()) };
        self.0.lock().keep(event);
    }

    /// Somebody was refused. Beyond ten in ten seconds only their number is kept.
    pub fn deny(&self, at: u64, subject: impl fmt::Display, what: impl fmt::Display, now: Instant) {
        let mut log = self.0.lock();
        let Some(left_out) = log.denials.allow(now) else { return };
        let more = if left_out > 0 { format!(" (and {left_out} more before)") } else { String::new() };
        let event = Event {
            at,
            kind: Kind::Denial,
            subject: short(&subject.to_string()),
            what: short(&format!("{what}{more}")),
        };
        log.keep(event);
    }

    /// What has happened since then, milliseconds since 1970, the oldest first.
    pub fn since(&self, at: u64) -> Vec<Event> {
        let mut events: Vec<Event> = self.0.lock().kept.iter().filter(|event| event.at >= at).cloned().collect();
        events.sort_by_key(|event| event.at);
        events
    }
}

impl Log {
    fn keep(&mut self, event: Event) {
        if self.kept.len() >= KEPT {
            self.kept.pop_front();
        }
        self.kept.push_back(event);
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Events")
    }
}

fn short(text: &str) -> String {
    match text.char_indices().nth(MAX_TEXT) {
        Some((end, _)) => text[..end].to_owned() + "…",
        None => text.to_owned(),
    }
}

/// One timeline of what nodes tell, the oldest first.
pub fn merge(told: impl IntoIterator<Item = (String, Vec<Event>)>) -> Vec<Told> {
    let mut all: Vec<(Event, String)> = Vec::new();
    for (node, events) in told {
        all.extend(events.into_iter().map(|event| (event, node.clone())));
    }
    all.sort_by(|(a, one), (b, other)| (a.at, a.kind, &a.subject, one).cmp(&(b.at, b.kind, &b.subject, other)));
    let mut merged: Vec<(Event, BTreeSet<String>)> = Vec::new();
    // Where those begin that may still be the same as a new one.
    let mut recent = 0;
    for (event, node) in all {
        while merged.get(recent).is_some_and(|(known, _)| known.at + SAME_WITHIN_MS < event.at) {
            recent += 1;
        }
        let same = merged[recent..].iter_mut().find(|(known, nodes)| {
            // One node says what it means: if it says it twice, it has happened twice.
            (known.kind, &known.subject, &known.what) == (event.kind, &event.subject, &event.what)
                && !nodes.contains(&node)
        });
        match same {
            Some((_, nodes)) => _ = nodes.insert(node),
            None => merged.push((event, BTreeSet::from([node]))),
        }
    }
    merged.into_iter().map(|(event, nodes)| Told { event, nodes: nodes.into_iter().collect() }).collect()
}

/// As much of the newest of it as fits into so many bytes of JSON.
///
/// # Errors
/// It cannot be written as JSON.
pub fn bounded(mut events: Vec<Event>, max: usize) -> serde_json::Result<String> {
    loop {
        let json = serde_json::to_string(&events)?;
        if json.len() <= max {
            return Ok(json);
        }
        events.drain(..events.len().div_ceil(2));
    }
}

/// How long ago, as milliseconds since 1970.
pub fn ago(span: Duration) -> u64 {
    wall_ms().saturating_sub(u64::try_from(span.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(at: u64, subject: &str, what: &str) -> Event {
        Event { at, kind: Kind::Member, subject: subject.into(), what: what.into() }
    }

    fn lines(told: &[Told]) -> Vec<String> {
        told.iter()
            .map(|Told { event, nodes }| format!("{} {} {} {}", event.at, event.subject, event.what, nodes.join("+")))
            .collect()
    }

    #[test]
    fn what_several_nodes_have_seen_is_told_once_in_the_order_of_time() {
        let told = [
            ("a".to_owned(), vec![event(1_000, "c", "failed"), event(5_000, "d", "joined")]),
            (
                "b".to_owned(),
                vec![event(1_400, "c", "failed"), event(900, "e", "joined"), event(40_000, "c", "failed")],
            ),
        ];
        let expected = ["900 e joined b", "1000 c failed a+b", "5000 d joined a", "40000 c failed b"];
        assert_eq!(lines(&merge(told)), expected);
    }

    #[test]
    fn what_one_node_says_twice_has_happened_twice() {
        let told = [
            ("a".to_owned(), vec![event(1_000, "c", "failed"), event(2_000, "c", "failed")]),
            ("b".to_owned(), vec![event(2_100, "c", "failed")]),
        ];
        assert_eq!(lines(&merge(told)), ["1000 c failed a+b", "2000 c failed a"]);
    }

    #[test]
    fn denials_are_limited_and_counted_and_old_events_go() {
        let (events, start) = (Events::default(), Instant::now());
        for _ in 0..50 {
            events.deny(5, "default/web", "denied", start);
        }
        assert_eq!(events.since(0).len(), 10);
        events.deny(6, "default/web", "denied", start + Duration::from_secs(10));
        assert_eq!(events.since(6)[0].what, "denied (and 40 more before)");
        for i in 0..KEPT as u64 + 5 {
            events.say_at(100 + i, Kind::Document, "x", "y".repeat(1_000));
        }
        let kept = events.since(0);
        assert_eq!((kept.len(), kept[0].at), (KEPT, 105));
        assert_eq!(kept[0].what.chars().count(), MAX_TEXT + 1);
        let json = bounded(kept, 10_000).unwrap();
        let rest: Vec<Event> = serde_json::from_str(&json).unwrap();
        assert_eq!(rest.last().unwrap().at, 100 + KEPT as u64 + 4, "the newest are told");
    }

    #[test]
    fn a_kind_of_a_newer_version_is_told_as_other() {
        let read: Event = serde_json::from_str(r#"{"at":1,"kind":"eclipse","subject":"s","what":"w"}"#).unwrap();
        assert_eq!(read.kind, Kind::Other);
        assert!("eclipse".parse::<Kind>().unwrap_err().contains("member"));
    }
}
