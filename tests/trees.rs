//! Trees in and out, compared by programs that share no code with esker: find, sha256sum, getfattr.

use crate::harness::{Repo, expect, noise, run, settle};
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::Command;

/// Makes a tree with every kind of thing that Linux has.
pub(crate) fn odd_tree(root: &Path) {
    fs::create_dir_all(root.join("deep/er/still")).unwrap();
    fs::write(root.join("empty"), b"").unwrap();
    fs::write(root.join("one"), b"1").unwrap();
    fs::write(root.join("deep/er/large"), noise(5, 3_000_000)).unwrap();
    fs::write(root.join("zeros"), vec![0; 1_000_000]).unwrap();
    fs::write(root.join(std::ffi::OsStr::from_bytes(b"not utf-8 \xff\xfe")), b"bytes").unwrap();
    fs::write(root.join("new\nline and \"quotes\""), b"x").unwrap();
    fs::write(root.join("a".repeat(255)), b"long").unwrap();
    for number in 0..300 {
        fs::write(root.join(format!("deep/small-{number}")), format!("file {number}\n")).unwrap();
    }
    let script = r#"
        set -e
        ln one hard-1; ln one deep/hard-2
        ln -s /nowhere/at/all dangling; ln -s deep/er link-to-folder; ln -s one link
        mkfifo pipe
        truncate -s 5000000 hole-only
        dd if=/dev/urandom of=sparse bs=4096 count=3 seek=500 status=none; truncate -s 8000000 sparse
        dd if=/dev/urandom of=sparse bs=4096 count=2 seek=10 conv=notrunc status=none
        chmod 4755 one; chmod 1777 deep; chmod 0000 empty; chmod 2750 deep/er
        setfattr -n user.comment -v 'an attribute' deep/er/large
        setfattr -n user.empty -v '' deep
        setfacl -m u:daemon:r deep/small-1 2>/dev/null || setfattr -n user.noacl -v 1 deep/small-1
        setfacl -d -m g:daemon:rx deep/er 2>/dev/null || true
        touch -d '1965-04-03 02:01:00.123456789' deep/small-2
        touch -d '2040-01-01 00:00:00.000000001' deep/small-3
        if [ "$(id -u)" = 0 ]; then
            chown 12345:23456 deep/small-4; chown -h 1:1 link; mknod null c 1 3; mknod loop b 7 99
            chown daemon deep/er/still
        fi
        touch -h -d '2001-02-03 04:05:06.7' link
        touch -d '2002-02-03 04:05:06.7' deep/er
    "#;
    expect(&Command::new("sh").args(["-c", script]).current_dir(root).output().unwrap(), 0);
}

/// Everything there is to know about a tree, as text.
pub(crate) fn describe(root: &Path) -> String {
    let script = r#"
        set -e
        find . -printf '%P|%y|%m|%U|%G|%T@|%l|%n|' \( -type f -printf '%s' -o -type d -o -printf '' \) -printf '\n' | LC_ALL=C sort
        find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum
        find . \( -type f -o -type d \) -print0 | LC_ALL=C sort -z | xargs -0 getfattr -h -d -m - -e hex
        find . \( -type b -o -type c \) -print0 | LC_ALL=C sort -z | xargs -0 -r stat -c '%n %t %T'
        find . -type f -links +1 -printf '%i %P\n' | LC_ALL=C sort -k2 | awk '{ if (!($1 in seen)) seen[$1] = $2; print "link", seen[$1], $2 }'
    "#;
    let output = Command::new("sh").args(["-c", script]).current_dir(root).output().unwrap();
    expect(&output, 0)
}

/// Blocks on disk, which tell whether holes stayed holes.
fn blocks(root: &Path, name: &str) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    fs::metadata(root.join(name)).unwrap().blocks()
}

/// Backs a tree up, restores it, compares.
pub(crate) fn tree_round_trip(repo: &Repo) {
    let source = repo.path("source");
    odd_tree(&source);
    let before = describe(&source);
    repo.ok(["backup", source.to_str().unwrap()]);
    repo.ok(["restore", "latest", "--target", "out", "--verify"]);
    let restored = repo.path("out").join(source.strip_prefix("/").unwrap());
    let after = describe(&restored);
    similar(&before, &after);
    for name in ["hole-only", "sparse"] {
        assert!(blocks(&restored, name) <= blocks(&source, name) + 16, "{name}: holes were filled");
    }
    assert_eq!(describe(&source), before, "the backup changed the source");
}

/// Compares line by line, so that a difference can be read.
pub(crate) fn similar(before: &str, after: &str) {
    for (left, right) in before.lines().zip(after.lines()) {
        assert_eq!(left, right);
    }
    assert_eq!(before.lines().count(), after.lines().count());
}

#[test]
fn everything_comes_back() {
    tree_round_trip(&Repo::new());
}

#[test]
fn relative_paths_and_parts() {
    let repo = Repo::new();
    odd_tree(&repo.path("source"));
    repo.ok(["backup", "source", "--tag", "a,b"]);
    repo.ok(["restore", "latest", "--target", "whole"]);
    similar(&describe(&repo.path("source")), &describe(&repo.path("whole/source")));
    repo.ok(["restore", "latest:source/deep", "--target", "part"]);
    similar(&describe(&repo.path("source/deep/er")), &describe(&repo.path("part/er")));
    repo.ok(["restore", "latest", "--target", "some", "--include", "small-1*", "--exclude", "small-11*"]);
    let found = run("sh", &["-c", &format!("cd {} && find . -type f | wc -l", repo.path("some").display())]);
    // small-1, small-10, 12..19, 100..109, 120..199
    assert_eq!(found.trim(), "100");
    repo.fails(1, ["restore", "latest:no/such/path", "--target", "none"]);
    repo.ok(["restore", "latest:source/deep/er/large", "--target", "file"]);
    assert_eq!(fs::read(repo.path("file/large")).unwrap(), noise(5, 3_000_000));
}

#[test]
fn unchanged_files_are_not_read_and_changed_ones_are_found() {
    let repo = Repo::new();
    odd_tree(&repo.path("source"));
    settle();
    let first = repo.json(["backup", "source"]);
    let files = first["files_new"].as_u64().unwrap();
    // A file whose content changed behind its metadata's back shows that it was not read.
    let second = repo.json(["backup", "source"]);
    assert_eq!(second["files_unmodified"].as_u64(), Some(files), "{second}");
    assert_eq!((&second["files_new"], &second["files_changed"]), (&0.into(), &0.into()));
    fs::write(repo.path("source/deep/small-7"), "other content, same place").unwrap();
    fs::write(repo.path("source/added"), "new").unwrap();
    fs::remove_file(repo.path("source/deep/small-9")).unwrap();
    let third = repo.json(["backup", "source"]);
    assert_eq!((&third["files_new"], &third["files_changed"]), (&1.into(), &1.into()), "{third}");
    assert_eq!(third["files_unmodified"].as_u64(), Some(files - 2));
    let forced = repo.json(["backup", "source", "--force"]);
    assert_eq!(forced["files_unmodified"], 0);
    assert_eq!(forced["data_blobs"], 0);
    repo.ok(["restore", "latest", "--target", "out"]);
    similar(&describe(&repo.path("source")), &describe(&repo.path("out/source")));
    let diff = repo.ok(["diff", "latest~3", "latest"]);
    for line in ["M    /source/deep/small-7", "+    /source/added", "-    /source/deep/small-9"] {
        assert!(diff.contains(line), "{diff}");
    }
    let before =
        run("sh", &["-c", &format!("cd {} && find . -type f | xargs sha256sum", repo.folder().display())]);
    fs::write(repo.path("source/more"), noise(99, 100_000)).unwrap();
    let dry = repo.json(["backup", "source", "--dry-run"]);
    assert!(dry["data_added"].as_u64().unwrap() > 100_000 && dry["snapshot_id"].is_null(), "{dry}");
    fs::remove_file(repo.path("source/more")).unwrap();
    let after =
        run("sh", &["-c", &format!("cd {} && find . -type f | xargs sha256sum", repo.folder().display())]);
    assert_eq!(before, after, "a dry run wrote");
    repo.ok(["backup", "source"]);
    let none = repo.ok(["backup", "source", "--skip-if-unchanged"]);
    assert!(none.contains("nothing changed"), "{none}");
}

#[test]
fn restoring_again_repairs_what_differs_and_nothing_else() {
    let repo = Repo::new();
    odd_tree(&repo.path("source"));
    repo.ok(["backup", "source"]);
    repo.ok(["restore", "latest", "--target", "out"]);
    let again = repo.json(["restore", "latest", "--target", "out"]);
    assert_eq!(again["bytes_restored"], 0, "{again}");
    let target = repo.path("out/source");
    let mut data = noise(5, 3_000_000);
    data[2_000_000] ^= 1;
    fs::write(target.join("deep/er/large"), data).unwrap();
    fs::remove_file(target.join("deep/small-5")).unwrap();
    fs::remove_file(target.join("link")).unwrap();
    fs::write(target.join("extra"), "not in the snapshot").unwrap();
    let dry = repo.json(["restore", "latest", "--target", "out", "--delete", "--dry-run"]);
    assert_eq!(dry["files_deleted"], 1, "{dry}");
    assert!(target.join("extra").exists() && !target.join("link").exists());
    repo.ok(["restore", "latest", "--target", "out", "--delete", "--verify"]);
    similar(&describe(&repo.path("source")), &describe(&target));
    fs::write(target.join("one"), "mine").unwrap();
    repo.ok(["restore", "latest", "--target", "out", "--overwrite", "never"]);
    assert_eq!(fs::read(target.join("one")).unwrap(), b"mine");
}

#[test]
fn excludes_and_markers() {
    let repo = Repo::new();
    let root = repo.path("source");
    for name in [
        "keep/a.txt",
        "keep/b.log",
        "keep/sub/c.LOG",
        "cache/CACHEDIR.TAG",
        "cache/x",
        "skip/.nobackup",
        "skip/y",
        "a/b/c",
    ] {
        fs::create_dir_all(root.join(name).parent().unwrap()).unwrap();
        fs::write(root.join(name), "Signature: 8a477f597d28d172789f06886806bc55").unwrap();
    }
    fs::write(repo.path("excludes"), "# comment\n\n*.log\n").unwrap();
    repo.ok([
        "backup",
        "source",
        "--exclude-file",
        "excludes",
        "--iexclude",
        "*.LOG",
        "--exclude-caches",
        "--exclude-if-present",
        ".nobackup",
        "--exclude",
        "a/b",
    ]);
    let list = repo.ok(["ls", "latest"]);
    let expected = "/source\n/source/a\n/source/cache\n/source/keep\n/source/keep/a.txt\n/source/keep/sub\n/source/skip\n";
    assert_eq!(list, expected);
}

#[test]
fn missing_and_unreadable_sources() {
    let repo = Repo::new();
    fs::create_dir(repo.path("there")).unwrap();
    fs::write(repo.path("there/file"), "x").unwrap();
    assert!(repo.fails(1, ["backup", "gone", "gone too"]).contains("gone"));
    assert_eq!(repo.snapshot_count(), 0);
    assert!(repo.fails(3, ["backup", "there", "gone"]).contains("gone"));
    assert_eq!(repo.snapshot_count(), 1);
    if rustix::process::geteuid().is_root() {
        // Root reads everything; a file that fails to be read is made from a folder that is a process's.
        return;
    }
    fs::write(repo.path("there/secret"), "x").unwrap();
    run("chmod", &["000", repo.path("there/secret").to_str().unwrap()]);
    assert!(repo.fails(3, ["backup", "there"]).contains("secret"));
}

#[test]
fn a_file_that_cannot_be_read_to_its_end_is_named_and_left_out() {
    let repo = Repo::new();
    // /proc/self/mem opens and then fails to read at offset 0: an unreadable file even for root.
    let text = repo.fails(3, ["backup", "/proc/self/mem", "/etc/hostname"]);
    assert!(text.contains("/proc/self/mem"), "{text}");
    let list = repo.ok(["ls", "latest"]);
    assert!(list.contains("/etc/hostname") && !list.contains("/mem"), "{list}");
    repo.ok(["check", "--read-data"]);
    repo.ok(["restore", "latest", "--target", "out"]);
    assert!(!repo.path("out/proc/self/mem").exists());
}

#[test]
fn a_file_that_changes_while_it_is_read_is_named() {
    let repo = Repo::new();
    fs::create_dir(repo.path("source")).unwrap();
    let path = repo.path("source/log");
    fs::write(&path, noise(1, 150_000_000)).unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            use std::io::Write as _;
            let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                file.write_all(b"another line\n").unwrap();
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
        });
        let text = repo.fails(3, ["backup", "source"]);
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(text.contains("changed while it was being read"), "{text}");
    });
    assert_eq!(repo.snapshot_count(), 1);
    let back = repo.run(["dump", "latest", "source/log"]).stdout;
    assert!(fs::read(&path).unwrap().starts_with(&back) && back.len() >= 150_000_000);
}

#[test]
fn a_snapshot_does_not_reach_outside_the_target() {
    let repo = Repo::new();
    fs::create_dir_all(repo.path("source/folder")).unwrap();
    fs::write(repo.path("source/folder/file"), "inside").unwrap();
    repo.ok(["backup", "source"]);
    // A symbolic link where the snapshot has a folder: restored as a folder, nothing written through it.
    fs::create_dir_all(repo.path("out/source")).unwrap();
    fs::create_dir(repo.path("outside")).unwrap();
    std::os::unix::fs::symlink(repo.path("outside"), repo.path("out/source/folder")).unwrap();
    repo.ok(["restore", "latest", "--target", "out"]);
    assert_eq!(fs::read_dir(repo.path("outside")).unwrap().count(), 0);
    assert_eq!(fs::read(repo.path("out/source/folder/file")).unwrap(), b"inside");
    // Below a part of the path that is not restored, a link is an error and not followed.
    std::os::unix::fs::symlink(repo.path("outside"), repo.path("linked")).unwrap();
    fs::create_dir_all(repo.path("trap")).unwrap();
    std::os::unix::fs::symlink(repo.path("outside"), repo.path("trap/source")).unwrap();
    repo.fails(1, ["restore", "latest", "--target", "trap", "--include", "file", "--exclude", "nothing"]);
    assert_eq!(fs::read_dir(repo.path("outside")).unwrap().count(), 0);
}

#[test]
fn a_full_disk_ends_the_run_clearly() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let repo = Repo::empty();
    let small = repo.path("small");
    fs::create_dir(&small).unwrap();
    run("mount", &["-t", "tmpfs", "-o", "size=20m", "none", small.to_str().unwrap()]);
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let place = small.join("repo").display().to_string();
        let on_small = |args: &[&str]| repo.run(["-r", &place].iter().chain(args));
        expect(&on_small(&["init"]), 0);
        fs::write(repo.path("big"), noise(1, 30_000_000)).unwrap();
        fs::write(repo.path("little"), "fits").unwrap();
        let output = on_small(&["backup", "big"]);
        expect(&output, 27);
        assert!(
            String::from_utf8_lossy(&output.stderr).contains("space"),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        expect(&on_small(&["prune"]), 0);
        expect(&on_small(&["backup", "little"]), 0);
        expect(&on_small(&["check", "--read-data"]), 0);
        // And the target.
        repo.ok(["init"]);
        repo.ok(["backup", "big"]);
        let target = small.join("out").display().to_string();
        assert!(repo.fails(1, ["restore", "latest", "--target", &target]).contains("space"));
    }));
    run("umount", &["-l", small.to_str().unwrap()]);
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}
