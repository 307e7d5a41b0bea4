//! One channel for counts, progress and non-fatal errors, so that totals cannot disagree.

use chunkstore::pool::locked;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(usize)]
pub enum Counter {
    /// Files and streams expected in total.
    FilesTotal,
    /// Bytes expected in total.
    BytesTotal,
    /// Files and streams done.
    FilesDone,
    /// Bytes done.
    BytesDone,
    /// New files.
    FilesNew,
    /// Files that changed since the parent.
    FilesChanged,
    /// Files taken over from the parent.
    FilesUnmodified,
    /// New directories and special files.
    DirsNew,
    /// Directories that changed.
    DirsChanged,
    /// Directories taken over.
    DirsUnmodified,
    /// Files that a restore left alone: because they were right already, or were not to be overwritten.
    FilesSkipped,
    /// Entries that a restore could not create, or whose content it could not write.
    FilesFailed,
    /// Entries that a restore deleted.
    Deleted,
    /// Entries that were gone before a backup read them.
    Vanished,
}

const COUNTERS: usize = Counter::Vanished as usize + 1;

/// One thing that failed while the rest went on.
#[derive(Clone, Debug)]
pub struct ItemError {
    /// `scan`, `archival`, `restore`, `check`, …
    pub during: &'static str,
    /// The path or object, as [`crate::shown`] shows names.
    pub item: String,
    /// Why.
    pub message: String,
}

/// Receives progress; implemented by every kind of output.
pub trait Monitor: Send + Sync {
    /// Adds to a counter.
    fn count(&self, counter: Counter, by: u64);
    /// A counter's value: reports are read from here, so that there is one tally.
    fn get(&self, counter: Counter) -> u64;
    /// Sets every counter to zero, before the work is repeated.
    fn restart(&self);
    /// Notes an error that does not end the operation.
    fn error(&self, error: ItemError);
    /// Reports a fact that is not an error.
    fn note(&self, _message: &str) {}
    /// Reports a problem that even a quiet user must see.
    fn warning(&self, message: &str) {
        self.note(message);
    }
    /// Begins another phase of the work, with totals of its own.
    fn phase(&self, _name: &str) {}
    /// Reports the path of the present entry.
    fn current(&self, _path: &[u8]) {}
    /// Reports a finished entry and its result, for verbose output.
    fn entry(&self, _action: &'static str, _path: &[u8], _bytes: u64) {}
    /// Reports a name that is removed because the snapshot lacks it, or would be in a dry run.
    fn removal(&self, _path: &std::path::Path, _dry_run: bool) {}
    /// Whether the user wants it all to stop.
    fn interrupted(&self) -> bool {
        false
    }
}

/// The tally that every implementation can build on, and enough by itself for tests.
#[derive(Default)]
pub struct Tally {
    counts: [AtomicU64; COUNTERS],
    errors: Mutex<Vec<ItemError>>,
    notes: Mutex<Vec<String>>,
    /// Set from outside to stop.
    pub stop: AtomicBool,
}

impl Tally {
    /// The notes so far.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        locked(&self.notes).clone()
    }

    /// The errors so far.
    #[must_use]
    pub fn errors(&self) -> Vec<ItemError> {
        locked(&self.errors).clone()
    }
}

impl Monitor for Tally {
    fn count(&self, counter: Counter, by: u64) {
        self.counts[counter as usize].fetch_add(by, Ordering::Relaxed);
    }
    fn get(&self, counter: Counter) -> u64 {
        self.counts[counter as usize].load(Ordering::Relaxed)
    }
    fn restart(&self) {
        self.counts.iter().for_each(|count| count.store(0, Ordering::Relaxed));
    }
    fn error(&self, error: ItemError) {
        locked(&self.errors).push(error);
    }
    fn note(&self, message: &str) {
        locked(&self.notes).push(message.to_owned());
    }
    fn interrupted(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}
