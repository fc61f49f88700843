//! What node's threads and handles know of each other: numbers that anybody may read, and a few doors.

use std::{
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{Acquire, Relaxed, Release, SeqCst},
        },
    },
    time::Instant,
};

use super::{
    Status,
    archives::Archives,
    core::Standing,
    drive::ConfirmedReads,
    keeper::Keeper,
    lateness::{LeaderTimes, why_late},
    lease_desk::LeaseDesk,
    mailbox::{DESK, InFlight, Mailbox, Outcome, Ticket},
    queue::Queue,
    raft_thread::Event,
    stats::Stats,
};
use crate::{
    error::Error,
    mvcc::Published,
    types::{ClusterId, LogIndex, MemberId, Revision, Term},
    watch::Inbox,
};

/// Local reads are refused: no index is as high.
const CLOSED: u64 = u64::MAX;
/// A time that has not come.
const NEVER: u64 = u64::MAX;

/// Who this member is, for as long as it runs.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    pub cluster: ClusterId,
    pub member: MemberId,
    /// Drawn at each start, so that a request id of an earlier life is never taken for one of this life.
    pub boot: u64,
}

pub(super) struct Shared {
    pub(super) identity: Identity,
    pub(super) published: Published,
    pub(super) inbox: Arc<Inbox>,
    pub(super) stats: Arc<Stats>,
    pub(super) keeper: Keeper,
    pub(super) desk: LeaseDesk,
    pub(super) events: Arc<Queue<Event>>,
    pub(super) in_flight: Arc<InFlight>,
    pub(super) reclaim: Nudges,
    pub(super) archives: Arc<Archives>,
    /// The oldest entry that a follower needs; 0 for none.
    needed_from: AtomicU64,
    started: Instant,
    mailboxes: RwLock<Vec<Arc<Mailbox>>>,
    /// Confirmed reads whose index is not applied yet.
    read_waits: Mutex<Vec<ConfirmedReads>>,
    leader: AtomicU64,
    term: AtomicU64,
    leading: AtomicBool,
    voter: AtomicBool,
    sole: AtomicBool,
    /// See [`LeaderTimes`].
    elected_ms: AtomicU64,
    lost_ms: AtomicU64,
    connected_since_ms: AtomicU64,
    committed: AtomicU64,
    applied: AtomicU64,
    local_reads_from: AtomicU64,
    stopping: AtomicBool,
    /// Written by the raft thread at each tick: precise enough for deadlines of seconds, and free to read.
    coarse_ms: AtomicU64,
}

impl Shared {
    pub(super) fn new(
        identity: Identity,
        published: Published,
        inbox: Arc<Inbox>,
        keeper: Keeper,
        stats: Arc<Stats>,
        events: Arc<Queue<Event>>,
    ) -> Self {
        let applied = published.load().applied;
        Self {
            identity,
            published,
            inbox,
            stats,
            keeper,
            desk: LeaseDesk::default(),
            events,
            in_flight: Arc::default(),
            reclaim: Nudges::default(),
            archives: Arc::default(),
            needed_from: AtomicU64::new(0),
            started: Instant::now(),
            mailboxes: RwLock::default(),
            read_waits: Mutex::default(),
            leader: AtomicU64::new(0),
            term: AtomicU64::new(0),
            leading: AtomicBool::new(false),
            // Until raft has spoken, calls wait for it; a learner would refuse them.
            voter: AtomicBool::new(true),
            sole: AtomicBool::new(false),
            elected_ms: AtomicU64::new(NEVER),
            lost_ms: AtomicU64::new(0),
            connected_since_ms: AtomicU64::new(NEVER),
            committed: AtomicU64::new(applied.0),
            applied: AtomicU64::new(applied.0),
            local_reads_from: AtomicU64::new(CLOSED),
            stopping: AtomicBool::new(false),
            coarse_ms: AtomicU64::new(0),
        }
    }

    /// Milliseconds since this member started; never goes back.
    pub(super) fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).expect("a member runs less than 584 million years")
    }

    pub(super) fn coarse_ms(&self) -> u64 {
        self.coarse_ms.load(Relaxed)
    }

    pub(super) fn set_coarse_ms(&self, now_ms: u64) {
        self.coarse_ms.store(now_ms, Relaxed);
    }

    /// From the raft thread, before anything of the same step leaves.
    pub(super) fn publish_standing(&self, standing: Standing, local_reads_from: Option<LogIndex>) {
        self.local_reads_from.store(local_reads_from.map_or(CLOSED, |index| index.0), SeqCst);
        self.leading.store(standing.leading, Release);
        self.voter.store(standing.voter, Relaxed);
        self.sole.store(standing.sole, Relaxed);
        self.leader.store(standing.leader.map_or(0, |leader| leader.0), Relaxed);
        self.term.store(standing.term.0, Relaxed);
        self.committed.store(standing.commit.0, Relaxed);
    }

    pub(super) fn status(&self) -> Status {
        let leader = self.leader.load(Relaxed);
        Status {
            cluster: self.identity.cluster,
            member: self.identity.member,
            leader: (leader != 0).then_some(MemberId(leader)),
            term: self.term(),
            // Apply may have overtaken the number that raft published last.
            committed: LogIndex(self.committed.load(Relaxed).max(self.applied.load(Relaxed))),
            applied: self.applied(),
            learner: !self.voter.load(Relaxed),
        }
    }

    pub(super) fn term(&self) -> Term {
        Term(self.term.load(Relaxed))
    }

    pub(super) fn leading(&self) -> bool {
        self.leading.load(Acquire)
    }

    pub(super) fn has_leader(&self) -> bool {
        self.leader.load(Relaxed) != 0
    }

    pub(super) fn is_sole(&self) -> bool {
        self.sole.load(Relaxed)
    }

    /// From the raft thread, when another leader is known, or none.
    pub(super) fn leader_changed(&self, now_ms: u64, known: bool) {
        if known {
            self.elected_ms.store(now_ms, Relaxed);
        }
        self.lost_ms.store(if known { NEVER } else { now_ms }, Relaxed);
    }

    pub(super) fn set_connected_since(&self, since_ms: Option<u64>) {
        self.connected_since_ms.store(since_ms.unwrap_or(NEVER), Relaxed);
    }

    /// What to tell a client whose proposal of then was not answered in time.
    pub(super) fn why_late(&self, began_ms: u64, election_ms: u64) -> Error {
        let time = |time: &AtomicU64| Some(time.load(Relaxed)).filter(|ms| *ms != NEVER);
        let times = LeaderTimes {
            elected_ms: time(&self.elected_ms),
            lost_ms: time(&self.lost_ms),
            connected_since_ms: time(&self.connected_since_ms),
        };
        why_late(began_ms, election_ms, times)
    }

    pub(super) fn applied(&self) -> LogIndex {
        LogIndex(self.applied.load(SeqCst))
    }

    /// etcd's test before it proposes.
    pub(super) fn apply_trails_by(&self) -> u64 {
        self.committed.load(Relaxed).saturating_sub(self.applied.load(Relaxed))
    }

    /// Whether a read may be answered from the published view without asking anyone. See `handle`.
    pub(super) fn reads_are_local(&self) -> bool {
        self.applied.load(SeqCst) >= self.local_reads_from.load(SeqCst)
    }

    /// From the raft thread: the oldest entry that a follower needs which is alive.
    pub(super) fn set_needed_from(&self, index: Option<LogIndex>) {
        self.needed_from.store(index.map_or(0, |index| index.0), Relaxed);
    }

    pub(super) fn needed_from(&self) -> Option<LogIndex> {
        let index = self.needed_from.load(Relaxed);
        (index > 0).then_some(LogIndex(index))
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Relaxed)
    }

    pub(super) fn set_stopping(&self) {
        self.stopping.store(true, Relaxed);
    }

    /// Adds the mailbox of one more runtime. None: there are as many as a ticket can tell apart.
    pub(super) fn open_mailbox(&self) -> Option<Arc<Mailbox>> {
        let mut all = self.mailboxes.write().unwrap_or_else(PoisonError::into_inner);
        let runtime = u8::try_from(all.len()).ok().filter(|runtime| usize::from(*runtime) != DESK)?;
        let mailbox = Arc::new(Mailbox::new(runtime, Arc::clone(&self.in_flight)));
        all.push(Arc::clone(&mailbox));
        Some(mailbox)
    }

    /// Hands outcomes to their runtimes: one hand-over and one wake each. What the lease desk waited for goes there, and
    /// what it has to tell then to raft's thread. `sorted` is scratch space.
    pub(super) fn deliver(&self, outcomes: impl IntoIterator<Item = (Ticket, Outcome)>, sorted: &mut Sorted) {
        let mut rounds = Vec::new();
        let mailboxes = self.mailboxes.read().unwrap_or_else(PoisonError::into_inner);
        for (ticket, outcome) in outcomes {
            let runtime = ticket.runtime();
            if ticket.is_of_desk() {
                rounds.push(ticket);
                continue;
            }
            // A ticket of nobody: an entry that the member made itself.
            if ticket.0 == 0 || runtime >= mailboxes.len() {
                continue;
            }
            if sorted.0.len() <= runtime {
                sorted.0.resize_with(runtime + 1, Vec::new);
            }
            sorted.0[runtime].push((ticket, outcome));
        }
        for (mailbox, outcomes) in mailboxes.iter().zip(&mut sorted.0) {
            mailbox.deliver(outcomes);
        }
        drop(mailboxes);
        if !rounds.is_empty() {
            let told = self.desk.confirmed(&self.keeper, self.now_ms(), rounds);
            if !told.is_empty() {
                // Refused only when the raft thread is gone, and whoever asked asks another leader.
                self.events.push(Event::Told(told));
            }
        }
    }

    pub(super) fn sweep(&self) {
        let mailboxes = self.mailboxes.read().unwrap_or_else(PoisonError::into_inner);
        mailboxes.iter().for_each(|mailbox| mailbox.sweep());
    }

    pub(super) fn fail_all(&self, error: Error) {
        let mailboxes = self.mailboxes.read().unwrap_or_else(PoisonError::into_inner);
        mailboxes.iter().for_each(|mailbox| mailbox.fail_all(error));
    }

    fn read_waits(&self) -> MutexGuard<'_, Vec<ConfirmedReads>> {
        self.read_waits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From the raft thread: these reads may be answered once their index is applied.
    pub(super) fn confirm_reads(&self, reads: ConfirmedReads, sorted: &mut Sorted) {
        Stats::add(&self.stats.reads_confirmed, reads.tickets.len() as u64);
        {
            let mut waits = self.read_waits();
            // Looked at under the lock that apply takes after it raised the index: one of the two sees the other.
            if self.applied() < reads.index {
                waits.push(reads);
                return;
            }
        }
        self.deliver(reads.tickets.into_iter().map(|ticket| (ticket, Outcome::Read(Ok(())))), sorted);
    }

    /// From the apply thread, after the view was published: raises the applied index and lets reads go.
    pub(super) fn set_applied(&self, index: LogIndex, ready: &mut Vec<(Ticket, Outcome)>) {
        self.applied.store(index.0, SeqCst);
        let mut waits = self.read_waits();
        waits.retain_mut(|reads| {
            let waits = reads.index > index;
            if !waits {
                ready.extend(reads.tickets.drain(..).map(|ticket| (ticket, Outcome::Read(Ok(())))));
            }
            waits
        });
    }
}

/// Outcomes by runtime; kept by each delivering thread for reuse.
#[derive(Debug, Default)]
pub(super) struct Sorted(Vec<Vec<(Ticket, Outcome)>>);

/// What makes the reclaim thread look before its time.
#[derive(Debug, Default)]
pub(super) struct Nudges {
    state: Mutex<Nudge>,
    changed: Condvar,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Nudge {
    /// The newest compaction that was applied.
    pub(super) compacted: Option<Revision>,
    pub(super) stop: bool,
}

impl Nudges {
    fn lock(&self) -> MutexGuard<'_, Nudge> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn compacted(&self, revision: Revision) {
        self.lock().compacted = Some(revision);
        self.changed.notify_one();
    }

    pub(super) fn stop(&self) {
        self.lock().stop = true;
        self.changed.notify_one();
    }

    /// Waits for a compaction, the end, or the time to be over.
    pub(super) fn wait(&self, timeout: std::time::Duration, known: Option<Revision>) -> Nudge {
        let idle = |nudge: &mut Nudge| !nudge.stop && nudge.compacted == known;
        let waited = self.changed.wait_timeout_while(self.lock(), timeout, idle);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}
