//! A dump in directory format as pg_restore reads it from a pipe: the custom format, made on the way, with the data of
//! the entries that are wanted and no others.

use crate::pg::toc::{ArchiveFormat, MAX_TOC, Stop, Toc, TocEntry};
use crate::restore::dump::dump;
use crate::snapshot::Snapshot;
use crate::{Error, Monitor, Repository, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

const BLK_DATA: u8 = 1;
const BLK_BLOBS: u8 = 3;

/// The table of contents at the beginning of an entry.
pub(super) fn read_toc(
    repo: &Repository,
    snapshot: &Snapshot,
    path: &str,
    monitor: &dyn Monitor,
) -> Result<Toc> {
    let mut head = Head { bytes: vec![], retry_at: 1 << 16, toc: None };
    let read = dump(repo, snapshot, path.as_bytes(), &mut head, monitor);
    if head.toc.is_none() {
        // It may be shorter than what was waited for.
        head.try_again();
    }
    let bad = |why: &str| Error::Malformed { what: path.to_owned(), why: why.to_owned() };
    match head.toc {
        Some(Ok(toc)) => Ok(*toc),
        Some(Err(Stop::Bad(why))) => Err(bad(why)),
        Some(Err(Stop::More)) | None => read.and(Err(bad("ends within its table of contents"))),
    }
}

/// Takes as much as the table of contents needs, and refuses the rest.
struct Head {
    bytes: Vec<u8>,
    retry_at: usize,
    toc: Option<Result<Box<Toc>, Stop>>,
}

impl Head {
    fn try_again(&mut self) {
        self.toc = match Toc::parse(&self.bytes) {
            Ok((toc, _)) => Some(Ok(Box::new(toc))),
            Err(Stop::More) if self.bytes.len() < MAX_TOC => None,
            Err(stop) => Some(Err(stop)),
        };
    }
}

impl Write for Head {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        if self.bytes.len() >= self.retry_at {
            self.retry_at *= 2;
            self.try_again();
        }
        match self.toc {
            Some(_) => Err(std::io::Error::other("this was enough")),
            None => Ok(bytes.len()),
        }
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A dump in a snapshot.
pub(super) struct Archive<'a> {
    pub(super) repo: &'a Repository,
    pub(super) snapshot: &'a Snapshot,
    /// The folder.
    pub(super) path: &'a str,
    pub(super) toc: &'a Toc,
    /// Entries that are wanted; all if not given.
    pub(super) chosen: Option<&'a BTreeSet<i64>>,
    pub(super) monitor: &'a dyn Monitor,
}

fn broken(error: std::io::Error) -> Error {
    Error::Target { op: "write to", path: "pg_restore".into(), source: error }
}

impl Archive<'_> {
    /// Writes it; returns how many bytes of data that were.
    pub(super) fn write(&self, out: &mut dyn Write) -> Result<u64> {
        out.write_all(&self.toc.write(ArchiveFormat::Custom, &BTreeMap::new())).map_err(broken)?;
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
        dump(self.repo, self.snapshot, path.as_bytes(), &mut list, self.monitor)?;
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

    /// A file's content in pieces, each with its length before it, and a length of zero at the end.
    fn file(&self, name: &str, out: &mut dyn Write) -> Result<u64> {
        let path = format!("{}/{name}", self.path);
        let mut pieces = Pieces { toc: self.toc, out };
        let bytes = dump(self.repo, self.snapshot, path.as_bytes(), &mut pieces, self.monitor)?;
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
