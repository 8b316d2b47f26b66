//! weft's data path: what happens to a request between the caller's socket and the called workload's.
//!
//! One request is one *exchange*: accept → protocol → load the view once → route → pick an endpoint → pool → stream
//! both ways → record. Everything here reads immutable snapshots that actors publish ([`ports`]) and awaits no actor.
//!
//! The proxy runs on its own single-threaded runtimes, one per worker, which share nothing but those snapshots, the
//! endpoints' load counters and the metrics' atomics: pools, tasks and buffers belong to one thread and take no lock.
#![forbid(unsafe_code)]

mod access;
pub mod access_log;
mod admission;
mod body;
mod client_hello;
pub mod config;
mod connection;
pub mod crypto;
pub mod decisions;
mod detect;
pub mod elsewhere;
mod error;
mod exchange;
pub mod ext_authz;
mod fault;
mod grpc;
mod headers;
pub mod http1;
pub mod http2;
mod inbound;
mod limit;
mod listener;
mod max_forwards;
pub mod metrics;
mod original;
pub mod origination;
mod outbound;
mod overdue;
pub mod overload;
mod pool;
pub mod ports;
mod prefixed;
mod recheck;
mod record;
pub mod resolve;
mod respond;
pub mod server;
pub mod sniff;
mod splice;
mod stall;
pub mod tap;
pub mod target;
mod tcp;
mod tls;
mod tries;
mod upgrade;
mod upstream;
mod worker;
