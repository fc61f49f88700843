//! What the hub has for one stream, until the stream's task takes it.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use bytes::{BufMut, Bytes};
use prost::encoding::{encode_varint, encoded_len_varint};

/// Tag of `WatchResponse.watch_id`: field 2, a varint.
const WATCH_ID_TAG: u8 = 0x10;

/// What a frame costs beside its body: the entry in the queue and the prefix that the stream puts before the message.
const FRAME_OVERHEAD: usize = size_of::<Frame>() + 16;

/// Room for frames that an idle outbox keeps: 40 KiB, and there may be 10,000 streams.
const FRAMES_KEPT: usize = 1024;

/// One WatchResponse but for its watch id: `body` is the encoded rest, shared between watchers.
///
/// Fields of a protobuf message may come in any order, so the stream writes field 2 (unless the id is 0, which proto3
/// leaves out) and then the body: [`Frame::write`] does it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub watch_id: i64,
    pub body: Bytes,
}

impl Frame {
    /// Length of the whole encoded WatchResponse, in bytes.
    #[must_use]
    pub fn message_len(&self) -> usize {
        let id = if self.watch_id == 0 { 0 } else { 1 + encoded_len_varint(self.watch_id.cast_unsigned()) };
        id + self.body.len()
    }

    /// Writes the whole encoded WatchResponse (without gRPC's five bytes before it).
    pub fn write(&self, into: &mut impl BufMut) {
        self.write_id(into);
        into.put_slice(&self.body);
    }

    /// Writes what comes before `body`, for a stream that sends a long body without copying it.
    pub fn write_id(&self, into: &mut impl BufMut) {
        if self.watch_id != 0 {
            into.put_u8(WATCH_ID_TAG);
            encode_varint(self.watch_id.cast_unsigned(), into);
        }
    }
}

/// How a take ended.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// Everything there was; perhaps nothing.
    All,
    /// Everything there was, and the hub keeps more back: answer with [`super::Input::Drained`].
    AllSendDrained,
    /// Everything there was, and no more will come: the client asked on and on without taking the answers. End the stream.
    Closed,
}

/// A queue of frames, bounded in bytes.
///
/// It is *held* from the moment something did not fit until the hub lets go of it, and takes nothing meanwhile: what
/// was refused must come before what follows, and only the hub knows what it refused.
#[derive(Debug)]
pub struct Outbox {
    max_bytes: usize,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    frames: Vec<Frame>,
    bytes: usize,
    hold: Hold,
    closed: bool,
    waker: Option<Waker>,
    /// The hold is over and the stream does not know yet; the next take ends at once, even without frames.
    released: bool,
    /// The hub owes a wake and will give it at the end of its step.
    wake_owed: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Hold {
    #[default]
    Free,
    /// Something did not fit; the stream does not know yet.
    Held,
    /// As `Held`, and a take has told the stream, which answers once.
    HeldAndTold,
}

impl Outbox {
    /// A single frame always fits an empty outbox, whatever its size, because a revision is never split.
    #[must_use]
    pub fn new(max_bytes: usize) -> Arc<Self> {
        Arc::new(Self { max_bytes, inner: Mutex::default() })
    }

    /// Queues one frame and wakes the stream's task. False: full, nothing was queued.
    #[must_use]
    pub fn push(&self, frame: Frame) -> bool {
        let accepted = self.lock().offer(self.max_bytes, frame.watch_id, std::slice::from_ref(&frame.body));
        self.wake();
        accepted
    }

    /// Takes all frames (appended to `into`). Pending while there are none; the task is woken when there are. Without
    /// frames it ends once when a hold is over, so that the task looks at `is_held` again.
    pub fn poll_take(&self, cx: &mut Context<'_>, into: &mut Vec<Frame>) -> Poll<Taken> {
        let mut inner = self.lock();
        if inner.frames.is_empty() && !inner.closed && !inner.released {
            if !inner.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                inner.waker = Some(cx.waker().clone());
            }
            return Poll::Pending;
        }
        if into.is_empty() {
            std::mem::swap(into, &mut inner.frames);
            // The two lists take turns; what a burst made large goes with it.
            if inner.frames.capacity() > FRAMES_KEPT {
                inner.frames = Vec::new();
            }
        } else {
            into.append(&mut inner.frames);
        }
        inner.bytes = 0;
        inner.released = false;
        Poll::Ready(if inner.closed {
            Taken::Closed
        } else if inner.hold == Hold::Held {
            inner.hold = Hold::HeldAndTold;
            Taken::AllSendDrained
        } else {
            Taken::All
        })
    }

    /// True while the hub keeps something back for this stream: then its task should read no further requests, so that
    /// a client that does not read is slowed by flow control and not cut off.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.lock().hold != Hold::Free
    }

    /// Queues for each of `ids` all of `bodies` or none, in order; stops at the first that does not fit. The count of
    /// ids served, and whether the caller must see to it that [`Outbox::wake`] is called later.
    pub(super) fn offer_all(&self, ids: impl Iterator<Item = i64>, bodies: &[Bytes]) -> Offered {
        let mut inner = self.lock();
        let mut served = 0;
        for id in ids {
            if !inner.offer(self.max_bytes, id, bodies) {
                break;
            }
            served += 1;
        }
        let owe_wake = served > 0 && !std::mem::replace(&mut inner.wake_owed, true);
        Offered { served, owe_wake }
    }

    /// Lets frames in again. The caller has kept what was refused, offers that first, and wakes the task, which may have
    /// stopped reading requests.
    pub(super) fn release(&self) {
        let mut inner = self.lock();
        inner.hold = Hold::Free;
        inner.released = true;
    }

    /// No more frames will come.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.wake();
    }

    /// Wakes the stream's task: there is something to take, or it may read requests again.
    pub(super) fn wake(&self) {
        let mut inner = self.lock();
        inner.wake_owed = false;
        let waker = inner.waker.take();
        // A waker may run code of the runtime: not under our lock.
        drop(inner);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// A panic elsewhere cannot leave the queue half changed: each change is complete before anything can panic.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What came of [`Outbox::offer_all`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Offered {
    pub(super) served: usize,
    pub(super) owe_wake: bool,
}

impl Inner {
    fn offer(&mut self, max_bytes: usize, watch_id: i64, bodies: &[Bytes]) -> bool {
        if self.hold != Hold::Free || self.closed {
            return false;
        }
        let cost: usize = bodies.iter().map(|body| body.len() + FRAME_OVERHEAD).sum();
        if self.bytes + cost > max_bytes && !self.frames.is_empty() {
            self.hold = Hold::Held;
            return false;
        }
        self.frames.extend(bodies.iter().map(|body| Frame { watch_id, body: body.clone() }));
        self.bytes += cost;
        true
    }
}
