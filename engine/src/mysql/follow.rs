//! Every moment of a MariaDB: a dump that says where it is in the binary log, and after it the log itself, as mariadb-binlog
//! fetches it. One snapshot for each dump; while esker is attached it is replaced by a longer one every few seconds.
//!
//! What has been fetched lies in a private folder until it is in the repository. A log that grows is fetched again from its
//! beginning after an interruption, so nothing that is here need be trusted.
//! Source: MariaDB's documentation, "mariadb-binlog", "Binary Log Event Header".

use super::Server;
use crate::entry::Time;
use crate::growing::{FollowOptions, Growing, Layout, Part, Report, Standing, pause, settled_time_of};
use crate::source::mysql::MysqlSource;
use crate::source::stream::AtHand;
use crate::source::{Item, SourceError, SourceErrorKind};
use crate::{Error, Monitor, Repository, Result};
use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Kind in a snapshot's record.
pub const KIND: &str = "mysql+binlog";
const TICK: Duration = Duration::from_millis(100);
const PAUSE: Duration = Duration::from_secs(1);
/// A log begins with these bytes.
const MAGIC: &[u8] = b"\xfebin";
const EVENT_HEADER: usize = 19;

/// A file of the log.
#[derive(Clone)]
struct Log {
    name: String,
    time: Time,
    /// Bytes that are in the last snapshot.
    durable: u64,
    /// Whether that is all of it.
    is_closed: bool,
}

struct Binlog<'a> {
    repo: &'a Repository,
    server: &'a Server,
    options: &'a FollowOptions,
    monitor: &'a dyn Monitor,
    growing: Growing,
    logs: Vec<Log>,
}

/// mariadb-binlog at work; ends with its owner.
struct Fetching {
    child: Child,
    folder: TempDir,
}

impl Drop for Fetching {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Follows `server` until interrupted; `report` hears of every commit.
pub fn follow(
    repo: &Repository,
    server: &Server,
    options: &FollowOptions,
    monitor: &dyn Monitor,
    report: &mut Report<'_>,
) -> Result<()> {
    let layout = Layout {
        kind: KIND,
        origin: server.shown.clone(),
        folder: server.folder(),
        base: "databases",
        stream: "binlog",
    };
    let (growing, parts) = Growing::resume(repo, layout, options, monitor)?;
    let mut log = Binlog { repo, server, options, monitor, growing, logs: vec![] };
    log.take_over(parts);
    loop {
        if !log.growing.has_base() {
            log.new_base()?;
            if let Some(standing) = log.standing() {
                report(&Standing { new_base: true, ..standing }, None);
            }
        }
        let why = match log.fetch() {
            Ok(mut fetching) => log.take(&mut fetching, report)?,
            Err(error) => error.to_string(),
        };
        if monitor.interrupted() {
            return Err(Error::Interrupted);
        }
        if !log.growing.has_base() || why.contains("Could not find first log file") {
            let message = format!("{why}; a new base follows");
            monitor.error(crate::ItemError { during: "stream", item: server.shown.clone(), message });
            log.growing.end();
            continue;
        }
        if let Some(standing) = log.standing() {
            report(&Standing { attached: false, ..standing }, Some(&why));
        }
        pause(PAUSE, monitor);
    }
}

/// How many bytes of a log are whole events.
fn whole_len(path: &Path) -> std::io::Result<u64> {
    use std::io::{Seek as _, SeekFrom};
    let mut file = File::open(path)?;
    let len = file.metadata()?.len();
    let mut magic = [0; 4];
    if len < 4 || file.read_exact(&mut magic).is_err() || magic != MAGIC {
        return Ok(0);
    }
    let mut at = 4;
    let mut header = [0; EVENT_HEADER];
    while at + EVENT_HEADER as u64 <= len {
        file.seek(SeekFrom::Start(at))?;
        file.read_exact(&mut header)?;
        let event = u64::from(u32::from_le_bytes([header[9], header[10], header[11], header[12]]));
        if event < EVENT_HEADER as u64 || at + event > len {
            break;
        }
        at += event;
    }
    Ok(at)
}

impl Binlog<'_> {
    /// Goes on from what the last snapshot has.
    fn take_over(&mut self, parts: Vec<Part>) {
        // The last one may grow.
        let last = parts.len().saturating_sub(1);
        let log = |(number, Part { name, time, size }): (usize, Part)| Log {
            name,
            time,
            durable: size,
            is_closed: number < last,
        };
        self.logs = parts.into_iter().enumerate().map(log).collect();
    }

    fn standing(&self) -> Option<Standing> {
        let position = self.logs.last().map_or(0, |log| log.durable);
        self.growing.standing(position, self.logs.iter().map(|log| log.durable).sum(), self.options)
    }

    fn new_base(&mut self) -> Result<()> {
        let now_ms = self.options.now_ms();
        let mut dump = MysqlSource::new(self.server.clone(), settled_time_of(now_ms), true);
        let parts = self.growing.begin(self.repo, &mut dump, now_ms, self.options, self.monitor)?;
        self.take_over(parts);
        Ok(())
    }

    /// Starts to fetch from the log that grows.
    fn fetch(&self) -> std::result::Result<Fetching, SourceError> {
        let server = self.server;
        let failed = |error: std::io::Error| server.error(SourceErrorKind::Command, error);
        let folder = tempfile::tempdir_in(&self.options.scratch).map_err(failed)?;
        let first = self.logs.last().map(|log| log.name.as_str());
        let first = first.or_else(|| self.growing.details.get("binlog").map(String::as_str));
        let first = first.ok_or_else(|| {
            server.error(SourceErrorKind::Unavailable, "the dump does not say where it is in the binary log")
        })?;
        let mut command = server.command(["mariadb-binlog", "mysqlbinlog"])?;
        let id = 1_000_000 + std::process::id() % 1_000_000_000;
        command.args(["--read-from-remote-server", "--raw", "--stop-never"]);
        command.arg(format!("--stop-never-slave-server-id={id}"));
        command.arg(format!("--result-file={}/", folder.path().display())).arg("--").arg(first);
        let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().map_err(failed)?;
        Ok(Fetching { child, folder })
    }

    /// Commits what is fetched until that ends; returns why.
    fn take(&mut self, fetching: &mut Fetching, report: &mut Report<'_>) -> Result<String> {
        let wait = self.options.interval / 2;
        let mut last = Instant::now();
        loop {
            std::thread::sleep(TICK);
            let ended = fetching.child.try_wait().ok().flatten();
            let over = self.monitor.interrupted() || ended.is_some();
            if !over && last.elapsed() < wait {
                continue;
            }
            last = Instant::now();
            // Where the server was before we look at what is here.
            let now_ms = self.options.now_ms();
            let there = self.server.query("SHOW MASTER STATUS").ok().and_then(|rows| rows.into_iter().next());
            let came = self.look(fetching.folder.path(), now_ms)?;
            let is_complete = there.is_some_and(|row| match row.as_slice() {
                [file, position, ..] => came.last().is_some_and(|(log, len)| {
                    (log.name.as_str(), *len) >= (file.as_str(), position.parse().unwrap_or(u64::MAX))
                }),
                _ => false,
            });
            let until_ms = if is_complete { now_ms } else { 0 };
            let grew = came.iter().any(|(log, len)| *len > log.durable);
            let is_stale = self.growing.is_stale(until_ms, self.options);
            // After an interruption the log is fetched again: not less than there was.
            let is_behind = came.iter().any(|(log, len)| *len < log.durable) || came.len() < self.logs.len();
            if !is_behind && (grew || is_stale) {
                self.commit(came, fetching.folder.path(), until_ms)?;
            }
            if let Some(standing) = self.standing() {
                report(&Standing { attached: !over, ..standing }, None);
            }
            if over {
                let mut text = String::new();
                if ended.is_some()
                    && let Some(complaints) = &mut fetching.child.stderr
                {
                    let _ = complaints.read_to_string(&mut text);
                }
                return Ok(text.lines().last().unwrap_or("the server hung up").to_owned());
            }
            if self.growing.is_old(self.options) {
                self.growing.end();
                return Ok("it is time".into());
            }
        }
    }

    /// The logs, with those that were fetched, and how much of each is whole.
    fn look(&self, folder: &Path, now_ms: u64) -> Result<Vec<(Log, u64)>> {
        let failed = |source| Error::Target { op: "read", path: folder.display().to_string(), source };
        let mut names: Vec<String> = std::fs::read_dir(folder)
            .map_err(failed)?
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        let mut all: Vec<(Log, u64)> =
            self.logs.iter().filter(|log| log.is_closed).map(|log| (log.clone(), log.durable)).collect();
        for name in names {
            if all.iter().any(|(log, _)| log.name == name) {
                continue;
            }
            let len = whole_len(&folder.join(&name)).map_err(failed)?;
            let known = self.logs.iter().find(|log| log.name == name).cloned();
            let time = settled_time_of(now_ms);
            let log = known.unwrap_or(Log { name, time, durable: 0, is_closed: false });
            all.push((log, len));
        }
        Ok(all)
    }

    /// Makes durable what `came` into the folder `spool`.
    fn commit(&mut self, came: Vec<(Log, u64)>, spool: &Path, until_ms: u64) -> Result<()> {
        let item = |layout: &Layout, (log, len): &(Log, u64)| {
            let path = layout.part(&log.name);
            if log.is_closed {
                return Ok(Item::taken_over(&path, log.time));
            }
            let place = spool.join(&log.name);
            let failed = |source| Error::Target { op: "read", path: place.display().to_string(), source };
            Ok(AtHand::opened(&path, log.time, File::open(&place).map_err(failed)?.take(*len)))
        };
        let parts =
            |layout: &Layout| came.iter().map(|came| item(layout, came)).collect::<Result<Vec<Item>>>();
        self.growing.commit(self.repo, until_ms, &parts, self.options, self.monitor)?;
        let last = came.len().saturating_sub(1);
        self.logs = came
            .into_iter()
            .enumerate()
            .map(|(number, (log, durable))| {
                let is_closed = number < last;
                if is_closed && !log.is_closed {
                    // It is in the repository now, and the server has gone on to the next.
                    let _ = std::fs::remove_file(spool.join(&log.name));
                }
                Log { durable, is_closed, ..log }
            })
            .collect();
        Ok(())
    }
}
