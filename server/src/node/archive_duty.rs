//! What the raft thread does for archives. It only moves names of them: bytes are read and written by others.

use super::{
    apply_thread::ApplyItem,
    catch_up::Verdict,
    drive::{Effects, Input},
    log::LogIo,
    message::MessageKind,
    raft_thread::{Event, RaftThread},
};

impl<Io: LogIo> RaftThread<Io> {
    /// Takes what concerns archives out of a step's effects. To be called first: an archive is installed before anything
    /// that was committed behind it is applied, or this member leads because of it.
    pub(super) fn carry_out_archives(&mut self, now_ms: u64, effects: &mut Effects) {
        if let Some(archive) = effects.install.take() {
            tracing::info!(target: "conclave", index = archive.index.0, "the state of another member is put in");
            self.apply.push(ApplyItem::Install(archive));
        }
        if let Some(Verdict::Ignored(archive)) = effects.archive.take() {
            self.apply.push(ApplyItem::Discard(archive));
        }
        for to in effects.wants_archive.drain(..) {
            let shared = &self.shared;
            if let Some(archive) = shared.archives.open(to, shared.identity.cluster, &shared.published, now_ms) {
                let index = archive.index.0;
                tracing::info!(target: "conclave", to = %format_args!("{:x}", to.0), index, "a member needs the whole state");
                self.events.push(Event::ArchiveOffered { to, archive });
            }
        }
        for message in effects.send.extract_if(.., |message| message.kind == MessageKind::Snapshot) {
            match self.shared.archives.send(&message) {
                Some(outgoing) => self.carrier.push(outgoing),
                None => self.events.push(Event::ArchiveSent { to: message.to, ok: false }),
            };
        }
    }

    /// Every now and then: closes what does not move, and tells the reclaim thread which entries are needed.
    pub(super) fn look_after_archives(&mut self, now_ms: u64, inputs: &mut Vec<Input>) {
        for to in self.shared.archives.look(self.driver.standing().leading, now_ms) {
            tracing::warn!(target: "conclave", to = %format_args!("{:x}", to.0), "gave up sending the whole state");
            inputs.push(Input::ArchiveSent { to, ok: false });
        }
        self.shared.set_needed_from(self.driver.needed_from(now_ms));
    }
}
