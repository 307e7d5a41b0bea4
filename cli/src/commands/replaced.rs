//! A snapshot that a person means, and what takes its place while it is changed or removed, as a live stream replaces
//! its own every few seconds.

use crate::context::Context;
use crate::exit::Failure;
use engine::snapshot::Listed;
use engine::{Error, Repository};

/// So often a snapshot is looked for again.
const ATTEMPTS: u32 = 20;

/// Looks for what took a snapshot's place, a bounded number of times.
pub(super) struct Replaced<'a> {
    repo: &'a Repository,
    context: &'a Context,
    left: u32,
}

impl<'a> Replaced<'a> {
    pub(super) fn new(repo: &'a Repository, context: &'a Context) -> Self {
        Self { repo, context, left: ATTEMPTS }
    }

    /// The snapshot that is there now in the place of `listed`; `None` if it was removed.
    ///
    /// # Errors
    /// That it was replaced too often, or that the user interrupts.
    pub(super) fn now(&mut self, listed: &Listed) -> Result<Option<Listed>, Failure> {
        let Some(present) = self.repo.present(&listed.id)? else { return Ok(None) };
        self.left -= 1;
        if self.left == 0 || self.context.console.monitor().interrupted() {
            return Err(Error::Store(chunkstore::Error::Gone { id: listed.id }).into());
        }
        Ok(Some(present))
    }
}
