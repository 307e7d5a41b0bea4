//! What changed between two snapshots: their manifests side by side, each read once, in order.

use crate::entry::{Entry, compare_paths, is_beneath};
use crate::manifest::{Ending, ManifestReader, ManifestRoot, Record, Step};
use crate::{Error, Repository, Result};
use chunkstore::format::Encoder;
use std::cmp::Ordering;

/// One difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Only in the second.
    Added,
    /// Only in the first.
    Removed,
    /// Content differs.
    Modified,
    /// Only metadata differs.
    Metadata,
    /// Another kind of file.
    Kind,
}

impl Change {
    /// restic's letter for it.
    #[must_use]
    pub fn letter(self) -> &'static str {
        match self {
            Self::Added => "+",
            Self::Removed => "-",
            Self::Modified => "M",
            Self::Metadata => "U",
            Self::Kind => "T",
        }
    }
}

/// An entry with a digest of its content's chunk list.
struct Side {
    entry: Entry,
    size: u64,
    content: blake3::Hash,
}

struct Walk {
    reader: ManifestReader,
    beneath: Vec<u8>,
}

impl Walk {
    fn next(&mut self) -> Result<Option<Side>> {
        let mut open = None;
        let mut hasher = blake3::Hasher::new();
        while let Some(step) = self.reader.next_step()? {
            match step {
                Step::Damage(damage) => return Err(damage.error.into()),
                Step::Record(Record::Entry(entry)) => {
                    open = Some(*entry);
                    hasher = blake3::Hasher::new();
                }
                Step::Record(Record::Chunks(chunks)) => {
                    for chunk in chunks {
                        hasher.update(chunk.id.as_bytes());
                    }
                }
                // A hole hashes as something no chunk id is: eight bytes.
                Step::Record(Record::Hole(len)) => {
                    let mut out = Encoder::default();
                    out.u64(len);
                    hasher.update(&out.bytes);
                }
                Step::Record(Record::End(Ending::Complete, size)) => {
                    if let Some(entry) = open.take().filter(|entry| is_beneath(&entry.path, &self.beneath)) {
                        return Ok(Some(Side { entry, size, content: hasher.finalize() }));
                    }
                }
                Step::Record(Record::End(Ending::Dropped, _)) => open = None,
            }
        }
        Ok(None)
    }
}

/// Calls `each` with every difference, in order of path; the number is the size of the entry.
pub fn diff(
    repo: &Repository,
    first: (&ManifestRoot, &[u8]),
    second: (&ManifestRoot, &[u8]),
    metadata: bool,
    each: &mut dyn FnMut(Change, &Entry, u64),
) -> Result<()> {
    if first.1 != second.1 {
        return Err(Error::Invalid("both sides of a diff must name the same path".into()));
    }
    let walk = |(root, beneath): (&ManifestRoot, &[u8])| -> Result<Walk> {
        Ok(Walk { reader: ManifestReader::new(repo.store(), root)?, beneath: beneath.to_vec() })
    };
    let (mut left, mut right) = (walk(first)?, walk(second)?);
    let (mut a, mut b) = (left.next()?, right.next()?);
    loop {
        let order = match (&a, &b) {
            (None, None) => return Ok(()),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(a), Some(b)) => compare_paths(&a.entry.path, &b.entry.path),
        };
        match (order, &a, &b) {
            (Ordering::Less, Some(side), _) => {
                each(Change::Removed, &side.entry, side.size);
                a = left.next()?;
            }
            (Ordering::Greater, _, Some(side)) => {
                each(Change::Added, &side.entry, side.size);
                b = right.next()?;
            }
            (_, Some(old), Some(new)) => {
                if old.entry.kind != new.entry.kind {
                    each(Change::Kind, &new.entry, new.size);
                } else if (old.size, old.content, &old.entry.target)
                    != (new.size, new.content, &new.entry.target)
                {
                    each(Change::Modified, &new.entry, new.size);
                } else if metadata && !new.entry.same_metadata(&old.entry) {
                    each(Change::Metadata, &new.entry, new.size);
                }
                a = left.next()?;
                b = right.next()?;
            }
            _ => return Ok(()),
        }
    }
}
