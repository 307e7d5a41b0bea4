//! Whether a commit reached the inbox. A host may write there and need not be allowed to read there, so an object that stands
//! in the way may be of an earlier attempt, or somebody else's.

use crate::storage::{ErrorKind, Storage, StorageResult};
use bytes::Bytes;

/// What is where a commit was to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// The commit.
    There,
    /// An object that this host may not read: the answer to the run will say of which commit it is.
    Unknown,
    /// Another object.
    Another,
}

/// Writes a commit, and looks at what stands in its way.
///
/// # Errors
///
/// It is not known to be written, and may be tried again.
pub(super) fn bring(storage: &dyn Storage, name: &str, commit: &Bytes) -> StorageResult<Arrival> {
    let conflict = match storage.put(name, commit.clone()) {
        Ok(()) => return Ok(Arrival::There),
        Err(error) if error.kind == ErrorKind::Conflict => error,
        Err(error) => return Err(error),
    };
    let len = commit.len() as u64;
    // Its length first: a longer one is not read.
    let is_same = storage.len(name).and_then(|there| Ok(there == len && storage.get(name, len)? == *commit));
    match is_same {
        Ok(true) => Ok(Arrival::There),
        Ok(false) => Ok(Arrival::Another),
        Err(error) if error.kind == ErrorKind::Denied => Ok(Arrival::Unknown),
        Err(error) if error.kind == ErrorKind::NotFound => Err(conflict),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::StorageError;
    use crate::storage::memory::MemoryStorage;

    /// A store that answers a `put` where an object is with a conflict, whatever the object is, as one does that compares
    /// nothing; and refuses to have it read with `refusal`, if there is one.
    struct Strict {
        store: MemoryStorage,
        refusal: Option<ErrorKind>,
    }

    impl Strict {
        fn refused(&self, op: &'static str, kind: ErrorKind) -> StorageError {
            StorageError { kind, op, object: "commit".into(), source: "refused".into() }
        }

        fn readable(&self) -> StorageResult<()> {
            self.refusal.map_or(Ok(()), |kind| Err(self.refused("read", kind)))
        }
    }

    impl Storage for Strict {
        fn put(&self, name: &str, body: Bytes) -> StorageResult<()> {
            match self.store.len(name) {
                Ok(_) => Err(self.refused("write", ErrorKind::Conflict)),
                Err(_) => self.store.put(name, body),
            }
        }
        fn get(&self, name: &str, limit: u64) -> StorageResult<Bytes> {
            self.readable().and_then(|()| self.store.get(name, limit))
        }
        fn len(&self, name: &str) -> StorageResult<u64> {
            self.readable().and_then(|()| self.store.len(name))
        }
        crate::forward!(self => self.store; place replace get_range stream_range list leftovers delete read_versioned swap
            connections is_near keeps_copies written_ms copies shelf);
    }

    #[test]
    fn only_the_same_bytes_count_as_an_earlier_attempt() {
        let commit = Bytes::from_static(b"commit");
        let arrives = |there: Option<&'static [u8]>, refusal| {
            let store = MemoryStorage::default();
            if let Some(there) = there {
                store.put("c", Bytes::from_static(there)).unwrap();
            }
            bring(&Strict { store, refusal }, "c", &commit).map_err(|error| error.kind)
        };
        for (there, refusal, expected) in [
            (None, None, Ok(Arrival::There)),
            (None, Some(ErrorKind::Denied), Ok(Arrival::There)),
            (Some(&b"commit"[..]), None, Ok(Arrival::There)),
            (Some(b"tommit"), None, Ok(Arrival::Another)),
            (Some(b"commit and more"), None, Ok(Arrival::Another)),
            (Some(b""), None, Ok(Arrival::Another)),
            (Some(b"commit"), Some(ErrorKind::Denied), Ok(Arrival::Unknown)),
            // Gone meanwhile, and a store that is down: nothing is known.
            (Some(b"commit"), Some(ErrorKind::NotFound), Err(ErrorKind::Conflict)),
            (Some(b"commit"), Some(ErrorKind::Failed), Err(ErrorKind::Failed)),
        ] {
            assert_eq!(arrives(there, refusal), expected, "{there:?} {refusal:?}");
        }
    }
}
