//! The room on real sockets: with itself, and with a member that is played by hand.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes, BytesMut};
use conclave_proto::conclave::peer::v1::{self as pb, frame};

use crate::{
    node::{
        Message, MessageKind, Transport,
        datadir::KnownPeers,
        log::{EntryKind, LogEntry, RealIo},
    },
    peer::{
        Greeted, Me, Peers, PeersConfig, Purpose, Refusal, Timing,
        hello::{hello, reply},
        wire::{self, MAGIC},
    },
    snapshot::{ArchiveMeta, Chunk, ToReceiver, ToSender},
    types::{ClusterId, LogIndex, MemberId, Revision, Term},
};

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

fn me(member: u64) -> Me {
    Me { cluster: ClusterId(0xc), member: MemberId(member), incarnation: 0x10 + member, level: 1 }
}

/// A member's room, with its folder.
struct Room {
    transport: Transport,
    peers: Peers,
    address: SocketAddr,
    seen: Vec<String>,
    _folder: tempfile::TempDir,
}

fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn known(folder: &Path) -> KnownPeers<RealIo> {
    KnownPeers::open(RealIo::new(folder)).unwrap()
}

impl Room {
    fn start(member: u64, (listener, address): (TcpListener, SocketAddr), others: &[(u64, SocketAddr)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let transport = Transport::in_test(LogIndex(100 + member));
        let others: BTreeMap<_, _> =
            others.iter().map(|(id, address)| (MemberId(*id), vec![format!("http://{address}")])).collect();
        let patient = Duration::from_secs(5);
        let timing = Timing { election: Duration::from_millis(100), read: patient, write: patient };
        listener.set_nonblocking(true).unwrap();
        let config = PeersConfig { me: me(member), others, timing };
        let peers = Peers::start(config, vec![listener], transport.clone(), known(folder.path())).unwrap();
        Self { transport, peers, address, seen: Vec::new(), _folder: folder }
    }

    /// Waits until something came to raft.
    fn until(&mut self, what: &str) {
        let began = Instant::now();
        while !self.seen.iter().any(|seen| seen == what) {
            assert!(began.elapsed() < PATIENCE, "{what} did not come, but {:?}", self.seen);
            self.seen.extend(self.transport.came());
        }
    }

    /// Gives a message to the outbox again and again, as raft does, until it arrives at `there`.
    fn send_until(&self, message: &Message, there: &mut Self, what: &str) {
        let began = Instant::now();
        while !there.seen.iter().any(|seen| seen == what) {
            assert!(began.elapsed() < PATIENCE, "{what} did not come, but {:?}", there.seen);
            self.transport.put(vec![message.clone()]);
            there.seen.extend(there.transport.came());
        }
    }

    fn until_greeted(&self, expected: &Greeted) {
        until_greeted(&self.peers, expected);
    }
}

fn until_greeted(peers: &Peers, expected: &Greeted) {
    let mut greeted = peers.greeted();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let outcome = runtime
        .block_on(async { tokio::time::timeout(PATIENCE, greeted.wait_for(|now| now == expected)).await.is_ok() });
    assert!(outcome, "{:?}", peers.greeted().borrow());
}

fn message(kind: MessageKind, from: u64, to: u64, index: u64, entries: &[usize]) -> Message {
    let entries = entries.iter().zip(index + 1..).map(|(len, index)| LogEntry {
        index: LogIndex(index),
        term: Term(1),
        kind: EntryKind::Normal,
        data: Bytes::from(vec![7; *len]),
    });
    Message {
        log_term: Term(1),
        index: LogIndex(index),
        entries: entries.collect(),
        ..Message::new(kind, MemberId(from), MemberId(to), Term(1))
    }
}

#[test]
fn two_members() {
    let (a, b) = (listener(), listener());
    let (at_a, at_b) = (a.1, b.1);
    let mut a = Room::start(1, a, &[(2, at_b)]);
    let mut b = Room::start(2, b, &[(1, at_a)]);
    a.until_greeted(&Greeted::All);
    b.until_greeted(&Greeted::All);
    a.until("2 offers 102");
    b.until("1 offers 101");
    a.send_until(&message(MessageKind::Heartbeat, 1, 2, 7, &[]), &mut b, "Heartbeat 7 from 1");
    b.send_until(&message(MessageKind::AppendResponse, 2, 1, 8, &[]), &mut a, "AppendResponse 8 from 2");
    // Entries of three megabytes, which go over the wire as several appends that follow on each other.
    a.send_until(&message(MessageKind::Append, 1, 2, 20, &[1 << 20, 1 << 20, 1 << 20, 5]), &mut b, "Append 22 from 1");
    b.until("Append 20 from 1");
    let traffic = |room: &Room, other| room.transport.outbox(MemberId(other));
    let ordering = std::sync::atomic::Ordering::Relaxed;
    assert!(traffic(&a, 2).traffic.sent_bytes.load(ordering) > 3 << 20);
    assert_eq!(traffic(&a, 2).traffic.connected.load(ordering), 2);
    assert!(traffic(&a, 2).traffic.round_trips().0.iter().sum::<u64>() > 0);

    // One goes: the other learns of it, and finds the one that comes in its place.
    let Room { peers, address, _folder: folder, .. } = b;
    peers.stop();
    a.until("2 is unreachable");
    let listener = TcpListener::bind(address).unwrap();
    let mut b = Room::start(2, (listener, address), &[(1, at_a)]);
    a.seen.clear();
    a.send_until(&message(MessageKind::Heartbeat, 1, 2, 9, &[]), &mut b, "Heartbeat 9 from 1");
    drop(folder);
    // One with another folder is not let in any more, and learns why.
    b.peers.stop();
    let folder = tempfile::tempdir().unwrap();
    let config = PeersConfig {
        me: Me { incarnation: 0x99, ..me(2) },
        others: [(MemberId(1), vec![format!("http://{at_a}")])].into(),
        timing: Timing { election: Duration::from_millis(100), read: PATIENCE, write: PATIENCE },
    };
    let stranger = Peers::start(config, Vec::new(), Transport::in_test(LogIndex(0)), known(folder.path())).unwrap();
    until_greeted(&stranger, &Greeted::Emptied { by: MemberId(1), known: 0x12 });
    stranger.stop();
    a.peers.stop();
}

#[test]
fn an_archive_has_its_own_way() {
    let (a, b) = (listener(), listener());
    let (at_a, at_b) = (a.1, b.1);
    let a = Room::start(1, a, &[(2, at_b)]);
    let b = Room::start(2, b, &[(1, at_a)]);
    a.until_greeted(&Greeted::All);
    let mut accepted = b.transport.accepted_pipes().unwrap();
    assert!(b.transport.accepted_pipes().is_none(), "one taker");
    let meta = ArchiveMeta {
        cluster: ClusterId(0xc),
        index: LogIndex(5),
        term: Term(2),
        revision: Revision(9),
        conf_state: Bytes::from_static(b"voters"),
    };
    let chunk = |number| Chunk { number, bytes: Bytes::from(vec![3; 256 << 10]), last: number == 9 };
    let mut giving = a.transport.open_pipe(MemberId(2)).unwrap();
    assert!(giving.send(ToReceiver::Begin { meta: meta.clone(), term: Term(4) }));
    let mut taking = accepted.blocking_recv().unwrap();
    assert_eq!(taking.member(), MemberId(1));
    assert_eq!(taking.receive(), Some(ToReceiver::Begin { meta, term: Term(4) }));
    for number in 0..10 {
        assert!(taking.send(ToSender::Have(number)));
        assert_eq!(giving.receive(), Some(ToSender::Have(number)));
        assert!(giving.send(ToReceiver::Chunk(chunk(number))));
        assert_eq!(taking.receive(), Some(ToReceiver::Chunk(chunk(number))));
    }
    assert!(taking.send(ToSender::Staged));
    drop(taking);
    assert_eq!(giving.receive(), Some(ToSender::Staged), "what was said last arrives");
    assert_eq!(giving.receive(), None);
    // Whoever gives up is heard of at the other end.
    let mut giving = a.transport.open_pipe(MemberId(2)).unwrap();
    let mut taking = accepted.blocking_recv().unwrap();
    drop(a.transport.open_pipe(MemberId(2)));
    drop(accepted.blocking_recv().unwrap());
    assert_eq!(taking.receive(), None, "a newer transfer of the same member ends the older one");
    assert_eq!(giving.receive(), None);
    assert!(a.transport.open_pipe(MemberId(77)).unwrap().receive().is_none(), "nobody of that name");
    a.peers.stop();
    b.peers.stop();
}

/// A member that is played by hand.
struct ByHand {
    stream: TcpStream,
    bytes: BytesMut,
}

impl ByHand {
    fn new(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { stream, bytes: BytesMut::new() }
    }

    fn say(&mut self, message: &impl prost::Message) {
        let mut out = BytesMut::new();
        wire::put(&mut out, message);
        self.stream.write_all(&out).unwrap();
    }

    /// Says the magic number and the first message.
    fn begin(&mut self, message: &impl prost::Message) {
        self.stream.write_all(&MAGIC).unwrap();
        self.say(message);
    }

    fn need(&mut self, len: usize) -> bool {
        let mut piece = [0; 4096];
        while self.bytes.len() < len {
            match self.stream.read(&mut piece) {
                Ok(0) => return false,
                Ok(read) => self.bytes.extend_from_slice(&piece[..read]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return false,
                Err(error) => panic!("{error}"),
            }
        }
        true
    }

    fn hear_magic(&mut self) {
        assert!(self.need(8));
        assert_eq!(self.bytes.split_to(8), MAGIC[..]);
    }

    /// None: the connection ended.
    fn hear<M: prost::Message + Default>(&mut self) -> Option<M> {
        if !self.need(8) {
            return None;
        }
        let len = (&self.bytes[..4]).get_u32_le() as usize;
        if !self.need(8 + len) {
            return None;
        }
        self.bytes.advance(8);
        Some(M::decode(self.bytes.split_to(len).freeze()).unwrap())
    }
}

fn accept_by_hand(listener: &TcpListener) -> (ByHand, pb::Hello) {
    let mut by_hand = ByHand::new(listener.accept().unwrap().0);
    by_hand.hear_magic();
    let hello = by_hand.hear().unwrap();
    (by_hand, hello)
}

#[test]
fn silence_ends_a_connection() {
    let (by_hand, at_hand) = listener();
    let mut room = Room::start(1, listener(), &[(2, at_hand)]);
    // Both lanes are dialled; each hears its answer, and then nothing any more although the connection stays open.
    let mut open = Vec::new();
    for _ in 0..2 {
        let (mut connection, _) = accept_by_hand(&by_hand);
        connection.begin(&reply(&me(2), LogIndex(0), Ok(()), None));
        open.push(connection);
    }
    room.until("2 is unreachable");
    // And it tries again.
    let (_, hello) = accept_by_hand(&by_hand);
    assert_eq!((hello.member, hello.to, hello.last_index), (1, 2, 101));
    drop(open);
    room.peers.stop();
}

#[test]
fn a_new_connection_ends_the_old_one() {
    let room = Room::start(1, listener(), &[(2, listener().1)]);
    let dial = || {
        let mut by_hand = ByHand::new(TcpStream::connect(room.address).unwrap());
        by_hand.begin(&hello(&me(2), MemberId(1), Purpose::Control, LogIndex(3)));
        by_hand.hear_magic();
        assert_eq!(by_hand.hear::<pb::HelloReply>().unwrap().refusal, 0);
        by_hand
    };
    let mut first = dial();
    first.say(&pb::Frame { kind: Some(frame::Kind::Ping(pb::Ping { number: 5 })) });
    let pong = loop {
        let frame: pb::Frame = first.hear().unwrap();
        if frame.kind != Some(frame::Kind::Pong(pb::Pong { number: 0 })) {
            break frame;
        }
    };
    assert_eq!(pong.kind, Some(frame::Kind::Pong(pb::Pong { number: 5 })));
    let mut second = dial();
    while first.hear::<pb::Frame>().is_some() {}
    second.say(&pb::Frame { kind: Some(frame::Kind::Ping(pb::Ping { number: 6 })) });
    assert!(second.hear::<pb::Frame>().is_some());
    room.peers.stop();
}

#[test]
fn what_does_not_belong_ends_a_connection() {
    let mut room = Room::start(1, listener(), &[(2, listener().1)]);
    let heartbeat = |from, to| crate::peer::message_out(message(MessageKind::Heartbeat, from, to, 1, &[]));
    let messages = |messages| frame::Kind::Messages(pb::Messages { messages });
    let cases = [
        None,
        Some(messages(vec![heartbeat(3, 1)])),
        Some(messages(vec![heartbeat(2, 3)])),
        Some(messages(vec![pb::Message { kind: 99, ..heartbeat(2, 1) }])),
        Some(messages(vec![heartbeat(2, 1), pb::Message { kind: 0, ..heartbeat(2, 1) }])),
        Some(frame::Kind::Pong(pb::Pong { number: 1 })),
        Some(frame::Kind::ArchiveAnswer(pb::ArchiveAnswer::default())),
    ];
    for kind in cases {
        for purpose in [Purpose::Control, Purpose::Archive] {
            let mut by_hand = ByHand::new(TcpStream::connect(room.address).unwrap());
            by_hand.begin(&hello(&me(2), MemberId(1), purpose, LogIndex(3)));
            by_hand.hear_magic();
            by_hand.hear::<pb::HelloReply>().unwrap();
            by_hand.say(&pb::Frame { kind: kind.clone() });
            while by_hand.hear::<pb::Frame>().is_some() {}
        }
    }
    // Nothing of it came to raft but what the hellos said.
    room.until("2 offers 3");
    assert!(room.seen.iter().all(|seen| seen == "2 offers 3"), "{:?}", room.seen);
    for refusal in [Refusal::Stranger, Refusal::Cluster, Refusal::Addressee, Refusal::Incarnation] {
        let mut hello = hello(&me(2), MemberId(1), Purpose::Append, LogIndex(3));
        match refusal {
            Refusal::Stranger => hello.member = 3,
            Refusal::Cluster => hello.cluster = 1,
            Refusal::Addressee => hello.to = 7,
            _ => hello.incarnation = 1,
        }
        let mut by_hand = ByHand::new(TcpStream::connect(room.address).unwrap());
        by_hand.begin(&hello);
        by_hand.hear_magic();
        let answer: pb::HelloReply = by_hand.hear().unwrap();
        let expected = Refusal::ALL.into_iter().find(|(mine, _)| *mine == refusal).unwrap().1;
        assert_eq!(answer.refusal(), expected);
        assert_eq!(
            answer.known_incarnation,
            if refusal == Refusal::Incarnation { 0x12 } else { answer.known_incarnation }
        );
        assert!(by_hand.hear::<pb::Frame>().is_none());
    }
    room.peers.stop();
}
