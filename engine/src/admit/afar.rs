//! What a host stored as differences: the chunks that these build on are read in the repository, if they are the host's own.
//! Which others the repository has, no answer tells.

use super::own::Own;
use super::{Admitter, Refusal, refused};
use chunkstore::ChunkId;
use chunkstore::bases::{BaseReader, Prefix};
use chunkstore::format::Codec;
use chunkstore::pack::Record;
use chunkstore::store::ChunkStore;
use std::collections::HashSet;

/// Bases are read with so many times the bytes of the chunks that are made of them. A host's own program names bases of at
/// most half as many.
const MOST_READ: u64 = 16;

/// And so many bytes besides.
const MORE_READ: u64 = 256 << 20;

/// What a chunk is made of.
pub(super) enum Bases {
    /// It is whole.
    None,
    /// These, one after the other, and their lengths in bytes.
    Read(Prefix, Vec<usize>),
}

/// The bases of differences in one commit.
pub(super) struct Afar<'a> {
    own: Own<'a>,
    reader: BaseReader,
    /// Bases that are not there, or not the host's to build on.
    missing: HashSet<ChunkId>,
    cost: Cost,
}

/// Bytes of bases that were read, and of the chunks that were made of them.
#[derive(Default)]
struct Cost {
    read: u64,
    made: u64,
}

impl Cost {
    /// Counts a chunk; `false` if more was read than any honest host makes one read.
    fn count(&mut self, lens: &[usize], plain_len: u32) -> bool {
        self.read = self.read.saturating_add(lens.iter().sum::<usize>() as u64);
        self.made = self.made.saturating_add(u64::from(plain_len));
        self.excess() <= MORE_READ
    }

    /// Bytes that were read beyond what honest hosts make one read.
    fn excess(&self) -> u64 {
        self.read.saturating_sub(self.made.saturating_mul(MOST_READ))
    }
}

impl Drop for Afar<'_> {
    fn drop(&mut self) {
        self.own.spend(self.cost.excess());
    }
}

impl<'a> Afar<'a> {
    pub(super) fn new(admitter: &'a Admitter<'a>) -> std::result::Result<Self, Refusal> {
        let (reader, missing) = (BaseReader::default(), HashSet::new());
        Ok(Self { own: Own::new(admitter)?, reader, missing, cost: Cost::default() })
    }

    /// Finds out which of the bases of these chunks are the host's own.
    pub(super) fn look(&mut self, records: &[Record]) -> std::result::Result<(), Refusal> {
        let bases: HashSet<ChunkId> =
            records.iter().flat_map(|record| record.bases.iter().copied()).collect();
        if bases.is_empty() {
            return Ok(());
        }
        // Whether they are there does not matter to what is not its own.
        let foreign = self.own.lacks(bases)?;
        self.missing.extend(foreign);
        Ok(())
    }

    /// The bases of a chunk, one after the other; none of one that is whole. `None` if one is missing.
    pub(super) fn bases(
        &mut self,
        store: &ChunkStore,
        record: &Record,
    ) -> std::result::Result<Option<Bases>, Refusal> {
        if !record.is_delta() {
            return Ok(Some(Bases::None));
        }
        if record.codec != Codec::Patch {
            return refused("it brought a chunk in a form that hosts do not use");
        }
        if record.bases.iter().any(|base| self.missing.contains(base)) {
            return Ok(None);
        }
        let mut lens = vec![];
        for (base, location) in record.bases.iter().zip(store.index().lookup(&record.bases)?) {
            match location {
                Some(location) => lens.push(location.record.plain_len as usize),
                None => drop(self.missing.insert(*base)),
            }
        }
        if lens.len() < record.bases.len() {
            return Ok(None);
        }
        if !self.cost.count(&lens, record.plain_len) {
            return refused("its differences build on more than any host's do");
        }
        match self.reader.bases(store, &record.bases) {
            Ok(bases) => Ok(Some(Bases::Read(bases, lens))),
            // Damage in the repository, too: the host brings whole what cannot be read here.
            Err(error) if error.is_damage() => {
                tracing::info!(chunk = %record.id.short(), %error, "a base cannot be read");
                self.missing.extend(&record.bases);
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Takes the buffer of bases that are no longer used.
    pub(super) fn recycle(&self, bases: Bases) {
        if let Bases::Read(bases, _) = bases {
            self.reader.recycle_prefix(bases);
        }
    }

    /// The bases that are missing.
    pub(super) fn into_missing(mut self) -> HashSet<ChunkId> {
        std::mem::take(&mut self.missing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_for_little_is_bounded_and_what_hosts_make_is_not() {
        let mut cost = Cost::default();
        assert!((0..100_000).all(|_| cost.count(&[2 << 20; 4], 1 << 20)));
        let mut cost = Cost::default();
        let count = (0..1000).take_while(|_| cost.count(&[2 << 20; 4], 1)).count() as u64;
        assert_eq!(count, MORE_READ / (8 << 20));
    }
}
