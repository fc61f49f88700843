//! Conclave and etcd side by side, under the same load by the same generator, interleaved.
//!
//! Both sides run all the time; each load is measured A B B A, so that what the machine does meanwhile meets both
//! alike, and the median is reported. CPU is what the kernel charged the servers' processes between the start and the end
//! of a measurement, divided by the operations that were answered in it.
//!
//! [`one`]: one member against one. [`three`]: three against three, to the leader and to all members, with what a dead
//! leader costs its clients ([`failover`]).

mod failover;
pub mod one;
mod sample;
pub mod three;

use std::{fs, path::Path, process::Command};

use anyhow::Result;
use serde_json::Value;

use crate::process::{Kind, root};

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

/// Writes JSON and table into a folder.
///
/// # Errors
/// If the folder cannot be written.
pub fn write(result: &Value, table: &str, folder: &Path, name: &str) -> Result<()> {
    fs::create_dir_all(folder)?;
    fs::write(folder.join(format!("{name}.json")), serde_json::to_string_pretty(result)? + "\n")?;
    fs::write(folder.join(format!("{name}.md")), table)?;
    Ok(())
}
