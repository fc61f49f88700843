//! Connections that others opened: what is read goes to raft.

use std::{
    cell::Cell,
    io,
    rc::Rc,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use conclave_proto::conclave::peer::v1::{self as pb, frame};
use tokio::{
    io::AsyncWriteExt,
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::MissedTickBehavior,
};

use super::{
    MAX_INBOUND, archive,
    convert::{self, may_come_from},
    gate::{Admitted, Closed},
    hello::{self, Purpose, Refusal},
    start::{HELLO_TIMEOUT, LOOK, Shell},
    wire::{self, MAGIC, Reader, WireError},
};
use crate::node::{Message, Stats};

/// How long accepting rests after it failed for want of descriptors or memory: trying again at once would only spin.
const REST: Duration = Duration::from_millis(100);

/// A place among [`MAX_INBOUND`]; free again when it is dropped.
struct Place(Rc<Cell<usize>>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// Accepts until the shell stops.
pub(super) async fn accept(listener: TcpListener, shell: Rc<Shell>) {
    let open = Rc::new(Cell::new(0));
    loop {
        match listener.accept().await {
            Ok((stream, from)) => {
                // A connection too many is closed at once; members come again.
                if open.get() >= MAX_INBOUND {
                    continue;
                }
                open.set(open.get() + 1);
                let place = Place(Rc::clone(&open));
                let shell = Rc::clone(&shell);
                tokio::task::spawn_local(async move {
                    let _place = place;
                    if let Err(error) = serve(stream, &shell).await {
                        tracing::debug!(target: "conclave", %from, %error, "a connection from a member ended");
                    }
                });
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                tracing::warn!(target: "conclave", %error, "cannot accept a connection");
                tokio::time::sleep(REST).await;
            }
        }
    }
}

async fn serve(stream: TcpStream, shell: &Shell) -> Result<(), WireError> {
    let mut first = [0];
    let seen = tokio::time::timeout(HELLO_TIMEOUT, stream.peek(&mut first)).await.map_err(|_| WireError::Silence)??;
    if seen == 0 {
        return Err(WireError::Closed);
    }
    if first[0] != MAGIC[0] {
        if let Some(hand_over) = shell.http.get() {
            hand_over(stream.into_std()?);
        }
        return Ok(());
    }
    stream.set_nodelay(true)?;
    let (read, write) = stream.into_split();
    let mut inbound = Inbound { reader: Reader::new(read), write };
    let let_in = tokio::time::timeout(HELLO_TIMEOUT, inbound.greet(shell));
    let Some((admitted, purpose)) = let_in.await.map_err(|_| WireError::Silence)?? else { return Ok(()) };
    let outcome = {
        // A member opens a connection again when it gave up on the old one, which may not have ended here yet.
        let turn = shell.turns.take(admitted.member(), purpose);
        tokio::select! {
            outcome = inbound.receive(shell, admitted, purpose) => outcome,
            () = turn.over() => Ok(()),
        }
    };
    let traffic = &shell.transport.outbox(admitted.member()).traffic;
    if !matches!(outcome, Ok(()) | Err(WireError::Closed | WireError::Io(_) | WireError::Silence)) {
        Stats::add(&traffic.receive_failures, 1);
        let member = format_args!("{:x}", admitted.member().0);
        tracing::warn!(target: "conclave", %member, error = ?outcome, "closed a connection for what came in");
    }
    outcome
}

/// A connection that another member opened.
struct Inbound {
    reader: Reader<OwnedReadHalf>,
    write: OwnedWriteHalf,
}

impl Inbound {
    /// Reads the hello and answers it. None: it was refused.
    async fn greet(&mut self, shell: &Shell) -> Result<Option<(Admitted, Purpose)>, WireError> {
        self.reader.magic().await?;
        let hello: pb::Hello = self.reader.hello().await?;
        let (greeting, purpose) = hello::read_hello(&hello);
        let admitted = match purpose {
            Some(_) => shell.gate.admit(&greeting),
            None => Err(Closed::Refused { refusal: Refusal::Malformed, known: None }),
        };
        let last = shell.transport.last();
        let (judged, known) = match &admitted {
            Ok(_) => (Ok(()), Some(greeting.incarnation)),
            Err(Closed::Refused { refusal, known }) => {
                shell.say_refused(greeting.member, *refusal);
                (Err(*refusal), *known)
            }
            Err(Closed::Disk(error)) => {
                tracing::error!(target: "conclave", %error, "cannot remember a member, so it is not let in");
                return Ok(None);
            }
        };
        let mut out = BytesMut::from(&MAGIC[..]);
        wire::put(&mut out, &hello::reply(shell.gate.me(), last, judged, known));
        self.write.write_all(&out).await?;
        let (Ok(admitted), Some(purpose)) = (admitted, purpose) else { return Ok(None) };
        shell.transport.offers(admitted.member(), greeting.last);
        // It is there: whoever waits to dial it need not wait any longer.
        shell.kick(admitted.member());
        Ok(Some((admitted, purpose)))
    }

    /// Hands on what comes in until the connection ends.
    async fn receive(&mut self, shell: &Shell, from: Admitted, purpose: Purpose) -> Result<(), WireError> {
        if purpose == Purpose::Archive {
            return archive::take(shell, from, &mut self.reader, &mut self.write).await;
        }
        let outbox = shell.transport.outbox(from.member());
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard = Instant::now();
        let mut messages = Vec::new();
        loop {
            tokio::select! {
                frame = self.reader.frame() => {
                    let mut next = Some(frame?);
                    while let Some(frame) = next {
                        self.take(frame, shell, from, &mut messages)?;
                        next = self.reader.ready_frame()?;
                    }
                    if !messages.is_empty() {
                        shell.transport.deliver(std::mem::take(&mut messages));
                    }
                }
                _ = looks.tick() => {
                    let received = self.reader.received();
                    if received > 0 {
                        heard = Instant::now();
                        Stats::add(&outbox.traffic.received_bytes, received);
                        // A ping may wait behind megabytes on a slow network; that they arrive is as good.
                        self.pong(0)?;
                    } else if heard.elapsed() > shell.timing.receive_silence() {
                        return Err(WireError::Silence);
                    }
                }
            }
        }
    }

    fn take(
        &mut self,
        frame: frame::Kind,
        shell: &Shell,
        from: Admitted,
        messages: &mut Vec<Message>,
    ) -> Result<(), WireError> {
        match frame {
            frame::Kind::Messages(batch) => {
                for message in batch.messages {
                    let message =
                        convert::message_in(message).ok_or(WireError::Unexpected("an unknown kind of message"))?;
                    if !may_come_from(&message, from.member(), shell.gate.me().member) {
                        return Err(WireError::Unexpected("a message of somebody else, or for somebody else"));
                    }
                    messages.push(message);
                }
                Ok(())
            }
            frame::Kind::Ping(ping) if ping.number > 0 => self.pong(ping.number),
            _ => Err(WireError::Unexpected("a frame that this connection is not for")),
        }
    }

    /// Best effort: when there is no room, whoever would read it has not read the earlier ones.
    fn pong(&mut self, number: u64) -> Result<(), WireError> {
        let mut out = BytesMut::with_capacity(32);
        wire::put_kind(&mut out, frame::Kind::Pong(pb::Pong { number }));
        match self.write.try_write(&out) {
            Ok(written) if written == out.len() => Ok(()),
            Ok(_) => Err(WireError::Unexpected("nobody reads our answers")),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
