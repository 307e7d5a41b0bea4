//! Copying what is owed to a tier. Whole packs, where most of a pack is needed there; else the chunks that are
//! needed, sealed anew, on their own. The tier's HEAD names a snapshot only when every chunk of it has a location
//! that counts in the tier's own index. Interrupted, it goes on where it stopped: packs keep their names.

use super::Tier;
use super::map::{DAY_MS, Placed, TierMap};
use crate::promise::Until;
use crate::reach::{ShortId, for_each_chunk, short};
use crate::snapshot::Listed;
use crate::{Counter, Error, ItemError, Monitor, Repository, Result};
use chunkstore::bases::{ground, ground_everywhere};
use chunkstore::executor::{Pending, submit};
use chunkstore::format::{PackKind, SEGMENT_CHUNKS, names};
use chunkstore::head::{Root, SegmentRef};
use chunkstore::index::{PackEntry, Segment};
use chunkstore::ingest::{Again, ChunkRef, Dedupe, Packer, PackerOptions, Sealing};
use chunkstore::reader::{Fetched, ReadAhead};
use chunkstore::seal::Compression;
use chunkstore::storage::shelf::Placing;
use chunkstore::store::{ChunkStore, MAP_ROOT, TierCommit, describe};
use chunkstore::{ChunkId, ObjectId, PackId, SessionId};
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

/// A pack is copied whole to a frozen tier if at least this share of it is needed there: the rest would be paid
/// for, and could never be repacked away.
const FROZEN_SHARE: f64 = 0.5;
/// To others if at least this share is: what is sealed anew stands on its own, and is larger for it.
const COPY_SHARE: f64 = 0.25;
/// A checkpoint is due after so many bytes.
const CHECKPOINT_LEN: u64 = 2 << 30;
/// Packs on their way may hold this many bytes together.
const IN_FLIGHT_BYTES: u64 = 256 << 20;
/// Ids looked up at a time.
const LOOKUP: usize = 1024;
/// What is promised for ever is locked for a year at a time, in steps of a month.
const FOREVER_DAYS: u64 = 365;
const STEP_S: u64 = 30 * DAY_MS / 1000;
/// Packs that are sealed anew for a frozen tier: few objects, since each costs by itself to thaw.
const FROZEN_PACK_LEN: usize = 128 << 20;

/// A snapshot that is promised to a tier.
#[derive(Clone, Debug)]
pub struct Owed {
    /// The snapshot.
    pub listed: Listed,
    /// Until when.
    pub until: Until,
}

/// Choices for a sync.
#[derive(Clone, Copy, Debug, Default)]
pub struct SyncOptions {
    /// Only find out what would be copied.
    pub dry_run: bool,
    /// How chunks are compressed that are sealed anew.
    pub compression: Compression,
}

/// What a sync did.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct SyncReport {
    /// The tier.
    pub tier: String,
    /// Snapshots that are there now and were not before.
    pub snapshots: u64,
    /// Packs that were copied whole.
    pub packs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Packs that an interrupted sync had left there.
    pub packs_resumed: u64,
    /// Chunks that were sealed anew.
    pub chunks_rewritten: u64,
    /// Bytes of the packs that they went into.
    pub bytes_rewritten: u64,
    /// Packs whose lock was extended.
    pub locks_extended: u64,
    /// Snapshots that could not be copied, with the reason; they are still owed.
    pub failed: Vec<(ObjectId, String)>,
}

/// Attempts, when a prune of the primary changes what there is to copy.
const ATTEMPTS: u32 = 4;

/// Copies `owed` snapshots from the primary to a tier, and extends the locks of what they and `kept` ones, which
/// are there already, need.
pub fn sync(
    primary: &Repository,
    tier: &Tier,
    owed: &[Owed],
    kept: &[Owed],
    options: &SyncOptions,
    monitor: &dyn Monitor,
) -> Result<SyncReport> {
    let (from, to) = (primary.store(), tier.repo.store());
    tier.clear()?;
    let mut attempt = 1;
    loop {
        let head = from.reload()?;
        for store in [from, to] {
            if let Some((segment, why)) = store.sync_index()?.first() {
                return Err(Error::Refused(format!(
                    "{}/index/{segment} is damaged ({why}); run 'esker repair index' there first",
                    store.storage().place()
                )));
            }
        }
        let session = if options.dry_run { SessionId([0; 16]) } else { to.open_session("sync")? };
        let mut work = Sync::new(primary, tier, session, options, monitor)?;
        let done = work.run(owed, kept);
        if done.is_err() && !options.dry_run {
            // What was copied is listed all the same, so that the next sync need not repeat it.
            let segments = work.unlisted()?;
            to.close_session(&session, &segments)?;
        }
        match done {
            Err(Error::Store(error))
                if error.is_damage()
                    && attempt < ATTEMPTS
                    && from.reload()?.generation != head.generation =>
            {
                attempt += 1;
            }
            done => return done.map(|()| work.report),
        }
    }
}

/// What of a pack is needed on the tier.
#[derive(Default)]
struct Need {
    chunks: BTreeSet<u32>,
    bytes: u64,
    /// Until when, in seconds since the Unix epoch; 0 if it need not be locked.
    until: u64,
}

struct Sync<'a> {
    primary: &'a Repository,
    tier: &'a Tier,
    session: SessionId,
    options: &'a SyncOptions,
    monitor: &'a dyn Monitor,
    report: SyncReport,
    map: TierMap,
    changes: TierMap,
    /// Chunks that were looked at.
    visited: HashSet<ShortId>,
    /// Of the primary's packs, what is needed.
    needs: HashMap<PackId, Need>,
    /// Packs of the tier that are needed, and until when.
    locks: HashMap<PackId, u64>,
    /// What lies on the tier, but no HEAD lists yet.
    finished: Segment,
    finished_bytes: u64,
}

impl<'a> Sync<'a> {
    fn new(
        primary: &'a Repository,
        tier: &'a Tier,
        session: SessionId,
        options: &'a SyncOptions,
        monitor: &'a dyn Monitor,
    ) -> Result<Self> {
        let report = SyncReport { tier: tier.options.name.clone(), ..SyncReport::default() };
        Ok(Self {
            primary,
            tier,
            session,
            options,
            monitor,
            report,
            map: TierMap::read(tier.repo.store())?,
            changes: TierMap::default(),
            visited: HashSet::new(),
            needs: HashMap::new(),
            locks: HashMap::new(),
            finished: Segment::default(),
            finished_bytes: 0,
        })
    }

    fn from(&self) -> &'a Arc<ChunkStore> {
        self.primary.store()
    }

    fn to(&self) -> &'a Arc<ChunkStore> {
        self.tier.repo.store()
    }

    fn now_s(&self) -> u64 {
        self.to().now_ms() / 1000
    }

    fn run(&mut self, owed: &[Owed], kept: &[Owed]) -> Result<()> {
        let roots = self.primary.snapshot_roots();
        // Those that are kept longest first: a chunk is looked at once, with the longest time that it is needed.
        let mut order: Vec<&Owed> = owed.iter().collect();
        order.sort_by_key(|owed| std::cmp::Reverse(owed.until));
        let mut going: Vec<(Root, u64)> = vec![];
        for owed in order {
            let Some(root) = roots.iter().find(|root| root.id == owed.listed.id) else { continue };
            let until = self.lock_until(owed.until);
            match self.gather(&owed.listed, until) {
                Ok(()) => going.push((root.clone(), until)),
                Err(Error::Store(error)) if !error.is_damage() => return Err(error.into()),
                Err(Error::Interrupted) => return Err(Error::Interrupted),
                Err(error) => self.fail(owed.listed.id, &error),
            }
        }
        self.close_under_bases()?;
        let mut entries = self.whole_packs()?;
        self.count(&entries);
        if self.options.dry_run {
            self.report.snapshots = going.len() as u64;
            self.report.packs = entries.len() as u64;
            self.report.bytes = entries.iter().map(|(entry, _)| entry.len).sum();
            return Ok(());
        }
        // Metadata last: what a reader meets first is there last.
        entries.sort_by_key(|(entry, _)| entry.name.kind == PackKind::Metadata);
        self.copy_packs(entries)?;
        self.checkpoint()?;
        let until = going.iter().map(|(_, until)| *until).max().unwrap_or_default();
        let segments = self.rewrite_the_rest(until)?;
        let head = self.from().reload()?;
        self.from().copy_slots(&head, &**self.to().storage())?;
        self.extend_locks(kept)?;
        self.commit(going, segments)
    }

    fn fail(&mut self, snapshot: ObjectId, error: &Error) {
        let message = describe(error);
        let item = format!("snapshot {}", snapshot.short());
        self.monitor.error(ItemError { during: "sync", item, message: message.clone() });
        self.report.failed.push((snapshot, message));
    }

    /// Until when what a snapshot needs is to be locked, in seconds since the Unix epoch; 0 for not at all.
    fn lock_until(&self, until: Until) -> u64 {
        let Some(days) = self.tier.options.lock_days else { return 0 };
        let least = self.now_s() + u64::from(days) * DAY_MS / 1000;
        match until {
            Until::Time(_) => until.seconds().unwrap_or_default().max(least),
            Until::Forever => (self.now_s() / STEP_S * STEP_S + FOREVER_DAYS * DAY_MS / 1000).max(least),
            Until::Open => least,
        }
    }

    /// Finds out what a snapshot needs that is not on the tier yet.
    fn gather(&mut self, listed: &Listed, until: u64) -> Result<()> {
        let mut batch: Vec<ChunkId> = vec![];
        let mut outcome = Ok(());
        let from = self.from();
        for_each_chunk(from, listed, &mut |chunk| {
            if outcome.is_ok() && self.visited.insert(short(&chunk.id)) {
                batch.push(chunk.id);
                if batch.len() >= LOOKUP {
                    outcome = self.resolve(&std::mem::take(&mut batch), until, u8::MAX);
                }
            }
        })?;
        outcome?;
        self.resolve(&batch, until, u8::MAX)?;
        if self.monitor.interrupted() { Err(Error::Interrupted) } else { Ok(()) }
    }

    /// Where chunks are: on the tier, with a location of less than `depth`, or in packs of the primary.
    fn resolve(&mut self, ids: &[ChunkId], until: u64, depth: u8) -> Result<()> {
        if ids.is_empty() {
            return Ok(());
        }
        let mut lacking = vec![];
        for (id, grounded) in ids.iter().zip(ground(&**self.to().index(), ids, &HashSet::new())?) {
            match grounded {
                Some(grounded) if grounded.location.record.depth < depth => {
                    for pack in grounded.packs {
                        let there = self.locks.entry(pack).or_default();
                        *there = until.max(*there);
                    }
                }
                _ => lacking.push(*id),
            }
        }
        let found = ground(&**self.from().index(), &lacking, &HashSet::new())?;
        let lost: Vec<ChunkId> =
            lacking.iter().zip(&found).filter(|(_, found)| found.is_none()).map(|(id, _)| *id).collect();
        let elsewhere = ground_everywhere(self.from(), &lost, &HashSet::new())?;
        for (id, found) in lost.iter().zip(&elsewhere) {
            if found.is_none() {
                return Err(chunkstore::Error::MissingChunk { id: *id }.into());
            }
        }
        for grounded in found.into_iter().chain(elsewhere).flatten() {
            let record = &grounded.location.record;
            let need = self.needs.entry(grounded.location.pack.name.id).or_default();
            if need.chunks.insert(record.ordinal) {
                need.bytes += u64::from(record.stored_len);
            }
            need.until = need.until.max(until);
        }
        Ok(())
    }

    /// Whether so much of a pack is needed that all of it is copied. Metadata stays readable and is small.
    fn goes_whole(&self, entry: &PackEntry) -> Option<u64> {
        let need = self.needs.get(&entry.name.id)?;
        let share = match entry.name.kind {
            PackKind::Data if self.tier.frozen => FROZEN_SHARE,
            _ => COPY_SHARE,
        };
        (need.bytes as f64 >= share * entry.len as f64).then_some(need.until)
    }

    /// Every segment of the primary, one at a time.
    fn for_each_entry(&self, each: &mut dyn FnMut(PackEntry) -> Result<()>) -> Result<()> {
        for reference in &self.from().head().segments {
            let Some(segment) = self.from().load_live_segment(reference)? else {
                let why = format!("index segment {} was replaced", reference.id.short());
                return Err(chunkstore::Error::corrupt(names::segment(&reference.id), why).into());
            };
            for entry in segment.packs {
                each(entry)?;
            }
        }
        Ok(())
    }

    /// What goes whole needs what it stands on there, too.
    fn close_under_bases(&mut self) -> Result<()> {
        loop {
            let mut open: Vec<(ChunkId, u64, u8)> = vec![];
            self.for_each_entry(&mut |entry| {
                let (Some(_), Some(need)) = (self.goes_whole(&entry), self.needs.get(&entry.name.id)) else {
                    return Ok(());
                };
                let needed = need.chunks.iter().filter_map(|ordinal| entry.records.get(*ordinal as usize));
                for record in needed.filter(|record| record.is_delta()) {
                    open.extend(record.bases.iter().map(|base| (*base, need.until, record.depth)));
                }
                Ok(())
            })?;
            open.retain(|(id, _, _)| self.visited.insert(short(id)));
            if open.is_empty() {
                return Ok(());
            }
            for (id, until, depth) in open {
                self.resolve(&[id], until, depth)?;
            }
        }
    }

    /// The packs that are copied whole, with until when they are needed.
    fn whole_packs(&self) -> Result<Vec<(PackEntry, u64)>> {
        let there: HashSet<PackId> = self.to().index().packs().iter().map(|pack| pack.name.id).collect();
        let mut entries = vec![];
        let mut seen = HashSet::new();
        self.for_each_entry(&mut |entry| {
            if let Some(until) = self.goes_whole(&entry)
                && !there.contains(&entry.name.id)
                && seen.insert(entry.name.id)
            {
                entries.push((entry, until));
            }
            Ok(())
        })?;
        Ok(entries)
    }

    fn count(&self, entries: &[(PackEntry, u64)]) {
        self.monitor.count(Counter::FilesTotal, entries.len() as u64);
        self.monitor.count(Counter::BytesTotal, entries.iter().map(|(entry, _)| entry.len).sum());
    }

    fn placing(&self, kind: PackKind, until: u64) -> Placing {
        let locked_until = (until > 0).then_some(until);
        Placing { locked_until, ..self.to().placing(kind).clone() }
    }

    fn copy_packs(&mut self, entries: Vec<(PackEntry, u64)>) -> Result<()> {
        // What an interrupted sync has left is there whole: stores show nothing else.
        let mut lengths: HashMap<String, u64> = HashMap::new();
        if !entries.is_empty() {
            let list = self.to().storage().list(names::PACKS, &mut |name, len| {
                lengths.insert(name.to_owned(), len);
            });
            list.map_err(chunkstore::Error::from)?;
        }
        let mut running: VecDeque<(PackEntry, Placing, Pending<chunkstore::Result<()>>)> = VecDeque::new();
        let mut flying = 0;
        for (entry, until) in entries {
            let placing = self.placing(entry.name.kind, until);
            if lengths.get(&entry.name.object()) == Some(&entry.len) {
                if until > 0 {
                    self.locks.insert(entry.name.id, until);
                }
                self.report.packs_resumed += 1;
                self.take(entry, Placing { locked_until: None, ..placing })?;
                continue;
            }
            while running.len() >= self.to().storage().connections().max(2)
                || !running.is_empty() && flying + entry.len > IN_FLIGHT_BYTES
            {
                flying -= self.finish_one(&mut running)?;
            }
            flying += entry.len;
            let (from, to) = (Arc::clone(self.from()), Arc::clone(self.to()));
            let (wanted, how) = (entry.clone(), placing.clone());
            let copy = submit(&*self.to().access.io, move || {
                let bytes = from.read_authentic(&wanted)?;
                to.put_pack_as(&wanted.name, bytes, &how)
            });
            running.push_back((entry, placing, copy));
            if self.monitor.interrupted() {
                return Err(Error::Interrupted);
            }
        }
        while !running.is_empty() {
            self.finish_one(&mut running)?;
        }
        Ok(())
    }

    fn finish_one(
        &mut self,
        running: &mut VecDeque<(PackEntry, Placing, Pending<chunkstore::Result<()>>)>,
    ) -> Result<u64> {
        let Some((entry, placing, copy)) = running.pop_front() else { return Ok(0) };
        let len = entry.len;
        copy.wait()??;
        self.report.packs += 1;
        self.report.bytes += len;
        self.take(entry, placing)?;
        Ok(len)
    }

    /// A pack is on the tier.
    fn take(&mut self, entry: PackEntry, placing: Placing) -> Result<()> {
        self.monitor.count(Counter::FilesDone, 1);
        self.monitor.count(Counter::BytesDone, entry.len);
        let placed = Placed {
            since_ms: self.to().now_ms(),
            len: entry.len,
            class: placing.class,
            locked_until: placing.locked_until,
        };
        self.changes.packs.insert(entry.name.id, placed);
        self.finished_bytes += entry.len;
        self.finished.packs.push(entry);
        if self.finished.chunk_count() >= SEGMENT_CHUNKS || self.finished_bytes >= CHECKPOINT_LEN {
            self.checkpoint()?;
        }
        Ok(())
    }

    /// The segments that list what HEAD does not, yet.
    fn unlisted(&mut self) -> Result<Vec<SegmentRef>> {
        self.finished_bytes = 0;
        let segment = std::mem::take(&mut self.finished);
        if segment.packs.is_empty() { Ok(vec![]) } else { Ok(vec![self.to().write_segment(&segment)?]) }
    }

    fn checkpoint(&mut self) -> Result<()> {
        let segments = self.unlisted()?;
        if !segments.is_empty() {
            self.to().checkpoint(&self.session, &segments)?;
            self.to().sync_index()?;
        }
        Ok(())
    }

    /// What came with no pack, or does not count where it came to lie, is sealed anew.
    fn rewrite_the_rest(&mut self, until: u64) -> Result<Vec<SegmentRef>> {
        let lacking = self.lacking()?;
        if lacking.is_empty() {
            return Ok(vec![]);
        }
        let (from, to) = (self.from(), self.to());
        let sealing = Sealing { compression: self.options.compression, delta: false };
        let dedupe = Dedupe::new(Arc::clone(to), sealing);
        let pack_len = if self.tier.frozen { FROZEN_PACK_LEN } else { PackerOptions::default().pack_len };
        let mut packer =
            Packer::new(&dedupe, self.session, PackerOptions { pack_len, ..PackerOptions::default() })?;
        let mut ahead: ReadAhead<(ChunkId, u64, PackKind)> = ReadAhead::new(from);
        let mut store = |ahead: &mut ReadAhead<_>, packer: &mut Packer| -> Result<bool> {
            let Some(batch) = ahead.take()? else { return Ok(false) };
            let mut chunks = vec![];
            let mut kinds = vec![];
            for fetched in batch {
                let Fetched::Chunk(plain, (id, anchor, kind)) = fetched else { continue };
                chunks.push(Again { id, anchor, plain: plain?, choice: None });
                kinds.push(kind);
            }
            self.report.chunks_rewritten += chunks.len() as u64;
            for ((record, frame), kind) in dedupe.seal_again(chunks)?.into_iter().zip(kinds) {
                packer.push(kind, record, &frame)?;
            }
            Ok(true)
        };
        for (chunk, anchor, kind) in lacking {
            ahead.request(chunk, (chunk.id, anchor, kind))?;
            while ahead.is_full() && store(&mut ahead, &mut packer)? {}
            if self.monitor.interrupted() {
                return Err(Error::Interrupted);
            }
        }
        while store(&mut ahead, &mut packer)? {}
        let segments = packer.flush()?;
        self.report.bytes_rewritten += packer.written().stored_bytes;
        for reference in &segments {
            for pack in to.load_segment(reference)?.packs {
                let class = to.placing(pack.name.kind).class.clone();
                let placed = Placed { since_ms: to.now_ms(), len: pack.len, class, locked_until: None };
                self.changes.packs.insert(pack.name.id, placed);
                if until > 0 {
                    self.locks.insert(pack.name.id, until);
                }
            }
        }
        Ok(segments)
    }

    /// Chunks without a location on the tier that counts, in the order in which they lie in the primary.
    fn lacking(&self) -> Result<Vec<(ChunkRef, u64, PackKind)>> {
        let mut lacking = vec![];
        let mut ids: Vec<ChunkId> = vec![];
        self.for_each_entry(&mut |entry| {
            if let Some(need) = self.needs.get(&entry.name.id) {
                let needed = need.chunks.iter().filter_map(|ordinal| entry.records.get(*ordinal as usize));
                for record in needed {
                    ids.push(record.id);
                    let chunk = ChunkRef { id: record.id, len: record.plain_len };
                    lacking.push((chunk, record.anchor, entry.name.kind));
                }
            }
            Ok(())
        })?;
        let to = self.to();
        let mut counts = Vec::with_capacity(ids.len());
        for ids in ids.chunks(LOOKUP) {
            let found = ground(&**to.index(), ids, &HashSet::new())?;
            counts.extend(found.into_iter().map(|found| found.is_some()));
        }
        let lost: Vec<ChunkId> =
            ids.iter().zip(&counts).filter(|(_, counts)| !**counts).map(|(id, _)| *id).collect();
        let elsewhere = ground_everywhere(to, &lost, &HashSet::new())?;
        let still: HashSet<ChunkId> =
            lost.into_iter().zip(elsewhere).filter(|(_, found)| found.is_none()).map(|(id, _)| id).collect();
        let mut once = HashSet::new();
        lacking.retain(|(chunk, _, _)| still.contains(&chunk.id) && once.insert(chunk.id));
        Ok(lacking)
    }

    /// Locks last as long as what they are for is promised.
    fn extend_locks(&mut self, kept: &[Owed]) -> Result<()> {
        if self.tier.options.lock_days.is_none() {
            return Ok(());
        }
        let to = self.to();
        for Owed { listed, until } in kept {
            let until = match until {
                Until::Open => continue,
                _ => self.lock_until(*until),
            };
            if self.map.locked.get(&listed.id).is_some_and(|there| *there >= until) {
                continue;
            }
            let mut ids: Vec<ChunkId> = vec![];
            for_each_chunk(to, listed, &mut |chunk| ids.push(chunk.id))?;
            for ids in ids.chunks(LOOKUP) {
                for grounded in ground(&**to.index(), ids, &HashSet::new())?.into_iter().flatten() {
                    for pack in grounded.packs {
                        let there = self.locks.entry(pack).or_default();
                        *there = until.max(*there);
                    }
                }
            }
            self.lock(&names::snapshot(&listed.id), until)?;
            self.changes.locked.insert(listed.id, until);
        }
        // Without these, nothing of it could be read.
        let longest = self.map.locked.values().chain(self.changes.locked.values()).copied();
        if let Some(until) = longest.chain(self.locks.values().copied()).max().filter(|until| *until > 0) {
            let head = self.from().head();
            for name in head.slots.keys().map(names::key).chain([names::CONFIG.to_owned()]) {
                self.lock(&name, until)?;
            }
        }
        let names: HashMap<PackId, (String, u64)> =
            to.index().packs().iter().map(|pack| (pack.name.id, (pack.name.object(), pack.len))).collect();
        for (pack, until) in std::mem::take(&mut self.locks) {
            let known = self.changes.packs.get(&pack).or_else(|| self.map.packs.get(&pack)).cloned();
            if known.as_ref().and_then(|placed| placed.locked_until).is_some_and(|there| there >= until) {
                continue;
            }
            let written = self.changes.packs.contains_key(&pack);
            let Some((name, len)) = names.get(&pack).cloned().or_else(|| self.fresh_name(&pack)) else {
                continue;
            };
            self.lock(&name, until)?;
            self.report.locks_extended += u64::from(!written);
            let placed = known.unwrap_or_else(|| Placed { since_ms: to.now_ms(), len, ..Placed::default() });
            self.changes.packs.insert(pack, Placed { locked_until: Some(until), ..placed });
        }
        Ok(())
    }

    /// The object of a pack that this session wrote.
    fn fresh_name(&self, pack: &PackId) -> Option<(String, u64)> {
        let placed = self.changes.packs.get(pack)?;
        Some((names::pack(&self.session, pack), placed.len))
    }

    fn lock(&self, name: &str, until: u64) -> Result<()> {
        match self.to().storage().shelf() {
            Some(shelf) => Ok(shelf.lock(name, until).map_err(chunkstore::Error::from)?),
            None => Ok(()),
        }
    }

    /// Everything is durable; one swap makes it count.
    fn commit(&mut self, going: Vec<(Root, u64)>, segments: Vec<SegmentRef>) -> Result<()> {
        let (from, to) = (self.from(), self.to());
        let head = from.head();
        for (root, until) in &going {
            let until = (*until > 0).then_some(*until);
            to.copy_snapshot(root, from, until)?;
            if let Some(until) = until {
                self.changes.locked.insert(root.id, until);
            }
        }
        // In the order of their commits, which decides about ages (promise.rs).
        let order: HashMap<ObjectId, usize> =
            head.roots.iter().enumerate().map(|(place, root)| (root.id, place)).collect();
        let mut roots: Vec<Root> = going.into_iter().map(|(root, _)| root).collect();
        roots.sort_by_key(|root| order.get(&root.id).copied().unwrap_or(usize::MAX));
        self.report.snapshots = roots.len() as u64;
        let (maps, gone) = std::mem::take(&mut self.map).write(std::mem::take(&mut self.changes), to)?;
        to.commit_tier(&self.session, &head, &TierCommit { segments, roots, maps })?;
        to.sync_index()?;
        for map in gone {
            to.storage().delete(&names::map(&map)).map_err(chunkstore::Error::from)?;
        }
        debug_assert!(to.head().roots.iter().all(|root| root.kind == MAP_ROOT || root.kind == "snapshot"));
        // Every swap leaves an old HEAD where the store keeps versions.
        if let Some(shelf) = to.storage().shelf()
            && self.tier.options.lock_days.is_some()
            && let Err(error) = shelf.remove_hidden(names::HEAD)
        {
            tracing::debug!(%error, "old versions of HEAD stay");
        }
        Ok(())
    }
}
