//! Standard output: everything that is written there goes through here, and what could not be written is known at the
//! end. A result that was cut off must not look like a whole one.
//!
//! A reader that hung up is no failure of ours: a command that only prints ends at once and quietly, with the code that
//! a shell shows for a program ended by SIGPIPE; a command that does more goes on to its own end. Any other failure,
//! such as a full disk, is told, with code 1, once the work is done.

use crate::exit::{Code, CommandResult, Failure};
use chunkstore::pool::locked;
use std::io::{Error, ErrorKind, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

/// The first failure.
static FAILED: Mutex<Option<Error>> = Mutex::new(None);
/// Stops the command, if it only prints.
static STOP: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// Of a command that only prints: `stop` is set when there is nobody to print for.
pub(crate) fn stops(stop: &Arc<AtomicBool>) {
    let _ = STOP.set(Arc::clone(stop));
}

fn failed(error: Error) {
    locked(&FAILED).get_or_insert(error);
    if let Some(stop) = STOP.get() {
        stop.store(true, Ordering::Relaxed);
    }
}

fn has_failed() -> bool {
    locked(&FAILED).is_some()
}

/// Writes; nothing more once something failed.
pub(crate) fn write(bytes: &[u8]) {
    if !has_failed()
        && let Err(error) = std::io::stdout().lock().write_all(bytes)
    {
        failed(error);
    }
}

/// Standard output for large pieces: without a buffer, and what fails there is returned, too.
pub(crate) struct Unbuffered(std::fs::File);

impl Unbuffered {
    /// Opens it.
    pub(crate) fn open() -> Result<Self, Error> {
        Ok(Self(rustix::io::dup(std::io::stdout())?.into()))
    }
}

impl Write for Unbuffered {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.write(bytes).inspect_err(|error| {
            if error.kind() != ErrorKind::Interrupted {
                failed(error.raw_os_error().map_or_else(|| error.kind().into(), Error::from_raw_os_error));
            }
        })
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What becomes of a command, with what became of its output.
pub(crate) fn end(result: CommandResult) -> CommandResult {
    if let Err(error) = std::io::stdout().lock().flush() {
        failed(error);
    }
    let Some(error) = locked(&FAILED).take() else { return result };
    let only_prints = STOP.get().is_some();
    match result {
        _ if only_prints && error.kind() == ErrorKind::BrokenPipe => Ok(Code::HungUp),
        result if error.kind() == ErrorKind::BrokenPipe => result,
        // What such a command failed with comes of this.
        Err(failure) if !only_prints => Err(failure),
        _ => Err(Failure::new(format!("cannot write to standard output: {error}"))),
    }
}
