//! Watchers that ask for the same are one group: one match and one encoding serve all of them.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use bytes::Bytes;

use super::{
    Outbox, StreamId,
    encode::Shape,
    interval::{Interval, IntervalMap},
};
use crate::mvcc::{Change, KeyRange, Kind};

/// Place of a group; free to be given again when the group is gone.
pub(super) type GroupId = usize;

/// Room for hits that a group keeps: a revision seldom changes more keys of one range, and there may be 100,000 groups.
const HITS_KEPT: usize = 16;

/// What is asked for: equal for all watchers of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wish {
    pub(super) range: KeyRange,
    pub(super) no_put: bool,
    pub(super) no_delete: bool,
    pub(super) shape: Shape,
}

impl Wish {
    pub(super) fn wants(&self, kind: Kind) -> bool {
        match kind {
            Kind::Put => !self.no_put,
            Kind::Delete => !self.no_delete,
        }
    }
}

/// A synced watcher in its group.
#[derive(Clone, Copy, Debug)]
pub(super) struct Member {
    pub(super) watch_id: i64,
    /// It was told an event since the last progress tick of its stream, which is progress enough.
    pub(super) told: bool,
}

/// The synced watchers of one stream in one group, by watch id.
#[derive(Debug)]
pub(super) struct Members {
    pub(super) outbox: Arc<Outbox>,
    pub(super) ids: Vec<Member>,
}

#[derive(Debug)]
pub(super) struct Group {
    pub(super) wish: Wish,
    /// Watchers in any state; without one the group goes.
    watchers: usize,
    pub(super) synced: BTreeMap<StreamId, Members>,
    /// Which of the changes under the eye of a `match_all` concern this group, by their place. Empty between two.
    pub(super) hits: Vec<u32>,
}

/// All groups, found by the keys that they ask for.
///
/// The hash map is only looked into, never walked, so its order cannot leak.
#[derive(Debug, Default)]
pub(super) struct Groups {
    slab: Vec<Option<Group>>,
    free: Vec<GroupId>,
    keys: HashMap<Bytes, Vec<GroupId>>,
    ranges: IntervalMap<Vec<GroupId>>,
    synced: usize,
}

impl Groups {
    /// Adds a watcher to the group of `wish`, which is made if it is the first.
    pub(super) fn join(&mut self, wish: Wish) -> GroupId {
        let known = match self.at(&wish.range) {
            Some(ids) => ids.clone(),
            None => Vec::new(),
        };
        for id in known {
            if self.group(id).wish == wish {
                self.group_mut(id).watchers += 1;
                return id;
            }
        }
        let range = wish.range.clone();
        let group = Group { wish, watchers: 1, synced: BTreeMap::new(), hits: Vec::new() };
        let id = match self.free.pop() {
            Some(id) => {
                self.slab[id] = Some(group);
                id
            }
            None => {
                self.slab.push(Some(group));
                self.slab.len() - 1
            }
        };
        if let Some(ids) = self.at(&range) {
            ids.push(id);
        } else {
            match Place::of(range) {
                Place::Key(key) => {
                    self.keys.insert(key, vec![id]);
                }
                Place::Range(interval) => self.ranges.insert(interval, vec![id]),
            }
        }
        id
    }

    /// Takes a watcher, which is not synced any more, out of its group.
    pub(super) fn leave(&mut self, id: GroupId) {
        let group = self.group_mut(id);
        group.watchers -= 1;
        if group.watchers > 0 {
            return;
        }
        assert!(group.synced.is_empty(), "a synced watcher must be unsynced before it leaves");
        let range = group.wish.range.clone();
        self.slab[id] = None;
        self.free.push(id);
        let ids = self.at(&range).expect("a group is listed under its range");
        ids.retain(|other| *other != id);
        if ids.is_empty() {
            match Place::of(range) {
                Place::Key(key) => drop(self.keys.remove(&key)),
                Place::Range(interval) => drop(self.ranges.remove(&interval)),
            }
        }
    }

    /// From now on the watcher is told what is published.
    pub(super) fn sync(&mut self, id: GroupId, stream: StreamId, outbox: &Arc<Outbox>, member: Member) {
        let members = self.group_mut(id).synced.entry(stream);
        let ids = &mut members.or_insert_with(|| Members { outbox: outbox.clone(), ids: Vec::new() }).ids;
        let at = ids.binary_search_by_key(&member.watch_id, |member| member.watch_id);
        ids.insert(at.expect_err("a watcher is synced once"), member);
        self.synced += 1;
    }

    /// The watcher is no longer told what is published.
    pub(super) fn unsync(&mut self, id: GroupId, stream: StreamId, watch_id: i64) -> Member {
        let synced = &mut self.slab[id].as_mut().expect("a watcher's group exists").synced;
        let ids = &mut synced.get_mut(&stream).expect("a synced watcher is in its group").ids;
        let at = ids.binary_search_by_key(&watch_id, |member| member.watch_id);
        let member = ids.remove(at.expect("a synced watcher is in its group"));
        if ids.is_empty() {
            synced.remove(&stream);
        }
        self.synced -= 1;
        member
    }

    /// The synced watcher, to read or set what it was told.
    pub(super) fn member_mut(&mut self, id: GroupId, stream: StreamId, watch_id: i64) -> &mut Member {
        let members = self.group_mut(id).synced.get_mut(&stream).expect("a synced watcher is in its group");
        let at = members.ids.binary_search_by_key(&watch_id, |member| member.watch_id);
        &mut members.ids[at.expect("a synced watcher is in its group")]
    }

    /// Takes out all synced watchers of the stream in this group from place `from` on.
    pub(super) fn unsync_rest(&mut self, id: GroupId, stream: StreamId, from: usize) -> Vec<Member> {
        let synced = &mut self.slab[id].as_mut().expect("the group was just looked at").synced;
        let members = synced.get_mut(&stream).expect("the stream was just looked at");
        let rest = members.ids.split_off(from);
        if members.ids.is_empty() {
            synced.remove(&stream);
        }
        self.synced -= rest.len();
        rest
    }

    /// Takes out all synced watchers of all groups.
    pub(super) fn unsync_all(&mut self) -> Vec<(StreamId, Member)> {
        let mut all = Vec::with_capacity(self.synced);
        for group in self.slab.iter_mut().flatten() {
            for (stream, members) in std::mem::take(&mut group.synced) {
                all.extend(members.ids.into_iter().map(|member| (stream, member)));
            }
        }
        self.synced = 0;
        all
    }

    /// Synced watchers in all groups.
    pub(super) fn synced(&self) -> usize {
        self.synced
    }

    /// Notes in each group's `hits` which of `changes` concern it; `touched` gets the groups that were hit. `concerns`
    /// says of which groups to take note at all.
    pub(super) fn match_all<'a>(
        &mut self,
        changes: impl Iterator<Item = &'a Change>,
        concerns: impl Fn(GroupId, &Group) -> bool,
        touched: &mut Vec<GroupId>,
    ) {
        let Self { slab, keys, ranges, .. } = self;
        for (place, change) in changes.enumerate() {
            let mut hit = |ids: &Vec<GroupId>| {
                for &id in ids {
                    let group = slab[id].as_mut().expect("a listed group exists");
                    if !group.wish.wants(change.kind) || !concerns(id, group) {
                        continue;
                    }
                    if group.hits.is_empty() {
                        touched.push(id);
                    }
                    group.hits.push(u32::try_from(place).expect("a chunk holds fewer than 2^32 changes"));
                }
            };
            if let Some(ids) = keys.get(change.kv.key.as_ref()) {
                hit(ids);
            }
            ranges.stab(&change.kv.key, &mut hit);
        }
    }

    /// Forgets the hits of groups that were touched, and the room for them if it was a lot.
    pub(super) fn clear_hits(&mut self, touched: &mut Vec<GroupId>) {
        for id in touched.drain(..) {
            let hits = &mut self.group_mut(id).hits;
            if hits.capacity() > HITS_KEPT { *hits = Vec::new() } else { hits.clear() }
        }
    }

    pub(super) fn group(&self, id: GroupId) -> &Group {
        self.slab[id].as_ref().expect("a group that is asked for exists")
    }

    pub(super) fn group_mut(&mut self, id: GroupId) -> &mut Group {
        self.slab[id].as_mut().expect("a group that is asked for exists")
    }

    fn at(&mut self, range: &KeyRange) -> Option<&mut Vec<GroupId>> {
        match Place::of(range.clone()) {
            Place::Key(key) => self.keys.get_mut(&key),
            Place::Range(interval) => self.ranges.get_mut(&interval),
        }
    }
}

/// Where groups of a range are listed.
enum Place {
    Key(Bytes),
    Range(Interval),
}

impl Place {
    fn of(range: KeyRange) -> Self {
        match range {
            KeyRange::One(key) => Self::Key(key),
            KeyRange::Between { from, to } => Self::Range(Interval { from, to: Some(to) }),
            KeyRange::From(from) => Self::Range(Interval { from, to: None }),
        }
    }
}
