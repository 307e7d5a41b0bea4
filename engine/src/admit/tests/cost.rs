//! What a host can make the admitter do: read twice, decompress, or stop.

use super::*;
use crate::admit::chunks::Chunks;
use crate::manifest::lists::{KnownLists, each_chunk};
use crate::reach::for_each_further_chunk;
use chunkstore::format::MAX_COMMIT_LEN;
use chunkstore::storage::{StorageError, StorageResult};
use std::collections::BTreeMap;
use std::sync::Mutex;

/// What happens to a read.
#[derive(Clone, Copy, PartialEq)]
enum Harm {
    Flip,
    Lose,
    Freeze,
}

/// A store that counts what is read of inboxes, and harms some of it so often.
struct Watched {
    disk: Arc<MemoryStorage>,
    reads: Mutex<BTreeMap<String, u32>>,
    /// What is done to the first reads of objects whose names have this end.
    harm: Mutex<Option<(Harm, &'static str, u32)>>,
}

impl Watched {
    fn new() -> Arc<Self> {
        Arc::new(Self { disk: Arc::default(), reads: Mutex::default(), harm: Mutex::default() })
    }

    fn thief(self: &Arc<Self>) -> Thief {
        Thief::on(Arc::clone(&self.disk), Arc::clone(self) as _)
    }

    /// How often the pack was read that was read most often.
    fn most_reads(&self) -> u32 {
        let reads = self.reads.lock().unwrap();
        let packs = reads.iter().filter(|(name, _)| !name.ends_with(names::COMMIT));
        packs.map(|(_, count)| *count).max().unwrap_or_default()
    }
}

impl chunkstore::storage::Storage for Watched {
    fn get(&self, name: &str, limit: u64) -> StorageResult<bytes::Bytes> {
        if !name.starts_with(names::INBOX) {
            return self.disk.get(name, limit);
        }
        let mut reads = self.reads.lock().unwrap();
        let count = reads.entry(name.to_owned()).or_default();
        *count += 1;
        let harm = *self.harm.lock().unwrap();
        let harm = harm.filter(|(_, end, times)| name.ends_with(end) && *count <= *times);
        let failed = |kind| StorageError { kind, op: "read", object: name.into(), source: "harmed".into() };
        match harm.map(|(harm, ..)| harm) {
            None => self.disk.get(name, limit),
            Some(Harm::Lose) => Err(failed(ErrorKind::NotFound)),
            Some(Harm::Freeze) => Err(failed(ErrorKind::Frozen)),
            Some(Harm::Flip) => {
                let mut bytes = self.disk.get(name, limit)?.to_vec();
                bytes[100] ^= 1;
                Ok(bytes.into())
            }
        }
    }
    chunkstore::forward!(self => self.disk; place put replace len list get_range stream_range leftovers delete
        read_versioned swap connections is_near keeps_copies written_ms copies shelf);
}

/// What was said wrongly is said wrongly again: nothing is read for it a second time.
#[test]
fn what_damage_on_the_way_cannot_do_is_read_once() {
    type Change = fn(&mut Snapshot, &mut Commit);
    let nothing: Change = |_, _| ();
    let cases: [(&str, u32, bool, Change); 8] = [
        ("is not what the host brought", 2, false, |_, commit| commit.packs[0].hash = ObjectId([1; 32])),
        ("is missing in the inbox", 2, false, |_, commit| commit.packs[0].name.id = PackId([1; 32])),
        ("header is not the one that was written", 2, false, |_, commit| {
            commit.packs[0].name.session = SessionId([1; 16]);
        }),
        ("of another host", 0, false, |snapshot, _| snapshot.hostname = "db1".into()),
        ("still to come", 0, false, |snapshot, _| snapshot.time += jiff::SignedDuration::from_hours(2)),
        ("names a pack twice", 0, false, |_, commit| commit.packs.push(commit.packs[0])),
        ("is not what its id says", 1, true, nothing),
        ("list of entries", 1, false, |snapshot, _| snapshot.manifest.level = 200),
    ];
    for (because, expected, is_garbage, change) in cases {
        let watched = Watched::new();
        let mut thief = watched.thief();
        let id = if is_garbage { thief.id(b"other") } else { thief.id(b"x") };
        let chunk = (id, &b"x"[..]);
        let signed = thief.bring(&[chunk], &[chunk], change);
        thief.is_refused(&signed, because);
        assert_eq!(watched.most_reads(), expected, "{because}");
    }
    let watched = Watched::new();
    let mut thief = watched.thief();
    let (here, missing) = ((thief.id(b"here"), &b"here"[..]), (thief.id(b"missing"), &b"missing"[..]));
    let signed = thief.bring(&[here, missing], &[here], |_, _| ());
    thief.is_refused(&signed, "no longer in the repository");
    assert_eq!(watched.most_reads(), 1, "what a snapshot lacks, it lacks");
}

#[test]
fn what_was_damaged_on_its_way_once_is_admitted() {
    for harm in [Harm::Flip, Harm::Lose] {
        for (times, is_in) in [(1, true), (2, false)] {
            let watched = Watched::new();
            let mut thief = watched.thief();
            let chunk = (thief.id(b"x"), &b"x"[..]);
            let mut data = String::new();
            thief.bring(&[chunk], &[chunk], |_, commit| data = commit.packs[0].name.id.to_string());
            *watched.harm.lock().unwrap() = Some((harm, data.leak(), times));
            let done = thief.admit();
            assert_eq!(matches!(*done, [Outcome::Admitted { .. }]), is_in, "{done:?}");
            assert_eq!(watched.most_reads(), 2);
        }
    }
}

#[test]
fn a_chunk_comes_once_in_a_run() {
    let mut thief = Thief::new();
    let chunk = (thief.id(b"x"), &b"x"[..]);
    let signed = thief.bring(&[chunk], &[chunk, chunk], |_, _| ());
    thief.is_refused(&signed, "twice");
    let mut chunks = Chunks::default();
    let said: Vec<bool> = [(1, 1), (1, 2), (1, 1), (2, 1), (2, 1)]
        .into_iter()
        .map(|(run, byte)| chunks.insert(run, &ChunkId([byte; 32])))
        .collect();
    assert_eq!(said, [true, true, false, true, false], "of another pack, too; not of another run");
}

/// Its frame is no zstd: it is refused for its length, before anything is decompressed.
#[test]
fn what_would_be_too_long_is_not_decompressed() {
    let mut thief = Thief::new();
    thief.claims = Some(16 << 20);
    let chunk = (thief.id(b"x"), &b"x"[..]);
    let signed = thief.bring(&[chunk], &[chunk], |_, _| ());
    thief.is_refused(&signed, "a chunk of 16777216 bytes is longer than chunks are here");
}

/// Objects that no admitter can read are the business of whose inbox they are in.
#[test]
fn what_cannot_be_read_stops_nobody_else() {
    for harm in [None, Some(Harm::Freeze)] {
        let watched = Watched::new();
        let mut thief = watched.thief();
        let chunk = (thief.id(b"x"), &b"x"[..]);
        thief.bring(&[chunk], &[chunk], |_, _| ());
        let own = thief.bundle.keys.host;
        let body = match harm {
            None => bytes::Bytes::from(vec![0; (MAX_COMMIT_LEN + 1) as usize]),
            Some(_) => bytes::Bytes::from_static(b"frozen"),
        };
        // Whatever the order, some are looked at before the one that is sound.
        for number in 0..8 {
            let other = thief.repo.store().add_host(&format!("other-{number}"), "memory").unwrap().keys.host;
            thief.disk.put(&names::commit(&other, 2), body.clone()).unwrap();
        }
        let end = names::commit(&own, 1);
        *watched.harm.lock().unwrap() = harm.map(|harm| (harm, "2/commit", u32::MAX));
        let tally = Tally::default();
        let done = admit(&thief.repo, &AdmitOptions::default(), &tally).unwrap();
        let is_in = |one: &&Admission| matches!(one.outcome, Outcome::Admitted { .. });
        let admitted: Vec<ObjectId> = done.iter().filter(is_in).map(|one| one.id).collect();
        assert_eq!(admitted, [own]);
        assert!(!thief.disk.objects().contains_key(&end));
        match harm {
            None => assert_eq!((done.len(), tally.errors().len()), (9, 0), "{done:?}"),
            Some(_) => assert_eq!((done.len(), tally.errors().len()), (1, 8), "{done:?}"),
        }
    }
}

/// The same of what lies under a number that is over.
#[test]
fn what_cannot_be_read_of_a_run_that_is_over_is_removed() {
    let mut thief = Thief::new();
    let chunk = (thief.id(b"x"), &b"x"[..]);
    thief.bring(&[chunk], &[chunk], |_, _| ());
    assert!(matches!(*thief.admit(), [Outcome::Admitted { .. }]));
    let name = names::commit(&thief.bundle.keys.host, 1);
    thief.disk.put(&name, vec![0; (MAX_COMMIT_LEN + 1) as usize].into()).unwrap();
    assert_eq!(thief.admit(), []);
    assert!(!thief.disk.objects().contains_key(&name));
}

/// Small runs whose lists of entries come again and again: after one of them, the host waits for the next admission.
#[test]
fn repeats_of_one_run_are_taken_off_the_others() {
    let mut thief = Thief::new();
    let chunk = (thief.id(b"x"), &b"x"[..]);
    thief.bring(&[chunk], &[chunk], |_, _| ());
    assert!(matches!(*thief.admit(), [Outcome::Admitted { .. }]));
    let leaf = thief.repo.snapshots(&Tally::default()).unwrap()[0].snapshot.manifest.chunks[0];
    let mut list = Encoder::default();
    crate::manifest::encode_refs(&mut list, &[ChunkRef { id: leaf.0, len: leaf.1 }; 100]);
    let list = (thief.id(&list.bytes), &*list.bytes.leak());
    for _ in 0..3 {
        thief.bring(&[chunk], &[list], |snapshot, _| {
            let len = u32::try_from(list.1.len()).unwrap();
            snapshot.manifest =
                ManifestRoot { level: 1, chunks: vec![(list.0, len); 700], ..ManifestRoot::default() };
        });
    }
    for waiting in [2, 1, 0] {
        let done = thief.admit();
        let (Outcome::Refused { why, .. }, rest) = (&done[0], &done[1..]) else { panic!("{done:?}") };
        assert!(why.contains("again and again"), "{why}");
        match waiting {
            0 => assert_eq!(rest, []),
            runs => assert_eq!(rest, [Outcome::Waits { runs }]),
        }
    }
}

/// A walk over several snapshots reads what they share once, and nothing counts as read of a walk that failed.
#[test]
fn what_two_snapshots_list_is_read_once_unless_it_failed() {
    let mut thief = Thief::new();
    let [first, second] = [&b"first"[..], b"second"].map(|plain| (thief.id(plain), plain));
    for content in [&[first][..], &[first], &[first, second]] {
        thief.bring(content, content, |_, _| ());
        assert!(matches!(*thief.admit(), [Outcome::Admitted { .. }]));
    }
    let mut all = thief.repo.snapshots(&Tally::default()).unwrap();
    all.sort_by_key(|listed| listed.snapshot.manifest.bytes);
    let mut known = KnownLists::new();
    let mut walk = |listed: &crate::snapshot::Listed| {
        let mut ids = vec![];
        let each = &mut |chunk: ChunkRef| ids.push(chunk.id);
        let done = for_each_further_chunk(thief.repo.store(), listed, &mut known, each);
        (done.map_err(|error| error.to_string()), ids, known.len())
    };
    let list = |listed: &crate::snapshot::Listed| listed.snapshot.manifest.chunks[0].0;
    assert_eq!(walk(&all[0]), (Ok(()), vec![list(&all[0]), first.0], 1));
    assert_eq!(walk(&all[1]), (Ok(()), vec![], 1), "the same list of entries");
    let objects = thief.disk.objects().clone();
    let packs: Vec<&String> = objects.keys().filter(|name| name.starts_with("packs/")).collect();
    packs.iter().for_each(|name| thief.disk.delete(name).unwrap());
    let (done, _, len) = walk(&all[2]);
    assert!(done.is_err_and(|why| why.contains("is damaged")) && len == 1);
    packs.iter().for_each(|name| thief.disk.put(name, objects[*name].clone()).unwrap());
    assert_eq!(walk(&all[2]), (Ok(()), vec![list(&all[2]), first.0, second.0], 2));
}

/// A chunk that was read as a list of chunks was not read as records: a thief may use one as both.
#[test]
fn what_was_read_at_one_height_is_read_at_another() {
    let mut thief = Thief::new();
    let file = (thief.id(b"x"), &b"x"[..]);
    thief.bring(&[file], &[file], |_, _| ());
    assert!(matches!(*thief.admit(), [Outcome::Admitted { .. }]));
    let leaf = thief.repo.snapshots(&Tally::default()).unwrap()[0].snapshot.manifest.chunks[0];
    let mut list = Encoder::default();
    crate::manifest::encode_refs(&mut list, &[ChunkRef { id: leaf.0, len: leaf.1 }]);
    let list = (thief.id(&list.bytes), &*list.bytes.leak());
    thief.bring(&[list], &[list], |_, _| ());
    assert!(matches!(*thief.admit(), [Outcome::Admitted { .. }]));
    let mut known = KnownLists::new();
    let mut walk = |level| {
        let chunks = vec![(list.0, u32::try_from(list.1.len()).unwrap())];
        let root = ManifestRoot { level, chunks, ..ManifestRoot::default() };
        each_chunk(thief.repo.store(), &root, &mut known, &mut |_| ())
    };
    walk(1).unwrap();
    assert!(walk(0).is_err(), "it holds no records");
    walk(1).unwrap();
}

/// Packs of a few kilobytes that make hundreds of megabytes, of a run that is refused: the next run waits for the next admission.
#[test]
fn a_refused_bomb_is_taken_off_the_others() {
    const LEN: usize = 1 << 20;
    let disk = Arc::new(MemoryStorage::default());
    // The longest that the pipeline takes have twice that length.
    let mut thief = Thief::with_chunks_around(1 << 19, Arc::clone(&disk), disk);
    let bombs: Vec<(ChunkId, Vec<u8>)> = (0..280u32)
        .map(|number| {
            let mut plain = vec![0; LEN];
            plain[..4].copy_from_slice(&number.to_le_bytes());
            (thief.id(&plain), zstd::bulk::compress(&plain, 1).unwrap())
        })
        .collect();
    let stored: Vec<Chunk<'_>> = bombs.iter().map(|(id, frame)| (*id, &**frame)).collect();
    thief.claims = Some(u32::try_from(LEN).unwrap());
    let lacks = (thief.id(b"nobody has it"), &b"nobody has it"[..]);
    // A few chunks alone are within what any run may cost.
    (0..2).for_each(|_| drop(thief.bring(&[lacks], &stored[..4], |_, _| ())));
    let done = thief.admit();
    assert!(matches!(*done, [Outcome::Refused { .. }, Outcome::Refused { .. }]), "{done:?}");
    (0..2).for_each(|_| drop(thief.bring(&[lacks], &stored, |_, _| ())));
    let done = thief.admit();
    assert!(matches!(*done, [Outcome::Refused { .. }, Outcome::Waits { runs: 1 }]), "{done:?}");
    assert!(matches!(*thief.admit(), [Outcome::Refused { .. }]));
}
