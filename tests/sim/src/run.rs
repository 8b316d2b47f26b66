//! A run of one seed: faults, then peace.

use std::time::Duration;

use crate::{
    check,
    process::KEEP_DELETED,
    world::{Broken, World},
};

/// After the last fault every live node has every live record and document within this.
pub const SAME_STATE: Duration = Duration::from_secs(15);
/// Where a member spoils what gossip says of others, what was lost without a trace is found by the routine pull.
pub const SAME_STATE_IF_SPOILED: Duration = Duration::from_secs(35);
/// And knows of every other whether it lives.
pub const SAME_STANDINGS: Duration = Duration::from_secs(30);
/// And uses all endpoints that are well: ejections grow longer, and have to end.
pub const SAME_CIRCUITS: Duration = Duration::from_secs(180);
const STEP: Duration = Duration::from_millis(500);
/// Stamps may be so far ahead of a clock, and clocks so far off each other.
const STAMPS: Duration = Duration::from_millis(3_000);

/// How long peace took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Healed {
    pub state: Duration,
    pub standings: Duration,
    pub circuits: Duration,
    /// Deletions that nodes let go of, and that they had to recall.
    pub forgotten: u64,
    pub recalled: u64,
}

/// # Errors
/// [`Broken`]
pub fn run(seed: u64) -> Result<Healed, Broken> {
    go(World::new(seed))
}

/// A run in which nodes call each other and share their circuits.
///
/// # Errors
/// [`Broken`]
pub fn run_with_calls(seed: u64) -> Result<Healed, Broken> {
    go(World::with_calls(seed))
}

fn go(mut world: World) -> Result<Healed, Broken> {
    let quiet_at = world.plan.quiet_at;
    while world.now < quiet_at {
        step(&mut world)?;
    }
    world.rest();
    let begin = world.now;
    let stamps = (world.stamps_are_past() + STAMPS).max(world.all_is_read()).max(begin);
    let within = if world.plan.hostile { SAME_STATE_IF_SPOILED } else { SAME_STATE };
    let state = check_until(&mut world, stamps, within, check::state_differs)?;
    let standings = check_until(&mut world, begin, SAME_STANDINGS, check::standings_differ)?;
    let circuits = check_until(&mut world, begin, SAME_CIRCUITS, World::circuits_differ)?;
    // It stays so.
    for _ in 0..4 {
        step(&mut world)?;
    }
    // All deletions have left the digests by then.
    let settled = world.now.max(stamps) + KEEP_DELETED;
    while world.now < settled {
        step(&mut world)?;
    }
    match check::state_differs(&world).or_else(|| check::digests_differ(&world)) {
        Some(what) => Err(world.broken(what)),
        None => {
            let counted = |what| {
                let alive = world.nodes.iter().filter_map(|node| node.process.as_ref()).map(|process| &process.counts);
                let counts = world.nodes.iter().map(|node| &node.counts).chain(alive);
                counts.filter_map(|counts| counts.get(what)).sum()
            };
            let (forgotten, recalled) = (counted("deletion_forgotten"), counted("deletion_recalled"));
            Ok(Healed { state, standings, circuits, forgotten, recalled })
        }
    }
}

/// Goes on until nothing differs; returns how long that took.
fn check_until(
    world: &mut World,
    from: Duration,
    within: Duration,
    differs: fn(&World) -> Option<String>,
) -> Result<Duration, Broken> {
    while let Some(what) = differs(world) {
        if world.now >= from + within {
            return Err(world.broken(what));
        }
        step(world)?;
    }
    Ok(world.now.saturating_sub(from))
}

fn step(world: &mut World) -> Result<(), Broken> {
    world.run_until(world.now + STEP)?;
    check::at_any_time(world).map_err(|what| world.broken(what))
}
