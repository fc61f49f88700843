//! Every mismatch there is, judged at both ends.

use std::collections::BTreeSet;

use conclave_proto::conclave::peer::v1 as pb;

use crate::{
    node::{datadir::KnownPeers, log::RealIo},
    peer::{
        Gate, Greeted, Greeting, Greetings, Me, Purpose, Refusal,
        gate::Closed,
        hello::{PROTOCOL, hello, read_hello, read_reply, reply},
        judge,
    },
    types::{ClusterId, LogIndex, MemberId},
};

const ME: Me = Me { cluster: ClusterId(0xc), member: MemberId(1), incarnation: 0x11, level: 1 };
const OTHER: Greeting = Greeting {
    protocol: PROTOCOL,
    cluster: ClusterId(0xc),
    member: MemberId(2),
    incarnation: 0x22,
    to: MemberId(1),
    level: 1,
    last: LogIndex(5),
};

#[test]
fn every_mismatch() {
    let refusal = |other: Greeting, is_member, known| judge(&ME, &other, is_member, known).err();
    assert_eq!(refusal(OTHER, true, None), None);
    assert_eq!(refusal(OTHER, true, Some(0x22)), None);
    assert_eq!(
        refusal(Greeting { level: 9, last: LogIndex(0), ..OTHER }, true, None),
        None,
        "levels are agreed upon later"
    );
    let table = [
        (Greeting { protocol: 0, ..OTHER }, true, None, Refusal::Protocol),
        (Greeting { protocol: 2, ..OTHER }, true, None, Refusal::Protocol),
        (Greeting { cluster: ClusterId(0xd), ..OTHER }, true, None, Refusal::Cluster),
        (Greeting { to: MemberId(3), ..OTHER }, true, None, Refusal::Addressee),
        (Greeting { to: MemberId(0), ..OTHER }, true, None, Refusal::Addressee),
        (Greeting { member: MemberId(1), ..OTHER }, true, None, Refusal::Itself),
        (OTHER, false, None, Refusal::Stranger),
        (OTHER, false, Some(0x22), Refusal::Stranger),
        (OTHER, true, Some(0x23), Refusal::Incarnation),
        (Greeting { incarnation: 0, ..OTHER }, true, None, Refusal::Malformed),
        (Greeting { incarnation: 0, ..OTHER }, true, Some(0x22), Refusal::Malformed),
        (Greeting { level: 0, ..OTHER }, true, None, Refusal::Malformed),
        // The first that explains the most.
        (Greeting { protocol: 9, cluster: ClusterId(1), to: MemberId(9), ..OTHER }, false, Some(1), Refusal::Protocol),
        (Greeting { cluster: ClusterId(1), to: MemberId(9), ..OTHER }, false, Some(1), Refusal::Cluster),
        (Greeting { to: MemberId(9), ..OTHER }, false, Some(1), Refusal::Addressee),
    ];
    for (other, is_member, known, expected) in table {
        assert_eq!(refusal(other, is_member, known), Some(expected), "{other:?} {is_member} {known:?}");
    }
    let named: BTreeSet<_> = table.iter().map(|row| row.3).collect();
    assert_eq!(named.len(), Refusal::ALL.len(), "the table has every refusal");
    let texts: BTreeSet<_> = Refusal::ALL.into_iter().map(|(refusal, _)| refusal.text()).collect();
    assert_eq!(texts.len(), Refusal::ALL.len());
}

#[test]
fn both_ends_say_the_same_of_themselves() {
    for purpose in [Purpose::Control, Purpose::Append, Purpose::Archive] {
        let (greeting, read) = read_hello(&hello(&ME, MemberId(2), purpose, LogIndex(7)));
        assert_eq!(read, Some(purpose));
        let expected = Greeting { member: ME.member, incarnation: 0x11, to: MemberId(2), last: LogIndex(7), ..OTHER };
        assert_eq!(greeting, expected);
    }
    for refused in Refusal::ALL.into_iter().map(|(refusal, _)| Some(refusal)).chain([None]) {
        let answer = reply(&ME, LogIndex(7), refused.map_or(Ok(()), Err), Some(0x99));
        assert_eq!(answer.known_incarnation, 0x99);
        let (greeting, read) = read_reply(&answer, MemberId(2));
        assert_eq!(read, refused);
        assert_eq!((greeting.member, greeting.to, greeting.last), (ME.member, MemberId(2), LogIndex(7)));
    }
}

/// What a later version might say is never taken for a yes.
#[test]
fn unknown_numbers_are_refusals() {
    let answer = pb::HelloReply { refusal: 99, ..reply(&ME, LogIndex(0), Ok(()), None) };
    assert_eq!(read_reply(&answer, MemberId(2)).1, Some(Refusal::Malformed));
    let odd = pb::Hello { purpose: 99, ..hello(&ME, MemberId(2), Purpose::Control, LogIndex(0)) };
    assert_eq!(read_hello(&odd).1, None);
}

fn gate(dir: &std::path::Path) -> Gate<RealIo> {
    let known = KnownPeers::open(RealIo::new(dir)).unwrap();
    Gate::new(ME, [MemberId(2), MemberId(3)].into(), known)
}

#[test]
fn remembered_before_let_in() {
    let temp = tempfile::tempdir().unwrap();
    assert_eq!(gate(temp.path()).admit(&OTHER).unwrap().member(), MemberId(2));
    // Another process of this member, after a crash.
    let again = gate(temp.path());
    assert!(again.admit(&OTHER).is_ok());
    match again.admit(&Greeting { incarnation: 0x23, ..OTHER }) {
        Err(Closed::Refused { refusal: Refusal::Incarnation, known: Some(0x22) }) => {}
        other => panic!("{other:?}"),
    }
    // Who is refused is not remembered.
    assert!(again.admit(&Greeting { member: MemberId(3), cluster: ClusterId(1), ..OTHER }).is_err());
    assert!(again.admit(&Greeting { member: MemberId(3), incarnation: 0x33, ..OTHER }).is_ok());
}

#[test]
fn nobody_is_let_in_when_the_disk_fails() {
    let temp = tempfile::tempdir().unwrap();
    let gate = gate(temp.path());
    temp.close().unwrap();
    assert!(matches!(gate.admit(&OTHER), Err(Closed::Disk(_))));
}

#[test]
fn a_first_start_asks_everybody() {
    let (a, b) = (MemberId(2), MemberId(3));
    let mut greetings = Greetings::new([a, b].into());
    greetings.accepted(a);
    greetings.accepted(a);
    greetings.accepted(MemberId(9));
    assert_eq!(*greetings.state(), Greeted::Waiting([b].into()));
    let mut emptied = greetings.clone();
    greetings.accepted(b);
    assert_eq!(*greetings.state(), Greeted::All);
    emptied.emptied(b, 7);
    emptied.accepted(b);
    emptied.emptied(a, 8);
    assert_eq!(*emptied.state(), Greeted::Emptied { by: b, known: 7 });
    assert_eq!(*Greetings::new(BTreeSet::new()).state(), Greeted::All);
}
