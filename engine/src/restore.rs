//! The story backwards: snapshot → manifest → chunks → files.
//!
//! The caller's thread reads the manifest, decides what to do with each entry and requests the chunks that the target
//! lacks; fetched chunks are written in the same order. A new file is written beside its place and renamed when it is
//! complete. A file that is right already is not fetched, so an interrupted restore continues where it stopped. All
//! paths are beneath the target (`target.rs`). One module decides what is restored, and what of the target may be
//! removed, before the first write (`scope.rs`).

#![expect(clippy::disallowed_methods, reason = "a restore into a folder writes files")]

use crate::entry::Entry;
use crate::patterns::Patterns;
use crate::snapshot::Snapshot;
use crate::{Error, Monitor, Repository, Result};
use std::collections::BTreeMap;
use std::path::PathBuf;

#[cfg(feature = "archives")]
pub mod archive;
mod dump;
mod entered;
mod guard;
mod handle;
mod held;
mod links;
mod located;
mod metadata;
pub mod newfile;
#[cfg(test)]
mod random;
mod range;
mod remove;
pub mod scope;
pub mod target;
mod walk;
mod writer;

pub use dump::dump;
pub use held::Held;
pub use located::{Located, Piece, Stretch, locate, located, read_stretches};
pub use newfile::is_partial;
pub use range::dump_ranges;

/// The one server that a snapshot has things of below `root`.
pub fn only_server<T>(servers: BTreeMap<String, T>, root: &str, kind: &str) -> Result<T> {
    if servers.len() > 1 {
        let names: Vec<String> = servers.keys().map(|name| format!("ID:/{root}/{name}")).collect();
        let names = names.join(" or ");
        return Err(Error::Invalid(format!("the snapshot has several {kind} servers; name one, as {names}")));
    }
    let only = servers.into_values().next();
    only.ok_or_else(|| no_server(kind))
}

/// That a snapshot has nothing of a system's servers, and what can be done with a dump that came another way.
#[must_use]
pub fn no_server(kind: &str) -> Error {
    Error::Invalid(format!(
        "there is no {kind} database in this snapshot; a dump that came by standard input or as a file is loaded by \
         the server's own program: 'esker dump SNAPSHOT PATH' writes it to standard output"
    ))
}

/// What to do with an existing file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overwrite {
    /// Compare content, replace what differs.
    #[default]
    Always,
    /// As `Always`, but take a file of equal size and time for equal.
    IfChanged,
    /// Replace files that are older than the snapshot's.
    IfNewer,
    /// Leave every existing file alone.
    Never,
}

/// Choices for a restore.
#[derive(Clone, Debug, Default)]
pub struct RestoreOptions {
    /// Where to.
    pub target: PathBuf,
    /// Only paths beneath this one of the snapshot, relative to it.
    pub beneath: Vec<u8>,
    /// Only what fits one of these patterns, if there are any. Each must fit something.
    pub includes: Patterns,
    /// Not what fits one of these.
    pub excludes: Patterns,
    /// What to do with existing files.
    pub overwrite: Overwrite,
    /// Remove names that the snapshot does not have: beneath paths that were backed up, and only where the patterns
    /// apply.
    pub delete: bool,
    /// Also remove names that the backup left out by its filters.
    pub delete_excluded: bool,
    /// Folders that are never removed nor restored into: the repository, its cache, its tiers.
    pub protected: Vec<PathBuf>,
    /// The user's home: as a target that names are removed in it must be confirmed, as `/` must.
    pub home: Option<PathBuf>,
    /// The user confirmed that names may be removed in such a target.
    pub confirmed: bool,
    /// Write nothing.
    pub dry_run: bool,
    /// Leave holes for chunks of zeros.
    pub sparse: bool,
    /// Do not set owners: for users who may not.
    pub no_owner: bool,
}

/// What is to become of the entry whose chunks follow.
struct Job {
    entry: Entry,
    /// Path beneath the target.
    path: Vec<u8>,
    /// Folders above it that are not restored themselves, the topmost first.
    above: Vec<(Vec<u8>, Entry)>,
    action: Action,
}

enum Action {
    /// Write a new file; the first bytes are taken from the old one.
    Write { keep: u64 },
    /// The content is right; only metadata is set.
    Keep,
    /// Nothing at all.
    Skip,
    /// The source could not be read to the end when it was backed up.
    Drop,
}

/// The result of a restore, besides the monitor's counters.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Entries, or parts of the list of them, that are damaged in the repository.
    pub damaged: u64,
    /// Notes for people about names that were not removed.
    pub notes: Vec<String>,
    /// Names that were not removed because the backup left them out by its filters; a folder counts as one.
    pub left_out: u64,
}

/// Restores a snapshot, or a part of it. Errors of single entries go to the monitor.
///
/// # Errors
/// Before anything is written: a path or an include that fits nothing, a target that must be confirmed, and, where
/// names are to be removed, a list of entries that cannot be read to its end.
pub fn restore(
    repo: &Repository,
    snapshot: &Snapshot,
    options: &RestoreOptions,
    monitor: &dyn Monitor,
) -> Result<Report> {
    guard::check(options)?;
    walk::walk(repo, snapshot, options, false, monitor).map(|(report, _)| report)
}

/// Reads the target again and returns the files whose content is not the snapshot's.
pub fn differences(
    repo: &Repository,
    snapshot: &Snapshot,
    options: &RestoreOptions,
    monitor: &dyn Monitor,
) -> Result<Vec<String>> {
    let options =
        RestoreOptions { dry_run: true, delete: false, overwrite: Overwrite::Always, ..options.clone() };
    walk::walk(repo, snapshot, &options, true, monitor).map(|(_, written)| written)
}

/// Bytes as a path.
#[must_use]
pub fn as_path(bytes: &[u8]) -> &std::path::Path {
    use std::os::unix::ffi::OsStrExt as _;
    std::path::Path::new(std::ffi::OsStr::from_bytes(bytes))
}
