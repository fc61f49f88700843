//! A disk that keeps its promises to the letter and not one bit more.
//!
//! What was written is visible at once, and durable only after the file was synced; names only after their folder was.
//! When the power goes, each 512-byte sector that was written since the last sync independently holds any of the
//! versions it had since then, the synced one included; each creation, renaming and removal that was not synced has
//! happened or has not. After a failed sync the sectors count as clean without being durable, as on Linux file systems.
//!
//! The chooser is a function `pick(n) -> 0..n`, so that one test draws from a seed and another walks all subsets.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use conclave_server::node::log::LogIo;

/// The unit that a disk writes whole or not at all.
pub const SECTOR: usize = 512;

/// What happens at a chosen call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The process dies in the middle of the call: a write is under way, a sync has not finished. Every later call
    /// fails until [`SimDisk::power_off`] or [`SimDisk::kill`].
    Crash,
    /// The call fails with EIO; later ones work.
    Error,
}

/// What the disk went through. A test that meets too little of it proves nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub power_losses: u64,
    /// Power losses that lost at least one unsynced sector.
    pub lossy: u64,
    /// Power losses after which some unsynced sectors of a file were there and others were not.
    pub torn: u64,
    /// Power losses that undid a creation, a renaming or a removal.
    pub names_lost: u64,
    pub kills: u64,
    pub errors: u64,
    pub flips: u64,
}

/// A disk with folders; clones share it.
#[derive(Clone, Default)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

/// One folder of the disk, as the log sees it.
#[derive(Clone)]
pub struct SimFolder {
    disk: SimDisk,
    name: String,
}

/// An open file. Dies with the process that opened it.
#[derive(Debug)]
pub struct SimFile {
    inode: usize,
    life: u64,
}

#[derive(Clone, Default)]
struct State {
    inodes: Vec<Inode>,
    folders: BTreeMap<String, Folder>,
    life: u64,
    dead: bool,
    calls: u64,
    plan: Option<(u64, Fault)>,
    counts: Counts,
}

#[derive(Clone, Default)]
struct Inode {
    /// What a reader sees.
    bytes: Vec<u8>,
    durable: Vec<u8>,
    /// Versions of each sector since the last sync, oldest first.
    dirty: BTreeMap<usize, Vec<Vec<u8>>>,
}

#[derive(Clone, Default)]
struct Folder {
    names: BTreeMap<String, usize>,
    durable: BTreeMap<String, usize>,
    pending: Vec<NameChange>,
}

#[derive(Clone)]
enum NameChange {
    Create(String, usize),
    Rename(String, String, usize),
    Unlink(String),
}

impl SimDisk {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A folder, made durably if there is none of that name.
    #[must_use]
    pub fn folder(&self, name: &str) -> SimFolder {
        self.state().folders.entry(name.to_owned()).or_default();
        SimFolder { disk: self.clone(), name: name.to_owned() }
    }

    /// An independent copy, to try several outcomes from one point.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self { state: Arc::new(Mutex::new(self.state().clone())) }
    }

    /// How many calls have changed something, or tried to: creations, writes, syncs, renamings, removals.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.state().calls
    }

    /// Plans one fault at the given call, counted as [`SimDisk::calls`] counts them.
    pub fn plan(&self, call: u64, fault: Fault) {
        self.state().plan = Some((call, fault));
    }

    pub fn forget_plan(&self) {
        self.state().plan = None;
    }

    #[must_use]
    pub fn counts(&self) -> Counts {
        self.state().counts
    }

    /// The process dies and the machine lives on: what was written stays visible, and what was not synced can still be
    /// lost later.
    pub fn kill(&self) {
        let mut state = self.state();
        state.life += 1;
        state.dead = false;
        state.plan = None;
        state.counts.kills += 1;
    }

    /// Number of sectors with unsynced versions.
    #[must_use]
    pub fn unsynced_sectors(&self) -> usize {
        self.state().inodes.iter().map(|inode| inode.dirty.len()).sum()
    }

    /// The power goes, and comes back. `pick(n)` chooses below `n`; 0 always means "lost".
    pub fn power_off(&self, pick: &mut dyn FnMut(usize) -> usize) {
        let mut state = self.state();
        state.life += 1;
        state.dead = false;
        state.plan = None;
        let (mut lossy, mut torn, mut names_lost) = (false, false, false);
        for inode in &mut state.inodes {
            let (kept, lost) = inode.power_off(pick);
            lossy |= lost > 0;
            torn |= lost > 0 && kept > 0;
        }
        for folder in state.folders.values_mut() {
            names_lost |= folder.power_off(pick);
        }
        let counts = &mut state.counts;
        counts.power_losses += 1;
        counts.lossy += u64::from(lossy);
        counts.torn += u64::from(torn);
        counts.names_lost += u64::from(names_lost);
    }

    /// Changes one durable bit behind everybody's back.
    ///
    /// # Panics
    /// If there is no such file or it is shorter.
    pub fn flip(&self, folder: &str, name: &str, byte: usize, bit: u8) {
        let mut state = self.state();
        let inode = state.folders[folder].names[name];
        state.inodes[inode].bytes[byte] ^= 1 << bit;
        state.inodes[inode].durable[byte] ^= 1 << bit;
        state.counts.flips += 1;
    }

    /// Zeros a file from a byte on, behind everybody's back.
    ///
    /// # Panics
    /// If there is no such file.
    pub fn erase(&self, folder: &str, name: &str, from: usize) {
        let mut state = self.state();
        let inode = state.folders[folder].names[name];
        state.inodes[inode].bytes[from..].fill(0);
        let durable = &mut state.inodes[inode].durable;
        let from = from.min(durable.len());
        durable[from..].fill(0);
        state.counts.flips += 1;
    }

    /// Every file of a folder with what a reader sees.
    #[must_use]
    pub fn files(&self, folder: &str) -> BTreeMap<String, Vec<u8>> {
        let state = self.state();
        state.folders[folder]
            .names
            .iter()
            .map(|(name, inode)| (name.clone(), state.inodes[*inode].bytes.clone()))
            .collect()
    }

    /// Removes a file durably: a disk that lost one.
    pub fn lose_file(&self, folder: &str, name: &str) {
        let mut state = self.state();
        let folder = state.folders.get_mut(folder).expect("a known folder");
        folder.names.remove(name);
        folder.durable.remove(name);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inode {
    /// Returns how many sectors were kept in their newest version, and how many were not.
    fn power_off(&mut self, pick: &mut dyn FnMut(usize) -> usize) -> (usize, usize) {
        let (mut kept, mut lost) = (0, 0);
        if self.bytes.len() != self.durable.len() && pick(2) == 1 {
            self.durable.resize(self.bytes.len(), 0);
        }
        for (sector, versions) in std::mem::take(&mut self.dirty) {
            let choice = pick(versions.len() + 1);
            if choice == versions.len() {
                kept += 1
            } else {
                lost += 1
            }
            if choice == 0 {
                continue;
            }
            let at = sector * SECTOR;
            let version = &versions[choice - 1];
            // Beyond a length that was lost there is nothing.
            let end = self.durable.len().min(at + version.len());
            if at < end {
                self.durable[at..end].copy_from_slice(&version[..end - at]);
            }
        }
        self.bytes.clone_from(&self.durable);
        (kept, lost)
    }

    fn write(&mut self, offset: usize, buf: &[u8]) {
        let end = offset + buf.len();
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        self.bytes[offset..end].copy_from_slice(buf);
        for sector in offset / SECTOR..end.div_ceil(SECTOR) {
            let at = sector * SECTOR;
            let version = self.bytes[at..self.bytes.len().min(at + SECTOR)].to_vec();
            self.dirty.entry(sector).or_default().push(version);
        }
    }

    fn sync(&mut self) {
        self.durable.resize(self.bytes.len(), 0);
        for sector in std::mem::take(&mut self.dirty).into_keys() {
            let (at, end) = (sector * SECTOR, self.bytes.len().min((sector + 1) * SECTOR));
            self.durable[at..end].copy_from_slice(&self.bytes[at..end]);
        }
    }
}

impl Folder {
    /// Returns whether a change of names was lost.
    fn power_off(&mut self, pick: &mut dyn FnMut(usize) -> usize) -> bool {
        let mut lost = false;
        for change in std::mem::take(&mut self.pending) {
            if pick(2) == 0 {
                lost = true;
                continue;
            }
            match change {
                NameChange::Create(name, inode) => {
                    self.durable.insert(name, inode);
                }
                NameChange::Rename(from, to, inode) => {
                    if self.durable.get(&from) == Some(&inode) {
                        self.durable.remove(&from);
                    }
                    self.durable.insert(to, inode);
                }
                NameChange::Unlink(name) => {
                    self.durable.remove(&name);
                }
            }
        }
        self.names.clone_from(&self.durable);
        lost
    }
}

impl SimFolder {
    fn alive(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.disk.state();
        if state.dead { Err(io::Error::other("the machine is off")) } else { Ok(state) }
    }

    /// Begins a call that changes something; the fault planned for it, if any, is the caller's to carry out.
    fn change(&self) -> io::Result<(MutexGuard<'_, State>, Option<Fault>)> {
        let mut state = self.alive()?;
        state.calls += 1;
        let fault = state.plan.filter(|(call, _)| *call == state.calls).map(|(_, fault)| fault);
        match fault {
            Some(Fault::Crash) => state.dead = true,
            Some(Fault::Error) => state.counts.errors += 1,
            None => {}
        }
        Ok((state, fault))
    }

    fn inode<'s>(state: &'s mut State, file: &SimFile) -> &'s mut Inode {
        assert_eq!(file.life, state.life, "a file of a dead process is used");
        &mut state.inodes[file.inode]
    }
}

/// What the call reports: whatever it did, a fault makes it fail.
fn outcome<T>(done: T, fault: Option<Fault>) -> io::Result<T> {
    match fault {
        None => Ok(done),
        Some(Fault::Crash) => Err(io::Error::other("the machine is off")),
        // EIO, so that the error reads as the real one would.
        Some(Fault::Error) => Err(io::Error::from_raw_os_error(5)),
    }
}

impl LogIo for SimFolder {
    type File = SimFile;

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.alive()?.folders[&self.name].names.keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<SimFile> {
        let (mut state, fault) = self.change()?;
        if state.folders[&self.name].names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let inode = state.inodes.len();
        state.inodes.push(Inode::default());
        let folder = state.folders.get_mut(&self.name).expect("made with the handle");
        folder.names.insert(name.to_owned(), inode);
        folder.pending.push(NameChange::Create(name.to_owned(), inode));
        outcome(SimFile { inode, life: state.life }, fault)
    }

    fn open(&self, name: &str) -> io::Result<SimFile> {
        let state = self.alive()?;
        let inode = *state.folders[&self.name].names.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(SimFile { inode, life: state.life })
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let (mut state, fault) = self.change()?;
        let folder = state.folders.get_mut(&self.name).expect("made with the handle");
        let inode = folder.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        folder.names.insert(to.to_owned(), inode);
        folder.pending.push(NameChange::Rename(from.to_owned(), to.to_owned(), inode));
        outcome((), fault)
    }

    fn unlink(&self, name: &str) -> io::Result<()> {
        let (mut state, fault) = self.change()?;
        let folder = state.folders.get_mut(&self.name).expect("made with the handle");
        folder.names.remove(name).ok_or(io::ErrorKind::NotFound)?;
        folder.pending.push(NameChange::Unlink(name.to_owned()));
        outcome((), fault)
    }

    fn sync_dir(&self) -> io::Result<()> {
        let (mut state, fault) = self.change()?;
        if fault.is_none() {
            let folder = state.folders.get_mut(&self.name).expect("made with the handle");
            folder.durable.clone_from(&folder.names);
            folder.pending.clear();
        }
        outcome((), fault)
    }

    fn len(&self, file: &SimFile) -> io::Result<u64> {
        Ok(Self::inode(&mut *self.alive()?, file).bytes.len() as u64)
    }

    fn read_at(&self, file: &SimFile, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let mut state = self.alive()?;
        let at = usize::try_from(offset).expect("a small file");
        let bytes = &Self::inode(&mut state, file).bytes;
        buf.copy_from_slice(bytes.get(at..at + buf.len()).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, file: &SimFile, offset: u64, buf: &[u8]) -> io::Result<()> {
        let (mut state, fault) = self.change()?;
        Self::inode(&mut state, file).write(usize::try_from(offset).expect("a small file"), buf);
        outcome((), fault)
    }

    fn sync_data(&self, file: &SimFile) -> io::Result<()> {
        let (mut state, fault) = self.change()?;
        let inode = Self::inode(&mut state, file);
        match fault {
            None => inode.sync(),
            // The kernel drops the dirty pages' marks: they read back, are never written, and later syncs succeed.
            Some(Fault::Error) => inode.dirty.clear(),
            Some(Fault::Crash) => {}
        }
        outcome((), fault)
    }
}
