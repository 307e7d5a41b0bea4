//! One database as pg_dump's directory format. pg_dump gives the table of contents, within the exported snapshot of a
//! session that holds every table; it is let go before it sends rows. Those are read by `copies.rs`, byte for byte
//! as pg_dump writes them.
//! Source: `dumpTableData_copy`, `setup_connection`, `getTables` in `pg_dump.c`; `pg_backup_directory.c`.

use super::copies::{Copies, CopyContent, Opening, Wanted};
use super::lost;
use crate::entry::{Time, compare_paths};
use crate::names::encoded_bytes;
use crate::pg::connection::{PgError, PgResult};
use crate::pg::programs::{Programs, database_name};
use crate::pg::toc::{ArchiveFormat, MAX_TOC, Stop, Toc, TocEntry};
use crate::pg::{Connection, Server};
use crate::source::stream::AtHand;
use crate::source::{Content, Item, Opener, SourceError, SourceErrorKind};
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::io::Read as _;
use std::process::Stdio;
use std::rc::Rc;

/// Bytes of a table that are read as one.
const STRETCH: u64 = 8 << 20;
/// Tables that are locked by one statement.
const LOCKED: usize = 500;
/// What pg_dump ends a table's rows with.
const END_OF_ROWS: &[u8] = b"\\.\n\n\n";
/// Since this version, ranges of places within a table are read without the rest of it.
const RANGE_SCANS: u32 = 14;
/// File systems allow 255 bytes.
const LONGEST_NAME: usize = 240;

/// A database at one moment.
pub(super) struct Database {
    name: String,
    opening: Opening,
    programs: Programs,
    jobs: usize,
    /// Holds the snapshot and the tables.
    session: Connection,
    /// When, and where in the WAL.
    pub(super) moment: String,
    items: VecDeque<Item>,
    copies: Option<Rc<RefCell<Copies>>>,
}

impl Database {
    /// Fixes the moment.
    pub(super) fn begin(
        server: &Server,
        name: &str,
        programs: &Programs,
        jobs: usize,
    ) -> Result<Self, SourceError> {
        let failed = |error: PgError| lost(&format!("{} database '{name}'", server.shown), &error);
        let mut session = Connection::open(server, name).map_err(failed)?;
        Opening::begin(&mut session).map_err(failed)?;
        let snapshot = session.value("SELECT pg_catalog.pg_export_snapshot()").map_err(failed)?;
        let moment = session
            .value(
                "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')",
            )
            .map_err(failed)?;
        lock_tables(&mut session).map_err(failed)?;
        let opening =
            Opening { server: server.clone(), database: name.to_owned(), snapshot, encoding: String::new() };
        Ok(Self {
            name: name.to_owned(),
            opening,
            programs: programs.clone(),
            jobs: jobs.max(1),
            session,
            moment,
            items: VecDeque::new(),
            copies: None,
        })
    }

    pub(super) fn next_item(&mut self) -> Option<Item> {
        self.items.pop_front()
    }

    /// Learns what there is, and starts to read it; `folder` is where it goes.
    pub(super) fn lay_out(&mut self, folder: &str, time: Time) -> Result<(), SourceError> {
        let toc = self.read_toc()?;
        if let Some(encoding) = toc.entries.iter().find(|entry| entry.kind == "ENCODING") {
            self.opening.encoding.clone_from(&encoding.definition);
        }
        let shown = format!("{} database '{}'", self.opening.server.shown, self.name);
        let tables = Tables::read(&mut self.session).map_err(|error| lost(&shown, &error))?;
        let mut plan = Plan::new(&toc, &tables, self.session.major(), &shown)?;
        // Read in the order in which they are laid down.
        plan.read.sort_by(|a, b| compare_paths(a.file.as_bytes(), b.file.as_bytes()));
        let wanted = plan.read.iter().flat_map(|file| file.stretches.clone()).collect();
        let copies = Rc::new(RefCell::new(Copies::start(&self.opening, self.jobs, wanted)?));
        let mut items = vec![Item::folder(folder, time)];
        for Read { file, stretches, tail } in plan.read {
            let (copies, stretches) = (Rc::clone(&copies), stretches.len());
            let open: Opener = Box::new(move || {
                Ok(Box::new(CopyContent { copies, stretches, tail, part: vec![], at: 0 }) as Box<dyn Content>)
            });
            items.push(Item::stream(&format!("{folder}/{file}"), time, open));
        }
        for (file, list) in plan.lists {
            items.push(AtHand::item(&format!("{folder}/{file}"), time, list.into_bytes()));
        }
        let bytes = toc.write(ArchiveFormat::Directory, &plan.files);
        items.push(AtHand::item(&format!("{folder}/toc.dat"), time, bytes));
        items.sort_by(|a, b| compare_paths(&a.entry.path, &b.entry.path));
        self.items = items.into();
        self.copies = Some(copies);
        Ok(())
    }

    /// The table of contents, from pg_dump's custom format, in which it comes first.
    fn read_toc(&self) -> Result<Toc, SourceError> {
        let name = format!("pg_dump of database '{}'", self.name);
        let failed = |why: &dyn std::fmt::Display| SourceError::new(SourceErrorKind::Command, &name, why);
        let mut command = self.programs.command("pg_dump", &self.opening.server);
        command.args(["-w", "-Fc", "-Z0", "--snapshot", &self.opening.snapshot]);
        command.arg(format!("--dbname={}", database_name(&self.name)));
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(|error| failed(&error))?;
        let (Some(mut out), Some(mut complaints)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(failed(&"no pipe from the command"));
        };
        let listener = std::thread::spawn(move || {
            let mut text = vec![];
            let _ = complaints.read_to_end(&mut text);
            String::from_utf8_lossy(&text).trim().to_owned()
        });
        let (mut bytes, mut retry_at) = (vec![], 1 << 16);
        let toc = loop {
            let read = (&mut out).take((retry_at - bytes.len()) as u64).read_to_end(&mut bytes);
            let read = read.map_err(|error| failed(&error))?;
            match Toc::parse(&bytes) {
                Ok((toc, _)) => break Ok(toc),
                Err(Stop::More) if read > 0 && retry_at < MAX_TOC => retry_at *= 2,
                Err(Stop::More) => break Err("ended within its table of contents"),
                Err(Stop::Bad(why)) => break Err(why),
            }
        };
        if toc.is_ok() {
            // What follows is read otherwise.
            let _ = child.kill();
        }
        drop(out);
        let status = child.wait().map_err(|error| failed(&error))?;
        let complaints = listener.join().unwrap_or_default();
        toc.map_err(|why| match complaints.is_empty() {
            false => failed(&complaints),
            true => failed(&format!("{why} ({status})")),
        })
    }
}

/// A file that is read from the server.
struct Read {
    file: String,
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
        for entry in toc.entries.iter().filter(|entry| entry.has_data) {
            let file = match entry.kind.as_str() {
                "TABLE DATA" => {
                    let (file, stretches) = (file_name(entry), tables.stretches(entry, major)?);
                    plan.read.push(Read { file: file.clone(), stretches, tail: END_OF_ROWS });
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
            self.read.push(Read { file, stretches: vec![Wanted::Object(oid)], tail: b"" });
        }
        self.lists.push((name.clone(), list));
        name
    }
}

/// Keeps tables from being changed or dropped until they are read.
fn lock_tables(session: &mut Connection) -> PgResult<()> {
    let rows = session.query(
        "SELECT pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname) \
         FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND n.nspname !~ '^pg_' \
         AND n.nspname <> 'information_schema' AND pg_catalog.has_table_privilege(c.oid, 'SELECT') \
         ORDER BY c.oid",
    )?;
    let names: Vec<String> = rows.into_iter().filter_map(|row| row.into_iter().next().flatten()).collect();
    for names in names.chunks(LOCKED) {
        session.query(&format!("LOCK TABLE {} IN ACCESS SHARE MODE", names.join(", ")))?;
    }
    Ok(())
}

/// A table's rows, under a name that tells which.
fn file_name(entry: &TocEntry) -> String {
    let part = |name: &str| encoded_bytes(name.as_bytes(), ".");
    let name = format!("{}.{}.dat", part(&entry.namespace), part(&entry.tag));
    if name.len() > LONGEST_NAME { format!("{}.dat", entry.oid) } else { name }
}

/// What is known about the tables of a database, by number.
struct Tables {
    /// Pages, and how many of them make a stretch.
    pages: BTreeMap<String, (u64, u64)>,
    /// Of extensions' tables: which rows are the user's.
    conditions: BTreeMap<String, String>,
}

impl Tables {
    fn read(session: &mut Connection) -> PgResult<Self> {
        let rows = session.query(
            "SELECT c.oid, pg_catalog.pg_relation_size(c.oid), pg_catalog.pg_table_size(c.oid), \
             pg_catalog.current_setting('block_size') FROM pg_catalog.pg_class c \
             JOIN pg_catalog.pg_am a ON a.oid = c.relam WHERE c.relkind = 'r' AND a.amname = 'heap'",
        )?;
        let mut pages = BTreeMap::new();
        for row in rows {
            let [Some(oid), Some(heap), Some(all), Some(block)] = row.as_slice() else { continue };
            let number = |text: &str| text.parse::<u64>().unwrap_or_default();
            let (heap, all, block) = (number(heap), number(all), number(block).max(1));
            // What lies outside of its pages counts, too.
            let stretch = (u128::from(STRETCH) * u128::from(heap) / u128::from(all.max(1))) as u64 / block;
            pages.insert(oid.clone(), (heap / block, stretch.max(1)));
        }
        let rows = session.query(
            "SELECT t.config, t.condition FROM pg_catalog.pg_extension e, \
             unnest(e.extconfig, e.extcondition) t(config, condition) WHERE t.condition <> ''",
        )?;
        let conditions = rows.into_iter().filter_map(|row| match row.as_slice() {
            [Some(oid), Some(condition)] => Some((oid.clone(), condition.clone())),
            _ => None,
        });
        Ok(Self { pages, conditions: conditions.collect() })
    }

    /// The COPYs that give a table's rows in their order.
    fn stretches(&self, entry: &TocEntry, major: u32) -> Result<Vec<Wanted>, SourceError> {
        let bad = || {
            let why = format!("an unknown kind of COPY: {}", entry.copy.trim());
            SourceError::new(SourceErrorKind::Incomplete, "pg_dump", why)
        };
        let what =
            entry.copy.strip_prefix("COPY ").and_then(|rest| rest.trim_end().strip_suffix(" FROM stdin;"));
        let (table, columns) = what.and_then(split_columns).ok_or_else(bad)?;
        if let Some(condition) = self.conditions.get(&entry.oid) {
            let sql = format!("COPY (SELECT {columns} FROM ONLY {table} {condition}) TO STDOUT");
            return Ok(vec![Wanted::Copy(sql)]);
        }
        let (pages, stretch) = self.pages.get(&entry.oid).copied().unwrap_or_default();
        if pages <= stretch || major < RANGE_SCANS || columns.is_empty() {
            let columns = if columns.is_empty() { String::new() } else { format!(" ({columns})") };
            return Ok(vec![Wanted::Copy(format!("COPY {table}{columns} TO STDOUT"))]);
        }
        let starts = (0..pages).step_by(usize::try_from(stretch).unwrap_or(usize::MAX));
        let copy = |from: u64| {
            // The last is open: pages that came after the count may have rows that are visible.
            let to = from + stretch;
            let bound = if to < pages { format!(" AND ctid < '({to},0)'") } else { String::new() };
            format!("COPY (SELECT {columns} FROM ONLY {table} WHERE ctid >= '({from},0)'{bound}) TO STDOUT")
        };
        Ok(starts.map(|from| Wanted::Copy(copy(from))).collect())
    }
}

/// `public."a (b)" (x, "y)")` as the table and its columns.
fn split_columns(text: &str) -> Option<(&str, &str)> {
    let mut quoted = false;
    for (at, character) in text.char_indices() {
        match character {
            '"' => quoted = !quoted,
            ' ' if !quoted => {
                let columns = text[at..].trim();
                return match columns {
                    "" | "()" => Some((&text[..at], "")),
                    _ => Some((&text[..at], columns.strip_prefix('(')?.strip_suffix(')')?)),
                };
            }
            _ => {}
        }
    }
    Some((text, "")).filter(|_| !quoted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_and_columns() {
        assert_eq!(split_columns("public.t (a, b)"), Some(("public.t", "a, b")));
        assert_eq!(
            split_columns("\"my (\"\"x)\".\"t t\" (\"a)\", b)"),
            Some(("\"my (\"\"x)\".\"t t\"", "\"a)\", b"))
        );
        assert_eq!(split_columns("public.t "), Some(("public.t", "")));
        assert_eq!(split_columns("public.t"), Some(("public.t", "")));
        assert_eq!(split_columns("public.t a"), None);
    }
}
