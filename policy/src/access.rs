//! What a workload asks of those who call it: all of its security policies, compiled together.

use crate::{authenticate::Authenticator, authorize::Authorizer, mtls::EffectiveMtls};

/// The policies that are for one workload, or for several that have the same ones. Its place in memory tells whether
/// it has changed: as long as a workload's policies are the same documents, views share it.
#[derive(Debug, Default)]
pub struct Access {
    pub authorizer: Authorizer,
    pub authenticator: Authenticator,
    pub mtls: EffectiveMtls,
}
