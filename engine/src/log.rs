//! Statements and requests to servers, as events of the log at debug: the target `statement`, its duration, and no secret
//! of what is said. Nothing is measured or formatted while nobody listens.

pub use chunkstore::log::ms;
use std::borrow::Cow;
use std::fmt::Display;
use std::time::Instant;

/// Target of events that are statements to a server, at debug.
pub const STATEMENT: &str = "statement";
/// Target of events that are programs which esker runs.
pub const CHILD: &str = "child";
/// Characters of a statement that are shown.
const SHOWN: usize = 240;
/// Words from which on a statement may hold a secret, or values of rows: the rest is not shown. Lower case.
const ENDS: &[&str] = &[
    "password",
    "passwd",
    "passphrase",
    "pwd",
    "identified",
    "secret",
    "token",
    "credential",
    "auth",
    "connection",
    " values",
];

/// A statement on its way; it is told in the log when it has been answered.
#[must_use]
pub struct Asked(Option<Instant>);

/// Begins to measure a statement, if somebody listens.
#[expect(clippy::disallowed_methods, reason = "durations in the log, on which nothing depends")]
pub fn asked() -> Asked {
    Asked(tracing::enabled!(target: STATEMENT, tracing::Level::DEBUG).then(Instant::now))
}

impl Asked {
    /// Tells what was said and that it was answered, or why not. `said` is called if somebody listens; what it gives is
    /// shown without secrets.
    pub fn told<T, E: Display>(
        self,
        system: &'static str,
        said: impl FnOnce() -> String,
        answer: &std::result::Result<T, E>,
    ) {
        let Some(began) = self.0 else { return };
        let said = said();
        let error = answer.as_ref().err().map(|error| without_secrets(&error.to_string()).into_owned());
        let statement = without_secrets(&said);
        tracing::debug!(target: STATEMENT, system, ms = ms(began), error, "{statement}");
    }
}

/// What can be shown of a statement: its beginning, up to where a secret or the values of rows may begin.
#[must_use]
pub fn without_secrets(statement: &str) -> Cow<'_, str> {
    let lower = statement.to_ascii_lowercase();
    let secret = ENDS.iter().filter_map(|word| lower.find(word).map(|at| at + word.len())).min();
    let long = statement.char_indices().nth(SHOWN).map(|(at, _)| at);
    match [secret, long].into_iter().flatten().min().filter(|end| *end < statement.len()) {
        Some(end) => format!("{} …", statement.get(..end).unwrap_or_default()).into(),
        None => statement.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_is_shown_up_to_its_secret() {
        for statement in [
            "ALTER ROLE keeper PASSWORD 'hunter2'",
            "alter role keeper password E'hunter2'",
            "CREATE USER 'k'@'%' IDENTIFIED VIA ed25519 USING 'hunter2'",
            "INSERT INTO t VALUES ('hunter2')",
            "CREATE SUBSCRIPTION s CONNECTION 'host=h user=u sslkey=hunter2'",
            "ALTER SERVER s OPTIONS (ADD api_token 'hunter2')",
        ] {
            let shown = without_secrets(statement);
            assert!(!shown.contains("hunter2") && shown.ends_with('…'), "{shown}");
        }
        assert_eq!(without_secrets("SELECT 1"), "SELECT 1");
        let long = format!("SELECT '{}'", "ä".repeat(1000));
        assert_eq!(without_secrets(&long).chars().count(), SHOWN + 2);
    }
}
