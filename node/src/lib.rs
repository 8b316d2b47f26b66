//! The weft node: everything of the binary. `main.rs` is one call, so that tests can run the same program with their
//! fault switches on.
#![forbid(unsafe_code)]

mod actors;
mod admin;
mod build;
mod circuits;
mod cli;
mod config;
mod culprit;
mod demo;
mod dir;
mod doctor;
mod drafts;
mod events;
mod fetch;
mod health;
mod identity;
mod originations;
mod otlp;
mod overload;
mod peer;
mod plaintext;
mod seeds;
mod store;
mod supervisor;
mod tap;
mod telemetry;
mod traces;
mod traffic;
mod vault;

pub use cli::main;

/// Costs a request less than the C library's, and gives back to the system what a burst needed. It stands here for both
/// programs: what tests learn of a node's memory is true of the one that is shipped.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;
