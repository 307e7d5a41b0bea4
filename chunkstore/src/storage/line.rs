//! The line to a store: how much moves on it, and whether the user still wants to wait. Every call of a store behind
//! HTTP is driven here, with all of its attempts and the pauses between them, so that a signal ends each.

use super::{ErrorKind, StorageError, StorageResult};
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::{Either, select};

/// How long a call may go on without progress once the user has had enough: a store that answers gets what is needed
/// for an orderly end.
const GRACE: Duration = Duration::from_millis(1500);
/// Bytes that count as progress in that time.
const PROGRESS: u64 = 16 << 10;
/// How often the user's wish is looked at.
const GLANCE: Duration = Duration::from_millis(100);

/// The user had enough while the store was silent or as good as.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
pub(super) struct Left;

/// See the module; clones are the same line.
#[derive(Clone, Debug, Default)]
pub(super) struct Line {
    stop: Arc<AtomicBool>,
    /// Bytes in both directions.
    moved: Arc<AtomicU64>,
    /// Set when a call was given up: no later one is begun.
    is_left: Arc<AtomicBool>,
}

impl Line {
    /// `stop` is set when the user has had enough.
    pub(super) fn new(stop: &Arc<AtomicBool>) -> Self {
        Self { stop: Arc::clone(stop), ..Self::default() }
    }

    /// Takes note of bytes that came or went.
    pub(super) fn moved(&self, bytes: usize) {
        self.moved.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Ends once the user has had enough and hardly anything moves, or none of what is listed comes.
    async fn left(&self, listed: Option<&AtomicU64>) {
        while !self.stop.load(Ordering::Relaxed) {
            tokio::time::sleep(GLANCE).await;
        }
        let entries = || listed.map(|listed| listed.load(Ordering::Relaxed));
        while !self.is_left.load(Ordering::Relaxed) {
            let before = (self.moved.load(Ordering::Relaxed), entries());
            tokio::time::sleep(GRACE).await;
            let moved = self.moved.load(Ordering::Relaxed) - before.0;
            if moved < PROGRESS || (listed.is_some() && entries() == before.1) {
                self.is_left.store(true, Ordering::Relaxed);
            }
        }
    }

    /// What `call` comes to, unless it is given up.
    async fn race<T>(&self, call: impl Future<Output = T>, listed: Option<&AtomicU64>) -> Result<T, Left> {
        if self.is_left.load(Ordering::Relaxed) {
            return Err(Left);
        }
        match select(pin!(call), pin!(self.left(listed))).await {
            Either::Left((done, _)) => Ok(done),
            Either::Right(_) => Err(Left),
        }
    }
}

/// A small runtime that drives requests, and the line that they go over.
pub(super) struct Driver {
    /// Taken when it is dropped.
    runtime: Option<tokio::runtime::Runtime>,
    line: Line,
}

/// Two threads move bytes; the callers' own threads do everything else.
const RUNTIME_THREADS: usize = 2;

impl Driver {
    pub(super) fn new(line: Line) -> std::io::Result<Self> {
        // Its own, and one that looks names up: a runtime to which one is refused panics.
        crate::threads::check(RUNTIME_THREADS + 1)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(RUNTIME_THREADS)
            .thread_name("storage")
            .enable_all()
            .build()?;
        Ok(Self { runtime: Some(runtime), line })
    }

    /// Waits for a call, unless the user has had enough and the store does not go on with it: [`ErrorKind::Stopped`].
    pub(super) fn drive<T>(
        &self,
        op: &'static str,
        object: impl FnOnce() -> String,
        call: impl Future<Output = T>,
    ) -> StorageResult<T> {
        self.drive_counted(op, object, call, None)
    }

    /// The same for a listing, which counts its entries in `listed`: pages without any are no progress, however many bytes
    /// they have.
    pub(super) fn drive_listing<T>(
        &self,
        object: impl FnOnce() -> String,
        listed: &AtomicU64,
        call: impl Future<Output = T>,
    ) -> StorageResult<T> {
        self.drive_counted("list", object, call, Some(listed))
    }

    fn drive_counted<T>(
        &self,
        op: &'static str,
        object: impl FnOnce() -> String,
        call: impl Future<Output = T>,
        listed: Option<&AtomicU64>,
    ) -> StorageResult<T> {
        let done = match &self.runtime {
            Some(runtime) => runtime.block_on(self.line.race(call, listed)),
            None => Err(Left),
        };
        done.map_err(|left| StorageError {
            kind: ErrorKind::Stopped,
            op,
            object: object(),
            source: left.into(),
        })
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // Not waiting for a name that is looked up, or for a connection that is closed.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    fn stopped_line() -> Line {
        Line::new(&Arc::new(AtomicBool::new(true)))
    }

    #[test]
    fn a_call_without_progress_is_given_up_and_no_other_begun() {
        let driver = Driver::new(stopped_line()).unwrap();
        let call = || driver.drive("read", String::new, std::future::pending::<()>());
        let began = Instant::now();
        assert_eq!(call().unwrap_err().kind, ErrorKind::Stopped);
        assert!(began.elapsed() >= GRACE && began.elapsed() < 2 * GRACE);
        let began = Instant::now();
        assert_eq!(call().unwrap_err().kind, ErrorKind::Stopped);
        assert!(began.elapsed() < GRACE / 2);
    }

    #[test]
    fn what_moves_or_answers_is_waited_for() {
        let line = stopped_line();
        let driver = Driver::new(line.clone()).unwrap();
        let upload = async {
            for _ in 0..8 {
                tokio::time::sleep(GRACE / 4).await;
                line.moved(PROGRESS as usize / 2);
            }
            7
        };
        assert_eq!(driver.drive("write", String::new, upload).unwrap(), 7);
        let answers = async { tokio::time::sleep(GRACE / 2).await };
        assert!((0..3).all(|_| driver.drive("read", String::new, async { 1 }).is_ok()));
        driver.drive("read", String::new, answers).unwrap();
    }

    #[test]
    fn a_listing_without_entries_is_given_up_whatever_moves() {
        for (entries, outcome) in [(1, None), (0, Some(ErrorKind::Stopped))] {
            let (line, listed) = (stopped_line(), AtomicU64::new(0));
            let driver = Driver::new(line.clone()).unwrap();
            let pages = async {
                for _ in 0..8 {
                    tokio::time::sleep(GRACE / 4).await;
                    line.moved(PROGRESS as usize);
                    listed.fetch_add(entries, Ordering::Relaxed);
                }
            };
            let done = driver.drive_listing(String::new, &listed, pages);
            assert_eq!(done.err().map(|error| error.kind), outcome);
        }
    }

    #[test]
    fn nobody_is_hurried_who_has_not_had_enough() {
        let driver = Driver::new(Line::default()).unwrap();
        driver.drive("read", String::new, async { tokio::time::sleep(GRACE * 2).await }).unwrap();
    }
}
