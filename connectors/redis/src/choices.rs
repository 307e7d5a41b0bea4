//! What people can choose about a restore into a server.

use engine::connector::Choice;

/// One database of those of the dump.
pub(crate) const DB: Choice =
    Choice::one("db", "N", "Of Redis: only keys of this database").text().checked(|value| {
        let number = value.to_str().and_then(|value| value.parse::<u32>().ok());
        number.map(drop).ok_or_else(|| "it is the number of a database".into())
    });
/// Names in a file.
pub(crate) const KEYS_FROM: Choice =
    Choice::lines("keys-from", "Of Redis: read names of keys from a file, one per line");
/// Other names.
pub(crate) const MAP_PREFIX: Choice = Choice::many(
    "map-prefix",
    "A=B",
    "Of Redis: restore keys whose names begin with A under names that begin with B",
);
/// What is there stays.
pub(crate) const SKIP_EXISTING: Choice =
    Choice::switch("skip-existing", "Of Redis: leave existing keys unchanged and do not report them")
        .without(&["replace"]);
/// All of a server.
pub(crate) const WHOLE: Choice = Choice::switch(
    "whole",
    "Of Redis: replace everything on the server. Shows a plan, makes a safety snapshot, runs FLUSHALL, loads \
        all keys and functions, and compares every key",
)
.without(&["db", "keys-from", "map-prefix", "replace", "skip-existing"]);
/// No way back.
pub(crate) const NO_SAFETY_SNAPSHOT: Choice =
    Choice::switch("no-safety-snapshot", "With --whole: make no safety snapshot of the present data")
        .only_with(&["whole"]);
/// No proof.
pub(crate) const UNPROVEN: Choice = Choice::switch(
    "unproven",
    "With --whole and --replace: do not read everything once before the first change, nor ask whether the server \
        can hold it; a damaged repository, or a server that cannot, then interrupts the restore half way",
)
.only_with(&["whole", "replace"]);
