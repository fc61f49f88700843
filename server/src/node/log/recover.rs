//! Opening: decide what the log holds, from bytes of which any unsynced part may be missing, and tell a tail that was
//! torn from a disk that lost what it had promised.
//!
//! Nothing is written before all of it was read and judged.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    failure::{Damage, LogFailed, OpenError, Rotten},
    hard_state::{self, HardStateFile, Slot},
    index::{Index, Placed, SegmentFile},
    io::LogIo,
    record::{self, Content, Parsed, Record},
    segment::{self, Header, HeaderRead, Mark, RECORDS},
    spare::Spares,
};
use crate::{
    mutants::{self, Mutant},
    types::{LogIndex, Term},
};

/// Read at a time while scanning; a longer record makes it grow.
const WINDOW: u64 = 1024 * 1024;

/// A tail that was cut because its batch was never reported as durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TornTail {
    pub file: String,
    pub offset: u64,
}

/// What was found, and nothing written yet.
pub(super) struct Judged<I: LogIo> {
    pub(super) hard: HardStateFile<I>,
    pub(super) index: Index<I::File>,
    pub(super) active: Header,
    pub(super) end: u64,
    pub(super) chain: u32,
    pub(super) mark: Mark,
    pub(super) commit: LogIndex,
    pub(super) torn: Option<TornTail>,
    /// Files that no segment of the log uses.
    pub(super) free: Vec<Arc<SegmentFile<I::File>>>,
    /// Above every file and every generation that was seen.
    pub(super) next_slot: u64,
    pub(super) next_generation: u64,
}

struct Found<F> {
    file: Arc<SegmentFile<F>>,
    header: Option<Header>,
}

/// Makes an empty log, or finishes the making that a crash cut short. The HardState file gets its name last and before
/// the first record, so without it there can be no record.
pub(super) fn create<I: LogIo>(io: &Arc<I>, log_id: u64, size: u64) -> Result<(), OpenError> {
    let names = list(io)?;
    for name in &names {
        if segment::slot_of(name).is_none() && name != hard_state::NEW_FILE {
            continue;
        }
        if holds_records(io, name)? {
            let detail = format!("it is missing, but {name} holds records");
            return Err(OpenError::HardStateLost { file: hard_state::FILE, detail });
        }
    }
    for name in names.iter().filter(|name| segment::slot_of(name).is_some() || *name == hard_state::NEW_FILE) {
        io.unlink(name).map_err(|source| LogFailed::new("remove", name, source))?;
    }
    let header = Header {
        log_id,
        generation: 1,
        size,
        prev_generation: 0,
        prev_index: LogIndex(0),
        prev_term: Term(0),
        prev_end: 0,
        prev_chain: 0,
    };
    // Numbered above what was removed: a removal that a crash undoes must not collide with it.
    let slot = names.iter().filter_map(|name| segment::slot_of(name)).max().map_or(0, |slot| slot + 1);
    let file = Spares::new(Arc::clone(io), size, slot).take()?;
    io.write_at(&file.file, 0, &header.head()).map_err(|source| LogFailed::new("write", &file.name, source))?;
    io.sync_data(&file.file).map_err(|source| LogFailed::new("sync", &file.name, source))?;
    let slot = Slot {
        log_id,
        counter: 1,
        hard_state: super::HardState::default(),
        first_generation: 1,
        active_generation: 1,
        epoch: 0,
    };
    Ok(HardStateFile::create(io.as_ref(), slot)?)
}

pub(super) fn list<I: LogIo>(io: &Arc<I>) -> Result<Vec<String>, LogFailed> {
    io.list().map_err(|source| LogFailed::new("list", "the log folder", source))
}

fn holds_records<I: LogIo>(io: &Arc<I>, name: &str) -> Result<bool, OpenError> {
    let found = look(io, name)?;
    let Some(header) = found.header else { return Ok(false) };
    let mut first = 0;
    scan(io.as_ref(), &found.file, &header, header.size, |_, _, _| first += 1)?;
    Ok(first > 0)
}

fn look<I: LogIo>(io: &Arc<I>, name: &str) -> Result<Found<I::File>, OpenError> {
    let file = io.open(name).map_err(|source| LogFailed::new("open", name, source))?;
    let len = io.len(&file).map_err(|source| LogFailed::new("measure", name, source))?;
    let mut header = None;
    if len >= RECORDS {
        let mut head = [0; 512];
        io.read_at(&file, 0, &mut head).map_err(|source| LogFailed::new("read", name, source))?;
        match Header::decode(&head) {
            // A file shorter than its header says lost its end, and with it possibly records.
            HeaderRead::Header(found) if found.size <= len => header = Some(found),
            HeaderRead::Newer(found) => {
                let file = name.to_owned();
                return Err(OpenError::NewerFormat { file, found, known: segment::VERSION });
            }
            HeaderRead::Header(_) | HeaderRead::None => {}
        }
    }
    Ok(Found { file: Arc::new(SegmentFile { file, name: name.to_owned() }), header })
}

pub(super) fn judge<I: LogIo>(io: &Arc<I>, log_id: u64) -> Result<Judged<I>, OpenError> {
    let hard = HardStateFile::open(Arc::clone(io), log_id)?;
    let mut segments = BTreeMap::new();
    let mut free = Vec::new();
    let (mut next_slot, mut next_generation) = (0, hard.now().active_generation + 1);
    for name in list(io)? {
        let Some(slot) = segment::slot_of(&name) else { continue };
        next_slot = next_slot.max(slot + 1);
        let found = look(io, &name)?;
        let Some(header) = found.header else {
            free.push(found.file);
            continue;
        };
        if header.log_id != log_id {
            return Err(OpenError::Foreign { file: name });
        }
        next_generation = next_generation.max(header.generation + 1);
        let in_use = (hard.now().first_generation..=hard.now().active_generation).contains(&header.generation);
        if !in_use {
            free.push(found.file);
        } else if segments.insert(header.generation, (header, found.file)).is_some() {
            return Err(OpenError::Foreign { file: name });
        }
    }
    let chosen = line_up(hard.now(), &mut segments)?;
    free.extend(segments.into_values().map(|(_, file)| file));
    let first = chosen.first().expect("the active segment at least").0;
    let mut reading = Reading { io, index: Index::new((first.prev_index, first.prev_term)), commit: LogIndex(0) };
    for pair in chosen.windows(2) {
        reading.closed(&pair[0].0, &pair[0].1, &pair[1].0)?;
    }
    let (active, file) = chosen.last().expect("the active segment at least");
    let (end, chain, mark, torn) = reading.open_end(active, file)?;
    let commit = reading.commit.max(mark.commit).max(hard.now().hard_state.commit);
    let Reading { index, .. } = reading;
    Ok(Judged { hard, index, active: *active, end, chain, mark, commit, torn, free, next_slot, next_generation })
}

/// A segment's head and its file.
type Segment<F> = (Header, Arc<SegmentFile<F>>);

/// The segments of the log, oldest first, by the links from each to the one before it.
fn line_up<F>(slot: &Slot, segments: &mut BTreeMap<u64, Segment<F>>) -> Result<Vec<Segment<F>>, OpenError> {
    let mut chosen = Vec::new();
    let mut wanted = slot.active_generation;
    loop {
        let Some((header, file)) = segments.remove(&wanted) else {
            let known = chosen.last().map(|(header, _): &(Header, _)| header.prev_index);
            return Err(OpenError::Rotten(Box::new(Rotten {
                file: format!("segment number {wanted}"),
                offset: 0,
                damage: Damage::Segment,
                readable_to: LogIndex(0),
                durable_to: known.unwrap_or(slot.hard_state.commit),
            })));
        };
        chosen.push((header, file));
        if wanted == slot.first_generation {
            break;
        }
        wanted = header.prev_generation;
    }
    chosen.reverse();
    Ok(chosen)
}

/// Builds the index while the segments are read in order.
struct Reading<'a, I: LogIo> {
    io: &'a Arc<I>,
    index: Index<I::File>,
    commit: LogIndex,
}

impl<I: LogIo> Reading<'_, I> {
    /// A segment with another behind it: the next header says where it ended, and it was synced before that was said.
    fn closed(&mut self, header: &Header, file: &Arc<SegmentFile<I::File>>, next: &Header) -> Result<(), OpenError> {
        let (end, chain, _) = self.read(header, file, next.prev_end, None)?;
        let damage = if end != next.prev_end || chain != next.prev_chain {
            Damage::Record
        } else if next.prev_index != self.index.last() || next.prev_term != self.index.last_term() {
            Damage::Order
        } else {
            return Ok(());
        };
        Err(self.rotten(file, end, damage, next.prev_index))
    }

    /// The segment that was written last: its mark says what must be there, and behind it anything may be.
    fn open_end(
        &mut self,
        header: &Header,
        file: &Arc<SegmentFile<I::File>>,
    ) -> Result<(u64, u32, Mark, Option<TornTail>), OpenError> {
        let mut head = vec![0; usize::try_from(RECORDS).expect("three pages")];
        self.io.read_at(&file.file, 0, &mut head).map_err(|source| LogFailed::new("read", &file.name, source))?;
        let Some(mark) = header.read_marks(&head) else {
            return Err(self.rotten(file, 0, Damage::Marks, header.prev_index));
        };
        let (end, chain, torn) = self.read(header, file, header.size, Some(&mark))?;
        let torn = torn.then(|| TornTail { file: file.name.clone(), offset: end });
        Ok((end, chain, mark, torn))
    }

    /// Reads one segment's records up to the first that is not sound; says where that is, the chain there, and whether
    /// something was torn there.
    fn read(
        &mut self,
        header: &Header,
        file: &Arc<SegmentFile<I::File>>,
        limit: u64,
        mark: Option<&Mark>,
    ) -> Result<(u64, u32, bool), OpenError> {
        self.index.add_file(header.generation, Arc::clone(file));
        let mut at_mark = mark.is_none_or(|mark| mark.end == RECORDS && mark.chain == header.seed());
        let mut out_of_order = None;
        let (index, commit) = (&mut self.index, &mut self.commit);
        let scanned = scan(self.io.as_ref(), file, header, limit, |offset, before, record| {
            *commit = (*commit).max(record.meta.commit);
            at_mark |= mark.is_some_and(|mark| mark.end == offset + record.len as u64 && mark.chain == record.chain);
            let Some(placed) = placed(header.generation, offset, before, record) else { return };
            if out_of_order.is_none() && index.append(&placed).is_err() {
                out_of_order = Some(offset);
            }
        })?;
        let durable_to = mark.map_or(self.index.last(), |mark| mark.last);
        if let Some(offset) = out_of_order {
            return Err(self.rotten(file, offset, Damage::Order, durable_to));
        }
        let trusted = mutants::is(if scanned.torn { Mutant::CutAtRot } else { Mutant::TrustShortLog });
        if !at_mark && !trusted {
            return Err(self.rotten(file, scanned.end, Damage::Record, durable_to));
        }
        Ok((scanned.end, scanned.chain, scanned.torn))
    }

    fn rotten(&self, file: &Arc<SegmentFile<I::File>>, offset: u64, damage: Damage, durable_to: LogIndex) -> OpenError {
        let readable_to = self.index.last();
        OpenError::Rotten(Box::new(Rotten { file: file.name.clone(), offset, damage, readable_to, durable_to }))
    }
}

fn placed(generation: u64, offset: u64, chain: u32, record: &Record<'_>) -> Option<Placed> {
    matches!(record.content, Content::Entries { .. }).then(|| Placed {
        generation,
        offset,
        bytes: u32::try_from(record.len).expect("a record fits a segment"),
        chain,
        first: record.meta.first,
        prev_term: record.meta.prev_term,
        terms: runs(record.terms()),
    })
}

/// Folds equal neighbours: a batch of a thousand entries is nearly always of one term.
pub(super) fn runs(terms: impl Iterator<Item = Term>) -> Vec<(Term, u64)> {
    let mut runs: Vec<(Term, u64)> = Vec::with_capacity(1);
    for term in terms {
        match runs.last_mut() {
            Some((last, count)) if *last == term => *count += 1,
            _ => runs.push((term, 1)),
        }
    }
    runs
}

struct Scanned {
    end: u64,
    chain: u32,
    /// What stands at the end was meant to be a record of this segment.
    torn: bool,
}

/// Walks the chain from the segment's first record; `visit` gets each sound record's place and the chain in front.
fn scan<I: LogIo>(
    io: &I,
    file: &SegmentFile<I::File>,
    header: &Header,
    limit: u64,
    mut visit: impl FnMut(u64, u32, &Record<'_>),
) -> Result<Scanned, LogFailed> {
    let (mut offset, mut chain) = (RECORDS, header.seed());
    let (mut window, mut window_at, mut wanted) = (Vec::new(), offset, record::HEADER as u64);
    // Ends because each turn either moves `offset` towards `limit`, makes the window long enough for the record at
    // `offset`, or returns.
    loop {
        let room = limit.saturating_sub(offset);
        if window_at + (window.len() as u64) < offset + wanted.min(room) {
            window.resize(usize::try_from(WINDOW.max(wanted).min(room)).expect("fits memory"), 0);
            window_at = offset;
            io.read_at(&file.file, offset, &mut window).map_err(|source| LogFailed::new("read", &file.name, source))?;
        }
        let buf = &window[usize::try_from(offset - window_at).expect("within the window")..];
        match record::parse(buf, header.tag(), usize::try_from(room).expect("fits memory"), chain) {
            Parsed::Record(record) => {
                visit(offset, chain, &record);
                offset += record.len as u64;
                chain = record.chain;
                wanted = record::HEADER as u64;
            }
            Parsed::Need(len) => wanted = len as u64,
            Parsed::Blank => return Ok(Scanned { end: offset, chain, torn: false }),
            Parsed::Broken => return Ok(Scanned { end: offset, chain, torn: true }),
        }
    }
}
