//! The loop: draw, send to both, compare, count.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt::Debug,
    time::Instant,
};

use anyhow::{Result, bail};
use conclave_proto::{etcdserverpb as pb, mvccpb};

use super::{
    call::{Reply, call},
    coverage::Coverage,
    mutation::{Mutation, Planted},
    script::{Op, Script},
    ties::ordered,
    watch::Streams,
};
use crate::client::{Client, in_time};

/// What both servers must be started with, so that periodic progress comes within a run.
pub const FLAGS: [&str; 1] = ["--watch-progress-notify-interval=300ms"];
/// Operations that a difference is reported with.
const HISTORY: usize = 25;
/// An operation is cut to so many characters in a report.
const SHOWN: usize = 600;
/// Hashes that etcd keeps (`hashStorageMaxSize`).
const HASHES: usize = 10;
/// Below this many operations chance alone may leave something uncovered.
const COVERAGE_FROM: u64 = 8_000;

/// One run.
#[derive(Clone, Debug)]
pub struct Config {
    /// The two servers; the first one is right.
    pub urls: [String; 2],
    pub seed: u64,
    /// Operations drawn; those that settle watchers come on top.
    pub ops: u64,
    /// A wrong reply to plant, to see that it is found.
    pub mutation: Option<Mutation>,
}

/// What a run without a difference has to tell.
#[derive(Debug)]
pub struct Summary {
    /// How often each option, error and shape occurred.
    pub counts: BTreeMap<String, u64>,
    /// Requests sent to each server, without watch requests.
    pub calls: u64,
    pub seconds: f64,
}

/// Two replies that should be equal and are not.
#[derive(Debug, thiserror::Error)]
#[error("{what} differ\n  first:  {first}\n  second: {second}")]
pub(super) struct Difference {
    what: String,
    first: String,
    second: String,
}

impl Difference {
    pub(super) fn check<T: PartialEq + Debug>(what: &str, first: &T, second: &T) -> Result<(), Self> {
        if first == second {
            return Ok(());
        }
        let [first, second] = [first, second].map(|reply| shortened(&format!("{reply:?}"), 4 * SHOWN));
        Err(Self { what: what.to_owned(), first, second })
    }

    /// Shows the first event that differs, not all of them.
    pub(super) fn check_events(
        id: i64,
        request: &pb::WatchCreateRequest,
        first: &[mvccpb::Event],
        second: &[mvccpb::Event],
    ) -> Result<(), Self> {
        if first == second {
            return Ok(());
        }
        let at = first.iter().zip(second).take_while(|(a, b)| a == b).count();
        let shown = |events: &[mvccpb::Event]| {
            let rest = shortened(&format!("{:?}", events.get(at)), 2 * SHOWN);
            format!("{} events, number {at}: {rest}", events.len())
        };
        let what = format!("the events of watch {id} ({request:?})");
        Err(Self { what, first: shown(first), second: shown(second) })
    }
}

/// The two servers and what is known of them.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) urls: [String; 2],
    clients: [Client; 2],
    pub(super) revision: i64,
    pub(super) compacted: i64,
    /// Revisions whose hash etcd keeps: those of its last compactions.
    hashed: BTreeSet<i64>,
    pub(super) coverage: Coverage,
    pub(super) planted: Planted,
    history: VecDeque<String>,
    calls: u64,
}

impl Pair {
    async fn connect(config: &Config) -> Result<Self> {
        let clients = [Client::connect(&config.urls[0]).await?, Client::connect(&config.urls[1]).await?];
        Ok(Self {
            urls: config.urls.clone(),
            clients,
            revision: 1,
            compacted: -1,
            hashed: BTreeSet::new(),
            coverage: Coverage::default(),
            planted: Planted::new(config.mutation),
            history: VecDeque::with_capacity(HISTORY),
            calls: 0,
        })
    }

    /// Remembers what was done, for the report of a difference.
    pub(super) fn note(&mut self, what: String) {
        if self.history.len() == HISTORY {
            self.history.pop_front();
        }
        self.history.push_back(shortened(&what, SHOWN));
    }

    /// Sends one operation to both and compares.
    pub(super) async fn call(&mut self, op: &Op) -> Result<Reply> {
        self.calls += 1;
        self.note(format!("{op:?}"));
        let [a, b] = &mut self.clients;
        let both = async { tokio::join!(call(a, op), call(b, op)) };
        let (first, mut second) = in_time("reply", both).await?;
        if let Reply::Broken(why) = &first {
            bail!("the first server broke a rule: {why}");
        }
        self.planted.reply(&mut second);
        if first != second {
            Difference::check("replies", &ordered(op, &first), &ordered(op, &second))?;
            self.coverage.count("sort.ties");
        }
        if let Some(header) = first.header() {
            self.revision = header.revision;
        }
        if let (Op::Compact(r), Reply::Compact(_)) = (op, &first) {
            self.compacted = r.revision;
            self.hashed.insert(r.revision);
            if self.hashed.len() > HASHES {
                self.hashed.pop_first();
            }
        }
        self.coverage.call(op, &first, self.compacted);
        Ok(first)
    }
}

fn shortened(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((at, _)) => format!("{}… ({} bytes)", &text[..at], text.len()),
        None => text.to_owned(),
    }
}

/// Runs one script against two fresh servers.
///
/// # Errors
/// On a [`Difference`], with the seed and the last operations; when something was never covered; when a server fails.
pub async fn run(config: &Config) -> Result<Summary> {
    let started = Instant::now();
    let mut pair = Pair::connect(config).await?;
    let mut script = Script::new(config.seed);
    let mut streams = Streams::default();
    for n in 0..config.ops {
        (script.revision, script.compacted) = (pair.revision, pair.compacted);
        let op = script.next(&streams.watchers());
        if let Err(error) = step(&mut pair, &mut streams, &op).await {
            let last = pair.history.iter().map(String::as_str).collect::<Vec<_>>().join("\n  ");
            return Err(error.context(format!("operation {n} of seed {}; the last ones:\n  {last}", config.seed)));
        }
        if n == config.ops / 50 {
            pair.planted.arm();
        }
    }
    streams.settle(&mut pair).await?;
    if config.ops >= COVERAGE_FROM {
        let missing = pair.coverage.missing();
        if !missing.is_empty() {
            bail!("seed {}: {} operations never met: {}", config.seed, config.ops, missing.join(", "));
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    Ok(Summary { counts: pair.coverage.into_counts(), calls: pair.calls, seconds })
}

async fn step(pair: &mut Pair, streams: &mut Streams, op: &Op) -> Result<()> {
    match op {
        Op::Watch(op) => streams.step(pair, op).await,
        Op::Compact(_) => {
            streams.settle(pair).await?;
            pair.call(op).await.map(drop)
        }
        // What etcd answers is what it found before that compaction; once a later one drops it from its list, it is what
        // Conclave answers at once. A compaction at revision 0 so gives its hash for that of the current revision.
        Op::HashKv(r) if pair.hashed.contains(&r.revision) => {
            pair.coverage.count("hash_kv.kept");
            Ok(())
        }
        _ => pair.call(op).await.map(drop),
    }
}
