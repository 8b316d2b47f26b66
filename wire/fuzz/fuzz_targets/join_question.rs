#![no_main]
//! What anybody may send to the join port.

use libfuzzer_sys::fuzz_target;
use weft_wire::{
    codec,
    frame::{JoinQuestion, MAX_JOIN_FRAME_LEN},
};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(value) = codec::decode::<JoinQuestion>(bytes, MAX_JOIN_FRAME_LEN) {
        let encoded = codec::encode(&value, MAX_JOIN_FRAME_LEN).expect("no longer than what it was read from");
        assert_eq!(codec::decode::<JoinQuestion>(&encoded, MAX_JOIN_FRAME_LEN), Ok(value));
    }
});
