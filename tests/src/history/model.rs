//! A store that is right by construction, with clients whose requests overlap: valid histories for the tests.

use std::collections::BTreeMap;

use bytes::Bytes;
use conclave_proto::mvccpb::{Event, KeyValue, event::EventType};
use rand::{Rng, RngExt};

use super::{Answer, Call, Op, Outcome, Time, Txn};

/// A history and the events that go with it.
#[derive(Clone, Debug, Default)]
pub(super) struct Valid {
    pub events: Vec<Event>,
    pub ops: Vec<Op>,
}

#[derive(Default)]
struct Store {
    /// After each revision from 1 on.
    states: Vec<BTreeMap<Bytes, KeyValue>>,
    events: Vec<Event>,
}

fn key(n: u32) -> Bytes {
    format!("k{n}").into()
}

impl Store {
    fn revision(&self) -> i64 {
        i64::try_from(self.states.len()).expect("few")
    }

    fn now(&self) -> &BTreeMap<Bytes, KeyValue> {
        self.states.last().expect("revision 1 is there from the start")
    }

    /// One revision: puts, and a delete of what exists.
    fn change(&mut self, puts: &[(Bytes, Bytes)], delete: Option<&Bytes>) {
        let (made, mut state) = (self.revision() + 1, self.now().clone());
        for (key, value) in puts {
            let prev_kv = state.get(key).cloned();
            let (create_revision, version) =
                prev_kv.as_ref().map_or((made, 1), |prev| (prev.create_revision, prev.version + 1));
            let (key, value) = (key.clone(), value.clone());
            let kv = KeyValue { key: key.clone(), value, create_revision, mod_revision: made, version, lease: 0 };
            state.insert(key, kv.clone());
            self.events.push(Event { r#type: EventType::Put.into(), kv: Some(kv), prev_kv });
        }
        if let Some(prev) = delete.and_then(|key| state.remove(key)) {
            let kv = KeyValue { key: prev.key.clone(), mod_revision: made, ..KeyValue::default() };
            self.events.push(Event { r#type: EventType::Delete.into(), kv: Some(kv), prev_kv: Some(prev) });
        }
        self.states.push(state);
    }

    fn execute(&mut self, call: &Call, rng: &mut impl Rng) -> (i64, Answer) {
        match call {
            Call::Put { key, value } => {
                let prev = self.now().get(key).cloned();
                self.change(&[(key.clone(), value.clone())], None);
                (self.revision(), Answer::Put { prev })
            }
            Call::Delete { key } => {
                let prev = self.now().get(key).cloned();
                if prev.is_some() {
                    self.change(&[], Some(key));
                }
                (self.revision(), Answer::Delete { prev })
            }
            Call::Txn(txn) => {
                let found = self.now().get(&txn.key).cloned();
                let succeeded = found.as_ref().map_or(0, |kv| kv.mod_revision) == txn.mod_revision;
                if succeeded {
                    self.change(&txn.puts, txn.delete.as_ref());
                }
                (self.revision(), Answer::Txn { succeeded, found: found.filter(|_| !succeeded) })
            }
            Call::Read { from, to, linearizable, at } => {
                let last = self.revision();
                let revision = if *linearizable { last } else { rng.random_range(last.max(9) - 8..=last) };
                let at = if *at == 0 { revision } else { *at };
                let state = &self.states[usize::try_from(at - 1).expect("positive")];
                let inside =
                    |kv: &&KeyValue| if to.is_empty() { kv.key == from } else { kv.key >= from && kv.key < to };
                (revision.max(at), Answer::Read { kvs: state.values().filter(inside).cloned().collect() })
            }
        }
    }

    fn call(&self, n: usize, rng: &mut impl Rng) -> Call {
        let at = rng.random_range(0..6);
        let value = |part: u32| Bytes::from(format!("v{n}.{part}"));
        match rng.random_range(0..10) {
            0..=2 => Call::Put { key: key(at), value: value(0) },
            3 => Call::Delete { key: key(at) },
            4..=5 => {
                let known = self.now().get(&key(at)).map_or(0, |kv| kv.mod_revision);
                let mod_revision = if rng.random() { known } else { rng.random_range(0..=self.revision()) };
                let puts = vec![(key(at), value(0)), (key(at + 1), value(1))];
                Call::Txn(Txn { key: key(at), mod_revision, puts, delete: rng.random::<bool>().then(|| key(at + 2)) })
            }
            6 if self.revision() > 2 => {
                let at_revision = rng.random_range(2..=self.revision());
                Call::Read { from: key(0), to: key(9), linearizable: true, at: at_revision }
            }
            6..=7 => Call::Read { from: key(at), to: Bytes::new(), linearizable: true, at: 0 },
            8 => Call::Read { from: key(at), to: key(9), linearizable: true, at: 0 },
            _ => Call::Read { from: key(0), to: key(9), linearizable: false, at: 0 },
        }
    }
}

/// Each request takes effect at one moment between its call and its return, or at any later one, or never.
pub(super) fn valid(requests: usize, rng: &mut impl Rng) -> Valid {
    let mut store = Store { states: vec![BTreeMap::new()], events: Vec::new() };
    let (mut ops, mut late): (Vec<Op>, Vec<usize>) = Default::default();
    for n in 0..requests {
        // Effects happen at multiples of 1000; calls and returns up to ten effects away.
        let now = (n as Time + 20) * 1_000;
        if let Some(n) = late.pop_if(|_| rng.random_range(0..4) == 0) {
            store.execute(&ops[n].call.clone(), rng);
        }
        let call = store.call(n, rng);
        let called = now - rng.random_range(1..10_000);
        let outcome = match rng.random_range(0..12) {
            0 => Outcome::Refused,
            1 => Outcome::Unknown,
            2 => {
                store.execute(&call, rng);
                Outcome::Unknown
            }
            3 => {
                late.push(n);
                Outcome::Unknown
            }
            _ => {
                let (revision, answer) = store.execute(&call, rng);
                Outcome::Done { returned: now + rng.random_range(1..10_000), revision, answer }
            }
        };
        ops.push(Op { client: n, member: n % 3, called, call, outcome });
    }
    Valid { events: store.events, ops }
}
