//! Taking what write-only hosts brought into the repository: each commit is checked, each chunk is decrypted, named by its
//! content and stored by the ordinary pipeline, and the snapshot is committed as any other. So nothing that a host says
//! about a chunk is ever believed, and docs/concurrency.md sees one more writer.

use crate::author::signed;
use crate::backup::timestamp;
use crate::retry::Retry;
use crate::snapshot::{Hold, Made, MadeBy, Snapshot};
use crate::{Error, ItemError, Monitor, Repository, Result};
use answers::{answer, answer_late, clear};
use chunkstore::format::names;
use chunkstore::head::{Host, NO_COMMIT, SegmentRef};
use chunkstore::inbox::{Commit, Inboxes, PublicKey, Run, SignedCommit, Verdict};
use chunkstore::ingest::{Dedupe, Packer, PackerOptions, Sealing};
use chunkstore::keys::KeyRing;
use chunkstore::storage::ErrorKind;
use chunkstore::store::{ChunkStore, Settled, describe};
use chunkstore::{ObjectId, SessionId};
use found::{Found, commit};
use intake::Intake;
use needs::{Missing, Needs};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

mod answers;
mod found;
mod intake;
mod needs;
mod own;

/// A snapshot's time may lie so far ahead of the admitter's clock.
const MOST_AHEAD_MS: u64 = 3_600_000;

/// The longest record of a snapshot that a host may bring, in bytes: HEAD has all records. One has some kilobytes;
/// many paths, excluded patterns or details of a server make it longer.
const MAX_RECORD: usize = 256 << 10;

/// A host's next run is at most so many numbers after its last one: each number that it skips was of a run that it began.
const MOST_SKIPPED: u64 = 1 << 20;

/// The last number that a run can have: what is counted on from it does not overflow.
const LAST_RUN: u64 = 1 << 62;

/// So many numbers before a run are asked for, if a commit seems to be missing.
const MOST_PASSED: usize = 1000;

/// Choices for an admission.
#[derive(Clone, Debug, Default)]
pub struct AdmitOptions {
    /// How chunks are stored.
    pub sealing: Sealing,
    /// How to pack.
    pub packer: PackerOptions,
}

/// What became of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is in the repository.
    Admitted {
        /// The snapshot.
        snapshot: ObjectId,
        /// Whether the host had lost its book, or another machine has its bundle.
        anew: bool,
    },
    /// It is not, and the host was told.
    Refused {
        /// Why, for people.
        why: String,
        /// Chunks that are missing.
        missing: u64,
    },
    /// It is not the host's, or damaged: it has no part in the order of the host's commits. It stays until a later run is
    /// settled.
    Forged {
        /// Why, for people.
        why: String,
    },
}

/// A run that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admission {
    /// The host's name.
    pub host: String,
    /// Its id.
    pub id: ObjectId,
    /// The run.
    pub run: u64,
    /// Bytes in the inbox.
    pub bytes: u64,
    /// What became of it.
    pub outcome: Outcome,
}

/// Looks into all inboxes, and takes in what can be taken in.
///
/// # Errors
///
/// Of the repository. What a host brought is no error of this.
pub fn admit(repo: &Repository, options: &AdmitOptions, monitor: &dyn Monitor) -> Result<Vec<Admission>> {
    let store = repo.store();
    if store.reload()?.hosts.is_empty() {
        return Ok(vec![]);
    }
    let inboxes = Inboxes::list(&**store.storage())?;
    let mut all = vec![];
    for (id, runs) in inboxes.runs {
        let taken = take_runs(repo, &id, runs, options, monitor, &mut all);
        match taken {
            // What one host brought stops no other one.
            Err(error) if !is_ours(&error, &id) => {
                let (item, message) = (format!("what host {} brought", id.short()), error.to_string());
                monitor.error(ItemError { during: "admission", item, message });
            }
            taken => taken?,
        }
    }
    Ok(all)
}

/// Takes in the runs of a host.
fn take_runs(
    repo: &Repository,
    id: &ObjectId,
    runs: BTreeMap<u64, Run>,
    options: &AdmitOptions,
    monitor: &dyn Monitor,
    all: &mut Vec<Admission>,
) -> Result<()> {
    let store = repo.store();
    // As HEAD has it by now: each run that is settled changes it.
    let known = || -> Result<Option<Host>> {
        let head = store.head();
        let host = head.hosts.find(|host| host.id == *id)?.cloned();
        Ok(host.filter(|host| host.revoked_ms.is_none()))
    };
    let mut others = HashSet::new();
    for (number, run) in &runs {
        let Some(host) = known()? else { return Ok(()) };
        let outcome = if *number <= host.run {
            clear(store, &host, *number, run)?
        } else if run.is_committed {
            let admitter = Admitter { repo, host: &host, options, monitor };
            let mut retry = Retry::default();
            loop {
                match admitter.settle(*number, run) {
                    // A prune was faster, and removed what this run builds on, or took this for dead.
                    Err(error) if retry.again(&error).is_some() => {}
                    outcome => break outcome?,
                }
            }
        } else {
            None
        };
        if let Some(Outcome::Forged { .. }) = outcome {
            others.insert(*number);
        }
        let admission =
            |outcome| Admission { host: host.name, id: *id, run: *number, bytes: run.bytes, outcome };
        all.extend(outcome.map(admission));
        if monitor.interrupted() {
            return Err(Error::Interrupted);
        }
    }
    // What was interrupted is over once a later run is settled, which has brought what it left. So is what lies in the place
    // of a commit and is none: the host hears with the later answer that its run was passed over.
    if let Some(host) = known()? {
        let is_left = |number: &u64, run: &Run| !run.is_committed || others.contains(number);
        for (number, run) in runs.iter().filter(|(number, run)| **number <= host.run && is_left(number, run))
        {
            clear(store, &host, *number, run)?;
        }
    }
    Ok(())
}

/// Whether the store failed, or this process, whatever is admitted. That an object in the inbox of host `id` cannot be read may
/// be the host's doing: it chose its length, its storage class and how the store encrypts it.
fn is_ours(error: &Error, id: &ObjectId) -> bool {
    match error {
        Error::Store(chunkstore::Error::Storage(error))
            if error.op == "read" && error.object.contains(&names::inbox(id)) =>
        {
            error.kind == ErrorKind::Stopped
        }
        Error::Store(error @ chunkstore::Error::Storage(_)) => !error.is_damage(),
        Error::Store(
            chunkstore::Error::Memory { .. }
            | chunkstore::Error::NotSwapped(_)
            | chunkstore::Error::Fenced { .. }
            | chunkstore::Error::WorkerPanicked
            | chunkstore::Error::Interrupted
            | chunkstore::Error::Randomness(_),
        )
        | Error::Interrupted => true,
        _ => false,
    }
}

/// Runs that wait to be admitted, by host, as a listing shows them.
///
/// # Errors
///
/// Of the store.
pub fn waiting(store: &ChunkStore) -> Result<Vec<(Host, u64, Run)>> {
    let mut inboxes = Inboxes::list(&**store.storage())?;
    let mut all = vec![];
    for host in store.hosts()?.into_iter().filter(|host| host.revoked_ms.is_none()) {
        let is_new = |(number, run): &(u64, Run)| *number > host.run && run.is_committed;
        let runs = inboxes.runs.remove(&host.id).unwrap_or_default().into_iter().filter(is_new);
        all.extend(runs.map(|(number, run)| (host.clone(), number, run)));
    }
    Ok(all)
}

/// Why a run is not taken in.
enum Refusal {
    /// The host is told, and its order of commits goes on after it.
    Settle {
        why: String,
        missing: Missing,
        /// Whether something was not as it was written, which may have happened on its way: then it is read once more. What
        /// a host said wrongly it says wrongly again, and reading costs.
        is_doubtful: bool,
    },
    /// The repository failed, or this process.
    Fail(Error),
}

impl<E: Into<Error>> From<E> for Refusal {
    fn from(error: E) -> Self {
        Self::Fail(error.into())
    }
}

fn refused<T>(why: impl Into<String>) -> std::result::Result<T, Refusal> {
    Err(Refusal::Settle { why: why.into(), missing: Missing::default(), is_doubtful: false })
}

/// The same of what may have been damaged on its way.
fn doubted<T>(why: impl Into<String>) -> std::result::Result<T, Refusal> {
    Err(Refusal::Settle { why: why.into(), missing: Missing::default(), is_doubtful: true })
}

/// What is wrong with what a host brought, rather than with the store.
fn of_host<T>(done: chunkstore::Result<T>) -> std::result::Result<T, Refusal> {
    done.map_err(|error| match error {
        error @ chunkstore::Error::Storage(_) if !error.is_damage() => Refusal::Fail(error.into()),
        error @ (chunkstore::Error::Memory { .. } | chunkstore::Error::Interrupted) => {
            Refusal::Fail(error.into())
        }
        error => {
            let is_doubtful = error.is_damage();
            Refusal::Settle { why: describe(&error), missing: Missing::default(), is_doubtful }
        }
    })
}

/// Limits the numbers of a summary to what was seen: `files` among the entries, and `chunks` that were brought, of `plain` and
/// `packed` bytes. Listings show them, and add them up.
fn limit(snapshot: &mut Snapshot, files: u64, chunks: u64, plain: u64, packed: u64) {
    let (entries, bytes) = (snapshot.manifest.entries, snapshot.manifest.bytes);
    let summary = &mut snapshot.summary;
    let others = entries.saturating_sub(files);
    for (number, most) in [
        (&mut summary.files_new, files),
        (&mut summary.files_changed, files),
        (&mut summary.files_unmodified, files),
        (&mut summary.dirs_new, others),
        (&mut summary.dirs_changed, others),
        (&mut summary.dirs_unmodified, others),
        (&mut summary.data_blobs, chunks),
        (&mut summary.delta_blobs, chunks),
        (&mut summary.tree_blobs, chunks),
        (&mut summary.data_added, plain),
        (&mut summary.data_added_packed, packed),
        (&mut summary.total_files_processed, files),
        (&mut summary.total_bytes_processed, bytes),
    ] {
        *number = most.min(*number);
    }
}

struct Admitter<'a> {
    repo: &'a Repository,
    host: &'a Host,
    options: &'a AdmitOptions,
    monitor: &'a dyn Monitor,
}

impl Admitter<'_> {
    /// Takes a run in, or refuses it. `None` if another admitter was faster.
    fn settle(&self, number: u64, run: &Run) -> Result<Option<Outcome>> {
        let (store, host) = (self.repo.store(), self.host);
        if host.run > 0 {
            // What was settled last is answered before the next is: HEAD knows what came of the last one only.
            answer_late(store, host, host.run)?;
        }
        // Were it settled, no honest run could follow.
        if number > LAST_RUN || number > host.run.saturating_add(MOST_SKIPPED) {
            let why = format!("its number {number} does not follow {}", host.run);
            return Ok(Some(Outcome::Forged { why }));
        }
        let signed = match commit(store, host, number)? {
            Found::Commit(signed) => signed,
            // Another admitter removed it.
            Found::Gone => return Ok(None),
            Found::Other(why) => return Ok(Some(Outcome::Forged { why })),
        };
        let header = &signed.header;
        let has_epoch = store.keys().has_epoch(header.epoch)?;
        let settled = Settled {
            host: host.id,
            run: number,
            commit: signed.hash,
            after: host.commit,
            epoch: has_epoch.then_some(header.epoch),
        };
        let anew = header.previous == NO_COMMIT && host.commit != NO_COMMIT;
        let done = if !has_epoch {
            refused(format!(
                "it is sealed to the inbox of epoch {}, which was retired or is not known here",
                header.epoch
            ))
        } else if !anew && header.previous != host.commit {
            if self.is_passed_over(number)? {
                return Ok(None);
            }
            refused(
                "a commit before it is missing: it was lost or removed in the store, or two machines have the file of this \
                 host",
            )
        } else {
            match self.take_in(&signed, &settled) {
                // Final, for a snapshot that nobody can make again: what was damaged on its way is sound the second time.
                Err(Refusal::Settle { why, is_doubtful: true, .. }) => {
                    tracing::info!(why, "looks a second time");
                    self.take_in(&signed, &settled)
                }
                done => done,
            }
        };
        let outcome = match done {
            Ok(Some(snapshot)) => {
                answer(store, host, number, signed.hash, Verdict::Admitted(snapshot), Missing::default())?;
                Outcome::Admitted { snapshot, anew }
            }
            Ok(None) => return Ok(None),
            Err(Refusal::Fail(error)) => return Err(error),
            Err(Refusal::Settle { why, missing, .. }) => {
                let count = missing.ids.len() as u64;
                if !store.settle_refused(&settled, &why)? {
                    return Ok(None);
                }
                answer(store, host, number, signed.hash, Verdict::Refused(why.clone()), missing)?;
                Outcome::Refused { why, missing: count }
            }
        };
        for name in &run.objects {
            store.storage().delete(name).map_err(chunkstore::Error::from)?;
        }
        Ok(Some(outcome))
    }

    /// Whether a listing left out a commit before this one, or it was read with damage: then that is next. Only a commit of
    /// the host counts. Anything else in its place would stop the host for ever.
    fn is_passed_over(&self, number: u64) -> Result<bool> {
        let store = self.repo.store();
        for run in (self.host.run + 1..number).rev().take(MOST_PASSED) {
            match store.storage().len(&names::commit(&self.host.id, run)) {
                Err(error) if error.kind == ErrorKind::NotFound => continue,
                there => there.map_err(chunkstore::Error::from)?,
            };
            if matches!(commit(store, self.host, run)?, Found::Commit(_)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Proves what a run brought, and commits its snapshot. `None` if another admitter was faster.
    fn take_in(
        &self,
        signed: &SignedCommit,
        settled: &Settled,
    ) -> std::result::Result<Option<ObjectId>, Refusal> {
        let store = self.repo.store();
        let header = &signed.header;
        let ring = of_host(store.keys().open_run(&header.host, header.run, header.epoch, &header.key))?;
        let commit = of_host(signed.open(&ring))?;
        let snapshot = self.snapshot(signed, &commit)?;
        let mut rings = BTreeMap::from([(header.run, ring)]);
        for earlier in &commit.earlier {
            if earlier.run >= header.run || rings.contains_key(&earlier.run) {
                return refused("it names a run before it that is none");
            }
            let ring = store.keys().open_run(&header.host, earlier.run, earlier.epoch, &earlier.key);
            rings.insert(earlier.run, of_host(ring)?);
        }
        // From here on as a backup.
        let session = store.open_session("admit")?;
        let done = self.store_all(&session, &commit, &rings, snapshot, settled);
        match &done {
            Ok(Some(_)) => {}
            _ => drop(store.close_session(&session, &[])),
        }
        done
    }

    /// The snapshot's record, as it will be: what a host may not decide is decided here.
    fn snapshot(&self, commit: &SignedCommit, brought: &Commit) -> std::result::Result<Snapshot, Refusal> {
        let (store, host) = (self.repo.store(), self.host);
        if brought.record.len() > MAX_RECORD {
            return refused("its snapshot's record is too long");
        }
        let Ok(said) = serde_json::from_slice::<Snapshot>(&brought.record) else {
            return refused("its snapshot's record is none");
        };
        if said.hostname != host.name {
            return refused(format!("its snapshot says that it is of another host than '{}'", host.name));
        }
        let now_ms = store.now_ms();
        let time_ms = u64::try_from(said.time.as_millisecond()).unwrap_or_default();
        if time_ms > now_ms.saturating_add(MOST_AHEAD_MS) {
            return refused(
                "the time of its snapshot is still to come: the clock of one of the two machines is wrong",
            );
        }
        let head = store.head();
        let made = Made {
            incarnation: head.incarnation,
            generation: head.generation,
            clock: timestamp(now_ms),
            time_given: false,
        };
        let signed = signed(host.id, commit.header.run, said.time, &brought.signature);
        if !signed.fits(&said, store.keys().repository(), &PublicKey(host.public)) {
            return refused("the host's signature of its snapshot does not fit");
        }
        // A flood of snapshots of times long past would push others out of what rules keep.
        let time = said.time.max(timestamp(host.last_ms));
        let made_by = match said.made_by {
            made_by @ (MadeBy::Hand | MadeBy::Run(_)) => made_by,
            MadeBy::Stream | MadeBy::Safety => MadeBy::Hand,
        };
        Ok(Snapshot {
            time,
            made: Some(made),
            made_by,
            hold: Hold::Unsaid,
            keep_until: None,
            // Ids of the host's book, which mean nothing here.
            parent: None,
            original: None,
            earlier: vec![],
            signed: Some(signed),
            other: BTreeMap::new(),
            ..said
        })
    }

    fn store_all(
        &self,
        session: &SessionId,
        commit: &Commit,
        rings: &BTreeMap<u64, KeyRing>,
        mut snapshot: Snapshot,
        settled: &Settled,
    ) -> std::result::Result<Option<ObjectId>, Refusal> {
        let store = self.repo.store();
        self.repo.sync_index(self.monitor)?;
        let dedupe = Dedupe::asking(Arc::clone(store), self.options.sealing, Duration::ZERO)?;
        let mut packer = Packer::new(&dedupe, *session, self.options.packer)?;
        let mut intake = Intake::new(&dedupe, self.host.id, rings)?;
        let proved = intake.take_all(&commit.packs, &mut packer, self.monitor);
        let segments: Vec<SegmentRef> = match proved {
            Ok(()) => packer.flush()?,
            Err(refusal) => {
                // Closed first: a session that is open may still name its packs.
                store.close_session(session, &[])?;
                packer.abandon();
                return Err(refusal);
            }
        };
        // Listed before the manifest is walked, which is read like any other.
        store.checkpoint(session, &segments)?;
        self.repo.sync_index(self.monitor)?;
        let (brought, plain) = intake.finish();
        let Needs { missing, files } = self.needs(&dedupe, &brought, &snapshot)?;
        if !missing.ids.is_empty() {
            let what = match missing.ids.len() {
                1 => "1 chunk that it builds on is".to_owned(),
                count => format!("{count} chunks that it builds on are"),
            };
            let why =
                format!("{what} no longer in the repository: what they were of was forgotten and pruned");
            return Err(Refusal::Settle { why, missing, is_doubtful: false });
        }
        limit(&mut snapshot, files, brought.count(), plain, commit.packs.iter().map(|pack| pack.len).sum());
        let time_ms = u64::try_from(snapshot.time.as_millisecond()).unwrap_or_default();
        let root = self.repo.write_snapshot(&snapshot)?;
        // The commit point.
        let done = store.commit_of_host(session, &[], &root, &dedupe.relied(), settled, time_ms);
        match done {
            Ok(true) => {
                tracing::info!(host = %self.host.id.short(), run = settled.run, snapshot = %root.id.short(), "admitted");
                Ok(Some(root.id))
            }
            Ok(false) => {
                self.repo.remove_record(&root.object())?;
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests;
