//! The queues between this member's threads and the room `peer`, both ways.
//!
//! Outwards there is one [`Outbox`] for each other member, with two lanes, so that a heartbeat never waits behind
//! megabytes of entries. Raft and log threads put messages in and go on; they never wait for a peer. What a lane cannot
//! take is dropped and counted, because raft sends again what it must: a lane whose connection is down takes nothing, and
//! a full one refuses new entries (those behind a lost one are worth nothing) but forgets old control messages (a newer
//! heartbeat says more than an older one). After a loss raft is told once that the member is unreachable, and falls back
//! from pipelining to probing. Proposals that a lane did not take, or that waited in it when its connection ended, were
//! certainly not sent: they go back to the driver as if their leader had refused them, which makes them again.
//!
//! Archives have connections of their own, one for each transfer: see `pipe`.
//!
//! Inwards [`Transport::deliver`] queues for the raft thread, bounded by `MAX_MESSAGES`; before raft runs everything is
//! dropped.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
};

use tokio::sync::{Notify, mpsc};

use super::{
    message::{Message, MessageKind},
    pipe::{Giving, Taking, WAITING_PIPES, pipe},
    proposals::refusal,
    queue::Queue,
    raft_thread::{Event, MAX_MESSAGES},
    stats::{Stats, Traffic},
};
use crate::types::{LogIndex, MemberId};

/// Messages that wait in a lane. Raft has at most 64 appends under way to a follower, and a few dozen control messages
/// in a round trip; more than this is a connection that does not move.
const MAX_WAITING: usize = 4_096;
/// Bytes of entries that wait in a lane: raft's window of 64 messages of 1 MiB. One message more passes when less than
/// this waits, whatever its size: raft joins all that its window allows when a follower is far behind.
const MAX_WAITING_BYTES: usize = 64 << 20;
/// What a message takes in a lane beside its entries' data; about the size of its fields.
const MESSAGE_BYTES: usize = 128;

/// Which of the ways to a member a message takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Small and urgent: votes, heartbeats, acknowledgements, reads, questions about leases.
    Control,
    /// Entries, from the leader and forwarded to it. All appends take it, empty ones too: one that overtakes another
    /// would be refused.
    Append,
}

impl Lane {
    pub const ALL: [Self; 2] = [Self::Control, Self::Append];

    fn of(kind: MessageKind) -> Self {
        match kind {
            MessageKind::Append | MessageKind::Propose | MessageKind::ProposeRefused => Self::Append,
            _ => Self::Control,
        }
    }
}

/// What waits for one member.
#[derive(Debug)]
pub struct Outbox {
    member: MemberId,
    pub traffic: Arc<Traffic>,
    lanes: [Waiting; 2],
}

#[derive(Debug, Default)]
struct Waiting {
    queue: Mutex<LaneQueue>,
    arrived: Notify,
}

#[derive(Debug, Default)]
struct LaneQueue {
    open: bool,
    messages: VecDeque<Message>,
    bytes: usize,
    /// Raft knows that something was lost, and nothing has moved since.
    told: bool,
}

impl LaneQueue {
    fn clear(&mut self) -> VecDeque<Message> {
        self.bytes = 0;
        std::mem::take(&mut self.messages)
    }
}

/// How many messages a hand-over lost, and whether raft has to hear of it.
#[derive(Debug, Default)]
struct Lost {
    messages: usize,
    tell: bool,
    proposals: Vec<Message>,
}

impl Lost {
    fn add(&mut self, message: Message) {
        self.messages += 1;
        if message.kind == MessageKind::Propose {
            self.proposals.push(message);
        }
    }
}

fn size(message: &Message) -> usize {
    MESSAGE_BYTES + message.entries.iter().map(|entry| MESSAGE_BYTES + entry.data.len()).sum::<usize>()
}

impl Outbox {
    fn new(member: MemberId, traffic: Arc<Traffic>) -> Self {
        Self { member, traffic, lanes: Default::default() }
    }

    #[must_use]
    pub fn member(&self) -> MemberId {
        self.member
    }

    fn lane(&self, lane: Lane) -> &Waiting {
        &self.lanes[lane as usize]
    }

    fn queue(&self, lane: Lane) -> MutexGuard<'_, LaneQueue> {
        self.lane(lane).queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on the lane takes messages: there is a connection that carries them.
    pub fn open(&self, lane: Lane) {
        let mut queue = self.queue(lane);
        assert!(!queue.open, "a lane has one connection at a time");
        queue.open = true;
        queue.told = false;
        self.traffic.connected.fetch_add(1, Relaxed);
    }

    /// Puts one message in. What does not fit is lost.
    fn put(&self, message: Message) -> Lost {
        let lane = Lane::of(message.kind);
        let mut queue = self.queue(lane);
        let size = size(&message);
        let mut lost = Lost::default();
        if !queue.open {
            lost.add(message);
        } else {
            let full = |queue: &LaneQueue| queue.messages.len() >= MAX_WAITING || queue.bytes >= MAX_WAITING_BYTES;
            while lane == Lane::Control && full(&queue) {
                let oldest = queue.messages.pop_front().expect("a full queue is not empty");
                queue.bytes -= self::size(&oldest);
                lost.add(oldest);
            }
            if full(&queue) {
                lost.add(message);
            } else {
                queue.bytes += size;
                queue.messages.push_back(message);
            }
        }
        lost.tell = lost.messages > 0 && !std::mem::replace(&mut queue.told, true);
        drop(queue);
        self.lane(lane).arrived.notify_one();
        lost
    }

    /// Takes what waits in the lane, about `bytes` of it. False: nothing waited.
    pub fn take(&self, lane: Lane, bytes: usize, into: &mut Vec<Message>) -> bool {
        let mut queue = self.queue(lane);
        let mut taken = 0;
        while taken < bytes {
            let Some(message) = queue.messages.pop_front() else { break };
            taken += size(&message);
            into.push(message);
        }
        queue.bytes -= taken;
        if taken > 0 {
            queue.told = false;
        }
        taken > 0
    }

    /// Comes back when there may be something to [`Outbox::take`].
    pub async fn arrived(&self, lane: Lane) {
        self.lane(lane).arrived.notified().await;
    }
}

#[derive(Debug)]
struct Inner {
    stats: Arc<Stats>,
    events: Arc<Queue<Event>>,
    outboxes: RwLock<BTreeMap<MemberId, Arc<Outbox>>>,
    running: AtomicBool,
    last: AtomicU64,
    /// To other members: from node to `peer`.
    outgoing: Pipes<Taking>,
    /// From other members: from `peer` to node.
    incoming: Pipes<Taking>,
}

/// Pipes on their way between the two rooms.
#[derive(Debug)]
struct Pipes<End> {
    put: mpsc::Sender<End>,
    /// There is one taker; the lock is for the type.
    take: Mutex<Option<mpsc::Receiver<End>>>,
}

impl<End> Pipes<End> {
    fn new() -> Self {
        let (put, take) = mpsc::channel(WAITING_PIPES);
        Self { put, take: Mutex::new(Some(take)) }
    }

    fn taker(&self) -> Option<mpsc::Receiver<End>> {
        self.take.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// See the top of this file. Clones are doors to the same queues.
#[derive(Clone, Debug)]
pub struct Transport(Arc<Inner>);

impl Transport {
    pub(super) fn new(last: LogIndex) -> Self {
        Self(Arc::new(Inner {
            stats: Arc::default(),
            events: Arc::new(Queue::new()),
            outboxes: RwLock::default(),
            running: AtomicBool::new(false),
            last: AtomicU64::new(last.0),
            outgoing: Pipes::new(),
            incoming: Pipes::new(),
        }))
    }

    pub(super) fn stats(&self) -> &Arc<Stats> {
        &self.0.stats
    }

    pub(super) fn events(&self) -> &Arc<Queue<Event>> {
        &self.0.events
    }

    /// Raft takes messages from now on.
    pub(super) fn set_running(&self) {
        self.0.running.store(true, Release);
    }

    /// From the log thread: everything up to here is durable.
    pub(super) fn set_last(&self, last: LogIndex) {
        self.0.last.store(last.0, Relaxed);
    }

    /// Last durable index of this member's log: what it offers in a hello.
    #[must_use]
    pub fn last(&self) -> LogIndex {
        LogIndex(self.0.last.load(Relaxed))
    }

    /// The outbox of a member; made when it is first asked for.
    #[must_use]
    pub fn outbox(&self, member: MemberId) -> Arc<Outbox> {
        let mut outboxes = self.0.outboxes.write().unwrap_or_else(PoisonError::into_inner);
        let made = || Arc::new(Outbox::new(member, self.0.stats.traffic_with(member)));
        Arc::clone(outboxes.entry(member).or_insert_with(made))
    }

    pub(super) fn send(&self, messages: Vec<Message>) {
        if messages.is_empty() {
            return;
        }
        let outboxes = self.0.outboxes.read().unwrap_or_else(PoisonError::into_inner);
        for message in messages {
            match outboxes.get(&message.to) {
                Some(outbox) => {
                    let lost = outbox.put(message);
                    self.lost(outbox, lost);
                }
                None => Stats::add(&self.0.stats.messages_dropped, 1),
            }
        }
    }

    /// The connection of a lane is gone, and with it what waited.
    pub fn close(&self, outbox: &Outbox, lane: Lane) {
        let lost = {
            let mut queue = outbox.queue(lane);
            assert!(queue.open, "only what was opened is closed");
            queue.open = false;
            let mut lost = Lost { tell: !std::mem::replace(&mut queue.told, true), ..Lost::default() };
            queue.clear().into_iter().for_each(|message| lost.add(message));
            lost
        };
        outbox.traffic.connected.fetch_sub(1, Relaxed);
        Stats::add(&outbox.traffic.disconnects, 1);
        self.lost(outbox, lost);
    }

    fn lost(&self, outbox: &Outbox, lost: Lost) {
        if lost.messages > 0 {
            Stats::add(&self.0.stats.messages_dropped, lost.messages as u64);
            Stats::add(&outbox.traffic.send_failures, lost.messages as u64);
        }
        if lost.tell && self.0.running.load(Acquire) {
            self.0.events.offer(Event::Unreachable(outbox.member), MAX_MESSAGES);
        }
        for message in lost.proposals {
            self.0.events.push(Event::Message(refusal(message, false)));
        }
    }

    /// Messages from a peer, for raft. What raft has no room for is dropped and counted, and its sender sends again.
    pub fn deliver(&self, messages: Vec<Message>) {
        let all = messages.len();
        let taken = if self.0.running.load(Acquire) {
            self.0.events.offer_all(messages.into_iter().map(Event::Message), MAX_MESSAGES)
        } else {
            0
        };
        if taken < all {
            Stats::add(&self.0.stats.messages_dropped, (all - taken) as u64);
        }
    }

    /// A member said in a hello how far its log reaches.
    pub fn offers(&self, member: MemberId, last: LogIndex) {
        if self.0.running.load(Acquire) {
            self.0.events.offer(Event::PeerOffers { member, last }, MAX_MESSAGES);
        }
    }

    /// For node: a connection on which to send an archive to a member. Whether it can be reached is found out by using it.
    /// None: too many are waiting.
    #[must_use]
    pub fn open_pipe(&self, to: MemberId) -> Option<Giving> {
        let (mine, theirs) = pipe(to);
        self.0.outgoing.put.try_send(theirs).ok().map(|()| mine)
    }

    /// For the room `peer`: the pipes that node opens. The first who asks gets them.
    #[must_use]
    pub fn opened_pipes(&self) -> Option<mpsc::Receiver<Taking>> {
        self.0.outgoing.taker()
    }

    /// For the room `peer`: a member that was let in has connected to send an archive. None: node takes no more.
    #[must_use]
    pub fn accept_pipe(&self, from: MemberId) -> Option<Giving> {
        let (mine, theirs) = pipe(from);
        (self.0.running.load(Acquire) && self.0.incoming.put.try_send(theirs).is_ok()).then_some(mine)
    }

    /// For node: the pipes on which archives come. The first who asks gets them.
    #[must_use]
    pub fn accepted_pipes(&self) -> Option<mpsc::Receiver<Taking>> {
        self.0.incoming.taker()
    }
}

/// What the tests of the room `peer` do in raft's place.
#[cfg(test)]
impl Transport {
    pub(crate) fn in_test(last: LogIndex) -> Self {
        let transport = Self::new(last);
        transport.set_running();
        transport
    }

    pub(crate) fn put(&self, messages: Vec<Message>) {
        self.send(messages);
    }

    /// What came until now, in words.
    pub(crate) fn came(&self) -> Vec<String> {
        let mut events = Vec::new();
        let _ = self.0.events.take(&mut events, Some(std::time::Duration::from_millis(5)));
        let word = |event| match event {
            Event::Message(message) => format!("{:?} {} from {}", message.kind, message.index, message.from),
            Event::Unreachable(member) => format!("{member} is unreachable"),
            Event::PeerOffers { member, last } => format!("{member} offers {last}"),
            other => format!("{other:?}"),
        };
        events.into_iter().map(word).collect()
    }
}
