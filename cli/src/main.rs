//! The esker command: parse, run, report, exit.

mod bundle;
mod commands;
mod config;
mod context;
mod cores;
mod declared;
mod durations;
mod environment;
mod exit;
mod file;
mod filters;
mod fleet;
mod hangup;
mod key_services;
mod manager;
mod network;
mod output;
mod panics;
mod passwords;
mod places;
mod schedule;
mod secret_files;
mod secrets;
mod sheet;
mod shell;
mod signing;
mod small;
mod sources;
mod stdout;
mod tiers;
mod trust;
mod units;
mod usage;
mod user;
mod values;
mod variables;
mod words;

use std::process::ExitCode;

// Frees slabs and small allocations faster than glibc's arenas under a thread pool.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cores = cores::disable();
    panics::told_as_errors(usage::wants_json(std::env::args_os()));
    let cli = match usage::parse() {
        Ok(cli) => cli,
        Err(answered) => return answered,
    };
    let json = cli.global.json;
    let ready = output::start_logging(&cli.global).and(cores.map_err(exit::Failure::usage));
    if let Err(failure) = ready {
        output::failure(&failure, json);
        return failure.code.into();
    }
    let began = std::time::Instant::now();
    let command = cli.verb.clone();
    tracing::info!(command, version = env!("CARGO_PKG_VERSION"), "started");
    let ended = stdout::end(commands::run(cli));
    let code = match &ended {
        Ok(code) => *code,
        Err(failure) => failure.code,
    };
    tracing::info!(command, code = code as u8, ms = chunkstore::log::ms(began), "ended");
    if let Err(failure) = ended {
        output::failure(&failure, json);
    }
    match code {
        // What is missing of the log was asked for, too.
        exit::Code::Done if output::log_has_failed() => exit::Code::Incomplete.into(),
        code => code.into(),
    }
}
