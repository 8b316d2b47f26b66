//! `networking.istio.io`.

mod destination_rule;
mod virtual_service;

pub use self::{destination_rule::*, virtual_service::*};
