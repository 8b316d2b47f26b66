//! The types of the documents, field for field as their projects define them (Istio's `api` repository, the Gateway
//! API, Kubernetes' core), each with the rules that its own project checks.
//!
//! A field's type says what a value may be, so that reading is checking; [`values`] has those that several kinds
//! share. What goes beyond one field stands in `check`. Doc comments are the descriptions in `weft schema`.

pub mod core;
pub mod discovery;
pub mod gateway;
pub mod mesh;
pub mod networking;
pub mod security;
pub mod target;
pub mod telemetry;
pub mod values;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
pub(crate) mod tests;
