//! The bars of long and of large runs, where they are short enough for each change; `make bench-mesh` has all of them.

use std::time::Duration;

use weft_sim::{
    stories::{cold_start, heal, starved},
    world::Broken,
};

const MINUTE: Duration = Duration::from_secs(60);

fn held<T>(story: Result<T, Broken>) -> T {
    story.unwrap_or_else(|broken| panic!("at {:?}: {}\n{}", broken.at, broken.what, broken.events.join("\n")))
}

#[test]
fn three_and_two_nodes_that_were_parted_agree_within_10_s() {
    let took = held(heal(5, MINUTE, 1));
    assert!(took <= Duration::from_secs(10), "{took:?}");
}

#[test]
fn fifty_and_fifty_nodes_that_were_parted_agree_within_10_s() {
    let took = held(heal(100, Duration::from_secs(5), 1));
    assert!(took <= Duration::from_secs(10), "{took:?}");
}

#[test]
fn nodes_that_were_parted_for_8_h_agree_within_a_minute() {
    let took = held(heal(8, 8 * 60 * MINUTE, 20));
    assert!(took <= MINUTE, "{took:?}");
}

#[test]
fn a_hundred_nodes_that_start_on_one_seed_all_know_each_other_within_30_s() {
    let (known, alive) = held(cold_start(100));
    assert!(known <= Duration::from_secs(30) && alive <= Duration::from_secs(30), "{known:?}, {alive:?}");
}

#[test]
fn nobody_loses_endpoints_of_nodes_that_stand_still_for_2_s() {
    let starved = held(starved(20, 20 * MINUTE));
    assert!(starved.spells > 50, "{starved:?}");
}
