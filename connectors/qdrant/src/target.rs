//! `esker restore --to qdrant+http://…`: collections into a running server.

use crate::restore::{Plan, QdrantOptions, QdrantReport, apply, plan};
use crate::server::Qdrant as Server;
use engine::connector::choice::common::{DRY_RUN, EXCLUDE, INCLUDE, REPLACE, WAIT_THAW};
use engine::connector::{Choice, Chosen, Context, Origin, RestorePlan, Restored, Target, fields, url_of};
use engine::snapshot::Snapshot;
use engine::{Monitor, Result};
use serde_json::json;
use std::ffi::OsStr;

/// Collections into a server.
pub(crate) struct Collections;

/// Another name for a collection.
const RENAME: Choice =
    Choice::many("rename", "OLD=NEW", "Of Qdrant: restore the collection OLD as NEW").text();
/// Whose points count.
const PRIORITY: Choice = Choice::one(
    "priority",
    "snapshot|replica|no_sync",
    "Of Qdrant: which points count if there are several replicas",
)
.text()
.checked(|value| match value.to_str() {
    Some("snapshot" | "replica" | "no_sync") => Ok(()),
    _ => Err("it is snapshot, replica or no_sync".into()),
});
/// Collections that are not whole.
const ALLOW_MISSING_SHARDS: Choice = Choice::switch(
    "allow-missing-shards",
    "Of Qdrant: restore a collection although the snapshot lacks some of its shards",
);

impl Target for Collections {
    fn title(&self) -> &'static str {
        "Qdrant"
    }
    fn choices(&self) -> &'static [&'static Choice] {
        &[&INCLUDE, &EXCLUDE, &DRY_RUN, &WAIT_THAW, &REPLACE, &RENAME, &PRIORITY, &ALLOW_MISSING_SHARDS]
    }
    fn fits(&self, snapshot: &Snapshot) -> bool {
        snapshot.sources.iter().any(|record| record.kind == "qdrant")
    }
    fn check(&self, _to: &OsStr, chosen: &Chosen) -> Result<()> {
        chosen.pairs(&RENAME).map(drop)
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
        let options = QdrantOptions {
            include: chosen.texts(&INCLUDE)?,
            exclude: chosen.texts(&EXCLUDE)?,
            renames: chosen.pairs(&RENAME)?,
            replace: chosen.has(&REPLACE),
            allow_missing_shards: chosen.has(&ALLOW_MISSING_SHARDS),
            priority: chosen.text(&PRIORITY)?.unwrap_or_else(|| "snapshot".into()),
        };
        let plan = plan(from.repo, &from.snapshot.snapshot, from.below, &server, &options, monitor)?;
        Ok(Box::new(Planned { from, server, options, plan }))
    }
}

struct Planned<'a> {
    from: Origin<'a>,
    server: Server,
    options: QdrantOptions,
    plan: Plan,
}

impl RestorePlan for Planned<'_> {
    fn shown(&self) -> &str {
        &self.server.shown
    }
    fn steps(&self) -> Vec<String> {
        self.plan.lines()
    }
    fn removes(&self) -> bool {
        self.options.replace
    }
    fn apply(&mut self, monitor: &dyn Monitor) -> Result<Restored> {
        let Origin { repo, snapshot, .. } = self.from;
        let report = apply(&self.plan, repo, &snapshot.snapshot, &self.server, &self.options, monitor)?;
        Ok(restored(&report))
    }
}

fn restored(report: &QdrantReport) -> Restored {
    let parts = report.collections.iter().map(|(name, points)| {
        let before = report.points_before.get(name).filter(|before| *before != points);
        let before = before.map(|before| format!(" ({before} just before it was backed up)"));
        (format!("collection '{name}': {points} points{}", before.unwrap_or_default()), None)
    });
    let fields = fields(json!({
        "collections": report.collections,
        "points_before": report.points_before,
        "shards_restored": report.shards,
    }));
    Restored {
        parts: parts.collect(),
        total: format!("restored {} shards", report.shards),
        bytes: report.bytes,
        fields,
        ..Restored::default()
    }
}
