//! Scratch servers: what a drill restores into, and nothing else is ever in.

use super::{Chosen, Context, Origin};
use crate::{Monitor, Result};
use std::path::Path;

/// Starts servers of one system that are empty, listen to this machine alone, and are gone after the drill.
pub trait Scratch: Sync {
    /// Starts one that takes what the snapshot has, of the version that fits best, with all that it writes in `folder`, which is
    /// empty and private.
    ///
    /// # Errors
    ///
    /// Why there is none: the message names the program that is missing and what it comes in, or what it said when it ended.
    fn start(
        &self,
        from: Origin<'_>,
        folder: &Path,
        context: &Context,
        monitor: &dyn Monitor,
    ) -> Result<Box<dyn ScratchServer>>;

    /// The choices of a restore into it: all of the snapshot, without a question and without a safety snapshot, since nothing
    /// is there.
    fn chosen(&self) -> Chosen;
}

/// A scratch server that runs. Dropped, it is stopped.
pub trait ScratchServer {
    /// Its URL, for the system's own [`super::Target`]. It may hold a password: no report has it.
    fn url(&self) -> &str;

    /// Its program and version, for people: the name of the program, a space, its version.
    fn program(&self) -> &str;

    /// Counts what is in it and what the snapshot says that there is, each by a connection of its own after the restore.
    ///
    /// # Errors
    ///
    /// What the server or the repository said.
    fn count(&self, from: Origin<'_>, monitor: &dyn Monitor) -> Result<Vec<Count>>;

    /// Ends it, and waits until it has ended.
    ///
    /// # Errors
    ///
    /// That it did not.
    fn stop(&mut self) -> Result<()>;
}

/// One thing that a drill counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Count {
    /// What: `keys in database 0`.
    pub what: String,
    /// How many the snapshot says.
    pub expected: u64,
    /// How many there are.
    pub found: u64,
}
