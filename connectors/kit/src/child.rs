//! Programs of others that esker runs: pg_dump, mariadb-dump and their like. They get an environment of their own, never
//! ours: what we do not say must not decide which server they talk to, which library they load or how they write.
//! Commands that users wrote down get ours, without the secrets that esker reads from it. What programs say on standard
//! error goes to the log line by line, which shows nothing that acts on a terminal. What is kept of what they say has a
//! bound, since a server's words may be among it.

use chunkstore::threads;
use engine::log::{CHILD, ms};
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::{BufRead as _, BufReader, Error, Read, Result};
use std::ops::{Deref, DerefMut};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

mod watch;

pub use watch::{Watch, kill};

/// What of the user's environment every program may see: where programs and temporary files are.
const KEPT: &[&str] = &["PATH", "TMPDIR"];
/// Target of log events that are lines of a program.
pub const SAID: &str = "said";
/// Bytes of a line of a program that are shown.
const LINE: usize = 8 << 10;
/// How long a program that has ended is waited for: what it left running may hold its standard error open.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// What is kept of the beginning and of the end of what a program complains of, in bytes each.
const COMPLAINTS: usize = 64 << 10;
/// What a program may complain of in all, in bytes: then nobody listens any more.
const MAX_COMPLAINTS: u64 = 64 << 20;

/// A command with nothing in its environment but `PATH` and `TMPDIR` of `environment`, a locale in which messages are English and
/// bytes are UTF-8, and no home: option files, start-up files and certificates in `~` are ours to read, or nobody's.
/// Standard input is closed.
#[must_use]
pub fn command(program: impl AsRef<OsStr>, environment: &BTreeMap<String, String>) -> Command {
    let mut command = Command::new(program);
    command.env_clear();
    for name in KEPT {
        if let Some(value) = environment.get(*name) {
            command.env(name, value);
        }
    }
    // Programs that find no HOME ask the user database for it.
    command.env("HOME", "/nonexistent").env("LC_ALL", "C.UTF-8").stdin(Stdio::null());
    command
}

/// Whether a variable holds a secret that esker, or restic in its place, reads: the password of a repository, keys of a
/// store, the password of a database, a token for a key service. What else an environment holds is not esker's to judge.
#[must_use]
pub fn is_secret_variable(name: &OsStr) -> bool {
    let name = String::from_utf8_lossy(name.as_bytes()).to_ascii_uppercase();
    let begins = |starts: &[&str]| starts.iter().any(|start| name.starts_with(start));
    let has = |parts: &[&str]| parts.iter().any(|part| name.contains(part));
    begins(&["AWS_", "AZURE_", "RESTIC_"])
        || (begins(&["ESKER_", "QDRANT_"])
            && has(&["PASSWORD", "KEY_FILE", "API_KEY", "APIKEY", "SECRET", "TOKEN"]))
        || matches!(
            &*name,
            "PGPASSWORD"
                | "MYSQL_PWD"
                | "REDISCLI_AUTH"
                | "VALKEYCLI_AUTH"
                | "BAO_TOKEN"
                | "VAULT_TOKEN"
                | "IDENTITY_HEADER"
        )
}

/// Which of these variables a command that a user wrote down does not get; `passed` are handed on.
#[must_use]
pub fn withheld(names: impl Iterator<Item = OsString>, passed: &[String]) -> Vec<OsString> {
    names.filter(|name| is_secret_variable(name) && !passed.iter().any(|own| name == own.as_str())).collect()
}

/// What a program is to us, which decides what the log says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It dumps, restores or fetches: at info, with its arguments.
    Tool,
    /// It is asked a question or a few: at debug, with its arguments.
    Client,
    /// A user wrote it down: at info, by its name alone, because its arguments may be secrets.
    Command,
}

/// Characters of arguments that are shown.
const ARGUMENTS: usize = 500;

/// A program that runs. When it has been waited for, the log has how it ended and after how long.
pub struct Running {
    child: Child,
    told: Option<Ending>,
}

/// What is still to be told of a program.
struct Ending {
    began: Instant,
    role: Role,
    program: String,
    arguments: Option<String>,
}

impl Ending {
    fn of(command: &Command, role: Role) -> Self {
        let program = std::path::Path::new(command.get_program());
        let program = program.file_name().unwrap_or(command.get_program());
        let arguments = (role != Role::Command).then(|| arguments(command));
        Self {
            began: Instant::now(),
            role,
            program: String::from_utf8_lossy(program.as_bytes()).into(),
            arguments,
        }
    }

    fn tell(self, status: &std::io::Result<ExitStatus>) {
        let Self { began, role, program, arguments } = self;
        let status = match status {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        };
        let ms = ms(began);
        match role {
            Role::Client => tracing::debug!(target: CHILD, program, arguments, status, ms, "program ended"),
            _ => tracing::info!(target: CHILD, program, arguments, status, ms, "program ended"),
        }
    }
}

/// The arguments of a program of ours, as far as they are to be shown.
fn arguments(command: &Command) -> String {
    let all: Vec<String> = command
        .get_args()
        .map(|word| engine::secrets::without_secrets(&String::from_utf8_lossy(word.as_bytes())))
        .collect();
    let all = all.join(" ");
    match all.char_indices().nth(ARGUMENTS) {
        Some((end, _)) => format!("{} …", all.get(..end).unwrap_or_default()),
        None => all,
    }
}

/// Starts a program.
///
/// # Errors
/// If it cannot be started.
pub fn spawn(command: &mut Command, role: Role) -> std::io::Result<Running> {
    let told = Ending::of(command, role);
    if role != Role::Command {
        // A terminal's signals go to esker alone, which ends its programs in order.
        command.process_group(0);
    }
    let child = command.spawn().inspect_err(|error| {
        let program = &*told.program;
        tracing::info!(target: CHILD, program, %error, "program not started");
    })?;
    let (program, pid) = (&*told.program, child.id());
    tracing::debug!(target: CHILD, program, pid, "program started");
    Ok(Running { child, told: Some(told) })
}

/// Runs a program to its end.
///
/// # Errors
/// If it cannot be started.
pub fn output(command: &mut Command, role: Role) -> std::io::Result<Output> {
    let told = Ending::of(command, role);
    let output = command.output().inspect_err(|error| {
        let program = &*told.program;
        tracing::info!(target: CHILD, program, %error, "program not started");
    })?;
    told.tell(&Ok(output.status));
    Ok(output)
}

impl Running {
    /// Waits for it to end.
    ///
    /// # Errors
    /// Of the system.
    pub fn wait(&mut self) -> std::io::Result<ExitStatus> {
        let status = self.child.wait();
        self.ended(&status);
        status
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// Of the system.
    pub fn try_wait(&mut self) -> std::io::Result<Option<ExitStatus>> {
        let status = self.child.try_wait();
        if let Ok(Some(ended)) = &status {
            self.ended(&Ok(*ended));
        }
        status
    }

    /// Tells it once.
    fn ended(&mut self, status: &std::io::Result<ExitStatus>) {
        if let Some(told) = self.told.take() {
            told.tell(status);
        }
    }
}

impl Deref for Running {
    type Target = Child;
    fn deref(&self) -> &Child {
        &self.child
    }
}

impl DerefMut for Running {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.child
    }
}

/// A program's standard error on its way to the log. Dropped, it waits for the rest, but not for long.
pub struct Told(Receiver<()>);

/// Passes what a program says to the log, line by line; of a line that was written over by `\r`, what is seen at its end.
///
/// # Errors
/// If the system refuses a thread.
pub fn tell(said: impl Read + Send + 'static, program: String) -> Result<Told> {
    let (sender, receiver) = channel();
    threads::start("esker-told", move || {
        let mut said = BufReader::new(said);
        let mut line = vec![];
        loop {
            line.clear();
            // What ends a pipe other than its end ends the telling, not the program.
            let read = (&mut said).take(LINE as u64).read_until(b'\n', &mut line).unwrap_or_default();
            if read == 0 {
                break;
            }
            let seen = line.strip_suffix(b"\n").unwrap_or(&line);
            let seen = seen.strip_suffix(b"\r").unwrap_or(seen);
            let seen = seen.rsplit(|byte| *byte == b'\r').find(|part| !part.is_empty()).unwrap_or_default();
            if !seen.is_empty() {
                tracing::error!(target: SAID, program, "{}", String::from_utf8_lossy(seen));
            }
        }
        // Nobody may be waiting any more.
        let _ = sender.send(());
    })?;
    Ok(Told(receiver))
}

impl Drop for Told {
    fn drop(&mut self) {
        let _ = self.0.recv_timeout(LAST_WORDS);
    }
}

/// Reads what a program complains of, to the end; the middle of a long complaint is left out.
pub fn complaints(from: impl Read) -> String {
    let (mut first, mut last) = (vec![], vec![]);
    let mut from = from.take(MAX_COMPLAINTS);
    let mut part = vec![0; COMPLAINTS];
    // What came before it broke is all there is.
    while let Ok(len @ 1..) = from.read(&mut part) {
        let (now, later) = part[..len].split_at(len.min(COMPLAINTS - first.len()));
        first.extend_from_slice(now);
        last.extend_from_slice(later);
        let excess = last.len().saturating_sub(COMPLAINTS);
        last.drain(..excess);
    }
    first.extend_from_slice(&last);
    String::from_utf8_lossy(&first).into_owned()
}

/// Reads all of what a program prints.
///
/// # Errors
/// Of the pipe; if there are more than `most` bytes.
pub fn printed(from: impl Read, most: u64) -> Result<Vec<u8>> {
    let mut all = vec![];
    from.take(most + 1).read_to_end(&mut all)?;
    match all.len() as u64 > most {
        true => Err(Error::other(format!("it prints more than {} MiB", most >> 20))),
        false => Ok(all),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_that_esker_reads_stay_with_it() {
        let secret = [
            "ESKER_PASSWORD",
            "ESKER_PASSWORD_FILE",
            "ESKER_PASSWORD_COMMAND",
            "ESKER_FROM_PASSWORD",
            "ESKER_KEY_FILE",
            "ESKER_FROM_KEY_FILE",
            "ESKER_REDIS_PASSWORD_FILE",
            "ESKER_QDRANT_API_KEY",
            "AWS_ACCESS_KEY_ID",
            "AWS_SECRET_ACCESS_KEY",
            "AWS_SESSION_TOKEN",
            "AZURE_STORAGE_KEY",
            "AZURE_STORAGE_SAS_TOKEN",
            "RESTIC_PASSWORD",
            "PGPASSWORD",
            "MYSQL_PWD",
            "REDISCLI_AUTH",
            "VAULT_TOKEN",
            "BAO_TOKEN",
            "IDENTITY_HEADER",
            "ESKER_KMS_TOKEN_FILE",
        ];
        let open = [
            "PATH",
            "HOME",
            "ESKER_HOST",
            "ESKER_REPOSITORY",
            "ESKER_SOURCE",
            "ESKER_CACHE_DIR",
            "PGHOST",
            "VAULT_ADDR",
            "ESKER_KMS",
        ];
        let names = || secret.iter().chain(&open).map(OsString::from);
        assert_eq!(withheld(names(), &[]), secret.map(OsString::from));
        let passed = ["PGPASSWORD".to_owned(), "AWS_SESSION_TOKEN".to_owned()];
        assert_eq!(withheld(names(), &passed).len(), secret.len() - 2);
    }

    #[test]
    fn nobody_waits_for_what_a_program_left_running() {
        let (reader, writer) = std::io::pipe().unwrap();
        let start = std::time::Instant::now();
        drop(tell(reader, "p".into()).unwrap());
        assert!(start.elapsed() < Duration::from_secs(5));
        drop(writer);
    }

    #[test]
    fn complaints_keep_their_beginning_and_their_end() {
        assert_eq!(complaints(&b"ERROR 1: no\n"[..]), "ERROR 1: no\n");
        let long = [&b"begin"[..], &b"x".repeat(1 << 20), b"end"].concat();
        let kept = complaints(&long[..]);
        assert!(kept.starts_with("begin") && kept.ends_with("end") && kept.len() == 2 * COMPLAINTS);
        assert_eq!(complaints(std::io::repeat(b'x')).len(), 2 * COMPLAINTS);
        assert_eq!(printed(&b"abc"[..], 3).unwrap(), b"abc");
        assert!(printed(std::io::repeat(b'x'), 1 << 20).is_err());
    }
}
