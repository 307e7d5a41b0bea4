//! A PostgreSQL cluster as its files are: a base backup by the replication protocol, with the WAL that makes it
//! consistent. Its tars are cut at their members (`tar_cuts.rs`), so a file that did not change costs nothing, and one of
//! which a few pages changed little more than those. Since version 17 a server with `summarize_wal` can send only the
//! blocks that changed after an earlier backup: the snapshot then takes that one's tars over, so it stays whole by
//! itself.
//! Source: PostgreSQL's documentation, "Streaming Replication Protocol", `BASE_BACKUP`, `UPLOAD_MANIFEST`.

use crate::connection::{PgError, PgResult};
use crate::copy::Copied;
use crate::wal::{parse_segment_len, segment_name};
use crate::{Connection, Server};
use connector_kit::tar_cuts::TarCuts;
use engine::Monitor;
use engine::connector::Context;
use engine::entry::Time;
use engine::snapshot::SourceRecord;
use engine::source::{Content, Item, Opener, Piece, Source, SourceError, SourceErrorKind};
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

/// Kind in a snapshot's record.
pub const KIND: &str = "postgres+physical";
/// Since this version, tars of all tablespaces and the manifest come in one COPY.
const ONE_COPY: u32 = 15;
/// Since this version there are incremental backups.
const INCREMENTAL: u32 = 17;

/// An earlier backup in a snapshot, which this one may build on.
#[derive(Clone, Default)]
pub struct Earlier {
    /// Its files, and those it builds on: path and time of each.
    pub files: Vec<(String, Time)>,
    /// How many backups those are.
    pub count: usize,
    /// The last one's manifest.
    pub manifest: Vec<u8>,
    /// The cluster that it is of.
    pub system: String,
}

/// Folder of a server's files in a snapshot.
#[must_use]
pub fn folder(server: &Server) -> String {
    format!("postgres/{}/physical", server.place())
}

/// What is known of the cluster.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    /// Its number, the same in all copies of it.
    pub system: String,
    /// Its history.
    pub timeline: u32,
    /// Bytes of a WAL segment.
    pub segment_len: u64,
    /// Up to where its WAL was flushed.
    pub end: u64,
}

impl Cluster {
    /// Asks a session for replication.
    pub fn identify(session: &mut Connection) -> PgResult<Self> {
        let rows = session.query("IDENTIFY_SYSTEM")?;
        let row = rows.into_iter().next().unwrap_or_default();
        let [Some(system), Some(timeline), Some(end), ..] = row.as_slice() else {
            return Err(PgError::Lost("no answer to IDENTIFY_SYSTEM".into()));
        };
        let end = crate::wal::parse_position(end)
            .ok_or_else(|| PgError::Lost(format!("'{end}' for a position of WAL, which it is not")))?;
        let text = session.value("SHOW wal_segment_size")?;
        let segment_len = parse_segment_len(&text).ok_or_else(|| {
            PgError::Lost(format!("'{text}' for its wal_segment_size, which no server has"))
        })?;
        Ok(Self { system: system.clone(), timeline: timeline.parse().unwrap_or(1), segment_len, end })
    }
}

/// A session for replication, or what to do to get one.
pub fn replication(server: &Server) -> Result<Connection, SourceError> {
    // A stream comes back here for days, and no program follows: the name may lead elsewhere by now.
    Connection::replication(&server.looked_up_again()).map_err(|error| {
        let advice = match error.code() {
            "42501" => "; ALTER ROLE … REPLICATION lets it",
            "28000" => "; pg_hba.conf needs a line 'host replication …' for this user",
            "53300" => {
                "; wal_level must be replica or logical; raise max_wal_senders, or end another replication"
            }
            _ => "",
        };
        server.error(SourceErrorKind::Unavailable, format!("{error}{advice}"))
    })
}

/// The backup while it comes in.
struct Stream {
    session: Connection,
    server: Server,
    /// Bytes of the archive that is read, from `at`.
    data: Vec<u8>,
    at: usize,
    /// The next archive's name, once the one before is over; `None` for the manifest.
    next: Option<Option<String>>,
    /// Where it ends in the WAL.
    end: Option<String>,
}

impl Stream {
    /// Takes the next message; `false` at the end of an archive.
    fn advance(&mut self) -> Result<bool, SourceError> {
        loop {
            let message = match self.session.copied() {
                Ok(Copied::Data(message)) => message,
                Ok(Copied::End(rows)) => {
                    self.end = rows.into_iter().next().and_then(|row| row.into_iter().next()).flatten();
                    return Ok(false);
                }
                Err(error) => return Err(self.server.failed(&error)),
            };
            match message.split_first() {
                Some((b'd', bytes)) => {
                    self.data.clear();
                    self.data.extend_from_slice(bytes);
                    self.at = 0;
                    if !bytes.is_empty() {
                        return Ok(true);
                    }
                }
                Some((b'n', names)) => {
                    let name = names.split(|byte| *byte == 0).next().unwrap_or_default();
                    let name = String::from_utf8_lossy(name).into_owned();
                    if !is_archive(&name) {
                        let why = format!("its base backup has an archive '{}'", engine::shown::line(&name));
                        return Err(self.server.error(SourceErrorKind::Incomplete, why));
                    }
                    self.next = Some(Some(name));
                    return Ok(false);
                }
                Some((b'm', _)) => {
                    self.next = Some(None);
                    return Ok(false);
                }
                // Progress.
                Some(_) | None => {}
            }
        }
    }
}

/// Whether a name is that of an archive: `base.tar`, or a tablespace's number.
fn is_archive(name: &str) -> bool {
    let digits = name.strip_suffix(".tar").filter(|stem| !stem.is_empty() && stem.len() <= 10);
    name == "base.tar" || digits.is_some_and(|stem| stem.bytes().all(|byte| byte.is_ascii_digit()))
}

struct ArchiveContent(Rc<RefCell<Stream>>);

impl Content for ArchiveContent {
    fn read(&mut self, buffer: &mut [u8]) -> Result<Piece, SourceError> {
        let mut stream = self.0.borrow_mut();
        if stream.at == stream.data.len() && !stream.advance()? {
            return Ok(Piece::End);
        }
        let len = buffer.len().min(stream.data.len() - stream.at);
        let at = stream.at;
        buffer[..len].copy_from_slice(&stream.data[at..at + len]);
        stream.at += len;
        Ok(Piece::Data(len))
    }
}

/// The source of `postgres+physical://`.
pub struct PhysicalSource {
    server: Server,
    time: Time,
    folder: String,
    items: VecDeque<Item>,
    earlier: Option<Earlier>,
    stream: Option<Rc<RefCell<Stream>>>,
    archives: usize,
    details: BTreeMap<String, String>,
}

impl PhysicalSource {
    /// Asks for nothing yet. `earlier` is what to build on, if the server can.
    #[must_use]
    pub fn new(server: &Server, time: Time, earlier: Option<Earlier>) -> Self {
        Self {
            server: server.clone(),
            time,
            folder: folder(server),
            items: VecDeque::new(),
            earlier,
            stream: None,
            archives: 0,
            details: BTreeMap::new(),
        }
    }

    /// From a URL.
    pub fn open(url: &str, time: Time, options: &Context) -> Result<Self, SourceError> {
        let server = Server::parse(url, options)?;
        Ok(Self::new(&server, time, None))
    }

    /// Where the backup begins in the WAL, and what else it says about itself.
    #[must_use]
    pub fn details(&self) -> &BTreeMap<String, String> {
        &self.details
    }

    fn own_folder(&self) -> String {
        let count = self.earlier.as_ref().map_or(0, |earlier| earlier.count);
        format!("{}/base.{count:03}", self.folder)
    }

    fn failed(&self, error: &PgError) -> SourceError {
        self.server.failed(error)
    }
}

/// Files of earlier backups, each with its folder.
fn taken_over_all(files: &[(String, Time)], time: Time) -> VecDeque<Item> {
    let (mut items, mut last) = (VecDeque::new(), "");
    for (path, own_time) in files {
        let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
        if parent != last {
            items.push_back(Item::folder(parent, time));
            last = parent;
        }
        items.push_back(Item::taken_over(path, *own_time));
    }
    items
}

impl Source for PhysicalSource {
    fn records(&self) -> Vec<SourceRecord> {
        let mut record = SourceRecord::new(KIND, self.server.shown.clone(), true);
        record.details = self.details.clone();
        vec![record]
    }

    fn paths(&self) -> Vec<String> {
        vec![format!("/{}", self.folder)]
    }

    fn start(&mut self, _: [u64; 2]) -> Result<(), SourceError> {
        let mut session = replication(&self.server)?;
        if session.major() < ONE_COPY {
            let why = format!("physical backups need PostgreSQL {ONE_COPY}, this is {}", session.major());
            return Err(self.server.error(SourceErrorKind::Unavailable, why));
        }
        let cluster = Cluster::identify(&mut session).map_err(|error| self.failed(&error))?;
        // Another cluster than the one before, or one that cannot: all of it.
        let fits = |earlier: &Earlier| earlier.system == cluster.system && session.major() >= INCREMENTAL;
        self.earlier = self.earlier.take().filter(fits);
        if self.earlier.is_some() {
            let summarizes = session.value("SHOW summarize_wal").map_err(|error| self.failed(&error))?;
            if summarizes != "on" {
                self.earlier = None;
            }
        }
        let mut incremental = "";
        if let Some(earlier) = &self.earlier {
            let uploaded = session.begin_copy("UPLOAD_MANIFEST").and_then(|_| {
                earlier.manifest.chunks(64 << 10).try_for_each(|part| session.send_data(part))?;
                session.finish_data()
            });
            uploaded.map_err(|error| self.failed(&error))?;
            incremental = ", INCREMENTAL";
        }
        // What the server needs for the backup stays until the session ends; without a free slot, it stays as long as
        // wal_keep_size says, and the server tells if that was too short.
        let _ = session.query(&format!(
            "CREATE_REPLICATION_SLOT esker_base_{} TEMPORARY PHYSICAL RESERVE_WAL",
            std::process::id()
        ));
        let command = format!(
            "BASE_BACKUP (LABEL 'esker', CHECKPOINT 'fast', WAL true, WAIT false, MANIFEST 'yes'{incremental})"
        );
        let rows = session.begin_copy(&command).map_err(|error| self.failed(&error))?;
        let mut rows = rows.into_iter();
        let first = rows.next().unwrap_or_default();
        let (start, timeline) = match first.as_slice() {
            [Some(start), Some(timeline), ..] => (start.clone(), timeline.clone()),
            _ => return Err(self.server.error(SourceErrorKind::Incomplete, "the backup has no beginning")),
        };
        let details = [
            ("system", cluster.system.clone()),
            ("timeline", timeline),
            ("start", start.clone()),
            ("segment-bytes", cluster.segment_len.to_string()),
            ("server", (session.version() / 10_000).to_string()),
            ("backups", (self.earlier.as_ref().map_or(0, |earlier| earlier.count) + 1).to_string()),
        ];
        self.details.extend(details.map(|(name, value)| (name.to_owned(), value)));
        if let Some(position) = crate::wal::parse_position(&start) {
            let name = segment_name(cluster.timeline, position, cluster.segment_len);
            self.details.insert("first-wal".into(), name);
        }
        let mut items: VecDeque<Item> = self
            .folder
            .match_indices('/')
            .map(|(end, _)| Item::folder(&self.folder[..end], self.time))
            .collect();
        items.push_back(Item::folder(&self.folder, self.time));
        if let Some(earlier) = &self.earlier {
            items.extend(taken_over_all(&earlier.files, self.time));
        }
        items.push_back(Item::folder(self.own_folder(), self.time));
        self.items = items;
        let stream =
            Stream { session, server: self.server.clone(), data: vec![], at: 0, next: None, end: None };
        self.stream = Some(Rc::new(RefCell::new(stream)));
        Ok(())
    }

    fn next_item(&mut self, _: &dyn Monitor) -> Result<Option<Item>, SourceError> {
        if let Some(item) = self.items.pop_front() {
            return Ok(Some(item));
        }
        let Some(stream) = &self.stream else { return Ok(None) };
        if stream.borrow().next.is_none() && stream.borrow().end.is_none() {
            // Before the first.
            stream.borrow_mut().advance()?;
        }
        let next = stream.borrow_mut().next.take();
        let Some(next) = next else {
            let end = stream.borrow().end.clone();
            let Some(end) = end else {
                return Err(self.server.error(SourceErrorKind::Incomplete, "the backup has no end"));
            };
            self.details.insert("end".into(), end);
            self.stream = None;
            return Ok(None);
        };
        // Numbered, so that their names order as they come.
        let name = next.unwrap_or_else(|| "backup_manifest".into());
        let path = format!("{}/{:03}-{name}", self.own_folder(), self.archives);
        self.archives += 1;
        let content = ArchiveContent(Rc::clone(stream));
        let is_tar = name.ends_with(".tar");
        let open: Opener = Box::new(move || {
            Ok(if is_tar {
                Box::new(TarCuts::new(Box::new(content)))
            } else {
                Box::new(content) as Box<dyn Content>
            })
        });
        Ok(Some(Item::stream(&path, self.time, open)))
    }
}
