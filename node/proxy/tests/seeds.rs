//! The seeds of the fuzz targets, on every test run, and what random bytes make of them.

use std::fs;

use rand::{Rng, SeedableRng, rngs::SmallRng};

#[path = "../fuzz/checks.rs"]
mod checks;

#[test]
fn the_seeds_of_framing_hold_and_so_do_a_thousand_mutations_of_each() {
    holds_for_seeds_of("framing", checks::framing);
}

#[test]
fn the_seeds_of_authorizers_answers_hold_and_so_do_a_thousand_mutations_of_each() {
    holds_for_seeds_of("authorizer", checks::authorizer);
}

#[test]
fn the_seeds_of_first_bytes_hold_and_so_do_a_thousand_mutations_of_each() {
    holds_for_seeds_of("sniff", checks::sniff);
}

#[test]
fn the_seeds_of_frames_hold_and_so_do_a_thousand_mutations_of_each() {
    holds_for_seeds_of("frames", checks::frames);
}

#[test]
fn the_seeds_of_targets_hold_and_so_do_a_thousand_mutations_of_each() {
    holds_for_seeds_of("target", checks::target);
}

fn holds_for_seeds_of(target: &str, check: fn(&[u8])) {
    let seeds = format!("{}/fuzz/seeds/{target}", env!("CARGO_MANIFEST_DIR"));
    let files: Vec<_> = fs::read_dir(&seeds).expect("the seeds are there").collect();
    assert!(!files.is_empty(), "no seeds in {seeds}");
    let mut random = SmallRng::seed_from_u64(4);
    for file in files {
        let seed = fs::read(file.expect("readable").path()).expect("readable");
        check(&seed);
        for _ in 0..1_000 {
            let mut bytes = seed.clone();
            for _ in 0..random.random_range(1..5) {
                let at = random.random_range(0..bytes.len());
                match random.random_range(0..3) {
                    0 => bytes[at] = random.random(),
                    1 => bytes.insert(at, *b"\r\n :;0,\0"[..].get(random.random_range(0..8)).expect("in range")),
                    _ => drop(bytes.remove(at)),
                }
                if bytes.is_empty() {
                    break;
                }
            }
            check(&bytes);
        }
    }
}
