//! Hosts that back up, forget, prune, restore and die, and what is known of each snapshot that was
//! acknowledged to one of them.

use crate::coverage::{Coverage, Sometimes};
use crate::judge::{Judge, Truth};
use crate::schedule::{self, Hazards, Random, Turn};
use crate::storage::{Disk, Faults, Link, TurnCell, Witness};
use chunkstore::chunker::ChunkerParams;
use chunkstore::config::{HeadMethod, Layout};
use chunkstore::env::Env;
use chunkstore::executor::Inline;
use chunkstore::ingest::{PackerOptions, Sealing};
use chunkstore::keys::{KdfParams, SlotOwner};
use chunkstore::store::{Access, Identity, RetireOptions};
use chunkstore::{Error as StoreError, ObjectId};
use engine::backup::{BackupOptions, backup};
use engine::columns::SnapshotColumns;
use engine::entry::Time;
use engine::monitor::Tally;
use engine::prune::{MaxUnused, PruneOptions, prune};
use engine::renew::{RenewOptions, renew};
use engine::restore::{Held, dump};
use engine::snapshot::{Listed, SourceRecord};
use engine::source::{Content, Item, Piece, Source, SourceError};
use engine::verify::{ReadData, check};
use engine::{Error, Repository};
use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

mod hosts;
use hosts::Bringers;

const PASSWORD: &[u8] = b"simulation";

/// A kind of world; the seed chooses within it.
#[derive(Clone, Copy, Debug)]
struct Plan {
    writers: u64,
    pruners: u64,
    readers: u64,
    rotators: u64,
    renewers: u64,
    bringers: u64,
    hazards: Hazards,
    faults: Faults,
    layout: Layout,
}

impl Plan {
    fn draw(random: &mut Random) -> Self {
        // A third of the worlds are kind: there, everything must succeed.
        let unkind = random.below(3);
        let some = |random: &mut Random, most: u64| if unkind == 0 { 0 } else { random.below(most + 1) };
        Self {
            writers: 1 + if random.chance(100) { random.below(8) } else { random.below(4) },
            pruners: 1 + random.below(3),
            readers: random.below(2),
            rotators: random.below(2),
            renewers: random.below(2),
            hazards: Hazards {
                crash: some(random, 8),
                stall: if unkind == 2 { random.below(12) } else { 0 },
            },
            faults: Faults { fail: some(random, 30), alter: some(random, 10), hide: some(random, 100) },
            layout: Layout {
                head: if random.chance(250) { HeadMethod::Chain } else { HeadMethod::Swap },
                parity: random.chance(250),
            },
            bringers: if random.chance(300) { 1 + random.below(2) } else { 0 },
        }
    }

    fn is_kind(&self) -> bool {
        self.hazards.crash + self.faults.fail + self.faults.alter + self.faults.hide == 0
    }
}

/// What all hosts share.
struct World {
    seed: u64,
    plan: Plan,
    disk: Arc<Disk>,
    truth: Mutex<Truth>,
    /// What hosts asked to forget, perhaps before its writer knew that it is there.
    forgotten: Mutex<HashSet<ObjectId>>,
    bringers: Bringers,
    coverage: Coverage,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A host's clock and randomness.
struct HostEnv {
    turn: Option<Arc<TurnCell>>,
    random: Mutex<blake3::OutputReader>,
    /// Its clock is wrong by this much.
    skew_ms: i64,
    /// Bytes that HEAD's longest list may take in HEAD: few for most seeds, so that lists lie in leaves.
    head_inline: usize,
}

impl HostEnv {
    fn new(seed: u64, host: &str, turn: Option<Arc<TurnCell>>, skew_ms: i64) -> Self {
        let mut hasher = blake3::Hasher::new();
        let random = hasher.update(&seed.to_le_bytes()).update(host.as_bytes()).finalize_xof();
        let head_inline = [16 << 10, 1500, 300][(seed % 3) as usize];
        Self { turn, random: Mutex::new(random), skew_ms, head_inline }
    }
}

impl Env for HostEnv {
    fn now(&self) -> Duration {
        let now = self.turn.as_ref().map_or(2_000_000_000_000, |turn| turn.get().now_ms());
        Duration::from_millis(now.saturating_add_signed(self.skew_ms))
    }
    fn random(&self, bytes: &mut [u8]) -> chunkstore::Result<()> {
        locked(&self.random).fill(bytes);
        Ok(())
    }
    fn sleep(&self, time: Duration) {
        if let Some(turn) = &self.turn {
            turn.get().sleep(u64::try_from(time.as_millis()).unwrap_or(u64::MAX) + 1);
        }
    }
    fn head_inline(&self) -> usize {
        self.head_inline
    }
}

fn access(link: Link, env: HostEnv, host: &str) -> Access {
    let identity = Identity { hostname: host.to_owned(), ..Identity::default() };
    Access {
        storage: Arc::new(link),
        env: Arc::new(env),
        cpu: Arc::new(Inline),
        io: Arc::new(Inline),
        cache: None,
        identity,
        columns: &SnapshotColumns,
    }
}

/// What became of a seed.
pub struct Outcome {
    /// Requests and other steps.
    pub steps: u64,
    /// Equal for equal runs.
    pub trace: blake3::Hash,
    /// What was seen to happen.
    pub coverage: Coverage,
}

/// Runs the world of a seed and judges it. Panics with the reason if something was lost.
pub fn simulate(seed: u64) -> Outcome {
    let mut random = Random::new(seed, "plan");
    let plan = Plan::draw(&mut random);
    let disk = Arc::new(Disk::default());
    let cheap = KdfParams { memory_kib: 8, passes: 1, lanes: 1 };
    let calm = || Link { disk: Arc::clone(&disk), turn: None, faults: Faults::default(), witness: None };
    let owner = SlotOwner::default();
    let first = access(calm(), HostEnv::new(seed, "init", None, 0), "init");
    let made = Repository::init(first, ChunkerParams::around(1 << 10), PASSWORD, cheap, owner, plan.layout)
        .expect("a calm store");
    let judge = Arc::new(Judge::new(Arc::clone(made.store().keys())));
    let world = World {
        seed,
        plan,
        disk: Arc::clone(&disk),
        truth: Mutex::default(),
        forgotten: Mutex::default(),
        bringers: Bringers::add(&made, plan.bringers),
        coverage: Coverage::default(),
    };
    let mut actors: Vec<Box<dyn FnOnce(Turn) + Send + '_>> = vec![];
    let mut hire = |role: for<'h, 'w> fn(&'h Host<'w>), name: String| {
        let (world, judge) = (&world, Arc::clone(&judge));
        actors.push(Box::new(move |turn| role(&Host::new(world, name, turn, judge))));
    };
    (0..plan.writers).for_each(|number| hire(|host| host.write(), format!("writer-{number}")));
    (0..plan.pruners).for_each(|number| hire(|host| host.prune(), format!("pruner-{number}")));
    (0..plan.readers).for_each(|number| hire(|host| host.read(), format!("reader-{number}")));
    (0..plan.rotators).for_each(|number| hire(|host| host.rotate(), format!("rotator-{number}")));
    (0..plan.renewers).for_each(|number| hire(|host| host.renew(), format!("renewer-{number}")));
    (0..plan.bringers).for_each(|number| hire(|host| host.bring(), format!("host-{number}")));
    (0..plan.bringers).for_each(|number| hire(|host| host.admit(), format!("admitter-{number}")));
    let ran = schedule::run(seed, plan.hazards, actors);
    let mut truth = std::mem::take(&mut *locked(&world.truth));
    let judged: Arc<dyn Witness> = Arc::clone(&judge) as _;
    hosts::settle(&world, &judged, &mut truth);
    let World { coverage, .. } = world;
    coverage.add(Sometimes::Crashed, ran.crashed);
    judge.report(&coverage);
    let last = |name: &str| {
        let judged: Arc<dyn Witness> = Arc::clone(&judge) as _;
        let link = Link { witness: Some(judged), ..calm() };
        Repository::open(access(link, HostEnv::new(seed, name, None, 0), name), PASSWORD)
            .expect("nothing disturbs the judge")
    };
    judge.judge(seed, &disk, &last, &truth);
    Outcome { steps: ran.steps, trace: ran.trace, coverage }
}

/// One host, which does one kind of work.
struct Host<'a> {
    world: &'a World,
    name: String,
    turn: Arc<TurnCell>,
    judge: Arc<Judge>,
    random: Mutex<Random>,
    skew_ms: i64,
}

impl<'a> Host<'a> {
    fn new(world: &'a World, name: String, turn: Turn, judge: Arc<Judge>) -> Self {
        let mut random = Random::new(world.seed, &name);
        let decade = 10 * 365 * 24 * 3_600_000i64;
        let skew_ms = if random.chance(200) { random.below(2 * decade as u64) as i64 - decade } else { 0 };
        Self {
            world,
            name,
            turn: Arc::new(TurnCell(Mutex::new(turn))),
            judge,
            random: Mutex::new(random),
            skew_ms,
        }
    }

    fn below(&self, end: u64) -> u64 {
        locked(&self.random).below(end)
    }

    /// Starts a process: nothing is remembered of earlier ones.
    fn open(&self, run: u64) -> engine::Result<Repository> {
        let link = Link {
            disk: Arc::clone(&self.world.disk),
            turn: Some(Arc::clone(&self.turn)),
            faults: self.world.plan.faults,
            witness: Some(Arc::clone(&self.judge) as _),
        };
        let env = HostEnv::new(
            self.world.seed,
            &format!("{}/{run}", self.name),
            Some(Arc::clone(&self.turn)),
            self.skew_ms,
        );
        Repository::open(access(link, env, &self.name), PASSWORD)
    }

    /// Notes what stopped a run. In a kind world only a prune that went ahead of a sleeper may.
    fn excuse(&self, error: &Error) {
        let kind = self.world.plan.is_kind();
        match error {
            Error::Store(StoreError::Fenced { .. }) => self.world.coverage.add(Sometimes::Fenced, 1),
            error => assert!(!kind, "{}: {error:?} in a kind world", self.name),
        }
    }

    fn write(&self) {
        let mut content = vec![];
        for run in 0..1 + self.below(3) {
            content = self.next_content(content);
            self.turn.get().sleep(self.below(2000));
            let Ok(repo) = self.open(run).inspect_err(|error| self.excuse(error)) else { continue };
            let known = repo.store().keys().epochs().len();
            let mut source = Text::new(&self.name, &content, &self.turn);
            let options = BackupOptions {
                hostname: self.name.clone(),
                time: jiff::Timestamp::from_millisecond(repo.store().now_ms() as i64).unwrap_or_default(),
                sealing: Sealing { delta: !locked(&self.random).chance(200), ..Sealing::default() },
                packer: small_packs(),
                ..BackupOptions::default()
            };
            match backup(&repo, &mut source, &options, &Tally::default()) {
                Ok(report) => {
                    let id = report.snapshot.expect("not a dry run");
                    if !locked(&self.world.forgotten).contains(&id) {
                        locked(&self.world.truth).insert(id, (self.name.clone(), content.clone()));
                    }
                    self.world.coverage.add(Sometimes::BackedUp, 1);
                    self.learned(&repo, known);
                    self.world.coverage.add(Sometimes::StoredDelta, report.summary.delta_blobs);
                }
                Err(error) => self.excuse(&error),
            }
        }
    }

    /// Tonight's data: pieces that all hosts have, and some of one's own, changed here and there.
    fn next_content(&self, before: Vec<u8>) -> Vec<u8> {
        let mut random = locked(&self.random);
        let mut content = before;
        if content.is_empty() || random.chance(200) {
            content = (0..1 + random.below(6))
                .flat_map(|_| piece(random.below(6), 1 + random.below(12_000)))
                .collect();
        } else {
            for _ in 0..1 + random.below(4) {
                let at = random.below(content.len() as u64) as usize;
                let end = (at + random.below(300) as usize).min(content.len());
                let (seed, len) = (random.next(), random.below(300));
                content.splice(at..end, piece(seed, len));
            }
        }
        if content.is_empty() { piece(0, 100) } else { content }
    }

    /// Notes that a process got data keys since it was opened, when it knew so many.
    fn learned(&self, repo: &Repository, known: usize) {
        let now = repo.store().keys().epochs().len();
        // Those of retired epochs go.
        self.world.coverage.add(Sometimes::Learned, now.saturating_sub(known) as u64);
    }

    /// Makes new data epochs, now and then.
    fn rotate(&self) {
        for run in 0..1 + self.below(3) {
            self.turn.get().sleep(self.below(3000));
            let Ok(repo) = self.open(run).inspect_err(|error| self.excuse(error)) else { continue };
            match repo.store().rotate() {
                Ok(done) => {
                    assert!(done.epoch > done.before);
                    self.world.coverage.add(Sometimes::Rotated, 1);
                }
                Err(error) => self.excuse(&error.into()),
            }
        }
    }

    /// Moves what is sealed under earlier epochs to a new one, and retires them once nothing needs them.
    fn renew(&self) {
        for run in 0..1 + self.below(3) {
            self.turn.get().sleep(self.below(3000));
            let Ok(repo) = self.open(run).inspect_err(|error| self.excuse(error)) else { continue };
            let coverage = &self.world.coverage;
            let rotated = if self.below(2) == 0 { repo.store().rotate().map(drop) } else { Ok(()) };
            if let Err(error) = rotated {
                self.excuse(&error.into());
                continue;
            }
            let options = RenewOptions {
                max_repack: (self.below(3) == 0).then(|| self.below(40_000)),
                packer: small_packs(),
                fence_after_ms: [0, 60_000, 3_600_000, 7 * 24 * 3_600_000][self.below(4) as usize],
                ..RenewOptions::default()
            };
            let epoch = repo.store().epoch();
            match renew(&repo, None, epoch, &options, &Tally::default()) {
                Ok(report) => coverage.add(Sometimes::Renewed, report.renewal.packs_moved),
                Err(error) => {
                    self.excuse(&error);
                    continue;
                }
            }
            self.turn.get().sleep(self.below(3000));
            // Refused as long as anything needs it; whether it is right, the judge sees.
            match repo.store().retire(epoch.saturating_sub(1), &[], &RetireOptions::default()) {
                Ok(done) => coverage.add(Sometimes::Retired, done.epochs.len() as u64),
                Err(StoreError::Invalid(_)) => coverage.add(Sometimes::NotRetired, 1),
                Err(error) => self.excuse(&error.into()),
            }
        }
    }

    fn prune(&self) {
        for run in 0..1 + self.below(3) {
            self.turn.get().sleep(self.below(4000));
            let Ok(repo) = self.open(run).inspect_err(|error| self.excuse(error)) else { continue };
            let forget: Vec<ObjectId> = repo
                .snapshot_roots()
                .expect("HEAD's leaves are there")
                .iter()
                .map(|root| root.id)
                .filter(|_| self.below(3) == 0)
                .collect();
            locked(&self.world.forgotten).extend(&forget);
            locked(&self.world.truth).retain(|id, _| !forget.contains(id));
            if let Err(error) = repo.forget(&forget) {
                self.excuse(&error);
                continue;
            }
            let options = PruneOptions {
                max_unused: if self.below(2) == 0 { MaxUnused::Percent(0.0) } else { MaxUnused::default() },
                no_rebase: self.below(4) == 0,
                packer: small_packs(),
                fence_after_ms: [0, 60_000, 3_600_000, 7 * 24 * 3_600_000][self.below(4) as usize],
                ..PruneOptions::default()
            };
            match prune(&repo, &options, &Tally::default()) {
                Ok(plan) => {
                    let coverage = &self.world.coverage;
                    coverage.add(Sometimes::Pruned, 1);
                    coverage.add(Sometimes::Deferred, u64::from(plan.deferred));
                    coverage.add(Sometimes::Repacked, plan.packs_repack);
                    coverage.add(Sometimes::Rebased, plan.chunks_rebase);
                    coverage.add(Sometimes::RemovedOrphans, plan.orphans);
                    coverage.add(Sometimes::FencedOthers, plan.sessions_fenced);
                }
                Err(error) => self.excuse(&error),
            }
        }
    }

    /// Nothing is ever damaged here, but answers; what a prune moves or removes meanwhile is no damage.
    fn check(&self, run: u64) {
        let tally = Tally::default();
        match self.open(run).and_then(|repo| check(&repo, ReadData::All, &tally)) {
            Ok(report) => {
                let found = report.num_errors > 0 && self.world.plan.is_kind();
                assert!(!found, "{}: check finds {:?} in a kind world", self.name, tally.errors());
                self.world.coverage.add(Sometimes::CheckedBeside, 1);
            }
            Err(Error::Refused(_)) => {}
            Err(error) => self.excuse(&error),
        }
    }

    fn read(&self) {
        for run in 0..1 + self.below(4) {
            self.turn.get().sleep(self.below(8000));
            if self.below(4) == 0 {
                self.check(run);
                continue;
            }
            let chosen = {
                let truth = locked(&self.world.truth);
                let Some(at) = (truth.len() as u64).checked_sub(1).map(|last| self.below(last + 1)) else {
                    continue;
                };
                truth.iter().nth(at as usize).map(|(id, (name, bytes))| (*id, name.clone(), bytes.clone()))
            };
            let Some((id, name, expected)) = chosen else { continue };
            if self.below(3) == 0 {
                self.read_held(run, id, &name, &expected);
                continue;
            }
            let read = self.open(run).and_then(|repo| {
                let listed: Listed =
                    repo.find(&id.to_string(), &engine::snapshot::Filter::default(), &Tally::default())?;
                let mut bytes = vec![];
                dump(&repo, &listed.snapshot, name.as_bytes(), &mut bytes, &Tally::default())?;
                Ok(bytes)
            });
            match read {
                Ok(bytes) => {
                    assert!(bytes == expected, "{}: wrong bytes were restored of {id}", self.name);
                    self.world.coverage.add(Sometimes::ReadBeside, 1);
                }
                Err(error) if locked(&self.world.truth).contains_key(&id) => self.excuse(&error),
                // Forgotten meanwhile.
                Err(_) => {}
            }
        }
    }
}

impl Host<'_> {
    /// Reads a snapshot, and again after a while, as a restore does that proves first: while it is held, what others forget
    /// and prune takes nothing from it.
    fn read_held(&self, run: u64, id: ObjectId, name: &str, expected: &[u8]) {
        let filter = engine::snapshot::Filter::default();
        let Ok(repo) = self.open(run).inspect_err(|error| self.excuse(error)) else { return };
        let Ok(listed) = repo.find(&id.to_string(), &filter, &Tally::default()) else { return };
        // Forgotten meanwhile, or no answer to the swap.
        let Ok(Ok(held)) = Held::take(&repo, &id) else { return };
        for _ in 0..2 {
            self.turn.get().sleep(self.below(20_000));
            let mut bytes = vec![];
            let read = dump(&repo, &listed.snapshot, name.as_bytes(), &mut bytes, &Tally::default());
            let head = repo.store().reload();
            let is_held = head.is_ok() && held.is_open().is_ok_and(|open| open);
            match read {
                Ok(_) => assert!(bytes == expected, "{}: wrong bytes of {id}, which is held", self.name),
                Err(error) if is_held => self.excuse(&error),
                // A prune took the session for dead.
                Err(_) => return,
            }
        }
        if !locked(&self.world.truth).contains_key(&id) {
            self.world.coverage.add(Sometimes::HeldWhileForgotten, 1);
        }
    }
}

/// Packs of a few chunks, and checkpoints after a few packs.
fn small_packs() -> PackerOptions {
    PackerOptions { pack_len: 8 << 10, checkpoint_len: 12 << 10, ..PackerOptions::default() }
}

fn piece(seed: u64, len: u64) -> Vec<u8> {
    let mut bytes = vec![0; len as usize];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// A stream that lets others go first while it is read.
struct Text {
    item: Option<Item>,
    path: String,
}

impl Text {
    fn new(name: &str, content: &[u8], turn: &Arc<TurnCell>) -> Self {
        let content = TextContent { rest: content.to_vec(), turn: Arc::clone(turn) };
        let item = Item::stream(name, Time::default(), Box::new(move || Ok(Box::new(content))));
        Self { item: Some(item), path: format!("/{name}") }
    }
}

impl Source for Text {
    fn records(&self) -> Vec<SourceRecord> {
        vec![SourceRecord::new("stdin", self.path.clone(), true)]
    }
    fn paths(&self) -> Vec<String> {
        vec![self.path.clone()]
    }
    fn next_item(&mut self, _: &dyn engine::Monitor) -> Result<Option<Item>, SourceError> {
        Ok(self.item.take())
    }
}

struct TextContent {
    rest: Vec<u8>,
    turn: Arc<TurnCell>,
}

impl Content for TextContent {
    fn read(&mut self, buffer: &mut [u8]) -> Result<Piece, SourceError> {
        self.turn.get().pass("read", "source");
        if self.rest.is_empty() {
            return Ok(Piece::End);
        }
        let len = self.rest.len().min(buffer.len()).min(4000);
        buffer[..len].copy_from_slice(&self.rest[..len]);
        self.rest.drain(..len);
        Ok(Piece::Data(len))
    }
}
