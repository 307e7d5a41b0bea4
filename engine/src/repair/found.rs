//! A pack that no sound segment lists. The reason is unknown: its segment may be damaged, its writer may have died, or
//! a repair may have given it up. So it is read completely before it is listed, and chunks that cannot be read are
//! never listed: the next backup that has them stores them again.

use crate::{Counter, ItemError, Monitor, Result};
use chunkstore::bases::Prefix;
use chunkstore::executor::submit;
use chunkstore::format::{MAX_PACK_LEN, PACK_HEADER_LEN, names};
use chunkstore::head::SegmentRef;
use chunkstore::index::{PackEntry, Segment};
use chunkstore::ingest::Packer;
use chunkstore::pack::{self, PackName, PackReader, Record, read_header};
use chunkstore::parity;
use chunkstore::storage::ErrorKind;
use chunkstore::store::{ChunkStore, describe};
use chunkstore::{ChunkId, Error, PackId, SessionId};
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

/// What was found.
pub(super) enum Found {
    /// Every byte is as it was written.
    Sound(PackEntry),
    /// It is damaged, and this is what its parity makes of it.
    Mended(PackEntry, Vec<u8>),
    /// Its directory can be read, and these of its chunks; why the first of the others cannot.
    Partly(PackEntry, Vec<Record>, Error),
}

/// Reads a pack whole. What is damaged is read once more: damage on the way, unlike that in the store, is gone the
/// second time.
pub(super) fn examine(store: &ChunkStore, session: SessionId, id: PackId) -> chunkstore::Result<Found> {
    match look(store, session, id) {
        Err(error) if error.is_damage() => look(store, session, id),
        Ok(Found::Partly(..)) => look(store, session, id),
        found => found,
    }
}

fn look(store: &ChunkStore, session: SessionId, id: PackId) -> chunkstore::Result<Found> {
    let object = names::pack(&session, &id);
    let bytes = store.storage().get(&object, MAX_PACK_LEN)?;
    let why = match verify(store, session, id, &bytes) {
        Ok(entry) => return Ok(Found::Sound(entry)),
        Err(error) if error.is_damage() => error,
        Err(error) => return Err(error),
    };
    if let Some(whole) = recovered(store, session, id, &bytes)?
        && let Ok(entry) = verify(store, session, id, &whole)
    {
        return Ok(Found::Mended(entry, whole));
    }
    let (reader, records) = pack::read_directory(header(session, id, &bytes)?, store.keys(), &bytes)?;
    let opens = |record: &&Record| {
        let sealed = record.range().and_then(|range| bytes.get(range));
        sealed.is_some_and(|sealed| reader.open_frame(record, sealed).is_ok())
    };
    let sound = records.iter().filter(opens).cloned().collect();
    let entry = PackEntry { name: header(session, id, &bytes)?, len: bytes.len() as u64, records };
    Ok(Found::Partly(entry, sound, why))
}

fn header(session: SessionId, id: PackId, bytes: &[u8]) -> chunkstore::Result<PackName> {
    read_header(session, id, bytes.get(..PACK_HEADER_LEN).unwrap_or(bytes))
}

/// Of deltas only the tag is checked: their bases may not be listed yet, and are checked themselves.
fn verify(store: &ChunkStore, session: SessionId, id: PackId, bytes: &[u8]) -> chunkstore::Result<PackEntry> {
    let name = header(session, id, bytes)?;
    let mut prefix = |record: &Record| Ok(record.bases.is_empty().then_some(Prefix::Empty));
    let records = pack::verify(name, store.keys(), bytes, &mut prefix)?;
    Ok(PackEntry { name, len: bytes.len() as u64, records })
}

/// What parity, if there is any, makes of the bytes of a pack.
fn recovered(
    store: &ChunkStore,
    session: SessionId,
    id: PackId,
    bytes: &[u8],
) -> chunkstore::Result<Option<Vec<u8>>> {
    match store.storage().get(&names::parity(&session, &id), MAX_PACK_LEN) {
        Ok(object) => Ok(parity::recover(&object, bytes).ok().map(|recovered| recovered.pack)),
        Err(error) if matches!(error.kind, ErrorKind::NotFound | ErrorKind::Failed) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Stores chunks of a pack again, as they are.
pub(super) fn store_again<'a>(
    store: &ChunkStore,
    packer: &mut Packer,
    name: &PackName,
    records: impl Iterator<Item = &'a Record>,
) -> Result<()> {
    let bytes = store.storage().get(&name.object(), MAX_PACK_LEN).map_err(Error::from)?;
    let reader = PackReader::new(*name, store.keys())?;
    for record in records {
        let sealed = record.range().and_then(|range| bytes.get(range));
        let changed = || Error::corrupt(name.object(), "it changes while it is read");
        let frame = reader.open_frame(record, sealed.ok_or_else(changed)?)?;
        packer.push(name.kind, record.clone(), &frame)?;
    }
    Ok(())
}

/// What became of all packs that no sound segment lists.
#[derive(Default)]
pub(super) struct News {
    /// What can be listed.
    pub(super) found: Segment,
    /// Packs that parity made whole; unless it is a trial, in their place.
    pub(super) mended: u64,
    /// Packs that cannot be listed, with the chunks of theirs that can be stored again.
    pub(super) partly: Vec<(PackEntry, Vec<Record>)>,
    /// Packs of which nothing can be read.
    pub(super) unreadable: u64,
}

impl News {
    /// Reads packs, some at a time.
    pub(super) fn read(
        &mut self,
        store: &Arc<ChunkStore>,
        packs: Vec<(SessionId, PackId)>,
        dry_run: bool,
        monitor: &dyn Monitor,
    ) -> Result<()> {
        let mut running = VecDeque::new();
        let most = store.access.io.parallelism();
        monitor.count(Counter::FilesTotal, packs.len() as u64);
        let mut packs = packs.into_iter();
        loop {
            for (session, pack) in packs.by_ref().take(most.saturating_sub(running.len())) {
                let of = Arc::clone(store);
                let pending = submit(&*store.access.io, move || examine(&of, session, pack));
                running.push_back((names::pack(&session, &pack), pending));
            }
            let Some((object, pending)) = running.pop_front() else { return Ok(()) };
            self.take(store, object, pending.wait()?, dry_run, monitor)?;
            monitor.count(Counter::FilesDone, 1);
            if monitor.interrupted() {
                return Err(crate::Error::Interrupted);
            }
        }
    }

    fn take(
        &mut self,
        store: &ChunkStore,
        object: String,
        found: chunkstore::Result<Found>,
        dry_run: bool,
        monitor: &dyn Monitor,
    ) -> Result<()> {
        let error = match found {
            Ok(Found::Sound(entry)) => {
                self.found.packs.push(entry);
                return Ok(());
            }
            Ok(Found::Mended(entry, bytes)) => {
                if !dry_run {
                    store.replace_pack(&entry.name, bytes.into())?;
                }
                self.mended += 1;
                self.found.packs.push(entry);
                return Ok(());
            }
            Ok(Found::Partly(entry, sound, why)) => {
                self.partly.push((entry, sound));
                why
            }
            Err(error) if error.is_damage() || matches!(error, Error::Unsupported { .. }) => {
                self.unreadable += 1;
                error
            }
            Err(error) => return Err(error.into()),
        };
        monitor.error(ItemError { during: "repair", item: object, message: describe(&error) });
        Ok(())
    }

    /// Of packs that cannot be listed, leaves out the chunks that stay, or come, listed elsewhere. Returns how many
    /// chunks are lost: neither there nor to be stored again.
    pub(super) fn leave_what_is_elsewhere(&mut self, store: &ChunkStore, kept: &[SegmentRef]) -> Result<u64> {
        if self.partly.is_empty() {
            return Ok(0);
        }
        let mut wanted: HashSet<ChunkId> =
            self.partly.iter().flat_map(|(entry, _)| &entry.records).map(|record| record.id).collect();
        // One that stands on its own is as good as any; of deltas, one that stands on the same is as good.
        let mut there: HashMap<ChunkId, Vec<Vec<ChunkId>>> = HashMap::new();
        let mut see = |segment: &Segment| {
            for record in segment.packs.iter().flat_map(|pack| &pack.records) {
                if wanted.contains(&record.id) {
                    there.entry(record.id).or_default().push(record.bases.clone());
                }
            }
        };
        see(&self.found);
        for reference in kept {
            see(&store.load_segment(reference)?);
        }
        for (_, sound) in &mut self.partly {
            sound.retain(|record| {
                let others = there.get(&record.id).into_iter().flatten();
                let stands = others.into_iter().any(|bases| bases.is_empty() || *bases == record.bases);
                !stands && wanted.remove(&record.id)
            });
        }
        Ok(wanted.iter().filter(|id| !there.contains_key(id)).count() as u64)
    }
}
