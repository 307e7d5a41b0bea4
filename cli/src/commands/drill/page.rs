//! A report as a page for people: one HTML file without script and without anything from elsewhere. It proves nothing: the
//! exported document does.

use crate::commands;
use crate::output;
use crate::sheet::escaped;
use crate::units::duration;
use engine::drill::stored::Stored;
use engine::drill::{Phase, Report, Step};
use std::fmt::Write as _;

/// Colours of both schemes, and a width that a telephone has.
const STYLE: &str = include_str!("page.css");

/// Pixels of a phase in the timeline: a line of text, and a bar.
const ROW: usize = 40;

/// What others wrote, as text of the page.
fn text(of_others: &str) -> String {
    escaped(of_others)
}

/// The page of a report.
pub(super) fn html(stored: &Stored) -> String {
    let report = &stored.report;
    let name = if report.source.is_empty() { &report.system } else { &report.source };
    let (class, outcome) = if report.passed() { ("good", "passed") } else { ("bad", "failed") };
    let title = format!("Drill of {}", text(name));
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
        <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
        <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
        <title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{title}: <span class=\"{class}\">{outcome}</span></h1>\n"
    );
    facts(&mut page, report);
    failures(&mut page, report);
    objectives(&mut page, report);
    timeline(&mut page, &report.phases, report.seconds);
    assertions(&mut page, report);
    let proof = match &stored.doubt {
        None => "its signature was valid".to_owned(),
        Some(doubt) => format!("<span class=\"bad\">NOT PROVED: {}</span>", text(doubt)),
    };
    let _ = write!(
        page,
        "<h2>Signature</h2>\n<p>Report {} of repository {}, signed by {}: {proof} when this page was made. The page itself is \
        not signed; <code>esker drill verify</code> checks the report.</p>\n</body>\n</html>\n",
        stored.id, stored.document.repository, stored.document.signer
    );
    page
}

fn facts(page: &mut String, report: &Report) {
    let mut all = vec![
        ("Time", commands::show_time(report.time)),
        ("Machine", report.hostname.clone()),
        ("System", report.system.clone()),
        ("Server", report.server.clone()),
        ("Snapshot", report.snapshot_id.map(|id| id.to_string()).unwrap_or_default()),
        ("Recovery point", report.recovery_point.map(commands::show_time).unwrap_or_default()),
        ("Restored", output::bytes(report.bytes)),
    ];
    all.retain(|(_, value)| !value.is_empty());
    page.push_str("<table>\n");
    for (name, value) in all {
        let _ = writeln!(page, "<tr><th>{name}</th><td>{}</td></tr>", text(&value));
    }
    page.push_str("</table>\n");
}

fn failures(page: &mut String, report: &Report) {
    if report.passed() {
        return;
    }
    page.push_str("<h2>Failures</h2>\n<ul class=\"bad\">\n");
    for failure in &report.failures {
        let _ = writeln!(page, "<li>{}</li>", text(failure));
    }
    page.push_str("</ul>\n");
}

fn objectives(page: &mut String, report: &Report) {
    if report.objectives.is_empty() {
        return;
    }
    page.push_str("<h2>Objectives</h2>\n<table>\n<tr><th></th><th>Measured</th><th>Promised</th></tr>\n");
    for one in &report.objectives {
        let name = if one.name == "rto" { "Recovery time" } else { "Recovery point" };
        let promised = one.objective_seconds.map_or_else(|| "nothing".to_owned(), duration);
        let class = if one.met { "good" } else { "bad" };
        let measured = duration(one.seconds);
        let _ = writeln!(
            page,
            "<tr><td>{name}</td><td class=\"{class}\">{measured}</td><td>{promised}</td></tr>"
        );
    }
    page.push_str("</table>\n");
}

/// The phases, one below the other, each where it lies in the whole. Coordinates are percentages: text stays as large as it is
/// on a narrow screen.
fn timeline(page: &mut String, phases: &[Phase], whole: f64) {
    if phases.is_empty() || !whole.is_finite() || whole <= 0.0 {
        return;
    }
    let _ = write!(
        page,
        "<h2>Timeline</h2>\n<svg role=\"img\" aria-label=\"Phases of the drill\" height=\"{}\">\n",
        phases.len() * ROW
    );
    let outside = [Step::Start, Step::Stop].map(Step::name);
    let mut since = 0.0;
    for (number, phase) in phases.iter().enumerate() {
        let (y, share) = (number * ROW, |seconds: f64| (seconds / whole * 100.0).clamp(0.0, 100.0));
        let (class, note) = match outside.contains(&&*phase.name) {
            true => ("outside", ", no part of the recovery time"),
            false => ("bar", ""),
        };
        let _ = write!(
            page,
            "<text x=\"0\" y=\"{}\">{} {}{note}</text>\n\
            <rect class=\"track\" x=\"0\" y=\"{}\" width=\"100%\" height=\"10\"/>\n\
            <rect class=\"{class}\" x=\"{:.2}%\" y=\"{}\" width=\"{:.2}%\" height=\"10\"/>\n",
            y + 15,
            text(&phase.name),
            duration(phase.seconds),
            y + 21,
            share(since).min(99.5),
            y + 21,
            // One that takes no time is seen, too.
            share(phase.seconds).max(0.5),
        );
        since += phase.seconds;
    }
    let _ = writeln!(page, "</svg>\n<p>{} in all</p>", duration(whole));
}

fn assertions(page: &mut String, report: &Report) {
    if report.assertions.is_empty() {
        return;
    }
    page.push_str("<h2>Assertions</h2>\n<table>\n<tr><th>What</th><th>Expected</th><th>Found</th></tr>\n");
    for one in &report.assertions {
        let class = if one.met { "good" } else { "bad" };
        let (name, expected, found) = (text(&one.name), text(&one.expected), text(&one.found));
        let _ =
            writeln!(page, "<tr><td>{name}</td><td>{expected}</td><td class=\"{class}\">{found}</td></tr>");
    }
    page.push_str("</table>\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use chunkstore::inbox::SigningKey;
    use chunkstore::{ObjectId, RepositoryId};
    use engine::drill::stored::Document;
    use engine::drill::{Assertion, SCHEMA};

    #[test]
    fn what_others_wrote_is_text_and_the_page_runs_nothing() {
        let evil = "<script src=//x>\u{202e}&\"'";
        let phases = vec![
            Phase { name: evil.into(), seconds: 1.0 },
            Phase { name: "start".into(), seconds: 0.0 },
            Phase { name: "restore".into(), seconds: 3.0 },
        ];
        let assertion =
            Assertion { name: evil.into(), expected: evil.into(), found: evil.into(), met: false };
        let report = Report {
            schema: SCHEMA.into(),
            time: jiff::Timestamp::UNIX_EPOCH,
            source: evil.into(),
            system: evil.into(),
            hostname: evil.into(),
            snapshot_id: None,
            recovery_point: None,
            server: evil.into(),
            phases,
            seconds: 4.0,
            bytes: 1,
            objectives: vec![],
            assertions: vec![assertion],
            failures: vec![evil.into()],
        };
        let document =
            Document::sign(&report, RepositoryId([3; 16]), &SigningKey::from_bytes(&[4; 32])).unwrap();
        let stored = Stored { id: ObjectId([1; 32]), document, report, doubt: Some(evil.into()) };
        let page = html(&stored);
        assert!(!page.contains("<script") && !page.contains('\u{202e}') && !page.contains("x>&"), "{page}");
        assert_eq!(page.matches("&lt;script").count(), 11, "{page}");
        // Where the last phase begins, and what it takes of the whole.
        assert!(page.contains("x=\"25.00%\"") && page.contains("width=\"75.00%\""), "{page}");
        assert!(page.contains("no part of the recovery time") && page.contains("width=\"0.50%\""), "{page}");
    }
}
