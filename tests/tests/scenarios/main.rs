//! What weft promises, on real nodes in network namespaces. Each test makes its own hosts (see `weft_tests::lab`).
#![forbid(unsafe_code)]

mod access;
mod admission;
mod api;
mod cells;
mod circuits;
mod cli;
mod clients;
mod console;
mod continuity;
mod databases;
mod documents;
mod endurance;
mod failure;
mod features;
mod formation;
mod gateway_api;
mod hostile_peer;
mod logs;
mod mesh_kinds;
mod metrics;
mod outside;
mod overload;
mod plaintext;
mod protocols;
mod revocation;
mod run;
mod secrets;
mod signals;
mod tap;
mod traces;
mod traffic;
mod tunnels;
