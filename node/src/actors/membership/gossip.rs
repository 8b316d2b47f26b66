//! Gossip, in a loop of its own beside the actor. A member can gossip what makes chitchat panic; that costs some
//! seconds of rumours then, and none of the restarts that the actor has.

use std::{
    collections::BTreeSet,
    convert::Infallible,
    net::SocketAddr,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use futures_util::FutureExt;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior, interval, sleep},
};
use tokio_util::task::AbortOnDropHandle;
use weft_discovery::membership::{DEFAULT_INTERVAL, MemberSet, Membership, Settings, Stall, Stats, Transport};
use weft_wire::{
    fact::FactVersion,
    id::{CellName, MeshId, NodeName},
};

use crate::{
    actors::links,
    events::Kind,
    supervisor::panic_message,
    telemetry::{Reason, Telemetry},
};

/// Messages of gossip that wait to be sent or handled.
const QUEUE: usize = 256;
/// How often linked peers are looked for that gossip does not hear.
const GREET_INTERVAL: Duration = Duration::from_millis(500);
/// Gossip that starts anew knows nobody at first: until so much later, what was known before may count instead.
const WARM_UP: Duration = Duration::from_secs(10);
const MIN_BACKOFF: Duration = Duration::from_millis(100);
const MAX_BACKOFF: Duration = Duration::from_secs(30);
/// Gossip that ran for so long starts anew with the shortest delay.
const STEADY: Duration = Duration::from_secs(60);
/// Gossip wants a generation that grows with each of its starts: the incarnation, which counts starts of the node, and
/// below it so many bits that count starts of gossip within one. Enough for years of nothing but failures.
const GENERATION_BITS: u32 = 24;

/// Where connections put the gossip they receive. The receiving end changes when gossip starts anew.
#[derive(Clone, Default)]
pub struct GossipInbox(Arc<ArcSwapOption<mpsc::Sender<(SocketAddr, Bytes)>>>);

impl GossipInbox {
    /// Hands a message over, or drops it: gossip bears loss.
    pub fn deliver(&self, from: SocketAddr, payload: Bytes, telemetry: &Telemetry) {
        let taken = self.0.load().as_ref().is_some_and(|inbox| inbox.try_send((from, payload)).is_ok());
        if !taken {
            telemetry.messages_dropped.get_or_create(&Reason { reason: "gossip_inbox_full" }).inc();
        }
    }
}

/// What stays the same over all lives of gossip.
#[derive(Clone)]
pub struct Setup {
    pub mesh: MeshId,
    pub cell: CellName,
    pub name: NodeName,
    pub incarnation: u64,
    pub advertise: SocketAddr,
    pub inbox: GossipInbox,
    /// Counts this process's starts of gossip, each of which needs a generation of its own.
    pub starts: Arc<AtomicU64>,
    pub stats: Arc<watch::Sender<Option<Stats>>>,
    pub links: links::Handle,
    pub table: Arc<links::LinkTable>,
    pub telemetry: Telemetry,
}

/// What this node tells all members of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct News {
    pub facts: FactVersion,
    pub documents: [u8; 16],
}

/// Gossip that runs until this is dropped.
pub struct Gossip {
    news: watch::Sender<News>,
    members: watch::Receiver<Arc<MemberSet>>,
    _lives: AbortOnDropHandle<()>,
}

impl Gossip {
    pub fn start(setup: Setup) -> Self {
        let (news, told) = watch::channel(News::default());
        let (publish, members) = watch::channel(Arc::default());
        let telemetry = setup.telemetry.clone();
        let lives = keep_alive(telemetry, move || live(setup.clone(), told.clone(), publish.clone()));
        Self { news, members, _lives: AbortOnDropHandle::new(tokio::spawn(lives)) }
    }

    /// All that gossip knows.
    pub fn members(&self) -> watch::Receiver<Arc<MemberSet>> {
        self.members.clone()
    }

    pub fn tell(&self, news: News) {
        self.news.send_if_modified(|told| std::mem::replace(told, news) != news);
    }
}

/// One life after the other, further and further apart while they are short.
async fn keep_alive<F>(telemetry: Telemetry, mut live: impl FnMut() -> F)
where
    F: Future<Output = anyhow::Result<Infallible>>,
{
    let mut backoff = MIN_BACKOFF;
    loop {
        let started = Instant::now();
        // Unwind safe: all that a life has for itself is dropped with it.
        let why = match AssertUnwindSafe(live()).catch_unwind().await {
            Ok(Ok(never)) => match never {},
            Ok(Err(error)) => format!("{error:#}"),
            Err(payload) => format!("panicked: {}", panic_message(payload.as_ref())),
        };
        telemetry.gossip_restarts.inc();
        if started.elapsed() >= STEADY {
            backoff = MIN_BACKOFF;
        }
        tracing::warn!(%why, ?backoff, "gossip failed and starts anew");
        sleep(backoff.mul_f64(0.5 + rand::random::<f64>() / 2.0)).await;
        backoff = (backoff * 2).min(MAX_BACKOFF);
    }
}

/// How gossip bears the size of the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Health {
    Good,
    /// Its digest is above half of what fits.
    Large,
    Stuck,
}

impl Health {
    fn of(stats: &Stats, is_stuck: bool) -> Self {
        match stats.digest_alarm {
            _ if is_stuck => Self::Stuck,
            true => Self::Large,
            false => Self::Good,
        }
    }

    /// Says what has changed.
    fn follow(self, now: Self, setup: &Setup) -> Self {
        if self == now {
            return now;
        }
        let what = match now {
            Self::Good => "gossip's digest is below half of what fits again",
            Self::Large => {
                "gossip's digest is above half of what fits: split the mesh before it has twice as many members; members \
                 that restarted or are gone count for some hours"
            }
            Self::Stuck => {
                "gossip is stuck, as its digest has outgrown one message: members are judged by links and by their own \
                 words alone, until some that are gone are forgotten"
            }
        };
        match now {
            Self::Good => tracing::info!("{what}"),
            Self::Large => tracing::warn!("{what}"),
            Self::Stuck => tracing::error!("{what}"),
        }
        setup.telemetry.events.say(Kind::Member, &setup.name, what);
        now
    }
}

/// Gossips until that fails.
async fn live(
    setup: Setup,
    mut told: watch::Receiver<News>,
    publish: watch::Sender<Arc<MemberSet>>,
) -> anyhow::Result<Infallible> {
    let membership = start(&setup).await?;
    let terminated = membership.terminated();
    tokio::pin!(terminated);
    let mut members = membership.watch();
    let started = Instant::now();
    told.mark_changed();
    let (mut stall, mut health) = (Stall::default(), Health::Good);
    let mut tick = interval(GREET_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            ended = &mut terminated => return Err(ended.into()),
            _ = tick.tick() => {
                let live = live_addresses(&members.borrow());
                let unheard = setup.table.here().into_iter().map(|link| link.address);
                unheard.filter(|address| !live.contains(address)).for_each(|address| membership.greet(address));
                let stats = membership.stats();
                let is_stuck = stall.look(stats.unsendable, Instant::now().into_std());
                health = health.follow(Health::of(&stats, is_stuck), &setup);
                setup.stats.send_replace(Some(stats));
            }
            changed = members.changed() => changed?,
            changed = told.changed() => {
                changed?;
                let News { facts, documents } = *told.borrow_and_update();
                if facts != FactVersion::default() {
                    membership.announce_facts(facts).await;
                }
                if documents != News::default().documents {
                    membership.announce_documents(documents).await;
                }
            }
        }
        // What was known before holds: links and the members' own words tell who lives.
        if health == Health::Stuck {
            continue;
        }
        let set = with_incarnations(&members.borrow_and_update());
        publish.send_if_modified(|published| {
            let modified = replaces(&set, published, started.elapsed());
            if modified {
                *published = Arc::new(set);
            }
            modified
        });
    }
}

async fn start(setup: &Setup) -> anyhow::Result<Membership> {
    let (outgoing, mut to_send) = mpsc::channel::<(SocketAddr, Bytes)>(QUEUE);
    let (deliver, incoming) = mpsc::channel(QUEUE);
    setup.inbox.0.store(Some(Arc::new(deliver)));
    let links = setup.links.clone();
    tokio::spawn(async move {
        while let Some((to, payload)) = to_send.recv().await {
            links.gossip(to, payload);
        }
    });
    let starts = setup.starts.fetch_add(1, Ordering::Relaxed).min((1 << GENERATION_BITS) - 1);
    let settings = Settings {
        mesh: setup.mesh,
        cell: setup.cell.clone(),
        name: setup.name.clone(),
        incarnation: (setup.incarnation << GENERATION_BITS) + starts,
        advertise: setup.advertise,
        interval: DEFAULT_INTERVAL,
    };
    Ok(Membership::start(settings, Transport { outgoing, incoming }).await?)
}

fn live_addresses(set: &MemberSet) -> BTreeSet<SocketAddr> {
    set.members.values().filter(|member| member.live).map(|member| member.address).collect()
}

/// Whether what gossip knows after it has run for so long counts more than what it knew before.
fn replaces(set: &MemberSet, before: &MemberSet, age: Duration) -> bool {
    set != before && (age >= WARM_UP || live_addresses(set).len() >= live_addresses(before).len())
}

/// Back from gossip's generations to incarnations.
fn with_incarnations(set: &MemberSet) -> MemberSet {
    let mut set = set.clone();
    set.members.values_mut().for_each(|member| member.incarnation >>= GENERATION_BITS);
    set
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use anyhow::bail;
    use weft_discovery::membership::Member;
    use weft_wire::id::NodeId;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn lives_that_panic_or_fail_are_followed_by_others_ever_later() {
        let telemetry = Telemetry::default();
        let lives = Arc::new(AtomicUsize::new(0));
        let counted = lives.clone();
        let one_life = move || {
            let life = counted.fetch_add(1, Ordering::Relaxed);
            async move {
                match life % 2 {
                    0 => panic!("chitchat asserts something"),
                    _ => bail!("the codec lost a datagram"),
                }
            }
        };
        let _running = AbortOnDropHandle::new(tokio::spawn(keep_alive(telemetry.clone(), one_life)));
        sleep(Duration::from_secs(5)).await;
        let soon = lives.load(Ordering::Relaxed);
        assert!((5..=8).contains(&soon), "{soon}");
        sleep(Duration::from_secs(3600)).await;
        let later = lives.load(Ordering::Relaxed) - soon;
        assert!((100..=250).contains(&later), "{later}");
        assert_eq!(telemetry.gossip_restarts.get(), (soon + later) as u64);
    }

    #[test]
    fn a_digest_is_called_large_before_gossip_is_stuck() {
        let of = |digest_alarm, is_stuck| {
            let stats = Stats { digest_bytes: 0, digest_alarm, queue_full: 0, unsendable: 0, malformed: 0 };
            Health::of(&stats, is_stuck)
        };
        assert_eq!([of(false, false), of(true, false), of(true, true)], [Health::Good, Health::Large, Health::Stuck]);
    }

    #[test]
    fn gossip_that_has_just_started_makes_nobody_dead() {
        let member = |n: u8| {
            let address = SocketAddr::from(([192, 0, 2, n], 15008));
            let member = Member { incarnation: 1, address, live: true, name: None, facts: None, documents: None };
            (NodeId([n; 8]), member)
        };
        let set = |count| MemberSet { members: (0..count).map(member).collect(), entries: 0 };
        let young = WARM_UP / 2;
        assert!(!replaces(&set(1), &set(3), young));
        assert!(replaces(&set(4), &set(3), young));
        assert!(replaces(&set(1), &set(3), WARM_UP), "they are silent, then");
        assert!(!replaces(&set(3), &set(3), WARM_UP));
    }

    #[tokio::test(start_paused = true)]
    async fn gossip_that_ran_well_for_a_minute_is_back_soon_after_a_failure() {
        let lives = Arc::new(AtomicUsize::new(0));
        let counted = lives.clone();
        let one_life = move || {
            counted.fetch_add(1, Ordering::Relaxed);
            async {
                sleep(STEADY).await;
                bail!("spoilt")
            }
        };
        let _running = AbortOnDropHandle::new(tokio::spawn(keep_alive(Telemetry::default(), one_life)));
        sleep(10 * (STEADY + MIN_BACKOFF)).await;
        assert!(lives.load(Ordering::Relaxed) >= 10);
    }
}
