//! Everything that judges the server from outside, and the tools for it.
//!
//! The oracle is the real etcd 3.7.1 with its own `etcdctl`, built from source by `scripts/peers.sh`. Whatever runs
//! against Conclave here runs against etcd too, so that a wrong expectation shows as a failure of the oracle.
//!
//! Reading order: [`process`] starts a server of either kind, [`cluster`] several, [`proxy`] is a bad network between them,
//! [`client`] talks to them, [`differential`] compares the two,
//! [`sim`] is a machine that crashes on command; [`chaos`] is the same with real processes, judged by [`history`].
//!
//! *Rules.* A test waits for conditions and never sleeps; ports are the OS's choice; a test that cannot run says
//! `skipped: no X` by [`process::skip`], and `.ci/run` fails on a skip that `tests/allowed-skips` does not name.

pub mod bench;
pub mod chaos;
pub mod client;
pub mod cluster;
pub mod differential;
pub mod etcdctl;
pub mod history;
pub mod process;
pub mod proxy;
pub mod sim;
pub mod writers;
