//! What a request costs in allocations: they are counted, so that nobody adds one unknowingly. Alone in its binary,
//! because it counts those of the whole process.

mod support;

use std::{alloc::System, net::SocketAddr};

use http::Response;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use support::*;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: reviews\r\nuser-agent: test\r\n\r\n";
const REQUESTS: usize = 500;
const ROUNDS: usize = 6;
/// The most that a request may cost.
const WITHIN_A_NODE: usize = 27;
const BETWEEN_NODES: usize = 68;

/// Allocations of the whole process for each of many requests on one connection.
async fn per_request(to: SocketAddr) -> usize {
    let mut stream = TcpStream::connect(to).await.unwrap();
    let mut answer = [0; 4_096];
    let mut fewest = usize::MAX;
    // What is made once, such as connections and tables that grow, is made in the first round; what other tasks allocate
    // meanwhile is in some more than in others.
    for round in 0..ROUNDS {
        let before = ALLOCATOR.stats().allocations;
        for _ in 0..REQUESTS {
            stream.write_all(REQUEST).await.unwrap();
            let mut read = 0;
            while !answer[..read].ends_with(b"the answer") {
                read += within(stream.read(&mut answer[read..])).await.unwrap();
            }
            assert!(answer.starts_with(b"HTTP/1.1 200 OK"));
        }
        if round > 0 {
            fewest = fewest.min(ALLOCATOR.stats().allocations - before);
        }
    }
    (fewest + REQUESTS / 2) / REQUESTS
}

#[tokio::test]
async fn a_request_costs_no_more_allocations_than_it_did() {
    let app = serve(false, |_| async { Response::new(text("the answer")) }).await;
    let mesh = mesh_with(app).await;
    // The application itself, and the test.
    let own = per_request(app).await;
    let within_a_node = per_request(mesh.nodes[1].outbound).await - own;
    let between_nodes = per_request(mesh.client().outbound).await - own;
    println!("allocations for a request: {within_a_node} within a node, {between_nodes} between nodes");
    assert!(within_a_node <= WITHIN_A_NODE, "{within_a_node} within a node, not {WITHIN_A_NODE}");
    assert!(between_nodes <= BETWEEN_NODES, "{between_nodes} between nodes, not {BETWEEN_NODES}");
}
