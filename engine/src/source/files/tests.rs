//! The walk in itself: what is named comes, what is excluded does not, what changes meanwhile is looked at again.

use super::*;
use crate::entry::{compare_paths, display_path};
use crate::monitor::Tally;
use crate::source::{Piece, SourceErrorKind};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::symlink;

fn patterns(list: &[&str]) -> Patterns {
    Patterns::parse(list, "--exclude", false).unwrap()
}

fn source(paths: &[&Path], options: FilesOptions, tally: &Tally) -> FilesSource {
    let paths: Vec<PathBuf> = paths.iter().map(|path| path.to_path_buf()).collect();
    FilesSource::new(&paths, options, tally).unwrap()
}

/// What comes of an item's content.
fn read(item: Item) -> Result<Option<Vec<u8>>, SourceErrorKind> {
    let Some(open) = item.content else { return Ok(None) };
    let mut content = open().map_err(|error| error.kind)?;
    let (mut bytes, mut buffer) = (vec![], vec![0; 1 << 20]);
    loop {
        match content.read(&mut buffer).map_err(|error| error.kind)? {
            Piece::Data(len) => bytes.extend_from_slice(&buffer[..len]),
            Piece::End => return Ok(Some(bytes)),
            _ => {}
        }
    }
}

/// Every entry by its path, with its content; the order and the folders above each are proved.
fn walk(source: &mut FilesSource, tally: &Tally) -> BTreeMap<Vec<u8>, (Kind, Option<Vec<u8>>)> {
    let mut found = BTreeMap::new();
    let mut last = vec![];
    while let Some(item) = source.next_item(tally).unwrap() {
        let (path, kind) = (item.entry.path.clone(), item.entry.kind);
        let shown = display_path(&path);
        assert!(last.is_empty() || compare_paths(&last, &path).is_lt(), "{shown} comes after {last:?}");
        if let Some(end) = path.iter().rposition(|byte| *byte == b'/') {
            let above = found.get(&path[..end]).map(|(kind, _): &(Kind, _)| *kind);
            assert_eq!(above, Some(Kind::Dir), "no folder above {shown}");
        }
        last.clone_from(&path);
        found.insert(path, (kind, read(item).unwrap()));
    }
    found
}

fn listed(source: &mut FilesSource, tally: &Tally) -> Vec<String> {
    walk(source, tally).into_keys().map(|path| display_path(&path)).collect()
}

/// A folder with these files, each of which says its own path; a path with a slash at its end is a folder.
fn tree(paths: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for path in paths {
        let path = folder.path().join(path);
        if path.as_os_str().to_str().unwrap().ends_with('/') {
            fs::create_dir_all(&path).unwrap();
        } else {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, path.to_str().unwrap()).unwrap();
        }
    }
    folder
}

#[test]
fn a_named_path_is_saved_whatever_fits_it() {
    let folder = tree(&["s/c/w/x", "s/c/w/y.tmp", "s/c/no", "s/big.tmp", "s/m/.nb", "s/m/in/z"]);
    let at = |path: &str| folder.path().join(path);
    let tally = Tally::default();
    let options = FilesOptions {
        excludes: patterns(&["s/c", "*.tmp", "never"]),
        exclude_larger_than: Some(3),
        exclude_if_present: vec![Marker::parse(b".nb").unwrap()],
        ..FilesOptions::default()
    };
    let named = ["s", "s/c/w", "s/big.tmp", "s/m/in"].map(at);
    let mut source = FilesSource::new(&named, options, &tally).unwrap();
    let base = display_path(folder.path().as_os_str().as_encoded_bytes().strip_prefix(b"/").unwrap());
    let found: Vec<String> = listed(&mut source, &tally)
        .into_iter()
        .filter_map(|path| path.strip_prefix(&base).map(str::to_owned))
        .filter(|path| !path.is_empty())
        .collect();
    // Beneath what was named the filters hold: all files are larger than 3 bytes.
    assert_eq!(found, ["/s", "/s/big.tmp", "/s/c", "/s/c/w", "/s/m", "/s/m/in"]);
    assert!(tally.errors().is_empty());
    let notes = tally.notes().join("\n");
    assert!(notes.contains("big.tmp' was named and is saved"), "{notes}");
    assert!(notes.contains("pattern 'never' (--exclude) fitted nothing"), "{notes}");
    assert!(!notes.contains("'*.tmp'"), "{notes}");
}

#[test]
fn a_named_path_behind_a_link_of_another_one_is_saved_where_the_link_leads() {
    let folder = tree(&["data/f", "other/sub/g", "other/h"]);
    let at = |path: &str| folder.path().join(path);
    symlink(at("other"), at("data/link")).unwrap();
    let tally = Tally::default();
    let found =
        walk(&mut source(&[&at("data"), &at("data/link/sub")], FilesOptions::default(), &tally), &tally);
    let get = |path: &str| found.get(at(path).strip_prefix("/").unwrap().as_os_str().as_encoded_bytes());
    assert_eq!(get("data/link").unwrap().0, Kind::Symlink);
    assert_eq!(
        get("other/sub/g").unwrap().1.as_deref(),
        Some(at("other/sub/g").as_os_str().as_encoded_bytes())
    );
    assert!(get("other/h").is_none() && get("data/f").is_some());
    assert!(tally.notes().iter().any(|note| note.contains("is behind the symbolic link")));
    // Named with a slash, the link stands for the folder.
    let tally = Tally::default();
    let slash = PathBuf::from(format!("{}/", at("data/link").display()));
    let found = walk(&mut source(&[&at("data"), &slash], FilesOptions::default(), &tally), &tally);
    let get = |path: &str| found.get(at(path).strip_prefix("/").unwrap().as_os_str().as_encoded_bytes());
    assert_eq!(get("data/link").unwrap().0, Kind::Dir);
    assert!(get("data/link/sub/g").is_some() && get("data/link/h").is_some());
    // Without one, it is said what is missing.
    let tally = Tally::default();
    walk(&mut source(&[&at("data/link")], FilesOptions::default(), &tally), &tally);
    assert!(tally.notes().iter().any(|note| note.contains("is a symbolic link")), "{:?}", tally.notes());
}

#[test]
fn what_vanishes_is_counted_and_what_is_replaced_is_looked_at_again() {
    let folder = tree(&["s/a", "s/b", "s/c", "s/d", "s/e", "s/f/g"]);
    let at = |path: &str| folder.path().join("s").join(path);
    let tally = Tally::default();
    let root = folder.path().join("s");
    let mut source = source(&[&root], FilesOptions::default(), &tally);
    let next = |source: &mut FilesSource| loop {
        let item = source.next_item(&tally).unwrap().unwrap();
        if !item.leads && !item.entry.path.ends_with(b"/s") {
            return item;
        }
    };
    // Gone between the look and the read.
    let a = next(&mut source);
    fs::remove_file(at("a")).unwrap();
    assert_eq!(read(a), Err(SourceErrorKind::Vanished));
    // Gone between the listing and the look.
    fs::remove_file(at("b")).unwrap();
    let c = next(&mut source);
    assert!(c.entry.path.ends_with(b"/c"));
    assert_eq!(tally.get(Counter::Vanished), 1);
    // Another file of that name.
    fs::write(at("new"), "another one").unwrap();
    fs::rename(at("new"), at("c")).unwrap();
    assert_eq!(read(c), Err(SourceErrorKind::Replaced));
    assert!(tally.errors().is_empty(), "{:?}", tally.errors());
    let again = source.look_again(&tally).unwrap().unwrap();
    assert_eq!((again.entry.size, read(again).unwrap().unwrap()), (11, b"another one".to_vec()));
    // A link, a pipe and a folder.
    let d = source.next_item(&tally).unwrap().unwrap();
    fs::remove_file(at("d")).unwrap();
    symlink("e", at("d")).unwrap();
    assert_eq!(read(d), Err(SourceErrorKind::Replaced));
    assert_eq!(source.look_again(&tally).unwrap().unwrap().entry.target, b"e");
    let e = source.next_item(&tally).unwrap().unwrap();
    fs::remove_file(at("e")).unwrap();
    fs::create_dir(at("e")).unwrap();
    fs::write(at("e/inside"), "inside").unwrap();
    assert_eq!(read(e), Err(SourceErrorKind::Replaced));
    assert_eq!(source.look_again(&tally).unwrap().unwrap().entry.kind, Kind::Dir);
    let inside = source.next_item(&tally).unwrap().unwrap();
    assert_eq!(read(inside).unwrap().unwrap(), b"inside");
    // A folder that is a file when its content is come to.
    let f = source.next_item(&tally).unwrap().unwrap();
    assert_eq!(f.entry.kind, Kind::Dir);
    fs::remove_dir_all(at("f")).unwrap();
    fs::write(at("f"), "a file").unwrap();
    assert!(source.next_item(&tally).unwrap().is_none());
    assert_eq!(tally.get(Counter::Vanished), 2);
    assert!(tally.errors().is_empty(), "{:?}", tally.errors());
}

#[test]
fn a_named_path_does_not_vanish_without_a_word() {
    let folder = tree(&["a", "b"]);
    let (a, b) = (folder.path().join("a"), folder.path().join("b"));
    let tally = Tally::default();
    let mut source = source(&[&a, &b], FilesOptions::default(), &tally);
    let item = loop {
        let item = source.next_item(&tally).unwrap().unwrap();
        if !item.leads {
            break item;
        }
    };
    fs::remove_file(&a).unwrap();
    fs::remove_file(&b).unwrap();
    assert_eq!(read(item), Err(SourceErrorKind::Item));
    assert!(source.next_item(&tally).unwrap().is_none());
    assert_eq!(tally.errors().len(), 1);
    assert!(tally.errors()[0].item.ends_with("/b"));
}

#[test]
fn attributes_that_cannot_be_read_are_named() {
    // Longer than the kernel takes: every call fails.
    let (xattrs, failures) = read_xattrs(Path::new(&"x/".repeat(4096)));
    assert!(xattrs.is_empty() && failures.len() == 1 && failures[0].contains("attributes"), "{failures:?}");
    assert_eq!(read_xattrs(Path::new("/nowhere/at/all")), (vec![], vec![]));
}

#[test]
fn files_of_the_kernel_are_read_in_pieces_that_it_gives() {
    let tally = Tally::default();
    let path = Path::new("/proc/sys/kernel/hostname");
    let mut source = source(&[path], FilesOptions::default(), &tally);
    loop {
        let item = source.next_item(&tally).unwrap().unwrap();
        let Some(open) = item.content else { continue };
        let mut content = open().unwrap();
        let mut buffer = vec![0; 64 << 20];
        let Piece::Data(len) = content.read(&mut buffer).unwrap() else { panic!("no data") };
        assert_eq!(&buffer[..len], fs::read(path).unwrap());
        assert_eq!(content.read(&mut buffer).unwrap(), Piece::End);
        return;
    }
}

#[test]
fn our_own_folders_are_left_out_and_said_by_whatever_path() {
    let folder = tree(&["s/repo/packs/p", "s/f"]);
    let at = |path: &str| folder.path().join(path);
    symlink(at("s/repo"), at("way")).unwrap();
    let own = |is_store| vec![Own::at(&at("way"), "the repository", is_store).unwrap()];
    let tally = Tally::default();
    let options = FilesOptions { own: own(true), ..FilesOptions::default() };
    let found = listed(&mut source(&[&at("s")], options.clone(), &tally), &tally);
    assert!(
        !found.iter().any(|path| path.contains("repo")) && found.iter().any(|path| path.ends_with("/s/f"))
    );
    assert!(tally.notes()[0].ends_with("/s/repo' is the repository and left out"), "{:?}", tally.notes());
    for named in ["s/repo", "s/repo/packs", "way/packs/p", "way/"] {
        let error = FilesSource::new(&[at("s"), at(named)], options.clone(), &tally).err().unwrap();
        assert!(error.to_string().contains("the repository itself"), "{named}: {error}");
    }
    // A cache that is named is saved like anything else.
    let options = FilesOptions { own: own(false), ..FilesOptions::default() };
    let found = listed(&mut source(&[&at("s/repo/packs")], options, &tally), &tally);
    assert!(found.iter().any(|path| path.ends_with("/packs/p")));
}

#[test]
fn markers() {
    let folder = tree(&["a/x", "b/x"]);
    fs::write(folder.path().join("a/.nb"), "no backup please").unwrap();
    let is_in =
        |text: &str, name: &str| Marker::parse(text.as_bytes()).unwrap().is_in(&folder.path().join(name));
    assert!(is_in(".nb", "a") && is_in(".nb:no backup", "a") && !is_in(".nb:yes", "a") && !is_in(".nb", "b"));
    for text in ["", "a/b", ":x", "..", "."] {
        assert!(Marker::parse(text.as_bytes()).is_err(), "{text}");
    }
}

/// What a random tree has at one path.
#[derive(Clone, Debug)]
enum Thing {
    Folder,
    File,
    /// To the folder of this number, if there is one.
    Link(usize),
}

const NAMES: [&[u8]; 8] = [b"a", b"b", b"a.log", b"-x", b"x y", b"M\xfcller", b".nb", b"#r"];

fn things() -> impl Strategy<Value = Vec<(Vec<usize>, Thing)>> {
    let thing = prop_oneof![
        3 => Just(Thing::Folder),
        4 => Just(Thing::File),
        1 => (0..8_usize).prop_map(Thing::Link)
    ];
    prop::collection::vec((prop::collection::vec(0..NAMES.len(), 1..4), thing), 1..24)
}

fn make(folder: &Path, things: &[(Vec<usize>, Thing)]) -> Vec<PathBuf> {
    use std::os::unix::ffi::OsStrExt as _;
    let mut folders = vec![folder.to_owned()];
    let mut all = vec![folder.to_owned()];
    for (names, thing) in things {
        let mut path = folder.to_owned();
        names.iter().for_each(|name| path.push(std::ffi::OsStr::from_bytes(NAMES[*name])));
        let parent = path.parent().unwrap();
        if fs::create_dir_all(parent).is_err() || fs::symlink_metadata(&path).is_ok() {
            continue;
        }
        let made = match thing {
            Thing::Folder => fs::create_dir(&path),
            // Its one real path, although it may be made through a link.
            Thing::File => {
                let real = parent.canonicalize().unwrap().join(path.file_name().unwrap());
                fs::write(&path, real.as_os_str().as_bytes())
            }
            Thing::Link(number) => symlink(&folders[number % folders.len()], &path),
        };
        made.unwrap();
        if matches!(thing, Thing::Folder) {
            folders.push(path.clone());
        }
        all.push(path);
    }
    all
}

/// The files that a named path means: an independent telling of the rules.
fn meant(
    path: &Path,
    named: bool,
    follow: bool,
    leave: &dyn Fn(&Path, bool) -> bool,
    into: &mut BTreeSet<PathBuf>,
) {
    let metadata = if follow { fs::metadata(path) } else { fs::symlink_metadata(path) }.unwrap();
    if !named && leave(path, metadata.is_dir()) {
        return;
    }
    if metadata.is_file() {
        into.insert(path.canonicalize().unwrap());
    }
    if metadata.is_dir() && (named || path.join(".nb").symlink_metadata().is_err()) {
        for entry in fs::read_dir(path).unwrap() {
            meant(&entry.unwrap().path(), false, false, leave, into);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Whatever is named, in whatever spelling and order, and whatever is left out: exactly what is meant is saved.
    #[test]
    fn exactly_what_is_meant_is_saved(
        things in things(),
        roots in prop::collection::vec((any::<prop::sample::Index>(), 0..5_u8), 1..5),
        name in prop::option::of(0..NAMES.len()),
        only_folders: bool,
    ) {
        use std::os::unix::ffi::OsStrExt as _;
        let folder = tempfile::tempdir().unwrap();
        let top = folder.path().canonicalize().unwrap().join("t");
        fs::create_dir(&top).unwrap();
        let all = make(&top, &things);
        let left_out = name.map(|name| NAMES[name]);
        let mut named = vec![];
        let mut expected = BTreeSet::new();
        let leave = |path: &Path, is_dir: bool| {
            left_out.is_some_and(|name| path.file_name().unwrap().as_bytes() == name && (is_dir || !only_folders))
        };
        for (index, spelling) in roots {
            let path = index.get(&all).clone();
            let spelled = match spelling {
                0 if path.is_dir() => [path.as_os_str().as_bytes(), b"/"].concat(),
                1 if path.is_dir() => [path.as_os_str().as_bytes(), b"//."].concat(),
                2 => [top.as_os_str().as_bytes(), b"/./..//", path.strip_prefix(top.parent().unwrap()).unwrap().as_os_str().as_bytes()].concat(),
                _ => path.as_os_str().as_bytes().to_vec(),
            };
            let follow = spelled.ends_with(b"/") || spelled.ends_with(b"/.");
            meant(&path, true, follow, &leave, &mut expected);
            named.push(PathBuf::from(std::ffi::OsString::from_vec(spelled)));
        }
        let mut list = vec![];
        if let Some(name) = left_out {
            let escaped = if name == b"#r" { b"\\#r".to_vec() } else { name.to_vec() };
            let text = if only_folders { [&escaped[..], b"/"].concat() } else { escaped };
            list.push(crate::patterns::Pattern::parse(&text, "here", false).unwrap());
        }
        let options = FilesOptions {
            excludes: Patterns::new(list),
            exclude_if_present: vec![Marker::parse(b".nb").unwrap()],
            ..FilesOptions::default()
        };
        let tally = Tally::default();
        let mut source = FilesSource::new(&named, options, &tally).unwrap();
        let scan = source.scanner().unwrap();
        let found = walk(&mut source, &tally);
        let contents: BTreeSet<PathBuf> = found
            .values()
            .filter_map(|(_, content)| content.clone())
            .map(|content| PathBuf::from(std::ffi::OsString::from_vec(content)))
            .collect();
        prop_assert_eq!(contents, expected, "named {:?}, left out {:?}", named, left_out);
        prop_assert!(tally.errors().is_empty(), "{:?}", tally.errors());
        // The count for the progress is the same walk.
        let counted = Tally::default();
        scan(&counted, &AtomicBool::new(false));
        prop_assert_eq!(counted.get(Counter::FilesTotal), found.len() as u64);
    }
}
