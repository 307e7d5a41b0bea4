//! A PostgreSQL of a drill: a fresh cluster of the version that was backed up, or the next one that is installed, for this
//! machine alone.

use crate::Server;
use crate::connection::{BytesRow, Connection};
use crate::contents::LAYOUT;
use crate::contents::counted::{Key, counted};
use crate::failure::PgError;
use crate::programs::installed_programs;
use crate::restore::contents;
use crate::restore::relations::quoted_pair;
use chunkstore::env::random_array;
use chunkstore::private;
use connector_kit::child::{self, Role};
use connector_kit::members::Dump;
use connector_kit::question::{Dialect, check_sql, no_answer_within, no_single_value};
use connector_kit::scratch::{Log, Process, User, command, free_port};
use engine::connector::choice::common::NO_TABLESPACES;
use engine::connector::scratch::{Count, Query, Scratch, ScratchServer};
use engine::connector::{Chosen, Context, Origin};
use engine::names::decoded_bytes;
use engine::{Error, Monitor, Result};
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

/// Starts them.
pub(crate) struct Servers;

/// Settings that a restore of many tables needs, and that nobody else can connect. All else is the version's default, so that
/// the time is not better than that of a server which is made for the purpose.
const SETTINGS: &[&str] = &[
    "listen_addresses=127.0.0.1",
    "unix_socket_directories=",
    "max_locks_per_transaction=512",
    "max_wal_size=4GB",
    // In files of the data directory: no other memory is left behind by a server that is killed.
    "dynamic_shared_memory_type=mmap",
];

/// The major version of the server that was backed up: `15.18 (Debian 15.18-0+deb12u1)`.
fn major_of(from: Origin<'_>) -> Option<u32> {
    let records = from.snapshot.snapshot.sources.iter().filter(|record| record.is_of("postgres"));
    let versions = records.filter_map(|record| record.details.get("server"));
    versions.filter_map(|version| version.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()).max()
}

/// SQLSTATE of a statement that was ended, by its limit among others. Source: PostgreSQL's documentation, "Appendix A.
/// PostgreSQL Error Codes".
const CANCELLED: &str = "57014";
/// The server has so long to end a statement whose time is over. A function that catches `query_canceled` goes on.
const CANCELLING: Duration = Duration::from_secs(3);

impl Scratch for Servers {
    fn start(
        &self,
        from: Origin<'_>,
        folder: &Path,
        context: &Context,
        _monitor: &dyn Monitor,
    ) -> Result<Box<dyn ScratchServer>> {
        let major = major_of(from).unwrap_or_default();
        let path = context.environment.get("PATH").map(String::as_str);
        let programs = installed_programs("initdb", major, path).ok_or_else(|| {
            let package = if major == 0 { "postgresql".into() } else { format!("postgresql-{major}") };
            Error::Invalid(format!(
                "no PostgreSQL of version {major} or a later one is installed: a drill starts one; install the package {package}"
            ))
        })?;
        let user = User::of_servers();
        let failed = |what: &str, error: std::io::Error| Error::Invalid(format!("{what}: {error}"));
        let secret: [u8; 16] = random_array(&*from.repo.store().access.env)?;
        let secret = chunkstore::id::to_hex(&secret);
        let password = folder.join("password");
        let written = private::new(&password).and_then(|mut file| file.write_all(secret.as_bytes()));
        written.map_err(|error| failed("password", error))?;
        let log = Log::new(folder)?;
        if let Some(user) = user {
            user.give(folder, &[&password])?;
        }
        let program = |name| command(Path::new(&programs.path(name)), &context.environment, folder, user);
        let mut init = program("initdb");
        init.args(["-D", "data", "-U", "postgres", "-A", "scram-sha-256", "--pwfile", "password"]);
        init.args(["--no-sync", "-E", "UTF8", "--locale", "C.UTF-8"]);
        let done = child::output(&mut init, Role::Tool).map_err(|error| failed("initdb", error))?;
        if !done.status.success() {
            let said = String::from_utf8_lossy(&done.stderr);
            return Err(Error::Invalid(format!("initdb failed: {}", engine::shown::line(said.trim()))));
        }
        let _ = std::fs::remove_file(&password);
        let port = free_port()?;
        let mut server = program("postgres");
        server.args(["-D", "data", "-p", &port.to_string()]);
        for setting in SETTINGS {
            server.args(["-c", setting]);
        }
        let mut process = Process::start(&mut server, log)?;
        let url = format!("postgres://postgres:{secret}@127.0.0.1:{port}");
        let server = Server::parse(&url, context)?;
        let mut version = String::new();
        process.until_it_answers(&context.stop, || {
            let mut session = Connection::open(&server, "postgres")?;
            version = session.value("SHOW server_version")?;
            Ok::<_, crate::failure::PgError>(())
        })?;
        let program = format!("postgres {}", engine::shown::line(&version));
        Ok(Box::new(Running { process, server, url, program }))
    }

    fn takes(&self, kind: &str) -> bool {
        kind == "postgres"
    }

    fn asked_by(&self) -> &'static str {
        "sql"
    }

    fn check(&self, query: &Query) -> std::result::Result<(), String> {
        check_sql(&query.text, Dialect { backslash: false, backquote: false, dollar: true })
    }

    fn chosen(&self, from: Origin<'_>) -> Result<Chosen> {
        let mut chosen = Chosen::default();
        // Those of the server that was backed up may be in use here.
        if !contents::is_plain(from)? {
            chosen.give(NO_TABLESPACES.flag, vec![]);
        } else if !contents::tablespaces(from)?.is_empty() {
            return Err(Error::Invalid(
                "a dump in plain SQL names its tablespaces itself, and a drill makes none, which would be outside of its \
                 folder: back up in the format directory or custom"
                    .into(),
            ));
        }
        Ok(chosen)
    }
}

/// All relations: schema, name, and whether it is a table with rows of its own, and none of an extension, of which a dump has
/// only what users put in.
const RELATIONS: &str = "SELECT n.nspname, c.relname, c.relkind = 'r' AND NOT EXISTS (SELECT FROM pg_depend d \
    WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e') \
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace";

struct Running {
    process: Process,
    server: Server,
    url: String,
    program: String,
}

impl Running {
    fn count_database(&self, from: Origin<'_>, dumped: &Dump, counts: &mut Vec<Count>) -> Result<()> {
        let counted = counted(from, dumped)?;
        let failed = |error: PgError| self.server.failed(&error);
        let name = decoded_bytes(&dumped.name);
        let mut session = Connection::open(&self.server, &name).map_err(failed)?;
        for setting in &counted.settings {
            session.query_bytes(setting).map_err(failed)?;
        }
        let fields = |row: BytesRow| <[Option<Vec<u8>>; 3]>::try_from(row).ok();
        let relations =
            session.query_bytes(RELATIONS.as_bytes()).map_err(failed)?.into_iter().filter_map(fields);
        let there: BTreeMap<Key, bool> = relations
            .map(|[schema, name, counts]| {
                ((schema.unwrap_or_default(), name.unwrap_or_default()), counts.is_some_and(|is| is == b"t"))
            })
            .collect();
        for (key, expected) in counted.rows {
            let text = |name: &[u8]| engine::shown::line(&String::from_utf8_lossy(name)).into_owned();
            let shown = format!("{}: {}.{}", text(&name), text(&key.0), text(&key.1));
            match there.get(&key) {
                Some(true) => {}
                Some(false) => continue,
                None => {
                    counts.push(Count { what: format!("tables {shown}"), expected: 1, found: 0 });
                    continue;
                }
            }
            let sql = [b"SELECT count(*) FROM ONLY ".to_vec(), quoted_pair(&key.0, &key.1)].concat();
            let rows = session.query_bytes(&sql).map_err(failed)?;
            let value = rows.into_iter().flatten().flatten().next().unwrap_or_default();
            let found = String::from_utf8_lossy(&value).parse().unwrap_or_default();
            counts.push(Count { what: format!("rows of {shown}"), expected, found });
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

    /// The rows of each table: those that the dump has, read from the repository once more, against those that the server
    /// counts.
    fn count(&self, from: Origin<'_>, _monitor: &dyn Monitor) -> Result<Vec<Count>> {
        let mut counts = vec![];
        for dumped in LAYOUT.dumps(from)? {
            self.count_database(from, &dumped, &mut counts)?;
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
        let names = contents::names(from).map_err(|_| "the list of databases cannot be read".to_owned())?;
        // Every cluster has these, and few use them.
        let others: Vec<&String> =
            names.iter().filter(|name| !["postgres", "template1"].contains(&name.as_str())).collect();
        let database = match (&query.database, others.as_slice(), names.as_slice()) {
            (Some(named), ..) => named.clone(),
            (None, [one], _) => (*one).clone(),
            (None, [], [one]) => one.clone(),
            _ => return Err("the snapshot has several databases: name one".into()),
        };
        let refused = |error: crate::failure::PgError| match error.code() {
            "" => "no answer".to_owned(),
            CANCELLED => no_answer_within(limit),
            code => format!("refused ({code})"),
        };
        let mut session = Connection::open(&self.server, &database).map_err(refused)?;
        // As the application has it, and not only what is PostgreSQL's own.
        session.query("SET search_path = DEFAULT").map_err(refused)?;
        session
            .query(&format!("SET statement_timeout = '{}ms'", limit.as_millis().max(1)))
            .map_err(refused)?;
        session.wire.waiting().set_deadline(limit.checked_add(CANCELLING));
        let answer = session.query(&query.text);
        let is_overdue = session.wire.waiting().is_overdue();
        let rows =
            answer.map_err(|error| if is_overdue { no_answer_within(limit) } else { refused(error) })?;
        let [row] = rows.as_slice() else { return Err(no_single_value(rows.len())) };
        match row.as_slice() {
            [value] => Ok(value.clone()),
            _ => Err(no_single_value(1)),
        }
    }

    fn stop(&mut self) -> Result<()> {
        // Fast: sessions are ended, and the cluster is closed in order.
        self.process.stop(Signal::INT)
    }
}
