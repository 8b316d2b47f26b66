//! Joining a mesh: the host's side, and the deadline and bounds of the mesh's side.
//!
//! The host trusts nothing but its token. The seed must show a chain to the root whose hash the token carries, or
//! the host says nothing at all; and the host shows the token to CA nodes only.

use std::{collections::VecDeque, net::SocketAddr, time::Duration};

use anyhow::{Context, bail};
use quinn::Connection;
use rustls::pki_types::UnixTime;
use tokio::time::timeout;
use weft_ca::{token::JoinToken, trust::TrustBundle};
use weft_wire::{
    frame::{JoinQuestion, JoinRequest, JoinResponse, MAX_JOIN_FRAME_LEN, Welcome},
    id::Role,
};

use super::{
    PeerError, quic,
    stream::{exchange, read_value, write_value},
};

/// A host that joins asks at most so many nodes.
const MAX_ATTEMPTS: usize = 8;
/// A host has this long to ask, since until then it only holds a place.
const QUESTION_DEADLINE: Duration = Duration::from_secs(2);
/// Longest time for the whole exchange.
const EXCHANGE_DEADLINE: Duration = Duration::from_secs(10);

/// Asks the mesh for a certificate, beginning at the seeds and going on to the CA nodes they name.
///
/// # Errors
/// The mesh's own words if it refuses; else why the last node that was asked could not be.
pub async fn join(
    seeds: Vec<SocketAddr>,
    token: &JoinToken,
    request: JoinRequest,
) -> anyhow::Result<(Welcome, TrustBundle)> {
    let mut to_ask = VecDeque::from(seeds);
    let mut asked = Vec::new();
    let mut last_error = None;
    while let Some(address) = to_ask.pop_front() {
        if asked.contains(&address) || asked.len() == MAX_ATTEMPTS {
            continue;
        }
        asked.push(address);
        match ask(address, token, &request).await {
            Ok((JoinResponse::Welcome(welcome), trust)) => return Ok((*welcome, trust)),
            Ok((JoinResponse::Issuers(issuers), _)) => {
                if issuers.is_empty() {
                    last_error = Some(anyhow::anyhow!("{address} knows no CA node at the moment: try another seed"));
                }
                to_ask.extend(issuers);
            }
            Ok((JoinResponse::Refused { why }, _)) => bail!("{why}"),
            Err(error) => last_error = Some(error),
        }
    }
    Err(last_error.unwrap_or_else(|| anyhow::anyhow!("no seed given")))
}

async fn ask(
    address: SocketAddr,
    token: &JoinToken,
    request: &JoinRequest,
) -> anyhow::Result<(JoinResponse, TrustBundle)> {
    let (endpoint, connection, chain) = quic::dial_seed(address, token.claims().mesh).await?;
    let trust = TrustBundle::pin(&chain, token.claims().mesh)?;
    let seed = trust.verify_chain(&chain, UnixTime::now())?;
    let question = match seed.grant.is_some_and(|grant| grant.role == Role::Ca) {
        true => JoinQuestion::Join(Box::new(request.clone())),
        false => JoinQuestion::WhoIssues,
    };
    let response = exchange(&connection, &question, MAX_JOIN_FRAME_LEN)
        .await
        .with_context(|| format!("asking {address} to let this host in"))?;
    connection.close(0u32.into(), b"done");
    endpoint.wait_idle().await;
    Ok((response, trust))
}

/// Reads a joining host's one question and writes the answer that `answer` finds.
pub async fn serve<F>(connection: Connection, answer: impl FnOnce(JoinQuestion) -> F) -> Result<(), PeerError>
where
    F: Future<Output = JoinResponse>,
{
    let ask = async {
        let (send, recv) = connection.accept_bi().await.map_err(|error| PeerError::Stream(error.to_string()))?;
        Ok::<_, PeerError>((send, read_value(recv, MAX_JOIN_FRAME_LEN).await?))
    };
    let (mut send, question) =
        timeout(QUESTION_DEADLINE, ask).await.map_err(|_| PeerError::Deadline(QUESTION_DEADLINE))??;
    let exchange = async {
        write_value(&mut send, &answer(question).await).await?;
        // The host closes when it has read the answer; closing first could cut the answer off.
        connection.closed().await;
        Ok(())
    };
    timeout(EXCHANGE_DEADLINE, exchange).await.map_err(|_| PeerError::Deadline(EXCHANGE_DEADLINE))?
}
