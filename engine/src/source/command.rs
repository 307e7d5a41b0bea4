//! A command's standard output as a stream. Its exit status is part of the content: only a command
//! that ends with 0 has an end.

use super::decompress::Proved;
use super::format::Findings;
use super::stream::{EndMark, NoEndMark, StreamContent, StreamOptions, StreamSource};
use super::{Content, Opener, Piece, SourceError, SourceErrorKind};
use crate::entry::Time;
use crate::snapshot::SourceRecord;
use std::cell::RefCell;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::rc::Rc;

/// Output of a running command; the command is killed if nobody reads it to the end.
pub struct CommandContent<M> {
    child: Child,
    stream: StreamContent<ChildStdout, M>,
}

impl<M: EndMark> CommandContent<M> {
    /// Starts `command`, whose standard error goes where ours goes.
    pub fn start(
        mut command: Command,
        name: String,
        mark: M,
        allow_empty: bool,
    ) -> Result<Self, SourceError> {
        let fail = |why: &dyn std::fmt::Display| SourceError::new(SourceErrorKind::Command, &name, why);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => fail(&"command not found"),
            _ => fail(&error),
        })?;
        let Some(reader) = child.stdout.take() else { return Err(fail(&"no pipe from the command")) };
        Ok(Self { child, stream: StreamContent { reader, mark, name, allow_empty, seen: 0 } })
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
        match status.code() {
            Some(0) => piece,
            Some(code) => Err(failed(format!("exited with status {code}; nothing was saved"))),
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

/// The source of `--stdin-from-command`.
pub fn source(
    command: Vec<std::ffi::OsString>,
    path: &str,
    time: Time,
    options: StreamOptions,
) -> Result<StreamSource, SourceError> {
    let shown = command.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
    let record = SourceRecord::new("command", shown.clone(), true);
    let findings = Rc::<RefCell<Findings>>::default();
    let told = Rc::clone(&findings);
    let open: Opener = Box::new(move || {
        let mut words = command.into_iter();
        let program = words.next().ok_or_else(|| {
            SourceError::new(SourceErrorKind::Command, "command", "none was given after '--'")
        })?;
        let mut command = Command::new(program);
        command.args(words);
        let content = CommandContent::start(command, shown.clone(), NoEndMark, options.allow_empty)?;
        Ok(Proved::open(Box::new(content), shown, options, told))
    });
    Ok(StreamSource::new(record, path, time, open)?.with_findings(findings))
}
