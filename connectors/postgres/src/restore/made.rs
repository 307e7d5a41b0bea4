//! Makes the databases of a restore, empty and closed, before anything that is there is touched: whether the server has
//! their encodings, locales and tablespaces, only it knows. One that replaces another is made and filled beside it; when it
//! is whole, both get their new names in one transaction, and only then the old one is dropped.

use super::database::close;
use super::removal::{PAUSE, drop_database, end_sessions, remove, wait_until_unused};
use super::run::{Run, State};
use super::session;
use super::spaces::Spaces;
use super::{Plan, Way};
use crate::connection::{PgError, PgResult};
use crate::sql::{literal, quoted_name};
use crate::{Connection, Server};
use chunkstore::threads;
use std::sync::atomic::{AtomicBool, Ordering};

/// A database that was made.
struct One {
    /// The name it has.
    name: String,
    /// The one it shall have.
    target: String,
    /// The one that is there gets this name.
    aside: String,
}

/// Databases that were made and are not finished.
pub(super) struct Made<'a> {
    run: &'a Run,
    server: &'a Server,
    all: Vec<One>,
}

impl<'a> Made<'a> {
    /// Makes those of `plans`. If one cannot be made, none is left but those whose names come with the error.
    pub(super) fn make(
        plans: &[Plan],
        run: &'a Run,
        server: &'a Server,
        spaces: &Spaces,
        session: &mut Connection,
    ) -> Result<Self, (PgError, Vec<String>)> {
        let mut made = Self { run, server, all: vec![] };
        for (number, plan) in plans.iter().enumerate() {
            if matches!(plan.way, Way::Into | Way::Exists) {
                continue;
            }
            // Until it bears a mark its name says that it is of a restore: between the two a kill leaves it closed and empty.
            let mut name = run.beside(number);
            let done = session.query(&plan.definition.create(&name, spaces)).and_then(|_| {
                let (target, aside) = (plan.target.clone(), run.aside(number));
                made.all.push(One { name: name.clone(), target, aside });
                comment(&name, &run.mark(State::Unfinished, &plan.target), session)?;
                if plan.way == Way::Made {
                    let [from, to] = [&name, &plan.target].map(|name| quoted_name(name));
                    session.query(&format!("ALTER DATABASE {from} RENAME TO {to}"))?;
                    name.clone_from(&plan.target);
                    if let Some(one) = made.all.last_mut() {
                        one.name.clone_from(&name);
                    }
                }
                if plan.definition.is_known() {
                    close(&name, session)?;
                }
                session.query(&format!("ALTER DATABASE {} ALLOW_CONNECTIONS true", quoted_name(&name)))
            });
            if let Err(error) = done {
                let left = match error {
                    PgError::Lost(_) => made.abandon(plan, number),
                    _ => made.unmake(session),
                };
                return Err((error, left));
            }
        }
        Ok(made)
    }

    /// The name under which a plan's database is filled.
    pub(super) fn name_of<'b>(&'b self, plan: &'b Plan) -> &'b str {
        self.all.iter().find(|one| one.target == plan.target).map_or(&plan.target, |one| &one.name)
    }

    /// Removes those that are not finished; returns the names of those that could not be removed.
    pub(super) fn unmake(&mut self, session: &mut Connection) -> Vec<String> {
        let mut left = vec![];
        for one in self.all.drain(..) {
            // If that fails, the reason for all of this is what has to be told.
            if remove(&one.name, self.server, session).is_err() {
                left.push(one.name);
            }
        }
        left
    }

    /// The same after the session was lost, perhaps with a statement under way that makes, marks or renames the database of
    /// `plan`: that is ended first, and it is looked what came of it.
    fn abandon(&mut self, plan: &Plan, number: usize) -> Vec<String> {
        let beside = self.run.beside(number);
        self.all.retain(|one| one.target != plan.target);
        let mut unsure = vec![beside.clone()];
        let Ok(mut again) = self.run.session(self.server, &[]) else {
            unsure.extend(self.leave());
            return unsure;
        };
        // Whatever cannot be asked is as if it were there.
        let ended = self.run.end_others(&mut again);
        let mut left = self.unmake(&mut again);
        if ended.is_err() || is_there(&beside, &mut again).unwrap_or(true) {
            let removed = remove(&beside, self.server, &mut again);
            left.extend(removed.is_err().then_some(beside));
        } else if plan.way == Way::Made
            && self.run.is_own(&plan.target, &mut again).unwrap_or(true)
            && remove(&plan.target, self.server, &mut again).is_err()
        {
            left.push(plan.target.clone());
        }
        left
    }

    /// The same without a session: it was lost.
    pub(super) fn leave(&mut self) -> Vec<String> {
        self.all.drain(..).map(|one| one.name).collect()
    }

    /// Gives a database that is whole what `statements` say, and its name; `session` is not in the one that has it. If
    /// that fails, nothing was changed. Returns how many sessions in the old one were ended, and the old one's name if it
    /// could not be dropped.
    pub(super) fn put(
        &mut self,
        plan: &Plan,
        statements: &[String],
        session: &mut Connection,
    ) -> PgResult<(u64, Option<String>)> {
        let found = self.all.iter().position(|one| one.target == plan.target);
        let Some(at) = found else { return transaction(statements, session).map(|()| (0, None)) };
        let one = &self.all[at];
        if one.name == one.target {
            transaction(statements, session)?;
            self.all.remove(at);
            return Ok((0, None));
        }
        let (new, old, aside) = (quoted_name(&one.name), quoted_name(&one.target), quoted_name(&one.aside));
        let mut all = statements.to_vec();
        all.push(format!("ALTER DATABASE {old} RENAME TO {aside}"));
        let mark = self.run.mark(State::Replaced, &one.target);
        all.push(format!("COMMENT ON DATABASE {aside} IS {}", literal(&mark)));
        all.push(format!("ALTER DATABASE {new} RENAME TO {old}"));
        // What filled it has ended, but its session may take a moment.
        wait_until_unused(&one.name, "", session)?;
        let done = while_ending_sessions(&one.target, self.server, || transaction(&all, session));
        let ended = match done {
            // Whether it had heard the last word, the server says: both names change, or none.
            Err(PgError::Lost(why)) => {
                let mut again = self.run.session(self.server, &[&one.target])?;
                if is_there(&one.name, &mut again)? {
                    return Err(PgError::Lost(why));
                }
                *session = again;
                0
            }
            done => done?,
        };
        let one = self.all.remove(at);
        let left = drop_database(&one.aside, session).is_err().then_some(one.aside);
        Ok((ended, left))
    }
}

fn is_there(name: &str, session: &mut Connection) -> PgResult<bool> {
    let sql = format!("SELECT 1 FROM pg_catalog.pg_database WHERE datname = {}", literal(name));
    Ok(!session.query(&sql)?.is_empty())
}

fn comment(name: &str, text: &str, session: &mut Connection) -> PgResult<()> {
    session.query(&format!("COMMENT ON DATABASE {} IS {}", quoted_name(name), literal(text))).map(drop)
}

/// Runs statements, all of them or none.
fn transaction(statements: &[String], session: &mut Connection) -> PgResult<()> {
    session.query("BEGIN")?;
    for statement in statements {
        if let Err(error) = session.query(statement) {
            let _ = session.query("ROLLBACK");
            return Err(error);
        }
    }
    session.query("COMMIT").map(drop)
}

/// Does what needs a database without sessions. It holds a lock that keeps new ones out; those that are there are ended.
/// Returns how many that were.
fn while_ending_sessions(name: &str, server: &Server, work: impl FnOnce() -> PgResult<()>) -> PgResult<u64> {
    let mut other = session::maintenance(server, &[name])?;
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let ends = threads::start_in(scope, "esker-ends", || {
            let mut ended = 0;
            while !is_done.load(Ordering::Relaxed) {
                ended += end_sessions(name, &mut other).unwrap_or_default();
                std::thread::sleep(PAUSE);
            }
            ended
        })?;
        let done = work();
        is_done.store(true, Ordering::Relaxed);
        let ended = ends.join().unwrap_or_default();
        done.map(|()| ended)
    })
}
