//! One member of a Conclave cluster. `ARCHITECTURE.md` is the map of the rooms; each room's `mod.rs` is its door.

pub mod api;
pub mod config;
pub mod engine;
pub mod error;
pub mod http;
pub mod lease;
pub mod members;
pub mod metrics;
pub mod mutants;
pub mod mvcc;
pub mod node;
pub mod peer;
pub mod server;
pub mod snapshot;
pub mod state;
pub mod types;
pub mod watch;
