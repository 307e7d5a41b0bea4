//! Redis and Valkey as a connector.

use crate::server::address;
use crate::settings::{ORDER, PASSWORD, REPLICATE_FROM, USER};
use crate::{contents, live_stream, target};
use crate::{files, formats, scan, scratch, server};
use engine::connector::{Connector, Contents, Context, Format, LiveStream, Scheme, Scratch, Setting, Target};
use engine::entry::Time;
use engine::source::{Source, SourceError, SourceErrorKind, without_password};

/// Redis and Valkey.
pub struct Redis;

const fn scheme(name: &'static str, form: &'static str, about: &'static str) -> Scheme {
    Scheme { name, form, about }
}

const SCHEMES: &[Scheme] = &[
    scheme(
        "redis",
        "redis://[user:password@]host[:port][/db]",
        "Redis or Valkey, all databases or one, by replication;",
    ),
    scheme("rediss", "", "rediss:// over TLS, redis+unix:///PATH[?db=N] over a socket"),
    scheme("valkey", "", ""),
    scheme("valkeys", "", ""),
    scheme("redis+unix", "", ""),
    scheme("valkey+unix", "", ""),
    scheme(
        "redis+scan",
        "redis+scan://…, redis+scan+unix:///PATH",
        "the same, key by key, where replication is refused",
    ),
    scheme("rediss+scan", "", ""),
    scheme("valkey+scan", "", ""),
    scheme("valkeys+scan", "", ""),
    scheme("redis+scan+unix", "", ""),
    scheme("valkey+scan+unix", "", ""),
    scheme("redis+rdb", "redis+rdb:///PATH/dump.rdb", "a dump that Redis wrote"),
    scheme("redis+aof", "redis+aof:///PATH/appendonlydir", "its append-only files, in either layout"),
];

impl Connector for Redis {
    fn name(&self) -> &'static str {
        "redis"
    }
    fn title(&self) -> &'static str {
        "Redis"
    }
    fn schemes(&self) -> &'static [Scheme] {
        SCHEMES
    }
    fn settings(&self) -> &'static [Setting] {
        &[ORDER, REPLICATE_FROM, USER, PASSWORD]
    }
    fn formats(&self) -> &'static [&'static Format] {
        formats::ALL
    }
    fn logins(&self) -> &'static str {
        "REDISCLI_AUTH or ESKER_REDIS_PASSWORD_FILE (and ESKER_REDIS_USER)"
    }
    fn scratch(&self) -> Option<&dyn Scratch> {
        Some(&scratch::Servers)
    }
    fn target(&self) -> Option<&dyn Target> {
        Some(&target::Keys)
    }
    fn target_schemes(&self) -> &'static [&'static str] {
        &[
            "redis",
            "rediss",
            "valkey",
            "valkeys",
            "redis+unix",
            "valkey+unix",
            "redis+scan",
            "rediss+scan",
            "valkey+scan",
            "valkeys+scan",
            "redis+scan+unix",
            "valkey+scan+unix",
        ]
    }
    fn live_stream(&self) -> Option<&dyn LiveStream> {
        Some(&live_stream::Changes)
    }
    fn contents(&self) -> Option<&dyn Contents> {
        Some(&contents::Keys)
    }
    fn open(&self, url: &str, time: Time, context: &Context) -> Result<Box<dyn Source>, SourceError> {
        let parsed = engine::source::parsed_url(url)
            .map_err(|error| SourceError::new(SourceErrorKind::Unavailable, without_password(url), error))?;
        Ok(match address::Scheme::of(parsed.scheme()) {
            Some(scheme) if scheme.scan => Box::new(scan::source(&parsed, time, context)?),
            Some(_) => Box::new(server::source(&parsed, time, context)?),
            None if parsed.scheme() == "redis+rdb" => Box::new(files::rdb(&parsed, time, context)?),
            None => Box::new(files::aof(&parsed, time, context)?),
        })
    }
}
