//! What has happened in the mesh, as the admin API and other nodes are told it.

use std::time::Duration;

use anyhow::{Context, bail};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use weft_wire::frame::{MAX_TOLD_LEN, Request, Response};

use crate::{
    actors::Handles,
    config,
    events::{Event, Events, Told, ago, bounded, merge},
};

/// Nodes that have not answered by then are left out.
const DEADLINE: Duration = Duration::from_secs(2);
/// How far back a question goes that does not say.
pub const DEFAULT_SINCE: Duration = Duration::from_secs(600);

/// The answer to `GET /api/v1/events`
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Timeline {
    /// The oldest first.
    pub events: Vec<Told>,
    /// Nodes that do not answer: what they know is missing.
    pub silent: Vec<String>,
}

/// The answer to a peer's [`Request::ListEvents`].
pub fn answer(events: &Events, seconds: u32) -> anyhow::Result<Response> {
    let events = events.since(ago(Duration::from_secs(seconds.into())));
    Ok(Response::Told { json: bounded(events, MAX_TOLD_LEN)? })
}

/// Reads how far back a question goes.
///
/// # Errors
/// It is no duration.
pub fn since(text: Option<&str>) -> anyhow::Result<Duration> {
    let Some(text) = text else { return Ok(DEFAULT_SINCE) };
    config::duration(text).with_context(|| format!("since {text:?} is not a duration: write 30s, 10m or 2h"))
}

impl Handles {
    /// What all nodes have seen within that time.
    pub async fn events(&self, within: Duration) -> Timeline {
        let seconds = u32::try_from(within.as_secs().max(1)).unwrap_or(u32::MAX);
        let (mut told, silent) = self.gather(Request::ListEvents { seconds }, DEADLINE, read).await;
        let own = self.telemetry.events.since(ago(within));
        told.push((self.identity.load().name.to_string(), own));
        Timeline { events: merge(told), silent }
    }
}

fn read(answer: Response) -> anyhow::Result<Vec<Event>> {
    match answer {
        Response::Told { json } => serde_json::from_str(&json).context("events in another form"),
        Response::Refused { why } => bail!("{why}"),
        _ => bail!("another answer than was asked for"),
    }
}
