//! Any text parses or is refused; what parses is readable when stored. Run: `cargo +nightly fuzz run yaml`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weft_policy::document::{parse_stored, parse_yaml};
use weft_wire::{document::Stamp, id::Namespace};

fuzz_target!(|text: &str| {
    let namespace = Namespace::default_namespace();
    let Ok(file) = parse_yaml(text, &namespace) else { return };
    for document in file.documents {
        let stored = parse_stored(&document.key, &document.json, Stamp::default());
        assert_eq!(stored.expect("what was accepted is readable").key, document.key);
    }
});
