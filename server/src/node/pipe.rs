//! A connection for one archive, as node sees it: frames go in at one end and come out at the other.
//!
//! What is sent, in which order and when it is enough is decided by sync structs on node's side, in a thread of its own,
//! because it reads and writes disks. The room `peer` only moves the frames, finds out when the other member is gone, and
//! then drops its end: whoever waits at this end learns of it by getting nothing. A new pipe goes on where the old one
//! ended, since chunks are numbered.
//!
//! *Bound:* [`WAITING`] frames in each direction. An archive has fewer chunks than that under way, so a pipe that is full
//! is one whose other end does not keep to the protocol, and it is closed.

use tokio::sync::mpsc;

use crate::{
    snapshot::{ToReceiver, ToSender},
    types::MemberId,
};

/// Above the window of a transfer (`snapshot::WINDOW_CHUNKS`) with its beginning and its end; chunks have 256 KiB.
const WAITING: usize = 16;
/// Pipes that wait to be connected, or to be taken by who receives. There is a transfer to each follower at most.
pub(super) const WAITING_PIPES: usize = 16;

/// One end. The other one is gone when nothing can be sent or received any more.
#[derive(Debug)]
pub struct Pipe<Out, In> {
    member: MemberId,
    out: mpsc::Sender<Out>,
    back: mpsc::Receiver<In>,
}

/// The end of who has the archive, and, in `peer`, of who moves frames for the one that wants it.
pub type Giving = Pipe<ToReceiver, ToSender>;
/// The end of who wants the archive, and, in `peer`, of who moves frames for the one that has it.
pub type Taking = Pipe<ToSender, ToReceiver>;

/// Both ends of a connection with a member.
#[must_use]
pub fn pipe(member: MemberId) -> (Giving, Taking) {
    let (out, taken) = mpsc::channel(WAITING);
    let (answers, back) = mpsc::channel(WAITING);
    (Pipe { member, out, back }, Pipe { member, out: answers, back: taken })
}

impl<Out, In> Pipe<Out, In> {
    /// The member at the other end of the connection.
    #[must_use]
    pub fn member(&self) -> MemberId {
        self.member
    }

    /// Blocks while the pipe is full. False: the connection is gone.
    #[must_use]
    pub fn send(&self, frame: Out) -> bool {
        self.out.blocking_send(frame).is_ok()
    }

    /// Blocks until a frame comes. None: the connection is gone.
    pub fn receive(&mut self) -> Option<In> {
        self.back.blocking_recv()
    }

    /// For the room `peer`, which waits for neither direction alone.
    pub fn split(&mut self) -> (&mpsc::Sender<Out>, &mut mpsc::Receiver<In>) {
        (&self.out, &mut self.back)
    }
}
