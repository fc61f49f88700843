//! What the operator asked for, checked once.
//!
//! Flags and `ETCD_` variables are read as etcd reads them, so that start lines, manifests and wrappers written for
//! etcd work as they are. What comes out is one [`Config`] whose every value can be used without another look, or a
//! sentence that says what to change.
//!
//! *Invariants*
//! - Every flag of etcd 3.7 parses (`tests::every_flag_of_etcd`). One that has no effect here is warned about when it
//!   differs from its default; one that would promise what is not kept (TLS, tokens) stops the start.
//! - A flag and its variable together are refused, never silently decided (`tests::conflict`).
//! - Every flag stands in the help and in the completions, because all are made from one table ([`flags`]).
//!
//! *Not here*: what the values do; configuration files, which are refused.
//!
//! References: etcd `server/etcdmain/{config,help}.go`, `server/embed/config.go`, `pkg/flags`.

mod completion;
mod flags;
mod help;
mod parse;
mod url;
mod value;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

pub use completion::completion;
pub use help::{help, usage, version};
pub use parse::Note;
pub use url::Url;

use flags::{Flag, Standing};
use parse::Given;

/// The member as it is to be.
#[derive(Clone, Debug)]
pub struct Config {
    pub name: String,
    pub data_dir: PathBuf,
    pub listen_client: Vec<Url>,
    pub listen_peer: Vec<Url>,
    pub listen_metrics: Vec<Url>,
    pub advertise_client: Vec<Url>,
    pub advertise_peer: Vec<Url>,
    /// Members of a new cluster and where they are reached, by name; this member is among them. What is wrong with it
    /// matters only when there is a member to be made of it: etcd looks at it only then.
    pub initial_cluster: Result<BTreeMap<String, Vec<Url>>, String>,
    pub initial_cluster_token: String,
    pub mode: Mode,
    /// How long another member may be silent.
    pub raft_read_timeout: Duration,
    /// How long what is sent to another member may go without a sign that it arrived.
    pub raft_write_timeout: Duration,
    pub termination_log: PathBuf,
    pub heartbeat: Duration,
    pub election_timeout: Duration,
    pub max_txn_ops: usize,
    pub max_request_bytes: usize,
    pub max_concurrent_streams: u32,
    pub keepalive_interval: Option<Duration>,
    pub keepalive_timeout: Duration,
    pub reuse_port: bool,
    /// As clients see it: etcd's default where none was given, 0 where there is none.
    pub quota_bytes: i64,
    pub watch_progress_interval: Duration,
    pub log: LogConfig,
    pub block_cache_bytes: usize,
    pub memtable_bytes: usize,
    /// None: all.
    pub max_open_files: Option<u32>,
    pub api_threads: usize,
    pub reader_threads: usize,
    pub max_connections: usize,
    pub watch_outbox_bytes: usize,
    /// What to log once there is a log.
    pub notes: Vec<Note>,
}

/// What the data directory is to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// etcd's way: a member, or nothing, which becomes a member of a new cluster.
    New,
    /// etcd's `--initial-cluster-state=existing`: a member; nothing would have to join a cluster.
    Existing,
    /// The member that the initial cluster names, or nothing, which becomes it.
    Bootstrap,
    /// A member; nothing would have to join the cluster at these URLs.
    Join(Vec<Url>),
    /// A member, and of these ids where one is given.
    Resume { cluster: Option<u64>, member: Option<u64> },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogConfig {
    pub level: tracing::Level,
    pub json: bool,
    pub to_stdout: bool,
}

/// What a start line asks for.
#[derive(Debug)]
pub enum Asked {
    Serve(Box<Config>),
    Help,
    Version,
}

/// Why there is nothing to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartError {
    pub text: String,
    /// The start line itself could not be read: show how it is written, and end with 2 as Go programs do.
    pub usage: bool,
}

impl StartError {
    fn usage(text: String) -> Self {
        Self { text, usage: true }
    }

    fn refused(text: String) -> Self {
        Self { text, usage: false }
    }
}

/// etcd's default quota (`storage.DefaultQuotaBytes`).
const DEFAULT_QUOTA: i64 = 2 * 1024 * 1024 * 1024;

/// etcd's longest election timeout (`embed.maxElectionMs`).
const MAX_ELECTION_MS: u64 = 50_000;

/// HTTP/2 lets a client open as many streams as it likes, and each costs about a kilobyte: 64 MiB a connection.
const MAX_STREAMS: u64 = 65_536;

/// etcd's `minWatchProgressInterval`.
const MIN_PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// etcd's `rafthttp.DefaultConnReadTimeout`, which is also the least it takes.
const MIN_RAFT_TIMEOUT: Duration = Duration::from_secs(5);

/// Reads a start line (without the program's name) and the environment.
pub fn read(
    arguments: impl IntoIterator<Item = String>,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<Asked, StartError> {
    let given = parse::parse(arguments, environment)?;
    if given.help {
        return Ok(Asked::Help);
    }
    if given.get("version").and_then(value::boolean) == Some(true) {
        return Ok(Asked::Version);
    }
    check(given).map(|config| Asked::Serve(Box::new(config))).map_err(StartError::refused)
}

fn check(mut given: Given) -> Result<Config, String> {
    let mut notes = std::mem::take(&mut given.notes);
    standing(&given, &mut notes)?;
    let values = Values(&given);
    let name = values.text("name");
    let data_dir = match values.text("data-dir") {
        dir if dir.is_empty() => format!("{name}.etcd"),
        dir => dir,
    };
    let (heartbeat, election_timeout) = timing(&values)?;
    let urls = Addresses::check(&values, &name)?;
    let mode = mode(&values)?;
    let quota_bytes = match values.signed("quota-backend-bytes") {
        0 => DEFAULT_QUOTA,
        quota => quota.max(0),
    };
    let (block_cache_bytes, memtable_bytes) = (values.size("block-cache-bytes")?, values.size("memtable-bytes")?);
    if memtable_bytes > block_cache_bytes {
        return Err(format!(
            "--memtable-bytes[{memtable_bytes}] is part of --block-cache-bytes[{block_cache_bytes}] and must not be larger"
        ));
    }
    let keepalive_interval = values.duration("grpc-keepalive-interval");
    Ok(Config {
        name,
        data_dir: PathBuf::from(data_dir),
        listen_client: urls.listen_client,
        listen_peer: urls.listen_peer,
        listen_metrics: urls.listen_metrics,
        advertise_client: urls.advertise_client,
        advertise_peer: urls.advertise_peer,
        initial_cluster: urls.initial_cluster,
        initial_cluster_token: values.text("initial-cluster-token"),
        mode,
        raft_read_timeout: values.duration("raft-read-timeout").max(MIN_RAFT_TIMEOUT),
        raft_write_timeout: values.duration("raft-write-timeout").max(MIN_RAFT_TIMEOUT),
        termination_log: PathBuf::from(values.text("termination-log")),
        heartbeat,
        election_timeout,
        max_txn_ops: values.size("max-txn-ops")?,
        max_request_bytes: request_bytes(&values)?,
        max_concurrent_streams: u32::try_from(values.number("max-concurrent-streams").min(MAX_STREAMS))
            .expect("the bound is far below"),
        keepalive_interval: (!keepalive_interval.is_zero()).then_some(keepalive_interval),
        keepalive_timeout: values.duration("grpc-keepalive-timeout"),
        reuse_port: values.boolean("socket-reuse-port"),
        quota_bytes,
        watch_progress_interval: values.duration("watch-progress-notify-interval").max(MIN_PROGRESS_INTERVAL),
        log: log(&values)?,
        block_cache_bytes,
        memtable_bytes,
        max_open_files: open_files(&values)?,
        api_threads: threads(&values, "api-threads", 0)?,
        reader_threads: threads(&values, "reader-threads", 1)?,
        max_connections: values.size("max-connections")?.max(1),
        watch_outbox_bytes: values.size("watch-outbox-bytes")?.max(64 * 1024),
        notes,
    })
}

/// Refuses what would promise too much, and notes what has no effect.
fn standing(given: &Given, notes: &mut Vec<Note>) -> Result<(), String> {
    for (flag, value) in given.set() {
        if is_default(flag, value) {
            continue;
        }
        match flag.standing {
            Standing::Works => {}
            Standing::NoEffect(why) => notes.push(Note {
                warning: true,
                message: format!("flag has no effect here: {why}"),
                about: ("flag", format!("--{}={value}", flag.name)),
            }),
            Standing::Refused(why) => return Err(format!("--{}: {why}", flag.name)),
        }
    }
    if !given.is_set("name") {
        notes.push(Note {
            warning: true,
            message: "the default name is in use; give each member a --name of its own".to_owned(),
            about: ("name", "default".to_owned()),
        });
    }
    Ok(())
}

fn is_default(flag: &Flag, given: &str) -> bool {
    use flags::Kind;
    match flag.kind {
        Kind::Bool => value::boolean(given) == value::boolean(flag.default),
        Kind::Number => value::number(given) == value::number(flag.default),
        Kind::Signed => value::signed(given) == value::signed(flag.default),
        Kind::Duration => value::duration(given) == value::duration(flag.default),
        Kind::Text | Kind::Urls | Kind::Choice(_) => given == flag.default || given.is_empty(),
    }
}

/// Conclave's own modes exclude each other and say for certain what etcd's flags leave to what the disk holds.
fn mode(values: &Values<'_>) -> Result<Mode, String> {
    let join = values.urls("join")?;
    let (bootstrap, resume) = (values.boolean("bootstrap"), values.boolean("resume"));
    let existing = values.text("initial-cluster-state") == "existing";
    let modes = [("--bootstrap", bootstrap), ("--join", !join.is_empty()), ("--resume", resume)];
    let asked: Vec<_> = modes.into_iter().filter(|(_, asked)| *asked).map(|(name, _)| name).collect();
    if asked.len() > 1 {
        return Err(format!("{} exclude each other", asked.join(" and ")));
    }
    if existing && bootstrap {
        return Err("--bootstrap makes a new cluster, --initial-cluster-state=existing joins one".to_owned());
    }
    let expected = (values.id("expect-cluster-id")?, values.id("expect-member-id")?);
    if !resume && expected != (None, None) {
        return Err("--expect-cluster-id and --expect-member-id belong to --resume".to_owned());
    }
    join.iter().try_for_each(Url::check_reachable)?;
    Ok(match (bootstrap, resume, existing) {
        (true, ..) => Mode::Bootstrap,
        (_, true, _) => Mode::Resume { cluster: expected.0, member: expected.1 },
        _ if !join.is_empty() => Mode::Join(join),
        (.., true) => Mode::Existing,
        _ => Mode::New,
    })
}

fn timing(values: &Values<'_>) -> Result<(Duration, Duration), String> {
    let (heartbeat, election) = (values.number("heartbeat-interval"), values.number("election-timeout"));
    if heartbeat == 0 {
        return Err("--heartbeat-interval must be >0 (set to 0ms)".to_owned());
    }
    if election == 0 {
        return Err("--election-timeout must be >0 (set to 0ms)".to_owned());
    }
    if heartbeat.saturating_mul(5) > election {
        return Err(format!(
            "--election-timeout[{election}ms] should be at least as 5 times as --heartbeat-interval[{heartbeat}ms]"
        ));
    }
    if election > MAX_ELECTION_MS {
        return Err(format!(
            "--election-timeout[{election}ms] is too long, and should be set less than {MAX_ELECTION_MS}ms"
        ));
    }
    Ok((Duration::from_millis(heartbeat), Duration::from_millis(election)))
}

fn request_bytes(values: &Values<'_>) -> Result<usize, String> {
    // A log entry holds a whole request, and one message of gRPC at most the largest 32-bit number.
    const MOST: u64 = 1 << 30;
    match values.number("max-request-bytes") {
        bytes @ 1..=MOST => Ok(usize::try_from(bytes).expect("the bound is below 32 bits")),
        bytes => Err(format!("--max-request-bytes[{bytes}] must be from 1 to {MOST}")),
    }
}

fn open_files(values: &Values<'_>) -> Result<Option<u32>, String> {
    match values.number("max-open-files") {
        0 => Ok(None),
        files => u32::try_from(files)
            .ok()
            .filter(|files| i32::try_from(*files).is_ok())
            .map(Some)
            .ok_or_else(|| format!("--max-open-files[{files}] must be at most {}", i32::MAX)),
    }
}

fn threads(values: &Values<'_>, name: &str, least: u64) -> Result<usize, String> {
    // More threads than any machine has cores is a slip of the keyboard.
    const MOST: u64 = 1024;
    match values.number(name) {
        threads if (least..=MOST).contains(&threads) => Ok(usize::try_from(threads).expect("the bound is small")),
        threads => Err(format!("--{name}[{threads}] must be from {least} to {MOST}")),
    }
}

fn log(values: &Values<'_>) -> Result<LogConfig, String> {
    let level = match values.text("log-level").as_str() {
        "debug" => tracing::Level::DEBUG,
        "info" => tracing::Level::INFO,
        "warn" => tracing::Level::WARN,
        // Nothing is logged above error but the last word of a member that stops.
        _ => tracing::Level::ERROR,
    };
    let to_stdout = match values.text("log-outputs").as_str() {
        "default" | "stderr" => false,
        "stdout" => true,
        other => return Err(format!("--log-outputs={other}: only default, stderr and stdout are available")),
    };
    Ok(LogConfig { level, json: values.text("log-format") == "json", to_stdout })
}

/// Where to listen, and where this member is reached.
struct Addresses {
    listen_client: Vec<Url>,
    listen_peer: Vec<Url>,
    listen_metrics: Vec<Url>,
    advertise_client: Vec<Url>,
    advertise_peer: Vec<Url>,
    initial_cluster: Result<BTreeMap<String, Vec<Url>>, String>,
}

impl Addresses {
    fn check(values: &Values<'_>, name: &str) -> Result<Self, String> {
        let listen_client = values.urls("listen-client-urls")?;
        let listen_peer = values.urls("listen-peer-urls")?;
        let listen_metrics = values.urls("listen-metrics-urls")?;
        for url in listen_client.iter().chain(&listen_peer).chain(&listen_metrics) {
            url.check_bindable()?;
        }
        if values.0.is_set("listen-client-urls") && !values.0.is_set("advertise-client-urls") {
            return Err("--advertise-client-urls is required when --listen-client-urls is set explicitly".to_owned());
        }
        let advertise_client = values.urls("advertise-client-urls")?;
        let advertise_peer = values.urls("initial-advertise-peer-urls")?;
        for url in advertise_client.iter().chain(&advertise_peer) {
            url.check_reachable()?;
        }
        let initial_cluster = match values.text("initial-cluster") {
            text if text.is_empty() => Ok(BTreeMap::from([(name.to_owned(), advertise_peer.clone())])),
            text => initial_cluster(&text),
        };
        let initial_cluster = initial_cluster.and_then(|members| match members.get(name) {
            None => Err(format!("couldn't find local name {name:?} in the initial cluster configuration")),
            Some(urls) if *urls != advertise_peer => Err(format!(
                "--initial-cluster has {name}={} but --initial-advertise-peer-urls is {}",
                join(urls),
                join(&advertise_peer)
            )),
            Some(_) => Ok(members),
        });
        Ok(Self { listen_client, listen_peer, listen_metrics, advertise_client, advertise_peer, initial_cluster })
    }
}

/// `name=URL,name=URL`; a name may stand more than once.
fn initial_cluster(text: &str) -> Result<BTreeMap<String, Vec<Url>>, String> {
    let mut members: BTreeMap<String, Vec<Url>> = BTreeMap::new();
    for entry in text.split(',') {
        let (name, url) = entry
            .trim()
            .split_once('=')
            .filter(|(name, url)| !name.is_empty() && !url.is_empty())
            .ok_or_else(|| format!("--initial-cluster: {entry:?} is not of the form name=URL"))?;
        let url = Url::parse(url)?;
        url.check_reachable()?;
        members.entry(name.to_owned()).or_default().push(url);
    }
    for urls in members.values_mut() {
        urls.sort();
        urls.dedup();
    }
    Ok(members)
}

fn join(urls: &[Url]) -> String {
    urls.iter().map(Url::to_string).collect::<Vec<_>>().join(",")
}

/// Values by name, each of the kind that the table says and that parsing has checked.
struct Values<'a>(&'a Given);

impl Values<'_> {
    fn text(&self, name: &str) -> String {
        let flag = parse::find(name).expect("every name used here stands in the table (tests::names)");
        self.0.get(name).unwrap_or(flag.default).to_owned()
    }

    fn boolean(&self, name: &str) -> bool {
        value::boolean(&self.text(name)).expect("checked when it was parsed")
    }

    fn number(&self, name: &str) -> u64 {
        value::number(&self.text(name)).expect("checked when it was parsed")
    }

    fn signed(&self, name: &str) -> i64 {
        value::signed(&self.text(name)).expect("checked when it was parsed")
    }

    fn duration(&self, name: &str) -> Duration {
        value::duration(&self.text(name)).expect("checked when it was parsed")
    }

    fn size(&self, name: &str) -> Result<usize, String> {
        let number = self.number(name);
        usize::try_from(number).map_err(|_| format!("--{name}[{number}] is more than this machine can address"))
    }

    /// An id as etcd's tools print them.
    fn id(&self, name: &str) -> Result<Option<u64>, String> {
        let text = self.text(name);
        if text.is_empty() {
            return Ok(None);
        }
        let id = u64::from_str_radix(text.strip_prefix("0x").unwrap_or(&text), 16).ok().filter(|id| *id != 0);
        id.map(Some).ok_or_else(|| format!("--{name}={text}: not an id in hexadecimal"))
    }

    fn urls(&self, name: &str) -> Result<Vec<Url>, String> {
        match self.text(name) {
            text if text.is_empty() => Ok(Vec::new()),
            text => Url::parse_list(&text),
        }
    }
}
