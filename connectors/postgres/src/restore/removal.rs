//! Databases are removed: those in which nobody is, those of restores that were cut off.

use super::session;
use super::there::user_objects;
use crate::connection::{PgError, PgResult};
use crate::sql::{literal, quoted_name};
use crate::{Connection, Server};
use std::time::Duration;

/// What sessions are called that hold locks: this, and the restore's number.
pub(super) const LOCK: &str = "esker restore lock";
/// How often, and how long apart, it is looked whether the last session in a database has ended.
pub(super) const TRIES: usize = 50;
pub(super) const PAUSE: Duration = Duration::from_millis(100);

/// Ends the sessions in a database that we may end; returns how many that were besides those of restores.
pub(super) fn end_sessions(name: &str, session: &mut Connection) -> PgResult<u64> {
    let rows = session.query(&format!(
        "SELECT pid, coalesce(application_name, '') LIKE 'esker restore %' FROM pg_catalog.pg_stat_activity WHERE datname = {} AND pid <> pg_catalog.pg_backend_pid() \
         AND backend_type NOT LIKE 'autovacuum%'",
        literal(name)
    ))?;
    let mut ended = 0;
    for row in rows {
        let mut row = row.into_iter().map(Option::unwrap_or_default);
        let (pid, is_ours) =
            (row.next().unwrap_or_default(), row.next().is_some_and(|is_ours| is_ours == "t"));
        // One that is not ours to end is what the next statement fails on.
        let sql = format!("SELECT pg_catalog.pg_terminate_backend({pid})");
        ended += u64::from(session.value(&sql).is_ok_and(|done| done == "t") && !is_ours);
    }
    Ok(ended)
}

/// That nobody is in a database but the session `besides`, and those that hold locks of restores, which may be ended.
/// Our own sessions may take a moment to end.
pub(super) fn wait_until_unused(name: &str, besides: &str, session: &mut Connection) -> PgResult<()> {
    let sql = format!(
        "SELECT count(*) FROM pg_catalog.pg_stat_activity WHERE datname = {} \
         AND backend_type IN ('client backend', 'walsender') AND pid::text <> {} \
         AND coalesce(application_name, '') NOT LIKE {}",
        literal(name),
        literal(besides),
        literal(&format!("{LOCK} %"))
    );
    let mut count = String::new();
    for _ in 0..TRIES {
        count = session.value(&sql)?;
        if count == "0" {
            return Ok(());
        }
        std::thread::sleep(PAUSE);
    }
    let message =
        format!("database '{name}' is being accessed by other users (sessions: {count}); end them first");
    Err(PgError::Refused { code: "55006".into(), message })
}

/// Drops one in which nobody is.
pub(super) fn drop_database(name: &str, session: &mut Connection) -> PgResult<()> {
    let quoted = quoted_name(name);
    let is_template = session.query(&format!(
        "SELECT 1 FROM pg_catalog.pg_database WHERE datistemplate AND datname = {}",
        literal(name)
    ))?;
    if !is_template.is_empty() {
        session.query(&format!("ALTER DATABASE {quoted} IS_TEMPLATE false"))?;
    }
    session.query(&format!("DROP DATABASE {quoted}")).map(drop)
}

/// Removes a database that a restore made and had not marked yet: it is closed, and nothing is in it. One that is not empty stays
/// as it is.
pub(super) fn remove_unmarked(name: &str, server: &Server, session: &mut Connection) -> PgResult<()> {
    let allow = |is_open: bool| format!("ALTER DATABASE {} ALLOW_CONNECTIONS {is_open}", quoted_name(name));
    session.query(&allow(true))?;
    let count = session::open(server, name).and_then(|mut own| user_objects(&mut own));
    let removed = match count {
        Ok(0) => wait_until_unused(name, "", session).and_then(|()| drop_database(name, session)),
        Ok(count) => {
            let message =
                format!("it has no comment of a restore's, and {}", engine::shown::counted(count, "object"));
            Err(PgError::Refused { code: String::new(), message })
        }
        Err(error) => Err(error),
    };
    if removed.is_err() {
        // Why it stays is what has to be told.
        let _ = session.query(&allow(false));
    }
    removed
}

/// Removes a database that a restore made, and which is not whole: its sessions are what fills it, and its subscriptions
/// have never been connected.
pub(super) fn remove(name: &str, server: &Server, session: &mut Connection) -> PgResult<()> {
    end_sessions(name, session)?;
    wait_until_unused(name, "", session)?;
    let subscriptions = session.query(&format!(
        "SELECT s.subname FROM pg_catalog.pg_subscription s JOIN pg_catalog.pg_database d ON d.oid = s.subdbid \
         WHERE d.datname = {}",
        literal(name)
    ))?;
    let subscriptions: Vec<String> = subscriptions.into_iter().flatten().flatten().collect();
    if !subscriptions.is_empty() {
        let mut own = session::open(server, name)?;
        for subscription in &subscriptions {
            let quoted = quoted_name(subscription);
            own.query(&format!("ALTER SUBSCRIPTION {quoted} DISABLE"))?;
            own.query(&format!("ALTER SUBSCRIPTION {quoted} SET (slot_name = NONE)"))?;
            own.query(&format!("DROP SUBSCRIPTION {quoted}"))?;
        }
        drop(own);
        wait_until_unused(name, "", session)?;
    }
    drop_database(name, session)
}
