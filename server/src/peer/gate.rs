//! Who was let in: judged, and remembered on disk before anything of it counts.

use std::{
    collections::BTreeSet,
    io,
    sync::{Mutex, PoisonError},
};

use super::hello::{Greeting, Me, Refusal, judge};
use crate::{
    node::{datadir::KnownPeers, log::LogIo},
    types::MemberId,
};

/// Judges and remembers.
#[derive(Debug)]
pub struct Gate<Io: LogIo> {
    me: Me,
    members: BTreeSet<MemberId>,
    known: Mutex<KnownPeers<Io>>,
}

/// Proof that a member was judged and that its incarnation is on disk. Frames are read and written only with one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admitted {
    member: MemberId,
}

impl Admitted {
    #[must_use]
    pub fn member(self) -> MemberId {
        self.member
    }
}

/// Why somebody was not let in.
#[derive(Debug)]
pub enum Closed {
    Refused {
        refusal: Refusal,
        /// The incarnation under which it is remembered.
        known: Option<u64>,
    },
    /// It could not be remembered. Nothing of it may count, and nothing is lost: each try writes a file of its own.
    Disk(io::Error),
}

impl<Io: LogIo> Gate<Io> {
    /// `members`: who belongs to the cluster.
    #[must_use]
    pub fn new(me: Me, members: BTreeSet<MemberId>, known: KnownPeers<Io>) -> Self {
        Self { me, members, known: Mutex::new(known) }
    }

    #[must_use]
    pub fn me(&self) -> &Me {
        &self.me
    }

    /// Lets the other end in, or says why not.
    ///
    /// # Errors
    /// See [`Closed`].
    pub fn admit(&self, other: &Greeting) -> Result<Admitted, Closed> {
        let mut remembered = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let known = remembered.get(other.member);
        judge(&self.me, other, self.members.contains(&other.member), known)
            .map_err(|refusal| Closed::Refused { refusal, known })?;
        remembered.remember(other.member, other.incarnation).map_err(Closed::Disk)?;
        Ok(Admitted { member: other.member })
    }
}

/// What the other members said to this one's folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Greeted {
    /// These have not answered yet.
    Waiting(BTreeSet<MemberId>),
    /// All have, and none knew another incarnation.
    All,
    /// One knows this member under another incarnation: its disk was emptied or exchanged, and what it promised before is
    /// forgotten.
    Emptied { by: MemberId, known: u64 },
}

/// Gathers the answers. Pure, so that the simulator can hold members to it too.
#[derive(Clone, Debug)]
pub struct Greetings(Greeted);

impl Greetings {
    /// `others`: whose answer is needed.
    #[must_use]
    pub fn new(others: BTreeSet<MemberId>) -> Self {
        Self(if others.is_empty() { Greeted::All } else { Greeted::Waiting(others) })
    }

    #[must_use]
    pub fn state(&self) -> &Greeted {
        &self.0
    }

    /// A member let this one in. It counts for ever: it has written down who it let in.
    pub fn accepted(&mut self, by: MemberId) {
        if let Greeted::Waiting(others) = &mut self.0 {
            others.remove(&by);
            if others.is_empty() {
                self.0 = Greeted::All;
            }
        }
    }

    /// A member knows this one under another incarnation. Nothing that is said later mends that.
    pub fn emptied(&mut self, by: MemberId, known: u64) {
        if !matches!(self.0, Greeted::Emptied { .. }) {
            self.0 = Greeted::Emptied { by, known };
        }
    }
}
