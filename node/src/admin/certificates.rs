//! How long the certificates of workloads are still good, as the admin API and other nodes are told it: each node knows of
//! those that it hosts.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::{Context, bail};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::{sync::Mutex, time::Instant};
use weft_proxy::ports::Identities;
use weft_wire::{
    frame::{MAX_TOLD_LEN, Request, Response},
    id::ServiceAccount,
};

use crate::actors::Handles;

/// A node that has not answered by then is not waited for.
const DEADLINE: Duration = Duration::from_secs(3);
/// An answer is as good for so long: certificates last for hours.
const FRESH: Duration = Duration::from_secs(10);

/// Answer to `GET /api/v1/certificates`
#[derive(Debug, Default, Serialize, JsonSchema)]
pub struct Certificates {
    pub certificates: Vec<Certificate>,
    /// Nodes that did not answer.
    pub silent: Vec<String>,
}

/// The certificate of a service account on a node that hosts workloads of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Certificate {
    /// Filled in by whoever asks.
    #[serde(default)]
    pub node: String,
    pub account: ServiceAccount,
    /// Negative once it has ended.
    pub seconds_left: i64,
}

/// When it was told, and what.
type Latest = (Instant, Arc<Certificates>);

/// What this node knows, and what all have told last.
#[derive(Clone)]
pub struct OwnCertificates {
    identities: Identities,
    latest: Arc<Mutex<Option<Latest>>>,
}

impl OwnCertificates {
    pub fn new(identities: Identities) -> Self {
        Self { identities, latest: Arc::default() }
    }

    fn list(&self) -> Vec<Certificate> {
        let (identities, now) = (self.identities.load(), SystemTime::now());
        let certificates = identities.workloads.iter().map(|(account, identity)| {
            let seconds = |length: Duration| i64::try_from(length.as_secs()).unwrap_or(i64::MAX);
            let seconds_left = match identity.not_after.duration_since(now) {
                Ok(left) => seconds(left),
                Err(past) => -seconds(past.duration()),
            };
            Certificate { node: String::new(), account: account.clone(), seconds_left }
        });
        certificates.collect()
    }

    /// The answer to a peer's [`Request::ListCertificates`].
    ///
    /// # Errors
    /// None that can be met: it is JSON of plain values.
    pub fn answer(&self) -> anyhow::Result<Response> {
        let mut list = self.list();
        loop {
            let json = serde_json::to_string(&list)?;
            if json.len() <= MAX_TOLD_LEN {
                return Ok(Response::Told { json });
            }
            // Those that end first are told.
            list.sort_by_key(|certificate| certificate.seconds_left);
            list.truncate(list.len() / 2);
        }
    }
}

impl Handles {
    /// What all nodes that answer in time know. Whoever asks meanwhile waits for the same answer.
    pub async fn certificates(&self) -> Arc<Certificates> {
        let mut latest = self.certificates.latest.lock().await;
        if let Some((at, certificates)) = &*latest
            && at.elapsed() < FRESH
        {
            return certificates.clone();
        }
        let (others, silent) = self.gather(Request::ListCertificates, DEADLINE, read).await;
        let own = (self.identity.load().name.to_string(), self.certificates.list());
        let of_node = |(node, list): (String, Vec<Certificate>)| {
            list.into_iter().map(move |certificate| Certificate { node: node.clone(), ..certificate })
        };
        let mut certificates: Vec<_> = others.into_iter().chain([own]).flat_map(of_node).collect();
        certificates.sort_by(|a, b| (&a.account, &a.node).cmp(&(&b.account, &b.node)));
        let certificates = Arc::new(Certificates { certificates, silent });
        *latest = Some((Instant::now(), certificates.clone()));
        certificates
    }
}

fn read(answer: Response) -> anyhow::Result<Vec<Certificate>> {
    match answer {
        Response::Told { json } => serde_json::from_str(&json).context("certificates in another form"),
        Response::Refused { why } => bail!("{why}"),
        _ => bail!("another answer than was asked for"),
    }
}
