//! weft's vocabulary: who is who ([`id`]), what nodes tell each other about themselves ([`fact`]), their cells ([`cell`]) and
//! endpoints ([`circuit`]), what operators tell the mesh ([`document`], [`secret`], [`tap`]), and the frames and codec that carry them ([`frame`], [`codec`]).
//!
//! Everything here is a plain value. Nothing does I/O, owns a clock or knows a key.
#![forbid(unsafe_code)]

pub mod cell;
pub mod circuit;
pub mod codec;
pub mod document;
pub mod fact;
pub mod frame;
pub mod id;
pub mod secret;
pub mod tap;
