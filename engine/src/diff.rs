//! The differences between two snapshots: reads both manifests side by side, each once, in order.

use crate::entry::{Entry, Kind, compare_paths, display_path};
use crate::inside::Inside;
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

/// Adds the hole before a chunk, or before the end, to a digest: it hashes as something no chunk id is, eight bytes.
fn end_hole(hasher: &mut blake3::Hasher, hole: &mut u64) {
    if *hole > 0 {
        let mut out = Encoder::default();
        out.u64(*hole);
        hasher.update(&out.bytes);
        *hole = 0;
    }
}

struct Walk {
    reader: ManifestReader,
    inside: Inside,
    is_there: bool,
    /// Which of the two, for messages.
    side: &'static str,
}

impl Walk {
    fn next(&mut self) -> Result<Option<Side>> {
        let mut open = None;
        let (mut hasher, mut hole) = (blake3::Hasher::new(), 0);
        while let Some(step) = self.reader.next_step()? {
            match step {
                Step::Damage(damage) => return Err(damage.error.into()),
                Step::Record(Record::Entry(entry)) => {
                    open = Some(*entry);
                    (hasher, hole) = (blake3::Hasher::new(), 0);
                }
                Step::Record(Record::Chunks(chunks)) => {
                    end_hole(&mut hasher, &mut hole);
                    for chunk in chunks {
                        hasher.update(chunk.id.as_bytes());
                    }
                }
                // Where a long hole is divided says nothing: it comes as the source had it at hand.
                Step::Record(Record::Hole(len)) => hole += len,
                Step::Record(Record::End(Ending::Complete, size)) => {
                    end_hole(&mut hasher, &mut hole);
                    let Some(mut entry) = open.take() else { continue };
                    let Some(relative) = self.inside.relative(&entry.path).map(<[u8]>::to_vec) else {
                        continue;
                    };
                    self.is_there = true;
                    // The folder that was named is the top: it is not among what is compared.
                    if entry.kind != Kind::Dir || entry.path != self.inside.path() {
                        entry.path = relative;
                        return Ok(Some(Side { entry, size, content: hasher.finalize() }));
                    }
                }
                Step::Record(Record::End(Ending::Dropped, _)) => open = None,
            }
        }
        if self.is_there {
            return Ok(None);
        }
        let (path, side) = (display_path(self.inside.path()), self.side);
        Err(Error::Invalid(format!("'{path}' is not in the {side} snapshot")))
    }
}

/// Calls `each` with every difference, in order of path, which is relative to the folder that each side names; the number
/// is the size of the entry.
pub fn diff(
    repo: &Repository,
    first: (&ManifestRoot, &Inside),
    second: (&ManifestRoot, &Inside),
    metadata: bool,
    each: &mut dyn FnMut(Change, &Entry, u64),
) -> Result<()> {
    let walk = |(root, inside): (&ManifestRoot, &Inside), side| -> Result<Walk> {
        let reader = ManifestReader::new(repo.store(), root)?;
        Ok(Walk { reader, inside: inside.clone(), is_there: inside.is_all(), side })
    };
    let (mut left, mut right) = (walk(first, "first")?, walk(second, "second")?);
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
