//! `/metrics`: the numbers of etcd that are true of this member.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::{Checks, Shared, health::PROBES};
use crate::{
    metrics::{self, Kind, Text},
    node::{BUCKETS_US, Handle, ROUND_TRIPS_US, Traffic},
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
    consensus(&mut text, handle);
    peers(&mut text, handle);
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

fn consensus(text: &mut Text, handle: &Handle) {
    let stats = handle.stats();
    let mut counter = |name, help, value: &AtomicU64| text.single(name, Kind::Counter, help, value.load(Relaxed));
    counter("etcd_server_leader_changes_seen_total", "The number of leader changes seen.", &stats.leader_changes);
    counter(
        "etcd_server_proposals_failed_total",
        "The total number of failed proposals seen.",
        &stats.proposals_failed,
    );
    counter(
        "etcd_server_slow_apply_total",
        "The total number of slow apply requests (likely overloaded from slow disk).",
        &stats.slow_applies,
    );
    counter(
        "etcd_server_slow_read_indexes_total",
        "The total number of pending read indexes not in sync with leader's or timed out read index requests.",
        &stats.slow_reads,
    );
    counter(
        "etcd_server_heartbeat_send_failures_total",
        "The total number of leader heartbeat send failures (likely overloaded from slow disk).",
        &stats.late_heartbeats,
    );
    counter(
        "conclave_peer_messages_refused_total",
        "Messages from other members that no correct member sends.",
        &stats.messages_refused,
    );
    counter(
        "conclave_peer_messages_dropped_total",
        "Messages for other members that were dropped before they were sent.",
        &stats.messages_dropped,
    );
    counter("etcd_debugging_server_lease_expired_total", "The total number of expired leases.", &stats.leases_expired);
    let pending = handle.proposals_pending();
    let help = "The current number of pending proposals to commit.";
    text.single("etcd_server_proposals_pending", Kind::Gauge, help, pending);
    let help = "Total number of bytes written in WAL.";
    text.single("etcd_disk_wal_write_bytes_total", Kind::Gauge, help, stats.log_bytes.load(Relaxed));
    let bounds = BUCKETS_US.map(seconds);
    let (counts, sum_us) = stats.log_syncs.read();
    let help = "The latency distributions of fsync called by WAL.";
    text.family("etcd_disk_wal_fsync_duration_seconds", Kind::Histogram, help);
    text.histogram(&[], &bounds, &counts, seconds(sum_us));
    // etcd's commits of its backend are Conclave's flushes of all families: rarer and larger, so under a name of its own.
    let (counts, sum_us) = stats.flushes.read();
    let help = "How long it took to make everything applied durable in the store.";
    text.family("conclave_store_flush_duration_seconds", Kind::Histogram, help);
    text.histogram(&[], &bounds, &counts, seconds(sum_us));
}

/// What goes on between this member and the others, as far as it is one of several.
fn peers(text: &mut Text, handle: &Handle) {
    let local = format!("{:x}", handle.status().member.0);
    let all: Vec<_> =
        handle.stats().traffic().into_iter().map(|(id, traffic)| (format!("{:x}", id.0), traffic)).collect();
    if all.is_empty() {
        return;
    }
    type Value = fn(&Traffic) -> &AtomicU64;
    let counters: [(&str, &str, &str, Value); 4] = [
        ("etcd_network_peer_sent_bytes_total", "The total number of bytes sent to peers.", "To", |t| &t.sent_bytes),
        ("etcd_network_peer_received_bytes_total", "The total number of bytes received from peers.", "From", |t| {
            &t.received_bytes
        }),
        ("etcd_network_peer_sent_failures_total", "The total number of send failures to peers.", "To", |t| {
            &t.send_failures
        }),
        (
            "etcd_network_peer_received_failures_total",
            "The total number of receive failures from peers.",
            "From",
            |t| &t.receive_failures,
        ),
    ];
    for (name, help, label, value) in counters {
        text.family(name, Kind::Counter, help);
        for (id, traffic) in &all {
            text.sample(&[(label, id)], value(traffic).load(Relaxed));
        }
    }
    let help = "Round-Trip-Time histogram between peers";
    text.family("etcd_network_peer_round_trip_time_seconds", Kind::Histogram, help);
    for (id, traffic) in &all {
        let (counts, sum_us) = traffic.round_trips();
        text.histogram(&[("To", id)], &ROUND_TRIPS_US.map(seconds), &counts, seconds(sum_us));
    }
    text.family("etcd_network_known_peers", Kind::Gauge, "The current number of known peers.");
    for (id, _) in &all {
        text.sample(&[("Local", &local), ("Remote", id)], 1);
    }
    text.family("etcd_network_active_peers", Kind::Gauge, "The current number of active peer connections.");
    for (id, traffic) in &all {
        text.sample(&[("Local", &local), ("Remote", id)], u64::from(traffic.connected.load(Relaxed) > 0));
    }
    text.family("etcd_network_disconnected_peers_total", Kind::Counter, "The total number of disconnected peers.");
    for (id, traffic) in &all {
        text.sample(&[("Local", &local), ("Remote", id)], traffic.disconnects.load(Relaxed));
    }
}

#[expect(clippy::cast_precision_loss, reason = "microseconds over years, shown as seconds")]
fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
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
    let (received, sent) = shared
        .calls
        .iter()
        .map(|calls| calls.read_bytes())
        .fold((0, 0), |sum, bytes| (sum.0 + bytes.0, sum.1 + bytes.1));
    let help = "The total number of bytes received from grpc clients.";
    text.single("etcd_network_client_grpc_received_bytes_total", Kind::Counter, help, received);
    let help = "The total number of bytes sent to grpc clients.";
    text.single("etcd_network_client_grpc_sent_bytes_total", Kind::Counter, help, sent);
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
