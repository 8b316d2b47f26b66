//! A node with a valid member's certificate that breaks every rule it can.

use std::{collections::VecDeque, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use rand::{Rng, rngs::SmallRng, seq::IndexedRandom};
use weft_discovery::{membership::Member, pull::Pull};
use weft_wire::{
    cell::{CellSummary, IndexedPort, RelayWord},
    codec,
    document::{SignedDocument, Stamp},
    fact::{FactBody, FactKind, FactVersion, Protocol, SignedFact},
    frame::{MAX_FRAME_LEN, MAX_PUSH_ITEMS, MAX_PUSH_LEN, Push, Response},
    id::{NodeId, NodeName, Role, ServiceName},
};

use crate::{
    gossip::Rumour,
    identity::Credential,
    process::{Message, Process},
    record,
};

/// Messages that are kept to be sent again.
const CAPTURED: usize = 64;

pub struct Hostile {
    captured: VecDeque<Message>,
    /// A certificate of better days.
    stale: Credential,
}

impl Hostile {
    pub fn new(name: &NodeName) -> Self {
        Self { captured: VecDeque::new(), stale: Credential::of_node(name, Role::Ca, "*/*", 1_000) }
    }

    pub fn capture(&mut self, message: &Message) {
        if matches!(message, Message::Push(_)) {
            if self.captured.len() == CAPTURED {
                self.captured.pop_front();
            }
            self.captured.push_back(message.clone());
        }
    }

    /// What it sends to all its links now.
    pub fn attack(&self, node: &Process, others: &[NodeName], wall_ms: u64, rng: &mut SmallRng) -> Vec<Message> {
        let own = &node.identity.credential;
        let Some(victim) = others.choose(rng) else { return Vec::new() };
        if node.identity.is_relay && rng.random() {
            return vec![facts([as_relay(node, own, rng)])];
        }
        match rng.random_range(0..10) {
            0 => vec![facts([forged(node, victim, own, rng)])],
            1 => {
                // Signed by nobody.
                let mut fact = forged(node, victim, own, rng);
                fact.signature = vec![rng.random(); 8];
                vec![facts([fact])]
            }
            2 => self.captured.iter().cloned().collect(),
            3 => vec![rumours(node, others, rng)],
            4 => {
                let len = *[0, 1, 100, MAX_PUSH_LEN + 1].choose(rng).unwrap_or(&0);
                vec![Message::Push(Bytes::from(vec![rng.random(); len]))]
            }
            5 => {
                let fact = forged(node, victim, own, rng);
                vec![facts(vec![fact; MAX_PUSH_ITEMS + 1])]
            }
            6 => {
                // With a grant that has ended, for accounts that the valid one does not allow.
                let mut record = record::of(node.identity.address.ip(), rng.random());
                record.endpoints[0].service_account = "admin".parse().expect("an account");
                let body = record.encode().unwrap_or_default();
                let name = node.identity.name.clone();
                vec![facts([signed(name, node.incarnation + 1, 1, FactKind::NODE, body, &self.stale)])]
            }
            7 => vec![document(node, own, wall_ms, rng)],
            8 => {
                // Two bodies with one version, of ever other kinds, faster than allowed.
                let kind = FactKind(rng.random_range(100..200));
                let two = |body| signed(node.identity.name.clone(), node.incarnation, 1, kind, vec![body], own);
                vec![facts([two(1)]), facts([two(2)])]
            }
            _ => {
                let answer = Response::Facts(vec![forged(node, victim, own, rng); 3]);
                vec![Message::Answer(Arc::new(answer), Pull::default())]
            }
        }
    }
}

fn facts(facts: impl Into<Vec<SignedFact>>) -> Message {
    Message::Push(codec::encode(&Push::Facts(facts.into()), MAX_FRAME_LEN).unwrap_or_default().into())
}

fn signed(owner: NodeName, incarnation: u64, seq: u64, kind: FactKind, body: Vec<u8>, by: &Credential) -> SignedFact {
    let mut fact = SignedFact { owner, incarnation, seq, kind, body, chain: by.chain.clone(), signature: vec![] };
    fact.signature = by.sign(&fact.signed_bytes());
    fact
}

/// What only it may say, and nothing of it is true: nobody lives, or all that was ever invented, in a cell of wonders.
fn as_relay(node: &Process, by: &Credential, rng: &mut SmallRng) -> SignedFact {
    let invented = |rng: &mut SmallRng| NodeId(rng.random());
    let (kind, body) = if rng.random() {
        let (linked, alive) = ((0..50).map(|_| invented(rng)).collect(), (0..50).map(|_| invented(rng)).collect());
        let word = RelayWord { linked, alive, documents: rng.random(), agreed: rng.random() };
        (FactKind::RELAY, word.encode())
    } else {
        let service = |n: u32| format!("ghost-{n}.default").parse::<ServiceName>().expect("a service");
        let ports = vec![IndexedPort { port: 80, protocol: Protocol::Http, endpoints: u32::MAX }];
        let services = (0..200).map(|_| (service(rng.random()), ports.clone())).collect();
        let wants = (0..200).map(|_| service(rng.random())).collect();
        (FactKind::CELL, CellSummary { nodes: u32::MAX, services, wants }.encode())
    };
    let seq = node.progress.get(&node.me).map_or(1, |version| version.seq) + rng.random_range(1..1_000);
    signed(node.identity.name.clone(), node.incarnation, seq, kind, body.unwrap_or_default(), by)
}

/// The next word of another node, or of one that does not exist.
fn forged(node: &Process, victim: &NodeName, by: &Credential, rng: &mut SmallRng) -> SignedFact {
    let owner: NodeName = match rng.random_ratio(1, 3) {
        true => format!("ghost-{}", rng.random::<u32>()).parse().expect("a name"),
        false => victim.clone(),
    };
    let incarnation = node.progress.get(&owner.id()).map_or(1, |version| version.incarnation);
    let body = record::of(node.identity.address.ip(), 666).encode().unwrap_or_default();
    signed(owner, incarnation, u64::MAX >> 1, FactKind::NODE, body, by)
}

/// A document that only others may write: as itself, or in the name of one of them.
fn document(node: &Process, by: &Credential, wall_ms: u64, rng: &mut SmallRng) -> Message {
    let key = record::document_key(rng.random_range(0..10));
    let stamp = Stamp { millis: wall_ms, counter: 0 };
    let author = node.documents.snapshot().first().map(|document| document.author.clone());
    let author = author.filter(|_| rng.random()).unwrap_or_else(|| by.id.clone());
    let mut document = SignedDocument {
        key,
        stamp,
        created: stamp,
        author,
        body: rng.random::<bool>().then(|| "forged".into()),
        chain: by.chain.clone(),
        signature: vec![],
    };
    document.signature = by.sign(&document.signed_bytes());
    Message::Push(codec::encode(&Push::Documents(vec![document]), MAX_FRAME_LEN).unwrap_or_default().into())
}

/// Members that do not exist, and lies about those that do.
fn rumours(node: &Process, others: &[NodeName], rng: &mut SmallRng) -> Message {
    let address = |n: u8| SocketAddr::from(([203, 0, 113, n], 15008));
    let mut rumours = Vec::new();
    for _ in 0..40 {
        let name: NodeName = format!("ghost-{}", rng.random::<u32>()).parse().expect("a name");
        let member = Member {
            incarnation: 1,
            address: address(rng.random()),
            live: true,
            name: Some(name.clone()),
            facts: None,
            documents: None,
        };
        rumours.push((name.id(), Arc::new(Rumour { member, heartbeat: 1 })));
    }
    let truth = node.rumours();
    for (id, rumour) in truth.iter().filter(|(id, _)| others.iter().any(|other| other.id() == *id)) {
        let mut lie = (**rumour).clone();
        match rng.random_range(0..4) {
            0 => lie.member.incarnation = u64::MAX >> 24,
            1 => lie.heartbeat = u64::MAX,
            2 => lie.member.facts = Some(FactVersion { incarnation: u64::MAX, seq: u64::MAX }),
            _ => (lie.member.facts, lie.member.documents) = (None, Some(rng.random())),
        }
        lie.heartbeat = lie.heartbeat.saturating_add(1);
        if rng.random_ratio(1, 4) {
            rumours.push((*id, Arc::new(lie)));
        }
    }
    Message::Gossip { rumours: Arc::new(rumours), answer: rng.random(), cell: node.identity.cell.clone() }
}
