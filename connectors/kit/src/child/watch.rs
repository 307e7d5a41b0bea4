//! Ends programs that wait for a server when the user has had enough: they know no signal that esker got.

use super::{Role, Running, complaints, printed, spawn};
use crate::waiting::{TICK, interrupted};
use chunkstore::threads;
use rustix::process::{Pid, Signal, kill_process};
use std::io::{Error, Result};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// How much longer a program is waited for that ran before the user had enough.
const GRACE: Duration = Duration::from_millis(1500);
/// How long all of those together may take that run after it, to put in order what was begun.
const ORDERLY: Duration = Duration::from_secs(7);
/// Longest time between two looks whether a program has ended.
const LOOK: Duration = Duration::from_millis(20);

/// The wish of the user to end it all, and how long programs of one server may go on after it. Clones are of the same.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    /// Set when the user has had enough.
    stop: Arc<AtomicBool>,
    /// When that was first seen.
    seen: Arc<OnceLock<Instant>>,
}

/// One wait.
#[derive(Clone, Copy)]
struct Wait {
    /// How long after the user had enough.
    limit: Duration,
}

impl Watch {
    /// Ends programs after `stop` is set.
    #[must_use]
    pub fn new(stop: &Arc<AtomicBool>) -> Self {
        Self { stop: Arc::clone(stop), seen: Arc::default() }
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// A wait that begins now.
    fn begin(&self) -> Wait {
        Wait { limit: if self.is_stopped() { ORDERLY } else { GRACE } }
    }

    /// Whether the time for a wait is over.
    fn is_over(&self, wait: Wait) -> bool {
        self.is_stopped() && self.seen.get_or_init(Instant::now).elapsed() >= wait.limit
    }

    /// What `look` comes to, which is asked again and again; none if the user has had enough before, or after `patience`.
    ///
    /// # Errors
    /// That of `look`, or [`interrupted`].
    pub fn until<T>(
        &self,
        patience: Option<Duration>,
        mut look: impl FnMut() -> Result<Option<T>>,
    ) -> Result<Option<T>> {
        let (began, wait) = (Instant::now(), self.begin());
        loop {
            if let Some(found) = look()? {
                return Ok(Some(found));
            }
            if self.is_over(wait) {
                return Err(interrupted());
            }
            if patience.is_some_and(|patience| began.elapsed() >= patience) {
                return Ok(None);
            }
        }
    }

    /// Does `work` with a program that runs, and kills that when the time for it is over: what it keeps `work` waiting for
    /// ends.
    ///
    /// # Errors
    /// That of `work`, or [`interrupted`] if the program was killed.
    pub fn during<T>(&self, child: &Child, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let is_done = AtomicBool::new(false);
        let wait = self.begin();
        let (done, is_ended) = std::thread::scope(|scope| {
            let watcher = threads::start_in(scope, "esker-watch", || {
                while !is_done.load(Ordering::Relaxed) {
                    if self.is_over(wait) {
                        kill(child);
                        return true;
                    }
                    std::thread::park_timeout(TICK);
                }
                false
            })
            .inspect_err(|_| kill(child))?;
            let done = work();
            is_done.store(true, Ordering::Relaxed);
            watcher.thread().unpark();
            Ok::<_, Error>((done, watcher.join().unwrap_or(false)))
        })?;
        if is_ended { Err(interrupted()) } else { done }
    }

    /// Waits for a program's end, or kills it when the time for it is over.
    ///
    /// # Errors
    /// Of the system, or [`interrupted`] if the program was killed.
    pub fn ended(&self, child: &mut Running) -> Result<ExitStatus> {
        let mut pause = Duration::from_micros(500);
        let ended = self.until(None, || {
            let status = child.try_wait()?;
            if status.is_none() {
                std::thread::sleep(pause);
                pause = LOOK.min(2 * pause);
            }
            Ok(status)
        });
        if ended.is_err() {
            let _ = child.kill();
            let _ = child.wait();
        }
        ended?.ok_or_else(interrupted)
    }

    /// Runs a program to its end: how it ended, what it printed, and what it complained of.
    ///
    /// # Errors
    /// Of the program's start; if it prints more than `most` bytes; [`interrupted`] if the user has had enough.
    pub fn output(&self, mut command: Command, most: u64) -> Result<(ExitStatus, Vec<u8>, String)> {
        let mut child = spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped()), Role::Client)?;
        let (Some(out), Some(err)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(Error::other("no pipe from the program"));
        };
        let read = self.during(&child, || {
            let listener = threads::start("esker-said", move || complaints(err))?;
            let printed = printed(out, most);
            printed.map(|printed| (printed, listener.join().unwrap_or_default()))
        });
        if read.is_err() {
            let _ = child.kill();
        }
        let status = self.ended(&mut child);
        let (printed, complaints) = read?;
        Ok((status?, printed, complaints))
    }
}

/// Kills a program that nobody has waited for yet, so that its number is still its own: what others still write to it or
/// read of it ends.
pub fn kill(child: &Child) {
    let _ = kill_process(Pid::from_child(child), Signal::KILL);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_ends_what_a_program_waits_for() {
        let stop = Arc::new(AtomicBool::new(false));
        let watch = Watch::new(&stop);
        let command = |words: &[&str]| {
            let mut command = Command::new(words[0]);
            command.args(&words[1..]);
            command
        };
        let (status, out, err) = watch.output(command(&["sh", "-c", "echo out; echo err >&2"]), 100).unwrap();
        assert_eq!((status.success(), &*out, &*err), (true, &b"out\n"[..], "err\n"));
        assert!(watch.output(command(&["yes"]), 100).is_err());
        let began = Instant::now();
        let ended = std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(TICK);
                stop.store(true, Ordering::Relaxed);
            });
            watch.output(command(&["sleep", "60"]), 100)
        });
        assert_eq!(ended.unwrap_err().to_string(), "interrupted");
        // What is begun after it may be done, in the time that is left for all.
        assert!(watch.output(command(&["true"]), 100).is_ok());
        let mut child = spawn(&mut command(&["sleep", "60"]), Role::Tool).unwrap();
        assert!(watch.ended(&mut child).is_err() && watch.output(command(&["sleep", "60"]), 100).is_err());
        let took = began.elapsed();
        assert!(GRACE + ORDERLY / 2 < took && took < ORDERLY + Duration::from_secs(3), "{took:?}");
    }
}
