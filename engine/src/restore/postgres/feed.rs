//! Runs a program that reads what we write.

use crate::pg::Server;
use crate::source::SourceErrorKind;
use crate::{Error, Result};
use std::io::Write;
use std::process::{Command, Stdio};

/// Runs `command` and gives it what `write` writes; returns how many bytes that were.
pub(super) fn feed(
    server: &Server,
    mut command: Command,
    name: &'static str,
    write: &mut dyn FnMut(&mut dyn Write) -> Result<u64>,
) -> Result<u64> {
    let failed = |why: String| Error::from(server.error(SourceErrorKind::Command, format!("{name}: {why}")));
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| failed(error.to_string()))?;
    let (Some(input), Some(complaints)) = (child.stdin.take(), child.stderr.take()) else {
        return Err(failed("no pipe to the command".into()));
    };
    let listener = std::thread::spawn(move || {
        let mut text = vec![];
        let mut lines = std::io::BufReader::new(complaints);
        let _ = std::io::Read::read_to_end(&mut lines, &mut text);
        String::from_utf8_lossy(&text).into_owned()
    });
    let mut input = std::io::BufWriter::with_capacity(256 << 10, input);
    let written = write(&mut input);
    // It has read what it wanted, or has failed and says why.
    let had_enough = matches!(&written, Err(Error::Target { source, .. })
        if source.kind() == std::io::ErrorKind::BrokenPipe);
    if written.is_err() && !had_enough {
        // Half of a dump must not look like the end of one.
        let _ = child.kill();
    }
    // What cannot be written any more, the program does not want.
    let _ = input.flush();
    drop(input);
    let status = child.wait().map_err(|error| failed(error.to_string()))?;
    let text = listener.join().unwrap_or_default();
    match written {
        Err(error) if !had_enough => Err(error),
        _ if !status.success() => Err(failed(reason(&text))),
        Ok(bytes) => Ok(bytes),
        Err(_) => Ok(0),
    }
}

/// What a program complains of first, with its detail.
fn reason(text: &str) -> String {
    let first = text.lines().find(|line| line.contains("error:") || line.contains("ERROR:"));
    let detail = text.lines().find(|line| line.starts_with("DETAIL:"));
    let first = first.or_else(|| text.lines().next()).unwrap_or("failed without a word");
    detail.map_or_else(|| first.to_owned(), |detail| format!("{first}; {detail}"))
}
