//! Manifests whose records do not fit together, or name chunks that are not what they should be.

use crate::{Case, case, folder};
use chunkstore::ChunkId;
use chunkstore::format::Encoder;
use chunkstore::ingest::ChunkRef;
use engine::manifest::{Ending, ManifestRoot, Record};
use engine::snapshot::Snapshot;
use fuzzing::forge::{Forge, encode, file};

/// Records that make no tree.
pub(crate) fn structures() -> Vec<Case> {
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

/// Chunks and manifests that are not there, or not what is said.
pub(crate) fn references() -> Vec<Case> {
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
            Ok(vec![forge.store.write_snapshot(&plain, &[])?])
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
        with("a chunk of no bytes", "or a chunk of it, is empty", |chunk| ChunkRef { len: 0, ..chunk }),
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
