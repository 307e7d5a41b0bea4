//! `esker restore --to mysql://…`: databases and tables into a running server.

use crate::restore::{MysqlOptions, prepare, span};
use crate::server::Server;
use connector_kit::databases::{Selection, not_several_into_one};
use engine::connector::choice::common::{
    BASE_ONLY, DATABASE, DRY_RUN, NO_TABLESPACES, REPLACE, TABLE, TIME, WAIT_THAW,
};
use engine::connector::{Choice, Chosen, Context, Origin, RestorePlan, Span, Target, url_of};
use engine::snapshot::Snapshot;
use engine::{Monitor, Result};
use std::ffi::OsStr;

/// Databases and tables into a server.
pub(crate) struct Databases;

/// Tables that the server refuses.
const KEEP_GOING: Choice =
    Choice::switch("keep-going", "Of MariaDB: leave out tables that the server refuses, and report them");

impl Target for Databases {
    fn title(&self) -> &'static str {
        "MariaDB and MySQL"
    }
    fn choices(&self) -> &'static [&'static Choice] {
        &[&TIME, &DRY_RUN, &WAIT_THAW, &REPLACE, &DATABASE, &TABLE, &NO_TABLESPACES, &KEEP_GOING, &BASE_ONLY]
    }
    fn fits(&self, snapshot: &Snapshot) -> bool {
        snapshot.sources.iter().any(|record| record.is_of("mysql"))
    }
    fn span(&self, snapshot: &Snapshot) -> Option<Span> {
        span(snapshot)
    }
    fn check(&self, to: &OsStr, chosen: &Chosen) -> Result<()> {
        not_several_into_one(to, chosen)
    }
    fn plan<'a>(
        &self,
        from: Origin<'a>,
        to: &OsStr,
        chosen: &Chosen,
        context: &Context,
        monitor: &dyn Monitor,
    ) -> Result<Box<dyn RestorePlan + 'a>> {
        let url = url_of(to)?;
        let server = Server::new(&url, context)?;
        let options = MysqlOptions {
            selection: Selection::new(chosen, server.database.clone())?,
            replace: chosen.has(&REPLACE),
            keep_going: chosen.has(&KEEP_GOING),
            no_tablespaces: chosen.has(&NO_TABLESPACES),
            time: chosen.time,
            base_only: chosen.has(&BASE_ONLY),
        };
        Ok(Box::new(prepare(from, server, options, chosen.has(&DRY_RUN), monitor)?))
    }
}
