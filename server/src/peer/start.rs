//! The thread and the runtime of it all, and what its tasks share.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    io,
    net::{TcpListener, TcpStream},
    rc::Rc,
    sync::{Arc, OnceLock},
    thread::JoinHandle,
    time::Duration,
};

use tokio::{
    runtime,
    sync::{Notify, watch},
    task::LocalSet,
};

use super::{
    accept, archive, dial,
    gate::{Gate, Greeted, Greetings},
    hello::{Me, Purpose, Refusal},
};
use crate::{
    node::{self, Lane, Transport, datadir::KnownPeers, log::RealIo},
    types::MemberId,
};

/// How long the two ends of a new connection may take to agree.
pub(super) const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a connection pings and looks whether something was heard: several times within the shortest silence that is
/// taken for a dead connection.
pub(super) const LOOK: Duration = Duration::from_millis(250);
/// Shortest silence that is taken for one, whatever the election timeout: a busy machine is silent for as long.
const LEAST_SILENCE: Duration = Duration::from_secs(1);

/// Times that depend on the configuration.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    pub election: Duration,
    /// How long nothing may come in before a connection is closed (`--raft-read-timeout`).
    pub read: Duration,
    /// How long nothing that was sent may show that it arrived (`--raft-write-timeout`).
    pub write: Duration,
}

impl Timing {
    pub(super) fn receive_silence(&self) -> Duration {
        self.read
    }

    /// On the control lane raft has given up on the member after two election timeouts. When the network comes back, a
    /// new connection is quicker than one whose retransmissions have slowed down.
    pub(super) fn send_silence(&self, lane: Lane) -> Duration {
        match lane {
            Lane::Control => (2 * self.election).max(LEAST_SILENCE).min(self.write),
            Lane::Append => self.write,
        }
    }
}

/// What the room is made of.
#[derive(Debug)]
pub struct PeersConfig {
    pub me: Me,
    /// The other members, and where they are reached.
    pub others: BTreeMap<MemberId, Vec<String>>,
    pub timing: Timing,
}

/// Takes a connection that speaks HTTP.
pub(super) type HandOver = Box<dyn Fn(TcpStream) + Send + Sync>;

/// What the tasks of the thread share.
pub(super) struct Shell {
    pub(super) gate: Gate<RealIo>,
    pub(super) transport: Transport,
    pub(super) timing: Timing,
    pub(super) http: Arc<OnceLock<HandOver>>,
    pub(super) turns: Turns,
    greetings: RefCell<Greetings>,
    greeted: watch::Sender<Greeted>,
    kicks: BTreeMap<MemberId, [Notify; 2]>,
    /// What was last said about members that were refused, so that each thing is said once.
    said: RefCell<BTreeMap<MemberId, Refusal>>,
}

/// Members that may be remembered as refused: an id is whatever a stranger says.
const MAX_SAID: usize = 64;

impl Shell {
    /// A member let this one in.
    pub(super) fn accepted(&self, by: MemberId) {
        self.greetings.borrow_mut().accepted(by);
        self.tell();
    }

    /// A member knows this one under another incarnation.
    pub(super) fn emptied(&self, by: MemberId, known: u64) {
        self.greetings.borrow_mut().emptied(by, known);
        self.tell();
    }

    fn tell(&self) {
        let now = self.greetings.borrow().state().clone();
        self.greeted.send_if_modified(|before| {
            let changed = *before != now;
            *before = now;
            changed
        });
    }

    /// Lets the dialers of a member try at once.
    pub(super) fn kick(&self, member: MemberId) {
        if let Some(lanes) = self.kicks.get(&member) {
            lanes.iter().for_each(Notify::notify_waiters);
        }
    }

    pub(super) async fn kicked(&self, member: MemberId, lane: Lane) {
        match self.kicks.get(&member) {
            Some(lanes) => lanes[lane as usize].notified().await,
            None => std::future::pending().await,
        }
    }

    pub(super) fn say_refused(&self, member: MemberId, refusal: Refusal) {
        let mut said = self.said.borrow_mut();
        if said.get(&member) == Some(&refusal) || (said.len() >= MAX_SAID && !said.contains_key(&member)) {
            return;
        }
        said.insert(member, refusal);
        let member = format_args!("{:x}", member.0);
        tracing::warn!(target: "conclave", %member, why = refusal.text(), "refused a connection from a member");
    }
}

/// One connection of each purpose for each member: the newest.
#[derive(Default)]
pub(super) struct Turns(RefCell<BTreeMap<(MemberId, Purpose), Rc<Notify>>>);

/// A connection's turn; over when a newer one takes it.
pub(super) struct Turn(Rc<Notify>);

impl Turns {
    pub(super) fn take(&self, member: MemberId, purpose: Purpose) -> Turn {
        let mine = Rc::new(Notify::new());
        if let Some(before) = self.0.borrow_mut().insert((member, purpose), Rc::clone(&mine)) {
            before.notify_one();
        }
        Turn(mine)
    }
}

impl Turn {
    pub(super) async fn over(&self) {
        self.0.notified().await;
    }
}

/// The running room.
pub struct Peers {
    thread: JoinHandle<()>,
    stop: watch::Sender<bool>,
    greeted: watch::Receiver<Greeted>,
    http: Arc<OnceLock<HandOver>>,
}

impl Peers {
    /// Begins to listen and to dial.
    ///
    /// # Errors
    /// If the thread, its runtime or its listeners cannot be made.
    pub fn start(
        config: PeersConfig,
        listeners: Vec<TcpListener>,
        transport: Transport,
        known: KnownPeers<RealIo>,
    ) -> io::Result<Self> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let others: BTreeSet<_> = config.others.keys().copied().collect();
        let greetings = Greetings::new(others.clone());
        let (greeted, watching) = watch::channel(greetings.state().clone());
        let (stop, mut stopped) = watch::channel(false);
        let http = Arc::new(OnceLock::new());
        let handed_on = Arc::clone(&http);
        let thread = node::spawn("peer", move || {
            let shell = Rc::new(Shell {
                gate: Gate::new(config.me, others.clone(), known),
                transport,
                timing: config.timing,
                http: handed_on,
                turns: Turns::default(),
                greetings: RefCell::new(greetings),
                greeted,
                kicks: others.iter().map(|member| (*member, Default::default())).collect(),
                said: RefCell::default(),
            });
            LocalSet::new().block_on(&runtime, async move {
                for listener in listeners {
                    match tokio::net::TcpListener::from_std(listener) {
                        Ok(listener) => drop(tokio::task::spawn_local(accept::accept(listener, Rc::clone(&shell)))),
                        Err(error) => tracing::error!(target: "conclave", %error, "cannot listen for members"),
                    }
                }
                let targets = config.others.into_iter().map(|(member, urls)| dial::Target { member, urls });
                let targets: Rc<Vec<_>> = Rc::new(targets.collect());
                for target in targets.iter() {
                    for lane in Lane::ALL {
                        tokio::task::spawn_local(dial::dial(Rc::clone(&shell), target.clone(), lane));
                    }
                }
                if let Some(opened) = shell.transport.opened_pipes() {
                    tokio::task::spawn_local(archive::connect_all(Rc::clone(&shell), opened, targets));
                }
                // An error means that nobody is left who could ask for the end.
                let _ = stopped.wait_for(|stop| *stop).await;
            });
        })?;
        Ok(Self { thread, stop, greeted: watching, http })
    }

    /// What the other members said to this one's folder, and each change of it.
    #[must_use]
    pub fn greeted(&self) -> watch::Receiver<Greeted> {
        self.greeted.clone()
    }

    /// Who serves the connections on the peer port that speak HTTP. Before this is said, they are closed.
    pub fn serve_http(&self, hand_over: impl Fn(TcpStream) + Send + Sync + 'static) {
        // The second time is nobody's.
        let _ = self.http.set(Box::new(hand_over));
    }

    /// Closes everything. What waits in outboxes is lost.
    pub fn stop(self) {
        self.stop.send_replace(true);
        self.thread.join().expect("a thread that panics stops the process");
    }
}
