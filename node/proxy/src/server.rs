//! Starting and ending the proxy. All sockets are bound before anything runs, so that a node which cannot have its
//! ports says so at once and serves nothing by halves.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    rc::Rc,
    sync::Arc,
    thread,
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    runtime::{Builder, Handle, LocalOptions},
    sync::oneshot,
};
use tokio_util::sync::CancellationToken;

use crate::{
    admission::Slots,
    config::{ListenerConfig, ListenerProtocol, ProxyConfig},
    decisions::Decisions,
    inbound, listener,
    metrics::Metrics,
    outbound::{Outbound, Target},
    overload::{self, Budget, Pressure},
    ports::{Identities, KeySets, Originations, VerdictSink, Views},
    recheck,
    tls::MeshTls,
    worker::{Shared, Tasks, Worker},
};

/// Connections that the kernel keeps for us until we accept them.
const BACKLOG: i32 = 1_024;
/// Turns of tasks after which a worker looks for events though more tasks wait: not sooner, so that what comes of one
/// look goes out together on the connections that requests share. Tokio's 61 are those of some fifteen requests.
const EVENT_INTERVAL: u32 = 512;

/// Why the proxy did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot listen on {address} ({what}): {source}")]
    Bind { what: &'static str, address: SocketAddr, source: io::Error },
    #[error("cannot set up TLS: {0}")]
    Tls(#[from] rustls::Error),
    #[error("cannot start a worker thread: {0}")]
    Thread(io::Error),
}

/// A proxy whose sockets listen, but which accepts nothing yet.
pub struct BoundProxy {
    shared: Shared,
    listeners: Vec<ListenerConfig>,
    /// The sockets of each worker.
    workers: Vec<Sockets>,
    slots: ListenerSlots,
    inbound: SocketAddr,
    outbound: SocketAddr,
}

/// Room for the connections of each listening address.
#[derive(Clone)]
struct ListenerSlots {
    inbound: Slots,
    outbound: Slots,
    /// In the order of [`BoundProxy::listeners`].
    listeners: Vec<Slots>,
}

impl ListenerSlots {
    fn new(connections: usize, listeners: usize) -> Self {
        let slots = || Slots::new(connections);
        let listeners = (0..listeners).map(|_| slots()).collect();
        Self { inbound: Slots::of_hosts(connections), outbound: slots(), listeners }
    }
}

struct Sockets {
    inbound: TcpListener,
    outbound: TcpListener,
    /// In the order of [`BoundProxy::listeners`].
    listeners: Vec<TcpListener>,
}

impl BoundProxy {
    /// Binds every address of the configuration; port 0 lets the system choose.
    pub fn bind(
        config: ProxyConfig,
        views: Views,
        identities: Identities,
        keys: KeySets,
        originations: Originations,
        metrics: Metrics,
        verdicts: Arc<dyn VerdictSink>,
    ) -> Result<Self, StartError> {
        let ProxyConfig { workers, inbound, outbound, mut listeners, access_log, signals, taps, elsewhere, limits } =
            config;
        let tls = Arc::new(MeshTls::new(views.clone(), identities.clone())?);
        let (inbound_sockets, inbound) = bind(workers.get(), inbound, "data from other nodes")?;
        let (outbound_sockets, outbound) = bind(workers.get(), outbound, "calls of local applications")?;
        let mut sockets: Vec<Sockets> = inbound_sockets
            .into_iter()
            .zip(outbound_sockets)
            .map(|(inbound, outbound)| Sockets { inbound, outbound, listeners: Vec::new() })
            .collect();
        for listener in &mut listeners {
            let (of_workers, address) = bind(workers.get(), listener.listen, "listeners:")?;
            listener.listen = address;
            for (worker, socket) in sockets.iter_mut().zip(of_workers) {
                worker.listeners.push(socket);
            }
        }
        let decisions = Decisions::new(workers);
        let budget = Budget::new(workers.get(), limits.held_bytes);
        let slots = ListenerSlots::new(limits.connections, listeners.len());
        let shared = Shared {
            views,
            identities,
            keys,
            originations,
            tls,
            metrics,
            verdicts,
            decisions,
            access_log,
            signals,
            taps,
            elsewhere,
            limits,
            budget,
        };
        Ok(Self { shared, listeners, workers: sockets, slots, inbound, outbound })
    }

    /// Where other nodes connect.
    pub fn inbound(&self) -> SocketAddr {
        self.inbound
    }

    /// Where local applications call from.
    pub fn outbound(&self) -> SocketAddr {
        self.outbound
    }

    /// What workloads' policies have found against callers.
    pub fn decisions(&self) -> Decisions {
        self.shared.decisions.clone()
    }

    /// How near it is to what it may hold.
    pub fn pressure(&self) -> Pressure {
        Pressure { budget: self.shared.budget.clone(), slots: self.slots.inbound.clone() }
    }

    /// The configured listeners, with the ports that they got.
    pub fn listeners(&self) -> &[ListenerConfig] {
        &self.listeners
    }

    /// Starts the worker threads, and with them to accept.
    pub fn run(self) -> Result<RunningProxy, StartError> {
        let (stop, cut) = (CancellationToken::new(), CancellationToken::new());
        let mut running = RunningProxy { stop, cut, ended: Vec::with_capacity(self.workers.len()) };
        for (number, sockets) in self.workers.into_iter().enumerate() {
            let (shared, listeners, slots) = (self.shared.clone(), self.listeners.clone(), self.slots.clone());
            // Children, so that workers do not contend for one token's lock at each of their connections.
            let (stop, cut) = (running.stop.child_token(), running.cut.child_token());
            let (started, has_started) = std::sync::mpsc::sync_channel(1);
            let (end, ended) = oneshot::channel();
            thread::Builder::new()
                .name(format!("weft-data-{number}"))
                .spawn(move || {
                    let worker = (number, shared, Tasks::new(stop, cut));
                    let started_up = run_worker(worker, sockets, listeners, slots, &started);
                    if let Err(error) = started_up {
                        let _ = started.send(Err(error));
                    }
                    let _ = end.send(());
                })
                .map_err(StartError::Thread)?;
            has_started.recv().unwrap_or_else(|gone| Err(io::Error::other(gone))).map_err(StartError::Thread)?;
            running.ended.push(ended);
        }
        Ok(running)
    }
}

fn run_worker(
    (number, shared, tasks): (usize, Shared, Tasks),
    sockets: Sockets,
    listeners: Vec<ListenerConfig>,
    slots: ListenerSlots,
    started: &std::sync::mpsc::SyncSender<io::Result<()>>,
) -> io::Result<()> {
    let runtime = Builder::new_current_thread()
        .event_interval(EVENT_INTERVAL)
        .enable_io()
        .enable_time()
        .build_local(LocalOptions::default())?;
    runtime.block_on(async move {
        let budget = shared.budget.clone();
        shared.metrics.add_runtime(format!("worker-{number}"), Handle::current().metrics());
        let worker = Worker::new(number, shared, tasks);
        let inbound = tokio::net::TcpListener::from_std(sockets.inbound)?;
        let outbound = tokio::net::TcpListener::from_std(sockets.outbound)?;
        let others = sockets.listeners.into_iter().map(tokio::net::TcpListener::from_std);
        let others = others.collect::<io::Result<Vec<_>>>()?;

        let of_inbound = worker.clone();
        worker.tasks.spawn(listener::accept(
            inbound,
            worker.clone(),
            slots.inbound,
            move |stream, downstream, load| inbound::serve(of_inbound.clone(), stream, downstream, load),
        ));
        let named = Rc::new(Outbound { worker: worker.clone(), target: Target::Named, source: None });
        worker.tasks.spawn(listener::accept(
            outbound,
            worker.clone(),
            slots.outbound,
            move |stream, downstream, load| named.clone().serve_http(stream, downstream, load),
        ));
        for ((socket, config), slots) in others.into_iter().zip(listeners).zip(slots.listeners) {
            let target = Target::Fixed { host: config.service.to_string().into(), port: config.port };
            let fixed = Rc::new(Outbound { worker: worker.clone(), target, source: config.source });
            match config.protocol {
                ListenerProtocol::Auto => {
                    worker.tasks.spawn(listener::accept(
                        socket,
                        worker.clone(),
                        slots,
                        move |stream, downstream, load| fixed.clone().serve_any(stream, downstream, load),
                    ));
                }
                ListenerProtocol::Http => {
                    worker.tasks.spawn(listener::accept(
                        socket,
                        worker.clone(),
                        slots,
                        move |stream, downstream, load| fixed.clone().serve_http(stream, downstream, load),
                    ));
                }
                ListenerProtocol::Tcp => {
                    worker.tasks.spawn(listener::accept(
                        socket,
                        worker.clone(),
                        slots,
                        move |stream, downstream, _| fixed.clone().serve_tcp(stream, downstream),
                    ));
                }
            }
        }
        tokio::task::spawn_local(overload::watch(worker.clone(), budget, number));
        tokio::task::spawn_local(recheck::follow_views(worker.clone()));
        tokio::task::spawn_local(recheck::follow_revocations(worker.clone()));
        let of_house = worker.clone();
        tokio::task::spawn_local(async move { of_house.keep_house().await });
        let of_log = worker.clone();
        tokio::task::spawn_local(async move { of_log.access_log.keep_going().await });
        let _ = started.send(Ok(()));
        worker.tasks.stop.cancelled().await;
        worker.tasks.ended().await;
        Ok(())
    })
}

/// A proxy at work. Dropping it cuts every connection; [`RunningProxy::drain`] ends it well.
pub struct RunningProxy {
    stop: CancellationToken,
    cut: CancellationToken,
    ended: Vec<oneshot::Receiver<()>>,
}

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// Every exchange came to its end.
    Complete,
    /// The deadline passed first; what was left was cut.
    Cut,
}

impl RunningProxy {
    /// Stops accepting, tells kept-alive connections to go, waits for open exchanges, and cuts what is left after
    /// `deadline`.
    pub async fn drain(mut self, deadline: Duration) -> Drained {
        self.stop.cancel();
        let mut all_ended = std::pin::pin!(futures_util::future::join_all(std::mem::take(&mut self.ended)));
        if tokio::time::timeout(deadline, all_ended.as_mut()).await.is_ok() {
            return Drained::Complete;
        }
        self.cut.cancel();
        all_ended.await;
        Drained::Cut
    }
}

impl Drop for RunningProxy {
    fn drop(&mut self) {
        self.stop.cancel();
        self.cut.cancel();
    }
}

/// One listening socket per worker at the same address, and the address.
fn bind(workers: usize, address: SocketAddr, what: &'static str) -> Result<(Vec<TcpListener>, SocketAddr), StartError> {
    let failed = |source| StartError::Bind { what, address, source };
    let share = workers > 1;
    if share && address.port() != 0 {
        // With SO_REUSEPORT a second weft would share the port silently; without, the system refuses it.
        socket(address, false).map_err(failed)?;
    }
    let first = listen(address, share).map_err(failed)?;
    let bound = first.local_addr().map_err(failed)?;
    let mut sockets = vec![first];
    for _ in 1..workers {
        sockets.push(listen(bound, share).map_err(failed)?);
    }
    Ok((sockets, bound))
}

fn listen(address: SocketAddr, share: bool) -> io::Result<TcpListener> {
    let socket = socket(address, share)?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

fn socket(address: SocketAddr, share: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(share)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_share_a_port_among_themselves_and_with_nobody_else() {
        let (sockets, address) = bind(3, "127.0.0.1:0".parse().unwrap(), "test").unwrap();
        assert!(sockets.iter().all(|socket| socket.local_addr().unwrap() == address));
        for workers in [1, 3] {
            let refused = bind(workers, address, "test").unwrap_err().to_string();
            assert!(refused.starts_with(&format!("cannot listen on {address} (test)")), "{refused}");
        }
    }
}
