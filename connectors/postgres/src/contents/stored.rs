//! One database's dump in a snapshot: its table of contents, what belongs to which relation, and where the rows are.

use crate::end_mark::{BlockIndex, Rows};
use crate::restore::archive::{block_index, read_toc};
use crate::restore::contents::left_out;
use crate::restore::parts::{GROUNDS, parts};
use crate::restore::relations::{is_relation, quote, rows_of_all};
use crate::toc::{Toc, TocEntry};
use connector_kit::members::{Dump, unwritten};
use engine::connector::Origin;
use engine::diff::{Change, diff};
use engine::inside::Inside;
use engine::manifest::for_entries_beneath;
use engine::monitor::Tally;
use engine::restore::{dump, dump_ranges};
use engine::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

/// Schema and name.
pub(crate) type Key = (Vec<u8>, Vec<u8>);

/// What a relation is and belongs to it, by its name.
pub(super) type Definitions = BTreeMap<Key, blake3::Hash>;

/// Kinds that are written with a table besides its parts.
const WITH: &[&str] = &["DEFAULT"];
/// Parts that are not: they name roles that need not be there, or are a server's own.
const WITHOUT: &[&str] = &["ACL", "SECURITY LABEL", "STATISTICS DATA"];

/// What psql has to be told before it reads single objects of a dump, as pg_restore tells the server.
const SETTINGS: &[u8] = b"SET check_function_bodies = false;\nSET xmloption = content;\n";

/// How the bytes of the rows lie in the snapshot.
enum Data {
    /// A file for each, with its bytes.
    Files(BTreeMap<String, u64>),
    /// Blocks of one file: where they begin, and which is where, if that is known.
    Blocks { head: u64, end: u64, index: Option<Blocks> },
}

/// From and to in bytes, by the numbers of entries.
type Blocks = BTreeMap<i64, (u64, u64)>;

/// A database's dump.
pub(crate) struct Stored<'a> {
    from: Origin<'a>,
    dump: Dump,
    toc: Toc,
    /// The entry of each relation's rows, by the relation's number.
    rows: BTreeMap<i64, i64>,
    data: Data,
}

impl<'a> Stored<'a> {
    /// Reads its table of contents.
    pub(super) fn open(from: Origin<'a>, dump: &Dump) -> Result<Self> {
        from.repo.sync_index(&Tally::default())?;
        let manifest = &from.snapshot.snapshot.manifest;
        let mut files = BTreeMap::new();
        for_entries_beneath(from.repo.store(), manifest, dump.path.as_bytes(), &mut |listed| {
            let path = String::from_utf8_lossy(&listed.entry.path);
            if let Some(file) = path.strip_prefix(dump.path.as_str()) {
                files.insert(file.trim_start_matches('/').to_owned(), listed.size);
            }
            Ok(())
        })?;
        let path = if dump.is_folder { format!("{}/toc.dat", dump.path) } else { dump.path.clone() };
        let (toc, head) = read_toc(from.repo, &from.snapshot.snapshot, &path, &Tally::default())?;
        let rows = rows_of_all(&toc);
        let mut stored = Self { from, dump: dump.clone(), toc, rows, data: Data::Files(BTreeMap::new()) };
        stored.data = match dump.is_folder {
            true => Data::Files(files),
            false => {
                let end = files.get("").copied().unwrap_or(head);
                let snapshot = &stored.from.snapshot.snapshot;
                let index = block_index(stored.from.repo, snapshot, &dump.path, &Tally::default())?;
                let blocks =
                    |index: BlockIndex| index.blocks.into_iter().map(|(id, from, to)| (id, (from, to)));
                Data::Blocks { head, end, index: index.map(|index| blocks(index).collect()) }
            }
        };
        Ok(stored)
    }

    /// Tables, views, sequences, in the dump's order.
    pub(super) fn relations(&self) -> impl Iterator<Item = &TocEntry> {
        self.toc.entries.iter().filter(|entry| is_relation(entry))
    }

    /// Statements by which a session speaks as the dump does: its encoding, its quotes.
    pub(super) fn settings(&self) -> Vec<Vec<u8>> {
        let is_one = |entry: &&TocEntry| matches!(entry.kind.as_str(), "ENCODING" | "STDSTRINGS");
        self.toc.entries.iter().filter(is_one).map(|entry| definition(entry).to_vec()).collect()
    }

    /// The rows of a relation.
    fn rows_of(&self, relation: &TocEntry) -> Option<&TocEntry> {
        self.toc.get(*self.rows.get(&relation.id)?)
    }

    /// Bytes of the rows in the dump, where that is known.
    pub(super) fn size(&self, relation: &TocEntry) -> Option<u64> {
        let rows = self.rows_of(relation)?;
        match &self.data {
            Data::Files(files) => files.get(&rows.file).map(|size| size.saturating_sub(END_OF_ROWS)),
            Data::Blocks { index, .. } => index.as_ref()?.get(&rows.id).map(|(from, to)| to - from),
        }
    }

    /// That the backup did not leave out what is asked for.
    ///
    /// # Errors
    /// If it did, and why.
    pub(super) fn has_rows_of(&self, relation: &TocEntry) -> Result<()> {
        let all = left_out(&self.from.snapshot.snapshot, &self.dump.path);
        let parts = self.with_partitions(relation);
        let rows =
            self.relations().filter(|entry| parts.contains(&entry.id)).filter_map(|own| self.rows_of(own));
        for rows in rows {
            if let Some(why) = all.get(&format!("{}/{}", self.dump.path, rows.file)) {
                return Err(Error::Invalid(format!("its rows are not in this backup: {why}")));
            }
        }
        Ok(())
    }

    /// A relation, and its partitions at whatever depth, which have its rows.
    fn with_partitions(&self, relation: &TocEntry) -> BTreeSet<i64> {
        let ids = parts(&self.toc, &[relation.id].into(), true);
        self.relations()
            .filter(|entry| {
                ids.contains(&entry.id) && matches!(entry.kind.as_str(), "TABLE" | "FOREIGN TABLE")
                    || entry.id == relation.id
            })
            .map(|entry| entry.id)
            .collect()
    }

    /// What a relation is made of, and what belongs to it.
    fn chosen(&self, relation: &TocEntry) -> BTreeSet<i64> {
        let toc = &self.toc;
        let own = self.with_partitions(relation);
        let mut ids = parts(toc, &[relation.id].into(), true);
        let with = toc.entries.iter().filter(|entry| {
            let is_of_these = entry.needs.iter().any(|id| own.contains(id));
            // An index of a partition is attached to the table's, which is there, too.
            let is_attached = entry.kind == "INDEX ATTACH" && entry.needs.iter().all(|id| ids.contains(id));
            WITH.contains(&entry.kind.as_str()) && is_of_these || is_attached
        });
        let with: Vec<i64> = with.map(|entry| entry.id).collect();
        ids.extend(with);
        let tables = self.relations().filter(|entry| own.contains(&entry.id));
        let rows: BTreeSet<i64> = tables.filter_map(|own| self.rows_of(own)).map(|rows| rows.id).collect();
        ids.retain(|id| {
            toc.get(*id).is_some_and(|entry| {
                let is_other = entry.kind == "TABLE DATA" && !rows.contains(id);
                !is_other && !WITHOUT.contains(&entry.kind.as_str())
            })
        });
        // Of relations a table needs those that it inherits from; a view is written alone.
        let is_ground = |entry: &TocEntry| {
            let is_alike = entry.kind == relation.kind && entry.kind == "TABLE";
            GROUNDS.contains(&entry.kind.as_str())
                && (!is_relation(entry) || entry.kind == "SEQUENCE" || is_alike)
        };
        let mut open: Vec<i64> = ids.iter().copied().collect();
        while let Some(id) = open.pop() {
            let needs = toc.get(id).into_iter().flat_map(|entry| &entry.needs);
            for needed in needs.filter_map(|id| toc.get(*id)) {
                if is_ground(needed) && ids.insert(needed.id) {
                    open.push(needed.id);
                }
            }
        }
        ids
    }

    /// Writes a relation, as SQL that psql takes.
    pub(super) fn write(&self, relation: &TocEntry, out: &mut dyn Write) -> Result<()> {
        let ids = self.chosen(relation);
        let chosen = || self.toc.entries.iter().filter(|entry| ids.contains(&entry.id));
        let mut put = |bytes: &[u8]| out.write_all(bytes).map_err(unwritten);
        for entry in &self.toc.entries {
            if matches!(entry.kind.as_str(), "ENCODING" | "STDSTRINGS" | "SEARCHPATH") {
                put(definition(entry))?;
            }
        }
        put(SETTINGS)?;
        let schemas: BTreeSet<&[u8]> = chosen().map(|entry| entry.bytes.namespace.as_slice()).collect();
        for schema in schemas.into_iter().filter(|schema| !schema.is_empty() && *schema != b"public") {
            let mut text = b"CREATE SCHEMA IF NOT EXISTS ".to_vec();
            quote(schema, &mut text);
            text.extend(b";\n");
            put(&text)?;
        }
        put(b"\n")?;
        for entry in chosen() {
            let text = definition(entry);
            if !text.is_empty() {
                put(text)?;
                put(b"\n")?;
            }
            if entry.has_data {
                put(&entry.bytes.copy)?;
                self.rows(entry, &mut put)?;
            }
        }
        Ok(())
    }

    /// The rows, with the line that ends them.
    fn rows(&self, entry: &TocEntry, put: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut failed = Ok(());
        let mut pass = |bytes: &[u8]| {
            put(bytes).map_err(|error| {
                failed = Err(error);
                std::io::Error::other("cannot be written")
            })
        };
        let done = self.read_rows(Some(entry.id), &mut |_, bytes| pass(bytes));
        failed.and(done)
    }

    /// Reads the rows of one entry, or of all.
    pub(super) fn read_rows(
        &self,
        only: Option<i64>,
        each: &mut dyn FnMut(i64, &[u8]) -> std::io::Result<()>,
    ) -> Result<()> {
        let (repo, snapshot) = (self.from.repo, &self.from.snapshot.snapshot);
        let is_wanted = |id: i64| only.is_none_or(|only| only == id);
        match &self.data {
            Data::Files(_) => {
                let entries = match only {
                    Some(id) => self.toc.get(id).map_or(&[][..], std::slice::from_ref),
                    None => &self.toc.entries,
                };
                for entry in entries.iter().filter(|entry| entry.has_data) {
                    let path = format!("{}/{}", self.dump.path, entry.file);
                    let mut pass = Pass { each: &mut |bytes| each(entry.id, bytes) };
                    dump(repo, snapshot, path.as_bytes(), &mut pass, &Tally::default())?;
                }
            }
            Data::Blocks { head, end, index } => {
                let ranges: Vec<(u64, u64)> = match (only, index) {
                    (Some(only), Some(index)) => index.get(&only).copied().into_iter().collect(),
                    _ => vec![(*head, *end)],
                };
                let mut is_there = only.is_none();
                let mut one = |id: i64, bytes: &[u8]| {
                    is_there |= is_wanted(id);
                    if is_wanted(id) { each(id, bytes) } else { Ok(()) }
                };
                let mut rows = Rows::new(&self.toc, &mut one);
                dump_ranges(
                    repo,
                    snapshot,
                    self.dump.path.as_bytes(),
                    &ranges,
                    &mut rows,
                    &Tally::default(),
                )?;
                if !rows.is_whole() || !is_there {
                    let why = "the rows are not where the table of contents says".to_owned();
                    return Err(Error::Malformed { what: self.dump.path.clone(), why });
                }
            }
        }
        Ok(())
    }

    /// What every relation is, and what belongs to it, without rows.
    pub(super) fn definitions(&self) -> Definitions {
        let mut owners: BTreeMap<i64, i64> = self.relations().map(|entry| (entry.id, entry.id)).collect();
        let mut texts: BTreeMap<i64, blake3::Hasher> = BTreeMap::new();
        for entry in &self.toc.entries {
            let owner = owners.get(&entry.id).copied().or_else(|| {
                let needed =
                    || entry.needs.iter().filter_map(|id| Some((self.toc.get(*id)?, *owners.get(id)?)));
                // "TABLE CONSTRAINT": what refers to two tables is that one's.
                let is_named = |needed: &TocEntry| {
                    let rest = entry.bytes.tag.strip_prefix(needed.bytes.tag.as_slice());
                    key(needed).0 == key(entry).0
                        && rest.is_some_and(|rest| matches!(rest.first(), None | Some(b' ')))
                };
                let own = needed().find(|(needed, _)| is_named(needed)).or_else(|| needed().next());
                // What else needs a relation is itself: a function, a publication.
                own.filter(|_| BELONGS.contains(&entry.kind.as_str())).map(|(_, owner)| owner)
            });
            let Some(owner) = owner else { continue };
            owners.entry(entry.id).or_insert(owner);
            let hasher = texts.entry(owner).or_default();
            for text in [
                entry.kind.as_bytes(),
                &entry.bytes.tag,
                entry.owner.as_bytes(),
                entry.tablespace.as_bytes(),
                definition(entry),
                &entry.bytes.copy,
            ] {
                hasher.update(&(text.len() as u64).to_le_bytes()).update(text);
            }
        }
        let hashes =
            texts.into_iter().filter_map(|(id, hasher)| Some((key(self.toc.get(id)?), hasher.finalize())));
        hashes.collect()
    }

    /// Hashes of the rows of all tables, by name.
    fn digests(&self, names: &BTreeMap<i64, Key>) -> Result<BTreeMap<Key, blake3::Hash>> {
        let mut hashers: BTreeMap<i64, blake3::Hasher> = BTreeMap::new();
        let mut see = |id: i64, bytes: &[u8]| {
            hashers.entry(id).or_default().update(bytes);
            Ok::<(), std::io::Error>(())
        };
        match &self.data {
            Data::Blocks { .. } => self.read_rows(None, &mut see)?,
            Data::Files(_) => {
                for id in names.keys() {
                    self.read_rows(Some(*id), &mut see)?;
                }
            }
        }
        let named =
            hashers.into_iter().filter_map(|(id, hasher)| Some((names.get(&id)?.clone(), hasher.finalize())));
        Ok(named.collect())
    }

    /// Names of the tables that have rows.
    pub(super) fn with_rows(&self) -> BTreeMap<i64, Key> {
        let rows = self.toc.entries.iter().filter(|entry| entry.has_data && entry.kind == "TABLE DATA");
        rows.map(|entry| (entry.id, key(entry))).collect()
    }
}

/// The tables of both dumps of which the rows differ.
pub(super) fn changed_rows(a: &Stored<'_>, b: &Stored<'_>) -> Result<BTreeSet<Key>> {
    let (mut in_a, mut in_b) = (a.with_rows(), b.with_rows());
    let mut changed = BTreeSet::new();
    if let (Data::Files(_), Data::Files(_)) = (&a.data, &b.data) {
        let mut differ = BTreeSet::new();
        let inside =
            |stored: &Stored<'_>| Inside::new(&engine::names::path_text(stored.dump.path.as_bytes()));
        let (first, second) = (inside(a), inside(b));
        let sides = [&a.from.snapshot.snapshot.manifest, &b.from.snapshot.snapshot.manifest];
        diff(a.from.repo, (sides[0], &first), (sides[1], &second), false, &mut |change, entry, _| {
            if change != Change::Metadata {
                differ.insert(entry.path.clone());
            }
        })?;
        let file = |stored: &Stored<'_>, id: i64| stored.toc.get(id).map(|entry| entry.file.clone());
        let others: BTreeMap<Key, String> =
            in_b.iter().filter_map(|(id, key)| Some((key.clone(), file(b, *id)?))).collect();
        // Of a file that is equal in both nothing need be read.
        let mut equal = BTreeSet::new();
        for (id, key) in &in_a {
            let own = file(a, *id);
            if own.is_some() && own.as_ref() == others.get(key) {
                equal.insert(key.clone());
                if own.is_some_and(|own| differ.contains(own.as_bytes())) {
                    changed.insert(key.clone());
                }
            }
        }
        in_a.retain(|_, key| !equal.contains(&*key) && others.contains_key(&*key));
        in_b.retain(|_, key| in_a.values().any(|own| *own == *key));
    }
    let (before, after) = (a.digests(&in_a)?, b.digests(&in_b)?);
    changed.extend(before.into_iter().filter(|(key, hash)| after.get(key) != Some(hash)).map(|(key, _)| key));
    Ok(changed)
}

/// Bytes of the line that pg_dump ends rows with, and of the empty lines behind it.
const END_OF_ROWS: u64 = 5;

/// Kinds that belong to a relation that they need.
const BELONGS: &[&str] = &[
    "DEFAULT",
    "CONSTRAINT",
    "CHECK CONSTRAINT",
    "FK CONSTRAINT",
    "INDEX",
    "INDEX ATTACH",
    "TABLE ATTACH",
    "TRIGGER",
    "RULE",
    "POLICY",
    "ROW SECURITY",
    "ACL",
    "COMMENT",
    "SECURITY LABEL",
    "STATISTICS",
    "SEQUENCE SET",
    "SEQUENCE OWNED BY",
    "TABLE DATA",
];

fn key(entry: &TocEntry) -> Key {
    (entry.bytes.namespace.clone(), entry.bytes.tag.clone())
}

/// The command that makes an entry, in the dump's encoding.
fn definition(entry: &TocEntry) -> &[u8] {
    match entry.bytes.definition.is_empty() {
        true => entry.definition.as_bytes(),
        false => &entry.bytes.definition,
    }
}

/// Hands bytes on.
struct Pass<'a> {
    each: &'a mut dyn FnMut(&[u8]) -> std::io::Result<()>,
}

impl Write for Pass<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        (self.each)(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
