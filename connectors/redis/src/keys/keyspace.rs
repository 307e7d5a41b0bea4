//! All keys of a server.

use crate::server::{Server, words};
use engine::Result;
use engine::source::SourceErrorKind;
use redis::RedisResult;
use std::collections::BTreeMap;

/// Keys of a server by database.
pub fn count_keys(server: &Server) -> Result<BTreeMap<u32, u64>> {
    let info: RedisResult<String> = redis::cmd("INFO").arg("keyspace").query(&mut server.connect()?);
    let info = info.map_err(|error| {
        let why = words(&error);
        let hint = "; a whole server is restored over what INFO says is there, and INFO is refused or renamed: allow \
            +info, or restore keys without --whole";
        server.error(SourceErrorKind::Unavailable, why + if error.code().is_some() { hint } else { "" })
    })?;
    let database = |line: &str| {
        let (number, rest) = line.strip_prefix("db")?.split_once(":keys=")?;
        Some((number.parse().ok()?, rest.split(',').next()?.parse().ok()?))
    };
    Ok(info.lines().filter_map(database).collect())
}

/// Removes every key of every database.
pub fn flush_all(server: &Server) -> Result<()> {
    let done: RedisResult<()> = redis::cmd("FLUSHALL").query(&mut server.connect()?);
    Ok(done.map_err(|error| {
        server.error(SourceErrorKind::Unavailable, format!("FLUSHALL: {}", words(&error)))
    })?)
}
