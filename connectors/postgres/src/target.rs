//! `esker restore --to postgres://…`: databases and tables into a running server.

use crate::conninfo::Settings;
use crate::restore::{PostgresOptions, prepare};
use crate::{Server, names};
use connector_kit::databases::{Selection, not_several_into_one};
use engine::connector::choice::common::{
    DATABASE, DRY_RUN, NO_OWNER, NO_TABLESPACES, REPLACE, TABLE, WAIT_THAW,
};
use engine::connector::{Choice, Chosen, Context, Origin, RestorePlan, Target};
use engine::snapshot::Snapshot;
use engine::{Error, Monitor, Result};
use std::collections::BTreeMap;
use std::ffi::OsStr;

/// Databases and tables into a server.
pub(crate) struct Databases;

/// Tablespaces of other names.
const TABLESPACE_MAP: Choice = Choice::many(
    "tablespace-map",
    "OLD=NEW",
    "Of PostgreSQL: put the objects of the tablespace OLD into the server's tablespace NEW",
)
.text()
.without(&["no-tablespaces"]);
/// A role instead of a superuser.
const AS_OWNER: Choice = Choice::switch(
    "as-owner",
    "Of PostgreSQL: restore as a temporary role that has the rights of the dump's owner instead of a superuser's",
)
.without(&["no-owner"]);

/// Sessions that fill a database.
const JOBS: Choice = Choice::one(
    "jobs",
    "N",
    "Of PostgreSQL: the number of sessions that restore one database at a time (1 to 64). Default: one for each core, at most 8; \
        half of the server's free connections stay free",
)
.text()
.without(&["table"])
.checked(|value| crate::settings::within(value.to_str().unwrap_or_default(), 1, 64));

/// The tablespaces of other names.
fn tablespace_map(chosen: &Chosen) -> Result<BTreeMap<String, String>> {
    let mut map = BTreeMap::new();
    for (old, new) in chosen.pairs(&TABLESPACE_MAP)? {
        if old.is_empty() || new.is_empty() {
            return Err(Error::Invalid(format!("--tablespace-map '{old}={new}' is not OLD=NEW")));
        }
        if map.insert(old.clone(), new).is_some() {
            return Err(Error::Invalid(format!("--tablespace-map names '{old}' twice")));
        }
    }
    Ok(map)
}

impl Target for Databases {
    fn title(&self) -> &'static str {
        "PostgreSQL"
    }
    fn choices(&self) -> &'static [&'static Choice] {
        &[
            &DRY_RUN,
            &WAIT_THAW,
            &NO_OWNER,
            &REPLACE,
            &DATABASE,
            &TABLE,
            &TABLESPACE_MAP,
            &AS_OWNER,
            &JOBS,
            &NO_TABLESPACES,
        ]
    }
    fn fits(&self, snapshot: &Snapshot) -> bool {
        snapshot.sources.iter().any(|record| record.kind == "postgres")
    }
    fn refusal(&self, flag: &str) -> Option<&'static str> {
        (flag == "time")
            .then_some("a moment of PostgreSQL is restored as a data directory: --target DIR --time TIME")
    }
    fn check(&self, to: &OsStr, chosen: &Chosen) -> Result<()> {
        tablespace_map(chosen)?;
        // What stands in a service is known when that is read.
        let of_url = to.to_str().and_then(|url| Settings::read(url, &BTreeMap::new()).ok());
        let of_url = of_url.as_ref().and_then(|settings| settings.get("dbname"));
        for name in of_url.into_iter().chain(chosen.texts(&DATABASE)?.iter().map(String::as_str)) {
            names::check(name).map_err(Error::Invalid)?;
        }
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
        let server = Server::parse(to.to_str().unwrap_or_default(), context)?;
        let options = PostgresOptions {
            selection: Selection::new(chosen, server.database.clone())?,
            replace: chosen.has(&REPLACE),
            no_owner: chosen.has(&NO_OWNER),
            as_owner: chosen.has(&AS_OWNER),
            no_tablespaces: chosen.has(&NO_TABLESPACES),
            tablespace_map: tablespace_map(chosen)?,
            jobs: chosen.text(&JOBS)?.and_then(|text| text.parse().ok()),
            sessions: context.restore_sessions,
            path: context.environment.get("PATH").cloned(),
        };
        Ok(Box::new(prepare(from, server, options, chosen.has(&DRY_RUN), monitor)?))
    }
}
