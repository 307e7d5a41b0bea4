//! What a drill found, for people and programs.

use crate::exit::Failure;
use crate::output::{self, Summary};
use crate::{commands, units};
use chunkstore::ObjectId;
use engine::connector::Target;
use engine::drill::Report;
use serde_json::json;

/// All reports of a run, and the ids of what was stored, if all were.
pub(super) fn summary(reports: &[Report], stored: Option<&[ObjectId]>) -> Result<Summary, Failure> {
    let mut summary = Summary::new(json!({
        "passed": reports.iter().all(Report::passed),
        "drills": commands::to_json(&reports)?,
    }));
    for report in reports {
        summary.outcome(told(report), !report.passed());
    }
    if let Some(ids) = stored {
        let short: Vec<String> = ids.iter().map(ObjectId::short).collect();
        summary.line(format!("stored: {}", short.join(", ")));
        summary = summary.with("stored", commands::to_json(&ids)?);
    }
    Ok(summary)
}

/// A report for people.
pub(super) fn told(report: &Report) -> String {
    let outcome = if report.passed() { "passed" } else { "FAILED" };
    let name = match (&*report.source, &*report.system) {
        ("", system) => system.to_owned(),
        (source, "") => source.to_owned(),
        (source, system) => format!("{source} ({system})"),
    };
    let mut text = format!("{name}: {outcome}");
    if let Some(id) = report.snapshot_id {
        text += &format!(", snapshot {}", id.short());
    }
    if !report.server.is_empty() {
        text += &format!(", {}", report.server);
    }
    if report.bytes > 0 {
        text += &format!(", {}", output::bytes(report.bytes));
    }
    for failure in &report.failures {
        text += &format!("\n  {}", engine::shown::line(failure));
    }
    for measured in &report.objectives {
        let what = if measured.name == "rto" { "recovery time" } else { "recovery point" };
        let target = match (measured.objective_seconds, measured.met) {
            (None, _) => String::new(),
            (Some(most), true) => format!(", within {}", units::duration(most)),
            (Some(most), false) => format!(", NOT within {}", units::duration(most)),
        };
        text += &format!("\n  {what} {}{target}", units::duration(measured.seconds));
    }
    let phases: Vec<String> =
        report.phases.iter().map(|phase| format!("{} {:.1} s", phase.name, phase.seconds)).collect();
    if !phases.is_empty() {
        text += &format!("\n  {}", phases.join(", "));
    }
    text
}

/// A message without what it says about choices of `restore`: a drill has none.
pub(super) fn without_choices(message: &str, target: &dyn Target) -> String {
    let choices = target.choices().iter().map(|choice| choice.flag).chain(["target", "to"]);
    let names: Vec<String> = choices.map(|flag| format!("--{flag}")).collect();
    let advises = |part: &&str| {
        let word = |c: char| c.is_whitespace() || matches!(c, ',' | '(' | ')' | '\'');
        part.split(word).any(|word| names.iter().any(|name| name == word))
    };
    let parts: Vec<&str> = message.split("; ").collect();
    // The first is what went wrong.
    let kept = parts.iter().enumerate().filter(|(number, part)| *number == 0 || !advises(part));
    kept.map(|(_, part)| *part).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_advised_for_restore_is_not_for_drills() {
        let target = |name: &str| {
            let connector = connectors::all().iter().find(|one| one.name() == name).unwrap();
            connector.target().unwrap()
        };
        for (name, said, kept) in [
            (
                "redis",
                "an unknown type; restore the file by --target, and let a server load it",
                "an unknown type",
            ),
            (
                "redis",
                "it cannot hold the snapshot: a; b; --unproven tries it all the same",
                "it cannot hold the snapshot: a; b",
            ),
            (
                "postgres",
                "'x' is not empty; --replace drops it first, another name leaves it alone",
                "'x' is not empty",
            ),
            (
                "postgres",
                "roles are lacking; make them first, or leave them out by --no-owner; so it is",
                "roles are lacking; so it is",
            ),
            // What is wrong is told, whatever is in it, and what is no choice of restore.
            (
                "postgres",
                "--replace; 'esker heal' mends it; --read-data",
                "--replace; 'esker heal' mends it; --read-data",
            ),
        ] {
            assert_eq!(without_choices(said, target(name)), kept);
        }
    }
}
