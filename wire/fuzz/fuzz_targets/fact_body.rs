#![no_main]
//! What a member may sign as its own fact.

use libfuzzer_sys::fuzz_target;
use weft_wire::fact::{FactBody, NodeRecord, SpentTokens};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(record) = NodeRecord::decode(bytes) {
        let encoded = record.encode().expect("no longer than what it was read from");
        assert_eq!(NodeRecord::decode(&encoded), Ok(record));
    }
    if let Ok(spent) = SpentTokens::decode(bytes) {
        let encoded = spent.encode().expect("no longer than what it was read from");
        assert_eq!(SpentTokens::decode(&encoded), Ok(spent));
    }
});
