//! Reading whole packs, and repairing them from their parity.

use super::{Check, ReadData};
use crate::{Counter, Error, Result};
use chunkstore::ChunkId;
use chunkstore::bases::BaseReader;
use chunkstore::executor::{Pending, submit};
use chunkstore::format::MAX_PACK_LEN;
use chunkstore::index::PackEntry;
use chunkstore::pack::{self, PackReader, Record};
use chunkstore::parity::{self, Recovered};
use chunkstore::seal::Decompressor;
use chunkstore::storage::ErrorKind;
use chunkstore::store::ChunkStore;
use std::collections::VecDeque;
use std::sync::Arc;

/// What was found of one pack.
pub(crate) struct PackResult {
    pub(crate) outcome: chunkstore::Result<()>,
    /// Chunks of it that cannot be read.
    pub(crate) bad: Vec<ChunkId>,
    /// What is wrong with its parity.
    parity: Option<&'static str>,
}

impl Check<'_> {
    /// Reads those packs that were chosen; those that are not sound are mended, if that is asked for and can be
    /// done, or else reported. `doubtful` are packs that are there, but not as they should be.
    pub(super) fn read_packs(&mut self, packs: &[PackEntry], doubtful: Vec<PackEntry>) -> Result<()> {
        let mut chosen = self.choose(packs)?;
        chosen.retain(|pack| doubtful.iter().all(|known| known.name != pack.name));
        chosen.extend(doubtful);
        self.monitor.count(Counter::FilesTotal, chosen.len() as u64);
        self.monitor.count(Counter::BytesTotal, chosen.iter().map(|pack| pack.len).sum());
        let mut failed = self.sweep(chosen)?;
        if self.options.heal {
            let mut mended = false;
            for pack in &failed {
                mended |= self.mend(pack)?;
            }
            if mended {
                // Deltas are sound again once what they stand on is.
                self.bases = Arc::default();
                failed = self.sweep(failed)?;
            }
        }
        for pack in failed {
            let PackResult { outcome, bad, .. } = read_pack(self.store, &pack, &self.bases);
            self.memory.note(pack.name.id, 0);
            self.bad.extend(bad.into_iter().map(|chunk| (pack.name.id, chunk)));
            if outcome.is_err() {
                self.unsound.insert(pack.name.id);
            }
            let mendable = self.store.has_parity() || !self.store.storage().copies().is_empty();
            self.report.suggest_heal |= mendable && !self.options.heal;
            self.note(&pack.name.object(), outcome)?;
        }
        Ok(())
    }

    /// Reads packs in parallel; returns those that are not sound.
    fn sweep(&mut self, packs: Vec<PackEntry>) -> Result<Vec<PackEntry>> {
        let mut failed = vec![];
        let mut running: VecDeque<(PackEntry, Pending<PackResult>)> = VecDeque::new();
        let most = self.store.access.io.parallelism();
        for pack in packs {
            let (store, entry, bases) = (Arc::clone(self.store), pack.clone(), Arc::clone(&self.bases));
            let read = move || {
                let first = read_pack(&store, &entry, &bases);
                // Damage on the way, unlike that in the store, is gone the second time.
                if first.outcome.is_err() { read_pack(&store, &entry, &bases) } else { first }
            };
            running.push_back((pack, submit(&*self.store.access.io, read)));
            while running.len() >= most {
                self.take_pack(&mut running, &mut failed)?;
            }
        }
        while !running.is_empty() {
            self.take_pack(&mut running, &mut failed)?;
        }
        Ok(failed)
    }

    fn take_pack(
        &mut self,
        running: &mut VecDeque<(PackEntry, Pending<PackResult>)>,
        failed: &mut Vec<PackEntry>,
    ) -> Result<()> {
        let Some((pack, pending)) = running.pop_front() else { return Ok(()) };
        let PackResult { outcome, parity, .. } = pending.wait()?;
        self.report.packs_read += 1;
        self.report.bytes_read += pack.len;
        self.monitor.count(Counter::FilesDone, 1);
        self.monitor.count(Counter::BytesDone, pack.len);
        match outcome {
            Ok(()) => {
                self.sound.insert(pack.name.id);
                self.memory.note(pack.name.id, self.store.now_ms());
                if let Some(why) = parity {
                    self.parity_of(&pack, why)?;
                }
            }
            Err(_) => failed.push(pack),
        }
        if self.monitor.interrupted() { Err(Error::Interrupted) } else { Ok(()) }
    }

    /// A sound pack whose parity is not.
    fn parity_of(&mut self, pack: &PackEntry, why: &str) -> Result<()> {
        let (store, name) = (self.store, pack.name.parity());
        if !self.options.heal {
            self.report.suggest_heal = true;
            self.fail(name, why);
            return Ok(());
        }
        let bytes =
            store.storage().get(&pack.name.object(), MAX_PACK_LEN).map_err(chunkstore::Error::from)?;
        // It was sound a moment ago; parity of anything else would do harm.
        if verify(store, pack, &self.bases, &bytes).is_ok() {
            store.storage().replace(&name, parity::encode(&bytes).into()).map_err(chunkstore::Error::from)?;
            self.report.parity_healed += 1;
            self.healed(name, format!("made anew: {why}"));
        }
        Ok(())
    }

    /// Puts a sound copy from another tier in the place of a pack; `false` if there is none.
    pub(super) fn fetch(&mut self, pack: &PackEntry, what: &str) -> Result<bool> {
        let Some(bytes) = self.store.read_authentic_copy(pack) else { return Ok(false) };
        self.store.replace_pack(&pack.name, bytes)?;
        self.report.packs_fetched += 1;
        self.report.bytes_fetched += pack.len;
        self.healed(pack.name.object(), format!("was {what}; copied from another tier"));
        Ok(true)
    }

    fn mend(&mut self, pack: &PackEntry) -> Result<bool> {
        // A copy from elsewhere is the whole pack; parity can only make up for so much.
        if self.fetch(pack, "damaged")? {
            return Ok(true);
        }
        let Some(recovered) = mend(self.store, pack, false)? else { return Ok(false) };
        self.report.packs_healed += 1;
        self.report.bytes_healed += (recovered.shards * recovered.shard_len) as u64;
        let what = format!("made whole from its parity: {} of its parts were damaged", recovered.shards);
        self.healed(pack.name.object(), what);
        Ok(true)
    }

    /// The packs to read, beginning with the one that was verified the longest time ago.
    fn choose(&self, packs: &[PackEntry]) -> Result<Vec<PackEntry>> {
        let salt: [u8; 32] = chunkstore::env::random_array(&*self.store.access.env)?;
        let mut left: Vec<&PackEntry> =
            packs.iter().filter(|pack| !self.sound.contains(&pack.name.id)).collect();
        if let Some(within) = self.options.not_verified_within_ms {
            let since = self.store.now_ms().saturating_sub(within);
            left.retain(|pack| self.memory.verified_at(&pack.name.id) < since);
        }
        left.sort_by_cached_key(|pack| {
            let id = pack.name.id;
            (self.memory.verified_at(&id), *blake3::keyed_hash(&salt, id.as_bytes()).as_bytes())
        });
        let part = |pack: &PackEntry, parts: u32| {
            u32::from_le_bytes([pack.name.id.0[0], pack.name.id.0[1], pack.name.id.0[2], 0]) % parts
        };
        let all: u64 = packs.iter().map(|pack| pack.len).sum();
        let mut budget = match self.options.read_data {
            ReadData::None => 0,
            ReadData::All | ReadData::Part(..) => u64::MAX,
            ReadData::Share(share) => (all as f64 * share.clamp(0.0, 1.0)).ceil() as u64,
            ReadData::Bytes(bytes) => bytes,
        };
        if let ReadData::Part(number, parts) = self.options.read_data {
            left.retain(|pack| part(pack, parts.max(1)) + 1 == number);
        }
        let within = |pack: &&&PackEntry| {
            let take = budget > 0;
            budget = budget.saturating_sub(pack.len);
            take
        };
        Ok(left.iter().take_while(within).map(|pack| (*pack).clone()).collect())
    }
}

/// Makes a pack whole from its parity. It is put in the place of the damaged one: a copy elsewhere would have
/// to be preferred, by everybody, to one that looks the same in every index. What is written is, byte for
/// byte, what was written there first, as its tags prove. `None` if that cannot be done.
pub(crate) fn mend(store: &ChunkStore, pack: &PackEntry, dry_run: bool) -> Result<Option<Recovered>> {
    let object = pack.name.object();
    let read = |name: &str| match store.storage().get(name, MAX_PACK_LEN) {
        // Gone; or longer than any, or cut short.
        Err(error) if matches!(error.kind, ErrorKind::NotFound | ErrorKind::Failed) => Ok(None),
        bytes => bytes.map(Some).map_err(chunkstore::Error::from),
    };
    let (Some(damaged), Some(of)) = (read(&object)?, read(&pack.name.parity())?) else { return Ok(None) };
    let Ok(mut recovered) = parity::recover(&of, &damaged) else { return Ok(None) };
    // If nothing is wrong with its bytes, it is what it stands on.
    if recovered.pack == damaged || !is_authentic(store, pack, &recovered.pack) {
        return Ok(None);
    }
    if !dry_run {
        let bytes = std::mem::take(&mut recovered.pack);
        store.storage().replace(&object, bytes.into()).map_err(chunkstore::Error::from)?;
    }
    Ok(Some(recovered))
}

/// Whether bytes are those of a pack: header, directory and the tag of every chunk.
fn is_authentic(store: &ChunkStore, entry: &PackEntry, bytes: &[u8]) -> bool {
    let read = pack::verify(entry.name, store.keys(), bytes, &mut |_| Ok(None));
    read.is_ok_and(|records| records == entry.records)
}

/// Verifies a whole pack: its tags, and each chunk's content, with its bases.
fn verify(store: &ChunkStore, entry: &PackEntry, bases: &BaseReader, bytes: &[u8]) -> chunkstore::Result<()> {
    if bytes.len() as u64 != entry.len {
        let why = format!("has {} bytes instead of {}", bytes.len(), entry.len);
        return Err(chunkstore::Error::corrupt(entry.name.object(), why));
    }
    // A delta that no snapshot needs may outlive its bases; what snapshots need is looked at by itself.
    let mut prefix = |record: &Record| match bases.stands(store, record)? {
        true => bases.prefix_of(store, record).map(Some),
        false => Ok(None),
    };
    let records = pack::verify(entry.name, store.keys(), bytes, &mut prefix)?;
    if records == entry.records {
        Ok(())
    } else {
        Err(chunkstore::Error::corrupt(entry.name.object(), "its directory is not what the index says"))
    }
}

/// Reads a pack whole. If that fails, finds out which chunks can still be had.
pub(crate) fn read_pack(store: &ChunkStore, entry: &PackEntry, bases: &BaseReader) -> PackResult {
    let object = entry.name.object();
    let all = || entry.records.iter().map(|record| record.id).collect();
    let bytes = match store.storage().get(&object, MAX_PACK_LEN) {
        Ok(bytes) => bytes,
        Err(error) => return PackResult { outcome: Err(error.into()), bad: all(), parity: None },
    };
    let outcome = verify(store, entry, bases, &bytes);
    let mut bad = vec![];
    if outcome.is_err() {
        let tools =
            PackReader::new(entry.name, store.keys()).and_then(|reader| Ok((reader, Decompressor::new()?)));
        let Ok((reader, mut decompressor)) = tools else {
            return PackResult { outcome, bad: all(), parity: None };
        };
        for record in &entry.records {
            let sealed = record.range().and_then(|range| bytes.get(range));
            let opens = match (sealed, bases.prefix_of(store, record)) {
                (Some(sealed), Ok(prefix)) => {
                    reader.open(store.keys(), record, sealed, prefix.bytes(), &mut decompressor).is_ok()
                }
                // A store that fails says nothing about a chunk.
                (_, Err(error)) if !error.is_damage() => {
                    return PackResult { outcome: Err(error), bad: all(), parity: None };
                }
                _ => false,
            };
            if !opens {
                bad.push(record.id);
            }
        }
    }
    let parity = match (&outcome, store.has_parity()) {
        (Ok(()), true) => match store.storage().get(&entry.name.parity(), MAX_PACK_LEN) {
            Ok(object) if parity::matches(&object, &bytes) => None,
            Ok(_) => Some("this parity is damaged, or not that of its pack"),
            Err(error) if error.kind == ErrorKind::NotFound => Some("this parity is missing"),
            // The store's trouble, not the parity's.
            Err(_) => None,
        },
        _ => None,
    };
    PackResult { outcome, bad, parity }
}
