//! Leases: keys that go away unless someone says in time that they shall stay.
//!
//! The *table* is replicated: which leases there are, with what time to live, and which keys hang on each. It knows
//! durations only. The *expiry* is the leader's alone: when each lease runs out, on the leader's own monotonic clock.
//! The two meet in the log: a lease that ran out is proposed for revocation, and only the applied revocation deletes
//! anything.
//!
//! *Invariants*
//! - A key hangs on at most one lease, the one that its current version names (`state`'s model test compares the two
//!   tables after each entry).
//! - No lease is handed out as expired before its time to live has passed since the last renewal that was answered, nor
//!   since this member became leader (`expiry` model test).
//! - An expiry is of one grant: a lease that was granted later under the same id outlives it (`state` script `leases`,
//!   simulator with ids that are used again).
//! - A lease that ran out is not renewed any more, though it is not revoked yet: a client that was told so must find its
//!   keys deleted.
//! - Nothing here grows with the number of keys in memory: the table lives in the engine, the expiry holds one entry a
//!   lease.
//!
//! *Life of a lease*: granted through the log → the leader's expiry learns of it from the entry's effects → renewals
//! move its deadline, without the log → it runs out, the leader proposes its revocation in its own term → apply deletes
//! the keys in one revision, sorted, and the lease → the expiry forgets it.
//!
//! *Not here*: proposing (`node`), deleting keys (`state`), checkpoints of the time that is left.
//!
//! References: etcd's `server/lease/lessor.go` for behaviour that clients can see.

mod expiry;
mod table;
#[cfg(test)]
mod tests;
mod ttl;

pub use expiry::Expiry;
pub use table::*;
pub use ttl::{MAX_TTL_SECONDS, clamp_ttl};
