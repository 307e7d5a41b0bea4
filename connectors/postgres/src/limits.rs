//! What a server has left for a backup: sessions and locks. It is looked at before they are taken, so that the
//! application that the server is for does not find them gone.
//! Source: PostgreSQL's documentation, "Connections and Authentication", `max_locks_per_transaction`.

use crate::Connection;
use crate::connection::{PgError, PgResult};
use std::time::{Duration, Instant};

/// How long the sessions that we ended may count as ours still.
const LINGER: Duration = Duration::from_secs(10);
/// The same of pg_dump's, where there is room without it.
pub(crate) const BRIEFLY: Duration = Duration::from_millis(500);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(50);
/// Too many sessions, by whichever limit.
pub(crate) const TOO_MANY: &str = "53300";
/// More locks than the formula gives fit into memory that the server keeps for whatever comes.
const MORE_LOCKS: u64 = 1000;

/// How many sessions can be opened, and which limit says so.
#[derive(Clone, Debug)]
pub(crate) struct Room {
    pub(crate) free: u64,
    limit: String,
}

impl Room {
    /// What the server has for sessions with the database of `session`.
    pub(crate) fn of(session: &mut Connection) -> PgResult<Self> {
        // What is counted is kept for a transaction, unless it is cleared.
        session.query("SELECT pg_catalog.pg_stat_clear_snapshot()")?;
        let rows = session.query(
            "SELECT current_setting('max_connections')::int8 - CASE WHEN r.rolsuper THEN 0 ELSE \
             current_setting('superuser_reserved_connections')::int8 \
             + coalesce(current_setting('reserved_connections', true)::int8, 0) END \
             - (SELECT coalesce(sum(s.numbackends), 0) FROM pg_catalog.pg_stat_database s), \
             CASE WHEN r.rolsuper OR r.rolconnlimit < 0 THEN NULL ELSE r.rolconnlimit - (SELECT count(*) \
             FROM pg_catalog.pg_stat_activity a WHERE a.usesysid = r.oid AND a.datid IS NOT NULL) END, \
             CASE WHEN r.rolsuper OR d.datconnlimit < 0 THEN NULL ELSE d.datconnlimit - (SELECT s.numbackends \
             FROM pg_catalog.pg_stat_database s WHERE s.datid = d.oid) END, r.rolname, d.datname \
             FROM pg_catalog.pg_roles r, pg_catalog.pg_database d \
             WHERE r.rolname = session_user AND d.datname = current_database()",
        )?;
        let row = rows.into_iter().next().unwrap_or_default();
        let text = |at: usize| row.get(at).and_then(Option::as_deref);
        let number = |at: usize| text(at).and_then(|text| text.parse::<i64>().ok());
        let limits = [
            (number(0), "max_connections".to_owned()),
            (number(1), format!("the CONNECTION LIMIT of role '{}'", text(3).unwrap_or_default())),
            (number(2), format!("the CONNECTION LIMIT of database '{}'", text(4).unwrap_or_default())),
        ];
        let least =
            limits.into_iter().filter_map(|(free, limit)| Some((free?, limit))).min_by_key(|(free, _)| *free);
        // A server that does not say lets us try.
        let (free, limit) = least.unwrap_or((i64::MAX, String::new()));
        Ok(Self { free: u64::try_from(free).unwrap_or(0), limit })
    }

    /// Waits until `wanted` sessions can be opened, or as long as `patience`.
    pub(crate) fn wait(session: &mut Connection, wanted: u64, patience: Duration) -> PgResult<Self> {
        let begun = Instant::now();
        loop {
            let room = Self::of(session)?;
            if room.free >= wanted || begun.elapsed() >= patience {
                return Ok(room);
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// That there is room for one.
    pub(crate) fn for_one(session: &mut Connection, what: &str) -> PgResult<()> {
        let room = Self::wait(session, 1, LINGER)?;
        if room.free > 0 {
            return Ok(());
        }
        Err(PgError::Refused {
            code: TOO_MANY.into(),
            message: format!(
                "there is no connection left for {what}: a backup needs two at a time, and {} leaves one; raise it, or \
                 end other sessions",
                room.limit
            ),
        })
    }

    /// So many of `wanted` sessions as leave the application half of what is free, and one at least.
    pub(crate) fn share(&self, wanted: usize) -> usize {
        wanted.min(usize::try_from(self.free / 2).unwrap_or(usize::MAX)).max(1)
    }
}

/// How many locks all sessions can hold together: the setting, for each of the processes that there may be.
pub(crate) fn locks(session: &mut Connection) -> PgResult<u64> {
    let sql = "SELECT current_setting('max_locks_per_transaction')::int8 * sum(s.setting::int8) \
        FROM pg_catalog.pg_settings s WHERE s.name IN ('max_connections', 'max_prepared_transactions', \
        'autovacuum_max_workers', 'max_worker_processes', 'max_wal_senders')";
    Ok(session.value(sql)?.parse().unwrap_or(u64::MAX))
}

/// That a database's tables can be locked at all.
pub(crate) fn check_locks(session: &mut Connection, tables: usize) -> PgResult<()> {
    let all = locks(session)?;
    if tables as u64 <= all.saturating_add(MORE_LOCKS) {
        return Ok(());
    }
    let setting = session.value("SHOW max_locks_per_transaction")?;
    Err(PgError::Refused {
        code: "53200".into(),
        message: format!(
            "its {tables} tables must be locked together, and the server has room for {all} locks; raise \
             max_locks_per_transaction (now {setting}) and restart it"
        ),
    })
}

/// A session with a database, which may have to wait until one that we ended is gone.
pub(crate) fn open(server: &crate::Server, database: &[u8]) -> PgResult<Connection> {
    let begun = Instant::now();
    loop {
        match Connection::open(server, database) {
            Err(error) if error.code() == TOO_MANY && begun.elapsed() < LINGER => std::thread::sleep(PAUSE),
            Err(PgError::Refused { code, message }) if code == TOO_MANY => {
                let message = format!(
                    "{message}; a backup needs two connections at a time: raise max_connections or the CONNECTION \
                     LIMIT of the role or database, or end other sessions"
                );
                return Err(PgError::Refused { code, message });
            }
            other => return other,
        }
    }
}
