//! Circuits that a mesh shares, with nothing else amiss: stories of one fault each.

use std::time::Duration;

use rand::{SeedableRng, rngs::SmallRng};
use weft_policy::endpoint::Standing;
use weft_sim::{
    plan::{Fault, Plan, Scheduled},
    stories,
    world::{Calls, World},
};

const NODES: usize = 10;

fn secs(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

fn fault(from: f64, until: f64, fault: Fault) -> Scheduled {
    Scheduled { at: secs(from), until: secs(until), fault }
}

/// Twenty requests a second of each node; faults from second 20 on, when all have called all.
fn world(hostile: bool, seed: u64, faults: Vec<Scheduled>) -> World {
    let calls = Some(Duration::from_millis(50));
    let plan = Plan { hostile, calls, faults, quiet_at: secs(600.0), ..stories::plan(NODES) };
    World::with(plan, SmallRng::seed_from_u64(seed))
}

fn run_until(world: &mut World, seconds: f64) {
    if let Err(broken) = world.run_until(secs(seconds)) {
        panic!("at {:?}: {}\n{}", broken.at, broken.what, broken.events.join("\n"));
    }
}

/// Requests of some callers to some endpoints, so far.
fn sum(world: &World, counts: impl Fn(usize, usize) -> bool) -> Calls {
    let counted = world.calls().iter().filter(|((from, to), _)| counts(*from, *to));
    counted.fold(Calls::default(), |sum, (_, calls)| Calls {
        good: sum.good + calls.good,
        failed: sum.failed + calls.failed,
    })
}

/// Failed requests of all to one endpoint, so far.
fn failed_at(world: &World, endpoint: usize) -> u64 {
    sum(world, |_, to| to == endpoint).failed
}

fn standings(world: &World, endpoint: usize) -> Vec<Option<Standing>> {
    let node = &world.nodes[endpoint].identity.name;
    let callers = world.honest().filter_map(|(_, _, process)| process.callers.as_ref());
    callers.map(|callers| callers.standing(node, world.instant())).collect()
}

fn all_stand(world: &World, endpoint: usize, standing: Standing) -> bool {
    standings(world, endpoint).iter().all(|one| *one == Some(standing))
}

fn observes(world: &World, caller: usize, observer: usize, endpoint: usize) -> bool {
    let process = world.nodes[caller].process.as_ref().expect("it runs");
    let callers = process.callers.as_ref().expect("it calls");
    let name = |node: usize| &world.nodes[node].identity.name;
    callers.observers(name(endpoint), world.instant()).contains(name(observer))
}

/// Whether each of these callers has sent each endpoint about as many requests as the others.
fn is_even(world: &World, counts: impl Fn(usize, usize) -> bool) -> bool {
    let mean = sum(world, |_, _| true).good / (NODES * NODES) as u64;
    world.calls().iter().all(|((from, to), calls)| !counts(*from, *to) || calls.good * 10 >= mean * 6)
}

/// That is, wherever they were known to be well before the lies began. An endpoint that a caller has not called yet is the
/// last choice there as long as somebody complains of it.
#[test]
fn a_node_that_lies_about_every_endpoint_costs_healthy_endpoints_nothing() {
    for seed in 0..10 {
        let mut world = world(true, seed, vec![]);
        run_until(&mut world, 4.0);
        let before = world.calls().clone();
        run_until(&mut world, 60.0);
        assert!((0..NODES).all(|endpoint| !standings(&world, endpoint).contains(&Some(Standing::Excluded))));
        assert_eq!(sum(&world, |_, _| true).failed, 0, "seed {seed}");
        let is_honest = |node| node != NODES - 1;
        let was_known = |from, to| is_honest(from) && before.get(&(from, to)).is_some_and(|calls| calls.good > 0);
        assert!(is_even(&world, was_known), "seed {seed}: {:?}", world.calls());
    }
}

#[test]
fn a_node_with_a_bad_cable_costs_healthy_endpoints_nothing() {
    for seed in 0..5 {
        let mut world = world(false, seed, vec![fault(20.0, 40.0, Fault::BadCable(2))]);
        run_until(&mut world, 40.0);
        assert!(sum(&world, |from, _| from == 2).failed > 20, "its own requests fail");
        assert_eq!(sum(&world, |from, _| from != 2).failed, 0, "seed {seed}");
        assert!(is_even(&world, |from, _| from != 2), "seed {seed}: {:?}", world.calls());
        run_until(&mut world, 90.0);
        assert!((0..NODES).all(|endpoint| all_stand(&world, endpoint, Standing::Preferred)), "seed {seed}");
    }
}

#[test]
fn what_some_see_fail_all_avoid_and_few_try_until_it_is_well() {
    for seed in 0..5 {
        let mut world = world(false, seed, vec![fault(20.0, 40.0, Fault::Ill(3))]);
        run_until(&mut world, 20.0);
        assert!(all_stand(&world, 3, Standing::Preferred));
        let mut at = 20.0;
        while !all_stand(&world, 3, Standing::Excluded) {
            at += 0.05;
            assert!(at < 23.0, "seed {seed}: {:?}", standings(&world, 3));
            run_until(&mut world, at);
        }
        let at_first = failed_at(&world, 3);
        run_until(&mut world, 40.0);
        let later = failed_at(&world, 3) - at_first;
        println!("seed {seed}: out of use everywhere after {:.2} s and {at_first} failures; {later} later", at - 20.0);
        // Alone, each would lose three to begin with, and three after each of its three ejections.
        assert!(at_first <= 2 * NODES as u64, "seed {seed}: {at_first}");
        assert!(later <= 4 * NODES as u64, "seed {seed}: {later}");
        run_until(&mut world, 80.0);
        assert!(all_stand(&world, 3, Standing::Preferred), "seed {seed}: {:?}", standings(&world, 3));
    }
}

#[test]
fn a_lost_closed_heals_itself() {
    let mut world = world(false, 1, vec![fault(20.0, 23.0, Fault::Ill(3))]);
    run_until(&mut world, 22.0);
    let lost = (0..NODES).find(|&node| observes(&world, (node + 1) % NODES, node, 3)).expect("somebody complains");
    // It says no more; that the endpoint is well again least of all.
    world.nodes[lost].process.as_mut().and_then(|process| process.callers.as_mut()).expect("it calls").is_mute = true;
    // A lease of 5 s, and what it takes to hear.
    run_until(&mut world, 28.0);
    assert!((0..NODES).all(|caller| caller == lost || !observes(&world, caller, lost, 3)), "its word has lapsed");
    run_until(&mut world, 60.0);
    assert!(all_stand(&world, 3, Standing::Preferred), "{:?}", standings(&world, 3));
}

#[test]
fn where_most_endpoints_fail_all_are_tried_and_all_come_back() {
    let ill = (0..7).map(|node| fault(20.0, 40.0, Fault::Ill(node))).collect();
    let mut world = world(false, 1, ill);
    run_until(&mut world, 25.0);
    let before = world.calls().clone();
    run_until(&mut world, 40.0);
    for (pair, calls) in world.calls() {
        let before = before.get(pair).copied().unwrap_or_default();
        assert!(calls.good + calls.failed > before.good + before.failed, "{pair:?}: panic has all serve");
    }
    run_until(&mut world, 100.0);
    for endpoint in 0..NODES {
        assert!(all_stand(&world, endpoint, Standing::Preferred), "{endpoint}: {:?}", standings(&world, endpoint));
    }
}
