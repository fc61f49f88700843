//! Numbers for Prometheus, under etcd's names, so that etcd's dashboards and alerts work unchanged.
//!
//! Counting must cost nothing where it happens: each runtime counts its calls in a [`Calls`] of its own, by plain adds
//! that no other thread contends for; the sums are made when somebody scrapes.
//!
//! *Invariants*
//! - A counter has one writer, so an add is a load and a store and loses nothing (`Calls::add`).
//! - What is written can be read by Prometheus: one HELP and one TYPE per family, samples right after them
//!   (`tests::text_format`).
//! - No label takes its value from a client, so the number of series is fixed.
//!
//! *Not here*: which numbers there are (`http::metrics`); tracing.

mod calls;
mod process;
mod text;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

pub use calls::Calls;
pub use process::process;
pub use text::{Kind, Text};
