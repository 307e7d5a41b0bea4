//! The esker command: parse, run, report, exit.

mod commands;
mod config;
mod context;
mod exit;
mod file;
mod fleet;
mod output;
mod places;
mod sources;
mod tiers;

use clap::Parser as _;
use std::process::ExitCode;

// Frees slabs and small allocations faster than glibc's arenas under a thread pool.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = commands::Cli::parse();
    output::start_logging(cli.global.verbose);
    let json = cli.global.json;
    match commands::run(cli) {
        Ok(code) => code.into(),
        Err(failure) => {
            output::failure(&failure, json);
            failure.code.into()
        }
    }
}
