//! Reading: bytes in, in order and in pieces of any size; whole blocks of records out.
//!
//! The same judge looks at what arrives, at what a restart finds on disk, and at what is put into the store.

use bytes::{Bytes, BytesMut};
use sha1::{Digest, Sha1};

use super::{
    ArchiveMeta,
    format::{self, Block, Broken},
};
use crate::engine::{Family, Key, MetaKey};

/// Records of one family, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Records {
    pub family: Family,
    pub records: Vec<(Bytes, Bytes)>,
}

/// Judges an archive from its first byte to its last.
pub struct Checker {
    waits_for: Next,
    /// Bytes that are not a whole block yet, and where they begin.
    pending: BytesMut,
    at: u64,
    digest: Sha1,
    counts: [u64; Family::ALL.len()],
    /// The last record's family and key.
    last: Option<(Family, Bytes)>,
    /// The value of the applied index, which says where the state stands.
    applied: Option<Bytes>,
}

enum Next {
    Head,
    Blocks(ArchiveMeta),
    Nothing(ArchiveMeta),
}

impl Default for Checker {
    fn default() -> Self {
        Self::new()
    }
}

impl Checker {
    #[must_use]
    pub fn new() -> Self {
        Self {
            waits_for: Next::Head,
            pending: BytesMut::new(),
            at: 0,
            digest: Sha1::new(),
            counts: [0; Family::ALL.len()],
            last: None,
            applied: None,
        }
    }

    /// What the head says, once it was seen.
    #[must_use]
    pub fn meta(&self) -> Option<&ArchiveMeta> {
        match &self.waits_for {
            Next::Head => None,
            Next::Blocks(meta) | Next::Nothing(meta) => Some(meta),
        }
    }

    /// All was seen and all of it fits.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        matches!(self.waits_for, Next::Nothing(_))
    }

    /// The value under `meta` of the applied index, once its block was seen. Who knows what it means compares it with
    /// the head.
    #[must_use]
    pub fn applied(&self) -> Option<&Bytes> {
        self.applied.as_ref()
    }

    /// Takes the next bytes; hands each block that they complete to `each`.
    ///
    /// # Errors
    /// What is wrong, for good: what came before must not be used either.
    pub fn push(&mut self, bytes: &[u8], each: &mut dyn FnMut(Records)) -> Result<(), Broken> {
        self.pending.extend_from_slice(bytes);
        // Each turn takes bytes off `pending`, or ends.
        loop {
            match &self.waits_for {
                Next::Head => {
                    let Some((meta, length)) = format::read_head(&self.pending)? else { return Ok(()) };
                    self.take(length);
                    self.waits_for = Next::Blocks(meta);
                }
                Next::Blocks(_) => {
                    let Some(length) = format::block_length(&self.pending, self.at)? else { return Ok(()) };
                    if self.pending.len() < length {
                        return Ok(());
                    }
                    self.block(length, each)?;
                }
                Next::Nothing(_) if self.pending.is_empty() => return Ok(()),
                Next::Nothing(_) => return Err(Broken::End),
            }
        }
    }

    fn take(&mut self, length: usize) -> Bytes {
        let taken = self.pending.split_to(length).freeze();
        self.at += length as u64;
        self.digest.update(&taken);
        taken
    }

    fn block(&mut self, length: usize, each: &mut dyn FnMut(Records)) -> Result<(), Broken> {
        let (at, before) = (self.at, self.digest.clone());
        let block = self.take(length);
        match format::read_block(&block, at)? {
            Block::Records { family, count, body } => each(self.records(family, count, body, at)?),
            Block::End { counts, digest } => {
                if counts != self.counts || digest[..] != before.finalize()[..] || self.applied.is_none() {
                    return Err(Broken::End);
                }
                let Next::Blocks(meta) = std::mem::replace(&mut self.waits_for, Next::Head) else {
                    unreachable!("only called while blocks are waited for")
                };
                self.waits_for = Next::Nothing(meta);
            }
        }
        Ok(())
    }

    fn records(&mut self, family: Family, count: u32, mut body: Bytes, at: u64) -> Result<Records, Broken> {
        let mut records = Vec::new();
        for _ in 0..count {
            let (key, value) = format::take_record(&mut body).ok_or(Broken::Block(at))?;
            let decoded = Key::decode(family, &key).map_err(|_| Broken::Block(at))?;
            match decoded {
                Key::Meta(MetaKey::Applied) => self.applied = Some(value.clone()),
                Key::Meta(MetaKey::Resume | MetaKey::Installing) => return Err(Broken::Block(at)),
                _ => {}
            }
            let rises = self.last.as_ref().is_none_or(|(before, last)| (*before, last) < (family, &key));
            if !rises {
                return Err(Broken::Order(at));
            }
            self.last = Some((family, key.clone()));
            self.counts[family as usize] += 1;
            records.push((key, value));
        }
        if body.is_empty() { Ok(Records { family, records }) } else { Err(Broken::Block(at)) }
    }
}
