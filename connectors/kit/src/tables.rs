//! The tables of databases of which each is a dump of its own, as the contents of a snapshot: for `ls`, `find`, `dump` and
//! `diff`.

use crate::members::{Dump, Layout, Place, Wanted};
use engine::connector::contents::{Change, Contents, Member, Output};
use engine::connector::{Origin, fields};
use engine::{Error, Result};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// A system that dumps each database apart.
pub trait Dumps: Sync {
    /// Where the dumps lie.
    const LAYOUT: Layout;
    /// The path of a table below that of its server, for people: `DATABASE/TABLE`.
    const PATH: &'static str;
    /// A dump that was opened.
    type Stored<'a>: Tables;

    /// Opens a dump of a snapshot.
    ///
    /// # Errors
    /// What cannot be read of it.
    fn open<'a>(from: Origin<'a>, dump: &Dump) -> Result<Self::Stored<'a>>;
}

/// A table, or what is like one: a view, a sequence.
#[derive(Clone, Debug)]
pub struct Table {
    /// What it is called, with its schema where the system has schemas.
    pub name: Vec<u8>,
    /// What it is.
    pub kind: String,
    /// Its bytes in the dump, where they are known.
    pub size: Option<u64>,
}

/// The tables of one database's dump.
pub trait Tables {
    /// All of them, in the dump's order.
    fn tables(&self) -> Vec<Table>;

    /// Writes the table that a path names, as statements that make it; returns their bytes, or `None` if the dump has no such
    /// table. The output is opened once it is known that there is something to write.
    ///
    /// # Errors
    /// That several tables are called so, what cannot be read, or what cannot be written.
    fn read(&self, place: &Place, out: Output<'_>) -> Result<Option<u64>>;

    /// The tables that differ in a newer dump, by name.
    ///
    /// # Errors
    /// What cannot be read.
    fn changes(&self, newer: &Self) -> Result<Vec<(Change, Vec<u8>)>>;
}

/// What became of the members of a map in a newer one. `is_changed` says it of one that both have.
pub fn changes<'a, K: Ord, V>(
    before: &'a BTreeMap<K, V>,
    after: &'a BTreeMap<K, V>,
    is_changed: impl Fn(&K, &V, &V) -> bool,
) -> Vec<(Change, &'a K)> {
    let all: BTreeSet<&K> = before.keys().chain(after.keys()).collect();
    let change = |key| match (before.get(key), after.get(key)) {
        (Some(_), None) => Some(Change::Removed),
        (None, _) => Some(Change::Added),
        (Some(one), Some(other)) => is_changed(key, one, other).then_some(Change::Changed),
    };
    all.into_iter().filter_map(|key| Some((change(key)?, key))).collect()
}

/// The tables of the dumps of a system.
pub struct InDumps<D>(pub D);

impl<D: Dumps> Contents for InDumps<D> {
    fn noun(&self) -> &'static str {
        "table"
    }

    fn holds(&self, from: Origin<'_>) -> bool {
        // What cannot be told is told when it is read.
        D::LAYOUT.place(from).map_or(true, |place| place.is_some())
    }

    fn reads(&self, from: Origin<'_>) -> Vec<u8> {
        match D::LAYOUT.place(from) {
            Ok(Some(place)) => place.dump.path.into_bytes(),
            _ => engine::names::path_bytes(from.below.trim_matches('/')),
        }
    }

    fn is_dump(&self, from: Origin<'_>) -> bool {
        D::LAYOUT.dump_path(from).is_some_and(|dump| dump == from.below.trim_matches('/'))
    }

    fn dump_of(&self, from: Origin<'_>) -> Option<String> {
        D::LAYOUT.dump_path(from)
    }

    fn list(
        &self,
        from: Origin<'_>,
        patterns: &[Vec<u8>],
        each: &mut dyn FnMut(Member) -> Result<()>,
    ) -> Result<()> {
        let place = D::LAYOUT.known_place(from)?;
        let wanted = Wanted::new(patterns);
        let only = place.member.as_ref().map(|member| Wanted::new(&[member.clone().into_bytes()]));
        for Table { name, kind, size } in D::open(from, &place.dump)?.tables() {
            let is_it = only.as_ref().is_none_or(|only| only.fits(&name) || place.is_called(&name));
            if is_it && wanted.fits(&name) {
                each(Member {
                    path: place.dump.member(&D::LAYOUT, &name),
                    name,
                    kind,
                    size,
                    time: None,
                    about: String::new(),
                    fields: fields(json!({"database": engine::names::decoded(&place.dump.name)})),
                })?;
            }
        }
        Ok(())
    }

    fn read(&self, from: Origin<'_>, out: Output<'_>) -> Result<u64> {
        let place = D::LAYOUT.known_place(from)?;
        if place.member.is_none() {
            let (kind, path) = (D::LAYOUT.kind, D::PATH);
            let why = format!("which table? SNAPSHOT:{kind}/SERVER/{path}; 'esker ls' lists them");
            return Err(Error::Invalid(why));
        }
        let written = D::open(from, &place.dump)?.read(&place, out)?;
        written.ok_or_else(|| Error::NoEntry { path: from.below.to_owned() })
    }

    fn compare(
        &self,
        old: Origin<'_>,
        new: Origin<'_>,
        _scratch: &Path,
        each: &mut dyn FnMut(Change, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let (place, other) = (D::LAYOUT.known_place(old)?, D::LAYOUT.known_place(new)?);
        let changes = D::open(old, &place.dump)?.changes(&D::open(new, &other.dump)?)?;
        changes.into_iter().try_for_each(|(change, name)| each(change, &place.dump.member(&D::LAYOUT, &name)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_became_of_each() {
        let before = BTreeMap::from([("gone", 1), ("same", 1), ("other", 1), ("rows", 1)]);
        let after = BTreeMap::from([("new", 1), ("same", 1), ("other", 2), ("rows", 1)]);
        let found = changes(&before, &after, |name, one, other| one != other || *name == "rows");
        let expected = [
            (Change::Removed, &"gone"),
            (Change::Added, &"new"),
            (Change::Changed, &"other"),
            (Change::Changed, &"rows"),
        ];
        assert_eq!(found, expected);
    }
}
