//! What a running node finds when it examines itself and its mesh: the observations that [`crate::doctor`] judges.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, bail};
use futures_util::{StreamExt, stream};
use nix::sys::resource::{Resource, getrlimit};
use rustls::pki_types::UnixTime;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use weft_discovery::{liveness::Status, membership::MAX_MESSAGE_LEN};
use weft_wire::{
    frame::{MESH_PORT, Request, Response},
    id::NodeName,
};

use super::api::{Document, Member};
use crate::{
    actors::{Handles, seconds_until},
    doctor::{self, Check, Peer, Reach, Reached},
    identity::{IdentityReader, wall_ms},
};

/// Peers that are examined, and how many at once: a question to each of a large mesh would be a flood.
const MAX_PEERS: usize = 64;
const AT_ONCE: usize = 16;
/// A peer is to dial back before it answers.
const ANSWERED_WITHIN: Duration = Duration::from_secs(8);

/// The answer to `POST /api/v1/doctor`
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Examination {
    pub node: String,
    pub checks: Vec<Check>,
}

/// The answer to a peer's [`Request::ReachMe`]: dials its node's port at the address that it asks from.
pub async fn answer(identity: &IdentityReader, address: SocketAddr) -> anyhow::Result<Response> {
    let (unix_ms, trust) = (wall_ms(), identity.load().trust.clone());
    let back = Reach::probe(SocketAddr::new(address.ip(), MESH_PORT), &trust).await;
    Ok(Response::Told { json: serde_json::to_string(&Reached { back, unix_ms })? })
}

/// What came of one peer.
struct Examined {
    peer: Peer,
    version: String,
    /// How far its clock is ahead, in milliseconds.
    offset_ms: Option<i64>,
}

impl Handles {
    pub async fn examine(&self) -> Examination {
        let identity = self.identity.load_full();
        let name = identity.name.to_string();
        let mut checks = vec![match self.not_ready() {
            missing if missing.is_empty() => Check::ok("node", format!("{name} is ready")),
            missing => Check::error(
                "node",
                format!("{name} is not ready: {}", missing.join("; ")),
                "its services are not reached by others yet",
                "look for warnings in `journalctl -u weft`",
            ),
        }];
        let certificate = &identity.certificate;
        let (begins_in, left) = (seconds_until(certificate.not_before), seconds_until(certificate.not_after));
        checks.push(match identity.trust.check_revoked(certificate, UnixTime::now()) {
            Ok(()) => doctor::certificate("certificate", begins_in, left, false),
            Err(error) => Check::error(
                "certificate",
                error,
                "no other node talks to this one",
                "`weft token create` on a CA node, then `weft leave` and `weft join` here",
            ),
        });
        if let Some(left) = self.issuer_seconds_left() {
            checks.push(doctor::certificate("intermediate", 0, left, true));
        }
        if let Ok((limit, _)) = getrlimit(Resource::RLIMIT_NOFILE) {
            checks.push(doctor::files(limit));
        }
        checks.extend(self.examine_actors());

        let mut others: Vec<Member> = self.members().into_iter().filter(|member| !member.this_node).collect();
        others.retain(|member| member.state != Status::Left.as_str());
        let unexamined = others.len().saturating_sub(MAX_PEERS);
        others.truncate(MAX_PEERS);
        let examined: Vec<Examined> = stream::iter(others)
            .map(|member| self.examine_peer(member))
            .buffer_unordered(AT_ONCE)
            .filter_map(std::future::ready)
            .collect()
            .await;
        let versions: Vec<_> = examined.iter().map(|one| (one.peer.name.clone(), one.version.clone())).collect();
        let offsets: Vec<_> = examined.iter().filter_map(|one| Some((one.peer.name.clone(), one.offset_ms?))).collect();
        checks.extend(doctor::clock(&name, &offsets));
        checks.extend(examined.iter().map(|one| doctor::peer(&name, &one.peer)));
        if unexamined > 0 {
            checks.push(Check::ok("peers", format!("{unexamined} more were not examined: run `weft doctor` there")));
        }
        if let Some(gossip) = *self.gossip.borrow() {
            checks.push(doctor::gossip(gossip.digest_bytes, MAX_MESSAGE_LEN, gossip.digest_alarm));
        }
        checks.push(doctor::mtu(&self.links.packet_sizes()));
        checks.push(doctor::versions(env!("CARGO_PKG_VERSION"), &versions));
        let documents = self.documents();
        let ill: Vec<_> = documents.iter().filter_map(ill).collect();
        checks.extend(doctor::documents(documents.len(), &ill, &self.nodes_with_all_documents().lagging));
        Examination { node: name, checks }
    }

    fn examine_actors(&self) -> Vec<Check> {
        let ill = self.supervisor.status().into_iter().filter(|actor| actor.restarts > 0 || actor.dropped > 0);
        let check = |actor: crate::supervisor::ActorStatus| {
            let why = actor.last_error.unwrap_or_else(|| "its inbox was full".to_owned());
            let what = format!("restarted {} times, {} messages dropped", actor.restarts, actor.dropped);
            Check::warning(
                format!("part {}", actor.name),
                what,
                why,
                "`weft status`, and `journalctl -u weft` around that time",
            )
        };
        ill.map(check).collect()
    }

    async fn examine_peer(&self, member: Member) -> Option<Examined> {
        let (address, node): (SocketAddr, NodeName) = (member.address.parse().ok()?, member.name.parse().ok()?);
        let trust = self.identity.load().trust.clone();
        let asked = async {
            let begun = wall_ms();
            let asked = self.links.request_at(node.id(), address, &Request::ReachMe);
            let answer = tokio::time::timeout(ANSWERED_WITHIN, asked).await.context("no answer in time")??;
            let reached = read(answer)?;
            // It looks at its clock as soon as the question comes, which is hardly later than it was asked.
            Ok::<_, anyhow::Error>((reached.back, reached.unix_ms as i64 - begun as i64))
        };
        let (there, asked) = tokio::join!(Reach::probe(address, &trust), asked);
        let offset_ms = asked.as_ref().ok().map(|(_, offset)| *offset);
        let back = asked.map(|(back, _)| back).map_err(|error| format!("{error:#}"));
        let peer = Peer { name: member.name, address, there, back };
        Some(Examined { peer, version: member.version, offset_ms })
    }
}

fn read(answer: Response) -> anyhow::Result<Reached> {
    match answer {
        Response::Told { json } => serde_json::from_str(&json).context("an answer in another form"),
        Response::Refused { why } => bail!("{why}"),
        _ => bail!("another answer than was asked for"),
    }
}

/// A document that is not in force as it is written, and why.
fn ill(document: &Document) -> Option<(String, String)> {
    let failed = document.status.conditions.iter().find(|condition| condition.status == "False")?;
    Some((document.key.to_string(), format!("{}: {}", failed.reason, failed.message)))
}
