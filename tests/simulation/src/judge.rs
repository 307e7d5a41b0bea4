//! Watches every swap and every deletion, and says at the end whether anything was lost.

use crate::coverage::{Coverage, Sometimes};
use crate::storage::{Disk, Witness};
use bytes::Bytes;
use chunkstore::ObjectId;
use chunkstore::envelope;
use chunkstore::format::{ObjectKind, names};
use chunkstore::head::{Head, LeafRef, Root};
use chunkstore::index::Segment;
use chunkstore::keys::KeyRing;
use chunkstore::storage::memory::MemoryStorage;
use chunkstore::{PackId, SessionId};
use engine::Repository;
use engine::monitor::Tally;
use engine::prune::{MaxUnused, PruneOptions, prune};
use engine::restore::dump;
use engine::snapshot::Filter;
use engine::verify::{ReadData, check};
use std::collections::BTreeMap;
use std::collections::{BTreeSet, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Mutex, PoisonError};

/// Snapshots that were acknowledged and that nobody asked to forget, with what they hold.
pub(crate) type Truth = BTreeMap<ObjectId, (String, Vec<u8>)>;

/// The witness that knows the keys.
pub(crate) struct Judge {
    keys: Arc<KeyRing>,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    ever_doomed: HashSet<PackId>,
    condemned: u64,
    resurrected: u64,
    doomed: u64,
    checkpointed: u64,
    /// What must never be, but was.
    violation: Option<String>,
}

impl Judge {
    pub(crate) fn new(keys: Arc<KeyRing>) -> Self {
        Self { keys, seen: Mutex::default() }
    }

    fn head(&self, disk: &Disk, sealed: &[u8]) -> Head {
        let sets = MemoryStorage::default();
        let is_leaf = |(name, _): &(&String, &Bytes)| name.starts_with(names::SETS);
        let objects = disk.objects();
        let leaves = objects.iter().filter(is_leaf).map(|(name, body)| (name.clone(), body.clone()));
        sets.objects().extend(leaves);
        drop(objects);
        let head = Head::open(sealed, &self.keys, Arc::new(sets)).expect("HEAD opens");
        head.read_all().expect("HEAD names leaves that are there, and whole");
        head
    }

    /// The packs that HEAD's segments list. Those must be there, and whole.
    fn listed(&self, disk: &Disk, head: &Head) -> HashSet<PackId> {
        let objects = disk.objects();
        let mut packs = HashSet::new();
        for reference in head.segments.iter().expect("it was read") {
            let name = names::segment(&reference.id);
            let sealed = objects.get(&name).unwrap_or_else(|| panic!("HEAD names {name}, which is gone"));
            let plain =
                envelope::open(&self.keys, ObjectKind::Segment, &name, sealed).expect("segments open");
            let segment = Segment::decode(&plain).expect("segments read");
            let oldest =
                segment.packs.iter().map(|pack| pack.name.epoch).chain(envelope::epoch_of(sealed)).min();
            assert_eq!(oldest, Some(reference.epoch), "HEAD says another epoch of {name}");
            packs.extend(segment.packs.iter().map(|pack| pack.name.id));
        }
        packs
    }

    /// What was seen of HEAD.
    pub(crate) fn report(&self, coverage: &Coverage) {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        coverage.add(Sometimes::Condemned, seen.condemned);
        coverage.add(Sometimes::Resurrected, seen.resurrected);
        coverage.add(Sometimes::Doomed, seen.doomed);
        coverage.add(Sometimes::Checkpointed, seen.checkpointed);
    }

    /// Everything that was acknowledged is there; everything that is there is whole; and two prunes later
    /// nothing is left that nobody needs.
    pub(crate) fn judge(&self, seed: u64, disk: &Disk, open: &dyn Fn(&str) -> Repository, truth: &Truth) {
        let violation = self.seen.lock().unwrap_or_else(PoisonError::into_inner).violation.clone();
        assert!(violation.is_none(), "seed {seed}: {violation:?}");
        let everything_restores = |repo: &Repository| {
            for (id, (name, expected)) in truth {
                let listed = repo.find(&id.to_string(), &Filter::default(), &Tally::default());
                let listed = listed
                    .unwrap_or_else(|error| panic!("seed {seed}: snapshot {id} of {name} is lost: {error}"));
                let mut bytes = vec![];
                let read = dump(repo, &listed.snapshot, name.as_bytes(), &mut bytes, &Tally::default());
                assert!(
                    read.is_ok() && bytes == *expected,
                    "seed {seed}: snapshot {id} of {name} does not restore: {read:?}"
                );
            }
        };
        let repo = open("judge");
        everything_restores(&repo);
        let tally = Tally::default();
        let report = check(&repo, ReadData::All, &tally).expect("check runs");
        assert_eq!(report.num_errors, 0, "seed {seed}: check finds {:?}", tally.errors());
        // One fences the dead and condemns, one more dooms what they had held back.
        for name in ["cleaner-1", "cleaner-2"] {
            let options = PruneOptions {
                max_unused: MaxUnused::Percent(0.0),
                fence_after_ms: 1,
                ..PruneOptions::default()
            };
            let plan = prune(&open(name), &options, &Tally::default());
            let plan = plan.unwrap_or_else(|error| panic!("seed {seed}: the last prune fails: {error:?}"));
            assert!(!plan.deferred, "seed {seed}: nobody else is at work, yet prune waits");
        }
        let repo = open("judge again");
        everything_restores(&repo);
        let head = repo.store().head();
        assert!(
            head.sessions.is_empty() && head.doomed.is_empty() && head.condemned.is_empty(),
            "seed {seed}: HEAD is not clean: sessions {:?}, condemned {:?}, doomed {:?}",
            head.sessions,
            head.condemned,
            head.doomed
        );
        let packs = self.listed(disk, &head);
        let named = names_of(&head);
        for name in disk.objects().keys() {
            if let Some((host, run, _)) = names::run_of(name) {
                // Of a run that was interrupted: it goes with the next one that is settled.
                let host = head.hosts.find(|known| known.id == host).expect("it was read");
                assert!(host.is_some_and(|host| run > host.run), "seed {seed}: {name} is left behind");
                continue;
            }
            if name.starts_with(names::REPLIES) {
                continue;
            }
            let needed = match name.rsplit('/').next().and_then(PackId::parse) {
                Some(pack) if name.starts_with(names::PACKS) || name.starts_with(names::PARITY) => {
                    packs.contains(&pack)
                }
                _ => {
                    let always = [names::KEYS, names::HEADS].iter().any(|folder| name.starts_with(folder));
                    // A rotation that was killed left them; they go when HEAD is past their number.
                    let claimed = names::grants_epoch(name).is_some_and(|epoch| epoch > head.epoch());
                    named.contains(name) || always || claimed || !name.contains('/')
                }
            };
            assert!(needed, "seed {seed}: {name} is left behind");
        }
    }
}

/// The segments, snapshots, grants and leaves that HEAD names.
fn names_of(head: &Head) -> BTreeSet<String> {
    let segments = head.segments.iter().expect("it was read").map(|segment| names::segment(&segment.id));
    let snapshots = head.roots.iter().expect("it was read").map(Root::object);
    let grants = head.grants.map(|_| names::grants(head.epoch()));
    segments.chain(snapshots).chain(grants).chain(head.leaves().flat_map(LeafRef::names)).collect()
}

/// No object that HEAD names, and no pack in its segments, is sealed under a retired epoch; and HEAD says which it is.
fn nothing_retired_is_named(disk: &Disk, head: &Head) {
    let (objects, retired) = (disk.objects(), head.retired());
    assert!(retired < head.epoch());
    for name in names_of(head) {
        let epoch = objects.get(&name).and_then(|sealed| envelope::epoch_of(sealed));
        assert!(epoch.is_none_or(|epoch| epoch > retired), "HEAD names {name}, whose epoch is retired");
    }
    let segments = head.segments.iter().expect("it was read").map(|segment| segment.epoch);
    let roots = head.roots.iter().expect("it was read").map(|root| root.epoch);
    let lowest = segments.chain(roots).chain(head.leaves().map(|leaf| leaf.epoch)).min();
    assert!(lowest.is_none_or(|lowest| lowest > retired), "HEAD needs epoch {lowest:?} of {retired}");
    for root in head.roots.iter().expect("it was read") {
        let said = objects.get(&root.object()).and_then(|sealed| envelope::epoch_of(sealed));
        assert_eq!(said, Some(root.epoch), "HEAD says another epoch of {}", root.object());
    }
}

impl Witness for Judge {
    fn deleting(&self, disk: &Disk, name: &str) {
        self.insist(|| self.look_at_deletion(disk, name));
    }

    fn swapped(&self, disk: &Disk, old: Option<&Bytes>, new: &Bytes) {
        self.insist(|| self.look_at_swap(disk, old, new));
    }
}

impl Judge {
    /// A panic in a worker is an error to whoever waits for it, and might be excused: it is kept for the verdict.
    fn insist(&self, look: impl FnOnce()) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(look)) {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.violation.get_or_insert(text.unwrap_or_default());
            drop(seen);
            resume_unwind(panic);
        }
    }

    /// A pack goes only if HEAD calls it doomed, or if its writer can no longer publish it and HEAD does
    /// not list it.
    fn look_at_deletion(&self, disk: &Disk, name: &str) {
        let sealed = disk.head().expect("there is a HEAD");
        let head = self.head(disk, &sealed);
        let mut parts = name.split('/');
        let folder = parts.next();
        if folder == Some(names::HEADS) {
            let last = disk
                .objects()
                .range(format!("{}/", names::HEADS)..format!("{}0", names::HEADS))
                .next_back()
                .map(|(name, _)| name.clone());
            assert!(last.is_some_and(|last| *name < *last), "the last HEAD is deleted");
        } else if matches!(folder, Some(names::PACKS | names::PARITY)) {
            let session = parts.next().and_then(SessionId::parse).expect("packs lie under their session");
            let pack = parts.next().and_then(PackId::parse).expect("packs have names");
            let ever_doomed =
                self.seen.lock().unwrap_or_else(PoisonError::into_inner).ever_doomed.contains(&pack);
            if !ever_doomed {
                assert!(
                    !head.is_open(&session).expect("it was read"),
                    "{name} is deleted while its writer is at work"
                );
                assert!(!self.listed(disk, &head).contains(&pack), "{name} is deleted while HEAD lists it");
            }
        } else if let Some((host, run, _)) = names::run_of(name) {
            let known = head.hosts.find(|known| known.id == host).expect("it was read");
            let known = known.unwrap_or_else(|| panic!("{name} is deleted, and HEAD does not list its host"));
            if known.revoked_ms.is_some() {
                return;
            }
            assert!(run <= known.run, "{name} is deleted before it is settled");
            let is_committed = disk.objects().contains_key(&names::commit(&host, run));
            let is_answered = disk.objects().contains_key(&names::reply(&host, run));
            assert!(!is_committed || is_answered, "{name} is deleted before it is answered");
        } else {
            assert!(!names_of(&head).contains(name), "{name} is deleted while HEAD names it");
            if let Some(epoch) = names::grants_epoch(name) {
                assert!(epoch < head.epoch(), "{name} is deleted while a swap may be about to name it");
            }
            if let Some(age) = names::leaf_age(name) {
                assert!(age <= head.age().parts(), "{name} is deleted while a swap may be about to name it");
            }
        }
    }

    fn look_at_swap(&self, disk: &Disk, old: Option<&Bytes>, new: &Bytes) {
        let Some(old) = old.map(|old| self.head(disk, old)) else { return };
        let new = self.head(disk, new);
        assert_eq!(new.generation, old.generation + 1);
        let condemned_in = |head: &Head| -> HashSet<PackId> {
            head.condemned.iter().expect("it was read").map(|pack| pack.id).collect()
        };
        let doomed_in = |head: &Head| -> HashSet<PackId> {
            head.doomed.iter().expect("it was read").map(|pack| pack.id).collect()
        };
        let (condemned, doomed) = (condemned_in(&new), doomed_in(&new));
        for before in old.hosts.iter().expect("it was read") {
            let after = new.hosts.find(|known| known.id == before.id).expect("it was read");
            let after = after.expect("nobody removes a host");
            let moved = after.run > before.run && after.commit != before.commit;
            assert!(after == before || moved, "a run of a host was settled twice, or taken back");
        }
        let listed = self.listed(disk, &new);
        nothing_retired_is_named(disk, &new);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.ever_doomed.extend(&doomed);
        let back: Vec<&PackId> = listed.intersection(&seen.ever_doomed).collect();
        assert!(back.is_empty(), "doomed packs are listed again: {back:?}");
        seen.condemned += condemned.difference(&condemned_in(&old)).count() as u64;
        seen.doomed += doomed.difference(&doomed_in(&old)).count() as u64;
        if new.roots.len() > old.roots.len() {
            seen.resurrected += condemned_in(&old).difference(&condemned).count() as u64;
        } else if new.segments.len() > old.segments.len()
            && new.sessions.len() == old.sessions.len()
            && condemned == condemned_in(&old)
        {
            seen.checkpointed += 1;
        }
    }
}
