//! Single long or large runs, of which the figures are told (`make bench-mesh`).

use std::time::Duration;

use rand::{Rng, SeedableRng, rngs::SmallRng};
use weft_discovery::facts::KEEP_GONE;

use crate::{
    check,
    plan::{Fault, Nodes, Plan, Scheduled},
    world::{Broken, World},
};

/// How exactly times are told.
const STEP: Duration = Duration::from_millis(100);
/// A run that takes longer than this is told as failed.
const PATIENCE: Duration = Duration::from_secs(300);
/// By when a mesh without faults is formed.
const FORMED: Duration = Duration::from_secs(20);

/// Nothing but change: what a story adds to.
pub fn plan(nodes: usize) -> Plan {
    Plan {
        nodes,
        seeds: 2,
        cells: 1,
        hostile: false,
        latency: Duration::from_micros(500),
        faults: Vec::new(),
        quiet_at: FORMED,
        change_every: Duration::from_millis(200),
        documents: 200,
        calls: None,
    }
}

/// Every second node, so that there are authors of documents on both sides.
fn every_second(nodes: usize) -> Nodes {
    (0..nodes).step_by(2).fold(0, |side, node| side | 1 << node)
}

/// How long it takes after a partition, during which both sides write and delete, until all nodes hold the same facts
/// and documents.
///
/// # Errors
/// [`Broken`]
pub fn heal(nodes: usize, length: Duration, pace: u32) -> Result<Duration, Broken> {
    let mut plan = plan(nodes);
    let until = FORMED + length;
    plan.faults.push(Scheduled { at: FORMED, until, fault: Fault::Partition(every_second(nodes)) });
    plan.quiet_at = until;
    plan.change_every *= pace * pace;
    let mut world = World::with(plan, SmallRng::seed_from_u64(1));
    world.run_until(FORMED)?;
    world.pace = pace;
    world.run_until(until - Duration::from_secs(1))?;
    world.pace = 1;
    world.run_until(until)?;
    world.rest();
    if check::state_differs(&world).is_none() {
        return Err(world.broken("the partition parted nothing".into()));
    }
    until_none(&mut world, until, check::state_differs)
}

fn until_none(world: &mut World, from: Duration, differs: fn(&World) -> Option<String>) -> Result<Duration, Broken> {
    while let Some(what) = differs(world) {
        if world.now > from + PATIENCE {
            return Err(world.broken(what));
        }
        world.run_until(world.now + STEP)?;
    }
    Ok(world.now - from)
}

/// How long it takes until so many nodes that start together, and have one seed, all know each other's facts; and until
/// they all hold each other for alive.
///
/// # Errors
/// [`Broken`]
pub fn cold_start(nodes: usize) -> Result<(Duration, Duration), Broken> {
    let plan = Plan { seeds: 1, ..plan(nodes) };
    let mut world = World::with(plan, SmallRng::seed_from_u64(1));
    world.rest();
    // All have started by then.
    world.run_until(Duration::from_secs(3))?;
    let known = until_none(&mut world, Duration::ZERO, check::state_differs)?;
    let alive = until_none(&mut world, Duration::ZERO, check::standings_differ)?;
    Ok((known, alive))
}

/// What came of nodes that often stand still.
#[derive(Debug, Default)]
pub struct Starved {
    pub spells: usize,
    /// Verdicts by others that a node which lives had failed: it is chosen last until it is heard of again.
    pub demoted: u64,
}

/// So many nodes, of which one in twenty stands still for 2 s now and then. Nobody may lose its endpoints.
///
/// # Errors
/// [`Broken`]
pub fn starved(nodes: usize, length: Duration) -> Result<Starved, Broken> {
    let mut rng = SmallRng::seed_from_u64(1);
    let mut plan = plan(nodes);
    plan.change_every = Duration::from_secs(10);
    plan.quiet_at = FORMED + length;
    let mut at = FORMED;
    while at < plan.quiet_at {
        let node = rng.random_range(0..nodes.div_ceil(20));
        plan.faults.push(Scheduled { at, until: at + Duration::from_secs(2), fault: Fault::Pause(node) });
        at += Duration::from_millis(rng.random_range(4_000..20_000));
    }
    let spells = plan.faults.len();
    let mut world = World::with(plan, rng);
    while world.now < world.plan.quiet_at {
        world.run_until(world.now + Duration::from_secs(5))?;
        check::at_any_time(&mut world).map_err(|what| world.broken(what))?;
    }
    let failed = |(_, _, process): (_, _, &crate::process::Process)| process.counts.get("failed").copied().unwrap_or(0);
    Ok(Starved { spells, demoted: world.honest().map(failed).sum() })
}

/// A mesh of several cells.
#[derive(Clone, Copy, Debug)]
pub struct Cells {
    pub cells: usize,
    /// In all of them together.
    pub nodes: usize,
    pub hostile: bool,
    pub seed: u64,
}

/// What befalls a mesh of several cells, for so long, from when it is formed.
///
/// # Errors
/// [`Broken`] if it is not at peace within `within` after all of it is over, or somebody still knows without a reason
/// what was told before reasons were known, once the time for which that is kept is over too.
pub fn cells(mesh: Cells, faults: &[Fault], within: Duration) -> Result<World, Broken> {
    let Cells { cells, nodes, hostile, seed } = mesh;
    let mut plan = Plan { cells, hostile, change_every: Duration::from_millis(300), documents: 30, ..plan(nodes) };
    let until = FORMED + Duration::from_secs(30);
    plan.faults.extend(faults.iter().map(|fault| Scheduled { at: FORMED, until, fault: fault.clone() }));
    plan.quiet_at = until;
    let mut world = World::with(plan, SmallRng::seed_from_u64(seed));
    world.run_until(FORMED - Duration::from_secs(1))?;
    for end in [until, until + Duration::from_secs(1)] {
        while world.now < end {
            world.run_until(world.now + Duration::from_millis(500))?;
            check::at_any_time(&mut world).map_err(|what| world.broken(what))?;
        }
        world.rest();
    }
    // What was stamped by a clock that runs ahead is taken by all by then.
    let settled = world.now.max(world.stamps_are_past() + Duration::from_secs(3));
    world.run_until(settled)?;
    let mut wait = |differs: fn(&World) -> Option<String>, within| {
        while let Some(what) = differs(&world) {
            if world.now > settled + within {
                return Err(world.broken(what));
            }
            world.run_until(world.now + STEP)?;
        }
        Ok(())
    };
    wait(check::cells_differ, within)?;
    wait(check::cells_know_too_much, KEEP_GONE + within)?;
    match check::cells_differ(&world) {
        Some(what) => Err(world.broken(what)),
        None => Ok(world),
    }
}
