//! A member with many keys: what it holds in memory, how fast it is back, and whether a compaction is felt.
//!
//! `scale --keys 1000000` loads keys of 256 B, overwrites them all, pages through them, compacts everything while puts
//! arrive at a fixed rate, and restarts. It prints what it saw as JSON and fails if the member was above the memory
//! bound, was back too late, or kept the space. Latencies are counted from when a put was *due*, so that a stall is
//! counted in full.

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use conclave_proto::etcdserverpb as pb;
use conclave_tests::{
    client::Client,
    process::{Kind, Options, Server},
};
use serde_json::json;
use tokio::task::JoinSet;

#[derive(Parser, Clone)]
struct Plan {
    #[arg(long, default_value_t = 1_000_000)]
    keys: u64,
    #[arg(long, default_value_t = 256)]
    value_bytes: usize,
    /// Puts per second that arrive while the compaction runs; 0: a quarter of what the load reached.
    #[arg(long, default_value_t = 0)]
    rate: u64,
    /// Seconds of each quiet and each compacting stretch.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Quiet and compacting stretches, in turn.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// The bound on resident memory.
    #[arg(long, default_value_t = 400)]
    max_memory_mb: u64,
}

/// Requests under way while loading.
const LOADERS: u64 = 64;
const PAGE: i64 = 1_000;
/// What the issue of the day allows for each.
const MAX_RESTART: Duration = Duration::from_secs(5);
const MAX_SPACE_WAIT: Duration = Duration::from_secs(60);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let plan = Plan::parse();
    let folder = tempfile::tempdir()?;
    let options = Options { data_dir: Some(folder.path().join("data")), ..Options::default() };
    let mut server = Server::start(Kind::Conclave, &options)?;
    let client = Client::connect(&server.url()).await?;

    let first = load(&client, &plan, 0).await?;
    let after_load = memory_mb(server.pid(), "VmHWM")?;
    let second = load(&client, &plan, 1).await?;
    let paged = page(&client).await?;
    ensure!(paged == plan.keys, "{paged} keys were found, {} were written", plan.keys);
    let with_history = folder_mb(&server.data_dir)?;
    let rate = if plan.rate == 0 { (first.min(second) / 4.0) as u64 } else { plan.rate };

    let mut ratios = Vec::new();
    let mut space_back = Duration::ZERO;
    for round in 0..plan.rounds {
        let quiet = open_loop(&client, &plan, rate).await?;
        let revision = revision(&client).await?;
        let before = folder_mb(&server.data_dir)?;
        let compaction = pb::CompactionRequest { revision, physical: false };
        client.kv.clone().compact(compaction).await?;
        let asked = Instant::now();
        let busy = open_loop(&client, &plan, rate).await?;
        ratios.push(json!({"quiet_p99_ms": quiet.p99, "compacting_p99_ms": busy.p99, "ratio": busy.p99 / quiet.p99}));
        if round == 0 {
            space_back = wait_for_space(&server.data_dir, before, asked).await?;
        }
        // The next stretch compacts all of it again: give it something to compact.
        load(&client, &plan, 2 + u64::from(round)).await?;
    }
    let high = memory_mb(server.pid(), "VmHWM")?;
    drop(client);

    // On a thread of its own: the client's side of the connection must be able to close meanwhile.
    let stopping = Instant::now();
    tokio::task::spawn_blocking(move || server.stop()).await??;
    let stopped = stopping.elapsed();
    let starting = Instant::now();
    let server = Server::start(Kind::Conclave, &options)?;
    let client = Client::connect(&server.url()).await?;
    client.kv.clone().range(pb::RangeRequest { key: key(0).into(), ..Default::default() }).await?;
    let back = starting.elapsed();

    let ratio = |row: &serde_json::Value| row["ratio"].as_f64().unwrap_or(f64::INFINITY);
    ratios.sort_by(|a, b| ratio(a).total_cmp(&ratio(b)));
    let report = json!({
        "keys": plan.keys, "load_puts_per_s": first, "overwrite_puts_per_s": second, "open_loop_rate": rate,
        "vm_hwm_mb_after_load": after_load, "vm_hwm_mb": high, "folder_mb_with_history": with_history,
        "space_back_s": space_back.as_secs_f64(), "stop_s": stopped.as_secs_f64(),
        "restart_to_first_linearizable_get_s": back.as_secs_f64(),
        "compaction_p99": ratios, "compaction_p99_median": ratios[ratios.len() / 2],
    });
    println!("{report:#}");
    ensure!(high <= plan.max_memory_mb, "resident memory reached {high} MB");
    ensure!(stopped + back <= MAX_RESTART, "stop and restart took {:?}", stopped + back);
    Ok(())
}

fn key(number: u64) -> String {
    format!("/registry/pods/namespace-{:03}/pod-{number:08}", number % 97)
}

/// Writes every key once; puts per second.
async fn load(client: &Client, plan: &Plan, round: u64) -> Result<f64> {
    let next = Arc::new(AtomicU64::new(0));
    let began = Instant::now();
    let mut loaders = JoinSet::new();
    for _ in 0..LOADERS {
        let (mut kv, next, plan) = (client.kv.clone(), Arc::clone(&next), plan.clone());
        loaders.spawn(async move {
            loop {
                let number = next.fetch_add(1, Relaxed);
                if number >= plan.keys {
                    return Ok::<_, anyhow::Error>(());
                }
                kv.put(put(number, round, plan.value_bytes)).await?;
            }
        });
    }
    while let Some(done) = loaders.join_next().await {
        done??;
    }
    Ok(plan.keys as f64 / began.elapsed().as_secs_f64())
}

fn put(number: u64, round: u64, bytes: usize) -> pb::PutRequest {
    let mut value = format!("{round}:{number}:").into_bytes();
    // Not all the same, or compression would make the figures those of a smaller store.
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ round;
    while value.len() < bytes {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        value.push((state >> 56) as u8);
    }
    pb::PutRequest { key: key(number).into(), value: value.into(), ..Default::default() }
}

/// Reads all keys, a page at a time; how many there were.
async fn page(client: &Client) -> Result<u64> {
    let mut kv = client.kv.clone();
    let mut from = b"/".to_vec();
    let mut seen = 0;
    loop {
        let request =
            pb::RangeRequest { key: from.into(), range_end: b"0".to_vec().into(), limit: PAGE, ..Default::default() };
        let page = kv.range(request).await?.into_inner();
        seen += page.kvs.len() as u64;
        match page.kvs.last() {
            Some(last) if page.more => from = [&last.key[..], b"\0"].concat(),
            _ => return Ok(seen),
        }
    }
}

async fn revision(client: &Client) -> Result<i64> {
    let reply = client.kv.clone().range(pb::RangeRequest { key: b"-".to_vec().into(), ..Default::default() }).await?;
    Ok(reply.into_inner().header.context("a header")?.revision)
}

struct Stretch {
    p99: f64,
}

/// Puts that are due at a fixed rate, whatever becomes of those before.
async fn open_loop(client: &Client, plan: &Plan, rate: u64) -> Result<Stretch> {
    let count = rate * plan.seconds;
    let gap = Duration::from_secs(1) / u32::try_from(rate).context("a rate")?;
    let began = Instant::now();
    let mut puts = JoinSet::new();
    for number in 0..count {
        let due = began + gap * u32::try_from(number).context("a short stretch")?;
        if due > Instant::now() {
            tokio::time::sleep_until(due.into()).await;
        }
        let (mut kv, request) = (client.kv.clone(), put(number % plan.keys, 99, plan.value_bytes));
        puts.spawn(async move { kv.put(request).await.map(|_| due.elapsed()) });
    }
    let mut waits = Vec::with_capacity(usize::try_from(count)?);
    while let Some(done) = puts.join_next().await {
        waits.push(done??.as_secs_f64() * 1_000.0);
    }
    waits.sort_by(f64::total_cmp);
    Ok(Stretch { p99: waits[waits.len() * 99 / 100] })
}

/// Until the folder is a third smaller than it was: what was overwritten was about half of it.
async fn wait_for_space(folder: &Path, before: u64, asked: Instant) -> Result<Duration> {
    let mut looks = tokio::time::interval(Duration::from_millis(200));
    loop {
        looks.tick().await;
        let now = folder_mb(folder)?;
        if now * 3 <= before * 2 {
            return Ok(asked.elapsed());
        }
        ensure!(asked.elapsed() < MAX_SPACE_WAIT, "{before} MB before the compaction, {now} MB a minute after it");
    }
}

fn memory_mb(pid: u32, field: &str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with(field)).context("a field of /proc")?;
    let kb: u64 = line.split_whitespace().nth(1).context("a number")?.parse()?;
    Ok(kb / 1024)
}

fn folder_mb(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => folders.push(entry.path()),
                Ok(metadata) => bytes += metadata.len(),
                // A file that the store removed meanwhile.
                Err(_) => {}
            }
        }
    }
    Ok(bytes >> 20)
}
