//! Health checks: `/health` for old probes, `/livez` and `/readyz` for Kubernetes.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use bytes::Bytes;
use http::{Response, StatusCode};

use super::{Http, plain, reply};
use crate::error::Error;

/// One thing that is checked under `/livez` or `/readyz`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Probe {
    pub(super) kind: &'static str,
    pub(super) name: &'static str,
    check: Check,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Check {
    DataCorruption,
    SerializableRead,
    LinearizableRead,
    NonLearner,
}

pub(super) const PROBES: [Probe; 5] = [
    Probe { kind: "livez", name: "serializable_read", check: Check::SerializableRead },
    Probe { kind: "readyz", name: "data_corruption", check: Check::DataCorruption },
    Probe { kind: "readyz", name: "serializable_read", check: Check::SerializableRead },
    Probe { kind: "readyz", name: "linearizable_read", check: Check::LinearizableRead },
    Probe { kind: "readyz", name: "non_learner", check: Check::NonLearner },
];

/// How often a probe succeeded and failed, and how it went the last time.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) success: AtomicU64,
    pub(super) error: AtomicU64,
    pub(super) healthy: AtomicU64,
}

/// The probes that a path names: all of one kind, or one.
pub(super) struct Selection {
    kind: &'static str,
    name: Option<&'static str>,
}

impl Selection {
    /// `livez`, `readyz`, or one of their checks behind a slash.
    pub(super) fn parse(path: &str) -> Option<Self> {
        let (kind, name) = path.split_once('/').map_or((path, None), |(kind, name)| (kind, Some(name)));
        let probe = PROBES.iter().find(|probe| probe.kind == kind && name.is_none_or(|name| name == probe.name))?;
        Some(Self { kind: probe.kind, name: name.map(|_| probe.name) })
    }
}

impl Http {
    pub(super) async fn probe(&self, selection: Selection, query: &str) -> Response<Bytes> {
        let excluded: BTreeSet<&str> =
            if selection.name.is_none() { values(query, "exclude").collect() } else { BTreeSet::new() };
        let mut report = String::new();
        let mut failed = false;
        for (number, probe) in PROBES.iter().enumerate() {
            let selected = probe.kind == selection.kind && selection.name.is_none_or(|name| name == probe.name);
            if !selected || excluded.contains(probe.name) {
                continue;
            }
            let counts = &self.shared.health.probes[number];
            match self.check(probe.check).await {
                Ok(()) => {
                    counts.success.fetch_add(1, Relaxed);
                    counts.healthy.store(1, Relaxed);
                    report.push_str(&format!("[+]{} ok\n", probe.name));
                }
                Err(why) => {
                    counts.error.fetch_add(1, Relaxed);
                    counts.healthy.store(0, Relaxed);
                    failed = true;
                    report.push_str(&format!("[-]{} failed: {why}\n", probe.name));
                }
            }
        }
        if failed {
            tracing::error!(path = selection.kind, reason = report, "Health check error");
            // As Go's http.Error, which ends what it writes with one line feed more.
            return plain(StatusCode::SERVICE_UNAVAILABLE, report + "\n");
        }
        let verbose = values(query, "verbose").next().is_some();
        plain(StatusCode::OK, if verbose { report + "ok\n" } else { "ok\n".to_owned() })
    }

    async fn check(&self, check: Check) -> Result<(), String> {
        match check {
            // No alarms are raised in this version.
            Check::DataCorruption => Ok(()),
            Check::SerializableRead => self.read(true).await.map_err(|error| error.to_string()),
            // Without a leader the read would wait for one, longer than a probe waits.
            Check::LinearizableRead if self.handle.status().leader.is_none() => Err(Error::NoLeader.to_string()),
            Check::LinearizableRead => self.read(false).await.map_err(|error| error.to_string()),
            Check::NonLearner if self.handle.status().learner => Err("not supported for learner".to_owned()),
            Check::NonLearner => Ok(()),
        }
    }

    pub(super) async fn health(&self, query: &str) -> Response<Bytes> {
        let serializable = values(query, "serializable").next() == Some("true");
        let reason = if !serializable && self.handle.status().leader.is_none() {
            Some("RAFT NO LEADER".to_owned())
        } else {
            self.read(serializable).await.err().map(|error| format!("RANGE ERROR:{error}"))
        };
        let Some(reason) = reason else {
            self.shared.health.success.fetch_add(1, Relaxed);
            return reply(StatusCode::OK, "text/plain; charset=utf-8", "{\"health\":\"true\",\"reason\":\"\"}");
        };
        self.shared.health.failures.fetch_add(1, Relaxed);
        let body = format!("{{\"health\":\"false\",\"reason\":{}}}\n", serde_json::Value::from(reason));
        tracing::warn!(output = body.trim_end(), "/health error");
        plain(StatusCode::SERVICE_UNAVAILABLE, body)
    }
}

/// The values of a query's parameter, empty ones too. The values that matter here need no decoding.
fn values<'a>(query: &'a str, name: &'a str) -> impl Iterator<Item = &'a str> {
    query
        .split('&')
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .filter(move |(key, _)| *key == name)
        .map(|(_, value)| value)
}
