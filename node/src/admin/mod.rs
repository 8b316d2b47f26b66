//! The admin API: JSON over HTTP on a unix socket (reads and writes, for whoever may open the socket) and on the
//! loopback address (reads only).

pub mod api;
pub mod ask;
pub mod circuits;
pub mod compare;
pub mod decision;
pub mod doctor;
pub mod events;
mod explain;
pub mod history;
pub mod live;
pub mod plaintext;
pub mod server;
pub mod status;
pub mod traces;
pub mod traffic;
