//! What happens to a mesh, decided by a seed before it begins.

use std::time::Duration;

use rand::{Rng, rngs::SmallRng};

/// A set of nodes, by bit.
pub type Nodes = u128;

#[derive(Clone, Debug)]
pub enum Fault {
    /// Nothing passes between these nodes and the others.
    Partition(Nodes),
    /// Nothing gets from these nodes to those.
    OneWay(Nodes, Nodes),
    /// The process stands still.
    Pause(usize),
    /// The process takes this long for each message.
    Slow(usize, Duration),
    /// Killed, and started again when the fault is over: with its disk, or with an older copy of it.
    Crash { node: usize, old_disk: bool },
    /// Stopped by its operator, and started again.
    Stop(usize),
    /// Nothing can be written.
    FullDisk(usize),
    /// The wall clock is off by so many milliseconds.
    ClockStep(usize, i64),
    /// Of the messages so many are lost, in percent.
    Loss(u32),
    /// So many come twice.
    Repeats(u32),
    /// All take longer, by up to this.
    Delay(Duration),
    /// The power is gone: dead, and nobody says so.
    Dead(usize),
    /// Leaves for good, by its own word.
    Leave(usize),
    /// Its endpoint answers with errors.
    Ill(usize),
    /// All that it calls elsewhere fails.
    BadCable(usize),
    /// It says no more what it sees of endpoints, and takes nothing back.
    Mute(usize),
}

#[derive(Clone, Debug)]
pub struct Scheduled {
    pub at: Duration,
    /// When it is over; meaningless for [`Fault::Dead`] and [`Fault::Leave`].
    pub until: Duration,
    pub fault: Fault,
}

#[derive(Clone, Debug)]
pub struct Plan {
    pub nodes: usize,
    /// The first so many are everyone's seeds.
    pub seeds: usize,
    /// So many cells, of which the nodes are by turns.
    pub cells: usize,
    /// The last node has a valid certificate and breaks every rule.
    pub hostile: bool,
    /// One-way latency of most messages.
    pub latency: Duration,
    pub faults: Vec<Scheduled>,
    /// When the last fault is over and the last change was made.
    pub quiet_at: Duration,
    /// Mean time between two changes.
    pub change_every: Duration,
    /// How many documents there are to write.
    pub documents: usize,
    /// Mean time between two requests of a node, if nodes call each other.
    pub calls: Option<Duration>,
}

/// Nodes that start without being told to wait, so that faults meet a mesh.
const FORMED: Duration = Duration::from_secs(6);

impl Plan {
    pub fn of(rng: &mut SmallRng) -> Self {
        // Both a full mesh and one with a sparse overlay.
        let nodes = rng.random_range(5..=12);
        let mut plan = Self {
            nodes,
            // So that one of them may go.
            seeds: 2,
            cells: 1,
            hostile: rng.random_ratio(1, 3),
            latency: Duration::from_micros(if rng.random_ratio(1, 4) { 60_000 } else { rng.random_range(100..3_000) }),
            faults: Vec::new(),
            quiet_at: Duration::from_secs(rng.random_range(30..60)),
            change_every: Duration::from_millis(rng.random_range(150..1_500)),
            documents: 12,
            calls: None,
        };
        let honest = nodes - usize::from(plan.hostile);
        let mut gone = 0;
        for _ in 0..rng.random_range(1..=7) {
            let fault = plan.fault(honest, rng);
            if matches!(fault, Fault::Dead(_) | Fault::Leave(_)) {
                // Enough are left for a mesh.
                gone += 1;
                if gone > 2 {
                    continue;
                }
            }
            plan.add(fault, rng);
        }
        // Now and then longer than anything of a gone node is kept.
        if rng.random_ratio(1, 50) {
            let until = plan.quiet_at + Duration::from_secs(rng.random_range(600..700));
            plan.faults.push(Scheduled { at: FORMED, until, fault: plan.partition(rng) });
            plan.quiet_at = until;
            plan.change_every *= 10;
        }
        plan
    }

    /// As [`Plan::of`], and nodes call each other.
    pub fn with_calls(rng: &mut SmallRng) -> Self {
        let mut plan = Self::of(rng);
        plan.calls = Some(Duration::from_millis(rng.random_range(30..150)));
        for _ in 0..rng.random_range(1..=5) {
            let node = rng.random_range(0..plan.nodes);
            let fault = match rng.random_range(0..5) {
                0 => Fault::BadCable(node),
                1 => Fault::Mute(node),
                _ => Fault::Ill(node),
            };
            plan.add(fault, rng);
        }
        plan
    }

    /// At some time, for some time.
    fn add(&mut self, fault: Fault, rng: &mut SmallRng) {
        let at = Duration::from_millis(rng.random_range(FORMED.as_millis() as u64..self.quiet_at.as_millis() as u64));
        let until = at + Duration::from_millis(rng.random_range(200..20_000));
        self.faults.push(Scheduled { at, until: until.min(self.quiet_at), fault });
    }

    fn fault(&self, honest: usize, rng: &mut SmallRng) -> Fault {
        let node = rng.random_range(0..honest);
        match rng.random_range(0..14) {
            0 | 1 => self.partition(rng),
            2 => Fault::OneWay(self.some(rng), self.some(rng)),
            3 => Fault::OneWay(1 << node, 1 << rng.random_range(0..self.nodes)),
            4 => Fault::Pause(node),
            5 => Fault::Slow(node, Duration::from_millis(rng.random_range(1..60))),
            6 => Fault::Crash { node, old_disk: false },
            7 => Fault::Crash { node, old_disk: true },
            8 => Fault::Stop(node),
            9 => Fault::FullDisk(node),
            10 => {
                let off = rng.random_range(500..30_000);
                Fault::ClockStep(node, if rng.random() { off } else { -off })
            }
            11 => match rng.random_range(0..3) {
                0 => Fault::Loss(rng.random_range(1..60)),
                1 => Fault::Repeats(rng.random_range(1..60)),
                _ => Fault::Delay(Duration::from_millis(rng.random_range(10..1_000))),
            },
            12 => Fault::Dead(node),
            _ => Fault::Leave(node),
        }
    }

    fn partition(&self, rng: &mut SmallRng) -> Fault {
        Fault::Partition(self.some(rng))
    }

    fn some(&self, rng: &mut SmallRng) -> Nodes {
        rng.random_range(1..1 << self.nodes)
    }
}

pub fn is_in(node: usize, nodes: Nodes) -> bool {
    (nodes >> node) & 1 == 1
}
