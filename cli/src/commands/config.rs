//! `esker config`

use crate::bundle;
use crate::context::Context;
use crate::exit::{Code, CommandResult, Failure};
use crate::file::{File, RunSpec};
use crate::output::{self, Summary};
use crate::schedule::Schedule;
use engine::promise::Keep;
use engine::secrets::without_secrets;
use engine::shown;
use jiff::tz::TimeZone;
use serde_json::json;
use std::os::unix::ffi::OsStrExt as _;

/// Check and show esker.toml
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand, Debug)]
enum What {
    /// Find mistakes and report them by line
    Check,
    /// Print the prices that are used, as TOML
    Prices,
}

pub(crate) fn run(args: &Args, context: &Context) -> CommandResult {
    if let What::Prices = args.what {
        let text = include_str!("../../../engine/src/prices.toml");
        if context.global.json {
            let prices: serde_json::Value =
                toml::from_str(text).map_err(|error| Failure::new(error.to_string()))?;
            output::json_line(&json!({"message_type": "summary", "prices": prices}));
        } else {
            output::block(text);
        }
        return Ok(Code::Done);
    }
    let path =
        context.global.file()?.ok_or_else(|| Failure::new("there is no esker.toml; name one with -c"))?;
    let text = crate::small::read_toml(&path)?;
    let file = match File::parse(&path, &text) {
        Ok(file) => file,
        Err(mistakes) => {
            for mistake in &mistakes {
                if context.global.json {
                    output::json_line(
                        &json!({"message_type": "mistake", "line": mistake.line, "message": mistake.message}),
                    );
                } else {
                    output::line(format!("{}:{}: {}", path.display(), mistake.line, mistake.message));
                }
            }
            return Ok(Code::Failed);
        }
    };
    if let Some(path) = &file.bundle {
        bundle::check(path, &context.console)?;
    }
    context.console.summary(&summary(&file));
    Ok(Code::Done)
}

/// What a sound file says.
fn summary(file: &File) -> Summary {
    let mut summary = Summary::new(json!({
        "tiers": file.tiers.iter().map(|tier| &tier.options.name).collect::<Vec<_>>(),
        "sources": file.sources.iter().map(|source| &source.name).collect::<Vec<_>>(),
        "runs": file.runs.iter().map(|run| &run.name).collect::<Vec<_>>(),
        "streams": file.streams.iter().map(|stream| &stream.name).collect::<Vec<_>>(),
        "schedules": file.runs.iter().filter_map(schedule_json).collect::<Vec<_>>(),
        "promises": file.promises.len(),
    }))
    .with_name("file", file.path.as_os_str().as_bytes());
    if let Some(bundle) = &file.bundle {
        summary = summary.with_name("bundle", bundle.as_os_str().as_bytes());
    }
    let mut say = |text: String| summary.line(text);
    say(format!("{} is sound", file.path.display()));
    if let Some(bundle) = &file.bundle {
        say(format!("backs up as a write-only host, with {}", shown::path(bundle)));
    }
    for tier in &file.tiers {
        let class = tier.options.class.as_deref().map(|class| format!(", {class}")).unwrap_or_default();
        let role = format!("{:?}", tier.options.role).to_lowercase();
        say(format!("tier '{}': {role}{class}", tier.options.name));
    }
    for promise in &file.promises {
        let keep = match promise.keep {
            Keep::Forever => "for ever".to_owned(),
            Keep::For(span) => format!("for {}", span.0),
        };
        say(format!("{} is kept {keep} on {}", promise.describe(), promise.tiers.join(", ")));
    }
    for source in &file.sources {
        let what = match &source.command {
            None => source.urls.iter().map(|url| without_secrets(url)).collect::<Vec<_>>().join(", "),
            Some(command) => described_command(command),
        };
        say(format!("source '{}': {what}", source.name));
    }
    for run in &file.runs {
        say(format!("run '{}': {}{}", run.name, run.sources.join(", "), described(run)));
    }
    for stream in &file.streams {
        say(format!("stream '{}': {}", stream.name, without_secrets(&stream.url)));
    }
    summary
}

/// A command as records know it: its other words may be secrets.
fn described_command(words: &[String]) -> String {
    let program = engine::group::program(&words.iter().map(std::ffi::OsString::from).collect::<Vec<_>>());
    match words.len() {
        0 | 1 => format!("the command {program}"),
        2 => format!("the command {program} and a word"),
        count => format!("the command {program} and {} words", count - 1),
    }
}

/// How many of a schedule's times are shown.
const SHOWN: usize = 3;

/// The next times of a run, local, as RFC 3339 has them.
fn coming(schedule: &Schedule) -> Vec<String> {
    let times = schedule.coming(SHOWN, crate::context::now(), &TimeZone::system());
    times.into_iter().map(|time| time.to_zoned(TimeZone::system()).strftime("%FT%T%:z").to_string()).collect()
}

fn schedule_json(run: &RunSpec) -> Option<serde_json::Value> {
    let schedule = run.schedule.as_ref()?;
    let events: Vec<&str> = schedule.on_calendar().collect();
    Some(json!({"run": run.name, "on_calendar": events, "next": coming(schedule)}))
}

fn described(run: &RunSpec) -> String {
    let Some(schedule) = &run.schedule else { return String::new() };
    let events: Vec<&str> = schedule.on_calendar().collect();
    let times: Vec<String> = coming(schedule).iter().map(|time| time.replace('T', " ")).collect();
    format!("; {}; next {}", events.join(" and "), times.join(", "))
}
