//! The runs of a host in one admission: which are looked at, in which order, and what is removed. Whoever has the host's
//! rights puts any number of objects in its inbox, so all that is done for one host has a bound, and what is beyond it is left
//! to the next admission.

use super::answers::clear;
use super::{Admission, AdmitOptions, Admitter, Outcome, Step};
use crate::retry::Retry;
use crate::{Error, Monitor, Repository, Result};
use chunkstore::ObjectId;
use chunkstore::head::Host;
use chunkstore::inbox::Inbox;
use std::cell::Cell;
use std::collections::{BTreeSet, HashSet};

/// A host is left alone once so many bytes were read in vain: ten of the longest objects in the place of a commit, or as many
/// repeats as one list of entries may have.
const MOST_VAIN: u64 = 256 << 20;

/// So many numbers between the commits of a host are asked for. A host skips a number for each run that was interrupted.
const MOST_ASKED: u64 = 10_000;

/// So many objects of a host are removed, those of 6 TiB of packs of the usual size.
const MOST_REMOVED: usize = 100_000;

/// Bytes that one admission read or made for one host and that brought nothing: what is no commit, stretches of lists of entries
/// that come again and again, old snapshots that were searched for what a run builds on, plaintext of packs that are bombs. A
/// thief may ask for all of it with each of a thousand small runs.
#[derive(Default)]
pub(super) struct Budget(Cell<u64>);

impl Budget {
    pub(super) fn spend(&self, bytes: u64) {
        self.0.set(self.0.get().saturating_add(bytes));
    }

    fn is_spent(&self) -> bool {
        self.0.get() >= MOST_VAIN
    }
}

/// What is known of a host's runs in one admission.
pub(super) struct Queue<'a> {
    repo: &'a Repository,
    options: &'a AdmitOptions,
    monitor: &'a dyn Monitor,
    id: ObjectId,
    inbox: Inbox,
    /// Runs that were settled here.
    settled: HashSet<u64>,
    /// Runs in the place of whose commit there is something else, which was read.
    others: HashSet<u64>,
}

impl<'a> Queue<'a> {
    /// Looks into the inbox of `host`. `None` if nothing is there.
    pub(super) fn look(
        repo: &'a Repository,
        host: &Host,
        options: &'a AdmitOptions,
        monitor: &'a dyn Monitor,
    ) -> Result<Option<Self>> {
        let inbox = Inbox::look(&**repo.store().storage(), &host.id, host.run)?;
        if inbox.is_cut {
            monitor.warning(&format!(
                "the inbox of host '{}' has more objects than any host brings: not all were looked at",
                host.name
            ));
        }
        if inbox.strays > 0 {
            monitor.warning(&format!(
                "the inbox of host '{}' has {} that no host brings: somebody else writes there. 'esker prune' removes them",
                host.name,
                crate::shown::counted(inbox.strays, "object")
            ));
        }
        let (settled, others) = (HashSet::new(), HashSet::new());
        let queue = Self { repo, options, monitor, id: host.id, inbox, settled, others };
        Ok((!queue.inbox.is_empty()).then_some(queue))
    }

    /// The host.
    pub(super) fn host(&self) -> &ObjectId {
        &self.id
    }

    /// The host as HEAD has it by now: each run that is settled changes it. `None` if it was revoked.
    fn known(&self) -> Result<Option<Host>> {
        let head = self.repo.store().head();
        let host = head.hosts.find(|host| host.id == self.id)?.cloned();
        Ok(host.filter(|host| host.revoked_ms.is_none()))
    }

    fn interrupted(&self) -> Result<()> {
        if self.monitor.interrupted() { Err(Error::Interrupted) } else { Ok(()) }
    }

    /// Takes in what waits, or refuses it.
    pub(super) fn settle(&mut self, all: &mut Vec<Admission>) -> Result<()> {
        let Some(Host { name, .. }) = self.known()? else { return Ok(()) };
        let admission =
            |run, bytes, outcome| Admission { host: name.clone(), id: self.id, run, bytes, outcome };
        let far = self.inbox.far;
        if far.runs > 0 {
            all.push(admission(far.first, far.bytes, Outcome::Far { runs: far.runs }));
        }
        let (mut left, budget) = (self.inbox.pending, Budget::default());
        let asked = Cell::new(MOST_ASKED);
        for (number, run) in &self.inbox.waiting {
            if budget.is_spent() {
                left.first = *number;
                break;
            }
            (left.runs, left.bytes) = (left.runs.saturating_sub(1), left.bytes.saturating_sub(run.bytes));
            left.first = number + 1;
            let Some(host) = self.known()? else { return Ok(()) };
            if *number <= host.run {
                // Another admitter was faster: what it did not remove is removed here.
                continue;
            }
            let (repo, options, monitor) = (self.repo, self.options, self.monitor);
            let admitter = Admitter {
                repo,
                host: &host,
                options,
                monitor,
                others: &self.others,
                asked: &asked,
                budget: &budget,
            };
            let mut retry = Retry::default();
            let step = loop {
                match admitter.settle(*number) {
                    // A prune was faster, and removed what this run builds on, or took this for dead.
                    Err(error) if retry.again(&error).is_some() => {}
                    step => break step?,
                }
            };
            match step {
                Step::Done(outcome) => {
                    if matches!(outcome, Outcome::Forged { .. }) {
                        // Read twice.
                        budget.spend(run.commit.unwrap_or_default().saturating_mul(2));
                        self.others.insert(*number);
                    } else {
                        self.settled.insert(*number);
                    }
                    all.push(admission(*number, run.bytes, outcome));
                }
                Step::Nothing => {}
                // No later one can be settled before it.
                Step::Behind => return Ok(()),
            }
            self.interrupted()?;
        }
        if left.runs > 0 {
            all.push(admission(left.first, left.bytes, Outcome::Waits { runs: left.runs }));
        }
        Ok(())
    }

    /// Removes what is over. What was interrupted is over once a later run is settled, which has brought what it left. So is
    /// what lies in the place of a commit and is none: the host hears with the later answer that its run was passed over.
    pub(super) fn clear(&self, all: &mut Vec<Admission>) -> Result<()> {
        let Inbox { over, waiting, begun, .. } = &self.inbox;
        let runs = || [over, waiting, begun].into_iter().flatten();
        let numbers: BTreeSet<u64> = runs().map(|(number, _)| *number).collect();
        let mut left = MOST_REMOVED;
        for number in numbers {
            let Some(host) = self.known()? else { return Ok(()) };
            if number > host.run || left == 0 {
                return Ok(());
            }
            let is_known = self.settled.contains(&number) || self.others.contains(&number);
            if let Some(outcome) = clear(self.repo.store(), &host, number, is_known, &mut left)? {
                let bytes = runs().filter(|(of, _)| **of == number).map(|(_, run)| run.bytes).sum();
                all.push(Admission { host: host.name, id: host.id, run: number, bytes, outcome });
            }
            self.interrupted()?;
        }
        Ok(())
    }
}
