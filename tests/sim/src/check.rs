//! The rules that hold at any time, and how a mesh looks that is at peace.

use std::{collections::BTreeMap, time::Duration};

use weft_discovery::{facts::KEEP_GONE, liveness::Status};
use weft_wire::fact::{FactKind, FactVersion};

use crate::{
    node::{Fate, INBOX},
    process::{Identity, Process},
    world::{AUTHORS, World},
};

/// How exactly it is known when a node was a member last.
const UNSURE: Duration = Duration::from_secs(10);
/// Kinds that simulated nodes say, and one to spare.
const REGISTERS_PER_OWNER: usize = 16;

/// # Errors
/// Which rule is broken.
pub fn at_any_time(world: &mut World) -> Result<(), String> {
    bounds(world)?;
    let owners: Vec<_> = world.nodes.iter().map(|node| node.identity.name.clone()).collect();
    let now = world.now;
    for n in (0..world.nodes.len()).filter(|&n| world.is_honest(n)).collect::<Vec<_>>() {
        let node = &mut world.nodes[n];
        let Some(process) = &node.process else { continue };
        let statuses: BTreeMap<_, _> = process.peers.statuses().collect();
        for owner in &owners {
            let id = owner.id();
            let is_member = id == process.me || matches!(statuses.get(&id), Some(Status::Alive | Status::Suspect));
            let held = process.facts.get(owner, FactKind::NODE).is_some();
            match node.known.get(&id) {
                None if !held => {}
                Some(&since) if !held && now.saturating_sub(since) + UNSURE < KEEP_GONE => {
                    return Err(format!("n{n} has dropped the endpoints of {owner}, to it a member until {since:?}"));
                }
                Some(_) if !held => drop(node.known.remove(&id)),
                Some(_) if !is_member => {}
                _ => drop(node.known.insert(id, now)),
            }
        }
    }
    Ok(())
}

fn bounds(world: &World) -> Result<(), String> {
    for (n, node, process) in world.honest() {
        let owners = world.nodes.len() * REGISTERS_PER_OWNER;
        // All peers, and some of whom only rumours tell.
        let addresses = world.nodes.len() + 16;
        let counts = [
            ("messages in the inbox", node.inbox, INBOX),
            ("facts to be saved", process.unsaved_facts.len(), owners),
            ("documents to be saved", process.unsaved_documents.len(), process.documents.snapshot().len()),
            ("addresses to be held", process.held.len(), addresses),
        ];
        if let Some((what, count, bound)) = counts.iter().find(|(_, count, bound)| count > bound) {
            return Err(format!("n{n}: {count} {what}, and {bound} are the bound"));
        }
    }
    let queue = world.network.longest_queue();
    if queue > weft_discovery::links::QUEUE {
        return Err(format!("{queue} messages wait on a link"));
    }
    Ok(())
}

/// What keeps the mesh from being at peace, as to what nodes hold: every live node has every live node's facts in the
/// newest version, all have the same documents, and none of them is one that was deleted. That none has gone back on one,
/// the ledger sees to. Circuits are said anew for as long as they hold, so that some are always on their way: what comes of
/// them is [`World::circuits_differ`].
pub fn state_differs(world: &World) -> Option<String> {
    let own =
        |process: &Process| process.facts.have().into_iter().filter(|(id, ..)| *id == process.me).collect::<Vec<_>>();
    let said: Vec<_> = world.honest().map(|(_, node, process)| (&node.identity.name, own(process))).collect();
    for (n, _, process) in world.honest() {
        for (owner, versions) in &said {
            for &(_, kind, version) in versions.iter().filter(|(_, kind, _)| *kind != FactKind::CIRCUITS) {
                let held = process.facts.get(owner, kind).map(|fact| fact.version());
                if held != Some(version) {
                    return Some(format!("n{n} has {kind:?} of {owner} in {held:?}, not {version:?}"));
                }
            }
        }
    }
    for (n, _, process) in world.honest() {
        for document in process.documents.iter() {
            if let Err(what) = world.ledger.check_not_forgotten(document) {
                return Some(format!("at n{n} {what}"));
            }
        }
    }
    // Not the digests: deletions leave these when each node's own clock says so.
    let mut documents = world.honest().map(|(_, _, process)| {
        process.documents.iter().map(|document| (&document.key, document.stamp)).collect::<Vec<_>>()
    });
    let first = documents.next()?;
    documents.any(|documents| documents != first).then(|| "documents differ".into())
}

/// What keeps digests from being the same, when no deletion is about to leave them.
pub fn digests_differ(world: &World) -> Option<String> {
    let mut roots = world.honest().map(|(_, _, process)| process.root);
    let first = roots.next()?;
    roots.any(|root| root != first).then(|| "digests of documents differ".into())
}

/// What keeps the mesh from being at peace, as to who lives.
pub fn standings_differ(world: &World) -> Option<String> {
    for (n, _, process) in world.honest() {
        for (m, other) in world.nodes.iter().enumerate().filter(|&(m, _)| m != n && world.is_honest(m)) {
            let id = other.identity.name.id();
            let status = process.peers.statuses().find(|(node, _)| *node == id).map(|(_, status)| status);
            let fits = match other.fate {
                Fate::Lives => status == Some(Status::Alive),
                Fate::Down | Fate::Dead | Fate::Left => !matches!(status, Some(Status::Alive | Status::Suspect)),
            };
            if !fits {
                return Some(format!("to n{n} n{m} is {status:?}, but {:?}", other.fate));
            }
        }
    }
    None
}

/// Whether a node of a mesh of several cells has a reason to know another.
fn has_reason_to_know(here: &Identity, m: usize, there: &Identity) -> bool {
    here.cell == there.cell || there.is_relay || m < AUTHORS || here.wants.contains(&there.service)
}

fn record_of(there: &Identity, at: &Process) -> Option<FactVersion> {
    Some(at.facts.get(&there.name, FactKind::NODE)?.version())
}

/// What some node of a mesh of several cells knows without a reason.
pub fn cells_know_too_much(world: &World) -> Option<String> {
    for (n, node, process) in world.honest() {
        let others = world.honest().filter(|&(m, other, _)| !has_reason_to_know(&node.identity, m, &other.identity));
        for (m, other, _) in others {
            if let Some(held) = record_of(&other.identity, process) {
                return Some(format!("n{n} has n{m}'s record in {held:?}, which is none of its business"));
            }
        }
    }
    None
}

/// What keeps a mesh of several cells from being at peace: in each cell every live node has the newest record of every
/// live node of its own cell and of those of the others that it has a reason to know, and holds them for alive; and all
/// have the same documents.
pub fn cells_differ(world: &World) -> Option<String> {
    for (n, node, process) in world.honest() {
        let others =
            world.honest().filter(|&(m, other, _)| m != n && has_reason_to_know(&node.identity, m, &other.identity));
        for (m, other, its_process) in others {
            let there = &other.identity;
            let (held, said) = (record_of(there, process), record_of(there, its_process));
            if held != said {
                return Some(format!("n{n} has n{m}'s record in {held:?}, not {said:?}"));
            }
            let id = there.name.id();
            let status = process.peers.statuses().find(|(node, _)| *node == id).map(|(_, status)| status);
            if status != Some(Status::Alive) {
                return Some(format!("to n{n} n{m} is {status:?}"));
            }
        }
    }
    for (n, node, process) in world.honest() {
        for (m, gone) in world.nodes.iter().enumerate().filter(|(_, gone)| gone.fate != Fate::Lives) {
            let id = gone.identity.name.id();
            let status = process.peers.statuses().find(|(node, _)| *node == id).map(|(_, status)| status);
            if matches!(status, Some(Status::Alive | Status::Suspect)) {
                return Some(format!("to n{n} of {} n{m} is {status:?}, but {:?}", node.identity.cell, gone.fate));
            }
        }
    }
    let mut documents = world.honest().map(|(_, _, process)| {
        process.documents.iter().map(|document| (&document.key, document.stamp)).collect::<Vec<_>>()
    });
    let first = documents.next()?;
    documents.any(|documents| documents != first).then(|| "documents differ".into())
}
