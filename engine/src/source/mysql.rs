//! A MariaDB or MySQL server: the tables of all databases by one mariadb-dump, in one transaction, taken apart into an entry
//! for each, and behind a database's tables the definitions of its routines, triggers, events and views. Rows come in the
//! order of their keys and without dates, so that what did not change is found again. Beside each dump stands an index of
//! where its tables are, and its chunks begin at tables, so that one comes back without the rest.

use super::command::CommandContent;
use super::stream::{AtHand, NoEndMark};
use super::{Content, Item, Opener, Piece, Source, SourceError, SourceErrorKind, UrlOptions};
use crate::entry::{Time, compare_paths};
use crate::mysql::{Server, is_named};
use crate::names::encoded_bytes;
use crate::snapshot::SourceRecord;
use crate::{ItemError, Monitor};
use catalogue::Catalogue;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::process::Command;
use std::rc::Rc;

mod accounts;
mod catalogue;
mod definitions;
mod index;
mod lexer;
mod seams;
mod trigger;

pub use index::{Index, Kind, Object};
pub use lexer::{name, statement_len};
use seams::{Seams, Step};

/// What every server has of its own.
pub(crate) const SYSTEM: &[&str] = &["information_schema", "performance_schema", "mysql", "sys"];
const DUMP: [&str; 2] = ["mariadb-dump", "mysqldump"];

/// The source of `mysql://` and `mariadb://`.
pub struct MysqlSource {
    server: Server,
    time: Time,
    items: VecDeque<Item>,
    /// Databases that are still to come, in order.
    left: VecDeque<String>,
    dump: Option<Rc<RefCell<Dump>>>,
    catalogue: Catalogue,
    /// What is left out, and not yet told.
    errors: Vec<ItemError>,
    details: BTreeMap<String, String>,
    /// Whether the position in the binary log must be known.
    needs_position: bool,
    keep_going: bool,
    /// Whether the server can execute any statement by its text.
    executes: bool,
    finished: bool,
}

/// The dump while it comes.
struct Dump {
    content: CommandContent<NoEndMark>,
    seams: Seams,
    /// What the current database is called for people.
    shown: String,
    /// Whether its failure costs that database, and no more.
    keep_going: bool,
    failed: bool,
    /// What the last finished database's index is.
    index: Option<Index>,
    proof: Proof,
}

/// What the current database's dump must have.
struct Proof {
    server: Server,
    database: String,
    expected: BTreeSet<String>,
}

impl Proof {
    /// That the dump has every table of the database, by exactly its name.
    fn of(&self, index: &Index) -> Result<(), SourceError> {
        let found: BTreeSet<&String> = index.tables.iter().map(|(name, ..)| name).collect();
        let mut missing: Vec<&str> =
            self.expected.iter().filter(|name| !found.contains(name)).map(String::as_str).collect();
        if missing.is_empty() {
            return Ok(());
        }
        // One that was dropped meanwhile is missing rightly.
        let sql = format!(
            "SELECT table_name FROM information_schema.tables WHERE {}",
            is_named("table_schema", &self.database)
        );
        let there: BTreeSet<String> = self.server.query(&sql)?.into_iter().flatten().collect();
        missing.retain(|name| there.contains(*name));
        if missing.is_empty() {
            return Ok(());
        }
        let why = format!(
            "mariadb-dump left out of database {}: {}; names that differ only in case, accents or by a dot are one to it: rename them",
            self.database,
            missing.join(", ")
        );
        Err(self.server.error(SourceErrorKind::Incomplete, why))
    }
}

/// A database's name in a path.
#[must_use]
pub fn file_stem(database: &str) -> String {
    encoded_bytes(database.as_bytes(), ".")
}

impl MysqlSource {
    /// From a URL; asks for nothing yet.
    pub fn open(url: &url::Url, time: Time, options: &UrlOptions) -> Result<Self, SourceError> {
        let source = Self::new(Server::new(url, options)?, time, false);
        Ok(Self { keep_going: options.keep_going, ..source })
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
            catalogue: Catalogue::default(),
            errors: vec![],
            details: BTreeMap::new(),
            needs_position,
            keep_going: false,
            executes: false,
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
            None => all.filter(|name| !SYSTEM.contains(&name.as_str())).collect(),
        };
        names.sort_by(|a, b| {
            compare_paths(
                format!("{}.sql", file_stem(a)).as_bytes(),
                format!("{}.sql", file_stem(b)).as_bytes(),
            )
        });
        Ok(names)
    }

    /// The dump of the databases that are left, from the beginning.
    fn begin(&mut self) -> Result<Dump, SourceError> {
        let ignored = self.catalogue.ignored.iter().map(|path| ("ignore-table", path.clone()));
        let without = self.catalogue.without_rows.iter().map(|path| ("ignore-table-data", path.clone()));
        let more: Vec<(&str, String)> = ignored.chain(without).collect();
        let (mut command, _login) = self.server.command_with(DUMP, &more)?;
        command.args([
            "--single-transaction",
            "--quick",
            "--skip-dump-date",
            "--order-by-primary",
            "--hex-blob",
        ]);
        // A lock on the tables of a dump keeps it from reading the sequences that these need.
        command.args(["--skip-comments", "--skip-add-locks", "--max-allowed-packet=1G"]);
        // What users wrote as code comes from ourselves.
        command.args(["--skip-routines", "--skip-events", "--skip-triggers"]);
        command.arg("--default-character-set=utf8mb4");
        if self.keeps_history()? {
            command.arg("--dump-history");
        }
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
        // A name may begin with a dash.
        command.args(["--databases", "--"]).args(&self.left);
        let name = format!("{} (mariadb-dump)", self.server.shown);
        let content = CommandContent::start(command, name, NoEndMark, false)?;
        let proof = Proof { server: self.server.clone(), database: String::new(), expected: BTreeSet::new() };
        let keep_going = self.keep_going;
        let seams = Seams::new(self.left.clone());
        Ok(Dump { content, seams, shown: String::new(), keep_going, failed: false, index: None, proof })
    }

    /// Whether the rows that tables had before can be dumped; if there are some, and they cannot, the snapshot says so.
    fn keeps_history(&mut self) -> Result<bool, SourceError> {
        if !self.catalogue.has_history {
            return Ok(false);
        }
        let mut command = self.server.command(DUMP)?;
        let failed = |error| self.server.error(SourceErrorKind::Command, error);
        let help = command.arg("--help").output().map_err(failed)?.stdout;
        let why = match &self.catalogue.precise {
            None if memchr::memmem::find(&help, b"dump-history").is_some() => return Ok(true),
            None => "this mariadb-dump has no --dump-history".to_owned(),
            Some(table) => format!("mariadb-dump cannot read that of {table}, which is kept by transactions"),
        };
        self.details.insert("without-history".into(), why);
        Ok(false)
    }

    /// Tells what is left out, or refuses to leave it out.
    fn tell(&mut self, monitor: &dyn Monitor) -> Result<(), SourceError> {
        for error in std::mem::take(&mut self.errors) {
            if !self.keep_going {
                let ItemError { item, message, .. } = error;
                let why = format!("{message}; mend or drop it, or leave it out with --keep-going");
                return Err(SourceError::new(SourceErrorKind::Command, item, why));
            }
            monitor.error(error);
        }
        Ok(())
    }

    /// The entry of the database that is next.
    fn next_database(&mut self, monitor: &dyn Monitor) -> Result<Option<Item>, SourceError> {
        let Some(name) = self.left.front().cloned() else { return Ok(None) };
        let objects = self.catalogue.objects(&name);
        let read = definitions::read(&self.server, &name, objects, self.executes);
        let (found, errors) = match read {
            Ok(read) => read,
            Err(error) if self.keep_going && self.server.query("SELECT 1").is_ok() => {
                let (item, message) = (format!("database {name}"), error.why);
                (definitions::Definitions::default(), vec![ItemError { during: "archival", item, message }])
            }
            Err(error) => return Err(error),
        };
        self.errors.extend(errors);
        self.tell(monitor)?;
        let Some(dump) = self.dump.clone() else { return Ok(None) };
        let mut current = dump.borrow_mut();
        current.seams.define(found, self.catalogue.stubs(&name));
        current.proof = Proof {
            server: self.server.clone(),
            expected: self.catalogue.expected(&name),
            database: name.clone(),
        };
        current.shown = format!("database {name}");
        drop(current);
        let path = format!("{}/databases/{}.sql", self.server.folder(), file_stem(&name));
        let open: Opener = Box::new(move || Ok(Box::new(DatabaseContent(dump)) as Box<dyn Content>));
        Ok(Some(Item::stream(&path, self.time, open)))
    }

    /// What the head of the dump says of where it is in the binary log.
    fn note_position(&mut self) {
        let Some(dump) = &self.dump else { return };
        let dump = dump.borrow();
        if let Some((file, position)) = dump.seams.position().filter(|_| !self.details.contains_key("binlog"))
        {
            self.details.insert("binlog".into(), file);
            self.details.insert("position".into(), position);
        }
    }

    /// Accounts, their rights, and other servers that the server knows; and what it has loaded of libraries.
    fn globals(&self) -> Result<VecDeque<Item>, SourceError> {
        let version = self.details.get("server").map_or("", String::as_str);
        if !version.contains("MariaDB") || self.server.database.is_some() {
            return Ok(VecDeque::new());
        }
        if self.server.query("SELECT 1 FROM mysql.global_priv LIMIT 1").is_err() {
            return Ok(VecDeque::new());
        }
        let dump = |what: &str| -> Result<Command, SourceError> {
            let mut command = self.server.command(DUMP)?;
            command.args([&format!("--system={what}"), "--insert-ignore", "--skip-dump-date"]);
            Ok(command)
        };
        let path = |file: &str| format!("{}/{file}", self.server.folder());
        let mut bytes = accounts::read(&self.server)?.into_bytes();
        let servers = dump("servers")?.output();
        let servers = servers.map_err(|error| self.server.error(SourceErrorKind::Command, error))?;
        if !servers.status.success() {
            let why = String::from_utf8_lossy(&servers.stderr).trim().to_owned();
            return Err(self
                .server
                .error(SourceErrorKind::Command, format!("mariadb-dump (servers): {why}")));
        }
        bytes.extend_from_slice(&servers.stdout);
        let mut items = VecDeque::from([AtHand::item(&path("globals.sql"), self.time, bytes)]);
        let libraries = "SELECT 1 FROM mysql.func UNION ALL SELECT 1 FROM mysql.plugin LIMIT 1";
        if !self.server.query(libraries)?.is_empty() {
            let (command, name) = (dump("plugins,udfs")?, format!("{} (plugins,udfs)", self.server.shown));
            let open: Opener = Box::new(move || {
                let mark = super::format::Format::MysqlSql.end_mark();
                Ok(Box::new(CommandContent::start(command, name, mark, false)?) as Box<dyn Content>)
            });
            items.push_back(Item::stream(&path("libraries.sql"), self.time, open));
        }
        Ok(items)
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
        self.executes = executes(self.details.get("server").map_or("", String::as_str));
        let names = self.databases()?;
        let folder = self.server.folder();
        for path in ["mysql", &folder, &format!("{folder}/databases")] {
            self.items.push_back(Item::folder(path, self.time));
        }
        if !names.is_empty() {
            self.catalogue = Catalogue::read(&self.server, &names)?;
            self.errors = self.catalogue.prove(&self.server)?;
            if !self.errors.is_empty() && !self.keep_going {
                // Nothing need be read to know that it fails.
                return Ok(());
            }
            self.left = names.into();
            self.dump = Some(Rc::new(RefCell::new(self.begin()?)));
        }
        Ok(())
    }

    fn tolerates_item_errors(&self) -> bool {
        self.keep_going
    }

    fn next_item(&mut self, monitor: &dyn Monitor) -> Result<Option<Item>, SourceError> {
        self.tell(monitor)?;
        if let Some(item) = self.items.pop_front() {
            return Ok(Some(item));
        }
        if let Some(dump) = self.dump.clone() {
            self.note_position();
            let index = dump.borrow_mut().index.take();
            if let Some(index) = index
                && let Some(name) = self.left.pop_front()
            {
                let bytes = serde_json::to_vec(&index).unwrap_or_default();
                let path = format!("{}/databases/{}.sql.index", self.server.folder(), file_stem(&name));
                return Ok(Some(AtHand::item(&path, self.time, bytes)));
            }
            if dump.borrow().failed {
                // That database has been told; the others are read in a dump of their own.
                self.left.pop_front();
                self.dump = None;
                self.server.query("SELECT 1")?;
                if !self.left.is_empty() {
                    self.dump = Some(Rc::new(RefCell::new(self.begin()?)));
                }
            }
            if let Some(item) = self.next_database(monitor)? {
                return Ok(Some(item));
            }
            self.dump = None;
        }
        if !std::mem::replace(&mut self.finished, true) {
            self.items = self.globals()?;
        }
        Ok(self.items.pop_front())
    }
}

/// Whether a server of this version takes `EXECUTE IMMEDIATE` of every statement: MariaDB since 10.6.2.
#[must_use]
pub fn executes(version: &str) -> bool {
    let mut numbers = version.split(|c: char| !c.is_ascii_digit()).map_while(|part| part.parse::<u32>().ok());
    let own = [numbers.next(), numbers.next(), numbers.next()].map(Option::unwrap_or_default);
    version.contains("MariaDB") && own >= [10, 6, 2]
}

/// One database of the dump.
struct DatabaseContent(Rc<RefCell<Dump>>);

impl Content for DatabaseContent {
    fn read(&mut self, buffer: &mut [u8]) -> Result<Piece, SourceError> {
        let mut dump = self.0.borrow_mut();
        let dump = &mut *dump;
        dump.read(buffer).map_err(|error| {
            dump.failed = true;
            match dump.keep_going {
                true => {
                    let why = format!("left out: {}: {}", error.what, error.why);
                    SourceError::new(SourceErrorKind::Item, &dump.shown, why)
                }
                false => error,
            }
        })
    }
}

impl Dump {
    fn read(&mut self, buffer: &mut [u8]) -> Result<Piece, SourceError> {
        loop {
            match self.seams.step(buffer) {
                Step::Bytes(len) => return Ok(Piece::Data(len)),
                Step::Cut => return Ok(Piece::Cut),
                Step::End(index) => {
                    self.proof.of(&index)?;
                    self.index = Some(index);
                    return Ok(Piece::End);
                }
                Step::Truncated(why) => {
                    return Err(SourceError::new(SourceErrorKind::Incomplete, "mariadb-dump", why));
                }
                Step::More => {
                    let piece = self.seams.fill(&mut |space| self.content.read(space))?;
                    if piece == Piece::Wait {
                        return Ok(Piece::Wait);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::executes;

    #[test]
    fn versions() {
        for (version, expected) in [
            ("10.11.19-MariaDB-0+deb12u1-log", true),
            ("10.6.2-MariaDB", true),
            ("10.6.1-MariaDB", false),
            ("10.5.29-MariaDB", false),
            ("11.4.2-MariaDB", true),
            ("8.4.0", false),
            ("", false),
        ] {
            assert_eq!(executes(version), expected, "{version}");
        }
    }
}
