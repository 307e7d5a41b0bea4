//! The WAL after a backup, beside it, and what tells a server how far to recover.

use super::Preparing;
use crate::data_directory::DataDirectory;
use crate::wal;
use crate::wal::Transactions;
use engine::restore::dump;
use engine::{Error, Monitor, Result};
use std::fmt::Write as _;
use std::io;

/// A segment of WAL in memory, of a length that has a bound.
struct Segment {
    bytes: Vec<u8>,
    most: usize,
    is_longer: bool,
}

impl io::Write for Segment {
    fn write(&mut self, part: &[u8]) -> io::Result<usize> {
        if part.len() > self.most - self.bytes.len() {
            self.is_longer = true;
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(part);
        Ok(part.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Preparing<'_> {
    /// The WAL after the backup; tells whether a transaction ends after `time`, and when the last one does.
    pub(super) fn wal(
        &self,
        data: &DataDirectory,
        time: Option<jiff::Timestamp>,
        monitor: &dyn Monitor,
    ) -> Result<(bool, Option<jiff::Timestamp>)> {
        let segment_len = self.backup.segment_len;
        let mut found = Transactions::default();
        let mut is_after = false;
        let mut next = None;
        for (name, path) in &self.backup.segments {
            let own = name.trim_end_matches(".partial");
            let malformed = |why: &str| {
                let why = format!("{} {why}", engine::shown::name(own.as_bytes()));
                Error::Malformed { what: "the WAL".into(), why }
            };
            let start =
                wal::segment_start(own, segment_len).ok_or_else(|| malformed("is no segment's name"))?;
            if next.is_some_and(|next| start != next) {
                return Err(malformed("does not follow"));
            }
            next = Some(start.saturating_add(segment_len));
            let mut segment = Segment { bytes: vec![], most: segment_len as usize, is_longer: false };
            let dumped = dump(self.repo, &self.snapshot.snapshot, path.as_bytes(), &mut segment, monitor);
            if segment.is_longer {
                return Err(malformed("is longer than a segment"));
            }
            dumped?;
            let mut bytes = segment.bytes;
            found.read(&bytes);
            is_after |= time.is_some_and(|time| found.last_us.is_some_and(|us| us > time.as_microsecond()));
            self.filled.add(bytes.len() as u64);
            bytes.resize(segment_len as usize, 0);
            // The base backup has the first ones, too.
            data.replace(&format!("pg_wal/{own}"), &bytes)?;
        }
        let last = found.last_us.and_then(|us| jiff::Timestamp::from_microsecond(us).ok());
        Ok((is_after, last))
    }
}

/// Bytes of a file of settings, at most.
const MOST_SETTINGS: u64 = 16 << 20;

/// What a server that is started on it becomes.
#[derive(Clone, Copy)]
pub(super) enum Outcome<'a> {
    /// A server of its own, at the end of its WAL or at a moment before that.
    Server(Option<jiff::Timestamp>),
    /// A standby of the primary to which this connects.
    Standby(&'a str),
}

/// Tells the server to recover, and how far. A standby's backup has the file that makes it one.
pub(super) fn recovery(data: &DataDirectory, outcome: Outcome<'_>, has_wal: bool) -> Result<()> {
    data.remove("standby.signal")?;
    let (signal, lines) = match outcome {
        // What the backup needs is in it, and it starts as after a crash.
        Outcome::Server(_) if !has_wal => return Ok(()),
        Outcome::Server(time) => {
            let mut lines =
                String::from("# Written by esker: all WAL is in pg_wal.\nrestore_command = 'false'\n");
            if let Some(time) = time {
                // Names of time zones are not known yet when this is read.
                let time = time.strftime("%Y-%m-%d %H:%M:%S%.6f+00");
                let _ =
                    write!(lines, "recovery_target_time = '{time}'\nrecovery_target_action = 'promote'\n");
            }
            ("recovery.signal", lines)
        }
        Outcome::Standby(primary) => {
            // What the primary was told of its own primary, or of an archive, is not for it.
            let primary = primary.replace('\\', "\\\\").replace('\'', "''");
            let lines = format!(
                "# Written by esker.\nprimary_conninfo = '{primary}'\nprimary_slot_name = ''\n\
                 recovery_target_timeline = 'latest'\n"
            );
            ("standby.signal", lines)
        }
    };
    let mut text = data.read("postgresql.auto.conf", MOST_SETTINGS)?;
    text.push(b'\n');
    text.extend_from_slice(lines.as_bytes());
    data.replace("postgresql.auto.conf", &text)?;
    data.replace(signal, b"")
}
