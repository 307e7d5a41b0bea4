//! The binary log after a dump, by mariadb-binlog and the client.
//!
//! mariadb-binlog writes what events hold as lines of a script, statements and names as they are. So the logs are first written
//! anew, in `disarmed`: what a user wrote comes to the client as a number, or not at all.
//! Source: MariaDB's documentation, "mariadb-binlog".

use super::disarm::Disarmed;
use super::{Work, dump};
use crate::mysql::follow;
use crate::source::SourceErrorKind;
use crate::source::mysql::executes;
use crate::{Error, Result};
use std::io::{BufReader, BufWriter, Seek as _, SeekFrom};
use std::path::PathBuf;
use std::process::Stdio;

/// Logs that are ready to be replayed.
pub(super) struct Logs {
    /// They are gone with it.
    _folder: tempfile::TempDir,
    files: Vec<PathBuf>,
    /// Where the replay begins in the first.
    start: Option<u64>,
}

impl Work<'_> {
    /// Reads the binary log from where the dump was made, and writes it so that it can be replayed; refuses what cannot.
    pub(super) fn logs(&self, logs: &[(String, String)]) -> Result<Logs> {
        let record = self.snapshot.sources.iter().find(|source| source.kind == follow::KIND);
        let position = record.and_then(|record| {
            Some((
                record.details.get("binlog")?.clone(),
                record.details.get("position")?.parse::<u64>().ok()?,
            ))
        });
        let Some((first, position)) = position else {
            return Err(Error::Invalid(
                "this snapshot has no binary log after its dump; 'esker stream' keeps it".into(),
            ));
        };
        let failed =
            |op| move |source| Error::Target { op, path: "a folder for the binary log".into(), source };
        let version = self.server.query("SELECT VERSION()")?.into_iter().flatten().next().unwrap_or_default();
        let until = self.options.time.map(|time| u32::try_from(time.as_second()).unwrap_or(u32::MAX));
        let mut disarmed = Disarmed::new(executes(&version), until);
        let folder = tempfile::tempdir().map_err(failed("make"))?;
        let mut files = vec![];
        for (name, path) in logs.iter().filter(|(name, _)| *name >= first) {
            let mut log = tempfile::tempfile().map_err(failed("make"))?;
            dump(self.repo, self.snapshot, path.as_bytes(), &mut log, self.monitor)?;
            log.seek(SeekFrom::Start(0)).map_err(failed("read"))?;
            let place = folder.path().join(name);
            let mut out = BufWriter::new(std::fs::File::create_new(&place).map_err(failed("write to"))?);
            let from = if *name == first { position } else { 0 };
            disarmed.write(&mut BufReader::new(log), from, &mut out).map_err(|error| match error.kind() {
                std::io::ErrorKind::InvalidData => self.refused(format!("{path}: {error}")),
                _ => failed("write to")(error),
            })?;
            files.push(place);
        }
        Ok(Logs { _folder: folder, files, start: disarmed.start })
    }

    /// Replays logs.
    pub(super) fn replay(&self, logs: &Logs) -> Result<u64> {
        let files = &logs.files;
        if files.is_empty() {
            return Ok(0);
        }
        let mut command = self.server.command(["mariadb-binlog", "mysqlbinlog"])?;
        command.env("TZ", "UTC");
        // Said, it also keeps mariadb-binlog from missing what was before.
        if let Some(start) = logs.start {
            command.arg(format!("--start-position={start}"));
        }
        if let Some(time) = self.options.time {
            command.arg(format!("--stop-datetime={}", time.strftime("%Y-%m-%d %H:%M:%S")));
        }
        command.arg("--").args(files).stdout(Stdio::piped()).stderr(Stdio::piped());
        let count = files.len() as u64;
        self.feed(&mut |out| {
            let broken = |error: std::io::Error| {
                Error::from(self.server.error(SourceErrorKind::Command, format!("mariadb-binlog: {error}")))
            };
            let mut child = command.spawn().map_err(broken)?;
            let (Some(mut output), Some(complaints)) = (child.stdout.take(), child.stderr.take()) else {
                return Err(broken(std::io::Error::other("no pipe")));
            };
            let listener =
                std::thread::spawn(move || std::io::read_to_string(complaints).unwrap_or_default());
            let copied = std::io::copy(&mut output, out);
            drop(output);
            let status = child.wait().map_err(broken)?;
            let text = listener.join().unwrap_or_default();
            let copied =
                copied.map_err(|source| Error::Target { op: "write to", path: "mariadb".into(), source })?;
            match status.success() {
                true => Ok(copied),
                false => Err(broken(std::io::Error::other(text.trim().to_owned()))),
            }
        })?;
        Ok(count)
    }
}
