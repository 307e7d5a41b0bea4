//! A PostgreSQL server: every database through pg_dump and the globals through pg_dumpall, an entry
//! each. The programs are the newest found under /usr/lib/postgresql, else those on PATH. The password
//! goes to them in their environment, never on a command line.

use super::command::CommandContent;
use super::pgdump::{CustomEndMark, PlainEndMark};
use super::{Item, Opener, Source, SourceError, SourceErrorKind, UrlOptions, password, without_password};
use crate::Monitor;
use crate::entry::Time;
use crate::snapshot::SourceRecord;
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// How to call the client programs.
#[derive(Clone)]
struct Client {
    shown: String,
    environment: Vec<(&'static str, String)>,
    programs: Option<PathBuf>,
}

/// The source of `postgres://`.
pub struct PostgresSource {
    shown: String,
    folder: String,
    items: Vec<Item>,
}

impl PostgresSource {
    /// Lists the databases; dumps start when their streams are opened.
    pub fn new(url: &url::Url, time: Time, options: &UrlOptions) -> Result<Self, SourceError> {
        let client = Client::new(url)?;
        let database = percent_decode_str(url.path().trim_matches('/')).decode_utf8_lossy().into_owned();
        let databases = if database.is_empty() { client.databases()? } else { vec![database.clone()] };
        let place = format!("{}:{}", url.host_str().unwrap_or("local"), url.port().unwrap_or(5432));
        let folder = format!("postgres/{place}");
        let mut items: Vec<Item> =
            ["postgres", &folder, &format!("{folder}/databases")].map(|path| Item::folder(path, time)).into();
        let mut names: Vec<(String, String)> =
            databases.into_iter().map(|name| (file_name(&name, options.postgres_custom), name)).collect();
        names.sort();
        for (file, name) in names {
            let open = client.dump(&name, options.postgres_custom);
            items.push(Item::stream(&format!("{folder}/databases/{file}"), time, open));
        }
        if database.is_empty() {
            items.push(Item::stream(&format!("{folder}/globals.sql"), time, client.globals()));
        }
        items.reverse();
        Ok(Self { shown: client.shown, folder, items })
    }
}

/// Bytes that must not stand in a file name as they are.
const UNSAFE: &AsciiSet = &CONTROLS.add(b'/').add(b'%');

fn file_name(database: &str, custom: bool) -> String {
    let stem = utf8_percent_encode(database, UNSAFE);
    format!("{stem}.{}", if custom { "dump" } else { "sql" })
}

impl Client {
    fn new(url: &url::Url) -> Result<Self, SourceError> {
        let shown = without_password(url.as_str());
        let mut environment = vec![("PGCONNECT_TIMEOUT", "10".to_owned())];
        if let Some(host) = url.host_str().filter(|host| !host.is_empty()) {
            environment.push(("PGHOST", percent_decode_str(host).decode_utf8_lossy().into_owned()));
        }
        if let Some(port) = url.port() {
            environment.push(("PGPORT", port.to_string()));
        }
        if !url.username().is_empty() {
            environment.push(("PGUSER", percent_decode_str(url.username()).decode_utf8_lossy().into_owned()));
        }
        if let Some(password) = password(url) {
            environment.push(("PGPASSWORD", password));
        }
        for (key, value) in url.query_pairs() {
            let variable = match &*key {
                "sslmode" => "PGSSLMODE",
                "sslrootcert" => "PGSSLROOTCERT",
                "sslcert" => "PGSSLCERT",
                "sslkey" => "PGSSLKEY",
                "host" => "PGHOST",
                _ => {
                    let why = format!("unknown parameter '{key}' in the URL");
                    return Err(SourceError::new(SourceErrorKind::Unavailable, shown, why));
                }
            };
            environment.push((variable, value.into_owned()));
        }
        Ok(Self { shown, environment, programs: newest_programs(Path::new("/usr/lib/postgresql")) })
    }

    fn command(&self, program: &str) -> Command {
        let path =
            self.programs.as_ref().map_or_else(|| PathBuf::from(program), |folder| folder.join(program));
        let mut command = Command::new(path);
        command.envs(self.environment.iter().map(|(key, value)| (key, value)));
        command
    }

    fn databases(&self) -> Result<Vec<String>, SourceError> {
        let query = "SELECT datname FROM pg_database WHERE datallowconn AND NOT datistemplate";
        let mut command = self.command("psql");
        command.args(["-X", "-A", "-t", "-0", "-w", "-d", "postgres", "-c", query]).stdin(Stdio::null());
        let output = command.output().map_err(|error| {
            let why = match error.kind() {
                std::io::ErrorKind::NotFound => {
                    "psql not found; install the package postgresql-client".into()
                }
                _ => error.to_string(),
            };
            SourceError::new(SourceErrorKind::Command, &self.shown, why)
        })?;
        if !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(SourceError::new(SourceErrorKind::Unavailable, &self.shown, why));
        }
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let names = text.split('\0').map(|name| name.trim_end_matches('\n')).filter(|name| !name.is_empty());
        Ok(names.map(str::to_owned).collect())
    }

    fn dump(&self, database: &str, custom: bool) -> Opener {
        let mut command = self.command("pg_dump");
        // A conninfo string rather than a bare name, which could itself be read as one.
        let quoted = database.replace('\\', "\\\\").replace('\'', "\\'");
        command.arg("-w").arg(format!("--dbname=dbname='{quoted}'"));
        let name = format!("pg_dump of database '{database}'");
        Box::new(move || {
            Ok(if custom {
                command.args(["-Fc", "-Z0"]);
                Box::new(CommandContent::start(command, name, CustomEndMark::default(), false)?)
            } else {
                Box::new(CommandContent::start(command, name, PlainEndMark::default(), false)?)
            })
        })
    }

    fn globals(&self) -> Opener {
        let mut command = self.command("pg_dumpall");
        command.args(["-w", "-g"]);
        let name = "pg_dumpall of the globals".to_owned();
        Box::new(move || Ok(Box::new(CommandContent::start(command, name, PlainEndMark::default(), false)?)))
    }
}

/// The `bin` folder of the highest version that has pg_dump: it can dump any older server.
fn newest_programs(root: &Path) -> Option<PathBuf> {
    let versions = std::fs::read_dir(root).ok()?;
    versions
        .flatten()
        .filter_map(|entry| {
            let version: u32 = entry.file_name().to_str()?.parse().ok()?;
            let folder = entry.path().join("bin");
            folder.join("pg_dump").exists().then_some((version, folder))
        })
        .max()
        .map(|(_, folder)| folder)
}

impl Source for PostgresSource {
    fn records(&self) -> Vec<SourceRecord> {
        // Each database is of one moment, but not of the same one.
        vec![SourceRecord::new("postgres", self.shown.clone(), false)]
    }
    fn paths(&self) -> Vec<String> {
        vec![format!("/{}", self.folder)]
    }
    fn next_item(&mut self, _: &dyn Monitor) -> Result<Option<Item>, SourceError> {
        Ok(self.items.pop())
    }
}
