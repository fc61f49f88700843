//! Hand-overs between runtimes and threads.

use std::{
    future::Future,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, Wake, Waker},
};

use bytes::Bytes;

use crate::{
    error::Error,
    node::{
        Answer,
        mailbox::{Carrier, InFlight, MAX_IN_FLIGHT, MAX_IN_FLIGHT_BYTES, Mailbox, Outcome, Ticket, Waiting},
        queue::{Queue, Taken},
        raft_thread::Event,
    },
    state::Reply,
    types::{Revision, Term},
};

#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Relaxed);
    }
}

struct World {
    in_flight: Arc<InFlight>,
    mailbox: Arc<Mailbox>,
    raft: Arc<Queue<Event>>,
    carrier: Pin<Box<Carrier>>,
    carrier_woken: Arc<Count>,
    handler_woken: Arc<Count>,
    now_ms: Arc<AtomicUsize>,
}

impl World {
    fn new() -> Self {
        let in_flight = Arc::new(InFlight::default());
        let mailbox = Arc::new(Mailbox::new(3, Arc::clone(&in_flight)));
        let raft = Arc::new(Queue::new());
        let now_ms = Arc::new(AtomicUsize::new(0));
        let clock = Arc::clone(&now_ms);
        let now = Arc::new(move || clock.load(Relaxed) as u64);
        let carrier = Box::pin(Carrier::new(Arc::clone(&mailbox), Arc::clone(&raft), now));
        let mut world = Self {
            in_flight,
            mailbox,
            raft,
            carrier,
            carrier_woken: Arc::default(),
            handler_woken: Arc::default(),
            now_ms,
        };
        world.carry();
        world
    }

    fn carry(&mut self) {
        let waker = Waker::from(Arc::clone(&self.carrier_woken));
        assert!(self.carrier.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    }

    fn propose(&self, size: usize) -> Result<Waiting, Error> {
        self.mailbox.propose(size, 100, |_| Bytes::new())
    }

    fn poll(&self, waiting: &mut Waiting) -> Poll<Outcome> {
        let waker = Waker::from(Arc::clone(&self.handler_woken));
        pin!(waiting).poll(&mut Context::from_waker(&waker))
    }

    /// What the carrier handed to raft: the tickets of each batch.
    fn handed_over(&self) -> Vec<Vec<Ticket>> {
        let mut events = Vec::new();
        self.raft.take(&mut events, Some(std::time::Duration::ZERO));
        let tickets = |event| match event {
            Event::Propose(proposals) => proposals.into_iter().map(|proposal| proposal.ticket).collect(),
            Event::Read(tickets) => tickets,
            other => panic!("{other:?}"),
        };
        events.into_iter().map(tickets).collect()
    }

    fn answer(&self, tickets: &[Ticket]) {
        let answer = |revision| Answer { reply: Reply::Done, revision: Revision(revision), term: Term(1) };
        let mut outcomes: Vec<_> =
            tickets.iter().map(|ticket| (*ticket, Outcome::Answer(Ok(answer(ticket.0 as i64))))).collect();
        self.mailbox.deliver(&mut outcomes);
    }
}

fn revision(poll: Poll<Outcome>) -> Option<i64> {
    match poll {
        Poll::Ready(Outcome::Answer(Ok(answer))) => Some(answer.revision.0),
        Poll::Pending => None,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_ready_together_is_handed_over_together() {
    let mut world = World::new();
    let mut waiting: Vec<_> = (0..10).map(|_| world.propose(10).unwrap()).collect();
    assert!(waiting.iter_mut().all(|waiting| world.poll(waiting).is_pending()));
    assert_eq!(world.carrier_woken.0.load(Relaxed), 1, "one wake for all");
    world.carry();
    let batches = world.handed_over();
    assert_eq!((batches.len(), batches[0].len()), (1, 10));

    world.answer(&batches[0]);
    assert_eq!(world.carrier_woken.0.load(Relaxed), 2, "one wake for all answers");
    world.carry();
    assert_eq!(world.handler_woken.0.load(Relaxed), 10);
    for (waiting, ticket) in waiting.iter_mut().zip(&batches[0]) {
        assert_eq!(revision(world.poll(waiting)), Some(ticket.0 as i64), "everyone gets its own");
    }
    assert_eq!(world.in_flight.proposals(), 0);
}

#[test]
fn an_answer_that_nobody_waits_for_is_dropped() {
    let mut world = World::new();
    let waiting = world.propose(10).unwrap();
    world.carry();
    let gone = world.handed_over().remove(0)[0];
    drop(waiting);
    assert_eq!(world.in_flight.proposals(), 1, "the proposal is still in flight");
    world.answer(&[gone]);
    world.carry();
    assert_eq!(world.in_flight.proposals(), 0);
    // The slot is used again, under another generation; the old answer comes twice.
    let mut next = world.propose(10).unwrap();
    world.carry();
    let ticket = world.handed_over().remove(0)[0];
    assert_ne!(ticket, gone);
    world.answer(&[gone]);
    world.carry();
    assert!(world.poll(&mut next).is_pending());
    world.answer(&[ticket]);
    world.carry();
    assert_eq!(revision(world.poll(&mut next)), Some(ticket.0 as i64));
}

#[test]
fn who_waits_too_long_is_told_and_its_slot_is_free() {
    let mut world = World::new();
    let mut waiting = world.propose(10).unwrap();
    let mut read = world.mailbox.read(100).unwrap();
    assert!(world.poll(&mut waiting).is_pending());
    world.carry();
    let tickets = world.handed_over();
    world.now_ms.store(99, Relaxed);
    world.mailbox.sweep();
    world.carry();
    assert!(world.poll(&mut waiting).is_pending());
    world.now_ms.store(100, Relaxed);
    world.mailbox.sweep();
    world.carry();
    assert!(matches!(world.poll(&mut waiting), Poll::Ready(Outcome::Answer(Err(Error::Timeout)))));
    assert!(matches!(world.poll(&mut read), Poll::Ready(Outcome::Read(Err(Error::Timeout)))));
    assert_eq!(world.in_flight.proposals(), 0);
    world.answer(&tickets[0]);
    world.carry();
    assert_eq!(world.in_flight.proposals(), 0, "counted off once");
}

#[test]
fn too_many_or_too_large_is_refused() {
    let mut world = World::new();
    let waiting: Vec<_> = (0..MAX_IN_FLIGHT).map(|_| world.propose(1).unwrap()).collect();
    assert!(matches!(world.propose(1), Err(Error::RequestTooManyRequests)));
    world.carry();
    let tickets = world.handed_over().remove(0);
    world.answer(&tickets);
    world.carry();
    drop(waiting);
    let large = world.propose(MAX_IN_FLIGHT_BYTES).unwrap();
    assert!(matches!(world.propose(1), Err(Error::RequestTooManyRequests)));
    world.mailbox.fail_all(Error::Stopped);
    drop(large);
    assert!(world.propose(1).is_ok());
}

#[test]
fn a_closed_queue_fails_who_waits() {
    let mut world = World::new();
    let mut waiting = world.propose(1).unwrap();
    assert!(world.poll(&mut waiting).is_pending());
    world.raft.close();
    world.carry();
    assert!(matches!(world.poll(&mut waiting), Poll::Ready(Outcome::Answer(Err(Error::Stopped)))));
    assert_eq!(world.raft.take(&mut Vec::new(), None), Taken::Closed);
}
