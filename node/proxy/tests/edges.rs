//! Corners of RFC 9110, 9112 and 9113 that proxies get wrong, end to end through two of them.

mod support;

use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use weft_wire::fact::Protocol;

use support::*;

/// A workload that answers each connection's first head with these bytes, and then closes.
async fn saying(answer: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await?);
                }
                stream.write_all(answer.as_bytes()).await?;
                stream.shutdown().await
            });
        }
    });
    address
}

/// What a caller reads to the end of its connection.
async fn raw(mesh: &Mesh, request: &str) -> String {
    let mut stream = TcpStream::connect(mesh.client().outbound).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    within(stream.read_to_string(&mut answer)).await.unwrap();
    answer
}

/// Reads a head.
async fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(within(stream.read_u8()).await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

#[tokio::test]
async fn trailers_go_both_ways_from_http1_to_http1() {
    let app = serve(false, |request| async move {
        let body = request.into_body().collect().await.unwrap();
        let sum = body.trailers().and_then(|trailers| trailers.get("x-sum")).cloned();
        let mut trailers = HeaderMap::new();
        trailers.insert("x-seen", sum.unwrap_or_else(|| "none".parse().unwrap()));
        let frames = [Ok::<_, std::convert::Infallible>(Frame::data("ok".into())), Ok(Frame::trailers(trailers))];
        let body = StreamBody::new(futures_util::stream::iter(frames));
        Response::builder().header("trailer", "x-seen").body(BodyExt::boxed(body)).unwrap()
    });
    let mesh = mesh_with(app.await).await;
    let request = "POST / HTTP/1.1\r\nhost: reviews\r\nte: trailers\r\nconnection: te, close\r\ntrailer: x-sum\r\n\
                   transfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\nx-sum: 7\r\n\r\n";
    let answer = raw(&mesh, request).await;
    assert!(answer.contains("2\r\nok\r\n"), "{answer}");
    // The workload is not told that trailers are welcome (hyper then keeps its own), but gets those of the caller.
    let app = serve(true, |request| async move {
        let body = request.into_body().collect().await.unwrap();
        let sum = body.trailers().and_then(|trailers| trailers.get("x-sum")).cloned();
        let mut trailers = HeaderMap::new();
        trailers.insert("x-seen", sum.unwrap_or_else(|| "none".parse().unwrap()));
        let frames = [Ok::<_, std::convert::Infallible>(Frame::data("ok".into())), Ok(Frame::trailers(trailers))];
        Response::builder()
            .header("trailer", "x-seen")
            .body(BodyExt::boxed(StreamBody::new(futures_util::stream::iter(frames))))
            .unwrap()
    });
    let reviews = Plan { hosted: vec![hosted("reviews", "reviews-v1", Protocol::Http2, app.await)], ..Plan::default() };
    let mesh = Mesh::start(vec![caller().await, reviews]);
    let answer = raw(&mesh, request).await;
    assert!(answer.ends_with("0\r\nx-seen: 7\r\n\r\n"), "{answer}");
}

#[tokio::test]
async fn expect_continue_never_waits_for_itself() {
    let mesh = mesh_with(echo().await).await;
    let mut stream = TcpStream::connect(mesh.client().outbound).await.unwrap();
    let request = "POST / HTTP/1.1\r\nhost: reviews\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    assert!(head(&mut stream).await.starts_with("HTTP/1.1 100 "));
    stream.write_all(b"hello").await.unwrap();
    assert!(head(&mut stream).await.starts_with("HTTP/1.1 200 "));
    // A workload may refuse before it has the body, and the caller need not send it.
    let mesh = mesh_with(saying("HTTP/1.1 417 Expectation Failed\r\ncontent-length: 0\r\n\r\n").await).await;
    let mut stream = TcpStream::connect(mesh.client().outbound).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut first = head(&mut stream).await;
    if first.starts_with("HTTP/1.1 100 ") {
        first = head(&mut stream).await;
    }
    assert!(first.starts_with("HTTP/1.1 417 "), "{first}");
}

#[tokio::test]
async fn interim_responses_of_a_workload_are_not_passed_on() {
    let early = "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    let mesh = mesh_with(saying(early).await).await;
    let answer = raw(&mesh, "GET / HTTP/1.1\r\nhost: reviews\r\nconnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\nok"), "{answer}");
}

#[tokio::test]
async fn responses_without_a_body_keep_their_lengths_and_have_none() {
    for (method, answer, status, length) in [
        ("HEAD", "HTTP/1.1 200 OK\r\ncontent-length: 5000\r\n\r\n", 200, Some("5000")),
        ("HEAD", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", 200, None),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n", 204, None),
        // hyper leaves it out, as a server may (RFC 9110 section 8.6).
        ("GET", "HTTP/1.1 304 Not Modified\r\ncontent-length: 5000\r\netag: \"a\"\r\n\r\n", 304, None),
    ] {
        let mesh = mesh_with(saying(answer).await).await;
        let answer = raw(&mesh, &format!("{method} / HTTP/1.1\r\nhost: reviews\r\nconnection: close\r\n\r\n")).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.ends_with("\r\n\r\n"), "{answer}");
        assert_eq!(answer.matches("\r\n\r\n").count(), 1, "{answer}");
        let line = answer.lines().find_map(|line| line.strip_prefix("content-length: "));
        assert_eq!(line, length, "{method}: {answer}");
    }
}

#[tokio::test]
async fn a_body_that_ends_with_its_connection_ends_well() {
    let mesh = mesh_with(saying("HTTP/1.1 200 OK\r\n\r\nto the end").await).await;
    assert_eq!(read(send(mesh.client().outbound, get("reviews", "/")).await).await, "to the end");
    // HTTP/1.0 callers know no chunks.
    let answer = raw(&mesh, "GET / HTTP/1.0\r\nhost: reviews\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.0 200 ") && answer.ends_with("\r\n\r\nto the end"), "{answer}");
    assert!(!answer.contains("transfer-encoding"), "{answer}");
}

#[tokio::test]
async fn one_that_breaks_off_is_not_taken_for_whole() {
    // How much of it the caller still gets is chance; it ends before the end.
    let request = "GET / HTTP/1.1\r\nhost: reviews\r\n\r\n";
    let mesh = mesh_with(saying("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n12345").await).await;
    let answer = raw(&mesh, request).await;
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    assert!("12345".starts_with(body), "{answer}");
    let chunks = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n12345\r\n";
    let mesh = mesh_with(saying(chunks).await).await;
    let answer = raw(&mesh, request).await;
    assert!(!answer.ends_with("0\r\n\r\n"), "{answer}");
}

#[tokio::test]
async fn a_caller_that_closes_its_side_within_an_exchange_is_gone_as_for_envoy() {
    let (mesh, mut stream) = (mesh_with(echo().await).await, None);
    for ends in [false, true] {
        let stream = stream.insert(TcpStream::connect(mesh.client().outbound).await.unwrap());
        stream.write_all(b"POST / HTTP/1.1\r\nhost: reviews\r\ncontent-length: 2\r\n\r\na").await.unwrap();
        if ends {
            stream.shutdown().await.unwrap();
            let _ = within(stream.read_to_end(&mut Vec::new())).await;
        } else {
            stream.write_all(b"b").await.unwrap();
            assert!(head(stream).await.starts_with("HTTP/1.1 200 "));
        }
    }
    let gone = ["response_flags=\"DC\"", "reporter=\"source\""];
    eventually("it is counted", || mesh.client().metric("istio_requests_total", &gone) == 1.0).await;
    is_served(&mesh).await;
}

#[tokio::test]
async fn an_offer_of_h2c_is_ignored_and_the_connection_goes_on() {
    let mesh = mesh_with(echo().await).await;
    let mut stream = TcpStream::connect(mesh.client().outbound).await.unwrap();
    let offer = "connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n";
    stream.write_all(format!("HEAD / HTTP/1.1\r\nhost: reviews\r\n{offer}\r\n").as_bytes()).await.unwrap();
    assert!(head(&mut stream).await.starts_with("HTTP/1.1 200 "));
    stream.write_all(b"HEAD /again HTTP/1.1\r\nhost: reviews\r\n\r\n").await.unwrap();
    assert!(head(&mut stream).await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn options_of_everything_and_trace_reach_the_workload() {
    let mesh = mesh_with(echo().await).await;
    for method in ["OPTIONS * ", "TRACE / "] {
        let answer = raw(&mesh, &format!("{method}HTTP/1.1\r\nhost: reviews\r\nconnection: close\r\n\r\n")).await;
        assert!(answer.contains(method.trim()), "{answer}");
    }
}

#[tokio::test]
async fn trace_and_options_are_passed_on_as_often_as_they_may_be() {
    let mesh = mesh_with(echo().await).await;
    let ask = async |method: &str, headers: &str| {
        raw(&mesh, &format!("{method} HTTP/1.1\r\nhost: reviews\r\nconnection: close\r\n{headers}\r\n")).await
    };
    for method in ["OPTIONS *", "TRACE /a?b"] {
        // The caller's node, then the workload's.
        for left in ["0", "1"] {
            let answer = ask(method, &format!("max-forwards: {left}\r\n")).await;
            assert!(answer.starts_with("HTTP/1.1 200 ") && !answer.contains("x-forwarded-client-cert"), "{answer}");
        }
        for (sent, seen) in [("2", "0"), ("12", "10"), ("99999999999999999999", "18446744073709551613"), ("x", "x")] {
            let answer = ask(method, &format!("max-forwards: {sent}\r\n")).await;
            let is_seen = answer.contains(&format!("max-forwards: {seen}\n"));
            assert!(is_seen && answer.contains("x-forwarded-client-cert: "), "{method} {sent}: {answer}");
        }
    }
    let answer = ask("GET /", "max-forwards: 0\r\n").await;
    assert!(answer.contains("max-forwards: 0\n"), "it is for the two methods: {answer}");
    let answer =
        ask("TRACE /a?b", "max-forwards: 0\r\nx-a: c\r\ncookie: d\r\nauthorization: e\r\n").await.to_lowercase();
    assert!(answer.contains("content-type: message/http\r\n"), "{answer}");
    let (_, reflected) = answer.split_once("\r\n\r\n").unwrap();
    assert!(reflected.starts_with("trace /a?b http/1.1\r\nhost: reviews\r\n"), "{reflected}");
    assert!(reflected.contains("x-a: c\r\n") && reflected.ends_with("\r\n\r\n"), "{reflected}");
    assert!(!reflected.contains("cookie") && !reflected.contains("authorization"), "{reflected}");
}

#[tokio::test]
async fn grpc_that_is_all_trailers_and_grpc_web_pass_as_they_are() {
    let app = serve(true, |_| async {
        let response = Response::builder().header("content-type", "application/grpc").header("grpc-status", "7");
        response.body(text("")).unwrap()
    });
    let ratings = Plan { hosted: vec![hosted("ratings", "ratings-v1", Protocol::Grpc, app.await)], ..Plan::default() };
    let mesh = Mesh::start(vec![caller().await, ratings]);
    let request = Request::post("http://ratings:9080/A/B").header("content-type", "application/grpc");
    let response = send_http2(mesh.client().outbound, request.body(text("m")).unwrap()).await;
    assert_eq!((response.status(), &response.headers()["grpc-status"]), (StatusCode::OK, &"7".parse().unwrap()));
    let labels = ["request_protocol=\"grpc\"", "grpc_response_status=\"7\""];
    eventually("it is counted", || mesh.client().metric("istio_requests_total", &labels) == 1.0).await;
    // grpc-web is HTTP, with its trailers in the body.
    const MESSAGES: &[u8] = b"\0\0\0\0\x01m\x80\0\0\0\x0fgrpc-status:0\r\n";
    let app = serve(false, |request| async move {
        assert_eq!(request.headers()["content-type"], "application/grpc-web+proto");
        assert_eq!(request.headers()["x-grpc-web"], "1");
        let body = request.into_body().collect().await.unwrap().to_bytes();
        Response::builder().header("content-type", "application/grpc-web+proto").body(text(body)).unwrap()
    });
    let web = mesh_with(app.await).await;
    for http2 in [false, true] {
        let request = Request::post("http://reviews:9080/A/B").header("content-type", "application/grpc-web+proto");
        let request = request.header("host", "reviews:9080").header("x-grpc-web", "1").body(text(MESSAGES)).unwrap();
        let outbound = web.client().outbound;
        let response = if http2 { send_http2(outbound, request).await } else { send(outbound, request).await };
        assert_eq!(response.headers()["content-type"], "application/grpc-web+proto");
        assert_eq!(within(response.into_body().collect()).await.unwrap().to_bytes(), MESSAGES);
    }
    let labels = ["request_protocol=\"http\"", "response_code=\"200\"", "reporter=\"source\""];
    eventually("both are counted", || web.client().metric("istio_requests_total", &labels) == 2.0).await;
    // What the proxy itself refuses is told grpc-web's callers in HTTP.
    let request = Request::post("/A/B").header("host", "nobody").header("content-type", "application/grpc-web+proto");
    let response = send(mesh.client().outbound, request.body(text("m")).unwrap()).await;
    assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
}

#[tokio::test]
async fn a_body_of_many_megabytes_passes_both_ways() {
    let app = serve(false, |request| async move {
        let mut body = request.into_body();
        let mut sum = 0_usize;
        while let Some(frame) = body.frame().await {
            sum += frame.unwrap().into_data().map_or(0, |data| data.len());
        }
        Response::builder().header("x-sum", sum).body(text(Bytes::from(vec![b'y'; sum]))).unwrap()
    });
    let mesh = mesh_with(app.await).await;
    const SIZE: usize = 48 << 20;
    let request = Request::post("/").header("host", "reviews").body(text(Bytes::from(vec![b'x'; SIZE]))).unwrap();
    let response = send(mesh.client().outbound, request).await;
    assert_eq!(response.headers()["x-sum"], SIZE.to_string().as_str());
    assert_eq!(within(response.into_body().collect()).await.unwrap().to_bytes().len(), SIZE);
}

/// An application that switches to websocket, and says each four bytes back in capitals.
async fn chat() -> SocketAddr {
    serve(false, |mut request: Request<hyper::body::Incoming>| async move {
        assert_eq!((request.method().as_str(), &request.headers()["upgrade"]), ("GET", &"websocket".parse().unwrap()));
        assert_eq!(request.headers()["sec-websocket-key"].len(), 24);
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut stream = TokioIo::new(upgrade.await.unwrap());
            let mut bytes = [0; 4];
            while stream.read_exact(&mut bytes).await.is_ok() {
                stream.write_all(&bytes.map(|byte| byte.to_ascii_uppercase())).await.unwrap();
            }
        });
        Response::builder()
            .status(StatusCode::SWITCHING_PROTOCOLS)
            .header("connection", "upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-accept", "of another key")
            .body(text(""))
            .unwrap()
    })
    .await
}

/// An HTTP/2 connection on which the proxy has said what it offers.
async fn connected(mesh: &Mesh) -> hyper::client::conn::http2::SendRequest<Body> {
    let io = TokioIo::new(TcpStream::connect(mesh.client().outbound).await.unwrap());
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    within(sender.send_request(Request::get("http://nobody/").body(text("")).unwrap())).await.unwrap();
    sender
}

fn extended_connect(protocol: &'static str) -> Request<Body> {
    let mut request = Request::connect("http://reviews:9080/chat").body(text("")).unwrap();
    request.extensions_mut().insert(hyper::ext::Protocol::from_static(protocol));
    request
}

#[tokio::test]
async fn a_websocket_over_http2_reaches_a_workload_that_knows_only_http1() {
    let mesh = mesh_with(chat().await).await;
    let mut sender = connected(&mesh).await;
    let mut response = within(sender.send_request(extended_connect("websocket"))).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert!(!response.headers().contains_key("sec-websocket-accept"));
    let mut stream = TokioIo::new(within(hyper::upgrade::on(&mut response)).await.unwrap());
    let mut bytes = [0; 4];
    for word in [b"ping", b"pong"] {
        stream.write_all(word).await.unwrap();
        within(stream.read_exact(&mut bytes)).await.unwrap();
        assert_eq!(bytes, word.to_ascii_uppercase()[..]);
    }
    let refused = within(sender.send_request(extended_connect("connect-udp"))).await.unwrap();
    assert_eq!(refused.status(), StatusCode::NOT_IMPLEMENTED);
}

#[tokio::test]
async fn a_workload_that_does_not_switch_is_not_taken_for_one_that_does() {
    for (answer, status) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", StatusCode::BAD_GATEWAY),
        ("HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\nno", StatusCode::NOT_FOUND),
    ] {
        let mesh = mesh_with(saying(answer).await).await;
        let mut sender = connected(&mesh).await;
        let response = within(sender.send_request(extended_connect("websocket"))).await.unwrap();
        assert_eq!(response.status(), status);
    }
}
