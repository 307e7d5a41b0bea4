//! A snapshot of another repository as a source: read in order, with its own keys, then cut and sealed again by the
//! backup. The two repositories may have different keys and chunkers.

use super::{Content, Item, Opener, Piece, Proof, Source, SourceError, SourceErrorKind};
use crate::entry::{Entry, Kind};
use crate::manifest::{Ending, ManifestReader, Record, Step};
use crate::snapshot::{Listed, SourceRecord};
use crate::{Monitor, Repository, Result};
use chunkstore::ingest::ChunkRef;
use chunkstore::reader::{Fetched, ReadAhead};
use chunkstore::store::{ChunkStore, describe};
use std::cell::RefCell;
use std::collections::HashSet;
use std::rc::Rc;
use std::sync::Arc;

/// The source.
pub struct SnapshotSource {
    listed: Listed,
    cursor: Rc<RefCell<Cursor>>,
    /// Numbers of entries that were begun and given up: they are not part of the snapshot.
    dropped: HashSet<u64>,
}

/// Where in the manifest we are. Entries and their content share it: content comes before the next entry.
struct Cursor {
    store: Arc<ChunkStore>,
    reader: ManifestReader,
    /// Entries begun.
    number: u64,
    /// Whether an entry's content is still to come, so that it is skipped unless it was read.
    inside: bool,
    name: String,
}

impl SnapshotSource {
    /// Reads the manifest once, to find dropped entries.
    pub fn new(repo: &Repository, listed: Listed) -> Result<Self> {
        let mut reader = ManifestReader::new(repo.store(), &listed.snapshot.manifest)?;
        let (mut number, mut dropped) = (0, HashSet::new());
        while let Some(step) = reader.next_step()? {
            match step {
                Step::Record(Record::Entry(_)) => number += 1,
                Step::Record(Record::End(Ending::Dropped, _)) => {
                    dropped.insert(number);
                }
                Step::Record(_) => {}
                Step::Damage(damage) => return Err(damage.error.into()),
            }
        }
        let cursor = Cursor {
            store: Arc::clone(repo.store()),
            reader: ManifestReader::new(repo.store(), &listed.snapshot.manifest)?,
            number: 0,
            inside: false,
            name: format!("snapshot {}", listed.id.short()),
        };
        Ok(Self { listed, cursor: Rc::new(RefCell::new(cursor)), dropped })
    }
}

impl Cursor {
    fn failed(&self, error: &dyn std::error::Error) -> SourceError {
        SourceError::new(SourceErrorKind::Unavailable, &self.name, describe(error))
    }

    fn step(&mut self) -> Result<Option<Record>, SourceError> {
        match self.reader.next_step().map_err(|error| self.failed(&error))? {
            None => Ok(None),
            Some(Step::Damage(damage)) => Err(self.failed(&damage.error)),
            Some(Step::Record(record)) => {
                match &record {
                    Record::Entry(_) => (self.number, self.inside) = (self.number + 1, true),
                    Record::End(..) => self.inside = false,
                    Record::Chunks(_) | Record::Hole(_) => {}
                }
                Ok(Some(record))
            }
        }
    }

    fn next_entry(&mut self) -> Result<Option<(u64, Entry)>, SourceError> {
        while let Some(record) = self.step()? {
            if let Record::Entry(entry) = record {
                return Ok(Some((self.number, *entry)));
            }
        }
        Ok(None)
    }
}

impl Source for SnapshotSource {
    fn records(&self) -> Vec<SourceRecord> {
        self.listed.snapshot.sources.clone()
    }
    fn paths(&self) -> Vec<String> {
        self.listed.snapshot.paths.clone()
    }
    fn may_be_empty(&self) -> bool {
        true
    }
    fn next_item(&mut self, _monitor: &dyn Monitor) -> Result<Option<Item>, SourceError> {
        loop {
            let Some((number, entry)) = self.cursor.borrow_mut().next_entry()? else { return Ok(None) };
            if self.dropped.contains(&number) {
                continue;
            }
            let content = (entry.kind == Kind::File).then(|| {
                let cursor = Rc::clone(&self.cursor);
                let open: Opener = Box::new(move || {
                    let ahead = ReadAhead::new(&cursor.borrow().store);
                    Ok(Box::new(Copied { cursor, ahead, parts: vec![], at: 0, asked_all: false }))
                });
                open
            });
            return Ok(Some(Item { entry, content, proof: Proof::Nothing, leads: false }));
        }
    }
}

/// What stands between chunks.
enum Part {
    Data,
    Hole(u64),
}

/// The content of one entry.
struct Copied {
    cursor: Rc<RefCell<Cursor>>,
    ahead: ReadAhead<Part>,
    /// What was fetched and is not handed out, last first.
    parts: Vec<(Part, Vec<u8>)>,
    /// Bytes of the last of them that were handed out.
    at: usize,
    asked_all: bool,
}

impl Copied {
    /// Requests as many chunks as may be in flight.
    fn ask(&mut self) -> Result<(), SourceError> {
        let mut cursor = self.cursor.borrow_mut();
        while !self.asked_all && !self.ahead.is_full() {
            let asked = match cursor.step()? {
                Some(Record::Chunks(chunks)) => {
                    chunks.into_iter().try_for_each(|chunk: ChunkRef| self.ahead.request(chunk, Part::Data))
                }
                Some(Record::Hole(len)) => self.ahead.token(Part::Hole(len)),
                _ => {
                    self.asked_all = true;
                    Ok(())
                }
            };
            asked.map_err(|error| cursor.failed(&error))?;
        }
        Ok(())
    }
}

impl Content for Copied {
    fn read(&mut self, buffer: &mut [u8]) -> Result<Piece, SourceError> {
        loop {
            match self.parts.last() {
                Some((Part::Hole(len), _)) => {
                    let len = *len;
                    self.parts.pop();
                    return Ok(Piece::Hole(len));
                }
                Some((Part::Data, bytes)) if self.at < bytes.len() => {
                    let len = buffer.len().min(bytes.len() - self.at);
                    buffer[..len].copy_from_slice(&bytes[self.at..self.at + len]);
                    self.at += len;
                    return Ok(Piece::Data(len));
                }
                Some(_) => {
                    self.at = 0;
                    if let Some((_, bytes)) = self.parts.pop() {
                        self.ahead.recycle(bytes);
                    }
                }
                None => {
                    self.ask()?;
                    let failed = |error: chunkstore::Error| self.cursor.borrow().failed(&error);
                    let Some(batch) = self.ahead.take().map_err(failed)? else { return Ok(Piece::End) };
                    let mut parts = Vec::with_capacity(batch.len());
                    for fetched in batch {
                        parts.push(match fetched {
                            Fetched::Chunk(bytes, part) => (part, bytes.map_err(failed)?),
                            Fetched::Token(part) => (part, vec![]),
                        });
                    }
                    parts.reverse();
                    self.parts = parts;
                }
            }
        }
    }
}
