//! The staged archive becomes the state, step by step. The apply thread, a start and the simulator take the same steps.

use super::{
    log::LogIo,
    staging::{Staging, StagingFailed},
};
use crate::{
    snapshot::{ArchiveMeta, Broken, Checker, Records},
    state::State,
};

/// Bytes of one engine batch, and of one step: a tenth of what an entry may write at once, since this goes on beside
/// what is being served.
const PIECE_BYTES: u64 = 2 << 20;

/// Why the state could not be made. The store may hold a part of it, and says so.
#[derive(Debug, thiserror::Error)]
pub enum InstallFailed {
    #[error(transparent)]
    Failed(#[from] StagingFailed),
    #[error(
        "the staged archive cannot be read any more ({0}): the disk changed it. This member gets another one when it is \
         started again"
    )]
    Damaged(Broken),
}

/// An archive on its way from the file into the store. Dropped before it is done, it has to begin anew.
pub struct Install {
    meta: ArchiveMeta,
    checker: Checker,
    at: u64,
    begun: bool,
}

impl Install {
    /// Of the archive that is staged, which from now on is held.
    ///
    /// # Panics
    /// If it is not staged: raft took it, or the log begins behind it, and it is never let go in between.
    #[must_use]
    pub fn new<I: LogIo>(staging: &mut Staging<I>, meta: &ArchiveMeta) -> Self {
        assert_eq!(staging.staged(), Some(meta), "what is to be installed is staged");
        staging.claim();
        Self { meta: meta.clone(), checker: Checker::new(), at: 0, begun: false }
    }

    /// One bounded step. True: it is done; the state is the archive's, durably, and published, and the file is gone.
    ///
    /// # Errors
    /// The member has to stop; the next start begins it anew.
    pub fn step<I: LogIo>(&mut self, staging: &mut Staging<I>, state: &mut State) -> Result<bool, InstallFailed> {
        if !self.begun {
            self.begun = true;
            state.install_begin(self.meta.index, self.meta.term);
            return Ok(false);
        }
        if self.checker.is_whole() {
            state.install_end();
            staging.discard(&self.meta)?;
            return Ok(true);
        }
        let bytes = staging.read_staged(self.at, PIECE_BYTES)?;
        if bytes.is_empty() {
            return Err(InstallFailed::Damaged(Broken::Short));
        }
        self.at += bytes.len() as u64;
        let mut blocks: Vec<Records> = Vec::new();
        self.checker.push(&bytes, &mut |block| blocks.push(block)).map_err(InstallFailed::Damaged)?;
        state.install_piece(
            blocks
                .iter()
                .flat_map(|block| block.records.iter().map(|(key, value)| (block.family, &key[..], value.clone()))),
        );
        Ok(false)
    }

    /// All steps at once.
    ///
    /// # Errors
    /// As [`Install::step`].
    pub fn finish<I: LogIo>(mut self, staging: &mut Staging<I>, state: &mut State) -> Result<(), InstallFailed> {
        while !self.step(staging, state)? {}
        Ok(())
    }
}
