//! HTTP/2 frames, written by hand: what no library would send.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};

use super::within;

pub const DATA: u8 = 0x0;
pub const HEADERS: u8 = 0x1;
pub const PRIORITY: u8 = 0x2;
pub const RST_STREAM: u8 = 0x3;
pub const SETTINGS: u8 = 0x4;
pub const PING: u8 = 0x6;
pub const GOAWAY: u8 = 0x7;
pub const WINDOW_UPDATE: u8 = 0x8;
pub const CONTINUATION: u8 = 0x9;

pub const END_STREAM: u8 = 0x1;
pub const ACK: u8 = 0x1;
pub const END_HEADERS: u8 = 0x4;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, length @ ..] = (payload.len() as u32).to_be_bytes();
    [&length[..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A header field that no table has, without Huffman coding (RFC 7541 section 6.2.2).
pub fn field(name: &[u8], value: &[u8]) -> Vec<u8> {
    [vec![0], string(name), string(value)].concat()
}

fn string(bytes: &[u8]) -> Vec<u8> {
    assert!(bytes.len() < 127, "one byte of length");
    [&[bytes.len() as u8][..], bytes].concat()
}

/// `:method GET`, `:scheme http`, `:path /` from the static table, and `:authority`.
pub fn get_head(authority: &str) -> Vec<u8> {
    [vec![0x82, 0x86, 0x84, 0x41], string(authority.as_bytes())].concat()
}

/// Reads one frame: kind, flags, stream, payload.
pub async fn read_frame(from: &mut (impl AsyncRead + Unpin)) -> std::io::Result<(u8, u8, u32, Vec<u8>)> {
    let mut head = [0; 9];
    from.read_exact(&mut head).await?;
    let [a, b, c, kind, flags, stream @ ..] = head;
    let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
    from.read_exact(&mut payload).await?;
    Ok((kind, flags, u32::from_be_bytes(stream), payload))
}

/// How the other side ended a connection.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    /// With the code of its GOAWAY.
    GoAway(u32),
    Closed,
}

/// Writes bytes on a connection of its own, and reads until the other side ends it.
pub async fn attack(to: SocketAddr, bytes: Vec<u8>) -> Ended {
    attack_by(TcpStream::connect(to).await.unwrap(), bytes).await
}

/// The same on a connection that is there.
pub async fn attack_by(stream: impl AsyncRead + AsyncWrite + Send + 'static, bytes: Vec<u8>) -> Ended {
    let (mut from, mut into) = tokio::io::split(stream);
    let writing = tokio::spawn(async move {
        let _ = into.write_all(&bytes).await;
        into
    });
    let ended = within(async {
        loop {
            match read_frame(&mut from).await {
                Ok((GOAWAY, _, _, payload)) => {
                    let code: [u8; 4] = payload[4..8].try_into().unwrap();
                    return Ended::GoAway(u32::from_be_bytes(code));
                }
                Ok(_) => {}
                Err(_) => return Ended::Closed,
            }
        }
    })
    .await;
    writing.abort();
    ended
}
