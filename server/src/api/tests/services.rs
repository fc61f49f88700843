//! The services over a whole member, called as the connection calls them.

use std::{
    convert::Infallible,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{BufMut, Bytes, BytesMut};
use conclave_proto::etcdserverpb::{self as pb, compare::TargetUnion, request_op, watch_request::RequestUnion};
use http::{HeaderMap, Request, Version};
use http_body::{Body as _, Frame};
use prost::Message;
use tokio::{
    sync::{mpsc, watch},
    task::LocalSet,
};

use super::super::{Api, Body, Limits, Method, Readers, Signals};
use crate::{
    engine::EngineOptions,
    metrics::Calls,
    node::{Node, NodeConfig},
};

/// A request body whose messages the test sends, and whose end it decides.
struct Sent(mpsc::UnboundedReceiver<Bytes>);

impl http_body::Body for Sent {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|message| message.map(|message| Ok(Frame::data(message))))
    }
}

/// The sending side of a call.
struct Requests(mpsc::UnboundedSender<Bytes>);

impl Requests {
    fn send(&self, message: &impl Message) {
        self.0.send(framed(message)).unwrap();
    }
}

/// The receiving side of a call.
struct Replies {
    headers: HeaderMap,
    body: Pin<Box<Body>>,
    held: BytesMut,
    trailers: Option<HeaderMap>,
    chunks: usize,
}

impl Replies {
    async fn next<M: Message + Default>(&mut self) -> Option<M> {
        loop {
            if self.held.len() >= 5 {
                let length = u32::from_be_bytes(self.held[1..5].try_into().unwrap()) as usize;
                if self.held.len() >= 5 + length {
                    let mut message = self.held.split_to(5 + length);
                    return Some(M::decode(message.split_off(5)).unwrap());
                }
            }
            let body = &mut self.body;
            let frame =
                tokio::time::timeout(Duration::from_secs(20), std::future::poll_fn(|cx| body.as_mut().poll_frame(cx)));
            match frame.await.expect("an answer in time")?.unwrap().into_data() {
                Ok(data) => {
                    self.chunks += 1;
                    self.held.put(data);
                }
                Err(frame) => {
                    self.trailers = Some(frame.into_trailers().unwrap());
                    return None;
                }
            }
        }
    }

    /// The status, once everything was read.
    async fn status(&mut self) -> (String, String) {
        while self.next::<pb::ResponseHeader>().await.is_some() {}
        let headers = self.trailers.as_ref().unwrap_or(&self.headers);
        let text = |name| headers.get(name).map_or(String::new(), |value| value.to_str().unwrap().to_owned());
        (text("grpc-status"), text("grpc-message"))
    }
}

fn framed(message: &impl Message) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(message.encoded_len()).unwrap());
    message.encode(&mut bytes).unwrap();
    bytes.freeze()
}

struct Client {
    api: Rc<Api>,
    calls: Arc<Calls>,
    _stopping: watch::Sender<bool>,
    leader_lost: watch::Sender<bool>,
}

impl Client {
    /// Opens a stream; its requests follow.
    async fn open(&self, path: &str, headers: &[(&'static str, &str)]) -> (Requests, Replies) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut request = Request::post(path).version(Version::HTTP_2).header("content-type", "application/grpc");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = Rc::clone(&self.api).call(request.body(Sent(receiver)).unwrap()).await;
        (Requests(sender), replies(response))
    }

    async fn call(&self, path: &str, message: &impl Message, headers: &[(&'static str, &str)]) -> Replies {
        let (sender, receiver) = mpsc::unbounded_channel();
        sender.send(framed(message)).unwrap();
        drop(sender);
        let mut request = Request::post(path).version(Version::HTTP_2).header("content-type", "application/grpc");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        replies(Rc::clone(&self.api).call(request.body(Sent(receiver)).unwrap()).await)
    }

    async fn unary<R: Message + Default>(&self, path: &str, message: &impl Message) -> Result<R, String> {
        let mut replies = self.call(path, message, &[]).await;
        match replies.next::<R>().await {
            Some(reply) => {
                assert_eq!(replies.status().await, ("0".to_owned(), String::new()));
                assert_eq!(replies.chunks, 1, "a unary reply is one DATA frame");
                Ok(reply)
            }
            None => Err(replies.status().await.1),
        }
    }

    async fn put(&self, key: &str, value: &str) -> i64 {
        let request = pb::PutRequest { key: bytes(key), value: bytes(value), ..Default::default() };
        let response: pb::PutResponse = self.unary("/etcdserverpb.KV/Put", &request).await.unwrap();
        response.header.unwrap().revision
    }

    async fn range(&self, request: &pb::RangeRequest) -> Result<pb::RangeResponse, String> {
        self.unary("/etcdserverpb.KV/Range", request).await
    }
}

fn replies(response: http::Response<Body>) -> Replies {
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "application/grpc");
    let (parts, body) = response.into_parts();
    Replies { headers: parts.headers, body: Box::pin(body), held: BytesMut::new(), trailers: None, chunks: 0 }
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn key(key: &str) -> pb::RangeRequest {
    pb::RangeRequest { key: bytes(key), ..Default::default() }
}

fn all() -> pb::RangeRequest {
    pb::RangeRequest { key: Bytes::from_static(&[0]), range_end: Bytes::from_static(&[0]), ..Default::default() }
}

fn on_a_member<F: Future>(test: impl FnOnce(Client) -> F) -> F::Output {
    let dir = tempfile::tempdir().unwrap();
    let engine = EngineOptions { block_cache_bytes: 8 << 20, memtable_bytes: 4 << 20, ..Default::default() };
    let config =
        NodeConfig::sole(dir.path().join("data"), "m", "http://localhost:2380", "http://localhost:2379", engine);
    let node = Node::start(config).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let output = LocalSet::new().block_on(&runtime, async {
        let limits = Limits {
            max_request_bytes: 1_572_864,
            max_txn_ops: 128,
            quota_bytes: 2 << 30,
            election_timeout: Duration::from_secs(1),
            watch_outbox_bytes: 1 << 20,
        };
        let calls = Arc::new(Calls::new(Method::ALL.len()));
        let (leader_lost, lost) = watch::channel(false);
        let (stopping, stop) = watch::channel(false);
        let signals = Signals { leader_lost: lost, stopping: stop };
        let readers = Arc::new(Readers::start(1).unwrap());
        let api = Rc::new(Api::new(node.handle(), limits, readers, Arc::clone(&calls), signals));
        test(Client { api, calls, _stopping: stopping, leader_lost }).await
    });
    drop(runtime);
    node.stop();
    output
}

#[test]
fn keys_and_headers() {
    on_a_member(|client| async move {
        assert_eq!(client.put("a", "1").await, 2);
        assert_eq!(client.put("b", "2").await, 3);
        let response = client.range(&key("a")).await.unwrap();
        let header = response.header.unwrap();
        assert_eq!((header.revision, response.count, response.more), (3, 1, false));
        assert!(header.cluster_id != 0 && header.member_id != 0 && header.raft_term > 0);
        assert_eq!((&response.kvs[0].value[..], response.kvs[0].mod_revision), (&b"1"[..], 2));
        // Read on the pool (no limit) and on the runtime (a limit): the same.
        let whole = client.range(&all()).await.unwrap();
        let limited = client.range(&pb::RangeRequest { limit: 100, ..all() }).await.unwrap();
        assert_eq!((whole.kvs.len(), &whole.kvs), (2, &limited.kvs));
        let past = client.range(&pb::RangeRequest { revision: 2, ..all() }).await.unwrap();
        assert_eq!((past.kvs.len(), past.header.unwrap().revision), (1, 3));
        let request = pb::DeleteRangeRequest { key: bytes("a"), prev_kv: true, ..Default::default() };
        let deleted: pb::DeleteRangeResponse = client.unary("/etcdserverpb.KV/DeleteRange", &request).await.unwrap();
        assert_eq!((deleted.deleted, deleted.prev_kvs.len(), deleted.header.unwrap().revision), (1, 1, 4));
        let calls = client.calls.read_handled(Method::Range as usize);
        assert_eq!(calls[0], 4);
    });
}

#[test]
fn refusals() {
    on_a_member(|client| async move {
        let refused = client.unary::<pb::PutResponse>("/etcdserverpb.KV/Put", &pb::PutRequest::default()).await;
        assert_eq!(refused.unwrap_err(), "etcdserver: key is not provided");
        let value = Bytes::from(vec![b'x'; 1_572_864]);
        let large = pb::PutRequest { key: bytes("a"), value, ..Default::default() };
        let refused = client.unary::<pb::PutResponse>("/etcdserverpb.KV/Put", &large).await;
        assert_eq!(refused.unwrap_err(), "etcdserver: request is too large");
        let leased = pb::PutRequest { key: bytes("a"), lease: 7, ..Default::default() };
        let refused = client.unary::<pb::PutResponse>("/etcdserverpb.KV/Put", &leased).await;
        assert_eq!(refused.unwrap_err(), "etcdserver: requested lease not found");
        let refused = client.range(&pb::RangeRequest { revision: 9, ..key("a") }).await;
        assert_eq!(refused.unwrap_err(), "etcdserver: mvcc: required revision is a future revision");
        client.put("a", "1").await;
        client.put("a", "2").await;
        let compact = pb::CompactionRequest { revision: 3, physical: true };
        client.unary::<pb::CompactionResponse>("/etcdserverpb.KV/Compact", &compact).await.unwrap();
        for request in [pb::RangeRequest { revision: 2, ..key("a") }, pb::RangeRequest { revision: 2, ..all() }] {
            let refused = client.range(&request).await.unwrap_err();
            assert_eq!(refused, "etcdserver: mvcc: required revision has been compacted");
        }
        let refused = client.unary::<pb::AuthEnableResponse>("/etcdserverpb.Auth/AuthEnable", &key("")).await;
        assert!(refused.unwrap_err().starts_with("conclave: etcdserverpb.Auth/AuthEnable is not available"));
    });
}

fn get(name: &str) -> pb::RequestOp {
    pb::RequestOp { request: Some(request_op::Request::RequestRange(key(name))) }
}

#[test]
fn transactions() {
    on_a_member(|client| async move {
        let path = "/etcdserverpb.KV/Txn";
        let put = pb::PutRequest { key: bytes("a"), value: bytes("1"), ..Default::default() };
        let write = pb::TxnRequest {
            compare: vec![pb::Compare {
                key: bytes("a"),
                target_union: Some(TargetUnion::Version(0)),
                ..Default::default()
            }],
            success: vec![pb::RequestOp { request: Some(request_op::Request::RequestPut(put)) }],
            failure: vec![get("a")],
        };
        let first: pb::TxnResponse = client.unary(path, &write).await.unwrap();
        assert_eq!((first.succeeded, first.header.unwrap().revision), (true, 2));
        let second: pb::TxnResponse = client.unary(path, &write).await.unwrap();
        assert_eq!((second.succeeded, second.header.unwrap().revision), (false, 2));
        let read = pb::TxnRequest { success: vec![get("a"), get("b")], ..Default::default() };
        let third: pb::TxnResponse = client.unary(path, &read).await.unwrap();
        let header = third.header.unwrap();
        assert!(third.succeeded && header.revision == 2 && header.member_id != 0);
        assert_eq!(third.responses.len(), 2);
        let many = pb::TxnRequest { success: vec![get("a"); 129], ..Default::default() };
        let refused = client.unary::<pb::TxnResponse>(path, &many).await.unwrap_err();
        assert_eq!(refused, "etcdserver: too many operations in txn request");
    });
}

/// Found by the differential test: the branch that was not taken was refused, and a negative revision beside one that can
/// be read was taken for a damaged store.
#[test]
fn a_read_only_txn_is_judged_by_the_branch_it_takes() {
    on_a_member(|client| async move {
        client.put("a", "1").await;
        client.put("a", "2").await;
        client.put("a", "3").await;
        let compact = pb::CompactionRequest { revision: 3, physical: true };
        client.unary::<pb::CompactionResponse>("/etcdserverpb.KV/Compact", &compact).await.unwrap();
        let at = |revision| pb::RequestOp {
            request: Some(request_op::Request::RequestRange(pb::RangeRequest { revision, ..key("a") })),
        };
        let path = "/etcdserverpb.KV/Txn";
        let other = pb::TxnRequest { success: vec![at(3)], failure: vec![at(2)], ..Default::default() };
        let answered: pb::TxnResponse = client.unary(path, &other).await.unwrap();
        assert!(answered.succeeded && answered.responses.len() == 1);
        for revision in [2, -1] {
            let refused = pb::TxnRequest { success: vec![at(3), at(revision)], ..Default::default() };
            let refused = client.unary::<pb::TxnResponse>(path, &refused).await.unwrap_err();
            assert_eq!(refused, "etcdserver: mvcc: required revision has been compacted");
        }
    });
}

#[test]
fn a_retry_with_the_same_key_writes_once() {
    on_a_member(|client| async move {
        let put = pb::PutRequest { key: bytes("a"), value: bytes("1"), ..Default::default() };
        let headers = [("conclave-idempotency-key", "k1")];
        let mut revisions = Vec::new();
        for _ in 0..2 {
            let mut replies = client.call("/etcdserverpb.KV/Put", &put, &headers).await;
            revisions.push(replies.next::<pb::PutResponse>().await.unwrap().header.unwrap().revision);
        }
        assert_eq!(revisions, [2, 2]);
        assert_eq!(client.put("b", "1").await, 3);
    });
}

#[test]
fn a_range_in_chunks_is_the_range() {
    on_a_member(|client| async move {
        for number in 0..300 {
            client.put(&format!("k{number:03}"), &"v".repeat(number % 50)).await;
        }
        for (limit, revision, count_only, keys_only) in [
            (0, 0, false, false),
            (1, 0, false, false),
            (10, 0, false, true),
            (123, 0, false, false),
            (300, 0, false, false),
            (0, 150, false, false),
            (77, 150, false, false),
            (0, 0, true, false),
        ] {
            let request = pb::RangeRequest { limit, revision, count_only, keys_only, ..all() };
            let whole = client.range(&request).await.unwrap();
            let mut replies = client.call("/etcdserverpb.KV/RangeStream", &request, &[]).await;
            let mut merged = pb::RangeResponse::default();
            let mut chunks = 0;
            while let Some(chunk) = replies.next::<pb::RangeStreamResponse>().await {
                let chunk = chunk.range_response.unwrap();
                assert!(merged.header.is_none(), "the header comes with the last chunk");
                merged.kvs.extend(chunk.kvs);
                (merged.header, merged.count, merged.more) = (chunk.header, chunk.count, chunk.more);
                chunks += 1;
            }
            assert_eq!(replies.status().await.0, "0");
            assert_eq!(merged, whole, "limit {limit} revision {revision}");
            assert!(chunks > 1 || merged.kvs.len() <= 10, "{chunks} chunks");
        }
        // A target without an order is no order.
        let whole = client.range(&all()).await.unwrap();
        let mut replies =
            client.call("/etcdserverpb.KV/RangeStream", &pb::RangeRequest { sort_target: 4, ..all() }, &[]).await;
        let mut kvs = Vec::new();
        while let Some(chunk) = replies.next::<pb::RangeStreamResponse>().await {
            kvs.extend(chunk.range_response.unwrap().kvs);
        }
        assert_eq!(kvs, whole.kvs);
        let sorted = pb::RangeRequest { sort_order: 2, ..all() };
        let mut replies = client.call("/etcdserverpb.KV/RangeStream", &sorted, &[]).await;
        let expected = ("12".to_owned(), "RangeStream does not support custom sort orders".to_owned());
        assert_eq!(replies.status().await, expected);
    });
}

fn create(key: &str, range_end: &str, watch_id: i64) -> pb::WatchRequest {
    let create = pb::WatchCreateRequest {
        key: bytes(key),
        range_end: bytes(range_end),
        watch_id,
        prev_kv: true,
        ..Default::default()
    };
    pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) }
}

#[test]
fn watching() {
    on_a_member(|client| async move {
        let (requests, mut replies) = client.open("/etcdserverpb.Watch/Watch", &[]).await;
        requests.send(&create("a", "", 0));
        requests.send(&create("b", "c", 7));
        for id in [0, 7] {
            let created: pb::WatchResponse = replies.next().await.unwrap();
            assert_eq!((created.created, created.canceled, created.watch_id), (true, false, id));
            assert!(created.header.unwrap().member_id != 0);
        }
        client.put("a", "1").await;
        client.put("bb", "2").await;
        for (id, key, revision) in [(0, "a", 2), (7, "bb", 3)] {
            let response: pb::WatchResponse = replies.next().await.unwrap();
            assert_eq!((response.watch_id, response.events.len()), (id, 1));
            let kv = response.events[0].kv.as_ref().unwrap();
            assert_eq!((&kv.key[..], kv.mod_revision), (key.as_bytes(), revision));
        }
        let cancel = pb::WatchCancelRequest { watch_id: 7 };
        requests.send(&pb::WatchRequest { request_union: Some(RequestUnion::CancelRequest(cancel)) });
        let canceled: pb::WatchResponse = replies.next().await.unwrap();
        assert_eq!((canceled.canceled, canceled.created, canceled.watch_id), (true, false, 7));
        let progress = pb::WatchProgressRequest {};
        requests.send(&pb::WatchRequest { request_union: Some(RequestUnion::ProgressRequest(progress)) });
        let progressed: pb::WatchResponse = replies.next().await.unwrap();
        assert_eq!((progressed.watch_id, progressed.header.unwrap().revision), (-1, 3));
        // As etcd: a client that closes its side goes on watching.
        drop(requests);
        client.put("a", "x").await;
        let response: pb::WatchResponse = replies.next().await.unwrap();
        assert_eq!(response.events[0].prev_kv.as_ref().unwrap().value, "1");
    });
}

#[test]
fn a_large_body_reaches_each_watcher_whole() {
    on_a_member(|client| async move {
        let (requests, mut replies) = client.open("/etcdserverpb.Watch/Watch", &[]).await;
        for id in 1..=3 {
            requests.send(&create("a", "b", id));
            assert!(replies.next::<pb::WatchResponse>().await.unwrap().created);
        }
        for size in [10, 20_000, 100_000, 10, 1_000_000] {
            client.put("a", &"v".repeat(size)).await;
            let mut ids = Vec::new();
            for _ in 1..=3 {
                let response: pb::WatchResponse = replies.next().await.unwrap();
                assert_eq!(response.events[0].kv.as_ref().unwrap().value.len(), size);
                ids.push(response.watch_id);
            }
            ids.sort_unstable();
            assert_eq!(ids, [1, 2, 3]);
        }
    });
}

#[test]
fn leases() {
    on_a_member(|client| async move {
        let grant = pb::LeaseGrantRequest { id: 0, ttl: 1 };
        let granted: pb::LeaseGrantResponse = client.unary("/etcdserverpb.Lease/LeaseGrant", &grant).await.unwrap();
        assert!(granted.id > 0);
        assert_eq!(granted.ttl, 2, "raised to the least");
        let put = pb::PutRequest { key: bytes("a"), lease: granted.id, ..Default::default() };
        client.unary::<pb::PutResponse>("/etcdserverpb.KV/Put", &put).await.unwrap();

        let (requests, mut replies) = client.open("/etcdserverpb.Lease/LeaseKeepAlive", &[]).await;
        requests.send(&pb::LeaseKeepAliveRequest { id: granted.id });
        let alive: pb::LeaseKeepAliveResponse = replies.next().await.unwrap();
        assert_eq!((alive.id, alive.ttl, alive.header.unwrap().revision), (granted.id, 2, 2));
        requests.send(&pb::LeaseKeepAliveRequest { id: 4711 });
        assert_eq!(replies.next::<pb::LeaseKeepAliveResponse>().await.unwrap().ttl, 0);
        drop(requests);
        assert_eq!(replies.status().await.0, "0");

        let path = "/etcdserverpb.Lease/LeaseTimeToLive";
        let ask = |id| pb::LeaseTimeToLiveRequest { id, keys: true };
        let left: pb::LeaseTimeToLiveResponse = client.unary(path, &ask(granted.id)).await.unwrap();
        assert_eq!((left.granted_ttl, left.keys), (2, vec![bytes("a")]));
        assert!((0..=2).contains(&left.ttl));
        let missing: pb::LeaseTimeToLiveResponse = client.unary(path, &ask(4711)).await.unwrap();
        assert_eq!((missing.ttl, missing.granted_ttl), (-1, 0));

        let revoke = pb::LeaseRevokeRequest { id: granted.id };
        let revoked: pb::LeaseRevokeResponse = client.unary("/etcdserverpb.Lease/LeaseRevoke", &revoke).await.unwrap();
        assert_eq!(revoked.header.unwrap().revision, 3);
        assert_eq!(client.range(&key("a")).await.unwrap().count, 0);
        let list: pb::LeaseLeasesResponse =
            client.unary("/etcdserverpb.Lease/LeaseLeases", &pb::LeaseLeasesRequest {}).await.unwrap();
        assert!(list.leases.is_empty());
        let huge = pb::LeaseGrantRequest { id: 0, ttl: 9_000_000_001 };
        let refused = client.unary::<pb::LeaseGrantResponse>("/etcdserverpb.Lease/LeaseGrant", &huge).await;
        assert_eq!(refused.unwrap_err(), "etcdserver: too large lease TTL");
    });
}

#[test]
fn status_and_members() {
    on_a_member(|client| async move {
        client.put("a", "1").await;
        let status: pb::StatusResponse =
            client.unary("/etcdserverpb.Maintenance/Status", &pb::StatusRequest {}).await.unwrap();
        let header = status.header.unwrap();
        assert_eq!((status.version.as_str(), status.storage_version.as_str()), ("3.7.1", "3.7.0"));
        assert_eq!((status.leader, header.revision), (header.member_id, 2));
        assert!(status.raft_applied_index > 0 && status.raft_index >= status.raft_applied_index);
        assert!(status.errors.is_empty());
        assert!(0 < status.db_size_in_use && status.db_size_in_use <= status.db_size, "{status:?}");
        let list: pb::MemberListResponse = client
            .unary("/etcdserverpb.Cluster/MemberList", &pb::MemberListRequest { linearizable: true })
            .await
            .unwrap();
        assert_eq!((list.header.unwrap().revision, list.members.len()), (0, 1));
        assert_eq!(list.members[0].peer_ur_ls, ["http://localhost:2380"]);
        let hash: pb::HashKvResponse =
            client.unary("/etcdserverpb.Maintenance/HashKV", &pb::HashKvRequest { revision: 0 }).await.unwrap();
        assert_eq!((hash.compact_revision, hash.hash_revision, hash.header.unwrap().revision), (-1, 2, 2));
    });
}

#[test]
fn streams_end() {
    on_a_member(|client| async move {
        let deadline = [("grpc-timeout", "1n")];
        let (_requests, mut replies) = client.open("/etcdserverpb.Watch/Watch", &deadline).await;
        assert_eq!(replies.status().await, ("4".to_owned(), "context deadline exceeded".to_owned()));

        let (_requests, mut insists) = client.open("/etcdserverpb.Watch/Watch", &[("hasleader", "true")]).await;
        let (requests, mut tolerates) = client.open("/etcdserverpb.Watch/Watch", &[]).await;
        client.leader_lost.send_replace(true);
        assert_eq!(insists.status().await, ("14".to_owned(), "etcdserver: no leader".to_owned()));
        requests.send(&create("a", "", 0));
        assert!(tolerates.next::<pb::WatchResponse>().await.unwrap().created);
        requests.0.send(Bytes::from_static(&[0, 0, 0, 0, 1, 0xff])).unwrap();
        let (code, text) = tolerates.status().await;
        assert_eq!(code, "13");
        assert!(text.starts_with("grpc: failed to unmarshal the received message"));
        let handled = client.calls.read_handled(Method::Watch as usize);
        assert_eq!((handled[4], handled[14], handled[13], handled.iter().sum::<u64>()), (1, 1, 1, 3));
        // A stream that is dropped counts as canceled.
        drop(client.open("/etcdserverpb.Watch/Watch", &[]).await);
        assert_eq!(client.calls.read_handled(Method::Watch as usize)[1], 1);
    });
}
