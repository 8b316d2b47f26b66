//! A whole mesh on virtual time: events, faults, and the network between nodes.

mod calls;

use std::{
    collections::{BTreeMap, VecDeque},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use rand::{Rng, SeedableRng, rngs::SmallRng};
use weft_discovery::membership::DEFAULT_INTERVAL;
use weft_wire::{
    fact::{FactKind, NodeState},
    frame::MESH_PORT,
    id::{NodeName, Role},
};

pub use self::calls::Calls;
use crate::{
    callers::Callers,
    hostile::Hostile,
    identity::Credential,
    ledger::Ledger,
    network::{Changes, DIAL_TIMEOUT, End, IDLE_TIMEOUT, LinkId, Network, Sent},
    node::{Clock, Fate, INBOX, Node},
    plan::{Fault, Nodes, Plan, is_in},
    process::{Context, Disk, Effect, HOUSEKEEPING, Identity, Link, Message, Process, TICK},
    queue::Queue,
    record,
};

/// When the mesh began, in Unix milliseconds.
const BEGINNING_MS: u64 = 1_700_000_000_000;
/// Nodes that may write documents.
pub const AUTHORS: usize = 3;
/// Events that are told when a run fails.
const TOLD: usize = 60;
/// In a run that takes longer less happens at a time.
const LONG: Duration = Duration::from_secs(300);
/// How long a node that stops waits for its last word to be on its way.
const FAREWELL: Duration = Duration::from_millis(300);

enum Event {
    Tick(usize, u32),
    Housekeep(usize, u32),
    Gossip(usize, u32),
    /// What a peer sent arrives at its host.
    Arrive(End, Message),
    /// The process gets to it.
    Handle(usize, u32, End, Message),
    IdleTimeout(End, u32),
    Handshake {
        from: usize,
        life: u32,
        address: SocketAddr,
    },
    DialFailed {
        from: usize,
        life: u32,
        address: SocketAddr,
    },
    Begin(usize),
    Over(usize),
    Start(usize),
    /// It has said its last word and ends.
    End(usize, u32, Fate),
    Change,
    Call(usize, u32),
    Attack,
    CopyDisks,
}

/// A rule that was broken, and what led to it.
#[derive(Debug)]
pub struct Broken {
    pub at: Duration,
    pub what: String,
    pub events: Vec<String>,
}

pub struct World {
    pub plan: Plan,
    pub now: Duration,
    pub nodes: Vec<Node>,
    pub network: Network,
    pub ledger: Ledger,
    pub rng: SmallRng,
    queue: Queue<Event>,
    begun: Instant,
    hostile: Option<Hostile>,
    loss: u32,
    repeats: u32,
    delay: Duration,
    /// For how many reasons each node's endpoint answers with errors, and all that it calls fails.
    ill: Vec<u32>,
    bad_cables: Vec<u32>,
    calls: BTreeMap<(usize, usize), Calls>,
    log: VecDeque<String>,
    broken: Option<String>,
    changing: bool,
    /// Timers run so many times slower, for long quiet times.
    pub pace: u32,
}

impl World {
    pub fn new(seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let plan = Plan::of(&mut rng);
        Self::with(plan, rng)
    }

    /// In which nodes call each other.
    pub fn with_calls(seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let plan = Plan::with_calls(&mut rng);
        Self::with(plan, rng)
    }

    pub fn with(plan: Plan, mut rng: SmallRng) -> Self {
        let nodes: Vec<_> = (0..plan.nodes).map(|n| new_node(n, &plan, &mut rng)).collect();
        let hostile = plan.hostile.then(|| Hostile::new(&nodes[plan.nodes - 1].identity.name));
        let mut world = Self {
            now: Duration::ZERO,
            network: Network::new(plan.nodes),
            ledger: Ledger::default(),
            queue: Queue::default(),
            begun: Instant::now(),
            hostile,
            loss: 0,
            repeats: 0,
            delay: Duration::ZERO,
            ill: vec![0; plan.nodes],
            bad_cables: vec![0; plan.nodes],
            calls: BTreeMap::new(),
            log: VecDeque::new(),
            broken: None,
            changing: true,
            pace: 1,
            nodes,
            plan,
            rng,
        };
        for node in 0..world.plan.nodes {
            let at = Duration::from_millis(world.rng.random_range(0..3_000));
            world.queue.add(at, Event::Start(node));
        }
        for (number, fault) in world.plan.faults.iter().enumerate() {
            world.queue.add(fault.at, Event::Begin(number));
            world.queue.add(fault.until, Event::Over(number));
        }
        world.queue.add(Duration::from_secs(4), Event::Change);
        world.queue.add(Duration::from_secs(5), Event::CopyDisks);
        if world.hostile.is_some() {
            world.queue.add(Duration::from_secs(4), Event::Attack);
        }
        world
    }

    /// Whether a node keeps the rules, so that what it says and holds counts.
    pub fn is_honest(&self, node: usize) -> bool {
        self.hostile.is_none() || node != self.plan.nodes - 1
    }

    /// Running processes of honest nodes.
    pub fn honest(&self) -> impl Iterator<Item = (usize, &Node, &Process)> {
        let honest = self.nodes.iter().enumerate().filter(|&(n, _)| self.is_honest(n));
        honest.filter_map(|(n, node)| Some((n, node, node.process.as_ref()?)))
    }

    /// # Errors
    /// [`Broken`], the first rule that something broke.
    pub fn run_until(&mut self, until: Duration) -> Result<(), Broken> {
        while let Some((at, event)) = self.queue.next(until) {
            self.now = at;
            self.on(event);
            if let Some(what) = self.broken.take() {
                return Err(self.broken(what));
            }
        }
        self.now = until;
        Ok(())
    }

    pub fn broken(&self, what: String) -> Broken {
        Broken { at: self.now, what, events: self.log.iter().cloned().collect() }
    }

    /// No more changes are made.
    pub fn rest(&mut self) {
        self.changing = false;
    }

    fn on(&mut self, event: Event) {
        match event {
            Event::Tick(node, life) => {
                self.every(node, life, TICK, Event::Tick, |process, _, cx| process.tick(cx));
                if self.network.paused[node] == 0 {
                    self.check_callers(node);
                }
            }
            Event::Call(node, life) => self.call(node, life),
            Event::Housekeep(node, life) => {
                self.every(node, life, HOUSEKEEPING, Event::Housekeep, |process, disk, cx| process.housekeep(disk, cx));
            }
            Event::Gossip(node, life) => {
                self.every(node, life, DEFAULT_INTERVAL, Event::Gossip, |process, _, cx| process.gossip(cx));
            }
            Event::Arrive(end, message) => self.arrive(end, message),
            Event::Handle(node, life, end, message) => {
                if self.nodes[node].life != life {
                    return;
                }
                if self.network.paused[node] > 0 {
                    // It has it, and goes on with it later.
                    let later = self.now + TICK;
                    return self.queue.add(later, Event::Handle(node, life, end, message));
                }
                self.nodes[node].inbox -= usize::from(matches!(message, Message::Push(_)));
                self.handle(node, end, message);
            }
            Event::IdleTimeout(end, timer) => {
                if self.network.timed_out(end, timer) {
                    self.end_link(end, false);
                }
            }
            Event::Handshake { from, life, address } => self.handshake(from, life, address),
            Event::DialFailed { from, life, address } => {
                if self.nodes[from].life == life {
                    self.act(from, |process, _, cx| process.on_dialled(address, false, cx));
                }
            }
            Event::Begin(number) => self.begin(number),
            Event::Over(number) => self.over(number),
            Event::Start(node) => self.start(node),
            Event::End(node, life, fate) => {
                if self.nodes[node].life == life {
                    self.end(node, fate, true);
                    if fate == Fate::Down && !self.is_to_stay_down(node) {
                        self.queue.add(self.now + TICK, Event::Start(node));
                    }
                }
            }
            Event::Change => self.change(),
            Event::Attack => self.attack(),
            Event::CopyDisks => {
                self.nodes.iter_mut().for_each(|node| node.old_disk = node.disk.clone());
                let wait = Duration::from_secs(self.rng.random_range(2..20));
                self.queue.add(self.now + wait, Event::CopyDisks);
            }
        }
    }

    /// One of a process's timers; while it stands still, the timer comes late.
    fn every(
        &mut self,
        node: usize,
        life: u32,
        interval: Duration,
        event: impl Fn(usize, u32) -> Event,
        act: impl FnOnce(&mut Process, Option<&mut Disk>, &mut Context<'_>),
    ) {
        if self.nodes[node].life != life {
            return;
        }
        self.queue.add(self.now + interval * self.pace, event(node, life));
        if self.network.paused[node] == 0 {
            self.act(node, act);
        }
    }

    /// Has a process do something, if it is running, and sees to what it wants.
    fn act(&mut self, n: usize, act: impl FnOnce(&mut Process, Option<&mut Disk>, &mut Context<'_>)) {
        let now = self.begun + self.now;
        let node = &mut self.nodes[n];
        let wall_ms = node.clock.wall_ms(BEGINNING_MS + self.now.as_millis() as u64, self.now);
        let Some(process) = &mut node.process else { return };
        let mut effects = Vec::new();
        let mut cx = Context { now, wall_ms, rng: &mut self.rng, effects: &mut effects };
        act(process, (node.disk_full == 0).then_some(&mut node.disk), &mut cx);
        self.see_to(n, effects);
    }

    fn see_to(&mut self, n: usize, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Send(link, message) => self.send(n, link, message),
                Effect::Dial(address) => {
                    let at = self.now + 2 * self.latency();
                    self.queue.add(at, Event::Handshake { from: n, life: self.nodes[n].life, address });
                }
                Effect::Close(link) => self.close(n, link),
                Effect::End(link) => {
                    if let Some(end) = self.network.end_at(link, n) {
                        self.send(n, link, Message::Close);
                        self.end_link(end, true);
                    }
                }
                Effect::Said(fact) => self.ledger.said(&fact),
                Effect::Wrote(document) => self.ledger.wrote(&document),
                Effect::Forgot(deletion) => {
                    if self.is_honest(n) {
                        self.ledger.forgot(&deletion);
                    }
                }
                Effect::TookFact(fact) => {
                    let owner_is_hostile =
                        self.hostile.is_some() && fact.owner == self.nodes[self.plan.nodes - 1].identity.name;
                    if self.is_honest(n) && !owner_is_hostile {
                        let checked = self.ledger.check_fact(&fact, &mut self.nodes[n].taken);
                        self.note(n, checked);
                    }
                }
                Effect::TookDocument(document) => {
                    if self.is_honest(n) {
                        let checked = self.ledger.check_document(&document, &mut self.nodes[n].taken);
                        self.note(n, checked);
                    }
                }
            }
        }
    }

    pub fn instant(&self) -> Instant {
        self.begun + self.now
    }

    fn note(&mut self, n: usize, checked: Result<(), String>) {
        if let Err(what) = checked {
            self.broken.get_or_insert(format!("n{n} {what}"));
        }
    }

    pub fn tell(&mut self, what: String) {
        if self.log.len() == TOLD {
            self.log.pop_front();
        }
        self.log.push_back(format!("{:9.3} s  {what}", self.now.as_secs_f64()));
    }

    // The network.

    fn latency(&mut self) -> Duration {
        let mut latency = self.plan.latency.mul_f64(self.rng.random_range(0.8..1.5));
        // A scheduler's hiccup, as measured: 2 % of hops.
        if self.rng.random_ratio(2, 100) {
            latency += Duration::from_millis(self.rng.random_range(5..30));
        }
        latency + self.delay.mul_f64(self.rng.random())
    }

    fn send(&mut self, from: usize, link: LinkId, message: Message) {
        let copies = 1 + u32::from(self.repeats > 0 && self.rng.random_ratio(self.repeats, 100));
        for _ in 0..copies {
            if let Sent::OnItsWay(end) = self.network.send(link, from, || message.clone()) {
                let at = self.now + self.latency();
                self.queue.add(at, Event::Arrive(end, message.clone()));
            }
        }
    }

    fn arrive(&mut self, end: End, message: Message) {
        let Some(n) = self.network.node_at(end).filter(|_| self.network.is_up(end)) else { return };
        if !self.network.hears(end) {
            // Cut off on its way: it is sent again until the link ends.
            let again = self.now + TICK;
            return self.queue.add(again, Event::Arrive(end, message));
        }
        if matches!(message, Message::Push(_)) && self.loss > 0 && self.rng.random_ratio(self.loss, 100) {
            return;
        }
        let node = &mut self.nodes[n];
        if node.service.is_zero() && node.busy_until <= self.now {
            return self.handle(n, end, message);
        }
        // What is no push has a sender that waits.
        if matches!(message, Message::Push(_)) {
            if node.inbox == INBOX {
                *node.counts.entry("inbox_full").or_default() += 1;
                return;
            }
            node.inbox += 1;
        }
        node.busy_until = node.busy_until.max(self.now) + node.service;
        self.queue.add(node.busy_until, Event::Handle(n, node.life, end, message));
    }

    fn handle(&mut self, n: usize, end: End, message: Message) {
        if !self.network.is_up(end) {
            return;
        }
        let Some(peer) = self.network.node_at(End { side: 1 - end.side, ..end }) else { return };
        if !self.is_honest(n)
            && let Some(hostile) = &mut self.hostile
        {
            hostile.capture(&message);
        }
        if matches!(message, Message::Close) {
            return self.end_link(end, true);
        }
        let from = self.nodes[peer].identity.name.id();
        self.act(n, |process, _, cx| process.on_message(end.link, from, message, cx));
    }

    fn handshake(&mut self, from: usize, life: u32, address: SocketAddr) {
        if self.nodes[from].life != life {
            return;
        }
        let there = node_of(address).filter(|&n| n < self.nodes.len());
        let Some(to) = there.filter(|&to| self.network.reaches(from, to)) else {
            return self.queue.add(self.now + DIAL_TIMEOUT, Event::DialFailed { from, life, address });
        };
        let link = self.network.connect(from, to);
        let (dialler, acceptor) = (self.nodes[from].identity.clone(), self.nodes[to].identity.clone());
        self.act(from, |process, _, cx| {
            process.on_dialled(address, true, cx);
            process.on_link_up(Link { id: link, address: acceptor.address, dialled: true }, &acceptor.name, cx);
        });
        let accepted = Link { id: link, address: dialler.address, dialled: false };
        self.act(to, |process, _, cx| process.on_link_up(accepted, &dialler.name, cx));
    }

    /// One end learns that its link is over.
    fn end_link(&mut self, end: End, on_purpose: bool) {
        let (Some(n), Some(peer)) =
            (self.network.node_at(end), self.network.node_at(End { side: 1 - end.side, ..end }))
        else {
            return;
        };
        let node = self.nodes[peer].identity.name.id();
        self.network.drop_end(end);
        self.act(n, |process, _, cx| process.on_link_down(end.link, node, on_purpose, cx));
        self.settle_link(end.link);
    }

    /// A node ends a link, and tells the peer.
    fn close(&mut self, n: usize, link: LinkId) {
        let Some(end) = self.network.end_at(link, n) else { return };
        self.send(n, link, Message::Close);
        self.network.drop_end(end);
        self.settle_link(link);
    }

    fn settle(&mut self) {
        let changes = self.network.settle();
        self.follow(changes);
    }

    fn settle_link(&mut self, link: LinkId) {
        let mut changes = Changes::default();
        self.network.settle_link(link, &mut changes);
        self.follow(changes);
    }

    fn follow(&mut self, Changes { timers, flowing }: Changes) {
        for (end, timer) in timers {
            self.queue.add(self.now + IDLE_TIMEOUT, Event::IdleTimeout(end, timer));
        }
        for (end, message) in flowing {
            let at = self.now + self.latency();
            self.queue.add(at, Event::Arrive(end, message));
        }
    }

    // Lives.

    fn start(&mut self, n: usize) {
        let node = &mut self.nodes[n];
        if node.process.is_some() || matches!(node.fate, Fate::Dead | Fate::Left) {
            return;
        }
        if node.disk_full > 0 {
            // It cannot note its incarnation.
            return self.queue.add(self.now + Duration::from_secs(1), Event::Start(n));
        }
        let now = self.begun + self.now;
        let wall_ms = node.clock.wall_ms(BEGINNING_MS + self.now.as_millis() as u64, self.now);
        let mut effects = Vec::new();
        let mut cx = Context { now, wall_ms, rng: &mut self.rng, effects: &mut effects };
        let mut process = Process::start(node.identity.clone(), &mut node.disk, &mut cx);
        if self.plan.calls.is_some() {
            let is_mute = self.hostile.is_some() && n == self.plan.nodes - 1;
            process.callers = Some(Callers::new(node.identity.name.clone(), is_mute, now));
        }
        node.process = Some(process);
        (node.fate, node.down_since) = (Fate::Lives, None);
        let life = node.life;
        self.network.off[n] = false;
        self.settle();
        self.see_to(n, effects);
        let mut phase = |interval: Duration| self.now + interval.mul_f64(self.rng.random());
        let (tick, housekeep, gossip) = (phase(TICK), phase(HOUSEKEEPING), phase(DEFAULT_INTERVAL));
        self.queue.add(tick, Event::Tick(n, life));
        self.queue.add(housekeep, Event::Housekeep(n, life));
        self.queue.add(gossip, Event::Gossip(n, life));
        if let Some(every) = self.plan.calls {
            self.queue.add(self.now + every, Event::Call(n, life));
        }
        self.tell(format!("n{n} starts"));
    }

    /// Whether some fault will start it later on.
    fn is_to_stay_down(&self, n: usize) -> bool {
        let downs = self.plan.faults.iter().filter(|one| one.at <= self.now && self.now < one.until);
        downs.into_iter().any(|one| matches!(one.fault, Fault::Crash { node, .. } | Fault::Stop(node) if node == n))
    }

    /// A process ends, with a word to its peers or without.
    fn end(&mut self, n: usize, fate: Fate, on_purpose: bool) {
        for end in self.network.ends_at(n) {
            if on_purpose {
                self.send(n, end.link, Message::Close);
            }
            self.network.drop_end(end);
        }
        self.network.off[n] = true;
        self.settle();
        self.nodes[n].end(self.now);
        self.nodes[n].fate = fate;
        self.tell(format!("n{n} ends: {fate:?}"));
    }

    // What happens to the mesh.

    fn begin(&mut self, number: usize) {
        let fault = self.plan.faults[number].fault.clone();
        self.tell(format!("begins: {fault:?}"));
        match fault {
            Fault::Partition(side) => self.cut(side, !side, true),
            Fault::OneWay(from, to) => self.cut(from, to, false),
            Fault::Pause(n) => self.network.paused[n] += 1,
            Fault::Slow(n, service) => self.nodes[n].service = service,
            Fault::Crash { node, old_disk } => {
                if self.nodes[node].process.is_some() {
                    self.end(node, Fate::Down, false);
                    if old_disk {
                        self.nodes[node].disk = self.nodes[node].old_disk.clone();
                    }
                }
            }
            Fault::Stop(n) => self.farewell(n, NodeState::Stopped, Fate::Down),
            Fault::Leave(n) => self.farewell(n, NodeState::Left, Fate::Left),
            Fault::Dead(n) => {
                if self.nodes[n].fate != Fate::Left {
                    self.end(n, Fate::Dead, false);
                }
            }
            Fault::FullDisk(n) => self.nodes[n].disk_full += 1,
            Fault::ClockStep(n, by) => self.nodes[n].clock.offset_ms += by,
            Fault::Loss(percent) => self.loss = percent,
            Fault::Repeats(percent) => self.repeats = percent,
            Fault::Delay(by) => self.delay = by,
            Fault::Ill(n) => self.ill[n] += 1,
            Fault::BadCable(n) => self.bad_cables[n] += 1,
            Fault::Mute(n) => self.mute(n, true),
        }
        self.settle();
    }

    fn over(&mut self, number: usize) {
        let fault = self.plan.faults[number].fault.clone();
        self.tell(format!("over: {fault:?}"));
        match fault {
            Fault::Partition(side) => self.mend(side, !side, true),
            Fault::OneWay(from, to) => self.mend(from, to, false),
            Fault::Pause(n) => self.network.paused[n] -= 1,
            Fault::Slow(n, _) => self.nodes[n].service = Duration::ZERO,
            Fault::Crash { node, .. } | Fault::Stop(node) => self.start(node),
            Fault::Leave(_) | Fault::Dead(_) => {}
            Fault::FullDisk(n) => self.nodes[n].disk_full -= 1,
            Fault::ClockStep(n, by) => self.nodes[n].clock.offset_ms -= by,
            Fault::Loss(_) => self.loss = 0,
            Fault::Repeats(_) => self.repeats = 0,
            Fault::Delay(_) => self.delay = Duration::ZERO,
            Fault::Ill(n) => self.ill[n] -= 1,
            Fault::BadCable(n) => self.bad_cables[n] -= 1,
            Fault::Mute(n) => self.mute(n, false),
        }
        self.settle();
    }

    fn mute(&mut self, n: usize, is_mute: bool) {
        if self.is_honest(n)
            && let Some(callers) = self.nodes[n].process.as_mut().and_then(|process| process.callers.as_mut())
        {
            callers.is_mute = is_mute;
        }
    }

    fn farewell(&mut self, n: usize, state: NodeState, fate: Fate) {
        self.act(n, |process, _, cx| process.set_state(state, cx));
        let life = self.nodes[n].life;
        if self.nodes[n].process.is_some() {
            self.queue.add(self.now + FAREWELL, Event::End(n, life, fate));
        }
    }

    fn cut(&mut self, from: Nodes, to: Nodes, both_ways: bool) {
        self.each_pair(from, to, both_ways, Network::cut);
    }

    fn mend(&mut self, from: Nodes, to: Nodes, both_ways: bool) {
        self.each_pair(from, to, both_ways, Network::mend);
    }

    fn each_pair(&mut self, from: Nodes, to: Nodes, both_ways: bool, change: fn(&mut Network, usize, usize)) {
        for a in (0..self.plan.nodes).filter(|&a| is_in(a, from)) {
            for b in (0..self.plan.nodes).filter(|&b| b != a && is_in(b, to)) {
                change(&mut self.network, a, b);
                if both_ways {
                    change(&mut self.network, b, a);
                }
            }
        }
    }

    fn change(&mut self) {
        if !self.changing {
            return;
        }
        let wait = self.plan.change_every.mul_f64(self.rng.random_range(0.1..2.0));
        self.queue.add(self.now + wait, Event::Change);
        let n = self.rng.random_range(0..self.plan.nodes);
        if self.network.paused[n] > 0 {
            return;
        }
        match self.rng.random_range(0..4) {
            0 => self.act(n, |process, _, _| process.change()),
            1 => {
                let kind = FactKind(self.rng.random_range(100..103));
                self.act(n, |process, _, cx| process.say_other(kind, cx));
            }
            _ => {
                let author = self.rng.random_range(0..AUTHORS);
                let key = record::document_key(self.rng.random_range(0..self.plan.documents));
                let body = self.rng.random_ratio(3, 4).then(|| self.rng.random::<u32>().to_string());
                if self.network.paused[author] == 0 {
                    self.act(author, |process, disk, cx| process.write(key, body, disk, cx));
                }
            }
        }
    }

    fn attack(&mut self) {
        let mut wait = Duration::from_millis(self.rng.random_range(50..2_000));
        if self.plan.quiet_at > LONG {
            wait *= 10;
        }
        self.queue.add(self.now + wait, Event::Attack);
        if self.plan.calls.is_some() && self.rng.random() {
            return self.lie();
        }
        let n = self.plan.nodes - 1;
        let others: Vec<NodeName> = self.nodes[..n].iter().map(|node| node.identity.name.clone()).collect();
        let (Some(hostile), Some(process)) = (&self.hostile, &self.nodes[n].process) else { return };
        let wall_ms = BEGINNING_MS + self.now.as_millis() as u64;
        let messages = hostile.attack(process, &others, wall_ms, &mut self.rng);
        let links: Vec<LinkId> = process.links.peers().map(|(_, link)| link.id).collect();
        for message in messages {
            for &link in &links {
                self.send(n, link, message.clone());
            }
        }
    }

    /// When nodes that were slow have read what had come to them.
    pub fn all_is_read(&self) -> Duration {
        self.nodes.iter().map(|node| node.busy_until).max().unwrap_or_default()
    }

    /// When the stamp of the latest document is no longer in the future.
    pub fn stamps_are_past(&self) -> Duration {
        Duration::from_millis(self.ledger.last_stamp().millis.saturating_sub(BEGINNING_MS))
    }
}

/// Where nodes are.
const NETWORK: u32 = 0x0a00_0001;

fn address_of(node: usize) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::from_bits(NETWORK + node as u32).into(), MESH_PORT)
}

fn node_of(address: SocketAddr) -> Option<usize> {
    let IpAddr::V4(ip) = address.ip() else { return None };
    Some(ip.to_bits().checked_sub(NETWORK)? as usize)
}

/// Relays of each cell: the first of its nodes.
const RELAYS: usize = 2;

fn new_node(n: usize, plan: &Plan, rng: &mut SmallRng) -> Node {
    let name: NodeName = format!("n{n}").parse().expect("a name");
    let role = if n < AUTHORS { Role::Admin } else { Role::Member };
    let credential = Credential::of_node(&name, role, record::ACCOUNTS, u64::MAX);
    let seeds = (0..plan.seeds).filter(|&seed| seed != n).map(address_of).collect();
    let clock = Clock { offset_ms: rng.random_range(-800..800), drift_ppm: rng.random_range(-200..200) };
    let (cell, place) = (n % plan.cells, n / plan.cells);
    let wants = (0..plan.cells).filter(|&other| other != cell).map(|other| record::service_of(other, 0)).collect();
    let identity = Identity {
        name,
        address: address_of(n),
        credential,
        seeds,
        cell: record::cell(cell),
        is_relay: plan.cells > 1 && place < RELAYS,
        service: if plan.cells > 1 { record::service_of(cell, place % 2) } else { record::service() },
        wants,
    };
    Node::new(identity, clock)
}
