//! Where the server's WAL ends, asked in a session of its own. The session that sends WAL does not tell: its signs of life
//! say how far it has sent, and the time of a message of WAL is later than that of the end that it names.
//!
//! Source: PostgreSQL's documentation, "Streaming Replication Protocol", `IDENTIFY_SYSTEM`; "Asynchronous Commit": what was
//! committed is flushed within three times `wal_writer_delay`.

use crate::Server;
use crate::connection::{PgError, PgResult};
use crate::physical::{Cluster, replication};
use chunkstore::pool::locked;
use chunkstore::threads;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Between two questions, and between two tries to ask.
const EVERY: Duration = Duration::from_millis(500);
const RETRY: Duration = Duration::from_secs(5);
/// An answer takes no longer, or the line is dead.
const PATIENCE: Duration = Duration::from_secs(30);
/// Answers that wait for the WAL to come: an hour of them.
const KEPT: usize = 7200;
/// A transaction that was committed is flushed after so many delays of the WAL writer.
const DELAYS: u64 = 3;

/// The answers.
pub(super) struct Flushed(Arc<Shared>);

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    /// The server's clock, as the session that sends WAL tells it, in milliseconds since 1970.
    server_ms: AtomicU64,
    /// What ended at a moment or before is in the WAL before a position.
    answers: Mutex<VecDeque<(u64, u64)>>,
    trouble: Mutex<Option<String>>,
}

impl Flushed {
    /// Asks `server`, whose answers count as long as it is `cluster`, until this is dropped.
    pub(super) fn ask(server: &Server, cluster: &Cluster) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let (theirs, server, cluster) = (Arc::clone(&shared), server.clone(), cluster.clone());
        // Nobody waits for its end: it may be in the middle of a question that is never answered.
        threads::start("esker-flushed", move || {
            while !theirs.stopped() {
                let why = match ask_all(&server, &cluster, &theirs) {
                    Ok(()) => continue,
                    Err(why) => why,
                };
                locked(&theirs.trouble).get_or_insert(why);
                theirs.sleep(RETRY);
            }
        })?;
        Ok(Self(shared))
    }

    /// The server said what time it is.
    pub(super) fn told(&self, server_ms: u64) {
        self.0.server_ms.fetch_max(server_ms, Ordering::Relaxed);
    }

    /// The last moment of which it is known that all that was committed up to it is in the WAL before `position`, if it was
    /// not returned before.
    pub(super) fn complete(&self, position: u64) -> Option<u64> {
        let mut answers = locked(&self.0.answers);
        let mut last = None;
        while let Some((time_ms, _)) = answers.front().copied().filter(|(_, end)| *end <= position) {
            last = Some(time_ms);
            answers.pop_front();
        }
        last
    }

    /// Why the server could not be asked.
    pub(super) fn trouble(&self) -> Option<String> {
        locked(&self.0.trouble).take()
    }
}

impl Drop for Flushed {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn sleep(&self, long: Duration) {
        let mut left = long;
        while !left.is_zero() && !self.stopped() {
            let step = left.min(Duration::from_millis(100));
            std::thread::sleep(step);
            left -= step;
        }
    }
}

/// One session's questions.
fn ask_all(server: &Server, cluster: &Cluster, shared: &Shared) -> Result<(), String> {
    let mut session = replication(server).map_err(|error| error.why)?;
    let failed = |error: PgError| error.to_string();
    session.set_patience(Some(PATIENCE)).map_err(failed)?;
    let mut last = 0;
    while !shared.stopped() {
        let now = shared.server_ms.load(Ordering::Relaxed);
        if now > last {
            last = now;
            let asked = Cluster::identify(&mut session).map_err(failed)?;
            if asked.system != cluster.system || asked.timeline != cluster.timeline {
                return Err("another server, or another timeline, answers".into());
            }
            // A standby does not know what the primary has committed.
            if session.value("SHOW in_hot_standby").map_err(failed)? != "off" {
                return Err("the server is a standby, which does not know where the WAL ends".into());
            }
            let delay = delay_ms(session.value("SHOW wal_writer_delay")).map_err(failed)?;
            let mut answers = locked(&shared.answers);
            answers.push_back((now.saturating_sub(DELAYS.saturating_mul(delay)), asked.end));
            if answers.len() > KEPT {
                answers.pop_front();
            }
        }
        shared.sleep(EVERY);
    }
    Ok(())
}

/// A duration as the server shows it, in milliseconds: `200ms`, `10s`.
fn delay_ms(shown: PgResult<String>) -> PgResult<u64> {
    let shown = shown?;
    let digits = shown.trim_end_matches(|character: char| !character.is_ascii_digit());
    let unit = match shown.get(digits.len()..) {
        Some("ms" | "") => Some(1),
        Some("s") => Some(1000),
        _ => None,
    };
    let delay = unit.and_then(|unit| digits.parse::<u64>().ok()?.checked_mul(unit));
    delay.ok_or_else(|| PgError::Lost(format!("'{shown}' for its wal_writer_delay, which no server has")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_complete_if_the_end_that_was_asked_for_after_it_has_come() {
        let flushed = Flushed(Arc::default());
        locked(&flushed.0.answers).extend([(1000, 50), (2000, 70), (3000, 70), (4000, 90)]);
        assert_eq!(flushed.complete(49), None);
        assert_eq!(flushed.complete(60), Some(1000));
        assert_eq!(flushed.complete(60), None);
        assert_eq!(flushed.complete(89), Some(3000));
        assert_eq!(flushed.complete(u64::MAX), Some(4000));
    }

    #[test]
    fn delays() {
        for (shown, delay) in [("200ms", Some(200)), ("10s", Some(10_000)), ("7", Some(7)), ("1min", None)] {
            assert_eq!(delay_ms(Ok(shown.into())).ok(), delay, "{shown}");
        }
    }
}
