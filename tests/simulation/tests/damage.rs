//! Damage of every byte of a small repository, and of whole objects: noticed, named, survived; and mended where there
//! is parity.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that fails must say where, and this one counts"
)]

use chunkstore::chunker::ChunkerParams;
use chunkstore::config::Layout;
use chunkstore::env::SystemEnv;
use chunkstore::executor::Inline;
use chunkstore::ingest::PackerOptions;
use chunkstore::keys::{KdfParams, SlotOwner};
use chunkstore::storage::memory::MemoryStorage;
use chunkstore::store::{Access, Identity};
use engine::Monitor;
use engine::backup::{BackupOptions, backup};
use engine::columns::SnapshotColumns;
use engine::entry::Time;
use engine::monitor::Tally;
use engine::snapshot::SourceRecord;
use engine::source::at_hand::AtHand;
use engine::source::files::{FilesOptions, FilesSource};
use engine::source::{Item, Source, SourceError};
use engine::verify::{CheckOptions, ReadData, check};
use engine::{Error, Repository};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Bytes that do not compress, the same for the same seed.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

const CHEAP: KdfParams = KdfParams { memory_kib: 8, passes: 1, lanes: 1 };

fn access(storage: &Arc<MemoryStorage>) -> Access {
    Access {
        storage: Arc::clone(storage) as Arc<dyn chunkstore::storage::Storage>,
        env: Arc::new(SystemEnv),
        cpu: Arc::new(Inline),
        io: Arc::new(Inline),
        cache: None,
        identity: Identity::default(),
        columns: &SnapshotColumns,
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
        let mut source = Stream(Some(AtHand::item("stream", Time::default(), data.clone())));
        backup(&repo, &mut source, &options, &tally).unwrap();
    }
    files.insert(b"stream".to_vec(), versions);
    assert!(engine::stats::stats(&repo, &[], &tally).unwrap().delta_blob_count > 0);
    assert!(tally.errors().is_empty());
    (storage, files)
}

/// One stream of bytes.
struct Stream(Option<Item>);

impl Source for Stream {
    fn records(&self) -> Vec<SourceRecord> {
        vec![SourceRecord::new("stream", "stream", true)]
    }
    fn paths(&self) -> Vec<String> {
        vec!["/stream".into()]
    }
    fn next_item(&mut self, _: &dyn Monitor) -> Result<Option<Item>, SourceError> {
        Ok(self.0.take())
    }
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
            let name = String::from_utf8_lossy(path);
            match engine::restore::dump(&repo, &listed.snapshot, path, &mut out, &Tally::default()) {
                Ok(_) => assert!(data.contains(&out), "wrong bytes for {name}"),
                Err(Error::NoEntry { .. }) => {}
                Err(error) => {
                    let named = |error: &engine::ItemError| {
                        error.item.ends_with(&*name) || error.item.contains("entries after")
                    };
                    let errors = tally.errors();
                    assert!(errors.iter().any(named), "{name}: {error}, and check names {errors:?}");
                }
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
