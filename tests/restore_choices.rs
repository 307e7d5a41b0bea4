//! What of a snapshot is restored: by filters, by parts of it, and by choices, which a target honours or refuses.

use crate::harness::{Repo, expect, run};
use crate::restores::{backup_in, files, names, set};
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

#[test]
fn a_path_beside_a_folder_is_relative_to_it_and_so_is_what_is_printed() {
    let repo = Repo::new();
    files(&repo, &[("s/f", "top"), ("s/sub/f", "sub"), ("s/sub/deep/g", "deep"), ("s/other/g", "other")]);
    backup_in(&repo, "s", &["."]);
    for (snapshot, path, content) in [
        ("latest:sub", "f", "sub"),
        ("latest:sub", "/f", "sub"),
        ("latest:/sub/", "./deep//g", "deep"),
        ("latest", "sub/f", "sub"),
        ("latest", "f", "top"),
        ("latest:sub/f", "", "sub"),
    ] {
        assert_eq!(repo.ok(["dump", snapshot, path]), content, "{snapshot} {path}");
    }
    assert_eq!(repo.ok(["dump", "latest:sub/deep/g"]), "deep");
    repo.ok(["restore", "latest:sub", "--target", "o", "--include", "/f"]);
    assert_eq!(names(&repo.path("o")), set(&["f"]));
    assert_eq!(fs::read(repo.path("o/f")).unwrap(), b"sub");
    repo.ok(["restore", "latest:./sub", "--target", "p", "--exclude", "/deep"]);
    assert_eq!(names(&repo.path("p")), set(&["f"]));
    repo.ok(["restore", "latest:sub/f", "--target", "q", "--include", "/f"]);
    assert_eq!(names(&repo.path("q")), set(&["f"]));
    assert_eq!(repo.ok(["ls", "latest:sub"]), "/deep\n/deep/g\n/f\n");
    assert_eq!(repo.ok(["ls", "latest:/sub/", "/deep"]), "/deep\n/deep/g\n");
    assert_eq!(repo.ok(["ls", "latest:sub/f"]), "/f\n");
    assert_eq!(repo.ok(["ls", "latest", "sub/f", "f"]), "/f\n/sub/f\n");
    let found = repo.ok(["find", "-s", "latest:sub", "/f", "g"]);
    assert!(found.ends_with("\n/deep/g\n/f\n"), "{found}");
    let diff = repo.ok(["diff", "latest:sub", "latest:other"]);
    assert!(diff.starts_with("-    /deep/\n-    /deep/g\n-    /f\n+    /g\n"), "{diff}");
    for command in [
        vec!["dump", "latest", "/nope"],
        vec!["dump", "latest:sub", "other/g"],
        vec!["ls", "latest:sub", "other"],
        vec!["ls", "latest:nope"],
        vec!["find", "-s", "latest:nope", "f"],
    ] {
        let text = repo.fails(1, command);
        let id = repo.json(["snapshots"])[0]["short_id"].as_str().unwrap().to_owned();
        assert!(text.contains(&format!("is not in snapshot {id}")), "{text}");
    }
    let text = repo.fails(1, ["diff", "latest:sub", "latest:nope"]);
    assert!(text.contains("'/nope' is not in the second snapshot"), "{text}");
    let text = repo.fails(1, ["restore", "latest:nope", "--target", "r"]);
    assert!(text.contains("'/nope' is not in snapshot ") && !repo.path("r").exists(), "{text}");
}

#[test]
fn an_include_that_fits_nothing_is_named_before_anything_is_written() {
    let repo = Repo::new();
    files(&repo, &[("s/a", "1"), ("s/#recycle/x", "x"), ("s/b ", "b")]);
    backup_in(&repo, ".", &["s"]);
    fs::write(repo.path("list"), "# what\n\n/s/a\nghost\n").unwrap();
    for words in [
        vec!["--include", "a", "--include", "ghost"],
        vec!["--include", "/a"],
        vec!["--iinclude", "GHOST"],
        vec!["--include-file", "list"],
        vec!["--include", "b"],
    ] {
        let mut all = vec!["restore", "latest", "--target", "o"];
        all.extend(&words);
        let text = repo.fails(1, &all);
        assert!(text.contains("fits nothing"), "{text}");
        assert!(!repo.path("o").exists());
    }
    repo.ok([
        "restore",
        "latest",
        "--target",
        "o",
        "--include",
        "#recycle",
        "--include",
        "b ",
        "-e",
        "ghost",
    ]);
    assert_eq!(names(&repo.path("o")), set(&["s", "s/#recycle", "s/#recycle/x", "s/b "]));
}

#[test]
fn folders_above_an_include_come_back_with_their_own_metadata() {
    let repo = Repo::new();
    files(&repo, &[("s/foo/bar/what", "1")]);
    let (root, foo) = (rustix::process::geteuid().is_root(), repo.path("s/foo"));
    fs::set_permissions(&foo, fs::Permissions::from_mode(0o750)).unwrap();
    if root {
        run("chown", &["1234:2345", foo.to_str().unwrap()]);
    }
    run("touch", &["-d", "2020-01-01", foo.to_str().unwrap()]);
    backup_in(&repo, ".", &["s"]);
    repo.ok(["restore", "latest", "--target", "o", "--include", "what"]);
    let of = |path: &Path| {
        let metadata = fs::metadata(path).unwrap();
        (metadata.mode(), metadata.uid(), metadata.gid(), metadata.mtime())
    };
    assert_eq!(of(&repo.path("o/s/foo")), of(&foo));
    // One that is there is not what was asked for: it stays as it is.
    fs::create_dir_all(repo.path("p/s/foo")).unwrap();
    let before = of(&repo.path("p/s/foo"));
    repo.ok(["restore", "latest", "--target", "p", "--include", "what"]);
    let after = of(&repo.path("p/s/foo"));
    assert_eq!((before.0, before.1, before.2), (after.0, after.1, after.2));
}

#[test]
fn names_that_are_not_utf_8_are_roots_too() {
    let repo = Repo::new();
    let name = |bytes: &[u8]| repo.dir.path().join(std::ffi::OsStr::from_bytes(bytes));
    for folder in [&b"M\xfcller"[..], b"M\xf6ller"] {
        fs::create_dir(name(folder)).unwrap();
        fs::write(name(folder).join("f"), folder).unwrap();
    }
    let output = repo.command(["backup", "-q"]).arg(name(b"M\xfcller")).output().unwrap();
    expect(&output, 0);
    let inside = repo.path("o").join(repo.dir.path().strip_prefix("/").unwrap());
    for folder in [&b"M\xfcller"[..], b"M\xf6ller"] {
        let folder = inside.join(std::ffi::OsStr::from_bytes(folder));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("old"), "old").unwrap();
    }
    repo.ok(["restore", "latest", "--target", "o", "--delete"]);
    assert!(!inside.join(std::ffi::OsStr::from_bytes(b"M\xfcller")).join("old").exists());
    assert!(inside.join(std::ffi::OsStr::from_bytes(b"M\xf6ller")).join("old").exists());
}

/// What is restored, by which filter, which files that gives: also a table of docs/filters.md.
const RESTORED: &[(&str, &str, &str)] = &[
    ("latest", "--include a.txt", "src/Notes/a.txt, src/a.txt"),
    ("latest", "--include /src/a.txt", "src/a.txt"),
    ("latest", "--include /a.txt", "an error: it fits nothing"),
    ("latest:src", "--include /a.txt", "a.txt"),
    ("latest:src", "--include Notes/a.txt", "Notes/a.txt"),
    ("latest:src", "--include deep", "Notes/deep/b.log"),
    ("latest:src", "--iinclude notes", "Notes/a.txt, Notes/deep/b.log"),
    ("latest:src", "--include Notes --exclude *.log", "Notes/a.txt"),
    ("latest:src", "--exclude /Notes", "#x, a.txt"),
    ("latest:src", "--include #x", "#x"),
    ("latest:src/Notes", "--exclude /deep", "a.txt"),
    ("latest:src/Notes", "--include /Notes", "an error: it fits nothing"),
    ("latest:src/a.txt", "--include /a.txt", "a.txt"),
];

/// Commands, and what of the same tree they name: also a table of docs/filters.md.
const NAMED: &[(&str, &str)] = &[
    ("dump latest src/Notes/a.txt", "src/Notes/a.txt"),
    ("dump latest:src Notes/a.txt", "src/Notes/a.txt"),
    ("dump latest:src/Notes /a.txt", "src/Notes/a.txt"),
    ("dump latest:src/a.txt", "src/a.txt"),
    ("ls latest:src/Notes", "/a.txt, /deep, /deep/b.log"),
    ("ls latest:src /Notes/deep", "/Notes/deep, /Notes/deep/b.log"),
    ("find -s latest:src/Notes /a.txt", "/a.txt"),
    ("diff latest:src/Notes latest:src/Notes/deep", "/a.txt, /b.log, /deep/, /deep/b.log"),
];

#[test]
fn filters_are_relative_to_what_the_page_says() {
    let repo = Repo::new();
    let all = ["src/a.txt", "src/#x", "src/Notes/a.txt", "src/Notes/deep/b.log"];
    files(&repo, &all.map(|name| (name, name)));
    backup_in(&repo, ".", &["src"]);
    let mut page = String::new();
    for (number, (snapshot, filter, expected)) in RESTORED.iter().enumerate() {
        let target = format!("o{number}");
        let mut words = vec!["restore", snapshot, "--target", &target];
        words.extend(filter.split(' '));
        let output = repo.run(&words);
        let given = match output.status.code() {
            Some(0) => {
                let all = names(&repo.path(&target)).into_iter();
                let all: Vec<String> = all.filter(|name| repo.path(&target).join(name).is_file()).collect();
                all.join(", ")
            }
            _ => {
                assert!(String::from_utf8_lossy(&output.stderr).contains("fits nothing"));
                "an error: it fits nothing".to_owned()
            }
        };
        assert_eq!(given, *expected, "{snapshot} {filter}");
        page += &format!("| `{snapshot}` | `{filter}` | {expected} |\n");
    }
    let mut second = String::new();
    for (command, expected) in NAMED {
        let said = repo.ok(command.split(' '));
        let lines =
            said.lines().filter(|line| !line.starts_with("snapshot ") && !line.contains(" changed, "));
        let paths: Vec<&str> = lines.map(|line| line.trim_start_matches(['+', '-', ' '])).collect();
        assert_eq!(paths.join(", "), *expected, "{command}");
        second += &format!("| `{command}` | {expected} |\n");
    }
    let there = fs::read_to_string(crate::harness::source_root().join("docs/filters.md")).unwrap();
    for table in [page, second] {
        assert!(there.contains(&table), "docs/filters.md should have:\n{table}");
    }
}

/// Of each choice: words that give it, and the targets that take it: a folder, a data directory, Redis, PostgreSQL,
/// MariaDB, Qdrant.
const CHOICES: &[(&str, &str)] = &[
    ("--include a", "f.r..q"),
    ("--iinclude a", "f....."),
    ("--include-file list", "f....."),
    ("--iinclude-file list", "f....."),
    ("--exclude a", "f....q"),
    ("--iexclude a", "f....."),
    ("--exclude-file list", "f....."),
    ("--iexclude-file list", "f....."),
    ("--overwrite never", "f....."),
    ("--overwrite if-changed", "f....."),
    ("--overwrite if-newer", "f....."),
    ("--delete", "f....."),
    ("--delete --delete-excluded", "f....."),
    ("--delete-excluded", "......"),
    ("--dry-run", "fdrpmq"),
    ("--sparse", "f....."),
    ("--verify", "f....."),
    ("--wait-thaw", "fdrpmq"),
    ("--no-owner", "f..p.."),
    ("--db 0", "..r..."),
    ("--keys-from list", "..r..."),
    ("--map-prefix a=b", "..r..."),
    ("--map-prefix a", "......"),
    ("--whole --db 0", "......"),
    ("--whole --map-prefix a=b", "......"),
    ("--replace", ".drpmq"),
    ("--standby host=a", ".d...."),
    ("--standby host=a --time 2026-01-01T00:00:00Z", "......"),
    ("--standby a", "......"),
    ("--database a", "...pm."),
    ("--table a.b", "...pm."),
    ("--tablespace-map a=b", "...p.."),
    ("--jobs 4", "...p.."),
    ("--jobs 0", "......"),
    ("--jobs 4 --table a.b", "......"),
    ("--no-tablespaces", "...pm."),
    ("--rename a=b", ".....q"),
    ("--priority replica", ".....q"),
    ("--allow-missing-shards", ".....q"),
    ("--skip-existing", "..r..."),
    ("--whole", "..r..."),
    ("--base-only", "..r.m."),
    ("--whole --no-safety-snapshot", "..r..."),
    ("--whole --yes", "..r..."),
    ("--whole --unproven", "..r..."),
    ("--replace --unproven", "..r..."),
    ("--unproven", "......"),
    ("--delete --yes", "f....."),
    ("--time 2026-01-01T00:00:00Z", "?dr.m."),
    ("--yes", "......"),
    ("--verify --dry-run", "......"),
];

#[test]
fn each_choice_is_honoured_or_refused() {
    // Where there is no repository: what is not refused fails with another code.
    let repo = Repo::empty();
    fs::write(repo.path("list"), "a\n").unwrap();
    let targets = [
        "--target o",
        "--target o --prepare",
        "--to redis://127.0.0.1:1",
        "--to postgres://postgres@127.0.0.1:1",
        "--to mysql://root@127.0.0.1:1",
        "--to qdrant+http://127.0.0.1:1",
    ];
    for (words, takers) in CHOICES {
        for (target, taker) in targets.iter().zip(takers.chars()) {
            let line = format!("restore latest {target} {words}");
            let output = repo.run(line.split(' '));
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            match taker {
                // Another target by then.
                '?' => {}
                // Usage, or our own word, before a repository is looked for.
                '.' => {
                    assert_eq!(output.status.code(), Some(2), "{line}: {said}");
                    assert!(!said.contains("no repository"), "{line}: {said}");
                }
                _ => assert_eq!(output.status.code(), Some(10), "{line}: {said}"),
            }
        }
    }
    for to in ["http://h", "nowhere", "qdrant://h"] {
        let text = repo.fails(2, ["restore", "latest", "--to", to]);
        assert!(text.contains("--to takes "), "{text}");
    }
    for url in ["mysql://root@127.0.0.1:1/target", "postgres://postgres@127.0.0.1:1/target"] {
        let two = ["--database", "a", "--database", "b"];
        let text = repo.fails(2, ["restore", "latest", "--to", url].iter().chain(&two));
        assert!(text.contains("do not go into one"), "{text}");
        repo.fails(10, ["restore", "latest", "--to", url].iter().chain(&two[..2]).chain(&two[..2]));
    }
}

/// An RDB file (version 9, checksum 0: none) with one key in database 0.
fn one_key(repo: &Repo) -> String {
    let path = repo.path("dump.rdb");
    fs::write(&path, b"REDIS0009\xfe\x00\x00\x01k\x01v\xff\0\0\0\0\0\0\0\0").unwrap();
    format!("redis+rdb://{}", path.display())
}

#[test]
fn latest_for_a_server_is_the_latest_that_has_something_for_it() {
    let repo = Repo::new();
    repo.ok(["backup", "-q", &one_key(&repo)]);
    let id = repo.json(["snapshots"])[0]["short_id"].as_str().unwrap().to_owned();
    files(&repo, &[("s/f", "1")]);
    backup_in(&repo, ".", &["s"]);
    let output = repo.run(["restore", "latest", "--to", "redis://127.0.0.1:1"]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains(&format!("snapshot {id} of ")), "{said} {output:?}");
    let text = repo.fails(1, ["restore", "latest", "--to", "qdrant+http://127.0.0.1:1"]);
    assert!(text.contains("Qdrant") || text.contains("collection"), "{text}");
}

#[test]
fn a_dump_of_standard_input_is_not_for_a_server_and_its_way_out_is_named() {
    let repo = Repo::new();
    let dump =
        b"-- PostgreSQL database dump\n\nSELECT 1;\n\n--\n-- PostgreSQL database dump complete\n--\n\n";
    expect(&repo.feed(["backup", "--stdin", "--stdin-filename", "shop.sql"], dump), 0);
    for to in ["postgres://postgres@127.0.0.1:1", "mysql://root@127.0.0.1:1"] {
        let text = repo.fails(1, ["restore", "latest", "--to", to]);
        assert!(text.contains("'esker dump SNAPSHOT PATH'"), "{text}");
    }
    assert_eq!(repo.ok(["dump", "latest", "shop.sql"]).as_bytes(), dump);
}
