//! Archives on their way to followers that are behind a cut log: what the raft thread and the carriers of both ends do.
//! The structs of `snapshot` and `node::Staging` decide everything; here their words are moved, late, and cut off now and
//! then.

use conclave_server::{
    node::{Input, Message, Session},
    snapshot::{Archive, ArchiveMeta, Sender, ToReceiver, Verdict},
    state::Point,
    types::MemberId,
};
use rand::RngExt;

use super::{schedule::Task, world::World};

/// How often a carrier tries to connect before it gives up.
const TRIES: u32 = 40;
const RETRY_US: u64 = 200_000;
/// An archive that raft does not send is closed again.
const OPEN_MS: u64 = 5_000;

/// One that a leader holds open for a follower.
pub(super) struct Open {
    pub(super) archive: Option<Archive>,
    pub(super) since_ms: u64,
}

pub(super) struct Transfer {
    from: usize,
    life: u64,
    sender: Sender,
    message: Message,
    session: Option<Session>,
    tries: u32,
}

impl World {
    /// A follower needs an archive: one is opened over the newest view.
    pub(super) fn archive_wanted(&mut self, place: usize, to: MemberId) {
        let since_ms = self.local_ms(place);
        let cluster = self.cluster;
        let Some(member) = &mut self.machines[place].member else { return };
        if member.open.contains_key(&to) {
            return;
        }
        let view = member.state.published().load_full();
        let Some(point) = Point::of_view(&view.view) else { return };
        let Point { index, term, revision, compacted, conf_state } = point;
        let meta = ArchiveMeta { cluster, index, term, revision, conf_state };
        let archive = Archive::new(view.view.clone(), meta.clone(), compacted);
        member.open.insert(to, Open { archive: Some(archive), since_ms });
        member.input(Input::ArchiveOffered { to, archive: meta });
    }

    /// Raft sends the archive that is held open.
    pub(super) fn archive_goes(&mut self, place: usize, message: Message) {
        let (number, life) = (self.number(), self.machines[place].life);
        let Some(member) = &mut self.machines[place].member else { return };
        let archive = member.open.get_mut(&message.to).and_then(|open| open.archive.take());
        let Some(archive) = archive.filter(|archive| Some(archive.meta()) == message.archive.as_ref()) else {
            member.input(Input::ArchiveSent { to: message.to, ok: false });
            return;
        };
        self.note(format_args!("m{} sends m{} the state at {}", place + 1, message.to, archive.meta().index));
        let sender = Sender::new(archive);
        self.transfers.insert(number, Transfer { from: place, life, sender, message, session: None, tries: 0 });
        self.schedule.after(RETRY_US / 10, Task::Archive(number));
    }

    /// A carrier goes on.
    pub(super) fn carry_archive(&mut self, number: u64) {
        let Some(mut transfer) = self.transfers.remove(&number) else { return };
        let (from, to) = (transfer.from, Self::place(transfer.message.to));
        if self.machines[from].life != transfer.life {
            return;
        }
        let away = self.is_paused(to) || self.is_paused(from) || self.machines[to].member.is_none();
        if away || self.network.is_cut(&transfer.message) || self.rng.random_ratio(1, 20) {
            transfer.session = None;
            transfer.tries += 1;
            if transfer.tries > TRIES {
                return self.archive_over(from, to, false);
            }
            self.transfers.insert(number, transfer);
            return self.schedule.after(RETRY_US, Task::Archive(number));
        }
        let verdict = match self.pass_on(&mut transfer, to) {
            Ok(verdict) => verdict,
            Err(()) => {
                transfer.session = None;
                self.transfers.insert(number, transfer);
                self.schedule.after(RETRY_US, Task::Archive(number));
                return self.died(to);
            }
        };
        match verdict {
            Verdict::GoesOn => {
                self.transfers.insert(number, transfer);
                let delay = self.rng.random_range(0..=self.options.network_us * 4);
                self.schedule.after(delay, Task::Archive(number));
            }
            Verdict::Done => {
                self.counts.archives_sent += 1;
                let member = self.machines[to].member.as_mut().expect("it answered");
                member.offer_staged(transfer.message);
                self.wake(to);
                self.archive_over(from, to, true);
            }
            Verdict::Over => self.archive_over(from, to, false),
        }
    }

    /// One message there and one back. Err: the receiver died of it.
    fn pass_on(&mut self, transfer: &mut Transfer, to: usize) -> Result<Verdict, ()> {
        let member = self.machines[to].member.as_mut().expect("looked at before");
        let answer = match transfer.session {
            None => {
                let begin = transfer.sender.begin(transfer.message.term);
                let ToReceiver::Begin { meta, term } = begin else { unreachable!("that is how it begins") };
                let applied = member.state.applied().0;
                let begun = member.staging.begin(&meta, term, applied).map_err(drop)?;
                transfer.session = Some(begun.0);
                begun.1
            }
            Some(session) => {
                let Some(chunk) = transfer.sender.next_chunk() else { return Ok(Verdict::GoesOn) };
                member.staging.chunk(session, &chunk).map_err(drop)?
            }
        };
        Ok(transfer.sender.hear(answer))
    }

    fn archive_over(&mut self, from: usize, to: usize, ok: bool) {
        let to = self.machines[to].id;
        if let Some(member) = &mut self.machines[from].member {
            member.open.remove(&to);
            member.input(Input::ArchiveSent { to, ok });
        }
        self.note(format_args!("m{} is done with the state for m{to}: {ok}", from + 1));
        self.wake(from);
    }

    /// Closes what raft never sent.
    pub(super) fn close_archives(&mut self, place: usize) {
        let now_ms = self.local_ms(place);
        let Some(member) = &mut self.machines[place].member else { return };
        let idle: Vec<_> = member
            .open
            .iter()
            .filter(|(_, open)| open.archive.is_some() && now_ms >= open.since_ms + OPEN_MS)
            .map(|(to, _)| *to)
            .collect();
        for to in idle {
            member.open.remove(&to);
            member.input(Input::ArchiveSent { to, ok: false });
        }
    }
}
