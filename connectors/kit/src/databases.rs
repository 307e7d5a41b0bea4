//! Restores of databases into a server of databases: which of a snapshot were chosen, and the names that they get.

use crate::members::Layout;
use engine::connector::choice::common::{DATABASE, TABLE};
use engine::connector::{Chosen, Origin, url_of};
use engine::{Error, Result, shown};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;

/// What of the databases of a snapshot is restored.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Only these databases; all, and what belongs to the server itself, if empty.
    pub databases: Vec<String>,
    /// Only these tables, of one database.
    pub tables: Vec<String>,
    /// The name that the URL has for the one database.
    pub into: Option<String>,
}

impl Selection {
    /// What was chosen by `--database` and `--table`, for a server whose URL may name a database.
    ///
    /// # Errors
    /// That a name is not UTF-8.
    pub fn new(chosen: &Chosen, into: Option<String>) -> Result<Self> {
        Ok(Self { databases: chosen.texts(&DATABASE)?, tables: chosen.texts(&TABLE)?, into })
    }

    /// Takes what the path behind the snapshot names: the path of which all is read, and for a table that choice.
    ///
    /// # Errors
    /// [`Error::NoEntry`] if the snapshot has nothing of that path, or that `--table` names tables, too.
    pub fn beneath(&mut self, from: Origin<'_>, layout: &Layout) -> Result<String> {
        let (path, table) = layout.restored(from)?;
        if table.is_some() && !self.tables.is_empty() {
            return Err(Error::Invalid("the path names a table already: leave out --table".into()));
        }
        self.tables.extend(table);
        Ok(path)
    }

    /// Whether nothing was chosen: every database comes back under its own name, and what belongs to the server.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.databases.is_empty() && self.tables.is_empty() && self.into.is_none()
    }

    /// The name that a database of the snapshot gets.
    #[must_use]
    pub fn target(&self, name: &str) -> String {
        self.into.clone().unwrap_or_else(|| name.to_owned())
    }

    /// Of the databases of a snapshot those that were chosen. There may be none only if nothing was chosen.
    ///
    /// # Errors
    /// That one is missing, or that there are several where only one can be meant.
    pub fn of<T: Clone>(&self, all: &BTreeMap<String, T>) -> Result<BTreeMap<String, T>> {
        let mut wanted = all.clone();
        wanted.retain(|name, _| self.databases.is_empty() || self.databases.contains(name));
        if let Some(missing) = self.databases.iter().find(|name| !wanted.contains_key(*name)) {
            let all: Vec<&str> = all.keys().map(String::as_str).collect();
            let all = all.join(", ");
            let why = format!("there is no database '{missing}' in this snapshot; it has {all}");
            return Err(Error::Invalid(why));
        }
        let why = match (wanted.len(), &self.into) {
            (0, _) if !self.is_whole() => "there is no database in this snapshot".to_owned(),
            (0 | 1, _) => return Ok(wanted),
            (_, Some(target)) => format!(
                "several databases do not go into one, '{target}': name one with --database, or none in the URL"
            ),
            _ if !self.tables.is_empty() => {
                "tables are of one database, and there are several: choose one with --database".to_owned()
            }
            _ => return Ok(wanted),
        };
        Err(Error::Invalid(why))
    }

    /// A line for each database that was restored, with the bytes of its dump; or that would be, of which nothing was read.
    #[must_use]
    pub fn parts(&self, databases: &BTreeMap<String, u64>, is_preview: bool) -> Vec<(String, Option<u64>)> {
        let verb = if is_preview { "would restore" } else { "restored" };
        let what = match self.tables.as_slice() {
            [] => "database".to_owned(),
            [table] => format!("table {} in database", shown::line(table)),
            tables => format!("tables {} in database", shown::line(&tables.join(", "))),
        };
        let line = |name: &String| format!("{verb} {what} '{}'", shown::line(name));
        databases.iter().map(|(name, bytes)| (line(name), (!is_preview).then_some(*bytes))).collect()
    }
}

/// Refuses several databases for a URL that names one, before anything is opened.
///
/// # Errors
/// That they do not go into one.
pub fn not_several_into_one(to: &OsStr, chosen: &Chosen) -> Result<()> {
    let names: BTreeSet<_> = chosen.all(&DATABASE).iter().collect();
    let into_one = url_of(to).is_ok_and(|to| !to.path().trim_matches('/').is_empty());
    match names.len() > 1 && into_one {
        true => Err(Error::Invalid(
            "several databases do not go into one: name one with --database, or none in the URL".into(),
        )),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selection(databases: &[&str], tables: &[&str], into: Option<&str>) -> Selection {
        let owned = |list: &[&str]| list.iter().map(|one| (*one).to_owned()).collect();
        Selection { databases: owned(databases), tables: owned(tables), into: into.map(str::to_owned) }
    }

    #[test]
    fn one_place_takes_one_database() {
        let all =
            |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), ())).collect::<BTreeMap<_, _>>();
        let (none, one, two) = (all(&[]), all(&["a"]), all(&["a", "b"]));
        for (databases, tables, into, stored, expected) in [
            (&[][..], &[][..], None, &two, Ok(2)),
            (&[], &[], None, &none, Ok(0)),
            (&[], &["t"], None, &none, Err("there is no database in")),
            (&[], &[], Some("x"), &none, Err("there is no database in")),
            (&[], &["t"], None, &one, Ok(1)),
            (&[], &["t"], None, &two, Err("tables are of one database")),
            (&["a", "b"], &["t"], None, &two, Err("tables are of one database")),
            (&["b"], &["t"], Some("x"), &two, Ok(1)),
            (&[], &[], Some("x"), &two, Err("several databases do not go into one, 'x'")),
            (&["a", "b"], &[], None, &two, Ok(2)),
            (&["b"], &[], None, &one, Err("there is no database 'b' in this snapshot; it has a")),
        ] {
            let found = selection(databases, tables, into).of(stored);
            match (found, expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found.len(), expected, "{databases:?} {tables:?}"),
                (Err(found), Err(expected)) => {
                    let found = found.to_string();
                    assert!(found.contains(expected), "{found}, not {expected}");
                }
                (found, expected) => panic!("{found:?}, not {expected:?}"),
            }
        }
        assert_eq!(selection(&["a"], &[], Some("x")).target("a"), "x");
        assert_eq!(selection(&["a"], &[], None).target("a"), "a");
    }

    #[test]
    fn a_line_names_what_was_restored() {
        let restored = BTreeMap::from([("a\nb".to_owned(), 7)]);
        let chosen = selection(&[], &["s.t", "u"], None);
        let line = |verb: &str| format!("{verb} tables s.t, u in database 'a\\nb'");
        assert_eq!(chosen.parts(&restored, true), [(line("would restore"), None)]);
        assert_eq!(chosen.parts(&restored, false), [(line("restored"), Some(7))]);
    }
}
