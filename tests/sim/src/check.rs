//! The rules that hold at any time, and how a mesh looks that is at peace.

use std::{collections::BTreeMap, time::Duration};

use weft_discovery::{facts::KEEP_GONE, liveness::Status};
use weft_wire::fact::FactKind;

use crate::{
    node::{Fate, INBOX},
    process::Process,
    world::World,
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
