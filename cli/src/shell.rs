//! Commands that users wrote down to be run: hooks, password commands, commands that thaw, sources. They run in esker's
//! environment without the secrets that esker itself reads from it, unless one is handed on by name
//! ([`connector_kit::child::withheld`]).

use crate::small;
use connector_kit::child;
use std::ffi::{OsStr, OsString};
use std::io::Read as _;
use std::process::{Command, ExitStatus, Stdio};
use zeroize::Zeroizing;

/// What a command printed; its memory is wiped when it is dropped.
pub(crate) type Printed = Zeroizing<Vec<u8>>;

/// Variables that such commands do not get, of those that are set. `passed` are handed on.
pub(crate) fn withheld(passed: &[String]) -> Vec<OsString> {
    child::withheld(std::env::vars_os().map(|(name, _)| name), passed)
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
