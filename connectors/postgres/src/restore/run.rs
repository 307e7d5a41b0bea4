//! One restore, as the server shows it: its sessions bear a name of their own as long as it runs, and the databases that it
//! makes or puts aside bear a name and a comment with the same number. So the next restore can tell what an interrupted one
//! left from what a running one needs, and from what nobody here made.

use super::removal::{self, LOCK, drop_database};
use super::session::{self, maintenance};
use crate::connection::{PgError, PgResult};
use crate::sql::{literal, quoted_name};
use crate::{Connection, Server};
use std::hash::BuildHasher as _;

const BESIDE: &str = "esker_restore";
const ASIDE: &str = "esker_replaced";
/// What sessions are called that fill a database: this, and the restore's number.
const PART: &str = "esker restore part";
/// Hexadecimal digits of a restore's number.
const DIGITS: usize = 16;

/// What a database with a mark is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Not filled to its end.
    Unfinished,
    /// The old one, which another has replaced.
    Replaced,
}

/// A restore.
pub(super) struct Run {
    id: String,
    /// When its snapshot was made.
    of: String,
}

impl Run {
    /// A new one, of a snapshot that was made at `time`.
    pub(super) fn new(time: jiff::Timestamp) -> Self {
        let random = std::hash::RandomState::new().hash_one(std::process::id());
        Self { id: format!("{random:0DIGITS$x}"), of: time.to_string() }
    }

    /// A session that is in none of the databases `avoided`, and shows that this restore runs.
    pub(super) fn session(&self, server: &Server, avoided: &[&str]) -> PgResult<Connection> {
        let mut session = maintenance(server, avoided)?;
        session.query(&format!("SET application_name = {}", literal(&application_name(&self.id))))?;
        Ok(session)
    }

    /// A session that holds locks. Where every database is restored, it is in one of them, and ended when that is replaced.
    pub(super) fn lock_session(&self, server: &Server, avoided: &[&str]) -> PgResult<Connection> {
        let mut session = maintenance(server, avoided)?;
        session.query(&format!("SET application_name = {}", literal(&format!("{LOCK} {}", self.id))))?;
        Ok(session)
    }

    /// What the sessions are called that fill a database, those of programs, too.
    pub(super) fn part_name(&self) -> String {
        format!("{PART} {}", self.id)
    }

    /// A session that fills a database.
    pub(super) fn part(&self, server: &Server, database: &str) -> PgResult<Connection> {
        let mut session = session::open(server, database)?;
        session.query(&format!("SET application_name = {}", literal(&self.part_name())))?;
        Ok(session)
    }

    /// Ends the other sessions of this restore but those that hold locks, and waits until they have ended.
    pub(super) fn end_others(&self, session: &mut Connection) -> PgResult<()> {
        let others = format!(
            "FROM pg_catalog.pg_stat_activity WHERE application_name IN ({}, {}) AND pid <> pg_catalog.pg_backend_pid()",
            literal(&application_name(&self.id)),
            literal(&self.part_name())
        );
        session.query(&format!("SELECT pg_catalog.pg_terminate_backend(pid) {others}"))?;
        for _ in 0..removal::TRIES {
            if session.value(&format!("SELECT count(*) {others}"))? == "0" {
                return Ok(());
            }
            std::thread::sleep(removal::PAUSE);
        }
        Err(PgError::Lost("a session of this restore does not end".into()))
    }

    /// Whether a database under its own name is one that this restore has made and not finished.
    pub(super) fn is_own(&self, name: &str, session: &mut Connection) -> PgResult<bool> {
        Ok(unfinished(name, session)?.is_some_and(|mark| mark.id == self.id))
    }

    /// The name of the new database `number`, until it is whole.
    pub(super) fn beside(&self, number: usize) -> String {
        format!("{BESIDE}_{}_{number}", self.id)
    }

    /// The name of the one that it replaces, until that is dropped.
    pub(super) fn aside(&self, number: usize) -> String {
        format!("{ASIDE}_{}_{number}", self.id)
    }

    /// The name of the role that restores.
    pub(super) fn role(&self) -> String {
        self.beside(0)
    }

    /// The comment on that role, which has the rights of `owner`.
    pub(super) fn mark_of_role(&self, owner: &str) -> String {
        self.mark(State::Unfinished, owner)
    }

    /// The comment on a database that is, or was, `target`.
    pub(super) fn mark(&self, state: State, target: &str) -> String {
        let what = match state {
            State::Unfinished => "unfinished",
            State::Replaced => "replaced",
        };
        format!("esker restore {} of {}: {what}, database {target}", self.id, self.of)
    }
}

fn application_name(id: &str) -> String {
    format!("esker restore {id}")
}

/// What a comment that is a mark says.
pub(super) struct Mark {
    id: String,
    /// When the snapshot was made.
    pub(super) of: String,
    pub(super) state: State,
    pub(super) target: String,
}

impl Mark {
    /// The mark that a comment is.
    pub(super) fn read(comment: &str) -> Option<Self> {
        let (id, rest) = comment.strip_prefix("esker restore ")?.split_once(" of ")?;
        let (of, rest) = rest.split_once(": ")?;
        let (what, target) = rest.split_once(", database ")?;
        let state = match what {
            "unfinished" => State::Unfinished,
            "replaced" => State::Replaced,
            _ => return None,
        };
        let is_number = id.len() == DIGITS && id.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_number.then(|| Self { id: id.into(), of: of.into(), state, target: target.into() })
    }

    /// What a database has, by its name, that a restore has made and not yet marked.
    fn of_unmarked(name: &str) -> Option<Self> {
        let (id, number) = name.strip_prefix(&format!("{BESIDE}_"))?.split_once('_')?;
        let is_id = id.len() == DIGITS && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let is_number = number.parse::<usize>().is_ok_and(|parsed| parsed.to_string() == number);
        let (of, target) = (String::new(), String::new());
        (is_id && is_number).then(|| Self { id: id.to_owned(), of, state: State::Unfinished, target })
    }

    /// Whether a database of this name bears this mark from a restore.
    fn is_of(&self, name: &str) -> bool {
        let prefix = match self.state {
            State::Unfinished => BESIDE,
            State::Replaced => ASIDE,
        };
        let number = name.strip_prefix(&format!("{prefix}_{}_", self.id));
        number.is_some_and(|number| number.parse::<usize>().is_ok())
    }
}

/// Whether the restore of a mark still runs.
pub(super) fn is_running(mark: &Mark, session: &mut Connection) -> PgResult<bool> {
    let sql = format!(
        "SELECT count(*) FROM pg_catalog.pg_stat_activity WHERE application_name = {}",
        literal(&application_name(&mark.id))
    );
    Ok(session.value(&sql)? != "0")
}

/// The mark of a database under its own name, whose restore did not come to its end.
pub(super) fn unfinished(name: &str, session: &mut Connection) -> PgResult<Option<Mark>> {
    let rows = session.query(&format!(
        "SELECT pg_catalog.shobj_description(d.oid, 'pg_database') FROM pg_catalog.pg_database d WHERE d.datname = {}",
        literal(name)
    ))?;
    let comment = rows.into_iter().flatten().flatten().next();
    let mark = comment.and_then(|comment| Mark::read(&comment));
    Ok(mark.filter(|mark| mark.state == State::Unfinished && mark.target == name))
}

/// A database that a restore left, or that looks so.
pub(super) struct Leftover {
    pub(super) name: String,
    /// The database whose restore left it, if its mark says so.
    pub(super) target: Option<String>,
    /// What its mark says it is; none if a restore was killed before it had marked it.
    mark: Option<State>,
    /// Why it is not removed.
    pub(super) kept: Option<String>,
}

/// Databases that bear the names of a restore's. Nothing is changed.
pub(super) fn leftovers(session: &mut Connection) -> PgResult<Vec<Leftover>> {
    let rows = session.query(&format!(
        "SELECT d.datname, coalesce(pg_catalog.shobj_description(d.oid, 'pg_database'), ''), \
         (SELECT count(*) FROM pg_catalog.pg_stat_activity a WHERE a.datid = d.oid), \
         d.datallowconn OR d.datistemplate \
         FROM pg_catalog.pg_database d WHERE d.datname LIKE '{BESIDE}\\_%' OR d.datname LIKE '{ASIDE}\\_%' ORDER BY 1"
    ))?;
    let mut all = vec![];
    for row in rows {
        let mut row = row.into_iter().map(Option::unwrap_or_default);
        let (Some(name), Some(comment), Some(sessions), Some(is_open)) =
            (row.next(), row.next(), row.next(), row.next())
        else {
            continue;
        };
        let unmarked = Mark::of_unmarked(&name).filter(|_| comment.is_empty() && is_open == "f");
        if let Some(mark) = unmarked {
            let kept = if is_running(&mark, session)? {
                Some("its restore is still running".to_owned())
            } else {
                (sessions != "0").then(|| format!("it has {sessions} sessions"))
            };
            all.push(Leftover { name, target: None, mark: None, kept });
            continue;
        }
        let Some(mark) = Mark::read(&comment).filter(|mark| mark.is_of(&name)) else {
            let kept = Some("it has no comment of a restore's".to_owned());
            all.push(Leftover { name, target: None, mark: None, kept });
            continue;
        };
        let successor =
            format!("SELECT count(*) FROM pg_catalog.pg_database WHERE datname = {}", literal(&mark.target));
        let is_needed = mark.state == State::Replaced && session.value(&successor)? == "0";
        let kept = if is_running(&mark, session)? {
            Some("its restore is still running".to_owned())
        } else if sessions != "0" {
            Some(format!("it has {sessions} sessions"))
        } else if is_needed {
            Some(format!("there is no database '{}' that has replaced it", mark.target))
        } else {
            None
        };
        all.push(Leftover { name, target: Some(mark.target), mark: Some(mark.state), kept });
    }
    Ok(all)
}

/// Drops the roles that restores have left and that have nothing any more, and says what became of each.
fn remove_roles(session: &mut Connection, notes: &mut Vec<String>) -> PgResult<()> {
    let rows = session.query(&format!(
        "SELECT r.rolname, coalesce(pg_catalog.shobj_description(r.oid, 'pg_authid'), '') \
         FROM pg_catalog.pg_roles r WHERE r.rolname LIKE '{BESIDE}\\_%' ORDER BY 1"
    ))?;
    for row in rows {
        let mut row = row.into_iter().map(Option::unwrap_or_default);
        let (Some(name), Some(comment)) = (row.next(), row.next()) else { continue };
        let Some(mark) = Mark::read(&comment).filter(|mark| mark.is_of(&name)) else { continue };
        if is_running(&mark, session)? {
            continue;
        }
        let quoted = quoted_name(&name);
        notes.push(match session.query(&format!("DROP ROLE {quoted}")) {
            Ok(_) => format!("dropped role '{name}', which an interrupted restore had left"),
            Err(error) => format!(
                "role '{name}', which an interrupted restore left, stays: {error}; in each database REASSIGN OWNED BY {quoted} TO {} and DROP OWNED BY {quoted}, then DROP ROLE {quoted}",
                quoted_name(&mark.target)
            ),
        });
    }
    Ok(())
}

/// Removes those that can be, and says what became of each.
pub(super) fn remove(
    leftovers: Vec<Leftover>,
    server: &Server,
    session: &mut Connection,
    notes: &mut Vec<String>,
) {
    for Leftover { name, target, mark, kept } in leftovers {
        let removed = match (&kept, mark) {
            (Some(why), _) => Err(why.clone()),
            (None, Some(State::Replaced)) => drop_database(&name, session).map_err(|error| error.to_string()),
            (None, Some(State::Unfinished)) => {
                removal::remove(&name, server, session).map_err(|error| error.to_string())
            }
            (None, None) => {
                removal::remove_unmarked(&name, server, session).map_err(|error| error.to_string())
            }
        };
        let whose = target.map(|target| format!(" of '{target}'")).unwrap_or_default();
        notes.push(match removed {
            Ok(()) => format!("dropped database '{name}', which an interrupted restore{whose} had left"),
            Err(why) => format!(
                "database '{name}' may be left over from a restore{whose}, and stays: {why}; if nobody needs \
                    it: DROP DATABASE {}",
                quoted_name(&name)
            ),
        });
    }
    // A role may have been left, too; a restore does not fail because of that.
    let _ = remove_roles(session, notes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_read_as_they_were_written() {
        let run = Run::new(jiff::Timestamp::UNIX_EPOCH);
        for target in ["shop", "a: b, database c", "line\nbreak"] {
            for (state, name) in [(State::Unfinished, run.beside(3)), (State::Replaced, run.aside(3))] {
                let mark = Mark::read(&run.mark(state, target)).unwrap();
                assert_eq!((mark.state, mark.target.as_str()), (state, target));
                assert!(mark.is_of(&name) && !mark.is_of(&format!("{name}x")));
                assert!(!mark.is_of(&Run::new(jiff::Timestamp::UNIX_EPOCH).beside(3)));
            }
        }
        for other in ["", "esker restore", "esker restore 12 of x: unfinished, database y"] {
            assert!(Mark::read(other).is_none(), "{other}");
        }
    }
}
