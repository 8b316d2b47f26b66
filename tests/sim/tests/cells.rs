//! Meshes of several cells.

use std::time::Duration;

use weft_sim::{
    plan::Fault,
    stories::{self, Cells},
    world::World,
};

/// After all is over, within this all know what they have a reason to know, and nothing else.
const PEACE: Duration = Duration::from_secs(30);

/// Nodes of one cell of two: every second.
fn cell(nodes: usize) -> u128 {
    (0..nodes).step_by(2).fold(0, |side, node| side | 1 << node)
}

fn holds(nodes: usize, cells: usize, hostile: bool, faults: &[Fault]) -> World {
    stories::cells(Cells { cells, nodes, hostile, seed: 1 }, faults, PEACE)
        .unwrap_or_else(|broken| panic!("at {:?}: {}\n{}", broken.at, broken.what, broken.events.join("\n")))
}

#[test]
fn cells_pass_documents_whole_and_of_facts_what_is_wanted() {
    let world = holds(12, 2, false, &[]);
    let (_, _, relay) = world.honest().next().expect("it lives");
    let summaries: Vec<_> = relay.facts.relays().filter_map(|relay| relay.summary).collect();
    assert_eq!(summaries.len(), 4);
    assert!(summaries.iter().all(|summary| summary.nodes == 6 && summary.services.len() == 2), "{summaries:?}");
}

#[test]
fn three_cells_hold_together() {
    holds(18, 3, false, &[]);
}

#[test]
fn a_relay_may_die_for_good() {
    holds(12, 2, false, &[Fault::Dead(0)]);
}

#[test]
fn a_relay_may_be_away_and_come_back_with_an_old_disk() {
    holds(12, 2, false, &[Fault::Crash { node: 1, old_disk: true }]);
}

#[test]
fn cells_that_were_parted_come_together() {
    holds(12, 2, false, &[Fault::Partition(cell(12))]);
}

#[test]
fn cells_bear_loss_and_slow_links() {
    holds(12, 2, false, &[Fault::Loss(20), Fault::Delay(Duration::from_millis(300)), Fault::Pause(3)]);
}

#[test]
fn a_hostile_relay_speaks_for_itself_alone() {
    // The fourth is a relay of the second cell.
    holds(4, 2, true, &[]);
}

#[test]
fn deletions_leave_memory_when_all_cells_have_them() {
    let world = holds(12, 2, false, &[]);
    let forgotten = |(_, _, process): (_, _, &weft_sim::process::Process)| {
        process.counts.get("deletion_forgotten").copied().unwrap_or_default()
    };
    assert!(world.honest().map(forgotten).all(|count| count > 0));
}
