//! One database as pg_dump's directory format. pg_dump gives the table of contents, within the exported snapshot of a
//! session that holds every table; it is let go before it sends rows. Those are read by `copies.rs`, byte for byte
//! as pg_dump writes them.
//! Source: `dumpTableData_copy`, `setup_connection`, `getTables` in `pg_dump.c`; `pg_backup_directory.c`.

use super::copies::{Copies, CopyContent, Opening, Wanted};
use super::databases::Named;
use super::tables::{ANEW, Tables, file_name, lock_tables};
use super::{Asked, refused};
use crate::charset;
use crate::charset::Within;
use crate::connection::{PgError, PgResult};
use crate::limits;
use crate::limits::{BRIEFLY, Room};
use crate::programs::{Programs, without_name};
use crate::toc::{ArchiveFormat, MAX_TOC, Stop, Toc, TocEntry};
use crate::{Connection, Server};
use chunkstore::threads;
use connector_kit::child::{self, Role};
use engine::entry::{Time, compare_paths};
use engine::source::at_hand::AtHand;
use engine::source::{Content, Item, Opener, SourceError, SourceErrorKind};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::OsStr;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::process::Stdio;
use std::rc::Rc;

/// What pg_dump ends a table's rows with.
const END_OF_ROWS: &[u8] = b"\\.\n\n\n";

/// How often a moment is looked for at which every table is what it was called.
const TRIES: usize = 5;

/// A database at one moment.
pub(super) struct Database {
    name: String,
    opening: Opening,
    programs: Programs,
    asked: Asked,
    /// Holds the snapshot and the tables.
    session: Connection,
    /// When, and where in the WAL.
    pub(super) moment: String,
    /// Tables that are locked.
    pub(super) tables: usize,
    /// Tables and sequences that we may not read: pg_dump's patterns, and names for people.
    denied: Vec<Denied>,
    items: VecDeque<Laid>,
    /// The file that was given out last.
    last: Option<Fallback>,
    copies: Option<Rc<RefCell<Copies>>>,
    /// What is not in it, by its place in the snapshot, and why.
    pub(super) left_out: BTreeMap<String, String>,
}

/// A table or sequence that we may not read.
struct Denied {
    /// As pg_dump's options take it.
    option: Vec<u8>,
    shown: String,
    why: &'static str,
}

struct Laid {
    item: Item,
    fallback: Option<Fallback>,
}

/// What takes a file's place if it turns out that its rows cannot be read: a table without any, so that the archive
/// can be restored.
struct Fallback {
    path: String,
    time: Time,
    tail: &'static [u8],
    object: String,
    failure: Rc<RefCell<Option<String>>>,
}

impl Database {
    /// Fixes the moment.
    pub(super) fn begin(
        server: &Server,
        name: &Named,
        programs: &Programs,
        asked: Asked,
    ) -> Result<Self, SourceError> {
        let shown = format!("{} database '{}'", server.shown, name.text);
        let failed = |error: PgError| refused(&shown, &error, asked);
        let mut tries = 1..TRIES;
        let (mut session, snapshot, moment, tables) = loop {
            match Self::moment(server, name) {
                Err(error) if error.code() == ANEW && tries.next().is_some() => {}
                done => break done.map_err(failed)?,
            }
        };
        let denied = if asked.keep_going { denied(&mut session).map_err(failed)? } else { vec![] };
        let opening = Opening {
            server: server.clone(),
            database: name.bytes.clone(),
            snapshot,
            encoding: String::new(),
        };
        Ok(Self {
            name: name.text.clone(),
            opening,
            programs: programs.clone(),
            asked,
            session,
            moment,
            tables,
            denied,
            items: VecDeque::new(),
            last: None,
            copies: None,
            left_out: BTreeMap::new(),
        })
    }

    /// A session with a snapshot, its name, when that was, and the number of the tables that it holds.
    fn moment(server: &Server, name: &Named) -> PgResult<(Connection, String, String, usize)> {
        let mut session = limits::open(server, &name.bytes)?;
        Opening::begin(&mut session)?;
        let snapshot = session.value("SELECT pg_catalog.pg_export_snapshot()")?;
        let moment = session.value(
            "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')",
        )?;
        let tables = lock_tables(&mut session)?;
        Ok((session, snapshot, moment, tables))
    }

    /// Whether another database can be held beside this one.
    pub(super) fn leaves_room(&mut self, tables: usize) -> Result<bool, PgError> {
        let room = Room::of(&mut self.session)?;
        // Each table is locked by us, and by pg_dump for a while.
        let is_enough = room.free >= 2 + self.asked.jobs as u64;
        Ok(is_enough && limits::locks(&mut self.session)? / 2 >= tables as u64 * 2)
    }

    pub(super) fn next_item(&mut self) -> Option<Item> {
        if let Some(Fallback { path, time, tail, object, failure }) = self.last.take()
            && let Some(why) = failure.take()
        {
            self.left_out.insert(path.clone(), format!("{object}: {why}"));
            return Some(AtHand::item(&path, time, tail.to_vec()));
        }
        let Laid { item, fallback } = self.items.pop_front()?;
        self.last = fallback;
        Some(item)
    }

    /// Learns what there is, and starts to read it; `folder` is where it goes. Returns what cannot be read.
    pub(super) fn lay_out(&mut self, folder: &str, time: Time) -> Result<Vec<(String, String)>, SourceError> {
        let shown = format!("{} database '{}'", self.opening.server.shown, self.name);
        let asked = self.asked;
        let failed = |error: PgError| refused(&shown, &error, asked);
        Room::for_one(&mut self.session, "pg_dump").map_err(failed)?;
        let mut toc = self.read_toc()?;
        if let Some(encoding) = toc.entries.iter().find(|entry| entry.kind == "ENCODING") {
            self.opening.encoding.clone_from(&encoding.definition);
        }
        // From here on names are in the archive's encoding.
        self.session.query(&self.opening.encoding).map_err(failed)?;
        let tables = Tables::read(&mut self.session).map_err(failed)?;
        charset::translate(&mut toc, &mut self.session, Within::Transaction).map_err(failed)?;
        let mut plan = Plan::new(&toc, &tables, self.session.major(), &shown)?;
        // Read in the order in which they are laid down.
        plan.read.sort_by(|a, b| compare_paths(a.file.as_bytes(), b.file.as_bytes()));
        let wanted = plan.read.iter().flat_map(|file| file.stretches.clone()).collect();
        let room = Room::wait(&mut self.session, 2 * asked.jobs as u64, BRIEFLY).map_err(failed)?;
        let copies = Copies::start(&self.opening, room.share(asked.jobs), wanted).map_err(failed)?;
        let copies = Rc::new(RefCell::new(copies));
        let mut items = vec![Laid { item: Item::folder(folder, time), fallback: None }];
        for Read { file, object, stretches, tail } in plan.read {
            let (copies, stretches) = (Rc::clone(&copies), stretches.len());
            let (path, failure) = (format!("{folder}/{file}"), Rc::default());
            let object = format!("{object} of database '{}'", self.name);
            let fallback = Fallback {
                path: path.clone(),
                time,
                tail,
                object: object.clone(),
                failure: Rc::clone(&failure),
            };
            let keep_going = asked.keep_going;
            let open: Opener = Box::new(move || {
                let (part, at) = (vec![], 0);
                let content = CopyContent { copies, stretches, tail, part, at, object, failure, keep_going };
                Ok(Box::new(content) as Box<dyn Content>)
            });
            items.push(Laid { item: Item::stream(&path, time, open), fallback: Some(fallback) });
        }
        for (file, list) in plan.lists {
            let item = AtHand::item(&format!("{folder}/{file}"), time, list.into_bytes());
            items.push(Laid { item, fallback: None });
        }
        let bytes = toc.write(ArchiveFormat::Directory, &plan.files);
        items.push(Laid { item: AtHand::item(&format!("{folder}/toc.dat"), time, bytes), fallback: None });
        items.sort_by(|a, b| compare_paths(&a.item.entry.path, &b.item.entry.path));
        self.items = items.into();
        self.copies = Some(copies);
        let told = std::mem::take(&mut self.denied).into_iter().map(|denied| {
            let object = format!("{} of database '{}'", denied.shown, self.name);
            self.left_out.insert(format!("{folder}: {}", denied.shown), denied.why.into());
            (object, format!("left out: {}", denied.why))
        });
        Ok(told.collect())
    }

    /// The table of contents, from pg_dump's custom format, in which it comes first.
    fn read_toc(&self) -> Result<Toc, SourceError> {
        let name = format!("pg_dump of database '{}'", self.name);
        let failed = |why: &dyn std::fmt::Display| {
            let advice =
                if self.asked.keep_going { "" } else { "; --keep-going leaves out what cannot be read" };
            SourceError::new(SourceErrorKind::Command, &name, format!("{why}{advice}"))
        };
        let mut command = self.programs.command("pg_dump", &self.opening.server);
        command.args(["-w", "-Fc", "-Z0", "--snapshot", &self.opening.snapshot]);
        command.arg("--dbname").arg(self.opening.server.database_of(&self.opening.database));
        command.args(self.denied.iter().map(|denied| OsStr::from_bytes(&denied.option)));
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = child::spawn(&mut command, Role::Tool).map_err(|error| failed(&error))?;
        let (Some(mut out), Some(complaints)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(failed(&"no pipe from the command"));
        };
        let watch = &self.opening.server.watch;
        let listener = threads::start("esker-said", move || child::complaints(complaints).trim().to_owned());
        let listener = listener.inspect_err(|_| child::kill(&child)).map_err(|error| failed(&error))?;
        let toc = watch.during(&child, || {
            let (mut bytes, mut retry_at) = (vec![], 1 << 16);
            loop {
                let read = (&mut out).take((retry_at - bytes.len()) as u64).read_to_end(&mut bytes)?;
                match Toc::parse(&bytes) {
                    Ok((toc, _)) => return Ok(Ok(toc)),
                    Err(Stop::More) if read > 0 && retry_at < MAX_TOC => retry_at *= 2,
                    Err(Stop::More) => return Ok(Err("ended within its table of contents")),
                    Err(Stop::Bad(why)) => return Ok(Err(why)),
                }
            }
        });
        if !matches!(toc, Ok(Err(_))) {
            // What follows is read otherwise.
            let _ = child.kill();
        }
        drop(out);
        let status = watch.ended(&mut child).map_err(|error| failed(&error))?;
        let toc = toc.map_err(|error| failed(&error))?;
        let complaints = listener.join().unwrap_or_default();
        toc.map_err(|why| match complaints.is_empty() {
            false => failed(&without_name(&complaints, "pg_dump")),
            true => failed(&format!("{why} ({status})")),
        })
    }
}

/// A file that is read from the server.
struct Read {
    file: String,
    /// What it is, for people.
    object: String,
    stretches: Vec<Wanted>,
    /// What ends it.
    tail: &'static [u8],
}

/// The files of a database.
#[derive(Default)]
struct Plan {
    read: Vec<Read>,
    /// Lists of large objects: name and content.
    lists: Vec<(String, String)>,
    /// Names of entries' data.
    files: BTreeMap<i64, String>,
}

impl Plan {
    fn new(toc: &Toc, tables: &Tables, major: u32, shown: &str) -> Result<Self, SourceError> {
        let mut plan = Self::default();
        let mut names = BTreeSet::new();
        for entry in toc.entries.iter().filter(|entry| entry.has_data) {
            let file = match entry.kind.as_str() {
                "TABLE DATA" => {
                    let (mut file, stretches) = (file_name(entry), tables.stretches(entry, major)?);
                    if !names.insert(file.clone()) {
                        // Names in several encodings can look alike.
                        file = format!("{}.dat", entry.oid);
                    }
                    let object = format!("table {}.{}", entry.namespace, entry.tag);
                    plan.read.push(Read { file: file.clone(), object, stretches, tail: END_OF_ROWS });
                    file
                }
                "BLOBS" => plan.large_objects(toc, entry),
                other => {
                    let why = format!("pg_dump has data of a kind that is not known here: {other}");
                    return Err(SourceError::new(SourceErrorKind::Incomplete, shown, why));
                }
            };
            plan.files.insert(entry.id, file);
        }
        Ok(plan)
    }

    /// A file for each large object, and a list of them, whose name it returns.
    fn large_objects(&mut self, toc: &Toc, entry: &TocEntry) -> String {
        let name = match toc.version < (1, 16) {
            true => "blobs.toc".to_owned(),
            false => format!("blobs_{}.toc", entry.id),
        };
        let mut list = String::new();
        for oid in toc.large_objects(entry) {
            let file = format!("blob_{oid}.dat");
            list += &format!("{oid} {file}\n");
            let object = format!("large object {oid}");
            self.read.push(Read { file, object, stretches: vec![Wanted::Object(oid)], tail: b"" });
        }
        self.lists.push((name.clone(), list));
        name
    }
}

/// Whether a word is one of the two options that we ask the server to spell out: nothing else that it says is given to pg_dump.
fn is_exclusion(option: &[u8]) -> bool {
    [&b"--exclude-table=\""[..], b"--exclude-table-data=\""].iter().any(|begin| option.starts_with(begin))
}

/// Tables and sequences that we may not read, which pg_dump would give up at.
fn denied(session: &mut Connection) -> Result<Vec<Denied>, PgError> {
    let rows = session.query_bytes(
        b"SELECT CASE c.relkind WHEN 'S' THEN '--exclude-table-data=' ELSE '--exclude-table=' END || '\"' || \
         replace(n.nspname, '\"', '\"\"') || '\".\"' || replace(c.relname, '\"', '\"\"') || '\"', \
         CASE c.relkind WHEN 'S' THEN 'the value of sequence ' ELSE 'table ' END || n.nspname || '.' || c.relname \
         FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relkind IN ('r', 'p', 'S') AND c.relpersistence <> 't' AND n.nspname !~ '^pg_' \
         AND n.nspname <> 'information_schema' AND NOT (pg_catalog.has_schema_privilege(n.oid, 'USAGE') \
         AND pg_catalog.has_table_privilege(c.oid, 'SELECT')) ORDER BY c.oid",
    )?;
    let pair = |row: Vec<Option<Vec<u8>>>| {
        let mut values = row.into_iter().flatten();
        Some((values.next()?, values.next()?))
    };
    let (options, names): (Vec<_>, Vec<_>) = rows.into_iter().filter_map(pair).unzip();
    let encoding = session.value("SELECT pg_catalog.getdatabaseencoding()")?;
    let texts = charset::in_utf8(session, &encoding, &names, Within::Transaction)?;
    let all = options.into_iter().zip(texts).zip(&names).filter(|((option, _), _)| is_exclusion(option));
    let denied = all.map(|((option, text), name)| Denied {
        option,
        shown: text.unwrap_or_else(|| String::from_utf8_lossy(name).into_owned()),
        why: "this user may not read it",
    });
    Ok(denied.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_server_chooses_an_option_of_pg_dump() {
        for word in ["--exclude-table=\"public\".\"t\"", "--exclude-table-data=\"a b\".\"--format=x\""] {
            assert!(is_exclusion(word.as_bytes()), "{word}");
        }
        for word in [
            "--format=p",
            "-f/x",
            "--dbname=host=elsewhere",
            "--exclude-table",
            "--exclude-table-",
            "@file",
            "",
        ] {
            assert!(!is_exclusion(word.as_bytes()), "{word}");
        }
    }
}
