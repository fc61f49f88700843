//! What the raft log costs on this machine's disk: batches a second, latency, and CPU a batch, with every batch synced.
//!
//!     log_bench [--dir DIR] [--batches N] [--entries N] [--bytes N]
//!
//! The folder must lie on the disk that is meant, not on a memory file system. It is left empty.

use std::{fs, path::PathBuf, time::Instant};

use anyhow::Context;
use bytes::Bytes;
use clap::Parser;
use conclave_server::{
    node::log::{EntryKind, HardState, LogBatch, LogEntry, LogOptions, LogStore, RealIo},
    types::{LogIndex, Term},
};

#[derive(Parser)]
struct Options {
    /// Where the log is written.
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    #[arg(long, default_value_t = 20_000)]
    batches: u64,
    /// Entries of a batch.
    #[arg(long, default_value_t = 64)]
    entries: u64,
    /// Bytes of an entry.
    #[arg(long, default_value_t = 256)]
    bytes: usize,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let dir = tempfile::tempdir_in(&options.dir).context("make a folder for the log")?;
    let settings = LogOptions { segment_bytes: LogOptions::SEGMENT_BYTES, log_id: 1, must_exist: false };
    let (mut store, _) = LogStore::open(RealIo::new(dir.path()), settings)?;
    let data = Bytes::from(vec![7; options.bytes]);
    let hard_state = Some(HardState { term: Term(1), vote: None, commit: LogIndex(0) });
    let _ = store.persist(&LogBatch { hard_state, ..LogBatch::default() })?;

    let (mut persist_us, mut prepare_us) = (Vec::new(), Vec::new());
    let (start, cpu) = (Instant::now(), cpu_us()?);
    for ready in 0..options.batches {
        let first = ready * options.entries + 1;
        let entry = |index| {
            let (index, term, kind) = (LogIndex(index), Term(1), EntryKind::Normal);
            LogEntry { index, term, kind, data: data.clone() }
        };
        let entries = (first..first + options.entries).map(entry).collect();
        let begin = Instant::now();
        let _ = store.persist(&LogBatch { ready, entries, ..LogBatch::default() })?;
        let persisted = Instant::now();
        store.prepare()?;
        // The state machine's flushes let the log go at about this distance.
        if ready.is_multiple_of(1_000) {
            store.cut_below(LogIndex(first.saturating_sub(2_000 * options.entries).max(1)))?;
        }
        persist_us.push((persisted - begin).as_secs_f64() * 1e6);
        prepare_us.push(persisted.elapsed().as_secs_f64() * 1e6);
    }
    let (seconds, cpu) = (start.elapsed().as_secs_f64(), cpu_us()? - cpu);
    let batches = options.batches as f64;
    println!("{} batches of {} x {} B, one fdatasync each", options.batches, options.entries, options.bytes);
    println!("  {:.0} batches/s, {:.1} us of CPU a batch", batches / seconds, cpu / batches);
    for (name, mut times) in [("persist", persist_us), ("prepare and cut", prepare_us)] {
        times.sort_by(f64::total_cmp);
        let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
        println!(
            "  {name}: p50 {:.0} us, p99 {:.0} us, p99.9 {:.0} us, max {:.0} us",
            at(0.5),
            at(0.99),
            at(0.999),
            at(1.0)
        );
    }
    println!("  {} files left in the folder", fs::read_dir(dir.path())?.count());
    Ok(())
}

/// CPU time of this thread so far, from the scheduler.
fn cpu_us() -> anyhow::Result<f64> {
    let text = fs::read_to_string("/proc/thread-self/schedstat").context("read the scheduler's count")?;
    let ns: u64 = text.split_whitespace().next().context("an empty count")?.parse()?;
    Ok(ns as f64 / 1e3)
}
