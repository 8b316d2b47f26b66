//! Messages on QUIC streams. A stream carries one message each way and ends; its end is the message's end, so no
//! length prefix is needed, and the reader stops at its limit.

use std::time::Duration;

use bytes::Bytes;
use quinn::{Connection, RecvStream, SendStream};
use serde::{Serialize, de::DeserializeOwned};
use weft_wire::{
    codec,
    frame::{MAX_FRAME_LEN, MAX_PUSH_LEN, Request, Response, UniKind},
};

use super::PeerError;

/// Longest wait for an answer from a peer.
pub const REQUEST_DEADLINE: Duration = Duration::from_secs(10);

/// Sends one message of the given kind on a stream of its own, so that messages never wait for each other. The stream
/// that is returned tells when the peer has it all ([`SendStream::stopped`]).
pub async fn send_uni(connection: &Connection, kind: UniKind, payload: Bytes) -> Result<SendStream, PeerError> {
    let mut stream = connection.open_uni().await.map_err(broken)?;
    // In one piece, for one packet if it is small: each write wakes the connection.
    let mut message = [Bytes::copy_from_slice(&[kind as u8]), payload];
    stream.write_all_chunks(&mut message).await.map_err(broken)?;
    stream.finish().map_err(broken)?;
    Ok(stream)
}

/// Reads a unidirectional stream to its end: the message's kind, `None` if this build does not know it, and its bytes.
pub async fn read_uni(mut stream: RecvStream) -> Result<(Option<UniKind>, Vec<u8>), PeerError> {
    let mut bytes = stream.read_to_end(MAX_PUSH_LEN + 1).await.map_err(broken)?;
    let kind = bytes.first().copied().ok_or_else(|| PeerError::Stream("empty message".into()))?;
    bytes.remove(0);
    Ok((UniKind::from_byte(kind), bytes))
}

/// Asks a peer and waits for the answer.
///
/// # Errors
/// [`PeerError::Refused`] carries the peer's own words.
pub async fn request(connection: &Connection, request: &Request) -> Result<Response, PeerError> {
    match exchange(connection, request, MAX_FRAME_LEN).await? {
        Response::Refused { why } => Err(PeerError::Refused(why)),
        response => {
            response.check()?;
            Ok(response)
        }
    }
}

/// Sends one value on a new bidirectional stream and reads one value back, within [`REQUEST_DEADLINE`].
pub async fn exchange<Q: Serialize, R: DeserializeOwned>(
    connection: &Connection,
    question: &Q,
    limit: usize,
) -> Result<R, PeerError> {
    let bytes = codec::encode(question, limit)?;
    let answer = async {
        let (mut send, recv) = connection.open_bi().await.map_err(broken)?;
        send.write_all(&bytes).await.map_err(broken)?;
        send.finish().map_err(broken)?;
        read_value(recv, MAX_FRAME_LEN).await
    };
    tokio::time::timeout(REQUEST_DEADLINE, answer).await.map_err(|_| PeerError::Deadline(REQUEST_DEADLINE))?
}

/// Reads a stream to its end as one value of at most `limit` bytes.
pub async fn read_value<T: DeserializeOwned>(mut stream: RecvStream, limit: usize) -> Result<T, PeerError> {
    let bytes = stream.read_to_end(limit).await.map_err(broken)?;
    Ok(codec::decode(&bytes, limit)?)
}

/// Writes one value and ends the stream.
pub async fn write_value<T: Serialize>(stream: &mut SendStream, value: &T) -> Result<(), PeerError> {
    let bytes = codec::encode(value, MAX_FRAME_LEN)?;
    stream.write_all(&bytes).await.map_err(broken)?;
    stream.finish().map_err(broken)
}

fn broken(error: impl std::fmt::Display) -> PeerError {
    PeerError::Stream(error.to_string())
}
