//! Hosts that may only write, and those who admit what they bring.

use super::{Host, HostEnv, PASSWORD, Text, World, access, locked, small_packs};
use crate::coverage::Sometimes;
use crate::judge::Truth;
use crate::storage::{Faults, Link, Witness};
use chunkstore::ObjectId;
use chunkstore::format::names;
use chunkstore::inbox::{Book, Bundle};
use chunkstore::store::Access;
use engine::admit::{Admission, AdmitOptions, Outcome, admit, waiting};
use engine::backup::BackupOptions;
use engine::host::{backup_as_host, take_answers};
use engine::monitor::Tally;
use engine::snapshot::Filter;
use engine::{Error, Repository};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What is known of write-only hosts.
#[derive(Default)]
pub(super) struct Bringers {
    /// What each has.
    pub(super) bundles: Vec<Bundle>,
    /// Their books.
    folder: Option<tempfile::TempDir>,
    /// What each tried to back up, by name and time in milliseconds: whether it got through, it may not know.
    tried: Mutex<BTreeMap<(String, i64), Vec<u8>>>,
    /// The snapshot of each run that was admitted.
    admitted: Mutex<BTreeMap<(ObjectId, u64), ObjectId>>,
}

impl Bringers {
    /// Adds hosts to a repository.
    pub(super) fn add(repo: &Repository, count: u64) -> Self {
        let bundles = (0..count).map(|number| repo.store().add_host(&format!("host-{number}"), "disk"));
        let bundles: Vec<Bundle> = bundles.map(|bundle| bundle.expect("a calm store")).collect();
        if count > 0 {
            leave_revoked(repo);
        }
        let folder = (count > 0).then(|| tempfile::tempdir().expect("a folder for books"));
        Self { bundles, folder, ..Self::default() }
    }

    fn open(&self, number: usize, access: Access) -> chunkstore::Result<Book> {
        let folder = self.folder.as_ref().expect("there are hosts").path().join(number.to_string());
        Book::open(self.bundles[number].clone(), access, &folder, Duration::ZERO)
    }
}

/// A host that was revoked: every prune may remove what it left, and nothing of the others.
fn leave_revoked(repo: &Repository) {
    let store = repo.store();
    let host = store.add_host("revoked", "disk").expect("a calm store").keys.host;
    for name in [names::begun(&host, 1), names::commit(&host, 1), names::reply(&host, 1)] {
        store.storage().put(&name, bytes::Bytes::from_static(b"left")).expect("a calm store");
    }
    store.revoke_host("revoked").expect("a calm store");
}

/// Whether a run may be refused for this, in a world of this kind.
fn may_be_refused(why: &str, is_kind: bool) -> bool {
    // A prune was faster; or the clocks of two machines are years apart.
    let always = ["no longer in the repository", "still to come"];
    // Nothing that is in the inbox is ever lost here.
    let never = [
        "a commit before it is missing",
        "is missing in the inbox",
        "of another host",
        "the store lost its commit",
        "was over",
    ];
    always.iter().any(|reason| why.contains(reason))
        || !is_kind && never.iter().all(|reason| !why.contains(reason))
}

impl Host<'_> {
    fn link(&self) -> Link {
        Link {
            disk: Arc::clone(&self.world.disk),
            turn: Some(Arc::clone(&self.turn)),
            faults: self.world.plan.faults,
            witness: Some(Arc::clone(&self.judge) as _),
        }
    }

    /// Backs up as a write-only host.
    pub(super) fn bring(&self) {
        let number: usize =
            self.name.rsplit('-').next().and_then(|number| number.parse().ok()).expect("host-0");
        let mut content = vec![];
        for run in 0..1 + self.below(3) {
            content = self.next_content(content);
            // A backup that fails at once takes no time, and a time names one here.
            self.turn.get().sleep(1 + self.below(2000));
            if self.turn.get().is_dead() {
                // It died in a worker, whose end was an error to this loop; for the dead, time stands still.
                return;
            }
            let name = format!("{}/{run}", self.name);
            let env = HostEnv::new(self.world.seed, &name, Some(Arc::clone(&self.turn)), self.skew_ms);
            let access = access(self.link(), env, &self.name);
            let now = u64::try_from(access.env.now().as_millis()).unwrap_or_default();
            let time = jiff::Timestamp::from_millisecond(now as i64).unwrap_or_default();
            let tried = (self.name.clone(), time.as_millisecond());
            let before = locked(&self.world.bringers.tried).insert(tried, content.clone());
            assert!(before.is_none(), "two backups at one time");
            match self.bring_one(number, access, &content, time) {
                Ok(()) => self.world.coverage.add(Sometimes::Brought, 1),
                Err(error) => self.excuse(&error),
            }
        }
    }

    fn bring_one(
        &self,
        number: usize,
        access: Access,
        content: &[u8],
        time: jiff::Timestamp,
    ) -> engine::Result<()> {
        let mut book = self.world.bringers.open(number, access)?;
        for answered in take_answers(&mut book)? {
            if let Some(why) = answered.refused() {
                self.world.coverage.add(Sometimes::ToldRefused, 1);
                let is_kind = self.world.plan.is_kind();
                assert!(may_be_refused(why, is_kind), "seed {}: {why}", self.world.seed);
            }
        }
        let options = BackupOptions {
            hostname: self.name.clone(),
            time,
            packer: small_packs(),
            ..BackupOptions::default()
        };
        let mut source = Text::new(&self.name, content, &self.turn);
        backup_as_host(&mut book, &mut source, &options, &Tally::default()).map(drop)
    }

    /// Takes in what hosts brought.
    pub(super) fn admit(&self) {
        for run in 0..1 + self.below(4) {
            self.turn.get().sleep(self.below(3000));
            let Ok(repo) = self.open(run).inspect_err(|error| self.excuse(error)) else { continue };
            match take_in(&repo) {
                Ok(done) => done.iter().for_each(|admission| {
                    let known = note(self.world, &repo, admission);
                    if let Some((id, truth)) = known
                        && !locked(&self.world.forgotten).contains(&id)
                    {
                        locked(&self.world.truth).insert(id, truth);
                    }
                }),
                Err(error) => self.excuse(&error),
            }
        }
    }
}

fn take_in(repo: &Repository) -> engine::Result<Vec<Admission>> {
    let options = AdmitOptions { packer: small_packs(), ..AdmitOptions::default() };
    admit(repo, &options, &Tally::default())
}

/// Notes what came of a run. Returns the snapshot, and what it must hold, if it was admitted and can be read.
fn note(world: &World, repo: &Repository, admission: &Admission) -> Option<(ObjectId, (String, Vec<u8>))> {
    let (seed, is_kind) = (world.seed, world.plan.is_kind());
    match &admission.outcome {
        Outcome::Admitted { snapshot, anew } => {
            assert!(!anew, "seed {seed}: no book was lost");
            let run = (admission.id, admission.run);
            let before = locked(&world.bringers.admitted).insert(run, *snapshot);
            assert!(before.is_none(), "seed {seed}: run {run:?} was admitted twice");
            world.coverage.add(Sometimes::Admitted, 1);
            let listed = repo.find(&snapshot.to_string(), &Filter::default(), &Tally::default()).ok()?;
            let time = listed.snapshot.signed.expect("a host signed it").time;
            let tried = locked(&world.bringers.tried);
            let content = tried.get(&(admission.host.clone(), time.as_millisecond()));
            let content = content.unwrap_or_else(|| panic!("seed {seed}: nobody made {snapshot}"));
            Some((*snapshot, (admission.host.clone(), content.clone())))
        }
        Outcome::Refused { why, .. } => {
            assert!(may_be_refused(why, is_kind), "seed {seed}: {why}");
            world.coverage.add(Sometimes::Refused, 1);
            None
        }
        // The answer was altered: the next one reads it anew.
        Outcome::Forged { why } => {
            assert!(!is_kind, "seed {seed}: {why}");
            None
        }
        Outcome::Waits { .. } | Outcome::Far { .. } => panic!("seed {seed}: {admission:?}"),
    }
}

/// When all is over: each host finishes what it began, all of it is settled, and each host has its answers. What was admitted is
/// added to the truth.
pub(super) fn settle(world: &World, judge: &Arc<dyn Witness>, truth: &mut Truth) {
    if world.bringers.bundles.is_empty() {
        return;
    }
    let seed = world.seed;
    let calm = |name: &str| {
        let (disk, witness) = (Arc::clone(&world.disk), Some(Arc::clone(judge)));
        let link = Link { disk, turn: None, faults: Faults::default(), witness };
        access(link, HostEnv::new(seed, name, None, 0), name)
    };
    for number in 0..world.bringers.bundles.len() {
        // A commit that was on its way arrives.
        world.bringers.open(number, calm("finishes")).expect("nothing disturbs it");
    }
    let repo = Repository::open(calm("settles"), PASSWORD).expect("nothing disturbs it");
    for admission in take_in(&repo).expect("nothing disturbs it") {
        assert!(!matches!(admission.outcome, Outcome::Forged { .. }), "seed {seed}: {admission:?}");
        truth.extend(note(world, &repo, &admission));
    }
    // What was settled and not cleared is cleared by the next look.
    assert_eq!(take_in(&repo).expect("nothing disturbs it"), [], "seed {seed}");
    assert!(waiting(repo.store(), &Tally::default()).expect("nothing disturbs it").is_empty(), "seed {seed}");
    for number in 0..world.bringers.bundles.len() {
        let mut book = world.bringers.open(number, calm("hears")).expect("nothing disturbs it");
        let answers = book.answers().unwrap_or_else(|error| panic!("seed {seed}: {error:?}"));
        for answered in &answers {
            if let Some(why) = answered.refused() {
                assert!(may_be_refused(why, world.plan.is_kind()), "seed {seed}: {why}");
            }
            book.taken(answered).expect("a folder");
        }
        assert!(book.pending().is_empty(), "seed {seed}: {:?} wait for ever", book.pending());
    }
    // Each run at most once.
    let mut seen = BTreeMap::new();
    for listed in repo.snapshots_strict().unwrap_or_else(|error: Error| panic!("seed {seed}: {error:?}")) {
        if let Some(signed) = listed.snapshot.signed {
            let before = seen.insert((signed.host, signed.run), listed.id);
            assert!(before.is_none(), "seed {seed}: run {} of one host is there twice", signed.run);
        }
    }
}
