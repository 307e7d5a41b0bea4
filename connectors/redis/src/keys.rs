//! The keys of a Redis dump in a snapshot: found, listed and read without the rest of it.
//!
//! A sorted dump has a seek index beside it, so that reading a key or a prefix reads only its chunks. A raw dump is
//! read from beginning to end: slower, with the same result.

use crate::rdb::canonical::USAGE_LEN;
use crate::rdb::index::{Counts, SeekIndex, after_prefix};
use crate::rdb::parse::{Global, Key, Order, Step, Usage, Walk};
use crate::rdb::{RdbError, Version};
use chunkstore::ingest::ChunkRef;
use engine::{Error, Repository, Result};
use std::collections::BTreeMap;

mod bytes;
pub mod compare;
mod find;
pub mod functions;
pub mod keyspace;
pub mod load;
mod place;
pub mod proof;
mod records;
pub mod rewritten;
mod selection;
pub mod side_by_side;
pub mod taken;
mod unmet;

use bytes::Bytes;
pub use find::{Commands, find, has_keys, is_dump};
pub use place::{Place, component, one};
pub use records::{Live, Records, Stored};
pub use selection::Selection;

/// A dump in a snapshot.
pub struct Dump {
    /// Its path, without leading slash.
    pub path: String,
    content: Vec<ChunkRef>,
    len: u64,
    index: Option<SeekIndex>,
    usage: Option<(Vec<ChunkRef>, u64)>,
    /// The commands that come after it, of an append-only file.
    pub commands: Vec<Commands>,
}

/// What belongs to no key, each with its bytes in the dump.
pub type Globals = Vec<(Global, Vec<u8>)>;

/// A key and what is known of its value.
pub struct Record {
    /// The key.
    pub key: Key,
    /// Bytes of the value as the dump has it.
    pub len: u64,
    /// These bytes, if they were asked for.
    pub value: Vec<u8>,
    /// How the key was used.
    pub usage: Option<Usage>,
}

/// What is wanted of each key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// Name, type, size and expiry.
    Names,
    /// The value, too.
    Values,
}

/// A part of a dump to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stretch {
    from: u64,
    to: u64,
    database: u32,
    /// Keys before it.
    ordinal: u64,
}

impl Dump {
    /// What has no dump: commands are all there is.
    fn without_keys(path: String) -> Self {
        Self { path, content: vec![], len: 0, index: None, usage: None, commands: vec![] }
    }

    /// The folder that its databases are in, for [`Place::parse`]: a stream is a server's of no name.
    #[must_use]
    pub fn folder(&self) -> String {
        match self.path.split('/').collect::<Vec<_>>()[..] {
            ["redis", server, _, ..] => format!("redis/{server}/"),
            _ => "redis/".to_owned(),
        }
    }

    /// Whether it was put in order when it was stored: then each key is in it once.
    #[must_use]
    pub fn is_in_order(&self) -> bool {
        self.index.is_some()
    }

    /// Keys by database, if that is known without reading all.
    #[must_use]
    pub fn databases(&self) -> Option<&BTreeMap<u32, Counts>> {
        self.index.as_ref().map(|index| &index.databases)
    }

    /// Bytes of the dump.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it has no bytes, which no dump has: an append-only file without one at its head.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where the keys of a selection may lie, in order and apart from each other. Without an index: anywhere.
    fn stretches(&self, selection: &Selection) -> Vec<Stretch> {
        let Some(index) = &self.index else {
            return vec![Stretch { from: 0, to: self.len, database: 0, ordinal: 0 }];
        };
        let databases = index.databases.keys().copied();
        let mut all = vec![];
        for database in databases.filter(|number| selection.database.is_none_or(|wanted| wanted == *number)) {
            let mut add = |from: &[u8], to: Option<&[u8]>| {
                if let Some((point, to)) = index.stretch(database, from, to) {
                    let (from, database, ordinal) = (point.offset, point.database, point.ordinal);
                    all.push(Stretch { from, to, database, ordinal });
                }
            };
            if selection.is_open() {
                add(b"", None);
            }
            for name in &selection.names {
                let next = [name, &b"\0"[..]].concat();
                add(name, Some(&next));
            }
            for pattern in &selection.patterns {
                let (prefix, _) = pattern.literal();
                add(&prefix, after_prefix(&prefix).as_deref());
            }
        }
        all.sort_unstable_by_key(|stretch| stretch.from);
        let mut apart: Vec<Stretch> = vec![];
        for stretch in all {
            match apart.last_mut() {
                Some(last) if stretch.from <= last.to => last.to = last.to.max(stretch.to),
                _ => apart.push(stretch),
            }
        }
        apart
    }

    /// The keys of a selection, in the dump's order.
    pub fn records<'a>(&'a self, repo: &'a Repository, selection: &'a Selection, want: Want) -> Stored<'a> {
        let stretches = self.stretches(selection);
        let plan = Bytes::new(repo.store(), &self.content)
            .plan(stretches.iter().map(|stretch| (stretch.from, stretch.to)));
        let usage = self.usage.as_ref().filter(|_| want == Want::Values && self.index.is_some());
        // A stretch reads of its uses as many as it has keys, which only the walk will tell: they are few bytes.
        let usage = usage.map(|(chunks, len)| {
            let ends = stretches.iter().map(|stretch| (stretch.ordinal * USAGE_LEN).min(*len));
            Bytes::new(repo.store(), chunks).plan(ends.map(|from| (from, *len)))
        });
        Stored { dump: self, selection, want, stretches: stretches.into(), plan, usage, current: None }
    }

    /// All keys in order of database and name, with their values. A dump that was stored as it came is ordered
    /// first, with spill files in `scratch`.
    pub fn in_order<'a>(
        &'a self,
        repo: &'a Repository,
        all: &'a Selection,
        scratch: &std::path::Path,
    ) -> Result<Box<dyn Records + 'a>> {
        self.has_keys()?;
        if self.index.is_some() {
            return Ok(Box::new(self.records(repo, all, Want::Values)));
        }
        let mut plan = Bytes::new(repo.store(), &self.content).plan([(0, self.len)].into_iter());
        Ok(Box::new(Live::gather(plan.next_stretch(), &self.path, scratch)?))
    }

    /// Refuses an append-only file without a dump, whose keys only a server knows.
    fn has_keys(&self) -> Result<()> {
        if !self.is_empty() {
            return Ok(());
        }
        Err(Error::Invalid(format!(
            "/{} is an append-only file of commands, without a dump that keys can be read from; restore all of it into \
             an empty server by --to, and take the keys from there",
            self.path
        )))
    }

    /// Where the commands begin that follow a dump at the head of a file.
    pub(crate) fn end(&self, repo: &Repository) -> Result<u64> {
        let told = |error| self.told(error);
        let mut plan = Bytes::new(repo.store(), &self.content).plan([(0, self.len)].into_iter());
        let mut walk = Walk::new(plan.next_stretch(), Order::AsIs).map_err(told)?;
        loop {
            match walk.next_step().map_err(told)? {
                Step::End => break,
                Step::Global(..) => {}
                Step::Key(key) => walk.value(key.kind, &mut |_| Ok(())).map_err(told)?,
            }
        }
        walk.is_all().map_err(told)?;
        Ok(walk.offset())
    }

    /// What stands before the keys: version, and what belongs to no key, as bytes of the dump.
    pub fn head(&self, repo: &Repository) -> Result<(Version, Globals)> {
        let end =
            self.index.as_ref().map(|index| index.points.first().map_or(index.end, |first| first.offset));
        let mut plan =
            Bytes::new(repo.store(), &self.content).plan([(0, end.unwrap_or(self.len))].into_iter());
        let told = |error| self.told(error);
        let mut walk = Walk::new(plan.next_stretch(), Order::AsIs).map_err(told)?;
        let version = walk.version();
        let mut globals = vec![];
        while !walk.is_at_end().map_err(told)? {
            match walk.next_step().map_err(told)? {
                Step::Global(global, raw) => globals.push((global, raw)),
                _ => break,
            }
        }
        Ok((version, globals))
    }

    fn told(&self, error: RdbError) -> Error {
        match error {
            RdbError::Malformed(bad) => {
                Error::Malformed { what: format!("/{}", self.path), why: bad.to_string() }
            }
            RdbError::Unknown(bad) => Error::Invalid(format!(
                "/{}: {bad}; restore the file by --target, and let a server load it that knows this",
                self.path
            )),
            RdbError::Read(error) => read_error(&self.path, error),
        }
    }
}

/// What went wrong when an entry was read.
fn read_error(path: &str, error: std::io::Error) -> Error {
    match error.downcast::<chunkstore::Error>() {
        Ok(error) => error.into(),
        Err(error) => Error::Malformed { what: format!("/{path}"), why: error.to_string() },
    }
}
