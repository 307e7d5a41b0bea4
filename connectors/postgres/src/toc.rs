//! The table of contents of pg_dump's archives, read from one format and written in another: what there is in a
//! database, in the order of its restore, with the commands that make it.
//! Source: PostgreSQL's `pg_backup_archiver.c` (`ReadHead`, `ReadToc`, `WriteHead`, `WriteToc`),
//! `pg_backup_custom.c` and `pg_backup_directory.c` (`_WriteExtraToc`), archive versions 1.12 to 1.16.

use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Larger ones are not held in memory.
pub const MAX_TOC: usize = 512 << 20;

/// Why a table of contents could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// More bytes are needed.
    More,
    /// They make no sense.
    Bad(&'static str),
}

/// Numbers and texts as archives have them.
pub(crate) struct Cursor<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) at: usize,
    pub(crate) int_len: usize,
}

impl<'a> Cursor<'a> {
    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], Stop> {
        let end = self.at.checked_add(len).ok_or(Stop::Bad("length overflows"))?;
        let bytes = self.bytes.get(self.at..end).ok_or(Stop::More)?;
        self.at = end;
        Ok(bytes)
    }
    pub(crate) fn byte(&mut self) -> Result<u8, Stop> {
        Ok(self.take(1)?[0])
    }
    /// Sign byte, then the magnitude, least significant byte first.
    pub(crate) fn int(&mut self) -> Result<i64, Stop> {
        let negative = self.byte()? != 0;
        let bytes = self.take(self.int_len)?;
        let value = bytes
            .iter()
            .rev()
            .try_fold(0i64, |value, byte| value.checked_mul(256)?.checked_add(i64::from(*byte)));
        let value = value.ok_or(Stop::Bad("number too large"))?;
        Ok(if negative { -value } else { value })
    }
    /// `None` is SQL's NULL.
    pub(crate) fn string(&mut self) -> Result<Option<&'a [u8]>, Stop> {
        match usize::try_from(self.int()?) {
            Ok(len) => self.take(len).map(Some),
            Err(_) => Ok(None),
        }
    }
    fn text(&mut self) -> Result<String, Stop> {
        Ok(String::from_utf8_lossy(self.string()?.unwrap_or_default()).into_owned())
    }
}

/// What an archive's data are laid down as; the number is the header's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ArchiveFormat {
    /// One stream: the table of contents, then blocks of data.
    Custom = 1,
    /// A folder: `toc.dat`, and a file for the data of each entry. Its head says tar, which is laid out alike.
    Directory = 3,
}

/// When an entry's turn is in a restore.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    /// Before the rows: what they are put into.
    PreData,
    /// The rows, and values of sequences.
    Data,
    /// Behind them: indexes, constraints, triggers.
    PostData,
}

/// One entry.
#[derive(Clone, Debug)]
pub struct TocEntry {
    /// Its number, by which others refer to it.
    pub id: i64,
    /// The object's number in the catalogue.
    pub oid: String,
    /// Its name.
    pub tag: String,
    /// What it is: `TABLE`, `TABLE DATA`, `INDEX`.
    pub kind: String,
    /// When its turn is; `None` if that is when its object's is (comments, labels, privileges).
    pub section: Option<Section>,
    /// The command that makes it.
    pub definition: String,
    /// Of data: `COPY public.account (id, name) FROM stdin;`.
    pub copy: String,
    /// Its schema; empty if it is in none.
    pub namespace: String,
    /// The tablespace it is in; empty for the database's own.
    pub tablespace: String,
    /// Whose it is; empty if nobody's.
    pub owner: String,
    /// Name, schema and COPY as they stand, in the archive's encoding.
    pub bytes: NameBytes,
    /// What it needs.
    pub needs: Vec<i64>,
    /// Whether the archive holds data for it.
    pub has_data: bool,
    /// Of an archive in directory format: where.
    pub file: String,
    /// All of it as it stands in the archive, but for where its data are.
    raw: Vec<u8>,
    /// Where the command that makes it stands in that.
    definition_at: (usize, usize),
    /// Where the command that drops it stands in that.
    drop_at: (usize, usize),
    /// Where the tablespace stands in that.
    tablespace_at: (usize, usize),
    /// How many bytes at its end say what it needs.
    needs_len: usize,
}

/// What an entry says in the archive's encoding, which need not be UTF-8.
#[derive(Clone, Debug, Default)]
pub struct NameBytes {
    /// The name.
    pub tag: Vec<u8>,
    /// The schema.
    pub namespace: Vec<u8>,
    /// The COPY.
    pub copy: Vec<u8>,
    /// Whose it is, if that is not UTF-8.
    pub owner: Vec<u8>,
    /// The command that makes it, if that is not UTF-8.
    pub definition: Vec<u8>,
}

/// A table of contents.
#[derive(Clone, Debug)]
pub struct Toc {
    /// Version of the archive's format.
    pub version: (u8, u8),
    /// The version of the server that it was made of, as that says it: `15.18 (Debian …)`.
    pub server_version: String,
    /// The version of pg_dump, likewise.
    pub dump_version: String,
    /// Its entries, in the order of a restore.
    pub entries: Vec<TocEntry>,
    /// Where each is among them.
    places: HashMap<i64, usize>,
    pub(crate) int_len: usize,
    offset_len: usize,
    revision: u8,
    /// Compression, time, names: as they stand.
    head: Vec<u8>,
}

const OFFSET_NOT_SET: u8 = 1;
const OFFSET_NO_DATA: u8 = 3;

impl Toc {
    /// Reads one, and says how many bytes it takes.
    pub fn parse(bytes: &[u8]) -> Result<(Self, usize), Stop> {
        let mut cursor = Cursor { bytes, at: 0, int_len: 4 };
        if cursor.take(5)? != b"PGDMP" {
            return Err(Stop::Bad("does not begin as an archive of pg_dump does"));
        }
        let version = (cursor.byte()?, cursor.byte()?);
        let revision = cursor.byte()?;
        cursor.int_len = usize::from(cursor.byte()?);
        let offset_len = usize::from(cursor.byte()?);
        let format = match cursor.byte()? {
            1 => ArchiveFormat::Custom,
            3 => ArchiveFormat::Directory,
            _ => return Err(Stop::Bad("an archive in a format that has no table of contents here")),
        };
        if !((1, 12)..=(1, 16)).contains(&version) || cursor.int_len > 8 || offset_len > 8 {
            return Err(Stop::Bad("unknown version of the archive's format"));
        }
        let head = cursor.at;
        if version >= (1, 15) {
            cursor.byte()?;
        } else {
            cursor.int()?;
        }
        for _ in 0..7 {
            cursor.int()?; // time of creation
        }
        cursor.string()?; // database
        let (server_version, dump_version) = (cursor.text()?, cursor.text()?);
        let mut toc = Self {
            version,
            server_version,
            dump_version,
            entries: vec![],
            places: HashMap::new(),
            int_len: cursor.int_len,
            offset_len,
            revision,
            head: bytes[head..cursor.at].to_vec(),
        };
        for _ in 0..cursor.int()? {
            let entry = toc.entry(&mut cursor, format)?;
            toc.entries.push(entry);
        }
        toc.find_places();
        Ok((toc, cursor.at))
    }

    fn find_places(&mut self) {
        // Of two with one number the first counts.
        let ids = self.entries.iter().enumerate().rev();
        self.places = ids.map(|(place, entry)| (entry.id, place)).collect();
    }

    /// Leaves entries out.
    pub fn retain(&mut self, keep: impl FnMut(&TocEntry) -> bool) {
        self.entries.retain(keep);
        self.find_places();
    }

    fn get_mut(&mut self, id: i64) -> Option<&mut TocEntry> {
        self.entries.get_mut(*self.places.get(&id)?)
    }

    fn entry(&self, cursor: &mut Cursor<'_>, format: ArchiveFormat) -> Result<TocEntry, Stop> {
        let from = cursor.at;
        let id = cursor.int()?;
        let had_dumper = cursor.int()? != 0;
        cursor.string()?; // oid of the catalogue's table
        let mut bytes = NameBytes::default();
        let oid = cursor.text()?;
        bytes.tag = cursor.string()?.unwrap_or_default().to_vec();
        let kind = cursor.text()?;
        let section = match cursor.int()? {
            2 => Some(Section::PreData),
            3 => Some(Section::Data),
            4 => Some(Section::PostData),
            _ => None,
        };
        let definition_from = cursor.at - from;
        bytes.definition = cursor.string()?.unwrap_or_default().to_vec();
        let definition_at = (definition_from, cursor.at - from);
        let drop_from = cursor.at - from;
        cursor.string()?;
        let drop_at = (drop_from, cursor.at - from);
        bytes.copy = cursor.string()?.unwrap_or_default().to_vec();
        bytes.namespace = cursor.string()?.unwrap_or_default().to_vec();
        let tablespace_from = cursor.at - from;
        let tablespace = cursor.text()?;
        let tablespace_at = (tablespace_from, cursor.at - from);
        if self.version >= (1, 14) {
            cursor.string()?; // table access method
        }
        if self.version >= (1, 16) {
            cursor.int()?; // kind of relation
        }
        bytes.owner = cursor.string()?.unwrap_or_default().to_vec();
        cursor.string()?; // with oids
        let mut needs = vec![];
        let needs_from = cursor.at;
        while let Some(number) = cursor.string()? {
            let number = std::str::from_utf8(number).ok().and_then(|text| text.parse().ok());
            needs.push(number.ok_or(Stop::Bad("a dependency that is no number"))?);
        }
        let raw = cursor.bytes[from..cursor.at].to_vec();
        let needs_len = cursor.at - needs_from;
        let (has_data, file) = match format {
            ArchiveFormat::Custom => {
                let flag = cursor.byte()?;
                cursor.take(self.offset_len)?;
                (flag != OFFSET_NO_DATA, String::new())
            }
            ArchiveFormat::Directory => {
                let file = cursor.text()?;
                (!file.is_empty(), file)
            }
        };
        let _ = had_dumper;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (tag, namespace, copy) = (text(&bytes.tag), text(&bytes.namespace), text(&bytes.copy));
        let (definition, owner) = (text(&bytes.definition), text(&bytes.owner));
        // Names of roles and databases are the cluster's, in no encoding of this database's: UTF-8 is taken for what it is.
        for own in [&mut bytes.definition, &mut bytes.owner] {
            if std::str::from_utf8(own).is_ok() {
                own.clear();
            }
        }
        Ok(TocEntry {
            id,
            oid,
            tag,
            kind,
            section,
            definition,
            copy,
            namespace,
            bytes,
            tablespace,
            owner,
            needs,
            has_data,
            file,
            raw,
            definition_at,
            drop_at,
            tablespace_at,
            needs_len,
        })
    }

    /// Puts what is in one tablespace into another.
    pub fn map_tablespaces(&mut self, map: &BTreeMap<String, String>) {
        for at in 0..self.entries.len() {
            let entry = &self.entries[at];
            let Some(new) = map.get(&entry.tablespace).cloned() else { continue };
            let (from, to) = entry.tablespace_at;
            let mut text = vec![];
            self.int(&mut text, new.len() as i64);
            text.extend_from_slice(new.as_bytes());
            let entry = &mut self.entries[at];
            entry.tablespace_at = (from, from + text.len());
            entry.raw.splice(from..to, text);
            entry.tablespace = new;
        }
    }

    /// Puts `command`, in the archive's encoding, in the place of the one that drops what an entry makes.
    pub fn set_drop(&mut self, id: i64, command: &[u8]) {
        let mut text = vec![];
        self.int(&mut text, command.len() as i64);
        text.extend_from_slice(command);
        let Some(entry) = self.get_mut(id) else { return };
        let ((from, to), (next_from, next_to)) = (entry.drop_at, entry.tablespace_at);
        let moved = |at: usize| at - to + from + text.len();
        entry.tablespace_at = (moved(next_from), moved(next_to));
        entry.drop_at = (from, from + text.len());
        entry.raw.splice(from..to, text);
    }

    /// Puts `command`, in the archive's encoding, in the place of the one that makes it.
    pub fn set_definition(&mut self, id: i64, command: &[u8]) {
        let mut text = vec![];
        self.int(&mut text, command.len() as i64);
        text.extend_from_slice(command);
        let Some(entry) = self.get_mut(id) else { return };
        let (from, to) = entry.definition_at;
        let moved =
            |(start, end): (usize, usize)| (start - to + from + text.len(), end - to + from + text.len());
        (entry.drop_at, entry.tablespace_at) = (moved(entry.drop_at), moved(entry.tablespace_at));
        entry.definition_at = (from, from + text.len());
        entry.definition = String::from_utf8_lossy(command).into_owned();
        let is_text = std::str::from_utf8(command).is_ok();
        entry.bytes.definition = if is_text { vec![] } else { command.to_vec() };
        entry.raw.splice(from..to, text);
    }

    /// Lets an entry need the entries `needs`.
    pub(crate) fn set_needs(&mut self, id: i64, needs: Vec<i64>) {
        let mut text = vec![];
        for needed in &needs {
            let number = needed.to_string();
            self.int(&mut text, number.len() as i64);
            text.extend_from_slice(number.as_bytes());
        }
        self.int(&mut text, -1);
        let Some(entry) = self.get_mut(id) else { return };
        entry.raw.truncate(entry.raw.len() - entry.needs_len);
        entry.raw.extend_from_slice(&text);
        (entry.needs, entry.needs_len) = (needs, text.len());
    }

    /// The same in a format; `files` are the names of data in directory format.
    #[must_use]
    pub fn write(&self, format: ArchiveFormat, files: &BTreeMap<i64, String>) -> Vec<u8> {
        let mut out = b"PGDMP".to_vec();
        let (major, minor) = self.version;
        out.extend([major, minor, self.revision, self.int_len as u8, self.offset_len as u8, format as u8]);
        out.extend_from_slice(&self.head);
        self.int(&mut out, self.entries.len() as i64);
        for entry in &self.entries {
            out.extend_from_slice(&entry.raw);
            match format {
                ArchiveFormat::Custom => {
                    out.push(if entry.has_data { OFFSET_NOT_SET } else { OFFSET_NO_DATA });
                    out.resize(out.len() + self.offset_len, 0);
                }
                ArchiveFormat::Directory => {
                    let file = files.get(&entry.id).map_or("", String::as_str);
                    self.int(&mut out, file.len() as i64);
                    out.extend_from_slice(file.as_bytes());
                }
            }
        }
        out
    }

    /// A number as archives have them.
    pub fn int(&self, out: &mut Vec<u8>, value: i64) {
        out.push(u8::from(value < 0));
        out.extend_from_slice(&value.unsigned_abs().to_le_bytes()[..self.int_len]);
    }

    /// The encoding of its names, as PostgreSQL calls it: `UTF8`, `LATIN1`, `SQL_ASCII`.
    #[must_use]
    pub fn encoding(&self) -> &str {
        let entry = self.entries.iter().find(|entry| entry.kind == "ENCODING");
        entry.and_then(|entry| entry.definition.split('\'').nth(1)).unwrap_or("UTF8")
    }

    /// Numbers of the entries that have data.
    #[must_use]
    pub fn with_data(&self) -> BTreeSet<i64> {
        self.entries.iter().filter(|entry| entry.has_data).map(|entry| entry.id).collect()
    }

    /// The entry with a number.
    #[must_use]
    pub fn get(&self, id: i64) -> Option<&TocEntry> {
        self.entries.get(*self.places.get(&id)?)
    }

    /// Large objects whose data an entry of kind `BLOBS` has: since 1.16, those of the metadata that it needs; before,
    /// all there are.
    #[must_use]
    pub fn large_objects(&self, entry: &TocEntry) -> Vec<u64> {
        let oids = |text: &str| text.split_ascii_whitespace().filter_map(|oid| oid.parse().ok()).collect();
        if self.version < (1, 16) {
            let blobs = self.entries.iter().filter(|entry| entry.kind == "BLOB");
            return blobs.filter_map(|entry| entry.tag.parse().ok()).collect();
        }
        let metadata = entry.needs.iter().filter_map(|id| self.get(*id));
        let metadata = metadata.filter(|entry| entry.kind == "BLOB METADATA");
        metadata.flat_map(|entry| -> Vec<u64> { oids(&entry.definition) }).collect()
    }
}

#[cfg(test)]
pub(crate) mod tests;
