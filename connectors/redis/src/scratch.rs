//! A Redis or Valkey of a drill: empty, for this machine alone, without persistence.

use crate::choices::{NO_SAFETY_SNAPSHOT, WHOLE};
use crate::keys::keyspace::count_keys;
use crate::keys::{find, one};
use crate::rdb::Version;
use crate::rdb::parse::Global;
use crate::replication::Offer;
use crate::server::Server;
use chunkstore::env::random_array;
use connector_kit::question;
use connector_kit::scratch::{Log, Process, User, command, find as find_program, free_port};
use engine::connector::choice::common::YES;
use engine::connector::scratch::{Count, Query, Scratch, ScratchServer};
use engine::connector::{Chosen, Context, Origin};
use engine::{Error, Monitor, Result};
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

/// Programs, the first that is there is taken. Packages have the same names.
const REDIS_FIRST: [&str; 2] = ["redis-server", "valkey-server"];
const VALKEY_FIRST: [&str; 2] = ["valkey-server", "redis-server"];

/// Who wrote the dump of a snapshot.
struct Writer {
    /// As the dump itself says it; `None` of a snapshot without one, and of a dump that is not known.
    format: Option<Version>,
    /// `Redis` or `Valkey`, and its version if it is known.
    shown: String,
    programs: [&'static str; 2],
}

impl Writer {
    fn of(from: Origin<'_>) -> Result<Self> {
        let dump = one(find(from.repo, &from.snapshot.snapshot, b"")?)?;
        if dump.is_empty() {
            return Ok(Self { format: None, shown: "Redis".into(), programs: REDIS_FIRST });
        }
        let (format, globals) = dump.head(from.repo)?;
        let says = |wanted: &str| {
            globals.iter().find_map(|(global, _)| match global {
                Global::Aux(name, value) if name.eq_ignore_ascii_case(wanted.as_bytes()) => {
                    Some(engine::shown::line(&String::from_utf8_lossy(value)).into_owned())
                }
                _ => None,
            })
        };
        let (name, version, programs) = match (says("valkey-ver"), says("redis-ver")) {
            (version @ Some(_), _) => ("Valkey", version, VALKEY_FIRST),
            (None, version) if format.valkey => ("Valkey", version, VALKEY_FIRST),
            (None, version) => ("Redis", version, REDIS_FIRST),
        };
        let shown = version.map_or_else(|| name.to_owned(), |version| format!("{name} {version}"));
        Ok(Self { format: Some(format), shown, programs })
    }

    /// That a server knows all that may be in the dump, as far as it says what it knows.
    fn is_held_by(&self, program: &str, offer: &std::result::Result<Offer, String>) -> Result<()> {
        let (Some(format), Ok(offer)) = (self.format, offer) else { return Ok(()) };
        let loads = offer.loads();
        if loads.is_as_new_as(format) {
            return Ok(());
        }
        let [package, _] = self.programs;
        Err(Error::Invalid(format!(
            "{program} knows the format {}, and {}, which was backed up, wrote {}: install the package {package} in that \
             version or a later one",
            loads.own().magic(),
            self.shown,
            format.magic()
        )))
    }
}

/// Starts them.
pub(crate) struct Servers;

impl Scratch for Servers {
    fn start(
        &self,
        from: Origin<'_>,
        folder: &Path,
        context: &Context,
        _monitor: &dyn Monitor,
    ) -> Result<Box<dyn ScratchServer>> {
        let path = context.environment.get("PATH").map(String::as_str);
        let writer = Writer::of(from)?;
        let program = find_program(&writer.programs, path).ok_or_else(|| {
            let [package, other] = writer.programs;
            Error::Invalid(format!(
                "{package} and {other} are not installed: a drill starts one; install the package {package}"
            ))
        })?;
        let secret: [u8; 16] = random_array(&*from.repo.store().access.env)?;
        let (port, secret) = (free_port()?, chunkstore::id::to_hex(&secret));
        let (log, user) = (Log::new(folder)?, User::of_servers());
        if let Some(user) = user {
            user.give(folder, &[])?;
        }
        let mut command = command(&program, &context.environment, folder, user);
        // Settings from standard input: the password is on no command line and in no file.
        command.arg("-").stdin(Stdio::piped());
        let mut process = Process::start(&mut command, log)?;
        let settings = format!(
            "bind 127.0.0.1\nport {port}\nprotected-mode yes\nsave \"\"\nappendonly no\ndaemonize no\nrequirepass {secret}\n"
        );
        let written = process.stdin().map(|mut input| input.write_all(settings.as_bytes()));
        if let Some(Err(error)) = written {
            return Err(Error::Invalid(format!("{}: {error}", program.display())));
        }
        let url = format!("redis://default:{secret}@127.0.0.1:{port}");
        let parsed = engine::source::parsed_url(&url).map_err(Error::Invalid)?;
        let server = Server::new(&parsed, context)?;
        let mut info = String::new();
        process.until_it_answers(&context.stop, || -> std::result::Result<(), String> {
            let mut client = server.connect().map_err(|error| error.to_string())?;
            let answer: redis::RedisResult<String> = redis::cmd("INFO").arg("server").query(&mut client);
            info = answer.map_err(|error| error.to_string())?;
            Ok(())
        })?;
        let field = |name: &str| {
            let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.map(|value| engine::shown::line(value.trim()).into_owned())
        };
        let program = match (field("valkey_version"), field("redis_version")) {
            (Some(version), _) => format!("valkey-server {version}"),
            (None, version) => format!("redis-server {}", version.unwrap_or_default()),
        };
        writer.is_held_by(&program, &Offer::ask(&server, context)?)?;
        Ok(Box::new(Running { process, url, server, program }))
    }

    fn takes(&self, _kind: &str) -> bool {
        true
    }

    fn asked_by(&self) -> &'static str {
        "redis"
    }

    fn check(&self, query: &Query) -> std::result::Result<(), String> {
        database(query)?;
        question::words(&query.text).map(drop)
    }

    fn chosen(&self, _from: Origin<'_>) -> Result<Chosen> {
        let mut chosen = Chosen::default();
        [&WHOLE, &NO_SAFETY_SNAPSHOT, &YES].into_iter().for_each(|choice| chosen.give(choice.flag, vec![]));
        Ok(chosen)
    }
}

/// The database of a question.
fn database(query: &Query) -> std::result::Result<u32, String> {
    let Some(name) = &query.database else { return Ok(0) };
    name.parse().map_err(|_| "a database of Redis is a number".to_owned())
}

struct Running {
    process: Process,
    url: String,
    server: Server,
    program: String,
}

impl ScratchServer for Running {
    fn url(&self) -> &str {
        &self.url
    }

    fn program(&self) -> &str {
        &self.program
    }

    /// Keys of each database, unless some of them expire: how many of those are there depends on the clock. That each key
    /// is as in the snapshot, the restore itself has compared.
    fn count(&self, from: Origin<'_>, _monitor: &dyn Monitor) -> Result<Vec<Count>> {
        let dump = one(find(from.repo, &from.snapshot.snapshot, b"")?)?;
        let found: BTreeMap<u32, u64> = count_keys(&self.server)?;
        let Some(databases) = dump.databases().filter(|_| dump.commands.is_empty()) else {
            return Ok(vec![]);
        };
        let lasting = databases.iter().filter(|(_, counts)| counts.expiring == 0);
        let count = |(number, expected): (&u32, u64)| Count {
            what: format!("keys in database {number}"),
            expected,
            found: found.get(number).copied().unwrap_or_default(),
        };
        Ok(lasting.map(|(number, counts)| count((number, counts.keys))).collect())
    }

    fn ask(
        &self,
        _from: Origin<'_>,
        query: &Query,
        limit: Duration,
    ) -> std::result::Result<Option<String>, String> {
        let words = question::words(&query.text)?;
        // A name in capitals, such as WRONGTYPE; what is behind it may quote the question.
        let refused = |error: redis::RedisError| match error.code() {
            // A script may say anything in its place.
            Some(code) if code.bytes().all(|byte| byte.is_ascii_uppercase()) => format!("refused ({code})"),
            Some(_) => "refused".to_owned(),
            None if error.is_timeout() => question::no_answer_within(limit),
            None => "no answer".to_owned(),
        };
        let mut client = self.server.connect_for(limit).map_err(|_| "no connection".to_owned())?;
        redis::cmd("SELECT").arg(database(query)?).query::<()>(&mut client).map_err(refused)?;
        let mut command = redis::Cmd::new();
        for word in &words {
            command.arg(word);
        }
        let answer: redis::Value = command.query(&mut client).map_err(refused)?;
        match answer {
            redis::Value::Array(_) | redis::Value::Map(_) | redis::Value::Set(_) => {
                Err("the answer is a list: ask for one value".into())
            }
            redis::Value::Nil => Ok(None),
            one => redis::from_redis_value(one).map(Some).map_err(|_| "the answer is not text".to_owned()),
        }
    }

    fn stop(&mut self) -> Result<()> {
        self.process.stop(Signal::TERM)
    }
}
