//! `gateway.networking.k8s.io`: the Gateway API, standard and experimental channel. Rules: the schemas and CEL
//! expressions of its CRDs, of the newest version; what only an older version allows is said where it is allowed.

mod backend_tls_policy;
#[allow(clippy::module_inception)]
mod gateway;
mod grpc_route;
mod http_route;
mod layer4;
mod reference_grant;
mod references;
mod values;

#[cfg(test)]
mod tests;

pub use self::{
    backend_tls_policy::*, gateway::*, grpc_route::*, http_route::*, layer4::*, reference_grant::*, references::*,
    values::*,
};
