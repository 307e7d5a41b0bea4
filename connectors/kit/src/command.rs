//! A command's standard output as a stream. Its exit status is part of the content: only a command
//! that ends with 0 has an end.

use super::decompress::Proved;
use super::format::Findings;
use super::stream::{StreamContent, StreamOptions, StreamSource};
use crate::child::{Role, Running, Told, kill, spawn, tell};
use engine::entry::Time;
use engine::snapshot::SourceRecord;
use engine::source::end_mark::{EndMark, NoEndMark};
use engine::source::{Content, Opener, Piece, SourceError, SourceErrorKind};
use std::borrow::Cow;
use std::cell::RefCell;
use std::ffi::OsString;
use std::process::{ChildStdout, Command, Stdio};
use std::rc::Rc;

/// Output of a running command; the command is killed if nobody reads it to the end.
pub struct CommandContent<M> {
    child: Running,
    stream: StreamContent<ChildStdout, M>,
    told: Option<Told>,
    /// Variables that it did not get and may have needed.
    withheld: String,
}

impl<M: EndMark> CommandContent<M> {
    /// Starts `command`, a program of ours, whose standard error goes to the log.
    pub fn start(command: Command, name: String, mark: M, allow_empty: bool) -> Result<Self, SourceError> {
        Self::start_as(command, name, mark, allow_empty, Role::Tool)
    }

    fn start_as(
        mut command: Command,
        name: String,
        mark: M,
        allow_empty: bool,
        role: Role,
    ) -> Result<Self, SourceError> {
        let fail = |why: &dyn std::fmt::Display| SourceError::new(SourceErrorKind::Command, &name, why);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = spawn(&mut command, role).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => fail(&"command not found"),
            _ => fail(&error),
        })?;
        let Some(reader) = child.stdout.take() else { return Err(fail(&"no pipe from the command")) };
        let told = child.stderr.take().map(|said| tell(said, name.clone())).transpose();
        let told = told.inspect_err(|_| kill(&child)).map_err(|error| fail(&error))?;
        let stream = StreamContent { reader, mark, name, allow_empty, seen: 0, other_end: None };
        Ok(Self { child, stream, told, withheld: String::new() })
    }
}

impl<M: EndMark> Content for CommandContent<M> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<Piece, SourceError> {
        let piece = self.stream.read(buffer);
        if matches!(piece, Ok(Piece::Data(_) | Piece::Hole(_) | Piece::Wait)) {
            return piece;
        }
        // The stream is over, rightly or not. A bad exit explains a missing end, so it is told first.
        let failed = |why: String| SourceError::new(SourceErrorKind::Command, &self.stream.name, why);
        let status = self.child.wait().map_err(|error| failed(error.to_string()))?;
        // What it said comes before what we say of it.
        drop(self.told.take());
        match status.code() {
            Some(0) => piece,
            Some(code) => {
                Err(failed(format!("exited with status {code}; nothing was saved{}", self.withheld)))
            }
            None => Err(failed(format!("was killed ({status}); nothing was saved"))),
        }
    }
}

impl<M> Drop for CommandContent<M> {
    fn drop(&mut self) {
        // Harmless when it has ended; otherwise nobody will read what it still has to say.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What is said of variables that a command did not get. Those of esker itself are of no use to others.
fn missed(withheld: &[OsString]) -> String {
    let names: Vec<Cow<'_, str>> = withheld
        .iter()
        .map(|name| name.to_string_lossy())
        .filter(|name| !name.starts_with("ESKER_"))
        .collect();
    match names.is_empty() {
        true => String::new(),
        false => format!(" (it did not get {}; --pass-env NAME hands one on)", names.join(", ")),
    }
}

/// The source of `--stdin-from-command`. In records and messages it goes by its program's name. It gets our environment
/// without the variables of `withheld`.
pub fn source(
    command: Vec<OsString>,
    withheld: Vec<OsString>,
    path: &[u8],
    time: Time,
    options: StreamOptions,
) -> Result<StreamSource, SourceError> {
    // The program alone: what follows may be a password.
    let shown = engine::group::program(&command);
    let record = SourceRecord::new("command", shown.clone(), true);
    let all = command.clone();
    let findings = Rc::<RefCell<Findings>>::default();
    let told = Rc::clone(&findings);
    let open: Opener = Box::new(move || {
        let mut words = command.into_iter();
        let program = words.next().ok_or_else(|| {
            SourceError::new(SourceErrorKind::Command, "command", "none was given after '--'")
        })?;
        let mut command = Command::new(program);
        command.args(words);
        for name in &withheld {
            command.env_remove(name);
        }
        let mut content =
            CommandContent::start_as(command, shown.clone(), NoEndMark, options.allow_empty, Role::Command)?;
        content.withheld = missed(&withheld);
        Ok(Proved::open(Box::new(content), shown, options, told))
    });
    Ok(StreamSource::new(record, path, time, open)?.with_findings(findings).with_words(all))
}
