//! What lies in the inbox of a host. Whoever has the host's rights puts any number of objects there, so a listing is never
//! kept: of each run there are two numbers, and of so many runs only.

use crate::format::names;
use crate::id::ObjectId;
use crate::storage::{ErrorKind, Storage};
use crate::{Error, Result};
use std::collections::BTreeMap;

/// So many runs of a host are looked at in one go, the lowest numbers: ten sources a night for three months in which nobody
/// admitted anything. The rest is counted, and looked at the next time.
pub const MOST_RUNS: usize = 1000;

/// A host's next run is at most so many numbers after its last one: each number that it skips was of a run that it began.
pub const MOST_SKIPPED: u64 = 1 << 20;

/// The last number that a run can have: what is counted on from it does not overflow.
pub const LAST_RUN: u64 = 1 << 62;

/// A run, as a listing shows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Run {
    /// Bytes of its objects.
    pub bytes: u64,
    /// Bytes of its commit; without one it is under way, or was interrupted.
    pub commit: Option<u64>,
}

impl Run {
    fn add(&mut self, other: Self) {
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.commit = self.commit.or(other.commit);
    }
}

/// Runs that are counted, and not kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// How many.
    pub runs: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// The lowest number of one; 0 if there is none.
    pub first: u64,
}

impl Counted {
    fn add(&mut self, number: u64, bytes: u64) {
        self.first = if self.runs == 0 { number } else { self.first.min(number) };
        self.runs += 1;
        self.bytes = self.bytes.saturating_add(bytes);
    }
}

/// What lies in the inbox of a host: of each kind of runs the [`MOST_RUNS`] lowest numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inbox {
    /// Runs whose numbers are over.
    pub over: BTreeMap<u64, Run>,
    /// Runs with a commit that wait to be settled.
    pub waiting: BTreeMap<u64, Run>,
    /// Runs without one that are not over.
    pub begun: BTreeMap<u64, Run>,
    /// All that wait to be settled, those in `waiting` too.
    pub pending: Counted,
    /// Runs whose numbers no run of the host can have: [`MOST_SKIPPED`], [`LAST_RUN`].
    pub far: Counted,
    /// Objects that no host brings ([`is_stray`]), marks of folders aside.
    pub strays: u64,
    /// There are more objects than a listing may have: not all were seen.
    pub is_cut: bool,
    settled: u64,
}

impl Inbox {
    /// Lists the inbox of `host`, whose last settled run is `settled`. It needs one request for about 1000 objects.
    ///
    /// # Errors
    ///
    /// Of the store. More objects than a listing may have are none: those that were seen are what is known.
    pub fn look(storage: &dyn Storage, host: &ObjectId, settled: u64) -> Result<Self> {
        let mut inbox = Self { settled, ..Self::default() };
        // Stores list the objects of a run one after the other. Where one does not, the run comes in several parts.
        let mut current: Option<(u64, Run)> = None;
        let listed = storage.list(&names::inbox(host), &mut |name, len| match names::run_of(name) {
            Some((of, number, last)) if of == *host => {
                let object = Run { bytes: len, commit: (last == names::COMMIT).then_some(len) };
                match &mut current {
                    Some((same, run)) if *same == number => run.add(object),
                    other => {
                        if let Some((number, run)) = other.replace((number, object)) {
                            inbox.note(number, run);
                        }
                    }
                }
            }
            _ if is_stray(host, settled, name) && !is_folder(name, len) => inbox.strays += 1,
            _ => {}
        });
        if let Some((number, run)) = current {
            inbox.note(number, run);
        }
        inbox.is_cut = is_cut(listed)?;
        Ok(inbox)
    }

    /// Whether nothing there is of a run.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.over.is_empty() && self.pending.runs == 0 && self.begun.is_empty() && self.far.runs == 0
    }

    /// Takes note of a run, or of a part of one.
    fn note(&mut self, number: u64, mut run: Run) {
        if number <= self.settled {
            keep(&mut self.over, number, run);
        } else if number > LAST_RUN || number - self.settled > MOST_SKIPPED {
            self.far.add(number, run.bytes);
        } else if let Some(known) = self.waiting.get_mut(&number) {
            known.add(run);
            self.pending.bytes = self.pending.bytes.saturating_add(run.bytes);
        } else if run.commit.is_some() {
            run.add(self.begun.remove(&number).unwrap_or_default());
            self.pending.add(number, run.bytes);
            keep(&mut self.waiting, number, run);
        } else {
            keep(&mut self.begun, number, run);
        }
    }
}

/// Whether a name in the inbox of `host` is one that no host gives an object, or of what an interrupted upload left of a run
/// that is over: nobody needs what is there.
#[must_use]
pub fn is_stray(host: &ObjectId, settled: u64, name: &str) -> bool {
    let inbox = names::inbox(host);
    if names::run_of(name).is_some() || name.strip_suffix('/') == Some(&inbox) {
        return false;
    }
    match name.split_once('#').and_then(|(object, _)| names::run_of(object)) {
        Some((_, run, _)) => run <= settled || run - settled > MOST_SKIPPED,
        None => true,
    }
}

/// Whether an object only says that there is a folder: disks have empty ones, and some tools of object stores make such marks.
/// One in the place of an object of a run, or below that, is in the way of its host.
#[must_use]
pub fn is_folder(name: &str, len: u64) -> bool {
    let is_in_the_way = || name.match_indices('/').any(|(end, _)| names::run_of(&name[..end]).is_some());
    len == 0 && name.ends_with('/') && !is_in_the_way()
}

fn keep(runs: &mut BTreeMap<u64, Run>, number: u64, run: Run) {
    runs.entry(number).or_default().add(run);
    if runs.len() > MOST_RUNS {
        runs.pop_last();
    }
}

/// Whether a listing ended before its end.
fn is_cut(listed: crate::storage::StorageResult<()>) -> Result<bool> {
    match listed {
        Err(error) if error.kind == ErrorKind::TooMany => Ok(true),
        listed => listed.map(|()| false).map_err(Error::from),
    }
}

/// Objects of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Objects {
    /// Names of some, its commit aside.
    pub names: Vec<String>,
    /// Whether there are no others.
    pub is_all: bool,
    /// Whether it has a commit.
    pub is_committed: bool,
}

impl Objects {
    /// Lists a run, and keeps at most `most` names. Objects that belong to no run are not among them.
    ///
    /// # Errors
    ///
    /// Of the store.
    pub fn of_run(storage: &dyn Storage, host: &ObjectId, number: u64, most: usize) -> Result<Self> {
        let mut objects = Self { is_all: true, ..Self::default() };
        let listed = storage.list(&names::run(host, number), &mut |name, _| match names::run_of(name) {
            Some((of, run, last)) if of == *host && run == number => match last {
                names::COMMIT => objects.is_committed = true,
                _ if objects.names.len() < most => objects.names.push(name.to_owned()),
                _ => objects.is_all = false,
            },
            _ => {}
        });
        objects.is_all &= !is_cut(listed)?;
        Ok(objects)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PackId;
    use crate::storage::memory::MemoryStorage;
    use crate::storage::{StorageError, StorageResult};

    const HOST: ObjectId = ObjectId([9; 32]);

    /// A store whose listings have these names, and end as they are told to.
    struct Listed(Vec<(String, u64)>, Option<ErrorKind>, MemoryStorage);

    impl Storage for Listed {
        fn list(&self, folder: &str, each: &mut dyn FnMut(&str, u64)) -> StorageResult<()> {
            let names = self.0.iter().filter(|(name, _)| name.starts_with(folder));
            names.for_each(|(name, len)| each(name, *len));
            let failed =
                |kind| StorageError { kind, op: "list", object: folder.into(), source: "told".into() };
            self.1.map_or(Ok(()), |kind| Err(failed(kind)))
        }
        crate::forward!(self => self.2; place put replace get len get_range stream_range leftovers delete
            read_versioned swap connections is_near keeps_copies written_ms copies shelf);
    }

    fn pack(run: u64, byte: u8) -> String {
        names::brought(&HOST, run, &PackId([byte; 32]))
    }

    #[test]
    fn runs_are_told_apart_in_whatever_order_they_are_listed() {
        let mut all = vec![];
        for (run, is_committed) in [(1, true), (2, false), (3, false), (4, true), (3 + MOST_SKIPPED, true)] {
            all.extend([(pack(run, 1), 100), (pack(run, 2), 10), (names::begun(&HOST, run), 1)]);
            all.extend(is_committed.then(|| (names::commit(&HOST, run), 1000)));
        }
        let strays = ["stray", "00000000000000000003/notes", "3/begun", "00000000000000000003/begun/x"];
        all.extend(strays.map(|name| (format!("{}/{name}", names::inbox(&HOST)), 7)));
        let bare = |commit: Option<u64>| Run { bytes: 111 + commit.unwrap_or_default(), commit };
        let mut expected = Inbox { strays: 4, settled: 2, ..Inbox::default() };
        expected.over = [(1, bare(Some(1000))), (2, bare(None))].into();
        expected.begun = [(3, bare(None))].into();
        expected.waiting = [(4, bare(Some(1000)))].into();
        expected.pending = Counted { runs: 1, bytes: 1111, first: 4 };
        expected.far = Counted { runs: 1, bytes: 1111, first: 3 + MOST_SKIPPED };
        let store = Listed(all.clone(), None, MemoryStorage::default());
        assert_eq!(Inbox::look(&store, &HOST, 2).unwrap(), expected);
        // One object of each run after the other: what is far ahead is only counted, so it counts each part.
        all.sort_by_key(|(name, _)| name.rsplit('/').next().map(str::to_owned));
        let store = Listed(all, None, MemoryStorage::default());
        expected.far.runs = 4;
        assert_eq!(Inbox::look(&store, &HOST, 2).unwrap(), expected);
    }

    #[test]
    fn numbers_at_the_ends_are_sorted() {
        let runs = [0, 5, LAST_RUN, LAST_RUN + 1, u64::MAX].map(|run| (names::commit(&HOST, run), 1));
        let store = Listed(runs.into(), None, MemoryStorage::default());
        let look = |settled| {
            let inbox = Inbox::look(&store, &HOST, settled).unwrap();
            (inbox.over.len(), inbox.waiting.len(), inbox.far.runs)
        };
        assert_eq!(look(0), (1, 1, 3));
        assert_eq!(look(LAST_RUN - 1), (2, 1, 2));
        assert_eq!(look(u64::MAX), (5, 0, 0));
    }

    #[test]
    fn the_lowest_numbers_are_kept_and_all_are_counted() {
        let most = MOST_RUNS as u64;
        let runs = (1..=3 * most).rev().map(|run| (names::commit(&HOST, run), 10));
        let store = Listed(runs.collect(), None, MemoryStorage::default());
        let inbox = Inbox::look(&store, &HOST, 0).unwrap();
        assert!(inbox.waiting.keys().copied().eq(1..=most));
        assert_eq!(inbox.pending, Counted { runs: 3 * most, bytes: 30 * most, first: 1 });
    }

    #[test]
    fn a_listing_that_is_cut_says_what_it_saw_and_one_that_fails_is_an_error() {
        let all = vec![(pack(1, 1), 5), (names::commit(&HOST, 1), 6)];
        let store = |end| Listed(all.clone(), Some(end), MemoryStorage::default());
        let inbox = Inbox::look(&store(ErrorKind::TooMany), &HOST, 0).unwrap();
        assert_eq!((inbox.is_cut, inbox.pending.bytes), (true, 11));
        assert!(!Objects::of_run(&store(ErrorKind::TooMany), &HOST, 1, 10).unwrap().is_all);
        for kind in [ErrorKind::Failed, ErrorKind::Denied] {
            assert!(Inbox::look(&store(kind), &HOST, 0).is_err());
            assert!(Objects::of_run(&store(kind), &HOST, 1, 10).is_err());
        }
    }

    #[test]
    fn only_what_a_run_can_have_is_of_it() {
        let disk = MemoryStorage::default();
        let folder = names::run(&HOST, 1);
        let own = [pack(1, 1), names::begun(&HOST, 1)];
        let strays = ["notes", "begun/x", "begun2", "0101", ""].map(|last| format!("{folder}/{last}"));
        let others = [pack(2, 1), names::commit(&HOST, 1)];
        for name in own.iter().chain(&strays).chain(&others) {
            disk.put(name, bytes::Bytes::from_static(b"x")).unwrap();
        }
        let mut all = Objects::of_run(&disk, &HOST, 1, 10).unwrap();
        all.names.sort();
        let mut own = own.to_vec();
        own.sort();
        assert_eq!(all, Objects { names: own, is_all: true, is_committed: true });
        let some = Objects::of_run(&disk, &HOST, 1, 1).unwrap();
        assert_eq!((some.names.len(), some.is_all, some.is_committed), (1, false, true));
    }
}
