//! Links between simulated nodes, as QUIC connections behave: a message to a peer that is cut off waits and comes late
//! if the link outlives the cut; a side that hears nothing for [`IDLE_TIMEOUT`] gives the link up, without a word.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use weft_discovery::links::QUEUE;

use crate::process::Message;

pub type LinkId = u64;

/// As `node/src/peer/quic.rs` has it.
pub const IDLE_TIMEOUT: Duration = Duration::from_millis(1_300);
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(2);

struct Link {
    /// The dialling node first.
    nodes: [usize; 2],
    sides: [Side; 2],
}

/// One end of a link, and what is on its way there.
#[derive(Default)]
struct Side {
    up: bool,
    /// Nothing arrives here.
    cut: bool,
    /// Its idle timer runs, for the so-manieth time.
    timing: bool,
    timer: u32,
    waiting: VecDeque<Message>,
    /// More than that did not fit.
    missed: bool,
}

/// An end of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    pub link: LinkId,
    pub side: usize,
}

/// What a change of the network brings about.
#[derive(Default)]
pub struct Changes {
    /// This side gives up after [`IDLE_TIMEOUT`], unless its timer has moved on by then.
    pub timers: Vec<(End, u32)>,
    /// What waited is on its way again.
    pub flowing: Vec<(End, Message)>,
}

pub enum Sent {
    OnItsWay(End),
    Waits,
    /// The queue is full, or the link is gone.
    Dropped,
}

pub struct Network {
    links: BTreeMap<LinkId, Link>,
    next: LinkId,
    /// For how many reasons nothing gets from one node to another.
    cuts: Vec<Vec<u32>>,
    /// Nodes without a running process.
    pub off: Vec<bool>,
    /// Nodes whose process stands still.
    pub paused: Vec<u32>,
}

impl Network {
    pub fn new(nodes: usize) -> Self {
        Self {
            links: BTreeMap::new(),
            next: 0,
            cuts: vec![vec![0; nodes]; nodes],
            off: vec![true; nodes],
            paused: vec![0; nodes],
        }
    }

    pub fn cut(&mut self, from: usize, to: usize) {
        self.cuts[from][to] += 1;
    }

    pub fn mend(&mut self, from: usize, to: usize) {
        self.cuts[from][to] -= 1;
    }

    fn flows(&self, from: usize, to: usize) -> bool {
        let runs = |node: usize| !self.off[node] && self.paused[node] == 0;
        self.cuts[from][to] == 0 && runs(from) && runs(to)
    }

    /// Whether a handshake between two nodes would succeed now.
    pub fn reaches(&self, a: usize, b: usize) -> bool {
        self.flows(a, b) && self.flows(b, a)
    }

    pub fn connect(&mut self, dialler: usize, acceptor: usize) -> LinkId {
        self.next += 1;
        let side = || Side { up: true, ..Side::default() };
        self.links.insert(self.next, Link { nodes: [dialler, acceptor], sides: [side(), side()] });
        self.next
    }

    pub fn node_at(&self, end: End) -> Option<usize> {
        self.links.get(&end.link).map(|link| link.nodes[end.side])
    }

    /// Whether this end is up and hears the other.
    pub fn hears(&self, end: End) -> bool {
        self.links.get(&end.link).is_some_and(|link| link.sides[end.side].up && !link.sides[end.side].cut)
    }

    pub fn is_up(&self, end: End) -> bool {
        self.links.get(&end.link).is_some_and(|link| link.sides[end.side].up)
    }

    /// Sends over a link, from this node.
    pub fn send(&mut self, id: LinkId, from: usize, message: impl FnOnce() -> Message) -> Sent {
        let Some(link) = self.links.get_mut(&id) else { return Sent::Dropped };
        let side = usize::from(link.nodes[0] == from);
        if !link.sides[1 - side].up {
            return Sent::Dropped;
        }
        let to = &mut link.sides[side];
        if !to.cut {
            return Sent::OnItsWay(End { link: id, side });
        }
        if to.waiting.len() == QUEUE {
            to.missed = true;
            return Sent::Dropped;
        }
        to.waiting.push_back(message());
        Sent::Waits
    }

    /// One end is given up; the other does not learn of it by itself.
    pub fn drop_end(&mut self, end: End) {
        let Some(link) = self.links.get_mut(&end.link) else { return };
        let side = &mut link.sides[end.side];
        side.up = false;
        side.waiting.clear();
        if link.sides.iter().all(|side| !side.up) {
            self.links.remove(&end.link);
        }
    }

    /// The end of a link that is at this node.
    pub fn end_at(&self, link: LinkId, node: usize) -> Option<End> {
        let side = self.links.get(&link)?.nodes.iter().position(|&at| at == node)?;
        Some(End { link, side }).filter(|&end| self.is_up(end))
    }

    /// All ends at a node.
    pub fn ends_at(&self, node: usize) -> Vec<End> {
        let ends = self.links.iter().flat_map(|(&link, state)| {
            (0..2)
                .filter(move |&side| state.nodes[side] == node && state.sides[side].up)
                .map(move |side| End { link, side })
        });
        ends.collect()
    }

    /// Brings all links in line with what is cut, off or paused now.
    pub fn settle(&mut self) -> Changes {
        let mut changes = Changes::default();
        let ids: Vec<_> = self.links.keys().copied().collect();
        ids.into_iter().for_each(|id| self.settle_link(id, &mut changes));
        changes
    }

    /// Brings one link in line.
    pub fn settle_link(&mut self, id: LinkId, changes: &mut Changes) {
        let Some(mut link) = self.links.remove(&id) else { return };
        for side in 0..2 {
            let (here, there) = (link.nodes[side], link.nodes[1 - side]);
            let cut = !link.sides[1 - side].up || !self.flows(there, here);
            let state = &mut link.sides[side];
            let end = End { link: id, side };
            if std::mem::replace(&mut state.cut, cut) && !cut {
                changes.flowing.extend(state.waiting.drain(..).map(|message| (end, message)));
                if std::mem::take(&mut state.missed) {
                    changes.flowing.push((end, Message::Missed));
                }
            }
            // A process that stands still gives nothing up; what waits for it arrives first when it goes on.
            let timing = cut && state.up && self.paused[here] == 0;
            if std::mem::replace(&mut state.timing, timing) != timing {
                state.timer += 1;
                if timing {
                    changes.timers.push((end, state.timer));
                }
            }
        }
        self.links.insert(id, link);
    }

    /// Whether an idle timer that was started is still running.
    pub fn timed_out(&self, end: End, timer: u32) -> bool {
        self.links.get(&end.link).is_some_and(|link| {
            let side = &link.sides[end.side];
            side.up && side.timing && side.timer == timer
        })
    }

    /// The longest queue.
    pub fn longest_queue(&self) -> usize {
        self.links.values().flat_map(|link| &link.sides).map(|side| side.waiting.len()).max().unwrap_or(0)
    }
}
