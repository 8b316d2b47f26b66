//! What the scenarios in `tests/` stand on: hosts in network namespaces ([`lab`]), and load whose every outcome is
//! noted ([`load`]); a mesh whose endpoints fall ill ([`fleet`]).
#![forbid(unsafe_code)]

pub mod fleet;
pub mod lab;
pub mod load;
