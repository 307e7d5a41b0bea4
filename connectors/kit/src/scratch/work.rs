//! Processes of a drill. They are found by what they are, whatever happened to the esker that started them, and whatever
//! group or session they are in: no number of a process is written down, which could be another one's by then.

use super::User;
use engine::{Error, Result};
use rustix::process::{Pid, WaitOptions, geteuid, getpid, set_child_subreaper, waitpid};
use std::fs::File;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// The variable that programs of a drill have: its folder. What they start has it, too.
pub const VARIABLE: &str = "ESKER_DRILL";
/// Bytes of an environment that are looked at: what a program gets at its start is no longer, unless somebody raised the
/// limit of stacks (`execve(2)`).
const ENVIRONMENT: u64 = 2 << 20;
/// The capability to look at processes of other users: `CAP_SYS_PTRACE` (`capabilities(7)`).
const PTRACE: u32 = 19;

/// A process as `/proc` has it.
#[derive(Clone, Copy)]
struct Process(Pid);

impl Process {
    fn file(self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.0.as_raw_nonzero()))
    }

    fn read(self, name: &str) -> Vec<u8> {
        let mut bytes = vec![];
        // It may have ended, or be another user's.
        let _ = File::open(self.file(name)).and_then(|file| file.take(ENVIRONMENT).read_to_end(&mut bytes));
        bytes
    }

    /// Whether a program of the drill started it, or something that one started.
    fn has_variable(self, folder: &Path) -> bool {
        let own = [VARIABLE.as_bytes(), b"=", folder.as_os_str().as_bytes()].concat();
        self.read("environ").split(|byte| *byte == 0).any(|variable| variable == own)
    }

    /// Whether it has its working folder, its root or an open file in the drill's folder, as a server has it in its data
    /// directory. A process that has ended and was not waited for has none of them (`proc(5)`).
    fn works_in(self, folder: &Path) -> bool {
        let is_in = |link: PathBuf| std::fs::read_link(link).is_ok_and(|place| place.starts_with(folder));
        let open = || std::fs::read_dir(self.file("fd")).into_iter().flatten().flatten();
        ["cwd", "root"].into_iter().any(|name| is_in(self.file(name)))
            || open().any(|file| is_in(file.path()))
    }

    /// Whether it is of the user that servers run as: others may look at what is in the folder.
    fn is_of_servers(self) -> bool {
        let user = User::of_servers().map_or(geteuid().as_raw(), User::uid);
        std::fs::metadata(self.file("")).is_ok_and(|process| process.uid() == user)
    }

    /// Whether it has ended and was not waited for, and its parent. Source: `proc_pid_stat(5)`.
    fn state(self) -> Option<(bool, Option<Pid>)> {
        let stat = self.read("stat");
        // The name, in brackets, may have any byte.
        let end = memchr::memrchr(b')', &stat)?;
        let rest = std::str::from_utf8(stat.get(end + 1..)?).ok()?;
        let mut fields = rest.split_ascii_whitespace();
        let has_ended = fields.next()? == "Z";
        Some((has_ended, fields.next()?.parse().ok().and_then(Pid::from_raw)))
    }
}

fn all() -> Result<impl Iterator<Item = Process>> {
    let all = std::fs::read_dir("/proc").map_err(|error| {
        Error::Invalid(format!("processes of a drill cannot be looked for: /proc: {error}"))
    })?;
    let numbers = all.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    Ok(numbers.filter_map(Pid::from_raw).filter(|pid| *pid != getpid()).map(Process))
}

/// Processes of the drill in `folder`, but this one.
///
/// # Errors
/// `/proc` cannot be read.
pub(super) fn of(folder: &Path) -> Result<Vec<Pid>> {
    let belongs = |one: &Process| one.has_variable(folder) || one.is_of_servers() && one.works_in(folder);
    Ok(all()?.filter(belongs).map(|one| one.0).collect())
}

/// From now on, what programs of this process leave behind is a child of this process (`PR_SET_CHILD_SUBREAPER`,
/// `prctl(2)`), also if it left its group, its session and its folder.
pub(super) fn adopt() -> Result<()> {
    set_child_subreaper(Some(getpid())).map_err(|error| Error::Invalid(format!("prctl: {error}")))
}

/// Children of this process.
///
/// # Errors
/// `/proc` cannot be read.
pub(super) fn children() -> Result<Vec<Pid>> {
    let own = getpid();
    let is_child = |one: &Process| one.state().is_some_and(|(_, parent)| parent == Some(own));
    Ok(all()?.filter(is_child).map(|one| one.0).collect())
}

/// Children of this process but `others`; those of them that have ended are waited for.
///
/// # Errors
/// `/proc` cannot be read.
pub(super) fn left_behind(others: &[Pid]) -> Result<Vec<Pid>> {
    let new = children()?.into_iter().filter(|pid| !others.contains(pid));
    let has_ended = |pid: Pid| Process(pid).state().is_none_or(|(has_ended, _)| has_ended);
    // One whose first thread has ended and others run cannot be waited for yet.
    let is_gone = |pid: Pid| matches!(waitpid(Some(pid), WaitOptions::NOHANG), Ok(Some(_)));
    Ok(new.filter(|pid| !has_ended(*pid) || !is_gone(*pid)).collect())
}

/// Whether processes of scratch servers cannot be looked at: they are another user's, and this one may not
/// (`ptrace(2)`, "Ptrace access mode checking"; the mount option `hidepid`).
pub(super) fn is_blind() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    User::of_servers().is_some() && !may_look(&status)
}

/// Whether a process with this status may look at processes of other users.
fn may_look(status: &str) -> bool {
    let all = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let all = all.and_then(|all| u64::from_str_radix(all.trim(), 16).ok()).unwrap_or_default();
    all & 1 << PTRACE != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_look_at_others() {
        assert!(may_look("Name:\tesker\nCapEff:\t000001ffffffffff\n"));
        assert!(!may_look("CapPrm:\t000001ffffffffff\nCapEff:\t000001fffff7ffff\n") && !may_look(""));
    }
}
