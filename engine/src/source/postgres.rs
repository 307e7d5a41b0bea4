//! A PostgreSQL server: its databases, and the globals (roles, tablespaces) through pg_dumpall.
//!
//! A database is laid down as pg_dump's directory format: `toc.dat`, and a file for each table's rows. The table of
//! contents is pg_dump's own; the rows are read by several sessions that share one exported snapshot, a large table
//! by all of them at a time (`directory.rs`). The other formats are pg_dump's output as it comes. Passwords go to the
//! programs in their environment, never on a command line.

use super::command::CommandContent;
use super::pgdump::{BlockIndex, CustomEndMark, PlainEndMark};
use super::stream::AtHand;
use super::{Item, Opener, Source, SourceError, SourceErrorKind, UrlOptions};
use crate::Monitor;
use crate::entry::{Time, compare_paths};
use crate::names::encoded;
use crate::pg::connection::PgError;
use crate::pg::programs::{Programs, database_name};
use crate::pg::{Connection, Server};
use crate::snapshot::SourceRecord;
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

mod copies;
mod directory;

use directory::Database;

/// How a database is laid down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// A folder as `pg_dump --format=directory` makes it, uncompressed: read in parallel, a table a file.
    #[default]
    Directory,
    /// SQL.
    Plain,
    /// `pg_dump --format=custom`, uncompressed.
    Custom,
}

/// Moments of so many databases are fixed before the first is read; the others' when their turn comes, since each
/// takes a connection.
const AT_ONCE: usize = 10;

/// What comes next.
enum Next {
    Item(Box<Item>),
    /// A database in directory format, whose moment may be fixed already.
    Database(String, Option<Box<Database>>),
    /// Where everything is in the dump before it.
    Index(Rc<RefCell<BlockIndex>>),
}

/// The source of `postgres://`.
pub struct PostgresSource {
    server: Server,
    time: Time,
    options: UrlOptions,
    folder: String,
    next: VecDeque<(String, Next)>,
    /// The database whose files are being read: its sessions live as long.
    current: Option<Box<Database>>,
    details: BTreeMap<String, String>,
    databases: usize,
    /// Known once it is started.
    programs: Option<Programs>,
}

impl PostgresSource {
    /// Asks for nothing yet.
    pub fn new(url: &url::Url, time: Time, options: &UrlOptions) -> Result<Self, SourceError> {
        let server = Server::new(url, options)?;
        let folder = format!("postgres/{}", server.place());
        Ok(Self {
            server,
            time,
            options: options.clone(),
            folder,
            next: VecDeque::new(),
            current: None,
            details: BTreeMap::new(),
            databases: 0,
            programs: None,
        })
    }

    /// A dump as pg_dump writes it: in custom format if its index is wanted.
    fn dump(&self, programs: &Programs, database: &str, index: Option<Rc<RefCell<BlockIndex>>>) -> Opener {
        let mut command = programs.command("pg_dump", &self.server);
        command.arg("-w").arg(format!("--dbname={}", database_name(database)));
        let name = format!("pg_dump of database '{database}'");
        Box::new(move || {
            Ok(match index {
                Some(index) => {
                    command.args(["-Fc", "-Z0"]);
                    Box::new(CommandContent::start(command, name, CustomEndMark::telling(index), false)?)
                }
                None => Box::new(CommandContent::start(command, name, PlainEndMark::default(), false)?),
            })
        })
    }

    fn globals(&self, programs: &Programs, with_passwords: bool) -> Opener {
        let mut command = programs.command("pg_dumpall", &self.server);
        command.args(["-w", "-g"]);
        if !with_passwords {
            command.arg("--no-role-passwords");
        }
        let name = "pg_dumpall of the globals".to_owned();
        Box::new(move || Ok(Box::new(CommandContent::start(command, name, PlainEndMark::default(), false)?)))
    }

    fn begin(&mut self, name: &str, programs: &Programs) -> Result<Box<Database>, SourceError> {
        let database = Database::begin(&self.server, name, programs, self.options.postgres_jobs)?;
        self.details.insert(format!("moment:{name}"), database.moment.clone());
        Ok(Box::new(database))
    }
}

/// The databases that can be dumped, if they are all to be.
fn databases(session: &mut Connection) -> Result<Vec<String>, PgError> {
    let query =
        "SELECT datname FROM pg_catalog.pg_database WHERE datallowconn AND NOT datistemplate ORDER BY 1";
    let rows = session.query(query)?;
    Ok(rows.into_iter().filter_map(|row| row.into_iter().next().flatten()).collect())
}

/// A session with the server, whatever database there is.
pub(crate) fn any_session(server: &Server) -> Result<Connection, PgError> {
    match &server.database {
        Some(name) => Connection::open(server, name),
        None => Connection::open(server, "postgres").or_else(|error| match error.code() {
            "3D000" => Connection::open(server, "template1"),
            _ => Err(error),
        }),
    }
}

impl Source for PostgresSource {
    fn records(&self) -> Vec<SourceRecord> {
        // Each database is of one moment, but not of the same one.
        let mut record = SourceRecord::new("postgres", self.server.shown.clone(), self.databases == 1);
        record.details = self.details.clone();
        vec![record]
    }

    fn paths(&self) -> Vec<String> {
        vec![format!("/{}", self.folder)]
    }

    fn start(&mut self, _: [u64; 2]) -> Result<(), SourceError> {
        let server = self.server.clone();
        let failed = |error: PgError| server.failed(&error);
        let mut session = any_session(&server).map_err(failed)?;
        let path = self.options.environment.get("PATH").cloned();
        let programs = Programs::find(&server, session.major(), "pg_dump", path.as_deref())?;
        self.programs = Some(programs.clone());
        self.details.insert("server".into(), session.value("SHOW server_version").map_err(failed)?);
        self.details.insert("pg_dump".into(), programs.version.to_string());
        let names = match &server.database {
            Some(name) => vec![name.clone()],
            None => databases(&mut session).map_err(failed)?,
        };
        self.databases = names.len();
        let folder = format!("{}/databases", self.folder);
        for path in ["postgres", &self.folder, &folder] {
            let item = Item::folder(path, self.time);
            self.next.push_back((path.to_owned(), Next::Item(Box::new(item))));
        }
        let format = self.options.postgres_format;
        for (number, name) in names.into_iter().enumerate() {
            let stem = format!("{folder}/{}", encoded(&name));
            let (path, next) = match format {
                Format::Directory => {
                    let database = if number < AT_ONCE { Some(self.begin(&name, &programs)?) } else { None };
                    (stem, Next::Database(name, database))
                }
                Format::Plain | Format::Custom => {
                    let index = (format == Format::Custom).then(Rc::<RefCell<BlockIndex>>::default);
                    let path = format!("{stem}.{}", if index.is_some() { "dump" } else { "sql" });
                    if let Some(index) = &index {
                        self.next.push_back((format!("{path}.index"), Next::Index(Rc::clone(index))));
                    }
                    let item = Item::stream(&path, self.time, self.dump(&programs, &name, index));
                    (path, Next::Item(Box::new(item)))
                }
            };
            self.next.push_back((path, next));
        }
        if server.database.is_none() {
            let is_superuser = session
                .value("SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user")
                .map_err(failed)?;
            let with_passwords = is_superuser == "t";
            if !with_passwords {
                self.details
                    .insert("role-passwords".into(), "left out: only a superuser can read them".into());
            }
            let path = format!("{}/globals.sql", self.folder);
            let item = Item::stream(&path, self.time, self.globals(&programs, with_passwords));
            self.next.push_back((path, Next::Item(Box::new(item))));
        }
        self.next.make_contiguous().sort_by(|(a, _), (b, _)| compare_paths(a.as_bytes(), b.as_bytes()));
        Ok(())
    }

    fn next_item(&mut self, _: &dyn Monitor) -> Result<Option<Item>, SourceError> {
        loop {
            if let Some(database) = &mut self.current {
                if let Some(item) = database.next_item() {
                    return Ok(Some(item));
                }
                self.current = None;
            }
            match self.next.pop_front() {
                None => return Ok(None),
                Some((_, Next::Item(item))) => return Ok(Some(*item)),
                Some((path, Next::Index(index))) => {
                    let bytes = serde_json::to_vec(&index.take()).unwrap_or_default();
                    return Ok(Some(AtHand::item(&path, self.time, bytes)));
                }
                Some((path, Next::Database(name, database))) => {
                    let mut database = match database {
                        Some(database) => database,
                        None => {
                            let programs = self.programs.clone();
                            let unstarted =
                                || self.server.error(SourceErrorKind::Unavailable, "was not started");
                            self.begin(&name, &programs.ok_or_else(unstarted)?)?
                        }
                    };
                    database.lay_out(&path, self.time)?;
                    self.current = Some(database);
                }
            }
        }
    }
}

/// An error of the server while something is read from it.
fn lost(name: &str, error: &PgError) -> SourceError {
    SourceError::new(SourceErrorKind::Unavailable, name, error)
}
