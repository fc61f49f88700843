//! What the system says about this process, under client_golang's names.

use std::fs;

use super::{Kind, Text};

/// Writes the `process_*` families, and etcd's `os_fd_*`. What cannot be read is left out.
pub fn process(text: &mut Text) {
    let ticks = rustix::param::clock_ticks_per_second();
    let page = rustix::param::page_size();
    if let Some(stat) = fs::read_to_string("/proc/self/stat").ok().and_then(|stat| Stat::parse(&stat)) {
        #[expect(clippy::cast_precision_loss, reason = "seconds of CPU time, shown to two digits")]
        let cpu = (stat.user_ticks + stat.system_ticks) as f64 / ticks as f64;
        let help = "Total user and system CPU time spent in seconds.";
        text.single("process_cpu_seconds_total", Kind::Counter, help, cpu);
        let resident = stat.resident_pages * page as u64;
        text.single("process_resident_memory_bytes", Kind::Gauge, "Resident memory size in bytes.", resident);
        text.single("process_virtual_memory_bytes", Kind::Gauge, "Virtual memory size in bytes.", stat.virtual_bytes);
        if let Some(boot) = boot_seconds() {
            #[expect(clippy::cast_precision_loss, reason = "a time in seconds, shown to two digits")]
            let start = boot as f64 + stat.start_ticks as f64 / ticks as f64;
            let help = "Start time of the process since unix epoch in seconds.";
            text.single("process_start_time_seconds", Kind::Gauge, help, start);
        }
    }
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        // One of them is the directory that is being read.
        let open = open.count().saturating_sub(1);
        text.single("process_open_fds", Kind::Gauge, "Number of open file descriptors.", open);
        text.single("os_fd_used", Kind::Gauge, "The number of used file descriptors.", open);
    }
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    if let Some(limit) = limit {
        text.single("process_max_fds", Kind::Gauge, "Maximum number of open file descriptors.", limit);
        text.single("os_fd_limit", Kind::Gauge, "The file descriptor limit.", limit);
    }
}

/// The fields of `/proc/self/stat` that are shown, see proc_pid_stat(5).
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stat {
    pub(super) user_ticks: u64,
    pub(super) system_ticks: u64,
    pub(super) start_ticks: u64,
    pub(super) virtual_bytes: u64,
    pub(super) resident_pages: u64,
}

impl Stat {
    pub(super) fn parse(stat: &str) -> Option<Self> {
        // The second field is the program's name in parentheses and may hold anything; the third is the first after it.
        let (_, rest) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse().ok();
        Some(Self {
            user_ticks: field(14)?,
            system_ticks: field(15)?,
            start_ticks: field(22)?,
            virtual_bytes: field(23)?,
            resident_pages: field(24)?,
        })
    }
}

fn boot_seconds() -> Option<u64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}
