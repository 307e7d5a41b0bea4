//! The ordered entries of one snapshot, written and read as a stream in bounded memory.
//!
//! A manifest is a sequence of records; its chunks begin and end between records, at places chosen by
//! the entries' names, so that unchanged stretches dedupe and a damaged chunk costs only its own
//! entries. When it has many chunks, their list is stored the same way, level upon level, until what
//! is left fits into the snapshot.

use crate::entry::{Entry, display_path};
use crate::{Error, Result};
use chunkstore::ChunkId;
use chunkstore::format::{Decoder, Encoder, Malformed, PackKind};
use chunkstore::ingest::{ChunkRef, Dedupe, Lane, METADATA_MAX_LEN, Output, Packer};
use chunkstore::reader::{Fetched, ReadAhead};
use chunkstore::store::ChunkStore;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::Arc;

mod grammar;
pub(crate) mod lists;
mod seek;

use grammar::Grammar;
use lists::read_list;
pub use seek::for_entries_beneath;
pub(crate) use seek::is_behind;

/// Chunks in a snapshot's own list before another level is made of it.
const MAX_ROOT_CHUNKS: usize = 256;
/// Most levels that are read: 256 × 16,000³ chunks are enough.
const MAX_LEVELS: u8 = 4;
/// A manifest chunk ends at the latest here.
const CHUNK_TARGET: usize = 128 << 10;
/// References in one record: 36 KiB.
const REFS_PER_RECORD: usize = 1024;
/// Longest record; entries with more attributes than fit are refused when they are written.
pub const MAX_RECORD: usize = METADATA_MAX_LEN - CHUNK_TARGET - 64;

const TAG_ENTRY: u8 = 1;
const TAG_CHUNKS: u8 = 2;
const TAG_HOLE: u8 = 3;
const TAG_END: u8 = 4;

/// Where a manifest starts, as a snapshot records it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestRoot {
    /// 0: the chunks hold records; n: they hold lists of the chunks of level n - 1.
    pub level: u8,
    /// Chunk ids and lengths.
    pub chunks: Vec<(ChunkId, u32)>,
    /// How many entries there are, for progress and as a check.
    pub entries: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// How an entry ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// All of it is here.
    Complete,
    /// Its content could not be read to the end: as if it were not listed.
    Dropped,
}

/// One step through a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// The next entry begins.
    Entry(Box<Entry>),
    /// The next chunks of its content.
    Chunks(Vec<ChunkRef>),
    /// A hole in its content, in bytes.
    Hole(u64),
    /// It ends, with this many bytes of content.
    End(Ending, u64),
}

impl Record {
    /// Appends the record.
    pub fn encode(&self, out: &mut Encoder) {
        let mut body = Encoder::default();
        let tag = match self {
            Self::Entry(entry) => {
                entry.encode(&mut body);
                TAG_ENTRY
            }
            Self::Chunks(chunks) => {
                encode_refs(&mut body, chunks);
                TAG_CHUNKS
            }
            Self::Hole(len) => {
                body.u64(*len);
                TAG_HOLE
            }
            Self::End(ending, size) => {
                body.u8(u8::from(*ending == Ending::Dropped)).u64(*size);
                TAG_END
            }
        };
        out.u8(tag).var(&body.bytes);
    }

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, Malformed> {
        let tag = decoder.u8()?;
        let mut body = Decoder::new(decoder.var(METADATA_MAX_LEN)?, "manifest record");
        let record = match tag {
            TAG_ENTRY => Self::Entry(Box::new(Entry::decode(&mut body)?)),
            TAG_CHUNKS => Self::Chunks(decode_refs(&mut body)?),
            TAG_HOLE => Self::Hole(body.u64()?),
            TAG_END => {
                let ending = match body.u8()? {
                    0 => Ending::Complete,
                    1 => Ending::Dropped,
                    _ => return Err(body.malformed("unknown ending")),
                };
                Self::End(ending, body.u64()?)
            }
            _ => return Err(body.malformed("unknown record")),
        };
        body.finish()?;
        Ok(record)
    }
}

/// Appends chunks as lists of them are stored.
pub fn encode_refs(out: &mut Encoder, chunks: &[ChunkRef]) {
    for chunk in chunks {
        out.raw(chunk.id.as_bytes()).u32(chunk.len);
    }
}

/// Reads a list of chunks to its end.
pub fn decode_refs(decoder: &mut Decoder<'_>) -> Result<Vec<ChunkRef>, Malformed> {
    let mut refs = Vec::with_capacity(decoder.remaining() / 36);
    while decoder.remaining() > 0 {
        refs.push(ChunkRef { id: ChunkId(decoder.array()?), len: decoder.u32()? });
    }
    Ok(refs)
}

/// Writes a manifest into metadata packs.
pub struct ManifestWriter {
    lane: Lane<()>,
    dedupe: Arc<Dedupe>,
    refs: Vec<ChunkRef>,
    pending: Vec<ChunkRef>,
    cut_after_entry: bool,
    grammar: Grammar,
    last_path: Vec<u8>,
    entries: u64,
    bytes: u64,
}

impl ManifestWriter {
    /// Starts an empty manifest.
    pub fn new(dedupe: &Arc<Dedupe>) -> Result<Self> {
        Ok(Self {
            lane: Lane::new(dedupe, PackKind::Metadata)?,
            dedupe: Arc::clone(dedupe),
            refs: vec![],
            pending: vec![],
            cut_after_entry: false,
            grammar: Grammar::Between,
            last_path: vec![],
            entries: 0,
            bytes: 0,
        })
    }

    /// Adds a record; chunk references are gathered into records of their own.
    pub fn push(&mut self, packer: &mut Packer, record: Record) -> Result<()> {
        if !self.pending.is_empty() {
            let chunks = std::mem::take(&mut self.pending);
            self.write(packer, &Record::Chunks(chunks))?;
        }
        if let Record::Entry(entry) = &record {
            // One entry in 128 ends a chunk, whatever comes before it in the manifest.
            self.cut_after_entry = blake3::hash(&entry.path).as_bytes()[0] & 0x7f == 0;
        }
        self.write(packer, &record)?;
        if let Record::End(ending, size) = record {
            if ending == Ending::Complete {
                self.entries += 1;
                self.bytes += size;
            }
            if self.cut_after_entry {
                self.lane.end_chunk();
            }
        }
        Ok(())
    }

    /// Adds one chunk of the current entry's content.
    pub fn push_chunk(&mut self, packer: &mut Packer, chunk: ChunkRef) -> Result<()> {
        self.pending.push(chunk);
        if self.pending.len() >= REFS_PER_RECORD {
            let chunks = std::mem::take(&mut self.pending);
            self.write(packer, &Record::Chunks(chunks))?;
        }
        Ok(())
    }

    /// Refuses records that a reader would refuse: a committed manifest can be read.
    fn admit(&mut self, record: &Record) -> Result<()> {
        let refused = |path: &[u8], why: &str| Error::Malformed { what: display_path(path), why: why.into() };
        if let Record::Entry(entry) = record {
            entry.check().map_err(|why| refused(&entry.path, why))?;
        }
        let last = &self.last_path;
        self.grammar.admit(record, last).map_err(|why| match record {
            Record::Entry(entry) => refused(&entry.path, why),
            _ => refused(last, why),
        })?;
        if let Record::Entry(entry) = record {
            self.last_path.clone_from(&entry.path);
        }
        Ok(())
    }

    fn write(&mut self, packer: &mut Packer, record: &Record) -> Result<()> {
        self.admit(record)?;
        let mut out = Encoder::default();
        record.encode(&mut out);
        if out.bytes.len() > MAX_RECORD {
            let why = "its record is longer than a reader takes".into();
            return Err(Error::Malformed { what: display_path(&self.last_path), why });
        }
        self.lane.write(&out.bytes);
        if self.lane.uncut() >= CHUNK_TARGET {
            self.lane.end_chunk();
        }
        let refs = &mut self.refs;
        Ok(self.lane.collect(packer, &mut |_, output| {
            if let Output::Chunk(chunk) = output {
                refs.push(chunk);
            }
            Ok(())
        })?)
    }

    /// Finishes all levels and returns the root.
    pub fn finish(mut self, packer: &mut Packer) -> Result<ManifestRoot> {
        let mut refs = std::mem::take(&mut self.refs);
        self.lane.end_chunk();
        drain(&mut self.lane, packer, &mut refs)?;
        let mut level = 0;
        while refs.len() > MAX_ROOT_CHUNKS {
            level += 1;
            let mut lane = Lane::new(&self.dedupe, PackKind::Metadata)?;
            let mut upper = vec![];
            for group in refs.chunks(REFS_PER_RECORD) {
                let mut out = Encoder::default();
                encode_refs(&mut out, group);
                lane.write(&out.bytes);
                lane.end_chunk();
            }
            drain(&mut lane, packer, &mut upper)?;
            refs = upper;
        }
        let chunks = refs.iter().map(|chunk| (chunk.id, chunk.len)).collect();
        Ok(ManifestRoot { level, chunks, entries: self.entries, bytes: self.bytes })
    }
}

fn drain(lane: &mut Lane<()>, packer: &mut Packer, refs: &mut Vec<ChunkRef>) -> Result<()> {
    Ok(lane.drain(packer, &mut |_, output| {
        if let Output::Chunk(chunk) = output {
            refs.push(chunk);
        }
        Ok(())
    })?)
}

/// A stretch of a manifest that could not be read.
#[derive(Debug)]
pub struct Damage {
    /// The chunk.
    pub chunk: ChunkId,
    /// Path of the last entry before it.
    pub after: String,
    /// The error.
    pub error: chunkstore::Error,
}

/// What [`ManifestReader::next_step`] yields.
#[derive(Debug)]
pub enum Step {
    /// A record.
    Record(Record),
    /// A stretch is lost; an entry that was open ends here, unfinished.
    Damage(Damage),
}

/// Reads a manifest in order. Levels above the records are read as needed, a chunk at a time.
pub struct ManifestReader {
    store: Arc<ChunkStore>,
    /// One queue of references per level above 0, topmost last.
    upper: Vec<VecDeque<ChunkRef>>,
    ahead: ReadAhead<ChunkId>,
    /// References of level 0 that were not asked for yet.
    leaves: VecDeque<ChunkRef>,
    fetched: VecDeque<Fetched<ChunkId>>,
    /// Of the chunk with this id.
    records: VecDeque<Record>,
    records_of: ChunkId,
    grammar: Grammar,
    last_path: Vec<u8>,
    /// All chunks of the manifest that were come across, for pruning and checking.
    visited: Option<Vec<ChunkRef>>,
}

/// Chunks of a manifest that are fetched ahead.
const READ_AHEAD_CHUNKS: usize = 16;

impl ManifestReader {
    /// Starts at a root.
    pub fn new(store: &Arc<ChunkStore>, root: &ManifestRoot) -> Result<Self> {
        if root.level > MAX_LEVELS {
            return Err(Error::Malformed { what: "manifest".into(), why: "too many levels".into() });
        }
        let refs: VecDeque<_> = root.chunks.iter().map(|(id, len)| ChunkRef { id: *id, len: *len }).collect();
        let mut upper = vec![VecDeque::new(); usize::from(root.level)];
        let mut leaves = VecDeque::new();
        match upper.last_mut() {
            Some(top) => *top = refs,
            None => leaves = refs,
        }
        Ok(Self {
            store: Arc::clone(store),
            upper,
            ahead: ReadAhead::new(store),
            leaves,
            fetched: VecDeque::new(),
            records: VecDeque::new(),
            records_of: ChunkId([0; 32]),
            grammar: Grammar::Between,
            last_path: vec![],
            visited: None,
        })
    }

    /// Remembers every manifest chunk, for [`ManifestReader::take_visited`].
    #[must_use]
    pub fn remember_chunks(mut self) -> Self {
        self.visited = Some(vec![]);
        self
    }

    /// The manifest chunk of the last record.
    pub(crate) fn chunk(&self) -> ChunkId {
        self.records_of
    }

    /// The manifest chunks come across since the last call.
    pub fn take_visited(&mut self) -> Vec<ChunkRef> {
        self.visited.as_mut().map(std::mem::take).unwrap_or_default()
    }

    fn visit(&mut self, chunk: ChunkRef) {
        if let Some(visited) = &mut self.visited {
            visited.push(chunk);
        }
    }

    /// The next step, or `None` at the end.
    pub fn next_step(&mut self) -> Result<Option<Step>> {
        loop {
            if let Some(record) = self.records.pop_front() {
                match self.grammar.admit(&record, &self.last_path) {
                    Ok(true) => {}
                    Ok(false) => continue,
                    Err(why) => {
                        self.records.clear();
                        let id = self.records_of;
                        let error = chunkstore::Error::corrupt(format!("manifest chunk {}", id.short()), why);
                        return Ok(Some(Step::Damage(self.damage(id, error))));
                    }
                }
                if let Record::Entry(entry) = &record {
                    self.last_path.clone_from(&entry.path);
                }
                return Ok(Some(Step::Record(record)));
            }
            if let Some(fetched) = self.fetched.pop_front() {
                let Fetched::Chunk(bytes, id) = fetched else { continue };
                let parsed = bytes.and_then(|bytes| {
                    parse(&bytes).map_err(|error| {
                        chunkstore::Error::corrupt(format!("manifest chunk {}", id.short()), error)
                    })
                });
                match parsed {
                    Ok(records) => (self.records, self.records_of) = (records, id),
                    Err(error) => return Ok(Some(Step::Damage(self.damage(id, error)))),
                }
                continue;
            }
            if let Some(damage) = self.fill_leaves()? {
                return Ok(Some(Step::Damage(damage)));
            }
            for _ in 0..READ_AHEAD_CHUNKS {
                let Some(chunk) = self.leaves.pop_front() else { break };
                self.visit(chunk);
                self.ahead.request(chunk, chunk.id)?;
            }
            match self.ahead.take()? {
                Some(batch) => self.fetched.extend(batch),
                None if self.leaves.is_empty() && self.upper.iter().all(VecDeque::is_empty) => {
                    let unfinished = matches!(self.grammar, Grammar::Within { .. });
                    if !unfinished {
                        return Ok(None);
                    }
                    let id = self.records_of;
                    let error = chunkstore::Error::corrupt(
                        format!("manifest chunk {}", id.short()),
                        "an entry has no end",
                    );
                    return Ok(Some(Step::Damage(self.damage(id, error))));
                }
                None => {}
            }
        }
    }

    fn damage(&mut self, chunk: ChunkId, error: chunkstore::Error) -> Damage {
        self.grammar = Grammar::Lost;
        Damage { chunk, after: display_path(&self.last_path), error }
    }

    /// Expands upper levels until there are leaves to fetch.
    fn fill_leaves(&mut self) -> Result<Option<Damage>> {
        while self.leaves.is_empty() {
            let Some(level) = self.upper.iter().position(|level| !level.is_empty()) else { break };
            let Some(chunk) = self.upper[level].pop_front() else { break };
            self.visit(chunk);
            match read_list(&self.store, chunk) {
                Ok(refs) if level == 0 => self.leaves = refs.into(),
                Ok(refs) => self.upper[level - 1] = refs.into(),
                Err(error) if error.is_damage() => return Ok(Some(self.damage(chunk.id, error))),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }
}

/// Reads the records of a manifest chunk.
pub fn parse(bytes: &[u8]) -> Result<VecDeque<Record>, Malformed> {
    let mut decoder = Decoder::new(bytes, "manifest chunk");
    let mut records = VecDeque::new();
    while decoder.remaining() > 0 {
        records.push_back(Record::decode(&mut decoder)?);
    }
    Ok(records)
}

/// A complete entry without its chunk list, for listings.
pub struct Listed {
    /// The entry.
    pub entry: Entry,
    /// Bytes of content.
    pub size: u64,
}

/// As [`for_each_entry`], for callers that need all entries.
///
/// # Errors
///
/// Also when an entry cannot be read.
pub fn for_all_entries(
    store: &Arc<ChunkStore>,
    root: &ManifestRoot,
    each: &mut dyn FnMut(Listed) -> Result<()>,
) -> Result<()> {
    let mut damaged = None;
    for_each_entry(store, root, &mut |damage| damaged = Some(damage.error), each)?;
    damaged.map_or(Ok(()), |error| Err(error.into()))
}

/// Calls `each` for every complete entry in order; damage goes to `damaged`.
pub fn for_each_entry(
    store: &Arc<ChunkStore>,
    root: &ManifestRoot,
    damaged: &mut dyn FnMut(Damage),
    each: &mut dyn FnMut(Listed) -> Result<()>,
) -> Result<()> {
    let mut reader = ManifestReader::new(store, root)?;
    let mut open: Option<Box<Entry>> = None;
    while let Some(step) = reader.next_step()? {
        match step {
            Step::Damage(damage) => {
                open = None;
                damaged(damage);
            }
            Step::Record(Record::Entry(entry)) => open = Some(entry),
            Step::Record(Record::End(Ending::Complete, size)) => {
                if let Some(entry) = open.take() {
                    each(Listed { entry: *entry, size })?;
                }
            }
            Step::Record(Record::End(Ending::Dropped, _)) => open = None,
            Step::Record(Record::Chunks(_) | Record::Hole(_)) => {}
        }
    }
    Ok(())
}
