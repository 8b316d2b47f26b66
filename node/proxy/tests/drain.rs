//! What callers are told when a node stops, on real sockets.

mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::Response;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use weft_proxy::{config::ListenerProtocol, server::Drained};
use weft_wire::fact::Protocol;

use support::{frames::*, *};

/// Reads a response of HTTP/1.1 whose body has this text at its end.
async fn read_until(from: &mut TcpStream, end: &str) -> String {
    let mut text = String::new();
    while !text.ends_with(end) {
        let mut bytes = [0; 1024];
        let count = within(from.read(&mut bytes)).await.unwrap();
        assert!(count > 0, "ended after {text:?}");
        text.push_str(std::str::from_utf8(&bytes[..count]).unwrap());
    }
    text.to_lowercase()
}

#[tokio::test]
async fn long_streams_go_on_until_the_deadline() {
    let switching = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    let echoing = async |greeting: &'static str| {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    if !greeting.is_empty() {
                        let _ = stream.read(&mut [0; 2048]).await;
                        let _ = stream.write_all(greeting.as_bytes()).await;
                    }
                    let (mut read, mut write) = stream.split();
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                });
            }
        });
        address
    };
    let hosted = vec![
        hosted("db", "db-v1", Protocol::Tcp, echoing("").await),
        hosted("chat", "chat-v1", Protocol::Http, echoing(switching).await),
    ];
    let client = Plan { listeners: vec![("db", ListenerProtocol::Tcp)], ..caller().await };
    let mut mesh = Mesh::start(vec![client, Plan { hosted, ..Plan::default() }]);
    let bytes = TcpStream::connect(mesh.client().listeners[0]).await.unwrap();
    let mut socket = TcpStream::connect(mesh.client().outbound).await.unwrap();
    let head = "GET / HTTP/1.1\r\nhost: chat\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    socket.write_all(head.as_bytes()).await.unwrap();
    assert!(read_until(&mut socket, "\r\n\r\n").await.starts_with("http/1.1 101 "));
    let mut streams = [bytes, socket];
    let proxy = mesh.nodes[0].proxy.take().unwrap();
    let mut drain = std::pin::pin!(proxy.drain(Duration::from_secs(3)));
    // The drain has begun by the time that it is waited for.
    assert!(futures_util::poll!(drain.as_mut()).is_pending());
    for stream in &mut streams {
        stream.write_all(b"on\n").await.unwrap();
        assert_eq!(read_until(stream, "on\n").await, "on\n");
    }
    assert_eq!(within(drain).await, Drained::Cut);
    for stream in &mut streams {
        assert!(matches!(within(stream.read(&mut [0])).await, Ok(0) | Err(_)));
    }
}

#[tokio::test]
async fn each_protocol_says_in_its_way_that_a_connection_ends_with_what_is_under_way() {
    let (release, released) = tokio::sync::watch::channel(false);
    let arrived = Arc::new(AtomicUsize::new(0));
    let arrives = arrived.clone();
    let app = serve(false, move |request| {
        let (mut released, arrives) = (released.clone(), arrives.clone());
        async move {
            if request.uri().path() != "/fast" {
                arrives.fetch_add(1, Ordering::Relaxed);
                released.wait_for(|released| *released).await.unwrap();
            }
            Response::new(text("done"))
        }
    });
    let reviews = Plan { hosted: vec![hosted("reviews", "reviews-v1", Protocol::Http, app.await)], ..Plan::default() };
    let mut mesh = Mesh::start(vec![caller().await, reviews]);
    let outbound = mesh.client().outbound;

    let mut idle = TcpStream::connect(outbound).await.unwrap();
    idle.write_all(b"GET /fast HTTP/1.1\r\nhost: reviews\r\n\r\n").await.unwrap();
    assert!(!read_until(&mut idle, "done").await.contains("connection: close"));
    let mut busy = TcpStream::connect(outbound).await.unwrap();
    busy.write_all(b"GET / HTTP/1.1\r\nhost: reviews\r\n\r\n").await.unwrap();
    let mut http2 = TcpStream::connect(outbound).await.unwrap();
    let head = frame(HEADERS, END_HEADERS | END_STREAM, 1, &get_head("reviews"));
    http2.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[]), &head].concat()).await.unwrap();
    eventually("both are under way", || arrived.load(Ordering::Relaxed) == 2).await;

    let proxy = mesh.nodes[0].proxy.take().unwrap();
    let drain = tokio::spawn(proxy.drain(PATIENCE));
    assert_eq!(within(idle.read(&mut [0; 1])).await.unwrap(), 0, "an idle connection is closed");
    let mut is_answered = false;
    let mut is_told = false;
    loop {
        match within(read_frame(&mut http2)).await {
            Ok((GOAWAY, .., payload)) => {
                assert_eq!(payload[4..8], [0; 4], "no error");
                is_told = true;
                // What is under way is finished after that.
                release.send_replace(true);
            }
            Ok((PING, flags, _, payload)) if flags & ACK == 0 => {
                http2.write_all(&frame(PING, ACK, 0, &payload)).await.unwrap();
            }
            Ok((HEADERS, _, 1, _)) => is_answered = is_told,
            Ok(_) => {}
            Err(_) => break,
        }
    }
    assert!(is_told && is_answered, "told {is_told}, answered after that {is_answered}");
    assert!(read_until(&mut busy, "done").await.contains("connection: close"));
    assert_eq!(within(busy.read(&mut [0; 1])).await.unwrap(), 0);
    assert_eq!(within(drain).await.unwrap(), Drained::Complete);
}
