//! The two values that say where the state stands: one after whole entries, one within an entry that is written in
//! pieces. Both are written in the batch that they speak of, so they are true whatever a crash leaves.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::encoding::{decode_varint, encode_varint};

use super::requests::Window;
use crate::{
    mvcc::Position,
    types::{LogIndex, Revision, Sub, Term},
};

/// First byte of both values.
const VERSION: u8 = 1;

/// Where the state stands after the last entry that was applied as a whole.
///
/// Everything that must agree lies in one value: a store that is a prefix of what was written has one of them, and it is
/// the right one.
///
/// Value, version 1: varints of applied index and term; of revision and of compacted revision + 1 (which is 0 while
/// nothing was compacted); of the oldest and of the next age in the window of remembered requests; then raft's ConfState
/// to the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Settled {
    pub(super) applied: LogIndex,
    pub(super) term: Term,
    pub(super) position: Position,
    pub(super) window: Window,
    pub(super) conf_state: Bytes,
}

impl Settled {
    /// A store in which nothing was ever written.
    pub(super) fn fresh() -> Self {
        Self {
            applied: LogIndex(0),
            term: Term(0),
            position: Position { revision: Revision::FIRST, compacted: Revision::NEVER },
            window: Window::default(),
            conf_state: Bytes::new(),
        }
    }

    pub(super) fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(64 + self.conf_state.len());
        out.put_u8(VERSION);
        let Position { revision, compacted } = self.position;
        for number in [
            self.applied.0,
            self.term.0,
            unsigned(revision.0),
            unsigned(compacted.0 + 1),
            self.window.oldest,
            self.window.next,
        ] {
            encode_varint(number, &mut out);
        }
        out.put_slice(&self.conf_state);
        out.freeze()
    }

    pub(super) fn decode(value: &Bytes) -> Option<Self> {
        let mut rest = after_version(value)?;
        let mut number = || decode_varint(&mut rest).ok();
        let (applied, term) = (LogIndex(number()?), Term(number()?));
        let (revision, compacted) = (i64::try_from(number()?).ok()?, i64::try_from(number()?).ok()?);
        let position = Position { revision: Revision(revision), compacted: Revision(compacted - 1) };
        let window = Window { oldest: number()?, next: number()? };
        (window.oldest <= window.next).then_some(Self { applied, term, position, window, conf_state: rest })
    }
}

/// How far an entry came that was too wide for one batch.
///
/// Its compares were evaluated on a state that is gone when the first piece is written, so what they said is kept, and
/// with it all that the entry's outcome will need. What each operation before `op` wrote is in the store. Of `op` itself,
/// always a delete of a range or the revocation of a lease, some keys are deleted already; the rest are found by doing it
/// again.
///
/// Value, version 1: varints of index, revision, sub and op; then the outcome as in `requests`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) index: LogIndex,
    /// The revision that the entry makes.
    pub(super) revision: Revision,
    /// The first sub-revision that is free.
    pub(super) sub: Sub,
    /// Place of the operation to go on with among those that the entry takes, in order.
    pub(super) op: u64,
    pub(super) outcome: Outcome,
}

impl Mark {
    pub(super) fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u8(VERSION);
        for number in [self.index.0, unsigned(self.revision.0), u64::from(self.sub.0), self.op] {
            encode_varint(number, &mut out);
        }
        self.outcome.encode(&mut out);
        out.freeze()
    }

    pub(super) fn decode(value: &Bytes) -> Option<Self> {
        let mut rest = after_version(value)?;
        let mut number = || decode_varint(&mut rest).ok();
        let (index, revision) = (LogIndex(number()?), Revision(i64::try_from(number()?).ok()?));
        let (sub, op) = (Sub(u32::try_from(number()?).ok()?), number()?);
        let outcome = Outcome::decode(&mut rest)?;
        rest.is_empty().then_some(Self { index, revision, sub, op, outcome })
    }
}

/// What cannot be told from a request and its revision alone: which branches its txns took, and how many keys each
/// delete deleted. With it the reply can be told again, without the key-values it had.
///
/// Encoded: number of branches, then a byte for each; number of deletes, then a varint for each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    /// Whether the compares of each txn held, in the order in which txns are entered.
    pub(super) path: Vec<bool>,
    /// Keys deleted by each delete, in the order in which they are executed. The last one may be still counting.
    pub(super) deleted: Vec<u64>,
}

impl Outcome {
    pub(super) fn encode(&self, out: &mut BytesMut) {
        encode_varint(self.path.len() as u64, out);
        self.path.iter().for_each(|held| out.put_u8(u8::from(*held)));
        encode_varint(self.deleted.len() as u64, out);
        self.deleted.iter().for_each(|count| encode_varint(*count, out));
    }

    pub(super) fn decode(value: &mut Bytes) -> Option<Self> {
        let branches = decode_varint(value).ok()?;
        let path = (0..branches).map(|_| take_bool(value)).collect::<Option<_>>()?;
        let deletes = decode_varint(value).ok()?;
        let deleted = (0..deletes).map(|_| decode_varint(value).ok()).collect::<Option<_>>()?;
        Some(Self { path, deleted })
    }
}

fn take_bool(value: &mut Bytes) -> Option<bool> {
    match value.try_get_u8().ok()? {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

pub(super) fn after_version(value: &Bytes) -> Option<Bytes> {
    (value.first() == Some(&VERSION)).then(|| value.slice(1..))
}

/// Revisions start at 1 and only grow; a compacted revision is -1 at least and stored with one added.
fn unsigned(revision: i64) -> u64 {
    u64::try_from(revision).expect("revisions are not negative")
}
