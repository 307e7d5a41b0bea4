//! A folder within a snapshot, as `SNAP:folder` names it, and paths relative to it: what `restore`, `dump`, `ls`, `find`
//! and `diff` share. Paths that are given beside `SNAP:folder` begin at that folder, with or without a slash, and so do
//! those that are printed.

use crate::entry::{display_path, is_beneath};
use crate::manifest::{Ending, ManifestReader, Record, Step, for_each_entry, is_behind};
use crate::names::path_bytes;
use crate::snapshot::Snapshot;
use crate::{Error, Repository, Result};

/// A folder, or a file, of a snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inside(Vec<u8>);

impl Inside {
    /// The one that the text names, as [`crate::names::path_text`] has it: `/a/b`, `a/b/` and `./a//b` are the same; empty for
    /// all of the snapshot.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self::default().join(text)
    }

    /// The path of a name within this folder.
    #[must_use]
    pub fn join(&self, text: &str) -> Self {
        let mut path = self.0.clone();
        for part in text.split('/').filter(|part| !matches!(*part, "" | ".")) {
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend(path_bytes(part));
        }
        Self(path)
    }

    /// Resolves a path that a person gave: the path itself or, if the snapshot has none of that name, the one whose
    /// reversible form it is (`path_exact` in JSON).
    ///
    /// # Errors
    ///
    /// If both exist.
    pub fn resolve(self, repo: &Repository, snapshot: &Snapshot) -> Result<Self> {
        let decoded = std::str::from_utf8(&self.0).map(path_bytes);
        let Some(decoded) = decoded.ok().filter(|decoded| *decoded != self.0) else { return Ok(self) };
        let decoded = Self(decoded);
        let (mut as_given, mut as_decoded) = (false, false);
        repo.sync_index(&crate::monitor::Tally::default())?;
        for_each_entry(repo.store(), &snapshot.manifest, &mut |_| {}, &mut |listed| {
            as_given |= is_beneath(&listed.entry.path, &self.0);
            as_decoded |= is_beneath(&listed.entry.path, &decoded.0);
            Ok(())
        })?;
        match (as_given, as_decoded) {
            (true, true) => Err(Error::Invalid(format!(
                "'{}' is the name of one path and the reversible form of another, {}: give its bytes, or for the first \
                 its own reversible form, {}",
                display_path(&self.0),
                display_path(&decoded.0),
                crate::names::path_text(&self.0)
            ))),
            (false, true) => Ok(decoded),
            _ => Ok(self),
        }
    }

    /// Whether the snapshot has an entry of this path, or beneath it. Such an entry takes precedence over other
    /// meanings of a path, such as a key of a dump.
    pub fn is_entry(&self, repo: &Repository, snapshot: &Snapshot) -> Result<bool> {
        repo.sync_index(&crate::monitor::Tally::default())?;
        let mut reader = ManifestReader::from_path(repo.store(), &snapshot.manifest, &self.0)?;
        let mut is_open = false;
        while let Some(step) = reader.next_step()? {
            match step {
                Step::Record(Record::Entry(entry)) if is_behind(&entry.path, &self.0) => break,
                Step::Record(Record::Entry(entry)) => is_open = is_beneath(&entry.path, &self.0),
                Step::Record(Record::End(Ending::Complete, _)) if is_open => return Ok(true),
                Step::Record(Record::End(..)) | Step::Damage(_) => is_open = false,
                Step::Record(_) => {}
            }
        }
        Ok(false)
    }

    /// The path in the snapshot's list, without a slash at the beginning.
    #[must_use]
    pub fn path(&self) -> &[u8] {
        &self.0
    }

    /// Whether it is all of the snapshot.
    #[must_use]
    pub fn is_all(&self) -> bool {
        self.0.is_empty()
    }

    /// An entry's path relative to this folder, if it is beneath it; the entry's name if it is the named path itself.
    #[must_use]
    pub fn relative<'a>(&self, path: &'a [u8]) -> Option<&'a [u8]> {
        if !is_beneath(path, &self.0) {
            return None;
        }
        let rest = path.get(self.0.len()..).unwrap_or_default();
        match rest.strip_prefix(b"/").unwrap_or(rest) {
            [] => path.rsplit(|byte| *byte == b'/').next(),
            rest => Some(rest),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_rule_for_all() {
        for (folder, path, expected) in [
            ("", "f", "f"),
            ("", "/s/./f/", "s/f"),
            ("sub", "f", "sub/f"),
            ("/sub/", "/f", "sub/f"),
            ("./a//b", "c", "a/b/c"),
            ("sub", "", "sub"),
        ] {
            assert_eq!(Inside::new(folder).join(path).path(), expected.as_bytes(), "{folder} {path}");
        }
        let sub = Inside::new("a/sub");
        assert_eq!(sub.relative(b"a/sub/f/g"), Some(&b"f/g"[..]));
        assert_eq!(sub.relative(b"a/sub"), Some(&b"sub"[..]));
        assert_eq!(sub.relative(b"a/subs"), None);
        assert_eq!(Inside::new("").relative(b"a"), Some(&b"a"[..]));
    }
}
