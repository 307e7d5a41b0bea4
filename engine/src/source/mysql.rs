//! A MariaDB or MySQL server: all databases by one mariadb-dump, in one transaction, taken apart into an entry for each.
//! Rows come in the order of their keys and without dates, so that what did not change is found again. Beside each dump
//! stands an index of where its tables are, and its chunks begin at tables, so that one comes back without the rest.

use super::command::CommandContent;
use super::stream::{AtHand, NoEndMark};
use super::{Content, Item, Opener, Piece, Source, SourceError, SourceErrorKind, UrlOptions};
use crate::Monitor;
use crate::entry::{Time, compare_paths};
use crate::mysql::{Server, quoted};
use crate::names::encoded_bytes;
use crate::snapshot::SourceRecord;
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

mod seams;

pub use seams::Index;
use seams::{Seams, Step};

/// What every server has of its own.
const SYSTEM: &[&str] = &["information_schema", "performance_schema", "mysql", "sys"];

/// The source of `mysql://` and `mariadb://`.
pub struct MysqlSource {
    server: Server,
    time: Time,
    items: VecDeque<Item>,
    /// Databases that are still to come, in order.
    left: VecDeque<String>,
    dump: Option<Rc<RefCell<Dump>>>,
    details: BTreeMap<String, String>,
    /// Whether the position in the binary log must be known.
    needs_position: bool,
    finished: bool,
}

/// The dump while it comes.
struct Dump {
    content: CommandContent<NoEndMark>,
    seams: Seams,
    /// What the last finished database's index is.
    index: Option<Index>,
}

/// A database's name in a path.
#[must_use]
pub fn file_stem(database: &str) -> String {
    encoded_bytes(database.as_bytes(), ".")
}

impl MysqlSource {
    /// From a URL; asks for nothing yet.
    pub fn open(url: &url::Url, time: Time, options: &UrlOptions) -> Result<Self, SourceError> {
        Ok(Self::new(Server::new(url, options)?, time, false))
    }

    /// Of a server.
    #[must_use]
    pub fn new(server: Server, time: Time, needs_position: bool) -> Self {
        Self {
            server,
            time,
            items: VecDeque::new(),
            left: VecDeque::new(),
            dump: None,
            details: BTreeMap::new(),
            needs_position,
            finished: false,
        }
    }

    fn databases(&self) -> Result<Vec<String>, SourceError> {
        let all = self.server.query("SHOW DATABASES")?.into_iter().filter_map(|row| row.into_iter().next());
        let mut names: Vec<String> = match &self.server.database {
            Some(name) => {
                let name = name.clone();
                if !all.into_iter().any(|known| known == name) {
                    let why = format!("there is no database '{name}'");
                    return Err(self.server.error(SourceErrorKind::Unavailable, why));
                }
                vec![name]
            }
            None => all.filter(|name| !SYSTEM.contains(&name.to_ascii_lowercase().as_str())).collect(),
        };
        names.sort_by(|a, b| {
            compare_paths(
                format!("{}.sql", file_stem(a)).as_bytes(),
                format!("{}.sql", file_stem(b)).as_bytes(),
            )
        });
        Ok(names)
    }

    /// The dump of `names`, from the beginning.
    fn begin(&mut self, names: &[String]) -> Result<Dump, SourceError> {
        let mut command = self.server.command(["mariadb-dump", "mysqldump"])?;
        command.args([
            "--single-transaction",
            "--quick",
            "--skip-dump-date",
            "--order-by-primary",
            "--hex-blob",
        ]);
        command.args(["--routines", "--events", "--triggers", "--default-character-set=utf8mb4"]);
        let has_log = self.server.query("SELECT @@log_bin")?.first().is_some_and(|row| row == &["1"]);
        let has_position = has_log && self.server.query("SHOW MASTER STATUS").is_ok();
        if has_position {
            command.args(["--master-data=2"]);
        } else if self.needs_position {
            return Err(self.server.error(
                SourceErrorKind::Unavailable,
                "a stream needs the server's binary log (log_bin) and the privilege BINLOG MONITOR",
            ));
        }
        command.arg("--databases").args(names);
        let name = format!("{} (mariadb-dump)", self.server.shown);
        let content = CommandContent::start(command, name, NoEndMark, false)?;
        Ok(Dump { content, seams: Seams::new(names.iter().map(|name| quoted(name)).collect()), index: None })
    }

    /// What the head of the dump says of where it is in the binary log.
    fn note_position(&mut self) {
        let Some(dump) = &self.dump else { return };
        let dump = dump.borrow();
        if let Some((file, position)) = dump.seams.position() {
            self.details.insert("binlog".into(), file);
            self.details.insert("position".into(), position);
        }
    }

    /// Accounts and their rights.
    fn accounts(&self) -> Result<Option<Item>, SourceError> {
        let version = self.details.get("server").map_or("", String::as_str);
        if !version.contains("MariaDB") || self.server.database.is_some() {
            return Ok(None);
        }
        if self.server.query("SELECT 1 FROM mysql.global_priv LIMIT 1").is_err() {
            return Ok(None);
        }
        let mut command = self.server.command(["mariadb-dump", "mysqldump"])?;
        command.args(["--system=users", "--insert-ignore", "--skip-dump-date"]);
        let name = format!("{} (accounts)", self.server.shown);
        let open: Opener = Box::new(move || {
            let mark = super::format::Format::MysqlSql.end_mark();
            Ok(Box::new(CommandContent::start(command, name, mark, false)?) as Box<dyn Content>)
        });
        Ok(Some(Item::stream(&format!("{}/globals.sql", self.server.folder()), self.time, open)))
    }
}

impl Source for MysqlSource {
    fn records(&self) -> Vec<SourceRecord> {
        let mut record = SourceRecord::new("mysql", self.server.shown.clone(), true);
        record.details = self.details.clone();
        vec![record]
    }

    fn paths(&self) -> Vec<String> {
        vec![format!("/{}", self.server.folder())]
    }

    fn start(&mut self, _: [u64; 2]) -> Result<(), SourceError> {
        let version = self.server.query("SELECT VERSION()")?;
        let version = version.into_iter().flatten().next().unwrap_or_default();
        self.details.insert("server".into(), version);
        let names = self.databases()?;
        let folder = self.server.folder();
        for path in ["mysql", &folder, &format!("{folder}/databases")] {
            self.items.push_back(Item::folder(path, self.time));
        }
        if !names.is_empty() {
            self.dump = Some(Rc::new(RefCell::new(self.begin(&names)?)));
            self.left = names.into();
        }
        Ok(())
    }

    fn next_item(&mut self, _: &dyn Monitor) -> Result<Option<Item>, SourceError> {
        if let Some(item) = self.items.pop_front() {
            return Ok(Some(item));
        }
        let folder = format!("{}/databases", self.server.folder());
        if let Some(dump) = self.dump.clone() {
            self.note_position();
            let index = dump.borrow_mut().index.take();
            if let Some(index) = index
                && let Some(name) = self.left.pop_front()
            {
                let bytes = serde_json::to_vec(&index).unwrap_or_default();
                let path = format!("{folder}/{}.sql.index", file_stem(&name));
                return Ok(Some(AtHand::item(&path, self.time, bytes)));
            }
            if let Some(name) = self.left.front() {
                let path = format!("{folder}/{}.sql", file_stem(name));
                let open: Opener = Box::new(move || Ok(Box::new(DatabaseContent(dump)) as Box<dyn Content>));
                return Ok(Some(Item::stream(&path, self.time, open)));
            }
            self.dump = None;
        }
        if !std::mem::replace(&mut self.finished, true) {
            return self.accounts();
        }
        Ok(None)
    }
}

/// One database of the dump.
struct DatabaseContent(Rc<RefCell<Dump>>);

impl Content for DatabaseContent {
    fn read(&mut self, buffer: &mut [u8]) -> Result<Piece, SourceError> {
        let mut dump = self.0.borrow_mut();
        let dump = &mut *dump;
        loop {
            match dump.seams.step(buffer) {
                Step::Bytes(len) => return Ok(Piece::Data(len)),
                Step::Cut => return Ok(Piece::Cut),
                Step::End(index) => {
                    dump.index = Some(index);
                    return Ok(Piece::End);
                }
                Step::Truncated(why) => {
                    return Err(SourceError::new(SourceErrorKind::Incomplete, "mariadb-dump", why));
                }
                Step::More => {
                    let piece = dump.seams.fill(&mut |space| dump.content.read(space))?;
                    if piece == Piece::Wait {
                        return Ok(Piece::Wait);
                    }
                }
            }
        }
    }
}
