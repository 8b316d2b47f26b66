//! What one worker thread owns. Shared among its tasks by `Rc`, never with another thread.

use std::{
    cell::{Cell, RefCell},
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures_util::FutureExt;
use hyper::rt::Executor;
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tokio_util::{
    sync::{CancellationToken, WaitForCancellationFutureOwned},
    task::TaskTracker,
};
use weft_policy::{access_log::Entry, telemetry::Signals, trace::Tail};

use crate::{
    access_log::{AccessLog, Handed, WorkerLog},
    admission::Handshakes,
    body::Upstream,
    config::Limits,
    connection::Connections,
    decisions::{Decisions, WorkerDecisions},
    elsewhere::Elsewhere,
    error::ProxyError,
    metrics::{Counted, Metrics, Recorded, WorkerMetrics},
    original::Originals,
    overdue::Overdue,
    overload::Budget,
    pool::Pools,
    ports::{Identities, KeySets, Originations, SignalSink, VerdictSink, Views},
    recheck::{Guests, Stays},
    resolve,
    tap::Taps,
    tls::MeshTls,
};

/// How often idle connections are looked through: so much later than it should a connection may be closed.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// Of these looks, each so manyth lets go of series.
const FORGET_EVERY: u32 = 60;

/// Unix time in milliseconds.
pub(crate) fn unix_ms() -> u64 {
    let since = UNIX_EPOCH.elapsed().unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// What all workers share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) views: Views,
    pub(crate) identities: Identities,
    pub(crate) keys: KeySets,
    pub(crate) originations: Originations,
    pub(crate) tls: Arc<MeshTls>,
    pub(crate) metrics: Metrics,
    pub(crate) verdicts: Arc<dyn VerdictSink>,
    pub(crate) decisions: Decisions,
    pub(crate) access_log: AccessLog,
    pub(crate) signals: Arc<dyn SignalSink>,
    pub(crate) taps: Arc<Taps>,
    pub(crate) elsewhere: Arc<Elsewhere>,
    pub(crate) limits: Limits,
    pub(crate) budget: Budget,
}

pub(crate) struct Worker {
    pub(crate) views: Views,
    pub(crate) identities: Identities,
    pub(crate) keys: KeySets,
    pub(crate) decisions: WorkerDecisions,
    pub(crate) tls: Arc<MeshTls>,
    pub(crate) pools: Pools,
    pub(crate) originals: Originals,
    pub(crate) metrics: WorkerMetrics,
    pub(crate) verdicts: Arc<dyn VerdictSink>,
    pub(crate) access_log: WorkerLog,
    pub(crate) signals: Arc<dyn SignalSink>,
    pub(crate) taps: Arc<Taps>,
    pub(crate) elsewhere: Arc<Elsewhere>,
    /// Which spans are kept that were not sampled.
    pub(crate) tail: RefCell<Tail>,
    /// What the time was when that was looked at last: lines and spans need no look of their own.
    wall_clock: Cell<(Instant, SystemTime)>,
    pub(crate) limits: Limits,
    pub(crate) tasks: Tasks,
    pub(crate) connections: Connections,
    pub(crate) overdue: Overdue<Upstream>,
    pub(crate) guests: Guests,
    pub(crate) stays: Stays,
    pub(crate) handshakes: Handshakes,
    /// Requests are refused, since too much is held for slow peers.
    pub(crate) is_overloaded: Cell<bool>,
}

impl Worker {
    pub(crate) fn new(number: usize, shared: Shared, tasks: Tasks) -> Rc<Self> {
        let stays = Stays::new(shared.views.load());
        Rc::new(Self {
            pools: Pools::new(shared.tls.clone(), shared.identities.clone(), shared.originations, &shared.metrics),
            originals: Originals::new(resolve::host_resolver()),
            views: shared.views,
            identities: shared.identities,
            keys: shared.keys,
            decisions: shared.decisions.of_worker(number),
            tls: shared.tls,
            metrics: WorkerMetrics::new(shared.metrics),
            verdicts: shared.verdicts,
            access_log: WorkerLog::new(shared.access_log),
            signals: shared.signals,
            taps: shared.taps,
            elsewhere: shared.elsewhere,
            tail: RefCell::default(),
            wall_clock: Cell::new((Instant::now(), SystemTime::now())),
            limits: shared.limits,
            tasks,
            connections: Connections::default(),
            overdue: Overdue::default(),
            guests: Guests::default(),
            stays,
            handshakes: Handshakes::default(),
            is_overloaded: Cell::new(false),
        })
    }

    /// Closes idle connections, and lets go of what is kept of series that are used no more, for ever.
    pub(crate) async fn keep_house(&self) {
        let mut tick = tokio::time::interval(SWEEP_EVERY);
        for ticks in 1_u32.. {
            tick.tick().await;
            self.wall_clock.set((Instant::now(), SystemTime::now()));
            self.pools.sweep();
            if ticks.is_multiple_of(FORGET_EVERY) {
                self.metrics.forget_parties();
            }
        }
    }

    /// Milliseconds on the clock of endpoints' load counters.
    pub(crate) fn now_ms(&self) -> u64 {
        self.views.now_ms()
    }

    /// Milliseconds on that clock at some time.
    pub(crate) fn ms_at(&self, at: Instant) -> u64 {
        self.views.ms_at(at.into_std())
    }

    /// What the wall clock said at some time, as far as it was not set within the second before.
    pub(crate) fn wall_clock_at(&self, at: Instant) -> SystemTime {
        let (then, time) = self.wall_clock.get();
        match at.checked_duration_since(then) {
            Some(since) => time + since,
            None => time - then.duration_since(at),
        }
    }

    /// Nanoseconds on the same clock.
    pub(crate) fn now_ns(&self) -> u64 {
        self.views.elapsed().as_nanos() as u64
    }

    pub(crate) fn refuse_when_overloaded(&self) -> Result<(), ProxyError> {
        if self.is_overloaded.get() { Err(ProxyError::Overload) } else { Ok(()) }
    }

    /// Hands an entry to the thread that writes logs, which counts it too if it is given what to count.
    pub(crate) fn log(&self, entry: Arc<Entry>, signals: Arc<Signals>, counted: Option<Box<Counted>>) {
        let Err(Handed { signals, counted, .. }) = self.access_log.write(Handed { entry, signals, counted }) else {
            return;
        };
        if self.access_log.takes(&signals) {
            self.metrics.shared().count_dropped_log_lines(1);
        }
        // What is counted is never lost, only what its labels would have been.
        if let (Some(counted), Some(shape)) = (counted, signals.recorded()) {
            self.metrics.shared().count_cut_values(shape.recorded().len() as u64);
            self.metrics.count(&counted, Recorded::other(shape));
        }
    }
}

/// The worker's tasks, and the two phases in which they are asked to end.
pub(crate) struct Tasks {
    tracker: TaskTracker,
    /// Finish what you have.
    pub(crate) stop: CancellationToken,
    /// End now.
    pub(crate) cut: CancellationToken,
}

impl Tasks {
    pub(crate) fn new(stop: CancellationToken, cut: CancellationToken) -> Self {
        Self { tracker: TaskTracker::new(), stop, cut }
    }

    /// Runs a task that a drain waits for, until the cut.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.tracker.spawn_local(UntilCut { task, cut: self.cut.clone().cancelled_owned() });
    }

    /// Waits until all tasks have ended, by themselves or by the cut.
    pub(crate) async fn ended(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }
}

pin_project! {
    /// A task until the cut. By hand, because an async block holds what it captures twice: for a connection, 8 KiB.
    struct UntilCut<T> {
        #[pin]
        task: T,
        #[pin]
        cut: WaitForCancellationFutureOwned,
    }
}

impl<T: Future<Output = ()>> Future for UntilCut<T> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        match this.task.poll(cx) {
            Poll::Ready(()) => Poll::Ready(()),
            Poll::Pending => this.cut.poll(cx),
        }
    }
}

/// Lets hyper spawn its tasks on this thread.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LocalExecutor;

impl<F: Future + 'static> Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future.map(drop));
    }
}
