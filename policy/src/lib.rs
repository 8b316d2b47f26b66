//! weft's policy engine: reads the documents that mesh users already have, checks them, and compiles them with what
//! nodes announce into the [`view::MeshView`] that every request reads.
//!
//! Pure: no I/O, no clock, no task. Time and randomness are arguments.
//!
//! * [`document`]: text to checked, typed documents; [`kinds`]: which kinds there are.
//! * [`compile`]: documents and node records to a view.
//! * [`view`], [`route`], [`balance`], [`endpoint`]: what a request asks of a view.
#![forbid(unsafe_code)]

pub mod balance;
pub mod compile;
pub mod document;
pub mod endpoint;
mod hosts;
pub mod kinds;
mod matcher;
mod pattern;
mod rewrite;
pub mod route;
pub mod view;
