//! What a proof found of the files that are there, so that no byte is compared twice: which pieces of them differ from the
//! backup and, as far as memory allows, the pages that do. It holds of a file as long as nobody changed that.

use chunkstore::pool::locked;
use std::collections::BTreeMap;
use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

/// Bytes of pages that are kept.
const MOST: usize = 64 << 20;
/// A file that was changed less than this ago may have been changed again in the same tick of its file system's clock. Linux
/// has ticks of 10 ms at most.
const TICK: Duration = Duration::from_millis(100);

/// All of it, for every thread.
#[derive(Debug)]
pub(super) struct Found {
    files: Mutex<BTreeMap<Vec<u8>, OfFile>>,
    room: AtomicUsize,
}

/// What was found of one file.
#[derive(Debug)]
struct OfFile {
    stamp: Stamp,
    changes: Vec<Change>,
}

/// Pages that differ: where they are in the file, and what they shall be.
pub(super) type Pages = Vec<(u64, Box<[u8]>)>;

/// A piece that differs.
#[derive(Debug)]
pub(super) struct Change {
    /// Where it begins in the tar.
    pub(super) at: u64,
    /// The pages that do; `None` if there was no room for them.
    pub(super) pages: Option<Pages>,
}

/// By what a file is known as one that nobody has changed: its number, length and last change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    file: (u64, u64),
    len: u64,
    changed: (i64, i64),
}

impl Stamp {
    /// Of a file before it is read; `None` if a later change might not show.
    pub(super) fn of(file: &File) -> Option<Self> {
        Self::at(&file.metadata().ok()?, SystemTime::now())
    }

    fn at(found: &Metadata, now: SystemTime) -> Option<Self> {
        let seconds = Duration::from_secs(u64::try_from(found.ctime()).ok()?);
        let changed = seconds + Duration::from_nanos(u64::try_from(found.ctime_nsec()).ok()?);
        let now = now.duration_since(SystemTime::UNIX_EPOCH).ok()?;
        let own = Self {
            file: (found.dev(), found.ino()),
            len: found.len(),
            changed: (found.ctime(), found.ctime_nsec()),
        };
        (changed + TICK < now).then_some(own)
    }
}

impl Default for Found {
    fn default() -> Self {
        Self { files: Mutex::default(), room: AtomicUsize::new(MOST) }
    }
}

impl Found {
    /// Room for so many bytes of pages, if there is any left.
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        let less = |room: usize| room.checked_sub(bytes);
        self.room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }

    /// Notes all that differs in a file, in the order of its bytes.
    pub(super) fn note(&self, path: &[u8], stamp: Stamp, mut changes: Vec<Change>) {
        changes.sort_by_key(|change| change.at);
        locked(&self.files).insert(path.to_vec(), OfFile { stamp, changes });
    }

    /// What differs in a file, if that is known of it as it is now.
    pub(super) fn take(&self, path: &[u8], file: &File) -> Option<Vec<Change>> {
        let found = locked(&self.files).remove(path)?;
        let is_same = Stamp::of(file) == Some(found.stamp);
        is_same.then_some(found.changes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn a_file_that_was_changed_is_not_known() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("1");
        std::fs::write(&path, "one").unwrap();
        let open = || std::fs::OpenOptions::new().append(true).open(&path).unwrap();
        assert_eq!(Stamp::of(&open()), None, "it was just changed");
        let found = open().metadata().unwrap();
        let later = |millis| SystemTime::now() + Duration::from_millis(millis);
        assert_eq!(Stamp::at(&found, later(0)), None);
        let stamp = Stamp::at(&found, later(500)).unwrap();
        let known = Found::default();
        let note = || known.note(b"1", stamp, vec![Change { at: 512, pages: None }]);
        note();
        assert!(known.take(b"2", &open()).is_none());
        std::thread::sleep(2 * TICK);
        assert_eq!(known.take(b"1", &open()).unwrap().len(), 1);
        assert!(known.take(b"1", &open()).is_none(), "it is taken once");
        note();
        open().write_all(b"!").unwrap();
        std::thread::sleep(2 * TICK);
        assert!(known.take(b"1", &open()).is_none());
    }

    #[test]
    fn pages_have_a_bound() {
        let known = Found::default();
        assert!(known.has_room(MOST - 1));
        assert!(!known.has_room(2));
        assert!(known.has_room(1));
    }
}
