//! Lagging watchers get what they missed, a bounded piece in each step, until no gap is left.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    Frame, StreamId,
    groups::{GroupId, Member},
    hub::Hub,
    ring::Run,
    stream::Watcher,
};
use crate::{
    error::Error,
    mvcc::{Change, FeedChunk, Position, ReadView, feed},
    types::Revision,
};

/// Watchers served, or ended, in one step: bounds the time until the next look at what was published. 4,096 frames cost
/// well below a millisecond.
const WATCHERS_PER_STEP: usize = 4096;

/// Bodies made in one step, as a multiple of the piece that was read: many groups may want the same piece, each its own
/// part of it. What is left over reads the piece again, from memory in most cases.
const PIECES_PER_STEP: usize = 4;

/// How far history can be read at a moment, and how: from a revision on, about so many bytes.
pub(super) struct Past {
    pub(super) position: Position,
    pub(super) feed: Feed,
}

pub(super) type Feed = Box<dyn Fn(Revision, usize) -> Result<FeedChunk, Error>>;

impl Past {
    pub(super) fn of(view: Arc<ReadView>) -> Self {
        let position = view.position;
        Self { position, feed: Box::new(move |from, max_bytes| feed(&view.view, position, from, max_bytes)) }
    }
}

/// Whole revisions from `from` up to, but not with, `end`.
struct Piece {
    runs: Vec<Run>,
    end: Revision,
}

/// Who is served with a piece: for each group and first revision, which watchers.
type Served = BTreeMap<(GroupId, Revision), Vec<(StreamId, i64)>>;

impl Hub {
    /// One piece for the watchers that are furthest behind. Those of streams that are held are not among them.
    pub(super) fn catch_up(&mut self, past: &dyn Fn() -> Past) {
        let now = past();
        assert!(now.position.revision >= self.revision, "apply makes a view known before it publishes");
        self.end_compacted(now.position.compacted);
        let Some((from, ..)) = self.behind.first().copied() else { return };
        if from < now.position.compacted {
            return;
        }
        let Some(piece) = self.read(from, &now, past) else { return };
        self.stats.add_catch_up_chunk();
        let served = self.choose(piece.end);
        self.serve(&piece, served);
    }

    /// Whoever needs a revision below the compacted one is told so and ends.
    fn end_compacted(&mut self, compacted: Revision) {
        for _ in 0..WATCHERS_PER_STEP {
            let Some((_, stream, watch_id)) = self.behind.first().filter(|(next, ..)| *next < compacted).copied()
            else {
                return;
            };
            self.end(stream, watch_id);
            self.stats.add_compacted();
            self.answer(stream, Frame { watch_id, body: self.encoder.compacted(compacted) });
        }
    }

    /// None: while the store was read, what was read was compacted away; the next step sees that.
    fn read(&self, from: Revision, now: &Past, past: &dyn Fn() -> Past) -> Option<Piece> {
        // Events of the compacted revision itself are told without what they replaced, and the store knows that.
        if from > now.position.compacted
            && let Some(runs) = self.ring.since(from, self.options.catch_up_bytes)
        {
            let end = runs.last().expect("the ring gives at least one revision").0.next();
            return Some(Piece { runs, end });
        }
        let chunk = (now.feed)(from, self.options.catch_up_bytes);
        // A view does not protect history: once a later compaction is known, what was read may have been let go meanwhile.
        if past().position.compacted > from {
            return None;
        }
        let chunk = match chunk {
            Ok(chunk) => chunk,
            Err(error) => panic!("changes from revision {from} on are not compacted and cannot be read: {error}"),
        };
        // The store may be ahead of what was published here: that comes with its own publish.
        let end = chunk.next.min(self.revision.next());
        assert!(end > from, "the store holds everything up to the hub's revision");
        let runs = chunk.changes.into_iter().filter(|(revision, _)| *revision < end);
        Some(Piece { runs: runs.map(|(revision, changes)| (revision, changes.into())).collect(), end })
    }

    /// The watchers whose next revision lies before `end`.
    fn choose(&self, end: Revision) -> Served {
        let mut served = Served::new();
        for (next, id, watch_id) in self.behind.range(..(end, StreamId(0), i64::MIN)).take(WATCHERS_PER_STEP) {
            match self.streams.get(id).and_then(|stream| stream.watchers.get(watch_id)) {
                Some(Watcher::Lagging { group, next: same, .. }) if same == next => {
                    served.entry((*group, *next)).or_default().push((*id, *watch_id));
                }
                other => panic!("a watcher listed behind at {next} is {other:?}"),
            }
        }
        served
    }

    fn serve(&mut self, piece: &Piece, served: Served) {
        let changes: Vec<(Revision, &Change)> = piece
            .runs
            .iter()
            .flat_map(|(revision, changes)| changes.iter().map(|change| (*revision, change)))
            .collect();
        let wanted: BTreeSet<GroupId> = served.keys().map(|(group, _)| *group).collect();
        let mut touched = std::mem::take(&mut self.touched);
        self.groups.match_all(changes.iter().map(|(_, change)| *change), |id, _| wanted.contains(&id), &mut touched);

        let mut budget = self.options.catch_up_bytes.saturating_mul(PIECES_PER_STEP);
        for ((id, next), watchers) in served {
            if budget == 0 {
                break;
            }
            let group = self.groups.group(id);
            let hits = group.hits.iter().map(|hit| changes[*hit as usize]);
            let events: Vec<&Change> =
                hits.skip_while(|(revision, _)| *revision < next).map(|(_, change)| change).collect();
            let bodies = if events.is_empty() {
                Vec::new()
            } else {
                self.encoder.events(self.revision, &events, group.wish.shape)
            };
            budget = budget.saturating_sub(bodies.iter().map(bytes::Bytes::len).sum());
            for (stream, watch_id) in watchers {
                self.advance(stream, watch_id, piece.end, &bodies, events.len());
            }
        }

        self.groups.clear_hits(&mut touched);
        self.touched = touched;
    }

    /// Hands a watcher all of `bodies`, or, if its stream does not take them, leaves it where it is.
    fn advance(&mut self, id: StreamId, watch_id: i64, end: Revision, bodies: &[bytes::Bytes], events: usize) {
        let stream = self.streams.get_mut(&id).expect("a watcher's stream is open");
        let Some(&Watcher::Lagging { group, next, told }) = stream.watchers.get(&watch_id) else {
            panic!("a watcher that was chosen is lagging");
        };
        if !bodies.is_empty() {
            let offered = stream.outbox.offer_all(std::iter::once(watch_id), bodies);
            if offered.owe_wake {
                self.owed.push(stream.outbox.clone());
            }
            if offered.served == 0 {
                return self.hold(id, [].into());
            }
            self.stats.add_events(events);
        }
        self.behind.remove(&(next, id, watch_id));
        let member = Member { watch_id, told: told || !bodies.is_empty() };
        if end > self.revision {
            self.settle(id, group, member);
        } else {
            self.lag(id, group, end, member);
        }
    }
}
