//! What happens on one connection with a peer: its messages go to the actors they are for, its questions are answered.
//! The certificate it showed decides what it may say.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use quinn::{Connection, ConnectionError, RecvStream, SendStream, TransportErrorCode};
use rustls::pki_types::UnixTime;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use weft_ca::trust::TrustError;
use weft_wire::{
    codec::{self, WireError},
    frame::{MAX_FRAME_LEN, MAX_GOSSIP_LEN, MAX_PUSH_LEN, Push, Request, Response, UniKind},
    id::{NodeId, NodeName, ServiceAccount},
};

use super::{
    PeerError,
    stream::{read_uni, read_value, send_uni, write_value},
    tls::{Peer, Standing},
};
use crate::{
    actors::{
        documents, facts,
        follow::Following,
        issuer::{self, Wanted},
        membership::{self, gossip::GossipInbox},
        secrets,
    },
    admin::{
        certificates::OwnCertificates, decision::OwnDecisions, doctor, events, log::OwnLog, plaintext::OwnPlaintext,
        tap::TapDesk, traces::OwnTraces, traffic::OwnTraffic,
    },
    identity::IdentityReader,
    telemetry::{Reason, Telemetry},
    traffic::history::Range,
};

/// A peer's messages that are read at once; more wait in its streams, which QUIC bounds.
const MAX_READING: usize = 4;
/// A peer whose certificate has run out has this long to renew it.
const RENEWAL: Duration = Duration::from_secs(30);
const REVOKED: &[u8] = b"your certificate is revoked";

/// Where a peer's words go.
#[derive(Clone)]
pub struct Receivers {
    pub gossip: GossipInbox,
    pub membership: membership::Handle,
    pub facts: facts::Handle,
    pub documents: documents::Handle,
    pub secrets: secrets::Handle,
    pub following: Following,
    pub decisions: OwnDecisions,
    pub plaintext: OwnPlaintext,
    pub traffic: OwnTraffic,
    pub taps: TapDesk,
    pub identity: IdentityReader,
    /// Changes with what is revoked, among others.
    pub identity_changes: watch::Receiver<u64>,
    pub traces: OwnTraces,
    pub certificates: OwnCertificates,
    pub log: OwnLog,
    pub issuer: issuer::Handle,
    pub telemetry: Telemetry,
}

/// What a link's queue carries.
pub enum Outgoing {
    Message(UniKind, Bytes),
    /// Answered when the peer has the last push that was queued before.
    Flush(oneshot::Sender<()>),
}

/// Sends what is queued for a peer, a stream per message, until the connection or the queue ends. If news did not fit
/// into the queue, the peer is told when it is empty.
pub async fn write(connection: Connection, mut queue: mpsc::Receiver<Outgoing>, missed: Arc<AtomicBool>) {
    let mut last_push: Option<SendStream> = None;
    while let Some(outgoing) = queue.recv().await {
        match outgoing {
            Outgoing::Message(kind, payload) => match send_uni(&connection, kind, payload).await {
                Ok(stream) if kind == UniKind::Push => last_push = Some(stream),
                Ok(_) => {}
                Err(_) => return,
            },
            Outgoing::Flush(done) => {
                if let Some(stream) = last_push.take() {
                    // Either way there is nothing left to wait for.
                    let _ = stream.stopped().await;
                }
                let _ = done.send(());
            }
        }
        if queue.is_empty()
            && missed.swap(false, Ordering::Relaxed)
            && send_uni(&connection, UniKind::Missed, Bytes::new()).await.is_err()
        {
            return;
        }
    }
}

/// Serves a peer until its connection ends; returns why it did. The connection does not outlive the certificate that
/// it began with: a peer that renewed it comes back with the new one.
pub async fn read(connection: Connection, peer: Peer, address: SocketAddr, to: Receivers) -> ConnectionError {
    let Some(node) = peer.identity.id.as_node().map(|name| name.id()) else {
        // The TLS verifier lets only nodes through.
        connection.close(1u32.into(), b"not a node");
        return connection.closed().await;
    };
    let good_for = peer.identity.not_after.as_secs().saturating_sub(UnixTime::now().as_secs());
    let certificate_ends = tokio::time::sleep(match peer.standing {
        Standing::Member => Duration::from_secs(good_for),
        Standing::Expired | Standing::IssuerRevoked => RENEWAL,
    });
    let revoked = revoked(&peer, &to);
    tokio::pin!(certificate_ends, revoked);
    let reading = Arc::new(Semaphore::new(MAX_READING));
    loop {
        let next = async {
            let permit = reading.clone().acquire_owned().await;
            tokio::select! {
                stream = connection.accept_uni() => stream.map(|recv| (permit, None, recv)),
                stream = connection.accept_bi() => stream.map(|(send, recv)| (permit, Some(send), recv)),
            }
        };
        let stream = tokio::select! {
            stream = next => stream,
            () = &mut certificate_ends => {
                connection.close(0u32.into(), b"your certificate has ended");
                return connection.closed().await;
            }
            why = &mut revoked => {
                connection.close(0u32.into(), why);
                return connection.closed().await;
            }
        };
        let (permit, send, recv) = match stream {
            Ok(stream) => stream,
            Err(error) => return error,
        };
        let (to, peer) = (to.clone(), peer.clone());
        tokio::spawn(async move {
            let taken = match send {
                Some(send) => take_question(send, recv, &peer, address, &to).await,
                // QUIC lets a peer whose certificate has run out open none of these.
                None => take_message(recv, node, address, &to).await,
            };
            if let Err(error) = taken {
                refused(&to.telemetry, node, &error);
            }
            drop(permit);
        });
    }
}

/// Waits until the peer is not believed any more for what it was when it came; returns what to tell it.
async fn revoked(peer: &Peer, to: &Receivers) -> &'static [u8] {
    let mut changes = to.identity_changes.clone();
    loop {
        match to.identity.load().trust.check_revoked(&peer.identity, UnixTime::now()) {
            Ok(()) => {}
            Err(TrustError::IssuerRevoked(_)) if peer.standing == Standing::IssuerRevoked => {}
            Err(TrustError::IssuerRevoked(_)) => return b"who signed your certificate is revoked: renew it",
            Err(_) => return REVOKED,
        }
        if changes.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// Whether a connection ended because the peer believes this node's certificate no more.
pub fn is_of_revocation(why: &ConnectionError) -> bool {
    /// RFC 8446, section 6.
    const CERTIFICATE_REVOKED: u8 = 44;
    match why {
        ConnectionError::ApplicationClosed(close) => close.reason == REVOKED,
        ConnectionError::ConnectionClosed(close) => close.error_code == TransportErrorCode::crypto(CERTIFICATE_REVOKED),
        _ => false,
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
        Some(UniKind::Gossip) if payload.len() > MAX_GOSSIP_LEN => {
            return Err(WireError::TooLarge { len: payload.len(), limit: MAX_GOSSIP_LEN }.into());
        }
        Some(UniKind::Gossip) => to.gossip.deliver(address, Bytes::from(payload), &to.telemetry),
        Some(UniKind::Push) => {
            let push: Push = codec::decode(&payload, MAX_PUSH_LEN)?;
            push.check()?;
            match push {
                Push::Facts(facts) => to.facts.merge(facts, from).await,
                Push::Documents(documents) => to.documents.merge(documents, from).await,
            }
        }
        Some(UniKind::Missed) => to.membership.missed(from),
        // A newer version's; it asks for nothing.
        None => {}
    }
    Ok(())
}

async fn take_question(
    mut send: SendStream,
    recv: RecvStream,
    peer: &Peer,
    address: SocketAddr,
    to: &Receivers,
) -> Result<(), PeerError> {
    let question: Request = read_value(recv, MAX_FRAME_LEN).await?;
    question.check()?;
    let node = peer.identity.id.as_node().map(NodeName::id);
    let certify = |wanted, csr| to.issuer.certify(peer.clone(), wanted, csr);
    // Who asks says what it has.
    let ask_in_turn =
        |has_newer: bool| node.filter(|_| has_newer).into_iter().for_each(|node| to.membership.missed(node));
    let answer = match (question, peer.standing == Standing::Member) {
        (Request::RenewNode { csr }, _) => certify(Wanted::Node, csr).await,
        (_, false) => Err(anyhow::anyhow!("your certificate has expired, or who signed it is revoked: renew it first")),
        (Request::PullFacts { have }, _) => match node {
            Some(node) => to.facts.missing_for(node, have).await.map(|(missing, has_newer)| {
                ask_in_turn(has_newer);
                Response::Facts(missing)
            }),
            None => Err(anyhow::anyhow!("not a node")),
        },
        (Request::PullDocuments { have }, _) => to.documents.missing_for(have).await.map(|(missing, has_newer)| {
            ask_in_turn(has_newer);
            Response::Documents(missing)
        }),
        (Request::CertifyWorkload { namespace, account, csr }, _) => {
            certify(Wanted::Workload(ServiceAccount { namespace, name: account }), csr).await
        }
        (Request::RenewIssuer { csr }, _) => certify(Wanted::Issuer, csr).await,
        (Request::PullSecret { key, digest }, _) => {
            to.secrets.answer(&peer.identity, &key, digest).map(Response::Secret)
        }
        (Request::KeepSecrets { documents, contents }, _) => {
            to.secrets.keep(documents, contents).await.map(|()| Response::Kept)
        }
        (Request::AwaitFollowing { version }, _) => match peer.identity.id.as_node() {
            Some(node) => to.following.confirm(node, version).await.map(|()| Response::Following),
            None => Err(anyhow::anyhow!("not a node")),
        },
        (Request::FindDecision { id }, _) => to.decisions.answer(id),
        (Request::ListPlaintext, _) => to.plaintext.answer(),
        (Request::CompareDocuments { root }, _) => Ok(Response::Holdings(to.documents.holdings(root))),
        (Request::ListVersions { key }, _) => {
            to.documents.versions(key).await.map(Response::Versions).map_err(anyhow::Error::from)
        }
        (Request::ListTraffic { window_ms }, _) => to.traffic.answer(window_ms),
        (Request::ListEvents { seconds }, _) => events::answer(&to.telemetry.events, seconds),
        (Request::ReachMe, _) => doctor::answer(&to.identity, address).await,
        (Request::FindSpans { query }, _) => to.traces.answer(&query),
        (Request::ReadTap(tap), _) => to.taps.answer(peer.identity.id.as_node(), &tap),
        (Request::ListCertificates, _) => to.certificates.answer(),
        (Request::ListLog { query }, _) => to.log.answer(&peer.identity, &query),
        (Request::ListTrafficHistory { first, steps_per_point, points }, _) => {
            let points = usize::try_from(points).unwrap_or(usize::MAX);
            to.traffic.answer_history(&Range { first, steps_per_point, points })
        }
    };
    let response = answer.unwrap_or_else(|error| Response::Refused { why: format!("{error:#}") });
    write_value(&mut send, &response).await
}
