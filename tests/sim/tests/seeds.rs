//! Meshes of many seeds, each with faults of its own.

use weft_sim::run::run;

/// Seeds in each of the tests below, which run beside each other.
const SEEDS: u64 = 250;

fn hold(seeds: impl IntoIterator<Item = u64>) {
    for seed in seeds {
        if let Err(broken) = run(seed) {
            let events = broken.events.join("\n");
            panic!("seed {seed} at {:?}: {}\nlast events:\n{events}", broken.at, broken.what);
        }
    }
}

macro_rules! parts {
    ($($name:ident: $part:literal,)*) => {
        $(#[test]
        fn $name() {
            hold($part * SEEDS..($part + 1) * SEEDS);
        })*
    };
}

parts! {
    meshes_heal_0: 0,
    meshes_heal_1: 1,
    meshes_heal_2: 2,
    meshes_heal_3: 3,
    meshes_heal_4: 4,
    meshes_heal_5: 5,
    meshes_heal_6: 6,
    meshes_heal_7: 7,
}

/// After a partition of more than ten minutes, news of a node that came before it was a member again was dropped, and
/// not taken back for a while.
#[test]
fn news_after_a_long_partition_stays() {
    hold([20]);
}

/// A later incarnation's fact of another kind, which came first, took the node's record away.
#[test]
fn a_restarted_node_keeps_its_endpoints() {
    hold([578]);
}

/// What was dropped with its owner was taken back in an older version when that was a member again.
#[test]
fn nothing_older_than_what_was_dropped_comes_back() {
    hold([160]);
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
