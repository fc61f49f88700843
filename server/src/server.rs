//! The composition root: from a start line to a member that serves, and back down in order.
//!
//! Config, then sockets (a port that is taken must stop the start before anything is written), then the member's disk,
//! then the other members (a first start asks them whether it may), then the node, then one runtime per core with its
//! services, then accepting. Down: nothing new is accepted, streams are told to end, calls under way finish, the node
//! stops and makes everything durable, and the connections to the other members end last.
//!
//! *Invariants*
//! - Exit 0 only after a stop that was asked for; 1 when the member cannot start; 2 with the usage when the start line
//!   cannot be read; 78 when it must not run with the data that it was given. Each but 0 and 2 with a line of JSON on
//!   standard error and in the termination log ([`failure`]).
//! - Every connection runs on one thread for all its life ([`worker`]), and there are at most `--max-connections`.
//! - Nothing outside this room names a socket.
//!
//! *Life of a connection*: [`listen`] accepts it on the front runtime (the main thread) and hands it to the [`worker`]
//! that has the fewest; [`connection`] finds out what it speaks and serves it with that worker's services.
//!
//! *Not here*: what is served (`api`, `http`); the node's own threads.

mod connection;
mod failure;
mod listen;
mod logging;
mod members;
mod notify;
mod services;
mod worker;

use std::{net::TcpListener, process::ExitCode, sync::Arc, thread, time::Duration};

use tokio::{
    runtime,
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
    task::LocalSet,
};

use crate::{
    api::{ETCD_VERSION, Signals},
    config::{self, Asked, Config, StartError, Url},
    node::{Handle, Node},
    peer::Peers,
};
use connection::Settings;
use failure::Failure;
use listen::Places;
use services::{Services, node_config};
use worker::Workers;

/// etcd cancels streams that insist on a leader after so many election timeouts without one (`maxNoLeaderCnt`).
const LOST_AFTER: u32 = 3;

/// Most connections for metrics and from other members: scrapers, probes and members are few.
const OTHER_CONNECTIONS: usize = 1024;

/// How often it is looked whether a member that starts knows a leader yet. A sole voter needs a few of these.
const READY_LOOK: Duration = Duration::from_millis(10);

/// Runs the program.
#[must_use]
pub fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).peekable();
    match arguments.peek().map(String::as_str) {
        Some("completion") => return completion(arguments.nth(1)),
        Some(other @ ("gateway" | "grpc-proxy")) => {
            eprintln!("conclave {other} is not available in this version");
            return ExitCode::FAILURE;
        }
        _ => {}
    }
    // Names and values that are not UTF-8 can be no flag's.
    let environment =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    match config::read(arguments, environment) {
        Ok(Asked::Help) => print(&config::help()),
        Ok(Asked::Version) => print(&config::version(ETCD_VERSION)),
        Ok(Asked::Serve(config)) => serve(*config),
        Err(StartError { text, usage: true }) => {
            eprintln!("{text}\n{}", config::usage());
            ExitCode::from(2)
        }
        Err(StartError { text, usage: false }) => {
            eprintln!("conclave: {text}");
            ExitCode::FAILURE
        }
    }
}

fn completion(shell: Option<String>) -> ExitCode {
    if let Some(script) = shell.as_deref().and_then(config::completion) {
        return print(&script);
    }
    eprintln!("Usage:\n\n  conclave completion bash|zsh|fish");
    ExitCode::from(2)
}

fn print(text: &str) -> ExitCode {
    use std::io::Write;
    // A reader that closed the pipe has seen enough.
    let _ = std::io::stdout().write_all(text.as_bytes());
    ExitCode::SUCCESS
}

fn serve(config: Config) -> ExitCode {
    logging::start(config.log);
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        etcd_version = ETCD_VERSION,
        name = config.name,
        data_dir = %config.data_dir.display(),
        "starting a member"
    );
    for note in &config.notes {
        let (name, value) = &note.about;
        if note.warning {
            tracing::warn!(about = name, value, "{}", note.message);
        } else {
            tracing::info!(about = name, value, "{}", note.message);
        }
    }
    let termination_log = config.termination_log.clone();
    let ran = Server::start(config).and_then(|server| match server {
        Some(server) => server.run(),
        None => Ok(()),
    });
    match ran {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            why.tell(&termination_log);
            // Without ceremony: threads may still run, and what C++ libraries have for an exit would run under them.
            signal_hook::low_level::exit(why.code)
        }
    }
}

/// Sockets that are bound and not accepted from yet.
struct Sockets {
    client: Vec<TcpListener>,
    peer: Vec<TcpListener>,
    metrics: Vec<TcpListener>,
}

impl Sockets {
    fn bind(config: &Config) -> Result<Self, String> {
        let bind = |urls: &[Url], flag: &str| {
            urls.iter().map(|url| listen::bind(url, flag, config.reuse_port)).collect::<Result<Vec<_>, _>>()
        };
        Ok(Self {
            client: bind(&config.listen_client, "listen-client-urls")?,
            peer: bind(&config.listen_peer, "listen-peer-urls")?,
            metrics: bind(&config.listen_metrics, "listen-metrics-urls")?,
        })
    }
}

/// A member with everything that serves it, before the first connection.
struct Server {
    config: Config,
    sockets: Sockets,
    /// Runs what is not a worker's: signals, accepting, waiting.
    front: runtime::Runtime,
    ends: Ends,
    peers: Peers,
    node: Node,
    signals: Signals,
    leader_lost: watch::Sender<bool>,
    stopping: watch::Sender<bool>,
}

impl Server {
    /// None: somebody asked for the end before the member ran.
    fn start(config: Config) -> Result<Option<Self>, Failure> {
        let mut sockets = Sockets::bind(&config)?;
        let front = runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| format!("cannot start a runtime: {error}"))?;
        let mut ends = front.block_on(async { Ends::new() })?;
        let prepared = Node::prepare(node_config(&config))?;
        let peers = members::start(&config, std::mem::take(&mut sockets.peer), &prepared)?;
        if prepared.must_greet() && !front.block_on(members::greet(&peers, &mut ends))? {
            peers.stop();
            return Ok(None);
        }
        let node = prepared.start()?;
        let (leader_lost, lost) = watch::channel(false);
        let (stopping, stop) = watch::channel(false);
        let signals = Signals { leader_lost: lost, stopping: stop };
        Ok(Some(Self { config, sockets, front, ends, peers, node, signals, leader_lost, stopping }))
    }

    /// Serves until a signal asks for the end.
    fn run(self) -> Result<(), Failure> {
        let threads = match self.config.api_threads {
            0 => thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        };
        let services = Services::new(&self.config, threads, self.signals.clone())?;
        let settings = Settings {
            max_concurrent_streams: self.config.max_concurrent_streams,
            keepalive_interval: self.config.keepalive_interval,
            keepalive_timeout: self.config.keepalive_timeout,
        };
        let stopping = self.signals.stopping.clone();
        let mut joins = Vec::new();
        let mut start = |name, makers| -> Result<Arc<Workers>, String> {
            let (workers, threads) =
                Workers::start(name, makers, &self.node, settings, &stopping).map_err(thread_failed)?;
            joins.extend(threads);
            Ok(Arc::new(workers))
        };
        let clients = start("api", services.for_clients())?;
        // Probes and other members' questions have a thread of their own, so that they are answered even when clients
        // keep all the others busy.
        let metrics = start("probe", services.for_metrics())?;
        let others = start("peer-http", services.for_peers())?;
        let places = Places::new(OTHER_CONNECTIONS);
        self.peers.serve_http(move |stream| others.take_in(stream, &places));
        let doors = [
            Door { listeners: self.sockets.client, workers: clients, places: Places::new(self.config.max_connections) },
            Door { listeners: self.sockets.metrics, workers: metrics, places: Places::new(OTHER_CONNECTIONS) },
        ];
        let front = self.front;
        let (node, config, stop) = (&self.node, &self.config, self.signals.stopping.clone());
        let (leader_lost, peers, mut ends) = (self.leader_lost, &self.peers, self.ends);
        front.block_on(LocalSet::new().run_until(async {
            let handle = node.handle();
            tokio::task::spawn_local(watch_leader(handle.clone(), config.election_timeout, leader_lost));
            tokio::task::spawn_local(say_when_ready(handle, config.advertise_client.clone()));
            doors.into_iter().for_each(|door| door.open(&stop));
            tokio::select! {
                signal = ends.next() => {
                    tracing::info!(signal, "stopping");
                    Ok(())
                }
                failure = members::emptied(peers) => Err(failure),
            }
        }))?;
        shut_down(front, self.node, self.peers, self.stopping, joins, ends)
    }
}

/// Takes the member down, from the clients inwards; a second signal does not wait for it. A leader lets another member
/// lead first, while its clients are still served: they notice nothing but a moment's wait.
fn shut_down(
    front: runtime::Runtime,
    node: Node,
    peers: Peers,
    stopping: watch::Sender<bool>,
    workers: Vec<thread::JoinHandle<()>>,
    mut ends: Ends,
) -> Result<(), Failure> {
    let stopped = thread::spawn(move || {
        node.hand_over();
        stopping.send_replace(true);
        let panicked = workers.into_iter().filter_map(|worker| worker.join().err()).count();
        node.stop();
        // What the node sent last was queued; the others learn nothing by an end that comes sooner.
        peers.stop();
        if panicked == 0 { Ok(()) } else { Err("a thread that serves clients panicked".to_owned()) }
    });
    front.block_on(async move {
        tokio::select! {
            outcome = tokio::task::spawn_blocking(|| stopped.join()) => match outcome {
                Ok(Ok(outcome)) => outcome,
                _ => Err("stopping panicked".to_owned()),
            },
            signal = ends.next() => {
                tracing::warn!(signal, "asked to end a second time, not waiting any longer");
                // What was acknowledged is on disk, so an end without ceremony loses nothing; an exit would run
                // what libraries have for it, under threads that still use them.
                let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
                Err("killed".to_owned())
            }
        }
    })?;
    tracing::info!("stopped");
    Ok(())
}

/// Sockets, and who serves what comes in through them.
struct Door {
    listeners: Vec<TcpListener>,
    workers: Arc<Workers>,
    places: Arc<Places>,
}

impl Door {
    fn open(self, stop: &watch::Receiver<bool>) {
        for listener in self.listeners {
            let accepting = listen::accept(listener, Arc::clone(&self.workers), Arc::clone(&self.places), stop.clone());
            tokio::task::spawn_local(async move {
                if let Err(error) = accepting.await {
                    tracing::error!(error = %error, "stopped accepting connections");
                }
            });
        }
    }
}

fn thread_failed(error: std::io::Error) -> String {
    format!("cannot start a thread: {error}")
}

/// The signals that ask for an end. A second one does not wait for anything.
struct Ends {
    terminate: Signal,
    interrupt: Signal,
}

impl Ends {
    fn new() -> Result<Self, String> {
        let listen = |kind| signal(kind).map_err(|error| format!("cannot listen for signals: {error}"));
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "terminated",
            _ = self.interrupt.recv() => "interrupt",
        }
    }
}

/// Tells streams that insist on a leader when there has been none for long.
async fn watch_leader(handle: Handle, election_timeout: Duration, lost: watch::Sender<bool>) {
    let mut without = 0;
    loop {
        tokio::time::sleep(election_timeout).await;
        without = if handle.status().leader.is_none() { without + 1 } else { 0 };
        let is_lost = without >= LOST_AFTER;
        lost.send_if_modified(|lost| std::mem::replace(lost, is_lost) != is_lost);
    }
}

/// Says that clients are welcome once requests can be answered; tools wait for this line.
async fn say_when_ready(handle: Handle, urls: Vec<Url>) {
    while handle.status().leader.is_none() {
        tokio::time::sleep(READY_LOOK).await;
    }
    let urls: Vec<String> = urls.iter().map(Url::to_string).collect();
    tracing::info!(advertise_client_urls = urls.join(","), "ready to serve client requests");
    notify::ready();
}
