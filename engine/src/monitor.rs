//! One channel for counts, progress and non-fatal errors, so that totals cannot disagree.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What is counted.
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
    /// Files that a restore left alone because they were right already.
    FilesSkipped,
    /// Entries that a restore deleted.
    Deleted,
}

const COUNTERS: usize = Counter::Deleted as usize + 1;

/// One thing that failed while the rest went on.
#[derive(Clone, Debug)]
pub struct ItemError {
    /// `scan`, `archival`, `restore`, `check`, …
    pub during: &'static str,
    /// The path or object.
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
    /// Sets every counter to zero: what was counted is done again.
    fn restart(&self);
    /// Notes an error that does not end the operation.
    fn error(&self, error: ItemError);
    /// Says what is being worked on.
    fn current(&self, _item: &str) {}
    /// An entry is finished, with what became of it; for verbose output.
    fn entry(&self, _action: &'static str, _path: &str, _bytes: u64) {}
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
    /// Set from outside to stop.
    pub stop: AtomicBool,
}

impl Tally {
    /// The errors so far.
    #[must_use]
    pub fn errors(&self) -> Vec<ItemError> {
        self.errors.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
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
        self.errors.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(error);
    }
    fn interrupted(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}
