//! Bytes that were written to be misread: what is refused, that it reaches no workload, and that others are served on.

mod support;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::StatusCode;
use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
};

use weft_proxy::config::Limits;
use weft_wire::fact::Protocol;

use support::*;

/// A workload that notes each byte which reaches it, and answers each head with `answer`.
async fn recorder(answer: &'static str) -> (SocketAddr, Arc<Mutex<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sees = seen.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let sees = sees.clone();
            tokio::spawn(async move {
                let mut unanswered = Vec::new();
                let mut buf = [0; 4_096];
                loop {
                    let read = stream.read(&mut buf).await.unwrap_or(0);
                    if read == 0 {
                        return;
                    }
                    sees.lock().extend_from_slice(&buf[..read]);
                    unanswered.extend_from_slice(&buf[..read]);
                    if unanswered.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
                        unanswered.clear();
                        if stream.write_all(answer.as_bytes()).await.is_err() {
                            return;
                        }
                    }
                }
            });
        }
    });
    (address, seen)
}

/// Writes bytes on a connection of its own, and reads until the other side closes it.
async fn exchange(to: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(to).await.unwrap();
    // A peer that refuses early may close before all is written.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let _ = within(stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

#[tokio::test]
async fn a_request_that_can_be_read_in_two_ways_is_refused_and_reaches_no_workload() {
    let (app, seen) = recorder(OK).await;
    let mesh = mesh_with(app).await;
    let get = "GET / HTTP/1.1\r\nhost: reviews\r\n";
    let post = "POST / HTTP/1.1\r\nhost: reviews\r\n";
    let many: String = (0..200).map(|i| format!("h{i}: v\r\n")).collect();
    for (request, status, reason) in [
        // Two lengths, or one that is none.
        (format!("{post}content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"), 400, "malformed_head"),
        (format!("{post}transfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n0\r\n\r\n"), 400, "malformed_head"),
        (format!("{post}content-length: 1\r\ncontent-length: 1\r\n\r\na"), 400, "malformed_head"),
        (format!("{post}content-length: 1\r\ncontent-length: 2\r\n\r\nab"), 400, "malformed_head"),
        (format!("{post}content-length: 1, 1\r\n\r\na"), 400, "malformed_head"),
        (format!("{post}content-length: +1\r\n\r\na"), 400, "malformed_head"),
        (format!("{post}content-length: -1\r\n\r\na"), 400, "malformed_head"),
        (format!("{post}content-length: 1a\r\n\r\na"), 400, "malformed_head"),
        (format!("{post}content-length: 99999999999999999999\r\n\r\na"), 400, "malformed_head"),
        (format!("{post}transfer-encoding: xchunked\r\n\r\n0\r\n\r\n"), 400, "malformed_head"),
        (format!("{post}transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n"), 400, "malformed_head"),
        (format!("{post}transfer-encoding: \x0bchunked\r\n\r\n0\r\n\r\n"), 400, "malformed_head"),
        (format!("{post}transfer-encoding : chunked\r\n\r\n0\r\n\r\n"), 400, "malformed_head"),
        (format!("{post}transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n"), 501, "bad_request"),
        (
            "POST / HTTP/1.0\r\nhost: reviews\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n".into(),
            400,
            "malformed_head",
        ),
        // Line ends and header syntax.
        ("GET / HTTP/1.1\nhost: reviews\n\n".into(), 400, "malformed_head"),
        (format!("{get}a: b\n\r\n"), 400, "malformed_head"),
        (format!("{get}a: b\rc: d\r\n\r\n"), 400, "malformed_head"),
        (format!("{get}a: b\r\n c\r\n\r\n"), 400, "malformed_head"),
        (format!("{get}a: b\0c\r\n\r\n"), 400, "malformed_head"),
        (format!("{get}a : b\r\n\r\n"), 400, "malformed_head"),
        (format!("{get}a b: c\r\n\r\n"), 400, "malformed_head"),
        (format!("{get}: b\r\n\r\n"), 400, "malformed_head"),
        (format!("{get}a\r\n\r\n"), 400, "malformed_head"),
        (format!("{get}a\u{e4}: b\r\n\r\n"), 400, "malformed_head"),
        (format!("{get}a: \x7f\r\n\r\n"), 400, "malformed_head"),
        // The request line.
        ("GET  / HTTP/1.1\r\nhost: reviews\r\n\r\n".into(), 400, "malformed_head"),
        ("GET / HTTP/1.1 \r\nhost: reviews\r\n\r\n".into(), 400, "malformed_head"),
        (" GET / HTTP/1.1\r\nhost: reviews\r\n\r\n".into(), 400, "malformed_head"),
        ("GET / HTTP/2.0\r\nhost: reviews\r\n\r\n".into(), 400, "malformed_head"),
        ("GET /\r\nhost: reviews\r\n\r\n".into(), 400, "malformed_head"),
        ("G\tET / HTTP/1.1\r\nhost: reviews\r\n\r\n".into(), 400, "malformed_head"),
        ("GET /a#b HTTP/1.1\r\nhost: reviews\r\n\r\n".into(), 400, "malformed_head"),
        ("GET /a\tb HTTP/1.1\r\nhost: reviews\r\n\r\n".into(), 400, "malformed_head"),
        // Whom the request names.
        ("GET / HTTP/1.1\r\n\r\n".into(), 400, "bad_request"),
        ("GET / HTTP/1.1\r\nhost: reviews\r\nhost: reviews\r\n\r\n".into(), 400, "bad_request"),
        ("GET / HTTP/1.1\r\nhost: a@reviews\r\n\r\n".into(), 400, "bad_request"),
        ("GET / HTTP/1.1\r\nhost: reviews:1x\r\n\r\n".into(), 400, "bad_request"),
        ("GET reviews:80 HTTP/1.1\r\nhost: reviews\r\n\r\n".into(), 400, "bad_request"),
        ("GET * HTTP/1.1\r\nhost: reviews\r\n\r\n".into(), 400, "bad_request"),
        ("GET ftp://reviews/ HTTP/1.1\r\nhost: reviews\r\n\r\n".into(), 400, "bad_request"),
        ("CONNECT reviews HTTP/1.1\r\nhost: reviews\r\n\r\n".into(), 400, "bad_request"),
        // Sizes.
        (format!("{get}a: {}\r\n\r\n", "b".repeat(70_000)), 431, "head_too_large"),
        (format!("GET /{} HTTP/1.1\r\nhost: reviews\r\n\r\n", "a".repeat(70_000)), 431, "head_too_large"),
        (format!("{get}{many}\r\n"), 431, "head_too_large"),
    ] {
        let what = request.get(..request.len().min(120)).unwrap_or_default().escape_debug().to_string();
        let before = refused(mesh.client(), reason);
        let answer = exchange(mesh.client().outbound, request.as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{what}: {answer}");
        eventually(&format!("{what} is counted as {reason}"), || refused(mesh.client(), reason) > before).await;
    }
    assert!(seen.lock().is_empty(), "{}", seen.lock().escape_ascii());
    is_served(&mesh).await;
}

#[tokio::test]
async fn a_second_request_behind_a_refused_one_is_never_read() {
    let (app, seen) = recorder(OK).await;
    let mesh = mesh_with(app).await;
    let smuggled = "GET /smuggled HTTP/1.1\r\nhost: reviews\r\n\r\n";
    for first in [
        "POST /first HTTP/1.1\r\nhost: reviews\r\ncontent-length: 6\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "GET /first HTTP/1.1\r\n\r\n",
        "GET /first HTTP/1.1\r\nhost: nobody\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
        "CONNECT nobody:1 HTTP/1.1\r\nhost: nobody:1\r\n\r\n",
        "POST /first HTTP/1.1\r\nhost: reviews\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    ] {
        let answer = exchange(mesh.client().outbound, format!("{first}{smuggled}").as_bytes()).await;
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{first:?}: {answer}");
    }
    assert!(!seen.lock().windows(9).any(|bytes| bytes == b"/smuggled"));
    // What is in order may be pipelined.
    let pair = format!("{smuggled}GET /b HTTP/1.1\r\nhost: reviews\r\nconnection: close\r\n\r\n");
    assert_eq!(exchange(mesh.client().outbound, pair.as_bytes()).await.matches("HTTP/1.1 200 ").count(), 2);
    // And an earlier request is answered before a later one is refused.
    let pair = format!("{smuggled}GET / HTTP/1.1\nhost: reviews\r\n\r\n");
    let answer = exchange(mesh.client().outbound, pair.as_bytes()).await;
    let (ok, bad) = (answer.find("HTTP/1.1 200 "), answer.find("HTTP/1.1 400 "));
    assert!(ok.is_some() && ok < bad, "{answer}");
}

#[tokio::test]
async fn a_body_in_bad_chunks_never_ends_well_for_the_workload() {
    let complete = Arc::new(AtomicUsize::new(0));
    let completes = complete.clone();
    let app = serve(false, move |request| {
        let completes = completes.clone();
        async move {
            if http_body_util::BodyExt::collect(request.into_body()).await.is_ok() {
                completes.fetch_add(1, Ordering::Relaxed);
            }
            http::Response::new(text("ok"))
        }
    });
    let mesh = mesh_with(app.await).await;
    for chunks in [
        "1\r\nab\r\n0\r\n\r\n",
        "1\na\r\n0\r\n\r\n",
        "1;a\nb\r\na\r\n0\r\n\r\n",
        "1;\0\r\na\r\n0\r\n\r\n",
        "0x1\r\na\r\n0\r\n\r\n",
        "-1\r\na\r\n0\r\n\r\n",
        "1\r\na\n0\r\n\r\n",
        "fffffffffffffffff\r\na\r\n0\r\n\r\n",
        "0\r\ncontent-length: 5\r\n\r\n",
        "0\r\na: b\n\r\n",
        "0\r\na\0: b\r\n\r\n",
    ] {
        let before = refused(mesh.client(), "malformed_body");
        let request = format!("POST / HTTP/1.1\r\nhost: reviews\r\ntransfer-encoding: chunked\r\n\r\n{chunks}");
        let answer = exchange(mesh.client().outbound, request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{chunks:?}: {answer}");
        eventually("it is counted", || refused(mesh.client(), "malformed_body") > before).await;
    }
    assert_eq!(complete.load(Ordering::Relaxed), 0, "no workload has taken one for whole");
    let good = "POST / HTTP/1.1\r\nhost: reviews\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n\
                1;ext=\"v\"\r\na\r\n0\r\nx-t: u\r\n\r\n";
    assert!(exchange(mesh.client().outbound, good.as_bytes()).await.starts_with("HTTP/1.1 200 "));
    assert_eq!(complete.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_response_that_can_be_read_in_two_ways_is_a_502() {
    let flood: &'static str = String::leak("HTTP/1.1 102 Processing\r\n\r\n".repeat(100) + OK);
    for answer in [
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\ncontent-length: 2, 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nok",
        "HTTP/1.1 200 OK\ncontent-length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\na: b\n\r\n\r\nok",
        "HTTP/1.1 200 OK\r\na: b\r\n c\r\ncontent-length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\na : b\r\ncontent-length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\na: \0\r\ncontent-length: 2\r\n\r\nok",
        "HTTP/1.1 2xx OK\r\ncontent-length: 2\r\n\r\nok",
        "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n",
        "ICY 200 OK\r\n\r\n",
        flood,
    ] {
        let (app, _) = recorder(answer).await;
        let mesh = mesh_with(app).await;
        let response = send(mesh.client().outbound, get("reviews", "/")).await;
        assert_eq!(response.status(), StatusCode::BAD_GATEWAY, "{answer:?}");
        assert_eq!(response.headers()["x-weft-reason"], "malformed_response", "{answer:?}");
        let labels = ["response_code=\"502\"", "response_flags=\"UPE\"", "reporter=\"destination\""];
        eventually("it is counted", || mesh.nodes[1].metric("istio_requests_total", &labels) == 1.0).await;
        assert_eq!(refused(&mesh.nodes[1], "malformed_response"), 1.0);
    }
}

#[tokio::test]
async fn bytes_behind_a_response_are_not_the_answer_to_the_next_request() {
    for answer in [
        "HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nsmuggled",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nsmuggled",
        "HTTP/1.1 304 Not Modified\r\ncontent-length: 8\r\n\r\nsmuggled",
    ] {
        let (app, _) = recorder(answer).await;
        let mesh = mesh_with(app).await;
        for _ in 0..5 {
            let body = read(send(mesh.client().outbound, get("reviews", "/")).await).await;
            assert!(!body.contains("smuggled"), "{answer:?}: {body}");
        }
    }
}

fn quick() -> Limits {
    let soon = Duration::from_millis(300);
    Limits { head_timeout: soon, stall_timeout: soon, connections: 20, ..Limits::default() }
}

/// As [`mesh_with`], with limits that tests can wait for at the caller's node.
async fn quick_mesh(app: SocketAddr) -> Mesh {
    let reviews = Plan { hosted: vec![hosted("reviews", "reviews-v1", Protocol::Http, app)], ..Plan::default() };
    Mesh::start(vec![Plan { limits: quick(), ..caller().await }, reviews])
}

#[tokio::test]
async fn what_was_begun_has_to_go_on() {
    let mesh = quick_mesh(echo().await).await;
    let post = "POST / HTTP/1.1\r\nhost: reviews\r\n";
    for (bytes, reason) in [
        ("GET / HTTP/1.1\r\nhost: rev".to_owned(), "head_timeout"),
        ("G".into(), "head_timeout"),
        ("PRI * HTTP/2.0\r\n".into(), "head_timeout"),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(), "head_timeout"),
        (format!("{post}content-length: 10\r\n\r\n12345"), "stalled_body"),
    ] {
        let before = refused(mesh.client(), reason);
        beside_another(&mesh, exchange(mesh.client().outbound, bytes.as_bytes())).await;
        eventually(&format!("{bytes:?} is counted"), || refused(mesh.client(), reason) > before).await;
        is_served(&mesh).await;
    }
    let answer = exchange(mesh.client().outbound, format!("{post}content-length: 2\r\n\r\n1").as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    // A second head that trickles on a connection that was served.
    let before = refused(mesh.client(), "head_timeout");
    let answer = exchange(mesh.client().outbound, b"GET / HTTP/1.1\r\nhost: reviews\r\n\r\nGET / HT").await;
    assert_eq!(answer.matches("HTTP/1.1 200 ").count(), 1, "{answer}");
    eventually("it is counted", || refused(mesh.client(), "head_timeout") > before).await;
}

#[tokio::test]
async fn who_asks_for_nothing_is_closed_after_a_time_and_blamed_for_nothing() {
    let reviews = hosted("reviews", "reviews-v1", Protocol::Http, echo().await);
    let limits = Limits { idle_timeout: Duration::from_millis(300), ..Limits::default() };
    let plan = Plan { limits, ..caller().await };
    let mesh = Mesh::start(vec![plan, Plan { hosted: vec![reviews], ..Plan::default() }]);
    assert_eq!(exchange(mesh.client().outbound, b"").await, "");
    let answer = exchange(mesh.client().outbound, b"GET / HTTP/1.1\r\nhost: reviews\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && !answer.contains("connection: close"), "{answer}");
    assert_eq!(mesh.client().metric("weft_http_refused_total", &[]), 0.0);
    is_served(&mesh).await;
}

#[tokio::test]
async fn a_response_that_was_announced_has_to_come() {
    let (app, _) = recorder("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n12345").await;
    let mesh = quick_mesh(app).await;
    let response = send(mesh.client().outbound, get("reviews", "/")).await;
    assert!(within(http_body_util::BodyExt::collect(response.into_body())).await.is_err());
    let labels = ["response_flags=\"SI\"", "reporter=\"source\""];
    eventually("it is counted", || mesh.client().metric("istio_requests_total", &labels) == 1.0).await;
}

#[tokio::test]
async fn streams_without_a_length_may_be_silent_for_as_long_as_they_like() {
    let (release, released) = tokio::sync::watch::channel(false);
    let app = serve(false, move |request| {
        let mut released = released.clone();
        async move {
            released.wait_for(|released| *released).await.unwrap();
            let body = http_body_util::BodyExt::collect(request.into_body()).await.unwrap().to_bytes();
            http::Response::new(text(body))
        }
    });
    let mesh = quick_mesh(app.await).await;
    let mut stream = TcpStream::connect(mesh.client().outbound).await.unwrap();
    let head = "POST / HTTP/1.1\r\nhost: reviews\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    tokio::time::sleep(4 * quick().stall_timeout).await;
    stream.write_all(b"1\r\nb\r\n0\r\n\r\n").await.unwrap();
    release.send(true).unwrap();
    let mut answer = String::new();
    within(stream.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("ab"), "{answer}");
}

#[tokio::test]
async fn a_caller_who_reads_nothing_is_cut_off() {
    let app = serve(false, |_| async { http::Response::new(text(bytes::Bytes::from(vec![b'x'; 64 << 20]))) }).await;
    let mesh = quick_mesh(app).await;
    let mut stream = TcpStream::connect(mesh.client().outbound).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: reviews\r\n\r\n").await.unwrap();
    eventually("it is cut off", || refused(mesh.client(), "stalled_reader") == 1.0).await;
    is_served(&mesh).await;
}

#[tokio::test]
async fn connections_beyond_a_listeners_limit_are_closed_and_room_is_made_again() {
    let (app, _) = recorder(OK).await;
    let mesh = quick_mesh(app).await;
    let mut held = Vec::new();
    for _ in 0..quick().connections {
        held.push(TcpStream::connect(mesh.client().outbound).await.unwrap());
    }
    assert_eq!(exchange(mesh.client().outbound, b"").await, "");
    eventually("it is counted", || refused(mesh.client(), "connections") >= 1.0).await;
    drop(held);
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let answer =
            exchange(mesh.client().outbound, b"GET / HTTP/1.1\r\nhost: reviews\r\nconnection: close\r\n\r\n").await;
        if answer.starts_with("HTTP/1.1 200 ") {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "never served again");
    }
}

#[tokio::test]
async fn a_host_that_takes_all_the_connections_that_it_may_have_takes_no_others() {
    let reviews = hosted("reviews", "reviews-v1", Protocol::Http, echo().await);
    let plan = Plan { hosted: vec![reviews], limits: quick(), ..Plan::default() };
    let mesh = Mesh::start(vec![caller().await, plan]);
    let target = &mesh.nodes[1];
    let connect = async || {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.77.0.1:0".parse().unwrap()).unwrap();
        socket.connect(target.data_port()).await.unwrap()
    };
    let mut held = Vec::new();
    while refused(target, "connections") == 0.0 {
        held.push(connect().await);
        assert!(held.len() <= quick().connections, "never refused");
        // One that is refused is closed, and the others wait for a handshake.
        let _ = tokio::time::timeout(Duration::from_millis(10), held.last_mut().unwrap().read(&mut [0])).await;
    }
    assert!(held.len() > quick().connections / 2, "{} are refused", held.len());
    is_served(&mesh).await;
}

#[tokio::test]
async fn whoever_holds_most_is_cut_off_when_memory_is_short() {
    // A workload that reads heads only.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let deaf = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            held.push(stream);
        }
    });
    let (app, _) = recorder(OK).await;
    let hosted =
        vec![hosted("deaf", "deaf-v1", Protocol::Http, deaf), hosted("reviews", "reviews-v1", Protocol::Http, app)];
    let limits = Limits { held_bytes: 8 << 20, ..Limits::default() };
    let mesh = Mesh::start(vec![Plan { hosted, limits, ..Plan::default() }]);
    // One caller who holds a little, and one who sends what nobody reads.
    let small = posts_over_http2(&mesh, "deaf", 1, 100_000).await;
    let large = posts_over_http2(&mesh, "deaf", 64, 8 << 20).await;
    eventually("the larger is cut off", || refused(mesh.client(), "overload") >= 1.0).await;
    assert!(within(large).await.unwrap().is_err(), "its requests fail");
    assert!(!small.is_finished(), "the smaller is left alone");
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while send(mesh.client().outbound, get("reviews", "/")).await.status() != StatusCode::OK {
        assert!(tokio::time::Instant::now() < deadline, "never served again");
    }
}

/// So many POSTs of so many bytes on one HTTP/2 connection. Ends with what the first comes to that fails.
async fn posts_over_http2(
    mesh: &Mesh,
    host: &'static str,
    count: usize,
    bytes: usize,
) -> tokio::task::JoinHandle<hyper::Result<()>> {
    let io = hyper_util::rt::TokioIo::new(TcpStream::connect(mesh.client().outbound).await.unwrap());
    let executor = hyper_util::rt::TokioExecutor::new();
    let (sender, connection) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
    tokio::spawn(connection);
    let body = bytes::Bytes::from(vec![b'x'; bytes]);
    tokio::spawn(async move {
        let posts = (0..count).map(|_| {
            let request = http::Request::post(format!("http://{host}/")).body(text(body.clone())).unwrap();
            sender.clone().send_request(request)
        });
        futures_util::future::try_join_all(posts).await.map(|_| ())
    })
}

#[tokio::test]
async fn random_and_mutated_requests_leave_a_node_as_it_was() {
    use rand::{Rng, SeedableRng, rngs::SmallRng};
    const SEEDS: [&[u8]; 4] = [
        b"GET /a?b=c HTTP/1.1\r\nhost: reviews\r\naccept: */*\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: reviews\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nx-t: u\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: reviews\r\ncontent-length: 5\r\nexpect: 100-continue\r\n\r\nhello",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0\x0c\x01\x05\0\0\0\x01\x82\x86\x84\x41\x07reviews",
    ];
    let mesh = quick_mesh(echo().await).await;
    let mut random = SmallRng::seed_from_u64(9112);
    for i in 0..400 {
        let mut bytes = SEEDS[i % SEEDS.len()].to_vec();
        for _ in 0..random.random_range(1..8) {
            let at = random.random_range(0..bytes.len());
            match random.random_range(0..4) {
                0 => bytes[at] = random.random(),
                1 => bytes.insert(at, b"\r\n\0 :;,\t"[random.random_range(0..8)]),
                2 => bytes.truncate(at.max(1)),
                _ => bytes.extend_from_within(at..),
            }
        }
        let mut stream = TcpStream::connect(mesh.client().outbound).await.unwrap();
        let _ = stream.write_all(&bytes).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let _ = within(stream.read_to_end(&mut answer)).await;
    }
    is_served(&mesh).await;
    let answered = mesh.client().metric("istio_requests_total", &["response_code=\"200\""]);
    assert!(answered >= 1.0, "some of them were requests");
}

#[tokio::test]
async fn whoever_is_refused_hears_why_though_it_was_still_writing() {
    let mesh = mesh_with(echo().await).await;
    let mut stream = TcpStream::connect(mesh.client().outbound).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\n").await.unwrap();
    within(stream.readable()).await.unwrap();
    for _ in 0..10 {
        stream.write_all(b"host: reviews\n").await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut answer = String::new();
    within(stream.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
}
