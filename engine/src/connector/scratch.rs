//! Scratch servers: what a drill restores into, and nothing else is ever in.

use super::{Chosen, Context, Origin};
use crate::{Monitor, Result};
use std::path::Path;
use std::time::Duration;

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

    /// Whether its servers take what a source of this kind stored: a dump, and not the files of a data directory.
    fn takes(&self, kind: &str) -> bool;

    /// The key of an `[[assertion]]` of esker.toml under which users write questions to its servers: `sql`.
    fn asked_by(&self) -> &'static str;

    /// Looks at a question without a server.
    ///
    /// # Errors
    ///
    /// What is wrong with it, without a word of it.
    fn check(&self, query: &Query) -> std::result::Result<(), String>;

    /// The choices of a restore into it: all of the snapshot, without a question and without a safety snapshot, since nothing
    /// is there.
    ///
    /// # Errors
    ///
    /// That the snapshot cannot be restored without a trace outside of the drill's folder, or what cannot be read.
    fn chosen(&self, from: Origin<'_>) -> Result<Chosen>;
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

    /// Asks a user's question, and returns the answer: one value, as text; `None` if that is no value (NULL). There is an
    /// answer within `limit`, or an error.
    ///
    /// # Errors
    ///
    /// Why there is no such answer, without a word of the question or of what the server says about it: it goes into reports.
    fn ask(
        &self,
        from: Origin<'_>,
        query: &Query,
        limit: Duration,
    ) -> std::result::Result<Option<String>, String>;

    /// Ends it, and waits until it has ended.
    ///
    /// # Errors
    ///
    /// That it did not.
    fn stop(&mut self) -> Result<()>;
}

/// A question of a user's to a scratch server. It may hold secrets, and prints none of them.
#[derive(Clone)]
pub struct Query {
    /// The question, in the language of the server.
    pub text: String,
    /// The database that it is asked in, where the user names one.
    pub database: Option<String>,
}

impl std::fmt::Debug for Query {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Query").finish_non_exhaustive()
    }
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
