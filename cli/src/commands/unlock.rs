//! `esker unlock`

use crate::context::Context;
use crate::exit::{Code, CommandResult};
use crate::output;
use serde_json::json;

/// Nothing to do: esker locks nothing
///
/// Backups, prune and check run beside each other. What an interrupted run left behind goes with the next prune. The
/// command opens the repository, so that scripts that test a password by it still do.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Nothing to do either
    #[arg(long)]
    remove_all: bool,
}

pub(crate) fn run(_args: &Args, context: &Context) -> CommandResult {
    context.open_to_look()?;
    if context.global.json {
        output::json_line(&json!({"message_type": "summary", "removed_locks": 0}));
    } else {
        context.console.say("nothing to unlock: esker locks nothing");
    }
    Ok(Code::Done)
}
