//! What members say to each other stays readable for ever, since members of two versions run side by side during an
//! upgrade: one encoded message of each kind is kept in `golden/peer/`. A file there is never changed.

use std::{fs, path::Path};

use bytes::Bytes;
use conclave_proto::conclave::peer::v1::{
    ArchiveAnswer, ArchiveBegin, ArchiveChunk, ArchiveMeta, Entry, EntryKind, Forward, Frame, Hello, HelloReply, Kind,
    LeaseAnswer, LeaseAnswers, LeaseAsk, LeaseAsks, Message, Messages, Ping, Pong, Purpose, Refusal, archive_answer,
    frame, message,
};

fn hello() -> Hello {
    Hello {
        protocol: 1,
        cluster: 0x0102_0304_0506_0708,
        member: 0x1112_1314_1516_1718,
        incarnation: 0x2122_2324_2526_2728,
        to: 0x3132_3334_3536_3738,
        level: 1,
        purpose: Purpose::Append.into(),
        last_index: 300,
    }
}

fn reply() -> HelloReply {
    HelloReply {
        protocol: 1,
        cluster: 0x0102_0304_0506_0708,
        member: 0x3132_3334_3536_3738,
        incarnation: 0x4142_4344_4546_4748,
        level: 1,
        last_index: 299,
        refusal: Refusal::Incarnation.into(),
        known_incarnation: 0x5152_5354_5556_5758,
    }
}

fn meta() -> ArchiveMeta {
    ArchiveMeta {
        cluster: 0x0102_0304_0506_0708,
        index: 1_000_000,
        term: 7,
        revision: 500_000,
        conf_state: Bytes::from_static(b"voters"),
    }
}

fn messages() -> Messages {
    let append = Message {
        kind: Kind::Append.into(),
        to: 2,
        from: 1,
        term: 7,
        log_term: 6,
        index: 300,
        entries: vec![
            Entry { kind: EntryKind::Normal.into(), term: 7, index: 301, data: Bytes::from_static(b"entry") },
            Entry { kind: EntryKind::ConfChangeV2.into(), term: 7, index: 302, data: Bytes::new() },
        ],
        commit: 299,
        ..Message::default()
    };
    let response = Message {
        kind: Kind::AppendResponse.into(),
        to: 1,
        from: 2,
        term: 7,
        commit_term: 5,
        reject: true,
        reject_hint: 250,
        request_snapshot: 3,
        context: Bytes::from_static(b"round"),
        priority: -1,
        ..Message::default()
    };
    let snapshot = Message { kind: Kind::Snapshot.into(), to: 2, from: 1, archive: Some(meta()), ..Message::default() };
    Messages { messages: vec![append, response, snapshot] }
}

/// What the kinds that raft does not know carry.
fn asides() -> Messages {
    let message =
        |kind: Kind, aside| Message { kind: kind.into(), to: 2, from: 1, term: 7, aside, ..Message::default() };
    let entry = Entry { data: Bytes::from_static(b"proposal"), ..Entry::default() };
    let forward = Some(message::Aside::Forward(Forward { life: 3, number: 400 }));
    let asks =
        vec![LeaseAsk { ticket: 1 << 40, lease: -5, renew: true }, LeaseAsk { ticket: 2, lease: 6, renew: false }];
    let answers = vec![
        LeaseAnswer { ticket: 1 << 40, lives: true, remaining_ms: 59_000, granted_ms: 60_000 },
        LeaseAnswer { ticket: 2, lives: false, remaining_ms: 0, granted_ms: 0 },
    ];
    let messages = vec![
        Message { entries: vec![entry.clone()], ..message(Kind::Propose, forward.clone()) },
        Message { entries: vec![entry], reject: true, ..message(Kind::ProposeRefused, forward) },
        message(Kind::LeaseAsk, Some(message::Aside::LeaseAsks(LeaseAsks { asks }))),
        message(Kind::LeaseAnswer, Some(message::Aside::LeaseAnswers(LeaseAnswers { answers }))),
    ];
    Messages { messages }
}

fn frame(kind: frame::Kind) -> Vec<u8> {
    prost::Message::encode_to_vec(&Frame { kind: Some(kind) })
}

#[test]
fn golden_messages_mean_what_they_meant() {
    let frames = [
        ("messages", frame::Kind::Messages(messages())),
        ("asides", frame::Kind::Messages(asides())),
        ("ping", frame::Kind::Ping(Ping { number: 77 })),
        ("pong", frame::Kind::Pong(Pong { number: 77 })),
        ("archive_begin", frame::Kind::ArchiveBegin(ArchiveBegin { meta: Some(meta()), term: 6 })),
        (
            "archive_chunk",
            frame::Kind::ArchiveChunk(ArchiveChunk { number: 5, last: true, data: Bytes::from_static(b"chunk") }),
        ),
        (
            "archive_answer",
            frame::Kind::ArchiveAnswer(ArchiveAnswer { state: archive_answer::State::NoSpace.into(), have: 4 }),
        ),
    ];
    let mut all = vec![
        ("hello", prost::Message::encode_to_vec(&hello())),
        ("hello_reply", prost::Message::encode_to_vec(&reply())),
    ];
    all.extend(frames.iter().map(|(name, kind)| (*name, frame(kind.clone()))));
    let mut changed = Vec::new();
    for (name, bytes) in &all {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/peer/{name}.hex"));
        let kept = fs::read_to_string(&path).unwrap_or_default();
        if unhex(&kept) != *bytes {
            changed.push(format!("{name} is today\n{}", hex(bytes)));
        }
    }
    assert!(changed.is_empty(), "{}", changed.join("\n"));
    for (name, kind) in frames {
        let read: Frame = prost::Message::decode(&frame(kind.clone())[..]).expect(name);
        assert_eq!(read.kind, Some(kind), "{name} decodes to something else");
    }
}

/// Bytes as lines of 32, so that a change shows where it is.
fn hex(bytes: &[u8]) -> String {
    let line = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>() + "\n";
    bytes.chunks(32).map(line).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = text.split_whitespace().collect::<String>();
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).expect("hex digits")).collect()
}
