//! weft's policy engine: reads the documents that mesh users already have, checks them, and compiles them with what
//! nodes announce into the [`view::MeshView`] that every request reads.
//!
//! Pure: no I/O, no clock, no task. Time and randomness are arguments.
//!
//! * [`document`]: text to checked, typed documents; [`api`]: their types, a file for each kind; [`kinds`]: the list.
//! * [`analyze`]: what documents say together that cannot be meant, in the codes of `istioctl analyze`.
//! * [`compile`]: documents and node records to a view.
//! * [`normalise`], [`authenticate`], [`authorize`], [`mtls`]: what a workload asks of those who call it; [`access`]:
//!   all of it for one workload.
//! * [`view`], [`route`], [`balance`], [`endpoint`], [`session`], [`connection`]: what a request asks of a view; [`limit`], [`fault`], [`experiment`]: what it asks
//!   of policies; [`deadline`]: how long it may take.
//! * `sidecar`: what a client sees of the mesh at all.
//! * [`gateway`]: what clients outside of the mesh find where they come in.
//! * [`settings`]: what holds in the whole mesh.
//! * [`telemetry`]: what workloads tell of their traffic; [`access_log`]: how logs are written; [`trace`]: how traces are
//!   handed on.
//! * [`headers`]: what rules do to headers; [`date`]: how their values write times.
//! * [`explain`]: why a request goes where it goes.
//! * [`references`]: what a document names that the mesh does not have; [`secrets`]: what it names that only some nodes
//!   may have.
#![forbid(unsafe_code)]

pub mod access;
pub mod access_log;
pub mod address;
pub mod analyze;
pub mod api;
mod attached;
pub mod authenticate;
pub mod authorize;
pub mod balance;
pub mod circuit;
pub mod compile;
pub mod condition;
pub mod connection;
pub mod cors;
pub mod date;
pub mod deadline;
pub mod document;
pub mod endpoint;
pub mod experiment;
pub mod explain;
mod external;
pub mod fault;
pub mod gateway;
pub mod headers;
pub mod hosts;
pub mod kinds;
pub mod learned;
pub mod limit;
mod matcher;
pub mod mtls;
mod namespaces;
pub mod normalise;
pub mod origination;
mod pattern;
pub mod provider;
mod ranges;
mod redirect;
pub mod references;
pub mod retry;
mod rewrite;
pub mod route;
pub mod secrets;
pub mod service_id;
pub mod session;
pub mod settings;
mod sidecar;
pub mod status;
pub mod telemetry;
pub mod trace;
pub mod unserved;
pub mod view;
