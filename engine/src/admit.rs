//! Taking what write-only hosts brought into the repository: each commit is checked, each chunk is decrypted, named by its
//! content and stored by the ordinary pipeline, and the snapshot is committed as any other. So nothing that a host says
//! about a chunk is ever believed, and docs/concurrency.md sees one more writer.

use crate::author::signed;
use crate::backup::timestamp;
use crate::snapshot::{Hold, Made, MadeBy, Snapshot};
use crate::{Error, ItemError, Monitor, Repository, Result};
use answers::{answer, answer_late};
use chunkstore::format::{MAX_COMMIT_RECORD, names};
use chunkstore::head::{Host, NO_COMMIT, SegmentRef};
use chunkstore::inbox::{Commit, Inbox, PublicKey, SignedCommit, Verdict};
use chunkstore::ingest::{Dedupe, Packer, PackerOptions, Sealing};
use chunkstore::keys::KeyRing;
use chunkstore::storage::ErrorKind;
use chunkstore::store::{ChunkStore, Settled, describe};
use chunkstore::{ObjectId, SessionId};
use found::{Found, commit, commit_once};
use intake::{Intake, Plain};
use needs::{Missing, Needs};
use queue::{Budget, Queue};
use std::cell::Cell;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

mod afar;
mod answers;
mod chunks;
mod found;
mod intake;
mod needs;
mod own;
mod queue;

/// A snapshot's time may lie so far ahead of the admitter's clock.
const MOST_AHEAD_MS: u64 = 3_600_000;

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
    /// Runs from this number on were not looked at, since one admission looks at a bounded number of a host: the next one does.
    Waits {
        /// How many.
        runs: u64,
    },
    /// The number of this run, which is the lowest of several, is too far after the last one. Were it settled, no honest run
    /// could follow. They stay until somebody removes them, or revokes the host.
    Far {
        /// How many.
        runs: u64,
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

/// Looks into the inbox of each host, and takes in what can be taken in; then removes what is over. Of one host it looks at
/// a bounded number of runs and of objects.
///
/// # Errors
///
/// Of the repository. What a host brought is no error of this.
pub fn admit(repo: &Repository, options: &AdmitOptions, monitor: &dyn Monitor) -> Result<Vec<Admission>> {
    let store = repo.store();
    store.reload()?;
    let (mut all, mut queues) = (vec![], vec![]);
    for host in store.hosts()?.iter().filter(|host| host.revoked_ms.is_none()) {
        let mut looked = None;
        let look = Queue::look(repo, host, options, monitor).map(|queue| looked = queue);
        told(&host.id, look, monitor)?;
        if let Some(mut queue) = looked {
            told(&host.id, queue.settle(&mut all), monitor)?;
            queues.push(queue);
        }
        if monitor.interrupted() {
            return Err(Error::Interrupted);
        }
    }
    // Afterwards: no host waits for what another one heaped up.
    for queue in queues {
        told(queue.host(), queue.clear(&mut all), monitor)?;
    }
    all.sort_by_key(|admission| (admission.id, admission.run));
    Ok(all)
}

/// What one host brought stops no other one: an error of it is told, and goes no further.
fn told(id: &ObjectId, done: Result<()>, monitor: &dyn Monitor) -> Result<()> {
    match done {
        Err(error) if !is_ours(&error, id) => {
            let (item, message) = (format!("what host {} brought", id.short()), error.to_string());
            monitor.error(ItemError { during: "admission", item, message });
            Ok(())
        }
        done => done,
    }
}

/// Whether the store failed, or this process, whatever is admitted. That an object in the inbox of host `id` cannot be read,
/// listed or removed may be the host's doing: it chose its name, its length, its storage class, its lock and how the store
/// encrypts it, and in a folder whom it belongs to.
fn is_ours(error: &Error, id: &ObjectId) -> bool {
    match error {
        Error::Store(chunkstore::Error::Storage(error))
            if error.op == "read" && error.object.contains(&names::inbox(id)) =>
        {
            error.kind == ErrorKind::Stopped
        }
        Error::Store(chunkstore::Error::Storage(error))
            if matches!(error.op, "list" | "delete") && error.object.contains(&names::inbox(id)) =>
        {
            !is_of_inbox(error.kind)
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

/// So many inboxes that are denied, without one that is not, say that nobody here has the right to look.
const MOST_DENIED: usize = 3;

/// What waits to be admitted, by host, as listings show it: hosts of which nothing waits are left out. `monitor` hears of inboxes
/// that cannot be listed because of what is in them.
///
/// # Errors
///
/// Of the store.
pub fn waiting(store: &ChunkStore, monitor: &dyn Monitor) -> Result<Vec<(Host, Inbox)>> {
    let (mut all, mut unknown) = (vec![], vec![]);
    let (mut denied, mut is_allowed) = (0, false);
    for host in store.hosts()?.into_iter().filter(|host| host.revoked_ms.is_none()) {
        match Inbox::look(&**store.storage(), &host.id, host.run) {
            Err(chunkstore::Error::Storage(error)) if is_of_inbox(error.kind) => {
                denied += usize::from(error.kind == ErrorKind::Denied);
                if !is_allowed && denied >= MOST_DENIED {
                    return Err(chunkstore::Error::from(error).into());
                }
                unknown.push((host.name, error));
            }
            inbox => {
                let inbox = inbox?;
                is_allowed = true;
                if inbox.pending.runs > 0 || inbox.far.runs > 0 {
                    all.push((host, inbox));
                }
            }
        }
    }
    // The same of fewer hosts, if none of them may be looked at.
    if !is_allowed && denied > 0 && denied == unknown.len() {
        return unknown.pop().map_or(Ok(all), |(_, error)| Err(chunkstore::Error::from(error).into()));
    }
    for (name, error) in unknown {
        monitor.warning(&format!("what waits of host '{name}' is not known: {error}"));
    }
    Ok(all)
}

/// Whether a listing or a removal in an inbox may fail so because of what its host put there.
fn is_of_inbox(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::BadName | ErrorKind::Denied)
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

/// A refusal that names the chunks that the host builds on, and that are not there or not its own.
fn lacks<T>(missing: Missing) -> std::result::Result<T, Refusal> {
    let (what, it) = match missing.ids.len() {
        1 => ("1 chunk that it builds on is".to_owned(), "it"),
        count => (format!("{count} chunks that it builds on are"), "them"),
    };
    let why = format!(
        "{what} no longer in the repository: the run that brought {it} was refused, or removed, or forgotten and pruned"
    );
    Err(Refusal::Settle { why, missing, is_doubtful: false })
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
    /// Runs in the place of whose commit something else was found.
    others: &'a HashSet<u64>,
    /// So many numbers between commits may still be asked for.
    asked: &'a Cell<u64>,
    budget: &'a Budget,
}

/// What came of a look at a run.
enum Step {
    /// It was settled, or what lies there is none.
    Done(Outcome),
    /// Another admitter was faster.
    Nothing,
    /// One before it is to be settled first, which this admission cannot.
    Behind,
}

impl Admitter<'_> {
    /// Takes a run in, or refuses it.
    fn settle(&self, number: u64) -> Result<Step> {
        let (store, host) = (self.repo.store(), self.host);
        if host.run > 0 {
            // What was settled last is answered before the next is: HEAD knows what came of the last one only.
            answer_late(store, host, host.run)?;
        }
        let signed = match commit(store, host, number)? {
            Found::Commit(signed) => signed,
            // Another admitter removed it.
            Found::Gone => return Ok(Step::Nothing),
            Found::Other(why) => return Ok(Step::Done(Outcome::Forged { why })),
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
                return Ok(Step::Behind);
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
            Ok(None) => return Ok(Step::Nothing),
            Err(Refusal::Fail(error)) => return Err(error),
            Err(Refusal::Settle { why, missing, .. }) => {
                let count = missing.ids.len() as u64;
                if !store.settle_refused(&settled, &why)? {
                    return Ok(Step::Nothing);
                }
                answer(store, host, number, signed.hash, Verdict::Refused(why.clone()), missing)?;
                Outcome::Refused { why, missing: count }
            }
        };
        Ok(Step::Done(outcome))
    }

    /// Whether a listing left out a commit before this one, or it was read with damage: then that is next. Only a commit of
    /// the host counts. Anything else in its place would stop the host for ever. If too many numbers were asked for by now,
    /// this one counts as such: the next admission looks.
    fn is_passed_over(&self, number: u64) -> Result<bool> {
        let store = self.repo.store();
        for run in (self.host.run + 1..number).rev().take(MOST_PASSED) {
            if self.others.contains(&run) {
                // Read twice before, and now for the last time: after this run it is over.
                if matches!(commit_once(store, self.host, run)?, Found::Commit(_)) {
                    return Ok(true);
                }
                continue;
            }
            let Some(left) = self.asked.get().checked_sub(1) else { return Ok(true) };
            self.asked.set(left);
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
        let mut plain = Plain::default();
        let done = self.store_all(&session, &commit, &rings, snapshot, settled, &mut plain);
        // Whatever it was refused for: a list of entries that names a chunk that nobody has makes all of it vain.
        self.budget.spend(plain.in_vain(done.is_err()));
        match &done {
            Ok(Some(_)) => {}
            _ => drop(store.close_session(&session, &[])),
        }
        done
    }

    /// The snapshot's record, as it will be: what a host may not decide is decided here.
    fn snapshot(&self, commit: &SignedCommit, brought: &Commit) -> std::result::Result<Snapshot, Refusal> {
        let (store, host) = (self.repo.store(), self.host);
        if brought.record.len() > MAX_COMMIT_RECORD {
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
        plain: &mut Plain,
    ) -> std::result::Result<Option<ObjectId>, Refusal> {
        let store = self.repo.store();
        self.repo.sync_index(self.monitor)?;
        let dedupe = Dedupe::asking(Arc::clone(store), self.options.sealing, Duration::ZERO)?;
        let mut packer = Packer::new(&dedupe, *session, self.options.packer)?;
        let mut intake = Intake::new(self, &dedupe, rings)?;
        let proved = intake.take_all(&commit.packs, &mut packer, self.monitor);
        *plain = intake.plain();
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
        let (brought, missing_bases) = intake.finish();
        let Needs { missing, files } = self.needs(&dedupe, &brought, missing_bases, &snapshot)?;
        if !missing.ids.is_empty() {
            return lacks(missing);
        }
        limit(&mut snapshot, files, brought.count(), plain.made, plain.packed);
        // Upwards: what follows must not be of a time before this one.
        let time_ms = u64::try_from(snapshot.time.as_nanosecond()).unwrap_or_default().div_ceil(1_000_000);
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
