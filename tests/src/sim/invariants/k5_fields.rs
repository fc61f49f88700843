//! K5: version, create and mod revision, lease and value of what is written, and what it replaced, are what the model says;
//! so is every reply.

use super::{Invariant, Seen, Truth, Verdict, must};

#[derive(Default)]
pub(super) struct Fields;

impl Invariant for Fields {
    fn see(&mut self, seen: &Seen, truth: &Truth) -> Verdict {
        let Seen::Decided(decided) = seen else { return Ok(()) };
        let index = decided.slot.index;
        let expected = &truth.at(index).expect("it was just decided").expected;
        must(decided.changes == expected.changes, || {
            format!("entry {index} changed {:?}, not {:?}", decided.changes, expected.changes)
        })?;
        must(decided.reply == expected.reply, || {
            format!("entry {index} said {:?}, not {:?}", decided.reply, expected.reply)
        })
    }
}
