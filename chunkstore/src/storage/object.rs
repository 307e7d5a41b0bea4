//! Immutable objects through `object_store`: what stores behind HTTP have in common. A small runtime
//! of its own drives the requests; callers block on plain threads.

use super::http::{Explained, explain};
use super::shelf::Placing;
use super::{ErrorKind, StorageError, StorageResult};
use bytes::Bytes;
use futures_util::StreamExt as _;
use object_store::{
    Attribute, Attributes, Error as ObjectError, GetOptions, ObjectStore, ObjectStoreExt as _, PutMode,
    PutOptions, PutPayload, path::Path,
};
use std::sync::Arc;

/// An `ObjectStore`, blocking.
#[derive(Clone)]
pub(super) struct Objects {
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) runtime: Arc<tokio::runtime::Runtime>,
    pub(super) place: String,
}

/// Two threads move bytes; the callers' own threads do everything else.
const RUNTIME_THREADS: usize = 2;

impl Objects {
    pub(super) fn new(store: Arc<dyn ObjectStore>, place: String) -> StorageResult<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(RUNTIME_THREADS)
            .thread_name("storage")
            .enable_all()
            .build()
            .map_err(|source| StorageError {
                kind: ErrorKind::Failed,
                op: "start",
                object: place.clone(),
                source: source.into(),
            })?;
        Ok(Self { store, runtime: Arc::new(runtime), place })
    }

    pub(super) fn error(&self, op: &'static str, name: &str, source: ObjectError) -> StorageError {
        // `object_store` shows only some statuses as kinds; the store's own code says more.
        let (kind, source) = match explain(&source.to_string()) {
            Some((kind, meaning)) => {
                tracing::debug!(answer = %source, "the store refused");
                (kind, Explained { meaning }.into())
            }
            None => (kind(&source), source.into()),
        };
        let object = if name.is_empty() { self.place.clone() } else { format!("{}/{name}", self.place) };
        StorageError { kind, op, object, source }
    }

    pub(super) fn failed(&self, op: &'static str, name: &str, why: &str) -> StorageError {
        StorageError {
            kind: ErrorKind::Failed,
            op,
            object: format!("{}/{name}", self.place),
            source: why.into(),
        }
    }

    /// Puts an object into a class; locks are for those to see to who can.
    pub(super) fn put(&self, name: &str, body: Bytes, placing: &Placing) -> StorageResult<()> {
        let mut attributes = Attributes::new();
        if let Some(class) = &placing.class {
            attributes.insert(Attribute::StorageClass, class.clone().into());
        }
        let options = PutOptions { mode: PutMode::Create, attributes, ..PutOptions::default() };
        let payload = PutPayload::from_bytes(body.clone());
        match self.runtime.block_on(self.store.put_opts(&Path::from(name), payload, options)) {
            Ok(_) => Ok(()),
            // An earlier attempt may have got through, and some stores answer a race with 409:
            // only the bytes that are there can tell.
            Err(source @ (ObjectError::AlreadyExists { .. } | ObjectError::Precondition { .. })) => {
                self.is_there(name, &body).map_err(|_| self.error("write", name, source))
            }
            Err(source) => Err(self.error("write", name, source)),
        }
    }

    /// Whether an object that stood in the way of a `put` is what was to be put. One that is frozen cannot be
    /// read: names are never used twice, so its length tells.
    pub(super) fn is_there(&self, name: &str, body: &Bytes) -> StorageResult<()> {
        let other = || self.failed("write", name, "another object is there");
        match self.get(name, body.len() as u64) {
            Ok(there) if there == *body => Ok(()),
            Err(error) if error.kind == ErrorKind::Frozen => {
                if self.len(name)? == body.len() as u64 {
                    Ok(())
                } else {
                    Err(other())
                }
            }
            Ok(_) => Err(other()),
            Err(error) => Err(error),
        }
    }

    pub(super) fn replace(&self, name: &str, body: Bytes) -> StorageResult<()> {
        let payload = PutPayload::from_bytes(body);
        let put = self.runtime.block_on(self.store.put(&Path::from(name), payload));
        put.map(drop).map_err(|source| self.error("write", name, source))
    }

    pub(super) fn get(&self, name: &str, limit: u64) -> StorageResult<Bytes> {
        let path = Path::from(name);
        self.runtime.block_on(async {
            let found = self.store.get(&path).await.map_err(|source| self.error("read", name, source))?;
            if found.meta.size > limit {
                return Err(self.failed("read", name, "larger than any such object may be"));
            }
            let len = found.meta.size;
            let body = found.bytes().await.map_err(|source| self.error("read", name, source))?;
            if body.len() as u64 == len {
                Ok(body)
            } else {
                Err(self.failed("read", name, "the store cut the answer short"))
            }
        })
    }

    pub(super) fn get_range(&self, name: &str, offset: u64, len: u64) -> StorageResult<Bytes> {
        let end = offset.checked_add(len).ok_or_else(|| self.failed("read", name, "range overflows"))?;
        let short = || StorageError {
            kind: ErrorKind::Short,
            ..self.failed("read", name, "object ends before the range does")
        };
        match self.runtime.block_on(self.store.get_range(&Path::from(name), offset..end)) {
            Ok(body) if body.len() as u64 == len => Ok(body),
            Ok(_) => Err(short()),
            // Stores say in many ways that nothing is left where a range begins.
            Err(_) if self.len(name).is_ok_and(|there| there < end) => Err(short()),
            Err(source) => Err(self.error("read", name, source)),
        }
    }

    /// As [`super::Storage::stream_range`].
    pub(super) fn stream_range(
        &self,
        name: &str,
        offset: u64,
        len: u64,
        each: &mut dyn FnMut(&[u8]),
    ) -> StorageResult<()> {
        let end = offset.checked_add(len).ok_or_else(|| self.failed("read", name, "range overflows"))?;
        let mut left = len;
        let mut stream = || {
            let options = GetOptions { range: Some((offset..end).into()), ..GetOptions::default() };
            let found = self.runtime.block_on(self.store.get_opts(&Path::from(name), options))?;
            let mut body = found.into_stream();
            // Part by part: what is done with one may ask the store for more, which it could not from within.
            while let Some(part) = self.runtime.block_on(body.next()) {
                let part = part?;
                left = left.saturating_sub(part.len() as u64);
                each(&part);
            }
            Ok(())
        };
        let read = stream();
        match read {
            Ok(()) if left == 0 => Ok(()),
            // What the store says of a range that it lacks is for the ordinary read to tell.
            Ok(()) => Err(StorageError {
                kind: ErrorKind::Short,
                ..self.failed("read", name, "object ends before the range does")
            }),
            Err(source) => Err(self.error("read", name, source)),
        }
    }

    pub(super) fn len(&self, name: &str) -> StorageResult<u64> {
        let meta = self.runtime.block_on(self.store.head(&Path::from(name)));
        Ok(meta.map_err(|source| self.error("read", name, source))?.size)
    }

    pub(super) fn list(&self, folder: &str, each: &mut dyn FnMut(&str, u64)) -> StorageResult<()> {
        let path = Path::from(folder);
        self.runtime.block_on(async {
            let mut listing = self.store.list(Some(&path));
            while let Some(meta) = listing.next().await {
                let meta = meta.map_err(|source| self.error("list", folder, source))?;
                each(meta.location.as_ref(), meta.size);
            }
            Ok(())
        })
    }

    pub(super) fn delete(&self, name: &str) -> StorageResult<()> {
        match self.runtime.block_on(self.store.delete(&Path::from(name))) {
            Ok(()) | Err(ObjectError::NotFound { .. }) => Ok(()),
            Err(source) => Err(self.error("delete", name, source)),
        }
    }
}

fn kind(error: &ObjectError) -> ErrorKind {
    match error {
        ObjectError::NotFound { .. } => ErrorKind::NotFound,
        ObjectError::AlreadyExists { .. } | ObjectError::Precondition { .. } => ErrorKind::Conflict,
        ObjectError::PermissionDenied { .. } | ObjectError::Unauthenticated { .. } => ErrorKind::Denied,
        error if is_full(error) => ErrorKind::Full,
        _ => ErrorKind::Failed,
    }
}

/// Whether an I/O error somewhere in the chain says that no room is left.
fn is_full(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<std::io::Error>()
            && matches!(io.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
        {
            return true;
        }
        next = error.source();
    }
    false
}
