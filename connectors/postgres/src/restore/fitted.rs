//! What fits an entry to the database that it goes into, beyond the dump's own commands: constraints that a partition
//! needs before it is attached to a table that is there, and a sequence that is set where it is, since others use it.

use super::relations::{quote, quoted};
use super::there::qualified;
use crate::Connection;
use crate::connection::PgResult;
use crate::sql::tokens;
use crate::toc::TocEntry;

/// Commands that come before an entry's own, in the archive's encoding.
pub(super) type Fitted = Vec<(i64, Vec<u8>)>;

/// Of a table's constraints `p`, those that a partition must have before it is attached: each check, and what is not valid
/// of the others, which the server would make valid. Before PostgreSQL 18, a partitioned table has no such others.
const NEEDED: &str = "(p.contype = 'f' OR NOT p.connoinherit) AND (p.contype = 'c' OR p.contype IN ('n', 'f') AND NOT p.convalidated) \
    AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint q WHERE q.oid = p.conparentid AND q.conrelid = p.conrelid)";

/// Constraints of `table`, which is there, that the dump does not give its partition. pg_dump writes those that are not
/// valid with the table alone, and the server attaches no partition without them.
pub(super) fn lacking(
    session: &mut Connection,
    table: &TocEntry,
    partition: &TocEntry,
) -> PgResult<Vec<String>> {
    let all = tokens(&partition.definition);
    let named = all.windows(2).filter(|pair| pair.first().is_some_and(|token| token.is("CONSTRAINT")));
    let own: Vec<String> = named.filter_map(|pair| pair.get(1)?.name()).collect();
    let rows = session.query(&format!(
        "SELECT p.conname FROM pg_catalog.pg_constraint p WHERE p.conrelid = pg_catalog.to_regclass({}) \
         AND {NEEDED} ORDER BY 1",
        qualified(table)
    ))?;
    Ok(rows.into_iter().flatten().flatten().filter(|name| !own.contains(name)).collect())
}

/// The command that gives a partition the constraints of `table` that it does not have, valid or not as they are there.
pub(super) fn constrain(table: &TocEntry, partition: &TocEntry) -> Vec<u8> {
    let text = |name: &[u8]| {
        let mut text = b"'".to_vec();
        name.iter().for_each(|byte| text.extend(std::iter::repeat_n(*byte, 1 + usize::from(*byte == b'\''))));
        text.push(b'\'');
        text
    };
    let [table, partition] = [table, partition].map(|entry| text(&quoted(entry)));
    let body = [
        b"DECLARE c record; BEGIN FOR c IN SELECT p.conname, pg_catalog.pg_get_constraintdef(p.oid) AS definition \
          FROM pg_catalog.pg_constraint p WHERE p.conrelid = "
            .as_slice(),
        &table,
        b"::pg_catalog.regclass AND ",
        NEEDED.as_bytes(),
        b" AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint o WHERE o.conrelid = ",
        &partition,
        b"::pg_catalog.regclass AND o.contype = p.contype AND CASE WHEN p.contype <> 'n' THEN o.conname = p.conname \
          ELSE (SELECT a.attname FROM pg_catalog.pg_attribute a WHERE a.attrelid = o.conrelid AND a.attnum = o.conkey[1]) \
          = (SELECT a.attname FROM pg_catalog.pg_attribute a WHERE a.attrelid = p.conrelid AND a.attnum = p.conkey[1]) END) \
          ORDER BY 1 LOOP EXECUTE pg_catalog.format('ALTER TABLE %s ADD CONSTRAINT %I %s', ",
        &partition,
        b", c.conname, c.definition); END LOOP; END",
    ]
    .concat();
    [b"DO ".as_slice(), &text(&body), b";\n"].concat()
}

/// The command that gives a sequence which is there the dump's definition; `None` if that cannot be read. The value
/// follows by the dump's own command.
pub(super) fn redefine(sequence: &TocEntry) -> Option<Vec<u8>> {
    let text = &sequence.definition;
    let all = tokens(text);
    let is_identity = all.first()?.is("ALTER");
    let at = match is_identity {
        // `… AS IDENTITY ( SEQUENCE NAME schema.name options );`
        true => all.windows(2).position(|pair| pair[0].is("SEQUENCE") && pair[1].is("NAME"))? + 2,
        false => all.iter().position(|token| token.is("SEQUENCE"))? + 1,
    };
    // A schema, a dot and a name.
    let options = all.get(at + 3..)?;
    let until = if is_identity { ')' } else { ';' };
    let end = options.iter().rposition(|token| token.is_char(until));
    let options = options.get(..end.unwrap_or(options.len()))?;
    let mut command = b"ALTER SEQUENCE ".to_vec();
    quote(&sequence.bytes.namespace, &mut command);
    command.push(b'.');
    quote(&sequence.bytes.tag, &mut command);
    // What CREATE does where it is not said.
    if !is_identity && !options.iter().any(|token| token.is("AS")) {
        command.extend(b" AS bigint");
    }
    if !options.iter().any(|token| token.is("CYCLE")) {
        command.extend(b" NO CYCLE");
    }
    if let (Some(first), Some(last)) = (options.first(), options.last()) {
        command.push(b' ');
        command.extend(text.get(first.at..last.end())?.as_bytes());
    }
    command.extend(b" RESTART;\n");
    Some(command)
}
