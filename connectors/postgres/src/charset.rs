//! Names in encodings other than UTF-8. PostgreSQL has all of its encodings' tables, so a server converts; what cannot be
//! converted, such as bytes without an encoding (`SQL_ASCII`), stays as it is.

use super::Connection;
use super::connection::PgResult;
use super::toc::Toc;

/// Names that are converted by one query.
const AT_ONCE: usize = 500;

/// Whether the session is in a transaction, which an error must not end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Within {
    /// It is.
    Transaction,
    /// It is not.
    Nothing,
}

/// Gives names, schemas, owners and commands of a table of contents in UTF-8, by a server of whatever encoding.
pub fn translate(toc: &mut Toc, session: &mut Connection, within: Within) -> PgResult<()> {
    let encoding = toc.encoding().to_owned();
    if matches!(encoding.as_str(), "UTF8" | "SQL_ASCII") {
        return Ok(());
    }
    let odd: Vec<usize> = (0..toc.entries.len())
        .filter(|at| {
            let bytes = &toc.entries[*at].bytes;
            [&bytes.tag, &bytes.namespace, &bytes.owner, &bytes.definition]
                .iter()
                .any(|name| !name.is_ascii())
        })
        .collect();
    for some in odd.chunks(AT_ONCE) {
        let names = some.iter().flat_map(|at| {
            let bytes = &toc.entries[*at].bytes;
            [bytes.tag.clone(), bytes.namespace.clone(), bytes.owner.clone(), bytes.definition.clone()]
        });
        let mut texts = in_utf8(session, &encoding, &names.collect::<Vec<_>>(), within)?.into_iter();
        for at in some {
            let entry = &mut toc.entries[*at];
            let (no_owner, no_definition) = (entry.bytes.owner.is_empty(), entry.bytes.definition.is_empty());
            let texts = texts.by_ref().take(4);
            let names = [&mut entry.tag, &mut entry.namespace, &mut entry.owner, &mut entry.definition];
            for (at, (name, text)) in names.into_iter().zip(texts).enumerate() {
                if let Some(text) = text.filter(|_| !(at == 2 && no_owner || at == 3 && no_definition)) {
                    *name = text;
                }
            }
        }
    }
    Ok(())
}

/// Each name in UTF-8, if there is such a thing.
pub fn in_utf8(
    session: &mut Connection,
    encoding: &str,
    names: &[Vec<u8>],
    within: Within,
) -> PgResult<Vec<Option<String>>> {
    if matches!(encoding, "UTF8" | "SQL_ASCII") || names.iter().all(|name| name.is_ascii()) {
        return Ok(names.iter().map(|name| String::from_utf8(name.clone()).ok()).collect());
    }
    let hex =
        |name: &Vec<u8>| format!("'{}'", name.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    let all = names.iter().map(hex).collect::<Vec<_>>().join(",");
    let encoding_name = encoding.replace('\'', "''");
    let sql = format!(
        "SELECT pg_catalog.encode(pg_catalog.convert(pg_catalog.decode(h, 'hex'), '{encoding_name}', 'UTF8'), 'hex') \
         FROM pg_catalog.unnest(ARRAY[{all}]) WITH ORDINALITY t(h, n) ORDER BY n"
    );
    if within == Within::Transaction {
        session.query("SAVEPOINT esker_names")?;
    }
    let rows = session.query(&sql);
    if within == Within::Transaction {
        session.query("ROLLBACK TO SAVEPOINT esker_names; RELEASE SAVEPOINT esker_names")?;
    }
    match rows {
        Ok(rows) => Ok(rows.into_iter().map(|row| from_hex(row.into_iter().next()??.as_bytes())).collect()),
        Err(error) if error.code().is_empty() => Err(error),
        // One of them has no such form; the others may.
        Err(_) if names.len() > 1 => {
            let (left, right) = names.split_at(names.len() / 2);
            let mut all = in_utf8(session, encoding, left, within)?;
            all.extend(in_utf8(session, encoding, right, within)?);
            Ok(all)
        }
        Err(_) => Ok(vec![None]),
    }
}

fn from_hex(digits: &[u8]) -> Option<String> {
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    String::from_utf8(digits.chunks(2).map(byte).collect::<Option<_>>()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal() {
        assert_eq!(from_hex(b"74c3a962").as_deref(), Some("t\u{e9}b"));
        assert_eq!(from_hex(b"74e962"), None);
        assert_eq!(from_hex(b"7"), Some("\u{7}".into()));
    }
}
