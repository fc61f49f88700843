//! Every flag there is: etcd's, all of them, and Conclave's own.
//!
//! One table from which parsing, environment variables, help and completions are made. What a flag is *worth* here
//! stands beside it: some work, some are taken without effect so that existing start lines keep working, and some are
//! refused, because going on without what they ask for would be a lie.

/// How a value is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// `--flag`, `--flag=true`, `--flag=false`.
    Bool,
    Text,
    /// A number from 0.
    Number,
    /// A number that may be negative.
    Signed,
    /// As Go writes durations: `300ms`, `1m30s`.
    Duration,
    /// Comma-separated, each `scheme://host:port`.
    Urls,
    /// One of a few words.
    Choice(&'static [&'static str]),
}

/// What a flag does here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Works,
    /// Taken, and a value other than the default is warned about: why nothing follows from it.
    NoEffect(&'static str),
    /// A value other than the default stops the start: what to do instead.
    Refused(&'static str),
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Flag {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) default: &'static str,
    pub(super) group: &'static str,
    pub(super) help: &'static str,
    pub(super) standing: Standing,
}

impl Flag {
    /// The environment variable that sets it: etcd's flags under etcd's prefix, Conclave's own under theirs.
    #[must_use]
    pub(super) fn variable(&self) -> String {
        let prefix = if self.group == OWN { "CONCLAVE_" } else { "ETCD_" };
        format!("{prefix}{}", self.name.to_uppercase().replace('-', "_"))
    }
}

pub(super) const OWN: &str = "Conclave";

const TLS: &str = "TLS is not available in this version; listen on http URLs on a trusted network";
const DISCOVERY: &str = "discovery is not available; name the members with --initial-cluster";
const STORE: &str = "the store is not bbolt and has no such setting";
const TRACING: &str = "distributed tracing is not available in this version";
const COMPACTION: &str = "automatic compaction is not available in this version; compact from a client";
const GO: &str = "it concerns the Go runtime, which is not there";
const ROTATION: &str = "logs go to standard error or output; rotate them where they are collected";
const CHANGES: &str = "members are not added, removed or compared in this version";

use Kind::{Bool, Choice, Duration, Number, Signed, Text, Urls};
use Standing::{NoEffect, Refused, Works};

macro_rules! flags {
    ($($group:literal { $($name:literal $kind:expr, $default:literal, $standing:expr, $help:literal;)* })*) => {
        pub(super) const FLAGS: &[Flag] = &[$($(
            Flag { name: $name, kind: $kind, default: $default, group: $group, help: $help, standing: $standing },
        )*)*];
    };
}

flags! {
    "Member" {
        "name" Text, "default", Works, "Name of this member, for people.";
        "data-dir" Text, "", Works, "Directory that holds everything this member stores. Default: ${name}.etcd";
        "wal-dir" Text, "", Refused("the log stands in the data directory; mount the fast disk there"),
            "Directory for the log.";
        "snapshot-count" Number, "10000", NoEffect("what is applied is flushed by size, not by count"),
            "Entries after which etcd takes a snapshot.";
        "heartbeat-interval" Number, "100", Works, "Milliseconds between heartbeats of the leader.";
        "election-timeout" Number, "1000", Works,
            "Milliseconds without a leader after which a member stands for election: 5 heartbeats to 50000.";
        "initial-election-tick-advance" Bool, "true", NoEffect("a sole voter stands for election at once, others wait their time"),
            "Let the first election come early.";
        "listen-peer-urls" Urls, "http://localhost:2380", Works, "Where to listen for other members.";
        "listen-client-urls" Urls, "http://localhost:2379", Works, "Where to listen for clients: gRPC and HTTP.";
        "listen-client-http-urls" Urls, "", Refused("gRPC and HTTP share --listen-client-urls"),
            "Where to listen for HTTP apart from gRPC.";
        "max-snapshots" Number, "5", NoEffect("no snapshot files are kept"), "Snapshot files to keep.";
        "max-wals" Number, "5", NoEffect("the log is cut by what is flushed"), "Log files to keep.";
        "memory-mlock" Bool, "false", NoEffect(STORE), "Lock the database into memory.";
        "quota-backend-bytes" Signed, "0", NoEffect("the quota is reported but not enforced in this version"),
            "Size of the database that raises the NOSPACE alarm. 0: 2 GiB; negative: none.";
        "backend-bbolt-freelist-type" Choice(&["map", "array"]), "map", NoEffect(STORE), "bbolt's free list.";
        "backend-batch-interval" Duration, "0s", NoEffect(STORE), "Longest time before a commit of bbolt.";
        "backend-batch-limit" Number, "0", NoEffect(STORE), "Most operations before a commit of bbolt.";
        "max-txn-ops" Number, "128", Works, "Most compares or operations in one transaction.";
        "max-request-bytes" Number, "1572864", Works, "Largest request that a client may send, in bytes.";
        "max-concurrent-streams" Number, "4294967295", Works,
            "Most calls open at a time on one connection. More than 65536 counts as 65536.";
        "grpc-keepalive-min-time" Duration, "5s", NoEffect("pings of clients are answered at any pace, and cheap"),
            "Shortest time between a client's pings.";
        "grpc-keepalive-interval" Duration, "2h", Works, "Time between pings to a client's connection; 0: none.";
        "grpc-keepalive-timeout" Duration, "20s", Works, "Time that a ping may take before the connection is closed.";
        "socket-reuse-port" Bool, "false", Works, "Listen with SO_REUSEPORT.";
        "socket-reuse-address" Bool, "false", Works, "Listen with SO_REUSEADDR (set in any case).";
        "enable-grpc-gateway" Bool, "true", NoEffect("the JSON gateway is not available in this version"),
            "Serve the JSON gateway under /v3.";
        "raft-read-timeout" Duration, "5s", Works,
            "How long another member may be silent before its connection is closed; at least 5s.";
        "raft-write-timeout" Duration, "5s", Works,
            "How long what is sent to another member may go without a sign that it arrived; at least 5s.";
        "feature-gates" Text, "", NoEffect("etcd's feature gates have no counterpart here"),
            "etcd's feature gates, as Name=true,Name=false.";
    }
    "Clustering" {
        "initial-advertise-peer-urls" Urls, "http://localhost:2380", Works,
            "Where the other members reach this one.";
        "initial-cluster" Text, "", Works,
            "Members of a new cluster, as name=URL,name=URL. Default: this member alone";
        "initial-cluster-state" Choice(&["new", "existing"]), "new", Works,
            "Whether to start a new cluster or to join one; looked at in the first start only.";
        "initial-cluster-token" Text, "etcd-cluster", Works,
            "Tells clusters with equal members apart; goes into the ids.";
        "advertise-client-urls" Urls, "http://localhost:2379", Works, "Where clients reach this member.";
        "discovery" Text, "", Refused(DISCOVERY), "Discovery service, version 2.";
        "discovery-token" Text, "", Refused(DISCOVERY), "Token of the discovery service.";
        "discovery-endpoints" Text, "", Refused(DISCOVERY), "Endpoints of the discovery service.";
        "discovery-dial-timeout" Duration, "2s", NoEffect(DISCOVERY), "Discovery: timeout to connect.";
        "discovery-request-timeout" Duration, "5s", NoEffect(DISCOVERY), "Discovery: timeout of a request.";
        "discovery-keepalive-time" Duration, "2s", NoEffect(DISCOVERY), "Discovery: time between pings.";
        "discovery-keepalive-timeout" Duration, "6s", NoEffect(DISCOVERY), "Discovery: timeout of a ping.";
        "discovery-insecure-transport" Bool, "true", NoEffect(DISCOVERY), "Discovery: without TLS.";
        "discovery-insecure-skip-tls-verify" Bool, "false", NoEffect(DISCOVERY),
            "Discovery: without checking the server's certificate.";
        "discovery-cert" Text, "", Refused(DISCOVERY), "Discovery: certificate.";
        "discovery-key" Text, "", Refused(DISCOVERY), "Discovery: private key.";
        "discovery-cacert" Text, "", Refused(DISCOVERY), "Discovery: certificate authority.";
        "discovery-user" Text, "", Refused(DISCOVERY), "Discovery: user.";
        "discovery-password" Text, "", Refused(DISCOVERY), "Discovery: password.";
        "discovery-fallback" Choice(&["exit"]), "exit", Works, "What to do when discovery fails.";
        "discovery-proxy" Text, "", Refused(DISCOVERY), "Discovery: HTTP proxy.";
        "discovery-srv" Text, "", Refused(DISCOVERY), "Domain of DNS discovery.";
        "discovery-srv-name" Text, "", Refused(DISCOVERY), "Suffix of DNS discovery.";
        "strict-reconfig-check" Bool, "true", NoEffect(CHANGES), "Refuse changes of members that would lose the quorum.";
        "pre-vote" Bool, "true", NoEffect("pre-vote is always on"), "Ask before standing for election.";
        "auto-compaction-retention" Text, "0", NoEffect(COMPACTION), "History to keep when compacting by itself.";
        "auto-compaction-mode" Choice(&["periodic", "revision"]), "periodic", NoEffect(COMPACTION),
            "Whether that is a time or a number of revisions.";
        "v2-deprecation" Choice(&["write-only", "write-only-skip-check", "write-only-drop-data", "gone"]),
            "write-only", NoEffect("there is no v2 store"), "Stage of the end of the v2 store.";
    }
    "Security" {
        "cert-file" Text, "", Refused(TLS), "Certificate shown to clients.";
        "key-file" Text, "", Refused(TLS), "Private key of that certificate.";
        "client-cert-auth" Bool, "false", Refused(TLS), "Ask clients for certificates.";
        "client-cert-file" Text, "", Refused(TLS), "Certificate shown when connecting as a client.";
        "client-key-file" Text, "", Refused(TLS), "Private key of that certificate.";
        "client-crl-file" Text, "", Refused(TLS), "Revoked client certificates.";
        "client-cert-allowed-hostname" Text, "", Refused(TLS), "Names that client certificates must hold.";
        "trusted-ca-file" Text, "", Refused(TLS), "Authority that client certificates come from.";
        "auto-tls" Bool, "false", Refused(TLS), "TLS for clients with a certificate made at start.";
        "peer-cert-file" Text, "", Refused(TLS), "Certificate shown to other members.";
        "peer-key-file" Text, "", Refused(TLS), "Private key of that certificate.";
        "peer-client-cert-auth" Bool, "false", Refused(TLS), "Ask other members for certificates.";
        "peer-client-cert-file" Text, "", Refused(TLS), "Certificate shown when connecting to other members.";
        "peer-client-key-file" Text, "", Refused(TLS), "Private key of that certificate.";
        "peer-trusted-ca-file" Text, "", Refused(TLS), "Authority that members' certificates come from.";
        "peer-cert-allowed-cn" Text, "", Refused(TLS), "Common names that members' certificates must hold.";
        "peer-cert-allowed-hostname" Text, "", Refused(TLS), "Names that members' certificates must hold.";
        "peer-auto-tls" Bool, "false", Refused(TLS), "TLS between members with certificates made at start.";
        "peer-crl-file" Text, "", Refused(TLS), "Revoked certificates of members.";
        "peer-skip-client-san-verification" Bool, "false", Refused(TLS), "Do not look at names in members' certificates.";
        "self-signed-cert-validity" Number, "1", NoEffect(TLS), "Years that certificates made at start are valid.";
        "cipher-suites" Text, "", Refused(TLS), "TLS cipher suites.";
        "tls-min-version" Choice(&["TLS1.2", "TLS1.3"]), "TLS1.2", Refused(TLS), "Lowest version of TLS.";
        "tls-max-version" Choice(&["", "TLS1.2", "TLS1.3"]), "", Refused(TLS), "Highest version of TLS.";
        "cors" Text, "*", NoEffect("no endpoint here is meant for browsers"), "Origins that browsers may call from.";
        "host-whitelist" Text, "*", Refused("restrict hosts in front of the member"),
            "Host names that HTTP clients may ask for.";
    }
    "Auth" {
        "auth-token" Text, "simple", Refused("authentication is not available in this version"), "Kind of tokens.";
        "bcrypt-cost" Number, "10", NoEffect("authentication is not available in this version"),
            "Cost of hashing passwords.";
        "auth-token-ttl" Number, "300", NoEffect("authentication is not available in this version"),
            "Seconds that a token is valid.";
    }
    "Monitoring" {
        "enable-pprof" Bool, "false", NoEffect(GO), "Serve Go profiles.";
        "metrics" Choice(&["basic", "extensive"]), "basic",
            NoEffect("histograms per method are not available in this version"), "Detail of metrics.";
        "listen-metrics-urls" Urls, "", Works, "Where to listen for /metrics and health checks in addition.";
    }
    "Logging" {
        "logger" Choice(&["zap"]), "zap", Works, "Kind of log; only structured lines like zap's.";
        "log-outputs" Text, "default", Works, "default and stderr: standard error; stdout: standard output.";
        "log-level" Choice(&["debug", "info", "warn", "error", "panic", "fatal"]), "info", Works,
            "Least level that is logged.";
        "log-format" Choice(&["json", "console"]), "json", Works, "json for machines, console for people.";
        "enable-log-rotation" Bool, "false", Refused(ROTATION), "Rotate the log file.";
        "log-rotation-config-json" Text,
            "{\"maxsize\": 100, \"maxage\": 0, \"maxbackups\": 0, \"localtime\": false, \"compress\": false}",
            NoEffect(ROTATION), "How to rotate.";
        "warning-unary-request-duration" Duration, "300ms", NoEffect("slow requests are not logged in this version"),
            "Log calls that take longer.";
    }
    "Tracing" {
        "enable-distributed-tracing" Bool, "false", NoEffect(TRACING), "Send traces.";
        "distributed-tracing-address" Text, "localhost:4317", NoEffect(TRACING), "Where to send traces.";
        "distributed-tracing-service-name" Text, "etcd", NoEffect(TRACING), "Service name in traces.";
        "distributed-tracing-instance-id" Text, "", NoEffect(TRACING), "Instance id in traces.";
        "distributed-tracing-sampling-rate" Number, "0", NoEffect(TRACING), "Traces per million calls.";
    }
    "Features" {
        "corrupt-check-time" Duration, "0s", NoEffect(CHANGES), "Time between comparisons of members.";
        "compact-hash-check-time" Duration, "1m", NoEffect(CHANGES), "Time between comparisons of compaction hashes.";
        "compaction-batch-limit" Number, "1000", NoEffect("a compaction is one step, whatever it removes"),
            "Revisions that a compaction removes at a time.";
        "compaction-sleep-interval" Duration, "10ms", NoEffect("a compaction is one step, whatever it removes"),
            "Pause of a compaction between batches.";
        "watch-progress-notify-interval" Duration, "10m", Works,
            "Time between progress notices to watchers that asked for them; at least 100ms.";
        "warning-apply-duration" Duration, "100ms", NoEffect("slow requests are not logged in this version"),
            "Log requests that take longer to apply.";
        "bootstrap-defrag-threshold-megabytes" Number, "0", NoEffect("the store needs no defragmentation"),
            "Defragment at start when this much would be free.";
        "max-learners" Number, "1", NoEffect(CHANGES), "Most learners in the cluster.";
        "downgrade-check-time" Duration, "5s", NoEffect(CHANGES), "Time between checks of a downgrade.";
        "snapshot-catchup-entries" Number, "5000", NoEffect("the log is kept by its own bounds"), "Entries kept for members that lag.";
    }
    "Unsafe" {
        "force-new-cluster" Bool, "false", Refused("restore a backup into a new data directory instead"),
            "Make a cluster of one out of this member.";
        "unsafe-no-fsync" Bool, "false", NoEffect("what is acknowledged is always on disk"), "Do not sync the disk.";
    }
    "Start" {
        "config-file" Text, "", Refused("configuration files are not available; use flags or ETCD_ variables"),
            "File to read the configuration from.";
        "version" Bool, "false", Works, "Print the version and end.";
    }
    "Conclave" {
        "block-cache-bytes" Number, "150994944", Works, "Memory for blocks of the store, memtables included.";
        "memtable-bytes" Number, "58720256", Works, "Memory for what is written and not flushed yet, within that.";
        "max-open-files" Number, "1024", Works, "Files of the store held open; 0: all.";
        "api-threads" Number, "0", Works, "Threads that serve clients. 0: one per core.";
        "reader-threads" Number, "2", Works, "Threads for long reads.";
        "max-connections" Number, "20000", Works, "Most connections of clients at a time.";
        "watch-outbox-bytes" Number, "1048576", Works, "Backlog of one watch stream before its watchers lag.";
        "bootstrap" Bool, "false", Works,
            "Start a member of the new cluster that --initial-cluster names, or go on as that member and no other.";
        "join" Text, "", Works, "Join the cluster that serves clients at these URLs, or go on as a member.";
        "resume" Bool, "false", Works, "Go on as the member in the data directory; refuse an empty one.";
        "expect-cluster-id" Text, "", Works, "With --resume: the cluster it must be of, in hexadecimal.";
        "expect-member-id" Text, "", Works, "With --resume: the member it must be, in hexadecimal.";
        "termination-log" Text, "/dev/termination-log", Works,
            "File that is told why the member ended, if it ended by itself and the file exists.";
    }
}
