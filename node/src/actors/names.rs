//! The `names` actor: looks up the names that hosts outside of the mesh are served under, and keeps their addresses
//! fresh. Requests never wait for it: its last good answers are an input of the view.

use std::{
    collections::{BTreeSet, HashMap},
    convert::Infallible,
    io,
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use prometheus_client::metrics::counter::Counter;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, timeout},
};
use weft_policy::compile::ResolvedNames;
use weft_proxy::resolve::{Resolve, usable};

use super::refresh::{self, Refresh};
use crate::supervisor::{Actor, Inbox};

/// How old an answer may be before it is asked for again. The host's resolver tells no time to live.
const REFRESH_EVERY: Duration = Duration::from_secs(30);
/// The longest that a look-up may take.
const LIMIT: Duration = Duration::from_secs(10);
/// Look-ups under way at once. Each holds a thread of the runtime's pool for blocking work.
const AT_ONCE: usize = 8;

/// The names that the view needs, in lower case.
pub type Wanted = Arc<BTreeSet<String>>;

#[derive(Clone)]
pub struct Setup {
    pub wanted: watch::Receiver<Wanted>,
    pub resolve: Resolve,
    /// Outlives the actor, and with it what was found.
    pub found: Arc<watch::Sender<Arc<ResolvedNames>>>,
    pub failures: Counter,
}

pub struct NamesActor {
    setup: Setup,
    names: HashMap<String, Name>,
    lookups: JoinSet<(String, io::Result<Vec<IpAddr>>)>,
}

struct Name {
    /// The last good answer.
    addresses: Option<Arc<[IpAddr]>>,
    refresh: Refresh,
}

impl NamesActor {
    pub fn new(setup: Setup) -> Self {
        let known = setup.found.borrow().clone();
        let name = |addresses: &Arc<[IpAddr]>| Name {
            addresses: Some(addresses.clone()),
            refresh: Refresh::due(Instant::now()),
        };
        let names = known.iter().map(|(text, addresses)| (text.to_string(), name(addresses))).collect();
        Self { setup, names, lookups: JoinSet::new() }
    }

    fn follow_wanted(&mut self) {
        let wanted = self.setup.wanted.borrow_and_update().clone();
        self.names.retain(|name, _| wanted.contains(name));
        for name in wanted.iter() {
            let new = || Name { addresses: None, refresh: Refresh::due(Instant::now()) };
            self.names.entry(name.clone()).or_insert_with(new);
        }
        self.publish();
    }

    /// Publishes, if something has changed.
    fn publish(&self) {
        let known = self.names.iter().filter_map(|(name, one)| Some((name.as_str().into(), one.addresses.clone()?)));
        let known: ResolvedNames = known.collect();
        self.setup.found.send_if_modified(|found| {
            let has_changed = **found != known;
            if has_changed {
                *found = Arc::new(known);
            }
            has_changed
        });
    }

    fn ask_due(&mut self) {
        let now = Instant::now();
        let room = AT_ONCE.saturating_sub(self.lookups.len());
        let due = self.names.iter_mut().filter(|(_, name)| name.refresh.is_due(now));
        for (text, name) in due.take(room) {
            name.refresh.begin();
            let (text, asked) = (text.clone(), (self.setup.resolve)(text.clone()));
            self.lookups.spawn(async move {
                let found = timeout(LIMIT, asked).await;
                (text, found.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())))
            });
        }
    }

    fn on_answer(&mut self, text: &str, answer: io::Result<Vec<IpAddr>>) {
        let Some(name) = self.names.get_mut(text) else { return };
        let found = answer.and_then(|addresses| usable(&addresses));
        match found {
            Ok(addresses) => {
                name.addresses = Some(addresses.into());
                name.refresh.succeeded(Instant::now(), REFRESH_EVERY);
            }
            Err(error) => {
                self.setup.failures.inc();
                if let (true, _) = name.refresh.failed(Instant::now()) {
                    tracing::warn!(name = text, %error, "a name cannot be looked up: its last good addresses are kept");
                }
            }
        }
        self.publish();
    }

    /// When to ask next; never while as many as may be are asked for.
    fn next_lookup(&self) -> Option<Instant> {
        let has_room = self.lookups.len() < AT_ONCE;
        has_room.then(|| self.names.values().filter_map(|name| name.refresh.next()).min()).flatten()
    }
}

impl Actor for NamesActor {
    type Msg = Infallible;

    async fn run(mut self, inbox: &mut Inbox<Infallible>) -> anyhow::Result<()> {
        self.follow_wanted();
        loop {
            self.ask_due();
            let due = refresh::until(self.next_lookup());
            tokio::select! {
                biased;
                changed = self.setup.wanted.changed() => {
                    changed?;
                    self.follow_wanted();
                }
                Some(answer) = self.lookups.join_next() => {
                    let (name, answer) = answer?;
                    self.on_answer(&name, answer);
                }
                () = due => {}
                message = inbox.recv() => match message {
                    Some(never) => match never {},
                    None => return Ok(()),
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;
    use tokio::time::sleep;

    use super::*;
    use crate::supervisor::{Limits, Supervisor};

    /// Answers of a resolver, by name; a name without one fails.
    type Answers = Arc<Mutex<HashMap<String, Vec<IpAddr>>>>;

    struct Running {
        answers: Answers,
        wanted: watch::Sender<Wanted>,
        found: Arc<watch::Sender<Arc<ResolvedNames>>>,
        failures: Counter,
        most_at_once: Arc<Mutex<(usize, usize)>>,
        _supervisor: Supervisor,
    }

    fn start(names: &[&str]) -> Running {
        let answers = Answers::default();
        let most_at_once = Arc::new(Mutex::new((0, 0)));
        let (asked, counted) = (answers.clone(), most_at_once.clone());
        let resolve: Resolve = Arc::new(move |name| {
            let (asked, counted) = (asked.clone(), counted.clone());
            Box::pin(async move {
                {
                    let mut counted = counted.lock();
                    counted.0 += 1;
                    counted.1 = counted.1.max(counted.0);
                }
                sleep(Duration::from_millis(100)).await;
                counted.lock().0 -= 1;
                asked.lock().get(&name).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
            })
        });
        let (wanted, receiver) = watch::channel(wanted(names));
        let found = Arc::new(watch::channel(Arc::default()).0);
        let failures = Counter::default();
        let setup = Setup { wanted: receiver, resolve, found: found.clone(), failures: failures.clone() };
        let supervisor = Supervisor::new(Limits::default()).unwrap();
        let (_mailbox, opened) = supervisor.open("names", 1);
        supervisor.start(opened, move || Ok(NamesActor::new(setup.clone())));
        Running { answers, wanted, found, failures, most_at_once, _supervisor: supervisor }
    }

    fn wanted(names: &[&str]) -> Wanted {
        Arc::new(names.iter().map(|name| (*name).to_owned()).collect())
    }

    fn ip(last: u8) -> IpAddr {
        [10, 9, 0, last].into()
    }

    async fn becomes(running: &Running, name: &str, expected: Option<Vec<IpAddr>>) {
        let mut found = running.found.subscribe();
        let reached = found.wait_for(|found| found.get(name).map(|found| found.to_vec()) == expected);
        let reached = timeout(Duration::from_secs(300), reached).await;
        assert!(reached.is_ok(), "{name}: {:?}", running.found.borrow());
    }

    #[tokio::test(start_paused = true)]
    async fn names_are_looked_up_refreshed_and_forgotten_when_nobody_wants_them() {
        let running = start(&["a.example"]);
        running.answers.lock().insert("a.example".into(), vec![ip(1)]);
        becomes(&running, "a.example", Some(vec![ip(1)])).await;
        running.answers.lock().insert("a.example".into(), vec![ip(2), ip(1)]);
        becomes(&running, "a.example", Some(vec![ip(2), ip(1)])).await;
        running.wanted.send_replace(wanted(&[]));
        becomes(&running, "a.example", None).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_keeps_the_last_good_answer_is_counted_and_tried_again() {
        let running = start(&["a.example"]);
        sleep(Duration::from_secs(5)).await;
        let before = running.failures.get();
        assert!((2..=4).contains(&before), "{before} tries within 5 s");
        running.answers.lock().insert("a.example".into(), vec![ip(1)]);
        becomes(&running, "a.example", Some(vec![ip(1)])).await;
        running.answers.lock().clear();
        sleep(Duration::from_secs(120)).await;
        assert!(running.failures.get() > before + 1);
        becomes(&running, "a.example", Some(vec![ip(1)])).await;
    }

    #[tokio::test(start_paused = true)]
    async fn few_names_are_looked_up_at_once() {
        let names: Vec<String> = (0..100).map(|i| format!("n{i}.example")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let running = start(&names);
        for name in &names {
            running.answers.lock().insert((*name).into(), vec![ip(1)]);
        }
        for name in &names {
            becomes(&running, name, Some(vec![ip(1)])).await;
        }
        assert_eq!(running.most_at_once.lock().1, AT_ONCE);
    }
}
