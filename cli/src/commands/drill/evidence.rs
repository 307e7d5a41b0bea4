//! What is kept of drills: each report is signed and stored when it is there, so that those of a run that is interrupted stay.

use crate::context::Context;
use crate::exit::{Code, Failure};
use crate::signing::Flags;
use chunkstore::ObjectId;
use chunkstore::inbox::SigningKey;
use engine::Repository;
use engine::drill::Report;

/// Where reports go.
pub(super) struct Evidence<'a> {
    context: &'a Context,
    /// `None` if nothing is to be stored.
    key: Option<SigningKey>,
    repo: Option<Repository>,
    ids: Vec<ObjectId>,
    /// Whether something was to be stored and was not.
    lacks: bool,
}

impl<'a> Evidence<'a> {
    /// Reads the key, or makes it: that it is none is said before hours are spent on a drill.
    ///
    /// # Errors
    /// There is no key.
    pub(super) fn new(is_kept: bool, flags: &Flags, context: &'a Context) -> Result<Self, Failure> {
        let key = is_kept.then(|| flags.key(context.own_file())).transpose()?;
        Ok(Self { context, key, repo: None, ids: vec![], lacks: false })
    }

    /// Stores reports. What hinders that is said: they are printed in any case.
    ///
    /// # Errors
    /// ctrl-C.
    pub(super) fn keep(&mut self, reports: &[Report]) -> Result<(), Failure> {
        let Some(key) = self.key.clone() else { return Ok(()) };
        match self.store(reports, &key) {
            Ok(ids) => self.ids.extend(ids),
            Err(failure) if failure.code == Code::Interrupted => return Err(failure),
            Err(failure) => {
                self.lacks = true;
                self.context
                    .console
                    .warn(&format!("the report is not stored: {}; --no-store does without", failure.message));
            }
        }
        Ok(())
    }

    fn store(&mut self, reports: &[Report], key: &SigningKey) -> Result<Vec<ObjectId>, Failure> {
        // What was drilled may have been read from a copy, which takes no reports.
        let repo = match self.repo.take() {
            Some(repo) => repo,
            None => self.context.open()?,
        };
        let stored = repo.store_reports(reports, key)?;
        self.repo = Some(repo);
        Ok(stored)
    }

    /// The ids of what was stored; `None` if nothing was to be, or something is not.
    pub(super) fn finish(self) -> (Option<Vec<ObjectId>>, bool) {
        let is_whole = self.key.is_some() && !self.lacks;
        (is_whole.then_some(self.ids), self.lacks)
    }
}
