//! Carries chitchat's messages over a transport of bytes.
//!
//! Since 0.12 the encoding of chitchat's envelope is private (quickwit-oss/chitchat#207), and only its UDP socket can
//! be made to use it. So each node keeps one such socket on loopback and talks to it: what comes out is an encoding,
//! what goes in is decoded. Nothing of this leaves the host.
//!
//! The socket reports nothing for bytes that it cannot decode. A known good message, the marker, therefore follows
//! each message from a socket of its own: when the marker comes out first, the message was bad. Other local processes
//! can send to the socket too; whatever comes from another address than our two is ignored.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::{Context, anyhow, bail};
use async_trait::async_trait;
use bytes::Bytes;
use chitchat::{
    ChitchatEnvelope, ChitchatMessage, ProtocolVersion,
    transport::{RecvOutcome, SendOutcome, Socket, UdpTransport},
};
use tokio::time::{Instant, timeout, timeout_at};

use crate::membership::Transport;

/// Largest payload of a UDP datagram over IPv4, and so chitchat's largest message.
pub const MAX_MESSAGE_LEN: usize = 65_507;
/// Loopback answers in microseconds. If it does not within this time, a datagram was lost inside the host and the
/// order of messages is no longer known: gossip ends and is to be started anew.
const CODEC_TIMEOUT: Duration = Duration::from_secs(5);
const ANY_LOOPBACK_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// What the shim saw, for metrics. Each only grows, except `digest_bytes`, which is the latest.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Length of the last SYN, which is all digest.
    pub(crate) digest_bytes: AtomicU64,
    /// Messages not sent because the transport's queue was full.
    pub(crate) queue_full: AtomicU64,
    /// Messages that chitchat could not encode, nearly always because the digest had outgrown one datagram.
    pub(crate) unsendable: AtomicU64,
    /// Messages received that chitchat could not decode.
    pub(crate) malformed: AtomicU64,
}

/// Opens the one [`Shim`] of a membership.
pub(crate) struct ShimTransport {
    transport: Mutex<Option<Transport>>,
    counters: Arc<Counters>,
}

impl ShimTransport {
    pub(crate) fn new(transport: Transport, counters: Arc<Counters>) -> Self {
        Self { transport: Mutex::new(Some(transport)), counters }
    }
}

#[async_trait]
impl chitchat::transport::Transport for ShimTransport {
    async fn open(&self, advertised: SocketAddr) -> anyhow::Result<Box<dyn Socket>> {
        let transport = self.transport.lock().unwrap_or_else(PoisonError::into_inner).take();
        let transport = transport.context("a membership opens its transport once")?;
        let shim = Shim::open(advertised, transport, self.counters.clone()).await;
        Ok(Box::new(shim.context("gossip needs UDP on 127.0.0.1: is the loopback interface up?")?))
    }
}

struct Shim {
    advertised: SocketAddr,
    transport: Transport,
    counters: Arc<Counters>,
    /// chitchat's own socket.
    codec: Box<dyn Socket>,
    /// Both halves of one socket: messages to decode leave by the first without waiting, so that no cancelled call
    /// loses half a step; encodings arrive at the second.
    to_codec: std::net::UdpSocket,
    from_codec: tokio::net::UdpSocket,
    message_addr: SocketAddr,
    marker_socket: std::net::UdpSocket,
    marker_addr: SocketAddr,
    marker: Vec<u8>,
    /// The message in the codec. It lives here, not in `recv`, because `recv` is cancelled at each gossip tick.
    decoding: Option<Decoding>,
    /// Set when the codec lost a datagram.
    out_of_step: bool,
    buffer: Vec<u8>,
}

struct Decoding {
    from: SocketAddr,
    deadline: Instant,
    /// The message came out; only its marker is still to come.
    done: bool,
}

impl Shim {
    async fn open(advertised: SocketAddr, transport: Transport, counters: Arc<Counters>) -> anyhow::Result<Self> {
        let codec = chitchat::transport::Transport::open(&UdpTransport, ANY_LOOPBACK_PORT).await?;
        let to_codec = connected_to(codec.local_addr()?)?;
        let marker_socket = connected_to(codec.local_addr()?)?;
        let mut shim = Self {
            advertised,
            transport,
            counters,
            from_codec: tokio::net::UdpSocket::from_std(to_codec.try_clone()?)?,
            message_addr: to_codec.local_addr()?,
            marker_addr: marker_socket.local_addr()?,
            codec,
            to_codec,
            marker_socket,
            marker: Vec::new(),
            decoding: None,
            out_of_step: false,
            buffer: vec![0; MAX_MESSAGE_LEN],
        };
        let marker = ChitchatEnvelope { version: ProtocolVersion::V1, message: ChitchatMessage::BadCluster };
        shim.marker = shim.encode(marker).await?.to_vec();
        Ok(shim)
    }

    async fn encode(&mut self, envelope: ChitchatEnvelope) -> anyhow::Result<Bytes> {
        self.codec.send(self.message_addr, envelope).await?;
        match timeout(CODEC_TIMEOUT, self.from_codec.recv(&mut self.buffer)).await {
            Ok(len) => Ok(Bytes::copy_from_slice(&self.buffer[..len?])),
            Err(_) => {
                self.out_of_step = true;
                bail!("an encoded message got lost on loopback")
            }
        }
    }
}

/// A socket that exchanges datagrams with `codec` alone.
fn connected_to(codec: SocketAddr) -> io::Result<std::net::UdpSocket> {
    let socket = std::net::UdpSocket::bind(ANY_LOOPBACK_PORT)?;
    socket.connect(codec)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

#[async_trait]
impl Socket for Shim {
    fn local_addr(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.advertised)
    }

    /// Queues the message and never waits for the peer: chitchat awaits this inside its only task.
    async fn send(&mut self, to: SocketAddr, envelope: ChitchatEnvelope) -> anyhow::Result<SendOutcome> {
        let is_syn = matches!(envelope.message, ChitchatMessage::Syn { .. });
        let encoded = self.encode(envelope).await.inspect_err(|_| {
            self.counters.unsendable.fetch_add(1, Relaxed);
        });
        if is_syn {
            let len = encoded.as_ref().map_or(MAX_MESSAGE_LEN, Bytes::len);
            self.counters.digest_bytes.store(len as u64, Relaxed);
        }
        let encoded = encoded?;
        let num_bytes_sent = encoded.len();
        if self.transport.outgoing.try_send((to, encoded)).is_err() {
            self.counters.queue_full.fetch_add(1, Relaxed);
        }
        Ok(SendOutcome { num_bytes_sent })
    }

    /// Cancel-safe. Fails only when gossip cannot go on: the transport is gone or the codec is out of step.
    async fn recv(&mut self) -> anyhow::Result<RecvOutcome> {
        loop {
            if self.out_of_step {
                bail!("the loopback codec lost a datagram");
            }
            let Some(decoding) = &mut self.decoding else {
                let (from, bytes) =
                    self.transport.incoming.recv().await.ok_or_else(|| anyhow!("the gossip transport is closed"))?;
                if bytes.len() > MAX_MESSAGE_LEN {
                    self.counters.malformed.fetch_add(1, Relaxed);
                    continue;
                }
                self.to_codec.send(&bytes).context("handing a message to the loopback codec")?;
                self.marker_socket.send(&self.marker).context("handing a marker to the loopback codec")?;
                self.decoding = Some(Decoding { from, deadline: Instant::now() + CODEC_TIMEOUT, done: false });
                continue;
            };
            let Ok(outcome) = timeout_at(decoding.deadline, self.codec.recv()).await else {
                self.out_of_step = true;
                continue;
            };
            let outcome = outcome?;
            if outcome.from_addr == self.marker_addr {
                if !decoding.done {
                    self.counters.malformed.fetch_add(1, Relaxed);
                }
                self.decoding = None;
            } else if outcome.from_addr == self.message_addr {
                decoding.done = true;
                return Ok(RecvOutcome { from_addr: decoding.from, ..outcome });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    type Ends = (mpsc::Sender<(SocketAddr, Bytes)>, mpsc::Receiver<(SocketAddr, Bytes)>);

    async fn shim(capacity: usize) -> (Shim, Ends, Arc<Counters>) {
        let (outgoing, sent) = mpsc::channel(capacity);
        let (deliver, incoming) = mpsc::channel(64);
        let counters = Arc::new(Counters::default());
        let advertised = "192.0.2.1:15008".parse().unwrap();
        let shim = Shim::open(advertised, Transport { outgoing, incoming }, counters.clone()).await.unwrap();
        (shim, (deliver, sent), counters)
    }

    fn syn(cluster_id: &str) -> ChitchatEnvelope {
        let message = ChitchatMessage::Syn { cluster_id: cluster_id.into(), digest: Default::default() };
        ChitchatEnvelope { version: ProtocolVersion::V1, message }
    }

    fn peer(n: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, n], 15008))
    }

    #[tokio::test]
    async fn what_one_shim_sends_another_receives_with_the_transports_address() {
        let (mut alice, (_keep, mut sent), counters) = shim(8).await;
        let (mut bob, (deliver, _sent), _) = shim(8).await;
        alice.send(peer(2), syn("mesh")).await.unwrap();
        let (to, bytes) = sent.recv().await.unwrap();
        assert_eq!(to, peer(2));
        assert_eq!(counters.digest_bytes.load(Relaxed), bytes.len() as u64);
        deliver.send((peer(1), bytes)).await.unwrap();
        let outcome = bob.recv().await.unwrap();
        assert_eq!(outcome.from_addr, peer(1));
        assert_eq!(outcome.envelope, syn("mesh"));
    }

    #[tokio::test]
    async fn a_message_that_cannot_be_decoded_is_counted_and_the_next_one_keeps_its_sender() {
        let (mut shim, (deliver, mut sent), counters) = shim(8).await;
        shim.send(peer(2), syn("mesh")).await.unwrap();
        let (_, good) = sent.recv().await.unwrap();
        for junk in [&b"junk"[..], b"", &[0xff; 9_000], &[0; 70_000]] {
            deliver.send((peer(9), Bytes::copy_from_slice(junk))).await.unwrap();
            deliver.send((peer(1), good.clone())).await.unwrap();
            assert_eq!(shim.recv().await.unwrap().from_addr, peer(1));
        }
        assert_eq!(counters.malformed.load(Relaxed), 4);
    }

    #[tokio::test]
    async fn a_receive_cancelled_at_any_point_loses_nothing() {
        let (mut shim, (deliver, mut sent), _) = shim(8).await;
        shim.send(peer(2), syn("mesh")).await.unwrap();
        let (_, good) = sent.recv().await.unwrap();
        for n in 1..=50 {
            deliver.send((peer(n), good.clone())).await.unwrap();
        }
        for n in 1..=50 {
            // Cancel at its first wait, as a gossip tick may, until something is there.
            let outcome = loop {
                tokio::select! { biased;
                    outcome = shim.recv() => break outcome.unwrap(),
                    () = tokio::task::yield_now() => {}
                }
            };
            assert_eq!(outcome.from_addr, peer(n));
        }
    }

    #[tokio::test]
    async fn another_process_cannot_inject_messages() {
        let (mut shim, (deliver, mut sent), counters) = shim(8).await;
        shim.send(peer(2), syn("mesh")).await.unwrap();
        let (_, good) = sent.recv().await.unwrap();
        let intruder = connected_to(shim.codec.local_addr().unwrap()).unwrap();
        shim.send(peer(2), syn("evil")).await.unwrap();
        let (_, evil) = sent.recv().await.unwrap();
        intruder.send(&evil).unwrap();
        deliver.send((peer(1), good)).await.unwrap();
        assert_eq!(shim.recv().await.unwrap().envelope, syn("mesh"));
        assert_eq!(counters.malformed.load(Relaxed), 0);
    }

    #[tokio::test]
    async fn a_full_queue_drops_and_counts_instead_of_waiting() {
        let (mut shim, _ends, counters) = shim(1).await;
        for _ in 0..3 {
            shim.send(peer(2), syn("mesh")).await.unwrap();
        }
        assert_eq!(counters.queue_full.load(Relaxed), 2);
    }

    #[tokio::test]
    async fn a_digest_too_large_for_one_message_raises_the_digest_size() {
        let (mut shim, _ends, counters) = shim(1).await;
        let noise: String = (0..70_000u32).map(|n| char::from(b'a' + (n % 26) as u8)).collect();
        assert!(shim.send(peer(2), syn(&noise)).await.is_err());
        assert_eq!(counters.unsendable.load(Relaxed), 1);
        assert_eq!(counters.digest_bytes.load(Relaxed), MAX_MESSAGE_LEN as u64);
    }

    #[tokio::test]
    async fn a_closed_transport_ends_gossip() {
        let (mut shim, (deliver, _sent), _) = shim(1).await;
        drop(deliver);
        assert!(shim.recv().await.is_err());
    }
}
