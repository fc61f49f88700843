//! What the bytes say when a client reads them: each body with its watch id is the WatchResponse that was meant.

use conclave_proto::{
    etcdserverpb::{ResponseHeader, WatchResponse},
    mvccpb::{Event, KeyValue, event::EventType},
};
use prost::Message;

use super::world::decode;
use crate::{
    mvcc::{Change, Kind},
    types::{ClusterId, MemberId, Revision, Sub, Term},
    watch::{
        Frame,
        encode::{Encoder, Shape},
    },
};

const IDS: [i64; 6] = [0, 1, 127, 128, -1, i64::MAX];

fn encoder(max_fragment_bytes: usize) -> Encoder {
    let mut encoder = Encoder::new(ClusterId(u64::MAX), MemberId(5), max_fragment_bytes);
    encoder.set_term(Term(9));
    encoder
}

fn expected(watch_id: i64, revision: i64) -> WatchResponse {
    let header = ResponseHeader { cluster_id: u64::MAX, member_id: 5, revision, raft_term: 9 };
    WatchResponse { header: Some(header), watch_id, ..WatchResponse::default() }
}

fn change(kind: Kind, key: &'static str, value: &str, prev: Option<&str>) -> Change {
    let kv = |value: &str, at| KeyValue {
        key: key.into(),
        value: value.to_owned().into(),
        create_revision: 3,
        mod_revision: at,
        version: at - 2,
        lease: 77,
    };
    let put = kv(value, 8);
    let delete = KeyValue { key: key.into(), mod_revision: 8, ..KeyValue::default() };
    let prev = prev.map(|prev| kv(prev, 7));
    Change { kind, sub: Sub(0), kv: if kind == Kind::Put { put } else { delete }, prev }
}

fn event(change: &Change, prev_kv: bool) -> Event {
    let kind = if change.kind == Kind::Put { EventType::Put } else { EventType::Delete };
    let prev_kv = change.prev.clone().filter(|_| prev_kv);
    Event { r#type: kind.into(), kv: Some(change.kv.clone()), prev_kv }
}

#[test]
fn answers_are_what_they_say() {
    let encoder = encoder(usize::MAX);
    for watch_id in IDS {
        let read = |body| decode(&Frame { watch_id, body });
        let at = expected(watch_id, 4);
        assert_eq!(read(encoder.progress(Revision(4))), at);
        assert_eq!(read(encoder.created(Revision(4))), WatchResponse { created: true, ..at.clone() });
        assert_eq!(read(encoder.canceled(Revision(4))), WatchResponse { canceled: true, ..at.clone() });
        assert_eq!(
            read(encoder.refused(Revision(4), "no")),
            WatchResponse { created: true, canceled: true, cancel_reason: "no".into(), ..at }
        );
        assert_eq!(
            read(encoder.compacted(Revision(6))),
            WatchResponse { canceled: true, compact_revision: 6, ..expected(watch_id, 0) }
        );
    }
}

#[test]
fn events_are_what_they_say() {
    let long = "x".repeat(300);
    let changes = [
        change(Kind::Put, "a", "1", None),
        change(Kind::Put, "b", &long, Some("0")),
        change(Kind::Delete, "c", "", Some(&long)),
        change(Kind::Delete, "d", "", None),
    ];
    let events: Vec<&Change> = changes.iter().collect();
    for watch_id in IDS {
        for prev_kv in [false, true] {
            let shape = Shape { prev_kv, fragment: false };
            let bodies = encoder(1).events(Revision(8), &events, shape);
            assert_eq!(bodies.len(), 1, "who did not ask for fragments gets none");
            let response = decode(&Frame { watch_id, body: bodies[0].clone() });
            let events = changes.iter().map(|change| event(change, prev_kv)).collect();
            assert_eq!(response, WatchResponse { events, ..expected(watch_id, 8) });
        }
    }
}

/// At every limit: together the fragments are the response, each stays below the limit unless one event alone does not,
/// none could have taken the next one's first event, and all but the last say that there is more.
#[test]
fn fragments_stay_below_the_limit() {
    let changes: Vec<Change> =
        (0..40).map(|n| change(Kind::Put, "key", &"v".repeat(n * 7 % 90), (n % 3 == 0).then_some("prev"))).collect();
    let events: Vec<&Change> = changes.iter().collect();
    for limit in 1..5000 {
        let bodies = encoder(limit).events(Revision(8), &events, Shape { prev_kv: true, fragment: true });
        let frames: Vec<Frame> = bodies.into_iter().map(|body| Frame { watch_id: i64::MAX, body }).collect();
        let parts: Vec<WatchResponse> = frames.iter().map(decode).collect();
        let told: Vec<Event> = parts.iter().flat_map(|part| part.events.clone()).collect();
        assert_eq!(told, changes.iter().map(|change| event(change, true)).collect::<Vec<_>>());
        for (at, part) in parts.iter().enumerate() {
            assert_eq!(part.fragment, at + 1 < parts.len());
            assert!(part.events.len() == 1 || frames[at].message_len() < limit);
            if let Some(next) = parts.get(at + 1) {
                let with_next = frames[at].message_len() + 3 + next.events[0].encoded_len();
                assert!(with_next + 16 >= limit, "limit {limit}: fragment {at} is shorter than it needs to be");
            }
        }
    }
}
