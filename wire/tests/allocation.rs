//! A length that was only claimed costs nothing. Alone in its binary, because it counts what the whole process
//! allocates.

use std::alloc::System;

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use weft_wire::{
    codec,
    frame::{JoinQuestion, JoinRequest, JoinResponse, MAX_FRAME_LEN, Push, Request, Response},
};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// What a message of a few bytes may make the decoder allocate: one frame's worth, whatever it claims.
const BOUND: usize = 2 * MAX_FRAME_LEN;

#[test]
fn a_claimed_length_is_not_allocated() {
    // bincode's variable-length integers: a marker byte, then 2, 4 or 8 little-endian bytes.
    let lengths = [
        [&[251u8][..], &u16::MAX.to_le_bytes()].concat(),
        [&[252][..], &(MAX_FRAME_LEN as u32 - 64).to_le_bytes()].concat(),
        [&[252][..], &u32::MAX.to_le_bytes()].concat(),
        [&[253][..], &(1u64 << 40).to_le_bytes()].concat(),
        [&[253][..], &u64::MAX.to_le_bytes()].concat(),
    ];
    for length in lengths {
        // As the first field of a struct, and as that of each variant of an enum.
        check::<JoinRequest>(&[&[codec::VERSION], &length[..]].concat());
        for variant in 0..4 {
            let message = [&[codec::VERSION, variant], &length[..]].concat();
            check::<Push>(&message);
            check::<Request>(&message);
            check::<Response>(&message);
            check::<JoinQuestion>(&message);
            check::<JoinResponse>(&message);
        }
    }
}

fn check<T: serde::de::DeserializeOwned + std::fmt::Debug>(message: &[u8]) {
    let region = Region::new(ALLOCATOR);
    codec::decode::<T>(message, MAX_FRAME_LEN).expect_err("there is nothing behind the length");
    let allocated = region.change().bytes_allocated;
    assert!(allocated <= BOUND, "{message:02x?} made {} allocate {allocated} bytes", std::any::type_name::<T>());
}
