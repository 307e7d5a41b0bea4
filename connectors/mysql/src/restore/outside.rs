//! What a binary log would do outside of the databases that are restored: to other databases of the server, to accounts that
//! it has, and to the code that it loads. A log is of another server, or of another time: names in it may mean something
//! else here.
//!
//! A database that the log might change is a reason to refuse. The check errs on the side of refusing: a database is named in
//! SQL before a dot, or in a statement about databases. A statement about an account that is there is left out, as the
//! restore leaves such accounts alone. Source: MariaDB's documentation, "Identifier Qualifiers", "Account Management".

use memchr::memmem;
use std::collections::BTreeSet;

/// Tables of the server's own of which rows may be replayed: no rights and no code are in them.
const HARMLESS_TABLES: [&str; 9] = [
    "time_zone",
    "time_zone_leap_second",
    "time_zone_name",
    "time_zone_transition",
    "time_zone_transition_type",
    "gtid_slave_pos",
    "column_stats",
    "index_stats",
    "table_stats",
];
/// Words of a statement that are looked at.
const WORDS: usize = 14;

/// What the server has that is none of the restore's.
#[derive(Default)]
pub(super) struct Outside {
    /// Databases.
    pub(super) databases: Vec<Vec<u8>>,
    /// Names of accounts, roles, and foreign servers.
    pub(super) accounts: BTreeSet<Vec<u8>>,
    /// What was left out of the log, for people.
    pub(super) left_out: Vec<String>,
}

impl Outside {
    /// Looks at rows of a table.
    ///
    /// # Errors
    /// If they may not be replayed: why.
    pub(super) fn rows(&self, database: &[u8], table: &[u8]) -> Result<(), String> {
        if database.eq_ignore_ascii_case(b"mysql") {
            let is_harmless = HARMLESS_TABLES.iter().any(|own| table.eq_ignore_ascii_case(own.as_bytes()));
            return if is_harmless { Ok(()) } else { Err(of_the_server(table)) };
        }
        self.is_ours(database)
    }

    /// Looks at a statement that is run with a default database; whether it is to be replayed.
    ///
    /// # Errors
    /// If the log may not be replayed because of it: why.
    pub(super) fn statement(&mut self, default: &[u8], text: &[u8]) -> Result<bool, String> {
        let words = words(text);
        let word = |at: usize| words.get(at).map_or("", String::as_str);
        if matches!(word(0), "BEGIN" | "COMMIT" | "ROLLBACK" | "SAVEPOINT" | "RELEASE" | "XA") {
            return Ok(true);
        }
        let kind = match word(0) {
            "CREATE" if word(1) == "OR" => word(3),
            "CREATE" | "ALTER" | "DROP" | "RENAME" => word(1),
            _ => "",
        };
        if matches!(word(0), "GRANT" | "REVOKE")
            || (word(0) == "SET" && matches!(word(1), "PASSWORD" | "DEFAULT" | "ROLE"))
            || matches!(kind, "USER" | "ROLE" | "SERVER")
        {
            let is_there = self.accounts.iter().any(|name| is_named(text, name))
                || text.windows(12).any(|some| some.eq_ignore_ascii_case(b"current_user"));
            if is_there {
                self.left_out.push(format!("{} {}", word(0), word(1)).trim().to_owned());
            }
            return Ok(!is_there);
        }
        let is_function = matches!(kind, "FUNCTION" | "AGGREGATE");
        if is_function && words.windows(3).any(|some| some[0] == "RETURNS" && some[2] == "SONAME")
            || word(0) == "INSTALL"
        {
            self.left_out.push("a function or plugin of a library".to_owned());
            return Ok(false);
        }
        let writes = matches!(word(0), "INSERT" | "UPDATE" | "DELETE" | "REPLACE" | "TRUNCATE" | "LOAD")
            || matches!(kind, "TABLE" | "TABLES");
        if writes && (default.eq_ignore_ascii_case(b"mysql") || is_qualifier(text, b"mysql")) {
            return Err(of_the_server(b""));
        }
        self.is_ours(default)?;
        let is_of_databases = matches!(kind, "DATABASE" | "SCHEMA");
        for name in &self.databases {
            if is_qualifier(text, name) || is_of_databases && is_named(text, name) {
                return Err(of_another(name));
            }
        }
        Ok(true)
    }

    /// Looks at what is stored to be run by statements: routines, triggers.
    ///
    /// # Errors
    /// If it may change another database.
    pub(super) fn code(&self, text: &[u8]) -> Result<(), String> {
        match self.databases.iter().find(|name| is_qualifier(text, name)) {
            Some(name) => Err(of_another(name)),
            None => Ok(()),
        }
    }

    fn is_ours(&self, database: &[u8]) -> Result<(), String> {
        match self.databases.iter().find(|name| name.eq_ignore_ascii_case(database)) {
            Some(name) => Err(of_another(name)),
            None => Ok(()),
        }
    }
}

fn of_another(name: &[u8]) -> String {
    format!(
        "may change database '{}', which the server has and the snapshot has not: rename or drop it first, or restore up to an \
         earlier moment by --time, or single databases, without the log, by --database",
        engine::shown::name(name)
    )
}

fn of_the_server(table: &[u8]) -> String {
    let table = if table.is_empty() { "tables".to_owned() } else { engine::shown::name(table).to_string() };
    format!(
        "changes {table} of the server's own database 'mysql': restore up to an earlier moment by --time, or single databases, \
         without the log, by --database"
    )
}

/// The first words of a statement in upper case, without comments; what versions are told by comments is read.
fn words(text: &[u8]) -> Vec<String> {
    let (mut rest, mut all) = (text, vec![]);
    while all.len() < WORDS {
        rest = without_blanks(rest);
        if let Some(inside) = rest.strip_prefix(b"/*").map(|rest| rest.strip_prefix(b"M").unwrap_or(rest)) {
            // What is left is `/*!`: code for some versions.
            rest = inside.strip_prefix(b"!").unwrap_or(inside);
            rest = &rest[rest.iter().take_while(|byte| byte.is_ascii_digit()).count()..];
            continue;
        }
        if let Some(behind) = rest.strip_prefix(b"*/") {
            rest = behind;
            continue;
        }
        let len = rest.iter().take_while(|byte| byte.is_ascii_alphanumeric() || **byte == b'_').count();
        match (len, rest.first()) {
            (0, None) => break,
            // A name in quotes, a sign: the words behind it count, too.
            (0, Some(quote @ (b'`' | b'\'' | b'"'))) => {
                let end = memchr::memchr(*quote, &rest[1..]).map_or(rest.len(), |end| end + 2);
                rest = &rest[end..];
            }
            (0, Some(_)) => rest = &rest[1..],
            (len, _) => {
                all.push(String::from_utf8_lossy(&rest[..len]).to_ascii_uppercase());
                rest = &rest[len..];
            }
        }
    }
    all
}

/// A text without the blanks and the comments at its beginning.
fn without_blanks(mut text: &[u8]) -> &[u8] {
    loop {
        text = text.trim_ascii_start();
        let is_code = text.starts_with(b"/*!") || text.starts_with(b"/*M!");
        let end: &[u8] = match text {
            [b'/', b'*', ..] if !is_code => b"*/",
            [b'#', ..] | [b'-', b'-', ..] => b"\n",
            _ => return text,
        };
        text = memmem::find(text, end).map_or(b"", |at| &text[at + end.len()..]);
    }
}

const fn is_of_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | 0x80..)
}

/// What stands behind each place of a text that may be a name. One with other characters than plain ones has several forms.
fn places<'t>(text: &'t [u8], name: &[u8]) -> Vec<&'t [u8]> {
    let is_end = |byte: Option<&u8>| byte.is_none_or(|byte| !is_of_name(*byte));
    let places = (0..text.len().saturating_sub(name.len() - name.len().min(1))).filter(|at| {
        let end = at + name.len();
        text.get(*at..end).is_some_and(|some| some.eq_ignore_ascii_case(name))
            && is_end(at.checked_sub(1).and_then(|before| text.get(before)))
            && is_end(text.get(end))
    });
    places.map(|at| &text[at + name.len()..]).collect()
}

fn is_plain(name: &[u8]) -> bool {
    !name.is_empty()
        && name.iter().all(|byte| byte.is_ascii_graphic() && !b"`'\"\\".contains(byte) || *byte == b' ')
}

/// Whether a text may hold a name.
fn is_named(text: &[u8], name: &[u8]) -> bool {
    match name {
        // An account without a name is one in empty quotes.
        b"" => [&b"''"[..], b"``", b"\"\""].iter().any(|empty| memmem::find(text, empty).is_some()),
        name => !is_plain(name) || !places(text, name).is_empty(),
    }
}

/// Whether a text may hold a name that qualifies another: before a dot.
fn is_qualifier(text: &[u8], name: &[u8]) -> bool {
    let is_dot = |behind: &&[u8]| {
        let behind = match behind {
            [b'`' | b'"', rest @ ..] => rest,
            behind => behind,
        };
        without_blanks(behind).starts_with(b".")
    };
    match is_plain(name) {
        true => places(text, name).iter().any(is_dot),
        false => memchr::memchr(b'.', text).is_some(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outside() -> Outside {
        Outside {
            databases: vec![b"neigh".to_vec(), b"a.b".to_vec()],
            accounts: [&b"root"[..], b"o'x"].map(<[u8]>::to_vec).into(),
            left_out: vec![],
        }
    }

    #[test]
    fn what_may_change_another_database_is_refused() {
        for text in [
            "drop database neigh",
            "DROP /* x */ SCHEMA IF EXISTS `NEIGH`",
            "create database neigh",
            "/*!50003 ALTER*/ DATABASE neigh COMMENT 'x'",
            "insert into neigh.t values (1)",
            "insert into `neigh` . t values (1)",
            "insert into neigh/* */ -- x\n .t values (1)",
            "rename table shop.t to neigh.t",
            "create trigger shop.x before insert on shop.t for each row insert into neigh.t values (1)",
            "insert into `a.b`.t values (1)",
            "update mysql.global_priv set priv = 1",
            "insert into mysql . user values (1)",
        ] {
            assert!(outside().statement(b"shop", text.as_bytes()).is_err(), "{text}");
        }
        for text in [
            "BEGIN",
            "COMMIT",
            "create database other",
            "insert into shop.t values ('neigh')",
            "insert into shop.neigh values (1)",
            "insert into neighbours.t values (1)",
            "create procedure p() select * from mysql.user",
        ] {
            assert_eq!(outside().statement(b"shop", text.as_bytes()), Ok(true), "{text}");
        }
        assert!(outside().statement(b"neigh", b"insert into t values (1)").is_err());
        assert!(outside().statement(b"mysql", b"delete from user").is_err());
        assert_eq!(outside().statement(b"neigh", b"BEGIN"), Ok(true));
        assert!(outside().rows(b"Neigh", b"t").is_err() && outside().rows(b"shop", b"neigh").is_ok());
        assert!(outside().rows(b"mysql", b"global_priv").is_err());
        assert!(outside().rows(b"mysql", b"time_zone").is_ok());
        assert!(outside().code(b"begin insert into neigh.t values (1); end").is_err());
    }

    #[test]
    fn accounts_that_are_there_stay_as_they_are() {
        let mut outside = outside();
        for text in [
            "SET PASSWORD FOR 'root'@'%' = 'x'",
            "drop user root",
            "CREATE OR REPLACE USER IF NOT EXISTS `root`@localhost",
            "GRANT ALL ON *.* TO new, root@'%'",
            "REVOKE r FROM 'o\\'x'@'%'",
            "/* x */ ALTER USER CURRENT_USER() IDENTIFIED BY 'x'",
            "CREATE FUNCTION f RETURNS INTEGER SONAME 'x.so'",
            "DROP SERVER root",
        ] {
            assert_eq!(outside.statement(b"", text.as_bytes()), Ok(false), "{text}");
        }
        assert_eq!(outside.left_out.len(), 8);
        outside.accounts.remove(&b"o'x"[..]);
        for text in [
            "CREATE USER new",
            "GRANT ALL ON shop.* TO new",
            "DROP ROLE roots",
            "create table user (a int)",
            "CREATE DEFINER=`root`@`%` VIEW v AS SELECT user FROM t",
            "CREATE FUNCTION soname() RETURNS int RETURN 1",
        ] {
            assert_eq!(outside.statement(b"", text.as_bytes()), Ok(true), "{text}");
        }
    }
}
