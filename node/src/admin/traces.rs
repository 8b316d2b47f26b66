//! Traces, as the admin API and other nodes are told them.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, bail};
use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use weft_wire::{
    frame::{MAX_TOLD_LEN, Request, Response},
    id::NodeName,
};

use crate::{
    actors::Handles,
    traces::{Forwarding, Search, SpanStore, TraceSpan},
};

/// A node that has not answered by then is not waited for.
const DEADLINE: Duration = Duration::from_secs(3);
/// Spans that are told of one node, and of the mesh.
const TOLD: usize = 500;
const TOLD_OF_MESH: usize = 5_000;

/// Body of `POST /api/v1/traces`, and what nodes ask each other.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum TraceQuery {
    /// All spans of a trace, by its id or by a request's `x-request-id`.
    Trace { id: String },
    /// The latest spans of which all of this is true.
    Search(Search),
    /// Whether workloads hand the context on that they get.
    Forwarding { since_us: u64 },
}

/// The answer of one node, or of all that could be asked.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct TraceAnswer {
    /// The earliest first.
    pub spans: Vec<TraceSpan>,
    pub forwarding: Vec<Forwarding>,
    /// Nodes that did not answer.
    pub silent: Vec<String>,
}

/// What this node keeps of traces.
#[derive(Clone)]
pub struct OwnTraces {
    pub node: NodeName,
    pub store: Arc<Mutex<SpanStore>>,
}

impl OwnTraces {
    pub fn new(node: NodeName) -> Self {
        Self { node, store: Arc::default() }
    }

    fn find(&self, query: &TraceQuery) -> TraceAnswer {
        let store = self.store.lock();
        match query {
            TraceQuery::Trace { id } => TraceAnswer { spans: store.trace(id, TOLD), ..TraceAnswer::default() },
            TraceQuery::Search(search) => TraceAnswer { spans: store.search(search, TOLD), ..TraceAnswer::default() },
            TraceQuery::Forwarding { since_us } => {
                TraceAnswer { forwarding: store.forwarding(*since_us), ..TraceAnswer::default() }
            }
        }
    }

    /// The answer to a peer's [`Request::FindSpans`].
    ///
    /// # Errors
    /// The question is of another form.
    pub fn answer(&self, query: &str) -> anyhow::Result<Response> {
        let mut found = self.find(&serde_json::from_str(query).context("a question in another form")?);
        loop {
            let json = serde_json::to_string(&found)?;
            if json.len() <= MAX_TOLD_LEN {
                return Ok(Response::Told { json });
            }
            // What does not fit is left out, the oldest first.
            found.spans.drain(..found.spans.len().div_ceil(2));
            found.forwarding.truncate(found.forwarding.len() / 2);
        }
    }
}

impl Handles {
    /// What all nodes that answer in time know.
    pub async fn traces(&self, query: &TraceQuery) -> anyhow::Result<TraceAnswer> {
        let mut found = self.traces.find(query);
        let question = Request::FindSpans { query: serde_json::to_string(query)? };
        question.check()?;
        let (told, silent) = self.gather(question, DEADLINE, read).await;
        for (_, theirs) in told {
            found.spans.extend(theirs.spans);
            found.forwarding.extend(theirs.forwarding);
        }
        found.silent = silent;
        found.spans.sort_by(|a, b| (a.start_us, &a.span).cmp(&(b.start_us, &b.span)));
        let too_many = found.spans.len().saturating_sub(TOLD_OF_MESH);
        found.spans.drain(..too_many);
        found.forwarding.sort_by(|a, b| (&a.workload, &a.node).cmp(&(&b.workload, &b.node)));
        Ok(found)
    }
}

fn read(answer: Response) -> anyhow::Result<TraceAnswer> {
    match answer {
        Response::Told { json } => serde_json::from_str(&json).context("spans in another form"),
        Response::Refused { why } => bail!("{why}"),
        _ => bail!("another answer than was asked for"),
    }
}
