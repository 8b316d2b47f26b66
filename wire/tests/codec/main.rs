//! What nodes may rely on when they read each other, and what they may not rely on when they read anybody.

mod golden;
mod hostile;
mod samples;
