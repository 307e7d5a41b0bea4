//! A MariaDB of a drill: a fresh data directory, for this machine alone, whose only accounts are its own and that of the
//! drill; and how many rows each table has there, and in the dump.

mod rows;

use crate::contents::LAYOUT;
use crate::dump::Index;
use crate::server::{Script, Server, error_number, hexadecimal, is_named, quoted};
use crate::stream::KIND;
use chunkstore::env::random_array;
use chunkstore::private;
use connector_kit::child::{self, Role};
use connector_kit::members::Dump;
use connector_kit::question::{Dialect, check_sql, no_answer_within, no_single_value};
use connector_kit::scratch::{Log, Process, User, command, find, free_port};
use engine::connector::scratch::{Count, Query, Scratch, ScratchServer};
use engine::connector::{Chosen, Context, Origin};
use engine::restore::{dump, dump_ranges};
use engine::{Error, Monitor, Result};
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rows::Stretches;

/// Starts them.
pub(crate) struct Servers;

/// The account of the drill.
const ACCOUNT: &str = "esker-drill";
/// Where Debian has servers, which the `PATH` of a plain user lacks.
const MORE: &str = "/usr/local/sbin:/usr/sbin";
/// Tables that are counted by one statement.
const TOGETHER: usize = 200;

/// Settings that a restore of large rows needs, that nobody else can connect, and that no event which a user wrote runs. All
/// else is the version's default, so that the time is not better than that of a server which is made for the purpose.
const SETTINGS: &[&str] = &[
    "--no-defaults",
    "--bind-address=127.0.0.1",
    "--skip-name-resolve",
    "--event-scheduler=OFF",
    // MyISAM and Aria put no table into another folder.
    "--skip-symbolic-links",
    "--max-allowed-packet=1G",
    "--pid-file=pid",
    "--socket=socket",
];

/// The error of a statement that took longer than `max_statement_time`. Source: MariaDB's documentation, "MariaDB Error Codes":
/// ER_STATEMENT_TIMEOUT.
const TOO_LONG: u32 = 1969;

/// Which server it is, and its major and minor version: `10.11.14-MariaDB-0+deb12u2-log`.
fn version_of(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split('.').map(|part| part.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

impl Scratch for Servers {
    fn start(
        &self,
        from: Origin<'_>,
        folder: &Path,
        context: &Context,
        _monitor: &dyn Monitor,
    ) -> Result<Box<dyn ScratchServer>> {
        let records = || from.snapshot.snapshot.sources.iter().filter(|record| record.is_of("mysql"));
        let versions = || records().filter_map(|record| record.details.get("server"));
        if versions().any(|version| !version.contains("MariaDB")) {
            return Err(Error::Invalid(
                "esker starts no scratch server of MySQL yet, only of MariaDB".into(),
            ));
        }
        let path = context.environment.get("PATH").map_or("", String::as_str);
        let path = format!("{path}:{MORE}");
        let program = |names: &[&str]| {
            find(names, Some(&path)).ok_or_else(|| {
                let name = names.first().copied().unwrap_or_default();
                Error::Invalid(format!(
                    "{name} is not installed: a drill starts a server; install the package mariadb-server"
                ))
            })
        };
        let (installer, server) =
            (program(&["mariadb-install-db", "mysql_install_db"])?, program(&["mariadbd"])?);
        let user = User::of_servers();
        let command = |program: &Path| command(program, &context.environment, folder, user);
        let failed = |what: &str, error: std::io::Error| Error::Invalid(format!("{what}: {error}"));
        let secret: [u8; 16] = random_array(&*from.repo.store().access.env)?;
        let secret = chunkstore::id::to_hex(&secret);
        let (accounts, temporary) = (folder.join("accounts.sql"), folder.join("tmp"));
        private::new(&accounts)
            .and_then(|mut file| file.write_all(only_account(&secret).as_bytes()))
            .map_err(|error| failed("accounts", error))?;
        private::folder(&temporary).map_err(|error| failed("tmp", error))?;
        let log = Log::new(folder)?;
        if let Some(user) = user {
            user.give(folder, &[&accounts, &temporary])?;
        }
        let mut install = command(&installer);
        install.args(["--no-defaults", "--skip-test-db", "--auth-root-authentication-method=normal"]);
        // Neither of the two takes a path as one below the folder that it is started in.
        let in_folder = |(name, below): (&str, &str)| format!("--{name}={}", folder.join(below).display());
        let folders = [("datadir", "data"), ("tmpdir", "tmp")].map(in_folder);
        install.args(&folders);
        let done = child::output(&mut install, Role::Tool).map_err(|error| failed("installer", error))?;
        if !done.status.success() {
            let said = [done.stdout, done.stderr].concat();
            let said = String::from_utf8_lossy(&said).into_owned();
            let name = installer.display();
            return Err(Error::Invalid(format!("{name} failed: {}", engine::shown::line(said.trim()))));
        }
        let port = free_port()?;
        let mut started: Command = command(&server);
        started.args(SETTINGS).args(&folders).arg(in_folder(("init-file", "accounts.sql")));
        started.arg(format!("--port={port}"));
        let mut process = Process::start(&mut started, log)?;
        let url = format!("mysql://{ACCOUNT}:{secret}@127.0.0.1:{port}");
        let parsed = engine::source::parsed_url(&url).map_err(Error::Invalid)?;
        let server = Server::new(&parsed, context)?;
        let mut version = String::new();
        process.until_it_answers(&context.stop, || {
            let rows = server.query("SELECT VERSION()")?;
            version = rows.into_iter().flatten().next().unwrap_or_default();
            Ok::<_, engine::source::SourceError>(())
        })?;
        let _ = std::fs::remove_file(&accounts);
        let newest = versions().filter_map(|version| version_of(version)).max();
        if let (Some(wanted), Some(found)) = (newest, version_of(&version))
            && found < wanted
        {
            let (major, minor) = wanted;
            let why = format!(
                "MariaDB {major}.{minor} was backed up, and {version} is older: install that version"
            );
            return Err(Error::Invalid(engine::shown::line(&why).into_owned()));
        }
        let number = version.split('-').next().unwrap_or_default();
        let program = format!("mariadbd {}", engine::shown::line(number));
        Ok(Box::new(Running { process, url, server, program }))
    }

    fn takes(&self, _kind: &str) -> bool {
        true
    }

    fn asked_by(&self) -> &'static str {
        "sql"
    }

    fn check(&self, query: &Query) -> std::result::Result<(), String> {
        check_sql(&query.text, Dialect { backslash: true, backquote: true, dollar: false })
    }

    fn chosen(&self, _from: Origin<'_>) -> Result<Chosen> {
        Ok(Chosen::default())
    }
}

/// What the server runs before it listens: no account of the installer's can be used, most of which have no password.
/// The drill's own may give others the right to act as anybody (PROXY), which no other right implies, and which `GRANT` gives only
/// to whom somebody with it gives it: here nobody has it yet.
/// Source: MariaDB's documentation, "mysql.global_priv Table", "mysql.proxies_priv Table", "init_file": a statement on each line.
fn only_account(secret: &str) -> String {
    format!(
        "DELETE FROM mysql.global_priv WHERE User <> 'mariadb.sys';\nFLUSH PRIVILEGES;\n\
         CREATE USER '{ACCOUNT}'@'127.0.0.1' IDENTIFIED BY '{secret}';\n\
         GRANT ALL PRIVILEGES ON *.* TO '{ACCOUNT}'@'127.0.0.1' WITH GRANT OPTION;\n\
         INSERT INTO mysql.proxies_priv (Host, User, Proxied_host, Proxied_user, With_grant) \
         VALUES ('127.0.0.1', '{ACCOUNT}', '%', '', 1);\nFLUSH PRIVILEGES;\n"
    )
}

struct Running {
    process: Process,
    url: String,
    server: Server,
    program: String,
}

impl Running {
    /// Rows of tables of a database that the server has, but of those whose rows are elsewhere, and of those that keep what
    /// their rows were.
    fn rows_there(&self, database: &str) -> Result<BTreeMap<String, u64>> {
        let base = format!(
            "SELECT table_name FROM information_schema.tables WHERE {} AND table_type = 'BASE TABLE' \
             AND engine NOT IN ('FEDERATED', 'CONNECT', 'SPIDER', 'MRG_MyISAM', 'BLACKHOLE')",
            is_named("table_schema", database)
        );
        let tables: Vec<String> = self.server.query(&base)?.into_iter().flatten().collect();
        let mut found = BTreeMap::new();
        for some in tables.chunks(TOGETHER) {
            let count = |(number, table): (usize, &String)| {
                format!("SELECT {number}, COUNT(*) FROM {}.{}", quoted(database), quoted(table))
            };
            let all: Vec<String> = some.iter().enumerate().map(count).collect();
            for row in self.server.query(&all.join(" UNION ALL "))? {
                let [number, rows] = <[String; 2]>::try_from(row).unwrap_or_default();
                if let (Some(table), Ok(rows)) =
                    (number.parse().ok().and_then(|number: usize| some.get(number)), rows.parse())
                {
                    found.insert(table.clone(), rows);
                }
            }
        }
        Ok(found)
    }

    /// Counts the tables of a dump, and the rows of each.
    fn count_database(
        &self,
        from: Origin<'_>,
        dumped: &Dump,
        monitor: &dyn Monitor,
        counts: &mut Vec<Count>,
    ) -> Result<()> {
        let snapshot = &from.snapshot.snapshot;
        let (path, mut bytes) = (format!("{}.index", dumped.path), vec![]);
        dump(from.repo, snapshot, path.as_bytes(), &mut bytes, monitor)?;
        let index = Index::read(&bytes).map_err(|why| Error::Malformed { what: path, why })?;
        let database = engine::names::decoded(&dumped.name).ok_or_else(|| Error::Malformed {
            what: dumped.path.clone(),
            why: "its name is not UTF-8".into(),
        })?;
        let sql = format!(
            "SELECT table_name FROM information_schema.tables WHERE {}",
            is_named("table_schema", &database)
        );
        let there: Vec<String> = self.server.query(&sql)?.into_iter().flatten().collect();
        let shown = engine::shown::line(&database).into_owned();
        counts.push(Count {
            what: format!("tables in database {shown}"),
            expected: index.tables.len() as u64,
            found: index.tables.iter().filter(|(name, ..)| there.contains(name)).count() as u64,
        });
        let found = self.rows_there(&database)?;
        let counted = || index.tables.iter().filter(|(name, ..)| found.contains_key(name));
        let ranges: Vec<(u64, u64)> = counted().map(|(_, begin, end)| (*begin, *end)).collect();
        let mut stretches = Stretches::new(&ranges);
        dump_ranges(from.repo, snapshot, dumped.path.as_bytes(), &ranges, &mut stretches, monitor)?;
        for ((name, ..), expected) in counted().zip(stretches.finish()) {
            let what = format!("rows of {shown}.{}", engine::shown::line(name));
            counts.push(Count { what, expected, found: found.get(name).copied().unwrap_or_default() });
        }
        Ok(())
    }
}

impl ScratchServer for Running {
    fn url(&self) -> &str {
        &self.url
    }

    fn program(&self) -> &str {
        &self.program
    }

    /// The tables of each database, and the rows of each table: those that the dump has, read from the repository once more,
    /// against those that the server counts. What a live stream replays on top of its dump is in no dump.
    fn count(&self, from: Origin<'_>, monitor: &dyn Monitor) -> Result<Vec<Count>> {
        let mut counts = vec![];
        if from.snapshot.snapshot.sources.iter().any(|record| record.kind == KIND) {
            return Ok(counts);
        }
        for dumped in LAYOUT.dumps(from)? {
            self.count_database(from, &dumped, monitor, &mut counts)?;
        }
        Ok(counts)
    }

    fn ask(
        &self,
        from: Origin<'_>,
        query: &Query,
        limit: Duration,
    ) -> std::result::Result<Option<String>, String> {
        Servers.check(query)?;
        let dumps = LAYOUT.dumps(from).map_err(|_| "the list of databases cannot be read".to_owned())?;
        let only = match (&query.database, dumps.as_slice()) {
            (Some(_), _) => None,
            (None, [one]) => engine::names::decoded(&one.name),
            (None, _) => return Err("the snapshot has several databases: name one".into()),
        };
        let mut script = Script::default();
        script.add("time", format!("SET max_statement_time = {}", limit.as_secs_f64()).as_bytes());
        if let Some(database) = query.database.as_ref().or(only.as_ref()) {
            script.add("database", format!("USE {}", quoted(database)).as_bytes());
        }
        script
            .add("question", format!("EXECUTE IMMEDIATE {}", hexadecimal(query.text.as_bytes())).as_bytes());
        let outcome = script.run(&self.server, false).map_err(|_| "no answer".to_owned())?;
        if let Some((_, why)) = outcome.failures.first() {
            return Err(match error_number(why) {
                Some(TOO_LONG) => no_answer_within(limit),
                Some(number) => format!("refused ({number})"),
                None => "refused".into(),
            });
        }
        let [row] = outcome.rows.as_slice() else { return Err(no_single_value(outcome.rows.len())) };
        match row.as_slice() {
            // As the client prints what is no value; it prints such a text in the same way.
            [value] => Ok((value != b"NULL").then(|| String::from_utf8_lossy(value).into_owned())),
            _ => Err(no_single_value(1)),
        }
    }

    fn stop(&mut self) -> Result<()> {
        self.process.stop(Signal::TERM)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_numbers() {
        assert_eq!(version_of("10.11.14-MariaDB-0+deb12u2-log"), Some((10, 11)));
        assert!(version_of("10.6.2-MariaDB") < version_of("10.11.1-MariaDB"));
        assert!(version_of("11.4.1-MariaDB") > version_of("10.11.1-MariaDB"));
        assert_eq!(version_of("MariaDB"), None);
    }
}
