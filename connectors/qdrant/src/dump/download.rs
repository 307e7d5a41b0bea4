//! A snapshot of a shard on its way in.

use super::Details;
use super::leftovers::Remembered;
use crate::server::{Body, Came, Failed, Qdrant};
use connector_kit::format::TAR;
use connector_kit::tar_cuts::TarCuts;
use engine::source::end_mark::EndMark;
use engine::source::{Content, Piece, SourceError, SourceErrorKind};
use sha2::{Digest as _, Sha256};
use std::path::PathBuf;

/// What a snapshot of a shard ends with. A stream that fails within the server ends with the end of a tar all the same, which
/// its writer sets whatever comes. Source: `lib/collection/src/shards/replica_set/snapshots.rs`, `create_snapshot`.
const LAST_MEMBER: &[u8] = b"shard_config.json\0";
/// Bytes of the end that are kept to look for it: it is small, and the end of a tar may be filled up to 10 KiB.
const TAIL: usize = 16 << 10;

/// A shard to read.
pub(super) struct Shard {
    pub(super) server: Qdrant,
    pub(super) collection: String,
    pub(super) number: u64,
    pub(super) details: Details,
    pub(super) scratch: PathBuf,
    /// Whether the collection was asked for by its name: then it must be there.
    pub(super) named: bool,
    pub(super) keep_going: bool,
}

impl Shard {
    /// Begins to read. Where the server can stream, nothing lands on its disk; else the snapshot is made there, checked
    /// against the server's checksum, and removed.
    pub(super) fn open(self) -> Result<Box<dyn Content>, SourceError> {
        match self.server.stream_snapshot(&self.collection, self.number) {
            Ok(Some(body)) => Ok(Box::new(TarCuts::new(Box::new(Download::new(self, body, None))))),
            Ok(None) => self.made(),
            Err(failed) => Err(self.error(failed)),
        }
    }

    fn made(self) -> Result<Box<dyn Content>, SourceError> {
        // Before it is asked for: a run that ends before the answer comes does not know its name.
        let mut remembered = match self.server.snapshots(&self.collection, self.number) {
            Ok(before) => Remembered::new(&self.scratch, &self.server, &self.collection, self.number, before)
                .inspect_err(|error| tracing::warn!(%error, "cannot remember a snapshot"))
                .ok(),
            Err(failed) => return Err(self.error(failed)),
        };
        let made = match self.server.make_snapshot(&self.collection, self.number) {
            Ok(made) => made,
            Err(failed) => {
                if let (Some(_), Some(remembered)) = (failed.status, remembered) {
                    remembered.forget();
                }
                return Err(self.error(failed));
            }
        };
        if let Some(Err(error)) = remembered.as_mut().map(|remembered| remembered.named(&made.name)) {
            tracing::warn!(%error, "cannot remember a snapshot");
        }
        let on_server = OnServer {
            server: self.server.clone(),
            collection: self.collection.clone(),
            shard: self.number,
            name: made.name,
            remembered,
        };
        let body = match self.server.download(&self.collection, self.number, &on_server.name) {
            Ok(body) => body,
            Err(failed) => return Err(self.error(failed)),
        };
        let made = Some((on_server, made.checksum));
        Ok(Box::new(TarCuts::new(Box::new(Download::new(self, body, made)))))
    }

    /// What a refusal means: of a collection that is gone, and was not asked for by its name, that it is left out.
    fn error(&self, failed: Failed) -> SourceError {
        if failed.status == Some(404)
            && let Some(gone) = self.gone()
        {
            return gone;
        }
        let error = failed.error;
        let kind =
            if self.keep_going && failed.status.is_some() { SourceErrorKind::Item } else { error.kind };
        let why = format!("shard {} of '{}': {}", self.number, self.collection, error.why);
        SourceError { kind, why, ..error }
    }

    /// That the collection was removed meanwhile, if it was, and was not asked for by its name.
    fn gone(&self) -> Option<SourceError> {
        if self.named || !matches!(self.server.collection(&self.collection), Ok(None)) {
            return None;
        }
        self.details.borrow_mut().insert(super::gone(&self.collection), "removed while it was read".into());
        let why = "the collection was removed while the server was read; it is left out";
        Some(SourceError::new(SourceErrorKind::Item, super::shown(&self.server, &self.collection), why))
    }
}

/// A snapshot on the server's disk; removed there whatever comes of it.
struct OnServer {
    server: Qdrant,
    collection: String,
    shard: u64,
    name: String,
    remembered: Option<Remembered>,
}

impl Drop for OnServer {
    fn drop(&mut self) {
        match (self.server.delete_snapshot(&self.collection, self.shard, &self.name), self.remembered.take())
        {
            (Ok(()), remembered) => drop(remembered.map(Remembered::forget)),
            (Err(failed), _) => tracing::warn!(
                error = %failed.error,
                "snapshot {} of collection '{}' stays on the server; the next backup from this machine removes it",
                self.name,
                self.collection
            ),
        }
    }
}

struct Download {
    shard: Shard,
    body: Option<Body>,
    hash: Sha256,
    mark: Box<dyn EndMark>,
    /// The last bytes.
    tail: Vec<u8>,
    /// The snapshot on the server's disk, if it was made there, and its checksum.
    made: Option<(OnServer, Option<String>)>,
}

impl Download {
    fn new(shard: Shard, body: Body, made: Option<(OnServer, Option<String>)>) -> Self {
        let mark = (TAR.end_mark)(true);
        Self { shard, body: Some(body), hash: Sha256::new(), mark, tail: vec![], made }
    }

    /// The next bytes.
    fn see(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        self.mark.see(bytes);
        self.tail.extend_from_slice(&bytes[bytes.len().saturating_sub(TAIL)..]);
        self.tail.drain(..self.tail.len().saturating_sub(TAIL));
    }

    /// Looks at the whole once all of it came.
    fn prove(&mut self) -> Result<(), String> {
        let mine: String = self.hash.clone().finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        match self.made.as_ref().map(|(_, checksum)| checksum.as_ref()) {
            Some(Some(theirs)) if !theirs.eq_ignore_ascii_case(&mine) => {
                return Err("the data does not match the server's checksum".into());
            }
            None if memchr::memmem::find(&self.tail, LAST_MEMBER).is_none() => {
                return Err("the server's stream ended before the snapshot did; its log says why".into());
            }
            _ => self.mark.finish()?,
        }
        let key = format!("sha256:{}/{}", self.shard.collection, self.shard.number);
        self.shard.details.borrow_mut().insert(key, mine);
        Ok(())
    }

    fn incomplete(&self, why: &str) -> SourceError {
        if let Some(gone) = self.shard.gone() {
            return gone;
        }
        let kind = if self.shard.keep_going { SourceErrorKind::Item } else { SourceErrorKind::Incomplete };
        let (shard, collection) = (self.shard.number, &self.shard.collection);
        SourceError::new(kind, &self.shard.server.shown, format!("shard {shard} of '{collection}': {why}"))
    }
}

impl Content for Download {
    fn read(&mut self, buffer: &mut [u8]) -> Result<Piece, SourceError> {
        let Some(body) = &mut self.body else { return Ok(Piece::End) };
        match body.read(buffer) {
            Ok(Came::End) => {
                self.body = None;
                self.prove().map_err(|why| self.incomplete(&why)).map(|()| Piece::End)
            }
            Ok(Came::Bytes(len)) => {
                self.see(&buffer[..len]);
                Ok(Piece::Data(len))
            }
            Ok(Came::Nothing) => Ok(Piece::Wait),
            Err(why) => Err(self.incomplete(&why)),
        }
    }
}
