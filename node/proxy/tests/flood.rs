//! HTTP/2 as an attacker speaks it: floods, stalls, bombs and injections, and that others are served beside them.

mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use tokio::{io::AsyncWriteExt, net::TcpStream};
use weft_proxy::config::Limits;
use weft_wire::fact::Protocol;

use support::{frames::*, *};

const PROTOCOL_ERROR: u32 = 0x1;
const FLOW_CONTROL_ERROR: u32 = 0x3;
const ENHANCE_YOUR_CALM: u32 = 0xb;

/// The client's side of a connection up to its first request.
fn begun() -> Vec<u8> {
    [PREFACE.to_vec(), frame(SETTINGS, 0, 0, &[])].concat()
}

fn flood(one: &[u8]) -> Vec<u8> {
    [begun(), one.repeat(20_000)].concat()
}

#[tokio::test]
async fn frames_that_carry_nothing_end_their_connection() {
    let mesh = mesh_with(echo().await).await;
    let open = frame(HEADERS, END_HEADERS, 1, &get_head("reviews"));
    for (what, bytes) in [
        ("SETTINGS", flood(&frame(SETTINGS, 0, 0, &[]))),
        ("SETTINGS with values", flood(&frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 255, 255]))),
        ("PING", flood(&frame(PING, 0, 0, b"are you?"))),
        ("PRIORITY", flood(&frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 16]))),
        ("unknown kinds", flood(&frame(0xfe, 0, 0, b"?"))),
        ("empty DATA", [begun(), open, frame(DATA, 0, 1, b"").repeat(20_000)].concat()),
    ] {
        let ended = |node: &Node| refused(node, "http2_flood") + refused(node, "http2");
        let before = ended(mesh.client());
        beside_another(&mesh, attack(mesh.client().outbound, bytes)).await;
        eventually(&format!("a flood of {what} is counted"), || ended(mesh.client()) > before).await;
        is_served(&mesh).await;
    }
}

#[tokio::test]
async fn requests_that_are_taken_back_at_once_end_their_connection() {
    let mesh = mesh_with(echo().await).await;
    let pair = |stream| {
        let head = frame(HEADERS, END_HEADERS | END_STREAM, stream, &get_head("reviews"));
        [head, frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())].concat()
    };
    let bytes = [begun(), (1..20_000).step_by(2).flat_map(pair).collect()].concat();
    beside_another(&mesh, attack(mesh.client().outbound, bytes)).await;
    let ended = || refused(mesh.client(), "rapid_reset") + refused(mesh.client(), "http2");
    eventually("it is counted", || ended() >= 1.0).await;
    is_served(&mesh).await;
}

#[tokio::test]
async fn header_blocks_without_end_and_bombs_end_their_connection_or_are_431() {
    let mesh = mesh_with(echo().await).await;
    // CONTINUATION frames for ever.
    let many = [
        begun(),
        frame(HEADERS, 0, 1, &get_head("reviews")),
        frame(CONTINUATION, 0, 1, &field(b"a", b"b")).repeat(50_000),
    ];
    let ended = beside_another(&mesh, attack(mesh.client().outbound, many.concat())).await;
    assert_eq!(ended, Ended::GoAway(ENHANCE_YOUR_CALM));
    // And empty ones.
    let empty =
        [begun(), frame(HEADERS, 0, 1, &get_head("reviews")), frame(CONTINUATION, 0, 1, &[]).repeat(50_000)].concat();
    assert_eq!(beside_another(&mesh, attack(mesh.client().outbound, empty)).await, Ended::GoAway(ENHANCE_YOUR_CALM));
    // One long header goes into the table, and is named by one byte ever after.
    let mut block = get_head("reviews");
    block.extend([0x40, 1, b'a', 127, 0x81, 0x1e]); // 127 + 3,841 = 3,968 bytes of value
    block.extend(vec![b'b'; 3_968]);
    let bomb = frame(HEADERS, 0, 1, &block);
    let bomb = [begun(), bomb, frame(CONTINUATION, END_HEADERS, 1, &vec![0xbe; 16_000])].concat();
    let ended = beside_another(&mesh, attack(mesh.client().outbound, bomb)).await;
    assert!(matches!(ended, Ended::GoAway(_)), "{ended:?}");
    eventually("all are counted", || refused(mesh.client(), "http2") == 3.0).await;
    is_served(&mesh).await;
    // What is only too long is told so.
    let request = Request::get("http://reviews/").header("a", "b".repeat(70_000)).body(text("")).unwrap();
    let response = send_http2(mesh.client().outbound, request).await;
    assert_eq!(response.status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
}

#[tokio::test]
async fn windows_that_overflow_and_frames_out_of_order_end_their_connection() {
    let mesh = mesh_with(echo().await).await;
    let most = 0x7fff_ffff_u32.to_be_bytes();
    for (bytes, code) in [
        (frame(WINDOW_UPDATE, 0, 0, &most), FLOW_CONTROL_ERROR),
        (frame(SETTINGS, 0, 0, &[0, 4, 0xff, 0xff, 0xff, 0xff]), PROTOCOL_ERROR),
        (frame(WINDOW_UPDATE, 0, 0, &[0; 4]), PROTOCOL_ERROR),
        (frame(DATA, 0, 1, b"unasked"), PROTOCOL_ERROR),
        (frame(HEADERS, END_HEADERS, 2, &get_head("reviews")), PROTOCOL_ERROR),
        (frame(CONTINUATION, 0, 1, &[]), PROTOCOL_ERROR),
        (frame(0x5, END_HEADERS, 1, &[0, 0, 0, 2]), PROTOCOL_ERROR),
    ] {
        let ended = beside_another(&mesh, attack(mesh.client().outbound, [begun(), bytes.clone()].concat())).await;
        assert_eq!(ended, Ended::GoAway(code), "{bytes:?}");
    }
    eventually("each is counted", || refused(mesh.client(), "http2") == 7.0).await;
    is_served(&mesh).await;
}

/// What became of one stream.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Reset,
    /// The connection ended.
    Ended,
    Answered(u16),
}

async fn outcome(mesh: &Mesh, frames: Vec<u8>) -> Outcome {
    let mut stream = TcpStream::connect(mesh.client().outbound).await.unwrap();
    stream.write_all(&[begun(), frames].concat()).await.unwrap();
    within(async {
        loop {
            match read_frame(&mut stream).await {
                Ok((RST_STREAM, ..)) => return Outcome::Reset,
                Ok((GOAWAY, ..)) | Err(_) => return Outcome::Ended,
                // The status: an index of the static table, or three digits as they are.
                Ok((HEADERS, _, _, block)) => {
                    return Outcome::Answered(match block.as_slice() {
                        [0x88, ..] => 200,
                        [0x8c, ..] => 400,
                        _ => 0,
                    });
                }
                Ok(_) => {}
            }
        }
    })
    .await
}

#[tokio::test]
async fn what_would_be_another_request_in_http1_is_refused_in_http2() {
    let hits = Arc::new(AtomicUsize::new(0));
    let counts = hits.clone();
    let app = serve(false, move |request: Request<hyper::body::Incoming>| {
        let counts = counts.clone();
        async move {
            if request.into_body().collect().await.is_ok() {
                counts.fetch_add(1, Ordering::Relaxed);
            }
            Response::new(text("ok"))
        }
    });
    let mesh = mesh_with(app.await).await;
    let with = |more: Vec<u8>| frame(HEADERS, END_HEADERS | END_STREAM, 1, &[get_head("reviews"), more].concat());
    let only = |block: Vec<Vec<u8>>| frame(HEADERS, END_HEADERS | END_STREAM, 1, &block.concat());
    let pseudo = |path: &[u8]| only(vec![vec![0x82, 0x86], field(b":path", path), field(b":authority", b"reviews")]);
    let body = |length: &[u8], data: &[u8]| {
        let head = [get_head("reviews"), field(b"content-length", length)].concat();
        [frame(HEADERS, END_HEADERS, 1, &head), frame(DATA, END_STREAM, 1, data)].concat()
    };
    for (what, frames) in [
        ("CR LF in a value", with(field(b"a", b"b\r\nx: y"))),
        ("LF in a value", with(field(b"a", b"b\nx: y"))),
        ("NUL in a value", with(field(b"a", b"b\0"))),
        ("CR LF in a name", with(field(b"a\r\nb", b"c"))),
        ("a space in a name", with(field(b"a b", b"c"))),
        ("a colon in a name", with(field(b"a:b", b"c"))),
        ("an empty name", with(field(b"", b"c"))),
        ("capitals", with(field(b"Abc", b"d"))),
        ("connection", with(field(b"connection", b"close"))),
        ("transfer-encoding", with(field(b"transfer-encoding", b"chunked"))),
        ("upgrade", with(field(b"upgrade", b"websocket"))),
        ("keep-alive", with(field(b"keep-alive", b"1"))),
        ("te", with(field(b"te", b"gzip"))),
        ("another host", with(field(b"host", b"ratings"))),
        ("two hosts", with([field(b"host", b"reviews"), field(b"host", b"reviews")].concat())),
        ("an unknown pseudo-header", with(field(b":a", b"b"))),
        ("a pseudo-header of responses", with(field(b":status", b"200"))),
        ("a second :path", with(field(b":path", b"/b"))),
        (":protocol without CONNECT", with(field(b":protocol", b"websocket"))),
        ("a pseudo-header after a header", only(vec![vec![0x82, 0x86], field(b"a", b"b"), field(b":path", b"/")])),
        ("no path", only(vec![vec![0x82, 0x86], field(b":authority", b"reviews")])),
        ("an empty path", pseudo(b"")),
        ("a path that is none", pseudo(b"reviews")),
        ("a space in the path", pseudo(b"/a HTTP/1.1\r\nx: y")),
        ("a path of two", pseudo(b"/a b")),
        ("an asterisk", pseudo(b"*")),
        ("a user", only(vec![vec![0x82, 0x86, 0x84], field(b":authority", b"a@reviews")])),
        ("CR LF in the host", only(vec![vec![0x82, 0x86, 0x84], field(b":authority", b"reviews\r\nx: y")])),
        (
            "a method that is none",
            only(vec![field(b":method", b"GET /"), vec![0x86, 0x84], field(b":authority", b"reviews")]),
        ),
        (
            "another scheme",
            only(vec![vec![0x82], field(b":scheme", b"ftp"), vec![0x84], field(b":authority", b"reviews")]),
        ),
        (
            "CONNECT with a path",
            only(vec![field(b":method", b"CONNECT"), vec![0x86, 0x84], field(b":authority", b"reviews:9080")]),
        ),
        ("a length that is none", body(b"+2", b"ok")),
        ("a length and less data", body(b"3", b"ok")),
        ("a length and more data", body(b"1", b"ok")),
        ("two lengths", {
            let lengths = [field(b"content-length", b"2"), field(b"content-length", b"3")].concat();
            let head = [get_head("reviews"), lengths].concat();
            [frame(HEADERS, END_HEADERS, 1, &head), frame(DATA, END_STREAM, 1, b"ok")].concat()
        }),
    ] {
        let outcome = outcome(&mesh, frames).await;
        assert_ne!(outcome, Outcome::Answered(200), "{what}");
        assert_ne!(outcome, Outcome::Answered(0), "{what}");
    }
    assert_eq!(hits.load(Ordering::Relaxed), 0, "none has reached the workload whole");
    assert_eq!(outcome(&mesh, with(field(b"a", b"b"))).await, Outcome::Answered(200));
}

#[tokio::test]
async fn readers_that_read_nothing_do_not_hold_up_those_who_share_their_link() {
    const SIZE: usize = 2 << 20;
    let app = serve(false, |_| async { Response::new(text(Bytes::from(vec![b'x'; SIZE]))) }).await;
    let mesh = mesh_with(app).await;
    // A window of nothing for each stream, and a hundred requests.
    let requests = (0..100).map(|i| frame(HEADERS, END_HEADERS | END_STREAM, 2 * i + 1, &get_head("reviews")));
    let stalled: Vec<u8> =
        [PREFACE.to_vec(), frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0])].into_iter().chain(requests).flatten().collect();
    let mut stalls = TcpStream::connect(mesh.client().outbound).await.unwrap();
    stalls.write_all(&stalled).await.unwrap();
    let mut heads = 0;
    let all_begun = async {
        while heads < 100 {
            heads += u32::from(matches!(read_frame(&mut stalls).await.unwrap(), (HEADERS, ..)));
        }
    };
    within(all_begun).await;
    for _ in 0..3 {
        let response = send(mesh.client().outbound, get("reviews", "/")).await;
        assert_eq!(within(response.into_body().collect()).await.unwrap().to_bytes().len(), SIZE);
    }
}

#[tokio::test]
async fn a_connection_none_of_whose_windows_ever_opens_is_ended() {
    let app = serve(false, |_| async { Response::new(text(Bytes::from(vec![b'x'; 2 << 20]))) }).await;
    let soon = Duration::from_millis(300);
    let limits = Limits { stall_timeout: soon, ..Limits::default() };
    let reviews = Plan { hosted: vec![hosted("reviews", "reviews-v1", Protocol::Http, app)], ..Plan::default() };
    let mesh = Mesh::start(vec![Plan { limits, ..caller().await }, reviews]);
    let request = frame(HEADERS, END_HEADERS | END_STREAM, 1, &get_head("reviews"));
    let bytes = [PREFACE.to_vec(), frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]), request].concat();
    let mut stalls = TcpStream::connect(mesh.client().outbound).await.unwrap();
    stalls.write_all(&bytes).await.unwrap();
    // It answers pings, so that nothing but its windows speaks against it.
    let ended = async {
        loop {
            match read_frame(&mut stalls).await {
                Ok((PING, flags, _, payload)) if flags & ACK == 0 => {
                    if stalls.write_all(&frame(PING, ACK, 0, &payload)).await.is_err() {
                        return;
                    }
                }
                Ok(_) => {}
                Err(_) => return,
            }
        }
    };
    within(ended).await;
    assert_eq!(refused(mesh.client(), "stalled_reader"), 1.0);
    is_served(&mesh).await;
}

#[tokio::test]
async fn answers_before_a_body_was_read_fail_no_request_of_the_link() {
    // hyper gives up reading a body that nobody asks for, and closes the connection under it.
    let app = serve(false, |_| async { Response::new(text("early")) }).await;
    let mesh = mesh_with(app).await;
    let outbound = mesh.client().outbound;
    let io = hyper_util::rt::TokioIo::new(TcpStream::connect(outbound).await.unwrap());
    let executor = hyper_util::rt::TokioExecutor::new();
    let (sender, connection) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
    tokio::spawn(connection);
    let callers = (0..30).map(|_| {
        let mut sender = sender.clone();
        tokio::spawn(async move {
            for _ in 0..100 {
                let body = text(Bytes::from(vec![b'x'; 40_000]));
                let request = Request::post("http://reviews/").body(body).unwrap();
                let response = within(sender.send_request(request)).await.unwrap();
                let status = response.status();
                let answer = read(response).await;
                assert_eq!((status, answer.as_str()), (StatusCode::OK, "early"));
            }
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        caller.await.unwrap();
    }
}

#[tokio::test]
async fn an_upstream_that_floods_its_link_fails_alone() {
    // A workload that speaks HTTP/2 and answers with nothing but PING frames.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                stream.write_all(&frame(SETTINGS, 0, 0, &[])).await?;
                loop {
                    stream.write_all(&frame(PING, 0, 0, b"are you?").repeat(100)).await?;
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                #[expect(unreachable_code, reason = "gives the block its type")]
                Ok::<_, std::io::Error>(())
            });
        }
    });
    let hostile = hosted("reviews", "reviews-v1", Protocol::Http2, address);
    let good = hosted("ratings", "ratings-v1", Protocol::Http, echo().await);
    let mesh = Mesh::start(vec![caller().await, Plan { hosted: vec![hostile, good], ..Plan::default() }]);
    let response = send(mesh.client().outbound, get("reviews", "/")).await;
    assert!(response.status().is_server_error(), "{}", response.status());
    assert_eq!(send(mesh.client().outbound, get("ratings", "/")).await.status(), StatusCode::OK);
}
