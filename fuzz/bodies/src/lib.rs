//! Every decoder and every client, fed with what a stranger might send. A target takes any bytes and must neither panic
//! nor take memory that the bytes do not account for; what it accepts must mean the same when it is written again, in
//! another split, or read by another implementation of ours.
//!
//! `make fuzz` runs the targets under libFuzzer's coverage guide; `make test` runs them over their seeds and a
//! few thousand mutations of each.

use chunkstore::bases::base_generation;
use chunkstore::blocks::{Blocks, Listed};
use chunkstore::chunker::{Chunker, ChunkerParams};
use chunkstore::config::Config;
use chunkstore::env::SeededEnv;
use chunkstore::format::{
    BLOCK_LEN, Codec, Decoder, Encoder, MAX_SERVICE_LEN, MAX_SHARES, MAX_SLOTS, ObjectKind, PackKind,
};
use chunkstore::head::{
    Condemned, Head, Host, Item, PackRef, Root, SegmentRef, Session, decode_leaf, encode_leaf,
};
use chunkstore::id::to_hex;
use chunkstore::inbox::{Bundle, Commit, PublicKey, SignedCommit};
use chunkstore::index::Segment;
use chunkstore::keys::{Grants, KeyRing, KeyText, Shares, slot_header};
use chunkstore::pack::{PackName, Record, decode_directory, read_directory, read_header};
use chunkstore::patch::{self, Differ};
use chunkstore::rope::Rope;
use chunkstore::seal::Decompressor;
use chunkstore::{ChunkId, ObjectId, PackId, RepositoryId, SessionId, envelope, parity};
use connector_kit::format::{AnyEndMark, Expect};
use connector_postgres::end_mark::{CustomEndMark, PlainEndMark};
use connector_postgres::toc::{ArchiveFormat, Toc};
use connector_postgres::wal::Transactions;
use connector_redis::rdb::canonical::{Canonical, gather};
use connector_redis::rdb::check::check;
use connector_redis::rdb::copy::older_stream;
use connector_redis::rdb::end_mark::RdbEndMark;
use connector_redis::rdb::index::SeekIndex;
use connector_redis::rdb::value::{decode, encode_plain};
use connector_redis::resp::Resp;
use engine::entry::{compare_paths, is_valid_path};
use engine::manifest;
use engine::snapshot::Snapshot;
use engine::source::end_mark::EndMark;
use mutate::Mutator;
use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Component, Path};
use std::sync::LazyLock;

pub mod bounds;
pub mod clients;
pub mod forge;
pub mod mutate;
pub mod seeds;

/// A decoder and what is known of its input.
pub struct Target {
    /// Also the name of its binary under `fuzz/`.
    pub name: &'static str,
    /// Feeds it.
    pub run: fn(&[u8]),
}

/// All targets: decoders, then clients.
pub fn all() -> impl Iterator<Item = &'static Target> {
    TARGETS.iter().chain(&clients::TARGETS)
}

/// The decoders.
pub const TARGETS: [Target; 30] = [
    Target { name: "head", run: head },
    Target { name: "config", run: config },
    Target { name: "slot", run: slot },
    Target { name: "keyservice", run: key_service },
    Target { name: "keytext", run: key_text },
    Target { name: "share", run: share },
    Target { name: "grants", run: grants },
    Target { name: "commit", run: host_commit },
    Target { name: "bundle", run: host_bundle },
    Target { name: "envelope", run: open_envelope },
    Target { name: "pack", run: pack },
    Target { name: "directory", run: directory },
    Target { name: "record", run: record },
    Target { name: "segment", run: segment },
    Target { name: "leaf", run: leaf },
    Target { name: "manifest", run: manifest_chunk },
    Target { name: "list", run: manifest_list },
    Target { name: "snapshot", run: snapshot },
    Target { name: "path", run: path },
    Target { name: "patch", run: apply_patch },
    Target { name: "frame", run: frame },
    Target { name: "diff", run: diff },
    Target { name: "endmark", run: end_mark },
    Target { name: "parity", run: recover },
    Target { name: "rdb", run: rdb },
    Target { name: "value", run: value },
    Target { name: "seek", run: seek },
    Target { name: "stream", run: stream },
    Target { name: "archive", run: archive },
    Target { name: "wal", run: wal },
];

/// The short form of a run: the target's seeds, the first `cuts` beginnings of each, and `rounds` mutations of it.
///
/// # Panics
/// If the target finds something, or has no seeds.
#[expect(clippy::print_stdout, reason = "the counts are part of the result")]
pub fn short_form(target: &Target, cuts: usize, rounds: u64) {
    let seeds = seeds::of(target.name);
    assert!(!seeds.is_empty(), "{} has no seeds", target.name);
    let mut mutator = Mutator::new(&seeds);
    let mut inputs = 0;
    let run = |input: &[u8]| {
        let done = std::panic::catch_unwind(|| (target.run)(input));
        assert!(done.is_ok(), "{} fails on {}", target.name, chunkstore::id::to_hex(input));
    };
    for seed in &seeds {
        run(seed);
        (0..seed.len().min(cuts)).for_each(|len| run(&seed[..len]));
        for _ in 0..rounds {
            run(&mutator.mutate(seed));
            inputs += 1;
        }
    }
    println!("{}: {} seeds, {inputs} mutations", target.name, seeds.len());
}

/// Feeds the target of this name.
///
/// # Panics
///
/// If there is none; or if the target found something.
pub fn run(name: &str, data: &[u8]) {
    let target = all().find(|target| target.name == name);
    (target.expect("a target of this name").run)(data);
}

/// Keys that are the same in every run.
pub(crate) static KEYS: LazyLock<KeyRing> =
    LazyLock::new(|| KeyRing::generate(RepositoryId([7; 16]), &SeededEnv::new(1)).expect("keys of a seed"));

/// Most bytes that a target decodes to: as the largest chunk of the default.
const MOST: usize = 2 << 20;

fn head(data: &[u8]) {
    let Ok(head) = serde_json::from_slice::<Head>(data) else { return };
    let again = serde_json::to_vec(&head).expect("HEAD can be written");
    let read = serde_json::from_slice::<Head>(&again).expect("and read");
    assert_eq!(serde_json::to_vec(&read).expect("and written again"), again);
    let _ = (head.segment_ids(), head.known_since(&SessionId([1; 16])), head.is_open(&SessionId([1; 16])));
}

fn config(data: &[u8]) {
    let _ = Config::verify(data, &KEYS);
    let Ok(config) = Config::read(data) else { return };
    config.chunker.data.validate().expect("what is accepted is within bounds");
    let sealed = config.seal(&KEYS).expect("a configuration can be written");
    Config::verify(&sealed, &KEYS).expect("and its MAC holds");
    assert_eq!(Config::read(&sealed).expect("and read"), config);
}

/// A URL of a key service and what one answers: byte 0 says which, the rest is the text or the body.
fn key_service(data: &[u8]) {
    use keyservices::{Address, answers};
    let Some((which, rest)) = data.split_first() else { return };
    let status = [200, 302, 400, 403, 404, 409, 429, 503][usize::from(which >> 5)];
    let bounded = |refusal: keyservices::Refusal| {
        assert!(refusal.why.len() < 4096 && !refusal.why.contains(char::is_control), "{refusal:?}");
    };
    match which & 7 {
        0 => {
            let Ok(address) = Address::parse(&String::from_utf8_lossy(rest)) else { return };
            let written = address.to_string();
            assert_eq!(Address::parse(&written).as_ref(), Ok(&address), "{written}");
        }
        1 => answers::aws_encrypted(rest).map_or_else(bounded, drop),
        2 => answers::aws_decrypted(rest).map_or_else(bounded, drop),
        3 => answers::transit_encrypted(rest).map_or_else(bounded, drop),
        4 => answers::transit_decrypted(rest).map_or_else(bounded, drop),
        5 => answers::azure_key(rest).map_or_else(bounded, drop),
        6 => answers::azure_unwrapped(rest).map_or_else(bounded, drop),
        _ => identities(rest),
    }
    let refusals = [answers::aws_refused, answers::transit_refused, answers::azure_refused];
    refusals.iter().for_each(|refused| bounded(refused(status, rest)));
}

/// What a service that says who we are answers.
fn identities(data: &[u8]) {
    use chunkstore::storage::identity::{NoIdentity, answers};
    let bounded = |why: NoIdentity| {
        assert!(why.why.len() < 4096 && !why.why.contains(char::is_control), "{why:?}");
    };
    answers::azure_token(data).map_or_else(bounded, drop);
    answers::aws_role(data).map_or_else(bounded, drop);
    answers::aws_assumed(data).map_or_else(bounded, drop);
    let (code, said) = answers::aws_assumed_refused(data);
    bounded(NoIdentity::refused(said));
    drop(code);
    bounded(NoIdentity::refused(answers::aws_role_refused(data)));
    bounded(NoIdentity::refused(answers::azure_refused(data)));
}

fn slot(data: &[u8]) {
    let id = ObjectId([3; 32]);
    // No more than the readable part: deriving a key takes the memory that the slot asks for, within limits.
    if let Ok(header) = slot_header(&id, data) {
        assert!(header.kind_shown().len() <= 64);
        assert!(header.split().is_none_or(|split| split.threshold >= 2 && split.shares <= MAX_SHARES));
        assert!(header.wrapped().is_none_or(|slot| slot.service.len() <= MAX_SERVICE_LEN));
    }
}

/// Whatever is read is written in both forms, and read again from both.
fn key_text(data: &[u8]) {
    let Ok(read) = KeyText::parse(data) else { return };
    let bytes = match &read {
        KeyText::Key(key) => key.text(),
        KeyText::Share(share) => share.text(),
    };
    assert_eq!(KeyText::parse(bytes.line().as_bytes()).as_ref(), Ok(&read));
    assert_eq!(KeyText::parse(bytes.numbered_words().as_bytes()).as_ref(), Ok(&read));
}

/// Shares of 44 bytes each, whose checksums fit.
fn share(data: &[u8]) {
    const LABEL: &str = "ESKER-SHARE-1";
    let mut shares = vec![];
    for payload in data.chunks_exact(44).take(20) {
        let check = blake3::Hasher::new().update(LABEL.as_bytes()).update(payload).finalize();
        let line = format!("{LABEL}:{}:{}", to_hex(payload), to_hex(&check.as_bytes()[..4]));
        let Ok(KeyText::Share(share)) = KeyText::parse(line.as_bytes()) else { continue };
        let (threshold, count) = share.of();
        assert!(2 <= threshold && threshold <= count && count <= MAX_SHARES);
        assert!(1 <= share.number() && share.number() <= count);
        shares.push((String::new(), share));
    }
    if let Ok(shares) = Shares::of(shares) {
        assert!(shares.iter().count() >= usize::from(shares.needed().0));
    }
}

fn grants(data: &[u8]) {
    if let Ok(grants) = Grants::decode(data) {
        assert!(grants.slots().count() <= MAX_SLOTS);
    }
    // There is one slot, so every byte is bound to its key.
    assert!(KEYS.take(2, data).is_err() || seeds::is_granted(data));
}

/// The commit of a write-only host: the object, and what is sealed in it.
fn host_commit(data: &[u8]) {
    let bytes = bytes::Bytes::copy_from_slice(data);
    if let Ok(signed) = SignedCommit::decode(&bytes) {
        // Nobody forges a signature.
        assert!(!signed.is_of(&PublicKey(ObjectId([3; 32]))) && signed.open(&KEYS).is_err());
    }
    if let Ok(commit) = Commit::decode(data) {
        assert_eq!(commit.encode(), data);
    }
}

/// The file of a write-only host.
fn host_bundle(data: &[u8]) {
    let Ok(bundle) = Bundle::from_text(data) else { return };
    let text = bundle.to_text().expect("a bundle that was read");
    let again =
        Bundle::from_text(&text).and_then(|again| again.to_text()).expect("a bundle can be read again");
    assert_eq!(again, text);
}

fn open_envelope(data: &[u8]) {
    for kind in [ObjectKind::Head, ObjectKind::Segment, ObjectKind::Snapshot] {
        // Nobody forges a tag; but the header and its lengths are read before.
        assert!(envelope::open(&KEYS, kind, "HEAD", data).is_err() || seeds::is_sealed(data));
    }
}

pub(crate) fn name() -> PackName {
    PackName { session: SessionId([1; 16]), id: PackId([2; 32]), kind: PackKind::Data, epoch: 1 }
}

fn pack(data: &[u8]) {
    let name = read_header(name().session, name().id, data).unwrap_or_else(|_| name());
    if let Ok((_, records)) = read_directory(name, &KEYS, data) {
        let end = data.len() as u64;
        assert!(records.iter().all(|record| record.end() <= end));
    }
}

/// A length, so many bytes of a pack, and its parity.
fn recover(data: &[u8]) {
    let Some((len, rest)) = data.split_first_chunk::<2>() else { return };
    let (pack, object) = rest.split_at(usize::from(u16::from_le_bytes(*len)).min(rest.len()));
    // Nobody forges a hash, but its own: lengths and the shards that are there are a stranger's.
    let Ok(recovered) = parity::recover(object, pack) else {
        assert!(!parity::matches(object, pack), "what matches needs no recovery");
        return;
    };
    if parity::matches(object, pack) {
        assert_eq!((recovered.pack.as_slice(), recovered.shards), (pack, 0));
        assert_eq!(parity::len_for(pack.len() as u64), object.len() as u64);
    }
}

fn directory(data: &[u8]) {
    let mut decoder = Decoder::new(data, "end");
    let Ok(end) = decoder.u64() else { return };
    let body = &data[8..];
    let Ok(records) = decode_directory(body, end) else { return };
    assert!(records.len() * 56 <= body.len());
    assert!(records.iter().all(|record| record.end() <= end));
}

fn record(data: &[u8]) {
    let mut decoder = Decoder::new(data, "record");
    let Ok(record) = Record::decode(&mut decoder, 5) else { return };
    let used = data.len() - decoder.remaining();
    let mut out = Encoder::default();
    record.encode(&mut out);
    assert_eq!(out.bytes, data[..used]);
    assert_eq!(out.bytes.len(), record.encoded_len());
    let _ = (record.range(), base_generation(record.generation.max(1)));
}

fn segment(data: &[u8]) {
    let Ok(segment) = Segment::decode(data) else { return };
    let again = segment.encode();
    assert_eq!(Segment::decode(&again).expect("a segment can be read again"), segment);
}

/// A leaf of any list of HEAD.
fn leaf(data: &[u8]) {
    fn of<T: Item>(data: &[u8]) {
        let Ok(items) = decode_leaf::<T>(data) else { return };
        let again = encode_leaf(&items);
        let read = decode_leaf::<T>(&again).expect("a leaf can be read again");
        assert_eq!(encode_leaf(&read), again);
    }
    of::<Root>(data);
    of::<SegmentRef>(data);
    of::<Session>(data);
    of::<Condemned>(data);
    of::<PackRef>(data);
    of::<ObjectId>(data);
    of::<SessionId>(data);
    of::<Host>(data);
}

fn manifest_chunk(data: &[u8]) {
    let Ok(records) = manifest::parse(data) else { return };
    let mut out = Encoder::default();
    for record in &records {
        if let manifest::Record::Entry(entry) = record {
            assert!(is_valid_path(&entry.path));
        }
        record.encode(&mut out);
    }
    assert_eq!(out.bytes, data);
}

fn manifest_list(data: &[u8]) {
    let Ok(chunks) = manifest::decode_refs(&mut Decoder::new(data, "list")) else { return };
    let mut out = Encoder::default();
    manifest::encode_refs(&mut out, &chunks);
    assert_eq!(out.bytes, data);
}

fn snapshot(data: &[u8]) {
    let Ok(snapshot) = serde_json::from_slice::<Snapshot>(data) else { return };
    let again = serde_json::to_vec(&snapshot).expect("a snapshot can be written");
    assert_eq!(serde_json::from_slice::<Snapshot>(&again).expect("and read"), snapshot);
}

/// What is accepted as a path is one for the standard library, too, and stays beneath any folder.
fn path(data: &[u8]) {
    use std::os::unix::ffi::OsStrExt as _;
    let (a, b) = data.split_at(data.len() / 2);
    assert_eq!(compare_paths(a, b), compare_paths(b, a).reverse());
    if is_valid_path(data) {
        let path = Path::new(std::ffi::OsStr::from_bytes(data));
        assert!(path.components().all(|part| matches!(part, Component::Normal(_))));
        assert_eq!(path.components().collect::<std::path::PathBuf>().as_os_str().as_bytes(), data);
        assert!(!data.contains(&0));
    }
}

/// Lengths of the base and of what comes out, then the base, then the patch.
fn apply_patch(data: &[u8]) {
    let mut decoder = Decoder::new(data, "patch");
    let (Ok(base_len), Ok(plain_len)) = (decoder.u16(), decoder.u32()) else { return };
    let Ok(base) = decoder.raw(usize::from(base_len).min(decoder.remaining())) else { return };
    let Ok(patch) = decoder.raw(decoder.remaining()) else { return };
    let plain_len = plain_len as usize % (MOST + 1);
    let mut plain = Vec::with_capacity(plain_len);
    let applied = patch::apply(patch, base, plain_len, &mut plain);
    assert!(plain.len() <= plain_len);
    // The same by way of pieces, from a base that is in two of them.
    let (left, right) = base.split_at(base.len() / 3);
    let halves = Rope::concat([&Rope::whole(left.to_vec()), &Rope::whole(right.to_vec())]);
    let rope = halves.patched(patch.to_vec(), plain_len);
    match (applied, rope) {
        // That all of it is there is for the caller to see; a rope sees it itself.
        (Some(()), Some(rope)) => {
            let mut whole = vec![];
            rope.write_to(&mut whole);
            assert_eq!(whole, plain);
        }
        (None, None) => {}
        (Some(()), None) => assert_ne!(plain.len(), plain_len),
        (None, Some(_)) => panic!("a rope accepts what is no patch"),
    }
    // What copies whole blocks of two bases does so of nothing shorter than one.
    let lens = [left.len(), right.len()];
    if patch::has_whole_blocks(patch, &lens) {
        let copies = patch::steps(patch).into_iter().flatten().flatten().map(|step| step.copy);
        assert!(copies.into_iter().all(|copy| copy.len().is_multiple_of(BLOCK_LEN)));
    }
}

/// Codec, lengths of the prefix and of what comes out, the prefix, the frame.
fn frame(data: &[u8]) {
    let mut decoder = Decoder::new(data, "frame");
    let (Ok(codec), Ok(prefix_len), Ok(plain_len)) = (decoder.u8(), decoder.u16(), decoder.u32()) else {
        return;
    };
    let Some(codec) = Codec::from_byte(codec % 5) else { return };
    let Ok(prefix) = decoder.raw(usize::from(prefix_len).min(decoder.remaining())) else { return };
    let Ok(frame) = decoder.raw(decoder.remaining()) else { return };
    let plain_len = plain_len as usize % (MOST + 1);
    let mut decompressor = Decompressor::new().expect("a context");
    let plain = decompressor.decompress(codec, frame, prefix, plain_len);
    let rope = decompressor.decompress_rope(codec, frame, &Rope::whole(prefix.to_vec()), plain_len, vec![]);
    match (plain, rope) {
        (Ok(plain), Ok(rope)) => {
            assert_eq!(plain.len(), plain_len);
            let mut whole = vec![];
            rope.write_to(&mut whole);
            assert_eq!(whole, plain);
        }
        (Err(_), Err(_)) => {}
        (plain, rope) => panic!("{codec:?}: {:?} as a whole, {:?} in pieces", plain.err(), rope.err()),
    }
    let mut plain = vec![];
    let lens = [prefix.len() / 2, prefix.len() - prefix.len() / 2];
    if decompressor.decompress_brought(frame, (prefix, &lens), plain_len, &mut plain).is_ok() {
        assert_eq!(plain.len(), plain_len);
    }
}

/// A base and what became of it: the patch leads from one to the other. And the chunker cuts both within its
/// bounds, wherever its window ends.
fn diff(data: &[u8]) {
    let Some((share, data)) = data.split_first() else { return };
    let (base, plain) = data.split_at(data.len() * usize::from(*share) / 256);
    let mut differ = Differ::default();
    let mut patch = vec![];
    if differ.diff(plain, base, plain.len() + 64, &mut patch) {
        let mut again = vec![];
        patch::apply(&patch, base, plain.len(), &mut again).expect("our own patch");
        assert_eq!(again, plain);
    }
    // The same by whoever has only a list of the base's blocks.
    let blocks = Blocks::new(&[7; 32]);
    let list = blocks.list(base);
    if let Some(patch) = blocks.patch(plain, &[Listed { len: base.len(), list: &list }], plain.len() + 64) {
        let mut again = vec![];
        patch::apply(&patch, base, plain.len(), &mut again).expect("our own patch");
        assert!(again == plain && patch::has_whole_blocks(&patch, &[base.len()]));
    }
    let params = ChunkerParams::around(1 << 10);
    let chunker = Chunker::new(params, &KEYS.gear_key()).expect("sound parameters");
    let mut rest = data;
    while !rest.is_empty() {
        let len = chunker.cut(rest);
        assert!(len > 0 && len <= rest.len() && len <= params.max_len as usize);
        assert!(len >= params.min_len as usize || len == rest.len());
        // Nothing behind the largest chunk has a say.
        let window = rest.len().min(params.max_len as usize);
        assert_eq!(chunker.cut(&rest[..window]), len);
        if let Some(found) = chunker.find_anchor(rest, len, chunker.anchor(&rest[..len])) {
            assert!(found <= rest.len());
        }
        rest = &rest[len..];
    }
}

/// End marks say the same however the stream is split.
fn end_mark(data: &[u8]) {
    let Some((kind, data)) = data.split_first() else { return };
    let (parts, len) = (usize::from(kind / 4) + 1, data.len());
    let make = || -> Box<dyn EndMark> {
        match kind % 4 {
            0 => Box::new(PlainEndMark::default()),
            1 | 2 => Box::new(CustomEndMark::default()),
            _ => Box::new(RdbEndMark::default()),
        }
    };
    let (mut whole, mut split) = (make(), make());
    whole.see(data);
    data.chunks((len / parts).max(1)).for_each(|part| split.see(part));
    assert_eq!(whole.finish().is_ok(), split.finish().is_ok());
}

/// A dump in order is in order already.
fn rdb(data: &[u8]) {
    let folder = std::env::temp_dir();
    let in_order = |data: &[u8]| -> Option<Vec<u8>> {
        let gathered = gather(data, &folder).ok()?;
        let mut out = vec![];
        Canonical::new(gathered, &folder, [1, 2]).read_to_end(&mut out).ok()?;
        Some(out)
    };
    if let Some(once) = in_order(data) {
        assert_eq!(in_order(&once).as_deref(), Some(once.as_slice()));
    }
}

/// A type and a value. What is decoded says the same in the encoding that every server takes.
fn value(data: &[u8]) {
    let Some((kind, data)) = data.split_first() else { return };
    let checked = check(*kind, data);
    for (new, older) in [(21, 19), (21, 15), (19, 15)] {
        if let Some(bytes) = older_stream(new, data, older) {
            assert_eq!(check(new, data).is_ok(), check(older, &bytes).is_ok());
        }
    }
    let Ok(value) = decode(*kind, data) else {
        // What a server would take can be shown, but for what only modules know.
        assert!(checked.is_err(), "{kind}: {data:?}");
        return;
    };
    if let Some((plain, bytes)) = encode_plain(&value) {
        let again = decode(plain, &bytes).expect("what we write can be read");
        // Not a number is not equal to itself.
        assert!(again == value || format!("{again:?}") == format!("{value:?}"));
    }
}

/// A seek index, or frames of a journal.
fn seek(data: &[u8]) {
    let _ = connector_redis::stream::segment::decode(data);
    let Ok(index) = SeekIndex::decode(data) else { return };
    for database in index.databases.keys().take(8) {
        if let Some((point, end)) = index.stretch(*database, b"a", Some(b"b")) {
            assert!(point.offset < end && end <= index.end);
        }
    }
}

/// A format, and a stream that may be it: however it is cut up, its end is there or not.
fn stream(data: &[u8]) {
    let Some((kind, data)) = data.split_first() else { return };
    let expect = match connectors::formats().get(usize::from(kind % 16)) {
        Some(format) => Expect::Format(format),
        None => Expect::Recognised,
    };
    let check = |part: usize| {
        let mut mark = AnyEndMark::new(connectors::formats(), expect, std::rc::Rc::default());
        data.chunks(part).for_each(|part| mark.see(part));
        mark.finish().is_ok()
    };
    assert_eq!(check(data.len().max(1)), check(usize::from(kind / 16) + 1));
    let ends = |part: usize| {
        let (mut resp, mut ends, mut before) = (Resp::default(), vec![], 0);
        for part in data.chunks(part) {
            if resp.feed(part, &mut |at, _| ends.push(before + at)).is_err() {
                break;
            }
            before += part.len();
        }
        ends
    };
    assert_eq!(ends(data.len().max(1)), ends(usize::from(kind / 16) + 1));
}

/// The table of contents of an archive of pg_dump means the same when it is written again.
fn archive(data: &[u8]) {
    let Ok((toc, used)) = Toc::parse(data) else { return };
    assert!(used <= data.len());
    let custom = toc.write(ArchiveFormat::Custom, &BTreeMap::new());
    let (again, len) = Toc::parse(&custom).expect("what is written can be read");
    assert_eq!((len, again.with_data()), (custom.len(), toc.with_data()));
    assert_eq!(again.write(ArchiveFormat::Custom, &BTreeMap::new()), custom);
    for entry in &toc.entries {
        let _ = toc.large_objects(entry);
    }
}

/// Pages of a write-ahead log: the ends of transactions are the same however many pages come at a time.
fn wal(data: &[u8]) {
    let (mut whole, mut split) = (Transactions::default(), Transactions::default());
    whole.read(data);
    data.chunks(2 * 8192).for_each(|pages| split.read(pages));
    assert_eq!((whole.count, whole.last_us), (split.count, split.last_us));
}

/// Any id.
pub(crate) fn id(seed: u8) -> ChunkId {
    ChunkId([seed; 32])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mutations of each seed. `make fuzz` has no such limit.
    const ROUNDS: u64 = 10_000;

    #[test]
    fn no_decoder_panics() {
        for target in &TARGETS {
            short_form(target, 300, ROUNDS);
        }
    }
}
