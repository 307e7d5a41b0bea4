//! What belongs to single tables, views and sequences of a dump: their rows, partitions, keys, indexes, triggers,
//! privileges, comments; and what they are made of, if the database lacks it. pg_restore's own `--table` leaves all but the
//! rows out.

use super::closure::{Completed, complete};
use super::dependents::{check, check_kinds, dependents};
use super::fitted::{Fitted, constrain, lacking, redefine};
use super::left::Left;
use super::partitions;
use super::partitions::{Lost, lost, no_table};
use super::parts::{partition, parts};
use super::relations::{called, full_name, is_relation, quoted};
use super::there::{differs, exists, publications};
use crate::connection::PgResult;
use crate::sql::{Token, tokens};
use crate::toc::{Toc, TocEntry};
use crate::{Connection, Server};
use engine::{Error, Result};
use std::collections::BTreeSet;

/// Entries to restore.
pub(super) struct Chosen {
    /// Their numbers.
    pub(super) ids: BTreeSet<i64>,
    /// Of these, what has to come last: a partition is attached to a table that is there when its own indexes are made,
    /// which the server then takes for the table's.
    pub(super) last: BTreeSet<i64>,
    /// Whether tables that are there go first.
    pub(super) replaces: bool,
    /// Types that are there with another definition than the dump's, and stay as they are.
    pub(super) different: Vec<String>,
    /// Foreign keys and their like that are left out.
    pub(super) left: Vec<Left>,
    /// Tables that go, and publications of which the dump does not know that they are in them.
    pub(super) unpublished: Vec<(String, String)>,
    /// What is there and is dropped first.
    pub(super) dropped: Vec<String>,
    /// Partitions that go with their tables, and do not come back.
    pub(super) lost: Vec<Lost>,
    /// Sequences that stay, since others use them, and are set to what the dump says.
    pub(super) set: Vec<String>,
    /// Partitions, and constraints of their tables that they get before they are attached.
    pub(super) constrained: Vec<(String, Vec<String>)>,
    /// The commands for both.
    fitted: Fitted,
}

impl Chosen {
    /// `toc` as pg_restore gets it: with the commands that drop what is there, and those that fit its entries to it.
    pub(super) fn applied(&self, toc: &Toc) -> Toc {
        let mut own = if self.replaces { self.with_drops(toc) } else { toc.clone() };
        for (id, before) in &self.fitted {
            let Some(entry) = toc.get(*id) else { continue };
            let raw = &entry.bytes.definition;
            let definition = if raw.is_empty() { entry.definition.as_bytes() } else { raw };
            own.set_definition(*id, &[before, definition].concat());
        }
        own
    }

    /// `toc` with the commands by which pg_restore drops what is there: relations as a whole, and nothing of theirs by
    /// itself, since what a partition has from its table cannot be dropped so.
    fn with_drops(&self, toc: &Toc) -> Toc {
        let mut own = toc.clone();
        let chosen: Vec<&TocEntry> =
            toc.entries.iter().filter(|entry| self.ids.contains(&entry.id)).collect();
        // What is made last may need the rest; a sequence may be needed by a default of its table.
        let (sequences, others): (Vec<&TocEntry>, Vec<&TocEntry>) = chosen
            .iter()
            .rev()
            .copied()
            .filter(|entry| is_relation(entry))
            .partition(|entry| entry.kind == "SEQUENCE");
        // Tables go by one command, since the foreign keys between them may point both ways.
        let is_table = |entry: &&TocEntry| entry.kind == "TABLE";
        let tables: Vec<&TocEntry> = others.iter().copied().filter(is_table).collect();
        let mut commands = vec![];
        for entry in others.iter().chain(&sequences) {
            let together = if is_table(entry) { tables.as_slice() } else { std::slice::from_ref(entry) };
            if together.last().is_some_and(|last| last.id == entry.id) {
                commands.extend(format!("DROP {} IF EXISTS ", entry.kind).into_bytes());
                let names: Vec<Vec<u8>> = together.iter().map(|entry| quoted(entry)).collect();
                commands.extend(names.join(&b", "[..]));
                commands.extend(b";\n");
            }
        }
        chosen.iter().for_each(|entry| own.set_drop(entry.id, b""));
        if let Some(entry) = others.first().or(sequences.first()) {
            own.set_drop(entry.id, &commands);
        }
        own
    }
}

/// The entries of `names` and what belongs to them, for a database that `session` is in.
pub(super) fn choose(
    toc: &Toc,
    names: &[String],
    session: &mut Connection,
    server: &Server,
    replace: bool,
) -> Result<Chosen> {
    let (mut wanted, mut others): (Vec<&TocEntry>, Vec<&String>) = (vec![], vec![]);
    for name in names {
        let relations = toc.entries.iter().filter(|entry| is_relation(entry));
        let found =
            called(relations.map(|entry| (entry.namespace.as_str(), entry.tag.as_str(), entry)), name);
        match found.as_slice() {
            [one] => wanted.push(one),
            // It may be a partition that goes with its table.
            [] if replace => others.push(name),
            [] => return Err(no_table(name)),
            several => {
                let all: Vec<String> = several
                    .iter()
                    .map(|entry| format!("'{}'", String::from_utf8_lossy(&quoted(entry))))
                    .collect();
                return Err(Error::Invalid(format!("'{name}' may be {}: name one so", all.join(" or "))));
            }
        }
    }
    let failed = |error| Error::from(server.failed(&error));
    let own = parts(toc, &wanted.iter().map(|entry| entry.id).collect(), true);
    let mut there = vec![];
    // A sequence that belongs to a table goes and comes with it.
    let counts = |entry: &&TocEntry| {
        let is_wanted = wanted.iter().any(|wanted| wanted.id == entry.id);
        is_relation(entry) && own.contains(&entry.id) && (is_wanted || entry.kind != "SEQUENCE")
    };
    for entry in toc.entries.iter().filter(counts) {
        if exists(session, entry).map_err(failed)? {
            there.push(entry);
        }
    }
    if !there.is_empty() && !replace {
        return Err(Error::Refused(format!(
            "there already: {}; --replace drops them first, another database in the URL leaves them alone",
            there.into_iter().map(full_name).collect::<Vec<_>>().join(", ")
        )));
    }
    let lost = lost(session, toc, &there, &own).map_err(failed)?;
    partitions::check(&lost, &others)?;
    let Completed { mut ids, there: grounds, left } = complete(toc, session, own).map_err(failed)?;
    let mut fitted = vec![];
    let set = match replace {
        true => stays(toc, &wanted, &mut ids, &mut fitted, session).map_err(failed)??,
        false => vec![],
    };
    there.retain(|entry| ids.contains(&entry.id));
    let dropped = there.iter().map(|entry| full_name(entry)).chain(lost.iter().map(Lost::name)).collect();
    let mut unpublished = vec![];
    for table in there {
        for publication in publications(session, table).map_err(failed)? {
            let is_it =
                |id: &i64| toc.get(*id).is_some_and(|it| it.kind == "PUBLICATION" && it.tag == publication);
            let comes_back = toc.entries.iter().any(|entry| {
                entry.kind == "PUBLICATION TABLE"
                    && ids.contains(&entry.id)
                    && entry.needs.contains(&table.id)
                    && entry.needs.iter().any(is_it)
            });
            if !comes_back {
                unpublished.push((full_name(table), publication));
            }
        }
    }
    let chosen = |kind: &'static str| {
        let ids = &ids;
        toc.entries.iter().filter(move |entry| entry.kind == kind && ids.contains(&entry.id))
    };
    let is_other = |id: &i64| !ids.contains(id) && toc.get(*id).is_some_and(is_relation);
    let last = chosen("TABLE ATTACH").filter(|entry| entry.needs.iter().any(is_other));
    let last: BTreeSet<i64> = last.map(|entry| entry.id).collect();
    let mut constrained = vec![];
    for attach in last.iter().filter_map(|id| toc.get(*id)) {
        let Some(child) = partition(toc, attach).and_then(|id| toc.get(id)) else { continue };
        for table in attach.needs.iter().filter(|id| is_other(id)).filter_map(|id| toc.get(*id)) {
            let names = lacking(session, table, child).map_err(failed)?;
            if !names.is_empty() {
                fitted.push((attach.id, constrain(table, child)));
                constrained.push((full_name(child), names));
            }
        }
    }
    // An index of a partition follows its table to the index of a table that is there.
    let made = made_indexes(toc, &ids);
    let follows = chosen("INDEX ATTACH").filter(|entry| !is_made(&made, entry)).map(|entry| entry.id);
    let follows: BTreeSet<i64> = follows.collect();
    ids.retain(|id| !follows.contains(id));
    let left = left.into_iter().filter_map(|id| toc.get(id)).map(|entry| Left::of(toc, entry)).collect();
    let mut different = vec![];
    for id in grounds {
        let Some(entry) = toc.get(id).filter(|entry| matches!(entry.kind.as_str(), "TYPE" | "DOMAIN")) else {
            continue;
        };
        if differs(session, entry).map_err(failed)? {
            different.push(full_name(entry));
        }
    }
    Ok(Chosen {
        ids,
        last,
        replaces: replace,
        different,
        left,
        unpublished,
        dropped,
        lost,
        set,
        constrained,
        fitted,
    })
}

/// That all relations of `ids` that are there can be dropped. Sequences among those that are `wanted` stay where others
/// use them: of these, only what sets them remains in `ids`. Returns their names.
fn stays(
    toc: &Toc,
    wanted: &[&TocEntry],
    ids: &mut BTreeSet<i64>,
    fitted: &mut Fitted,
    session: &mut Connection,
) -> PgResult<Result<Vec<String>>> {
    let relations = |ids: &BTreeSet<i64>| -> Vec<&TocEntry> {
        toc.entries.iter().filter(|entry| ids.contains(&entry.id) && is_relation(entry)).collect()
    };
    let gone = relations(ids);
    if let Err(error) = check_kinds(session, &gone)? {
        return Ok(Err(error));
    }
    let found = dependents(session, &gone)?;
    let mut set = vec![];
    for sequence in wanted.iter().filter(|entry| entry.kind == "SEQUENCE") {
        let value =
            toc.entries.iter().find(|it| it.kind == "SEQUENCE SET" && it.needs.contains(&sequence.id));
        let is_used = found.iter().any(|one| one.of == sequence.id);
        let (true, Some(value), Some(command)) = (is_used, value, redefine(sequence)) else { continue };
        let is_own = |entry: &TocEntry| {
            let kinds = ["ACL", "COMMENT", "SECURITY LABEL", "SEQUENCE OWNED BY"];
            kinds.contains(&entry.kind.as_str()) && entry.needs.contains(&sequence.id)
        };
        ids.retain(|id| *id != sequence.id && !toc.get(*id).is_some_and(is_own));
        fitted.push((value.id, command));
        set.push(full_name(sequence));
    }
    let gone = relations(ids);
    let found: Vec<_> = found.into_iter().filter(|one| ids.contains(&one.of)).collect();
    Ok(check(&found, &gone).map(|()| set))
}

/// Schema and name of the indexes that `ids` make. The tag of a constraint is `table constraint`, and either may have blanks:
/// whatever stands behind one may be its name.
fn made_indexes<'a>(toc: &'a Toc, ids: &BTreeSet<i64>) -> BTreeSet<(&'a str, &'a str)> {
    let mut made = BTreeSet::new();
    for entry in toc.entries.iter().filter(|entry| ids.contains(&entry.id)) {
        let namespace = entry.namespace.as_str();
        match entry.kind.as_str() {
            "INDEX" => made.extend([(namespace, entry.tag.as_str())]),
            "CONSTRAINT" => {
                let blanks = entry.tag.match_indices(' ');
                made.extend(blanks.filter_map(|(at, _)| Some((namespace, entry.tag.get(at + 1..)?))));
            }
            _ => {}
        }
    }
    made
}

/// Whether the index that an entry attaches another to is among those that are made. What the entry needs does not tell:
/// pg_dump names the tables, also those above, instead of an index that a constraint makes.
fn is_made(made: &BTreeSet<(&str, &str)>, attach: &TocEntry) -> bool {
    let tokens = tokens(&attach.definition);
    let names: Vec<String> =
        tokens.iter().skip(2).filter(|token| !token.is_char('.')).map_while(Token::name).collect();
    let [namespace, index, attaches, ..] = names.as_slice() else { return false };
    attaches == "attach" && made.contains(&(namespace.as_str(), index.as_str()))
}
