//! What happens on one connection with a peer: its messages go to the actors they are for, its questions are answered.
//! The certificate it showed decides what it may say.

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;
use quinn::{Connection, ConnectionError, RecvStream, SendStream};
use tokio::sync::{Semaphore, mpsc};
use weft_wire::{
    codec,
    frame::{MAX_FRAME_LEN, Push, Request, Response, UniKind},
    id::{NodeId, ServiceAccount},
};

use super::{
    PeerError,
    stream::{read_uni, read_value, send_uni, write_value},
    tls::Peer,
};
use crate::{
    actors::{documents, facts, issuer, membership::GossipInbox},
    telemetry::{Reason, Telemetry},
};

/// A peer's messages that are read at once; more wait in its streams, which QUIC bounds.
const MAX_READING: usize = 16;

/// Where a peer's words go.
#[derive(Clone)]
pub struct Receivers {
    pub gossip: GossipInbox,
    pub facts: facts::Handle,
    pub documents: documents::Handle,
    pub issuer: issuer::Handle,
    pub telemetry: Telemetry,
}

/// Sends what is queued for a peer, a stream per message, until the connection or the queue ends.
pub async fn write(connection: Connection, mut queue: mpsc::Receiver<(UniKind, Bytes)>) {
    while let Some((kind, payload)) = queue.recv().await {
        if send_uni(&connection, kind, &payload).await.is_err() {
            return;
        }
    }
}

/// Serves a peer until its connection ends; returns why it did.
pub async fn read(connection: Connection, peer: Peer, address: SocketAddr, to: Receivers) -> ConnectionError {
    let Some(node) = peer.identity.id.as_node().map(|name| name.id()) else {
        // The TLS verifier lets only nodes through.
        connection.close(1u32.into(), b"not a node");
        return connection.closed().await;
    };
    let reading = Arc::new(Semaphore::new(MAX_READING));
    loop {
        let Ok(permit) = reading.clone().acquire_owned().await else { return connection.closed().await };
        tokio::select! {
            stream = connection.accept_uni() => match stream {
                // A peer whose certificate has run out may only ask for a new one.
                Ok(stream) if peer.expired => drop(stream),
                Ok(stream) => {
                    let to = to.clone();
                    tokio::spawn(async move {
                        if let Err(error) = take_message(stream, node, address, &to).await {
                            refused(&to.telemetry, node, &error);
                        }
                        drop(permit);
                    });
                }
                Err(error) => return error,
            },
            stream = connection.accept_bi() => match stream {
                Ok((send, recv)) => {
                    let (to, peer) = (to.clone(), peer.clone());
                    tokio::spawn(async move {
                        if let Err(error) = take_question(send, recv, &peer, &to).await {
                            refused(&to.telemetry, node, &error);
                        }
                        drop(permit);
                    });
                }
                Err(error) => return error,
            },
        }
    }
}

fn refused(telemetry: &Telemetry, node: NodeId, error: &PeerError) {
    let reason = match error {
        PeerError::Wire(_) => "malformed",
        PeerError::Stream(_) => "stream_broke",
        _ => "refused",
    };
    telemetry.peers_refused.get_or_create(&Reason { reason }).inc();
    tracing::debug!(%node, %error, "message from a peer was not taken");
}

async fn take_message(stream: RecvStream, from: NodeId, address: SocketAddr, to: &Receivers) -> Result<(), PeerError> {
    let (kind, payload) = read_uni(stream).await?;
    match kind {
        Some(UniKind::Gossip) => to.gossip.deliver(address, Bytes::from(payload), &to.telemetry),
        Some(UniKind::Push) => match codec::decode(&payload, MAX_FRAME_LEN)? {
            Push::Facts(facts) => to.facts.merge(facts, Some(from)),
            Push::Documents(documents) => to.documents.merge(documents, Some(from)),
        },
        // A newer version's; it asks for nothing.
        None => {}
    }
    Ok(())
}

async fn take_question(mut send: SendStream, recv: RecvStream, peer: &Peer, to: &Receivers) -> Result<(), PeerError> {
    let question = read_value(recv, MAX_FRAME_LEN).await?;
    let answer = match (question, peer.expired) {
        (Request::RenewNode { csr }, _) => to.issuer.renew_node(peer.identity.clone(), csr).await,
        (_, true) => Err(anyhow::anyhow!("your certificate has expired: renew it first")),
        (Request::PullFacts { have }, _) => to.facts.missing_for(have).await.map(Response::Facts),
        (Request::PullDocuments { have }, _) => to.documents.missing_for(have).await.map(Response::Documents),
        (Request::CertifyWorkload { namespace, account, csr }, _) => {
            let account = ServiceAccount { namespace, name: account };
            to.issuer.certify_workload(peer.identity.clone(), account, csr).await
        }
    };
    let response = answer.unwrap_or_else(|error| Response::Refused { why: format!("{error:#}") });
    write_value(&mut send, &response).await
}
