//! Real servers as child processes: an etcd or a conclave, each with its own ports and data folder.
//!
//! Both are given the same flags, which is itself a test of Conclave's. A server is ready when it says so in its log;
//! it is killed and its folder removed when its [`Server`] is dropped.

use std::{
    collections::VecDeque,
    fs,
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, OnceLock, mpsc},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

/// What both servers log once they answer clients.
const READY: &str = "ready to serve client requests";
/// etcd needs about a second; the rest is for a loaded machine.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest wait for an end after SIGTERM: the drain bound of both servers is below it.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);
/// Lines of log kept for the message of a failure.
const LOG_TAIL: usize = 60;

/// Which program serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Etcd,
    Conclave,
}

impl Kind {
    /// The name it goes by in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::Conclave => "conclave",
        }
    }

    /// The executable, built first if need be.
    ///
    /// # Errors
    /// If it cannot be built.
    pub fn program(self) -> Result<PathBuf> {
        match self {
            Self::Etcd => Ok(peers()?.join("etcd")),
            Self::Conclave => conclave(),
        }
    }
}

/// How a server is started.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Flags beside those for folder and ports.
    pub flags: Vec<String>,
    /// Environment beside the inherited one.
    pub env: Vec<(String, String)>,
    /// A folder that outlives the server; without it the server has a temporary one.
    pub data_dir: Option<PathBuf>,
    /// Where it listens, for clients and for peers; without it the OS chooses. A member that has not finished its first
    /// start must keep its peer URL, from which its id is made.
    pub addresses: Option<(SocketAddr, SocketAddr)>,
    /// Its name and the initial cluster, of which it is one; without it the server is alone.
    pub cluster: Option<Role>,
    /// A program that runs the server: its name and arguments, before the server's own.
    pub under: Vec<String>,
    /// All that it logs is appended here.
    pub log: Option<PathBuf>,
}

/// A server's part in a cluster of several.
#[derive(Clone, Debug)]
pub struct Role {
    pub name: String,
    /// As `--initial-cluster` has it.
    pub initial: String,
    /// Where the others reach it, if not where it listens.
    pub advertise: SocketAddr,
}

/// A running server.
#[derive(Debug)]
pub struct Server {
    pub kind: Kind,
    pub client: SocketAddr,
    pub peer: SocketAddr,
    pub data_dir: PathBuf,
    child: Child,
    tail: Arc<Mutex<VecDeque<String>>>,
    ready: mpsc::Receiver<()>,
    _folder: Option<tempfile::TempDir>,
}

impl Server {
    /// Starts a server and waits until it is ready.
    ///
    /// # Errors
    /// If it ends before that; the end of its log is in the error.
    pub fn start(kind: Kind, options: &Options) -> Result<Self> {
        // Another process may take a port between our look and the server's bind: then the server ends, and new ports
        // are tried. Three losses in a row are not chance.
        let mut last = None;
        for _ in 0..3 {
            match Self::start_once(kind, options) {
                Ok(server) => return Ok(server),
                Err(e) if format!("{e:#}").to_lowercase().contains("address already in use") => last = Some(e),
                Err(e) => return Err(e),
            }
        }
        Err(last.expect("three rounds, each returned or left its error"))
    }

    fn start_once(kind: Kind, options: &Options) -> Result<Self> {
        let mut server = Self::spawn(kind, options)?;
        match server.ready.recv_timeout(START_TIMEOUT) {
            Ok(()) => Ok(server),
            Err(mpsc::RecvTimeoutError::Timeout) => {
                bail!("{} is not ready after a minute\n{}", kind.name(), server.log())
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                let status = server.child.wait()?;
                bail!("{} ended ({status}) before it was ready\n{}", kind.name(), server.log())
            }
        }
    }

    /// Starts a server and waits for nothing: of several, one may need the others before it is ready.
    ///
    /// # Errors
    /// If it cannot be started at all.
    pub fn spawn(kind: Kind, options: &Options) -> Result<Self> {
        let (client, peer) = options.addresses.map_or_else(free_ports, Ok)?;
        let (data_dir, folder) = match &options.data_dir {
            Some(dir) => (dir.clone(), None),
            None => {
                let folder = tempfile::Builder::new().prefix("conclave-test-").tempdir()?;
                (folder.path().join("data"), Some(folder))
            }
        };
        let program = kind.program()?;
        let mut command = match options.under.split_first() {
            None => Command::new(program),
            Some((under, args)) => {
                let mut command = Command::new(under);
                command.args(args).arg(program);
                command
            }
        };
        command.args(match &options.cluster {
            None => basic_flags(&data_dir, client, peer),
            Some(role) => role.flags(&data_dir, client, peer),
        });
        command.args(&options.flags);
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("ETCD_")) {
            command.env_remove(name);
        }
        command.envs(options.env.iter().cloned());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("starting {}", kind.name()))?;
        let stderr = child.stderr.take().expect("stderr was piped");
        let tail = Arc::new(Mutex::new(VecDeque::new()));
        let file = options.log.as_ref().map(|path| fs::OpenOptions::new().create(true).append(true).open(path));
        let ready = watch_log(stderr, Arc::clone(&tail), file.transpose()?);
        Ok(Self { kind, client, peer, data_dir, child, tail, ready, _folder: folder })
    }

    /// Where gRPC and HTTP are served.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.client)
    }

    /// Process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The last lines it logged.
    #[must_use]
    pub fn log(&self) -> String {
        let tail = self.tail.lock().expect("the log reader does not panic while it holds the lock");
        tail.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }

    /// Ends it without warning, as a power cut would end its process.
    ///
    /// # Errors
    /// If it cannot be waited for.
    pub fn kill(&mut self) -> Result<()> {
        if self.child.try_wait()?.is_none() {
            self.child.kill()?;
        }
        self.child.wait()?;
        Ok(())
    }

    /// How it ended, if it did.
    ///
    /// # Errors
    /// If it cannot be asked.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Stops it in its tracks, or lets it go on.
    ///
    /// # Errors
    /// If it is gone.
    pub fn pause(&self, paused: bool) -> Result<()> {
        kill_process(Pid::from_child(&self.child), if paused { Signal::STOP } else { Signal::CONT })?;
        Ok(())
    }

    /// Asks it to end, and waits.
    ///
    /// # Errors
    /// If it does not end within the bound.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::TERM)?;
        wait_for_end(&mut self.child, STOP_TIMEOUT)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The process must go whatever the test did; what fails here fails because it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How a program ended that was expected to end by itself.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

/// Runs a command to its end, which must come within the bound for a stop.
///
/// # Errors
/// If it does not end in time; it is killed then.
pub fn run_to_end(mut command: Command) -> Result<Ended> {
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("ETCD_")) {
        command.env_remove(name);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("{command:?}"))?;
    let stdout = read_all(child.stdout.take().expect("piped"));
    let stderr = read_all(child.stderr.take().expect("piped"));
    let status = wait_for_end(&mut child, STOP_TIMEOUT);
    let text = |reader: thread::JoinHandle<String>| reader.join().expect("a reader does not panic");
    let (stdout, stderr) = (text(stdout), text(stderr));
    let status = status.with_context(|| format!("{command:?}\n{stderr}"))?;
    Ok(Ended { status, stdout, stderr })
}

fn read_all(mut from: impl std::io::Read + Send + 'static) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = from.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Waits for a child's end without a loop of naps: a thread of its own may block on the pid.
///
/// # Errors
/// If it does not end in time; it is killed then.
pub fn wait_for_end(child: &mut Child, timeout: Duration) -> Result<ExitStatus> {
    let pid = Pid::from_child(child);
    let (done, ended) = mpsc::channel();
    let waiter = thread::spawn(move || {
        // WNOWAIT leaves the status for the owner of the child to collect.
        let options = rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOWAIT;
        let _ = rustix::process::waitid(rustix::process::WaitId::Pid(pid), options);
        let _ = done.send(());
    });
    let in_time = ended.recv_timeout(timeout).is_ok();
    if !in_time {
        child.kill()?;
    }
    let _ = waiter.join();
    let status = child.wait()?;
    if !in_time {
        bail!("process {} did not end within {timeout:?}", child.id());
    }
    Ok(status)
}

/// The flags that every server here is given: one member of a new cluster on loopback.
#[must_use]
pub fn basic_flags(data_dir: &Path, client: SocketAddr, peer: SocketAddr) -> Vec<String> {
    let alone = Role { name: "default".to_owned(), initial: format!("default=http://{peer}"), advertise: peer };
    alone.flags(data_dir, client, peer)
}

impl Role {
    /// The flags of a server with this part.
    #[must_use]
    pub fn flags(&self, data_dir: &Path, client: SocketAddr, peer: SocketAddr) -> Vec<String> {
        let mut flags = vec![
            format!("--data-dir={}", data_dir.display()),
            format!("--listen-client-urls=http://{client}"),
            format!("--advertise-client-urls=http://{client}"),
            format!("--listen-peer-urls=http://{peer}"),
            format!("--initial-advertise-peer-urls=http://{}", self.advertise),
            format!("--initial-cluster={}", self.initial),
        ];
        // etcd says a word about its default name; a server that is alone keeps it.
        if self.name != "default" {
            flags.push(format!("--name={}", self.name));
        }
        flags
    }
}

/// Two ports that nobody listens on. Both are held until both are known, so that they differ.
///
/// # Errors
/// If the OS has none left.
pub fn free_ports() -> Result<(SocketAddr, SocketAddr)> {
    let first = TcpListener::bind("127.0.0.1:0")?;
    let second = TcpListener::bind("127.0.0.1:0")?;
    Ok((first.local_addr()?, second.local_addr()?))
}

/// Reads the log to its end so that the server never blocks on it; tells once when it is ready.
fn watch_log(
    stderr: impl std::io::Read + Send + 'static,
    tail: Arc<Mutex<VecDeque<String>>>,
    mut file: Option<fs::File>,
) -> mpsc::Receiver<()> {
    let (ready, told) = mpsc::channel();
    thread::spawn(move || {
        let mut ready = Some(ready);
        for line in BufReader::new(stderr).split(b'\n') {
            let Ok(line) = line else { break };
            let line = String::from_utf8_lossy(&line).into_owned();
            if let Some(file) = &mut file {
                // A log that cannot be kept is no reason to stop reading it.
                let _ = writeln!(file, "{line}");
            }
            if line.contains(READY)
                && let Some(ready) = ready.take()
            {
                let _ = ready.send(());
            }
            let mut tail = tail.lock().expect("readers of the tail do not panic while they hold it");
            if tail.len() == LOG_TAIL {
                tail.pop_front();
            }
            tail.push_back(line);
        }
    });
    told
}

/// The repository's root.
#[must_use]
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate stands in the root's folder")
}

/// The folder of the real `etcd`, `etcdctl` and `etcdutl`, built once into the user's cache.
///
/// # Errors
/// If they cannot be built; a test must fail then, for without its oracle it shows nothing.
pub fn peers() -> Result<PathBuf> {
    static PEERS: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let built = PEERS.get_or_init(|| script("scripts/peers.sh").map_err(|e| format!("{e:#}")));
    built.clone().map_err(anyhow::Error::msg)
}

/// The `conclave` executable: `CONCLAVE_BIN`, or what cargo builds from this tree.
///
/// Built here rather than found, so that a test can never judge a stale binary.
fn conclave() -> Result<PathBuf> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let built = BUILT.get_or_init(|| build_conclave().map_err(|e| format!("{e:#}")));
    built.clone().map_err(anyhow::Error::msg)
}

fn build_conclave() -> Result<PathBuf> {
    if let Some(given) = std::env::var_os("CONCLAVE_BIN") {
        return Ok(PathBuf::from(given));
    }
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root()).args(["build", "--quiet", "-p", "conclave-server", "--bin", "conclave"]);
    let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
    if profile == "release" {
        command.arg("--release");
    }
    let status = command.status().context("running cargo")?;
    if !status.success() {
        bail!("conclave does not build ({status})");
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |dir| root().join(dir));
    Ok(target.join(profile).join("conclave"))
}

fn script(path: &str) -> Result<PathBuf> {
    let output = Command::new(root().join(path)).stderr(Stdio::inherit()).output().with_context(|| path.to_owned())?;
    if !output.status.success() {
        bail!("{path} failed ({})", output.status);
    }
    Ok(PathBuf::from(String::from_utf8(output.stdout)?.trim()))
}

/// Says that a test cannot run here. Written past the test runner's capture, and to the list that `.ci/run` checks.
pub fn skip(reason: &str) {
    let line = format!("skipped: {reason}\n");
    let _ = std::io::stderr().write_all(line.as_bytes());
    if let Some(list) = std::env::var_os("CONCLAVE_SKIPS") {
        let written = fs::OpenOptions::new().create(true).append(true).open(&list);
        written.and_then(|mut file| file.write_all(line.as_bytes())).expect("the list of skips can be written");
    }
}
