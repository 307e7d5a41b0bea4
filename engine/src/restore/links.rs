//! Hard links: entries are names of one file only if all their metadata and content are equal. An inode alone proves
//! nothing: it may have been given to another file between two looks, and some file systems have only one.

use crate::entry::{Entry, Kind, Time};
use chunkstore::format::Encoder;
use chunkstore::ingest::ChunkRef;
use std::collections::HashMap;

/// What is equal for all names of a file, content aside.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct LinkKey {
    place: (u64, u64),
    size: u64,
    times: [(i64, u32); 2],
    owner: (u32, u32, u32),
}

impl LinkKey {
    /// Of an entry that may have several names.
    pub(super) fn of(entry: &Entry) -> Option<Self> {
        let time = |time: Time| (time.seconds, time.nanoseconds);
        (entry.kind == Kind::File && entry.links > 1).then(|| Self {
            place: (entry.device, entry.inode),
            size: entry.size,
            times: [time(entry.mtime), time(entry.ctime)],
            owner: (entry.uid, entry.gid, entry.mode),
        })
    }
}

/// A part of a file's content, as the manifest has it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Part {
    Chunk(ChunkRef),
    Hole(u64),
}

/// A digest of a list of parts.
#[derive(Clone, Default)]
pub(super) struct Digest(blake3::Hasher);

impl Digest {
    pub(super) fn add(&mut self, part: Part) {
        let mut out = Encoder::default();
        match part {
            Part::Chunk(chunk) => out.u8(1).raw(chunk.id.as_bytes()).u32(chunk.len),
            Part::Hole(len) => out.u8(0).u64(len),
        };
        self.0.update(&out.bytes);
    }

    fn finish(&self) -> [u8; 32] {
        *self.0.finalize().as_bytes()
    }
}

/// The first name of each file that has several, with what its content is.
#[derive(Default)]
pub(super) struct Links(HashMap<LinkKey, ([u8; 32], Vec<u8>)>);

impl Links {
    /// Whether an entry may be another name of a file that was come across.
    pub(super) fn may_know(&self, key: &LinkKey) -> bool {
        self.0.contains_key(key)
    }

    /// The first name of the same file.
    pub(super) fn first(&self, key: &LinkKey, digest: &Digest) -> Option<&[u8]> {
        self.0.get(key).filter(|(known, _)| *known == digest.finish()).map(|(_, path)| path.as_slice())
    }

    /// Notes a name; the first of equal ones stays.
    pub(super) fn insert(&mut self, key: LinkKey, digest: &Digest, path: Vec<u8>) {
        self.0.entry(key).or_insert_with(|| (digest.finish(), path));
    }
}
