//! One running node: the cores of `weft_discovery`, put together as the node's actors do it (`node/src/actors`). What
//! it wants done comes out as [`Effect`]s.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use rand::rngs::SmallRng;
use weft_discovery::{
    cells::{Abroad, Known},
    change::Change,
    coalesce::Coalesce,
    documents::{DocumentTable, NotTaken},
    facts::{self, FactTable, Unsaved},
    links::{Links, Unneeded, messages},
    liveness::Status,
    membership::{Member, MemberSet},
    overlay::DialSchedule,
    peers::{Peers, Said},
    pull::{MAX_ANSWER, Pull},
    repair::{Held, Repair},
};
use weft_policy::{balance::Outcome, endpoint::Endpoint};
use weft_wire::{
    cell::{CellSummary, RelayWord, Wants},
    codec,
    document::{DocumentKey, SignedDocument, Stamp},
    fact::{FactBody, FactKind, FactVersion, NodeRecord, NodeState, SignedFact},
    frame::{MAX_PUSH_LEN, MESH_PORT, Push, Request, Response},
    id::{CellName, NodeId, NodeName, Role, ServiceName},
};

use crate::{
    callers::Callers,
    gossip::{Gossip, Rumours},
    identity::{Credential, SimAuthority, role},
    network::LinkId,
    record,
};

/// What stays when the process ends.
#[derive(Clone, Default)]
pub struct Disk {
    pub incarnation: u64,
    pub facts: BTreeMap<(NodeName, FactKind), Arc<SignedFact>>,
    pub documents: BTreeMap<DocumentKey, Arc<SignedDocument>>,
    /// Deletions that all members know.
    pub archive: BTreeMap<DocumentKey, Arc<SignedDocument>>,
    pub high_water: Stamp,
    pub remembered: BTreeSet<SocketAddr>,
}

/// Who a node is, over all its lives.
#[derive(Clone)]
pub struct Identity {
    pub name: NodeName,
    pub address: SocketAddr,
    pub credential: Credential,
    pub seeds: Vec<SocketAddr>,
    pub cell: CellName,
    pub is_relay: bool,
    /// What it hosts, and what it wants of other cells.
    pub service: ServiceName,
    pub wants: BTreeSet<ServiceName>,
}

#[derive(Clone)]
pub enum Message {
    Push(Bytes),
    Gossip {
        rumours: Rumours,
        answer: bool,
        /// Others do not listen.
        cell: CellName,
    },
    Ask(Request, Pull),
    Answer(Arc<Response>, Pull),
    /// The queue was too short for all that the peer had to push.
    Missed,
    /// The peer ended the link on purpose.
    Close,
}

/// What a node wants done, and what it did that is to be checked.
pub enum Effect {
    Send(LinkId, Message),
    Dial(SocketAddr),
    /// Ends a link that the node no longer counts.
    Close(LinkId),
    /// Ends a link that it does count.
    End(LinkId),
    /// It said this of itself.
    Said(Arc<SignedFact>),
    /// It wrote this document.
    Wrote(Arc<SignedDocument>),
    /// It took in what another had said or written.
    TookFact(Arc<SignedFact>),
    TookDocument(Arc<SignedDocument>),
    /// It let go of a deletion.
    Forgot(Arc<SignedDocument>),
}

/// A node's moment: its own clocks, its dice, and where its effects go.
pub struct Context<'a> {
    pub now: Instant,
    pub wall_ms: u64,
    pub rng: &'a mut SmallRng,
    pub effects: &'a mut Vec<Effect>,
}

/// Things that did not go well, by what they were.
pub type Counts = BTreeMap<&'static str, u64>;

#[derive(Clone, Copy)]
pub struct Link {
    pub id: LinkId,
    pub address: SocketAddr,
    pub dialled: bool,
}

pub struct Process {
    pub identity: Identity,
    pub me: NodeId,
    pub incarnation: u64,
    pub facts: FactTable,
    pub documents: DocumentTable,
    pub peers: Peers,
    pub links: Links<Link>,
    pub unsaved_facts: Unsaved,
    pub unsaved_documents: BTreeMap<DocumentKey, Arc<SignedDocument>>,
    /// As on disk, and what is to be moved there.
    pub archive: BTreeMap<DocumentKey, Arc<SignedDocument>>,
    /// How much is known of each owner, and of the documents: as published for readers.
    pub progress: BTreeMap<NodeId, FactVersion>,
    pub root: [u8; 16],
    pub held: BTreeSet<SocketAddr>,
    pub counts: Counts,
    pub state: NodeState,
    /// What the next record says is different.
    revision: u64,
    coalesce: Coalesce,
    facts_changed: bool,
    repair: Repair,
    schedule: DialSchedule,
    unneeded: Unneeded<LinkId>,
    gossip: Gossip,
    /// What it knows of other cells, and what gossip said of its own.
    pub abroad: Abroad,
    gossiped: Arc<MemberSet>,
    /// What it told last as a relay.
    word: Option<RelayWord>,
    first_word: Instant,
    summary: Option<CellSummary>,
    /// Where nodes call each other.
    pub callers: Option<Callers>,
}

impl Process {
    /// A process that begins with what is on disk.
    pub fn start(identity: Identity, disk: &mut Disk, cx: &mut Context<'_>) -> Self {
        // As `Store::next_incarnation`: a copy of an old disk alone does not bring an old incarnation back.
        disk.incarnation = (disk.incarnation + 1).max(cx.wall_ms / 1_000);
        let (incarnation, me) = (disk.incarnation, identity.name.id());
        let stored = disk.facts.values().map(|fact| (**fact).clone());
        let facts = FactTable::new(identity.name.clone(), incarnation, stored)
            .with_roles(|fact| role(&fact.chain))
            .in_cell(identity.cell.clone(), role(&identity.credential.chain).unwrap_or(Role::Member));
        let archived = disk.archive.iter().map(|(key, deletion)| (key.clone(), deletion.version()));
        let mut documents = DocumentTable::restore(disk.documents.values().map(|d| (**d).clone()), disk.high_water)
            .with_archive(archived, KEEP_DELETED);
        documents.age(cx.wall_ms);
        let mut process = Self {
            me,
            incarnation,
            facts,
            root: documents.root(),
            documents,
            peers: Peers::new(me, rand::Rng::random(cx.rng), disk.remembered.clone())
                .in_cell(identity.cell.clone(), identity.is_relay),
            abroad: Abroad::default(),
            gossiped: Arc::default(),
            word: None,
            first_word: cx.now + FIRST_WORD,
            summary: None,
            links: Links::default(),
            unsaved_facts: Unsaved::default(),
            unsaved_documents: BTreeMap::new(),
            archive: disk.archive.clone(),
            progress: BTreeMap::new(),
            held: BTreeSet::new(),
            counts: Counts::new(),
            state: NodeState::Up,
            revision: 0,
            coalesce: Coalesce::default(),
            facts_changed: true,
            repair: Repair::default(),
            schedule: DialSchedule::default(),
            unneeded: Unneeded::default(),
            gossip: Gossip::new(me),
            callers: None,
            identity,
        };
        process.say(cx);
        if !process.identity.wants.is_empty() {
            let wants = Wants { services: process.identity.wants.clone() };
            process.publish_fact(FactKind::WANTS, wants.encode().unwrap_or_default(), cx);
        }
        process.publish();
        process
    }

    // What the node is told to do.

    /// Something about its workloads has changed.
    pub fn change(&mut self) {
        self.revision += 1;
        self.coalesce.changed();
    }

    pub fn set_state(&mut self, state: NodeState, cx: &mut Context<'_>) {
        self.state = state;
        self.say(cx);
    }

    /// Says something of a kind that no build knows.
    pub fn say_other(&mut self, kind: FactKind, cx: &mut Context<'_>) {
        self.revision += 1;
        self.publish_fact(kind, self.revision.to_be_bytes().to_vec(), cx);
    }

    /// Writes or deletes a document, on disk before it is spread.
    pub fn write(&mut self, key: DocumentKey, body: Option<String>, disk: Option<&mut Disk>, cx: &mut Context<'_>) {
        let author = self.identity.credential.id.clone();
        let Ok(mut document) = self.documents.draft(key, body, author, cx.wall_ms) else {
            return self.count("document_not_drafted");
        };
        document.chain = self.identity.credential.chain.clone();
        document.signature = self.identity.credential.sign(&document.signed_bytes());
        let Ok(checked) = self.documents.check(document, &SimAuthority, cx.wall_ms) else {
            return self.count("document_not_written");
        };
        let Some(disk) = disk else { return self.count("disk_full") };
        let document = self.documents.store(checked);
        self.archive.remove(&document.key);
        save_documents(disk, [document.clone()], self.documents.high_water());
        cx.effects.push(Effect::Wrote(document.clone()));
        self.spread(&Push::Documents(vec![(*document).clone()]), None, cx);
        self.root = self.documents.root();
    }

    // What the links actor does.

    pub fn on_link_up(&mut self, link: Link, name: &NodeName, cx: &mut Context<'_>) {
        let (node, address) = (name.id(), link.address);
        if let Some(surplus) = self.links.add(node, link) {
            cx.effects.push(Effect::Close(surplus.id));
        }
        self.schedule.connected(address, cx.now);
        // What was missed while there was no link is asked for at once.
        self.repair.asked(node, cx.now);
        self.pull_facts(node, Pull::default(), cx);
        self.pull_documents(node, Pull::default(), cx);
        let changes = self.peers.on_link_up(node, name.clone(), address, cx.now);
        self.report(changes);
        self.hold(cx);
    }

    pub fn on_link_down(&mut self, id: LinkId, node: NodeId, on_purpose: bool, cx: &mut Context<'_>) {
        let Some(address) = self.links.all().find(|(_, link)| link.id == id).map(|(_, link)| link.address) else {
            return;
        };
        if self.links.remove(node, |link| link.id == id) {
            self.schedule.disconnected(address, cx.now, cx.rng);
            let changes = self.peers.on_link_down(node, on_purpose, cx.now);
            self.report(changes);
            self.hold(cx);
        }
    }

    pub fn on_dialled(&mut self, address: SocketAddr, connected: bool, cx: &mut Context<'_>) {
        if connected {
            return self.schedule.connected(address, cx.now);
        }
        self.schedule.failed(address, cx.now, cx.rng);
        let links = &self.links;
        let changes = self.peers.on_dial_failed(address, |node| links.to(node).is_some(), cx.now);
        self.report(changes);
        self.hold(cx);
    }

    pub fn on_message(&mut self, id: LinkId, from: NodeId, message: Message, cx: &mut Context<'_>) {
        match message {
            Message::Push(bytes) => {
                match codec::decode::<Push>(&bytes, MAX_PUSH_LEN).map(|push| (push.check(), push)) {
                    Ok((Ok(()), Push::Facts(facts))) => {
                        self.merge_facts(facts, Some(from), cx);
                    }
                    Ok((Ok(()), Push::Documents(documents))) => {
                        self.merge_documents(documents, Some(from), cx);
                    }
                    Ok((Err(_), _)) | Err(_) => self.count("malformed"),
                }
            }
            Message::Gossip { cell, .. } if cell != self.identity.cell => {}
            Message::Gossip { rumours, answer, cell } => {
                self.gossip.merge(&rumours, cx.now);
                if answer {
                    let message = Message::Gossip { rumours: self.gossip.tell(), answer: false, cell };
                    cx.effects.push(Effect::Send(id, message));
                }
            }
            Message::Ask(request, pull) => match self.recall_and_answer(from, request, cx) {
                Some(response) => cx.effects.push(Effect::Send(id, Message::Answer(Arc::new(response), pull))),
                None => self.count("malformed"),
            },
            Message::Answer(response, mut pull) => match (*response).clone() {
                Response::Facts(facts) => {
                    let news = self.merge_facts(facts, Some(from), cx);
                    if pull.again(news) {
                        self.pull_facts(from, pull, cx);
                    }
                }
                Response::Documents(documents) => {
                    let news = self.merge_documents(documents, Some(from), cx);
                    if pull.again(news) {
                        self.pull_documents(from, pull, cx);
                    }
                }
                _ => self.count("malformed"),
            },
            Message::Missed => self.repair.missed(from),
            Message::Close => self.on_link_down(id, from, true, cx),
        }
    }

    fn recall_and_answer(&mut self, from: NodeId, request: Request, cx: &mut Context<'_>) -> Option<Response> {
        if let Request::PullDocuments { have } = &request {
            self.recall(&self.documents.unheard_deletions(have));
        }
        let is_behind = match &request {
            Request::PullFacts { have } => self.facts.is_behind(from, have),
            Request::PullDocuments { have } => self.documents.is_behind(have),
            _ => false,
        };
        if is_behind {
            self.repair.missed(from);
        }
        self.answer(from, request, cx)
    }

    fn answer(&self, from: NodeId, request: Request, cx: &mut Context<'_>) -> Option<Response> {
        request.check().ok()?;
        match request {
            Request::PullFacts { have } => {
                let first = NodeId(rand::Rng::random(cx.rng));
                let missing = self.facts.missing_for_peer(from, &have, first, MAX_ANSWER);
                Some(Response::Facts(missing.iter().map(|fact| (**fact).clone()).collect()))
            }
            Request::PullDocuments { have } => {
                let missing = self.documents.missing_for(&have, MAX_ANSWER);
                Some(Response::Documents(missing.iter().map(|document| (**document).clone()).collect()))
            }
            _ => None,
        }
    }

    // What the facts and documents actors do.

    fn say(&mut self, cx: &mut Context<'_>) {
        let mut record = NodeRecord { state: self.state, ..record::of(self.identity.address.ip(), self.revision) }
            .in_cell(&self.identity.cell, self.identity.is_relay);
        record.endpoints.iter_mut().for_each(|row| row.service = self.identity.service.clone());
        self.coalesce.said(cx.now);
        match record.encode() {
            Ok(body) => self.publish_fact(FactKind::NODE, body, cx),
            Err(_) => self.count("record_not_said"),
        }
    }

    pub fn publish_fact(&mut self, kind: FactKind, body: Vec<u8>, cx: &mut Context<'_>) {
        let mut fact = self.facts.draft(kind, body);
        fact.chain = self.identity.credential.chain.clone();
        fact.signature = self.identity.credential.sign(&fact.signed_bytes());
        let Ok(fact) = self.facts.publish(fact) else { return self.count("record_not_said") };
        self.unsaved_facts.add(fact.clone());
        cx.effects.push(Effect::Said(fact.clone()));
        self.spread_facts(&[fact], None, cx);
        self.publish();
    }

    fn merge_facts(&mut self, facts: Vec<SignedFact>, from: Option<NodeId>, cx: &mut Context<'_>) -> bool {
        let mut news = Vec::new();
        for fact in facts {
            let effect = match from {
                Some(from) => self.facts.merge_from(from, fact, &SimAuthority, cx.now, cx.wall_ms),
                None => self.facts.merge(fact, &SimAuthority, cx.now, cx.wall_ms),
            };
            match effect {
                facts::Effect::New(fact) => news.push(fact),
                facts::Effect::Old => {}
                facts::Effect::NotWanted => self.count("not_wanted"),
                facts::Effect::Equivocation(changed) => {
                    self.count("equivocation");
                    news.extend(changed);
                }
                facts::Effect::RateLimited => self.count("rate_limited"),
                facts::Effect::OutVersioned(_) => self.count("out_versioned"),
                facts::Effect::Refused(refusal) => self.count(refusal.label()),
            }
        }
        if news.is_empty() {
            return false;
        }
        for fact in &news {
            self.unsaved_facts.add(fact.clone());
            cx.effects.push(Effect::TookFact(fact.clone()));
        }
        self.spread_facts(&news, from, cx);
        self.publish();
        if news.iter().any(|fact| fact.kind == FactKind::CIRCUITS) {
            self.see_to_callers(cx);
        }
        true
    }

    fn merge_documents(&mut self, documents: Vec<SignedDocument>, from: Option<NodeId>, cx: &mut Context<'_>) -> bool {
        let (mut news, mut deleted) = (Vec::new(), Vec::new());
        for document in documents {
            let key = document.key.clone();
            match self.documents.merge(document, &SimAuthority, cx.wall_ms) {
                Ok(document) => news.push(document),
                Err(NotTaken::Old) => {}
                Err(NotTaken::Deleted) => deleted.push(key),
                Err(NotTaken::Quarantined(_)) => self.count("quarantined"),
                Err(NotTaken::Refused(refusal)) => self.count(refusal.label()),
            }
        }
        let recalled = self.recall(&deleted);
        if !recalled.is_empty() {
            self.spread(&Push::Documents(recalled), None, cx);
        }
        if news.is_empty() {
            return false;
        }
        for document in &news {
            self.archive.remove(&document.key);
            self.unsaved_documents.insert(document.key.clone(), document.clone());
            cx.effects.push(Effect::TookDocument(document.clone()));
        }
        self.spread(&Push::Documents(news.iter().map(|document| (**document).clone()).collect()), from, cx);
        self.root = self.documents.root();
        true
    }

    fn recall(&mut self, keys: &[DocumentKey]) -> Vec<SignedDocument> {
        let found: Vec<_> = keys.iter().filter_map(|key| self.archive.get(key)).map(|one| (**one).clone()).collect();
        let recalled: Vec<_> =
            found.into_iter().filter_map(|one| Some((*self.documents.recall(one)?).clone())).collect();
        recalled.iter().for_each(|_| self.count("deletion_recalled"));
        recalled
    }

    /// Lets go of deletions that all members know.
    fn forget_deleted(&mut self, cx: &mut Context<'_>) {
        self.documents.age(cx.wall_ms);
        self.root = self.documents.root();
        self.documents.acknowledged_by(self.abroad.holders(self.peers.rumours(), self.root));
        let members = self.peers.statuses().filter(|(_, status)| *status != Status::Left).map(|(node, _)| node);
        let forgotten = self.documents.forget_deleted(&self.abroad.witnesses(members));
        for deletion in forgotten.archived {
            self.count("deletion_forgotten");
            self.unsaved_documents.remove(&deletion.key);
            cx.effects.push(Effect::Forgot(deletion.clone()));
            self.archive.insert(deletion.key.clone(), deletion);
        }
    }

    fn spread(&mut self, push: &Push, except: Option<NodeId>, cx: &mut Context<'_>) {
        self.spread_to(push, |node| Some(node) != except, cx);
    }

    /// As the facts actor does it.
    fn spread_facts(&mut self, news: &[Arc<SignedFact>], except: Option<NodeId>, cx: &mut Context<'_>) {
        let mut abroad: BTreeMap<CellName, BTreeSet<NodeId>> = BTreeMap::new();
        for (peer, _) in self.links.peers() {
            if let Some(cell) = self.facts.cell_of(peer).filter(|cell| cell != self.facts.home()) {
                abroad.entry(cell).or_default().insert(peer);
            }
        }
        let introductions = self.facts.take_introductions();
        let push = |facts: &[&Arc<SignedFact>]| Push::Facts(facts.iter().map(|fact| (***fact).clone()).collect());
        let here: Vec<_> = news.iter().collect();
        let is_abroad = |peer: NodeId| abroad.values().any(|peers| peers.contains(&peer));
        if !here.is_empty() {
            self.spread_to(&push(&here), |peer| Some(peer) != except && !is_abroad(peer), cx);
        }
        for (cell, peers) in &abroad {
            let Some(one) = peers.first() else { continue };
            let new_there = introductions.get(cell).into_iter().flatten();
            let passing: Vec<_> = news.iter().filter(|fact| self.facts.passes(fact, *one)).chain(new_there).collect();
            if !passing.is_empty() {
                self.spread_to(&push(&passing), |peer| Some(peer) != except && peers.contains(&peer), cx);
            }
        }
    }

    fn spread_to(&self, push: &Push, is_meant: impl Fn(NodeId) -> bool, cx: &mut Context<'_>) {
        for message in messages(push).0 {
            for (_, link) in self.links.peers().filter(|(node, _)| is_meant(*node)) {
                cx.effects.push(Effect::Send(link.id, Message::Push(message.clone())));
            }
        }
    }

    fn publish(&mut self) {
        self.progress = self.facts.progress();
        self.facts_changed = true;
    }

    fn pull_facts(&self, node: NodeId, pull: Pull, cx: &mut Context<'_>) {
        if let Some(link) = self.links.to(node) {
            let request = Request::PullFacts { have: self.facts.have() };
            cx.effects.push(Effect::Send(link.id, Message::Ask(request, pull)));
        }
    }

    fn pull_documents(&self, node: NodeId, pull: Pull, cx: &mut Context<'_>) {
        if let Some(link) = self.links.to(node) {
            let request = Request::PullDocuments { have: self.documents.have() };
            cx.effects.push(Effect::Send(link.id, Message::Ask(request, pull)));
        }
    }

    /// Twice a second: drops the facts of who is gone, and writes to disk, unless that is full.
    pub fn housekeep(&mut self, disk: Option<&mut Disk>, cx: &mut Context<'_>) {
        let statuses: BTreeMap<_, _> = self.peers.statuses().collect();
        let is_member = |node| matches!(statuses.get(&node), Some(Status::Alive | Status::Suspect));
        let dropped = self.facts.expire(cx.now, is_member);
        if !dropped.is_empty() {
            self.publish();
        }
        dropped.iter().for_each(|name| self.unsaved_facts.forget(name));
        self.forget_deleted(cx);
        if self.identity.is_relay {
            let summary = self.facts.summary();
            if self.summary.as_ref() != Some(&summary) {
                self.publish_fact(FactKind::CELL, summary.encode().unwrap_or_default(), cx);
                self.summary = Some(summary);
            }
        }
        self.spread_facts(&[], None, cx);
        let Some(disk) = disk else { return self.count("disk_full") };
        disk.facts.retain(|(name, kind), _| !dropped.contains(name) || *kind == FactKind::SPENT_TOKENS);
        // As `node/src/actors/facts.rs`: after a restart they are no longer true.
        for fact in self.unsaved_facts.take().into_iter().filter(|fact| is_kept(fact)) {
            disk.facts.insert((fact.owner.clone(), fact.kind), fact);
        }
        let documents = std::mem::take(&mut self.unsaved_documents);
        save_documents(disk, documents.into_values(), self.documents.high_water());
        disk.archive.clone_from(&self.archive);
        disk.documents.retain(|key, _| !self.archive.contains_key(key) || self.documents.holds(key));
        disk.remembered.clone_from(self.peers.remembered());
    }

    // What the membership actor does.

    /// Ten times a second.
    pub fn tick(&mut self, cx: &mut Context<'_>) {
        if std::mem::take(&mut self.facts_changed) {
            let others = self.facts.nodes().filter(|(name, ..)| **name != self.identity.name);
            let said = others.map(|(name, version, record)| Said {
                name: name.clone(),
                incarnation: version.incarnation,
                address: SocketAddr::new(record.advertise, MESH_PORT),
                state: record.state,
                cell: record.cell(),
                is_relay: record.is_relay(),
            });
            self.peers.on_met(self.facts.met());
            let changes = self.peers.on_facts(&said.collect::<Vec<_>>(), cx.now);
            self.report(changes);
        }
        self.look_abroad(cx);
        let linked = self.linked();
        let abroad = self.peers.abroad_of(&linked);
        let held = Held { me: self.me, facts: &self.progress, documents: self.root, abroad: &abroad };
        for (peer, missing) in self.repair.due(self.peers.rumours(), &held, &linked, cx.now, cx.rng) {
            if missing.facts {
                self.pull_facts(peer, Pull::default(), cx);
            }
            if missing.documents {
                self.pull_documents(peer, Pull::default(), cx);
            }
        }
        let changes = self.peers.tick(cx.now);
        self.report(changes);
        if self.coalesce.due(cx.now).is_some_and(|at| at <= cx.now) {
            self.say(cx);
        }
        self.see_to_callers(cx);
        self.hold(cx);
        let unneeded = self.links.all().map(|(_, link)| link);
        let unneeded = unneeded.filter(|link| link.dialled && !self.held.contains(&link.address)).map(|link| link.id);
        for id in self.unneeded.to_end(unneeded.collect::<Vec<_>>(), cx.now) {
            cx.effects.push(Effect::End(id));
        }
    }

    fn linked(&self) -> BTreeSet<NodeId> {
        self.links.peers().map(|(node, _)| node).collect()
    }

    fn look_abroad(&mut self, cx: &mut Context<'_>) {
        let linked = self.linked();
        let words = self.facts.relays().filter_map(|relay| Some((relay.name.id(), relay.word?.clone()))).collect();
        let nodes = self.facts.nodes().map(|(name, version, record)| (name, version, &**record));
        let alive = self.members();
        let known = Known { home: &self.identity.cell, nodes, words: &words, linked: &linked };
        self.abroad = Abroad::look(known, |node| node == self.me || alive.contains(&node));
        let rumours = self.abroad.with(&self.gossiped);
        if *rumours != *self.peers.rumours() {
            let changes = self.peers.on_rumours(rumours, cx.now);
            self.report(changes);
        }
        if self.identity.is_relay && self.first_word <= cx.now {
            let word = self.peers.relay_word(&linked, self.root);
            if self.word.as_ref() != Some(&word) {
                self.publish_fact(FactKind::RELAY, word.encode().unwrap_or_default(), cx);
                self.word = Some(word);
            }
        }
    }

    fn hold(&mut self, cx: &mut Context<'_>) {
        let mut wanted = self.peers.wanted(self.identity.seeds.iter().copied());
        wanted.remove(&self.identity.address);
        if wanted != self.held {
            self.schedule.retain(|address| wanted.contains(&address));
            wanted.iter().for_each(|&address| self.want(address, cx.now));
            self.held = wanted;
        }
        cx.effects.extend(self.schedule.due(cx.now).into_iter().map(Effect::Dial));
    }

    fn want(&mut self, address: SocketAddr, now: Instant) {
        self.schedule.add(address, now);
        if self.links.all().any(|(_, link)| link.address == address) {
            self.schedule.connected(address, now);
        }
    }

    // What the view and circuits actors do.

    /// What came of a request.
    pub fn on_outcome(&mut self, endpoint: &Arc<Endpoint>, outcome: Outcome, cx: &mut Context<'_>) {
        if let Some(callers) = &mut self.callers
            && callers.came(endpoint, outcome, cx.now)
        {
            self.see_to_callers(cx);
        }
    }

    fn see_to_callers(&mut self, cx: &mut Context<'_>) {
        let Some(mut callers) = self.callers.take() else { return };
        let members = self.members();
        callers.look(&self.facts, |node| members.contains(&node.id()), cx.now);
        let record = callers.say(cx.wall_ms, cx.now);
        self.callers = Some(callers);
        match record.map(|record| record.encode()) {
            Some(Ok(body)) => self.publish_fact(FactKind::CIRCUITS, body, cx),
            Some(Err(_)) => self.count("record_not_said"),
            None => {}
        }
    }

    /// # Errors
    /// Which rule is broken by what callers make of endpoints.
    pub fn check_callers(&self, now: Instant) -> Result<(), String> {
        let Some(callers) = &self.callers else { return Ok(()) };
        let members = self.members();
        callers.check(&self.facts, |node| members.contains(&node.id()), now)
    }

    fn members(&self) -> BTreeSet<NodeId> {
        let members = self.peers.statuses().filter(|(_, status)| matches!(status, Status::Alive | Status::Suspect));
        members.map(|(node, _)| node).collect()
    }

    /// A round of gossip, as often as `weft_discovery::membership::DEFAULT_INTERVAL` says.
    pub fn gossip(&mut self, cx: &mut Context<'_>) {
        let set = self.heed_rumours(cx);
        let heard: BTreeSet<_> = set.members.values().filter(|member| member.live).map(|m| m.address).collect();
        let mut partners = Gossip::partners(&set, self.me, cx.rng);
        let abroad = self.peers.abroad_of(&self.linked());
        let here = self.links.peers().filter(|(node, _)| !abroad.contains(node));
        partners.extend(here.map(|(_, link)| link.address).filter(|address| !heard.contains(address)));
        let (rumours, cell) = (self.gossip.tell(), self.identity.cell.clone());
        let message = Message::Gossip { rumours, answer: true, cell };
        for address in partners {
            let is_here = |node| !abroad.contains(&node);
            if let Some(link) = self.links.toward(|link| link.address == address, is_here, cx.rng) {
                cx.effects.push(Effect::Send(link.id, message.clone()));
            }
        }
    }

    fn heed_rumours(&mut self, cx: &mut Context<'_>) -> MemberSet {
        let own = Member {
            incarnation: self.incarnation,
            address: self.identity.address,
            live: true,
            name: Some(self.identity.name.clone()),
            facts: self.progress.get(&self.me).copied(),
            documents: Some(self.root),
        };
        self.gossip.beat(own, cx.now);
        let set = self.gossip.members(cx.now);
        if set != *self.gossiped {
            self.gossiped = Arc::new(set.clone());
            self.look_abroad(cx);
        }
        set
    }

    fn report(&mut self, changes: Vec<Change>) {
        changes.into_iter().for_each(|change| self.count(change.what.as_str()));
    }

    pub fn rumours(&self) -> Rumours {
        self.gossip.tell()
    }

    pub fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }
}

fn is_kept(fact: &SignedFact) -> bool {
    !matches!(fact.kind, FactKind::CIRCUITS | FactKind::RELAY)
}

fn save_documents(disk: &mut Disk, documents: impl IntoIterator<Item = Arc<SignedDocument>>, high_water: Stamp) {
    disk.documents.extend(documents.into_iter().map(|document| (document.key.clone(), document)));
    disk.high_water = disk.high_water.max(high_water);
}

/// In place of `weft_discovery::documents::KEEP_DELETED`, so that runs see deletions go.
pub const KEEP_DELETED: Duration = Duration::from_secs(5);
/// How often each of a process's timers runs.
pub const TICK: Duration = Duration::from_millis(100);
/// As the membership actor has it.
const FIRST_WORD: Duration = Duration::from_secs(2);
pub const HOUSEKEEPING: Duration = Duration::from_millis(500);
