//! A snapshot that stays complete while it is being restored: a session of its own in HEAD.
//!
//! The session enters HEAD in a swap that fails unless the snapshot is in that very HEAD. None of the packs that the
//! snapshot needs is condemned there, and no prune dooms packs that were condemned after an open session was opened. So
//! the packs that a restore has proved readable stay readable until the session is closed, even if the snapshot is
//! forgotten meanwhile.

use crate::{Repository, Result};
use chunkstore::id::SessionId;
use chunkstore::store::ChunkStore;
use chunkstore::{Error, ObjectId};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// How often the session says that it is at work. Others take a silent one for dead after days.
const PULSE: Duration = Duration::from_secs(3600);

/// A snapshot that no prune takes anything away from; let go when it is dropped.
pub struct Held {
    store: Arc<ChunkStore>,
    session: SessionId,
    /// Closed to end the thread.
    open: Option<Sender<()>>,
    pulse: Option<JoinHandle<()>>,
}

impl Held {
    /// Holds a snapshot. `Ok(Err(why))` if HEAD cannot be written: there may be no right to, or no room.
    ///
    /// # Errors
    /// If the snapshot is no longer in HEAD, or HEAD cannot be read.
    pub fn take(repo: &Repository, snapshot: &ObjectId) -> Result<std::result::Result<Self, Error>> {
        let store = Arc::clone(repo.store());
        let session = match store.open_session_on("restore", snapshot) {
            Ok(session) => session,
            Err(error @ Error::Storage(_)) => return Ok(Err(error)),
            Err(error) => return Err(error.into()),
        };
        let (open, closed) = channel();
        let beside = Arc::clone(&store);
        let pulse = std::thread::Builder::new().name("restore session".into()).spawn(move || {
            while closed.recv_timeout(PULSE) == Err(RecvTimeoutError::Timeout) {
                if let Err(error) = beside.checkpoint(&session, &[]) {
                    tracing::warn!(%error, "the session that holds the snapshot cannot be kept up");
                }
            }
        });
        Ok(Ok(Self { store, session, open: Some(open), pulse: pulse.ok() }))
    }
}

impl Held {
    /// Whether HEAD, as last read, has the session.
    ///
    /// # Errors
    ///
    /// HEAD's list of sessions cannot be read.
    pub fn is_open(&self) -> Result<bool> {
        Ok(self.store.head().is_open(&self.session)?)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.open.take();
        if let Some(pulse) = self.pulse.take() {
            let _ = pulse.join();
        }
        if let Err(error) = self.store.close_session(&self.session, &[]) {
            tracing::warn!(%error, "the session that held the snapshot stays in HEAD until a prune removes it");
        }
    }
}
