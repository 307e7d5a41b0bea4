//! Immutable objects through `object_store`: common code of stores over HTTP. A small runtime of its own drives the
//! requests; callers block on plain threads. Answers longer than requested are refused.

use super::http::{Explained, explain};
use super::line::{Driver, Line};
use super::shelf::Placing;
use super::{ErrorKind, StorageError, StorageResult, most_listed};
use bytes::Bytes;
use futures_util::StreamExt as _;
use object_store::client::{HttpError, HttpErrorKind};
use object_store::{
    Attribute, Attributes, Error as ObjectError, GetOptions, GetResult, ObjectStore, ObjectStoreExt as _,
    PutMode, PutOptions, PutPayload, path::Path,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// An `ObjectStore`, blocking.
#[derive(Clone)]
pub(super) struct Objects {
    pub(super) store: Arc<dyn ObjectStore>,
    driver: Arc<Driver>,
    pub(super) place: String,
}

/// The longest time between two entries of a listing: one page, with all attempts at it.
const PAGE: Duration = Duration::from_secs(30 * 60);
/// So often a page of a listing is asked for whose answer breaks off. Requests that are not answered are repeated below this.
const PAGE_ATTEMPTS: u32 = 5;
/// Memory that is taken for an answer before it came.
const FIRST: u64 = 64 << 20;

impl Objects {
    pub(super) fn new(store: Arc<dyn ObjectStore>, place: String, line: &Line) -> StorageResult<Self> {
        let driver = Driver::new(line.clone()).map_err(|source| StorageError {
            kind: ErrorKind::Failed,
            op: "start",
            object: place.clone(),
            source: source.into(),
        })?;
        Ok(Self { store, driver: Arc::new(driver), place })
    }

    /// Waits for a call; a signal ends the wait.
    pub(super) fn drive<T>(
        &self,
        op: &'static str,
        name: &str,
        call: impl Future<Output = T>,
    ) -> StorageResult<T> {
        self.driver.drive(op, || self.object(name), call)
    }

    fn object(&self, name: &str) -> String {
        if name.is_empty() { self.place.clone() } else { format!("{}/{name}", self.place) }
    }

    pub(super) fn error(&self, op: &'static str, name: &str, source: ObjectError) -> StorageError {
        if let Some(why) = super::reach::unreachable(&source) {
            return self.failed(op, name, &why.to_string());
        }
        if let Some(why) = super::identity::missing(&source) {
            let kind = ErrorKind::from(&why);
            return StorageError { kind, op, object: self.object(name), source: why.into() };
        }
        // `object_store` shows only some statuses as kinds; the store's own code says more.
        let (kind, source) = match explain(&source.to_string()) {
            Some((kind, meaning)) => {
                tracing::debug!(answer = %source, "the store refused");
                (kind, Explained { meaning }.into())
            }
            None => (kind(&source), source.into()),
        };
        StorageError { kind, op, object: self.object(name), source }
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
        match self.drive("write", name, self.store.put_opts(&Path::from(name), payload, options))? {
            Ok(_) => Ok(()),
            // An earlier attempt may have got through, and some stores answer a race with 409:
            // only the bytes that are there can tell. So it is if the answer broke off.
            Err(source)
                if matches!(source, ObjectError::AlreadyExists { .. } | ObjectError::Precondition { .. })
                    || has_broken_off(&source) =>
            {
                self.is_there(name, &body).map_err(|_| self.error("write", name, source))
            }
            Err(source) => match self.error("write", name, source) {
                // Credentials that may only create are refused by another code.
                error if error.kind == ErrorKind::Conflict => self.is_there(name, &body).map_err(|_| error),
                error => Err(error),
            },
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
        let put = self.drive("write", name, self.store.put(&Path::from(name), payload))?;
        put.map(drop).map_err(|source| self.error("write", name, source))
    }

    pub(super) fn get(&self, name: &str, limit: u64) -> StorageResult<Bytes> {
        self.get_versioned(name, limit).map(|(body, _)| body)
    }

    /// A whole object of at most `limit` bytes, and its `ETag`.
    pub(super) fn get_versioned(&self, name: &str, limit: u64) -> StorageResult<(Bytes, Option<String>)> {
        let path = Path::from(name);
        self.drive("read", name, async {
            let found = self.store.get(&path).await.map_err(|source| self.error("read", name, source))?;
            if found.meta.size > limit {
                let why = format!(
                    "it has {} bytes, and no such object may have more than {limit}",
                    found.meta.size
                );
                return Err(self.failed("read", name, &why));
            }
            let (len, tag) = (found.meta.size, found.meta.e_tag.clone());
            let body = collect(found, len).await.map_err(|source| self.error("read", name, source))?;
            if body.len() as u64 == len {
                Ok((body, tag))
            } else {
                Err(self.failed("read", name, "the store's answer is not as long as it said"))
            }
        })?
    }

    pub(super) fn get_range(&self, name: &str, offset: u64, len: u64) -> StorageResult<Bytes> {
        let end = offset.checked_add(len).ok_or_else(|| self.failed("read", name, "range overflows"))?;
        let short = || StorageError {
            kind: ErrorKind::Short,
            ..self.failed("read", name, "object ends before the range does")
        };
        let path = Path::from(name);
        let read = async {
            let options = GetOptions { range: Some((offset..end).into()), ..GetOptions::default() };
            collect(self.store.get_opts(&path, options).await?, len).await
        };
        match self.drive("read", name, read)? {
            Ok(body) if body.len() as u64 == len => Ok(body),
            Ok(body) if body.len() as u64 > len => {
                Err(self.failed("read", name, "the store sends more than it was asked for"))
            }
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
            let path = Path::from(name);
            let found = self.drive("read", name, self.store.get_opts(&path, options))?;
            let mut body = found.map_err(|source| self.error("read", name, source))?.into_stream();
            // Part by part: what is done with one may ask the store for more, which it could not from within.
            while let Some(part) = self.drive("read", name, body.next())? {
                let part = part.map_err(|source| self.error("read", name, source))?;
                left = left
                    .checked_sub(part.len() as u64)
                    .ok_or_else(|| self.failed("read", name, "the store sends more than it was asked for"))?;
                each(&part);
            }
            Ok(())
        };
        stream()?;
        match left {
            0 => Ok(()),
            // What the store says of a range that it lacks is for the ordinary read to tell.
            _ => Err(StorageError {
                kind: ErrorKind::Short,
                ..self.failed("read", name, "object ends before the range does")
            }),
        }
    }

    pub(super) fn len(&self, name: &str) -> StorageResult<u64> {
        let meta = self.drive("read", name, self.store.head(&Path::from(name)))?;
        Ok(meta.map_err(|source| self.error("read", name, source))?.size)
    }

    /// As [`super::Storage::written_ms`].
    pub(super) fn written_ms(&self, name: &str) -> StorageResult<Option<u64>> {
        let meta = self.drive("read", name, self.store.head(&Path::from(name)))?;
        let meta = meta.map_err(|source| self.error("read", name, source))?;
        Ok(u64::try_from(meta.last_modified.timestamp_millis()).ok())
    }

    pub(super) fn list(&self, folder: &str, each: &mut dyn FnMut(&str, u64)) -> StorageResult<()> {
        let (path, most) = (Path::from(folder), most_listed(folder));
        let listed = AtomicU64::new(0);
        let object = || self.object(folder);
        self.driver.drive_listing(object, &listed, async {
            let mut listing = self.store.list(Some(&path));
            let (mut count, mut attempts) = (0, 0);
            // The last name, while they rise: not every store has an order by which a listing could go on.
            let (mut last, mut rises) = (None::<Path>, true);
            loop {
                let next = tokio::time::timeout(PAGE, listing.next()).await;
                let next = next.map_err(|_| {
                    let minutes = PAGE.as_secs() / 60;
                    self.failed("list", folder, &format!("no entry arrived within {minutes} minutes"))
                })?;
                let meta = match next {
                    None => return Ok(()),
                    Some(Ok(meta)) => meta,
                    Some(Err(source)) if has_broken_off(&source) && rises && attempts < PAGE_ATTEMPTS => {
                        tracing::debug!(folder, %source, "a page of a listing broke off; asked for again");
                        attempts += 1;
                        listing = match &last {
                            Some(last) => self.store.list_with_offset(Some(&path), last),
                            None => self.store.list(Some(&path)),
                        };
                        continue;
                    }
                    Some(Err(source @ ObjectError::InvalidPath { .. })) => {
                        let kind = ErrorKind::BadName;
                        return Err(StorageError { kind, ..self.error("list", folder, source) });
                    }
                    Some(Err(source)) => return Err(self.error("list", folder, source)),
                };
                if attempts > 0 && last.as_ref().is_some_and(|last| meta.location <= *last) {
                    // A store that begins anew.
                    continue;
                }
                (count, attempts) = (count + 1, 0);
                listed.store(count, Ordering::Relaxed);
                rises &= last.as_ref().is_none_or(|last| meta.location > *last);
                if count > most {
                    let failed = self.failed("list", folder, &super::TooMany(most).to_string());
                    return Err(StorageError { kind: ErrorKind::TooMany, ..failed });
                }
                each(meta.location.as_ref(), meta.size);
                last = Some(meta.location);
            }
        })?
    }

    /// Removes one object.
    pub(super) fn delete(&self, name: &str) -> StorageResult<()> {
        match self.drive("delete", name, self.store.delete(&Path::from(name)))? {
            Ok(()) | Err(ObjectError::NotFound { .. }) => Ok(()),
            Err(source) => Err(self.error("delete", name, source)),
        }
    }
}

/// The bytes of an answer; more than `len` by one part at most.
async fn collect(found: GetResult, len: u64) -> Result<Bytes, ObjectError> {
    let mut stream = found.into_stream();
    let no_memory = |source: std::collections::TryReserveError| ObjectError::Generic {
        store: "memory",
        source: source.into(),
    };
    let mut body: Vec<u8> = vec![];
    body.try_reserve_exact(usize::try_from(len.min(FIRST)).unwrap_or_default()).map_err(no_memory)?;
    while let Some(part) = stream.next().await {
        let part = part?;
        body.try_reserve(part.len()).map_err(no_memory)?;
        body.extend_from_slice(&part);
        if body.len() as u64 > len {
            break;
        }
    }
    Ok(body.into())
}

/// Whether an answer came and broke off in its body, which no attempt below this repeats.
fn has_broken_off(error: &ObjectError) -> bool {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(http) = error.downcast_ref::<HttpError>() {
            return http.kind() == HttpErrorKind::Interrupted;
        }
        next = error.source();
    }
    false
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
