//! Tablespaces of a restore: those of the dump, others in their place, or none.

use std::collections::BTreeMap;

/// Where what was in a tablespace goes.
#[derive(Clone, Debug, Default)]
pub(super) struct Spaces {
    /// Everything goes where the server puts it.
    pub(super) none: bool,
    /// Others in their place.
    pub(super) map: BTreeMap<String, String>,
}

impl Spaces {
    /// The tablespace in the place of `name`; `None` if none is to be named.
    pub(super) fn of<'a>(&'a self, name: &'a str) -> Option<&'a str> {
        (!self.none).then(|| self.map.get(name).map_or(name, String::as_str))
    }

    /// Whether the dump's own of this name is wanted.
    pub(super) fn keeps(&self, name: &str) -> bool {
        !self.none && !self.map.contains_key(name)
    }
}
