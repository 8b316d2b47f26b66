//! Meshes of many seeds, each with faults of its own.

use weft_sim::{
    run::{Healed, run, run_with_calls},
    world::Broken,
};

/// Seeds in each of the tests below, which run beside each other: few enough for the busiest machine.
const SEEDS: u64 = 125;
/// Meshes whose nodes call each other take longer.
const SEEDS_WITH_CALLS: u64 = 25;

fn hold(run: fn(u64) -> Result<Healed, Broken>, seeds: impl IntoIterator<Item = u64>) {
    for seed in seeds {
        if let Err(broken) = run(seed) {
            let events = broken.events.join("\n");
            panic!("seed {seed} at {:?}: {}\nlast events:\n{events}", broken.at, broken.what);
        }
    }
}

macro_rules! parts {
    ($run:ident, $seeds:ident: $($name:ident: $part:literal,)*) => {
        $(#[test]
        fn $name() {
            hold($run, $part * $seeds..($part + 1) * $seeds);
        })*
    };
}

parts! {
    run, SEEDS:
    meshes_heal_00: 0,
    meshes_heal_01: 1,
    meshes_heal_02: 2,
    meshes_heal_03: 3,
    meshes_heal_04: 4,
    meshes_heal_05: 5,
    meshes_heal_06: 6,
    meshes_heal_07: 7,
    meshes_heal_08: 8,
    meshes_heal_09: 9,
    meshes_heal_10: 10,
    meshes_heal_11: 11,
    meshes_heal_12: 12,
    meshes_heal_13: 13,
    meshes_heal_14: 14,
    meshes_heal_15: 15,
}

parts! {
    run_with_calls, SEEDS_WITH_CALLS:
    circuits_heal_0: 0,
    circuits_heal_1: 1,
    circuits_heal_2: 2,
    circuits_heal_3: 3,
    circuits_heal_4: 4,
    circuits_heal_5: 5,
    circuits_heal_6: 6,
    circuits_heal_7: 7,
}

/// After a partition of more than ten minutes, news of a node that came before it was a member again was dropped, and
/// not taken back for a while.
#[test]
fn news_after_a_long_partition_stays() {
    hold(run, [20]);
}

/// A later incarnation's fact of another kind, which came first, took the node's record away.
#[test]
fn a_restarted_node_keeps_its_endpoints() {
    hold(run, [578]);
}

/// What was dropped with its owner was taken back in an older version when that was a member again.
#[test]
fn nothing_older_than_what_was_dropped_comes_back() {
    hold(run, [160]);
}

/// Else the rule that nothing deleted comes back says nothing of deletions that nodes let go of.
#[test]
fn deletions_are_forgotten_and_some_are_needed_again() {
    let healed: Vec<_> = (0..40).map(|seed| run(seed).expect("these seeds hold")).collect();
    let forgotten: u64 = healed.iter().map(|healed| healed.forgotten).sum();
    let recalled: u64 = healed.iter().map(|healed| healed.recalled).sum();
    assert!(forgotten > 100 && recalled > 0, "{forgotten} forgotten, {recalled} recalled");
}

#[test]
fn a_run_repeats() {
    let once = || run(7).map(|healed| (healed.state, healed.standings)).map_err(|broken| (broken.at, broken.what));
    assert_eq!(once(), once());
}
