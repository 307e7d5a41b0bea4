//! MariaDB and MySQL as a connector.

use crate::contents::Databases;
use crate::dump::MysqlSource;
use crate::formats;
use crate::{live_stream, scratch, target};
use connector_kit::tables::InDumps;
use engine::connector::{Connector, Contents, Context, Format, LiveStream, Scheme, Scratch, Target};
use engine::entry::Time;
use engine::source::{Source, SourceError, SourceErrorKind, without_password};

/// MariaDB and MySQL.
pub struct Mysql;

const SCHEMES: &[Scheme] = &[
    Scheme {
        name: "mysql",
        form: "mysql://[user[:password]@]host[:port][/db]",
        about: "MariaDB or MySQL, all databases or one",
    },
    Scheme { name: "mariadb", form: "", about: "" },
];

impl Connector for Mysql {
    fn name(&self) -> &'static str {
        "mysql"
    }
    fn title(&self) -> &'static str {
        "MariaDB and MySQL"
    }
    fn schemes(&self) -> &'static [Scheme] {
        SCHEMES
    }
    fn variables(&self) -> &'static [&'static str] {
        &["MYSQL_*"]
    }
    fn formats(&self) -> &'static [&'static Format] {
        formats::ALL
    }
    fn logins(&self) -> &'static str {
        "~/.my.cnf or MYSQL_PWD"
    }
    fn scratch(&self) -> Option<&dyn Scratch> {
        Some(&scratch::Servers)
    }
    fn target(&self) -> Option<&dyn Target> {
        Some(&target::Databases)
    }
    fn target_schemes(&self) -> &'static [&'static str] {
        &["mysql", "mariadb"]
    }
    fn live_stream(&self) -> Option<&dyn LiveStream> {
        Some(&live_stream::Changes)
    }
    fn contents(&self) -> Option<&dyn Contents> {
        Some(&InDumps(Databases))
    }
    fn open(&self, url: &str, time: Time, context: &Context) -> Result<Box<dyn Source>, SourceError> {
        let parsed = engine::source::parsed_url(url)
            .map_err(|error| SourceError::new(SourceErrorKind::Unavailable, without_password(url), error))?;
        Ok(Box::new(MysqlSource::open(&parsed, time, context)?))
    }
}
