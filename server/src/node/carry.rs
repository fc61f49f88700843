//! The threads that carry archives: each transfer has one for as long as it lasts, since it waits for disks and for the
//! other member. What they do is decided by [`ArchiveDoor`] and the structs behind it.
//!
//! Bounds: outgoing transfers by the archives that may be open, incoming ones by [`MAX_INCOMING`].

use std::{
    io,
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use super::{
    archives::{ArchiveDoor, Outgoing},
    log::EXIT_LOG,
    pipe::Taking,
    queue::Queue,
    thread::{spawn, stop_process},
    transport::Transport,
};

/// Before another connection is tried: a follower that starts again takes about as long.
const PAUSE: Duration = Duration::from_millis(500);
/// There is one slot for what comes; a second connection is a newer leader's, or the first one's replacement, and a third
/// may overlap with both while they end.
const MAX_INCOMING: usize = 3;

/// Starts the thread of each direction. They end when the queue is closed, and when no transport is left; without a
/// transfer they hold nothing of the member, so that a stopped one lets go of its store at once.
pub(super) fn start(door: &Arc<ArchiveDoor>, outgoing: &Arc<Queue<Outgoing>>, transport: &Transport) -> io::Result<()> {
    let (out_door, queue, out) = (Arc::downgrade(door), Arc::clone(outgoing), transport.clone());
    spawn("archives-out", move || {
        let mut all = Vec::new();
        // Blocks until something comes; `Closed` and `Nothing` both come with nothing only at the end.
        while queue.take(&mut all, None) == super::queue::Taken::Some {
            for outgoing in all.drain(..) {
                let (door, transport) = (Weak::clone(&out_door), out.clone());
                let carried = spawn("archive-out", move || {
                    if let Some(door) = door.upgrade() {
                        carry_out(&door, outgoing, &transport);
                    }
                });
                if let Err(error) = carried {
                    tracing::error!(target: "conclave", %error, "no thread to send an archive; it is given up when it stalls");
                }
            }
        }
    })?;
    let Some(mut incoming) = transport.accepted_pipes() else { return Ok(()) };
    let (door, running) = (Arc::downgrade(door), Arc::new(AtomicUsize::new(0)));
    spawn("archives-in", move || {
        while let Some(pipe) = incoming.blocking_recv() {
            // What is not taken is dropped: its sender comes again.
            let Some(door) = door.upgrade().filter(|_| running.load(Relaxed) < MAX_INCOMING) else { continue };
            running.fetch_add(1, Relaxed);
            let running = Arc::clone(&running);
            let carried = spawn("archive-in", move || {
                carry_in(&door, pipe);
                running.fetch_sub(1, Relaxed);
            });
            if let Err(error) = carried {
                tracing::error!(target: "conclave", %error, "no thread to receive an archive");
            }
        }
    })?;
    Ok(())
}

fn carry_out(door: &ArchiveDoor, mut outgoing: Outgoing, transport: &Transport) {
    while door.is_open(&outgoing) {
        if let Some(mut pipe) = transport.open_pipe(outgoing.to)
            && door.give(&mut outgoing, &mut pipe)
        {
            return;
        }
        std::thread::park_timeout(PAUSE);
    }
}

fn carry_in(door: &ArchiveDoor, mut pipe: Taking) {
    if let Err(failed) = door.take(&mut pipe) {
        stop_process(EXIT_LOG, &failed);
    }
}
