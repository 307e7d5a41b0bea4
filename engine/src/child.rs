//! Programs of others that esker runs: pg_dump, mariadb-dump and their like. They get an environment of their own, never
//! ours: what we do not say must not decide which server they talk to, which library they load or how they write.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::process::{Command, Stdio};

/// What of the user's environment every program may see: where programs and temporary files are.
const KEPT: &[&str] = &["PATH", "TMPDIR"];

/// A command with nothing in its environment but `PATH` and `TMPDIR` of `environment`, a locale in which messages are English and
/// bytes are UTF-8, and no home: option files, start-up files and certificates in `~` are ours to read, or nobody's.
/// Standard input is closed.
#[must_use]
pub fn command(program: impl AsRef<OsStr>, environment: &BTreeMap<String, String>) -> Command {
    let mut command = Command::new(program);
    command.env_clear();
    for name in KEPT {
        if let Some(value) = environment.get(*name) {
            command.env(name, value);
        }
    }
    // Programs that find no HOME ask the user database for it.
    command.env("HOME", "/nonexistent").env("LC_ALL", "C.UTF-8").stdin(Stdio::null());
    command
}
