//! Watchers that live through it all, and watches of everything afterwards.
//!
//! A watcher starts at revision 1. When its stream ends, or says nothing for a while, it goes to another member and asks
//! for what comes after the last revision that it has: whatever happens to members, what it saw is one unbroken sequence.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicUsize, Ordering::SeqCst},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use conclave_proto::{
    etcdserverpb::{self as pb, watch_request::RequestUnion},
    mvccpb::Event,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::client::{Client, PATIENCE};

/// A watcher that hears nothing for so long goes elsewhere.
const SILENCE: Duration = Duration::from_secs(2);
const CONNECT: Duration = Duration::from_millis(500);

/// Running watchers.
#[derive(Debug)]
pub struct Watchers {
    shared: Arc<Shared>,
    thread: JoinHandle<Vec<Result<Vec<Event>>>>,
}

#[derive(Debug)]
struct Shared {
    /// Once it is known: the revision to end at.
    until: AtomicI64,
    resumed: AtomicUsize,
}

impl Watchers {
    /// One for each member to begin with.
    #[must_use]
    pub fn start(urls: Vec<String>, seed: u64) -> Self {
        let shared = Arc::new(Shared { until: AtomicI64::new(i64::MAX), resumed: AtomicUsize::new(0) });
        let of_tasks = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(async move {
                let mut tasks = tokio::task::JoinSet::new();
                for n in 0..urls.len() {
                    tasks.spawn(live(
                        urls.clone(),
                        n,
                        ChaCha8Rng::seed_from_u64(seed + n as u64),
                        Arc::clone(&of_tasks),
                    ));
                }
                tasks.join_all().await
            })
        });
        Self { shared, thread }
    }

    /// What each of them saw up to `revision`, and how often they had to go on elsewhere.
    ///
    /// # Errors
    /// If one of them was told what no watcher may be told.
    pub fn stop(self, revision: i64) -> Result<(Vec<Vec<Event>>, usize)> {
        self.shared.until.store(revision, SeqCst);
        let seen = self.thread.join().ok().context("a watcher panicked")?;
        Ok((seen.into_iter().collect::<Result<_>>()?, self.shared.resumed.load(SeqCst)))
    }
}

async fn live(urls: Vec<String>, mut at: usize, mut rng: ChaCha8Rng, shared: Arc<Shared>) -> Result<Vec<Event>> {
    let mut seen = Vec::new();
    // When the end is known everybody is well, and only so much time is left.
    let mut late = tokio::time::interval(SILENCE);
    let mut left = PATIENCE.as_secs();
    while last(&seen) < shared.until.load(SeqCst) {
        let connecting = tokio::time::timeout(CONNECT, Client::connect(&urls[at])).await;
        if let Ok(Ok(client)) = connecting {
            follow(&client, &mut seen, SILENCE, &shared.until).await.with_context(|| urls[at].clone())?;
        }
        if last(&seen) < shared.until.load(SeqCst) {
            shared.resumed.fetch_add(1, SeqCst);
            at = rng.random_range(0..urls.len());
            late.tick().await;
            if shared.until.load(SeqCst) < i64::MAX {
                left = left.checked_sub(SILENCE.as_secs()).context("a watcher does not get to the end")?;
            }
        }
    }
    Ok(seen)
}

fn last(seen: &[Event]) -> i64 {
    seen.last().and_then(|event| event.kv.as_ref()).map_or(0, |kv| kv.mod_revision)
}

/// Watches from behind what was seen until `until`, or until the stream fails or is silent.
async fn follow(client: &Client, seen: &mut Vec<Event>, silence: Duration, until: &AtomicI64) -> Result<()> {
    let (requests, mut responses) = client.watch_stream();
    let create = pb::WatchCreateRequest {
        key: "\0".into(),
        range_end: "\0".into(),
        start_revision: last(seen) + 1,
        prev_kv: true,
        ..Default::default()
    };
    requests.send(pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) }).await?;
    while last(seen) < until.load(SeqCst) {
        let Ok(Ok(Some(response))) = tokio::time::timeout(silence, responses.message()).await else { return Ok(()) };
        if response.canceled {
            // A member that loses its leader may end watches that ask for one; ours do not.
            bail!("a watch was cancelled: {response:?}");
        }
        let revision = response.header.context("a header")?.revision;
        for (n, event) in response.events.into_iter().enumerate() {
            let made = event.kv.as_ref().context("an event has a key-value")?.mod_revision;
            let (before, split) = (last(seen), n == 0);
            ensure!(
                made > before || (made == before && !split),
                "revision {made} came after {before}, or in two pieces"
            );
            ensure!(made <= revision, "an event of {made} under a header of {revision}");
            seen.push(event);
        }
    }
    Ok(())
}

/// All events from revision 1 to `revision`, as one member tells them now.
///
/// # Errors
/// If it does not tell all of them in time.
pub async fn everything(url: &str, revision: i64) -> Result<Vec<Event>> {
    let (mut seen, until) = (Vec::new(), AtomicI64::new(revision));
    follow(&Client::connect(url).await?, &mut seen, PATIENCE, &until).await?;
    ensure!(last(&seen) == revision, "{url} told of revision {}, not of {revision}", last(&seen));
    Ok(seen)
}
