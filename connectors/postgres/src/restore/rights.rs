//! What a role that is no superuser may not restore: objects that it cannot give to their owners, and such as only superusers
//! make. Found before anything is touched.
//! Source: PostgreSQL's documentation of the commands that make these objects, and of `ALTER … OWNER TO`.

use super::globals::Globals;
use super::plan::{Plan, Way};
use super::{PgError, Work};
use crate::Connection;
use crate::connection::PgResult;
use crate::sql::{literal, tokens};
use crate::toc::TocEntry;
use engine::{Error, Result};
use std::collections::BTreeSet;

/// Kinds that only superusers make.
const KINDS: &[&str] = &[
    "ACCESS METHOD",
    "EVENT TRIGGER",
    "FOREIGN DATA WRAPPER",
    "OPERATOR CLASS",
    "OPERATOR FAMILY",
    "PROCEDURAL LANGUAGE",
    "PUBLICATION TABLES IN SCHEMA",
    "TEXT SEARCH PARSER",
    "TEXT SEARCH TEMPLATE",
];
/// Since this version a role can be allowed to make subscriptions, and membership is not all that SET ROLE takes.
const NEWER_RIGHTS: u32 = 16;
/// As many are named.
const NAMED: usize = 10;

impl Work<'_> {
    pub(super) fn check_rights(
        &self,
        plans: &[Plan],
        globals: &Globals,
        session: &mut Connection,
    ) -> Result<()> {
        let failed = |error: PgError| self.failed(&error);
        let role = session.value("SELECT session_user").map_err(failed)?;
        let sql = "SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = session_user";
        let is_super = session.value(sql).map_err(failed)? == "t";
        if is_super && !self.options.as_owner {
            return Ok(());
        }
        let refused = |why: String| Err(Error::Refused(format!("{}: {why}", self.server.shown)));
        if !self.options.no_owner && !is_super {
            let mut owners = owners(plans);
            owners.retain(|owner| *owner != role && globals.roles().all(|made| made != owner));
            let lacking = foreign(&owners, session).map_err(failed)?;
            if !lacking.is_empty() {
                return refused(format!(
                    "role '{role}' is no superuser and cannot give what is in the dump to its owners: {}; make it a member of them (GRANT … TO …), or leave owners and privileges out by --no-owner; nothing was changed",
                    lacking.join(", ")
                ));
            }
        }
        let extensions = untrusted(session).map_err(failed)?;
        let makes_subscriptions = !is_super
            && session.major() >= NEWER_RIGHTS
            && session
                .value("SELECT pg_catalog.pg_has_role('pg_create_subscription', 'USAGE')")
                .map_err(failed)?
                == "t";
        let is_forbidden = |entry: &&TocEntry| match entry.kind.as_str() {
            "EXTENSION" => extensions.contains(&entry.tag),
            "SUBSCRIPTION" => !makes_subscriptions,
            _ => needs_superuser(entry),
        };
        let all: Vec<String> = plans
            .iter()
            .flat_map(Plan::entries)
            .filter(is_forbidden)
            .map(|entry| format!("{} {}", entry.kind, entry.tag))
            .collect();
        if all.is_empty() {
            return Ok(());
        }
        let more = all.len().saturating_sub(NAMED);
        let and_more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let who = match is_super {
            true => "the dump's owner".to_owned(),
            false => format!("role '{role}'"),
        };
        refused(format!(
            "{who} is no superuser, and only superusers make what is in the dump: {}{and_more}; nothing was changed",
            all.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ")
        ))
    }
}

/// Roles to which something is given.
pub(super) fn owners(plans: &[Plan]) -> BTreeSet<String> {
    // These have an owner in the dump that is not given to anybody.
    const NONE: &[&str] =
        &["ACL", "COMMENT", "SECURITY LABEL", "DATABASE", "DATABASE PROPERTIES", "EXTENSION"];
    let mut owners = BTreeSet::new();
    for plan in plans {
        let entries = plan.entries().filter(|entry| !NONE.contains(&entry.kind.as_str()));
        owners.extend(entries.map(|entry| entry.owner.clone()));
        if plan.way != Way::Into {
            owners.insert(plan.definition.owner().to_owned());
        }
    }
    // Whoever owns the database has this one's rights.
    owners.retain(|owner| {
        !owner.is_empty() && owner != "pg_database_owner" && !owner.contains(char::REPLACEMENT_CHARACTER)
    });
    owners
}

/// Those of `roles` whom the session's role cannot give anything to, or not act for afterwards.
fn foreign(roles: &BTreeSet<String>, session: &mut Connection) -> PgResult<Vec<String>> {
    let gives = if session.major() >= NEWER_RIGHTS { "SET" } else { "MEMBER" };
    let mut all = vec![];
    for role in roles {
        let sql = format!(
            "SELECT pg_catalog.pg_has_role(oid, '{gives}') AND pg_catalog.pg_has_role(oid, 'USAGE') \
             FROM pg_catalog.pg_roles WHERE rolname = {}",
            literal(role)
        );
        let row = session.query(&sql)?.into_iter().flatten().flatten().next();
        if row.as_deref() == Some("f") {
            all.push(role.clone());
        }
    }
    Ok(all)
}

/// Extensions that only superusers make.
fn untrusted(session: &mut Connection) -> PgResult<BTreeSet<String>> {
    let rows = session.query(
        "SELECT e.name FROM pg_catalog.pg_available_extensions e JOIN pg_catalog.pg_available_extension_versions v \
         ON v.name = e.name AND v.version = e.default_version \
         WHERE v.superuser AND NOT coalesce((pg_catalog.to_jsonb(v) ->> 'trusted')::pg_catalog.bool, false)",
    )?;
    Ok(rows.into_iter().flatten().flatten().collect())
}

/// Whether only a superuser makes what an entry makes, by what stands in it.
fn needs_superuser(entry: &TocEntry) -> bool {
    if KINDS.contains(&entry.kind.as_str()) {
        return true;
    }
    let is_looked_at = ["FUNCTION", "PROCEDURE", "TYPE", "CAST", "PUBLICATION", "ACL"];
    if !is_looked_at.contains(&entry.kind.as_str()) {
        return false;
    }
    let all = tokens(&entry.definition);
    let pair = |first: &str, second: &str| {
        all.windows(2).any(|pair| matches!(pair, [a, b] if a.is(first) && b.is(second)))
    };
    match entry.kind.as_str() {
        "FUNCTION" | "PROCEDURE" => {
            pair("LANGUAGE", "c")
                || pair("LANGUAGE", "internal")
                || all.windows(2).any(|pair| matches!(pair, [a, b] if a.is("LEAKPROOF") && !b.is_char('(')))
        }
        // Types in C.
        "TYPE" => all.windows(2).any(|pair| matches!(pair, [a, b] if a.is("INPUT") && b.is_char('='))),
        "CAST" => pair("WITHOUT", "FUNCTION"),
        "PUBLICATION" => pair("ALL", "TABLES"),
        // Privileges that others gave.
        _ => pair("SESSION", "AUTHORIZATION"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_superusers_make() {
        for (kind, definition, wanted) in [
            ("FUNCTION", "CREATE FUNCTION public.f() RETURNS integer LANGUAGE c AS 'x', 'f'", true),
            ("FUNCTION", "CREATE FUNCTION public.f() RETURNS integer LANGUAGE sql AS 'LANGUAGE c'", false),
            ("FUNCTION", "CREATE FUNCTION public.f() RETURNS integer LANGUAGE sql LEAKPROOF AS 'x'", true),
            ("TYPE", "CREATE TYPE public.t (\n INPUT = public.i,\n OUTPUT = public.o\n)", true),
            ("TYPE", "CREATE TYPE public.t AS (\n input integer\n)", false),
            ("CAST", "CREATE CAST (integer AS public.t) WITHOUT FUNCTION", true),
            ("PUBLICATION", "CREATE PUBLICATION p FOR ALL TABLES WITH (publish = 'insert')", true),
            ("EVENT TRIGGER", "", true),
            ("TABLE", "CREATE TABLE public.t (a integer)", false),
        ] {
            let mut entry = TocEntry::named(1, b"public", b"x");
            (entry.kind, entry.definition) = (kind.into(), definition.into());
            assert_eq!(needs_superuser(&entry), wanted, "{kind} {definition}");
        }
    }
}
