//! How fast and at what cost one fact reaches a whole fleet: every node's real table of facts and real choice of
//! neighbours, with the costs that were measured on real connections. What spreads facts later than the flood does, pull
//! after gossip, is left out: whoever the flood misses counts as missed.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use bytes::Bytes;
use rand::{Rng, SeedableRng, rngs::SmallRng, seq::IndexedRandom};
use weft_discovery::{
    facts::{Effect, FactTable},
    links::messages,
    overlay::neighbours,
};
use weft_wire::{
    codec,
    fact::{FactBody, FactKind},
    frame::{MAX_PUSH_LEN, Push},
    id::{NodeId, NodeName, Role},
};

use crate::{
    identity::{Credential, SimAuthority},
    queue::Queue,
    record,
};

/// CPU of a message of some 200 bytes over QUIC with TLS, at its sender and at its receiver, who does one after the other.
const SEND: Duration = Duration::from_micros(22);
const RECEIVE: Duration = Duration::from_micros(32);
/// So many messages in a hundred meet a scheduler that is late, by this.
const HICCUPS: u32 = 2;
const HICCUP_MS: std::ops::Range<u64> = 5..30;
/// One region: three zones.
const ZONES: usize = 3;
const SAME_ZONE_US: std::ops::Range<u64> = 50..200;
const OTHER_ZONE_US: std::ops::Range<u64> = 300..1_000;
/// What the certificates of a real fact weigh beyond the simulated ones.
const CHAIN: usize = 1_000;

struct Member {
    credential: Credential,
    table: FactTable,
    links: Vec<usize>,
    dead: bool,
    busy_until: Duration,
}

pub struct Fleet {
    members: Vec<Member>,
    rng: SmallRng,
    begun: Instant,
}

/// What a number of facts took, all together.
#[derive(Debug, Default)]
pub struct Spread {
    /// From when it was said until a live node had it, each.
    pub times: Vec<Duration>,
    pub missed: usize,
    pub messages: u64,
    pub bytes: u64,
    /// CPU of all nodes.
    pub cpu: Duration,
}

impl Fleet {
    /// So many nodes, of which some, in percent, are dead and not known to be.
    pub fn new(size: usize, dead: u32, seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let names: Vec<NodeName> = (0..size).map(|n| format!("n{n}").parse().expect("a name")).collect();
        let places: BTreeMap<NodeId, usize> = names.iter().enumerate().map(|(n, name)| (name.id(), n)).collect();
        let live: BTreeSet<NodeId> = places.keys().copied().collect();
        let mut links: Vec<BTreeSet<usize>> = vec![BTreeSet::new(); size];
        for (n, name) in names.iter().enumerate() {
            for peer in neighbours(name.id(), &live, rng.random()) {
                let peer = places[&peer];
                links[n].insert(peer);
                links[peer].insert(n);
            }
        }
        let member = |(name, links): (NodeName, BTreeSet<usize>)| Member {
            credential: Credential::of_node(&name, Role::Member, record::ACCOUNTS, u64::MAX),
            table: FactTable::new(name, 1, []),
            links: links.into_iter().collect(),
            dead: rng.random_ratio(dead, 100),
            busy_until: Duration::ZERO,
        };
        let members = names.into_iter().zip(links).map(member).collect();
        Self { members, rng, begun: Instant::now() }
    }

    /// Has as many live nodes, one after the other, say something of themselves.
    pub fn spread(&mut self, facts: usize) -> Spread {
        let mut spread = Spread::default();
        for n in 0..facts {
            // Long enough after the last for all to be at rest.
            self.spread_one(Duration::from_secs(10 * n as u64), &mut spread);
        }
        spread.times.sort_unstable();
        spread
    }

    fn spread_one(&mut self, at: Duration, spread: &mut Spread) {
        let live: Vec<_> = (0..self.members.len()).filter(|&n| !self.members[n].dead).collect();
        let Some(&origin) = live.choose(&mut self.rng) else { return };
        let mut queue: Queue<(usize, usize, Bytes)> = Queue::default();
        let message = self.said(origin);
        self.members[origin].busy_until = at;
        let mut reached = 1;
        self.forward(origin, None, &message, &mut queue, spread);
        while let Some((now, (from, to, message))) = queue.next(Duration::MAX) {
            if self.members[to].dead {
                continue;
            }
            let late = self.rng.random_ratio(HICCUPS, 100);
            let wait = if late { Duration::from_millis(self.rng.random_range(HICCUP_MS)) } else { Duration::ZERO };
            let member = &mut self.members[to];
            member.busy_until = (now + wait).max(member.busy_until) + RECEIVE;
            spread.cpu += RECEIVE;
            let Ok(Push::Facts(facts)) = codec::decode(&message, MAX_PUSH_LEN) else { continue };
            let mut news = Vec::new();
            for mut fact in facts {
                fact.chain.truncate(2);
                if let Effect::New(fact) = member.table.merge(fact, &SimAuthority, self.begun + now, 0) {
                    news.push(fact);
                }
            }
            if !news.is_empty() {
                reached += 1;
                spread.times.push(member.busy_until - at);
                self.forward(to, Some(from), &message, &mut queue, spread);
            }
        }
        spread.missed += live.len() - reached;
    }

    fn said(&mut self, origin: usize) -> Bytes {
        let member = &mut self.members[origin];
        let record = record::of([192, 0, 2, 1].into(), self.rng.random());
        let mut fact = member.table.draft(FactKind::NODE, record.encode().unwrap_or_default());
        fact.chain = member.credential.chain.clone();
        fact.signature = member.credential.sign(&fact.signed_bytes());
        let fact = member.table.publish(fact).expect("a record that peers take");
        let mut weighty = (*fact).clone();
        weighty.chain.push(vec![0; CHAIN]);
        messages(&Push::Facts(vec![weighty])).0.remove(0)
    }

    fn forward(
        &mut self,
        from: usize,
        except: Option<usize>,
        message: &Bytes,
        queue: &mut Queue<(usize, usize, Bytes)>,
        spread: &mut Spread,
    ) {
        for to in self.members[from].links.clone().into_iter().filter(|&to| Some(to) != except) {
            let range = if from % ZONES == to % ZONES { SAME_ZONE_US } else { OTHER_ZONE_US };
            let latency = Duration::from_micros(self.rng.random_range(range));
            let member = &mut self.members[from];
            member.busy_until += SEND;
            queue.add(member.busy_until + latency, (from, to, message.clone()));
            spread.messages += 1;
            spread.bytes += message.len() as u64;
            spread.cpu += SEND;
        }
    }

    pub fn mean_links(&self) -> f64 {
        self.members.iter().map(|member| member.links.len()).sum::<usize>() as f64 / self.members.len() as f64
    }
}
