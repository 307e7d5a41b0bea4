//! Snapshots, HEADs and packs made by somebody who has the keys.

use crate::{Case, case, sound};
use chunkstore::format::{Codec, PackKind};
use chunkstore::head::{Head, Root, SegmentRef};
use chunkstore::index::{PackEntry, Segment};
use chunkstore::ingest::ChunkRef;
use chunkstore::pack::{PackBuilder, PackName, Record as ChunkRecord};
use chunkstore::{ChunkId, ObjectId, PackId};
use engine::snapshot::Snapshot;
use fuzzing::forge::file;

/// Snapshots that are none.
pub(crate) fn snapshots() -> Vec<Case> {
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
                Ok(vec![forge.store.write_snapshot(text.as_bytes(), &[])?])
            })
        })
        .collect()
}

/// Heads that lead nowhere.
pub(crate) fn heads() -> Vec<Case> {
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
            head.roots.push(Root::new("snapshot", ObjectId([5; 32]), ObjectId([6; 32]), 1));
        }),
        with("a root of unknown kind", "kind 'trap'", |head| {
            head.roots.push(Root::new("trap", ObjectId([5; 32]), ObjectId([6; 32]), 1));
        }),
        with("a segment that is not there", "not found", |head| {
            let (id, hash) = (ObjectId([5; 32]), ObjectId([6; 32]));
            head.segments.push(SegmentRef { id, hash, packs: 1, chunks: 1, epoch: 1 });
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
pub(crate) fn packs() -> Vec<Case> {
    let forged = |name: &str, says, make: fn(ChunkId, &mut PackBuilder)| {
        case(name, says, move |forge| {
            // A file whose only chunk is in the forged pack.
            let plain = b"what the chunk should be, and is not".repeat(10);
            let id = forge.store.keys().chunk_id(&plain);
            let (session, epoch) = (forge.session, forge.store.epoch());
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
