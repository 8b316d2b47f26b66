//! The admin API: JSON over HTTP on a unix socket (reads and writes, for whoever may open the socket) and on the
//! loopback address (reads; what the console needs beyond for whoever is signed in). The console is served there too.

pub mod api;
pub mod ask;
pub mod certificates;
pub mod circuits;
pub mod compare;
mod console;
pub mod decision;
pub mod doctor;
pub mod edit;
pub mod events;
mod explain;
pub mod history;
mod issuers;
pub mod live;
pub mod log;
mod openapi;
mod operations;
pub mod plaintext;
pub mod schemas;
pub mod server;
pub mod sessions;
pub mod status;
pub mod tap;
pub mod traces;
pub mod traffic;
