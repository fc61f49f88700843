//! Framing and lookup against bytes that clients may send, well-formed and not.

use std::{
    collections::{BTreeSet, VecDeque},
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{BufMut, Bytes, BytesMut};
use conclave_proto::etcdserverpb as pb;
use http::HeaderMap;
use http_body::{Body as _, Frame};
use prost::Message;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::super::{
    Body, Method,
    encode::RangeReply,
    frame::{self, Framed, Messages},
    metadata::{self, Metadata},
    method,
    status::Status,
};
use crate::{
    error::Code,
    mvcc::{Summary, VersionRef},
    types::{LeaseId, Revision},
};

/// A request body that arrives in given pieces.
struct Pieces(VecDeque<Bytes>);

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front().map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

fn messages(pieces: &[&[u8]], streaming: bool) -> Messages<Pieces> {
    let pieces = pieces.iter().map(|piece| Bytes::copy_from_slice(piece)).collect();
    Messages::new(Pieces(pieces), 100, None, streaming)
}

fn framed(payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0];
    bytes.put_u32(u32::try_from(payload.len()).unwrap());
    bytes.put_slice(payload);
    bytes
}

fn only(pieces: &[&[u8]]) -> Result<Bytes, (Code, String)> {
    run(messages(pieces, false).only()).map_err(plain)
}

fn plain(status: Status) -> (Code, String) {
    (status.code, status.text.into_owned())
}

fn failed(code: Code, text: &str) -> Result<Bytes, (Code, String)> {
    Err((code, text.to_owned()))
}

#[test]
fn a_message_in_one_frame() {
    assert_eq!(only(&[&framed(b"hello")]), Ok(Bytes::from_static(b"hello")));
    assert_eq!(only(&[&framed(b"")]), Ok(Bytes::new()));
}

#[test]
fn a_message_cut_anywhere() {
    let whole = framed(b"hello world");
    for first in 0..=whole.len() {
        for second in first..=whole.len() {
            let pieces = [&whole[..first], &whole[first..second], &whole[second..]];
            assert_eq!(only(&pieces), Ok(Bytes::from_static(b"hello world")), "cut at {first} and {second}");
        }
    }
}

#[test]
fn messages_of_a_stream_cut_at_random() {
    let mut random = ChaCha8Rng::seed_from_u64(1);
    for _ in 0..500 {
        let sent: Vec<Vec<u8>> = (0..random.random_range(0..8))
            .map(|_| (0..random.random_range(0..=100)).map(|_| random.random()).collect())
            .collect();
        let mut wire: Vec<u8> = sent.iter().flat_map(|payload| framed(payload)).collect();
        let mut pieces = VecDeque::new();
        while !wire.is_empty() {
            let rest = wire.split_off(random.random_range(0..=wire.len().min(90)));
            pieces.push_back(Bytes::from(wire));
            wire = rest;
        }
        let mut messages = Messages::new(Pieces(pieces), 100, None, true);
        let mut got = Vec::new();
        while let Some(message) = run(messages.next()).unwrap() {
            got.push(message.to_vec());
        }
        assert_eq!(got, sent);
    }
}

#[test]
fn too_large() {
    let text = "grpc: received message larger than max (101 vs. 100)";
    // Refused by its length alone, before the message has come.
    assert_eq!(only(&[&[0, 0, 0, 0, 101]]), failed(Code::ResourceExhausted, text));
    let text = "grpc: received message larger than max (4294967295 vs. 100)";
    assert_eq!(only(&[&[0, 255, 255, 255, 255]]), failed(Code::ResourceExhausted, text));
    assert!(only(&[&framed(&[7; 100])]).is_ok());
}

#[test]
fn cut_short() {
    assert_eq!(only(&[]), failed(Code::Unknown, "EOF"));
    assert_eq!(only(&[&[0, 0, 0]]), failed(Code::Unknown, "unexpected EOF"));
    assert_eq!(only(&[&[0, 0, 0, 0, 5, b'a', b'b']]), failed(Code::Unknown, "unexpected EOF"));
    let outcome = run(messages(&[&[0, 0, 0, 0, 5, b'a']], true).next()).unwrap_err();
    assert_eq!(plain(outcome), (Code::Internal, "unexpected EOF".to_owned()));
}

#[test]
fn what_follows_the_only_message_is_passed_over() {
    let mut wire = framed(b"a");
    wire.extend(framed(b"b"));
    wire.extend([9, 9]);
    assert_eq!(only(&[&wire, b"more"]), Ok(Bytes::from_static(b"a")));
}

#[test]
fn compression_is_refused() {
    let text = "grpc: compressed flag set with identity or empty encoding";
    assert_eq!(only(&[&[1, 0, 0, 0, 1, 7]]), failed(Code::Internal, text));
    let body = Pieces(VecDeque::from([Bytes::from_static(&[1, 0, 0, 0, 1, 7])]));
    let outcome = run(Messages::new(body, 100, Some("snappy".to_owned()), false).only()).unwrap_err();
    let text = "grpc: Decompressor is not installed for grpc-encoding \"snappy\"";
    assert_eq!(plain(outcome), (Code::Unimplemented, text.to_owned()));
    assert_eq!(only(&[&[9, 0, 0, 0, 1, 7]]), failed(Code::Internal, "grpc: received unexpected payload format 9"));
}

#[test]
fn garbage() {
    let mut random = ChaCha8Rng::seed_from_u64(2);
    for _ in 0..2000 {
        let pieces: VecDeque<Bytes> = (0..random.random_range(0..5))
            .map(|_| (0..random.random_range(0..40)).map(|_| random.random_range(0..8_u8)).collect::<Vec<u8>>().into())
            .collect();
        let mut messages = Messages::new(Pieces(pieces), 100, None, true);
        while let Ok(Some(message)) = run(messages.next()) {
            // Whatever comes out of it: no panic.
            let _ = frame::decode::<pb::TxnRequest>(message);
        }
    }
}

#[test]
fn every_method_is_found_at_its_path() {
    for &method in Method::ALL {
        let path = format!("/{}/{}", method.service(), method.name());
        assert_eq!(method::lookup(&path), Ok(method), "{path}");
    }
}

#[test]
fn unknown_paths() {
    let refusal = |path| method::lookup(path).unwrap_err();
    let text = |path| refusal(path).text.into_owned();
    assert_eq!(refusal("/etcdserverpb.KV/Rangex").code, Code::Unimplemented);
    assert_eq!(text("/etcdserverpb.KV/Rangex"), "unknown method Rangex for service etcdserverpb.KV");
    assert_eq!(text("/etcdserverpb.KVV/Range"), "unknown service etcdserverpb.KVV");
    assert_eq!(text("/a/b/c"), "unknown service a/b");
    assert_eq!(text("/etcdserverpb.KV"), "malformed method name: \"/etcdserverpb.KV\"");
}

#[test]
fn the_list_of_methods_is_the_descriptors() {
    let listed: BTreeSet<String> =
        Method::ALL.iter().map(|method| format!("{}/{}", method.service(), method.name())).collect();
    assert_eq!(listed, descriptors::methods(conclave_proto::DESCRIPTORS));
}

/// Just enough of a FileDescriptorSet to list its methods.
mod descriptors {
    use std::collections::BTreeSet;

    #[derive(Clone, PartialEq, prost::Message)]
    struct Set {
        #[prost(message, repeated, tag = "1")]
        file: Vec<File>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    struct File {
        #[prost(string, tag = "2")]
        package: String,
        #[prost(message, repeated, tag = "6")]
        service: Vec<Service>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    struct Service {
        #[prost(string, tag = "1")]
        name: String,
        #[prost(message, repeated, tag = "2")]
        method: Vec<Method>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    struct Method {
        #[prost(string, tag = "1")]
        name: String,
    }

    pub(super) fn methods(descriptors: &[u8]) -> BTreeSet<String> {
        let set = <Set as prost::Message>::decode(descriptors).unwrap();
        let mut paths = BTreeSet::new();
        for file in &set.file {
            for service in &file.service {
                for method in &service.method {
                    paths.insert(format!("{}.{}/{}", file.package, service.name, method.name));
                }
            }
        }
        paths
    }
}

#[test]
fn timeouts() {
    assert_eq!(metadata::timeout("5S"), Ok(Duration::from_secs(5)));
    assert_eq!(metadata::timeout("250m"), Ok(Duration::from_millis(250)));
    assert_eq!(metadata::timeout("99999999H"), Ok(Duration::from_nanos(u64::MAX)));
    for bad in ["", "S", "5", "5s", "abc", "123456789S", "-1S", "+1S", "1é", "é"] {
        assert!(metadata::timeout(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn idempotency_keys() {
    let key = |name: &'static str, value: &[u8]| {
        let mut headers = HeaderMap::new();
        headers.insert(name, http::HeaderValue::from_bytes(value).unwrap());
        Metadata::read(&headers).map(|metadata| metadata.idempotency)
    };
    assert_eq!(key("conclave-idempotency-key", b"abc").unwrap(), "abc");
    assert_eq!(key("conclave-idempotency-key-bin", b"AP+A").unwrap(), &[0, 255, 128][..]);
    assert_eq!(key("conclave-idempotency-key-bin", b"YQ==").unwrap(), "a");
    assert_eq!(key("conclave-idempotency-key-bin", b"YQ").unwrap(), "a");
    assert_eq!(key("conclave-idempotency-key-bin", b"YWI").unwrap(), "ab");
    assert!(key("conclave-idempotency-key-bin", b"Y").is_err());
    assert!(key("conclave-idempotency-key-bin", b"!!!!").is_err());
    assert!(key("conclave-idempotency-key", &[b'x'; 257]).is_err());
    assert_eq!(key("client-api-version", b"\xff\xfe").unwrap_err().code, Code::InvalidArgument);
}

#[test]
fn messages_in_headers_are_percent_encoded() {
    let mut headers = HeaderMap::new();
    Status::with(Code::Unknown, "50% größer\n".to_owned()).write(&mut headers);
    assert_eq!(headers["grpc-status"], "2");
    assert_eq!(headers["grpc-message"], "50%25 gr%C3%B6%C3%9Fer%0A");
}

#[test]
fn a_range_reply_reads_as_prost_would_write_it() {
    let header = pb::ResponseHeader { cluster_id: u64::MAX, member_id: 7, revision: 300, raft_term: 0 };
    let mut random = ChaCha8Rng::seed_from_u64(3);
    for case in 0..300 {
        let mut reply = RangeReply::new(0);
        let mut kvs = Vec::new();
        reply.header(&header);
        for _ in 0..random.random_range(0..20) {
            let bytes = |random: &mut ChaCha8Rng| {
                // With the longest of them some replies come in several pieces, and some values fill one.
                let length = [0, 1, 127, 128, 300, 20_000, 70_000][random.random_range(0..7)];
                vec![random.random(); length]
            };
            let (key, value) = (bytes(&mut random), bytes(&mut random));
            let lease = [0, 5, -1, i64::MAX][random.random_range(0..4)];
            let (create, modified, version) = (Revision(random.random_range(1..300)), Revision(299), 1 << 20);
            let version_ref = VersionRef { key: &key, create, modified, version, lease: LeaseId(lease), value: &value };
            reply.push(version_ref);
            kvs.push(conclave_proto::mvccpb::KeyValue {
                key: key.into(),
                create_revision: create.0,
                mod_revision: modified.0,
                version,
                value: value.into(),
                lease,
            });
        }
        let summary = Summary { count: i64::try_from(kvs.len()).unwrap(), more: random.random() };
        reply.summary(summary);
        let expected = pb::RangeResponse { header: Some(header), kvs, more: summary.more, count: summary.count };
        if case % 2 == 0 {
            let mut framed = gather(reply.finish().unwrap());
            assert_eq!(framed[..5], prefix(framed.len()));
            assert_eq!(pb::RangeResponse::decode(framed.split_off(5)).unwrap(), expected);
        } else {
            let mut framed = gather(reply.finish_streamed().unwrap());
            assert_eq!(framed[..5], prefix(framed.len()));
            let streamed = pb::RangeStreamResponse::decode(framed.split_off(5)).unwrap();
            assert_eq!(streamed.range_response.unwrap(), expected);
        }
    }
}

fn gather(mut framed: Framed) -> BytesMut {
    let length = framed.len();
    let mut gathered = BytesMut::new();
    while let Some(piece) = framed.next_piece() {
        assert!(!piece.is_empty(), "an empty piece would be an empty DATA frame");
        gathered.extend_from_slice(&piece);
    }
    assert_eq!(gathered.len(), length);
    gathered
}

fn prefix(framed: usize) -> [u8; 5] {
    let length = u32::try_from(framed - 5).unwrap().to_be_bytes();
    [0, length[0], length[1], length[2], length[3]]
}

#[test]
fn a_unary_body_is_its_pieces_and_trailers() {
    let mut body = Body::unary(Framed::new(Bytes::from_static(b"x"), vec![Bytes::from_static(b"y")]));
    let mut next = || run(std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)));
    assert_eq!(next().unwrap().unwrap().into_data().unwrap(), "x");
    assert_eq!(next().unwrap().unwrap().into_data().unwrap(), "y");
    assert_eq!(next().unwrap().unwrap().into_trailers().unwrap()["grpc-status"], "0");
    assert!(next().is_none());
    assert!(body.is_end_stream());
}
