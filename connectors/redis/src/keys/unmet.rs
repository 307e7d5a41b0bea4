//! Names of a request that match no key of the dump: a key, a pattern, a database, a prefix to be replaced. A typing
//! error is reported; it neither restores less than was requested, nor overwrites other keys.

use super::Selection;
use connector_kit::glob::Glob;
use std::collections::HashSet;

/// What no key has answered to yet.
pub(super) struct Unmet<'a> {
    database: Option<u32>,
    names: HashSet<&'a [u8]>,
    patterns: Vec<&'a Glob>,
    prefixes: &'a [(Vec<u8>, Vec<u8>)],
    used: Vec<bool>,
}

impl<'a> Unmet<'a> {
    pub(super) fn new(selection: &'a Selection, prefixes: &'a [(Vec<u8>, Vec<u8>)]) -> Self {
        Self {
            database: selection.database,
            names: selection.names.iter().map(Vec::as_slice).collect(),
            patterns: selection.patterns.iter().collect(),
            prefixes,
            used: vec![false; prefixes.len()],
        }
    }

    /// A key that was chosen.
    pub(super) fn meet(&mut self, name: &[u8]) {
        self.database = None;
        self.names.remove(name);
        self.patterns.retain(|pattern| !pattern.fits(name));
        // The first that fits counts.
        let first = self.prefixes.iter().position(|(from, _)| name.starts_with(from));
        if let Some(used) = first.and_then(|first| self.used.get_mut(first)) {
            *used = true;
        }
    }

    /// Whether every prefix has a key.
    pub(super) fn has_all_prefixes(&self) -> bool {
        self.used.iter().all(|used| *used)
    }

    /// The prefixes without a key.
    pub(super) fn prefixes(&self) -> impl Iterator<Item = &'a [u8]> {
        self.prefixes.iter().zip(&self.used).filter(|(_, used)| !**used).map(|((from, _), _)| from.as_slice())
    }

    /// Keys, patterns and the database that nothing answers to, for people.
    pub(super) fn describe(self) -> Vec<String> {
        let mut names: Vec<&[u8]> = self.names.into_iter().collect();
        names.extend(self.patterns.into_iter().map(Glob::as_bytes));
        names.sort_unstable();
        let names = names.into_iter().map(engine::shown::name);
        self.database.map(|number| format!("database {number}")).into_iter().chain(names).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_key_answers_to() {
        let patterns = ["user:*", "nosuch*", "one", "two"].map(|pattern| pattern.as_bytes().to_vec());
        let selection = Selection::new(Some(3), &patterns);
        let prefixes = [("user:", "a:"), ("us", "b:"), ("typo:", "c:")];
        let prefixes = prefixes.map(|(from, to)| (from.as_bytes().to_vec(), to.as_bytes().to_vec()));
        let mut unmet = Unmet::new(&selection, &prefixes);
        for name in ["user:1", "one"] {
            unmet.meet(name.as_bytes());
        }
        assert!(!unmet.has_all_prefixes());
        // "us" is what another one says better.
        assert_eq!(unmet.prefixes().collect::<Vec<_>>(), [b"us".as_slice(), b"typo:"]);
        assert_eq!(unmet.describe(), ["nosuch*", "two"]);
        assert_eq!(Unmet::new(&Selection::new(Some(3), &[]), &[]).describe(), ["database 3"]);
    }
}
