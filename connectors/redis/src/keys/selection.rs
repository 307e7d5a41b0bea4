//! Which keys are meant: by database, names and patterns.

use connector_kit::glob::Glob;
use std::collections::HashSet;

/// Which keys are meant.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Only this database.
    pub database: Option<u32>,
    /// Keys that fit any of these; all if both lists are empty.
    pub patterns: Vec<Glob>,
    /// Keys of these names.
    pub names: HashSet<Vec<u8>>,
}

impl Selection {
    /// A selection by patterns; those without wildcards are names.
    #[must_use]
    pub fn new(database: Option<u32>, patterns: &[Vec<u8>]) -> Self {
        let mut selection = Self { database, ..Self::default() };
        for pattern in patterns {
            let glob = Glob::new(pattern.clone());
            match glob.literal() {
                (name, true) => {
                    selection.names.insert(name);
                }
                _ => selection.patterns.push(glob),
            }
        }
        selection
    }

    /// Whether a key is meant.
    #[must_use]
    pub fn fits(&self, database: u32, name: &[u8]) -> bool {
        self.database.is_none_or(|wanted| wanted == database)
            && (self.is_open()
                || self.names.contains(name)
                || self.patterns.iter().any(|pattern| pattern.fits(name)))
    }

    pub(super) fn is_open(&self) -> bool {
        self.names.is_empty() && self.patterns.is_empty()
    }
}

/// For people: "keys 'user:*', 3 names, database 0". Single names are counted, since there may be many.
impl std::fmt::Display for Selection {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let patterns =
            self.patterns.iter().map(|pattern| format!("'{}'", engine::shown::name(pattern.as_bytes())));
        let mut all: Vec<String> = patterns.collect();
        match (self.names.len(), self.names.iter().next()) {
            (0, _) | (_, None) => {}
            (1, Some(name)) => all.push(format!("'{}'", engine::shown::name(name))),
            (count, _) => all.push(format!("{count} names")),
        }
        match all.is_empty() {
            true => write!(out, "all keys of the snapshot")?,
            false => write!(out, "keys {}", all.join(", "))?,
        }
        self.database.map_or(Ok(()), |database| write!(out, ", database {database}"))
    }
}
