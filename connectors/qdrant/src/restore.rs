//! Restoring collections of a snapshot into a running Qdrant: each is created with its configuration, shard keys and
//! payload indexes, then its shards are uploaded and its aliases set. Existing collections are removed only after all
//! replacements were restored beside them: only this proves that the server accepts the data.

use crate::server::{Failed, Qdrant, Unsent, Upload};
use engine::restore::dump;
use engine::snapshot::Snapshot;
use engine::{Counter, Error, ItemError, Monitor, Repository, Result};
use std::collections::{BTreeMap, BTreeSet};

mod names;
mod plan;
mod shard_keys;

pub use plan::{Plan, plan};
use plan::{Step, numbers};

/// Choices for a restore into Qdrant.
#[derive(Clone, Debug, Default)]
pub struct QdrantOptions {
    /// Only collections that one of these names or patterns fits; all if empty.
    pub include: Vec<String>,
    /// Not those that one of these fits.
    pub exclude: Vec<String>,
    /// Collections that shall be called something else, with that.
    pub renames: Vec<(String, String)>,
    /// Replace collections that are there.
    pub replace: bool,
    /// Restore collections of which shards are missing.
    pub allow_missing_shards: bool,
    /// Whose points count where there are several replicas: `snapshot`, `replica` or `no_sync`.
    pub priority: String,
}

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QdrantReport {
    /// Collections, by the names they have now, and their points.
    pub collections: BTreeMap<String, u64>,
    /// The points that they had just before they were backed up, where that is known.
    pub points_before: BTreeMap<String, u64>,
    /// Shards uploaded.
    pub shards: u64,
    /// Bytes of them.
    pub bytes: u64,
}

/// A restore at work.
struct Restore<'a> {
    repo: &'a Repository,
    snapshot: &'a Snapshot,
    server: &'a Qdrant,
    options: &'a QdrantOptions,
    monitor: &'a dyn Monitor,
}

/// Does what was planned. `plan` is of the same snapshot, server and options.
///
/// # Errors
/// What failed first; [`Error::Interrupted`] if the user had enough.
pub fn apply(
    plan: &Plan,
    repo: &Repository,
    snapshot: &Snapshot,
    server: &Qdrant,
    options: &QdrantOptions,
    monitor: &dyn Monitor,
) -> Result<QdrantReport> {
    let restore = Restore { repo, snapshot, server, options, monitor };
    restore.all(plan).map_err(|error| unless_interrupted(error, monitor))
}

/// What a request that was given up says is not the reason.
fn unless_interrupted(error: Error, monitor: &dyn Monitor) -> Error {
    if monitor.interrupted() { Error::Interrupted } else { error }
}

impl Restore<'_> {
    fn all(&self, plan: &Plan) -> Result<QdrantReport> {
        // Beside what is there, before the first of it is removed.
        let mut besides = BTreeSet::new();
        for step in &plan.steps {
            let Some(beside) = &step.beside else { continue };
            if let Err(error) = self.make(step, beside) {
                self.discard_all(&besides);
                return Err(error);
            }
            besides.insert(beside.clone());
        }
        let mut report = QdrantReport::default();
        for step in &plan.steps {
            let mut removed = false;
            if let Err(error) = self.step(step, &mut removed, &mut report) {
                if let (Some(beside), true) = (&step.beside, removed) {
                    besides.remove(beside);
                    self.tell(
                        &step.target,
                        format!("it was removed and could not be restored; all of its data is in collection '{beside}'"),
                    );
                }
                self.discard_all(&besides);
                if !report.collections.is_empty() {
                    let done: Vec<&str> = report.collections.keys().map(String::as_str).collect();
                    tracing::warn!("restored before that: {}", done.join(", "));
                }
                return Err(error);
            }
            if let Some(beside) = &step.beside {
                besides.remove(beside);
                self.discard(beside);
            }
        }
        Ok(report)
    }

    /// Says what was left out, or is not as it should be.
    fn tell(&self, item: &str, message: String) {
        self.monitor.error(ItemError { during: "restore", item: format!("collection '{item}'"), message });
    }

    /// Removes a collection that this restore made.
    fn discard(&self, name: &str) {
        if let Err(failed) = self.server.discard_collection(name) {
            self.tell(
                name,
                format!("this restore made it or began to, and could not remove it: {}", failed.error.why),
            );
        }
    }

    fn discard_all(&self, names: &BTreeSet<String>) {
        names.iter().for_each(|name| self.discard(name));
    }

    /// A collection under its own name; `removed` says whether what was there is.
    fn step(&self, step: &Step, removed: &mut bool, report: &mut QdrantReport) -> Result<()> {
        if self.monitor.interrupted() {
            return Err(Error::Interrupted);
        }
        if step.beside.is_some() {
            let done = self.server.delete_collection(&step.target);
            // One that was heard of no more may be done.
            *removed = !matches!(done, Err(Failed { status: Some(_), .. }));
            done?;
        }
        let points = self.make(step, &step.target)?;
        for alias in &step.aliases {
            self.server.create_alias(alias, &step.target)?;
        }
        for (alias, other) in &step.left {
            self.tell(&step.target, format!("alias '{alias}' is not set: {other}"));
        }
        if !step.missing.is_empty() {
            let missing = numbers(&step.missing);
            self.tell(
                &step.target,
                format!("the points of shards {missing} are missing: they are not in the snapshot"),
            );
        }
        report.shards += step.stored.shards.len() as u64;
        report.bytes += step.stored.shards.values().map(|shard| shard.len).sum::<u64>();
        report.collections.insert(step.target.clone(), points);
        report
            .points_before
            .extend(step.stored.description.points.map(|points| (step.target.clone(), points)));
        Ok(())
    }

    /// Makes a collection, and removes it again unless all of it could be made; returns its points.
    fn make(&self, step: &Step, name: &str) -> Result<u64> {
        if self.monitor.interrupted() {
            return Err(Error::Interrupted);
        }
        self.begin(step, name);
        if let Err(failed) = self.server.create_collection(name, &step.stored.description.config) {
            // A request without an answer may be done.
            if failed.status.is_none() {
                self.discard(name);
            }
            return Err(failed.into());
        }
        self.fill(step, name).inspect_err(|_| self.discard(name))
    }

    /// Progress of a collection, with its own total.
    fn begin(&self, step: &Step, name: &str) {
        let shards = &step.stored.shards;
        self.monitor.phase(&if name == step.target {
            format!("collection '{name}'")
        } else {
            format!("collection '{}', beside as '{name}'", step.target)
        });
        self.monitor.count(Counter::FilesTotal, shards.len() as u64);
        self.monitor.count(Counter::BytesTotal, shards.values().map(|shard| shard.len).sum());
    }

    fn fill(&self, step: &Step, name: &str) -> Result<u64> {
        let description = &step.stored.description;
        self.server.complete_configuration(name, &description.config)?;
        for key in &step.keys {
            self.server.create_shard_key(name, &key.key, key.shards)?;
        }
        for key in step.keys.iter().filter(|key| key.filler) {
            self.server.delete_shard_key(name, &key.key)?;
        }
        self.compare_keys(step, name)?;
        self.server.create_indexes(name, description)?;
        for (number, shard) in &step.stored.shards {
            self.monitor.current(shard.path.as_bytes());
            self.upload(step, name, *number)?;
            self.monitor.count(Counter::FilesDone, 1);
        }
        let found = self.server.collection(name)?;
        if found.is_some_and(|found| found["status"] == "grey") {
            self.server.wake(name)?;
        }
        Ok(self.server.count(name)?)
    }

    /// Whether the server gave the shards of each key the numbers that they had.
    fn compare_keys(&self, step: &Step, name: &str) -> Result<()> {
        if step.keys.is_empty() {
            return Ok(());
        }
        let made = self.server.cluster(name)?;
        let made: BTreeMap<_, _> = made
            .replicas
            .into_iter()
            .filter_map(|replica| Some((replica.shard_id, replica.shard_key?)))
            .collect();
        if made == step.stored.description.shard_keys() {
            return Ok(());
        }
        let why = format!("the server gives the shards of its keys other numbers than they had: {made:?}");
        Err(self.server.error(format!("collection '{name}': {why}")).into())
    }

    fn upload(&self, step: &Step, name: &str, number: u64) -> Result<()> {
        let Some(shard) = step.stored.shards.get(&number) else { return Ok(()) };
        let upload = Upload {
            collection: name,
            shard: number,
            len: shard.len,
            checksum: shard.checksum.as_deref(),
            priority: &self.options.priority,
        };
        let (repo, snapshot, monitor) = (self.repo, self.snapshot, self.monitor);
        let done = self.server.upload(&upload, &|| monitor.interrupted(), |out| {
            dump(repo, snapshot, shard.path.as_bytes(), out, monitor).map(drop)
        });
        done.map_err(|unsent| match unsent {
            Unsent::Interrupted => Error::Interrupted,
            Unsent::Unread(error) => error,
            Unsent::Failed(failed) => {
                let mut error = failed.error;
                error.why = format!("shard {number} of '{name}': {}", error.why);
                Error::Source(error)
            }
        })
    }
}
