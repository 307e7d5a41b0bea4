//! The filters by which a snapshot lacks what was there: kept in its record, so that a restore with `--delete` can tell
//! what the backup left out from what was not there. What they fit stays, as with rsync's filters (rsync(1), "FILTER
//! RULES": what is hidden from the transfer is protected from deletion).
//!
//! They are lines of a word and a value, in the order in which they apply. A pattern is written as [`stored_text`] has it.
//!
//! | word | value |
//! |---|---|
//! | `exclude`, `iexclude` | a pattern, compared with the absolute path at the backup, and with each folder above it beneath the named path |
//! | `larger` | bytes: larger files were left out |
//! | `marked` | `NAME` or `NAME:HEADER`: what lies in a folder was left out if such a file, which begins so, is in it |
//! | `rewrite` | what follows was given to a rewrite, and is compared with paths of the snapshot |
//! | `include`, `iinclude` | after `rewrite`: only what one of these fits was kept |

use crate::entry::is_beneath;
use crate::marker::Marker;
use crate::names::path_bytes;
use crate::patterns::{Pattern, Patterns};
use crate::snapshot::Snapshot;
use crate::stored::{STORED, stored_path, stored_text};
use rustix::fd::AsFd;
use std::fmt::Write as _;

/// Detail of a source's record: the filters of the whole snapshot, see the module.
pub const FILTERS: &str = "filters";

/// The filters of a backup; empty for one without filters.
#[must_use]
pub fn of_backup(
    excludes: &Patterns,
    iexcludes: &Patterns,
    larger_than: Option<u64>,
    markers: &[Marker],
) -> String {
    let mut lines = String::new();
    write_patterns(&mut lines, "exclude", excludes);
    write_patterns(&mut lines, "exclude", iexcludes);
    if let Some(bytes) = larger_than {
        let _ = writeln!(lines, "larger {bytes}");
    }
    for marker in markers {
        let _ = writeln!(lines, "marked {}", stored_text(&marker.written()));
    }
    lines
}

/// The filters of a rewrite.
#[must_use]
pub fn of_rewrite(excludes: &Patterns, includes: Option<&Patterns>) -> String {
    let mut lines = "rewrite\n".to_owned();
    write_patterns(&mut lines, "exclude", excludes);
    includes.iter().for_each(|includes| write_patterns(&mut lines, "include", includes));
    lines
}

/// The filters of another program, as far as it recorded them. It may have left out more, and its patterns may have
/// other rules, so no file counts as known to be missing.
#[must_use]
pub fn of_others(program: &str, excludes: &[String]) -> String {
    let known = excludes.iter().map(|pattern| format!("exclude {}\n", stored_text(pattern.as_bytes())));
    std::iter::once(format!("other {program}\n")).chain(known).collect()
}

fn write_patterns(lines: &mut String, word: &str, patterns: &Patterns) {
    for pattern in patterns.list() {
        let letter = if pattern.ignores_case() { "i" } else { "" };
        let _ = writeln!(lines, "{letter}{word} {}", stored_text(pattern.written()));
    }
}

/// What a file in the target is, as far as filters look at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sort {
    Folder,
    /// With its size in bytes.
    File(u64),
    Other,
}

/// What the makers of a snapshot left out.
#[derive(Default)]
pub(crate) struct LeftOut {
    excludes: Vec<Patterns>,
    larger_than: Option<u64>,
    markers: Vec<Marker>,
    rewrites: Vec<Rewrite>,
    /// Where each named path is in the snapshot, and where it was.
    roots: Vec<(Vec<u8>, Vec<u8>)>,
    /// A line that this version does not know: then all may have been left out.
    is_unknown: bool,
}

#[derive(Default)]
struct Rewrite {
    excludes: Patterns,
    includes: Option<Patterns>,
}

impl LeftOut {
    /// Of a snapshot's records.
    pub(crate) fn of(snapshot: &Snapshot) -> Self {
        let mut left_out = Self::default();
        for record in snapshot.sources.iter().filter(|record| record.kind == "files") {
            let real = path_bytes(&record.origin);
            let real = real.strip_suffix(b"/").unwrap_or(&real).to_vec();
            let stored = match record.details.get(STORED) {
                Some(stored) => stored_path(stored),
                None => real.strip_prefix(b"/").unwrap_or(&real).to_vec(),
            };
            left_out.roots.push((stored, real));
            if let Some(lines) = record.details.get(FILTERS) {
                left_out.read(lines);
            }
        }
        left_out
    }

    fn read(&mut self, lines: &str) {
        let mut of_backup = Sets::default();
        let mut of_rewrites: Vec<Sets> = vec![];
        for line in lines.lines() {
            let (word, value) = line.split_once(' ').unwrap_or((line, ""));
            let sets = of_rewrites.last_mut().unwrap_or(&mut of_backup);
            let is_known = match word {
                "rewrite" => {
                    of_rewrites.push(Sets::default());
                    true
                }
                "larger" => {
                    self.larger_than = value.parse().ok();
                    self.larger_than.is_some()
                }
                "marked" => {
                    let marker = Marker::parse(&stored_path(value));
                    marker.map(|marker| self.markers.push(marker)).is_ok()
                }
                "exclude" => sets.add(false, value, false),
                "iexclude" => sets.add(false, value, true),
                "include" => sets.add(true, value, false),
                "iinclude" => sets.add(true, value, true),
                _ => false,
            };
            self.is_unknown |= !is_known;
        }
        // As the backup has them: what one of the two lists means is left out.
        let (plain, ignoring) =
            of_backup.excludes.into_iter().partition::<Vec<_>, _>(|pattern| !pattern.ignores_case());
        self.excludes = vec![Patterns::new(plain), Patterns::new(ignoring)];
        self.rewrites = of_rewrites
            .into_iter()
            .map(|sets| Rewrite {
                excludes: Patterns::new(sets.excludes),
                includes: (!sets.includes.is_empty()).then(|| Patterns::new(sets.includes)),
            })
            .collect();
    }

    /// Whether something at a path of the snapshot, which it does not have, was or would have been left out.
    pub(crate) fn fits(&self, stored: &[u8], sort: Sort) -> bool {
        self.is_unknown || self.is_excluded(stored, sort) || self.is_rewritten(stored, sort)
    }

    /// Whether any folder can be marked as one whose content is left out.
    pub(crate) fn has_markers(&self) -> bool {
        !self.markers.is_empty()
    }

    /// Whether a folder, at a path of the snapshot, is marked so that what is in it would have been left out. What was
    /// named is saved whatever is in it.
    pub(crate) fn is_marked(&self, stored: &[u8], folder: impl AsFd) -> bool {
        self.roots.iter().all(|(root, _)| root != stored)
            && self.markers.iter().any(|marker| marker.is_at(&folder))
    }

    fn is_excluded(&self, stored: &[u8], sort: Sort) -> bool {
        if matches!((sort, self.larger_than), (Sort::File(size), Some(limit)) if size > limit) {
            return true;
        }
        let above = self.roots.iter().filter(|(root, _)| is_beneath(stored, root));
        let Some((root, real)) = above.max_by_key(|(root, _)| root.len()) else { return false };
        let rest = stored.get(root.len()..).unwrap_or_default();
        let rest = rest.strip_prefix(b"/").unwrap_or(rest);
        if rest.is_empty() {
            return false;
        }
        let folders = rest.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(end, _)| (end, true));
        folders.chain([(rest.len(), sort == Sort::Folder)]).any(|(end, is_folder)| {
            let path = [real, b"/".as_slice(), rest.get(..end).unwrap_or_default()].concat();
            self.excludes.iter().any(|patterns| patterns.fits(&path, is_folder))
        })
    }

    fn is_rewritten(&self, stored: &[u8], sort: Sort) -> bool {
        let is_folder = sort == Sort::Folder;
        self.rewrites.iter().any(|rewrite| {
            rewrite.excludes.fits_within(stored, is_folder)
                || rewrite.includes.as_ref().is_some_and(|list| !list.fits_within(stored, is_folder))
        })
    }
}

/// Patterns of one maker.
#[derive(Default)]
struct Sets {
    excludes: Vec<Pattern>,
    includes: Vec<Pattern>,
}

impl Sets {
    /// Whether the pattern makes sense.
    fn add(&mut self, is_include: bool, text: &str, ignore_case: bool) -> bool {
        let parsed = Pattern::parse(&stored_path(text), "the snapshot", ignore_case);
        let list = if is_include { &mut self.includes } else { &mut self.excludes };
        parsed.map(|pattern| list.push(pattern)).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::SourceRecord;

    fn left_out(filters: &str) -> LeftOut {
        let mut first = SourceRecord::new("files", "/srv/d%25ata", false);
        first.details.insert(STORED.into(), "d%25ata".into());
        first.details.insert(FILTERS.into(), filters.into());
        let mut second = SourceRecord::new("files", "/srv/d%25ata/a/b", false);
        second.details.insert(STORED.into(), "d%25ata/a/b".into());
        LeftOut::of(&Snapshot { sources: vec![first, second], ..Snapshot::default() })
    }

    #[test]
    fn what_was_written_is_read() {
        let parse = |list: &[&[u8]], ignore_case| Patterns::parse(list, "here", ignore_case).unwrap();
        let excludes = parse(&[b"*.log", b"!keep.log", b" \xff\n%"], false);
        let markers = [Marker::parse(b".no backup:a\nb").unwrap(), Marker::cachedir_tag()];
        let lines = of_backup(&excludes, &parse(&[b"*.TMP"], true), Some(1000), &markers);
        assert_eq!(
            lines,
            "exclude *.log\nexclude !keep.log\nexclude  %FF%0A%25\niexclude *.TMP\nlarger 1000\n\
             marked .no backup:a%0Ab\nmarked CACHEDIR.TAG:Signature: 8a477f597d28d172789f06886806bc55\n"
        );
        assert_eq!(left_out(&lines).markers, markers);
        let all = left_out(&format!("{lines}{}", of_rewrite(&parse(&[b"/d%ata/x"], false), None)));
        for (path, sort, expected) in [
            ("d%ata/a.log", Sort::File(1), true),
            ("d%ata/keep.log", Sort::File(1), false),
            ("d%ata/x.log/y", Sort::Other, true),
            ("d%ata/y.tmp", Sort::File(0), true),
            ("d%ata/y", Sort::File(1000), false),
            ("d%ata/y", Sort::File(1001), true),
            ("d%ata/x/y", Sort::Folder, true),
            ("d%ata/y/x", Sort::Folder, false),
        ] {
            assert_eq!(all.fits(path.as_bytes(), sort), expected, "{path}");
        }
        assert!(all.fits(b"d%ata/ \xff\n%", Sort::Other));
    }

    #[test]
    fn patterns_are_compared_as_the_walk_did() {
        let fits = |filters: &str, path: &str, sort| left_out(filters).fits(path.as_bytes(), sort);
        // With the place at the backup, not with that in the snapshot or in the target.
        assert!(fits("exclude /srv/d%25ata/x", "d%ata/x", Sort::Other));
        assert!(!fits("exclude /d%25ata/x", "d%ata/x", Sort::Other));
        // What was named is saved whatever fits it, and so is what lies in it.
        assert!(fits("exclude a", "d%ata/a/c", Sort::Other));
        assert!(!fits("exclude a", "d%ata/a/b/c", Sort::Other));
        assert!(!fits("exclude d%25ata", "d%ata/c", Sort::Other));
        assert!(fits("exclude c/", "d%ata/c", Sort::Folder) && !fits("exclude c/", "d%ata/c", Sort::Other));
        // Only what was kept by a rewrite was in what came of it.
        let kept = "rewrite\ninclude *.txt\nrewrite\niinclude A*";
        assert!(fits(kept, "d%ata/b.txt", Sort::Other) && fits(kept, "d%ata/a.log", Sort::Other));
        assert!(!fits(kept, "d%ata/a.txt", Sort::Other));
        // What is not known may mean anything.
        assert!(fits("newer 1", "d%ata/x", Sort::Other) && fits("exclude [a", "d%ata/x", Sort::Other));
        assert!(!fits("", "d%ata/x", Sort::Other));
    }
}
