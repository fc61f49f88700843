//! Clients that write without a pause, go to another member when one fails them, and remember what was acknowledged.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use conclave_proto::etcdserverpb as pb;

use crate::client::Client;

/// A member that has not answered for so long is not asked again at once.
const PATIENCE: Duration = Duration::from_secs(2);
/// A client that was refused asks another one, but not faster than this.
const PAUSE: Duration = Duration::from_millis(10);

/// What was acknowledged, and when.
#[derive(Debug, Default)]
pub struct Acknowledged {
    pub values: BTreeMap<String, String>,
    last: Option<Instant>,
    pub longest_gap: Duration,
}

/// Running writers.
#[derive(Debug)]
pub struct Writers {
    acknowledged: Arc<Mutex<Acknowledged>>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Writers {
    /// So many writers, spread over the endpoints. Each writes keys of its own, under `prefix`.
    #[must_use]
    pub fn start(urls: Vec<String>, writers: usize, prefix: &str) -> Self {
        let acknowledged = Arc::<Mutex<Acknowledged>>::default();
        let stop = Arc::new(AtomicBool::new(false));
        let (shared, stopping, prefix) = (Arc::clone(&acknowledged), Arc::clone(&stop), prefix.to_owned());
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(async move {
                let mut tasks = tokio::task::JoinSet::new();
                for writer in 0..writers {
                    let name = format!("{prefix}/{writer}");
                    tasks.spawn(write(urls.clone(), writer, name, Arc::clone(&shared), Arc::clone(&stopping)));
                }
                tasks.join_all().await;
            });
        });
        Self { acknowledged, stop, thread }
    }

    /// How many writes were acknowledged.
    #[must_use]
    pub fn count(&self) -> usize {
        self.acknowledged.lock().expect("nobody panics with it").values.len()
    }

    /// Waits until so many more were acknowledged.
    ///
    /// # Errors
    /// If they are not in time.
    pub async fn more(&self, writes: usize) -> Result<()> {
        let enough = self.count() + writes;
        crate::cluster::eventually("progress of the writers", async || {
            let now = self.count();
            ensure!(now >= enough, "{now} writes, {enough} are wanted");
            Ok(())
        })
        .await
    }

    /// Ends them.
    ///
    /// # Errors
    /// If one panicked.
    pub fn stop(self) -> Result<Acknowledged> {
        self.stop.store(true, SeqCst);
        self.thread.join().ok().context("a writer panicked")?;
        Ok(std::mem::take(&mut *self.acknowledged.lock().expect("nobody panics with it")))
    }
}

async fn write(
    urls: Vec<String>,
    mut at: usize,
    name: String,
    acknowledged: Arc<Mutex<Acknowledged>>,
    stop: Arc<AtomicBool>,
) {
    let mut client = None;
    let mut number = 0;
    let mut pause = tokio::time::interval(PAUSE);
    pause.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !stop.load(SeqCst) {
        let (key, value) = (format!("{name}/{number:06}"), format!("value {number} of {name}"));
        let attempt = async {
            if client.is_none() {
                client = Some(Client::connect(&urls[at % urls.len()]).await?);
            }
            let put = pb::PutRequest { key: key.clone().into(), value: value.clone().into(), ..Default::default() };
            client.as_mut().expect("it was just made").kv.put(put).await?;
            Ok::<_, anyhow::Error>(())
        };
        if let Ok(Ok(())) = tokio::time::timeout(PATIENCE, attempt).await {
            let mut acknowledged = acknowledged.lock().expect("nobody panics with it");
            let now = Instant::now();
            let gap = acknowledged.last.map_or(Duration::ZERO, |last| now - last);
            acknowledged.longest_gap = acknowledged.longest_gap.max(gap);
            acknowledged.last = Some(now);
            acknowledged.values.insert(key, value);
            number += 1;
        } else {
            // The write may have been done all the same; it is made again under the same key with the same value.
            client = None;
            at += 1;
            pause.tick().await;
        }
    }
}

impl Acknowledged {
    /// Everything that was acknowledged is in the key space of the member at `url`, read locally.
    ///
    /// # Errors
    /// What is missing.
    pub async fn check(&self, url: &str, prefix: &str) -> Result<()> {
        let mut end = prefix.as_bytes().to_vec();
        *end.last_mut().context("a prefix")? += 1;
        let range = pb::RangeRequest {
            key: prefix.to_owned().into(),
            range_end: end.into(),
            serializable: true,
            ..Default::default()
        };
        let found = Client::connect(url).await?.kv.range(range).await?.into_inner();
        let found: BTreeMap<_, _> = found.kvs.into_iter().map(|kv| (kv.key, kv.value)).collect();
        for (key, value) in &self.values {
            let at = found.get(key.as_bytes()).with_context(|| format!("{url} lost {key}"))?;
            ensure!(at == value.as_bytes(), "{url} has {at:?} under {key}");
        }
        Ok(())
    }
}
