//! A role that restores in the place of a superuser. What a database's users have written (functions of constraints, domains
//! and generated columns) runs with the rights of whoever restores; this role has the rights of the dump's owner and no
//! others, logs in by itself, so that nothing can lead back to the superuser, and is dropped when the restore ends.
//!
//! All must belong to one role: whoever's code runs here acts as the owner, which it may do only if it is the owner's. What it
//! makes for itself meanwhile goes to the owner, never to the superuser.

use super::plan::{Plan, Way};
use super::rights::owners;
use super::run::Run;
use super::{PgError, Work, session};
use crate::connection::PgResult;
use crate::sql::{literal, quoted_name};
use crate::{Connection, Server};
use engine::{Error, Result};
use std::io::Read as _;

/// Bytes of a password.
const PASSWORD: usize = 24;

/// The role.
pub(super) struct StandIn {
    name: String,
    owner: String,
    /// The server, as this role enters it.
    pub(super) server: Server,
}

impl Work<'_> {
    /// The owner in whose place one can restore what is in `plans`; nothing is changed.
    pub(super) fn sole_owner(&self, plans: &[Plan], session: &mut Connection) -> Result<String> {
        let failed = |error: PgError| self.failed(&error);
        if self.options.no_owner {
            return Err(Error::Invalid(
                "--as-owner gives everything to its owner, and --no-owner nothing".into(),
            ));
        }
        let [plan] = plans else {
            return Err(Error::Invalid("--as-owner is for one database; choose it by --database".into()));
        };
        if plan.toc.is_none() {
            return Err(Error::Invalid(
                "--as-owner is for the formats directory and custom: a dump in plain SQL does not tell whose it is"
                    .into(),
            ));
        }
        let is_super = "SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = session_user";
        if session.value(is_super).map_err(failed)? != "t" {
            return Err(
                self.refused("--as-owner is for superusers; others restore with their own rights".into())
            );
        }
        let owners: Vec<String> = owners(plans).into_iter().collect();
        let owner = match owners.as_slice() {
            [owner] => owner,
            [] => return Err(self.refused("nothing in the dump has an owner".into())),
            several => {
                return Err(self.refused(format!(
                    "--as-owner takes a dump of one owner's; this one has several: {}; code of each would run with the rights of all",
                    several.join(", ")
                )));
            }
        };
        let leads_up = format!(
            "SELECT count(*) FROM pg_catalog.pg_roles r WHERE r.rolsuper AND pg_catalog.pg_has_role({}, r.oid, 'MEMBER')",
            literal(owner)
        );
        if session.value(&leads_up).map_err(failed)? != "0" {
            return Err(self.refused(format!(
                "the dump's owner '{owner}' is a superuser, or can become one: --as-owner would take no rights away"
            )));
        }
        Ok(owner.clone())
    }

    /// Makes the role, for `owner`.
    pub(super) fn stand_in(&self, owner: String, run: &Run, session: &mut Connection) -> Result<StandIn> {
        let mut random = [0; PASSWORD];
        let source = "/dev/urandom";
        std::fs::File::open(source)
            .and_then(|mut file| file.read_exact(&mut random))
            .map_err(|error| Error::Target { op: "read", path: source.into(), source: error })?;
        let password: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        // The server does not learn it, and cannot write it to its log.
        let verifier = postgres_protocol::password::scram_sha_256(password.as_bytes());
        let name = run.role();
        let (quoted, mark) = (quoted_name(&name), literal(&run.mark_of_role(&owner)));
        let statements = [
            "BEGIN".to_owned(),
            format!(
                "CREATE ROLE {quoted} LOGIN INHERIT NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS PASSWORD {}",
                literal(&verifier)
            ),
            format!("COMMENT ON ROLE {quoted} IS {mark}"),
            format!("GRANT {} TO {quoted}", quoted_name(&owner)),
            "COMMIT".to_owned(),
        ];
        for statement in &statements {
            session.query(statement).map_err(|error| self.untouched(&error))?;
        }
        Ok(StandIn { server: self.server.entered_by(&name, password), name, owner })
    }

    /// Drops the role; what it had in the database of `plan` is the owner's.
    pub(super) fn dismiss(&self, stand_in: &StandIn, plan: &Plan, run: &Run) {
        let StandIn { name, owner, .. } = stand_in;
        let quoted = quoted_name(name);
        let dropped = run.session(self.server, &[]).and_then(|mut session| {
            end_sessions_of(name, &mut session)?;
            let there =
                format!("SELECT 1 FROM pg_catalog.pg_database WHERE datname = {}", literal(&plan.target));
            if !session.query(&there)?.is_empty() {
                let mut own = session::open(self.server, &plan.target)?;
                own.query(&format!("REASSIGN OWNED BY {quoted} TO {}", quoted_name(owner)))?;
                own.query(&format!("DROP OWNED BY {quoted}"))?;
            }
            session.query(&format!("DROP ROLE {quoted}"))
        });
        if let Err(error) = dropped {
            let message = format!(
                "was made for this restore and could not be dropped ({error}); REASSIGN OWNED BY {quoted} TO {}, DROP OWNED BY {quoted} and DROP ROLE {quoted} do",
                quoted_name(owner)
            );
            self.tell(format!("role '{name}'"), &message);
        }
    }
}

impl StandIn {
    /// That the role can enter a database, which is handed over to its owner before: all but the owner and superusers are
    /// kept out.
    pub(super) fn enter(&self, plan: &Plan, name: &str, session: &mut Connection) -> PgResult<()> {
        if plan.way != Way::Into {
            let (database, owner) = (quoted_name(name), quoted_name(&self.owner));
            session.query(&format!("ALTER DATABASE {database} OWNER TO {owner}"))?;
        }
        session::open(&self.server, name).map(drop)
    }
}

fn end_sessions_of(role: &str, session: &mut Connection) -> PgResult<()> {
    let sql = format!(
        "SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity WHERE usename = {}",
        literal(role)
    );
    session.query(&sql).map(drop)
}
