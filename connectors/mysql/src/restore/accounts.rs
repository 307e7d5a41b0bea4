//! Accounts and their rights. An account that is there already keeps its own way to log in: the one that restores must not
//! lock itself out, and nobody's password changes because another server had an account of that name.
//!
//! The script comes apart at statements, never at lines: a name may hold any text. Each is run by itself, so that one which is
//! refused costs no other, and by its bytes, so that no client has a say in where it ends.

use super::Work;
use crate::dump::{executes, name, statement_len};
use crate::server::{Script, error_number, hexadecimal};
use engine::Result;
use std::collections::{BTreeMap, BTreeSet};

const CREATE_USER: &str = "CREATE USER IF NOT EXISTS ";
const ALTER_USER: &str = "ALTER USER ";

/// User and host.
type Account = (String, String);

/// Accounts that are there before anything is restored.
#[derive(Default)]
pub(super) struct Before(BTreeSet<Account>);

impl Work<'_> {
    /// Accounts that the server has.
    pub(super) fn accounts_before(&self) -> Result<Before> {
        let rows = self.server.query("SELECT User, Host FROM mysql.user")?;
        Ok(Before(
            rows.into_iter().filter_map(|row| <[String; 2]>::try_from(row).ok()).map(Into::into).collect(),
        ))
    }

    /// Accounts and their rights. Those that are refused do not keep the rest from coming back; they are returned, by the
    /// number of the statement in `path` that says them.
    pub(super) fn accounts(&self, path: &str, before: &Before) -> Result<BTreeMap<usize, String>> {
        let text = self.text(path)?;
        let version = self.server.query("SELECT VERSION()")?.into_iter().flatten().next().unwrap_or_default();
        let executes = executes(&version);
        let (mut refused, mut script, mut numbers) = (BTreeMap::new(), Script::default(), vec![]);
        for (number, statement) in mended(&text).iter().enumerate() {
            match own(statement, before) {
                Ok(None) => {}
                Ok(Some(sql)) => {
                    let sql = if executes {
                        format!("EXECUTE IMMEDIATE {}", hexadecimal(sql.as_bytes()))
                    } else {
                        sql
                    };
                    script.add("accounts", sql.as_bytes());
                    numbers.push(number);
                }
                Err(why) => {
                    // Where one is not what it seems, the next need not begin where it ends.
                    refused.insert(number, format!("{why}; nothing behind it is run"));
                    break;
                }
            }
        }
        for (at, why) in script.run(self.server, true)?.failures {
            // A comment for other versions is no statement.
            if let Some(number) = numbers.get(at).filter(|_| error_number(&why) != Some(1065)) {
                refused.insert(*number, why);
            }
        }
        Ok(refused)
    }
}

/// The statements of a dump of accounts. mariadb-dump takes the second line that the server has of an account, `ALTER USER`, for
/// a first one, and cuts off what is as long as `CREATE USER`.
fn mended(text: &str) -> Vec<String> {
    let (mut rest, mut found) = (text, vec![]);
    while !rest.is_empty() {
        let cut = rest.trim_start().strip_prefix(CREATE_USER).filter(|account| !account.starts_with('`'));
        let whole = cut.map_or_else(|| rest.to_owned(), |cut| format!("{ALTER_USER}`{cut}"));
        let len = statement_len(whole.as_bytes());
        rest = &rest[rest.len() - (whole.len() - len)..];
        found.push(whole[..len].to_owned());
    }
    found
}

/// A statement as it is to be run here; none, if it is not. Whatever is not as the dump of accounts writes it is refused.
fn own(statement: &str, before: &Before) -> std::result::Result<Option<String>, String> {
    let text = statement.trim();
    let refused = || {
        Err(format!(
            "not as a statement about accounts is written: {}",
            text.chars().take(200).collect::<String>()
        ))
    };
    let text = text.strip_suffix(';').unwrap_or(text);
    if text.is_empty() || text.starts_with("--") || text.starts_with("/*M!100203 EXECUTE IMMEDIATE ") {
        return Ok(None);
    }
    // Every server has this one, and nobody but root may give it.
    if text.starts_with("GRANT PROXY ON ``@`%` TO `root`@") {
        return Ok(None);
    }
    if let Some(rest) = text.strip_prefix(CREATE_USER) {
        return match account(rest) {
            Some(_) => Ok(Some(text.to_owned())),
            None => refused(),
        };
    }
    if let Some(rest) = text.strip_prefix(ALTER_USER) {
        return match account(rest) {
            Some(account) if before.0.contains(&account) => Ok(None),
            Some(_) => Ok(Some(text.to_owned())),
            None => refused(),
        };
    }
    if text.starts_with("GRANT ") {
        return rights(text).map_or_else(refused, |grant| Ok(Some(grant)));
    }
    let known = [
        "/*",
        "SET ",
        "CREATE ROLE IF NOT EXISTS ",
        "CREATE SERVER ",
        "DROP ROLE mariadb_dump_import_role",
        "SELECT COALESCE(CURRENT_ROLE(),'NONE') into @current_role",
    ];
    match known.iter().any(|known| text.starts_with(known)) {
        true => Ok(Some(text.to_owned())),
        false => refused(),
    }
}

/// The account that a text begins with.
fn account(text: &str) -> Option<Account> {
    let (user, rest) = name(text.as_bytes())?;
    let (host, _) = name(rest.strip_prefix(b"@")?)?;
    Some((user, host))
}

/// A GRANT without what it says of the account itself, which `CREATE USER` has said if the account is new. `None` if it is not
/// understood whole: what is right, to whom, and what follows.
fn rights(grant: &str) -> Option<String> {
    let to = unquoted(grant, " TO ")? + " TO ".len();
    let target = &grant[to..];
    let end = if target.starts_with('`') {
        let (_, rest) = name(target.as_bytes())?;
        let rest = match rest.strip_prefix(b"@") {
            Some(host) => name(host)?.1,
            None => rest,
        };
        grant.len() - rest.len()
    } else {
        let word = target.find(' ').unwrap_or(target.len());
        let is_word =
            |target: &str| ["PUBLIC", "CURRENT_USER()"].contains(&target) || target.starts_with('\'');
        match is_word(&target[..word]) {
            true => to + word,
            false => return None,
        }
    };
    let rest = &grant[end..];
    if rest.is_empty() {
        return Some(grant.to_owned());
    }
    if ![" IDENTIFIED ", " REQUIRE ", " WITH "].iter().any(|word| rest.starts_with(word)) {
        return None;
    }
    let has = |option: &str| {
        [format!(" WITH {option}"), format!(" {option}")]
            .iter()
            .any(|option| unquoted(rest, option).is_some())
    };
    let option = match (has("GRANT OPTION"), has("ADMIN OPTION")) {
        (true, _) => " WITH GRANT OPTION",
        (false, true) => " WITH ADMIN OPTION",
        (false, false) => "",
    };
    Some(format!("{}{option}", &grant[..end]))
}

/// Where a word stands outside of quotes.
fn unquoted(line: &str, word: &str) -> Option<usize> {
    let mut quote = None;
    let mut skip = false;
    for (at, byte) in line.bytes().enumerate() {
        match (quote, byte) {
            _ if std::mem::take(&mut skip) => {}
            (Some(open), _) if open != b'`' && byte == b'\\' => skip = true,
            (Some(open), _) if open == byte => quote = None,
            (None, b'`' | b'\'' | b'"') => quote = Some(byte),
            (None, _) if line.as_bytes()[at..].starts_with(word.as_bytes()) => return Some(at),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grant_says_nothing_of_the_login() {
        for (grant, expected) in [
            ("GRANT USAGE ON *.* TO `a`@`%` IDENTIFIED BY PASSWORD '*B6'", "GRANT USAGE ON *.* TO `a`@`%`"),
            (
                "GRANT ALL PRIVILEGES ON *.* TO `a IDENTIFIED `@`%` IDENTIFIED VIA x USING 'y\\' WITH GRANT OPTION' REQUIRE X509 WITH GRANT OPTION MAX_USER_CONNECTIONS 3",
                "GRANT ALL PRIVILEGES ON *.* TO `a IDENTIFIED `@`%` WITH GRANT OPTION",
            ),
            ("GRANT USAGE ON *.* TO `a`@`%` REQUIRE SSL", "GRANT USAGE ON *.* TO `a`@`%`"),
            ("GRANT USAGE ON *.* TO `a`@`%` WITH MAX_QUERIES_PER_HOUR 1", "GRANT USAGE ON *.* TO `a`@`%`"),
            ("GRANT `r` TO `a`@`%` WITH ADMIN OPTION", "GRANT `r` TO `a`@`%` WITH ADMIN OPTION"),
            ("GRANT `r` TO `q`", "GRANT `r` TO `q`"),
            ("GRANT SELECT ON `z`.* TO PUBLIC", "GRANT SELECT ON `z`.* TO PUBLIC"),
            ("GRANT SELECT ON ` WITH `.* TO `a`@`%`", "GRANT SELECT ON ` WITH `.* TO `a`@`%`"),
            (
                "GRANT SELECT ON `z`.`x\nGRANT  WITH  foo TO ``b``` TO `a`@`%`",
                "GRANT SELECT ON `z`.`x\nGRANT  WITH  foo TO ``b``` TO `a`@`%`",
            ),
        ] {
            assert_eq!(rights(grant).as_deref(), Some(expected));
        }
        for unclear in
            ["GRANT SELECT ON `a", "GRANT SELECT ON a.* TO `b`@`c` x", "GRANT x TO a;b", "GRANT x TO `a`@b"]
        {
            assert_eq!(rights(unclear), None, "{unclear}");
        }
    }

    #[test]
    fn an_account_of_two_lines() {
        let text = "CREATE USER IF NOT EXISTS `a`@`%`;\nCREATE USER IF NOT EXISTS exp`@`localhost` PASSWORD EXPIRE INTERVAL 30 DAY;\nGRANT SELECT ON `z`.`x;\nGRANT  WITH  foo` TO `b`@`%`;\n";
        let expected = [
            "CREATE USER IF NOT EXISTS `a`@`%`;",
            "ALTER USER `exp`@`localhost` PASSWORD EXPIRE INTERVAL 30 DAY;",
            "\nGRANT SELECT ON `z`.`x;\nGRANT  WITH  foo` TO `b`@`%`;",
            "\n",
        ];
        assert_eq!(mended(text), expected);
    }

    #[test]
    fn nothing_but_statements_about_accounts() {
        let before = Before([("old".to_owned(), "%".to_owned())].into());
        let own = |text: &str| own(text, &before);
        assert_eq!(own("\nALTER USER `old`@`%` PASSWORD EXPIRE;"), Ok(None));
        assert!(own("ALTER USER `new`@`%` PASSWORD EXPIRE;").is_ok_and(|text| text.is_some()));
        assert!(own("CREATE USER IF NOT EXISTS exp`@`localhost` PASSWORD EXPIRE;").is_err());
        assert!(own("foo` TO `a`@`%`;").is_err());
        assert!(own("DROP DATABASE x;").is_err());
    }
}
