//! A few threads for reads that may take long, so that a large list does not delay everybody's small gets.

use std::{io, thread};

use crossbeam_channel::{Sender, TrySendError};
use tokio::sync::oneshot;

use crate::error::Error;

/// Reads that wait for a thread. Each is a waiting client call, so this is a bound on clients' patience rather than on
/// memory: 1,000 lists of 10 ms are five seconds of work for two threads, etcd's request timeout.
const QUEUE: usize = 1024;

type Job = Box<dyn FnOnce() + Send>;

/// The pool. Its threads end when it is dropped.
pub struct Readers {
    queue: Sender<Job>,
}

impl Readers {
    pub fn start(threads: usize) -> io::Result<Self> {
        let (queue, jobs) = crossbeam_channel::bounded::<Job>(QUEUE);
        for number in 0..threads {
            let jobs = jobs.clone();
            thread::Builder::new().name(format!("reader-{number}")).spawn(move || {
                for job in jobs {
                    job();
                }
            })?;
        }
        Ok(Self { queue })
    }

    /// Runs `work` on a thread of the pool. Refused when too many wait already; skipped when the caller has gone.
    pub(super) async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move || {
            if !answer.is_closed() {
                // The caller may go while the work runs: then nobody waits for what it found.
                let _ = answer.send(work());
            }
        });
        match self.queue.try_send(job) {
            Ok(()) => answered.await.map_err(|_| Error::Stopped),
            Err(TrySendError::Full(_)) => Err(Error::RequestTooManyRequests),
            Err(TrySendError::Disconnected(_)) => Err(Error::Stopped),
        }
    }
}
