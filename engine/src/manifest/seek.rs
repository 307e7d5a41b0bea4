//! A manifest from the place of a path on: its chunks are ordered by the paths of their entries, so the first one that is
//! read is found by halving.

use super::{Grammar, Listed, ManifestReader, ManifestRoot, Record, Step, parse, read_list};
use crate::entry::{Entry, compare_paths, is_beneath};
use crate::manifest::Ending;
use crate::{Error, Result};
use chunkstore::ingest::ChunkRef;
use chunkstore::store::ChunkStore;
use std::cmp::Ordering;
use std::collections::VecDeque;
use std::sync::Arc;

impl ManifestReader {
    /// Starts so that every entry of `path`, and of all paths behind it, is met; entries before it may be met, too. Reads
    /// one chunk for each halving of the list of chunks. Where one of these cannot be read, it starts at the beginning.
    ///
    /// # Errors
    /// Of the storage.
    pub fn from_path(store: &Arc<ChunkStore>, root: &ManifestRoot, path: &[u8]) -> Result<Self> {
        let mut reader = Self::new(store, root)?;
        let mut refs = match reader.upper.last_mut() {
            Some(top) => std::mem::take(top),
            None => std::mem::take(&mut reader.leaves),
        };
        let mut is_first = true;
        for level in (0..=reader.upper.len()).rev() {
            let at = match last_before(store, &refs, level, path) {
                Ok(at) => at,
                Err(error) if error.is_damage() => return Self::new(store, root),
                Err(error) => return Err(error.into()),
            };
            is_first &= at == 0;
            let mut behind = refs.split_off(at);
            let Some(level_below) = level.checked_sub(1) else {
                reader.leaves = behind;
                break;
            };
            let Some(chunk) = behind.pop_front() else { break };
            reader.upper[level_below] = behind;
            refs = match read_list(store, chunk) {
                Ok(list) => list.into(),
                Err(error) if error.is_damage() => return Self::new(store, root),
                Err(error) => return Err(error.into()),
            };
        }
        if !is_first {
            // It may begin within an entry.
            reader.grammar = Grammar::Lost;
        }
        Ok(reader)
    }
}

/// Of chunks of a level the last one whose first entry is before `path`; 0 if there is none. A chunk in which no entry
/// begins counts as behind it, which makes the answer earlier than it need be, and never later.
fn last_before(
    store: &Arc<ChunkStore>,
    refs: &VecDeque<ChunkRef>,
    level: usize,
    path: &[u8],
) -> chunkstore::Result<usize> {
    let (mut from, mut to) = (0, refs.len());
    // Everything below `from` is before it, or is the first; everything from `to` on is not.
    while to - from > 1 {
        let middle = from + (to - from) / 2;
        let first = match refs.get(middle) {
            Some(chunk) => first_path(store, *chunk, level)?,
            None => None,
        };
        match first {
            Some(first) if compare_paths(&first, path) == Ordering::Less => from = middle,
            _ => to = middle,
        }
    }
    Ok(from)
}

/// The path of the first entry of a chunk of records, or of the first such chunk below a list.
fn first_path(
    store: &Arc<ChunkStore>,
    mut chunk: ChunkRef,
    level: usize,
) -> chunkstore::Result<Option<Vec<u8>>> {
    for _ in 0..level {
        let Some(first) = read_list(store, chunk)?.into_iter().next() else { return Ok(None) };
        chunk = first;
    }
    let bytes = chunkstore::reader::read_all(store, &[chunk])?;
    let records = parse(&bytes)
        .map_err(|error| chunkstore::Error::corrupt(format!("manifest chunk {}", chunk.id.short()), error))?;
    Ok(records.into_iter().find_map(|record| match record {
        Record::Entry(entry) => Some(entry.path),
        _ => None,
    }))
}

/// Calls `each` for every complete entry at or beneath a path, in order; all, if that is empty. Nothing of the manifest
/// before the path is read but what leads to it, and nothing behind it but its last chunks.
///
/// # Errors
/// Also when an entry cannot be read.
pub fn for_entries_beneath(
    store: &Arc<ChunkStore>,
    root: &ManifestRoot,
    path: &[u8],
    each: &mut dyn FnMut(Listed) -> Result<()>,
) -> Result<()> {
    let mut reader = ManifestReader::from_path(store, root, path)?;
    let mut open: Option<Box<Entry>> = None;
    while let Some(step) = reader.next_step()? {
        match step {
            Step::Damage(damage) => return Err(Error::from(damage.error)),
            Step::Record(Record::Entry(entry)) => {
                if is_behind(&entry.path, path) {
                    return Ok(());
                }
                open = Some(entry).filter(|entry| is_beneath(&entry.path, path));
            }
            Step::Record(Record::End(Ending::Complete, size)) => {
                if let Some(entry) = open.take() {
                    each(Listed { entry: *entry, size })?;
                }
            }
            Step::Record(Record::End(Ending::Dropped, _)) => open = None,
            Step::Record(Record::Chunks(_) | Record::Hole(_)) => {}
        }
    }
    Ok(())
}

/// Whether an entry is behind all that is at or beneath a path.
pub(crate) fn is_behind(entry: &[u8], path: &[u8]) -> bool {
    !is_beneath(entry, path) && compare_paths(entry, path) == Ordering::Greater
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::{BackupOptions, backup};
    use crate::entry::{Kind, Time};
    use crate::monitor::Tally;
    use crate::snapshot::{Filter, SourceRecord};
    use crate::source::{Item, Proof, Source, SourceError};
    use crate::{Monitor, Repository};

    /// A source of folders.
    struct Folders(std::vec::IntoIter<String>);

    impl Source for Folders {
        fn records(&self) -> Vec<SourceRecord> {
            vec![SourceRecord::new("files", "/given", false)]
        }
        fn paths(&self) -> Vec<String> {
            vec!["/given".into()]
        }
        fn next_item(&mut self, _: &dyn Monitor) -> Result<Option<Item>, SourceError> {
            Ok(self.0.next().map(|path| {
                let plain = Entry::stream(path.as_str(), Time { seconds: 1, nanoseconds: 0 });
                let entry = Entry { kind: Kind::Dir, mode: 0o755, ..plain };
                Item { entry, content: None, proof: Proof::Nothing, leads: false }
            }))
        }
    }

    fn listed(repo: &Repository, root: &ManifestRoot, path: &[u8]) -> Vec<Vec<u8>> {
        let mut found = vec![];
        for_entries_beneath(repo.store(), root, path, &mut |listed| {
            found.push(listed.entry.path);
            Ok(())
        })
        .unwrap();
        found
    }

    /// The root with lists of its chunks above it, as a manifest of hundreds of thousands of entries has them.
    #[test]
    fn what_is_beneath_a_path_is_found_without_what_is_before_it() {
        let long = "x".repeat(100);
        let mut paths = vec![];
        for folder in 0..400 {
            paths.push(format!("f{folder:03}"));
            paths.extend((0..100).map(|number| format!("f{folder:03}/{number:02}-{long}")));
        }
        let repo = crate::repository::in_memory();
        let mut source = Folders(paths.clone().into_iter());
        backup(&repo, &mut source, &BackupOptions::default(), &Tally::default()).unwrap();
        repo.sync_index(&Tally::default()).unwrap();
        let snapshot = repo.find("latest", &Filter::default(), &Tally::default()).unwrap().snapshot;
        let root = &snapshot.manifest;
        assert!(root.level > 0, "{} chunks", root.chunks.len());
        for folder in ["f000", "f001", "f200", "f399", "f2", "a", "z", "f200/5"] {
            let wanted: Vec<Vec<u8>> = paths
                .iter()
                .filter(|path| is_beneath(path.as_bytes(), folder.as_bytes()))
                .map(|path| path.clone().into_bytes())
                .collect();
            assert_eq!(listed(&repo, root, folder.as_bytes()), wanted, "{folder}");
        }
        assert_eq!(listed(&repo, root, b"").len(), paths.len());
        let one = paths[20_123].as_bytes();
        assert_eq!(listed(&repo, root, one), [one.to_vec()]);
        // And few chunks of the manifest are read behind what leads there.
        let mut reader = ManifestReader::from_path(repo.store(), root, one).unwrap().remember_chunks();
        let mut before = 0;
        while let Some(Step::Record(record)) = reader.next_step().unwrap() {
            if let Record::Entry(entry) = record {
                if entry.path == one {
                    break;
                }
                before += 1;
            }
        }
        assert!(before < 2000, "{before} entries before it");
        let visited = reader.take_visited().len();
        assert!(visited < 60, "{visited} chunks");
    }
}
