//! Frames survive any way of being cut on the way, and no bytes whatever make a reader panic.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use conclave_proto::conclave::peer::v1::{self as pb, frame};
use prost::Message as _;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::io::{AsyncRead, ReadBuf};

use crate::{
    node::{
        Aside, Forward, LeaseAnswer, LeaseAsk, LeaseTime, Message, MessageKind, Ticket,
        log::{EntryKind, LogEntry},
    },
    peer::{
        convert::{may_come_from, message_in, message_out},
        wire::{self, Reader, WireError},
    },
    snapshot::ArchiveMeta,
    types::{ClusterId, LeaseId, LogIndex, MemberId, Revision, Term},
};

const KINDS: [MessageKind; 16] = [
    MessageKind::Snapshot,
    MessageKind::Propose,
    MessageKind::Append,
    MessageKind::AppendResponse,
    MessageKind::RequestVote,
    MessageKind::RequestVoteResponse,
    MessageKind::RequestPreVote,
    MessageKind::RequestPreVoteResponse,
    MessageKind::Heartbeat,
    MessageKind::HeartbeatResponse,
    MessageKind::TimeoutNow,
    MessageKind::ReadIndex,
    MessageKind::ReadIndexResponse,
    MessageKind::ProposeRefused,
    MessageKind::LeaseAsk,
    MessageKind::LeaseAnswer,
];

/// Gives its bytes in the pieces that chance decides.
struct Pieces {
    bytes: Bytes,
    rng: ChaCha8Rng,
}

impl AsyncRead for Pieces {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let most = self.bytes.len().min(into.remaining());
        let len = if most < 2 || self.rng.random_bool(0.3) { most } else { self.rng.random_range(1..most) };
        let piece = self.bytes.split_to(len);
        into.put_slice(&piece);
        Poll::Ready(Ok(()))
    }
}

fn reader(bytes: impl Into<Bytes>, seed: u64) -> Reader<Pieces> {
    Reader::new(Pieces { bytes: bytes.into(), rng: ChaCha8Rng::seed_from_u64(seed) })
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

/// All frames, and how it ended.
fn read_all(bytes: impl Into<Bytes>, seed: u64) -> (Vec<frame::Kind>, WireError) {
    let mut reader = reader(bytes, seed);
    let mut frames = Vec::new();
    wait(async {
        loop {
            match reader.frame().await {
                Ok(frame) => frames.push(frame),
                Err(error) => return (frames, error),
            }
        }
    })
}

fn message(rng: &mut ChaCha8Rng) -> Message {
    let number = |rng: &mut ChaCha8Rng| rng.random::<u64>() >> rng.random_range(0..64);
    let kind = if rng.random_bool(0.2) { MessageKind::Append } else { KINDS[rng.random_range(0..KINDS.len())] };
    let index = rng.random_range(0..1 << 40);
    // Only appends are cut; what is proposed is bounded where it is made.
    let entries = match kind {
        MessageKind::Append => rng.random_range(0..20),
        MessageKind::Propose | MessageKind::ProposeRefused => rng.random_range(0..3),
        _ => 0,
    };
    let ask = |n: u64| LeaseAsk { ticket: Ticket(n << 50), id: LeaseId(-1), renew: n == 1 };
    let answer = |n: u64| LeaseAnswer {
        ticket: Ticket(n),
        lease: n.is_multiple_of(2).then_some(LeaseTime { remaining_ms: 0, granted_ms: i64::MAX }),
    };
    let entry = |n: u64, rng: &mut ChaCha8Rng| {
        let mut data = vec![0; if rng.random_bool(0.15) { 400_000 } else { rng.random_range(0..300) }];
        rng.fill_bytes(&mut data);
        LogEntry {
            index: LogIndex(index + 1 + n),
            term: Term(number(rng)),
            kind: [EntryKind::Normal, EntryKind::ConfChange, EntryKind::ConfChangeV2][rng.random_range(0..3)],
            data: data.into(),
        }
    };
    let aside = match kind {
        MessageKind::Propose | MessageKind::ProposeRefused => {
            Some(Aside::Forward(Forward { life: number(rng), number: number(rng) }))
        }
        MessageKind::LeaseAsk => Some(Aside::Asks((0..rng.random_range(0..9)).map(ask).collect())),
        MessageKind::LeaseAnswer => Some(Aside::Answers((0..rng.random_range(0..9)).map(answer).collect())),
        _ => None,
    };
    Message {
        kind,
        to: MemberId(rng.random()),
        from: MemberId(rng.random()),
        term: Term(number(rng)),
        log_term: Term(number(rng)),
        index: LogIndex(index),
        entries: (0..entries).map(|n| entry(n, rng)).collect(),
        commit: LogIndex(number(rng)),
        commit_term: Term(number(rng)),
        reject: rng.random(),
        reject_hint: LogIndex(number(rng)),
        request_snapshot: LogIndex(number(rng)),
        context: Bytes::from_static(b"a context of a round").slice(..rng.random_range(0..20)),
        priority: rng.random(),
        archive: rng.random_bool(0.1).then(|| ArchiveMeta {
            cluster: ClusterId(rng.random()),
            index: LogIndex(number(rng)),
            term: Term(number(rng)),
            revision: Revision(rng.random()),
            conf_state: Bytes::from_static(b"a membership"),
        }),
        aside: aside.map(Box::new),
    }
}

/// Joins what the wire cut: the same messages come out, and what was cut follows on itself.
fn join(pieces: Vec<Message>) -> Vec<Message> {
    let mut whole: Vec<Message> = Vec::new();
    for piece in pieces {
        match whole.last_mut() {
            Some(before)
                if before.kind == MessageKind::Append
                    && piece.kind == MessageKind::Append
                    && !piece.entries.is_empty()
                    && !before.entries.is_empty()
                    && (before.to, before.from, before.commit) == (piece.to, piece.from, piece.commit) =>
            {
                let last = before.entries.last().unwrap();
                assert_eq!((piece.index, piece.log_term), (last.index, last.term));
                before.entries.extend(piece.entries);
            }
            _ => whole.push(piece),
        }
    }
    whole
}

#[test]
fn messages_arrive_as_they_were_sent() {
    let mut cut = 0;
    for seed in 0..40 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let sent: Vec<_> = (0..rng.random_range(1..60)).map(|_| message(&mut rng)).collect();
        let mut out = BytesMut::new();
        wire::put_messages(&mut out, &mut sent.clone());
        let (frames, end) = read_all(out, seed);
        assert!(matches!(end, WireError::Closed), "{end:?}");
        let pieces: Vec<_> = frames
            .into_iter()
            .flat_map(|frame| match frame {
                frame::Kind::Messages(batch) => batch.messages,
                other => panic!("{other:?}"),
            })
            .map(|message| {
                assert!(message.encoded_len() < 2 << 20, "a part is not much longer than a mebibyte");
                message_in(message).unwrap()
            })
            .collect();
        cut += pieces.len() - sent.len();
        assert_eq!(join(pieces), sent);
    }
    assert!(cut > 10, "long messages were cut");
}

#[test]
fn a_flipped_bit_ends_the_connection() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let sent: Vec<_> = (0..3).map(|_| message(&mut rng)).collect();
    let mut out = BytesMut::new();
    wire::put_messages(&mut out, &mut sent.clone());
    wire::put_kind(&mut out, frame::Kind::Ping(pb::Ping { number: 7 }));
    for _ in 0..2_000 {
        let mut bad = out.clone();
        let place = rng.random_range(0..bad.len());
        bad[place] ^= 1 << rng.random_range(0..8);
        let (frames, end) = read_all(bad, rng.random());
        // Whatever came before the damage may be whole; the damaged frame never comes out.
        assert!(frames.len() < 2, "{place}");
        assert!(matches!(end, WireError::Checksum | WireError::TooLong(_) | WireError::Closed), "{place}: {end:?}");
    }
}

#[test]
fn no_bytes_make_a_reader_panic() {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let mut decoded = 0;
    for seed in 0..3_000 {
        let mut bytes = BytesMut::new();
        if rng.random() {
            let mut raw = vec![0; rng.random_range(0..200)];
            rng.fill_bytes(&mut raw);
            bytes.extend_from_slice(&raw);
        } else {
            // A frame whose checksum fits, around damaged content.
            let mut message = pb::Frame {
                kind: Some(frame::Kind::Messages(pb::Messages { messages: vec![message_out(message(&mut rng))] })),
            }
            .encode_to_vec();
            message.truncate(rng.random_range(0..300));
            for _ in 0..rng.random_range(0..4) {
                if let Some(last) = message.len().checked_sub(1) {
                    message[rng.random_range(0..=last)] = rng.random();
                }
            }
            bytes.extend_from_slice(&u32::try_from(message.len()).unwrap().to_le_bytes());
            bytes.extend_from_slice(&crc32c::crc32c(&message).to_le_bytes());
            bytes.extend_from_slice(&message);
        }
        for frame in read_all(bytes, seed).0 {
            if let frame::Kind::Messages(batch) = frame {
                decoded += batch.messages.into_iter().filter_map(message_in).count();
            }
        }
    }
    assert!(decoded > 50, "some of it could be read: {decoded}");
}

/// A length that is claimed gets no memory before its bytes come.
#[test]
fn lengths_are_bounded() {
    let head = |len: u32| [len.to_le_bytes(), [0; 4]].concat();
    assert!(matches!(read_all(head(u32::MAX), 0).1, WireError::TooLong(_)));
    assert!(matches!(read_all(head(u32::try_from(wire::MAX_FRAME).unwrap()), 0).1, WireError::Closed));
    assert!(matches!(wait(reader(head(1 << 20), 0).hello::<pb::Hello>()), Err(WireError::TooLong(_))));
    assert!(matches!(wait(reader(&b"GET / HTTP/1.1\r\n"[..], 0).magic()), Err(WireError::Unexpected(_))));
}

#[test]
fn nobody_speaks_for_others() {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    for kind in KINDS {
        let message = Message { kind, from: MemberId(2), to: MemberId(1), ..message(&mut rng) };
        assert!(may_come_from(&message, MemberId(2), MemberId(1)));
        assert!(!may_come_from(&message, MemberId(2), MemberId(3)), "it is for another member");
        assert!(!may_come_from(&message, MemberId(3), MemberId(1)), "{kind:?}");
    }
}

/// A frame that would become a hundred times its size is not decoded; the smallest entries that a member may send are.
#[test]
fn frames_do_not_grow_in_memory() {
    let framed = |payload: &[u8]| {
        let head =
            [u32::try_from(payload.len()).unwrap().to_le_bytes(), crc32c::crc32c(payload).to_le_bytes()].concat();
        [&head, payload].concat()
    };
    let messages =
        |messages| pb::Frame { kind: Some(frame::Kind::Messages(pb::Messages { messages })) }.encode_to_vec();
    let bombs = [
        messages(vec![pb::Message::default(); 1 << 19]),
        messages(vec![pb::Message { entries: vec![pb::Entry::default(); 1 << 19], ..Default::default() }]),
        messages(vec![pb::Message { entries: vec![pb::Entry::default(); 1 << 10], ..Default::default() }; 1 << 9]),
    ];
    for bomb in bombs {
        assert!(matches!(read_all(framed(&bomb), 1).1, WireError::Unexpected("a frame of too many parts")));
    }
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    let empty = |index| LogEntry { index: LogIndex(index), term: Term(1), kind: EntryKind::Normal, data: Bytes::new() };
    let many = Message { kind: MessageKind::Append, entries: (1..500_000).map(empty).collect(), ..message(&mut rng) };
    let mut out = BytesMut::new();
    wire::put_messages(&mut out, &mut vec![many]);
    let (frames, end) = read_all(out, 1);
    assert!(frames.len() > 3 && matches!(end, WireError::Closed), "{end:?}");
    // What looks like a field inside of data is data.
    let chunk = pb::ArchiveChunk { number: 1, last: false, data: Bytes::from(vec![0x0a; 1000]) };
    let mut out = BytesMut::new();
    wire::put_kind(&mut out, frame::Kind::ArchiveChunk(chunk.clone()));
    assert_eq!(read_all(out, 1).0, [frame::Kind::ArchiveChunk(chunk)]);
}
