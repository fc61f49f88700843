//! The simulated machine: what the server's own code runs on when every crash and every fault is chosen from a seed.

pub mod disk;
