//! What a snapshot has of a MariaDB or MySQL server: dumps of databases, accounts, the binary log after them.

use crate::contents::LAYOUT;
use crate::dump::Index;
use engine::connector::Origin;
use engine::manifest::Listed;
use engine::{Result, names};
use std::collections::BTreeMap;

/// A database that is to come back.
pub(super) struct Goal {
    pub(super) name: String,
    /// The name that it gets.
    pub(super) target: String,
    /// Where its dump is in the snapshot.
    pub(super) path: String,
    pub(super) index: Index,
}

/// What a snapshot has of a server.
#[derive(Default)]
pub(super) struct Stored {
    pub(super) databases: BTreeMap<String, String>,
    pub(super) accounts: Option<String>,
    pub(super) libraries: Option<String>,
    pub(super) logs: Vec<(String, String)>,
}

impl Stored {
    /// Of one server, below a path if that is not empty.
    ///
    /// # Errors
    /// That there are several servers, or what cannot be read.
    pub(super) fn of(from: Origin<'_>, below: &str) -> Result<Self> {
        let mut sort = |stored: &mut Self, parts: &[&str], listed: &Listed| {
            let path = String::from_utf8_lossy(&listed.entry.path).into_owned();
            match *parts {
                ["databases", file] => match file.strip_suffix(".sql").and_then(names::decoded) {
                    Some(name) => drop(stored.databases.insert(name, path)),
                    None => return false,
                },
                ["globals.sql"] => stored.accounts = Some(path),
                ["libraries.sql"] => stored.libraries = Some(path),
                ["binlog", name] => stored.logs.push((name.to_owned(), path)),
                _ => return false,
            }
            true
        };
        LAYOUT.of_one_server(from, below, "MariaDB or MySQL", &mut sort)
    }
}
