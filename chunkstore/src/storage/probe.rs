//! Whether a store really compares and swaps: asked at `init`, by racing real requests. Some accept the
//! condition and ignore it, or hold to it only where nobody else writes; then two writers would lose
//! each other's snapshots, and nobody would know.

use super::{Storage, StorageError, Version};
use crate::Result;
use crate::env::{Env, random_array};
use crate::id::to_hex;
use bytes::Bytes;

/// Writers in a race.
const RACERS: u8 = 4;
/// Races.
const ROUNDS: u8 = 3;

/// Races swaps of an object that is removed again; `Err` inside says what the store did wrong.
pub fn compares_and_swaps(storage: &dyn Storage, env: &dyn Env) -> Result<Result<(), String>> {
    let name = format!("probe-{}", to_hex(&random_array::<16>(env)?));
    let verdict = races(storage, &name);
    storage.delete(&name)?;
    Ok(verdict?)
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
        let won: Vec<bool> = std::thread::scope(|scope| {
            let racers: Vec<_> = (0..RACERS)
                .map(|racer| {
                    let expected = expected.as_ref();
                    scope.spawn(move || storage.swap(name, expected, body(racer)).is_ok())
                })
                .collect();
            racers.into_iter().map(|racer| racer.join().unwrap_or(false)).collect()
        });
        let Some((now, version)) = storage.read_versioned(name)? else {
            return wrong("an object that was just written is not there");
        };
        // Answers may be lost, so that nobody knows to have won; but who does must be the one.
        if (0..RACERS).any(|racer| won[racer as usize] && now != body(racer)) {
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

/// Races creations of an object that is removed again, and looks for it in a listing: enough for HEAD as a
/// chain. `Err` inside says what the store did wrong.
pub fn creates_once(storage: &dyn Storage, env: &dyn Env) -> Result<Result<(), String>> {
    let folder = format!("probe-{}", to_hex(&random_array::<16>(env)?));
    let names: Vec<String> = (0..ROUNDS).map(|round| format!("{folder}/{round}")).collect();
    let verdict = creations(storage, &folder, &names);
    for name in &names {
        storage.delete(name)?;
    }
    Ok(verdict?)
}

fn creations(
    storage: &dyn Storage,
    folder: &str,
    names: &[String],
) -> Result<Result<(), String>, StorageError> {
    let wrong = |what: &str| Ok(Err(what.to_owned()));
    let body = |racer: u8| Bytes::from(vec![racer]);
    for (round, name) in names.iter().enumerate() {
        let won: Vec<bool> = std::thread::scope(|scope| {
            let racers: Vec<_> = (0..RACERS)
                .map(|racer| scope.spawn(move || storage.put(name, body(racer)).is_ok()))
                .collect();
            racers.into_iter().map(|racer| racer.join().unwrap_or(false)).collect()
        });
        let mut listed = 0;
        storage.list(folder, &mut |_, _| listed += 1)?;
        if listed != round + 1 {
            return wrong("a listing does not show an object that was just created");
        }
        let now = storage.get(name, 1)?;
        if (0..RACERS).any(|racer| won[racer as usize] && now != body(racer)) {
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
    use crate::storage::StorageResult;
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
    }

    struct Flawed(MemoryStorage, Flaw);

    impl Storage for Flawed {
        fn place(&self) -> String {
            self.0.place()
        }
        fn put(&self, name: &str, body: Bytes) -> StorageResult<()> {
            if self.1 == Flaw::Overwrites { self.0.replace(name, body) } else { self.0.put(name, body) }
        }
        fn replace(&self, name: &str, body: Bytes) -> StorageResult<()> {
            self.0.replace(name, body)
        }
        fn get(&self, name: &str, limit: u64) -> StorageResult<Bytes> {
            self.0.get(name, limit)
        }
        fn get_range(&self, name: &str, offset: u64, len: u64) -> StorageResult<Bytes> {
            self.0.get_range(name, offset, len)
        }
        fn len(&self, name: &str) -> StorageResult<u64> {
            self.0.len(name)
        }
        fn list(&self, folder: &str, each: &mut dyn FnMut(&str, u64)) -> StorageResult<()> {
            if self.1 == Flaw::ListsLate {
                return Ok(());
            }
            self.0.list(folder, each)
        }
        fn delete(&self, name: &str) -> StorageResult<()> {
            self.0.delete(name)
        }
        fn read_versioned(&self, name: &str) -> StorageResult<Option<(Bytes, Version)>> {
            self.0.read_versioned(name)
        }
        fn swap(&self, name: &str, expected: Option<&Version>, body: Bytes) -> StorageResult<()> {
            let now = self.0.read_versioned(name)?.map(|(_, version)| version);
            let flawed = match self.1 {
                Flaw::IgnoresVersion => expected.is_some() && now.is_some(),
                Flaw::IgnoresAbsence => expected.is_none(),
                Flaw::CreatesOnUpdate => expected.is_some() && now.is_none(),
                Flaw::Overwrites | Flaw::ListsLate => false,
            };
            self.0.swap(name, if flawed { now.as_ref() } else { expected }, body)
        }
        fn connections(&self) -> usize {
            1
        }
    }

    #[test]
    fn sound_stores_pass_and_nothing_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let local = LocalStorage::create(folder.path()).unwrap();
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
        for flaw in [Flaw::Overwrites, Flaw::ListsLate] {
            let store = Flawed(MemoryStorage::default(), flaw);
            assert!(creates_once(&store, &SystemEnv).unwrap().is_err());
            assert!(store.0.objects().is_empty());
        }
    }
}
