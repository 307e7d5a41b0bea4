//! Runs a program that reads what we write.

use super::following::{Following, Said};
use crate::Server;
use crate::programs::without_name;
use chunkstore::threads;
use connector_kit::child::{self, Role};
use engine::source::SourceErrorKind;
use engine::{Counter, Error, Monitor, Result};
use std::fs::File;
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// How often it is looked whether the program has ended, or shall end.
const PAUSE: Duration = Duration::from_millis(50);

/// What libpq says of a server that it cannot enter; before version 14, and since.
const NO_WAY_IN: [&str; 2] = ["could not connect to server", "error: connection to server "];

/// What a program reads.
pub(super) enum Input<'a> {
    /// What this writes; returns how many bytes of content that were.
    Written(&'a mut dyn FnMut(&mut dyn Write) -> Result<u64>),
    /// A file, which it may open again as `/dev/stdin`, by so many processes; what they report is counted.
    File { file: File, jobs: usize, following: Following },
}

/// Runs `command` over what it reads; returns how many bytes of content were written to it. It is killed if the user wants it
/// all to stop, or `is_stopped` says so, whatever it waits for.
pub(super) fn feed(
    server: &Server,
    mut command: Command,
    name: &'static str,
    monitor: &dyn Monitor,
    is_stopped: &AtomicBool,
    input: Input<'_>,
) -> Result<u64> {
    let failed = |why: String| Error::from(server.error(SourceErrorKind::Command, format!("{name}: {why}")));
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let mut said = None;
    let mut write = match input {
        Input::Written(write) => {
            command.stdin(Stdio::piped());
            Some(write)
        }
        Input::File { file, jobs, following } => {
            command.stdin(file);
            said = Some((following, jobs > 1));
            None
        }
    };
    let mut child = child::spawn(&mut command, Role::Tool).map_err(|error| failed(error.to_string()))?;
    let (input, Some(complaints)) = (child.stdin.take(), child.stderr.take()) else {
        return Err(failed("no pipe from the command".into()));
    };
    let done = Arc::new(AtomicU64::new(0));
    let complaints: Box<dyn Read + Send> = match said {
        Some((following, is_parallel)) => {
            Box::new(Said::new(complaints, following, is_parallel, Arc::clone(&done)))
        }
        None => Box::new(complaints),
    };
    let listener = threads::start("esker-said", move || child::complaints(complaints));
    let listener =
        listener.inspect_err(|_| child::kill(&child)).map_err(|error| failed(error.to_string()))?;
    threads::check(1).inspect_err(|_| child::kill(&child)).map_err(|error| failed(error.to_string()))?;
    let is_cut = AtomicBool::new(false);
    let (written, status) = std::thread::scope(|scope| {
        let waiter = threads::start_in(scope, "esker-watch", || {
            loop {
                monitor.count(Counter::BytesDone, done.swap(0, Ordering::Relaxed));
                if monitor.interrupted()
                    || [is_stopped, &is_cut].iter().any(|flag| flag.load(Ordering::Relaxed))
                {
                    let _ = child.kill();
                    return child.wait();
                }
                match child.try_wait() {
                    Ok(None) => std::thread::sleep(PAUSE),
                    Ok(Some(status)) => return Ok(status),
                    Err(error) => return Err(error),
                }
            }
        })
        .map_err(|error| failed(error.to_string()))?;
        let (Some(input), Some(write)) = (input, &mut write) else { return Ok((Ok(0), waiter.join())) };
        let mut input = std::io::BufWriter::with_capacity(256 << 10, input);
        let written = write(&mut input);
        // Half of a dump must not look like the end of one.
        if written.as_ref().is_err_and(|error| !had_enough(error)) {
            is_cut.store(true, Ordering::Relaxed);
            let status = waiter.join();
            // What it does not read any more cannot be written.
            drop(input.into_parts());
            return Ok((written, status));
        }
        // What cannot be written any more, the program does not want.
        let _ = input.flush();
        drop(input);
        Ok::<_, Error>((written, waiter.join()))
    })?;
    let status = status.unwrap_or_else(|_| Err(std::io::Error::other("nobody waited for it")));
    let text = listener.join().unwrap_or_default();
    let status = status.map_err(|error| failed(error.to_string()))?;
    match written {
        // It may have ended by itself, or by the same signal.
        _ if monitor.interrupted() && !status.success() => Err(Error::Interrupted),
        Err(error) if !had_enough(&error) => Err(error),
        _ if !status.success() => {
            let why = reason(&text);
            let is_shut_out = NO_WAY_IN.iter().any(|words| why.contains(words));
            let kind = if is_shut_out { SourceErrorKind::Unavailable } else { SourceErrorKind::Command };
            Err(server.error(kind, format!("{name}: {}", without_name(&why, name))).into())
        }
        Ok(bytes) => Ok(bytes),
        Err(_) => Ok(0),
    }
}

/// Whether the program has read what it wanted, or has failed and says why.
fn had_enough(error: &Error) -> bool {
    matches!(error, Error::Target { source, .. } if source.kind() == std::io::ErrorKind::BrokenPipe)
}

/// What a program complains of first, with its detail.
fn reason(text: &str) -> String {
    // Names stand in what it says, too; those that have the server's words in them are rare.
    let of_server = text.lines().find(|line| line.contains("error: ") && line.contains("ERROR:"));
    let first =
        of_server.or_else(|| text.lines().find(|line| line.contains("error:") || line.contains("ERROR:")));
    let detail = text.lines().find(|line| line.starts_with("DETAIL:"));
    let first = first.or_else(|| text.lines().next()).unwrap_or("failed without a word");
    detail.map_or_else(|| first.to_owned(), |detail| format!("{first}; {detail}"))
}

#[cfg(test)]
mod tests {
    use super::reason;
    use crate::programs::without_name;

    #[test]
    fn a_program_is_named_once() {
        let said = "pg_restore: while PROCESSING TOC:\npg_restore: error: could not execute query: ERROR:  no\nDETAIL:  x\n";
        let why = reason(said);
        assert_eq!(without_name(&why, "pg_restore"), "could not execute query: ERROR:  no; DETAIL:  x");
        // An index that is called so.
        assert_eq!(reason(&format!("pg_restore: error: no\n{said}")), why);
        assert_eq!(without_name("Killed", "pg_restore"), "Killed");
    }
}
