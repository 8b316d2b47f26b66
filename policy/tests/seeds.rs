//! The seeds of the fuzz targets, on every test run.

use std::fs;

#[path = "../fuzz/checks.rs"]
mod checks;

#[test]
fn the_seeds_of_yaml_hold() {
    holds_for_seeds_of("yaml", checks::yaml);
}

#[test]
fn the_seeds_of_access_hold() {
    holds_for_seeds_of("access", checks::access);
}

#[test]
fn the_seeds_of_regexes_hold() {
    holds_for_seeds_of("regexes", checks::regexes);
}

#[test]
fn the_seeds_of_cidrs_hold() {
    holds_for_seeds_of("cidrs", checks::cidrs);
}

#[test]
fn the_seeds_of_hosts_hold() {
    holds_for_seeds_of("hosts", checks::hosts);
}

#[test]
fn the_seeds_of_headers_hold() {
    holds_for_seeds_of("headers", checks::headers);
}

fn holds_for_seeds_of(target: &str, check: fn(&[u8])) {
    let seeds = format!("{}/fuzz/seeds/{target}", env!("CARGO_MANIFEST_DIR"));
    let files: Vec<_> = fs::read_dir(&seeds).expect("the seeds are there").collect();
    assert!(!files.is_empty(), "no seeds in {seeds}");
    for file in files {
        check(&fs::read(file.expect("readable").path()).expect("readable"));
    }
}
