//! Virtual time: what is due when. Nothing else in a run moves the clock.

use std::collections::BTreeMap;

use conclave_server::node::Message;

/// The threads of a member, each scheduled on its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Thread {
    Raft,
    Log,
    /// The log thread when nothing came for a while.
    Mark,
    Apply,
    Watch,
    Reclaim,
}

impl Thread {
    pub(super) const COUNT: usize = 6;
}

/// Something that is due. What concerns a process names its life, so that it dies with it.
#[derive(Debug)]
pub(super) enum Task {
    Start(usize),
    Tick {
        member: usize,
        life: u64,
    },
    Turn {
        member: usize,
        life: u64,
        thread: Thread,
    },
    Deliver(Message),
    /// A client makes its next request.
    Client(usize),
    /// A handler goes on with what it waited for.
    Complete(u64),
    /// A client has waited long enough.
    TimeOut(u64),
    Watcher(usize),
    /// A transfer of an archive goes on.
    Archive(u64),
    PastRead,
    Misfortune,
    /// The trouble with this number is over.
    Relief(u64),
}

#[derive(Debug, Default)]
pub(super) struct Schedule {
    now_us: u64,
    sequence: u64,
    due: BTreeMap<(u64, u64), Task>,
}

impl Schedule {
    pub(super) fn now_us(&self) -> u64 {
        self.now_us
    }

    pub(super) fn after(&mut self, delay_us: u64, task: Task) {
        self.at(self.now_us + delay_us, task);
    }

    /// Of two things that are due at once the one that was scheduled first comes first.
    pub(super) fn at(&mut self, at_us: u64, task: Task) {
        self.sequence += 1;
        self.due.insert((at_us.max(self.now_us), self.sequence), task);
    }

    /// The next thing, and time goes on to it.
    pub(super) fn next(&mut self) -> Option<Task> {
        let ((at_us, _), task) = self.due.pop_first()?;
        self.now_us = at_us;
        Some(task)
    }
}
