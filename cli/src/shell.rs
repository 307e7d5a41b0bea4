//! Commands that users wrote down to be run: hooks, password commands, commands that thaw, sources. They run in esker's
//! environment without the secrets that esker itself reads from it, unless one is handed on by name
//! ([`connector_kit::child::withheld`]).

use crate::small;
use chunkstore::threads;
use connector_kit::child;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use std::ffi::{OsStr, OsString};
use std::io::Read as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
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
const LOOK: Duration = Duration::from_millis(100);

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
/// when a signal comes.
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
    let (sender, receiver) = sync_channel(1);
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let started = threads::start("command", move || {
        let told = err.map(|said| child::tell(said, "command".into())).transpose();
        let mut printed = Zeroizing::new(Vec::with_capacity(small::UNMOVED));
        let read = told.and_then(|told| {
            let read = out.map_or(Ok(0), |out| out.take(small::LINE + 1).read_to_end(&mut printed))?;
            if read as u64 <= small::LINE {
                waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT)?;
                drop(told);
            }
            Ok(())
        });
        // Nobody may be waiting any more.
        let _ = sender.send(read.map(|()| printed));
    });
    let ended = started.and_then(|_| {
        loop {
            match receiver.recv_timeout(LOOK) {
                Ok(read) => return read.map(Some),
                Err(RecvTimeoutError::Timeout) if !small::is_stopped() && began.elapsed() < limit => {}
                Err(RecvTimeoutError::Timeout) => {
                    end(Signal::TERM);
                    let _ = receiver.recv_timeout(ENDING);
                    return Ok(None);
                }
                Err(RecvTimeoutError::Disconnected) => return Err(std::io::Error::other("it is not read")),
            }
        }
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
        for rest in ["", "wait", "trap '' TERM; wait"] {
            let line = format!("sleep 1000 & echo $! >{}; {rest}", file.display());
            let began = Instant::now();
            assert!(matches!(shell(&line, Duration::from_millis(500)), Ended::Late), "{line}");
            assert!(began.elapsed() < Duration::from_secs(20));
            let number = std::fs::read_to_string(&file).unwrap();
            let runs = || {
                std::fs::read(format!("/proc/{}/cmdline", number.trim())).is_ok_and(|line| !line.is_empty())
            };
            let began = Instant::now();
            while runs() {
                assert!(began.elapsed() < Duration::from_secs(10), "{line}");
                std::thread::sleep(LOOK);
            }
        }
    }
}
