//! Sessions of a restore. What a database or a role sets for sessions (a search path, read only, another role, a
//! timeout) must not redirect or break what an administrator does; and names without a schema mean PostgreSQL's own, since a
//! user of a database can put a function or an operator of the same name before them (CVE-2018-1058).

use crate::connection::PgResult;
use crate::{Connection, Server};
use std::process::Command;

/// Settings of our sessions, and of pg_restore's before it sets its own; those that not every version knows are left to
/// pg_restore.
const SETTINGS: &[(&str, &str)] = &[
    ("role", "none"),
    ("client_encoding", "UTF8"),
    ("search_path", ""),
    ("default_transaction_read_only", "off"),
    ("statement_timeout", "0"),
    ("lock_timeout", "0"),
    ("idle_in_transaction_session_timeout", "0"),
    // With it off, NULL within an array is a word.
    ("array_nulls", "on"),
    ("transform_null_equals", "off"),
    ("standard_conforming_strings", "on"),
];

/// A session with a database.
pub(super) fn open(server: &Server, database: &str) -> PgResult<Connection> {
    let mut session = Connection::open(server, database)?;
    // Statements that call no function, before any that does.
    let settings = SETTINGS.iter().map(|(name, value)| format!("SET {name} = '{value}';"));
    session.query(&settings.collect::<String>())?;
    Ok(session)
}

/// A session with whatever database there is, but not with one of `avoided`, which may be dropped. Names of the cluster
/// are in no encoding of a database's: the two that every cluster has come first, which have the cluster's own.
pub(super) fn maintenance(server: &Server, avoided: &[&str]) -> PgResult<Connection> {
    let mut last = None;
    let usual = ["postgres", "template1"].into_iter().chain(server.database.as_deref());
    for name in usual.filter(|name| !avoided.contains(name)) {
        match open(server, name) {
            Ok(session) => return Ok(session),
            // It is not there, or not for us.
            Err(error) if matches!(error.code(), "3D000" | "28000" | "42501" | "55000") => last = Some(error),
            Err(error) => return Err(error),
        }
    }
    match last {
        Some(error) => Err(error),
        None => open(server, "template1"),
    }
}

/// Gives the same settings to a program, and `more`.
pub(super) fn set_for(command: &mut Command, more: &[(&str, &str)]) {
    let given = command.get_envs().find(|(name, _)| *name == "PGOPTIONS").and_then(|(_, value)| value);
    let mut options = given.and_then(|value| value.to_str()).unwrap_or_default().to_owned();
    for (name, value) in SETTINGS.iter().chain(more) {
        options += &format!(" -c {name}={value}");
    }
    command.env("PGOPTIONS", options.trim_start());
}
