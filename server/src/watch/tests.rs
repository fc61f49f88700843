//! Tests of the room as a whole: scripts, a model, and what the bytes say.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod model;
mod queues;
mod scripts;
mod store;
mod wire;
mod world;
