//! A Redis or Valkey of a drill: empty, for this machine alone, without persistence.

use crate::choices::{NO_SAFETY_SNAPSHOT, WHOLE};
use crate::keys::keyspace::count_keys;
use crate::keys::{find, one};
use crate::server::Server;
use chunkstore::env::random_array;
use connector_kit::scratch::{Process, User, find as find_program, free_port};
use connector_kit::{child, question};
use engine::connector::choice::common::YES;
use engine::connector::scratch::{Count, Query, Scratch, ScratchServer};
use engine::connector::{Chosen, Context, Origin};
use engine::{Error, Monitor, Result};
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;

/// Programs, the first that is there is taken.
const PROGRAMS: &[&str] = &["redis-server", "valkey-server"];

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
        let program = find_program(PROGRAMS, path).ok_or_else(|| {
            let why = "redis-server and valkey-server are not installed: a drill starts one; install the package redis-server";
            Error::Invalid(why.into())
        })?;
        let secret: [u8; 16] = random_array(&*from.repo.store().access.env)?;
        let (port, secret) = (free_port()?, chunkstore::id::to_hex(&secret));
        let mut command = child::command(&program, &context.environment);
        if let Some(user) = User::of_servers() {
            user.give(folder)?;
            user.run(&mut command);
        }
        // Settings from standard input: the password is on no command line and in no file.
        command.arg("-").stdin(Stdio::piped());
        let mut process = Process::start(&mut command, folder)?;
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

    fn chosen(&self) -> Chosen {
        let mut chosen = Chosen::default();
        [&WHOLE, &NO_SAFETY_SNAPSHOT, &YES].into_iter().for_each(|choice| chosen.give(choice.flag, vec![]));
        chosen
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

    fn ask(&self, _from: Origin<'_>, query: &Query) -> std::result::Result<Option<String>, String> {
        let words = question::words(&query.text)?;
        // A name in capitals, such as WRONGTYPE; what is behind it may quote the question.
        let refused = |error: redis::RedisError| match error.code() {
            // A script may say anything in its place.
            Some(code) if code.bytes().all(|byte| byte.is_ascii_uppercase()) => format!("refused ({code})"),
            Some(_) => "refused".to_owned(),
            None => "no answer".to_owned(),
        };
        let mut client = self.server.connect().map_err(|_| "no connection".to_owned())?;
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
