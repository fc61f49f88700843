//! Connections to others: what a lane of an outbox holds is written to them.

use std::{
    cell::Cell,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use conclave_proto::conclave::peer::v1::{self as pb, frame};
use rand::RngExt;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::AsyncWriteExt,
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::MissedTickBehavior,
};

use super::{
    BATCH_BYTES,
    gate::Closed,
    hello::{self, Purpose, Refusal},
    start::{HELLO_TIMEOUT, LOOK, Shell},
    wire::{self, MAGIC, Reader, WireError},
};
use crate::{
    config::Url,
    node::{Lane, Outbox, Stats},
    types::MemberId,
};

/// First pause after a connection failed, and the longest. An election takes a second: a member that is back is dialled
/// within that.
const LEAST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// A connection that lasted so long was a good one: the pause after it is the least.
const GOOD: Duration = Duration::from_secs(5);
/// The system's own patience with a host that does not answer is minutes.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Finds dead connections that have nothing to say even when this process is stopped; our pings find the others.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// A member to dial.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) member: MemberId,
    pub(super) urls: Vec<String>,
}

/// Why a connection could not be made, or ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    #[error("{0}")]
    Address(String),
    #[error("cannot connect to {url}: {source}")]
    Connect { url: String, source: std::io::Error },
    #[error("it refuses this member: {}", .0.text())]
    RefusedUs(Refusal),
    #[error("this member refuses it: {}", .0.text())]
    Refused(Refusal),
    #[error("it cannot be remembered: {0}")]
    Disk(std::io::Error),
    #[error(transparent)]
    Wire(#[from] WireError),
}

/// Keeps a connection for a lane to a member for as long as it is polled.
pub(super) async fn dial(shell: Rc<Shell>, target: Target, lane: Lane) {
    let outbox = shell.transport.outbox(target.member);
    let mut pause = LEAST_PAUSE;
    let mut said = String::new();
    for attempt in 0_usize.. {
        let began = Instant::now();
        let url = &target.urls[attempt % target.urls.len()];
        let Err(error) = connect_and_send(&shell, &target, url, lane, &outbox, &mut said).await else { continue };
        // Said once until something else goes wrong: a member may be away for days.
        let text = error.to_string();
        if text != said {
            let member = format_args!("{:x}", target.member.0);
            tracing::warn!(target: "conclave", %member, url, ?lane, error = text, "no connection to a member");
            said = text;
        }
        pause = if began.elapsed() > GOOD { LEAST_PAUSE } else { (pause * 2).min(LONGEST_PAUSE) };
        // Members that lost each other at the same moment do not come back at the same moment.
        let pause = pause.mul_f64(rand::rng().random_range(0.5..1.0));
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shell.kicked(target.member, lane) => {}
        }
    }
}

async fn connect_and_send(
    shell: &Shell,
    target: &Target,
    url: &str,
    lane: Lane,
    outbox: &Arc<Outbox>,
    said: &mut String,
) -> Result<(), DialError> {
    let purpose = match lane {
        Lane::Control => Purpose::Control,
        Lane::Append => Purpose::Append,
    };
    let (mut reader, mut write) = open(shell, target, url, purpose).await?;
    let member = format_args!("{:x}", target.member.0);
    tracing::info!(target: "conclave", %member, url, ?lane, "connected to a member");
    said.clear();
    outbox.open(lane);
    let open = Open { shell, outbox, lane };
    let pinged = Cell::new((0, Instant::now()));
    tokio::select! {
        outcome = write_all(&open, &mut write, &pinged) => outcome?,
        outcome = listen(&open, &mut reader, &pinged) => outcome?,
    }
    Ok(())
}

/// A connection on which both ends have let each other in.
pub(super) async fn open(
    shell: &Shell,
    target: &Target,
    url: &str,
    purpose: Purpose,
) -> Result<(Reader<OwnedReadHalf>, OwnedWriteHalf), DialError> {
    let stream = connect(url).await?;
    let (read, mut write) = stream.into_split();
    let mut reader = Reader::new(read);
    let greeting = greet(shell, target, purpose, &mut reader, &mut write);
    tokio::time::timeout(HELLO_TIMEOUT, greeting).await.map_err(|_| WireError::Silence)??;
    Ok((reader, write))
}

/// An open lane; closed when it is dropped, whatever ended it.
struct Open<'a> {
    shell: &'a Shell,
    outbox: &'a Arc<Outbox>,
    lane: Lane,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.shell.transport.close(self.outbox, self.lane);
    }
}

async fn connect(url: &str) -> Result<TcpStream, DialError> {
    let parsed = Url::parse(url).map_err(DialError::Address)?;
    let connecting = TcpStream::connect((parsed.host.as_str(), parsed.port));
    let failed = |source| DialError::Connect { url: url.to_owned(), source };
    let stream = tokio::time::timeout(CONNECT_TIMEOUT, connecting)
        .await
        .map_err(|_| failed(std::io::ErrorKind::TimedOut.into()))?
        .map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE);
    SockRef::from(&stream).set_tcp_keepalive(&keepalive).map_err(failed)?;
    Ok(stream)
}

/// Says hello and judges the answer.
async fn greet(
    shell: &Shell,
    target: &Target,
    purpose: Purpose,
    reader: &mut Reader<OwnedReadHalf>,
    write: &mut OwnedWriteHalf,
) -> Result<(), DialError> {
    let me = *shell.gate.me();
    let mut out = BytesMut::from(&MAGIC[..]);
    wire::put(&mut out, &hello::hello(&me, target.member, purpose, shell.transport.last()));
    write.write_all(&out).await.map_err(WireError::from)?;
    reader.magic().await?;
    let reply: pb::HelloReply = reader.hello().await?;
    let (greeting, refused) = hello::read_reply(&reply, me.member);
    // Somebody else answers under this address, and what it says is not said by the member that was asked.
    if greeting.member != target.member && greeting.cluster == me.cluster {
        return Err(DialError::Refused(Refusal::Addressee));
    }
    if let Some(refusal) = refused {
        if refusal == Refusal::Incarnation
            && greeting.cluster == me.cluster
            && reply.known_incarnation != me.incarnation
        {
            shell.emptied(target.member, reply.known_incarnation);
        }
        return Err(DialError::RefusedUs(refusal));
    }
    let admitted = shell.gate.admit(&greeting).map_err(|closed| match closed {
        Closed::Refused { refusal, .. } => DialError::Refused(refusal),
        Closed::Disk(error) => DialError::Disk(error),
    })?;
    shell.accepted(admitted.member());
    shell.transport.offers(admitted.member(), greeting.last);
    Ok(())
}

/// Writes what the lane holds, and pings, until that fails.
async fn write_all(
    open: &Open<'_>,
    write: &mut OwnedWriteHalf,
    pinged: &Cell<(u64, Instant)>,
) -> Result<(), WireError> {
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut messages = Vec::new();
    let mut out = BytesMut::with_capacity(BATCH_BYTES);
    loop {
        tokio::select! {
            () = open.outbox.arrived(open.lane) => {}
            _ = looks.tick() => {}
        }
        while open.outbox.take(open.lane, BATCH_BYTES, &mut messages) || pinged.get().1.elapsed() >= LOOK {
            if pinged.get().1.elapsed() >= LOOK {
                let number = pinged.get().0 + 1;
                pinged.set((number, Instant::now()));
                wire::put_kind(&mut out, frame::Kind::Ping(pb::Ping { number }));
            }
            wire::put_messages(&mut out, &mut messages);
            write.write_all(&out).await?;
            Stats::add(&open.outbox.traffic.sent_bytes, out.len() as u64);
            out.clear();
            // One large message must not hold its memory for ever.
            if out.capacity() > 8 * BATCH_BYTES {
                out = BytesMut::with_capacity(BATCH_BYTES);
            }
        }
    }
}

/// Hears the pongs; ends when there was none for too long.
async fn listen(
    open: &Open<'_>,
    reader: &mut Reader<OwnedReadHalf>,
    pinged: &Cell<(u64, Instant)>,
) -> Result<(), WireError> {
    let silence = open.shell.timing.send_silence(open.lane);
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut heard = Instant::now();
    loop {
        tokio::select! {
            frame = reader.frame() => match frame? {
                frame::Kind::Pong(pong) => {
                    let (number, at) = pinged.get();
                    if pong.number == number {
                        open.outbox.traffic.round_trip(at.elapsed());
                    }
                }
                _ => return Err(WireError::Unexpected("a frame that is no pong")),
            },
            _ = looks.tick() => {
                if reader.received() > 0 {
                    heard = Instant::now();
                } else if heard.elapsed() > silence {
                    return Err(WireError::Silence);
                }
            }
        }
    }
}
