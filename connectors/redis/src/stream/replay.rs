//! Replaying a live stream into a running server that has its base: the commands after it, up to a moment.

use super::segment::{Frame, decode};
use crate::keys::Dump;
use crate::resp::Resp;
use crate::server::client::Client;
use crate::server::{Server, words};
use chunkstore::ingest::ChunkRef;
use engine::manifest::{Ending, ManifestReader, Record, Step};
use engine::snapshot::{Listed, Snapshot};
use engine::source::SourceErrorKind;
use engine::{Counter, Error, ItemError, Monitor, Repository, Result};
use redis::Value;
use std::collections::BTreeSet;

/// What a journal covers, in milliseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The moment of its base.
    pub from_ms: u64,
    /// The last moment that can be restored.
    pub until_ms: u64,
}

/// What a snapshot covers, if it is a journal.
#[must_use]
pub fn span(snapshot: &Snapshot) -> Option<Span> {
    let record = snapshot.sources.iter().find(|source| source.kind == super::KIND)?;
    let number = |name: &str| record.details.get(name)?.parse().ok();
    Some(Span { from_ms: number("base-ms")?, until_ms: number("until-ms")? })
}

/// The journal that holds a moment: the one with the latest base before it.
pub fn holding(all: &[Listed], time_ms: u64) -> Result<&Listed> {
    let journals = || all.iter().filter_map(|listed| Some((listed, span(&listed.snapshot)?)));
    let servers: BTreeSet<&String> = journals().flat_map(|(listed, _)| &listed.snapshot.paths).collect();
    // Each has two paths: its dump, and its stream.
    if servers.len() > 2 {
        let names: Vec<&str> =
            servers.iter().filter_map(|path| path.trim_start_matches('/').strip_suffix("/stream")).collect();
        return Err(Error::Invalid(format!(
            "there are journals of several servers; name one, as latest:{}",
            names.join(" or latest:")
        )));
    }
    let found = journals().filter(|(_, span)| span.from_ms <= time_ms).max_by_key(|(_, span)| span.from_ms);
    let Some((listed, span)) = found else {
        let first = journals().map(|(_, span)| span.from_ms).min();
        return Err(Error::Invalid(match first {
            Some(first) => format!("no journal goes back that far; the first begins at {}", shown(first)),
            None => "there is no journal here; 'esker stream' makes one".into(),
        }));
    };
    if time_ms > span.until_ms {
        return Err(Error::Invalid(format!(
            "the journal that begins at {} ends at {}",
            shown(span.from_ms),
            shown(span.until_ms)
        )));
    }
    Ok(listed)
}

/// A moment for people.
#[must_use]
pub fn shown(ms: u64) -> String {
    jiff::Timestamp::from_millisecond(ms as i64).map_or_else(|_| ms.to_string(), |time| time.to_string())
}

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplayReport {
    /// Commands sent.
    pub commands: u64,
    /// Those the server refused.
    pub refused: u64,
    /// The moment that was reached: that of the last frame, at most the one asked for.
    pub reached_ms: u64,
}

/// Bytes and commands under way at a time.
const BATCH: usize = 64 << 10;
const BATCH_COMMANDS: u64 = 1000;
/// Refusals that are told one by one.
const TOLD: u64 = 10;

/// Sends the commands of `snapshot` that came up to `until_ms` to `server`, which must hold its base; without one it only
/// reads them.
pub fn replay(
    repo: &Repository,
    snapshot: &Snapshot,
    server: Option<&Server>,
    until_ms: u64,
    monitor: &dyn Monitor,
) -> Result<ReplayReport> {
    let mut replaying = Replaying::new(server, monitor)?;
    replaying.report.reached_ms = span(snapshot).map_or(0, |span| span.from_ms);
    let mut end = None;
    for (name, chunks) in segments(repo, snapshot)? {
        let bytes = chunkstore::reader::read_all(repo.store(), &chunks)?;
        let bad = |why: String| Error::Malformed { what: format!("segment {name}"), why };
        for frame in decode(&bytes).map_err(|error| bad(error.to_string()))? {
            if end.is_some_and(|end| end != frame.offset) {
                return Err(bad("does not follow the one before".into()));
            }
            if frame.time_ms > until_ms {
                replaying.flush()?;
                return Ok(replaying.report);
            }
            if end.is_none() {
                replaying.send(&crate::resp::encode(&[b"SELECT", frame.database.to_string().as_bytes()]))?;
            }
            end = Some(frame.end());
            replaying.frame(&frame).map_err(|error| match error {
                Error::Invalid(why) => bad(why),
                other => other,
            })?;
            if monitor.interrupted() {
                return Err(Error::Interrupted);
            }
        }
    }
    replaying.flush()?;
    Ok(replaying.report)
}

/// Sends the commands of an append-only file to `server`, which must hold the dump that they follow, or nothing; without a
/// server it only reads them. `None` if there are none.
pub fn replay_commands(
    repo: &Repository,
    dump: &Dump,
    server: Option<&Server>,
    monitor: &dyn Monitor,
) -> Result<Option<ReplayReport>> {
    if dump.commands.is_empty() {
        return Ok(None);
    }
    let mut replaying = Replaying::new(server, monitor)?;
    for part in &dump.commands {
        let mut skip = if part.after_dump { dump.end(repo)? } else { 0 };
        // Each file begins with a SELECT of its own.
        let (mut resp, mut carried) = (Resp::default(), vec![]);
        for chunk in &part.content {
            if skip >= u64::from(chunk.len) {
                skip -= u64::from(chunk.len);
                continue;
            }
            let already = carried.len();
            let bytes = chunkstore::reader::read_all(repo.store(), &[*chunk])?;
            carried.extend_from_slice(
                bytes.get(usize::try_from(skip).unwrap_or_default()..).unwrap_or_default(),
            );
            skip = 0;
            let mut commands = vec![];
            resp.feed(&carried[already..], &mut |at, _| commands.push(already + at))
                .map_err(|why| Error::Malformed { what: part.path.clone(), why })?;
            let mut from = 0;
            for to in commands {
                // Annotations before a command are no part of it for a server.
                let command = &carried[from..to];
                let start =
                    command.iter().position(|byte| *byte == b'*').filter(|_| command.first() != Some(&b'*'));
                replaying.send(&command[start.unwrap_or(0)..])?;
                from = to;
            }
            carried.drain(..from);
            if monitor.interrupted() {
                return Err(Error::Interrupted);
            }
        }
        if !resp.is_whole() {
            return Err(Error::Malformed {
                what: part.path.clone(),
                why: "ends within a command or transaction".into(),
            });
        }
    }
    replaying.flush()?;
    Ok(Some(replaying.report))
}

/// The segments of a journal and their chunks, in order.
fn segments(repo: &Repository, snapshot: &Snapshot) -> Result<Vec<(String, Vec<ChunkRef>)>> {
    entries(repo, snapshot, &|path| path.starts_with("redis/") && path.contains("/stream/"))
}

/// Entries and their chunks, in order of path.
fn entries(
    repo: &Repository,
    snapshot: &Snapshot,
    wanted: &dyn Fn(&str) -> bool,
) -> Result<Vec<(String, Vec<ChunkRef>)>> {
    let mut reader = ManifestReader::new(repo.store(), &snapshot.manifest)?;
    let (mut all, mut open) = (vec![], None);
    while let Some(step) = reader.next_step()? {
        match step {
            Step::Damage(damage) => return Err(damage.error.into()),
            Step::Record(Record::Entry(entry)) => {
                let path = String::from_utf8_lossy(&entry.path).into_owned();
                open = wanted(&path).then(|| (path, vec![]));
            }
            Step::Record(Record::Chunks(chunks)) => {
                if let Some((_, known)) = &mut open {
                    known.extend(chunks);
                }
            }
            Step::Record(Record::End(Ending::Complete, _)) => all.extend(open.take()),
            Step::Record(Record::End(..) | Record::Hole(_)) => open = None,
        }
    }
    Ok(all)
}

struct Replaying<'a> {
    /// `None` if commands are only read.
    to: Option<(Client, &'a Server)>,
    monitor: &'a dyn Monitor,
    batch: Vec<u8>,
    /// Commands in the batch.
    pending: u64,
    report: ReplayReport,
}

impl<'a> Replaying<'a> {
    fn new(server: Option<&'a Server>, monitor: &'a dyn Monitor) -> Result<Self> {
        let to = server.map(|server| Ok::<_, Error>((server.connect()?, server))).transpose()?;
        Ok(Self { to, monitor, batch: vec![], pending: 0, report: ReplayReport::default() })
    }

    fn frame(&mut self, frame: &Frame) -> Result<()> {
        let mut commands = vec![];
        let fed = Resp::default().feed(&frame.bytes, &mut |at, command| {
            // What masters say to replicas, and to nobody else.
            let is_data = !matches!(command.name.as_slice(), b"PING" | b"REPLCONF");
            commands.push((at, is_data));
        });
        fed.map_err(Error::Invalid)?;
        let mut from = 0;
        for (to, is_data) in commands {
            if is_data {
                self.send(&frame.bytes[from..to])?;
            }
            from = to;
        }
        self.report.reached_ms = frame.time_ms;
        Ok(())
    }

    fn send(&mut self, command: &[u8]) -> Result<()> {
        self.batch.extend_from_slice(command);
        self.pending += 1;
        if self.batch.len() >= BATCH || self.pending >= BATCH_COMMANDS { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let down = |server: &Server, error: redis::RedisError| {
            Error::from(
                server.error(SourceErrorKind::Unavailable, format!("while replaying: {}", words(&error))),
            )
        };
        if let Some((connection, server)) = &mut self.to {
            connection.send(&self.batch).map_err(|error| down(server, error))?;
        }
        self.monitor.count(Counter::BytesDone, self.batch.len() as u64);
        self.batch.clear();
        for _ in 0..std::mem::take(&mut self.pending) {
            self.report.commands += 1;
            let Some((connection, server)) = &mut self.to else { continue };
            let refusal = match connection.answer() {
                Ok(Value::ServerError(error)) => words(&error.into()),
                Ok(_) => continue,
                Err(error) if error.is_io_error() => return Err(down(server, error)),
                Err(error) => words(&error),
            };
            self.report.refused += 1;
            if self.report.refused <= TOLD {
                let item = format!("command {}", self.report.commands);
                self.monitor.error(ItemError { during: "replay", item, message: refusal });
            }
        }
        Ok(())
    }
}
