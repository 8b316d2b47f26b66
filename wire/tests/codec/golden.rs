//! The bytes of every wire type, kept in `golden/`. Nodes of two releases must read each other, so a difference here
//! is a break of the protocol: raise `codec::VERSION`, keep reading the old bytes, and only then bless the new ones:
//! `WEFT_BLESS=1 cargo test -p weft-wire --test codec the_encoding`.

use std::fs;

use weft_wire::{
    cell::{CellSummary, RelayWord, Wants},
    circuit::CircuitRecord,
    codec,
    fact::{FactBody, NodeRecord, SpentTokens},
    frame::{JoinQuestion, JoinResponse, MAX_FRAME_LEN, Push, Request, Response},
};

use crate::samples;

#[test]
fn the_encoding_of_every_wire_type_is_what_it_was() {
    if std::env::var_os("WEFT_BLESS").is_some() {
        for (name, bytes) in samples::encoded() {
            let path = samples::golden_dir().join(name);
            fs::create_dir_all(path.parent().expect("in a folder")).expect("writable");
            fs::write(path, bytes).expect("writable");
        }
    }
    for (name, bytes) in samples::encoded() {
        let path = samples::golden_dir().join(name);
        let golden = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(hex(&bytes), hex(&golden), "the encoding of {name} has changed");
    }
}

#[test]
fn no_golden_file_is_left_over() {
    let known: Vec<_> = samples::encoded().iter().map(|(name, _)| samples::golden_dir().join(name)).collect();
    for (path, _) in samples::golden_files() {
        assert!(known.contains(&path), "nothing makes {}", path.display());
    }
}

#[test]
fn golden_bytes_decode_to_the_values_they_came_from() {
    for (name, value) in samples::pushes() {
        assert_eq!(read::<Push>(name), value, "{name}");
    }
    for (name, value) in samples::requests() {
        assert_eq!(read::<Request>(name), value, "{name}");
    }
    for (name, value) in samples::responses() {
        assert_eq!(read::<Response>(name), value, "{name}");
    }
    for (name, value) in samples::join_responses() {
        assert_eq!(read::<JoinResponse>(name), value, "{name}");
    }
    for (name, value) in samples::join_questions() {
        assert_eq!(read::<JoinQuestion>(name), value, "{name}");
    }
    assert_eq!(NodeRecord::decode(&golden("fact_body/node.bin")).expect("decodes"), samples::node_record());
    let stopped = NodeRecord::decode(&golden("fact_body/stopped_node.bin")).expect("decodes");
    assert_eq!(stopped, samples::stopped_node_record());
    assert_eq!(CircuitRecord::decode(&golden("fact_body/circuits.bin")).expect("decodes"), samples::circuits());
    assert_eq!(Wants::decode(&golden("fact_body/wants.bin")).expect("decodes"), samples::wants());
    assert_eq!(CellSummary::decode(&golden("fact_body/cell.bin")).expect("decodes"), samples::cell_summary());
    assert_eq!(RelayWord::decode(&golden("fact_body/relay.bin")).expect("decodes"), samples::relay_word());
    assert_eq!(SpentTokens::decode(&golden("fact_body/spent_tokens.bin")).expect("decodes"), samples::spent_tokens());
}

fn golden(name: &str) -> Vec<u8> {
    fs::read(samples::golden_dir().join(name)).expect("blessed before")
}

fn read<T: serde::de::DeserializeOwned>(name: &str) -> T {
    codec::decode(&golden(name), MAX_FRAME_LEN).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Sixteen bytes a line, so that a failure shows where the difference is.
fn hex(bytes: &[u8]) -> String {
    let line = |chunk: &[u8]| chunk.iter().map(|byte| format!("{byte:02x} ")).collect::<String>();
    bytes.chunks(16).map(line).collect::<Vec<_>>().join("\n")
}
