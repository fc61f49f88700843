//! Leases: the replicated table (`table`) and the leader's clockwork (`expiry`).

mod expiry;
mod table;

pub use expiry::Expiry;
pub use table::*;
