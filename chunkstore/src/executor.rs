//! Where work runs: on a pool of threads, or inline on the caller's thread, one step after the other, so that the whole
//! pipeline can be simulated deterministically.

use crate::{Error, Result};
use crossbeam::channel::{Receiver, bounded};
use std::sync::Arc;

/// Runs closures somewhere, in any order, each exactly once.
pub trait Executor: Send + Sync {
    /// Queues `job`; an inline executor runs it before returning.
    fn spawn(&self, job: Box<dyn FnOnce() + Send>);
    /// How many jobs make progress at the same time.
    fn parallelism(&self) -> usize;
}

/// Runs every job at once on the caller's thread.
#[derive(Debug, Default, Clone, Copy)]
pub struct Inline;

impl Executor for Inline {
    fn spawn(&self, job: Box<dyn FnOnce() + Send>) {
        job();
    }
    fn parallelism(&self) -> usize {
        1
    }
}

/// A pool of threads.
pub struct Pool(rayon::ThreadPool);

impl Pool {
    /// Starts `threads` threads named `name`.
    pub fn start(name: &'static str, threads: usize) -> Result<Arc<dyn Executor>> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads.max(1))
            .thread_name(move |index| format!("{name}-{index}"))
            .build()
            .map_err(|error| {
                let advice = crate::threads::ADVICE;
                Error::Invalid(format!("cannot start {threads} threads: {error}; {advice}"))
            })?;
        Ok(Arc::new(Self(pool)))
    }
}

impl Executor for Pool {
    fn spawn(&self, job: Box<dyn FnOnce() + Send>) {
        // FIFO, because results are consumed in the order of submission: the oldest job is the
        // one somebody waits for.
        self.0.spawn_fifo(job);
    }
    fn parallelism(&self) -> usize {
        self.0.current_num_threads()
    }
}

/// The result of a job that may still be running. Dropping it waits for the job: when a failed operation has returned,
/// none of its jobs is running, and a process that ends does not close the index under its workers.
#[must_use]
pub struct Pending<T>(Receiver<T>);

impl<T> Drop for Pending<T> {
    fn drop(&mut self) {
        let _ = self.0.recv();
    }
}

impl<T> Pending<T> {
    /// Waits for the job; a job that panicked is an error.
    pub fn wait(self) -> Result<T> {
        self.0.recv().map_err(|_| Error::WorkerPanicked)
    }
    /// Whether `wait` would return at once.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        !self.0.is_empty()
    }
}

/// Runs `work` on `executor` and hands back its pending result.
pub fn submit<T: Send + 'static>(
    executor: &dyn Executor,
    work: impl FnOnce() -> T + Send + 'static,
) -> Pending<T> {
    let (sender, receiver) = bounded(1);
    // What is logged there is part of what asked for it.
    let span = tracing::Span::current();
    executor.spawn(Box::new(move || {
        let _in_it = span.enter();
        // A panic unwinds into rayon's handler and drops the sender, which `wait` reports; the
        // catch keeps rayon from aborting the process.
        if let Ok(value) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)) {
            let _ = sender.send(value);
        }
    }));
    Pending(receiver)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panics_are_errors() {
        let pool = Pool::start("test", 2).unwrap();
        assert_eq!(submit(&*pool, || 7).wait().unwrap(), 7);
        let pending: Pending<()> = submit(&*pool, || panic!("on purpose"));
        assert!(matches!(pending.wait(), Err(Error::WorkerPanicked)));
        assert_eq!(submit(&Inline, || 7).wait().unwrap(), 7);
    }
}
