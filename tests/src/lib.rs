//! What the scenarios in `tests/` stand on: hosts in network namespaces ([`lab`]), and load whose every outcome is
//! noted ([`load`]).
#![forbid(unsafe_code)]

pub mod lab;
pub mod load;
