//! A PostgreSQL server: its databases, and the globals (roles, tablespaces) through pg_dumpall.
//!
//! A database is laid down as pg_dump's directory format: `toc.dat`, and a file for each table's rows. The table of
//! contents is pg_dump's own; the rows are read by several sessions that share one exported snapshot, a large table
//! by all of them at a time (`directory.rs`). The other formats are pg_dump's output as it comes. Passwords go to the
//! programs in their environment, never on a command line.

use crate::connection::PgError;
use crate::end_mark::{BlockIndex, CustomEndMark, PlainEndMark};
use crate::programs::Programs;
use crate::settings::{AT_ONCE, FORMAT, JOBS};
use crate::{Connection, Server, names};
use connector_kit::command::CommandContent;
use engine::connector::Context;
use engine::entry::{Time, compare_paths};
use engine::snapshot::SourceRecord;
use engine::source::at_hand::AtHand;
use engine::source::{Item, Opener, Source, SourceError, SourceErrorKind};
use engine::{ItemError, Monitor};
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

mod copies;
mod databases;
mod directory;
mod tables;
mod tolerant;

use databases::{Databases, Named};
use directory::Database;
use tolerant::{Outcome, Tolerant};

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

/// What the user asked for.
#[derive(Clone, Copy, Debug)]
struct Asked {
    /// Sessions that read one database.
    jobs: usize,
    /// Whether what cannot be read is left out.
    keep_going: bool,
}

/// What comes next.
enum Next {
    Item(Box<Item>),
    /// A database as pg_dump writes it, or the globals, which may turn out to be unreadable.
    Dump(Box<Item>, Outcome),
    /// A database in directory format, whose moment may be fixed already.
    Database(Named, Option<Box<Database>>),
    /// Where everything is in the dump before it.
    Index(Rc<RefCell<BlockIndex>>, Outcome),
}

/// The source of `postgres://`.
pub struct PostgresSource {
    server: Server,
    time: Time,
    options: Context,
    folder: String,
    next: VecDeque<(String, Next)>,
    /// The database whose files are being read: its sessions live as long.
    current: Option<Box<Database>>,
    details: BTreeMap<String, String>,
    databases: usize,
    /// Databases that cannot be read, and what is said of them once somebody listens.
    left_out: usize,
    unsaid: Vec<ItemError>,
    /// Dumps that are being read.
    outcomes: Vec<(String, Outcome)>,
    /// Known once it is started.
    programs: Option<Programs>,
}

impl PostgresSource {
    /// Asks for nothing yet.
    pub fn new(url: &str, time: Time, options: &Context) -> Result<Self, SourceError> {
        let server = Server::parse(url, options)?;
        if let Some(why) = server.database.as_deref().and_then(|name| names::check(name).err()) {
            return Err(server.error(SourceErrorKind::Unavailable, why));
        }
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
            left_out: 0,
            unsaid: vec![],
            outcomes: vec![],
            programs: None,
        })
    }

    fn asked(&self) -> Asked {
        Asked {
            jobs: self.options.settings.parsed(JOBS.name).unwrap_or(self.options.sessions).max(1),
            keep_going: self.options.keep_going,
        }
    }

    /// A dump as pg_dump writes it: in custom format if its index is wanted.
    fn dump(
        &self,
        programs: &Programs,
        database: &Named,
        index: Option<Rc<RefCell<BlockIndex>>>,
    ) -> (Opener, Outcome) {
        let mut command = programs.command("pg_dump", &self.server);
        command.args(["-w", "--dbname"]).arg(self.server.database_of(&database.bytes));
        let name = format!("pg_dump of database '{}'", database.text);
        let object = name.clone();
        let open: Opener = Box::new(move || {
            Ok(match index {
                Some(index) => {
                    command.args(["-Fc", "-Z0"]);
                    Box::new(CommandContent::start(command, name, CustomEndMark::telling(index), false)?)
                }
                None => Box::new(CommandContent::start(command, name, PlainEndMark::default(), false)?),
            })
        });
        Tolerant::open(open, object, self.options.keep_going)
    }

    fn globals(&self, programs: &Programs, with_passwords: bool) -> (Opener, Outcome) {
        let mut command = programs.command("pg_dumpall", &self.server);
        command.args(["-w", "-g"]);
        if !with_passwords {
            command.arg("--no-role-passwords");
        }
        let name = "pg_dumpall of the globals".to_owned();
        let object = name.clone();
        let open: Opener = Box::new(move || {
            Ok(Box::new(CommandContent::start(command, name, PlainEndMark::default(), false)?))
        });
        Tolerant::open(open, object, self.options.keep_going)
    }

    fn begin(&mut self, name: &Named, programs: &Programs) -> Result<Box<Database>, SourceError> {
        let database = Database::begin(&self.server, name, programs, self.asked())?;
        self.details.insert(format!("moment:{}", name.text), database.moment.clone());
        Ok(Box::new(database))
    }

    /// Fixes the moments of so many databases as are asked for, and fit; the others' when their turn comes.
    fn begin_first(&mut self, programs: &Programs) -> Result<(), SourceError> {
        let (mut tables, mut begun) = (0, 0);
        for at in 0..self.next.len() {
            let (path, name) = match &self.next[at] {
                (path, Next::Database(name, None)) => (path.clone(), name.clone()),
                _ => continue,
            };
            match self.begin(&name, programs) {
                Ok(mut database) => {
                    tables += database.tables;
                    begun += 1;
                    let leaves_room =
                        database.leaves_room(tables).map_err(|error| self.server.failed(&error))?;
                    self.next[at].1 = Next::Database(name, Some(database));
                    if begun >= self.options.settings.parsed(AT_ONCE.name).unwrap_or(1) || !leaves_room {
                        return Ok(());
                    }
                }
                Err(error) => {
                    let told = self.leave_out(&path, error)?;
                    self.unsaid.push(told);
                    // Its turn is over.
                    self.next[at].1 = Next::Database(name, None);
                    self.next[at].0.clear();
                }
            }
        }
        Ok(())
    }

    /// A database that cannot be read, if the others are to go on.
    fn leave_out(&mut self, path: &str, error: SourceError) -> Result<ItemError, SourceError> {
        let is_own = matches!(error.kind, SourceErrorKind::Item | SourceErrorKind::Command);
        self.left_out += 1;
        if !self.options.keep_going || !is_own || self.left_out == self.databases {
            return Err(match error.kind {
                SourceErrorKind::Item => SourceError { kind: SourceErrorKind::Unavailable, ..error },
                _ => error,
            });
        }
        self.details.insert(format!("left-out:{path}"), error.why.clone());
        let message = format!("left out: {}", engine::shown::line(&error.why));
        Ok(ItemError { during: "archival", item: error.what, message })
    }

    /// What is to come, in the order of a manifest.
    fn plan(&mut self, names: Vec<Named>, programs: &Programs) {
        let folder = format!("{}/databases", self.folder);
        for path in ["postgres", &self.folder, &folder] {
            let item = Item::folder(path, self.time);
            self.next.push_back((path.to_owned(), Next::Item(Box::new(item))));
        }
        let format = match self.options.settings.get(FORMAT.name) {
            Some("plain") => Format::Plain,
            Some("custom") => Format::Custom,
            _ => Format::Directory,
        };
        for name in names {
            let stem = format!("{folder}/{}", name.component());
            let (path, next) = match format {
                Format::Directory => (stem, Next::Database(name, None)),
                Format::Plain | Format::Custom => {
                    let index = (format == Format::Custom).then(Rc::<RefCell<BlockIndex>>::default);
                    let path = format!("{stem}.{}", if index.is_some() { "dump" } else { "sql" });
                    let (open, outcome) = self.dump(programs, &name, index.clone());
                    if let Some(index) = index {
                        self.next
                            .push_back((format!("{path}.index"), Next::Index(index, Rc::clone(&outcome))));
                    }
                    let item = Item::stream(&path, self.time, open);
                    (path, Next::Dump(Box::new(item), outcome))
                }
            };
            self.next.push_back((path, next));
        }
    }

    /// The next of what was planned; `None` at its end.
    fn planned(&mut self, monitor: &dyn Monitor) -> Result<Option<Item>, SourceError> {
        while let Some((path, next)) = self.next.pop_front() {
            match next {
                Next::Item(item) => return Ok(Some(*item)),
                Next::Dump(item, outcome) => {
                    self.outcomes.push((path, outcome));
                    return Ok(Some(*item));
                }
                Next::Index(index, outcome) => {
                    if outcome.borrow().is_none() {
                        let bytes = serde_json::to_vec(&index.take()).unwrap_or_default();
                        return Ok(Some(AtHand::item(&path, self.time, bytes)));
                    }
                }
                // It was left out before.
                Next::Database(_, None) if path.is_empty() => {}
                Next::Database(name, begun) => {
                    let programs = self.programs.clone();
                    let programs = programs
                        .ok_or_else(|| self.server.error(SourceErrorKind::Unavailable, "was not started"))?;
                    let begun = begun.map_or_else(|| self.begin(&name, &programs), Ok);
                    let laid = begun.and_then(|mut database| {
                        let told = database.lay_out(&path, self.time)?;
                        Ok((database, told))
                    });
                    match laid {
                        Ok((mut database, told)) => {
                            for (item, message) in told {
                                let message = engine::shown::line(&message).into_owned();
                                monitor.error(ItemError { during: "archival", item, message });
                            }
                            let first = database.next_item();
                            self.current = Some(database);
                            return Ok(first);
                        }
                        Err(error) => {
                            let told = self.leave_out(&path, error)?;
                            monitor.error(told);
                        }
                    }
                }
            }
        }
        Ok(None)
    }

    /// What the dumps that were read came to.
    fn settle(&mut self) -> Result<(), SourceError> {
        for (path, outcome) in std::mem::take(&mut self.outcomes) {
            if let Some(why) = outcome.borrow().clone() {
                if path.ends_with("/globals.sql") {
                    self.details.insert(format!("left-out:{path}"), why);
                } else {
                    self.leave_out(&path, SourceError::new(SourceErrorKind::Command, &path, why))?;
                }
            }
        }
        Ok(())
    }
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
        let mut record = SourceRecord::new("postgres", self.server.shown.clone(), self.databases == 1)
            .identified(self.server.identity());
        record.details = self.details.clone();
        vec![record]
    }

    fn paths(&self) -> Vec<String> {
        vec![format!("/{}", self.folder)]
    }

    fn tolerates_item_errors(&self) -> bool {
        self.options.keep_going
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
            Some(name) => vec![Named::of(name)],
            None => {
                let found = Databases::read(&mut session).map_err(failed)?;
                for (name, why) in found.closed {
                    self.details.insert(format!("not-dumped:{name}"), why.into());
                    tracing::warn!("database '{name}' is not in the backup: {why}");
                }
                found.names
            }
        };
        self.databases = names.len();
        self.plan(names, &programs);
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
            let (open, outcome) = self.globals(&programs, with_passwords);
            let item = Item::stream(&path, self.time, open);
            self.next.push_back((path, Next::Dump(Box::new(item), outcome)));
        }
        // A role may have few connections.
        drop(session);
        self.next.make_contiguous().sort_by(|(a, _), (b, _)| compare_paths(a.as_bytes(), b.as_bytes()));
        self.begin_first(&programs)
    }

    fn next_item(&mut self, monitor: &dyn Monitor) -> Result<Option<Item>, SourceError> {
        self.unsaid.drain(..).for_each(|error| monitor.error(error));
        self.settle()?;
        if let Some(database) = &mut self.current {
            let item = database.next_item();
            for (path, why) in std::mem::take(&mut database.left_out) {
                self.details.insert(format!("left-out:{path}"), why);
            }
            if item.is_some() {
                return Ok(item);
            }
            // Its sessions end before the next one's begin.
            self.current = None;
        }
        self.planned(monitor)
    }
}

/// An error of the server while something is read from it.
fn lost(name: &str, error: &PgError) -> SourceError {
    SourceError::new(SourceErrorKind::Unavailable, name, error)
}

/// The same of one object, database or statement: what the server refuses can be left out, if the user says so.
fn refused(name: &str, error: &PgError, asked: Asked) -> SourceError {
    match (error, asked.keep_going) {
        (PgError::Refused { .. }, true) => SourceError::new(SourceErrorKind::Item, name, error),
        (PgError::Refused { .. }, false) => {
            let why = format!("{error}; --keep-going leaves the database out and goes on with the others");
            SourceError::new(SourceErrorKind::Unavailable, name, why)
        }
        (PgError::Lost(_), _) => lost(name, error),
    }
}
