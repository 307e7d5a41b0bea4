//! `esker generate`

use super::Cli;
use crate::context::Context;
use crate::exit::{Code, CommandResult, Failure};
use crate::output::{self, Summary};
use crate::stdout;
use clap::CommandFactory as _;
use serde_json::json;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

mod systemd;

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
    /// Units of systemd for the runs of esker.toml that have a schedule and for its streams, into a folder
    Systemd(systemd::Args),
    /// Manual pages for all commands, into a folder
    Man {
        /// The folder
        folder: PathBuf,
    },
}

impl Args {
    /// Whether it only prints.
    pub(super) fn only_prints(&self) -> bool {
        matches!(self.what, What::Completions { .. })
    }
}

pub(crate) fn run(args: &Args, context: &Context) -> CommandResult {
    match &args.what {
        What::Completions { shell } => {
            // Into memory first: the generator panics where it cannot write.
            let mut script = vec![];
            clap_complete::generate(*shell, &mut Cli::command(), "esker", &mut script);
            if context.global.json {
                let script = String::from_utf8_lossy(&script);
                output::json_line(
                    &json!({"message_type": "summary", "shell": shell.to_string(), "script": script}),
                );
            } else {
                stdout::write(&script);
            }
        }
        What::Systemd(args) => {
            let written = systemd::write(args, context)?;
            let mut summary = Summary::new(json!({"written": written.names, "enable": written.enable}))
                .with_name("folder", written.folder.as_os_str().as_bytes());
            summary.line(format!("wrote {} into {}", written.names.join(", "), written.folder.display()));
            let enable = written.enable.join(" ");
            summary.line(format!("systemctl daemon-reload && systemctl enable --now {enable}"));
            context.console.summary(&summary);
        }
        What::Man { folder } => {
            std::fs::create_dir_all(folder)?;
            clap_mangen::generate_to(Cli::command(), folder)?;
            let written = written_in(folder)?;
            let text = format!("wrote {} manual pages into {}", written.len(), folder.display());
            let mut summary =
                Summary::new(json!({"written": written})).with_name("folder", folder.as_os_str().as_bytes());
            summary.line(text);
            context.console.summary(&summary);
        }
    }
    Ok(Code::Done)
}

/// The names of the files of a folder.
fn written_in(folder: &Path) -> Result<Vec<String>, Failure> {
    let entries = std::fs::read_dir(folder)?.collect::<Result<Vec<_>, _>>()?;
    let mut names: Vec<String> =
        entries.iter().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.retain(|name| name.ends_with(".1"));
    names.sort();
    Ok(names)
}
