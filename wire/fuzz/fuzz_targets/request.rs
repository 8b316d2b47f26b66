#![no_main]
//! What a member may ask.

use libfuzzer_sys::fuzz_target;
use weft_wire::{
    codec,
    frame::{MAX_FRAME_LEN, Request},
};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(value) = codec::decode::<Request>(bytes, MAX_FRAME_LEN) {
        let encoded = codec::encode(&value, MAX_FRAME_LEN).expect("no longer than what it was read from");
        assert_eq!(codec::decode::<Request>(&encoded, MAX_FRAME_LEN), Ok(value));
    }
});
