//! The HTTP/2 connection that all requests between two nodes share, as a peer that writes its own frames sees it.

mod support;

use std::sync::Arc;

use rustls::pki_types::ServerName;
use tokio::{io::AsyncWriteExt, net::TcpStream};
use tokio_rustls::{TlsConnector, client::TlsStream};
use weft_wire::fact::Protocol;

use support::{frames::*, *};

/// A connection to the first workload of a node, by another node that speaks HTTP/2.
async fn link(mesh: &Mesh, to: &Node) -> TlsStream<TcpStream> {
    let certificate = mesh.ca.issue(&"spiffe://cluster.local/node/n7".parse().unwrap());
    let tcp = TcpStream::connect(to.data_port()).await.unwrap();
    let name = ServerName::try_from(to.server_name()).unwrap();
    let connector = TlsConnector::from(Arc::new(data_client(Some(certificate), b"h2")));
    within(connector.connect(name, tcp)).await.unwrap()
}

#[tokio::test]
async fn a_node_that_floods_its_link_is_cut_off_and_others_are_served() {
    let mesh = mesh_with(echo().await).await;
    let target = &mesh.nodes[1];
    let head = get_head("reviews");
    let begun = [PREFACE.to_vec(), frame(SETTINGS, 0, 0, &[])].concat();
    let taken_back = |stream| {
        let open = frame(HEADERS, END_HEADERS | END_STREAM, stream, &head);
        [open, frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())].concat()
    };
    for (what, flood) in [
        ("SETTINGS", frame(SETTINGS, 0, 0, &[]).repeat(20_000)),
        ("PING", frame(PING, 0, 0, b"are you?").repeat(20_000)),
        ("RST_STREAM", (1..20_000).step_by(2).flat_map(taken_back).collect()),
        (
            "CONTINUATION",
            [frame(HEADERS, 0, 1, &head), frame(CONTINUATION, 0, 1, &field(b"a", b"b")).repeat(50_000)].concat(),
        ),
    ] {
        let ended =
            || ["http2_flood", "rapid_reset", "http2"].map(|reason| refused(target, reason)).iter().sum::<f64>();
        let before = ended();
        let by = link(&mesh, target).await;
        beside_another(&mesh, attack_by(by, [begun.clone(), flood].concat())).await;
        eventually(&format!("a flood of {what} is counted"), || ended() > before).await;
        is_served(&mesh).await;
    }
}

#[tokio::test]
async fn a_thousand_stream_errors_do_not_end_a_link_that_others_share() {
    // Callers make them, and so do workloads that answer before they have read a request to its end. By default h2
    // ends the whole connection, and every request on it, after 1,024 of them. Here: more data than was announced.
    let reviews = hosted("reviews", "reviews-v1", Protocol::Http, echo().await);
    let mesh = Mesh::start(vec![Plan { hosted: vec![reviews], ..Plan::default() }]);
    let (mut from, mut to) = tokio::io::split(link(&mesh, mesh.client()).await);

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
