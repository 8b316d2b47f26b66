//! The seeds of the fuzz targets, on every test run.

use std::fs;

#[path = "../fuzz/checks.rs"]
mod checks;

#[test]
fn the_seeds_of_yaml_hold() {
    let seeds = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/seeds/yaml");
    let files: Vec<_> = fs::read_dir(seeds).expect("the seeds are there").collect();
    assert!(!files.is_empty(), "no seeds in {seeds}");
    for file in files {
        checks::yaml(&fs::read(file.expect("readable").path()).expect("readable"));
    }
}
