//! What users expect of a restore, asked of the scratch server, or of a command of theirs. A report has the names that they
//! gave, and numbers; never the text of a question, the words of a command, or an answer that is no number, which may be
//! secrets.

use crate::context::Context;
use crate::exit::Failure;
use crate::file::{Asked, AssertionSpec};
use crate::shell::{self, Ended};
use crate::{small, units};
use connector_kit::scratch::{Ground, VARIABLE};
use engine::connector::Origin;
use engine::connector::scratch::ScratchServer;
use engine::drill::{Assertion, Report, shown};
use std::path::Path;
use std::time::Duration;

/// What is asked.
#[derive(Clone, Copy)]
pub(super) enum Place<'a> {
    /// A server, and the key of questions to it.
    Server(&'a dyn ScratchServer, &'static str, Origin<'a>),
    /// The folder that files were restored into.
    Folder(&'a Path),
}

impl AssertionSpec {
    /// Whether it can be asked there.
    fn is_for(&self, place: Place<'_>) -> bool {
        match (&self.what, place) {
            (Asked::Command(_), _) => true,
            (Asked::Query(key, _), Place::Server(_, own, _)) => *key == own,
            (Asked::Query(..), Place::Folder(_)) => false,
        }
    }
}

/// Asks all that can be asked there.
pub(super) fn ask(
    assertions: &[AssertionSpec],
    place: Place<'_>,
    ground: &Ground,
    report: &mut Report,
    context: &Context,
) -> Result<(), Failure> {
    for spec in assertions.iter().filter(|spec| spec.is_for(place)) {
        let answer = match (&spec.what, place) {
            (Asked::Query(_, query), Place::Server(server, _, from)) => server.ask(from, query, spec.limit),
            (Asked::Command(words), place) => command(words, place, ground, spec.limit, context)?,
            (Asked::Query(..), Place::Folder(_)) => continue,
        };
        let found = match (&answer, &spec.expect) {
            (Err(why), _) => why.clone(),
            (Ok(Some(answer)), Some(_)) => shown(answer).to_owned(),
            (Ok(None), Some(_)) => "no value".to_owned(),
            (Ok(_), None) => "done".into(),
        };
        let expect = spec.expect.as_ref();
        // What is no value is as nobody expects it.
        let met = answer.is_ok_and(|answer| {
            expect.is_none_or(|expect| answer.is_some_and(|answer| expect.is_met(&answer)))
        });
        // Two texts would be shown alike.
        let found = if !met && expect.is_some_and(|expect| expect.shown() == found) {
            "another text".into()
        } else {
            found
        };
        let expected = expect.map_or_else(|| "done".into(), engine::drill::Expectation::shown);
        report.assertions.push(Assertion { name: spec.name.clone(), expected, found, met });
    }
    Ok(())
}

/// That each assertion was asked somewhere, of a source of which all went well.
pub(super) fn all_were_asked(assertions: &[AssertionSpec], reports: &mut [Report]) {
    if !reports.iter().all(Report::passed) {
        return;
    }
    for spec in assertions {
        let is_asked = |report: &Report| report.assertions.iter().any(|one| one.name == spec.name);
        if !reports.iter().any(is_asked)
            && let Some(report) = reports.first_mut()
        {
            report.failures.push(format!("{}: the snapshot has nothing that can be asked", spec.name));
        }
    }
}

/// Runs a user's command; what it printed, if it ended well.
fn command(
    words: &[String],
    place: Place<'_>,
    ground: &Ground,
    limit: Duration,
    context: &Context,
) -> Result<Result<Option<String>, String>, Failure> {
    let Some(mut command) = shell::program(words, &context.passed()) else {
        return Ok(Err("there is no command".into()));
    };
    match place {
        Place::Server(server, ..) => command.env("ESKER_SCRATCH_URL", server.url()),
        Place::Folder(folder) => command.env("ESKER_SCRATCH_FOLDER", folder).current_dir(folder),
    };
    command.env(VARIABLE, ground.folder());
    Ok(match shell::run_within(command, limit)? {
        Err(error) => Err(format!("the command cannot be run: {}", error.kind())),
        Ok(Ended::Late) => {
            Err(format!("the command did not end within {}", units::duration(limit.as_secs_f64())))
        }
        Ok(Ended::Long) => Err(format!("the command printed more than {} MiB", small::LINE >> 20)),
        Ok(Ended::Itself(status, _)) if !status.success() => Err(format!("the command failed: {status}")),
        Ok(Ended::Itself(_, printed)) => Ok(Some(String::from_utf8_lossy(&printed).trim().to_owned())),
    })
}
