//! Repositories that a hostile writer with the keys could make, or a hostile store without them. Each is refused or
//! reported for the right reason, nothing panics, and nothing is written outside the target of a restore.

use chunkstore::head::Root;
use engine::entry::{Entry, Kind, Time};
use engine::manifest::{Ending, Record};
use engine::monitor::Tally;
use engine::restore::{RestoreOptions, restore};
use engine::snapshot::Filter;
use engine::verify::{ReadData, check};
use fuzzing::forge::{Forge, file};
use std::path::Path;

mod entries;
mod names;
mod objects;
mod stores;
use entries::{references, structures};
use names::{links, paths};
use objects::{heads, packs, snapshots};
use stores::stores;

pub(crate) type Made = chunkstore::Result<Vec<Root>>;
type Make = Box<dyn Fn(&mut Forge) -> Made>;

/// A repository, and words of which one must be in what is said of it.
pub(crate) struct Case {
    name: String,
    make: Make,
    /// What the other party does to the objects afterwards.
    spoil: fn(&mut std::collections::BTreeMap<String, bytes::Bytes>),
    says: &'static str,
}

/// Nothing need be said where nothing can go wrong.
pub(crate) const NOTHING: &str = "nothing";

pub(crate) fn case(
    name: impl Into<String>,
    says: &'static str,
    make: impl Fn(&mut Forge) -> Made + 'static,
) -> Case {
    Case { name: name.into(), make: Box::new(make), spoil: |_| {}, says }
}

pub(crate) fn spoilt(
    name: &str,
    says: &'static str,
    spoil: fn(&mut std::collections::BTreeMap<String, bytes::Bytes>),
) -> Case {
    Case { name: name.into(), make: Box::new(sound), spoil, says }
}

/// Nothing wrong with it.
pub(crate) fn sound(forge: &mut Forge) -> Made {
    let content = forge.data(b"content of a file that is long enough to be one")?;
    let mut records = folder("etc");
    // A first attempt that was given up, and the one that succeeded.
    records.extend(file("etc/passwd", content.clone()));
    *records.last_mut().expect("an end") = Record::End(Ending::Dropped, 7);
    records.extend(file("etc/passwd", content));
    Ok(vec![forge.records(&records)?])
}

pub(crate) fn entry(path: &[u8], kind: Kind) -> Entry {
    let mut entry = Entry::stream(path, Time::default());
    (entry.kind, entry.mode) = (kind, 0o755);
    if kind == Kind::Symlink {
        entry.target = b"elsewhere".to_vec();
    }
    entry
}

pub(crate) fn folder(path: &str) -> Vec<Record> {
    whole(entry(path.as_bytes(), Kind::Dir))
}

pub(crate) fn whole(entry: Entry) -> Vec<Record> {
    vec![Record::Entry(Box::new(entry)), Record::End(Ending::Complete, 0)]
}

pub(crate) fn link(path: &str, target: &str) -> Vec<Record> {
    whole(Entry { target: target.as_bytes().to_vec(), ..entry(path.as_bytes(), Kind::Symlink) })
}
/// What is said of a repository when everything is asked of it: opening, checking, restoring.
fn verdict(case: &Case, target: &Path) -> Vec<String> {
    let mut forge = Forge::new(1234).expect("a forge");
    let storage = match (case.make)(&mut forge).and_then(|roots| forge.commit(&roots)) {
        Ok(storage) => storage,
        // The writer's own code refuses to go on; a hostile one would not, but then it could not commit.
        Err(error) => return vec![chunkstore::store::describe(&error)],
    };
    (case.spoil)(&mut storage.objects());
    let mut said = vec![];
    let mut note = |error: &dyn std::error::Error| said.push(chunkstore::store::describe(error));
    let monitor = Tally::default();
    match Forge::open(&storage) {
        Err(error) => note(&error),
        Ok(repo) => {
            if let Err(error) = repo.sync_index(&monitor) {
                note(&error);
            }
            if let Err(error) = check(&repo, ReadData::All, &monitor) {
                note(&error);
            }
            match repo.find("latest", &Filter::default(), &monitor) {
                Err(error) => note(&error),
                Ok(listed) => {
                    let options = RestoreOptions { target: target.to_owned(), ..RestoreOptions::default() };
                    if let Err(error) = restore(&repo, &listed.snapshot, &options, &monitor) {
                        note(&error);
                    }
                }
            }
        }
    }
    said.extend(
        monitor
            .errors()
            .into_iter()
            .map(|error| format!("{}: {}: {}", error.during, error.item, error.message)),
    );
    said
}

#[test]
fn hostile_repositories_are_refused_for_the_right_reason() {
    let families = [paths(), structures(), links(), references(), snapshots(), heads(), packs(), stores()];
    let (mut count, mut wrong) = (0, vec![]);
    for case in families.iter().flatten() {
        count += 1;
        let scratch = tempfile::tempdir().unwrap();
        let outside = scratch.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("canary"), "alive").unwrap();
        let said = verdict(case, &scratch.path().join("target"));
        let told = said.iter().any(|line| line.contains(case.says));
        if case.says != NOTHING && !told {
            wrong.push(format!("{}: wanted {:?}, said {said:?}", case.name, case.says));
        }
        let mut left: Vec<_> =
            std::fs::read_dir(scratch.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.retain(|name| name != "target");
        let canary = std::fs::read_dir(&outside).unwrap().count() == 1
            && std::fs::read_to_string(outside.join("canary")).is_ok_and(|text| text == "alive");
        if left != ["outside"] || !canary {
            wrong.push(format!("{} reaches outside", case.name));
        }
    }
    assert!(count >= 150, "{count}");
    assert!(wrong.is_empty(), "{} of {count}:\n{}", wrong.len(), wrong.join("\n"));
}

/// The yardstick itself: a sound repository is not refused.
#[test]
fn a_sound_repository_is_not() {
    let scratch = tempfile::tempdir().unwrap();
    let case = case("sound", "", sound);
    let said = verdict(&case, &scratch.path().join("target"));
    assert!(said.is_empty(), "{said:?}");
    assert!(scratch.path().join("target/etc/passwd").exists());
}
