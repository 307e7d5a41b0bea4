//! A dump as pg_restore reads it from a pipe: the custom format, made on the way of a dump in directory format, with the
//! data of the entries that are wanted and no others.

use crate::end_mark::BlockIndex;
use crate::toc::{ArchiveFormat, MAX_TOC, Stop, Toc, TocEntry};
use engine::restore::{Located, Stretch, dump, dump_ranges, read_stretches};
use engine::snapshot::Snapshot;
use engine::{Counter, Error, Monitor, Repository, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

const BLK_DATA: u8 = 1;
const BLK_BLOBS: u8 = 3;

/// The table of contents at the beginning of an entry, and its length; no more is read than it takes.
pub(crate) fn read_toc(
    repo: &Repository,
    snapshot: &Snapshot,
    path: &str,
    monitor: &dyn Monitor,
) -> Result<(Toc, u64)> {
    let bad = |why: &str| Error::Malformed { what: path.to_owned(), why: why.to_owned() };
    let (mut bytes, mut wanted) = (vec![], 64 << 10);
    loop {
        let stretch = (bytes.len() as u64, wanted as u64);
        dump_ranges(repo, snapshot, path.as_bytes(), &[stretch], &mut bytes, monitor)?;
        match Toc::parse(&bytes) {
            Ok((toc, len)) => return Ok((toc, len as u64)),
            Err(Stop::Bad(why)) => return Err(bad(why)),
            Err(Stop::More) if bytes.len() < wanted => return Err(bad("ends within its table of contents")),
            Err(Stop::More) if wanted >= MAX_TOC => return Err(bad("its table of contents is too long")),
            Err(Stop::More) => wanted *= 2,
        }
    }
}

/// Of a dump in custom format, its table of contents as it is in `toc`, which is `head` bytes long in the dump, and the
/// data that are `chosen`: all of it where nothing is known of where they are.
pub(super) fn write_custom(archive: &Archive<'_>, head: u64, out: &mut dyn Write) -> Result<u64> {
    let Archive { repo, snapshot, path, chosen, monitor, .. } = archive;
    archive.write_head(out)?;
    let all = |out: &mut dyn Write| {
        dump(repo, snapshot, path.as_bytes(), &mut Behind { skip: head, out }, *monitor)
    };
    let Some(chosen) = chosen else { return all(out) };
    let Some(index) = block_index(repo, snapshot, path, *monitor)? else { return all(out) };
    let ranges = chosen_blocks(&index, chosen);
    monitor.count(Counter::BytesTotal, ranges.iter().map(|(from, to)| to - from).sum());
    dump_ranges(repo, snapshot, path.as_bytes(), &ranges, out, *monitor)
}

/// Of a dump in custom format, its table of contents as it is in `toc`, and the blocks of entries.
pub(super) fn write_blocks(archive: &Archive<'_>, blocks: &[(u64, u64)], out: &mut dyn Write) -> Result<u64> {
    archive.write_head(out)?;
    dump_ranges(archive.repo, archive.snapshot, archive.path.as_bytes(), blocks, out, archive.monitor)
}

/// Where the blocks of entries are.
pub(super) fn chosen_blocks(index: &BlockIndex, chosen: &BTreeSet<i64>) -> Vec<(u64, u64)> {
    let wanted = index.blocks.iter().filter(|(id, ..)| chosen.contains(id));
    wanted.map(|(_, from, to)| (*from, *to)).collect()
}

/// Where the blocks of a dump in custom format are, if the backup noted it.
pub(crate) fn block_index(
    repo: &Repository,
    snapshot: &Snapshot,
    path: &str,
    monitor: &dyn Monitor,
) -> Result<Option<BlockIndex>> {
    let (mut bytes, path) = (vec![], format!("{path}.index"));
    match dump(repo, snapshot, path.as_bytes(), &mut bytes, monitor) {
        Ok(_) => {}
        Err(Error::NoEntry { .. }) => return Ok(None),
        Err(error) => return Err(error),
    }
    let index = serde_json::from_slice(&bytes);
    index.map(Some).map_err(|error| Error::Malformed { what: path, why: error.to_string() })
}

/// What comes behind the first bytes.
struct Behind<'a> {
    skip: u64,
    out: &'a mut dyn Write,
}

impl Write for Behind<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let skipped = bytes.len().min(usize::try_from(self.skip).unwrap_or(usize::MAX));
        self.skip -= skipped as u64;
        self.out.write_all(&bytes[skipped..])?;
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}

/// Contents of files of a dump in directory format, by their paths.
pub(super) type Files = BTreeMap<Vec<u8>, Located>;

/// A dump in a snapshot.
pub(super) struct Archive<'a> {
    pub(super) repo: &'a Repository,
    pub(super) snapshot: &'a Snapshot,
    /// The folder.
    pub(super) path: &'a str,
    pub(super) toc: &'a Toc,
    /// Entries that are wanted; all if not given.
    pub(super) chosen: Option<&'a BTreeSet<i64>>,
    /// Its files, if it is a folder.
    pub(super) files: &'a Files,
    /// Files that the backup left out, and why.
    pub(super) left_out: &'a BTreeMap<String, String>,
    pub(super) monitor: &'a dyn Monitor,
}

fn broken(error: std::io::Error) -> Error {
    Error::Target { op: "write to", path: "pg_restore".into(), source: error }
}

impl Archive<'_> {
    /// The table of contents alone, which is an archive without data.
    pub(super) fn write_head(&self, out: &mut dyn Write) -> Result<()> {
        out.write_all(&self.toc.write(ArchiveFormat::Custom, &BTreeMap::new())).map_err(broken)
    }

    /// Writes it; returns how many bytes of data that were.
    pub(super) fn write(&self, out: &mut dyn Write) -> Result<u64> {
        self.write_head(out)?;
        let mut bytes = 0;
        for entry in self.toc.entries.iter().filter(|entry| entry.has_data) {
            if self.chosen.is_none_or(|chosen| chosen.contains(&entry.id)) {
                bytes += self.data(entry, out)?;
            }
        }
        Ok(bytes)
    }

    fn data(&self, entry: &TocEntry, out: &mut dyn Write) -> Result<u64> {
        let number = |value: i64| {
            let mut bytes = vec![];
            self.toc.int(&mut bytes, value);
            bytes
        };
        let kind = if entry.kind == "BLOBS" { BLK_BLOBS } else { BLK_DATA };
        let mut head = vec![kind];
        head.extend(number(entry.id));
        out.write_all(&head).map_err(broken)?;
        if kind == BLK_DATA {
            return self.file(&entry.file, out);
        }
        let mut list = vec![];
        let path = format!("{}/{}", self.path, entry.file);
        self.read(&path, &mut list)?;
        let mut bytes = 0;
        for line in String::from_utf8_lossy(&list).lines() {
            let oid = line.split_once(' ').and_then(|(oid, file)| Some((oid.parse().ok()?, file)));
            let Some((oid, file)) = oid else {
                return Err(Error::Malformed { what: path, why: format!("'{line}' names no large object") });
            };
            out.write_all(&number(oid)).map_err(broken)?;
            bytes += self.file(file, out)?;
        }
        out.write_all(&number(0)).map_err(broken)?;
        Ok(bytes)
    }

    fn read(&self, path: &str, out: &mut dyn Write) -> Result<u64> {
        let content = self.files.get(path.as_bytes());
        let content = content.ok_or_else(|| Error::NoEntry { path: path.to_owned() })?;
        let all = Stretch { content, range: 0..content.len() };
        let mut write = |_, bytes: &[u8]| out.write_all(bytes).map_err(broken);
        read_stretches(self.repo, &[all], 1, &mut write, self.monitor)?;
        Ok(content.len())
    }

    /// A file's content in pieces, each with its length before it, and a length of zero at the end.
    fn file(&self, name: &str, out: &mut dyn Write) -> Result<u64> {
        let path = format!("{}/{name}", self.path);
        let mut pieces = Pieces { toc: self.toc, out };
        let bytes = match self.left_out.contains_key(&path) {
            true => 0,
            false => self.read(&path, &mut pieces)?,
        };
        let mut end = vec![];
        self.toc.int(&mut end, 0);
        out.write_all(&end).map_err(broken)?;
        Ok(bytes)
    }
}

struct Pieces<'a> {
    toc: &'a Toc,
    out: &'a mut dyn Write,
}

impl Write for Pieces<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if !bytes.is_empty() {
            let mut len = vec![];
            self.toc.int(&mut len, bytes.len() as i64);
            self.out.write_all(&len)?;
            self.out.write_all(bytes)?;
        }
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
