//! Many entries into RocksDB at once: sorted outside, taken in as finished tables, so that nothing is
//! written twice by compaction. What does not fit into memory is spilled into files by the first byte of
//! the key, and each of those is sorted for itself; keys are hashes, so they fill evenly.

use super::{cache_error, family};
use crate::Result;
use crate::private;
use rocksdb::{DB, IngestExternalFileOptions, Options, SstFileWriter};
use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

/// Bytes of entries held before they are spilled.
const MEMORY: usize = 96 << 20;
/// Spill files: one for each first byte of the key.
const PARTITIONS: usize = 256;

/// Entries on their way into one column family. Of equal keys the last one wins.
pub(super) struct Bulk {
    name: &'static str,
    folder: PathBuf,
    entries: Entries,
    spilled: Vec<BufWriter<File>>,
}

/// Keys and values back to back, and where each begins.
#[derive(Default)]
struct Entries {
    bytes: Vec<u8>,
    /// Start, length of the key, length of the value.
    places: Vec<(usize, u8, u16)>,
}

impl Entries {
    fn push(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        let key_len = u8::try_from(key.len()).map_err(cache_error)?;
        let value_len = u16::try_from(value.len()).map_err(cache_error)?;
        self.places.push((self.bytes.len(), key_len, value_len));
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(value);
        Ok(())
    }

    fn memory(&self) -> usize {
        self.bytes.len() + self.places.len() * size_of::<(usize, u8, u16)>()
    }

    fn get(&self, place: (usize, u8, u16)) -> (&[u8], &[u8]) {
        let (start, key_len, value_len) = (place.0, usize::from(place.1), usize::from(place.2));
        let entry = &self.bytes[start..start + key_len + value_len];
        entry.split_at(key_len)
    }

    /// Writes a table with the entries in the order of their keys.
    fn write_table(mut self, options: &Options, path: &Path) -> Result<()> {
        let mut places = std::mem::take(&mut self.places);
        // Stable: among equal keys the last one added stays last.
        places.sort_by(|a, b| self.get(*a).0.cmp(self.get(*b).0));
        let mut table = SstFileWriter::create(options);
        table.open(path).map_err(cache_error)?;
        for (position, place) in places.iter().enumerate() {
            let (key, value) = self.get(*place);
            if places.get(position + 1).is_none_or(|next| self.get(*next).0 != key) {
                table.put(key, value).map_err(cache_error)?;
            }
        }
        table.finish().map_err(cache_error)
    }
}

impl Bulk {
    /// Starts; temporary files go to `folder`, on the database's file system.
    pub(super) fn new(name: &'static str, folder: &Path) -> Self {
        Self { name, folder: folder.to_owned(), entries: Entries::default(), spilled: vec![] }
    }

    /// Adds an entry: keys of up to 255 bytes, values of up to 64 KiB.
    pub(super) fn put(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        self.entries.push(key, value)?;
        if self.entries.memory() >= MEMORY { self.spill() } else { Ok(()) }
    }

    fn path(&self, part: usize, what: &str) -> PathBuf {
        self.folder.join(format!("{}-{part}.{what}", self.name))
    }

    fn spill(&mut self) -> Result<()> {
        if self.spilled.is_empty() {
            for part in 0..PARTITIONS {
                let file = private::create(&self.path(part, "spill")).map_err(cache_error)?;
                self.spilled.push(BufWriter::with_capacity(32 << 10, file));
            }
        }
        let entries = std::mem::take(&mut self.entries);
        for place in &entries.places {
            let (key, value) = entries.get(*place);
            let part = usize::from(key.first().copied().unwrap_or_default());
            let Some(file) = self.spilled.get_mut(part) else { continue };
            let [low, high] = place.2.to_le_bytes();
            file.write_all(&[place.1, low, high]).map_err(cache_error)?;
            file.write_all(key).and_then(|()| file.write_all(value)).map_err(cache_error)?;
        }
        Ok(())
    }

    /// Sorts everything and hands it to the database.
    pub(super) fn finish(mut self, db: &DB, options: &Options) -> Result<()> {
        let mut tables = vec![];
        if self.spilled.is_empty() {
            if self.entries.places.is_empty() {
                return Ok(());
            }
            tables.push(self.path(0, "sst"));
            std::mem::take(&mut self.entries).write_table(options, &tables[0])?;
        } else {
            self.spill()?;
            for file in std::mem::take(&mut self.spilled) {
                file.into_inner().map_err(cache_error)?;
            }
            for part in 0..PARTITIONS {
                let spilled = self.path(part, "spill");
                let entries = read_spilled(&spilled)?;
                fs::remove_file(&spilled).map_err(cache_error)?;
                if !entries.places.is_empty() {
                    let table = self.path(part, "sst");
                    entries.write_table(options, &table)?;
                    tables.push(table);
                }
            }
        }
        let mut ingest = IngestExternalFileOptions::default();
        ingest.set_move_files(true);
        db.ingest_external_file_cf_opts(family(db, self.name)?, &ingest, tables).map_err(cache_error)
    }
}

fn read_spilled(path: &Path) -> Result<Entries> {
    let mut file = BufReader::with_capacity(1 << 20, File::open(path).map_err(cache_error)?);
    let mut entries = Entries::default();
    let mut header = [0; 3];
    let mut entry = vec![];
    loop {
        match file.read_exact(&mut header) {
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(entries),
            result => result.map_err(cache_error)?,
        }
        let key_len = usize::from(header[0]);
        entry.resize(key_len + usize::from(u16::from_le_bytes([header[1], header[2]])), 0);
        file.read_exact(&mut entry).map_err(cache_error)?;
        let (key, value) = entry.split_at(key_len);
        entries.push(key, value)?;
    }
}
