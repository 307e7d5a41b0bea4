//! What of a snapshot a restore means, where it goes, and what of the target it may remove. Made by reading the manifest
//! once, before anything is written: a filter that fits nothing, a path that is not there and, where names are to be
//! removed, a part of the list that cannot be read are errors by then.

use super::RestoreOptions;
use crate::entry::{Entry, Kind, display_path, is_beneath};
use crate::filters::{LeftOut, Sort};
use crate::manifest::{Listed, for_each_entry};
use crate::patterns::Patterns;
use crate::snapshot::Snapshot;
use crate::stored::{LOST, STORED, UNSEEN, stored_path};
use crate::{Error, Repository, Result};
use chunkstore::store::describe;
use rustix::fd::AsFd;
use std::collections::HashSet;

/// The paths that a restore is about.
pub struct Scope {
    beneath: Vec<u8>,
    includes: Patterns,
    /// Where all that is included lies, or beneath.
    beginnings: Vec<Vec<u8>>,
    excludes: Patterns,
    /// Where what was backed up begins, relative to the target.
    roots: Vec<Vec<u8>>,
    /// What the backup did not see, relative to the target.
    unseen: HashSet<Vec<u8>>,
    /// What the backup left out by its filters, unless that is to go, too.
    left_out: Option<LeftOut>,
    /// Whether the restore begins at a folder; else paths beneath the target begin above what it begins at.
    base_is_folder: bool,
}

impl Scope {
    /// Of the choices alone, for whoever removes nothing.
    pub fn new(options: &RestoreOptions) -> Self {
        Self {
            beneath: options.beneath.clone(),
            includes: options.includes.clone(),
            beginnings: options.includes.beginnings(),
            excludes: options.excludes.clone(),
            roots: vec![],
            unseen: HashSet::new(),
            left_out: None,
            base_is_folder: true,
        }
    }

    /// Reads the list of what there is, as far as the choices need it.
    pub fn survey(repo: &Repository, snapshot: &Snapshot, options: &RestoreOptions) -> Result<Self> {
        let mut scope = Self::new(options);
        if options.beneath.is_empty() && options.includes.is_empty() && !options.delete {
            return Ok(scope);
        }
        let (mut found, mut damaged) = (options.beneath.is_empty(), None);
        let mut roots = Roots::new(snapshot);
        let mut is_folder = true;
        let mut each = |listed: Listed| {
            let Entry { path, kind, .. } = &listed.entry;
            roots.see(path);
            is_folder &= *path != options.beneath || *kind == Kind::Dir;
            if let Some(place) = scope.place(path, *kind) {
                found = true;
                if !place.is_empty() {
                    // Which patterns fitted anything is kept by the list itself.
                    let _ = scope.includes.fits_within(&place, *kind == Kind::Dir);
                }
            }
            Ok(())
        };
        for_each_entry(
            repo.store(),
            &snapshot.manifest,
            &mut |damage| {
                damaged.get_or_insert(damage);
            },
            &mut each,
        )?;
        if let Some(damage) = damaged.filter(|_| options.delete) {
            return Err(Error::Refused(format!(
                "the list of what was backed up is damaged (after {}: {}): --delete would remove what it can no longer \
                 name. Nothing was written or removed; 'esker heal' may mend it, a restore without \
                 --delete takes what is left",
                damage.after,
                describe(&damage.error)
            )));
        }
        let lost = snapshot.sources.iter().find_map(|record| record.details.get(LOST));
        if let Some(lost) = lost.filter(|_| options.delete) {
            return Err(Error::Refused(format!(
                "{lost} entries of this snapshot were damaged where it was imported from: --delete would remove what it \
                 lacks. Nothing was written or removed; import it again once that is mended, a restore without --delete \
                 takes what is there"
            )));
        }
        if !found {
            return Err(Error::NoEntry { path: display_path(&options.beneath) });
        }
        let unfit = scope.includes.unused();
        let unfit: Vec<String> =
            unfit.iter().filter(|pattern| !pattern.is_negated()).map(ToString::to_string).collect();
        if !unfit.is_empty() {
            let place = match options.beneath.as_slice() {
                [] => "the snapshot".to_owned(),
                beneath => display_path(beneath),
            };
            return Err(Error::Invalid(format!(
                "{} fits nothing in {place}, which it is relative to",
                unfit.join(", ")
            )));
        }
        scope.left_out = (options.delete && !options.delete_excluded).then(|| LeftOut::of(snapshot));
        scope.base_is_folder = is_folder;
        let roots = roots.all();
        // What was named itself was looked at, whatever lies above it.
        let named = roots.iter().filter(|root| is_beneath(&options.beneath, root)).map(Vec::len).max();
        let base = Base { path: &options.beneath, is_folder };
        scope.roots = roots.iter().filter_map(|root| base.relative(root)).collect();
        let unseen = snapshot
            .sources
            .iter()
            .filter_map(|record| record.details.get(UNSEEN))
            .flat_map(|lines| lines.lines().map(|line| stored_path(line.trim_start_matches('/'))));
        scope.unseen = unseen
            .filter(|path| !is_beneath(&options.beneath, path) || Some(path.len()) >= named)
            .filter_map(|path| base.relative(&path))
            .collect();
        Ok(scope)
    }

    /// Where an entry lies beneath the target: empty for the folder that is the target, its name for a file that was
    /// named itself; `None` for what lies elsewhere.
    pub fn place(&self, path: &[u8], kind: Kind) -> Option<Vec<u8>> {
        if !is_beneath(path, &self.beneath) {
            return None;
        }
        let rest = path.get(self.beneath.len()..).unwrap_or_default();
        let rest = rest.strip_prefix(b"/").unwrap_or(rest);
        if rest.is_empty() && kind != Kind::Dir {
            return path.rsplit(|byte| *byte == b'/').next().map(<[u8]>::to_vec);
        }
        Some(rest.to_vec())
    }

    /// Where an entry goes, if the choices mean it.
    pub fn target(&self, entry: &Entry) -> Option<Vec<u8>> {
        let place = self.place(&entry.path, entry.kind).filter(|place| !place.is_empty())?;
        self.fits(&place, entry.kind == Kind::Dir).then_some(place)
    }

    /// Whether the filters mean what lies at a path beneath the target.
    pub fn fits(&self, place: &[u8], is_dir: bool) -> bool {
        (self.includes.is_empty() || self.includes.fits_within(place, is_dir))
            && !self.excludes.fits_within(place, is_dir)
    }

    /// Whether what lies at a path beneath the target may go because the snapshot does not have it.
    pub fn may_remove(&self, place: &[u8], is_dir: bool) -> bool {
        self.is_within(place) && self.fits(place, is_dir) && !self.is_unseen(place)
    }

    /// Whether a folder can be marked as one whose content the backup left out.
    pub fn has_markers(&self) -> bool {
        self.left_out.as_ref().is_some_and(LeftOut::has_markers)
    }

    /// Whether a folder at a path beneath the target is marked so that the backup would have left out what is in it.
    pub fn is_marked(&self, place: &[u8], folder: impl AsFd) -> bool {
        let marked = |left_out: &LeftOut| left_out.is_marked(&self.stored(place), folder);
        self.left_out.as_ref().is_some_and(marked)
    }

    /// Whether the backup left out, by its filters, what is at a path beneath the target.
    pub(super) fn is_left_out(&self, place: &[u8], sort: Sort) -> bool {
        self.left_out.as_ref().is_some_and(|left_out| left_out.fits(&self.stored(place), sort))
    }

    /// The path in the snapshot of what lies at a path beneath the target.
    fn stored(&self, place: &[u8]) -> Vec<u8> {
        let above = match self.base_is_folder {
            true => self.beneath.as_slice(),
            false => self.beneath.rsplitn(2, |byte| *byte == b'/').nth(1).unwrap_or_default(),
        };
        if place.is_empty() { above.to_vec() } else { super::remove::join(above, place) }
    }

    /// Whether the backup did not see what is at a path, or in it.
    pub fn is_unseen(&self, place: &[u8]) -> bool {
        // What was named itself was looked at, whatever lies above it.
        let root = self.roots.iter().filter(|root| is_beneath(place, root)).map(Vec::len).max();
        let ends = place.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(end, _)| end);
        !self.unseen.is_empty()
            && [0, place.len()]
                .into_iter()
                .chain(ends)
                .filter(|end| Some(*end) >= root)
                .any(|end| self.unseen.contains(place.get(..end).unwrap_or_default()))
    }

    /// Whether a folder beneath the target, or one in it, can hold something that may go.
    pub fn may_hold(&self, folder: &[u8]) -> bool {
        let near = |start: &Vec<u8>| is_beneath(folder, start) || is_beneath(start, folder);
        self.roots.iter().any(near) && (self.includes.is_empty() || self.beginnings.iter().any(near))
    }

    /// Whether a path lies strictly beneath something that was backed up by its own name.
    fn is_within(&self, place: &[u8]) -> bool {
        self.roots.iter().any(|root| place != root.as_slice() && is_beneath(place, root))
    }
}

/// Where the sources of a snapshot begin in its list.
struct Roots {
    known: Vec<Vec<u8>>,
    /// Of trees whose record does not say it: the ends of their paths, the longest first, with whether an entry is there.
    guesses: Vec<Vec<(Vec<u8>, bool)>>,
}

impl Roots {
    fn new(snapshot: &Snapshot) -> Self {
        let (mut known, mut guesses) = (vec![], vec![]);
        let mut trees = HashSet::new();
        for record in snapshot.sources.iter().filter(|record| record.kind == "files") {
            trees.insert(record.origin.as_str());
            if let Some(stored) = record.details.get(STORED) {
                known.push(stored_path(stored));
                continue;
            }
            // A path that was kept with replacement characters names nothing; then nothing is removed.
            if !record.origin.contains(char::REPLACEMENT_CHARACTER) {
                let whole = record.origin.trim_matches('/');
                let starts = [0].into_iter().chain(whole.match_indices('/').map(|(at, _)| at + 1));
                guesses.push(starts.map(|at| (whole.as_bytes()[at..].to_vec(), false)).collect());
            }
        }
        let others = snapshot.paths.iter().filter(|path| !trees.contains(path.as_str()));
        known.extend(others.map(|path| path.trim_matches('/').as_bytes().to_vec()));
        Self { known, guesses }
    }

    fn see(&mut self, path: &[u8]) {
        for guess in self.guesses.iter_mut().flatten().filter(|(end, _)| end == path) {
            guess.1 = true;
        }
    }

    /// All of them.
    fn all(self) -> Vec<Vec<u8>> {
        let guessed = self.guesses.into_iter().map(|ends| {
            // The longest is the least; of `.`, which has no entry of its own, none is there.
            ends.into_iter().find(|(_, seen)| *seen).map(|(end, _)| end).unwrap_or_default()
        });
        self.known.into_iter().chain(guessed).collect()
    }
}

/// The path of the snapshot at which a restore begins.
struct Base<'a> {
    path: &'a [u8],
    /// Nothing lies beneath anything else: a file, a symbolic link or a pipe is restored under its own name.
    is_folder: bool,
}

impl Base<'_> {
    /// A path as one beneath the target, if it has to do with the base: for one that the base is or lies beneath, the
    /// empty path, or the name of a base that is no folder.
    fn relative(&self, path: &[u8]) -> Option<Vec<u8>> {
        if is_beneath(self.path, path) {
            let name = self.path.rsplit(|byte| *byte == b'/').next().filter(|_| !self.is_folder);
            return Some(name.unwrap_or_default().to_vec());
        }
        let rest = path.get(self.path.len()..).filter(|_| self.is_folder && is_beneath(path, self.path))?;
        Some(rest.strip_prefix(b"/").unwrap_or(rest).to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::SourceRecord;
    use crate::stored::stored_text;

    fn roots(records: &[(&str, Option<&str>)], paths: &[&str], seen: &[&str], folder: &str) -> Vec<String> {
        let sources = records.iter().map(|(origin, stored)| {
            let mut record = SourceRecord::new("files", *origin, false);
            if let Some(stored) = stored {
                record.details.insert(STORED.into(), stored_text(stored.as_bytes()));
            }
            record
        });
        let paths = paths.iter().map(|path| (*path).to_owned()).collect();
        let snapshot = Snapshot { sources: sources.collect(), paths, ..Snapshot::default() };
        let mut roots = Roots::new(&snapshot);
        seen.iter().for_each(|path| roots.see(path.as_bytes()));
        let base = Base { path: folder.as_bytes(), is_folder: true };
        let all = roots.all().into_iter().filter_map(|root| base.relative(&root));
        all.map(|root| String::from_utf8(root).unwrap()).collect()
    }

    #[test]
    fn nothing_lies_beneath_a_base_that_is_no_folder() {
        let file = Base { path: b"srv/x/f", is_folder: false };
        for (path, expected) in [
            ("", Some("f")),
            ("srv", Some("f")),
            ("srv/x/f", Some("f")),
            ("srv/x/f/in", None),
            ("srv/x/g", None),
        ] {
            let given = file.relative(path.as_bytes());
            assert_eq!(given.as_deref(), expected.map(str::as_bytes), "{path}");
        }
    }

    #[test]
    fn what_was_named_beneath_something_unseen_was_seen() {
        let mut scope = Scope::new(&RestoreOptions::default());
        scope.roots = vec![vec![], b"boot".to_vec()];
        scope.unseen = [b"boot".to_vec(), b"mnt".to_vec(), b"boot/efi".to_vec()].into();
        for (place, is_unseen) in
            [("mnt", true), ("mnt/x/y", true), ("mntx", false), ("boot/efi/x", true), ("etc", false)]
        {
            assert_eq!(scope.is_unseen(place.as_bytes()), is_unseen, "{place}");
        }
        // The mount point was left empty by one walk, and named for another.
        scope.roots.push(b"mnt/data".to_vec());
        assert!(scope.is_unseen(b"mnt/x") && !scope.is_unseen(b"mnt/data/x"));
    }

    #[test]
    fn roots_are_where_sources_begin() {
        assert_eq!(roots(&[("/w/src/etc", Some("etc"))], &["/w/src/etc"], &["etc"], ""), ["etc"]);
        assert_eq!(roots(&[("/w/src", Some(""))], &["/w/src"], &["etc"], ""), [""]);
        assert_eq!(roots(&[("/home/u", Some("home/u"))], &["/home/u"], &["home"], "home"), ["u"]);
        assert_eq!(roots(&[("/home/u", Some("home/u"))], &["/home/u"], &[], "home/u/docs"), [""]);
        assert_eq!(roots(&[("/home/u", Some("home/u"))], &["/home/u"], &[], "etc"), [""; 0]);
        // Records of older versions say only where it was.
        assert_eq!(roots(&[("/w/src/etc", None)], &["/w/src/etc"], &["etc", "etc/a"], ""), ["etc"]);
        assert_eq!(roots(&[("/w/src", None)], &["/w/src"], &["etc"], ""), [""]);
        assert_eq!(roots(&[("/w/M\u{fffd}ller", None)], &["/w/M\u{fffd}ller"], &["x"], ""), [""; 0]);
        assert_eq!(roots(&[], &["/stdin", "/redis/h:1"], &[], ""), ["stdin", "redis/h:1"]);
        assert_eq!(stored_path(&stored_text(b"a%/\xff \xc3\xbc\n")), b"a%/\xff \xc3\xbc\n");
    }
}
