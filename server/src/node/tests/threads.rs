//! A whole member on a real disk: threads, runtimes, RocksDB.

use std::{path::Path, thread, time::Duration};

use bytes::Bytes;
use conclave_proto::{
    conclave::raft::v1::{Compact, LeaseGrant, LeaseRevoke, command},
    etcdserverpb::PutRequest,
};
use tokio::{task::JoinSet, time::Interval};

use crate::{
    engine::EngineOptions,
    error::Error,
    lease, members, mvcc,
    node::{EXIT_IDENTITY, Handle, LeaseTime, Mode, Node, NodeConfig, StartError, datadir::DataDirError},
    state::Reply,
    types::{ClusterId, LeaseId, MemberId, Revision},
    watch::{Create, Input, Outbox},
};

const RUNTIMES: u64 = 4;
/// Handlers of one runtime that propose at once.
const CLIENTS: u64 = 64;
const PUTS: u64 = 2_500;

fn config(dir: &Path) -> NodeConfig {
    let engine = EngineOptions { block_cache_bytes: 16 << 20, memtable_bytes: 16 << 20, max_open_files: 64 };
    let mut config =
        NodeConfig::sole(dir.join("data"), "one", "http://127.0.0.1:2380", "http://127.0.0.1:2379", engine);
    // Several segments are used and cut.
    config.log_segment_bytes = 4 << 20;
    config
}

fn start(dir: &Path) -> Node {
    Node::start(config(dir)).unwrap()
}

/// How often a condition that only time brings about is looked at.
fn looks() -> Interval {
    tokio::time::interval(Duration::from_millis(5))
}

/// Runs on a runtime of its own, as an api thread does.
fn on_runtime<R: Send>(node: &Node, work: impl AsyncFnOnce(Handle) -> R + Send) -> R {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { work(node.handle()).await })
}

fn put(key: &str, value: &str) -> command::Kind {
    let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    command::Kind::Put(PutRequest { key: bytes(key), value: bytes(value), ..PutRequest::default() })
}

async fn put_many(handle: Handle, runtime: u64) {
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let handle = handle.clone();
        clients.spawn(async move {
            let mut last = Revision(0);
            for n in (client..PUTS).step_by(CLIENTS as usize) {
                let key = format!("{runtime}/{n:05}");
                let answer = handle.propose(put(&key, &format!("value of {key}")), Bytes::new()).await.unwrap();
                assert!(matches!(answer.reply, Reply::Put(_)));
                assert!(answer.revision > last, "one client's writes are in order");
                last = answer.revision;
                // What was answered can be read.
                let view = handle.linearizable().await.unwrap();
                assert!(view.position.revision >= answer.revision);
                assert!(mvcc::get(&view.view, key.as_bytes()).is_some());
            }
        });
    }
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
}

fn check_all(node: &Node) {
    let view = on_runtime(node, async |handle: Handle| handle.linearizable().await.unwrap());
    assert_eq!(view.position.revision, Revision(1 + (RUNTIMES * PUTS) as i64));
    for runtime in 0..RUNTIMES {
        for n in 0..PUTS {
            let key = format!("{runtime}/{n:05}");
            let found = mvcc::get(&view.view, key.as_bytes()).unwrap();
            assert_eq!(found.value, format!("value of {key}"));
        }
    }
}

#[test]
fn ten_thousand_puts_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let node = start(dir.path());
    thread::scope(|scope| {
        for runtime in 0..RUNTIMES {
            let node = &node;
            scope.spawn(move || on_runtime(node, async |handle| put_many(handle, runtime).await));
        }
    });
    check_all(&node);
    let syncs: u64 = node.stats().log_syncs.read().0.iter().sum();
    assert!(syncs < RUNTIMES * PUTS / 4, "{syncs} syncs: proposals do not share them");
    let applied = node.status().applied;
    node.stop();

    let node = start(dir.path());
    assert!(node.status().applied >= applied, "a clean stop leaves nothing to apply again");
    check_all(&node);
    node.stop();
}

/// What a power cut leaves of a member that was answering a moment ago: the log is synced, the store is not flushed.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

#[test]
fn what_was_answered_is_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let node = start(dir.path());
    let puts = async |handle: Handle, keys: std::ops::Range<u32>| {
        for n in keys {
            handle.propose(put(&format!("{n}"), "x"), Bytes::new()).await.unwrap();
        }
    };
    on_runtime(&node, async |handle| puts(handle, 0..100).await);
    let crashed = tempfile::tempdir().unwrap();
    copy(&dir.path().join("data"), &crashed.path().join("data"));
    node.stop();

    // Twice: the second start finds a flushed store below the end of the log, or none at all.
    for life in 1..=2_u32 {
        let node = start(crashed.path());
        on_runtime(&node, async |handle: Handle| {
            let view = handle.linearizable().await.unwrap();
            assert_eq!(view.position.revision, Revision(1 + i64::from(100 * life)));
            for n in 0..100 * life {
                assert!(mvcc::get(&view.view, format!("{n}").as_bytes()).is_some(), "key {n} is lost");
            }
            puts(handle, 100 * life..100 * (life + 1)).await;
        });
        node.stop();
    }
}

#[test]
fn a_member_publishes_itself() {
    let dir = tempfile::tempdir().unwrap();
    let node = start(dir.path());
    let status = node.status();
    on_runtime(&node, async |handle: Handle| {
        let mut look = looks();
        loop {
            let known = members::get(&handle.read_view().view, status.member).unwrap();
            if known.name == "one" {
                assert_eq!(known.client_urls, ["http://127.0.0.1:2379"]);
                return;
            }
            look.tick().await;
        }
    });
    node.stop();
    // The identity is kept, whatever the settings of a later start are.
    let mut other = config(dir.path());
    other.initial = Err("nobody looks at it".to_owned());
    let node = Node::start(other).unwrap();
    assert_eq!((node.status().member, node.status().cluster), (status.member, status.cluster));
    node.stop();
}

#[test]
fn a_second_process_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let node = start(dir.path());
    let second = Node::start(config(dir.path())).map(|_| ());
    assert!(matches!(second, Err(StartError::DataDir(DataDirError::Locked(_)))));
    node.stop();
}

#[test]
fn a_member_that_is_not_in_the_initial_cluster_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut wrong = config(dir.path());
    wrong.name = "two".to_owned();
    assert!(matches!(Node::start(wrong).map(|_| ()), Err(StartError::NotInitial(name)) if name == "two"));
}

#[test]
fn a_mode_that_goes_on_refuses_what_is_not_there() {
    let dir = tempfile::tempdir().unwrap();
    let resume = |cluster, member| NodeConfig {
        mode: Mode::Resume { cluster, member, on_nothing: "restore it" },
        ..config(dir.path())
    };
    let refused = |config: NodeConfig| Node::start(config).map(|_| ()).unwrap_err();
    assert!(matches!(refused(resume(None, None)), StartError::Nothing { found: "it does not exist", .. }));
    assert!(!dir.path().join("data").exists(), "a refused start makes nothing");
    std::fs::create_dir(dir.path().join("data")).unwrap();
    let empty = refused(resume(None, None));
    assert!(matches!(empty, StartError::Nothing { found: "it is empty", .. }));
    assert_eq!(empty.exit(), (EXIT_IDENTITY, "empty-data"));
    drop(Node::prepare(config(dir.path())).unwrap());
    assert!(matches!(refused(resume(None, None)), StartError::Nothing { found: "the member in it never ran", .. }));

    let node = Node::start(NodeConfig { mode: Mode::FoundThis, ..config(dir.path()) }).unwrap();
    let status = node.status();
    node.stop();
    for right in [
        resume(None, None),
        resume(Some(status.cluster), Some(status.member)),
        NodeConfig { mode: Mode::FoundThis, ..config(dir.path()) },
    ] {
        Node::start(right).unwrap().stop();
    }
    let other = ClusterId(status.cluster.0 + 1);
    let wrong = refused(resume(Some(other), Some(status.member)));
    assert!(matches!(wrong, StartError::Unexpected { what: "cluster", .. }));
    assert_eq!(wrong.exit(), (EXIT_IDENTITY, "identity-mismatch"));
    assert!(matches!(refused(resume(None, Some(MemberId(1)))), StartError::Unexpected { what: "member", .. }));
    let another = NodeConfig { mode: Mode::FoundThis, token: "another".to_owned(), ..config(dir.path()) };
    assert!(matches!(refused(another), StartError::Unexpected { .. }));
}

#[test]
fn requests_must_fit_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let mut wrong = config(dir.path());
    wrong.max_request_bytes = 3 << 20;
    assert!(matches!(Node::start(wrong).map(|_| ()), Err(StartError::RequestLimit { .. })));
}

#[test]
fn leases_run_out_by_the_leaders_clock() {
    let dir = tempfile::tempdir().unwrap();
    let node = start(dir.path());
    on_runtime(&node, async |handle: Handle| {
        for (id, ttl_ms) in [(7, 300), (8, 60_000)] {
            handle.propose(command::Kind::LeaseGrant(LeaseGrant { id, ttl_ms }), Bytes::new()).await.unwrap();
        }
        let LeaseTime { remaining_ms: left, granted_ms } = handle.lease_remaining(LeaseId(8)).await.unwrap().unwrap();
        assert!(left <= 60_000 && left > 50_000 && granted_ms == 60_000);
        assert_eq!(handle.lease_renew(LeaseId(8)).await.unwrap(), Some(60_000));
        assert_eq!(handle.lease_renew(LeaseId(9)).await.unwrap(), None);
        let mut look = looks();
        while lease::get(&handle.read_view().view, LeaseId(7)).is_some() {
            look.tick().await;
        }
        assert_eq!(handle.leases_by_time().unwrap(), [LeaseId(8)]);
        let revoke = |id| command::Kind::LeaseRevoke(LeaseRevoke { id, ..LeaseRevoke::default() });
        let again = handle.propose(revoke(7), Bytes::new()).await;
        assert_eq!(again.map(|_| ()), Err(Error::LeaseNotFound));
        handle.propose(revoke(8), Bytes::new()).await.unwrap();
    });
    node.stop();
}

#[test]
fn a_watcher_is_told_and_history_goes() {
    let dir = tempfile::tempdir().unwrap();
    let node = start(dir.path());
    on_runtime(&node, async |handle: Handle| {
        let inbox = handle.watch_inbox();
        let stream = inbox.next_stream();
        let outbox = Outbox::new(1 << 20);
        assert!(inbox.send(Input::Open { stream, outbox: outbox.clone() }));
        let create = Create {
            watch_id: 0,
            range: mvcc::KeyRange::One(Bytes::from_static(b"a")),
            start: Revision(0),
            progress_notify: false,
            no_put: false,
            no_delete: false,
            prev_kv: false,
            fragment: false,
        };
        assert!(inbox.send(Input::Create { stream, create }));
        let mut frames = Vec::new();
        while frames.is_empty() {
            std::future::poll_fn(|cx| outbox.poll_take(cx, &mut frames).map(|_| ())).await;
        }
        for value in ["1", "2", "3"] {
            handle.propose(put("a", value), Bytes::new()).await.unwrap();
        }
        while frames.len() < 4 {
            std::future::poll_fn(|cx| outbox.poll_take(cx, &mut frames).map(|_| ())).await;
        }
        let compact = command::Kind::Compact(Compact { revision: 3 });
        handle.propose(compact, Bytes::new()).await.unwrap();
        assert_eq!(handle.read_view().position.compacted, Revision(3));
        // The flush that makes it durable comes soon, and the space behind it.
        let mut look = looks();
        while node.stats().flushes.read().0.iter().sum::<u64>() == 0 {
            look.tick().await;
        }
    });
    node.stop();
}

#[test]
fn a_request_that_is_too_large_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let node = start(dir.path());
    on_runtime(&node, async |handle: Handle| {
        let large = "x".repeat(1_572_864 + 200);
        let refused = handle.propose(put("a", &large), Bytes::new()).await;
        assert_eq!(refused.map(|_| ()), Err(Error::RequestTooLarge));
        assert_eq!(handle.proposals_pending(), 0);
        let fits = "x".repeat(1_500_000);
        handle.propose(put("a", &fits), Bytes::new()).await.unwrap();
    });
    node.stop();
}

#[test]
fn a_stopped_member_refuses() {
    let dir = tempfile::tempdir().unwrap();
    let node = start(dir.path());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let handle = runtime.block_on(async { node.handle() });
    // The runtime does not run while the member stops: nobody may wait for its tasks.
    node.stop();
    runtime.block_on(async {
        assert_eq!(handle.propose(put("a", "b"), Bytes::new()).await.map(|_| ()), Err(Error::Stopped));
    });
}
