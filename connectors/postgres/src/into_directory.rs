//! `esker restore --target DIR --prepare`: a data directory, from a physical backup and the WAL after it.

use crate::prepare::{PrepareOptions, PrepareReport, Preparing, is_physical, span};
use engine::connector::choice::common::{DRY_RUN, REPLACE, TIME, WAIT_THAW};
use engine::connector::{Choice, Chosen, Context, Origin, RestorePlan, Restored, Span, Target, fields};
use engine::snapshot::Snapshot;
use engine::{Monitor, Result};
use serde_json::json;
use std::ffi::OsStr;
use std::path::PathBuf;

/// A data directory.
pub(crate) struct DataDirectory;

/// A standby instead of a server of its own.
const STANDBY: Choice = Choice::one(
    "standby",
    "CONNINFO",
    "Of a physical backup of PostgreSQL: the server starts as a standby, and connects to its primary by this \
        (host=… port=… user=…; its password belongs in a password file of the server's user)",
)
.text()
.without(&["time"])
.checked(|value| {
    let text = value.to_str().unwrap_or_default();
    match text.contains('=') && !text.contains(['\n', '\r', '\0']) {
        true => Ok(()),
        false => Err("a connection string like 'host=db1 port=5432 user=replicator' is expected".into()),
    }
});

impl Target for DataDirectory {
    fn title(&self) -> &'static str {
        "a data directory of PostgreSQL"
    }
    fn choices(&self) -> &'static [&'static Choice] {
        &[&TIME, &DRY_RUN, &WAIT_THAW, &REPLACE, &STANDBY]
    }
    fn fits(&self, snapshot: &Snapshot) -> bool {
        is_physical(snapshot)
    }
    fn span(&self, snapshot: &Snapshot) -> Option<Span> {
        span(snapshot)
    }
    fn plan<'a>(
        &self,
        from: Origin<'a>,
        to: &OsStr,
        chosen: &Chosen,
        context: &Context,
        monitor: &dyn Monitor,
    ) -> Result<Box<dyn RestorePlan + 'a>> {
        let options = PrepareOptions {
            target: PathBuf::from(to),
            host: host_of(from.below).to_owned(),
            replace: chosen.has(&REPLACE),
            time: chosen.time,
            standby: chosen.text(&STANDBY)?,
            threads: context.restore_sessions,
            path: context.environment.get("PATH").cloned(),
        };
        let shown = engine::shown::path(to.as_ref());
        let (time, is_standby) = (options.time, options.standby.is_some());
        let preparing = Preparing::plan(from.repo, from.snapshot, options, monitor)?;
        Ok(Box::new(Planned { preparing, shown, time, is_standby }))
    }
}

/// The server that a path behind `SNAPSHOT:` names, as `/postgres/HOST` or something beneath it.
fn host_of(below: &str) -> &str {
    let below = below.trim_start_matches('/');
    below.strip_prefix("postgres/").and_then(|rest| rest.split('/').next()).unwrap_or_default()
}

struct Planned<'a> {
    preparing: Preparing<'a>,
    shown: String,
    time: Option<jiff::Timestamp>,
    is_standby: bool,
}

impl Planned<'_> {
    /// What the server does that is started on it.
    fn next(&self, report: &PrepareReport) -> String {
        match (self.is_standby, self.time, report.stops) {
            (true, ..) => "it is a standby, and follows its primary".into(),
            (_, Some(time), true) => format!("it recovers to {time} and goes on from there"),
            (_, Some(_), false) => match report.last {
                Some(last) => format!("it recovers all WAL; the last transaction in it ended at {last}"),
                None => "it recovers all WAL; no transaction ended in it".into(),
            },
            (_, None, _) => "it recovers to the end of its WAL".into(),
        }
    }
}

impl RestorePlan for Planned<'_> {
    fn shown(&self) -> &str {
        &self.shown
    }
    fn steps(&self) -> Vec<String> {
        self.preparing.steps(&self.shown)
    }
    fn removes(&self) -> bool {
        self.preparing.is_over()
    }
    fn preview(&self, monitor: &dyn Monitor) -> Result<Restored> {
        if !self.preparing.is_over() {
            return Ok(Restored::default());
        }
        let (bytes, files) = self.preparing.look(false, monitor)?;
        let counted = engine::shown::counted(files, "file");
        Ok(Restored {
            parts: vec![(format!("would write parts of {counted}, at most"), Some(bytes))],
            bytes,
            fields: fields(json!({ "files_written": files, "names_removed": self.preparing.removed() })),
            ..Restored::default()
        })
    }
    fn prove(&mut self, monitor: &dyn Monitor) -> Result<()> {
        if self.preparing.is_over() { self.preparing.look(true, monitor).map(drop) } else { Ok(()) }
    }
    fn stands(&self, _: Option<&str>) -> Option<String> {
        self.preparing.stands(&self.shown)
    }
    fn apply(&mut self, monitor: &dyn Monitor) -> Result<Restored> {
        let report = self.preparing.apply(monitor)?;
        let next = self.next(&report);
        Ok(Restored {
            total: format!(
                "{} is a data directory of {} and {} of WAL",
                self.shown,
                engine::shown::counted(report.backups as u64, "backup"),
                engine::shown::counted(report.segments as u64, "segment")
            ),
            bytes: report.bytes,
            lines: vec![format!("start a server on it: {next}")],
            fields: fields(json!({
                "backups": report.backups,
                "wal_segments": report.segments,
                "files_written": report.files,
                "names_removed": report.removed,
                "recovers_to": self.time.filter(|_| report.stops),
            })),
            ..Restored::default()
        })
    }
}
