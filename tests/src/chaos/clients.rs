//! Clients that never rest, and write down every request with its call, its return and its answer.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use conclave_proto::{
    etcdserverpb::{
        self as pb,
        compare::{CompareResult, CompareTarget, TargetUnion},
        request_op::Request,
        response_op::Response,
    },
    mvccpb::KeyValue,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tonic::{Code, Status};

use crate::{
    client::Client,
    history::{Answer, Call, Op, Outcome, Time, Txn},
};

/// Longer than an election takes, so that some requests outlive a change of leaders and others do not.
const PATIENCE: Duration = Duration::from_millis(1_500);
const CONNECT: Duration = Duration::from_millis(500);
/// Between two requests of a client: the machine must also run the members.
const PAUSE: Duration = Duration::from_millis(10);
/// Few enough that clients meet each other.
const KEYS: usize = 24;
/// Keys of a small range.
const SOME: usize = 4;

/// How it goes, while it goes.
#[derive(Debug, Default)]
pub struct Progress {
    pub done: AtomicUsize,
}

/// Running clients.
#[derive(Debug)]
pub struct Clients {
    pub progress: Arc<Progress>,
    pub zero: Instant,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Op>>,
}

impl Clients {
    /// So many, spread over the members.
    #[must_use]
    pub fn start(urls: Vec<String>, clients: usize, seed: u64) -> Self {
        let (progress, stop, zero) = (Arc::<Progress>::default(), Arc::<AtomicBool>::default(), Instant::now());
        let (shared, stopping) = (Arc::clone(&progress), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(async move {
                let mut tasks = tokio::task::JoinSet::new();
                for id in 0..clients {
                    let rng = ChaCha8Rng::seed_from_u64(seed ^ (id as u64 + 1) << 32);
                    let progress = Arc::clone(&shared);
                    let one = One {
                        id,
                        at: id % urls.len(),
                        urls: urls.clone(),
                        zero,
                        rng,
                        progress,
                        ops: Vec::new(),
                        known: BTreeMap::new(),
                        last: 1,
                    };
                    tasks.spawn(one.work(Arc::clone(&stopping)));
                }
                tasks.join_all().await.into_iter().flatten().collect()
            })
        });
        Self { progress, zero, stop, thread }
    }

    /// Ends them; what they saw.
    ///
    /// # Errors
    /// If one panicked.
    pub fn stop(self) -> Result<Vec<Op>> {
        self.stop.store(true, SeqCst);
        self.thread.join().ok().context("a client panicked")
    }
}

struct One {
    id: usize,
    /// The member that is asked.
    at: usize,
    urls: Vec<String>,
    zero: Instant,
    rng: ChaCha8Rng,
    progress: Arc<Progress>,
    ops: Vec<Op>,
    /// Mod revisions that were seen.
    known: BTreeMap<Bytes, i64>,
    /// The last revision that was seen.
    last: i64,
}

/// Nanoseconds since `zero`.
#[must_use]
pub fn now(zero: Instant) -> Time {
    u64::try_from(zero.elapsed().as_nanos()).expect("less than 500 years")
}

fn key(n: usize) -> Bytes {
    format!("k{:02}", n % KEYS).into()
}

impl One {
    async fn work(mut self, stop: Arc<AtomicBool>) -> Vec<Op> {
        let mut client: Option<Client> = None;
        let mut pause = tokio::time::interval(PAUSE);
        pause.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !stop.load(SeqCst) {
            pause.tick().await;
            let Some(connected) = &mut client else {
                let connecting = tokio::time::timeout(CONNECT, Client::connect(&self.urls[self.at])).await;
                client = connecting.ok().and_then(Result::ok);
                if client.is_none() {
                    self.move_on();
                }
                continue;
            };
            let call = self.call();
            let called = now(self.zero);
            let outcome = match tokio::time::timeout(PATIENCE, ask(connected, &call)).await {
                Ok(Ok((revision, answer))) => Outcome::Done { returned: now(self.zero), revision, answer },
                Ok(Err(error)) => refusal(&error),
                Err(_) => Outcome::Unknown,
            };
            self.learn(&outcome);
            if !matches!(outcome, Outcome::Done { .. }) {
                client = None;
                self.move_on();
            }
            self.ops.push(Op { client: self.id, member: self.at, called, call, outcome });
        }
        self.ops
    }

    /// Mostly to another member.
    fn move_on(&mut self) {
        if self.rng.random_range(0..10) < 7 {
            self.at = self.rng.random_range(0..self.urls.len());
        }
    }

    fn learn(&mut self, outcome: &Outcome) {
        let Outcome::Done { revision, answer, .. } = outcome else {
            return;
        };
        self.progress.done.fetch_add(1, SeqCst);
        self.last = self.last.max(*revision);
        let found = match answer {
            Answer::Read { kvs } => kvs.as_slice(),
            Answer::Txn { found: Some(kv), .. } => std::slice::from_ref(kv),
            _ => &[],
        };
        self.known.extend(found.iter().map(|kv| (kv.key.clone(), kv.mod_revision)));
    }

    fn call(&mut self) -> Call {
        let (n, at) = (self.ops.len(), self.rng.random_range(0..KEYS));
        let value = |part: &str| Bytes::from(format!("{}.{n}{part}", self.id));
        match self.rng.random_range(0..20) {
            0..=5 => Call::Put { key: key(at), value: value("") },
            6 => Call::Delete { key: key(at) },
            7..=10 => {
                let mod_revision = self.known.get(&key(at)).copied().unwrap_or(0);
                let puts = vec![(key(at), value("a")), (key(at + 1), value("b"))];
                let delete = (self.rng.random_range(0..4) == 0).then(|| key(at + 2));
                Call::Txn(Txn { key: key(at), mod_revision, puts, delete })
            }
            11..=14 => Call::Read { from: key(at), to: Bytes::new(), linearizable: true, at: 0 },
            15 => Call::Read { from: key(0), to: "l".into(), linearizable: true, at: 0 },
            16 => Call::Read {
                from: key(0),
                to: "l".into(),
                linearizable: true,
                at: self.rng.random_range(1..=self.last),
            },
            _ => {
                let first = at.min(KEYS - SOME - 1);
                Call::Read { from: key(first), to: key(first + SOME), linearizable: false, at: 0 }
            }
        }
    }
}

/// What a server says before it proposes anything, or a connection that never came about.
fn refusal(status: &Status) -> Outcome {
    let before = status.message().contains("too many requests") || status.message().contains("tcp connect error");
    if before && matches!(status.code(), Code::Unknown | Code::ResourceExhausted | Code::Unavailable) {
        return Outcome::Refused;
    }
    Outcome::Unknown
}

/// One request, and the revision and the words of its answer.
///
/// # Errors
/// What the server answers instead.
pub async fn ask(client: &mut Client, call: &Call) -> Result<(i64, Answer), Status> {
    let revision = |header: Option<pb::ResponseHeader>| header.map_or(0, |header| header.revision);
    match call {
        Call::Put { key, value } => {
            let put = pb::PutRequest { prev_kv: true, ..put(key, value) };
            let answer = client.kv.put(put).await?.into_inner();
            Ok((revision(answer.header), Answer::Put { prev: answer.prev_kv }))
        }
        Call::Delete { key } => {
            let delete = pb::DeleteRangeRequest { key: key.clone(), prev_kv: true, ..Default::default() };
            let answer = client.kv.delete_range(delete).await?.into_inner();
            let prev = only(answer.prev_kvs).map_err(wrong)?;
            if answer.deleted != i64::from(prev.is_some()) {
                return Err(wrong(anyhow::anyhow!("deleted {} and showed {prev:?}", answer.deleted)));
            }
            Ok((revision(answer.header), Answer::Delete { prev }))
        }
        Call::Txn(txn) => {
            let answer = client.kv.txn(request(txn)).await?.into_inner();
            let found = match answer.responses.into_iter().next().and_then(|op| op.response) {
                Some(Response::ResponseRange(range)) => only(range.kvs).map_err(wrong)?,
                _ => None,
            };
            Ok((revision(answer.header), Answer::Txn { succeeded: answer.succeeded, found }))
        }
        Call::Read { from, to, linearizable, at } => {
            let (key, range_end) = (from.clone(), to.clone());
            let range =
                pb::RangeRequest { key, range_end, serializable: !linearizable, revision: *at, ..Default::default() };
            let answer = client.kv.range(range).await?.into_inner();
            Ok((revision(answer.header), Answer::Read { kvs: answer.kvs }))
        }
    }
}

/// An answer that makes no sense must not pass for a request without one, which much is forgiven: the run fails.
fn wrong(error: anyhow::Error) -> Status {
    panic!("an answer that makes no sense: {error:#}")
}

fn only(mut kvs: Vec<KeyValue>) -> Result<Option<KeyValue>> {
    if kvs.len() > 1 {
        bail!("more than one key: {kvs:?}");
    }
    Ok(kvs.pop())
}

fn put(key: &Bytes, value: &Bytes) -> pb::PutRequest {
    pb::PutRequest { key: key.clone(), value: value.clone(), ..Default::default() }
}

fn request(txn: &Txn) -> pb::TxnRequest {
    let op = |request| pb::RequestOp { request: Some(request) };
    let compare = pb::Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Mod.into(),
        key: txn.key.clone(),
        target_union: Some(TargetUnion::ModRevision(txn.mod_revision)),
        ..Default::default()
    };
    let puts = txn.puts.iter().map(|(key, value)| op(Request::RequestPut(put(key, value))));
    let delete = |key: &Bytes| pb::DeleteRangeRequest { key: key.clone(), ..Default::default() };
    let delete = txn.delete.iter().map(|key| op(Request::RequestDeleteRange(delete(key))));
    let read = pb::RangeRequest { key: txn.key.clone(), ..Default::default() };
    pb::TxnRequest {
        compare: vec![compare],
        success: puts.chain(delete).collect(),
        failure: vec![op(Request::RequestRange(read))],
    }
}
