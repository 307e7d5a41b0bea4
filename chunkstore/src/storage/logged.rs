//! A store whose every request is an event of the log, at debug: operation, object, bytes, milliseconds, and what came
//! of it. Nothing is measured or formatted while nobody listens.

use super::shelf::{Hidden, Lying, Placing, Retrieval, Shelf};
use super::{ErrorKind, Storage, StorageError, StorageResult, Version};
use crate::log::{STORE, ms};
use bytes::Bytes;
use std::sync::Arc;
use std::time::Instant;

/// A store behind the log.
pub struct Logged(Arc<dyn Storage>);

impl Logged {
    /// Everything is as in `storage`.
    #[must_use]
    pub fn new(storage: Arc<dyn Storage>) -> Self {
        Self(storage)
    }

    /// Makes a request. `bytes` are those that the answer brought; those that were sent are known before.
    fn request<T>(
        &self,
        operation: &'static str,
        object: &str,
        request: impl FnOnce() -> StorageResult<T>,
        bytes: impl FnOnce(&T) -> Option<u64>,
    ) -> StorageResult<T> {
        if !tracing::enabled!(target: STORE, tracing::Level::DEBUG) {
            return request();
        }
        let began = Instant::now();
        let done = request();
        let (bytes, result, error) = match &done {
            Ok(value) => (bytes(value), "ok", None),
            Err(error) => (None, word(error.kind), Some(crate::store::describe(error))),
        };
        let place = self.0.place();
        tracing::debug!(target: STORE, operation, object, bytes, ms = ms(began), result, error, place, "request");
        done
    }

    fn send(
        &self,
        operation: &'static str,
        object: &str,
        body: Bytes,
        request: Sending<'_>,
    ) -> StorageResult<()> {
        let len = body.len() as u64;
        self.request(operation, object, || request(body), |()| Some(len))
    }
}

/// A request that takes a body.
type Sending<'a> = &'a dyn Fn(Bytes) -> StorageResult<()>;

/// What came of a request that failed, as a word.
fn word(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::NotFound => "not_found",
        ErrorKind::Short => "short",
        ErrorKind::Conflict => "conflict",
        ErrorKind::Denied => "denied",
        ErrorKind::Full => "full",
        ErrorKind::Frozen => "frozen",
        ErrorKind::Ambiguous => "ambiguous",
        ErrorKind::Stopped => "stopped",
        ErrorKind::TooMany => "too many",
        ErrorKind::BadName => "bad name",
        ErrorKind::Failed => "failed",
    }
}

fn none<T>(_: &T) -> Option<u64> {
    None
}

impl Storage for Logged {
    fn put(&self, name: &str, body: Bytes) -> StorageResult<()> {
        self.send("put", name, body, &|body| self.0.put(name, body))
    }
    fn replace(&self, name: &str, body: Bytes) -> StorageResult<()> {
        self.send("replace", name, body, &|body| self.0.replace(name, body))
    }
    fn get(&self, name: &str, limit: u64) -> StorageResult<Bytes> {
        self.request("get", name, || self.0.get(name, limit), |body| Some(body.len() as u64))
    }
    fn get_range(&self, name: &str, offset: u64, len: u64) -> StorageResult<Bytes> {
        self.request(
            "get_range",
            name,
            || self.0.get_range(name, offset, len),
            |body| Some(body.len() as u64),
        )
    }
    fn stream_range(
        &self,
        name: &str,
        offset: u64,
        len: u64,
        each: &mut dyn FnMut(&[u8]),
    ) -> StorageResult<()> {
        let stream = || self.0.stream_range(name, offset, len, each);
        self.request("stream_range", name, stream, |()| Some(len))
    }
    fn len(&self, name: &str) -> StorageResult<u64> {
        self.request("len", name, || self.0.len(name), none)
    }
    fn list(&self, folder: &str, each: &mut dyn FnMut(&str, u64)) -> StorageResult<()> {
        self.request("list", folder, || self.0.list(folder, each), none)
    }
    fn leftovers(&self, each: &mut dyn FnMut(&str)) -> StorageResult<()> {
        self.request("leftovers", "", || self.0.leftovers(each), none)
    }
    fn delete(&self, name: &str) -> StorageResult<()> {
        self.request("delete", name, || self.0.delete(name), none)
    }
    fn read_versioned(&self, name: &str) -> StorageResult<Option<(Bytes, Version)>> {
        let len = |read: &Option<(Bytes, Version)>| read.as_ref().map(|(body, _)| body.len() as u64);
        self.request("read_versioned", name, || self.0.read_versioned(name), len)
    }
    fn swap(&self, name: &str, expected: Option<&Version>, body: Bytes) -> StorageResult<()> {
        self.send("swap", name, body, &|body| self.0.swap(name, expected, body))
    }
    fn written_ms(&self, name: &str) -> StorageResult<Option<u64>> {
        self.request("written_ms", name, || self.0.written_ms(name), none)
    }
    fn shelf(&self) -> Option<&dyn Shelf> {
        self.0.shelf().map(|_| self as &dyn Shelf)
    }
    // No requests.
    crate::forward!(self => self.0; place connections is_near keeps_copies copies);
}

/// Reached only where the store beneath has a shelf.
impl Logged {
    fn shelf_request<T>(
        &self,
        operation: &'static str,
        object: &str,
        request: impl FnOnce(&dyn Shelf) -> StorageResult<T>,
    ) -> StorageResult<T> {
        match self.0.shelf() {
            Some(shelf) => self.request(operation, object, || request(shelf), none),
            None => Err(StorageError {
                kind: ErrorKind::Failed,
                op: "use",
                object: self.0.place(),
                source: "this store has no classes".into(),
            }),
        }
    }
}

impl Shelf for Logged {
    fn put_as(&self, name: &str, body: Bytes, placing: &Placing) -> StorageResult<()> {
        match self.0.shelf() {
            Some(shelf) => self.send("put_as", name, body, &|body| shelf.put_as(name, body, placing)),
            None => self.shelf_request("put_as", name, |_| Ok(())),
        }
    }
    fn look(&self, name: &str) -> StorageResult<Lying> {
        self.shelf_request("look", name, |shelf| shelf.look(name))
    }
    fn thaw(&self, name: &str, days: u32, retrieval: Retrieval) -> StorageResult<bool> {
        self.shelf_request("thaw", name, |shelf| shelf.thaw(name, days, retrieval))
    }
    fn lock(&self, name: &str, until: u64) -> StorageResult<()> {
        self.shelf_request("lock", name, |shelf| shelf.lock(name, until))
    }
    fn hazards(&self) -> StorageResult<Vec<String>> {
        self.shelf_request("hazards", "", |shelf| shelf.hazards())
    }
    fn is_versioned(&self) -> StorageResult<bool> {
        self.shelf_request("is_versioned", "", |shelf| shelf.is_versioned())
    }
    fn hidden(&self) -> StorageResult<Hidden> {
        self.shelf_request("hidden", "", |shelf| shelf.hidden())
    }
    fn remove_hidden(&self, name: &str) -> StorageResult<()> {
        self.shelf_request("remove_hidden", name, |shelf| shelf.remove_hidden(name))
    }
    fn bring_back(&self) -> StorageResult<u64> {
        self.shelf_request("bring_back", "", |shelf| shelf.bring_back())
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory::MemoryStorage;
    use super::*;
    use std::fmt::Debug;
    use std::sync::Mutex;
    use tracing::field::{Field, Visit};
    use tracing::span::{Attributes, Id, Record};
    use tracing::{Event, Metadata, Subscriber};

    /// Notes `operation result` of each event.
    #[derive(Clone, Default)]
    struct Noted(Arc<Mutex<Vec<String>>>);

    #[derive(Default)]
    struct Fields(String);

    impl Visit for Fields {
        fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
            if matches!(field.name(), "operation" | "result" | "bytes") {
                self.0 += &format!("{value:?} ");
            }
        }
    }

    impl Subscriber for Noted {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }
        fn new_span(&self, _: &Attributes<'_>) -> Id {
            Id::from_u64(1)
        }
        fn record(&self, _: &Id, _: &Record<'_>) {}
        fn record_follows_from(&self, _: &Id, _: &Id) {}
        fn event(&self, event: &Event<'_>) {
            let mut fields = Fields::default();
            event.record(&mut fields);
            self.0.lock().unwrap().push(fields.0.trim().replace('"', ""));
        }
        fn enter(&self, _: &Id) {}
        fn exit(&self, _: &Id) {}
    }

    #[test]
    fn conforms() {
        super::super::conformance::check(&Logged::new(Arc::new(MemoryStorage::default())));
    }

    #[test]
    fn every_request_is_an_event_with_its_bytes_and_its_result() {
        let noted = Noted::default();
        let store = Logged::new(Arc::new(MemoryStorage::default()));
        tracing::subscriber::with_default(noted.clone(), || {
            store.put("packs/a", Bytes::from_static(b"body")).unwrap();
            store.put("packs/a", Bytes::from_static(b"other")).unwrap_err();
            store.get_range("packs/a", 1, 2).unwrap();
            store.stream_range("packs/a", 0, 4, &mut |_| {}).unwrap();
            store.read_head().unwrap();
            store.swap_head(None, Bytes::from_static(b"head")).unwrap();
            store.list("packs", &mut |_, _| {}).unwrap();
            store.delete("packs/a").unwrap();
            store.len("packs/a").unwrap_err();
            assert!(store.shelf().is_none());
            assert_eq!(store.connections(), 1);
        });
        let expected = [
            "put 4 ok",
            "put conflict",
            "get_range 2 ok",
            "stream_range 4 ok",
            "read_versioned ok",
            "swap 4 ok",
            "list ok",
            "delete ok",
            "len not_found",
        ];
        assert_eq!(*noted.0.lock().unwrap(), expected);
    }
}
