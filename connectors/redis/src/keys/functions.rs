//! Function libraries: those of a dump, and those of a server. Servers before 7 have none.

use super::Dump;
use crate::rdb::crc64;
use crate::rdb::parse::Global;
use crate::server::{Server, words};
use engine::source::SourceErrorKind;
use engine::{Repository, Result};
use redis::{RedisResult, Value};

/// Functions came with version 10 (Redis 7).
const FUNCTION_VERSION: u16 = 10;
/// Bytes of the version and checksum at the end of a payload.
const FOOTER: usize = 10;

/// Replaces the server's functions by those of `dump`; returns how many libraries there are. Servers before 7 have
/// none.
pub fn load_functions(repo: &Repository, dump: &Dump, server: &Server) -> Result<u64> {
    if dump.is_empty() {
        return Ok(0);
    }
    let (_, globals) = dump.head(repo)?;
    let libraries = globals.iter().filter(|(global, _)| *global == Global::Function);
    let (mut payload, mut count) = (vec![], 0);
    for (_, raw) in libraries {
        payload.extend_from_slice(raw);
        count += 1;
    }
    if count > 0 {
        restore_functions(server, payload)?;
    }
    Ok(count)
}

/// Replaces the server's functions by `libraries`, as an RDB has them.
pub fn restore_functions(server: &Server, libraries: Vec<u8>) -> Result<()> {
    let mut payload = libraries;
    payload.extend_from_slice(&FUNCTION_VERSION.to_le_bytes());
    let mut digest = crc64();
    digest.update(&payload);
    payload.extend_from_slice(&digest.finalize().to_le_bytes());
    let mut command = redis::cmd("FUNCTION");
    let done: RedisResult<()> =
        command.arg("RESTORE").arg(payload).arg("FLUSH").query(&mut server.connect()?);
    Ok(done.map_err(|error| {
        let why = match error.to_string().contains("unknown command") {
            true => "it takes no functions, and the snapshot has some".into(),
            false => format!("functions: {}", words(&error)),
        };
        server.error(SourceErrorKind::Unavailable, why)
    })?)
}

/// Function libraries of a server; none where it has no such command, or does not allow it: then it allows no change either.
pub fn count_functions(server: &Server) -> Result<u64> {
    let listed: RedisResult<Vec<Value>> = redis::cmd("FUNCTION").arg("LIST").query(&mut server.connect()?);
    match listed {
        Err(error) if error.is_io_error() => Err(server
            .error(SourceErrorKind::Unavailable, format!("FUNCTION LIST: {}", words(&error)))
            .into()),
        listed => Ok(listed.map_or(0, |libraries| libraries.len() as u64)),
    }
}

/// Removes every function: commands that are replayed load theirs anew. Servers before 7 have none.
pub fn flush_functions(server: &Server) -> Result<()> {
    let done: RedisResult<()> = redis::cmd("FUNCTION").arg("FLUSH").query(&mut server.connect()?);
    match done {
        Err(error) if !error.to_string().contains("unknown command") => {
            Err(server.error(SourceErrorKind::Unavailable, format!("FUNCTION FLUSH: {error}")).into())
        }
        _ => Ok(()),
    }
}

/// The function libraries of a server as an RDB has them; none of one that has no functions.
///
/// # Errors
/// What it refuses.
pub fn dump_functions(server: &Server) -> Result<Vec<u8>> {
    let payload: RedisResult<Vec<u8>> = redis::cmd("FUNCTION").arg("DUMP").query(&mut server.connect()?);
    let payload = payload.map_err(|error| {
        server.error(SourceErrorKind::Unavailable, format!("FUNCTION DUMP: {}", words(&error)))
    })?;
    Ok(payload.split_last_chunk::<FOOTER>().map(|(libraries, _)| libraries.to_vec()).unwrap_or_default())
}
