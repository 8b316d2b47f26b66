//! What must hold for any input. The fuzz targets look for one that breaks it; tests/seeds.rs replays the seeds.

use http::{Method, Request, Version, header};
use weft_proxy::{
    ext_authz,
    http1::framing::{Framing, Refusal, Refused, Side},
    http2::frames::{Frames, Seen, Sender},
    sniff, target,
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

/// HTTP/2 frames are told apart alike however they come, and no more of them than there are bytes for. The first byte
/// says whose they are, and how they are split.
pub fn frames(bytes: &[u8]) {
    let Some((how, bytes)) = bytes.split_first() else { return };
    let sender = if how & 1 == 0 { Sender::Client } else { Sender::Server };
    let whole = Frames::new(sender).pass(bytes);
    let mut frames = Frames::new(sender);
    let split = bytes.chunks(usize::from(how >> 1) + 1).fold(Seen::default(), |sum, piece| {
        let seen = frames.pass(piece);
        Seen { data: sum.data + seen.data, idle: sum.idle + seen.idle }
    });
    assert_eq!(split, whole);
    assert!(whole.data + 9 * u64::from(whole.idle) <= bytes.len() as u64);
}

/// A request names one host, without a user and with a port that is one, or is refused; making its path uniform changes
/// nothing of that. Lines: method, target, and Host headers.
pub fn target(bytes: &[u8]) {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let (method, uri) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    for version in [Version::HTTP_10, Version::HTTP_11, Version::HTTP_2] {
        let mut request = Request::builder().version(version).uri(uri);
        if let Ok(method) = Method::from_bytes(method) {
            request = request.method(method);
        }
        for host in lines.clone() {
            request = request.header(header::HOST, host);
        }
        let Ok(mut request) = request.body(()) else { return };
        let named = target::named_host(&request);
        if let Some(host) = &named {
            assert!(!host.as_str().contains('@') && !host.host().is_empty());
            let port = host.as_str().strip_prefix(host.host()).and_then(|rest| rest.strip_prefix(':'));
            assert!(port.is_none_or(|port| port.is_empty() || host.port_u16().is_some()), "{host}");
        }
        if target::is_made_uniform(&mut request) {
            assert_eq!(target::named_host(&request), named);
        }
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
