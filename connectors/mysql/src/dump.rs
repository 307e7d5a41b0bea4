//! A MariaDB or MySQL server: the tables of all databases by one mariadb-dump, in one transaction, taken apart into an entry
//! for each, and behind a database's tables the definitions of its routines, triggers, events and views. Rows come in the
//! order of their keys and without dates, so that what did not change is found again. Beside each dump stands an index of
//! where its tables are, and its chunks begin at tables, so that one comes back without the rest.

use crate::server::{Server, quoted};
use catalogue::Catalogue;
use connector_kit::command::CommandContent;
use engine::connector::Context;
use engine::entry::{Time, compare_paths};
use engine::names::encoded_bytes;
use engine::snapshot::SourceRecord;
use engine::source::at_hand::AtHand;
use engine::source::end_mark::NoEndMark;
use engine::source::{Content, Item, Opener, Source, SourceError, SourceErrorKind};
use engine::{ItemError, Monitor};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

mod accounts;
mod apart;
mod catalogue;
mod definitions;
mod globals;
mod index;
mod lexer;
mod live;
mod seams;
mod trigger;

pub use apart::take_apart;
use apart::{DatabaseContent, Dump, Proof};
pub(crate) use definitions::defined;
pub use index::{Index, Kind, Object};
pub(crate) use lexer::Lexer;
pub use lexer::{name, statement_len};
pub(crate) use live::Code;
use seams::Seams;

/// What of a record says what the backup left out: a list of databases and texts, in JSON.
pub(crate) const LEFT_OUT: &str = "left-out";
/// What every server has of its own.
pub(crate) const SYSTEM: &[&str] = &["information_schema", "performance_schema", "mysql", "sys"];
/// What the help of mariadb-dump may take in bytes.
const MAX_HELP: u64 = 4 << 20;
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
    /// What is left out, of which database, and not yet told.
    errors: Vec<(String, ItemError)>,
    /// What is left out and has been told.
    left_out: Vec<(String, String)>,
    details: BTreeMap<String, String>,
    /// Whether the position in the binary log must be known.
    needs_position: bool,
    keep_going: bool,
    /// Whether the server can execute any statement by its text.
    executes: bool,
    finished: bool,
}

/// Whether mariadb-dump takes a database for the server's own `mysql`, which it is not.
fn is_almost_mysql(name: &str) -> bool {
    name != "mysql" && name.eq_ignore_ascii_case("mysql")
}

/// A database's name in a path.
#[must_use]
pub fn file_stem(database: &str) -> String {
    encoded_bytes(database.as_bytes(), ".")
}

impl MysqlSource {
    /// From a URL; asks for nothing yet.
    pub fn open(url: &url::Url, time: Time, options: &Context) -> Result<Self, SourceError> {
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
            left_out: vec![],
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
        let group = self.group();
        let names: VecDeque<String> = self.left.iter().take(group).cloned().collect();
        // A name may begin with a dash.
        let seams = match names.front().filter(|name| is_almost_mysql(name)) {
            None => {
                command.args(["--databases", "--"]).args(&names);
                Seams::new(names)
            }
            Some(name) => {
                command.arg("--").arg(name).args(self.catalogue.expected(name));
                let created = self.created(name)?;
                Seams::of_tables(names, created)
            }
        };
        let name = format!("{} (mariadb-dump)", self.server.shown);
        let content = CommandContent::start(command, name, NoEndMark, false)?;
        let proof = Proof { server: self.server.clone(), database: String::new(), expected: BTreeSet::new() };
        let keep_going = self.keep_going;
        Ok(Dump { content, seams, shown: String::new(), keep_going, failed: false, index: None, proof })
    }

    /// How many of the databases that are left the next dump has. mariadb-dump asks one that is called almost as the server's own for
    /// tables that only that has, unless it is told which tables to read.
    fn group(&self) -> usize {
        match self.left.iter().position(|name| is_almost_mysql(name)) {
            None => self.left.len(),
            Some(0) => 1,
            Some(before) => before,
        }
    }

    /// The statements that make a database and choose it, as mariadb-dump writes them.
    fn created(&self, name: &str) -> Result<String, SourceError> {
        if self.needs_position {
            let why = format!("database {name} cannot be dumped in one moment with the others; rename it");
            return Err(self.server.error(SourceErrorKind::Unavailable, why));
        }
        let rows = self.server.query(&format!("SHOW CREATE DATABASE {}", quoted(name)))?;
        let text = rows.into_iter().next().and_then(|row| row.into_iter().nth(1)).unwrap_or_default();
        let text = text.strip_prefix("CREATE DATABASE ").unwrap_or(&text);
        Ok(format!("\nCREATE DATABASE /*!32312 IF NOT EXISTS*/ {text};\n\nUSE {};", quoted(name)))
    }

    /// Whether the rows that tables had before can be dumped; if there are some, and they cannot, the snapshot says so.
    fn keeps_history(&mut self) -> Result<bool, SourceError> {
        if !self.catalogue.has_history {
            return Ok(false);
        }
        let mut command = self.server.command(DUMP)?;
        let failed = |error| self.server.error(SourceErrorKind::Command, error);
        command.arg("--help");
        let (_, help, _) = self.server.watch.output(command, MAX_HELP).map_err(failed)?;
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
        let errors = std::mem::take(&mut self.errors);
        let shown = |error: &ItemError| format!("{}: {}", error.item, error.message);
        match errors.as_slice() {
            [(_, ItemError { item, message, .. })] if !self.keep_going => {
                let why = format!("{message}; mend or drop it, or leave it out with --keep-going");
                return Err(SourceError::new(SourceErrorKind::Command, item.clone(), why));
            }
            [_, ..] if !self.keep_going => {
                let all: Vec<String> = errors.iter().map(|(_, error)| shown(error)).collect();
                let why = format!(
                    "{} tables and views cannot be read; mend or drop them, or leave them out with --keep-going: {}",
                    all.len(),
                    all.join("; ")
                );
                return Err(self.server.error(SourceErrorKind::Command, why));
            }
            _ => {}
        }
        for (database, error) in errors {
            self.left_out.push((database, shown(&error)));
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
        self.errors.extend(errors.into_iter().map(|error| (name.clone(), error)));
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
}

impl Source for MysqlSource {
    fn records(&self) -> Vec<SourceRecord> {
        let mut record = SourceRecord::new("mysql", self.server.shown.clone(), true);
        record.details = self.details.clone();
        if !self.left_out.is_empty() {
            let text = serde_json::to_string(&self.left_out).unwrap_or_default();
            record.details.insert(LEFT_OUT.into(), text);
        }
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
        } else if self.needs_position {
            // No dump says it.
            let status = self.server.query("SHOW MASTER STATUS")?.into_iter().next().unwrap_or_default();
            let [file, position, ..] = status.as_slice() else {
                return Err(self.server.error(SourceErrorKind::Unavailable, "it has no binary log"));
            };
            self.details.insert("binlog".into(), file.clone());
            self.details.insert("position".into(), position.clone());
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
                if let Some(name) = self.left.pop_front() {
                    self.left_out.push((name.clone(), format!("database {name}")));
                }
                self.dump = None;
                self.server.query("SELECT 1")?;
                if !self.left.is_empty() {
                    self.dump = Some(Rc::new(RefCell::new(self.begin()?)));
                }
            }
            let is_over = dump.borrow().seams.is_over();
            if is_over && !self.left.is_empty() {
                self.dump = Some(Rc::new(RefCell::new(self.begin()?)));
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
