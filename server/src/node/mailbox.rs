//! Where handlers wait for what the member's threads found out, and how both sides meet without a wake each.
//!
//! Each runtime of the api has one mailbox. Its *desk* belongs to the runtime's own thread (its lock is never contended
//! but by a look at the numbers): the slots in which handlers wait, and what they want sent. Its *tray* is where the
//! apply and raft threads put outcomes. One task on the runtime, [`Carrier`], carries between them: it runs once after
//! all handlers that were ready in this turn of the runtime, takes what they want proposed to the raft thread in **one**
//! hand-over, and when outcomes arrive, one wake of it lets all of their handlers go.
//!
//! A [`Ticket`] says where to put an outcome: runtime, slot and the generation of the slot. It is the sequence of the
//! entry's request id, so that nothing but the entry itself has to remember who waits, and an outcome that comes when
//! nobody waits any more (timed out, cancelled, another boot of this member) finds another generation and is dropped.
//!
//! *Bounds.* A mailbox has [`SLOTS`] slots; all together at most [`MAX_IN_FLIGHT`] proposals of [`MAX_IN_FLIGHT_BYTES`].
//! Whoever finds none free is refused with `too many requests`. What waits in a tray or on a desk has a slot each.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker},
};

use bytes::Bytes;

use super::{
    Answer,
    drive::Proposal,
    message::{LeaseAsk, LeaseTime},
    queue::Queue,
    raft_thread::Event,
};
use crate::{error::Error, types::LeaseId};

/// Who waits: `generation << 24 | slot << 8 | runtime`. 0 is nobody. A runtime's number has eight bits; there is one
/// per core, and the last number is the lease desk's, which has no slots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// The lease desk's place among the runtimes.
pub(super) const DESK: usize = 0xff;
/// Waiting handlers of one runtime, reads included. Twice the proposals that may be in flight, because reads wait too.
const SLOTS: usize = 1 << 14;
/// etcd's distance between commit and apply at which it refuses (`maxGapBetweenApplyAndCommitIndex`).
pub(super) const MAX_IN_FLIGHT: usize = 5_000;
/// What proposals in flight may hold in memory; they are held about three times (entry, log buffer, batch).
pub(super) const MAX_IN_FLIGHT_BYTES: usize = 64 << 20;

impl Ticket {
    fn new(generation: u64, slot: u16, runtime: u8) -> Self {
        Self(generation << 24 | u64::from(slot) << 8 | u64::from(runtime))
    }
    pub(super) fn of_desk(number: u64) -> Self {
        Self(number << 8 | DESK as u64)
    }
    pub(super) fn is_of_desk(self) -> bool {
        self.runtime() == DESK
    }
    pub(super) fn runtime(self) -> usize {
        (self.0 & 0xff) as usize
    }
    fn slot(self) -> usize {
        (self.0 >> 8 & 0xffff) as usize
    }
    fn generation(self) -> u64 {
        self.0 >> 24
    }
}

/// What a waiter is told.
#[derive(Debug)]
pub(super) enum Outcome {
    Answer(Result<Answer, Error>),
    /// The view that is published now holds everything that was acknowledged when the read asked.
    Read(Result<(), Error>),
    /// None: no such lease.
    Lease(Result<Option<LeaseTime>, Error>),
}

/// What a handler waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Proposal,
    Read,
    Lease,
}

impl Kind {
    fn failed(self, error: Error) -> Outcome {
        match self {
            Self::Proposal => Outcome::Answer(Err(error)),
            Self::Read => Outcome::Read(Err(error)),
            Self::Lease => Outcome::Lease(Err(error)),
        }
    }
}

/// What proposals of all runtimes together hold.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    proposals: AtomicUsize,
    bytes: AtomicUsize,
}

impl InFlight {
    pub(super) fn proposals(&self) -> usize {
        self.proposals.load(Relaxed)
    }

    /// A large proposal is let in while there is any room, so that none is too large for ever.
    fn admit(&self, bytes: usize) -> bool {
        if self.proposals.load(Relaxed) >= MAX_IN_FLIGHT || self.bytes.load(Relaxed) >= MAX_IN_FLIGHT_BYTES {
            return false;
        }
        self.proposals.fetch_add(1, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
        true
    }

    fn release(&self, proposals: usize, bytes: usize) {
        if proposals > 0 {
            self.proposals.fetch_sub(proposals, Relaxed);
            self.bytes.fetch_sub(bytes, Relaxed);
        }
    }
}

#[derive(Debug)]
enum Wait {
    Free,
    /// Its handler waits.
    Waiting(Option<Waker>),
    /// The handler is gone, the outcome is not there yet: the slot still counts, because the proposal still does.
    Abandoned,
    Ready(Outcome),
}

#[derive(Debug)]
struct Slot {
    generation: u64,
    wait: Wait,
    kind: Kind,
    bytes: u32,
    deadline_ms: u64,
}

#[derive(Debug, Default)]
struct Desk {
    slots: Vec<Slot>,
    free: Vec<u16>,
    proposals: Vec<Proposal>,
    reads: Vec<Ticket>,
    asks: Vec<LeaseAsk>,
    carrier: Option<Waker>,
}

#[derive(Debug, Default)]
struct Tray {
    outcomes: Vec<(Ticket, Outcome)>,
    carrier: Option<Waker>,
}

/// See the top of this file.
#[derive(Debug)]
pub(super) struct Mailbox {
    runtime: u8,
    desk: Mutex<Desk>,
    tray: Mutex<Tray>,
    sweep: AtomicBool,
    in_flight: Arc<InFlight>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Mailbox {
    pub(super) fn new(runtime: u8, in_flight: Arc<InFlight>) -> Self {
        Self { runtime, desk: Mutex::default(), tray: Mutex::default(), sweep: AtomicBool::new(false), in_flight }
    }

    /// Queues a proposal; `encode` makes its bytes for the ticket.
    pub(super) fn propose(
        self: &Arc<Self>,
        size: usize,
        deadline_ms: u64,
        encode: impl FnOnce(Ticket) -> Bytes,
    ) -> Result<Waiting, Error> {
        if !self.in_flight.admit(size) {
            return Err(Error::RequestTooManyRequests);
        }
        let mut desk = lock(&self.desk);
        let Some(ticket) = desk.open(self.runtime, Kind::Proposal, size, deadline_ms) else {
            self.in_flight.release(1, size);
            return Err(Error::RequestTooManyRequests);
        };
        let data = encode(ticket);
        desk.proposals.push(Proposal { ticket, data });
        desk.call_carrier();
        Ok(Waiting { mailbox: Arc::clone(self), ticket })
    }

    /// Queues a read that needs a round.
    pub(super) fn read(self: &Arc<Self>, deadline_ms: u64) -> Result<Waiting, Error> {
        let mut desk = lock(&self.desk);
        let ticket = desk.open(self.runtime, Kind::Read, 0, deadline_ms).ok_or(Error::RequestTooManyRequests)?;
        desk.reads.push(ticket);
        desk.call_carrier();
        Ok(Waiting { mailbox: Arc::clone(self), ticket })
    }

    /// Queues a question about a lease.
    pub(super) fn ask(self: &Arc<Self>, id: LeaseId, renew: bool, deadline_ms: u64) -> Result<Waiting, Error> {
        let mut desk = lock(&self.desk);
        let ticket = desk.open(self.runtime, Kind::Lease, 0, deadline_ms).ok_or(Error::RequestTooManyRequests)?;
        desk.asks.push(LeaseAsk { ticket, id, renew });
        desk.call_carrier();
        Ok(Waiting { mailbox: Arc::clone(self), ticket })
    }

    /// From the member's threads: hands over outcomes, with one wake. Leaves `outcomes` empty.
    pub(super) fn deliver(&self, outcomes: &mut Vec<(Ticket, Outcome)>) {
        if outcomes.is_empty() {
            return;
        }
        let mut tray = lock(&self.tray);
        if tray.outcomes.is_empty() {
            std::mem::swap(&mut tray.outcomes, outcomes);
        } else {
            tray.outcomes.append(outcomes);
        }
        let carrier = tray.carrier.take();
        drop(tray);
        if let Some(carrier) = carrier {
            carrier.wake();
        }
    }

    /// Makes the carrier look for waiters whose time is over.
    pub(super) fn sweep(&self) {
        if lock(&self.desk).waiting() == 0 {
            return;
        }
        self.sweep.store(true, Relaxed);
        let carrier = lock(&self.tray).carrier.take();
        if let Some(carrier) = carrier {
            carrier.wake();
        }
    }

    /// Tells everybody who still waits.
    pub(super) fn fail_all(&self, error: Error) {
        let mut desk = lock(&self.desk);
        let all: Vec<_> = (0..desk.slots.len()).filter(|slot| desk.slots[*slot].is_open()).collect();
        let wakers = desk.fail(&all, error, &self.in_flight);
        drop(desk);
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl Slot {
    /// Somebody waits, or waited, and no outcome has come.
    fn is_open(&self) -> bool {
        matches!(self.wait, Wait::Waiting(_) | Wait::Abandoned)
    }
}

impl Desk {
    fn open(&mut self, runtime: u8, kind: Kind, size: usize, deadline_ms: u64) -> Option<Ticket> {
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None if self.slots.len() < SLOTS => {
                let wait = Wait::Free;
                self.slots.push(Slot { generation: 0, wait, kind, bytes: 0, deadline_ms });
                u16::try_from(self.slots.len() - 1).expect("SLOTS fits 16 bits")
            }
            None => return None,
        };
        let place = &mut self.slots[usize::from(slot)];
        place.generation += 1;
        place.wait = Wait::Waiting(None);
        place.kind = kind;
        place.bytes = u32::try_from(size).unwrap_or(u32::MAX);
        place.deadline_ms = deadline_ms;
        Some(Ticket::new(place.generation, slot, runtime))
    }

    fn call_carrier(&self) {
        if self.proposals.len() + self.reads.len() + self.asks.len() == 1
            && let Some(carrier) = &self.carrier
        {
            carrier.wake_by_ref();
        }
    }

    fn waiting(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    fn close(&mut self, slot: usize) {
        self.slots[slot].wait = Wait::Free;
        self.free.push(u16::try_from(slot).expect("SLOTS fits 16 bits"));
    }

    /// Puts an outcome into its slot. What comes late or twice finds the slot closed or of another generation.
    fn settle(&mut self, ticket: Ticket, outcome: Outcome, freed: &mut (usize, usize)) -> Option<Waker> {
        let place = self.slots.get_mut(ticket.slot())?;
        if place.generation != ticket.generation() || !place.is_open() {
            return None;
        }
        if place.kind == Kind::Proposal {
            freed.0 += 1;
            freed.1 += place.bytes as usize;
        }
        match std::mem::replace(&mut place.wait, Wait::Ready(outcome)) {
            Wait::Waiting(waker) => waker,
            _ => {
                self.close(ticket.slot());
                None
            }
        }
    }

    fn fail(&mut self, slots: &[usize], error: Error, in_flight: &InFlight) -> Vec<Waker> {
        let mut freed = (0, 0);
        let mut wakers = Vec::with_capacity(slots.len());
        for &slot in slots {
            let place = &self.slots[slot];
            let ticket = Ticket::new(place.generation, u16::try_from(slot).expect("SLOTS fits 16 bits"), 0);
            let outcome = place.kind.failed(error);
            wakers.extend(self.settle(ticket, outcome, &mut freed));
        }
        in_flight.release(freed.0, freed.1);
        wakers
    }
}

/// A handler's wait. Dropped early, it leaves its slot to the outcome, or to the deadline.
#[derive(Debug)]
pub(super) struct Waiting {
    mailbox: Arc<Mailbox>,
    ticket: Ticket,
}

impl Future for Waiting {
    type Output = Outcome;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        let mut desk = lock(&self.mailbox.desk);
        let slot = self.ticket.slot();
        let place = &mut desk.slots[slot];
        assert_eq!(place.generation, self.ticket.generation(), "a slot is not reused while its handler waits");
        match std::mem::replace(&mut place.wait, Wait::Free) {
            Wait::Ready(outcome) => {
                desk.close(slot);
                Poll::Ready(outcome)
            }
            Wait::Waiting(Some(waker)) if waker.will_wake(cx.waker()) => {
                place.wait = Wait::Waiting(Some(waker));
                Poll::Pending
            }
            _ => {
                place.wait = Wait::Waiting(Some(cx.waker().clone()));
                Poll::Pending
            }
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut desk = lock(&self.mailbox.desk);
        let slot = self.ticket.slot();
        let place = &mut desk.slots[slot];
        if place.generation != self.ticket.generation() {
            return;
        }
        match place.wait {
            Wait::Waiting(_) => place.wait = Wait::Abandoned,
            Wait::Ready(_) => desk.close(slot),
            Wait::Free | Wait::Abandoned => {}
        }
    }
}

/// The task of one runtime; see the top of this file. Ends when the member has stopped.
pub(super) struct Carrier {
    mailbox: Arc<Mailbox>,
    raft: Arc<Queue<Event>>,
    now_ms: Arc<dyn Fn() -> u64 + Send + Sync>,
    /// Reused.
    outcomes: Vec<(Ticket, Outcome)>,
    wakers: Vec<Waker>,
}

impl Carrier {
    pub(super) fn new(
        mailbox: Arc<Mailbox>,
        raft: Arc<Queue<Event>>,
        now_ms: Arc<dyn Fn() -> u64 + Send + Sync>,
    ) -> Self {
        Self { mailbox, raft, now_ms, outcomes: Vec::new(), wakers: Vec::new() }
    }

    /// The waker goes in before anything is taken out, so that what comes in between calls again.
    fn take_outcomes(&mut self, cx: &Context<'_>) {
        let mut tray = lock(&self.mailbox.tray);
        if !tray.carrier.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            tray.carrier = Some(cx.waker().clone());
        }
        std::mem::swap(&mut tray.outcomes, &mut self.outcomes);
    }

    fn settle_and_send(&mut self, cx: &Context<'_>) -> bool {
        let mut desk = lock(&self.mailbox.desk);
        if !desk.carrier.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            desk.carrier = Some(cx.waker().clone());
        }
        let mut freed = (0, 0);
        for (ticket, outcome) in self.outcomes.drain(..) {
            self.wakers.extend(desk.settle(ticket, outcome, &mut freed));
        }
        self.mailbox.in_flight.release(freed.0, freed.1);
        if self.mailbox.sweep.swap(false, Relaxed) {
            let now_ms = (self.now_ms)();
            let late = |slot: &Slot| slot.is_open() && slot.deadline_ms <= now_ms;
            let slots: Vec<_> = (0..desk.slots.len()).filter(|slot| late(&desk.slots[*slot])).collect();
            self.wakers.extend(desk.fail(&slots, Error::Timeout, &self.mailbox.in_flight));
        }
        let proposals = std::mem::take(&mut desk.proposals);
        let reads = std::mem::take(&mut desk.reads);
        let asks = std::mem::take(&mut desk.asks);
        drop(desk);
        let mut open = true;
        if !proposals.is_empty() {
            open &= self.raft.push(Event::Propose(proposals));
        }
        if !reads.is_empty() {
            open &= self.raft.push(Event::Read(reads));
        }
        if !asks.is_empty() {
            open &= self.raft.push(Event::AskLeases(asks));
        }
        self.wakers.drain(..).for_each(Waker::wake);
        open
    }
}

impl Future for Carrier {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.take_outcomes(cx);
        if !self.settle_and_send(cx) {
            self.mailbox.fail_all(Error::Stopped);
        }
        Poll::Pending
    }
}
