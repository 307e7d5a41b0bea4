//! The folder of a drill: private, locked while the drill is at work, and removed after it, by the next drill if it was killed.

use super::{PAUSE, work};
use chunkstore::private;
use engine::{Error, Result};
use rustix::process::{Pid, Signal, geteuid, kill_process};
use std::fs::{DirBuilder, DirEntry, File, Metadata, Permissions, TryLockError};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A server has so long to free what only it can: PostgreSQL's shared memory outlives a server that is killed.
const ORDERLY: Duration = Duration::from_secs(3);
/// A process that is killed is waited for so long.
const ENDING: Duration = Duration::from_secs(20);
/// The file whose lock says that a drill is at work.
const LOCK: &str = "lock";
/// What is in a drill's folder.
const ROOMS: [&str; 3] = [LOCK, "files", "server"];

/// Where drills of root are: some servers refuse to run as root, and another user cannot reach root's own folders. It
/// survives a restart, and is on a disk.
const OF_ROOT: &str = "/var/tmp/esker-drills";
/// The folder of drills in one that the user names, which may hold anything else.
const WITHIN: &str = "esker-drills";
/// Bytes of a drill's name, which is written as hexadecimal digits. Nothing with another name is ever removed.
pub const NAME_LEN: usize = 8;

/// Where the folders of drills are: in a folder of its own in `given`, if the user says so; else in `own`, which is a folder of
/// this user's, and of root where other users can pass through.
///
/// # Errors
/// It cannot be made, or somebody else made it or may write there.
pub fn root(given: Option<&Path>, own: &Path) -> Result<PathBuf> {
    let is_root = geteuid().is_root();
    let folder = match given {
        Some(given) => &given.join(WITHIN),
        None if is_root => Path::new(OF_ROOT),
        None => own,
    };
    let failed = |why: String| Error::Invalid(format!("{}: {why}", folder.display()));
    let is_others = |found: &Metadata| found.uid() != geteuid().as_raw() || found.mode() & 0o022 != 0;
    // Whoever may exchange it could have another folder cleared.
    if let Some(Ok(above)) = folder.parent().map(std::fs::metadata)
        && above.mode() & 0o022 != 0
        && above.mode() & 0o1000 == 0
    {
        return Err(failed("others may write to the folder that it is in".into()));
    }
    if std::fs::symlink_metadata(folder).is_ok_and(|found| found.is_symlink() || is_others(&found)) {
        return Err(failed(
            "somebody else made it, or it is a link: a drill needs a folder of its own user's".into(),
        ));
    }
    match DirBuilder::new().recursive(true).mode(mode()).create(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(failed(error.to_string()));
        }
        _ => {}
    }
    // As the kernel names it: a server's working folder is compared with it.
    let folder_there = folder.canonicalize().map_err(|error| failed(error.to_string()))?;
    let found = std::fs::symlink_metadata(&folder_there).map_err(|error| failed(error.to_string()))?;
    if !found.is_dir() || is_others(&found) {
        return Err(failed(
            "others made it or may write there: a drill needs a folder of its own user's".into(),
        ));
    }
    Ok(folder_there)
}

/// The mode of folders of drills: each room in them belongs to one user alone, which is another one than root.
fn mode() -> u32 {
    if geteuid().is_root() { 0o711 } else { private::FOLDER }
}

/// The folder of one drill. Dropped, it is gone with all that runs in it.
pub struct Ground {
    root: PathBuf,
    folder: PathBuf,
    /// Children that this process had before it adopted others, if it does.
    others: Option<Vec<Pid>>,
    _lock: File,
}

impl Ground {
    /// A new folder `name` in `root`, after the remains of drills that were killed have been removed from there. Two that are
    /// made at once wait for each other: a folder that has no lock yet is never taken for one that was left.
    ///
    /// # Errors
    /// If it cannot be made, or what was left cannot be removed.
    pub fn new(root: &Path, name: &str) -> Result<Self> {
        let failed = |error: std::io::Error| Error::Invalid(format!("{}: {error}", root.display()));
        let gate = gate(root)?;
        clear(root, &gate)?;
        let folder = root.join(name);
        DirBuilder::new().mode(mode()).create(&folder).map_err(failed)?;
        // Whatever the umask is.
        std::fs::set_permissions(&folder, Permissions::from_mode(mode())).map_err(failed)?;
        let lock = private::new(&folder.join(LOCK)).map_err(failed)?;
        lock.try_lock().map_err(|error| Error::Invalid(format!("{}: {error}", folder.display())))?;
        Ok(Self { root: root.to_owned(), folder, others: None, _lock: lock })
    }

    /// Has this process adopt whatever programs of the drill leave behind: a server that became a daemon, and what code of a
    /// dump started. At the end, all children go that it did not have now: meanwhile it starts nothing else.
    ///
    /// # Errors
    /// Of the system.
    pub fn adopt(&mut self) -> Result<()> {
        work::adopt()?;
        self.others = Some(work::children()?);
        Ok(())
    }

    /// Where it is.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A new folder in it.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn room(&self, name: &str) -> Result<PathBuf> {
        let room = self.folder.join(name);
        let made = DirBuilder::new().mode(private::FOLDER).create(&room);
        made.map_err(|error| Error::Invalid(format!("{}: {error}", room.display())))?;
        Ok(room)
    }

    /// Ends all that runs in it, and removes it.
    ///
    /// # Errors
    /// What is left.
    pub fn remove(self) -> Result<()> {
        self.end()
    }

    fn end(&self) -> Result<()> {
        let adopted = || self.others.as_deref().map_or_else(|| Ok(vec![]), work::left_behind);
        // Its server was stopped in order, if it could be.
        end(&self.folder, adopted, Duration::ZERO)?;
        // Another drill, which would find it half removed, waits.
        let _gate = gate(&self.root)?;
        remove(&self.folder)
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            tracing::warn!(%error, "a drill leaves something behind");
        }
    }
}

/// Whether an entry of a folder of drills is a drill's folder.
fn is_drill(entry: &DirEntry) -> bool {
    let name = entry.file_name();
    let name = name.to_str().unwrap_or_default();
    name.len() == 2 * NAME_LEN
        && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        && entry.file_type().is_ok_and(|kind| kind.is_dir())
}

/// Ends what drills that were killed left running below `root`, and removes their folders. Drills that are at work are left
/// alone, and so is what is none. No other drill begins meanwhile.
///
/// # Errors
/// What cannot be ended or removed.
fn clear(root: &Path, _gate: &Gate) -> Result<()> {
    let failed = |error: std::io::Error| Error::Invalid(format!("{}: {error}", root.display()));
    for entry in std::fs::read_dir(root).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if !is_drill(&entry) {
            continue;
        }
        let folder = entry.path();
        if !has_only_rooms(&folder) {
            continue;
        }
        match File::options().write(true).open(folder.join(LOCK)).map(|lock| lock.try_lock()) {
            Ok(Err(TryLockError::WouldBlock)) => {}
            // Without a lock, it was killed before it had one.
            _ => {
                if work::is_blind() {
                    return Err(Error::Invalid(format!(
                        "{} is of a drill that was killed, and without the capability CAP_SYS_PTRACE nobody sees whether \
                         its server still runs: end that, and remove the folder",
                        folder.display()
                    )));
                }
                end(&folder, || Ok(vec![]), ORDERLY)?;
                remove(&folder)?;
            }
        }
    }
    Ok(())
}

/// The folder of drills, locked: whoever has it may make, and remove, folders in it.
struct Gate(#[expect(dead_code, reason = "its lock is what counts")] File);

fn gate(root: &Path) -> Result<Gate> {
    let locked = File::open(root).and_then(|folder| folder.lock().map(|()| Gate(folder)));
    locked.map_err(|error| Error::Invalid(format!("{}: {error}", root.display())))
}

/// Whether a folder has nothing that a drill does not make.
fn has_only_rooms(folder: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(folder) else { return false };
    entries.flatten().all(|entry| entry.file_name().to_str().is_some_and(|name| ROOMS.contains(&name)))
}

/// Ends all processes of the drill in `folder`, and `others`: they are told to end at once (SIGQUIT), and killed if they have not
/// done so within `orderly`.
/// Source: PostgreSQL's documentation, "Shutting Down the Server": SIGQUIT, and what SIGKILL leaves behind.
fn end(folder: &Path, others: impl Fn() -> Result<Vec<Pid>>, orderly: Duration) -> Result<()> {
    let began = Instant::now();
    let mut told = vec![];
    loop {
        let running = [work::of(folder)?, others()?].concat();
        if running.is_empty() {
            return Ok(());
        }
        if began.elapsed() > orderly + ENDING {
            let shown: Vec<String> = running.iter().map(|pid| pid.as_raw_nonzero().to_string()).collect();
            let why =
                format!("processes of a drill do not end: {}, in {}", shown.join(", "), folder.display());
            return Err(Error::Invalid(why));
        }
        let is_orderly = began.elapsed() < orderly;
        for pid in running {
            // Any may have ended by now; and a second SIGQUIT would say nothing new.
            if !is_orderly {
                let _ = kill_process(pid, Signal::KILL);
            } else if !told.contains(&pid) {
                let _ = kill_process(pid, Signal::QUIT);
                told.push(pid);
            }
        }
        std::thread::sleep(PAUSE);
    }
}

fn remove(folder: &Path) -> Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::Invalid(format!("{}: {error}", folder.display())))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Log, Process, User, command};
    use super::*;
    use std::collections::BTreeMap;

    /// A program in a room that it can reach, run as the user of servers.
    fn started(room: &Path, words: &[&str]) -> Process {
        for above in room.ancestors().skip(1).take(2) {
            std::fs::set_permissions(above, Permissions::from_mode(0o755)).unwrap();
        }
        let (log, user) = (Log::new(room).unwrap(), User::of_servers());
        if let Some(user) = user {
            user.give(room, &[]).unwrap();
        }
        let mut command = command(Path::new(words[0]), &BTreeMap::new(), room, user);
        Process::start(command.args(&words[1..]), log).unwrap()
    }

    fn sleeper(room: &Path) -> Process {
        started(room, &["/bin/sleep", "1000"])
    }

    #[test]
    fn what_a_killed_drill_left_goes_and_what_is_at_work_stays() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        let (now, left, bare) = ("00000000000000aa", "00000000000000ab", "00000000000000ac");
        // What is no drill's is none of ours.
        for other in ["photos", "00000000000000AD", "00000000000000ad0"] {
            private::folder(&root.join(other)).unwrap();
        }
        private::write(&root.join("00000000000000ae"), b"a file").unwrap();
        let at_work_now = Ground::new(&root, now).unwrap();
        let mut stays = sleeper(&at_work_now.room("server").unwrap());
        // As one that was killed leaves it: no lock is held, and its server runs on.
        let room = root.join(left).join("server");
        private::folder(&room).unwrap();
        let mut goes = sleeper(&room);
        private::create(&root.join(left).join(LOCK)).unwrap();
        private::folder(&root.join(bare)).unwrap();
        let another = Ground::new(&root, "00000000000000af").unwrap();
        assert!(!root.join(left).exists() && !root.join(bare).exists());
        assert!(goes.wait().code().is_none(), "killed");
        assert!(stays.is_running());
        another.remove().unwrap();
        stays.stop(Signal::TERM).unwrap();
        drop(at_work_now);
        assert_eq!(std::fs::read_dir(&root).unwrap().count(), 4);
    }

    #[test]
    fn a_server_that_was_left_may_end_in_order() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        let room = root.join("00000000000000ab/server");
        private::folder(&room).unwrap();
        let server = "trap 'exit 7' QUIT; touch ready; while :; do sleep 0.1; done";
        let mut goes = started(&room, &["/bin/sh", "-c", server]);
        let began = Instant::now();
        while !room.join("ready").exists() {
            assert!(began.elapsed() < Duration::from_secs(20));
            std::thread::sleep(PAUSE);
        }
        drop(Ground::new(&root, "00000000000000ac").unwrap());
        assert_eq!(goes.wait().code(), Some(7));
        assert!(!room.exists());
    }

    /// What left the group, the session and the folder has its variable, or a file of the drill.
    #[test]
    fn a_daemon_that_a_killed_drill_left_is_found() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        let room = root.join("00000000000000ab/server");
        private::folder(&room).unwrap();
        let daemons =
            "for how in 'cd /; exec sleep 1000' 'exec 3>>data; cd /; exec env -i /bin/sleep 1000'; do
            setsid sh -c \"echo \\$\\$ >>daemons; $how\" </dev/null >/dev/null 2>&1 & done; wait";
        let mut shell = started(&room, &["/bin/sh", "-c", daemons]);
        let numbers = || -> Vec<String> {
            let text = std::fs::read_to_string(room.join("daemons")).unwrap_or_default();
            text.lines().map(str::to_owned).collect()
        };
        let began = Instant::now();
        let runs = |number: &String| {
            let said = std::fs::read(format!("/proc/{number}/cmdline")).unwrap_or_default();
            [&b"sleep\0"[..], b"/bin/sleep\0"].iter().any(|program| said.starts_with(program))
        };
        while numbers().len() < 2 || !numbers().iter().all(runs) {
            assert!(began.elapsed() < Duration::from_secs(20), "{:?}", numbers());
            std::thread::sleep(PAUSE);
        }
        let all = numbers();
        drop(Ground::new(&root, "00000000000000ac").unwrap());
        assert!(!room.exists() && !all.iter().any(runs), "{all:?}");
        shell.wait();
    }

    /// A folder without a lock may be one that is being made: whoever makes one has the root's lock.
    #[test]
    fn what_is_being_made_is_not_cleared() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        let making = gate(&root).unwrap();
        let half = root.join("00000000000000aa");
        private::folder(&half).unwrap();
        std::thread::scope(|scope| {
            let other = scope.spawn(|| drop(Ground::new(&root, "00000000000000ab").unwrap()));
            std::thread::sleep(Duration::from_millis(500));
            assert!(half.exists() && !other.is_finished());
            drop(making);
            other.join().unwrap();
        });
        assert!(!half.exists(), "nobody makes it any more");
    }

    /// Each makes a folder, and removes the folders of others that nobody has locked.
    #[test]
    fn drills_that_begin_at_once_leave_each_other_alone() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        std::thread::scope(|scope| {
            for one in 0..4 {
                let root = &root;
                scope.spawn(move || {
                    for round in 0..50 {
                        let ground = Ground::new(root, &format!("{:016x}", one * 1000 + round)).unwrap();
                        let room = ground.room("files").unwrap();
                        std::thread::sleep(Duration::from_millis(1));
                        assert!(room.exists());
                        ground.remove().unwrap();
                    }
                });
            }
        });
        assert_eq!(std::fs::read_dir(&root).unwrap().count(), 0);
    }
}
