//! What a dump says of its database as a whole: encoding and locale, owner, who may connect, settings, limit, comment,
//! labels. pg_restore brings these only under the old name; here they come with any, and the database is closed to all but
//! its administrators until its content is whole.

use super::roles::takes_from_everybody;
use super::spaces::Spaces;
use crate::Connection;
use crate::connection::PgResult;
use crate::sql::{Kind, Token, literal, quoted_name, statements, tokens};
use crate::toc::Toc;
use engine::{Error, Result};

/// A dump's entries about the database.
#[derive(Clone, Debug, Default)]
pub(super) struct Definition {
    /// Options of CREATE DATABASE; `None` if the dump does not have them.
    options: Option<Vec<(String, String)>>,
    owner: String,
    /// Statements about privileges.
    privileges: Vec<String>,
    /// Statements about the rest, in their order.
    properties: Vec<String>,
}

/// What becomes of a dump's entries that no statement is.
fn unreadable(statement: &str) -> Error {
    Error::Malformed { what: "the dump's entries about its database".into(), why: format!("'{statement}'") }
}

impl Definition {
    pub(super) fn of(toc: &Toc) -> Result<Self> {
        let mut definition = Self::default();
        for entry in &toc.entries {
            let is_about = entry.tag.starts_with("DATABASE ") && entry.namespace.is_empty();
            match entry.kind.as_str() {
                "DATABASE" => {
                    definition.options = Some(options(&entry.definition)?);
                    definition.owner.clone_from(&entry.owner);
                }
                "ACL" if is_about => definition.privileges.extend(statements(&entry.definition)),
                "DATABASE PROPERTIES" => definition.properties.extend(statements(&entry.definition)),
                "COMMENT" | "SECURITY LABEL" if is_about => {
                    definition.properties.extend(statements(&entry.definition));
                }
                _ => {}
            }
        }
        Ok(definition)
    }

    /// Whether the dump says anything about it.
    pub(super) fn is_known(&self) -> bool {
        self.options.is_some()
    }

    fn option(&self, name: &str) -> Option<String> {
        let (_, value) = self.options.iter().flatten().find(|(key, _)| key.eq_ignore_ascii_case(name))?;
        Some(unquoted(value))
    }

    /// The tablespace it was in.
    pub(super) fn tablespace(&self) -> String {
        self.option("TABLESPACE").unwrap_or_else(|| "pg_default".into())
    }

    /// Statements that name roles.
    pub(super) fn about_roles(&self) -> impl Iterator<Item = &String> {
        self.privileges.iter().chain(self.properties.iter().filter(|text| is_of_role(text)))
    }

    /// Whose it is; empty if nobody's.
    pub(super) fn owner(&self) -> &str {
        &self.owner
    }

    /// The command that makes it, to which nobody can connect.
    pub(super) fn create(&self, name: &str, spaces: &Spaces) -> String {
        let mut sql = format!("CREATE DATABASE {} WITH TEMPLATE = template0", quoted_name(name));
        for (key, value) in self.options.iter().flatten() {
            match key.to_ascii_uppercase().as_str() {
                "TEMPLATE" | "OID" | "ALLOW_CONNECTIONS" => {}
                "TABLESPACE" => {
                    if let Some(space) = spaces.of(&unquoted(value)) {
                        sql += &format!(" TABLESPACE = {}", quoted_name(space));
                    }
                }
                key => sql += &format!(" {key} = {value}"),
            }
        }
        sql + " ALLOW_CONNECTIONS = false"
    }

    /// In what a database that is there is unlike the dump's and can never become like it.
    pub(super) fn difference(
        &self,
        name: &str,
        spaces: &Spaces,
        session: &mut Connection,
    ) -> PgResult<Option<String>> {
        if !self.is_known() {
            return Ok(None);
        }
        let rows = session.query(&format!(
            "SELECT pg_catalog.pg_encoding_to_char(d.encoding), d.datcollate, d.datctype, \
             coalesce(pg_catalog.to_jsonb(d) ->> 'datlocprovider', 'c'), \
             coalesce(pg_catalog.to_jsonb(d) ->> 'datlocale', pg_catalog.to_jsonb(d) ->> 'daticulocale', ''), \
             coalesce(pg_catalog.to_jsonb(d) ->> 'daticurules', ''), t.spcname \
             FROM pg_catalog.pg_database d JOIN pg_catalog.pg_tablespace t ON t.oid = d.dattablespace \
             WHERE d.datname = {}",
            literal(name)
        ))?;
        let has: Vec<String> = rows.into_iter().flatten().map(Option::unwrap_or_default).collect();
        let option = |name: &str| self.option(name).unwrap_or_default();
        let or_locale = |name: &str| self.option(name).or_else(|| self.option("LOCALE")).unwrap_or_default();
        let provider = match option("LOCALE_PROVIDER").as_str() {
            "icu" => "i",
            "builtin" => "b",
            _ => "c",
        };
        let locale = self.option("ICU_LOCALE").or_else(|| self.option("BUILTIN_LOCALE")).unwrap_or_default();
        let wanted = [
            ("encoding", option("ENCODING")),
            ("collation", or_locale("LC_COLLATE")),
            ("character type", or_locale("LC_CTYPE")),
            ("locale provider", provider.to_owned()),
            ("locale", locale),
            ("ICU rules", option("ICU_RULES")),
            ("tablespace", spaces.of(&self.tablespace()).unwrap_or_default().to_owned()),
        ];
        let differs = wanted.iter().zip(&has).find(|((what, wanted), has)| {
            // A tablespace that is not looked at fits.
            wanted != *has && !(*what == "tablespace" && wanted.is_empty())
        });
        Ok(differs.map(|((what, wanted), has)| format!("its {what} is '{has}', and the dump's '{wanted}'")))
    }

    /// The statements that give a database that is whole what the dump says of it; `was_there`: over what it has, and not
    /// over what a restore has made.
    pub(super) fn statements(
        &self,
        name: &str,
        was_there: bool,
        no_owner: bool,
        session: &mut Connection,
    ) -> Result<PgResult<Vec<String>>> {
        let ident = quoted_name(name);
        let mut all = vec![];
        if !was_there {
            all.push(format!("COMMENT ON DATABASE {ident} IS NULL"));
        }
        if !self.is_known() {
            return Ok(Ok(all));
        }
        if was_there {
            match cleared(name, no_owner, session) {
                Ok(statements) => all.extend(statements),
                Err(error) => return Ok(Err(error)),
            }
        }
        if !no_owner {
            let owner = Some(quoted_name(&self.owner)).filter(|_| !self.owner.is_empty());
            if let Some(owner) = &owner {
                all.push(format!("ALTER DATABASE {ident} OWNER TO {owner}"));
                all.push(format!("REVOKE ALL ON DATABASE {ident} FROM {owner}"));
            }
            // What PostgreSQL gives to everybody and to the owner, in its order: the dump's statements begin with that.
            all.push(format!("GRANT CONNECT, TEMPORARY ON DATABASE {ident} TO PUBLIC"));
            all.extend(owner.map(|owner| format!("GRANT ALL ON DATABASE {ident} TO {owner}")));
        } else if !was_there {
            all.push(format!("GRANT CONNECT, TEMPORARY ON DATABASE {ident} TO PUBLIC"));
        }
        // What everybody may not needs no role.
        for statement in self.privileges.iter().filter(|text| !no_owner || takes_from_everybody(text)) {
            all.push(renamed(statement, &ident)?);
        }
        for statement in self.properties.iter().filter(|statement| !(no_owner && is_of_role(statement))) {
            all.push(renamed(statement, &ident)?);
        }
        Ok(Ok(all))
    }

    /// Gives a database that is made to its owner, where a role that is no superuser restores: what is in the schema
    /// `public` can be given only to who may create something there, and that is the database's owner.
    pub(super) fn hand_over(&self, name: &str, session: &mut Connection) -> PgResult<()> {
        let sql = "SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = session_user";
        if self.owner.is_empty() || session.value(sql)? == "t" {
            return Ok(());
        }
        let (name, owner) = (quoted_name(name), quoted_name(&self.owner));
        session.query(&format!("ALTER DATABASE {name} OWNER TO {owner}")).map(drop)
    }

    /// That all of its statements can be read.
    pub(super) fn check(&self) -> Result<()> {
        self.privileges.iter().chain(&self.properties).try_for_each(|text| renamed(text, "x").map(drop))
    }
}

/// Closes a database to all but its owner and administrators.
pub(super) fn close(name: &str, session: &mut Connection) -> PgResult<()> {
    for statement in revoked(name, session)? {
        session.query(&statement)?;
    }
    Ok(())
}

fn revoked(name: &str, session: &mut Connection) -> PgResult<Vec<String>> {
    column(
        session,
        &format!(
            "SELECT DISTINCT pg_catalog.format('REVOKE ALL ON DATABASE %I FROM %s CASCADE', d.datname, \
             CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(a.grantee)) END) \
             FROM pg_catalog.pg_database d, \
             pg_catalog.aclexplode(coalesce(d.datacl, pg_catalog.acldefault('d', d.datdba))) a \
             WHERE d.datname = {} AND a.grantee <> d.datdba",
            literal(name)
        ),
    )
}

fn column(session: &mut Connection, sql: &str) -> PgResult<Vec<String>> {
    Ok(session.query(sql)?.into_iter().filter_map(|row| row.into_iter().next().flatten()).collect())
}

/// Statements that take from a database what it was given.
fn cleared(name: &str, no_owner: bool, session: &mut Connection) -> PgResult<Vec<String>> {
    let of = format!("FROM pg_catalog.pg_database d WHERE d.datname = {}", literal(name));
    let mut all = column(
        session,
        &format!(
            "SELECT pg_catalog.format('ALTER DATABASE %I RESET ALL', d.datname) {of} \
             UNION ALL SELECT pg_catalog.format('ALTER DATABASE %I IS_TEMPLATE false', d.datname) {of} AND d.datistemplate \
             UNION ALL SELECT pg_catalog.format('ALTER DATABASE %I CONNECTION LIMIT -1', d.datname) {of} AND d.datconnlimit <> -1 \
             UNION ALL SELECT pg_catalog.format('COMMENT ON DATABASE %I IS NULL', d.datname) {of} \
             AND EXISTS (SELECT FROM pg_catalog.pg_shdescription c WHERE c.objoid = d.oid \
                 AND c.classoid = 'pg_catalog.pg_database'::pg_catalog.regclass) \
             UNION ALL SELECT pg_catalog.format('SECURITY LABEL FOR %I ON DATABASE %I IS NULL', l.provider, d.datname) \
             FROM pg_catalog.pg_database d JOIN pg_catalog.pg_shseclabel l ON l.objoid = d.oid \
             AND l.classoid = 'pg_catalog.pg_database'::pg_catalog.regclass WHERE d.datname = {}",
            literal(name)
        ),
    )?;
    if !no_owner {
        all.extend(revoked(name, session)?);
        all.extend(column(
            session,
            &format!(
                "SELECT pg_catalog.format('ALTER ROLE %I IN DATABASE %I RESET ALL', r.rolname, d.datname) \
                 FROM pg_catalog.pg_db_role_setting s JOIN pg_catalog.pg_database d ON d.oid = s.setdatabase \
                 JOIN pg_catalog.pg_roles r ON r.oid = s.setrole WHERE d.datname = {}",
                literal(name)
            ),
        )?);
    }
    Ok(all)
}

/// Whether a statement sets something for one role.
fn is_of_role(statement: &str) -> bool {
    matches!(tokens(statement).as_slice(), [alter, role, ..] if alter.is("ALTER") && role.is("ROLE"))
}

/// What stands in quotes.
fn unquoted(value: &str) -> String {
    match tokens(value).first() {
        Some(Token { kind: Kind::Text, text, .. }) => {
            let escapes = text.starts_with(['e', 'E']);
            let inner = text.trim_start_matches(['e', 'E']);
            let inner = inner.strip_prefix('\'').and_then(|inner| inner.strip_suffix('\'')).unwrap_or(inner);
            let inner = inner.replace("''", "'");
            if escapes { inner.replace("\\\\", "\\") } else { inner }
        }
        Some(token) => token.name().unwrap_or_else(|| value.to_owned()),
        None => String::new(),
    }
}

/// `KEY = value` of `CREATE DATABASE name WITH …`.
fn options(definition: &str) -> Result<Vec<(String, String)>> {
    let text = definition.trim_end().trim_end_matches(';');
    let all = tokens(text);
    let bad = || unreadable(definition.trim());
    let [create, database, name, rest @ ..] = all.as_slice() else { return Err(bad()) };
    if !create.is("CREATE") || !database.is("DATABASE") || name.name().is_none() {
        return Err(bad());
    }
    let rest = rest
        .strip_prefix(rest.first().filter(|token| token.is("WITH")).map_or(&[][..], std::slice::from_ref));
    let (pairs, left) = rest.unwrap_or_default().as_chunks::<3>();
    let pairs = pairs.iter().map(|[key, sign, value]| {
        (sign.is_char('=') && key.kind == Kind::Word).then(|| (key.text.to_owned(), value.text.to_owned()))
    });
    pairs.collect::<Option<Vec<_>>>().filter(|_| left.is_empty()).ok_or_else(bad)
}

/// A statement about a database, about the one that is called `ident`. Only the name that the statement is about is
/// exchanged, whatever stands in its texts.
fn renamed(statement: &str, ident: &str) -> Result<String> {
    let all = tokens(statement);
    if let [first, second, third, ..] = all.as_slice()
        && (first.is("SET") || first.is("RESET"))
        && second.is("SESSION")
        && third.is("AUTHORIZATION")
    {
        return Ok(statement.to_owned());
    }
    let is_it = |(at, pair): &(usize, &[Token<'_>])| match pair {
        [before, token] => {
            token.is("DATABASE") && (before.is("ON") || before.is("IN") || (*at == 0 && before.is("ALTER")))
        }
        _ => false,
    };
    let (at, _) = all.windows(2).enumerate().find(is_it).ok_or_else(|| unreadable(statement))?;
    let name = all.get(at + 2).filter(|name| name.name().is_some()).ok_or_else(|| unreadable(statement))?;
    Ok(format!("{}{ident}{}", &statement[..name.at], &statement[name.end()..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_name_is_exchanged() {
        for (statement, wanted) in [
            (
                "ALTER DATABASE shop SET a.b TO 'ON DATABASE shop'",
                "ALTER DATABASE \"x y\" SET a.b TO 'ON DATABASE shop'",
            ),
            (
                "ALTER ROLE database IN DATABASE shop SET a TO 'shop'",
                "ALTER ROLE database IN DATABASE \"x y\" SET a TO 'shop'",
            ),
            (
                "COMMENT ON DATABASE \"a;\"\"b\" IS 'x ON DATABASE y'",
                "COMMENT ON DATABASE \"x y\" IS 'x ON DATABASE y'",
            ),
            ("GRANT CONNECT ON DATABASE shop TO shop", "GRANT CONNECT ON DATABASE \"x y\" TO shop"),
            (
                "SECURITY LABEL FOR 'p' ON DATABASE shop IS 'l'",
                "SECURITY LABEL FOR 'p' ON DATABASE \"x y\" IS 'l'",
            ),
            ("RESET SESSION AUTHORIZATION", "RESET SESSION AUTHORIZATION"),
        ] {
            assert_eq!(renamed(statement, "\"x y\"").unwrap(), wanted);
        }
        renamed("DROP TABLE x", "y").unwrap_err();
    }

    #[test]
    fn what_made_a_database() {
        let text = "CREATE DATABASE \"a WITH\" WITH TEMPLATE = template0 ENCODING = 'UTF8' ICU_RULES = '&a < b;''' TABLESPACE = \"T;s\";\n";
        let definition = Definition { options: Some(options(text).unwrap()), ..Definition::default() };
        assert_eq!(
            (definition.tablespace().as_str(), definition.option("icu_rules").as_deref()),
            ("T;s", Some("&a < b;'"))
        );
        assert_eq!(
            definition.create("n\"", &Spaces::default()),
            "CREATE DATABASE \"n\"\"\" WITH TEMPLATE = template0 ENCODING = 'UTF8' ICU_RULES = '&a < b;''' TABLESPACE = \"T;s\" ALLOW_CONNECTIONS = false"
        );
        options("CREATE TABLE x").unwrap_err();
    }
}
