//! The binary log after a dump, by mariadb-binlog and the client.
//!
//! mariadb-binlog writes statements as they were, and between them a delimiter of its own, `/*!*/;`. A statement that holds
//! it, in a comment of a routine for one, would be cut there by the client, and its rest would be run by whoever restores.
//! So the logs are looked through first: in a statement the delimiter becomes `/* */;`, which is as long and means the same.
//! Source: MariaDB's documentation, "Binary Log Event Header", "QUERY_EVENT"; `client/mysqlbinlog.cc`.

use super::{Work, dump};
use crate::mysql::follow;
use crate::source::SourceErrorKind;
use crate::{Error, Result};
use memchr::memmem;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::process::Stdio;

/// What mariadb-binlog writes between statements, and what is as long and no delimiter.
const DELIMITER: &[u8] = b"/*!*/;";
const HARMLESS: &[u8] = b"/* */;";
const EVENT_HEADER: usize = 19;
/// Kinds of events that hold a statement: QUERY_EVENT, EXECUTE_LOAD_QUERY_EVENT; and one whose statement is compressed.
const STATEMENTS: [u8; 2] = [2, 18];
const COMPRESSED: u8 = 165;

impl Work<'_> {
    /// Replays the binary log from where the dump was made.
    pub(super) fn replay(&self, logs: &[(String, String)]) -> Result<u64> {
        let record = self.snapshot.sources.iter().find(|source| source.kind == follow::KIND);
        let position = record.and_then(|record| {
            Some((record.details.get("binlog")?.clone(), record.details.get("position")?.clone()))
        });
        let Some((first, position)) = position else {
            return Err(Error::Invalid(
                "this snapshot has no binary log after its dump; 'esker stream' keeps it".into(),
            ));
        };
        let failed =
            |op| move |source| Error::Target { op, path: "a folder for the binary log".into(), source };
        let folder = tempfile::tempdir().map_err(failed("make"))?;
        let mut files = vec![];
        for (name, path) in logs.iter().filter(|(name, _)| *name >= first) {
            let place = folder.path().join(name);
            let options = std::fs::OpenOptions::new().read(true).write(true).create_new(true).clone();
            let mut file = options.open(&place).map_err(failed("write to"))?;
            dump(self.repo, self.snapshot, path.as_bytes(), &mut file, self.monitor)?;
            disarm(&mut file)
                .map_err(|error| Error::Malformed { what: path.clone(), why: error.to_string() })?;
            files.push(place);
        }
        if files.is_empty() {
            return Ok(0);
        }
        let mut command = self.server.command(["mariadb-binlog", "mysqlbinlog"])?;
        command.env("TZ", "UTC").arg(format!("--start-position={position}"));
        if let Some(time) = self.options.time {
            command.arg(format!("--stop-datetime={}", time.strftime("%Y-%m-%d %H:%M:%S")));
        }
        command.arg("--").args(&files).stdout(Stdio::piped()).stderr(Stdio::piped());
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

/// Takes the delimiter out of the statements of a log.
fn disarm(log: &mut std::fs::File) -> std::io::Result<()> {
    let len = log.metadata()?.len();
    let mut at = 4;
    let mut header = [0; EVENT_HEADER];
    while at + EVENT_HEADER as u64 <= len {
        log.seek(SeekFrom::Start(at))?;
        log.read_exact(&mut header)?;
        let event = u64::from(u32::from_le_bytes([header[9], header[10], header[11], header[12]]));
        if event < EVENT_HEADER as u64 || at + event > len {
            break;
        }
        if header[4] == COMPRESSED {
            let mut body = vec![0; (event as usize) - EVENT_HEADER];
            log.read_exact(&mut body)?;
            if inflated(&body).is_none_or(|text| memmem::find(&text, DELIMITER).is_some()) {
                return Err(std::io::Error::other(format!(
                    "the compressed statement at {at} cannot be read, or holds {}, with which the client would run a part of it",
                    String::from_utf8_lossy(DELIMITER)
                )));
            }
        }
        if STATEMENTS.contains(&header[4]) {
            let mut body = vec![0; (event as usize) - EVENT_HEADER];
            log.read_exact(&mut body)?;
            let found: Vec<usize> = memmem::find_iter(&body, DELIMITER).collect();
            for place in found {
                log.seek(SeekFrom::Start(at + (EVENT_HEADER + place) as u64))?;
                log.write_all(HARMLESS)?;
            }
        }
        at += event;
    }
    Ok(())
}

/// The statement of a compressed event, which is that of a QUERY_EVENT behind its status variables and its database.
fn inflated(body: &[u8]) -> Option<Vec<u8>> {
    let database = usize::from(*body.get(8)?);
    let status = usize::from(u16::from_le_bytes([*body.get(11)?, *body.get(12)?]));
    let packed = body.get(13 + status + database + 1..)?;
    // How many bytes its length has, and these.
    let behind = 1 + usize::from(packed.first()? & 7);
    let mut text = vec![];
    flate2::read::ZlibDecoder::new(packed.get(behind..)?).read_to_end(&mut text).ok()?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_does_not_end_itself() {
        let event = |kind: u8, body: &[u8]| {
            let len = (EVENT_HEADER + body.len()) as u32;
            [&[0; 4][..], &[kind], &[0; 4], &len.to_le_bytes(), &[0; 6], body].concat()
        };
        let of = |text: &[u8]| {
            [b"\xfebin".to_vec(), event(15, DELIMITER), event(2, text), event(23, DELIMITER), event(18, text)]
                .concat()
        };
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&of(b"SELECT 1 /*!*/; x /*!*/;/*!*/;")).unwrap();
        disarm(&mut file).unwrap();
        let mut bytes = vec![];
        file.seek(SeekFrom::Start(0)).unwrap();
        file.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, of(b"SELECT 1 /* */; x /* */;/* */;"));
        file.seek(SeekFrom::End(0)).unwrap();
        file.write_all(&event(COMPRESSED, b"x")).unwrap();
        assert!(disarm(&mut file).is_err());
    }
}
