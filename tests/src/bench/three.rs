//! Three members of each kind side by side, interleaved.

use std::fmt::Write as _;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{
    Plan, commit, failover, machine,
    sample::{Load, Target, load, measure, median, memory, object, progress},
};
use crate::{
    cluster::{Cluster, Layout, Place},
    process::{Kind, free_ports},
};

/// Every row, in the order of the table, and whether it goes to all members or to the leader only.
pub const LOADS: [(Load, bool); 5] = [
    (load("put 256 B, 64 clients, to the leader", "put", 64, 10_000, 256), false),
    (load("put 256 B, 64 clients, to all", "put", 64, 10_000, 256), true),
    (load("put 256 B, 1,000 clients, to the leader", "put", 1_000, 10_000, 256), false),
    (load("put 256 B, 1,000 clients, to all", "put", 1_000, 10_000, 256), true),
    (load("get, 64 clients, to all", "get", 64, 10_000, 256), true),
];
/// The last row; `--only` chooses it like the others.
const FAILOVER: &str = "kill -9 of the leader";

fn start(kind: Kind) -> Result<Cluster> {
    let place = |_| {
        let (client, peer) = free_ports()?;
        Ok(Place { client, peer, under: Vec::new() })
    };
    let places = (0..3).map(place).collect::<Result<Vec<_>>>()?;
    // The timers are the defaults of both: heartbeats of 100 ms, elections after 1 s.
    let mut cluster = Cluster::lay_out(&Layout { kind, size: 3, seed: 0, flags: Vec::new(), folder: None, places })?;
    cluster.start_members(&[0, 1, 2])?;
    Ok(cluster)
}

async fn target(cluster: &Cluster, all: bool) -> Result<Target<'_>> {
    let servers = cluster.members.iter().filter_map(|member| member.server.as_ref()).collect();
    let endpoints = if all { cluster.urls() } else { vec![cluster.members[cluster.leader().await?].url()] };
    Ok(Target { servers, endpoints })
}

/// Runs the plan; what it measured, as JSON.
///
/// # Errors
/// If a server or the generator fails.
pub fn run(plan: &Plan) -> Result<Value> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let chosen = |name: &str| plan.only.as_ref().is_none_or(|only| name.contains(only.as_str()));
    let mut clusters = [start(plan.kinds[0])?, start(plan.kinds[1])?];
    let mut rows = Vec::new();
    for (load, all) in LOADS.into_iter().filter(|(load, _)| chosen(load.name)) {
        let mut samples = [Vec::new(), Vec::new()];
        for _ in 0..plan.rounds {
            for side in [0, 1, 1, 0] {
                let target = runtime.block_on(target(&clusters[side], all))?;
                samples[side].push(measure(&target, load, None, plan.seconds)?);
            }
        }
        let sides = samples.map(|side| median(&side));
        eprintln!("{}", progress(load, &sides));
        rows.push(json!({ "load": load.name, "first": object(&sides[0]), "second": object(&sides[1]) }));
    }
    let targets = clusters.each_ref().map(|cluster| runtime.block_on(target(cluster, true)));
    let memory = targets.into_iter().map(|target| memory(&target?)).collect::<Result<Vec<_>>>()?;
    let mut failovers = [Vec::new(), Vec::new()];
    if chosen(FAILOVER) {
        for _ in 0..plan.rounds {
            for side in [0, 1, 1, 0] {
                let measured = runtime.block_on(failover::measure_one(&mut clusters[side], plan.seconds));
                let (gap, rejoin) = measured.with_context(|| plan.kinds[side].name())?;
                eprintln!("{:<60} gap {gap:.0} ms, rejoined after {rejoin:.0} ms", plan.kinds[side].name());
                failovers[side].push(json!({ "gap_ms": gap, "rejoin_ms": rejoin }));
            }
        }
    }
    let [first, second] = failovers;
    Ok(json!({
        "first": plan.kinds[0].name(), "second": plan.kinds[1].name(), "seconds": plan.seconds, "rounds": plan.rounds,
        "machine": machine(), "commit": commit(), "rows": rows, "vm_hwm_mb": memory,
        "failovers": { "first": first, "second": second },
    }))
}

/// Median and largest of what was measured in the failovers of a side.
fn failovers(result: &Value, side: &str, field: &str) -> (f64, f64) {
    let all = result["failovers"][side].as_array().into_iter().flatten();
    let mut all: Vec<_> = all.filter_map(|one| one[field].as_f64()).collect();
    all.sort_by(f64::total_cmp);
    let Some(largest) = all.last() else { return (f64::NAN, f64::NAN) };
    (f64::midpoint(all[(all.len() - 1) / 2], all[all.len() / 2]), *largest)
}

/// The table, for people.
#[must_use]
pub fn markdown(result: &Value) -> String {
    let [a, b] = ["first", "second"].map(|side| result[side].as_str().unwrap_or_default());
    let mut out = format!(
        "# Three members of {a} against three of {b}\n\n\
         Commit {}, {}; medians of {} measurements of {} s each, interleaved; members and load generator share the cores.\n\
         CPU is that of all three members. A ratio below 1 is in {a}'s favour for CPU and latency, above 1 for throughput.\n\n\
         | load | ops/s {a} | {b} | ratio | CPU µs/op {a} | {b} | ratio | p50 ms {a} | {b} | p99 ms {a} | {b} |\n\
         |---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n",
        result["commit"].as_str().unwrap_or_default(),
        result["machine"].as_str().unwrap_or_default(),
        result["rounds"].as_u64().unwrap_or_default() * 2,
        result["seconds"],
    );
    for row in result["rows"].as_array().into_iter().flatten() {
        let n = |side: &str, field: &str| row[side][field].as_f64().unwrap_or(f64::NAN);
        let pair = |field: &str| (n("first", field), n("second", field));
        let ((ops, ops_b), (cpu, cpu_b)) = (pair("ops_per_s"), pair("cpu_us"));
        let ((p50, p50_b), (p99, p99_b)) = (pair("p50_ms"), pair("p99_ms"));
        let _ = writeln!(
            out,
            "| {} | {ops:.0} | {ops_b:.0} | {:.2} | {cpu:.1} | {cpu_b:.1} | **{:.2}** | {p50:.2} | {p50_b:.2} | {p99:.2} | {p99_b:.2} |",
            row["load"].as_str().unwrap_or_default(),
            ops / ops_b,
            cpu / cpu_b,
        );
    }
    let kills = result["failovers"]["first"].as_array().map_or(0, Vec::len);
    let _ = writeln!(
        out,
        "\n{kills} times on each side the leader is killed (`kill -9`) under writes to the others, which begin every 5 ms; \
         it starts again after {} s of writes by 64 clients. Timers are the defaults: 100 ms, 1 s.\n\n\
         | {FAILOVER} | {a} median | largest | {b} median | largest | ratio |\n|---|--:|--:|--:|--:|--:|",
        result["seconds"],
    );
    for (name, field) in
        [("longest gap between acknowledged writes, ms", "gap_ms"), ("from start to caught up, ms", "rejoin_ms")]
    {
        let ((ours, most), (theirs, most_b)) = (failovers(result, "first", field), failovers(result, "second", field));
        let _ =
            writeln!(out, "| {name} | {ours:.0} | {most:.0} | {theirs:.0} | {most_b:.0} | **{:.2}** |", ours / theirs);
    }
    let memory = |n: usize| result["vm_hwm_mb"][n].as_f64().unwrap_or(f64::NAN);
    let _ = writeln!(out, "\nPeak memory of three members (VmHWM): {a} {:.0} MB, {b} {:.0} MB.", memory(0), memory(1));
    out
}
