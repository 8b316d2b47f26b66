use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::SeqCst};

use anyhow::bail;
use tokio::sync::oneshot;

use super::mailbox::MailboxError;
use super::*;

/// What the test actor is told to do.
enum Order {
    Count,
    Total(oneshot::Sender<u32>),
    Panic,
    Fail,
    Return,
    /// Awaits for ever.
    Hang,
    /// Blocks the thread until this says go on.
    Block(std::sync::mpsc::Receiver<()>),
    Wait(oneshot::Receiver<()>),
}

/// Counts in memory that outlives its instances.
struct Counter(Arc<AtomicU32>);

impl Actor for Counter {
    type Msg = Order;

    async fn run(self, inbox: &mut Inbox<Order>) -> anyhow::Result<()> {
        while let Some(order) = inbox.recv().await {
            match order {
                Order::Count => _ = self.0.fetch_add(1, SeqCst),
                Order::Total(reply) => _ = reply.send(self.0.load(SeqCst)),
                Order::Panic => panic!("told to panic"),
                Order::Fail => bail!("told to fail"),
                Order::Return => return Ok(()),
                Order::Hang => std::future::pending().await,
                Order::Block(until) => _ = until.recv(),
                Order::Wait(until) => _ = until.await,
            }
        }
        Ok(())
    }
}

fn counter(supervisor: &Supervisor, name: &'static str, capacity: usize) -> Mailbox<Order> {
    let total = Arc::new(AtomicU32::new(0));
    spawn(supervisor, name, capacity, move || Ok(Counter(total.clone())))
}

fn spawn<A: Actor>(
    supervisor: &Supervisor,
    name: &'static str,
    capacity: usize,
    factory: impl FnMut() -> anyhow::Result<A> + Send + 'static,
) -> Mailbox<A::Msg> {
    let (mailbox, opened) = supervisor.open(name, capacity);
    supervisor.start(opened, factory);
    mailbox
}

fn supervisor() -> Supervisor {
    Supervisor::new(Limits::default()).unwrap()
}

/// A freeze limit that a test can wait for: the watchdog's time is not tokio's and cannot be paused.
fn impatient() -> Supervisor {
    Supervisor::new(Limits { freeze: Duration::from_millis(200), ..Limits::default() }).unwrap()
}

fn status(supervisor: &Supervisor) -> ActorStatus {
    supervisor.status().remove(0)
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let reached = async {
        while !condition() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(20), reached).await.unwrap_or_else(|_| panic!("never: {what}"));
}

#[tokio::test(start_paused = true)]
async fn a_crash_loses_the_message_being_handled_and_no_other() {
    for (crash, error) in [
        (Order::Panic, "panicked: told to panic"),
        (Order::Fail, "told to fail"),
        (Order::Return, "returned without being asked to stop"),
    ] {
        let supervisor = supervisor();
        let mailbox = counter(&supervisor, "counter", 8);
        for order in [Order::Count, crash, Order::Count, Order::Count] {
            mailbox.try_send(order).unwrap();
        }
        assert_eq!(mailbox.ask(Order::Total).await, Ok(3));
        let status = status(&supervisor);
        assert_eq!((status.state, status.restarts), (ActorState::Running, 1));
        assert_eq!(status.last_error.as_deref(), Some(error));
    }
}

#[tokio::test(start_paused = true)]
async fn a_failing_actor_waits_before_its_restart_and_says_so() {
    let supervisor = supervisor();
    let mailbox = counter(&supervisor, "counter", 8);
    mailbox.try_send(Order::Fail).unwrap();
    sleep(Duration::from_millis(49)).await;
    assert_eq!(status(&supervisor).state, ActorState::Restarting);
    sleep(Duration::from_millis(60)).await;
    assert_eq!(status(&supervisor).state, ActorState::Running);
}

#[tokio::test(start_paused = true)]
async fn an_actor_that_goes_on_failing_is_given_up_and_its_mailbox_says_so() {
    let supervisor = supervisor();
    let mailbox = spawn(&supervisor, "broken", 4, || -> anyhow::Result<Counter> { bail!("no disk") });
    let given_up = timeout(Duration::from_secs(60), supervisor.given_up()).await.unwrap();
    assert_eq!(given_up.actor, "broken");
    assert!(!given_up.thread_blocked && given_up.why.contains("no disk"), "{given_up:?}");
    let status = status(&supervisor);
    assert_eq!((status.state, status.restarts), (ActorState::Failed, 5));
    until("the inbox is gone", || mailbox.try_send(Order::Count).is_err()).await;
    let error = mailbox.ask(Order::Total).await.unwrap_err();
    assert_eq!(error.to_string(), "actor broken has stopped");
}

#[tokio::test(start_paused = true)]
async fn a_question_that_is_not_answered_ends_with_words_after_5_s() {
    let supervisor = supervisor();
    let mailbox = counter(&supervisor, "facts", 8);
    let (_go_on, wait) = oneshot::channel();
    mailbox.try_send(Order::Wait(wait)).unwrap();
    let started = Instant::now();
    let error = mailbox.ask(Order::Total).await.unwrap_err();
    assert_eq!(error.to_string(), "actor facts did not answer within 5 s");
    assert_eq!(started.elapsed().as_secs(), 5);
}

#[tokio::test(start_paused = true)]
async fn who_asks_for_an_outcome_waits_longer_than_a_slow_disk_takes() {
    let supervisor = supervisor();
    let mailbox = counter(&supervisor, "documents", 8);
    let (go_on, wait) = oneshot::channel();
    mailbox.try_send(Order::Wait(wait)).unwrap();
    tokio::spawn(async move {
        sleep(Duration::from_secs(8)).await;
        drop(go_on);
    });
    let started = Instant::now();
    mailbox.ask_outcome(Order::Total).await.unwrap();
    assert_eq!(started.elapsed().as_secs(), 8);
}

#[tokio::test(start_paused = true)]
async fn a_question_that_dies_with_its_actor_is_told_so_at_once() {
    let supervisor = supervisor();
    let mailbox = counter(&supervisor, "facts", 8);
    let asked = tokio::spawn({
        let mailbox = mailbox.clone();
        async move { mailbox.ask(|_: oneshot::Sender<()>| Order::Panic).await }
    });
    assert_eq!(asked.await.unwrap(), Err(MailboxError::Failed { actor: "facts" }));
}

#[tokio::test(start_paused = true)]
async fn a_full_inbox_refuses_and_counts() {
    let supervisor = supervisor();
    let mailbox = counter(&supervisor, "counter", 2);
    let (go_on, wait) = oneshot::channel();
    mailbox.try_send(Order::Wait(wait)).unwrap();
    until("it waits", || status(&supervisor).queue_depth == 0).await;
    mailbox.try_send(Order::Count).unwrap();
    mailbox.try_send(Order::Count).unwrap();
    let full = MailboxError::Full { actor: "counter", capacity: 2 };
    assert_eq!(mailbox.try_send(Order::Count), Err(full.clone()));
    assert_eq!(mailbox.send(Order::Count).await, Err(full));
    let before = status(&supervisor);
    assert_eq!((before.queue_depth, before.queue_capacity, before.dropped), (2, 2, 2));
    go_on.send(()).unwrap();
    assert_eq!(mailbox.ask(Order::Total).await, Ok(2));
}

#[tokio::test]
async fn a_frozen_actor_is_restarted_and_goes_on_with_its_queue() {
    let supervisor = impatient();
    let mailbox = counter(&supervisor, "counter", 8);
    for order in [Order::Hang, Order::Count] {
        mailbox.try_send(order).unwrap();
    }
    assert_eq!(mailbox.ask(Order::Total).await, Ok(1));
    let status = status(&supervisor);
    assert_eq!(status.restarts, 1);
    assert_eq!(status.last_error.as_deref(), Some("was frozen for 200ms"));
}

#[tokio::test]
async fn an_idle_actor_with_a_timer_is_not_frozen_but_one_whose_timer_arm_hangs_is() {
    struct Ticking(Arc<AtomicUsize>);
    impl Actor for Ticking {
        type Msg = ();
        async fn run(self, inbox: &mut Inbox<()>) -> anyhow::Result<()> {
            let mut tick = tokio::time::interval(Duration::from_millis(10));
            loop {
                tokio::select! {
                    biased;
                    _ = tick.tick() => if self.0.fetch_add(1, SeqCst) == 100 { std::future::pending().await },
                    message = inbox.recv() => if message.is_none() { return Ok(()) },
                }
            }
        }
    }
    let supervisor = impatient();
    let ticks = Arc::new(AtomicUsize::new(0));
    spawn(&supervisor, "ticking", 1, {
        let ticks = ticks.clone();
        move || Ok(Ticking(ticks.clone()))
    });
    // 100 ticks are five freeze limits.
    until("it ticks", || ticks.load(SeqCst) >= 100).await;
    assert_eq!(status(&supervisor).restarts, 0);
    until("it was found frozen", || status(&supervisor).restarts == 1).await;
    until("it ticks again", || ticks.load(SeqCst) > 110).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_actor_that_blocks_the_only_worker_makes_the_node_give_up() {
    let supervisor = impatient();
    let mailbox = counter(&supervisor, "blocker", 8);
    let (go_on, block) = std::sync::mpsc::sync_channel(1);
    mailbox.try_send(Order::Block(block)).unwrap();
    // The body of the test is not on the worker. No tokio timer could guard this: the worker drives them.
    let given_up = supervisor.given_up().await;
    assert!(given_up.thread_blocked, "{given_up:?}");
    assert_eq!((given_up.actor, given_up.why.as_str()), ("blocker", "has blocked its thread for 200ms"));
    assert_eq!(status(&supervisor).state, ActorState::Failed);
    go_on.send(()).unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_injected_panic_strikes_an_idle_actor() {
    let supervisor = supervisor();
    let mailbox = counter(&supervisor, "counter", 8);
    mailbox.send(Order::Count).await.unwrap();
    assert_eq!(mailbox.ask(Order::Total).await, Ok(1));
    assert!(supervisor.inject("counter", Fault::Panic));
    assert!(!supervisor.inject("nobody", Fault::Panic));
    until("it restarted", || status(&supervisor).restarts == 1).await;
    assert_eq!(mailbox.ask(Order::Total).await, Ok(1));
}

#[tokio::test]
async fn an_injected_freeze_ends_with_the_instance() {
    let supervisor = impatient();
    let mailbox = counter(&supervisor, "counter", 8);
    supervisor.inject("counter", Fault::Freeze);
    mailbox.try_send(Order::Count).unwrap();
    until("it restarted", || status(&supervisor).restarts == 1).await;
    assert!(mailbox.ask(Order::Total).await.is_ok());
    assert_eq!(status(&supervisor).restarts, 1);
}

#[tokio::test(start_paused = true)]
async fn shutdown_lets_queues_run_empty_last_started_first() {
    /// Notes its end, and passes each message on to the actor before it.
    struct Relay(&'static str, Option<Mailbox<u32>>, Arc<Mutex<Vec<String>>>);
    impl Actor for Relay {
        type Msg = u32;
        async fn run(self, inbox: &mut Inbox<u32>) -> anyhow::Result<()> {
            while let Some(message) = inbox.recv().await {
                match &self.1 {
                    Some(next) => next.send(message).await?,
                    None => self.2.lock().push(message.to_string()),
                }
            }
            self.2.lock().push(self.0.to_owned());
            Ok(())
        }
    }
    let (supervisor, log) = (supervisor(), Arc::new(Mutex::new(Vec::new())));
    let relay = |name, next: Option<Mailbox<u32>>| {
        let log = log.clone();
        spawn(&supervisor, name, 8, move || Ok(Relay(name, next.clone(), log.clone())))
    };
    let first = relay("first", None);
    let second = relay("second", Some(first.clone()));
    for message in 1..=3 {
        second.try_send(message).unwrap();
    }
    assert_eq!(supervisor.shutdown(Duration::from_secs(1)).await, Vec::<&str>::new());
    assert!(supervisor.status().iter().all(|status| status.state == ActorState::Stopped));
    assert_eq!(second.try_send(4), Err(MailboxError::Stopped { actor: "second" }));
    let log = log.lock();
    assert_eq!(log.last().map(String::as_str), Some("first"));
    assert_eq!(log.iter().filter(|line| line.parse::<u32>().is_ok()).count(), 3);
}

#[tokio::test(start_paused = true)]
async fn shutdown_during_the_back_off_still_handles_what_was_queued() {
    let supervisor = supervisor();
    let total = Arc::new(AtomicU32::new(0));
    let mailbox = spawn(&supervisor, "counter", 8, {
        let total = total.clone();
        move || Ok(Counter(total.clone()))
    });
    mailbox.try_send(Order::Fail).unwrap();
    mailbox.try_send(Order::Count).unwrap();
    until("it waits for its restart", || status(&supervisor).state == ActorState::Restarting).await;
    assert!(supervisor.shutdown(Duration::from_secs(1)).await.is_empty());
    assert_eq!(total.load(SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn an_actor_that_does_not_stop_is_cut_at_the_deadline() {
    let supervisor = supervisor();
    let mailbox = counter(&supervisor, "stubborn", 8);
    mailbox.try_send(Order::Hang).unwrap();
    let started = Instant::now();
    assert_eq!(supervisor.shutdown(Duration::from_secs(3)).await, ["stubborn"]);
    assert_eq!(started.elapsed().as_secs(), 3);
    assert_eq!(status(&supervisor).state, ActorState::Stopped);
}
