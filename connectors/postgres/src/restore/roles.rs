//! Roles that a dump names: owners, those who were given something, those whom a policy is for.

use crate::sql::{Token, statements, tokens};
use crate::toc::TocEntry;
use std::collections::BTreeSet;

/// Roles that entries need; with `no_owner`, those that are needed all the same.
pub(super) fn of_entries<'a>(
    entries: impl Iterator<Item = &'a TocEntry>,
    no_owner: bool,
) -> BTreeSet<String> {
    let mut roles = BTreeSet::new();
    for entry in entries {
        match entry.kind.as_str() {
            "ACL" | "DEFAULT ACL" if no_owner => continue,
            // These are given back, or left out, with the database.
            "DATABASE" | "DATABASE PROPERTIES" => continue,
            "ACL" | "DEFAULT ACL" | "POLICY" | "USER MAPPING" => {
                statements(&entry.definition).iter().for_each(|text| roles.extend(named(text)));
            }
            _ => {}
        }
        if !no_owner && !entry.owner.is_empty() {
            roles.insert(entry.owner.clone());
        }
    }
    // What is not UTF-8 cannot be looked for.
    roles.retain(|name| !name.contains(char::REPLACEMENT_CHARACTER));
    roles
}

/// Roles that a statement names.
pub(super) fn named(statement: &str) -> BTreeSet<String> {
    let all = tokens(statement);
    let mut roles = BTreeSet::new();
    let word = |at: usize, keyword: &str| all.get(at).is_some_and(|token| token.is(keyword));
    if word(0, "CREATE") && word(1, "USER") && word(2, "MAPPING") {
        roles.extend(list(&all[3..]));
    } else if word(0, "ALTER") && word(1, "ROLE") {
        roles.extend(all.get(2).and_then(Token::name));
    } else if word(0, "SET") && word(1, "SESSION") && word(2, "AUTHORIZATION") {
        roles.extend(all.get(3).and_then(|token| token.name()));
    } else {
        let mut depth = 0;
        for (at, token) in all.iter().enumerate() {
            match token {
                token if token.is_char('(') => depth += 1,
                token if token.is_char(')') => depth -= 1,
                token if depth == 0 && (token.is("TO") || token.is("FROM")) => {
                    roles.extend(list(&all[at..]));
                    if word(1, "POLICY") {
                        break;
                    }
                }
                token if depth == 0 && token.is("FOR") && word(at + 1, "ROLE") => {
                    roles.extend(list(&all[at + 1..]));
                }
                token if depth == 0 && token.is("GRANTED") && word(at + 1, "BY") => {
                    roles.extend(list(&all[at + 1..]));
                }
                _ => {}
            }
        }
    }
    roles
}

/// Whether a statement takes privileges from everybody and from nobody else: no role is needed for that.
pub(super) fn takes_from_everybody(statement: &str) -> bool {
    let all = tokens(statement);
    let is_revoke = all.first().is_some_and(|first| first.is("REVOKE"));
    is_revoke && named(statement).is_empty() && all.iter().any(|token| token.is("PUBLIC"))
}

/// Names after a keyword, with commas between them; those that mean everybody, or whoever it is, are none.
fn list(all: &[Token<'_>]) -> BTreeSet<String> {
    const NONE: &[&str] = &["public", "current_user", "session_user", "current_role"];
    let mut roles = BTreeSet::new();
    let mut rest = all.get(1..).unwrap_or_default();
    while let Some((token, more)) = rest.split_first() {
        let is_none = NONE.iter().any(|keyword| token.is(keyword));
        roles.extend(token.name().filter(|_| !is_none));
        match more.split_first() {
            Some((comma, after)) if comma.is_char(',') => rest = after,
            _ => break,
        }
    }
    roles
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_from_everybody() {
        for (statement, wanted) in [
            ("REVOKE ALL ON FUNCTION public.f(a integer) FROM PUBLIC", true),
            ("REVOKE USAGE ON SCHEMA \"FROM x\" FROM PUBLIC", true),
            ("REVOKE ALL ON TABLE public.t FROM app", false),
            ("REVOKE ALL ON TABLE public.public FROM app", false),
            ("GRANT ALL ON TABLE public.t TO PUBLIC", false),
        ] {
            assert_eq!(takes_from_everybody(statement), wanted, "{statement}");
        }
    }

    #[test]
    fn roles_of_statements() {
        for (statement, wanted) in [
            ("GRANT SELECT(a),UPDATE(b) ON TABLE public.\"to x\" TO \"a,b\" WITH GRANT OPTION", &["a,b"][..]),
            ("REVOKE ALL ON SCHEMA public FROM PUBLIC", &[]),
            (
                "ALTER DEFAULT PRIVILEGES FOR ROLE app IN SCHEMA s GRANT SELECT ON TABLES  TO staff",
                &["app", "staff"],
            ),
            (
                "CREATE POLICY p ON public.t FOR SELECT TO x, \"Y\" USING ((name = CURRENT_USER) AND (f('TO z')))",
                &["Y", "x"],
            ),
            ("CREATE POLICY p ON public.t USING ((a IS DISTINCT FROM b))", &[]),
            ("CREATE USER MAPPING FOR app SERVER s OPTIONS (a 'FROM b')", &["app"]),
            ("CREATE USER MAPPING FOR PUBLIC SERVER s", &[]),
            ("ALTER ROLE app IN DATABASE shop SET work_mem TO 'x'", &["app"]),
            ("SET SESSION AUTHORIZATION \"g\"\"h\"", &["g\"h"]),
        ] {
            let roles: Vec<String> = named(statement).into_iter().collect();
            assert_eq!(roles, wanted, "{statement}");
        }
    }
}
