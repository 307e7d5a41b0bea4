//! What a database has besides tables: routines, triggers, events, views. Their text is a user's, in a character set and an
//! SQL mode of his own, and no client can be trusted to tell where it ends; so it is written as a number that the server
//! takes for one statement (`EXECUTE IMMEDIATE 0x…`), and never as lines of a script.
//! Source: MariaDB's documentation, "EXECUTE IMMEDIATE", "SHOW CREATE PROCEDURE"; `client/mysqldump.c`.

use super::catalogue::Listed;
use super::index::{Kind, Object};
use super::trigger;
use crate::server::{Script, Server, hexadecimal, is_named, quoted};
use engine::ItemError;
use engine::source::{SourceError, SourceErrorKind};
use memchr::memmem;

/// The end of a database's dump.
#[derive(Debug, Default)]
pub(super) struct Definitions {
    pub(super) bytes: Vec<u8>,
    /// Counted from the beginning of `bytes`.
    pub(super) objects: Vec<Object>,
}

/// What the settings are outside of a definition, as the head of the dump has them. The character set comes first, by itself:
/// in one whose characters are wide no other setting is understood.
const SETTINGS: &str = "SET NAMES utf8mb4;\nSET sql_mode = 'NO_AUTO_VALUE_ON_ZERO', time_zone = '+00:00';\n";
/// Character sets in which a byte that looks like ASCII may be a part of another character.
const OVERLAPPING: &[&str] = &["big5", "gbk", "gb18030", "sjis", "cp932"];

/// What `SHOW CREATE` tells.
struct Shown {
    sql_mode: String,
    time_zone: String,
    text: Vec<u8>,
    charset: String,
    collation: String,
    database_collation: Option<String>,
}

/// Definitions of the objects of `database`, of those that can be read; and why the others cannot.
pub(super) fn read(
    server: &Server,
    database: &str,
    listed: &[Listed],
    executes: bool,
) -> Result<(Definitions, Vec<ItemError>), SourceError> {
    let mut found = Definitions::default();
    if listed.is_empty() {
        return Ok((found, vec![]));
    }
    let (shown, mut errors) = show(server, database, listed)?;
    let sql = format!(
        "SELECT default_collation_name FROM information_schema.schemata WHERE {}",
        is_named("schema_name", database)
    );
    let collation = server.query(&sql)?.into_iter().flatten().next().unwrap_or_default();
    // Statements end where they end; lines are for people.
    found.bytes.push(b'\n');
    for (object, shown) in in_order(shown) {
        let from = found.bytes.len() as u64;
        match definition(object, &shown, &collation, executes) {
            Ok(bytes) => found.bytes.extend_from_slice(&bytes),
            Err(why) => {
                errors.push(object.error(database, &why));
                continue;
            }
        }
        let (kind, name, table) = (object.kind, object.name.clone(), object.table.clone());
        let elsewhere = elsewhere(object, shown, &collation, executes);
        found.objects.push(Object { kind, name, table, elsewhere, from, to: found.bytes.len() as u64 });
    }
    Ok((found, errors))
}

/// Objects with what the server says of each; and those of which it says nothing.
type Answers<'a> = (Vec<(&'a Listed, Shown)>, Vec<ItemError>);

/// Asks for each.
fn show<'a>(server: &Server, database: &str, listed: &'a [Listed]) -> Result<Answers<'a>, SourceError> {
    let mut script = Script::default();
    script.add("settings", format!("USE {}", quoted(database)).as_bytes());
    script.add("settings", b"SET sql_mode = '', time_zone = '+00:00', character_set_results = 'binary'");
    const BEFORE: usize = 2;
    for object in listed {
        script.add("", format!("SHOW CREATE {} {}", object.word, quoted(&object.name)).as_bytes());
    }
    let outcome = script.run(server, true)?;
    let mut errors = vec![];
    let mut rows = outcome.rows.into_iter();
    let mut shown = vec![];
    for (number, object) in listed.iter().enumerate() {
        let failed = outcome.failures.iter().find(|(failed, _)| *failed == number + BEFORE);
        if let Some((_, why)) = failed {
            errors.push(object.error(database, why));
            continue;
        }
        let row = rows.next().ok_or_else(|| {
            server.error(SourceErrorKind::Incomplete, format!("said nothing of {}", object.shown(database)))
        })?;
        match parse(object.kind, row) {
            Some(parsed) => shown.push((object, parsed)),
            None => errors.push(object.error(database, "this account may not read its definition")),
        }
    }
    match outcome.failures.into_iter().find(|(number, _)| *number < BEFORE) {
        Some((_, why)) => Err(server.error(SourceErrorKind::Unavailable, why)),
        None => Ok((shown, errors)),
    }
}

/// A row of `SHOW CREATE`; `None` if the text is not in it.
fn parse(kind: Kind, row: Vec<Vec<u8>>) -> Option<Shown> {
    let text_at = match kind {
        Kind::View => 1,
        Kind::Routine | Kind::Trigger => 2,
        Kind::Event => 3,
    };
    let text = row.get(text_at).filter(|text| text.as_slice() != b"NULL")?.clone();
    let word = |at: usize| Some(String::from_utf8_lossy(row.get(at)?).into_owned());
    Some(Shown {
        sql_mode: if kind == Kind::View { String::new() } else { word(1)? },
        time_zone: if kind == Kind::Event { word(2)? } else { "+00:00".into() },
        text,
        charset: word(text_at + 1)?,
        collation: word(text_at + 2)?,
        database_collation: if kind == Kind::View { None } else { word(text_at + 3) },
    })
}

/// Views behind those that they may need: a name in another's text is enough.
fn in_order(mut shown: Vec<(&Listed, Shown)>) -> Vec<(&Listed, Shown)> {
    shown.sort_by_key(|(object, _)| object.kind);
    let at = shown.partition_point(|(object, _)| object.kind < Kind::View);
    let mut views = shown.split_off(at);
    let names: Vec<String> = views.iter().map(|(object, _)| quoted(&object.name)).collect();
    let needs: Vec<Vec<usize>> = views
        .iter()
        .enumerate()
        .map(|(own, (_, shown))| {
            let has = |name: &String| memmem::find(&shown.text, name.as_bytes()).is_some();
            (0..names.len()).filter(|other| *other != own && has(&names[*other])).collect()
        })
        .collect();
    // Depth first, without recursion: a chain of views may be long.
    let (mut order, mut seen) = (vec![], vec![false; views.len()]);
    for first in 0..views.len() {
        let mut stack = vec![(first, 0)];
        if std::mem::replace(&mut seen[first], true) {
            continue;
        }
        while let Some((view, next)) = stack.pop() {
            match needs[view].get(next) {
                Some(needed) => {
                    stack.push((view, next + 1));
                    if !std::mem::replace(&mut seen[*needed], true) {
                        stack.push((*needed, 0));
                    }
                }
                None => order.push(view),
            }
        }
    }
    let mut taken: Vec<Option<(&Listed, Shown)>> = views.drain(..).map(Some).collect();
    shown.extend(order.into_iter().filter_map(|view| taken[view].take()));
    shown
}

/// A setting's value, which holds nothing that could end it.
fn plain(value: &str) -> Result<&str, String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_,+-:/ ".contains(c);
    match value.chars().all(is_plain) {
        true => Ok(value),
        false => Err(format!("the server gives it a setting that no setting can be: {value:?}")),
    }
}

/// The statements that make an object.
fn definition(object: &Listed, shown: &Shown, collation: &str, executes: bool) -> Result<Vec<u8>, String> {
    let mut text = match object.kind {
        Kind::View => match shown.text.strip_prefix(b"CREATE ") {
            Some(rest) => [b"CREATE OR REPLACE ", rest].concat(),
            None => return Err("the server's definition of it does not begin with CREATE".into()),
        },
        Kind::Routine | Kind::Trigger | Kind::Event => shown.text.clone(),
    };
    if let Some(comment) = &object.comment {
        text = recommented(text, comment);
    }
    let mut out = Vec::new();
    if object.word.starts_with("PACKAGE") {
        // No other mode knows what that is.
        out.extend_from_slice(b"SET sql_mode = 'ORACLE';\n");
    }
    if matches!(object.kind, Kind::Routine | Kind::Event) {
        out.extend_from_slice(
            format!("DROP {} IF EXISTS {};\n", object.word, quoted(&object.name)).as_bytes(),
        );
    }
    let other = shown.database_collation.as_deref().filter(|own| *own != collation && !collation.is_empty());
    if let Some(own) = other {
        out.extend_from_slice(format!("ALTER DATABASE COLLATE {};\n", plain(own)?).as_bytes());
    }
    out.extend_from_slice(
        format!(
            "SET sql_mode = '{}', character_set_client = {}, collation_connection = {}, time_zone = '{}';\n",
            plain(&shown.sql_mode)?,
            plain(&shown.charset)?,
            plain(&shown.collation)?,
            plain(&shown.time_zone)?
        )
        .as_bytes(),
    );
    if executes {
        if ["ucs2", "utf16", "utf32"].iter().any(|wide| shown.collation.starts_with(wide)) {
            // A number that is no multiple of a character's length would be filled up in front.
            text.resize(text.len().next_multiple_of(4), b' ');
        }
        out.extend_from_slice(format!("EXECUTE IMMEDIATE {};\n", hexadecimal(&text)).as_bytes());
    } else {
        out.extend_from_slice(&as_text(&text)?);
    }
    out.extend_from_slice(SETTINGS.as_bytes());
    if other.is_some() {
        out.extend_from_slice(format!("ALTER DATABASE COLLATE {};\n", plain(collation)?).as_bytes());
    }
    Ok(out)
}

/// A definition whose comment is written as it must be where backslashes mean themselves. The server escapes it in any mode
/// (`append_unescaped` in its `sql/unireg.cc`).
fn recommented(text: Vec<u8>, comment: &str) -> Vec<u8> {
    let escaped: String = comment
        .chars()
        .map(|c| match c {
            '\0' => "\\0".to_owned(),
            '\n' => "\\n".to_owned(),
            '\r' => "\\r".to_owned(),
            '\\' => "\\\\".to_owned(),
            '\'' => "''".to_owned(),
            other => other.to_string(),
        })
        .collect();
    let written = format!("COMMENT '{escaped}'");
    let own = format!("COMMENT '{}'", comment.replace('\'', "''"));
    match memmem::find(&text, written.as_bytes()) {
        Some(at) => [&text[..at], own.as_bytes(), &text[at + written.len()..]].concat(),
        None => text,
    }
}

/// The statements that make it in a database of another name, if they are others; empty if there are none.
fn elsewhere(object: &Listed, shown: Shown, collation: &str, executes: bool) -> Option<String> {
    let table = object.table.as_deref()?;
    let overlaps = OVERLAPPING.contains(&&*shown.charset);
    let other = match trigger::unqualified(&shown.text, &object.name, table, overlaps) {
        Ok(text) if text == shown.text => return None,
        Ok(text) => definition(object, &Shown { text, ..shown }, collation, executes),
        Err(why) => Err(why),
    };
    Some(other.ok().and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default())
}

/// For servers that cannot execute every statement by its text (MySQL, MariaDB before 10.6): with a delimiter that is not
/// in it. The one command that clients take in the middle of a statement must not be in it either.
fn as_text(text: &[u8]) -> Result<Vec<u8>, String> {
    if memmem::find(text, b"\\C").is_some() {
        return Err(
            r"'\C' in it is a command for the client, and this server's version takes no other form".into()
        );
    }
    let is_free = |delimiter: &String| memmem::find(text, delimiter.as_bytes()).is_none();
    let delimiter = (0_u64..).map(|number| format!(";;{number}")).find(is_free).unwrap_or_default();
    let start = format!("DELIMITER {delimiter}\n").into_bytes();
    Ok([&start, text, format!("\n{delimiter}\nDELIMITER ;\n").as_bytes()].concat())
}

/// What the lines of a definition say: statements in hexadecimal digits are read.
#[must_use]
pub(crate) fn defined(lines: &[u8]) -> Vec<u8> {
    const BEFORE: &[u8] = b"EXECUTE IMMEDIATE 0x";
    let (mut rest, mut out) = (lines, vec![]);
    while let Some(at) = memchr::memmem::find(rest, BEFORE) {
        let (before, digits) = rest.split_at(at);
        let digits = &digits[BEFORE.len()..];
        let len = digits.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        out.extend_from_slice(before);
        out.extend(digits[..len].chunks_exact(2).filter_map(|pair| {
            std::str::from_utf8(pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok())
        }));
        rest = &digits[len..];
    }
    out.extend_from_slice(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_nothing_but_a_number() {
        let object = Listed::new(Kind::Routine, "PROCEDURE", "p`;\n", None);
        let shown = Shown {
            sql_mode: "ANSI_QUOTES,NO_BACKSLASH_ESCAPES".into(),
            time_zone: "+00:00".into(),
            text: b"CREATE PROCEDURE `p`() \n;;\nDELIMITER ;\nDROP DATABASE x;\n\\! sh\n".to_vec(),
            charset: "gbk".into(),
            collation: "gbk_chinese_ci".into(),
            database_collation: Some("latin1_german1_ci".into()),
        };
        let bytes = definition(&object, &shown, "latin1_german1_ci", true).unwrap();
        let text = String::from_utf8(bytes).unwrap();
        assert!(text.starts_with("DROP PROCEDURE IF EXISTS `p``;\n`;\nSET sql_mode"), "{text}");
        assert!(text.contains("\nEXECUTE IMMEDIATE 0x435245415445") && !text.contains("DELIMITER"), "{text}");
        let read = defined(text.as_bytes());
        assert!(memchr::memmem::find(&read, b"\nCREATE").is_some(), "{text}");
        assert!(!text.contains("ALTER DATABASE"));
        let other = definition(&object, &shown, "utf8mb4_general_ci", true).unwrap();
        assert_eq!(memmem::find_iter(&other, "ALTER DATABASE COLLATE").count(), 2);
        let evil = Shown { charset: "x; DROP DATABASE y".into(), ..shown };
        assert!(definition(&object, &evil, "latin1_german1_ci", true).is_err());
    }

    #[test]
    fn a_delimiter_is_not_in_what_it_delimits() {
        let text = String::from_utf8(as_text(b"a;;0\n;;1\nDELIMITER ;").unwrap()).unwrap();
        assert_eq!(text, "DELIMITER ;;2\na;;0\n;;1\nDELIMITER ;\n;;2\nDELIMITER ;\n");
        assert!(as_text(b"x \\C gbk").is_err());
    }
}
