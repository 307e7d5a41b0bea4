//! `esker generate`

use super::Cli;
use crate::context::Context;
use crate::exit::{Code, CommandResult, Failure};
use clap::CommandFactory as _;
use std::path::{Path, PathBuf};

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
    /// Units of systemd for the runs of esker.toml that have a schedule, into a folder
    Systemd {
        /// The folder, such as /etc/systemd/system
        folder: PathBuf,
    },
    /// Manual pages for all commands, into a folder
    Man {
        /// The folder
        folder: PathBuf,
    },
}

pub(crate) fn run(args: &Args, context: &Context) -> CommandResult {
    match &args.what {
        What::Completions { shell } => {
            clap_complete::generate(*shell, &mut Cli::command(), "esker", &mut std::io::stdout());
        }
        What::Systemd { folder } => systemd(folder, context)?,
        What::Man { folder } => {
            std::fs::create_dir_all(folder)?;
            clap_mangen::generate_to(Cli::command(), folder)?;
        }
    }
    Ok(Code::Done)
}

/// A service and a timer for each run; systemd.service(5), systemd.timer(5).
fn systemd(folder: &Path, context: &Context) -> Result<(), Failure> {
    let file = context.need_file()?;
    let esker = std::env::current_exe()?;
    let config = std::fs::canonicalize(&file.path)?;
    std::fs::create_dir_all(folder)?;
    let mut written = 0;
    for run in &file.runs {
        let Some(schedule) = &run.schedule else { continue };
        let unit = format!("esker-{}", run.name);
        // Exit code 3: done, but something is behind. It is told by the run's report, and by a failed unit.
        let service = format!(
            "[Unit]\nDescription=esker run {name}\nWants=network-online.target\nAfter=network-online.target\n\n\
             [Service]\nType=oneshot\nExecStart={esker} --config {config} run {name}\nNice=10\n\
             IOSchedulingClass=best-effort\nIOSchedulingPriority=7\n",
            name = run.name,
            esker = quoted(&esker),
            config = quoted(&config),
        );
        let timer = format!(
            "[Unit]\nDescription=esker run {name}, by schedule\n\n[Timer]\nOnCalendar={schedule}\nPersistent=true\n\
             RandomizedDelaySec=5m\n\n[Install]\nWantedBy=timers.target\n",
            name = run.name,
        );
        std::fs::write(folder.join(format!("{unit}.service")), service)?;
        std::fs::write(folder.join(format!("{unit}.timer")), timer)?;
        context
            .console
            .say(format!("wrote {unit}.service and {unit}.timer: systemctl enable --now {unit}.timer"));
        written += 1;
    }
    if written == 0 {
        return Err(Failure::new(format!("no [[run]] in {} has a schedule", file.path.display())));
    }
    Ok(())
}

/// A path as one word of a command line of systemd: quoted, its `%` doubled (systemd.unit(5), specifiers).
fn quoted(path: &Path) -> String {
    let text = path.display().to_string().replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%");
    format!("\"{text}\"")
}
