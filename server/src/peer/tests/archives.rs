//! Three whole members on real disks and sockets: one that was away while the others cut their logs comes back.

use std::{
    net::{SocketAddr, TcpListener},
    path::Path,
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

use bytes::Bytes;
use conclave_proto::{
    conclave::raft::v1::{Compact, command},
    etcdserverpb::PutRequest,
};

use crate::{
    engine::EngineOptions,
    mvcc,
    node::{Handle, InitialMember, KeepLog, Node, NodeConfig},
    peer::{Greeted, Me, Peers, PeersConfig, Timing},
    state,
    types::{LogIndex, Revision},
};

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

struct Running {
    node: Node,
    peers: Peers,
}

fn config(folder: &Path, name: &str, addresses: &[SocketAddr]) -> NodeConfig {
    let engine = EngineOptions { block_cache_bytes: 8 << 20, memtable_bytes: 8 << 20, max_open_files: 64 };
    let initial = addresses.iter().zip(["a", "b", "c"]);
    let initial = initial
        .map(|(address, name)| InitialMember { name: name.to_owned(), peer_urls: vec![format!("http://{address}")] });
    NodeConfig {
        initial: Ok(initial.collect()),
        // Small, so that a hundred requests fill several segments, and all but the last few entries may go.
        log_segment_bytes: 256 << 10,
        max_request_bytes: 100 << 10,
        keep_log: KeepLog { entries: 5, follower_entries: 5, bytes: 64 << 20 },
        ..NodeConfig::sole(folder.join(name), name, "", "http://127.0.0.1:2379", engine)
    }
}

/// Starts one member; its first start waits for the others, so that needs a thread for each.
fn start(config: NodeConfig, listener: &TcpListener) -> Running {
    let prepared = Node::prepare(config).unwrap();
    let identity = prepared.identity();
    let me = Me {
        cluster: identity.cluster,
        member: identity.member,
        incarnation: identity.incarnation,
        level: state::LEVEL,
    };
    let others = prepared.members().into_iter().filter(|member| member.id != me.member);
    let patient = Duration::from_secs(5);
    let config = PeersConfig {
        me,
        others: others.map(|member| (member.id, member.peer_urls)).collect(),
        timing: Timing { election: Duration::from_secs(1), read: patient, write: patient },
    };
    let listener = listener.try_clone().unwrap();
    listener.set_nonblocking(true).unwrap();
    let peers = Peers::start(config, vec![listener], prepared.transport(), prepared.known_peers().unwrap()).unwrap();
    if prepared.must_greet() {
        let mut greeted = peers.greeted();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { greeted.wait_for(|now| *now == Greeted::All).await.map(drop) }).unwrap();
    }
    Running { node: prepared.start().unwrap(), peers }
}

impl Running {
    fn stop(self) {
        // Transfers under way hold the store until their connections end.
        self.peers.stop();
        self.node.stop();
    }

    fn on_runtime<R: Send>(&self, work: impl AsyncFnOnce(Handle) -> R + Send) -> R {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { work(self.node.handle()).await })
    }

    /// Puts values of 40 kB, and compacts, which makes everything durable soon.
    fn write(&self, round: u8) {
        self.on_runtime(async |handle: Handle| {
            let mut revision = 0;
            for number in 0..60_u8 {
                let put = PutRequest {
                    key: Bytes::from(format!("key{number}")),
                    value: Bytes::from(vec![round; 40_000]),
                    ..PutRequest::default()
                };
                revision = handle.propose(command::Kind::Put(put), Bytes::new()).await.unwrap().revision.0;
            }
            let compact = command::Kind::Compact(Compact { revision: revision - 5 });
            handle.propose(compact, Bytes::new()).await.unwrap();
        });
    }

    fn applied(&self) -> LogIndex {
        self.node.status().applied
    }

    /// The hash of all keys at the newest revision, and that revision.
    fn hash(&self) -> (Revision, u32) {
        self.on_runtime(async |handle: Handle| {
            let view = handle.linearizable().await.unwrap();
            let hash = mvcc::hash_kv(&view.view, view.position, Revision(0)).unwrap();
            (view.position.revision, hash.hash)
        })
    }
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < PATIENCE, "{what} did not come");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

#[test]
fn a_member_behind_a_cut_log_gets_the_state() {
    let folder = tempfile::tempdir().unwrap();
    let listeners: Vec<_> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let addresses: Vec<_> = listeners.iter().map(|listener| listener.local_addr().unwrap()).collect();
    let config = |name: &str| config(folder.path(), name, &addresses);
    let [a, b, mut c] = std::thread::scope(|scope| {
        let begin = |place: usize, name: &'static str| {
            scope.spawn({
                let (config, listener) = (config(name), &listeners[place]);
                move || start(config, listener)
            })
        };
        [begin(0, "a"), begin(1, "b"), begin(2, "c")].map(|thread| thread.join().unwrap())
    });
    a.write(1);
    until("the third member", || c.applied() == a.applied());
    // How soon the others cut their logs is up to their reclaim threads: it stays away until they have.
    let mut round = 1;
    while c.node.stats().archives_installed.load(Relaxed) == 0 {
        round += 1;
        assert!(round < 20, "the log was never cut");
        c.stop();
        let flushes = |member: &Running| member.node.stats().flushes.read().0.iter().sum::<u64>();
        let before = (flushes(&a), flushes(&b));
        a.write(round);
        until("a flush", || flushes(&a) > before.0 && flushes(&b) > before.1);
        a.write(round + 100);
        c = start(config("c"), &listeners[2]);
        // Writes go on while it catches up.
        b.write(round + 200);
        until("catching up", || c.applied() >= a.applied() && c.applied() >= b.applied());
    }
    assert_eq!(c.hash(), a.hash());
    // It serves, and goes on as any other.
    c.write(99);
    until("the others", || a.applied() == c.applied() && b.applied() == c.applied());
    assert_eq!(a.hash(), c.hash());
    assert_eq!(b.hash(), c.hash());
    assert!(std::fs::read_dir(folder.path().join("c/archive")).unwrap().next().is_none(), "nothing is left over");
    // And after a restart.
    c.stop();
    let c = start(config("c"), &listeners[2]);
    assert_eq!(a.hash(), c.hash());
    [a, b, c].into_iter().for_each(Running::stop);
}
