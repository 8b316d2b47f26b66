//! What nodes may rely on when they read each other, and what they may not rely on when they read anybody.

#[path = "../../fuzz/checks.rs"]
mod checks;
mod golden;
mod hostile;
mod samples;
mod seeds;
