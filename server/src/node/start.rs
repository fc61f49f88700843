//! From a configuration to a running member.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
};

use super::{
    Handle, Stats, Status,
    archives::ArchiveDoor,
    carry, core,
    datadir::{DataDir, DataDirError, Identity as Stored, KnownPeers, Opened},
    install::{Install, InstallFailed},
    log::{self, LogOptions, LogStore, RealIo, Recovered},
    member::{self, Parts, Running},
    reclaim::KeepLog,
    recovery::{self, Mismatch, StateFacts},
    shared::Identity,
    staging::{Staging, StagingFailed},
    transport::Transport,
};
use crate::{
    engine::{self, Engine, EngineOptions},
    members::{self, Member},
    state::State,
    types::{ClusterId, MemberId},
    watch::HubOptions,
};

/// A member of the cluster as it is first made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitialMember {
    pub name: String,
    pub peer_urls: Vec<String>,
}

/// What the data folder is to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// A member, or nothing: then one is founded.
    Found,
    /// The member that would be founded, or nothing: then it is founded.
    FoundThis,
    /// A member that ran before, and with these ids where they are given.
    Resume {
        cluster: Option<ClusterId>,
        member: Option<MemberId>,
        /// What to tell whoever started this on nothing.
        on_nothing: &'static str,
    },
}

/// All that a member is told. Times in milliseconds, sizes in bytes.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    pub data_dir: PathBuf,
    pub name: String,
    /// What the member tells others to reach it by.
    pub client_urls: Vec<String>,
    pub mode: Mode,
    /// The first members; which of them this one is, its name says. Looked at only at the first start, and what is wrong
    /// with it told only then.
    pub initial: Result<Vec<InitialMember>, String>,
    pub token: String,
    pub engine: EngineOptions,
    pub log_segment_bytes: u64,
    pub keep_log: KeepLog,
    pub watch_progress_interval_ms: u64,
    pub heartbeat_ms: u64,
    pub election_ms: u64,
    pub max_request_bytes: usize,
}

impl NodeConfig {
    /// A cluster of one, with etcd's defaults.
    #[must_use]
    pub fn sole(data_dir: PathBuf, name: &str, peer_url: &str, client_url: &str, engine: EngineOptions) -> Self {
        let this = InitialMember { name: name.to_owned(), peer_urls: vec![peer_url.to_owned()] };
        Self {
            data_dir,
            name: name.to_owned(),
            client_urls: vec![client_url.to_owned()],
            mode: Mode::Found,
            initial: Ok(vec![this]),
            token: "etcd-cluster".to_owned(),
            engine,
            log_segment_bytes: LogOptions::SEGMENT_BYTES,
            keep_log: KeepLog::DEFAULT,
            watch_progress_interval_ms: 600_000,
            heartbeat_ms: 100,
            election_ms: 1_000,
            max_request_bytes: 1_572_864,
        }
    }
}

/// Why a member does not start. The texts say what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the initial cluster does not name this member ({0}), or names it twice")]
    NotInitial(String),
    #[error("{0}")]
    Initial(String),
    #[error("data folder {path}: {found}. {on_nothing}")]
    Nothing { path: PathBuf, found: &'static str, on_nothing: &'static str },
    #[error("data folder {path} holds {what} {found:x}, and {expected:x} was expected. It was not touched")]
    Unexpected { path: PathBuf, what: &'static str, found: u64, expected: u64 },
    #[error(
        "requests of {max_request_bytes} bytes do not fit the segments of the raft log, which take requests of up to \
         {fits} bytes: lower --max-request-bytes"
    )]
    RequestLimit { max_request_bytes: usize, fits: u64 },
    #[error("the initial cluster gives two members the same peer URLs")]
    SameUrls,
    #[error(
        "the data folder was founded for a member with other peer URLs or another cluster token than {0} has now, and its \
         first start was not finished. Give it the settings of then, or an empty folder"
    )]
    OtherMember(String),
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    #[error(transparent)]
    Log(#[from] log::OpenError),
    #[error(transparent)]
    Engine(#[from] engine::OpenError),
    #[error(transparent)]
    Mismatch(#[from] Mismatch),
    #[error(transparent)]
    Staging(#[from] StagingFailed),
    #[error(transparent)]
    Install(#[from] InstallFailed),
    #[error("{0}")]
    Raft(String),
}

/// Exit code of a member that must not run with what it was given: its folder is empty, another's, or forgets what it
/// promised. `EX_CONFIG` of `sysexits.h`.
pub const EXIT_IDENTITY: i32 = 78;

impl StartError {
    /// The code to end with, and one word for machines.
    #[must_use]
    pub fn exit(&self) -> (i32, &'static str) {
        match self {
            Self::Nothing { .. } => (EXIT_IDENTITY, "empty-data"),
            Self::Unexpected { .. } | Self::OtherMember(_) => (EXIT_IDENTITY, "identity-mismatch"),
            Self::Mismatch(Mismatch::StateLost) | Self::DataDir(DataDirError::Incomplete { .. }) => {
                (EXIT_IDENTITY, "data-lost")
            }
            Self::DataDir(DataDirError::Corrupt { .. } | DataDirError::CorruptPeers { .. }) => {
                (EXIT_IDENTITY, "identity-damaged")
            }
            Self::DataDir(DataDirError::Etcd(_) | DataDirError::NotOurs { .. }) => (EXIT_IDENTITY, "foreign-data"),
            Self::Log(log::OpenError::HardStateLost { .. } | log::OpenError::Foreign { .. }) => {
                (EXIT_IDENTITY, "hard-state-lost")
            }
            Self::NotInitial(_) | Self::Initial(_) | Self::SameUrls | Self::RequestLimit { .. } => (1, "configuration"),
            Self::DataDir(_)
            | Self::Log(_)
            | Self::Engine(_)
            | Self::Mismatch(_)
            | Self::Staging(_)
            | Self::Install(_)
            | Self::Raft(_) => (1, "start-failed"),
        }
    }
}

/// A running member. Dropping it without [`Node::stop`] leaves its threads running until the process ends: that is a
/// crash, and loses nothing that was promised.
pub struct Node {
    running: Running,
    /// Kept for the threads that carry archives.
    _door: Arc<ArchiveDoor>,
    /// Holds the lock of the data folder.
    dir: DataDir,
}

/// A member whose disk is open and whose raft does not run yet. It can say who it is, and nothing it says promises
/// anything: what `peer` needs to ask the other members whether this one may start.
pub struct Prepared {
    config: NodeConfig,
    dir: DataDir,
    engine: Engine,
    state: State,
    log: LogStore<RealIo>,
    staging: Staging<RealIo>,
    recovered: Recovered,
    /// The members of the cluster as it is first made; none if the member has state already.
    first: Option<Vec<Member>>,
    transport: Transport,
}

impl Prepared {
    /// Who this member is on its disk.
    #[must_use]
    pub fn identity(&self) -> &Stored {
        self.dir.identity()
    }

    /// All members, this one among them.
    #[must_use]
    pub fn members(&self) -> Vec<Member> {
        self.first.clone().unwrap_or_else(|| members::all(&self.engine.view()))
    }

    /// Whether the other members must be asked before raft may start: this member never ran with this folder, and one
    /// that ran with another folder may have promised something.
    #[must_use]
    pub fn must_greet(&self) -> bool {
        !self.dir.identity().initialised && self.members().len() > 1
    }

    /// The queues between this member and the room `peer`.
    #[must_use]
    pub fn transport(&self) -> Transport {
        self.transport.clone()
    }

    /// The incarnations of other members that this one remembers.
    ///
    /// # Errors
    /// If the file cannot be read or believed.
    pub fn known_peers(&self) -> Result<KnownPeers<RealIo>, StartError> {
        Ok(self.dir.known_peers()?)
    }

    /// Starts the threads. Comes back when reads may be answered; a leader may not be known yet.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn start(self) -> Result<Node, StartError> {
        let Self { config, mut dir, engine, mut state, log, staging, recovered, first, transport } = self;
        let staging = Arc::new(Mutex::new(staging));
        if let Some(all) = first {
            let voters: Vec<_> = all.iter().map(|member| member.id).collect();
            state.bootstrap(&all, core::first_conf_state(&voters));
        }
        dir.mark_initialised()?;
        let stored = dir.identity();
        let reader = log.reader();
        let start = recovery::fit(&recovered, |index| reader.term(index), facts(&state))?;
        let catch_up = state.unfinished();
        let identity = Identity { cluster: stored.cluster, member: stored.member, boot: rand::random() };
        tracing::info!(
            target: "conclave",
            member = format_args!("{:x}", identity.member.0),
            cluster = format_args!("{:x}", identity.cluster.0),
            applied = start.applied.0,
            commit = start.hard_state.commit.0,
            last = recovered.last.0,
            "the member starts"
        );
        let watch = HubOptions {
            progress_interval_ms: config.watch_progress_interval_ms,
            ..HubOptions::new(identity.cluster, identity.member)
        };
        let running = member::run(Parts {
            identity,
            start,
            state,
            engine,
            log,
            staging: Arc::clone(&staging),
            transport,
            watch,
            keep_log: config.keep_log,
            name: config.name,
            client_urls: config.client_urls,
            heartbeat_ms: config.heartbeat_ms,
            election_ms: config.election_ms,
            max_request_bytes: config.max_request_bytes,
            seed: rand::random(),
        })
        .map_err(StartError::Raft)?;
        if let Some(index) = catch_up {
            running.wait_applied(index);
        }
        let events = Arc::clone(running.transport.events());
        let door = Arc::new(ArchiveDoor::new(staging, Arc::clone(&running.shared), events));
        carry::start(&door, &running.carrier, &running.transport)
            .map_err(|error| StartError::Raft(format!("a thread cannot be started: {error}")))?;
        Ok(Node { running, _door: door, dir })
    }
}

impl Node {
    /// Opens or founds the member and starts it, without asking other members.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn start(config: NodeConfig) -> Result<Self, StartError> {
        Self::prepare(config)?.start()
    }

    /// Opens or founds the member.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn prepare(config: NodeConfig) -> Result<Prepared, StartError> {
        // An entry lies within one segment, with its record's head and the segment's.
        let fits = config.log_segment_bytes / 2;
        if config.max_request_bytes as u64 > fits {
            return Err(StartError::RequestLimit { max_request_bytes: config.max_request_bytes, fits });
        }
        let dir = open_dir(&config)?;
        let stored = dir.identity();
        let engine = Engine::open(&dir.kv_dir(), &config.engine)?;
        let mut state = State::open(engine.clone());
        let options = LogOptions { segment_bytes: config.log_segment_bytes, ..dir.log_options() };
        let (log, recovered) = LogStore::open(RealIo::new(&dir.log_dir()), options)?;
        if let Some(torn) = &recovered.torn {
            tracing::info!(target: "conclave", ?torn, "cut what was not finished when this member stopped");
        }
        let mut staging = Staging::open(RealIo::new(&dir.archive_dir()), stored.cluster)?;
        if recovery::install_due(&recovered, &facts(&state), state.installing(), staging.staged())? {
            let archive = staging.staged().expect("it is due because it is staged").clone();
            tracing::info!(target: "conclave", index = archive.index.0, "puts in the state that came before the last stop");
            Install::new(&mut staging, &archive).finish(&mut staging, &mut state)?;
        }
        staging.discard_applied(state.applied().0)?;
        let first = if recovery::may_bootstrap(stored.initialised, &recovered, &facts(&state))? {
            let first = first_members(&config)?;
            if first.this != stored.member {
                return Err(StartError::OtherMember(config.name));
            }
            Some(first.all)
        } else {
            None
        };
        let transport = Transport::new(recovered.last);
        Ok(Prepared { config, dir, engine, state, log, staging, recovered, first, transport })
    }

    /// The door to the member for the tokio runtime that calls: each runtime opens its own. It starts one task there,
    /// which carries proposals and answers and lives as long as the runtime.
    ///
    /// # Panics
    /// Outside a tokio runtime, and for the 257th runtime.
    #[must_use]
    pub fn handle(&self) -> Handle {
        let (handle, carrier) = self.running.handle().expect("there are fewer than 256 runtimes: one per core");
        tokio::spawn(carrier);
        handle
    }

    #[must_use]
    pub fn status(&self) -> Status {
        self.running.shared.status()
    }

    #[must_use]
    pub fn stats(&self) -> &Stats {
        &self.running.shared.stats
    }

    /// The queues between this member and the room `peer`.
    #[must_use]
    pub fn transport(&self) -> &Transport {
        &self.running.transport
    }

    /// If this member leads others, hands leadership to the one that has the most of the log. Takes a second at most;
    /// clients are served meanwhile.
    pub fn hand_over(&self) {
        self.running.hand_over();
    }

    /// Refuses what is new, answers what is in flight (at most 7 s long, 1 s with other voters), makes everything durable
    /// and lets the data folder go.
    pub fn stop(self) {
        self.running.stop();
        drop(self.dir);
    }
}

/// The member's folder; a new one is founded with the ids that etcd would give.
fn open_dir(config: &NodeConfig) -> Result<DataDir, StartError> {
    if let Mode::Resume { on_nothing, .. } = config.mode
        && std::fs::metadata(&config.data_dir).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
    {
        // Not even the folder is made.
        return Err(StartError::Nothing { path: config.data_dir.clone(), found: "it does not exist", on_nothing });
    }
    let dir = match DataDir::open(&config.data_dir)? {
        Opened::Existing(dir) => {
            expected(config, dir.identity())?;
            dir
        }
        Opened::Fresh(fresh) => {
            if let Mode::Resume { on_nothing, .. } = config.mode {
                return Err(StartError::Nothing { path: config.data_dir.clone(), found: "it is empty", on_nothing });
            }
            let first = first_members(config)?;
            fresh.found(Stored::new(first.cluster(), first.this, rand::random()))?
        }
    };
    if let Some(mode) = dir.loose_permissions() {
        tracing::warn!(target: "conclave", mode = format_args!("{mode:o}"), "others may look into the data folder");
    }
    Ok(dir)
}

/// Whether the member in the folder is one that the mode allows.
fn expected(config: &NodeConfig, found: &Stored) -> Result<(), StartError> {
    let (cluster, member) = match config.mode {
        Mode::Found => return Ok(()),
        Mode::FoundThis => {
            let first = first_members(config)?;
            (Some(first.cluster()), Some(first.this))
        }
        Mode::Resume { on_nothing, .. } if !found.initialised => {
            let path = config.data_dir.clone();
            return Err(StartError::Nothing { path, found: "the member in it never ran", on_nothing });
        }
        Mode::Resume { cluster, member, .. } => (cluster, member),
    };
    let pairs = [
        ("cluster", found.cluster.0, cluster.map(|cluster| cluster.0)),
        ("member", found.member.0, member.map(|member| member.0)),
    ];
    for (what, found, expected) in pairs {
        if let Some(expected) = expected.filter(|expected| *expected != found) {
            return Err(StartError::Unexpected { path: config.data_dir.clone(), what, found, expected });
        }
    }
    Ok(())
}

fn facts(state: &State) -> StateFacts {
    StateFacts { applied: state.applied(), unfinished: state.unfinished(), conf_state: state.conf_state().to_vec() }
}

struct First {
    all: Vec<Member>,
    this: MemberId,
}

impl First {
    fn cluster(&self) -> ClusterId {
        let ids: Vec<_> = self.all.iter().map(|member| member.id).collect();
        members::cluster_id(&ids)
    }
}

/// The members that the configuration names, with the ids that etcd would give them. Names are published by the members
/// themselves.
fn first_members(config: &NodeConfig) -> Result<First, StartError> {
    let initial = config.initial.as_ref().map_err(|error| StartError::Initial(error.clone()))?;
    let mut named = initial.iter().filter(|member| member.name == config.name);
    let (Some(this), None) = (named.next(), named.next()) else {
        return Err(StartError::NotInitial(config.name.clone()));
    };
    let id = |member: &InitialMember| members::member_id(&member.peer_urls, &config.token);
    let member = |member: &InitialMember| Member {
        id: id(member),
        name: String::new(),
        peer_urls: member.peer_urls.clone(),
        client_urls: Vec::new(),
        learner: false,
    };
    let all: Vec<_> = initial.iter().map(member).collect();
    let mut ids: Vec<_> = all.iter().map(|member| member.id).collect();
    ids.sort_unstable();
    ids.dedup();
    if ids.len() < all.len() {
        return Err(StartError::SameUrls);
    }
    Ok(First { all, this: id(this) })
}
