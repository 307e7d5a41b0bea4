//! Files that are read whole because they are small: configuration, passwords, places, lists, certificates. Reading ends
//! at a limit, so that a device without end does not fill the memory, and a signal ends it, also while a pipe is opened
//! that nobody writes to.

use crate::exit::Failure;
use chunkstore::threads;
use engine::shown;
use std::io::Read;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, OnceLock, mpsc};
use std::time::Duration;
use zeroize::Zeroizing;

/// Bytes of a file of which the first line counts: a password, a key, a place.
pub(crate) const LINE: u64 = 4 << 20;
/// Bytes of a secret that are read without being copied.
pub(crate) const UNMOVED: usize = 64 << 10;
/// Bytes of a configuration or of certificates.
pub(crate) const DOCUMENT: u64 = 4 << 20;
/// Bytes of a list of paths, patterns or keys: millions of them.
pub(crate) const LIST: u64 = 1 << 30;

/// Set by ctrl-C and SIGTERM.
static STOP: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// From now on, `stop` is what ends a wait.
pub(crate) fn stops(stop: &Arc<AtomicBool>) {
    let _ = STOP.set(Arc::clone(stop));
}

/// What some work gives that may wait for others for ever. It goes on by itself when it is given up.
///
/// # Errors
/// If a signal came first.
pub(crate) fn interruptible<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, engine::Error> {
    let (sender, receiver) = mpsc::sync_channel(1);
    let started = threads::start("work", move || sender.send(work()));
    started.map_err(|error| engine::Error::Invalid(error.to_string()))?;
    loop {
        match receiver.recv_timeout(Duration::from_millis(100)) {
            Ok(done) => return Ok(done),
            Err(RecvTimeoutError::Timeout) if !is_stopped() => {}
            // The work panics for no input; its message was printed.
            Err(_) => return Err(engine::Error::Interrupted),
        }
    }
}

/// What ctrl-C and SIGTERM set.
pub(crate) fn stop() -> Arc<AtomicBool> {
    STOP.get().map(Arc::clone).unwrap_or_default()
}

/// Whether one of them came.
pub(crate) fn is_stopped() -> bool {
    STOP.get().is_some_and(|stop| stop.load(Ordering::Relaxed))
}

/// All of a file, of a pipe (also that of a process substitution, `/dev/fd/63`), or of a device.
///
/// # Errors
/// If it cannot be read, is a folder or has more than `most` bytes, with its name; and if a signal came first.
pub(crate) fn read(path: &Path, most: u64) -> Result<Vec<u8>, Failure> {
    let file = path.to_owned();
    taken(&shown::path(path), most, move || Ok(Box::new(std::fs::File::open(file)?) as Box<dyn Read>))
}

/// A file of which the first line is a secret; its memory is wiped when it is dropped.
pub(crate) fn secret(path: &Path) -> Result<Zeroizing<Vec<u8>>, Failure> {
    read(path, LINE).map(Zeroizing::new)
}

/// All of standard input, as [`read`].
pub(crate) fn read_stdin(most: u64) -> Result<Vec<u8>, Failure> {
    taken("standard input", most, || Ok(Box::new(std::io::stdin().lock()) as Box<dyn Read>))
}

fn taken(
    name: &str,
    most: u64,
    open: impl FnOnce() -> std::io::Result<Box<dyn Read>> + Send + 'static,
) -> Result<Vec<u8>, Failure> {
    let read = interruptible(move || {
        // Longer than any secret: what is read is not copied on its way.
        let mut bytes = Vec::with_capacity(UNMOVED);
        open()?.take(most + 1).read_to_end(&mut bytes)?;
        Ok::<_, std::io::Error>(bytes)
    })?;
    let bytes = read.map_err(|error| Failure::new(format!("cannot read {name}: {error}")))?;
    if bytes.len() as u64 > most {
        return Err(Failure::new(format!(
            "cannot read {name}: more than {most} bytes are not taken from there"
        )));
    }
    Ok(bytes)
}

/// The text of esker.toml.
pub(crate) fn read_toml(path: &Path) -> Result<String, Failure> {
    let bytes = read(path, DOCUMENT)?;
    String::from_utf8(bytes).map_err(|error| {
        let sound = error.as_bytes().get(..error.utf8_error().valid_up_to()).unwrap_or_default();
        let line = sound.iter().filter(|byte| **byte == b'\n').count() + 1;
        Failure::new(format!("{}:{line}: TOML is UTF-8, and this is not", shown::path(path)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_end_is_refused_and_a_pipe_is_read() {
        let failure = read(Path::new("/dev/zero"), LINE).err().unwrap();
        assert!(failure.message.contains("/dev/zero: more than 4194304 bytes"), "{}", failure.message);
        assert_eq!(read(Path::new("/dev/null"), LINE).ok().unwrap(), b"");
        assert!(read(Path::new("/"), LINE).is_err());
        let (reader, mut writer) = std::io::pipe().unwrap();
        std::io::Write::write_all(&mut writer, b"secret\n").unwrap();
        drop(writer);
        let name = format!("/dev/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&reader));
        assert_eq!(read(Path::new(&name), LINE).ok().unwrap(), b"secret\n");
    }
}
