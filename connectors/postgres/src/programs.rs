//! pg_dump, pg_restore and their like: found by the server's version, since a program can read servers of its own
//! version and older ones, and none that is newer.

use super::Server;
use connector_kit::child;
use engine::source::{SourceError, SourceErrorKind};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where Debian, and the project's own packages, put each version.
const VERSIONS: &[(&str, &str)] = &[("/usr/lib/postgresql", "bin"), ("/usr", "bin")];

/// The programs of one version.
#[derive(Clone, Debug)]
pub struct Programs {
    folder: Option<PathBuf>,
    /// Major version.
    pub version: u32,
}

impl Programs {
    /// Those of the lowest version that can read a server of `major`; `program` is the one that must be there.
    pub fn find(server: &Server, major: u32, program: &str, path: Option<&str>) -> Result<Self, SourceError> {
        Self::find_before(u32::MAX, server, major, program, path)
    }

    /// The same, of versions before `end`.
    pub(crate) fn find_before(
        end: u32,
        server: &Server,
        major: u32,
        program: &str,
        path: Option<&str>,
    ) -> Result<Self, SourceError> {
        let all = all_installed(program, path);
        let newest = all.iter().map(|programs| programs.version).max();
        let least = server.least_programs();
        let fitting = all.into_iter().filter(|programs| (major.max(least)..end).contains(&programs.version));
        fitting.min_by_key(|programs| programs.version).ok_or_else(|| {
            let why = match newest {
                Some(newest) if newest >= end => format!(
                    "the server needs a {program} before version {end}, which sets what older servers do not know, and there is {newest} here; install the package postgresql-client-{major}"
                ),
                Some(newest) if newest >= major => format!(
                    "require_auth (PGREQUIREAUTH) is known to {program} since version {least}, and the newest here is {newest}; install the package postgresql-client-{least} or a newer one"
                ),
                Some(newest) => format!(
                    "the server is PostgreSQL {major}, but the newest {program} here is {newest}; install the package postgresql-client-{major}"
                ),
                None => format!("{program} is not installed; install the package postgresql-client-{major}"),
            };
            server.error(SourceErrorKind::Command, why)
        })
    }

    /// The command, with what it needs to get in to the server that a session of `server` reached before, and nothing
    /// of our environment that could lead it elsewhere; it asks for no password.
    #[must_use]
    pub fn command(&self, program: &str, server: &Server) -> Command {
        let mut command = child::command(self.path(program), &server.outer);
        command.envs(server.environment());
        command
    }

    /// The path of one of them.
    #[must_use]
    pub fn path(&self, program: &str) -> PathBuf {
        self.folder.as_ref().map_or_else(|| PathBuf::from(program), |folder| folder.join(program))
    }
}

/// The lowest version that is not below `major`, if there is one.
#[must_use]
pub fn installed_programs(program: &str, major: u32, path: Option<&str>) -> Option<Programs> {
    let fitting = all_installed(program, path).into_iter().filter(|programs| programs.version >= major);
    fitting.min_by_key(|programs| programs.version)
}

fn all_installed(program: &str, path: Option<&str>) -> Vec<Programs> {
    let mut all = installed(program);
    if let Some(path) = path {
        all.extend(std::env::split_paths(path).filter_map(|folder| {
            let version = version_of(&folder.join(program))?;
            Some(Programs { folder: Some(folder), version })
        }));
    }
    all
}

/// A database's name as libpq takes it, also when it looks like something else.
#[must_use]
pub fn database_name(name: impl AsRef<[u8]>) -> OsString {
    let mut all = b"dbname='".to_vec();
    for byte in name.as_ref() {
        if matches!(byte, b'\\' | b'\'') {
            all.push(b'\\');
        }
        all.push(*byte);
    }
    all.push(b'\'');
    OsString::from_vec(all)
}

/// A complaint without the name of the program, which stands before it already, and without the word for its rank.
pub(crate) fn without_name<'a>(why: &'a str, name: &str) -> &'a str {
    let said = why.strip_prefix(name).and_then(|rest| rest.strip_prefix(": ")).unwrap_or(why);
    said.strip_prefix("error: ").unwrap_or(said)
}

/// In the folders of packages, one for each version: `/usr/lib/postgresql/17/bin`, `/usr/pgsql-17/bin`.
fn installed(program: &str) -> Vec<Programs> {
    let mut all = vec![];
    for (root, bin) in VERSIONS {
        for entry in std::fs::read_dir(root).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let version = name.strip_prefix("pgsql-").unwrap_or(&name).parse();
            let folder = entry.path().join(bin);
            if let Ok(version) = version
                && folder.join(program).exists()
            {
                all.push(Programs { folder: Some(folder), version });
            }
        }
    }
    all
}

/// The major version that a program says it has: `pg_dump (PostgreSQL) 15.18 (Debian …)`.
fn version_of(program: &Path) -> Option<u32> {
    if !program.exists() {
        return None;
    }
    let mut command = child::command(program, &BTreeMap::new());
    let output = child::output(command.arg("--version"), child::Role::Client).ok()?;
    parse_version(&String::from_utf8_lossy(&output.stdout))
}

fn parse_version(text: &str) -> Option<u32> {
    let number = text.split_once(") ")?.1;
    number.split(|character: char| !character.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        assert_eq!(parse_version("pg_dump (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n"), Some(15));
        assert_eq!(parse_version("pg_dump (PostgreSQL) 19beta1"), Some(19));
        assert_eq!(parse_version("something else"), None);
        assert_eq!(database_name("it's \\"), "dbname='it\\'s \\\\'");
    }
}
