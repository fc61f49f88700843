//! One member of each kind side by side, interleaved.

use std::fmt::Write as _;

use anyhow::Result;
use serde_json::{Value, json};

use super::{
    Plan, commit, machine,
    sample::{Load, Target, load, measure, median, memory, object, progress},
};
use crate::process::{Options, Server};

/// Every row, in the order of the table.
pub const LOADS: [Load; 12] = [
    load("put 256 B, 1 client", "put", 1, 10_000, 256),
    load("put 256 B, 64 clients", "put", 64, 10_000, 256),
    load("put 256 B, 1,000 clients", "put", 1_000, 10_000, 256),
    Load { of_peak: Some(0.25), ..load("put 256 B, open loop at a quarter of etcd's peak", "put", 256, 10_000, 256) },
    load("get, 1 client", "get", 1, 10_000, 256),
    load("get, 64 clients", "get", 64, 10_000, 256),
    load("get, 1,000 clients", "get", 1_000, 10_000, 256),
    load("serializable get, 64 clients", "get-local", 64, 10_000, 256),
    load("list of 500 × 1 KiB, 16 clients", "list", 16, 1_000, 1_024),
    load("the same, its 1,000 keys overwritten 2,000 times a second", "list-churn", 16, 1_000, 1_024),
    load("watch events, 1,000 watchers of one prefix", "watch", 1_000, 1_000, 256),
    load("put 256 B, 64 clients, after all that", "put", 64, 10_000, 256),
];

/// Runs the plan; what it measured, as JSON.
///
/// # Errors
/// If a server or the generator fails.
pub fn run(plan: &Plan) -> Result<Value> {
    let servers =
        [Server::start(plan.kinds[0], &Options::default())?, Server::start(plan.kinds[1], &Options::default())?];
    let mut rows = Vec::new();
    let mut peak = None;
    for load in LOADS {
        if plan.only.as_ref().is_some_and(|only| !load.name.contains(only.as_str())) {
            continue;
        }
        let rate = load.of_peak.map(|part| part * peak.unwrap_or(10_000.0));
        let mut samples = [Vec::new(), Vec::new()];
        for _ in 0..plan.rounds {
            for side in [0, 1, 1, 0] {
                samples[side].push(measure(&Target::one(&servers[side]), load, rate, plan.seconds)?);
            }
        }
        let sides = samples.map(|side| median(&side));
        if load.load == "put" && load.clients == 64 {
            peak = peak.or(Some(sides[1].ops_per_s));
        }
        eprintln!("{}", progress(load, &sides));
        rows.push(json!({ "load": load.name, "rate": rate, "first": object(&sides[0]), "second": object(&sides[1]) }));
    }
    let memory =
        servers.each_ref().map(|server| memory(&Target::one(server))).into_iter().collect::<Result<Vec<_>>>()?;
    Ok(json!({
        "first": plan.kinds[0].name(), "second": plan.kinds[1].name(), "seconds": plan.seconds, "rounds": plan.rounds,
        "machine": machine(), "commit": commit(), "rows": rows, "vm_hwm_mb": memory,
    }))
}

/// The table, for people.
#[must_use]
pub fn markdown(result: &Value) -> String {
    let [a, b] = ["first", "second"].map(|side| result[side].as_str().unwrap_or_default());
    let mut out = format!(
        "# One member of {a} against one of {b}\n\n\
         Commit {}, {}; medians of {} measurements of {} s each, interleaved; the load generator shares the cores.\n\
         A ratio below 1 is in {a}'s favour for CPU, latency and bytes, above 1 for throughput.\n\n\
         | load | ops/s {a} | {b} | ratio | CPU µs/op {a} | {b} | ratio | p50 ms {a} | {b} | p99 ms {a} | {b} | disk bytes/op {a} | {b} |\n\
         |---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n",
        result["commit"].as_str().unwrap_or_default(),
        result["machine"].as_str().unwrap_or_default(),
        result["rounds"].as_u64().unwrap_or_default() * 2,
        result["seconds"],
    );
    for row in result["rows"].as_array().into_iter().flatten() {
        let n = |side: &str, field: &str| row[side][field].as_f64().unwrap_or(f64::NAN);
        let pair = |field: &str| (n("first", field), n("second", field));
        let ((ops, ops_b), (cpu, cpu_b)) = (pair("ops_per_s"), pair("cpu_us"));
        let ((p50, p50_b), (p99, p99_b), (w, w_b)) = (pair("p50_ms"), pair("p99_ms"), pair("written_per_op"));
        let _ = writeln!(
            out,
            "| {} | {ops:.0} | {ops_b:.0} | {:.2} | {cpu:.1} | {cpu_b:.1} | **{:.2}** | {p50:.2} | {p50_b:.2} | {p99:.2} | {p99_b:.2} | {w:.0} | {w_b:.0} |",
            row["load"].as_str().unwrap_or_default(),
            ops / ops_b,
            cpu / cpu_b,
        );
    }
    let memory = |n: usize| result["vm_hwm_mb"][n].as_f64().unwrap_or(f64::NAN);
    let _ = writeln!(out, "\nPeak memory over all of it (VmHWM): {a} {:.0} MB, {b} {:.0} MB.", memory(0), memory(1));
    out
}
