//! File locks with a bounded wait: a lock's holder may have been stopped, or may be a hostile process.

use rustix::fs::FlockOperation;
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

/// After this time the wait is told of.
const TOLD_AFTER: Duration = Duration::from_secs(2);
/// Pauses between attempts: the first, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(50));

/// Locks an open file (flock(2)), for oneself or with others who share it. An error of kind
/// [`io::ErrorKind::TimedOut`] says who held it all the time.
pub fn lock(file: &File, path: &Path, shared: bool, patience: Duration) -> io::Result<()> {
    let operation = match shared {
        true => FlockOperation::NonBlockingLockShared,
        false => FlockOperation::NonBlockingLockExclusive,
    };
    let start = Instant::now();
    let (mut pause, mut is_told) = (PAUSES.0, false);
    loop {
        match rustix::fs::flock(file, operation) {
            Ok(()) => return Ok(()),
            Err(Errno::INTR) => continue,
            Err(Errno::WOULDBLOCK) => {}
            Err(errno) => return Err(errno.into()),
        }
        let waited = start.elapsed();
        if waited >= patience {
            let why = format!("{} was held by {} for {} s", path.display(), holder(file), patience.as_secs());
            return Err(io::Error::new(io::ErrorKind::TimedOut, why));
        }
        if waited >= TOLD_AFTER && !std::mem::replace(&mut is_told, true) {
            tracing::warn!("waiting for {}, which {} holds", path.display(), holder(file));
        }
        std::thread::sleep(pause.min(patience.saturating_sub(waited)));
        pause = (pause * 2).min(PAUSES.1);
    }
}

/// The process that holds a lock on a file, according to `/proc/locks` (proc_locks(5)) and `/proc/PID/stat`
/// (proc_pid_stat(5)).
fn holder(file: &File) -> String {
    let unknown = "another process".to_owned();
    let (Ok(metadata), Ok(locks)) = (file.metadata(), std::fs::read_to_string("/proc/locks")) else {
        return unknown;
    };
    let Some(pid) = locks.lines().find_map(|line| pid_of(line, metadata.ino())) else { return unknown };
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let name = stat.split_once('(').and_then(|(_, rest)| rest.rsplit_once(')'));
    match name {
        Some((name, rest)) => {
            let name: String = name.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
            let state = if rest.trim_start().starts_with(['T', 't']) { ", which is stopped" } else { "" };
            format!("process {pid} ({name}){state}")
        }
        None => format!("process {pid}"),
    }
}

/// The process of a line of `/proc/locks` that is a flock on an inode: `1: FLOCK  ADVISORY  WRITE 708 fe:00:1234 0 EOF`.
fn pid_of(line: &str, inode: u64) -> Option<u32> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [_, "FLOCK", _, _, pid, place, ..] = words.as_slice() else { return None };
    (place.rsplit(':').next()?.parse() == Ok(inode)).then(|| pid.parse().ok().filter(|pid| *pid > 0))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_waited_for_only_so_long_and_its_holder_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let open = || File::options().create(true).truncate(false).write(true).open(&path).unwrap();
        let (first, second) = (open(), open());
        lock(&first, &path, true, Duration::ZERO).unwrap();
        lock(&second, &path, true, Duration::ZERO).unwrap();
        let error = lock(&second, &path, false, Duration::from_millis(30)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
        let wait = std::thread::spawn(move || lock(&second, &path, false, Duration::from_secs(20)));
        std::thread::sleep(Duration::from_millis(20));
        drop(first);
        wait.join().unwrap().unwrap();
    }

    #[test]
    fn lines_of_locks() {
        assert_eq!(pid_of("1: FLOCK  ADVISORY  WRITE 708 fe:00:1234 0 EOF", 1234), Some(708));
        assert_eq!(pid_of("1: FLOCK  ADVISORY  WRITE 708 fe:00:1234 0 EOF", 234), None);
        assert_eq!(pid_of("1: -> FLOCK  ADVISORY  WRITE 709 fe:00:1234 0 EOF", 1234), None);
        assert_eq!(pid_of("2: POSIX  ADVISORY  WRITE 708 fe:00:1234 0 EOF", 1234), None);
    }
}
