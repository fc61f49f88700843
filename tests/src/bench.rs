//! One member of each kind side by side, under the same load by the same generator, interleaved.
//!
//! Both servers run all the time; each load is measured A B B A, so that what the machine does meanwhile meets both
//! alike, and the median is reported. CPU is what the kernel charged the server's process between the start and the end
//! of a measurement, divided by the operations that were answered in it.

use std::{
    fmt::Write as _,
    fs,
    os::unix::fs::MetadataExt,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::process::{Kind, Options, Server, peers, root};

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// What the row is called.
    pub name: &'static str,
    /// The generator's load.
    load: &'static str,
    clients: u32,
    keys: u32,
    value: u32,
    /// Started at a rate instead of as fast as answers come: this part of etcd's rate at 64 clients.
    of_peak: Option<f64>,
}

const fn load(name: &'static str, load: &'static str, clients: u32, keys: u32, value: u32) -> Load {
    Load { name, load, clients, keys, value, of_peak: None }
}

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

/// How long and how often.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The server that is judged, and the one it is judged by.
    pub kinds: [Kind; 2],
    pub seconds: u32,
    /// A B B A, this many times.
    pub rounds: u32,
    /// Only rows whose name contains this.
    pub only: Option<String>,
}

/// One measurement.
#[derive(Clone, Debug)]
struct Sample {
    ops_per_s: f64,
    cpu_us: f64,
    p50_ms: f64,
    p99_ms: f64,
    max_ms: f64,
    /// Not a number where the data lies on no block device of its own.
    written_per_op: f64,
    errors: f64,
}

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
                samples[side].push(measure(&servers[side], load, rate, plan.seconds)?);
            }
        }
        let sides = samples.map(|side| median(&side));
        if load.load == "put" && load.clients == 64 {
            peak = peak.or(Some(sides[1].ops_per_s));
        }
        eprintln!("{}", progress(load, &sides));
        rows.push(json!({ "load": load.name, "rate": rate, "first": object(&sides[0]), "second": object(&sides[1]) }));
    }
    let memory = servers.each_ref().map(high_water).into_iter().collect::<Result<Vec<_>>>()?;
    Ok(json!({
        "first": plan.kinds[0].name(), "second": plan.kinds[1].name(), "seconds": plan.seconds, "rounds": plan.rounds,
        "machine": machine(), "commit": commit(), "rows": rows, "vm_hwm_mb": memory,
    }))
}

fn measure(server: &Server, load: Load, rate: Option<f64>, seconds: u32) -> Result<Sample> {
    let before = written(&server.data_dir)?;
    let mut command = Command::new(peers()?.join("loadgen"));
    command.args(["-endpoint", &server.url(), "-load", load.load]);
    command.args(["-clients", &load.clients.to_string(), "-keys", &load.keys.to_string()]);
    command.args(["-value", &load.value.to_string(), "-duration", &format!("{seconds}s")]);
    command.args(["-stat", &format!("/proc/{}/stat", server.pid())]);
    if let Some(rate) = rate {
        command.args(["-rate", &format!("{rate:.0}")]);
    }
    let output = command.stderr(Stdio::inherit()).output().context("the load generator")?;
    ensure!(output.status.success(), "the load generator failed ({}) on {}", output.status, server.kind.name());
    let result: Value = serde_json::from_slice(&output.stdout)?;
    let number = |name: &str| result[name].as_f64().with_context(|| format!("no {name} in {result}"));
    Ok(Sample {
        ops_per_s: number("ops_per_s")?,
        cpu_us: number("server_cpu_us")?,
        p50_ms: number("p50_ms")?,
        p99_ms: number("p99_ms")?,
        max_ms: number("max_ms")?,
        written_per_op: (written(&server.data_dir)? - before) / number("ops")?,
        errors: number("errors")?,
    })
}

fn median(samples: &[Sample]) -> Sample {
    let of = |field: fn(&Sample) -> f64| {
        let mut values = samples.iter().map(field).collect::<Vec<_>>();
        values.sort_by(f64::total_cmp);
        let (low, high) = (values[(values.len() - 1) / 2], values[values.len() / 2]);
        f64::midpoint(low, high)
    };
    Sample {
        ops_per_s: of(|s| s.ops_per_s),
        cpu_us: of(|s| s.cpu_us),
        p50_ms: of(|s| s.p50_ms),
        p99_ms: of(|s| s.p99_ms),
        max_ms: of(|s| s.max_ms),
        written_per_op: of(|s| s.written_per_op),
        errors: of(|s| s.errors),
    }
}

fn object(s: &Sample) -> Value {
    json!({
        "ops_per_s": s.ops_per_s, "cpu_us": s.cpu_us, "p50_ms": s.p50_ms, "p99_ms": s.p99_ms, "max_ms": s.max_ms,
        "written_per_op": s.written_per_op, "errors": s.errors,
    })
}

fn progress(load: Load, [a, b]: &[Sample; 2]) -> String {
    format!(
        "{:<60} {:>8.0} {:>8.0} ops/s  {:>7.1} {:>7.1} CPU µs  ×{:.2}",
        load.name,
        a.ops_per_s,
        b.ops_per_s,
        a.cpu_us,
        b.cpu_us,
        a.cpu_us / b.cpu_us
    )
}

/// A file of `/proc/PID`, and the number after a name in it.
fn proc_number(server: &Server, file: &str, name: &str) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{}/{file}", server.pid()))?;
    let line = text.lines().find(|line| line.starts_with(name)).with_context(|| format!("no {name} in {file}"))?;
    Ok(line.split_whitespace().nth(1).context("a number after the name")?.parse()?)
}

/// What the disk under a folder has written since the machine started, in bytes; not a number if it is no block device.
///
/// The process's own account (`/proc/PID/io`) is of no use here: it charges all of a large page, up to a megabyte, for
/// the few bytes that are changed in it. The disk writes for others too and for the warm-up, so this is an upper bound.
fn written(folder: &Path) -> Result<f64> {
    /// The unit of `/proc/diskstats`, whatever the disk's own sectors are.
    const SECTOR: f64 = 512.0;
    let device = fs::metadata(folder)?.dev();
    let (major, minor) = (rustix::fs::major(device).to_string(), rustix::fs::minor(device).to_string());
    let stats = fs::read_to_string("/proc/diskstats")?;
    let sectors = stats.lines().find_map(|line| {
        let mut fields = line.split_whitespace();
        let found = fields.next()? == major && fields.next()? == minor;
        // Behind the name: four figures of reads, writes, writes merged, sectors written.
        found.then(|| fields.nth(7)?.parse::<f64>().ok())?
    });
    Ok(sectors.map_or(f64::NAN, |sectors| sectors * SECTOR))
}

fn high_water(server: &Server) -> Result<f64> {
    Ok(proc_number(server, "status", "VmHWM:")? / 1024.0)
}

fn machine() -> String {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!("{cores} cores, {}", model.trim_start_matches([' ', '\t', ':']))
}

fn commit() -> String {
    let output = Command::new("git").current_dir(root()).args(["rev-parse", "--short", "HEAD"]).output();
    output.map_or_else(|_| String::new(), |o| String::from_utf8_lossy(&o.stdout).trim().to_owned())
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

/// Writes JSON and table into a folder.
///
/// # Errors
/// If the folder cannot be written.
pub fn write(result: &Value, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    fs::write(folder.join("one-member.json"), serde_json::to_string_pretty(result)? + "\n")?;
    fs::write(folder.join("one-member.md"), markdown(result))?;
    Ok(())
}
