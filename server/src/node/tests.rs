//! Tests of the room: raft step by step, hand-overs, and what a start makes of what it finds.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod archives;
mod crafted;
mod group;
mod lanes;
mod leases;
mod mailboxes;
mod random;
mod recoveries;
mod scripts;
mod threads;
