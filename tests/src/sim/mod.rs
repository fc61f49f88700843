//! The simulator: one member's own code, in one thread, from one seed.
//!
//! A [`World`] owns a simulated disk, the engine's in-memory twin, a virtual clock, clients and watchers, and steps the
//! member's parts by hand: the same `Driver::drive`, the same log store over [`disk`], the same `State::apply`, the same
//! watch hub, lease keeper, recovery and reclaim functions that the threads of the server call. What the threads leave
//! to chance (who runs when, how much waits, where the power goes) is drawn from the seed.
//!
//! # What is checked
//!
//! - Everything that was acknowledged, and everything that was applied, is in the log after any crash, unchanged
//!   ([`oracle`]: invariants R4, R5, R9, K2).
//! - Every reply, revision and event is the one that a member which never crashes gives for the same log (K3, K4, K8).
//! - A read that is said to be linearizable has everything that was acknowledged, and every read at a revision equals
//!   what the key space was then, or is refused because of a compaction that was really made (K1, K6).
//! - Watchers are told each change once, in order, from where they asked, across crashes, or that it is compacted
//!   ([`watcher`]: W1-W5, W9, W10).
//! - No lease is expired before its time (L1).
//! - After the last crash everything is answered again, and both stores hash alike (R12, K7).
//!
//! A run prints what it met; [`Counts::missing`] names what a campaign should have met and did not.

pub mod disk;

mod commands;
mod member;
mod oracle;
mod watcher;
mod world;

pub use world::{Counts, World};
