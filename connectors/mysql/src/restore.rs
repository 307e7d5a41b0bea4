//! Databases of a snapshot into a running MariaDB or MySQL: all of them, one, or single tables, of which only their own
//! stretch of the dump is read; and the binary log after it, up to a moment. Tables come first, then what is written in
//! SQL's own words, views last: they may need any database. What of these the server refuses is told and left out.

use crate::dump::Index;
use crate::server::Server;
use crate::stream as follow;
use connector_kit::databases::Selection;
use engine::restore::{dump, dump_ranges};
use engine::snapshot::Snapshot;
use engine::{Counter, Error, ItemError, Monitor, Repository, Result, shown};
use lock::Locks;
pub(crate) use prepared::prepare;
use std::path::Path;
use stored::Goal;
use tables::Longest;

mod accounts;
mod beside;
mod check;
mod client;
mod disarm;
mod held;
mod leftovers;
mod loads;
mod lock;
mod objects;
mod outside;
mod prepared;
mod renamed;
mod replay;
mod report;
mod run;
mod standing;
mod steps;
mod stored;
mod tables;

/// Choices for a restore into MariaDB.
#[derive(Clone, Debug, Default)]
pub struct MysqlOptions {
    /// What is restored; the accounts, too, if it is all.
    pub selection: Selection,
    /// Put what comes in place of what is there.
    pub replace: bool,
    /// Leave out tables that the server refuses.
    pub keep_going: bool,
    /// Make tables where the server puts them, whatever directories they name.
    pub no_tablespaces: bool,
    /// The moment to go on to, by the binary log.
    pub time: Option<jiff::Timestamp>,
    /// Only the dump, without the binary log after it.
    pub base_only: bool,
}

struct Work<'a> {
    repo: &'a Repository,
    snapshot: &'a Snapshot,
    server: &'a Server,
    options: &'a MysqlOptions,
    monitor: &'a dyn Monitor,
    locks: &'a Locks,
}

impl Work<'_> {
    fn refused(&self, why: String) -> Error {
        Error::Refused(format!("{}: {why}", self.server.shown))
    }

    fn text(&self, path: &str) -> Result<String> {
        let mut bytes = vec![];
        dump(self.repo, self.snapshot, path.as_bytes(), &mut bytes, self.monitor)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn bytes(&self, path: &str, range: (u64, u64)) -> Result<Vec<u8>> {
        let mut bytes = vec![];
        dump_ranges(self.repo, self.snapshot, path.as_bytes(), &[range], &mut bytes, self.monitor)?;
        Ok(bytes)
    }

    fn index(&self, path: &str) -> Result<Index> {
        let path = format!("{path}.index");
        Index::read(self.text(&path)?.as_bytes()).map_err(|why| Error::Malformed { what: path, why })
    }

    /// Reads what will be restored of a dump, whole: what the repository has lost, and what the server cannot take, is found
    /// before anything is dropped or made.
    fn prove(&self, goal: &Goal) -> Result<()> {
        let (repo, snapshot, path, index) = (self.repo, self.snapshot, goal.path.as_bytes(), &goal.index);
        let chosen = || index.objects.iter().filter(|object| self.is_chosen(object));
        let code: u64 = chosen().map(|object| object.to - object.from).sum();
        let tables: u64 = self.chosen(index).iter().map(|(_, from, to)| to - from).sum();
        self.phase(&goal.target, "reading what the snapshot has", tables + code);
        if self.options.selection.tables.is_empty() {
            let mut longest = Longest::new(vec![(0, index.tables_end)]);
            dump(repo, snapshot, path, &mut longest, self.monitor)?;
            return self.fits(&longest, &goal.target, index);
        }
        let tables = self.chosen(index).into_iter().map(|(_, from, to)| (from, to));
        let ranges: Vec<(u64, u64)> = std::iter::once((0, index.head)).chain(tables).collect();
        let mut longest = Longest::new(ranges.clone());
        dump_ranges(repo, snapshot, path, &ranges, &mut longest, self.monitor)?;
        self.fits(&longest, &goal.target, index)?;
        let ranges: Vec<(u64, u64)> = chosen().map(|object| (object.from, object.to)).collect();
        dump_ranges(repo, snapshot, path, &ranges, &mut std::io::sink(), self.monitor).map(drop)
    }

    /// That nobody has interrupted.
    fn go_on(&self) -> Result<()> {
        match self.monitor.interrupted() {
            true => Err(Error::Interrupted),
            false => Ok(()),
        }
    }

    /// Another part of a database's restore begins, with a time of its own and so many bytes to read.
    fn phase(&self, target: &str, what: &str, bytes: u64) {
        self.monitor.phase(&format!("database '{}': {what}", shown::line(target)));
        self.monitor.count(Counter::BytesTotal, bytes);
    }

    fn tell(&self, item: String, message: &str) {
        let message = shown::line(message).into_owned();
        self.monitor.error(ItemError { during: "restore", item, message });
    }
}

/// A binary log as it is replayed from `from` on a server that executes statements by their text, or one that does not. Files
/// of rows that it has are written to `folder`.
///
/// # Errors
/// What cannot be replayed, and those of the folder.
pub fn disarmed(log: &[u8], executes: bool, from: u64, folder: &Path) -> std::io::Result<Vec<u8>> {
    let (mut out, mut log) = (vec![], log);
    disarm::Disarmed::new(executes, None, folder.to_owned(), outside::Outside::default())
        .write(&mut log, from, &mut out)?;
    Ok(out)
}

/// What the moments of a snapshot's stream are, in milliseconds since 1970: from the dump's to the last.
#[must_use]
pub fn span(snapshot: &Snapshot) -> Option<(u64, u64)> {
    let record = snapshot.sources.iter().find(|source| source.kind == follow::KIND)?;
    let number = |name: &str| record.details.get(name)?.parse().ok();
    Some((number("base-ms")?, number("until-ms")?))
}
