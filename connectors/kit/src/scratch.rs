//! The ground of scratch servers: a private folder for each drill, the programs that run in it, and the end of both, also after
//! a drill that was killed.
//!
//! A server of a drill has its working folder in the drill's folder. By this it is found again, whatever happened to the esker
//! that started it: no number of a process is written down, which could be another one's by then.

use crate::child::{self, Role, Running};
use chunkstore::private;
use engine::{Error, Result};
use rustix::process::{Pid, Signal, geteuid, kill_process};
use std::fs::{DirBuilder, DirEntry, File, Metadata, Permissions, TryLockError};
use std::io::Read as _;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// An assertion may take so long.
pub const PATIENCE: Duration = Duration::from_secs(300);
/// A process that was told to end is waited for so long.
const ENDING: Duration = Duration::from_secs(20);
/// A server is waited for so long until it answers.
const STARTUP: Duration = Duration::from_secs(120);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(20);
/// The file whose lock says that a drill is at work.
const LOCK: &str = "lock";
/// What is in a drill's folder.
const ROOMS: [&str; 3] = [LOCK, "files", "server"];
/// Bytes of a log's end that are told.
const SAID: u64 = 2 << 10;

/// Where drills of root are: some servers refuse to run as root, and another user cannot reach root's own folders. It
/// survives a restart, and is on a disk.
const OF_ROOT: &str = "/var/tmp/esker-drills";
/// The users whom servers run as where root starts them.
const DRILL: &str = "esker-drill";
const NOBODY: &str = "nobody";

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

/// A user that servers run as: number, and that of the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User {
    uid: u32,
    gid: u32,
}

impl User {
    /// The one of scratch servers: [`DRILL`] if there is one, else nobody; `None` if this is not root. Never the user of a server
    /// that may be in use: code of a dump runs as its server, and would have that one's files, and its logins by the name of the
    /// user.
    #[must_use]
    pub fn of_servers() -> Option<Self> {
        if !geteuid().is_root() {
            return None;
        }
        let all = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        [DRILL, NOBODY].iter().find_map(|name| Self::named(name, &all))
    }

    /// A line of `passwd(5)`.
    fn named(name: &str, all: &str) -> Option<Self> {
        let line = all.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        let mut fields = line.split(':').skip(1);
        Some(Self { uid: fields.next()?.parse().ok()?, gid: fields.next()?.parse().ok()? })
    }

    /// Gives a file or folder to it.
    ///
    /// # Errors
    /// Of the system.
    pub fn give(self, path: &Path) -> Result<()> {
        let given = chown(path, Some(self.uid), Some(self.gid));
        given.map_err(|error| Error::Invalid(format!("{}: {error}", path.display())))
    }

    /// Has a program run as it, without any other group.
    pub fn run(self, command: &mut Command) {
        command.uid(self.uid).gid(self.gid);
    }
}

/// The folder of one drill. Dropped, it is gone with all that runs in it.
pub struct Ground {
    folder: PathBuf,
    _lock: File,
}

impl Ground {
    /// A new folder `name` in `root`, after the remains of drills that were killed have been removed from there.
    ///
    /// # Errors
    /// If it cannot be made, or what was left cannot be removed.
    pub fn new(root: &Path, name: &str) -> Result<Self> {
        let failed = |error: std::io::Error| Error::Invalid(format!("{}: {error}", root.display()));
        clear(root)?;
        let folder = root.join(name);
        DirBuilder::new().mode(mode()).create(&folder).map_err(failed)?;
        // Whatever the umask is.
        std::fs::set_permissions(&folder, Permissions::from_mode(mode())).map_err(failed)?;
        let lock = private::create(&folder.join(LOCK)).map_err(failed)?;
        lock.try_lock().map_err(|error| Error::Invalid(format!("{}: {error}", folder.display())))?;
        Ok(Self { folder, _lock: lock })
    }

    /// A new folder in it.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn room(&self, name: &str) -> Result<PathBuf> {
        let room = self.folder.join(name);
        private::folder(&room).map_err(|error| Error::Invalid(format!("{}: {error}", room.display())))?;
        Ok(room)
    }

    /// Ends all that runs in it, and removes it.
    ///
    /// # Errors
    /// What is left.
    pub fn remove(self) -> Result<()> {
        remove(&self.folder)
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.folder) {
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
/// alone, and so is what is none.
///
/// # Errors
/// What cannot be ended or removed.
pub fn clear(root: &Path) -> Result<()> {
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
            _ => remove(&folder)?,
        }
    }
    Ok(())
}

/// Whether a folder has nothing that a drill does not make.
fn has_only_rooms(folder: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(folder) else { return false };
    entries.flatten().all(|entry| entry.file_name().to_str().is_some_and(|name| ROOMS.contains(&name)))
}

fn remove(folder: &Path) -> Result<()> {
    let began = Instant::now();
    loop {
        let running = at_work(folder);
        if running.is_empty() {
            break;
        }
        if began.elapsed() > ENDING {
            let shown: Vec<String> = running.iter().map(|pid| pid.as_raw_nonzero().to_string()).collect();
            let why =
                format!("processes of a drill do not end: {}, in {}", shown.join(", "), folder.display());
            return Err(Error::Invalid(why));
        }
        for pid in running {
            // It may have ended by now.
            let _ = kill_process(pid, Signal::KILL);
        }
        std::thread::sleep(PAUSE);
    }
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::Invalid(format!("{}: {error}", folder.display())))
        }
        _ => Ok(()),
    }
}

/// Processes whose working folder is `folder` or in it (`proc(5)`: a process that has ended and was not waited for has none).
fn at_work(folder: &Path) -> Vec<Pid> {
    let Ok(all) = std::fs::read_dir("/proc") else { return vec![] };
    let is_in_it = |pid: &Pid| {
        let link = format!("/proc/{}/cwd", pid.as_raw_nonzero());
        std::fs::read_link(link).is_ok_and(|place| place.starts_with(folder))
    };
    let numbers = all.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbers.filter_map(Pid::from_raw).filter(is_in_it).collect()
}

/// A port of this machine that nobody listens at.
///
/// # Errors
/// If there is none.
pub fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    let port = listener.and_then(|listener| listener.local_addr()).map(|address| address.port());
    port.map_err(|error| Error::Invalid(format!("no port for a scratch server: {error}")))
}

/// A program on `path`, the first of these names that is there.
#[must_use]
pub fn find(names: &[&str], path: Option<&str>) -> Option<PathBuf> {
    let folders = || std::env::split_paths(path.unwrap_or_default());
    names.iter().find_map(|name| folders().map(|folder| folder.join(name)).find(|program| program.is_file()))
}

/// A server that was started for a drill. Dropped, it is killed.
pub struct Process {
    running: Running,
    name: String,
    log: PathBuf,
    has_ended: bool,
}

impl Process {
    /// Starts it in `folder`, with what it says in a file there.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(command: &mut Command, folder: &Path) -> Result<Self> {
        let program = Path::new(command.get_program());
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let log = folder.join("log");
        let failed = |error: std::io::Error| Error::Invalid(format!("{name}: {error}"));
        let file = private::create(&log).map_err(failed)?;
        let other = file.try_clone().map_err(failed)?;
        command.current_dir(folder).stdout(Stdio::from(file)).stderr(Stdio::from(other));
        let running = child::spawn(command, Role::Tool).map_err(failed)?;
        Ok(Self { running, name, log, has_ended: false })
    }

    /// Its standard input, once.
    pub fn stdin(&mut self) -> Option<std::process::ChildStdin> {
        self.running.stdin.take()
    }

    /// Waits until it answers.
    ///
    /// # Errors
    /// That it ended, with its last words, or does not answer, with the last refusal; or that the user has had enough.
    pub fn until_it_answers<E: std::fmt::Display>(
        &mut self,
        stop: &Arc<AtomicBool>,
        mut asks: impl FnMut() -> std::result::Result<(), E>,
    ) -> Result<()> {
        let began = Instant::now();
        loop {
            if stop.load(Ordering::Relaxed) {
                return Err(Error::Interrupted);
            }
            let why = match asks() {
                Ok(()) => return Ok(()),
                Err(why) => why,
            };
            match self.running.try_wait() {
                Ok(Some(status)) => {
                    self.has_ended = true;
                    let said = self.said();
                    return Err(Error::Invalid(format!(
                        "{} ended at its start ({status}): {said}",
                        self.name
                    )));
                }
                _ if began.elapsed() > STARTUP => {
                    let seconds = STARTUP.as_secs();
                    return Err(Error::Invalid(format!(
                        "{} does not answer after {seconds} s: {why}",
                        self.name
                    )));
                }
                _ => std::thread::sleep(PAUSE),
            }
        }
    }

    /// The end of what it said.
    fn said(&self) -> String {
        let read = || -> std::io::Result<String> {
            let mut file = File::open(&self.log)?;
            let len = file.metadata()?.len();
            std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(len.saturating_sub(SAID)))?;
            let mut bytes = vec![];
            file.take(SAID).read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
        };
        let said = read().unwrap_or_default();
        if said.is_empty() { "it said nothing".into() } else { engine::shown::line(&said).into_owned() }
    }

    /// Ends it by a signal, and waits for it.
    ///
    /// # Errors
    /// That it does not end; then it was killed.
    pub fn stop(&mut self, signal: Signal) -> Result<()> {
        if std::mem::replace(&mut self.has_ended, true) {
            return Ok(());
        }
        let began = Instant::now();
        if let Some(pid) = i32::try_from(self.running.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, signal);
        }
        while began.elapsed() < ENDING {
            if !matches!(self.running.try_wait(), Ok(None)) {
                return Ok(());
            }
            std::thread::sleep(PAUSE);
        }
        self.kill();
        Err(Error::Invalid(format!("{} did not end after {} s, and was killed", self.name, ENDING.as_secs())))
    }

    fn kill(&mut self) {
        let _ = self.running.kill();
        let _ = self.running.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.has_ended {
            self.kill();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper(folder: &Path) -> Process {
        let mut command = Command::new("/bin/sleep");
        Process::start(command.arg("1000").stdin(Stdio::null()), folder).unwrap()
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
        assert!(goes.running.wait().unwrap().code().is_none(), "killed");
        assert!(stays.running.try_wait().unwrap().is_none());
        another.remove().unwrap();
        stays.stop(Signal::TERM).unwrap();
        drop(at_work_now);
        assert_eq!(std::fs::read_dir(&root).unwrap().count(), 4);
    }

    #[test]
    fn a_server_that_ends_at_its_start_says_why() {
        let root = tempfile::tempdir().unwrap();
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "echo no such option >&2; exit 3"]).stdin(Stdio::null());
        let mut process = Process::start(&mut command, root.path()).unwrap();
        let failed = process.until_it_answers(&Arc::default(), || Err::<(), _>("refused")).unwrap_err();
        let failed = failed.to_string();
        assert!(failed.contains("sh ended at its start") && failed.contains("no such option"), "{failed}");
    }
}
