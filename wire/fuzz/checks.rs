//! What must hold for any input. The fuzz targets look for one that breaks it; tests/codec/seeds.rs replays the seeds,
//! which are the golden bytes.
#![allow(dead_code)] // Each fuzz target takes one of these.

use serde::{Serialize, de::DeserializeOwned};
use weft_wire::{
    cell::{CellSummary, RelayWord, Wants},
    circuit::CircuitRecord,
    codec,
    fact::{FactBody, NodeRecord, SpentTokens},
    frame::{JoinQuestion, JoinResponse, MAX_FRAME_LEN, MAX_JOIN_FRAME_LEN, MAX_PUSH_LEN, Push, Request, Response},
};

/// Whatever the bytes are, decoding returns; what it reads survives its own round trip.
pub fn decode<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(bytes: &[u8], limit: usize) {
    if let Ok(value) = codec::decode::<T>(bytes, limit) {
        let encoded = codec::encode(&value, limit).expect("no longer than what it was read from");
        assert_eq!(codec::decode::<T>(&encoded, limit), Ok(value));
    }
}

fn fact<T: FactBody + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
    if let Ok(value) = T::decode(bytes) {
        let encoded = value.encode().expect("no longer than what it was read from");
        assert_eq!(T::decode(&encoded), Ok(value));
    }
}

/// What a member may push on a unidirectional stream.
pub fn push(bytes: &[u8]) {
    decode::<Push>(bytes, MAX_PUSH_LEN);
}

/// What a member may ask.
pub fn request(bytes: &[u8]) {
    decode::<Request>(bytes, MAX_FRAME_LEN);
}

/// What a member may answer.
pub fn response(bytes: &[u8]) {
    decode::<Response>(bytes, MAX_FRAME_LEN);
}

/// What anybody may ask as a joining host.
pub fn join_question(bytes: &[u8]) {
    decode::<JoinQuestion>(bytes, MAX_JOIN_FRAME_LEN);
}

/// What a seed may answer to a joining host.
pub fn join_response(bytes: &[u8]) {
    decode::<JoinResponse>(bytes, MAX_FRAME_LEN);
}

/// What a member may sign as its own fact.
pub fn fact_body(bytes: &[u8]) {
    fact::<NodeRecord>(bytes);
    fact::<SpentTokens>(bytes);
    fact::<CircuitRecord>(bytes);
    fact::<Wants>(bytes);
    fact::<CellSummary>(bytes);
    fact::<RelayWord>(bytes);
}
