//! Accounts and their rights, as the server itself says them: each of its rows is one statement. mariadb-dump's own script of
//! them leaves out what is granted to PUBLIC, and breaks where an account has two rows.
//! Source: MariaDB's documentation, "SHOW CREATE USER", "SHOW GRANTS", "Roles".

use super::lexer::statement_len;
use crate::server::{Script, Server, quoted};
use engine::source::{SourceError, SourceErrorKind};

/// Who makes the roles, so that the account that restores does not come to have them.
const MAKER: &str = "mariadb_dump_import_role";

/// The statements that make the accounts of a server.
pub(super) fn read(server: &Server) -> Result<String, SourceError> {
    let rows = server.query(
        "SELECT User, Host, is_role, default_role FROM mysql.user WHERE BINARY User <> 'PUBLIC' OR is_role = 'N' ORDER BY 3, 1, 2",
    )?;
    let (mut users, mut roles, mut defaults) = (vec![], vec![], vec![]);
    for row in rows {
        let [user, host, is_role, default] = <[String; 4]>::try_from(row).unwrap_or_default();
        if is_role == "Y" {
            roles.push(quoted(&user));
            continue;
        }
        let account = format!("{}@{}", quoted(&user), quoted(&host));
        let default = if default.is_empty() { "NONE".to_owned() } else { quoted(&default) };
        defaults.push(format!("SET DEFAULT ROLE {default} FOR {account}"));
        users.push(account);
    }
    roles.retain(|role| *role != quoted(MAKER));
    let mut all = vec!["SET NAMES utf8mb4".to_owned(), "SET sql_mode = ''".to_owned()];
    for row in ask(server, "SHOW CREATE USER", &users)? {
        all.push(match row.strip_prefix("CREATE USER ") {
            Some(rest) => format!("CREATE USER IF NOT EXISTS {rest}"),
            None => row,
        });
    }
    all.push(format!("CREATE ROLE IF NOT EXISTS {MAKER}"));
    all.push(format!("GRANT {MAKER} TO CURRENT_USER()"));
    all.push(format!("SET ROLE {MAKER}"));
    all.extend(roles.iter().map(|role| format!("CREATE ROLE IF NOT EXISTS {role} WITH ADMIN {MAKER}")));
    let mut holders = [users, roles].concat();
    // Since 10.11; others take it for the name of an account, and there is none.
    if server.query("SHOW GRANTS FOR PUBLIC").is_ok() {
        holders.push("PUBLIC".into());
    }
    all.extend(ask(server, "SHOW GRANTS FOR", &holders)?);
    all.extend(defaults);
    all.push("SET ROLE NONE".into());
    all.push(format!("DROP ROLE {MAKER}"));
    let mut text = String::new();
    for statement in all {
        let statement = statement + ";";
        if statement_len(statement.as_bytes()) != statement.len() {
            let why = format!("says of an account what is no statement: {statement}");
            return Err(server.error(SourceErrorKind::Incomplete, why));
        }
        text.push_str(&statement);
        text.push('\n');
    }
    Ok(text)
}

/// What the server shows of each.
fn ask(server: &Server, what: &str, holders: &[String]) -> Result<Vec<String>, SourceError> {
    let mut script = Script::default();
    script.add("settings", b"SET sql_mode = ''");
    for holder in holders {
        script.add(holder, format!("{what} {holder}").as_bytes());
    }
    let outcome = script.run(server, false)?;
    if let Some((number, why)) = outcome.failures.into_iter().next() {
        let why = format!("account {}: {why}", script.label(number));
        return Err(server.error(SourceErrorKind::Unavailable, why));
    }
    let text = |value: Vec<u8>| String::from_utf8(value).ok();
    let rows = outcome.rows.into_iter().map(|row| row.into_iter().next().and_then(text));
    rows.collect::<Option<_>>().ok_or_else(|| {
        server.error(SourceErrorKind::Incomplete, "has a name of an account that is not UTF-8")
    })
}
