//! `esker drill list`: the reports of a repository, and how the drills of each source went.

use crate::commands;
use crate::context::Context;
use crate::exit::{Code, CommandResult, Failure};
use crate::output::{self, Summary};
use crate::units::{counted, duration};
use engine::drill::Report;
use engine::drill::stored::{Stored, Trend};
use engine::policy::Within;
use engine::shown;
use jiff::Timestamp;
use serde_json::json;

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Only drills of this time until now, such as 30d, 6m or 2y
    #[arg(long, value_name = "SPAN", default_value = "1y")]
    within: Within,
}

pub(super) fn run(args: &Args, context: &Context) -> CommandResult {
    let repo = context.open_to_look()?;
    let since = context.now().to_zoned(jiff::tz::TimeZone::UTC).checked_sub(args.within.0);
    // Longer ago than there is a time: all of them.
    let since = since.map_or(Timestamp::MIN, |since| since.timestamp());
    let mut reports = repo.reports(context.console.monitor())?;
    let all = reports.len();
    reports.retain(|stored| stored.report.time >= since);
    let trends = Trend::of(&reports.iter().map(|stored| &stored.report).collect::<Vec<_>>());
    context.console.summary(&summary(&reports, all, &trends)?);
    Ok(if context.console.error_count() > 0 { Code::Failed } else { Code::Done })
}

fn summary(reports: &[Stored], all: usize, trends: &[Trend]) -> Result<Summary, Failure> {
    let listed = reports.iter().map(to_json).collect::<Result<Vec<_>, _>>()?;
    let mut summary = Summary::new(json!({"reports": listed, "trends": commands::to_json(&trends)?}));
    if !reports.is_empty() {
        let mut table = output::table(&[
            "ID",
            "Time",
            "Source",
            "System",
            "Snapshot",
            "Recovery time",
            "Recovery point",
            "Result",
            "Signer",
        ]);
        for stored in reports {
            table.add_row(row(stored));
        }
        summary.table(table);
    }
    let older = all - reports.len();
    summary.line(match older {
        0 => counted(reports.len() as u64, "report"),
        older => format!("{}, and {older} before that", counted(reports.len() as u64, "report")),
    });
    trends.iter().for_each(|trend| summary.line(told(trend)));
    Ok(summary)
}

/// A report as `list` and `show` have it for programs.
pub(super) fn to_json(stored: &Stored) -> Result<serde_json::Value, Failure> {
    let mut fields = json!({
        "id": stored.id,
        "passed": stored.report.passed(),
        "signer": stored.document.signer,
        "signature_valid": stored.doubt.is_none(),
        "report": commands::to_json(&stored.report)?,
    });
    if let (Some(doubt), Some(fields)) = (&stored.doubt, fields.as_object_mut()) {
        fields.insert("doubt".into(), doubt.clone().into());
    }
    Ok(fields)
}

fn row(stored: &Stored) -> [String; 9] {
    let report = &stored.report;
    let text = |text: &str| shown::text(text).into_owned();
    [
        stored.id.short(),
        commands::show_time(report.time),
        text(&report.source),
        text(&report.system),
        report.snapshot_id.map(|id| id.short()).unwrap_or_default(),
        measured(report, "rto"),
        measured(report, "rpo"),
        if report.passed() { "passed" } else { "FAILED" }.into(),
        if stored.doubt.is_none() { stored.document.signer.short() } else { "INVALID".into() },
    ]
}

/// What was measured, and what is promised.
fn measured(report: &Report, name: &str) -> String {
    match report.measured(name) {
        None => "-".into(),
        Some(one) => match one.objective_seconds {
            None => duration(one.seconds),
            Some(most) => format!("{} of {}", duration(one.seconds), duration(most)),
        },
    }
}

fn told(trend: &Trend) -> String {
    let name = match (&*trend.source, &*trend.system) {
        ("", "") => "?".to_owned(),
        ("", one) | (one, "") => shown::text(one).into_owned(),
        (source, system) => shown::text(&format!("{source} ({system})")).into_owned(),
    };
    let mut text = format!("{name}: {} of {} passed", trend.passed, trend.drills);
    if let Some(last) = trend.rto_seconds {
        text += &format!(", recovery time {}", duration(last));
        if let Some(before) = trend.rto_median_before.filter(|before| *before > 0.0) {
            text += &format!(", {:+.0} % against the median before", (last / before - 1.0) * 100.0);
        }
    }
    text
}
