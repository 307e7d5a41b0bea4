//! Valid inputs, made by the code that ships: mutations of them get past the first check.

use crate::forge::{Forge, encode, file};
use crate::{KEYS, id, name};
use chunkstore::chunker::ChunkerParams;
use chunkstore::env::SeededEnv;
use chunkstore::format::{Codec, Encoder, ObjectKind, names};
use chunkstore::head::{PackRef, Root, SegmentRef, encode_leaf};
use chunkstore::id::from_hex;
use chunkstore::inbox::{Brought, Bundle, Commit, Earlier, Header, SigningKey};
use chunkstore::index::{PackEntry, Segment};
use chunkstore::keys::{KdfParams, RawKey, Share, Shares, SlotOwner, make_slot, slot_header};
use chunkstore::pack::{PackBuilder, Record, SealedPack};
use chunkstore::patch::Differ;
use chunkstore::seal::{Compression, Compressor};
use chunkstore::{ObjectId, PackId, Result, SessionId, envelope, parity};
use engine::entry::{Entry, Time};
use engine::manifest::{self, Ending};
use std::sync::LazyLock;

/// Something to compress.
fn text(len: usize) -> Vec<u8> {
    (0..len / 8 + 1).flat_map(|number| format!("{:07}\n", number * number).into_bytes()).take(len).collect()
}

/// The seeds of a target.
#[must_use]
pub fn of(target: &str) -> Vec<Vec<u8>> {
    let all: &Seeds = &SEEDS;
    match target {
        "head" => all.heads.clone(),
        "config" => vec![all.config.clone()],
        "slot" => all.slots.clone(),
        "keyservice" => key_services(),
        "keytext" => all.key_texts.clone(),
        "share" => vec![all.shares.concat(), all.shares.first().cloned().unwrap_or_default()],
        "grants" => vec![all.grants.clone()],
        "commit" => all.commits.clone(),
        "bundle" => vec![all.bundle.clone()],
        "envelope" => vec![all.envelope.clone()],
        "pack" => vec![all.pack.bytes.to_vec()],
        "directory" => vec![directory(&all.pack.records)],
        "record" => all.pack.records.iter().map(encoded).collect(),
        "segment" => vec![all.segment.encode()],
        "leaf" => vec![
            encode_leaf(&[Root::new(Root::SNAPSHOT, ObjectId([1; 32]), ObjectId([2; 32]), 1)]),
            encode_leaf(&[SegmentRef {
                id: ObjectId([3; 32]),
                hash: ObjectId([4; 32]),
                packs: 1,
                chunks: 9,
                epoch: 1,
            }]),
            encode_leaf(&[PackRef { session: SessionId([5; 16]), id: PackId([6; 32]) }]),
            encode_leaf(&[ObjectId([7; 32]), ObjectId([8; 32])]),
        ],
        "manifest" => vec![all.manifest.clone()],
        "list" => vec![all.list.clone()],
        "snapshot" => vec![all.snapshot.clone()],
        "path" => ["a", "a/b c/ü", "..", "a/../b", "/x", "a//b"].map(|path| path.as_bytes().to_vec()).into(),
        "patch" => vec![all.patch.clone()],
        "frame" => all.frames.clone(),
        "diff" => vec![[&[128], text(9000).as_slice(), text(8900).as_slice()].concat()],
        "endmark" => end_marks(),
        "rdb" => vec![dump()],
        "value" => values(),
        "seek" => seek_index(),
        "stream" => streams(),
        "archive" => vec![archive()],
        "wal" => vec![wal()],
        "parity" => [0, 1, 5000].map(|harm| with_parity(&all.pack.bytes, harm)).into(),
        other => crate::clients::seeds::of(other),
    }
}

/// A slot as one of a key service, made of another one: its text alone is read.
fn of_service(slot: &[u8]) -> Vec<u8> {
    let says = r#""kind":"kms","service":"vault://h:8200/transit/k","key":"v1","wrapped":"vault:v1:AAEC","#;
    String::from_utf8_lossy(slot).replacen(r#""kind":"passphrase","#, says, 1).into_bytes()
}

/// URLs and answers, each behind the byte that says what it is.
fn key_services() -> Vec<Vec<u8>> {
    let all: [(u8, &str); 12] = [
        (0, "aws-kms://eu-central-1/alias/esker?endpoint=https://kms.example.org"),
        (0, "vault://vault.example.org:8200/team/transit/k?namespace=a/b"),
        (0, "azure-kv://v.vault.azure.net/k/0123456789abcdef"),
        (1, r#"{"CiphertextBlob":"AQICAHg=","KeyId":"arn:aws:kms:eu-central-1:1:key/0a-1b"}"#),
        (2, r#"{"Plaintext":"AAECAw==","KeyId":"arn:aws:kms:eu-central-1:1:key/0a-1b"}"#),
        (0x41, r#"{"__type":"com.amazonaws.kms#DisabledException","Message":"arn is disabled."}"#),
        (3, r#"{"data":{"ciphertext":"vault:v1:NVPcifPlmCOW3TKoXNxNNaSB6A==","key_version":1}}"#),
        (4, r#"{"data":{"plaintext":"AAECAw=="}}"#),
        (0x44, r#"{"errors":["1 error occurred:\n\t* permission denied\n\n"]}"#),
        (
            5,
            r#"{"key":{"kid":"https://v.vault.azure.net/keys/k/0a","kty":"RSA"},"attributes":{"enabled":true}}"#,
        ),
        (6, r#"{"kid":"https://v.vault.azure.net/keys/k/0a","value":"AAECAw"}"#),
        (7, r#"{"token_type":"Bearer","expires_in":3599,"access_token":"abc"}"#),
    ];
    all.map(|(which, text)| [&[which], text.as_bytes()].concat()).into()
}

/// A pack, damaged at one place unless that is 0, and its parity.
fn with_parity(pack: &[u8], harm: usize) -> Vec<u8> {
    let mut out = u16::try_from(pack.len()).unwrap_or(u16::MAX).to_le_bytes().to_vec();
    out.extend_from_slice(pack);
    if let Some(byte) = out.get_mut(2 + harm).filter(|_| harm > 0) {
        *byte ^= 1;
    }
    out.extend_from_slice(&parity::encode(pack));
    out
}

/// Whether this is the one envelope that opens.
pub(crate) fn is_sealed(data: &[u8]) -> bool {
    SEEDS.envelope == data
}

/// Whether these are the grants that open.
pub(crate) fn is_granted(data: &[u8]) -> bool {
    SEEDS.grants == data
}

struct Seeds {
    heads: Vec<Vec<u8>>,
    config: Vec<u8>,
    slots: Vec<Vec<u8>>,
    key_texts: Vec<Vec<u8>>,
    shares: Vec<Vec<u8>>,
    grants: Vec<u8>,
    commits: Vec<Vec<u8>>,
    bundle: Vec<u8>,
    envelope: Vec<u8>,
    pack: SealedPack,
    segment: Segment,
    manifest: Vec<u8>,
    list: Vec<u8>,
    snapshot: Vec<u8>,
    patch: Vec<u8>,
    frames: Vec<Vec<u8>>,
}

static SEEDS: LazyLock<Seeds> = LazyLock::new(|| make().expect("a forge in memory"));

fn make() -> Result<Seeds> {
    let env = SeededEnv::new(5);
    let mut forge = Forge::new(5)?;
    let content = forge.data(&text(5000))?;
    let mut list = Encoder::default();
    manifest::encode_refs(&mut list, &content);
    let folder = manifest::Record::Entry(Box::new(Entry::folder("etc", Time::default())));
    let mut records = vec![folder, manifest::Record::End(Ending::Complete, 0)];
    records.extend(file("etc/passwd", content));
    records.extend([manifest::Record::Hole(4096), manifest::Record::End(Ending::Dropped, 7)]);
    let root = forge.records(&records[..5])?;
    let (store, empty) = (forge.store.clone(), forge.store.head());
    forge.commit(std::slice::from_ref(&root))?;
    let head = store.reload()?;
    let json = |head| serde_json::to_vec(head).map_err(|error| chunkstore::Error::Invalid(error.to_string()));
    let cheap = KdfParams { memory_kib: 8, passes: 1, lanes: 1 };
    let (id, slot) = make_slot(&KEYS, b"x", cheap, SlotOwner::default(), &env)?;
    let (key, split) = (RawKey::generate(&env)?, Shares::make(2, 3, &env)?);
    let (_, of_key) = make_slot(&KEYS, &key, cheap, SlotOwner::default(), &env)?;
    let (_, of_shares) = make_slot(&KEYS, &split, cheap, SlotOwner::default(), &env)?;
    let mut texts = vec![key.text()];
    texts.extend(split.iter().map(Share::text));
    let texts = texts.iter().flat_map(|text| [text.line(), text.numbered_words()]);
    // The payload of a share's line: 44 bytes in hex, between the colons.
    let payload = |share: &Share| from_hex(&share.text().line().split(':').nth(1)?.to_lowercase());
    let pack = sealed_pack()?;
    let segment = Segment {
        packs: vec![PackEntry { name: name(), len: pack.bytes.len() as u64, records: pack.records.clone() }],
    };
    let (patch, frames) = frames()?;
    let (commits, bundle) = of_host(&env)?;
    Ok(Seeds {
        commits,
        bundle,
        heads: vec![json(&*empty)?, json(&*head)?],
        config: store.config().seal(&KEYS)?,
        grants: KEYS.make_epoch(2, &[(id, slot_header(&id, &slot)?.public)], &env)?,
        slots: vec![slot.clone(), of_key, of_shares, of_service(&slot)],
        key_texts: texts.map(|text| text.as_bytes().to_vec()).collect(),
        shares: split.iter().filter_map(payload).collect(),
        envelope: envelope::seal(&KEYS, 1, ObjectKind::Head, names::HEAD, b"{}", &env)?,
        pack,
        segment,
        manifest: encode(&records),
        list: list.bytes,
        snapshot: store.read_snapshot(&root)?,
        patch,
        frames,
    })
}

/// A commit of a write-only host, and what is sealed in it; and the host's file.
fn of_host(env: &SeededEnv) -> Result<(Vec<Vec<u8>>, Vec<u8>)> {
    let bundle = Bundle {
        place: "s3://bucket/esker".into(),
        name: "web1".into(),
        keys: KEYS.for_host(ObjectId([9; 32]), 1)?,
        signing: SigningKey::generate(env)?,
        chunker: ChunkerParams::default(),
    };
    let (ring, key) = bundle.keys.begin(4, env)?;
    let commit = Commit {
        earlier: vec![Earlier { run: 3, epoch: 1, key }],
        packs: vec![Brought { run: 4, name: name(), len: 4096, hash: ObjectId([7; 32]) }],
        record: b"{}".as_slice().into(),
        signature: [8; 64],
    };
    let (repository, host) = (bundle.keys.repository, bundle.keys.host);
    let header = Header { repository, host, run: 4, epoch: 1, previous: ObjectId([0; 32]), key };
    let sealed = commit.seal(&header, &ring, &bundle.signing, env)?;
    Ok((vec![sealed, commit.encode()], bundle.to_text()?.to_vec()))
}

/// A pack with a chunk of each kind.
fn sealed_pack() -> Result<SealedPack> {
    let mut builder = PackBuilder::new(name(), vec![]);
    for (seed, codec) in [(1, Codec::Raw), (2, Codec::Zstd)] {
        builder.push(Record::full(id(seed), 100, 77, codec), &text(90));
    }
    for (seed, codec) in [(3, Codec::ZstdDelta), (4, Codec::Patch), (5, Codec::PrefixedPatch)] {
        let bases = (1..seed).map(id).collect();
        builder.push(Record::delta(id(seed), 100, 77, codec, seed, seed, bases), &text(40));
    }
    builder.seal(&KEYS)
}

fn encoded(record: &Record) -> Vec<u8> {
    let mut out = Encoder::default();
    record.encode(&mut out);
    out.bytes
}

/// Where it ends, and the plain directory.
fn directory(records: &[Record]) -> Vec<u8> {
    let mut out = Encoder::default();
    out.u64(records.last().map_or(0, Record::end)).u32(records.len() as u32).var(&[]);
    records.iter().for_each(|record| out.bytes.extend(encoded(record)));
    out.raw(&[0; 32]);
    out.bytes
}

/// A patch with its base, and frames of every codec, as their targets take them.
fn frames() -> Result<(Vec<u8>, Vec<Vec<u8>>)> {
    let (base, mut plain) = (text(3000), text(3000));
    plain.splice(700..720, *b"changed");
    plain.extend(b"and more");
    let mut patch = vec![];
    assert!(Differ::default().diff(&plain, &base, 4096, &mut patch), "few changes make a patch");
    let mut of_patch = Encoder::default();
    of_patch.u16(base.len() as u16).u32(plain.len() as u32).raw(&base).raw(&patch);
    let mut compressor = Compressor::new(Compression::default())?;
    let (mut alone, mut squeezed) = (vec![], vec![]);
    compressor.compress(&plain, &mut alone);
    compressor.compress(&patch, &mut squeezed);
    let frames =
        [(0, &plain), (1, &alone), (2, &alone), (3, &squeezed), (4, &squeezed)].map(|(codec, frame)| {
            let mut out = Encoder::default();
            out.u8(codec).u16(base.len() as u16).u32(plain.len() as u32).raw(&base).raw(frame);
            out.bytes
        });
    Ok((of_patch.bytes, frames.into()))
}

/// The ends of a plain dump and of an RDB; and a custom dump's beginning (`WriteHead` in PostgreSQL's
/// `pg_backup_archiver.c`).
fn end_marks() -> Vec<Vec<u8>> {
    let plain = b"\x04--\n-- PostgreSQL database dump complete\n--\n\n\\unrestrict abc\n".to_vec();
    let custom = [b"\x05PGDMP\x01\x0f\x00\x04\x08\x01".as_slice(), &[0; 60]].concat();
    let rdb = [b"\x07REDIS0011".as_slice(), &[0xff], &[0; 8]].concat();
    vec![plain, custom, rdb]
}

/// The table of contents of a custom archive with a table, its data and a list of large objects.
fn archive() -> Vec<u8> {
    fn int(out: &mut Vec<u8>, value: i32) {
        out.push(u8::from(value < 0));
        out.extend_from_slice(&value.unsigned_abs().to_le_bytes());
    }
    fn string(out: &mut Vec<u8>, text: &str) {
        int(out, i32::try_from(text.len()).unwrap_or_default());
        out.extend_from_slice(text.as_bytes());
    }
    let mut out = b"PGDMP\x01\x0e\x00\x04\x08\x01".to_vec();
    int(&mut out, 0);
    (0..7).for_each(|_| int(&mut out, 1));
    ["db", "15", "15"].iter().for_each(|text| string(&mut out, text));
    int(&mut out, 3);
    for (id, kind, flag) in [(1, "TABLE", 3), (2, "TABLE DATA", 1), (3, "BLOBS", 1)] {
        int(&mut out, id);
        int(&mut out, 1);
        (0..2).for_each(|_| string(&mut out, "16384"));
        ["t", kind].iter().for_each(|text| string(&mut out, text));
        int(&mut out, 3);
        (0..8).for_each(|_| string(&mut out, "y"));
        string(&mut out, "1");
        int(&mut out, -1);
        out.push(flag);
        out.extend_from_slice(&[0; 8]);
    }
    out
}

/// Two pages of a log: a commit, and one that goes on in the second.
fn wal() -> Vec<u8> {
    let header = |info: u16, left: u32| -> Vec<u8> {
        let mut out = 0xd110u16.to_le_bytes().to_vec();
        out.extend_from_slice(&info.to_le_bytes());
        out.resize(16, 1);
        out.extend_from_slice(&left.to_le_bytes());
        out.resize(24, 0);
        out
    };
    // Length, transaction, place of the one before, what it is, whose; then the moment.
    let commit = |len: u32| -> Vec<u8> {
        let mut out = len.to_le_bytes().to_vec();
        out.resize(17, 7);
        out.push(1);
        out.resize(24, 0);
        out.extend_from_slice(&[255, 8]);
        out.extend_from_slice(&800_000_000_000_000i64.to_le_bytes());
        out.resize(len as usize, 0);
        out
    };
    let mut out = header(0, 0);
    out.extend(commit(40));
    out.extend(commit(9000));
    let rest = out.split_off(8192);
    out.extend(header(1, u32::try_from(rest.len()).unwrap_or_default()));
    out.extend(rest);
    out.resize(2 * 8192, 0);
    out
}

/// A small dump: two databases, an expiry, a set, a hash, a stream without entries, uses, a function.
fn dump() -> Vec<u8> {
    let mut bytes = b"REDIS0011\xfa\x03ver\x011\xf5\x04code\xfe\x00\xfb\x03\x01".to_vec();
    bytes.extend_from_slice(b"\xfc\x01\x02\x03\x04\x05\x06\x07\x08\x00\x01z\x01v");
    bytes.extend_from_slice(b"\xf8\x05\x02\x01s\x02\x01b\x01a\x04\x01h\x02\x02f2\x011\x02f1\xc0\x07");
    bytes.extend_from_slice(b"\xfe\x03\x15\x01x\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff");
    bytes.extend_from_slice(&[0; 8]);
    bytes
}

/// A type and a value each.
fn values() -> Vec<Vec<u8>> {
    let pack = b"\x14\x13\0\0\0\0\x04\0\x05\x01\x82ab\x03\xdf\xff\x02\xf1\x10\x27\x03\xff".to_vec();
    let zip = b"\x0a\x15\0\0\0\0\0\0\0\0\x03\0\x00\x01a\x03\xf3\x02\xf0\xff\xff\xff\xff".to_vec();
    let ints = b"\x0b\x0c\x02\0\0\0\x02\0\0\0\xff\xff\x07\x00".to_vec();
    let zset = b"\x05\x01\x01a\0\0\0\0\0\0\xe0\x3f".to_vec();
    let ttl = b"\x18\x01\x02\x03\x04\x05\x06\x07\x08\x01\x02\x01f\x01v".to_vec();
    vec![pack, zip, ints, zset, ttl, b"\x15\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00".to_vec()]
}

fn seek_index() -> Vec<Vec<u8>> {
    use connector_redis::rdb::index::{Counts, Point, encode_end, encode_point, encode_version};
    let mut out = chunkstore::format::Encoder::default();
    encode_version(&mut out, connector_redis::rdb::Version { valkey: false, number: 11 });
    encode_point(&mut out, &Point { offset: 20, ordinal: 0, database: 0, name: b"a".to_vec() });
    encode_point(&mut out, &Point { offset: 90, ordinal: 3, database: 0, name: b"b".to_vec() });
    encode_end(&mut out, &[(0, Counts { keys: 5, expiring: 1 })].into(), 120);
    let mut frames = vec![];
    for offset in [10, 13] {
        connector_redis::stream::segment::Frame { time_ms: 1, offset, database: 0, bytes: b"abc".to_vec() }
            .encode(&mut frames);
    }
    vec![out.bytes, frames]
}

/// A number of a format, and a stream of it.
fn streams() -> Vec<Vec<u8>> {
    let json = b"\x04{\"a\": [1, \"}\"]}\n{}\n".to_vec();
    let aof = [
        b"\x0a".as_slice(),
        &connector_redis::resp::encode(&[b"MULTI"]),
        &connector_redis::resp::encode(&[b"EXEC"]),
    ]
    .concat();
    let zstd = b"\x01\x28\xb5\x2f\xfd\x20\x03\x19\0\0abc".to_vec();
    let sql = b"\x17-- MariaDB dump \n-- Dump completed on today\n".to_vec();
    let mut tar = vec![3];
    tar.resize(1 + 1024, 0);
    vec![json, aof, zstd, sql, tar]
}
