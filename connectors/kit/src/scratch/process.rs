//! Programs of a drill: how they are run, and the end of them.

use super::{PAUSE, User, VARIABLE};
use crate::child::{self, Role, Running};
use chunkstore::private;
use engine::{Error, Result};
use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A process that was told to end is waited for so long.
const ENDING: Duration = Duration::from_secs(20);
/// A server is waited for so long until it answers.
const STARTUP: Duration = Duration::from_secs(120);
/// Bytes of a log's end that are told.
const SAID: u64 = 2 << 10;

/// A program that works in `room`, a folder of a drill's folder, as `user`. It and what it starts are found by a variable.
#[must_use]
pub fn command(
    program: &Path,
    environment: &BTreeMap<String, String>,
    room: &Path,
    user: Option<User>,
) -> Command {
    let mut command = child::command(program, environment);
    command.current_dir(room).env(VARIABLE, room.parent().unwrap_or(room));
    if let Some(user) = user {
        user.run(&mut command);
    }
    command
}

/// What a server says, in a file of its folder.
pub struct Log(File);

impl Log {
    /// A new one, while the folder is this user's: in that of another user, the name could be a link.
    ///
    /// # Errors
    /// It is there, or cannot be made.
    pub fn new(folder: &Path) -> Result<Self> {
        let path = folder.join("log");
        private::new(&path).map(Self).map_err(|error| Error::Invalid(format!("{}: {error}", path.display())))
    }
}

/// A server that was started for a drill. Dropped, it is killed.
pub struct Process {
    running: Running,
    name: String,
    log: File,
    has_ended: bool,
}

impl Process {
    /// Starts it, with what it says in `log`.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(command: &mut Command, log: Log) -> Result<Self> {
        let program = Path::new(command.get_program());
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let failed = |error: std::io::Error| Error::Invalid(format!("{name}: {error}"));
        let Log(log) = log;
        let both = log.try_clone().and_then(|out| Ok((out, log.try_clone()?))).map_err(failed)?;
        command.stdout(Stdio::from(both.0)).stderr(Stdio::from(both.1));
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

    /// The end of what it said. Of the file that it was given: a name in its folder is its own to change.
    fn said(&self) -> String {
        let read = || -> std::io::Result<String> {
            let len = self.log.metadata()?.len();
            let mut bytes = vec![0; usize::try_from(len.min(SAID)).unwrap_or_default()];
            self.log.read_exact_at(&mut bytes, len.saturating_sub(SAID))?;
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

    #[cfg(test)]
    pub(super) fn wait(&mut self) -> std::process::ExitStatus {
        self.has_ended = true;
        self.running.wait().unwrap()
    }

    #[cfg(test)]
    pub(super) fn is_running(&mut self) -> bool {
        self.running.try_wait().unwrap().is_none()
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

    #[test]
    fn a_server_that_ends_at_its_start_says_why() {
        let root = tempfile::tempdir().unwrap();
        let mut command = command(Path::new("/bin/sh"), &BTreeMap::new(), root.path(), None);
        // Whatever it makes of its log's name, what it said is told.
        command.args(["-c", "echo no such option >&2; ln -sf /etc/passwd log; exit 3"]);
        let mut process = Process::start(&mut command, Log::new(root.path()).unwrap()).unwrap();
        let failed = process.until_it_answers(&Arc::default(), || Err::<(), _>("refused")).unwrap_err();
        let failed = failed.to_string();
        assert!(failed.contains("sh ended at its start") && failed.contains("no such option"), "{failed}");
        assert!(Log::new(root.path()).is_err());
    }
}
