//! `esker unlock`

use crate::context::Context;
use crate::exit::{Code, CommandResult};
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
    context.console.result("nothing to unlock: esker locks nothing", json!({"removed_locks": 0}));
    Ok(Code::Done)
}
