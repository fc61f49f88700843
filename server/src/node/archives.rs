//! Archives that this member holds open for followers that need one, and the way of those that come to it.
//!
//! An archive is opened when raft asks for it, from the view that is published then, and is closed when the follower has
//! it, when nothing moved for [`STALL_MS`], or when this member stops leading. As long as it is open neither the history
//! that its view shows nor, within bounds, the log behind its index goes: a view does not protect history, and without
//! the log behind it the follower would need another archive at once.
//!
//! The order that protects history: an archive loads the published view under the lock under which the reclaim thread
//! asks how much may go. What it is allowed to drop is durably compacted, so any view that is loaded later is compacted
//! as far, and what an earlier one shows is known here until the last one who reads from it lets go.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use super::{
    log::{LogIo, RealIo},
    message::{Message, MessageKind},
    pipe::{Giving, Taking},
    queue::Queue,
    raft_thread::Event,
    shared::Shared,
    staging::{Staging, StagingFailed},
};
use crate::{
    mvcc::Published,
    snapshot::{Archive, ArchiveMeta, Sender, ToReceiver, ToSender, Verdict},
    state::Point,
    types::{ClusterId, LogIndex, MemberId, Revision, Term},
};

/// Archives open at once. Each takes a share of the disk and the network that the cluster needs for everything else;
/// with five members two followers may lag without its losing its quorum. Others wait.
const MAX_OPEN: usize = 2;
/// An archive of which no chunk was taken for so long is closed: a follower that starts again is back within this time
/// and goes on where it stood.
const STALL_MS: u64 = 60_000;

/// See the top of this file. The lock is held for look-ups only.
#[derive(Default)]
pub(super) struct Archives {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    open: BTreeMap<MemberId, Open>,
    /// Of all archives that somebody still reads from, closed ones too.
    pins: Vec<Weak<Pin>>,
    opened: u64,
}

/// What must stay while an archive is read from its view.
struct Pin {
    index: LogIndex,
    compacted: Revision,
}

/// One archive on its way to a follower.
pub struct Outgoing {
    pub to: MemberId,
    /// In which this member leads.
    pub term: Term,
    pub sender: Sender,
    _pin: Arc<Pin>,
    number: u64,
}

struct Open {
    meta: ArchiveMeta,
    moved_ms: u64,
    /// Distinguishes it from an earlier one for the same follower.
    number: u64,
    /// Until raft sends it.
    idle: Option<(Sender, Arc<Pin>)>,
}

impl Archives {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens an archive of what is published now. None: the follower has one, too many are open, or the state is not
    /// one that can be handed on.
    pub(super) fn open(
        &self,
        to: MemberId,
        cluster: ClusterId,
        published: &Published,
        now_ms: u64,
    ) -> Option<ArchiveMeta> {
        let mut inner = self.lock();
        if inner.open.contains_key(&to) || inner.live().count() >= MAX_OPEN {
            return None;
        }
        let view = published.load();
        let Point { index, term, revision, compacted, conf_state } = Point::of_view(&view.view)?;
        let meta = ArchiveMeta { cluster, index, term, revision, conf_state };
        let sender = Sender::new(Archive::new(view.view.clone(), meta.clone(), compacted));
        let pin = Arc::new(Pin { index, compacted });
        inner.pins.retain(|pin| pin.strong_count() > 0);
        inner.pins.push(Arc::downgrade(&pin));
        inner.opened += 1;
        let number = inner.opened;
        let open = Open { meta: meta.clone(), moved_ms: now_ms, number, idle: Some((sender, pin)) };
        inner.open.insert(to, open);
        Some(meta)
    }

    /// Raft sends the archive: whoever gets it carries it to the follower. None: it is not open any more.
    #[must_use]
    pub(super) fn send(&self, message: &Message) -> Option<Outgoing> {
        let mut inner = self.lock();
        let named = |open: &&mut Open| Some(&open.meta) == message.archive.as_ref();
        let open = inner.open.get_mut(&message.to).filter(named)?;
        let (sender, pin) = open.idle.take()?;
        Some(Outgoing { to: message.to, term: message.term, sender, _pin: pin, number: open.number })
    }

    /// False: it was closed meanwhile.
    fn moved(&self, outgoing: &Outgoing, now_ms: u64) -> bool {
        let mut inner = self.lock();
        let same = inner.open.get_mut(&outgoing.to).filter(|open| open.number == outgoing.number);
        same.map(|open| open.moved_ms = now_ms).is_some()
    }

    /// False: it was closed before.
    fn close(&self, outgoing: &Outgoing) -> bool {
        let mut inner = self.lock();
        let same = inner.open.get(&outgoing.to).is_some_and(|open| open.number == outgoing.number);
        same && inner.open.remove(&outgoing.to).is_some()
    }

    /// Closes what does not move, and everything if this member does not lead. Raft is to be told of each.
    #[must_use]
    pub(super) fn look(&self, leading: bool, now_ms: u64) -> Vec<MemberId> {
        let mut inner = self.lock();
        let over = |open: &Open| !leading || now_ms >= open.moved_ms + STALL_MS;
        let closed: Vec<_> = inner.open.iter().filter(|(_, open)| over(open)).map(|(to, _)| *to).collect();
        closed.iter().for_each(|to| drop(inner.open.remove(to)));
        closed
    }

    /// How much history may go, of what is durably compacted.
    #[must_use]
    pub(super) fn floor(&self, compacted: Revision) -> Revision {
        self.lock().live().map(|pin| pin.compacted).fold(compacted, Revision::min)
    }

    /// The log behind this entry is needed.
    #[must_use]
    pub(super) fn lowest(&self) -> Option<LogIndex> {
        self.lock().live().map(|pin| pin.index).min()
    }
}

impl Inner {
    fn live(&self) -> impl Iterator<Item = Arc<Pin>> + '_ {
        self.pins.iter().filter_map(Weak::upgrade)
    }
}

/// The way of connections to archives, in both directions.
pub struct ArchiveDoor<I: LogIo = RealIo> {
    staging: Arc<Mutex<Staging<I>>>,
    shared: Arc<Shared>,
    events: Arc<Queue<Event>>,
}

impl<I: LogIo> fmt::Debug for ArchiveDoor<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ArchiveDoor").finish_non_exhaustive()
    }
}

impl<I: LogIo> ArchiveDoor<I> {
    pub(super) fn new(staging: Arc<Mutex<Staging<I>>>, shared: Arc<Shared>, events: Arc<Queue<Event>>) -> Self {
        Self { staging, shared, events }
    }

    /// Carries an archive over one connection. True: nothing more is to be done for it; false: the connection broke, and
    /// another one goes on.
    pub fn give(&self, outgoing: &mut Outgoing, pipe: &mut Giving) -> bool {
        if !pipe.send(outgoing.sender.begin(outgoing.term)) {
            return !self.is_open(outgoing);
        }
        while let Some(answer) = pipe.receive() {
            match outgoing.sender.hear(answer) {
                Verdict::GoesOn if self.shared.archives.moved(outgoing, self.shared.now_ms()) => {}
                Verdict::GoesOn => return true,
                over => {
                    self.finish(outgoing, over == Verdict::Done);
                    return true;
                }
            }
            while let Some(chunk) = outgoing.sender.next_chunk() {
                if !pipe.send(ToReceiver::Chunk(chunk)) {
                    return !self.is_open(outgoing);
                }
            }
        }
        !self.is_open(outgoing)
    }

    pub(super) fn is_open(&self, outgoing: &Outgoing) -> bool {
        let inner = self.shared.archives.lock();
        inner.open.get(&outgoing.to).is_some_and(|open| open.number == outgoing.number)
    }

    /// The follower has it, or refused it.
    fn finish(&self, outgoing: &Outgoing, ok: bool) {
        if self.shared.archives.close(outgoing) {
            self.events.push(Event::ArchiveSent { to: outgoing.to, ok });
        }
    }

    /// Takes what comes over one connection, until it ends or nothing more is wanted.
    ///
    /// # Errors
    /// Final: the member has to stop.
    pub fn take(&self, pipe: &mut Taking) -> Result<(), StagingFailed> {
        let Some(ToReceiver::Begin { meta, term }) = pipe.receive() else { return Ok(()) };
        let (session, mut answer) = self.staging().begin(&meta, term, self.shared.applied())?;
        while !self.shared.is_stopping() {
            if answer == ToSender::Staged {
                // Raft hears of it only now.
                let message = snapshot_message(pipe.member(), self.shared.identity.member, term, &meta);
                self.events.push(Event::ArchiveStaged(message));
            }
            if !pipe.send(answer) || !matches!(answer, ToSender::Have(_)) {
                break;
            }
            let Some(ToReceiver::Chunk(chunk)) = pipe.receive() else { break };
            answer = self.staging().chunk(session, &chunk)?;
        }
        Ok(())
    }

    fn staging(&self) -> MutexGuard<'_, Staging<I>> {
        self.staging.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Raft's message for an archive that is staged here, as the leader of `term` sent it.
#[must_use]
pub fn snapshot_message(from: MemberId, to: MemberId, term: Term, archive: &ArchiveMeta) -> Message {
    let message = Message::new(MessageKind::Snapshot, from, to, term);
    Message { archive: Some(archive.clone()), ..message }
}
