//! Connections for archives: frames are moved between a socket and a pipe of node's, both ways, until one end is gone.
//!
//! What the frames mean, which chunk is next and when it is enough is decided at the pipes' other ends. Here they are only
//! kept moving: a thread that reads or syncs a disk at its end of the pipe keeps nobody from answering pings.

use std::{rc::Rc, time::Instant};

use bytes::BytesMut;
use conclave_proto::conclave::peer::v1::{self as pb, frame};
use tokio::{
    io::AsyncWriteExt,
    net::tcp::{OwnedReadHalf, OwnedWriteHalf},
    sync::mpsc,
    time::MissedTickBehavior,
};

use super::{
    convert,
    dial::{self, Target},
    gate::Admitted,
    hello::Purpose,
    start::{LOOK, Shell},
    wire::{self, Reader, WireError},
};
use crate::node::{Lane, Stats, Taking};

/// Connects the pipes that node opens, each in a task of its own.
pub(super) async fn connect_all(shell: Rc<Shell>, mut opened: mpsc::Receiver<Taking>, targets: Rc<Vec<Target>>) {
    while let Some(pipe) = opened.recv().await {
        let (shell, targets) = (Rc::clone(&shell), Rc::clone(&targets));
        tokio::task::spawn_local(async move {
            let Some(target) = targets.iter().find(|target| target.member == pipe.member()) else { return };
            let member = format_args!("{:x}", target.member.0);
            // Dropping the pipe tells node, which opens another one if it still wants to.
            if let Err(error) = give(&shell, target, pipe).await {
                tracing::warn!(target: "conclave", %member, %error, "a connection for an archive ended");
            }
        });
    }
}

/// At the end that has the archive.
async fn give(shell: &Shell, target: &Target, pipe: Taking) -> Result<(), dial::DialError> {
    let mut last = None;
    for url in &target.urls {
        match dial::open(shell, target, url, Purpose::Archive).await {
            Ok((reader, write)) => return Ok(send(shell, target, reader, write, pipe).await?),
            Err(error) => last = Some(error),
        }
    }
    last.map_or(Ok(()), Err)
}

async fn send(
    shell: &Shell,
    target: &Target,
    mut reader: Reader<OwnedReadHalf>,
    mut write: OwnedWriteHalf,
    mut pipe: Taking,
) -> Result<(), WireError> {
    let outbox = shell.transport.outbox(target.member);
    let (answers, frames) = pipe.split();
    // Both loops end with the connection, and one of them with the pipe.
    let writing = async {
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut out = BytesMut::new();
        let mut number = 0;
        loop {
            tokio::select! {
                frame = frames.recv() => match frame {
                    Some(frame) => wire::put_kind(&mut out, convert::to_receiver_out(frame)),
                    None => return Ok(()),
                },
                _ = looks.tick() => {
                    number += 1;
                    wire::put_kind(&mut out, frame::Kind::Ping(pb::Ping { number }));
                }
            }
            write.write_all(&out).await?;
            Stats::add(&outbox.traffic.sent_bytes, out.len() as u64);
            out.clear();
        }
    };
    let reading = async {
        let silence = shell.timing.send_silence(Lane::Append);
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard = Instant::now();
        loop {
            tokio::select! {
                frame = reader.frame() => match frame? {
                    frame::Kind::Pong(_) => {}
                    frame::Kind::ArchiveAnswer(answer) => {
                        let answer = convert::to_sender_in(&answer).ok_or(WireError::Unexpected("an unknown answer"))?;
                        if answers.try_send(answer).is_err() {
                            return Err(WireError::Unexpected("more answers than chunks"));
                        }
                    }
                    _ => return Err(WireError::Unexpected("a frame that is no answer")),
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
    };
    tokio::select! {
        outcome = writing => outcome,
        outcome = reading => outcome,
    }
}

/// At the end that wants the archive: the connection was let in.
pub(super) async fn take(
    shell: &Shell,
    from: Admitted,
    reader: &mut Reader<OwnedReadHalf>,
    write: &mut OwnedWriteHalf,
) -> Result<(), WireError> {
    // Without anybody who takes it the connection ends, and the other end tries again later.
    let Some(mut pipe) = shell.transport.accept_pipe(from.member()) else { return Ok(()) };
    let outbox = shell.transport.outbox(from.member());
    let (frames, answers) = pipe.split();
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut heard = Instant::now();
    let mut out = BytesMut::new();
    loop {
        tokio::select! {
            frame = reader.frame() => match frame? {
                frame::Kind::Ping(ping) => wire::put_kind(&mut out, frame::Kind::Pong(pb::Pong { number: ping.number })),
                other => {
                    let frame = convert::to_receiver_in(other)
                        .ok_or(WireError::Unexpected("a frame that is not of an archive"))?;
                    match frames.try_send(frame) {
                        Ok(()) => {}
                        Err(mpsc::error::TrySendError::Full(_)) => {
                            return Err(WireError::Unexpected("more chunks than were asked for"));
                        }
                        Err(mpsc::error::TrySendError::Closed(_)) => {
                            // Node is done with it; what it said last is still to be sent.
                            while let Ok(answer) = answers.try_recv() {
                                wire::put_kind(&mut out, convert::to_sender_out(answer));
                            }
                            write.write_all(&out).await?;
                            return Ok(());
                        }
                    }
                }
            },
            answer = answers.recv() => match answer {
                Some(answer) => wire::put_kind(&mut out, convert::to_sender_out(answer)),
                None => return Ok(()),
            },
            _ = looks.tick() => {
                let received = reader.received();
                if received > 0 {
                    heard = Instant::now();
                    Stats::add(&outbox.traffic.received_bytes, received);
                    wire::put_kind(&mut out, frame::Kind::Pong(pb::Pong { number: 0 }));
                } else if heard.elapsed() > shell.timing.receive_silence() {
                    return Err(WireError::Silence);
                }
            }
        }
        if !out.is_empty() {
            write.write_all(&out).await?;
            out.clear();
        }
    }
}
