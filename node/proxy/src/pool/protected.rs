//! TLS connections to servers. One with another node ends at once when the node's certificate is revoked, whatever is on
//! it.

use std::{
    cell::RefCell,
    io,
    pin::Pin,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use futures_util::task::AtomicWaker;
use rustls_pki_types::UnixTime;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::client::TlsStream;
use weft_ca::revocation::Revocations;

use crate::{ports::Identities, tls::Peer};

/// The bytes of a TLS connection.
pub(crate) struct Protected {
    stream: TlsStream<TcpStream>,
    /// The other node; `None` for a place outside of the mesh.
    server: Option<Arc<Server>>,
}

/// A node at the other end of a connection.
struct Server {
    peer: Arc<Peer>,
    is_cut: AtomicBool,
    /// Who waits for what it sends.
    reader: AtomicWaker,
}

/// The certificate of the server was revoked.
#[derive(Debug, thiserror::Error)]
#[error("the server's certificate was revoked")]
struct CutOff;

impl Protected {
    pub(super) fn outside(stream: TlsStream<TcpStream>) -> Self {
        Self { stream, server: None }
    }

    pub(super) fn tcp(&self) -> &TcpStream {
        self.stream.get_ref().0
    }

    pub(super) fn alpn(&self) -> Option<&[u8]> {
        self.stream.get_ref().1.alpn_protocol()
    }

    fn check(&self) -> io::Result<()> {
        match &self.server {
            Some(server) if server.is_cut.load(Ordering::Relaxed) => {
                Err(io::Error::new(io::ErrorKind::ConnectionAborted, CutOff))
            }
            _ => Ok(()),
        }
    }
}

impl AsyncRead for Protected {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.check()?;
        let read = Pin::new(&mut this.stream).poll_read(cx, buf);
        if read.is_pending()
            && let Some(server) = &this.server
        {
            server.reader.register(cx.waker());
            // It may have been cut in between.
            this.check()?;
        }
        read
    }
}

impl AsyncWrite for Protected {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.check()?;
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check()?;
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// The nodes to which a worker has connections.
pub(super) struct Servers {
    identities: Identities,
    all: RefCell<Vec<Weak<Server>>>,
}

impl Servers {
    pub(super) fn new(identities: Identities) -> Self {
        Self { identities, all: RefCell::default() }
    }

    /// The connection whose handshake has proved who the server is.
    pub(super) fn protect(&self, stream: TlsStream<TcpStream>, peer: Arc<Peer>) -> Protected {
        // It may have been revoked since the handshake began.
        let is_cut = peer.is_revoked(&self.identities.load().revocations, UnixTime::now());
        let server = Arc::new(Server { peer, is_cut: is_cut.into(), reader: AtomicWaker::new() });
        let mut all = self.all.borrow_mut();
        // Where the list would grow, those that are gone go first.
        if all.len() == all.capacity() {
            all.retain(|known| known.strong_count() > 0);
        }
        all.push(Arc::downgrade(&server));
        Protected { stream, server: Some(server) }
    }

    /// Ends the connections with servers whose certificates hold no more, and returns how many these were.
    pub(super) fn cut_revoked(&self, revocations: &Revocations, now: UnixTime) -> usize {
        let mut cut = 0;
        self.all.borrow_mut().retain(|server| {
            let Some(server) = server.upgrade() else { return false };
            let holds = !server.peer.is_revoked(revocations, now);
            if !holds {
                cut += 1;
                server.is_cut.store(true, Ordering::Relaxed);
                server.reader.wake();
            }
            holds
        });
        cut
    }
}
