//! Runs the node's actors: restarts those that fail, finds those that are frozen, and stops them all in order.
//!
//! An actor is a plain tokio task with private state and a bounded inbox. The supervisor owns the inbox and a factory:
//! a crash rebuilds the state but keeps the queued messages and everyone's [`Mailbox`]; only the message that was
//! being handled is lost. An actor that goes on failing spends its budget, and then the node shall drain and end
//! rather than flap ([`Supervisor::given_up`]).

#[cfg(any(test, feature = "testing"))]
mod fault;
mod mailbox;
mod pulse;
mod restart;
#[cfg(test)]
mod tests;

use std::{
    any::Any,
    io,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use futures_util::FutureExt;
use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

#[cfg(any(test, feature = "testing"))]
pub use fault::Fault;
pub use mailbox::{Inbox, Mailbox};
pub use restart::RestartLimits;
use restart::{Next, RestartPolicy};

use pulse::{Pulse, Watched};

/// After its future was dropped, an actor that is still there blocks its thread; longer waiting would not help.
const CUT_WAIT: Duration = Duration::from_millis(500);

/// A part of the node that lives as long as the node.
///
/// `run` loops over [`Inbox::recv`], usually in a `select!` beside its timers, and returns when that gives `None`.
/// Returning earlier counts as a failure, like an error or a panic.
///
/// An actor must come back to `recv` within the freeze limit (10 s): whatever it does in between (setting up,
/// handling a message, a timer's arm) counts. Work that takes longer belongs in a task of its own, whose result comes
/// back as a message.
pub trait Actor: Send + 'static {
    type Msg: Send + 'static;

    fn run(self, inbox: &mut Inbox<Self::Msg>) -> impl Future<Output = anyhow::Result<()>> + Send;
}

/// When an actor is restarted, and when it counts as frozen.
#[derive(Clone, Debug)]
pub struct Limits {
    pub restart: RestartLimits,
    /// Longest time away from `recv`.
    pub freeze: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { restart: RestartLimits::default(), freeze: Duration::from_secs(10) }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ActorState {
    Running,
    /// Failed, and waits for its next start.
    Restarting,
    /// Was asked to stop, and did.
    Stopped,
    /// Failed too often, or holds a thread: the node drains.
    Failed,
}

impl std::fmt::Display for ActorState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Running => "running",
            Self::Restarting => "restarting",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
        })
    }
}

/// What `weft status` shows of an actor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ActorStatus {
    pub name: String,
    pub state: ActorState,
    /// When it came to this state, in seconds since 1970.
    pub since_unix_s: u64,
    pub restarts: u64,
    pub queue_depth: usize,
    pub queue_capacity: usize,
    /// Messages refused because the inbox was full.
    pub dropped: u64,
    pub last_error: Option<String>,
}

/// Why the node cannot go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GivenUp {
    pub actor: &'static str,
    pub why: String,
    /// The actor holds a thread of its runtime. Nothing that runs there (tasks, timers) can be relied upon any more,
    /// so the end of the process has to be enforced from outside of it.
    pub thread_blocked: bool,
}

/// What is known of one actor, shared by its task, its mailboxes and the supervisor.
#[derive(Debug)]
struct Cell {
    name: &'static str,
    /// Phase one: finish the queue and stop.
    stop: CancellationToken,
    /// Phase two: the future is dropped wherever it is.
    cut: CancellationToken,
    pulse: Pulse,
    dropped: AtomicU64,
    record: Mutex<Record>,
    #[cfg(any(test, feature = "testing"))]
    faults: fault::Faults,
}

#[derive(Debug)]
struct Record {
    state: ActorState,
    since_unix_s: u64,
    restarts: u64,
    last_error: Option<String>,
}

impl Cell {
    fn new(name: &'static str) -> Self {
        Self {
            name,
            stop: CancellationToken::new(),
            cut: CancellationToken::new(),
            pulse: Pulse::new(),
            dropped: AtomicU64::new(0),
            record: Mutex::new(Record {
                state: ActorState::Running,
                since_unix_s: unix_s(),
                restarts: 0,
                last_error: None,
            }),
            #[cfg(any(test, feature = "testing"))]
            faults: fault::Faults::default(),
        }
    }

    fn enter(&self, state: ActorState) {
        let mut record = self.record.lock();
        record.state = state;
        record.since_unix_s = unix_s();
    }
}

/// An actor as the supervisor holds it.
struct Supervised {
    cell: Arc<Cell>,
    /// The messages that wait and the places there are. Holds a sender, so that no inbox closes before it is asked to.
    queue: Box<dyn Fn() -> (usize, usize) + Send + Sync>,
    /// `None` once a shutdown waits for it.
    task: Option<JoinHandle<()>>,
}

struct Inner {
    limits: Limits,
    /// In the order in which they were spawned.
    actors: Mutex<Vec<Supervised>>,
    given_up: watch::Sender<Option<GivenUp>>,
}

impl Inner {
    /// Only the first reason is kept: later ones are its consequences.
    fn give_up(&self, cell: &Cell, why: &str, thread_blocked: bool) {
        self.given_up.send_if_modified(|given_up| {
            if given_up.is_some() {
                return false;
            }
            // Before anybody is told, so that who is told finds the actor failed.
            tracing::error!(actor = cell.name, "actor {why}: the node gives up");
            cell.record.lock().last_error = Some(why.to_owned());
            cell.enter(ActorState::Failed);
            *given_up = Some(GivenUp { actor: cell.name, why: why.to_owned(), thread_blocked });
            true
        });
    }
}

/// How one run of an actor ended.
enum Exit {
    Returned(anyhow::Result<()>),
    Panicked(String),
    Frozen,
    Cut,
}

/// The inbox of an actor that has not started yet.
pub struct Opened<M> {
    inbox: Inbox<M>,
    tx: mpsc::Sender<M>,
}

/// Starts actors and answers for them. Cheap to clone.
#[derive(Clone)]
pub struct Supervisor(Arc<Inner>);

impl Supervisor {
    /// Makes a supervisor without actors, and the thread that watches them.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn new(limits: Limits) -> io::Result<Self> {
        let freeze = limits.freeze;
        let inner = Arc::new(Inner { limits, actors: Mutex::new(Vec::new()), given_up: watch::channel(None).0 });
        let watched = Arc::downgrade(&inner);
        std::thread::Builder::new().name("weft-watchdog".into()).spawn(move || pulse::watch(&watched, freeze))?;
        Ok(Self(inner))
    }

    /// Opens an actor's inbox, for `capacity` messages, before the actor runs: actors that know each other take each
    /// other's mailboxes first and start then.
    pub fn open<M: Send + 'static>(&self, name: &'static str, capacity: usize) -> (Mailbox<M>, Opened<M>) {
        let (tx, rx) = mpsc::channel(capacity);
        let cell = Arc::new(Cell::new(name));
        (Mailbox::new(tx.clone(), cell.clone()), Opened { inbox: Inbox::new(rx, cell), tx })
    }

    /// Starts an actor on the current runtime. The factory makes each instance, in the actor's task; what it has to
    /// await belongs at the start of `run`.
    pub fn start<A: Actor>(&self, opened: Opened<A::Msg>, factory: impl FnMut() -> anyhow::Result<A> + Send + 'static) {
        let Opened { inbox, tx } = opened;
        let cell = inbox.cell();
        let run = supervise(self.0.clone(), cell.clone(), inbox, factory);
        let task = tokio::spawn(run.instrument(tracing::info_span!("actor", name = cell.name)));
        let queue = Box::new(move || (tx.max_capacity() - tx.capacity(), tx.max_capacity()));
        self.0.actors.lock().push(Supervised { cell, queue, task: Some(task) });
    }

    /// Every actor, in the order of their start.
    pub fn status(&self) -> Vec<ActorStatus> {
        let actors = self.0.actors.lock();
        actors
            .iter()
            .map(|Supervised { cell, queue, .. }| {
                let (queue_depth, queue_capacity) = queue();
                let record = cell.record.lock();
                ActorStatus {
                    name: cell.name.to_owned(),
                    state: record.state,
                    since_unix_s: record.since_unix_s,
                    restarts: record.restarts,
                    queue_depth,
                    queue_capacity,
                    dropped: cell.dropped.load(Relaxed),
                    last_error: record.last_error.clone(),
                }
            })
            .collect()
    }

    /// Resolves when an actor has spent its restarts or holds a thread, never otherwise. Await it from `main`'s
    /// `block_on`, not from a task: a blocked thread may be the one that the task would need.
    pub fn given_up(&self) -> impl Future<Output = GivenUp> + Send + use<> {
        let mut given_up = self.0.given_up.subscribe();
        async move {
            // An error means that the supervisor and all actors are gone, so nobody is left to give up.
            match given_up.wait_for(Option::is_some).await.ok().and_then(|given_up| given_up.clone()) {
                Some(given_up) => given_up,
                None => std::future::pending().await,
            }
        }
    }

    /// Stops the actors, the last started first: an actor may use those from before it to its end. Each lets nothing
    /// new in and finishes its queue; what is left after `deadline` (over all of them) is cut. Returns the names of
    /// those that had to be.
    pub async fn shutdown(&self, deadline: Duration) -> Vec<&'static str> {
        let until = Instant::now() + deadline;
        let tasks: Vec<_> = {
            let mut actors = self.0.actors.lock();
            actors.iter_mut().filter_map(|actor| Some((actor.cell.clone(), actor.task.take()?))).collect()
        };
        let mut cut = Vec::new();
        for (cell, mut task) in tasks.into_iter().rev() {
            cell.stop.cancel();
            if timeout_at(until, &mut task).await.is_err() {
                cut.push(cell.name);
                cell.cut.cancel();
                if timeout(CUT_WAIT, task).await.is_err() {
                    tracing::error!(actor = cell.name, "actor blocks its thread and cannot be stopped");
                }
            }
        }
        cut
    }

    /// Makes an actor fail at its next turn. False if there is none of that name.
    #[cfg(any(test, feature = "testing"))]
    pub fn inject(&self, name: &str, fault: Fault) -> bool {
        let actors = self.0.actors.lock();
        let found = actors.iter().find(|actor| actor.cell.name == name);
        found.inspect(|actor| actor.cell.faults.inject(fault)).is_some()
    }
}

/// The life of one actor: instance after instance, until it has stopped or failed for good.
async fn supervise<A: Actor>(
    inner: Arc<Inner>,
    cell: Arc<Cell>,
    mut inbox: Inbox<A::Msg>,
    mut factory: impl FnMut() -> anyhow::Result<A> + Send + 'static,
) {
    let mut policy = RestartPolicy::new(inner.limits.restart.clone());
    loop {
        cell.enter(ActorState::Running);
        let started = Instant::now();
        let error = match run_once(&cell, &mut inbox, &mut factory).await {
            Exit::Cut => return cell.enter(ActorState::Stopped),
            Exit::Returned(Ok(())) if cell.stop.is_cancelled() => return cell.enter(ActorState::Stopped),
            Exit::Returned(Ok(())) => "returned without being asked to stop".to_owned(),
            Exit::Returned(Err(error)) => format!("{error:#}"),
            Exit::Panicked(message) => format!("panicked: {message}"),
            Exit::Frozen => format!("was frozen for {:?}", inner.limits.freeze),
        };
        cell.record.lock().last_error = Some(error.clone());
        let now = Instant::now();
        match policy.next(now - started, now.into_std(), rand::random()) {
            Next::RestartAfter(delay) => {
                tracing::warn!(%error, ?delay, "actor failed and restarts");
                cell.enter(ActorState::Restarting);
                // When the node stops there is no time to wait, but messages that came before it are still handled.
                tokio::select! {
                    () = sleep(delay) => {}
                    () = cell.stop.cancelled() => {}
                    () = cell.cut.cancelled() => {}
                }
                if cell.cut.is_cancelled() || cell.stop.is_cancelled() && inbox.is_empty() {
                    return cell.enter(ActorState::Stopped);
                }
                cell.record.lock().restarts += 1;
            }
            Next::GiveUp => {
                inner.give_up(&cell, &format!("failed too often, at last: {error}"), false);
                return cell.enter(ActorState::Failed);
            }
        }
    }
}

/// Runs one instance to its end. Whatever way that is, its state is dropped and the inbox is free again.
async fn run_once<A: Actor>(
    cell: &Cell,
    inbox: &mut Inbox<A::Msg>,
    factory: &mut (impl FnMut() -> anyhow::Result<A> + Send),
) -> Exit {
    let exit = {
        // Unwind safe: an instance that panicked is dropped whole, and leaves the channel in the inbox as it is.
        let instance = AssertUnwindSafe(async { factory()?.run(inbox).await }).catch_unwind();
        let mut watched = Watched { pulse: &cell.pulse, future: Box::pin(instance) };
        tokio::select! {
            biased;
            () = cell.cut.cancelled() => Exit::Cut,
            () = cell.pulse.frozen() => Exit::Frozen,
            returned = &mut watched => match returned {
                Ok(result) => Exit::Returned(result),
                Err(payload) => Exit::Panicked(panic_message(payload.as_ref())),
            },
        }
    };
    cell.pulse.rest();
    #[cfg(any(test, feature = "testing"))]
    cell.faults.clear_freeze();
    exit
}

pub(crate) fn panic_message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a value that is no text".to_owned())
}

/// Wall-clock time for people to read; nothing is decided by it.
fn unix_s() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
