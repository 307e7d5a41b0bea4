//! One restore at a time into a database: an advisory lock, which a session of its own holds from before anything is looked at until
//! everything is done. The server gives it up when that session ends, whatever ends it.
//! Source: PostgreSQL's documentation, "Advisory Locks", "pg_locks".

use super::run::Run;
use crate::connection::PgResult;
use crate::{Connection, Server};
use engine::shown;
use std::time::Duration;

/// How often, and how long apart, a lock is tried: the session of a restore that has just ended may take a moment.
const TRIES: usize = 10;
const PAUSE: Duration = Duration::from_millis(100);

/// The session that holds the locks of a restore.
pub(super) struct Lock {
    _session: Connection,
}

/// Takes the lock of each of `targets`; else says who has one.
pub(super) fn take(run: &Run, server: &Server, targets: &[&str]) -> PgResult<Result<Lock, String>> {
    let mut session = run.lock_session(server, targets)?;
    // Older servers have no such setting, and end no session for that.
    let _ = session.query("SET idle_session_timeout = 0");
    for target in targets {
        if let Some(holder) = try_one(&mut session, key(target))? {
            return Ok(Err(format!(
                "another restore into database '{}' is at work ({holder}); nothing was touched: restore again when it has ended",
                shown::line(target)
            )));
        }
    }
    Ok(Ok(Lock { _session: session }))
}

/// The number of a database's lock.
fn key(target: &str) -> i64 {
    let hash = blake3::hash(format!("esker restore {target}").as_bytes());
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&hash.as_bytes()[..8]);
    i64::from_le_bytes(bytes)
}

/// Takes it; or says who has it. Advisory locks belong to a database, and not all restores can be connected to the same one, so
/// holders in all databases count. Of two that take it at one moment in two databases, both may be refused.
fn try_one(session: &mut Connection, key: i64) -> PgResult<Option<String>> {
    let (mut is_taken, mut other) = (false, None);
    for at in 0..TRIES {
        if at > 0 {
            std::thread::sleep(PAUSE);
        }
        is_taken =
            is_taken || session.value(&format!("SELECT pg_catalog.pg_try_advisory_lock({key})"))? == "t";
        other = holder(session, key)?;
        if is_taken && other.is_none() {
            return Ok(None);
        }
    }
    Ok(Some(other.unwrap_or_else(|| "a session that has just ended".into())))
}

/// Another session that holds it, in any database.
fn holder(session: &mut Connection, key: i64) -> PgResult<Option<String>> {
    let rows = session.query(&format!(
        "SELECT l.pid, a.usename FROM pg_catalog.pg_locks l LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid \
         WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 AND l.pid <> pg_catalog.pg_backend_pid() \
         AND ((l.classid::bigint << 32) | l.objid::bigint) = {key}"
    ))?;
    Ok(rows.into_iter().next().map(|row| {
        let mut row = row.into_iter().map(Option::unwrap_or_default);
        let (pid, user) = (row.next().unwrap_or_default(), row.next().unwrap_or_default());
        format!("session {pid} of '{}'", shown::line(&user))
    }))
}
