//! What HEAD says of the tiers that were made, and of its own making.

use super::List;
use crate::Result;
use crate::id::SessionId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How far a HEAD has come: of two, the later one has the higher incarnation, or the same one and the higher
/// generation.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
pub struct Age {
    /// Raised when a copy becomes the primary, or the primary's HEAD is rebuilt.
    pub incarnation: u64,
    /// Counts swaps.
    pub generation: u64,
}

impl Age {
    /// Incarnation and generation, as in the names of leaves.
    #[must_use]
    pub fn parts(self) -> (u64, u64) {
        (self.incarnation, self.generation)
    }
}

/// The tiers that were made. The primary's HEAD has the list and, as of the last sync, each tier's.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct Tiers {
    /// Whether it has every tier that was ever made. If not, each tier that is configured counts as made.
    #[serde(default)]
    pub all: bool,
    /// The highest age of each tier's HEAD that was seen from here. The tier itself may be later, never earlier.
    #[serde(default)]
    pub made: BTreeMap<String, Age>,
}

impl Tiers {
    /// The list of a repository that has just been made.
    #[must_use]
    pub fn none_yet() -> Self {
        Self { all: true, made: BTreeMap::new() }
    }

    /// Whether a tier was made, as far as is known.
    #[must_use]
    pub fn was_made(&self, name: &str) -> bool {
        !self.all || self.made.contains_key(name)
    }

    /// Notes the age of a tier's HEAD, unless a later one is known.
    pub fn note(&mut self, name: &str, age: Age) {
        let known = self.made.entry(name.to_owned()).or_insert(age);
        *known = age.max(*known);
    }

    /// Adds what another list knows.
    pub fn merge(&mut self, other: &Self) {
        other.made.iter().for_each(|(name, age)| self.note(name, *age));
    }
}

/// Sessions that a mark remembers. The packs of older ones count as not written since, which is the safe side.
const SESSIONS: usize = 4096;

/// A mark of a HEAD that was rebuilt from existing objects. It may lack some, so until a person confirms it, a prune
/// removes only objects of sessions that were opened since.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Anew {
    /// When it was made, in milliseconds since the Unix epoch; for people.
    pub since_ms: u64,
    /// Sessions that were opened since.
    pub sessions: List<SessionId>,
}

impl Anew {
    /// Whether a session was opened since.
    ///
    /// # Errors
    ///
    /// The list cannot be read.
    pub fn knows(&self, session: &SessionId) -> Result<bool> {
        self.sessions.contains(session)
    }

    /// Notes a session that is opened now.
    pub(crate) fn enter(&mut self, session: SessionId) -> Result<()> {
        self.sessions.push(session);
        self.sessions.keep_last(SESSIONS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_only_rise_and_what_is_not_listed_counts_as_made_unless_all_is() {
        let mut tiers = Tiers::none_yet();
        assert!(!tiers.was_made("a"));
        let age = |incarnation, generation| Age { incarnation, generation };
        for (noted, expected) in [((1, 5), (1, 5)), ((1, 3), (1, 5)), ((2, 1), (2, 1)), ((1, 9), (2, 1))] {
            tiers.note("a", age(noted.0, noted.1));
            assert_eq!(tiers.made["a"], age(expected.0, expected.1));
        }
        assert!(tiers.was_made("a") && !tiers.was_made("b"));
        assert!(Tiers::default().was_made("b"), "of a list that was lost nothing is known");
    }
}
