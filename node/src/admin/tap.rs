//! Taps, as the admin API and other nodes are asked for them. Who may: whoever may write documents.

use std::{
    collections::{BTreeMap, BTreeSet},
    pin::pin,
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use futures_util::StreamExt;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};
use weft_discovery::documents::verify_tap;
use weft_wire::{
    frame::{MAX_TOLD_LEN, Request, Response},
    id::{NodeName, Role, SpiffeId},
    tap::{MAX_TAP_MS, MAX_TAP_QUERY_LEN, SignedTap},
};

use super::ask::Answers;
use crate::{
    actors::Handles,
    config,
    events::{Events, Kind},
    identity::{IdentityReader, MeshAuthority, der_chain, wall_ms},
    tap::{OwnTaps, Passed, Read, event::Seen, query::TapQuery},
    traffic::Side,
};

/// How long a tap lasts that does not say.
pub const DEFAULT_FOR: Duration = Duration::from_secs(300);
/// How often all nodes are asked.
const ASK_EVERY: Duration = Duration::from_millis(500);
/// A node that has not answered by then is asked again with the others.
const DEADLINE: Duration = Duration::from_secs(2);
/// What may wait for a reader that is slow.
const WAITING: usize = 1_024;

/// Body of `POST /api/v1/tap`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct TapRequest {
    pub query: TapQuery,
    pub for_ms: u64,
    /// By an operator; else the node signs, if its role lets it.
    pub signed: Option<SignedTap>,
}

/// What a reader is told, one after another.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TapEvent {
    Seen(Box<Seen>),
    State(TapState),
}

/// How a tap goes on: told at its begin, at its end, and when it changes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct TapState {
    /// How many nodes watch, and which.
    pub nodes: usize,
    pub watching: BTreeSet<String>,
    /// Nodes that do not answer.
    pub silent: Vec<String>,
    /// Nodes that do not watch, and why.
    pub refused: BTreeMap<String, String>,
    /// Requests that were over what a node tells.
    pub missed: u64,
    /// Its time is up: nothing follows.
    pub ended: bool,
}

/// What a node tells a tap's reader.
#[derive(Default, Serialize, Deserialize)]
struct Told {
    seen: Vec<Seen>,
    missed: u64,
}

/// The taps that read on this node, for whomever.
#[derive(Clone)]
pub struct TapDesk {
    pub own: OwnTaps,
    pub identity: IdentityReader,
    pub events: Events,
}

impl TapDesk {
    /// The answer to a [`Request::ReadTap`] of that node.
    ///
    /// # Errors
    /// It may not read it, or the tap is not good.
    pub fn answer(&self, reader: Option<&NodeName>, tap: &SignedTap) -> anyhow::Result<Response> {
        ensure!(reader == Some(&tap.reader), "this tap is for {} to read", tap.reader);
        let Told { mut seen, mut missed } = self.read(tap)?;
        loop {
            let json = serde_json::to_string(&Told { seen: seen.clone(), missed })?;
            if json.len() <= MAX_TOLD_LEN {
                return Ok(Response::Told { json });
            }
            let half = seen.len() / 2;
            missed += (seen.len() - half) as u64;
            seen.truncate(half);
        }
    }

    fn read(&self, tap: &SignedTap) -> anyhow::Result<Told> {
        verify_tap(tap, &MeshAuthority(self.identity.clone()))?;
        let query: TapQuery = serde_json::from_str(&tap.query).context("a tap in another form")?;
        let node = self.identity.load().name.to_string();
        if !query.is_for(&node) {
            return Ok(Told::default());
        }
        let (read, Passed { seen, missed }) = self.own.read(tap, Instant::now(), wall_ms())?;
        if read == Read::Began {
            let subject = query.to.clone().or_else(|| query.node.clone()).unwrap_or_else(|| "mesh".to_owned());
            let seconds = tap.for_ms / 1_000;
            let what = format!("tapped by {} at {}: {}, for {seconds}s", tap.author, tap.reader, query.describe());
            tracing::info!(author = %tap.author, reader = %tap.reader, what, "a tap begins");
            self.events.say(Kind::Tap, subject, what);
        }
        Ok(Told { seen: seen.iter().filter_map(|tapped| Seen::of(tapped, &node, query.body)).collect(), missed })
    }
}

/// What is to be signed for a tap.
///
/// # Errors
/// The query cannot be read, or the time is too long.
pub fn draft(query: &TapQuery, length: Duration, reader: NodeName, author: SpiffeId) -> anyhow::Result<SignedTap> {
    query.read()?;
    let for_ms = u64::try_from(length.as_millis()).unwrap_or(u64::MAX);
    ensure!((1_000..=MAX_TAP_MS).contains(&for_ms), "for: a tap lasts 1s to 30m");
    let query = serde_json::to_string(query)?;
    ensure!(query.len() <= MAX_TAP_QUERY_LEN, "the question is too long: {MAX_TAP_QUERY_LEN} bytes at most");
    let (chain, signature) = (Vec::new(), Vec::new());
    Ok(SignedTap { id: rand::random(), reader, author, at_ms: wall_ms(), for_ms, query, chain, signature })
}

/// Reads the parameters of `GET /api/v1/tap`.
///
/// # Errors
/// Names the parameter that cannot be read, and what it should be.
pub fn query(parameters: impl Iterator<Item = (String, String)>) -> anyhow::Result<(TapQuery, Duration)> {
    let (mut query, mut length) = (TapQuery::default(), DEFAULT_FOR);
    for (name, value) in parameters {
        match name.as_str() {
            "to" => query.to = Some(value),
            "from" => query.from = Some(value),
            "namespace" => query.namespace = Some(value),
            "node" => query.node = Some(value),
            "method" => query.method = Some(value),
            "path" => query.path = Some(value),
            "status" => query.status = Some(value),
            "header" => query.header.push(value),
            "body" => query.body = size(&value)?,
            "max_rps" => query.max_rps = value.parse().context("max_rps: write a number, such as 100")?,
            "side" => query.side = side(&value)?,
            "for" => {
                let read = config::duration(&value);
                length = read.with_context(|| format!("for: {value:?} is not a duration: write 30s or 5m"))?;
            }
            _ => bail!(
                "there is no parameter {name}: there are to, from, namespace, node, method, path, status, header, body, \
                 max_rps, side, for"
            ),
        }
    }
    query.read()?;
    Ok((query, length))
}

/// Reads a number of bytes such as `512` or `4KiB`.
///
/// # Errors
/// It is none.
pub fn size(text: &str) -> anyhow::Result<usize> {
    let (number, unit) = text.strip_suffix("KiB").map_or((text, 1), |number| (number, 1_024));
    let bytes = number.trim().parse::<usize>().ok().and_then(|number| number.checked_mul(unit));
    bytes.with_context(|| format!("body: {text:?} is no size: write 512 or 4KiB"))
}

/// Reads whose word is asked for.
///
/// # Errors
/// There is no such side.
pub fn side(text: &str) -> anyhow::Result<Side> {
    match text {
        "source" => Ok(Side::Source),
        "destination" => Ok(Side::Destination),
        _ => bail!("side: {text:?} is none: write source or destination"),
    }
}

impl Handles {
    /// Begins a tap, which goes on until its time is up or what this gives is dropped.
    ///
    /// # Errors
    /// It is not signed by whoever may, or cannot be read.
    pub fn tap(&self, TapRequest { query, for_ms, signed }: TapRequest) -> anyhow::Result<mpsc::Receiver<TapEvent>> {
        let identity = self.identity.load_full();
        let tap = match signed {
            Some(signed) => signed,
            None => {
                ensure!(
                    identity.grant.role >= Role::Admin,
                    "this node's role is {}, so it may ask for no tap: do it with an operator's credential (--credential \
                     DIR), or on a node of role admin or ca",
                    identity.grant.role
                );
                let author = identity.certificate.id.clone();
                let mut tap = draft(&query, Duration::from_millis(for_ms), identity.name.clone(), author)?;
                tap.chain = der_chain(&identity.chain);
                tap.signature = identity.key.sign(&tap.signed_bytes());
                tap
            }
        };
        ensure!(tap.reader == identity.name, "this tap is for {} to read", tap.reader);
        // Here as on the others: what this node refuses, they would.
        self.taps.read(&tap)?;
        let query: TapQuery = serde_json::from_str(&tap.query).context("a tap in another form")?;
        let (events, reader) = mpsc::channel(WAITING);
        tokio::spawn(self.clone().read_tap(tap, query, events));
        Ok(reader)
    }

    async fn read_tap(self, tap: SignedTap, query: TapQuery, events: mpsc::Sender<TapEvent>) {
        let ends = Instant::now() + Duration::from_millis(tap.for_ms);
        let mut ticks = interval(ASK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut state = TapState::default();
        loop {
            tokio::select! {
                biased;
                () = events.closed() => return,
                () = sleep_until(ends) => break,
                _ = ticks.tick() => {}
            }
            let before = state.clone();
            tokio::select! {
                biased;
                () = events.closed() => return,
                () = self.ask_all(&tap, &mut state, &events) => {}
            }
            // What others answer is of no interest where one is named.
            state.watching.retain(|node| query.is_for(node));
            state.silent.retain(|node| query.is_for(node));
            state.refused.retain(|node, _| query.is_for(node));
            state.nodes = state.watching.len();
            if state != before {
                let _ = events.send(TapEvent::State(state.clone())).await;
            }
        }
        let _ = events.send(TapEvent::State(TapState { ended: true, ..state })).await;
    }

    /// Asks all nodes once, and hands on what each tells as it comes.
    async fn ask_all(&self, tap: &SignedTap, state: &mut TapState, events: &mpsc::Sender<TapEvent>) {
        let own = self.identity.load().name.to_string();
        let mut refused = BTreeMap::new();
        let mut told = vec![(own, self.taps.read(tap))];
        let _turn = self.gathers.acquire().await;
        let question = Request::ReadTap(Box::new(tap.clone()));
        let Answers { mut asked, answers, mut silent } = self.ask_others(question);
        let mut answers = pin!(answers.take_until(sleep_until(Instant::now() + DEADLINE)));
        let mut answered = BTreeSet::new();
        loop {
            for (node, told) in told.drain(..) {
                match told {
                    Ok(Told { seen, missed }) => {
                        state.missed += missed;
                        answered.insert(node);
                        for seen in seen {
                            if events.send(TapEvent::Seen(Box::new(seen))).await.is_err() {
                                return;
                            }
                        }
                    }
                    Err(error) => _ = refused.insert(node, format!("{error:#}")),
                }
            }
            let Some((node, answer)) = answers.next().await else { break };
            match answer {
                Ok(answer) => told.push((node, read(answer))),
                // It does not answer.
                Err(error) => tracing::debug!(node, error = format!("{error:#}"), "a node was asked in vain"),
            }
        }
        asked.retain(|node| !answered.contains(node) && !refused.contains_key(node));
        silent.extend(asked);
        silent.sort();
        (state.watching, state.silent, state.refused) = (answered, silent, refused);
    }
}

fn read(answer: Response) -> anyhow::Result<Told> {
    match answer {
        Response::Told { json } => serde_json::from_str(&json).context("a tap in another form"),
        Response::Refused { why } => bail!("{why}"),
        _ => bail!("another answer than was asked for"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_those_of_the_command() {
        let read = |pairs: &[(&str, &str)]| query(pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())));
        let (query, length) = read(&[
            ("to", "web"),
            ("header", "a"),
            ("header", "b: c"),
            ("body", "4KiB"),
            ("for", "90s"),
            ("side", "destination"),
        ])
        .unwrap();
        assert_eq!((query.header.len(), query.body, query.side), (2, 4_096, Side::Destination));
        assert_eq!(length, Duration::from_secs(90));
        for (name, value) in
            [("body", "1GiB"), ("body", "17KiB"), ("side", "x"), ("for", "x"), ("max_rps", "x"), ("colour", "x")]
        {
            let error = read(&[(name, value)]).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
    }
}
