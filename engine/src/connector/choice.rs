//! The choices of a restore into a target, declared as data: the command line, help, documents and the refusal of other
//! choices follow from it.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};

/// A flag of `esker restore`.
#[derive(Clone, Copy, Debug)]
pub struct Choice {
    /// Its name, without `--`.
    pub flag: &'static str,
    /// What stands for its value in help; `None` for a flag without one.
    pub value: Option<&'static str>,
    /// Whether it can be given several times.
    pub many: bool,
    /// Whether its value must be UTF-8.
    pub text: bool,
    /// Whether its value is a file, of which each line is one: the command reads it.
    pub lines: bool,
    /// What it does, for help.
    pub about: &'static str,
    /// Flags that it does not go together with.
    pub conflicts: &'static [&'static str],
    /// Flags of which one must be given, too; empty for none.
    pub needs: &'static [&'static str],
    /// What is wrong with a value.
    pub check: fn(&OsStr) -> Result<(), String>,
}

impl Choice {
    /// A flag without a value.
    #[must_use]
    pub const fn switch(flag: &'static str, about: &'static str) -> Self {
        Self {
            flag,
            value: None,
            many: false,
            text: false,
            lines: false,
            about,
            conflicts: &[],
            needs: &[],
            check: |_| Ok(()),
        }
    }

    /// A flag with a value.
    #[must_use]
    pub const fn one(flag: &'static str, value: &'static str, about: &'static str) -> Self {
        Self { value: Some(value), ..Self::switch(flag, about) }
    }

    /// A flag with values.
    #[must_use]
    pub const fn many(flag: &'static str, value: &'static str, about: &'static str) -> Self {
        Self { many: true, ..Self::one(flag, value, about) }
    }

    /// The same, whose value must be UTF-8.
    #[must_use]
    pub const fn text(self) -> Self {
        Self { text: true, ..self }
    }

    /// A flag with a file, of which each line is a value.
    #[must_use]
    pub const fn lines(flag: &'static str, about: &'static str) -> Self {
        Self { lines: true, ..Self::one(flag, "FILE", about) }
    }

    /// The same, not together with these.
    #[must_use]
    pub const fn without(self, conflicts: &'static [&'static str]) -> Self {
        Self { conflicts, ..self }
    }

    /// The same, only with one of these.
    #[must_use]
    pub const fn only_with(self, needs: &'static [&'static str]) -> Self {
        Self { needs, ..self }
    }

    /// The same, whose value is looked at before anything is done.
    #[must_use]
    pub const fn checked(self, check: fn(&OsStr) -> Result<(), String>) -> Self {
        Self { check, ..self }
    }
}

/// Choices that the command itself has: a target lists those that it honours.
pub mod common {
    use super::Choice;

    /// Only what matches.
    pub const INCLUDE: Choice = Choice::many("include", "PATTERN", "");
    /// Not what matches.
    pub const EXCLUDE: Choice = Choice::many("exclude", "PATTERN", "");
    /// The moment to go back to.
    pub const TIME: Choice = Choice::one("time", "TIME", "");
    /// Write nothing.
    pub const DRY_RUN: Choice = Choice::switch("dry-run", "");
    /// Wait for what is frozen.
    pub const WAIT_THAW: Choice = Choice::switch("wait-thaw", "");
    /// No owners.
    pub const NO_OWNER: Choice = Choice::switch("no-owner", "");
    /// Do not ask.
    pub const YES: Choice = Choice::switch("yes", "");

    /// What several systems mean alike.
    pub const REPLACE: Choice = Choice::switch(
        "replace",
        "Overwrite existing keys; replace existing collections, databases or tables",
    );
    /// Nothing of the log.
    pub const BASE_ONLY: Choice = Choice::switch(
        "base-only",
        "Of an append-only file or a stream: only its base, without what was logged after it; single keys and \
            databases can only be restored from the base",
    )
    .without(&["time"]);
    /// One database of a server.
    pub const DATABASE: Choice =
        Choice::many("database", "NAME", "Of a database server: only this database").text();
    /// One table of a database.
    pub const TABLE: Choice = Choice::many(
        "table",
        "TABLE",
        "Of a database server: only this table and its dependent objects, as schema.table",
    )
    .text();
    /// No tablespaces.
    pub const NO_TABLESPACES: Choice = Choice::switch(
        "no-tablespaces",
        "Create no tablespaces and use the server's default; ignore the directories that tables name",
    );
}

/// What was chosen.
#[derive(Clone, Debug, Default)]
pub struct Chosen {
    values: BTreeMap<&'static str, Vec<OsString>>,
    /// The moment to go back to.
    pub time: Option<jiff::Timestamp>,
}

impl Chosen {
    /// Nothing but a moment, or not even that.
    #[must_use]
    pub fn at(time: Option<jiff::Timestamp>) -> Self {
        Self { values: BTreeMap::new(), time }
    }

    /// Notes that a flag was given, with its values.
    pub fn give(&mut self, flag: &'static str, values: Vec<OsString>) {
        self.values.insert(flag, values);
    }

    /// Whether it was given.
    #[must_use]
    pub fn has(&self, choice: &Choice) -> bool {
        self.values.contains_key(choice.flag)
    }

    /// Its values; none if it was not given.
    #[must_use]
    pub fn all(&self, choice: &Choice) -> &[OsString] {
        self.values.get(choice.flag).map_or(&[], Vec::as_slice)
    }

    /// Its values as text.
    ///
    /// # Errors
    /// That one is not UTF-8.
    pub fn texts(&self, choice: &Choice) -> crate::Result<Vec<String>> {
        self.all(choice)
            .iter()
            .map(|value| {
                value.to_str().map(str::to_owned).ok_or_else(|| {
                    let shown = crate::shown::name(value.as_encoded_bytes());
                    crate::Error::Invalid(format!("--{} '{shown}' is not UTF-8", choice.flag))
                })
            })
            .collect()
    }

    /// Its last value as text.
    ///
    /// # Errors
    /// That it is not UTF-8.
    pub fn text(&self, choice: &Choice) -> crate::Result<Option<String>> {
        Ok(self.texts(choice)?.pop())
    }

    /// Its values as pairs `A=B`; either may be empty.
    ///
    /// # Errors
    /// Which is no pair.
    pub fn pairs(&self, choice: &Choice) -> crate::Result<Vec<(String, String)>> {
        let pair = |text: String| match text.split_once('=') {
            Some((from, to)) => Ok((from.to_owned(), to.to_owned())),
            None => {
                let (flag, form) = (choice.flag, choice.value.unwrap_or("A=B"));
                Err(crate::Error::Invalid(format!("--{flag} '{text}' is not {form}")))
            }
        };
        self.texts(choice)?.into_iter().map(pair).collect()
    }
}
