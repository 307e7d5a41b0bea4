//! Rotation of data keys from the command line: who opens what, what is said, and the other reader.

use crate::harness::{Repo, expect, noise, run, server, source_root};
use chunkstore::format::{ENVELOPE_MAGIC, PACK_MAGIC, names};
use chunkstore::storage::memory::MemoryStorage;
use chunkstore::store::ChunkStore;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A repository with the passwords `correct horse`, `second` and `third`, and a folder `data` that every backup changes.
struct Rotated {
    repo: Repo,
}

impl Rotated {
    fn new() -> Self {
        let repo = Repo::new();
        for password in ["second", "third"] {
            fs::write(repo.path(password), password).unwrap();
            repo.ok(["key", "add", "--label", password, "--new-password-file", password]);
        }
        fs::create_dir(repo.path("data")).unwrap();
        Self { repo }
    }

    fn back_up(&self, night: u64) {
        fs::write(self.repo.path(&format!("data/{night}")), noise(night + 1, 100_000)).unwrap();
        self.repo.ok(["backup", "data"]);
    }

    /// Runs a command with another password.
    fn with(&self, password: &str, args: &[&str], code: i32) -> String {
        let mut command = self.repo.command(args);
        let output = command.env("ESKER_PASSWORD", password).output().unwrap();
        expect(&output, code) + &String::from_utf8_lossy(&output.stderr)
    }

    fn slot(&self, label: &str) -> String {
        let list = self.repo.json(["key", "list"]);
        let found = list.as_array().unwrap().iter().find(|slot| slot["label"] == label);
        found.unwrap()["id"].as_str().unwrap().to_owned()
    }

    /// The last epoch of HEAD.
    fn epoch(&self) -> u64 {
        let epochs = self.repo.json(["key", "epochs"]);
        let epochs = epochs.as_array().unwrap();
        let current: Vec<u64> = epochs
            .iter()
            .filter(|epoch| epoch["current"] == true)
            .filter_map(|epoch| epoch["epoch"].as_u64())
            .collect();
        assert_eq!(current.len(), 1, "{epochs:?}");
        current[0]
    }
}

/// Every object of a repository on disk.
fn objects(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut all = BTreeMap::new();
    let mut left = vec![folder.to_owned()];
    while let Some(folder_here) = left.pop() {
        for entry in fs::read_dir(&folder_here).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => left.push(path),
                false => {
                    let name = path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
                    all.insert(name, fs::read(&path).unwrap());
                }
            }
        }
    }
    all
}

#[test]
fn whoever_rotates_reaches_every_slot() {
    let rotated = Rotated::new();
    let repo = &rotated.repo;
    rotated.back_up(1);
    let before = objects(repo.folder());
    let said = repo.json(["key", "rotate"]);
    assert_eq!((&said["epoch"], &said["epoch_before"]), (&2.into(), &1.into()), "{said}");
    assert_eq!(said["granted"].as_array().unwrap().len(), 3);
    rotated.back_up(2);
    for password in ["correct horse", "second", "third"] {
        assert_eq!(rotated.with(password, &["snapshots", "--json"], 0).matches("short_id").count(), 2);
        rotated.with(password, &["check", "--read-data"], 0);
    }
    // Each rotates.
    for (epoch, password) in [(3, "second"), (4, "third")] {
        assert!(rotated.with(password, &["key", "rotate"], 0).contains(&format!("epoch {epoch} ")));
    }
    assert_eq!(rotated.epoch(), 4);
    repo.ok(["check", "--read-data"]);
    // Chunks keep their names: the same data again is stored once.
    let again = repo.json(["backup", "--force", "data"]);
    let again = again.as_array().map_or(&again, |lines| lines.last().unwrap());
    assert_eq!(again["data_blobs"], 0, "{again}");
    // Nothing that was there was touched, but for HEAD.
    let after = objects(repo.folder());
    for (name, bytes) in
        before.iter().filter(|(name, _)| name.starts_with("packs/") || name.starts_with("keys/"))
    {
        assert!(after[name] == *bytes, "{name}");
    }
    // One object has the grants, and a disk has copies of it.
    let grants: Vec<&String> = after.keys().filter(|name| name.contains("grants/")).collect();
    assert_eq!(grants, ["copies/1/grants/4", "copies/2/grants/4", "grants/4"]);
}

#[test]
fn the_list_has_slots_and_epochs_and_what_they_protect() {
    let rotated = Rotated::new();
    let repo = &rotated.repo;
    rotated.back_up(1);
    repo.ok(["key", "rotate"]);
    rotated.back_up(2);
    rotated.back_up(3);
    let epochs = repo.json(["key", "epochs"]);
    let packs: Vec<u64> =
        epochs.as_array().unwrap().iter().map(|epoch| epoch["packs"].as_u64().unwrap()).collect();
    assert!(packs[0] > 0 && packs[1] > packs[0], "{epochs}");
    let on_disk = objects(repo.folder());
    let sum: u64 = on_disk
        .iter()
        .filter(|(name, _)| name.starts_with("packs/"))
        .map(|(_, bytes)| bytes.len() as u64)
        .sum();
    let listed: u64 = epochs.as_array().unwrap().iter().map(|epoch| epoch["bytes"].as_u64().unwrap()).sum();
    assert_eq!(listed, sum);
    let said = repo.ok(["key", "list"]);
    for word in ["key slots:", "epochs:", "passphrase", "second", "third", "packs", "ago"] {
        assert!(said.contains(word), "{word}: {said}");
    }
    let slots = repo.json(["key", "list"]);
    assert!(
        slots.as_array().unwrap().iter().all(|slot| slot["kind"] == "passphrase" && slot["id"].is_string())
    );
}

/// What a process can open that has the file of a removed slot, its passphrase, and grants of the past.
#[test]
fn a_removed_slot_opens_nothing_newer() {
    let rotated = Rotated::new();
    let repo = &rotated.repo;
    rotated.back_up(1);
    repo.ok(["key", "rotate"]);
    rotated.back_up(2);
    let slot = rotated.slot("second");
    let past = objects(repo.folder());
    let said = repo.ok(["key", "remove", &slot]);
    assert!(
        said.contains("can then still read what was written until now") && said.contains("key rotate"),
        "{said}"
    );
    repo.ok(["key", "rotate"]);
    for night in 3..6 {
        rotated.back_up(night);
    }
    repo.ok(["forget", "--keep-last", "2", "--prune", "--max-unused", "0"]);
    repo.ok(["key", "rotate"]);
    rotated.back_up(6);
    rotated.with("second", &["snapshots"], 12);
    // The store gives it back what it had: its slot, and the grants that it was in.
    for (name, bytes) in past.iter().filter(|(name, _)| name.contains("keys/") || name.contains("grants/")) {
        let path = repo.folder().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    let refused = rotated.with("second", &["snapshots"], 12);
    assert!(refused.contains(&slot[..8]) && refused.contains("it was removed before"), "{refused}");

    // Object by object, with all keys that it ever had.
    let elsewhere = Arc::new(MemoryStorage::default());
    elsewhere.objects().extend(past.iter().map(|(name, bytes)| (name.clone(), bytes.clone().into())));
    let access = crate::harness::access(Arc::clone(&elsewhere) as _);
    let theirs = ChunkStore::open(access, b"second").unwrap();
    assert_eq!(theirs.keys().epochs(), [1, 2]);
    let (mut old, mut new) = (0, 0);
    for (name, bytes) in objects(repo.folder()) {
        let is_new = past.get(&name).is_none_or(|before| *before != bytes);
        let sealed = bytes.starts_with(ENVELOPE_MAGIC);
        let pack = bytes.starts_with(PACK_MAGIC) && name.starts_with(names::PACKS);
        // Whatever it is said to be: by the tag, not by what its header says.
        let opens = match (sealed, pack) {
            (true, _) => envelope_opens(&theirs, &name, &bytes),
            (_, true) => pack_opens(&theirs, &name, &bytes),
            _ => continue,
        };
        assert_eq!(opens, !is_new, "{name}");
        (old, new) = (old + usize::from(opens), new + usize::from(!opens));
    }
    assert!(new > 10, "{new}");
    assert!(old > 0, "the test can see what opens: {old}");
}

/// Whether any key that is known opens a sealed object, whatever epoch it says.
fn envelope_opens(store: &ChunkStore, name: &str, bytes: &[u8]) -> bool {
    use chunkstore::format::ObjectKind::{Head, Leaf, Segment, Snapshot, TierMap};
    let name = if name.ends_with("HEAD") { "HEAD" } else { name };
    store.keys().epochs().into_iter().any(|epoch| {
        let mut bytes = bytes.to_vec();
        bytes[8..12].copy_from_slice(&epoch.to_le_bytes());
        [Head, Segment, Snapshot, TierMap, Leaf]
            .into_iter()
            .any(|kind| chunkstore::envelope::open(store.keys(), kind, name, &bytes).is_ok())
    })
}

/// The same of a pack.
fn pack_opens(store: &ChunkStore, name: &str, bytes: &[u8]) -> bool {
    use chunkstore::pack::{read_directory, read_header};
    let mut parts = name.split('/').skip(1);
    let session = chunkstore::SessionId::parse(parts.next().unwrap()).unwrap();
    let id = chunkstore::PackId::parse(parts.next().unwrap()).unwrap();
    store.keys().epochs().into_iter().any(|epoch| {
        let mut bytes = bytes.to_vec();
        bytes[12..16].copy_from_slice(&epoch.to_le_bytes());
        let header = read_header(session, id, &bytes).unwrap();
        read_directory(header, store.keys(), &bytes).is_ok()
    })
}

#[test]
fn the_reader_reads_a_rotated_repository() {
    let rotated = Rotated::new();
    let repo = &rotated.repo;
    rotated.back_up(1);
    for night in 2..5 {
        repo.ok(["key", "rotate"]);
        rotated.back_up(night);
    }
    for password in ["second", "third"] {
        let (place, file) = (repo.folder(), repo.path(password));
        let out = repo.path(&format!("out-{password}"));
        let script = source_root().join("docs/reader.py");
        let args = [&script, place, &file].map(|path| path.to_str().unwrap());
        run(server("venv/bin/python"), &[&args[..], &["restore", "latest", out.to_str().unwrap()]].concat());
        for night in 1..5 {
            assert!(fs::read(out.join(format!("data/{night}"))).unwrap() == noise(night + 1, 100_000));
        }
    }
}

/// Changes an object and its copies.
fn damage(repo: &Repo, name: &str, change: &dyn Fn(&mut Vec<u8>)) {
    for name in [name.to_owned(), format!("copies/1/{name}"), format!("copies/2/{name}")] {
        let path = repo.folder().join(name);
        let mut bytes = fs::read(&path).unwrap();
        change(&mut bytes);
        fs::write(path, bytes).unwrap();
    }
}

/// A store that exchanges a slot's public key gets no data key.
#[test]
fn a_slot_whose_public_key_was_exchanged_stops_the_rotation() {
    let rotated = Rotated::new();
    let (repo, slot, other) = (&rotated.repo, rotated.slot("third"), rotated.slot("second"));
    let public = |slot: &str| {
        let text = fs::read_to_string(repo.folder().join(format!("keys/{slot}"))).unwrap();
        let line: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        line["public"].as_str().unwrap().to_owned()
    };
    let (theirs, ours) = (public(&other), public(&slot));
    damage(repo, &format!("keys/{slot}"), &|bytes| {
        *bytes = String::from_utf8(bytes.clone()).unwrap().replace(&ours, &theirs).into_bytes();
    });
    let refused = repo.fails(1, ["key", "rotate"]);
    for word in [&format!("keys/{slot}"), "not the slot that HEAD lists", "key remove", "nothing was changed"]
    {
        assert!(refused.contains(word), "{word}: {refused}");
    }
    assert_eq!(rotated.epoch(), 1);
    assert!(!repo.folder().join("grants").exists());
    repo.ok(["key", "remove", &slot]);
    repo.ok(["key", "rotate"]);
    rotated.with("second", &["snapshots"], 0);
}

/// One copy makes up for damaged grants; none at all is named, with what helps.
#[test]
fn grants_that_are_damaged_or_missing_are_named() {
    let repo = Repo::new();
    repo.ok(["key", "rotate"]);
    // A sound copy is put in the place of a damaged object, or of one that is missing.
    let sound = fs::read(repo.folder().join("grants/2")).unwrap();
    for name in ["grants/2", "copies/1/grants/2", "copies/2/grants/2"] {
        let path = repo.folder().join(name);
        fs::write(&path, "x").unwrap();
        if name == "grants/2" {
            repo.ok(["snapshots"]);
        } else {
            let said = repo.fails(1, ["check"]);
            assert!(said.contains(name), "{said}");
            repo.ok(["heal"]);
        }
        assert!(fs::read(&path).unwrap() == sound, "{name}");
        fs::remove_file(&path).unwrap();
        repo.ok(["check"]);
        assert!(fs::read(&path).unwrap() == sound, "{name}");
    }
    damage(&repo, "grants/2", &|bytes| *bytes = vec![]);
    let said = repo.fails(1, ["snapshots"]);
    assert!(said.contains("grants/2"), "{said}");
    for name in ["grants/2", "copies/1/grants/2", "copies/2/grants/2"] {
        fs::remove_file(repo.folder().join(name)).unwrap();
    }
    let said = repo.fails(1, ["snapshots"]);
    assert!(said.contains("grants/2 is damaged: it is missing"), "{said}");
}

/// A flipped bit leaves grants that can be decoded: wherever it is, a copy that opens takes their place.
#[test]
fn grants_that_do_not_open_are_taken_from_a_copy() {
    let repo = Repo::new();
    repo.ok(["key", "rotate"]);
    let path = repo.folder().join("grants/2");
    let sound = fs::read(&path).unwrap();
    // In the header, the slot's id, the encapsulated key, what is sealed to the slot, and the ring.
    for at in [12, 16, 36, 36 + 40, 36 + 70, sound.len() - 1] {
        let mut bytes = sound.clone();
        bytes[at] ^= 1;
        fs::write(&path, bytes).unwrap();
        repo.ok(["snapshots"]);
        assert!(fs::read(&path).unwrap() == sound, "byte {at}");
    }
    // Where no copy is sound, nobody is said to have been removed.
    damage(&repo, "grants/2", &|bytes| bytes[36 + 70] ^= 1);
    assert!(repo.fails(1, ["snapshots"]).contains("grants/2"));
}

/// A slot that can be read and does not open is no wrong password, as long as a copy of it opens.
#[test]
fn key_slots_that_do_not_open_are_taken_from_a_copy() {
    let rotated = Rotated::new();
    let repo = &rotated.repo;
    let path = |label: &str| repo.folder().join(format!("keys/{}", rotated.slot(label)));
    let (second, third) = (path("second"), path("third"));
    let sound = [fs::read(&second).unwrap(), fs::read(&third).unwrap()];
    let copy = |name: &str| repo.folder().join(name).join(second.strip_prefix(repo.folder()).unwrap());
    // A digit of the second line: in the commitment, in the ciphertext, in the tag. A copy is damaged elsewhere.
    let line = sound[0].iter().position(|byte| *byte == b'\n').unwrap() + 1;
    for at in [line + 3, line + 70, sound[0].len() - 4] {
        let flipped = |at: usize| {
            let mut bytes = sound[0].clone();
            bytes[at] = if bytes[at] == b'0' { b'1' } else { b'0' };
            bytes
        };
        fs::write(&second, flipped(at)).unwrap();
        fs::write(copy("copies/1"), flipped(at + 1)).unwrap();
        rotated.with("second", &["snapshots"], 0);
        assert!(fs::read(&second).unwrap() == sound[0], "byte {at}");
        fs::write(copy("copies/1"), &sound[0]).unwrap();
    }
    // Exchanged.
    fs::write(&second, &sound[1]).unwrap();
    fs::write(&third, &sound[0]).unwrap();
    for password in ["second", "third"] {
        rotated.with(password, &["snapshots"], 0);
    }
    assert!([fs::read(&second).unwrap(), fs::read(&third).unwrap()] == sound);
    let refused = rotated.with("another", &["snapshots"], 12);
    assert!(refused.contains('3'), "{refused}");
    repo.ok(["check"]);
}

#[test]
fn an_empty_new_password_is_refused_with_the_flag_for_it() {
    let repo = Repo::new();
    fs::write(repo.path("empty"), "\n").unwrap();
    let refused = repo.fails(1, ["key", "add", "--new-password-file", "empty"]);
    assert!(refused.contains("--new-insecure-no-password if that is meant"), "{refused}");
}

/// HEAD is sound, and so are all snapshots; only the grants are lost that have their key.
#[test]
fn a_head_that_only_lacks_its_key_is_not_replaced() {
    let rotated = Rotated::new();
    let repo = &rotated.repo;
    rotated.back_up(1);
    repo.ok(["key", "rotate"]);
    rotated.back_up(2);
    rotated.back_up(3);
    let head = fs::read(repo.folder().join("HEAD")).unwrap();
    damage(repo, "grants/2", &|bytes| bytes.truncate(50));
    for lost in [false, true] {
        // Without HEAD, the other objects tell.
        for name in ["HEAD", "copies/1/HEAD", "copies/2/HEAD"].iter().filter(|_| lost) {
            fs::remove_file(repo.folder().join(name)).unwrap();
        }
        let refused = repo.fails(1, ["repair", "head", "-y"]);
        for word in ["nothing was changed", "grants/2", "another tier", "--without-grants", "2 snapshots"] {
            assert!(refused.contains(word), "{word}: {refused}");
        }
        assert_eq!(repo.folder().join("HEAD").exists(), !lost);
    }
    fs::write(repo.folder().join("HEAD"), &head).unwrap();
    let said = rotated.with("correct horse", &["repair", "head", "--without-grants", "-y"], 1);
    assert!(said.contains("2 snapshots are given up"), "{said}");
    assert_eq!(repo.ok(["snapshots", "--json"]).matches("short_id").count(), 1);
    // They are there, and told of.
    let said = repo.fails(1, ["check"]);
    assert!(said.matches("snapshots/").count() >= 2 && said.contains("the data key of epoch 2"), "{said}");
    // A flipped bit in the number of an object's epoch is damage to that object, and no more.
    let snapshots = fs::read_dir(repo.folder().join("snapshots")).unwrap();
    let first = snapshots.map(|entry| entry.unwrap().path()).find(|path| fs::read(path).unwrap()[8] == 1);
    let first = first.unwrap();
    let mut bytes = fs::read(&first).unwrap();
    bytes[9] ^= 1;
    fs::write(&first, bytes).unwrap();
    let name = first.file_name().unwrap().to_str().unwrap().to_owned();
    let said = repo.fails(1, ["check"]);
    assert!(!said.lines().any(|line| line.contains(&name) && line.contains("data key")), "{said}");
}

/// HEAD is lost, with its copies, and the file of a removed slot is there again.
#[test]
fn a_removed_slot_is_not_listed_again_unseen() {
    for rotates in [false, true] {
        let rotated = Rotated::new();
        let repo = &rotated.repo;
        rotated.back_up(1);
        let slot = rotated.slot("third");
        let path = repo.folder().join(format!("keys/{slot}"));
        let file = fs::read(&path).unwrap();
        repo.ok(["key", "remove", &slot]);
        if rotates {
            repo.ok(["key", "rotate"]);
            rotated.back_up(2);
        }
        fs::write(&path, file).unwrap();
        for name in ["HEAD", "copies/1/HEAD", "copies/2/HEAD"] {
            fs::remove_file(repo.folder().join(name)).unwrap();
        }
        let said = repo.ok(["repair", "head", "-y"]);
        assert!(said.contains("a new data key is made"), "{said}");
        assert!(rotated.epoch() > 1_000_000_000);
        // A slot that nobody lists opens nothing: that is told, and no damage.
        rotated.with("second", &["check", "--read-data"], 0);
        if rotates {
            assert!(said.contains("stays out"), "{said}");
            rotated.with("third", &["snapshots"], 12);
            continue;
        }
        // Nothing proves anything: whoever repairs is told of each, and what to do.
        for word in ["nothing proves", "'third'", "'second'", &format!("key remove {}", &slot[..8])] {
            assert!(said.contains(word), "{word}: {said}");
        }
        rotated.with("third", &["snapshots"], 0);
        repo.ok(["key", "remove", &slot]);
        repo.ok(["key", "rotate"]);
        rotated.with("third", &["snapshots"], 12);
    }
}

/// Leftovers of rotations that were killed take numbers, but do not stand in the way.
#[test]
fn any_number_of_rotations_may_have_failed() {
    let rotated = Rotated::new();
    let repo = &rotated.repo;
    fs::create_dir_all(repo.folder().join("grants")).unwrap();
    for epoch in (2..=60).filter(|epoch| *epoch != 50) {
        fs::write(repo.folder().join(format!("grants/{epoch}")), "leftover").unwrap();
    }
    repo.ok(["key", "rotate"]);
    assert_eq!(rotated.epoch(), 50);
    repo.ok(["key", "rotate"]);
    assert_eq!(rotated.epoch(), 61);
    rotated.with("second", &["snapshots"], 0);
}

/// Of the grants only copies are left, and HEAD is lost.
#[test]
fn grants_are_found_by_their_copies() {
    let rotated = Rotated::new();
    let repo = &rotated.repo;
    rotated.back_up(1);
    repo.ok(["key", "rotate"]);
    rotated.back_up(2);
    fs::remove_file(repo.folder().join("grants/2")).unwrap();
    for name in ["HEAD", "copies/1/HEAD", "copies/2/HEAD"] {
        fs::remove_file(repo.folder().join(name)).unwrap();
    }
    repo.ok(["repair", "head", "-y"]);
    assert_eq!(repo.ok(["snapshots", "--json"]).matches("short_id").count(), 2);
    repo.ok(["check", "--read-data"]);
}

#[test]
fn grants_of_another_repository_are_refused() {
    let (ours, theirs) = (Repo::new(), Repo::new());
    ours.ok(["key", "rotate"]);
    theirs.ok(["key", "rotate"]);
    let bytes = fs::read(theirs.folder().join("grants/2")).unwrap();
    damage(&ours, "grants/2", &|there| there.clone_from(&bytes));
    let said = ours.fails(1, ["snapshots"]);
    assert!(said.contains("grants/2") && said.contains("another repository"), "{said}");
}

/// A slot that a later version made.
#[test]
fn a_slot_of_a_later_kind_stops_nobody() {
    let rotated = Rotated::new();
    let repo = &rotated.repo;
    let slot = rotated.slot("third");
    let files: Vec<PathBuf> = ["", "copies/1/", "copies/2/"]
        .iter()
        .map(|folder| repo.folder().join(format!("{folder}keys/{slot}")))
        .collect();
    let text = fs::read_to_string(&files[0]).unwrap().replace("\"passphrase\"", "\"kms-of-2031\"");
    files.iter().for_each(|file| fs::write(file, &text).unwrap());
    rotated.with("second", &["snapshots"], 0);
    let list = repo.ok(["key", "list"]);
    assert!(list.contains("kms-of-2031"), "{list}");
    let refused = rotated.with("third", &["snapshots"], 12);
    assert!(refused.contains("kms-of-2031") && refused.contains("newer esker"), "{refused}");
    // Where nothing else is there, it is no matter of the password.
    let only = Repo::new();
    let file = fs::read_dir(only.folder().join("keys")).unwrap().next().unwrap().unwrap().file_name();
    for folder in ["", "copies/1/", "copies/2/"] {
        let path = only.folder().join(format!("{folder}keys/{}", file.to_str().unwrap()));
        let text = fs::read_to_string(&path).unwrap().replace("\"version\":1", "\"version\":2");
        fs::write(path, text).unwrap();
    }
    let refused = only.fails(1, ["snapshots"]);
    assert!(refused.contains("newer esker") && refused.contains("version 2"), "{refused}");
}
