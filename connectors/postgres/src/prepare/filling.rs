//! Large files of a base backup, filled by several threads: each takes the next file, and reads its chunks from the repository.
//! Of a file that is there, only chunks are read whose bytes it does not have, and only pages are written that differ. A chunk
//! that is stored against the one that the file has needs no other read for that.

use super::archive::cut_short;
use super::found::{Change, Found, Pages, Stamp};
use super::open::{Open, Place, ZEROS, has_bytes, read_up_to};
use crate::data_directory::{DataDirectory, Member, What, failed};
use chunkstore::pool::locked;
use chunkstore::reader::{Fetched, ReadAhead};
use chunkstore::threads;
use connector_kit::format::tar::BLOCK;
use engine::restore::Located;
use engine::{Counter, Error, Monitor, Repository, Result};
use rustix::fd::OwnedFd;
use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, mpsc};

/// Bytes of a page, at least: what is compared and written at a time.
const PAGE: usize = 8192;
/// Files that a thread has open.
const MAX_OPEN: usize = 32;
/// Files that may wait for a thread.
const WAITING: usize = 64;

/// What is done with files that are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Task {
    /// Compare, and read nothing from the repository.
    Compare,
    /// Read what differs, and write nothing.
    Prove,
    /// Write what differs.
    Write,
}

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct Filled {
    /// Bytes that were written, or would be.
    written: AtomicU64,
    /// Files of which something was.
    files: AtomicU64,
}

impl Filled {
    /// Bytes and files.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.written.load(Ordering::Relaxed), self.files.load(Ordering::Relaxed))
    }

    /// Notes bytes of a file.
    pub(super) fn add(&self, bytes: u64) {
        self.written.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// A file to fill.
pub(super) struct Large<'a> {
    pub(super) member: Member,
    /// The tar that it is in.
    pub(super) content: &'a Located,
}

/// Fills files.
pub(super) struct Filling<'a> {
    pub(super) repo: &'a Repository,
    /// The folder that they are in: a handle, since others may have its path by now.
    pub(super) root: OwnedFd,
    /// For people.
    pub(super) folder: &'a Path,
    /// Whether files may be there already.
    pub(super) is_over: bool,
    pub(super) task: Task,
    pub(super) threads: usize,
    pub(super) filled: &'a Filled,
    /// What a proof finds, and writing knows by that.
    pub(super) found: &'a Found,
    pub(super) monitor: &'a dyn Monitor,
}

impl<'a> Filling<'a> {
    /// Fills the files that `walk` hands over, while it does.
    ///
    /// # Errors
    /// The first of the threads, or of `walk`.
    pub(super) fn run(
        &self,
        walk: impl FnOnce(&mut dyn FnMut(Large<'a>) -> Result<()>) -> Result<()>,
    ) -> Result<()> {
        let (sender, receiver) = mpsc::sync_channel::<Large<'a>>(WAITING);
        let queue = Mutex::new(Some(receiver));
        std::thread::scope(|scope| {
            let queue = &queue;
            let workers: std::io::Result<Vec<_>> = (0..self.threads.max(1))
                .map(|_| {
                    threads::start_in(scope, "esker-fill", move || {
                        // Nobody waits for a thread that has given up.
                        self.work(queue).inspect_err(|_| drop(locked(queue).take()))
                    })
                })
                .collect();
            let walked = match &workers {
                Ok(_) => walk(&mut |large| sender.send(large).map_err(|_| Error::Interrupted)),
                Err(_) => Ok(()),
            };
            drop(sender);
            let workers = workers.map_err(failed("fill", self.folder))?;
            let died = |_| Err(Error::Store(chunkstore::Error::WorkerPanicked));
            let filled: Vec<_> =
                workers.into_iter().map(|worker| worker.join().unwrap_or_else(died)).collect();
            // What ended the threads ended the walk, too.
            filled.into_iter().collect::<Result<()>>().and(walked)
        })
    }

    /// A small file, whose bytes whoever walks through the tar reads by `read`, if they are needed.
    pub(super) fn small(
        &self,
        data: &DataDirectory,
        member: &Member,
        read: impl FnOnce() -> Result<Vec<u8>>,
    ) -> Result<()> {
        let old = if self.is_over { data.old_file(&member.path) } else { None };
        let known = match (&old, self.task) {
            (Some(old), Task::Write) => self.found.take(&member.path, old),
            _ => None,
        };
        let (is_same, bytes) = match known.map(|changes| changes.into_iter().next()) {
            Some(None) => (true, vec![]),
            Some(Some(Change { pages: Some(mut pages), .. })) if pages.len() == 1 => {
                (false, pages.remove(0).1.into_vec())
            }
            _ => {
                let stamp = old.as_ref().and_then(Stamp::of);
                let bytes = read()?;
                let is_same = old.as_ref().is_some_and(|file| has_bytes(file, &bytes));
                if let (Task::Prove, Some(stamp)) = (self.task, stamp) {
                    let pages = || self.found.has_room(bytes.len()).then(|| vec![(0, bytes.clone().into())]);
                    let changes = if is_same { vec![] } else { vec![Change { at: 0, pages: pages() }] };
                    self.found.note(&member.path, stamp, changes);
                }
                (is_same, bytes)
            }
        };
        if !is_same {
            self.filled.add(bytes.len() as u64);
            self.filled.files.fetch_add(1, Ordering::Relaxed);
        }
        if self.task != Task::Write {
            return Ok(());
        }
        let file = match (is_same, old) {
            (true, Some(file)) => file,
            _ => {
                let file = if self.is_over { data.fresh_file(member) } else { data.new_member(member) }?;
                file.write_all_at(&bytes, 0).map_err(data.at(member))?;
                file
            }
        };
        data.finish_member(&file, member)
    }

    fn work(&self, queue: &Mutex<Option<mpsc::Receiver<Large<'a>>>>) -> Result<()> {
        let root = self.root.try_clone().map_err(failed("open", self.folder))?;
        let data = DataDirectory::of(self.folder, root).again()?;
        let ahead = ReadAhead::shared(self.repo.store(), self.threads);
        let mut worker = Worker { filling: self, data, ahead, spare: vec![], open: 0 };
        loop {
            let next = locked(queue).as_ref().and_then(|receiver| receiver.recv().ok());
            let Some(large) = next else { break };
            worker.one(large)?;
        }
        while worker.take()? {}
        Ok(())
    }
}

/// A thread that fills files.
struct Worker<'f, 'a> {
    filling: &'f Filling<'a>,
    data: DataDirectory,
    ahead: ReadAhead<Place>,
    spare: Vec<u8>,
    /// Files that are not whole yet.
    open: usize,
}

impl Worker<'_, '_> {
    /// Compares and requests one file.
    fn one(&mut self, large: Large<'_>) -> Result<()> {
        while self.open >= MAX_OPEN && self.take()? {}
        let Large { member, content } = large;
        let What::File { at, len } = member.what else { return Ok(()) };
        let end = at.checked_add(padded(len)).filter(|end| *end <= content.len());
        let range = at..end.ok_or_else(|| cut_short(&member))?;
        self.filling.monitor.current(&member.path);
        let old = if self.filling.is_over { self.data.old_file(&member.path) } else { None };
        let is_old = old.is_some();
        let (mut known, mut stamp) = (None, None);
        match (self.filling.task, &old) {
            (Task::Write, Some(old)) => known = self.filling.found.take(&member.path, old),
            (Task::Prove, Some(old)) => stamp = Stamp::of(old),
            _ => {}
        }
        let file = match (self.filling.task, old) {
            (Task::Write, None) if self.filling.is_over => Some(self.data.fresh_file(&member)?),
            (Task::Write, None) => Some(self.data.new_member(&member)?),
            (_, old) => old,
        };
        let left = Cell::new(range.end - range.start);
        let has_changed = Cell::new(!is_old);
        self.open += 1;
        let changes = RefCell::default();
        let open = Rc::new(Open { member, len, range, file, is_old, left, has_changed, stamp, changes });
        let mut known = known.map(|changes| changes.into_iter().peekable());
        for piece in content.pieces_of(&open.range) {
            if self.filling.monitor.interrupted() {
                return Err(Error::Interrupted);
            }
            let place = Place { open: Rc::clone(&open), piece: *piece };
            let change = match &mut known {
                None => Some(None),
                Some(known) => known.next_if(|change| change.at == piece.at).map(|change| change.pages),
            };
            match change {
                // As the proof found it.
                None => self.done(&place)?,
                Some(Some(pages)) => {
                    for (at, bytes) in pages {
                        self.write(&place, at, &bytes)?;
                    }
                    self.done(&place)?;
                }
                Some(None) => self.compare(place)?,
            }
            while self.ahead.is_full() {
                self.take()?;
            }
        }
        Ok(())
    }

    /// Compares a piece with what is there, and requests it if it differs.
    fn compare(&mut self, place: Place) -> Result<()> {
        let Place { open, piece } = &place;
        let Some(chunk) = piece.chunk else {
            if !open.has_zeros(piece, &mut self.spare) {
                self.put_zeros(&place)?;
            }
            return self.done(&place);
        };
        let len = chunk.len as usize;
        if self.spare.capacity() < len {
            self.ahead.recycle(std::mem::take(&mut self.spare));
            self.spare = self.ahead.buffer(len)?;
        }
        let is_there = open.read_old(piece, &mut self.spare);
        let id = is_there.then(|| self.filling.repo.store().keys().chunk_id(&self.spare));
        match id {
            Some(id) if id == chunk.id => self.done(&place),
            _ if self.filling.task == Task::Compare => {
                self.count(&place, place.inner().1);
                self.done(&place)
            }
            Some(id) => {
                if let Some(bytes) = self.ahead.over(&chunk, &id, &mut self.spare) {
                    let old = std::mem::take(&mut self.spare);
                    self.put(&place, &bytes, Some(&old).filter(|old| !old.is_empty()))?;
                    self.spare = old;
                    self.ahead.recycle(bytes);
                    return self.done(&place);
                }
                if self.spare.is_empty() {
                    self.ahead.request(chunk, place)?;
                } else {
                    self.ahead.request_over(chunk, &id, std::mem::take(&mut self.spare), place)?;
                }
                Ok(())
            }
            None => Ok(self.ahead.request(chunk, place)?),
        }
    }

    /// Takes what was requested first; `false` if nothing is left.
    fn take(&mut self) -> Result<bool> {
        let Some(batch) = self.ahead.take()? else { return Ok(false) };
        for fetched in batch {
            if self.filling.monitor.interrupted() {
                return Err(Error::Interrupted);
            }
            let Fetched::Chunk(bytes, place) = fetched else { continue };
            let bytes = bytes?;
            self.put(&place, &bytes, None)?;
            self.done(&place)?;
            self.ahead.recycle(bytes);
        }
        Ok(true)
    }

    /// Writes the bytes of a chunk where they differ, or notes where they do; `old` is what is there in its place, if that is at
    /// hand.
    fn put(&mut self, place: &Place, bytes: &[u8], old: Option<&Vec<u8>>) -> Result<()> {
        let (at, len) = place.inner();
        let from = usize::try_from(place.open.range.start + at - place.piece.at).unwrap_or(usize::MAX);
        let inner = bytes.get(from..).and_then(|rest| rest.get(..len as usize)).unwrap_or_default();
        match (self.filling.task, &place.open.file) {
            (Task::Compare, _) | (Task::Prove, None) => Ok(()),
            (Task::Write, Some(_)) if !place.open.is_old => self.write(place, at, inner),
            (task, _) => {
                let old = old.and_then(|old| old.get(from..)?.get(..len as usize));
                let runs = match old {
                    Some(old) => differing(old, inner),
                    None => self.differing(place, at, inner)?,
                };
                if task == Task::Prove {
                    let room = runs.iter().map(|run| run.len()).sum();
                    let pages = || runs.iter().map(|run| (at + run.start as u64, inner[run.clone()].into()));
                    let pages: Option<Pages> = self.filling.found.has_room(room).then(|| pages().collect());
                    place.open.changes.borrow_mut().push(Change { at: place.piece.at, pages });
                    return Ok(());
                }
                runs.into_iter()
                    .try_for_each(|run| self.write(place, at + run.start as u64, &inner[run.clone()]))
            }
        }
    }

    /// Runs of pages of `inner` that the file does not have at `at`.
    fn differing(&mut self, place: &Place, at: u64, inner: &[u8]) -> Result<Vec<Range<usize>>> {
        let Some(file) = &place.open.file else { return Ok(vec![]) };
        self.spare.resize(inner.len(), 0);
        let read = read_up_to(file, &mut self.spare, at).map_err(self.data.at(&place.open.member))?;
        Ok(differing(self.spare.get(..read).unwrap_or_default(), inner))
    }

    /// Writes bytes of a file.
    fn write(&self, place: &Place, at: u64, bytes: &[u8]) -> Result<()> {
        let Some(file) = &place.open.file else { return Ok(()) };
        self.count(place, bytes.len() as u64);
        file.write_all_at(bytes, at).map_err(self.data.at(&place.open.member))
    }

    /// A hole where there is none.
    fn put_zeros(&self, place: &Place) -> Result<()> {
        let (mut at, mut left) = place.inner();
        self.count(place, left);
        if self.filling.task == Task::Prove && place.open.file.is_some() {
            place.open.changes.borrow_mut().push(Change { at: place.piece.at, pages: None });
        }
        let Some(file) = place.open.file.as_ref().filter(|_| self.filling.task == Task::Write) else {
            return Ok(());
        };
        let zeros = vec![0; ZEROS];
        while left > 0 {
            let step = left.min(ZEROS as u64);
            file.write_all_at(&zeros[..step as usize], at).map_err(self.data.at(&place.open.member))?;
            (at, left) = (at + step, left - step);
        }
        Ok(())
    }

    /// Notes bytes that are written.
    fn count(&self, place: &Place, bytes: u64) {
        self.filling.filled.written.fetch_add(bytes, Ordering::Relaxed);
        place.open.has_changed.set(true);
    }

    /// A piece is as it shall be; with the last one of a file, the file is.
    fn done(&mut self, place: &Place) -> Result<()> {
        let Place { open, piece } = place;
        let len = open.range.end.min(piece.at + piece.len) - open.range.start.max(piece.at);
        self.filling.monitor.count(Counter::BytesDone, len);
        open.left.set(open.left.get() - len);
        if open.left.get() > 0 {
            return Ok(());
        }
        self.open -= 1;
        self.filling.monitor.count(Counter::FilesDone, 1);
        self.filling.filled.files.fetch_add(u64::from(open.has_changed.get()), Ordering::Relaxed);
        if let Some(stamp) = open.stamp {
            self.filling.found.note(&open.member.path, stamp, open.changes.take());
        }
        let Some(file) = open.file.as_ref().filter(|_| self.filling.task == Task::Write) else {
            return Ok(());
        };
        if open.is_old {
            file.set_len(open.len).map_err(self.data.at(&open.member))?;
        }
        self.data.finish_member(file, &open.member)
    }
}

/// A member's bytes with what fills its last block.
pub(super) fn padded(len: u64) -> u64 {
    len.next_multiple_of(BLOCK as u64)
}

/// Runs of pages of `new` that are not in `old`, of which what is behind its end is not there.
fn differing(old: &[u8], new: &[u8]) -> Vec<Range<usize>> {
    let pages = (0..new.len()).step_by(PAGE).map(|start| start..(start + PAGE).min(new.len()));
    let mut runs: Vec<Range<usize>> = vec![];
    for page in pages.filter(|page| old.get(page.clone()) != new.get(page.clone())) {
        match runs.last_mut() {
            Some(run) if run.end == page.start => run.end = page.end,
            _ => runs.push(page),
        }
    }
    runs
}
