//! What must hold for any input. The fuzz targets look for one that breaks it; tests/seeds.rs replays the seeds.

use weft_proxy::{
    ext_authz,
    http1::framing::{Framing, Refusal, Refused, Side},
    sniff,
};

/// Longest head, in bytes: small, so that inputs reach it.
const MAX_HEAD: usize = 256;

/// HTTP/1 bytes are read alike however they come. The first byte says whose they are, and how they are split.
pub fn framing(bytes: &[u8]) {
    let Some((how, bytes)) = bytes.split_first() else { return };
    let side = if how & 1 == 0 { Side::Requests } else { Side::Responses };
    let answers_head = how & 2 != 0;
    let whole = read(side, answers_head, [bytes].into_iter());
    let split = read(side, answers_head, bytes.chunks(usize::from(how >> 2) + 1));
    assert_eq!(split, whole);
    if let Err(refused) = Framing::new(side, MAX_HEAD).pass(bytes, answers_head) {
        // What comes before a refusal is not refused: its reason is behind it.
        let (before, _) = bytes.split_at(refused.at);
        assert_eq!(Framing::new(side, MAX_HEAD).pass(before, answers_head), Ok(()));
    }
}

/// An authorizer's answer is read or refused. The first five bytes, its frame, are made to fit, so that inputs get
/// behind it.
pub fn authorizer(message: &[u8]) {
    let length = u32::try_from(message.len()).expect("inputs are short");
    ext_authz::is_answer(message);
    ext_authz::is_answer(&[&[0], &length.to_be_bytes()[..], message].concat());
}

/// What first bytes begin is told by the fewest of them, and more do not change it.
pub fn sniff(bytes: &[u8]) {
    let bytes = bytes.get(..sniff::MAX_LEN).unwrap_or(bytes);
    let mut told = None;
    for len in 0..=bytes.len() {
        let now = sniff::begins(bytes.split_at(len).0);
        assert!(told.is_none() || told == now);
        told = now;
    }
    sniff::server_name(bytes);
}

fn read<'b>(side: Side, answers_head: bool, pieces: impl Iterator<Item = &'b [u8]>) -> Result<bool, Refusal> {
    let mut framing = Framing::new(side, MAX_HEAD);
    for piece in pieces {
        framing.pass(piece, answers_head).map_err(|Refused { why, .. }| why)?;
    }
    Ok(framing.is_between_messages())
}
