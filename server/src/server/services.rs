//! What each worker serves, made from the configuration and a running node.

use std::{rc::Rc, sync::Arc};

use super::{connection::Service, thread_failed, worker::MakeService};
use crate::{
    api::{Api, CLUSTER_VERSION, ETCD_VERSION, Limits, Method, Readers, Signals},
    config::{self, Config, Url},
    engine::EngineOptions,
    http::{Checks, Face, Http, MethodLabels, Shared, Versions},
    metrics::Calls,
    node::{InitialMember, KeepLog, Mode, NodeConfig, log::LogOptions},
    types::{ClusterId, MemberId},
};

/// What the node is told of the configuration.
pub(super) fn node_config(config: &Config) -> NodeConfig {
    let texts = |urls: &[Url]| urls.iter().map(Url::to_string).collect();
    NodeConfig {
        data_dir: config.data_dir.clone(),
        name: config.name.clone(),
        client_urls: texts(&config.advertise_client),
        mode: mode(&config.mode),
        initial: config.initial_cluster.clone().map(|members| {
            members.iter().map(|(name, urls)| InitialMember { name: name.clone(), peer_urls: texts(urls) }).collect()
        }),
        token: config.initial_cluster_token.clone(),
        engine: EngineOptions {
            block_cache_bytes: config.block_cache_bytes,
            memtable_bytes: config.memtable_bytes,
            max_open_files: config.max_open_files.map_or(-1, |files| i32::try_from(files).expect("checked by config")),
        },
        log_segment_bytes: LogOptions::SEGMENT_BYTES,
        keep_log: KeepLog::DEFAULT,
        watch_progress_interval_ms: milliseconds(config.watch_progress_interval),
        heartbeat_ms: milliseconds(config.heartbeat),
        election_ms: milliseconds(config.election_timeout),
        max_request_bytes: config.max_request_bytes,
    }
}

fn mode(mode: &config::Mode) -> Mode {
    let on_nothing = |on_nothing| Mode::Resume { cluster: None, member: None, on_nothing };
    match mode {
        config::Mode::New => Mode::Found,
        config::Mode::Bootstrap => Mode::FoundThis,
        config::Mode::Existing => on_nothing(
            "--initial-cluster-state=existing would let it join a cluster, which is not available in this version",
        ),
        config::Mode::Join(_) => {
            on_nothing("--join would let it join a cluster, which is not available in this version")
        }
        config::Mode::Resume { cluster, member } => Mode::Resume {
            cluster: cluster.map(ClusterId),
            member: member.map(MemberId),
            on_nothing: "--resume goes on with a member that ran before and makes none: restore the folder, or remove the \
                         member from its cluster and add another one",
        },
    }
}

fn milliseconds(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// What all workers share.
pub(super) struct Services {
    limits: Limits,
    readers: Arc<Readers>,
    calls: Vec<Arc<Calls>>,
    http: Arc<Shared>,
    signals: Signals,
}

impl Services {
    /// For `threads` workers that serve clients.
    pub(super) fn new(config: &Config, threads: usize, signals: Signals) -> Result<Self, String> {
        let calls: Vec<_> = (0..threads).map(|_| Arc::new(Calls::new(Method::ALL.len()))).collect();
        let labels = |method: &Method| MethodLabels {
            service: method.service(),
            name: method.name(),
            shape: method.shape().label(),
        };
        let http = Shared {
            versions: Versions { server: ETCD_VERSION, cluster: CLUSTER_VERSION },
            methods: Method::ALL.iter().map(labels).collect(),
            calls: calls.clone(),
            quota_bytes: config.quota_bytes,
            health: Checks::default(),
        };
        let limits = Limits {
            max_request_bytes: config.max_request_bytes,
            max_txn_ops: config.max_txn_ops,
            quota_bytes: config.quota_bytes,
            election_timeout: config.election_timeout,
            watch_outbox_bytes: config.watch_outbox_bytes,
        };
        let readers = Arc::new(Readers::start(config.reader_threads).map_err(thread_failed)?);
        Ok(Self { limits, readers, calls, http: Arc::new(http), signals })
    }

    /// gRPC and HTTP, a worker for each of the threads.
    pub(super) fn for_clients(&self) -> Vec<MakeService> {
        let maker = |calls: &Arc<Calls>| -> MakeService {
            let (limits, readers, calls) = (self.limits.clone(), Arc::clone(&self.readers), Arc::clone(calls));
            let (signals, http) = (self.signals.clone(), Arc::clone(&self.http));
            Box::new(move |handle| {
                let api = Api::new(handle.clone(), limits, readers, calls, signals);
                Service { api: Some(Rc::new(api)), http: Http::new(handle, http), face: Face::Client }
            })
        };
        self.calls.iter().map(maker).collect()
    }

    /// Metrics and health checks.
    pub(super) fn for_metrics(&self) -> Vec<MakeService> {
        self.http_only(Face::Client)
    }

    /// What other members may ask.
    pub(super) fn for_peers(&self) -> Vec<MakeService> {
        self.http_only(Face::Peer)
    }

    fn http_only(&self, face: Face) -> Vec<MakeService> {
        let http = Arc::clone(&self.http);
        vec![Box::new(move |handle| Service { api: None, http: Http::new(handle, http), face })]
    }
}
