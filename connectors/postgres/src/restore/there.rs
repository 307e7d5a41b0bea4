//! What a database has: whether anything in it is a user's, and which objects of a dump are there already.

use crate::Connection;
use crate::connection::PgResult;
use crate::sql::{Kind, literal, quoted_name, tokens};
use crate::toc::TocEntry;
use std::fmt::Write as _;

/// Objects with lower numbers come with every database (`FirstNormalObjectId` in `transam.h`).
const FIRST_OF_USERS: u32 = 16384;
/// Catalogues of a database's objects. What depends on a table alone (triggers, policies, defaults) needs no look.
const CATALOGUES: &[&str] = &[
    "pg_class",
    "pg_proc",
    "pg_type",
    "pg_operator",
    "pg_opclass",
    "pg_opfamily",
    "pg_amop",
    "pg_amproc",
    "pg_cast",
    "pg_collation",
    "pg_conversion",
    "pg_language",
    "pg_namespace",
    "pg_extension",
    "pg_foreign_data_wrapper",
    "pg_foreign_server",
    "pg_event_trigger",
    "pg_publication",
    "pg_default_acl",
    "pg_transform",
    "pg_am",
    "pg_statistic_ext",
    "pg_ts_config",
    "pg_ts_dict",
    "pg_ts_parser",
    "pg_ts_template",
];

/// How many objects in a session's database users have made, whatever they are. What belongs to another object or to an
/// extension that a user made counts with that; an object is no part of itself, though its columns may say so (key of
/// partitions, generated columns), nor of what comes with every database.
pub(super) fn user_objects(session: &mut Connection) -> PgResult<u64> {
    let mut sql = String::from(
        "SELECT (SELECT count(*) FROM pg_catalog.pg_largeobject_metadata) \
         + (SELECT count(*) FROM pg_catalog.pg_subscription s JOIN pg_catalog.pg_database d \
            ON d.oid = s.subdbid WHERE d.datname = pg_catalog.current_database())",
    );
    for catalogue in CATALOGUES {
        let condition = match *catalogue {
            // TOAST tables and their indexes may be made anew for PostgreSQL's own tables.
            "pg_class" => "o.relpersistence <> 't' AND o.relnamespace <> 'pg_toast'::pg_catalog.regnamespace",
            // Those of temporary tables, of any session.
            "pg_namespace" => "o.nspname !~ '^pg_(toast_)?temp_'",
            "pg_type" => {
                "NOT EXISTS (SELECT FROM pg_catalog.pg_namespace n WHERE n.oid = o.typnamespace \
                 AND n.nspname ~ '^pg_(toast_)?temp_')"
            }
            "pg_proc" => {
                "NOT EXISTS (SELECT FROM pg_catalog.pg_namespace n WHERE n.oid = o.pronamespace \
                 AND n.nspname ~ '^pg_(toast_)?temp_')"
            }
            _ => "true",
        };
        // Default privileges in a schema hang on the schema, which may be PostgreSQL's own.
        let bonds = if *catalogue == "pg_default_acl" { "'e'" } else { "'e', 'i', 'a', 'P', 'S'" };
        let _ = write!(
            sql,
            " + (SELECT count(*) FROM pg_catalog.{catalogue} o WHERE o.oid >= {FIRST_OF_USERS} AND {condition} \
             AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d \
             WHERE d.classid = 'pg_catalog.{catalogue}'::pg_catalog.regclass AND d.objid = o.oid \
             AND d.objsubid = 0 AND d.deptype IN ({bonds}) AND d.refobjid >= {FIRST_OF_USERS} \
             AND NOT (d.refclassid = d.classid AND d.refobjid = d.objid)))"
        );
    }
    Ok(session.value(&sql)?.parse().unwrap_or(u64::MAX))
}

/// What keeps a database from being replaced by another, and what has to be done first; `session` is in any database.
/// Slots and subscriptions would go with it, and nobody could make them again; a prepared transaction holds it.
pub(super) fn in_the_way(name: &str, session: &mut Connection) -> PgResult<Option<String>> {
    let name = literal(name);
    let mut list = |sql: &str| -> PgResult<Vec<String>> {
        Ok(session.query(sql)?.into_iter().flatten().flatten().collect())
    };
    let slots = list(&format!(
        "SELECT slot_name FROM pg_catalog.pg_replication_slots WHERE database = {name} AND NOT temporary ORDER BY 1"
    ))?;
    if let Some(first) = slots.first() {
        return Ok(Some(format!(
            "it has replication slots ({}), which would go with it; SELECT pg_drop_replication_slot({}) drops one",
            slots.join(", "),
            literal(first)
        )));
    }
    let subscriptions = list(&format!(
        "SELECT s.subname FROM pg_catalog.pg_subscription s JOIN pg_catalog.pg_database d ON d.oid = s.subdbid \
         WHERE d.datname = {name} ORDER BY 1"
    ))?;
    if let Some(first) = subscriptions.first() {
        return Ok(Some(format!(
            "it has subscriptions ({}), which would go with it; DROP SUBSCRIPTION {} in it drops one",
            subscriptions.join(", "),
            quoted_name(first)
        )));
    }
    let prepared = list(&format!(
        "SELECT pg_catalog.quote_literal(gid) FROM pg_catalog.pg_prepared_xacts WHERE database = {name} ORDER BY 1"
    ))?;
    if let Some(first) = prepared.first() {
        return Ok(Some(format!(
            "it has prepared transactions ({}); COMMIT PREPARED {first} or ROLLBACK PREPARED {first} in it ends one",
            prepared.join(", ")
        )));
    }
    let is_ours = list(&format!(
        "SELECT pg_catalog.pg_has_role(d.datdba, 'USAGE')::text FROM pg_catalog.pg_database d WHERE d.datname = {name}"
    ))?;
    Ok(is_ours.first().filter(|ours| *ours == "false").map(|_| "we are not its owner".to_owned()))
}

/// A table or whatever else has a name in a schema, as a literal with its name in quotes.
pub(super) fn qualified(entry: &TocEntry) -> String {
    literal(&format!("{}.{}", quoted_name(&entry.namespace), quoted_name(&entry.tag)))
}

/// Whether the database has what an entry makes; of kinds that cannot be asked for, yes.
pub(super) fn exists(session: &mut Connection, entry: &TocEntry) -> PgResult<bool> {
    let (tag, namespace) = (literal(&entry.tag), literal(&entry.namespace));
    let named = |catalogue: &str, column: &str| {
        format!("SELECT count(*) > 0 FROM pg_catalog.{catalogue} WHERE {column} = {tag}")
    };
    let in_schema = |catalogue: &str, column: &str, schema: &str| {
        format!(
            "SELECT count(*) > 0 FROM pg_catalog.{catalogue} o JOIN pg_catalog.pg_namespace n \
             ON n.oid = o.{schema} WHERE o.{column} = {tag} AND n.nspname = {namespace}"
        )
    };
    let sql = match entry.kind.as_str() {
        "TABLE" | "VIEW" | "MATERIALIZED VIEW" | "FOREIGN TABLE" | "SEQUENCE" | "INDEX" => {
            format!("SELECT pg_catalog.to_regclass({}) IS NOT NULL", qualified(entry))
        }
        "TYPE" | "DOMAIN" | "SHELL TYPE" => {
            format!("SELECT pg_catalog.to_regtype({}) IS NOT NULL", qualified(entry))
        }
        "FUNCTION" | "PROCEDURE" | "AGGREGATE" => {
            let Some(signature) = signature(entry) else { return Ok(true) };
            format!("SELECT pg_catalog.to_regprocedure({}) IS NOT NULL", literal(&signature))
        }
        "SCHEMA" => named("pg_namespace", "nspname"),
        // One for all tables takes no single ones.
        "PUBLICATION" => named("pg_publication", "puballtables IS FALSE AND pubname"),
        "EXTENSION" => named("pg_extension", "extname"),
        "SERVER" => named("pg_foreign_server", "srvname"),
        "FOREIGN DATA WRAPPER" => named("pg_foreign_data_wrapper", "fdwname"),
        "PROCEDURAL LANGUAGE" => named("pg_language", "lanname"),
        "ACCESS METHOD" => named("pg_am", "amname"),
        "COLLATION" => in_schema("pg_collation", "collname", "collnamespace"),
        "OPERATOR" => in_schema("pg_operator", "oprname", "oprnamespace"),
        "OPERATOR CLASS" => in_schema("pg_opclass", "opcname", "opcnamespace"),
        "OPERATOR FAMILY" => in_schema("pg_opfamily", "opfname", "opfnamespace"),
        "TEXT SEARCH CONFIGURATION" => in_schema("pg_ts_config", "cfgname", "cfgnamespace"),
        "TEXT SEARCH DICTIONARY" => in_schema("pg_ts_dict", "dictname", "dictnamespace"),
        "TEXT SEARCH PARSER" => in_schema("pg_ts_parser", "prsname", "prsnamespace"),
        "TEXT SEARCH TEMPLATE" => in_schema("pg_ts_template", "tmplname", "tmplnamespace"),
        _ => return Ok(true),
    };
    Ok(session.value(&sql)? == "t")
}

/// The publications that a table which is there was put into by name.
pub(super) fn publications(session: &mut Connection, entry: &TocEntry) -> PgResult<Vec<String>> {
    let sql = format!(
        "SELECT p.pubname FROM pg_catalog.pg_publication_rel r JOIN pg_catalog.pg_publication p ON p.oid = r.prpubid \
         WHERE r.prrelid = pg_catalog.to_regclass({}) ORDER BY 1",
        qualified(entry)
    );
    Ok(session.query(&sql)?.into_iter().flatten().flatten().collect())
}

/// A routine's name in quotes, and the types of its arguments: its tag has the name as it is, which may hold anything.
fn signature(entry: &TocEntry) -> Option<String> {
    let all = tokens(&entry.definition);
    let at = all
        .iter()
        .position(|token| token.is("FUNCTION") || token.is("PROCEDURE") || token.is("AGGREGATE"))?;
    let name = match all.get(at + 1..)? {
        [_, dot, name, ..] if dot.is_char('.') => name.name()?,
        [name, ..] => name.name()?,
        [] => return None,
    };
    let arguments = entry.tag.strip_prefix(&name)?;
    Some(format!("{}.{}{arguments}", quoted_name(&entry.namespace), quoted_name(&name)))
}

/// What makes two types alike, as one text.
const TYPE: &str = "SELECT pg_catalog.concat_ws('|', t.typtype, t.typnotnull, t.typdefault, \
    pg_catalog.format_type(nullif(t.typbasetype, 0), t.typtypmod), t.typcollation, \
    (SELECT pg_catalog.array_agg(e.enumlabel ORDER BY e.enumsortorder) FROM pg_catalog.pg_enum e WHERE e.enumtypid = t.oid), \
    (SELECT pg_catalog.array_agg(pg_catalog.concat_ws(' ', a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod), a.attcollation) \
     ORDER BY a.attnum) FROM pg_catalog.pg_attribute a WHERE a.attrelid = t.typrelid AND t.typtype = 'c' AND NOT a.attisdropped), \
    (SELECT pg_catalog.array_agg(pg_catalog.pg_get_constraintdef(c.oid) ORDER BY c.conname) FROM pg_catalog.pg_constraint c WHERE c.contypid = t.oid), \
    (SELECT pg_catalog.concat_ws(' ', pg_catalog.format_type(r.rngsubtype, NULL), r.rngcollation, r.rngsubopc) FROM pg_catalog.pg_range r WHERE r.rngtypid = t.oid)) \
    FROM pg_catalog.pg_type t WHERE t.oid = ";

/// Whether a type that is there is another than the dump's: it is made once more, beside, and taken back. What cannot be
/// made that way is not compared.
pub(super) fn differs(session: &mut Connection, entry: &TocEntry) -> PgResult<bool> {
    const BESIDE: &str = "esker_compared";
    let all = tokens(&entry.definition);
    let [create, kind, schema, dot, name, ..] = all.as_slice() else { return Ok(false) };
    let is_type = create.is("CREATE") && (kind.is("TYPE") || kind.is("DOMAIN"));
    if !is_type || !dot.is_char('.') || name.kind == Kind::Other {
        return Ok(false);
    }
    let end = all.iter().position(|token| token.is_char(';')).map_or(entry.definition.len(), |at| all[at].at);
    let definition =
        format!("{}pg_temp.{BESIDE}{}", &entry.definition[..schema.at], &entry.definition[name.end()..end]);

    session.query("BEGIN")?;
    let compared = session.query(&definition).and_then(|_| {
        let has = session.value(&format!("{TYPE} pg_catalog.to_regtype({})", qualified(entry)))?;
        let wanted = session.value(&format!("{TYPE} 'pg_temp.{BESIDE}'::pg_catalog.regtype"))?;
        Ok(has != wanted)
    });
    session.query("ROLLBACK")?;
    match compared {
        Err(error) if !error.code().is_empty() => Ok(false),
        compared => compared,
    }
}
