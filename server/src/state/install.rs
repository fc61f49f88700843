//! The state is exchanged for the one in an archive, in place and in pieces.
//!
//! The first batch clears the store and sets a mark, which names the archive; pieces of bounded size follow; the last
//! batch writes where the state stands and takes the mark off. Whoever finds the mark at a start holds a part of a state,
//! and must put the whole archive in again before anything is served: doing it again from the beginning ends the same,
//! whichever batches survived. Readers keep the view that they have until the last batch.
//!
//! A crash leaves the store before the first batch, with the mark, or after the last one, since a store is always a
//! prefix of its batches (`tests::install` enumerates them).

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::encoding::{decode_varint, encode_varint};

use super::{
    apply::State,
    meta::{Settled, after_version},
};
use crate::{
    engine::{self, Batch, Family, Key, MetaKey, Read, View},
    mvcc::ReadView,
    types::{LogIndex, Revision, Term},
};

/// Where a state stands, as its own records say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Point {
    pub index: LogIndex,
    pub term: Term,
    pub revision: Revision,
    pub compacted: Revision,
    /// Raft's membership as of the entry: opaque bytes.
    pub conf_state: Bytes,
}

impl Point {
    /// Of the value that lies under `meta` as the applied index; None if it cannot be read.
    #[must_use]
    pub fn of_value(value: &Bytes) -> Option<Self> {
        let settled = Settled::decode(value)?;
        Some(Self {
            index: settled.applied,
            term: settled.term,
            revision: settled.position.revision,
            compacted: settled.position.compacted,
            conf_state: settled.conf_state,
        })
    }

    /// Of a view that shows the state after a whole entry; None if it shows anything else.
    #[must_use]
    pub fn of_view(view: &View) -> Option<Self> {
        let marked = [MetaKey::Resume, MetaKey::Installing].iter().any(|mark| view.get(&Key::Meta(*mark)).is_some());
        let value = view.get(&Key::Meta(MetaKey::Applied)).filter(|_| !marked)?;
        Self::of_value(&value)
    }
}

/// An archive that is being put into the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Installing {
    index: LogIndex,
    term: Term,
    /// The value of the applied index: written last.
    applied: Option<Bytes>,
}

/// First byte of the mark's value; then varints of index and term.
const VERSION: u8 = 1;

impl Installing {
    pub(super) fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u8(VERSION);
        encode_varint(self.index.0, &mut out);
        encode_varint(self.term.0, &mut out);
        out.freeze()
    }

    pub(super) fn decode(value: &Bytes) -> Option<Self> {
        let mut rest = after_version(value)?;
        let index = LogIndex(decode_varint(&mut rest).ok()?);
        let term = Term(decode_varint(&mut rest).ok()?);
        (!rest.has_remaining()).then_some(Self { index, term, applied: None })
    }

    /// The mark in the store, if it is there.
    pub(super) fn read(view: &View) -> Option<Self> {
        let value = view.get(&Key::Meta(MetaKey::Installing))?;
        let mark = Self::decode(&value);
        Some(mark.unwrap_or_else(|| engine::fatal("reading the mark of an archive", "its value is broken")))
    }
}

impl State {
    /// The archive that the store holds in part. Until it is put in again, nothing may be served or applied.
    #[must_use]
    pub fn installing(&self) -> Option<(LogIndex, Term)> {
        self.installing.as_ref().map(|mark| (mark.index, mark.term))
    }

    /// Clears the store for the state after entry (`index`, `term`). From here on only [`State::install_piece`] and
    /// [`State::install_end`] may be called; a crash must be followed by a new beginning.
    ///
    /// # Panics
    /// If the state is as new already: nothing that was applied is ever taken back.
    pub fn install_begin(&mut self, index: LogIndex, term: Term) {
        let redo = self.installing() == Some((index, term));
        assert!(redo || index > self.settled.applied, "a state is only exchanged for a later one");
        let mark = Installing { index, term, applied: None };
        let mut batch = Batch::new(self.engine.view());
        batch.put(&Key::Meta(MetaKey::Installing), mark.encode());
        self.engine.start_over(batch);
        self.mark = None;
        self.installing = Some(mark);
    }

    /// Writes records as one batch; the caller bounds its size. What says where the state stands is kept for the end.
    ///
    /// # Panics
    /// If it was not begun, or the records are not of this program's format: they were checked when they came.
    pub fn install_piece<'r>(&mut self, records: impl Iterator<Item = (Family, &'r [u8], Bytes)>) {
        let mark = self.installing.as_mut().expect("a piece follows a beginning");
        let mut batch = Batch::new(self.engine.view());
        for (family, key, value) in records {
            match Key::decode(family, key).expect("an archive was checked before it is put in") {
                Key::Meta(MetaKey::Applied) => mark.applied = Some(value),
                key => batch.put(&key, value),
            }
        }
        if !batch.is_empty() {
            self.engine.write(batch);
        }
    }

    /// Writes where the state now stands, takes the mark off, makes all of it durable and lets readers see it.
    ///
    /// # Panics
    /// If what was put in is not the state that was announced.
    pub fn install_end(&mut self) -> Arc<ReadView> {
        let mark = self.installing.take().expect("an end follows a beginning");
        let value = mark.applied.expect("an archive was found whole before it is put in");
        let settled = Settled::decode(&value).expect("an archive was checked before it is put in");
        assert_eq!((settled.applied, settled.term), (mark.index, mark.term), "the archive is the one that was begun");
        let mut batch = Batch::new(self.engine.view());
        batch.put(&Key::Meta(MetaKey::Applied), value);
        batch.delete(&Key::Meta(MetaKey::Installing));
        self.engine.write(batch);
        self.engine.flush();
        self.settled = settled;
        let (applied, position) = (self.settled.applied, self.settled.position);
        self.published.store(Arc::new(ReadView { applied, position, view: self.engine.view() }));
        self.read_view()
    }
}
