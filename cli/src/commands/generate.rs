//! `esker generate`

use super::Cli;
use crate::exit::{Code, CommandResult};
use clap::CommandFactory as _;
use std::path::PathBuf;

/// Generate shell completions and manual pages
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand, Debug)]
enum What {
    /// Completions for a shell, to standard output
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Manual pages for all commands, into a folder
    Man {
        /// The folder
        folder: PathBuf,
    },
}

pub(crate) fn run(args: &Args) -> CommandResult {
    match &args.what {
        What::Completions { shell } => {
            clap_complete::generate(*shell, &mut Cli::command(), "esker", &mut std::io::stdout());
        }
        What::Man { folder } => {
            std::fs::create_dir_all(folder)?;
            clap_mangen::generate_to(Cli::command(), folder)?;
        }
    }
    Ok(Code::Done)
}
