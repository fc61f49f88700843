//! K4: a transaction happens whole, in one revision; its compares see the state before it, its reads what it wrote itself.

use conclave_proto::conclave::raft::v1::command::Kind;

use super::{Invariant, Seen, Truth, Verdict, must};

#[derive(Default)]
pub(super) struct Atomic;

impl Invariant for Atomic {
    fn see(&mut self, seen: &Seen, truth: &Truth) -> Verdict {
        let Seen::Decided(decided) = seen else { return Ok(()) };
        let index = decided.slot.index;
        let one = |(place, change): (usize, &conclave_server::mvcc::Change)| {
            change.kv.mod_revision == decided.revision.0 && change.sub.0 as usize == place
        };
        must(decided.changes.iter().enumerate().all(one), || {
            format!("entry {index} made changes of other revisions than {}, or not in order", decided.revision)
        })?;
        let known = truth.at(index).expect("it was just decided");
        let command = known.entry.as_ref().and_then(|entry| entry.command.as_ref()?.kind.as_ref());
        if !matches!(command, Some(Kind::Txn(_))) {
            return Ok(());
        }
        must(decided.reply == known.expected.reply, || {
            format!("the transaction of entry {index} said {:?}, not {:?}", decided.reply, known.expected.reply)
        })
    }
}
