//! What a thief can bring who has all that a host has, and writes his own program: each is refused, told, and costs nobody
//! else anything.

use super::*;
use crate::backup::{BackupOptions, backup};
use crate::entry::{Entry, Time};
use crate::manifest::{Ending, ManifestRoot, Record};
use crate::monitor::Tally;
use crate::repository::{access_for_test, made_with_chunks_around};
use crate::restore::dump;
use crate::snapshot::SourceRecord;
use crate::source::at_hand::AtHand;
use crate::source::{Item, Source, SourceError};
use chunkstore::env::{Env as _, SeededEnv};
use chunkstore::format::{Codec, Encoder, PackKind};
use chunkstore::inbox::signature::{Signed as What, Statement};
use chunkstore::inbox::{Brought, Bundle, Header, Reply};
use chunkstore::ingest::ChunkRef;
use chunkstore::pack::{PackBuilder, PackName, Record as ChunkRecord};
use chunkstore::storage::Storage as _;
use chunkstore::storage::memory::MemoryStorage;
use chunkstore::{ChunkId, PackId};

mod afar;
mod cost;
mod flood;
mod folder;
mod needs;

/// A repository, and somebody with all that one of its hosts has.
struct Thief {
    disk: Arc<MemoryStorage>,
    env: Arc<SeededEnv>,
    repo: Repository,
    bundle: Bundle,
    run: u64,
    previous: ObjectId,
    /// What he says that chunks have, decompressed, in bytes.
    claims: Option<u32>,
    /// Chunks of content that he stores as differences.
    differences: Vec<(ChunkRecord, Vec<u8>)>,
    /// Whether he leaves out the host's signature of the snapshot.
    unsigned: bool,
    /// What was in the host's memory: the keys of its runs.
    memory: Vec<KeyRing>,
}

/// A chunk that he stores: the id that he gives it, and its content.
type Chunk<'a> = (ChunkId, &'a [u8]);

impl Thief {
    fn new() -> Self {
        let disk = Arc::new(MemoryStorage::default());
        Self::on(Arc::clone(&disk), disk)
    }

    /// At `storage`, which has its objects in `disk`.
    fn on(disk: Arc<MemoryStorage>, storage: Arc<dyn chunkstore::storage::Storage>) -> Self {
        Self::with_chunks_around(1 << 10, disk, storage)
    }

    /// The same, where chunks are around a length in bytes.
    fn with_chunks_around(
        len: u32,
        disk: Arc<MemoryStorage>,
        storage: Arc<dyn chunkstore::storage::Storage>,
    ) -> Self {
        let env = Arc::new(SeededEnv::new(7));
        let repo = made_with_chunks_around(len, access_for_test(storage, Arc::clone(&env) as _));
        let bundle = repo.store().add_host("web1", "memory").unwrap();
        let (previous, differences, memory) = (NO_COMMIT, vec![], vec![]);
        Self { disk, env, repo, bundle, run: 0, previous, claims: None, differences, unsigned: false, memory }
    }

    fn id(&self, plain: &[u8]) -> ChunkId {
        self.repo.store().keys().chunk_id(plain)
    }

    fn pack(&self, kind: PackKind, ring: &KeyRing, records: &[(ChunkRecord, &[u8])]) -> Brought {
        let mut random = [0; 48];
        self.env.random(&mut random).unwrap();
        let id = PackId(<[u8; 32]>::try_from(&random[..32]).unwrap());
        let session = SessionId(<[u8; 16]>::try_from(&random[32..]).unwrap());
        let name = PackName { session, id, kind, epoch: self.bundle.keys.epoch };
        let mut builder = PackBuilder::new(name, vec![]);
        records.iter().for_each(|(record, frame)| builder.push(record.clone(), frame));
        let bytes = builder.seal(ring).unwrap().bytes;
        let hash = ObjectId(*blake3::hash(&bytes).as_bytes());
        let len = bytes.len() as u64;
        self.disk.put(&names::brought(&self.bundle.keys.host, self.run, &id), bytes.into()).unwrap();
        Brought { run: self.run, name, len, hash }
    }

    /// Brings a snapshot of one file that has the chunks of `content`, and of these stores `stored`.
    fn bring(
        &mut self,
        content: &[Chunk<'_>],
        stored: &[Chunk<'_>],
        change: impl FnOnce(&mut Snapshot, &mut Commit),
    ) -> SignedCommit {
        self.run += 1;
        let (ring, key) = self.bundle.keys.begin(self.run, &*self.env).unwrap();
        let full = |(id, plain): &Chunk<'_>| {
            ChunkRecord::full(*id, u32::try_from(plain.len()).unwrap(), 7, Codec::Raw)
        };
        let said = |chunk: &Chunk<'_>| match self.claims {
            Some(len) => ChunkRecord::full(chunk.0, len, 7, Codec::Zstd),
            None => full(chunk),
        };
        let mut data: Vec<_> = stored.iter().map(|chunk| (said(chunk), chunk.1)).collect();
        data.extend(self.differences.iter().map(|(record, frame)| (record.clone(), &**frame)));
        let mut packs = vec![];
        if !data.is_empty() {
            packs.push(self.pack(PackKind::Data, &ring, &data));
        }
        let mut list = Encoder::default();
        let len: usize = content.iter().map(|(_, plain)| plain.len()).sum();
        let chunks =
            content.iter().map(|(id, plain)| ChunkRef { id: *id, len: u32::try_from(plain.len()).unwrap() });
        Record::Entry(Box::new(Entry::stream("file", Time::default()))).encode(&mut list);
        Record::Chunks(chunks.collect()).encode(&mut list);
        Record::End(Ending::Complete, len as u64).encode(&mut list);
        let list = list.bytes;
        let list = (self.id(&list), &*list);
        packs.push(self.pack(PackKind::Metadata, &ring, &[(full(&list), list.1)]));
        let mut snapshot = Snapshot {
            hostname: "web1".into(),
            paths: vec!["/file".into()],
            time: timestamp(self.repo.store().now_ms()),
            manifest: ManifestRoot {
                level: 0,
                chunks: vec![(list.0, u32::try_from(list.1.len()).unwrap())],
                entries: 1,
                bytes: len as u64,
            },
            ..Snapshot::default()
        };
        let mut commit = Commit { earlier: vec![], packs, record: vec![].into(), signature: [0; 64] };
        change(&mut snapshot, &mut commit);
        commit.record = serde_json::to_vec(&snapshot).unwrap().into();
        let statement = Statement {
            repository: self.bundle.keys.repository,
            host: self.bundle.keys.host,
            run: self.run,
            time_ns: snapshot.time.as_nanosecond(),
            hostname: &snapshot.hostname,
            paths: &snapshot.paths,
            level: snapshot.manifest.level,
            chunks: &snapshot.manifest.chunks,
        };
        if !self.unsigned {
            commit.signature = self.bundle.signing.sign(What::Snapshot, &statement.bytes());
        }
        let keys = &self.bundle.keys;
        let header = Header {
            repository: keys.repository,
            host: keys.host,
            run: self.run,
            epoch: keys.epoch,
            previous: self.previous,
            key,
        };
        let bytes =
            bytes::Bytes::from(commit.seal(&header, &ring, &self.bundle.signing, &*self.env).unwrap());
        self.disk.put(&header.object(), bytes.clone()).unwrap();
        self.memory.push(ring);
        let signed = SignedCommit::decode(&bytes).unwrap();
        self.previous = signed.hash;
        signed
    }

    fn admit(&self) -> Vec<Outcome> {
        let done = admit(&self.repo, &AdmitOptions::default(), &Tally::default()).unwrap();
        done.into_iter().map(|admission| admission.outcome).collect()
    }

    /// That what was brought is refused, for this reason, and the host is told.
    fn is_refused(&self, signed: &SignedCommit, because: &str) {
        let done = self.admit();
        let [Outcome::Refused { why, .. }] = &*done else { panic!("{because}: {done:?}") };
        assert!(why.contains(because), "{because}: {why}");
        let host = &self.bundle.keys.host;
        let reply = self.disk.get(&names::reply(host, self.run), Reply::MAX_LEN).unwrap();
        let reply = Reply::open(&self.bundle.keys.channel(), host, self.run, &reply).unwrap();
        assert_eq!((reply.commit, reply.verdict), (signed.hash, Verdict::Refused(why.clone())));
        assert!(self.repo.store().head().roots.is_empty(), "{because}");
        assert!(self.disk.objects().keys().all(|name| !name.starts_with("inbox/")), "{because}");
        assert!(self.repo.store().head().sessions.is_empty(), "{because}");
    }
}

struct One(Option<Item>);

impl Source for One {
    fn records(&self) -> Vec<SourceRecord> {
        vec![SourceRecord::new("stream", "here", true)]
    }
    fn paths(&self) -> Vec<String> {
        vec!["/good".into()]
    }
    fn next_item(&mut self, _monitor: &dyn Monitor) -> std::result::Result<Option<Item>, SourceError> {
        Ok(self.0.take())
    }
}

#[test]
fn what_a_host_brings_honestly_is_admitted() {
    let mut thief = Thief::new();
    let chunk = (thief.id(b"what counts"), &b"what counts"[..]);
    thief.bring(&[chunk], &[chunk], |_, _| ());
    let done = thief.admit();
    let [Outcome::Admitted { snapshot, anew: false }] = *done else { panic!("{done:?}") };
    let listed =
        thief.repo.find(&snapshot.to_string(), &crate::snapshot::Filter::default(), &Tally::default());
    let mut bytes = vec![];
    let snapshot = listed.unwrap().snapshot;
    dump(&thief.repo, &snapshot, b"file", &mut bytes, &Tally::default()).unwrap();
    assert_eq!(bytes, b"what counts");
    let hosts = thief.repo.store().hosts().unwrap();
    let repository = thief.repo.store().keys().repository();
    let author = |snapshot: &Snapshot| crate::author::author(snapshot, repository, &hosts);
    assert!(matches!(author(&snapshot), crate::author::Author::Host(host) if host.name == "web1"));
    // Without a signature it is no host's; one of a host that was revoked says so; one of nobody here counts for nothing.
    let unsigned = Snapshot { signed: None, ..snapshot.clone() };
    assert_eq!(author(&unsigned), crate::author::Author::Client);
    let revoked: Vec<Host> = hosts.iter().map(|host| Host { revoked_ms: Some(1), ..host.clone() }).collect();
    let said = crate::author::author(&snapshot, repository, &revoked);
    assert!(matches!(said, crate::author::Author::Revoked(host) if host.name == "web1"));
    let said = crate::author::author(&snapshot, repository, &[]);
    assert!(matches!(said, crate::author::Author::Doubtful(why) if why.contains("is not known here")));
    let other = Snapshot { hostname: "web2".into(), ..snapshot };
    assert!(matches!(author(&other), crate::author::Author::Doubtful(_)));
    // What nobody signed as it is, check tells.
    let check =
        || crate::verify::check(&thief.repo, crate::verify::ReadData::All, &Tally::default()).unwrap();
    assert_eq!(check().num_errors, 0);
    let listed = thief.repo.snapshots(&Tally::default()).unwrap().remove(0);
    thief.repo.replace_snapshot(&listed, &other).unwrap();
    assert_eq!(check().num_errors, 1);
}

/// Garbage under the id of what another host has: it never gets in, and the other one stores its own.
#[test]
fn garbage_under_an_id_costs_nobody_a_byte() {
    let mut thief = Thief::new();
    let good = vec![5; 1000];
    let poisoned = (thief.id(&good), &b"garbage"[..]);
    let signed = thief.bring(&[poisoned], &[poisoned], |_, _| ());
    thief.is_refused(&signed, "is not what its id says");
    thief.repo.sync_index(&Tally::default()).unwrap();
    assert_eq!(thief.repo.store().index().lookup(&[poisoned.0]).unwrap(), [None]);
    let mut source = One(Some(AtHand::item("good", Time::default(), good.clone())));
    let options = BackupOptions { time: jiff::Timestamp::UNIX_EPOCH, ..BackupOptions::default() };
    let report = backup(&thief.repo, &mut source, &options, &Tally::default()).unwrap();
    let id = report.snapshot.unwrap().to_string();
    let listed = thief.repo.find(&id, &crate::snapshot::Filter::default(), &Tally::default()).unwrap();
    let mut bytes = vec![];
    dump(&thief.repo, &listed.snapshot, b"good", &mut bytes, &Tally::default()).unwrap();
    assert_eq!(bytes, good);
}

#[test]
fn a_snapshot_in_anothers_name_or_of_another_time_is_refused() {
    for (because, change) in [
        ("of another host", (|snapshot| snapshot.hostname = "db1".into()) as fn(&mut Snapshot)),
        ("record is too long", |snapshot| snapshot.description = "x".repeat(MAX_COMMIT_RECORD)),
        ("list of entries", |snapshot| snapshot.manifest.level = 200),
        ("still to come", |snapshot| snapshot.time += jiff::SignedDuration::from_hours(2)),
    ] {
        let mut thief = Thief::new();
        let chunk = (thief.id(b"x"), &b"x"[..]);
        let signed = thief.bring(&[chunk], &[chunk], |snapshot, _| change(snapshot));
        thief.is_refused(&signed, because);
    }
}

#[test]
fn a_snapshot_without_the_hosts_signature_is_refused() {
    let mut thief = Thief::new();
    thief.unsigned = true;
    let chunk = (thief.id(b"x"), &b"x"[..]);
    let signed = thief.bring(&[chunk], &[chunk], |_, _| ());
    thief.is_refused(&signed, "the host's signature of its snapshot does not fit");
}

/// What decides which snapshots stay is not the host's to say.
#[test]
fn a_host_neither_holds_its_snapshots_nor_dates_them_back() {
    let mut thief = Thief::new();
    let chunk = (thief.id(b"x"), &b"x"[..]);
    thief.bring(&[chunk], &[chunk], |snapshot, _| {
        snapshot.time += jiff::SignedDuration::from_nanos(170_723);
    });
    let last = thief.repo.store().now_ms();
    thief.bring(&[chunk], &[chunk], |snapshot, _| {
        snapshot.description = "second".into();
        snapshot.hold = Hold::Held;
        snapshot.keep_until = Some(jiff::Timestamp::MAX);
        snapshot.made_by = MadeBy::Safety;
        snapshot.earlier = vec!["0123456789abcdef".into()];
        snapshot.time -= jiff::SignedDuration::from_hours(24 * 365);
    });
    assert_eq!(thief.admit().len(), 2);
    let all = thief.repo.snapshots(&Tally::default()).unwrap();
    for listed in &all {
        let snapshot = &listed.snapshot;
        assert_eq!((snapshot.hold, snapshot.keep_until), (Hold::Unsaid, None));
        assert_eq!((&snapshot.made_by, snapshot.earlier.len()), (&MadeBy::Hand, 0));
        let ms = u64::try_from(snapshot.time.as_millisecond()).unwrap();
        assert!(ms.abs_diff(last) < 60_000, "{}", snapshot.time);
    }
    let newest = all.iter().max_by_key(|listed| listed.snapshot.time).unwrap();
    assert_eq!(newest.snapshot.description, "second", "whatever is below a millisecond");
}

#[test]
fn what_is_missing_is_named_and_asked_for_again() {
    let mut thief = Thief::new();
    let (here, missing) = ((thief.id(b"here"), &b"here"[..]), (thief.id(b"missing"), &b"missing"[..]));
    let signed = thief.bring(&[here, missing], &[here], |_, _| ());
    thief.is_refused(&signed, "1 chunk that it builds on is no longer in the repository");
    let host = &thief.bundle.keys.host;
    let reply = thief.disk.get(&names::reply(host, 1), Reply::MAX_LEN).unwrap();
    let reply = Reply::open(&thief.bundle.keys.channel(), host, 1, &reply).unwrap();
    assert_eq!((&*reply.missing, reply.incomplete), (&[missing.0][..], false));
    // With it, the next one is admitted: the order of commits goes on after one that was refused.
    thief.bring(&[here, missing], &[here, missing], |_, _| ());
    assert!(matches!(*thief.admit(), [Outcome::Admitted { .. }]));
}

#[test]
fn packs_that_are_not_there_or_not_as_signed_are_refused() {
    for (because, change) in [
        ("is missing in the inbox", (|commit| commit.packs[0].name.id = PackId([1; 32])) as fn(&mut Commit)),
        ("is not what the host brought", |commit| commit.packs[0].hash = ObjectId([1; 32])),
        ("is not what the host brought", |commit| commit.packs[0].len += 1),
        ("names a pack twice", |commit| commit.packs.push(commit.packs[0])),
        ("a run before it that is none", |commit| {
            let (run, epoch) = (1, 1);
            let key = chunkstore::keys::SealedRunKey { encapsulated: [1; 32], sealed: [1; 48] };
            commit.earlier.push(chunkstore::inbox::Earlier { run, epoch, key });
        }),
        ("of a run whose key it does not have", |commit| {
            commit.packs.iter_mut().for_each(|pack| pack.run = 9);
        }),
        ("not in the order of its runs", |commit| commit.packs[0].run = 9),
        ("header is not the one that was written", |commit| {
            commit.packs[0].name.session = SessionId([1; 16]);
        }),
        ("header is not the one that was written", |commit| commit.packs[0].name.kind = PackKind::Metadata),
    ] {
        let mut thief = Thief::new();
        let chunk = (thief.id(b"x"), &b"x"[..]);
        let signed = thief.bring(&[chunk], &[chunk], |_, commit| change(commit));
        thief.is_refused(&signed, because);
    }
}

#[test]
fn chunks_that_cannot_be_are_refused() {
    let mut thief = Thief::new();
    let empty = (thief.id(b""), &b""[..]);
    let signed = thief.bring(&[empty], &[empty], |_, _| ());
    thief.is_refused(&signed, "an empty chunk");
    let long = vec![3; 1 << 20];
    let chunk = (thief.id(&long), &*long);
    let signed = thief.bring(&[chunk], &[chunk], |_, _| ());
    thief.is_refused(&signed, "longer than chunks are here");
}

/// The objects of a store that one of some keys opens.
fn opened(disk: &MemoryStorage, rings: &[KeyRing]) -> Vec<String> {
    use chunkstore::format::ObjectKind as Kind;
    let kinds = [Kind::Head, Kind::Segment, Kind::Snapshot, Kind::Leaf, Kind::Ring, Kind::Reply];
    let opens = |name: &str, bytes: &bytes::Bytes| {
        rings.iter().any(|ring| {
            let is_small = kinds.iter().any(|kind| {
                chunkstore::envelope::open(ring, *kind, name, bytes).is_ok()
                    || chunkstore::envelope::is_of_one(ring, &ring.epochs(), *kind, bytes)
            });
            let is_commit = SignedCommit::decode(bytes).is_ok_and(|signed| signed.open(ring).is_ok());
            let id = name.rsplit('/').next().and_then(PackId::parse);
            let is_pack = id.is_some_and(|id| {
                [PackKind::Data, PackKind::Metadata].into_iter().any(|kind| {
                    ring.epochs().into_iter().any(|epoch| {
                        let key = ring.pack_key(kind, epoch, &id).unwrap();
                        bytes.get(64..96) == Some(&key.commitment[..])
                    })
                })
            });
            is_small || is_commit || is_pack
        })
    };
    let objects = disk.objects();
    objects.iter().filter(|(name, bytes)| opens(name, bytes)).map(|(name, _)| name.clone()).collect()
}

/// Neither the keys of the bundle nor what can be derived from them opens an object of the repository, or of the inbox.
#[test]
fn a_stolen_bundle_opens_nothing() {
    let mut thief = Thief::new();
    let chunk = (thief.id(b"x"), &b"x"[..]);
    thief.bring(&[chunk], &[chunk], |_, _| ());
    thief.admit();
    thief.bring(&[chunk], &[chunk], |_, _| ());
    let keys = &thief.bundle.keys;
    // The ring of the channel, which opens answers; and a new run's, whose key is not that of an earlier one.
    let rings = [keys.channel(), keys.begin(2, &*thief.env).unwrap().0];
    let own = [Reply::GREETING, 1].map(|run| names::reply(&keys.host, run));
    assert_eq!(opened(&thief.disk, &rings), own, "only the greeting and the answer are for the host");
}

/// The keys of all runs, as whoever dumps the memory of the host in each of them has them: what it brought is open while it waits,
/// and of the repository nothing is, once it was taken in.
#[test]
fn the_memory_of_a_host_opens_what_it_brought_and_nothing_of_the_repository() {
    let mut thief = Thief::new();
    let chunk = (thief.id(b"what counts"), &b"what counts"[..]);
    thief.bring(&[chunk], &[chunk], |_, _| ());
    let waits: Vec<String> = opened(&thief.disk, &thief.memory);
    assert!(waits.len() == 3 && waits.iter().all(|name| name.starts_with(names::INBOX)), "{waits:?}");
    assert!(matches!(*thief.admit(), [Outcome::Admitted { .. }]));
    thief.bring(&[chunk], &[], |_, _| ());
    assert!(matches!(*thief.admit(), [Outcome::Admitted { .. }]));
    let stored = thief.disk.objects().len();
    assert!(thief.memory.len() == 2 && stored > 8, "{stored}");
    assert_eq!(opened(&thief.disk, &thief.memory), Vec::<String>::new());
}

/// A commit that is damaged or replaced in the store stops its own run only: the next one is settled after it.
#[test]
fn a_commit_that_is_none_stops_no_later_one() {
    type Harm = fn(&[u8]) -> Vec<u8>;
    let harms: [(&str, Harm); 4] = [
        // In the id of the repository, in the body, junk, and one that has the right length.
        ("damaged", |bytes| bytes.iter().enumerate().map(|(at, byte)| byte ^ u8::from(at == 20)).collect()),
        ("damaged", |bytes| bytes.iter().enumerate().map(|(at, byte)| byte ^ u8::from(at == 300)).collect()),
        ("no commit", |_| b"junk".to_vec()),
        ("no commit", |bytes| vec![7; bytes.len()]),
    ];
    for (because, harm) in harms {
        let mut thief = Thief::new();
        let chunk = (thief.id(b"x"), &b"x"[..]);
        thief.bring(&[chunk], &[chunk], |_, _| ());
        assert!(matches!(*thief.admit(), [Outcome::Admitted { .. }]));
        thief.bring(&[chunk], &[], |_, _| ());
        let host = thief.bundle.keys.host;
        let name = names::commit(&host, 2);
        let bytes = thief.disk.get(&name, 1 << 20).unwrap();
        thief.disk.delete(&name).unwrap();
        thief.disk.put(&name, harm(&bytes).into()).unwrap();
        let done = thief.admit();
        let [Outcome::Forged { why }] = &*done else { panic!("{done:?}") };
        assert!(why.contains(because) && !why.contains("repository"), "{why}");
        // The next one: its order is broken, and the host's goes on after it.
        thief.bring(&[chunk], &[], |_, _| ());
        let done = thief.admit();
        let [Outcome::Forged { .. }, Outcome::Refused { why, .. }] = &*done else { panic!("{done:?}") };
        assert!(why.contains("a commit before it is missing"), "{why}");
        let left = thief.disk.objects().keys().filter(|name| name.starts_with("inbox/")).count();
        assert_eq!(left, 0, "what was passed over is removed");
        thief.bring(&[chunk], &[], |_, _| ());
        assert!(matches!(*thief.admit(), [Outcome::Admitted { anew: false, .. }]));
        // The answer to the third says that the second was passed over.
        let reply = |run| thief.disk.get(&names::reply(&host, run), Reply::MAX_LEN);
        let third = Reply::open(&thief.bundle.keys.channel(), &host, 3, &reply(3).unwrap()).unwrap();
        assert_eq!((third.settled, reply(2).is_err()), (3, true));
    }
}
