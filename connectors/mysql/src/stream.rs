//! Every moment of a MariaDB: a dump that says where it is in the binary log, and after it the log itself, as mariadb-binlog
//! fetches it. One snapshot for each dump; while esker is attached it is replaced by a longer one every few seconds.
//!
//! What has been fetched lies in a private folder until it is in the repository. A log that grows is fetched again from its
//! beginning after an interruption, and must begin with what is stored of it; if it does not, or the server's log ends
//! before that, it is another log, the snapshot stays as it is, and a new base begins.
//! Source: MariaDB's documentation, "mariadb-binlog", "Binary Log Event Header".

use crate::dump::MysqlSource;
use crate::server::Server;
use chunkstore::threads;
use connector_kit::child::{self, Role, Running};
use engine::entry::Time;
use engine::growing::{self, Feed, FollowOptions, Growing, Layout, Left, Part, Report, Standing, time_of};
use engine::source::at_hand::AtHand;
use engine::source::{Item, SourceError, SourceErrorKind};
use engine::{Error, Monitor, Repository, Result};
pub(crate) use same::place;
use same::{Same, seam};
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;
use std::process::Stdio;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tempfile::TempDir;

mod same;

/// Kind in a snapshot's record.
pub const KIND: &str = "mysql+binlog";
const TICK: Duration = Duration::from_millis(100);
/// If nothing comes for so long of a log that has more, the line is dead, or the log is another one.
const STALL: Duration = Duration::from_secs(30);
/// What the file of a log is called here, before the name that the server gives it. mariadb-binlog writes wherever that
/// name leads: behind these letters, one with `..` or `/` in it leads to a folder that there is not.
const FILE: &str = "log-";
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
    /// The last of those bytes, once they have been compared with what is fetched now.
    seam: Option<Vec<u8>>,
}

struct Binlog<'a> {
    repo: &'a Repository,
    server: &'a Server,
    options: &'a FollowOptions,
    monitor: &'a dyn Monitor,
    growing: Growing,
    logs: Vec<Log>,
    /// Whether the last session ended by itself: the server may lack the log that it was to send.
    has_ended: bool,
}

/// mariadb-binlog at work; ends with its owner.
struct Fetching {
    child: Running,
    /// What it complains of, once it has ended.
    complaints: Option<JoinHandle<String>>,
    folder: TempDir,
    /// Bytes that were there at the last look, and when there were more than before.
    grown: (u64, Instant),
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
    let mut log = Binlog { repo, server, options, monitor, growing, logs: vec![], has_ended: false };
    log.take_over(parts);
    if log.growing.has_base() && log.logs.is_empty() {
        let why = "the stream so far has no binary log by which the server's could be known again";
        log.growing.leave(why, monitor);
    }
    growing::follow(&mut log, options, monitor, report)
}

/// How many bytes of a log, which has `len` now, are whole events.
///
/// # Errors
/// Of reading it.
pub fn whole_len(log: &mut (impl Read + Seek), len: u64) -> std::io::Result<u64> {
    let mut magic = [0; 4];
    if len < 4 || log.read_exact(&mut magic).is_err() || magic != MAGIC {
        return Ok(0);
    }
    let mut at = 4;
    let mut header = [0; EVENT_HEADER];
    while at + EVENT_HEADER as u64 <= len {
        log.seek(SeekFrom::Start(at))?;
        log.read_exact(&mut header)?;
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
    fn take_over(&mut self, mut parts: Vec<Part>) {
        parts.sort_by(|a, b| place(&a.name).cmp(&place(&b.name)));
        // The last one may grow.
        let last = parts.len().saturating_sub(1);
        let log = |(number, Part { name, time, size }): (usize, Part)| Log {
            name,
            time,
            durable: size,
            is_closed: number < last,
            seam: None,
        };
        self.logs = parts.into_iter().enumerate().map(log).collect();
    }

    /// The file of the log to go on from.
    fn first(&self) -> Option<&str> {
        let last = self.logs.last().map(|log| log.name.as_str());
        last.or_else(|| self.growing.details.get("binlog").map(String::as_str))
    }

    /// Whether the server has removed that file, so that nothing leads on from what there is. A server that does not answer
    /// has not.
    fn is_purged(&self, first: &str) -> bool {
        let there = self.server.query("SHOW BINARY LOGS");
        there.is_ok_and(|rows| !rows.iter().any(|row| row.first().is_some_and(|name| name == first)))
    }

    /// Starts to fetch from the log that grows.
    fn fetch(&self) -> std::result::Result<Fetching, SourceError> {
        let server = self.server;
        let failed = |error: std::io::Error| server.error(SourceErrorKind::Command, error);
        let folder = tempfile::tempdir_in(&self.options.scratch).map_err(failed)?;
        let first = self.first().ok_or_else(|| {
            server.error(SourceErrorKind::Unavailable, "the dump does not say where it is in the binary log")
        })?;
        let mut command = server.command(["mariadb-binlog", "mysqlbinlog"])?;
        let id = 1_000_000 + std::process::id() % 1_000_000_000;
        command.args(["--read-from-remote-server", "--raw", "--stop-never"]);
        command.arg(format!("--stop-never-slave-server-id={id}"));
        command.arg(format!("--result-file={}/{FILE}", folder.path().display())).arg("--").arg(first);
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = child::spawn(&mut command, Role::Tool).map_err(failed)?;
        let said = child.stderr.take();
        let grown = (0, Instant::now());
        let mut fetching = Fetching { child, complaints: None, folder, grown };
        let listener = said.map(|said| threads::start("esker-said", move || child::complaints(said)));
        fetching.complaints = listener.transpose().map_err(failed)?;
        Ok(fetching)
    }

    /// The server's time, in milliseconds since 1970, and where its log was then or later.
    fn there(&self) -> Option<(u64, String, u64)> {
        let first = |sql: &str| self.server.query(sql).ok()?.into_iter().next();
        let time = first("SELECT UNIX_TIMESTAMP(SYSDATE(3))")?;
        let status = first("SHOW MASTER STATUS")?;
        let seconds: f64 = time.first()?.parse().ok()?;
        match status.as_slice() {
            [file, position, ..] => Some(((seconds * 1e3) as u64, file.clone(), position.parse().ok()?)),
            _ => None,
        }
    }

    /// Why what the server has is not the log that is stored, if it is not. Compares what is stored with what `came` into
    /// `folder`: all of it once, and its end from then on.
    fn is_another(
        &mut self,
        there: Option<&(u64, String, u64)>,
        came: &[(Log, u64)],
        folder: &Path,
    ) -> Result<Option<String>> {
        let base = (self.growing.detail("binlog").to_owned(), self.growing.number("position"));
        let (name, end) = self.logs.last().map_or(base, |log| (log.name.clone(), log.durable));
        if let Some((_, file, position)) = there
            && (place(file), *position) < (place(&name), end)
        {
            return Ok(Some(format!(
                "the server's binary log ends at {file}:{position}, before {name}:{end}, up to which the stream has it: it is another log"
            )));
        }
        let mut fetched = came.iter().skip_while(|(log, _)| log.name != name);
        let Some((_, len)) = fetched.next() else { return Ok(None) };
        if *len < end {
            let is_over = fetched.next().is_some();
            return Ok(is_over.then(|| format!("{name} of the server is shorter than that of the stream")));
        }
        let path = folder.join(format!("{FILE}{name}"));
        let failed = |source| Error::Target { op: "read", path: path.display().to_string(), source };
        let Some(last) = self.logs.last_mut() else {
            let whole = File::open(&path).and_then(|mut log| whole_len(&mut log, end)).map_err(failed)?;
            return Ok((whole != end).then(|| format!("{name} of the server is not that of the dump")));
        };
        let is_same = match &last.seam {
            Some(stored) => *stored == seam(&path, end).map_err(failed)?,
            None => {
                let mut same = Same::with(BufReader::new(File::open(&path).map_err(failed)?));
                self.growing.read(self.repo, &name, &mut same)?;
                if same.is_same {
                    last.seam = Some(seam(&path, end).map_err(failed)?);
                }
                same.is_same
            }
        };
        Ok((!is_same).then(|| format!("{name} of the server is another log than that of the stream")))
    }

    /// The logs, with those that were fetched, and how much of each is whole.
    fn look(&self, folder: &Path, now_ms: u64) -> Result<Vec<(Log, u64)>> {
        let failed = |source| Error::Target { op: "read", path: folder.display().to_string(), source };
        let mut names: Vec<String> = std::fs::read_dir(folder)
            .map_err(failed)?
            .flatten()
            .filter_map(|entry| Some(entry.file_name().to_string_lossy().strip_prefix(FILE)?.to_owned()))
            .collect();
        names.sort_by(|a, b| place(a).cmp(&place(b)));
        let mut all: Vec<(Log, u64)> =
            self.logs.iter().filter(|log| log.is_closed).map(|log| (log.clone(), log.durable)).collect();
        for name in names {
            if all.iter().any(|(log, _)| log.name == name) {
                continue;
            }
            let opened = File::open(folder.join(format!("{FILE}{name}")));
            let len = opened.and_then(|mut log| {
                let len = log.metadata()?.len();
                whole_len(&mut log, len)
            });
            let len = len.map_err(failed)?;
            let known = self.logs.iter().find(|log| log.name == name).cloned();
            let time = time_of(now_ms);
            let log = known.unwrap_or(Log { name, time, durable: 0, is_closed: false, seam: None });
            all.push((log, len));
        }
        Ok(all)
    }

    /// Makes durable what `came` into the folder `spool`.
    fn store(&mut self, came: Vec<(Log, u64)>, spool: &Path, until_ms: u64) -> Result<()> {
        let item = |layout: &Layout, (log, len): &(Log, u64)| {
            let path = layout.part(&log.name);
            if log.is_closed {
                return Ok(Item::taken_over(&path, log.time));
            }
            let place = spool.join(format!("{FILE}{}", log.name));
            let failed = |source| Error::Target { op: "read", path: place.display().to_string(), source };
            Ok(AtHand::opened(&path, log.time, File::open(&place).map_err(failed)?.take(*len)))
        };
        let parts =
            |layout: &Layout| came.iter().map(|came| item(layout, came)).collect::<Result<Vec<Item>>>();
        self.growing.commit(self.repo, until_ms, &parts, self.options, self.monitor)?;
        let last = came.len().saturating_sub(1);
        let ends = came.last().map(|(log, len)| {
            let place = spool.join(format!("{FILE}{}", log.name));
            let failed = |source| Error::Target { op: "read", path: place.display().to_string(), source };
            seam(&place, *len).map_err(failed)
        });
        let ends = ends.transpose()?;
        self.logs = came
            .into_iter()
            .enumerate()
            .map(|(number, (log, durable))| {
                let is_closed = number < last;
                if is_closed && !log.is_closed {
                    // It is in the repository now, and the server has gone on to the next.
                    let _ = std::fs::remove_file(spool.join(format!("{FILE}{}", log.name)));
                }
                Log { durable, is_closed, seam: ends.clone().filter(|_| !is_closed), ..log }
            })
            .collect();
        Ok(())
    }
}

impl Feed for Binlog<'_> {
    type Session = Fetching;

    fn growing(&mut self) -> &mut Growing {
        &mut self.growing
    }

    fn standing(&self) -> Option<Standing> {
        let position = self.logs.last().map_or(0, |log| log.durable);
        self.growing.standing(position, self.logs.iter().map(|log| log.durable).sum(), self.options)
    }

    fn new_base(&mut self) -> Result<()> {
        let now_ms = self.options.now_ms();
        let mut dump = MysqlSource::new(self.server.clone(), time_of(now_ms), true);
        let parts = self.growing.begin(self.repo, &mut dump, now_ms, self.options, self.monitor)?;
        self.take_over(parts);
        Ok(())
    }

    fn attach(&mut self) -> std::result::Result<Fetching, Left> {
        let has_ended = std::mem::take(&mut self.has_ended);
        if let Some(first) = self.first().filter(|first| has_ended && self.is_purged(first)) {
            return Err(Left::NeedsBase(format!("the server has removed {first} of its binary log")));
        }
        self.logs.iter_mut().for_each(|log| log.seam = None);
        self.fetch().map_err(|error| Left::Trouble(error.to_string()))
    }

    fn take(&mut self, fetching: &mut Fetching) -> std::result::Result<bool, Left> {
        std::thread::sleep(TICK);
        if !matches!(fetching.child.try_wait(), Ok(Some(_))) {
            return Ok(false);
        }
        self.has_ended = true;
        let said = fetching.complaints.take().and_then(|said| said.join().ok()).unwrap_or_default();
        Err(Left::Trouble(said.lines().last().unwrap_or("the server hung up").to_owned()))
    }

    fn commit(&mut self, fetching: &mut Fetching, last: bool) -> Result<Option<Left>> {
        let folder = fetching.folder.path();
        // Where the server was before we look at what is here, by its own clock, which its events have, too.
        let there = self.there();
        let came = self.look(folder, self.options.now_ms())?;
        if let Some(why) = self.is_another(there.as_ref(), &came, folder)? {
            return Ok(Some(Left::NeedsBase(why)));
        }
        let is_complete = |(_, file, position): &(u64, String, u64)| {
            came.last().is_some_and(|(log, len)| (place(&log.name), *len) >= (place(file), *position))
        };
        let until_ms = there.as_ref().filter(|there| is_complete(there)).map_or(0, |(ms, ..)| *ms);
        let size = came.iter().map(|(_, len)| len).sum();
        if size != fetching.grown.0 || until_ms > 0 || there.is_none() {
            fetching.grown = (size, Instant::now());
        }
        let grew = came.iter().any(|(log, len)| *len > log.durable);
        let has_moments =
            self.growing.is_stale(until_ms, self.options) || last && until_ms > self.growing.until_ms;
        // After an interruption the log is fetched again: not less than there was.
        let is_behind = came.len() < self.logs.len()
            || came.iter().any(|(log, len)| *len < log.durable)
            || self.logs.last().is_some_and(|log| log.seam.is_none());
        if !is_behind && (grew || has_moments) {
            self.store(came, fetching.folder.path(), until_ms)?;
        }
        let is_stalled = fetching.grown.1.elapsed() > STALL;
        let why = || "the server sends nothing of its binary log, which goes on".to_owned();
        Ok(is_stalled.then(|| Left::Trouble(why())))
    }
}
