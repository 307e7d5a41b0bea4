//! The macro that decorators of [`Storage`](super::Storage) pass methods on with.
//!
//! The trait has no method with a body that a store could want otherwise. So a decorator that forgets one does not
//! compile: of each method its author has written down that it is passed on, or what happens instead.

/// Implements the named methods of [`Storage`](crate::storage::Storage) by the same methods of the store beneath.
///
/// ```
/// use chunkstore::storage::{Storage, memory::MemoryStorage};
///
/// /// A store whose objects are never removed.
/// struct Keeping(MemoryStorage);
///
/// impl Storage for Keeping {
///     fn delete(&self, _: &str) -> chunkstore::storage::StorageResult<()> {
///         Ok(())
///     }
///     chunkstore::forward!(self => self.0; place put replace get get_range stream_range len list leftovers
///         read_versioned swap connections is_near keeps_copies written_ms copies shelf);
/// }
///
/// let store = Keeping(MemoryStorage::default());
/// store.put("config", bytes::Bytes::from_static(b"{}")).unwrap();
/// store.delete("config").unwrap();
/// assert_eq!(store.len("config").unwrap(), 2);
/// ```
#[macro_export]
macro_rules! forward {
    ($this:ident => $beneath:expr; $($method:ident)+) => {
        $($crate::forward!(@one $this, $beneath, $method);)+
    };
    (@one $this:ident, $beneath:expr, place) => {
        fn place(&$this) -> String {
            $beneath.place()
        }
    };
    (@one $this:ident, $beneath:expr, put) => {
        fn put(&$this, name: &str, body: ::bytes::Bytes) -> $crate::storage::StorageResult<()> {
            $beneath.put(name, body)
        }
    };
    (@one $this:ident, $beneath:expr, replace) => {
        fn replace(&$this, name: &str, body: ::bytes::Bytes) -> $crate::storage::StorageResult<()> {
            $beneath.replace(name, body)
        }
    };
    (@one $this:ident, $beneath:expr, get) => {
        fn get(&$this, name: &str, limit: u64) -> $crate::storage::StorageResult<::bytes::Bytes> {
            $beneath.get(name, limit)
        }
    };
    (@one $this:ident, $beneath:expr, get_range) => {
        fn get_range(&$this, name: &str, offset: u64, len: u64) -> $crate::storage::StorageResult<::bytes::Bytes> {
            $beneath.get_range(name, offset, len)
        }
    };
    (@one $this:ident, $beneath:expr, stream_range) => {
        fn stream_range(
            &$this,
            name: &str,
            offset: u64,
            len: u64,
            each: &mut dyn FnMut(&[u8]),
        ) -> $crate::storage::StorageResult<()> {
            $beneath.stream_range(name, offset, len, each)
        }
    };
    (@one $this:ident, $beneath:expr, len) => {
        fn len(&$this, name: &str) -> $crate::storage::StorageResult<u64> {
            $beneath.len(name)
        }
    };
    (@one $this:ident, $beneath:expr, list) => {
        fn list(&$this, folder: &str, each: &mut dyn FnMut(&str, u64)) -> $crate::storage::StorageResult<()> {
            $beneath.list(folder, each)
        }
    };
    (@one $this:ident, $beneath:expr, leftovers) => {
        fn leftovers(&$this, each: &mut dyn FnMut(&str)) -> $crate::storage::StorageResult<()> {
            $beneath.leftovers(each)
        }
    };
    (@one $this:ident, $beneath:expr, delete) => {
        fn delete(&$this, name: &str) -> $crate::storage::StorageResult<()> {
            $beneath.delete(name)
        }
    };
    (@one $this:ident, $beneath:expr, read_versioned) => {
        fn read_versioned(
            &$this,
            name: &str,
        ) -> $crate::storage::StorageResult<Option<(::bytes::Bytes, $crate::storage::Version)>> {
            $beneath.read_versioned(name)
        }
    };
    (@one $this:ident, $beneath:expr, swap) => {
        fn swap(
            &$this,
            name: &str,
            expected: Option<&$crate::storage::Version>,
            body: ::bytes::Bytes,
        ) -> $crate::storage::StorageResult<()> {
            $beneath.swap(name, expected, body)
        }
    };
    (@one $this:ident, $beneath:expr, connections) => {
        fn connections(&$this) -> usize {
            $beneath.connections()
        }
    };
    (@one $this:ident, $beneath:expr, is_near) => {
        fn is_near(&$this) -> bool {
            $beneath.is_near()
        }
    };
    (@one $this:ident, $beneath:expr, keeps_copies) => {
        fn keeps_copies(&$this) -> bool {
            $beneath.keeps_copies()
        }
    };
    (@one $this:ident, $beneath:expr, written_ms) => {
        fn written_ms(&$this, name: &str) -> $crate::storage::StorageResult<Option<u64>> {
            $beneath.written_ms(name)
        }
    };
    (@one $this:ident, $beneath:expr, copies) => {
        fn copies(&$this) -> &[::std::sync::Arc<dyn $crate::storage::Storage>] {
            $beneath.copies()
        }
    };
    (@one $this:ident, $beneath:expr, shelf) => {
        fn shelf(&$this) -> Option<&dyn $crate::storage::shelf::Shelf> {
            $beneath.shelf()
        }
    };
}

/// What a store does that has none of the things that only some have: it hands a range on in one part, leaves nothing
/// behind, keeps each object once, has no clock, no copies and no shelf.
#[macro_export]
macro_rules! plain_store {
    ($($method:ident)+) => {
        $($crate::plain_store!(@one $method);)+
    };
    (@one stream_range) => {
        fn stream_range(
            &self,
            name: &str,
            offset: u64,
            len: u64,
            each: &mut dyn FnMut(&[u8]),
        ) -> $crate::storage::StorageResult<()> {
            self.get_range(name, offset, len).map(|bytes| each(&bytes))
        }
    };
    (@one leftovers) => {
        fn leftovers(&self, _: &mut dyn FnMut(&str)) -> $crate::storage::StorageResult<()> {
            Ok(())
        }
    };
    (@one is_near) => {
        fn is_near(&self) -> bool {
            true
        }
    };
    (@one keeps_copies) => {
        fn keeps_copies(&self) -> bool {
            false
        }
    };
    (@one written_ms) => {
        fn written_ms(&self, _: &str) -> $crate::storage::StorageResult<Option<u64>> {
            Ok(None)
        }
    };
    (@one copies) => {
        fn copies(&self) -> &[::std::sync::Arc<dyn $crate::storage::Storage>] {
            &[]
        }
    };
    (@one shelf) => {
        fn shelf(&self) -> Option<&dyn $crate::storage::shelf::Shelf> {
            None
        }
    };
}
