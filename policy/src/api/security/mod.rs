//! `security.istio.io`.

mod authorization_policy;
mod peer_authentication;
mod request_authentication;
#[cfg(test)]
mod tests;

pub use self::{authorization_policy::*, peer_authentication::*, request_authentication::*};
