//! A place among the keys of a snapshot, as a path names it, and the dump that it is in.

use super::{Dump, Records as _, Selection, Want, find};
use engine::snapshot::Snapshot;
use engine::{Error, Repository, Result};
use std::collections::HashSet;

/// What a path says for the key without a name: as [`engine::names::encoded`] has it.
const NO_NAME: &[u8] = b"%";

/// The component of a path that a key is: its name, or what stands for no name; and of the key that is called like that, its
/// reversible form.
#[must_use]
pub fn component(name: &[u8]) -> &[u8] {
    match name {
        b"" => NO_NAME,
        NO_NAME => b"%25",
        name => name,
    }
}

/// A place among the keys of a snapshot: `redis/[SERVER/]DATABASE[/KEY]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The server's folder, if it is named, as [`engine::names::path_text`] has it.
    pub server: Option<String>,
    /// The database, if it is named.
    pub database: Option<u32>,
    /// The key, if it is named; keys may have slashes.
    pub key: Option<Vec<u8>>,
}

impl Place {
    /// Reads a path, as [`engine::names::path_text`] has it; `None` if it is that of an entry rather than of keys.
    #[must_use]
    pub fn parse(path: &str) -> Option<Self> {
        let rest = path.strip_prefix("redis/")?;
        let (server, rest) = match rest.split_once('/') {
            Some((server, rest)) if server.parse::<u32>().is_err() => (Some(server.to_owned()), rest),
            None if rest.parse::<u32>().is_err() => return None,
            _ => (None, rest),
        };
        let (database, key) = match rest.split_once('/') {
            Some((database, key)) => (database, Some(key)),
            None => (rest, None),
        };
        let database = Some(database.parse().ok()?);
        let key = key.filter(|key| !key.is_empty()).map(engine::names::path_bytes);
        Some(Self { server, database, key })
    }

    /// The names that a key in a path may have: that itself, or of which it is the reversible form, as for paths.
    #[must_use]
    pub fn names(&self) -> HashSet<Vec<u8>> {
        let decoded =
            |key: &Vec<u8>| std::str::from_utf8(key).map_or_else(|_| key.clone(), engine::names::path_bytes);
        let empty = self.is_empty_name().then(Vec::new);
        self.key.iter().flat_map(|key| [key.clone(), decoded(key)]).chain(empty).collect()
    }

    /// Whether a path names the key without a name, as [`engine::names::encoded`] does; the key `%` may be meant, too.
    fn is_empty_name(&self) -> bool {
        self.key.as_deref() == Some(NO_NAME)
    }

    /// The keys of a listing: of patterns, and of the one that the path names, which may be a pattern as well.
    #[must_use]
    pub fn selection(&self, patterns: &[Vec<u8>]) -> Selection {
        let patterns: Vec<Vec<u8>> = patterns.iter().cloned().chain(self.key.clone()).collect();
        let mut selection = Selection::new(self.database, &patterns);
        selection.names.extend(self.is_empty_name().then(Vec::new));
        selection
    }

    /// The name of the one key that is meant; `None` if the dump has none of this name.
    ///
    /// # Errors
    /// That it is the name of one key and the reversible form of another.
    pub fn name(&self, repo: &Repository, dump: &Dump) -> Result<Option<Vec<u8>>> {
        let selection = Selection { database: self.database, names: self.names(), ..Selection::default() };
        let mut records = dump.records(repo, &selection, Want::Names);
        let mut next = || Ok::<_, Error>(records.next_record()?.map(|record| record.key.name));
        match (next()?, next()?) {
            // A lone `%` is the key without a name if there is one, and that called `%` has its own reversible form.
            (Some(_), Some(_)) if self.is_empty_name() => Ok(Some(vec![])),
            (Some(_), Some(_)) => Err(Error::Invalid(
                "this is the name of one key and the reversible form of another: give its bytes".into(),
            )),
            (found, _) => Ok(found),
        }
    }

    /// The place that `SNAPSHOT:path` names, if it does. Slashes at the end of a key belong to it.
    #[must_use]
    pub fn in_argument(argument: &str) -> Option<Self> {
        Self::parse(argument.split_once(':')?.1.trim_start_matches('/'))
    }

    /// The one dump of the snapshot that is meant.
    pub fn dump(&self, repo: &Repository, snapshot: &Snapshot) -> Result<Dump> {
        let mut beneath = b"redis".to_vec();
        if let Some(server) = &self.server {
            beneath.push(b'/');
            beneath.extend(engine::names::path_bytes(server));
        }
        let dump = one(find(repo, snapshot, &beneath)?)?;
        dump.has_keys()?;
        Ok(dump)
    }
}

/// The only one of some dumps.
pub fn one(mut dumps: Vec<Dump>) -> Result<Dump> {
    match (dumps.pop(), dumps.len()) {
        (Some(dump), 0) => Ok(dump),
        (None, _) => Err(Error::Invalid("there is no Redis dump in this snapshot".into())),
        (Some(last), _) => {
            let mut paths: Vec<String> = dumps.iter().map(|dump| dump.path.clone()).collect();
            paths.push(last.path);
            Err(Error::Invalid(format!(
                "the snapshot holds several Redis dumps; name one, as SNAP:redis/SERVER: {}",
                paths.join(", ")
            )))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        let place = |server: Option<&str>, database, key: Option<&str>| Place {
            server: server.map(str::to_owned),
            database: Some(database),
            key: key.map(|key| key.as_bytes().to_vec()),
        };
        assert_eq!(Place::parse("redis/0"), Some(place(None, 0, None)));
        assert_eq!(Place::parse("redis/0/"), Some(place(None, 0, None)));
        assert_eq!(Place::parse("redis/3/user:1/x"), Some(place(None, 3, Some("user:1/x"))));
        assert_eq!(Place::parse("redis/h:6379/3/a"), Some(place(Some("h:6379"), 3, Some("a"))));
        for entry in ["redis", "redis/h:6379", "redis/h:6379/dump.rdb", "etc/0", ""] {
            assert_eq!(Place::parse(entry), None, "{entry}");
        }
    }
}
