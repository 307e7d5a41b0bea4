//! Whether a store really compares and swaps: tested at `init`, by racing real requests. Some accept the condition and
//! ignore it, or honour it only without concurrent writers; then two writers would lose each other's snapshots without
//! noticing.

use super::{ErrorKind, Storage, StorageError, StorageResult, Version};
use crate::env::{Env, random_array};
use crate::id::to_hex;
use crate::{Result, threads};
use bytes::Bytes;

/// Writers in a race.
const RACERS: u8 = 4;
/// Races.
const ROUNDS: u8 = 3;

/// Races swaps of a test object; `Err` inside says what the store did wrong.
pub fn compares_and_swaps(storage: &dyn Storage, env: &dyn Env) -> Result<Result<(), String>> {
    let name = format!("probe-{}", to_hex(&random_array::<16>(env)?));
    let verdict = races(storage, &name);
    clear(storage, &[name], verdict)
}

/// Removes what a test wrote. A store that refuses that is told of, unless something else is wrong with it.
fn clear(
    storage: &dyn Storage,
    names: &[String],
    verdict: Result<Result<(), String>, StorageError>,
) -> Result<Result<(), String>> {
    let removed = names.iter().try_for_each(|name| storage.delete(name));
    Ok(match (verdict?, removed) {
        (Ok(()), Err(error)) => Err(format!("it does not delete an object: {}", told(&error))),
        (verdict, _) => verdict,
    })
}

/// An error with all that is behind it.
fn told(error: &StorageError) -> String {
    let mut text = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(error) = next {
        text += &format!(": {error}");
        next = error.source();
    }
    text
}

/// The answer to a writer that did not win for another reason than that another one did.
///
/// # Errors
///
/// There is no room: that says nothing of what the store can do.
fn refused(answers: Vec<StorageResult<()>>) -> StorageResult<Option<StorageError>> {
    let mut answers = answers.into_iter().filter_map(Result::err);
    match answers.find(|error| error.kind != ErrorKind::Conflict) {
        Some(error) if error.kind == ErrorKind::Full => Err(error),
        refused => Ok(refused),
    }
}

fn races(storage: &dyn Storage, name: &str) -> Result<Result<(), String>, StorageError> {
    let wrong = |what: &str| Ok(Err(what.to_owned()));
    // An update of what is not there: some create it.
    if storage.swap(name, Some(&Version("\"0\"".into())), Bytes::from_static(b"from nothing")).is_ok() {
        return wrong("it updates an object that does not exist");
    }
    let mut versions: Vec<Option<Version>> = vec![None];
    for round in 0..ROUNDS {
        let expected = versions.last().cloned().flatten();
        let body = |racer: u8| Bytes::from(vec![round, racer]);
        let answers = race(name, |racer| storage.swap(name, expected.as_ref(), body(racer)))?;
        let there = storage.read_versioned(name)?;
        let won: Vec<bool> = answers.iter().map(Result::is_ok).collect();
        if !won.contains(&true)
            && there.as_ref().map(|(_, version)| version) == expected.as_ref()
            && let Some(error) = refused(answers)?
        {
            return Ok(Err(format!("it refuses a conditional write: {}", told(&error))));
        }
        let Some((now, version)) = there else {
            return wrong("an object that was just written is not there");
        };
        // Answers may be lost, so that nobody knows to have won; but who does must be the one.
        if (0..RACERS).zip(won).any(|(racer, won)| won && now != body(racer)) {
            return wrong("of several writers at once more than one was told that it won");
        }
        versions.push(Some(version));
    }
    for stale in &versions[..versions.len() - 1] {
        if storage.swap(name, stale.as_ref(), Bytes::from_static(b"stale")).is_ok() {
            return wrong("it replaces an object although it is not the one that was read");
        }
    }
    Ok(Ok(()))
}

/// Races creations of a test object, and looks for it in a listing: enough for HEAD as a chain. `Err` inside says what
/// the store did wrong.
pub fn creates_once(storage: &dyn Storage, env: &dyn Env) -> Result<Result<(), String>> {
    let folder = format!("probe-{}", to_hex(&random_array::<16>(env)?));
    let names: Vec<String> = (0..ROUNDS).map(|round| format!("{folder}/{round}")).collect();
    let verdict = creations(storage, &folder, &names);
    clear(storage, &names, verdict)
}

/// Does the same in several threads at once; the answer to each.
fn race(
    name: &str,
    work: impl Fn(u8) -> StorageResult<()> + Sync,
) -> Result<Vec<StorageResult<()>>, StorageError> {
    let work = &work;
    std::thread::scope(|scope| {
        let start = |racer: u8| threads::start_in(scope, "probe", move || work(racer));
        let racers: std::io::Result<Vec<_>> = (0..RACERS).map(start).collect();
        let racers = racers.map_err(|source| StorageError {
            kind: ErrorKind::Failed,
            op: "test",
            object: name.to_owned(),
            source: source.into(),
        })?;
        let died = || StorageError {
            kind: ErrorKind::Failed,
            op: "test",
            object: name.to_owned(),
            source: "a thread died".into(),
        };
        Ok(racers.into_iter().map(|racer| racer.join().unwrap_or_else(|_| Err(died()))).collect())
    })
}

fn creations(
    storage: &dyn Storage,
    folder: &str,
    names: &[String],
) -> Result<Result<(), String>, StorageError> {
    let wrong = |what: &str| Ok(Err(what.to_owned()));
    let body = |racer: u8| Bytes::from(vec![racer]);
    for (round, name) in names.iter().enumerate() {
        let answers = race(name, |racer| storage.put(name, body(racer)))?;
        let won: Vec<bool> = answers.iter().map(Result::is_ok).collect();
        if !won.contains(&true)
            && matches!(storage.len(name), Err(missing) if missing.kind == ErrorKind::NotFound)
            && let Some(error) = refused(answers)?
        {
            return Ok(Err(format!("it refuses to create an object: {}", told(&error))));
        }
        let mut listed = 0;
        storage.list(folder, &mut |_, _| listed += 1)?;
        if listed != round + 1 {
            return wrong("a listing does not show an object that was just created");
        }
        let now = storage.get(name, 1)?;
        if (0..RACERS).zip(won).any(|(racer, won)| won && now != body(racer)) {
            return wrong("of several writers at once more than one was told that it created an object");
        }
        if storage.put(name, Bytes::from_static(b"later")).is_ok() {
            return wrong("it replaces an object that was only to be created");
        }
    }
    Ok(Ok(()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::SystemEnv;
    use crate::storage::local::LocalStorage;
    use crate::storage::memory::MemoryStorage;

    /// What a store may get wrong.
    #[derive(Clone, Copy, PartialEq)]
    enum Flaw {
        IgnoresVersion,
        IgnoresAbsence,
        CreatesOnUpdate,
        Overwrites,
        ListsLate,
        Refuses,
        Keeps,
        IsFull,
    }

    fn not_implemented(name: &str) -> StorageError {
        StorageError {
            kind: ErrorKind::Failed,
            op: "write",
            object: name.to_owned(),
            source: "501 Not Implemented".into(),
        }
    }

    struct Flawed(MemoryStorage, Flaw);

    impl Storage for Flawed {
        fn put(&self, name: &str, body: Bytes) -> StorageResult<()> {
            if self.1 == Flaw::Refuses {
                return Err(not_implemented(name));
            }
            if self.1 == Flaw::IsFull {
                return Err(StorageError { kind: ErrorKind::Full, ..not_implemented(name) });
            }
            if self.1 == Flaw::Overwrites { self.0.replace(name, body) } else { self.0.put(name, body) }
        }
        fn list(&self, folder: &str, each: &mut dyn FnMut(&str, u64)) -> StorageResult<()> {
            if self.1 == Flaw::ListsLate {
                return Ok(());
            }
            self.0.list(folder, each)
        }
        fn swap(&self, name: &str, expected: Option<&Version>, body: Bytes) -> StorageResult<()> {
            if self.1 == Flaw::Refuses {
                return Err(not_implemented(name));
            }
            if self.1 == Flaw::IsFull && expected.is_none() {
                return Err(StorageError { kind: ErrorKind::Full, ..not_implemented(name) });
            }
            let now = self.0.read_versioned(name)?.map(|(_, version)| version);
            let flawed = match self.1 {
                Flaw::IgnoresVersion => expected.is_some() && now.is_some(),
                Flaw::IgnoresAbsence => expected.is_none(),
                Flaw::CreatesOnUpdate => expected.is_some() && now.is_none(),
                Flaw::Overwrites | Flaw::ListsLate | Flaw::Refuses | Flaw::Keeps | Flaw::IsFull => false,
            };
            self.0.swap(name, if flawed { now.as_ref() } else { expected }, body)
        }
        fn delete(&self, name: &str) -> StorageResult<()> {
            if self.1 == Flaw::Keeps { Err(not_implemented(name)) } else { self.0.delete(name) }
        }
        crate::forward!(self => self.0; place replace get get_range stream_range len leftovers read_versioned
            connections is_near keeps_copies written_ms copies shelf);
    }

    #[test]
    fn sound_stores_pass_and_nothing_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let local = LocalStorage::create(folder.path(), false).unwrap();
        assert_eq!(compares_and_swaps(&local, &SystemEnv).unwrap(), Ok(()));
        let left: Vec<_> =
            std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["HEAD.lock"]);
        let memory = MemoryStorage::default();
        assert_eq!(compares_and_swaps(&memory, &SystemEnv).unwrap(), Ok(()));
        assert_eq!(creates_once(&local, &SystemEnv).unwrap(), Ok(()));
        assert_eq!(creates_once(&memory, &SystemEnv).unwrap(), Ok(()));
        assert!(memory.objects().is_empty());
    }

    #[test]
    fn flawed_stores_are_found_out() {
        for flaw in [Flaw::IgnoresVersion, Flaw::IgnoresAbsence, Flaw::CreatesOnUpdate] {
            let store = Flawed(MemoryStorage::default(), flaw);
            assert!(compares_and_swaps(&store, &SystemEnv).unwrap().is_err());
            assert_eq!(creates_once(&store, &SystemEnv).unwrap(), Ok(()), "that is enough for a chain");
            assert!(store.0.objects().is_empty());
        }
        for flaw in [Flaw::Refuses, Flaw::Keeps] {
            let store = Flawed(MemoryStorage::default(), flaw);
            for verdict in [compares_and_swaps(&store, &SystemEnv), creates_once(&store, &SystemEnv)] {
                let why = verdict.unwrap().unwrap_err();
                assert!(why.contains("501 Not Implemented") && !why.contains("not there"), "{why}");
            }
        }
        let full = Flawed(MemoryStorage::default(), Flaw::IsFull);
        for verdict in [compares_and_swaps(&full, &SystemEnv), creates_once(&full, &SystemEnv)] {
            assert!(verdict.unwrap_err().is_full(), "no room says nothing of what a store can do");
        }
        for flaw in [Flaw::Overwrites, Flaw::ListsLate] {
            let store = Flawed(MemoryStorage::default(), flaw);
            assert!(creates_once(&store, &SystemEnv).unwrap().is_err());
            assert!(store.0.objects().is_empty());
        }
    }
}
