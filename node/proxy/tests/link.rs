//! The HTTP/2 connection that all requests between two nodes share, as a peer that writes its own frames sees it.

mod support;

use std::sync::Arc;

use rustls::pki_types::ServerName;
use tokio::{io::AsyncWriteExt, net::TcpStream};
use tokio_rustls::TlsConnector;
use weft_wire::fact::Protocol;

use support::{frames::*, *};

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
    let mut bytes = PREFACE.to_vec();
    bytes.extend(frame(SETTINGS, 0, 0, &[]));
    for stream in (1..).step_by(2).take(1_500) {
        bytes.extend(frame(HEADERS, END_HEADERS, stream, &head));
        bytes.extend(frame(DATA, 0, stream, b"more"));
    }
    bytes.extend(frame(PING, 0, 0, b"are you?"));
    let writing = tokio::spawn(async move { to.write_all(&bytes).await.map(|()| to) });
    let answered = async {
        loop {
            let (kind, flags, _, payload) = read_frame(&mut from).await.unwrap();
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
