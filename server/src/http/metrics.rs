//! `/metrics`: the numbers of etcd that are true of this member.

use std::sync::atomic::Ordering::Relaxed;

use super::{Checks, Shared, health::PROBES};
use crate::{
    metrics::{self, Kind, Text},
    node::Handle,
};

/// A gRPC method as go-grpc-prometheus labels it.
#[derive(Clone, Copy, Debug)]
pub struct MethodLabels {
    pub service: &'static str,
    pub name: &'static str,
    pub shape: &'static str,
}

/// gRPC's codes under Go's names, in the order of their numbers.
const CODES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

pub(super) fn render(handle: &Handle, shared: &Shared) -> String {
    let mut text = Text::new();
    member(&mut text, handle, shared);
    store(&mut text, handle, shared);
    health(&mut text, &shared.health);
    calls(&mut text, shared);
    metrics::process(&mut text);
    text.finish()
}

fn member(text: &mut Text, handle: &Handle, shared: &Shared) {
    let status = handle.status();
    let is_leader = status.leader == Some(status.member);
    let mut gauge = |name, help, value: u64| text.single(name, Kind::Gauge, help, value);
    gauge(
        "etcd_server_has_leader",
        "Whether or not a leader exists. 1 is existence, 0 is not.",
        u64::from(status.leader.is_some()),
    );
    gauge(
        "etcd_server_is_leader",
        "Whether or not this member is a leader. 1 if is, 0 otherwise.",
        u64::from(is_leader),
    );
    gauge(
        "etcd_server_is_learner",
        "Whether or not this member is a learner. 1 if is, 0 otherwise.",
        u64::from(status.learner),
    );
    gauge(
        "etcd_server_proposals_committed_total",
        "The total number of consensus proposals committed.",
        status.committed.0,
    );
    gauge("etcd_server_proposals_applied_total", "The total number of consensus proposals applied.", status.applied.0);
    text.family("etcd_server_id", Kind::Gauge, "Server or member ID in hexadecimal format. 1 for 'server_id' label.");
    text.sample(&[("server_id", &format!("{:x}", status.member.0))], 1);
    text.family("etcd_server_version", Kind::Gauge, "Which version is running. 1 for 'server_version' label.");
    text.sample(&[("server_version", shared.versions.server)], 1);
    let cluster = shared.versions.cluster.rsplit_once('.').map_or(shared.versions.cluster, |(minor, _)| minor);
    text.family("etcd_cluster_version", Kind::Gauge, "Which version is running. 1 for 'cluster_version' label.");
    text.sample(&[("cluster_version", cluster)], 1);
}

fn store(text: &mut Text, handle: &Handle, shared: &Shared) {
    let size = handle.size();
    let position = handle.read_view().position;
    text.single(
        "etcd_mvcc_db_total_size_in_bytes",
        Kind::Gauge,
        "Total size of the underlying database physically allocated in bytes.",
        size.on_disk,
    );
    text.single(
        "etcd_mvcc_db_total_size_in_use_in_bytes",
        Kind::Gauge,
        "Total size of the underlying database logically in use in bytes.",
        size.in_use,
    );
    text.single(
        "etcd_server_quota_backend_bytes",
        Kind::Gauge,
        "Current backend storage quota size in bytes.",
        shared.quota_bytes,
    );
    text.single(
        "etcd_debugging_mvcc_current_revision",
        Kind::Gauge,
        "The current revision of store.",
        position.revision.0,
    );
    text.single(
        "etcd_debugging_mvcc_compact_revision",
        Kind::Gauge,
        "The revision of the last compaction in store.",
        position.compacted.0,
    );
}

fn health(text: &mut Text, checks: &Checks) {
    let mut counter = |name, help, value: u64| text.single(name, Kind::Counter, help, value);
    counter("etcd_server_health_success", "The total number of successful health checks", checks.success.load(Relaxed));
    counter("etcd_server_health_failures", "The total number of failed health checks", checks.failures.load(Relaxed));
    text.family("etcd_server_healthcheck", Kind::Gauge, "The result of each kind of healthcheck.");
    for (probe, counts) in PROBES.iter().zip(&checks.probes) {
        text.sample(&[("type", probe.kind), ("name", probe.name)], counts.healthy.load(Relaxed));
    }
    text.family("etcd_server_healthchecks_total", Kind::Counter, "The total number of each kind of healthcheck.");
    for (probe, counts) in PROBES.iter().zip(&checks.probes) {
        for (status, count) in [("success", &counts.success), ("error", &counts.error)] {
            text.sample(&[("type", probe.kind), ("name", probe.name), ("status", status)], count.load(Relaxed));
        }
    }
}

fn calls(text: &mut Text, shared: &Shared) {
    text.family("grpc_server_started_total", Kind::Counter, "Total number of RPCs started on the server.");
    for (number, method) in shared.methods.iter().enumerate() {
        let started: u64 = shared.calls.iter().map(|calls| calls.read_started(number)).sum();
        let MethodLabels { service, name, shape } = *method;
        text.sample(&[("grpc_method", name), ("grpc_service", service), ("grpc_type", shape)], started);
    }
    let help = "Total number of RPCs completed on the server, regardless of success or failure.";
    text.family("grpc_server_handled_total", Kind::Counter, help);
    for (number, method) in shared.methods.iter().enumerate() {
        let mut handled = [0; CODES.len()];
        for calls in &shared.calls {
            for (sum, count) in handled.iter_mut().zip(calls.read_handled(number)) {
                *sum += count;
            }
        }
        let MethodLabels { service, name, shape } = *method;
        for (code, count) in CODES.iter().zip(handled) {
            let labels = [("grpc_code", *code), ("grpc_method", name), ("grpc_service", service), ("grpc_type", shape)];
            text.sample(&labels, count);
        }
    }
}
