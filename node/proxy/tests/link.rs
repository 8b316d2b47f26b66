//! The HTTP/2 connection that all requests between two nodes share, as a peer that writes its own frames sees it.

mod support;

use std::sync::Arc;

use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;
use weft_wire::fact::Protocol;

use support::*;

const DATA: u8 = 0x0;
const HEADERS: u8 = 0x1;
const SETTINGS: u8 = 0x4;
const PING: u8 = 0x6;
const GOAWAY: u8 = 0x7;
const END_HEADERS: u8 = 0x4;
const ACK: u8 = 0x1;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, length @ ..] = (payload.len() as u32).to_be_bytes();
    [&length[..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

#[tokio::test]
async fn a_thousand_stream_errors_do_not_end_a_link_that_others_share() {
    // Callers make them, and so do workloads that answer before they have read a request to its end. By default h2
    // ends the whole connection, and every request on it, after 1,024 of them. Here: more data than was announced.
    let reviews = hosted("reviews", "reviews-v1", Protocol::Http, echo().await);
    let mesh = Mesh::start(vec![Plan { hosted: vec![reviews], ..Plan::default() }]);
    let certificate = mesh.ca.issue(&"spiffe://cluster.local/node/n7".parse().unwrap());
    let tcp = TcpStream::connect(mesh.client().data_port()).await.unwrap();
    let name = ServerName::try_from(mesh.client().server_name()).unwrap();
    let connector = TlsConnector::from(Arc::new(data_client(Some(certificate), b"h2")));
    let (mut from, mut to) = tokio::io::split(within(connector.connect(name, tcp)).await.unwrap());

    // :method GET, :scheme http, :path / from HPACK's static table; :authority r; content-length 0.
    let head = [0x82, 0x86, 0x84, 0x41, 0x01, b'r', 0x5c, 0x01, b'0'];
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(SETTINGS, 0, 0, &[]));
    for stream in (1..).step_by(2).take(1_500) {
        bytes.extend(frame(HEADERS, END_HEADERS, stream, &head));
        bytes.extend(frame(DATA, 0, stream, b"more"));
    }
    bytes.extend(frame(PING, 0, 0, b"are you?"));
    let writing = tokio::spawn(async move { to.write_all(&bytes).await.map(|()| to) });
    let answered = async {
        loop {
            let mut head = [0; 9];
            from.read_exact(&mut head).await.unwrap();
            let [a, b, c, kind, flags, ..] = head;
            let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
            from.read_exact(&mut payload).await.unwrap();
            match kind {
                GOAWAY => panic!("GOAWAY: {payload:?}"),
                PING if flags & ACK != 0 => break,
                _ => {}
            }
        }
    };
    within(answered).await;
    writing.await.unwrap().unwrap();
}
