//! Copying what is owed to a tier. Whole packs, where most of a pack is needed there; else the chunks that are
//! needed, sealed anew, on their own. The tier's HEAD names a snapshot only when every chunk of it has a location
//! that counts in the tier's own index. Interrupted, it goes on where it stopped: packs keep their names.

use super::Tier;
use super::map::{Placed, TierMap};
use crate::manifest::lists::KnownLists;
use crate::promise::Until;
use crate::reach::{ShortId, repair_index};
use crate::snapshot::Listed;
use crate::{Counter, Error, ItemError, Monitor, Repository, Result};
use chunkstore::executor::{Pending, submit};
use chunkstore::format::{PackKind, SEGMENT_CHUNKS, names};
use chunkstore::head::{Head, Root, SegmentRef};
use chunkstore::index::{PackEntry, Segment};
use chunkstore::seal::Compression;
use chunkstore::storage::ErrorKind;
use chunkstore::storage::shelf::Placing;
use chunkstore::store::{ChunkStore, LostPacks, TierCommit, describe};
use chunkstore::{ObjectId, PackId, SessionId};
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

mod locks;
mod needs;
mod rewrite;

/// A checkpoint is due after so many bytes.
const CHECKPOINT_LEN: u64 = 2 << 30;
/// Packs on their way may hold this many bytes together.
const IN_FLIGHT_BYTES: u64 = 256 << 20;

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
    /// Copy again what is there under an earlier epoch only, of all snapshots that are there; and set all locks anew.
    pub renew: bool,
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
    /// Packs that are listed there, are not there as they should be, and that nothing that was copied needs: what was
    /// copied before may need them.
    pub packs_lost: u64,
    /// Snapshots that could not be copied, with the reason; they are still owed.
    pub failed: Vec<(ObjectId, String)>,
}

/// Attempts, when a prune of the primary changes what there is to copy.
const ATTEMPTS: u32 = 4;

/// Refuses a tier that has what was sealed under a `retired` epoch: it was given up, or an older state of it came back.
fn refuse_retired(tier: &Tier, retired: u32) -> Result<()> {
    let (store, name) = (tier.repo.store(), &tier.options.name);
    let needs = store.reload()?.needs(retired)?;
    let count = needs.segments + needs.roots;
    if retired == 0 || count == 0 {
        return Ok(());
    }
    Err(Error::Refused(format!(
        "{count} records and index segments there are sealed under epoch {retired} or an earlier one. These are retired, so \
         nobody reads them: the tier was given up ('--lost-tier'), or an older state of it came back. Remove all that is at \
         {}, then 'esker tier init {name}' makes it again (with --again, if it asks for that), and 'esker tier sync' fills it",
        store.storage().place()
    )))
}

/// Copies `owed` snapshots to a tier, from the primary or from another tier that has them, and extends the locks of what
/// they and `kept` ones, which are there already, need. What HEAD says besides, key slots among it, is the primary's.
pub fn sync(
    primary: &Repository,
    source: &Repository,
    tier: &Tier,
    owed: &[Owed],
    kept: &[Owed],
    options: &SyncOptions,
    monitor: &dyn Monitor,
) -> Result<SyncReport> {
    let (from, to) = (source.store(), tier.repo.store());
    if !options.dry_run {
        tier.clear()?;
    }
    let mut attempt = 1;
    loop {
        let _in_it = tracing::info_span!("sync", tier = to.storage().place(), attempt).entered();
        // The session comes first: an epoch that is retired from then on is none that is copied, since whoever retires it finds
        // the session; one that was retired before is not in the HEAD that is read next.
        let session = if options.dry_run {
            SessionId([0; 16])
        } else {
            primary.store().take_in_epochs(&to.head())?;
            to.open_sync(primary.store(), &*primary.store().reload()?)?
        };
        let close = || {
            if !options.dry_run
                && let Err(second) = to.close_session(&session, &[])
            {
                tracing::debug!(%second, "could not close the session of a sync that did not begin");
            }
        };
        let (head, lost_from, lost) = in_step(tier, from).inspect_err(|_| close())?;
        let work = Sync::new((primary, source), tier, session, options, monitor);
        let mut work = work.inspect_err(|_| close())?;
        (work.lost_from, work.lost) = (lost_from.ids(), lost);
        work.find_old().inspect_err(|_| close())?;
        let done = work.compare_clocks().and_then(|()| work.run(owed, kept));
        if done.is_err() && !options.dry_run {
            // What was copied is listed all the same, so that the next sync need not repeat it.
            // The first error is the one to tell.
            let kept = work.unlisted().and_then(|segments| Ok(to.close_session(&session, &segments)?));
            if let Err(second) = kept {
                tracing::debug!(%second, "could not keep what was copied");
            }
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

/// HEAD of the source, and the packs that the source and the tier have lost. The indexes of both are in step.
fn in_step(tier: &Tier, from: &ChunkStore) -> Result<(Arc<Head>, LostPacks, LostPacks)> {
    let to = tier.repo.store();
    let head = from.reload()?;
    refuse_retired(tier, from.keys().retired())?;
    for store in [from, to] {
        if let Some((segment, why)) = store.sync_index()?.first() {
            return Err(Error::Refused(format!(
                "{}/index/{segment} is damaged ({why}); run {} first",
                store.storage().place(),
                repair_index(store)
            )));
        }
        segments_are_there(store)?;
    }
    Ok((head, from.lost_packs(Duration::ZERO)?, to.lost_packs(Duration::ZERO)?))
}

/// What the local index knows it need not fetch, and so would not miss: whether the segments that HEAD names are there.
fn segments_are_there(store: &ChunkStore) -> Result<()> {
    let mut there: HashSet<String> = HashSet::new();
    let list = store.storage().list(names::INDEX, &mut |name, _| {
        there.insert(name.to_owned());
    });
    list.map_err(chunkstore::Error::from)?;
    for segment in store.head().segment_ids()? {
        let name = names::segment(&segment);
        if there.contains(&name) {
            continue;
        }
        // A listing may leave things out.
        match store.storage().len(&name) {
            Ok(_) => {}
            // Replaced by a prune meanwhile?
            Err(error) if error.kind == ErrorKind::NotFound => {
                if store.reload()?.segment_ids()?.contains(&segment) {
                    return Err(Error::Refused(format!(
                        "{}/{name} is missing; run {} first",
                        store.storage().place(),
                        repair_index(store)
                    )));
                }
            }
            Err(error) => return Err(chunkstore::Error::from(error).into()),
        }
    }
    Ok(())
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
    /// Where it is copied from.
    source: &'a Repository,
    tier: &'a Tier,
    session: SessionId,
    options: &'a SyncOptions,
    monitor: &'a dyn Monitor,
    report: SyncReport,
    map: TierMap,
    changes: TierMap,
    /// Chunks that were looked at.
    visited: HashSet<ShortId>,
    /// Chunks of manifests all of whose content was looked at.
    lists: KnownLists,
    /// Of the primary's packs, what is needed.
    needs: HashMap<PackId, Need>,
    /// Packs of the tier that are needed, and until when.
    locks: HashMap<PackId, u64>,
    /// Packs of the primary that are not there as they should be.
    lost_from: HashSet<PackId>,
    /// Those of the tier.
    lost: LostPacks,
    /// Packs of the tier under earlier epochs than it was moved to, or is to be.
    old: HashSet<PackId>,
    /// By how many seconds this machine's clock is behind the store's, by which locks end.
    behind_s: u64,
    /// What lies on the tier, but no HEAD lists yet.
    finished: Segment,
    finished_bytes: u64,
}

impl<'a> Sync<'a> {
    fn new(
        (primary, source): (&'a Repository, &'a Repository),
        tier: &'a Tier,
        session: SessionId,
        options: &'a SyncOptions,
        monitor: &'a dyn Monitor,
    ) -> Result<Self> {
        let report = SyncReport { tier: tier.options.name.clone(), ..SyncReport::default() };
        Ok(Self {
            primary,
            source,
            tier,
            session,
            options,
            monitor,
            report,
            map: TierMap::read(tier.repo.store())?,
            changes: TierMap::default(),
            visited: HashSet::new(),
            lists: KnownLists::new(),
            needs: HashMap::new(),
            locks: HashMap::new(),
            lost_from: HashSet::new(),
            lost: LostPacks::none(),
            old: HashSet::new(),
            behind_s: 0,
            finished: Segment::default(),
            finished_bytes: 0,
        })
    }

    fn from(&self) -> &'a Arc<ChunkStore> {
        self.source.store()
    }

    fn to(&self) -> &'a Arc<ChunkStore> {
        self.tier.repo.store()
    }

    fn now_s(&self) -> u64 {
        self.to().now_ms() / 1000 + self.behind_s
    }

    fn run(&mut self, owed: &[Owed], kept: &[Owed]) -> Result<()> {
        let roots = self.source.snapshot_roots()?;
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
        if self.options.renew {
            for kept in kept.iter().filter(|kept| roots.iter().any(|root| root.id == kept.listed.id)) {
                self.gather(&kept.listed, self.lock_until(kept.until))?;
            }
        }
        self.close_under_bases()?;
        let mut entries = self.whole_packs()?;
        self.count(&entries);
        if self.options.dry_run {
            self.report.snapshots = going.len() as u64;
            self.report.packs = entries.len() as u64;
            self.report.bytes = entries.iter().map(|(entry, _)| entry.len).sum();
            self.report.packs_lost = self.lost.len() as u64;
            return Ok(());
        }
        // Keys may have been rotated again: before anything is there that is sealed under a key which slots there lack.
        let primary = self.primary.store();
        primary.take_in_epochs(&self.to().head())?;
        primary.copy_grants(&*primary.reload()?, &**self.to().storage())?;
        // Metadata last: what a reader meets first is there last.
        entries.sort_by_key(|(entry, _)| entry.name.kind == PackKind::Metadata);
        self.copy_packs(entries)?;
        self.report.packs_lost = self.lost.len() as u64;
        self.checkpoint()?;
        let mut until = going.iter().map(|(_, until)| *until).max().unwrap_or_default();
        if self.options.renew {
            until = kept.iter().map(|kept| self.lock_until(kept.until)).max().unwrap_or_default().max(until);
        }
        let segments = self.rewrite_the_rest(until)?;
        self.from().reload()?;
        let head = primary.reload()?;
        primary.copy_grants(&head, &**self.to().storage())?;
        primary.copy_slots(&head, &**self.to().storage())?;
        self.extend_locks(kept)?;
        self.commit(going, segments)
    }

    /// Packs of the tier that are not to be relied on, if there is anything else.
    fn avoided(&self) -> HashSet<PackId> {
        let mut avoided = self.lost.ids();
        if self.options.renew {
            avoided.extend(&self.old);
        }
        avoided
    }

    fn find_old(&mut self) -> Result<()> {
        let epoch = if self.options.renew { self.primary.store().head().epoch() } else { self.map.renewed };
        if self.options.renew && self.map.renewed < epoch {
            self.changes.renewed = epoch;
        }
        let packs = self.to().index().packs()?;
        self.old = packs.iter().filter(|pack| pack.name.epoch < epoch).map(|pack| pack.name.id).collect();
        Ok(())
    }

    fn fail(&mut self, snapshot: ObjectId, error: &Error) {
        let message = describe(error);
        let item = format!("snapshot {}", snapshot.short());
        self.monitor.error(ItemError { during: "sync", item, message: message.clone() });
        self.report.failed.push((snapshot, message));
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
            let anew = self.lost.ids().contains(&entry.name.id);
            let copy = submit(&*self.to().access.io, move || {
                let bytes = from.read_authentic(&wanted)?;
                if anew {
                    to.replace_pack(&wanted.name, bytes)
                } else {
                    to.put_pack_as(&wanted.name, bytes, &how)
                }
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
        let id = entry.name.id;
        if self.lost.ids().contains(&id) {
            // Put in the place of what was lost, it is locked as what is there is.
            if let Some(until) = placing.locked_until {
                self.locks.insert(id, until);
            }
            self.lost.forget(&HashSet::from([id]));
            self.note_placed(&entry, Placing { locked_until: None, ..placing });
            return Ok(len);
        }
        self.take(entry, placing)?;
        Ok(len)
    }

    /// Notes how a pack lies on the tier.
    fn note_placed(&mut self, entry: &PackEntry, placing: Placing) {
        self.monitor.count(Counter::FilesDone, 1);
        self.monitor.count(Counter::BytesDone, entry.len);
        let placed = Placed {
            since_ms: self.to().now_ms(),
            len: entry.len,
            class: placing.class,
            locked_until: placing.locked_until,
        };
        self.changes.packs.insert(entry.name.id, placed);
    }

    /// A pack is on the tier.
    fn take(&mut self, entry: PackEntry, placing: Placing) -> Result<()> {
        self.note_placed(&entry, placing);
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
            head.roots.iter()?.enumerate().map(|(place, root)| (root.id, place)).collect();
        let mut roots: Vec<Root> = going.into_iter().map(|(root, _)| root).collect();
        roots.sort_by_key(|root| order.get(&root.id).copied().unwrap_or(usize::MAX));
        self.report.snapshots = roots.len() as u64;
        let (maps, gone) = std::mem::take(&mut self.map).write(std::mem::take(&mut self.changes), to)?;
        to.commit_tier(&self.session, &self.primary.store().head(), &TierCommit { segments, roots, maps })?;
        to.sync_index()?;
        for map in gone {
            to.storage().delete(&map).map_err(chunkstore::Error::from)?;
        }
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
