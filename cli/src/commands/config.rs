//! `esker config`

use crate::context::Context;
use crate::exit::{Code, CommandResult, Failure};
use crate::file::File;
use crate::output;
use engine::promise::Keep;
use serde_json::json;

/// Check and show esker.toml
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand, Debug)]
enum What {
    /// Find mistakes, and name them by line
    Check,
    /// Print the prices that are used, as TOML
    Prices,
}

pub(crate) fn run(args: &Args, context: &Context) -> CommandResult {
    if let What::Prices = args.what {
        output::line(include_str!("../../../engine/src/prices.toml"));
        return Ok(Code::Done);
    }
    let path =
        context.global.file().ok_or_else(|| Failure::new("there is no esker.toml; name one with -c"))?;
    let text = crate::config::read_file(&path)?;
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
    if context.global.json {
        output::json_line(&json!({
            "message_type": "summary",
            "file": path,
            "tiers": file.tiers.iter().map(|tier| &tier.options.name).collect::<Vec<_>>(),
            "sources": file.sources.iter().map(|source| &source.name).collect::<Vec<_>>(),
            "runs": file.runs.iter().map(|run| &run.name).collect::<Vec<_>>(),
            "promises": file.promises.len(),
        }));
        return Ok(Code::Done);
    }
    let say = |text: String| context.console.say(text);
    say(format!("{} is sound", path.display()));
    for tier in &file.tiers {
        let class = tier.options.class.as_deref().map(|class| format!(", {class}")).unwrap_or_default();
        say(format!("tier '{}': {:?}{class}", tier.options.name, tier.options.role).to_lowercase());
    }
    for promise in &file.promises {
        let keep = match promise.keep {
            Keep::Forever => "for ever".to_owned(),
            Keep::For(span) => format!("for {}", span.0),
        };
        say(format!("{} is kept {keep} on {}", promise.describe(), promise.tiers.join(", ")));
    }
    for source in &file.sources {
        let what =
            source.command.as_ref().map_or_else(|| source.urls.join(", "), |command| command.join(" "));
        say(format!("source '{}': {}", source.name, hide_password(&what)));
    }
    Ok(Code::Done)
}

/// A URL's password is nobody's to read.
fn hide_password(text: &str) -> String {
    let words = text.split(", ").map(|word| match (word.find("://"), word.rfind('@')) {
        (Some(scheme), Some(at)) if at > scheme => {
            let user = word[scheme + 3..at].split(':').next().unwrap_or_default();
            format!("{}{user}:***{}", &word[..scheme + 3], &word[at..])
        }
        _ => word.to_owned(),
    });
    words.collect::<Vec<_>>().join(", ")
}
