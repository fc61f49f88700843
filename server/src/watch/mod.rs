//! Who is told what.
//!
//! Every watcher is told every change of its range from its start revision on: in order, none twice, none missing,
//! whole revisions at a time. A watcher that cannot keep up is told later, never less; it slows neither writers nor
//! other watchers, and memory stays bounded whatever clients do.
//!
//! The hub is a plain value. A thread of `node` (or the simulator) steps it; it knows no clock, no task and no socket.
//! All that concerns it comes through the [`Inbox`], one ordered queue, and all it has to say goes into the [`Outbox`]
//! of a stream, from which the stream's own task takes [`Frame`]s and writes them to its client.
//!
//! # Invariants
//!
//! - *Synced means told.* A synced watcher was handed everything of its range up to the hub's revision. A watcher is
//!   synced on creation with start 0, at its start revision, or when catch-up reached the hub's revision; it leaves the
//!   state the moment a frame does not fit (`Hub::tell_group`). Held by the model test, which knows what each is owed.
//! - *A lagging watcher has no gap.* `next` is the first revision not told, advances only over a whole piece that was
//!   accepted, and pieces start at or below it (`Hub::advance`, asserts in `Hub::read` and `Ring::push`; model test).
//! - *A revision is whole.* All bodies of one response are accepted or none is (`Outbox::offer_all`); only watchers that
//!   asked for fragments get more than one body.
//! - *The answer comes first.* `created` is made before the watcher exists, and while anything waits for a held stream
//!   nothing passes it (`Hub::answer`; the outbox itself refuses while held). Script `held_answers`.
//! - *Progress passes nothing.* Frames leave in the order in which they are made, and progress is made only for synced
//!   watchers (`progress`). A watcher that starts in the future gets none. Script `progress`.
//! - *Nothing is unbounded.* Inbox: a number of requests and of bytes. Outbox: bytes. Answers for a held stream: a
//!   number, then the stream is closed. Watchers: a number for each stream and for the member. Ring: bytes. One step: a
//!   number of arrivals, and one piece of history for a number of watchers.
//!
//! # Life of a watcher
//!
//! 1. The api reads a create request, checks who asks, and sends [`Input::Create`]. The hub answers `created` and makes
//!    the watcher join the group of those who asked for the same: one match and one encoding serve the whole group.
//! 2. Apply calls [`Inbox::publish`], which never blocks. The hub finds the groups that a change concerns (a hash map for
//!    single keys, an interval tree for ranges), encodes the response once for each group, and offers it to the outboxes.
//! 3. A full outbox refuses, and is *held* from then on: its watchers lag as events come for them. When its task has
//!    taken everything it sends [`Input::Drained`], and the hub goes on with what it had kept back.
//! 4. Lagging watchers are served from the ring of newest changes or from the store, one piece a step, those furthest
//!    behind first, all who need the same piece together. At the hub's revision they are synced again.
//! 5. It ends when its client cancels it, when its stream closes, or when what it needs was compacted.
//!
//! When the inbox is full of changes it only notes the revision, and all synced watchers lag from there. When nobody
//! watches, it does the same without waking the hub.
//!
//! # Where etcd differs
//!
//! Answers, ids, revisions in headers and texts are etcd 3.7's (`server/etcdserver/api/v3rpc/watch.go`,
//! `server/storage/mvcc/watchable_store.go`), with one difference that only helps: a watcher that compaction has ended
//! does not keep its stream from being told progress.
//!
//! # Not here
//!
//! Threads and clocks (`node`), permissions and the wire (`api`), what changed (`mvcc`, which also keeps the history).

mod stats;

mod inbox;
mod outbox;

mod encode;
mod groups;
mod interval;
mod stream;

mod hub;
mod lagging;
mod progress;
mod ring;
mod synced;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use crate::{
    mvcc::{Change, KeyRange},
    types::Revision,
};

pub use hub::{Hub, HubOptions};
pub use inbox::Inbox;
pub use outbox::{Frame, Outbox, Taken};
pub use stats::HubStats;

/// One Watch stream of one client; numbered by the inbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u64);

/// What a revision changed, as apply hands it over.
#[derive(Clone, Debug)]
pub enum Published {
    Changes(Arc<[Change]>),
    /// Too many to hold: all synced watchers become lagging at this revision.
    TooMany,
}

/// A request to watch, already checked by the api (its raw shape was parsed once).
#[derive(Clone, Debug)]
pub struct Create {
    /// Chosen by the client; 0: the hub chooses, from 0 upwards in each stream, skipping ids in use.
    pub watch_id: i64,
    pub range: KeyRange,
    /// 0: from the next revision on. Negative: refused by the hub, as etcd does.
    pub start: Revision,
    pub progress_notify: bool,
    pub no_put: bool,
    pub no_delete: bool,
    pub prev_kv: bool,
    pub fragment: bool,
}

/// All that can reach the hub, in one ordered queue.
#[derive(Clone, Debug)]
pub enum Input {
    Open {
        stream: StreamId,
        outbox: Arc<Outbox>,
    },
    Create {
        stream: StreamId,
        create: Create,
    },
    /// The api refuses to create a watcher, for example for want of permission: the hub only says so, in its place
    /// among the answers of the stream (created and canceled, watch id -1).
    Refuse {
        stream: StreamId,
        reason: String,
    },
    Cancel {
        stream: StreamId,
        watch_id: i64,
    },
    /// A client asks for a progress answer over all watchers of its stream.
    Progress {
        stream: StreamId,
    },
    /// The stream's task was told [`Taken::AllSendDrained`].
    Drained {
        stream: StreamId,
    },
    /// The stream is over. Must be sent once for each stream that was opened.
    Close {
        stream: StreamId,
    },
}
