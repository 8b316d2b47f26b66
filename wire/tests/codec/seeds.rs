//! The seeds of the fuzz targets, which are the golden bytes, on every test run.

use crate::{checks, samples};

#[test]
fn the_seeds_of_every_fuzz_target_hold() {
    for (path, bytes) in samples::golden_files() {
        let target = path.parent().and_then(|folder| folder.file_name()).and_then(|name| name.to_str());
        match target.expect("golden_files/TARGET/NAME.bin") {
            "push" => checks::push(&bytes),
            "request" => checks::request(&bytes),
            "response" => checks::response(&bytes),
            "join_question" => checks::join_question(&bytes),
            "join_response" => checks::join_response(&bytes),
            "fact_body" => checks::fact_body(&bytes),
            // What signatures cover is never decoded.
            "signed" => {}
            other => panic!("no fuzz target decodes {other}"),
        }
    }
}
