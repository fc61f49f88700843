//! The same random script against two servers, every reply compared field by field.
//!
//! One of the two is the real etcd, so that what it answers *is* the specification: nothing here knows what is right.
//! Put, DeleteRange, Txn (nested), Range, RangeStream, Compact, Watch, Lease and HashKV, valid and invalid, over at most
//! 200 distinct keys, so that they collide. What may differ is set to zero before the comparison: member and cluster
//! ids, terms, and the remaining time of a lease; and the order of keys that a sort holds for equal ([`ties`]).
//!
//! *Invariants.*
//! - One request is under way at a time, and watchers are settled before anything whose outcome would depend on how far
//!   they are (a compaction, a cancel), so that a difference is never a matter of timing ([`watch`]).
//! - Every option, error text and shape that [`coverage`] lists must have occurred, or the run fails.
//! - Each [`mutation`] of the second server's replies must make the run fail: a test in `tests/differential.rs`.
//!
//! *Life of an operation.* [`script`] draws it from the seed and from what earlier replies taught it (revisions, watch
//! ids); [`call`] sends it to both; [`coverage`] counts it; a difference ends the run with both replies, the last
//! operations and the seed.
//!
//! *Not here.* Load, crashes, several clients at once: a difference could not be blamed on anything there.

mod call;
mod coverage;
mod keys;
mod mutation;
mod run;
mod script;
mod ties;
mod txn;
mod watch;

pub use mutation::Mutation;
pub use run::{Config, FLAGS, Summary, run};
