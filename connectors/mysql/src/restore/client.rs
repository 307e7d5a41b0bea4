//! The client, fed with a dump as it comes.

use super::Work;
use crate::server::{LOCAL_FILES_OFF, complaint, hexadecimal, nonce};
use chunkstore::threads;
use connector_kit::child::{self, Role};
use engine::source::SourceErrorKind;
use engine::{Error, Result};
use std::io::{BufRead, BufReader, Read as _, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// What the client did of a dump.
pub(super) struct Fed {
    /// Bytes of the dump that were read.
    pub(super) bytes: u64,
    /// Marks that it came to.
    pub(super) marks: usize,
    /// Why it ended before all was done.
    pub(super) refused: Option<String>,
}

/// Which files of this machine the client sends.
pub(super) enum Files {
    /// None, whatever is asked for.
    Stay,
    /// Those that LOAD DATA names, which are of this folder. MariaDB's client sends what the server asks for, once for each
    /// statement that begins with an L (`auto`, which no option says); MySQL's, what lies in the folder.
    Of(PathBuf),
}

/// A statement whose answer says that the client has come to it.
pub(super) type Mark<'a> = &'a str;

impl Work<'_> {
    /// Runs the client on what `write` writes, whose first error ends it; `write` gets a statement that marks a place.
    pub(super) fn feed(
        &self,
        files: &Files,
        write: &mut dyn FnMut(&mut dyn Write, Mark<'_>) -> Result<u64>,
    ) -> Result<Fed> {
        let mut command: Command = self.server.command(["mariadb", "mysql"])?;
        command.args([
            "--batch",
            // Each row as it comes: all of an answer could be more than there is memory.
            "--quick",
            "--skip-column-names",
            "--unbuffered",
            "--binary-mode",
            // Those in the bodies of routines are theirs.
            "--comments",
            "--skip-reconnect",
            "--max-allowed-packet=1G",
            "--default-character-set=utf8mb4",
        ]);
        match files {
            Files::Stay => command.arg(LOCAL_FILES_OFF),
            // The other client passes over it.
            Files::Of(folder) => command.arg(format!("--loose-load-data-local-dir={}", folder.display())),
        };
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let failed =
            |why: String| Error::from(self.server.error(SourceErrorKind::Command, format!("mariadb: {why}")));
        let mut child = child::spawn(&mut command, Role::Tool).map_err(|error| failed(error.to_string()))?;
        let (input, output, complaints) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(input), Some(output), Some(complaints)) = (input, output, complaints) else {
            return Err(failed("no pipe to the command".into()));
        };
        let nonce = nonce();
        let mark = format!("SELECT {};\n", hexadecimal(nonce.as_bytes()));
        let started = threads::start("esker-said", move || child::complaints(complaints)).and_then(|said| {
            let count = move || marks_in(BufReader::new(output), nonce.as_bytes());
            Ok((said, threads::start("esker-marks", count)?))
        });
        let (listener, counter) = match started {
            Ok(both) => both,
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(failed(error.to_string()));
            }
        };
        let mut input = std::io::BufWriter::with_capacity(256 << 10, input);
        let watch = &self.server.watch;
        let written = watch.during(&child, || Ok(write(&mut input, &mark)));
        // An error of its own is within: what is said of it all is that it was killed.
        let written = written.unwrap_or(Err(Error::Interrupted));
        let is_refused = matches!(&written, Err(Error::Target { source, .. })
            if source.kind() == std::io::ErrorKind::BrokenPipe);
        if written.is_err() && !is_refused {
            let _ = child.kill();
        }
        let _ = input.flush();
        drop(input);
        let status = watch.ended(&mut child);
        let (text, marks) = (listener.join().unwrap_or_default(), counter.join().unwrap_or_default());
        let status = match status {
            Err(_) if self.monitor.interrupted() => return Err(Error::Interrupted),
            status => status.map_err(|error| failed(error.to_string()))?,
        };
        if is_refused || (written.is_ok() && !status.success()) {
            let why = Some(complaint(&text)).filter(|why| !why.is_empty());
            let refused = Some(why.unwrap_or_else(|| "the client ended without a word".to_owned()));
            return Ok(Fed { bytes: written.unwrap_or_default(), marks, refused });
        }
        written.map(|bytes| Fed { bytes, marks, refused: None })
    }
}

/// How many lines are the mark. Others may be of any length.
fn marks_in(mut output: impl BufRead, mark: &[u8]) -> usize {
    let (mut count, mut line, mut is_start) = (0, vec![], true);
    let longest = mark.len() as u64 + 1;
    while let Ok(1..) = output.by_ref().take(longest).read_until(b'\n', &mut line) {
        count += usize::from(is_start && line.strip_suffix(b"\n") == Some(mark));
        is_start = line.ends_with(b"\n");
        line.clear();
    }
    count
}

/// Text for the client.
pub(super) fn write(out: &mut dyn Write, text: &str) -> Result<()> {
    out.write_all(text.as_bytes()).map_err(|source| Error::Target {
        op: "write to",
        path: "mariadb".into(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::marks_in;

    #[test]
    fn a_mark_is_a_whole_line() {
        assert_eq!(marks_in(&b"m1\nx\nm1\nxm1\nm1m1\nxxxm1\n\nm1\nm1"[..], b"m1"), 3);
    }
}
