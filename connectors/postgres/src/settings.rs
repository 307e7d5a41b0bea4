//! What can be told beside a URL.

use engine::connector::Setting;

/// How a database is laid down.
pub(crate) const FORMAT: Setting = Setting::option(
    "postgres.format",
    "directory|plain|custom",
    "how a database is laid down (directory)",
    |value| match value {
        "directory" | "plain" | "custom" => Ok(()),
        _ => Err("it is directory, plain or custom".into()),
    },
);
/// Sessions that dump one database.
pub(crate) const JOBS: Setting =
    Setting::option("postgres.jobs", "N", "sessions that dump a database at a time", |value| {
        within(value, 1, 64)
    });
/// Databases whose moments are fixed together.
pub(crate) const AT_ONCE: Setting = Setting::option(
    "postgres.at-once",
    "N",
    "databases whose moments are fixed together at the beginning, each with a session and its locks (1)",
    |value| within(value, 1, 1000),
);

/// Whether a value is a number within bounds.
pub(crate) fn within(value: &str, from: usize, to: usize) -> Result<(), String> {
    match value.parse::<usize>() {
        Ok(number) if (from..=to).contains(&number) => Ok(()),
        _ => Err(format!("{value} is not from {from} to {to}")),
    }
}
