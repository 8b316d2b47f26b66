//! What must hold for any input. The fuzz targets look for one that breaks it; tests/seeds.rs replays the seeds.

use weft_policy::document::{parse_stored, parse_yaml};
use weft_wire::{document::Stamp, id::Namespace};

/// Any text parses or is refused; what parses is readable when stored.
pub fn yaml(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(file) = parse_yaml(text, &Namespace::default_namespace()) else { return };
    for document in file.documents {
        let stored = parse_stored(&document.key, &document.json, Stamp::default());
        assert_eq!(stored.expect("what was accepted is readable").key, document.key);
    }
}
