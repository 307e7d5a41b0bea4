//! Commands that users wrote down to be run: hooks, password commands, commands that thaw, sources. They run in esker's
//! environment without the secrets that esker itself reads from it, unless one is handed on by name
//! ([`connector_kit::child::withheld`]).

use crate::small;
use connector_kit::child;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use std::ffi::{OsStr, OsString};
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::process::{ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use zeroize::Zeroizing;

/// What a command printed; its memory is wiped when it is dropped.
pub(crate) type Printed = Zeroizing<Vec<u8>>;

/// Variables that such commands do not get, of those that are set. `passed` are handed on.
pub(crate) fn withheld(passed: &[String]) -> Vec<OsString> {
    child::withheld(std::env::vars_os().map(|(name, _)| name), passed)
}

/// A command that was told to end has so long for it.
const ENDING: Duration = Duration::from_secs(1);
/// Between two looks whether a signal came.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// What became of a command that may take only so long and print only so much.
pub(crate) enum Ended {
    /// It ended, with what it printed.
    Itself(ExitStatus, Printed),
    /// It was ended, because its time was over.
    Late,
    /// It was ended, because it printed more than [`small::LINE`] bytes.
    Long,
}

/// A line for `/bin/sh`.
pub(crate) fn command(line: &OsStr, passed: &[String]) -> Command {
    let mut command = Command::new("/bin/sh");
    command.arg("-c").arg(line);
    for name in withheld(passed) {
        command.env_remove(name);
    }
    command
}

/// A program and its arguments; `None` if there is no word.
pub(crate) fn program(words: &[String], passed: &[String]) -> Option<Command> {
    let (program, arguments) = words.split_first()?;
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    for name in withheld(passed) {
        command.env_remove(name);
    }
    Some(command)
}

/// Runs a command; returns what it printed, of which [`small::LINE`] bytes are taken. What it says on standard error is
/// passed on line by line, and a signal ends the wait, and the command.
pub(crate) fn run(mut command: Command) -> Result<std::io::Result<(ExitStatus, Printed)>, engine::Error> {
    let child = child::spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped()), child::Role::Command);
    let mut child = match child {
        Ok(child) => child,
        Err(error) => return Ok(Err(error)),
    };
    let pid = rustix::process::Pid::from_child(&child);
    let ended = small::interruptible(move || {
        let told = child.stderr.take().map(|said| child::tell(said, "command".into())).transpose();
        let told = told.inspect_err(|_| child::kill(&child))?;
        let mut printed = Zeroizing::new(Vec::with_capacity(small::UNMOVED));
        let read = match child.stdout.take() {
            None => Ok(0),
            Some(stdout) => stdout.take(small::LINE).read_to_end(&mut printed),
        };
        let status = child.wait();
        drop(told);
        read.and_then(|_| Ok((status?, printed)))
    });
    if ended.is_err() {
        // It may be gone already.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
    ended
}

/// Runs a command that has so long. It has a process group of its own: what it started and did not wait for ends with it, also
/// when a signal comes. What left the group and holds its output is not waited for: what it printed by then counts.
pub(crate) fn run_within(
    mut command: Command,
    limit: Duration,
) -> Result<std::io::Result<Ended>, engine::Error> {
    command.process_group(0).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = match child::spawn(&mut command, child::Role::Command) {
        Ok(child) => child,
        Err(error) => return Ok(Err(error)),
    };
    let (pid, began) = (Pid::from_child(&child), Instant::now());
    // It is not waited for before its group has ended: until then the number is its own.
    let end = |signal| {
        let _ = kill_process_group(pid, signal);
    };
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let told = err.map(|said| child::tell(said, "command".into())).transpose();
    let opened = told.and_then(|told| Ok((told, Watched::new(pid, out)?)));
    let ended = opened.and_then(|(told, mut watched)| {
        while !watched.has_ended() && !watched.is_long() {
            if small::is_stopped() || began.elapsed() >= limit {
                end(Signal::TERM);
                watched.until(Instant::now() + ENDING, Watched::has_ended)?;
                end(Signal::KILL);
                return Ok(None);
            }
            watched.look()?;
        }
        end(Signal::KILL);
        if !watched.is_long() {
            watched.until(Instant::now() + ENDING, |watched| watched.out.is_none() || watched.is_long())?;
        }
        drop(told);
        Ok(Some(watched.printed))
    });
    end(Signal::KILL);
    let status = child.wait();
    if small::is_stopped() {
        return Err(engine::Error::Interrupted);
    }
    Ok(ended.and_then(|printed| match printed {
        None => Ok(Ended::Late),
        Some(printed) if printed.len() as u64 > small::LINE => Ok(Ended::Long),
        Some(printed) => Ok(Ended::Itself(status?, printed)),
    }))
}

/// A command that runs, and what it prints.
struct Watched {
    /// It can be read when the command has ended (`pidfd_open(2)`); `None` once it has.
    process: Option<OwnedFd>,
    /// `None` behind its end.
    out: Option<ChildStdout>,
    printed: Printed,
    /// What is read at once.
    part: Printed,
}

impl Watched {
    fn new(pid: Pid, out: Option<ChildStdout>) -> std::io::Result<Self> {
        let process = Some(pidfd_open(pid, PidfdFlags::empty())?);
        let printed = Zeroizing::new(Vec::with_capacity(small::UNMOVED));
        Ok(Self { process, out, printed, part: Zeroizing::new(vec![0; small::UNMOVED]) })
    }

    fn has_ended(&self) -> bool {
        self.process.is_none()
    }

    fn is_long(&self) -> bool {
        self.printed.len() as u64 > small::LINE
    }

    /// Looks until something is so, or a moment has come.
    fn until(&mut self, moment: Instant, is_so: impl Fn(&Self) -> bool) -> std::io::Result<()> {
        while !is_so(self) && Instant::now() < moment {
            self.look()?;
        }
        Ok(())
    }

    /// Waits until it prints something or ends, for [`LOOK`] at most. Of what it prints, no more is kept than says that it is
    /// too long.
    fn look(&mut self) -> std::io::Result<()> {
        let is_there = |set: &mut [PollFd<'_>]| match poll(set, Some(&LOOK)) {
            Ok(_) => Ok(set.iter().map(|one| !one.revents().is_empty()).collect::<Vec<bool>>()),
            Err(Errno::INTR) => Ok(vec![]),
            Err(error) => Err(std::io::Error::from(error)),
        };
        let process = self.process.as_ref().map(|process| PollFd::new(process, PollFlags::IN));
        let out = self.out.as_ref().map(|out| PollFd::new(out, PollFlags::IN));
        let (has_process, mut set) = (process.is_some(), process.into_iter().chain(out).collect::<Vec<_>>());
        let mut found = is_there(&mut set)?.into_iter();
        if has_process && found.next() == Some(true) {
            self.process = None;
        }
        if let Some(out) = self.out.as_mut().filter(|_| found.next() == Some(true)) {
            let len = out.read(&mut self.part)?;
            let left = (small::LINE + 1).saturating_sub(self.printed.len() as u64);
            let left = usize::try_from(left).unwrap_or(usize::MAX);
            self.printed.extend_from_slice(self.part.get(..len.min(left)).unwrap_or_default());
            if len == 0 {
                self.out = None;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(line: &str, limit: Duration) -> Ended {
        run_within(command(line.as_ref(), &[]), limit).ok().unwrap().unwrap()
    }

    #[test]
    fn a_command_ends_with_all_that_it_started() {
        let long = Duration::from_secs(60);
        let Ended::Itself(status, printed) = shell("echo a; exit 3", long) else { panic!("it ended") };
        assert_eq!((status.code(), &printed[..]), (Some(3), &b"a\n"[..]));
        assert!(matches!(shell("exec cat /dev/zero", long), Ended::Long));
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("number");
        // One that its shell does not wait for, one that it waits for, and one that ignores what it is told.
        for (rest, is_late) in [("", false), ("wait", true), ("trap '' TERM; wait", true)] {
            let line = format!("sleep 1000 & echo $! >{}; {rest}", file.display());
            let began = Instant::now();
            assert_eq!(matches!(shell(&line, Duration::from_millis(500)), Ended::Late), is_late, "{line}");
            assert!(began.elapsed() < Duration::from_secs(20));
            let number = std::fs::read_to_string(&file).unwrap();
            let runs = || {
                std::fs::read(format!("/proc/{}/cmdline", number.trim())).is_ok_and(|line| !line.is_empty())
            };
            let began = Instant::now();
            while runs() {
                assert!(began.elapsed() < Duration::from_secs(10), "{line}");
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    }

    #[test]
    fn a_daemon_that_holds_the_output_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("number");
        let number = file.display();
        let line = format!(
            "setsid sh -c 'echo $$ >{number}; exec sleep 1000' & while ! test -s {number}; do sleep 0.1; done; echo 7; exit 3"
        );
        let began = Instant::now();
        let ended = shell(&line, Duration::from_secs(60));
        let daemon: i32 = std::fs::read_to_string(&file).unwrap().trim().parse().unwrap();
        let _ = rustix::process::kill_process(Pid::from_raw(daemon).unwrap(), Signal::KILL);
        let Ended::Itself(status, printed) = ended else { panic!("it ended") };
        assert_eq!((status.code(), &printed[..]), (Some(3), &b"7\n"[..]));
        assert!(began.elapsed() < Duration::from_secs(30));
    }
}
