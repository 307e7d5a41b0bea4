//! HEAD on a store that cannot compare and swap, but creates an object only if it does not exist, and whose listings
//! show a created object at once: a chain of objects, `head/<generation>`, of which the last is HEAD.
//!
//! A process that creates generation n + 1 has replaced n, and no other has. Old links are removed, which a writer that
//! slept does not know: it may create one again that others have gone past. The last link marks the boundary (SlateDB's
//! RFC 26 has an object of its own for that): links are removed only while later ones stay. So a process that creates a
//! removed link again finds a later one in a listing afterwards, and does not treat its swap as done until HEAD's own
//! list of nonces confirms it.

use super::{ErrorKind, Storage, StorageError, StorageResult, Version};
use crate::format::{MAX_SMALL_LEN, names};
use bytes::Bytes;
use std::sync::Arc;

/// Links that are kept behind the last. A reader that is slower than so many swaps looks again.
const KEPT: u64 = 64;
/// Times that a reader looks again.
const ATTEMPTS: u32 = 16;

/// A store whose HEAD is a chain.
pub struct ChainedHead(Arc<dyn Storage>);

impl ChainedHead {
    /// Everything but HEAD is as in `storage`.
    #[must_use]
    pub fn new(storage: Arc<dyn Storage>) -> Self {
        Self(storage)
    }

    /// The generations that there are, in order.
    fn links(&self) -> StorageResult<Vec<u64>> {
        let mut links = vec![];
        self.0.list(names::HEADS, &mut |name, _| {
            links.extend(name.rsplit('/').next().and_then(|number| number.parse::<u64>().ok()));
        })?;
        links.sort_unstable();
        Ok(links)
    }

    fn failed(&self, kind: ErrorKind, op: &'static str, why: &str) -> StorageError {
        StorageError { kind, op, object: format!("{}/{}", self.place(), names::HEADS), source: why.into() }
    }
}

impl Storage for ChainedHead {
    /// The links contain the name; `_name` is not used.
    fn read_versioned(&self, _name: &str) -> StorageResult<Option<(Bytes, Version)>> {
        for _ in 0..ATTEMPTS {
            let Some(last) = self.links()?.pop() else { return Ok(None) };
            match self.0.get(&names::head_link(last), MAX_SMALL_LEN) {
                // Gone past and removed since it was listed.
                Err(error) if error.kind == ErrorKind::NotFound => {}
                body => {
                    let body = body?;
                    // A link that was removed since may be one that was created again, and never was HEAD. None is removed
                    // while it is among the last.
                    if self.links()?.pop().is_some_and(|now| now <= last + KEPT) {
                        return Ok(Some((body, Version(last.to_string()))));
                    }
                }
            }
        }
        Err(self.failed(ErrorKind::Failed, "read", "HEAD moves on faster than it can be read"))
    }
    fn swap(&self, _name: &str, expected: Option<&Version>, body: Bytes) -> StorageResult<()> {
        let next = match expected {
            None if self.links()?.is_empty() => 1,
            None => return Err(self.failed(ErrorKind::Conflict, "swap", "there is a HEAD")),
            Some(Version(number)) => match number.parse::<u64>() {
                Ok(number) => number + 1,
                Err(_) => return Err(self.failed(ErrorKind::Failed, "swap", "this is no link's number")),
            },
        };
        self.0.put(&names::head_link(next), body).map_err(|error| match error.kind {
            // It may have got through, or be refused because it did.
            ErrorKind::Failed => StorageError { kind: ErrorKind::Ambiguous, ..error },
            _ => error,
        })?;
        // Until it is known whether this is the last, it is not known what came of it.
        let doubt = |error: StorageError| StorageError { kind: ErrorKind::Ambiguous, ..error };
        let links = self.links().map_err(doubt)?;
        if links.last() != Some(&next) {
            return Err(self.failed(ErrorKind::Ambiguous, "swap", "others have gone past it"));
        }
        for old in links.into_iter().filter(|link| link + KEPT < next) {
            // The next swap tries again.
            let _ = self.0.delete(&names::head_link(old));
        }
        Ok(())
    }
    fn written_ms(&self, name: &str) -> StorageResult<Option<u64>> {
        match self.links()?.pop() {
            Some(last) if name == names::HEAD => self.0.written_ms(&names::head_link(last)),
            _ => self.0.written_ms(name),
        }
    }
    crate::forward!(self => self.0; place put replace get get_range stream_range len list leftovers delete connections
        keeps_copies is_near copies shelf);
}

#[cfg(test)]
mod tests {
    use super::super::memory::MemoryStorage;
    use super::*;

    #[test]
    fn conforms() {
        super::super::conformance::check(&ChainedHead::new(Arc::new(MemoryStorage::default())));
    }

    #[test]
    fn whoever_slept_is_told_that_others_went_past() {
        let disk = Arc::new(MemoryStorage::default());
        let chain = ChainedHead::new(Arc::clone(&disk) as _);
        chain.swap_head(None, Bytes::from_static(b"1")).unwrap();
        let (_, slept) = chain.read_head().unwrap().unwrap();
        for number in 2..3 * KEPT {
            let (_, version) = chain.read_head().unwrap().unwrap();
            chain.swap_head(Some(&version), Bytes::from(number.to_string())).unwrap();
        }
        assert_eq!(disk.objects().len() as u64, KEPT + 1, "old links are removed");
        let late = chain.swap_head(Some(&slept), Bytes::from_static(b"late")).unwrap_err();
        assert_eq!(late.kind, ErrorKind::Ambiguous);
        let (head, version) = chain.read_head().unwrap().unwrap();
        assert_eq!(head, Bytes::from((3 * KEPT - 1).to_string()), "what was created late is not HEAD");
        chain.swap_head(Some(&version), Bytes::from_static(b"next")).unwrap();
        assert_eq!(disk.objects().len() as u64, KEPT + 1, "and is removed, too");
    }

    /// Calls something between the listing and the reading of a link, once.
    struct Interrupted(Arc<MemoryStorage>, std::sync::Mutex<Option<Box<dyn FnOnce() + Send>>>);
    impl Storage for Interrupted {
        fn get(&self, name: &str, limit: u64) -> StorageResult<Bytes> {
            let then = self.1.lock().unwrap().take();
            if let Some(then) = then {
                then();
            }
            self.0.get(name, limit)
        }
        crate::forward!(self => self.0; place read_versioned swap put replace get_range stream_range len list leftovers delete connections
            keeps_copies is_near copies written_ms shelf);
    }

    #[test]
    fn a_link_that_was_created_again_is_not_head() {
        let disk = Arc::new(MemoryStorage::default());
        let chain = ChainedHead::new(Arc::clone(&disk) as _);
        chain.swap_head(None, Bytes::from_static(b"1")).unwrap();
        let (_, slept) = chain.read_head().unwrap().unwrap();
        chain.swap_head(Some(&slept), Bytes::from_static(b"2")).unwrap();
        let there = Arc::clone(&disk);
        let meanwhile = move || {
            let chain = ChainedHead::new(there as _);
            for number in 3..3 * KEPT {
                let (_, version) = chain.read_head().unwrap().unwrap();
                chain.swap_head(Some(&version), Bytes::from(number.to_string())).unwrap();
            }
            chain.swap_head(Some(&slept), Bytes::from_static(b"late")).unwrap_err();
        };
        let reader = Interrupted(disk, std::sync::Mutex::new(Some(Box::new(meanwhile))));
        let (head, _) = ChainedHead::new(Arc::new(reader)).read_head().unwrap().unwrap();
        assert_eq!(head, Bytes::from((3 * KEPT - 1).to_string()));
    }
}
