//! The client, fed with a dump as it comes.

use super::Work;
use crate::source::SourceErrorKind;
use crate::{Error, Result};
use std::io::{Read as _, Write};
use std::process::{Command, Stdio};

impl Work<'_> {
    /// Runs the client on what `write` writes; its first error ends it.
    pub(super) fn feed(&self, write: &mut dyn FnMut(&mut dyn Write) -> Result<u64>) -> Result<u64> {
        self.run(false, write).map(|(bytes, _)| bytes)
    }

    /// The same, and what it complains about; `goes_on` after errors.
    pub(super) fn run(
        &self,
        goes_on: bool,
        write: &mut dyn FnMut(&mut dyn Write) -> Result<u64>,
    ) -> Result<(u64, String)> {
        let mut command: Command = self.server.command(["mariadb", "mysql"])?;
        command.args([
            "--batch",
            "--binary-mode",
            // Those in the bodies of routines are theirs.
            "--comments",
            "--max-allowed-packet=1G",
            "--default-character-set=utf8mb4",
        ]);
        if goes_on {
            command.arg("--force");
        }
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let failed =
            |why: String| Error::from(self.server.error(SourceErrorKind::Command, format!("mariadb: {why}")));
        let mut child = command.spawn().map_err(|error| failed(error.to_string()))?;
        let (Some(input), Some(complaints)) = (child.stdin.take(), child.stderr.take()) else {
            return Err(failed("no pipe to the command".into()));
        };
        let listener = std::thread::spawn(move || {
            let mut text = vec![];
            // What came before it broke is all there is.
            let _ = std::io::BufReader::new(complaints).read_to_end(&mut text);
            String::from_utf8_lossy(&text).into_owned()
        });
        let mut input = std::io::BufWriter::with_capacity(256 << 10, input);
        let written = write(&mut input);
        let is_refused = matches!(&written, Err(Error::Target { source, .. })
            if source.kind() == std::io::ErrorKind::BrokenPipe);
        if written.is_err() && !is_refused {
            let _ = child.kill();
        }
        let _ = input.flush();
        drop(input);
        let status = child.wait().map_err(|error| failed(error.to_string()))?;
        let text = listener.join().unwrap_or_default();
        if let (Err(error), false) = (&written, is_refused)
            && !matches!(error, Error::Target { .. })
        {
            return written.map(|bytes| (bytes, text));
        }
        if !goes_on && !status.success() {
            let reason = text.lines().find(|line| line.contains("ERROR")).or_else(|| text.lines().next());
            return Err(failed(reason.unwrap_or("failed without a word").to_owned()));
        }
        written.map(|bytes| (bytes, text))
    }
}
/// Text for the client.
pub(super) fn write(out: &mut dyn Write, text: &str) -> Result<()> {
    out.write_all(text.as_bytes()).map_err(|source| Error::Target {
        op: "write to",
        path: "mariadb".into(),
        source,
    })
}
