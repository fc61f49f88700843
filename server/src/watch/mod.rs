//! Who is told what. (door essay to be written by the room's builder)

mod encode;
mod hub;
mod inbox;
mod lagging;
mod outbox;
mod synced;

use std::sync::Arc;

use crate::{
    mvcc::{Change, KeyRange},
    types::Revision,
};

pub use hub::{Hub, HubOptions};
pub use inbox::Inbox;
pub use outbox::{Frame, Outbox};

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
    /// 0: from the next revision on.
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
    Cancel {
        stream: StreamId,
        watch_id: i64,
    },
    /// A client asks for a progress answer over all watchers of its stream.
    Progress {
        stream: StreamId,
    },
    /// The stream's task took frames from an outbox that had been full.
    Drained {
        stream: StreamId,
    },
    Close {
        stream: StreamId,
    },
}
