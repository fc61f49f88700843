//! The simulator: clusters of one, three and five members of the server's own code, in one thread, from one seed.
//!
//! A [`World`] owns machines (a simulated disk, the engine's in-memory twin, a clock of their own rate), the network
//! between them, clients and watchers, and steps the members' parts by hand in virtual time: the same `Driver::drive`, the
//! same log store over [`disk`], the same `State::apply`, the same watch hub, lease keeper, recovery and reclaim functions
//! that the threads of the server call. What threads, networks and disks leave to chance is drawn from the seed, and so is
//! which kinds of misfortune there are at all ([`Options`]).
//!
//! # What is checked
//! Everything that happens is told as [`seen::Seen`] and judged by [`invariants`], one small file each, against the truth:
//! the log of entries that were applied anywhere, with what a model says that they do ([`model`], written a second time,
//! without the server's code) and what a member did that never crashes (`oracle`).
//!
//! A run has two phases: misfortunes, in which nothing unsafe may happen; then everything is healed, and the cluster must
//! come to rest within a bound, with everything answered, told and equal (`heal`, which is R12).
//!
//! A run counts what it met; [`Counts::missing`] names what a campaign should have met and did not.
//!
//! # Life of a message
//! `Driver::drive` says what may leave at once and what is held back for a sync; `turns` sends the first from the raft
//! thread's turn and the second from the log thread's, in exchange for its `Persisted`. `network` decides what becomes of
//! it, and `schedule` when it arrives.

pub mod disk;
pub mod invariants;
pub mod model;
pub mod seen;
pub mod truth;

mod commands;
mod counts;
mod options;
mod oracle;
mod schedule;

mod machine;
mod member;
mod network;

mod archives;
mod clients;
mod heal;
mod nemesis;
mod rot;
mod turns;
mod watcher;
mod world;

pub use counts::Counts;
pub use options::Options;
pub use world::World;
