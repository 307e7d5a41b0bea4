//! `esker drill show`: one report, and the document that proves it, for whoever has no repository.

use super::{list, page, told};
use crate::commands;
use crate::context::Context;
use crate::exit::{Code, CommandResult, Failure};
use crate::output::Summary;
use engine::drill::stored::find;
use engine::shown;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Id of a report, its beginning, or latest
    #[arg(value_name = "ID")]
    report: String,
    /// Write the signed document to a new file, which 'esker drill verify --file' and docs/reader.py check
    #[arg(long, value_name = "FILE")]
    export: Option<PathBuf>,
    /// Write a page for people to a new file: the phases as a timeline, without scripts
    #[arg(long, value_name = "FILE.html")]
    html: Option<PathBuf>,
}

pub(super) fn run(args: &Args, context: &Context) -> CommandResult {
    let repo = context.open_to_look()?;
    let reports = repo.reports(context.console.monitor())?;
    let stored = find(&reports, &args.report)?;
    let mut summary =
        Summary::new(list::to_json(stored)?).with("document", commands::to_json(&stored.document)?);
    let report = &stored.report;
    summary.line(format!("report {} of {}", stored.id, commands::show_time(report.time)));
    summary.line(format!("on {}", shown::text(&report.hostname)));
    summary.outcome(told::told(report), !report.passed());
    for one in &report.assertions {
        let mark = if one.met { "" } else { ", NOT as expected" };
        let text = format!("{}: expected {}, found {}{mark}", one.name, one.expected, one.found);
        summary.line(format!("  {}", shown::line(&text)));
    }
    match &stored.doubt {
        None => summary.line(format!("signed by {}", stored.document.signer)),
        Some(doubt) => summary.outcome(format!("NOT PROVED: {doubt}"), true),
    }
    if let Some(path) = &args.export {
        write_new(path, &stored.document.text()?)?;
        summary = summary.with_name("exported", path.as_os_str().as_bytes());
        summary.line(format!("wrote {}", shown::path(path)));
    }
    if let Some(path) = &args.html {
        write_new(path, page::html(stored).as_bytes())?;
        summary = summary.with_name("html", path.as_os_str().as_bytes());
        summary.line(format!("wrote {}", shown::path(path)));
    }
    context.console.summary(&summary);
    Ok(if stored.doubt.is_none() { Code::Done } else { Code::Failed })
}

/// Writes a file that nobody else reads: a report names sources, servers and what failed.
fn write_new(path: &Path, text: &[u8]) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::new(format!("cannot write {}: {error}", shown::path(path)));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    let written = file.write_all(text).and_then(|()| file.sync_all());
    written.map_err(|error| {
        // Half of a document is none.
        let _ = std::fs::remove_file(path);
        failed(error)
    })
}
