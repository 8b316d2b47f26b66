//! Traffic of the whole mesh, as the admin API and other nodes are told it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::time::Instant;
use weft_policy::endpoint::Standing;
use weft_proxy::metrics::BOUNDS;
use weft_wire::{
    circuit::EndpointKey,
    frame::{MAX_TOLD_LEN, Request, Response},
};

use crate::{
    actors::Handles,
    config,
    traffic::{
        Row,
        history::{self, Range, Track},
        merge::merge,
        windows::{MAX_WINDOW, Windows},
    },
};

/// A window that nobody has named.
pub const DEFAULT_WINDOW: Duration = Duration::from_secs(10);
/// Nodes that have not answered by then are left out.
const DEADLINE: Duration = Duration::from_secs(2);
/// An answer that is so old is given again, to however many ask.
const FRESH: Duration = Duration::from_millis(500);
/// Likewise of the past, to which a point is added each ten seconds.
const FRESH_HISTORY: Duration = Duration::from_secs(5);

/// The answer to `GET /api/v1/traffic`, and each event of its stream.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct Traffic {
    pub window_seconds: f64,
    /// Upper bounds of the buckets of durations, in milliseconds; `null` is infinite.
    #[serde(default)]
    pub bounds_ms: Vec<Option<f64>>,
    /// Each call once.
    pub rows: Vec<Row>,
    /// How many nodes have told.
    pub nodes: usize,
    /// Nodes that do not answer: what they know is missing.
    pub silent: Vec<String>,
    /// Rows that nodes had no room for.
    pub left_out: usize,
}

/// What one node tells.
#[derive(Serialize, Deserialize)]
struct Told {
    rows: Vec<Row>,
    left_out: usize,
}

/// The answer to `GET /api/v1/traffic/history`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct TrafficHistory {
    /// When the first point begins, in milliseconds since 1970.
    pub from_ms: u64,
    /// How long each point is.
    pub step_ms: u64,
    pub points: usize,
    /// When the oldest point begins that any node still knows of; before it there are zeros. `null`: none does.
    pub known_from_ms: Option<u64>,
    /// Upper bounds of the buckets of durations, in milliseconds; `null` is infinite.
    pub bounds_ms: Vec<Option<f64>>,
    /// Each call once.
    pub tracks: Vec<Track>,
    /// How many nodes have told.
    pub nodes: usize,
    /// Nodes that do not answer: what they know is missing.
    pub silent: Vec<String>,
    /// Tracks that nodes had no room for.
    pub left_out: usize,
}

/// What one node tells of its last half hour.
#[derive(Serialize, Deserialize)]
struct ToldHistory {
    known_from_ms: Option<u64>,
    tracks: Vec<Track>,
    left_out: usize,
}

/// The latest answer, when it came, and what it is the answer to.
type Latest<Q, A> = Arc<tokio::sync::Mutex<Option<(Instant, Q, Arc<A>)>>>;

/// This node's own traffic, and the latest answers about all.
#[derive(Clone, Default)]
pub struct OwnTraffic {
    pub windows: Arc<Mutex<Windows>>,
    latest: Latest<Duration, Traffic>,
    latest_history: Latest<Range, TrafficHistory>,
}

impl OwnTraffic {
    /// The answer to a peer's [`Request::ListTraffic`].
    pub fn answer(&self, window_ms: u32) -> anyhow::Result<Response> {
        let window = Duration::from_millis(window_ms.into()).min(MAX_WINDOW);
        let mut told = self.list(window);
        loop {
            let json = serde_json::to_string(&told)?;
            if json.len() <= MAX_TOLD_LEN {
                return Ok(Response::Told { json });
            }
            told.left_out += keep_half(&mut told.rows);
        }
    }

    /// The answer to a peer's [`Request::ListTrafficHistory`].
    ///
    /// # Errors
    /// It asks for more than is kept.
    pub fn answer_history(&self, range: &Range) -> anyhow::Result<Response> {
        ensure!(range.is_bounded(), "nodes keep half an hour in steps of ten seconds");
        let mut told = self.list_history(range);
        loop {
            let json = serde_json::to_string(&told)?;
            if json.len() <= MAX_TOLD_LEN {
                return Ok(Response::Told { json });
            }
            told.left_out += keep_half(&mut told.tracks);
        }
    }

    fn list_history(&self, range: &Range) -> ToldHistory {
        let windows = self.windows.lock();
        let known_from_ms = windows.history().known_from().map(milliseconds);
        ToldHistory { known_from_ms, tracks: windows.history().tracks(range), left_out: 0 }
    }

    fn list(&self, window: Duration) -> Told {
        let told = self.windows.lock().rows(window);
        Told { rows: told.rows, left_out: told.left_out }
    }
}

/// Leaves out half of a list, of which the busiest come first; says how many that are.
fn keep_half<T>(list: &mut Vec<T>) -> usize {
    let before = list.len();
    list.truncate(before / 2);
    before - list.len()
}

fn milliseconds(since_1970: Duration) -> u64 {
    u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX)
}

/// Reads which points of the past are asked for: by default the last half hour, in some 60 points.
///
/// # Errors
/// One of them is no duration, or none that nodes keep.
pub fn range(since: Option<&str>, step: Option<&str>, unix: Duration) -> anyhow::Result<Range> {
    const EXAMPLE: &str = "write 30m, 5m or 60s";
    let read = |name: &str, text: &str| {
        let read = config::duration(text);
        read.with_context(|| format!("{name} {text:?} is not a duration: {EXAMPLE}"))
    };
    let (shortest, longest) =
        (Duration::from_secs(history::STEP_SECONDS), Duration::from_secs(history::MAX_SINCE_SECONDS));
    let since = since.map_or(Ok(longest), |text| read("since", text))?;
    ensure!(
        (shortest..=longest).contains(&since),
        "since {since:?}: nodes keep 10s to 30m of their traffic; for more, ask Prometheus"
    );
    let default = Duration::from_secs((since.as_secs() / 60).next_multiple_of(history::STEP_SECONDS)).max(shortest);
    let step = step.map_or(Ok(default), |text| read("step", text))?;
    ensure!(
        (shortest..=since).contains(&step) && step.as_millis().is_multiple_of(shortest.as_millis()),
        "step {step:?}: it is a multiple of 10s, and no longer than since"
    );
    Ok(Range::latest(since, step, unix))
}

/// Reads the window of a question.
///
/// # Errors
/// It is no duration, or none that a node keeps.
pub fn window(text: Option<&str>) -> anyhow::Result<Duration> {
    let Some(text) = text else { return Ok(DEFAULT_WINDOW) };
    let window =
        config::duration(text).with_context(|| format!("window {text:?} is not a duration: write 10s or 1m"))?;
    ensure!(
        (Duration::from_secs(1)..=MAX_WINDOW).contains(&window),
        "window {text:?}: nodes keep 1s to 1m of their traffic; for more, ask Prometheus"
    );
    Ok(window)
}

impl Handles {
    /// What all nodes tell of their latest `window`. Whoever asks meanwhile waits for the same answer.
    pub async fn traffic(&self, window: Duration) -> Arc<Traffic> {
        let mut latest = self.traffic.latest.lock().await;
        if let Some((at, of, traffic)) = &*latest
            && *of == window
            && at.elapsed() < FRESH
        {
            return traffic.clone();
        }
        let traffic = Arc::new(self.gather_traffic(window).await);
        *latest = Some((Instant::now(), window, traffic.clone()));
        traffic
    }

    async fn gather_traffic(&self, window: Duration) -> Traffic {
        let question = Request::ListTraffic { window_ms: u32::try_from(window.as_millis()).unwrap_or(u32::MAX) };
        let (others, silent) = self.gather(question, DEADLINE, read).await;
        let own = self.traffic.list(window);
        let nodes = 1 + others.len();
        let told: Vec<Told> = others.into_iter().map(|(_, told)| told).chain([own]).collect();
        let left_out = told.iter().map(|told| told.left_out).sum();
        let rows = told.into_iter().flat_map(|told| told.rows).map(|row| (row.call, row.reporter, row.rates));
        let mut rows: Vec<Row> =
            merge(rows).map(|(call, reporter, rates)| Row { call, reporter, rates, circuit: None }).collect();
        let circuits = self.open_circuits();
        for row in &mut rows {
            let workload = (row.call.destination_namespace.clone(), row.call.destination_workload.clone());
            row.circuit = circuits.get(&workload).cloned();
        }
        let bounds_ms = bounds_ms();
        Traffic { window_seconds: window.as_secs_f64(), bounds_ms, rows, nodes, silent, left_out }
    }

    /// What all nodes have kept of these points. Whoever asks meanwhile waits for the same answer.
    pub async fn traffic_history(&self, range: Range) -> Arc<TrafficHistory> {
        let mut latest = self.traffic.latest_history.lock().await;
        if let Some((at, of, answer)) = &*latest
            && *of == range
            && at.elapsed() < FRESH_HISTORY
        {
            return answer.clone();
        }
        let answer = Arc::new(self.gather_history(range).await);
        *latest = Some((Instant::now(), range, answer.clone()));
        answer
    }

    async fn gather_history(&self, range: Range) -> TrafficHistory {
        let Range { first, steps_per_point, points } = range;
        let question = Request::ListTrafficHistory { first, steps_per_point, points: points as u64 };
        let (others, silent) = self.gather(question, DEADLINE, |answer| read_history(answer, points)).await;
        let told = others.into_iter().map(|(_, told)| told).chain([self.traffic.list_history(&range)]);
        let (mut nodes, mut left_out, mut known_from_ms, mut all) = (0, 0, None, Vec::new());
        for told in told {
            nodes += 1;
            left_out += told.left_out;
            known_from_ms = known_from_ms.into_iter().chain(told.known_from_ms).min();
            all.extend(told.tracks.into_iter().map(|track| (track.call, track.reporter, track.series)));
        }
        TrafficHistory {
            from_ms: milliseconds(range.begin()),
            step_ms: milliseconds(range.step()),
            points,
            known_from_ms,
            bounds_ms: bounds_ms(),
            tracks: merge(all).map(|(call, reporter, series)| Track { call, reporter, series }).collect(),
            nodes,
            silent,
            left_out,
        }
    }

    /// Workloads that callers of this node keep from, in part or whole, by namespace and name.
    fn open_circuits(&self) -> BTreeMap<(String, String), String> {
        let (view, now_ms) = (self.views.load(), self.views.now_ms());
        let mut workloads: BTreeMap<(String, String), [BTreeSet<&EndpointKey>; 2]> = BTreeMap::new();
        for endpoint in view.watched_clusters().into_iter().flat_map(|cluster| &cluster.endpoints) {
            let key = &endpoint.key;
            let [all, open] = workloads.entry((key.namespace.to_string(), key.workload.to_string())).or_default();
            all.insert(key);
            if endpoint.standing_here(now_ms) == Standing::Excluded {
                open.insert(key);
            }
        }
        let open = workloads.into_iter().filter(|(_, [_, open])| !open.is_empty());
        open.map(|(workload, [all, open])| (workload, format!("{}/{} open", open.len(), all.len()))).collect()
    }
}

fn bounds_ms() -> Vec<Option<f64>> {
    BOUNDS.into_iter().map(|bound| bound.is_finite().then_some(bound)).collect()
}

fn read<T: DeserializeOwned>(answer: Response) -> anyhow::Result<T> {
    match answer {
        Response::Told { json } => serde_json::from_str(&json).context("traffic in another form"),
        Response::Refused { why } => bail!("{why}"),
        _ => bail!("another answer than was asked for"),
    }
}

fn read_history(answer: Response, points: usize) -> anyhow::Result<ToldHistory> {
    let told: ToldHistory = read(answer)?;
    ensure!(told.tracks.iter().all(|track| track.series.is_of(points)), "tracks of another length");
    Ok(told)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_one_that_nodes_keep() {
        assert_eq!(window(None).unwrap(), DEFAULT_WINDOW);
        assert_eq!(window(Some("1m")).unwrap(), Duration::from_secs(60));
        for wrong in ["", "10", "0s", "500ms", "2m", "x"] {
            assert!(window(Some(wrong)).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn the_past_is_what_nodes_keep_in_steps_that_they_have() {
        let now = Duration::from_secs(1_800_000_007);
        let read = |since, step| range(since, step, now).map(|range| (range.points, range.step().as_secs()));
        assert_eq!(read(None, None).unwrap(), (60, 30));
        assert_eq!(read(Some("10m"), None).unwrap(), (60, 10));
        assert_eq!(read(Some("30m"), Some("10s")).unwrap(), (180, 10));
        assert_eq!(read(Some("5m"), Some("2m")).unwrap(), (3, 120));
        for (since, step) in [("31m", "10s"), ("5s", "10s"), ("5m", "15s"), ("5m", "6m"), ("5m", "0s"), ("x", "10s")] {
            assert!(read(Some(since), Some(step)).is_err(), "{since} {step}");
        }
    }
}
