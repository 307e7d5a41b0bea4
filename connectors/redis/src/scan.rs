//! A Redis server that refuses replication, read key by key: SCAN, DUMP, PTTL. The keys are of different moments, which
//! the snapshot says. The result is an RDB file nevertheless: a DUMP payload is a value's type and bytes as in an RDB,
//! then two bytes of version and eight of checksum (redis.io/commands/dump; `rdb.h` for opcodes and length encoding).

use crate::dump::{Origin, RdbSource};
use crate::rdb::{Version, crc64, opcode, push_len};
use crate::server::client::Client;
use crate::server::link::Stop;
use crate::server::{Server, words};
use engine::connector::Context;
use engine::entry::Time;
use engine::source::{SourceError, SourceErrorKind};
use redis::{Cmd, ConnectionLike as _, Value};
use std::collections::HashSet;
use std::io::Read;

/// Version and checksum at the end of a DUMP payload.
const DUMP_FOOTER: usize = 10;
/// Keys asked for at a time.
const BATCH: usize = 500;
/// Valkey numbers its versions from here.
const FIRST_VALKEY: u16 = 80;

/// The source of `redis+scan://`.
pub fn source(url: &url::Url, time: Time, options: &Context) -> Result<RdbSource, SourceError> {
    let server = Server::new(url, options)?;
    let path = server.dump_path();
    RdbSource::new(origin(server), &path, time, options)
}

/// A scan of `server`.
#[must_use]
pub fn origin(server: Server) -> Origin {
    let (shown, kind) = (server.shown.clone(), "redis+scan");
    let open = Box::new(move |_: &Stop| Ok(Box::new(Scan::start(server.clone())?) as Box<dyn Read + Send>));
    Origin { kind, shown, point_in_time: false, open }
}

/// An RDB that is made as it is read.
struct Scan {
    server: Server,
    connection: Client,
    /// Databases still to be scanned, the next last.
    databases: Vec<u32>,
    /// Cursor in the current database; `None` before its first call.
    cursor: Option<u64>,
    /// Keys of the current database that are done: SCAN may show one twice, an RDB may not.
    seen: HashSet<[u8; 16]>,
    out: Vec<u8>,
    sent: usize,
    digest: crc_fast::Digest,
    started: bool,
    finished: bool,
    /// Whether the server tells when a key expires (Redis 7 on) rather than how long it has left.
    exact: bool,
}

impl Scan {
    fn start(server: Server) -> Result<Self, SourceError> {
        let mut connection = server.connect()?;
        let databases = match server.database {
            Some(number) => vec![number],
            None => databases(&server, &mut connection)?,
        };
        let exact = redis::cmd("PEXPIRETIME").arg("").query::<i64>(&mut connection).is_ok();
        Ok(Self {
            server,
            connection,
            databases,
            cursor: None,
            seen: HashSet::new(),
            out: vec![],
            sent: 0,
            digest: crc64(),
            started: false,
            finished: false,
            exact,
        })
    }

    /// An error of the library about this server: what the server refuses is one thing, that it did not give all another.
    fn failed(&self, error: &redis::RedisError) -> SourceError {
        let kind = match error.code() {
            Some(_) => SourceErrorKind::Unavailable,
            None => SourceErrorKind::Incomplete,
        };
        self.server.error(kind, words(error))
    }

    fn ask(&mut self, command: &Cmd) -> Result<Value, SourceError> {
        let reply = self.connection.req_command(command).and_then(Value::extract_error);
        reply.map_err(|error| self.failed(&error))
    }

    fn ask_as<T: redis::FromRedisValue>(&mut self, command: &Cmd) -> Result<T, SourceError> {
        let value = self.ask(command)?;
        redis::from_redis_value(value).map_err(|error| self.failed(&error.into()))
    }

    /// Appends the next stretch of the RDB to `out`.
    fn produce(&mut self) -> Result<(), SourceError> {
        if !self.started {
            self.started = true;
            self.head()?;
            return Ok(());
        }
        let Some(database) = self.databases.last().copied() else {
            self.out.push(opcode::EOF);
            self.digest.update(&self.out);
            let checksum = self.digest.finalize();
            self.out.extend_from_slice(&checksum.to_le_bytes());
            self.finished = true;
            return Ok(());
        };
        let cursor = match self.cursor {
            Some(cursor) => cursor,
            None => {
                self.ask(redis::cmd("SELECT").arg(database))?;
                self.out.push(opcode::SELECT_DB);
                push_len(&mut self.out, u64::from(database));
                self.seen.clear();
                0
            }
        };
        let (next, keys): (u64, Vec<Vec<u8>>) =
            self.ask_as(redis::cmd("SCAN").arg(cursor).arg("COUNT").arg(BATCH))?;
        self.values(keys)?;
        if next == 0 {
            self.databases.pop();
            self.cursor = None;
        } else {
            self.cursor = Some(next);
        }
        self.digest.update(&self.out);
        Ok(())
    }

    /// Magic and version, which are those of the server's DUMP payloads, and the functions.
    fn head(&mut self) -> Result<(), SourceError> {
        let mut version = 9;
        if let Some(database) = self.databases.last().copied() {
            self.ask(redis::cmd("SELECT").arg(database))?;
            let key: Option<Vec<u8>> = self.ask_as(&redis::cmd("RANDOMKEY"))?;
            if let Some(key) = key {
                let payload: Option<Vec<u8>> = self.ask_as(redis::cmd("DUMP").arg(key))?;
                if let Some(footer) =
                    payload.as_deref().and_then(|payload| payload.last_chunk::<DUMP_FOOTER>())
                {
                    version = u16::from_le_bytes([footer[0], footer[1]]);
                }
            }
        }
        let version = Version { valkey: version >= FIRST_VALKEY, number: version };
        self.out.extend_from_slice(version.magic().as_bytes());
        // Servers before 7 have no functions, and managed ones may forbid the command. Functions belong to no database.
        if self.server.database.is_none()
            && let Ok(Value::BulkString(payload)) =
                self.connection.req_command(redis::cmd("FUNCTION").arg("DUMP"))
            && let Some(len) = payload.len().checked_sub(DUMP_FOOTER)
        {
            self.out.extend_from_slice(&payload[..len]);
        }
        self.digest.update(&self.out);
        Ok(())
    }

    fn values(&mut self, keys: Vec<Vec<u8>>) -> Result<(), SourceError> {
        let keys: Vec<Vec<u8>> = keys
            .into_iter()
            .filter(|key| {
                let mut short = [0; 16];
                short.copy_from_slice(&blake3::hash(key).as_bytes()[..16]);
                self.seen.insert(short)
            })
            .collect();
        if keys.is_empty() {
            return Ok(());
        }
        let mut pipe = redis::pipe();
        pipe.cmd("TIME");
        for key in &keys {
            pipe.cmd("DUMP").arg(key).cmd(if self.exact { "PEXPIRETIME" } else { "PTTL" }).arg(key);
        }
        // Each answer for itself: what an error in the middle of others is about, the library does not say.
        let replies: Vec<redis::RedisResult<Value>> = pipe
            .ignore_errors()
            .query(&mut self.connection)
            .map_err(|error: redis::RedisError| self.failed(&error))?;
        let replies: redis::RedisResult<Vec<Value>> = replies.into_iter().collect();
        let mut replies = replies.map_err(|error| self.failed(&error))?.into_iter();
        let bad = |server: &Server| {
            server.error(SourceErrorKind::Incomplete, "an answer that DUMP or PTTL cannot give")
        };
        let time = replies.next().and_then(|time| redis::from_redis_value::<(u64, u64)>(time).ok());
        let (seconds, micros) = time.ok_or_else(|| bad(&self.server))?;
        let now_ms = if self.exact { 0 } else { seconds.saturating_mul(1000).saturating_add(micros / 1000) };
        for key in &keys {
            let (Some(dump), Some(ttl)) = (replies.next(), replies.next()) else {
                return Err(bad(&self.server));
            };
            let payload = match dump {
                Value::BulkString(payload) => payload,
                // Deleted or expired since SCAN showed it.
                Value::Nil => continue,
                _ => return Err(bad(&self.server)),
            };
            let ttl: i64 = redis::from_redis_value(ttl).map_err(|_| bad(&self.server))?;
            let value = payload
                .len()
                .checked_sub(DUMP_FOOTER)
                .and_then(|len| payload[..len].split_first())
                .ok_or_else(|| bad(&self.server))?;
            if let Ok(ttl) = u64::try_from(ttl) {
                self.out.push(opcode::EXPIRE_MS);
                self.out.extend_from_slice(&now_ms.saturating_add(ttl).to_le_bytes());
            }
            self.out.push(*value.0);
            push_len(&mut self.out, key.len() as u64);
            self.out.extend_from_slice(key);
            self.out.extend_from_slice(value.1);
        }
        Ok(())
    }
}

/// The databases that hold keys, the first last.
fn databases(server: &Server, connection: &mut Client) -> Result<Vec<u32>, SourceError> {
    let down = |why: String| server.error(SourceErrorKind::Unavailable, why);
    let info: redis::RedisResult<String> = redis::cmd("INFO").query(connection);
    let info = info.map_err(|error| {
        let hint =
            "; which databases there are, INFO tells: name the one that is meant, as redis+scan://host/0";
        down(words(&error) + if error.code().is_some() { hint } else { "" })
    })?;
    let number = |line: &str| line.strip_prefix("db")?.split_once(":keys=")?.0.parse().ok();
    let mut databases: Vec<u32> = info.lines().filter_map(number).collect();
    if databases.is_empty() && info.contains("master_link_status:down") {
        return Err(down("this replica has no data, and no link to its master; back up the master".into()));
    }
    databases.sort_unstable_by(|a, b| b.cmp(a));
    Ok(databases)
}

impl Read for Scan {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.sent == self.out.len() {
            if self.finished {
                return Ok(0);
            }
            self.out.clear();
            self.sent = 0;
            self.produce().map_err(std::io::Error::other)?;
        }
        let len = buffer.len().min(self.out.len() - self.sent);
        buffer[..len].copy_from_slice(&self.out[self.sent..self.sent + len]);
        self.sent += len;
        Ok(len)
    }
}
