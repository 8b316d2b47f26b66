//! Connections on which nothing happens. Alone in its binary, because it counts what the whole process allocates.

mod support;

use std::alloc::System;

use http::Response;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use weft_proxy::server::Drained;

use support::*;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const CONNECTIONS: usize = 200;
/// Bytes that one may take while it rests; its buffers alone are 16 KiB while it does not.
const MOST: usize = 8 << 10;
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: reviews\r\n\r\n";

fn allocated() -> usize {
    let stats = ALLOCATOR.stats();
    stats.bytes_allocated.saturating_sub(stats.bytes_deallocated)
}

/// Reads so many answers, and nothing behind them.
async fn answers(stream: &mut TcpStream, count: usize) {
    let (mut seen, mut bytes) = (String::new(), [0; 4_096]);
    while seen.matches("the answer").count() < count {
        let read = within(stream.read(&mut bytes)).await.unwrap();
        assert!(read > 0, "closed after {seen}");
        seen += std::str::from_utf8(&bytes[..read]).unwrap();
    }
    assert!(seen.ends_with("the answer"), "{seen}");
    assert_eq!(seen.matches("HTTP/1.1 200 OK").count(), count, "{seen}");
}

#[tokio::test]
async fn connections_cost_little_while_nothing_happens_on_them_and_then_go_on() {
    let app = serve(false, |_| async { Response::new(text("the answer")) }).await;
    let mut mesh = mesh_with(app).await;
    let outbound = mesh.client().outbound;
    is_served(&mesh).await;
    let before = allocated();
    let mut streams = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut stream = TcpStream::connect(outbound).await.unwrap();
        stream.write_all(REQUEST).await.unwrap();
        answers(&mut stream, 1).await;
        streams.push(stream);
    }
    assert!(allocated() > before + CONNECTIONS * MOST, "they did not rest from the start");
    let logs: Vec<_> = mesh.nodes.iter().map(|node| node.log.clone()).collect();
    // Their vectors grow by doubling.
    let logged = || 2 * logs.iter().map(|log| log.text().len()).sum::<usize>();
    let spans: Vec<_> = mesh.nodes.iter().map(|node| node.spans.clone()).collect();
    let rest = || {
        spans.iter().for_each(|spans| spans.0.lock().clear());
        allocated() < before + CONNECTIONS * MOST + logged()
    };
    eventually("all connections rest", rest).await;

    for (i, stream) in streams.iter_mut().enumerate() {
        let (requests, split) = match i % 3 {
            0 => (1, REQUEST.len()),
            // More at once than hyper serves before it lets others run.
            1 => (20, 19 * REQUEST.len()),
            // A head in two parts.
            _ => (1, 5),
        };
        let bytes = REQUEST.repeat(requests);
        let (first, second) = bytes.split_at(split);
        stream.write_all(first).await.unwrap();
        tokio::task::yield_now().await;
        stream.write_all(second).await.unwrap();
        answers(stream, requests).await;
    }
    eventually("all connections rest again", rest).await;

    // A head of which half has come is no rest: it waits for the other half.
    let mut stream = streams.pop().unwrap();
    stream.write_all(&REQUEST[..5]).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    stream.write_all(&REQUEST[5..]).await.unwrap();
    answers(&mut stream, 1).await;

    // A caller that closes is noticed, and who drains does not wait for those that rest.
    drop(stream);
    let proxy = mesh.nodes[0].proxy.take().unwrap();
    assert_eq!(within(proxy.drain(PATIENCE)).await, Drained::Complete);
    for mut stream in streams {
        assert_eq!(within(stream.read(&mut [0; 16])).await.unwrap(), 0, "closed");
    }
}
