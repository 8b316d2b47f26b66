//! The Gateway API: what attaches to what, in which order rules are tried, and what routes say to requests.

pub(crate) mod attach;
mod conditions;
mod filters;
pub(crate) mod listeners;
pub(crate) mod mesh;
mod rank;
pub(crate) mod route;
pub(super) mod rules;

#[cfg(test)]
mod testing;
