//! Committed entries in, what they did out; one engine write between, and a new view for readers after.

use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use conclave_proto::{conclave::raft::v1 as entry, etcdserverpb as pb};

use super::{
    Applied, Committed, Effects, LEVEL, Reply, Stop,
    command::{self, Terms},
    guard::check_idempotency_key,
    install::Installing,
    meta::{Mark, Settled},
    query::header,
    requests::{self, Remembered, Told},
    work::{Limits, Work, Writer},
};
use crate::{
    engine::{self, Engine, Key, MetaKey, Read},
    error::Error,
    members::{self, Member},
    mvcc::{Published, ReadView},
    types::{LogIndex, Revision, Term},
};

/// The state machine over an engine.
pub struct State {
    pub(super) engine: Engine,
    limits: Limits,
    pub(super) settled: Settled,
    /// An entry of which a crash left pieces; it is the next one to be applied.
    pub(super) mark: Option<Mark>,
    /// The store holds a part of an archive.
    pub(super) installing: Option<Installing>,
    pub(super) published: Published,
}

impl State {
    /// Opens the state that the engine holds. A fresh store stands at revision 1 with nothing applied.
    #[must_use]
    pub fn open(engine: Engine) -> Self {
        Self::open_with(engine, Limits::default())
    }

    pub(super) fn open_with(engine: Engine, limits: Limits) -> Self {
        let view = engine.view();
        let settled = match view.get(&Key::Meta(MetaKey::Applied)) {
            Some(value) => decode_settled(&value),
            None => Settled::fresh(),
        };
        let mark = view.get(&Key::Meta(MetaKey::Resume)).map(|value| {
            Mark::decode(&value).filter(|mark| mark.index == settled.applied.next()).unwrap_or_else(|| {
                engine::fatal("reading the resume mark", "it cannot be read or is not the next entry's")
            })
        });
        let installing = Installing::read(&view);
        let published =
            Arc::new(ArcSwap::from_pointee(ReadView { applied: settled.applied, position: settled.position, view }));
        Self { engine, limits, settled, mark, installing, published }
    }

    #[must_use]
    pub fn read_view(&self) -> Arc<ReadView> {
        self.published.load_full()
    }

    /// Where the newest view stands for all readers.
    #[must_use]
    pub fn published(&self) -> Published {
        Arc::clone(&self.published)
    }

    #[must_use]
    pub fn applied(&self) -> (LogIndex, Term) {
        (self.settled.applied, self.settled.term)
    }

    /// Raft's membership as of the applied index: opaque bytes of raft's ConfState, kept in the same value as `applied`.
    #[must_use]
    pub fn conf_state(&self) -> &[u8] {
        &self.settled.conf_state
    }

    /// An entry of which a crash left pieces. Until it is applied the published view shows half of it, so nothing may be
    /// answered from there. It was committed, so it will come.
    #[must_use]
    pub fn unfinished(&self) -> Option<LogIndex> {
        self.mark.as_ref().map(|mark| mark.index)
    }

    /// First start only: writes initial members and ConfState, and makes them durable.
    pub fn bootstrap(&mut self, initial: &[Member], conf_state: Vec<u8>) {
        let fresh = self.settled == Settled::fresh() && self.mark.is_none() && self.installing.is_none();
        assert!(fresh, "only a fresh store is bootstrapped");
        self.settled.conf_state = conf_state.into();
        let mut writer = self.writer();
        for member in initial {
            members::put(&mut writer.batch, member);
        }
        self.commit(&mut writer);
        self.engine.flush();
    }

    /// Applies committed entries in order in one engine write (more where they are too wide), and publishes the view.
    ///
    /// Entries at or below the applied index are skipped: after a crash the log is applied again from the last flush on,
    /// and what the store has already must not happen twice.
    ///
    /// On `Err` this member must stop: it met an entry that it may not apply. Nothing of that entry is in the store.
    pub fn apply(&mut self, entries: Vec<Committed>) -> Result<Vec<Applied>, Stop> {
        assert!(self.installing.is_none(), "nothing is applied to a part of a state");
        let mut writer = self.writer();
        let mut done = Vec::with_capacity(entries.len());
        for committed in entries {
            if committed.index <= self.settled.applied {
                continue;
            }
            check_order(self.settled.applied, &committed)?;
            if writer.is_full() {
                self.commit(&mut writer);
            }
            done.push(self.apply_one(&mut writer, committed)?);
        }
        if !done.is_empty() {
            self.commit(&mut writer);
        }
        Ok(done)
    }

    /// Begins on the view that readers have: this is the only writer, and it published what it wrote last. Taking
    /// another view would take RocksDB's lock twice more for each batch.
    fn writer(&self) -> Writer {
        Writer::new(self.engine.clone(), self.published.load().view.clone(), self.limits)
    }

    /// Writes the batch and lets readers see it. The view is published before anyone is answered, so whoever was
    /// answered reads what he wrote.
    fn commit(&mut self, writer: &mut Writer) {
        writer.write(&self.settled);
        self.published.store(Arc::new(ReadView {
            applied: self.settled.applied,
            position: self.settled.position,
            view: writer.view(),
        }));
    }

    fn apply_one(&mut self, writer: &mut Writer, committed: Committed) -> Result<Applied, Stop> {
        let Committed { index, term, entry } = committed;
        let before = self.settled.position.revision;
        let mut applied =
            Applied { index, request: None, reply: Ok(Reply::Done), revision: before, effects: Effects::default() };
        if let Some(entry) = entry {
            let (header, command) = admit(index, entry)?;
            applied.request = header.request_id;
            let terms = Terms { proposed: Term(header.proposer_term), committed: term };
            self.run(writer, &mut applied, &command, terms, &header.idempotency_key);
        }
        self.settled.applied = index;
        self.settled.term = term;
        Ok(applied)
    }

    fn run(
        &mut self,
        writer: &mut Writer,
        applied: &mut Applied,
        command: &entry::Command,
        terms: Terms,
        idempotency_key: &Bytes,
    ) {
        let kind = command.kind.as_ref().expect("an entry is admitted only with a command");
        if let Err(error) = check_idempotency_key(idempotency_key) {
            applied.reply = Err(error);
            return;
        }
        let mark = self.mark.take();
        if !idempotency_key.is_empty()
            && mark.is_none()
            && let Some(remembered) = requests::lookup(&writer.batch, idempotency_key)
        {
            applied.revision = remembered.revision;
            applied.reply = retell(writer, &self.settled, remembered, command, terms);
            return;
        }
        let mut work = match mark {
            Some(mark) => Work::resume(writer, &self.settled, mark),
            None => Work::begin(writer, &self.settled, applied.index),
        };
        applied.reply = command::apply(&mut work, kind, terms);
        assert!(applied.reply.is_ok() || !work.has_changed(), "what failed has changed nothing");
        let done = work.finish();
        self.settled.position = done.position;
        applied.revision = done.position.revision;
        applied.effects = done.effects;
        if !idempotency_key.is_empty() {
            let remembered = Remembered {
                index: applied.index,
                revision: applied.revision,
                checksum: requests::checksum(command),
                result: applied.reply.as_ref().map(|_| Told::Whole(done.outcome)).map_err(|error| *error),
            };
            let keys = self.limits.window_keys;
            self.settled.window.remember(&mut writer.batch, idempotency_key, &remembered, keys);
        }
    }
}

/// Tells again what was answered when the request was applied first. Nothing is changed.
fn retell(
    writer: &mut Writer,
    settled: &Settled,
    remembered: Remembered,
    command: &entry::Command,
    terms: Terms,
) -> Result<Reply, Error> {
    if remembered.checksum != requests::checksum(command) {
        return Err(Error::IdempotencyKeyReused);
    }
    match remembered.result? {
        Told::Whole(outcome) => {
            let mut work = Work::retell(writer, settled, remembered.index, remembered.revision, outcome);
            let kind = command.kind.as_ref().expect("an entry is admitted only with a command");
            command::apply(&mut work, kind, terms)
        }
        Told::Long(succeeded) => {
            let header = header(remembered.revision);
            Ok(Reply::Txn(pb::TxnResponse { header, succeeded, responses: Vec::new() }))
        }
    }
}

/// A hole in the log, or a log that goes back, would make this member differ from the others without anyone noticing.
fn check_order(applied: LogIndex, committed: &Committed) -> Result<(), Stop> {
    if committed.index != applied.next() {
        return Err(Stop::Hole { applied, index: committed.index });
    }
    Ok(())
}

/// Lets an entry in that this program understands as its proposer did.
fn admit(index: LogIndex, entry: entry::Entry) -> Result<(entry::Header, entry::Command), Stop> {
    let header = entry.header.unwrap_or_default();
    if header.required_level > LEVEL {
        return Err(Stop::Level { index, required: header.required_level });
    }
    match entry.command {
        Some(command) if command.kind.is_some() => Ok((header, command)),
        _ => Err(Stop::UnknownCommand { index }),
    }
}

impl State {
    /// What a crash now would leave: (applied index, compacted revision). The log may be cut, and history be dropped,
    /// only below these.
    #[must_use]
    pub fn persisted(engine: &Engine) -> (LogIndex, Revision) {
        let settled = engine.persisted(MetaKey::Applied).map_or_else(Settled::fresh, |value| decode_settled(&value));
        (settled.applied, settled.position.compacted)
    }
}

fn decode_settled(value: &Bytes) -> Settled {
    Settled::decode(value).unwrap_or_else(|| {
        engine::fatal(
            "reading the applied index",
            "its value is broken, or was written by a newer version of this program",
        )
    })
}
