//! A cluster's roles and tablespaces, as pg_dumpall wrote them. The text is taken apart into statements, and only those
//! that pg_dumpall writes are run, each by itself. The role that restores keeps its password, its rights to log in and its
//! attributes; its settings come last, so that none of them gets in the way.

use super::spaces::Spaces;
use crate::Connection;
use crate::connection::{PgError, PgResult};
use crate::sql::{Piece, Token, literal, quoted_name, split, tokens};
use engine::{Error, ItemError, Monitor, Result};
use std::collections::BTreeSet;

/// A statement, in its own encoding.
struct Statement {
    bytes: Vec<u8>,
    about: About,
}

/// What a statement is about.
enum About {
    /// The session that reads the text.
    Session,
    /// It makes a role.
    Made(String),
    /// Attributes and password of a role.
    Attributes(String),
    /// A setting of a role.
    Setting(String),
    /// It makes a tablespace.
    MadeSpace { name: String, owner: Option<String>, without_owner: String },
    /// Anything else about a tablespace.
    Space(String),
    /// Comments, labels, memberships, privileges.
    Other,
}

/// Roles and tablespaces of a dump.
#[derive(Default)]
pub(super) struct Globals {
    statements: Vec<Statement>,
    /// Tablespaces that were made before anything else.
    made: BTreeSet<String>,
}

/// What came of it.
#[derive(Default)]
pub(super) struct Outcome {
    /// Roles and tablespaces that were there already.
    pub(super) existing: u64,
    /// Settings of the role that restores, which come last.
    pub(super) last: Vec<Vec<u8>>,
    /// That role, if the dump has it.
    pub(super) own: Option<String>,
}

impl Globals {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self> {
        let bad = |why: String| Error::Malformed { what: "globals.sql".into(), why };
        let mut globals = Self::default();
        for piece in split(bytes) {
            match piece {
                Piece::Command(line) => {
                    let line = String::from_utf8_lossy(&line).into_owned();
                    if !line.starts_with("\\restrict ") && !line.starts_with("\\unrestrict ") {
                        return Err(bad(format!(
                            "{line:?} is a command of psql that pg_dumpall does not write"
                        )));
                    }
                }
                Piece::Statement(bytes) => {
                    let text = String::from_utf8_lossy(&bytes).into_owned();
                    let about = about(&text)
                        .ok_or_else(|| bad(format!("{text:?} is no statement that pg_dumpall writes")))?;
                    globals.statements.push(Statement { bytes, about });
                }
            }
        }
        // Old versions of pg_dumpall put names into comments as they are: what follows a line break is no comment.
        let text = String::from_utf8_lossy(bytes);
        for name in globals.roles().filter(|name| name.contains(['\n', '\r'])) {
            if text.contains(&format!("-- User Config \"{name}\"")) {
                return Err(bad(format!(
                    "the name of role {name:?} extends beyond its comment and may contain statements; back up \
                        again with a newer pg_dumpall, or restore single databases with --database"
                )));
            }
        }
        Ok(globals)
    }

    /// Whether there is nothing in it.
    pub(super) fn is_empty(&self) -> bool {
        self.statements.is_empty()
    }

    /// Roles that it makes.
    pub(super) fn roles(&self) -> impl Iterator<Item = &String> {
        self.statements.iter().filter_map(|statement| match &statement.about {
            About::Made(name) => Some(name),
            _ => None,
        })
    }

    /// Tablespaces that it makes.
    pub(super) fn spaces(&self) -> impl Iterator<Item = &String> {
        self.statements.iter().filter_map(|statement| match &statement.about {
            About::MadeSpace { name, .. } => Some(name),
            _ => None,
        })
    }

    /// Makes the tablespaces that the server lacks, without owners, whose roles come later: whether that is possible, only
    /// the server knows. If it is not, everything is as it was.
    pub(super) fn make_spaces(&mut self, spaces: &Spaces, session: &mut Connection) -> PgResult<()> {
        for statement in &self.statements {
            let About::MadeSpace { name, without_owner, .. } = &statement.about else { continue };
            let there = format!("SELECT 1 FROM pg_catalog.pg_tablespace WHERE spcname = {}", literal(name));
            if !spaces.keeps(name) || !session.query(&there)?.is_empty() {
                continue;
            }
            if let Err(error) = session.query(without_owner) {
                self.unmake_spaces(session);
                return Err(error);
            }
            self.made.insert(name.clone());
        }
        Ok(())
    }

    /// Removes the tablespaces that were made.
    pub(super) fn unmake_spaces(&mut self, session: &mut Connection) {
        for name in std::mem::take(&mut self.made) {
            // What cannot be removed is empty and harms nobody.
            let _ = session.query(&format!("DROP TABLESPACE {}", quoted_name(&name)));
        }
    }

    /// Makes the roles, and gives them and the tablespaces what they had. What the server refuses is told.
    pub(super) fn apply(
        &self,
        spaces: &Spaces,
        session: &mut Connection,
        monitor: &dyn Monitor,
    ) -> PgResult<Outcome> {
        let mut outcome = Outcome::default();
        let own = session.value("SELECT session_user")?;
        let tell = |message: String| {
            let message = engine::shown::line(&message).into_owned();
            monitor.error(ItemError { during: "restore", item: "globals".into(), message });
        };
        for Statement { bytes, about } in &self.statements {
            let done = match about {
                About::Made(name) if *name == own => {
                    outcome.own = Some(own.clone());
                    outcome.existing += 1;
                    continue;
                }
                About::Attributes(name) if *name == own => continue,
                About::Setting(name) if *name == own => {
                    outcome.last.push(bytes.clone());
                    continue;
                }
                About::MadeSpace { name, .. } | About::Space(name) if !spaces.keeps(name) => continue,
                About::MadeSpace { name, owner, .. } if self.made.contains(name) => match owner {
                    Some(owner) => {
                        let (name, owner) = (quoted_name(name), quoted_name(owner));
                        session.query(&format!("ALTER TABLESPACE {name} OWNER TO {owner}")).map(drop)
                    }
                    None => Ok(()),
                },
                About::MadeSpace { .. } => {
                    outcome.existing += 1;
                    Ok(())
                }
                _ => session.run(bytes).map(drop),
            };
            match (done, about) {
                (Err(error), About::Made(_)) if error.code() == "42710" => outcome.existing += 1,
                (Err(PgError::Refused { message, .. }), _) => tell(message),
                (done, _) => done?,
            }
        }
        Ok(outcome)
    }
}

/// What a statement of pg_dumpall is about; `None` if it writes none like it.
fn about(text: &str) -> Option<About> {
    let all = tokens(text);
    let is = |at: usize, keyword: &str| all.get(at).is_some_and(|token| token.is(keyword));
    let name = |at: usize| all.get(at).and_then(Token::name);
    let place = |keyword: &str| all.iter().position(|token| token.is(keyword));
    if is(0, "SET") || is(0, "RESET") {
        return Some(About::Session);
    }
    if is(0, "CREATE") && is(1, "ROLE") && all.len() == 3 {
        return name(2).map(About::Made);
    }
    if is(0, "ALTER") && is(1, "ROLE") {
        return match () {
            () if is(3, "SET") || is(3, "RESET") => name(2).map(About::Setting),
            () if is(3, "WITH") => name(2).map(About::Attributes),
            () => None,
        };
    }
    if is(0, "CREATE") && is(1, "TABLESPACE") {
        let owner = if is(3, "OWNER") { Some(name(4)?) } else { None };
        let mut without_owner = text.to_owned();
        if owner.is_some() {
            without_owner.replace_range(all.get(3)?.at..all.get(4)?.end(), "");
        }
        return Some(About::MadeSpace { name: name(2)?, owner, without_owner });
    }
    if is(0, "ALTER") && is(1, "TABLESPACE") {
        return name(2).map(About::Space);
    }
    let on = place("ON");
    let is_space = on.is_some_and(|on| is(on + 1, "TABLESPACE"));
    if is(0, "GRANT") || is(0, "REVOKE") || is(0, "COMMENT") || (is(0, "SECURITY") && is(1, "LABEL")) {
        return match on {
            Some(on) if is_space => name(on + 2).map(About::Space),
            Some(on) if is(on + 1, "ROLE") || is(on + 1, "PARAMETER") => Some(About::Other),
            None if is(0, "GRANT") || is(0, "REVOKE") => Some(About::Other),
            _ => None,
        };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_pg_dumpall_writes_is_run() {
        for text in [
            "CREATE DATABASE x",
            "CREATE ROLE x SUPERUSER",
            "DO $$ BEGIN END $$",
            "ALTER SYSTEM SET x TO 'y'",
            "COPY x FROM PROGRAM 'y'",
            "GRANT SELECT ON TABLE x TO y",
            "DROP ROLE x",
        ] {
            assert!(Globals::parse(format!("{text};\n").as_bytes()).is_err(), "{text}");
        }
        assert!(Globals::parse(b"CREATE ROLE x;\n\\! touch y\n").is_err());
        let hostile = "CREATE ROLE \"x\n\\! touch y\n\";\nCOMMENT ON ROLE x IS 'a\n\\connect b\n';\nALTER ROLE x SET y TO E'\\n\\\\! z';\n";
        let globals = Globals::parse(hostile.as_bytes()).unwrap();
        assert_eq!(globals.roles().collect::<Vec<_>>(), ["x\n\\! touch y\n"]);
        assert_eq!(globals.statements.len(), 3);
    }

    #[test]
    fn a_name_that_breaks_out_of_its_comment_is_refused() {
        let name = "a\"\n--\n\nALTER ROLE evil WITH SUPERUSER;\n\n--\n-- User Config \"b";
        let text = format!(
            "CREATE ROLE {};\nCREATE ROLE evil;\n--\n-- User Config \"{name}\"\n--\n\nALTER ROLE {} SET x TO 'y';\n",
            quoted_name(name),
            quoted_name(name)
        );
        let Err(error) = Globals::parse(text.as_bytes()) else { panic!("it is run") };
        assert!(error.to_string().contains("globals.sql"), "{error}");
    }

    #[test]
    fn tablespaces() {
        let globals = Globals::parse(b"CREATE TABLESPACE \"a b\" OWNER app LOCATION '/x''y';\nGRANT CREATE ON TABLESPACE \"a b\" TO x;\n").unwrap();
        let About::MadeSpace { name, owner, without_owner } = &globals.statements[0].about else { panic!() };
        assert_eq!((name.as_str(), owner.as_deref()), ("a b", Some("app")));
        assert_eq!(without_owner, "CREATE TABLESPACE \"a b\"  LOCATION '/x''y'");
        assert!(matches!(&globals.statements[1].about, About::Space(name) if name == "a b"));
    }
}
