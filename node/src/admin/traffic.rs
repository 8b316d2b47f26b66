//! Traffic of the whole mesh, as the admin API and other nodes are told it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use weft_policy::endpoint::Standing;
use weft_wire::{
    circuit::EndpointKey,
    frame::{MAX_TOLD_LEN, Request, Response},
};

use crate::{
    actors::Handles,
    config,
    traffic::{
        Row,
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

/// The answer to `GET /api/v1/traffic`, and each event of its stream.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Traffic {
    pub window_seconds: f64,
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

type Gathered = Option<(Instant, Duration, Arc<Traffic>)>;

/// This node's own traffic, and the latest answer about all.
#[derive(Clone, Default)]
pub struct OwnTraffic {
    pub windows: Arc<Mutex<Windows>>,
    latest: Arc<tokio::sync::Mutex<Gathered>>,
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
            // The busiest come first.
            let half = told.rows.len() / 2;
            told.left_out += told.rows.len() - half;
            told.rows.truncate(half);
        }
    }

    fn list(&self, window: Duration) -> Told {
        let told = self.windows.lock().rows(window);
        Told { rows: told.rows, left_out: told.left_out }
    }
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
        let mut rows = merge(told.into_iter().flat_map(|told| told.rows));
        let circuits = self.open_circuits();
        for row in &mut rows {
            let workload = (row.call.destination_namespace.clone(), row.call.destination_workload.clone());
            row.circuit = circuits.get(&workload).cloned();
        }
        Traffic { window_seconds: window.as_secs_f64(), rows, nodes, silent, left_out }
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

fn read(answer: Response) -> anyhow::Result<Told> {
    match answer {
        Response::Told { json } => serde_json::from_str(&json).context("traffic in another form"),
        Response::Refused { why } => bail!("{why}"),
        _ => bail!("another answer than was asked for"),
    }
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
}
