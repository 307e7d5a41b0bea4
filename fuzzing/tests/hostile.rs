//! Repositories that a hostile writer with the keys could make, or a hostile store without them. Each is refused or
//! reported for the right reason, nothing panics, and nothing is written outside the target of a restore.

use chunkstore::format::{Codec, Encoder, PackKind};
use chunkstore::head::{Head, Root, SegmentRef};
use chunkstore::index::{PackEntry, Segment};
use chunkstore::ingest::ChunkRef;
use chunkstore::pack::{PackBuilder, PackName, Record as ChunkRecord};
use chunkstore::{ChunkId, ObjectId, PackId};
use engine::entry::{Entry, Kind, Time};
use engine::manifest::{Ending, ManifestRoot, Record};
use engine::monitor::Tally;
use engine::restore::{RestoreOptions, restore};
use engine::snapshot::{Filter, Snapshot};
use engine::verify::{ReadData, check};
use fuzzing::forge::{Forge, encode, file};
use std::path::Path;

type Made = chunkstore::Result<Vec<Root>>;
type Make = Box<dyn Fn(&mut Forge) -> Made>;

/// A repository, and words of which one must be in what is said of it.
struct Case {
    name: String,
    make: Make,
    /// What the other party does to the objects afterwards.
    spoil: fn(&mut std::collections::BTreeMap<String, bytes::Bytes>),
    says: &'static str,
}

/// Nothing need be said where nothing can go wrong.
const NOTHING: &str = "nothing";

fn case(name: impl Into<String>, says: &'static str, make: impl Fn(&mut Forge) -> Made + 'static) -> Case {
    Case { name: name.into(), make: Box::new(make), spoil: |_| {}, says }
}

fn spoilt(
    name: &str,
    says: &'static str,
    spoil: fn(&mut std::collections::BTreeMap<String, bytes::Bytes>),
) -> Case {
    Case { name: name.into(), make: Box::new(sound), spoil, says }
}

/// Nothing wrong with it.
fn sound(forge: &mut Forge) -> Made {
    let content = forge.data(b"content of a file that is long enough to be one")?;
    let mut records = folder("etc");
    // A first attempt that was given up, and the one that succeeded.
    records.extend(file("etc/passwd", content.clone()));
    *records.last_mut().expect("an end") = Record::End(Ending::Dropped, 7);
    records.extend(file("etc/passwd", content));
    Ok(vec![forge.records(&records)?])
}

fn entry(path: &[u8], kind: Kind) -> Entry {
    let mut entry = Entry::stream(path, Time::default());
    (entry.kind, entry.mode) = (kind, 0o755);
    if kind == Kind::Symlink {
        entry.target = b"elsewhere".to_vec();
    }
    entry
}

fn folder(path: &str) -> Vec<Record> {
    whole(entry(path.as_bytes(), Kind::Dir))
}

fn whole(entry: Entry) -> Vec<Record> {
    vec![Record::Entry(Box::new(entry)), Record::End(Ending::Complete, 0)]
}

fn link(path: &str, target: &str) -> Vec<Record> {
    whole(Entry { target: target.as_bytes().to_vec(), ..entry(path.as_bytes(), Kind::Symlink) })
}

/// Paths that are none: the decoder refuses them.
fn paths() -> Vec<Case> {
    let long = vec![b'a'; 70_000];
    let bad: [&[u8]; 18] = [
        b"",
        b"/",
        b"/etc/passwd",
        b"..",
        b".",
        b"a/..",
        b"a/../b",
        b"../x",
        b"a//b",
        b"a/",
        b"./a",
        b"a/./b",
        b"a\0b",
        b"\0",
        b"..//..",
        b"a/b/../../../c",
        b"//",
        &long,
    ];
    let kinds = [Kind::File, Kind::Dir, Kind::Symlink, Kind::Fifo];
    let mut cases = vec![];
    for path in bad {
        for kind in kinds {
            let (path, says) =
                (path.to_vec(), if path.len() > 65_536 { "over its limit" } else { "not a path" });
            let shown = String::from_utf8_lossy(&path[..path.len().min(20)]).into_owned();
            cases.push(case(format!("path {shown:?} of a {}", kind.name()), says, move |forge| {
                Ok(vec![forge.records(&whole(entry(&path, kind)))?])
            }));
        }
    }
    cases
}

/// Records that make no tree.
fn structures() -> Vec<Case> {
    let refs = |forge: &mut Forge| forge.data(b"some content");
    let raw = |name: &str, says, bytes: fn(Vec<u8>) -> Vec<u8>| {
        case(name, says, move |forge| {
            let good = encode(&folder("a"));
            let chunk = forge.metadata(&bytes(good))?;
            Ok(vec![forge.snapshot(&[chunk], 1, 0)?])
        })
    };
    vec![
        raw("unknown record", "unknown record", |mut bytes| {
            bytes[0] = 77;
            bytes
        }),
        raw("a record cut short", "ends too early", |mut bytes| {
            bytes.truncate(bytes.len() - 3);
            bytes
        }),
        raw("bytes after the last record", "ends too early", |mut bytes| {
            bytes.push(1);
            bytes
        }),
        raw("a record longer than the chunk", "over its limit", |mut bytes| {
            bytes[1..5].fill(0xff);
            bytes
        }),
        raw("an unknown kind of entry", "unknown kind", |mut bytes| {
            bytes[5] = 99;
            bytes
        }),
        case("an end without an entry", "without an entry", |forge| {
            Ok(vec![forge.records(&[Record::End(Ending::Complete, 0)])?])
        }),
        case("content without an entry", "without an entry", move |forge| {
            let chunks = refs(forge)?;
            Ok(vec![forge.records(&[Record::Chunks(chunks), Record::End(Ending::Complete, 12)])?])
        }),
        case("an entry without an end", "has no end", |forge| Ok(vec![forge.records(&folder("a")[..1])?])),
        case("an entry within an entry", "has no end", |forge| {
            let records = [folder("a"), folder("b")].concat();
            Ok(vec![forge.records(&[records[0].clone(), records[2].clone(), records[3].clone()])?])
        }),
        case("two ends", "without an entry", |forge| {
            let mut records = folder("a");
            records.push(Record::End(Ending::Complete, 0));
            Ok(vec![forge.records(&records)?])
        }),
        case("an end that says another size", "not as long as it says", move |forge| {
            let mut records = file("a", refs(forge)?);
            records[2] = Record::End(Ending::Complete, 13);
            Ok(vec![forge.records(&records)?])
        }),
        case("content of a folder", "content of what has none", move |forge| {
            let mut records = folder("a");
            records.insert(1, Record::Chunks(refs(forge)?));
            Ok(vec![forge.records(&records)?])
        }),
        case("a hole of all bytes there are", "more content than fits", |forge| {
            let mut records = file("a", vec![]);
            records[1] = Record::Hole(u64::MAX);
            records[2] = Record::End(Ending::Complete, u64::MAX);
            Ok(vec![forge.records(&records)?])
        }),
        case("holes that add up to more than all bytes", "more content than fits", |forge| {
            let mut records = file("a", vec![]);
            records[1] = Record::Hole(u64::MAX / 2 + 1);
            records.insert(2, Record::Hole(u64::MAX / 2 + 1));
            Ok(vec![forge.records(&records)?])
        }),
        case("an entry twice", "out of order", |forge| {
            Ok(vec![forge.records(&[folder("a"), folder("a")].concat())?])
        }),
        case("entries out of order", "out of order", |forge| {
            Ok(vec![forge.records(&[folder("b"), folder("a")].concat())?])
        }),
        case("a child before its folder", "out of order", |forge| {
            Ok(vec![forge.records(&[folder("a/b"), folder("a")].concat())?])
        }),
        case("a child of a file", "Not a directory", move |forge| {
            let chunks = refs(forge)?;
            Ok(vec![forge.records(&[file("a", chunks.clone()), file("a/b", chunks)].concat())?])
        }),
    ]
}

/// Links that lead out of the target. `check` has nothing to say of most: a link may point anywhere.
fn links() -> Vec<Case> {
    let through = |name: &str, target: &'static str| {
        case(name, "Not a directory", move |forge| {
            let chunks = forge.data(b"overwritten")?;
            Ok(vec![forge.records(&[link("a", target), file("a/canary", chunks)].concat())?])
        })
    };
    vec![
        through("a file through a link to ..", ".."),
        through("a file through a link to ../outside", "../outside"),
        through("a file through a link to a link", "b"),
        through("a file through a link to /tmp", "/tmp"),
        through("a file through a link to /proc/self/cwd", "/proc/self/cwd"),
        case("a folder's metadata through a link", "Not a directory", |forge| {
            Ok(vec![forge.records(&[link("a", "../outside"), folder("a/b")].concat())?])
        }),
        case("a link, then a folder of its name", "out of order", |forge| {
            let chunks = forge.data(b"overwritten")?;
            let records = [link("a", "../outside"), folder("a"), file("a/canary", chunks)].concat();
            Ok(vec![forge.records(&records)?])
        }),
        case("a link, then a file of its name", "out of order", |forge| {
            let chunks = forge.data(b"overwritten")?;
            Ok(vec![forge.records(&[link("a", "../outside/canary"), file("a", chunks)].concat())?])
        }),
        case("a hard link to what a link points to", NOTHING, |forge| {
            let linked = |path: &str, kind| Entry { links: 2, inode: 9, ..entry(path.as_bytes(), kind) };
            let first = Entry { target: b"../outside/canary".to_vec(), ..linked("a", Kind::Symlink) };
            Ok(vec![forge.records(&[whole(first), whole(linked("b", Kind::File))].concat())?])
        }),
    ]
}

/// Chunks and manifests that are not there, or not what is said.
fn references() -> Vec<Case> {
    let known = |forge: &mut Forge| forge.data(b"some content");
    let with = |name: &str, says, change: fn(ChunkRef) -> ChunkRef| {
        case(name, says, move |forge| {
            let chunk = change(known(forge)?[0]);
            Ok(vec![forge.records(&file("a", vec![chunk]))?])
        })
    };
    let root = |name: &str, says, change: fn(ManifestRoot, &mut Forge) -> ManifestRoot| {
        case(name, says, move |forge| {
            let chunk = forge.metadata(&encode(&folder("a")))?;
            let manifest =
                ManifestRoot { level: 0, chunks: vec![(chunk.id, chunk.len)], entries: 1, bytes: 0 };
            let manifest = change(manifest, forge);
            let snapshot = Snapshot { hostname: "forge".into(), manifest, ..Snapshot::default() };
            let plain = serde_json::to_vec(&snapshot).expect("a snapshot");
            Ok(vec![forge.store.write_snapshot(&plain)?])
        })
    };
    vec![
        with("a chunk that is nowhere", "in no index segment", |chunk| ChunkRef {
            id: ChunkId([9; 32]),
            ..chunk
        }),
        with("a chunk that is shorter than said", "in no index segment", |chunk| ChunkRef {
            len: 13,
            ..chunk
        }),
        with("a chunk that is longer than said", "in no index segment", |chunk| ChunkRef {
            len: 11,
            ..chunk
        }),
        with("a chunk of no bytes", "in no index segment", |chunk| ChunkRef { len: 0, ..chunk }),
        with("a chunk of 4 GiB", "in no index segment", |chunk| ChunkRef { len: u32::MAX, ..chunk }),
        root("a manifest of 5 levels", "too many levels", |root, _| ManifestRoot { level: 5, ..root }),
        root("a manifest of 255 levels", "too many levels", |root, _| ManifestRoot { level: 255, ..root }),
        root("records where a list should be", "malformed manifest list", |root, _| ManifestRoot {
            level: 1,
            ..root
        }),
        root("a list where records should be", "malformed manifest", |root, forge| {
            let mut list = Encoder::default();
            engine::manifest::encode_refs(
                &mut list,
                &[ChunkRef { id: root.chunks[0].0, len: root.chunks[0].1 }],
            );
            let chunk = forge.metadata(&list.bytes).expect("a chunk");
            ManifestRoot { chunks: vec![(chunk.id, chunk.len)], ..root }
        }),
        root("a manifest chunk that is nowhere", "in no index segment", |root, _| ManifestRoot {
            chunks: vec![(ChunkId([9; 32]), 100)],
            ..root
        }),
        root("a manifest with fewer entries than said", "does not hold what the snapshot says", |root, _| {
            ManifestRoot { entries: 7, ..root }
        }),
        root("content where records should be", "malformed manifest", |root, forge| {
            let chunk = forge.data(b"this is no manifest at all").expect("a chunk")[0];
            ManifestRoot { chunks: vec![(chunk.id, chunk.len)], ..root }
        }),
    ]
}

/// Snapshots that are none.
fn snapshots() -> Vec<Case> {
    let texts: [(&str, &str, String); 14] = [
        ("no bytes", "EOF while", String::new()),
        ("no JSON", "expected value", "snapshot".into()),
        ("an array", "invalid type", "[]".into()),
        ("an empty object", "missing field", "{}".into()),
        ("a number", "invalid type", "7".into()),
        ("no text", "expected value", "\u{0}\u{1}\u{2}".into()),
        ("deep arrays", "invalid type", "[".repeat(200_000)),
        ("deep objects", "recursion limit", "{\"a\":".repeat(200_000)),
        ("a manifest of level 256", "expected u8", change("\"level\":0", "\"level\":256")),
        ("a manifest of level -1", "expected u8", change("\"level\":0", "\"level\":-1")),
        ("a time that is none", "year", change("1970-01-01T00:00:00Z", "yesterday")),
        ("chunks that are none", "in hex", change("\"chunks\":[]", "\"chunks\":[[\"zz\",1]]")),
        (
            "a chunk of negative length",
            "expected u32",
            change("\"chunks\":[]", &format!("\"chunks\":[[\"{}\",-1]]", "ab".repeat(32))),
        ),
        ("bytes after its end", "trailing", change("\"chunks\"", "\"chunks\"") + "{}"),
    ];
    fn change(from: &str, to: &str) -> String {
        let text = serde_json::to_string(&Snapshot::default()).expect("a snapshot");
        assert!(text.contains(from), "{text}");
        text.replacen(from, to, 1)
    }
    texts
        .into_iter()
        .map(|(name, says, text)| {
            case(format!("snapshot: {name}"), says, move |forge| {
                Ok(vec![forge.store.write_snapshot(text.as_bytes())?])
            })
        })
        .collect()
}

/// Heads that lead nowhere.
fn heads() -> Vec<Case> {
    let with = |name: &str, says, change: fn(&mut Head)| {
        case(name, says, move |forge| {
            let roots = sound(forge)?;
            forge.store.update_head(|head| {
                change(head);
                Ok(())
            })?;
            Ok(roots)
        })
    };
    vec![
        with("a root that is not there", "not found", |head| {
            head.roots.push(Root { kind: "snapshot".into(), id: ObjectId([5; 32]), hash: ObjectId([6; 32]) });
        }),
        with("a root of unknown kind", "kind 'trap'", |head| {
            head.roots.push(Root { kind: "trap".into(), id: ObjectId([5; 32]), hash: ObjectId([6; 32]) });
        }),
        with("a segment that is not there", "not found", |head| {
            let (id, hash) = (ObjectId([5; 32]), ObjectId([6; 32]));
            head.segments.push(SegmentRef { id, hash, packs: 1, chunks: 1 });
        }),
        with("a feature that nobody knows", "feature", |head| head.required_features.push("trap".into())),
        with("a slot that is not there", "slot is missing", |head| {
            head.slots.insert(ObjectId([5; 32]), ObjectId([6; 32]));
        }),
        with("a slot with another hash", "slot was changed", |head| {
            head.slots.values_mut().for_each(|hash| *hash = ObjectId([6; 32]));
        }),
    ]
}

/// Segments and packs that were forged: the sealed bytes are the writer's own, and lie.
fn packs() -> Vec<Case> {
    let forged = |name: &str, says, make: fn(ChunkId, &mut PackBuilder)| {
        case(name, says, move |forge| {
            // A file whose only chunk is in the forged pack.
            let plain = b"what the chunk should be, and is not".repeat(10);
            let id = forge.store.keys().chunk_id(&plain);
            let (session, epoch) = (forge.session, forge.store.keys().current_epoch());
            let name = PackName { session, id: PackId([8; 32]), kind: PackKind::Data, epoch };
            let mut builder = PackBuilder::new(name, vec![]);
            make(id, &mut builder);
            let sealed = builder.seal(forge.store.keys())?;
            let entry = PackEntry { name, len: sealed.bytes.len() as u64, records: sealed.records.clone() };
            forge.storage.objects().insert(name.object(), sealed.bytes.clone().into());
            let segment = forge.store.write_segment(&Segment { packs: vec![entry] })?;
            forge.store.checkpoint(&forge.session, &[segment])?;
            let chunk = ChunkRef { id, len: plain.len() as u32 };
            Ok(vec![forge.records(&file("a", vec![chunk]))?])
        })
    };
    fn zeros(len: usize) -> Vec<u8> {
        let mut frame = vec![];
        let compression = chunkstore::seal::Compression::default();
        let mut compressor = chunkstore::seal::Compressor::new(compression).expect("a compressor");
        compressor.compress(&vec![0; len], &mut frame);
        frame
    }
    vec![
        forged("other content under the id", "does not have this id", |id, pack| {
            pack.push(ChunkRecord::full(id, 360, 0, Codec::Raw), &[7; 360]);
        }),
        forged("a frame that is no frame", "zstd: Unknown frame", |id, pack| {
            pack.push(ChunkRecord::full(id, 360, 0, Codec::Zstd), &[7; 100]);
        }),
        forged("a bomb of 8 MiB for 360 bytes", "too small", |id, pack| {
            pack.push(ChunkRecord::full(id, 360, 0, Codec::Zstd), &zeros(8 << 20));
        }),
        forged("less than is said", "another length", |id, pack| {
            pack.push(ChunkRecord::full(id, 360, 0, Codec::Raw), &[7; 100]);
        }),
        forged("16 MiB that are a hundred bytes", "another length", |id, pack| {
            pack.push(ChunkRecord::full(id, 16 << 20, 0, Codec::Raw), &[7; 100]);
        }),
        forged("a delta that stands on itself", "in no index segment", |id, pack| {
            pack.push(ChunkRecord::delta(id, 360, 0, Codec::Patch, 1, 1, vec![id]), &[7; 100]);
        }),
        forged("two deltas that stand on each other", "in no index segment", |id, pack| {
            let other = ChunkId([4; 32]);
            pack.push(ChunkRecord::delta(id, 360, 0, Codec::Patch, 2, 1, vec![other]), &[7; 100]);
            pack.push(ChunkRecord::delta(other, 360, 0, Codec::Patch, 1, 1, vec![id]), &[7; 100]);
        }),
        forged("a delta that stands on nothing there is", "in no index segment", |id, pack| {
            pack.push(
                ChunkRecord::delta(id, 360, 0, Codec::ZstdDelta, 1, 1, vec![ChunkId([4; 32])]),
                &[7; 100],
            );
        }),
        forged("a patch that is no patch", "zstd: Unknown frame", |id, pack| {
            let base = ChunkId([4; 32]);
            pack.push(ChunkRecord::full(base, 100, 0, Codec::Raw), &[1; 100]);
            pack.push(ChunkRecord::delta(id, 360, 0, Codec::Patch, 1, 1, vec![base]), &[0xff; 50]);
        }),
        forged("a delta of a depth that none has", "bases do not fit", |id, pack| {
            let base = ChunkId([4; 32]);
            pack.push(ChunkRecord::full(base, 100, 0, Codec::Raw), &[1; 100]);
            pack.push(ChunkRecord::delta(id, 360, 0, Codec::Patch, 200, 1, vec![base]), &[7; 50]);
        }),
        forged("a delta without bases", "bases do not fit", |id, pack| {
            pack.push(ChunkRecord::delta(id, 360, 0, Codec::Patch, 1, 1, vec![]), &[7; 50]);
        }),
        forged("a whole chunk with a base", "bases do not fit", |id, pack| {
            let record = ChunkRecord::full(id, 360, 0, Codec::Raw);
            pack.push(ChunkRecord { bases: vec![ChunkId([4; 32])], ..record }, &[7; 360]);
        }),
    ]
}

/// What a store can do that has no keys.
fn stores() -> Vec<Case> {
    fn first(
        objects: &mut std::collections::BTreeMap<String, bytes::Bytes>,
        folder: &str,
    ) -> (String, Vec<u8>) {
        let (name, bytes) = objects.iter().find(|(name, _)| name.starts_with(folder)).expect("one");
        (name.clone(), bytes.to_vec())
    }
    macro_rules! on {
        ($folder:literal, $what:literal, $says:literal, $change:expr) => {
            spoilt(concat!($what, " ", $folder), $says, |objects| {
                let (name, mut bytes) = first(objects, $folder);
                let change: fn(&mut Vec<u8>) = $change;
                change(&mut bytes);
                objects.insert(name, bytes.into());
            })
        };
    }
    macro_rules! each {
        ($folder:literal, $says:expr) => {{
            let mut cases = [
                on!($folder, "an empty", "", |bytes| bytes.clear()),
                on!($folder, "a halved", "", |bytes| bytes.truncate(bytes.len() / 2)),
                on!($folder, "a longer", "", |bytes| bytes.push(0)),
                on!($folder, "a zeroed", "", |bytes| bytes.fill(0)),
                on!($folder, "a flipped", "", |bytes| {
                    let middle = bytes.len() / 2;
                    bytes[middle] ^= 0x10;
                }),
                spoilt(concat!("no ", $folder), "", |objects| {
                    let (name, _) = first(objects, $folder);
                    objects.remove(&name);
                }),
                // Sealed for another repository, under another name.
                spoilt(concat!("another repository's ", $folder), "", |objects| {
                    let mut forge = Forge::new(4321).expect("a forge");
                    let roots = sound(&mut forge).expect("a snapshot");
                    let theirs = forge.commit(&roots).expect("a repository");
                    let (_, bytes) = first(&mut theirs.objects(), $folder);
                    let (name, _) = first(objects, $folder);
                    objects.insert(name, bytes.into());
                }),
            ];
            let says: [&'static str; 7] = $says;
            cases.iter_mut().zip(says).for_each(|(case, says)| case.says = says);
            cases
        }};
    }
    let mut cases = vec![];
    cases.extend(each!(
        "HEAD",
        [
            "too early",
            "authentication",
            "authentication",
            "not an esker",
            "authentication",
            "missing",
            "commitment"
        ]
    ));
    cases.extend(each!(
        "config",
        [
            "not two lines",
            "not two lines",
            "not two lines",
            "not two lines",
            "is damaged",
            "no repository",
            "another repository"
        ]
    ));
    cases.extend(each!(
        "keys/",
        [
            "not two lines",
            "not two lines",
            "not two lines",
            "not two lines",
            "not hex",
            "wrong password",
            "wrong password"
        ]
    ));
    cases.extend(each!(
        "packs/",
        [
            "has 0 bytes",
            "bytes instead of",
            "bytes instead of",
            "header is not",
            "authentication",
            "not found",
            "header is not"
        ]
    ));
    cases.extend(each!(
        "index/",
        [
            "not the object that HEAD names",
            "not the object that HEAD names",
            "not the object that HEAD names",
            "not the object that HEAD names",
            "not the object that HEAD names",
            "not found",
            "not the object that HEAD names"
        ]
    ));
    cases.extend(each!(
        "snapshots/",
        [
            "not the object that HEAD names",
            "not the object that HEAD names",
            "not the object that HEAD names",
            "not the object that HEAD names",
            "not the object that HEAD names",
            "not found",
            "not the object that HEAD names"
        ]
    ));
    cases.push(spoilt("a slot that asks for a terabyte", "cost over the limit", |objects| {
        let (name, bytes) = first(objects, "keys/");
        let text = String::from_utf8(bytes).expect("text");
        objects.insert(name, text.replace("\"memory_kib\":8", "\"memory_kib\":1073741824").into());
    }));
    cases.push(spoilt("a slot that asks for a year", "cost over the limit", |objects| {
        let (name, bytes) = first(objects, "keys/");
        let text = String::from_utf8(bytes).expect("text");
        objects.insert(name, text.replace("\"passes\":1", "\"passes\":4294967295").into());
    }));
    cases.push(spoilt("a configuration of a later format", "format version", |objects| {
        let (name, bytes) = first(objects, "config");
        let text = String::from_utf8(bytes).expect("text");
        objects.insert(name, text.replace("\"esker\":1", "\"esker\":2").into());
    }));
    cases.push(spoilt("a configuration with chunks of a terabyte", "outside the format", |objects| {
        let (name, bytes) = first(objects, "config");
        let text = String::from_utf8(bytes).expect("text");
        objects.insert(name, text.replace("\"max_len\":4096", "\"max_len\":4294967295").into());
    }));
    cases
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
