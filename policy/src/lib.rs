//! weft's policy engine: reads the documents that mesh users already have, checks them, and compiles them with what
//! nodes announce into the [`view::MeshView`] that every request reads.
//!
//! Pure: no I/O, no clock, no task. Time and randomness are arguments.
//!
//! * [`document`]: text to checked, typed documents; [`api`]: their types, a file for each kind; [`kinds`]: the list.
//! * [`compile`]: documents and node records to a view.
//! * [`view`], [`route`], [`balance`], [`endpoint`]: what a request asks of a view.
//! * [`normalise`], [`authenticate`], [`authorize`], [`mtls`]: what a workload asks of those who call it.
#![forbid(unsafe_code)]

pub mod api;
pub mod authenticate;
pub mod authorize;
pub mod balance;
mod cel;
pub mod compile;
pub mod document;
pub mod endpoint;
mod hosts;
pub mod kinds;
mod matcher;
pub mod mtls;
pub mod normalise;
mod pattern;
mod rewrite;
pub mod route;
pub mod view;
