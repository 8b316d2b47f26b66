//! Twenty nodes exchange facts and documents over a network that loses, repeats and reorders messages and is split for
//! a while. Flooding what is new, and pulling at random, brings all to the same state. Seeded: a failure repeats.

use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng, rngs::SmallRng, seq::IndexedRandom};
use weft_discovery::{
    authority::{Authority, Signer},
    documents::{DocumentTable, NotTaken},
    facts::{self, FactTable},
    overlay::neighbours,
};
use weft_wire::{
    document::{DocumentKey, SignedDocument},
    fact::{FactKind, SignedFact},
    id::{Grant, NodeId, NodeName, Role, SpiffeId},
};

const NODES: usize = 20;
/// Of messages, in percent.
const LOSS: u32 = 20;
const REPEATED: u32 = 10;
const PULL_BYTES: usize = 4_000;

/// Believes everyone: what forgeries do is tested beside the tables.
struct Trusting;

impl Authority for Trusting {
    fn signer(&self, chain: &[Vec<u8>], _signed: &[u8], _signature: &[u8], _at_ms: u64) -> Result<Signer, String> {
        let id = String::from_utf8(chain[0].clone()).map_err(|error| error.to_string())?;
        let grant = Grant { role: Role::Admin, accounts: vec![] };
        Ok(Signer { id: id.parse().map_err(|error| format!("{error}"))?, grant: Some(grant) })
    }
}

#[derive(Clone)]
enum Message {
    Fact(SignedFact),
    Document(SignedDocument),
}

struct Node {
    name: NodeName,
    facts: FactTable,
    documents: DocumentTable,
    /// How far this node's clock is off, within what is tolerated.
    skew_ms: u64,
}

struct Mesh {
    nodes: Vec<Node>,
    in_flight: Vec<(usize, usize, Message)>,
    split: bool,
    rng: SmallRng,
    now: Instant,
    wall_ms: u64,
}

impl Mesh {
    fn new(seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let nodes = (0..NODES).map(|n| {
            let name: NodeName = format!("n{n}").parse().unwrap();
            let facts = FactTable::new(name.clone(), 1, []);
            Node { name, facts, documents: DocumentTable::default(), skew_ms: rng.random_range(0..900) }
        });
        let nodes = nodes.collect();
        Self { nodes, in_flight: vec![], split: false, rng, now: Instant::now(), wall_ms: 1_000_000 }
    }

    fn parted(&self, a: usize, b: usize) -> bool {
        self.split && (a < NODES / 2) != (b < NODES / 2)
    }

    fn flood(&mut self, from: usize, message: &Message) {
        let ids: Vec<NodeId> = self.nodes.iter().map(|node| node.name.id()).collect();
        let live = ids.iter().copied().collect();
        let links = neighbours(ids[from], &live, from as u64);
        for to in (0..NODES).filter(|&to| links.contains(&ids[to])) {
            self.send(from, to, message);
        }
    }

    fn send(&mut self, from: usize, to: usize, message: &Message) {
        let copies = 1 + usize::from(self.rng.random_ratio(REPEATED, 100));
        for _ in 0..copies {
            if !self.parted(from, to) && !self.rng.random_ratio(LOSS, 100) {
                self.in_flight.push((from, to, message.clone()));
            }
        }
    }

    /// Delivers one message in flight, whichever.
    fn deliver(&mut self) {
        let at = self.rng.random_range(0..self.in_flight.len());
        let (_, to, message) = self.in_flight.swap_remove(at);
        self.receive(to, message);
    }

    fn receive(&mut self, at: usize, message: Message) {
        let node = &mut self.nodes[at];
        let wall_ms = self.wall_ms + node.skew_ms;
        let forward = match message {
            Message::Fact(fact) => match node.facts.merge(fact, &Trusting, self.now, wall_ms) {
                facts::Effect::New(fact) => Some(Message::Fact(fact.as_ref().clone())),
                facts::Effect::Refused(refusal) => panic!("{refusal}"),
                _ => None,
            },
            Message::Document(document) => match node.documents.merge(document, &Trusting, wall_ms) {
                Ok(document) => Some(Message::Document(document.as_ref().clone())),
                Err(NotTaken::Refused(refusal)) => panic!("{refusal}"),
                Err(_) => None,
            },
        };
        if let Some(message) = forward {
            self.flood(at, &message);
        }
    }

    fn write_fact(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        let mut fact = node.facts.draft(FactKind(self.rng.random_range(100..103)), vec![self.rng.random()]);
        fact.chain = vec![format!("spiffe://cluster.local/node/{}", node.name).into_bytes()];
        let fact = node.facts.publish(fact).unwrap();
        self.flood(at, &Message::Fact(fact.as_ref().clone()));
    }

    fn write_document(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        let author = SpiffeId::node("cluster.local".parse().unwrap(), node.name.clone());
        let key = DocumentKey {
            group: String::new(),
            kind: "Service".into(),
            namespace: None,
            name: format!("s{}", self.rng.random_range(0..30)),
        };
        let body = self.rng.random_ratio(4, 5).then(|| self.rng.random::<u64>().to_string());
        let wall_ms = self.wall_ms + node.skew_ms;
        let Ok(mut document) = node.documents.draft(key, body, author.clone(), wall_ms) else {
            return; // nothing there to delete
        };
        document.chain = vec![author.to_string().into_bytes()];
        self.receive(at, Message::Document(document));
    }

    /// One node asks another for what it lacks, as each does every few seconds.
    fn pull(&mut self) {
        let (from, to) = (self.rng.random_range(0..NODES), self.rng.random_range(0..NODES));
        if self.parted(from, to) {
            return;
        }
        let (have_facts, have_documents) = (self.nodes[to].facts.have(), self.nodes[to].documents.have());
        let first = NodeId(self.rng.random());
        let facts = self.nodes[from].facts.missing_for(&have_facts, first, PULL_BYTES);
        let documents = self.nodes[from].documents.missing_for(&have_documents, PULL_BYTES);
        for fact in facts {
            self.receive(to, Message::Fact(fact.as_ref().clone()));
        }
        for document in documents {
            self.receive(to, Message::Document(document.as_ref().clone()));
        }
    }

    fn tick(&mut self) {
        self.now += Duration::from_millis(100);
        self.wall_ms += 100;
    }

    fn converged(&self) -> bool {
        let state = |node: &Node| {
            let mut facts = node.facts.have();
            facts.sort_unstable();
            (facts, node.documents.root())
        };
        self.nodes.windows(2).all(|pair| state(&pair[0]) == state(&pair[1]))
    }
}

fn run(seed: u64) {
    let mut mesh = Mesh::new(seed);
    for step in 0..600 {
        mesh.split = (200..400).contains(&step);
        mesh.tick();
        let at = *[0, 3, 7, 12, 19].choose(&mut mesh.rng).unwrap();
        if mesh.rng.random() {
            mesh.write_fact(at)
        } else {
            mesh.write_document(at)
        }
        for _ in 0..mesh.rng.random_range(0..150) {
            if !mesh.in_flight.is_empty() {
                mesh.deliver();
            }
        }
    }
    assert!(!mesh.converged(), "seed {seed}: with loss and without pulls something should be missing");
    for _ in 0..2_000 {
        while !mesh.in_flight.is_empty() {
            mesh.deliver();
        }
        if mesh.converged() {
            return;
        }
        mesh.tick();
        mesh.pull();
    }
    panic!("seed {seed}: not converged");
}

#[test]
fn twenty_nodes_converge_through_loss_reordering_and_a_partition() {
    for seed in 0..3 {
        run(seed);
    }
}
