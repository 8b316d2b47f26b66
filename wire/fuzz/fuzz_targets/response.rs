#![no_main]
//! What a member may answer.

use libfuzzer_sys::fuzz_target;
use weft_wire::{
    codec,
    frame::{MAX_FRAME_LEN, Response},
};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(value) = codec::decode::<Response>(bytes, MAX_FRAME_LEN) {
        let encoded = codec::encode(&value, MAX_FRAME_LEN).expect("no longer than what it was read from");
        assert_eq!(codec::decode::<Response>(&encoded, MAX_FRAME_LEN), Ok(value));
    }
});
