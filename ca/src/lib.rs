//! Identity: who signs what for whom, and who believes it.
//!
//! A mesh has a root ([`issuer::Root`]); the root signs one intermediate per CA node ([`issuer::Issuer`]), and these
//! sign the certificates of nodes and workloads. [`rules`] says who may ask for which name, [`token`] how a host
//! without a certificate gets its first one, [`joins`] whom a CA node has let in lately, [`trust`] what a certificate
//! proves, [`renewal`] when to ask for the next.
//!
//! Nothing here owns a clock: `now` is an argument, in whole seconds. Only [`keyfile`] does I/O.
#![forbid(unsafe_code)]

mod certificate;
pub mod csr;
mod error;
pub mod grant;
pub mod init;
pub mod issuer;
pub mod joins;
pub mod key;
pub mod keyfile;
mod pem;
pub mod renewal;
pub mod revocation;
pub mod rules;
pub mod token;
pub mod trust;

pub use error::CaError;
