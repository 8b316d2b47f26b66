#![no_main]
//! What a false seed may answer to a joining host.

use libfuzzer_sys::fuzz_target;
use weft_wire::{
    codec,
    frame::{JoinResponse, MAX_FRAME_LEN},
};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(value) = codec::decode::<JoinResponse>(bytes, MAX_FRAME_LEN) {
        let encoded = codec::encode(&value, MAX_FRAME_LEN).expect("no longer than what it was read from");
        assert_eq!(codec::decode::<JoinResponse>(&encoded, MAX_FRAME_LEN), Ok(value));
    }
});
