//! Every moment of a MariaDB: a dump that says where it is in the binary log, and after it the log itself, as mariadb-binlog
//! fetches it. One snapshot for each dump; while esker is attached it is replaced by a longer one every few seconds.
//!
//! What has been fetched lies in a private folder until it is in the repository. A log that grows is fetched again from its
//! beginning after an interruption, so nothing that is here need be trusted.
//! Source: MariaDB's documentation, "mariadb-binlog", "Binary Log Event Header".

use super::Server;
use crate::backup::{BackupOptions, backup};
use crate::entry::{Kind, Time};
use crate::monitor::Tally;
use crate::snapshot::{Listed, SourceRecord};
use crate::source::mysql::MysqlSource;
use crate::source::postgres_physical::taken_over;
use crate::source::stream::AtHand;
use crate::source::{Clock, Item, Source, SourceError, SourceErrorKind};
use crate::{Error, Monitor, Repository, Result};
use chunkstore::ObjectId;
use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
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

/// Choices for a stream.
#[derive(Clone)]
pub struct FollowOptions {
    /// A recovery point is at most so far behind.
    pub interval: Duration,
    /// A new base is made after so long.
    pub base_every: Duration,
    /// What every snapshot of it says.
    pub backup: BackupOptions,
    /// A private folder for what is fetched.
    pub scratch: PathBuf,
    /// Tells the time.
    pub clock: Clock,
}

/// Where a stream stands after a commit.
pub type Standing = crate::pg::follow::Standing;

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

#[derive(Default)]
struct Binlog {
    folder: String,
    origin: String,
    snapshot: Option<ObjectId>,
    /// The dumps: path and time.
    base: Vec<(String, Time)>,
    details: BTreeMap<String, String>,
    logs: Vec<Log>,
    base_ms: u64,
    until_ms: u64,
    total: u64,
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

fn time_of(ms: u64) -> Time {
    Time { seconds: (ms / 1000) as i64, nanoseconds: (ms % 1000) as u32 * 1_000_000 + 1 }
}

/// Follows `server` until interrupted; `report` hears of every commit.
pub fn follow(
    repo: &Repository,
    server: &Server,
    options: &FollowOptions,
    monitor: &dyn Monitor,
    report: &mut dyn FnMut(&Standing, Option<&str>),
) -> Result<()> {
    let mut log = Binlog::resume(repo, server, options, monitor)?;
    loop {
        if log.snapshot.is_none() {
            log.new_base(repo, server, options, monitor)?;
            if let Some(standing) = log.standing(options, true, true) {
                report(&standing, None);
            }
        }
        let why = match log.fetch(server, options) {
            Ok(mut fetching) => log.take(&mut fetching, repo, server, options, monitor, report)?,
            Err(error) => error.to_string(),
        };
        if monitor.interrupted() {
            return Err(Error::Interrupted);
        }
        if log.snapshot.is_none() || why.contains("Could not find first log file") {
            let message = format!("{why}; a new base follows");
            monitor.error(crate::ItemError { during: "stream", item: server.shown.clone(), message });
            log.snapshot = None;
            continue;
        }
        if let Some(standing) = log.standing(options, false, false) {
            report(&standing, Some(&why));
        }
        let until = Instant::now() + PAUSE;
        while Instant::now() < until && !monitor.interrupted() {
            std::thread::sleep(TICK);
        }
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

impl Binlog {
    fn resume(
        repo: &Repository,
        server: &Server,
        options: &FollowOptions,
        monitor: &dyn Monitor,
    ) -> Result<Self> {
        repo.sync_index(monitor)?;
        let fresh = || Self { folder: server.folder(), origin: server.shown.clone(), ..Self::default() };
        let mut log = fresh();
        let path = format!("/{}/binlog", log.folder);
        let mut own: Vec<Listed> = repo
            .snapshots(monitor)?
            .into_iter()
            .filter(|listed| {
                listed.snapshot.hostname == options.backup.hostname && listed.snapshot.paths.contains(&path)
            })
            .collect();
        let Some(last) = own.pop() else { return Ok(log) };
        let base_of = |listed: &Listed| {
            listed.snapshot.sources.first().and_then(|source| source.details.get("base-ms").cloned())
        };
        // One that was replaced by a longer one just before its writer died.
        let replaced: Vec<ObjectId> =
            own.iter().filter(|listed| base_of(listed) == base_of(&last)).map(|listed| listed.id).collect();
        if !replaced.is_empty() {
            repo.forget(&replaced)?;
        }
        if let Err(error) = log.load(repo, &last) {
            // It stays as it is, and a new one begins.
            let message = format!("the stream so far cannot be continued: {error}; a new base follows");
            monitor.error(crate::ItemError { during: "stream", item: last.id.to_string(), message });
            return Ok(fresh());
        }
        Ok(log)
    }

    fn load(&mut self, repo: &Repository, last: &Listed) -> Result<()> {
        let record = last.snapshot.sources.first();
        self.details = record.map(|source| source.details.clone()).unwrap_or_default();
        let number =
            |name: &str| self.details.get(name).and_then(|text| text.parse::<u64>().ok()).unwrap_or_default();
        (self.base_ms, self.until_ms) = (number("base-ms"), number("until-ms"));
        self.snapshot = Some(last.id);
        (self.base, self.logs) = (vec![], vec![]);
        let folder = self.folder.clone();
        let (base, logs) = (&mut self.base, &mut self.logs);
        let mut damaged = None;
        crate::manifest::for_each_entry(
            repo.store(),
            &last.snapshot.manifest,
            &mut |damage| damaged = Some(damage.error),
            &mut |listed| {
                let path = String::from_utf8_lossy(&listed.entry.path).into_owned();
                let time = listed.entry.mtime;
                if listed.entry.kind != Kind::File {
                    return Ok(());
                }
                match path.strip_prefix(&format!("{folder}/binlog/")) {
                    Some(name) => {
                        logs.push(Log { name: name.into(), time, durable: listed.size, is_closed: true });
                    }
                    None => base.push((path, time)),
                }
                Ok(())
            },
        )?;
        if let Some(error) = damaged {
            return Err(error.into());
        }
        // The last one may grow.
        if let Some(last) = self.logs.last_mut() {
            last.is_closed = false;
        }
        Ok(())
    }

    fn standing(&self, options: &FollowOptions, attached: bool, new_base: bool) -> Option<Standing> {
        let now_ms = (options.clock)().as_millisecond().max(0) as u64;
        Some(Standing {
            snapshot: self.snapshot?,
            until_ms: self.until_ms,
            lag: Duration::from_millis(now_ms.saturating_sub(self.until_ms)),
            position: self.logs.last().map_or(0, |log| log.durable),
            stream_bytes: self.total,
            attached,
            new_base,
        })
    }

    fn new_base(
        &mut self,
        repo: &Repository,
        server: &Server,
        options: &FollowOptions,
        monitor: &dyn Monitor,
    ) -> Result<()> {
        let now = (options.clock)();
        let now_ms = now.as_millisecond().max(0) as u64;
        let dump = MysqlSource::new(server.clone(), time_of(now_ms.saturating_sub(1000)), true);
        let mut source = FirstBase { dump, folder: server.folder(), base_ms: now_ms };
        let backup_options = BackupOptions { time: now, parent: None, ..options.backup.clone() };
        let made = backup(repo, &mut source, &backup_options, monitor)?;
        repo.sync_index(monitor)?;
        let last = repo.snapshots(monitor)?.into_iter().find(|listed| Some(listed.id) == made.snapshot);
        let last = last.ok_or_else(|| Error::Invalid("the base's snapshot is gone".into()))?;
        self.load(repo, &last)
    }

    /// Starts to fetch from the log that grows.
    fn fetch(&self, server: &Server, options: &FollowOptions) -> std::result::Result<Fetching, SourceError> {
        let failed = |error: std::io::Error| server.error(SourceErrorKind::Command, error);
        let folder = tempfile::tempdir_in(&options.scratch).map_err(failed)?;
        let first =
            self.logs.last().map(|log| log.name.clone()).or_else(|| self.details.get("binlog").cloned());
        let first = first.ok_or_else(|| {
            server.error(SourceErrorKind::Unavailable, "the dump does not say where it is in the binary log")
        })?;
        let mut command = server.command(["mariadb-binlog", "mysqlbinlog"])?;
        let id = 1_000_000 + std::process::id() % 1_000_000_000;
        command.args(["--read-from-remote-server", "--raw", "--stop-never"]);
        command.arg(format!("--stop-never-slave-server-id={id}"));
        command.arg(format!("--result-file={}/", folder.path().display())).arg(first);
        let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().map_err(failed)?;
        Ok(Fetching { child, folder })
    }

    /// Commits what is fetched until that ends; returns why.
    fn take(
        &mut self,
        fetching: &mut Fetching,
        repo: &Repository,
        server: &Server,
        options: &FollowOptions,
        monitor: &dyn Monitor,
        report: &mut dyn FnMut(&Standing, Option<&str>),
    ) -> Result<String> {
        let wait = options.interval / 2;
        let mut last = Instant::now();
        loop {
            std::thread::sleep(TICK);
            let ended = fetching.child.try_wait().ok().flatten();
            let over = monitor.interrupted() || ended.is_some();
            if !over && last.elapsed() < wait {
                continue;
            }
            last = Instant::now();
            // Where the server was before we look at what is here.
            let now_ms = (options.clock)().as_millisecond().max(0) as u64;
            let there = server.query("SHOW MASTER STATUS").ok().and_then(|rows| rows.into_iter().next());
            let came = self.look(fetching.folder.path(), now_ms)?;
            let is_complete = there.is_some_and(|row| match row.as_slice() {
                [file, position, ..] => came.last().is_some_and(|(log, len)| {
                    (log.name.as_str(), *len) >= (file.as_str(), position.parse().unwrap_or(u64::MAX))
                }),
                _ => false,
            });
            let until_ms = if is_complete { now_ms } else { self.until_ms };
            let grew = came.iter().any(|(log, len)| *len > log.durable);
            let is_stale = until_ms.saturating_sub(self.until_ms) >= options.interval.as_millis() as u64;
            // After an interruption the log is fetched again: not less than there was.
            let is_behind = came.iter().any(|(log, len)| *len < log.durable) || came.len() < self.logs.len();
            if !is_behind && (grew || is_stale) {
                self.commit(repo, came, fetching.folder.path(), until_ms, options, monitor)?;
            }
            if let Some(standing) = self.standing(options, !over, false) {
                report(&standing, None);
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
            if now_ms.saturating_sub(self.base_ms) > options.base_every.as_millis() as u64 {
                self.snapshot = None;
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
            // A second early: entries that changed just before the last snapshot do not count as unchanged.
            let time = time_of(now_ms.saturating_sub(1000));
            let log = known.unwrap_or(Log { name, time, durable: 0, is_closed: false });
            all.push((log, len));
        }
        Ok(all)
    }

    fn commit(
        &mut self,
        repo: &Repository,
        came: Vec<(Log, u64)>,
        spool: &Path,
        until_ms: u64,
        options: &FollowOptions,
        monitor: &dyn Monitor,
    ) -> Result<()> {
        let Some(replaced) = self.snapshot else { return Ok(()) };
        self.details.insert("until-ms".into(), until_ms.max(self.until_ms).to_string());
        let time = jiff::Timestamp::from_millisecond(self.base_ms as i64).unwrap_or_default();
        let backup_options = BackupOptions { time, parent: Some(replaced), ..options.backup.clone() };
        let made = loop {
            let mut source = self.source(&came, spool)?;
            // A tally of its own, and a commit that was begun is finished.
            let tally = Tally::default();
            let made = backup(repo, &mut source, &backup_options, &tally);
            tally.errors().into_iter().for_each(|error| monitor.error(error));
            match made {
                // A prune took this session for dead; there is nothing to read again but what is here.
                Err(Error::Store(chunkstore::Error::Fenced { .. })) => {}
                made => break made?,
            }
        };
        repo.forget(&[replaced])?;
        self.snapshot = made.snapshot;
        self.until_ms = until_ms.max(self.until_ms);
        let last = came.len().saturating_sub(1);
        self.total = came.iter().map(|(_, len)| len).sum();
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

    fn source(&self, came: &[(Log, u64)], spool: &Path) -> Result<Taken> {
        let base_time = self.base.first().map_or(time_of(self.base_ms), |(_, time)| *time);
        let folder = &self.folder;
        let mut items: Vec<Item> =
            folder.match_indices('/').map(|(end, _)| Item::folder(&folder[..end], base_time)).collect();
        items.push(Item::folder(folder, base_time));
        items.push(Item::folder(&format!("{folder}/databases"), base_time));
        items.extend(self.base.iter().map(|(path, time)| taken_over(path, *time)));
        items.push(Item::folder(&format!("{folder}/binlog"), base_time));
        for (log, len) in came {
            let path = format!("{folder}/binlog/{}", log.name);
            items.push(if log.is_closed {
                taken_over(&path, log.time)
            } else {
                let place = spool.join(&log.name);
                let failed = |source| Error::Target { op: "read", path: place.display().to_string(), source };
                AtHand::opened(&path, log.time, File::open(&place).map_err(failed)?.take(*len))
            });
        }
        items.sort_by(|a, b| crate::entry::compare_paths(&a.entry.path, &b.entry.path));
        let mut record = SourceRecord::new(KIND, &self.origin, true);
        record.details = self.details.clone();
        Ok(Taken { folder: folder.clone(), record, items: items.into() })
    }
}

fn paths(folder: &str) -> Vec<String> {
    vec![format!("/{folder}/databases"), format!("/{folder}/binlog")]
}

/// The dump as it comes, for a stream.
struct FirstBase {
    dump: MysqlSource,
    folder: String,
    base_ms: u64,
}

impl Source for FirstBase {
    fn records(&self) -> Vec<SourceRecord> {
        let mut records = self.dump.records();
        for record in &mut records {
            KIND.clone_into(&mut record.kind);
            record.details.insert("base-ms".into(), self.base_ms.to_string());
            record.details.insert("until-ms".into(), self.base_ms.to_string());
        }
        records
    }
    fn paths(&self) -> Vec<String> {
        paths(&self.folder)
    }
    fn start(&mut self, seed: [u64; 2]) -> std::result::Result<(), SourceError> {
        self.dump.start(seed)
    }
    fn next_item(&mut self, monitor: &dyn Monitor) -> std::result::Result<Option<Item>, SourceError> {
        self.dump.next_item(monitor)
    }
}

/// What a commit makes a snapshot of.
struct Taken {
    folder: String,
    record: SourceRecord,
    items: VecDeque<Item>,
}

impl Source for Taken {
    fn records(&self) -> Vec<SourceRecord> {
        vec![self.record.clone()]
    }
    fn paths(&self) -> Vec<String> {
        paths(&self.folder)
    }
    fn next_item(&mut self, _: &dyn Monitor) -> std::result::Result<Option<Item>, SourceError> {
        Ok(self.items.pop_front())
    }
}
