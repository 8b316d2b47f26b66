//! Who sends plaintext to whom, as the admin API and other nodes are told it.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, bail};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::{sync::watch, time::Instant};
use weft_proxy::metrics::Metrics;
use weft_wire::{
    frame::{MAX_PLAINTEXT_LEN, Request, Response},
    id::NodeName,
};

use crate::{actors::Handles, plaintext::Sightings};

/// However many nodes there are, the answer comes by then.
const PATIENCE: Duration = Duration::from_secs(10);

/// The answer to `POST /api/v1/plaintext`
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Plaintext {
    pub senders: Vec<Sender>,
    /// Nodes that do not answer: what they know is missing.
    pub silent: Vec<String>,
}

/// Somebody who sends, or has sent, plaintext. A field that this version does not know is left out: the answer may come
/// from another node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct Sender {
    /// The workload that sends, `NAMESPACE/WORKLOAD`, or the address that it sends from.
    pub from: String,
    /// The node that is at that address, or hosts that workload; `null` for a host that is no member.
    pub from_node: Option<String>,
    /// The workload that is sent to, `NAMESPACE/WORKLOAD`, or the host outside of the mesh.
    pub to: String,
    /// The node that hosts the workload; `null` for a host outside.
    pub to_node: Option<NodeName>,
    /// Where the workload listens; `null` for a host outside.
    pub port: Option<u16>,
    pub how: How,
    /// Connections that are open now, for [`How::PastWeft`]; requests and connections so far, for [`How::InTheClear`].
    pub count: u64,
    /// 0 if it is going on.
    pub last_seconds_ago: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum How {
    /// To a workload of the mesh, by its own port: neither encrypted nor subject to policies.
    PastWeft,
    /// Through weft, to a place outside of the mesh that no document says to call by TLS.
    InTheClear,
}

/// What this node has seen.
#[derive(Clone)]
pub struct OwnPlaintext {
    pub node: NodeName,
    pub seen: watch::Receiver<Sightings>,
    pub metrics: Metrics,
}

impl OwnPlaintext {
    /// The answer to a peer's [`Request::ListPlaintext`].
    pub fn answer(&self) -> anyhow::Result<Response> {
        let mut senders = self.list(Instant::now());
        loop {
            let json = serde_json::to_string(&senders)?;
            if json.len() <= MAX_PLAINTEXT_LEN {
                return Ok(Response::Plaintext { json });
            }
            senders.truncate(senders.len() / 2);
        }
    }

    /// The latest first.
    fn list(&self, now: Instant) -> Vec<Sender> {
        let seen = self.seen.borrow();
        let past_weft = seen.iter().map(|(call, sighting)| Sender {
            from: call.from.to_string(),
            from_node: None,
            to: format!("{}/{}", call.workload.0, call.workload.1),
            to_node: Some(self.node.clone()),
            port: Some(sighting.port),
            how: How::PastWeft,
            count: sighting.open as u64,
            last_seconds_ago: if sighting.open > 0 { 0 } else { now.duration_since(sighting.last).as_secs() },
        });
        let in_the_clear = self.metrics.in_the_clear().into_iter().map(|sent| Sender {
            from: sent.source,
            from_node: Some(self.node.to_string()),
            to: sent.host,
            to_node: None,
            port: None,
            how: How::InTheClear,
            count: sent.count,
            last_seconds_ago: sent.ago.as_secs(),
        });
        let mut senders: Vec<Sender> = past_weft.chain(in_the_clear).collect();
        senders.sort_by_key(|sender| sender.last_seconds_ago);
        senders
    }
}

impl Handles {
    /// What all nodes have seen.
    pub async fn plaintext(&self) -> Plaintext {
        let mut senders = self.plaintext.list(Instant::now());
        let (others, silent) = self.gather(Request::ListPlaintext, PATIENCE, read).await;
        senders.extend(others.into_iter().flat_map(|(_, others)| others));
        let members = self.members();
        for sender in senders.iter_mut().filter(|sender| sender.from_node.is_none()) {
            let is_at = |member: &&super::api::Member| {
                let address: Option<SocketAddr> = member.address.parse().ok();
                address.is_some_and(|address| sender.from.parse() == Ok(address.ip()))
            };
            sender.from_node = members.iter().find(is_at).map(|member| member.name.clone());
        }
        senders.sort();
        Plaintext { senders, silent }
    }
}

fn read(answer: Response) -> anyhow::Result<Vec<Sender>> {
    match answer {
        Response::Plaintext { json } => serde_json::from_str(&json).context("a list in another form"),
        Response::Refused { why } => bail!("{why}"),
        _ => bail!("another answer than was asked for"),
    }
}
