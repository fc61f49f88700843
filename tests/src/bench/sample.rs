//! One load on one target, measured once.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::process::{Server, peers};

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// What the row is called.
    pub name: &'static str,
    /// The generator's load.
    pub load: &'static str,
    pub clients: u32,
    pub keys: u32,
    pub value: u32,
    /// Started at a rate instead of as fast as answers come: this part of etcd's rate at 64 clients.
    pub of_peak: Option<f64>,
}

pub(super) const fn load(name: &'static str, load: &'static str, clients: u32, keys: u32, value: u32) -> Load {
    Load { name, load, clients, keys, value, of_peak: None }
}

/// What is measured: where the load goes, and the processes that are charged for it.
#[derive(Debug)]
pub(super) struct Target<'a> {
    pub servers: Vec<&'a Server>,
    pub endpoints: Vec<String>,
}

impl<'a> Target<'a> {
    pub(super) fn one(server: &'a Server) -> Self {
        Self { servers: vec![server], endpoints: vec![server.url()] }
    }
}

/// One measurement.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    pub ops_per_s: f64,
    pub cpu_us: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
    /// Not a number where the data lies on no block device of its own.
    pub written_per_op: f64,
    pub errors: f64,
}

/// One measurement; every server of the target is charged.
pub(super) fn measure(target: &Target<'_>, load: Load, rate: Option<f64>, seconds: u32) -> Result<Sample> {
    let folder = &target.servers[0].data_dir;
    let before = written(folder)?;
    let mut command = Command::new(peers()?.join("loadgen"));
    command.args(["-endpoint", &target.endpoints.join(","), "-load", load.load]);
    command.args(["-clients", &load.clients.to_string(), "-keys", &load.keys.to_string()]);
    command.args(["-value", &load.value.to_string(), "-duration", &format!("{seconds}s")]);
    let stats = target.servers.iter().map(|server| format!("/proc/{}/stat", server.pid())).collect::<Vec<_>>();
    command.args(["-stat", &stats.join(",")]);
    if let Some(rate) = rate {
        command.args(["-rate", &format!("{rate:.0}")]);
    }
    let output = command.stderr(Stdio::inherit()).output().context("the load generator")?;
    ensure!(
        output.status.success(),
        "the load generator failed ({}) on {}",
        output.status,
        target.servers[0].kind.name()
    );
    let result: Value = serde_json::from_slice(&output.stdout)?;
    let number = |name: &str| result[name].as_f64().with_context(|| format!("no {name} in {result}"));
    Ok(Sample {
        ops_per_s: number("ops_per_s")?,
        cpu_us: number("server_cpu_us")?,
        p50_ms: number("p50_ms")?,
        p99_ms: number("p99_ms")?,
        max_ms: number("max_ms")?,
        written_per_op: (written(folder)? - before) / number("ops")?,
        errors: number("errors")?,
    })
}

pub(super) fn median(samples: &[Sample]) -> Sample {
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

pub(super) fn object(s: &Sample) -> Value {
    json!({
        "ops_per_s": s.ops_per_s, "cpu_us": s.cpu_us, "p50_ms": s.p50_ms, "p99_ms": s.p99_ms, "max_ms": s.max_ms,
        "written_per_op": s.written_per_op, "errors": s.errors,
    })
}

pub(super) fn progress(load: Load, [a, b]: &[Sample; 2]) -> String {
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

/// Peak memory of all servers, in megabytes.
pub(super) fn memory(target: &Target<'_>) -> Result<f64> {
    target.servers.iter().map(|server| Ok(proc_number(server, "status", "VmHWM:")? / 1024.0)).sum()
}
