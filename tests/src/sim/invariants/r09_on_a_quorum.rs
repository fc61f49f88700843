//! R9: what was applied anywhere, and so whatever was answered, is synced on a quorum: if the power failed everywhere at
//! this moment, a quorum's disks would hold it.

use super::{Invariant, Seen, Truth, Verdict, must};

#[derive(Default)]
pub(super) struct OnAQuorum;

impl Invariant for OnAQuorum {
    fn see(&mut self, seen: &Seen, _: &Truth) -> Verdict {
        let Seen::Stored { slot, holders, voters } = seen else { return Ok(()) };
        must(*holders > voters / 2, || {
            format!("entry {} of term {} is applied, but synced on {holders} of {voters} only", slot.index, slot.term)
        })
    }
}
