//! What a restore of keys says.

use crate::keys::load::LoadReport;
use engine::connector::{Context, Restored, fields};
use engine::shown::counted;
use serde_json::json;

/// Milliseconds since 1970, now.
pub(crate) fn now_ms(context: &Context) -> u64 {
    u64::try_from((context.clock)().as_millisecond()).unwrap_or_default()
}

/// What was loaded, for people and programs.
pub(crate) fn loaded(report: &LoadReport, dry_run: bool) -> Restored {
    let verb = if dry_run { "would restore" } else { "restored" };
    let remarks = [
        (report.existing, "were there already"),
        (report.expired, "have expired"),
        (report.empty, "are collections without elements, which no server keeps"),
        (report.refused, "were refused by the server"),
        (report.missing, "names or patterns fit no key"),
    ];
    Restored {
        total: format!("{verb} {}", counted(report.restored, "key")),
        bytes: report.bytes,
        remarks: remarks
            .into_iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("{count} {what}"))
            .collect(),
        fields: fields(json!({
            "keys_restored": report.restored,
            "keys_existing": report.existing,
            "keys_expired": report.expired,
            "keys_empty": report.empty,
            "keys_refused": report.refused,
            "missing": report.missing,
        })),
        ..Restored::default()
    }
}
