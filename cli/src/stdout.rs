//! Standard output: everything that is written there goes through here, and what could not be written is known at the
//! end. A result that was cut off must not look like a whole one.
//!
//! A reader that hung up is no failure of ours: a command that only prints ends at once and quietly, with the code that
//! a shell shows for a program ended by SIGPIPE; a command that does more goes on to its own end. Any other failure,
//! such as a full disk or an output that is closed, is told, with code 1, once the work is done.
//!
//! std's own standard output hides two failures: it takes EBADF for success, and before `main` it opens /dev/null in
//! place of an output that is closed. So its buffer is not used here, and what was closed is noted before that.

use crate::exit::{Code, CommandResult, Failure};
use chunkstore::pool::locked;
use rustix::io::Errno;
use std::io::{Error, ErrorKind, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

/// The first failure.
static FAILED: Mutex<Option<Error>> = Mutex::new(None);
/// Stops the command, if it only prints.
static STOP: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// Whether standard output was closed when esker was started.
static CLOSED: AtomicBool = AtomicBool::new(false);

/// Notes whether standard output is open: runs before `main` and before std, and so calls the kernel alone.
extern "C" fn look() {
    CLOSED.store(rustix::io::fcntl_getfd(rustix::stdio::stdout()).is_err(), Ordering::Relaxed);
}

// Nothing later tells a closed output from `> /dev/null`, where a result that nobody reads is as it should be. The linker
// puts what is to run first into this section (System V ABI, gabi, "Initialization and Termination Functions").
#[used]
#[unsafe(link_section = ".init_array")]
#[expect(
    unsafe_code,
    reason = "a function in this section must be sound before main: this one only calls fcntl"
)]
static LOOK: extern "C" fn() = look;

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
        && let Err(error) = write_all(bytes)
    {
        failed(error);
    }
}

/// Writes all of it, without std's buffer: what is printed comes in whole lines.
fn write_all(mut bytes: &[u8]) -> Result<(), Error> {
    is_open()?;
    // One at a time: lines of two threads are not mixed.
    let out = std::io::stdout().lock();
    while !bytes.is_empty() {
        match rustix::io::write(&out, bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// That somebody gave esker an output.
fn is_open() -> Result<(), Error> {
    match CLOSED.load(Ordering::Relaxed) {
        true => Err(Errno::BADF.into()),
        false => Ok(()),
    }
}

/// Standard output for large pieces: without a buffer, and what fails there is returned, too.
pub(crate) struct Unbuffered(std::fs::File);

impl Unbuffered {
    /// Opens it.
    pub(crate) fn open() -> Result<Self, Error> {
        is_open().inspect_err(|_| failed(Errno::BADF.into()))?;
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
    let Some(error) = locked(&FAILED).take() else { return result };
    let only_prints = STOP.get().is_some();
    match result {
        _ if only_prints && error.kind() == ErrorKind::BrokenPipe => Ok(Code::HungUp),
        result if error.kind() == ErrorKind::BrokenPipe => result,
        // What such a command failed with comes of this.
        Err(failure) if !only_prints => Err(failure),
        _ => Err(Failure::new(format!("cannot write to standard output: {}", why(&error)))),
    }
}

/// What is wrong with an output, in words where the kernel's say little.
fn why(error: &Error) -> String {
    match error.raw_os_error() == Some(Errno::BADF.raw_os_error()) {
        true => "it is closed, or open for reading only".into(),
        false => error.to_string(),
    }
}
