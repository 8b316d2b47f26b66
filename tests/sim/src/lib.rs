//! Whole meshes on virtual time, made of the real cores of `weft_discovery`: [`process`] puts them together as the
//! node's actors do. What is around them is modelled: [`network`] links as QUIC connections behave, [`gossip`] what
//! chitchat delivers, [`identity`] signatures. A [`plan`] made from a seed says what happens to the mesh ([`world`]):
//! partitions, one-way links, pauses, crashes, old and full disks, clocks that are off, nodes that die unseen, and a
//! [`hostile`] one with a valid certificate. In some meshes nodes call each other, and share their circuits ([`callers`]). [`check`] has the rules, with [`ledger`], which knows what was really said.
//!
//! Every run repeats: all randomness comes from the seed, all maps are ordered, and time is what the events make it.
#![forbid(unsafe_code)]

pub mod callers;
pub mod check;
pub mod fleet;
pub mod gossip;
pub mod hostile;
pub mod identity;
pub mod ledger;
pub mod network;
pub mod node;
pub mod plan;
pub mod process;
pub mod queue;
pub mod record;
pub mod run;
pub mod stories;
pub mod world;
