//! What every [`Storage`] must do. Run against memory, local disk and a real S3 server by the tests,
//! and open to implementations elsewhere.

use super::{ErrorKind, Storage};
use bytes::Bytes;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Checks an empty store; leaves some objects in it.
///
/// # Panics
/// At the first promise that is not kept.
#[expect(clippy::unwrap_used, reason = "a check that fails must say where")]
pub fn check(storage: &dyn Storage) {
    let body = Bytes::from_static(b"0123456789");
    storage.put("packs/aa/one", body.clone()).unwrap();
    storage.put("packs/aa/one", body.clone()).unwrap();
    let conflict = storage.put("packs/aa/one", Bytes::from_static(b"other")).unwrap_err();
    assert_eq!(conflict.kind, ErrorKind::Conflict);
    assert_eq!(storage.get("packs/aa/one", 10).unwrap(), body);
    assert!(storage.get("packs/aa/one", 9).is_err(), "limit");
    assert_eq!(storage.get("packs/aa/two", 10).unwrap_err().kind, ErrorKind::NotFound);
    assert_eq!(storage.get_range("packs/aa/one", 3, 4).unwrap(), Bytes::from_static(b"3456"));
    for start in [8, 12] {
        let beyond = storage.get_range("packs/aa/one", start, 4).unwrap_err();
        assert_eq!(beyond.kind, ErrorKind::Short, "range beyond the end");
    }
    assert_eq!(storage.get_range("packs/aa/two", 0, 1).unwrap_err().kind, ErrorKind::NotFound);
    let mut streamed = vec![];
    let mut read_within = |part: &[u8]| {
        // Whoever gets a part may ask for more in between: a chunk may stand on others.
        assert_eq!(storage.get_range("packs/aa/one", 0, 2).unwrap(), Bytes::from_static(b"01"));
        streamed.extend_from_slice(part);
    };
    storage.stream_range("packs/aa/one", 2, 5, &mut read_within).unwrap();
    assert_eq!(streamed, b"23456");
    assert!(storage.stream_range("packs/aa/one", 8, 4, &mut |_| {}).is_err(), "range beyond the end");
    assert_eq!(storage.len("packs/aa/one").unwrap(), 10);
    storage.replace("packs/aa/one", body.slice(..9)).unwrap();
    assert_eq!(storage.get("packs/aa/one", 10).unwrap(), body.slice(..9));
    storage.replace("packs/aa/one", body.clone()).unwrap();
    storage.put("packs/bb/three", Bytes::new()).unwrap();
    storage.put("index/four", Bytes::new()).unwrap();
    let mut found = vec![];
    storage.list("packs", &mut |name, len| found.push((name.to_owned(), len))).unwrap();
    found.sort();
    assert_eq!(found, [("packs/aa/one".into(), 10), ("packs/bb/three".into(), 0)]);
    storage.delete("packs/aa/one").unwrap();
    storage.delete("packs/aa/one").unwrap();
    assert_eq!(storage.get("packs/aa/one", 10).unwrap_err().kind, ErrorKind::NotFound);

    assert!(storage.read_head().unwrap().is_none());
    storage.swap_head(None, Bytes::from_static(b"head 1")).unwrap();
    assert!(storage.swap_head(None, Bytes::from_static(b"head x")).is_err(), "created twice");
    let (head, first) = storage.read_head().unwrap().unwrap();
    assert_eq!(head, Bytes::from_static(b"head 1"));
    storage.swap_head(Some(&first), Bytes::from_static(b"head 2")).unwrap();
    assert_eq!(
        storage.swap_head(Some(&first), Bytes::from_static(b"head 3")).unwrap_err().kind,
        ErrorKind::Conflict
    );
    race(storage);
}

/// Of many swaps from one version, exactly one wins.
#[expect(clippy::unwrap_used, reason = "a check that fails must say where")]
fn race(storage: &dyn Storage) {
    for round in 0..5 {
        let (_, version) = storage.read_head().unwrap().unwrap();
        let wins = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for writer in 0..8 {
                let (wins, version) = (&wins, &version);
                scope.spawn(move || {
                    let body = Bytes::from(format!("round {round} writer {writer}"));
                    if storage.swap_head(Some(version), body).is_ok() {
                        wins.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(wins.into_inner(), 1, "round {round}");
    }
}
