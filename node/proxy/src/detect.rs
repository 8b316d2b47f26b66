//! A port whose protocol nobody declared: an endpoint is dialled at once, and what either side says first tells what
//! is spoken. A client that begins like HTTP is served as HTTP: for it the connection that was dialled is closed unused,
//! and requests go the way that they go from listeners of HTTP. All others have their bytes carried, and no side
//! ever waits for the other one to speak.

use std::{future::Future, pin::pin, rc::Rc, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite},
    time::{Instant, timeout, timeout_at},
};
use weft_policy::learned::{Learned, Spoken};

use crate::{
    connection::Load,
    error::ProxyError,
    listener::{serve_http1, serve_http2},
    metrics::Parties,
    outbound::{Exchanges, Named, Outbound},
    prefixed::Prefixed,
    record::{Downstream, Line},
    sniff::{self, Begins, MAX_LEN},
    tcp::{Dialled, TcpRecord},
    worker::Worker,
};

/// Who speaks HTTP speaks at once. So much longer is it waited for where the port's servers are known to speak it, and
/// where there is no server to wait for.
const HEAD_START: Duration = Duration::from_secs(1);
/// For the first bytes of each side; more come where they are long.
const FIRST_BYTES: usize = 1_024;

/// A connection that has been accepted.
pub(crate) struct Begun {
    pub(crate) parties: Parties,
    pub(crate) line: Option<Box<Line>>,
    pub(crate) started: Instant,
    /// What came of dialling, where that is done.
    pub(crate) dialled: Option<Result<Dialled, ProxyError>>,
}

/// What a connection turned out to be.
enum Decided {
    Http(Version),
    /// With what the server has said.
    Bytes(Box<Dialled>, Vec<u8>),
    Failed(ProxyError),
    /// Nobody said anything for as long as a connection may be idle, or until the node stopped.
    Silent,
}

#[derive(Clone, Copy)]
enum Version {
    Http1,
    Http2,
}

/// The first bytes of a client.
struct Start {
    bytes: Vec<u8>,
    /// What they are, once it is known.
    begins: Option<Begins>,
    /// When the first of them came.
    at: Option<Instant>,
}

impl Start {
    /// Reads until it is known what they are; `None` is anything but HTTP. They are no HTTP where nothing more comes
    /// for as long as a head may take. Nothing is lost if this is dropped.
    async fn read(&mut self, client: &mut (impl AsyncRead + Unpin), limit: Duration) -> Option<Version> {
        loop {
            match self.begins {
                Some(Begins::Http1) => return Some(Version::Http1),
                Some(Begins::Http2) => return Some(Version::Http2),
                Some(Begins::Tls | Begins::Other) => return None,
                None => {}
            }
            let room = MAX_LEN.saturating_sub(self.bytes.len()) as u64;
            let mut client = (&mut *client).take(room);
            let read = client.read_buf(&mut self.bytes);
            let read = match self.at {
                None => read.await,
                Some(at) => timeout_at(at + limit, read).await.unwrap_or(Ok(0)),
            };
            self.begins = match read {
                Ok(1..) => sniff::begins(&self.bytes),
                Ok(0) | Err(_) => Some(Begins::Other),
            };
            self.at.get_or_insert_with(Instant::now);
        }
    }
}

impl Outbound {
    /// Serves one connection to this listener's port. `on_http` is told of the client before it is served as HTTP.
    pub(crate) async fn serve_undeclared<C>(
        self: Rc<Self>,
        mut client: C,
        begun: Begun,
        downstream: Downstream,
        load: Rc<Load>,
        on_http: impl FnOnce(&C),
    ) where
        C: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let worker = self.worker.clone();
        let Begun { mut parties, mut line, started, dialled } = begun;
        let mut start = Start { bytes: Vec::with_capacity(FIRST_BYTES), begins: None, at: None };
        let decided = {
            let view = worker.views.load();
            let cluster = self.cluster(&view, Named::default());
            let (outbound, of_bytes, line) = (&self, &mut parties, line.as_deref_mut());
            // The view goes with it: a connection may be silent for long.
            let dial = async move {
                match dialled {
                    Some(dialled) => dialled,
                    None => outbound.dial(&view, Named::default(), downstream, of_bytes, line).await,
                }
            };
            let learned = cluster.as_ref().and_then(|cluster| cluster.learned());
            decide(&worker, learned, &mut client, &mut start, dial).await
        };
        match decided {
            Decided::Http(version) => {
                on_http(&client);
                let client = Prefixed::new(start.bytes, client);
                let service = Exchanges { outbound: self, downstream, load: load.clone() };
                match version {
                    Version::Http1 => serve_http1(client, service, &worker, load, worker.limits.idle_timeout).await,
                    Version::Http2 => serve_http2(client, service, &worker, load, true).await,
                }
            }
            Decided::Bytes(dialled, said) => {
                let Dialled { stream, active: _active, guest, lifetime } = *dialled;
                if let (Some(line), Some(Begins::Tls)) = (&mut line, start.begins)
                    && let Some(server_name) = sniff::server_name(&start.bytes)
                {
                    line.server_name(&*server_name);
                }
                let record = TcpRecord::opened(&worker, &parties, line, started);
                let (client, upstream) = (Prefixed::new(start.bytes, client), Prefixed::new(said, stream));
                record.splice(client, upstream, guest.as_deref(), lifetime).await;
            }
            Decided::Failed(error) => self.turn_away(client, &parties, &error, line, started).await,
            Decided::Silent => {}
        }
    }
}

async fn decide(
    worker: &Worker,
    learned: Option<&Learned>,
    client: &mut (impl AsyncRead + Unpin),
    start: &mut Start,
    dial: impl Future<Output = Result<Dialled, ProxyError>>,
) -> Decided {
    let limit = worker.limits.head_timeout;
    let mut dial = pin!(dial);
    match learned.and_then(|learned| learned.known(worker.now_ms())) {
        None => {}
        Some(Spoken::ServerFirst) => {
            return dial.await.map_or_else(Decided::Failed, |dialled| Decided::Bytes(Box::new(dialled), Vec::new()));
        }
        Some(Spoken::Http) => {
            if let Some(version) = at_once(start.read(client, limit)).await {
                return Decided::Http(version);
            }
        }
    }
    let dialled = tokio::select! {
        biased;
        version = start.read(client, limit) => match version {
            Some(version) => return Decided::Http(version),
            None => dial.await,
        },
        dialled = &mut dial => dialled,
    };
    let mut dialled = match dialled {
        Ok(dialled) => dialled,
        // A server that lets no connection in may let requests in; and who sends some is told why not.
        Err(error) => {
            return at_once(start.read(client, limit)).await.map_or(Decided::Failed(error), Decided::Http);
        }
    };
    let mut said = Vec::with_capacity(FIRST_BYTES);
    let lifetime = dialled.lifetime;
    tokio::select! {
        biased;
        read = dialled.stream.read_buf(&mut said) => match (read, learned) {
            (Ok(1..), Some(learned)) => learned.hear(Spoken::ServerFirst, worker.now_ms()),
            (Ok(1..), None) => {}
            // The other node's proxy may let requests in where it lets no connection in.
            (Ok(0) | Err(_), _) => {
                if let Some(version) = at_once(start.read(client, limit)).await {
                    return Decided::Http(version);
                }
            }
        },
        version = start.read(client, limit) => {
            if let Some(version) = version {
                return Decided::Http(version);
            }
        }
        () = lifetime.over(|| 0) => return Decided::Silent,
        () = worker.tasks.stop.cancelled() => return Decided::Silent,
    }
    Decided::Bytes(Box::new(dialled), said)
}

async fn at_once(read: impl Future<Output = Option<Version>>) -> Option<Version> {
    timeout(HEAD_START, read).await.ok().flatten()
}
