//! Makes the databases of a restore, empty and closed, before anything that is there is touched: whether the server has
//! their encodings, locales and tablespaces, only it knows. One that replaces another is made beside it, and takes
//! its name when the other is dropped.

use super::database::close;
use super::session::maintenance;
use super::spaces::Spaces;
use super::{Plan, Way};
use crate::pg::connection::{PgError, PgResult};
use crate::pg::sql::{literal, quoted_name};
use crate::pg::{Connection, Server};
use std::hash::BuildHasher as _;
use std::time::Duration;

/// How often, and how long apart, it is looked whether the last session in a database has ended.
const TRIES: usize = 30;
const PAUSE: Duration = Duration::from_millis(100);

/// Databases that were made: the name of each, and the one it shall have.
pub(super) struct Made {
    all: Vec<(String, String)>,
}

/// A name that no database has.
fn name_beside(number: usize) -> String {
    let random = std::hash::RandomState::new().hash_one(number);
    format!("esker_restore_{random:016x}")
}

impl Made {
    /// Makes those of `plans`; if one cannot be made, none is left.
    pub(super) fn make(
        plans: &[Plan],
        spaces: &Spaces,
        no_owner: bool,
        session: &mut Connection,
    ) -> PgResult<Self> {
        let mut made = Self { all: vec![] };
        for (number, plan) in plans.iter().enumerate() {
            let name = match plan.way {
                Way::Into | Way::Exists => continue,
                Way::Made => plan.target.clone(),
                Way::Replaced => name_beside(number),
            };
            let done = session.query(&plan.definition.create(&name, spaces)).and_then(|_| {
                made.all.push((name.clone(), plan.target.clone()));
                if plan.definition.is_known() && !no_owner {
                    close(&name, session)?;
                }
                session.query(&format!("ALTER DATABASE {} ALLOW_CONNECTIONS true", quoted_name(&name)))
            });
            if let Err(error) = done {
                made.unmake(session);
                return Err(error);
            }
        }
        Ok(made)
    }

    fn unmake(&mut self, session: &mut Connection) {
        for (name, _) in self.all.drain(..) {
            // If that fails, the reason for all of this is what has to be told.
            let _ = session.query(&format!("DROP DATABASE {}", quoted_name(&name)));
        }
    }

    /// Drops what they replace, and gives them their names. If one cannot be dropped, it is as it was, and none is left
    /// that was made.
    pub(super) fn put(mut self, server: &Server) -> PgResult<()> {
        let replaced: Vec<(String, String)> =
            self.all.iter().filter(|(name, target)| name != target).cloned().collect();
        for (_, target) in &replaced {
            let mut session = maintenance(server, &[target])?;
            if let Err(error) = wait_until_unused(target, &mut session) {
                self.unmake(&mut session);
                return Err(error);
            }
        }
        for (name, target) in replaced {
            // The one that everybody connects to cannot be dropped from itself.
            let mut session = maintenance(server, &[&target])?;
            if let Err(error) = replace(&name, &target, &mut session) {
                self.unmake(&mut session);
                return Err(error);
            }
            self.all.retain(|(made, _)| *made != name);
        }
        Ok(())
    }
}

/// That nobody is in a database: asked for all of them before the first is dropped. Our own sessions may take a moment to end.
fn wait_until_unused(target: &str, session: &mut Connection) -> PgResult<()> {
    let sql = format!(
        "SELECT count(*) FROM pg_catalog.pg_stat_activity WHERE datname = {} \
         AND backend_type IN ('client backend', 'walsender')",
        literal(target)
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
        format!("database '{target}' is being accessed by other users ({count} sessions); end them first");
    Err(PgError::Refused { code: "55006".into(), message })
}

fn replace(name: &str, target: &str, session: &mut Connection) -> PgResult<()> {
    let quoted = quoted_name(target);
    let is_template = session.value(&format!(
        "SELECT datistemplate FROM pg_catalog.pg_database WHERE datname = {}",
        literal(target)
    ))? == "t";
    if is_template {
        session.query(&format!("ALTER DATABASE {quoted} IS_TEMPLATE false"))?;
    }
    if let Err(error) = session.query(&format!("DROP DATABASE {quoted}")) {
        let _ = session.query(&format!("ALTER DATABASE {quoted} IS_TEMPLATE {is_template}"));
        return Err(error);
    }
    session.query(&format!("ALTER DATABASE {} RENAME TO {quoted}", quoted_name(name))).map(drop)
}
