//! What is published reaches the synced watchers at once.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    StreamId,
    encode::Shape,
    groups::{GroupId, Member},
    hub::Hub,
    stream::Watcher,
};
use crate::{mvcc::Change, types::Revision};

impl Hub {
    /// The next revision with its changes.
    pub(super) fn publish(&mut self, revision: Revision, changes: Arc<[Change]>, bytes: usize) {
        if revision != self.revision.next() {
            return self.miss(revision);
        }
        self.revision = revision;
        while let Some((start, stream, watch_id)) = self.take_started() {
            assert_eq!(start, revision, "an earlier start would have been taken with its own revision");
            self.start_synced(stream, watch_id);
        }
        if self.groups.synced() > 0 {
            self.tell(&changes);
        }
        self.ring.push(revision, changes, bytes);
    }

    /// Revisions up to `to` happened, but their changes did not come along: whoever was synced reads them from the store.
    /// What the hub already knows changes nothing.
    pub(super) fn miss(&mut self, to: Revision) {
        if to <= self.revision {
            return;
        }
        let next = self.revision.next();
        self.revision = to;
        self.ring.clear();
        for (stream, member) in self.groups.unsync_all() {
            let group = self.group_of(stream, member.watch_id);
            self.lag(stream, group, next, member);
        }
        while let Some((start, stream, watch_id)) = self.take_started() {
            let group = self.group_of(stream, watch_id);
            self.lag(stream, group, start, Member { watch_id, told: false });
        }
    }

    /// Takes a watcher whose start has come from the list of those that wait for it.
    fn take_started(&mut self) -> Option<(Revision, StreamId, i64)> {
        let first = self.future.first().filter(|(start, ..)| *start <= self.revision)?;
        let (start, stream, watch_id) = *first;
        self.future.pop_first();
        self.streams.get_mut(&stream).expect("a watcher's stream is open").future -= 1;
        Some((start, stream, watch_id))
    }

    fn start_synced(&mut self, id: StreamId, watch_id: i64) {
        let group = self.group_of(id, watch_id);
        let stream = self.streams.get_mut(&id).expect("a watcher's stream is open");
        stream.watchers.insert(watch_id, Watcher::Synced { group });
        self.groups.sync(group, id, &stream.outbox, Member { watch_id, told: false });
    }

    fn group_of(&self, stream: StreamId, watch_id: i64) -> GroupId {
        match self.streams.get(&stream).and_then(|stream| stream.watchers.get(&watch_id)) {
            Some(Watcher::Synced { group } | Watcher::Lagging { group, .. } | Watcher::Future { group, .. }) => *group,
            other => panic!("a listed watcher has a group, this is {other:?}"),
        }
    }

    /// Hands the changes of the hub's revision to all synced watchers whom they concern.
    fn tell(&mut self, changes: &[Change]) {
        let mut touched = std::mem::take(&mut self.touched);
        self.groups.match_all(changes.iter(), |_, group| !group.synced.is_empty(), &mut touched);
        // Most revisions make one change, and then all groups of a shape are told the same.
        let mut whole: Vec<(Shape, Arc<[Bytes]>)> = Vec::new();
        for &id in &touched {
            let group = self.groups.group(id);
            let (hits, shape) = (&group.hits, group.wish.shape);
            let all = hits.len() == changes.len();
            let bodies = match whole.iter().find(|(of, _)| all && *of == shape) {
                Some((_, bodies)) => bodies.clone(),
                None => {
                    let events: Vec<&Change> = hits.iter().map(|hit| &changes[*hit as usize]).collect();
                    let bodies: Arc<[Bytes]> = self.encoder.events(self.revision, &events, shape).into();
                    if all {
                        whole.push((shape, bodies.clone()));
                    }
                    bodies
                }
            };
            let events = hits.len();
            self.tell_group(id, &bodies, events);
        }
        self.groups.clear_hits(&mut touched);
        self.touched = touched;
    }

    fn tell_group(&mut self, id: GroupId, bodies: &[Bytes], events: usize) {
        let mut full = Vec::new();
        let mut served = 0;
        for (stream, members) in &mut self.groups.group_mut(id).synced {
            let ids = members.ids.iter().map(|member| member.watch_id);
            let offered = members.outbox.offer_all(ids, bodies);
            if offered.owe_wake {
                self.owed.push(members.outbox.clone());
            }
            for member in &mut members.ids[..offered.served] {
                member.told = true;
            }
            served += offered.served;
            if offered.served < members.ids.len() {
                full.push((*stream, offered.served));
            }
        }
        self.stats.add_events(served * events);
        for (stream, served) in full {
            self.hold(stream, [].into());
            for member in self.groups.unsync_rest(id, stream, served) {
                self.lag(stream, id, self.revision, member);
            }
        }
    }
}
