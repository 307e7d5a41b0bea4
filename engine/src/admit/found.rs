//! What a name of an inbox leads to, and which commit is the host's: anybody with a right to write there can put anything
//! under a name, and a byte of it can be damaged.

use crate::Result;
use bytes::Bytes;
use chunkstore::format::{MAX_COMMIT_LEN, names};
use chunkstore::head::Host;
use chunkstore::inbox::{PublicKey, SignedCommit};
use chunkstore::storage::ErrorKind;
use chunkstore::store::ChunkStore;

/// What a name of an inbox leads to.
pub(super) enum Object {
    Whole(Bytes),
    Gone,
    /// It has more bytes than it may have: not read.
    TooLong,
}

/// Reads an object of an inbox of at most `limit` bytes.
pub(super) fn read(store: &ChunkStore, name: &str, limit: u64) -> Result<Object> {
    match store.storage().get(name, limit) {
        Ok(bytes) => Ok(Object::Whole(bytes)),
        Err(error) if error.kind == ErrorKind::NotFound => Ok(Object::Gone),
        Err(error) => match store.storage().len(name) {
            Ok(len) if len > limit => Ok(Object::TooLong),
            _ => Err(chunkstore::Error::from(error).into()),
        },
    }
}

/// What is in the place of a commit.
pub(super) enum Found {
    /// The commit that the host signed for this repository and number.
    Commit(Box<SignedCommit>),
    /// Nothing.
    Gone,
    /// Something else, and what, for people.
    Other(String),
}

/// Looks for the commit of a run. What is not the host's is read once more, since it may have been damaged on its way.
pub(super) fn commit(store: &ChunkStore, host: &Host, number: u64) -> Result<Found> {
    let first = commit_once(store, host, number)?;
    if matches!(first, Found::Other(_)) { commit_once(store, host, number) } else { Ok(first) }
}

/// The same, read once.
pub(super) fn commit_once(store: &ChunkStore, host: &Host, number: u64) -> Result<Found> {
    let bytes = match read(store, &names::commit(&host.id, number), MAX_COMMIT_LEN)? {
        Object::Whole(bytes) => bytes,
        Object::Gone => return Ok(Found::Gone),
        Object::TooLong => return Ok(Found::Other("it is longer than a commit can be".into())),
    };
    let signed = match SignedCommit::decode(&bytes) {
        Ok(signed) => signed,
        Err(malformed) => return Ok(Found::Other(format!("it is damaged, or no commit: {malformed}"))),
    };
    // Before what the header says is believed: a byte of it that is damaged is no other repository.
    if !signed.is_of(&PublicKey(host.public)) {
        return Ok(Found::Other(format!("it is damaged, or host '{}' did not sign it", host.name)));
    }
    let header = &signed.header;
    if header.repository != *store.keys().repository() || header.host != host.id || header.run != number {
        return Ok(Found::Other("the host signed it for another repository or run".into()));
    }
    Ok(Found::Commit(Box::new(signed)))
}
