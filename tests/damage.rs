//! Damage of every byte of a small repository, and of whole objects: noticed, named, survived.

use crate::harness::{Repo, expect, noise};
use chunkstore::chunker::ChunkerParams;
use chunkstore::config::Layout;
use chunkstore::env::SystemEnv;
use chunkstore::executor::Inline;
use chunkstore::ingest::PackerOptions;
use chunkstore::keys::{KdfParams, SlotOwner};
use chunkstore::storage::memory::MemoryStorage;
use chunkstore::store::{Access, Identity};
use engine::Repository;
use engine::backup::{BackupOptions, backup};
use engine::entry::Time;
use engine::monitor::Tally;
use engine::source::files::{FilesOptions, FilesSource};
use engine::source::stream::StreamSource;
use engine::verify::{CheckOptions, ReadData, check};
use std::collections::BTreeMap;
use std::sync::Arc;

const CHEAP: KdfParams = KdfParams { memory_kib: 8, passes: 1, lanes: 1 };

fn access(storage: &Arc<MemoryStorage>) -> Access {
    Access {
        storage: Arc::clone(storage) as Arc<dyn chunkstore::storage::Storage>,
        env: Arc::new(SystemEnv),
        cpu: Arc::new(Inline),
        io: Arc::new(Inline),
        cache: None,
        identity: Identity::default(),
    }
}

/// What each path may give, by the snapshots that hold it.
type Files = BTreeMap<Vec<u8>, Vec<Vec<u8>>>;

/// A repository in memory with snapshots of a tree and of two versions of a stream, the second stored
/// against the first; and the files that each path must give.
fn small_repository(layout: Layout) -> (Arc<MemoryStorage>, Files) {
    let storage = Arc::new(MemoryStorage::default());
    let repo = Repository::init(
        access(&storage),
        ChunkerParams::around(1024),
        b"pw",
        CHEAP,
        SlotOwner::default(),
        layout,
    )
    .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut files = BTreeMap::new();
    for (name, data) in [("a", noise(1, 3000)), ("b", b"hello hello hello hello".repeat(50)), ("c", vec![])] {
        std::fs::write(folder.path().join(name), &data).unwrap();
        let path = folder.path().join(name).strip_prefix("/").unwrap().to_str().unwrap().as_bytes().to_vec();
        files.insert(path, vec![data]);
    }
    let options = BackupOptions {
        packer: PackerOptions { pack_len: 1 << 20, ..PackerOptions::default() },
        ..BackupOptions::default()
    };
    let tally = Tally::default();
    let mut source = FilesSource::new(&[folder.path().to_owned()], FilesOptions::default(), &tally).unwrap();
    backup(&repo, &mut source, &options, &tally).unwrap();
    let mut second = noise(1, 3000);
    second.splice(1500..1500, *b"changed");
    let versions = vec![noise(1, 3000), second];
    for data in &versions {
        std::fs::write(folder.path().join("stream"), data).unwrap();
        let pipe = std::fs::File::open(folder.path().join("stream")).unwrap();
        let mut source = StreamSource::reader(pipe, "stream", Time::default(), false).unwrap();
        backup(&repo, &mut source, &options, &tally).unwrap();
    }
    files.insert(b"stream".to_vec(), versions);
    assert!(engine::stats::stats(&repo, &[], &tally).unwrap().delta_blob_count > 0);
    assert!(tally.errors().is_empty());
    (storage, files)
}

/// Opens, checks and dumps everything. Returns whether damage was reported; panics on wrong bytes.
fn examine(storage: &Arc<MemoryStorage>, files: &Files) -> bool {
    let Ok(repo) = Repository::open(access(storage), b"pw") else { return true };
    let tally = Tally::default();
    let reported = match check(&repo, ReadData::All, &tally) {
        Ok(report) => {
            assert_eq!(report.num_errors > 0, !tally.errors().is_empty());
            report.num_errors > 0
        }
        Err(_) => true,
    };
    for listed in repo.snapshots(&Tally::default()).unwrap_or_default() {
        for (path, data) in files {
            let mut out = vec![];
            if engine::restore::dump(&repo, &listed.snapshot, path, &mut out, &Tally::default()).is_ok() {
                assert!(data.contains(&out), "wrong bytes for {}", String::from_utf8_lossy(path));
            }
        }
    }
    reported
}

/// Every byte of every object, a bit flipped; the halves of the work run beside each other.
fn flip_every_byte(mask: u8, part: usize, parts: usize) {
    let (storage, files) = small_repository(Layout::default());
    assert!(!examine(&storage, &files), "the repository is fine to begin with");
    let objects: Vec<(String, bytes::Bytes)> =
        storage.objects().iter().map(|(name, body)| (name.clone(), body.clone())).collect();
    for kind in ["HEAD", "config", "keys/", "packs/", "index/", "snapshots/"] {
        assert!(objects.iter().any(|(name, _)| name.starts_with(kind)), "no {kind}");
    }
    let mut count = 0;
    for (name, body) in &objects {
        for at in (0..body.len()).skip(part).step_by(parts) {
            let mut bad = body.to_vec();
            bad[at] ^= mask;
            storage.objects().insert(name.clone(), bad.into());
            assert!(examine(&storage, &files), "{name}: byte {at} of {} flipped, unnoticed", body.len());
            count += 1;
        }
        storage.objects().insert(name.clone(), body.clone());
    }
    assert!(count * parts > 10_000, "only {count} flips");
}

#[test]
fn every_flipped_byte_is_noticed_1() {
    flip_every_byte(0x01, 0, 2);
}

#[test]
fn every_flipped_byte_is_noticed_2() {
    flip_every_byte(0x80, 1, 2);
}

#[test]
fn every_lost_cut_or_exchanged_object_is_noticed() {
    let (storage, files) = small_repository(Layout::default());
    let objects: Vec<(String, bytes::Bytes)> =
        storage.objects().iter().map(|(name, body)| (name.clone(), body.clone())).collect();
    for (name, body) in &objects {
        storage.objects().remove(name);
        assert!(examine(&storage, &files), "{name} lost, unnoticed");
        for len in (0..body.len()).step_by(body.len() / 40 + 1) {
            storage.objects().insert(name.clone(), body.slice(..len));
            assert!(examine(&storage, &files), "{name} cut at {len}, unnoticed");
        }
        storage.objects().insert(name.clone(), [&body[..], b"x"].concat().into());
        assert!(examine(&storage, &files), "{name} with a byte more, unnoticed");
        for (other, theirs) in &objects {
            if other != name && other.split('/').next() == name.split('/').next() {
                storage.objects().insert(name.clone(), theirs.clone());
                assert!(examine(&storage, &files), "{name} replaced by {other}, unnoticed");
            }
        }
        storage.objects().insert(name.clone(), body.clone());
    }
    assert!(!examine(&storage, &files));
}

/// Damage of one object that its parity, or its pack, makes up for: the very same bytes are there again.
#[test]
fn what_parity_makes_up_for_is_healed() {
    let (storage, files) = small_repository(Layout { parity: true, ..Layout::default() });
    assert!(!examine(&storage, &files));
    let objects = storage.objects().clone();
    let heal = |options: CheckOptions| {
        let repo = Repository::open(access(&storage), b"pw").unwrap();
        let tally = Tally::default();
        let report = check(&repo, options, &tally).unwrap();
        (report, tally.errors())
    };
    let everything = CheckOptions { read_data: ReadData::All, heal: true, ..CheckOptions::default() };
    let mut count = 0;
    let mut damage = |name: &str, bad: Option<Vec<u8>>, what: &str| {
        match bad {
            Some(bad) => drop(storage.objects().insert(name.to_owned(), bad.into())),
            None => drop(storage.objects().remove(name)),
        }
        assert!(examine(&storage, &files), "{name} {what}: unnoticed");
        let (report, errors) = heal(everything);
        assert_eq!(report.packs_healed + report.parity_healed, 1, "{name} {what}: {errors:?}");
        assert_eq!((report.num_errors, report.healed.len()), (0, 1), "{name} {what}: {errors:?}");
        assert!(*storage.objects() == objects, "{name} {what}: healed to other bytes");
        count += 1;
    };
    for (name, body) in &objects {
        let parity = name.starts_with("parity/");
        if !parity && !name.starts_with("packs/") {
            continue;
        }
        for at in (0..body.len()).step_by(97).chain([body.len() - 1]) {
            let mut bad = body.to_vec();
            bad[at] ^= 0x10;
            damage(name, Some(bad), &format!("byte {at}"));
        }
        // Two parts of 4 KiB are made up for, and parity altogether.
        let least = if parity { 0 } else { body.len().saturating_sub(8192) };
        for len in (least..body.len()).step_by(509) {
            damage(name, Some(body[..len].to_vec()), &format!("cut at {len}"));
        }
        for start in (0..body.len()).step_by(1024).filter(|start| start + 4096 <= body.len()) {
            let mut bad = body.to_vec();
            bad[start..start + 4096].fill(0);
            damage(name, Some(bad), &format!("zeros from {start}"));
        }
        damage(name, Some([&body[..], b"more"].concat()), "longer");
        if parity {
            damage(name, None, "gone");
        }
    }
    assert!(count > 500, "only {count}");
    // A look at the lengths is enough to know that something is to be mended.
    let pack = objects.keys().find(|name| name.starts_with("packs/")).unwrap();
    let cut = objects[pack].slice(..objects[pack].len() - 5);
    storage.objects().insert(pack.clone(), cut);
    let (report, _) = heal(CheckOptions::default());
    assert!(report.num_errors > 0 && report.suggest_heal);
    assert_eq!(heal(CheckOptions { heal: true, ..CheckOptions::default() }).0.packs_healed, 1);
    assert!(*storage.objects() == objects);
    // More than it makes up for stays damaged, and says so.
    storage.objects().insert(pack.clone(), vec![0; objects[pack].len()].into());
    let parity = pack.replace("packs/", "parity/");
    let lost = storage.objects().remove(&parity).unwrap();
    assert!(heal(everything).0.num_errors > 0);
    storage.objects().insert(parity, lost);
    println!("{count} damages of packs and parity, all healed to the same bytes");
}

fn files_under(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut found = vec![];
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files_under(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

#[test]
fn damage_is_named_and_the_rest_restores() {
    let repo = Repo::new();
    for number in 0..20 {
        let folder = repo.path(&format!("source/{number}"));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("data"), noise(number, 1_000_000)).unwrap();
    }
    repo.ok(["backup", "source", "--pack-size", "4"]);
    let packs = files_under(&repo.folder().join("packs"));
    let large = packs.iter().find(|path| path.metadata().unwrap().len() > 4_000_000).unwrap();
    let mut bytes = std::fs::read(large).unwrap();
    bytes[2_000_000] ^= 1;
    std::fs::write(large, bytes).unwrap();
    repo.ok(["check"]);
    let text = repo.fails(1, ["check", "--read-data"]);
    assert!(text.contains(large.file_name().unwrap().to_str().unwrap()), "{text}");
    assert_eq!(text.matches("/data: parts of its content").count(), 1, "{text}");
    let text = repo.fails(1, ["restore", "latest", "--target", "out"]);
    assert_eq!(text.matches("error: /source/").count(), 1, "{text}");
    let restored = files_under(&repo.path("out"));
    assert_eq!(restored.len(), 19);
    for path in restored {
        let number = path.parent().unwrap().file_name().unwrap().to_str().unwrap().parse().unwrap();
        assert!(std::fs::read(&path).unwrap() == noise(number, 1_000_000));
    }
    // The next backup stores what is missing once it is known to be missing.
    std::fs::remove_file(large).unwrap();
    assert!(repo.fails(1, ["check"]).contains("missing") || repo.fails(1, ["check"]).contains("cannot read"));
}

#[test]
fn the_index_comes_back_from_the_packs() {
    let repo = Repo::new();
    let data = noise(3, 5_000_000);
    expect(&repo.feed(["backup", "--stdin"], &data), 0);
    let segments = files_under(&repo.folder().join("index"));
    std::fs::write(&segments[0], b"rubbish").unwrap();
    std::fs::remove_dir_all(repo.path("cache")).unwrap();
    let text = repo.fails(1, ["check"]);
    assert!(text.contains("index/"), "{text}");
    repo.fails(1, ["dump", "latest", "stdin"]);
    let dry = repo.json(["repair", "index", "--dry-run"]);
    assert_eq!(dry["segments_lost"], 1);
    repo.ok(["repair", "index"]);
    repo.ok(["check", "--read-data"]);
    assert!(repo.run(["dump", "latest", "stdin"]).stdout == data);
    // From nothing but the packs, and with the cache deleted behind our back.
    repo.ok(["repair", "index", "--read-all-packs"]);
    std::fs::remove_dir_all(repo.path("cache")).unwrap();
    repo.ok(["check", "--read-data"]);
    assert!(repo.run(["dump", "latest", "stdin"]).stdout == data);
}

/// Damage beyond parity: what can be read is kept, what is still at hand is stored again, and what is lost is
/// said, and left out, once and for all.
#[test]
fn packs_and_snapshots_are_repaired() {
    let repo = Repo::empty();
    repo.ok(["init", "--parity", "off"]);
    for number in 0..12 {
        let folder = repo.path(&format!("source/{number}"));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("data"), noise(number, 1_000_000)).unwrap();
    }
    repo.ok(["backup", "source", "--pack-size", "4"]);
    let packs = files_under(&repo.folder().join("packs"));
    let large: Vec<_> = packs.iter().filter(|path| path.metadata().unwrap().len() > 3_000_000).collect();
    let mut bytes = std::fs::read(large[0]).unwrap();
    bytes[2_000_000] ^= 1;
    std::fs::write(large[0], &bytes).unwrap();
    std::fs::remove_file(large[1]).unwrap();
    let plan = repo.run(["--json", "repair", "packs", "--read-data", "--dry-run"]);
    let plan: serde_json::Value = serde_json::from_str(expect(&plan, 1).lines().last().unwrap()).unwrap();
    assert_eq!((&plan["packs_damaged"], &plan["packs_dropped"]), (&2.into(), &2.into()));
    assert!(plan["chunks_saved"].as_u64() > Some(0) && plan["chunks_lost"].as_u64() > Some(0), "{plan}");
    repo.fails(1, ["check", "--read-data"]);
    let before = files_under(&repo.folder().join("packs"));
    repo.fails(1, ["repair", "packs", "--read-data"]);
    let after = files_under(&repo.folder().join("packs"));
    assert!(before.iter().all(|path| after.contains(path)) && after.len() > before.len(), "it only adds");
    // Half of the sources are still there; their chunks are stored again, as nobody builds on what is lost.
    for number in 0..6 {
        std::fs::remove_dir_all(repo.path(&format!("source/{number}"))).unwrap();
    }
    repo.ok(["backup", "source", "--pack-size", "4"]);
    repo.ok(["restore", "latest", "--target", "half"]);
    let text = repo.fails(1, ["check", "--read-data"]);
    assert!(text.contains("parts of its content are damaged or missing"), "{text}");
    repo.fails(1, ["repair", "snapshots", "--dry-run"]);
    assert_eq!(repo.ok(["snapshots", "--json"]).matches("short_id").count(), 2);
    let said = repo.run(["repair", "snapshots"]);
    let said = expect(&said, 1);
    assert!(said.contains("holds what is left of") && said.contains("source/"), "{said}");
    assert_eq!(repo.ok(["snapshots", "--json"]).matches("short_id").count(), 3, "the old one stays");
    repo.fails(1, ["repair", "snapshots", "--forget", "--yes"]);
    assert!(repo.ok(["repair", "snapshots"]).contains("are fine, 0 have lost something"));
    repo.ok(["prune"]);
    repo.ok(["check", "--read-data"]);
    for snapshot in serde_json::from_str::<Vec<serde_json::Value>>(&repo.ok(["snapshots", "--json"])).unwrap()
    {
        let target = format!("out-{}", snapshot["short_id"].as_str().unwrap());
        repo.ok(["restore", snapshot["id"].as_str().unwrap(), "--target", &target]);
        let restored = files_under(&repo.path(&target));
        assert!(restored.len() >= 6);
        for path in restored {
            let number = path.parent().unwrap().file_name().unwrap().to_str().unwrap().parse().unwrap();
            assert!(std::fs::read(&path).unwrap() == noise(number, 1_000_000));
        }
    }
}

/// A HEAD that is lost, damaged or put back comes back with everything that was acknowledged.
#[test]
fn head_is_made_anew() {
    let repo = Repo::new();
    let head = repo.folder().join("HEAD");
    let mut old = vec![];
    for number in 0..4 {
        expect(&repo.feed(["backup", "--stdin"], &noise(number, 300_000)), 0);
        if number == 1 {
            old = std::fs::read(&head).unwrap();
        }
    }
    repo.ok(["forget", "--keep-last", "3", "--prune"]);
    assert!(repo.ok(["repair", "head"]).contains("HEAD is fine"));
    let mut flipped = std::fs::read(&head).unwrap();
    flipped[300] ^= 1;
    for damage in [None, Some(flipped), Some(old), Some(vec![])] {
        match &damage {
            None => std::fs::remove_file(&head).unwrap(),
            Some(bytes) => std::fs::write(&head, bytes).unwrap(),
        }
        repo.fails(1, ["snapshots"]);
        let said = repo.ok(["repair", "head", "--dry-run"]);
        assert!(said.contains("3 snapshots"), "{said}");
        repo.fails(1, ["snapshots"]);
        repo.ok(["repair", "head", "--yes"]);
        repo.ok(["check", "--read-data"]);
        for (place, snapshot) in
            serde_json::from_str::<Vec<serde_json::Value>>(&repo.ok(["snapshots", "--json"]))
                .unwrap()
                .iter()
                .enumerate()
        {
            let dump = repo.run(["dump", snapshot["id"].as_str().unwrap(), "stdin"]);
            assert!(dump.stdout == noise(place as u64 + 1, 300_000));
        }
        expect(&repo.feed(["backup", "--stdin", "--stdin-filename", "after"], b"goes on"), 0);
        repo.ok(["forget", "latest", "--path", "/after", "--prune"]);
    }
}

/// Where a store cannot swap, HEAD is the last of a chain: backups and prunes at the same time, links lost, and back.
#[test]
fn head_as_a_chain() {
    let repo = Repo::empty();
    repo.ok(["init", "--head", "chain"]);
    std::thread::scope(|scope| {
        for number in 0..4 {
            let repo = &repo;
            scope.spawn(move || {
                for night in 0..3 {
                    let name = format!("stream-{number}-{night}");
                    let data = noise(number * 10 + night, 200_000);
                    expect(&repo.feed(["backup", "--stdin", "--stdin-filename", &name], &data), 0);
                }
            });
        }
        scope.spawn(|| repo.ok(["prune"]));
    });
    assert!(!repo.folder().join("HEAD").exists());
    let links = files_under(&repo.folder().join("head"));
    assert!(links.len() > 24, "{}", links.len());
    assert_eq!(repo.snapshot_count(), 12);
    repo.ok(["forget", "--keep-last", "2", "--group-by", "host", "--prune"]);
    repo.ok(["check", "--read-data"]);
    // The last link is taken away: whoever saw it says so.
    let last = files_under(&repo.folder().join("head")).pop().unwrap();
    std::fs::remove_file(&last).unwrap();
    assert!(repo.fails(1, ["snapshots"]).contains("rolled back"));
    repo.ok(["repair", "head", "--yes"]);
    assert_eq!(repo.snapshot_count(), 2);
    // And one that is damaged.
    let last = files_under(&repo.folder().join("head")).pop().unwrap();
    std::fs::write(&last, b"rubbish").unwrap();
    repo.fails(1, ["snapshots"]);
    repo.ok(["repair", "head", "--yes"]);
    repo.ok(["check", "--read-data"]);
    expect(&repo.feed(["backup", "--stdin"], b"goes on"), 0);
    assert_eq!(repo.snapshot_count(), 3);
}

#[test]
fn an_older_head_is_noticed() {
    let repo = Repo::new();
    expect(&repo.feed(["backup", "--stdin"], b"one"), 0);
    let head = repo.folder().join("HEAD");
    let old = std::fs::read(&head).unwrap();
    expect(&repo.feed(["backup", "--stdin"], b"two"), 0);
    std::fs::write(&head, old).unwrap();
    assert!(repo.fails(1, ["snapshots"]).contains("rolled back"));
}
