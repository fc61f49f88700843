//! What becomes of messages that a lane does not carry.

use std::time::Duration;

use bytes::Bytes;

use crate::{
    node::{
        Aside, Forward, Lane, Message, MessageKind, Transport,
        log::{EntryKind, LogEntry},
        raft_thread::Event,
    },
    types::{LogIndex, MemberId, Term},
};

fn message(kind: MessageKind, number: u64) -> Message {
    let data = Bytes::from_static(b"proposal");
    let entry = LogEntry { index: LogIndex(0), term: Term(0), kind: EntryKind::Normal, data };
    let message = Message::new(kind, MemberId(1), MemberId(2), Term(7));
    Message { entries: vec![entry], ..message }.with(Aside::Forward(Forward { life: 1, number }))
}

/// Numbers of the proposals that came back.
fn came_back(transport: &Transport) -> Vec<u64> {
    let mut events = Vec::new();
    transport.events().take(&mut events, Some(Duration::ZERO));
    let number = |event| match event {
        Event::Message(message) => {
            assert_eq!(message.kind, MessageKind::ProposeRefused);
            assert_eq!((message.from, message.to, message.term), (MemberId(2), MemberId(1), Term(7)));
            assert!(!message.reject && message.entries.len() == 1, "as if its leader had no time for it");
            message.forward().map(|forward| forward.number)
        }
        _ => None,
    };
    events.into_iter().filter_map(number).collect()
}

#[test]
fn proposals_that_were_not_sent_come_back() {
    let transport = Transport::new(LogIndex(0));
    let outbox = transport.outbox(MemberId(2));
    let propose = |number| transport.send(vec![message(MessageKind::Propose, number)]);
    propose(1);
    assert_eq!(came_back(&transport), [1], "nobody is connected");
    outbox.open(Lane::Append);
    propose(2);
    propose(3);
    assert!(came_back(&transport).is_empty());
    let mut taken = Vec::new();
    assert!(outbox.take(Lane::Append, 1, &mut taken));
    assert_eq!(taken.len(), 1);
    transport.send(vec![message(MessageKind::Append, 0)]);
    transport.close(&outbox, Lane::Append);
    // The first one may have reached the leader: nobody knows, so it must not be made again.
    assert_eq!(came_back(&transport), [3]);
}
