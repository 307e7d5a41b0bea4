//! What somebody can make below `inbox/` who may write there: each of it is listed by a name, and removed by it.

use super::*;
use rustix::fs::{CWD, FileType, Mode};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

fn listed(storage: &LocalStorage, folder: &str) -> Vec<(String, u64)> {
    let mut found = vec![];
    storage.list(folder, &mut |name, len| found.push((name.to_owned(), len))).unwrap();
    found.sort();
    found
}

#[test]
fn whatever_is_in_an_inbox_is_listed_by_a_name_that_removes_it() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("repo");
    let storage = LocalStorage::create(&root, false).unwrap();
    storage.put("packs/a/b", Bytes::from_static(b"pack")).unwrap();
    storage.put("inbox/host/run/object", Bytes::from_static(b"123")).unwrap();
    let inbox = root.join("inbox/host");
    for name in [&b"\xff\xfe"[..], b"100%", b"%2E%2E", b"a\nb", b"c#d-1", b"-rf", b"\xc3\xa9"] {
        std::fs::write(inbox.join(OsStr::from_bytes(name)), "x").unwrap();
    }
    for name in ["empty", "a/b/c", "shut", "run/commit"] {
        std::fs::create_dir_all(inbox.join(name)).unwrap();
    }
    std::fs::create_dir(inbox.join(OsStr::from_bytes(b"f\xff"))).unwrap();
    rustix::fs::mknodat(CWD, inbox.join("pipe"), FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(inbox.join("socket")).unwrap();
    std::os::unix::fs::symlink("../../packs", inbox.join("link")).unwrap();
    std::os::unix::fs::symlink("../../packs/a/b", inbox.join("run/file")).unwrap();
    let all = listed(&storage, "inbox/host");
    let names: Vec<_> = all.iter().map(|(name, _)| name.strip_prefix("inbox/host/").unwrap()).collect();
    let expected = [
        "%252E%252E",
        "%FF%FE",
        "-rf",
        "100%25",
        "a\nb",
        "a/b/c/",
        "c#d-1",
        "empty/",
        "f%FF/",
        "link%00",
        "pipe%00",
        "run/commit/",
        "run/file%00",
        "run/object",
        "shut/",
        "socket%00",
        "é",
    ];
    assert_eq!(names, expected);
    for (name, _) in &all {
        storage.delete(name).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    // With the folders above what was removed; that of the host is an empty one now.
    assert_eq!(listed(&storage, "inbox/host"), [("inbox/host/".to_owned(), 0)]);
    assert!(std::fs::read_dir(&inbox).unwrap().next().is_none());
    storage.delete("inbox/host/").unwrap();
    storage.delete("inbox/host/").unwrap();
    assert!(!inbox.exists() && listed(&storage, "inbox/host").is_empty());
    assert_eq!(storage.len("packs/a/b").unwrap(), 4);
}

/// A name that a listing does not make is no way around what one part of a path can be.
#[test]
fn no_name_of_an_inbox_leads_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("repo");
    let storage = LocalStorage::create(&root, false).unwrap();
    storage.put("packs/a/b", Bytes::from_static(b"pack")).unwrap();
    storage.put("inbox/host/x", Bytes::from_static(b"x")).unwrap();
    let names =
        ["%2E%2E/%2E%2E/packs/a/b", "%2e%2e/x", "%2Fx", "%", "%4", "%zz", "%+F", "../../packs/a/b", "a%00/x"];
    for name in names.map(|name| format!("inbox/host/{name}")) {
        storage.delete(&name).unwrap_err();
        storage.get(&name, 10).unwrap_err();
        storage.put(&name, Bytes::from_static(b"y")).unwrap_err();
    }
    // What is marked as no file reads none, and removes none that is there by now.
    storage.get("inbox/host/x%00", 10).unwrap_err();
    storage.delete("inbox/host/x%00").unwrap();
    assert_eq!((storage.len("inbox/host/x").unwrap(), storage.len("packs/a/b").unwrap()), (1, 4));
}

/// Folders in folders, until no path reaches them.
#[test]
fn folders_that_no_path_reaches_hide_nothing_beside_them() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("repo");
    let storage = LocalStorage::create(&root, false).unwrap();
    storage.put("inbox/host/run/object", Bytes::from_static(b"123")).unwrap();
    storage.put("inbox/host/zzz", Bytes::from_static(b"1")).unwrap();
    let name = "d".repeat(200);
    let mut at: std::os::fd::OwnedFd = std::fs::File::open(root.join("inbox/host")).unwrap().into();
    for _ in 0..40 {
        rustix::fs::mkdirat(&at, &*name, Mode::from_raw_mode(0o700)).unwrap();
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY;
        at = rustix::fs::openat(&at, &*name, flags, Mode::empty()).unwrap();
    }
    let all = listed(&storage, "inbox/host");
    assert_eq!(all.len(), 3, "{all:?}");
    assert!(all.iter().any(|(name, _)| name == "inbox/host/run/object"));
    assert!(all.iter().any(|(name, _)| name == "inbox/host/zzz"));
    let deep = all.iter().find(|(name, _)| name.ends_with('/')).unwrap();
    assert_eq!(storage.delete(&deep.0).unwrap_err().kind, ErrorKind::BadName);
    // Of other folders of a repository, nothing is left out.
    assert!(!is_of_hosts("packs") && !is_of_hosts("inboxes") && is_of_hosts("inbox"));
}
