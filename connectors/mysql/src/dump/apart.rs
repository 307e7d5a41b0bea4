//! The dump of several databases while it comes, taken apart into the content of each.

use super::index::Index;
use super::seams::{Seams, Step};
use crate::server::{Server, is_named};
use connector_kit::command::CommandContent;
use engine::source::end_mark::NoEndMark;
use engine::source::{Content, Piece, SourceError, SourceErrorKind};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

/// The dump while it comes.
pub(super) struct Dump {
    pub(super) content: CommandContent<NoEndMark>,
    pub(super) seams: Seams,
    /// What the current database is called for people.
    pub(super) shown: String,
    /// Whether its failure costs that database, and no more.
    pub(super) keep_going: bool,
    pub(super) failed: bool,
    /// What the last finished database's index is.
    pub(super) index: Option<Index>,
    pub(super) proof: Proof,
}

/// What the current database's dump must have.
pub(super) struct Proof {
    pub(super) server: Server,
    pub(super) database: String,
    pub(super) expected: BTreeSet<String>,
}

impl Proof {
    /// That the dump has every table of the database, by exactly its name.
    fn of(&self, index: &Index) -> Result<(), SourceError> {
        let found: BTreeSet<&String> = index.tables.iter().map(|(name, ..)| name).collect();
        let mut missing: Vec<&str> =
            self.expected.iter().filter(|name| !found.contains(name)).map(String::as_str).collect();
        if missing.is_empty() {
            return Ok(());
        }
        // One that was dropped meanwhile is missing rightly.
        let sql = format!(
            "SELECT table_name FROM information_schema.tables WHERE {}",
            is_named("table_schema", &self.database)
        );
        let there: BTreeSet<String> = self.server.query(&sql)?.into_iter().flatten().collect();
        missing.retain(|name| there.contains(*name));
        if missing.is_empty() {
            return Ok(());
        }
        let why = format!(
            "mariadb-dump left out of database {}: {}; names that differ only in case, accents or by a dot are one to it: rename them",
            self.database,
            missing.join(", ")
        );
        Err(self.server.error(SourceErrorKind::Incomplete, why))
    }
}

/// One database of the dump.
pub(super) struct DatabaseContent(pub(super) Rc<RefCell<Dump>>);

impl Content for DatabaseContent {
    fn read(&mut self, buffer: &mut [u8]) -> Result<Piece, SourceError> {
        let mut dump = self.0.borrow_mut();
        let dump = &mut *dump;
        dump.read(buffer).map_err(|error| {
            dump.failed = true;
            match dump.keep_going {
                true => {
                    let why = format!("left out: {}: {}", error.what, error.why);
                    SourceError::new(SourceErrorKind::Item, &dump.shown, why)
                }
                false => error,
            }
        })
    }
}

impl Dump {
    fn read(&mut self, buffer: &mut [u8]) -> Result<Piece, SourceError> {
        loop {
            match self.seams.step(buffer) {
                Step::Bytes(len) => return Ok(Piece::Data(len)),
                Step::Cut => return Ok(Piece::Cut),
                Step::End(index) => {
                    self.proof.of(&index)?;
                    self.index = Some(index);
                    return Ok(Piece::End);
                }
                Step::Truncated(why) => {
                    return Err(SourceError::new(SourceErrorKind::Incomplete, "mariadb-dump", why));
                }
                Step::More => {
                    let piece = self.seams.fill(&mut |space| self.content.read(space))?;
                    if piece == Piece::Wait {
                        return Ok(Piece::Wait);
                    }
                }
            }
        }
    }
}

/// A dump of the databases `names`, taken apart as it comes, `part` bytes at a time: the text of each, and its index. What
/// is asked of the server beside the dump is left out.
///
/// # Errors
/// Where a backup fails: what is no such dump, or not all of one.
pub fn take_apart(names: &[&str], text: &[u8], part: usize) -> Result<Vec<(Vec<u8>, Index)>, SourceError> {
    let mut seams = Seams::new(names.iter().map(|name| (*name).to_owned()).collect());
    let (mut rest, mut buffer, mut found, mut all) = (text, vec![0; part.max(1)], vec![], vec![]);
    while !seams.is_over() {
        match seams.step(&mut buffer) {
            Step::Bytes(len) => found.extend_from_slice(&buffer[..len]),
            Step::Cut => {}
            Step::End(index) => all.push((std::mem::take(&mut found), index)),
            Step::Truncated(why) => {
                return Err(SourceError::new(SourceErrorKind::Incomplete, "mariadb-dump", why));
            }
            Step::More => {
                seams.fill(&mut |space| {
                    let (now, later) = rest.split_at(rest.len().min(part.max(1)).min(space.len()));
                    space[..now.len()].copy_from_slice(now);
                    rest = later;
                    Ok(if now.is_empty() { Piece::End } else { Piece::Data(now.len()) })
                })?;
            }
        }
    }
    Ok(all)
}
