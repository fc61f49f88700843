//! The network between members, as good or bad as the nemesis wants it.
//!
//! Where the machine allows it (root, `ip`, `iptables`) each member has a network namespace of its own, and what they say
//! to each other is routed through one more namespace, the hub, in which this program runs. A rule in the hub's table of
//! forwarded packets cuts one direction between two members; packets between a member and the clients are not forwarded,
//! so clients reach members that do not reach each other. Elsewhere the members' proxies swallow what comes in, which
//! cannot tell who sent it: fewer kinds of partitions, the same code.
//!
//! All namespaces are made before the program enters the hub (what is mounted from inside of one stays there), by a parent
//! that waits for it and removes them whatever becomes of it. Their names begin with the parent's process id; those of a
//! parent that is gone are removed by the next one.

use std::{
    env, fs,
    net::SocketAddr,
    path::Path,
    process::{Command, ExitStatus, Stdio},
    sync::atomic::Ordering::SeqCst,
};

use anyhow::{Context, Result, bail, ensure};

use crate::cluster::{Cluster, Place};

/// Namespaces that are made: enough for the largest cluster.
pub const MOST_MEMBERS: usize = 5;
/// Any network of ours can have these addresses: nobody else sees them.
const CLIENT_PORT: u16 = 2379;
const PEER_PORT: u16 = 2380;
/// Tells the program that it is inside, and the names' beginning.
const INSIDE: &str = "CONCLAVE_CHAOS_INSIDE";
const NAMES: &str = "conclave-chaos-";

/// Where members live.
#[derive(Debug)]
pub enum Network {
    Namespaces { names: String },
    Proxies,
}

/// What packets meet on the way from one member to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    Drop,
    /// One packet in five is lost.
    Lossy,
}

fn address(n: usize) -> String {
    format!("10.97.{}.2", n + 1)
}

fn command(line: &str) -> Command {
    let mut words = line.split_whitespace();
    let mut command = Command::new(words.next().expect("a program"));
    command.args(words).stdin(Stdio::null());
    command
}

fn run(line: &str) -> Result<String> {
    let output = command(line).output().with_context(|| line.to_owned())?;
    ensure!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

impl Network {
    /// The network that this program was started in.
    #[must_use]
    pub fn of_this_process() -> Self {
        env::var(INSIDE).map_or(Self::Proxies, |names| Self::Namespaces { names })
    }

    /// For [`crate::cluster::Layout`].
    #[must_use]
    pub fn places(&self) -> Vec<Place> {
        let Self::Namespaces { names } = self else { return Vec::new() };
        let place = |n: usize| {
            let at = |port: u16| -> SocketAddr { format!("{}:{port}", address(n)).parse().expect("an address") };
            let under = format!("ip netns exec {names}m{}", n + 1);
            let under = under.split(' ').map(str::to_owned).collect();
            Place { client: at(CLIENT_PORT), peer: at(PEER_PORT), under }
        };
        (0..MOST_MEMBERS).map(place).collect()
    }

    /// Puts a rule on the way, or takes it away again.
    ///
    /// # Errors
    /// If the kernel does not take it.
    pub fn rule(&self, rule: Rule, from: usize, to: usize, on: bool) -> Result<()> {
        let Self::Namespaces { .. } = self else { bail!("proxies know no rules") };
        let (what, lossy) = (if on { "-A" } else { "-D" }, "-m statistic --mode random --probability 0.2");
        let odds = if rule == Rule::Lossy { lossy } else { "" };
        run(&format!("iptables -w -t filter {what} FORWARD -s {} -d {} {odds} -j DROP", address(from), address(to)))?;
        Ok(())
    }

    /// All is well again.
    ///
    /// # Errors
    /// If the kernel does not take it.
    pub fn heal(&self, cluster: &Cluster) -> Result<()> {
        for member in &cluster.members {
            member.proxy.faults.heal();
        }
        if let Self::Namespaces { .. } = self {
            // Of the namespace that this process is in: the hub.
            fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
            run("iptables -w -F FORWARD")?;
        }
        Ok(())
    }

    /// Nothing gets to a member's proxy any more, or all of it again.
    pub fn swallow(cluster: &Cluster, n: usize, on: bool) {
        cluster.members[n].proxy.faults.black_hole.store(on, SeqCst);
    }
}

/// Why there can be no namespaces here.
///
/// # Errors
/// The reason.
pub fn possible() -> Result<()> {
    ensure!(rustix::process::geteuid().is_root(), "not root");
    run("ip -V")?;
    run("iptables -V")?;
    // A kernel may lack what the tools ask for.
    let namespaces = Namespaces::make(1)?;
    run(&format!("ip netns exec {}hub iptables -w -S FORWARD", namespaces.names))?;
    Ok(())
}

/// Namespaces of this process; gone with it.
#[derive(Debug)]
pub struct Namespaces {
    names: String,
}

impl Namespaces {
    /// One for each member, and the hub between them.
    ///
    /// # Errors
    /// If the machine does not allow it.
    pub fn make(members: usize) -> Result<Self> {
        sweep()?;
        let made = Self { names: format!("{NAMES}{}-", std::process::id()) };
        let hub = format!("{}hub", made.names);
        run(&format!("ip netns add {hub}"))?;
        run(&format!("ip -n {hub} link set lo up"))?;
        for n in 0..members {
            let (member, link) = (format!("{}m{}", made.names, n + 1), format!("m{}", n + 1));
            let (gateway, address) = (format!("10.97.{}.1", n + 1), address(n));
            for line in [
                format!("ip netns add {member}"),
                format!("ip -n {hub} link add {link} type veth peer name eth0 netns {member}"),
                format!("ip -n {hub} addr add {gateway}/24 dev {link}"),
                format!("ip -n {hub} link set {link} up"),
                format!("ip -n {member} addr add {address}/24 dev eth0"),
                format!("ip -n {member} link set eth0 up"),
                format!("ip -n {member} link set lo up"),
                format!("ip -n {member} route add default via {gateway}"),
            ] {
                run(&line)?;
            }
        }
        Ok(made)
    }

    /// Runs this program again, with the same arguments, in the hub.
    ///
    /// # Errors
    /// If it cannot be started.
    pub async fn run_inside(&self) -> Result<ExitStatus> {
        let mut child = command(&format!("ip netns exec {}hub", self.names))
            .arg(env::current_exe()?)
            .args(env::args_os().skip(1))
            .env(INSIDE, &self.names)
            .spawn()?;
        let pid = rustix::process::Pid::from_child(&child);
        let ended = tokio::task::spawn_blocking(move || child.wait());
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        tokio::select! {
            status = ended => Ok(status??),
            _ = tokio::signal::ctrl_c() => interrupted(pid),
            _ = terminate.recv() => interrupted(pid),
        }
    }
}

fn interrupted(pid: rustix::process::Pid) -> Result<ExitStatus> {
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    bail!("interrupted")
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        // What cannot be removed now is removed by the next run.
        let _ = remove(&self.names);
    }
}

/// Removes namespaces and ends what still runs in them.
fn remove(names: &str) -> Result<()> {
    for name in run("ip netns list")?.lines().filter_map(|line| line.split(' ').next()) {
        if !name.starts_with(names) {
            continue;
        }
        for pid in run(&format!("ip netns pids {name}"))?.lines() {
            let _ = run(&format!("kill -9 {pid}"));
        }
        run(&format!("ip netns del {name}"))?;
    }
    Ok(())
}

/// Removes those whose process is gone.
fn sweep() -> Result<()> {
    let Ok(entries) = fs::read_dir("/run/netns") else { return Ok(()) };
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let Some(pid) = name.strip_prefix(NAMES).and_then(|rest| rest.split('-').next()) else { continue };
        if !Path::new(&format!("/proc/{pid}")).exists() {
            remove(&format!("{NAMES}{pid}-"))?;
        }
    }
    Ok(())
}
