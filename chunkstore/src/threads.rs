//! Starting threads, which a system may refuse: that is an error that says what to do, never a panic.

use std::io::{Error, Result};
use std::sync::Barrier;
use std::thread::{Builder, JoinHandle, Scope, ScopedJoinHandle};

/// What to do when a thread is refused.
pub const ADVICE: &str = "a limit is too low: on memory (ulimit -v, a container's), or on processes and threads (ulimit -u, \
    TasksMax=, a container's)";

/// Why a thread was not started, and what to do.
#[must_use]
pub fn refused(error: &Error) -> Error {
    Error::new(error.kind(), format!("cannot start a thread: {error}; {ADVICE}"))
}

/// Starts a thread.
///
/// # Errors
/// If the system refuses it.
pub fn start<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>> {
    Builder::new().name(name.into()).spawn(work).map_err(|error| refused(&error))
}

/// Starts a thread that ends with its scope.
///
/// # Errors
/// If the system refuses it.
pub fn start_in<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    name: &str,
    work: impl FnOnce() -> T + Send + 'scope,
) -> Result<ScopedJoinHandle<'scope, T>> {
    Builder::new().name(name.into()).spawn_scoped(scope, work).map_err(|error| refused(&error))
}

/// Whether `count` more threads can be started now: for libraries that panic if not.
///
/// # Errors
/// If the system refuses one of them.
pub fn check(count: usize) -> Result<()> {
    // None of them ends before all have been asked for.
    let all = Barrier::new(2);
    std::thread::scope(|scope| match count {
        0 => Ok(()),
        _ => {
            start_in(scope, "check", || all.wait())?;
            let rest = check(count - 1);
            all.wait();
            rest
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_started_or_refused() {
        assert_eq!(start("a", || 7).unwrap().join().unwrap(), 7);
        assert_eq!(std::thread::scope(|scope| start_in(scope, "b", || 8).unwrap().join().unwrap()), 8);
        check(3).unwrap();
        let told = refused(&std::io::ErrorKind::WouldBlock.into()).to_string();
        assert!(told.contains("ulimit -v") && told.contains("ulimit -u"), "{told}");
    }
}
