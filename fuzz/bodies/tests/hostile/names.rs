//! Paths and links that lead astray.

use crate::{Case, NOTHING, case, entry, folder, link, whole};
use engine::entry::{Entry, Kind};
use fuzzing::forge::file;

/// Paths that are none: the decoder refuses them.
pub(crate) fn paths() -> Vec<Case> {
    let long = vec![b'a'; 70_000];
    let bad: [&[u8]; 18] = [
        b"",
        b"/",
        b"/etc/passwd",
        b"..",
        b".",
        b"a/..",
        b"a/../b",
        b"../x",
        b"a//b",
        b"a/",
        b"./a",
        b"a/./b",
        b"a\0b",
        b"\0",
        b"..//..",
        b"a/b/../../../c",
        b"//",
        &long,
    ];
    let kinds = [Kind::File, Kind::Dir, Kind::Symlink, Kind::Fifo];
    let mut cases = vec![];
    for path in bad {
        for kind in kinds {
            let (path, says) =
                (path.to_vec(), if path.len() > 65_536 { "over its limit" } else { "not a path" });
            let shown = String::from_utf8_lossy(&path[..path.len().min(20)]).into_owned();
            cases.push(case(format!("path {shown:?} of a {}", kind.name()), says, move |forge| {
                Ok(vec![forge.records(&whole(entry(&path, kind)))?])
            }));
        }
    }
    cases
}

/// Links that lead out of the target. `check` has nothing to say of most: a link may point anywhere.
pub(crate) fn links() -> Vec<Case> {
    let through = |name: &str, target: &'static str| {
        case(name, "Not a directory", move |forge| {
            let chunks = forge.data(b"overwritten")?;
            Ok(vec![forge.records(&[link("a", target), file("a/canary", chunks)].concat())?])
        })
    };
    vec![
        through("a file through a link to ..", ".."),
        through("a file through a link to ../outside", "../outside"),
        through("a file through a link to a link", "b"),
        through("a file through a link to /tmp", "/tmp"),
        through("a file through a link to /proc/self/cwd", "/proc/self/cwd"),
        case("a folder's metadata through a link", "Not a directory", |forge| {
            Ok(vec![forge.records(&[link("a", "../outside"), folder("a/b")].concat())?])
        }),
        case("a link, then a folder of its name", "out of order", |forge| {
            let chunks = forge.data(b"overwritten")?;
            let records = [link("a", "../outside"), folder("a"), file("a/canary", chunks)].concat();
            Ok(vec![forge.records(&records)?])
        }),
        case("a link, then a file of its name", "out of order", |forge| {
            let chunks = forge.data(b"overwritten")?;
            Ok(vec![forge.records(&[link("a", "../outside/canary"), file("a", chunks)].concat())?])
        }),
        case("a hard link to what a link points to", NOTHING, |forge| {
            let linked = |path: &str, kind| Entry { links: 2, inode: 9, ..entry(path.as_bytes(), kind) };
            let first = Entry { target: b"../outside/canary".to_vec(), ..linked("a", Kind::Symlink) };
            Ok(vec![forge.records(&[whole(first), whole(linked("b", Kind::File))].concat())?])
        }),
    ]
}
