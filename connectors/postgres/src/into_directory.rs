//! `esker restore --target DIR --prepare`: a data directory, from a physical backup and the WAL after it.

use crate::prepare::{PrepareOptions, is_physical, prepare, span};
use engine::connector::choice::common::{TIME, WAIT_THAW};
use engine::connector::{Choice, Chosen, Context, Origin, RestorePlan, Restored, Span, Target, fields};
use engine::snapshot::Snapshot;
use engine::{Monitor, Result};
use serde_json::json;
use std::ffi::OsStr;
use std::path::PathBuf;

/// A data directory.
pub(crate) struct DataDirectory;

impl Target for DataDirectory {
    fn title(&self) -> &'static str {
        "a data directory of PostgreSQL"
    }
    fn choices(&self) -> &'static [&'static Choice] {
        &[&TIME, &WAIT_THAW]
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
        _: &dyn Monitor,
    ) -> Result<Box<dyn RestorePlan + 'a>> {
        let options = PrepareOptions {
            target: PathBuf::from(to),
            time: chosen.time,
            path: context.environment.get("PATH").cloned(),
        };
        Ok(Box::new(Planned { from, shown: engine::shown::path(to.as_ref()).to_string(), options }))
    }
}

struct Planned<'a> {
    from: Origin<'a>,
    shown: String,
    options: PrepareOptions,
}

impl RestorePlan for Planned<'_> {
    fn shown(&self) -> &str {
        &self.shown
    }
    fn steps(&self) -> Vec<String> {
        vec![format!("make a data directory in {}", self.shown)]
    }
    fn removes(&self) -> bool {
        false
    }
    fn apply(&mut self, monitor: &dyn Monitor) -> Result<Restored> {
        let time = self.options.time;
        let report = prepare(self.from.repo, &self.from.snapshot.snapshot, &self.options, monitor)?;
        let next = match (time, report.stops) {
            (Some(time), true) => format!("it recovers to {time} and goes on from there"),
            (Some(_), false) => match report.last {
                Some(last) => format!("it recovers all WAL; the last transaction in it ended at {last}"),
                None => "it recovers all WAL; no transaction ended in it".into(),
            },
            (None, _) => "it recovers to the end of its WAL".into(),
        };
        Ok(Restored {
            total: format!(
                "{} is a data directory of {} backups and {} segments of WAL",
                self.options.target.display(),
                report.backups,
                report.segments
            ),
            bytes: report.bytes,
            lines: vec![format!("start a server on it: {next}")],
            fields: fields(json!({
                "backups": report.backups,
                "wal_segments": report.segments,
                "recovers_to": time.filter(|_| report.stops),
            })),
            ..Restored::default()
        })
    }
}
