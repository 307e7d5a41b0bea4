//! `esker drill verify`: whether reports are as they were signed, by whom, and of this repository.

use crate::commands;
use crate::context::Context;
use crate::exit::{Code, CommandResult, Failure};
use crate::output::Summary;
use crate::small;
use crate::units::counted;
use chunkstore::ObjectId;
use engine::drill::stored::{Document, find};
use engine::shown;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Bytes of an exported document, at most, as docs/reader.py takes them.
const MOST: u64 = 64 << 20;

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Ids of reports, their beginnings, or latest; all if none is named
    #[arg(value_name = "ID")]
    reports: Vec<String>,
    /// Check an exported document, of whatever repository, without opening one
    #[arg(long, value_name = "FILE", conflicts_with = "reports")]
    file: Vec<PathBuf>,
    /// Only a report that this key signed passes: what 'esker drill key' printed (repeat to allow several)
    #[arg(long, value_name = "KEY", value_parser = key)]
    signer: Vec<ObjectId>,
}

fn key(text: &str) -> Result<ObjectId, String> {
    ObjectId::parse(text)
        .ok_or_else(|| "a public key is 64 hex digits, as 'esker drill key' prints it".into())
}

/// What came of one.
struct Checked {
    /// An id, or a file.
    name: String,
    /// The same for people.
    shown: String,
    document: Option<Document>,
    wrong: Option<String>,
}

impl Checked {
    /// Whether one of the keys that are meant signed it, if it is sound otherwise.
    fn by(mut self, signers: &[ObjectId]) -> Self {
        if let (None, Some(document), false) = (&self.wrong, &self.document, signers.is_empty())
            && !signers.contains(&document.signer)
        {
            self.wrong = Some(format!("another key signed it, {}", document.signer));
        }
        self
    }

    fn json(&self) -> Value {
        let document = self.document.as_ref();
        json!({
            "name": self.name,
            "valid": self.wrong.is_none(),
            "why": self.wrong,
            "signer": document.map(|document| document.signer),
            "repository": document.map(|document| document.repository),
        })
    }

    fn told(&self) -> String {
        match (&self.wrong, &self.document) {
            (Some(wrong), _) => format!("{}: NOT VALID: {}", self.shown, shown::line(wrong)),
            (None, Some(document)) => format!("{}: signed by {}", self.shown, document.signer),
            (None, None) => self.shown.clone(),
        }
    }
}

pub(super) fn run(args: &Args, context: &Context) -> CommandResult {
    let checked = match args.file.is_empty() {
        true => stored(args, context)?,
        false => args.file.iter().map(|path| exported(path)).collect(),
    };
    let checked: Vec<Checked> = checked.into_iter().map(|one| one.by(&args.signer)).collect();
    let wrong = checked.iter().filter(|one| one.wrong.is_some()).count() + context.console.error_count();
    let mut summary = Summary::new(json!({
        "valid": wrong == 0,
        "num_wrong": wrong,
        "reports": checked.iter().map(Checked::json).collect::<Vec<_>>(),
    }));
    checked.iter().for_each(|one| summary.outcome(one.told(), one.wrong.is_some()));
    let count = counted(checked.len() as u64, "report");
    match wrong {
        0 => summary.line(format!("{count}, nothing is wrong")),
        wrong => summary.outcome(format!("{count}, {} found", counted(wrong as u64, "error")), true),
    }
    context.console.summary(&summary);
    Ok(if wrong == 0 { Code::Done } else { Code::Failed })
}

/// Those of the repository. What cannot be read was reported.
fn stored(args: &Args, context: &Context) -> Result<Vec<Checked>, Failure> {
    let repo = context.open_to_look()?;
    let all = repo.reports(context.console.monitor())?;
    let chosen = match args.reports.is_empty() {
        true => all.iter().collect(),
        false => args.reports.iter().map(|wanted| find(&all, wanted)).collect::<engine::Result<Vec<_>>>()?,
    };
    let one = |stored: &engine::drill::stored::Stored| Checked {
        name: stored.id.to_string(),
        shown: format!("{} of {}", stored.id.short(), commands::show_time(stored.report.time)),
        document: Some(stored.document.clone()),
        wrong: stored.doubt.clone(),
    };
    Ok(chosen.into_iter().map(one).collect())
}

/// One in a file.
fn exported(path: &Path) -> Checked {
    let text = small::read(path, MOST).map_err(|failure| failure.message);
    let (document, wrong) = match text.and_then(|text| Document::parse(&text)) {
        Err(wrong) => (None, Some(wrong)),
        Ok(document) => {
            let wrong = document.verify(None).and_then(|()| document.report().map(|_| ())).err();
            (Some(document), wrong)
        }
    };
    let shown = shown::path(path);
    Checked { name: shown.clone(), shown, document, wrong }
}
