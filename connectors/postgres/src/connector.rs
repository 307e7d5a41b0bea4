//! PostgreSQL as a connector.

use crate::contents::Databases;
use crate::dump::PostgresSource;
use crate::formats;
use crate::physical::PhysicalSource;
use crate::prepare::Base;
use crate::settings::{AT_ONCE, FORMAT, JOBS};
use crate::{Server, conninfo, physical, prepare};
use crate::{into_directory, live_stream, scratch, target};
use connector_kit::tables::InDumps;
use engine::connector::{
    Connector, Contents, Context, Format, Incremental, LiveStream, Scheme, Scratch, Setting, Target,
};
use engine::entry::Time;
use engine::source::{Source, SourceError};
use engine::{Monitor, Repository};

/// PostgreSQL.
pub struct Postgres;

const SCHEMES: &[Scheme] = &[
    Scheme {
        name: "postgres",
        form: "postgres://[user[:password]@]host[:port][/db]",
        about: "PostgreSQL, all databases or one",
    },
    Scheme { name: "postgresql", form: "", about: "" },
    Scheme {
        name: "postgres+physical",
        form: "postgres+physical://…",
        about: "its files, by a base backup (15 and later)",
    },
];

impl Connector for Postgres {
    fn name(&self) -> &'static str {
        "postgres"
    }
    fn title(&self) -> &'static str {
        "PostgreSQL"
    }
    fn schemes(&self) -> &'static [Scheme] {
        SCHEMES
    }
    fn settings(&self) -> &'static [Setting] {
        &[FORMAT, JOBS, AT_ONCE]
    }
    fn variables(&self) -> &'static [&'static str] {
        &["PG*"]
    }
    fn formats(&self) -> &'static [&'static Format] {
        formats::ALL
    }
    fn logins(&self) -> &'static str {
        "PGPASSWORD or PGPASSFILE"
    }
    fn open_incremental(
        &self,
        url: &str,
        time: Time,
        context: &Context,
        repo: &Repository,
        monitor: &dyn Monitor,
    ) -> engine::Result<Option<Incremental>> {
        if conninfo::scheme(url) != Some("postgres+physical") {
            return Ok(None);
        }
        let server = Server::parse(url, context)?;
        let path = format!("/{}", physical::folder(&server));
        let (base, earlier, lost) = match prepare::earlier(repo, &path, monitor)? {
            Base::There(id, earlier) => (Some(id), Some(earlier), None),
            Base::None => (None, None, None),
            Base::Lost(id, why) => (None, None, Some((id, why))),
        };
        Ok(Some(Incremental { base, lost, source: Box::new(PhysicalSource::new(&server, time, earlier)) }))
    }
    fn incremental_schemes(&self) -> &'static [&'static str] {
        &["postgres+physical"]
    }
    fn scratch(&self) -> Option<&dyn Scratch> {
        Some(&scratch::Servers)
    }
    fn target(&self) -> Option<&dyn Target> {
        Some(&target::Databases)
    }
    fn target_schemes(&self) -> &'static [&'static str] {
        &["postgres", "postgresql"]
    }
    fn folder_target(&self) -> Option<&dyn Target> {
        Some(&into_directory::DataDirectory)
    }
    fn live_stream(&self) -> Option<&dyn LiveStream> {
        Some(&live_stream::Changes)
    }
    fn contents(&self) -> Option<&dyn Contents> {
        Some(&InDumps(Databases))
    }
    fn open(&self, url: &str, time: Time, context: &Context) -> Result<Box<dyn Source>, SourceError> {
        Ok(match conninfo::scheme(url) {
            Some("postgres+physical") => Box::new(PhysicalSource::open(url, time, context)?),
            _ => Box::new(PostgresSource::new(url, time, context)?),
        })
    }
}
