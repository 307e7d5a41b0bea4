//! A Redis dump from any source: stored in order, with its seek index beside it (`dump.rdb`, `dump.rdb.index`, and
//! `dump.rdb.usage` if the server reports how keys are used), or unchanged on request.
//!
//! Sorting needs the whole dump before the first byte can be stored, so a thread of its own receives it as fast as the
//! server sends, from the start of the backup: several servers of one snapshot are read at the same time, however long
//! storing takes.

use crate::rdb::canonical::{Canonical, Gathered, Output, Sides, gather};
use crate::rdb::check::Flaws;
use crate::rdb::end_mark::RdbEndMark;
use crate::rdb::probe::Probe;
use crate::rdb::{MAGIC_LEN, RdbError, Version};
use crate::server::link::Stop;
use crate::settings::ORDER;
use chunkstore::pool::locked;
use engine::Monitor;
use engine::connector::Context;
use engine::entry::Time;
use engine::snapshot::SourceRecord;
use engine::source::at_hand::AtHand;
use engine::source::end_mark::EndMark as _;
use engine::source::end_mark::Flaws as _;
use engine::source::{Clock, Content, Item, Opener, Piece, Source, SourceError, SourceErrorKind, Status};
use engine::spill::Aside;
use std::collections::VecDeque;
use std::io::Read;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// How long a gathering may keep us from looking at anything else.
const PATIENCE: Duration = Duration::from_millis(200);

/// In what order a dump is laid down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RdbOrder {
    /// By database and key: what did not change is found again, and single keys without the rest.
    #[default]
    Canonical,
    /// As it comes, byte for byte.
    Raw,
}

/// Opens a dump; [`Stop`] ends it from outside. A second call reads it again, which is a later moment of a server.
pub type OpenDump = Box<dyn FnMut(&Stop) -> Result<Box<dyn Read + Send>, SourceError> + Send>;

/// Where a dump comes from.
pub struct Origin {
    /// For the snapshot's record.
    pub kind: &'static str,
    /// Name in errors and in the record, without secrets.
    pub shown: String,
    /// Whether all of it is of one moment.
    pub point_in_time: bool,
    /// Opens it.
    pub open: OpenDump,
}

/// What is known when the reading is over.
#[derive(Default)]
struct Facts {
    start: Option<jiff::Timestamp>,
    end: Option<jiff::Timestamp>,
    details: std::collections::BTreeMap<String, String>,
    /// What was written beside the dump.
    sides: Option<Sides>,
    /// What is wrong in it; told once.
    flaws: Flaws,
    /// The repository's, for cuts.
    seed: [u64; 2],
}

type Shared = Arc<Mutex<Facts>>;

fn facts(shared: &Shared) -> std::sync::MutexGuard<'_, Facts> {
    locked(shared)
}

/// How the dump is come by.
enum Way {
    /// Not yet opened.
    Unopened(OpenDump),
    /// It is being gathered.
    Started(Reading),
    /// Its content has it.
    Taken,
}

/// The source of one dump.
pub struct RdbSource {
    origin: SourceRecord,
    path: String,
    time: Time,
    items: VecDeque<Item>,
    way: Arc<Mutex<Way>>,
    shared: Shared,
    options: Context,
}

impl RdbSource {
    /// `path` is the dump's in the snapshot, with its folders.
    pub fn new(origin: Origin, path: &str, time: Time, options: &Context) -> Result<Self, SourceError> {
        if !engine::entry::is_valid_path(path.as_bytes()) {
            return Err(SourceError::new(SourceErrorKind::Missing, path, "not a usable name for a stream"));
        }
        let record = SourceRecord::new(origin.kind, origin.shown, origin.point_in_time);
        let mut source = Self {
            origin: record,
            path: path.to_owned(),
            time,
            items: path.match_indices('/').map(|(end, _)| Item::folder(&path[..end], time)).collect(),
            way: Arc::new(Mutex::new(Way::Unopened(origin.open))),
            shared: Arc::default(),
            options: options.clone(),
        };
        let (way, name) = (Arc::clone(&source.way), source.origin.origin.clone());
        let (shared, options) = (Arc::clone(&source.shared), options.clone());
        let open: Opener = Box::new(move || {
            let way = std::mem::replace(&mut *locked(&way), Way::Taken);
            let state = match way {
                Way::Started(reading) => State::Reading(reading),
                Way::Unopened(mut open) => {
                    let reader = Checked::new(open(&Stop::default())?);
                    facts(&shared).start = Some((options.clock)());
                    facts(&shared).details.insert("order".into(), "raw".into());
                    State::AsItComes(Box::new(reader), Probe::default())
                }
                Way::Taken => {
                    return Err(SourceError::new(SourceErrorKind::Unavailable, &name, "is read twice"));
                }
            };
            Ok(Box::new(RdbContent { state, shared, options, name }) as Box<dyn Content>)
        });
        source.items.push_back(Item::stream(path, time, open));
        Ok(source)
    }

    /// What belongs beside a dump in order, when that was read.
    fn add_sides(&mut self) {
        let Some(sides) = facts(&self.shared).sides.take() else { return };
        let mut add = |name: &str, bytes: Aside| {
            self.items.push_back(AtHand::opened(&format!("{}.{name}", self.path), self.time, bytes));
        };
        add("index", sides.index);
        if let Some(usage) = sides.usage {
            add("usage", usage);
        }
    }
}

impl Source for RdbSource {
    fn records(&self) -> Vec<SourceRecord> {
        let facts = facts(&self.shared);
        let details = facts.details.clone();
        vec![SourceRecord { start: facts.start, end: facts.end, details, ..self.origin.clone() }]
    }

    fn paths(&self) -> Vec<String> {
        vec![format!("/{}", self.path)]
    }

    fn start(&mut self, seed: [u64; 2]) -> Result<(), SourceError> {
        facts(&self.shared).seed = seed;
        // As it comes, a dump is stored while it comes: what was stored before a cut need not come again.
        if self.options.settings.get(ORDER.name) == Some("raw") {
            return Ok(());
        }
        let mut way = locked(&self.way);
        if let Way::Unopened(open) = std::mem::replace(&mut *way, Way::Taken) {
            let name = self.origin.origin.clone();
            *way = Way::Started(Reading::start(open, name, &self.options, &self.shared)?);
        }
        Ok(())
    }

    fn next_item(&mut self, monitor: &dyn Monitor) -> Result<Option<Item>, SourceError> {
        if self.items.is_empty() {
            self.add_sides();
            let flaws = std::mem::take(&mut facts(&self.shared).flaws);
            flaws.tell(&self.path, monitor);
        }
        Ok(self.items.pop_front())
    }
}

/// What the gathering thread ends with.
enum Outcome {
    InOrder(Box<Gathered>),
    AsItCame(Aside),
}

/// A dump on its way in, in a thread of its own, which ends with its owner.
struct Reading {
    outcome: Receiver<Result<Outcome, SourceError>>,
    stop: Stop,
    thread: Option<JoinHandle<()>>,
}

impl Reading {
    fn start(open: OpenDump, name: String, options: &Context, shared: &Shared) -> Result<Self, SourceError> {
        let (send, outcome) = sync_channel(1);
        let stop = Stop::default();
        let theirs = stop.clone();
        let (shared, shown) = (Arc::clone(shared), name.clone());
        let (scratch, clock) = (options.scratch.clone(), options.clock);
        let thread = std::thread::Builder::new().name("esker-redis".into()).spawn(move || {
            let read = read_dump(open, &theirs, &scratch, clock, &shared, &shown);
            // Nobody listens any more: then nobody wants to know.
            let _ = send.send(read.map_err(|error| told(error, &shown)));
        });
        let thread = thread.map_err(|error| SourceError::new(SourceErrorKind::Unavailable, &name, error))?;
        Ok(Self { outcome, stop, thread: Some(thread) })
    }

    /// What came of it, if it is over.
    fn poll(&mut self, name: &str) -> Result<Option<Outcome>, SourceError> {
        match self.outcome.recv_timeout(PATIENCE) {
            Ok(outcome) => outcome.map(Some),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => {
                Err(SourceError::new(SourceErrorKind::Unavailable, name, "the reading thread died"))
            }
        }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.stop.now();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Reads a dump to its end and checks that it is whole.
fn read_dump(
    mut open: OpenDump,
    stop: &Stop,
    scratch: &Path,
    clock: Clock,
    shared: &Shared,
    name: &str,
) -> Result<Outcome, RdbError> {
    let mut opened = || -> Result<_, RdbError> {
        let mut reader = Checked::new(open(stop).map_err(std::io::Error::other)?);
        facts(shared).start = Some(clock());
        let mut magic = [0; MAGIC_LEN];
        reader.read_exact(&mut magic)?;
        Ok((reader, magic))
    };
    let (mut reader, mut magic) = opened()?;
    let version = Version::parse(&magic);
    let mut details = vec![("format", version.map_or_else(String::new, Version::magic))];
    let (mut outcome, mut unreadable) = (None, None);
    if version.is_some_and(Version::is_known) {
        match gather(magic.as_slice().chain(&mut reader), scratch) {
            Ok(gathered) => outcome = Some(gathered),
            // What came is scattered; it takes a second look to keep it as it comes.
            Err(RdbError::Unknown(bad)) => {
                unreadable = Some(bad.to_string());
                (reader, magic) = opened()?;
            }
            Err(RdbError::Malformed(mut bad)) => {
                if reader.finish(name).is_ok() && reader.mark.unproved().is_none() {
                    bad.why += "; its checksum is right, so it was written so: -o redis.order=raw stores it as it is";
                }
                return Err(bad.into());
            }
            Err(error) => return Err(error),
        }
    }
    let (outcome, flaws) = if let Some(gathered) = outcome {
        // The checksum, and whatever else the transfer ends with.
        reader.finish(name)?;
        if !gathered.is_all {
            let why = "something stands behind the RDB's end mark";
            return Err(
                std::io::Error::other(SourceError::new(SourceErrorKind::Incomplete, name, why)).into()
            );
        }
        for (name, detail) in
            [("redis-ver", "server"), ("valkey-ver", "server"), ("repl-id", "replication-id")]
        {
            details.extend(gathered.aux.get(name).map(|value| (detail, value.clone())));
        }
        details.push(("order", "canonical".into()));
        let flaws = gathered.flaws.clone();
        (Outcome::InOrder(Box::new(gathered)), flaws)
    } else {
        let mut aside = Aside::new(scratch);
        std::io::copy(&mut magic.as_slice().chain(&mut reader), &mut aside)?;
        reader.finish(name)?;
        aside.rewind()?;
        details.push(("order", "raw".into()));
        let why = "a version of the format that this program does not know";
        details.push(("why", unreadable.clone().unwrap_or_else(|| why.into())));
        (Outcome::AsItCame(aside), Flaws { unreadable, ..Flaws::default() })
    };
    let flaws = Flaws { unproved: reader.mark.unproved(), ..flaws };
    details.extend(flaws.details());
    let mut facts = facts(shared);
    facts.end = Some(clock());
    facts.details = details.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    facts.flaws = flaws;
    Ok(outcome)
}

/// An error of a walk as one of the source; the ones that came through from the source stay what they are.
pub(crate) fn told(error: RdbError, name: &str) -> SourceError {
    match error {
        RdbError::Malformed(bad) | RdbError::Unknown(bad) => {
            SourceError::new(SourceErrorKind::Incomplete, name, format!("corrupt RDB: {bad}"))
                .with_status(Status::Permanent)
        }
        RdbError::Read(error) => match error.downcast::<SourceError>() {
            Ok(error) => error,
            Err(error) => SourceError::new(SourceErrorKind::Unavailable, name, error),
        },
    }
}

/// Looks at what passes.
pub(crate) struct Checked<R> {
    pub(crate) reader: R,
    pub(crate) mark: RdbEndMark,
}

impl<R: Read> Checked<R> {
    pub(crate) fn new(reader: R) -> Self {
        Self { reader, mark: RdbEndMark::default() }
    }

    /// Reads what is left and refuses a dump that was not whole.
    pub(crate) fn finish(&mut self, name: &str) -> Result<(), RdbError> {
        std::io::copy(self, &mut std::io::sink())?;
        let whole = self.mark.finish();
        whole.map_err(|why| {
            std::io::Error::other(SourceError::new(SourceErrorKind::Incomplete, name, why)).into()
        })
    }
}

impl<R: Read> Read for Checked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let len = self.reader.read(buffer)?;
        self.mark.see(&buffer[..len]);
        Ok(len)
    }
}

/// The dump's bytes as the backup takes them.
struct RdbContent {
    state: State,
    shared: Shared,
    options: Context,
    name: String,
}

enum State {
    Reading(Reading),
    InOrder(Box<Canonical>),
    AsItCame(Aside),
    AsItComes(Box<Checked<Box<dyn Read + Send>>>, Probe),
    Done,
}

impl Content for RdbContent {
    fn read(&mut self, buffer: &mut [u8]) -> Result<Piece, SourceError> {
        let len = match &mut self.state {
            State::Done => return Ok(Piece::End),
            State::Reading(reading) => {
                self.state = match reading.poll(&self.name)? {
                    None => return Ok(Piece::Wait),
                    Some(Outcome::InOrder(gathered)) => {
                        let seed = facts(&self.shared).seed;
                        State::InOrder(Box::new(Canonical::new(*gathered, &self.options.scratch, seed)))
                    }
                    Some(Outcome::AsItCame(aside)) => State::AsItCame(aside),
                };
                return Ok(Piece::Wait);
            }
            State::InOrder(canonical) => match canonical.next_part(buffer) {
                Ok(Output::Cut) => return Ok(Piece::Cut),
                Ok(Output::Bytes(len)) => Ok(len),
                Err(error) => Err(error),
            },
            State::AsItCame(aside) => aside.read(buffer).map_err(RdbError::Read),
            State::AsItComes(reader, probe) => {
                let len = reader.read(buffer).map_err(RdbError::Read);
                probe.see(&buffer[..*len.as_ref().unwrap_or(&0)]);
                len
            }
        };
        let len = len.map_err(|error| told(error, &self.name))?;
        if len > 0 {
            return Ok(Piece::Data(len));
        }
        let state = std::mem::replace(&mut self.state, State::Done);
        if let State::AsItComes(mut reader, mut probe) = state {
            reader.finish(&self.name).map_err(|error| told(error, &self.name))?;
            let unproved = reader.mark.unproved();
            let flaws = probe.finish().flaws(unproved.is_none());
            let flaws =
                flaws.map_err(|why| SourceError::new(SourceErrorKind::Incomplete, &self.name, why))?;
            let flaws = Flaws { unproved, ..flaws };
            let mut facts = facts(&self.shared);
            facts.end = Some((self.options.clock)());
            facts.details.extend(flaws.details().into_iter().map(|(name, value)| (name.to_owned(), value)));
            facts.flaws = flaws;
        } else if let State::InOrder(canonical) = state {
            let sides = canonical.finish().map_err(|error| told(error, &self.name))?;
            let mut facts = facts(&self.shared);
            let keys: u64 = sides.databases.values().map(|counts| counts.keys).sum();
            facts.details.insert("keys".into(), keys.to_string());
            facts.sides = Some(sides);
        }
        Ok(Piece::End)
    }
}
