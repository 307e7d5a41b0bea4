//! What those who fill a database have to know of it.

use super::plan::Plan;
use super::run::Run;
use crate::Server;

/// A database that is filled.
pub(super) struct Filling<'a> {
    pub(super) plan: &'a Plan,
    /// Its name for now.
    pub(super) name: &'a str,
    /// The server, as the role that restores enters it.
    pub(super) server: &'a Server,
    pub(super) run: &'a Run,
    /// Whether the backup lacks objects that others may hang on.
    pub(super) is_partial: bool,
}
