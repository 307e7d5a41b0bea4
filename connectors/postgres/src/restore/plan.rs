//! What will be done with each database, and whether the server has what that takes: found out before anything is touched.

use super::contents::{Kind, Stored};
use super::database::Definition;
use super::globals::Globals;
use super::reader::reader;
use super::relations::full_name;
use super::{Work, archive, privileges, removal, roles, run, session, tables, there};
use crate::Connection;
use crate::charset;
use crate::charset::Within;
use crate::sql::{literal, quoted_name};
use crate::toc::{Toc, TocEntry};
use engine::{Error, Result};
use std::collections::BTreeSet;

/// What will be done with one database.
pub(super) struct Plan {
    pub(super) stored: Stored,
    /// The database that it goes into.
    pub(super) target: String,
    pub(super) way: Way,
    pub(super) toc: Option<Toc>,
    /// Length of the table of contents in a dump in custom format.
    pub(super) head: u64,
    pub(super) definition: Definition,
    /// Entries to restore, if not all.
    pub(super) chosen: Option<tables::Chosen>,
    /// Of the database that is there and that an interrupted restore has left: when the snapshot of that was made.
    pub(super) unfinished: Option<String>,
    /// Whether default privileges of the dump are left out.
    pub(super) leaves_defaults: bool,
}

/// How the database comes to be.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Way {
    /// It is there, and single tables go into it.
    Into,
    /// It is there, and nothing is in it.
    Exists,
    /// It is made.
    Made,
    /// A new one is made beside it, and takes its name when it is whole.
    Replaced,
}

impl Plan {
    /// Whether commits need not wait for the disk: the last one, which gives a database that was made its name, waits for
    /// all before it.
    pub(super) fn is_lazy(&self) -> bool {
        matches!(self.way, Way::Made | Way::Replaced)
    }

    /// Entries that are restored.
    pub(super) fn entries(&self) -> impl Iterator<Item = &TocEntry> {
        let is_chosen =
            |entry: &&TocEntry| self.chosen.as_ref().is_none_or(|chosen| chosen.ids.contains(&entry.id));
        self.toc.iter().flat_map(|toc| &toc.entries).filter(is_chosen)
    }
}

impl Work<'_> {
    pub(super) fn plan(&mut self, target: &str, stored: &Stored, session: &mut Connection) -> Result<Plan> {
        let (mut toc, mut head) = (None, 0);
        if stored.kind != Kind::Plain {
            let mut own;
            (own, head) = archive::read_toc(self.repo, self.snapshot, &stored.toc_path(), self.monitor)?;
            // All dumps of a snapshot are by one pg_dump, but those that were imported.
            let programs = reader(self.server, session.major(), &own, self.options.path.as_deref())?;
            if self.programs.as_ref().is_none_or(|found| found.version < programs.version) {
                self.programs = Some(programs);
            }
            charset::translate(&mut own, session, Within::Nothing).map_err(|error| self.failed(&error))?;
            self.seen.extend(own.entries.iter().map(|entry| entry.tablespace.clone()));
            own.map_tablespaces(&self.spaces.map);
            toc = Some(own);
        } else if self.spaces.none || !self.spaces.map.is_empty() {
            return Err(Error::Invalid(
                "--no-tablespaces and --tablespace-map are for the formats directory and custom, not for plain SQL".into(),
            ));
        }
        if toc.is_none() && self.options.jobs.is_some_and(|jobs| jobs > 1) {
            return Err(Error::Invalid(
                "--jobs is for the formats directory and custom: a dump in plain SQL is run by one session"
                    .into(),
            ));
        }
        let definition = toc.as_ref().map_or(Ok(Definition::default()), Definition::of)?;
        let mut leaves_defaults = false;
        if let Some(toc) = toc.as_mut().filter(|_| self.options.no_owner) {
            leaves_defaults = privileges::leave_out(toc);
        }
        definition.check()?;
        self.seen.insert(definition.tablespace());
        let mut plan = Plan {
            stored: stored.clone(),
            target: target.to_owned(),
            way: Way::Made,
            toc,
            head,
            definition,
            chosen: None,
            unfinished: None,
            leaves_defaults,
        };
        let there = session
            .query(&format!(
                "SELECT datallowconn FROM pg_catalog.pg_database WHERE datname = {}",
                literal(target)
            ))
            .map_err(|error| self.failed(&error))?;
        let takes_sessions = there.into_iter().flatten().flatten().next().map(|takes| takes == "t");
        if takes_sessions.is_some() && self.options.selection.tables.is_empty() {
            plan.unfinished = self.unfinished(target, session)?;
        }
        if takes_sessions == Some(false) {
            let may_go = self.options.replace || plan.unfinished.is_some();
            if may_go && self.options.selection.tables.is_empty() {
                plan.way = Way::Replaced;
                // What an interrupted restore made is no loss.
                if plan.unfinished.is_none() {
                    self.check_left_out(&plan)?;
                }
                self.check_replaced(target, session)?;
                return Ok(plan);
            }
            return Err(self.refused(format!(
                "database '{target}' accepts no connections, so its content cannot be inspected; ALTER \
                    DATABASE {} ALLOW_CONNECTIONS true allows them",
                quoted_name(target)
            )));
        }
        let mut own = match takes_sessions {
            None => None,
            Some(_) => Some(session::open(self.server, target).map_err(|error| self.failed(&error))?),
        };
        if !self.options.selection.tables.is_empty() {
            let Some(toc) = &plan.toc else {
                return Err(Error::Invalid(
                    "single tables can be restored from the formats directory and custom, not from plain SQL"
                        .into(),
                ));
            };
            let Some(own) = &mut own else {
                return Err(self.refused(format!("there is no database '{target}' to put tables into")));
            };
            let replace = self.options.replace;
            plan.chosen =
                Some(tables::choose(toc, &self.options.selection.tables, own, self.server, replace)?);
            plan.way = Way::Into;
            self.check_left_out(&plan)?;
        } else if let Some(own) = &mut own {
            plan.way = self.way(&plan, own)?;
        }
        drop(own);
        if plan.way == Way::Replaced {
            self.check_replaced(target, session)?;
        }
        Ok(plan)
    }

    /// That nothing which is there is removed for what the backup left out.
    fn check_left_out(&self, plan: &Plan) -> Result<()> {
        let target = &plan.target;
        let dropped = plan.chosen.as_ref().map(|chosen| &chosen.dropped);
        let is_dropped = |entry: &&TocEntry| dropped.is_none_or(|all| all.contains(&full_name(entry)));
        let is_left_out =
            |entry: &&TocEntry| self.left_out.contains_key(&format!("{}/{}", plan.stored.path, entry.file));
        let rows = plan.entries().filter(|entry| entry.has_data).filter(is_dropped).filter(is_left_out);
        let rows = rows.map(|entry| format!("the rows of {}", full_name(entry)));
        let objects = self.missing_objects(plan).filter(|_| dropped.is_none());
        let lacking: Vec<String> = rows.chain(objects.map(|(object, _)| object.to_owned())).collect();
        if lacking.is_empty() {
            return Ok(());
        }
        Err(self.refused(format!(
            "the snapshot lacks what its backup left out: {}; --replace would remove it from database '{target}': \
                restore into another name, or single tables that the snapshot has by --table, or drop it yourself first",
            lacking.join(", ")
        )))
    }

    /// That a database can be replaced: looked at before the new one is made, and so before any of its rows.
    fn check_replaced(&self, target: &str, session: &mut Connection) -> Result<()> {
        let failed = |error| self.failed(&error);
        if let Some(why) = there::in_the_way(target, session).map_err(failed)? {
            return Err(
                self.refused(format!("database '{target}' cannot be replaced: {why}; nothing was changed"))
            );
        }
        // The one that everybody connects to gets no other name from itself.
        let own = session.value("SELECT pg_catalog.pg_backend_pid()").map_err(failed)?;
        let mut session = session::maintenance(self.server, &[target]).map_err(failed)?;
        removal::wait_until_unused(target, &own, &mut session).map_err(|error| self.untouched(&error))
    }

    /// Of a database that an interrupted restore has left incomplete: when the snapshot of that was made. Its mark is
    /// taken from it by the transaction that completes it.
    fn unfinished(&self, target: &str, session: &mut Connection) -> Result<Option<String>> {
        let failed = |error| self.failed(&error);
        let Some(mark) = run::unfinished(target, session).map_err(failed)? else { return Ok(None) };
        match run::is_running(&mark, session).map_err(failed)? {
            true => Err(self.refused(format!("a restore into database '{target}' is running"))),
            false => Ok(Some(mark.of)),
        }
    }

    /// What becomes of a database that is there.
    fn way(&self, plan: &Plan, own: &mut Connection) -> Result<Way> {
        let target = &plan.target;
        if plan.unfinished.is_some() {
            return Ok(Way::Replaced);
        }
        let count = there::user_objects(own).map_err(|error| self.failed(&error))?;
        if count > 0 && !self.options.replace {
            return Err(self.refused(format!(
                "database '{target}' is not empty ({}); --replace drops it first, another name in the URL leaves it alone",
                engine::shown::counted(count, "object")
            )));
        }
        if count > 0 {
            self.check_left_out(plan)?;
            return Ok(Way::Replaced);
        }
        let difference = plan.definition.difference(target, &self.spaces, own);
        let is_alike = difference.map_err(|error| self.failed(&error))?.is_none();
        // Every cluster has these two, in a locale of its own; if nothing is in them, that does not count.
        let is_bare =
            matches!(target.as_str(), "postgres" | "template1") && plan.toc.as_ref().is_some_and(is_bare);
        Ok(if is_alike || is_bare { Way::Exists } else { Way::Replaced })
    }

    /// That the server has what the dumps need, or gets it from the globals.
    pub(super) fn check_needs(
        &self,
        plans: &[Plan],
        globals: &Globals,
        session: &mut Connection,
    ) -> Result<()> {
        let is_seen = |name: &String| self.seen.contains(name) || globals.spaces().any(|own| own == name);
        if let Some(name) = self.spaces.map.keys().find(|name| !is_seen(name)) {
            return Err(Error::Invalid(format!(
                "--tablespace-map: nothing in the dump is in a tablespace '{name}'"
            )));
        }
        let no_owner = self.options.no_owner;
        let (mut roles, mut spaces, mut extensions) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for plan in plans {
            roles.extend(roles::of_entries(plan.entries(), no_owner));
            spaces.extend(plan.entries().map(|entry| entry.tablespace.clone()));
            let kinds = plan.entries().filter(|entry| entry.kind == "EXTENSION");
            extensions.extend(kinds.map(|entry| entry.tag.clone()));
            if plan.way != Way::Into {
                if !no_owner {
                    roles.insert(plan.definition.owner().to_owned());
                    roles.extend(plan.definition.about_roles().flat_map(|text| roles::named(text)));
                }
                spaces.extend(self.spaces.of(&plan.definition.tablespace()).map(str::to_owned));
            }
        }
        spaces.extend(self.spaces.map.values().cloned());
        let mut missing = |wanted: BTreeSet<String>, sql: &str| -> Result<String> {
            let rows = session.query(sql).map_err(|error| self.failed(&error))?;
            let known: BTreeSet<String> = rows.into_iter().flatten().flatten().collect();
            let missing: Vec<&str> = wanted
                .iter()
                .filter(|name| !name.is_empty() && !known.contains(*name))
                .map(String::as_str)
                .collect();
            Ok(missing.join(", "))
        };
        roles.retain(|name| globals.roles().all(|made| made != name));
        let lacking = missing(roles, "SELECT rolname FROM pg_catalog.pg_roles")?;
        if !lacking.is_empty() {
            return Err(self.refused(format!(
                "the server lacks roles that own or may use what is in the dump: {lacking}; make them first (a restore of all databases brings them), or leave owners and privileges out by --no-owner"
            )));
        }
        let own = |name: &String| globals.spaces().any(|made| made == name) && self.spaces.keeps(name);
        spaces.retain(|name| !self.spaces.none && !own(name));
        let lacking = missing(spaces, "SELECT spcname FROM pg_catalog.pg_tablespace")?;
        if !lacking.is_empty() {
            return Err(self.refused(format!(
                "the server lacks tablespaces of the dump: {lacking}; make them first (a restore of all databases does), or choose --tablespace-map OLD=NEW or --no-tablespaces"
            )));
        }
        let lacking = missing(extensions, "SELECT name FROM pg_catalog.pg_available_extensions")?;
        if !lacking.is_empty() {
            return Err(self.refused(format!("the server lacks extensions of the dump; install {lacking}")));
        }
        Ok(())
    }
}

/// Whether a dump has nothing that a user made.
pub(super) fn is_bare(toc: &Toc) -> bool {
    const BARE: &[&str] = &["ENCODING", "STDSTRINGS", "SEARCHPATH", "DATABASE", "DATABASE PROPERTIES"];
    toc.entries.iter().all(|entry| {
        BARE.contains(&entry.kind.as_str())
            || (matches!(entry.kind.as_str(), "COMMENT" | "ACL" | "SECURITY LABEL")
                && entry.tag.starts_with("DATABASE "))
    })
}
