//! Rebuilding HEAD from the objects in the store, if it is missing, damaged, or older than one that was seen.
//! Everything that can be read is listed again: a snapshot that was being forgotten, too, rather than one too few.

use super::opening::{Slots, read_config};
use super::{Access, ChunkStore, MAP_ROOT, describe, lay_out};
use crate::config::Config;
use crate::format::{MAX_HOSTS, MAX_SEGMENT_LEN, MAX_SMALL_LEN, ObjectKind, names};
use crate::head::{
    Body, Elsewhere, EpochRef, Head, HeadStore, KnownSlot, Place, Root, SegmentRef, called, rolled_back,
};
use crate::id::{ObjectId, PackId};
use crate::index::Segment;
use crate::kept::{Kept, put_kept, read_kept, replace_kept};
use crate::keys::grants::{are_sound as grants_are_sound, there as grants_there};
use crate::keys::{Grants, KeyRing, SlotSecret};
use crate::storage::{ErrorKind, Storage};
use crate::{Error, Result, envelope};
use bytes::Bytes;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

mod slots;
pub use slots::FoundSlot;

/// The content of a new HEAD.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RebuildPlan {
    /// Why the existing HEAD cannot be used; empty if it can.
    pub why: String,
    /// The name of the tier; none if it is the primary.
    pub tier: Option<String>,
    /// Snapshots.
    pub snapshots: u64,
    /// Those of them that the existing HEAD does not list.
    pub snapshots_found: u64,
    /// Index segments.
    pub segments: u64,
    /// Existing packs that they list.
    pub packs: u64,
    /// Missing packs that they list; they are no longer listed.
    pub packs_gone: u64,
    /// Key slots.
    pub slots: u64,
    /// Those of them that are put back from another place.
    pub slots_put_back: u64,
    /// Epochs whose grants are put back from another place.
    pub grants_put_back: Vec<u32>,
    /// Existing slots that no other HEAD lists: they were removed, or are newer, and stay out.
    pub slots_left_out: Vec<FoundSlot>,
    /// Slots that are listed although nothing proves that they were not removed: the last grants say what was so then.
    pub slots_unproven: Vec<FoundSlot>,
    /// Whether a new epoch is made: no other HEAD says which slots count, or which epoch was the last.
    pub makes_epoch: bool,
    /// Write-only hosts that the new HEAD lists, as the last HEAD that is known has them.
    pub hosts: u64,
    /// Whether no HEAD says which hosts there were, or not of all of them. A tier has them from its primary.
    pub hosts_lost: bool,
    /// Hosts that have something in an inbox, or an answer.
    pub hosts_seen: u64,
    /// Packs here have no parity, although the repository was made with it, and new ones will have none: as a primary
    /// that was a tier before.
    pub without_parity: bool,
    /// Objects that could not be read, and why.
    pub unreadable: Vec<(String, String)>,
    /// Objects that are sealed under the data key of an epoch that cannot be had, by epoch: the grants are damaged or
    /// missing.
    pub keyless: BTreeMap<u32, Vec<String>>,
}

impl RebuildPlan {
    /// Snapshots that are given up for want of a data key.
    #[must_use]
    pub fn snapshots_given_up(&self) -> usize {
        let folder = format!("{}/", names::SNAPSHOTS);
        self.keyless.values().flatten().filter(|name| name.starts_with(&folder)).count()
    }

    /// Refuses to make HEAD anew if it would leave out what a data key opens that is only lost here.
    fn refuse_without_keys(&self, place: &str) -> Result<()> {
        let Some(last) = self.keyless.keys().next_back() else { return Ok(()) };
        let epochs: Vec<String> = self.keyless.keys().map(u32::to_string).collect();
        let example = self.keyless.values().flatten().next().map_or("", String::as_str);
        Err(Error::Invalid(format!(
            "nothing was changed: at {place}, {} objects, as {example}, are sealed under data keys that cannot be had (of \
             epoch {}). {}, or the grants of a later epoch, has them, and is damaged or missing. Put it back from \
             another tier (with an esker.toml that names one, 'esker repair head' does that) or from an older copy of \
             this disk. If there is none, 'esker repair head --without-grants' makes HEAD anew without these objects: {} \
             snapshots are given up",
            self.keyless.values().map(Vec::len).sum::<usize>(),
            epochs.join(", "),
            names::grants(*last),
            self.snapshots_given_up(),
        )))
    }
}

/// Choices for making HEAD anew.
#[derive(Clone, Copy, Debug, Default)]
pub struct RebuildOptions {
    /// Only find out what the new HEAD would have.
    pub dry_run: bool,
    /// Leave out what is sealed under a data key that cannot be had.
    pub without_grants: bool,
}

/// A HEAD in the making.
struct Rebuild<'a> {
    access: &'a Access,
    keys: &'a KeyRing,
    /// The slot that the secret opened.
    own: ObjectId,
    config_has_parity: bool,
    /// The highest epoch of an object that was read.
    used: u32,
    /// What HEAD is sealed under, and what is written beside it.
    epoch: u32,
    /// Public keys of the slots.
    public: Vec<(ObjectId, ObjectId)>,
    plan: RebuildPlan,
}

/// The name of an object, the id in it, and what it has besides if it was sealed again.
type Named = (String, (ObjectId, Option<ObjectId>));

/// An object that was read.
struct Found {
    id: ObjectId,
    hash: ObjectId,
    /// The epoch that it is sealed under.
    epoch: u32,
    /// What its name has besides the id.
    renewed: Option<ObjectId>,
}

impl Found {
    fn root(&self, kind: &'static str) -> Root {
        Root { renewed: self.renewed, ..Root::new(kind, self.id, self.hash, self.epoch) }
    }
}

/// Of a root that was sealed again, and whose earlier object is still there, the last one is kept.
fn last_of_each(roots: &mut Vec<Root>) {
    roots.sort_by_key(|root| (root.id, std::cmp::Reverse(root.epoch)));
    roots.dedup_by_key(|root| root.id);
}

/// Examines HEAD and, unless it is sound or `dry_run` is set, replaces it. **No other process may use the repository**:
/// a prune that continues with the old HEAD would remove packs that the new one lists. From then on a prune removes
/// nothing that existed before, until a person allows it ([`crate::head::Anew`]).
pub fn rebuild_head<S: SlotSecret + ?Sized>(
    access: Access,
    secret: &S,
    elsewhere: &Elsewhere,
    options: RebuildOptions,
) -> Result<RebuildPlan> {
    rebuild_any(access, &secret, elsewhere, options)
}

fn rebuild_any(
    mut access: Access,
    secret: &dyn SlotSecret,
    elsewhere: &Elsewhere,
    options: RebuildOptions,
) -> Result<RebuildPlan> {
    let dry_run = options.dry_run;
    let (bytes, config) = read_config(&*access.storage)?;
    lay_out(&mut access, &config);
    let (own, keys) = match Slots::find(&access, &config)?.open_next(secret) {
        Err(wrong @ Error::WrongPassword { .. }) => {
            slot_elsewhere(&access, &config, secret, elsewhere)?.ok_or(wrong)?
        }
        opened => opened.map(|(slot, keys)| (slot, Arc::new(keys)))?,
    };
    Config::verify(&bytes, &keys)?;
    let heads = ChunkStore::head_store(&access, &keys, &config);
    keys.retire(elsewhere.retired);
    heads.refuse_foreign_config()?;
    let back = put_grants_back(&*access.storage, &keys, elsewhere, dry_run)?;
    // One that was put back from an older copy knows things that lie nowhere else.
    let old = heads.latest_copy();
    let place = which(&access, &config, old.as_ref(), elsewhere)?;
    let tier = match &place {
        Place::Primary => None,
        Place::Tier(name) => Some(name.clone()),
    };
    if !dry_run && let Err(error) = heads.put_leaves_back() {
        tracing::debug!(%error, "the cache does not have all leaves of HEAD");
    }
    let sound = heads.load().and_then(|loaded| {
        loaded.head.leaves().try_for_each(|leaf| heads.check_leaf(leaf))?;
        loaded.head.read_all().map(|()| loaded)
    });
    let why = match sound {
        Ok(loaded) => {
            let head = loaded.head;
            if head.tier != tier {
                return Err(Error::Invalid(format!(
                    "HEAD of {} is sound, and that of {}, not of {}",
                    access.storage.place(),
                    called(head.tier.as_deref()),
                    called(tier.as_deref()),
                )));
            }
            let known = tier.as_ref().and_then(|tier| elsewhere.tiers.made.get(tier));
            match known.filter(|known| head.age() < **known) {
                Some(known) => describe(&rolled_back(&head, *known)),
                None => {
                    let slots_put_back = put_slots_back(&*access.storage, &keys, &head, elsewhere, dry_run)?;
                    let plan = RebuildPlan { tier, grants_put_back: back, ..RebuildPlan::default() };
                    return Ok(RebuildPlan { slots_put_back, ..plan });
                }
            }
        }
        Err(error @ (Error::Corrupt { .. } | Error::Rollback { .. })) => describe(&error),
        Err(error) => return Err(error),
    };
    let plan = RebuildPlan { why, tier: tier.clone(), grants_put_back: back, ..RebuildPlan::default() };
    let config_has_parity = config.parity;
    let (used, epoch, public) = (1, 1, vec![]);
    let mut rebuild =
        Rebuild { access: &access, keys: &keys, own, config_has_parity, used, epoch, public, plan };
    for (name, sealed) in heads.stored() {
        rebuild.note_epoch(ObjectKind::Head, &name, &sealed)?;
    }
    let head = rebuild.head(&heads, old, elsewhere, tier, options)?;
    if !dry_run {
        heads.force(head)?;
    }
    Ok(rebuild.plan)
}

/// Opens a slot that another place has, and that HEAD here lists: here, all its copies are damaged. A slot that HEAD here does
/// not list opens nothing: who removed it, or changed its password, did so here.
fn slot_elsewhere(
    access: &Access,
    config: &Config,
    secret: &dyn SlotSecret,
    elsewhere: &Elsewhere,
) -> Result<Option<(ObjectId, Arc<KeyRing>)>> {
    let mut slots = Slots::elsewhere(access, config, elsewhere);
    loop {
        let (slot, keys) = match slots.open_next(secret) {
            Err(Error::WrongPassword { .. } | Error::Corrupt { .. }) => return Ok(None),
            opened => opened?,
        };
        let keys = Arc::new(keys);
        let heads = ChunkStore::head_store(access, &keys, config);
        if heads.load_unchecked().is_ok_and(|loaded| loaded.head.slots.contains_key(&slot)) {
            return Ok(Some((slot, keys)));
        }
    }
}

/// Puts grants back that HEADs of other places name and that are missing or damaged here, and takes their keys.
fn put_grants_back(
    storage: &dyn Storage,
    keys: &KeyRing,
    elsewhere: &Elsewhere,
    dry_run: bool,
) -> Result<Vec<u32>> {
    let mut back = vec![];
    // Older ones were removed when HEAD here went past them.
    let here = storage.read_head()?.and_then(|(sealed, _)| envelope::epoch_of(&sealed));
    for (epoch, bytes) in &elsewhere.grants {
        if here.is_some_and(|here| here > *epoch) && keys.has_epoch(here.unwrap_or_default())? {
            continue;
        }
        if grants_are_sound(keys, storage, *epoch)? {
            continue;
        }
        if let Err(error) = keys.take(*epoch, bytes) {
            tracing::debug!(%error, "grants of another place are of no use here");
            continue;
        }
        if !dry_run {
            replace_kept(storage, &names::grants(*epoch), bytes)?;
        }
        back.push(*epoch);
    }
    Ok(back)
}

/// Puts slots back that a sound HEAD lists and of which nothing is sound here, from wherever they are. Returns how many.
fn put_slots_back(
    storage: &dyn Storage,
    keys: &KeyRing,
    head: &Head,
    elsewhere: &Elsewhere,
    dry_run: bool,
) -> Result<u64> {
    let mut back = 0;
    for (slot, hash) in &head.slots {
        let kept = Kept::Slot(*slot, *hash);
        let there = elsewhere.slots.get(slot).and_then(|known| known.bytes.as_ref());
        let Some(bytes) = there.filter(|bytes| kept.is(bytes, keys)) else { continue };
        if kept.examine(storage, keys)?.sound.is_some() {
            continue;
        }
        if !dry_run {
            replace_kept(storage, &names::key(slot), bytes)?;
        }
        back += 1;
    }
    Ok(back)
}

/// Whether the primary or a tier is at a place: as the user said, as a copy of the last HEAD says, or as the place was
/// made. A tier's HEAD that was rebuilt as a primary's would be taken for a later one than the primary's own.
fn which(access: &Access, config: &Config, old: Option<&Head>, elsewhere: &Elsewhere) -> Result<Place> {
    if let Some(place) = &elsewhere.is {
        return Ok(place.clone());
    }
    let known = old.map(|head| head.tier.clone()).or_else(|| config.tier.clone().map(Some));
    if let Some(tier) = known {
        return Ok(tier.map_or(Place::Primary, Place::Tier));
    }
    // Only tiers have maps, or what was one before.
    let mut has_maps = false;
    access.storage.list(names::MAPS, &mut |_, _| has_maps = true)?;
    if has_maps {
        return Err(Error::Invalid(format!(
            "{} was a tier once, and may be one now: say what it is, with '--tier NAME' or '--primary'",
            access.storage.place()
        )));
    }
    Ok(Place::Primary)
}

/// What a place says of the keys of its repository.
pub struct Peeked {
    /// HEAD, without comparison with earlier ones.
    pub head: Head,
    /// The slots that it lists, with their bytes as far as any are sound.
    pub slots: BTreeMap<ObjectId, KnownSlot>,
    /// The grants that it names, with their epoch, if they are sound.
    pub grants: Option<(u32, Bytes)>,
}

/// Reads what a place says of the keys of its repository. Changes nothing there.
pub fn peek<S: SlotSecret + ?Sized>(mut access: Access, secret: &S) -> Result<Peeked> {
    let (bytes, config) = read_config(&*access.storage)?;
    let (_, keys) = Slots::find(&access, &config)?.open_next(&secret)?;
    Config::verify(&bytes, &keys)?;
    lay_out(&mut access, &config);
    access.cache = None;
    let keys = Arc::new(keys);
    let head = ChunkStore::head_store(&access, &keys, &config).load_unchecked()?.head;
    let (mut slots, mut grants) = (BTreeMap::new(), None);
    for kept in Kept::of(&head) {
        let sound = kept.examine(&*access.storage, &keys)?.sound;
        match kept {
            Kept::Slot(slot, hash) => drop(slots.insert(slot, KnownSlot { hash, bytes: sound })),
            Kept::Grants(epoch, _) => grants = sound.map(|bytes| (epoch, bytes)),
            Kept::Config(_) => {}
        }
    }
    Ok(Peeked { head, slots, grants })
}

impl Rebuild<'_> {
    fn head(
        &mut self,
        heads: &HeadStore,
        old: Option<Head>,
        elsewhere: &Elsewhere,
        tier: Option<String>,
        options: RebuildOptions,
    ) -> Result<Head> {
        let dry_run = options.dry_run;
        // Of leaves that cannot be read, nothing is known; the objects have it.
        let old_roots: Vec<Root> = old.iter().flat_map(|head| head.roots.readable()).cloned().collect();
        let listed: HashSet<ObjectId> = old_roots.iter().map(|root| root.id).collect();
        let columns = self.access.columns;
        let mut roots =
            self.read_all(names::SNAPSHOTS, ObjectKind::Snapshot, MAX_SMALL_LEN, |found, plain| {
                let (columns, record) =
                    (columns.of_record(plain).into(), Body::Here(Bytes::copy_from_slice(plain)));
                Ok(Root { columns, record, ..found.root(Root::SNAPSHOT) })
            })?;
        last_of_each(&mut roots);
        // In the order of their commits, as far as it is known: it decides about ages.
        let order: HashMap<ObjectId, usize> =
            old_roots.iter().enumerate().map(|(place, root)| (root.id, place)).collect();
        roots.sort_by_key(|root| order.get(&root.id).copied().unwrap_or(usize::MAX));
        self.plan.snapshots = roots.len() as u64;
        self.plan.snapshots_found = roots.iter().filter(|root| !listed.contains(&root.id)).count() as u64;
        let mut maps = self.read_all(names::MAPS, ObjectKind::TierMap, MAX_SEGMENT_LEN, |found, _| {
            Ok(found.root(MAP_ROOT))
        })?;
        last_of_each(&mut maps);
        let mut reports =
            self.read_all(names::REPORTS, ObjectKind::Report, MAX_SMALL_LEN, |found, plain| {
                let record = ChunkStore::record_of_report(plain);
                Ok(Root { record, ..found.root(Root::REPORT) })
            })?;
        last_of_each(&mut reports);
        reports.sort_by_key(|root| order.get(&root.id).copied().unwrap_or(usize::MAX));
        roots.extend(maps);
        roots.extend(reports);
        let is_found = |root: &Root| root.is_snapshot() || root.is_report() || root.kind == MAP_ROOT;
        roots.extend(old_roots.into_iter().filter(|root| !is_found(root)));
        let segments =
            self.read_all(names::INDEX, ObjectKind::Segment, MAX_SEGMENT_LEN, |found, plain| {
                let segment = Segment::decode(plain)
                    .map_err(|error| Error::corrupt(names::segment(&found.id), error))?;
                Ok((found, segment))
            })?;
        if !options.without_grants || tier.is_some() {
            // A tier's come from its primary.
            self.plan.refuse_without_keys(&self.access.storage.place())?;
        }
        let packs = segments.iter().flat_map(|(_, segment)| &segment.packs);
        self.used = packs.map(|pack| pack.name.epoch).max().unwrap_or_default().max(self.used);
        let slots = self.slots(old.as_ref(), elsewhere, dry_run)?;
        self.plan.slots = slots.len() as u64;
        let (epochs, grants) = self.epochs(old.as_ref(), &slots, elsewhere, dry_run)?;
        let segments = self.with_packs_that_are_there(segments, dry_run)?;
        self.plan.segments = segments.len() as u64;
        let is_known = old.is_some();
        self.note_hosts(old.as_ref(), tier.is_some())?;
        let is_proven = self.is_proven(old.as_ref(), elsewhere);
        let mut head = heads.successor(old, roots, segments, slots, elsewhere, tier)?;
        (head.epochs, head.grants) = (epochs, grants);
        self.plan.makes_epoch = !is_proven && head.tier.is_none();
        if self.plan.makes_epoch && !dry_run {
            self.make_epoch(&mut head)?;
        }
        // What was a tier, and was adopted, never had parity: that none is there is no damage.
        if !is_known && head.tier.is_none() && self.config_has_parity && self.plan.packs > 0 {
            let mut any = false;
            self.access.storage.list(names::PARITY, &mut |_, _| any = true)?;
            head.without_parity = !any;
            self.plan.without_parity = !any;
        }
        Ok(head)
    }

    /// Notes which hosts the new HEAD will have. Nothing but a HEAD has their keys.
    fn note_hosts(&mut self, old: Option<&Head>, is_tier: bool) -> Result<()> {
        self.plan.hosts = old.map_or(0, |head| head.hosts.readable().count() as u64);
        self.plan.hosts_lost = !is_tier && old.is_none_or(|head| head.hosts.to_vec().is_err());
        if !self.plan.hosts_lost {
            return Ok(());
        }
        let mut seen = HashSet::new();
        for folder in [names::INBOX, names::REPLIES] {
            let listed = self.access.storage.list(folder, &mut |name, _| {
                // Whoever may write there makes up any number of them.
                if seen.len() < MAX_HOSTS {
                    seen.extend(name.split('/').nth(1).and_then(ObjectId::parse));
                }
            });
            match listed {
                // What somebody put there, or whose folder it is, is no reason to leave HEAD lost.
                Err(error)
                    if matches!(error.kind, ErrorKind::TooMany | ErrorKind::BadName | ErrorKind::Denied) => {}
                listed => listed?,
            }
        }
        self.plan.hosts_seen = seen.len() as u64;
        Ok(())
    }

    /// Whether another HEAD says which slots count and which epoch was the last.
    fn is_proven(&self, old: Option<&Head>, elsewhere: &Elsewhere) -> bool {
        let known = elsewhere.grants.keys().next_back().copied();
        let known = known.or((!elsewhere.slots.is_empty()).then_some(1)).max(old.map(Head::epoch));
        self.plan.keyless.is_empty() && known.is_some_and(|known| known >= self.epoch)
    }

    /// Makes an epoch later than any that is known here, and grants it to the slots of the new HEAD: who had a slot that does
    /// not count, or knew a key that was never HEAD's, reads nothing that is written from now on.
    fn make_epoch(&self, head: &mut Head) -> Result<()> {
        let taken = grants_there(&*self.access.storage)?;
        let said = self.plan.keyless.keys().copied().max().unwrap_or_default();
        let now = self.access.env.now();
        // Names of grants are whatever somebody put there: they take a number, and say nothing of others.
        let mut free = head.next_epoch(said.max(self.keys.latest_epoch()), now.as_secs())..=u32::MAX;
        let epoch = free.find(|epoch| !taken.contains(epoch));
        let epoch = epoch.ok_or_else(|| Error::Invalid("no number of an epoch is left".into()))?;
        let bytes = Bytes::from(self.keys.make_epoch(epoch, &self.public, &*self.access.env)?);
        put_kept(&*self.access.storage, &names::grants(epoch), &bytes)?;
        let made_ms = u64::try_from(now.as_millis()).unwrap_or_default();
        head.epochs.insert(epoch, EpochRef { made_ms, ..EpochRef::default() });
        head.grants = Some(ObjectId(*blake3::hash(&bytes).as_bytes()));
        Ok(())
    }

    /// The slots that the latest grants name which open here, of an epoch that anything is sealed under or a later one: a slot
    /// that was removed before has none. `None` if there are no such grants.
    fn granted(&self) -> Result<Option<HashSet<ObjectId>>> {
        for epoch in grants_there(&*self.access.storage)?.range(self.used..).rev() {
            let name = names::grants(*epoch);
            let slots = read_kept(&*self.access.storage, &name, MAX_SMALL_LEN, |bytes| {
                let grants = Grants::decode(bytes).map_err(|error| Error::corrupt(&name, error))?;
                grants.open(self.keys, &name)?;
                Ok(grants.slots().collect())
            });
            match slots {
                Ok((_, slots)) => return Ok(Some(slots)),
                Err(error) if error.is_damage() || matches!(error, Error::NotGranted { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Names in a folder, with their ids, and what they have besides if they were sealed again.
    fn ids(&self, folder: &str) -> Result<Vec<Named>> {
        let mut found = vec![];
        self.access.storage.list(folder, &mut |name, _| {
            found.extend(name.rsplit('/').next().and_then(names::root).map(|id| (name.to_owned(), id)));
        })?;
        found.sort();
        Ok(found)
    }

    /// Notes the epoch that an object says it is sealed under. Of another one's key nothing is lost.
    fn note_epoch(&mut self, kind: ObjectKind, name: &str, sealed: &[u8]) -> Result<()> {
        let Some(epoch) = envelope::epoch_of(sealed) else { return Ok(()) };
        // Nothing that was needed was left under a retired one.
        if epoch <= self.keys.retired() {
            return Ok(());
        }
        let is_keyless = match self.plan.keyless.contains_key(&epoch) {
            true => !envelope::is_of_one(self.keys, &self.keys.epochs(), kind, sealed),
            false => self.keys.lacks_key_of(kind, sealed)?.is_some(),
        };
        if is_keyless {
            self.plan.keyless.entry(epoch).or_default().push(name.to_owned());
        } else if self.keys.epochs().contains(&epoch) {
            self.used = self.used.max(epoch);
        }
        Ok(())
    }

    /// Opens every object of a folder; those that cannot be read are noted and left out.
    fn read_all<T>(
        &mut self,
        folder: &str,
        kind: ObjectKind,
        limit: u64,
        read: impl Fn(Found, &[u8]) -> Result<T>,
    ) -> Result<Vec<T>> {
        let mut all = vec![];
        for (name, (id, renewed)) in self.ids(folder)? {
            let sealed = self.access.storage.get(&name, limit).map_err(Error::from);
            if let Ok(sealed) = &sealed {
                self.note_epoch(kind, &name, sealed)?;
            }
            let opened = sealed.and_then(|sealed| {
                let plain = envelope::open(self.keys, kind, &name, &sealed)?;
                let hash = ObjectId(*blake3::hash(&sealed).as_bytes());
                let epoch = envelope::epoch_of(&sealed).unwrap_or_default();
                read(Found { id, hash, epoch, renewed }, &plain)
            });
            match opened {
                Ok(value) => all.push(value),
                Err(error) if error.is_damage() => self.plan.unreadable.push((name, describe(&error))),
                Err(error) => return Err(error),
            }
        }
        Ok(all)
    }

    /// A segment that a prune replaced may still exist and list missing packs: it is written again without them.
    fn with_packs_that_are_there(
        &mut self,
        segments: Vec<(Found, Segment)>,
        dry_run: bool,
    ) -> Result<Vec<SegmentRef>> {
        let mut there: HashSet<String> = HashSet::new();
        self.access.storage.list(names::PACKS, &mut |name, _| {
            there.insert(name.to_owned());
        })?;
        let mut gone: HashSet<PackId> = HashSet::new();
        let packs = segments.iter().flat_map(|(_, segment)| &segment.packs);
        for pack in packs.filter(|pack| !there.contains(&pack.name.object())) {
            match self.access.storage.len(&pack.name.object()) {
                Ok(_) => {}
                Err(error) if error.kind == ErrorKind::NotFound => {
                    gone.insert(pack.name.id);
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.plan.packs_gone = gone.len() as u64;
        let (mut references, mut listed) = (vec![], HashSet::new());
        for (found, mut segment) in segments {
            let before = segment.packs.len();
            // Listed twice, if both what was replaced and what replaced it are there: once is enough.
            segment.packs.retain(|pack| !gone.contains(&pack.name.id) && listed.insert(pack.name.id));
            let count = |len: usize| u32::try_from(len).unwrap_or(u32::MAX);
            references.push(match segment.packs.len() {
                0 => continue,
                len if len == before || dry_run => SegmentRef {
                    id: found.id,
                    hash: found.hash,
                    packs: count(segment.packs.len()),
                    chunks: count(segment.chunk_count()),
                    epoch: super::segments::oldest(&segment, found.epoch),
                },
                _ => super::segments::write_segment(self.access, self.keys, self.epoch, &segment)?,
            });
        }
        self.plan.packs = listed.len() as u64;
        Ok(references)
    }

    /// The epochs, and the grants of the last. That is the last one that anything here is known to be sealed under; or one
    /// whose grants are here, if all slots have one: it may be that nothing but the HEAD that is lost was sealed under it.
    fn epochs(
        &mut self,
        old: Option<&Head>,
        slots: &BTreeMap<ObjectId, ObjectId>,
        elsewhere: &Elsewhere,
        dry_run: bool,
    ) -> Result<(BTreeMap<u32, EpochRef>, Option<ObjectId>)> {
        let storage = &*self.access.storage;
        self.epoch = self.used.max(old.map_or(0, Head::epoch));
        let keys = self.keys;
        let granted = |epoch: u32, bytes: &Bytes| {
            let grants = Grants::decode(bytes).ok()?;
            grants.open(keys, &names::grants(epoch)).ok()?;
            Some(grants.slots().collect::<HashSet<ObjectId>>())
        };
        let mut grants = None;
        for epoch in grants_there(storage)?.into_iter().rev().take_while(|epoch| *epoch >= self.epoch) {
            let Ok((bytes, slots_in)) = read_kept(storage, &names::grants(epoch), MAX_SMALL_LEN, |bytes| {
                granted(epoch, bytes)
                    .ok_or_else(|| Error::corrupt(names::grants(epoch), "is not what it says"))
            }) else {
                continue;
            };
            let has_all = slots.keys().all(|slot| slots_in.contains(slot));
            if (epoch == self.epoch || has_all) && self.keys.has_epoch(epoch)? {
                (self.epoch, grants) = (epoch, Some(bytes));
                break;
            }
        }
        let other = elsewhere.grants.get(&self.epoch).filter(|_| grants.is_none());
        if let Some(bytes) = other.filter(|bytes| granted(self.epoch, bytes).is_some()) {
            // Put back already, unless what is here is damaged.
            if !dry_run {
                storage.replace(&names::grants(self.epoch), bytes.clone())?;
            }
            grants = Some(bytes.clone());
        }
        let mut epochs = old.map(|head| head.epochs.clone()).unwrap_or_default();
        for epoch in self.keys.epochs().into_iter().filter(|epoch| *epoch <= self.epoch) {
            epochs.entry(epoch).or_default();
        }
        // The marks of those that were retired say it to whoever reads HEAD.
        let retired = self.keys.retired();
        if retired > 0 {
            epochs.entry(retired).or_default();
        }
        let now_ms = u64::try_from(self.access.env.now().as_millis()).unwrap_or_default();
        for known in epochs.range_mut(..=retired).map(|(_, known)| known) {
            known.retired_ms.get_or_insert(now_ms);
        }
        Ok((epochs, grants.map(|bytes| ObjectId(*blake3::hash(&bytes).as_bytes()))))
    }
}
