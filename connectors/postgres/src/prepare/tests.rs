//! Data directories from repositories that somebody else wrote.

use super::*;
use crate::physical::KIND;
use chunkstore::chunker::ChunkerParams;
use chunkstore::config::Layout;
use chunkstore::env::SystemEnv;
use chunkstore::executor::Inline;
use chunkstore::keys::{KdfParams, SlotOwner};
use chunkstore::storage::memory::MemoryStorage;
use chunkstore::store::{Access, Identity};
use engine::backup::backup;
use engine::columns::SnapshotColumns;
use engine::entry::Time;
use engine::monitor::Tally;
use engine::snapshot::{Filter, SourceRecord};
use engine::source::{Content, Item, Piece, Source, SourceError};
use std::io::Cursor;
use std::sync::Arc;

#[test]
fn what_is_prepared_is_no_standby() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().join("data");
    let data = DataDirectory::make(&home).unwrap();
    for has_wal in [false, true] {
        data.replace("standby.signal", b"").unwrap();
        data.replace("postgresql.auto.conf", b"port = 1\n").unwrap();
        recovery(&data, Outcome::Server(None), has_wal).unwrap();
        assert!(!home.join("standby.signal").exists());
        assert_eq!(home.join("recovery.signal").exists(), has_wal);
    }
    let conf = std::fs::read_to_string(home.join("postgresql.auto.conf")).unwrap();
    assert!(conf.starts_with("port = 1\n") && conf.contains("\nrestore_command = 'false'\n"), "{conf}");
}

/// Bytes per segment.
const SEGMENT: u64 = 1 << 20;

/// A physical backup, with segments of WAL of any names.
struct Forged {
    entries: std::vec::IntoIter<(String, Vec<u8>)>,
}

impl Forged {
    fn new(segments: &[(&str, usize)]) -> Self {
        let mut tar = tar::Builder::new(vec![]);
        let mut add = |name: &str, kind: tar::EntryType, content: &[u8]| {
            let mut header = tar::Header::new_ustar();
            header.set_entry_type(kind);
            header.set_mode(0o700);
            header.set_size(content.len() as u64);
            let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
            header.set_uid(uid.into());
            header.set_gid(gid.into());
            tar.append_data(&mut header, name, content).unwrap();
        };
        add("pg_wal/", tar::EntryType::Directory, b"");
        add("postgresql.auto.conf", tar::EntryType::Regular, b"");
        add("global/", tar::EntryType::Directory, b"");
        add("global/pg_control", tar::EntryType::Regular, &[7; 8192]);
        let base = ("postgres/h/physical/base.1/0-base.tar".to_owned(), tar.into_inner().unwrap());
        let wal =
            segments.iter().map(|(name, len)| (format!("postgres/h/physical/wal/{name}"), vec![0; *len]));
        let entries: Vec<_> = std::iter::once(base).chain(wal).collect();
        Self { entries: entries.into_iter() }
    }
}

impl Source for Forged {
    fn records(&self) -> Vec<SourceRecord> {
        let mut record = SourceRecord::new(KIND, "h", true);
        record.details.insert("segment-bytes".into(), SEGMENT.to_string());
        vec![record]
    }
    fn paths(&self) -> Vec<String> {
        vec!["/postgres/h/physical".into()]
    }
    fn next_item(&mut self, _: &dyn Monitor) -> Result<Option<Item>, SourceError> {
        let Some((path, content)) = self.entries.next() else { return Ok(None) };
        let open = Box::new(move || Ok(Box::new(Bytes(Cursor::new(content))) as Box<dyn Content>));
        Ok(Some(Item::stream(path, Time::default(), open)))
    }
}

struct Bytes(Cursor<Vec<u8>>);

impl Content for Bytes {
    fn read(&mut self, buffer: &mut [u8]) -> Result<Piece, SourceError> {
        let len = self.0.read(buffer).unwrap_or_default();
        Ok(if len == 0 { Piece::End } else { Piece::Data(len) })
    }
}

/// The data directory of a backup with segments of these names and lengths.
fn prepared(segments: &[(&str, usize)], target: &Path) -> Result<PrepareReport> {
    let access = Access {
        storage: Arc::new(MemoryStorage::default()),
        env: Arc::new(SystemEnv),
        cpu: Arc::new(Inline),
        io: Arc::new(Inline),
        cache: None,
        identity: Identity::default(),
        columns: &SnapshotColumns,
    };
    let cheap = KdfParams { memory_kib: 8, passes: 1, lanes: 1 };
    let (params, owner, layout) = (ChunkerParams::default(), SlotOwner::default(), Layout::default());
    let repo = Repository::init(access, params, b"x", cheap, owner, layout)?;
    let monitor = Tally::default();
    backup(&repo, &mut Forged::new(segments), &Default::default(), &monitor)?;
    let found = repo.find("latest", &Filter::default(), &monitor)?;
    let options = PrepareOptions { target: target.to_owned(), ..PrepareOptions::default() };
    Preparing::plan(&repo, &found, options, &monitor)?.apply(&monitor)
}

/// Names of segments come from the repository: none is written that is no segment's, and none after a gap.
#[test]
fn only_names_of_segments_get_into_pg_wal() {
    let (first, third) = ("000000010000000000000001", "000000010000000000000003");
    for (segments, why) in [
        (&["archive_status"][..], "is no segment's name"),
        (&["postmaster.pid"], "is no segment's name"),
        (&["00000002.history"], "is no segment's name"),
        (&["00000001000000000000001"], "is no segment's name"),
        (&["0000000100000000000000011"], "is no segment's name"),
        (&["00000001000000000000000g"], "is no segment's name"),
        (&["+00000010000000000000001"], "is no segment's name"),
        // The third number goes up to 2^32 divided by the length of a segment.
        (&["000000010000000000001000"], "is no segment's name"),
        (&["000000010000000000000001.backup"], "is no segment's name"),
        (&[first, third], "does not follow"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("data");
        let short: Vec<_> = segments.iter().map(|name| (*name, 3)).collect();
        let error = prepared(&short, &target).unwrap_err().to_string();
        assert!(error.contains(why) && error.contains(segments.last().unwrap()), "{segments:?}: {error}");
        let written: Vec<_> =
            std::fs::read_dir(target.join("pg_wal")).unwrap().map(|one| one.unwrap()).collect();
        assert_eq!(written.len(), segments.len() - 1, "{segments:?}: {written:?}");
        assert!(!target.join("recovery.signal").exists(), "{segments:?}");
    }
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("data");
    let (segment, second) = (SEGMENT as usize, "000000010000000000000002.partial");
    let report = prepared(&[(first, segment), (second, 3)], &target).unwrap();
    assert_eq!(report.segments, 2);
    for name in [first, "000000010000000000000002"] {
        assert_eq!(target.join("pg_wal").join(name).metadata().unwrap().len(), SEGMENT, "{name}");
    }
    let target = folder.path().join("longer");
    let error = prepared(&[(first, segment + 1)], &target).unwrap_err().to_string();
    assert!(error.contains("is longer than a segment"), "{error}");
}
