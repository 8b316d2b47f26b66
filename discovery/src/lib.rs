//! How nodes find each other and come to hold the same state, in three mechanisms of rising trust:
//!
//! * [`membership`]: chitchat gossip. Who seems to be there, and how new their state is. Signed by nobody, so it
//!   decides nothing that matters; [`liveness`] weighs it against what links and owners say.
//! * [`facts`]: what each node says about itself, signed by it, flooded, and dropped when it is gone.
//! * [`documents`]: what operators tell the mesh, signed, stamped by a hybrid logical [`clock`], kept by every node.
//!
//! All but [`membership`] are pure: input and `now` go in, effects come out. [`peers`] holds what is known of the other
//! nodes, [`overlay`] says whom to link with and when to dial, [`links`] which links there are and how news is cut into
//! messages, [`repair`] whom to ask for what was missed, and [`pull`] how. Nothing here opens a connection: membership
//! speaks through a [`membership::Transport`] that the node hands in, and signatures are judged by its
//! [`authority::Authority`].
//!
//! A large mesh is several cells: each gossips for itself, and relays link them. [`facts`] decides what crosses, and
//! [`cells`] what a node makes of the others.
//!
//! There is no separate set of "seen" messages for flooding. A table answers `New` exactly once per version of a fact
//! or document, and only `New` is forwarded, so each node forwards each version at most once, however many copies
//! arrive and however late.
#![forbid(unsafe_code)]

pub mod authority;
pub mod cells;
pub mod change;
pub mod clock;
pub mod coalesce;
mod codec_shim;
pub mod documents;
pub mod facts;
pub mod keys;
pub mod links;
pub mod liveness;
pub mod membership;
pub mod overlay;
pub mod peers;
pub mod pull;
pub mod repair;
pub mod wants;
