//! What lies in a dump: keys, tables, collections. For `ls`, `find`, `dump` and `diff`.

use super::Origin;
use crate::Result;
use serde_json::{Map, Value};
use std::io::Write;
use std::path::Path;

/// One of the things in a dump.
#[derive(Clone, Debug)]
pub struct Member {
    /// What it is called, in whatever bytes.
    pub name: Vec<u8>,
    /// Its path in the snapshot, which [`Contents::read`] takes.
    pub path: Vec<u8>,
    /// Its type, for people and programs.
    pub kind: String,
    /// Its bytes in the dump, where they are known.
    pub size: Option<u64>,
    /// When it expires, or when it was written.
    pub time: Option<jiff::Timestamp>,
    /// What else people are told, in one line; empty if there is nothing.
    pub about: String,
    /// What else programs are told.
    pub fields: Map<String, Value>,
}

/// What became of a member between two dumps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Only the newer one has it.
    Added,
    /// Only the older one has it.
    Removed,
    /// It is another one.
    Changed,
}

/// Opens what a member is written to.
pub type Output<'a> = &'a mut dyn FnMut() -> std::io::Result<Box<dyn Write>>;

/// The dumps of one system, taken apart.
pub trait Contents: Sync {
    /// What its members are: "key", "table".
    fn noun(&self) -> &'static str;
    /// Whether the path behind `SNAPSHOT:` is inside a dump of this system, rather than that of an entry of the snapshot.
    fn holds(&self, from: Origin<'_>) -> bool;
    /// The folder of the snapshot that is read for it: what must be thawed.
    fn reads(&self, from: Origin<'_>) -> Vec<u8> {
        crate::names::path_bytes(from.below.trim_matches('/'))
    }
    /// Whether an entry of a snapshot is a dump whose members can be compared.
    fn is_dump(&self, from: Origin<'_>) -> bool;
    /// The path of the dump that an entry of a snapshot is, or is a part of: [`Contents::list`] and [`Contents::compare`] take it.
    fn dump_of(&self, from: Origin<'_>) -> Option<String> {
        self.is_dump(from).then(|| from.below.to_owned())
    }
    /// The members of the dump that the path is in, of which the names fit one of the patterns, if there are any.
    ///
    /// # Errors
    /// What cannot be read, or that the path is of no dump.
    fn list(
        &self,
        from: Origin<'_>,
        patterns: &[Vec<u8>],
        each: &mut dyn FnMut(Member) -> Result<()>,
    ) -> Result<()>;
    /// Writes the member that the path is of; returns its bytes.
    ///
    /// # Errors
    /// [`crate::Error::NoEntry`] if there is none, or what cannot be read.
    fn read(&self, from: Origin<'_>, out: Output<'_>) -> Result<u64>;
    /// The members of two dumps that differ: names as a path in the snapshot.
    ///
    /// # Errors
    /// What cannot be read.
    fn compare(
        &self,
        old: Origin<'_>,
        new: Origin<'_>,
        scratch: &Path,
        each: &mut dyn FnMut(Change, &[u8]) -> Result<()>,
    ) -> Result<()>;
}
